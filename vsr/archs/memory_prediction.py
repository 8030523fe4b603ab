"""The frame to come, from the last one and a static memory of those before it: encoder, memory, decoder.

End-to-end memory networks (Sukhbaatar et al., NIPS 2015, arXiv:1503.08895) with frames for sentences: an encoder turns
all frames into features, a memory holds those of the sentences, the query (the last sentence) reads from it, and a
decoder makes a picture of what was read. There is no publication of this network, and no weights; names and defaults
are those of the experiments that it is for, the mathematics is a reading of them:

* Levels 1 ... L have channels[1] ... channels[L]; the encoder halves the sides at each. The memory of the *bottleneck*
  is always there; where noskip[l - 1] is false, the decoder gets the query's features of level l and, with ``multi``,
  what the query reads from a memory of that level.
* *static*: slots are written once, from the frames of the sample; nothing is carried on, and nothing forgotten.
* A memory of level l is embed_size * channels[l] / channels[L] wide: the widths follow those of the encoder, so that
  embed_size is the bottleneck's.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import ResidualBlockNoBN, check_counts, check_positive
from vsr.archs.memory import read_everywhere, read_neighbourhood, read_similarity
from vsr.registry import NETWORKS

RESIDUAL_BLOCKS = 2  # of each level of the ResNet, on the way down and on the way up
BOTTLENECK = "bottleneck"
Weights = dict[str, list[Tensor]]  # by level: of each hop (b, memory_size), or (b, memory_size, h, w) of pixels


class ConvPair(nn.Sequential):
    """Two 3x3 convolutions with ReLUs: (b, into, h, w) -> (b, out, h, w)."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU()
        )  # fmt: skip


class ResidualStage(nn.Sequential):
    """A 3x3 convolution of a stride, a ReLU, and residual blocks: (b, into, h, w) -> (b, out, h/stride, w/stride)."""

    def __init__(self, into: int, out: int, *, stride: int) -> None:
        blocks = [ResidualBlockNoBN(out) for _ in range(RESIDUAL_BLOCKS)]
        super().__init__(nn.Conv2d(into, out, 3, stride=stride, padding=1), nn.ReLU(), *blocks)


class UNetDown(nn.Module):
    """Levels of two convolutions, each with a convolution of stride 2 behind it.

    Args:
        channels: Of the image, then of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvPair(*pair) for pair in itertools.pairwise(channels))
        self.reductions = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for c in channels[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the bottleneck of images (n, channels[0], h, w), and each level's features before its reduction."""
        features = []
        for level, reduction in zip(self.levels, self.reductions, strict=True):
            features.append(level(x))
            x = reduction(features[-1])
        return x, features


class UNetUp(nn.Module):
    """Levels of enlargement by 2 (nearest, then a convolution) and two convolutions; the last one makes the picture.

    Args:
        channels: As of the encoder.
        extra: Channels that each level, from the first one on, gets beside those from below.
        num_out_ch: Channels of the picture.
    """

    def __init__(self, channels: Sequence[int], extra: Sequence[int], num_out_ch: int) -> None:
        super().__init__()
        below = [*channels[2:], channels[-1]]
        self.enlargements = nn.ModuleList(
            nn.Conv2d(into, c, 3, padding=1) for into, c in zip(below, channels[1:], strict=True)
        )
        self.levels = nn.ModuleList(ConvPair(c + more, c) for c, more in zip(channels[1:], extra, strict=True))
        self.last = nn.Conv2d(channels[1], num_out_ch, 3, padding=1)

    def forward(self, x: Tensor, beside: Sequence[Sequence[Tensor]]) -> Tensor:
        """Decode the bottleneck (b, channels[-1], h, w) with what each level gets beside it."""
        for level, enlargement, more in reversed(list(zip(self.levels, self.enlargements, beside, strict=True))):
            x = F.relu(enlargement(F.interpolate(x, scale_factor=2, mode="nearest")))
            x = level(torch.cat((x, *more), 1))
        out: Tensor = self.last(x)
        return out


