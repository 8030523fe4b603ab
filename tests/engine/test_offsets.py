"""Runs whose deformable layers reach too far: warned of, skipped or stopped, as the options say."""

import json
from pathlib import Path

import pytest
import torch
from kit import assert_same_run, history
from torch import nn

from vsr.config import Options, load_options
from vsr.engine.cli import train_main
from vsr.engine.log import TrainLog
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.models.weights import build_network

EDVR = "{type: EDVR, num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 0, num_reconstruct_block: 0}"
RUN = [f"network_g={EDVR}", "scale=4", "val.metrics.ssim=null", "val.val_freq=null", "train.total_iter=4"]


@pytest.fixture
def diverged(tmp_path: Path) -> str:
    """Weights whose last deformable layer moves its taps by 5000 pixels, as an option."""
    torch.manual_seed(0)
    network = build_network({"type": "EDVR", "num_feat": 8, "num_frame": 3, "deformable_groups": 2,
                             "num_extract_block": 0, "num_reconstruct_block": 0})  # fmt: skip
    nn.init.constant_(network.pcd_align.cas_dcnpack.conv_offset.bias[:36], -5000.0)
    torch.save({"params": network.state_dict()}, tmp_path / "diverged.pth")
    return f"path.pretrain_network_g={tmp_path}/diverged.pth"


def test_warn_says_one_line_at_print_freq_and_goes_on(
    tiny: Path, tmp_path: Path, diverged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*RUN, diverged, "logger.print_freq=2"]
    assert train_main(["-opt", str(tiny), "--set", *overrides]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "the offsets of" in line]
    assert [line.split("step ")[1].split(":")[0] for line in lines] == ["2", "4"]
    assert "of pcd_align.cas_dcnpack reach 5000 pixels in the mean" in lines[0]
    assert "train.offset_watch.limit: 100, since step 1. " in lines[1]
    assert "train.lr_mul: {dcn: 0.1}" in lines[0]
    assert "train.warmup_iter" in lines[0]
    assert (tmp_path / "experiments" / "tiny" / "training_states" / "4.state").is_file()


@pytest.mark.fault
def test_skip_drops_the_steps_until_max_bad_steps_ends_the_run(
    tiny: Path, tmp_path: Path, diverged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*RUN, diverged, "train.offset_watch.action=skip", "train.max_bad_steps=2"]
    assert train_main(["-opt", str(tiny), "--set", *overrides]) == 1
    error = capsys.readouterr().err
    assert "since step 1; these steps change nothing" in error
    assert "step 3: 3 steps in a row had a gradient that is not finite, or offsets above train.offset_watch" in error
    assert not list((tmp_path / "experiments" / "tiny" / "training_states").glob("*.state"))


@pytest.mark.fault
def test_stop_ends_the_run_and_names_the_state_from_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step_of = RestorationModel.train_step

    def diverging(self: RestorationModel, batches: list, step: int) -> dict:
        if step == 4:
            nn.init.constant_(self.network_g.pcd_align.dcn_pack["l2"].conv_offset.bias[:36], 9624.0)
        return step_of(self, batches, step)

    monkeypatch.setattr(RestorationModel, "train_step", diverging)
    every = ["logger.save_checkpoint_freq=1", "logger.print_freq=6", "logger.keep_last=6", "train.total_iter=8"]
    assert train_main(["-opt", str(tiny), "--set", *RUN, *every, "train.offset_watch.action=stop"]) == 1
    error = capsys.readouterr().err
    states = tmp_path / "experiments" / "tiny" / "training_states"
    assert "step 6: the offsets of pcd_align.dcn_pack.l2 reach 9624 pixels" in error
    assert "since step 4. Such a run mostly diverges" in error
    assert f"continue from {states / '3.state'} (path.resume_state)" in error
    assert sorted(int(path.stem) for path in states.glob("*.state")) == [1, 2, 3, 4, 5]
    assert "Traceback" not in error


def test_a_run_that_diverges_before_its_first_state_is_told_to_begin_anew(
    tiny: Path, diverged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main(["-opt", str(tiny), "--set", *RUN, diverged, "train.offset_watch.action=stop"]) == 1
    assert "continue anew (--fresh): there is no state from before that" in capsys.readouterr().err


def test_the_line_names_the_largest_offset_and_the_files_hold_all(
    tiny: Path, tmp_path: Path, diverged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = [*RUN, diverged, "train.total_iter=1", "logger.use_tb_logger=true"]
    assert train_main(["-opt", str(tiny), "--set", *arguments]) == 0
    line = next(text for text in capsys.readouterr().err.splitlines() if "step 1/1" in text)
    assert "  offset 5000 (pcd_align.cas_dcnpack)  " in line
    assert line.count("offset") == 1
    layers = {f"offset/pcd_align.{name}" for name in ("cas_dcnpack", "dcn_pack.l1", "dcn_pack.l2", "dcn_pack.l3")}
    entry = history(tmp_path / "experiments" / "tiny")[1]
    assert {key: entry[key] for key in sorted(layers)} == {
        "offset/pcd_align.cas_dcnpack": 5000.0,
        **{key: 0.0 for key in sorted(layers) if "cas" not in key},  # offsets begin at zero
    }
    events = EventAccumulator(str(tmp_path / "experiments" / "tiny" / "tb"))
    events.Reload()
    assert layers < set(events.Tags()["scalars"])


def test_without_a_watch_nothing_is_told(
    tiny: Path, tmp_path: Path, diverged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main(["-opt", str(tiny), "--set", *RUN, diverged, "train.offset_watch=null"]) == 0
    assert "offset " not in capsys.readouterr().err
    text = (tmp_path / "experiments" / "tiny" / "log.jsonl").read_text()
    assert not any(key.startswith("offset") for line in text.splitlines() for key in json.loads(line))


class StopHereError(Exception):
    pass


def test_a_run_with_deformable_layers_stopped_and_continued_equals_one_that_was_not(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(name: str) -> Options:
        watch = "train.offset_watch={limit: 0.001, action: skip}"  # some steps are dropped, others are not
        return load_options(
            tiny, [*RUN, f"name={name}", watch, "train.total_iter=6", "val.val_freq=6", "logger.save_checkpoint_freq=3"]
        )

    train(options("whole"))
    step_of = RestorationModel.train_step

    def stopping(self: RestorationModel, batches: list, step: int) -> dict:
        if step == 5:
            raise StopHereError
        return step_of(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "train_step", stopping)
        with pytest.raises(StopHereError):
            train(options("parts"))
    train(options("parts"))
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 6)
    offsets = [entry["offset/pcd_align.dcn_pack.l1"] for entry in history(tmp_path / "experiments" / "whole").values()]
    assert min(offsets) == 0
    assert max(offsets) > 0


def test_an_offset_that_is_not_a_number_is_the_largest(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    progress = TrainLog(load_options(tiny, ["logger.print_freq=1"]).logger, tmp_path, start=0, total=2)
    terms = {f"offset/{name}": torch.tensor(value) for name, value in (("a", 9.0), ("b", float("nan")), ("c", 7.0))}
    caplog.set_level("INFO", logger="vsr")
    progress.step(1, terms, rate=0.1, keys=[])
    assert "offset nan (b)" in caplog.text
