"""What the framework costs beside bare PyTorch: import, and one training step.

    python benchmarks/overhead.py

Claims: `import vsr` takes at most 1.2 times `import torch`; a step of RestorationModel takes at most 3 % more than the
same forward, loss, backward, fused Adam and moving average written out by hand.
"""

import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.config import load_options  # noqa: E402
from vsr.registry import MODELS  # noqa: E402

OPTIONS = """
name: overhead
model_type: VideoModel
scale: 4
datasets: {train: {type: VideoTrainDataset, dataroot_gt: none, num_frame: 5, gt_size: 128}}
network_g: {type: EDVR, num_feat: 16, deformable_groups: 4, num_extract_block: 1, num_reconstruct_block: 2}
train:
  total_iter: 100
  pixel_opt: {type: CharbonnierLoss}
  optim_g: {type: Adam, lr: 1e-4}
  ema_decay: 0.999
"""


def import_seconds(module: str) -> float:
    """Time ``import module`` in a process of its own."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )


def interleaved(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median seconds of both, measured in turns so that a busy machine slows both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for work, taken in zip((first, second), times, strict=True):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def main() -> None:
    print("| claim | bare | vsr | ratio |\n|---|---|---|---|")
    bare, ours = interleaved_imports(5)
    print(f"| import, s | {bare:.2f} (torch) | {ours:.2f} | {ours / bare:.2f} |")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.yml"
        path.write_text(OPTIONS, encoding="utf-8")
        options = load_options(path)
    model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))
    network = copy.deepcopy(model.network_g)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    lq, gt = torch.randint(256, (2, 5, 3, 32, 32)).byte(), torch.randint(256, (2, 3, 128, 128)).byte()
    batch = {"lq": lq, "gt": gt, "key": ["a", "b"]}

    def by_hand() -> None:
        optimizer.zero_grad()
        error = network(lq.float() / 255) - gt.float() / 255
        torch.sqrt(error.square() + 1e-12).mean().backward()
        optimizer.step()
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.001)

    bare, ours = interleaved(by_hand, lambda: model.train_step([batch], 1), 15)
    print(f"| training step, ms | {1000 * bare:.1f} | {1000 * ours:.1f} | {ours / bare:.3f} |")


def interleaved_imports(rounds: int) -> tuple[float, float]:
    pairs = [(import_seconds("torch"), import_seconds("vsr, torch, vsr.registry")) for _ in range(rounds)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


if __name__ == "__main__":
    main()
