"""What a process was doing when it stopped doing anything."""

import faulthandler
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from vsr.utils import dist

SHARE = 0.8  # of dist.timeout: the others still wait when the stack is written, and what ends them comes after it

ITEM_SHARE = 3  # of dist.timeout, for an item of a validation: it may be a long clip, and nobody else waits yet

Item = TypeVar("Item")


class HangWatch:
    """Writes the stacks of this process's threads to the screen if nothing is done for most of ``dist.timeout``.

    With several processes, one that hangs makes the others wait, until they give up after dist.timeout: their
    errors name themselves, the stacks name the culprit. A single process is left alone.

    Args:
        timeout: Seconds of ``dist.timeout``.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout if dist.world_size() > 1 and math.isfinite(timeout) else 0.0

    def go(self) -> None:
        """Call when a step is over, and before the first one: the wait for data belongs to the next."""
        self._watch(SHARE * self._timeout, ends=False)

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, and end this process, its stacks written, if one takes ITEM_SHARE times ``dist.timeout``.

        For work of which the processes have different amounts, and after which they wait for each other for as long
        as it takes (``dist.wait_for_all``): nobody else would put an end to it.
        """
        try:
            self._watch(ITEM_SHARE * self._timeout, ends=True)
            for item in items:
                yield item
                self._watch(ITEM_SHARE * self._timeout, ends=True)
        finally:
            self.pause()

    def pause(self) -> None:
        """Call before what may take longer than dist.timeout."""
        if self._timeout:
            faulthandler.cancel_dump_traceback_later()

    close = pause

    def _watch(self, seconds: float, *, ends: bool) -> None:
        if self._timeout and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(seconds, exit=ends, file=sys.__stderr__)
