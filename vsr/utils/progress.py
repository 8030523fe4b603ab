"""Lines in the log that tell how far long work has come, how fast it goes, and how long it will still take."""

import logging
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts steps and tells of them every few seconds.

    Args:
        what: What is made; starts the lines.
        total: Steps in all.
        unit: What a step is, in the plural.
        done: Steps that an earlier run has made.
    """

    def __init__(self, what: str, total: int, *, unit: str = "images", done: int = 0) -> None:
        self._what, self._total, self._unit, self._done, self._new = what, total, unit, done, 0
        self._start = self._told = time.monotonic()

    def step(self, count: int = 1, more: str = "") -> None:
        """Count steps; ``more`` is said after the rate, such as ', 3.1 GB'."""
        self._new += count
        now = time.monotonic()
        if now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            rate = self._new / (now - self._start)
            left = max(0, self._total - self._done - self._new) / rate
            log.info(
                "%s: %d of %d %s, %.1f a second%s, %s left",
                self._what, self._done + self._new, self._total, self._unit, rate, more, duration_text(left),
            )  # fmt: skip

    def end(self, more: str = "") -> None:
        """Say what was made; ``more`` is said after the number."""
        took = time.monotonic() - self._start
        log.info(
            "%s: %d %s%s in %s (%.1f a second)",
            self._what, self._done + self._new, self._unit, more, duration_text(took), self._new / max(took, 1e-9),
        )  # fmt: skip


def size_text(count: int) -> str:
    """Return a number of bytes as people say it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
