"""Reads of a memory: time and memory against unfolded neighbourhoods and against softmaxes with all their weights.

    python benchmarks/memory_reads.py                      all lines but frame_whole, which takes minutes
    python benchmarks/memory_reads.py --lines train_crop5  some of them
    python benchmarks/memory_reads.py --rounds 5

Claim: with crop 5, at most a third of the memory of unfolding, and no more time, at 64x64 and at 180x320, with the
backward pass and without; for the whole space, at most a third of the memory of all weights at once.

Forms of a neighbourhood: F.unfold of keys and values, then products and sums, or einsum, which copies them; slices
that autograd differentiates, each product kept; and vsr's. Of the whole space: all weights at once; PyTorch's fused
attention, which joins the slots; and vsr's, which also tells the weight of each slot.

All weights of the whole space at 180x320 would be 66 GB. They are compared where they fit, in 12 GB: for 8 rows of the
query in all positions, and for the whole query in every fourth row and column. frame_whole measures vsr's form alone on
all of it.

One window of 5 frames, float32. At 64x64 times are the least of several rounds taken in turns, at 180x320 of one run;
processor time of one thread. Memory is what a fresh process's resident set grows by at its peak, beyond the inputs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from networks import difference, fastest, resident
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.archs.memory import read_everywhere, read_neighbourhood, read_similarity  # noqa: E402

FRAMES = 5
Read = Callable[[Tensor, Tensor, Tensor], Tensor]


def unfolded(q: Tensor, k: Tensor, v: Tensor, crop: int, *, einsum: bool) -> Tensor:
    """A neighbourhood of columns: keys and values (b, m, d, crop^2, h * w)."""
    (b, m, d), (h, w) = k.shape[:3], k.shape[3:]
    keys, values = (F.unfold(x.flatten(0, 1), crop, padding=crop // 2).view(b, m, d, crop**2, h * w) for x in (k, v))
    inside = F.unfold(torch.ones(1, 1, h, w), crop, padding=crop // 2).view(crop**2, h * w) > 0
    q = q.flatten(2) / d**0.5
    products = torch.einsum("bdn,bmdkn->bmkn", q, keys) if einsum else (q[:, None, :, None] * keys).sum(2)
    weights = products.masked_fill(~inside, -torch.inf).flatten(1, 2).softmax(1).view(b, m, crop**2, h * w)
    out = torch.einsum("bmkn,bmdkn->bdn", weights, values) if einsum else (weights.unsqueeze(2) * values).sum((1, 3))
    return out.view(b, d, h, w)


def sliced(q: Tensor, k: Tensor, v: Tensor, crop: int) -> Tensor:
    """A neighbourhood of slices of padded keys, whose products autograd keeps."""
    r, (h, w) = crop // 2, q.shape[2:]
    keys, values, inside = (F.pad(x, (r, r, r, r)) for x in (k, v, torch.ones(1, 1, 1, h, w)))
    taps = [(slice(y, y + h), slice(x, x + w)) for y in range(crop) for x in range(crop)]
    q = q.unsqueeze(1) / q.shape[1] ** 0.5
    logits = [(q * keys[..., y, x]).sum(2).masked_fill(inside[:, 0, :, y, x] == 0, -torch.inf) for y, x in taps]
    weights = torch.stack(logits, 2).flatten(1, 2).softmax(1).unflatten(1, (k.shape[1], crop**2))
    out = torch.zeros_like(q[:, 0])
    for tap, (y, x) in enumerate(taps):
        out = out + (weights[:, :, tap].unsqueeze(2) * values[..., y, x]).sum(1)
    return out


def joined(x: Tensor) -> Tensor:
    """Slots (b, m, d, h, w) as one list of positions (b, m * h * w, d)."""
    return x.permute(0, 1, 3, 4, 2).flatten(1, 3)


def materialised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The whole space with all weights (b, h * w, m * h * w) at once."""
    weights = torch.softmax((q.flatten(2) / q.shape[1] ** 0.5).mT @ joined(k).mT, 2)
    return (weights @ joined(v)).mT.unflatten(2, q.shape[2:])


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    found = F.scaled_dot_product_attention(q.flatten(2).mT.unsqueeze(1), joined(k).unsqueeze(1), joined(v).unsqueeze(1))
    return found[:, 0].mT.unflatten(2, q.shape[2:])


def neighbourhoods(crop: int, *, einsum: bool = True) -> dict[str, Read]:
    return {
        "unfold, products": lambda q, k, v: unfolded(q, k, v, crop, einsum=False),
        **({"unfold, einsum": lambda q, k, v: unfolded(q, k, v, crop, einsum=True)} if einsum else {}),
        "slices, all kept": lambda q, k, v: sliced(q, k, v, crop),
        "vsr": lambda q, k, v: read_neighbourhood(q, k, v, crop=crop)[0],
    }


SEARCHES: dict[str, Read] = {
    "all weights": materialised,
    "fused": fused,
    "vsr": lambda q, k, v: read_everywhere(q, k, v)[0],
}


