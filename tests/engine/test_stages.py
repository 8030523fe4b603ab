"""Chains of option files: each run starts from what the one before it has left."""

from pathlib import Path

import pytest
import torch

from vsr.config import load_options
from vsr.engine.stages import starting_weights, trained_weights
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.weights import read_weights

STILL = ["train.optim_g.lr=0.0", "train.scheduler=null", "train.total_iter=1"]


def second(tiny: Path, *overrides: str) -> list[str]:
    return ["name=second", f"path.pretrain_network_g={{stage: {tiny}}}", *overrides]


def test_the_second_stage_starts_from_the_weights_of_the_first(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny))
    train(load_options(tiny, second(tiny, *STILL)))
    first = read_weights(tmp_path / "experiments/tiny/models/net_g_8.pth")
    assert all(torch.equal(value, first[name]) for name, value in read_weights(
        tmp_path / "experiments/second/models/net_g_1.pth").items())  # fmt: skip
    written = load_options(tmp_path / "experiments/second/options.yml")
    assert written == load_options(tiny, second(tiny, *STILL))


def test_the_best_weights_may_be_asked_for(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny))
    options = load_options(tiny, ["name=second", f"path.pretrain_network_g={{stage: {tiny}, weights: best}}"])
    assert starting_weights(options) == str(tmp_path / "experiments/tiny/models/net_g_best.pth")


def test_a_second_stage_with_states_of_its_own_needs_the_first_no_more(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny))
    train(load_options(tiny, second(tiny, "train.total_iter=4")))
    (tmp_path / "experiments/tiny").rename(tmp_path / "gone")
    train(load_options(tiny, second(tiny)))
    assert (tmp_path / "experiments/second/models/net_g_8.pth").is_file()


def test_testing_the_second_stage_tests_what_it_has_learnt(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny))
    train(load_options(tiny, second(tiny)))
    run_test(load_options(tiny, second(tiny)))
    tested = load_options(tmp_path / "results/second/options.yml").path.pretrain_network_g
    assert tested == trained_weights(load_options(tiny, second(tiny)))
    assert "second" in str(tested)


def test_a_stage_that_has_not_run_or_not_ended_is_named_with_what_to_do(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError, match=r"found none\. Run that stage first: train\.py -opt"):
        starting_weights(load_options(tiny, second(tiny)))
    train(load_options(tiny, ["train.total_iter=4"]))
    with pytest.raises(ValueError, match=r"to have come to its end, step 8, found step 4"):
        starting_weights(load_options(tiny, second(tiny)))
    best = load_options(tiny, ["name=second", f"path.pretrain_network_g={{stage: {tiny}, weights: best}}"])
    assert "net_g_best.pth" in str(starting_weights(best))
    assert "step 8, found step 4. Its best weights so far are taken" in caplog.text


def test_a_stage_of_the_same_name_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="expected the option file of another run"):
        starting_weights(load_options(tiny, [f"path.pretrain_network_g={{stage: {tiny}}}"]))


def test_mistakes_in_the_stage_are_told_like_others(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"path\.pretrain_network_g\.stgae: unknown key\. Did you mean 'stage'"):
        load_options(tiny, ["path.pretrain_network_g={stgae: x.yml}"])
    with pytest.raises(ValueError, match="expected text or a mapping with stage, weights or null, got 3"):
        load_options(tiny, ["path.pretrain_network_g=3"])
