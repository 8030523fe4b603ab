"""Where log lines go: rank 0's to the screen and to a file, the others' errors to the screen."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vsr.utils import dist

log = logging.getLogger(__name__)


class _Stream:
    """A standard stream that may go away (``train.py 2>&1 | head``, a terminal that is closed) without ending the run.

    What is written to it later is dropped.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._leave(error)

    def _leave(self, error: Exception) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
        log.warning("nothing can be written to the screen any more (%s); the run and its log file go on", error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Screen(logging.Handler):
    """Writes through tqdm, so that a line does not cut a progress bar in two."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # as logging's own handlers do: what cannot be told ends nothing
            self.handleError(record)


class _File(logging.handlers.WatchedFileHandler):
    """A log file that follows its name when it is moved away (log rotation), and whose failures end nothing."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it cannot be opened again
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            log.warning("%s: could not be written: %s; the run goes on", self.baseFilename, error)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what was still to be written
            self.handleError(logging.makeLogRecord({}))


def setup() -> None:
    """Send vsr's log lines to the screen. Called once, by the entry points."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Stream):  # None: it was closed before the program started
            setattr(sys, name, _Stream(stream or open(os.devnull, "w", encoding="utf-8")))  # noqa: SIM115
    logger = logging.getLogger("vsr")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    screen = _Screen(logging.INFO if dist.is_main() else logging.ERROR)
    prefix = "" if dist.is_main() else f"[rank {dist.rank()}] "
    screen.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logger.addHandler(screen)


def to_file(path: Path) -> None:
    """Append the log lines, with their tracebacks, to ``path`` and no other file; on rank 0 alone."""
    logger = logging.getLogger("vsr")
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    if not dist.is_main():
        return
    try:
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        log.warning("%s: could not be opened: %s; the run goes on without it", path, error)
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
