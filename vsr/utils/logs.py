"""Where log lines go: rank 0's to the screen and to a file, the others' errors to the screen."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from vsr.utils import dist


class _Screen(logging.Handler):
    """Writes through tqdm, so that a line does not cut a progress bar in two."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup() -> None:
    """Send vsr's log lines to the screen. Called once, by the entry points."""
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
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
