"""Deformable convolution: against official numbers, plain convolutions and finite differences."""

import ctypes
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.verify import deform_conv_cases
from torch import Tensor
from torch.library import opcheck

from vsr.ops import build, deform_conv, library, modulated_deform_conv2d
from vsr.ops.deform_conv import ModulatedDeformConv2d, ModulatedDeformConv2dPack

CASES = list(deform_conv_cases())
INPUTS = ("input", "offset", "mask", "weight", "bias")


def random_inputs(
    *, batch: int = 2, channels: int = 4, groups: int = 2, size: tuple[int, int] = (5, 6), dtype: torch.dtype
) -> list[Tensor]:
    """x, offset, mask, weight, bias of a 3x3 convolution with padding 1; no place is near a whole number."""
    rng = torch.Generator().manual_seed(1)
    normal = {"generator": rng, "dtype": torch.float64}
    whole = torch.randint(-2, 3, (batch, 18 * groups, *size), generator=rng)
    tensors = [
        torch.randn(batch, channels, *size, **normal),
        whole + 0.2 + 0.6 * torch.rand(whole.shape, **normal),
        torch.rand(batch, 9 * groups, *size, **normal),
        torch.randn(3, channels, 3, 3, **normal),
        torch.randn(3, **normal),
    ]
    return [t.to(dtype).requires_grad_() for t in tensors]


