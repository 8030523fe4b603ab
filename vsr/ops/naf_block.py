"""NAFNet's block for float32 on the CPU: the two halves of it as ops, with a backward pass that keeps little.

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


def mix(x: Tensor, norm: Norm, wide: Pair, depthwise: Pair) -> Tensor:
    """The first half up to its gate: norm, 1x1 convolution, 3x3 depthwise convolution, product of both halves.

    Args:
        x: (b, c, h, w).
        norm: Of c channels.
        wide: (2c, c, 1, 1) and (2c,).
        depthwise: (2c, 1, 3, 3) and (2c,).

    Returns:
        (b, c, h, w).
    """
    out: Tensor = mix_op(x, *norm, *wide, *depthwise, torch.is_grad_enabled())[0]
    return out


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


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return first * second


def _gate_gradient(grad: Tensor, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat((grad * second, grad * first), 1)


def _kept(between: Tensor, keep: bool) -> Tensor:
    return between if keep else between.new_empty(0)


@torch.library.custom_op("vsr::naf_mix", mutates_args=(), schema=f"({MIX}, bool keep) -> (Tensor, Tensor)")
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
) -> tuple[Tensor, Tensor]:
    """``mix``, and with ``keep``, for the backward pass, the 2c channels before the depthwise convolution."""
    between = F.conv2d(_norm(x, norm_weight, norm_bias, eps), weight, bias)
    wide = F.conv2d(between, kernel, offset, padding=1, groups=len(kernel))
    return _gate(wide).contiguous(), _kept(between, keep)


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


@torch.library.custom_op(
    "vsr::naf_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor bias, float eps, Tensor? added) -> (Tensor, Tensor, Tensor)",
)
def norm_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of x plus ``added``, the norm's output, and the gradients of weight and bias, (2, c)."""
    centred = x - x.mean(1, keepdim=True)
    root = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
    normal, factor = centred * root, weight.view(-1, 1, 1)
    steep = grad * factor
    grad_x = root * (steep - steep.mean(1, keepdim=True) - normal * (steep * normal).mean(1, keepdim=True))
    sums = torch.stack(((grad * normal).sum((0, 2, 3)), grad.sum((0, 2, 3))))
    return grad_x if added is None else grad_x + added, normal * factor + bias.view(-1, 1, 1), sums


