"""Blur stages against scipy, and against what a camera does."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from vsr.data.blur_stages import USM, BlurDown, FrameAverage, GaussianBlur, RandomBlur, SincFilter
from vsr.data.kernels import shaped_kernel

RNG = np.random.default_rng(0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (64, 96, 3)).astype(np.float32)


def test_bd_is_scipys_gaussian_and_every_fourth_pixel(image: np.ndarray) -> None:
    expected = ndimage.gaussian_filter(image.astype(np.float64), (1.6, 1.6, 0), mode="mirror", truncate=4)[::4, ::4]
    np.testing.assert_allclose(BlurDown().apply(image, None, RNG, (16, 24)), expected, atol=1e-3)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bd_is_the_strided_convolution_of_duf(image: np.ndarray, scale: int) -> None:
    """Padding of 6 + 2 scale by reflection, stride scale, two outputs cut off at each side."""
    image = image[: 60 // scale * scale, :96]
    kernel = torch.from_numpy(shaped_kernel("iso", 13, sigma=(0.4 * scale, 0.4 * scale)))
    x = torch.from_numpy(image).permute(2, 0, 1)[:, None]
    x = F.conv2d(F.pad(x, (6 + 2 * scale,) * 4, "reflect"), kernel[None, None], stride=scale)[:, 0, 2:-2, 2:-2]
    size = image.shape[0] // scale, 96 // scale
    got = BlurDown().apply(image, None, RNG, size)
    np.testing.assert_allclose(got, x.permute(1, 2, 0).numpy()[: size[0], : size[1]], atol=1e-3)


def test_bd_refuses_an_image_that_is_no_multiple_of_lq(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"BlurDown: expected an image of a whole multiple of LQ's 15x24, got 64x96"):
        BlurDown().apply(image, None, RNG, (15, 24))


def test_the_gaussian_blur_draws_its_width_from_the_range(image: np.ndarray) -> None:
    stage = GaussianBlur(sigma=[0.5, 2.5])
    drawn = [stage.draw(RNG) for _ in range(300)]
    assert 0.5 <= min(drawn) < 0.6
    assert 2.4 < max(drawn) <= 2.5
    expected = ndimage.gaussian_filter(image.astype(np.float64), (2.0, 2.0, 0), mode="mirror", truncate=4)
    np.testing.assert_allclose(stage.apply(image, 2.0, RNG, (1, 1)), expected, atol=1e-3)
    assert stage.reach(4) == 10


def test_random_blur_draws_kernels_of_its_settings() -> None:
    rng = np.random.default_rng(0)
    only_sinc, no_sinc = (
        RandomBlur(sinc_prob=1.0),
        RandomBlur(sinc_prob=0.0, blur_sigma=[2.0, 2.0], kernel_list=["iso"], kernel_prob=[1]),
    )
    assert all(only_sinc.draw(rng).min() < 0 for _ in range(20))  # it rings
    for _ in range(20):
        kernel = no_sinc.draw(rng)
        np.testing.assert_allclose(kernel, shaped_kernel("iso", len(kernel), sigma=(2.0, 2.0)), atol=1e-7)
    assert no_sinc.reach(4) == 10


def test_the_sinc_stage_keeps_a_flat_image_and_overshoots_at_an_edge() -> None:
    flat, edge = np.full((40, 40, 3), 90, np.float32), np.full((40, 40, 3), 50, np.float32)
    edge[:, 20:] = 200
    stage = SincFilter()
    kernel = stage.draw(np.random.default_rng(0))
    np.testing.assert_allclose(stage.apply(flat, kernel, RNG, (1, 1)), flat, atol=1e-2)
    assert stage.apply(edge, kernel, RNG, (1, 1)).max() > 205


def test_the_mean_of_frames_is_taken_of_the_light() -> None:
    frames = [np.full((3, 2, 2), value, np.uint8) for value in (0, 255, 0)]
    assert FrameAverage(num_frame=3).average(frames)[0, 0, 0] == pytest.approx(85)
    assert FrameAverage(num_frame=3, gamma=2.2).average(frames)[0, 0, 0] == pytest.approx(255 * (1 / 3) ** (1 / 2.2))


def test_the_unsharp_mask_follows_its_definition() -> None:
    y, x = np.mgrid[:80, :90]
    image = np.repeat((120 + 60 * ((x // 15 + y // 20) % 2))[..., None], 3, 2).astype(np.float32)
    sigma = 0.3 * ((51 - 1) * 0.5 - 1) + 0.8

    def blur(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values.astype(np.float64), (sigma, sigma, 0), mode="mirror", radius=25)

    residual = image - blur(image)
    mask = blur(np.abs(residual) > 10)
    expected = mask * np.clip(image + 0.5 * residual, 0, 255) + (1 - mask) * image
    np.testing.assert_allclose(USM().apply(image, None, RNG, (1, 1)), expected, atol=1e-2)
    assert np.abs(expected - image).max() > 10


def test_the_unsharp_mask_leaves_a_flat_image(image: np.ndarray) -> None:
    flat = np.full((60, 60, 3), 77, np.float32)
    np.testing.assert_allclose(USM().apply(flat, None, RNG, (1, 1)), flat, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(sigma=[0, 1]), "sigma: expected more than 0, got 0"),
        (lambda: GaussianBlur(sigma=[2, 1]), r"sigma: expected \[least, most\], got \[2, 1\]"),
        (lambda: GaussianBlur(sigma=[1, 2, 3]), r"sigma: expected \[least, most\]"),
        (lambda: GaussianBlur(sigma=[1, 2], kernel_size=4), "kernel_size: expected an odd number of 1 or more, got 4"),
        (lambda: GaussianBlur(sigma=[1, 2], prob=2), "prob: expected a probability, 0 to 1, got 2"),
        (lambda: BlurDown(sigma=-1), "sigma: expected more than 0"),
        (lambda: RandomBlur(kernel_list=["isotropic"], kernel_prob=[1]), "kernel_list: expected kinds among iso"),
        (lambda: RandomBlur(kernel_list=["iso"]), r"kernel_prob: expected 1 shares of 0 or more \(kernel_list\)"),
        (lambda: RandomBlur(kernel_prob=[0] * 6), "kernel_prob: expected 6 shares"),
        (lambda: RandomBlur(betag_range=[0, 1]), "betag_range: expected more than 0"),
        (lambda: FrameAverage(num_frame=4), "num_frame: expected an odd number of 1 or more, got 4"),
        (lambda: FrameAverage(num_frame=3, gamma=0), "gamma: expected more than 0"),
        (lambda: SincFilter(kernel_size=0), "kernel_size: expected an odd number"),
        (lambda: USM(threshold=-1), "threshold: expected 0 or more"),
    ],
)
def test_wrong_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
