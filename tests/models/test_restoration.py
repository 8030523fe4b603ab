"""One optimiser step, and one validation, of the model class."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vsr.config import load_options
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS
from vsr.utils.seeds import derive_seed


def make_model(tiny: Path, *overrides: str) -> RestorationModel:
    options = load_options(tiny, ["network_g.dropout=0.0", *overrides])
    return MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))


def batch(seed: int = 0, size: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    lq = torch.randint(0, 256, (size, 3, 3, 8, 8), generator=generator, dtype=torch.uint8)
    gt = torch.randint(0, 256, (size, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return {"lq": lq, "gt": gt, "key": ["x"] * size}


def test_training_lowers_the_loss(tiny: Path) -> None:
    model = make_model(tiny, "train.optim_g.lr=1e-2", "train.scheduler=null")
    losses = [float(model.train_step([batch()], step)["pixel"]) for step in range(1, 40)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_step_reads_nothing_back_from_the_device(tiny: Path) -> None:
    class NoReadBack(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in str(function), "a value was read back to the host"
            return function(*args, **(kwargs or {}))

    model = make_model(tiny)
    model.train_step([batch()], 1)
    with NoReadBack():
        model.train_step([batch(1)], 2)
        with pytest.raises(AssertionError, match="read back"):
            torch.ones(()).item()  # the guard itself works


@pytest.mark.parametrize(
    "optimizer", ["{type: Adam, lr: 1e-3}", "{type: AdamW, lr: 1e-3}", "{type: SGD, lr: 1e-3, momentum: 0.9}"]
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.fault
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tiny: Path, optimizer: str, first: bool) -> None:
    model, spared = make_model(tiny, f"train.optim_g={optimizer}"), make_model(tiny, f"train.optim_g={optimizer}")
    if not first:
        model.train_step([batch()], 1)
        spared.train_step([batch()], 1)
    bad = batch(1)
    bad["gt"] = bad["gt"].float() / 255
    bad["gt"][0, 0, 0, 0] = float("nan")
    model.train_step([bad], 2)
    assert float(model.bad_steps_in_a_row) == 1
    model.train_step([batch(2)], 3)
    spared.train_step([batch(2)], 3)
    for a, b in zip(model.network_g.parameters(), spared.network_g.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(model.network_ema.parameters(), spared.network_ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_average_follows_its_formula(tiny: Path) -> None:
    model = make_model(tiny)  # ema_decay 0.9
    expected = model.network_g.first.weight.detach().clone()
    for step in (1, 2, 3):
        model.train_step([batch(step)], step)
        expected = 0.9 * expected + 0.1 * model.network_g.first.weight.detach()
    torch.testing.assert_close(model.network_ema.first.weight, expected)


def test_micro_batches_give_the_gradient_of_their_union(tiny: Path) -> None:
    overrides = ["train.optim_g={type: SGD, lr: 1.0}", "train.scheduler=null"]
    whole, parts = make_model(tiny, *overrides), make_model(tiny, *overrides)
    full = batch(size=4)
    halves = [{k: v[:2] for k, v in full.items()}, {k: v[2:] for k, v in full.items()}]
    terms = whole.train_step([full], 1)
    split = parts.train_step(halves, 1)
    torch.testing.assert_close(terms["total"], split["total"])
    torch.testing.assert_close(terms["grad_norm"], split["grad_norm"])
    for a, b in zip(whole.network_g.parameters(), parts.network_g.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_rate_is_the_schedule_times_the_multiplier(tiny: Path) -> None:
    model = make_model(tiny, "train.lr_mul={last: 0.25}", "train.warmup_iter=4")
    model.train_step([batch()], 2)
    rates = {round(group["lr_mul"], 6): group["lr"] for group in model.optimizer.param_groups}
    # warm-up: step 2 of 4 has half of the rate
    assert rates == {1.0: pytest.approx(0.5e-3), 0.25: pytest.approx(0.125e-3)}


def test_random_numbers_depend_on_the_step_alone(tiny: Path) -> None:
    overrides = ["network_g.dropout=0.5", "train.optim_g={type: SGD, lr: 0.0}", "train.scheduler=null"]
    model = make_model(tiny, *overrides)
    losses = [float(model.train_step([batch()], step)["pixel"]) for step in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]
    assert derive_seed(0, 1, 0) != derive_seed(0, 0, 1)


def test_a_state_loads_into_another_model_and_goes_on_alike(tiny: Path) -> None:
    model = make_model(tiny)
    model.train_step([batch()], 1)
    state = copy.deepcopy(model.state_dict())
    other = make_model(tiny, "manual_seed=9")
    other.load_state_dict(state, "here")
    other.options = model.options
    for step in (2, 3):
        a, b = model.train_step([batch(step)], step), other.train_step([batch(step)], step)
        assert torch.equal(a["total"], b["total"])


def test_settings_changed_in_the_option_file_hold_after_a_resume(tiny: Path) -> None:
    model = make_model(tiny)
    model.train_step([batch()], 1)
    other = make_model(tiny, "train.optim_g.betas=[0.5, 0.6]")
    other.load_state_dict(model.state_dict(), "here")
    assert list(other.optimizer.param_groups[0]["betas"]) == [0.5, 0.6]


def test_parameters_keep_their_moments_when_lr_mul_groups_them_anew(tiny: Path) -> None:
    model, slowed = make_model(tiny), make_model(tiny, "train.lr_mul={first: 0.5}")  # first comes first, then last
    model.train_step([batch()], 1)
    state = copy.deepcopy(model.state_dict())
    slowed.load_state_dict(state, "here")
    assert [group["lr_mul"] for group in slowed.optimizer.param_groups] == [0.5, 1.0]
    for name, parameter in slowed.network_g.named_parameters():
        expected = model.optimizer.state[model.network_g.get_parameter(name)]["exp_avg"]
        assert torch.equal(slowed.optimizer.state[parameter]["exp_avg"], expected)
        assert expected.abs().max() > 0
    other = make_model(tiny, "train.lr_mul={last.weight: 0.5}")  # between others: the numbers of parameters change
    other.load_state_dict(state, "here")
    assert torch.equal(
        other.optimizer.state[other.network_g.last.weight]["exp_avg"],
        model.optimizer.state[model.network_g.last.weight]["exp_avg"],
    )
    del state["optimizer"]["names"]  # as states were before
    with pytest.raises(ValueError, match=r"expected the parameter groups of train\.lr_mul"):
        make_model(tiny, "train.lr_mul={last: 0.5}").load_state_dict(state, "here")
    make_model(tiny).load_state_dict(state, "here")


def test_a_scale_that_is_not_the_networks_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="scale: expected 2, what network_g"):
        make_model(tiny, "scale=4")


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ({"lq": (3, 8, 8), "gt": (3, 16, 16)}, "datasets.train.type: expected a data set of windows or clips"),
        ({"lq": (5, 3, 8, 8), "gt": (3, 16, 16)}, "datasets.train.num_frame: expected 3, the window of network_g"),
        ({"lq": (3, 3, 8, 8), "gt": (3, 32, 32)}, "datasets.train: expected GT of 2 times the LQ size 8x8"),
        ({"lq": (3, 3, 8, 8), "gt": (3, 3, 16, 16)}, "expected windows with one GT frame"),
        ({"lq": (3, 3, 8, 8)}, "datasets.train.dataroot_gt: expected ground truth"),
    ],
)
def test_samples_that_the_network_cannot_take_are_refused(tiny: Path, sample: dict[str, Any], text: str) -> None:
    tensors = {key: torch.zeros(shape, dtype=torch.uint8) for key, shape in sample.items()}
    with pytest.raises(ValueError, match=text):
        make_model(tiny).check_sample(tensors, "datasets.train", train=True)


def test_a_window_network_that_restores_another_frame_than_the_middle_one_is_refused(tiny: Path) -> None:
    model = make_model(tiny, "scale=4", "network_g={type: EDVR, num_frame: 3, num_feat: 8, center_frame_idx: 0}")
    sample = {"lq": torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "gt": torch.zeros(3, 32, 32, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"network_g\.center_frame_idx: expected 1, a window's middle frame"):
        model.check_sample(sample, "datasets.train", train=True)


def test_crops_must_suit_the_network(tiny: Path) -> None:
    model = make_model(tiny, "model_type=ImageModel", "network_g={type: FrameNet}")
    sample = {"lq": torch.zeros(3, 7, 7, dtype=torch.uint8), "gt": torch.zeros(3, 14, 14, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"multiples of 2 for FrameNet, got 7x7\. Use a multiple of 4"):
        model.check_sample(sample, "datasets.train", train=True)
    model.check_sample(sample, "datasets.val", train=False)  # there the frame is padded


def test_validation_measures_what_was_restored(tiny: Path) -> None:
    model = make_model(tiny)
    item = {**batch(size=1), "key": ["c/0001"]}
    seen = {}

    def bicubic_free(prepared: Any) -> torch.Tensor:
        return prepared["gt"]  # a perfect network

    records = model.validate([item], restore=bicubic_free, on_frame=seen.__setitem__)
    assert [r.key for r in records] == ["c/0001"]
    assert records[0].metrics["psnr"] == float("inf")
    np.testing.assert_array_equal(seen["c/0001"], item["gt"][0].permute(1, 2, 0).numpy())
