"""Training states: written whole or not at all, and read only when every byte is right."""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

import torch

from vsr.config import Options, dump_options, hash_options
from vsr.engine.run_folder import RunFolder
from vsr.models.restoration import RestorationModel
from vsr.utils import dist
from vsr.utils.files import atomic_write, sha256

log = logging.getLogger(__name__)
BEST_WEIGHTS = "net_g_best.pth"  # by the metric that val.best names
MISSES = 2  # saves in a row that fail before on_save_error: stop ends the run: one may be a hiccup of the network


def save(folder: RunFolder, model: RestorationModel, options: Options, *, step: int, draw: int) -> None:
    """Write ``training_states/<step>.state``, ``models/net_g_<step>.pth`` and, if there is one, net_d; on rank 0 alone.

    The state holds everything that an exact continuation needs. Its ``.json`` (size, SHA-256,
    hash of the options) is written last of all: a state without it is no state, and whoever continues
    from one finds the weights there, too.

    Args:
        folder: Of the run.
        model: What to save.
        options: The run's, kept inside the state.
        step: Steps done.
        draw: Number of the next sample in the run's stream.

    Raises:
        OSError: the disk did not take it; what was saved before is untouched, and of this step nothing is left.
    """
    content = {"step": step, "draw": draw, "options": dump_options(options), "model": model.state_dict()}
    content["course"] = course(model.options)
    path = folder.states / f"{step}.state"
    try:
        save_weights(folder, model, f"net_g_{step}.pth")
        if model.adversary is not None:
            _write(folder.models / f"net_d_{step}.pth", {"params": model.adversary.weights()})
        _write(path, content)
        about = {"step": step, "size": path.stat().st_size, "sha256": sha256(path), "options": hash_options(options)}
        with atomic_write(path.with_suffix(".json"), "w") as file:
            json.dump(about, file)
    except OSError:
        if not path.with_suffix(".json").exists():  # what has come so far would only fill the disk further
            _remove(folder, step)
        raise
    _prune(folder, options.logger.keep_last)


class Saver:
    """Saves a run, and decides what it means for the run if the disk does not take it (logger.on_save_error).

    All processes construct it and call ``save``; rank 0 writes, and all learn how it went.

    Args:
        folder: Of the run.
        model: What is saved.
        options: The run's, kept inside the states.
    """

    def __init__(self, folder: RunFolder, model: RestorationModel, options: Options) -> None:
        self.folder, self.model, self.options = folder, model, options
        self.saved = 0  # the step of the last state that was written
        self._in_a_row = self._failed = 0

    def save(self, step: int, draw: int, *, last: bool) -> None:
        """Write the state of ``step``, whose next sample is ``draw``.

        Args:
            last: The run ends here, so there is no other chance.

        Raises:
            OSError: on all processes: the disk did not take it, and the run is to end.
        """
        fault = None
        if dist.is_main():
            try:
                save(self.folder, self.model, self.options, step=step, draw=draw)
            except OSError as error:
                fault = error.strerror or str(error)
        fault = dist.broadcast_json(fault)
        if fault is None:
            self.saved, self._in_a_row = step, 0
            if last and self._failed:
                log.warning("%d saves of this run failed; this one did not", self._failed)
            return
        self._in_a_row, self._failed = self._in_a_row + 1, self._failed + 1
        policy, every = self.options.logger.on_save_error, self.options.logger.save_checkpoint_freq
        if last or (policy == "stop" and self._in_a_row >= MISSES):
            raise OSError(
                f"step {step}: the state could not be saved, {self._in_a_row} times in a row (logger.on_save_error: "
                f"{policy}). {fault}."
            )
        log.warning(
            "step %d: the state could not be saved (miss %d in a row, %d in all); the run goes on, and tries again at "
            "step %d. %s.", step, self._in_a_row, self._failed, step - step % every + every, fault,
        )  # fmt: skip


def course(options: Options) -> dict[str, Any]:
    """Return what the learning rates of a run follow from, and how many samples a step takes.

    Args:
        options: With the numbers of steps that count for this run (``scale_iterations``).
    """
    train = options.train
    assert train is not None
    return {
        "lr_g": train.optim_g.args["lr"],
        "lr_d": train.optim_d.args.get("lr") if train.optim_d else None,
        "scheduler": train.scheduler.as_option() if train.scheduler else None,
        "warmup_iter": train.warmup_iter,
        "lr_mul": dict(train.lr_mul),
        "samples": options.datasets["train"].batch_size_per_gpu * train.accumulate * dist.world_size(),
    }


def save_weights(folder: RunFolder, model: RestorationModel, name: str) -> None:
    """Write ``models/<name>``: ``params`` and ``params_ema``, which BasicSR and others read, too."""
    _write(folder.models / name, model.weights())


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path, size=_bytes(content)) as file:
        torch.save(content, file)


