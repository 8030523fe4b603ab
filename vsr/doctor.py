"""``python -m vsr.doctor``: what is installed, which code each operator runs here and why, how fast, how exact.

Exit status: 1 if compiled kernels differ from their definitions or fail, or if VSR_OPS=require cannot be met; else 0.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vsr
from vsr.ops import build, deform_conv, library, naf_block
from vsr.ops.build import BuildError
from vsr.utils.files import cache_root

TOLERANCE = 1e-4  # of the largest value of the definition's result, in float32
SECONDS = 0.5  # of measurement for each op, or four rounds
VARIABLES = (
    "VSR_OPS", "VSR_CPU_ISA", "VSR_CACHE", "VSR_BUILD_CUDA", "CXX", "NVCC", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST",
)  # fmt: skip


class Case(NamedTuple):
    """An op of torch.ops.vsr, realistic arguments for it, and the code that defines what it computes."""

    op: str
    shape: str
    arguments: tuple[Any, ...]
    definition: Callable[..., Tensor | Sequence[Tensor]]


def cases(device: torch.device) -> list[Case]:
    """Return a case for every op that has compiled kernels, in float32: 64 channels of 64x64 crops.

    One image on a CPU, 20 elsewhere.
    """
    rng = torch.Generator().manual_seed(0)
    b, c, side = 1 if device.type == "cpu" else 20, 64, 64
    shape = f"{b}x{c}x{side}x{side}"

    def image(channels: int) -> Tensor:
        return torch.randn(b, channels, side, side, generator=rng).to(device)

    def layer(*size: int) -> Tensor:
        return (torch.randn(size, generator=rng) / max(1, math.prod(size[1:])) ** 0.5).to(device)

    x, grad, groups = image(c), image(c), 8
    offset, mask, weight = 2 * image(18 * groups), image(9 * groups).sigmoid(), layer(c, c, 3, 3)
    settings = ([1, 1], [1, 1], [1, 1], 1, groups)
    found = [
        Case("modulated_deform_conv2d", shape, (x, offset, mask, weight, layer(c), *settings), deform_conv.definition),
        Case(
            "modulated_deform_conv2d_backward", shape, (grad, x, offset, mask, weight, *settings),
            deform_conv.definition_backward,
        ),
    ]  # fmt: skip
    norm, residual, between = (layer(c), layer(c), 1e-6), layer(1, c, 1, 1), image(2 * c)
    wide, kernel = (layer(2 * c, c, 1, 1), layer(2 * c)), (layer(2 * c, 1, 3, 3), layer(2 * c))
    narrow = (layer(c, c, 1, 1), layer(c))
    naf_block_cases: list[tuple[Any, tuple[Any, ...]]] = [
        (naf_block.mix_op, (x, *norm, *wide, *kernel, False)),
        (naf_block.feed_op, (x, grad, None, *narrow, residual, *norm, *wide, *narrow, residual, False)),
        (naf_block.up_op, (x, layer(2 * c, c, 1, 1), layer(b, c // 2, 2 * side, 2 * side))),
        (naf_block.up_backward_op, (layer(b, c // 2, 2 * side, 2 * side), x, layer(2 * c, c, 1, 1))),
        (naf_block.mix_backward_op, (grad, None, x, between, *norm, wide[0], *kernel)),
        (
            naf_block.feed_backward_op,
            (grad, x, None, *narrow, residual, *norm, wide[0], *narrow, residual, x, between),
        ),
    ]
    # the Python body of these ops is their definition
    return found + [Case(op._name, shape, arguments, op._init_fn) for op, arguments in naf_block_cases]


def devices() -> list[torch.device]:
    """Return the CPU, and the GPU or other accelerator that is present."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return [torch.device("cpu"), *([found] if found else [])]


def examine(device: torch.device, case: Case) -> dict[str, Any]:
    """Return which code an op runs on a device and why, its time, the definition's, and how far they differ."""
    row: dict[str, Any] = {"op": case.op, "device": device.type, "shape": case.shape, "problem": ""}
    try:
        live = library.load(device.type, case.op)
    except library.LibraryError as error:
        live, row["problem"] = False, str(error)
    with torch.no_grad():
        if live:
            state = library.find(device.type)
            row |= {"path": "compiled", "why": f"{state.origin}: {state.library}"}
            row |= compare(device, case)
        else:
            (row["definition_ms"],) = measure(device, case.arguments, case.definition)
            off = os.environ.get("VSR_OPS") == "off"
            row |= {"path": "definition", "why": "VSR_OPS=off" if off else why_not(device, case.op)}
    return row


def why_not(device: torch.device, op: str) -> str:
    state = library.find(device.type)
    return f"{state.library} has no kernel of {op}" if state.library else state.cause


