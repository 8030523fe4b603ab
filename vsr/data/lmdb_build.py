"""The data.mdb that is being written, image by image, and the journal of what is in it."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from vsr.data.lmdb_storage import check_whole
from vsr.utils.progress import size_text

BATCH_BYTES = 32 << 20  # of a commit, each of which waits for the disk
FIRST_MAP = 64 << 20  # bytes that LMDB may use; doubled whenever they are used up


@dataclass(frozen=True)
class Made:
    """An encoded image, and the line of the journal that goes with it."""

    key: str
    value: bytes
    line: list[Any]  # key, bytes and time of the file, height, width


class GrowingDatabase:
    """The data.mdb that is being written, and its journal."""

    def __init__(self, folder: Path) -> None:
        if (folder / "data.mdb").is_file():
            check_whole(folder / "data.mdb")
        self._folder, self._size = folder, FIRST_MAP
        self._environment = lmdb.open(str(folder), map_size=FIRST_MAP)
        self._size = max(FIRST_MAP, self._environment.info()["map_size"])
        self._journal = (folder / "journal.jsonl").open("a", encoding="utf-8")
        self._batch: list[Made] = []
        self._waiting = 0
        self.bytes = 0

    def __enter__(self) -> "GrowingDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._environment.close()

    def keep(self, wanted: Container[str]) -> None:
        """Remove all images but those whose keys are ``wanted``."""
        with self._environment.begin() as transaction:
            extra = [key for key in transaction.cursor().iternext(values=False) if key.decode() not in wanted]
        self._write([(key, None) for key in extra])

    def keys(self) -> set[str]:
        with self._environment.begin() as transaction:
            return {key.decode() for key in transaction.cursor().iternext(values=False)}

    def put(self, made: Made) -> None:
        self._batch.append(made)
        self._waiting += len(made.value)
        self.bytes += len(made.value)
        if self._waiting >= BATCH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write the batch: first the journal, so that no image is without its line."""
        try:
            self._journal.writelines(json.dumps(made.line) + "\n" for made in self._batch)
            self._journal.flush()
            os.fsync(self._journal.fileno())
            self._write([(made.key.encode(), made.value) for made in self._batch])
        except (OSError, lmdb.Error) as error:
            full = _is_full(error)
            reason = "no space left on the disk" if full else f"the disk did not take it all ({error})"
            raise OSError(
                errno.ENOSPC if full else errno.EIO,
                f"{self._folder}: {reason}, "
                f"{size_text(shutil.disk_usage(self._folder).free)} are free. What was written is kept: make room and "
                "run the same command with --resume",
            ) from error
        self._batch, self._waiting = [], 0

    def _write(self, items: list[tuple[bytes, bytes | None]]) -> None:
        """Write, or with None delete, in one transaction; with a larger map if this one is full."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in items:
                        if value is None:
                            transaction.delete(key)
                        else:
                            transaction.put(key, value)
                return
            except lmdb.MapFullError:  # the transaction is undone
                self._size *= 2
                self._environment.set_mapsize(self._size)


def read_journal(file: Path) -> dict[str, list[Any]]:
    """Return the last line of each key. The very last may be cut short."""
    lines: dict[str, list[Any]] = {}
    if not file.is_file():
        return lines
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(file, len(whole))  # the next line must not be appended to half of one
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):  # after a power cut
            entry = json.loads(line)
            if isinstance(entry, list) and len(entry) == 5:
                lines[entry[0]] = entry
    return lines


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
