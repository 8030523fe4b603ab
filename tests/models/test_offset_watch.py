"""The mean offsets of deformable layers: counted without a read-back, and steps beyond the limit dropped."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import run_in_processes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vsr.archs.blocks import checkpoint_activations
from vsr.config import OffsetWatchOptions, load_options
from vsr.models.offset_watch import OffsetWatch
from vsr.models.restoration import RestorationModel
from vsr.ops.deform_conv import ModulatedDeformConv2dPack
from vsr.registry import MODELS

EDVR = "{type: EDVR, num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 0, num_reconstruct_block: 0}"


class TwoLayers(nn.Module):
    """Offsets of 3 and of -5 pixels, whatever the input; the second layer is called twice."""

    checkpointed = (ModulatedDeformConv2dPack,)

    def __init__(self) -> None:
        super().__init__()
        self.first = ModulatedDeformConv2dPack(4, 4, 3, padding=1, deform_groups=2)
        self.second = ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        with torch.no_grad():
            self.first.conv_offset.bias[:36] = 3.0
            self.second.conv_offset.bias[:18] = -5.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        with torch.no_grad():
            self.second.conv_offset.bias[:18] -= 2.0  # the second call moves by 7
        x = self.second(x)
        with torch.no_grad():
            self.second.conv_offset.bias[:18] += 2.0
        return x


def watch(network: nn.Module, **options: Any) -> OffsetWatch:
    return OffsetWatch(network, OffsetWatchOptions(**options))


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: round(value.item(), 4) for name, value in terms.items()}


def test_the_mean_of_every_layer_over_the_calls_of_a_step() -> None:
    network = TwoLayers()
    watched = watch(network)
    for _ in range(2):  # each step begins anew
        for _ in range(3):  # micro-batches
            network(torch.rand(1, 4, 5, 6))
        terms, drop = watched.read(1)
        assert values(terms) == {"offset/first": 3.0, "offset/second": 6.0}
        assert drop is None
    assert values(watched.read(3)[0]) == {"offset/first": 0.0, "offset/second": 0.0}  # no call, no offset


def test_only_training_counts_and_no_state_dict_and_no_copy_made_before_holds_it() -> None:
    network = TwoLayers()
    before, average = list(network.state_dict()), copy.deepcopy(network)
    watched = watch(network)
    assert list(network.state_dict()) == before
    assert list(copy.deepcopy(network).state_dict()) == before
    network.eval()(torch.rand(1, 4, 5, 6))
    average.train()(torch.rand(1, 4, 5, 6))
    assert set(values(watched.read(1)[0]).values()) == {0.0}


class OneLayer(nn.Module):
    checkpointed = (ModulatedDeformConv2dPack,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        nn.init.constant_(self.layer.conv_offset.bias[:18], 2.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 1


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_it_counts_alike_when_activations_are_recomputed_and_when_compiled(recomputed: bool, compiled: bool) -> None:
    network = OneLayer()
    watched = watch(network)
    if recomputed:
        checkpoint_activations(network)
    forward = torch.compile(network, fullgraph=True, backend="aot_eager") if compiled else network
    for step in (1, 2):
        forward(torch.rand(2, 4, 5, 6)).sum().backward()
        assert values(watched.read(step)[0]) == {"offset/layer": 2.5}


def test_offsets_in_half_and_in_double_precision_are_counted() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        network = OneLayer().to(dtype)
        watched = watch(network)
        network(torch.rand(1, 4, 40, 60, dtype=dtype))
        assert values(watched.read(1)[0]) == {"offset/layer": 2.5}


def test_off_nothing_is_added_to_the_layers() -> None:
    network = TwoLayers()
    watched = OffsetWatch(network, None)
    assert network.first.offset_sum is None
    assert watched.read(1) == ({}, None)
    assert watched.exceeded() == ({}, 0)
    assert watch(nn.Conv2d(3, 3, 3), action="skip").read(1) == ({}, None)


def test_the_layers_beyond_the_limit_and_since_which_step() -> None:
    network = TwoLayers()
    watched = watch(network, limit=4.0)

    def step(number: int) -> None:
        network(torch.rand(1, 4, 5, 6))
        watched.read(number)

    for number in (1, 2):
        step(number)
    assert watched.exceeded() == ({"second": 6.0}, 1)
    step(3)
    assert watched.exceeded() == ({"second": 6.0}, 1)  # it has gone on since then
    assert watched.exceeded() == ({}, 0)
    nn.init.constant_(network.first.conv_offset.bias[:36], float("nan"))
    step(7)
    nn.init.constant_(network.first.conv_offset.bias[:36], 0.0)
    step(8)
    found, since = watched.exceeded()
    assert list(found) == ["first", "second"]  # NaN is beyond every limit, and comes first
    assert since == 7


def make_model(tiny: Path, *overrides: str) -> RestorationModel:
    options = load_options(tiny, [f"network_g={EDVR}", "scale=4", *overrides])
    return MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))


def batch(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    lq = torch.randint(0, 256, (1, 3, 3, 8, 8), generator=generator, dtype=torch.uint8)
    gt = torch.randint(0, 256, (1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {"lq": lq, "gt": gt, "key": ["x"]}


def move_far(model: RestorationModel, pixels: float) -> None:
    layer = model.network_g.pcd_align.cas_dcnpack
    nn.init.constant_(layer.conv_offset.bias[:36], pixels)


@pytest.mark.fault
def test_a_step_beyond_the_limit_is_dropped_and_counted(tiny: Path) -> None:
    model = make_model(tiny, "train.offset_watch.action=skip")
    model.train_step([batch()], 1)
    assert float(model.bad_steps_in_a_row) == 0
    move_far(model, 500.0)
    state = copy.deepcopy(model.state_dict())
    terms = model.train_step([batch(1)], 2)
    assert float(model.bad_steps_in_a_row) == 1
    assert float(terms["offset/pcd_align.cas_dcnpack"]) == pytest.approx(500, abs=0.1)
    for key in ("network_g", "network_ema"):
        for name, value in model.state_dict()[key].items():
            assert torch.equal(value, state[key][name]), name
    move_far(model, 0.0)
    model.train_step([batch(2)], 3)
    assert float(model.bad_steps_in_a_row) == 0
    assert not torch.equal(model.network_g.conv_first.weight, state["network_g"]["conv_first.weight"])


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_step_beyond_the_limit_counts_where_it_shall_not_be_dropped(tiny: Path, action: str) -> None:
    model = make_model(tiny, f"train.offset_watch.action={action}")
    move_far(model, 500.0)
    before = model.network_g.conv_last.weight.clone()
    model.train_step([batch()], 1)
    assert not torch.equal(model.network_g.conv_last.weight, before)
    assert list(model.offsets.exceeded()[0]) == ["pcd_align.cas_dcnpack"]


def test_watching_changes_no_weight_and_reads_nothing_back(tiny: Path) -> None:
    class NoReadBack(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in str(function), "a value was read back to the host"
            return function(*args, **(kwargs or {}))

    watched, plain = make_model(tiny, "train.offset_watch.action=skip"), make_model(tiny, "train.offset_watch=null")
    terms: dict[str, Tensor] = {}
    for step in (1, 2):
        with NoReadBack():
            terms = watched.train_step([batch(step)], step)
        other = plain.train_step([batch(step)], step)
        assert {name for name in terms if name not in other} == {f"offset/{name}" for name in watched.offsets.names}
    assert len(watched.offsets.names) == 4
    for a, b in zip(watched.network_g.parameters(), plain.network_g.parameters(), strict=True):
        assert torch.equal(a, b)


TWO_PROCESSES = """
import sys
import torch
from torch import nn
from vsr.config import OffsetWatchOptions
from vsr.models.offset_watch import OffsetWatch
from vsr.ops.deform_conv import ModulatedDeformConv2dPack
from vsr.utils import dist
dist.init(60)
layer = ModulatedDeformConv2dPack(4, 4, 3, padding=1)
nn.init.constant_(layer.conv_offset.bias[:18], 500.0 if dist.rank() else 1.0)  # one process alone is beyond it
watch = OffsetWatch(nn.Sequential(layer), OffsetWatchOptions(action="skip"))
layer(torch.rand(1, 4, 5, 6))
_, drop = watch.read(4)
assert bool(drop)
assert watch.exceeded() == ({"0": 500.0}, 4)
layer.eval()
assert not bool(watch.read(5)[1])
dist.shutdown()
open(sys.argv[1] + sys.argv[0][-1], "a").write("x")
"""


@pytest.mark.slow
def test_processes_agree_to_drop_a_step_that_one_of_them_finds_beyond_the_limit(tmp_path: Path) -> None:
    run_in_processes(TWO_PROCESSES, 2, tmp_path)
    assert (tmp_path / "doney").read_text() == "xx"
