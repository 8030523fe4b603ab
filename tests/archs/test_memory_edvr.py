"""MemoryEDVR: beside EDVR, by its table of variants, and by what its memory does to what it restores."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsr.archs.edvr import EDVR
from vsr.archs.memory_edvr import MemoryEDVR
from vsr.archs.memory_fusion import pixwise
from vsr.registry import MEMORIES, NETWORKS

SMALL: dict[str, Any] = {
    "num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "pixsim": {"type": "pixsim"},
    "pixwise": {"type": "pixwise", "crop": 3},
    "pixsentence": {"type": "pixsentence", "chunk": 10},
}
every_kind = pytest.mark.parametrize("memory", KINDS.values(), ids=KINDS)


def randomised(network: Any) -> Any:
    """The network with weights of all parts drawn anew, so that the memory takes part."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def window(b: int = 1, h: int = 8, w: int = 12) -> Tensor:
    return torch.rand(b, 3, 3, h, w, generator=torch.Generator().manual_seed(0))


# As the comparison of memories lists them: kind, features, width of the memory, fusion, norm, crop, alignment.
TABLE = {
    "EDVR_PixSim": ("pixsim", 64, "add", False, 0, True),
    "EDVR_PixWise": ("pixwise", 64, "add", False, 0, True),
    "EDVR_PixSentence": ("pixsentence", 64, "add", False, 0, True),
    "EDVR_Concat256": ("pixwise", 128, "concat", False, 3, True),
    "EDVR_Concat128Norm": ("pixwise", 128, "concat", True, 3, True),
    "EDVR_Crop3": ("pixwise", 128, "add", False, 3, True),
    "EDVR_Crop5": ("pixwise", 128, "add", False, 5, True),
    "EDVR_NoPCD": ("pixwise", 128, "add", False, 5, False),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_name_stands_for_a_row_of_the_table(name: str) -> None:
    kind, num_feat, fusion, norm, crop, with_pcd = TABLE[name]
    with torch.device("meta"):
        network: Any = NETWORKS.build({"type": name, "num_extract_block": 1, "num_reconstruct_block": 1})
    memory = network.memory
    assert type(memory) is MEMORIES.get(kind)
    assert tuple(memory.embed_q.weight.shape) == tuple(memory.embed_v.weight.shape) == (num_feat, num_feat, 1, 1)
    assert tuple(memory.out.weight.shape) == (num_feat, num_feat * (2 if fusion == "concat" else 1), 1, 1)
    assert hasattr(memory, "log_temperature") == norm
    assert getattr(memory.read, "keywords", {}).get("crop", 0) == crop
    assert any("pcd_align" in key for key in network.state_dict()) == with_pcd
    assert any("conv_l2_1" in key for key in network.state_dict()) == with_pcd


def test_a_memory_of_128_channels_adds_as_many_parameters_as_counted_by_hand() -> None:
    def added(**memory: Any) -> int:
        return sum(p.numel() for p in pixwise(channels=128, slots=5, center=2, **memory).parameters())

    embeddings = 3 * (128 * 128 + 128)
    assert embeddings == 49536
    assert added() == embeddings + 16512
    assert added(fusion="concat") == embeddings + 32896
    assert added(norm=True) == embeddings + 16512 + 1
    assert added(mem_dim=32, temporal_encoding=True) == 3 * (128 * 32 + 32) + 32 * 128 + 128 + 2 * 5 * 32


@pytest.mark.parametrize("fusion", ["add", "concat"])
@every_kind
def test_a_fresh_memory_leaves_edvr_as_it_is_to_the_bit(memory: dict[str, Any], fusion: str) -> None:
    plain = randomised(EDVR(**SMALL)).eval()
    network = MemoryEDVR(**SMALL, memory={**memory, "fusion": fusion, "norm": True, "temporal_encoding": True}).eval()
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert {name.split(".")[0] for name in missing} == {"memory"}
    with torch.no_grad():
        assert torch.equal(network(window()), plain(window()))


def test_the_tensors_of_the_memory_are_called_as_weight_files_call_them() -> None:
    network = MemoryEDVR(**SMALL, memory={"type": "pixwise", "norm": True})
    pairs = {f"memory.{part}.{of}" for part in ("embed_q", "embed_k", "embed_v", "out") for of in ("weight", "bias")}
    assert {name for name in network.state_dict() if name.startswith("memory")} == pairs | {"memory.log_temperature"}


@every_kind
def test_what_the_memory_reads_reaches_the_restored_frame(memory: dict[str, Any]) -> None:
    network = randomised(MemoryEDVR(**SMALL, memory=memory)).eval()
    without = copy.deepcopy(network)
    nn.init.zeros_(without.memory.embed_v.weight)
    nn.init.zeros_(without.memory.embed_v.bias)
    with torch.no_grad():
        assert not torch.allclose(network(window()), without(window()))


def memory_of(**arguments: Any) -> Any:
    return randomised(MEMORIES.build({"channels": 6, "slots": 3, "center": 1, **arguments})).double()


def features(b: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (b, 6, 4, 5), (b, 6, 4, 5), (b, 3, 6, 4, 5)
    fused, query, slots = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return fused, query, slots


@every_kind
def test_frames_may_be_in_any_order_unless_their_places_are_encoded(memory: dict[str, Any]) -> None:
    fused, query, slots = features()
    for encoded in (False, True):
        network = memory_of(**memory, temporal_encoding=encoded)
        swapped = network(fused, query, slots[:, [2, 1, 0]])
        assert torch.allclose(swapped, network(fused, query, slots)) != encoded


@every_kind
@pytest.mark.parametrize("norm", [True, False])
def test_directions_alone_count_where_they_are_compared(norm: bool, memory: dict[str, Any]) -> None:
    network = memory_of(**memory, norm=norm)
    _, query, slots = features()
    _, weights = network.look_up(query, slots)
    with torch.no_grad():
        network.embed_q.weight.mul_(10)
        network.embed_q.bias.mul_(10)
    assert torch.allclose(network.look_up(query, slots)[1], weights) == norm


def test_the_temperature_begins_at_10_and_stays_between_1_and_100() -> None:
    network = memory_of(type="pixsim", norm=True)
    fresh: Any = MEMORIES.build({"type": "pixsim", "channels": 6, "slots": 3, "center": 1, "norm": True})
    assert fresh.log_temperature.exp().item() == pytest.approx(10)
    _, query, slots = features()
    seen = {}
    for value in (-5.0, 0.0, 2.0, 4.6, 9.0):
        nn.init.constant_(network.log_temperature, value)
        seen[value] = network.look_up(query, slots)[1]
    assert torch.equal(seen[-5.0], seen[0.0])
    assert not torch.allclose(seen[0.0], seen[2.0])
    assert torch.allclose(seen[4.6], seen[9.0], rtol=0.1)
    assert torch.isfinite(seen[9.0]).all()


@every_kind
def test_an_excluded_centre_is_not_read(memory: dict[str, Any]) -> None:
    network = memory_of(**memory, exclude_center=True, temporal_encoding=True)
    fused, query, slots = features()
    changed = slots.clone()
    changed[:, 1] += 100
    assert torch.equal(network(fused, query, changed), network(fused, query, slots))
    assert network.look_up(query, slots)[1].shape[1] == 2


@every_kind
def test_a_further_hop_asks_with_what_the_one_before_found(memory: dict[str, Any]) -> None:
    once, twice = memory_of(**memory), memory_of(**memory, hops=2)
    twice.load_state_dict(once.state_dict())
    _, query, slots = features()
    found, _ = once.look_up(query, slots)
    k, v = (embed(slots[0]).unsqueeze(0) for embed in (once.embed_k, once.embed_v))
    expected, _ = once.read(once.embed_q(query) + found, k, v)
    torch.testing.assert_close(twice.look_up(query, slots)[0], expected)
    assert not torch.allclose(expected, found)


@pytest.mark.parametrize(("with_tsa", "multiple"), [(True, 4), (False, 1)])
def test_without_alignment_no_deformable_convolution_is_needed(
    with_tsa: bool, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = MemoryEDVR(**SMALL, with_tsa=with_tsa, with_pcd=False, memory={"type": "pixwise", "crop": 5})
    assert (network.size_multiple, network.min_size) == (multiple, multiple)
    monkeypatch.setattr("vsr.ops.deform_conv.modulated_deform_conv2d", None)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x, target = window(h=2 * multiple, w=3 * multiple), torch.rand(1, 3, 8 * multiple, 12 * multiple)
    losses = []
    for _ in range(5):
        loss = (network(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_groups_of_offsets_need_to_divide_the_features_only_where_there_are_offsets() -> None:
    odd = {**SMALL, "num_feat": 7, "deformable_groups": 2, "memory": "pixsim"}
    with torch.device("meta"):
        network = MemoryEDVR(**odd, with_pcd=False)
        assert network(torch.rand(1, 3, 3, 4, 8)).shape == (1, 3, 16, 32)
        with pytest.raises(ValueError, match=r"deformable_groups: expected a divisor of num_feat \(7\), got 2"):
            MemoryEDVR(**odd)


def test_kept_features_of_frames_give_what_the_whole_window_does() -> None:
    network = randomised(MemoryEDVR(**SMALL, with_pcd=False)).eval()
    x = window(b=2)
    with torch.no_grad():
        pyramid = [level.unflatten(0, (2, 3)) for level in network.extract(x.flatten(0, 1))]
        assert len(pyramid) == 1
        torch.testing.assert_close(network.reconstruct(pyramid, x[:, 1]), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": {"type": "pixwise", "crop": 4}}, r"crop: expected 0 or an odd number, .* got 4"),
        ({"memory": {"type": "pixsim", "crop": 3}}, "crop: expected 0, as pixsim weighs whole frames, got 3"),
        ({"memory": {"type": "pixsentence", "crop": 3}}, r"expected 0, .* got 3 .* Or take pixwise"),
        ({"memory": {"type": "pixsentence", "chunk": -1}}, "got 0 and -1"),
        ({"memory": {"type": "pixsentence", "key_stride": 0}}, "key_stride: expected a number from 1 up"),
        ({"memory": {"type": "pixsim", "hops": 0}}, "hops: expected a number from 1 up"),
        ({"memory": {"type": "pixsim", "mem_dim": 0}}, "mem_dim: expected a number from 1 up"),
        ({"memory": {"type": "pixsim", "fusion": "sum"}}, "fusion: expected 'add' or 'concat', got 'sum'"),
        ({"memory": {"type": "pixswise"}}, "Did you mean 'pixwise'"),
        ({"memory": {"type": "pixsim", "chunk": 5}}, "'chunk' is not an argument"),
        ({"num_frame": 1, "memory": {"type": "pixsim", "exclude_center": True}}, "exclude_center: expected false"),
    ],
)
def test_what_makes_no_memory_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryEDVR(**{**SMALL, **arguments})


def test_a_kind_may_be_named_without_arguments_and_a_variant_may_get_another_one() -> None:
    network: Any = NETWORKS.build({"type": "EDVR_Crop5", **SMALL, "memory": "pixsentence"})
    assert type(network.memory) is MEMORIES.get("pixsentence")
    assert network.memory.embed_q.weight.shape[0] == 8
