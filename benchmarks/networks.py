"""Whole networks on the CPU against the same networks written plainly: NAFNet w32, EDVR-M.

    python benchmarks/networks.py                  all lines
    python benchmarks/networks.py nafnet --quick   one network, few rounds
    python benchmarks/networks.py --ablation       what each step of NAFNet's fast path gives
    python benchmarks/networks.py --threads 2

Claims (one thread): NAFNet at 256x256 at least 2 times (float32) and 3.5 times (bfloat16) as fast in inference, 1.5 and
2.1 times in a training step (forward and backward); EDVR-M on one window of 180x320 at least 1.8 times (float32) and 3
times (bfloat16), in a training step 1.2 times. The bfloat16 lines are claims for CPUs with AVX512-BF16 or AMX only.

The plain forms are float32, NCHW, one window at a time: NAFNet as its authors write it, with the layer norm as a
function over dimension 1; EDVR with its deformable layers by grid_sample. Times are the least of many, taken in turns
so that a busy machine slows all alike: with one thread the processor's time, else the clock's. Memory is what a fresh
process's resident set grows by at its peak, beyond weights and inputs.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.archs.edvr import EDVR  # noqa: E402
from vsr.archs.nafnet import NAFNet  # noqa: E402
from vsr.ops import deform_conv, naf_block  # noqa: E402

GOPRO: dict[str, Any] = {"width": 32, "enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}
Work = Callable[[], Any]


# ---- NAFNet, written plainly


class PlainNorm(torch.autograd.Function):
    """Layer norm over dimension 1, step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normal = (x - mean) / (variance + eps).sqrt()
        ctx.eps = eps
        ctx.save_for_backward(normal, variance, weight)
        return weight.view(1, -1, 1, 1) * normal + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, variance, weight = ctx.saved_tensors
        weighted = grad * weight.view(1, -1, 1, 1)
        mean, steep = weighted.mean(1, keepdim=True), (weighted * normal).mean(1, keepdim=True)
        grad_x = (weighted - normal * steep - mean) / torch.sqrt(variance + ctx.eps)
        return grad_x, (grad * normal).sum((0, 2, 3)), grad.sum((0, 2, 3)), None


def plain_block(block: Any, x: Tensor) -> Tensor:
    """A NAFBlock by its own weights."""

    def norm(layer: Any, y: Tensor) -> Tensor:
        return PlainNorm.apply(y, layer.weight, layer.bias, layer.eps)

    def gate(y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim=1)
        return first * second

    y = gate(block.conv2(block.conv1(norm(block.norm1, x))))
    y = x + block.conv3(y * block.sca(y)) * block.beta
    return y + block.conv5(gate(block.conv4(norm(block.norm2, y)))) * block.gamma


def plain_nafnet(network: NAFNet, x: Tensor) -> Tensor:
    features, skips = network.intro(x), []
    for encoder, down in zip(network.encoders, network.downs, strict=True):
        for block in encoder:
            features = plain_block(block, features)
        skips.append(features)
        features = down(features)
    for block in network.middle_blks:
        features = plain_block(block, features)
    for decoder, up in zip(network.decoders, network.ups, strict=True):
        features = up(features) + skips.pop()
        for block in decoder:
            features = plain_block(block, features)
    return network.ending(features) + x


def nafnet() -> tuple[NAFNet, Tensor]:
    torch.manual_seed(0)
    network = NAFNet(**GOPRO)
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):  # zeros when new: the blocks would be the identity
            nn.init.normal_(parameter, std=0.3)
    return network, torch.rand(1, 3, 256, 256)


def unfused(run: Work) -> Work:
    """The network by plain layers, channels last."""

    def work() -> Any:
        with mock.patch.object(naf_block, "usable", return_value=False):
            return run()

    return work


# ---- EDVR-M, written plainly


