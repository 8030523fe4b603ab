"""What the losses share: the checks of their arguments and images, and their precision."""

import contextlib
import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["none", "mean", "sum"]


def checked_weight(loss_weight: float, name: str = "loss_weight") -> float:
    if not math.isfinite(loss_weight):
        raise ValueError(f"{name}: expected a finite number, got {loss_weight}")
    return loss_weight


def checked_reduction(reduction: Reduction) -> Reduction:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    return reduction


def checked_pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 or more: in half precision 1e-12, and small errors, would vanish.

    Raises:
        ValueError: the shapes differ, or are not those of images (..., c, h, w).
    """
    if pred.shape != target.shape:
        raise ValueError(f"pred and target: expected one shape, got {tuple(pred.shape)} and {tuple(target.shape)}")
    if pred.dim() < 3:
        raise ValueError(f"pred: expected images (..., c, h, w), got {tuple(pred.shape)}")
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    return pred.to(dtype), target.to(dtype)


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def no_autocast(values: Tensor) -> contextlib.AbstractContextManager[None]:
    """Keep convolutions and products in the precision of ``values``, where the caller's autocast would reduce it."""
    return torch.autocast(values.device.type, enabled=False)
