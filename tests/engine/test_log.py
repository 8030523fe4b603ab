"""log.jsonl: one valid JSON object a line, whatever happened before."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vsr.config import LoggerOptions
from vsr.engine.log import TrainLog


@pytest.fixture
def progress(tmp_path: Path) -> TrainLog:
    return TrainLog(LoggerOptions(print_freq=2, use_tb_logger=False), tmp_path, start=0, total=10)


def lines(folder: Path) -> list[dict[str, object]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines() if not line.startswith('{"cut')]


def test_what_is_logged_is_the_mean_since_the_last_line(progress: TrainLog, tmp_path: Path) -> None:
    told = [progress.step(i, {"pixel": torch.tensor(float(i))}, rate=0.1, keys=["k"]) for i in (1, 2, 3, 4)]
    assert told == [False, True, False, True]
    assert [(entry["step"], entry["pixel"]) for entry in lines(tmp_path)] == [(2, 1.5), (4, 3.5)]


def test_each_of_several_groups_has_its_rate_told(
    progress: TrainLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = [{"name": "a", "lr": 0.1, "params": []}, {"name": "b", "lr": 0.05, "params": []}]
    with caplog.at_level("INFO"):
        for step in (1, 2):
            progress.step(step, {"pixel": torch.tensor(1.0)}, rate=0.1, keys=[], groups=groups)
        for step in (3, 4):
            progress.step(step, {"pixel": torch.tensor(1.0)}, rate=0.1, keys=[], groups=groups[:1])
    assert "step 2/10  lr 0.1 (a 0.1, b 0.05)  pixel 1 " in caplog.text
    assert "step 4/10  lr 0.1  pixel 1 " in caplog.text
    first, second = lines(tmp_path)
    assert (first["lr"], first["lr/a"], first["lr/b"]) == (0.1, 0.1, 0.05)
    assert not [name for name in second if name.startswith("lr/")]


def test_numbers_that_are_not_finite_become_null(progress: TrainLog, tmp_path: Path) -> None:
    progress.write({"step": 1, "pixel": math.nan, "psnr": math.inf})
    assert lines(tmp_path) == [{"step": 1, "pixel": None, "psnr": None}]


def test_half_a_line_of_a_killed_run_does_not_spoil_the_next(progress: TrainLog, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"cut')
    progress.write({"step": 2})
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.fault
def test_a_log_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    (tmp_path / "log.jsonl").mkdir()  # not even root can append to a folder
    progress = TrainLog(LoggerOptions(print_freq=1, use_tb_logger=False), tmp_path, start=0, total=10)
    for step in (1, 2, 3):
        progress.step(step, {"pixel": torch.tensor(1.0)}, rate=0.1, keys=[])
    assert progress._failed == {"log.jsonl"}


def test_the_share_of_the_time_that_the_loop_waits_for_data_is_told_and_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr("vsr.engine.log.time", clock)
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    progress = TrainLog(LoggerOptions(print_freq=2, use_tb_logger=False), tmp_path, start=0, total=10)
    warnings = []
    for step, (data, work) in enumerate([(0.05, 0.95)] * 4 + [(0.3, 0.7)] * 4, start=1):
        now[0] += data
        progress.data_ready()
        now[0] += work
        progress.step(step, {"pixel": torch.tensor(1.0)}, rate=0.1, keys=[])
        now[0] += 100  # a validation
        progress.pause()
        warnings.append(sum("waits for data 30% of the time" in text for text in caplog.messages))
    assert [(entry["time"], entry["data_time"]) for entry in lines(tmp_path)] == [
        (pytest.approx(1.0), pytest.approx(data)) for data in (0.05, 0.05, 0.3, 0.3)
    ]
    assert warnings == [0, 0, 0, 0, 0, 1, 1, 1]
