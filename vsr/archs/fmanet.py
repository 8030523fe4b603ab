"""FMA-Net: joint deblurring and super-resolution of video by flow-guided dynamic filters (Youk et al., CVPR 2024).

Source: arXiv:2401.03707. Net^D learns how a sharp, large video became the blurred, small one; Net^R restores it.

Shapes: b batch, t frames of the window, c = dim feature channels, h w size of the input, s scale. A clip is
(b, channels, t, h, w), as in the official code. f are ``num_flow`` flows with masks, (b, 3 * num_flow, t, h, w):
dx, dy in pixels and a logit each.
"""
# ruff: noqa: N803 - the official names of arguments

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_positive
from vsr.ops.dynamic_filter import down_filter, image_warp, multi_flow_warp, up_filter
from vsr.registry import NETWORKS

LAYER_NORMS = ("WithBias", "BiasFree")
SCALES = (2, 3, 4)


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def frame_conv(in_channels: int, out_channels: int, bias: bool) -> nn.Conv3d:
    """A 3x3 convolution of each frame."""
    return nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1), bias=bias)


def two_convs(in_channels: int, hidden: int, out_channels: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        frame_conv(in_channels, hidden, bias), nn.LeakyReLU(0.2), frame_conv(hidden, out_channels, bias)
    )


class DenseLayer(nn.Module):
    """Adds ``growth_rate`` channels to its input: (b, c, t, h, w) -> (b, c + growth_rate, t, h, w)."""

    def __init__(self, in_channels: int, growth_rate: int, bias: bool) -> None:
        super().__init__()
        self.conv = frame_conv(in_channels, growth_rate, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, lrelu(self.conv(x))), 1)


class RDB(nn.Module):
    """Residual dense block: dense layers, reduced to the input's channels and added to it."""

    def __init__(self, dim: int, growth_rate: int, num_dense_layer: int, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(DenseLayer(dim + i * growth_rate, growth_rate, bias) for i in range(num_dense_layer))
        )
        self.conv = nn.Conv3d(dim + num_dense_layer * growth_rate, dim, 1)  # with a bias, whatever the option says

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.layer(x)) + x


class RRDB(nn.Module):
    """``num_RDB`` residual dense blocks in a row, whose outputs are joined and added to the input."""

    def __init__(self, dim: int, num_RDB: int, growth_rate: int, num_dense_layer: int, bias: bool) -> None:
        super().__init__()
        self.RDBs = nn.ModuleList(RDB(dim, growth_rate, num_dense_layer, bias) for _ in range(num_RDB))
        self.conv = nn.Sequential(nn.Conv3d(dim * num_RDB, dim, 1, bias=bias), frame_conv(dim, dim, bias))

    def forward(self, x: Tensor) -> Tensor:
        out, outs = x, []
        for block in self.RDBs:
            out = block(out)
            outs.append(out)
        return self.conv(torch.cat(outs, 1)) + x


class _Norm(nn.Module):
    """Normalisation over channels at each pixel (b, c, h, w); without a bias, the mean is not taken off either."""

    def __init__(self, dim: int, with_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if with_bias else None

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        weight = torch.rsqrt(variance + 1e-5) * self.weight[:, None, None]
        return x * weight if self.bias is None else (x - mean) * weight + self.bias[:, None, None]


class LayerNorm(nn.Module):
    """``_Norm`` under the name that official checkpoints have for it."""

    def __init__(self, dim: int, LayerNorm_type: str) -> None:
        super().__init__()
        self.body = _Norm(dim, LayerNorm_type == "WithBias")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class FeedForward(nn.Module):
    """Two depthwise branches of int(dim * factor) channels, one of which gates the other."""

    def __init__(self, dim: int, ffn_expansion_factor: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * ffn_expansion_factor)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * value)


