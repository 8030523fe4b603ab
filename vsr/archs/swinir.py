"""SwinIR: image restoration with shifted-window transformers (Liang et al., ICCVW 2021, arXiv:2108.10257).

Shapes: b batch, h w size of the padded image, c = embed_dim, s = window_size, n = s*s pixels of a window.
Transformer blocks work on (b, h, w, c), convolutions on (b, c, h, w).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import (
    Upsample,
    channel_mean,
    check_images,
    check_positive,
    checkpoint_activations,
    pad_to_multiple,
)
from vsr.archs.edsr import check_range
from vsr.registry import NETWORKS

RGB_MEAN = (0.4488, 0.4371, 0.4040)


def to_windows(x: Tensor, size: int) -> Tensor:
    """Cut (b, h, w, c) into windows (b * number, size * size, c), row by row."""
    b, h, w, c = x.shape
    return x.view(b, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)


def from_windows(windows: Tensor, size: int, shape: torch.Size) -> Tensor:
    """Put windows together again to (b, h, w, c) = ``shape``."""
    b, h, w, c = shape
    return windows.view(b, h // size, w // size, size, size, c).transpose(2, 3).reshape(shape)


class DropPath(nn.Module):
    """Leaves out a residual branch while training, for each sample by itself, and enlarges those that stay.

    Source: stochastic depth, Huang et al., ECCV 2016.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep) / keep)


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learned bias for each relative position.

    Args:
        dim: c.
        window_size: s.
        num_heads: Heads; divides c.
        qkv_bias: Give queries, keys and values a bias.
        qk_scale: Factor of the products of queries and keys; none: 1 / sqrt(c / num_heads).
        attn_drop, proj_drop: Share of attention weights, and of outputs, that training leaves out.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.qk_scale, self.attn_drop = num_heads, qk_scale, attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        axis = torch.arange(window_size)
        y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
        dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]  # (n, n), from 1 - s to s - 1
        index = (dy + window_size - 1) * (2 * window_size - 1) + dx + window_size - 1
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Map windows (m, n, c) to (m, n, c); ``mask`` (n, n) is added to the products of queries and keys."""
        m, n, c = windows.shape
        q, k, v = self.qkv(windows).view(m, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, n, n)
        bias = bias if mask is None else bias + mask
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias.to(q.dtype).expand(m, -1, -1, -1),
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=self.qk_scale,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(m, n, c)))


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class SwinTransformerBlock(nn.Module):
    """Window attention and a two-layer perceptron, each behind a layer norm and added to its input.

    With a shift, windows straddle those of the block before. The image is rolled for that, so that the last row and
    column of windows hold pixels of opposite sides; a mask keeps these from seeing each other.

    Args:
        img_size: Height and width that ``attn_mask`` is made for. Official checkpoints hold that mask; the three
            kinds of windows that need one are taken from it, at any size of the image.
        attention: The attention within the windows.
        window_size, shift: s, and pixels by which windows are moved: 0 or s // 2.
        dim, mlp_ratio: c, and width of the perceptron / c.
        drop, drop_path: Share of the perceptron's outputs, and of whole branches, that training leaves out.
    """

    attn_mask: Tensor

    def __init__(
        self,
        img_size: tuple[int, int],
        attention: WindowAttention,
        window_size: int,
        shift: int,
        *,
        dim: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, shift
        self.rows, self.columns = (-(-side // window_size) for side in img_size)  # of windows
        if shift:
            self.register_buffer("attn_mask", shifted_window_mask(self.rows, self.columns, window_size, shift))
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, c) to (b, h, w, c); h and w are multiples of the window."""
        attended = self._shifted(self.norm1(x)) if self.shift else self._attend(self.norm1(x), None)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _shifted(self, x: Tensor) -> Tensor:
        masks = self.attn_mask.unflatten(0, (self.rows, self.columns))
        x = x.roll((-self.shift, -self.shift), (1, 2))
        strips = []
        for strip, kinds in zip(
            self._but_last(x, 1), ((None, masks[0, -1]), (masks[-1, 0], masks[-1, -1])), strict=True
        ):
            parts = zip(self._but_last(strip, 2), kinds, strict=True)
            strips.append(torch.cat([self._attend(part, mask) for part, mask in parts], 2))
        return torch.cat(strips, 1).roll((self.shift, self.shift), (1, 2))

    def _but_last(self, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        """Part the last row or column of windows from the others, of which there may be none."""
        return x.split((x.shape[dim] - self.window_size, self.window_size), dim)

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.numel() == 0:
            return x
        return from_windows(self.attn(to_windows(x, self.window_size), mask), self.window_size, x.shape)


def shifted_window_mask(rows: int, columns: int, size: int, shift: int) -> Tensor:
    """Return 0 for pixels of a window that are neighbours in the image, else -100: (rows * columns, n, n)."""
    regions = torch.zeros(1, rows * size, columns * size, 1)
    regions[:, -shift:] += 1  # rolled in from the top
    regions[:, :, -shift:] += 2  # rolled in from the left
    windows = to_windows(regions, size).squeeze(2)
    strangers = windows[:, None] != windows[:, :, None]
    return torch.zeros(strangers.shape).masked_fill(strangers, -100.0)


class RSTB(nn.Module):
    """Transformer blocks and a convolution, added to the input: (b, h, w, c) stays so."""

    def __init__(self, blocks: Sequence[SwinTransformerBlock], conv: nn.Module) -> None:
        super().__init__()
        self.residual_group = nn.Sequential()
        self.residual_group.add_module("blocks", nn.Sequential(*blocks))  # the key of official checkpoints
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def connection(dim: int, kind: str) -> nn.Module:
    """Return the convolution behind transformer blocks: one of 3x3, or three with a quarter of the channels between."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim, 3, padding=1),
    )


@NETWORKS.register
class SwinIR(nn.Module):
    """Restores or enlarges an image of any size: residual groups of shifted-window transformer blocks.

    Its norm is nn.LayerNorm: the official ``norm_layer`` is a class, which no option file can name.

    Args:
        img_size: Sides of the training images (height and width, or one number for both). Only the stored
            ``attn_mask`` and ``ape`` depend on it: any size runs.
        patch_size: img_size counts patches of so many pixels a side; their pixels are not joined, so 1 is usual.
        in_chans: Channels of the input and of the output.
        embed_dim: c.
        depths: Transformer blocks of each group.
        num_heads: Heads of the attention, of each group; they divide embed_dim.
        window_size: s.
        mlp_ratio: Width of the perceptrons / embed_dim.
        qkv_bias: Give queries, keys and values a bias.
        qk_scale: Factor of the products of queries and keys; none: 1 / sqrt(embed_dim / heads).
        drop_rate, attn_drop_rate: Share of features, and of attention weights, that training leaves out.
        drop_path_rate: Share of whole branches that training leaves out in the last block; it rises from 0.
        ape: Add a learned embedding of the absolute position; enlarged to other sizes than img_size.
        patch_norm: Normalise the features before the first group.
        use_checkpoint: Recompute activations in the backward pass, for less memory.
        upscale: Output size / input size; without an upsampler the size stays.
        img_range: The network calculates with pixels in [0, img_range]; its input and output are in [0, 1].
        upsampler: 'pixelshuffle' (upscale 3 or a power of 2), 'pixelshuffledirect' (small, any upscale), 'nearest+conv'
            (less artefacts on real images, upscale 2 or 4); empty or none: denoising, deblocking.
        resi_connection: '1conv' or, smaller, '3conv': the convolution behind each group.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (SwinTransformerBlock,)
    channels_last = False
    size_multiple = 1  # padded to a multiple of the window inside
    min_size = 1
    mean: Tensor

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: Literal["", "pixelshuffle", "pixelshuffledirect", "nearest+conv"] | None = "",
        resi_connection: Literal["1conv", "3conv"] = "1conv",
    ) -> None:
        super().__init__()
        check_positive(in_chans=in_chans, embed_dim=embed_dim, window_size=window_size, upscale=upscale)
        check_range(img_range)
        _check(embed_dim, depths, num_heads, upscale, upsampler, resi_connection)
        if not isinstance(img_size, int) and len(img_size) != 2:
            raise ValueError(f"img_size: expected a number, or height and width, got {list(img_size)}.")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_positive(patch_size=patch_size, img_size=min(height, width) // max(1, patch_size))
        sides = (height // patch_size, width // patch_size)
        _check_shares(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        if int(embed_dim * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio: expected 1 / embed_dim (1 / {embed_dim}) or more, got {mlp_ratio}.")
        self.in_chans, self.img_range, self.upsampler = in_chans, img_range, upsampler
        self.scale = upscale if upsampler else 1
        self.window_size = min(window_size, *sides)  # an image within one window needs no shift
        shift = self.window_size // 2 if min(sides) > window_size else 0
        mean = RGB_MEAN if in_chans == 3 else (0.0,)
        self.register_buffer("mean", channel_mean(mean, in_chans), persistent=False)

        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, sides[0] * sides[1], embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.ape_size = sides if ape else None
        self.patch_embed = nn.Sequential()
        if patch_norm:
            self.patch_embed.add_module("norm", nn.LayerNorm(embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            blocks = []
            for j in range(depth):
                attention = WindowAttention(
                    embed_dim,
                    self.window_size,
                    heads,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                )
                blocks.append(
                    SwinTransformerBlock(
                        sides,
                        attention,
                        self.window_size,
                        shift if j % 2 else 0,
                        dim=embed_dim,
                        mlp_ratio=mlp_ratio,
                        drop=drop_rate,
                        drop_path=drop_path_rate * (sum(depths[:i]) + j) / max(1, sum(depths) - 1),
                    )
                )
            self.layers.append(RSTB(blocks, connection(embed_dim, resi_connection)))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = connection(embed_dim, resi_connection)
        self._make_upsampler(embed_dim, num_feat=64)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if use_checkpoint:
            checkpoint_activations(self)

    def _make_upsampler(self, embed_dim: int, *, num_feat: int) -> None:
        if self.upsampler == "pixelshuffledirect":
            conv = nn.Conv2d(embed_dim, self.scale**2 * self.in_chans, 3, padding=1)
            self.upsample = nn.Sequential(conv, nn.PixelShuffle(self.scale))
            return
        if not self.upsampler:
            self.conv_last = nn.Conv2d(embed_dim, self.in_chans, 3, padding=1)
            return
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, num_feat, 3, padding=1), nn.LeakyReLU(0.01))
        if self.upsampler == "pixelshuffle":
            self.upsample = Upsample(self.scale, num_feat)
        else:
            self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
            if self.scale == 4:
                self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
            self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, self.in_chans, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, in_chans, h, w), RGB in [0, 1], to (b, in_chans, upscale*h, upscale*w)."""
        check_images(x, self.in_chans)
        height, width = x.shape[2:]
        x = (pad_to_multiple(x, self.window_size) - self.mean) * self.img_range
        features = self.conv_first(x)
        features = features + self.conv_after_body(self._transform(features))
        out = self._enlarge(features) if self.upsampler else x + self.conv_last(features)
        out = out / self.img_range + self.mean
        return out[..., : self.scale * height, : self.scale * width]

    def _transform(self, features: Tensor) -> Tensor:
        """Run the groups: (b, c, h, w) to (b, c, h, w)."""
        x = self.patch_embed(features.permute(0, 2, 3, 1).contiguous())  # (b, h, w, c)
        if self.ape_size is not None:
            embedding = self.absolute_pos_embed.unflatten(1, self.ape_size)
            if x.shape[1:3] != self.ape_size:
                embedding = F.interpolate(embedding.permute(0, 3, 1, 2), x.shape[1:3], mode="bicubic").permute(
                    0, 2, 3, 1
                )
            x = x + embedding
        x = self.pos_drop(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).permute(0, 3, 1, 2)

    def _enlarge(self, features: Tensor) -> Tensor:
        """Make the image at its full size: (b, c, h, w) to (b, in_chans, upscale*h, upscale*w)."""
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(features)
        out = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(out))
        for conv in (self.conv_up1, self.conv_up2) if self.scale == 4 else (self.conv_up1,):
            out = F.leaky_relu(conv(F.interpolate(out, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(out), 0.2))


def _check(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    upscale: int,
    upsampler: str | None,
    resi_connection: str,
) -> None:
    """Raise ValueError where SwinIR's arguments do not fit each other."""
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            f"num_heads: expected one number for each of the {len(depths)} groups of depths, got {len(num_heads)}."
        )
    check_positive(depths=min(depths), num_heads=min(num_heads))
    if any(embed_dim % heads for heads in num_heads):
        raise ValueError(f"num_heads: expected divisors of embed_dim ({embed_dim}), got {list(num_heads)}.")
    if upsampler not in ("", None, "pixelshuffle", "pixelshuffledirect", "nearest+conv"):
        raise ValueError(
            f"upsampler: expected '', 'pixelshuffle', 'pixelshuffledirect' or 'nearest+conv', got {upsampler!r}."
        )
    if upsampler == "nearest+conv" and upscale not in (2, 4):
        raise ValueError(f"upscale: expected 2 or 4 with upsampler nearest+conv, got {upscale}.")
    if resi_connection not in ("1conv", "3conv"):
        raise ValueError(f"resi_connection: expected '1conv' or '3conv', got {resi_connection!r}.")
    if resi_connection == "3conv" and embed_dim < 4:
        raise ValueError(f"embed_dim: expected 4 or more with resi_connection 3conv, got {embed_dim}.")


def _check_shares(**shares: float) -> None:
    """Raise ValueError naming the first of the arguments that is no share of what training may leave out."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name}: expected a number from 0 to less than 1, got {share}.")
