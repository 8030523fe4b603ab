"""Arithmetic of the degradations: convolution, resizing, shot noise, JPEG. Images as in ``vsr.data.stage``."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vsr.data.kernels import Kernel
from vsr.data.stage import Image, Rng, Size
from vsr.utils.resize import imresize, taps

CV2_MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def filtered(image: Image, kernel: Kernel) -> Image:
    """Return an image convolved with a kernel that is symmetric about its centre, borders mirrored."""
    return _mirrored(image, len(kernel), lambda x: cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def gaussian_blur(image: Image, sigma: float, size: int) -> Image:
    """Return an image convolved with the sampled Gaussian of ``size`` taps along each axis, borders mirrored."""
    line = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)
    return _mirrored(image, size, lambda x: cv2.sepFilter2D(x, -1, line, line, borderType=cv2.BORDER_REFLECT_101))


def _mirrored(image: Image, size: int, work: Callable[[Image], Any]) -> Image:
    """Filter an image that may be smaller than the kernel, where OpenCV would read beyond one reflection."""
    reach = size // 2
    if min(image.shape[:2]) > reach:
        return np.asarray(work(image), np.float32)
    wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect" if min(image.shape[:2]) > 1 else "edge")
    return np.ascontiguousarray(work(wide)[reach:-reach, reach:-reach], np.float32)


def resized(image: Image, size: Size, mode: str) -> Image:
    """Return an image of a size (height, width); for ``mode`` see ``Resize``."""
    if image.shape[:2] == size:
        return image
    if mode != "antialiased":
        return np.asarray(cv2.resize(image, size[::-1], interpolation=CV2_MODES[mode]), np.float32)
    if image.shape[0] * size[1] == image.shape[1] * size[0]:
        result = imresize(image, size[0] / image.shape[0])
        if result.shape[:2] == size:
            return result
    # The sides have factors of their own: one axis after the other.
    return _rows(_rows(image, size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1).astype(np.float32)


def _rows(image: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` rows for those of an image, antialiased bicubic."""
    indices, weights = taps(len(image), count / len(image), True)
    result = np.zeros((count, *image.shape[1:]))
    for k in range(weights.shape[1]):
        result += weights[:, k, None, None] * image[indices[:, k]]
    return result


def poisson_noise(image: Image, rng: Rng, *, gray: bool) -> Image:
    """Return the shot noise of an image at 8 bits, (h, w, 3), or (h, w, 1) that of its luminance.

    Source: scikit-image's random_noise, as Real-ESRGAN has it: the number of photons that make 255 is the power
    of two that follows the number of different values.
    """
    if gray:
        image = image @ np.array([0.299, 0.587, 0.114], np.float32)
        image = image[..., None]
    levels = np.rint(image.clip(0, 255)).astype(np.uint8)
    photons = 2.0 ** np.ceil(np.log2(np.count_nonzero(np.bincount(levels.ravel(), minlength=256))))
    counted = rng.poisson(levels * (photons / 255))
    return (counted * (255 / photons) - levels).astype(np.float32)


def jpeg(image: Image, quality: int) -> Image:
    """Return an image, rounded to 8 bits, as JPEG of a quality (1 to 100) gives it back."""
    bgr = np.rint(image[..., ::-1].clip(0, 255)).astype(np.uint8)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise ValueError(f"JPEG: OpenCV cannot encode an image of {image.shape}.")
    return np.ascontiguousarray(decoded[..., ::-1], np.float32)