@torch.library.custom_op(
    "vsr::naf_gate_backward", mutates_args=(), schema="(Tensor grad, Tensor between) -> (Tensor, Tensor, Tensor)"
)
def gate_backward_op(grad: Tensor, between: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gate's output, the gradient of its input, and the sums of that over samples and pixels."""
    grad_between = _gate_gradient(grad, between)
    return _gate(between), grad_between, grad_between.sum((0, 2, 3))


@torch.library.custom_op(
    "vsr::naf_mix_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor between, Tensor kernel, Tensor offset) -> (Tensor, Tensor, Tensor, Tensor)",
)
def mix_backward_op(
    grad: Tensor, between: Tensor, kernel: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of between, kernel and offset, and the sums of the first over samples and pixels."""
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
    return grad_between, grad_kernel, grad_offset, grad_between.sum((0, 2, 3))


@mix_op.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    b, c, h, w = x.shape
    return x.new_empty(b, c, h, w), x.new_empty(b, 2 * c, h, w) if arguments[-1] else x.new_empty(0)


@feed_op.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    kept = (x.new_empty(b, c, h, w), x.new_empty(b, 2 * c, h, w)) if arguments[-1] else (x.new_empty(0), x.new_empty(0))
    return x.new_empty(b, c, h, w), *kept


@norm_backward_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(2, len(weight))


@gate_backward_op.register_fake
def _(grad: Tensor, between: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(between.shape), grad.new_empty(between.shape[1])


@mix_backward_op.register_fake
def _(grad: Tensor, between: Tensor, kernel: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = grad.new_empty(len(kernel))
    return grad.new_empty(between.shape), kernel.new_empty(kernel.shape), sums, sums.clone()


def _through(weight: Tensor, grad: Tensor) -> Tensor:
    """Take the gradient of a 1x1 convolution's output (b, o, h, w) back through its weights (o, i)."""
    # bmm: matmul would fold the samples in, and copy
    return torch.bmm(weight.t().expand(len(grad), -1, -1), grad.flatten(2)).view(len(grad), -1, *grad.shape[2:])


def _total(samples: Tensor) -> Tensor:
    """Add up (b, ...) over samples; of one there is nothing to copy."""
    return samples[0] if len(samples) == 1 else samples.sum(0)


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient (b, o, i) of a 1x1 convolution's weights, sample by sample."""
    return torch.bmm(grad.flatten(2), x.flatten(2).mT)


def _mix_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, norm_weight, norm_bias, ctx.eps, weight, _, kernel, offset, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, norm_weight, norm_bias, weight, kernel, offset, output[1])


def _mix_gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    x, norm_weight, norm_bias, weight, kernel, offset, between = ctx.saved_tensors
    grad_between, grad_kernel, grad_offset, grad_bias = mix_backward_op(grad, between, kernel, offset)
    grad_normal = _through(weight.flatten(1), grad_between)
    grad_x, normal, norms = norm_backward_op(grad_normal, x, norm_weight, norm_bias, ctx.eps, None)
    grad_weight = _total(_outer(grad_between, normal)).view(weight.shape)
    return grad_x, norms[0], norms[1], None, grad_weight, grad_bias, grad_kernel, grad_offset, None


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
    mixed, scale, narrow, narrow_bias, beta, norm_weight, norm_bias, wide, last, last_bias, gamma, total, between = (
        ctx.saved_tensors
    )
    grad = grad.contiguous()
    # The second half. A residual's factor is taken into the weights: no pass over the image for it.
    last_matrix, gammas = last.flatten(1), gamma.view(-1, 1)
    product, grad_between, grad_wide_bias = gate_backward_op(_through(gammas * last_matrix, grad), between)
    outer, grads = _total(_outer(grad, product)), grad.sum((0, 2, 3))
    grad_last, grad_last_bias = (gammas * outer).view(last.shape), gamma.flatten() * grads
    grad_gamma = ((outer * last_matrix).sum(1) + last_bias * grads).view(gamma.shape)
    grad_total, normal, norms = norm_backward_op(
        _through(wide.flatten(1), grad_between), total, norm_weight, norm_bias, ctx.eps, grad
    )
    grad_wide = _total(_outer(grad_between, normal)).view(wide.shape)
    # The first: a convolution of mixed * scale.
    narrow_matrix, betas = narrow.flatten(1), beta.view(-1, 1)
    grad_scaled = _through(betas * narrow_matrix, grad_total)
    outers, grads = _outer(grad_total, mixed), grad_total.sum((0, 2, 3))
    outer = _total(outers if scale is None else outers * scale.view(len(mixed), 1, -1))
    grad_narrow, grad_narrow_bias = (betas * outer).view(narrow.shape), beta.flatten() * grads
    grad_beta = ((outer * narrow_matrix).sum(1) + narrow_bias * grads).view(beta.shape)
    grad_scale = None
    if scale is not None:
        # of each channel: sum over pixels of grad_scaled * mixed, which the products above hold already
        grad_scale = (outers * (betas * narrow_matrix)).sum(1).view(scale.shape)
        grad_scaled.mul_(scale)
    firsts = (grad_total, grad_scaled, grad_scale, grad_narrow, grad_narrow_bias, grad_beta, norms[0], norms[1], None)
    return *firsts, grad_wide, grad_wide_bias, grad_last, grad_last_bias, grad_gamma, None


mix_op.register_autograd(_mix_gradients, setup_context=_mix_context)
feed_op.register_autograd(_feed_gradients, setup_context=_feed_context)
