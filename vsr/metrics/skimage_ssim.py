"""Structural similarity as scikit-image defines it, which the results of NAFSSR are given in."""

from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from vsr.metrics.base import Array, ImageMetric, describe, luma
from vsr.registry import METRICS

_SIDE = 7  # of the window, all of whose pixels count alike
_SAMPLE = _SIDE**2 / (_SIDE**2 - 1)  # variances are those of a sample
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SkimageSSIM(ImageMetric):
    """Mean structural similarity over all windows that lie inside, and over the channels; 1 for equal images."""

    def compare(self, restored: Array, target: Array) -> float:
        images = [luma(image) + 16.0 if self.luma and image.shape[2] == 3 else image for image in (restored, target)]
        height, width = images[0].shape[:2]
        if min(height, width) < _SIDE:
            raise ValueError(f"restored: expected at least {_SIDE} x {_SIDE} after the crop, got {height} x {width}")
        x, y = (image.astype(np.float64) for image in images)
        mean_x, mean_y = _means(x), _means(y)
        covariance = _SAMPLE * (_means(x * y) - mean_x * mean_y)
        variances = _SAMPLE * (_means(x * x + y * y) - (mean_x**2 + mean_y**2))
        luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
        return float((luminance * (2 * covariance + _C2) / (variances + _C2)).mean())

    def compare_tensors(self, restored: Tensor, target: Tensor) -> float:
        return self.compare(*(np.ascontiguousarray(255 * t.cpu().permute(1, 2, 0).numpy()) for t in (restored, target)))


def _means(values: Array) -> Array:
    """Return the means of all windows of an array (h, w, c)."""
    radius = _SIDE // 2
    return cv2.blur(values, (_SIDE, _SIDE))[radius:-radius, radius:-radius]


@METRICS.register
def calculate_skimage_ssim(
    *, crop_border: int = 0, test_y_channel: bool = False, input_order: Literal["HWC", "CHW"] = "HWC"
) -> SkimageSSIM:
    """SSIM of RGB or of luma as scikit-image's structural_similarity, which NAFSSR is measured with.

    Its window is flat, 7 x 7. Published NAFSSR figures are this one's; calculate_ssim's are others.

    Args:
        crop_border: Pixels that are left out at each side.
        test_y_channel: Compare luma (BT.601, not rounded).
        input_order: Of arrays given to a call.
    """
    return _ssim(crop_border, test_y_channel, input_order, left_only=False)


@METRICS.register
def calculate_skimage_ssim_left(
    *, crop_border: int = 0, test_y_channel: bool = False, input_order: Literal["HWC", "CHW"] = "HWC"
) -> SkimageSSIM:
    """calculate_skimage_ssim of the left view of a stereo pair without its first 64 columns."""
    return _ssim(crop_border, test_y_channel, input_order, left_only=True)


def _ssim(
    crop_border: int, test_y_channel: bool, input_order: Literal["HWC", "CHW"], *, left_only: bool
) -> SkimageSSIM:
    return SkimageSSIM(
        definition=describe(
            "SSIM",
            test_y_channel=test_y_channel,
            crop_border=crop_border,
            left_only=left_only,
            window="flat 7 x 7 window (scikit-image)",
        ),
        unit="",
        crop_border=crop_border,
        test_y_channel=test_y_channel,
        input_order=input_order,
        left_only=left_only,
    )
