"""MSRResNet: SRResNet as ESRGAN's authors modified it (Wang et al., arXiv:1809.00219): no batch norm."""

from torch import Tensor, nn

from vsr.archs.blocks import (
    ResidualBlockNoBN,
    bilinear_base,
    check_channels,
    check_counts,
    check_images,
    check_positive,
    residual_blocks,
    scaled_kaiming_,
)
from vsr.registry import NETWORKS


@NETWORKS.register
class MSRResNet(nn.Module):
    """Enlarges an image: residual blocks, sub-pixel convolutions, and a bilinear picture added at the end.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        num_feat: Width of the features.
        num_block: Residual blocks in the trunk.
        upscale: Output size / input size: 2, 3 or 4.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (ResidualBlockNoBN,)
    channels_last = True
    size_multiple = 1
    min_size = 1

    def __init__(
        self, *, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16, upscale: int = 4
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f"upscale: expected 2, 3 or 4, got {upscale}.")
        check_channels(num_in_ch, num_out_ch)
        check_positive(num_feat=num_feat)
        check_counts(num_block=num_block)
        self.num_in_ch, self.num_out_ch, self.scale = num_in_ch, num_out_ch, upscale
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = residual_blocks(num_block, num_feat)
        factor = 3 if upscale == 3 else 2  # 4 is two steps of 2
        self.upconv1 = nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1)
        if upscale == 4:
            self.upconv2 = nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)
        scaled_kaiming_(self.children(), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to (b, num_out_ch, s*h, s*w)."""
        check_images(x, self.num_in_ch)
        out = self.body(self.lrelu(self.conv_first(x)))
        out = self.lrelu(self.pixel_shuffle(self.upconv1(out)))
        if self.scale == 4:
            out = self.lrelu(self.pixel_shuffle(self.upconv2(out)))
        return self.conv_last(self.lrelu(self.conv_hr(out))) + bilinear_base(x, self.num_out_ch, self.scale)
