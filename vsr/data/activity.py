"""What each worker of a loader is reading, in memory that it shares with the process that wants to know.

A worker that is killed, or hangs, can tell nothing any more: so it notes what it is about before it begins.
"""

import ctypes
import multiprocessing.context
import struct
import time
from typing import NamedTuple

_FIELDS = {"item": (16, 128), "key": (144, 368), "file": (512, 512)}  # name: (first byte, bytes); times stand before
_BYTES = 1024  # of a worker
_TIME = struct.Struct("<d")  # when the worker began with the sample; 0: it is at none

_own: memoryview | None = None  # of this process, if it is a worker


class Doing(NamedTuple):
    """What a worker is doing: for how many ``seconds``, with which item, sample and file, as far as it said."""

    seconds: float
    item: str
    key: str
    file: str

    def __str__(self) -> str:
        sample = f"sample {self.key} ({self.item})" if self.key else self.item
        return f"{sample}, file {self.file}" if self.file else sample


class Activity:
    """The notes of a loader's workers.

    Args:
        workers: How many there are.
        context: How they are started.
    """

    def __init__(self, workers: int, context: multiprocessing.context.BaseContext) -> None:
        self._memory = context.RawArray(ctypes.c_char, workers * _BYTES)

    def of(self, worker: int) -> Doing | None:
        """Return what a worker is doing, or was doing when it died; None: it has no sample in work."""
        row = self._row(worker)
        (began,) = _TIME.unpack_from(row)
        if not began:
            return None
        item, key, file = (
            bytes(row[start : start + size]).partition(b"\0")[0].decode(errors="replace")
            for start, size in _FIELDS.values()
        )
        return Doing(max(0.0, time.monotonic() - began), item, key, file)

    def note_as(self, worker: int) -> None:
        """Let what this process notes from now on be a worker's notes."""
        global _own
        _own = self._row(worker)

    def _row(self, worker: int) -> memoryview:
        return memoryview(self._memory).cast("B")[worker * _BYTES : (worker + 1) * _BYTES]


def begin(item: str) -> None:
    """Note that a sample is begun with; in a process that is no worker nothing is noted, here and below."""
    if _own is not None:
        _write("key", "")
        _write("file", "")
        _write("item", item)
        _TIME.pack_into(_own, 0, time.monotonic())


def note_key(key: str) -> None:
    """Note the name of the sample, once it is known."""
    _write("key", key)


def note_file(path: str) -> None:
    """Note the file that is about to be read."""
    _write("file", path)


def end() -> None:
    """Note that the sample is done."""
    if _own is not None:
        _TIME.pack_into(_own, 0, 0.0)


def _write(name: str, text: str) -> None:
    if _own is None:
        return
    start, size = _FIELDS[name]
    content = text.encode(errors="replace")
    if len(content) >= size:  # the end says more than the beginning
        content = b"..." + content[len(content) - size + 4 :]
    _own[start : start + len(content) + 1] = content + b"\0"
