"""scikit-image's SSIM against the package itself, a window computed by hand, and the other definitions."""

import numpy as np
import pytest
import torch

from vsr import metrics


def images(channels: int = 3, size: tuple[int, int] = (40, 90)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return x, np.clip(x + rng.normal(0, 20, x.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [3, 6])
def test_it_is_scikit_images_value(channels: int) -> None:
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    x, y = images(channels)
    # of a pair the mean over six channels is the mean over two views
    expected = structural_similarity(x, y, channel_axis=2)
    assert metrics.build({"type": "calculate_skimage_ssim"}).measure(x, y) == pytest.approx(expected, abs=1e-9)
    left = structural_similarity(x[:, 64:, :3], y[:, 64:, :3], channel_axis=2)
    assert metrics.build({"type": "calculate_skimage_ssim_left"}).measure(x, y) == pytest.approx(left, abs=1e-9)


def test_a_single_window_is_what_the_formula_says() -> None:
    x, y = images(size=(7, 7))
    values = []
    for p, q in zip(x.reshape(49, 3).T.astype(float), y.reshape(49, 3).T.astype(float), strict=True):
        covariance = np.cov(p, q)  # of a sample: divided by 48
        c1, c2 = 6.5025, 58.5225
        values.append(
            (2 * p.mean() * q.mean() + c1) * (2 * covariance[0, 1] + c2)
            / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
        )  # fmt: skip
    assert metrics.build({"type": "calculate_skimage_ssim"}).measure(x, y) == pytest.approx(np.mean(values), abs=1e-12)


def test_the_three_definitions_differ_and_say_so() -> None:
    x, y = images()
    options = [
        {"type": "calculate_skimage_ssim"},
        {"type": "calculate_ssim"},
        {"type": "calculate_ssim", "ssim3d": True},
    ]
    built = [metrics.build(option) for option in options]
    values = [metric.measure(x, y) for metric in built]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 3e-4
    assert len({metric.definition for metric in built}) == 3
    assert "scikit-image" in built[0].definition


def test_tensors_borders_and_luma() -> None:
    x, y = images()
    metric = metrics.build({"type": "calculate_skimage_ssim", "crop_border": 4})
    assert metric.measure(x, y) == metrics.build({"type": "calculate_skimage_ssim"}).measure(
        x[4:-4, 4:-4], y[4:-4, 4:-4]
    )
    tensors = (torch.from_numpy(image).permute(2, 0, 1).double() / 255 for image in (x, y))
    assert metric(*tensors) == pytest.approx(metric.measure(x, y), abs=1e-9)
    assert metric.measure(x, x) == 1
    luma = metrics.build({"type": "calculate_skimage_ssim", "test_y_channel": True})
    assert luma.measure(x, y) != metric.measure(x, y)
    with pytest.raises(ValueError, match="at least 7 x 7 after the crop, got 6 x 90"):
        metrics.build({"type": "calculate_skimage_ssim"}).measure(x[:6], y[:6])
