"""Parts that two or more networks share."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@torch.no_grad()
def scaled_kaiming_(layers: Iterable[nn.Module], scale: float) -> None:
    """Initialise convolutions by He's normal rule times ``scale``, with zero biases.

    Small weights keep a deep stack of residual blocks near the identity (ESRGAN, arXiv:1809.00219, 3.1).
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight).mul_(scale)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResidualBlockNoBN(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to the input: (b, num_feat, h, w) stays so.

    Source: EDSR (Lim et al., CVPRW 2017), which drops SRResNet's batch norm.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        scaled_kaiming_((self.conv1, self.conv2), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def residual_blocks(number: int, num_feat: int) -> nn.Sequential:
    """Return ``number`` ResidualBlockNoBN in a row; none of them: the identity."""
    return nn.Sequential(*(ResidualBlockNoBN(num_feat) for _ in range(number)))


def bilinear_base(image: Tensor, channels: int, scale: int) -> Tensor:
    """Enlarge (b, c, h, w) to the picture (b, channels or 1, scale*h, scale*w) that a network adds its detail to.

    It is made of the first ``channels`` channels of the image; one channel serves for any number.
    """
    base = image[:, :channels]
    return base if scale == 1 else F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)


def check_channels(num_in_ch: int, num_out_ch: int) -> None:
    """Raise ValueError where ``bilinear_base`` could not make ``num_out_ch`` of ``num_in_ch`` channels."""
    if num_in_ch < 1 or num_out_ch < 1 or 1 < num_in_ch < num_out_ch:
        raise ValueError(
            f"num_out_ch: expected 1 to num_in_ch ({num_in_ch}) channels, got {num_out_ch}. "
            "The network adds detail to the first num_out_ch channels of its input."
        )


def check_positive(**numbers: int) -> None:
    """Raise ValueError naming the first of the arguments that is less than 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected a number from 1 up, got {number}.")


def checkpoint_activations(network: nn.Module) -> None:
    """Let ``network`` keep, while it trains, only the inputs of its ``checkpointed`` modules, not what is inside them.

    The backward pass computes the rest again: about a third more time for a fraction of the memory.
    """
    kinds: tuple[type[nn.Module], ...] = network.checkpointed  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, kinds):
            module.forward = partial(_recomputed, module.forward)


def _recomputed(forward: Callable[..., Any], *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)
