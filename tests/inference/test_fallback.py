"""Frames that do not fit into memory are restored in tiles; what comes out is what those tiles give when asked for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.inference import Tiling, infer, restore


class Limited(nn.Module):
    """Smooths frames, x2; refuses inputs of more pixels than ``most`` as an exhausted device does."""

    temporal, scale = "image", 2

    def __init__(self, most: int, error: Exception | None = None) -> None:
        super().__init__()
        self.most, self.error = most, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.most:
            raise self.error
        frames = x.reshape(-1, *x.shape[-3:])
        smooth = F.interpolate(F.avg_pool2d(frames, 5, 1, 2), scale_factor=2)
        return smooth.reshape(*x.shape[:-2], *smooth.shape[-2:])


class LimitedClip(Limited):
    temporal = "clip"


class LimitedWindow(Limited):
    """A window network whose features are kept while frames are whole."""

    temporal, num_frame, num_in_ch, center_frame_idx = "window", 3, 3, 1

    def extract(self, frames: Tensor) -> list[Tensor]:
        return [super().forward(frames)]

    def reconstruct(self, pyramid: Any, center: Tensor) -> Tensor:
        return pyramid[0].mean(1) + F.interpolate(center, scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.reconstruct([torch.stack([self.extract(f)[0] for f in x.unbind(1)], 1)], x[:, 1])


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    caplog.set_level("WARNING", logger="vsr")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.fault
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_tiles_are_halved_until_they_fit_and_that_size_is_kept(error: Exception, warnings: Any) -> None:
    network, tiling = Limited(90 * 90, error), Tiling(shrink=True, option="val.tile")
    frames = torch.rand(2, 3, 150, 300, generator=torch.Generator().manual_seed(0))
    result = restore(network, frames, tiling=tiling)
    assert tiling.tile == 75  # 300 -> 150 -> 75
    assert network.sizes[:3] == [(150, 300), (150, 150), (75, 75)]
    assert (150, 300) not in network.sizes[1:], "the second frame begins with the size that has proved to fit"
    assert torch.equal(result, restore(Limited(10**9), frames, tile=75))
    told = warnings()
    assert len(told) == 2
    assert "Set val.tile: 150 to begin with them" in told[0]
    assert "Set val.tile: 75 to begin with them" in told[1]


def test_clips_and_the_views_of_a_self_ensemble_fall_back_alike() -> None:
    clip = torch.rand(3, 3, 128, 140, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"self_ensemble": True}, {"chunk": 2, "chunk_overlap": 1}):
        tiling = Tiling(shrink=True)
        result = restore(LimitedClip(100 * 100), clip, tiling=tiling, **options)
        assert tiling.tile == 70
        assert torch.equal(result, restore(LimitedClip(10**9), clip, tile=70, **options))


def test_windows_with_kept_features_fall_back_to_tiles_without() -> None:
    clip = torch.rand(4, 3, 128, 140, generator=torch.Generator().manual_seed(2))
    tiling = Tiling(shrink=True)
    result = restore(LimitedWindow(100 * 100), clip, tiling=tiling)
    assert torch.equal(result, restore(LimitedWindow(10**9), clip, tile=70))


@pytest.mark.fault
def test_there_is_an_end_to_halving() -> None:
    network = Limited(0)
    with pytest.raises(RuntimeError, match=r"val\.tile: expected memory for tiles of 75 pixels of frames of"):
        restore(network, torch.rand(1, 3, 300, 300), tiling=Tiling(shrink=True, option="val.tile"))
    assert network.sizes == [(300, 300), (150, 150), (75, 75)]
    small = Limited(0)
    with pytest.raises(RuntimeError, match="expected memory for the whole of frames of"):
        restore(small, torch.rand(1, 3, 60, 100), tiling=Tiling(shrink=True))
    assert small.sizes == [(60, 100)]


@pytest.mark.parametrize(("multiple", "overlap", "tile"), [(1, 16, 65), (8, 16, 72), (64, 16, None), (1, 40, None)])
def test_tiles_stay_multiples_and_larger_than_what_they_share(multiple: int, overlap: int, tile: int | None) -> None:
    network, tiling = Limited(100 * 100), Tiling(overlap=overlap, shrink=True)
    network.size_multiple = multiple
    x = torch.rand(1, 3, 130, 130)
    if tile is None:
        with pytest.raises(RuntimeError, match="expected memory"):
            restore(network, x, tiling=tiling)
        return
    restore(network, x, tiling=tiling)
    assert tiling.tile == tile


def test_other_errors_and_tiles_that_were_not_to_shrink_are_no_reason_to_try_again() -> None:
    for network, tiling, error in (
        (Limited(0, RuntimeError("shapes cannot be multiplied")), Tiling(shrink=True), "multiplied"),
        (Limited(0), Tiling(), "CUDA out of memory"),
        (Limited(0), None, "CUDA out of memory"),
    ):
        with pytest.raises(RuntimeError, match=error):
            restore(network, torch.rand(1, 3, 300, 300), tiling=tiling)
        assert len(network.sizes) == 1


def test_infer_itself_never_tries_again() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        infer(Limited(0), torch.rand(1, 3, 300, 300))
