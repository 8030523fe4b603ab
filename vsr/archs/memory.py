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
softmax are float32 at least, whatever q, k and v are, but on GPUs with TensorFloat-32 the search of the whole space
rounds the factors of its products to that where train.tf32 allows it; o has the type of v.

No read unfolds what it compares. The neighbourhood is read by dot products of shifted slices, and takes one number for
each candidate of each pixel, its weight. The whole space is searched slot by slot for ``chunk`` pixels at a time, whose
weights alone are there; the backward pass computes them again.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def read_similarity(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weigh whole slots by how like the query they are: (o, weights (b, m)).

    Likeness is the mean over all pixels of the dot product. The sum would make the softmax the sharper the larger
    the images are. The sizes of q and k may differ from those of v, as long as they are alike.
    """
    _check_read(q, k, v, mask)
    if q.shape[2:] != k.shape[3:]:
        raise ValueError(f"q, k: expected images of one size, got {tuple(q.shape[2:])} and {tuple(k.shape[3:])}.")
    q = _scaled(q, scale)
    logits = torch.stack([(q * slot).sum((1, 2, 3)) for slot in k.unbind(1)], 1) / (q.shape[2] * q.shape[3])
    weights = _masked(logits, mask).softmax(1)
    out = torch.zeros((), dtype=weights.dtype, device=v.device)
    for i, slot in enumerate(v.unbind(1)):
        out = out + weights[:, i, None, None, None] * slot
    return out.to(v.dtype), weights


def read_neighbourhood(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    crop: int = 0,
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weigh, for every pixel, the crop x crop positions around it in all slots: (o, weights (b, m, crop^2, h, w)).

    Positions outside of the image are no candidates, and have weight 0. ``crop`` is odd; 0 is 1, the pixel itself.
    The positions are those of a square row by row, from the upper left.
    """
    _check_read(q, k, v, mask)
    check_crop(crop)
    if q.shape[2:] != k.shape[3:] or k.shape[3:] != v.shape[3:]:
        raise ValueError(
            f"q, k, v: expected images of one size, got {tuple(q.shape[2:])}, {tuple(k.shape[3:])}, "
            f"{tuple(v.shape[3:])}."
        )
    q = _scaled(q, scale)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        out, weights = _Neighbourhood.apply(q, k, v, max(crop, 1), mask)
    else:
        out, weights = _look_around(q, k, v, max(crop, 1), mask)
    return out.to(v.dtype), weights


def read_everywhere(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | Tensor | None = None,
    per_sentence: bool = False,
    chunk: int = 512,
    key_stride: int = 1,
) -> tuple[Tensor, Tensor]:
    """Weigh, for every pixel, all positions of all slots: (o, weights (b, m, h, w), how much of it lies in each slot).

    Args:
        per_sentence: Search each slot (a sentence) by itself, then weigh what was found in the slots by their keys at
            the pixel itself, as ``read_neighbourhood`` does; q and k have one size then.
        chunk: Pixels whose weights exist at a time; 0: all. The result does not depend on it.
        key_stride: Search every such position of each row and column only.
    """
    _check_read(q, k, v, mask)
    if chunk < 0 or key_stride < 1:
        raise ValueError(f"chunk, key_stride: expected numbers from 0 and from 1 up, got {chunk} and {key_stride}.")
    if k.shape[3:] != v.shape[3:] or (per_sentence and q.shape[2:] != k.shape[3:]):
        raise ValueError(
            f"q, k, v: expected keys and values of one size{', and the query, too' if per_sentence else ''}, got "
            f"{tuple(q.shape[2:])}, {tuple(k.shape[3:])}, {tuple(v.shape[3:])}."
        )
    size, q = q.shape[2:], _scaled(q, scale)
    every = (..., slice(None, None, key_stride), slice(None, None, key_stride))
    tensors = q.flatten(2), k[every].flatten(3), v[every].flatten(3)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        found, totals = _Search.apply(*tensors, chunk)
    else:
        found, totals = _search(*tensors, chunk)
    logits = torch.stack([(q * slot).sum(1).flatten(1) for slot in k.unbind(1)], 1) if per_sentence else totals
    # the softmax over the slots of the sums of exponentials in them is that over all positions
    weights = _masked(logits, mask).softmax(1)  # (b, m, h * w)
    out = (weights.unsqueeze(2) * found).sum(1)
    return out.unflatten(2, size).to(v.dtype), weights.unflatten(2, size)


def check_crop(crop: int) -> None:
    """Raise ValueError unless ``crop`` is the side of a neighbourhood around a pixel: 0 or odd."""
    if crop < 0 or (crop and crop % 2 == 0):
        near = f"Use {crop - 1} or {crop + 1}." if crop > 0 else "0 reads the pixel itself."
        raise ValueError(f"crop: expected 0 or an odd number, the side of a square around a pixel, got {crop}. {near}")


# ---- the neighbourhood


class _Neighbourhood(torch.autograd.Function):
    """``_look_around``, which keeps what it was given and the weights, and nothing of what it multiplies."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, crop: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        out, weights = _look_around(q, k, v, crop, mask)
        ctx.save_for_backward(q, k, v, weights)
        ctx.crop = crop
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = _products(grad_out, v, ctx.crop, 0.0).add_(grad_weights)
        grad = weights * (grad - (weights * grad).sum((1, 2), keepdim=True))  # of the softmax
        grad_q = _sums(grad, k, ctx.crop) if ctx.needs_input_grad[0] else None
        grad_k = _spread(grad, q, k, ctx.crop) if ctx.needs_input_grad[1] else None
        grad_v = _spread(weights, grad_out, v, ctx.crop) if ctx.needs_input_grad[2] else None
        return grad_q, grad_k, grad_v, None, None


def _look_around(q: Tensor, k: Tensor, v: Tensor, crop: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = _masked(_products(q, k, crop, -math.inf), mask)
    weights = logits.flatten(1, 2).softmax(1).view(logits.shape)
    return _sums(weights, v, crop), weights


def _taps(crop: int, height: int, width: int) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """Yield, of each position around a pixel, its number, the pixels for which it is inside, and where it is then."""
    for number in range(crop**2):
        dy, dx = number // crop - crop // 2, number % crop - crop // 2
        if abs(dy) < height and abs(dx) < width:
            here = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
            there = slice(max(dy, 0), height - max(-dy, 0)), slice(max(dx, 0), width - max(-dx, 0))
            yield number, here, there


def _products(q: Tensor, k: Tensor, crop: int, outside: float) -> Tensor:
    """Dot products (b, m, crop^2, h, w) of q (b, d, h, w) with what lies around its pixels in k (b, m, d, h, w)."""
    result = q.new_full((*k.shape[:2], crop**2, *q.shape[2:]), outside)
    for slot in range(k.shape[1]):
        keys = k[:, slot].to(q.dtype)
        for tap, (y, x), (v, u) in _taps(crop, *q.shape[2:]):
            result[:, slot, tap, y, x] = (q[..., y, x] * keys[..., v, u]).sum(1)
    return result


def _sums(weights: Tensor, values: Tensor, crop: int) -> Tensor:
    """The sum (b, d, h, w) of what is around each pixel in values (b, m, d, h, w), by weights (b, m, crop^2, h, w)."""
    out = torch.zeros_like(values[:, 0], dtype=weights.dtype, memory_format=torch.contiguous_format)
    for slot in range(values.shape[1]):
        value = values[:, slot].to(weights.dtype)
        for tap, (y, x), (v, u) in _taps(crop, *weights.shape[3:]):
            out[..., y, x].addcmul_(weights[:, slot, tap, None, y, x], value[..., v, u])
    return out


def _spread(weights: Tensor, x: Tensor, like: Tensor, crop: int) -> Tensor:
    """The transpose of ``_sums``: give x (b, d, h, w) to the positions around each pixel of all slots, as ``like``."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    for slot in range(like.shape[1]):
        total = torch.zeros_like(x, dtype=weights.dtype, memory_format=torch.contiguous_format)
        for tap, (y, u), (v, w) in _taps(crop, *weights.shape[3:]):
            total[..., v, w].addcmul_(weights[:, slot, tap, None, y, u], x[..., y, u])
        out[:, slot] = total
    return out


# ---- the whole space


class _Search(torch.autograd.Function):
    """``_search``, whose backward pass makes the weights anew from the sums that were kept (as FlashAttention does)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        found, totals = _search(q, k, v, chunk)
        ctx.save_for_backward(q, k, v, found, totals)
        ctx.chunk = chunk
        return found, totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_found: Tensor, grad_totals: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, found, totals = ctx.saved_tensors
        grad_q, grads_k, grads_v = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        rest = grad_totals - (grad_found * found).sum(2)  # (b, m, n): what every logit of a pixel's gets alike
        with _no_autocast(q):
            for slot in range(k.shape[1]):
                keys, values = k[:, slot].to(q.dtype), v[:, slot].to(q.dtype)
                grad_k, grad_v = torch.zeros_like(keys), torch.zeros_like(values)
                for part in _parts(q.shape[2], ctx.chunk):
                    some, grad = q[..., part], grad_found[:, slot, :, part]
                    weights = (some.mT @ keys).sub_(totals[:, slot, part, None]).exp_()  # (b, chunk, l)
                    grad_v.baddbmm_(grad, weights)
                    weights *= (grad.mT @ values).add_(rest[:, slot, part, None])
                    grad_q[..., part] += keys @ weights.mT
                    grad_k.baddbmm_(some, weights)
                grads_k[:, slot], grads_v[:, slot] = grad_k, grad_v
        return grad_q, grads_k, grads_v, None


def _search(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Search each slot by itself: q (b, d, n), k (b, m, d, l), v (b, m, dv, l) -> what was found (b, m, dv, n), and
    the logarithms of the sums of the exponentials of the logits (b, m, n).
    """
    (batch, slots, channels), pixels = v.shape[:3], q.shape[2]
    found, totals = q.new_empty((batch, slots, channels, pixels)), q.new_empty((batch, slots, pixels))
    with _no_autocast(q):
        for slot in range(slots):
            keys, values = k[:, slot].to(q.dtype), v[:, slot].to(q.dtype)
            for part in _parts(pixels, chunk):
                logits = q[..., part].mT @ keys  # (b, chunk, l)
                total = logits.logsumexp(2)
                found[:, slot, :, part] = values @ logits.sub_(total.unsqueeze(2)).exp_().mT
                totals[:, slot, part] = total
    return found, totals


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(i, i + (chunk or length)) for i in range(0, length, chunk or length or 1)]


# ---- all


def _no_autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Products stay in the type of their factors."""
    # the meta device, on which costs are counted, has no autocast
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


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
    shapes = f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
    if q.dim() != 4 or k.dim() != 5 or v.dim() != 5:
        raise ValueError(f"q, k, v: expected (b, d, h, w), (b, m, d, h, w) and (b, m, dv, h, w), got {shapes}.")
    if k.shape[:2] != v.shape[:2] or q.shape[:2] != k.shape[::2][:2] or k.shape[1] == 0:
        raise ValueError(
            f"q, k, v: expected one batch, one or more slots, and query and keys of one width, got {shapes}."
        )
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"mask: expected bool (b, m) = {tuple(k.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}.")
