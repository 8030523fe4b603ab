"""Modulated deformable convolution, DCNv2 (Zhu et al., CVPR 2019, arXiv:1811.11168).

Shapes: b batch, c and o input and output channels, h w input size, y x output size, g deformable
groups, k = kh * kw kernel taps in row-major order.

``definition`` and ``definition_backward`` are the definition, and run on any device. A compiled library
registers faster kernels under the names of the two ops, which the dispatcher then prefers; the
ops' Python bodies only load it. No call site asks which one runs. Two environment variables concern
the kernels: ``VSR_CPU_ISA=portable|avx2|avx512`` forces an instruction set, and ``VSR_CUDA_TF32=1`` lets
a GPU multiply float32 as TensorFloat-32.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.ops import library

# Columns that the definition holds at a time. On a CPU they are to stay in the cache (larger blocks
# take twice the time); on a GPU every block costs a launch.
BLOCK_BYTES = {"cpu": 2**24, "cuda": 2**29}
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ARGUMENTS = "int[] stride, int[] padding, int[] dilation, int groups, int deform_groups"


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Convolve with a kernel whose taps are shifted and weighted anew at every output pixel.

    Tap t of deformable group d reads the input at its regular place plus (dy, dx) =
    offset[:, 2 * (d * k + t) + (0, 1)], bilinearly; it is zero outside the open box
    (-1, h) x (-1, w). What it read is multiplied by mask[:, d * k + t]. Where a place is a whole
    number the derivative is that towards larger places.

    Args:
        x: (b, c, h, w).
        offset: (b, 2 * g * k, y, x), pixels of the input; of any floating type.
        mask: (b, g * k, y, x), as it is (after a sigmoid, if any); None means ones.
        weight: (o, c / groups, kh, kw), of x's type.
        bias: (o,) or None, of x's type.
        stride, padding, dilation: One number, or (vertical, horizontal).
        groups: Of the convolution, dividing c and o.
        deform_groups: g, dividing c; the channels of a group share their offsets and mask.

    Returns:
        (b, o, y, x) of x's type. Under autocast x, weight and bias take the autocast type; offset
        and mask are float32 then, because half precision cannot name a place in an image.

    Raises:
        ValueError: the shapes or types do not fit each other.
    """
    # the meta device, on which costs are counted, has no autocast
    if not x.is_meta and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        half = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(half), weight.to(half)
        bias = None if bias is None else bias.to(half)
        offset, mask = offset.float(), None if mask is None else mask.float()
    settings = _Settings(
        _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1), groups, deform_groups
    )
    _check(x, offset, mask, weight, bias, settings)
    return modulated_deform_conv2d_op(x, offset, mask, weight, bias, *settings)


class _Settings(NamedTuple):
    """What the op takes beside its tensors, in its order."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    deform_groups: int

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Return (y, x) for an input size (h, w) and a kernel size (kh, kw)."""
        y, x = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return y, x


def _pair(name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, int) and n >= least for n in pair):
        raise ValueError(f"{name}: expected one or two whole numbers from {least} up, got {value!r}.")
    return pair[0], pair[1]


