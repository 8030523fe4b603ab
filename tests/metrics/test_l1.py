"""Mean absolute error of pictures."""

import numpy as np
import pytest
import torch

from vsr.metrics import build


def test_the_error_is_the_mean_of_absolute_differences_in_0_to_1() -> None:
    target = np.zeros((2, 3, 3), np.uint8)
    restored = target.copy()
    restored[0, 0] = (255, 51, 0)  # 1, 0.2 and 0 of 18 values
    metric = build({"type": "calculate_l1"})
    assert metric.measure(restored, target) == pytest.approx(1.2 / 18)
    assert metric.measure(target, restored) == pytest.approx(1.2 / 18)  # no wrapping around in uint8
    assert metric.measure(target, target) == 0
    tensors = [torch.from_numpy(image).permute(2, 0, 1).double() / 255 for image in (restored, target)]
    assert metric(*tensors) == pytest.approx(1.2 / 18)
    assert build({"type": "calculate_l1", "crop_border": 1}).measure(
        np.pad(restored, ((1, 1), (1, 1), (0, 0)), constant_values=9), np.pad(target, ((1, 1), (1, 1), (0, 0)))
    ) == pytest.approx(1.2 / 18)
    assert not metric.higher_is_better
    assert metric.definition == "L1, RGB, crop 0"


def test_luma_weighs_colours_as_bt_601_does() -> None:
    target = np.zeros((1, 1, 3), np.uint8)
    green = target.copy()
    green[..., 1] = 255
    metric = build({"type": "calculate_l1", "test_y_channel": True})
    assert metric.measure(green, target) == pytest.approx(128.553 / 255)
    tensors = [torch.from_numpy(image).permute(2, 0, 1).double() / 255 for image in (green, target)]
    assert metric(*tensors) == pytest.approx(128.553 / 255)
