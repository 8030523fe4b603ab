"""RCAN: official numbers and keys, its attention, and what it refuses."""

import pytest
import torch
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.rcan import RCAN, ChannelAttention


@pytest.mark.parametrize(
    "model_id", [pytest.param(i, marks=pytest.mark.slow if i == "rcan_x2" else ()) for i in model_ids("rcan")]
)
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


def test_attention_multiplies_each_channel_by_a_factor_of_the_means() -> None:
    attention = ChannelAttention(2, 1)
    first, second = attention.attention[1], attention.attention[3]
    for layer in (first, second):
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.tensor([[1.0, 3.0], [-5.0, 1.0]]).view(1, 2, 1, 2)
    # means 2 and -2, after the ReLU 2 and 0
    factors = torch.sigmoid(torch.tensor([2.0, 0.0])).view(1, 2, 1, 1)
    torch.testing.assert_close(attention(x), x * factors)


@pytest.mark.parametrize("none", ["num_group", "num_block"])
def test_groups_and_blocks_may_be_none(none: str) -> None:
    network = RCAN(**{"num_feat": 16, "num_group": 1, "num_block": 1, "upscale": 2, none: 0})
    assert not any("rcab" in key for key in network.state_dict())
    assert network(torch.rand(1, 3, 3, 5)).shape == (1, 3, 6, 10)


def test_channels_are_honoured() -> None:
    network = RCAN(num_in_ch=4, num_out_ch=1, num_feat=16, num_group=1, num_block=1, rgb_mean=[0.5], upscale=3)
    assert network(torch.rand(1, 4, 3, 5)).shape == (1, 1, 9, 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 6}, "upscale: expected 3 or a power of 2, got 6"),
        ({"squeeze_factor": 65}, r"squeeze_factor: expected 1 to num_feat \(64\), got 65"),
        ({"num_group": -1}, "num_group: expected a number from 0 up, got -1"),
        ({"img_range": -1}, "img_range: expected a number greater than 0, got -1"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RCAN(**arguments)


def test_local_pooling_frees_a_pixel_from_what_is_far_away() -> None:
    small = {"num_feat": 8, "num_group": 1, "num_block": 1, "squeeze_factor": 2, "upscale": 2}
    torch.manual_seed(0)
    plain, local = RCAN(**small), RCAN(**small, local={"train_size": [8, 8]})
    local.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(1, 3, 40, 40)
    other = x.clone()
    other[..., 30:] = 0
    with torch.no_grad():
        seen, moved = ((network(x) - network(other))[..., :20].abs().max().item() for network in (local, plain))
        torch.testing.assert_close(local(x[..., :12, :12]), plain(x[..., :12, :12]))  # the window covers it all
    assert seen < 1e-6 < moved
