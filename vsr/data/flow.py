"""Optical flow between frames: files of it as FMA-Net has them, and the method of OpenCV that needs no weights.

A flow file is ``{centre}_{neighbour}.npy``, named after two frames of a clip: float32 (h, w, 2), channels dx, dy in
pixels. In memory it is (2, h, w). Everywhere it points from the centre to the neighbour, so that reading the
neighbour where it points gives the centre: centre(p) = neighbour(p + flow(p)), which is ``vsr.ops.warp.flow_warp``.
"""

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vsr.data.augment import Flow
from vsr.data.prepare import write_once
from vsr.registry import suggest
from vsr.utils.images import Frame

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
MIN_SIDE = 32  # pixels; on less, beside a long side, OpenCV fails, gives NaN or ends the process
SUFFIX = ".npy"

_REDS = re.compile(r"(train|val|test)_sharp(_\w+)?")  # names of REDS's folders


def flow_name(centre: str, neighbour: str) -> str:
    """Return the name of the file with the flow from the frame ``centre`` to ``neighbour``; both without suffix."""
    return f"{centre}_{neighbour}{SUFFIX}"


def flow_pairs(count: int, distance: int = 1, *, ends: bool = False) -> list[tuple[int, int]]:
    """Return the (centre, neighbour) of a clip that get a flow: those of all whole windows of 2 * distance + 1 frames.

    Args:
        count: Frames of the clip.
        distance: How far the neighbours reach. 1, as FMA-Net on three frames: every frame but the first and the
            last with the one before it and the one behind.
        ends: The frames near the ends, too, with those neighbours that they have; for recurrent networks.

    Raises:
        ValueError: ``distance`` is below 1.
    """
    if distance < 1:
        raise ValueError(f"distance: expected 1 or more frames, got {distance}.")
    steps = [step for step in range(-distance, distance + 1) if step]
    centres = range(count) if ends else range(distance, count - distance)
    return [(centre, centre + step) for centre in centres for step in steps if 0 <= centre + step < count]


def default_flow_root(root: str | Path) -> Path:
    """Return where the flows of the clips of ``root`` belong if nothing else is said.

    In REDS's folders, where FMA-Net looks for them: .../train_sharp_bicubic/X4 -> .../train_flow_bicubic/X4, and
    .../train_sharp_bicubic/train/train_sharp_bicubic/X4 with both. Of any other root, ROOT_flow beside it.
    """
    path = Path(os.path.abspath(os.path.expanduser(root)))
    named = [part for part in path.parts if _REDS.fullmatch(part)]
    if not named:
        return path.with_name(f"{path.name.removesuffix('.lmdb')}_flow")
    # the nested folders have one name; another one further up is somebody else's
    return Path(*(part.replace("_sharp", "_flow", 1) if part == named[-1] else part for part in path.parts))


def read_flow(path: str | Path, size: Sequence[int]) -> Flow:
    """Read a flow file: float32 (2, h, w), dx then dy.

    Args:
        path: The file.
        size: (height, width) that it must have, those of the frames.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no array of float32 (h, w, 2), is truncated, or holds NaN or infinity.
    """
    try:
        # mapped, numpy compares the file's length with what its header says before it takes any memory
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: expected a flow file, got none. Make the flows with scripts/generate_flow.py."
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected an array of float32 in numpy's format, could not read it ({error}). {_AGAIN}"
        ) from error
    wanted = (*size, 2)
    if not isinstance(values, np.ndarray):  # an archive of arrays
        values.close()
        raise ValueError(f"{path}: expected one array in numpy's format, got an archive. {_AGAIN}")
    if values.dtype != np.float32 or values.shape != wanted:
        raise ValueError(
            f"{path}: expected float32 {wanted} (height, width, dx and dy), got {values.dtype} {values.shape}. "
            f"Was it made of other frames? {_AGAIN}"
        )
    flow = np.array(values.transpose(2, 0, 1), order="C")
    if not np.isfinite(flow).all():
        raise ValueError(f"{path}: expected finite numbers, got {_count_bad(flow)} others. {_AGAIN}")
    return flow


def write_flow(path: str | Path, flow: Flow) -> None:
    """Write a flow (2, h, w) to a file that is whole or absent; one that is there is replaced.

    Raises:
        ValueError: it is not float32 (2, h, w), or not finite.
        OSError: the folder is missing or the disk is full.
    """
    if flow.dtype != np.float32 or flow.ndim != 3 or flow.shape[0] != 2 or flow.size == 0:
        raise ValueError(f"{path}: expected a flow float32 (2, h, w), got {flow.dtype} {flow.shape}.")
    if not np.isfinite(flow).all():
        raise ValueError(f"{path}: expected a finite flow, got {_count_bad(flow)} other numbers; it was not written.")
    stored = np.ascontiguousarray(flow.transpose(1, 2, 0))
    Path(path).unlink(missing_ok=True)
    write_once(Path(path), lambda temporary: np.save(temporary, stored, allow_pickle=False))


def dis_flow(centre: Frame, neighbour: Frame, preset: str = "medium") -> Flow:
    """Find the flow (2, h, w), float32, from ``centre`` to ``neighbour`` by dense inverse search.

    Source: Kroeger et al., ECCV 2016 (arXiv:1603.03590), as OpenCV has it, on 8-bit grey. On clean frames that move
    by less than about ten pixels 'medium' is at least as good as RAFT-small; 'fast' and 'ultrafast' are much worse.

    Args:
        centre, neighbour: Frames uint8 (h, w, 3) RGB of one size, however small.
        preset: 'ultrafast', 'fast' or 'medium'.

    Raises:
        ValueError: the frames are of another type, shape or of different sizes; or there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected {', '.join(PRESETS)}, got {preset!r}.{suggest(preset, list(PRESETS))}")
    check_frames(centre, neighbour)
    height, width = centre.shape[:2]
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    first, second = (
        cv2.copyMakeBorder(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 0, below, 0, right, cv2.BORDER_REPLICATE)
        for frame in (centre, neighbour)
    )
    found = cv2.DISOpticalFlow.create(PRESETS[preset]).calc(first, second, None)  # type: ignore[call-overload]
    return np.array(found[:height, :width].transpose(2, 0, 1), np.float32, order="C")


def check_frames(centre: Frame, neighbour: Frame) -> None:
    """Raise ValueError unless both are uint8 (h, w, 3) of one size."""
    if centre.shape != neighbour.shape or centre.ndim != 3 or centre.shape[2] != 3 or centre.size == 0:
        raise ValueError(
            f"centre, neighbour: expected two frames (h, w, 3) of one size, got {centre.shape} and {neighbour.shape}."
        )
    if centre.dtype != np.uint8 or neighbour.dtype != np.uint8:
        raise ValueError(f"centre, neighbour: expected uint8, got {centre.dtype} and {neighbour.dtype}.")


_AGAIN = "Remove it and make it again with scripts/generate_flow.py."


def _count_bad(flow: Flow) -> int:
    return int(flow.size - np.isfinite(flow).sum())
