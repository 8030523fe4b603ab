"""BasicVSR++: second-order propagation and flow-guided deformable alignment (Chan et al., CVPR 2022, arXiv:2104.13371).

Shapes: b batch, t frames of the clip, c feature channels, h w size of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.basicvsr import ConvResidualBlocks, Upsampler, check_clip
from vsr.archs.blocks import check_counts, check_positive
from vsr.archs.edvr import conv
from vsr.archs.spynet import BasicModule, SpyNet
from vsr.ops.deform_conv import ModulatedDeformConv2d
from vsr.ops.warp import flow_warp
from vsr.registry import NETWORKS

BRANCHES = ("backward_1", "forward_1", "backward_2", "forward_2")
DEFORMABLE_GROUPS = 16


class SecondOrderDeformableAlignment(ModulatedDeformConv2d):
    """Moves the features of the two frames before onto the present one, by the optical flow and what it lacks.

    Half of the deformable groups read the nearer frame, half the farther one: their offsets are that frame's flow
    plus a residue that ``conv_offset`` finds, of at most ``max_residue_magnitude`` pixels.

    Args:
        num_feat: c.
        max_residue_magnitude: Pixels.
    """

    def __init__(self, *, num_feat: int, max_residue_magnitude: float) -> None:
        super().__init__(2 * num_feat, num_feat, 3, padding=1, deform_groups=DEFORMABLE_GROUPS)
        self.max_residue_magnitude = max_residue_magnitude
        self.conv_offset = nn.Sequential(
            conv(3 * num_feat + 4, num_feat),
            nn.LeakyReLU(0.1, inplace=True),
            conv(num_feat, num_feat),
            nn.LeakyReLU(0.1, inplace=True),
            conv(num_feat, num_feat),
            nn.LeakyReLU(0.1, inplace=True),
            conv(num_feat, 27 * DEFORMABLE_GROUPS),
        )
        for parameter in self.conv_offset[-1].parameters():  # the flow alone is where training starts
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, near: Tensor, far: Tensor) -> Tensor:  # type: ignore[override]
        """Return the features (b, c, h, w), aligned.

        Args:
            x: (b, 2c, h, w), features of the nearer and of the farther frame, as they are.
            condition: (b, 3c, h, w), what the residue is found in: the nearer features warped, the present
                frame's, the farther ones warped.
            near, far: (b, 2, h, w), the flows to the two frames.
        """
        found = self.conv_offset(torch.cat((condition, near.to(condition.dtype), far.to(condition.dtype)), 1))
        first, second, mask = found.chunk(3, 1)
        flows = [flow.flip(1).repeat(1, first.shape[1] // 2, 1, 1) for flow in (near, far)]  # offsets are y first
        residue = self.max_residue_magnitude * torch.tanh(torch.cat((first, second), 1))
        return super().forward(x, residue + torch.cat(flows, 1), torch.sigmoid(mask))


@NETWORKS.register
class BasicVSRPlusPlus(Upsampler):
    """Restores all frames of a clip; features travel through it four times, backwards and forwards in turn.

    Args:
        mid_channels: Width of the features, a multiple of 8.
        num_blocks: Residual blocks of each of the four passes.
        max_residue_magnitude: Pixels by which an offset may differ from the flow.
        is_low_res_input: Enlarge four times; else the output is of the input's size (deblurring), whose sides must
            be multiples of 4.
        spynet_path: Pretrained weights of the optical flow, or a network of this family that has them as its
            part ``spynet``; none: random ones, which is for networks that a checkpoint fills as a whole.
        cpu_cache_length: Clips of more frames than this keep features and output in the CPU's memory.
    """

    kind = "restoration"
    temporal = "clip"
    checkpointed: tuple[type[nn.Module], ...] = (ConvResidualBlocks, SecondOrderDeformableAlignment, BasicModule)
    channels_last = True

    def __init__(
        self,
        *,
        mid_channels: int = 64,
        num_blocks: int = 7,
        max_residue_magnitude: float = 10,
        is_low_res_input: bool = True,
        spynet_path: str | None = None,
        cpu_cache_length: int = 100,
    ) -> None:
        super().__init__()
        check_positive(mid_channels=mid_channels)
        check_counts(num_blocks=num_blocks, cpu_cache_length=cpu_cache_length)
        if mid_channels % (DEFORMABLE_GROUPS // 2):
            raise ValueError(
                f"mid_channels: expected a multiple of {DEFORMABLE_GROUPS // 2}, half of the deformable groups, "
                f"got {mid_channels}."
            )
        if max_residue_magnitude < 0:
            raise ValueError(f"max_residue_magnitude: expected pixels from 0 up, got {max_residue_magnitude}.")
        self.mid_channels, self.cpu_cache_length = mid_channels, cpu_cache_length
        self.is_low_res_input = is_low_res_input
        self.scale, self.size_multiple = (4, 1) if is_low_res_input else (1, 4)
        self.min_size = self.size_multiple

        self.spynet = SpyNet(load_path=spynet_path)
        self.feat_extract: nn.Module
        if is_low_res_input:
            self.feat_extract = ConvResidualBlocks(3, mid_channels, 5)
        else:
            self.feat_extract = nn.Sequential(
                conv(3, mid_channels, stride=2),
                nn.LeakyReLU(0.1, inplace=True),
                conv(mid_channels, mid_channels, stride=2),
                nn.LeakyReLU(0.1, inplace=True),
                ConvResidualBlocks(mid_channels, mid_channels, 5),
            )
        self.deform_align, self.backbone = nn.ModuleDict(), nn.ModuleDict()
        for i, branch in enumerate(BRANCHES):
            self.deform_align[branch] = SecondOrderDeformableAlignment(
                num_feat=mid_channels, max_residue_magnitude=max_residue_magnitude
            )
            self.backbone[branch] = ConvResidualBlocks((2 + i) * mid_channels, mid_channels, num_blocks)
        self.reconstruction = ConvResidualBlocks(5 * mid_channels, mid_channels, 5)
        self._add_upsampler(mid_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (b, t, 3, H, W), RGB in [0, 1], to (b, t, 3, s*H, s*W), on the CPU if t > cpu_cache_length.

        Raises:
            ValueError: the shape is another, or a side is no multiple of ``size_multiple``.
        """
        check_clip(x, self.size_multiple)
        t = x.shape[1]
        kept_on = torch.device("cpu") if t > self.cpu_cache_length else x.device
        small = x
        if not self.is_low_res_input:
            small = F.interpolate(x.flatten(0, 1), scale_factor=0.25, mode="bicubic").unflatten(0, x.shape[:2])
        forward_flows, backward_flows = self.spynet.along(small)
        # of each frame: what is known of it so far, its own features first, then one a branch
        known = [[self.feat_extract(x[:, i]).to(kept_on)] for i in range(t)]
        for branch in BRANCHES:
            if branch.startswith("forward"):
                self._propagate(known, forward_flows, branch, kept_on)
            else:  # the same on the clip in reverse
                self._propagate(known[::-1], backward_flows.flip(1), branch, kept_on)
        out = []
        for i in range(t):
            feature = self.reconstruction(torch.cat([f.to(x.device) for f in known[i]], 1))
            out.append(self._upsample(feature, x[:, i]).to(kept_on))
            known[i].clear()
        return torch.stack(out, 1)

    def _propagate(self, known: list[list[Tensor]], flows: Tensor, branch: str, kept_on: torch.device) -> None:
        """Take features through the frames in the order of ``known``, and append each frame's to what is known of it.

        Args:
            known: Features (b, c, h, w) of each frame.
            flows: (b, t - 1, 2, h, w); entry i warps frame i onto frame i + 1.
            branch: Whose layers to use.
            kept_on: Where the features of clips are kept.
        """
        feature = flows.new_zeros(known[0][0].shape, dtype=known[0][0].dtype)
        before = torch.zeros_like(feature)  # of the frame before the last
        for i, frame in enumerate(known):
            own = [f.to(flows.device) for f in frame]
            if i > 0:
                near = flows[:, i - 1]
                far, far_warped = torch.zeros_like(near), torch.zeros_like(feature)
                if i > 1:
                    far = near + flow_warp(flows[:, i - 2], near)
                    far_warped = flow_warp(before, far)
                condition = torch.cat((flow_warp(feature, near), own[0], far_warped), 1)
                aligned = self.deform_align[branch](torch.cat((feature, before), 1), condition, near, far)
            else:
                aligned = feature
            before = feature
            feature = aligned + self.backbone[branch](torch.cat((*own, aligned), 1))
            frame.append(feature.to(kept_on))