def _bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(_bytes, content.values()))
    return sum(map(_bytes, content)) if isinstance(content, list | tuple) else 0


def _by_step(states: Path) -> dict[int, Path]:
    """Return the state files below ``states``, whole or broken, by their steps."""
    return {int(path.stem): path for path in states.glob("*.state") if path.stem.isdecimal()}


def _prune(folder: RunFolder, keep: int) -> None:
    for step in sorted(_by_step(folder.states), reverse=True)[keep:]:
        _remove(folder, step)


def _remove(folder: RunFolder, step: int) -> None:
    """Remove the state of a step and its weights, or what there is of them."""
    # The .json goes first: a state whose files are half gone must not look whole. The .state goes last: by it a removal
    # that was cut short is found, and made up for.
    for path in (
        folder.states / f"{step}.json",
        folder.models / f"net_g_{step}.pth",
        folder.models / f"net_d_{step}.pth",
        folder.states / f"{step}.state",
    ):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: could not be removed: %s", path, error)


def set_aside(folder: RunFolder, step: int) -> None:
    """Move the states of later steps than ``step``, and their weights, into a folder beside them; call on rank 0 alone.

    A run that continues from an earlier state leaves them behind, broken or not. Where they lay, they
    would be taken for its own newest ones: kept in place of what it writes, continued from, and tested.
    """
    states = folder.states
    later = [path for saved, path in _by_step(states).items() if saved > step]
    if not later:
        return
    target = states / f"abandoned_{datetime.datetime.now():%Y%m%d_%H%M%S}"
    target.mkdir(exist_ok=True)
    for path in later:
        weights = [folder.models / f"net_{network}_{path.stem}.pth" for network in "gd"]
        for file in (path.with_suffix(".json"), *weights, path):
            if file.exists():
                file.rename(target / file.name)
    log.warning("%d states of later steps than %d were moved to %s", len(later), step, target)


def note_roll_backs(path: Path, roll_backs: list[dict[str, Any]]) -> None:
    """Let a state that a run goes back to continue with lower rates; call on rank 0 alone.

    Args:
        path: Of a whole state, which stays as it is: it is noted in the file beside it, at one stroke.
        roll_backs: All of the run, as ``RestorationModel.roll_backs``.
    """
    beside = path.with_suffix(".json")
    about = json.loads(beside.read_text(encoding="utf-8"))
    with atomic_write(beside, "w") as file:
        json.dump({**about, "roll_backs": roll_backs}, file)


def newest_valid(states: Path, *, before: int | None = None) -> Path | None:
    """Return the newest whole state below ``states``, of a step ``before`` one; broken ones are skipped and named."""
    found = {step: path for step, path in _by_step(states).items() if before is None or step < before}
    for step in sorted(found, reverse=True):
        fault = _fault(found[step])
        if fault is None:
            return found[step]
        log.warning("%s: skipped: %s", found[step], fault)
    if found:
        log.warning("%s: no whole state is left; what is broken is not deleted", states)
    return None


def _fault(path: Path) -> str | None:
    """Say what is wrong with a state file; None: nothing."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size, digest = int(about["size"]), str(about["sha256"])
    except FileNotFoundError:
        return f"it has no {path.stem}.json beside it, so it was not written to its end"
    except OSError as error:
        return f"{path.stem}.json cannot be read ({error})"
    except (ValueError, KeyError, TypeError) as error:
        return f"{path.stem}.json is damaged ({error})"
    try:
        if path.stat().st_size != size:
            return f"expected {size} bytes, found {path.stat().st_size}"
        if sha256(path) != digest:
            return "its content has changed since it was written (SHA-256 differs)"
    except OSError as error:  # a disk that is about to fail
        return f"it cannot be read ({error})"
    return None


def load(path: Path) -> dict[str, Any]:
    """Read a training state.

    Raises:
        FileNotFoundError, ValueError: it is absent, not whole, or no training state.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a training state (path.resume_state), found no such file.")
    fault = _fault(path)
    if fault:
        raise ValueError(
            f"{path}: expected a whole training state, but {fault}. Name another one, or none for the newest valid."
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of many kinds; its words advise to run what the file holds
        raise ValueError(
            f"{path}: expected a training state of tensors and plain values only, got other things, which were not "
            "run. Do not trust this file."
        ) from error
    if not isinstance(state, dict) or not {"step", "draw", "model"} <= state.keys():
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path}: expected a training state of vsr, got {found[:100]}.")
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if "roll_backs" in about:  # the run came back to it
        state["model"]["roll_backs"] = about["roll_backs"]
    return state
