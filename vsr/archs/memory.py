"""Reads of a memory: every pixel of a query takes from slots (frames) what lies there at similar keys.

End-to-end memory networks (Sukhbaatar et al., NIPS 2015, arXiv:1503.08895) with frames for sentences and pixels for
words; space-time memory (Oh et al., ICCV 2019, arXiv:1904.00607) is the search of the whole space. Three reads, each
``(q, k, v) -> (o, weights)``, from the coarsest to the finest weights:

    read_similarity     pixsim        one weight a slot, from the mean over all pixels; weights (b, m)
    read_neighbourhood  pixwise       a weight for each slot and each of crop x crop positions; (b, m, crop^2, h, w)
    read_everywhere     pixsentence   a weight for each position of each slot; returns their sums, (b, m, h, w)

Shapes: b batch, m slots, d channels of keys, dv of values, h w sizes: q (b, d, h, w), k (b, m, d, h, w),
v (b, m, dv, h, w), o (b, dv, h, w). A ``mask`` (b, m), true where a slot holds something (one at least), takes all
weight from the others. ``scale`` multiplies the logits, a number or a tensor of one; none: 1/sqrt(d). Logits and
softmax are float32 at least, whatever q, k and v are.

The memory that a read needs does not grow with the number of candidates: taps of the neighbourhood are shifted dot
products of slices, nothing is unfolded; the whole space is searched for ``chunk`` pixels at a time, and the backward
pass computes their weights again.
"""

import math

import torch
from torch import Tensor


