"""Losses that compare the local structure of two images: 1 minus their structural similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.losses.base import checked_pair, checked_weight, no_autocast
from vsr.registry import LOSSES

_SIDE, _SIGMA = 11, 1.5  # of the Gaussian window
_C1, _C2 = 0.01**2, 0.03**2  # of images in [0, 1]
_LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al., 2003, finest level first


@LOSSES.register
class SSIMLoss(nn.Module):
    """loss_weight * (1 - SSIM): 0 for equal images, about 1 for unrelated ones.

    SSIM is that of the metric calculate_ssim: window 11 x 11 with sigma 1.5, which lies inside the image,
    and the mean over the channels. Source: Wang et al., IEEE Trans. Image Processing 13, 2004.

    Args:
        loss_weight: Factor on the result.
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = checked_weight(loss_weight)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of images of one shape, (..., c, h, w), in [0, 1].

        Raises:
            ValueError: the shapes differ, or a side is below 11 pixels.
        """
        pred, target = _planes(pred, target, least=_SIDE, advice="")
        luminance, structure = _similarities(pred, target)
        return self.loss_weight * (1 - (luminance * structure).mean())


@LOSSES.register
class MSSSIMLoss(nn.Module):
    """loss_weight * (1 - multi-scale SSIM): 0 for equal images.

    The images are compared at several sizes, each half the one before (means of 2 x 2 pixels): a product
    of powers of their contrast and structure, and of the smallest ones' luminance. It is taken of each
    channel, and then the mean. A structure below 0 counts as 0, which has no gradient.
    Source: Wang, Simoncelli and Bovik, Asilomar 2003.

    Args:
        loss_weight: Factor on the result.
        levels: Number of sizes, 1 to 5. With fewer the first of the paper's five exponents are taken, divided
            by their sum. With n a side must have 11 * 2^(n-1) pixels: 176 for 5, 88 for 4.
    """

    def __init__(self, *, loss_weight: float = 1.0, levels: int = 5) -> None:
        super().__init__()
        if not 1 <= levels <= len(_LEVEL_WEIGHTS):
            raise ValueError(f"levels: expected 1 to {len(_LEVEL_WEIGHTS)}, got {levels}")
        self.loss_weight = checked_weight(loss_weight)
        total = sum(_LEVEL_WEIGHTS[:levels]) if levels < len(_LEVEL_WEIGHTS) else 1  # the paper's add up to 1.0001
        self.exponents = [weight / total for weight in _LEVEL_WEIGHTS[:levels]]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of images of one shape, (..., c, h, w), in [0, 1].

        Raises:
            ValueError: the shapes differ, or the images are too small for ``levels``.
        """
        levels = len(self.exponents)
        pred, target = _planes(
            pred, target, least=_SIDE << (levels - 1), advice=f" with levels: {levels}. Lower it, or use larger crops."
        )
        product = pred.new_ones(len(pred))
        for level, exponent in enumerate(self.exponents):
            if level:
                pred, target = F.avg_pool2d(pred, 2), F.avg_pool2d(target, 2)
            luminance, structure = _similarities(pred, target)
            similarity = luminance * structure if level == levels - 1 else structure
            # the root's slope at 0 is infinite; eps keeps the gradient, and is too small to be seen in the value
            product = product * similarity.mean((1, 2, 3)).clamp_min(torch.finfo(pred.dtype).eps) ** exponent
        return self.loss_weight * (1 - product.mean())


def _planes(pred: Tensor, target: Tensor, *, least: int, advice: str) -> tuple[Tensor, Tensor]:
    """Return the channels of all images as (n, 1, h, w)."""
    pred, target = checked_pair(pred, target)
    height, width = pred.shape[-2:]
    if min(height, width) < least:
        raise ValueError(f"pred: expected sides of at least {least} pixels, got {height} x {width}{advice}")
    return pred.reshape(-1, 1, height, width), target.reshape(-1, 1, height, width)


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of luminance, and of contrast times structure, of planes (n, 1, h, w)."""
    with no_autocast(x):
        # Variances are small differences of large squares: less is lost around the mean of each plane's truth.
        level = y.detach().mean((-2, -1), keepdim=True)
        x, y = x - level, y - level
        mean_x, mean_y, squares, products = _window_means(torch.cat((x, y, x * x + y * y, x * y))).chunk(4)
        covariance = products - mean_x * mean_y
        variances = squares - (mean_x * mean_x + mean_y * mean_y)
        mean_x, mean_y = mean_x + level, mean_y + level
        luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
        return luminance, (2 * covariance + _C2) / (variances + _C2)


def _window_means(planes: Tensor) -> Tensor:
    """Return the weighted means of all windows that lie inside, (n, 1, h - 10, w - 10)."""
    positions = torch.arange(_SIDE, dtype=torch.float64) - _SIDE // 2
    window = (-positions.square() / (2 * _SIGMA**2)).exp()
    count, window = len(planes), (window / window.sum()).to(planes)
    across, along = window.expand(count, 1, 1, _SIDE), window.view(-1, 1).expand(count, 1, _SIDE, 1)
    planes = planes.transpose(0, 1)  # many channels of one image: CPUs are several times faster so
    return F.conv2d(F.conv2d(planes, across, groups=count), along, groups=count).transpose(0, 1)
