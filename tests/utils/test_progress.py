import pytest

from vsr.utils import progress
from vsr.utils.progress import Progress, duration_text, size_text


def test_lines_tell_how_many_how_fast_and_how_long_still(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 104.0, 110.0, 120.0])  # begin, two steps, end
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level("INFO", "vsr"):
        told = Progress("frames of a", 100, unit="frames", done=40)
        told.step(5)  # 4 s: too early for a line
        told.step(15, ", 1.0 MB")
        told.end()
    assert [record.getMessage() for record in caplog.records] == [
        "frames of a: 60 of 100 frames, 2.0 a second, 1.0 MB, 20 s left",
        "frames of a: 60 frames in 20 s (1.0 a second)",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 MB"), (2_340_000, "2.3 MB"), (82_000_000_000, "82.00 GB")])
def test_sizes_are_said_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text
