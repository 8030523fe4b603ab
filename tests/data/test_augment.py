import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.data.augment import Flips, Region, draw_flips, draw_region

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