class Line(NamedTuple):
    """What is measured: of a window of so many channels and pixels, in which forms. ``rounds`` false: one run."""

    what: str
    channels: int
    size: tuple[int, int]
    backward: bool
    forms: dict[str, Read]
    rounds: bool = True


def of_rows(rows: int) -> dict[str, Read]:
    def of(read: Read) -> Read:
        return lambda q, k, v: read(q[:, :, :rows], k, v)

    return {name: of(read) for name, read in SEARCHES.items()}


def with_stride(stride: int) -> dict[str, Read]:
    def thinned(read: Read) -> Read:
        return lambda q, k, v: read(q, k[..., ::stride, ::stride], v[..., ::stride, ::stride])

    forms = {name: thinned(read) for name, read in SEARCHES.items() if name != "vsr"}
    return forms | {"vsr": lambda q, k, v: read_everywhere(q, k, v, key_stride=stride)[0]}


SMALL, FRAME = (64, 64), (180, 320)
LINES = {
    "train_crop3": Line("crop 3, 128 channels, 64x64, with backward", 128, SMALL, True, neighbourhoods(3)),
    "train_crop5": Line(
        "crop 5, 128 channels, 64x64, with backward", 128, SMALL, True, neighbourhoods(5, einsum=False)
    ),
    "frame_crop5": Line(
        "crop 5, 64 channels, 180x320, forward", 64, FRAME, False, neighbourhoods(5, einsum=False), rounds=False
    ),
    "frame_crop5_train": Line(
        "crop 5, 64 channels, 180x320, with backward", 64, FRAME, True, neighbourhoods(5, einsum=False), rounds=False
    ),
    "train_space": Line(
        "whole space, 64 channels, 64x64, with backward", 64, SMALL, True,
        SEARCHES | {"vsr, chunk 128": lambda q, k, v: read_everywhere(q, k, v, chunk=128)[0]},
    ),
    "frame_rows": Line(
        "whole space, of 8 of 180x320's rows, 64 channels, forward", 64, FRAME, False, of_rows(8), rounds=False
    ),
    "frame_stride": Line(
        "every fourth row and column, 64 channels, 180x320, forward", 64, FRAME, False, with_stride(4), rounds=False
    ),
    "frame_whole": Line(
        "whole space, 64 channels, 180x320, forward", 64, FRAME, False, {"vsr": SEARCHES["vsr"]}, rounds=False
    ),
    "train_slots": Line(
        "slots, 64 channels, 64x64, with backward", 64, SMALL, True,
        {"vsr, pixsim": lambda q, k, v: read_similarity(q, k, v)[0]},
    ),
}  # fmt: skip


def works(line: str) -> dict[str, Callable[[], list[Tensor]]]:
    """The forms of a line, each as a function that returns the result and, with the backward pass, the gradients."""
    _, channels, size, backward, forms, _ = LINES[line]
    torch.manual_seed(0)
    q, k, v = (torch.randn((*shape, channels, *size)) for shape in ((1,), (1, FRAMES), (1, FRAMES)))
    tensors = [x.requires_grad_(backward) for x in (q, k, v)]

    def work(read: Read) -> list[Tensor]:
        out = read(*tensors)
        return [out.detach(), *(torch.autograd.grad(out.square().sum(), tensors) if backward else ())]

    return {name: (lambda read=read: work(read)) for name, read in forms.items()}


def compare(line: str, rounds: int) -> None:
    """Print a row for each form of a line."""
    done = works(line) if LINES[line].rounds else {}
    times = fastest(done, rounds, time.process_time)
    first = None
    for name in LINES[line].forms:
        seconds, grown, result = fresh(line, name)
        seconds = times.get(name, seconds)
        first = first or (seconds, grown, result)
        cells = (
            LINES[line].what if first[2] is result else "", name, f"{1e3 * seconds:.0f}", f"{first[0] / seconds:.2f}",
            f"{grown:.0f}", f"{grown / first[1]:.2f}", f"{difference(first[2], result):.0e}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def fresh(line: str, name: str) -> tuple[float, float, list[Tensor]]:
    """Run one form once in a fresh process: seconds, MB by which that grows, and the result."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.pth"
        command = [sys.executable, __file__, "--probe", line, name, str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
        return float(told[0]), float(told[1]), torch.load(file, weights_only=True)


def probe(line: str, name: str, file: str) -> None:
    work = works(line)[name]
    torch.ones(64, 64) @ torch.ones(64, 64)  # the libraries' own buffers
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    began = time.process_time()
    result = work()
    print(time.process_time() - began, resident("VmHWM") - before)
    torch.save(result, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lines", nargs="+", choices=list(LINES), default=[name for name in LINES if name != "frame_whole"]
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.probe:
        probe(*given.probe)
        return
    print("| read | form | ms | times as fast | memory, MB | share | greatest difference |")
    print(f"|{'---|' * 7}")
    for line in given.lines:
        compare(line, given.rounds)


if __name__ == "__main__":
    main()
