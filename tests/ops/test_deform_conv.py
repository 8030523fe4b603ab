"""Deformable convolution: against official numbers, plain convolutions and finite differences."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import deform_conv_cases
from torch import Tensor
from torch.library import opcheck

from vsr.ops import deform_conv, modulated_deform_conv2d
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


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("block_bytes", [2**24, 3000])  # in one block; row by row
@pytest.mark.parametrize(("arguments", "tensors"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_outputs_and_gradients_are_the_official_ones(
    arguments: dict[str, Any],
    tensors: dict[str, Tensor],
    block_bytes: int,
    dtype: torch.dtype,
    limit: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(deform_conv.BLOCK_BYTES, "cpu", block_bytes)
    given = {k: tensors[k].to(dtype, copy=True).requires_grad_() for k in INPUTS if k in tensors}
    out = modulated_deform_conv2d(*(given.get(k) for k in INPUTS), **arguments)
    out.backward(tensors["grad_output"].to(dtype))
    for name, got in {"out": out.detach(), **{f"grad_{k}": v.grad for k, v in given.items()}}.items():
        atol = limit * max(1.0, tensors[name].abs().max().item())
        torch.testing.assert_close(got.double(), tensors[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_golden_cases_cover_every_kind() -> None:
    assert {"groups2_dg4", "stride2", "dilation2", "nomask", "nobias", "far_outside"} <= {c[0] for c in CASES}


def test_no_offset_and_no_mask_is_a_plain_convolution() -> None:
    x, weight, bias = torch.randn(2, 6, 9, 7), torch.randn(4, 3, 3, 5), torch.randn(4)
    offset = torch.zeros(2, 2 * 15, 5, 7)
    got = modulated_deform_conv2d(x, offset, None, weight, bias, (2, 1), (1, 4), (1, 2), 2, 1)
    torch.testing.assert_close(got, F.conv2d(x, weight, bias, (2, 1), (1, 4), (1, 2), 2))


def test_an_offset_of_two_right_and_one_up_reads_the_picture_from_there() -> None:
    x = torch.randn(1, 1, 6, 8)
    offset = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    got = modulated_deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1))
    expected = torch.zeros_like(x)
    expected[..., 1:, :6] = x[..., :5, 2:]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


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


def test_gradients_match_finite_differences() -> None:
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
