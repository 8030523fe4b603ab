"""SRVGGNetCompact: the small network of Real-ESRGAN for anime and video (Wang et al., arXiv:2107.10833)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_channels, check_counts, check_images, check_positive
from vsr.registry import NETWORKS


@NETWORKS.register
class SRVGGNetCompact(nn.Module):
    """Enlarges an image by a plain row of convolutions, added to the nearest-neighbour picture.

    Nothing is calculated at the output's size but the last shuffle.

    Args:
        num_in_ch, num_out_ch: Channels of the input and of the output.
        num_feat: Width of the features.
        num_conv: Convolutions between the first and the last.
        upscale: Output size / input size: any whole number from 1 up.
        act_type: What follows each convolution: 'relu', 'prelu' (learned slopes, one a channel) or 'leakyrelu' (0.1).
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (nn.Sequential,)  # the whole body: its keys leave no parts to recompute one by one
    channels_last = True
    size_multiple = 1
    min_size = 1

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        upscale: int = 4,
        act_type: Literal["relu", "prelu", "leakyrelu"] = "prelu",
    ) -> None:
        super().__init__()
        check_channels(num_in_ch, num_out_ch)
        check_positive(num_feat=num_feat, upscale=upscale)
        check_counts(num_conv=num_conv)
        if act_type not in ("relu", "prelu", "leakyrelu"):
            raise ValueError(f"act_type: expected 'relu', 'prelu' or 'leakyrelu', got {act_type!r}.")
        self.num_in_ch, self.num_out_ch, self.scale = num_in_ch, num_out_ch, upscale

        def activation() -> nn.Module:
            if act_type == "prelu":
                return nn.PReLU(num_feat)
            return nn.ReLU() if act_type == "relu" else nn.LeakyReLU(0.1)

        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, num_feat, 3, padding=1), activation()]
        for _ in range(num_conv):
            layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), activation()]
        self.body = nn.Sequential(*layers, nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to (b, num_out_ch, s*h, s*w)."""
        check_images(x, self.num_in_ch)
        picture = x[:, : self.num_out_ch]
        if self.scale > 1:
            picture = F.interpolate(picture, scale_factor=self.scale, mode="nearest")
        return F.pixel_shuffle(self.body(x), self.scale) + picture
