"""Going on after something was changed: refused, or told of and done exactly."""

from pathlib import Path
from typing import Any

import pytest
from kit import history

from vsr.config import load_options
from vsr.data.video import VideoTrainDataset
from vsr.engine.cli import train_main
from vsr.engine.resume import changed_rates
from vsr.engine.train import train

pytestmark = pytest.mark.fault
CONSTANT = {"lr_g": 1e-3, "lr_d": None, "scheduler": None, "warmup_iter": -1, "lr_mul": {}, "samples": 4}
STEPS = {"type": "MultiStepLR", "milestones": [100, 200], "gamma": 0.5}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, None),
        ({"samples": 8}, None),
        ({"lr_g": 2e-3}, "the rate of network_g in step 51 was 0.001 and is 0.002 now"),
        ({"scheduler": STEPS}, "the rate of network_g in step 101 was 0.001 and is 0.0005 now"),
        ({"scheduler": {**STEPS, "milestones": [40, 45], "gamma": 1.0}}, None),
        ({"warmup_iter": 50}, None),  # that time is over
        ({"warmup_iter": 60}, "the rate of network_g in step 51 was 0.001 and is 0.00085 now"),
        ({"lr_mul": {"spynet": 0.25}}, r"train.lr_mul was {} and is {'spynet': 0.25} now"),
        ({"lr_mul": {"first": 1.0, "last": 1.0}}, None),  # groups with names, at the rates that all had
        ({"lr_d": 1e-4}, None),  # it had none
    ],
)
def test_only_what_changes_the_rates_to_come_counts(change: dict[str, Any], text: str | None) -> None:
    assert changed_rates(CONSTANT, {**CONSTANT, **change}, range(51, 301)) == text


def test_the_discriminators_rate_counts_too() -> None:
    before = {**CONSTANT, "lr_d": 1e-4}
    found = changed_rates(before, {**before, "lr_d": 2e-4}, range(1, 2))
    assert found == "the rate of network_d in step 1 was 0.0001 and is 0.0002 now"


def test_a_schedule_that_is_gone_is_said_to_be() -> None:
    found = changed_rates({**CONSTANT, "scheduler": {"type": "MyLR"}}, CONSTANT, range(1, 2))
    assert found is not None
    assert "cannot be built any more" in found
    assert "MyLR" in found


@pytest.mark.fault
def test_other_rates_need_force(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["val.val_freq=null", "train.scheduler=null"]
    train(load_options(tiny, [*plain, "train.total_iter=4"]))
    arguments = ["-opt", str(tiny), "--set", *plain, "train.optim_g.lr=5e-4"]
    assert train_main([*arguments, "train.total_iter=8"]) == 1
    error = capsys.readouterr().err
    assert "4.state: expected the learning rates that the run has begun with" in error
    assert "the rate of network_g in step 5 was 0.001 and is 0.0005 now" in error
    assert "--force" in error
    root = tmp_path / "experiments" / "tiny"
    assert sorted(history(root)) == [1, 2, 3, 4]
    assert "lr: 0.001" in (root / "options.yml").read_text()  # as if it had not been tried
    assert train_main([*arguments, "train.total_iter=8", "--force"]) == 0
    assert "--force: the rate of network_g in step 5 was 0.001 and is 0.0005 now" in capsys.readouterr().err
    assert [history(root)[step]["lr"] for step in (4, 5, 8)] == [1e-3, 5e-4, 5e-4]
    assert train_main([*arguments, "train.total_iter=10"]) == 0  # these are its rates now
    assert train_main(["-opt", str(tiny), "--set", *plain, "train.total_iter=10"]) == 0  # no step is left


@pytest.mark.fault
def test_another_batch_and_accumulation_repeat_and_lose_no_sample(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draws: list[int] = []
    original = VideoTrainDataset.__getitem__

    def noted(self: VideoTrainDataset, item: tuple[int, int]) -> Any:
        draws.append(item[1])
        return original(self, item)

    monkeypatch.setattr(VideoTrainDataset, "__getitem__", noted)
    train(load_options(tiny, ["val.val_freq=null", "train.total_iter=4"]))
    assert draws == [0, *range(8)]  # the first one is looked at before the start
    draws.clear()
    train(load_options(tiny, ["val.val_freq=null", "datasets.train.batch_size_per_gpu=1", "train.accumulate=3"]))
    assert draws == [0, *range(8, 20)]
    assert "a step takes 3 samples now, and took 2 before" in caplog.text
    assert "- batch_size_per_gpu: 2" in caplog.text
    assert "+ batch_size_per_gpu: 1" in caplog.text


def test_scaled_numbers_of_steps_do_not_change_unnoticed(tiny: Path) -> None:
    scaled = ["val.val_freq=null", "train.reference_batch=4", "train.scale_iterations=true", "train.total_iter=2"]
    train(load_options(tiny, scaled))  # 4 steps of 2 samples
    with pytest.raises(ValueError, match=r"in step 5 was .* and is .*with scale_iterations the number of processes"):
        train(load_options(tiny, [*scaled, "train.total_iter=8", "datasets.train.batch_size_per_gpu=4"]))
