"""FMA-Net: joint deblurring and super-resolution of video by flow-guided dynamic filters (Youk et al., CVPR 2024).

Source: arXiv:2401.03707. Net^D learns how the sharp, large video became the blurred, small one; Net^R restores it.

Shapes: b batch, t frames of the window, c = dim feature channels, h w size of the small frames, s scale. A clip is
(b, channels, t, h, w), as in the official code; inside, frames are images (b*t, channels, h, w). f are flows with
masks, (b, 3 * num_flow, t, h, w): dx, dy in pixels and a logit each.
"""
# ruff: noqa: N803 - the official names of arguments

import math
from typing import Any

import torch
from torch import Tensor, nn

from vsr.archs.blocks import check_positive
from vsr.archs.fmanet_blocks import (
    RDB,
    RRDB,
    ClipConv,
    FrameConv,
    FRMABlock,
    Upsampler,
    bands,
    frame_by_frame,
    joined,
    lrelu,
    two_convs,
)
from vsr.ops.dynamic_filter import down_filter, image_warp, up_filter
from vsr.registry import NETWORKS

LAYER_NORMS = ("WithBias", "BiasFree")
SCALES = (2, 3, 4)


def to_frames(clip: Tensor) -> Tensor:
    """(b, channels, t, h, w) -> (b*t, channels, h, w)."""
    return clip.transpose(1, 2).flatten(0, 1)


def to_clip(frames: Tensor, t: int) -> Tensor:
    """(b*t, channels, h, w) -> (b, channels, t, h, w)."""
    return frames.unflatten(0, (-1, t)).transpose(1, 2)


