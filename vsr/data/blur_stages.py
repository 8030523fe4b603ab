"""Stages that blur or sharpen; their constructors are what the option file gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vsr.data import kernels
from vsr.data.filters import filtered, gaussian_blur
from vsr.data.stage import Image, Rng, Size, Stage, check_odd, check_prob, check_range, check_shares
from vsr.registry import DEGRADATIONS


@DEGRADATIONS.register
class GaussianBlur(Stage):
    """Blur with a Gaussian of random width.

    Args:
        sigma: [least, most] standard deviation, pixels of the image at this place of the list.
        kernel_size: Side of the kernel, odd; none: up to 4 sigma to each side.
        prob: How probable the stage is.
        vary: Draw anew for every frame, not for a clip.
    """

    def __init__(
        self, *, sigma: Sequence[float], kernel_size: int | None = None, prob: float = 1.0, vary: bool = False
    ) -> None:
        self.sigma = check_range("sigma", sigma, above=0)
        if kernel_size is not None:
            check_odd("kernel_size", kernel_size)
        self.size, self.prob, self.vary = kernel_size, check_prob(prob), vary

    def reach(self, scale: int) -> int:
        return (self.size or _gaussian_size(self.sigma[1])) // 2

    def draw(self, rng: Rng) -> Any:
        return rng.uniform(*self.sigma)

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return gaussian_blur(image, drawn, self.size or _gaussian_size(drawn))


@DEGRADATIONS.register
class BlurDown(Stage):
    """BD: blur with a Gaussian, borders mirrored, and keep every scale-th pixel, from the first on.

    Source: Jo et al., DUF (CVPR 2018), whose 13 x 13 kernel of sigma 1.6 at x4 the field evaluates with.

    Args:
        sigma: Standard deviation, pixels; none: 0.4 x scale, which is 1.6 at x4.
        kernel_size: Side of the kernel, odd.
    """

    prob, vary, resizes = 1.0, False, "lq"

    def __init__(self, *, sigma: float | None = None, kernel_size: int = 13) -> None:
        if sigma is not None:
            check_range("sigma", (sigma, sigma), above=0)
        check_odd("kernel_size", kernel_size)
        self.sigma, self.size = sigma, kernel_size

    def reach(self, scale: int) -> int:
        return self.size // 2

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        step = image.shape[0] // size[0]
        if image.shape[:2] != (step * size[0], step * size[1]):
            raise ValueError(
                f"BlurDown: expected an image of a whole multiple of LQ's {size[0]}x{size[1]}, got "
                f"{image.shape[0]}x{image.shape[1]}. Put it before stages that resize."
            )
        blurred = gaussian_blur(image, 0.4 * step if self.sigma is None else self.sigma, self.size)
        return np.ascontiguousarray(blurred[::step, ::step])


@DEGRADATIONS.register
class RandomBlur(Stage):
    """Blur with a kernel drawn as Real-ESRGAN draws it: a random kind, side, width, direction and shape.

    Args:
        blur_kernel_size: Largest side, odd; the side is any odd number from 7 to it.
        kernel_list: Kinds: iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso.
        kernel_prob: Share of each kind.
        sinc_prob: Probability of a sinc filter in place of these.
        blur_sigma: [least, most] standard deviation along each axis, pixels.
        betag_range: [least, most] shape of the generalised Gaussians.
        betap_range: [least, most] shape of the plateaus.
        prob: How probable the stage is (Real-ESRGAN's second_blur_prob).
        vary: Draw anew for every frame, not for a clip.
    """

    def __init__(
        self,
        *,
        blur_kernel_size: int = 21,
        kernel_list: Sequence[str] = kernels.KERNELS,
        kernel_prob: Sequence[float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        sinc_prob: float = 0.1,
        blur_sigma: Sequence[float] = (0.2, 3.0),
        betag_range: Sequence[float] = (0.5, 4.0),
        betap_range: Sequence[float] = (1.0, 2.0),
        prob: float = 1.0,
        vary: bool = False,
    ) -> None:
        check_odd("blur_kernel_size", blur_kernel_size)
        for kind in kernel_list:
            if kind not in kernels.KERNELS:
                raise ValueError(f"kernel_list: expected kinds among {', '.join(kernels.KERNELS)}, got '{kind}'.")
        check_shares("kernel_prob", kernel_prob, len(kernel_list), "kernel_list")
        self.shapes: dict[str, Any] = {
            "kernel_list": tuple(kernel_list),
            "kernel_prob": tuple(kernel_prob),
            "blur_sigma": check_range("blur_sigma", blur_sigma, above=0),
            "betag_range": check_range("betag_range", betag_range, above=0),
            "betap_range": check_range("betap_range", betap_range, above=0),
        }
        self.largest, self.sinc_prob = blur_kernel_size, check_prob(sinc_prob, "sinc_prob")
        self.prob, self.vary = check_prob(prob), vary

    def reach(self, scale: int) -> int:
        return self.largest // 2

    def draw(self, rng: Rng) -> kernels.Kernel:
        side, sinc = kernels.draw_size(rng, self.largest), rng.random() < self.sinc_prob
        return kernels.draw_sinc(rng, side) if sinc else kernels.draw_shaped(rng, side, **self.shapes)

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return filtered(image, drawn)


@DEGRADATIONS.register
class SincFilter(Stage):
    """A sinc filter, which makes the ringing of sharpened pictures; Real-ESRGAN ends with it (final_sinc_prob).

    Args:
        kernel_size: Largest side, odd; the side is any odd number from 7 to it.
        prob: How probable the stage is.
        vary: Draw anew for every frame, not for a clip.
    """

    def __init__(self, *, kernel_size: int = 21, prob: float = 0.8, vary: bool = False) -> None:
        check_odd("kernel_size", kernel_size)
        self.largest, self.prob, self.vary = kernel_size, check_prob(prob), vary

    def reach(self, scale: int) -> int:
        return self.largest // 2

    def draw(self, rng: Rng) -> kernels.Kernel:
        side = kernels.draw_size(rng, self.largest)
        return kernels.sinc_kernel(rng.uniform(np.pi / 3, np.pi), side)

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return filtered(image, drawn)


@DEGRADATIONS.register
class FrameAverage(Stage):
    """Motion blur as of REDS and GoPro: the mean of neighbouring frames. The first of the list, but for USM.

    Beyond the ends of a clip stands its first or last frame.

    Args:
        num_frame: Frames that are averaged, odd: the sharp GT is the middle one.
        gamma: Of the camera: frames are raised to this power, averaged, and brought back; 1: as they are.
    """

    prob, vary = 1.0, False

    def __init__(self, *, num_frame: int, gamma: float = 1.0) -> None:
        check_odd("num_frame", num_frame)
        check_range("gamma", (gamma, gamma), above=0)
        self.num_frame, self.gamma = num_frame, gamma

    def average(self, images: Sequence[npt.NDArray[np.uint8]]) -> Image:
        """Return the mean of uint8 images (..., h, w), float32 of the range 0 to 255."""
        linear = ((np.arange(256) / 255) ** self.gamma).astype(np.float32)
        total = np.zeros(images[0].shape, np.float32)
        for image in images:
            total += linear[image]
        total /= len(images)
        return 255 * (total ** np.float32(1 / self.gamma) if self.gamma != 1 else total)


@DEGRADATIONS.register
class USM(Stage):
    """Unsharp mask, only where it changes something: LQ is made from the sharpened image.

    Source: Real-ESRGAN, which trains on sharpened GT.

    Args:
        weight: How strong.
        radius: Of the Gaussian, pixels; its side is the next odd number, its sigma OpenCV's for that.
        threshold: Differences to the blurred image from which on it acts, of 255.
        gt: Sharpen GT, too (Real-ESRGAN's gt_usm); the stage is then the first of the list.
    """

    prob, vary = 1.0, False

    def __init__(self, *, weight: float = 0.5, radius: int = 50, threshold: float = 10.0, gt: bool = True) -> None:
        check_range("radius", (radius, radius), above=0)
        check_range("threshold", (threshold, threshold), least=0)
        self.weight, self.size, self.threshold, self.gt = weight, radius + 1 - radius % 2, threshold, gt

    def reach(self, scale: int) -> int:
        return 2 * (self.size // 2)

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return self.sharpened(image)

    def sharpened(self, image: Image) -> Image:
        sigma = 0.3 * ((self.size - 1) * 0.5 - 1) + 0.8
        residual = image - gaussian_blur(image, sigma, self.size)
        mask = gaussian_blur((np.abs(residual) > self.threshold).astype(np.float32), sigma, self.size)
        sharp = np.clip(image + self.weight * residual, 0, 255)
        return (image + mask * (sharp - image)).astype(np.float32)


def _gaussian_size(sigma: float) -> int:
    return 2 * max(1, int(4 * sigma + 0.5)) + 1
