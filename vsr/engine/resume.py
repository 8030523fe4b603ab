"""Where a run goes on: the state that it continues from, and what has changed since that was written."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vsr.config import Options, dump_options
from vsr.engine import checkpoint
from vsr.engine.run_folder import RunFolder
from vsr.engine.stages import starting_weights
from vsr.models.restoration import RestorationModel
from vsr.optim import build_schedule
from vsr.utils import dist

log = logging.getLogger(__name__)


def resume(model: RestorationModel, options: Options, folder: RunFolder, *, force: bool = False) -> tuple[int, int]:
    """Continue from path.resume_state or the run's newest valid state; return the steps and samples done.

    A state that the options name is taken once. When the same command is started again, the run has
    states of its own that continue it, and goes on from the newest.

    Args:
        model: What is to continue.
        options: Of the run, as the file has them.
        folder: Of the run.
        force: Go on with other learning rates than the state's.

    Raises:
        ValueError: the rates of the steps to come are others than when the state was written.
    """
    path = None
    if dist.is_main():  # rank 0 chooses: the others might see another file on a shared disk
        path = options.path.resume_state
        if path is None or folder.has_taken(path):
            newest = checkpoint.newest_valid(folder.states)
            path = str(newest) if newest else path
    path = dist.broadcast_json(path)
    if path is None:
        if options.prediction and options.prediction.load:
            raise FileNotFoundError(
                f"prediction.load: expected a state to go on from in {folder.states}, found none. Set it to false, or "
                "name one in path.resume_state."
            )
        weights = starting_weights(options)
        if weights:
            model.load_pretrained(weights)
        if model.adversary:
            model.adversary.load_pretrained()
        return 0, 0
    state = checkpoint.load(Path(path))
    step = int(state["step"])
    if "course" in state:  # it is not in the states of earlier versions
        _compare(state["course"], checkpoint.course(model.options), step, model.options, path, force=force)
    model.load_state_dict(state["model"], path)
    before, now = str(state.get("options", "")).splitlines(), dump_options(options).splitlines()
    for line in difflib.unified_diff(before, now, n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            log.warning("the options differ from the state's: %s %s", line[0], line[1:].strip())
    log.info("continuing after step %d: %s", step, path)
    return step, int(state["draw"])


def _compare(
    before: Mapping[str, Any], now: Mapping[str, Any], step: int, options: Options, path: str, *, force: bool
) -> None:
    """Refuse other learning rates, and tell of another number of samples a step."""
    assert options.train is not None
    changed = changed_rates(before, now, range(step + 1, options.train.total_iter + 1))
    if changed and not force:
        raise ValueError(
            f"{path}: expected the learning rates that the run has begun with, but {changed}. Take back what was "
            "changed (optim_g.lr, optim_d.lr, scheduler, warmup_iter or lr_mul of train; with scale_iterations the "
            "number of processes, batch_size_per_gpu or accumulate), or go on with the new rates by --force."
        )
    if changed:
        log.warning("--force: %s", changed)
    if before["samples"] != now["samples"]:
        log.warning(
            "a step takes %d samples now, and took %d before: the samples go on where they were, none is repeated or "
            "left out, but the run no longer equals one that was not interrupted", now["samples"], before["samples"],
        )  # fmt: skip


def changed_rates(before: Mapping[str, Any], now: Mapping[str, Any], steps: Iterable[int]) -> str | None:
    """Say which is the first of ``steps`` whose learning rate was another one, what it was and is; None: no one's.

    Args:
        before, now: As ``checkpoint.course`` returns them.
        steps: Those to come.
    """
    if before == now:
        return None
    for name, key in (("network_g", "lr_g"), ("network_d", "lr_d")):
        if before[key] is None or now[key] is None:
            continue
        try:
            was = build_schedule(before["scheduler"], before[key], before["warmup_iter"])
        except ValueError as error:  # made by a class of the user's that is gone
            return f"the schedule that it had cannot be built any more ({error})"
        is_ = build_schedule(now["scheduler"], now[key], now["warmup_iter"])
        for step in steps:
            if was(step) != is_(step):
                return f"the rate of {name} in step {step} was {was(step):.6g} and is {is_(step):.6g} now"
    if _factors(before) != _factors(now):
        return f"train.lr_mul was {before['lr_mul']} and is {now['lr_mul']} now"
    return None


def _factors(course: Mapping[str, Any]) -> Mapping[str, float]:
    """The factors of train.lr_mul; those that are all 1 only name groups."""
    factors: Mapping[str, float] = course["lr_mul"]
    return factors if any(factor != 1 for factor in factors.values()) else {}
