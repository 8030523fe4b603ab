"""Adversarial losses, penalties and LDL's map against the official values, and by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vsr import losses
from vsr.losses.gan import get_refined_artifact_map, gradient_penalty_loss, r1_penalty

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = np.load(GOLDEN / "losses_basicsr.npz")
CASES = [c for c in json.loads((GOLDEN / "losses_basicsr.json").read_text())["cases"] if c.get("type") == "GANLoss"]
TYPES = ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


def data(name: str) -> Tensor:
    return torch.from_numpy(DATA[name])


def close(actual: Tensor, name: str) -> None:
    torch.testing.assert_close(actual, data(name), rtol=1e-9, atol=1e-9)


def test_the_golden_file_has_all_its_cases() -> None:
    assert len(CASES) == 4 * len(TYPES) + 1
    assert {case["kwargs"]["gan_type"] for case in CASES} == set(TYPES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
@pytest.mark.parametrize("loss", ["GANLoss", "MultiScaleGANLoss"])
def test_value_and_gradient_equal_basicsr(case: dict[str, Any], loss: str) -> None:
    logits = data("logits").requires_grad_()
    value = losses.build({"type": loss, **case["kwargs"]})(logits, **case["call"])
    value.backward()
    close(value.detach(), f"{case['name']}/value")
    close(logits.grad, f"{case['name']}/grad_of_sum")


def test_of_several_outputs_each_counts_alike_and_of_features_the_last() -> None:
    logits = data("logits").requires_grad_()
    loss = losses.build({"type": "MultiScaleGANLoss", "gan_type": "hinge", "loss_weight": 0.1})
    value = loss([logits[:2], [torch.ones_like(logits), logits[2:]]], True, is_disc=True)
    value.backward()
    close(value.detach(), "MultiScaleGANLoss_hinge/value")
    close(logits.grad, "MultiScaleGANLoss_hinge/grad_of_sum")


@pytest.mark.parametrize("outputs", [[], [[]], [torch.ones(1), []]])
def test_no_outputs_are_refused(outputs: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected the outputs of a discriminator, got an empty list"):
        losses.build({"type": "MultiScaleGANLoss", "gan_type": "hinge"})(outputs, True)


@pytest.mark.parametrize("gan_type", TYPES)
def test_outputs_in_half_precision_are_judged_in_float32(gan_type: str) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(4, 1, 8, 8).bfloat16()
    loss = losses.build({"type": "GANLoss", "gan_type": gan_type})
    value = loss(outputs, True, is_disc=True)
    assert value.dtype == torch.float32
    assert value.item() == loss(outputs.float(), True, is_disc=True).item()


@pytest.mark.parametrize("gan_type", TYPES)
def test_a_sure_discriminator_gives_a_finite_loss(gan_type: str) -> None:
    outputs = torch.tensor([-1e4, 1e4]).requires_grad_()
    value = losses.build({"type": "GANLoss", "gan_type": gan_type})(outputs, True)
    value.backward()
    assert value.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"gan_type": "ragan"}, "gan_type: expected one of vanilla, lsgan, wgan, wgan_softplus, hinge, got 'ragan'"),
        ({"gan_type": "vanilla", "real_label_val": 1.2}, "real_label_val: expected a probability"),
        ({"gan_type": "lsgan", "fake_label_val": float("nan")}, "fake_label_val: expected a finite number"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.build({"type": "GANLoss", **option})


def test_the_penalty_at_real_images_equals_basicsr() -> None:
    image = data("r1_penalty/img").requires_grad_()
    close(r1_penalty((image**3).sum((1, 2, 3)), image).detach(), "r1_penalty/value")


def test_the_penalty_at_real_images_has_a_gradient_for_the_discriminator() -> None:
    # D(x) = w * sum x: the gradient is w at each of 12 values, the penalty 12 w^2, its slope 24 w
    w = torch.tensor(3.0, requires_grad=True)
    image = torch.rand(2, 3, 2, 2, requires_grad=True)
    penalty = r1_penalty(w * image.sum((1, 2, 3)), image)
    penalty.backward()
    assert penalty.item() == pytest.approx(12 * 9)
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(24 * 3)


def test_images_without_a_gradient_are_refused() -> None:
    image = torch.rand(1, 3, 2, 2)
    with pytest.raises(ValueError, match="real_img: expected images with requires_grad"):
        r1_penalty(image.sum((1, 2, 3)), image)


def test_the_gradient_penalty_is_of_the_norm_over_the_channels() -> None:
    # D(x) = sum of 2 x: at each pixel three slopes of 2, of norm sqrt(12)
    w = torch.tensor(2.0, requires_grad=True)
    real, fake = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    penalty = gradient_penalty_loss(lambda x: w * x.sum((1, 2, 3)), real, fake)
    penalty.backward()
    assert penalty.item() == pytest.approx((12**0.5 - 1) ** 2, rel=1e-5)
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(2 * (12**0.5 - 1) * 3**0.5, rel=1e-5)


def test_the_gradient_penalty_counts_what_is_masked() -> None:
    # where the mask is 0 the norm is 0, and (0 - 1)^2 = 1; the mean is over half of the pixels
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0] = 1
    images = torch.rand(1, 3, 2, 2)
    penalty = gradient_penalty_loss(lambda x: 2 * x.sum((1, 2, 3)), images, images, mask)
    assert penalty.item() == pytest.approx(((12**0.5 - 1) ** 2 + 1) / 2 / 0.5, rel=1e-5)


def test_the_gradient_penalty_looks_between_the_images_in_a_drawn_share() -> None:
    seen: list[Tensor] = []

    def discriminator(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum()

    real, fake = torch.ones(4, 3, 2, 2), torch.zeros(4, 3, 2, 2)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        gradient_penalty_loss(discriminator, real, fake)
    shares = seen[0][:, 0, 0, 0]
    assert torch.equal(seen[0], shares.view(4, 1, 1, 1).expand(4, 3, 2, 2))
    assert len(shares.unique()) == 4
    assert 0 <= shares.min() < shares.max() <= 1
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_the_gradient_penalty_of_a_discriminator_that_sees_nothing_is_finite() -> None:
    network = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(network.weight)
    penalty = gradient_penalty_loss(network, torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))
    penalty.backward()
    assert penalty.item() == 1.0
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite().all()


def test_the_map_of_artifacts_equals_the_official_one() -> None:
    found = get_refined_artifact_map(data("ldl/gt"), data("ldl/output"), data("ldl/ema"), ksize=7)
    close(found, "ldl/map_ksize7")
    assert (found == 0).any()
    assert (found > 0).any()


def test_the_map_of_a_clip_is_that_of_its_frames() -> None:
    images = [data(f"ldl/{name}") for name in ("gt", "output", "ema")]
    whole = get_refined_artifact_map(*(image[None] for image in images))
    torch.testing.assert_close(whole[0], get_refined_artifact_map(*images))
    single = get_refined_artifact_map(*(image[0] for image in images))
    torch.testing.assert_close(single, whole[0, 0])


def test_the_map_of_a_perfect_output_is_zero_and_has_a_finite_gradient() -> None:
    gt = torch.rand(1, 3, 8, 8)
    output = gt.clone().requires_grad_()
    found = get_refined_artifact_map(gt, output, gt)
    found.sum().backward()
    assert not found.any()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "ksize", "message"),
    [
        ((1, 3, 8, 8), 4, "ksize: expected an odd number"),
        ((1, 3, 3, 8), 7, "img_gt: expected sides over 3 for ksize 7"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(shape: tuple[int, ...], ksize: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_refined_artifact_map(*torch.rand(3, *shape), ksize=ksize)


def test_a_map_of_unlike_images_is_refused() -> None:
    gt = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"expected one shape, got \(1, 3, 8, 8\) and \(1, 3, 8, 9\)"):
        get_refined_artifact_map(gt, gt, torch.rand(1, 3, 8, 9))
