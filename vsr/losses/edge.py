"""Losses that compare the edges of two images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.losses.base import checked_pair, checked_weight, no_autocast
from vsr.registry import LOSSES

_BINOMIAL = (0.05, 0.25, 0.4, 0.25, 0.05)  # Burt and Adelson, 1983, with a = 0.4


@LOSSES.register
class EdgeLoss(nn.Module):
    """Smooth L1 of the finest level of the two Laplacian pyramids: loss_weight * mean sqrt(difference^2 + eps).

    That level is the image minus itself made smaller and larger again: edges and textures, but no flat parts.
    Source: Zamir et al., MPRNet, CVPR 2021, which adds it to Charbonnier's loss with a weight of 0.05.

    Args:
        loss_weight: Factor on the result.
        eps: Added to the square, so sqrt(eps) is the half-width of the rounded bottom, in image units;
            MPRNet gives that half-width, 1e-3.
    """

    def __init__(self, *, loss_weight: float = 1.0, eps: float = 1e-6) -> None:
        super().__init__()
        if not 0 < eps < math.inf:
            raise ValueError(f"eps: expected a positive number (the gradient at equality needs it), got {eps}")
        self.loss_weight, self.eps = checked_weight(loss_weight), eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of images of one shape, (..., c, h, w).

        Raises:
            ValueError: the shapes differ.
        """
        pred, target = checked_pair(pred, target)
        height, width = pred.shape[-2:]
        # all steps are linear: one pyramid, that of the difference, instead of two
        edges = _finest_level((pred - target).reshape(1, -1, height, width))
        return self.loss_weight * (edges.square() + self.eps).sqrt().mean()


def _finest_level(planes: Tensor) -> Tensor:
    """Return planes (1, n, h, w) without what a version of half their size can hold."""
    coarse = torch.zeros_like(planes)
    coarse[..., ::2, ::2] = 4 * _blurred(planes)[..., ::2, ::2]
    return planes - _blurred(coarse)


def _blurred(planes: Tensor) -> Tensor:
    count, kernel = planes.shape[1], planes.new_tensor(_BINOMIAL)
    with no_autocast(planes):
        padded = F.pad(planes, (2, 2, 2, 2), mode="replicate")
        return F.conv2d(padded, (kernel[:, None] * kernel).expand(count, 1, 5, 5), groups=count)
