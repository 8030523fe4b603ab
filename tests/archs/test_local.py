"""Local pooling: against means computed one by one, and the windows that networks get."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsr.archs.edvr import EDVR
from vsr.archs.local import LocalAvgPool2d, localize
from vsr.archs.nafnet import NAFNet


def means_one_by_one(x: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over the window around each pixel, moved inside where it would reach over the border."""
    out = torch.empty_like(x)
    for axis, length in ((2, window[0]), (3, window[1])):
        side = x.shape[axis]
        length = min(length, side)
        for place in range(side):
            # the first place whose window fits is (side - (side - length + 1)) // 2 = (length - 1) // 2
            first = min(max(place - (length - 1) // 2, 0), side - length)
            out.select(axis, place).copy_(x.narrow(axis, first, length).mean(axis))
        x = out.clone()
    return out


@pytest.mark.parametrize("window", [(3, 3), (4, 6), (1, 1), (20, 3), (5, 40), (8, 13)])
@pytest.mark.parametrize("size", [(9, 14), (10, 13)])
def test_each_mean_is_that_of_its_window(window: tuple[int, int], size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(LocalAvgPool2d(window=window)(x), means_one_by_one(x, window))


def test_a_window_that_covers_all_is_the_global_mean() -> None:
    x = torch.randn(2, 3, 9, 14)
    torch.testing.assert_close(LocalAvgPool2d(window=(9, 14))(x), x.mean((2, 3), keepdim=True))


def test_large_images_keep_their_precision() -> None:
    x = 100 + torch.rand(1, 1, 720, 640)
    got = LocalAvgPool2d(window=(24, 24))(x)[..., 300:303, 300:303]
    # the window of a place reaches 11 pixels before it and 12 behind
    expected = torch.stack(
        [x[0, 0, r - 11 : r + 13, c - 11 : c + 13].double().mean() for r in range(300, 303) for c in range(300, 303)]
    )
    torch.testing.assert_close(got.flatten().double(), expected, rtol=1e-5, atol=0)
    assert (LocalAvgPool2d(window=(24, 24))(x.bfloat16()).float() - 100.5).abs().max() < 1


def test_the_fast_way_gives_the_mean_of_what_does_not_change() -> None:
    pool = LocalAvgPool2d(window=(12, 12), max_stride=(5, 5))
    x = torch.full((1, 2, 40, 35), 3.0)
    torch.testing.assert_close(pool(x), x)
    assert pool(torch.rand(1, 2, 5, 40)).shape == (1, 2, 5, 40)  # one row of pixels is left: too few


def test_windows_are_one_and_a_half_times_the_features_of_a_training_crop() -> None:
    def windows(**local: Any) -> dict[str, tuple[int, int]]:
        network = NAFNet(width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1], local=local)
        return {n: m.window for n, m in network.named_modules() if isinstance(m, LocalAvgPool2d)}

    # feature sides: 30 and 90 padded to multiples of 4, halved at each level; times int(1.5 * side), over side
    expected = {
        0: (32 * 45 // 30, 92 * 135 // 90),
        1: (16 * 45 // 30, 46 * 135 // 90),
        2: (8 * 45 // 30, 23 * 135 // 90),
    }
    found = windows(train_size=[30, 90])
    assert found["encoders.0.0.sca.0"] == found["decoders.1.0.sca.0"] == expected[0]
    assert found["encoders.1.0.sca.0"] == found["decoders.0.0.sca.0"] == expected[1]
    assert found["middle_blks.0.sca.0"] == expected[2]
    assert windows(train_size=[4, 3, 32, 32], ratio=2.0)["encoders.0.0.sca.0"] == (64, 64)


class Squeeze(nn.Module):
    """Some network with global pooling that knows nothing of local pooling."""

    def __init__(self, *, clips: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x[:, 0] if self.clips else x)
        return features * self.attention(features)


@pytest.mark.parametrize("clips", [False, True])
def test_any_network_with_global_pooling_can_be_made_local(clips: bool) -> None:
    network = Squeeze(clips=clips)
    keys, shape = list(network.state_dict()), (1, 2, 3, 16, 24) if clips else (1, 3, 16, 24)
    assert localize(network, shape) is network
    assert list(network.state_dict()) == keys
    assert network.attention[0].window == (12, 18)
    x = torch.rand(1, 2, 3, 64, 64) if clips else torch.rand(1, 3, 64, 64)
    features = network.conv(x[:, 0] if clips else x)
    expected = features * network.attention[1](means_one_by_one(features, (12, 18)))
    torch.testing.assert_close(network(x), expected)


def test_no_weights_are_needed_and_none_are_changed() -> None:
    with torch.device("meta"):
        network = localize(Squeeze(), (1, 3, 16, 16))
    assert network.get_submodule("attention.0").window == (12, 12)
    real = Squeeze()
    before = [p.clone() for p in real.parameters()]
    localize(real, (1, 3, 16, 16))
    assert all(torch.equal(a, b) and b.device.type == "cpu" for a, b in zip(before, real.parameters(), strict=True))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 16, 16), {}, r"local: expected a train_size of positive numbers and a ratio above 0, got \[3, 16, 16\]"),
        ((1, 3, 0, 16), {}, "local: expected a train_size of positive numbers"),
        ((1, 3, 16, 16), {"ratio": 0}, "a ratio above 0, got .* and 0"),
    ],
)
def test_sizes_that_make_no_window_are_refused(shape: tuple[int, ...], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localize(Squeeze(), shape, **options)


def test_no_window_is_less_than_a_pixel() -> None:
    network = NAFNet(width=4, enc_blk_nums=[1], dec_blk_nums=[1], local={"train_size": [4, 4], "ratio": 0.1})
    windows = {module.window for module in network.modules() if isinstance(module, LocalAvgPool2d)}
    assert windows == {(1, 1)}
    assert network(torch.rand(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize(
    "local",
    [
        [8, 8],
        {},
        {"train_size": 8},
        {"train_size": [8]},
        {"train_size": "88"},
        {"train_size": [8.5, 8]},
        {"train_size": [8, 8], "ratio": "2"},
        {"train_size": [8, 8], "ratio": float("nan")},
        {"train_size": [8, 8], "ratio": float("inf")},
        {"train_size": [8, 8], "fast_imp": "no"},
        {"train_size": [8, 8], "fast": True},
    ],
)
def test_an_option_that_says_no_window_is_refused(local: Any) -> None:
    with pytest.raises(ValueError, match=r"local: expected (a )?train_size"):
        NAFNet(width=4, local=local)


def test_a_network_without_global_pooling_is_refused() -> None:
    network = EDVR(num_feat=8, num_frame=3, deformable_groups=2, num_extract_block=0, num_reconstruct_block=0)
    with pytest.raises(ValueError, match="expected a network with global average pooling, got a EDVR without"):
        localize(network, (1, 3, 3, 16, 16))
