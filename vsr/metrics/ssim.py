"""Structural similarity (Wang et al., IEEE Trans. Image Processing 13, 2004), in the field's three definitions."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.metrics.base import Array, ImageMetric, describe, luma
from vsr.registry import METRICS

Values = TypeVar("Values", Array, Tensor)

_RADIUS = 5  # of the Gaussian window, 11 x 11 with sigma 1.5
_ROWS = 32  # of the map computed at once: its arrays stay in the cache
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def _gaussian() -> Array:
    positions = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(positions**2) / (2 * 1.5**2))
    return weights / weights.sum()


_WINDOW = _gaussian()


class SSIM(ImageMetric):
    """Mean structural similarity; 1 for equal images.

    Args:
        whole_frame: Continue the image by its border pixels and average over all of it; else average
            over the pixels whose window lies inside.
        over_channels: Let the window reach over the channels too (3-D).
        rest: As for ImageMetric.
    """

    def __init__(
        self,
        *,
        definition: str,
        crop_border: int,
        test_y_channel: bool,
        input_order: Literal["HWC", "CHW"],
        left_only: bool,
        whole_frame: bool,
        over_channels: bool,
    ) -> None:
        super().__init__(
            definition=definition,
            unit="",
            crop_border=crop_border,
            test_y_channel=test_y_channel,
            input_order=input_order,
            left_only=left_only,
        )
        self.whole_frame, self.over_channels = whole_frame, over_channels

    def compare(self, restored: Array, target: Array) -> float:
        images = [luma(image) + 16.0 if self.luma and image.shape[2] == 3 else image for image in (restored, target)]
        self._check_window(*images[0].shape[:2])
        if self.whole_frame:
            r = _RADIUS
            images = [cv2.copyMakeBorder(image, r, r, r, r, cv2.BORDER_REPLICATE) for image in images]
        images = [image.reshape(*image.shape[:2], -1) for image in images]  # OpenCV drops a single channel
        mixing = _mixing(images[0].shape[2]) if self.over_channels else None

        def blur(values: Array) -> Array:
            blurred = cv2.sepFilter2D(values, -1, _WINDOW, _WINDOW)
            if mixing is not None:
                blurred = cv2.transform(blurred, mixing)
            return blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]

        # Single precision where the images have 8 bits: twice as fast, 1e-8 off, and 5e-6 if bright flat parts stand
        # beside dark ones: their variances are small differences of large squares, hence the shift to the mean.
        precision = np.float32 if restored.dtype == np.uint8 else np.float64
        total, count = 0.0, 0
        for top in range(0, images[0].shape[0] - 2 * _RADIUS, _ROWS):
            rows = slice(top, top + _ROWS + 2 * _RADIUS)
            level = float(images[1][rows].mean())
            x, y = (np.subtract(image[rows], level, dtype=precision) for image in images)
            similarity = _similarity(x, y, blur, level)
            total += float(similarity.sum(dtype=np.float64))
            count += similarity.size
        return total / count

    def compare_tensors(self, restored: Tensor, target: Tensor) -> float:
        if restored.device.type == "cpu":  # OpenCV is many times faster there
            arrays = (np.ascontiguousarray(255 * t.permute(1, 2, 0).numpy()) for t in (restored, target))
            return self.compare(*arrays)
        return self.compare_on_device(restored, target)

    def compare_on_device(self, restored: Tensor, target: Tensor) -> float:
        """As ``compare`` for (c, h, w) in [0, 1], in torch alone, so that a frame need not leave its GPU."""
        self._check_window(*restored.shape[1:])
        x, y = 255 * restored, 255 * target
        if self.whole_frame:
            x, y = (F.pad(t[None], [_RADIUS] * 4, mode="replicate")[0] for t in (x, y))
        mixing = torch.from_numpy(_mixing(x.shape[0])).to(x) if self.over_channels else None

        def blur(values: Tensor) -> Tensor:
            for axis in (1, 2):
                length = values.shape[axis] - 2 * _RADIUS
                values = torch.stack([w * values.narrow(axis, k, length) for k, w in enumerate(_WINDOW.tolist())]).sum(
                    0
                )
            return values if mixing is None else torch.einsum("oc,chw->ohw", mixing, values)

        return float(_similarity(x, y, blur).mean().item())

    def _check_window(self, height: int, width: int) -> None:
        side = 2 * _RADIUS + 1
        if not self.whole_frame and min(height, width) < side:
            raise ValueError(f"restored: expected at least {side} x {side} after the crop, got {height} x {width}")


def _similarity(x: Values, y: Values, blur: Callable[[Any], Any], level: float = 0.0) -> Any:
    """Return the map of similarities of x + level and y + level, in [0, 255]; ``blur`` makes it smaller."""
    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)  # the formula needs their sum only
    mean_x, mean_y = mean_x + level, mean_y + level
    luminance = (2 * (mean_x * mean_y) + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return luminance * (2 * covariance + _C2) / (variances + _C2)


def _mixing(channels: int) -> Array:
    """The window across ``channels`` channels whose ends are repeated: (channels, channels)."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    matrix = np.zeros((channels, channels))
    for channel in range(channels):
        np.add.at(matrix[channel], (channel + offsets).clip(0, channels - 1), _WINDOW)
    return matrix


@METRICS.register
def calculate_ssim(
    *,
    crop_border: int = 0,
    test_y_channel: bool = False,
    input_order: Literal["HWC", "CHW"] = "HWC",
    ssim3d: bool = False,
) -> SSIM:
    """SSIM of RGB, mean over the channels, or of luma.

    Args:
        crop_border: Pixels that are left out at each side.
        test_y_channel: Compare luma (BT.601, not rounded).
        input_order: Of arrays given to a call.
        ssim3d: The definition of NAFNet's repository instead of BasicSR's: the window reaches over the
            channels too, and borders count. Its values are higher: 0.967 where the other says 0.948.
    """
    return _ssim(crop_border, test_y_channel, input_order, ssim3d, left_only=False)


@METRICS.register
def calculate_ssim_left(
    *,
    crop_border: int = 0,
    test_y_channel: bool = False,
    input_order: Literal["HWC", "CHW"] = "HWC",
    ssim3d: bool = True,
) -> SSIM:
    """SSIM of the left view of a stereo pair without its first 64 columns; arguments as in calculate_ssim.

    Only NAFNet's repository has it, so its definition of SSIM is the default here.
    """
    return _ssim(crop_border, test_y_channel, input_order, ssim3d, left_only=True)


def _ssim(
    crop_border: int, test_y_channel: bool, input_order: Literal["HWC", "CHW"], ssim3d: bool, *, left_only: bool
) -> SSIM:
    over_channels = ssim3d and not test_y_channel
    window = "3-D window" if over_channels else "2-D window over borders" if ssim3d else "2-D window"
    return SSIM(
        definition=describe(
            "SSIM", test_y_channel=test_y_channel, crop_border=crop_border, left_only=left_only, window=window
        ),
        crop_border=crop_border,
        test_y_channel=test_y_channel,
        input_order=input_order,
        left_only=left_only,
        whole_frame=ssim3d,
        over_channels=over_channels,
    )
