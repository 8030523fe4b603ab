"""Cross attention of stereo pairs (NAFSSR's SCAM) at the width of KITTI: time and memory with and without row chunks.

    python benchmarks/stereo_attention.py              94x310 (KITTI at x4) and 375x1242 (a KITTI frame, enlarged)
    python benchmarks/stereo_attention.py --sizes 94x310 --rounds 8
    python benchmarks/stereo_attention.py --network    NAFSSR-T x4 as a whole, each form once, within --limit_s

Claim: at 375x1242 SCAM needs at most a fifth of the memory of attention with all its weights, and no more time.

A row of w pixels has w x w weights in each direction. Forms: all weights as a tensor, softmax(q k^T) v; PyTorch's
fused attention on features as convolutions leave them, (b, c, h, w) in memory, for which it makes that tensor, too; the
same on channels last, in blocks; and SCAM itself, some rows at a time. The last two are told apart by the rest of the
layer: norms and projections, which chunks bound, too. A line 'forced' has PyTorch make all weights whatever the layout,
as it does on devices without a fused kernel: there only the chunks bound the memory.

One pair, 48 channels, float32, inference. Times are the least of several rounds taken in turns, with one thread the
processor's; memory is what a fresh process's resident set grows by at its peak, beyond weights and inputs.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from networks import difference, resident
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.archs.nafssr import NAFSSR, SCAM  # noqa: E402

CHANNELS = 48
Exchange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def all_weights(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (b, h, w, c) with all its weights (b, h, w, w) at once."""
    return torch.softmax(query * query.shape[3] ** -0.5 @ key.mT, 3) @ value


def scam(attention: Callable[[Tensor, Tensor, Tensor], Tensor], *, last: bool) -> Exchange:
    """SCAM written plainly, all rows at once; ``last``: what attends lies channels last in memory."""
    layer = module(None)

    def features(projected: Tensor) -> Tensor:
        layout = torch.channels_last if last else torch.contiguous_format
        return projected.contiguous(memory_format=layout).permute(0, 2, 3, 1)

    def exchange(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        queries = features(layer.l_proj1(layer.norm_l(left))), features(layer.r_proj1(layer.norm_r(right)))
        values = features(layer.l_proj2(left)), features(layer.r_proj2(right))
        found_left = attention(queries[0], queries[1], values[1]).permute(0, 3, 1, 2)
        found_right = attention(queries[1], queries[0], values[0]).permute(0, 3, 1, 2)
        return left + found_left * layer.beta, right + found_right * layer.gamma

    return exchange


def module(rows: int | None) -> SCAM:
    torch.manual_seed(0)
    layer = SCAM(CHANNELS, rows=rows)
    nn.init.ones_(layer.beta)  # zeros when new: nothing would be added
    nn.init.ones_(layer.gamma)
    return layer.eval()


def forced(exchange: Exchange) -> Exchange:
    def work(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            return exchange(left, right)

    return work


def forms(height: int) -> dict[str, Exchange]:
    attend = F.scaled_dot_product_attention
    return {
        "all weights": scam(all_weights, last=True),
        "fused, as convolutions leave it": scam(attend, last=False),
        "fused, channels last, all rows": scam(attend, last=True),
        "SCAM": module(None),
        "SCAM, all rows": module(height),
        "forced, all rows": forced(module(height)),
        "forced, SCAM": forced(module(None)),
    }


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    left, right = torch.randn(2, 1, CHANNELS, height, width)
    return left, right


@torch.inference_mode()
def compare(height: int, width: int, rounds: int, threads: int, limit_gb: float) -> None:
    left, right = pair(height, width)
    clock = clock_of(threads)
    found, off = forms(height), {}
    times, expected = dict.fromkeys(found, float("inf")), None
    for _ in range(rounds):
        for name, form in found.items():
            began = clock()
            result = form(left, right)
            times[name] = min(times[name], clock() - began)
            expected = expected or list(result)
            off[name] = difference(expected, list(result))
    grown = {name: probed(height, width, name, threads, None, limit_gb)[1] for name in found}
    plain = next(iter(found))
    for name in found:
        cells = (
            f"{height}x{width}", name, f"{1e3 * times[name]:.0f}", f"{times[plain] / times[name]:.2f}",
            f"{grown[name]:.0f}", f"{grown[name] / grown[plain]:.2f}", f"{off[name]:.0e}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def probed(
    height: int, width: int, name: str, threads: int, limit_s: float | None, limit_gb: float
) -> tuple[float, float]:
    """Seconds, and MB by which it grows, of a fresh process that runs one form once.

    Raises:
        subprocess.SubprocessError: it took longer than ``limit_s``, or more memory than ``limit_gb``, all included; of
            memory 0 is no limit.
    """
    command = [sys.executable, __file__, "--probe", f"{height}x{width}", name]
    command += ["--threads", str(threads), "--limit_gb", str(limit_gb)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, timeout=limit_s)
    seconds, grown = map(float, done.stdout.split())
    return seconds, grown


@torch.inference_mode()
def probe(height: int, width: int, name: str, threads: int, limit_gb: float) -> None:
    if limit_gb:  # better an error than a machine that swaps
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9),) * 2)
    if name.startswith("NAFSSR"):
        work = network_work(name, height, width)
    else:
        left, right = pair(height, width)
        form = forms(height)[name]

        def work() -> object:
            return form(left, right)

    clock, before = clock_of(threads), resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    began = clock()
    work()
    print(clock() - began, resident("VmHWM") - before)