def read_similarity(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weigh whole slots by how like the query they are in the mean over all pixels, not in the sum: the softmax would
    be as sharp as images are large.

    The sizes of q and k may differ from those of v, as long as they are alike. Returns (o, weights (b, m)).
    """
    _check_read(q, k, v, mask)
    q = _scaled(q, scale)
    logits = torch.einsum("bdhw,bmdhw->bm", q, k.to(q.dtype)) / q[0, 0].numel()
    weights = _masked(logits, mask).softmax(1)
    return torch.einsum("bm,bmdhw->bdhw", weights.to(v.dtype), v), weights


def read_neighbourhood(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    crop: int = 0,
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weigh, for every pixel, the crop x crop positions around it in all slots.

    Positions outside of the image are no candidates: their weight is 0. ``crop`` is odd; 0 is 1, the pixel itself.
    Returns (o, weights (b, m, crop^2, h, w)), positions row by row from the one at the upper left.
    """
    _check_read(q, k, v, mask)
    check_crop(crop)
    q = _scaled(q, scale)
    logits = _masked(_shifted_products(q, k, crop), mask)
    weights = logits.flatten(1, 2).softmax(1).view_as(logits)
    return _shifted_sums(weights, v, crop), weights


def read_everywhere(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
    chunk: int = 512,
    per_slot: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weigh, for every pixel, all positions of all slots; keys and values may have a size of their own.

    Args:
        chunk: Pixels whose weights exist at a time; 0: all. The result does not depend on it.
        per_slot: Search each slot by itself, then weigh what was found in the slots by their keys at the pixel
            itself, as ``read_neighbourhood`` does; q and k must have one size then.

    Returns:
        (o, weights (b, m, h, w)): how much of a pixel's weight lies in each slot.
    """
    _check_read(q, k, v, mask)
    shape, q = q.shape, _scaled(q, scale)
    found, total = attend(
        q.flatten(2).transpose(1, 2), k.flatten(3).transpose(2, 3), v.flatten(3).transpose(2, 3), chunk=chunk
    )
    logits = torch.einsum("bdhw,bmdhw->bmhw", q, k.to(q.dtype)).flatten(2) if per_slot else total
    weights = _masked(logits, mask).softmax(1)  # (b, m, h * w)
    out = torch.einsum("bmn,bmnd->bdn", weights.to(found.dtype), found)
    return out.unflatten(2, shape[2:]), weights.unflatten(2, shape[2:])


def attend(q: Tensor, k: Tensor, v: Tensor, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Read each slot by itself: q (b, n, d), k (b, m, l, d), v (b, m, l, dv) -> (b, m, n, dv) and the logarithm of
    the sum of the exponentials of its logits (b, m, n), whose softmax over slots joins them to one search of all.
    """
    found, totals = [], []
    for part in q.split(chunk or q.shape[1], 1):
        logits = torch.einsum("bnd,bmld->bmnl", part, k.to(q.dtype))
        found.append(logits.softmax(-1).to(v.dtype) @ v)
        totals.append(logits.logsumexp(-1))
    return torch.cat(found, 2), torch.cat(totals, 2)


def check_crop(crop: int) -> None:
    """Raise ValueError unless ``crop`` is the side of a neighbourhood around a pixel: 0 or odd."""
    if crop < 0 or (crop and crop % 2 == 0):
        near = f"Use {crop - 1} or {crop + 1}." if crop > 0 else "0 reads the pixel itself."
        raise ValueError(
            f"crop: expected 0 or an odd number, the side of a square around each pixel, got {crop}. {near}"
        )


def _taps(crop: int, height: int, width: int) -> list[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """The positions around a pixel that lie inside for some pixel: (number, the pixels, what lies there for them)."""
    radius, taps = crop // 2, []
    for number in range(max(crop, 1) ** 2):
        dy, dx = number // max(crop, 1) - radius, number % max(crop, 1) - radius
        if abs(dy) < height and abs(dx) < width:
            here = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
            there = slice(max(dy, 0), height - max(-dy, 0)), slice(max(dx, 0), width - max(-dx, 0))
            taps.append((number, here, there))
    return taps


def _shifted_products(q: Tensor, k: Tensor, crop: int) -> Tensor:
    """Dot products (b, m, crop^2, h, w) of the query with the keys around it; -inf outside."""
    logits = q.new_full((*k.shape[:2], max(crop, 1) ** 2, *q.shape[2:]), -math.inf)
    for number, (y, x), (v, u) in _taps(crop, *q.shape[2:]):
        for slot in range(k.shape[1]):
            logits[:, slot, number, y, x] = (q[..., y, x] * k[:, slot, :, v, u]).sum(1)
    return logits


def _shifted_sums(weights: Tensor, values: Tensor, crop: int) -> Tensor:
    """The sum (b, dv, h, w) of the values around each pixel, weighed by (b, m, crop^2, h, w)."""
    out = torch.zeros_like(values[:, 0])
    for number, (y, x), (v, u) in _taps(crop, *weights.shape[3:]):
        for slot in range(values.shape[1]):
            out[..., y, x] += weights[:, slot, number, None, y, x] * values[:, slot, :, v, u]
    return out


def _scaled(q: Tensor, scale: float | Tensor | None) -> Tensor:
    """The query times the scale of the logits, in float32 at least."""
    q = q.to(torch.promote_types(q.dtype, torch.float32))
    return q * (1 / math.sqrt(q.shape[1]) if scale is None else scale)


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits (b, m, ...) with -inf in the slots that hold nothing."""
    if mask is None:
        return logits
    return logits.masked_fill(~mask.view(*mask.shape, *[1] * (logits.dim() - 2)), -math.inf)


def _check_read(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError unless the shapes are those of a read."""
    if q.dim() != 4 or k.dim() != 5 or v.dim() != 5:
        raise ValueError(
            f"q, k, v: expected (b, d, h, w) and twice (b, m, d, h, w), got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}."
        )
    if k.shape[:2] != v.shape[:2] or q.shape[0] != k.shape[0] or q.shape[1] != k.shape[2] or k.shape[1] == 0:
        raise ValueError(
            f"q, k, v: expected one batch, one or more slots and one width of query and keys, got {tuple(q.shape)}, "
            f"{tuple(k.shape)}, {tuple(v.shape)}."
        )
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"mask: expected bool (b, m) = {tuple(k.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}.")
