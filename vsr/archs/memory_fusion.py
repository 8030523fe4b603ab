"""A memory as a part of a network: embeddings, a read in one or more hops, and the fusion of what was read.

The kinds, ``pixsim``, ``pixwise`` and ``pixsentence``, differ by their read (``vsr.archs.memory``). They are registered
in ``vsr.registry.MEMORIES``: an option file names one with its arguments. What a network knows itself, channels, slots
and the slot of the centre, it adds.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_positive
from vsr.archs.memory import check_crop, read_everywhere, read_neighbourhood, read_similarity
from vsr.registry import MEMORIES

Read = Callable[..., tuple[Tensor, Tensor]]  # (q, k, v, scale=) -> (o, weights)
Fusion = Literal["add", "concat"]


class Memory(nn.Module):
    """Adds to features (b, c, h, w) what is read, for a query, out of the features (b, m, c, h, w) of all slots.

    Query, keys and values are 1x1 convolutions, of all slots alike. What was read goes into ``out``, a 1x1 convolution
    that begins without any part of it: a network with a fresh memory does what it does without one. The embeddings of
    query and keys begin alike, as memory networks tie them for good (Sukhbaatar et al., 2.2).

    Args:
        channels: c.
        slots: m.
        center: The slot of the query's own frame.
        read: One of the reads, with its arguments.
        mem_dim: Channels of keys and values; none: c.
        norm: Compare directions: the dot product of unit vectors times a learnt factor from 1 to 100, at first 10.
        fusion: add: out(o) + features; concat: out([features, o]), at first the features.
        hops: Reads; each adds what it read to the query of the next.
        exclude_center: Do not read the query's own frame.
        temporal_encoding: Add learnt values to the keys and values of each slot: what a frame's place in the window
            is counts, too, not only what it shows.

    Raises:
        ValueError: an argument is out of range, or the centre is the only slot, and excluded.
    """

    def __init__(
        self,
        *,
        channels: int,
        slots: int,
        center: int,
        read: Read,
        mem_dim: int | None = None,
        norm: bool = False,
        fusion: Fusion = "add",
        hops: int = 1,
        exclude_center: bool = False,
        temporal_encoding: bool = False,
    ) -> None:
        super().__init__()
        mem_dim = channels if mem_dim is None else mem_dim
        check_positive(mem_dim=mem_dim, hops=hops)
        if fusion not in ("add", "concat"):
            raise ValueError(f"fusion: expected 'add' or 'concat', got {fusion!r}.")
        self.slots = [slot for slot in range(slots) if slot != center or not exclude_center]
        if not self.slots:
            raise ValueError("exclude_center: expected false, as the memory has no other frame, got true.")
        self.read, self.hops, self.fusion = read, hops, fusion
        self.embed_q, self.embed_k, self.embed_v = (nn.Conv2d(channels, mem_dim, 1) for _ in range(3))
        # Alike at first: projections drawn apart would begin with weights that have nothing to do with likeness.
        self.embed_k.load_state_dict(self.embed_q.state_dict())
        if norm:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        if temporal_encoding:
            self.temporal_k, self.temporal_v = (
                nn.Parameter(0.1 * torch.randn(len(self.slots), mem_dim, 1, 1)) for _ in range(2)
            )
        self.out = nn.Conv2d(mem_dim if fusion == "add" else channels + mem_dim, channels, 1)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()  # type: ignore[union-attr]
            if fusion == "concat":
                self.out.weight[:, :channels, 0, 0] = torch.eye(channels, device=self.out.weight.device)

    def forward(self, features: Tensor, query: Tensor, slots: Tensor) -> Tensor:
        """Return the features (b, c, h, w) with what ``look_up`` reads for ``query``."""
        found, _ = self.look_up(query, slots)
        found = found.to(features.dtype)
        return features + self.out(found) if self.fusion == "add" else self.out(torch.cat((features, found), 1))

    def look_up(self, query: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Read for a query (b, c, h, w) from slots (b, m, c, h, w): what the last hop found, and its weights."""
        if len(self.slots) < slots.shape[1]:
            slots = torch.stack([slots[:, slot] for slot in self.slots], 1)
        q = self.embed_q(query)
        k, v = (embed(slots.flatten(0, 1)).unflatten(0, slots.shape[:2]) for embed in (self.embed_k, self.embed_v))
        if hasattr(self, "temporal_k"):
            k, v = k + self.temporal_k, v + self.temporal_v
        scale = None
        if hasattr(self, "log_temperature"):
            k = _unit(k, 2)
            scale = self.log_temperature.float().exp().clamp(1, 100)
        found, weights = self.read(q if scale is None else _unit(q, 1), k, v, scale=scale)
        for _ in range(self.hops - 1):
            q = q + found
            found, weights = self.read(q if scale is None else _unit(q, 1), k, v, scale=scale)
        return found, weights


