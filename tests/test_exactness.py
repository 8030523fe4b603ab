"""A run that was interrupted and continued equals one that was not, bit for bit, whatever it trains with."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import ROWS, SETTINGS, Row, train_whole_and_in_parts
from kit import assert_same_run, final_state, run, steps_told
from test_end_to_end import interrupted, options_of

from vsr.engine import checkpoint
from vsr.engine.train import train

ALONE = [(number, row) for number, row in enumerate(ROWS) if row["processes"] == "1"]
IN_PAIRS = [(number, row) for number, row in enumerate(ROWS) if row["processes"] == "2"]


def test_every_two_values_of_two_settings_meet_in_a_row() -> None:
    for one, other in itertools.combinations(SETTINGS, 2):
        for values in itertools.product(SETTINGS[one], SETTINGS[other]):
            assert any((row[one], row[other]) == values for row in ROWS), (one, other, values)
    assert len(ROWS) < 24  # 4 x 3 at the least
    assert len(ALONE) > 5
    assert len(IN_PAIRS) > 5


def check(experiments: Path, number: int, row: Row) -> None:
    whole, parts = (experiments / f"row{number}_{name}" for name in ("whole", "parts"))
    assert_same_run(whole, parts, 8)
    assert steps_told(parts) == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]  # it went on after the state, and did not begin again
    before, after = final_state(parts, 4), final_state(parts, 8)
    moved = [key for key in before if "network_g" in key and not torch.equal(before[key], after[key])]
    assert moved  # there was something to be equal
    assert (parts / "models" / "net_d_8.pth").is_file() == (row["adversary"] != "none")


@pytest.mark.fault
@pytest.mark.parametrize(("number", "row"), ALONE, ids=[f"row{number}" for number, _ in ALONE])
def test_stopped_and_continued_it_equals_the_run_that_was_not(
    tiny: Path, tmp_path: Path, number: int, row: Row
) -> None:
    train_whole_and_in_parts(tiny, row, f"row{number}")
    check(tmp_path / "experiments", number, row)


@pytest.mark.fault
@pytest.mark.slow
def test_so_it_does_in_two_processes(tiny: Path, tmp_path: Path) -> None:
    # One start of the two processes serves all rows: each builds its model, its loader and its folder anew.
    status, output = run("tests/exactness.py", str(tiny), world=2, timeout=400)
    assert status == 0, output
    for number, row in IN_PAIRS:
        try:
            check(tmp_path / "experiments", number, row)
        except AssertionError as error:
            raise AssertionError(f"row {number}: {row}") from error


def test_branches_that_are_left_out_at_random_are_the_same_ones(
    tiny: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swinir = "network_g={type: SwinIR, upscale: 2, img_size: 8, window_size: 4, depths: [2], num_heads: [2]"
    clips_in_place_of_windows = [
        f"{swinir}, embed_dim: 8, mlp_ratio: 2, upsampler: pixelshuffledirect, drop_path_rate: 0.5}}",
        "datasets.train.type=VideoRecurrentTrainDataset",
        f"datasets.val={{type: VideoRecurrentTestDataset, dataroot_gt: {clips}/val/c, num_worker_per_gpu: 0}}",
        "val.val_freq=8",
    ]
    train(options_of(tiny, *clips_in_place_of_windows, name="whole"))
    interrupted(monkeypatch, options_of(tiny, *clips_in_place_of_windows, name="parts"), before=7)
    train(options_of(tiny, *clips_in_place_of_windows, name="parts"))
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 8)


def zeroed(state: dict[str, Any]) -> None:
    for moments in state["model"]["optimizer"]["state"].values():
        moments["exp_avg"].zero_()


def not_averaged(state: dict[str, Any]) -> None:
    state["model"]["network_ema"] = state["model"]["network_g"]


def a_sample_late(state: dict[str, Any]) -> None:
    state["draw"] += 1


@pytest.mark.parametrize("forget", [zeroed, not_averaged, a_sample_late], ids=lambda forget: forget.__name__)
def test_the_comparison_notices_what_a_state_forgets(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[dict[str, Any]], None],
) -> None:
    train(options_of(tiny, name="whole"))
    parts = tmp_path / "experiments" / "parts"
    shutil.copytree(tmp_path / "experiments" / "whole", parts)
    for path in (parts / "training_states").glob("8.*"):
        path.unlink()
    load = checkpoint.load

    def forgetful(path: Path) -> dict[str, Any]:
        state = load(path)
        forget(state)
        return state

    monkeypatch.setattr(checkpoint, "load", forgetful)
    train(options_of(tiny, name="parts"))
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "experiments" / "whole", parts, 8)
