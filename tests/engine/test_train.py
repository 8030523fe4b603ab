"""What stops a run before its first step, and what a broken file does in the middle of one."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from kit import write_frames

from vsr.config import load_options
from vsr.data.video import VideoTrainDataset
from vsr.engine.cli import train_main
from vsr.engine.train import train


def test_validating_on_frames_that_are_trained_on_is_refused(tiny: Path, clips: Path) -> None:
    overrides = [f"datasets.val.dataroot_gt={clips}/train/a", "datasets.val.frames=[4, 5]", "datasets.train.clips=[a]"]
    with pytest.raises(
        ValueError, match=r"datasets\.val: expected frames that datasets\.train does not hold, .*share 2"
    ):
        train(load_options(tiny, overrides))


def test_parts_of_one_clip_may_be_trained_and_validated_on(tiny: Path, clips: Path) -> None:
    train(
        load_options(
            tiny,
            [
                "train.total_iter=1",
                f"datasets.train.dataroot_gt={clips}/train/a",
                "datasets.train.frames=[0, 2]",
                f"datasets.val.dataroot_gt={clips}/train/a",
                "datasets.val.frames=[3, 5]",
            ],
        )
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("datasets.train.type=VideoTestDataset", "datasets.train"),
        ("datasets.val.type=VideoTrainDataset", "datasets.val"),
    ],
)
def test_sets_must_stand_where_they_belong(tiny: Path, override: str, text: str) -> None:
    extra = ["datasets.train.gt_size=null"] if "train.type" in override else ["datasets.val.gt_size=16"]
    with pytest.raises(ValueError, match=text):
        train(load_options(tiny, [override, *extra]))


def test_an_option_file_without_a_train_section_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="train: expected"):
        train(load_options(tiny, ["train=null"]))


def test_too_little_memory_for_the_workers_of_validation_is_told_before_the_first_step(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(1 << 60))  # so many processes share it
    with pytest.raises(ValueError, match=r"datasets\.val: num_worker_per_gpu: expected room in"):
        train(load_options(tiny, ["datasets.val.num_worker_per_gpu=1"]))
    assert not list(tmp_path.glob("experiments/tiny/models/*"))


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 2])
def test_a_frame_that_cannot_be_read_ends_the_run_with_its_name(
    tiny: Path, clips: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = clips / "train" / "a" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = ["-opt", str(tiny), "--set", f"datasets.train.num_worker_per_gpu={workers}"]
    assert train_main(arguments) == 1
    error = capsys.readouterr().err
    assert "a/0003.png" in error
    assert "Traceback" not in error


@pytest.mark.fault
def test_a_run_that_diverges_stops_and_says_so(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["train.max_bad_steps=2", "train.optim_g.lr=1e30", "train.scheduler=null", "train.pixel_opt.type=MSELoss"]
    assert train_main(["-opt", str(tiny), "--set", *changes]) == 1
    assert "train.max_bad_steps: 2" in capsys.readouterr().err


def test_clips_of_several_sizes_train_and_validate(tiny: Path, clips: Path) -> None:
    write_frames(clips / "train" / "large", 4, (40, 64), seed=9)
    write_frames(clips / "val" / "odd", 4, (33, 47), seed=9)  # not even a multiple of the scale
    train(load_options(tiny, ["train.total_iter=2"]))


def test_tensorboard_gets_scalars_and_pictures(tiny: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(load_options(tiny, ["train.total_iter=4", "logger.use_tb_logger=true"]))
    events = EventAccumulator(str(tmp_path / "experiments" / "tiny" / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/pixel", "train/lr", "val/val/psnr"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("train/pixel")] == [1, 2, 3, 4]
    assert np.isfinite([e.value for e in events.Scalars("val/val/psnr")]).all()
    picture = events.Images(tags["images"][0])[0]
    assert (picture.width, picture.height) == (3 * 48, 32)  # input, restored, ground truth side by side


def test_the_loop_tells_how_long_it_waits_for_data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = VideoTrainDataset.__getitem__
    monkeypatch.setattr(VideoTrainDataset, "__getitem__", lambda *arguments: [time.sleep(0.05), sample(*arguments)][1])
    train(load_options(tiny, ["train.total_iter=2", "train.accumulate=2", "datasets.val="]))
    entries = list(map(json.loads, (tmp_path / "experiments/tiny/log.jsonl").read_text().splitlines()))
    assert len(entries) == 2
    assert all(0.2 <= entry["data_time"] < entry["time"] for entry in entries)  # two batches of two samples
