"""SpyNet: official numbers and keys, flows of images that the official one refuses, and flows along clips."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from golden import recipe
from golden.verify import build, check_outputs, manifest, state_of
from torch import Tensor

from vsr.archs import spynet
from vsr.archs.spynet import SpyNet


@pytest.fixture(scope="module")
def network() -> SpyNet:
    built = SpyNet().eval()
    recipe.load_into(built, strict=True)  # flows of 2 to 4 pixels
    return built


def test_keys_in_their_order_and_outputs_are_the_official_ones() -> None:
    network = build("spynet")
    assert state_of(network) == [tuple(entry) for entry in manifest("spynet")["state_dict"]]
    check_outputs(network, "spynet")


def read(image: Tensor, flow: Tensor) -> Tensor:
    """Backward warping with repeated borders, by indexing: image (c, h, w), flow (2, h, w)."""
    h, w = image.shape[1:]
    x = (torch.arange(w) + flow[0]).clamp(0, w - 1)
    y = (torch.arange(h)[:, None] + flow[1]).clamp(0, h - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=w - 1), (top + 1).clamp(max=h - 1)
    upper = image[:, top, left] * (1 - x + left) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - x + left) + image[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def by_the_paper(network: SpyNet, ref: Tensor, supp: Tensor) -> Tensor:
    """The flow of one pair (3, h, w), level by level, starting without motion at a 32nd of the size."""
    h, w = ref.shape[1:]
    size = (-(-h // 32) * 32, -(-w // 32) * 32)
    images = F.interpolate(torch.stack((ref, supp)), size=size, mode="bilinear")
    images = (images - network.mean) / network.std
    flow = torch.zeros(2, size[0] // 32, size[1] // 32)
    for level in range(6):
        first, second = F.adaptive_avg_pool2d(images, (size[0] // 2 ** (5 - level), size[1] // 2 ** (5 - level)))
        if level:
            flow = 2 * F.interpolate(flow[None], scale_factor=2, mode="bilinear", align_corners=True)[0]
        flow = flow + network.basic_module[level](torch.cat((first, read(second, flow), flow))[None])[0]
    flow = F.interpolate(flow[None], size=(h, w), mode="bilinear")[0]
    return flow * torch.tensor([w / size[1], h / size[0]]).view(2, 1, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 20), (32, 32), (20, 33), (64, 64), (37, 50)])
def test_images_of_any_size_have_a_flow_those_too_small_for_the_official_one_too(
    network: SpyNet, size: tuple[int, int]
) -> None:
    ref, supp = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, expected = network(ref[None], supp[None])[0], by_the_paper(network, ref, supp)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_flow_is_x_then_y_in_pixels_of_the_image_as_it_was() -> None:
    network = SpyNet()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    network.basic_module[0].basic_module[8].bias.data = torch.tensor([0.5, -0.25])
    flow = network(torch.rand(1, 3, 40, 20), torch.rand(1, 3, 40, 20))
    # 5 times doubled at 64x32, to which 40x20 was enlarged: times 20 / 32, and times 40 / 64
    torch.testing.assert_close(flow, torch.tensor([10.0, -5.0]).view(1, 2, 1, 1).expand(1, 2, 40, 20))


@pytest.mark.parametrize("pixels", [1, 2**20])
@pytest.mark.parametrize("frames", [2, 5])
def test_flows_along_a_clip_are_those_of_its_pairs(
    network: SpyNet, frames: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spynet.PAIR_PIXELS, "cpu", pixels)
    clip = torch.rand(2, frames, 3, 20, 40)
    with torch.no_grad():
        forward, backward = network.along(clip)
        assert forward.shape == backward.shape == (2, frames - 1, 2, 20, 40)
        for i in range(frames - 1):
            torch.testing.assert_close(forward[:, i], network(clip[:, i + 1], clip[:, i]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(backward[:, i], network(clip[:, i], clip[:, i + 1]), rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_frame_has_no_flows(network: SpyNet) -> None:
    assert [flow.shape for flow in network.along(torch.rand(2, 1, 3, 8, 9))] == [(2, 0, 2, 8, 9)] * 2


@pytest.mark.parametrize("half", [1, 2, 3, 4])
def test_a_mirrored_clip_has_the_same_flows_for_half_the_work(
    network: SpyNet, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = torch.rand(1, half, 3, 8, 8)
    clip = torch.cat((first, first.flip(1)), 1)
    pairs = []
    network.basic_module[0].register_forward_hook(lambda _, x, y: pairs.append(len(y)))
    with torch.no_grad():
        got = network.along(clip)
        monkeypatch.setattr(spynet, "_is_mirrored", lambda clip: False)
        for flow, expected in zip(got, network.along(clip), strict=True):
            torch.testing.assert_close(flow, expected)
    network.basic_module[0]._forward_hooks.clear()
    assert pairs == [2 * half, 2 * (2 * half - 1)]


def test_a_clip_is_mirrored_only_if_every_frame_of_every_sample_is() -> None:
    half = torch.rand(2, 3, 3, 4, 4)
    clip = torch.cat((half, half.flip(1)), 1)
    assert spynet._is_mirrored(clip)
    assert not spynet._is_mirrored(clip[:, 1:])
    for sample, frame in itertools.product(range(2), range(6)):
        other = clip.clone()
        other[sample, frame, 0, 0, 0] += 0.5
        assert not spynet._is_mirrored(other)


def test_flows_keep_their_fractions_at_half_precision(network: SpyNet) -> None:
    ref, supp = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        flow = network(ref, supp)
    assert flow.dtype == torch.float32
    assert (flow != flow.bfloat16().float()).any()


@pytest.mark.parametrize(
    ("ref", "supp"), [((1, 3, 8, 8), (1, 3, 8, 9)), ((1, 1, 8, 8), (1, 1, 8, 8)), ((3, 8, 8), (3, 8, 8))]
)
def test_images_that_make_no_pair_are_refused(network: SpyNet, ref: tuple[int, ...], supp: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ref, supp: expected two tensors \(b, 3, h, w\) of one shape, got"):
        network(torch.rand(ref), torch.rand(supp))
