"""Backward warping against places computed by hand."""

import pytest
import torch
from torch import Tensor

from vsr.ops.warp import flow_warp


def constant_flow(x: Tensor, dx: float, dy: float) -> Tensor:
    return torch.tensor([dx, dy], dtype=x.dtype).view(1, 2, 1, 1).expand(x.shape[0], 2, *x.shape[2:])


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (1, 1)])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, 0), (-1, 1), (0, -3), (1, 1), (9, 0)])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_a_whole_number_of_pixels_reads_that_pixel(size: tuple[int, int], dx: int, dy: int, padding_mode: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for row in range(size[0]):
        for column in range(size[1]):
            i, j = row + dy, column + dx
            inside = 0 <= i < size[0] and 0 <= j < size[1]
            if inside or padding_mode == "border":
                expected[..., row, column] = x[..., min(max(i, 0), size[0] - 1), min(max(j, 0), size[1] - 1)]
    torch.testing.assert_close(flow_warp(x, constant_flow(x, dx, dy), padding_mode=padding_mode), expected)


def test_between_pixels_a_ramp_stays_a_ramp() -> None:
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    ramp = (2 * columns + 30 * rows)[None, None]
    warped = flow_warp(ramp, constant_flow(ramp, 0.25, -0.5))
    torch.testing.assert_close(warped[..., 1:, :-1], (ramp + 2 * 0.25 - 30 * 0.5)[..., 1:, :-1])


def test_half_a_pixel_outside_is_half_zero_even_where_a_side_is_one_pixel() -> None:
    x = torch.ones(1, 1, 1, 1)
    assert flow_warp(x, constant_flow(x, 0.5, 0)).item() == pytest.approx(0.5)
    assert flow_warp(x, constant_flow(x, 0.5, -0.5)).item() == pytest.approx(0.25)


def test_reflection_mirrors_at_the_centres_of_the_border_pixels() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4)
    got = flow_warp(x, constant_flow(x, -2, 0), padding_mode="reflection")
    torch.testing.assert_close(got, torch.tensor([2.0, 1, 0, 1]).view(1, 1, 1, 4))  # places -2 -1 0 1


def test_nearest_takes_the_pixel_next_to_the_place() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4)
    got = flow_warp(x, constant_flow(x, 0.8, 0), interp_mode="nearest")
    torch.testing.assert_close(got, torch.tensor([1.0, 2, 3, 0]).view(1, 1, 1, 4))


def test_each_pixel_and_each_sample_has_a_flow_of_its_own() -> None:
    x = torch.arange(12.0).view(2, 1, 2, 3)
    flow = torch.zeros(2, 2, 2, 3)
    flow[0, 0, 1, 0] = 2  # x: the first sample's lower left pixel reads the lower right one
    flow[1, 1, 0, 1] = 1  # y: the second sample's upper middle pixel reads the lower middle one
    expected = x.clone()
    expected[0, 0, 1, 0] = x[0, 0, 1, 2]
    expected[1, 0, 0, 1] = x[1, 0, 1, 1]
    torch.testing.assert_close(flow_warp(x, flow), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_at_half_precision_places_far_right_are_still_found(dtype: torch.dtype) -> None:
    x = (torch.arange(1001) % 2).to(dtype).expand(1, 1, 2, 1001)
    warped = flow_warp(x, constant_flow(x.float(), 1, 0))
    assert warped.dtype == dtype
    torch.testing.assert_close(warped[..., :-1], x[..., 1:], atol=0.01, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 2, 3, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(flow_warp, (x, flow))


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (1, 3, 4, 4), (2, 2, 4, 4), (1, 4, 4, 2), (2, 4, 4)])
def test_a_flow_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"flow: expected \(b, 2, h, w\)"):
        flow_warp(torch.rand(1, 3, 4, 4), torch.rand(shape))


@pytest.mark.parametrize("modes", [("cubic", "zeros"), ("bilinear", "edge")])
def test_an_unknown_mode_is_refused(modes: tuple[str, str]) -> None:
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="interp_mode, padding_mode: expected one of bilinear, nearest, bicubic"):
        flow_warp(x, constant_flow(x, 0, 0), *modes)
