"""Samples that cannot be read are replaced by the same others whenever and wherever, told of once, and limited."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.config import load_options
from vsr.config.reader import OptionError
from vsr.config.schema import Component, DatasetOptions
from vsr.data.bad_samples import REPLACEMENTS, TOLD, BadSamples, ReplacingDataset
from vsr.data.loader import build_dataset, build_train_loader
from vsr.data.sampler import TrainSampler
from vsr.engine.train import train
from vsr.utils.images import write_image

pytestmark = pytest.mark.fault


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Sixteen images of noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "gt").mkdir()
    for i in range(16):
        write_image(tmp_path / "gt" / f"{i:02d}.png", rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    return tmp_path / "gt"


def cut(file: Path) -> None:
    """Take a file's last bytes away: its header stays whole, so that it shows only when it is decoded."""
    file.write_bytes(file.read_bytes()[:-20])


def section(root: Path, kind: str = "PairedImageDataset", workers: int = 0, **arguments: Any) -> DatasetOptions:
    return DatasetOptions(
        dataset=Component(type=kind, args={"dataroot_gt": str(root), "gt_size": 16, **arguments}),
        batch_size_per_gpu=2,
        num_worker_per_gpu=workers,
        on_bad_sample="skip",
    )


def batches(options: DatasetOptions, report: Path, *, first: int = 0, count: int = 20, limit: int = 100) -> list[Any]:
    dataset = build_dataset(options, scale=2, seed=4, key="train")
    sampler = TrainSampler(length=len(dataset), batch_size=2, seed=4, start_draw=2 * first, num_batches=count - first)
    watch = BadSamples(report, limit)
    return list(watch.watched(build_train_loader(dataset, options, sampler, pin_memory=False)))


