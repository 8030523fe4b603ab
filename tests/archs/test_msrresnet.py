"""MSRResNet: official numbers and keys, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, check_recipe, manifest, model_ids, state_of

from vsr.archs.msrresnet import MSRResNet


def test_the_recipe_still_makes_the_golden_weights() -> None:
    check_recipe()


@pytest.mark.parametrize("model_id", model_ids("msrresnet"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_without_detail_the_output_is_the_bilinear_picture(upscale: int) -> None:
    network = MSRResNet(num_feat=4, num_block=1, upscale=upscale)
    torch.nn.init.zeros_(network.conv_last.weight)
    x = torch.rand(2, 3, 5, 7)
    assert network.scale == upscale
    torch.testing.assert_close(network(x), F.interpolate(x, scale_factor=upscale, mode="bilinear"))


def test_channels_are_honoured() -> None:
    assert MSRResNet(num_in_ch=4, num_out_ch=3, num_feat=4, num_block=0)(torch.rand(1, 4, 3, 3)).shape == (1, 3, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 5}, "upscale: expected 2, 3 or 4, got 5"),
        ({"num_feat": 0}, "num_feat: expected a number from 1 up, got 0"),
        ({"num_block": -1}, "num_block: expected a number from 0 up, got -1"),
        ({"num_out_ch": 4}, "num_out_ch: expected 1 to num_in_ch"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MSRResNet(**arguments)


def test_another_shape_is_refused_with_the_expected_one() -> None:
    with pytest.raises(ValueError, match=r"x: expected \(b, 3, h, w\), got \(1, 1, 4, 4\)"):
        MSRResNet(num_feat=4, num_block=1)(torch.rand(1, 1, 4, 4))
