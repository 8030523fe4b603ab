"""Signals: a run that is asked to stop saves its state, and goes on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from kit import assert_same_run, history, kill, launch, run, wait_for_steps

from vsr.config import load_options
from vsr.engine.checkpoint import newest_valid
from vsr.engine.stopping import MARKER, StopRequest
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel

pytestmark = pytest.mark.fault
LONG = ["train.total_iter=12", "train.scheduler.periods=[12]", "logger.save_checkpoint_freq=100"]
SLOW = "datasets.train.num_worker_per_gpu=2"


def stop(process: subprocess.Popen[str], number: int, *, whole_group: bool = False) -> tuple[int, str]:
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.parametrize(
    ("number", "whole_group", "world", "status"),
    [
        pytest.param(signal.SIGTERM, False, 1, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, False, 1, 0, marks=pytest.mark.slow),
        (signal.SIGTERM, True, 1, 0),  # as schedulers do: the workers get it, too
        (signal.SIGINT, True, 1, 130),
        pytest.param(signal.SIGTERM, False, 2, 1, marks=pytest.mark.slow),  # torchrun itself makes it a 1
    ],
)
def test_a_run_that_is_asked_to_stop_saves_at_once_and_goes_on_later(
    tiny: Path, tmp_path: Path, number: int, whole_group: bool, world: int, status: int
) -> None:
    root = tmp_path / "experiments" / "parts"
    parts = ["-opt", str(tiny), "--set", "name=parts", SLOW, *LONG]
    process = launch("train.py", *parts, world=world)
    try:
        wait_for_steps(root, random.randint(1, 5), process)
        found, output = stop(process, number, whole_group=whole_group)
    finally:
        kill(process)
    assert found == status, output
    done = max(history(root))
    assert newest_valid(root / "training_states") == root / "training_states" / f"{done}.state"
    assert (root / MARKER).is_file() == (number != signal.SIGINT)
    if number != signal.SIGINT and world == 1:
        assert json.loads((root / MARKER).read_text())["step"] == done
    for name in ("parts", "whole"):
        if world == 1:
            train(load_options(tiny, [f"name={name}", *LONG]))
        else:
            status, output = run("train.py", "-opt", str(tiny), "--set", f"name={name}", *LONG, world=world)
            assert status == 0, output
    assert not (root / MARKER).exists()
    assert_same_run(tmp_path / "experiments" / "whole", root, 12)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_one_step(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "experiments" / "tiny"
    arguments = ["-opt", str(tiny), "--set", "train.total_iter=100000", "logger.save_checkpoint_freq=100000"]
    process = launch("train.py", *arguments, world=2)
    try:
        wait_for_steps(root, 2, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGUSR1)
        output, _ = process.communicate(timeout=60)
    finally:
        kill(process)
    assert process.returncode == 0, output
    done = max(history(root))
    assert (root / "training_states" / f"{done}.json").is_file()


def test_a_signal_during_a_validation_ends_it_and_it_is_made_up_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = load_options(tiny, ["logger.save_checkpoint_freq=100"])
    restored, restore = [], RestorationModel.restore

    def slow(self: RestorationModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        restored.append(batch["key"][0])
        if len(restored) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr("vsr.models.video.VideoModel._window_network", None)
        patch.setattr("vsr.models.video.VideoModel.restore", slow)
        train(options)
    root = tmp_path / "experiments" / "tiny"
    assert len(restored) == 3  # of 9
    assert '"val"' not in (root / "log.jsonl").read_text()
    assert (root / "training_states" / "4.state").is_file()
    train(options)
    validated = [json.loads(line)["step"] for line in (root / "log.jsonl").read_text().splitlines() if '"val"' in line]
    assert validated == [4, 8]


def test_the_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request = StopRequest()
    try:
        signal.raise_signal(signal.SIGINT)
        assert request.here()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert list(request.until([1, 2])) == []
    finally:
        request.close()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    try:
        signal.raise_signal(signal.SIGINT)
        assert not request.here()
    finally:
        request.close()
        signal.signal(signal.SIGINT, before)


def test_a_worker_that_is_asked_to_end_serves_its_main_process_a_while(tiny: Path, tmp_path: Path) -> None:
    process = launch("train.py", "-opt", str(tiny), "--set", SLOW, "train.total_iter=100000")
    try:
        wait_for_steps(tmp_path / "experiments" / "tiny", 2, process)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        done = max(history(tmp_path / "experiments" / "tiny"))
        time.sleep(1)
        assert process.poll() is None
        assert max(history(tmp_path / "experiments" / "tiny")) > done
    finally:
        kill(process)
