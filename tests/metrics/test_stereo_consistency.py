"""Measures of stereo pairs as a whole: known shifts, a scene that hides a part, loops, and a photographed pair."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from stereo_pairs import made_pair, photographed_pair

from vsr import metrics
from vsr.metrics.stereo_consistency import PairMetric, match, seen_in_both, warped
from vsr.utils.resize import imresize

NAMES = ["calculate_disparity_error", "calculate_bad_disparity", "calculate_warped_psnr"]
ERROR, BAD, WARPED = NAMES


def metric(name: str, **arguments: Any) -> PairMetric:
    built = metrics.build({"type": name, **arguments})
    assert isinstance(built, PairMetric)
    return built


def pair(disparity: int, seed: int = 0, size: tuple[int, int] = (48, 160)) -> np.ndarray:
    """Return a textured pair (h, w, 6) of one disparity."""
    return np.concatenate(made_pair(size, disparity=disparity, seed=seed), 2)


def constant(value: float, size: tuple[int, int] = (48, 160)) -> np.ndarray:
    return np.full(size, value, np.float32)


# --- shifts that are known ---------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("restored", "off"), [(12, 0), (15, 3), (7, 5)])
def test_a_shift_of_the_right_view_is_found_to_the_pixel(restored: int, off: int, known: bool) -> None:
    """The reference is 12: told, or found between the views of the target."""
    truth = constant(12) if known else None
    got = [
        metric(ERROR, max_disparity=32).measure(pair(restored), pair(12), truth),
        metric(BAD, max_disparity=32).measure(pair(restored), pair(12), truth),
        metric(BAD, max_disparity=32, threshold=6).measure(pair(restored), pair(12), truth),
    ]
    assert got[0] == pytest.approx(off, abs=0.15)  # sixteenths, interpolated
    assert got[1] == pytest.approx(100 if off else 0, abs=1)
    assert got[2] == pytest.approx(0, abs=5)  # the columns whose match lies outside the right view are not found


def test_exchanged_views_have_no_disparity_that_is_right() -> None:
    swapped = pair(12)[..., [3, 4, 5, 0, 1, 2]]
    assert metric(BAD).measure(swapped, pair(12), constant(12)) > 80  # of sixteen that there are to guess from
    assert metric(BAD).measure(pair(12), pair(12), constant(12)) < 1


def test_the_right_view_is_read_to_the_left_of_a_pixel() -> None:
    """Warped by the right shift the views agree but for rounding; by another, or the other way round, they do not."""
    same = metric(WARPED)
    assert same.measure(pair(12), pair(12), constant(12)) == math.inf
    assert same.measure(pair(12)[..., [3, 4, 5, 0, 1, 2]], pair(12), constant(12)) < 25
    assert same.measure(pair(12), pair(12), constant(10)) < 25
    assert same.measure(pair(12), pair(12)) > 33  # found by matching, in sixteenths of a pixel


def test_the_range_that_is_looked_through_follows_the_true_disparity() -> None:
    far = pair(140, size=(40, 300))  # beyond the 128 pixels that are looked through otherwise
    truth = constant(140, (40, 300))
    assert metric(ERROR).measure(far, far, truth) < 0.5
    assert metric(BAD, max_disparity=64).measure(far, far, truth) > 90
    assert metric(ERROR).measure(pair(15), pair(15), constant(15.9)) == pytest.approx(0.9, abs=0.15)  # 15, of 0 to 31
    stray = truth.copy()
    stray[20, 280] = 1e9  # a number that leads nowhere is no reason to look for it
    assert metric(ERROR).measure(far, far, stray) == pytest.approx(metric(ERROR).measure(far, far, truth), abs=1e-3)


# --- what both views see -----------------------------------------------------------------------------


def by_loops(disparity: np.ndarray) -> np.ndarray:
    """Which pixels both views see, pixel by pixel."""
    height, width = disparity.shape
    seen = np.zeros((height, width), bool)
    for y in range(height):
        arrivals = {x: round(float(x - disparity[y, x])) for x in range(width) if x - disparity[y, x] >= 0}
        for x, place in arrivals.items():
            rivals = [disparity[y, other] for other, there in arrivals.items() if abs(there - place) <= 1]
            seen[y, x] = max(rivals) - disparity[y, x] <= 1
    return seen


def test_what_both_views_see_is_what_loops_find() -> None:
    rng = np.random.default_rng(0)
    disparity = rng.uniform(0, 9, (12, 30)).astype(np.float32)
    disparity[rng.random((12, 30)) < 0.2] = np.nan
    expected = by_loops(disparity)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(seen_in_both(disparity), expected)


def test_the_background_beside_a_near_object_is_hidden() -> None:
    """Columns 40 to 59 are 8 pixels nearer: they hide 8 columns to the left of them from the right camera."""
    disparity = constant(4, (3, 100))
    disparity[:, 40:60] = 12
    seen = seen_in_both(disparity)
    assert not seen[:, :4].any()  # outside the right view
    assert not seen[:, 32:40].any()
    assert seen[:, 40:60].all()
    assert seen[:, 4:31].all()  # 31 arrives beside the object
    assert seen[:, 60:].all()


def test_only_pixels_that_both_views_see_count() -> None:
    """Where the object hides the background the warped view shows the object: nothing of it enters the value."""
    truth = constant(4, (32, 120))
    truth[:, 50:70] = 12
    left = made_pair((32, 120), disparity=0, seed=3)[0]
    right = np.zeros_like(left)
    seen = seen_in_both(truth)
    for y, x in np.argwhere(seen):
        right[y, x - int(truth[y, x])] = left[y, x]
    scene = np.concatenate([left, right], 2)
    assert metric(WARPED).measure(scene, scene, truth) == math.inf
    wrong = scene.copy()
    wrong[:, 42:50, :3] = 0  # of the left view what the right one does not show
    assert metric(WARPED).measure(wrong, scene, truth) == math.inf
    wrong[:, 60:62, :3] ^= 128
    assert metric(WARPED).measure(wrong, scene, truth) < 40


def test_unknown_disparities_do_not_count() -> None:
    truth = constant(12)
    truth[:, 80:] = 30  # wrong, on purpose
    assert metric(ERROR).measure(pair(12), pair(12), truth) > 1
    for unknown in (0, np.nan, np.inf, -3):
        truth[:, 80:] = unknown
        assert metric(ERROR).measure(pair(12), pair(12), truth) < 0.15
    for name in NAMES:
        assert math.isnan(metric(name).measure(pair(12), pair(12), constant(0)))


# --- values, computed in another way -----------------------------------------------------------------


def test_warping_interpolates_along_the_row() -> None:
    rng = np.random.default_rng(1)
    right = rng.integers(0, 256, (4, 20, 3)).astype(np.uint8)
    disparity = rng.uniform(0, 5, (4, 20)).astype(np.float32)
    where = np.arange(20) >= disparity
    rows, columns = np.nonzero(where)
    expected = [
        [np.interp(x - disparity[y, x], np.arange(20), right[y, :, c]) for c in range(3)]
        for y, x in zip(rows, columns, strict=True)
    ]
    np.testing.assert_allclose(warped(right, disparity, where), expected, atol=1e-4)


def test_the_values_are_those_of_their_formulas() -> None:
    rng = np.random.default_rng(2)
    target = pair(9)
    restored = np.clip(target + rng.normal(0, 30, target.shape), 0, 255).astype(np.uint8)
    truth = constant(9) + np.linspace(0, 3, 48, dtype=np.float32)[:, None]
    truth[rng.random(truth.shape) < 0.1] = np.inf
    seen = np.zeros(truth.shape, bool)
    inner = (slice(4, -4), slice(4, -4))
    seen[inner] = by_loops(np.where(np.isinf(truth), np.nan, truth))[inner]
    found = match(restored[..., :3], restored[..., 3:], most=16)
    errors = np.abs(found - truth)[seen]
    assert 0 < np.isnan(errors).sum() < errors.size / 2
    given = (restored, target, truth)
    assert metric(ERROR, crop_border=4).measure(*given) == pytest.approx(np.nanmean(errors), rel=1e-5)
    bad = [e for e in errors if math.isnan(e) or e > 1.5]
    assert metric(BAD, crop_border=4, threshold=1.5).measure(*given) == pytest.approx(100 * len(bad) / errors.size)
    for against, left in (("restored", restored), ("target", target)):
        squares = []
        for y, x in np.argwhere(seen):
            colours = [np.interp(x - truth[y, x], np.arange(160), restored[y, :, 3 + c]) for c in range(3)]
            squares += list((colours - left[y, x, :3].astype(float)) ** 2)
        expected = 10 * math.log10(255**2 / np.mean(squares))
        got = metric(WARPED, crop_border=4, against=against).measure(*given)
        assert got == pytest.approx(expected, abs=1e-4)


def test_the_matcher_gives_the_same_result_every_time_and_nothing_from_outside() -> None:
    left, right = made_pair((40, 200), disparity=30, seed=5)
    one = match(left, right, most=48).copy()
    match(right, left, most=48), match(left, left, most=48)  # what is remembered is of others now
    two = match(left, right, most=48)
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    assert np.isnan(one[:, :28]).mean() > 0.9  # their places lie outside the right view
    assert not (one > np.arange(200)).any()
    assert np.nanmedian(one) == 30


@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_tensors_of_a_call_measure_as_the_pictures(name: str) -> None:
    restored, target, truth = pair(13), pair(12), constant(12)
    expected = metric(name).measure(restored, target, truth)
    bgr = [image[..., [2, 1, 0, 5, 4, 3]] for image in (restored, target)]
    assert metric(name)(*bgr, truth) == expected
    chw = [image.transpose(2, 0, 1) / 255 for image in bgr]
    assert metric(name, input_order="CHW")(*chw, truth) == expected
    tensors = [torch.from_numpy(image.transpose(2, 0, 1) / 255) for image in (restored, target)]
    assert metric(name)(*tensors, truth) == expected
    assert metric(name)(*tensors) == metric(name).measure(restored, target)


def test_a_photographed_pair_has_its_true_disparity_and_loses_it_with_resolution() -> None:
    left, right = photographed_pair()
    truth = importlib.import_module("skimage.data").stereo_motorcycle()[2]
    part = (slice(180, 320), slice(740))
    target, truth = np.concatenate([left, right], 2)[part], truth[part]
    values = {}
    for scale in (1, 2, 4):
        views = [imresize(imresize(view, 1 / scale), scale) for view in (target[..., :3], target[..., 3:])]
        restored = np.concatenate(views, 2)
        values[scale] = [metric(name).measure(restored, target, truth) for name in (ERROR, BAD)]
    assert values[1][0] < 1  # pixels, of disparities from 7 to 60
    assert values[1][1] < 10
    assert values[1] < values[2] < values[4]
    assert values[1][1] < values[2][1] < values[4][1]
    swapped = np.concatenate([right, left], 2)[part]
    assert metric(BAD).measure(swapped, target, truth) > 90


# --- what they say and refuse ------------------------------------------------------------------------


def test_they_say_what_they_measure() -> None:
    assert [metric(name).higher_is_better for name in NAMES] == [False, False, True]
    assert [metric(name).unit for name in NAMES] == ["px", "%", "dB"]
    assert all(metric(name).of_pairs for name in NAMES)
    assert not metrics.build({"type": "calculate_psnr"}).of_pairs
    for name in NAMES:
        assert metric(name, crop_border=2).definition.endswith("crop 2")  # the set tells what disparities it has
    assert "off by more than 2.5 px" in metric(BAD, threshold=2.5).definition
    assert "the target left one" in metric(WARPED, against="target").definition


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type": ERROR, "max_disparity": 20}, "max_disparity: expected a multiple of 16 from 16 on, got 20"),
        ({"type": ERROR, "max_disparity": 0}, "max_disparity: expected a multiple of 16 from 16 on, got 0"),
        ({"type": BAD, "threshold": 0}, "threshold: expected a number of pixels above 0, got 0"),
        ({"type": BAD, "threshold": math.nan}, "threshold: expected a number of pixels above 0, got nan"),
        ({"type": WARPED, "against": "left"}, "against: expected 'restored' or 'target', got 'left'"),
        ({"type": WARPED, "crop_border": -1}, "crop_border: expected a number of pixels >= 0, got -1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.build(option)


def test_what_is_no_pair_is_refused() -> None:
    image = pair(4)
    for restored, target in ((image[..., :3], image[..., :3]), (image[:-1], image), (image.astype(float), image)):
        with pytest.raises(ValueError, match=r"expected two stereo pairs uint8 \(h, w, 6\) of one size"):
            metric(ERROR).measure(restored, target)
    with pytest.raises(ValueError, match=r"disparity: expected the size of the target, \(48, 160\), got \(47, 160\)"):
        metric(ERROR).measure(image, image, constant(4)[1:])
    with pytest.raises(ValueError, match="crop_border: expected to leave something of 48 x 160, got 24"):
        metric(ERROR, crop_border=24).measure(image, image)
    with pytest.raises(ValueError, match="expected two arrays or two tensors, got list"):
        metric(ERROR)([1], image)  # type: ignore[arg-type]
