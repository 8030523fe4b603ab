"""PSNR against the official values and by hand."""

import math
from typing import Any

import numpy as np
import pytest
from golden.metric_cases import cases, expected, images, option

from vsr import metrics


@pytest.mark.parametrize("case", cases("basicsr", "psnr"), ids=str)
def test_psnr_equals_basicsr(case: dict[str, Any]) -> None:
    value = metrics.build(option(case))(*images("basicsr", case))
    assert value == pytest.approx(expected(case), rel=0, abs=1e-6)


@pytest.mark.parametrize("case", cases("nafnet", "psnr"), ids=str)
def test_psnr_equals_nafnet(case: dict[str, Any]) -> None:
    value = metrics.build(option(case))(*images("nafnet", case))
    # on luma the official code works in float32, whose steps are 4e-6 here
    tolerance = 4e-6 if case.get("test_y_channel") else 1e-6
    assert value == pytest.approx(expected(case), rel=0, abs=tolerance)


def test_the_golden_files_have_all_their_cases() -> None:
    counts = [len(cases(s, n)) for s in ("basicsr", "nafnet") for n in ("psnr", "ssim")]
    assert counts == [15, 15, 11, 19]


def test_an_error_of_one_level_in_a_quarter_of_the_values_is_54_dB() -> None:
    # mse 1/4: 20 log10(255) + 10 log10(4)
    target = np.full((4, 4, 3), 100, np.uint8)
    restored = target.copy()
    restored[0] = 99
    assert metrics.build({"type": "calculate_psnr"}).measure(restored, target) == pytest.approx(54.1514, abs=1e-4)


def test_dark_uint8_images_are_not_taken_for_the_range_0_to_1() -> None:
    dark = np.zeros((4, 4, 3), np.uint8)
    assert metrics.build({"type": "calculate_psnr"})(dark, dark + 1) == pytest.approx(20 * math.log10(255))


def test_equal_images_are_infinitely_good_and_a_nan_is_not() -> None:
    metric = metrics.build({"type": "calculate_psnr"})
    image = np.full((4, 4, 3), 7.0)
    assert metric(image, image) == math.inf
    image[0, 0, 0] = math.nan
    assert math.isnan(metric(image, np.full((4, 4, 3), 7.0)))
