"""What the framework costs beside bare PyTorch: import, launch, a training step, what is written, what is left behind.

    python benchmarks/overhead.py [--rounds 15]

Claims: `import vsr` takes at most 1.2 times `import torch`; from its launch to its first step `train.py` takes at most
2 s beyond that step; a step of RestorationModel takes at most 3 % more than the same forward, loss, backward, fused
Adam and moving average written out by hand; log lines and checkpoints at their default frequencies take at most 2 %
of a step; a validation leaves no worker process behind.

Times are the least of many, taken in turns, so that other work on the machine slows both sides alike.
"""

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.config import LoggerOptions, Options, load_options  # noqa: E402
from vsr.engine import checkpoint  # noqa: E402
from vsr.engine.evaluate import EvaluationSet  # noqa: E402
from vsr.engine.log import TrainLog  # noqa: E402
from vsr.engine.run_folder import RunFolder  # noqa: E402
from vsr.engine.soak import read_use  # noqa: E402
from vsr.models.restoration import RestorationModel  # noqa: E402
from vsr.registry import MODELS  # noqa: E402
from vsr.utils.images import write_image  # noqa: E402

OPTIONS = """
name: overhead
model_type: VideoModel
scale: 4
datasets:
  train: {{type: VideoTrainDataset, dataroot_gt: {root}/train, num_frame: 5, gt_size: 128, num_worker_per_gpu: 0}}
  val: {{type: VideoTestDataset, dataroot_gt: {root}/val, num_frame: 5, num_worker_per_gpu: 2}}
network_g: {{type: EDVR, num_feat: 16, deformable_groups: 4, num_extract_block: 1, num_reconstruct_block: 2}}
path: {{experiments_root: {root}/experiments}}
train:
  total_iter: 100
  pixel_opt: {{type: CharbonnierLoss}}
  optim_g: {{type: Adam, lr: 1e-4}}
  ema_decay: 0.999
val: {{metrics: {{psnr: {{type: calculate_psnr}}}}}}
"""


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the least of what each gives in so many rounds, after one that does not count."""
    found = [(first(), second()) for _ in range(rounds + 1)][1:]
    return min(pair[0] for pair in found), min(pair[1] for pair in found)


def import_seconds(modules: str) -> float:
    """Time ``import modules`` in a process of its own."""
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )


def process_seconds(code: str) -> float:
    """Time a Python process from its launch to its end."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT))


def seconds_to_first_step(file: Path, folder: Path) -> float:
    """Time train.py from its launch until its log tells of the first step; less that step, the wait for data not."""
    command = [sys.executable, str(ROOT / "train.py"), "-opt", str(file), "--fresh", "--set", "logger.print_freq=1"]
    told = folder / "log.jsonl"
    told.unlink(missing_ok=True)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (told.is_file() and told.read_text().endswith("\n")):
            if process.poll() is not None:
                raise RuntimeError(f"the run ended before its first step: {' '.join(command)}")
            time.sleep(0.005)
        taken = time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    entry = json.loads(told.read_text().splitlines()[0])
    return taken - (entry["time"] - entry["data_time"])


def made_up(root: Path) -> Options:
    """Write clips of noise and an option file that trains on them; return what it says."""
    for clip, seed in (("train/a", 0), ("val/b", 1)):
        rng = np.random.default_rng(seed)
        (root / clip).mkdir(parents=True)
        for frame in range(6):
            write_image(root / clip / f"{frame:04d}.png", rng.integers(0, 256, (144, 176, 3), dtype=np.uint8))
    (root / "overhead.yml").write_text(OPTIONS.format(root=root), encoding="utf-8")
    return load_options(root / "overhead.yml")


def steps(model: RestorationModel) -> tuple[Callable[[], object], Callable[[], object], dict[str, torch.Tensor]]:
    """Return a training step written out by hand, one of the model, and what the latter's returns."""
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

    return by_hand, lambda: model.train_step([batch], 1), model.train_step([batch], 1)


def log_seconds(folder: Path, terms: dict[str, torch.Tensor]) -> float:
    """Return the time of what is logged in a step, TensorBoard included, on average over those between two lines."""
    options = LoggerOptions()
    with closing(TrainLog(options, folder, start=0, total=10**6)) as progress:
        several = 5 * options.print_freq
        told = [options.print_freq]  # TensorBoard is imported with the first line

        def tell() -> None:
            for step in range(told[0] + 1, told[0] + several + 1):
                progress.data_ready()
                progress.step(step, terms, rate=1e-4, keys=["a", "b"])
            told[0] += several

        progress.step(options.print_freq, terms, rate=1e-4, keys=[])
        return min(seconds(tell) for _ in range(3)) / several


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of each comparison (%(default)s)")
    rounds = parser.parse_args().rounds
    print(f"load {os.getloadavg()[0]:.1f}\n\n| claim | bare | vsr | | goal |\n|---|---|---|---|---|")

    bare, ours = in_turns(
        lambda: import_seconds("torch"), lambda: import_seconds("vsr, torch, vsr.registry"), rounds // 3
    )
    print(f"| import, s | {bare:.2f} (torch) | {ours:.2f} | {ours / bare:.2f} times | 1.2 |", flush=True)

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        options = made_up(root)
        folder = root / "experiments" / "overhead"
        bare, ours = in_turns(
            lambda: process_seconds("import torch"),
            lambda: seconds_to_first_step(root / "overhead.yml", folder),
            rounds // 3,
        )
        print(f"| launch to first step, less that step, s | {bare:.2f} (import torch) | {ours:.2f} | | 2 |", flush=True)

        model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))
        by_hand, step, terms = steps(model)
        bare, ours = in_turns(lambda: seconds(by_hand), lambda: seconds(step), rounds)
        print(
            f"| training step, ms | {1000 * bare:.1f} | {1000 * ours:.1f} | {ours / bare:.3f} times | 1.03 |",
            flush=True,
        )

        said = log_seconds(root, terms)
        with closing(RunFolder(options, fresh=True)) as run_folder:
            saved = min(
                seconds(lambda: checkpoint.save(run_folder, model, options, step=1, draw=1)) for _ in range(rounds)
            )
        saved /= options.logger.save_checkpoint_freq
        share = 100 * (said + saved) / ours
        print(f"| log and checkpoints, ms a step | | {1000 * said:.3f} + {1000 * saved:.3f} | {share:.2f} % | 2 % |")

        val_set, before = EvaluationSet("val", options), read_use(os.getpid(), 0).children
        for _ in range(3):
            val_set.measure(model)
        left = read_use(os.getpid(), 0).children - before
        print(f"| worker processes after 3 validations with 2 each | | {left} | | 0 |")


if __name__ == "__main__":
    main()
