"""The flow files of a set of clips, cut and flipped with its frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsr.data.augment import Flips, Region
from vsr.data.clips import ClipPair, ClipSet
from vsr.data.flow import SUFFIX, flow_name, flow_pairs, read_flow
from vsr.data.storage import Roots, existing, list_roots


class ClipFlows:
    """Flows in files ``root/clip/{centre}_{neighbour}.npy``, see ``vsr.data.flow``.

    Args:
        dataroot_flow: Their root, or one for each of the set's roots. A clip's folder is looked for at its place
            below the root, then by the last folder of its name anywhere below, as in nested archives.
        clips: Whose flows they are.

    Raises:
        FileNotFoundError: a root is missing.
        ValueError: there are more or fewer roots than the set has, or a clip has no folder of flows.
    """

    def __init__(self, dataroot_flow: Roots, clips: ClipSet) -> None:
        roots = list_roots(dataroot_flow)
        if len(roots) != len(clips.roots):
            raise ValueError(
                f"dataroot_flow: expected one root for each of the set's {len(clips.roots)}, got {len(roots)}. "
                "Name them in the order of dataroot_gt."
            )
        try:
            found = [_folders(existing(root, "dataroot_flow")) for root in roots]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} Make it of the sharp LQ frames with scripts/generate_flow.py, or leave the option out."
            ) from error
        self._folders: dict[str, str] = {}
        for clip in clips.clips:
            number = next((n for n, pair in enumerate(clips.roots) if _belongs(clip.name, pair.label)), 0)
            below, folders = clips.roots[number].below(clip.name), found[number]
            folder = folders.get(below) or folders.get(below.rpartition("/")[2])
            if folder is None:
                raise ValueError(
                    f"dataroot_flow: expected a folder '{below}' with flows ({SUFFIX}) of clip '{clip.name}' in "
                    f"'{roots[number]}', got none. Make them with scripts/generate_flow.py."
                )
            self._folders[clip.name] = folder

    def require(self, clips: Sequence[ClipPair], distance: int) -> None:
        """Look for the flows of all whole windows of 2 * distance + 1 frames, by their names alone.

        Raises:
            FileNotFoundError: some are missing.
        """
        missing = []
        for clip in clips:
            there = set(os.listdir(self._folders[clip.name]))
            pairs = flow_pairs(len(clip), distance)
            names = [flow_name(clip.frame(centre), clip.frame(neighbour)) for centre, neighbour in pairs]
            missing += [os.path.join(self._folders[clip.name], name) for name in names if name not in there]
        if missing:
            arguments = f" --distance {distance}" if distance > 1 else ""
            raise FileNotFoundError(
                f"dataroot_flow: expected the flows of all windows, {len(missing)} are missing, {missing[0]} for one. "
                f"Make them with scripts/generate_flow.py{arguments}: the command goes on where it ended."
            )

    def read(self, clip: ClipPair, pairs: Sequence[tuple[int, int]], region: Region, flips: Flips) -> Tensor:
        """Read flows between frames of a clip: float32 (number of pairs, 2, h, w); from a frame to itself zero.

        Args:
            clip: Whose.
            pairs: (centre, neighbour) of each, positions in the clip.
            region: The part to return, in pixels.
            flips: How the frames are flipped.

        Raises:
            FileNotFoundError, ValueError: a file is missing or no flow of the clip's size.
        """
        flows = np.zeros((len(pairs), 2, region.height, region.width), np.float32)
        for number, (centre, neighbour) in enumerate(pairs):
            if centre != neighbour:
                name = flow_name(clip.frame(centre), clip.frame(neighbour))
                file = os.path.join(self._folders[clip.name], name)
                if not os.path.exists(file):
                    raise _missing(file, clip, centre, neighbour)
                flows[number] = region.of(read_flow(file, clip.size))  # type: ignore[arg-type]
        return torch.from_numpy(np.ascontiguousarray(flips.apply_flow(flows)))


def _missing(file: str, clip: ClipPair, centre: int, neighbour: int) -> FileNotFoundError:
    """Say which arguments of the script make a flow that is not there beside others of its clip."""
    distance = abs(neighbour - centre)
    arguments = f" --distance {distance}" if distance > 1 else ""
    if not distance <= centre < len(clip) - distance:  # inner frames alone have flows unless it is told otherwise
        arguments += " --ends"
    hint = f" with{arguments}, into a new folder" if arguments else ""
    return FileNotFoundError(
        f"{file}: expected a flow file, got none. Make the flows by scripts/generate_flow.py{hint}."
    )


def _belongs(name: str, label: str) -> bool:
    return not label or name == label or name.startswith(f"{label}/")


def _folders(root: Path) -> dict[str, str]:
    """Return the folders of flow files below a root: by their path below it, and by their own name if it is unique."""
    found: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        if any(file.endswith(SUFFIX) for file in files):
            found[Path(folder).relative_to(root).as_posix()] = folder
            by_name.setdefault(os.path.basename(folder), []).append(folder)
    return {name: same[0] for name, same in by_name.items() if len(same) == 1} | found
