"""Frames of any size through networks that want multiples, and in parts that fit the memory."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]

# Of the pixels that two tiles share, this part at each tile's edge is thrown away, because there the
# network saw padding instead of neighbours; over the rest the tiles are blended.
TRIM = 3 / 8


N = TypeVar("N", bound=Network)


def frames_first(network: N) -> N:
    """Return the network as inference calls it, with (b, [t,] c, h, w); one of another layout has ``frames_first``."""
    converted: N = getattr(network, "frames_first", lambda: network)()
    return converted


def padded(
    network: Network, x: Tensor, *, multiple: int, smallest: int, tile: int, overlap: int, whole_rows: bool = False
) -> Tensor:
    """Pad (..., h, w) at the right and at the bottom to what the network takes, run it, crop the result.

    The padding mirrors the image; where the image is smaller than its padding it repeats the edge.

    Args:
        network: Maps (..., h, w) to (..., s*h, s*w).
        x: Any number of leading dimensions.
        multiple: Sides must be multiples of it.
        smallest: Sides must be at least so long.
        tile, overlap, whole_rows: See ``tiled``; 0: the whole frame at once.

    Returns:
        (..., s*h, s*w)
    """
    height, width = x.shape[-2:]
    for dim in (-2, -1):
        size = x.shape[dim]
        padding = _round_up(max(size, smallest), multiple) - size
        if padding:
            positions = torch.arange(size + padding, device=x.device)
            mirrored = (size - 1) - (positions - (size - 1)).abs() if padding < size else positions.clamp(max=size - 1)
            x = x.index_select(dim, mirrored)
    if tile:
        tile = _round_up(max(tile, smallest), multiple)
        result = tiled(network, x, tile=tile, overlap=overlap, multiple=multiple, whole_rows=whole_rows)
    else:
        result = network(x)
    scale = _scale(result, x)
    return result[..., : height * scale, : width * scale]


def tiled(network: Network, x: Tensor, *, tile: int, overlap: int, multiple: int, whole_rows: bool = False) -> Tensor:
    """Run the network on overlapping tiles and blend the results linearly where they overlap.

    Tiles start at multiples of ``multiple``, so that networks with strides see the grid that they
    see in the whole frame. Equal to the whole frame, to rounding, for a network that looks no
    farther than 3/8 of the overlap; for others the seams are faded.

    Args:
        network: Maps (..., h, w) to (..., s*h, s*w).
        x: (..., h, w) with sides that are multiples of ``multiple``.
        tile: Side of a tile, a multiple of ``multiple``.
        overlap: Pixels that neighbours share at least; rounded up to ``multiple``.
        whole_rows: Tiles are as wide as the frame.

    Returns:
        (..., s*h, s*w)
    """
    overlap = _round_up(overlap, multiple)
    if overlap >= tile:
        raise ValueError(
            f"tile_overlap: expected less than the tile of {tile}, got {overlap} (both rounded up to multiples of "
            f"{multiple}, which the network wants). Use larger tiles or a smaller overlap."
        )
    height, width = x.shape[-2:]
    wide = width if whole_rows else tile
    tops, lefts = _starts(height, tile, overlap, multiple), _starts(width, wide, overlap, multiple)
    if len(tops) == len(lefts) == 1:
        return network(x)
    result, scale, rows, columns = None, 1, [], []
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            part = x[..., top : top + tile, left : left + wide]
            restored = network(part.contiguous())
            if result is None:
                scale, dtype = _scale(restored, part), restored.dtype
                # in half precision the sum of the faded tiles would be rounded more than the tiles are
                finer = torch.promote_types(dtype, torch.float32)
                result = restored.new_zeros(*restored.shape[:-2], height * scale, width * scale, dtype=finer)
                rows, columns = (
                    [w.to(result) for w in _weights(starts, size, side, scale)]
                    for starts, size, side in ((tops, height, tile), (lefts, width, wide))
                )
            target = result[..., scale * top : scale * (top + tile), scale * left : scale * (left + wide)]
            target += restored * rows[i][:, None] * columns[j]
            del restored  # or it would be there beside the next one
    assert result is not None, "there is at least one tile"
    return result.to(dtype)


def _starts(size: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Return evenly spread multiples at which tiles start that cover ``size`` with at least ``overlap``."""
    if size <= tile:
        return [0]
    steps = math.ceil((size - tile) / (tile - overlap))
    return [i * (size - tile) // (steps * multiple) * multiple for i in range(steps + 1)]


def _weights(starts: list[int], size: int, tile: int, scale: int) -> list[Tensor]:
    """Return each tile's weights along one dimension; at every place of the output they add up to 1."""
    length = min(tile, size)
    centres = (torch.arange(length * scale, dtype=torch.float64) + 0.5) / scale  # in input pixels
    weights = [torch.ones_like(centres) for _ in starts]
    for i in range(len(starts) - 1):
        shared = starts[i] + tile - starts[i + 1]
        if shared:
            rising = ((centres - TRIM * shared) / ((1 - 2 * TRIM) * shared)).clamp(0, 1)
            weights[i + 1] *= rising
            weights[i] *= rising.flip(0)
    total = torch.zeros(size * scale, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start * scale : (start + length) * scale] += weight
    return [w / total[s * scale : (s + length) * scale] for s, w in zip(starts, weights, strict=True)]


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _scale(result: Tensor, x: Tensor) -> int:
    """Return how many times larger the result is; raise ValueError if that is not a whole number."""
    if not isinstance(result, Tensor):
        raise ValueError(f"network: expected it to return a tensor, got {type(result).__name__}. Wrap it.")
    scale = result.shape[-1] // x.shape[-1]
    if scale < 1 or result.shape[-2:] != (x.shape[-2] * scale, x.shape[-1] * scale):
        raise ValueError(
            f"network: expected an output of a whole multiple of the input's size {x.shape[-2]}x{x.shape[-1]}, "
            f"got {'x'.join(map(str, result.shape[-2:]))}. Check size_multiple and min_size of the network."
        )
    return scale
