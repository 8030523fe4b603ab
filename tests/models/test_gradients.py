"""What happens to gradients between the backward pass and the optimiser."""

import math

import pytest
import torch
from torch import nn

from vsr.config import ClipGradOptions
from vsr.models.gradients import Gradients

CPU = torch.device("cpu")


def gradients() -> list[torch.Tensor]:
    return [torch.tensor([3.0, -4.0]), torch.tensor([[12.0]])]  # of norm 13


def test_the_norm_is_that_of_all_gradients_and_bounds_them_as_torchs_own_function_does() -> None:
    mine = gradients()
    norm = Gradients("float32", ClipGradOptions(norm=0.01), CPU).finish(mine)
    assert norm.item() == pytest.approx(13)
    theirs = [nn.Parameter(torch.zeros_like(gradient)) for gradient in mine]
    for parameter, gradient in zip(theirs, gradients(), strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(theirs, 0.01)
    for gradient, parameter in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=0)


def test_a_gradient_within_the_bounds_stays_as_it_is() -> None:
    mine = gradients()
    Gradients("float32", ClipGradOptions(norm=13.1, value=12.0), CPU).finish(mine)
    assert all(map(torch.equal, mine, gradients()))


def test_values_are_bounded_one_by_one() -> None:
    mine = gradients()
    Gradients("float32", ClipGradOptions(value=3.5), CPU).finish(mine)
    assert [gradient.flatten().tolist() for gradient in mine] == [[3.0, -3.5], [3.5]]


def test_the_loss_scale_goes_in_and_out_and_follows_what_the_gradients_bear() -> None:
    half = Gradients("float16", None, CPU)
    weight = torch.ones(2, requires_grad=True)
    half.scaled((weight * 3).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3 * 65536.0] * 2
    assert half.finish([weight.grad]).item() == pytest.approx(math.sqrt(18))
    assert weight.grad.tolist() == [3.0, 3.0]
    assert not math.isfinite(half.finish([torch.tensor([math.inf])]).item())
    assert half.scale is not None
    assert half.scale.item() == 32768.0


def test_the_loss_scale_doubles_after_2000_finite_steps_and_survives_a_resume() -> None:
    half, other = Gradients("float16", None, CPU), Gradients("float16", None, CPU)
    for _ in range(1999):
        half.finish([torch.ones(1)])
    other.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    for each in (half, other):
        assert each.scale is not None
        assert each.scale.item() == 65536.0
        each.finish([torch.ones(1)])
        assert each.scale.item() == 2 * 65536.0


def test_in_other_precisions_there_is_no_loss_scale() -> None:
    for precision in ("float32", "bfloat16"):
        plain = Gradients(precision, None, CPU)
        loss = torch.ones(())
        assert plain.scaled(loss) is loss
        assert plain.state_dict() == {}
        plain.load_state_dict(Gradients("float16", None, CPU).state_dict())  # of a run that was in float16 before


@pytest.mark.parametrize(
    ("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_forward_pass_runs_in_the_precision(precision: str, inside: torch.dtype) -> None:
    with Gradients(precision, None, CPU).autocast():
        assert nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2)).dtype == inside


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (ClipGradOptions(), "expected norm, value or both, got neither"),
        (ClipGradOptions(norm=0.0), r"train\.clip_grad\.norm: expected a number above 0, got 0\.0"),
        (ClipGradOptions(value=-1.0), r"train\.clip_grad\.value: expected a number above 0"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(clip: ClipGradOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gradients("float32", clip, CPU)
