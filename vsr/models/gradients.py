"""Precision of the forward and backward pass, and what happens to gradients before the optimiser sees them."""

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from vsr.config import ClipGradOptions

_GROWTH_INTERVAL = 2000  # finite steps in a row after which the loss scale doubles; it halves after one that is not


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return the context in which networks compute in ``dtype``; in float32 it does nothing."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


class Gradients:
    """Autocast, the loss scale of float16, and clipping; nothing here reads a value back from the device.

    float16 has no small numbers: gradients below 6e-8 vanish. So the loss is multiplied by a large factor, and the
    gradient divided by it; the factor follows what the gradients can bear (Micikevicius et al., Mixed precision
    training, ICLR 2018). A step that overflows is skipped like any other whose gradient is not finite.

    Args:
        precision: float32, bfloat16 or float16.
        clip: Bounds for the gradient; None: none.
        device: Where the network trains.

    Raises:
        ValueError: a bound is not above 0, or there is none.
    """

    def __init__(self, precision: str, clip: ClipGradOptions | None, device: torch.device) -> None:
        self.clip, self.device = clip, device
        self.dtype: torch.dtype = getattr(torch, precision)
        if clip is not None and clip.norm is None and clip.value is None:
            raise ValueError("train.clip_grad: expected norm, value or both, got neither. Set one, or leave it out.")
        for name, bound in (("norm", clip.norm), ("value", clip.value)) if clip else ():
            if bound is not None and not bound > 0:
                raise ValueError(f"train.clip_grad.{name}: expected a number above 0, got {bound}. Raise it.")
        self.scale: Tensor | None = None
        if self.dtype == torch.float16:
            self.scale = torch.full((), 2.0**16, device=device)
            self._finite_steps = torch.zeros((), dtype=torch.int32, device=device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return autocast(self.device, self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to call ``backward`` of."""
        return loss if self.scale is None else loss * self.scale

    def finish(self, gradients: list[Tensor]) -> Tensor:
        """Undo the loss scale and clip, in place; return the norm before clipping, which is not finite if a number is.

        Args:
            gradients: Of all parameters that train, summed over micro-batches and averaged over processes.
        """
        if not gradients:
            return torch.zeros((), device=self.device)
        if self.scale is not None:
            torch._foreach_div_(gradients, self.scale)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.scale is not None:
            overflow = (~torch.isfinite(norm)).float()
            torch._amp_update_scale_(self.scale, self._finite_steps, overflow, 2.0, 0.5, _GROWTH_INTERVAL)
        if self.clip is not None and self.clip.norm is not None:
            # As torch.nn.utils.clip_grad_norm_ has it, which published recipes were trained with.
            torch._foreach_mul_(gradients, (self.clip.norm / (norm + 1e-6)).clamp(max=1))
        if self.clip is not None and self.clip.value is not None:
            torch._foreach_clamp_min_(gradients, -self.clip.value)
            torch._foreach_clamp_max_(gradients, self.clip.value)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.scale is None else {"scale": self.scale, "finite_steps": self._finite_steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the loss scale of a state; one of a run in another precision has none."""
        if self.scale is not None and state:
            self.scale.copy_(state["scale"])
            self._finite_steps.copy_(state["finite_steps"])
