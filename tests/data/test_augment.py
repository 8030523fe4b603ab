import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from vsr.data.augment import (
    Flips,
    Region,
    StereoFlips,
    draw_flips,
    draw_region,
    draw_stereo_flips,
    draw_stereo_regions,
    reverse_flows,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reds_sampling.json").read_text())["items"]


def official_draws() -> list[tuple[dict[str, Any], Region, Flips]]:
    """Replay the official draws (Python's random, in the order of the golden's note): crop and flips of each item."""
    result = []
    source = random.Random()
    previous: Any = None
    for item in GOLDEN:
        run = (item["val_partition"], item["interval_list"], item["random_reverse"], item["seed"])
        if run != previous:
            source.seed(item["seed"])
            previous = run
        interval = source.choice(item["interval_list"])
        centre = item["index"] % 100
        while centre - 2 * interval < 0 or centre + 2 * interval > 99:
            centre = source.randint(0, 99)
        assert item["gt_frame"].endswith(f"/{centre:08d}.png")  # the replay follows the golden
        if item["random_reverse"]:
            source.random()
        top, left = source.randint(0, 180 - 64), source.randint(0, 320 - 64)
        result.append((item, Region(top, left, 64, 64), Flips(*(source.random() < 0.5 for _ in range(3)))))
    return result


@pytest.mark.parametrize(("factor", "corners"), [(1, "lq_corner_yx"), (4, "gt_corner_yx")])
def test_crops_and_flips_move_pixels_as_the_official_ones_do(factor: int, corners: str) -> None:
    image = np.stack(np.mgrid[: 180 * factor, : 320 * factor])  # (2, h, w): every pixel holds its (y, x)
    seen = set()
    for item, region, flips in official_draws():
        part = flips.apply(region.scaled(factor).of(image))
        got = {"first": part[:, 0, 0], "row0_last": part[:, 0, -1], "last": part[:, -1, -1]}
        assert {name: corner.tolist() for name, corner in got.items()} == item[corners]
        seen.add(flips)
    assert len(seen) == 8  # the golden covers all of them


def test_a_crop_lies_within_the_image_and_can_be_anywhere() -> None:
    rng = np.random.default_rng(0)
    drawn = {draw_region(rng, (5, 4), 3)[:2] for _ in range(300)}
    assert drawn == set(itertools.product(range(3), range(2)))


def test_a_crop_as_large_as_the_image_is_the_image() -> None:
    assert draw_region(np.random.default_rng(0), (3, 3), 3) == (0, 0, 3, 3)


def test_every_flip_is_drawn_equally_often() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_flips(rng, use_hflip=True, use_rot=True) for _ in range(8000)]
    counts = [drawn.count(Flips(*flips)) for flips in itertools.product((False, True), repeat=3)]
    assert all(850 < count < 1150 for count in counts)  # 1000, 5 standard deviations


@pytest.mark.parametrize(("use_hflip", "use_rot"), [(True, False), (False, True), (False, False)])
def test_a_flip_that_is_not_allowed_is_never_drawn_and_changes_no_other(use_hflip: bool, use_rot: bool) -> None:
    allowed, every = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(100):
        flips = draw_flips(allowed, use_hflip=use_hflip, use_rot=use_rot)
        full = draw_flips(every, use_hflip=True, use_rot=True)
        assert flips == (full[0] and use_hflip, full[1] and use_rot, full[2] and use_rot)


def moving(frame: int) -> np.ndarray:
    """Frame (h, w) of a texture that moves and stretches, in float."""
    y, x = np.mgrid[:40, :56].astype(np.float64)
    u, v = x - 1.5 * frame - 0.02 * frame * y, y + 0.8 * frame
    return np.sin(u / 3) + np.cos(v / 4 + u / 9)


def flow_between(first: int, second: int) -> np.ndarray:
    """Flow (2, h, w) with frame second at p + flow(p) equal to frame first at p."""
    y, _ = np.mgrid[:40, :56].astype(np.float64)
    dy = np.full_like(y, -0.8 * (second - first))
    dx = 1.5 * (second - first) + 0.02 * (second * (y + dy) - first * y)
    return np.stack([dx, dy])


