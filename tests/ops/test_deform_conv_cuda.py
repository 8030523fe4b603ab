"""The CUDA kernels of the deformable convolution, on a GPU.

Where VSR_EMULATED_CUDA names a library in which a C++ compiler has made CPU kernels of the CUDA source, the same tests
run on that: test_cuda_source.py runs this file so.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import deform_conv_cases
from ops.test_deform_conv import INPUTS, Definition, random_inputs, random_shape
from torch import Tensor
from torch.library import opcheck

from vsr.ops import deform_conv, library, modulated_deform_conv2d

pytestmark = pytest.mark.cuda
EMULATED = os.environ.get("VSR_EMULATED_CUDA")
TF32 = os.environ.get("VSR_CUDA_TF32") == "1"
NAMES = ("out", "grad_input", "grad_offset", "grad_mask", "grad_weight", "grad_bias")
# Of the greatest value. tf32 and bfloat16 keep 11 and 8 bits; sums are float32 in all.
LIMITS = {torch.float32: 2e-3 if TF32 else 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SLOW_IF_EMULATED = [pytest.mark.slow] if EMULATED else []
HALF = pytest.param(torch.float16, marks=SLOW_IF_EMULATED)
DTYPES = [torch.float32] if TF32 else [torch.float32, torch.bfloat16, HALF]


@pytest.fixture(scope="module")
def device() -> torch.device:
    if EMULATED:
        torch.ops.load_library(EMULATED)
        assert library.has_kernel("cpu", "modulated_deform_conv2d")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if not library.load("cuda", "modulated_deform_conv2d"):
        pytest.skip(f"nothing is compiled: {library.find('cuda').cause or 'VSR_OPS=off'}")
    return torch.device("cuda")


@pytest.fixture(params=[1, 40], ids=["few processors", "many processors"])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Large and small tiles, one share and many; a GPU has the processors that it has."""
    monkeypatch.setenv("VSR_EMULATED_PROCESSORS", str(request.param))
    return request.param


def gradients(
    inputs: list[Tensor | None], settings: dict[str, Any], grad: Tensor, *, defined: bool = False
) -> dict[str, Tensor]:
    """The output and the gradients that exist, of the op or of its definition."""
    given = [None if t is None else t.detach().requires_grad_() for t in inputs]
    with pytest.MonkeyPatch.context() as patch:
        if defined:
            patch.setattr(deform_conv, "modulated_deform_conv2d_op", Definition.apply)
        out = modulated_deform_conv2d(*given, **settings)
        out.backward(grad)
    grads = [None if t is None else t.grad for t in given]
    return {k: v.detach() for k, v in zip(NAMES, [out, *grads], strict=True) if v is not None}


def compare(got: dict[str, Tensor], wanted: dict[str, Tensor], limit: float, what: object = "") -> None:
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        atol = limit * max(1.0, want.abs().max().item() if want.numel() else 1.0)
        torch.testing.assert_close(
            got[name].cpu().double(), want.double(), rtol=0, atol=atol, msg=lambda m, n=name: f"{what} {n}: {m}"
        )


def to(tensors: list[Tensor | None], *arguments: Any) -> list[Tensor | None]:
    return [None if t is None else t.detach().to(*arguments) for t in tensors]


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("arguments", "tensors"), [c[1:] for c in deform_conv_cases()])
def test_outputs_and_gradients_are_the_official_ones(
    device: torch.device, arguments: dict[str, Any], tensors: dict[str, Tensor], last: bool
) -> None:
    inputs = to([tensors.get(k) for k in INPUTS], device, torch.float32)
    if last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    got = gradients(inputs, arguments, tensors["grad_output"].to(device, torch.float32))
    compare(got, {k: tensors[k] for k in NAMES if k in tensors}, LIMITS[torch.float32])


