"""Baseline: the plain network that NAFNet was simplified from (Chen et al., ECCV 2022, arXiv:2204.04676, section 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_positive
from vsr.archs.local import localized
from vsr.archs.nafnet import LayerNorm2d, UNet
from vsr.registry import NETWORKS


class BaselineBlock(nn.Module):
    """Norm, depthwise convolution, GELU and squeeze-and-excitation; then norm and a feed-forward pair.

    Args:
        channels: c.
        dw_expand: Channels of the depthwise convolution / c.
        ffn_expand: Channels between the last two convolutions / c.
    """

    def __init__(self, channels: int, *, dw_expand: int, ffn_expand: int) -> None:
        super().__init__()
        wide, between = dw_expand * channels, ffn_expand * channels
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3 = nn.Conv2d(wide, channels, 1)
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, wide // 2, 1),
            nn.ReLU(),
            nn.Conv2d(wide // 2, wide, 1),
            nn.Sigmoid(),
        )
        self.conv4 = nn.Conv2d(channels, between, 1)
        self.conv5 = nn.Conv2d(between, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        branch = F.gelu(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(branch * self.se(branch)) * self.beta
        return x + self.conv5(F.gelu(self.conv4(self.norm2(x)))) * self.gamma


@NETWORKS.register
class Baseline(UNet):
    """Restores an image at its size, with GELU and squeeze-and-excitation where NAFNet has gates.

    Args:
        img_channel: Channels of the image.
        width: Channels of the first level.
        middle_blk_num: Blocks below the last level.
        enc_blk_nums, dec_blk_nums: Blocks of each level, on the way down and on the way up.
        dw_expand, ffn_expand: Widths inside a block, see ``BaselineBlock``.
        local: Pool locally at test time: {train_size: [h, w] of the training crops, ratio: 1.5,
            fast_imp: false}, see ``vsr.archs.local``.
    """

    checkpointed = (BaselineBlock,)
    channels_last = True

    def __init__(
        self,
        *,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        dw_expand: int = 1,
        ffn_expand: int = 2,
        local: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive(dw_expand=dw_expand, ffn_expand=ffn_expand)
        if width * dw_expand < 2:
            raise ValueError(f"width: expected 2 or more, half of which squeeze-and-excitation has, got {width}.")

        def block(channels: int) -> BaselineBlock:
            return BaselineBlock(channels, dw_expand=dw_expand, ffn_expand=ffn_expand)

        self._build(img_channel, width, enc_blk_nums, middle_blk_num, dec_blk_nums, block)
        localized(self, local, img_channel)


@NETWORKS.register
class BaselineLocal(Baseline):
    """Baseline with local pooling at test time, as the official option files name it.

    Args:
        train_size: Shape of the training input, [b, c, h, w]; only height and width count.
        fast_imp: The official faster, not equivalent means, see ``vsr.archs.local``.
        img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, dw_expand, ffn_expand: See ``Baseline``.
    """

    def __init__(
        self,
        *,
        train_size: Sequence[int] = (1, 3, 256, 256),
        fast_imp: bool = False,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        dw_expand: int = 1,
        ffn_expand: int = 2,
    ) -> None:
        super().__init__(
            img_channel=img_channel,
            width=width,
            middle_blk_num=middle_blk_num,
            enc_blk_nums=enc_blk_nums,
            dec_blk_nums=dec_blk_nums,
            dw_expand=dw_expand,
            ffn_expand=ffn_expand,
            local={"train_size": train_size, "fast_imp": fast_imp},
        )
