"""Random crops, flips and rotations of frames that stay together."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Planes: TypeAlias = npt.NDArray[np.uint8]  # (..., h, w)


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, factor: int) -> "Region":
        """Return the same rectangle of an image that is ``factor`` times as large."""
        return Region(*(factor * side for side in self))

    def of(self, image: Planes) -> Planes:
        """Return a view of this rectangle of an image (..., h, w)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Flips(NamedTuple):
    """One of the eight flips and rotations of the square."""

    horizontal: bool = False
    vertical: bool = False
    transposed: bool = False

    def apply(self, image: Planes) -> Planes:
        """Return a view of an image (..., h, w): mirrored, turned over, then its two axes exchanged."""
        if self.horizontal:
            image = image[..., ::-1]
        if self.vertical:
            image = image[..., ::-1, :]
        return image.swapaxes(-1, -2) if self.transposed else image


def draw_region(rng: np.random.Generator, size: tuple[int, int], crop: int) -> Region:
    """Draw a square of ``crop`` pixels within (height, width), every position equally likely."""
    top, left = (int(rng.integers(0, side - crop + 1)) for side in size)
    return Region(top, left, crop, crop)


def draw_flips(rng: np.random.Generator, *, use_hflip: bool, use_rot: bool) -> Flips:
    """Draw each allowed flip with probability one half.

    Three numbers are drawn whatever is allowed, so that an option changes only what it names.

    Args:
        rng: Where to draw from.
        use_hflip: Allow the horizontal flip.
        use_rot: Allow the vertical flip and the exchange of the axes.
    """
    horizontal, vertical, transposed = (bool(draw < 0.5) for draw in rng.random(3))
    return Flips(use_hflip and horizontal, use_rot and vertical, use_rot and transposed)
