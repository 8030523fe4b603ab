"""The benchmark of stereo attention: how much memory its processes may take."""

import importlib
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
from kit import ROOT


def test_the_limit_of_memory_reaches_every_process_and_0_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("stereo_attention")
    commands: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: commands.append(command[2:]) or SimpleNamespace(stdout="1 1")
    )
    for more in ([], ["--network"]):
        monkeypatch.setattr(sys, "argv", ["", "--sizes", "2x4", "--rounds", "1", "--limit_gb", "3", *more])
        benchmark.main()
    assert len(commands) == len(benchmark.forms(2)) + len(benchmark.NETWORKS)
    assert all(command[-2:] == ["--limit_gb", "3.0"] for command in commands)
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    for limit_gb in (0, 3):
        with pytest.raises(KeyError, match="no form"):
            benchmark.probe(2, 4, "no form", 1, limit_gb)
    assert limits == [(3_000_000_000, 3_000_000_000)]
