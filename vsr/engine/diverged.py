"""Steps that changed nothing because something in them was no number: which, why, and what the run does about it."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsr.engine import checkpoint
from vsr.engine.offsets import judge_offsets
from vsr.engine.run_folder import RunFolder
from vsr.models.examine import describe, examine
from vsr.models.restoration import Batch, RestorationModel
from vsr.optim import check_parts
from vsr.utils import dist
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)

FOLDER = "bad_steps"  # in the run folder
MOST_FILES = 20  # that a run writes of steps after which it goes on


class FaultWatch:
    """Keeps what is known of the steps since it last looked, and looks when the host has waited for the device anyway.

    All processes construct it and call it alike. When it looks, the bad step is long over. What is still known of it
    is which samples it took and the values of its terms. Where its numbers broke is found by repeating its forward and
    backward pass (``examine``), of the last bad step since the last look. If that is the last step of all, as in a
    run that has diverged, its batches are at hand and the weights are those that it had, since it changed nothing: the
    repetition is exact. If good steps came after it, its samples are read once more (the data set gives the same
    again), and go through the weights of now: broken samples show all the same, layers mostly. Steps that are
    good pay for none of this.

    Args:
        model: In training.
        folder: Of the run; what is found goes into ``bad_steps/step_<n>.json``.
        read_again: Returns this process's batches of an earlier step since this run was started.

    Raises:
        ValueError: train.on_divergence.parts names what no parameter's name has.
    """

    def __init__(self, model: RestorationModel, folder: RunFolder, read_again: Callable[[int], list[Batch]]) -> None:
        assert model.options.train is not None
        self.model, self.folder, self.read_again, self.options = model, folder, read_again, model.options.train
        self._noted: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._told_of_row = False  # that the steps before were bad, too
        watch = model.offsets
        self._drops = bool(watch.options and watch.options.action == "skip" and watch.names)  # finite steps, too
        names = [name for name, _ in model.network_g.named_parameters()]
        self._parts = check_parts(self.options.on_divergence.parts, names, "train.on_divergence.parts")

    def needs_state(self, start: int) -> bool:
        """Whether the run may go back, and has no state of where it begins now to go back to."""
        watch = self.options.offset_watch if self.model.offsets.names else None
        if "roll_back" not in (self.options.on_divergence.action, watch and watch.action):
            return False
        return dist.any_process(dist.is_main() and not (self.folder.states / f"{start}.json").exists())

    def note(self, step: int, keys: list[str], terms: dict[str, Tensor]) -> None:
        """Keep the keys and the terms of a step that is over; nothing waits for the device."""
        self._noted.append((step, keys, {**terms, "skipped": self.model.skipped}))

    def overdue(self) -> bool:
        """Whether too many steps in a row are bad already, though the log has nothing to tell yet; it waits."""
        return int(self.model.bad_steps_in_a_row) > self.options.max_bad_steps

    def judge(self, step: int, batches: list[Batch]) -> bool:
        """Tell of bad steps since the last call and of offsets that reach too far; stop the run or set it back.

        Args:
            step: Steps done.
            batches: Of this process in that step.

        Returns:
            Whether the run has been set back to an earlier state, and is to be entered anew.

        Raises:
            RuntimeError: it stops, as the options say.
        """
        noted, self._noted = self._noted, []
        skipped = torch.stack([terms["skipped"] for _, _, terms in noted]).tolist()  # the same on all processes
        bad = [entry for entry, flag in zip(noted, skipped, strict=True) if flag]
        first = judge_offsets(self.model, self.folder.states, step)
        if first:
            return self._set_back(step, first, "offsets above train.offset_watch.limit")
        in_a_row = int(self.model.bad_steps_in_a_row)
        stops = in_a_row > self.options.max_bad_steps
        why = self._tell(step, bad, batches, stops=stops) if bad else ""
        self._told_of_row = in_a_row > 0
        if not stops:
            return False
        limit = f"(train.max_bad_steps: {self.options.max_bad_steps})"
        fault = f"{in_a_row} steps in a row had {self._fault()} {limit}{why}"
        return self._end(step, step - in_a_row + 1, fault)

    def check_weights(self, step: int) -> bool:
        """As ``judge``, of weights that are about to be saved: such that are no numbers are worth no state."""
        if not dist.any_process(not self.model.finite()):
            return False
        return self._end(step, step, "weights, or their average, are not finite")

    def _end(self, step: int, first: int, fault: str) -> bool:
        if self.options.on_divergence.action == "roll_back":
            return self._set_back(step, first, fault)
        raise RuntimeError(
            f"step {step}: {fault}. Continue from an earlier state (path.resume_state) with a lower "
            "train.optim_g.lr (--force), or let train.on_divergence: {action: roll_back} do so."
        )

    def _fault(self) -> str:
        more = ", or offsets above train.offset_watch.limit" if self._drops else ""
        return f"a gradient that is not finite{more}"

    # ---------------------------------------------------------------- what it was

    def _tell(self, step: int, bad: list[Any], batches: list[Batch], *, stops: bool) -> str:
        """Warn of bad steps; look into the last one, and write what is found, if that is news. Return it in words."""
        steps = [number for number, _, _ in bad]
        log.warning("%s had %s: nothing was changed", _steps(steps), self._fault())
        broken = not self._drops or any(not math.isfinite(float(terms["grad_norm"])) for _, _, terms in bad)
        files = len(list((self.folder.root / FOLDER).glob("*.json"))) if dist.is_main() else 0
        news = broken and not self._told_of_row and files < MOST_FILES
        if not (stops or dist.any_process(dist.is_main() and news)):
            return ""
        last = steps[-1]
        try:
            found = examine(self.model, batches if last == step else self.read_again(last), last)
        except (OSError, ValueError, RuntimeError) as error:  # a report is not worth a run
            log.warning("step %d could not be looked into: %s", last, error)
            found = {"first_bad": None, "error": str(error)}
        values = [{"step": n, "keys": keys, "terms": _plain_numbers(terms)} for n, keys, terms in bad]
        ranks = dist.gather_json({"rank": dist.rank(), **found, "steps": values})
        culprit = next((rank for rank in ranks if rank["first_bad"]), None)
        scale = self.model.gradients.scale
        if not stops and scale is not None and float(scale) > 1 and _only_backward(ranks):
            return ""  # float16 finds its loss scale so
        path = self.folder.root / FOLDER / f"step_{last}.json"
        factors = [group["lr_mul"] for group in self.model.optimizer.param_groups]
        content = {
            "step": last,
            "bad_steps": steps,
            "bad_steps_in_a_row": int(self.model.bad_steps_in_a_row),
            "noticed_after_step": step,
            "exact": last == step,
            "lr": {str(factor): self.model.rate(last) * factor for factor in factors},  # by train.lr_mul
            "loss_scale": None if scale is None else float(scale),
            "ranks": ranks,
        }
        if dist.is_main():
            try:
                path.parent.mkdir(exist_ok=True)
                with atomic_write(path, "w") as file:
                    json.dump(content, file, indent=1, allow_nan=False)
            except OSError as error:
                log.warning("%s: could not be written: %s", path, error)
        where = f"process {culprit['rank']}: " if culprit and len(ranks) > 1 else ""
        text = f"step {last}: {where}{describe(culprit['first_bad'] if culprit else None)}; see {path}"
        log.warning("%s", text)
        return f"; {text}"

    # ---------------------------------------------------------------- going back

    def _set_back(self, step: int, first: int, fault: str) -> bool:
        """Make the newest state from before step ``first`` the run's newest, with lower rates from there on."""
        options, before = self.options.on_divergence, self.model.roll_backs
        if len(before) >= options.max_roll_backs:
            times = f"{len(before)} times before (train.on_divergence.max_roll_backs: {options.max_roll_backs})"
            raise RuntimeError(f"step {step}: {fault}; the run has been set back {times}. Lower train.optim_g.lr.")
        target = dist.broadcast_json(self._target(first) if dist.is_main() else None)
        if target is None:
            raise RuntimeError(f"step {step}: {fault}; there is no state from before step {first} to go back to.")
        to = int(Path(target).stem)
        if dist.is_main():
            entry = {"at": step, "to": to, "lr_mul": options.lr_mul, "parts": self._parts}
            checkpoint.note_roll_backs(Path(target), [*before, entry])
            checkpoint.set_aside(self.folder, to)
        dist.barrier()
        what = f"of {', '.join(self._parts)}" if self._parts else "of everything"
        log.warning(
            "step %d: %s. Going back to step %d (%d of at most %d times); from there the rate %s is multiplied by %g",
            step, fault, to, len(before) + 1, options.max_roll_backs, what, options.lr_mul,
        )  # fmt: skip
        return True

    def _target(self, first: int) -> str | None:
        """Return the newest state from before a step; but not twice in a row the same, where there is an older one."""
        states, before = self.folder.states, self.model.roll_backs
        path = checkpoint.newest_valid(states, before=first)
        if path is not None and before and int(path.stem) == before[-1]["to"]:
            path = checkpoint.newest_valid(states, before=before[-1]["to"]) or path
        return None if path is None else str(path)


def _only_backward(ranks: list[dict[str, Any]]) -> bool:
    return all(rank["first_bad"] is None or rank["first_bad"]["pass"] == "backward" for rank in ranks)


def _steps(steps: list[int]) -> str:
    if len(steps) > 1 and steps[-1] - steps[0] == len(steps) - 1:
        return f"steps {steps[0]} to {steps[-1]}"
    shown = ", ".join(map(str, steps[:20])) + (f" and {len(steps) - 20} more" if len(steps) > 20 else "")
    return f"step{'s' if len(steps) > 1 else ''} {shown}"


def _plain_numbers(terms: dict[str, Tensor]) -> dict[str, float | str]:
    """Return values that JSON has: 'nan', 'inf' and '-inf' as text."""
    numbers = {name: float(value) for name, value in terms.items() if name != "skipped"}
    return {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
