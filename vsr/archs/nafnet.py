"""NAFNet: image restoration without nonlinear activations (Chen et al., ECCV 2022, arXiv:2204.04676).

Shapes: b batch, c channels of a level (width, doubled at each level down), h w sides of a level, halved there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_positive
from vsr.archs.local import localized
from vsr.ops import naf_block as fused
from vsr.registry import BLOCKS, NETWORKS


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel: (b, c, h, w) stays so.

    Channels last in memory it is one pass over the data, without copies.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # In half precision the sums would lose what a norm is about: torch's own kernel sums in float32.
        out = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return out.permute(0, 3, 1, 2)

    def settings(self) -> tuple[Tensor, Tensor, float]:
        return self.weight, self.bias, self.eps


def laid_out(x: Tensor) -> Tensor:
    """Lay images (b, c, h, w) out in memory as the blocks are fastest on a CPU: plain layers, channels last."""
    if x.device.type != "cpu" or fused.usable(x):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def simple_gate(x: Tensor) -> Tensor:
    """Multiply one half of the channels by the other: (b, 2c, h, w) -> (b, c, h, w)."""
    first, second = x.chunk(2, 1)
    return first * second


class EfficientChannelAttention(nn.Module):
    """Channel weights from neighbouring channels alone (Wang et al., CVPR 2020, arXiv:1910.03151).

    The pooled channels are convolved along the channel axis by one kernel of k weights, k odd and growing with
    their number; as in NAFNet's own attention no sigmoid follows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        near = int(abs((math.log2(channels) + 1) / 2))  # the paper's rule with gamma 2 and b 1
        size = near if near % 2 else near + 1
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to weights (b, c, 1, 1), or (b, c, h, w) where the pooling is local."""
        pooled = self.pool(x).permute(0, 2, 3, 1)
        return self.conv(pooled.reshape(-1, 1, pooled.shape[3])).view(pooled.shape).permute(0, 3, 1, 2)


class DepthwiseOverConv2d(nn.Module):
    """3x3 depthwise convolution, over-parameterised for training (DO-Conv: Cao et al., TIP 2022, arXiv:2006.12030).

    Its kernel is the product of a matrix D of 9 x 9 for each channel, which starts as the identity, and a kernel W.
    ``folded`` is the ordinary convolution with that kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, 1, 9))
        self.D = nn.Parameter(torch.zeros(channels, 9, 9))  # what differs from the identity
        self.bias = nn.Parameter(torch.empty(channels))
        for parameter in (self.W, self.bias):  # as nn.Conv2d does with 9 inputs an output
            nn.init.uniform_(parameter, -1 / 3, 1 / 3)

    def kernel(self) -> Tensor:
        """(c, 1, 3, 3)."""
        mixed = self.W + torch.einsum("cms,cos->com", self.D, self.W)
        return mixed.view(-1, 1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=1, groups=len(self.bias))

    def folded(self) -> nn.Conv2d:
        """The same map as an nn.Conv2d with one kernel."""
        channels = len(self.bias)
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, device=self.bias.device)
        conv.to(self.bias.dtype).load_state_dict({"weight": self.kernel(), "bias": self.bias})
        return conv.train(self.training).requires_grad_(self.bias.requires_grad)


def fold(network: nn.Module) -> nn.Module:
    """Make, in place, every over-parameterised convolution an ordinary one; return the network.

    The result has the keys and, within rounding, the outputs of a network with ``depthwise: conv``.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, DepthwiseOverConv2d):
                setattr(module, name, child.folded())
    return network


class FFTBlock(nn.Module):
    """Adds to an image what two 1x1 convolutions make of its spectrum: (b, c, h, w) stays so.

    Idea: DeepRFT (Mao et al., arXiv:2111.11745). Spectra are computed in float32 at least.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        spectrum = torch.fft.rfft2(x.to(exact), norm="backward")
        parts = torch.cat((spectrum.real, spectrum.imag), 1)  # (b, 2c, h, w // 2 + 1)
        parts = self.conv2(F.relu(self.conv1(parts.to(self.conv1.weight.dtype))))
        real, imaginary = parts.to(exact).chunk(2, 1)
        added = torch.fft.irfft2(torch.complex(real.contiguous(), imaginary.contiguous()), s=x.shape[-2:])
        return x + added.to(x.dtype)


