"""Discriminators of ESRGAN and Real-ESRGAN (Wang et al., arXiv:1809.00219 and arXiv:2107.10833)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_images, check_positive, pad_to_multiple
from vsr.registry import NETWORKS


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


@NETWORKS.register
class VGGStyleDiscriminator(nn.Module):
    """Judges an image of one fixed size by one number: strided convolutions with batch norm, two linear layers.

    Args:
        num_in_ch: Channels of the image.
        num_feat: Width of the features at full size; eight times as wide at 4x4, the smallest.
        input_size: Sides of the image in pixels: 128 or 256.
    """

    kind = "discriminator"
    temporal = "image"
    checkpointed = ()  # recomputing would update the running statistics twice
    channels_last = False
    size_multiple = 1

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, input_size: int = 128) -> None:
        super().__init__()
        check_positive(num_in_ch=num_in_ch, num_feat=num_feat)
        if input_size not in (128, 256):
            raise ValueError(f"input_size: expected 128 or 256, got {input_size}.")
        self.num_in_ch, self.input_size, self.min_size = num_in_ch, input_size, input_size
        self.levels = 5 if input_size == 128 else 6  # each halves the size, down to 4x4
        before = num_in_ch
        for level in range(self.levels):
            width = num_feat * min(2**level, 8)
            first = nn.Conv2d(before, width, 3, padding=1, bias=level == 0)
            setattr(self, f"conv{level}_0", first)
            if level > 0:
                setattr(self, f"bn{level}_0", nn.BatchNorm2d(width))
            setattr(self, f"conv{level}_1", nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False))
            setattr(self, f"bn{level}_1", nn.BatchNorm2d(width))
            before = width
        self.linear1 = nn.Linear(before * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, input_size, input_size), RGB in [0, 1], to scores (b, 1), any real numbers."""
        check_images(x, self.num_in_ch)
        if x.shape[2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"x: expected sides of {self.input_size}, got {tuple(x.shape[2:])}. "
                "Set input_size, and gt_size of the training set, to one size."
            )
        for level in range(self.levels):
            x = self.get_submodule(f"conv{level}_0")(x)
            x = lrelu(self.get_submodule(f"bn{level}_0")(x) if level > 0 else x)
            x = lrelu(self.get_submodule(f"bn{level}_1")(self.get_submodule(f"conv{level}_1")(x)))
        return self.linear2(lrelu(self.linear1(x.flatten(1))))


class SpectralConv2d(nn.Module):
    """Convolution without bias whose weight is divided by its greatest singular value, so that it stretches nothing.

    The singular vectors ``weight_u`` and ``weight_v`` of the weight, seen as a matrix (out_channels, rest), are
    improved by one step of the power iteration each time the layer runs in training mode. Names of parameters and
    buffers are those of ``torch.nn.utils.spectral_norm``, which official checkpoints have.
    Source: Miyato et al., ICLR 2018, arXiv:1802.05957.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False)
        self.weight_orig = nn.Parameter(plain.weight.detach())
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(in_channels * kernel_size**2), dim=0))
        for _ in range(15):  # random vectors say nothing of the weight, and a fresh network's scores would be huge
            self._improve()

    @torch.no_grad()
    def _improve(self) -> tuple[Tensor, Tensor]:
        """Take one step of the power iteration; return copies that stay as they are until the backward pass."""
        matrix = self.weight_orig.flatten(1)
        v = F.normalize(matrix.T.mv(self.weight_u), dim=0, eps=1e-12)
        u = F.normalize(matrix.mv(v), dim=0, eps=1e-12)
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)
        return u, v

    def forward(self, x: Tensor) -> Tensor:
        u, v = self._improve() if self.training else (self.weight_u, self.weight_v)
        weight = self.weight_orig / u.dot(self.weight_orig.flatten(1).mv(v))
        return F.conv2d(x, weight, stride=self.stride, padding=1)


@NETWORKS.register
class UNetDiscriminatorSN(nn.Module):
    """Judges every pixel of an image: a U-Net of three levels with spectral norm.

    Args:
        num_in_ch: Channels of the image.
        num_feat: Width of the features at full size; eight times as wide at the coarsest level.
        skip_connection: Add the features of the way down to those of the way up.
    """

    kind = "discriminator"
    temporal = "image"
    checkpointed = ()  # recomputing would take the step of the power iteration twice
    channels_last = True
    size_multiple = 1  # padded to a multiple of 8 inside
    min_size = 1

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, skip_connection: bool = True) -> None:
        super().__init__()
        check_positive(num_in_ch=num_in_ch, num_feat=num_feat)
        self.num_in_ch, self.skip_connection = num_in_ch, skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.conv1 = SpectralConv2d(num_feat, num_feat * 2, 4, stride=2)
        self.conv2 = SpectralConv2d(num_feat * 2, num_feat * 4, 4, stride=2)
        self.conv3 = SpectralConv2d(num_feat * 4, num_feat * 8, 4, stride=2)
        self.conv4 = SpectralConv2d(num_feat * 8, num_feat * 4, 3)
        self.conv5 = SpectralConv2d(num_feat * 4, num_feat * 2, 3)
        self.conv6 = SpectralConv2d(num_feat * 2, num_feat, 3)
        self.conv7 = SpectralConv2d(num_feat, num_feat, 3)
        self.conv8 = SpectralConv2d(num_feat, num_feat, 3)
        self.conv9 = nn.Conv2d(num_feat, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, num_in_ch, h, w), RGB in [0, 1], to scores (b, 1, h, w), any real numbers."""
        check_images(x, self.num_in_ch)
        height, width = x.shape[2:]
        level0 = lrelu(self.conv0(pad_to_multiple(x, 8)))
        level1 = lrelu(self.conv1(level0))  # h/2
        level2 = lrelu(self.conv2(level1))  # h/4
        out = lrelu(self.conv3(level2))  # h/8
        for conv, level in ((self.conv4, level2), (self.conv5, level1), (self.conv6, level0)):
            out = lrelu(conv(F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)))
            if self.skip_connection:
                out = out + level
        out = lrelu(self.conv8(lrelu(self.conv7(out))))
        return self.conv9(out)[..., :height, :width]
