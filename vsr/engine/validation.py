"""Validation during training: when it is due, what it leaves behind, which weights are the best."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsr.config import Options
from vsr.engine import checkpoint
from vsr.engine.evaluate import EvaluationSet, definitions, frame_writer, higher_is_better
from vsr.engine.log import TrainLog
from vsr.engine.results import format_table, totals
from vsr.engine.run_folder import RunFolder
from vsr.engine.stopping import StopRequest
from vsr.models.restoration import OnFrame, RestorationModel
from vsr.utils import dist
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)


@dataclass
class Validation:
    """Validates when it is due, keeps the best weights, and remembers both across a resume."""

    options: Options
    model: RestorationModel
    sets: Sequence[EvaluationSet]
    folder: RunFolder
    progress: TrainLog
    stop: StopRequest

    def due(self, step: int) -> bool:
        assert self.options.train is not None
        every = self.options.val.val_freq
        return bool(self.sets) and (step == self.options.train.total_iter or (every is not None and step % every == 0))

    def catch_up(self, start: int) -> None:
        """Validate now if the run was stopped between the state and its validation."""
        if start and self.due(start) and self._memory().get("step", 0) < start:
            self.run(start)

    def run(self, step: int) -> None:
        """Validate on every set; log, show and save. If the run is asked to stop, it is as if nothing had been done."""
        memory, first = self._memory(), next(iter(self.model.metrics), None)
        for i, val_set in enumerate(self.sets):
            shown: dict[str, np.ndarray] = {}  # the first frame, for TensorBoard
            records = val_set.measure(self.model, self._on_frame(val_set, step, shown), stop=self.stop)
            baseline = val_set.baseline(self.model, stop=self.stop)
            if self.stop.asked():
                return
            means = totals(records, list(self.model.metrics))
            log.info("step %d\n%s", step, format_table(val_set.name, records, definitions(self.model), baseline))
            self.progress.write({"step": step, "val": val_set.name, **means})
            for name, value in means.items():
                self.progress.scalar(f"val/{val_set.name}/{name}", value, step)
            if not dist.is_main():
                continue
            for key, restored in shown.items():
                self._show(val_set, key, restored, step)
            if i == 0 and first is not None and first in means:
                self._keep_best(memory, step, first, means[first])
        if dist.is_main():
            with atomic_write(self._memory_file(), "w") as file:
                json.dump({**memory, "step": step}, file)
        dist.barrier()

    def _keep_best(self, memory: dict[str, Any], step: int, name: str, value: float) -> None:
        best = memory.get("best")
        if math.isnan(value):
            return
        sign = 1 if higher_is_better(self.options, self.model, name) else -1
        if best is None or best["metric"] != name or sign * value > sign * best["value"]:
            checkpoint.save_weights(self.folder, self.model, checkpoint.BEST_WEIGHTS)
            memory["best"] = {"step": step, "metric": name, "value": value}
        else:
            log.info("best so far: %s %.4f at step %d", name, best["value"], best["step"])

    def _on_frame(self, val_set: EvaluationSet, step: int, shown: dict[str, np.ndarray]) -> OnFrame:
        """Return what is done with every restored frame: keep rank 0's first one, save all if asked to."""
        root = self.folder.visualization / val_set.name / str(step)
        save = frame_writer(root, self.options.val.suffix) if self.options.val.save_img else None

        def on_frame(key: str, restored: np.ndarray) -> None:
            if self.options.logger.use_tb_logger and dist.is_main() and not shown:
                shown[key] = restored
            if save:
                save(key, restored)

        return on_frame

    def _show(self, val_set: EvaluationSet, key: str, restored: np.ndarray, step: int) -> None:
        """Put a frame into TensorBoard: input upsampled, restored, ground truth, side by side."""
        images = val_set.pictures(self.model, key, restored)
        strip = np.concatenate([image for image in images if image is not None], axis=1)
        self.progress.image(f"val/{val_set.name}/{key} (input, restored, ground truth)", strip, step)

    def _memory_file(self) -> Path:
        return self.folder.root / "validation.json"

    def _memory(self) -> dict[str, Any]:
        """What earlier validations of this run left: the last step, and the best one; rank 0's on every process."""
        memory: dict[str, Any] = {}
        if dist.is_main() and self._memory_file().is_file():
            try:
                memory = json.loads(self._memory_file().read_text(encoding="utf-8"))
            except ValueError as error:
                log.warning("%s: not readable, starting with no best checkpoint: %s", self._memory_file(), error)
        return dict(dist.broadcast_json(memory))
