"""How well the two restored views of a stereo pair fit together: disparity error, bad pixels, warped view.

A disparity d, in pixels of the target, belongs to a pixel of the left view: what is at column x there is at column
x - d of the right one, d >= 0. Both values below compare with a reference: the true disparity where the data set gives
one, else what the matcher finds between the two views of the target.

The matcher is OpenCV's semi-global matching (Hirschmueller, IEEE TPAMI 30, 2008) on 8-bit grey: minDisparity 0,
blockSize 5, P1 200, P2 800, disp12MaxDiff 1, uniquenessRatio 5, no speckle filter, MODE_SGBM, its other parameters as
they are by default; results in 1/16 of a pixel. Both views get ``max_disparity`` columns at the left, copies of the
first one, which are cut off again; what is matched with them counts as not found.

A pixel is seen in both views if its reference disparity is known, leads to a column of the right view, and stands the
left-right check: of the pixels of its row that arrive in the right view within a pixel of it, none is nearer by more
than one pixel of disparity. Others, which something hides from the right camera, never count.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from vsr.metrics.base import Array, ImageMetric, rgb_arrays
from vsr.registry import METRICS
from vsr.utils.images import to_uint8

MOST = 128  # pixels of disparity that are looked for where nothing says how large it is
_STEP = 16  # the matcher looks through multiples of it
_BLOCK, _SMOOTH = 5, (200, 800)  # blockSize; P1 and P2, 8 and 32 times its area
_RIGHT = 1.0  # pixels by which disparities of one place in the right view may differ


class PairMetric(ImageMetric):
    """Measures the two views of a restored pair as a whole, with the true disparity if that is known.

    Args:
        compare: Returns the value of: the restored pair and the target, uint8 (h, w, 6); the reference, the left view's
            disparity, float32 (h, w), NaN where it is unknown; the pixels that count, bool (h, w), at least one; and
            the number of pixels below which disparities are looked for.
        what: What the number means; the border is added.
        unit, crop_border, input_order: As for ImageMetric. The border is that of the left view, and is left out of the
            value only: matching and warping see all.
        higher_is_better: Or lower.
        max_disparity: The largest disparity to look for plus one, a multiple of 16; None: 128, or if the true
            disparity is known as much as it takes.
    """

    of_pairs = True

    def __init__(
        self,
        compare: Callable[[Array, Array, Array, Array, int], float],
        *,
        what: str,
        unit: str,
        higher_is_better: bool,
        crop_border: int,
        max_disparity: int | None,
        input_order: Literal["HWC", "CHW"],
    ) -> None:
        super().__init__(
            definition=f"{what}, crop {crop_border}",
            unit=unit,
            crop_border=crop_border,
            test_y_channel=False,
            input_order=input_order,
            left_only=False,
        )
        if max_disparity is not None and (max_disparity < _STEP or max_disparity % _STEP):
            raise ValueError(f"max_disparity: expected a multiple of {_STEP} from {_STEP} on, got {max_disparity}")
        self.compare_pair, self.higher_is_better, self.max_disparity = compare, higher_is_better, max_disparity

    def __call__(self, restored: Array | Tensor, target: Array | Tensor, disparity: Array | None = None) -> float:
        """Return the value for two pairs: arrays (h, w, 6) or tensors (6, h, w) as ImageMetric takes them.

        They are rounded to 8 bits. For ``disparity`` and what is raised see ``measure``.
        """
        if isinstance(restored, Tensor) and isinstance(target, Tensor):
            images = [to_uint8(image) for image in (restored, target)]
        else:
            found = rgb_arrays(restored, target, self.input_order)
            images = [np.rint(image.clip(0, 255)).astype(np.uint8) for image in found]
        return self.measure(images[0], images[1], disparity)

    def measure(self, restored: Array, target: Array, disparity: Array | None = None) -> float:
        """Return the value for two pairs uint8 (h, w, 6), left RGB first; NaN if no pixel can be compared.

        Args:
            restored, target: The pairs.
            disparity: The true one of the left view, (h, w) in pixels; 0, NaN and infinity where it is unknown.

        Raises:
            ValueError: sizes, types or numbers of channels are others, or the border leaves nothing.
        """
        for image in (restored, target):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 6 or image.shape != target.shape:
                raise ValueError(
                    f"restored and target: expected two stereo pairs uint8 (h, w, 6) of one size, "
                    f"got {restored.dtype} {restored.shape} and {target.dtype} {target.shape}"
                )
        height, width = target.shape[:2]
        if 2 * self.crop_border >= min(height, width):
            raise ValueError(f"crop_border: expected to leave something of {height} x {width}, got {self.crop_border}")
        most = self.max_disparity or MOST
        if disparity is None:
            reference = match(*views(target), most=most)
        else:
            if disparity.shape != (height, width):
                raise ValueError(
                    f"disparity: expected the size of the target, {(height, width)}, got {disparity.shape}"
                )
            known = np.isfinite(disparity) & (disparity > 0)
            reference = np.where(known, disparity, np.nan).astype(np.float32)
        seen, inner = seen_in_both(reference), slice(self.crop_border, -self.crop_border or None)
        if disparity is not None and self.max_disparity is None and seen.any():
            most = _STEP * (math.ceil(reference[seen].max()) // _STEP + 1)
        counted = np.zeros_like(seen)
        counted[inner, inner] = seen[inner, inner]
        return self.compare_pair(restored, target, reference, counted, most) if counted.any() else math.nan


def _error(restored: Array, target: Array, reference: Array, seen: Array, most: int) -> float:
    errors = np.abs(match(*views(restored), most=most) - reference)[seen]
    known = np.isfinite(errors)
    return float(errors[known].mean(dtype=np.float64)) if known.any() else math.nan


def _bad(restored: Array, target: Array, reference: Array, seen: Array, most: int, *, threshold: float) -> float:
    errors = np.abs(match(*views(restored), most=most) - reference)[seen]
    return 100 * float(1 - (errors <= threshold).mean())  # no comparison holds of NaN


def _warped(restored: Array, target: Array, reference: Array, seen: Array, most: int, *, against: str) -> float:
    # The right view at (x - d, y), interpolated linearly between the two nearest columns and not rounded.
    left = views(restored if against == "restored" else target)[0]
    mse = float(np.square(warped(views(restored)[1], reference, seen) - left[seen]).mean())
    return 10 * math.log10(255.0**2 / mse) if mse else math.inf


def views(pair: Array) -> tuple[Array, Array]:
    """Return the left and the right view of a pair (h, w, 6)."""
    return pair[..., :3], pair[..., 3:]


def match(left: Array, right: Array, *, most: int) -> Array:
    """Return the disparity of the left view that the matcher finds, float32 (h, w); NaN where it finds none.

    Args:
        left, right: The views, uint8 (h, w, 3) RGB.
        most: Disparities below this many pixels are looked for; a multiple of 16.
    """
    grey = [cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_RGB2GRAY) for view in (left, right)]
    return _matched(*(view.tobytes() for view in grey), left.shape[:2], most)


@functools.lru_cache(maxsize=2)  # all metrics of an image want the same: of the restored pair, and of the target
def _matched(left: bytes, right: bytes, size: tuple[int, int], most: int) -> Array:
    grey = (np.frombuffer(view, np.uint8).reshape(size) for view in (left, right))
    padded = [cv2.copyMakeBorder(view, 0, 0, most, 0, cv2.BORDER_REPLICATE) for view in grey]
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=most,
        blockSize=_BLOCK,
        P1=_SMOOTH[0],
        P2=_SMOOTH[1],
        disp12MaxDiff=1,
        uniquenessRatio=5,
        mode=cv2.STEREO_SGBM_MODE_SGBM,
    )
    found = matcher.compute(*padded)[:, most:].astype(np.float32) / 16  # below 0: none
    found[(found < 0) | (found > np.arange(size[1], dtype=np.float32))] = np.nan
    found.setflags(write=False)
    return found


def seen_in_both(disparity: Array) -> Array:
    """Return which pixels of the left view the right one shows, bool (h, w); see the module.

    Args:
        disparity: Of the left view, (h, w) in pixels, from 0 on; NaN where it is unknown.
    """
    columns = np.arange(disparity.shape[1]) - disparity
    inside = columns >= 0
    rows, arrivals = np.nonzero(inside)[0], np.rint(columns[inside]).astype(np.intp)
    nearest: Array = np.full(disparity.shape, -1, np.float32)
    np.maximum.at(nearest, (rows, arrivals), disparity[inside])
    nearest = cv2.dilate(nearest, np.ones((1, 3), np.uint8))
    inside[inside] = disparity[inside] >= nearest[rows, arrivals] - _RIGHT
    return inside


def warped(right: Array, disparity: Array, where: Array) -> Array:
    """Return the right view's colours at the places that belong to pixels of the left one: float64 (n, c).

    Args:
        right: The right view (h, w, c).
        disparity: Of the left view, (h, w); each place must lie inside the right view.
        where: The n pixels, bool (h, w).
    """
    rows, columns = np.nonzero(where)
    places = columns - disparity[where].astype(np.float64)
    first = np.floor(places).astype(np.intp)
    share = (places - first)[:, None]
    second = np.minimum(first + 1, right.shape[1] - 1)
    return (1 - share) * right[rows, first] + share * right[rows, second]


@METRICS.register
def calculate_disparity_error(
    *, crop_border: int = 0, max_disparity: int | None = None, input_order: Literal["HWC", "CHW"] = "HWC"
) -> PairMetric:
    """End-point error in pixels of the disparity that matching finds between the two restored views; lower is better.

    The reference is the true disparity where the set gives one, else that between the views of the target. Pixels
    count that both views see, and of which matching finds something: see calculate_bad_disparity for the others.

    Args:
        crop_border: Pixels of the left view that are left out at each side.
        max_disparity: The largest disparity to look for plus one, a multiple of 16; None: 128, or if the true
            disparity is known as much as it takes.
        input_order: Of arrays given to a call.
    """
    return PairMetric(
        _error,
        what="disparity error, mean over pixels seen in both views and matched",
        unit="px",
        higher_is_better=False,
        crop_border=crop_border,
        max_disparity=max_disparity,
        input_order=input_order,
    )


@METRICS.register
def calculate_bad_disparity(
    *,
    threshold: float = 1.0,
    crop_border: int = 0,
    max_disparity: int | None = None,
    input_order: Literal["HWC", "CHW"] = "HWC",
) -> PairMetric:
    """Per cent of pixels seen in both views whose disparity is off by more than the threshold, or not found at all.

    Lower is better; the disparities and the reference are those of calculate_disparity_error.

    Args:
        threshold: Pixels.
        crop_border, max_disparity, input_order: As in calculate_disparity_error.
    """
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold: expected a number of pixels above 0, got {threshold}")
    return PairMetric(
        functools.partial(_bad, threshold=threshold),
        what=f"bad disparities, off by more than {threshold:g} px or not matched, of pixels seen in both views",
        unit="%",
        higher_is_better=False,
        crop_border=crop_border,
        max_disparity=max_disparity,
        input_order=input_order,
    )


@METRICS.register
def calculate_warped_psnr(
    *,
    against: Literal["restored", "target"] = "restored",
    crop_border: int = 0,
    max_disparity: int | None = None,
    input_order: Literal["HWC", "CHW"] = "HWC",
) -> PairMetric:
    """PSNR in dB of RGB of the restored right view, warped to the left one, over pixels that both views see.

    It is warped by the true disparity where the set gives one, else by that between the views of the target.

    Args:
        against: What it is compared with: the restored left view, which tells whether the two agree (blurred ones
            do, too), or the target's left view.
        crop_border: Pixels of the left view that are left out at each side.
        max_disparity: As in calculate_disparity_error.
        input_order: Of arrays given to a call.
    """
    if against not in ("restored", "target"):
        raise ValueError(f"against: expected 'restored' or 'target', got {against!r}")
    return PairMetric(
        functools.partial(_warped, against=against),
        what=f"PSNR of the right view warped to the {against} left one, RGB, pixels seen in both views",
        unit="dB",
        higher_is_better=True,
        crop_border=crop_border,
        max_disparity=max_disparity,
        input_order=input_order,
    )
