"""Mean absolute error."""

from typing import Literal

import numpy as np
from torch import Tensor

from vsr.metrics.base import Array, ImageMetric, describe, luma
from vsr.registry import METRICS


class L1(ImageMetric):
    """Mean absolute difference of images in [0, 1]; 0 for equal ones, and lower is better."""

    higher_is_better = False

    def compare(self, restored: Array, target: Array) -> float:
        pair = [luma(image) if self.luma else image.astype(np.float64) for image in (restored, target)]
        return float(np.abs(pair[0] - pair[1]).mean()) / 255

    def compare_tensors(self, restored: Tensor, target: Tensor) -> float:
        return float((restored - target).abs().mean())


@METRICS.register
def calculate_l1(
    *, crop_border: int = 0, test_y_channel: bool = False, input_order: Literal["HWC", "CHW"] = "HWC"
) -> L1:
    """Mean absolute error of RGB in [0, 1], or of luma; lower is better.

    Args:
        crop_border: Pixels that are left out at each side.
        test_y_channel: Compare luma (BT.601, not rounded).
        input_order: Of arrays given to a call.
    """
    definition = describe("L1", test_y_channel=test_y_channel, crop_border=crop_border, left_only=False)
    return L1(
        definition=definition, unit="", crop_border=crop_border, test_y_channel=test_y_channel,
        input_order=input_order, left_only=False,
    )  # fmt: skip
