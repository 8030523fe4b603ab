"""The two ops of NAFNet's block: finite differences, plain layers, and the compiled kernels against the definition."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from vsr.archs.nafnet import NAFBlock
from vsr.ops import library, naf_block

# batch, channels, height, width: less than a vector, more than a tile, sides that no vector divides, single pixels
SHAPES = [(2, 4, 3, 5), (1, 32, 17, 23), (2, 12, 1, 1), (1, 7, 40, 70), (3, 64, 9, 33), (1, 3, 1, 130), (1, 5, 90, 2)]
compiled = pytest.mark.skipif(
    os.environ.get("VSR_OPS") == "off" or not library.load("cpu", "naf_mix"), reason="no compiled CPU kernels"
)


def arguments(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[list[Any], list[Any]]:
    """Those of the ops naf_mix and naf_feed, without ``keep``."""
    rng = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        fan_in = size[1] * size[2] * size[3] if len(size) == 4 and size[0] > 1 and size[2] in (1, 3) else 1
        return (torch.randn(size, generator=rng, dtype=torch.float64) / fan_in**0.5).to(dtype)

    b, c = shape[:2]
    mix = [torch.randn(shape, generator=rng).to(dtype), normal(c), normal(c), 1e-6]
    mix += [normal(2 * c, c, 1, 1), normal(2 * c), normal(2 * c, 1, 3, 3), normal(2 * c)]
    feed = [torch.randn(shape, generator=rng).to(dtype) for _ in range(2)]
    feed += [torch.randn(b, c, 1, 1, generator=rng).to(dtype), normal(c, c, 1, 1), normal(c), normal(1, c, 1, 1)]
    feed += [normal(c), normal(c), 1e-6, normal(2 * c, c, 1, 1), normal(2 * c)]
    feed += [normal(c, c, 1, 1), normal(c), normal(1, c, 1, 1)]
    return mix, feed


def to(values: list[Any], dtype: torch.dtype) -> list[Any]:
    return [v.to(dtype) if isinstance(v, Tensor) else v for v in values]


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences() -> None:
    # in a process of its own: here the compiled kernels may be loaded, and they know float32 only
    code = (
        "import sys; sys.path.insert(0, 'tests/ops'); import torch; from torch import Tensor\n"
        "from test_naf_block import arguments; from vsr.ops import naf_block as n\n"
        "mix, feed = arguments((2, 4, 3, 5))\n"
        "for op, values in ((n.mix_op, mix), (n.feed_op, feed), (n.feed_op, [*feed[:2], None, *feed[3:]])):\n"
        "    values = [v.requires_grad_() if isinstance(v, Tensor) else v for v in values]\n"
        "    differentiable = slice(2 if op is n.mix_op else 1)\n"
        "    assert torch.autograd.gradcheck(lambda *v: op(*v, True)[differentiable], values)\n"
        "sizes = (2, 3, 2, 3), (8, 3, 1, 1), (2, 2, 4, 6)\n"
        "values = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes]\n"
        "assert torch.autograd.gradcheck(n.up_op, values)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, env=os.environ | {"VSR_OPS": "off"})


def pairs(shape: tuple[int, int, int, int]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Every op by name, its definition, and arguments in float64."""
    b, c, h, w = shape
    mix, feed = arguments(shape)
    rng = torch.Generator().manual_seed(2)
    image, grad, more, wide = (torch.randn(b, n * c, h, w, generator=rng, dtype=torch.float64) for n in (1, 1, 1, 2))
    for keep in (True, False):
        yield "naf_mix", naf_block.mix_op, [*mix, keep]
        yield "naf_feed", naf_block.feed_op, [*feed, keep]
    yield "naf_feed", naf_block.feed_op, [*feed[:2], None, *feed[3:], True]
    for means in (feed[2], None):
        yield "naf_mix_backward", naf_block.mix_backward_op, [grad, means, image, wide, *mix[1:5], *mix[6:]]
    k = c // 2 + 1
    weight, skip = torch.randn(4 * k, c, 1, 1, generator=rng) / c**0.5, torch.randn(b, k, 2 * h, 2 * w, generator=rng)
    yield "naf_up", naf_block.up_op, [image, weight.double(), skip.double()]
    yield "naf_up_backward", naf_block.up_backward_op, [skip.double(), image, weight.double()]
    rest = [*feed[3:10], *feed[11:], image, wide]
    yield "naf_feed_backward", naf_block.feed_backward_op, [grad, more, feed[2], *rest]
    yield "naf_feed_backward", naf_block.feed_backward_op, [grad, more, None, *rest]


@compiled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_compiled_kernels_are_the_definition(shape: tuple[int, int, int, int]) -> None:
    for name, definition, values in pairs(shape):
        expected = definition._init_fn(*values)
        for given, wanted in zip(getattr(torch.ops.vsr, name)(*to(values, torch.float32)), expected, strict=True):
            limit = 2e-6 * max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0)
            torch.testing.assert_close(given.double(), wanted, rtol=0, atol=limit, msg=name)


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_every_instruction_set_gives_the_same_and_any_number_of_threads_the_very_same(isa: str) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/ops'); import torch; from test_naf_block import *\n"
        "for shape in SHAPES[:4]: test_the_compiled_kernels_are_the_definition(shape)\n"
        "mix, feed = arguments((2, 8, 50, 41), torch.float32); results = []\n"
        "for threads in (1, 2, 3):\n"
        "    torch.set_num_threads(threads)\n"
        "    results.append([*torch.ops.vsr.naf_mix(*mix, True), *torch.ops.vsr.naf_feed(*feed, True)])\n"
        "assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))\n"
    )
    if isa == "avx2" and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this CPU has no AVX2")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, env=os.environ | {"VSR_CPU_ISA": isa})


@pytest.mark.parametrize("attention", ["sca", "eca", "none"])
@pytest.mark.parametrize("depthwise", ["conv", "doconv"])
def test_a_block_and_its_gradients_are_those_of_its_layers(
    attention: str, depthwise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = NAFBlock(8, attention=attention, depthwise=depthwise)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 8, 9, 21, requires_grad=True)
    results = []
    for usable in (lambda _: False, lambda _: True):  # the ops run where there are no kernels, too
        monkeypatch.setattr(naf_block, "usable", usable)
        out = block(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4 * max(1.0, plain.abs().max().item()))


def test_the_ops_keep_the_rules_of_custom_ops() -> None:
    mix, feed = arguments((2, 4, 3, 5), torch.float32)
    for op, values in ((torch.ops.vsr.naf_mix, [*mix, True]), (torch.ops.vsr.naf_feed, [*feed, True])):
        values = [v.requires_grad_() if isinstance(v, Tensor) else v for v in values]
        opcheck(op, tuple(values), test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


@compiled
def test_where_the_kernels_serve_and_where_they_do_not() -> None:
    x = torch.rand(1, 2, 3, 4)
    assert naf_block.usable(x)
    assert not naf_block.usable(x.double())
    assert not naf_block.usable(x.bfloat16())
    assert not naf_block.usable(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not naf_block.usable(x)


@compiled
def test_weights_that_do_not_fit_are_refused() -> None:
    mix, _ = arguments((1, 4, 3, 5), torch.float32)
    with pytest.raises(RuntimeError, match="do not fit the channels"):
        torch.ops.vsr.naf_mix(mix[0], mix[1][:-1], *mix[2:], False)
