"""Validation during training: when it is due, what it leaves behind, which weights are the best."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsr.config import Options
from vsr.engine import checkpoint
from vsr.engine.evaluate import EvaluationSet, definitions, frame_writer, higher_is_better
from vsr.engine.log import TrainLog
from vsr.engine.prediction_results import PredictionResults, against_baselines
from vsr.engine.results import Best, format_bests, format_table, totals
from vsr.engine.run_folder import RunFolder
from vsr.engine.stopping import StopRequest
from vsr.models.prediction import LOSS, PredictionModel
from vsr.models.restoration import OnFrame, RestorationModel
from vsr.utils import dist
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)


@dataclass
class Validation:
    """Validates when it is due, keeps the best weights, and remembers what was best across a resume."""

    options: Options
    model: RestorationModel
    sets: Sequence[EvaluationSet]
    folder: RunFolder
    progress: TrainLog
    stop: StopRequest
    _unwritten: dict[str, Any] | None = None  # what the disk did not take
    _results: PredictionResults | None = None  # of a model of predictions

    def __post_init__(self) -> None:
        if isinstance(self.model, PredictionModel) and self.model.prediction.results and self.sets:
            best = next(val_set for val_set in self.sets if val_set.name == self._best_set())
            self._results = PredictionResults(self.model, best, self.folder.root)

    def due(self, step: int) -> bool:
        assert self.options.train is not None
        val = self.options.val
        regular = step > 0 and val.val_freq is not None and step % val.val_freq == 0
        return bool(self.sets) and (regular or step in val.val_at or step == self.options.train.total_iter)

    def catch_up(self, start: int) -> None:
        """Validate now if the run was stopped between the state and its validation, or is to do so before step 1."""
        memory = self._memory()
        last = memory.get("step", -1)
        if last > start and dist.is_main():  # the run came back to an earlier state
            self._remember({**memory, "step": start})
        if self.due(start) and last < start:
            self.run(start)

    def run(self, step: int) -> None:
        """Validate on every set; log, show and save. If the run is asked to stop, it is as if nothing had been done."""
        measured: dict[str, dict[str, float]] = {}  # the totals by set
        defined = definitions(self.model, self.sets)
        for val_set in self.sets:
            shown: dict[str, np.ndarray] = {}  # the first frame, for TensorBoard and Visdom
            records = val_set.measure(self.model, self._on_frame(val_set, step, shown), stop=self.stop)
            baseline = val_set.baseline(self.model, stop=self.stop)
            memory_mean = None
            if isinstance(self.model, PredictionModel):
                memory_mean = val_set.mean_of_memory(self.model, stop=self.stop)
            if self.stop.asked():
                return
            means = measured[val_set.name] = totals(records, list(self.model.metrics))
            table = format_table(val_set.name, records, defined, baseline, val_set.beside)
            log.info("step %d\n%s", step, table)
            baselines = {}
            if memory_mean:
                baselines = against_baselines(val_set.name, means, baseline, memory_mean, self.options.network_g)
            self.progress.write({"step": step, "val": val_set.name, **means, **baselines})
            for name, value in {**means, **baselines}.items():
                self.progress.scalar(f"val/{val_set.name}/{name}", value, step)
            if dist.is_main():
                for key, restored in shown.items():
                    self._show(val_set, key, restored, step)
        memory = self._memory()
        if dist.is_main():
            self._keep_best(memory, measured, step)
            self._remember({**memory, "step": step})
            if self._results and self._least_loss(memory).get("step") == step:
                self._write_results("best_loss", step, memory)
        dist.barrier()

    def _keep_best(self, memory: dict[str, Any], measured: Mapping[str, Mapping[str, float]], step: int) -> None:
        """Note in ``memory`` what is better than before, keep the best weights, and tell how things stand."""
        picks = (self._best_set(), self.options.val.best.metric or next(iter(self.model.metrics), None))
        bests, table = memory.setdefault("bests", {}), []
        for set_name, means in measured.items():
            for metric, value in means.items():
                known, better = bests.setdefault(set_name, {}), higher_is_better(self.options, self.model, metric)
                if _beats(value, known.get(metric), higher=better):
                    known[metric] = {"step": step, "value": value}
                best = known.get(metric, {"value": None, "step": None})
                table.append(
                    Best(set_name, metric, value, best["value"], best["step"], picks=(set_name, metric) == picks)
                )
        chosen = measured.get(picks[0], {}).get(str(picks[1]))
        if chosen is None:
            if picks[1] is not None:
                log.warning("no best checkpoint: %s has no value on %s", *picks[::-1])
        else:
            before = memory.get("best")
            if before and (before["metric"], before.get("set", picks[0])) != picks[::-1]:
                before = None  # it was the best of something else
            if _beats(chosen, before, higher=higher_is_better(self.options, self.model, str(picks[1]))):
                try:
                    checkpoint.save_weights(self.folder, self.model, checkpoint.BEST_WEIGHTS)
                    memory["best"] = {"step": step, "set": picks[0], "metric": picks[1], "value": chosen}
                except OSError as error:  # the states decide whether a run ends that cannot write
                    log.warning("step %d: the best weights were not saved; the earlier ones stay. %s", step, error)
        if table:
            log.info("step %d\n%s", step, format_bests(table))

    def with_state(self, step: int) -> None:
        """Leave the results that go with a training state, where the model is one of predictions."""
        if self._results:
            memory = self._memory()
            if dist.is_main():
                self._write_results("last", step, memory)

    def _write_results(self, name: str, step: int, memory: Mapping[str, Any]) -> None:
        assert self._results is not None
        best = self._least_loss(memory).get("value")
        self.progress.guarded("Results", self._show_results, self._results, name, step, best, again=True)

    def _show_results(self, results: PredictionResults, name: str, step: int, best: float | None) -> None:
        for title, picture in results.write(name, step, best).items():
            self.progress.image(f"weights/{name}/{title}", picture, step)

    def _least_loss(self, memory: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return {step, value} of the least loss of predictions on the set that picks the best weights; or nothing."""
        found: Mapping[str, Any] = memory.get("bests", {}).get(self._best_set(), {}).get(LOSS, {})
        return found

    def _best_set(self) -> str:
        """Return the name of the set that picks the best weights."""
        key = self.options.val.best.set
        return next(val_set.name for val_set in self.sets if key in (None, val_set.key))

    def _on_frame(self, val_set: EvaluationSet, step: int, shown: dict[str, np.ndarray]) -> OnFrame:
        """Return what is done with every restored frame: keep rank 0's first one, save all if asked to."""
        root = self.folder.visualization / val_set.name / str(step)
        save = frame_writer(root, self.options.val.suffix) if self.options.val.save_img else None
        wanted = self.options.logger.use_tb_logger or self.options.logger.visdom

        def on_frame(key: str, restored: np.ndarray) -> None:
            if wanted and dist.is_main() and not shown:
                shown[key] = restored
            if save:
                self.progress.guarded("a picture of validation", save, key, restored, again=True)

        return on_frame

    def _show(self, val_set: EvaluationSet, key: str, restored: np.ndarray, step: int) -> None:
        """Show a frame in TensorBoard and Visdom: input upsampled, restored, ground truth, side by side."""
        images = val_set.pictures(self.model, key, restored)
        strip = np.concatenate([image for image in images if image is not None], axis=1)
        self.progress.image(f"val/{val_set.name}/{key} (input, restored, ground truth)", strip, step)

    def _memory_file(self) -> Path:
        return self.folder.root / "validation.json"

    def _remember(self, memory: dict[str, Any]) -> None:
        self._unwritten = None
        try:
            with atomic_write(self._memory_file(), "w") as file:
                json.dump(memory, file)
        except OSError as error:
            self._unwritten = memory
            log.warning("what this validation has found is not there after a restart, which will repeat it: %s", error)

    def _memory(self) -> dict[str, Any]:
        """What earlier validations of this run left: the last step, and the best one; rank 0's on every process."""
        memory: dict[str, Any] = {}
        if self._unwritten is not None:
            memory = self._unwritten
        elif dist.is_main() and self._memory_file().is_file():
            try:
                memory = json.loads(self._memory_file().read_text(encoding="utf-8"))
                kinds = {"step": int, "best": dict, "bests": dict}
                if not isinstance(memory, dict) or any(not isinstance(memory.get(k, t()), t) for k, t in kinds.items()):
                    memory = {}
                    raise ValueError("expected what validations leave, got something else")
            except (ValueError, OSError) as error:
                log.warning("%s: not readable, starting with no best checkpoint: %s", self._memory_file(), error)
        return dict(dist.broadcast_json(memory))


def _beats(value: float, best: Mapping[str, Any] | None, *, higher: bool) -> bool:
    """Whether ``value`` is better than the best one so far; what is no number never is."""
    if math.isnan(value):
        return False
    return best is None or (value > best["value"] if higher else value < best["value"])
