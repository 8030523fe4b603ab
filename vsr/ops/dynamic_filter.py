"""FMA-Net's dynamic filters, whose kernels are predicted for every pixel, and its warps (arXiv:2401.03707).

Shapes: b batch, c channels, t frames, h w size of the small image, k side of a kernel, s stride or scale. A clip is
(b, c, t, h, w).

A filter written with ``unfold`` holds k * k / (s * s) copies of its clip, several times over in the backward pass.
The ops here hold none: they go through the taps of the kernels and add up, for tiles of rows that stay in a cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.ops.warp import flow_warp

# Numbers of a kernel that are worked on at a time. On a CPU they are to stay in the cache; on a GPU every tile
# costs launches.
TILE = {"cpu": 2**21, "cuda": 2**24}
Index = tuple[slice | int, ...]


def down_filter(frames: Tensor, logits: Tensor, occlusion: Tensor, *, kernel_size: int, stride: int) -> Tensor:
    """Filter frames to one smaller image, each of its pixels by a kernel over space and time of its own.

    The frames are repeated at their borders by (k - s) / 2 pixels. out = sum(kernel * frames) / (sum(kernel *
    occlusion) + 1e-8), over t and windows of k x k pixels at every s-th pixel. It is computed in float32 at least.

    Args:
        frames: (b, c, t, s*h, s*w).
        logits: (b, k*k, t, h, w); their softmax over t and the window is the kernel, the same for all c.
        occlusion: (b, c or 1, t, s*h, s*w): how much of each pixel is to be trusted.
        kernel_size: k, as odd or even as s, and not less.
        stride: s.

    Returns:
        (b, c, h, w), of the frames' type.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    b, c, t = frames.shape[:3]
    sides = tuple(stride * side for side in logits.shape[3:])
    if kernel_size < stride or (kernel_size - stride) % 2:
        raise ValueError(f"kernel_size: expected the stride {stride}, or an even number more, got {kernel_size}.")
    if frames.dim() != 5 or logits.shape[:3] != (b, kernel_size**2, t) or frames.shape[3:] != sides:
        raise ValueError(
            f"logits: expected (b, {kernel_size**2}, t, h, w) for frames (b, c, t, {stride}*h, {stride}*w), "
            f"got {tuple(logits.shape)} for {tuple(frames.shape)}."
        )
    if occlusion.shape not in ((b, 1, t, *sides), (b, c, t, *sides)):
        raise ValueError(
            f"occlusion: expected the shape of frames {tuple(frames.shape)}, or one channel, "
            f"got {tuple(occlusion.shape)}."
        )
    stack = _padded(torch.cat((frames, occlusion.to(frames.dtype)), 1), (kernel_size - stride) // 2)
    filtered = down_filter_op(stack, logits, kernel_size, stride)[0]
    return (filtered[:, :c] / (filtered[:, c:] + 1e-8)).to(frames.dtype)


def up_filter(frames: Tensor, kernels: Tensor, *, kernel_size: int, scale: int, rows: slice | None = None) -> Tensor:
    """Filter frames to one larger image, each of its pixels by a kernel over space and time of its own.

    The kernel of a pixel is shifted to a sum of one: kernel - mean(kernel) + 1 / (t * k * k). The frames are repeated
    at their borders. It is computed in float32 at least.

    Args:
        frames: (b, c, t, h, w).
        kernels: (b, s*s*k*k, t, h, w), the same for all c; the channels are, from slow to fast, row and column of the
            pixel within its cell of s x s, and row and column of the window.
        kernel_size: k, odd.
        scale: s.
        rows: Those of the frames that the kernels are for, and that are enlarged; none: all, h.

    Returns:
        (b, c, s*h, s*w), of the frames' type.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}.")
    if frames.dim() != 5:
        raise ValueError(f"frames: expected (b, c, t, h, w), got {tuple(frames.shape)}.")
    b, _, t, h, w = frames.shape
    first, last = (0, h) if rows is None else (rows.start, rows.stop)
    expected = (b, (scale * kernel_size) ** 2, t, last - first, w)
    if kernels.shape != expected:
        raise ValueError(
            f"kernels: expected {expected} for {last - first} rows of frames {tuple(frames.shape)}, "
            f"got {tuple(kernels.shape)}."
        )
    padded = _padded(frames, kernel_size // 2)[:, :, :, first : last + kernel_size - 1]
    # who reads an exported graph has PyTorch's operators, or ONNX's, and none of vsr's
    filtered = _up_filtered if torch.compiler.is_exporting() else up_filter_op
    out = filtered(padded, kernels, kernel_size, scale)
    return F.pixel_shuffle(out.flatten(1, 2), scale).to(frames.dtype)


def image_warp(images: Tensor, flow: Tensor, scale: int = 1) -> tuple[Tensor, Tensor]:
    """Move frames by a flow that may be smaller than they are, and mask what it cannot see.

    The flow is enlarged in float32 at least, as half precision cannot name a place in a large image.

    Args:
        images: (b, c, t, s*h, s*w).
        flow: (b, 3, t, h, w): dx and dy in pixels of its own size, and the logit of a mask.
        scale: s.

    Returns:
        The mask where the flow points into the image, one channel that is seen as c, and the masked, moved frames;
        both of the images' shape and type.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    of_images = (*flow.shape[:1], *images.shape[1:2], *flow.shape[2:3], *(scale * side for side in flow.shape[3:]))
    if flow.dim() != 5 or flow.shape[1] != 3 or images.shape != of_images:
        raise ValueError(
            f"flow: expected (b, 3, t, h, w) for images (b, c, t, {scale}*h, {scale}*w), "
            f"got {tuple(flow.shape)} for {tuple(images.shape)}."
        )
    b, c, t, height, width = images.shape
    frames = images.transpose(1, 2).reshape(b * t, c, height, width)
    flow = flow.to(_precise(flow)).transpose(1, 2).reshape(b * t, 3, *flow.shape[3:])
    moves, mask = flow[:, :2], flow[:, 2:].sigmoid()
    if scale != 1:
        moves = F.interpolate(moves * scale, scale_factor=scale, mode="bilinear", align_corners=False)
        mask = F.interpolate(mask, scale_factor=scale, mode="bilinear", align_corners=False)
    both = flow_warp(torch.cat((torch.ones_like(frames[:, :1]), frames), 1), moves) * mask
    both = both.to(images.dtype).unflatten(0, (b, t)).transpose(1, 2)
    return both[:, :1].expand_as(images), both[:, 1:]


def multi_flow_warp(features: Tensor, flows: Tensor) -> Tensor:
    """Move each group of channels by a flow of its own, and weigh it by that flow's mask.

    Args:
        features: (b, c, h, w), or (b, c, t, h, w).
        flows: (b, 3*g, h, w), or (b, 3*g, t, h, w): for each of g groups of c/g channels dx and dy in pixels, and the
            logit of a mask.

    Returns:
        The moved features, of their shape.

    Raises:
        ValueError: the flows are not those of whole groups, or have another size than the features.
    """
    groups, rest = divmod(flows.shape[1], 3)
    fit = features.shape[:1] + features.shape[2:] == flows.shape[:1] + flows.shape[2:]
    if rest or groups == 0 or features.shape[1] % groups or not fit:
        raise ValueError(
            f"flows: expected (b, 3*g, h, w) with g a divisor of the {features.shape[1]} channels of features "
            f"{tuple(features.shape)}, got {tuple(flows.shape)}."
        )
    if features.dim() == 5:
        moved = multi_flow_warp(*(clip.transpose(1, 2).flatten(0, 1) for clip in (features, flows)))
        return moved.unflatten(0, (len(features), -1)).transpose(1, 2)
    pairs = flows.reshape(-1, 3, *flows.shape[2:])
    grouped = features.reshape(-1, features.shape[1] // groups, *features.shape[2:])
    return (flow_warp(grouped, pairs[:, :2]) * pairs[:, 2:].sigmoid()).reshape(features.shape)


def _padded(clip: Tensor, pad: int) -> Tensor:
    return F.pad(clip, (pad, pad, pad, pad, 0, 0), mode="replicate") if pad else clip


def _tiles(kernels: Tensor) -> Iterator[slice]:
    """The rows of kernels (b, ..., h, w), so many at a time that a tile holds about TILE numbers."""
    h = kernels.shape[-2]
    size = TILE["cpu" if kernels.device.type == "cpu" else "cuda"]
    rows = max(1, size * h // max(kernels.numel(), 1))
    for first in range(0, h, rows):
        yield slice(first, min(first + rows, h))


def _precise(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


class _Phases:
    """The pixels of a padded clip by their row and column modulo s, so that what a tap reads lies side by side.

    Args:
        clip: (b, c, t, height, width), the windows' pixels and no others.
        stride: s.
        size: h, w: how many windows there are.
    """

    def __init__(self, clip: Tensor, stride: int, size: tuple[int, int], dtype: torch.dtype) -> None:
        self.stride, self.size, self.sides = stride, size, clip.shape[3:]
        clip = F.pad(clip.to(dtype), (0, -clip.shape[4] % stride, 0, -clip.shape[3] % stride))
        clip = clip.unflatten(4, (-1, stride)).unflatten(3, (-1, stride))
        self.values = clip.permute(0, 1, 2, 4, 6, 3, 5).contiguous()  # (b, c, t, s, s, height / s, width / s)

    def index(self, row: int, column: int, rows: slice) -> Index:
        """Where the windows of some rows have their tap (row, column): (b, c, t, rows, w) of ``values``."""
        (down, y), (right, x) = divmod(row, self.stride), divmod(column, self.stride)
        every = slice(None)
        return every, every, every, y, x, slice(rows.start + down, rows.stop + down), slice(right, right + self.size[1])

    def together(self, values: Tensor) -> Tensor:
        """Return values of the shape of ``self.values`` as a clip again."""
        clip = values.permute(0, 1, 2, 5, 3, 6, 4).flatten(5, 6).flatten(3, 4)
        return clip[..., : self.sides[0], : self.sides[1]].contiguous()


@torch.library.custom_op(
    "vsr::down_filter",
    mutates_args=(),
    schema="(Tensor stack, Tensor logits, int kernel_size, int stride) -> (Tensor, Tensor)",
)
def down_filter_op(stack: Tensor, logits: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Filter a padded clip (b, c, t, s*h + k - s, s*w + k - s); return that and the kernels' log-sum-exp (b, h, w)."""
    (b, c, t), (h, w) = stack.shape[:3], logits.shape[3:]
    dtype = _precise(stack, logits)
    phases = _Phases(stack, stride, (h, w), dtype)
    out, log_sum = (torch.empty(shape, dtype=dtype, device=stack.device) for shape in ((b, c, h, w), (b, h, w)))
    for rows in _tiles(logits):
        tile = logits[:, :, :, rows].to(dtype)
        largest = tile.amax((1, 2))
        weights = (tile - largest[:, None, None]).exp_()
        total = weights.sum((1, 2))
        summed = weights.new_zeros(b, c, t, *total.shape[1:])
        for tap in range(kernel_size**2):
            read = phases.values[phases.index(*divmod(tap, kernel_size), rows)]
            summed.addcmul_(read, weights[:, None, tap])
        out[:, :, rows] = summed.sum(2) / total[:, None]
        log_sum[:, rows] = largest + total.log()
    return out, log_sum


@torch.library.custom_op(
    "vsr::down_filter_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor stack, Tensor logits, Tensor log_sum, int kernel_size, int stride)"
    " -> (Tensor, Tensor)",
)
def down_filter_backward_op(
    grad: Tensor, stack: Tensor, logits: Tensor, log_sum: Tensor, kernel_size: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the stack and the logits for a gradient (b, c, h, w)."""
    dtype = _precise(stack, logits)
    phases = _Phases(stack, stride, (logits.shape[3], logits.shape[4]), dtype)
    grad, grad_values = grad.to(dtype)[:, :, None], torch.zeros_like(phases.values)
    grad_logits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    for rows in _tiles(logits):
        weights = (logits[:, :, :, rows].to(dtype) - log_sum[:, None, None, rows]).exp_()
        grad_rows, grad_weights = grad[:, :, :, rows], torch.empty_like(weights)
        for tap in range(kernel_size**2):
            index = phases.index(*divmod(tap, kernel_size), rows)
            grad_values[index].addcmul_(grad_rows, weights[:, None, tap])
            grad_weights[:, tap] = (phases.values[index] * grad_rows).sum(1)
        mean = (weights * grad_weights).sum((1, 2), keepdim=True)  # the softmax, backwards
        grad_logits[:, :, :, rows] = grad_weights.sub_(mean).mul_(weights)
    return phases.together(grad_values).to(stack.dtype), grad_logits


@torch.library.custom_op(
    "vsr::up_filter", mutates_args=(), schema="(Tensor padded, Tensor kernels, int kernel_size, int scale) -> Tensor"
)
def up_filter_op(padded: Tensor, kernels: Tensor, kernel_size: int, scale: int) -> Tensor:
    """Filter a padded clip (b, c, t, h + k - 1, w + k - 1) to the pixels of each cell, (b, c, s*s, h, w)."""
    (b, c), (h, w) = padded.shape[:2], kernels.shape[3:]
    out = torch.empty((b, c, scale**2, h, w), dtype=_precise(padded, kernels), device=padded.device)
    for rows in _tiles(kernels):
        seen = padded[:, :, :, rows.start : rows.stop + kernel_size - 1]
        out[:, :, :, rows] = _up_filtered(seen, kernels[..., rows, :], kernel_size, scale)
    return out


def _up_filtered(padded: Tensor, kernels: Tensor, kernel_size: int, scale: int) -> Tensor:
    """``up_filter_op`` of a tile."""
    t, h, w = kernels.shape[2:]
    dtype, taps = _precise(padded, kernels), kernel_size**2
    padded, kernels = padded.to(dtype), kernels.to(dtype).unflatten(1, (scale**2, taps))
    shift = 1 / (taps * t) - kernels.mean((2, 3))  # (b, s*s, h, w): added to each tap, it makes the sum one
    box = padded.new_zeros(*padded.shape[:2], 1, h, w)
    summed = box.expand(-1, -1, scale**2, -1, -1).clone()
    for frame, tap in _frames_and_taps(t, taps):
        read = padded[_window(frame, tap, kernel_size, slice(0, h), w)].unsqueeze(2)
        summed.addcmul_(read, kernels[:, None, :, tap, frame])
        box += read
    return summed.addcmul_(box, shift[:, None])


@torch.library.custom_op(
    "vsr::up_filter_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor padded, Tensor kernels, int kernel_size, int scale) -> (Tensor, Tensor)",
)
def up_filter_backward_op(
    grad: Tensor, padded: Tensor, kernels: Tensor, kernel_size: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the padded clip and the kernels for a gradient (b, c, s*s, h, w)."""
    t, _, w = kernels.shape[2:]
    dtype, taps = _precise(padded, kernels), kernel_size**2
    values, grad, kernels_of = padded.to(dtype), grad.to(dtype), kernels.unflatten(1, (scale**2, taps))
    grad_values = values.new_zeros(values.shape)  # contiguous whatever the clip is, as the fake says
    grad_kernels = torch.empty(kernels_of.shape, dtype=kernels.dtype, device=kernels.device)
    for rows in _tiles(kernels):
        tile, grad_rows = kernels_of[:, :, :, :, rows].to(dtype), grad[:, :, :, rows]
        tile = tile + (1 / (taps * t) - tile.mean((2, 3), keepdim=True))
        grad_tile = torch.empty_like(tile)
        for frame, tap in _frames_and_taps(t, taps):
            index = _window(frame, tap, kernel_size, rows, w)
            grad_values[index] += (grad_rows * tile[:, None, :, tap, frame]).sum(2)
            grad_tile[:, :, tap, frame] = (grad_rows * values[index].unsqueeze(2)).sum(1)
        grad_kernels[:, :, :, :, rows] = grad_tile - grad_tile.mean((2, 3), keepdim=True)
    return grad_values.to(padded.dtype), grad_kernels.flatten(1, 2)


def _frames_and_taps(frames: int, taps: int) -> Iterator[tuple[int, int]]:
    return ((frame, tap) for frame in range(frames) for tap in range(taps))


def _window(frame: int, tap: int, kernel_size: int, rows: slice, width: int) -> Index:
    """Where a padded clip has what the windows of some rows see with one of their taps."""
    down, right = divmod(tap, kernel_size)
    return slice(None), slice(None), frame, slice(rows.start + down, rows.stop + down), slice(right, right + width)


@down_filter_op.register_fake
def _(stack: Tensor, logits: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    b, c, h, w = *stack.shape[:2], *logits.shape[3:]
    out = torch.empty((b, c, h, w), dtype=_precise(stack, logits), device=stack.device)
    return out, out.new_empty(b, h, w)


@up_filter_op.register_fake
def _(padded: Tensor, kernels: Tensor, kernel_size: int, scale: int) -> Tensor:
    shape = (*padded.shape[:2], scale**2, *kernels.shape[3:])
    return torch.empty(shape, dtype=_precise(padded, kernels), device=padded.device)


@down_filter_backward_op.register_fake
@up_filter_backward_op.register_fake
def _(grad: Tensor, clip: Tensor, kernels: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return clip.new_empty(clip.shape), kernels.new_empty(kernels.shape)


def _setup_down(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    stack, logits, *ctx.settings = inputs
    ctx.save_for_backward(stack, logits, output[1])


def _down_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *down_filter_backward_op(grad, *ctx.saved_tensors, *ctx.settings), None, None


def _setup_up(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    padded, kernels, *ctx.settings = inputs
    ctx.save_for_backward(padded, kernels)


def _up_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *up_filter_backward_op(grad, *ctx.saved_tensors, *ctx.settings), None, None


down_filter_op.register_autograd(_down_backward, setup_context=_setup_down)
up_filter_op.register_autograd(_up_backward, setup_context=_setup_up)
