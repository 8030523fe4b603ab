"""FMA-Net on the CPU against the same network written plainly: its dynamic filters, a forward pass, a training step.

    python benchmarks/fmanet.py                      all lines
    python benchmarks/fmanet.py "training step"      lines whose name begins so
    python benchmarks/fmanet.py --rounds 5
    python benchmarks/fmanet.py --count              a training step's memory as the sum of tensors, in seconds

Claims (one thread, float32): everything at least 1.5 times as fast, in at most half the memory.

The plain form (tests/naive_fmanet.py) follows the paper: convolutions of clips, dense layers that join what they see,
filters by unfold, whole tensors throughout. Both forms have the same weights, and the differences of their results are
printed. Times are the least of some rounds, taken in turns, of the processor's time (--rounds 0: of one alone, without
differences). Memory is what a fresh process's resident set grows by at its peak, beyond weights and inputs; gradients
of weights belong to it.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import naive_fmanet as plain  # noqa: E402

from vsr.archs.blocks import checkpoint_activations  # noqa: E402
from vsr.archs.fmanet import FMANet  # noqa: E402
from vsr.ops.dynamic_filter import down_filter, up_filter  # noqa: E402

Work = Callable[[], list[Tensor]]
CONFIG = {"num_RDB": 12, "num_dense_layer": 4, "num_FRMA": 4, "num_transformer_block": 2, "num_heads": 6, "num_seq": 3}
CONFIG |= {"us_kernel_size": 5, "scale": 4, "stage": 2}


def down(height: int, width: int, *, backward: bool, ours: bool) -> Work:
    frames, seen = (torch.rand(1, c, 3, 4 * height, 4 * width) for c in (3, 1))
    logits = torch.randn(1, 400, 3, height, width)
    if ours:
        return work_of(lambda x, k, o: down_filter(x, k, o, kernel_size=20, stride=4), backward, frames, logits, seen)
    return work_of(lambda x, k, o: plain.down_filter(x, k, o.expand_as(x), 20, 4), backward, frames, logits, seen)


def up(height: int, width: int, *, backward: bool, ours: bool) -> Work:
    frames, kernels = torch.rand(1, 3, 3, height, width), torch.randn(1, 400, 3, height, width)
    if ours:
        return work_of(lambda x, k: up_filter(x, k, kernel_size=5, scale=4), backward, frames, kernels)
    return work_of(lambda x, k: plain.up_filter(x, k, 5, 4), backward, frames, kernels)


def work_of(function: Callable[..., Tensor], backward: bool, *given: Tensor) -> Work:
    if not backward:
        return lambda: [torch.no_grad()(function)(*given)]
    inputs = [x.requires_grad_() for x in given]
    return lambda: list(torch.autograd.grad(function(*inputs).square().mean(), inputs))


def network(*, ours: bool, recompute: bool = False) -> Any:
    """The published size, with small random weights; the plain one has the same."""
    built = FMANet()
    if recompute:
        checkpoint_activations(built)
    if ours:
        return built
    config = {"LayerNorm_type": "WithBias", **CONFIG}
    return plain.Naive(config, {name: value.requires_grad_() for name, value in built.state_dict().items()})


def forward(height: int, width: int, *, ours: bool) -> Work:
    net, x = network(ours=ours), torch.rand(1, 3, 3, height, width)
    return lambda: [torch.no_grad()(net)(x)["output"]]


def step(size: int, *, ours: bool, recompute: bool = False) -> Work:
    net, x, y = (
        network(ours=ours, recompute=recompute),
        torch.rand(1, 3, 3, size, size),
        torch.rand(1, 3, 3, 4 * size, 4 * size),
    )
    weights = [value for _, value in net.named_parameters()] if ours else list(net.weights.values())

    def work() -> list[Tensor]:
        outputs = net(x, y)
        loss = sum((value - 0.5).abs().mean() for value in outputs.values())
        gradients = torch.autograd.grad(loss, weights)
        return [torch.stack([gradient.norm() for gradient in gradients])]

    return work


LINES: dict[str, dict[str, Callable[[], Work]]] = {
    name: {"plain": partial(make, *sizes, ours=False, **options), "ours": partial(make, *sizes, ours=True, **options)}
    for name, make, sizes, options in (
        ("down-filter at 180x320", down, (180, 320), {"backward": False}),
        ("down-filter at 64x64 and its gradients", down, (64, 64), {"backward": True}),
        ("up-filter at 180x320", up, (180, 320), {"backward": False}),
        ("up-filter at 64x64 and its gradients", up, (64, 64), {"backward": True}),
        ("forward at 45x80", forward, (45, 80), {}),
        ("forward at 180x320", forward, (180, 320), {}),
        ("training step at 64x64", step, (64,), {}),
    )
}
LINES["training step at 64x64"]["ours, activations recomputed"] = partial(step, 64, ours=True, recompute=True)


def made(line: str, form: str) -> Work:
    torch.manual_seed(0)
    return LINES[line][form]()


class Live(TorchDispatchMode):
    """Adds up the tensors that are alive at a time, on whatever device: on the meta device nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[StorageWeakRef(storage)] = storage.nbytes()
        total = sum(self.alive.values())
        if total > self.peak:  # only then look what is gone
            self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
            self.peak = max(self.peak, sum(self.alive.values()))
        return out


