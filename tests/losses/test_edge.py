"""The loss of the edges against a pyramid that is written out pixel by pixel."""

import numpy as np
import pytest
import torch

from vsr import losses

KERNEL = np.outer(*[[0.05, 0.25, 0.4, 0.25, 0.05]] * 2)


def blurred(image: np.ndarray) -> np.ndarray:
    padded, out = np.pad(image, 2, mode="edge"), np.empty_like(image)
    for y, x in np.ndindex(image.shape):
        out[y, x] = (KERNEL * padded[y : y + 5, x : x + 5]).sum()
    return out


def edges(image: np.ndarray) -> np.ndarray:
    """The image, less a half-size one whose pixels are set apart by zeros and spread."""
    smooth, coarse = blurred(image), np.zeros_like(image)
    coarse[::2, ::2] = 4 * smooth[::2, ::2]
    return image - blurred(coarse)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 5)])
def test_it_is_the_smooth_difference_of_the_finest_levels(size: tuple[int, int]) -> None:
    pred, target = np.random.default_rng(0).random((2, 2, 3, *size))
    pairs = zip(pred.reshape(6, *size), target.reshape(6, *size), strict=True)
    expected = np.mean([np.sqrt((edges(p) - edges(t)) ** 2 + 1e-3**2).mean() for p, t in pairs])
    value = losses.build({"type": "EdgeLoss", "loss_weight": 0.05})(torch.from_numpy(pred), torch.from_numpy(target))
    assert value.item() == pytest.approx(0.05 * expected, rel=1e-9)


def test_a_shift_of_brightness_has_no_edges_but_at_the_border() -> None:
    loss = losses.build({"type": "EdgeLoss"})
    flat, noise = torch.zeros(1, 3, 64, 64), 0.1 * torch.randn(1, 3, 64, 64)
    floor = loss(flat, flat).item()
    assert loss(flat + 0.1, flat).item() - floor < 0.05 * (loss(noise, flat).item() - floor)


def test_a_negative_eps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eps: expected a positive number .* got -1"):
        losses.build({"type": "EdgeLoss", "eps": -1.0})
