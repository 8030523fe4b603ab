"""Training states: written whole or not at all, and read only when every byte is right."""

import datetime
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from vsr.config import Options, dump_options, hash_options
from vsr.engine.run_folder import RunFolder
from vsr.models.restoration import RestorationModel
from vsr.utils.files import atomic_write, sha256

log = logging.getLogger(__name__)
BEST_WEIGHTS = "net_g_best.pth"  # by the first metric on the first validation set


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
        OSError: the disk is full; what was saved before is untouched.
    """
    content = {"step": step, "draw": draw, "options": dump_options(options), "model": model.state_dict()}
    path = folder.states / f"{step}.state"
    save_weights(folder, model, f"net_g_{step}.pth")
    if model.adversary is not None:
        _write(folder.models / f"net_d_{step}.pth", {"params": model.adversary.weights()})
    _write(path, content)
    about = {"step": step, "size": path.stat().st_size, "sha256": sha256(path), "options": hash_options(options)}
    with atomic_write(path.with_suffix(".json"), "w") as file:
        json.dump(about, file)
    _prune(folder, options.logger.keep_last)


def save_weights(folder: RunFolder, model: RestorationModel, name: str) -> None:
    """Write ``models/<name>``: ``params`` and ``params_ema``, which BasicSR and others read, too."""
    _write(folder.models / name, model.weights())


def _write(path: Path, content: dict[str, Any]) -> None:
    size = _bytes(content)
    free = shutil.disk_usage(path.parent).free
    if size > free:  # before the first byte: a disk that is full for us is full for everything else
        raise OSError(
            f"{path}: expected {size / 1e6:.1f} MB of free space, found {free / 1e6:.1f} MB at {path.parent}. "
            "The files written before are untouched. Free some space and start the same command again."
        )
    with atomic_write(path) as file:
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
        # The .json goes first: a state whose files are half gone must not look whole.
        for path in (
            folder.states / f"{step}.json",
            folder.states / f"{step}.state",
            folder.models / f"net_g_{step}.pth",
            folder.models / f"net_d_{step}.pth",
        ):
            path.unlink(missing_ok=True)


def set_aside(states: Path, step: int) -> None:
    """Move the states of later steps than ``step`` into a folder beside them; call on rank 0 alone.

    A run that continues from an earlier state leaves them behind, broken or not. Where they lay, they
    would be taken for its own newest ones: kept in place of what it writes, and continued from.
    """
    later = [path for saved, path in _by_step(states).items() if saved > step]
    if not later:
        return
    target = states / f"abandoned_{datetime.datetime.now():%Y%m%d_%H%M%S}"
    target.mkdir(exist_ok=True)
    for path in later:
        for file in (path.with_suffix(".json"), path):
            if file.exists():
                file.rename(target / file.name)
    log.warning("%d states of later steps than %d were moved to %s", len(later), step, target)


def newest_valid(states: Path, *, before: int | None = None) -> Path | None:
    """Return the newest whole state below ``states``, of a step ``before`` one; broken ones are skipped and named."""
    found = {step: path for step, path in _by_step(states).items() if before is None or step < before}
    for step in sorted(found, reverse=True):
        fault = _fault(found[step])
        if fault is None:
            return found[step]
        log.warning("%s: skipped: %s", found[step], fault)
    return None


def _fault(path: Path) -> str | None:
    """Say what is wrong with a state file; None: nothing."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size, digest = int(about["size"]), str(about["sha256"])
    except FileNotFoundError:
        return f"it has no {path.stem}.json beside it, so it was not written to its end"
    except (ValueError, KeyError, TypeError) as error:
        return f"{path.stem}.json is damaged ({error})"
    if path.stat().st_size != size:
        return f"expected {size} bytes, found {path.stat().st_size}"
    if sha256(path) != digest:
        return "its content has changed since it was written (SHA-256 differs)"
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
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not {"step", "draw", "model"} <= state.keys():
        raise ValueError(f"{path}: expected a training state of vsr, got the entries {', '.join(state)}.")
    return state
