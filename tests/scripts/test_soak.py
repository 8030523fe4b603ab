"""The soak finds what a run does not give back, and nothing where there is nothing."""

import dataclasses
import os
from pathlib import Path

import pytest
from kit import ROOT

from vsr.engine.soak import Use, read_use, trends

LEAKING = '''\
"""A network that keeps a little of each step: memory, and now and then an open file."""

import tempfile

import torch
from torch import Tensor, nn

from vsr.registry import NETWORKS

kept = []


@NETWORKS.register
class Leaking(nn.Module):
    temporal, scale, size_multiple, min_size = "window", 2, 1, 1

    def __init__(self, *, num_frame: int = 3) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            kept.append(torch.ones(50_000))  # 200 kB
            if len(kept) % 10 == 0:
                kept.append(tempfile.TemporaryFile())
        return nn.functional.interpolate(self.layer(x[:, self.num_frame // 2]), scale_factor=2)
'''


def steady(step: int) -> Use:
    """What a run takes that is in order: more while it validates, and more in the beginning."""
    validates, warm = step % 50 < 10, step > 150
    return Use(
        step=step, memory=300 + 50 * warm + 40 * validates + step % 3, files=15 + 9 * validates,
        threads=4 + 2 * validates, children=2 + validates, workers=100.0,
    )  # fmt: skip


def grows(uses: list[Use]) -> set[str]:
    return {trend.quantity for trend in trends(0, uses) if not trend.flat}


def test_what_comes_and_goes_is_flat() -> None:
    assert grows([steady(step) for step in range(1, 1001)]) == set()


@pytest.mark.parametrize(
    ("quantity", "a_step"),
    [("memory", 0.006), ("workers", 0.006), ("files", 0.02), ("threads", 0.02), ("children", 0.02)],  # 0.02: 1 in 50
)
def test_what_stays_behind_now_and_then_is_found(quantity: str, a_step: float) -> None:
    uses = [steady(step) for step in range(1, 1001)]
    whole = int if quantity in ("files", "threads", "children") else float
    leaking = [
        dataclasses.replace(use, **{quantity: getattr(use, quantity) + whole(a_step * use.step)}) for use in uses
    ]
    assert grows(leaking) == {quantity}


def test_the_end_of_the_processes_is_no_part_of_it() -> None:
    end = [Use(step=1000, memory=1.0, files=0, threads=1, children=0, workers=0.0)] * 9
    found = trends(0, [*(steady(step) for step in range(1, 1000)), *end])
    assert {trend.quantity: trend.last for trend in found}["memory"] == 350


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="expected samples in 10 windows or more, got 2"):
        trends(0, [steady(step) for step in (1, 500, 900, 1000)])


def test_an_open_file_is_counted() -> None:
    before = read_use(os.getpid(), 1)
    with Path(__file__).open():
        during = read_use(os.getpid(), 1)
    assert during.files == before.files + 1
    assert before.memory > 20
    assert before.threads >= 1


@pytest.mark.fault
@pytest.mark.slow
def test_a_run_is_flat_and_one_that_leaks_is_not(
    run_script, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "tests"), str(tmp_path))))  # of train.py
    monkeypatch.syspath_prepend(tmp_path)
    settings = ["datasets.val.clips=[d]", "val.compare_bicubic=false"]
    status, output, errors = run_script("soak.py", "--opt", str(tiny), "--steps", "300", "--set", *settings)
    assert status == 0, output + errors
    assert output.count("| flat |") == 5
    (tmp_path / "leaking.py").write_text(LEAKING, encoding="utf-8")
    settings += ["imports=[leaking]", "network_g=", "network_g={type: Leaking}"]
    status, output, errors = run_script("soak.py", "--opt", str(tiny), "--steps", "300", "--set", *settings)
    assert status == 1, output + errors
    grown = {line.split("|")[2].strip() for line in output.splitlines() if "GROWS" in line}
    assert grown == {"memory, MB", "files"}


def test_a_run_that_fails_is_told_with_its_last_words(run_script, tiny: Path) -> None:
    status, _, errors = run_script("soak.py", "--opt", str(tiny), "--steps", "40", "--set", "network_g.num_frame=5")
    assert status == 2
    assert "num_frame" in errors
