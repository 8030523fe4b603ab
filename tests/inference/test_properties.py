"""What holds for any size, tile, overlap, scale, window and chunk: many cases, drawn from seeds."""

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.inference import infer, restore
from vsr.utils.windows import PADDINGS

CASES = range(40)


class Enlarging:
    """Repeats pixels ``scale`` times, and checks that it gets what it stated."""

    def __init__(self, scale: int, multiple: int, smallest: int, most: int, kind: str = "") -> None:
        self.scale, self.size_multiple, self.min_size, self.most, self.kind = scale, multiple, smallest, most, kind
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most_alive = 0

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        assert height % self.size_multiple == width % self.size_multiple == 0
        assert min(height, width) >= self.min_size
        assert height <= self.most
        assert width <= self.most or self.kind == "stereo"
        assert x.is_contiguous()
        self.most_alive = max(self.most_alive, len(self.alive))
        y = x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        self.alive.add(y)
        return y


def drawn(seed: int) -> tuple[np.random.Generator, dict[str, int], int, int]:
    """Draw a generator, the options of a tiling that fit together, size_multiple and min_size."""
    rng = np.random.default_rng(seed)
    multiple = int(rng.choice([1, 1, 2, 4, 8]))
    smallest = int(rng.choice([1, 1, 8, 16]))
    tile = int(rng.integers(max(4, multiple), 40))
    side = -(-max(tile, smallest) // multiple) * multiple
    overlap = int(rng.integers(0, min(tile, side - multiple + 1)))  # rounded up to multiples it is below the tile
    return rng, {"tile": tile, "tile_overlap": overlap}, multiple, smallest


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_only_enlarged_comes_out_of_tiles_as_it_is(dtype: torch.dtype) -> None:
    for seed in CASES:
        rng, options, multiple, smallest = drawn(seed)
        scale, kind = int(rng.integers(1, 5)), str(rng.choice(["", "stereo"]))
        leading = [(1,), (2,), (1, 3), (2, 2)][seed % 4] if not kind else (1,)
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        channels = 6 if kind else 3
        most = -(-max(options["tile"], smallest) // multiple) * multiple
        network = Enlarging(scale, multiple, smallest, most, kind)
        x = torch.rand(*leading, channels, height, width, dtype=dtype)
        result = infer(network, x, **options)
        assert result.dtype == dtype
        expected = x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        torch.testing.assert_close(result, expected, rtol=0, atol={torch.float64: 1e-14}.get(dtype, 3e-7))
        assert network.most_alive <= 1, "tiles pile up beside the one buffer that they are written to"


def test_what_is_only_enlarged_comes_out_of_the_whole_frame_to_the_bit() -> None:
    for seed in CASES:
        rng, _, multiple, smallest = drawn(seed)
        height, width = (int(side) for side in rng.integers(1, 50, 2))
        x = torch.rand(1, 3, height, width)
        network = Enlarging(3, multiple, smallest, 10_000)
        assert torch.equal(infer(network, x), x.repeat_interleave(3, -1).repeat_interleave(3, -2))


def test_a_network_that_looks_no_farther_than_the_tiles_overlap_allows_gives_the_whole_frame() -> None:
    for seed in CASES:
        rng = np.random.default_rng(seed)
        radius = int(rng.integers(0, 5))
        overlap = -(-8 * radius // 3)  # 3/8 of it are thrown away at either side
        tile, scale = int(rng.integers(overlap + 1, overlap + 30)), int(rng.integers(1, 4))
        kernel = torch.from_numpy(rng.standard_normal((3, 3, 2 * radius + 1, 2 * radius + 1)))

        def network(x: Tensor, kernel: Tensor = kernel, scale: int = scale) -> Tensor:
            y = F.conv2d(x, kernel, padding="same")
            return F.interpolate(y, scale_factor=scale, mode="nearest")

        x = torch.rand(1, 3, *(int(side) for side in rng.integers(1, 80, 2)), dtype=torch.float64)
        torch.testing.assert_close(infer(network, x, tile=tile, tile_overlap=overlap), network(x), rtol=0, atol=1e-6)


def test_stereo_pairs_are_cut_into_strips_of_whole_rows() -> None:
    class Rows:
        """Adds to each pixel the mean of its row in the other view: as far as a comparison of views can look."""

        kind = "stereo"

        def __call__(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, 1)
            return torch.cat([left + right.mean(-1, keepdim=True), right + left.mean(-1, keepdim=True)], 1)

    for seed in range(10):
        rng, options, _, _ = drawn(seed)
        x = torch.rand(1, 6, *(int(side) for side in rng.integers(1, 120, 2)), dtype=torch.float64)
        torch.testing.assert_close(infer(Rows(), x, **options), Rows()(x))


class Mean(nn.Module):
    """The mean of the window, or of each frame and its neighbours within ``reach``, enlarged."""

    def __init__(self, temporal: str, num_frame: int, scale: int) -> None:
        super().__init__()
        self.temporal, self.num_frame, self.scale = temporal, num_frame, scale

    def forward(self, x: Tensor) -> Tensor:
        if self.temporal == "window":
            assert x.shape[1] == self.num_frame
            x = x.mean(1)
        elif self.temporal == "clip":
            x = x.cumsum(1)
        return F.interpolate(x.flatten(0, -4), scale_factor=self.scale).unflatten(0, x.shape[:-3])


def test_as_many_frames_come_out_as_go_in_whatever_the_network_the_clip_and_the_options() -> None:
    for seed in CASES:
        rng, options, _, _ = drawn(seed)
        temporal = str(rng.choice(["image", "window", "clip"]))
        network = Mean(temporal, int(rng.choice([1, 3, 5, 7])), int(rng.integers(1, 4)))
        total, height, width = int(rng.integers(0, 12)), *(int(side) for side in rng.integers(1, 40, 2))
        chunk = int(rng.integers(0, 8))
        options["chunk"], options["chunk_overlap"] = chunk, int(rng.integers(0, max(chunk, 1)))
        common = {**options, "padding": str(rng.choice(PADDINGS)), "self_ensemble": bool(rng.integers(2))}
        clip = torch.rand(total, 3, height, width)
        whole = restore(network, clip, **common)
        assert whole.shape == (total, 3, height * network.scale, width * network.scale)
        stream = list(restore(network, iter(clip), **common))
        assert len(stream) == total
        assert all(torch.equal(a, b) for a, b in zip(whole, stream, strict=True))
        if temporal == "image":
            torch.testing.assert_close(whole, network(clip), rtol=0, atol=1e-6)