# b, c, o, h, w, kernel, stride, padding, dilation, groups, deform_groups
SHAPES = [
    (2, 64, 64, 9, 20, (3, 3), 1, 1, 1, 1, 8),  # of EDVR
    (1, 64, 130, 7, 18, (3, 3), 1, 1, 1, 1, 4),  # more output channels than a tile
    (1, 16, 272, 5, 9, (1, 3), (1, 2), (0, 1), 1, 1, 2),  # than the data gradient holds at a time
    (1, 96, 160, 5, 5, (3, 1), (2, 1), (1, 0), (1, 2), 2, 3),  # deformable groups across groups and chunks
    (1, 128, 128, 4, 5, (3, 3), 1, 1, 1, 4, 1),
    (1, 6, 6, 5, 5, (5, 3), 1, 2, 1, 6, 6),  # depthwise
    (1, 40, 12, 6, 33, (3, 3), 1, 1, 2, 1, 1),
]


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_networks_shapes_are_as_defined(device: torch.device, shape: tuple[Any, ...], dtype: torch.dtype) -> None:
    b, c, o, h, w, kernel, *numbers, groups, deform_groups = shape
    stride, padding, dilation = (deform_conv._pair("", n, 0) for n in numbers)
    settings = deform_conv._Settings(stride, padding, dilation, groups, deform_groups)
    size, taps = settings.output_size((h, w), kernel), deform_groups * kernel[0] * kernel[1]
    rng = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(b, c, h, w, generator=rng).to(dtype),
        torch.randn(b, 2 * taps, *size, generator=rng) * 3,
        torch.rand(b, taps, *size, generator=rng),
        torch.randn(o, c // groups, *kernel, generator=rng).to(dtype),
        torch.randn(o, generator=rng).to(dtype),
    ]
    if c % 3:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    grad = torch.randn(b, o, *size, generator=rng).to(dtype)
    wanted = gradients(to(inputs, torch.float64), settings._asdict(), grad.double(), defined=True)
    compare(gradients(to(inputs, device), settings._asdict(), grad.to(device)), wanted, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=SLOW_IF_EMULATED) for n in range(6, 24))])
def test_any_shape_type_and_memory_format_is_as_defined(device: torch.device, seed: int, dtype: torch.dtype) -> None:
    inputs, settings = random_shape(seed)
    absent = {1: 2, 2: 4}.get(seed % 3)
    inputs = [None if i == absent else t.to(dtype) for i, t in enumerate(inputs)]
    last = torch.channels_last if seed % 2 else torch.contiguous_format
    inputs = [t.contiguous(memory_format=last) if t is not None and t.dim() == 4 else t for t in inputs]
    exact = to(inputs, torch.float64)
    shape = deform_conv._Settings(**settings).output_size(inputs[0].shape[2:], inputs[3].shape[2:])
    grad = torch.randn(len(inputs[0]), len(inputs[3]), *shape).to(dtype)
    wanted = gradients(exact, settings, grad.double(), defined=True)
    got = gradients(to(inputs, device), settings, grad.contiguous(memory_format=last).to(device))
    assert {k: v.dtype for k, v in got.items()} == dict.fromkeys(got, dtype)
    assert {k: v.stride() for k, v in got.items()} == {k: v.stride() for k, v in wanted.items()}
    compare(got, wanted, 3 * LIMITS[dtype], seed)  # offsets and mask are rounded, too


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_offsets_and_mask_of_another_type_and_of_any_strides(device: torch.device, kind: torch.dtype) -> None:
    x, offset, mask, weight, bias = (t.detach() for t in random_inputs(dtype=torch.float32))
    whole = torch.zeros(2, 60, 7, 8, dtype=kind, device=device)  # columns before rows, and more of all
    offset_there, mask_there = (whole[:, c, :6, 1:6].transpose(2, 3) for c in (slice(2, 38), slice(38, 56)))
    offset_there.copy_(offset)
    mask_there.copy_(mask)
    settings, grad = {"padding": 1, "deform_groups": 2}, torch.randn(2, 3, 5, 6)
    exact = [x, offset_there.cpu(), mask_there.cpu(), weight, bias]
    wanted = gradients(to(exact, torch.float64), settings, grad.double(), defined=True)
    there = [x.to(device), offset_there, mask_there, weight.to(device), bias.to(device)]
    got = gradients(there, settings, grad.to(device))
    assert got["grad_offset"].dtype == got["grad_mask"].dtype == kind
    compare(got, wanted, {torch.float64: LIMITS[torch.float32], torch.float16: 2e-3, torch.bfloat16: 1e-2}[kind])