def grid_sample_form(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Tensor:
    """Modulated deformable 3x3 convolution with padding 1: nine pictures, sampled and multiplied at once."""
    groups = settings[-1]
    b, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    taps_y = torch.arange(9).view(9, 1, 1) // 3 - 1
    taps_x = torch.arange(9).view(9, 1, 1) % 3 - 1
    places = offset.view(b * groups, 9, 2, h, w)
    y, x_at = places[:, :, 0] + rows + taps_y, places[:, :, 1] + columns + taps_x
    grid = torch.stack((x_at * 2 / (w - 1) - 1, y * 2 / (h - 1) - 1), -1).flatten(2, 3)  # (b * g, 9, h * w, 2)
    sampled = F.grid_sample(x.reshape(b * groups, c // groups, h, w), grid, align_corners=True)
    columns_of = (sampled * mask.view(b * groups, 1, 9, h * w)).view(b, c * 9, h * w)
    out = (weight.flatten(1) @ columns_of).view(b, -1, h, w)
    return out if bias is None else out + bias.view(-1, 1, 1)


def edvr() -> EDVR:
    torch.manual_seed(0)
    network = EDVR()
    for module in network.modules():
        if isinstance(module, deform_conv.ModulatedDeformConv2dPack):  # zeros when new: no offsets
            nn.init.normal_(module.conv_offset.weight, std=0.02)
    return network


def plain_edvr(run: Work) -> Work:
    def work() -> Any:
        with mock.patch.object(deform_conv, "modulated_deform_conv2d", grid_sample_form):
            return run()

    return work


def next_window(network: EDVR, window: Tensor) -> Work:
    """Restore a window four of whose frames belonged to the one before: their features are kept."""
    with torch.no_grad():
        kept = [level.unsqueeze(0) for level in network.extract(window[0, :4])]

    def run() -> Tensor:
        new = network.extract(window[0, 4:])
        pyramid = [torch.cat((old, level.unsqueeze(0)), 1) for old, level in zip(kept, new, strict=True)]
        return network.reconstruct(pyramid, window[:, network.center_frame_idx])

    return run


# ---- works


def inference(run: Work, dtype: torch.dtype = torch.float32) -> Work:
    def work() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return run()

    return work


def step(network: nn.Module, run: Work, dtype: torch.dtype = torch.float32) -> Work:
    def work() -> list[Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = run()
        out.float().square().mean().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    return work


def nafnet_works(*, bf16: bool) -> dict[str, dict[str, Work]]:
    network, x = nafnet()

    def plain() -> Tensor:
        return plain_nafnet(network, x)

    def ours() -> Tensor:
        return network(x)

    works = {
        "NAFNet w32 256x256, inference": {"plain": inference(plain), "ours": inference(ours)},
        "NAFNet w32 256x256, training step": {"plain": step(network, plain), "ours": step(network, ours)},
    }
    if bf16:
        first, second = works.values()
        first["ours bf16"] = inference(ours, torch.bfloat16)
        second["ours bf16"] = step(network, ours, torch.bfloat16)
    return works


def edvr_works(*, bf16: bool) -> dict[str, dict[str, Work]]:
    network, window, clip = edvr(), torch.rand(1, 5, 3, 180, 320), torch.rand(1, 5, 3, 64, 64)
    last = edvr().to(memory_format=torch.channels_last)

    def whole() -> Tensor:
        return network(window)

    works = {
        "EDVR-M 180x320, one window": {
            "plain": plain_edvr(inference(whole)),
            "ours": inference(next_window(network, window)),
            "ours, all features anew": inference(whole),
            "ours, channels last": inference(next_window(last, window)),
        },
        "EDVR-M 1x5x64x64, training step": {
            "plain": plain_edvr(step(network, lambda: network(clip))),
            "ours": step(network, lambda: network(clip)),
            "ours, channels last": step(last, lambda: last(clip)),
        },
    }
    if bf16:
        first, second = works.values()
        first["ours bf16"] = inference(next_window(network, window), torch.bfloat16)
        second["ours bf16"] = step(network, lambda: network(clip), torch.bfloat16)
    return works


def ablation_works(*, bf16: bool) -> dict[str, dict[str, Work]]:
    """NAFNet from the plain form to ours."""
    network, x = nafnet()

    def plain() -> Tensor:
        return plain_nafnet(network, x)

    def ours() -> Tensor:
        return network(x)

    def by_layers(block: Any) -> Callable[[Tensor], Tensor]:
        return lambda y: plain_block(block, y)

    mixed = NAFNet(**GOPRO)  # the deep level in plain layers: what the ops give at the other levels
    mixed.load_state_dict(network.state_dict())
    for block in mixed.encoders[3]:
        block.forward = by_layers(block)

    def shallow() -> Tensor:
        return mixed(x)

    return {
        f"NAFNet, {kind}": {
            "plain": wrap(network, plain),
            "F.layer_norm, channels last": unfused(wrap(network, ours)),
            "ops, but not at the level of 28 blocks": wrap(mixed, shallow),
            "ops at all levels (ours)": wrap(network, ours),
        }
        for kind, wrap in (("inference", lambda _, run: inference(run)), ("training step", step))
    }


# ---- measuring


def fastest(works: dict[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the least seconds of each, taken in turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = clock()
            work()
            best[name] = min(best[name], clock() - began)
    return best


def difference(one: Any, other: Any) -> float:
    """The greatest difference of two results, relative to the greatest value of each tensor."""
    pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
    return max(((a.float() - b.float()).abs().max() / a.abs().max().clamp(min=1e-12)).item() for a, b in pairs)


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) / 1e3


def memory(group: str, line: str, name: str) -> float | None:
    """MB by which a fresh process grows; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, group, "--probe", line, name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(done.stdout.split()[-1])


def probe(works: dict[str, dict[str, Work]], line: str, name: str) -> None:
    work = works[line][name]
    torch.set_num_threads(1)
    naf_block.usable(torch.zeros(1, 1, 1, 1))  # loads the kernels
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    work()
    print(resident("VmHWM") - before)


def table(group: str, works: dict[str, dict[str, Work]], arguments: argparse.Namespace) -> None:
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print("| work | form | ms | times as fast | greatest difference | memory, MB |\n|---|---|---|---|---|---|")
    for line, forms in works.items():
        times = fastest(forms, 2 if arguments.quick else 8, clock)
        expected = forms["plain"]()
        for name, seconds in times.items():
            ratio, off = times["plain"] / seconds, difference(expected, forms[name]())
            grown = None if arguments.quick else memory(group, line, name)
            cells = (line, name, f"{1e3 * seconds:.0f}", f"{ratio:.2f}", f"{off:.1e}", _whole(grown))
            print(f"| {' | '.join(cells)} |", flush=True)


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def bf16_instructions() -> str:
    """Those that this CPU has for bfloat16; none: the lines would measure an emulation."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    return ", ".join(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags)


GROUPS = {"nafnet": nafnet_works, "edvr": edvr_works, "ablation": ablation_works}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*GROUPS, []], help="which lines; none: nafnet and edvr")
    parser.add_argument("--ablation", action="store_true", help="what each step of NAFNet's fast path gives")
    parser.add_argument("--quick", action="store_true", help="few rounds, no memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 even on a CPU without instructions for it")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = bf16_instructions()
    names = ["ablation"] if arguments.ablation else arguments.networks or ["nafnet", "edvr"]
    if arguments.probe:
        probe(GROUPS[names[0]](bf16=True), *arguments.probe)
        return
    kernels = "compiled" if naf_block.usable(torch.zeros(1)) else "none"
    print(f"{arguments.threads} thread(s); bfloat16 instructions: {found or 'none'}; kernels: {kernels}\n")
    for name in names:
        table(name, GROUPS[name](bf16=bool(found) or arguments.bf16), arguments)
        print()


if __name__ == "__main__":
    main()
