"""The modulated deformable convolution (3x3) against torchvision's, mmcv's, a plain grid_sample form, and conv3x3.

    python benchmarks/deform_conv.py                  every line, on the CPU; 20 minutes or so
    python benchmarks/deform_conv.py --quick          the small shapes; a minute or two
    python benchmarks/deform_conv.py --cuda           on a GPU
    python benchmarks/deform_conv.py --torchvision-shim FILE    a Python file whose enable() makes torchvision's CPU
                                                      operators loadable beside a torch without CUDA

Claims (CPU, two threads): forward at least 6 times as fast as torchvision and mmcv, and 1.3 times as grid_sample;
forward and backward 12 and 1.5 times; extra memory at most 1.5 times that of conv3x3. On a GPU: twice and three times
as fast as torchvision, a quarter of its memory.

Times are the least of many, taken in turns so that a busy machine slows all alike; so ratios within one run count, and
single figures do not. Memory is what a fresh process's resident set (on a GPU: the allocator) grows by at its peak,
beyond the inputs.
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.ops import deform_conv, library, modulated_deform_conv2d  # noqa: E402
from vsr.registry import NETWORKS  # noqa: E402

# Name: batch, channels, height, width, deformable groups.
SHAPES = {
    "EDVR-M training: B 1, C 64, 64x64, 8 groups": (1, 64, 64, 64, 8),
    "B 4, C 64, 64x64, 8 groups": (4, 64, 64, 64, 8),
    "EDVR inference: B 1, C 64, 180x320, 8 groups": (1, 64, 180, 320, 8),
    "BasicVSR++: B 1, C 128, 180x320, 16 groups": (1, 128, 180, 320, 16),
}
QUICK = list(SHAPES)[:2]
PEERS = ("torchvision", "mmcv", "grid_sample")
FLOORS = ("conv3x3", "GEMM")
Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


# ---- the forms: (x, offset, mask, weight, bias, deformable groups) -> output, 3x3 with padding 1 ----


def ours(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    return modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1, deform_groups=groups)


def grid_sample_form(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """What one writes who has no compiled op: sample all taps at once, weigh them, multiply; autograd does the rest."""
    b, c, h, w = x.shape
    rows = torch.arange(h, device=x.device, dtype=offset.dtype).view(h, 1)
    columns = torch.arange(w, device=x.device, dtype=offset.dtype)
    taps = torch.arange(9, device=x.device).view(9, 1, 1)
    offset = offset.view(b * groups, 9, 2, h, w)
    y = offset[:, :, 0] + rows + (taps // 3 - 1)
    z = offset[:, :, 1] + columns + (taps % 3 - 1)
    grid = torch.stack(((2 * z + 1) / w - 1, (2 * y + 1) / h - 1), -1).view(b * groups, 9 * h, w, 2)
    image = x.view(b * groups, c // groups, h, w)
    sampled = F.grid_sample(image, grid.to(x.dtype), align_corners=False)
    weighed = sampled.view(b, groups, c // groups, 9, h, w) * mask.view(b, groups, 1, 9, h, w)
    out = weight.flatten(1) @ weighed.view(b, c * 9, h * w).to(x.dtype)
    return out.view(b, -1, h, w) + bias.view(-1, 1, 1)


def conv3x3(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def torchvision_form() -> Form:
    from torchvision.ops import deform_conv2d

    def form(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        if x.dtype == torch.bfloat16:  # as torchvision itself does under autocast
            return deform_conv2d(x.float(), offset, weight.float(), bias.float(), padding=1, mask=mask).bfloat16()
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    return form


def mmcv_form() -> Form:
    from mmcv.ops import modulated_deform_conv2d as peer

    def form(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        return peer(x, offset, mask, weight, bias, 1, 1, 1, 1, groups)

    return form


def all_forms(shim: str | None) -> dict[str, Form]:
    """The forms that this machine has; what it lacks is named on stderr."""
    forms: dict[str, Form] = {"conv3x3": conv3x3, "vsr": ours}
    for name, make in (("torchvision", torchvision_form), ("mmcv", mmcv_form)):
        try:
            if name == "torchvision" and shim:
                enable(shim)
            forms[name] = make()
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
    return {**forms, "grid_sample": grid_sample_form}


def enable(shim: str) -> None:
    specification = importlib.util.spec_from_file_location("torchvision_shim", shim)
    assert specification is not None, shim
    assert specification.loader is not None, shim
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.enable()


# ---- measuring ----


def inputs(shape: tuple[int, ...], device: str, dtype: torch.dtype, *, grad: bool) -> tuple[Any, ...]:
    """x, offset, mask, weight, bias, groups. Offsets are of a few pixels, as in training; float32, with the mask."""
    b, c, h, w, groups = shape
    draw = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(b, c, h, w, generator=draw).to(dtype),
        2 * torch.randn(b, 18 * groups, h, w, generator=draw),
        torch.rand(b, 9 * groups, h, w, generator=draw),
        (torch.randn(c, c, 3, 3, generator=draw) / (3 * c**0.5)).to(dtype),
        torch.randn(c, generator=draw).to(dtype),
    ]
    return *(t.to(device).requires_grad_(grad) for t in tensors), groups


def work(form: Form, given: tuple[Any, ...], *, grad: bool) -> Callable[[], object]:
    """What is timed: the form, and its backward pass."""
    if not grad:

        def forward() -> object:
            with torch.no_grad():
                return form(*given)

        return forward
    output = torch.ones_like(conv3x3(*given))

    def both() -> object:
        for tensor in given[:5]:
            tensor.grad = None
        return form(*given).backward(output)

    return both


def gemm_floor(shape: tuple[int, ...], device: str, dtype: torch.dtype, *, grad: bool) -> Callable[[], object]:
    """The matrix products alone: one forward, two more backward. What the columns hold does not matter."""
    b, c, h, w, _ = shape
    columns = torch.randn(b, 9 * c, h * w, device=device).to(dtype)
    kernel, out = torch.randn(c, 9 * c, device=device).to(dtype), torch.randn(b, c, h * w, device=device).to(dtype)

    def products() -> None:
        kernel @ columns
        if grad:
            kernel.mT @ out
            out @ columns.mT

    return products


def fastest(works: Mapping[str, Callable[[], object]], seconds: float, device: str) -> dict[str, float]:
    """Return the least milliseconds of each, taken in turns for about so long, and thrice at least."""
    for one in works.values():
        one()  # builds and loads what it needs
    best: dict[str, float] = dict.fromkeys(works, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, one in works.items():
            best[name] = min(best[name], _milliseconds(one, device))
        rounds += 1
    return best


def _milliseconds(one: Callable[[], object], device: str) -> float:
    if device == "cpu":
        began = time.perf_counter()
        one()
        return 1000 * (time.perf_counter() - began)
    count = 20  # so that the launch of the first is no part of it
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        one()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / count


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) / 1e3


def probe(name: str, shape: tuple[int, ...], *, grad: bool, shim: str | None) -> None:
    """Print by how many MB the resident set grows at its peak; run in a process of its own."""
    torch.set_num_threads(1)
    form = all_forms(shim)[name]
    small = (1, shape[1], 16, 16, shape[4])
    work(form, inputs(small, "cpu", torch.float32, grad=grad), grad=grad)()  # loads the code
    one = work(form, inputs(shape, "cpu", torch.float32, grad=grad), grad=grad)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    one()
    print(resident("VmHWM") - before)


def memory(name: str, label: str, *, grad: bool, shim: str | None) -> float:
    command = [sys.executable, __file__, "--probe", name, label, str(int(grad))]
    command += ["--torchvision-shim", shim] if shim else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def cuda_memory(one: Callable[[], object]) -> float:
    one()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


# ---- tables ----


def cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def times_table(arguments: argparse.Namespace, forms: dict[str, Form], *, grad: bool) -> None:
    device, what = ("cuda" if arguments.cuda else "cpu"), "forward and backward" if grad else "forward"
    columns = [*FLOORS, "vsr", *PEERS]
    extra = [] if grad or arguments.cuda else ["vsr bf16"]
    print(f"\n{what.capitalize()}, ms:\n")
    row(
        "shape",
        "type" if arguments.cuda else "threads",
        *columns,
        *extra,
        *(f"{p} / vsr" for p in PEERS),
        "vsr / conv3x3",
    )
    row(*["---"] * (2 + len(columns) + len(extra) + len(PEERS) + 1))
    kinds: list[Any] = [torch.float32, torch.bfloat16] if arguments.cuda else arguments.threads
    for label in QUICK if arguments.quick else SHAPES:
        for kind in kinds:
            dtype = kind if arguments.cuda else torch.float32
            if not arguments.cuda:
                torch.set_num_threads(kind)
            given = inputs(SHAPES[label], device, dtype, grad=grad)
            works = {name: work(form, given, grad=grad) for name, form in forms.items()}
            if dtype != torch.float32:
                works = {name: one for name, one in works.items() if _runs(one)}
            works["GEMM"] = gemm_floor(SHAPES[label], device, dtype, grad=grad)
            if extra:
                works["vsr bf16"] = work(ours, inputs(SHAPES[label], device, torch.bfloat16, grad=False), grad=False)
            found = fastest(works, arguments.seconds, device)
            ratios = [found[p] / found["vsr"] if p in found else None for p in PEERS]
            figures = [found.get(name) for name in (*columns, *extra)]
            row(
                label,
                str(kind).removeprefix("torch."),
                *map(cell, [*figures, *ratios, found["vsr"] / found["conv3x3"]]),
            )


def _runs(one: Callable[[], object]) -> bool:
    try:
        one()
    except RuntimeError:  # a peer has no kernel for this type
        return False
    return True


def memory_table(arguments: argparse.Namespace, forms: dict[str, Form]) -> None:
    names = [name for name in ("conv3x3", "vsr", *PEERS) if name in forms]
    print("\nPeak memory beyond the inputs, MB, forward / forward and backward:\n")
    row("shape", *names)
    row(*["---"] * (1 + len(names)))
    for label in QUICK if arguments.quick else SHAPES:
        cells = []
        for name in names:
            figures = []
            for grad in (False, True):
                if arguments.cuda:
                    given = inputs(SHAPES[label], "cuda", torch.float32, grad=grad)
                    figures.append(cuda_memory(work(forms[name], given, grad=grad)))
                else:
                    figures.append(memory(name, label, grad=grad, shim=arguments.torchvision_shim))
            cells.append(" / ".join(map(cell, figures)))
        row(label, *cells)


@contextlib.contextmanager
def in_place(form: Form) -> Iterator[None]:
    """Let every deformable layer of vsr's networks compute by another form."""

    def replacement(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, *settings: Any) -> Tensor:
        return form(x, offset, mask, weight, bias, settings[-1])

    with mock.patch.object(deform_conv, "modulated_deform_conv2d", replacement):
        yield


