"""What processes tell each other: alike with and without a process group."""

import math
import sys
from pathlib import Path

import pytest
from kit import run_in_processes

from vsr.utils import dist

SCRIPT = """
import json, math, sys
import torch
from vsr.utils import dist
dist.init(60)
rank = dist.rank()
value = {"rank": rank, "long": "x" * (1 + 100000 * rank), "numbers": [0.1 + rank, math.inf, math.nan]}
gathered = dist.gather_json(value)
assert [g["rank"] for g in gathered] == [0, 1, 2]
assert [len(g["long"]) for g in gathered] == [1, 100001, 200001]
assert gathered[2]["numbers"][0] == 2.1 and math.isnan(gathered[1]["numbers"][2])
assert dist.broadcast_json({"from": rank}) == {"from": 0}
assert dist.mean(torch.tensor([float(rank)])).item() == 1.0
dist.barrier()
dist.shutdown()
assert dist.world_size() == 1
open(sys.argv[1] + str(rank), "w").close()
"""


def test_one_process_needs_no_group() -> None:
    assert dist.gather_json([1, math.inf]) == [[1, math.inf]]
    assert dist.broadcast_json("x") == "x"
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    dist.barrier()
    dist.shutdown()


def test_three_processes_tell_each_other_everything(tmp_path: Path) -> None:
    run_in_processes(SCRIPT, 3, tmp_path)
    assert len(list(tmp_path.glob("done*"))) == 3


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="expected at most 2 processes, one for each visible GPU, got local rank 2"):
        dist.init(60)


LEAVING = """
import glob, sys
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from vsr.ops.deform_conv import ModulatedDeformConv2dPack
from vsr.utils import dist
dist.init(60)
network = DistributedDataParallel(nn.Sequential(ModulatedDeformConv2dPack(4, 4, 3, padding=1)))
network(torch.rand(1, 4, 5, 6)).sum().backward()
import torch._dynamo  # an op's first call imports it, too
threads = lambda: [name for file in glob.glob("/proc/self/task/*/comm") if "gloo" in (name := open(file).read())]
assert threads(), "no group was running: nothing is tested"
del network
dist.shutdown()
assert not threads(), threads()
open(sys.argv[1] + str(dist.rank()), "w").close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed by Linux's /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    # One that does may abort the process at its end, after all work was done.
    run_in_processes(LEAVING, 2, tmp_path)
