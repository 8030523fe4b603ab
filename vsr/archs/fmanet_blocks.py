"""The blocks of FMA-Net (arXiv:2401.03707): dense features of frames, attention, and their iterative refinement.

Shapes: b batch, t frames of a clip, c = dim feature channels, h w size of the small frames. Frames are images here,
(b*t, channels, h, w): only the 1x1 convolutions that fuse a clip see more than one of them. f are flows with masks,
(b*t, 3 * num_flow, h, w): dx, dy in pixels and a logit each.
"""
# ruff: noqa: N803 - the official names of arguments

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import recomputed
from vsr.ops.dynamic_filter import multi_flow_warp


def lrelu(x: Tensor) -> Tensor:
    """LeakyReLU in place, of what no other needs: a convolution's result."""
    return F.leaky_relu_(x, 0.2)


class FrameConv(nn.Conv3d):
    """A convolution of each frame (n, channels, h, w); its weight has the official shape, with a kernel of 1 in time.

    PyTorch's convolutions of clips take twice the time of those of images on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, bias: bool) -> None:
        sides = (1, kernel_size, kernel_size)
        super().__init__(in_channels, out_channels, sides, padding=(0, kernel_size // 2, kernel_size // 2), bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return conv_of(input, self.weight, self.bias)


class ClipConv(nn.Conv3d):
    """A 3x3x3 convolution of a clip (b, t, channels, h, w), as convolutions of images for the same reason."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        last = input.shape[1] - 1
        taps = self.weight.unbind(2)  # what a frame gives to the one after it, to itself, and to the one before
        sums: dict[int, Tensor] = {}
        for i, frame in enumerate(input.unbind(1)):
            targets = range(max(i - 1, 0), min(i + 1, last) + 1)
            given = F.conv2d(frame, torch.cat([taps[i - j + 1] for j in targets]), padding=1)
            for j, part in zip(targets, given.chunk(len(targets), 1), strict=True):
                sums[j] = sums[j] + part if j in sums else part
        out = torch.stack([sums[j] for j in range(last + 1)], 1)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


def conv_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve images with an official weight (o, i, 1, k, k), or a part of one; the size stays."""
    return F.conv2d(x, weight.squeeze(2), bias, padding=weight.shape[-1] // 2)


def two_convs(in_channels: int, hidden: int, out_channels: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        FrameConv(in_channels, hidden, bias=bias),
        nn.LeakyReLU(0.2, inplace=True),
        FrameConv(hidden, out_channels, bias=bias),
    )


class DenseLayer(nn.Module):
    """The convolution of a dense layer; ``RDB`` runs it."""

    def __init__(self, in_channels: int, growth_rate: int, bias: bool) -> None:
        super().__init__()
        self.conv = FrameConv(in_channels, growth_rate, bias=bias)


class RDB(nn.Module):
    """Residual dense block: layers that see all before them, reduced to the input's channels and added to it.

    The layers' inputs are never joined: each piece is convolved at once for all layers that see it.
    """

    def __init__(self, dim: int, growth_rate: int, num_dense_layer: int, bias: bool) -> None:
        super().__init__()
        self.growth_rate = growth_rate
        self.layer = nn.Sequential(
            *(DenseLayer(dim + i * growth_rate, growth_rate, bias) for i in range(num_dense_layer))
        )
        self.conv = FrameConv(dim + num_dense_layer * growth_rate, dim, 1, bias=True)  # whatever the option says

    def forward(self, x: Tensor) -> Tensor:
        convs: list[Any] = [layer.conv for layer in self.layer]
        dim, growth = x.shape[1], self.growth_rate
        biases = None if convs[0].bias is None else torch.cat([conv.bias for conv in convs])
        waiting = conv_of(x, torch.cat([conv.weight[:, :dim] for conv in convs]), biases)  # before the activations
        grown: list[Tensor] = []
        for i in range(len(convs)):
            grown.append(lrelu(waiting[:, :growth].clone()))  # a clone, for a view would keep all that waits
            if i + 1 < len(convs):
                seen = slice(dim + i * growth, dim + (i + 1) * growth)
                weight = torch.cat([conv.weight[:, seen] for conv in convs[i + 1 :]])
                waiting = waiting[:, growth:] + conv_of(grown[-1], weight)
        out = conv_of(x, self.conv.weight[:, :dim], self.conv.bias)
        return out + conv_of(torch.cat(grown, 1), self.conv.weight[:, dim:]) + x


class RRDB(nn.Module):
    """``num_RDB`` residual dense blocks in a row; all their outputs, reduced, are added to the input."""

    def __init__(self, dim: int, num_RDB: int, growth_rate: int, num_dense_layer: int, bias: bool) -> None:
        super().__init__()
        self.RDBs = nn.ModuleList(RDB(dim, growth_rate, num_dense_layer, bias) for _ in range(num_RDB))
        self.conv = nn.Sequential(FrameConv(dim * num_RDB, dim, 1, bias=bias), FrameConv(dim, dim, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        out, total = x, None
        reduce: Any = self.conv[0]
        parts = reduce.weight.split(x.shape[1], 1)
        for block, weight in zip(self.RDBs, parts, strict=True):  # reduced one by one: none is kept for the last
            out = block(out)
            part = conv_of(out, weight, reduce.bias if total is None else None)
            total = part if total is None else total.add_(part)
        result: Tensor = self.conv[1](total) + x
        return result


class _Norm(nn.Module):
    def __init__(self, dim: int, with_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if with_bias else None

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        centered = x - mean
        factor = torch.rsqrt(centered.square().mean(1, keepdim=True) + 1e-5)
        weight = self.weight.view(-1, 1, 1)
        return x * factor * weight if self.bias is None else centered * factor * weight + self.bias.view(-1, 1, 1)


class LayerNorm(nn.Module):
    """Normalisation over the channels of each pixel of (b, c, h, w).

    Args:
        dim: c.
        LayerNorm_type: 'WithBias', or 'BiasFree': divided by the standard deviation, but the mean is left there.
    """

    def __init__(self, dim: int, LayerNorm_type: str) -> None:
        super().__init__()
        self.body = _Norm(dim, LayerNorm_type == "WithBias")  # a module of its own, for the official names

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class FeedForward(nn.Module):
    """Two depthwise branches of int(dim * factor) channels each, one of which gates the other."""

    def __init__(self, dim: int, ffn_expansion_factor: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * ffn_expansion_factor)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """In bands: what is hidden has five times the channels of x."""
        return joined(self._of_band(band)[..., counting, :] for band, counting, _ in bands(x, reach=1))

    def _of_band(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, 1)
        out: Tensor = self.project_out(F.gelu(gate) * value)
        return out


class CrossAttention(nn.Module):
    """Attention between channels, not pixels: queries from a guide, keys and values from the features."""

    def __init__(self, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.q = nn.Conv2d(dim, dim, 1, bias=bias)
        self.q_dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=bias)
        self.kv_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias)
        self.kv_dwconv = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Both (b, c, h, w)."""

        def heads(part: Tensor) -> Tensor:
            return part.unflatten(1, (self.num_heads, -1)).flatten(3)  # (b, heads, c / heads, h * w)

        query = F.normalize(heads(self.q_dwconv(self.q(guide))), dim=-1)
        key, value = map(heads, self.kv_dwconv(self.kv_conv(x)).chunk(2, 1))
        scores = query @ F.normalize(key, dim=-1).mT * self.temperature
        out: Tensor = self.project_out((scores.softmax(-1) @ value).view(x.shape))
        return out


