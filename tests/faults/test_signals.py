"""Signals at bad moments: while a state is being written, again and again, and twice."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from faultkit import in_child
from kit import assert_same_run, history, launch, members, steps_told, wait_for_steps
from kit import kill as kill_all

from vsr.config import load_options
from vsr.engine import checkpoint
from vsr.engine.checkpoint import newest_valid
from vsr.engine.cli import train_main
from vsr.engine.stopping import MARKER
from vsr.engine.train import train

pytestmark = pytest.mark.fault


def signalled_while_saving(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: int) -> None:
    """Let signals come in the middle of the save of a step, between the weights and the state."""
    save_weights = checkpoint.save_weights

    def then_signalled(folder: object, model: object, name: str) -> None:
        save_weights(folder, model, name)
        if name == f"net_g_{step}.pth":
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoint, "save_weights", then_signalled)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_while_a_state_is_written_lets_it_be_written(
    tiny: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_options(tiny, ["name=whole"]))
    root = tmp_path / "experiments" / "tiny"

    def training() -> None:
        signalled_while_saving(monkeypatch, 4, number)
        assert train_main(["-opt", str(tiny)]) == 0

    assert in_child(training) == 0
    assert newest_valid(root / "training_states") == root / "training_states" / "4.state"
    assert sorted(history(root)) == [1, 2, 3, 4]
    assert (root / MARKER).is_file()
    train(load_options(tiny))  # it makes up for the validation of step 4, too
    assert not (root / MARKER).exists()
    assert steps_told(root) == list(range(1, 9))
    assert_same_run(tmp_path / "experiments" / "whole", root, 8)


def test_a_signal_in_the_last_save_ends_a_run_that_is_finished(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "experiments" / "tiny"

    def training() -> None:
        signalled_while_saving(monkeypatch, 8, signal.SIGTERM)
        assert train_main(["-opt", str(tiny)]) == 0

    assert in_child(training) == 0
    train(load_options(tiny))
    assert steps_told(root) == list(range(1, 9))
    assert '"step": 8, "val"' in (root / "log.jsonl").read_text()


def test_a_second_ctrl_c_while_a_state_is_written_leaves_the_one_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_options(tiny, ["name=whole"]))
    root = tmp_path / "experiments" / "tiny"

    def training() -> None:
        signalled_while_saving(monkeypatch, 8, signal.SIGINT, signal.SIGINT)
        assert train_main(["-opt", str(tiny)]) == 130

    assert in_child(training) == 0
    assert newest_valid(root / "training_states") == root / "training_states" / "4.state"
    assert not list(root.rglob(".*.tmp"))
    train(load_options(tiny))
    assert_same_run(tmp_path / "experiments" / "whole", root, 8)


@pytest.mark.slow
def test_a_run_that_is_stopped_at_random_moments_equals_one_that_is_not(tiny: Path, tmp_path: Path) -> None:
    long = ["train.total_iter=200", "train.scheduler.periods=[200]", "val.val_freq=10"]
    root = tmp_path / "experiments" / "tiny"

    def whole() -> None:
        assert train_main(["-opt", str(tiny), "--set", "name=whole", *long]) == 0

    start = time.monotonic()
    assert in_child(whole) == 0
    lasted = time.monotonic() - start
    stopped = rounds = 0
    while max(history(root), default=0) < 200 and rounds < 30:
        rounds += 1
        before = max(history(root), default=0)

        def training() -> None:
            after = random.uniform(0.05, 0.3) * lasted  # while it starts, trains, validates, saves
            threading.Timer(after, os.kill, (os.getpid(), random.choice([signal.SIGTERM, signal.SIGUSR1]))).start()
            signal.signal(signal.SIGUSR1, signal.default_int_handler)  # as if before the first step nothing were there
            assert train_main(["-opt", str(tiny), "--set", *long]) in (0, 130)

        assert in_child(training) in (0, -signal.SIGTERM)
        done = max(history(root), default=0)
        if before < done < 200:
            stopped += 1
            assert newest_valid(root / "training_states") == root / "training_states" / f"{done}.state"
    train(load_options(tiny, long))
    assert stopped > 2
    assert steps_told(root) == list(range(1, 201))  # not one was taken twice
    assert_same_run(tmp_path / "experiments" / "whole", root, 200)


@pytest.mark.slow
def test_a_signal_to_torchrun_and_one_to_its_process_leave_one_state_and_no_process(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "experiments" / "tiny"
    endless = ["train.total_iter=100000", "logger.save_checkpoint_freq=100000"]
    process = launch("train.py", "-opt", str(tiny), "--set", *endless, world=2)
    try:
        wait_for_steps(root, 2, process)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(ranks[0]), signal.SIGUSR1)
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        left = members(process)
    finally:
        kill_all(process)
    assert left == [], output
    assert newest_valid(root / "training_states") == root / "training_states" / f"{max(history(root))}.state"
