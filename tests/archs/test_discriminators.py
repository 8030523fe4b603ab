"""The discriminators: official numbers, what training changes in them, and what they refuse."""

import pytest
import torch
from golden.verify import build, check_outputs, manifest, model_ids, state_of
from torch import nn

from vsr.archs.discriminators import SpectralConv2d, UNetDiscriminatorSN, VGGStyleDiscriminator

# Outputs of the golden files beside the scores: what a forward pass in training mode leaves in the network.
TRAINED = {
    "vggd_tiny_128_trainmode": {
        "running_mean_bn0_1": "bn0_1.running_mean",
        "running_var_bn3_0": "bn3_0.running_var",
        "num_batches_bn0_1": "bn0_1.num_batches_tracked",
    },
    "unetd_tiny_trainmode": {"conv1_weight_u": "conv1.weight_u", "conv8_weight_v": "conv8.weight_v"},
}


@pytest.mark.parametrize("model_id", [*model_ids("vggd"), *model_ids("unetd")])
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id, TRAINED.get(model_id))


def test_spectral_norm_is_that_of_pytorch_step_by_step() -> None:
    torch.manual_seed(0)
    own = SpectralConv2d(3, 6, 4, stride=2)
    theirs = nn.utils.spectral_norm(nn.Conv2d(3, 6, 4, 2, 1, bias=False))
    theirs.load_state_dict(own.state_dict())
    for _ in range(3):
        x = torch.randn(1, 3, 8, 8)
        first, second = own(x), theirs(x)
        torch.testing.assert_close(first, second)
        first.square().sum().backward()
        second.square().sum().backward()
    torch.testing.assert_close(own.weight_orig.grad, theirs.weight_orig.grad)
    torch.testing.assert_close(own.weight_u, theirs.weight_u)


def test_many_steps_find_the_greatest_singular_value() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(4, 8, 3)
    for _ in range(200):
        layer(torch.zeros(1, 4, 3, 3))
    matrix = layer.weight_orig.detach().flatten(1)
    sigma = layer.weight_u @ matrix @ layer.weight_v
    torch.testing.assert_close(sigma, torch.linalg.svdvals(matrix)[0])


def test_a_u_net_judges_a_padded_image_and_crops_the_map() -> None:
    torch.manual_seed(0)
    network = UNetDiscriminatorSN(num_feat=4).eval()
    x = torch.rand(1, 3, 13, 18)
    mirrored = torch.cat((x, x[..., -7:-1].flip(-1)), -1)
    mirrored = torch.cat((mirrored, mirrored[..., -4:-1, :].flip(-2)), -2)
    assert mirrored.shape == (1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(mirrored)[..., :13, :18])


def test_skip_connections_can_be_left_out() -> None:
    torch.manual_seed(0)
    network = UNetDiscriminatorSN(num_feat=4).eval()
    plain = UNetDiscriminatorSN(num_feat=4, skip_connection=False).eval()
    plain.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 16, 16)
    assert not torch.allclose(network(x), plain(x))


def test_images_of_256_pixels_get_one_level_more() -> None:
    network = VGGStyleDiscriminator(num_in_ch=1, num_feat=2, input_size=256).eval()
    assert network(torch.rand(1, 1, 256, 256)).shape == (1, 1)
    assert network.conv5_1.weight.shape == (16, 16, 4, 4)  # eight times num_feat


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (VGGStyleDiscriminator, {"input_size": 64}, "input_size: expected 128 or 256, got 64"),
        (VGGStyleDiscriminator, {"num_feat": 0}, "num_feat: expected a number from 1 up, got 0"),
        (UNetDiscriminatorSN, {"num_in_ch": 0}, "num_in_ch: expected a number from 1 up, got 0"),
    ],
)
def test_arguments_that_make_no_network_are_named(
    cls: type[nn.Module], arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_an_image_of_another_size_is_refused_with_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"expected sides of 128, got \(128, 96\). Set input_size, and gt_size"):
        VGGStyleDiscriminator(num_feat=2)(torch.rand(1, 3, 128, 96))
