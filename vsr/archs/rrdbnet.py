"""RRDBNet: the generator of ESRGAN and Real-ESRGAN (Wang et al., arXiv:1809.00219 and arXiv:2107.10833)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_counts, check_images, check_positive, scaled_kaiming_
from vsr.registry import NETWORKS


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it; a fifth of the last one's output is added to the input.

    Args:
        num_feat: Channels of the input and of the output.
        num_grow_ch: Channels that each of the first four convolutions adds.
    """

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_grow_ch, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat + num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv3 = nn.Conv2d(num_feat + 2 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv4 = nn.Conv2d(num_feat + 3 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, padding=1)
        scaled_kaiming_(self.children(), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        dense = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense = torch.cat((dense, lrelu(conv(dense))), 1)
        return torch.add(x, self.conv5(dense), alpha=0.2)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, a fifth of whose output is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


@NETWORKS.register
class RRDBNet(nn.Module):
    """Enlarges an image four times, by residual-in-residual dense blocks and nearest-neighbour upsampling.

    For scale 1 and 2 the input is first folded to a quarter or to half of its size, pixels to channels: its sides
    are multiples of 4 or 2.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        scale: Output size / input size: 1, 2 or 4.
        num_feat: Width of the features.
        num_block: RRDB blocks in the trunk.
        num_grow_ch: Channels that each convolution of a dense block adds.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (ResidualDenseBlock,)
    channels_last = True

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise ValueError(f"scale: expected 1, 2 or 4, got {scale}.")
        check_positive(num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_grow_ch=num_grow_ch)
        check_counts(num_block=num_block)
        self.num_in_ch, self.scale = num_in_ch, scale
        self.size_multiple = self.min_size = 4 // scale
        self.conv_first = nn.Conv2d(num_in_ch * self.size_multiple**2, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to (b, num_out_ch, s*h, s*w)."""
        check_images(x, self.num_in_ch)
        multiple = self.size_multiple
        if min(x.shape[2:]) < multiple or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"x: expected sides that are multiples of {multiple}, got {tuple(x.shape[2:])}. Pad the images."
            )
        features = self.conv_first(F.pixel_unshuffle(x, multiple) if multiple > 1 else x)
        features = features + self.conv_body(self.body(features))
        features = lrelu(self.conv_up1(enlarge(features)))
        features = lrelu(self.conv_up2(enlarge(features)))
        return self.conv_last(lrelu(self.conv_hr(features)))
