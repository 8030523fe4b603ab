"""Learning rates against the official schedulers, and at the ends that those leave open."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vsr.optim import build_schedule

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for source in ("basicsr", "nafnet")
    for case in json.loads((GOLDEN / f"schedulers_{source}.json").read_text())["cases"]
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_rates_equal_the_official_ones(case: dict[str, Any]) -> None:
    schedule = build_schedule({"type": case["type"], **case["kwargs"]}, case["base_lr"], case.get("warmup_iter", -1))
    # torch's cosine is a recursion, which gathers rounding
    tolerance = 1e-6 if case["type"] == "TrueCosineAnnealingLR" else 1e-9
    assert len(case["values"]) >= 34
    for step, rate in case["values"]:
        assert schedule(step) == pytest.approx(rate, rel=tolerance, abs=1e-18), step


@pytest.mark.parametrize("option", [None, {}, {"type": "ConstantLR"}])
def test_without_a_scheduler_the_rate_is_constant(option: dict[str, Any] | None) -> None:
    schedule = build_schedule(option, base_lr=3e-4)
    assert [schedule(1), schedule(10**6)] == [3e-4, 3e-4]


def test_warm_up_rises_linearly_and_the_scheduler_runs_meanwhile() -> None:
    # by hand: steps 1 to 3 are quarters of 0.8; after steps 3 and 5 the milestones halve the rate
    schedule = build_schedule({"type": "MultiStepLR", "milestones": [3, 5], "gamma": 0.5}, 0.8, warmup_iter=4)
    assert [schedule(n) for n in range(1, 8)] == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.4, 0.2, 0.2])


@pytest.mark.parametrize("warmup_iter", [-1, 0, 1])
def test_a_warm_up_of_no_step_changes_nothing(warmup_iter: int) -> None:
    assert build_schedule(None, 0.8, warmup_iter)(1) == 0.8


def test_a_restart_sets_the_rate_anew_and_outranks_a_milestone() -> None:
    schedule = build_schedule(
        {
            "type": "MultiStepRestartLR",
            "milestones": [2, 2, 4, 5],
            "gamma": 0.5,
            "restarts": [0, 4],
            "restart_weights": [1, 0.5],
        },
        base_lr=1.0,
    )
    # step 3: two milestones at 2; step 5: restart at 4 instead of its milestone; step 6: milestone 5
    assert [schedule(n) for n in range(1, 8)] == [1, 1, 0.25, 0.25, 0.5, 0.25, 0.25]


def test_multi_step_agrees_with_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 7, 8], gamma=0.3)
    ours = build_schedule({"type": "MultiStepLR", "milestones": [3, 7, 8], "gamma": 0.3}, 0.1)
    for step in range(1, 12):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_beyond_its_end_a_schedule_stays_defined() -> None:
    cosine = {"type": "CosineAnnealingRestartLR", "periods": [10, 20], "restart_weights": [1, 0.5], "eta_min": 1e-6}
    assert build_schedule(cosine, 1.0)(31) == pytest.approx(1e-6)
    assert build_schedule(cosine, 1.0)(10**9) == pytest.approx(1e-6)
    assert build_schedule({"type": "LinearLR", "total_iter": 10}, 1.0)(11) == 0
    assert build_schedule({"type": "LinearLR", "total_iter": 10}, 1.0)(99) == 0


def test_each_period_of_restormers_schedule_has_its_own_lowest_rate() -> None:
    option = {
        "type": "CosineAnnealingRestartCyclicLR", "periods": [4, 4], "restart_weights": [1, 1],
        "eta_mins": [3e-4, 1e-6],
    }  # fmt: skip
    schedule = build_schedule(option, base_lr=5e-4)
    # The end of a period belongs to it: step 5 is at the bottom of the first.
    found = [schedule(step) for step in (1, 3, 5, 7, 9, 20)]
    assert found == pytest.approx([5e-4, 4e-4, 3e-4, 2.505e-4, 1e-6, 1e-6])
    equal = {**option, "eta_mins": [1e-6, 1e-6]}
    plain = {"type": "CosineAnnealingRestartLR", "periods": [4, 4], "restart_weights": [1, 1], "eta_min": 1e-6}
    rates = [[build_schedule(o, base_lr=5e-4)(step) for step in range(1, 12)] for o in (equal, plain)]
    assert rates[0] == rates[1]


def test_a_schedule_does_not_remember_its_calls() -> None:
    schedule = build_schedule({"type": "VibrateLR", "total_iter": 800}, 1e-3)
    forwards = [schedule(n) for n in range(1, 801)]
    assert [schedule(n) for n in range(800, 0, -1)] == forwards[::-1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type": "CosineAnnealingRestartLR", "periods": [5, 5]}, "restart_weights: expected 2 numbers"),
        ({"type": "CosineAnnealingRestartLR", "periods": [], "restart_weights": []}, "periods: expected at least one"),
        ({"type": "CosineAnnealingRestartLR", "periods": [0]}, "periods: expected at least one, each > 0"),
        ({"type": "CosineAnnealingRestartLR", "periods": [5], "eta_min": -1.0}, "eta_min: expected a number >= 0"),
        (
            {"type": "CosineAnnealingRestartCyclicLR", "periods": [5, 5], "restart_weights": [1, 1]},
            "eta_mins: expected 2 numbers",
        ),
        ({"type": "MultiStepLR", "milestones": [-3]}, "milestones: expected steps >= 0"),
        ({"type": "MultiStepLR", "milestones": [3], "gamma": 0.0}, "gamma: expected a number > 0"),
        ({"type": "MultiStepRestartLR", "milestones": [], "restarts": [5, 2]}, "restarts: expected ascending"),
        ({"type": "MultiStepRestartLR", "milestones": [], "restarts": [0, 2]}, "restart_weights: expected 2 numbers"),
        ({"type": "TrueCosineAnnealingLR", "T_max": 0}, "T_max: expected a number of steps > 0"),
        ({"type": "LinearLR", "total_iter": 0}, "total_iter: expected a number of steps > 0"),
        ({"type": "VibrateLR", "total_iter": 100}, "at least 160 steps"),
        ({"type": "CosineAnealing"}, "unknown scheduler 'CosineAnealing'"),
        ({"type": "ConstantLR", "base_lr": 1.0}, "Set optim_g.lr instead"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_schedule(option, base_lr=1.0)


def test_a_rate_or_warm_up_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="lr: expected a finite number >= 0, got -1"):
        build_schedule(None, base_lr=-1.0)
    with pytest.raises(ValueError, match="warmup_iter: expected a number of steps"):
        build_schedule(None, base_lr=1.0, warmup_iter=-2)
