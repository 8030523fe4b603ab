"""EDVR: video restoration with deformable alignment (Wang et al., CVPRW 2019, arXiv:1905.02716).

Shapes: b batch, t frames of the window, c feature channels, h w size of the features at level 1.
A pyramid is a list of three levels: (h, w), (h/2, w/2), (h/4, w/4).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import (
    ResidualBlockNoBN,
    bilinear_base,
    check_channels,
    check_counts,
    check_positive,
    residual_blocks,
)
from vsr.ops.deform_conv import ModulatedDeformConv2dPack
from vsr.registry import NETWORKS


def conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2)


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class PCDAlignment(nn.Module):
    """Pyramid, cascading and deformable alignment: moves a neighbour's features onto the reference's.

    From the coarsest level to the finest, offsets are found in both frames' features and in the
    offsets of the level before; a last deformable convolution refines the result.

    Args:
        num_feat: c, the same at every level.
        deformable_groups: Groups of channels with offsets of their own.
    """

    def __init__(self, *, num_feat: int = 64, deformable_groups: int = 8) -> None:
        super().__init__()
        self.offset_conv1, self.offset_conv2, self.offset_conv3 = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.dcn_pack, self.feat_conv = nn.ModuleDict(), nn.ModuleDict()
        for level in ("l3", "l2", "l1"):  # the order of official checkpoints
            self.offset_conv1[level] = conv(2 * num_feat, num_feat)
            self.offset_conv2[level] = conv(num_feat if level == "l3" else 2 * num_feat, num_feat)
            self.dcn_pack[level] = ModulatedDeformConv2dPack(
                num_feat, num_feat, 3, padding=1, deform_groups=deformable_groups
            )
            if level != "l3":
                self.offset_conv3[level] = conv(num_feat, num_feat)
                self.feat_conv[level] = conv(2 * num_feat, num_feat)
        self.cas_offset_conv1 = conv(2 * num_feat, num_feat)
        self.cas_offset_conv2 = conv(num_feat, num_feat)
        self.cas_dcnpack = ModulatedDeformConv2dPack(num_feat, num_feat, 3, padding=1, deform_groups=deformable_groups)

    def forward(self, neighbour: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """Return the neighbour's features, aligned: (b, c, h, w) from two pyramids of it."""
        level = "l3"
        offset = lrelu(self.offset_conv1[level](torch.cat((neighbour[2], reference[2]), 1)))
        offset = lrelu(self.offset_conv2[level](offset))
        aligned = lrelu(self.dcn_pack[level](neighbour[2], offset))
        for level, i in (("l2", 1), ("l1", 0)):
            coarse = upsample(offset) * 2  # a pixel of the coarse level is two of this one
            offset = lrelu(self.offset_conv1[level](torch.cat((neighbour[i], reference[i]), 1)))
            offset = lrelu(self.offset_conv2[level](torch.cat((offset, coarse), 1)))
            offset = lrelu(self.offset_conv3[level](offset))
            aligned = torch.cat((self.dcn_pack[level](neighbour[i], offset), upsample(aligned)), 1)
            aligned = self.feat_conv[level](aligned)
            if level != "l1":
                aligned = lrelu(aligned)
        offset = lrelu(self.cas_offset_conv1(torch.cat((aligned, reference[0]), 1)))
        return lrelu(self.cas_dcnpack(aligned, lrelu(self.cas_offset_conv2(offset))))


