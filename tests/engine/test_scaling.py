"""Numbers of steps that follow the batch."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from kit import ROOT

from vsr.config import Options, load_options
from vsr.engine.scaling import scale_iterations

RECIPE = [
    "train.total_iter=400",
    "train.warmup_iter=40",
    "train.freeze={parts: first, until: 100}",
    "train.scheduler={type: CosineAnnealingRestartLR, periods: [300, 100], restart_weights: [1, 1], eta_min: 1e-7}",
    "train.reference_batch=32",
]


def recipe(tiny: Path, *overrides: str) -> Options:
    return load_options(tiny, [*RECIPE, *overrides])


def test_half_the_batch_doubles_what_counts_steps_of_training(tiny: Path) -> None:
    given = recipe(tiny, "train.scale_iterations=true", "val.val_at=[0, 30]")
    assert given.train is not None
    given = replace(given, train=replace(given.train, net_d_init_iters=20))
    train = scale_iterations(given, 16).train
    assert train is not None
    assert train.scheduler is not None
    assert train.freeze is not None
    assert (train.total_iter, train.warmup_iter, train.freeze.until) == (800, 80, 200)
    assert train.net_d_init_iters == 40
    assert train.scheduler.args["periods"] == [600, 200]
    assert train.scheduler.args["restart_weights"] == [1, 1]
    assert scale_iterations(given, 16).val == replace(given.val, val_at=[0, 60])


def test_numbers_that_mean_at_once_or_never_stay(tiny: Path) -> None:
    scheduler = (
        "train.scheduler={type: MultiStepRestartLR, milestones: [100, 200], restarts: [0], restart_weights: [1]}"
    )
    train = scale_iterations(
        recipe(tiny, "train.scale_iterations=true", "train.warmup_iter=-1", "train.freeze=null", scheduler), 64
    ).train
    assert train is not None
    assert train.scheduler is not None
    assert (train.total_iter, train.warmup_iter, train.freeze) == (200, -1, None)
    assert (train.scheduler.args["milestones"], train.scheduler.args["restarts"]) == ([50, 100], [0])


def test_without_being_asked_the_factor_is_told_and_nothing_changes(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = recipe(tiny)
    assert scale_iterations(given, 8) is given
    assert "multiply them by 4 (total_iter: 1600); train.scale_iterations: true does" in caplog.text


def test_with_the_batch_of_the_recipe_nothing_is_said(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        given = recipe(tiny, "train.scale_iterations=true")
        assert scale_iterations(given, 32) is given
        unset = load_options(tiny)
        assert scale_iterations(unset, 5) is unset
    assert "reference_batch" not in caplog.text


def test_asking_without_a_reference_is_a_mistake(tiny: Path) -> None:
    with pytest.raises(ValueError, match="expected reference_batch beside it"):
        load_options(tiny, ["train.scale_iterations=true"])


def test_nafssr_at_half_its_batch_is_told_of_and_scaled_as_the_manual_says(caplog: pytest.LogCaptureFixture) -> None:
    manual = " ".join((ROOT / "docs" / "training.md").read_text(encoding="utf-8").split())
    file = ROOT / "options" / "train" / "NAFSSR" / "nafssr_t_x4.yml"
    assert (
        "python train.py -opt options/train/NAFSSR/nafssr_t_x4.yml --set datasets.train.batch_size_per_gpu=16" in manual
    )
    half = ["datasets.train.batch_size_per_gpu=16"]
    with caplog.at_level(logging.INFO, logger="vsr"):
        given = load_options(file, half)
        assert scale_iterations(given, 16) is given
        scaled = scale_iterations(load_options(file, [*half, "train.scale_iterations=true"]), 16)
    assert len(caplog.messages) == 2
    assert all(message in manual for message in caplog.messages)
    assert scaled.train is not None
    assert scaled.train.scheduler is not None
    assert (scaled.train.total_iter, scaled.train.scheduler.args["T_max"]) == (800000, 800000)
    assert scaled.train.optim_g == given.train.optim_g  # type: ignore[union-attr]
    assert (scaled.val, scaled.logger) == (given.val, given.logger)
