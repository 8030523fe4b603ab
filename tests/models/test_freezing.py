"""Phases of a training in which parts of the network stay as they are."""

import pytest
import torch
from torch import nn

from vsr.config import FreezeOptions
from vsr.models.freezing import Freezing


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spynet = nn.Linear(2, 2)
        self.fusion = nn.Linear(2, 2)
        self.last = nn.Linear(2, 2)


def training(network: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_named_parts_are_frozen_up_to_the_step_that_trains_all() -> None:
    network = Net()
    freezing = Freezing(network, FreezeOptions(parts=["spynet"], until=3))
    told = {}
    for step in (1, 2, 3, 4):
        told[step] = (freezing.apply(step), training(network))
    # Official code (fix_flow: 3) trains everything from step 3 on.
    assert told == {
        1: (True, {"fusion", "last"}),
        2: (False, {"fusion", "last"}),
        3: (True, {"spynet", "fusion", "last"}),
        4: (False, {"spynet", "fusion", "last"}),
    }


def test_a_run_that_continues_in_the_middle_of_a_phase_is_in_it() -> None:
    options = FreezeOptions(except_="fusion", until=10)
    inside, behind = Net(), Net()
    assert Freezing(inside, options).apply(9)
    assert not Freezing(behind, options).apply(10)
    assert (training(inside), training(behind)) == ({"fusion"}, {"spynet", "fusion", "last"})


def test_without_an_end_the_parts_stay_frozen() -> None:
    network = Net()
    Freezing(network, FreezeOptions(parts=["spynet", "last"])).apply(10**9)
    assert training(network) == {"fusion"}


def test_what_is_frozen_must_have_been_loaded_where_that_is_asked_for() -> None:
    names = {name for name, _ in Net().named_parameters()}
    freezing = Freezing(Net(), FreezeOptions(except_=["fusion"], pretrained=True))
    freezing.check_loaded(names - {"fusion.weight", "fusion.bias"}, "a.pth")
    with pytest.raises(
        ValueError, match=r"^a\.pth: expected all 4 tensors .* none that fits for 1, such as last\.bias"
    ):
        freezing.check_loaded(names - {"last.bias"}, "a.pth")
    Freezing(Net(), FreezeOptions(except_=["fusion"])).check_loaded([], "a.pth")


def test_parts_and_exceptions_together() -> None:
    network = Net()
    Freezing(network, FreezeOptions(parts=["spynet", "last"], except_=["bias"])).apply(1)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"spynet.weight", "last.weight"}


def test_without_options_nothing_ever_changes() -> None:
    freezing = Freezing(Net(), None)
    assert not freezing.apply(1)
    assert not freezing.frozen(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FreezeOptions(parts=["spynte"]), "expected a part of a parameter's name, got 'spynte'. Did you mean 'spynet'"),
        (FreezeOptions(parts="spynet", except_=["memory"]), r"train\.freeze\.except: .* got 'memory'"),
        (FreezeOptions(), "leave everything to be frozen, nothing trained"),
        (FreezeOptions(parts=["spynet"], except_=["spynet"]), "leave nothing to be frozen"),
        (FreezeOptions(parts=["spynet"], until=0), r"train\.freeze\.until: expected the first step that trains all"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: FreezeOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Freezing(Net(), options)


def test_a_frozen_parameter_has_no_state_in_the_optimiser() -> None:
    network = Net()
    Freezing(network, FreezeOptions(parts=["spynet"])).apply(1)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network.last(network.fusion(network.spynet(torch.ones(1, 2)))).sum().backward()
    optimizer.step()
    stateful = {name for name, parameter in network.named_parameters() if optimizer.state.get(parameter)}
    assert stateful == {"fusion.weight", "fusion.bias", "last.weight", "last.bias"}