class MultiAttentionBlock(nn.Module):
    """Attention guided by the centre frame and, in Net^R, by the degradation; a feed-forward part after each.

    What is in it is half of all that a training step would keep, yet a twentieth of the time: ``FRMABlock`` has it
    computed again in the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        LayerNorm_type: str,
        ffn_expansion_factor: float,
        bias: bool,
        degradation_aware: bool,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, LayerNorm_type)
        self.co_attn = CrossAttention(dim, num_heads, bias)
        self.norm2 = LayerNorm(dim, LayerNorm_type)
        self.ffn1 = FeedForward(dim, ffn_expansion_factor, bias)
        if degradation_aware:
            self.norm3 = LayerNorm(dim, LayerNorm_type)
            self.da_attn = CrossAttention(dim, num_heads, bias)
            self.norm4 = LayerNorm(dim, LayerNorm_type)
            self.ffn2 = FeedForward(dim, ffn_expansion_factor, bias)

    def forward(self, fused: Tensor, center: Tensor, degradation: Tensor | None) -> Tensor:
        fused = fused + self.co_attn(self.norm1(fused), center)
        fused = fused + self.ffn1(self.norm2(fused))
        if degradation is not None:
            fused = fused + self.da_attn(self.norm3(fused), degradation)
            fused = fused + self.ffn2(self.norm4(fused))
        return fused


class FRMABlock(nn.Module):
    """Iterative feature refinement with multi-attention: refines features, flows, and what they fuse to.

    Args:
        first_flow: No flows come in yet: the first block of Net^D.
        first_fused: No fused features come in yet: the first block of either network.
        degradation_aware: Features of the degradation's kernels come in: Net^R.
        others: See ``vsr.archs.fmanet.FMANet``.
    """

    def __init__(
        self,
        *,
        dim: int,
        growth_rate: int,
        num_dense_layer: int,
        num_flow: int,
        num_transformer_block: int,
        num_heads: int,
        LayerNorm_type: str,
        ffn_expansion_factor: float,
        bias: bool,
        num_seq: int,
        degradation_aware: bool,
        first_flow: bool,
        first_fused: bool,
    ) -> None:
        super().__init__()
        self.dim, self.num_seq = dim, num_seq
        self.rdb = RDB(dim, growth_rate, num_dense_layer, bias)
        if degradation_aware:
            self.rdb_KD = RDB(dim, growth_rate, num_dense_layer, bias)
            self.conv_KD = nn.Conv2d(dim * num_seq, dim, 1, bias=bias)
        self.conv_Fw = nn.Conv2d(dim * num_seq + (0 if first_fused else dim), dim, 1, bias=bias)
        flows = 3 * num_flow
        self.conv_f = two_convs(2 * dim + (0 if first_flow else flows), flows, flows, bias)
        self.multi_attn_block = nn.ModuleList(
            MultiAttentionBlock(
                dim=dim,
                num_heads=num_heads,
                LayerNorm_type=LayerNorm_type,
                ffn_expansion_factor=ffn_expansion_factor,
                bias=bias,
                degradation_aware=degradation_aware,
            )
            for _ in range(num_transformer_block)
        )

    def forward(
        self, features: Tensor, center: Tensor, fused: Tensor | None, flows: Tensor | None, kernels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the refined features (b*t, c, h, w), fused features (b, c, h, w) and f.

        Args:
            features: (b*t, c, h, w).
            center: The first features of the centre frames, (b, c, h, w).
            fused: (b, c, h, w), or none in a first block.
            flows: f, or none in Net^D's first block.
            kernels: Features of the degradation's kernels, (b*t, c, h, w), in Net^R.
        """
        features = frame_by_frame(self.rdb, features)
        if flows is None:
            flows = self._flows(center, features)
        else:
            flows = flows + self._flows(center, torch.cat((flows, multi_flow_warp(features, flows)), 1))
        warped = self._fused(multi_flow_warp(features, flows), self.conv_Fw)
        fused = warped if fused is None else warped + F.conv2d(fused, self.conv_Fw.weight[:, : self.dim])
        degradation = None if kernels is None else self._fused(frame_by_frame(self.rdb_KD, kernels), self.conv_KD)
        for block in self.multi_attn_block:
            fused = recomputed(block, fused, center, degradation)
        assert fused is not None
        return features, fused, flows

    def _flows(self, center: Tensor, others: Tensor) -> Tensor:
        """conv_f of the centre's features, which are the same for all frames, beside others of each frame."""
        first: Any
        first, _, last = self.conv_f
        of_center = conv_of(center, first.weight[:, : self.dim], first.bias)
        of_frames = conv_of(others, first.weight[:, self.dim :]).unflatten(0, (-1, self.num_seq))
        out: Tensor = last(lrelu((of_frames + of_center[:, None]).flatten(0, 1)))
        return out

    def _fused(self, frames: Tensor, conv: nn.Conv2d) -> Tensor:
        """A 1x1 convolution of all frames' channels, whose weights go through the frames faster than the channels."""
        weight = conv.weight[:, -self.dim * self.num_seq :].unflatten(1, (self.dim, self.num_seq))
        clip = frames.unflatten(0, (-1, self.num_seq)).flatten(1, 2)
        return F.conv2d(clip, weight.transpose(1, 2).flatten(1, 2), conv.bias)