def warp_error(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference within the image between the first frame and the second one, read where the flow points."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    warped = ndimage.map_coordinates(second, [y + flow[1], x + flow[0]], order=3, mode="constant", cval=np.nan)
    return float(np.nanmean(np.abs(warped - first)[8:-8, 8:-8]))


@pytest.mark.parametrize("flips", [Flips(*flips) for flips in itertools.product((False, True), repeat=3)])
def test_a_flow_follows_the_flips_of_its_frames(flips: Flips) -> None:
    first, second, flow = flips.apply(moving(0)), flips.apply(moving(2)), flow_between(0, 2)
    assert warp_error(flips.apply_flow(flow), first, second) < 0.01
    if any(flips):
        assert warp_error(flips.apply(flow), first, second) > 0.1  # moved as an image only, it points elsewhere


def test_flows_of_several_frames_turn_alike_and_the_given_ones_stay() -> None:
    flows = np.stack([flow_between(0, 1), flow_between(1, 2)])
    before = flows.copy()
    turned = Flips(True, False, True).apply_flow(flows)
    assert turned.shape == (2, 2, 56, 40)
    np.testing.assert_array_equal(turned[1], Flips(True, False, True).apply_flow(flows[1]))
    np.testing.assert_array_equal(flows, before)


def test_reversed_frames_take_the_flows_of_the_other_direction() -> None:
    frames = [moving(i) for i in range(4)]
    forward = np.stack([flow_between(i, i + 1) for i in range(3)])
    backward = np.stack([flow_between(i + 1, i) for i in range(3)])
    frames.reverse()
    new_forward, new_backward = reverse_flows(forward, backward)
    for i in range(3):
        assert warp_error(new_forward[i], frames[i], frames[i + 1]) < 0.01
        assert warp_error(new_backward[i], frames[i + 1], frames[i]) < 0.01
        assert warp_error(forward[i], frames[i], frames[i + 1]) > 0.1  # kept as they were they would be wrong


def stereo(disparity: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Views (3, h, w) of noise: what is at x in the left one is at x - disparity in the right one."""
    scene = np.random.default_rng(0).integers(0, 256, (3, 20, 80), dtype=np.uint8)
    return scene[..., :60], scene[..., disparity : 60 + disparity]


def disparity_of(left: np.ndarray, right: np.ndarray) -> int | None:
    """The one shift, to the left in the right view, under which the views agree."""
    width = left.shape[-1]
    found = [d for d in range(-20, 21) if np.array_equal(
        left[..., max(d, 0) : width + min(d, 0)], right[..., max(-d, 0) : width - max(d, 0)])]  # fmt: skip
    return found[0] if len(found) == 1 else None


@pytest.mark.parametrize("flips", [StereoFlips(*flips) for flips in itertools.product((False, True), repeat=2)])
def test_a_flipped_stereo_pair_has_the_disparities_of_a_stereo_pair(flips: StereoFlips) -> None:
    left, right = stereo()
    assert disparity_of(left, right) == 5
    new_left, new_right = flips.apply(left, right)
    assert disparity_of(new_left, new_right) == 5
    source = right[..., ::-1] if flips.horizontal else left
    np.testing.assert_array_equal(new_left, source[..., ::-1, :] if flips.vertical else source)
    for twice, once in zip(flips.apply(new_left, new_right), (left, right), strict=True):
        np.testing.assert_array_equal(twice, once)


def test_colours_of_both_views_are_exchanged_in_one_order() -> None:
    left, right = stereo()
    new_left, new_right = StereoFlips(order=(2, 0, 1)).apply(left, right)
    np.testing.assert_array_equal(new_left[0], left[2])
    np.testing.assert_array_equal(new_left[1], left[0])
    assert disparity_of(new_left, new_right) == 5


def test_stereo_flips_are_drawn_equally_often_and_only_where_allowed() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_stereo_flips(rng, use_hflip=True, use_vflip=True, flip_RGB=True) for _ in range(2400)]
    assert all(500 < sum(d[:2] == flips for d in drawn) < 700 for flips in itertools.product((False, True), repeat=2))
    assert all(320 < sum(d.order == order for d in drawn) < 480 for order in itertools.permutations(range(3)))
    allowed, every = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(50):
        none = draw_stereo_flips(allowed, use_hflip=False, use_vflip=True, flip_RGB=False)
        full = draw_stereo_flips(every, use_hflip=True, use_vflip=True, flip_RGB=True)
        assert none == (False, full.vertical, (0, 1, 2))


def test_shifted_crops_share_their_rows_and_change_the_disparity_by_the_shift() -> None:
    left, right = stereo()
    rng = np.random.default_rng(0)
    shifts = set()
    for _ in range(200):
        one, two = draw_stereo_regions(rng, (20, 60), (8, 40), max_shift=4)
        shift = two.left - one.left
        assert one.top == two.top
        assert 0 <= two.left <= 20
        assert disparity_of(one.of(left), two.of(right)) == 5 + shift
        shifts.add(shift)
    assert shifts == set(range(-4, 5))
    one, two = draw_stereo_regions(rng, (20, 60), (8, 40))
    assert one == two