def network_table(arguments: argparse.Namespace, forms: dict[str, Form]) -> None:
    """EDVR-M, whole, with each form of its deformable layers; conv3x3 in their place is the floor."""
    device = "cuda" if arguments.cuda else "cpu"
    torch.manual_seed(0)
    network = NETWORKS.build({"type": "EDVR"}).to(device)
    for name, parameter in network.named_parameters():
        if "conv_offset.weight" in name:  # offsets that are not all zero
            torch.nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    small, target = torch.rand(1, 5, 3, 64, 64, device=device), torch.rand(1, 3, 256, 256, device=device)
    height, width = (64, 64) if arguments.quick else (180, 320)
    frames = torch.rand(1, 5, 3, height, width, device=device)

    def step() -> None:
        optimizer.zero_grad()
        torch.sqrt((network(small) - target).square() + 1e-12).mean().backward()
        optimizer.step()

    def restore() -> None:
        with torch.no_grad():
            network(frames)

    names = [name for name in ("conv3x3", "vsr", *PEERS) if name in forms]
    print("\nEDVR-M as a whole, ms:\n")
    row("work", "threads", *names, *(f"{p} / vsr" for p in names[2:]), "vsr / conv3x3")
    row(*["---"] * (3 + len(names) + len(names[2:])))
    labels = {"training step, B 1, 5x64x64": step, f"inference, one window of 5x{height}x{width}": restore}
    for label, one in labels.items():
        for threads in arguments.threads if device == "cpu" else [1]:
            torch.set_num_threads(threads)

            def with_form(form: Form, one: Callable[[], None] = one) -> Callable[[], None]:
                def run() -> None:
                    with in_place(form):
                        one()

                return run

            found = fastest({name: with_form(forms[name]) for name in names}, arguments.seconds, device)
            ratios = [found[name] / found["vsr"] for name in (*names[2:],)]
            figures = [found[name] for name in names]
            row(label, str(threads), *map(cell, [*figures, *ratios, found["vsr"] / found["conv3x3"]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small shapes, and less time for each")
    parser.add_argument("--cuda", action="store_true", help="on a GPU, float32 and bfloat16")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the CPU")
    parser.add_argument("--seconds", type=float, help="for each line, all forms together (default 20; quick: 3)")
    parser.add_argument("--torchvision-shim", metavar="FILE", help="a Python file to call enable() of, see above")
    parser.add_argument("--only", nargs="+", choices=["forward", "backward", "memory", "network"], help="these tables")
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (3.0 if arguments.quick else 20.0)
    if arguments.probe:
        name, label, grad = arguments.probe
        probe(name, SHAPES[label], grad=grad == "1", shim=arguments.torchvision_shim)
        return
    forms = all_forms(arguments.torchvision_shim)
    device = "cuda" if arguments.cuda else "cpu"
    given = inputs((1, 8, 4, 4, 1), device, torch.float32, grad=False)
    for name, form in forms.items():
        if name != "conv3x3":  # they compute the same, or the table says nothing
            torch.testing.assert_close(form(*given), ours(*given), rtol=1e-3, atol=1e-3)
    kernel = f"the compiled {device} kernels"
    if not library.load(device, "modulated_deform_conv2d"):
        kernel = f"the definition ({library.find(device).cause or 'VSR_OPS=off'})"
    chip = torch.cuda.get_device_name() if arguments.cuda else torch.backends.cpu.get_cpu_capability()
    wish = os.environ.get("VSR_CPU_ISA")
    print(f"vsr runs {kernel}{f', VSR_CPU_ISA={wish}' if wish else ''}; torch {torch.__version__}, {chip}")
    tables = arguments.only or ["forward", "backward", "memory", "network"]
    for table in tables:
        if table in ("forward", "backward"):
            times_table(arguments, forms, grad=table == "backward")
        elif table == "memory":
            memory_table(arguments, forms)
        else:
            network_table(arguments, forms)


if __name__ == "__main__":
    main()
