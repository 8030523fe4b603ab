"""RCAN: very deep residual channel attention networks (Zhang et al., ECCV 2018, arXiv:1807.02758)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsr.archs.blocks import Upsample, channel_mean, check_channels, check_counts, check_images, check_positive
from vsr.archs.edsr import check_range
from vsr.archs.local import localized
from vsr.registry import NETWORKS


class ChannelAttention(nn.Module):
    """Multiplies each channel by a factor in (0, 1) that comes from the means of all channels.

    Args:
        num_feat: Channels c of (b, c, h, w).
        squeeze_factor: c / channels of the hidden layer.
    """

    def __init__(self, num_feat: int, squeeze_factor: int) -> None:
        super().__init__()
        hidden = num_feat // squeeze_factor
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class RCAB(nn.Module):
    """Residual block with channel attention: (b, num_feat, h, w) stays so."""

    def __init__(self, num_feat: int, squeeze_factor: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.rcab = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            ChannelAttention(num_feat, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rcab(x), alpha=self.res_scale)


class ResidualGroup(nn.Module):
    """Blocks and a convolution, added to the input."""

    def __init__(self, num_feat: int, num_block: int, squeeze_factor: int, res_scale: float) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(*(RCAB(num_feat, squeeze_factor, res_scale) for _ in range(num_block)))
        self.conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


@NETWORKS.register
class RCAN(nn.Module):
    """Enlarges an image: residual groups of blocks with channel attention, then sub-pixel convolutions.

    The attention is global: what tiles give differs a little from what the whole image gives, and whole images differ
    from the crops that the network was trained on; ``local`` removes both.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        num_feat: Width of the features.
        num_group: Residual groups.
        num_block: Blocks in each group.
        squeeze_factor: num_feat / width of the attention's hidden layer.
        upscale: Output size / input size: 3, or a power of 2.
        res_scale: Factor of what each block adds.
        img_range: The network calculates with pixels in [0, img_range]; its input and output are in [0, 1].
        rgb_mean: Mean colour in [0, 1], which the network does not see: a value for each channel, or one for all.
        local: Pool locally at test time: {train_size: [h, w] of the training crops, ratio: 1.5,
            fast_imp: false}, see ``vsr.archs.local``.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (RCAB,)
    channels_last = True
    size_multiple = 1
    min_size = 1
    mean: Tensor

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_group: int = 10,
        num_block: int = 16,
        squeeze_factor: int = 16,
        upscale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
        local: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_channels(num_in_ch, num_out_ch)
        check_positive(num_feat=num_feat, squeeze_factor=squeeze_factor)
        check_counts(num_group=num_group, num_block=num_block)
        check_range(img_range)
        if squeeze_factor > num_feat:
            raise ValueError(f"squeeze_factor: expected 1 to num_feat ({num_feat}), got {squeeze_factor}.")
        self.num_in_ch, self.num_out_ch, self.scale, self.img_range = num_in_ch, num_out_ch, upscale, img_range
        self.register_buffer("mean", channel_mean(rgb_mean, num_in_ch), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        groups = (ResidualGroup(num_feat, num_block, squeeze_factor, res_scale) for _ in range(num_group))
        self.body = nn.Sequential(*groups)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        localized(self, local, num_in_ch)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to (b, num_out_ch, s*h, s*w)."""
        check_images(x, self.num_in_ch)
        features = self.conv_first((x - self.mean) * self.img_range)
        features = features + self.conv_after_body(self.body(features))
        return self.conv_last(self.upsample(features)) / self.img_range + self.mean[:, : self.num_out_ch]
