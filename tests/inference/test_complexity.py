"""Costs of networks: against sums done by hand, the official networks' figures, and PyTorch's own counter."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import manifest
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vsr
from vsr.inference.complexity import complexity, input_channels, input_shapes, usual_size
from vsr.ops.deform_conv import ModulatedDeformConv2d


class Single(nn.Module):
    """A module as a network: images of its number of channels go in."""

    def __init__(self, layer: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.layer, self.num_in_ch = layer, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return F.scaled_dot_product_attention(tokens, tokens, tokens) + (tokens @ tokens.mT) @ tokens


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, x.new_zeros(1, 18, *x.shape[2:]), x.new_ones(1, 9, *x.shape[2:]))


class Rows(nn.Linear):
    """Linear over the columns of an image."""


# Inputs are 1 x 4 x 6 x 8: 48 pixels.
@pytest.mark.parametrize(
    ("layer", "macs_of", "activations"),
    [
        (nn.Conv2d(4, 10, 3, padding=1), {"convolution": 48 * 10 * 4 * 9}, 48 * 10),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), {"convolution": 48 * 8 * 2 * 9}, 48 * 8),
        (nn.Conv2d(4, 10, (1, 5), stride=2), {"convolution": 3 * 2 * 10 * 4 * 5}, 3 * 2 * 10),
        (nn.ConvTranspose2d(4, 5, 4, stride=2, padding=1), {"convolution": 48 * 4 * 5 * 16}, 4 * 48 * 5),
        (Rows(8, 7), {"linear": 4 * 6 * 8 * 7}, 4 * 6 * 7),
        (Rows(8, 7, bias=False), {"linear": 4 * 6 * 8 * 7}, 4 * 6 * 7),
        (Attention(), {"attention": 4 * (48 * 48 * 4)}, 0),  # two products of each attention
        (Deformed(), {"deformable": 48 * 6 * 4 * 9}, 48 * 6),
        (nn.Sequential(nn.ReLU(), nn.PixelShuffle(2), nn.Upsample(scale_factor=2)), {}, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_costs_are_the_sums_of_the_textbook(layer: nn.Module, macs_of: dict[str, int], activations: int) -> None:
    cost = complexity(Single(layer), (6, 8))
    assert cost.macs_of == macs_of
    assert cost.macs == sum(macs_of.values())
    assert cost.activations == activations
    assert cost.parameters == sum(p.numel() for p in layer.parameters())
    assert cost.inputs == ((1, 4, 6, 8),)


@pytest.mark.parametrize("model_id", ["msrresnet_x4", "edvr_M_x4", "nafnet_gopro_w32", "nafssr_T_x4"])
def test_convolutions_cost_what_those_of_the_official_networks_do(model_id: str) -> None:
    official = manifest(model_id)
    cost = vsr.complexity({"type": official["arch"], **official["kwargs"]}, official["macs"]["input"][-2:])
    assert cost.inputs == (tuple(official["macs"]["input"]),)
    # the count of the goldens takes deformable convolutions in, and leaves products of attention out
    convolutions = cost.macs_of["convolution"] + cost.macs_of.get("deformable", 0)
    assert convolutions == official["macs"]["own_count_conv_only"]
    assert cost.parameters == official["num_params"]


SWINIR: dict[str, Any] = {"type": "SwinIR", "img_size": 8, "embed_dim": 8, "depths": [2], "num_heads": [2]}
SWINIR |= {"window_size": 4, "upscale": 2, "upsampler": "pixelshuffle"}


def test_the_count_without_calculation_is_pytorchs_count_of_a_real_pass() -> None:
    network = vsr.build_network(SWINIR).eval()
    # PyTorch counts no fused attention on a CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, 13, 17))
    cost = complexity(network, (13, 17))
    assert cost.macs == counter.get_total_flops() / 2  # it counts multiplications and additions
    assert set(cost.macs_of) == {"convolution", "linear", "attention"}
    assert complexity(SWINIR, (13, 17)) == cost


def test_counting_leaves_the_network_as_it_was() -> None:
    network = vsr.build_network({"type": "VGGStyleDiscriminator", "num_feat": 2})
    network.conv0_0.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    complexity(network, memory=True)
    assert network.training
    assert not network.conv0_0.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in network.parameters())


class Chain(nn.Module):
    """Allocates an image three times, of which two are alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor
        x = x + 1
        return x.square()


def test_peak_memory_is_what_is_alive_together() -> None:
    image = 3 * 256 * 128 * 4
    assert complexity(Chain(), (256, 128), memory=True).memory == pytest.approx(2 * image, rel=0.01)
    assert complexity(Chain(), (256, 128)).memory is None


