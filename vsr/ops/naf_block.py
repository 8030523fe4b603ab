"""NAFNet's block for float32 on the CPU: the two halves of it as ops, with a backward pass that keeps little; and the
way up to the next level.

Shapes: b batch, c channels, h w image; between norm and gate there are 2c channels.

The Python bodies are the definition; a compiled library registers kernels that take an image through a whole half
while it stays in the cache, which is what they are for. ``usable`` says where that pays.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.ops import library

MIX = (
    "Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor weight, Tensor bias, Tensor kernel,"
    " Tensor offset"
)
FEED = (
    "Tensor x, Tensor mixed, Tensor? scale, Tensor narrow_weight, Tensor narrow_bias, Tensor beta, Tensor norm_weight,"
    " Tensor norm_bias, float eps, Tensor wide_weight, Tensor wide_bias, Tensor last_weight, Tensor last_bias,"
    " Tensor gamma"
)
Pair = tuple[Tensor, Tensor]  # weight and bias of a convolution
Norm = tuple[Tensor, Tensor, float]  # weight, bias and eps of a layer norm over channels


def usable(x: Tensor) -> bool:
    """Whether compiled kernels serve ``mix`` and ``feed`` for this image; otherwise plain layers are the better way."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and _have_kernels()
    )


@functools.cache  # asked for each block of a network
def _have_kernels() -> bool:
    return library.load("cpu", "naf_mix")


def mix(x: Tensor, norm: Norm, wide: Pair, depthwise: Pair) -> tuple[Tensor, Tensor]:
    """The first half up to its gate: norm, 1x1 convolution, 3x3 depthwise convolution, product of both halves.

    Args:
        x: (b, c, h, w).
        norm: Of c channels.
        wide: (2c, c, 1, 1) and (2c,).
        depthwise: (2c, 1, 3, 3) and (2c,).

    Returns:
        (b, c, h, w), and its channels' means, (b, c, 1, 1), which channel attention asks for.
    """
    out, means, _ = mix_op(x, *norm, *wide, *depthwise, torch.is_grad_enabled())
    return out, means


def feed(
    x: Tensor,
    mixed: Tensor,
    scale: Tensor | None,
    *,
    narrow: Pair,
    beta: Tensor,
    norm: Norm,
    wide: Pair,
    last: Pair,
    gamma: Tensor,
) -> Tensor:
    """What follows the channel attention: the first residual, and the second half of the block with its own.

    Args:
        x: (b, c, h, w), the block's input.
        mixed: (b, c, h, w), from ``mix``.
        scale: (b, c, 1, 1), what its channels are multiplied by; None: nothing.
        narrow: A 1x1 convolution, (c, c, 1, 1) and (c,).
        beta: (1, c, 1, 1), the factor of the first residual.
        norm: Of c channels.
        wide: The 1x1 convolution before the gate, (2c, c, 1, 1) and (2c,).
        last: The one after it, (c, c, 1, 1) and (c,).
        gamma: (1, c, 1, 1), the factor of the second residual.

    Returns:
        (b, c, h, w).
    """
    keep = torch.is_grad_enabled()
    out: Tensor = feed_op(x, mixed, scale, *narrow, beta, *norm, *wide, *last, gamma, keep)[0]
    return out


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2).contiguous()


def up(x: Tensor, weight: Tensor, skip: Tensor) -> Tensor:
    """What leads up to the next level: a 1x1 convolution, its channels shuffled to pixels, and the skip.

    Args:
        x: (b, c, h, w).
        weight: (4k, c, 1, 1).
        skip: (b, k, 2h, 2w).

    Returns:
        (b, k, 2h, 2w).
    """
    out: Tensor = up_op(x, weight, skip)
    return out


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return first * second