def test_a_gradient_that_is_one_number_everywhere(device: torch.device) -> None:
    inputs = [t.detach() for t in random_inputs(dtype=torch.float32)]
    settings, grad = {"padding": 1, "deform_groups": 2}, torch.ones(()).expand(2, 3, 5, 6)
    wanted = gradients(to(inputs, torch.float64), settings, grad.double(), defined=True)
    compare(gradients(to(inputs, device), settings, grad.to(device)), wanted, LIMITS[torch.float32])


def test_no_offset_and_no_mask_is_a_plain_convolution(device: torch.device) -> None:
    x, weight, bias = torch.randn(2, 6, 9, 7), torch.randn(4, 3, 3, 5), torch.randn(4)
    offset = torch.zeros(2, 2 * 15, 5, 7)
    rest = ((2, 1), (1, 4), (1, 2), 2)
    got = modulated_deform_conv2d(*to([x, offset, None, weight, bias], device), *rest, 1)
    compare({"out": got}, {"out": F.conv2d(x.double(), weight.double(), bias.double(), *rest)}, LIMITS[torch.float32])


@pytest.mark.skipif(TF32, reason="tf32 rounds the picture")
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (31, 45)])
def test_at_a_whole_number_one_pixel_is_read_and_the_derivative_looks_ahead(
    device: torch.device, size: tuple[int, int]
) -> None:
    x = torch.randn(1, 1, *size, device=device)
    offset = torch.zeros(1, 2, *size, device=device, requires_grad=True)
    out = modulated_deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1, device=device))
    assert torch.equal(out, x)
    out.sum().backward()
    ahead = F.pad(x, (0, 1, 0, 1))
    torch.testing.assert_close(offset.grad[:, :1], ahead[..., 1:, :-1] - x)
    torch.testing.assert_close(offset.grad[:, 1:], ahead[..., :-1, 1:] - x)


def test_float32_rounds_to_tf32_on_request_only(device: torch.device) -> None:
    number = torch.full((1, 1, 1, 1), 1 + 2**-11, device=device)  # a tie: tf32 rounds it away from zero
    got = modulated_deform_conv2d(number, torch.zeros(1, 2, 1, 1, device=device), None, torch.ones_like(number))
    assert got.item() == (1 + 2**-10 if TF32 else 1 + 2**-11)


