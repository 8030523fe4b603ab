"""SRVGGNetCompact: official numbers and keys, its scales and activations, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of
from torch import nn

from vsr.archs.srvgg import SRVGGNetCompact


@pytest.mark.parametrize("model_id", model_ids("srvgg"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("upscale", [1, 2, 3, 5])
def test_without_detail_the_output_is_the_nearest_neighbour_picture(upscale: int) -> None:
    network = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=upscale)
    nn.init.zeros_(network.body[-1].weight)
    nn.init.zeros_(network.body[-1].bias)
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(network(x), F.interpolate(x, scale_factor=upscale, mode="nearest"))


@pytest.mark.parametrize(("act_type", "at_minus_one"), [("relu", 0.0), ("prelu", -0.25), ("leakyrelu", -0.1)])
def test_the_activation_follows_every_convolution_but_the_last(act_type: Any, at_minus_one: float) -> None:
    network = SRVGGNetCompact(num_feat=4, num_conv=2, act_type=act_type)
    assert len(network.body) == 7
    for activation in network.body[1::2]:
        assert activation(torch.full((1, 4, 1, 1), -1.0)).flatten().tolist() == pytest.approx([at_minus_one] * 4)


def test_channels_are_honoured() -> None:
    network = SRVGGNetCompact(num_in_ch=4, num_out_ch=1, num_feat=4, num_conv=0, upscale=3)
    assert network(torch.rand(1, 4, 3, 5)).shape == (1, 1, 9, 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 0}, "upscale: expected a number from 1 up, got 0"),
        ({"num_conv": -1}, "num_conv: expected a number from 0 up, got -1"),
        ({"act_type": "gelu"}, "act_type: expected 'relu', 'prelu' or 'leakyrelu', got 'gelu'"),
        ({"num_out_ch": 4}, "num_out_ch: expected 1 to num_in_ch"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SRVGGNetCompact(**arguments)