class ResNetDown(nn.Module):
    """A convolution, and stages of stride 2 with residual blocks; arguments and results as of ``UNetDown``."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        into = (channels[1], *channels[1:-1])
        self.stages = nn.ModuleList(ResidualStage(i, c, stride=2) for i, c in zip(into, channels[1:], strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.relu(self.first(x))
        for stage in self.stages:
            x = stage(x)
        return x, []


class ResNetUp(nn.Module):
    """Stages with residual blocks, each behind an enlargement by 2; arguments as of ``UNetUp``, but for the skips."""

    def __init__(self, channels: Sequence[int], num_out_ch: int) -> None:
        super().__init__()
        below = [*channels[2:], channels[-1]]
        self.stages = nn.ModuleList(ResidualStage(i, c, stride=1) for i, c in zip(below, channels[1:], strict=True))
        self.last = nn.Conv2d(channels[1], num_out_ch, 3, padding=1)

    def forward(self, x: Tensor, beside: Sequence[Sequence[Tensor]]) -> Tensor:
        for stage in reversed(self.stages):
            x = stage(F.interpolate(x, scale_factor=2, mode="nearest"))
        out: Tensor = self.last(x)
        return out


class StaticMemory(nn.Module):
    """Slots with the embedded features of sentences, from which a query reads.

    Query u_0 = B x_q, keys A x_s, values C x_s; a hop reads o from them and goes on with u + o, the keys re-used. What
    comes out is conv1x1([u_0; o of the last hop]), or conv1x1(u_0) without hops.

    Args:
        channels: Of the features.
        embed_size: Of queries, keys and values.
        memory_size: Slots. Of more sentences the last ones are kept; slots beyond the sentences get no weight.
        hops: Reads; 0: there is no memory.
        read: 'pixsim', 'pixwise' or 'pixsentence', see ``vsr.archs.memory``.
        embedding: 'sep1by1': a 1x1 convolution each for query, key and value; 'Conv': 3x3 ones; 'FC': linear layers
            over all channels and positions, which leave one vector a slot, and one back.
        pad: Radius of pixwise's search.
        flat2d: Stride of a 3x3 convolution that query and keys pass before pixsim compares them; 0: none.
        size: Height and width of the features; FC alone asks for it.
    """

    def __init__(
        self, channels: int, *, embed_size: int, memory_size: int, hops: int, read: str, embedding: str, pad: int,
        flat2d: int, size: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.memory_size, self.hops, self.read, self.crop = memory_size, hops, read, 2 * pad + 1

        def embed() -> nn.Module:
            if embedding == "FC":
                assert size is not None
                linear = nn.Linear(channels * size[0] * size[1], embed_size)
                return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, (embed_size, 1, 1)))
            kernel = 3 if embedding == "Conv" else 1
            return nn.Conv2d(channels, embed_size, kernel, padding=kernel // 2)

        self.embed_q = embed()
        if hops:
            self.embed_k, self.embed_v = embed(), embed()
        self.flat = nn.Conv2d(embed_size, embed_size, 3, stride=flat2d, padding=1) if flat2d and hops else nn.Identity()
        width = embed_size * (2 if hops else 1)
        if embedding == "FC":
            assert size is not None
            linear = nn.Linear(width, channels * size[0] * size[1])
            self.out: nn.Module = nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, (channels, *size)))
        else:
            self.out = nn.Conv2d(width, channels, 1)

    def forward(self, query: Tensor, sentences: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Read for features (b, c, h, w) from those of sentences (b, s, c, h, w).

        Returns:
            (b, c, h, w), and the weights of each hop: (b, memory_size) of pixsim; else (b, memory_size, h, w), of
            pixwise summed over the positions around each pixel.
        """
        first = u = self.embed_q(query)
        if not self.hops:
            return self.out(u), []
        sentences = sentences[:, -self.memory_size :]
        count, empty = sentences.shape[1], self.memory_size - sentences.shape[1]
        flat = sentences.flatten(0, 1)
        k, v = (embed(flat).unflatten(0, (-1, count)) for embed in (self.embed_k, self.embed_v))
        mask = None
        if empty:
            k, v = (F.pad(slots, (0, 0) * 3 + (0, empty)) for slots in (k, v))
            mask = torch.arange(self.memory_size, device=k.device).expand(k.shape[0], -1) < count
        if self.read == "pixsim":
            k = self.flat(k.flatten(0, 1)).unflatten(0, (-1, self.memory_size))
        weights, o = [], u
        for _ in range(self.hops):
            o, found = self._read(u, k, v, mask)
            weights.append(found)
            u = u + o
        return self.out(torch.cat((first, o), 1)), weights

    def _read(self, u: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.read == "pixsim":
            return read_similarity(self.flat(u), k, v, mask=mask)
        if self.read == "pixsentence":
            return read_everywhere(u, k, v, mask=mask)
        o, weights = read_neighbourhood(u, k, v, crop=self.crop, mask=mask)
        return o, weights.sum(2)


@NETWORKS.register
class MemoryPrediction(nn.Module):
    """Predicts from a sequence of frames what follows the last one: a frame, the difference to it, or the flow to it.

    Args:
        encoder: 'unet_conv' or 'resnet', and the decoder that belongs to it. The ResNet has no skips.
        channels: Of a frame, then of each level.
        noskip: For each level: the decoder gets neither skip nor memory of it.
        input_size: Frames of a sequence, the sentences; the last one is the query.
        memory_size: Slots; of more sentences the last ones are kept.
        embed_size: Width of the bottleneck's memory.
        hops: Reads, one after the other; 0: no memory.
        read: 'pixsim': one weight a slot; 'pixwise': for each pixel one for every position around it in every slot;
            'pixsentence': for each pixel one for every position.
        embedding: 'sep1by1', 'Conv' (3x3) or 'FC', see ``StaticMemory``.
        pad: Radius of pixwise's search, a square of 2 * pad + 1 pixels.
        flat2d: Stride of a 3x3 convolution between the embeddings and pixsim; 0: none.
        multi: Memories of the levels with skips, too, beside the bottleneck's.
        QSsep: An encoder of its own for the query.
        H, W: Height and width of all frames; FC has to be told.
        num_out_ch: 3; 2 for an optical flow.
        motion: The encoder gets, beside each frame, its difference to the one before it times this; 0: frames alone.
            The sequence's first frame has none before it, and zeros for a difference.
        zero_last: The decoder's last convolution starts at zero: a fresh network that is to give the difference to the
            last frame then predicts a copy of it.
    """

    kind, temporal, scale = "prediction", "window", 1
    checkpointed = (ConvPair, ResidualStage)
    channels_last = False

    def __init__(
        self,
        *,
        encoder: Literal["unet_conv", "resnet"] = "unet_conv",
        channels: Sequence[int] = (3, 32, 64, 128),
        noskip: Sequence[bool] = (True, True, True),
        input_size: int = 10,
        memory_size: int = 10,
        embed_size: int = 128,
        hops: int = 1,
        read: Literal["pixsim", "pixwise", "pixsentence"] = "pixsim",
        embedding: Literal["sep1by1", "Conv", "FC"] = "sep1by1",
        pad: int = 3,
        flat2d: int = 0,
        multi: bool = True,
        QSsep: bool = False,  # noqa: N803 (the option's name)
        H: int = 0,  # noqa: N803
        W: int = 0,  # noqa: N803
        num_out_ch: int = 3,
        motion: float = 0,
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        check_positive(
            input_size=input_size, memory_size=memory_size, embed_size=embed_size, num_out_ch=num_out_ch,
            channels=min(channels, default=0),
        )  # fmt: skip
        check_counts(hops=hops, pad=pad, flat2d=flat2d, H=H, W=W)
        if not 0 <= motion < float("inf"):
            raise ValueError(f"motion: expected a factor from 0 up, got {motion}.")
        _check_parts(encoder, channels, noskip, read, embedding, flat2d)
        if QSsep and not hops:
            raise ValueError("QSsep: expected false for hops 0, which leave no sentences to encode, got true.")
        levels = len(channels) - 1
        self.num_in_ch, self.num_out_ch, self.num_frame = channels[0], num_out_ch, input_size
        self.used = memory_size if hops else 1  # of the frames: the last ones
        self.motion = motion
        self.fixed_size = H, W  # 0: any
        self.noskip = tuple(noskip)
        self.size_multiple = self.min_size = 2**levels
        self._check_size(embedding)
        unet = encoder == "unet_conv"
        seen = [channels[0] * (2 if motion else 1), *channels[1:]]
        self.encoder = UNetDown(seen) if unet else ResNetDown(seen)
        self.query_encoder = (UNetDown(seen) if unet else ResNetDown(seen)) if QSsep else None
        skips = [level for level in range(1, levels + 1) if not noskip[level - 1]]
        places = [*(skips if multi and hops else []), levels + 1]
        self.mem_net = nn.ModuleDict(
            {
                _name(level, levels): StaticMemory(
                    channels[min(level, levels)],
                    embed_size=max(1, embed_size * channels[min(level, levels)] // channels[-1]),
                    memory_size=memory_size, hops=hops, read=read, embedding=embedding, pad=pad, flat2d=flat2d,
                    size=(H // 2 ** (level - 1), W // 2 ** (level - 1)) if embedding == "FC" else None,
                )
                for level in places
            }
        )  # fmt: skip
        extra = [c * (1 + (level in places)) if level in skips else 0 for level, c in enumerate(channels[1:], start=1)]
        self.decoder = UNetUp(channels, extra, num_out_ch) if unet else ResNetUp(channels, num_out_ch)
        _scale_weights(self)
        if zero_last:
            for parameter in self.decoder.last.parameters():
                nn.init.zeros_(parameter)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, *, with_weights: bool) -> tuple[Tensor, Weights]: ...
    def forward(self, x: Tensor, *, with_weights: bool = False) -> Tensor | tuple[Tensor, Weights]:
        """Map sequences (b, input_size, c, h, w) to predictions (b, num_out_ch, h, w).

        Args:
            x: Frames in [0, 1], the last one is where the prediction starts from.
            with_weights: Return the memories' weights, too: by level ('level1' ..., 'bottleneck') those of each hop.
        """
        self._check_input(x)
        if self.motion:
            before = torch.cat((x[:, :1], x[:, :-1]), 1)
            x = torch.cat((x, self.motion * (x - before)), 2)
        used = x[:, -self.used :]
        count = used.shape[1]
        bottom, features = self.encoder(used.flatten(0, 1))
        bottom, features = bottom.unflatten(0, (-1, count)), [f.unflatten(0, (-1, count)) for f in features]
        if self.query_encoder is None:
            query, of_query = bottom[:, -1], [f[:, -1] for f in features]
        else:
            query, of_query = self.query_encoder(x[:, -1])
        weights: Weights = {}
        beside: list[list[Tensor]] = []
        for level, noskip in enumerate(self.noskip, start=1):
            more = [] if noskip else [of_query[level - 1]]
            name = _name(level, len(self.noskip))
            if name in self.mem_net:
                read, weights[name] = self.mem_net[name](of_query[level - 1], features[level - 1])
                more.append(read)
            beside.append(more)
        read, weights[BOTTLENECK] = self.mem_net[BOTTLENECK](query, bottom)
        out = self.decoder(read, beside)
        return (out, weights) if with_weights else out

    def _check_size(self, embedding: str) -> None:
        if embedding == "FC" and not all(self.fixed_size):
            raise ValueError("H, W: expected the size of all frames for embedding FC, got none. Add H and W.")
        for name, side in zip("HW", self.fixed_size, strict=True):
            if side % self.size_multiple:
                raise ValueError(f"{name}: expected a multiple of {self.size_multiple} (2 for each level), got {side}.")

    def _check_input(self, x: Tensor) -> None:
        wanted = (self.num_frame, self.num_in_ch)
        if x.dim() != 5 or tuple(x.shape[1:3]) != wanted or x.shape[0] == 0:
            raise ValueError(f"x: expected (b, {wanted[0]}, {wanted[1]}, h, w), got {tuple(x.shape)}.")
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple or not (height and width):
            raise ValueError(f"x: expected sides that are multiples of {self.size_multiple}, got {height}x{width}.")
        told = self.fixed_size
        if any(side and side != own for side, own in zip(told, (height, width), strict=True)):
            raise ValueError(f"x: expected frames of H x W, {told[0]}x{told[1]}, got {height}x{width}.")


def _scale_weights(network: MemoryPrediction) -> None:
    """Draw weights that keep the size of features from layer to layer (He et al., ICCV 2015, arXiv:1502.01852).

    PyTorch's own would make them smaller at each of the dozen layers between frames and picture, until all slots look
    alike and keys get gradients of 1e-18, from which Adam learns nothing. Residual blocks are small already.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not name.endswith((".conv1", ".conv2", ".last")):
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if name.startswith("mem_net.") else "relu")
            nn.init.zeros_(layer.bias)


def _name(level: int, levels: int) -> str:
    return BOTTLENECK if level > levels else f"level{level}"


def _check_parts(
    encoder: str, channels: Sequence[int], noskip: Sequence[bool], read: str, embedding: str, flat2d: int
) -> None:
    """Raise ValueError where parts do not go together."""
    choices = {
        "encoder": (encoder, ("unet_conv", "resnet")),
        "read": (read, ("pixsim", "pixwise", "pixsentence")),
        "embedding": (embedding, ("sep1by1", "Conv", "FC")),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name}: expected {', '.join(known)}, got {value!r}.")
    if len(channels) < 2:
        raise ValueError(f"channels: expected those of a frame and of one level or more, got {list(channels)}.")
    if len(noskip) != len(channels) - 1:
        raise ValueError(
            f"noskip: expected one value for each of {len(channels) - 1} levels, got {list(noskip)}. "
            "channels names the levels behind those of a frame."
        )
    if encoder == "resnet" and not all(noskip):
        raise ValueError(f"noskip: expected true for each level of the resnet, which has no skips, got {list(noskip)}.")
    if embedding == "FC" and (read != "pixsim" or flat2d):
        raise ValueError(
            f"embedding: expected sep1by1 or Conv for read {read} and flat2d {flat2d}, as FC leaves one vector a slot, "
            "got FC. Use read: pixsim and flat2d: 0."
        )
    if flat2d and read != "pixsim":
        raise ValueError(f"flat2d: expected 0 for read {read}, which weighs pixels, got {flat2d}. Use read: pixsim.")
