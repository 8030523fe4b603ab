"""Networks for other programs: torch.export programs and ONNX models, each checked against the network itself.

The modulated deformable convolution becomes ONNX's own DeformConv (opset 19 and later), which lays out offsets
and masks as vsr does: (dy, dx) of tap 0, of tap 1, ..., one deformable group after the other.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import vsr.ops  # noqa: F401  (registers the operators that programs call)
from vsr.inference.complexity import input_channels
from vsr.inference.tiles import frames_first
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)

AXES = ("batch", "size")
DEFORM_CONV_OPSET = 19  # the first with DeformConv
LEAST_OPSET = 18  # of torch's exporter


@dataclass(frozen=True)
class Report:
    """What became of an export.

    Args:
        inputs: The form of each input, '(batch, 5, 3, 4*height, 4*width)'.
        step: Dynamic sides are multiples of it; 0: the size is fixed.
        opset: Of the ONNX model; 0 for a program.
        checked_by: What ran the result for the check: 'torch', 'onnxruntime 1.31.1' or 'onnx.reference 1.23.2'.
        difference: Largest |result - network| over all checks, relative to the largest |network|, or to 1 if that
            is less.
    """

    inputs: tuple[str, ...]
    step: int
    opset: int
    checked_by: str
    difference: float

    def __str__(self) -> str:
        kind = f"ONNX opset {self.opset}" if self.opset else "torch.export program"
        return (
            f"{kind}, input {' and '.join(self.inputs)}, differs from the network by {self.difference:.1e} "
            f"(run by {self.checked_by})"
        )


def export_program(
    network: nn.Module,
    size: Sequence[int],
    *,
    batch: int = 1,
    num_frame: int | None = None,
    channels: int | None = None,
    dynamic: Sequence[str] = (),
    tolerance: float = 1e-4,
) -> tuple[ExportedProgram, Report]:
    """Trace a network into a torch.export program, in eval mode, and compare the two.

    ``save_program`` writes it; who loads it (torch.export.load) must ``import vsr.ops`` before.

    Args:
        network: Any registered network, or one with the same attributes (temporal, size_multiple, min_size).
        size: (height, width) of the input in pixels.
        batch: Samples of an input.
        num_frame: Frames of an input of a clip network; a window network knows them.
        channels: Of an input; none: what the network says, else 3.
        dynamic: What may be another at run time: 'batch', 'size', or both. The number of frames is always
            fixed: networks loop over them.
        tolerance: Of the comparison, see Report.difference.

    Raises:
        ValueError: the network cannot be traced so, or the arguments do not fit it; it says why.
        RuntimeError: the program computes something else than the network.
    """
    network = frames_first(network)
    with _frozen(network):
        program, form = _trace(network, size, batch, num_frame, channels, dynamic)
        try:
            difference = _compare(network, program.module(), form.checks(), tolerance, "the program")
        except AssertionError as error:  # of a condition on sizes that the trace has not told
            raise _untraceable(network, form, error) from error
    return program, Report(form.names(), form.step, 0, "torch", difference)


def save_program(program: ExportedProgram, path: str | Path) -> None:
    """Write a program as a .pt2 file, whole or not at all."""
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path)) as file:
        file.write(content.getbuffer())


def export_onnx(
    network: nn.Module,
    path: str | Path,
    size: Sequence[int],
    *,
    batch: int = 1,
    num_frame: int | None = None,
    channels: int | None = None,
    dynamic: Sequence[str] = (),
    opset: int = 20,
    tolerance: float = 1e-4,
) -> Report:
    """Write a network as an ONNX model and compare what the model computes with the network.

    It is run by onnxruntime's CPU provider where that is installed, else by the far slower reference evaluator
    of the onnx package: then keep ``size`` small.

    Args:
        path: The file to write; it appears only if the check has passed.
        opset: Version of ONNX's standard operators; 19 or more with deformable convolutions.
        others: See ``export_program``.

    Raises:
        ValueError: the network has no form in ONNX, the arguments do not fit it, or a package is missing.
        RuntimeError: the model computes something else than the network.
    """
    translations = onnx_translations()
    if opset < LEAST_OPSET:
        raise ValueError(f"opset: expected {LEAST_OPSET} or more, got {opset}.")
    network = frames_first(network)
    with _frozen(network):
        program, form = _trace(network, size, batch, num_frame, channels, dynamic)
        used = {node.target for node in program.graph.nodes}
        if opset < DEFORM_CONV_OPSET and used & translations.keys():
            raise ValueError(f"opset: expected {DEFORM_CONV_OPSET} or more, the first with DeformConv, got {opset}.")
        model = _translate(network, program, translations, opset)
        form.name_axes(model)
        content = model.SerializeToString()
        run, runner = _onnx_runner(content)
        difference = _compare(network, run, form.checks(), tolerance, f"the ONNX model in {runner}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path)) as file:
        file.write(content)
    return Report(form.names(), form.step, opset, runner, difference)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what ``torch.onnx.export(..., custom_translation_table=...)`` needs to know vsr's operators.

    Raises:
        ValueError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        from onnxscript import opset19
    except ImportError as error:
        raise ValueError(
            f"ONNX: expected the packages onnx and onnxscript: pip install -e '.[onnx]' ({error})"
        ) from error

    def deform_conv(
        x: Any, offset: Any, mask: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
        groups: int, deform_groups: int,
    ) -> Any:  # fmt: skip
        return opset19.DeformConv(
            x, weight, offset, bias, mask, strides=stride, pads=[*padding, *padding], dilations=dilation,
            group=groups, offset_group=deform_groups,
        )  # fmt: skip

    return {torch.ops.vsr.modulated_deform_conv2d.default: deform_conv}


class _Form:
    """The inputs of a network, and which of their axes are dynamic."""

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch: int,
        num_frame: int | None,
        channels: int | None,
        dynamic: Sequence[str],
    ) -> None:
        unknown = [axis for axis in dynamic if axis not in AXES]
        if unknown:
            raise ValueError(
                f"dynamic: expected {' and '.join(AXES)}, got {', '.join(unknown)}. The number of frames is fixed."
            )
        kind, temporal = getattr(network, "kind", "restoration"), getattr(network, "temporal", "image")
        self.multiple, self.least = getattr(network, "size_multiple", 1), getattr(network, "min_size", 1)
        if len(size) != 2 or min(size) < self.least or any(side % self.multiple for side in size):
            raise ValueError(
                f"size: expected (height, width) of multiples of {self.multiple}, {self.least} or more, "
                f"got {tuple(size)}."
            )
        own = getattr(network, "num_frame", None) if temporal == "window" else None
        if temporal == "clip" and not num_frame:
            raise ValueError("num_frame: expected the frames of a clip, got none. Name how many.")
        if num_frame and (temporal == "image" or own not in (None, num_frame)):
            wants = f"{own}, the window of the network" if own else "none for a network of images"
            raise ValueError(f"num_frame: expected {wants}, got {num_frame}. Leave it out.")
        self.network, self.size, self.dynamic = network, (size[0], size[1]), tuple(dynamic)
        # a trace with a batch of 1 holds for that only
        self.batch = max(batch, 2) if "batch" in dynamic else batch
        self.frames = () if temporal == "image" else (own or num_frame or 0,)
        self.channels, self.count = channels or input_channels(network), 2 if kind == "flow" else 1
        self.step = 0  # of dynamic sides; 0: they are fixed

    def tensors(self, *, more: int = 0, longer: int = 0) -> tuple[Tensor, ...]:
        """Random inputs; with so many samples more, and so many pixels more (twice as many in width)."""
        sides = (self.size[0] + longer, self.size[1] + 2 * longer)
        parameter = next(self.network.parameters(), torch.empty(0))
        draw = torch.Generator().manual_seed(0)
        shape = (self.batch + more, *self.frames, self.channels, *sides)
        return tuple(torch.rand(shape, generator=draw).to(parameter) for _ in range(self.count))

    def find_step(self, inputs: Sequence[Tensor]) -> None:
        """Find what dynamic sides must be multiples of: size_multiple, or what the network pads them to inside."""
        if "size" not in self.dynamic:
            return
        self.step = self.multiple
        if self.multiple == 1:
            height = inputs[0].shape[-2]
            padded = _padded_side(self.network, inputs, 0)
            if padded >= height:  # else the first layer is one of a pyramid, and tells nothing
                self.step = _padded_side(self.network, inputs, padded - height + 1) - padded
        if any(side % self.step for side in self.size):
            raise ValueError(
                f"size: expected multiples of {self.step}, which the network pads its input to, got {self.size}: "
                "only such sizes can be dynamic."
            )

    def checks(self) -> list[tuple[Tensor, ...]]:
        """The inputs of the trace, and others if they may be others."""
        others = [self.tensors(more=int("batch" in self.dynamic), longer=self.step)] if self.dynamic else []
        return [self.tensors(), *others]

    def shapes(self) -> tuple[dict[int, Any], ...] | None:
        """What torch.export is to be told of the axes that may change."""
        if not self.dynamic:
            return None
        axes: dict[int, Any] = {}
        if "batch" in self.dynamic:
            axes[0] = Dim("batch", min=1)
        if self.step:
            first = 2 + len(self.frames)
            for i, name in enumerate(("height", "width")):
                # a side of one step would be special where it is halved to a single pixel
                side = Dim(name, min=max(2, -(-self.least // self.step)))
                axes[first + i] = side * self.step if self.step > 1 else side
        return tuple(dict(axes) for _ in range(self.count))

    def axes(self) -> list[str]:
        """The axes of an input in words."""
        factor = f"{self.step}*" if self.step > 1 else ""
        sides = [f"{factor}height", f"{factor}width"] if self.step else [str(side) for side in self.size]
        batch = "batch" if "batch" in self.dynamic else str(self.batch)
        return [batch, *map(str, self.frames), str(self.channels), *sides]

    def names(self) -> tuple[str, ...]:
        return tuple(f"({', '.join(self.axes())})" for _ in range(self.count))

    def name_axes(self, model: Any) -> None:
        """Give the dynamic axes of an ONNX model's inputs their names; those of its outputs follow from them."""
        for value in model.graph.input:
            for axis, name in zip(value.type.tensor_type.shape.dim, self.axes(), strict=True):
                if axis.dim_param:
                    axis.dim_param = name
        for value in model.graph.output:  # 's53*16' says nothing, and might contradict
            for i, axis in enumerate(value.type.tensor_type.shape.dim):
                if axis.dim_param:
                    axis.dim_param = "batch" if i == 0 and "batch" in self.dynamic else f"{value.name}_{i}"
        del model.graph.value_info[:]


