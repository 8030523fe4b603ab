"""Total variation against the official values, and where it must refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr import losses

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = np.load(GOLDEN / "losses_basicsr.npz")
CASES = [
    case
    for case in json.loads((GOLDEN / "losses_basicsr.json").read_text())["cases"]
    if case.get("type") == "WeightedTVLoss"
]


def test_the_golden_file_has_all_its_cases() -> None:
    assert len(CASES) == 4


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
@pytest.mark.parametrize("with_target", [False, True])
def test_value_and_gradient_equal_basicsr_with_or_without_a_target(case: dict[str, Any], with_target: bool) -> None:
    pred = torch.from_numpy(DATA["pred"].copy()).requires_grad_()
    target = [torch.from_numpy(DATA["target"])] if with_target else []
    weight = torch.from_numpy(DATA[case["weight"]]) if "weight" in case else None
    value = losses.build({"type": "WeightedTVLoss", **case["kwargs"]})(pred, *target, weight=weight)
    value.backward()
    for actual, name in ((value.detach(), "value"), (pred.grad, "grad_of_sum")):
        expected = torch.from_numpy(np.asarray(DATA[f"{case['name']}/{name}"]))
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_it_is_the_mean_step_along_both_sides() -> None:
    # steps of 0.1 along x and of 0.3 along y, of all frames of a clip
    image = 0.1 * torch.arange(4.0) + 0.3 * torch.arange(3.0)[:, None]
    clip = image.expand(2, 5, 3, 3, 4)
    assert losses.build({"type": "WeightedTVLoss"})(clip).item() == pytest.approx(0.4)


def test_a_flat_image_has_none() -> None:
    assert losses.build({"type": "WeightedTVLoss"})(torch.full((1, 3, 4, 4), 0.7)).item() == 0


def test_a_weight_of_one_channel_counts_for_all() -> None:
    torch.manual_seed(0)
    pred, weight = torch.rand(2, 3, 5, 6), torch.rand(2, 1, 5, 6)
    loss = losses.build({"type": "WeightedTVLoss"})
    torch.testing.assert_close(loss(pred, weight=weight), loss(pred, weight=weight.expand(2, 3, 5, 6)))


def test_wrong_arguments_are_refused() -> None:
    loss = losses.build({"type": "WeightedTVLoss"})
    with pytest.raises(ValueError, match=r"sides over 1, got \(1, 3, 1, 8\)"):
        loss(torch.rand(1, 3, 1, 8))
    with pytest.raises(ValueError, match=r"weight: expected the sides of pred, .*, got \(1, 3, 4, 1\)"):
        loss(torch.rand(1, 3, 4, 4), weight=torch.ones(1, 3, 4, 1))
    with pytest.raises(ValueError, match="WeightedTVLoss has 'mean' and 'sum' only, got 'none'"):
        losses.build({"type": "WeightedTVLoss", "reduction": "none"})