def clock_of(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


NETWORKS = ("NAFSSR-T x4, all weights", "NAFSSR-T x4")


def network_work(name: str, height: int, width: int) -> Callable[[], Tensor]:
    network = NAFSSR(width=CHANNELS, num_blks=16, up_scale=4, fusion_block={"type": "SCAM"}).eval()
    x = torch.rand(1, 6, height, width)
    if name == NETWORKS[1]:
        return lambda: network(x)
    for block in network.body:
        block.module.fusion.rows = height

    def plain() -> Tensor:
        with mock.patch.object(F, "scaled_dot_product_attention", all_weights):
            return network(x)

    return plain


def compare_networks(height: int, width: int, given: argparse.Namespace) -> None:
    plain: tuple[float, float] | None = None
    for name in given.network or NETWORKS:
        limits = given.limit_s, given.limit_gb
        try:
            seconds, grown = probed(height, width, name, given.threads, *limits)
        except subprocess.SubprocessError as error:
            late = isinstance(error, subprocess.TimeoutExpired)
            what = f"more than {limits[0]:g} s" if late else f"failed within {limits[1]:g} GB"
            print(f"| {height}x{width} | {name} | {what} | - | - | - | - |", flush=True)
            continue
        plain = (seconds, grown) if name == NETWORKS[0] else plain
        shares = ("-", "-") if plain is None else (f"{plain[0] / seconds:.2f}", f"{grown / plain[1]:.2f}")
        cells = (f"{height}x{width}", name, f"{1e3 * seconds:.0f}", shares[0], f"{grown:.0f}", shares[1], "-")
        print(f"| {' | '.join(cells)} |", flush=True)


def size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=[(94, 310), (375, 1242)], help="of the input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--network",
        nargs="*",
        choices=NETWORKS,
        metavar="FORM",
        help="NAFSSR-T as a whole, one run of these forms, or all",
    )
    parser.add_argument("--limit_s", type=float, default=1800, help="wall time that one run of it may take")
    parser.add_argument("--limit_gb", type=float, default=16, help="memory that a process of its own may take; 0: any")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.probe:
        probe(*size(given.probe[0]), given.probe[1], given.threads, given.limit_gb)
        return
    print("| input | form | ms | times as fast | memory, MB | share | greatest difference |")
    print(f"|{'---|' * 7}")
    for height, width in given.sizes:
        if given.network is not None:
            compare_networks(height, width, given)
        else:
            compare(height, width, given.rounds, given.threads, given.limit_gb)


if __name__ == "__main__":
    main()