class Upsampler(nn.Module):
    """Sub-pixel convolutions, with LeakyReLU before each shuffle, and one more: (b, c, h, w) -> (b, c, s*h, s*w)."""

    reach = 2  # how many pixels of its input around a place its output depends on

    def __init__(self, dim: int, scale: int, bias: bool) -> None:
        super().__init__()
        self.steps = [2, 2] if scale == 4 else [scale]
        for i, step in enumerate(self.steps, 1):
            self.add_module(f"conv{i}", nn.Conv2d(dim, step**2 * dim, 3, padding=1, bias=bias))
        self.add_module(f"conv{len(self.steps) + 1}", nn.Conv2d(dim, dim, 3, padding=1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        *enlarging, last = self.children()
        for conv, step in zip(enlarging, self.steps, strict=True):
            x = F.pixel_shuffle(lrelu(conv(x)), step)
        return lrelu(last(x))


BAND = 2**13  # pixels of a small frame


def in_one_piece(x: Tensor) -> bool:
    """Whether x is worked on as a whole: with gradients, in a trace, on the meta device, where costs are counted."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta


def frame_by_frame(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a block of single images on one large image (n, c, h, w) at a time, unless ``in_one_piece``.

    A quarter less time for three frames of 180x320: the system takes tensors of over 32 MB back after each operation.
    """
    if in_one_piece(x) or len(x) == 1 or x[0, 0].numel() < BAND:  # in a trace nothing is asked of the sizes
        return block(x)
    return torch.cat([block(frame) for frame in x.split(1)])


def bands(x: Tensor, reach: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """Take images (..., h, w) apart into bands of rows that can be worked on one after the other.

    Where it is to be ``in_one_piece``, there is one band.

    Args:
        x: The images.
        reach: How many rows away the work looks.

    Yields:
        The band with the rows around it; which of its rows count; which rows of the image those are.
    """
    height, width = x.shape[-2:]
    whole = in_one_piece(x)
    rows = height if whole else max(BAND // width, 4 * reach)
    if whole or rows >= height:
        yield x, slice(0, height), slice(0, height)
        return
    for first in range(0, height, rows):
        last = min(first + rows, height)
        start = max(first - reach, 0)
        yield x[..., start : last + reach, :], slice(first - start, last - start), slice(first, last)


def joined(parts: Iterable[Tensor]) -> Tensor:
    """Put bands, each without the rows around it, together again."""
    rows = list(parts)
    return torch.cat(rows, -2) if len(rows) > 1 else rows[0]
