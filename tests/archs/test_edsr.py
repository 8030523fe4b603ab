"""EDSR: official numbers and keys, colours and ranges, and what it refuses."""

from typing import Any

import pytest
import torch
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.edsr import EDSR


@pytest.mark.parametrize("model_id", model_ids("edsr"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("upscale", [1, 2, 3, 8])
def test_without_detail_the_output_is_the_mean_colour(upscale: int) -> None:
    network = EDSR(num_feat=4, num_block=1, upscale=upscale, rgb_mean=[0.1, 0.2, 0.3])
    torch.nn.init.zeros_(network.conv_last.weight)
    torch.nn.init.zeros_(network.conv_last.bias)
    out = network(torch.rand(2, 3, 5, 7))
    colour = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(out, colour.expand(2, 3, 5 * upscale, 7 * upscale))


def test_the_range_scales_what_the_convolutions_see() -> None:
    # Without biases the network is positively homogeneous: the range cancels out.
    torch.manual_seed(0)
    wide, unit = EDSR(num_feat=4, num_block=2, upscale=2), EDSR(num_feat=4, num_block=2, upscale=2, img_range=1.0)
    for name, parameter in wide.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    unit.load_state_dict(wide.state_dict())
    x = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(wide(x), unit(x), rtol=1e-4, atol=1e-5)


def test_without_blocks_the_trunk_is_one_convolution() -> None:
    network = EDSR(num_feat=4, num_block=0, upscale=1, img_range=1.0, rgb_mean=[0.0])
    x = torch.rand(1, 3, 4, 5)
    features = network.conv_first(x)
    torch.testing.assert_close(network(x), network.conv_last(features + network.conv_after_body(features)))


def test_channels_are_honoured() -> None:
    assert EDSR(num_in_ch=1, num_out_ch=1, num_feat=4, rgb_mean=[0.4])(torch.rand(1, 1, 3, 3)).shape == (1, 1, 12, 12)
    assert EDSR(num_in_ch=4, num_feat=4, rgb_mean=[0.5])(torch.rand(1, 4, 3, 3)).shape == (1, 3, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 5}, "upscale: expected 3 or a power of 2, got 5"),
        ({"upscale": 0}, "upscale: expected 3 or a power of 2, got 0"),
        ({"num_block": -1}, "num_block: expected a number from 0 up, got -1"),
        ({"num_out_ch": 4}, "num_out_ch: expected 1 to num_in_ch"),
        ({"img_range": 0}, "img_range: expected a number greater than 0, got 0"),
        ({"num_in_ch": 4}, "rgb_mean: expected 4 values, one for each channel of the input, or a single one, got 3"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDSR(**arguments)
