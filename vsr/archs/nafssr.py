"""NAFSSR: stereo super-resolution with NAFNet's blocks (Chu et al., CVPRW 2022, arXiv:2204.08714).

Shapes: b batch, n views (1, or 2: left and right), c width, h w input size, s scale. Between the blocks the
views stand one after the other in the batch, (n * b, c, h, w): all left ones first.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_counts, check_positive
from vsr.archs.local import localized
from vsr.archs.nafnet import LayerNorm2d, laid_out
from vsr.archs.stereo_fusion import rows_at_once
from vsr.registry import BLOCKS, FUSIONS, NETWORKS


@FUSIONS.register
class SCAM(nn.Module):
    """Stereo cross attention: each pixel of a view looks along its row in the other view, and adds what it finds.

    The views of a rectified pair differ along rows only.

    Args:
        channels: c.
        rows: How many rows attend at a time, all (b, rows, w, w) of whose weights may lie in memory; null: all in
            training, and in inference as many as have 64 MiB of weights, or one.
    """

    def __init__(self, channels: int, *, rows: int | None = None) -> None:
        super().__init__()
        if rows is not None:
            check_positive(rows=rows)
        self.rows = rows
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm_l = LayerNorm2d(channels)
        self.norm_r = LayerNorm2d(channels)
        self.l_proj1 = nn.Conv2d(channels, channels, 1)
        self.r_proj1 = nn.Conv2d(channels, channels, 1)
        self.l_proj2 = nn.Conv2d(channels, channels, 1)
        self.r_proj2 = nn.Conv2d(channels, channels, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Map the views (b, c, h, w) to the same shapes."""
        rows = self.rows or rows_at_once(left)
        if rows >= left.shape[2]:
            return self._exchange(left, right)
        parts = [self._exchange(*part) for part in zip(left.split(rows, 2), right.split(rows, 2), strict=True)]
        return torch.cat([part[0] for part in parts], 2), torch.cat([part[1] for part in parts], 2)

    def _exchange(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Do it for some of the rows."""
        # Rows take the place of attention heads: (b, h, w, c). With channels last in memory the attention goes in
        # blocks, of which it keeps no weights; in another layout PyTorch would have all (b, h, w, w) of them.
        query_left, query_right, value_left, value_right = (
            features.permute(0, 2, 3, 1).contiguous()
            for features in (
                self.l_proj1(self.norm_l(left)),
                self.r_proj1(self.norm_r(right)),
                self.l_proj2(left),
                self.r_proj2(right),
            )
        )
        # scaled by c ** -0.5, torch's default
        found_left = F.scaled_dot_product_attention(query_left, query_right, value_right).permute(0, 3, 1, 2)
        found_right = F.scaled_dot_product_attention(query_right, query_left, value_left).permute(0, 3, 1, 2)
        return left + found_left * self.beta, right + found_right * self.gamma


class NAFBlockSR(nn.Module):
    """A block for every view alone, then, with ``fusion``, the exchange between two.

    Args:
        channels: c.
        extraction: Type and arguments of the block.
        fusion: Type and arguments of the exchange; None: none.
        drop_out_rate: Of the block, if it has such an argument.
    """

    def __init__(
        self, channels: int, *, extraction: Mapping[str, Any], fusion: Mapping[str, Any] | None, drop_out_rate: float
    ) -> None:
        super().__init__()
        self.blk = BLOCKS.build(extraction, channels=channels, drop_out_rate=drop_out_rate)
        self.fusion = None if fusion is None else FUSIONS.build(fusion, channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map the views (n * b, c, h, w) to the same shape."""
        x = self.blk(x)
        return x if self.fusion is None else torch.cat(self.fusion(*x.chunk(2)))


class DropPath(nn.Module):
    """Leaves a residual block out at random while training, and strengthens what it adds when it stays.

    Stochastic depth (Huang et al., ECCV 2016), drawn for each sample, once for both views. (The official code
    draws once for a batch, so that whole blocks go without a gradient.)

    Args:
        module: The block.
        drop_rate: Probability of leaving it out.
        views: n.
    """

    def __init__(self, module: nn.Module, *, drop_rate: float, views: int) -> None:
        super().__init__()
        self.module, self.drop_rate, self.views = module, drop_rate, views

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        if not self.training or self.drop_rate == 0:
            return out
        kept = torch.rand(len(x) // self.views, 1, 1, 1, device=x.device) >= self.drop_rate
        return x + (out - x) * (kept / (1 - self.drop_rate)).to(x.dtype).repeat(self.views, 1, 1, 1)


@NETWORKS.register
class NAFNetSR(nn.Module):
    """Enlarges an image, or with ``dual`` the two views of a stereo pair.

    Args:
        up_scale: s.
        width: c.
        num_blks: Blocks.
        img_channel: Channels of a view.
        drop_path_rate: Probability of leaving a block out of a training step, see ``DropPath``.
        drop_out_rate: Of the blocks' branches.
        fusion_from, fusion_to: First and last block, from 0, after which the views exchange; -1: none does.
        dual: The input has two views, left and right, on its channels.
        local: Pool locally at test time: {train_size: [h, w] of the training crops, ratio: 1.5,
            fast_imp: false}, see ``vsr.archs.local``. Of no effect where no block pools.
        extraction_block: Name of what maps each view alone, (b, c, h, w) to the same shape, or {type: name, and
            its arguments}. Networks of other blocks than NAFBlock and SCAM take no official weights.
        fusion_block: The same of what maps the left and the right view to two of the same shape.
    """

    kind = "restoration"
    temporal = "image"
    checkpointed = (NAFBlockSR,)
    channels_last = False  # see laid_out
    size_multiple = 1
    min_size = 1

    def __init__(
        self,
        *,
        up_scale: int = 4,
        width: int = 48,
        num_blks: int = 16,
        img_channel: int = 3,
        drop_path_rate: float = 0.0,
        drop_out_rate: float = 0.0,
        fusion_from: int = -1,
        fusion_to: int = -1,
        dual: bool = False,
        local: Mapping[str, Any] | None = None,
        extraction_block: Annotated[str | Mapping[str, Any], "BLOCKS"] = "NAFBlock",
        fusion_block: Annotated[str | Mapping[str, Any], "FUSIONS"] = "SCAM",
    ) -> None:
        super().__init__()
        check_positive(up_scale=up_scale, width=width, img_channel=img_channel)
        for name, rate in (("drop_path_rate", drop_path_rate), ("drop_out_rate", drop_out_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}: expected a probability from 0 to below 1, got {rate}.")
        check_counts(num_blks=num_blks)
        fused = [fusion_from <= i <= fusion_to for i in range(num_blks)]
        if any(fused) and not dual:
            raise ValueError(
                "fusion_from, fusion_to: expected -1 without dual: true, one view has none to exchange with."
            )
        self.views, self.img_channel, self.scale = 1 + dual, img_channel, up_scale
        if dual:
            self.kind = "stereo"
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.body = nn.Sequential(
            *(
                DropPath(
                    NAFBlockSR(
                        width,
                        extraction=_named(extraction_block),
                        fusion=_named(fusion_block) if fusion else None,
                        drop_out_rate=drop_out_rate,
                    ),
                    drop_rate=drop_path_rate,
                    views=self.views,
                )
                for fusion in fused
            )
        )
        self.up = nn.Sequential(nn.Conv2d(width, img_channel * up_scale**2, 3, padding=1), nn.PixelShuffle(up_scale))
        if any(isinstance(module, nn.AdaptiveAvgPool2d) for module in self.modules()):
            localized(self, local, self.views * img_channel)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, n * img_channel, h, w) in [0, 1], left view first, to (b, n * img_channel, s*h, s*w).

        Raises:
            ValueError: the shape is another.
        """
        channels = self.views * self.img_channel
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"x: expected (b, {channels}, h, w), got {tuple(x.shape)}.")
        views = laid_out(torch.cat(x.chunk(self.views, 1)) if self.views > 1 else x)
        detail = self.up(self.body(self.intro(views)))
        base = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return torch.cat(detail.chunk(self.views), 1) + base


@NETWORKS.register
class NAFSSR(NAFNetSR):
    """Enlarges a stereo pair: views that exchange after every block, pooling that stays local at test time.

    Args:
        train_size: Shape of the training input, [b, c, h, w]; only height and width count.
        fast_imp: The official faster, not equivalent means of the local pooling, see ``vsr.archs.local``.
        up_scale, width, num_blks, img_channel, drop_path_rate, drop_out_rate: See ``NAFNetSR``.
        fusion_from, fusion_to: First and last block, from 0, after which the views exchange.
        extraction_block, fusion_block: See ``NAFNetSR``.
    """

    kind = "stereo"

    def __init__(
        self,
        *,
        train_size: Sequence[int] = (1, 6, 30, 90),
        fast_imp: bool = False,
        up_scale: int = 4,
        width: int = 48,
        num_blks: int = 16,
        img_channel: int = 3,
        drop_path_rate: float = 0.0,
        drop_out_rate: float = 0.0,
        fusion_from: int = -1,
        fusion_to: int = 1000,
        extraction_block: Annotated[str | Mapping[str, Any], "BLOCKS"] = "NAFBlock",
        fusion_block: Annotated[str | Mapping[str, Any], "FUSIONS"] = "SCAM",
    ) -> None:
        super().__init__(
            up_scale=up_scale,
            width=width,
            num_blks=num_blks,
            img_channel=img_channel,
            drop_path_rate=drop_path_rate,
            drop_out_rate=drop_out_rate,
            fusion_from=fusion_from,
            fusion_to=fusion_to,
            dual=True,
            local={"train_size": train_size, "fast_imp": fast_imp},
            extraction_block=extraction_block,
            fusion_block=fusion_block,
        )


def _named(block: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a block's type and arguments; a name alone is its type."""
    return {"type": block} if isinstance(block, str) else block