def _trace(
    network: nn.Module,
    size: Sequence[int],
    batch: int,
    num_frame: int | None,
    channels: int | None,
    dynamic: Sequence[str],
) -> tuple[ExportedProgram, _Form]:
    """Return the program and the form of its inputs."""
    name = type(network).__name__
    form = _Form(network, size, batch, num_frame, channels, dynamic)
    inputs = form.tensors()
    try:
        network(*inputs)
    except (ValueError, RuntimeError) as error:
        shape = tuple(inputs[0].shape)
        raise ValueError(f"{name}: expected to run on {shape} before its export, but: {error}") from error
    form.find_step(inputs)
    try:
        with _quiet():
            return torch.export.export(network, inputs, dynamic_shapes=form.shapes()), form
    except Exception as error:  # torch raises a dozen types of its own, of which few are public
        raise _untraceable(network, form, error) from error


def _untraceable(network: nn.Module, form: _Form, error: Exception) -> ValueError:
    what = f"with a dynamic {' and '.join(form.dynamic)}" if form.dynamic else "at a fixed size"
    advice = "Take what it is out of dynamic" if form.dynamic else "Its forward must not depend on values of tensors"
    return ValueError(
        f"{type(network).__name__}: expected a network that torch.export can trace {what}, but: "
        f"{_first_words(error)}. {advice}."
    )


