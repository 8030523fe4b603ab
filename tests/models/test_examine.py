"""A step that went wrong is repeated, and where its numbers broke is found."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import tensors
from test_restoration import batch, make_model
from torch import Tensor, nn

from vsr.models.examine import describe, examine
from vsr.models.restoration import RestorationModel

pytestmark = pytest.mark.fault


def test_nothing_is_found_where_all_is_finite(tiny: Path) -> None:
    found = examine(make_model(tiny), [batch(), batch(1)], 1)
    assert found["first_bad"] is None
    assert found["bad_inputs"] == []
    assert set(found["finite"].values()) == {True}
    assert describe(None) == "every number was finite when the step was repeated"


@pytest.mark.parametrize("name", ["lq", "gt"])
def test_the_sample_of_a_bad_input_is_named(tiny: Path, name: str) -> None:
    bad = {**batch(), "key": ["good", "bad"]}
    bad[name] = bad[name].float() / 255
    bad[name].flatten(1)[1, 5] = float("inf")
    found = examine(make_model(tiny), [batch(), bad], 1)
    assert found["bad_inputs"] == [{"key": "bad", "tensor": name}]
    assert describe(found["first_bad"]) == f"the input is not finite: {name} of sample bad"


def test_a_layer_whose_output_overflows_is_named_before_those_behind_it(tiny: Path) -> None:
    model = make_model(tiny)
    nn.init.constant_(model.network_g.first.weight, 3e38)
    found = examine(model, [batch()], 1)
    assert found["first_bad"] == {"pass": "forward", "where": "network_g.first (Conv2d)", "what": "output"}
    assert found["finite"] == {"input": True, "weights": True, "output": False, "loss": False, "gradient": False}


def test_weights_that_are_no_numbers_are_named(tiny: Path) -> None:
    model = make_model(tiny)
    nn.init.constant_(model.network_g.last.bias[:1], float("nan"))
    assert describe(examine(model, [batch()], 1)["first_bad"]) == "the weights are not finite: network_g.last.bias"


class Criterion(nn.Module):
    """A loss, given as a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        return self.function(restored)


def test_a_loss_that_is_no_number_is_named(tiny: Path) -> None:
    model = make_model(tiny)
    model.criteria["odd"] = Criterion(lambda x: (x.abs().sum() * 0).log())
    assert describe(examine(model, [batch()], 1)["first_bad"]) == (
        "the network's output is finite, the loss is not: odd"
    )


def test_a_gradient_that_breaks_in_the_loss_is_found_at_the_networks_output(tiny: Path) -> None:
    model = make_model(tiny)
    model.criteria["root"] = Criterion(lambda x: (x - x.detach()).sqrt().mean())  # of 0: 0, with an infinite slope
    found = examine(model, [batch()], 1)
    assert found["first_bad"] == {
        "pass": "backward",
        "where": "network_g (WindowNet)",
        "what": "gradient with respect to the output",
    }
    assert found["finite"] == {"input": True, "weights": True, "output": True, "loss": True, "gradient": False}


def test_a_gradient_that_breaks_between_layers_is_found_there(tiny: Path) -> None:
    model = make_model(tiny)
    plain = model.network_g.drop.forward
    # drop lies between first and last: its backward pass makes the gradient of what first has put out infinite
    model.network_g.drop.forward = lambda x: plain(x + 0 * (x - x.detach()).abs().sqrt())
    assert examine(model, [batch()], 1)["first_bad"]["where"] == "network_g.first (Conv2d)"


def test_a_norm_that_is_too_large_is_a_fault_of_no_layer(tiny: Path) -> None:
    model = make_model(tiny)
    model.criteria["steep"] = Criterion(lambda x: x.mean() * 1e25)
    found = examine(model, [batch()], 1)
    assert found["first_bad"]["where"] == "all layers"
    assert "too large" in describe(found["first_bad"])


@pytest.mark.parametrize(
    "override", ["train.checkpoint_activations=true", pytest.param("train.compile=true", marks=pytest.mark.slow)]
)
def test_recomputed_and_compiled_networks_are_looked_into_as_others(tiny: Path, override: str) -> None:
    model = make_model(tiny, override)
    nn.init.constant_(model.network_g.last.weight, 3e38)
    nn.init.constant_(model.network_g.first.bias, 10.0)
    assert examine(model, [batch()], 1)["first_bad"]["where"] == "network_g.last (Conv2d)"
    compiled = model.network_g._compiled_call_impl
    assert (compiled is not None) == ("compile=" in override)


GAN = [
    "network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 8}",
    "train.optim_d={type: Adam, lr: 1e-3}",
    "train.gan_opt={type: GANLoss, gan_type: vanilla, loss_weight: 0.1}",
]


def with_statistics(tiny: Path, *overrides: str) -> RestorationModel:
    model = make_model(tiny, *overrides)
    model.network_g.drop = nn.BatchNorm2d(8)
    model.network_ema = copy.deepcopy(model.network_g).requires_grad_(False)
    model.optimizer = model._optimizer()
    return model


@pytest.mark.parametrize("overrides", [[], GAN], ids=["alone", "against a discriminator"])
def test_looking_into_a_step_changes_nothing(tiny: Path, overrides: list[str]) -> None:
    model = with_statistics(tiny, *overrides)
    model.train_step([batch()], 1)
    before = copy.deepcopy(tensors(model.state_dict()))
    examine(model, [batch(1)], 2)
    after = tensors(model.state_dict())
    assert [name for name, value in before.items() if not value.equal(after[name])] == []


@pytest.mark.parametrize("overrides", [[], GAN], ids=["alone", "against a discriminator"])
def test_a_bad_step_leaves_no_trace_in_running_statistics(tiny: Path, overrides: list[str]) -> None:
    model, spared = with_statistics(tiny, *overrides), with_statistics(tiny, *overrides)
    bad = batch(1)
    bad["lq"] = bad["lq"].float() * float("nan")
    bad["gt"] = bad["gt"].float() * float("nan")
    for step, data in enumerate((batch(), bad, batch(2)), start=1):
        model.train_step([data], step)
        if data is not bad:
            spared.train_step([data], step)
    a, b = tensors(model.state_dict()), tensors(spared.state_dict())
    assert a[".network_g.drop.num_batches_tracked"] == 2
    assert model.finite()
    assert [name for name, value in a.items() if not value.equal(b[name])] == []


def test_the_adversarys_part_is_looked_into(tiny: Path) -> None:
    model = make_model(tiny, *GAN)
    layer = next(name for name, module in model.adversary.network.named_modules() if isinstance(module, nn.Conv2d))
    module = model.adversary.network.get_submodule(layer)
    module.bias.data.fill_(float("inf"))
    assert examine(model, [batch()], 1)["first_bad"]["where"] == f"network_d.{layer}.bias"


def test_weights_and_averages_are_checked(tiny: Path) -> None:
    model = make_model(tiny, *GAN)
    assert model.finite()
    for network in (model.network_g, model.network_ema, model.adversary.network):
        parameter = next(network.parameters())
        kept = parameter.detach().clone()
        parameter.data.view(-1)[0] = float("nan")
        assert not model.finite()
        parameter.data.copy_(kept)
    assert model.finite()
    assert torch.isfinite(next(model.network_g.parameters())).all()
