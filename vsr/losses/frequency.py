"""Losses that compare the spectra of two images."""

from typing import Literal

import torch
from torch import Tensor, nn

from vsr.losses.base import Reduction, checked_pair, checked_reduction, checked_weight
from vsr.registry import LOSSES


@LOSSES.register
class FFTLoss(nn.Module):
    """Mean absolute difference of the real and the imaginary parts of the two spectra.

    The spectrum is that of ``torch.fft.rfft2``: what is left of a real image's without its mirrored half.
    Source: Cho et al., MIMO-UNet, ICCV 2021, which takes the whole one and a weight of 0.1; in
    super-resolution Sun et al., SAFMN, ICCV 2023, with 0.05.

    Args:
        loss_weight: Factor on the result.
        reduction: 'mean', 'sum' or 'none' (of the parts, (..., c, h, w // 2 + 1, 2)).
        norm: 'backward', as published: the sums over the pixels, so the loss of noise grows with the root of
            their number; 'ortho': over that root, the same for every size of image; 'forward': over their number.
    """

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        norm: Literal["backward", "ortho", "forward"] = "backward",
    ) -> None:
        super().__init__()
        if norm not in ("backward", "ortho", "forward"):
            raise ValueError(f"norm: expected 'backward', 'ortho' or 'forward', got {norm!r}")
        self.loss_weight, self.reduction, self.norm = checked_weight(loss_weight), checked_reduction(reduction), norm

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with reduction 'none' one value a part of a frequency.

        Raises:
            ValueError: the shapes differ.
        """
        pred, target = checked_pair(pred, target)
        # the transform is linear: one of the difference instead of two
        parts = torch.view_as_real(torch.fft.rfft2(pred - target, norm=self.norm)).abs()
        if self.reduction == "none":
            return self.loss_weight * parts
        return self.loss_weight * (parts.sum() if self.reduction == "sum" else parts.mean())