class TSAFusion(nn.Module):
    """Temporal and spatial attention: weighs the aligned frames against the reference, then fuses them.

    Args:
        num_feat: c.
        num_frame: t.
        center_frame_idx: Position of the reference in the window.
    """

    def __init__(self, *, num_feat: int = 64, num_frame: int = 5, center_frame_idx: int = 2) -> None:
        super().__init__()
        self.center_frame_idx = center_frame_idx
        self.temporal_attn1 = conv(num_feat, num_feat)
        self.temporal_attn2 = conv(num_feat, num_feat)
        self.feat_fusion = conv(num_frame * num_feat, num_feat, 1)
        self.spatial_attn1 = conv(num_frame * num_feat, num_feat, 1)
        self.spatial_attn2 = conv(2 * num_feat, num_feat, 1)
        self.spatial_attn3 = conv(num_feat, num_feat)
        self.spatial_attn4 = conv(num_feat, num_feat, 1)
        self.spatial_attn5 = conv(num_feat, num_feat)
        self.spatial_attn_l1 = conv(num_feat, num_feat, 1)
        self.spatial_attn_l2 = conv(2 * num_feat, num_feat)
        self.spatial_attn_l3 = conv(num_feat, num_feat)
        self.spatial_attn_add1 = conv(num_feat, num_feat, 1)
        self.spatial_attn_add2 = conv(num_feat, num_feat, 1)

    def forward(self, aligned: Tensor) -> Tensor:
        """Map aligned features (b, t, c, h, w) to (b, c, h, w); h and w are multiples of 4."""
        reference = self.temporal_attn1(aligned[:, self.center_frame_idx])
        embedding = self.temporal_attn2(aligned.flatten(0, 1)).view(aligned.shape)
        likeness = torch.sigmoid((embedding * reference.unsqueeze(1)).sum(2, keepdim=True))  # (b, t, 1, h, w)
        weighted = (aligned * likeness).flatten(1, 2)  # (b, t * c, h, w)
        fused = lrelu(self.feat_fusion(weighted))

        attention = lrelu(self.spatial_attn1(weighted))
        attention = lrelu(self.spatial_attn2(self._pool(attention)))  # (b, c, h/2, w/2)
        level = lrelu(self.spatial_attn_l1(attention))
        level = lrelu(self.spatial_attn_l2(self._pool(level)))  # (b, c, h/4, w/4)
        level = upsample(lrelu(self.spatial_attn_l3(level)))
        attention = lrelu(self.spatial_attn3(attention)) + level
        attention = self.spatial_attn5(upsample(lrelu(self.spatial_attn4(attention))))
        added = self.spatial_attn_add2(lrelu(self.spatial_attn_add1(attention)))
        return fused * torch.sigmoid(attention) * 2 + added  # twice: the sigmoid of 0 must change nothing

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        """Halve the size, keeping both the greatest and the mean value: (b, c, h, w) -> (b, 2c, h/2, w/2)."""
        return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)


