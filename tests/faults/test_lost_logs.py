"""Screens, logs and TensorBoard that fail: a run goes on without them, and says so once."""

import json
import logging
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultkit import fill_up, in_child, tmpfs
from kit import ROOT, history

from vsr.config import load_options
from vsr.engine.cli import train_main
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.utils import logs

pytestmark = pytest.mark.fault


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "experiments" / "tiny"


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Have something done before a step."""

    def do(step: int, action: Callable[[], object]) -> None:
        original = RestorationModel.train_step

        def train_step(self: RestorationModel, batches: list[Any], at: int) -> Any:
            if at == step:
                action()
            return original(self, batches, at)

        monkeypatch.setattr(RestorationModel, "train_step", train_step)

    return do


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
def test_a_disk_for_logs_that_fills_up_costs_the_logs_alone(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with tmpfs(tmp_path / "logs", "256k") as disk:
        for name in ("models", "training_states"):
            (tmp_path / name).mkdir()
            (disk / "tiny").mkdir(exist_ok=True)
            (disk / "tiny" / name).symlink_to(tmp_path / name)
        fillers = []

        def fill() -> None:
            with (disk / "tiny" / "log.jsonl").open("a") as file:
                file.write(" " * (4095 - file.tell() % 4096) + "\n")  # the rest of its page would take some lines more
            fillers.append(fill_up(disk, leave=0))

        before_step(3, fill)
        overrides = [f"path.experiments_root={disk}", "logger.use_tb_logger=true"]
        assert train_main(["-opt", str(tiny), "--set", *overrides]) == 0
        error = capsys.readouterr().err
        assert (tmp_path / "training_states" / "8.json").is_file()
        assert (tmp_path / "models" / "net_g_best.pth").is_file()
        for what in ("train.log: could not be written", "log.jsonl could not be written"):
            assert error.count(what) == 1, error
        assert "step 8/8" in error  # the screen is told all the same
        assert sorted(history(disk / "tiny")) == [1, 2]
        fillers[0].unlink()
        assert train_main(["-opt", str(tiny), "--set", *overrides, "train.total_iter=10"]) == 0
        assert sorted(history(disk / "tiny")) == [1, 2, 9, 10]


def test_a_log_in_place_of_which_there_is_something_else_is_left_off(
    tiny: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train.log", "log.jsonl"):
        (root / name).mkdir(parents=True)  # not even root can write to a folder
    (root / "tb").write_text("")
    assert train_main(["-opt", str(tiny), "--set", "logger.use_tb_logger=true"]) == 0
    error = capsys.readouterr().err
    assert error.count("train.log: could not be opened") == 1
    assert error.count("log.jsonl could not be written") == 1
    assert error.count("TensorBoard could not be written") == 1
    assert (root / "training_states" / "8.json").is_file()


@pytest.mark.parametrize("error", [ImportError("no tensorboard"), TypeError("Descriptors cannot be created directly")])
def test_a_broken_tensorboard_is_left_off(
    tiny: Path, root: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", broken)
    train(load_options(tiny, ["logger.use_tb_logger=true"]))
    assert caplog.text.count("TensorBoard could not be written") == 1
    assert sorted(history(root)) == list(range(1, 9))


def test_a_log_that_is_rotated_goes_on_in_a_new_file(tiny: Path, root: Path, before_step: Any) -> None:
    before_step(5, lambda: (root / "train.log").rename(root / "train.log.1"))
    assert train_main(["-opt", str(tiny)]) == 0
    first, second = ((root / name).read_text() for name in ("train.log.1", "train.log"))
    assert "step 4/8" in first
    assert "step 5/8" not in first
    assert "step 5/8" in second
    assert "finished: 8 steps" in second


def test_a_cut_last_line_is_no_hindrance_to_going_on(tiny: Path, root: Path) -> None:
    train(load_options(tiny, ["train.total_iter=4"]))
    log = root / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    train(load_options(tiny))
    assert sorted(history(root)) == list(range(1, 9))


def test_a_clock_that_jumps_changes_nothing(tiny: Path, root: Path, before_step: Any) -> None:
    before_step(3, lambda: setattr(time, "time", lambda now=time.time: now() - 1e6))
    original = time.time
    try:
        train(load_options(tiny))
    finally:
        time.time = original
    entries = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    assert all(0 <= entry["data_time"] <= entry["time"] < 60 for entry in entries if "val" not in entry)


# ---- the screen ---------------------------------------------------------------------------------


def redirected(descriptor: int) -> None:
    """Make a descriptor this process's screen, as a shell does before it starts a program."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115


def test_a_pipe_that_nobody_reads_any_more_does_not_end_the_run(tiny: Path, root: Path, before_step: Any) -> None:
    def training() -> None:
        read, write = os.pipe()
        redirected(write)
        os.close(write)
        before_step(3, lambda: os.close(read))
        before_step(4, lambda: print("what a user's network says"))  # noqa: T201
        assert train_main(["-opt", str(tiny)]) == 0

    assert in_child(training) == 0
    text = (root / "train.log").read_text()
    assert "finished: 8 steps" in text
    assert text.count("nothing can be written to the screen any more ([Errno 32] Broken pipe)") == 2  # both streams


def test_a_run_without_a_screen_runs(tiny: Path, root: Path) -> None:
    def training() -> None:
        os.close(1)
        os.close(2)
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # as Python starts then
        assert train_main(["-opt", str(tiny)]) == 0

    assert in_child(training) == 0
    assert "finished: 8 steps" in (root / "train.log").read_text()


def test_a_terminal_that_is_closed_does_not_end_the_run(tiny: Path, root: Path, before_step: Any) -> None:
    def training() -> None:
        master, slave = pty.openpty()
        redirected(slave)
        os.close(slave)
        assert sys.stderr.isatty()
        before_step(3, lambda: os.close(master))
        assert train_main(["-opt", str(tiny)]) == 0

    assert in_child(training) == 0
    text = (root / "train.log").read_text()
    assert "finished: 8 steps" in text
    assert text.count("nothing can be written to the screen any more (") == 1


@pytest.mark.slow
def test_the_first_line_alone_can_be_looked_at(tiny: Path, root: Path) -> None:
    command = f'"{sys.executable}" train.py -opt "{tiny}" 2>&1 | head -1; exit ${{PIPESTATUS[0]}}'
    path = f"{ROOT}:{ROOT / 'tests'}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "finished: 8 steps" in (root / "train.log").read_text()


def test_a_mistake_in_a_log_line_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logging.getLogger("vsr.test").info("%d", "no number")
    assert "no number" in capsys.readouterr().err
