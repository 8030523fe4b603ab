"""A process of several that dies, fails or hangs: the others end, the first cause is told, nothing is left running."""

import os
import re
import time
from pathlib import Path
from socket import socket

import pytest
from faultkit import Ranks, run_ranks
from kit import history, kill, launch, steps_told

pytestmark = [pytest.mark.fault, pytest.mark.slow]
LONG = ["train.total_iter=100000", "logger.save_checkpoint_freq=100000", "val.val_freq=null"]


def assert_ended_well(ended: Ranks, root: Path) -> None:
    assert ended.status != 0
    assert ended.left == []
    assert "finished: " not in ended.output
    assert not (root / "PREEMPTED").exists()


def root_cause(output: str) -> str:
    """Return what torchrun says at its end about the process that failed first."""
    assert output.count("Root Cause (first observed failure)") == 1
    return output.partition("Root Cause (first observed failure)")[2]


def test_when_a_process_is_killed_the_others_end_and_it_is_named(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "experiments" / "tiny"
    arguments = ["-opt", str(tiny), "--set", *LONG, "datasets.train.num_worker_per_gpu=1"]
    ended = run_ranks(2, "train.py", *arguments, kill={1: 5})
    took = time.time() - (root / "log.jsonl").stat().st_mtime  # since step 4
    assert_ended_well(ended, root)
    assert took < 10
    cause = root_cause(ended.output)
    assert re.search(r"rank\s+: 1 ", cause)
    assert "Signal 9 (SIGKILL)" in cause
    assert ended.output.count("another process of the run has ended, or does not answer") <= 1  # of rank 0, if in time
    assert "Connection closed" not in ended.output


def test_when_a_process_fails_its_own_words_are_the_last_ones(tiny: Path, tmp_path: Path) -> None:
    ended = run_ranks(2, "train.py", "-opt", str(tiny), "--set", *LONG, fail={1: 5})
    assert_ended_well(ended, tmp_path / "experiments" / "tiny")
    cause = root_cause(ended.output)
    assert re.search(r"rank\s+: 1 ", cause)
    assert "this process was told to fail at step 5" in cause


LATE = """
import os, time
if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "1"):
    time.sleep(3)  # the other one is early, and must not take the dead process's address for this one's
"""


def test_torchrun_starts_a_run_again_that_lost_a_process(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    imports = "imports=[tiny_networks, late]"
    arguments = ["-opt", str(tiny), "--set", imports, "logger.save_checkpoint_freq=2", "val.val_freq=null"]
    ended = run_ranks(2, "train.py", *arguments, kill={1: 6}, torchrun=["--max-restarts=1"])
    assert ended.status == 0, ended.output
    assert ended.left == []
    root = tmp_path / "experiments" / "tiny"
    assert steps_told(root) == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert "continuing after step 4" in ended.output
    assert (root / "training_states" / "8.json").is_file()


STUCK = """
import time
from vsr.data.video import VideoTrainDataset
from vsr.utils import dist
original = VideoTrainDataset.__getitem__

def getitem(self, item):
    if item[1] >= 8 and dist.rank() == 1:
        time.sleep(1000)
    return original(self, item)

VideoTrainDataset.__getitem__ = getitem
"""


def test_a_worker_that_hangs_is_named_before_the_others_give_up(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["imports=[tiny_networks, stuck]", "datasets.train.num_worker_per_gpu=1", "dist.timeout=10"]
    ended = run_ranks(2, "train.py", "-opt", str(tiny), "--set", *arguments)
    assert_ended_well(ended, tmp_path / "experiments" / "tiny")
    assert re.search(
        r"datasets\.train: expected a batch from the workers within 7 s .*"
        r"worker 0 \(process \d+\) has been at index \d+, draw \d+ for \d+ s",
        root_cause(ended.output),
    )


def test_two_machines_meet_by_c10d(tiny: Path, tmp_path: Path) -> None:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = tmp_path / "torchrun.py"  # as on each of two machines, of one process each
    torchrun.write_text('import runpy\nrunpy.run_module("torch.distributed.run", run_name="__main__")\n')
    meeting = [
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        "--rdzv-id=run",
    ]
    agents = [launch(str(torchrun), *meeting, "train.py", "-opt", str(tiny)) for _ in range(2)]
    try:
        outputs = [agent.communicate(timeout=120)[0] for agent in agents]
    finally:
        for agent in agents:
            kill(agent)
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert "2 processes x batch 2" in "".join(outputs)
    assert sorted(history(tmp_path / "experiments" / "tiny")) == list(range(1, 9))


def test_two_tasks_of_srun_train_together(tiny: Path, tmp_path: Path) -> None:
    job = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NODEID": "0",
        "SLURM_TASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost",
    }  # fmt: skip
    tasks = [
        launch("train.py", "-opt", str(tiny), environment={**job, "SLURM_PROCID": number, "SLURM_LOCALID": number})
        for number in ("0", "1")
    ]
    try:
        outputs = [task.communicate(timeout=120)[0] for task in tasks]
    finally:
        for task in tasks:
            kill(task)
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert "2 processes x batch 2" in outputs[0]
    assert outputs[1] == ""  # rank 0 speaks
    assert sorted(history(tmp_path / "experiments" / "tiny")) == list(range(1, 9))
