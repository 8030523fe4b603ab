"""BasicVSR and IconVSR: recurrent video super-resolution (Chan et al., CVPR 2021, arXiv:2012.02181).

Shapes: b batch, t frames of the clip, c feature channels, h w size of a frame. Features travel through the
clip backwards, then forwards; at every step they are warped onto the next frame by the optical flow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import bilinear_base, check_counts, check_positive, pad_to_multiple, residual_blocks
from vsr.archs.edvr import AlignedFeatures, PCDAlignment, TSAFusion, conv
from vsr.archs.parts import load_part
from vsr.archs.spynet import BasicModule, SpyNet
from vsr.ops.warp import flow_warp
from vsr.registry import NETWORKS


def lrelu(x: Tensor) -> Tensor:
    """In place: at the size of the output each tensor counts, and no convolution wants its own output back."""
    return F.leaky_relu(x, 0.1, inplace=True)


class ConvResidualBlocks(nn.Module):
    """A convolution to ``num_out_ch`` channels, then residual blocks: (n, num_in_ch, h, w) -> (n, num_out_ch, h, w)."""

    def __init__(self, num_in_ch: int, num_out_ch: int, num_block: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(num_in_ch, num_out_ch), nn.LeakyReLU(0.1, inplace=True), residual_blocks(num_block, num_out_ch)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class Upsampler(nn.Module):
    """What the networks of this family end in: features to a picture four times as large.

    A base class, because official checkpoints have its convolutions at the top level.
    """

    def _add_upsampler(self, num_feat: int) -> None:
        self.upconv1 = conv(num_feat, num_feat * 4)
        self.upconv2 = conv(num_feat, 64 * 4)
        self.conv_hr = conv(64, 64)
        self.conv_last = conv(64, 3)

    def _upsample(self, feature: Tensor, frame: Tensor) -> Tensor:
        """Map features (b, c, h, w) and their frame, of that size or already of the output's, to (b, 3, 4h, 4w)."""
        out = lrelu(F.pixel_shuffle(self.upconv1(feature), 2))
        out = lrelu(F.pixel_shuffle(self.upconv2(out), 2))
        out = self.conv_last(lrelu(self.conv_hr(out)))
        return out + bilinear_base(frame, 3, out.shape[-1] // frame.shape[-1])


@NETWORKS.register
class BasicVSR(Upsampler):
    """Enlarges all frames of a clip four times; every frame sees all others.

    Args:
        num_feat: Width of the features; the last two convolutions have 64 channels whatever it is.
        num_block: Residual blocks of each direction.
        spynet_path: Pretrained weights of the optical flow, or a network of this family that has them as its
            part ``spynet``; none: random ones, which is for networks that a checkpoint fills as a whole.
        cpu_cache_length: Clips of more frames than this keep features and output in the CPU's memory.
    """

    kind = "restoration"
    temporal = "clip"
    checkpointed: tuple[type[nn.Module], ...] = (ConvResidualBlocks, BasicModule)
    channels_last = True
    scale = 4
    size_multiple = 1
    min_size = 1

    def __init__(
        self, *, num_feat: int = 64, num_block: int = 15, spynet_path: str | None = None, cpu_cache_length: int = 100
    ) -> None:
        super().__init__()
        check_positive(num_feat=num_feat)
        check_counts(num_block=num_block, cpu_cache_length=cpu_cache_length)
        self.num_feat, self.cpu_cache_length = num_feat, cpu_cache_length
        self.spynet = SpyNet(load_path=spynet_path)
        self.backward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
        self.fusion = conv(2 * num_feat, num_feat, 1)
        self._add_upsampler(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (b, t, 3, h, w), RGB in [0, 1], to (b, t, 3, 4h, 4w), on the CPU if t > cpu_cache_length."""
        check_clip(x)
        return self.carry(x, None, x.shape[1])[0]

    def carry(self, x: Tensor, state: tuple[Tensor, Tensor] | None, keep: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Go on with a clip: restore the first ``keep`` frames of ``x``, and look at the others.

        The pass backwards begins at the last frame of ``x``, the one forwards goes on from ``state``.

        Args:
            x: (b, n, 3, h, w), the frames after those before.
            state: What the call for the frames before returned; None: there are none.
            keep: 1 to n.

        Returns:
            (b, keep, 3, 4h, 4w), and the last of those frames with the features that come from it.
        """
        check_clip(x)
        b, t, _, h, w = x.shape
        if not 1 <= keep <= t:
            raise ValueError(f"keep: expected 1 to {t}, the frames of x, got {keep}.")
        kept_on = torch.device("cpu") if t > self.cpu_cache_length else x.device
        if state is None:
            forward_flows, backward_flows = self.spynet.along(x)
        else:
            forward_flows, backward_flows = self.spynet.along(torch.cat((state[0][:, None], x), 1))
            backward_flows = backward_flows[:, 1:]
        later: list[Tensor] = []  # features that come from the frames behind, the last frame's first
        feature = x.new_zeros(b, self.num_feat, h, w)
        for i in reversed(range(t)):
            if later:
                feature = flow_warp(feature, backward_flows[:, i])
            feature = self.backward_trunk(torch.cat((x[:, i], feature), 1))
            later.append(feature.to(kept_on))
        out: list[Tensor] = []
        feature = torch.zeros_like(feature) if state is None else state[1]
        for i in range(keep):
            if out or state is not None:
                feature = flow_warp(feature, forward_flows[:, i - (state is None)])
            feature = self.forward_trunk(torch.cat((x[:, i], feature), 1))
            fused = lrelu(self.fusion(torch.cat((later.pop().to(x.device), feature), 1)))
            out.append(self._upsample(fused, x[:, i]).to(kept_on))
        return torch.stack(out, 1), (x[:, keep - 1].clone(), feature)


class EDVRFeatureExtractor(AlignedFeatures):
    """EDVR up to its fusion: maps a window (b, num_input_frame, 3, h, w) to features (b, c, h, w) of its centre.

    Args:
        num_input_frame: Frames of the window; odd.
        num_feat: c, a multiple of 8.
        load_path: A checkpoint of this part, of EDVR, or of a network that has it as ``edvr``; none: random weights.
    """

    def __init__(self, *, num_input_frame: int, num_feat: int, load_path: str | None = None) -> None:
        super().__init__()
        self.center_frame_idx = num_input_frame // 2
        self.conv_first = conv(3, num_feat)
        self._add_features(num_feat, num_extract_block=5, deformable_groups=8)
        self.fusion = TSAFusion(num_feat=num_feat, num_frame=num_input_frame, center_frame_idx=self.center_frame_idx)
        if load_path is not None:
            load_part(self, load_path, prefix="edvr.")

    def forward(self, x: Tensor) -> Tensor:
        """Sides must be multiples of 4."""
        levels = self._pyramid(lrelu(self.conv_first(x.flatten(0, 1))))
        return self.fusion(self._align([level.unflatten(0, x.shape[:2]) for level in levels]))


@NETWORKS.register
class IconVSR(Upsampler):
    """BasicVSR with two additions: keyframes bring in features of EDVR, and the second pass sees the first's.

    Args:
        num_feat: Width of the features, a multiple of 8.
        num_block: Residual blocks of each direction.
        keyframe_stride: Every such frame is a keyframe, and the last one.
        temporal_padding: Frames on either side of a keyframe that EDVR sees.
        spynet_path, cpu_cache_length: See BasicVSR.
        edvr_path: Pretrained weights of EDVR's part; a whole EDVR or IconVSR will do. None: random ones.
    """

    kind = "restoration"
    temporal = "clip"
    checkpointed: tuple[type[nn.Module], ...] = (ConvResidualBlocks, BasicModule, PCDAlignment)
    channels_last = True
    scale = 4
    size_multiple = 1
    min_size = 1

    def __init__(
        self,
        *,
        num_feat: int = 64,
        num_block: int = 15,
        keyframe_stride: int = 5,
        temporal_padding: int = 2,
        spynet_path: str | None = None,
        edvr_path: str | None = None,
        cpu_cache_length: int = 100,
    ) -> None:
        super().__init__()
        check_positive(num_feat=num_feat, keyframe_stride=keyframe_stride)
        check_counts(num_block=num_block, temporal_padding=temporal_padding, cpu_cache_length=cpu_cache_length)
        if num_feat % 8:
            raise ValueError(f"num_feat: expected a multiple of 8, EDVR's deformable groups, got {num_feat}.")
        self.num_feat, self.cpu_cache_length = num_feat, cpu_cache_length
        self.keyframe_stride, self.temporal_padding = keyframe_stride, temporal_padding
        self.edvr = EDVRFeatureExtractor(
            num_input_frame=2 * temporal_padding + 1, num_feat=num_feat, load_path=edvr_path
        )
        self.spynet = SpyNet(load_path=spynet_path)
        self.backward_fusion = conv(2 * num_feat, num_feat)
        self.backward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
        self.forward_fusion = conv(2 * num_feat, num_feat)
        self.forward_trunk = ConvResidualBlocks(2 * num_feat + 3, num_feat, num_block)
        self._add_upsampler(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (b, t, 3, h, w), RGB in [0, 1], to (b, t, 3, 4h, 4w), on the CPU if t > cpu_cache_length."""
        check_clip(x)
        height, width = x.shape[3:]
        x = pad_to_multiple(x.flatten(0, 1), 4).unflatten(0, x.shape[:2])  # what EDVR wants
        b, t, _, h, w = x.shape
        kept_on = torch.device("cpu") if t > self.cpu_cache_length else x.device
        forward_flows, backward_flows = self.spynet.along(x)
        keyframes = {i: feature.to(kept_on) for i, feature in self._keyframes(x)}
        later: list[Tensor] = []  # features that come from the frames behind, the last frame's first
        feature = x.new_zeros(b, self.num_feat, h, w)
        for i in reversed(range(t)):
            if later:
                feature = flow_warp(feature, backward_flows[:, i])
            if i in keyframes:
                feature = self.backward_fusion(torch.cat((feature, keyframes[i].to(x.device)), 1))
            feature = self.backward_trunk(torch.cat((x[:, i], feature), 1))
            later.append(feature.to(kept_on))
        out: list[Tensor] = []
        feature = torch.zeros_like(feature)
        for i in range(t):
            if out:
                feature = flow_warp(feature, forward_flows[:, i - 1])
            if i in keyframes:
                feature = self.forward_fusion(torch.cat((feature, keyframes[i].to(x.device)), 1))
            feature = self.forward_trunk(torch.cat((x[:, i], later.pop().to(x.device), feature), 1))
            enlarged = self._upsample(feature, x[:, i])
            out.append(enlarged[..., : 4 * height, : 4 * width].to(kept_on))
        return torch.stack(out, 1)

    def _keyframes(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """Return the positions of the keyframes with EDVR's features of them, (b, c, h, w)."""
        t, size = x.shape[1], 2 * self.temporal_padding + 1
        shown = window_frames(t, self.temporal_padding)
        keyframes = [*range(0, t - 1, self.keyframe_stride), t - 1]
        return [(i, self.edvr(x[:, shown[i : i + size]])) for i in keyframes]


def window_frames(total: int, padding: int) -> list[int]:
    """Return the frames of a clip with ``padding`` more at either end, so that every frame has a whole window.

    The end frames' windows are filled from beyond their other side, mirrored: for a padding of 2 the clip begins
    4 3 0 1 2. Clips that are too short for this repeat their end frames.
    """
    if total > 2 * padding:
        before, after = range(2 * padding, padding, -1), range(total - padding - 2, total - 2 * padding - 2, -1)
        return [*before, *range(total), *after]
    return [0] * padding + list(range(total)) + [total - 1] * padding


def check_clip(x: Tensor, multiple: int = 1) -> None:
    """Raise ValueError unless x is a batch of clips (b, t, 3, h, w) with sides that are multiples."""
    if x.dim() != 5 or x.shape[2] != 3 or 0 in x.shape:
        raise ValueError(f"x: expected clips (b, t, 3, h, w), got {tuple(x.shape)}.")
    if any(side % multiple for side in x.shape[3:]):
        raise ValueError(
            f"x: expected sides that are multiples of {multiple}, got {tuple(x.shape[3:])}. Pad the frames."
        )
