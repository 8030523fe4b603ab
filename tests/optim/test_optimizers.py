"""Parameter groups, and the updates that the optimisers make."""

from typing import Any

import pytest
import torch
from torch import nn

from vsr.optim import build_optimizer, load_by_name


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"dcn": nn.Linear(2, 3), "dcn_pack": nn.Linear(3, 2), "tail": nn.Linear(2, 1)})


def build(network: nn.Module, lr_mul: dict[str, float], **option: Any) -> torch.optim.Optimizer:
    return build_optimizer({"type": "Adam", "lr": 0.1, **option}, network.named_parameters(), lr_mul=lr_mul)


def test_one_group_a_part_and_the_longest_match_counts(network: nn.Module) -> None:
    groups = build(network, {"dcn": 0.5, "dcn_pack.bias": 0.0, "tail.weight": 0.5}).param_groups
    by_name = {group["name"]: group for group in groups}
    assert {name: (group["lr_mul"], len(group["params"])) for name, group in by_name.items()} == {
        "dcn": (0.5, 3), "dcn_pack.bias": (0.0, 1), "tail.weight": (0.5, 1), "others": (1.0, 1)
    }  # fmt: skip
    assert by_name["dcn_pack.bias"]["params"][0] is network["dcn_pack"].bias
    assert by_name["others"]["params"][0] is network["tail"].bias
    assert [group["lr"] for group in groups] == [0.1 * group["lr_mul"] for group in groups]


def test_what_a_roll_back_slows_is_a_group_of_its_own(network: nn.Module) -> None:
    option = {"type": "Adam", "lr": 0.1}
    slowed = [(["dcn_pack", "tail"], 0.5), (["tail"], 0.5)]
    groups = build_optimizer(option, network.named_parameters(), lr_mul={"dcn": 1.0}, slowed=slowed).param_groups
    assert {group["name"]: (group["lr_mul"], len(group["params"])) for group in groups} == {
        "dcn": (1.0, 2), "dcn x 0.5": (0.5, 2), "others x 0.25": (0.25, 2)
    }  # fmt: skip


def test_a_state_of_when_a_group_was_all_of_one_factor_finds_its_parameters(network: nn.Module) -> None:
    """Such states have no names. In their order all of factor 1 come first: dcn and tail, then dcn_pack."""
    named = list(network.named_parameters())
    optimizer = build(network, {"dcn": 1.0, "dcn_pack": 0.5})
    order = [f"{layer}.{kind}" for layer in ("dcn", "tail", "dcn_pack") for kind in ("weight", "bias")]
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": torch.full_like(dict(named)[name], i), "exp_avg_sq": torch.ones(1)}
        for i, name in enumerate(order)
    }
    state = {"state": moments, "param_groups": [{"lr_mul": 1.0}, {"lr_mul": 0.5}]}
    load_by_name(optimizer, named, state)
    for i, name in enumerate(order):
        assert optimizer.state[dict(named)[name]]["exp_avg"].flatten()[0] == i
    with pytest.raises(ValueError, match=r"expected the parameter groups of train.lr_mul, \[1.0, 0.25\]"):
        load_by_name(build(network, {"dcn_pack": 0.25}), named, state)


def test_without_factors_there_is_one_group(network: nn.Module) -> None:
    (group,) = build(network, {}).param_groups
    assert (group["lr_mul"], len(group["params"])) == (1.0, 6)


def test_a_frozen_parameter_stays_in_its_group_without_update_or_state(network: nn.Module) -> None:
    network["dcn"].requires_grad_(False)
    before = network["dcn"].weight.clone()
    optimizer = build(network, {"dcn": 0.5}, weight_decay=0.1)
    network["tail"](network["dcn_pack"](network["dcn"](torch.ones(4, 2)))).sum().backward()
    optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    assert torch.equal(network["dcn"].weight, before)
    assert network["dcn"].weight not in optimizer.state


def test_a_factor_for_no_parameter_suggests_the_nearest(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"lr_mul: expected a part of a parameter's name, got 'dcm'. Did you mean"):
        build(network, {"dcm": 0.5})


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_a_factor_out_of_range_is_refused(network: nn.Module, factor: float) -> None:
    with pytest.raises(ValueError, match=r"lr_mul.dcn: expected a finite factor"):
        build(network, {"dcn": factor})


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        build(nn.ReLU(), {})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"betas": [0.9]}, r"betas: expected two numbers, got \[0.9\]"),
        ({"lr": -0.1}, "lr: expected a finite number >= 0, got -0.1"),
        ({"weight_dacay": 0.1}, "Did you mean 'weight_decay'"),
        ({"type": "Adan"}, "unknown optimizer 'Adan'. Did you mean 'Adam'"),
    ],
)
def test_a_wrong_option_is_named(network: nn.Module, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network, {}, **option)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_one_step_is_the_one_by_hand(name: str) -> None:
    # gradient 4, lr 0.1, decay 0.5, weight 2. Adam's first step is lr * sign(gradient), of Adam and SGD
    # after adding 0.5 * 2 to the gradient; AdamW first takes lr * 0.5 of the weight away.
    weight = nn.Parameter(torch.tensor([2.0]))
    option = {"type": name, "lr": 0.1, "weight_decay": 0.5}
    optimizer = build_optimizer(option, [("weight", weight)], lr_mul={})
    (4 * weight).sum().backward()
    optimizer.step()
    expected = {"Adam": 2 - 0.1, "AdamW": 2 - 0.1 * 0.5 * 2 - 0.1, "SGD": 2 - 0.1 * (4 + 0.5 * 2)}
    assert weight.item() == pytest.approx(expected[name], abs=1e-6)


def test_betas_from_an_option_file_reach_the_optimizer(network: nn.Module) -> None:
    assert build(network, {}, betas=[0.5, 0.7]).param_groups[0]["betas"] == (0.5, 0.7)