def compare(device: torch.device, case: Case) -> dict[str, Any]:
    """Return the compiled kernel's time, and its difference from the definition; or what is wrong with it."""
    compiled = getattr(torch.ops.vsr, case.op)
    try:
        got = compiled(*case.arguments)
    except RuntimeError as error:  # such as a GPU that it is not compiled for
        (slow,) = measure(device, case.arguments, case.definition)
        return {"definition_ms": slow, "problem": f"{case.op} on {device.type}: {str(error).splitlines()[0]}"}
    fast, slow = measure(device, case.arguments, compiled, case.definition)
    expected = case.definition(*case.arguments)
    pairs = [(got, expected)] if isinstance(expected, Tensor) else list(zip(got, expected, strict=True))
    largest, problem = 0.0, ""
    for ours, right in pairs:
        if not right.numel():  # what was not asked for
            continue
        difference, bound = (ours - right).abs().max().item(), TOLERANCE * right.abs().max().item()
        largest = max(largest, difference)
        if not difference <= bound:  # also if it is NaN
            largest = difference
            problem = f"{case.op} on {device.type}: differs by {difference:.1e}, {bound:.1e} would be accepted"
            break
    return {"ms": fast, "definition_ms": slow, "difference": largest, "problem": problem}


def measure(device: torch.device, arguments: tuple[Any, ...], *functions: Callable[..., Any]) -> list[float]:
    """Return each function's shortest time in milliseconds. They take turns, so that a busy machine is so for all."""
    best, rounds, end = [math.inf] * len(functions), 0, time.perf_counter() + SECONDS
    while rounds < 4 or time.perf_counter() < end:
        for i, function in enumerate(functions):
            wait_for(device)
            start = time.perf_counter()
            function(*arguments)
            wait_for(device)
            best[i] = min(best[i], time.perf_counter() - start)
        rounds += 1
    return [round(seconds * 1e3, 3) for seconds in best]


def wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def installed() -> dict[str, str]:
    """Return what is there, by name."""
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    abi = "new" if torch.compiled_with_cxx11_abi() else "old"
    return {
        "vsr": f"{vsr.__version__} ({vsr.__path__[0]})",
        "python": f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, {cuda}, {abi} C++ ABI, {torch.get_num_threads()} threads",
        "torchvision": torchvision(),
        "numpy": version("numpy"),
        "opencv": version("cv2"),
        "C++ compiler": compiler("cpu"),
        "CUDA compiler": compiler("cuda"),
        "cache": cache(),
        "CPU": f"{torch.backends.cpu.get_cpu_capability()}{instruction_set()}",
        **{f"GPU {i}": gpu(i) for i in range(torch.cuda.device_count())},
        "settings": " ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "none",
    }


def torchvision() -> str:
    """Look for torchvision without importing it: vsr needs none, and one that does not match torch fails to import."""
    if importlib.util.find_spec("torchvision") is None:
        return "not installed (not needed)"
    try:
        return f"{importlib.metadata.version('torchvision')} (not needed)"
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version (not needed)"


def version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except Exception as error:  # whatever a broken installation raises
        return f"cannot be imported: {error}"


def compiler(kind: str) -> str:
    try:
        found = build.find_compiler(kind, build.installed_torch())
    except BuildError as error:
        return str(error)
    return f"{' '.join(found.command)}: {found.version}"


def cache() -> str:
    try:
        folder = cache_root()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return f"{folder}, can be written"
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        return f"cannot be written: {error}. Name another folder in VSR_CACHE"


def instruction_set() -> str:
    """Return which instruction set the compiled kernels for CPUs use, if they are loaded."""
    path = library.find("cpu").library if os.environ.get("VSR_OPS") != "off" else None
    chosen = getattr(ctypes.CDLL(str(path)), "vsr_cpu_isa", None) if path else None
    if chosen is None:
        return ""
    chosen.restype = ctypes.c_char_p
    name = chosen()
    return f", kernels for {name.decode()}" if name else f", and not VSR_CPU_ISA={os.environ.get('VSR_CPU_ISA')}"


def gpu(index: int) -> str:
    found = torch.cuda.get_device_properties(index)
    return f"{found.name}, {found.major}.{found.minor}, {found.total_memory / 2**30:.0f} GiB"


def text(report: dict[str, Any]) -> str:
    """Lay a report out for people."""
    lines = [f"{name:14} {value}" for name, value in report["installed"].items()]
    head = ("op", "device", "shape", "runs", "ms", "definition", "faster", "difference")
    table = [head]
    for row in report["ops"]:
        cells = [row[key] for key in ("op", "device", "shape", "path")]
        cells += [f"{row['ms']:.2f}" if "ms" in row else "-", f"{row['definition_ms']:.2f}"]
        cells += [f"{row['definition_ms'] / row['ms']:.1f} times" if "ms" in row else "-"]
        cells += [f"{row['difference']:.1e}" if "difference" in row else "-"]
        table.append(tuple(cells))
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines += ["", *("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)]
    lines += ["", *dict.fromkeys(f"{row['device']}: {row['path']}, {row['why']}" for row in report["ops"])]
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vsr.doctor", description="What runs here, why, and how fast.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        library.mode()
    except ValueError as error:
        raise SystemExit(str(error)) from None
    rows = [examine(device, case) for device in devices() for case in cases(device)]
    problems = list(dict.fromkeys(row["problem"] for row in rows if row["problem"]))
    report = {"installed": installed(), "ops": rows, "problems": problems}
    print(json.dumps(report, indent=1) if options.json else text(report))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
