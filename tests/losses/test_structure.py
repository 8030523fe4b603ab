"""The structural losses against the metric of the same name and formulas that are written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr import losses, metrics


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A smooth image with some noise, and itself without."""
    torch.manual_seed(0)
    target = F.interpolate(torch.rand(*shape[:2], 6, 6, dtype=dtype), shape[2:], mode="bicubic").clamp(0, 1)
    return (target + 0.05 * torch.randn_like(target)).clamp(0, 1), target


def test_it_is_one_less_the_metric_of_that_name() -> None:
    pred, target = pair(1, 3, 40, 33)
    expected = metrics.build({"type": "calculate_ssim"})(pred[0], target[0])
    value = losses.build({"type": "SSIMLoss"})(pred, target)
    assert 0.1 < value.item() < 0.9
    assert 1 - value.item() == pytest.approx(expected, abs=1e-9)
    assert losses.build({"type": "SSIMLoss", "loss_weight": 0.2})(pred, target).item() == pytest.approx(0.2 * value)


def test_single_precision_is_enough_for_bright_images() -> None:
    pred, target = (0.9 + 0.1 * image for image in pair(1, 3, 40, 40))
    loss = losses.build({"type": "SSIMLoss"})
    assert loss(pred.float(), target.float()).item() == pytest.approx(loss(pred, target).item(), abs=1e-5)


@pytest.mark.parametrize("option", [{"type": "SSIMLoss"}, {"type": "MSSSIMLoss", "levels": 2}])
def test_the_gradient_is_the_slope_of_the_value(option: dict[str, object]) -> None:
    pred, target = pair(1, 1, 22, 22)
    loss = losses.build(option)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred.requires_grad_(), fast_mode=True)


def maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure, of all windows of two planes, each window by itself."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    views = [np.lib.stride_tricks.sliding_window_view(plane, (11, 11)) for plane in (x, y)]
    mean_x, mean_y = ((window * view).sum((-2, -1)) for view in views)
    dx, dy = (view - mean[..., None, None] for view, mean in zip(views, (mean_x, mean_y), strict=True))
    var_x, var_y, covariance = ((window * product).sum((-2, -1)) for product in (dx * dx, dy * dy, dx * dy))
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return luminance, (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)


@pytest.mark.parametrize(
    ("levels", "exponents"),
    [(5, [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]), (2, [0.0448 / 0.3304, 0.2856 / 0.3304]), (1, [1.0])],
)
def test_multi_scale_is_the_product_over_the_sizes(levels: int, exponents: list[float]) -> None:
    pred, target = pair(1, 2, 177, 180)
    products = []
    for x, y in zip(pred[0].numpy(), target[0].numpy(), strict=True):
        product = 1.0
        for level, exponent in enumerate(exponents):
            luminance, structure = maps(x, y)
            last = level == levels - 1
            product *= (luminance * structure if last else structure).mean() ** exponent
            h, w = x.shape[0] // 2, x.shape[1] // 2
            x, y = (p[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3)) for p in (x, y))
        products.append(product)
    value = losses.build({"type": "MSSSIMLoss", "levels": levels})(pred, target)
    assert 0 < value.item() < 0.95
    assert value.item() == pytest.approx(1 - np.mean(products), rel=1e-8)


def test_one_level_is_ssim() -> None:
    pred, target = pair(2, 1, 20, 20)
    one = losses.build({"type": "MSSSIMLoss", "levels": 1})(pred, target)
    torch.testing.assert_close(one, losses.build({"type": "SSIMLoss"})(pred, target))


def test_a_negative_has_a_loss_of_about_one_and_a_finite_gradient() -> None:
    _, target = pair(1, 3, 22, 22)
    pred = (1 - target).requires_grad_()
    value = losses.build({"type": "MSSSIMLoss", "levels": 2})(pred, target)
    value.backward()
    assert 0.9 < value.item() <= 1
    assert pred.grad is not None
    assert pred.grad.isfinite().all()


@pytest.mark.parametrize(
    ("option", "side", "message"),
    [
        ({"type": "SSIMLoss"}, 10, "expected sides of at least 11 pixels, got 20 x 10"),
        ({"type": "MSSSIMLoss"}, 175, "at least 176 pixels, got 185 x 175 with levels: 5. Lower it, or use larger"),
        ({"type": "MSSSIMLoss", "levels": 2}, 21, "at least 22 pixels"),
    ],
)
def test_small_images_are_refused(option: dict[str, object], side: int, message: str) -> None:
    image = torch.rand(1, 3, side + 10, side)
    with pytest.raises(ValueError, match=message):
        losses.build(option)(image, image)


@pytest.mark.parametrize("levels", [0, 6])
def test_a_number_of_levels_without_weights_is_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=f"levels: expected 1 to 5, got {levels}"):
        losses.build({"type": "MSSSIMLoss", "levels": levels})
