"""What networks share: residual blocks, the bilinear base, checks of arguments."""

import math

import pytest
import torch
from torch import nn

from vsr.archs.blocks import (
    ResidualBlockNoBN,
    Upsample,
    bilinear_base,
    channel_mean,
    check_channels,
    check_images,
    check_positive,
    checkpoint_activations,
    pad_to_multiple,
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


def test_a_residual_block_may_add_less_and_keep_the_weights_of_pytorch() -> None:
    torch.manual_seed(0)
    block = ResidualBlockNoBN(16, res_scale=0.5, pytorch_init=True)
    assert block.conv1.bias.any()  # PyTorch draws biases, too
    x = torch.randn(1, 16, 3, 3)
    torch.testing.assert_close(block(x), x + 0.5 * block.conv2(block.conv1(x).relu()))


@pytest.mark.parametrize(("scale", "steps"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, 3)])
def test_upsampling_takes_steps_of_two_or_one_of_three(scale: int, steps: int) -> None:
    upsample = Upsample(scale, 4)
    assert len(upsample) == 2 * steps  # a convolution and a shuffle each
    assert upsample(torch.rand(1, 4, 3, 5)).shape == (1, 4, 3 * scale, 5 * scale)


def test_a_mean_colour_has_a_value_for_each_channel_or_one_for_all() -> None:
    assert channel_mean([0.1, 0.2], 2).flatten().tolist() == pytest.approx([0.1, 0.2])
    assert channel_mean([0.5], 3).shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"rgb_mean: expected 4 values, .* got 3"):
        channel_mean([0.1, 0.2, 0.3], 4)


def test_padding_mirrors_and_repeats_where_there_is_nothing_to_mirror() -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 1, 1, 5)
    padded = pad_to_multiple(row, 4)
    assert padded.shape == (1, 1, 4, 8)
    assert padded[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 4, 3, 2]
    assert torch.equal(padded[0, 0, 3], padded[0, 0, 0])
    assert pad_to_multiple(padded, 4) is padded


def test_only_batches_of_images_with_the_right_channels_pass() -> None:
    check_images(torch.rand(1, 3, 2, 2), 3)
    for shape in ((1, 1, 2, 2), (3, 2, 2), (1, 5, 3, 2, 2)):
        with pytest.raises(ValueError, match=r"x: expected \(b, 3, h, w\), got"):
            check_images(torch.rand(shape), 3)


def test_asking_twice_for_recomputed_activations_recomputes_them_once() -> None:
    calls = []

    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            return x * x

    network = nn.Sequential(Block())
    network.checkpointed = (Block,)
    checkpoint_activations(network)
    checkpoint_activations(network)
    network(torch.ones(2, requires_grad=True)).sum().backward()
    assert len(calls) == 2  # forward, and once more for the backward pass
