"""Whether a run uses as much after thousands of steps as in the beginning: memory, files, threads, processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import numpy as np

from vsr.config import Options
from vsr.utils.images import write_image

WARM_UP = 0.25  # of the steps: pools fill, modules are imported, workers start, the first validations come
WINDOWS = 20  # that the other steps are divided into
LIMITS = {"memory": 4.0, "workers": 4.0, "files": 1.0, "threads": 1.0, "children": 1.0}
UNITS = {"memory": "MB", "workers": "MB"}

MADE_UP = """\
name: soak
model_type: VideoModel
scale: 4
datasets:
  train: {{type: VideoTrainDataset, dataroot_gt: {root}/train, num_frame: 3, gt_size: 32, batch_size_per_gpu: 2}}
  val: {{type: VideoTestDataset, dataroot_gt: {root}/val, num_frame: 3}}
network_g:
  {{type: EDVR, num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}}
train:
  total_iter: 2000
  losses: {{pixel: {{type: CharbonnierLoss}}}}
  optim_g: {{type: Adam, lr: 1e-3}}
  ema_decay: 0.99
val: {{compare_bicubic: true, metrics: {{psnr: {{type: calculate_psnr}}, ssim: {{type: calculate_ssim}}}}}}
"""


@dataclass(frozen=True)
class Use:
    """What one process of a run uses at one moment; each field but ``step`` is a line of the table."""

    step: int
    memory: float  # MB, resident
    files: int  # open descriptors: files, sockets, pipes
    threads: int
    children: int  # the loader's workers
    workers: float  # MB, the sum of their resident memory: pages that they share count for each


@dataclass(frozen=True)
class Trend:
    """How one quantity of one process developed after the warm-up."""

    process: int
    quantity: str
    first: float  # the least in the first of the windows
    last: float  # and in the last one
    growth: float  # over all windows: their line's slope times their number

    @property
    def flat(self) -> bool:
        return self.growth < LIMITS[self.quantity]


def write_made_up_run(folder: Path) -> Path:
    """Write two small clips of noise and an option file that trains on them; return the file."""
    for clip, seed in (("train/a", 0), ("train/b", 1), ("val/c", 2)):
        rng = np.random.default_rng(seed)
        (folder / clip).mkdir(parents=True)
        for frame in range(5):
            write_image(folder / clip / f"{frame:04d}.png", rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    path = folder / "soak.yml"
    path.write_text(MADE_UP.format(root=folder), encoding="utf-8")
    return path


def overrides(options: Options, steps: int, workers: int | None, folder: Path) -> list[str]:
    """Return what turns an option file into a run of so many steps that validates and saves twenty times."""
    every = max(1, steps // 20)
    changes = [
        f"path.experiments_root={folder}", f"train.total_iter={steps}", "train.scale_iterations=false",
        f"val.val_freq={every}", f"logger.save_checkpoint_freq={every}", f"logger.print_freq={max(1, steps // 200)}",
    ]  # fmt: skip
    if workers is not None:
        changes += [f"datasets.{key}.num_worker_per_gpu={workers}" for key in options.datasets]
    return changes


def watch(arguments: Sequence[str], train_script: Path, log_file: Path, ranks: int, output: Path) -> list[list[Use]]:
    """Train, and look at the run's processes from outside as it goes on.

    Args:
        arguments: Of train.py.
        train_script: train.py.
        log_file: The run's log.jsonl, which tells its steps.
        ranks: Training processes, started by torchrun if there are several.
        output: What the run prints goes there.

    Returns:
        For each training process what it used, over the steps.

    Raises:
        RuntimeError: the run failed; its last lines are in the text.
    """
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, str(train_script), *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    found: dict[int, list[Use]] = {}
    try:
        while process.poll() is None:
            time.sleep(0.1)
            step = _last_step(log_file)
            for pid in [process.pid] if ranks == 1 else _children(process.pid):
                with contextlib.suppress(OSError, KeyError):  # it has just ended
                    if step:
                        found.setdefault(pid, []).append(read_use(pid, step))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError("\n".join([*lines[-20:], f"the run ended with status {process.returncode}"]))
    return list(found.values())


def read_use(pid: int, step: int) -> Use:
    """Read from /proc what a process uses."""
    status, children, workers = _status(pid), _children(pid), 0.0
    for child in children:
        with contextlib.suppress(OSError, KeyError):
            workers += _resident(_status(child))
    return Use(
        step=step, memory=_resident(status), files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]), children=len(children), workers=workers,
    )  # fmt: skip


def trends(process: int, uses: Sequence[Use]) -> list[Trend]:
    """Fit a line to what a process used after the warm-up.

    Of each window of steps the least counts: a validation or a checkpoint takes more for a moment and gives it back,
    while what leaks is there ever after. The line is the median slope of all pairs of windows (Theil and Sen), which
    a single odd window does not move. Flat is what grows by less than LIMITS over all windows: one file, thread or
    process, which is less than one a validation or a checkpoint; 4 MB of memory, by which allocators' pools wander.

    Raises:
        ValueError: there are too few samples.
    """
    total = max(use.step for use in uses)
    windows: dict[int, list[Use]] = {}
    for use in uses:
        place = (use.step / total - WARM_UP) / (1 - WARM_UP)
        if 0 <= place < 1:  # with the last step it begins to end
            windows.setdefault(int(place * WINDOWS), []).append(use)
    if len(windows) < WINDOWS // 2:
        raise ValueError(f"--steps: expected samples in {WINDOWS // 2} windows or more, got {len(windows)}. Raise it.")
    numbers = sorted(windows)
    found = []
    for name in (field.name for field in fields(Use) if field.name != "step"):
        least = {number: min(getattr(use, name) for use in windows[number]) for number in numbers}
        slopes = [(least[b] - least[a]) / (b - a) for i, a in enumerate(numbers) for b in numbers[i + 1 :]]
        growth = median(slopes) * (numbers[-1] - numbers[0])
        found.append(Trend(process, name, least[numbers[0]], least[numbers[-1]], growth))
    return found


def table(found: Sequence[Trend], steps: int) -> Iterator[str]:
    """Yield the lines of what is printed."""
    measured = steps * (1 - WARM_UP)
    yield f"| process | | first, least | last, least | grows by | a step | flat below | |\n{'|---' * 8}|"
    for trend in found:
        unit = f", {UNITS[trend.quantity]}" if trend.quantity in UNITS else ""
        yield (
            f"| {trend.process} | {trend.quantity}{unit} | {trend.first:.1f} | {trend.last:.1f} | {trend.growth:.2f} "
            f"| {trend.growth / measured:.5f} | {LIMITS[trend.quantity]:g} | {'flat' if trend.flat else 'GROWS'} |"
        )


def _last_step(log_file: Path) -> int:
    """Return the step that the last whole line tells of; 0: none yet."""
    with contextlib.suppress(OSError):
        with log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").split("\n")[:-1]
        for line in reversed(lines):
            with contextlib.suppress(ValueError, KeyError):
                return int(json.loads(line)["step"])
    return 0


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _resident(status: dict[str, str]) -> float:
    return int(status["VmRSS"].split()[0]) / 1e3  # absent of a process that has ended


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found
