"""What a network costs: parameters, multiply-adds, activations, peak memory, and what sizes it takes.

Multiply-adds and activations are counted on the meta device: nothing is calculated, and no memory is needed.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vsr.registry import NETWORKS

CLIP = 5  # frames that a network of whole clips is counted with


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What one forward pass costs, in inference.

    Args:
        inputs: Shape of each input.
        output: Shape of the output.
        parameters: All of them, trained or not; without buffers.
        macs: Multiply-adds of what ``macs_of`` lists: convolutions (ordinary, transposed, deformable), linear layers,
            the matrix products of attention, and filters whose kernels are computed. Biases, norms, activations,
            interpolation and warping, which are little beside them, do not count.
        macs_of: The parts of ``macs``: 'convolution', 'deformable', 'linear', 'attention', 'dynamic filter'.
        activations: Elements of the outputs of convolutions and linear layers: what efficiency challenges count.
        frames: Frames of the output: 1, but for networks of whole clips.
        memory: Peak in bytes of what a real forward pass allocates, its output included, weights and input not; none
            if it was not measured. On a CPU it is summed from the events of PyTorch's allocator (scratch memory that
            oneDNN allocates itself is not seen); on a GPU it is ``torch.cuda.max_memory_allocated``.
        size_multiple, min_size: What the sides of an input must be multiples of, and at least.
        channels_last: Whether the network says that it is faster in this memory format on a CPU.
        checkpointing: Whether ``checkpoint_activations`` has something to recompute in it.
    """

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    parameters: int
    macs: int
    macs_of: Mapping[str, int]
    activations: int
    frames: int
    memory: int | None
    size_multiple: int
    min_size: int
    channels_last: bool
    checkpointing: bool


def complexity(
    network: nn.Module | Mapping[str, Any] | str,
    size: Sequence[int] | None = None,
    *,
    num_frame: int = CLIP,
    memory: bool = False,
) -> Complexity:
    """Return what a forward pass of one sample costs.

    Args:
        network: A module, a registered name, or ``{"type": name, **arguments}``.
        size: Height and width of the input; none: see ``usual_size``.
        num_frame: Frames that a network of whole clips gets; a network of windows has its own number.
        memory: Measure the peak memory, too, which takes a real forward pass on the module's device (CPU for a name).

    Raises:
        ValueError: the size does not suit the network, or the name is unknown.
    """
    if isinstance(network, nn.Module):
        built = real = network
    else:
        option = {"type": network} if isinstance(network, str) else network
        with torch.device("meta"):
            built = NETWORKS.build(option)
        real = NETWORKS.build(option) if memory else built
    shapes = input_shapes(built, size or usual_size(built), num_frame)
    meta = {name: tensor.to("meta") for name, tensor in _tensors(built).items()}
    with torch.no_grad(), _evaluating(built), _Counter() as counter:
        inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
        output = torch.func.functional_call(built, meta, inputs)
    if not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return Complexity(
        inputs=shapes,
        output=tuple(output.shape),
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        macs=sum(counter.macs.values()),
        macs_of=dict(counter.macs),
        activations=counter.activations,
        frames=output.shape[1] if getattr(built, "temporal", "image") == "clip" else 1,
        memory=peak_memory(real, shapes) if memory else None,
        size_multiple=getattr(built, "size_multiple", 1),
        min_size=getattr(built, "min_size", 1),
        channels_last=getattr(built, "channels_last", False),
        checkpointing=bool(getattr(built, "checkpointed", ())),
    )


def usual_size(network: Any) -> tuple[int, int]:
    """Return the size that costs are usually given for: 64x64, or 256x256 where a restored image keeps its size.

    It is rounded up to what the network takes.
    """
    if hasattr(network, "input_size"):  # the only one that it takes
        return network.input_size, network.input_size
    if all(fixed := getattr(network, "fixed_size", (0, 0))):  # as it was told
        return int(fixed[0]), int(fixed[1])
    side = 256 if getattr(network, "scale", 0) == 1 else 64
    multiple: int = getattr(network, "size_multiple", 1)
    side = math.ceil(max(side, getattr(network, "min_size", 1)) / multiple) * multiple
    return side, side