class PredeblurModule(nn.Module):
    """Sharpens every frame by itself before the alignment, in a pyramid of its own.

    Args:
        num_in_ch: Channels of a frame.
        num_feat: c.
        hr_in: Frames come at the size of the output and are first reduced to a quarter of it.
    """

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, hr_in: bool = False) -> None:
        super().__init__()
        self.hr_in = hr_in
        self.conv_first = conv(num_in_ch, num_feat)
        if hr_in:
            self.stride_conv_hr1 = conv(num_feat, num_feat, stride=2)
            self.stride_conv_hr2 = conv(num_feat, num_feat, stride=2)
        self.stride_conv_l2 = conv(num_feat, num_feat, stride=2)
        self.stride_conv_l3 = conv(num_feat, num_feat, stride=2)
        self.resblock_l3 = ResidualBlockNoBN(num_feat)
        self.resblock_l2_1 = ResidualBlockNoBN(num_feat)
        self.resblock_l2_2 = ResidualBlockNoBN(num_feat)
        self.resblock_l1 = residual_blocks(5, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (n, num_in_ch, h, w) to features (n, c, h, w), a quarter of that size with hr_in."""
        level1 = lrelu(self.conv_first(x))
        if self.hr_in:
            level1 = lrelu(self.stride_conv_hr2(lrelu(self.stride_conv_hr1(level1))))
        level2 = lrelu(self.stride_conv_l2(level1))
        level3 = lrelu(self.stride_conv_l3(level2))
        level2 = self.resblock_l2_1(level2) + upsample(self.resblock_l3(level3))
        level1 = self.resblock_l1[:2](level1) + upsample(self.resblock_l2_2(level2))
        return self.resblock_l1[2:](level1)


class AlignedFeatures(nn.Module):
    """What EDVR and its part in IconVSR share: the features of all frames at three levels, and their alignment.

    A base class, because official checkpoints have these modules at the top level.
    """

    center_frame_idx: int

    def _add_features(self, num_feat: int, num_extract_block: int, deformable_groups: int) -> None:
        self.feature_extraction = residual_blocks(num_extract_block, num_feat)
        self.conv_l2_1 = conv(num_feat, num_feat, stride=2)
        self.conv_l2_2 = conv(num_feat, num_feat)
        self.conv_l3_1 = conv(num_feat, num_feat, stride=2)
        self.conv_l3_2 = conv(num_feat, num_feat)
        self.pcd_align = PCDAlignment(num_feat=num_feat, deformable_groups=deformable_groups)

    def _pyramid(self, first: Tensor) -> list[Tensor]:
        """Map first features (n, c, h, w) to [(n, c, h, w), (n, c, h/2, w/2), (n, c, h/4, w/4)]."""
        level1 = self.feature_extraction(first)
        level2 = lrelu(self.conv_l2_2(lrelu(self.conv_l2_1(level1))))
        level3 = lrelu(self.conv_l3_2(lrelu(self.conv_l3_1(level2))))
        return [level1, level2, level3]

    def _align(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Move all frames of a window's pyramid of (b, t, c, ...) levels onto the centre: (b, t, c, h, w)."""
        reference = [level[:, self.center_frame_idx] for level in pyramid]
        frames = range(pyramid[0].shape[1])
        # frame by frame: the columns of the deformable convolutions are the largest tensors of all
        return torch.stack([self.pcd_align([level[:, i] for level in pyramid], reference) for i in frames], 1)


@NETWORKS.register
class EDVR(AlignedFeatures):
    """Restores one frame of a window of frames; enlarges it four times, or keeps its size with hr_in.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        num_feat: Width of the features; the last two convolutions have 64 channels whatever it is.
        num_frame: Frames of the window; odd.
        deformable_groups: Groups of channels with offsets of their own; divides num_feat.
        num_extract_block: Residual blocks before the alignment.
        num_reconstruct_block: Residual blocks after the fusion.
        center_frame_idx: The frame that is restored; none: the one in the middle.
        hr_in: Input and output are of one size (deblurring); needs with_predeblur.
        with_predeblur: Sharpen every frame by itself first.
        with_tsa: Fuse by temporal and spatial attention; else by one 1x1 convolution.
    """

    kind = "restoration"
    temporal = "window"
    checkpointed: tuple[type[nn.Module], ...] = (ResidualBlockNoBN, PCDAlignment)
    channels_last = True

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_frame: int = 5,
        deformable_groups: int = 8,
        num_extract_block: int = 5,
        num_reconstruct_block: int = 10,
        center_frame_idx: int | None = None,
        hr_in: bool = False,
        with_predeblur: bool = False,
        with_tsa: bool = True,
    ) -> None:
        super().__init__()
        center = num_frame // 2 if center_frame_idx is None else center_frame_idx
        check_channels(num_in_ch, num_out_ch)
        check_positive(num_feat=num_feat, num_frame=num_frame, deformable_groups=deformable_groups)
        _check(num_feat, num_frame, deformable_groups, center, hr_in, with_predeblur)
        check_counts(num_extract_block=num_extract_block, num_reconstruct_block=num_reconstruct_block)
        self.num_in_ch, self.num_out_ch, self.with_predeblur = num_in_ch, num_out_ch, with_predeblur
        self.num_frame, self.center_frame_idx = num_frame, center
        self.scale, self.size_multiple = (1, 16) if hr_in else (4, 4)
        self.min_size = self.size_multiple

        if with_predeblur:
            self.predeblur = PredeblurModule(num_in_ch=num_in_ch, num_feat=num_feat, hr_in=hr_in)
            self.conv_1x1 = conv(num_feat, num_feat, 1)
        else:
            self.conv_first = conv(num_in_ch, num_feat)
        self._add_features(num_feat, num_extract_block, deformable_groups)
        self.fusion = (
            TSAFusion(num_feat=num_feat, num_frame=num_frame, center_frame_idx=center)
            if with_tsa
            else conv(num_frame * num_feat, num_feat, 1)
        )
        self.reconstruction = residual_blocks(num_reconstruct_block, num_feat)
        self.upconv1 = conv(num_feat, num_feat * 4)
        self.upconv2 = conv(num_feat, 64 * 4)
        self.conv_hr = conv(64, 64)
        self.conv_last = conv(64, num_out_ch)

    def forward(self, x: Tensor) -> Tensor:
        """Map a window (b, t, num_in_ch, H, W), RGB in [0, 1], to one frame (b, num_out_ch, s*H, s*W).

        Raises:
            ValueError: the shape is another, or a side is no multiple of ``size_multiple``.
        """
        multiple = self.size_multiple
        if x.dim() != 5 or x.shape[1:3] != (self.num_frame, self.num_in_ch):
            raise ValueError(f"x: expected (b, {self.num_frame}, {self.num_in_ch}, h, w), got {tuple(x.shape)}.")
        if min(x.shape[3:]) < multiple or x.shape[3] % multiple or x.shape[4] % multiple:
            raise ValueError(
                f"x: expected sides that are multiples of {multiple}, got {tuple(x.shape[3:])}. Pad the frames."
            )
        pyramid = [level.unflatten(0, x.shape[:2]) for level in self.extract(x.flatten(0, 1))]
        return self.reconstruct(pyramid, x[:, self.center_frame_idx])

    def extract(self, frames: Tensor) -> list[Tensor]:
        """Map frames (n, num_in_ch, H, W) to their pyramid: [(n, c, h, w), (n, c, h/2, w/2), (n, c, h/4, w/4)]."""
        first = self.conv_1x1(self.predeblur(frames)) if self.with_predeblur else lrelu(self.conv_first(frames))
        return self._pyramid(first)

    def reconstruct(self, pyramid: Sequence[Tensor], center: Tensor) -> Tensor:
        """Restore the centre frame (b, num_in_ch, H, W) from the window's pyramid of (b, t, c, ...) levels."""
        return self._enlarge(self._fuse(self._align(pyramid)), center)

    def _fuse(self, aligned: Tensor) -> Tensor:
        """Make one feature map (b, c, h, w) of those of all frames (b, t, c, h, w)."""
        fused: Tensor = self.fusion(aligned if isinstance(self.fusion, TSAFusion) else aligned.flatten(1, 2))
        return fused

    def _enlarge(self, fused: Tensor, center: Tensor) -> Tensor:
        """Turn fused features (b, c, h, w) into what is added to the centre frame (b, num_in_ch, H, W), and add it."""
        out = self.reconstruction(fused)
        out = lrelu(F.pixel_shuffle(self.upconv1(out), 2))
        out = lrelu(F.pixel_shuffle(self.upconv2(out), 2))
        out = self.conv_last(lrelu(self.conv_hr(out)))
        return out + bilinear_base(center, self.num_out_ch, self.scale)


def _check(
    num_feat: int, num_frame: int, deformable_groups: int, center: int, hr_in: bool, with_predeblur: bool
) -> None:
    """Raise ValueError where EDVR's arguments do not fit each other."""
    if num_frame % 2 == 0:
        raise ValueError(f"num_frame: expected an odd number, got {num_frame}.")
    if not 0 <= center < num_frame:
        raise ValueError(f"center_frame_idx: expected 0 to {num_frame - 1} in {num_frame} frames, got {center}.")
    if num_feat % deformable_groups:
        raise ValueError(f"deformable_groups: expected a divisor of num_feat ({num_feat}), got {deformable_groups}.")
    if hr_in and not with_predeblur:
        raise ValueError("hr_in: expected with_predeblur: true beside it, which reduces the frames, got false.")