def _check(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, settings: _Settings
) -> None:
    """Raise ValueError naming the first argument that does not fit the others."""
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions, got the shape {tuple(tensor.shape)}.")
        if 0 in tensor.shape[1:] or (tensor is weight and not len(weight)):
            raise ValueError(f"{name}: expected no empty side, got the shape {tuple(tensor.shape)}.")
    for name, given in (("x", x), ("offset", offset), ("mask", mask)):
        if given is not None and given.dtype not in TYPES:
            raise ValueError(f"{name}: expected float32, float64, bfloat16 or float16, got {given.dtype}.")
    b, c, h, w = x.shape
    o, _, kh, kw = weight.shape
    groups, deform_groups = settings.groups, settings.deform_groups
    if groups < 1 or c % groups or o % groups:
        raise ValueError(f"groups: expected a divisor of {c} input and {o} output channels, got {groups}.")
    if deform_groups < 1 or c % deform_groups:
        raise ValueError(f"deform_groups: expected a divisor of {c} input channels, got {deform_groups}.")
    size = settings.output_size((h, w), (kh, kw))
    if min(size) < 1:
        raise ValueError(f"x: expected at least one output pixel, got {size} from an input of {(h, w)}.")
    expected = {
        "offset": (offset, (b, 2 * deform_groups * kh * kw, *size)),
        "mask": (mask, (b, deform_groups * kh * kw, *size)),
        "weight": (weight, (o, c // groups, kh, kw)),
        "bias": (bias, (o,)),
    }
    for name, (given, shape) in expected.items():
        if given is not None and given.shape != shape:
            raise ValueError(f"{name}: expected the shape {tuple(shape)}, got {tuple(given.shape)}.")
        if given is not None and name in ("weight", "bias") and given.dtype != x.dtype:
            raise ValueError(f"{name}: expected {x.dtype}, the type of x, got {given.dtype}.")


def _blocks(batch: int, rows: int, row_bytes: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield (samples, output rows) that cover everything, with at most BLOCK_BYTES of columns each."""
    most_rows = max(1, BLOCK_BYTES.get(device.type, 2**29) // max(1, row_bytes))
    samples = max(1, most_rows // rows)
    most_rows = min(most_rows, rows)
    for first in range(0, batch, samples):
        for row in range(0, rows, most_rows):
            yield slice(first, min(first + samples, batch)), slice(row, min(row + most_rows, rows))


class _Sampler:
    """Reads the input where the taps of a block of outputs point.

    grid_sample takes places in [-1, 1]. Going there and back is exact for whole numbers if the
    sides are powers of two, so the image is padded with zeros to such a size: an offset of zero,
    which is where training starts, then reads one pixel and not a mixture of two.
    """

    def __init__(self, x: Tensor, kernel: Sequence[int], settings: _Settings) -> None:
        self.kernel, self.settings, self.size = kernel, settings, (x.shape[2], x.shape[3])
        self.side_y, self.side_x = (2 ** math.ceil(math.log2(n)) for n in self.size)
        dtype = torch.promote_types(x.dtype, torch.float32)
        padding = (0, self.side_x - self.size[1], 0, self.side_y - self.size[0])
        self.image = F.pad(x.to(dtype), padding).contiguous()  # (b, c, side_y, side_x)

    def _groups(self, samples: slice) -> Tensor:
        return self.image[samples].reshape(
            -1, self.image.shape[1] // self.settings.deform_groups, *self.image.shape[2:]
        )

    def grid(self, offset: Tensor, first_row: int) -> Tensor:
        """Map offsets (n, 2 * g * k, r, x) of r output rows to places (n * g, k, r * x, 2) in [-1, 1]."""
        (kh, kw), (h, w), taps = self.kernel, self.size, self.kernel[0] * self.kernel[1]
        rows, columns = offset.shape[2:]
        stride, padding, dilation = self.settings[:3]
        tap_y = (torch.arange(kh, device=offset.device) * dilation[0] - padding[0]).repeat_interleave(kw)
        tap_x = (torch.arange(kw, device=offset.device) * dilation[1] - padding[1]).repeat(kh)
        row = torch.arange(first_row, first_row + rows, device=offset.device) * stride[0]
        column = torch.arange(columns, device=offset.device) * stride[1]
        offset = offset.to(self.image.dtype).reshape(-1, taps, 2, rows, columns)
        y = offset[:, :, 0] + (tap_y.view(taps, 1, 1) + row.view(1, rows, 1))
        x = offset[:, :, 1] + (tap_x.view(taps, 1, 1) + column.view(1, 1, columns))
        inside = (y > -1) & (y < h) & (x > -1) & (x < w)
        grid = torch.stack(
            (x * (2 / self.side_x) + (1 / self.side_x - 1), y * (2 / self.side_y) + (1 / self.side_y - 1)), -1
        )
        # -3 lies outside at any size; the offset itself may be so large that it overflows an index
        return torch.where(inside.unsqueeze(-1), grid, -3.0).flatten(2, 3)

    def read(self, samples: slice, grid: Tensor) -> Tensor:
        """Return (n * g, c / g, k, r * x)."""
        return torch.ops.aten.grid_sampler_2d(self._groups(samples), grid, 0, 0, False)

    def backward(self, grad: Tensor, samples: slice, grid: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return the gradients of the image (n, c, h, w) and of the offsets (n, 2 * g * k, r, x)."""
        image, places = torch.ops.aten.grid_sampler_2d_backward(
            grad.contiguous(), self._groups(samples), grid, 0, 0, False, [True, True]
        )
        n = image.shape[0] // self.settings.deform_groups
        image = image.view(n, -1, self.side_y, self.side_x)[:, :, : self.size[0], : self.size[1]]
        offset = torch.stack((places[..., 1] * (2 / self.side_y), places[..., 0] * (2 / self.side_x)), 2)
        return image, offset.view(n, -1, rows, grid.shape[2] // rows)


def _modulate(sampled: Tensor, mask: Tensor | None, samples: slice, rows: slice) -> Tensor:
    if mask is None:
        return sampled
    return sampled * mask[samples, :, rows].to(sampled.dtype).reshape(len(sampled), 1, *sampled.shape[2:])


def _format(x: Tensor) -> torch.memory_format:
    """Return the memory format of what is computed from x: channels_last if x is so, and not contiguous too."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def definition(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Compute ``modulated_deform_conv2d`` after its checks, with pairs of numbers only."""
    settings = _Settings(stride, padding, dilation, groups, deform_groups)
    (b, c), (o, _, kh, kw) = x.shape[:2], weight.shape
    height, width = settings.output_size(x.shape[2:], (kh, kw))
    sampler = _Sampler(x, (kh, kw), settings)
    kernel = weight.reshape(groups, o // groups, -1)  # rows of c / groups * k
    out = torch.empty((b, o, height, width), dtype=x.dtype, device=x.device, memory_format=_format(x))
    with torch.autocast(x.device.type, enabled=False):
        row_bytes = c * kh * kw * width * sampler.image.element_size()
        for samples, rows in _blocks(b, height, row_bytes, x.device):
            grid = sampler.grid(offset[samples, :, rows], rows.start)
            columns = _modulate(sampler.read(samples, grid), mask, samples, rows).to(x.dtype)
            columns = columns.view(-1, groups, kernel.shape[2], grid.shape[2])
            out[samples, :, rows] = (kernel @ columns).view(-1, o, rows.stop - rows.start, width)
    return out if bias is None else out.add_(bias.view(-1, 1, 1))


def definition_backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deform_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, offset, mask (empty if there is none) and weight for a gradient (b, o, y, x).

    The columns are sampled again: keeping them would take k times the memory of the input.
    """
    settings = _Settings(stride, padding, dilation, groups, deform_groups)
    (b, c), (o, _, kh, kw), (height, width) = x.shape[:2], weight.shape, grad.shape[2:]
    sampler = _Sampler(x, (kh, kw), settings)
    dtype = sampler.image.dtype
    kernel = weight.reshape(groups, o // groups, -1)
    grad_x = torch.zeros(x.shape, dtype=dtype, device=x.device)
    grad_offset = torch.empty(offset.shape, dtype=offset.dtype, device=x.device)
    grad_mask = x.new_empty(0) if mask is None else torch.empty(mask.shape, dtype=mask.dtype, device=x.device)
    grad_kernel = torch.zeros(kernel.shape, dtype=dtype, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for samples, rows in _blocks(b, height, c * kh * kw * width * grad_x.element_size(), x.device):
            grid = sampler.grid(offset[samples, :, rows], rows.start)
            sampled = sampler.read(samples, grid)  # (n * g, c / g, k, r * x)
            columns = _modulate(sampled, mask, samples, rows).to(x.dtype)
            block = grad[samples, :, rows].reshape(-1, groups, o // groups, grid.shape[2])
            grad_kernel += (block @ columns.view(len(block), groups, -1, grid.shape[2]).mT).sum(0)
            grad_columns = (kernel.mT @ block).to(dtype).view(sampled.shape)
            n_rows = rows.stop - rows.start
            if mask is not None:
                grad_mask[samples, :, rows] = (grad_columns * sampled).sum(1).view(len(block), -1, n_rows, width)
            grad_image, grad_offset[samples, :, rows] = sampler.backward(
                _modulate(grad_columns, mask, samples, rows), samples, grid, n_rows
            )
            grad_x[samples] += grad_image
    grad_x = grad_x.to(x.dtype, memory_format=_format(x))
    return grad_x, grad_offset, grad_mask, grad_kernel.to(weight.dtype).view(weight.shape)


# The dispatcher calls these bodies only while no compiled kernel is registered for the device.
@torch.library.custom_op(
    "vsr::modulated_deform_conv2d",
    mutates_args=(),
    schema=f"(Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, {ARGUMENTS}) -> Tensor",
)
def modulated_deform_conv2d_op(x: Tensor, *arguments: Any) -> Tensor:
    if library.load(x.device.type, "modulated_deform_conv2d"):
        return torch.ops.vsr.modulated_deform_conv2d(x, *arguments)
    return definition(x, *arguments)


@torch.library.custom_op(
    "vsr::modulated_deform_conv2d_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor x, Tensor offset, Tensor? mask, Tensor weight, {ARGUMENTS})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def modulated_deform_conv2d_backward_op(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if library.load(grad.device.type, "modulated_deform_conv2d_backward"):
        return torch.ops.vsr.modulated_deform_conv2d_backward(grad, *arguments)
    return definition_backward(grad, *arguments)


@modulated_deform_conv2d_op.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    size = _Settings(*settings).output_size(x.shape[2:], weight.shape[2:])
    return torch.empty((x.shape[0], weight.shape[0], *size), dtype=x.dtype, device=x.device, memory_format=_format(x))


@modulated_deform_conv2d_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_mask = x.new_empty(0) if mask is None else mask.new_empty(mask.shape)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_format(x))
    return grad_x, offset.new_empty(offset.shape), grad_mask, weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, offset, mask, weight, bias, *ctx.settings = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, offset, mask, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, offset, mask, weight = ctx.saved_tensors
    grads = modulated_deform_conv2d_backward_op(grad, x, offset, mask, weight, *ctx.settings)
    grad_x, grad_offset, grad_mask, grad_weight = grads
    grad_bias = grad.sum((0, 2, 3)) if ctx.has_bias else None
    return grad_x, grad_offset, None if mask is None else grad_mask, grad_weight, grad_bias, *[None] * 5


modulated_deform_conv2d_op.register_autograd(_backward, setup_context=_setup_context)


class ModulatedDeformConv2d(nn.Module):
    """``modulated_deform_conv2d`` with its weights; offsets and mask come from the caller.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: As in nn.Conv2d.
        deform_groups: Groups of input channels that move together.
    """

    # Whoever wants to know how far the taps are moved puts zeros (2,) here. In training each call then adds
    # the mean |offset| in pixels, and 1: no value leaves the device, and no state_dict holds it.
    offset_sum: Tensor | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if min(groups, deform_groups) < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}.")
        if in_channels % deform_groups:
            raise ValueError(f"deform_groups: expected a divisor of {in_channels} channels, got {deform_groups}.")
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride, self.padding = _pair("stride", stride, 1), _pair("padding", padding, 0)
        self.dilation = _pair("dilation", dilation, 1)
        self.groups, self.deform_groups = groups, deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        if self.offset_sum is not None and self.training:
            exact = torch.promote_types(offset.dtype, torch.float32)
            mean = torch.linalg.vector_norm(offset.detach(), 1, dtype=exact) / offset.numel()
            self.offset_sum.add_(torch.stack((mean, torch.ones_like(mean))))
        return modulated_deform_conv2d(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
        )


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """A deformable convolution that finds its offsets and mask by a convolution of its own.

    That convolution, ``conv_offset``, starts at zero: offsets 0 and mask 1/2, an ordinary convolution
    of half strength. Its first two thirds of channels are the offsets as they are stored (y and x
    interleaved), the last third are the logits of the mask. Keys and order are those of the
    official DCNv2Pack (BasicSR).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            deform_groups=deform_groups,
            bias=bias,
        )
        self.conv_offset = nn.Conv2d(
            in_channels,
            3 * deform_groups * math.prod(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        if self.conv_offset.bias is not None:
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, feature: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Map x (b, c, h, w) to (b, o, y, x).

        Args:
            x: What is convolved.
            feature: What the offsets are found in, of x's shape (EDVR compares two frames here); none: x itself.
        """
        found = self.conv_offset(x if feature is None else feature)
        offset, mask = found.split([found.shape[1] // 3 * 2, found.shape[1] // 3], dim=1)
        return super().forward(x, offset, torch.sigmoid(mask))