def _unit(x: Tensor, dim: int) -> Tensor:
    """The vectors along ``dim`` at length 1, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=dim, eps=1e-6)


@MEMORIES.register
class pixsim(Memory):  # noqa: N801
    """One weight for each frame: ``read_similarity``."""

    def __init__(
        self,
        *,
        channels: int,
        slots: int,
        center: int,
        mem_dim: int | None = None,
        crop: Literal[0] = 0,
        norm: bool = False,
        fusion: Fusion = "add",
        hops: int = 1,
        exclude_center: bool = False,
        temporal_encoding: bool = False,
    ) -> None:
        if crop != 0:
            raise ValueError(f"crop: expected 0, as pixsim weighs whole frames, got {crop}. Or take pixwise.")
        super().__init__(
            channels=channels, slots=slots, center=center, read=read_similarity, mem_dim=mem_dim, norm=norm,
            fusion=fusion, hops=hops, exclude_center=exclude_center, temporal_encoding=temporal_encoding,
        )  # fmt: skip


@MEMORIES.register
class pixwise(Memory):  # noqa: N801
    """Weights for each pixel, of the crop x crop positions around it in each frame: ``read_neighbourhood``.

    Args:
        crop: Side of the square; odd, or 0 for the pixel itself.
    """

    def __init__(
        self,
        *,
        channels: int,
        slots: int,
        center: int,
        mem_dim: int | None = None,
        crop: int = 0,
        norm: bool = False,
        fusion: Fusion = "add",
        hops: int = 1,
        exclude_center: bool = False,
        temporal_encoding: bool = False,
    ) -> None:
        check_crop(crop)
        super().__init__(
            channels=channels, slots=slots, center=center, read=partial(read_neighbourhood, crop=crop), mem_dim=mem_dim,
            norm=norm, fusion=fusion, hops=hops, exclude_center=exclude_center, temporal_encoding=temporal_encoding,
        )  # fmt: skip


@MEMORIES.register
class pixsentence(Memory):  # noqa: N801
    """Weights for each pixel, of all positions in all frames: ``read_everywhere``.

    Args:
        crop: 0: there is no bound to what is searched.
        per_sentence: Search each frame by itself, then weigh the frames.
        chunk: Pixels whose weights exist at a time; 0: all.
        key_stride: Search every such position of each row and column only: its square times as fast.
    """

    def __init__(
        self,
        *,
        channels: int,
        slots: int,
        center: int,
        mem_dim: int | None = None,
        crop: Literal[0] = 0,
        norm: bool = False,
        fusion: Fusion = "add",
        hops: int = 1,
        per_sentence: bool = False,
        exclude_center: bool = False,
        temporal_encoding: bool = False,
        chunk: int = 512,
        key_stride: int = 1,
    ) -> None:
        if crop != 0 or chunk < 0:
            raise ValueError(
                f"crop, chunk: expected 0, and a number from 0 up, got {crop} and {chunk}. Or take pixwise."
            )
        check_positive(key_stride=key_stride)
        read = partial(read_everywhere, per_sentence=per_sentence, chunk=chunk, key_stride=key_stride)
        super().__init__(
            channels=channels, slots=slots, center=center, read=read, mem_dim=mem_dim, norm=norm, fusion=fusion,
            hops=hops, exclude_center=exclude_center, temporal_encoding=temporal_encoding,
        )  # fmt: skip