def _gate_gradient(grad: Tensor, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat((grad * second, grad * first), 1)


def _through(weight: Tensor, grad: Tensor) -> Tensor:
    """Take the gradient of a 1x1 convolution's output back through its weights."""
    return F.conv2d(grad, weight.transpose(0, 1))


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient (o, i, 1, 1) of a 1x1 convolution's weights, from that of its output and its input."""
    return torch.bmm(grad.flatten(2), x.flatten(2).mT).sum(0)[..., None, None]


def _sums(grad: Tensor) -> Tensor:
    return grad.sum((0, 2, 3))


def _scaled(outer: Tensor, sums: Tensor, weight: Tensor, bias: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, bias and factor, where a 1x1 convolution's output is multiplied by (1, o, 1, 1)."""
    grad_factor = (outer * weight).sum((1, 2, 3)) + sums * bias
    return outer * factor.view(-1, 1, 1, 1), sums * factor.flatten(), grad_factor.view(factor.shape)


def _norm_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and of weight and bias, (2, c); and the norm's output."""
    centred = x - x.mean(1, keepdim=True)
    root = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
    normal, factor = centred * root, weight.view(-1, 1, 1)
    steep = grad * factor
    grad_x = root * (steep - steep.mean(1, keepdim=True) - normal * (steep * normal).mean(1, keepdim=True))
    return grad_x, torch.stack((_sums(grad * normal), _sums(grad))), normal * factor + bias.view(-1, 1, 1)


def _kept(between: Tensor, keep: bool) -> Tensor:
    return between if keep else between.new_empty(0)


@torch.library.custom_op("vsr::naf_mix", mutates_args=(), schema=f"({MIX}, bool keep) -> (Tensor, Tensor, Tensor)")
def mix_op(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    kernel: Tensor,
    offset: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mix``, and with ``keep``, for the backward pass, the 2c channels before the depthwise convolution."""
    between = F.conv2d(_norm(x, norm_weight, norm_bias, eps), weight, bias)
    wide = F.conv2d(between, kernel, offset, padding=1, groups=len(kernel))
    out = _gate(wide).contiguous()
    return out, out.mean((2, 3), keepdim=True), _kept(between, keep)


@torch.library.custom_op("vsr::naf_feed", mutates_args=(), schema=f"({FEED}, bool keep) -> (Tensor, Tensor, Tensor)")
def feed_op(
    x: Tensor,
    mixed: Tensor,
    scale: Tensor | None,
    narrow_weight: Tensor,
    narrow_bias: Tensor,
    beta: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    wide_weight: Tensor,
    wide_bias: Tensor,
    last_weight: Tensor,
    last_bias: Tensor,
    gamma: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``feed``, and with ``keep`` the sum after the first residual and the 2c channels before the gate."""
    branch = F.conv2d(mixed if scale is None else mixed * scale, narrow_weight, narrow_bias)
    total = (x + branch * beta).contiguous()
    between = F.conv2d(_norm(total, norm_weight, norm_bias, eps), wide_weight, wide_bias)
    out = total + F.conv2d(_gate(between), last_weight, last_bias) * gamma
    return out, _kept(total.clone(), keep), _kept(between, keep)


@torch.library.custom_op("vsr::naf_up", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor skip) -> Tensor")
def up_op(x: Tensor, weight: Tensor, skip: Tensor) -> Tensor:
    """``up``."""
    return F.pixel_shuffle(F.conv2d(x, weight), 2) + skip


@torch.library.custom_op(
    "vsr::naf_up_backward", mutates_args=(), schema="(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor)"
)
def up_backward_op(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    wide = F.pixel_unshuffle(grad, 2)
    return _through(weight, wide), _outer(wide, x)


@torch.library.custom_op(
    "vsr::naf_mix_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor? grad_means, Tensor x, Tensor between, Tensor norm_weight, Tensor norm_bias,"
    " float eps, Tensor weight, Tensor kernel, Tensor offset) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def mix_backward_op(
    grad: Tensor,
    grad_means: Tensor | None,
    x: Tensor,
    between: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    kernel: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the norm's weight and bias, (2, c), of weight, bias, kernel and offset."""
    if grad_means is not None:
        grad = grad + grad_means / (x.shape[2] * x.shape[3])
    wide = F.conv2d(between, kernel, offset, padding=1, groups=len(kernel))
    grad_between, grad_kernel, grad_offset = torch.ops.aten.convolution_backward(
        _gate_gradient(grad, wide),
        between,
        kernel,
        [len(kernel)],
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        len(kernel),
        [True] * 3,
    )
    grad_x, grad_norm, normal = _norm_gradient(_through(weight, grad_between), x, norm_weight, norm_bias, eps)
    return grad_x, grad_norm, _outer(grad_between, normal), _sums(grad_between), grad_kernel, grad_offset


@torch.library.custom_op(
    "vsr::naf_feed_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor mixed, Tensor? scale, Tensor narrow_weight, Tensor narrow_bias, Tensor beta,"
    " Tensor norm_weight, Tensor norm_bias, float eps, Tensor wide_weight, Tensor last_weight, Tensor last_bias,"
    " Tensor gamma, Tensor total, Tensor between) -> (" + ", ".join(["Tensor"] * 12) + ")",
)
def feed_backward_op(
    grad: Tensor,
    mixed: Tensor,
    scale: Tensor | None,
    narrow_weight: Tensor,
    narrow_bias: Tensor,
    beta: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    wide_weight: Tensor,
    last_weight: Tensor,
    last_bias: Tensor,
    gamma: Tensor,
    total: Tensor,
    between: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of x, mixed, scale (empty, if there is none), the weights in the order of ``feed``'s.

    Those of the norm's weight and bias are one tensor, (2, c).
    """
    # A residual's factor is taken into the matrix: no pass over the image for it.
    grad_between = _gate_gradient(_through(last_weight * gamma.view(-1, 1, 1, 1), grad), between)
    lasts = _scaled(_outer(grad, _gate(between)), _sums(grad), last_weight, last_bias, gamma)
    grad_normal = _through(wide_weight, grad_between)
    grad_norm_x, grad_norm, normal = _norm_gradient(grad_normal, total, norm_weight, norm_bias, eps)
    grad_total = grad + grad_norm_x
    wides = _outer(grad_between, normal), _sums(grad_between)
    grad_scaled = _through(narrow_weight * beta.view(-1, 1, 1, 1), grad_total)
    scaled = mixed if scale is None else mixed * scale
    narrows = _scaled(_outer(grad_total, scaled), _sums(grad_total), narrow_weight, narrow_bias, beta)
    if scale is None:
        return grad_total, grad_scaled, grad.new_empty(0), *narrows, grad_norm, *wides, *lasts
    grad_scale = (grad_scaled * mixed).sum((2, 3), keepdim=True)
    return grad_total, grad_scaled * scale, grad_scale, *narrows, grad_norm, *wides, *lasts


@mix_op.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    between = x.new_empty(b, 2 * c, h, w) if arguments[-1] else x.new_empty(0)
    return x.new_empty(b, c, h, w), x.new_empty(b, c, 1, 1), between


@feed_op.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    kept = (x.new_empty(b, c, h, w), x.new_empty(b, 2 * c, h, w)) if arguments[-1] else (x.new_empty(0), x.new_empty(0))
    return x.new_empty(b, c, h, w), *kept


@up_op.register_fake
def _(x: Tensor, weight: Tensor, skip: Tensor) -> Tensor:
    return x.new_empty(skip.shape)


@up_backward_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@mix_backward_op.register_fake
def _(grad: Tensor, grad_means: Tensor | None, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    weight, kernel, offset = arguments[-3:]
    c = x.shape[1]
    grad_x, grad_norm = x.new_empty(x.shape), x.new_empty(2, c)
    return grad_x, grad_norm, *(t.new_empty(t.shape) for t in (weight, offset, kernel, offset))


@feed_backward_op.register_fake
def _(grad: Tensor, mixed: Tensor, scale: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    narrow, narrow_bias, beta, norm, _, _, wide, last, last_bias, gamma, *_ = arguments
    grad_scale = grad.new_empty(0) if scale is None else scale.new_empty(scale.shape)
    images = grad.new_empty(grad.shape), grad.new_empty(grad.shape), grad_scale
    firsts = tuple(t.new_empty(t.shape) for t in (narrow, narrow_bias, beta))
    wides = norm.new_empty(2, len(norm)), wide.new_empty(wide.shape), wide.new_empty(len(wide))
    return *images, *firsts, *wides, *(t.new_empty(t.shape) for t in (last, last_bias, gamma))


def _mix_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, norm_weight, norm_bias, ctx.eps, weight, _, kernel, offset, _ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, norm_weight, norm_bias, weight, kernel, offset, output[2])


def _mix_gradients(
    ctx: Any, grad: Tensor | None, grad_means: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad is None and grad_means is None:
        return (None,) * 9
    x, norm_weight, norm_bias, weight, kernel, offset, between = ctx.saved_tensors
    grad = torch.zeros_like(x) if grad is None else grad
    gradients = mix_backward_op(grad, grad_means, x, between, norm_weight, norm_bias, ctx.eps, weight, kernel, offset)
    grad_x, grad_norm, *rest = gradients
    return grad_x, grad_norm[0], grad_norm[1], None, *rest, None


def _feed_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    mixed, scale, narrow, narrow_bias, beta, norm_weight, norm_bias, ctx.eps, wide, _, last, last_bias, gamma, _ = (
        inputs[1:]
    )
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    weights = (narrow, narrow_bias, beta, norm_weight, norm_bias, wide, last, last_bias, gamma)
    ctx.save_for_backward(mixed, scale, *weights, *output[1:])


def _feed_gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 15
    mixed, scale, narrow, narrow_bias, beta, norm_weight, norm_bias, *rest = ctx.saved_tensors
    gradients = feed_backward_op(grad, mixed, scale, narrow, narrow_bias, beta, norm_weight, norm_bias, ctx.eps, *rest)
    images, narrows, grad_norm, lasts = gradients[:2], gradients[3:6], gradients[6], gradients[7:]
    grad_scale = None if scale is None else gradients[2]
    return *images, grad_scale, *narrows, grad_norm[0], grad_norm[1], None, *lasts, None


def _up_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _up_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return *up_backward_op(grad, *ctx.saved_tensors), grad


mix_op.register_autograd(_mix_gradients, setup_context=_mix_context)
feed_op.register_autograd(_feed_gradients, setup_context=_feed_context)
up_op.register_autograd(_up_gradients, setup_context=_up_context)
