"""The folder of a run: made, resumed, archived, and guarded against a second writer."""

import datetime
import errno
import fcntl
import logging
import os
import tempfile
from pathlib import Path
from typing import IO

from vsr.config import Options, dump_options
from vsr.utils import dist
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)


class RunFolder:
    """``experiments/NAME`` and what lies in it.

    Construct it on every process; rank 0 makes the folders, takes the lock and archives.

    Args:
        options: Name and place of the run.
        fresh: Start over: an existing folder is renamed, never deleted.

    Raises:
        RuntimeError: another process is training in this folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, options: Options, *, fresh: bool) -> None:
        self.root = run_root(options)
        self.models = self.root / "models"
        self.states = self.root / "training_states"
        self.visualization = self.root / "visualization"
        self._lock: IO[str] | None = None
        if dist.is_main():
            try:
                self._open(fresh=fresh)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"path.experiments_root: expected a place for the run's folder '{self.root}' that can be written "
                    f"to, got: {error}. Nothing was deleted. Choose another one, or repair it",
                ) from error
        dist.barrier()

    def _open(self, *, fresh: bool) -> None:
        """Make the folders, take the lock, and see whether files can be written: now, not after thousands of steps."""
        if fresh and self.root.exists():
            self._take_lock()  # the folder of a run that is still going is not renamed
            archive(self.root)
            self.close()
        for folder in (self.models, self.states):
            folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        for folder in (self.root, self.models, self.states):
            for leftover in folder.glob(".*.tmp"):  # of a write that a killed process began
                leftover.unlink()
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")

    def has_taken(self, state: str) -> bool:
        """Whether this run started from ``state`` already; the answer is yes from now on."""
        note = self.root / "resumed_from.txt"
        taken = note.is_file() and note.read_text(encoding="utf-8") == state
        if not taken:
            with atomic_write(note, "w") as file:
                file.write(state)
        return taken

    def _take_lock(self) -> None:
        path = self.root / ".lock"
        self._lock = path.open("a+")
        try:
            # The system frees it whenever we die. Unlike flock's it is not inherited by the loader's
            # workers, which outlive a killed run by seconds, and would keep the next one out.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                log.warning("%s: not guarded against a second run: its file system has no locks (%s)", self.root, error)
                return
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            raise RuntimeError(
                f"{self.root}: expected no other run in this folder, but process {holder} is training in it. "
                "Wait for it, stop it, or give this run another name."
            ) from error
        if not os.path.samestat(os.fstat(self._lock.fileno()), path.stat()):
            raise RuntimeError(
                f"{self.root}: expected no other run in this folder, but one has begun to archive it at this moment. "
                "Start one of them only, or give this run another name."
            )
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def close(self) -> None:
        if self._lock:
            self._lock.close()


def run_root(options: Options) -> Path:
    """Return the folder of the run, which need not exist yet."""
    return Path(options.path.experiments_root) / options.name


def write_options(folder: Path, options: Options) -> None:
    """Write the complete options, with which a run or a test can be repeated; call on rank 0 alone."""
    with atomic_write(folder / "options.yml", "w") as file:
        file.write(dump_options(options))


def archive(folder: Path) -> None:
    """Rename an existing folder to ``<name>_archived_<time>``, so that its place is free."""
    if not folder.exists():
        return
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    target = folder.with_name(f"{folder.name}_archived_{stamp}")
    count = 1
    while target.exists():  # twice within one second
        count += 1
        target = folder.with_name(f"{folder.name}_archived_{stamp}_{count}")
    folder.rename(target)
    log.info("archived the folder of an earlier run: %s", target)