def _padded_side(network: nn.Module, inputs: Sequence[Tensor], longer: int) -> int:
    """The height of what the first layer gets of an input that many pixels longer; a run without data tells."""
    sides: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-2]))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    states = (network.named_parameters(), network.named_buffers())
    shadow = {name: torch.empty_like(value, device="meta") for group in states for name, value in group}
    shapes = [(*x.shape[:-2], x.shape[-2] + longer, x.shape[-1] + longer) for x in inputs]
    try:
        torch.func.functional_call(network, shadow, tuple(torch.empty(shape, device="meta") for shape in shapes))
    finally:
        for hook in hooks:
            hook.remove()
    return sides[0] if sides else inputs[0].shape[-2] + longer


def _translate(network: nn.Module, program: ExportedProgram, translations: dict[Any, Any], opset: int) -> Any:
    """Return the onnx.ModelProto of a program."""
    try:
        with _quiet():
            made = torch.onnx.export(
                program, dynamo=True, opset_version=opset, custom_translation_table=translations, verbose=False
            )
    except Exception as error:  # see _trace
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(
            f"{type(network).__name__}: expected a network of operators that ONNX has, but: {_first_words(cause)}. "
            "Export a torch.export program instead."
        ) from error
    assert made is not None, "torch.onnx.export returns a program unless it is given a file"
    return made.model_proto