@BLOCKS.register
class NAFBlock(nn.Module):
    """Norm, depthwise convolution, gate and channel attention; then norm and a gated pair of 1x1 convolutions.

    Args:
        channels: c.
        drop_out_rate: Of the branches, in training.
        attention: See ``NAFNet``.
        depthwise: See ``NAFNet``.
    """

    def __init__(
        self, channels: int, *, drop_out_rate: float = 0.0, attention: str = "sca", depthwise: str = "conv"
    ) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = (
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
            if depthwise == "conv"
            else DepthwiseOverConv2d(2 * channels)
        )
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca: nn.Module | None = None
        if attention == "sca":
            self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        elif attention == "eca":
            self.sca = EfficientChannelAttention(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)
        self.dropout = nn.Dropout(drop_out_rate) if drop_out_rate > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        if fused.usable(x) and not (self.training and isinstance(self.dropout, nn.Dropout)):
            return self._fused(x)
        branch = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        if self.sca is not None:
            branch = branch * self.sca(branch)
        x = x + self.dropout(self.conv3(branch)) * self.beta
        branch = self.conv5(simple_gate(self.conv4(self.norm2(x))))
        return x + self.dropout(branch) * self.gamma

    def _fused(self, x: Tensor) -> Tensor:
        """The same by two ops, each of which keeps an image's pixels in the cache from its first to its last layer."""
        conv2 = self.conv2
        depthwise = (conv2.kernel(), conv2.bias) if isinstance(conv2, DepthwiseOverConv2d) else pair(conv2)
        mixed, means = fused.mix(x, self.norm1.settings(), pair(self.conv1), depthwise)
        if isinstance(self.sca, nn.Sequential) and isinstance(self.sca[0], nn.AdaptiveAvgPool2d):
            scale = self.sca[1](means)
        else:
            scale = None if self.sca is None else self.sca(mixed)
        if scale is not None and scale.shape[-2:] != (1, 1):  # pooled locally
            mixed, scale = mixed * scale, None
        return fused.feed(
            x,
            mixed,
            scale,
            narrow=pair(self.conv3),
            beta=self.beta,
            norm=self.norm2.settings(),
            wide=pair(self.conv4),
            last=pair(self.conv5),
            gamma=self.gamma,
        )


def enlarged(up: Any, x: Tensor, skip: Tensor) -> Tensor:
    """Take x (b, 2c, h, w) up a level by a 1x1 convolution and a shuffle, and add the skip (b, c, 2h, 2w)."""
    if fused.usable(x) and skip.dtype == torch.float32:
        return fused.up(x, up[0].weight, skip)
    return up(x).add_(skip)


