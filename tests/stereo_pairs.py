"""Stereo pairs for the tests: made ones of known disparity, a photographed one, and a matcher that measures."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vsr.utils.images import Frame, write_image
from vsr.utils.resize import imresize


def made_pair(size: tuple[int, int], *, disparity: int, seed: int = 0) -> tuple[Frame, Frame]:
    """Return two views of a texture in front of the camera: what is at x in the left is at x - disparity in the right.

    Red, green and blue differ, so that exchanged colours show.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 3 + 2, (width + disparity) // 3 + 2, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (width + disparity, height), interpolation=cv2.INTER_CUBIC)
    texture = np.clip(texture.astype(int) // 2 + np.array([90, 40, 0]), 0, 255).astype(np.uint8)
    return texture[:, :width].copy(), texture[:, disparity:].copy()


def photographed_pair() -> tuple[Frame, Frame]:
    """Return the motorcycle of Middlebury 2014, 500 x 741, or skip the test where it is not on this machine."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the picture")
    try:
        left, right, _ = data.stereo_motorcycle()
    except (OSError, ValueError, ImportError) as error:
        pytest.skip(f"the motorcycle pair is not on this machine: {error}")
    return left, right


def median_disparity(left: Frame, right: Frame, *, most: int = 64) -> float:
    """Return the median disparity (h, w, 3) of what semi-global matching finds; NaN where it finds little.

    It looks for points that lie farther to the left in the right view, by 0 to ``most`` pixels.
    """
    matcher = cv2.StereoSGBM.create(
        numDisparities=most, blockSize=5, P1=8 * 75, P2=32 * 75, uniquenessRatio=5, disp12MaxDiff=1
    )
    found = matcher.compute(*(cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_RGB2GRAY) for view in (left, right)))
    valid = found[found > 0] / 16
    return float(np.median(valid)) if valid.size > 0.2 * found.size else float("nan")


def write_pair(root: Path, key: str, left: Frame, right: Frame, *, scale: int) -> None:
    """Write a pair and its reduction as the official patches are: KEY/{hr0,hr1,lr0,lr1}.png."""
    (root / key).mkdir(parents=True)
    for number, view in enumerate((left, right)):
        write_image(root / key / f"hr{number}.png", view)
        write_image(root / key / f"lr{number}.png", imresize(view, 1 / scale))
