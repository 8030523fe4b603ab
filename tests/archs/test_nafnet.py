"""NAFNet: official numbers and keys, the variants, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of
from torch import Tensor, nn

from vsr.archs.nafnet import (
    DepthwiseOverConv2d,
    EfficientChannelAttention,
    FFTBlock,
    LayerNorm2d,
    NAFNet,
    NAFNetLocal,
    fold,
    simple_gate,
)
from vsr.ops import naf_block

SMALL: dict[str, Any] = {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
LARGE = ["nafnet_gopro_w32", "nafnet_sidd_w32", "nafnetlocal_gopro_w32"]


def randomised(network: nn.Module) -> nn.Module:
    """Give every parameter a value that matters: new blocks start as the identity (beta and gamma are 0)."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(
    "model_id",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in model_ids("nafnet")
     if not name.startswith("nafnetsr")],
)  # fmt: skip
def test_keys_and_outputs_are_the_official_ones(model_id: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(naf_block, "usable", lambda x: False)
    network, facts = build(model_id), manifest(model_id)
    assert [list(entry) for entry in state_of(network)] == facts["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    check_outputs(network, model_id)
    for window, names in facts.get("tlc_kernel_sizes", {}).items():
        for name in (n for n in names if not n.startswith("...")):
            assert str(list(network.get_submodule(name).window)) == window


@pytest.mark.parametrize(
    ("width", "encoder", "middle", "decoder", "parameters"),
    [  # of the official classes with the arguments of the official option files
        (32, [1, 1, 1, 28], 1, [1, 1, 1, 1], 17_111_907),
        (32, [2, 2, 4, 8], 12, [2, 2, 2, 2], 29_159_715),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(
    width: int, encoder: list[int], middle: int, decoder: list[int], parameters: int
) -> None:
    with torch.device("meta"):
        network = NAFNet(width=width, enc_blk_nums=encoder, middle_blk_num=middle, dec_blk_nums=decoder)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_norm_is_over_channels() -> None:
    norm, x = LayerNorm2d(5), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    norm.double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    centred = x - x.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), normal * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1))


def test_the_gate_multiplies_the_first_half_by_the_second() -> None:
    x = torch.tensor([2.0, 3.0, 5.0, 7.0]).view(1, 4, 1, 1)
    assert simple_gate(x).flatten().tolist() == [10.0, 21.0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (8, 3)])
@pytest.mark.parametrize("options", [{}, {"skip": "fft"}], ids=str)
def test_any_size_and_number_of_channels_passes(channels: int, size: tuple[int, int], options: dict[str, Any]) -> None:
    network = randomised(NAFNet(**SMALL, **options, img_channel=channels))
    assert network(torch.rand(2, channels, *size)).shape == (2, channels, *size)


def test_padding_is_with_zeros_at_the_far_ends() -> None:
    network, x = randomised(NAFNet(**SMALL)), torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(network(x), network(F.pad(x, (0, 1, 0, 2)))[..., :6, :7])


def test_a_new_network_is_the_ending_of_its_frame_only() -> None:
    network, x = NAFNet(**SMALL), torch.rand(1, 3, 8, 8)
    nn.init.zeros_(network.ending.weight)
    nn.init.zeros_(network.ending.bias)
    assert torch.equal(network(x), x)


# ---- variants


@pytest.mark.parametrize(
    # k = |log2(c) + 1| / 2, cut to a whole number, made odd upwards: 2 -> 3, 3 -> 3, 3.5 -> 3, 4 -> 5, 4.5 -> 5, 5 -> 5
    ("channels", "size"), [(8, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1, 1), (2, 1)]
)  # fmt: skip
def test_the_kernel_of_efficient_attention_grows_with_the_channels(channels: int, size: int) -> None:
    attention = EfficientChannelAttention(channels)
    assert [tuple(p.shape) for p in attention.parameters()] == [(1, 1, size)]


def test_efficient_attention_looks_at_neighbouring_channels() -> None:
    attention = EfficientChannelAttention(8)
    with torch.no_grad():
        attention.conv.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]]]))
    x = torch.arange(1.0, 9.0).view(1, 8, 1, 1).expand(1, 8, 2, 3)
    weights = attention(x)
    assert weights.shape == (1, 8, 1, 1)
    # channel i (value i + 1): 1 * the one before, 10 * its own, 100 * the one after; zeros beyond the ends
    expected = [1 * i + 10 * (i + 1) + 100 * ((i + 2) % 9) for i in range(8)]
    torch.testing.assert_close(weights.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_without_weights_the_spectrum_adds_nothing(size: tuple[int, int]) -> None:
    block, x = FFTBlock(4), torch.randn(2, 4, *size)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), x)


def test_a_spectrum_that_passes_unchanged_doubles_the_image() -> None:
    block = FFTBlock(2).double()
    with torch.no_grad():  # both convolutions are the identity, and a large bias keeps ReLU away from what passes
        for conv, bias in ((block.conv1, 1e3), (block.conv2, -1e3)):
            conv.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
            conv.bias.fill_(bias)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), 2 * x)


