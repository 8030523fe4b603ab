"""Files that are either whole or absent, whenever the process dies, and where those go that can be made again."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def cache_root() -> Path:
    """Return the folder for files that can be made again: $VSR_CACHE, or vsr in the user's cache folder."""
    if own := os.environ.get("VSR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsr"


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb", *, size: int = 0) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; when the block ends well it takes path's place.

    The data and then the folder entry are flushed to the disk, so that after a power cut ``path``
    holds the old content or the new one. A failure leaves ``path`` as it was.

    Args:
        path: What is written.
        mode: 'wb', or 'w' for text in UTF-8.
        size: Bytes that will come, if that is known: a disk without room for them is refused before the first one.

    Raises:
        OSError: with the path in its text; if the disk is full also with what is needed and what is free.
    """
    umask = os.umask(0)
    os.umask(umask)
    name = path.name[:40]  # the file system allows 255 bytes, of which a character takes up to four
    try:
        if size > shutil.disk_usage(path.parent).free:  # full for us is full for everybody else
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, _explained(path, error, size)) from error
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            os.fchmod(file.fileno(), 0o666 & ~umask)  # mkstemp's 0600 would lock colleagues out
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        fault = _write_fault(error)
        if fault is None:
            raise
        raise OSError(fault.errno, _explained(path, fault, max(size, os.path.getsize(temporary)))) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _write_fault(error: BaseException) -> OSError | None:
    """Return the failed write that an error tells of; None: it tells of something else.

    torch.save goes on to close its archive after a failed write, and then tells of that: of an 'unexpected pos'.
    """
    seen: BaseException | None = error
    while seen is not None:
        # An error with a file name is of another file: that one was opened, ours was written to.
        if isinstance(seen, OSError) and seen.errno in (*_FULL, errno.EIO) and seen.filename is None:
            return seen
        seen = seen.__context__
    return None


def _explained(path: Path, fault: OSError, need: int) -> str:
    """Say what kept ``path`` from being written; ``need``: bytes, as far as they are known."""
    reason = os.strerror(fault.errno or 0)
    if fault.errno in _FULL:
        limit = "" if fault.errno == errno.ENOSPC else f" ({reason})"
        return (
            f"{path}: no space left on the disk{limit}: need {need / 1e6:.1f} MB or more, "
            f"free {shutil.disk_usage(path.parent).free / 1e6:.1f} MB at {path.parent}. "
            "The files written before are untouched. Free some space and start the same command again"
        )
    if not path.parent.is_dir():
        reason = f"the folder {path.parent} is gone"
    return f"{path}: could not be written: {reason}. The files written before are untouched. Check the disk"


def temporary_beside(path: Path) -> Path:
    """Return the hidden name under which a file is written before it takes ``path``'s place.

    It is the same at every call, so that the next run writes over what a killed one has left, and keeps the suffix.
    """
    name = f".part.{path.name}"
    if len(os.fsencode(name)) > 255:
        name = f".part.{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{path.suffix}"
    return path.with_name(name)


def way_to(path: str | Path, folder: str | Path) -> str:
    """Return the way from a folder to a path, links resolved: it stays right when both are moved together."""
    return os.path.relpath(os.path.realpath(os.path.expanduser(path)), os.path.realpath(os.path.expanduser(folder)))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
