"""Bicubic resizing against the official values, and regions against the whole."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.utils.resize import imresize

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = np.load(GOLDEN / "imresize.npz")
CASES = [c for c in json.loads((GOLDEN / "imresize.json").read_text())["cases"] if "shape" in c]
UNIT = DATA["img_u8"].astype(np.float32) / 255


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["key"])
def test_resizing_equals_the_official_values(case: dict[str, Any]) -> None:
    result = imresize(UNIT, case["scale"], case["antialiasing"])
    assert (list(result.shape), result.dtype) == (case["shape"], np.float32)
    assert np.abs(result - DATA[case["key"]]).max() <= 1e-6


def test_grey_and_tensor_equal_the_official_values() -> None:
    assert len(CASES) == 8
    assert np.abs(imresize(UNIT[..., 0], 0.5) - DATA["imresize_gray_s0.5000_aa1"]).max() <= 1e-6
    tensor = torch.from_numpy(UNIT).permute(2, 0, 1)
    expected = torch.from_numpy(DATA["imresize_tensor_s0.2500_aa1"])
    torch.testing.assert_close(imresize(tensor, 0.25), expected, rtol=0, atol=1e-6)
    batch = torch.stack([tensor, tensor.flip(2)])
    torch.testing.assert_close(imresize(batch, 0.25)[1], imresize(tensor.flip(2), 0.25))


def test_uint8_is_the_rounded_and_clipped_float() -> None:
    # a checkerboard overshoots 0 and 255 when enlarged
    image = np.kron(np.indices((6, 6)).sum(0) % 2, np.ones((4, 4))).astype(np.uint8) * 255
    exact = imresize(image.astype(np.float64), 2)
    assert exact.min() < -1
    assert exact.max() > 256
    assert np.array_equal(imresize(image, 2), np.rint(exact).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.7, 1.0, 2, 4])
def test_a_region_is_the_same_part_of_the_whole_bit_for_bit(dtype: type, scale: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (41, 53, 3)).astype(dtype)
    whole = imresize(image, scale)
    height, width = whole.shape[:2]
    for _ in range(8):
        rows, columns = (int(rng.integers(1, n + 1)) for n in (height, width))
        top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
        part = imresize(image, scale, region=(top, left, rows, columns))
        assert np.array_equal(part, whole[top : top + rows, left : left + columns])


@pytest.mark.parametrize("scale", [0.25, 0.5, 1 / 3, 2, 4])
def test_a_flat_image_stays_flat_and_a_ramp_keeps_its_slope(scale: float) -> None:
    flat = np.full((24, 36), 77, np.uint8)
    assert np.array_equal(imresize(flat, scale), np.full([math.ceil(round(n * scale, 6)) for n in (24, 36)], 77))
    # centres of pixels: output j lies at (j + 0.5) / scale - 0.5 of the input; away from the mirrored ends
    ramp = np.broadcast_to(np.arange(96.0), (24, 96))
    result = imresize(ramp, scale)
    inner = slice(round(12 * scale), -round(12 * scale))
    expected = (np.arange(result.shape[1]) + 0.5) / scale - 0.5
    assert np.abs(result[:, inner] - expected[inner]).max() < 1e-9


def test_scale_1_returns_the_image() -> None:
    assert np.array_equal(imresize(DATA["img_u8"], 1), DATA["img_u8"])


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 0.25, 3])
def test_an_image_smaller_than_the_kernel_is_mirrored_as_often_as_needed(side: int, scale: float) -> None:
    # the reference evaluates the formula on an image that NumPy has mirrored
    column = np.random.default_rng(side).random(side)
    mirrored, offset, stretch = np.pad(column, 60, "symmetric"), 60, max(1, 1 / scale)
    result = imresize(np.repeat(column[:, None], 4, 1), scale)
    assert len(result) == math.ceil(round(side * scale, 6))
    for i, row in enumerate(result):
        centre = (i + 0.5) / scale - 0.5
        positions = np.arange(math.floor(centre - 2 * stretch), math.ceil(centre + 2 * stretch) + 1)
        x = np.abs(centre - positions) / stretch
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        kernel = np.where(x <= 1, near, np.where(x < 2, far, 0))
        assert np.abs(row - (kernel * mirrored[offset + positions]).sum() / kernel.sum()).max() < 1e-12


@pytest.mark.parametrize(("length", "scale", "expected"), [(15, 0.2, 3), (21, 1 / 3, 7), (22, 1 / 3, 8), (3, 0.1, 1)])
def test_the_output_length_is_rounded_up_but_not_by_rounding_errors(length: int, scale: float, expected: int) -> None:
    assert imresize(np.zeros((length, 4)), scale).shape[0] == expected


def test_half_precision_and_devices_are_kept() -> None:
    image = torch.rand(3, 8, 8).half()
    assert imresize(image, 0.5).dtype == torch.float16
    assert imresize((image * 255).to(torch.uint8), 0.5).dtype == torch.uint8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: imresize(UNIT, 0), "scale: expected a positive number, got 0"),
        (lambda: imresize(UNIT, math.nan), "scale: expected a positive number, got nan"),
        (lambda: imresize(np.zeros((4, 4), int), 2), "image: expected uint8 or float"),
        (lambda: imresize(np.zeros(4), 2), r"got float64 \(4,\)"),
        (lambda: imresize(np.zeros((0, 4)), 2), r"got float64 \(0, 4\)"),
        (lambda: imresize(UNIT, 0.5, region=(0, 0, 13, 4)), "inside the output of 12 x 16, got"),
        (lambda: imresize(UNIT, 0.5, region=(-1, 0, 4, 4)), "region: expected"),
        (lambda: imresize(UNIT, 0.5, region=(0, 0, 0, 4)), "region: expected"),
    ],
)
def test_a_wrong_argument_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
