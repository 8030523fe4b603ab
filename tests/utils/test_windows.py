import json
import re
from pathlib import Path

import pytest

from vsr.utils.windows import PADDINGS, generate_frame_indices, shortest_clip

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "frame_indices.json").read_text())


def test_windows_equal_the_official_ones() -> None:
    assert len(GOLDEN["rows"]) == 296  # 74 windows, 4 paddings
    for index, total, num_frame, padding, expected in GOLDEN["rows"]:
        assert generate_frame_indices(index, total, num_frame, padding) == expected, (index, total, num_frame, padding)


@pytest.mark.parametrize("row", GOLDEN["short_clips"], ids=str)
def test_a_short_clip_gives_the_official_window_or_an_error_but_never_a_frame_outside(row: list) -> None:
    index, total, num_frame, padding, expected, inside = row
    if inside:
        assert generate_frame_indices(index, total, num_frame, padding) == expected
        return
    message = rf"num_frame {num_frame} with '{padding}', got a clip of {total} frames?\. .*replicate"
    with pytest.raises(ValueError, match=message):
        generate_frame_indices(index, total, num_frame, padding)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("num_frame", [1, 3, 5, 7])
def test_the_shortest_clip_can_fill_all_its_windows_and_a_shorter_one_cannot(num_frame: int, padding: str) -> None:
    shortest = shortest_clip(num_frame, padding)
    for index in range(shortest):
        assert generate_frame_indices(index, shortest, num_frame, padding)[num_frame // 2] == index
    if shortest > 1:
        with pytest.raises(ValueError, match="replicate"):  # its first frame needs the most of the other side
            generate_frame_indices(0, shortest - 1, num_frame, padding)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 9, 4, "replicate"), "num_frame: expected an odd number, got 4"),
        ((0, 9, -3, "replicate"), "num_frame: expected an odd number, got -3"),
        ((9, 9, 3, "replicate"), "index: expected 0 to 8, the frames of the clip, got 9"),
        ((-1, 9, 3, "replicate"), "index: expected 0 to 8"),
        ((0, 9, 3, "reflect"), "got 'reflect'. Did you mean 'reflection'?"),
        ((0, 9, 3, None), "padding: expected one of replicate"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate_frame_indices(*arguments)