def input_shapes(network: Any, size: Sequence[int], num_frame: int = CLIP) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each input of a network for one sample of this size: two images for a flow network."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: expected a height and a width, got {' '.join(map(str, size)) or 'nothing'}.")
    if num_frame < 1:
        raise ValueError(f"num_frame: expected a number from 1 up, got {num_frame}.")
    if hasattr(network, "input_shapes"):
        said: tuple[tuple[int, ...], ...] = network.input_shapes(tuple(size))
        return said
    kind, temporal = getattr(network, "kind", "restoration"), getattr(network, "temporal", "image")
    frames = {"image": (), "window": (getattr(network, "num_frame", num_frame),), "clip": (num_frame,)}[temporal]
    shape = (1, *frames, input_channels(network), *size)
    return (shape, shape) if kind == "flow" else (shape,)


def input_channels(network: Any) -> int:
    """Return the channels of an input: what the network says, two images of them for a pair of views; else 3 each."""
    said = (getattr(network, name, None) for name in ("num_in_ch", "in_chans", "img_channel"))
    views = 2 if getattr(network, "kind", None) == "stereo" else 1
    return views * (next((channels for channels in said if channels), 0) or 3)


def peak_memory(network: nn.Module, shapes: Sequence[Sequence[int]]) -> int:
    """Run a network on random inputs of these shapes; return the peak in bytes of what that allocated.

    See ``Complexity.memory`` for what is seen. The first pass, which may allocate more than later ones, does not count.
    """
    first = next(iter(_tensors(network).values()))
    inputs = [torch.rand(tuple(shape), device=first.device, dtype=first.dtype) for shape in shapes]
    with torch.no_grad(), _evaluating(network):
        network(*inputs)
        if first.device.type == "cuda":
            torch.cuda.synchronize(first.device)
            before = torch.cuda.memory_allocated(first.device)
            torch.cuda.reset_peak_memory_stats(first.device)
            network(*inputs)
            return torch.cuda.max_memory_allocated(first.device) - before
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            network(*inputs)
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()  # negative where memory was freed
        peak = max(peak, total)
    return peak


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and every part of it back into the mode that it had."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> int:
    transposed = arguments[4]  # after bias, stride, padding and dilation
    return (x if transposed else out).numel() * weight[0].numel()


def _deformable(out: Tensor, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *_: Any) -> int:
    return out.numel() * weight[0].numel()


def _product(out: Tensor, first: Tensor, *_: Any) -> int:
    return out.numel() * first.shape[-1]


def _sum_and_product(out: Tensor, added: Tensor, first: Tensor, *_: Any) -> int:
    return out.numel() * first.shape[-1]


def _down_filter(out: tuple[Tensor, Tensor], stack: Tensor, logits: Tensor, *_: Any) -> int:
    return out[0].numel() * logits.shape[1] * logits.shape[2]  # taps and frames


def _up_filter(out: Tensor, padded: Tensor, kernels: Tensor, kernel_size: int, *_: Any) -> int:
    return out.numel() * kernel_size**2 * kernels.shape[2]


# Operator -> part of ``Complexity.macs_of``, and the multiply-adds of a call from its output and arguments. On the
# meta device, scaled_dot_product_attention and einsum come down to these.
_COUNTED: dict[str, tuple[str, Callable[..., int]]] = {
    "aten::convolution": ("convolution", _convolution),
    "vsr::modulated_deform_conv2d": ("deformable", _deformable),
    "aten::mm": ("linear", _product),
    "aten::addmm": ("linear", _sum_and_product),
    "aten::bmm": ("attention", _product),
    "aten::baddbmm": ("attention", _sum_and_product),
    "vsr::down_filter": ("dynamic filter", _down_filter),
    "vsr::up_filter": ("dynamic filter", _up_filter),
}


class _Counter(TorchDispatchMode):
    """Adds up what each operator costs that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in _COUNTED:
            part, count = _COUNTED[name]
            self.macs[part] += count(out, *args)
            if part not in ("attention", "dynamic filter"):
                self.activations += out.numel()
        assert name in _COUNTED or func.namespace != "vsr", f"{name}: say above what this operator costs"
        return out
