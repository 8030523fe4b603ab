"""EDSR: deep residual networks for super-resolution without batch norm (Lim et al., CVPRW 2017, arXiv:1707.02921)."""

from collections.abc import Sequence

from torch import Tensor, nn

from vsr.archs.blocks import (
    ResidualBlockNoBN,
    Upsample,
    channel_mean,
    check_channels,
    check_counts,
    check_images,
    check_positive,
)
from vsr.registry import NETWORKS


@NETWORKS.register
class EDSR(nn.Module):
    """Enlarges an image: residual blocks at the size of the input, then sub-pixel convolutions.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        num_feat: Width of the features.
        num_block: Residual blocks in the trunk.
        upscale: Output size / input size: 3, or a power of 2.
        res_scale: Factor of what each block adds; 0.1 keeps wide networks (256 channels) stable.
        img_range: The network calculates with pixels in [0, img_range]; its input and output are in [0, 1].
        rgb_mean: Mean colour in [0, 1], which the network does not see: a value for each channel, or one for all.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (ResidualBlockNoBN,)
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
        num_block: int = 16,
        upscale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        super().__init__()
        check_channels(num_in_ch, num_out_ch)
        check_positive(num_feat=num_feat)
        check_counts(num_block=num_block)
        check_range(img_range)
        self.num_in_ch, self.num_out_ch, self.scale, self.img_range = num_in_ch, num_out_ch, upscale, img_range
        self.register_buffer("mean", channel_mean(rgb_mean, num_in_ch), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        blocks = (ResidualBlockNoBN(num_feat, res_scale=res_scale, pytorch_init=True) for _ in range(num_block))
        self.body = nn.Sequential(*blocks)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to (b, num_out_ch, s*h, s*w)."""
        check_images(x, self.num_in_ch)
        features = self.conv_first((x - self.mean) * self.img_range)
        features = features + self.conv_after_body(self.body(features))
        return self.conv_last(self.upsample(features)) / self.img_range + self.mean[:, : self.num_out_ch]


def check_range(img_range: float) -> None:
    """Raise ValueError unless ``img_range`` is a range of pixels."""
    if not img_range > 0:
        raise ValueError(f"img_range: expected a number greater than 0, got {img_range}. Usual are 1 and 255.")