def count(line: str) -> None:
    """Print MB of tensors, results and all in between, that each form of a line has at a time."""
    peaks = {}
    for form, make in LINES[line].items():
        with torch.device("meta"):
            work = make()
            with Live() as live:
                work()
        peaks[form] = live.peak / 1e6
        print(f"| {line} | {form} | {peaks[form]:.0f} | {peaks[form] / peaks['plain']:.2f} |", flush=True)


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) / 1e3


def alone(line: str, form: str) -> tuple[float, float]:
    """MB by which a fresh process grows, and its seconds."""
    command = [sys.executable, __file__, "--probe", line, form]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    grown, seconds = done.stdout.split()[-2:]
    return float(grown), float(seconds)


def probe(line: str, form: str) -> None:
    work = made(line, form)
    for make in (down, up):  # PyTorch loads much where an operator first runs
        for ours in (True, False):
            make(2, 2, backward=True, ours=ours)()
    torch.optim.Adam([torch.ones(1, requires_grad=True)]).step()  # loads the compiler, as every training does
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    began = time.process_time()
    work()
    print(resident("VmHWM") - before, time.process_time() - began)


def measure(line: str, rounds: int) -> None:
    single = {form: alone(line, form) for form in LINES[line]}
    grown, best = ({form: both[i] for form, both in single.items()} for i in (0, 1))
    works = {form: made(line, form) for form in LINES[line]} if rounds else {}
    results: dict[str, list[Tensor]] = {}
    for _ in range(rounds):
        for form, work in works.items():
            began = time.process_time()
            results[form] = work()
            best[form] = min(best[form], time.process_time() - began)
    for form in LINES[line]:
        pairs = zip(results["plain"], results[form], strict=True) if rounds else ()
        off = max((((a - b).abs().max() / a.abs().max()).item() for a, b in pairs), default=float("nan"))
        faster, smaller = best["plain"] / best[form], grown[form] / grown["plain"]
        cells = (line, form, f"{best[form]:.2f}", f"{faster:.2f}", f"{grown[form]:.0f}", f"{smaller:.2f}", f"{off:.1e}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help="beginnings of lines' names; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", action="store_true", help="only add up the tensors of a training step")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.probe:
        probe(*arguments.probe)
        return
    names = [line for line in LINES if not arguments.lines or line.startswith(tuple(arguments.lines))]
    if arguments.count:
        print("| work | form | tensors, MB | of plain |\n|---|---|---|---|")
        for line in names:
            if "step" in line:  # of filters the inside is not seen, and whole frames go in bands, but not here
                count(line)
        return
    print("| work | form | s | times as fast | memory, MB | of plain | difference |\n|---|---|---|---|---|---|---|")
    for line in names:
        measure(line, arguments.rounds)


if __name__ == "__main__":
    main()