def test_a_place_outside_reads_zero_whatever_the_picture_holds(device: torch.device) -> None:
    x = torch.full((1, 8, 4, 4), torch.nan, device=device)
    offset = torch.full((1, 2, 4, 4), 50.0, device=device)
    offset[..., 0, 0] = torch.nan
    offset[..., 0, 1] = 1e30
    assert not modulated_deform_conv2d(x, offset, None, torch.ones(1, 8, 1, 1, device=device)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_batch_passes_forward_and_backward(device: torch.device, dtype: torch.dtype) -> None:
    x, offset, mask, weight, bias = (t.detach().to(device) for t in random_inputs(dtype=dtype))
    inputs = [x[:0], offset[:0], mask[:0], weight, bias]
    got = gradients(inputs, {"padding": 1, "deform_groups": 2}, torch.empty(0, 3, 5, 6, dtype=dtype, device=device))
    assert [got[k].shape for k in NAMES] == [(0, 3, 5, 6), *(t.shape for t in inputs)]
    assert not got["grad_weight"].any()


def test_autocast_keeps_offsets_exact_where_half_precision_would_round_them(device: torch.device) -> None:
    x = torch.arange(600.0, device=device).remainder(7).view(1, 1, 1, 600)
    weight = torch.ones(1, 1, 1, 1, device=device, requires_grad=True)
    offset = torch.zeros(1, 2, 1, 600, device=device)
    offset[:, 1] = 257 - torch.arange(600.0, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out = modulated_deform_conv2d(x, offset, None, weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float(), torch.full_like(x, 257 % 7))
    out.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("absent", [(), (2, 4)], ids=["all", "neither mask nor bias"])
def test_registration_is_sound(device: torch.device, absent: tuple[int, ...]) -> None:
    inputs = to([None if i in absent else t for i, t in enumerate(random_inputs(dtype=torch.float32))], device)
    settings = ([1, 1], [1, 1], [1, 1], 1, 2)
    opcheck(deform_conv.modulated_deform_conv2d_op, (*inputs, *settings))
    grad = torch.randn(2, 3, 5, 6, device=device)
    opcheck(deform_conv.modulated_deform_conv2d_backward_op, (grad, *inputs[:4], *settings))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break_and_with_its_gradients(device: torch.device, backend: str) -> None:
    def call(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1, deform_groups=2).sin()

    compiled = torch.compile(call, fullgraph=True, backend=backend)
    results = []
    for function in (compiled, call):
        given = [t.detach().to(device).requires_grad_() for t in random_inputs(dtype=torch.float32)]
        out = function(*given)
        out.square().sum().backward()
        results.append([out, *(t.grad for t in given)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_what_does_not_fit_is_named(device: torch.device) -> None:
    x, offset, mask, weight, _ = (t.detach().to(device) for t in random_inputs(dtype=torch.float32))
    settings = ([1, 1], [1, 1], [1, 1], 1, 2)
    op = torch.ops.vsr.modulated_deform_conv2d
    with pytest.raises(RuntimeError, match=r"offset: expected the shape \(2, 36, 5, 6\)"):
        op(x, offset[:, 1:], mask, weight, None, *settings)
    with pytest.raises(RuntimeError, match=r"mask: expected the shape \(2, 18, 5, 6\)"):
        op(x, offset, mask[:, 1:], weight, None, *settings)
    with pytest.raises(RuntimeError, match="weight: expected the type of x"):
        op(x, offset, mask, weight.half(), None, *settings)
    with pytest.raises(RuntimeError, match="expected float32, bfloat16 or float16 on a GPU"):
        op(x.double(), offset, mask, weight.double(), None, *settings)
    with pytest.raises(RuntimeError, match="deform_groups: expected a divisor of 4 channels, got 3"):
        op(x, offset, mask, weight, None, [1, 1], [1, 1], [1, 1], 1, 3)


def edvr_inputs(device: torch.device, dtype: torch.dtype, batch: int = 4, side: int = 64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(batch, 64, side, side), (batch, 144, side, side), (batch, 72, side, side), (64, 64, 3, 3), (64,)]
    return [torch.randn(shape, device=device).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_but_the_gradient_of_x_is_the_same_each_time(device: torch.device, dtype: torch.dtype) -> None:
    inputs = edvr_inputs(device, dtype, *((1, 12) if EMULATED else ()))
    grad = torch.randn_like(inputs[0])
    settings = {"padding": 1, "deform_groups": 8}
    first, second = (gradients(inputs, settings, grad) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in NAMES if k != "grad_input")
    torch.testing.assert_close(first["grad_input"], second["grad_input"], rtol=1e-5 if dtype.itemsize == 4 else 0.02,
                               atol=1e-3)  # fmt: skip


@pytest.mark.skipif(not EMULATED, reason="a GPU orders its threads itself")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_no_barrier_is_missing(
    device: torch.device, shape: tuple[Any, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, c, o, h, w, kernel, *numbers, groups, deform_groups = shape
    stride, padding, dilation = (deform_conv._pair("", n, 0) for n in numbers)
    settings = deform_conv._Settings(stride, padding, dilation, groups, deform_groups)
    size, taps = settings.output_size((h, w), kernel), deform_groups * kernel[0] * kernel[1]
    shapes = [(b, c, h, w), (b, 2 * taps, *size), (b, taps, *size), (o, c // groups, *kernel), (o,)]
    inputs = [torch.randn(s).to(dtype) for s in shapes]
    grad = torch.randn(b, o, *size).to(dtype)
    found = []
    for order in range(3):  # rising, falling, scattered
        monkeypatch.setenv("VSR_EMULATED_ORDER", str(order))
        found.append(gradients(inputs, settings._asdict(), grad))
    for other in found[1:]:
        for name, want in found[0].items():
            if name == "grad_input":  # a sum in the order of the threads
                torch.testing.assert_close(other[name], want, rtol=1e-2, atol=1e-4 if dtype.itemsize == 4 else 0.1)
            else:
                assert torch.equal(other[name], want), name


@pytest.fixture
def gpu(device: torch.device) -> Iterator[torch.device]:
    if EMULATED:
        pytest.skip("needs a GPU")
    yield device
    torch.cuda.synchronize()


def test_work_is_queued_on_the_current_stream(gpu: torch.device) -> None:
    inputs = edvr_inputs(gpu, torch.float32)
    want = modulated_deform_conv2d(*inputs, padding=1, deform_groups=8)
    late = torch.zeros_like(inputs[0])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(inputs[0])
        got = modulated_deform_conv2d(late, *inputs[1:], padding=1, deform_groups=8)
    stream.synchronize()
    assert torch.equal(got, want)


def test_a_captured_graph_replays_it(gpu: torch.device) -> None:
    inputs = edvr_inputs(gpu, torch.bfloat16)
    modulated_deform_conv2d(*inputs, padding=1, deform_groups=8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = modulated_deform_conv2d(*inputs, padding=1, deform_groups=8)
    inputs[0].normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, modulated_deform_conv2d(*inputs, padding=1, deform_groups=8))


def test_another_gpu_than_the_current_one_does_the_work(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = edvr_inputs(torch.device("cuda:1"), torch.float32)
    with torch.cuda.device(0):
        got = modulated_deform_conv2d(*inputs, padding=1, deform_groups=8)
        assert torch.cuda.current_device() == 0
    here = modulated_deform_conv2d(*(t.to("cuda:0") for t in inputs), padding=1, deform_groups=8)
    assert got.device.index == 1
    torch.testing.assert_close(got.cpu(), here.cpu())


def peak_of(function: Any) -> int:
    """Bytes that a call needs beyond what is there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = function()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_no_columns_are_held(gpu: torch.device, last: bool) -> None:
    x, *rest = edvr_inputs(gpu, torch.float32)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    settings = ([1, 1], [1, 1], [1, 1], 1, 8)
    image = x.numel() * 4  # also of the output
    spare = 2**20  # weights, rounding of the allocator
    forward = peak_of(lambda: torch.ops.vsr.modulated_deform_conv2d(x, *rest, *settings))
    assert forward <= (1 if last else 2) * image + spare
    grad = torch.randn_like(x)
    backward = peak_of(lambda: torch.ops.vsr.modulated_deform_conv2d_backward(grad, x, *rest[:3], *settings))
    results = (rest[0].numel() + rest[1].numel()) * 4
    partial = 2**24  # sums of the weight's gradient
    assert backward <= results + (1 if last else 3) * image + partial + spare


@pytest.mark.slow
def test_an_image_of_more_than_two_to_the_31_elements(gpu: torch.device) -> None:
    side = 16_448
    assert 8 * side**2 > 2**31
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of GPU memory")
    x = torch.zeros(1, 8, side, side, dtype=torch.bfloat16, device=gpu)
    x[..., -64:, -64:] = torch.randn(8, 64, 64, device=gpu)
    offset = torch.full((1, 2, side, side), 0.25, dtype=torch.bfloat16, device=gpu)
    weight = torch.randn(8, 8, 1, 1, dtype=torch.bfloat16, device=gpu)
    got = modulated_deform_conv2d(x, offset, None, weight)[..., -32:, -32:]
    want = modulated_deform_conv2d(
        x[..., -64:, -64:].contiguous(), offset[..., -64:, -64:].contiguous(), None, weight
    )[..., -32:, -32:]  # fmt: skip
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.05)  # far places have fewer bits of fraction
