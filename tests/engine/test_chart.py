import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from vsr.engine.chart import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, chart, nice_ticks


def lines(svg: str, name: str) -> list[list[tuple[float, float]]]:
    """Return the points of each piece of a curve; the parser refuses what is no XML."""
    pieces = [p.get("points") for p in ElementTree.fromstring(svg).iter("polyline") if p.get("class") == f"line {name}"]
    return [[tuple(map(float, point.split(","))) for point in piece.split()] for piece in pieces]


def test_points_lie_where_the_axes_say() -> None:
    """Values 20, 25, 30 on ticks 20 to 30: top, middle and bottom of the field, at thirds of its width."""
    svg = chart({"restored": [20.0, 25.0, 30.0]}, ["c"] * 3, y_label="psnr", x_label="frame")
    field, high = (WIDTH - LEFT - RIGHT) / 3, HEIGHT - TOP - BOTTOM
    ((a, b, c),) = lines(svg, "restored")
    assert a == pytest.approx((LEFT + field / 2, TOP + high), abs=0.06)
    assert b == pytest.approx((LEFT + field * 1.5, TOP + high / 2), abs=0.06)
    assert c == pytest.approx((LEFT + field * 2.5, TOP), abs=0.06)
    texts = [t.text for t in ElementTree.fromstring(svg).iter("text")]
    assert {"20", "30", "psnr", "frame", "restored"} <= set(texts)


def test_a_line_breaks_between_clips_and_where_a_value_is_not_finite() -> None:
    values = [1.0, 2.0, math.inf, 3.0, 4.0, 5.0]
    svg = chart({"restored": values, "bicubic": [math.nan] * 5 + [1.0]}, list("aaaabb"), y_label="y", x_label="frame")
    assert [len(piece) for piece in lines(svg, "restored")] == [2, 1, 2]
    assert [len(piece) for piece in lines(svg, "bicubic")] == [1]
    assert {"a", "b", "frames, by clip"} <= {t.text for t in ElementTree.fromstring(svg).iter("text")}


def test_nothing_finite_gives_no_chart() -> None:
    assert chart({"restored": [math.inf, math.nan]}, ["", ""], y_label="psnr", x_label="image") == ""
    assert chart({"restored": []}, [], y_label="psnr", x_label="image") == ""


def test_long_sets_are_drawn_as_means_of_neighbours_and_say_so() -> None:
    count = 25 * MOST_POINTS
    values = [30.0 + (i % 25) for i in range(count)]  # the mean of each 25 is 42
    svg = chart({"restored": values}, [""] * count, y_label="psnr", x_label="image")
    (points,) = lines(svg, "restored")
    assert len(points) == MOST_POINTS
    assert len({y for _, y in points}) == 1
    assert "image (means of 25)" in svg
    assert len(svg) < 60_000
    assert "<circle" not in svg


def test_every_frame_of_a_short_set_tells_its_value() -> None:
    svg = chart({"restored": [30.125]}, [""], y_label="psnr", x_label="image")
    assert re.search("<title>image 0, restored: 30.125", svg)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (20.0, 30.0, [20, 22, 24, 26, 28, 30]),
        (27.53, 27.94, [27.5, 27.6, 27.7, 27.8, 27.9, 28.0]),
        (0.0, 0.3, [0.0, 0.1, 0.2, 0.3]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (0.0, 1e6, [0, 2e5, 4e5, 6e5, 8e5, 1e6]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 30.0, -2.5, 1e-7, 1e9])
def test_a_flat_line_has_room_above_and_below(value: float) -> None:
    ticks = nice_ticks(value, value, 5)
    assert ticks[0] < value < ticks[-1]
    assert len(ticks) >= 3