def _onnx_runner(content: bytes) -> tuple[Callable[..., list[Tensor]], str]:
    """Return what runs an ONNX model on tensors, and its name."""
    import onnx

    try:
        import onnxruntime
    except ImportError:
        log.info("onnxruntime is not installed; the reference evaluator checks the model, which takes long")
    else:
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            return _by_name(
                session, [value.name for value in session.get_inputs()]
            ), f"onnxruntime {onnxruntime.__version__}"
        except Exception as error:  # pybind types of its own: an operator that this version lacks
            log.warning("onnxruntime cannot run the model, the reference evaluator checks it: %s", _first_words(error))
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(content)
    names = [value.name for value in model.graph.input]
    return _by_name(ReferenceEvaluator(model), names), f"onnx.reference {onnx.__version__}"


def _by_name(session: Any, names: list[str]) -> Callable[..., list[Tensor]]:
    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, given)]

    return run


def _compare(
    network: nn.Module,
    run: Callable[..., Any],
    inputs: list[tuple[Tensor, ...]],
    tolerance: float,
    what: str,
) -> float:
    """Return the largest relative difference; raise RuntimeError if it is above ``tolerance``."""
    largest = 0.0
    for given in inputs:
        for got, wanted in zip(_tensors(run(*given)), _tensors(network(*given)), strict=True):
            got, wanted = got.double().cpu(), wanted.double().cpu()
            if got.shape != wanted.shape:
                raise RuntimeError(
                    f"{type(network).__name__}: expected {tuple(wanted.shape)} of {what}, got {tuple(got.shape)}."
                )
            difference = float((got - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
            largest = max(largest, difference)
            if not difference <= tolerance:
                raise RuntimeError(
                    f"{type(network).__name__}: expected {what} to differ from the network by {tolerance:g} at most, "
                    f"got {difference:.3g} for an input of {tuple(given[0].shape)}. Nothing was written."
                )
    return largest


def _tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each part has the training flag that it had."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of packages that are not needed and of their own old names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_words(error: BaseException) -> str:
    """The first line of a message that says something, or the type."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Constraints violated"):  # which, the next line says
        lines = lines[1:]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]