class CrossAttention(nn.Module):
    """Attention between channels (not pixels): queries from a guide, keys and values from the features."""

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
        b, c, h, w = x.shape
        heads = (b, self.num_heads, c // self.num_heads, h * w)
        query = self.q_dwconv(self.q(guide)).reshape(heads)
        key, value = (part.reshape(heads) for part in self.kv_dwconv(self.kv_conv(x)).chunk(2, 1))
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        out = (scores * self.temperature).softmax(-1) @ value
        return self.project_out(out.reshape(b, c, h, w))


class MultiAttentionBlock(nn.Module):
    """Attention guided by the centre frame and, in Net^R, by the degradation; a feed-forward part after each."""

    def __init__(
        self,
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
        self.degradation_aware = degradation_aware
        if degradation_aware:
            self.norm3 = LayerNorm(dim, LayerNorm_type)
            self.da_attn = CrossAttention(dim, num_heads, bias)
            self.norm4 = LayerNorm(dim, LayerNorm_type)
            self.ffn2 = FeedForward(dim, ffn_expansion_factor, bias)

    def forward(self, fused: Tensor, center: Tensor, degradation: Tensor | None = None) -> Tensor:
        fused = fused + self.co_attn(self.norm1(fused), center)
        fused = fused + self.ffn1(self.norm2(fused))
        if self.degradation_aware:
            assert degradation is not None
            fused = fused + self.da_attn(self.norm3(fused), degradation)
            fused = fused + self.ffn2(self.norm4(fused))
        return fused


class FRMABlock(nn.Module):
    """Iterative feature refinement with multi-attention: refines features, flows and what they fuse to.

    Args:
        first_flow: No flows come in yet: the first block of Net^D.
        first_fused: No fused features come in yet: the first block of either network.
        degradation_aware: Kernels of the degradation come in: Net^R.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_seq: int,
        growth_rate: int,
        num_dense_layer: int,
        num_flow: int,
        num_transformer_block: int,
        num_heads: int,
        LayerNorm_type: str,
        ffn_expansion_factor: float,
        bias: bool,
        degradation_aware: bool,
        first_flow: bool,
        first_fused: bool,
    ) -> None:
        super().__init__()
        self.rdb = RDB(dim, growth_rate, num_dense_layer, bias)
        if degradation_aware:
            self.rdb_KD = RDB(dim, growth_rate, num_dense_layer, bias)
            self.conv_KD = nn.Conv2d(dim * num_seq, dim, 1, bias=bias)
        self.conv_Fw = nn.Conv2d(dim * num_seq + (0 if first_fused else dim), dim, 1, bias=bias)
        flows = 3 * num_flow
        self.conv_f = two_convs(2 * dim + (0 if first_flow else flows), flows, flows, bias)
        self.multi_attn_block = nn.ModuleList(
            MultiAttentionBlock(dim, num_heads, LayerNorm_type, ffn_expansion_factor, bias, degradation_aware)
            for _ in range(num_transformer_block)
        )

    def forward(
        self, features: Tensor, center: Tensor, fused: Tensor | None, flows: Tensor | None, kernels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the refined features (b, c, t, h, w), fused features (b, c, h, w) and flows f.

        Args:
            features: (b, c, t, h, w).
            center: The first features of the centre frame, (b, c, 1, h, w).
            fused: (b, c, h, w), or none in a first block.
            flows: f, or none in Net^D's first block.
            kernels: Features of the degradation's kernels, (b, c, t, h, w), in Net^R.
        """
        features = self.rdb(features)
        centers = center.expand_as(features)
        if flows is None:
            flows = self.conv_f(torch.cat((centers, features), 1))
        else:
            flows = flows + self.conv_f(torch.cat((centers, flows, multi_flow_warp(features, flows)), 1))
        warped = multi_flow_warp(features, flows).flatten(1, 2)
        fused = self.conv_Fw(warped if fused is None else torch.cat((fused, warped), 1))
        degradation = None if kernels is None else self.conv_KD(self.rdb_KD(kernels).flatten(1, 2))
        for block in self.multi_attn_block:
            fused = block(fused, center.squeeze(2), degradation)
        return features, fused, flows


class Upsampler(nn.Module):
    """Sub-pixel convolutions with LeakyReLU before each shuffle, and one more: (b, c, h, w) -> (b, c, s*h, s*w)."""

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


class NetD(nn.Module):
    """Net^D, the degradation: flow-guided kernels that make the blurred input of the sharp, large video."""

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        ds_kernel_size: int,
        num_RDB: int,
        growth_rate: int,
        num_dense_layer: int,
        num_flow: int,
        num_FRMA: int,
        num_transformer_block: int,
        num_heads: int,
        LayerNorm_type: str,
        ffn_expansion_factor: float,
        bias: bool,
        num_seq: int,
    ) -> None:
        super().__init__()
        self.num_seq = num_seq
        self.feature_extractor = nn.Sequential(
            frame_conv(in_channels, dim, bias),
            nn.LeakyReLU(0.2),
            RRDB(dim, num_RDB, growth_rate, num_dense_layer, bias),
        )
        self.FRMA_blocks = nn.ModuleList(
            FRMABlock(
                dim=dim,
                num_seq=num_seq,
                growth_rate=growth_rate,
                num_dense_layer=num_dense_layer,
                num_flow=num_flow,
                num_transformer_block=num_transformer_block,
                num_heads=num_heads,
                LayerNorm_type=LayerNorm_type,
                ffn_expansion_factor=ffn_expansion_factor,
                bias=bias,
                degradation_aware=False,
                first_flow=i == 0,
                first_fused=i == 0,
            )
            for i in range(num_FRMA)
        )
        self.f_conv = two_convs(3 * num_flow, 3 * num_flow, 3, bias)
        self.d_conv = two_convs(dim // num_seq, dim, ds_kernel_size**2, bias)
        self.a_conv = two_convs(dim, dim, in_channels, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what Net^D knows about the clip x (b, in_channels, t, h, w).

        Returns:
            Features (b, c, t, h, w), kernels as logits (b, ds_kernel_size**2, t, h, w), the flow and mask of the
            large frames (b, 3, t, h, w), f, and sharp frames (b, in_channels, t, h, w).
        """
        features: Tensor = self.feature_extractor(x)
        middle = self.num_seq // 2
        center = features[:, :, middle : middle + 1]
        fused = flows = None
        for block in self.FRMA_blocks:
            features, fused, flows = block(features, center, fused, flows, None)
        assert fused is not None
        assert flows is not None
        kernels = self.d_conv(fused.unflatten(1, (-1, self.num_seq)))
        return features, kernels, self.f_conv(flows), flows, self.a_conv(features)


class NetR(nn.Module):
    """Net^R, the restoration: enlarges and sharpens the centre frame, knowing its degradation."""

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        ds_kernel_size: int,
        us_kernel_size: int,
        num_RDB: int,
        growth_rate: int,
        num_dense_layer: int,
        num_flow: int,
        num_FRMA: int,
        num_transformer_block: int,
        num_heads: int,
        LayerNorm_type: str,
        ffn_expansion_factor: float,
        bias: bool,
        scale: int,
        num_seq: int,
    ) -> None:
        super().__init__()
        self.us_kernel_size, self.scale, self.num_seq = us_kernel_size, scale, num_seq
        flows = 3 * num_flow
        self.feature_extractor = nn.Sequential(
            frame_conv(in_channels + dim, dim, bias),
            nn.LeakyReLU(0.2),
            RRDB(dim, num_RDB, growth_rate, num_dense_layer, bias),
        )
        self.FRMA_blocks = nn.ModuleList(
            FRMABlock(
                dim=dim,
                num_seq=num_seq,
                growth_rate=growth_rate,
                num_dense_layer=num_dense_layer,
                num_flow=num_flow,
                num_transformer_block=num_transformer_block,
                num_heads=num_heads,
                LayerNorm_type=LayerNorm_type,
                ffn_expansion_factor=ffn_expansion_factor,
                bias=bias,
                degradation_aware=True,
                first_flow=False,
                first_fused=i == 0,
            )
            for i in range(num_FRMA)
        )
        self.f_conv1 = two_convs(flows, flows, flows, bias)
        self.d_conv = nn.Sequential(  # the only convolutions over time
            nn.Conv3d(ds_kernel_size**2, dim, 3, padding=1, bias=bias),
            nn.LeakyReLU(0.2),
            nn.Conv3d(dim, dim, 3, padding=1, bias=bias),
        )
        self.res_conv1 = nn.Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.res_conv2 = nn.Conv2d(dim, in_channels, 3, padding=1, bias=bias)
        self.upsample = Upsampler(dim, scale, bias)
        self.r_conv = two_convs(dim // num_seq, dim, (scale * us_kernel_size) ** 2, bias)
        self.f_conv2 = two_convs(flows, flows, 3, bias)
        self.f_conv3 = two_convs(flows + 2 * in_channels, flows, 3, bias)
        self.a_conv = two_convs(dim, dim, in_channels, bias)

    def forward(self, x: Tensor, features: Tensor, flows: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Restore the clip x with Net^D's features, f and kernels of it.

        Returns:
            The restored centre frame (b, in_channels, s*h, s*w), the warped frames and sharp frames (b, in_channels,
            t, h, w).
        """
        features = self.feature_extractor(torch.cat((x, features), 1))
        middle = self.num_seq // 2
        center = features[:, :, middle : middle + 1]
        flows = self.f_conv1(flows)
        kernels = self.d_conv(kernels)
        fused = None
        for block in self.FRMA_blocks:
            features, fused, flows = block(features, center, fused, flows, kernels)
        assert fused is not None
        _, warped = image_warp(x, self.f_conv2(flows))
        middle_frames = x[:, :, middle : middle + 1].expand_as(x)
        _, warped = image_warp(x, self.f_conv3(torch.cat((flows, warped, middle_frames), 1)))
        kernels = self.r_conv(fused.unflatten(1, (-1, self.num_seq)))
        restored = up_filter(warped, kernels, kernel_size=self.us_kernel_size, scale=self.scale)
        detail = self.res_conv2(self.upsample(lrelu(self.res_conv1(fused))))
        return restored + detail, warped, self.a_conv(features)


@NETWORKS.register
class FMANet(nn.Module):
    """FMA-Net: maps a clip of blurred, small frames to its sharp, large centre frame.

    Args:
        in_channels: Channels of a frame.
        dim: c, a multiple of num_seq, num_flow and num_heads.
        ds_kernel_size: Side of Net^D's kernels, in pixels of the large frames; as odd or even as the scale.
        us_kernel_size: Side of Net^R's kernels, in pixels of the small frames; odd.
        num_RDB: Residual dense blocks of a feature extractor.
        growth_rate: Channels that a dense layer adds.
        num_dense_layer: Dense layers of a residual dense block.
        num_flow: Flows that features are moved by, each a group of channels.
        num_FRMA: Refinements of features and flows.
        num_transformer_block: Multi-attention blocks of a refinement.
        num_heads: Heads of an attention.
        LayerNorm_type: 'WithBias', or 'BiasFree', which takes no mean off.
        ffn_expansion_factor: Hidden channels of a feed-forward part over dim.
        bias: Biases in the convolutions.
        scale: 2, 3 or 4; the published networks have 4.
        num_seq: t, odd, 3 or more.
        stage: 1: Net^D alone is trained; 2: both networks.
    """

    kind = "restoration"
    temporal = "window"
    size_multiple = 1
    min_size = 1
    checkpointed = (RDB, MultiAttentionBlock)
    channels_last = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        dim: int = 90,
        ds_kernel_size: int = 20,
        us_kernel_size: int = 5,
        num_RDB: int = 12,
        growth_rate: int = 18,
        num_dense_layer: int = 4,
        num_flow: int = 9,
        num_FRMA: int = 4,
        num_transformer_block: int = 2,
        num_heads: int = 6,
        LayerNorm_type: str = "WithBias",
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        scale: int = 4,
        num_seq: int = 3,
        stage: int = 2,
    ) -> None:
        super().__init__()
        shared = {
            "in_channels": in_channels,
            "dim": dim,
            "ds_kernel_size": ds_kernel_size,
            "num_RDB": num_RDB,
            "growth_rate": growth_rate,
            "num_dense_layer": num_dense_layer,
            "num_flow": num_flow,
            "num_FRMA": num_FRMA,
            "num_transformer_block": num_transformer_block,
            "num_heads": num_heads,
            "num_seq": num_seq,
        }
        check_positive(**shared, us_kernel_size=us_kernel_size)
        _check(dim, {"num_seq": num_seq, "num_flow": num_flow, "num_heads": num_heads}, scale, stage)
        _check_kernels(ds_kernel_size, us_kernel_size, scale)
        if LayerNorm_type not in LAYER_NORMS:
            raise ValueError(f"LayerNorm_type: expected one of {', '.join(LAYER_NORMS)}, got {LayerNorm_type!r}.")
        if int(dim * ffn_expansion_factor) < 1:
            raise ValueError(
                f"ffn_expansion_factor: expected one channel or more of {dim}, got {ffn_expansion_factor}."
            )
        self.in_channels, self.ds_kernel_size, self.scale = in_channels, ds_kernel_size, scale
        self.num_seq = self.num_frame = num_seq
        self.stage = stage
        kinds: dict[str, Any] = {"LayerNorm_type": LayerNorm_type, "ffn_expansion_factor": ffn_expansion_factor, "bias": bias}
        self.degradation_learning_network = NetD(**shared, **kinds)
        if stage == 2:
            self.restoration_network = NetR(**shared, **kinds, us_kernel_size=us_kernel_size, scale=scale)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Restore the centre frame of x and, where y is known, make x of it again.

        Args:
            x: Blurred frames (b, in_channels, t, h, w), RGB in [0, 1].
            y: The sharp ones (b, in_channels, t, s*h, s*w), while training.

        Returns:
            With y: ``recon``, x's centre frame made of y (b, in_channels, h, w); ``hr_warp``, y moved onto its centre
            frame and masked; ``image_flow``, the flow that did it (b, 2, t, h, w); ``F_sharp_D``, Net^D's sharp frames
            (b, in_channels, t, h, w). In stage 2 ``output``, the restored frame (b, in_channels, s*h, s*w);
            ``lr_warp``, x moved onto its centre frame and masked; ``F_sharp_R``, Net^R's sharp frames.

        Raises:
            ValueError: a shape is another, or y is missing in stage 1.
        """
        self._check(x, y)
        features, kernels, image_flow, flows, sharp = self.degradation_learning_network(x)
        outputs: dict[str, Tensor] = {}
        if y is not None:
            occlusion, warped = image_warp(y, image_flow, self.scale)
            outputs["recon"] = down_filter(
                warped, kernels, occlusion, kernel_size=self.ds_kernel_size, stride=self.scale
            )
            outputs |= {"hr_warp": warped, "image_flow": image_flow[:, :2], "F_sharp_D": sharp}
        if self.stage == 2:
            restored, warped, sharp = self.restoration_network(x, features, flows, kernels)
            outputs |= {"output": restored, "lr_warp": warped, "F_sharp_R": sharp}
        return outputs

    def frames_first(self) -> "CenterFrame":
        """Return this network as inference calls all others, (b, t, channels, h, w) -> its centre frame restored."""
        return CenterFrame(self)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dim() != 5 or x.shape[1:3] != (self.in_channels, self.num_seq) or 0 in x.shape[3:]:
            raise ValueError(f"x: expected (b, {self.in_channels}, {self.num_seq}, h, w), got {tuple(x.shape)}.")
        if y is None:
            if self.stage == 1:
                raise ValueError(
                    "y: expected the sharp frames, as stage 1 learns the degradation and restores nothing, got none."
                )
            return
        expected = (*x.shape[:3], self.scale * x.shape[3], self.scale * x.shape[4])
        if y.shape != expected:
            raise ValueError(f"y: expected {expected}, {self.scale} times the size of x, got {tuple(y.shape)}.")


class CenterFrame(nn.Module):
    """A FMANet as a network of windows, which maps (b, t, channels, h, w) to (b, channels, s*h, s*w).

    Raises:
        ValueError: the network is one of stage 1, which restores nothing.
    """

    def __init__(self, network: FMANet) -> None:
        super().__init__()
        if network.stage == 1:
            raise ValueError("stage: expected 2 to restore frames, got 1, which learns the degradation alone.")
        self.network = network
        self.kind, self.temporal, self.checkpointed = network.kind, network.temporal, network.checkpointed
        self.size_multiple, self.min_size, self.scale = network.size_multiple, network.min_size, network.scale
        self.num_in_ch, self.num_frame, self.channels_last = network.in_channels, network.num_seq, network.channels_last

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 5:
            raise ValueError(f"x: expected (b, {self.num_frame}, {self.num_in_ch}, h, w), got {tuple(x.shape)}.")
        outputs: dict[str, Tensor] = self.network(x.transpose(1, 2))
        return outputs["output"]


def _check(dim: int, divisors: dict[str, int], scale: int, stage: int) -> None:
    """Raise ValueError where the arguments do not fit each other."""
    num_seq = divisors["num_seq"]
    if num_seq < 3 or num_seq % 2 == 0:
        raise ValueError(f"num_seq: expected an odd number from 3 up, got {num_seq}.")
    for name, divisor in divisors.items():
        if dim % divisor:
            raise ValueError(f"{name}: expected a divisor of dim ({dim}), got {divisor}. Change one of the two.")
    if scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(map(str, SCALES))}, got {scale}.")
    if stage not in (1, 2):
        raise ValueError(f"stage: expected 1 (degradation) or 2 (restoration), got {stage}.")


def _check_kernels(ds_kernel_size: int, us_kernel_size: int, scale: int) -> None:
    if ds_kernel_size < scale or (ds_kernel_size - scale) % 2:
        even = "an even" if scale % 2 == 0 else "an odd"
        raise ValueError(
            f"ds_kernel_size: expected {even} number from {scale} up, as the scale is {scale}, got {ds_kernel_size}."
        )
    if us_kernel_size % 2 == 0:
        raise ValueError(f"us_kernel_size: expected an odd number, got {us_kernel_size}.")
