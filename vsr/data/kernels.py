"""Blur kernels: Gaussians, generalised Gaussians and plateaus of any direction, and the sinc filter.

Source: Wang et al., Real-ESRGAN (ICCVW 2021), section 3; names and ranges are those of its option files.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Kernel = npt.NDArray[np.float32]  # (size, size), sum 1

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def shaped_kernel(kind: str, size: int, *, sigma: tuple[float, float], theta: float = 0.0, beta: float = 1.0) -> Kernel:
    """Return a kernel whose values depend on the elliptical distance q = x' S^-1 x of a pixel alone.

    Args:
        kind: 'iso' or 'aniso': exp(-q / 2); 'generalized_...': exp(-q^beta / 2); 'plateau_...': 1 / (1 + q^beta).
        size: Side in pixels, odd.
        sigma: Standard deviations along the two axes of S, pixels. An 'iso' kernel takes the first for both.
        theta: Angle of the first axis against the rows, radians.
        beta: Shape; 1 is the Gaussian.
    """
    reach = size // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    along, across = x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)
    first, second = (sigma[0], sigma[0]) if kind.endswith("iso") and not kind.endswith("aniso") else sigma
    distance = (along / first) ** 2 + (across / second) ** 2
    if kind.startswith("plateau"):
        values = 1.0 / (1.0 + distance**beta)
    else:
        values = np.exp(-0.5 * distance ** (beta if kind.startswith("generalized") else 1.0))
    return (values / values.sum()).astype(np.float32)


def sinc_kernel(cutoff: float, size: int) -> Kernel:
    """Return the circular low-pass filter w J1(w r) / (2 pi r), whose ringing imitates overshoot.

    Args:
        cutoff: w, radians a pixel; pi lets everything pass that a grid can hold along its axes.
        size: Side in pixels, odd.
    """
    reach = size // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    radius = np.hypot(x, y)
    radius[reach, reach] = 1.0  # replaced below by the limit
    values = cutoff * bessel_j1(cutoff * radius) / (2 * np.pi * radius)
    values[reach, reach] = cutoff**2 / (4 * np.pi)
    return (values / values.sum()).astype(np.float32)


def bessel_j1(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the Bessel function J1 for |x| up to 100, by its integral.

    The integrand is periodic and smooth, so that equal steps converge exponentially; this spares every
    worker process the import of scipy.
    """
    t = (np.arange(192) + 0.5) * np.pi / 192
    return np.cos(t - x[..., None] * np.sin(t)).mean(-1)


def padded(kernel: Kernel, size: int) -> Kernel:
    """Return a kernel with zeros around it, (size, size)."""
    return np.pad(kernel, (size - len(kernel)) // 2)


def draw_size(rng: np.random.Generator, largest: int) -> int:
    """Draw an odd side from 7 (or ``largest``, if that is less) to ``largest``."""
    least = min(7, largest)
    return least + 2 * int(rng.integers((largest - least) // 2 + 1))


def draw_sinc(rng: np.random.Generator, size: int) -> Kernel:
    """Draw a sinc filter; small ones keep at least a third of the band, larger ones a fifth."""
    return sinc_kernel(rng.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi), size)


def draw_shaped(
    rng: np.random.Generator,
    size: int,
    *,
    kernel_list: Sequence[str],
    kernel_prob: Sequence[float],
    blur_sigma: Sequence[float],
    betag_range: Sequence[float],
    betap_range: Sequence[float],
) -> Kernel:
    """Draw a kernel of one of the kinds; for the arguments see ``RandomBlur``."""
    shares = np.asarray(kernel_prob, np.float64)
    kind = kernel_list[int(rng.choice(len(kernel_list), p=shares / shares.sum()))]
    first, second = rng.uniform(blur_sigma[0], blur_sigma[1], 2)
    theta, below, share = rng.uniform(-np.pi, np.pi), rng.random() < 0.5, rng.random()
    low, high = betap_range if kind.startswith("plateau") else betag_range
    # Heavy and light tails are equally likely, however far the range reaches to either side of the Gaussian.
    start, end = (min(low, 1.0), 1.0) if below else (1.0, max(high, 1.0))
    return shaped_kernel(kind, size, sigma=(first, second), theta=theta, beta=start + share * (end - start))
