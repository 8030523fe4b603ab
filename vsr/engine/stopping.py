"""Signals that ask a run to stop: it saves its state first, every process at the same step."""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from vsr.utils import dist
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)

Item = TypeVar("Item")
MARKER = "PREEMPTED"  # in the run folder of a run that a scheduler has stopped, until it goes on
_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


class StopRequest:
    """Notes the signals that ask for the run's end; the loop asks whether there was one.

    SIGTERM and SIGUSR1 come from schedulers that want the machine back, SIGHUP from a terminal that is closed, SIGINT
    from Ctrl-C; a second Ctrl-C does not wait for the end of the step. Only the main thread of a program can listen;
    in another one nothing is noted.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
                # Of a run in the background Ctrl-C means another one; a handler that is not Python's (None:
                # faulthandler.register) could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number  # and little else: a handler may run in the middle of anything
        dist.told_to_end = dist.told_to_end or number == signal.SIGTERM

    def here(self) -> bool:
        """Whether this process was asked to stop."""
        return self._noted is not None

    def asked(self) -> bool:
        """Whether any process was asked to stop; all call it, and get the same answer."""
        return dist.any_process(self.here())

    def until(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items as long as this process is not asked to stop."""
        for item in items:
            if self.here():
                return
            yield item

    def leave(self, folder: Path, step: int) -> None:
        """Tell of a run that was stopped after its state of ``step`` had been saved; call on every process.

        Raises:
            KeyboardInterrupt: it was stopped by Ctrl-C on this process.
        """
        if self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(self._noted).name if self._noted else "a signal to another process"
        log.warning("stopped by %s after step %d; the state is saved, the same command continues", name, step)
        if dist.is_main():
            try:
                with atomic_write(folder / MARKER, "w") as file:
                    json.dump({"step": step, "signal": name, "time": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
            except OSError as error:  # the state is there, which counts
                log.warning("%s", error)

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