def test_frames_and_inputs_are_those_that_the_kind_of_network_takes() -> None:
    window, flow = vsr.build_network({"type": "EDVR", "num_frame": 3}), vsr.build_network({"type": "SpyNet"})
    assert input_shapes(window, (8, 12)) == ((1, 3, 3, 8, 12),)
    assert input_shapes(flow, (8, 12)) == ((1, 3, 8, 12), (1, 3, 8, 12))
    clip = complexity("BasicVSR", (64, 64), num_frame=2)
    assert clip.inputs == ((1, 2, 3, 64, 64),)
    assert clip.output == (1, 2, 3, 256, 256)
    assert clip.frames == 2


def test_a_network_says_what_it_takes_and_can_and_a_module_that_says_nothing_takes_anything() -> None:
    cost = complexity({"type": "RRDBNet", "scale": 1, "num_feat": 4, "num_block": 1, "num_grow_ch": 2}, (8, 12))
    assert (cost.size_multiple, cost.min_size, cost.channels_last, cost.checkpointing) == (4, 4, True, True)
    cost = complexity(Chain(), (8, 12))
    assert (cost.size_multiple, cost.min_size, cost.channels_last, cost.checkpointing) == (1, 1, False, False)


@pytest.mark.parametrize(
    ("option", "size"),
    [
        ({"type": "EDSR"}, (64, 64)),
        ({"type": "RRDBNet", "scale": 1}, (256, 256)),
        ({"type": "SwinIR", "upscale": 3, "upsampler": "pixelshuffledirect"}, (64, 64)),
        ({"type": "VGGStyleDiscriminator", "input_size": 256}, (256, 256)),
        ({"type": "UNetDiscriminatorSN"}, (64, 64)),
    ],
)
def test_the_usual_size_is_small_where_the_network_enlarges(option: dict[str, Any], size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = vsr.build_network(option)
    assert usual_size(network) == size


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size: expected a height and a width, got 64\."):
        complexity("EDSR", (64,))
    with pytest.raises(ValueError, match=r"size: expected a height and a width, got 0 64\."):
        complexity("EDSR", (0, 64))
    with pytest.raises(ValueError, match="expected sides that are multiples of 4"):
        complexity("EDVR", (63, 64))
    with pytest.raises(ValueError, match="num_frame: expected a number from 1 up, got 0"):
        complexity("BasicVSR", num_frame=0)
    with pytest.raises(ValueError, match="unknown network 'EDSRR'"):
        complexity("EDSRR")


@pytest.mark.parametrize(
    ("option", "channels"),
    [
        ({"type": "NAFNet", "img_channel": 1, "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1]}, 1),
        ({"type": "NAFSSR", "img_channel": 1, "width": 4, "num_blks": 1}, 2),
        ({"type": "NAFNetSR", "dual": True, "width": 4, "num_blks": 1}, 6),
        ({"type": "EDSR", "num_in_ch": 4, "rgb_mean": [0.5], "num_feat": 4, "num_block": 1}, 4),
        ({"type": "SwinIR", "in_chans": 1, "embed_dim": 4, "depths": [1], "num_heads": [1]}, 1),
    ],
)
def test_the_input_has_the_channels_that_the_network_takes(option: dict[str, Any], channels: int) -> None:
    assert input_channels(vsr.build_network(option)) == channels
    assert complexity(option).inputs[0][1] == channels


def test_filters_whose_kernels_are_computed_are_counted_by_their_taps() -> None:
    """By hand: 3 colours x pixels of the result x taps x 3 frames; stage 1 of FMA-Net needs the sharp frames, too."""
    small = {"dim": 12, "ds_kernel_size": 6, "us_kernel_size": 3, "num_RDB": 1, "num_flow": 2, "num_FRMA": 1}
    option = {"type": "FMANet", **small, "num_heads": 2, "scale": 2}
    first, second = (complexity({**option, "stage": stage}, (8, 10)) for stage in (1, 2))
    assert first.inputs == ((1, 3, 3, 8, 10), (1, 3, 3, 16, 20))
    assert first.output == (1, 3, 8, 10)
    assert first.macs_of["dynamic filter"] == 4 * 8 * 10 * 6**2 * 3  # colours, and their mask
    assert second.inputs == ((1, 3, 3, 8, 10),)
    assert second.output == (1, 3, 16, 20)
    assert second.macs_of["dynamic filter"] == 3 * 16 * 20 * 3**2 * 3
