"""The loss of the spectra against a transform that is written out."""

from typing import Any

import numpy as np
import pytest
import torch

from vsr import losses


def parts(images: np.ndarray) -> np.ndarray:
    """The discrete Fourier transform as two products of matrices, and its half that a real image needs."""
    height, width = images.shape[-2:]
    rows = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
    columns = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
    spectrum = (rows @ images @ columns)[..., : width // 2 + 1]
    return np.stack((spectrum.real, spectrum.imag), -1)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize(("norm", "factor"), [("backward", 1.0), ("ortho", -0.5), ("forward", -1.0)])
def test_it_is_the_mean_difference_of_the_parts(size: tuple[int, int], norm: str, factor: float) -> None:
    generator = np.random.default_rng(0)
    pred, target = generator.random((2, 2, 3, *size))
    difference = np.abs(parts(pred) - parts(target)) * (size[0] * size[1]) ** (factor if factor < 0 else 0)
    for reduction, expected in (("mean", difference.mean()), ("sum", difference.sum()), ("none", difference)):
        loss = losses.build({"type": "FFTLoss", "loss_weight": 0.1, "reduction": reduction, "norm": norm})
        value = loss(torch.from_numpy(pred), torch.from_numpy(target))
        np.testing.assert_allclose(value.numpy(), 0.1 * expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_the_published_form() -> None:
    torch.manual_seed(0)
    pred, target = torch.rand(2, 1, 3, 6, 8, dtype=torch.float64)
    mine, theirs = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    losses.build({"type": "FFTLoss"})(mine, target).backward()
    a, b = torch.fft.rfft2(theirs), torch.fft.rfft2(target)
    ((a.real - b.real).abs().mean() / 2 + (a.imag - b.imag).abs().mean() / 2).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"norm": "unitary"}, "norm: expected 'backward', 'ortho' or 'forward', got 'unitary'"),
        ({"reduction": "avg"}, "reduction: expected 'none', 'mean' or 'sum', got 'avg'"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.build({"type": "FFTLoss", **option})