@pytest.mark.parametrize("half", ["autocast", "converted"])
def test_the_fft_skip_bears_half_precision(half: str) -> None:
    network, x = randomised(NAFNet(**SMALL, skip="fft")), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
            out = network(x) if half == "autocast" else network.bfloat16()(x.bfloat16())
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def test_a_new_over_parameterised_convolution_is_an_ordinary_one() -> None:
    conv, x = DepthwiseOverConv2d(4), torch.randn(1, 4, 5, 6)
    expected = F.conv2d(x, conv.W.view(4, 1, 3, 3), conv.bias, padding=1, groups=4)
    torch.testing.assert_close(conv(x), expected)


def test_its_kernel_is_the_product_of_its_matrices() -> None:
    conv = DepthwiseOverConv2d(3).double()
    nn.init.normal_(conv.D)
    for channel in range(3):
        expected = (torch.eye(9, dtype=torch.float64) + conv.D[channel]) @ conv.W[channel, 0]
        torch.testing.assert_close(conv.kernel()[channel, 0].flatten(), expected)


def test_folding_keeps_outputs_and_gives_the_keys_of_a_plain_network() -> None:
    network, x = randomised(NAFNet(**SMALL, depthwise="doconv")), torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        expected = network(x)
        assert fold(network) is network
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)
    plain = NAFNet(**SMALL)
    assert [list(e) for e in state_of(network)] == [list(e) for e in state_of(plain)]
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-5)
    assert all(p.requires_grad for p in network.parameters())


def test_both_factors_of_a_kernel_learn() -> None:
    network = randomised(NAFNet(**SMALL, depthwise="doconv")).train()
    network(torch.rand(1, 3, 8, 8)).square().sum().backward()
    convs = [m for m in network.modules() if isinstance(m, DepthwiseOverConv2d)]
    assert len(convs) == 5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for conv in convs for p in (conv.W, conv.D, conv.bias))


def test_the_variants_change_the_output_and_only_their_own_parameters() -> None:
    plain = NAFNet(**SMALL)
    keys = set(plain.state_dict())
    for options, missing, added in (
        ({"attention": "none"}, "sca.", None),
        ({"attention": "eca"}, "sca.", "sca.conv.weight"),
        ({"skip": "fft"}, None, "skips."),
        ({"depthwise": "doconv"}, "conv2.weight", "conv2."),
    ):
        own = set(NAFNet(**SMALL, **options).state_dict())
        assert all(missing is not None and missing in key for key in keys - own), options
        assert all(added is not None and added in key for key in own - keys), options
        assert own != keys


def test_without_attention_channels_are_not_weighed() -> None:
    sca, none = randomised(NAFNet(**SMALL)), NAFNet(**SMALL, attention="none").eval()
    none.load_state_dict({k: v for k, v in sca.state_dict().items() if "sca" not in k})
    for block in (m for m in sca.modules() if hasattr(m, "sca")):
        nn.init.zeros_(block.sca[1].weight)
        nn.init.ones_(block.sca[1].bias)
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(sca(x), none(x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"attention": "eca", "depthwise": "doconv"}], ids=str)
def test_inductor_compiles_it_into_one_graph(options: dict[str, Any]) -> None:
    network, x = randomised(NAFNet(**SMALL, **options)), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(network, fullgraph=True)(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dec_blk_nums": [1]}, r"dec_blk_nums: expected as many levels as enc_blk_nums has \(2\), got 1"),
        ({"middle_blk_num": -1}, "numbers of blocks from 0 up"),
        ({"width": 0}, "width: expected a number from 1 up, got 0"),
        ({"attention": "se"}, "attention: expected one of sca, eca, none, got 'se'"),
        ({"skip": "dct"}, "skip: expected one of identity, fft, got 'dct'"),
        ({"depthwise": "conv2d"}, "depthwise: expected one of conv, doconv"),
        ({"local": {"ratio": 2}}, r"local: expected train_size: \[h, w\]"),
        ({"local": {"train_size": [64, 64], "rate": 2}}, r"local: expected train_size: \[h, w\]"),
        ({"local": {"train_size": [64, 64]}, "attention": "none"}, "global average pooling, got a NAFNet without"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAFNet(**(SMALL | arguments))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 2, 3, 8, 8)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(b, 3, h, w\), got"):
        NAFNet(**SMALL)(torch.rand(shape))


def test_the_local_network_is_the_plain_one_with_an_option() -> None:
    local = randomised(NAFNetLocal(**SMALL, train_size=[1, 3, 8, 8]))
    same = NAFNet(**SMALL, local={"train_size": [8, 8]}).eval()
    same.load_state_dict(local.state_dict())
    x: Tensor = torch.rand(1, 3, 20, 24)
    assert torch.equal(same(x), local(x))
    plain = NAFNet(**SMALL).eval()
    plain.load_state_dict(local.state_dict())
    assert not torch.allclose(plain(x), local(x), atol=1e-5)