class _Net(nn.Module):
    """What both networks begin with: features of each frame, and their refinement.

    Args:
        in_channels: Channels of what the features are made of.
        degradation_aware: Net^R, which gets flows and kernels from Net^D.
        others: See FMANet.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
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
        degradation_aware: bool,
    ) -> None:
        super().__init__()
        self.num_seq = num_seq
        self.feature_extractor = nn.Sequential(
            FrameConv(in_channels, dim, bias=bias),
            nn.LeakyReLU(0.2, inplace=True),
            RRDB(dim, num_RDB, growth_rate, num_dense_layer, bias),
        )
        self.FRMA_blocks = nn.ModuleList(
            FRMABlock(
                dim=dim,
                growth_rate=growth_rate,
                num_dense_layer=num_dense_layer,
                num_flow=num_flow,
                num_transformer_block=num_transformer_block,
                num_heads=num_heads,
                LayerNorm_type=LayerNorm_type,
                ffn_expansion_factor=ffn_expansion_factor,
                bias=bias,
                num_seq=num_seq,
                degradation_aware=degradation_aware,
                first_flow=i == 0 and not degradation_aware,
                first_fused=i == 0,
            )
            for i in range(num_FRMA)
        )

    def refine(self, frames: Tensor, flows: Tensor | None, kernels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features (b*t, c, h, w), fused features (b, c, h, w) and f of frames (b*t, in_channels, h, w)."""
        features = frame_by_frame(self.feature_extractor, frames)
        center = features.unflatten(0, (-1, self.num_seq))[:, self.num_seq // 2]
        fused = None
        for block in self.FRMA_blocks:
            features, fused, flows = block(features, center, fused, flows, kernels)
        assert fused is not None
        assert flows is not None
        return features, fused, flows

    def regrouped(self, fused: Tensor) -> Tensor:
        """Share the channels of fused features (b, c, h, w) out to the frames: (b*t, c / t, h, w)."""
        return fused.unflatten(1, (-1, self.num_seq)).transpose(1, 2).flatten(0, 1)


class NetD(_Net):
    """Net^D, the degradation: the flow and the kernels that make the blurred frames of the sharp, large ones.

    Args:
        in_channels, dim, ds_kernel_size, num_flow, bias: See FMANet.
        others: Of ``_Net``.
    """

    def __init__(
        self, *, in_channels: int, dim: int, ds_kernel_size: int, num_flow: int, bias: bool, **others: Any
    ) -> None:
        super().__init__(
            in_channels=in_channels, dim=dim, num_flow=num_flow, bias=bias, degradation_aware=False, **others
        )
        self.f_conv = two_convs(3 * num_flow, 3 * num_flow, 3, bias)
        self.d_conv = two_convs(dim // self.num_seq, dim, ds_kernel_size**2, bias)
        self.a_conv = two_convs(dim, dim, in_channels, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what Net^D knows about the clip x (b, in_channels, t, h, w).

        Returns:
            Features (b, c, t, h, w), kernels as logits (b, ds_kernel_size**2, t, h, w), the flow and mask of the
            large frames (b, 3, t, h, w), f, and sharp small frames (b, in_channels, t, h, w).
        """
        features, fused, flows = self.refine(to_frames(x), None, None)
        parts = bands(self.regrouped(fused), reach=2)
        kernels = joined(self.d_conv(band)[..., counting, :] for band, counting, _ in parts)
        known = (features, kernels, self.f_conv(flows), flows, self.a_conv(features))
        features, kernels, image_flow, flows, sharp = (to_clip(frames, self.num_seq) for frames in known)
        return features, kernels, image_flow, flows, sharp


class NetR(_Net):
    """Net^R, the restoration: enlarges and sharpens the centre frame, knowing its degradation.

    Args:
        in_channels, dim, ds_kernel_size, us_kernel_size, num_flow, bias, scale: See FMANet.
        others: Of ``_Net``.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        ds_kernel_size: int,
        us_kernel_size: int,
        num_flow: int,
        bias: bool,
        scale: int,
        **others: Any,
    ) -> None:
        super().__init__(
            in_channels=in_channels + dim, dim=dim, num_flow=num_flow, bias=bias, degradation_aware=True, **others
        )
        self.us_kernel_size, self.scale = us_kernel_size, scale
        flows = 3 * num_flow
        self.f_conv1 = two_convs(flows, flows, flows, bias)
        self.d_conv = nn.Sequential(
            ClipConv(ds_kernel_size**2, dim, bias=bias), nn.LeakyReLU(0.2, inplace=True), ClipConv(dim, dim, bias=bias)
        )
        self.res_conv1 = nn.Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.res_conv2 = nn.Conv2d(dim, in_channels, 3, padding=1, bias=bias)
        self.upsample = Upsampler(dim, scale, bias)
        self.r_conv = two_convs(dim // self.num_seq, dim, (scale * us_kernel_size) ** 2, bias)
        self.f_conv2 = two_convs(flows, flows, 3, bias)
        self.f_conv3 = two_convs(flows + 2 * in_channels, flows, 3, bias)
        self.a_conv = two_convs(dim, dim, in_channels, bias)

    def forward(self, x: Tensor, features: Tensor, flows: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Restore the clip x with Net^D's features, f and kernels of it.

        Returns:
            The restored centre frame (b, in_channels, s*h, s*w); the frames moved onto it and masked, and sharp small
            frames, both (b, in_channels, t, h, w).
        """
        return self.restored(x, *self.taken(x, features, flows, kernels))

    def taken(self, x: Tensor, features: Tensor, flows: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``restored`` needs of Net^D's results, which are far larger: 5 KB a pixel."""
        kernels = self.d_conv(kernels.transpose(1, 2)).flatten(0, 1)
        return to_frames(torch.cat((x, features), 1)), self.f_conv1(to_frames(flows)), kernels

    def restored(self, x: Tensor, frames: Tensor, flows: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do the rest of ``forward``."""
        features, fused, flows = self.refine(frames, flows, kernels)
        warped = self._onto_center(x, flows)
        restored = self._filtered(warped, fused) + self._detail(fused)
        return restored, warped, to_clip(self.a_conv(features), self.num_seq)

    def _onto_center(self, x: Tensor, flows: Tensor) -> Tensor:
        """Warp the frames of x by a first flow and, having seen the result, by a better one."""
        t = self.num_seq
        warped = to_frames(image_warp(x, to_clip(self.f_conv2(flows), t))[1])
        center = to_frames(x[:, :, t // 2 : t // 2 + 1].expand_as(x))
        return image_warp(x, to_clip(self.f_conv3(torch.cat((flows, warped, center), 1)), t))[1]

    def _filtered(self, warped: Tensor, fused: Tensor) -> Tensor:
        """Enlarge the warped frames by kernels made of the fused features, in bands: the kernels are large."""
        k = self.us_kernel_size
        out = []
        for band, counting, rows in bands(self.regrouped(fused), reach=2):
            kernels = to_clip(self.r_conv(band)[..., counting, :], self.num_seq)
            out.append(up_filter(warped, kernels, kernel_size=k, scale=self.scale, rows=rows))
        return joined(out)

    def _detail(self, fused: Tensor) -> Tensor:
        """Make the high frequencies of the fused features, in bands: the features are large, once enlarged."""
        out = []
        for band, counting, _ in bands(lrelu(self.res_conv1(fused)), reach=self.upsample.reach):
            detail = self.res_conv2(self.upsample(band))
            out.append(detail[:, :, self.scale * counting.start : self.scale * counting.stop])
        return joined(out)


@NETWORKS.register
class FMANet(nn.Module):
    """FMA-Net: maps a clip of blurred, small frames to its sharp, large centre frame.

    Args:
        in_channels: Channels of a frame.
        dim: c, a multiple of num_seq, num_flow and num_heads.
        ds_kernel_size: Side of Net^D's kernels, in pixels of the large frames: the scale, or an even number more.
        us_kernel_size: Side of Net^R's kernels, in pixels of the small frames; odd.
        num_RDB: Residual dense blocks of a feature extractor.
        growth_rate: Channels that a dense layer adds.
        num_dense_layer: Dense layers of a residual dense block.
        num_flow: Flows that features are moved by, each a group of their channels.
        num_FRMA: Refinements of features and flows.
        num_transformer_block: Multi-attention blocks of a refinement.
        num_heads: Heads of an attention.
        LayerNorm_type: 'WithBias', or 'BiasFree', which leaves the mean where it is.
        ffn_expansion_factor: Hidden channels of a feed-forward part over dim.
        bias: Biases in the convolutions; residual dense blocks have one in any case.
        scale: 2, 3 or 4; the published network has 4.
        num_seq: t, odd, 3 or more.
        stage: 1: Net^D alone, to be trained first; 2: both networks.
    """

    kind = "restoration"
    temporal = "window"
    size_multiple = 1
    min_size = 1
    checkpointed = (RDB,)  # what is cheap to compute again, the attention, always is
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
        numbers = {
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
        check_positive(**numbers, us_kernel_size=us_kernel_size)
        _check(numbers, us_kernel_size, scale, stage)
        if LayerNorm_type not in LAYER_NORMS:
            raise ValueError(f"LayerNorm_type: expected one of {', '.join(LAYER_NORMS)}, got {LayerNorm_type!r}.")
        if not 1 <= dim * ffn_expansion_factor < math.inf:
            raise ValueError(f"ffn_expansion_factor: expected {1 / dim:.3g} or more, got {ffn_expansion_factor}.")
        self.in_channels, self.ds_kernel_size, self.scale = in_channels, ds_kernel_size, scale
        self.num_seq = self.num_frame = num_seq
        self.stage = stage
        shared: dict[str, Any] = {
            **numbers,
            "LayerNorm_type": LayerNorm_type,
            "ffn_expansion_factor": ffn_expansion_factor,
            "bias": bias,
        }
        self.degradation_learning_network = NetD(**shared)
        if stage == 2:
            self.restoration_network = NetR(**shared, us_kernel_size=us_kernel_size, scale=scale)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Restore the centre frame of x and, where y is given, make of y what x shows.

        Args:
            x: Blurred frames (b, in_channels, t, h, w), RGB in [0, 1].
            y: The sharp ones (b, in_channels, t, s*h, s*w), in training.

        Returns:
            With y: ``recon``, the centre frame of x made of y (b, in_channels, h, w); ``hr_warp``, the frames of y
            moved onto the centre one and masked; ``image_flow``, the flow that did it (b, 2, t, h, w), in pixels of
            x; ``F_sharp_D``, Net^D's sharp frames (b, in_channels, t, h, w). In stage 2: ``output``, the restored
            frame (b, in_channels, s*h, s*w), not clamped; ``lr_warp``, the frames of x moved onto the centre one and
            masked; ``F_sharp_R``, Net^R's sharp frames (b, in_channels, t, h, w).

        Raises:
            ValueError: a shape is another, or y is missing in stage 1.
        """
        self._check(x, y)
        features, kernels, image_flow, flows, sharp = self.degradation_learning_network(x)
        outputs: dict[str, Tensor] = {}
        if y is not None:
            occlusion, warped = image_warp(y, image_flow, self.scale)
            seen = occlusion[:, :1]  # all channels of it are the same
            recon = down_filter(warped, kernels, seen, kernel_size=self.ds_kernel_size, stride=self.scale)
            outputs |= {"recon": recon, "hr_warp": warped, "image_flow": image_flow[:, :2], "F_sharp_D": sharp}
        if self.stage == 2:
            taken = self.restoration_network.taken(x, features, flows, kernels)
            del features, flows, kernels  # the kernels alone are a third of what a large frame takes otherwise
            restored, warped, sharp = self.restoration_network.restored(x, *taken)
            outputs |= {"output": restored, "lr_warp": warped, "F_sharp_R": sharp}
        return outputs

    def input_shapes(self, size: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of what ``forward`` needs for one sample of this height and width: in stage 1 y, too."""
        x = (1, self.in_channels, self.num_seq, *size)
        return (x, (*x[:3], *(self.scale * side for side in size))) if self.stage == 1 else (x,)

    def frames_first(self) -> "CenterFrame":
        """Return this network as inference calls networks of windows: (b, t, channels, h, w) -> the restored frame."""
        return CenterFrame(self)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dim() != 5 or x.shape[1:3] != (self.in_channels, self.num_seq) or 0 in x.shape:
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
    """A FMANet as a network of windows: (b, t, channels, h, w) -> (b, channels, s*h, s*w).

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
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 5 or x.shape[1:3] != (self.num_frame, self.num_in_ch):
            raise ValueError(f"x: expected (b, {self.num_frame}, {self.num_in_ch}, h, w), got {tuple(x.shape)}.")
        outputs: dict[str, Tensor] = self.network(x.transpose(1, 2))
        return outputs["output"]


def _check(numbers: dict[str, int], us_kernel_size: int, scale: int, stage: int) -> None:
    """Raise ValueError where arguments of FMANet do not fit each other."""
    dim, kernel, num_seq = numbers["dim"], numbers["ds_kernel_size"], numbers["num_seq"]
    if num_seq < 3 or num_seq % 2 == 0:
        raise ValueError(f"num_seq: expected an odd number from 3 up, got {num_seq}.")
    for name in ("num_seq", "num_flow", "num_heads"):
        if dim % numbers[name]:
            raise ValueError(f"{name}: expected a divisor of dim ({dim}), got {numbers[name]}. Change one of the two.")
    if scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(map(str, SCALES))}, got {scale}.")
    if kernel < scale or (kernel - scale) % 2:
        raise ValueError(
            f"ds_kernel_size: expected an {'odd' if scale % 2 else 'even'} number from {scale} up, as the scale is "
            f"{scale}, got {kernel}."
        )
    if us_kernel_size % 2 == 0:
        raise ValueError(f"us_kernel_size: expected an odd number, got {us_kernel_size}.")
    if stage not in (1, 2):
        raise ValueError(f"stage: expected 1 (the degradation alone) or 2 (both networks), got {stage}.")
