"""Optical flow between the frames of clips, written to files: what FMA-Net is trained with."""

import errno
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vsr.data.flow import PRESETS, default_flow_root, dis_flow, flow_name, flow_pairs, read_flow, write_flow
from vsr.data.names import first_duplicate
from vsr.data.prepare import run_jobs, target_folder
from vsr.data.sample import naming
from vsr.data.storage import Clip, Storage, existing, open_storage, stem
from vsr.data.video_cache import frames_of_video
from vsr.models.raft import ITERATIONS, load_raft_small, pairs_at_a_time, raft_flows
from vsr.registry import suggest
from vsr.utils.files import sha256, way_to
from vsr.utils.images import Frame
from vsr.utils.progress import Progress, size_text

log = logging.getLogger(__name__)

METHODS = ("dis", "raft")


class Window(NamedTuple):
    """A frame, and its neighbours to which it gets flows.

    Args:
        key: 'clip/frame'.
        centre: Path of the frame, as the storage names it.
        neighbours: (path of a neighbour, file of the flow to it).
        size: (height, width) of the clip's frames.
    """

    key: str
    centre: str
    neighbours: tuple[tuple[str, Path], ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class FlowPlan:
    """What ``generate_flow`` would do or did: clips, flows in all, their bytes, and the folder they are in."""

    folder: Path
    clips: int
    flows: int
    bytes: int


def generate_flow(
    root: str,
    folder: str | Path | None = None,
    *,
    method: str = "dis",
    preset: str = "medium",
    weights: str | Path | None = None,
    iterations: int = ITERATIONS,
    bgr: bool = False,
    distance: int = 1,
    ends: bool = False,
    workers: int = 0,
    dry_run: bool = False,
) -> FlowPlan:
    """Write the flows from the inner frames of clips to their neighbours: FOLDER/CLIP/{centre}_{neighbour}.npy.

    For the files see ``vsr.data.flow``. A run that was interrupted is gone on with by the same call; flows that
    are there and whole are not made again.

    Args:
        root: Folder of clips (images or videos), or their LMDB; the sharp frames in low resolution.
        folder: Where the flows go; none: see ``vsr.data.flow.default_flow_root``.
        method: 'dis', on the CPU, needs no weights; 'raft', in batches on the GPU if there is one.
        preset: Of DIS.
        weights: Of RAFT: the file raft-small.pth.
        iterations, bgr: Of RAFT, see ``vsr.models.raft.raft_flows``.
        distance, ends: Which frames get a flow to which, see ``vsr.data.flow.flow_pairs``.
        workers: Processes of DIS; 0: this one does all.
        dry_run: Look and count, write nothing.

    Raises:
        FileNotFoundError: a path is missing.
        ValueError: an argument is out of its range, a frame is damaged, a flow is not finite, or the folder is
            another's; see ``vsr.data.prepare.target_folder``.
        ImportError: RAFT, and torchvision is missing or does not fit torch.
        OSError: the disk is full.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected {' or '.join(METHODS)}, got {method!r}.{suggest(method, list(METHODS))}")
    if method == "dis" and preset not in PRESETS:
        raise ValueError(f"preset: expected {', '.join(PRESETS)}, got {preset!r}.{suggest(preset, list(PRESETS))}")
    if method == "raft" and iterations < 1:
        raise ValueError(f"iterations: expected 1 or more, got {iterations}.")
    path = existing(root, "root")
    storage = open_storage({"type": "lmdb" if (path / "data.mdb").is_file() else "disk"})
    goal = Path(default_flow_root(root) if folder is None else folder)
    recipe: dict[str, Any] = {"format": 1, "root": way_to(path, goal), "method": method}
    recipe |= {"distance": distance, "ends": ends}
    if method == "dis":
        recipe["preset"] = preset
    else:
        network = _network(weights)
        recipe |= {"weights": sha256(Path(str(weights))), "iterations": iterations, "bgr": bgr}
    with target_folder(goal, recipe, dry_run=dry_run) as target:
        clips = storage.clips(root, "root")
        windows = [window for clip in clips.values() for window in _windows(storage, clip, target, distance, ends)]
        if not windows:
            least = 2 if ends else 2 * distance + 1
            raise ValueError(f"root: expected clips of {least} or more frames in '{root}', got shorter ones.")
        plan = _plan(target, windows)
        if dry_run:
            return plan
        _require_room(plan, windows)
        for parent in {output.parent for window in windows for _, output in window.neighbours}:
            parent.mkdir(parents=True, exist_ok=True)
        if method == "dis":
            work: Callable[[Window], int] = partial(_by_dis, storage, preset)
            made = run_jobs(work, windows, workers=workers, what=f"flows of {root}", unit="frames")
        else:
            made = _by_raft(storage, windows, network, f"flows of {root}", iterations=iterations, bgr=bgr)
        if sum(made) < plan.flows:
            log.info("%s: %d of %d flows were there already", target, plan.flows - sum(made), plan.flows)
    return plan


# --- what is to be done --------------------------------------------------------------------------


def _network(weights: str | Path | None) -> nn.Module:
    if weights is None:
        raise ValueError(
            "weights: expected the path of raft-small.pth for method raft, got none. It comes with RAFT's code. "
            "Method dis needs no weights."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_raft_small(weights, device)
    log.info("RAFT-small of %s, on %s", weights, device)
    return network


def _windows(storage: Storage, clip: Clip, target: Path, distance: int, ends: bool) -> list[Window]:
    """Return the windows of a clip whose flows go to a folder of its name below ``target``."""
    if clip.is_video:
        decoded, files = frames_of_video(clip.folder)
        clip = Clip(clip.name, decoded, files, numbered=True)
    if twice := first_duplicate(clip.files):
        raise ValueError(f"{clip.folder}: expected one image for each name, got {twice}. Remove the one or the other.")
    pairs = flow_pairs(len(clip.files), distance, ends=ends)
    if not pairs:
        log.warning("clip '%s': has %d frames, too few for a flow", clip.name, len(clip.files))
        return []
    size = storage.size(clip.path(0))
    names = [stem(file) for file in clip.files]
    return [
        Window(
            f"{clip.name}/{names[centre]}",
            clip.path(centre),
            tuple((clip.path(n), target / clip.name / flow_name(names[centre], names[n])) for _, n in of_centre),
            size,
        )
        for centre, of_centre in groupby(pairs, itemgetter(0))
    ]


def _plan(target: Path, windows: Sequence[Window]) -> FlowPlan:
    flows = sum(len(window.neighbours) for window in windows)
    size = sum(len(window.neighbours) * (128 + 8 * window.size[0] * window.size[1]) for window in windows)
    clips = len({output.parent for window in windows for _, output in window.neighbours})
    return FlowPlan(target, clips, flows, size)


def _require_room(plan: FlowPlan, windows: Sequence[Window]) -> None:
    there = sum(output.stat().st_size for window in windows for _, output in window.neighbours if output.is_file())
    free = shutil.disk_usage(plan.folder).free
    if plan.bytes - there > free:
        raise OSError(
            errno.ENOSPC,
            f"{plan.folder}: expected room for about {size_text(plan.bytes - there)}, but {size_text(free)} are free. "
            "Free some space, or name another folder",
        )


# --- doing it ------------------------------------------------------------------------------------


def _missing(window: Window) -> list[tuple[str, Path]]:
    """Return the neighbours whose flow is not there; what is there and no whole flow counts as missing."""
    missing = []
    for neighbour, output in window.neighbours:
        if output.exists():
            try:
                read_flow(output, window.size)
                continue
            except ValueError as error:
                log.warning("%s It is made again now.", error)
        missing.append((neighbour, output))
    return missing


def _by_dis(storage: Storage, preset: str, window: Window) -> int:
    """Write the flows of a window that are missing; return how many these were."""
    missing = _missing(window)
    if missing:
        with naming(window.key):
            centre = _read(storage, window.centre, window.size)
            for neighbour, output in missing:
                write_flow(output, dis_flow(centre, _read(storage, neighbour, window.size), preset))
    return len(missing)


def _by_raft(
    storage: Storage, windows: Sequence[Window], network: nn.Module, what: str, *, iterations: int, bgr: bool
) -> list[int]:
    """As ``_by_dis`` for all windows, several pairs at a time."""
    progress = Progress(what, len(windows), unit="frames")
    made = []
    for batch in _batches(windows):
        pairs = [(window.centre, name, output) for window in batch for name, output in _missing(window)]
        made.append(len(pairs))
        if pairs:
            with naming(f"{batch[0].key} to {batch[-1].key.rpartition('/')[2]}"):
                names = {name for pair in pairs for name in pair[:2]}
                frames = {name: _read(storage, name, batch[0].size) for name in sorted(names)}
                centres, neighbours = [frames[pair[0]] for pair in pairs], [frames[pair[1]] for pair in pairs]
                at_a_time = pairs_at_a_time(batch[0].size)
                for i in range(0, len(pairs), at_a_time):
                    part = slice(i, i + at_a_time)
                    flows = raft_flows(network, centres[part], neighbours[part], iterations=iterations, bgr=bgr)
                    for (_, _, output), flow in zip(pairs[part], flows, strict=True):
                        write_flow(output, flow)
        progress.step(len(batch))
    progress.end()
    return made


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Yield neighbouring windows of one size, about as many as go through the network together."""
    start = 0
    while start < len(windows):
        first = windows[start]
        count = max(1, pairs_at_a_time(first.size) // len(first.neighbours))
        batch = list(takewhile(lambda w: w.size == first.size, islice(windows, start, start + count)))  # noqa: B023
        yield batch
        start += len(batch)


def _read(storage: Storage, path: str, size: tuple[int, int]) -> Frame:
    frame = storage.read(path)
    if frame.shape[:2] != size:
        raise ValueError(f"{path}: expected the size of the clip's first frame, {size}, got {frame.shape[:2]}.")
    return frame
