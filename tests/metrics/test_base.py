"""What PSNR and SSIM share: channel order, views, ranges, definitions, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch

from vsr import metrics


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two RGB images uint8 of 40 x 90."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (40, 90, 3), dtype=np.uint8)
    noisy = target.astype(int) + rng.integers(-20, 21, target.shape)
    return noisy.clip(0, 255).astype(np.uint8), target


@pytest.mark.parametrize("name", ["calculate_psnr", "calculate_ssim"])
@pytest.mark.parametrize("luma", [False, True])
def test_rgb_frames_measure_as_the_official_call_on_their_bgr(
    pair: tuple[np.ndarray, np.ndarray], name: str, luma: bool
) -> None:
    metric = metrics.build({"type": name, "crop_border": 2, "test_y_channel": luma})
    assert metric.measure(*pair) == pytest.approx(metric(*(image[..., ::-1] for image in pair)), rel=1e-12)
    if luma:  # else the channel order cannot be seen
        assert abs(metric.measure(*pair) - metric(*pair)) > 1e-4


@pytest.mark.parametrize("name", ["calculate_psnr", "calculate_ssim"])
def test_a_stereo_pair_is_the_mean_of_its_views(pair: tuple[np.ndarray, np.ndarray], name: str) -> None:
    restored, target = pair
    other = 255 - restored
    metric = metrics.build({"type": name})
    stereo = metric.measure(np.concatenate([restored, other], 2), np.concatenate([target, target], 2))
    assert stereo == pytest.approx((metric.measure(restored, target) + metric.measure(other, target)) / 2)


@pytest.mark.parametrize("name", ["calculate_psnr", "calculate_ssim"])
def test_the_left_metrics_see_the_left_view_from_column_64_on(pair: tuple[np.ndarray, np.ndarray], name: str) -> None:
    restored, target = pair
    left = metrics.build({"type": f"{name}_left", **({"ssim3d": False} if "ssim" in name else {})})
    stereo = [np.concatenate([image, np.zeros_like(image)], 2) for image in pair]
    stereo[0][:, :64] = 0
    expected = metrics.build({"type": name}).measure(restored[:, 64:], target[:, 64:])
    assert left.measure(*stereo) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["calculate_psnr", "calculate_ssim"])
def test_floats_within_0_and_1_measure_as_their_255_fold(pair: tuple[np.ndarray, np.ndarray], name: str) -> None:
    metric = metrics.build({"type": name, "test_y_channel": True})
    assert metric(*(image / 255 for image in pair)) == pytest.approx(metric(*pair), rel=1e-7)


@pytest.mark.parametrize(
    ("option", "definition"),
    [
        ({"type": "calculate_psnr", "crop_border": 4}, "PSNR, RGB, crop 4"),
        ({"type": "calculate_psnr", "test_y_channel": True}, "PSNR, Y, crop 0"),
        ({"type": "calculate_ssim"}, "SSIM, RGB, 2-D window, crop 0"),
        ({"type": "calculate_ssim", "ssim3d": True}, "SSIM, RGB, 3-D window, crop 0"),
        (
            {"type": "calculate_ssim_left"},
            "SSIM, RGB, 3-D window, crop 0, left view without its first 64 columns",
        ),
    ],
)
def test_a_metric_says_what_it_measures(option: dict[str, Any], definition: str) -> None:
    metric = metrics.build(option)
    assert metric.definition == definition
    assert metric.higher_is_better


@pytest.mark.parametrize("name", ["calculate_psnr", "calculate_ssim"])
def test_unlike_sizes_are_both_named(name: str) -> None:
    small, large = np.zeros((12, 16, 3), np.uint8), np.zeros((24, 32, 3), np.uint8)
    metric = metrics.build({"type": name})
    for measure in (metric, metric.measure):
        with pytest.raises(ValueError, match=r"expected one size, got \(12, 16, 3\) and \(24, 32, 3\)"):
            measure(small, large)
    with pytest.raises(ValueError, match="expected one size"):
        metric(torch.zeros(3, 12, 16), torch.zeros(3, 24, 32))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((16, 16, 4), np.uint8), "1, 3 or 6 channels"),
        (np.zeros((3, 16, 16), np.uint8), "in the order HWC"),
        (np.zeros((16, 16, 3), bool), "expected images of numbers"),
        (np.zeros((0, 16, 3), np.uint8), "expected images of numbers"),
        (torch.zeros(2, 3, 16, 16), r"got torch.float32 \(2, 3, 16, 16\)"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "expected a float tensor"),
        ("image", "expected two arrays or two tensors, got str"),
    ],
    ids=["alpha", "CHW", "bool", "empty", "batch", "uint8 tensor", "text"],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.build({"type": "calculate_psnr"})(image, image)


def test_a_crop_that_leaves_nothing_is_refused() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="crop_border: expected to leave something of 16 x 16, got 8"):
        metrics.build({"type": "calculate_psnr", "crop_border": 8})(image, image)
    with pytest.raises(ValueError, match="64 columns of the left view"):
        metrics.build({"type": "calculate_psnr_left"})(image, image)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"crop_border": -1}, "crop_border: expected a number of pixels >= 0, got -1"),
        ({"input_order": "WHC"}, "input_order: expected 'HWC' or 'CHW', got 'WHC'"),
        ({"crop_boarder": 4}, "Did you mean 'crop_border'"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.build({"type": "calculate_psnr", **option})
