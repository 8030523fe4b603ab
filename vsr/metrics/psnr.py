"""Peak signal-to-noise ratio."""

import math
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from vsr.metrics.base import Array, ImageMetric, describe, luma
from vsr.registry import METRICS

_ROWS = 32  # of luma computed at once: its arrays stay in the cache


class PSNR(ImageMetric):
    """10 log10(255^2 / mean squared error) in dB; infinite for equal images.

    On tensors it is the official form for them, 10 log10(1 / (mse + 1e-8)), which ends at 80 dB.
    """

    def compare(self, restored: Array, target: Array) -> float:
        if self.luma:
            total, count = 0.0, restored.shape[0] * restored.shape[1]
            for top in range(0, restored.shape[0], _ROWS):
                rows = slice(top, top + _ROWS)
                # luma is linear: that of the difference is the difference, without the offset
                difference = luma(np.subtract(restored[rows], target[rows], dtype=np.float64))
                total += cv2.norm(difference, cv2.NORM_L2SQR)
        else:
            total, count = cv2.norm(restored, target, cv2.NORM_L2SQR), restored.size  # of uint8: a sum of integers
        mse = total / count
        return 10 * math.log10(255.0**2 / mse) if mse else (math.nan if math.isnan(mse) else math.inf)

    def compare_tensors(self, restored: Tensor, target: Tensor) -> float:
        mse = (restored - target).square().mean().item()
        return -10 * math.log10(mse + 1e-8)


@METRICS.register
def calculate_psnr(
    *, crop_border: int = 0, test_y_channel: bool = False, input_order: Literal["HWC", "CHW"] = "HWC"
) -> PSNR:
    """PSNR in dB of RGB, or of luma.

    Args:
        crop_border: Pixels that are left out at each side.
        test_y_channel: Compare luma (BT.601, not rounded).
        input_order: Of arrays given to a call.
    """
    return _psnr(crop_border, test_y_channel, input_order, left_only=False)


@METRICS.register
def calculate_psnr_left(
    *, crop_border: int = 0, test_y_channel: bool = False, input_order: Literal["HWC", "CHW"] = "HWC"
) -> PSNR:
    """PSNR of the left view of a stereo pair without its first 64 columns; arguments as in calculate_psnr."""
    return _psnr(crop_border, test_y_channel, input_order, left_only=True)


def _psnr(crop_border: int, test_y_channel: bool, input_order: Literal["HWC", "CHW"], *, left_only: bool) -> PSNR:
    definition = describe("PSNR", test_y_channel=test_y_channel, crop_border=crop_border, left_only=left_only)
    return PSNR(
        definition=definition,
        unit="dB",
        crop_border=crop_border,
        test_y_channel=test_y_channel,
        input_order=input_order,
        left_only=left_only,
    )
