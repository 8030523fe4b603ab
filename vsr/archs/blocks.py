"""Parts that two or more networks share."""

from collections.abc import Callable, Iterable, Sequence
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

    Args:
        num_feat: Channels.
        res_scale: Factor of what is added.
        pytorch_init: Leave the weights as PyTorch draws them, as EDSR does; else small ones (``scaled_kaiming_``).
    """

    def __init__(self, num_feat: int, *, res_scale: float = 1.0, pytorch_init: bool = False) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        if not pytorch_init:
            scaled_kaiming_((self.conv1, self.conv2), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv2(F.relu(self.conv1(x))), alpha=self.res_scale)


def residual_blocks(number: int, num_feat: int) -> nn.Sequential:
    """Return ``number`` ResidualBlockNoBN in a row; none of them: the identity."""
    return nn.Sequential(*(ResidualBlockNoBN(num_feat) for _ in range(number)))


def bilinear_base(image: Tensor, channels: int, scale: int) -> Tensor:
    """Enlarge (b, c, h, w) to the picture (b, channels or 1, scale*h, scale*w) that a network adds its detail to.

    It is made of the first ``channels`` channels of the image; one channel serves for any number.
    """
    base = image[:, :channels]
    return base if scale == 1 else F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)


class Upsample(nn.Sequential):
    """Sub-pixel convolutions: (b, num_feat, h, w) -> (b, num_feat, scale*h, scale*w).

    Args:
        scale: 3, or a power of 2: 4 is two steps of 2, and 1 no step at all.
        num_feat: Channels.
    """

    def __init__(self, scale: int, num_feat: int) -> None:
        if scale != 3 and (scale < 1 or scale & (scale - 1)):
            raise ValueError(f"upscale: expected 3 or a power of 2, got {scale}.")
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        layers: list[nn.Module] = []
        for step in steps:
            layers += [nn.Conv2d(num_feat, step**2 * num_feat, 3, padding=1), nn.PixelShuffle(step)]
        super().__init__(*layers)


def channel_mean(rgb_mean: Sequence[float], channels: int) -> Tensor:
    """Return the mean colour (1, channels, 1, 1) of the images that a network is made for; one value serves for all."""
    if len(rgb_mean) not in (1, channels):
        raise ValueError(
            f"rgb_mean: expected {channels} values, one for each channel of the input, or a single one, "
            f"got {len(rgb_mean)}. Give as many values as num_in_ch."
        )
    return torch.tensor(rgb_mean, dtype=torch.float32).view(1, -1, 1, 1).repeat(1, channels // len(rgb_mean), 1, 1)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Extend images (b, c, h, w) to the right and to the bottom by their mirror image, to multiples of ``multiple``.

    An image smaller than its own padding has no such mirror image: its last row or column is repeated.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < width else "replicate") if right else x
    return F.pad(x, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate") if bottom else x


def check_images(x: Tensor, channels: int) -> None:
    """Raise ValueError unless ``x`` is a batch of images (b, channels, h, w)."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected (b, {channels}, h, w), got {tuple(x.shape)}.")


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


def check_counts(**numbers: int) -> None:
    """Raise ValueError naming the first of the arguments that is negative."""
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name}: expected a number from 0 up, got {number}.")


def checkpoint_activations(network: nn.Module) -> None:
    """Let ``network`` keep, while it trains, only the inputs of its ``checkpointed`` modules, not what is inside them.

    The backward pass computes the rest again: about a third more time for a fraction of the memory.
    """
    kinds: tuple[type[nn.Module], ...] = network.checkpointed  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, kinds) and not isinstance(module.forward, partial):
            module.forward = partial(recomputed, module.forward)


def recomputed(forward: Callable[..., Any], *args: Any) -> Any:
    """Call ``forward`` and keep, for the backward pass, only its arguments: it is called again there."""
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)
