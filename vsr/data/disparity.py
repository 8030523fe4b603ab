"""Files of true disparity, as KITTI, Middlebury and others give it.

A disparity d, in pixels of GT, belongs to a pixel of the left view: what is at column x there is at column x - d of the
right one. 0 stands for unknown.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vsr.data.stereo_files import DISPARITY_SUFFIXES, MULTIPLE
from vsr.data.storage import existing
from vsr.utils.image_headers import PNG, most_pixels

Disparity = npt.NDArray[np.float32]  # (h, w)

KITTI_SCALE = 256  # of the numbers in a 16-bit PNG
_PFM = re.compile(rb"(Pf|PF)\s+(\d{1,9})\s+(\d{1,9})\s+([-+0-9.eE]{1,30})\s")  # kind, width, height, scale


def find_disparities(root: str, keys: Sequence[str]) -> dict[str, str]:
    """Return the file of each pair: ``root/KEY.png``, ``.pfm`` or ``.npy``, or in a folder ``root/KEY/disp0.pfm``.

    Raises:
        FileNotFoundError: there is no such root.
        ValueError: a pair has no file, or more than one.
    """
    folder = existing(root, "dataroot_disparity")
    found: dict[str, str] = {}
    missing = []
    for key in keys:
        names = [f"{name}{suffix}" for name in (key, f"{key}/disp0") for suffix in DISPARITY_SUFFIXES]
        files = [name for name in names if (folder / name).is_file()]
        if len(files) > 1:
            raise ValueError(
                f"dataroot_disparity: expected one file for the pair {key} in '{root}', got {' and '.join(files)}. "
                "Remove some."
            )
        if files:
            found[key] = os.path.join(folder, files[0])
        else:
            missing.append(key)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"dataroot_disparity: expected KEY or KEY/disp0 in '{root}', {', '.join(DISPARITY_SUFFIXES)}, "
            f"for each pair, got none for {len(missing)} of {len(keys)}: {some}. Add them, or choose by meta_info_file."
        )
    return found


def read_disparity(path: str | Path, size: tuple[int, int]) -> Disparity:
    """Read the disparity of a left view: float32 (h, w) in pixels, 0 where the file says that it is unknown.

    Args:
        path: A PNG of 16 bits grey, in 1/256 of a pixel, 0 unknown (KITTI); a PFM of one channel, in pixels, infinity
            unknown (Middlebury; its scale is that of the data set's other numbers and does not count); or a NumPy
            array (h, w), in pixels, NaN, infinity or 0 unknown.
        size: (height, width) of the left view that it belongs to. A map of the view before its sides were cropped to
            multiples of 20, as prepared test sets are, is cropped alike.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, damaged, of another size, has values below 0, or knows nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected disparities, got {'a folder' if path.is_dir() else 'no file'}")
    suffix = path.suffix.lower()
    values = _numpy(path) if suffix == ".npy" else _pfm(path) if suffix == ".pfm" else _png(path)
    if tuple(side // MULTIPLE * MULTIPLE for side in values.shape) == size:
        values = values[: size[0], : size[1]]
    if values.shape != size:
        got = "x".join(map(str, values.shape))
        raise ValueError(
            f"{path}: expected disparities of the left view's size, {size[0]}x{size[1]}, got {got}. "
            "Crop them as the views; views that were made smaller need them made smaller and divided, too."
        )
    values = values.astype(np.float32)
    values[~np.isfinite(values)] = 0
    if values.min() < 0:
        raise ValueError(
            f"{path}: expected disparities from 0 on, x_left - x_right, got {values.min():g}. "
            "Turn the sign; mark what is unknown by 0, NaN or infinity."
        )
    if not values.any():
        raise ValueError(f"{path}: expected some disparity that is known, got none. Copy it again.")
    return values


def _png(path: Path) -> npt.NDArray[np.float32]:
    data = path.read_bytes()
    pixels = math.prod(int.from_bytes(data[at : at + 4], "big") for at in (16, 20)) if data.startswith(PNG) else 0
    _check_pixels(path, pixels)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        got = "a damaged file" if image is None else f"{image.dtype} {image.shape}"
        raise ValueError(
            f"{path}: expected a PNG of 16 bits grey with disparities times {KITTI_SCALE}, got {got}. "
            "Copy it again, or save the disparities in pixels as .npy."
        )
    return image.astype(np.float32) / np.float32(KITTI_SCALE)


def _pfm(path: Path) -> npt.NDArray[np.float32]:
    data = path.read_bytes()
    head = _PFM.match(data)
    if head is None or head[1] != b"Pf":
        raise ValueError(f"{path}: expected a PFM of one channel ('Pf'), got something else. Copy it again.")
    width, height = int(head[2]), int(head[3])
    _check_pixels(path, width * height)
    try:
        order = "<" if float(head[4]) < 0 else ">"  # of the bytes
    except ValueError as error:
        raise ValueError(f"{path}: expected a number as the PFM's scale, got {head[4].decode()}.") from error
    body = data[head.end() :]
    if len(body) < 4 * width * height:
        raise ValueError(f"{path}: expected {4 * width * height} bytes of values, got {len(body)}. Copy it again.")
    rows = np.frombuffer(body, f"{order}f4", width * height).reshape(height, width)
    return rows[::-1].astype(np.float32)  # the last row comes first


def _numpy(path: Path) -> npt.NDArray[np.float32]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: expected a NumPy array of numbers, got something else: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "uif":
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise ValueError(f"{path}: expected a NumPy array (h, w) of numbers, got {got}.")
    _check_pixels(path, array.size)
    return np.asarray(array, np.float32)


def _check_pixels(path: Path, pixels: int) -> None:
    if not 0 < pixels <= most_pixels():
        raise ValueError(f"{path}: expected 1 to {most_pixels()} pixels, got {pixels}. The file is damaged.")
