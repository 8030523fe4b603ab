"""SSIM against the official values, a direct evaluation, and its form for GPUs."""

from typing import Any

import numpy as np
import pytest
import torch
from golden.metric_cases import cases, expected, images, option

from vsr import metrics
from vsr.metrics.ssim import SSIM


@pytest.mark.parametrize("case", cases("basicsr", "ssim"), ids=str)
def test_ssim_equals_basicsr(case: dict[str, Any]) -> None:
    value = metrics.build(option(case))(*images("basicsr", case))
    assert value == pytest.approx(expected(case), rel=0, abs=1e-6)


@pytest.mark.parametrize("case", cases("nafnet", "ssim"), ids=str)
def test_ssim_equals_nafnet(case: dict[str, Any]) -> None:
    value = metrics.build(option(case, ssim3d=True))(*images("nafnet", case))
    # the official 3-D window is evaluated in float32
    tolerance = 1e-6 if case.get("ssim3d") is False or case.get("test_y_channel") else 1e-4
    assert value == pytest.approx(expected(case), rel=0, abs=tolerance)


@pytest.mark.parametrize("height", [11, 42, 43, 120], ids=lambda h: f"{h} rows")
def test_the_mean_over_strips_is_the_mean_over_the_whole(height: int) -> None:
    # evaluated directly: a window about each pixel, moments weighted by the Gaussian, one channel
    rng = np.random.default_rng(height)
    x, y = (rng.integers(0, 256, (height, 13)).astype(float) for _ in range(2))
    g = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(g, g) / g.sum() ** 2
    values = []
    for top in range(height - 10):
        for left in range(3):
            p, q = (image[top : top + 11, left : left + 11] for image in (x, y))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + 6.5025) * (2 * cov + 58.5225) / ((mp**2 + mq**2 + 6.5025) * (vp + vq + 58.5225))
            )
    assert metrics.build({"type": "calculate_ssim"})(x, y) == pytest.approx(np.mean(values), rel=1e-9)


@pytest.mark.parametrize("low", [0, 5, 250])
def test_single_precision_for_8_bits_stays_below_the_printed_digits(low: int) -> None:
    # the hardest case for it: bright flat parts whose variances are a level, beside dark ones
    rng = np.random.default_rng(low)
    x, y = (rng.integers(250, 253, (64, 80, 3), dtype=np.uint8) for _ in range(2))
    x[:, 40:], y[:, 40:] = low, low
    metric = metrics.build({"type": "calculate_ssim"})
    assert metric(x, y) == pytest.approx(metric(x.astype(np.float64), y.astype(np.float64)), rel=0, abs=1e-5)


@pytest.mark.parametrize("luma", [False, True])
@pytest.mark.parametrize("ssim3d", [False, True])
def test_the_form_for_gpus_equals_the_one_for_cpus(luma: bool, ssim3d: bool) -> None:
    metric = metrics.build({"type": "calculate_ssim", "test_y_channel": luma, "ssim3d": ssim3d})
    assert isinstance(metric, SSIM)
    torch.manual_seed(0)
    x = torch.rand(1 if luma else 3, 60, 23, dtype=torch.double)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    assert metric.compare_on_device(x, y) == pytest.approx(metric.compare_tensors(x, y), rel=1e-9)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="expected at least 11 x 11 after the crop, got 10 x 10"):
        metrics.build({"type": "calculate_ssim", "crop_border": 5})(image, image)
    # with its border continued it is large enough
    assert metrics.build({"type": "calculate_ssim", "crop_border": 5, "ssim3d": True})(image, image) == 1.0