def pair(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has both."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight, conv.bias


class UNet(nn.Module):
    """NAFNet's and Baseline's frame: encoder, middle, decoder, with skips that are added, and the image itself."""

    kind = "restoration"
    temporal = "image"
    scale = 1
    size_multiple = 1  # any size: padded inside
    min_size = 1

    def _build(
        self,
        img_channel: int,
        width: int,
        enc_blk_nums: Sequence[int],
        middle_blk_num: int,
        dec_blk_nums: Sequence[int],
        block: Any,
    ) -> None:
        """Make the modules of the frame, in the official order; ``block`` makes one of so many channels."""
        check_positive(img_channel=img_channel, width=width)
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError(
                f"dec_blk_nums: expected as many levels as enc_blk_nums has ({len(enc_blk_nums)}), "
                f"got {len(dec_blk_nums)}."
            )
        if min(*enc_blk_nums, *dec_blk_nums, middle_blk_num, 0) < 0:
            raise ValueError(
                "enc_blk_nums, middle_blk_num, dec_blk_nums: expected numbers of blocks from 0 up, "
                f"got {list(enc_blk_nums)}, {middle_blk_num} and {list(dec_blk_nums)}."
            )

        def level(blocks: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(block(width * 2**depth) for _ in range(blocks)))

        widths = [width * 2**depth for depth in range(len(enc_blk_nums))]
        self.img_channel = img_channel
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(level(blocks, depth) for depth, blocks in enumerate(enc_blk_nums))
        self.decoders = nn.ModuleList(level(blocks, len(widths) - 1 - i) for i, blocks in enumerate(dec_blk_nums))
        self.middle_blks = level(middle_blk_num, len(widths))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths)

    def skip(self, level: int, features: Tensor) -> Tensor:
        """What the decoder gets of an encoder level's output."""
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, img_channel, h, w) of any size, RGB in [0, 1], to the same shape.

        Raises:
            ValueError: the shape is another.
        """
        if x.dim() != 4 or x.shape[1] != self.img_channel:
            raise ValueError(f"x: expected (b, {self.img_channel}, h, w), got {tuple(x.shape)}.")
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.downs)
        image = laid_out(F.pad(x, (0, -width % multiple, 0, -height % multiple)))
        features = self.intro(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            skips.append(features)
            features = down(features)
        features = self.middle_blks(features)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            features = decoder(enlarged(up, features, self.skip(len(skips) - 1, skips.pop())))
        return (self.ending(features) + image)[..., :height, :width]


@NETWORKS.register
class NAFNet(UNet):
    """Restores an image at its size: deblurring, denoising, removal of artefacts.

    With the last four arguments as they are it is the official network.

    Args:
        img_channel: Channels of the image.
        width: Channels of the first level.
        middle_blk_num: Blocks below the last level.
        enc_blk_nums, dec_blk_nums: Blocks of each level, on the way down and on the way up.
        attention: sca: channel weights from all channels' means; eca: from the neighbouring channels'
            (``EfficientChannelAttention``); none.
        skip: What happens on the way from encoder to decoder: nothing, or an ``FFTBlock``.
        depthwise: The 3x3 convolutions: conv, or doconv (``DepthwiseOverConv2d``), which ``fold`` makes ordinary.
        local: Pool locally at test time: {train_size: [h, w] of the training crops, ratio: 1.5,
            fast_imp: false}, see ``vsr.archs.local``.
    """

    checkpointed = (NAFBlock,)
    channels_last = False  # see laid_out

    def __init__(
        self,
        *,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        attention: Literal["sca", "eca", "none"] = "sca",
        skip: Literal["identity", "fft"] = "identity",
        depthwise: Literal["conv", "doconv"] = "conv",
        local: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("attention", attention, ("sca", "eca", "none")),
            ("skip", skip, ("identity", "fft")),
            ("depthwise", depthwise, ("conv", "doconv")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}.")

        def block(channels: int) -> NAFBlock:
            return NAFBlock(channels, attention=attention, depthwise=depthwise)

        self._build(img_channel, width, enc_blk_nums, middle_blk_num, dec_blk_nums, block)
        self.skips = nn.ModuleList(FFTBlock(width * 2**i) for i in range(len(enc_blk_nums)) if skip == "fft")
        localized(self, local, img_channel)

    def skip(self, level: int, features: Tensor) -> Tensor:
        return self.skips[level](features) if len(self.skips) else features


@NETWORKS.register
class NAFNetLocal(NAFNet):
    """NAFNet with local pooling at test time, as the official option files name it.

    Args:
        train_size: Shape of the training input, [b, c, h, w]; only height and width count.
        fast_imp: The official faster, not equivalent means, see ``vsr.archs.local``.
        img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums: See ``NAFNet``.
        attention, skip, depthwise: See ``NAFNet``.
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
        attention: Literal["sca", "eca", "none"] = "sca",
        skip: Literal["identity", "fft"] = "identity",
        depthwise: Literal["conv", "doconv"] = "conv",
    ) -> None:
        super().__init__(
            img_channel=img_channel,
            width=width,
            middle_blk_num=middle_blk_num,
            enc_blk_nums=enc_blk_nums,
            dec_blk_nums=dec_blk_nums,
            attention=attention,
            skip=skip,
            depthwise=depthwise,
            local={"train_size": train_size, "fast_imp": fast_imp},
        )
