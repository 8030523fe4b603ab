"""Window networks whose features are computed once a frame."""

import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from vsr.archs.edvr import EDVR
from vsr.inference import infer, restore
from vsr.inference.features import with_kept_features

SMALL = {"num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}


class Counting(nn.Module):
    """A window network that knows how many frames it extracted: the sum of a window's features."""

    temporal, num_frame, num_in_ch, center_frame_idx, scale = "window", 5, 3, 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.extracted = 0
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def forward(self, x: Tensor) -> Tensor:
        features = [f.unflatten(0, x.shape[:2]) for f in self.extract(x.flatten(0, 1))]
        return self.reconstruct(features, x[:, 2])

    def extract(self, frames: Tensor) -> list[Tensor]:
        self.extracted += len(frames)
        features = [2 * frames, 3 * frames]
        self.alive.update(features)
        return features

    def reconstruct(self, pyramid: Sequence[Tensor], center: Tensor) -> Tensor:
        return pyramid[0].sum(1) + pyramid[1].amax(1) + center


def plain(network: nn.Module, clip: Tensor) -> Tensor:
    """What the network gives without being told apart."""

    class Plain(nn.Module):
        temporal, scale = "window", getattr(network, "scale", 1)
        num_frame = network.num_frame
        size_multiple = getattr(network, "size_multiple", 1)

        def forward(self, x: Tensor) -> Tensor:
            return network(x)

    return restore(Plain(), clip)


def test_every_frame_is_extracted_once_and_the_result_is_the_same() -> None:
    clip = torch.rand(12, 3, 4, 4)
    network = Counting()
    expected = plain(network, clip)
    network.extracted = 0
    torch.testing.assert_close(restore(network, clip), expected)
    assert network.extracted == 12


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_edvr_restores_the_same_video(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = EDVR(**SMALL).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    clip = torch.rand(6, 3, *size)
    torch.testing.assert_close(restore(network, clip), plain(network, clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"tile": 4, "tile_overlap": 2}, {"self_ensemble": True}])
def test_parts_and_views_of_frames_are_computed_anew(options: dict) -> None:
    network = Counting()
    views = 8 if "self_ensemble" in options else 9  # 3 x 3 tiles at 2 pixels' distance
    restore(network, torch.rand(5, 3, 8, 8), **options)
    assert network.extracted == 5 * 5 * views


def test_only_the_features_of_one_window_and_of_the_next_are_held() -> None:
    network = Counting()

    def frames() -> Iterator[Tensor]:
        for i in range(30):
            yield torch.full((3, 4, 4), float(i))

    for i, _ in enumerate(restore(network, frames())):
        assert len(network.alive) <= 2 * 5, i
    assert i == 29


def test_equal_frames_are_one_frame() -> None:
    network = Counting()
    restore(network, torch.zeros(9, 3, 4, 4))
    assert network.extracted == 1


def test_frames_that_changed_are_not_taken_for_those_before() -> None:
    network = Counting()
    called = with_kept_features(network)
    window = torch.rand(1, 5, 3, 4, 4)
    called(window)
    window[0, 2, 0, 0, 0] += 1  # in the memory where the first window was
    torch.testing.assert_close(called(window), network(window))
    other = torch.rand(1, 5, 3, 6, 4)
    torch.testing.assert_close(called(other), network(other))


def test_several_windows_at_once_go_to_the_network_as_they_are() -> None:
    network, windows = Counting(), torch.rand(2, 5, 3, 4, 4)
    torch.testing.assert_close(with_kept_features(network)(windows), network(windows))


def test_what_edvr_refuses_it_refuses_here_too() -> None:
    called = with_kept_features(EDVR(**SMALL).eval())
    for shape in ((1, 5, 3, 8, 8), (1, 3, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"x: expected \(b, 3, 3, h, w\), got"):
            infer(called, torch.rand(shape))


def test_networks_without_features_are_called_as_they_are() -> None:
    network = nn.Identity()
    assert with_kept_features(network) is network
    compiled = torch.compile(Counting(), backend="eager")
    assert with_kept_features(compiled) is compiled
