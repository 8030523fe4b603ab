"""Local pooling at test time, TLC (Chu et al., "Improving Image Restoration by Revisiting Global Information
Aggregation", ECCV 2022, arXiv:2112.04491).

A network that was trained on crops and pools over the whole image sees other statistics on whole frames. Here
every global average pooling becomes a mean over a window around each pixel, somewhat larger than a training crop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Steps, one of which the fast way takes between the pixels that it looks at.
_STRIDES = (5, 4, 3, 2, 1)


class LocalAvgPool2d(nn.Module):
    """Mean over a window around each pixel: (b, c, h, w) stays so; windows at the border are those that just fit.

    Where the window covers both axes it is the global mean, (b, c, 1, 1). Where it covers one, that axis is
    averaged whole. It has no parameters, so it takes the place of a global pooling in any state_dict.

    Args:
        window: Height and width of the window, in pixels of the features.
        max_stride: For each axis, the greatest step of the fast way: it looks at every such pixel only, at the
            first of 5, 4, 3, 2 that divides the side, and repeats its means. None: the exact mean.
    """

    def __init__(self, *, window: tuple[int, int], max_stride: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.window, self.max_stride = window, max_stride

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if self.window[0] >= h and self.window[1] >= w:
            return F.adaptive_avg_pool2d(x, 1)
        out = self._strided(x)
        if out is None:
            out = _sliding_mean(_sliding_mean(x, 3, min(w, self.window[1])), 2, min(h, self.window[0]))
        above, left = h - out.shape[-2], w - out.shape[-1]
        padding = (left // 2, (left + 1) // 2, above // 2, (above + 1) // 2)
        return F.pad(out, padding, mode="replicate")

    def _strided(self, x: Tensor) -> Tensor | None:
        """The official ``fast_imp``: near the mean, but not it, and its first windows of each axis are left out.

        None where it is not wanted, or a side is too short for it.
        """
        if self.max_stride is None:
            return None
        h, w = x.shape[-2:]
        down, right = (
            min(most, next(r for r in _STRIDES if side % r == 0))
            for most, side in zip(self.max_stride, (h, w), strict=True)
        )
        few = x[:, :, ::down, ::right]
        height, width = min(few.shape[2] - 1, self.window[0] // down), min(few.shape[3] - 1, self.window[1] // right)
        if min(height, width) < 1:
            return None
        means = _sliding_mean(_sliding_mean(few, 3, width)[..., 1:], 2, height)[..., 1:, :]
        return means.repeat_interleave(down, 2).repeat_interleave(right, 3)

    def extra_repr(self) -> str:
        return f"window={self.window}" + (f", max_stride={self.max_stride}" if self.max_stride else "")


def _sliding_mean(x: Tensor, axis: int, length: int) -> Tensor:
    """Mean of ``length`` neighbours along an axis, which becomes length - 1 shorter.

    Axis by axis the running sums stay small, and so does the rounding of their differences; in half
    precision they would still be useless.
    """
    sums = F.pad(
        x.cumsum(axis, dtype=torch.promote_types(x.dtype, torch.float32)), (1, 0) if axis == 3 else (0, 0, 1, 0)
    )
    places = sums.shape[axis] - length
    return ((sums.narrow(axis, length, places) - sums.narrow(axis, 0, places)) / length).to(x.dtype)


def localize(
    network: nn.Module, input_shape: Sequence[int], *, ratio: float = 1.5, fast_imp: bool = False
) -> nn.Module:
    """Replace, in place, every global average pooling of a network by a local one; return the network.

    For any network whose poolings are nn.AdaptiveAvgPool2d(1). A window has ``ratio`` times the size that the
    features have there when the input has ``input_shape``; which that is, a run without data tells (on the
    meta device: it computes nothing).

    Args:
        network: The network, with weights or without.
        input_shape: Shape of a training input: (b, c, h, w), or (b, t, c, h, w) for a video network.
        ratio: Side of a window / side of the training crop.
        fast_imp: The official faster, not equivalent means, see ``LocalAvgPool2d``.

    Raises:
        ValueError: the network has no global pooling, or the arguments make no window.
    """
    if not 0 < ratio < math.inf or len(input_shape) not in (4, 5) or min(input_shape) < 1:
        raise ValueError(
            "local: expected a train_size of positive numbers and a ratio above 0, "
            f"got {list(input_shape)} and {ratio:g}."
        )
    train, sizes = tuple(input_shape[-2:]), _pooled_sizes(network, input_shape)
    if not sizes:
        raise ValueError(
            f"local: expected a network with global average pooling, got a {type(network).__name__} without."
        )
    for name, size in sizes.items():
        window = tuple(max(1, feature * int(side * ratio) // side) for feature, side in zip(size, train, strict=True))
        stride = tuple(max(1, _STRIDES[0] * feature // side) for feature, side in zip(size, train, strict=True))
        parent, _, child = name.rpartition(".")
        pool = LocalAvgPool2d(window=(window[0], window[1]), max_stride=(stride[0], stride[1]) if fast_imp else None)
        setattr(network.get_submodule(parent), child, pool)
    return network


def localized(network: nn.Module, local: Mapping[str, Any] | None, channels: int) -> None:
    """Apply a network's option ``local: {train_size: [h, w], ratio: 1.5, fast_imp: false}``, if it is given.

    ``train_size`` may also be written as the official networks write it, [b, c, h, w]; the last two count.
    """
    if local is None:
        return
    settings = {"ratio": 1.5, "fast_imp": False, **local} if isinstance(local, Mapping) else {}
    size = settings.pop("train_size", None)
    if (
        settings.keys() != {"ratio", "fast_imp"}
        or not isinstance(size, Sequence)
        or len(size) < 2
        or any(type(side) is not int for side in size)
        or isinstance(settings["ratio"], bool)
        or not isinstance(settings["ratio"], int | float)
        or not isinstance(settings["fast_imp"], bool)
    ):
        raise ValueError(
            "local: expected train_size: [h, w] of the training crops, and ratio and fast_imp if they are not "
            f"1.5 and false, got {local}."
        )
    localize(network, (1, channels, *size[-2:]), **settings)


def _pooled_sizes(network: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Find by name every nn.AdaptiveAvgPool2d(1), and the size (h, w) of its input for inputs of this shape."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):

            def note(_: nn.Module, args: tuple[Tensor], name: str = name) -> None:
                sizes[name] = (args[0].shape[-2], args[0].shape[-1])

            hooks.append(module.register_forward_pre_hook(note))
    if hooks:
        states = (network.named_parameters(), network.named_buffers())
        shadow = {name: torch.empty_like(value, device="meta") for group in states for name, value in group}
        x = torch.empty(tuple(input_shape), device="meta")
        with torch.no_grad():
            torch.func.functional_call(network, shadow, (x,))
    for hook in hooks:
        hook.remove()
    return sizes
