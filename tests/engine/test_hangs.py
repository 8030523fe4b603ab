"""A process that hangs while the others wait for it."""

import re
from pathlib import Path

import pytest
from kit import run, still_running

pytestmark = [pytest.mark.slow, pytest.mark.fault]

HANGING = """
import time
from torch import nn
from vsr.registry import NETWORKS
from tiny_networks import WindowNet
from vsr.utils import dist


@NETWORKS.register
class Sleeper(WindowNet):
    calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls == 3 and dist.rank() == 1:
                time.sleep(1000)
        return super().forward(x)
"""


def test_the_stack_of_the_process_that_hangs_is_shown_and_all_end(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text(HANGING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["imports=[tiny_networks, sleeper]", "network_g.type=Sleeper", "dist.timeout=15"]
    status, output = run("train.py", "-opt", str(tiny), "--set", *arguments, world=2, timeout=120)
    assert status != 0
    assert re.search(r'sleeper\.py", line \d+ in forward', output), output
    assert not still_running(str(tiny), seconds=10)
