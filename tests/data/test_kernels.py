"""Kernels against scipy and against what their formulas must give."""

import numpy as np
import pytest
from scipy import ndimage, special

from vsr.data import kernels


def moments(kernel: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) of a kernel as a distribution over (x, y)."""
    reach = len(kernel) // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    points = np.stack([x.ravel(), y.ravel()])
    return (points * kernel.ravel()) @ points.T


def test_an_isotropic_kernel_is_what_scipy_makes_of_one_bright_pixel() -> None:
    dirac = np.zeros((21, 21))
    dirac[10, 10] = 1
    expected = ndimage.gaussian_filter(dirac, 1.7, truncate=10 / 1.7, mode="constant")
    np.testing.assert_allclose(kernels.shaped_kernel("iso", 21, sigma=(1.7, 9.0)), expected, atol=1e-7)


def test_an_anisotropic_kernel_has_the_variances_and_the_direction_asked_for() -> None:
    theta = 0.4
    kernel = kernels.shaped_kernel("aniso", 41, sigma=(4.0, 1.5), theta=theta)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    np.testing.assert_allclose(moments(kernel), turn @ np.diag([16.0, 2.25]) @ turn.T, rtol=2e-3)


@pytest.mark.parametrize("kind", ["generalized_iso", "plateau_iso"])
def test_a_shape_above_one_flattens_the_middle_and_cuts_the_tails(kind: str) -> None:
    flat, plain = (kernels.shaped_kernel(kind, 21, sigma=(3.0, 3.0), beta=beta) for beta in (4.0, 1.0))
    assert flat[10, 11] / flat[10, 10] > 0.98 > plain[10, 11] / plain[10, 10]
    assert flat[0, 0] < plain[0, 0] / 2


def test_generalized_and_plateau_values_by_hand() -> None:
    # One pixel aside at sigma 2: q = 1/4; two aside: q = 1. beta 2.
    kernel = kernels.shaped_kernel("generalized_iso", 5, sigma=(2.0, 2.0), beta=2.0)
    assert kernel[2, 3] / kernel[2, 2] == pytest.approx(np.exp(-0.5 / 16))
    assert kernel[2, 4] / kernel[2, 2] == pytest.approx(np.exp(-0.5))
    kernel = kernels.shaped_kernel("plateau_iso", 5, sigma=(2.0, 2.0), beta=2.0)
    assert kernel[2, 3] / kernel[2, 2] == pytest.approx(1 / (1 + 1 / 16))
    assert kernel[2, 4] / kernel[2, 2] == pytest.approx(1 / 2)


def test_the_bessel_function_is_scipys() -> None:
    x = np.linspace(0, 100, 2001)
    np.testing.assert_allclose(kernels.bessel_j1(x), special.j1(x), atol=1e-14)


def test_a_sinc_filter_passes_what_is_slower_than_its_cutoff_and_stops_the_rest() -> None:
    kernel = kernels.sinc_kernel(np.pi / 2, 21).astype(np.float64)
    response = np.abs(np.fft.fft2(np.pad(kernel, (0, 43))))  # 64 frequencies: number k is 2 pi k / 64 a pixel
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert response[0, 4] == pytest.approx(1, abs=0.06)  # pi / 8
    assert response[0, 8] == pytest.approx(1, abs=0.1)  # pi / 4
    assert response[0, 26] < 0.1  # 0.81 pi
    x = np.hypot(3, 4)
    ratio = 2 * special.j1(np.pi / 2 * x) / (np.pi / 2 * x)
    assert kernel[14, 13] / kernel[10, 10] == pytest.approx(ratio, rel=1e-4)


def test_sides_are_odd_and_reach_from_seven_to_the_largest() -> None:
    rng = np.random.default_rng(0)
    assert {kernels.draw_size(rng, 21) for _ in range(500)} == set(range(7, 22, 2))
    assert {kernels.draw_size(rng, 5) for _ in range(20)} == {5}


def test_drawn_kernels_sum_to_one_and_follow_the_shares() -> None:
    rng = np.random.default_rng(0)
    settings = {"blur_sigma": (1.0, 3.0), "betag_range": (0.5, 4.0), "betap_range": (1.0, 2.0)}
    round_ones = 0
    for _ in range(400):
        kernel = kernels.draw_shaped(rng, 21, kernel_list=("iso", "aniso"), kernel_prob=(0.3, 0.9), **settings)
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-8)  # so that correlation is convolution
        round_ones += np.allclose(kernel, kernel.T[::-1], atol=1e-7)
    assert 70 < round_ones < 130  # 100 expected of 400, sd 8.7


def test_a_kernel_is_padded_about_its_centre() -> None:
    kernel = kernels.padded(kernels.shaped_kernel("iso", 3, sigma=(1.0, 1.0)), 7)
    assert kernel.shape == (7, 7)
    assert kernel[3, 3] == kernel.max()
    assert kernel.sum() == pytest.approx(1)
