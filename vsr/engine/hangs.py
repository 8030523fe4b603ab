"""What a process was doing when it stopped doing anything."""

import faulthandler
import sys

from vsr.utils import dist

SHARE = 0.8  # of dist.timeout: the others still wait when the stack is written, and what ends them comes after it


class HangWatch:
    """Writes the stacks of this process's threads to the screen if no step ends for most of ``dist.timeout``.

    With several processes, one that hangs makes the others wait, until they give up after dist.timeout: their
    errors name themselves, the stacks name the culprit. A single process is left alone.

    Args:
        timeout: Seconds of ``dist.timeout``.
    """

    def __init__(self, timeout: float) -> None:
        self._seconds = SHARE * timeout if dist.world_size() > 1 else 0.0

    def go(self) -> None:
        """Call when a step is over, and before the first one: the wait for data belongs to the next."""
        if self._seconds and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(self._seconds, file=sys.__stderr__)

    def pause(self) -> None:
        """Call before a validation, which may take longer than dist.timeout; processes wait for each other after it."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    close = pause
