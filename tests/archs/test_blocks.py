"""What networks share: residual blocks, the bilinear base, checks of arguments."""

import math

import pytest
import torch
from torch import nn

from vsr.archs.blocks import (
    ResidualBlockNoBN,
    bilinear_base,
    check_channels,
    check_positive,
    residual_blocks,
    scaled_kaiming_,
)


def test_scaled_kaiming_has_the_official_spread_and_no_bias() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3)
    scaled_kaiming_([layer, nn.PixelShuffle(2)], 0.1)
    # He et al. 2015: std = sqrt(2 / fan_in); 36864 samples lie within 2 % of it
    assert layer.weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / (64 * 9)), rel=0.02)
    assert not layer.bias.any()


def test_a_residual_block_adds_its_two_convolutions_to_the_input() -> None:
    block = ResidualBlockNoBN(2)
    nn.init.dirac_(block.conv1.weight)
    nn.init.dirac_(block.conv2.weight)
    x = torch.tensor([-1.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    torch.testing.assert_close(block(x), x + x.clamp(min=0))


def test_no_residual_blocks_are_the_identity() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(residual_blocks(0, 4)(x), x)
    assert list(residual_blocks(2, 4).state_dict())[:2] == ["0.conv1.weight", "0.conv1.bias"]


def test_the_base_is_made_of_the_first_channels_and_enlarged_about_pixel_centres() -> None:
    image = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 4, 2, 2)
    base = bilinear_base(image, 3, 2)
    assert base.shape == (1, 3, 4, 4)
    # outputs lie at -1/4, 1/4, 3/4, 5/4 of the two inputs 0 and 1
    torch.testing.assert_close(base[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert torch.equal(bilinear_base(image, 4, 1), image)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (4, 3), (1, 3), (1, 1)])
def test_channels_that_a_base_can_serve_pass(inputs: int, outputs: int) -> None:
    check_channels(inputs, outputs)
    total = torch.zeros(1, outputs, 4, 4) + bilinear_base(torch.zeros(1, inputs, 2, 2), outputs, 2)
    assert total.shape == (1, outputs, 4, 4)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 4), (3, 0), (0, 0)])
def test_channels_that_no_base_can_serve_are_refused(inputs: int, outputs: int) -> None:
    with pytest.raises(ValueError, match=rf"num_out_ch: expected 1 to num_in_ch \({inputs}\) channels, got {outputs}"):
        check_channels(inputs, outputs)


def test_the_argument_that_is_not_positive_is_named() -> None:
    check_positive(num_feat=1, num_frame=5)
    with pytest.raises(ValueError, match="num_frame: expected a number from 1 up, got 0"):
        check_positive(num_feat=8, num_frame=0)