def call(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    return modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1, deform_groups=offset.shape[1] // 18)


class Definition(torch.autograd.Function):
    """The definition itself, where the dispatcher would call a compiled kernel."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        ctx.save_for_backward(*arguments[:4])
        ctx.has_bias, ctx.settings = arguments[4] is not None, arguments[5:]
        return deform_conv.definition(*arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = deform_conv.definition_backward(grad, *ctx.saved_tensors, *ctx.settings)
        mask = None if ctx.saved_tensors[2] is None else grads[2]
        return *grads[:2], mask, grads[3], grad.sum((0, 2, 3)) if ctx.has_bias else None, *[None] * 5


PATHS = ["definition", "definition by rows", "portable", "avx2", "avx512"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets one implementation after the other do the work; those that this machine cannot run are skipped."""
    if request.param.startswith("definition"):
        monkeypatch.setattr(deform_conv, "modulated_deform_conv2d_op", Definition.apply)
        if request.param == "definition by rows":
            monkeypatch.setitem(deform_conv.BLOCK_BYTES, "cpu", 3000)
        return request.param
    found = library.find("cpu")
    if found.library is None:
        pytest.skip(f"nothing is compiled: {found.cause}")
    monkeypatch.setenv("VSR_CPU_ISA", request.param)
    kernels = ctypes.CDLL(str(found.library))
    kernels.vsr_cpu_isa.restype = ctypes.c_char_p
    if kernels.vsr_cpu_isa() is None:
        pytest.skip(f"this processor has no {request.param}")
    assert kernels.vsr_cpu_isa().decode() == request.param
    return request.param


def check_case(arguments: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype, limit: float) -> None:
    given = {k: tensors[k].to(dtype, copy=True).requires_grad_() for k in INPUTS if k in tensors}
    out = modulated_deform_conv2d(*(given.get(k) for k in INPUTS), **arguments)
    out.backward(tensors["grad_output"].to(dtype))
    for name, got in {"out": out.detach(), **{f"grad_{k}": v.grad for k, v in given.items()}}.items():
        atol = limit * max(1.0, tensors[name].abs().max().item())
        torch.testing.assert_close(got.double(), tensors[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize(("arguments", "tensors"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_outputs_and_gradients_are_the_official_ones(
    arguments: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype, limit: float
) -> None:
    check_case(arguments, tensors, dtype, limit)


@pytest.mark.slow
def test_the_kernels_for_512_bit_vectors_are_right_on_any_machine(tmp_path: Path) -> None:
    # Compiled without AVX-512, their vectors become two or four of the machine's; the code is the same.
    recipe = build.recipe("cpu", build.installed_torch())
    units = [
        (source, name, (*flags, "-DVSR_WIDE") if "portable" in name else flags)
        for source, name, flags in recipe.units
        if source.name.startswith("deform_conv")
    ]
    try:
        compiler = build.find_compiler("cpu")
    except build.BuildError as error:
        pytest.skip(str(error))
    wide = build.compile_library(replace(recipe, units=tuple(units)), compiler, tmp_path, tmp_path / "log.txt")
    code = f"""
import torch
from ops.test_deform_conv import CASES, check_case
torch.ops.load_library({str(wide)!r})
for name, arguments, tensors in CASES:
    check_case(arguments, tensors, torch.float64, 1e-10)
    check_case(arguments, tensors, torch.float32, 2e-5)
print(len(CASES), "cases")
"""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "VSR_CPU_ISA": "portable", "PYTHONPATH": f"{tests}:{tests.parent}"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == f"{len(CASES)} cases", run.stderr


def random_shape(seed: int) -> tuple[list[Tensor], dict[str, Any]]:
    """Inputs of any shape that the op allows, odd ones above all, in float64."""
    rng = np.random.default_rng(seed)
    groups, deform_groups = (int(rng.choice([1, 2, 3])) for _ in range(2))
    channels = math.lcm(groups, deform_groups) * int(rng.choice([1, 2, 5, 8, 12, 40]))
    outputs, kernel = groups * int(rng.choice([1, 3, 8, 20])), rng.integers(1, 4, 2)
    batch, size = int(rng.integers(1, 4)), rng.integers(4, 17, 2)
    settings = {"stride": rng.integers(1, 3, 2), "padding": rng.integers(0, 3, 2), "dilation": rng.integers(1, 3, 2)}
    settings = {k: tuple(int(n) for n in v) for k, v in settings.items()}
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, *(settings[k] for k in ("stride", "padding", "dilation")), strict=True)
    ]
    if min(out) < 1:
        return random_shape(seed + 1000)
    taps = deform_groups * int(kernel.prod())
    shapes = [
        (batch, channels, *size), (batch, 2 * taps, *out), (batch, taps, *out),
        (outputs, channels // groups, *kernel), (outputs,),
    ]  # fmt: skip
    tensors = [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]
    tensors[1] *= 3  # some places lie outside
    return tensors, {**settings, "groups": groups, "deform_groups": deform_groups}


@pytest.mark.parametrize("path", PATHS[2:], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_shape_type_and_memory_format_is_as_defined(
    path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for seed in range(24):
        tensors, arguments = random_shape(seed)
        if seed % 3 == 1:
            tensors[2] = None
        if seed % 3 == 2:
            tensors[4] = None
        if seed % 2:
            tensors = [
                t if t is None or t.dim() < 4 else t.contiguous(memory_format=torch.channels_last) for t in tensors
            ]
        given = [None if t is None else t.to(dtype).requires_grad_() for t in tensors]
        exact = [None if t is None else t.detach().double().requires_grad_() for t in given]
        out = modulated_deform_conv2d(*given, **arguments)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
        out.backward(grad.to(memory_format=torch.channels_last) if seed % 2 else grad)
        with monkeypatch.context() as patch:
            patch.setattr(deform_conv, "modulated_deform_conv2d_op", Definition.apply)
            expected = modulated_deform_conv2d(*exact, **arguments)
            expected.backward(grad.double())
        assert out.dtype == dtype
        assert out.stride() == expected.stride()  # of the memory format too
        pairs = [(out, expected), *((g.grad, e.grad) for g, e in zip(given, exact, strict=True) if g is not None)]
        for i, (got, want) in enumerate(pairs):
            atol = limit * max(1.0, want.abs().max().item())
            torch.testing.assert_close(got.double(), want, rtol=0, atol=atol, msg=lambda m, n=(seed, i): f"{n}: {m}")


@pytest.mark.parametrize("path", PATHS[2:], indirect=True)
@pytest.mark.parametrize("size", [(5, 1), (1, 5), (1, 1)])
def test_the_stride_of_a_side_of_one_is_no_distance(path: str, size: tuple[int, int]) -> None:
    # PyTorch calls a tensor contiguous whatever that stride is
    inputs = [t.detach() for t in random_inputs(size=size, dtype=torch.float32)]

    def strange(t: Tensor) -> Tensor:
        strides = [
            10**9 if n == 1 and dim > 1 else s for dim, (n, s) in enumerate(zip(t.shape, t.stride(), strict=True))
        ]
        return torch.as_strided(t, t.shape, strides).requires_grad_()

    given = [strange(t.clone()) if t.dim() == 4 else t.clone().requires_grad_() for t in inputs]
    plain = [t.clone().requires_grad_() for t in inputs]
    out, expected = call(*given), call(*plain)
    grad = torch.randn(out.shape)
    out.backward(strange(grad.clone()).detach())
    expected.backward(grad)
    assert torch.equal(out, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(given, plain, strict=True))


@pytest.mark.parametrize("path", PATHS[2:], indirect=True)
@pytest.mark.parametrize("deform_groups", [1, 4])
def test_the_number_of_threads_changes_no_bit(path: str, deform_groups: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 64, 20, 23), torch.randn(16, 64, 3, 3)
    offset, mask = torch.randn(3, 18 * deform_groups, 20, 23) * 2, torch.rand(3, 9 * deform_groups, 20, 23)
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            given = [t.clone().requires_grad_() for t in (x, offset, mask, weight)]
            out = modulated_deform_conv2d(*given, padding=1, deform_groups=deform_groups)
            out.square().sum().backward()
            found.append([out, *(t.grad for t in given)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("path", PATHS[2:], indirect=True)
def test_a_place_outside_reads_zero_whatever_the_picture_holds(path: str) -> None:
    x = torch.full((1, 8, 4, 4), torch.nan)
    offset = torch.full((1, 2, 4, 4), 50.0)
    offset[..., 0, 0] = torch.nan
    assert not modulated_deform_conv2d(x, offset, None, torch.ones(1, 8, 1, 1)).any()


@pytest.mark.parametrize("path", PATHS[2:3], indirect=True)
@pytest.mark.parametrize(("channels", "outputs"), [(0, 3), (4, 0)])
def test_the_kernel_itself_refuses_to_convolve_nothing(path: str, channels: int, outputs: int) -> None:
    x, weight, offset = torch.ones(1, channels, 5, 6), torch.ones(outputs, channels, 3, 3), torch.ones(1, 18, 5, 6)
    settings = ([1, 1], [1, 1], [1, 1], 1, 1)
    with pytest.raises(RuntimeError, match="expected x and weight without an empty side"):
        deform_conv.modulated_deform_conv2d_op(x, offset, None, weight, None, *settings)
    with pytest.raises(RuntimeError, match="expected x and weight without an empty side"):
        deform_conv.modulated_deform_conv2d_backward_op(
            torch.ones(1, outputs, 5, 6), x, offset, None, weight, *settings
        )


def test_an_unknown_or_absent_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if library.find("cpu").library is None:
        pytest.skip("nothing is compiled")
    monkeypatch.setenv("VSR_CPU_ISA", "sse9")
    with pytest.raises(RuntimeError, match="VSR_CPU_ISA: expected portable, avx2 or avx512, got sse9"):
        call(*random_inputs(dtype=torch.float32))


def test_golden_cases_cover_every_kind() -> None:
    assert {"groups2_dg4", "stride2", "dilation2", "nomask", "nobias", "far_outside"} <= {c[0] for c in CASES}


@pytest.mark.usefixtures("path")
def test_no_offset_and_no_mask_is_a_plain_convolution() -> None:
    x, weight, bias = torch.randn(2, 6, 9, 7), torch.randn(4, 3, 3, 5), torch.randn(4)
    offset = torch.zeros(2, 2 * 15, 5, 7)
    got = modulated_deform_conv2d(x, offset, None, weight, bias, (2, 1), (1, 4), (1, 2), 2, 1)
    torch.testing.assert_close(got, F.conv2d(x, weight, bias, (2, 1), (1, 4), (1, 2), 2))


@pytest.mark.usefixtures("path")
def test_an_offset_of_two_right_and_one_up_reads_the_picture_from_there() -> None:
    x = torch.randn(1, 1, 6, 8)
    offset = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    got = modulated_deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1))
    expected = torch.zeros_like(x)
    expected[..., 1:, :6] = x[..., :5, 2:]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", [(5, 7), (31, 180), (1, 1), (33, 320)])
def test_at_a_whole_number_one_pixel_is_read_and_the_derivative_looks_ahead(size: tuple[int, int]) -> None:
    # Training starts with offsets of zero: rounding must not choose the side of the derivative.
    x = torch.randn(1, 1, *size)
    offset = torch.zeros(1, 2, *size, requires_grad=True)
    out = modulated_deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1))
    assert torch.equal(out, x)
    out.sum().backward()
    ahead = F.pad(x, (0, 1, 0, 1))  # zero outside
    torch.testing.assert_close(offset.grad[:, :1], ahead[..., 1:, :-1] - x)
    torch.testing.assert_close(offset.grad[:, 1:], ahead[..., :-1, 1:] - x)


@pytest.mark.parametrize("path", [PATHS[0], *PATHS[2:]], indirect=True)
def test_gradients_match_finite_differences(path: str) -> None:
    assert torch.autograd.gradcheck(call, random_inputs(size=(3, 4), dtype=torch.float64))


@pytest.mark.parametrize("absent", [(), (2,), (4,), (2, 4)], ids=["all", "no mask", "no bias", "neither"])
def test_registration_is_sound(absent: tuple[int, ...]) -> None:
    inputs = [None if i in absent else t for i, t in enumerate(random_inputs(dtype=torch.float32))]
    settings = ([1, 1], [1, 1], [1, 1], 1, 2)
    opcheck(deform_conv.modulated_deform_conv2d_op, (*inputs, *settings))
    grad = torch.randn(2, 3, 5, 6)
    detached = [None if t is None else t.detach() for t in inputs[:4]]
    opcheck(deform_conv.modulated_deform_conv2d_backward_op, (grad, *detached, *settings))


def test_compiles_without_a_graph_break_and_with_its_gradients() -> None:
    inputs, copies = random_inputs(dtype=torch.float32), random_inputs(dtype=torch.float32)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    out, expected = compiled(*inputs), call(*copies)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    for got, want in zip(inputs, copies, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


@pytest.mark.usefixtures("path")
def test_bfloat16_is_near_float32_forward_and_backward() -> None:
    half, full = random_inputs(dtype=torch.bfloat16), random_inputs(dtype=torch.bfloat16)
    full = [t.detach().float().requires_grad_() for t in full]
    out, expected = call(*half), call(*full)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.1)
    out.float().sum().backward()
    expected.sum().backward()
    for got, want in zip(half, full, strict=True):
        assert got.grad.dtype == torch.bfloat16
        torch.testing.assert_close(got.grad.float(), want.grad, rtol=0.03, atol=0.15)


@pytest.mark.usefixtures("path")
def test_autocast_keeps_offsets_exact_where_half_precision_would_round_them() -> None:
    x = torch.arange(600.0).remainder(7).view(1, 1, 1, 600)
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    offset = torch.zeros(1, 2, 1, 600)
    offset[:, 1] = 257 - torch.arange(600.0)  # bfloat16 has 256 and 258, but no 257
    with torch.autocast("cpu", torch.bfloat16):
        out = modulated_deform_conv2d(x, offset, None, weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float(), torch.full_like(x, 257 % 7))
    out.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.usefixtures("path")
def test_an_empty_batch_passes_forward_and_backward() -> None:
    inputs = [t.detach() for t in random_inputs(dtype=torch.float32)]
    x, offset, mask = (t[:0].requires_grad_() for t in inputs[:3])
    weight = inputs[3].requires_grad_()
    out = call(x, offset, mask, weight, None)
    assert out.shape == (0, 3, 5, 6)
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": torch.zeros(1, 18, 5, 5)}, r"offset: expected the shape \(1, 18, 5, 6\), got \(1, 18, 5, 5\)"),
        ({"mask": torch.zeros(1, 18, 5, 6)}, r"mask: expected the shape \(1, 9, 5, 6\), got \(1, 18, 5, 6\)"),
        ({"weight": torch.zeros(2, 3, 3, 3)}, r"weight: expected the shape \(2, 4, 3, 3\), got \(2, 3, 3, 3\)"),
        ({"bias": torch.zeros(3)}, r"bias: expected the shape \(2,\), got \(3,\)"),
        ({"x": torch.zeros(4, 5, 6)}, r"x: expected 4 dimensions, got the shape \(4, 5, 6\)"),
        ({"weight": torch.zeros(2, 4, 3, 3).double()}, "weight: expected torch.float32, the type of x, got"),
        ({"padding": 0, "dilation": 3}, r"expected at least one output pixel, got \(-1, 0\)"),
        ({"stride": 0}, "stride: expected one or two whole numbers from 1 up, got 0"),
        ({"padding": (1, 1, 1)}, "padding: expected one or two"),
        ({"padding": 1.5}, "padding: expected one or two whole numbers from 0 up, got 1.5"),
        ({"padding": "same"}, "padding: expected one or two whole numbers from 0 up, got 'same'"),
        ({"x": torch.zeros(1, 0, 5, 6)}, r"x: expected no empty side, got the shape \(1, 0, 5, 6\)"),
        ({"weight": torch.zeros(0, 4, 3, 3)}, r"weight: expected no empty side, got the shape \(0, 4, 3, 3\)"),
        ({"x": torch.zeros(1, 4, 5, 6).int()}, "x: expected float32, float64, bfloat16 or float16, got torch.int32"),
        ({"offset": torch.zeros(1, 18, 5, 6).int()}, "offset: expected float32, .* got torch.int32"),
        ({"mask": torch.zeros(1, 9, 5, 6).bool()}, "mask: expected float32, .* got torch.bool"),
        ({"groups": 3}, "groups: expected a divisor of 4 input and 2 output channels, got 3"),
        ({"deform_groups": 0}, "deform_groups: expected a divisor of 4 input channels, got 0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {
        "x": torch.zeros(1, 4, 5, 6),
        "offset": torch.zeros(1, 18, 5, 6),
        "mask": torch.zeros(1, 9, 5, 6),
        "weight": torch.zeros(2, 4, 3, 3),
        "bias": None,
        "padding": 1,
    }
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv2d(**(arguments | change))


def test_a_new_pack_is_a_convolution_of_half_strength() -> None:
    pack = ModulatedDeformConv2dPack(4, 6, 3, padding=1, deform_groups=2)
    x = torch.randn(1, 4, 7, 8)
    torch.testing.assert_close(pack(x), F.conv2d(x, pack.weight, padding=1) / 2)
    assert list(pack.state_dict()) == ["weight", "bias", "conv_offset.weight", "conv_offset.bias"]


def test_a_pack_finds_its_offsets_in_the_other_feature() -> None:
    torch.manual_seed(0)
    pack = ModulatedDeformConv2dPack(4, 4, 3, stride=2, padding=1, deform_groups=2)
    torch.nn.init.normal_(pack.conv_offset.weight, std=0.2)
    x, feature = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    found = F.conv2d(feature, pack.conv_offset.weight, stride=2, padding=1)
    expected = modulated_deform_conv2d(
        x, found[:, :36], found[:, 36:].sigmoid(), pack.weight, stride=2, padding=1, deform_groups=2
    )
    torch.testing.assert_close(pack(x, feature), expected)
    assert not torch.allclose(pack(x), expected)


def test_a_module_refuses_groups_that_do_not_divide_its_channels() -> None:
    with pytest.raises(ValueError, match="deform_groups: expected a divisor of 4 channels, got 3"):
        ModulatedDeformConv2d(4, 4, 3, deform_groups=3)
    with pytest.raises(ValueError, match="groups: expected a divisor of 4 and 6 channels, got 4"):
        ModulatedDeformConv2d(4, 6, 3, groups=4)
