"""Workers that die, hang or raise: the error names data set, worker and sample, and nobody is left behind."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from faultkit import in_child
from torch.utils.data import Dataset

from vsr.config.schema import Component, DatasetOptions
from vsr.data import activity
from vsr.data.loader import build_train_loader, build_val_loader
from vsr.data.sample import naming
from vsr.data.sampler import TrainSampler
from vsr.data.workers import WatchedLoader, WorkerError

pytestmark = pytest.mark.fault


class Troubled(Dataset[dict[str, Any]]):
    """Samples of which the fourth does what ``trouble`` says while it reads its file."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: Any) -> dict[str, Any]:
        index = item[0] if isinstance(item, tuple) else item
        with naming(f"clip/{index:04d}"):
            activity.note_file(f"/data/clip/{index:04d}.png")
            if index == 3:
                self.fail()
        return {"lq": torch.tensor([index, os.getpid()])}

    def fail(self) -> None:
        if self.trouble == "raises":
            raise ValueError("/data/clip/0003.png: expected an image, got text.")
        if self.trouble == "misses":
            raise FileNotFoundError("/data/clip/0003.png: expected a file, found none.")
        if self.trouble == "mistake":
            raise KeyError("wrong")
        if self.trouble == "exits":
            os._exit(3)
        if self.trouble == "leaves":
            os._exit(0)
        if self.trouble == "hangs":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})  # as if in the system
            time.sleep(60)
        os.kill(os.getpid(), getattr(signal, self.trouble))


CASES = {
    "SIGKILL": (WorkerError, r"process \d+\) was killed \(SIGKILL\) at SAMPLE, file FILE\. .*num_worker_per_gpu"),
    "SIGSEGV": (WorkerError, r"process \d+\) was killed \(SIGSEGV\) at SAMPLE, file FILE\. A broken file"),
    "SIGBUS": (WorkerError, r"process \d+\) was killed \(SIGBUS\) at SAMPLE, file FILE\. Shared memory"),
    "exits": (WorkerError, r"process \d+\) ended by itself \(exit status 3\) at SAMPLE, file FILE"),
    "leaves": (WorkerError, r"process \d+\) ended by itself \(exit status 0\) at SAMPLE, file FILE"),
    "hangs": (WorkerError, r"within 0\.5 s .*process \d+\) has been at SAMPLE, file FILE for \d+ s\..*network"),
    "raises": (ValueError, r"sample clip/0003: FILE: expected an image"),
    "misses": (FileNotFoundError, r"sample clip/0003: FILE: expected a file"),
    "mistake": (RuntimeError, r"index 3, draw \d+: KeyError: 'wrong'|item 3: KeyError: 'wrong'"),
}


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.data.workers.POLL", 0.1)
    monkeypatch.setattr("vsr.data.workers.GRACE", 0.3)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("trouble", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_the_error_names_the_sample_and_no_process_is_left(trouble: str, training: bool) -> None:
    before, start = children(), time.monotonic()
    section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=2, timeout=0.5)
    if training:
        sampler = TrainSampler(length=8, batch_size=2, num_batches=8)
        loader = build_train_loader(Troubled(trouble), section, sampler, pin_memory=False)
    else:
        loader = build_val_loader(Troubled(trouble), section, key="val_2", rank=0, world_size=1, pin_memory=False)
    kind, text = CASES[trouble]
    with pytest.raises(kind) as caught:
        list(loader)
    name = "train" if training else "val_2"
    sample = r"sample clip/0003 \(index 3, draw \d+\)" if training else r"sample clip/0003 \(item 3\)"
    text = text.replace("SAMPLE", sample).replace("FILE", "/data/clip/0003.png")
    message = str(caught.value)
    assert re.search(rf"datasets\.{name}\b.*\bworker \d", message), message
    assert re.search(text, message), message
    assert children() <= before  # although the error and its frames are still there
    assert time.monotonic() - start < 8


def test_a_worker_that_dies_does_not_interrupt_the_loop_elsewhere() -> None:
    section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=1)
    sampler = TrainSampler(length=8, batch_size=1, num_batches=200)
    loader = build_train_loader(Troubled("none"), section, sampler, pin_memory=False)
    loader.dataset.dataset.fail = lambda: None
    batches = iter(loader)
    worker = int(next(batches)["lq"][0, 1])
    os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:  # a state is written
        pass
    with pytest.raises(WorkerError, match=r"datasets\.train: worker 0 \(process \d+\) was killed \(SIGKILL\)"):
        list(batches)


def test_a_slow_batch_is_waited_for() -> None:
    class Slow(Troubled):
        def fail(self) -> None:
            time.sleep(0.4)

    section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=2, timeout=20)
    batches = list(build_val_loader(Slow(""), section, rank=0, world_size=1, pin_memory=False))
    assert [int(batch["lq"][0, 0]) for batch in batches] == list(range(8))


def test_a_loader_gives_up_before_the_other_processes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.utils.dist.patience", lambda: 0.5)
    section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=1)
    with pytest.raises(WorkerError, match=r"within 0\.35 s"):
        list(build_val_loader(Troubled("hangs"), section, rank=0, world_size=1, pin_memory=False))


def test_what_a_loader_left_unfinished_is_closed() -> None:
    before = children()
    section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=2)
    for _ in build_val_loader(Troubled(""), section, rank=0, world_size=1, pin_memory=False):
        break
    assert children() <= before
    sampler = TrainSampler(length=8, batch_size=2, num_batches=100)
    loader = build_train_loader(Troubled("none"), section, sampler, pin_memory=False)
    batches = iter(loader)
    next(batches)
    assert len(children() - before) == 2
    loader.close()
    loader.close()
    assert children() <= before


def runs(pid: int) -> bool:
    """Whether a process is there, and more than a name that nobody has taken off the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_the_workers_of_a_killed_process_end_with_it(tmp_path: Path) -> None:
    note = tmp_path / "workers"

    class Long(Troubled):
        def fail(self) -> None:
            time.sleep(100)

    def killed() -> None:
        section = DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=2)
        batches = iter(build_val_loader(Long(""), section, rank=0, world_size=1, pin_memory=False))
        note.write_text(" ".join(str(int(next(batches)["lq"][0, 1])) for _ in range(2)))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    workers = [int(pid) for pid in note.read_text().split()]
    assert len(set(workers)) == 2
    end = time.monotonic() + 3
    while left := [pid for pid in workers if runs(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_notes_that_are_too_long_keep_their_end() -> None:
    import multiprocessing

    notes = activity.Activity(2, multiprocessing.get_context("fork"))
    try:
        notes.note_as(1)
        activity.begin("index 1, draw 2")
        activity.note_key("k" * 1000 + "/0007")
        activity.note_file("/" + "é" * 600 + "/0007.png")
        doing = notes.of(1)
        assert doing is not None
        assert doing.item == "index 1, draw 2"
        assert doing.key.startswith("...k")
        assert doing.key.endswith("k/0007")
        assert doing.file.endswith("é/0007.png")
        assert notes.of(0) is None
        activity.begin("index 2, draw 3")
        assert str(notes.of(1)) == "index 2, draw 3"
        activity.end()
        assert notes.of(1) is None
    finally:
        activity._own = None


def test_without_workers_the_error_names_the_set_too() -> None:
    loader = WatchedLoader(Troubled("raises"), key="val", num_workers=0, timeout=1, prefetch_factor=1)
    with pytest.raises(ValueError, match=r"^datasets\.val: sample clip/0003: /data/clip/0003\.png: expected an image"):
        list(loader)
