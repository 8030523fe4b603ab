"""Clips whose pixels say where they come from: red is the row, green the column, blue the frame."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vsr.utils.images import write_image

WriteClip = Callable[..., Path]


def coordinates(height: int, width: int, frame: int = 0) -> npt.NDArray[np.uint8]:
    """An image (h, w, 3) with pixel (y, x) = (y, x, frame)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, frame)], 2).astype(np.uint8)


@pytest.fixture
def write_clip(tmp_path: Path) -> WriteClip:
    """Write a clip of coordinate frames below the test's folder; return that folder's root."""

    def write(
        root: str, name: str = "", *, count: int = 5, size: tuple[int, int] = (32, 48),
        names: list[str] | None = None, suffix: str = ".png",
    ) -> Path:  # fmt: skip
        folder = tmp_path / root / name
        folder.mkdir(parents=True, exist_ok=True)
        for frame, stem in enumerate(names or [f"{i:08d}" for i in range(count)]):
            write_image(folder / f"{stem}{suffix}", coordinates(*size, frame))
        return tmp_path / root

    return write


@pytest.fixture
def textured(tmp_path: Path) -> Path:
    """A root 'gt' with one clip 'a' of four frames of noise, 43 x 58: no multiple of any scale."""
    rng = np.random.default_rng(5)
    (tmp_path / "gt" / "a").mkdir(parents=True)
    for frame in range(4):
        write_image(tmp_path / "gt" / "a" / f"{frame}.png", rng.integers(0, 256, (43, 58, 3), dtype=np.uint8))
    return tmp_path / "gt"
