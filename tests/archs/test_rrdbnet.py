"""RRDBNet: official numbers and keys, the scales below 4, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.rrdbnet import ResidualDenseBlock, RRDBNet


@pytest.mark.parametrize("model_id", model_ids("rrdbnet"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("scale", [1, 2])
def test_smaller_scales_are_the_whole_network_on_the_folded_image(scale: int) -> None:
    torch.manual_seed(0)
    fold = 4 // scale
    network = RRDBNet(scale=scale, num_feat=4, num_block=1, num_grow_ch=2)
    whole = RRDBNet(num_in_ch=3 * fold**2, num_feat=4, num_block=1, num_grow_ch=2)
    whole.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 2 * fold, 3 * fold)
    torch.testing.assert_close(network(x), whole(F.pixel_unshuffle(x, fold)))


def test_a_dense_block_adds_a_fifth_of_its_last_convolution() -> None:
    block = ResidualDenseBlock(2, 1)
    torch.nn.init.dirac_(block.conv5.weight)  # hands on the first two of all channels: the input
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(block(x), 1.2 * x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 3}, "scale: expected 1, 2 or 4, got 3"),
        ({"num_grow_ch": 0}, "num_grow_ch: expected a number from 1 up, got 0"),
        ({"num_block": -1}, "num_block: expected a number from 0 up, got -1"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RRDBNet(**arguments)
