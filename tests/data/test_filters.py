"""Filters against scipy, PIL and torch."""

import io

import numpy as np
import pytest
from PIL import Image as Pil
from scipy import ndimage

from vsr.data import filters, kernels
from vsr.utils.resize import imresize


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, (40, 53, 3)).astype(np.float32)


def smooth(image: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0)).astype(np.float32)


@pytest.mark.parametrize("size", [3, 7, 11, 21])
def test_a_filter_is_scipys_convolution_with_mirrored_borders(image: np.ndarray, size: int) -> None:
    kernel = kernels.shaped_kernel("aniso", size, sigma=(3.0, 1.0), theta=0.5)
    expected = np.stack(
        [ndimage.convolve(image[..., c].astype(np.float64), kernel, mode="mirror") for c in range(3)], 2
    )
    np.testing.assert_allclose(filters.filtered(image, kernel), expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(5, 53, 3), (4, 3, 3), (1, 9, 3)])
def test_an_image_smaller_than_the_kernel_is_mirrored_as_often_as_needed(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    kernel = kernels.shaped_kernel("iso", 21, sigma=(4.0, 4.0))
    mode = "mirror" if min(shape[:2]) > 1 else "nearest"
    expected = np.stack([ndimage.convolve(image[..., c].astype(np.float64), kernel, mode=mode) for c in range(3)], 2)
    if mode == "mirror":
        np.testing.assert_allclose(filters.filtered(image, kernel), expected, atol=2e-3)
    assert filters.filtered(image, kernel).shape == shape
    assert np.isfinite(filters.gaussian_blur(image, 4.0, 21)).all()


def test_a_gaussian_blur_is_scipys(image: np.ndarray) -> None:
    expected = ndimage.gaussian_filter(image.astype(np.float64), (1.6, 1.6, 0), mode="mirror", truncate=4)
    np.testing.assert_allclose(filters.gaussian_blur(image, 1.6, 13), expected, atol=1e-3)


def test_antialiased_resizing_is_imresize_and_takes_sides_of_different_factors(image: np.ndarray) -> None:
    np.testing.assert_array_equal(
        filters.resized(image[:40, :52], (10, 13), "antialiased"), imresize(image[:40, :52], 0.25)
    )
    # One axis: imresize of an image that is constant along the other one.
    rows = np.repeat(image[:, :1], 40, 1)
    got = filters.resized(rows, (10, 40), "antialiased")
    np.testing.assert_allclose(got[:, :10], imresize(rows, 0.25), atol=1e-3)
    assert filters.resized(image, (17, 31), "antialiased").shape == (17, 31, 3)
    assert filters.resized(image, (40, 53), "antialiased") is image


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "antialiased"])
def test_resizing_keeps_a_ramp_a_ramp(mode: str) -> None:
    ramp = np.broadcast_to(np.arange(48, dtype=np.float32)[None, :, None], (48, 48, 3)).copy()
    got = filters.resized(ramp, (16, 16), mode)[8, 3:-3, 0]
    np.testing.assert_allclose(got, 3 * np.arange(3, 13) + 1, atol=1e-3)  # pixel centres: (i + 1/2) 3 - 1/2


def test_area_is_the_mean_over_blocks(image: np.ndarray) -> None:
    expected = image[:40, :52].reshape(10, 4, 13, 4, 3).mean((1, 3))
    np.testing.assert_allclose(filters.resized(image[:40, :52], (10, 13), "area"), expected, atol=1e-3)


def test_poisson_noise_has_the_variance_of_its_photons() -> None:
    # Two values: 2 photons make 255. A pixel of level v has v / 255 * 2 of them on average, in units of 255 / 2.
    image = np.full((200, 200, 3), 51, np.float32)
    image[:100] = 204
    noise = filters.poisson_noise(image, np.random.default_rng(0), gray=False)
    assert noise.shape == image.shape
    for half, level in ((noise[100:], 51), (noise[:100], 204)):
        assert half.mean() == pytest.approx(0, abs=2.5)
        assert half.var() == pytest.approx(level / 255 * 2 * (255 / 2) ** 2, rel=0.04)


def test_grey_poisson_noise_is_that_of_the_luminance() -> None:
    image = np.zeros((120, 120, 3), np.float32)
    image[..., 1] = 170  # luminance 99.79, and one value: one photon makes 255
    noise = filters.poisson_noise(image, np.random.default_rng(0), gray=True)
    assert noise.shape == (120, 120, 1)
    assert noise.var() == pytest.approx(100 / 255 * 255**2, rel=0.04)


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_jpeg_is_what_pil_makes_of_the_quality(quality: int) -> None:
    image = smooth(np.random.default_rng(3).uniform(0, 255, (48, 64, 3)))
    file = io.BytesIO()
    Pil.fromarray(np.rint(image).astype(np.uint8)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Pil.open(file).convert("RGB"), np.float32)
    got = filters.jpeg(image, quality)
    assert np.abs(got - expected).mean() < 0.3  # libraries round their transforms differently
    assert np.abs(got - image).mean() > np.abs(got - expected).mean()
