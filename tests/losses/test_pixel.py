"""The pixel losses against the official values, and where they must refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr import losses

GOLDEN = Path(__file__).parents[1] / "golden"
BASICSR = [
    case
    for case in json.loads((GOLDEN / "losses_basicsr.json").read_text())["cases"]
    if case.get("type") in ("L1Loss", "MSELoss", "CharbonnierLoss")
]
NAFNET = json.loads((GOLDEN / "losses_nafnet.json").read_text())["cases"]


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(np.asarray(expected)), rtol=tolerance, atol=tolerance)


def test_the_golden_file_has_all_its_cases() -> None:
    assert (len(BASICSR), len(NAFNET)) == (28, 4)


@pytest.mark.parametrize("case", BASICSR, ids=lambda c: c["name"])
def test_value_and_gradient_equal_basicsr(case: dict[str, Any]) -> None:
    data = np.load(GOLDEN / "losses_basicsr.npz")
    pred = torch.from_numpy(data["pred"]).requires_grad_()
    weight = torch.from_numpy(data[case["weight"]]) if "weight" in case else None
    value = losses.build({"type": case["type"], **case["kwargs"]})(pred, torch.from_numpy(data["target"]), weight)
    value.sum().backward()
    close(value.detach(), data[f"{case['name']}/value"], 1e-9)
    close(pred.grad, data[f"{case['name']}/grad_of_sum"], 1e-9)


@pytest.mark.parametrize("case", NAFNET, ids=lambda c: c["name"])
def test_value_and_gradient_equal_nafnet(case: dict[str, Any]) -> None:
    data = np.load(GOLDEN / "losses_nafnet.npz")
    pred = torch.from_numpy(data[case["pred"]].copy()).requires_grad_()
    value = losses.build({"type": case["type"], **case["kwargs"]})(pred, torch.from_numpy(data["target"]))
    value.backward()
    tolerance = 1e-6 if case["kwargs"].get("toY") else 1e-9  # the official luma has float32 coefficients
    close(value.detach(), data[f"{case['name']}/value"], tolerance)
    close(pred.grad, data[f"{case['name']}/grad"], tolerance)


@pytest.mark.parametrize("name", ["L1Loss", "MSELoss", "CharbonnierLoss", "PSNRLoss"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pred, target = torch.rand(1, 3, 8, 8).to(dtype), torch.rand(1, 3, 8, 8).to(dtype)
    loss = losses.build({"type": name})
    value = loss(pred, target)
    assert value.dtype == torch.float32
    assert value.item() == loss(pred.float(), target.float()).item()


def test_the_psnr_loss_counts_each_frame_of_a_clip_alike() -> None:
    # errors of 0.1 and 0.01: 20 and 40 dB, whose mean is 30; the mean of the squares would give 23
    target = torch.zeros(1, 2, 3, 4, 4)
    pred = target + torch.tensor([0.1, 0.01]).view(1, 2, 1, 1, 1)
    assert losses.build({"type": "PSNRLoss"})(pred, target).item() == pytest.approx(-30, abs=1e-3)


def test_a_weight_that_would_be_broadcast_is_refused() -> None:
    image = torch.rand(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"weight: expected \(2, 3, 4, 5\) or \(2, 1, 4, 5\), got \(1, 1, 4, 5\)"):
        losses.build({"type": "L1Loss"})(image, image, torch.ones(1, 1, 4, 5))


def test_the_luma_of_an_image_without_three_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="toY expects 3 channels"):
        losses.build({"type": "PSNRLoss", "toY": True})(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type": "L1Loss", "reduction": "avg"}, "reduction: expected 'none', 'mean' or 'sum', got 'avg'"),
        ({"type": "PSNRLoss", "reduction": "sum"}, "PSNRLoss has 'mean' only, got 'sum'"),
        ({"type": "CharbonnierLoss", "eps": 0.0}, "eps: expected a positive number"),
        ({"type": "MSELoss", "loss_weight": float("nan")}, "loss_weight: expected a finite number, got nan"),
        ({"type": "L1Loss", "weight": 1.0}, "'weight' is not an argument"),
        ({"type": "Charbonier"}, "Did you mean 'CharbonnierLoss'"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.build(option)