def test_replacements_are_the_same_with_any_workers_and_after_a_resume(images: Path, tmp_path: Path) -> None:
    whole = batches(section(images), tmp_path / "none.txt")
    bad = {"03", "07", "11"}
    for name in bad:
        cut(images / f"{name}.png")
    expected = batches(section(images), tmp_path / "bad.txt")
    assert all(set(batch) == {"lq", "gt", "key"} for batch in expected)
    for before, after in zip(whole, expected, strict=True):
        for i, (key, now) in enumerate(zip(before["key"], after["key"], strict=True)):
            assert (key != now) == (key in bad)  # only what is bad is replaced,
            assert now not in bad
            assert torch.equal(before["gt"][i], after["gt"][i]) == (key not in bad)
    replaced = [after["key"] for before, after in zip(whole, expected, strict=True) if bad & set(before["key"])]
    assert len({key for keys in replaced for key in keys}) > 3  # and not always by one and the same
    for again, first in ((batches(section(images, workers=2), tmp_path / "bad.txt"), 0),
                         (batches(section(images), tmp_path / "bad.txt", first=7), 7)):  # fmt: skip
        for one, other in zip(expected[first:], again, strict=True):
            assert one["key"] == other["key"]
            assert torch.equal(one["lq"], other["lq"])
            assert torch.equal(one["gt"], other["gt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_fault_is_told_once_and_listed(
    images: Path, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    cut(images / "05.png")
    (images / "09.png").unlink()
    (images / "09.png").symlink_to(images / "05.png")  # another name for the bad file
    with caplog.at_level(logging.WARNING, "vsr"):
        batches(section(images, workers=workers), tmp_path / "report.txt", count=40)
    told = [record.getMessage() for record in caplog.records if "takes the place" in record.getMessage()]
    assert sorted(text.partition("read: ")[2][:16] for text in told) == ["sample 05: " + str(images)[:5],
                                                                        "sample 09: " + str(images)[:5]]  # fmt: skip
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert sorted(line.partition(": expected a whole image")[0] for line in lines) == [
        str(images / "05.png"),
        str(images / "09.png"),
    ]
    caplog.clear()
    batches(section(images, workers=workers), tmp_path / "report.txt")  # continued: known already
    assert "takes the place" not in caplog.text
    assert (tmp_path / "report.txt").read_text().splitlines() == lines


def test_a_frame_is_one_fault_in_however_many_windows_it_lies(write_clip: Any, tmp_path: Path) -> None:
    root = write_clip("clips", "a", count=30)
    cut(root / "a" / "00000004.png")
    options = section(root, "VideoTrainDataset", num_frame=3, random_reverse=True)
    batches(options, tmp_path / "report.txt", count=40, limit=1)
    assert len((tmp_path / "report.txt").read_text().splitlines()) == 1
    cut(root / "a" / "00000020.png")
    with pytest.raises(ValueError, match=r"max_bad_samples: expected at most 1 faults .*report\.txt has all"):
        batches(options, tmp_path / "report.txt", count=40, limit=1)


def test_a_set_that_is_bad_all_over_ends_the_run(images: Path, tmp_path: Path) -> None:
    for file in images.iterdir():
        cut(file)
    with pytest.raises(ValueError, match=rf"expected a few bad samples, but {REPLACEMENTS + 1} in a row"):
        batches(section(images), tmp_path / "report.txt")


def test_mistakes_that_are_no_bad_files_are_not_skipped() -> None:
    class Broken(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, item: Any) -> Any:
            raise KeyError("a mistake of the program")

    with pytest.raises(KeyError):
        ReplacingDataset(Broken(), seed=0)[0, 0]


def test_a_set_keeps_what_it_is_known_by(images: Path) -> None:
    dataset = build_dataset(section(images), scale=2, seed=0, key="train")
    assert isinstance(dataset, ReplacingDataset)
    assert (len(dataset), dataset.is_train, len(dataset.gt_files)) == (16, True, 16)
    assert dataset.sample_bytes == 3 * (64 + 256)
    assert not hasattr(dataset, "clips")


def test_the_log_is_not_flooded_and_a_report_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f'[["sample {i}: {i}.png is bad", "{i}.png is bad"]]' for i in range(TOLD + 5)]
    watch = BadSamples(tmp_path / "no" / "report.txt", 100)
    assert list(watch.watched({"replaced": [text, ""]} for text in texts)) == [{}] * len(texts)
    watch.close()
    told = [record.getMessage() for record in caplog.records]
    assert sum("takes the place" in text for text in told) == TOLD
    assert sum("more samples cannot be read" in text for text in told) == 1
    assert sum("cannot be written to" in text for text in told) == 1
    assert told[-1].startswith(f"datasets.train: {TOLD + 5} samples were replaced, for {TOLD + 5} faults in the data")


def test_a_run_goes_on_past_a_bad_frame_and_resumes_exactly(tiny: Path, clips: Path, tmp_path: Path) -> None:
    cut(clips / "train" / "a" / "0003.png")
    skip = ["datasets.train.on_bad_sample=skip", "val.val_freq=null", "logger.save_checkpoint_freq=2"]
    with pytest.raises(ValueError, match=r"sample a/.*0003\.png: expected a whole image"):
        train(load_options(tiny, ["name=stops"]))
    train(load_options(tiny, [*skip, "name=whole"]))
    train(load_options(tiny, [*skip, "name=parts", "train.total_iter=4"]))
    train(load_options(tiny, [*skip, "name=parts", "datasets.train.num_worker_per_gpu=2"]))
    states = [
        torch.load(tmp_path / "experiments" / name / "training_states" / "8.state", weights_only=True)["model"]
        for name in ("whole", "parts")
    ]
    for key, value in states[0]["network_g"].items():
        assert torch.equal(value, states[1]["network_g"][key])
    for name in ("whole", "parts"):
        lines = (tmp_path / "experiments" / name / "bad_samples.txt").read_text().splitlines()
        assert [line.partition(": ")[0] for line in lines] == [str(clips / "train" / "a" / "0003.png")]


def test_validation_skips_nothing(tiny: Path) -> None:
    with pytest.raises(OptionError, match=r"datasets\.val\.on_bad_sample=skip: expected stop, got skip"):
        load_options(tiny, ["datasets.val.on_bad_sample=skip"])
