"""Random crops, flips and rotations of frames that stay together; of flow fields and of stereo pairs with them."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Planes: TypeAlias = npt.NDArray[np.uint8]  # (..., h, w)
Flow: TypeAlias = npt.NDArray[np.float32]  # (..., 2, h, w): pixel (y, x) of a frame is (y + dy, x + dx) of the other


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

    def apply_flow(self, flow: Flow) -> Flow:
        """Return the flow (..., 2, h, w), channels (dx, dy), between two frames that are flipped so: a copy.

        The vectors turn with the image: each mirroring negates its component, exchanged axes exchange them.
        """
        moved = self.apply(flow).copy()  # type: ignore[arg-type]
        if self.horizontal:
            moved[..., 0, :, :] *= -1
        if self.vertical:
            moved[..., 1, :, :] *= -1
        return moved[..., ::-1, :, :].copy() if self.transposed else moved


class StereoFlips(NamedTuple):
    """A flip of a stereo pair that keeps its geometry: right of left, points move left in the right view.

    A mirrored left view is a right view; so the horizontal flip exchanges the views. Rows stay rows: there is no
    rotation. Colours are exchanged in one order for both views.
    """

    horizontal: bool = False
    vertical: bool = False
    order: tuple[int, int, int] = (0, 1, 2)

    def apply(self, left: Planes, right: Planes) -> tuple[Planes, Planes]:
        """Return (left, right), each (..., 3, h, w); views where colours stay."""
        if self.horizontal:
            left, right = right[..., ::-1], left[..., ::-1]
        if self.vertical:
            left, right = left[..., ::-1, :], right[..., ::-1, :]
        if self.order != (0, 1, 2):
            left, right = left[..., list(self.order), :, :], right[..., list(self.order), :, :]
        return left, right


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


def reverse_flows(forward: Flow, backward: Flow) -> tuple[Flow, Flow]:
    """Return (forward, backward) flows of the same frames in reversed order.

    Args:
        forward: (t - 1, 2, h, w), number i from frame i to i + 1.
        backward: (t - 1, 2, h, w), number i from frame i + 1 to i. What led backward leads forward now: without it
            a sequence with flows cannot be reversed.
    """
    return backward[::-1], forward[::-1]


def draw_stereo_flips(
    rng: np.random.Generator,
    *,
    use_hflip: bool,
    use_vflip: bool,
    flip_RGB: bool,  # noqa: N803 (the option's name)
) -> StereoFlips:
    """Draw each allowed flip with probability one half, and an order of the colours.

    The same numbers are drawn whatever is allowed, so that an option changes only what it names.

    Args:
        rng: Where to draw from.
        use_hflip: Allow the horizontal flip, which exchanges the views.
        use_vflip: Allow the vertical flip.
        flip_RGB: Exchange the colours.
    """
    horizontal, vertical = (bool(draw < 0.5) for draw in rng.random(2))
    red, green, blue = (int(channel) for channel in rng.permutation(3))
    return StereoFlips(use_hflip and horizontal, use_vflip and vertical, (red, green, blue) if flip_RGB else (0, 1, 2))


def draw_stereo_regions(
    rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int], *, max_shift: int = 0
) -> tuple[Region, Region]:
    """Draw crops of the same rows of two views; the right one's columns are up to ``max_shift`` aside.

    A shift of d columns to the right adds d to every disparity of the crop; one to the left takes d from it, so that
    far points may have a negative one. Where the image ends less is drawn.

    Args:
        rng: Where to draw from.
        size: (height, width) of a view.
        crop: (height, width) of the crops.
        max_shift: Pixels, 0: the same columns.
    """
    top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip(size, crop, strict=True))
    lowest, highest = max(0, left - max_shift), min(size[1] - crop[1], left + max_shift)
    shifted = int(rng.integers(lowest, highest + 1))
    return Region(top, left, *crop), Region(top, shifted, *crop)
