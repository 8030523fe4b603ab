"""Losses that compare two images pixel by pixel.

All take images of one shape, RGB in [0, 1], channels third from last: (b, c, h, w) or (b, t, c, h, w).
They compute in float32 at least, whatever the images come in.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vsr.losses.base import Reduction, checked_pair, checked_reduction, checked_weight
from vsr.registry import LOSSES


class _PixelLoss(nn.Module):
    """loss_weight * reduction of a loss of each value, which a subclass gives as ``compare``."""

    def __init__(self, *, loss_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.loss_weight, self.reduction = checked_weight(loss_weight), checked_reduction(reduction)

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss: a scalar, or with reduction 'none' one value a value of the images.

        Args:
            pred, target: Images of one shape.
            weight: Factor of each value, of the images' shape or with one channel. The mean is
                then taken over the weights, not over the pixels.

        Raises:
            ValueError: the shapes do not fit; broadcasting would hide a wrong crop or scale.
        """
        values = self.compare(*checked_pair(pred, target))
        if weight is not None:
            one_channel = (*pred.shape[:-3], 1, *pred.shape[-2:])
            if weight.shape not in (pred.shape, torch.Size(one_channel)):
                raise ValueError(f"weight: expected {tuple(pred.shape)} or {one_channel}, got {tuple(weight.shape)}")
            values = values * weight
        if self.reduction == "none":
            return self.loss_weight * values
        total = values.sum() if self.reduction == "sum" or weight is not None else values.mean()
        if self.reduction == "mean" and weight is not None:
            total = total / weight.expand_as(pred).sum(dtype=values.dtype)
        return self.loss_weight * total


@LOSSES.register
class L1Loss(_PixelLoss):
    """Mean absolute error: loss_weight * mean |pred - target|.

    Args:
        loss_weight: Factor on the result.
        reduction: 'mean', 'sum' or 'none'.
    """

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).abs()


@LOSSES.register
class MSELoss(_PixelLoss):
    """Mean squared error: loss_weight * mean (pred - target)^2.

    Args:
        loss_weight: Factor on the result.
        reduction: 'mean', 'sum' or 'none'.
    """

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square()


@LOSSES.register
class CharbonnierLoss(_PixelLoss):
    """Smooth L1: loss_weight * mean sqrt((pred - target)^2 + eps).

    Source: Charbonnier et al., ICIP 1994; in super-resolution Lai et al., CVPR 2017.

    Args:
        loss_weight: Factor on the result.
        reduction: 'mean', 'sum' or 'none'.
        eps: Added to the square, so sqrt(eps) is the half-width of the rounded bottom, in image
            units. Other codebases give that half-width instead.
    """

    def __init__(self, *, loss_weight: float = 1.0, reduction: Reduction = "mean", eps: float = 1e-12) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction)
        if not 0 < eps < math.inf:
            raise ValueError(f"eps: expected a positive number (the gradient at equality needs it), got {eps}")
        self.eps = eps

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        return ((pred - target).square() + self.eps).sqrt()


@LOSSES.register
class PSNRLoss(nn.Module):
    """Minus the PSNR in dB, capped at 80: loss_weight * mean over images of 10 log10(mse + 1e-8).

    The value is negative: -30 means 30 dB. Source: Chen et al., HINet, CVPR 2021 workshops.

    Args:
        loss_weight: Factor on the result.
        reduction: Only 'mean' exists.
        toY: Compare the luma (BT.601) of the two RGB images.
    """

    decibels = True

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        reduction: Literal["mean"] = "mean",
        toY: bool = False,  # noqa: N803  the official name
    ) -> None:
        super().__init__()
        if reduction != "mean":
            raise ValueError(f"reduction: PSNRLoss has 'mean' only, got {reduction!r}")
        self.loss_weight, self.to_y = checked_weight(loss_weight), toY

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss; every image (c, h, w) counts alike.

        Raises:
            ValueError: the shapes differ, or ``toY`` meets images without three channels.
        """
        error = torch.sub(*checked_pair(pred, target))
        if self.to_y:
            if error.shape[-3] != 3:
                raise ValueError(f"pred: toY expects 3 channels (RGB), got {tuple(pred.shape)}")
            # the offset of luma cancels in the difference
            red, green, blue = error.split(1, -3)
            error = (65.481 * red + 128.553 * green + 24.966 * blue) / 255
        mse = error.square().mean(dim=(-3, -2, -1))
        return self.loss_weight * 10 * torch.log10(mse + 1e-8).mean()
