"""What processes tell each other: alike with and without a process group."""

import math
import sys
import time
from pathlib import Path

import pytest
import torch
from faultkit import run_ranks
from kit import history, run_in_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

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
assert dist.patience() == 60
dist.barrier()
dist.wait_for_all()
dist.shutdown()
assert dist.world_size() == 1
assert dist.patience() == math.inf
open(sys.argv[1] + str(rank), "w").close()
"""


def test_one_process_needs_no_group() -> None:
    assert dist.gather_json([1, math.inf]) == [[1, math.inf]]
    assert dist.broadcast_json("x") == "x"
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert dist.patience() == math.inf
    dist.wait_for_all()
    dist.barrier()
    dist.shutdown()


def test_an_error_about_another_process_is_told_from_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1")
    assert dist.lost_another(gloo)
    nccl = torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0.")
    assert not dist.lost_another(nccl)  # that there is nobody where all should meet is news
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    assert dist.lost_another(nccl)
    assert not dist.lost_another(RuntimeError("step 5: 101 steps in a row had a gradient that is not finite"))
    assert not dist.lost_another(ConnectionResetError("Connection reset by peer"))  # of a download, perhaps


def test_torchrun_is_told_why_a_process_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist.tell_launcher("nobody listens")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    dist.tell_launcher("a file is missing")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert failure.message["message"] == "a file is missing"
    assert abs(failure.timestamp - time.time()) < 60
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "folder"))
    dist.tell_launcher("a full disk hides nothing")


@pytest.mark.parametrize(("visible", "tasks_gpu"), [(1, 0), (4, 3)])
def test_a_task_of_srun_takes_the_gpu_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, visible: int, tasks_gpu: int
) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "3")
    assert dist.init(60) == torch.device("cuda", tasks_gpu) == taken[0]
    if visible == 1:  # torchrun below srun: its processes all see the same GPU
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        with pytest.raises(ValueError, match="expected at most 1 processes"):
            dist.init(60)


@pytest.mark.slow
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


ON_ONE_GPU = """
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from vsr.utils import dist
distributed.init_process_group("gloo")  # NCCL refuses two processes on one GPU
rank = dist.rank()
assert dist.mean(torch.tensor([float(rank)], device="cuda")).item() == 0.5
assert dist.any_process(rank == 1) and not dist.any_process(False)
assert dist.gather_json({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
torch.manual_seed(0)
layer = nn.Linear(3, 2, bias=False).cuda()
before = layer.weight.detach().clone()
network = DistributedDataParallel(layer)
(network(torch.full((1, 3), 1.0 + rank, device="cuda")).sum()).backward()
assert torch.allclose(layer.weight.grad, torch.full_like(before, 1.5))  # the mean of 1 and 2
dist.barrier()
dist.shutdown()
open(sys.argv[1] + str(rank), "w").close()
"""


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_processes_on_one_gpu_exchange_by_gloo(tmp_path: Path) -> None:
    run_in_processes(ON_ONE_GPU, 2, tmp_path)
    assert len(list(tmp_path.glob("done*"))) == 2


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_by_nccl(tiny: Path, tmp_path: Path) -> None:
    ended = run_ranks(2, "train.py", "-opt", str(tiny), environment={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert ended.status == 0, ended.output
    assert sorted(history(tmp_path / "experiments" / "tiny")) == list(range(1, 9))
