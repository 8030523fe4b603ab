"""Clips for the tests to train on; running whole trainings, and comparing what they leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
_MARK = "VSR_TEST_RUN"  # in the environment of what a test starts, and so of what that starts
_marks: dict[int, str] = {}


def launch(
    script: str, *arguments: str, world: int = 1, torchrun: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:  # fmt: skip
    """Start train.py or test.py in a process group of its own; ``world`` > 1: under torchrun, with options for it."""
    command = [sys.executable]
    if world > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", *torchrun]
    paths = (str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults"), os.environ.get("PYTHONPATH", ""))
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [*command, str(ROOT / script), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **(environment or {}),
            _MARK: mark,
        },
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    _marks[process.pid] = mark
    return process


def run(script: str, *arguments: str, world: int = 1, timeout: float = 180) -> tuple[int, str]:
    """Run train.py or test.py to its end; return the exit status and what it printed."""
    process = launch(script, *arguments, world=world)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        kill(process)
    return process.returncode, output


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9 the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in members(process):  # torchrun's processes have groups of their own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def members(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that are left of what ``launch`` has started: those with its mark in their environment."""
    found, mark = [], f"{_MARK}={_marks[process.pid]}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def still_running(argument: str, *, seconds: float) -> list[str]:
    """Return the processes with this argument on their command line that are there for so long."""
    end = time.monotonic() + seconds
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = path.read_bytes().split(b"\0")
                if argument.encode() in command:
                    found.append(b" ".join(command).decode())
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def wait_for_steps(root: Path, count: int, process: subprocess.Popen[str], timeout: float = 120) -> None:
    """Return once log.jsonl of the run folder tells of ``count`` steps."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if len(history(root)) >= count:
            return
        if process.poll() is not None:
            raise AssertionError(f"the run ended before step {count}:\n{process.communicate()[0]}")
        time.sleep(0.02)
    raise AssertionError(f"no {count} steps within {timeout} s")


def history(root: Path) -> dict[int, dict[str, Any]]:
    """Return each step's last line of log.jsonl, without the times; a cut last line is passed over."""
    steps = {}
    path = root / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "val" not in entry:
            steps[entry["step"]] = {k: v for k, v in entry.items() if k not in ("time", "data_time", "memory")}
    return steps


def steps_told(root: Path) -> list[int]:
    """Return the steps of log.jsonl in the order in which they were taken, the repeated ones too."""
    lines = (root / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "val" not in entry]


def validations(root: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Return each validation's last line of log.jsonl, by step and set."""
    entries = map(json.loads, (root / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return {(entry["step"], entry["val"]): entry for entry in entries if "val" in entry}


def tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Flatten a nested state into its tensors and numbers, by path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return {prefix: torch.tensor(value)} if isinstance(value, int | float) else {}
    return {k: v for key, item in items for k, v in tensors(item, f"{prefix}.{key}").items()}


def final_state(root: Path, step: int) -> dict[str, Tensor]:
    """Return all tensors and numbers of a run's training state."""
    state = torch.load(root / "training_states" / f"{step}.state", weights_only=True)
    return tensors({k: v for k, v in state.items() if k != "options"})


def assert_same_run(first: Path, second: Path, step: int) -> None:
    """Weights, average, optimiser, losses, learning rates, sample keys and validations are equal bit for bit."""
    a, b = final_state(first, step), final_state(second, step)
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert history(first) == history(second)
    assert validations(first) == validations(second) != {}
    assert sorted(history(first)) == list(range(1, step + 1))


def write_frames(
    folder: Path, count: int, size: tuple[int, int], *, seed: int, suffix: str = ".png", name: str = "{:04d}",
    first: int = 0,
) -> None:  # fmt: skip
    """Write ``count`` frames of a smooth random texture that drifts by a pixel a frame, numbered from ``first``."""
    height, width = size
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 8, width // 4 + 8, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (width + count, height + count), interpolation=cv2.INTER_CUBIC)
    for i in range(count):
        cv2.imwrite(str(folder / f"{name.format(i + first)}{suffix}"), texture[i : i + height, i : i + width])


def run_in_processes(code: str, number: int, folder: Path) -> None:
    """Run a script under torchrun with ``folder``/done as its argument; fail with what it said unless all end well."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", str(script)]
    result = subprocess.run(
        [*command, str(folder / "done")],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
