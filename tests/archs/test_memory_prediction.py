"""The static memory and the networks around it: what reads, skips and options do, at every level."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.memory_prediction import MemoryPrediction, StaticMemory, UNetDown

CHANNELS = [3, 4, 6, 8]
LEVELS = ["level1", "level2", "level3", "bottleneck"]
READS = ["pixsim", "pixwise", "pixsentence"]


def build(**arguments: Any) -> MemoryPrediction:
    torch.manual_seed(0)
    given = {"channels": CHANNELS, "noskip": [False] * 3, "input_size": 4, "memory_size": 4, "embed_size": 8, "pad": 1}
    return MemoryPrediction(**{**given, **arguments}).eval()


def frames(count: int = 4, size: tuple[int, int] = (16, 24), batch: int = 2) -> Tensor:
    return torch.rand(batch, count, 3, *size, generator=torch.Generator().manual_seed(1))


def memory_of(network: MemoryPrediction, level: str) -> tuple[StaticMemory, Tensor, Tensor]:
    """The memory of a level, a query for it and sentences (2, 4, c, h, w), as the encoder gives them."""
    x = frames().to(next(network.parameters()).dtype)
    bottom, features = network.encoder(x.flatten(0, 1))
    chosen = [*features, bottom][LEVELS.index(level)].unflatten(0, (2, 4)).detach()
    memory = network.mem_net[level]
    assert isinstance(memory, StaticMemory)
    return memory, chosen[:, -1], chosen


def identity_(layer: Any) -> None:
    """Let a 1x1 convolution pass what it gets."""
    with torch.no_grad():
        layer.weight.copy_(torch.eye(layer.weight.shape[0])[..., None, None])
        layer.bias.zero_()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("read", READS)
def test_weights_are_none_below_0_and_sum_to_1_at_every_pixel(read: str, level: str) -> None:
    _, weights = build(read=read, hops=2)(frames(), with_weights=True)
    assert list(weights) == LEVELS
    side = {"level1": (16, 24), "level2": (8, 12), "level3": (4, 6), "bottleneck": (2, 3)}[level]
    for hop in weights[level]:
        assert hop.shape == ((2, 4) if read == "pixsim" else (2, 4, *side))
        assert (hop >= 0).all()
        torch.testing.assert_close(hop.sum(1), torch.ones_like(hop[:, 0]))
    assert len(weights[level]) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_what_lies_beside_the_query_is_found_within_the_pad_and_only_there(level: str) -> None:
    """The keys of slot 1 are the query's, one pixel down and one to the left; its values come back to their place."""
    memory, _, _ = memory_of(build(read="pixwise"), level)
    width = memory.embed_q.out_channels
    torch.manual_seed(2)
    query = 60 * F.normalize(torch.randn(1, width, 8, 8), dim=1)  # logits differ by far more than 1
    keys = 60 * F.normalize(torch.randn(1, 4, width, 8, 8), dim=2)
    keys[:, 1] = torch.roll(query, (1, -1), (2, 3))
    values = torch.randn(1, 4, width, 8, 8)
    wanted = torch.roll(values[:, 1], (-1, 1), (2, 3))
    read, _ = memory._read(query, keys, values, None)
    torch.testing.assert_close(read[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-4, rtol=0)
    memory.crop = 1  # pad 0
    read, _ = memory._read(query, keys, values, None)
    assert (read - wanted)[..., 1:-1, 1:-1].abs().max() > 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("read", READS)
def test_the_order_of_slots_changes_nothing(read: str, level: str) -> None:
    memory, query, sentences = memory_of(build(read=read), level)
    order = [2, 0, 3, 1]
    out, weights = memory(query, sentences)
    other, moved = memory(query, sentences[:, order])
    torch.testing.assert_close(other, out)
    torch.testing.assert_close(moved[0], weights[0][:, order])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("read", READS)
def test_equal_values_are_read_as_that_value_whatever_the_query_is(read: str, level: str) -> None:
    memory, query, sentences = memory_of(build(read=read), level)
    nn.init.zeros_(memory.embed_v.weight)
    width = memory.embed_v.out_channels
    read_back = nn.Conv2d(2 * width, width, 1)
    with torch.no_grad():  # show o alone
        read_back.weight.copy_(torch.cat((torch.zeros(width, width), torch.eye(width)), 1)[..., None, None])
        read_back.bias.zero_()
    memory.out = read_back
    expected = memory.embed_v.bias[None, :, None, None].expand(2, -1, *query.shape[2:])
    torch.testing.assert_close(memory(query, sentences)[0], expected)
    single, weights = memory(torch.randn_like(query), sentences[:, :1])  # one slot: its value, any query
    torch.testing.assert_close(single, expected)
    torch.testing.assert_close(weights[0][:, 0], torch.ones_like(weights[0][:, 0]))
    assert (weights[0][:, 1:] == 0).all()


@pytest.mark.parametrize("read", READS)
def test_slots_that_hold_nothing_get_no_weight_and_of_more_sentences_the_last_are_kept(read: str) -> None:
    few, enough = build(read=read, memory_size=7), build(read=read)
    few.load_state_dict(enough.state_dict())
    out, weights = few(frames(), with_weights=True)
    expected, of_four = enough(frames(), with_weights=True)
    torch.testing.assert_close(out, expected)
    for level in LEVELS:
        assert weights[level][0].shape[1] == 7
        assert (weights[level][0][:, 4:] == 0).all()
        torch.testing.assert_close(weights[level][0][:, :4], of_four[level][0])
    small, many = build(read=read, memory_size=3), frames(4)
    forgotten = many.clone()
    forgotten[:, 0] = 0
    assert torch.equal(small(many), small(forgotten))
    forgotten[:, 1] = 0
    assert not torch.equal(small(many), small(forgotten))


@pytest.mark.parametrize("read", READS)
def test_reads_are_those_of_a_plain_formula(read: str) -> None:
    """Hop after hop by a loop over pixels and slots, in float64."""
    memory, query, sentences = memory_of(build(read=read, hops=2).double(), "bottleneck")
    query, sentences = query.double(), sentences.double()
    b, s, _, h, w = sentences.shape
    u = first = memory.embed_q(query)
    k, v = (e(sentences.flatten(0, 1)).unflatten(0, (b, s)) for e in (memory.embed_k, memory.embed_v))
    o = torch.zeros_like(u)
    for _ in range(2):
        o = torch.zeros_like(u)
        for i in range(b):
            if read == "pixsim":
                logits = torch.stack([(u[i] * k[i, t]).sum(0).mean() for t in range(s)]) / u.shape[1] ** 0.5
                o[i] = sum(p * v[i, t] for t, p in enumerate(logits.softmax(0)))
                continue
            for y in range(h):
                for x in range(w):
                    near = [
                        (t, r, c)
                        for t in range(s)
                        for r in range(h)
                        for c in range(w)
                        if read == "pixsentence" or max(abs(r - y), abs(c - x)) <= 1
                    ]
                    logits = torch.stack([u[i, :, y, x] @ k[i, t, :, r, c] for t, r, c in near]) / u.shape[1] ** 0.5
                    o[i, :, y, x] = sum(
                        p * v[i, t, :, r, c] for p, (t, r, c) in zip(logits.softmax(0), near, strict=True)
                    )
        u = u + o
    expected = memory.out(torch.cat((first, o), 1))
    torch.testing.assert_close(memory(query, sentences)[0], expected)


def test_without_skips_nothing_but_the_bottleneck_reaches_the_decoder() -> None:
    network = build(noskip=[True] * 3)
    assert list(network.mem_net) == ["bottleneck"]
    expected = network(frames())
    original = UNetDown.forward

    class Zeroed(UNetDown):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            bottom, features = original(self, x)
            return bottom, [torch.zeros_like(f) for f in features]

    network.encoder.__class__ = Zeroed
    assert torch.equal(network(frames()), expected)
    skipping = build(noskip=[True, False, True])
    assert list(skipping.mem_net) == ["level2", "bottleneck"]
    expected = skipping(frames())
    skipping.encoder.__class__ = Zeroed
    assert not torch.equal(skipping(frames()), expected)


def test_without_multi_the_bottleneck_alone_has_a_memory_and_the_decoder_the_query_s_skips() -> None:
    network = build(multi=False)
    assert list(network.mem_net) == ["bottleneck"]
    moved = frames()
    moved[:, :-1] = moved[:, :-1].flip(-1)
    with torch.no_grad():
        for parameter in network.mem_net.parameters():
            parameter.zero_()
    assert torch.equal(network(moved), network(frames()))  # no skip of earlier frames
    moved[:, -1] = 0
    assert not torch.equal(network(moved), network(frames()))


@pytest.mark.parametrize("encoder", ["unet_conv", "resnet"])
def test_an_encoder_for_the_query_doubles_the_encoder_s_parameters(encoder: str) -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    shared = build(encoder=encoder, noskip=[True] * 3)
    apart = build(encoder=encoder, noskip=[True] * 3, QSsep=True)
    assert count(apart) - count(shared) == count(shared.encoder)
    own = frames()
    with torch.no_grad():
        for parameter in apart.query_encoder.parameters():
            parameter.zero_()
    own[:, -1] = 0  # the sentence; the query's features are gone already
    assert not torch.equal(apart(own), apart(frames()))


def test_hops_count_and_without_them_there_is_no_memory() -> None:
    one, two, none = (build(hops=hops) for hops in (1, 2, 0))
    two.load_state_dict(one.state_dict())
    memory, query, sentences = memory_of(one, "level2")
    query, sentences = torch.randn_like(query), torch.randn_like(sentences)
    more = two.mem_net["level2"](query, sentences)[0]
    assert (memory(query, sentences)[0] - more).abs().max() > 1e-3
    assert not torch.equal(one(frames()), two(frames()))
    changed = frames()
    changed[:, :-1] = 0
    assert torch.equal(none(changed), none(frames()))
    assert not torch.equal(one(changed), one(frames()))
    _, weights = none(frames(), with_weights=True)
    assert weights == {"bottleneck": []}
    assert not any("embed_k" in name or "embed_v" in name for name, _ in none.named_parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_flat2d_compares_reduced_features_and_reads_values_of_full_size(stride: int) -> None:
    memory, query, sentences = memory_of(build(flat2d=stride).double(), "level3")
    query, sentences = query.double(), sentences.double()
    q = memory.flat(memory.embed_q(query))
    assert q.shape[-2:] == (4 // stride, 6 // stride)
    k = memory.flat(memory.embed_k(sentences.flatten(0, 1))).unflatten(0, (2, 4))
    v = memory.embed_v(sentences.flatten(0, 1)).unflatten(0, (2, 4))
    products = torch.stack([(q * k[:, t]).sum(1).mean((1, 2)) for t in range(4)], 1)
    weights = (products / q.shape[1] ** 0.5).softmax(1)
    read = (weights[..., None, None, None] * v).sum(1)
    out, found = memory(query, sentences)
    torch.testing.assert_close(found[0], weights)
    torch.testing.assert_close(out, memory.out(torch.cat((memory.embed_q(query), read), 1)))


def test_fc_embeds_whole_maps_as_one_vector_a_slot() -> None:
    network = build(embedding="FC", H=16, W=24, noskip=[True] * 3)
    memory = network.mem_net["bottleneck"]
    per_embedding = 8 * 2 * 3 * 8 + 8  # 8 channels of 2x3 to 8 numbers
    assert sum(p.numel() for p in memory.embed_k.parameters()) == per_embedding
    assert network(frames()).shape == (2, 3, 16, 24)
    with pytest.raises(ValueError, match="expected frames of H x W, 16x24, got 16x16"):
        network(frames(size=(16, 16)))


def test_sizes_of_the_default_network() -> None:
    """Three 1x1 embeddings of 128 channels; 10 weights of pixsim; 8x8 at the bottleneck of 64x64."""
    network = MemoryPrediction()
    memory = network.mem_net["bottleneck"]
    embeddings = (memory.embed_q, memory.embed_k, memory.embed_v)
    assert sum(p.numel() for e in embeddings for p in e.parameters()) == 49536
    seen: list[Tensor] = []
    memory.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    out, weights = network(torch.rand(1, 10, 3, 64, 64), with_weights=True)
    assert out.shape == (1, 3, 64, 64)
    assert [tuple(x.shape) for x in seen] == [(1, 128, 8, 8), (1, 10, 128, 8, 8)]
    assert weights["bottleneck"][0].shape == (1, 10)


@pytest.mark.parametrize("encoder", ["unet_conv", "resnet"])
def test_with_motion_the_encoder_sees_beside_each_frame_its_difference_to_the_one_before(encoder: str) -> None:
    network = build(motion=10, memory_size=2, encoder=encoder, noskip=[True] * 3, QSsep=True)
    seen: dict[str, Tensor] = {}
    for name in ("encoder", "query_encoder"):
        getattr(network, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    x = frames()
    assert network(x).shape == (2, 3, 16, 24)
    kept = seen["encoder"].unflatten(0, (2, 2))  # the two frames that the memory keeps, each with the one before it
    for slot, number in enumerate((2, 3)):
        torch.testing.assert_close(kept[:, slot, :3], x[:, number])
        torch.testing.assert_close(kept[:, slot, 3:], 10 * (x[:, number] - x[:, number - 1]))
    assert torch.equal(seen["query_encoder"], kept[:, 1])
    whole = build(motion=10)
    whole.encoder.register_forward_pre_hook(lambda _, given: seen.update(whole=given[0]))
    whole(x)
    assert not seen["whole"].unflatten(0, (2, 4))[:, 0, 3:].any()  # nothing lies before the first frame


def test_without_motion_there_are_the_tensors_of_a_network_that_does_not_know_it() -> None:
    plain, moving = (build(motion=motion).state_dict() for motion in (0, 1))
    assert plain.keys() == moving.keys()
    other = {name for name in plain if plain[name].shape != moving[name].shape}
    assert other == {"encoder.levels.0.0.weight"}
    assert (plain[other.pop()].shape[1], moving["encoder.levels.0.0.weight"].shape[1]) == (3, 6)


@pytest.mark.parametrize("encoder", ["unet_conv", "resnet"])
@pytest.mark.parametrize("read", READS)
def test_every_layer_of_a_fresh_network_gets_a_gradient_that_adam_learns_from(encoder: str, read: str) -> None:
    """Adam divides by its mean size plus 1e-8: of the default widths, with nothing but the bottleneck between."""
    torch.manual_seed(0)
    network = MemoryPrediction(encoder=encoder, read=read, input_size=3, pad=1)
    (network(frames(3, (32, 32), 1)) - 0.5).abs().mean().backward()
    sizes = {name: value.grad.abs().mean().item() for name, value in network.named_parameters() if value.dim() == 4}
    assert {name: size for name, size in sizes.items() if size < 1e-7} == {}


@pytest.mark.parametrize("encoder", ["unet_conv", "resnet"])
def test_with_zero_last_a_fresh_network_predicts_nothing_and_learns_from_its_first_step(encoder: str) -> None:
    network = build(zero_last=True, encoder=encoder, noskip=[True] * 3)
    out = network(frames())
    assert not out.any()
    assert build(encoder=encoder, noskip=[True] * 3)(frames()).any()
    (out - 1).square().sum().backward()
    assert network.decoder.last.weight.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vgg"}, "encoder: expected unet_conv, resnet, got 'vgg'"),
        ({"encoder": "resnet"}, "noskip: expected true for each level of the resnet"),
        ({"noskip": [True]}, "noskip: expected one value for each of 3 levels"),
        ({"channels": [3]}, "channels: expected those of a frame and of one level or more"),
        ({"channels": []}, "channels: expected a number from 1 up"),
        ({"read": "pixswise"}, "read: expected pixsim, pixwise, pixsentence, got 'pixswise'"),
        ({"embedding": "FC"}, "H, W: expected the size of all frames"),
        ({"embedding": "FC", "read": "pixwise", "H": 16, "W": 16}, "embedding: expected sep1by1 or Conv"),
        ({"motion": -1}, "motion: expected a factor from 0 up, got -1"),
        ({"motion": float("nan")}, "motion: expected a factor from 0 up, got nan"),
        ({"H": 20}, "H: expected a multiple of 8"),
        ({"flat2d": 1, "read": "pixwise"}, "flat2d: expected 0 for read pixwise"),
        ({"hops": -1}, "hops: expected a number from 0 up"),
        ({"hops": 0, "QSsep": True}, "QSsep: expected false for hops 0"),
        ({"memory_size": 0}, "memory_size: expected a number from 1 up"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_sequences_of_another_length_or_size_are_refused() -> None:
    network = build()
    with pytest.raises(ValueError, match=r"expected \(b, 4, 3, h, w\), got \(2, 5, 3, 16, 24\)"):
        network(frames(5))
    with pytest.raises(ValueError, match="multiples of 8, got 16x20"):
        network(frames(size=(16, 20)))


@pytest.mark.slow
def test_a_memory_that_holds_the_target_makes_the_loss_far_smaller() -> None:
    """One sentence is the target; the query is grey, and without it the best guess is the mean of all targets, 0.5."""
    network = build(noskip=[False], channels=[3, 32], embed_size=32, input_size=2, memory_size=2).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    rng = torch.Generator().manual_seed(0)
    losses, blind = [], []
    for _ in range(120):
        target = F.interpolate(torch.rand(8, 3, 2, 2, generator=rng), (8, 8), mode="bilinear")
        grey = torch.full_like(target, 0.5)
        loss = F.l1_loss(network(torch.stack((target, grey), 1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        blind.append(F.l1_loss(grey, target).item())
    assert sum(losses[-30:]) < 0.5 * sum(blind[-30:])
