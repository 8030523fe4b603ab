"""Padding and tiles, with networks whose result for the whole frame is known."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.inference import infer
from vsr.inference.tiles import _starts, _weights


def local(radius: int, scale: int = 2):
    """A network that sees ``radius`` pixels far and no farther, with zero padding as convolutions have."""
    torch.manual_seed(0)
    kernel = torch.randn(3, 3, 2 * radius + 1, 2 * radius + 1) / (2 * radius + 1)

    def network(x: Tensor) -> Tensor:
        y = F.conv2d(x.flatten(0, -4), kernel, padding=radius).unflatten(0, x.shape[:-3])
        return y.repeat_interleave(scale, -1).repeat_interleave(scale, -2)

    return network


@pytest.mark.parametrize(("height", "width"), [(40, 61), (24, 24), (7, 90), (25, 24), (100, 33)])
@pytest.mark.parametrize("leading", [(1,), (2, 3)], ids=["images", "clips"])
def test_tiles_of_a_local_network_equal_the_whole_frame(height: int, width: int, leading: tuple[int, ...]) -> None:
    network, x = local(radius=6), torch.rand(*leading, 3, height, width)
    torch.testing.assert_close(infer(network, x, tile=24, tile_overlap=16), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("overlap", [0, 1, 2, 5, 11, 20, 23])
def test_the_weights_of_overlapping_tiles_add_up_to_one_everywhere(overlap: int) -> None:
    for size in (1, 24, 25, 47, 48, 49, 100):
        starts = _starts(size, 24, overlap, 1)
        total = torch.zeros(size * 3, dtype=torch.float64)
        for start, weight in zip(starts, _weights(starts, size, 24, 3), strict=True):
            assert len(weight) == 3 * min(24, size)
            assert (weight >= 0).all()
            total[3 * start : 3 * start + len(weight)] += weight
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("multiple", [1, 4])
def test_tiles_cover_the_frame_on_the_grid_with_the_overlap_asked_for(multiple: int) -> None:
    for size in range(24, 200, multiple):
        starts = _starts(size, 24, 8, multiple)
        assert starts[0] == 0
        assert starts[-1] == size - 24
        assert all(start % multiple == 0 for start in starts)
        assert all(0 < after - before <= 24 - 8 for before, after in itertools.pairwise(starts))


def test_a_step_between_tiles_is_faded_over_the_overlap() -> None:
    """Each tile answers with its own number, the worst seam there can be; it becomes a ramp."""
    calls = iter(range(100))

    def network(x: Tensor) -> Tensor:
        return torch.full_like(x, next(calls)).repeat_interleave(4, -1).repeat_interleave(4, -2)

    row = infer(network, torch.rand(1, 3, 8, 40), tile=24, tile_overlap=8)[0, 0, 0]
    assert (row[0], row[-1]) == (0, 1)
    # 40 = 24 + 24 - 8 pixels: the tiles share 8, of which a quarter, 2 of the input or 8 of the output, are the ramp.
    assert row.diff().max() <= 1 / 8 + 1e-6
    assert row.diff().min() >= 0


def test_no_call_sees_more_than_a_tile() -> None:
    sizes = set()

    def network(x: Tensor) -> Tensor:
        sizes.add(tuple(x.shape[-2:]))
        return x

    network.size_multiple = 4
    x = torch.rand(1, 3, 61, 130)
    torch.testing.assert_close(infer(network, x, tile=30, tile_overlap=6), x)
    assert sizes == {(32, 32)}  # 30 rounded up to a multiple of 4


def test_strided_networks_see_the_same_grid_in_tiles_as_in_the_whole_frame() -> None:
    """Averaging 4x4 blocks is local but depends on where the blocks begin."""

    def network(x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)

    network.size_multiple = 4
    x = torch.rand(1, 3, 64, 48)
    torch.testing.assert_close(infer(network, x, tile=18, tile_overlap=7), network(x))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (9, 17), (2, 40)])
def test_frames_of_any_size_are_padded_to_multiples_and_the_result_is_cropped(height: int, width: int) -> None:
    def network(x: Tensor) -> Tensor:
        assert x.shape[-2] % 8 == 0
        assert x.shape[-1] % 8 == 0
        assert min(x.shape[-2:]) >= 16
        return x.repeat_interleave(3, -1).repeat_interleave(3, -2)

    network.size_multiple, network.min_size = 8, 16
    x = torch.rand(2, 3, height, width)
    expected = x.repeat_interleave(3, -1).repeat_interleave(3, -2)
    assert torch.equal(infer(network, x), expected)
    torch.testing.assert_close(infer(network, x, self_ensemble=True), expected)


def test_padding_mirrors_the_frame_and_repeats_the_edge_of_small_ones() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x[0, 0, 0])
        return x

    network.size_multiple = 8
    infer(network, torch.arange(5.0).expand(1, 3, 8, 5))
    infer(network, torch.arange(3.0).expand(1, 3, 8, 3))
    assert seen[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert seen[1].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]  # 5 pixels cannot be mirrored from 3


def test_self_ensemble_averages_the_eight_views_each_turned_back() -> None:
    """The expectation is written out: every flip and rotation, applied and undone by hand."""
    network, x = local(radius=2), torch.rand(1, 3, 9, 14)
    views = [
        (lambda t: t, lambda t: t),
        (lambda t: t.flip(-1), lambda t: t.flip(-1)),
        (lambda t: t.flip(-2), lambda t: t.flip(-2)),
        (lambda t: t.flip(-1, -2), lambda t: t.flip(-1, -2)),
    ]
    transposed = [(lambda t, a=a: a(t).mT, lambda t, b=b: b(t.mT)) for a, b in views]
    expected = torch.stack([back(network(there(x).contiguous())) for there, back in views + transposed]).mean(0)
    torch.testing.assert_close(infer(network, x, self_ensemble=True), expected)
    assert not torch.allclose(expected, network(x))


def test_results_carry_no_graph_but_may_enter_one() -> None:
    weight = torch.ones(3, 3, 1, 1, requires_grad=True)
    result = infer(lambda x: F.conv2d(x, weight), torch.rand(1, 3, 4, 4))
    assert not result.requires_grad
    F.conv2d(result, weight).sum().backward()  # an inference tensor could not be saved for this
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.rand(3, 8, 8), {}, "x: expected a floating point tensor .* got \\(3, 8, 8\\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "x: expected a floating point tensor .* torch.uint8"),
        (torch.rand(1, 3, 0, 8), {}, "x: expected"),
        ([1], {}, "x: expected .* got list"),
        (torch.rand(1, 3, 8, 8), {"tile": 16, "tile_overlap": 16}, "tile: expected .* got tile 16 and tile_overlap 16"),
        (torch.rand(1, 3, 8, 8), {"tile": -1}, "tile: expected"),
        (torch.rand(1, 3, 8, 8), {"tile": 8, "tile_overlap": -1}, "tile: expected"),
    ],
)
def test_wrong_input_is_named(x: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer(lambda x: x, x, **options)


def test_an_overlap_that_rounding_makes_as_large_as_the_tile_is_refused() -> None:
    def network(x: Tensor) -> Tensor:
        return x

    network.size_multiple = 16
    with pytest.raises(ValueError, match="tile_overlap: expected less than the tile of 16, got 16"):
        infer(network, torch.rand(1, 3, 64, 64), tile=12, tile_overlap=3)


@pytest.mark.parametrize("network", [lambda x: x[..., :-1], lambda x: x[..., ::2, ::2], lambda x: x[..., ::2, :]])
def test_an_output_that_is_no_multiple_of_the_input_is_refused(network) -> None:
    with pytest.raises(ValueError, match="network: expected an output of a whole multiple of the input's size 8x8"):
        infer(network, torch.rand(1, 3, 8, 8))


def test_a_network_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="network: expected it to return a tensor, got tuple"):
        infer(lambda x: (x, x), torch.rand(1, 3, 8, 8))
