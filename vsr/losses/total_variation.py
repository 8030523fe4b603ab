"""A loss of the restored image alone: how much it varies from pixel to pixel."""

from typing import Literal

from torch import Tensor, nn

from vsr.losses.base import at_least_float32, checked_pair
from vsr.losses.pixel import L1Loss
from vsr.registry import LOSSES


@LOSSES.register
class WeightedTVLoss(nn.Module):
    """Total variation: loss_weight * (mean |differences along x| + mean |differences along y|).

    It smooths, and compares with nothing: beside a loss that compares it takes a small weight.
    Source: Rudin, Osher and Fatemi, Physica D, 1992.

    Args:
        loss_weight: Factor on the result.
        reduction: 'mean' or 'sum'.
    """

    def __init__(self, *, loss_weight: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: WeightedTVLoss has 'mean' and 'sum' only, got {reduction!r}")
        self.loss_weight, self.reduction = loss_weight, reduction
        self.compare = L1Loss(loss_weight=loss_weight, reduction=reduction)

    def forward(self, pred: Tensor, target: Tensor | None = None, *, weight: Tensor | None = None) -> Tensor:
        """Return the scalar loss.

        Args:
            pred: Images (..., c, h, w).
            target: Not used: training gives it to every loss. If it is there its shape is checked.
            weight: Factor of each difference, of the images' shape or with one channel, taken at its left
                or upper pixel; means are then taken over the weights. (BasicSR's second argument.)

        Raises:
            ValueError: the shapes do not fit, or a side is 1 pixel.
        """
        if target is not None:
            checked_pair(pred, target)
        if pred.dim() < 3 or min(pred.shape[-2:]) < 2:
            raise ValueError(f"pred: expected images (..., c, h, w) of sides over 1, got {tuple(pred.shape)}")
        if weight is not None and weight.shape[-2:] != pred.shape[-2:]:
            raise ValueError(f"weight: expected the sides of pred, {tuple(pred.shape)}, got {tuple(weight.shape)}")
        pred = at_least_float32(pred)
        along_y = self.compare(pred[..., :-1, :], pred[..., 1:, :], None if weight is None else weight[..., :-1, :])
        along_x = self.compare(pred[..., :-1], pred[..., 1:], None if weight is None else weight[..., :-1])
        total: Tensor = along_x + along_y
        return total
