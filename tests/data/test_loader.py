import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from vsr.config.schema import Component, DatasetOptions
from vsr.data.loader import build_dataset, build_train_loader, build_val_loader, check_shared_memory
from vsr.data.sampler import TrainSampler


class Recorder(Dataset[dict[str, Any]]):
    """Samples that say what was asked for, and in which process."""

    sample_bytes = 100

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: Any) -> dict[str, Any]:
        index, draw = item if isinstance(item, tuple) else (item, -1)
        return {"lq": torch.tensor([index, draw, os.getpid()]), "key": str(index)}


def options(workers: int = 0, **arguments: Any) -> DatasetOptions:
    return DatasetOptions(dataset=Component(type="x"), num_worker_per_gpu=workers, **arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_samplers_batches_in_order(workers: int) -> None:
    sampler = TrainSampler(length=8, batch_size=3, num_batches=5)
    loader = build_train_loader(Recorder(), options(workers), sampler, pin_memory=False)
    batches = list(loader)
    assert [[tuple(row[:2]) for row in batch["lq"].tolist()] for batch in batches] == list(sampler)
    assert batches[0]["key"] == [str(index) for index, _ in next(iter(sampler))]
    processes = {row[2] for batch in batches for row in batch["lq"].tolist()}
    assert (os.getpid() in processes) == (workers == 0)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_ranks_validate_on_contiguous_ranges_that_are_the_set_once(world: int) -> None:
    ranges = []
    for rank in range(world):
        loader = build_val_loader(Recorder(4), options(), rank=rank, world_size=world, pin_memory=False)
        ranges.append([int(batch["lq"][0, 0]) for batch in loader])
    assert [index for part in ranges for index in part] == [0, 1, 2, 3]
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_validation_leaves_no_worker_behind() -> None:
    before = children()
    for _ in range(2):
        batches = build_val_loader(Recorder(4), options(2), rank=0, world_size=1, pin_memory=False)
        assert {int(batch["lq"][0, 2]) for batch in batches}.isdisjoint({os.getpid()})
    assert children() <= before


def test_validation_starts_no_more_workers_than_it_has_items() -> None:
    assert build_val_loader(Recorder(3), options(8), rank=0, world_size=2, pin_memory=False).num_workers == 1
    assert list(build_val_loader(Recorder(1), options(8), rank=0, world_size=2, pin_memory=False)) == []


@pytest.mark.fault
def test_a_worker_outlives_ctrl_c() -> None:
    sampler = TrainSampler(length=8, batch_size=1, num_batches=20)
    loader = build_train_loader(Recorder(), options(1), sampler, pin_memory=False)
    batches = iter(loader)
    worker = int(next(batches)["lq"][0, 2])
    os.kill(worker, signal.SIGINT)
    assert len(list(batches)) == 19


def test_the_workers_of_training_live_as_long_as_the_loader() -> None:
    sampler = TrainSampler(length=8, batch_size=1, num_batches=3)
    loader = build_train_loader(Recorder(), options(1), sampler, pin_memory=False)
    first, second = ({int(batch["lq"][0, 2]) for batch in loader} for _ in range(2))
    assert first == second


def test_workers_that_would_overflow_the_shared_memory_are_refused(tmp_path: Path) -> None:
    state = os.statvfs(tmp_path)
    free = state.f_bavail * state.f_frsize
    check_shared_memory(1000, 2, 2, str(tmp_path))
    with pytest.raises(ValueError, match=r"num_worker_per_gpu: .* 2 workers .*num_worker_per_gpu: 0.*--shm-size="):
        check_shared_memory(free // 4, 2, 2, str(tmp_path))
    with pytest.raises(ValueError, match="2 workers of each of 1000 processes prepare"):
        check_shared_memory(free // 1000, 2, 2, str(tmp_path), processes=1000)
    check_shared_memory(free, 0, 2, str(tmp_path))  # without workers nothing is shared
    check_shared_memory(1 << 60, 2, 2, str(tmp_path / "none"))
    huge = Recorder()
    huge.sample_bytes = 1 << 60  # type: ignore[misc]
    sampler = TrainSampler(length=8, batch_size=1, num_batches=1)
    with pytest.raises(ValueError, match="num_worker_per_gpu"):
        build_train_loader(huge, options(1), sampler, pin_memory=False)


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TrainSampler(length=8, batch_size=1, num_batches=1)
    build_train_loader(Recorder(), options(1), sampler, pin_memory=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(1 << 60))
    with pytest.raises(ValueError, match="1 workers of each of"):
        build_train_loader(Recorder(), options(1), sampler, pin_memory=False)


def test_a_data_set_is_built_from_its_section(write_clip: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    root = write_clip("gt", "a", count=3)
    section = DatasetOptions(
        dataset=Component(type="VideoTrainDataset", args={"dataroot_gt": str(root), "num_frame": 3, "gt_size": 16})
    )
    dataset = build_dataset(section, scale=4, seed=7, key="train")
    assert (dataset.scale, dataset.seed, len(dataset)) == (4, 7, 3)
    assert "datasets.train: VideoTrainDataset, 1 clips (a), 3 samples" in caplog.text
    loader = build_train_loader(dataset, section, TrainSampler(length=3, batch_size=2, num_batches=1), pin_memory=False)
    (batch,) = loader
    assert batch["lq"].shape == (2, 3, 3, 4, 4)
    assert batch["gt"].shape == (2, 3, 16, 16)
    assert batch["lq"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"dataroot_gt": "no/such", "num_frame": 3, "gt_size": 16},
            FileNotFoundError,
            "^datasets.train: dataroot_gt: ",
        ),
        ({"num_frame": 4, "gt_size": 16, "dataroot_gt": "x"}, ValueError, "^datasets.train: num_frame: "),
        ({"num_frames": 3}, ValueError, "^datasets.train: VideoTrainDataset: 'num_frames' is not .* mean 'num_frame'"),
    ],
)
def test_a_mistake_names_the_section(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    section = DatasetOptions(dataset=Component(type="VideoTrainDataset", args=arguments))
    with pytest.raises(error, match=message):
        build_dataset(section, scale=4, seed=0, key="train")


def test_a_set_of_the_other_purpose_is_refused(write_clip: Any) -> None:
    root = str(write_clip("gt", "a", count=3))
    train = Component(type="VideoTrainDataset", args={"dataroot_gt": root, "num_frame": 3, "gt_size": 16})
    test = Component(type="PairedImageDataset", args={"dataroot_gt": root})
    with pytest.raises(ValueError, match=r"datasets\.val: expected a test set .* got VideoTrainDataset"):
        build_dataset(DatasetOptions(dataset=train), scale=4, seed=0, key="val")
    with pytest.raises(ValueError, match=r"datasets\.train: expected a training set .* got PairedImageDataset"):
        build_dataset(DatasetOptions(dataset=test), scale=4, seed=0, key="train")


def test_whole_clips_are_batched_with_their_names(write_clip: Any) -> None:
    root = write_clip("gt", "a", count=3)
    section = DatasetOptions(dataset=Component(type="VideoRecurrentTestDataset", args={"dataroot_gt": str(root)}))
    dataset = build_dataset(section, scale=4, seed=0, key="val")
    (batch,) = build_val_loader(dataset, section, rank=0, world_size=1, pin_memory=False)
    assert batch["gt"].shape == (1, 3, 3, 32, 48)
    assert [name for (name,) in batch["frames"]] == ["00000000", "00000001", "00000002"]
    np.testing.assert_array_equal(batch["gt"][0, :, 2, 0, 0], [0, 1, 2])
