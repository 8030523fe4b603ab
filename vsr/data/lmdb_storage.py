"""Images in an LMDB: BasicSR's, EDVR's of 2019, and vsr's own (``vsr.data.lmdb_writer``).

An LMDB is a folder with data.mdb, and a list of what is in it: meta_info.txt of BasicSR and vsr, lines
``key.png (h,w,c) level``, or meta_info.pkl of 2019. The key of an image is its path without suffix,
'000/00000000'; that of 2019 has '_' for the last '/'. To the data sets an image looks like a file:
'ROOT.lmdb/000/00000000.png'.
"""

import difflib
import logging
import os
import re
import struct
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from vsr.data.activity import note_file
from vsr.data.augment import Region
from vsr.data.encodings import Picture
from vsr.data.plain_pickle import read_plain_pickle
from vsr.data.storage import Clip, existing, in_order, named_clips, stem
from vsr.utils.images import Array, Frame

log = logging.getLogger(__name__)

CHECKED_AT_START = 1000  # keys of the list, evenly spaced, that are looked up before the first step
SEARCHED = 20000  # keys that are compared with a missing one

_LINE = re.compile(r"(\S.*?)\s+\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)(?:\s+\d+)?")


@dataclass(frozen=True)
class Listing:
    """What the list beside a data.mdb says.

    Args:
        keys: Of all images.
        legacy: The LMDB is EDVR's of 2019: raw BGR pixels.
        shape: (height, width, channels) of the images of a legacy LMDB.
        shapes: Of those of a legacy LMDB whose sizes differ, by key.
    """

    keys: tuple[str, ...]
    legacy: bool = False
    shape: tuple[int, int, int] | None = None
    shapes: dict[str, tuple[int, int, int]] | None = None

    def shape_of(self, key: str) -> tuple[int, int, int] | None:
        return self.shapes[key] if self.shapes else self.shape


class LmdbStorage:
    """Images in LMDBs. For the methods see ``vsr.data.storage.Storage``.

    A database is opened by each process for itself, when it reads the first image.
    """

    def __init__(self) -> None:
        self._roots: dict[str, Listing] = {}  # by absolute path; of a modern one without its keys
        self._open: dict[str, Database] = {}
        self._last: tuple[str, Picture] | None = None  # crops, size and read of one image follow one another
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Open databases do not travel to another process."""
        return self.__dict__ | {"_open": {}, "_last": None}

    def clips(self, root: str, argument: str) -> dict[str, Clip]:
        path, listing = self._listing(root, argument)
        files: dict[str, list[str]] = {}
        for key in listing.keys:
            clip, _, frame = key.rpartition("_" if listing.legacy else "/")
            files.setdefault(clip or ".", []).append(f"{frame}.png")
        found = {
            name: Clip(name, path if name == "." else path / name, in_order(frames)) for name, frames in files.items()
        }
        return named_clips(found, path, argument)

    def images(self, root: str, argument: str) -> list[str]:
        return list(in_order([f"{key}.png" for key in self._listing(root, argument)[1].keys]))

    def held(self, root: str, argument: str) -> tuple[list[str], list[str]]:
        """As ``images`` of an LMDB that may lack some of what its list names: what there is, and the missing keys."""
        path = existing(root, argument)
        listing, database = read_listing(path), self._opened(str(path))
        self._roots[str(path)] = replace(listing, keys=())
        missing = [key for key in listing.keys if database.get(key) is None]
        lost = set(missing)
        return list(in_order([f"{key}.png" for key in listing.keys if key not in lost])), missing

    def listed(self, name: str, root: str | None = None) -> str:
        return f"{stem(name)}.png"

    def crops(self, path: str) -> bool:
        return self._picture(path).crops

    def read(self, path: str, region: Region | None = None) -> Frame:
        note_file(path)
        return self._picture(path).read(region)

    def size(self, path: str) -> tuple[int, int]:
        return self._picture(path).size

    def close(self) -> None:
        """Let go of the databases; the next read opens them again. What was read stays valid."""
        self._open, self._last = {}, None

    def _listing(self, root: str, argument: str) -> tuple[Path, Listing]:
        """Read and check the list of an LMDB; remember what reading its images takes."""
        path = existing(root, argument)
        if not (path / "data.mdb").is_file():
            raise ValueError(
                f"{argument}: expected an LMDB (a folder with data.mdb), got '{root}'. Make one of your images with "
                "scripts/make_lmdb.py, or set io_backend: {type: disk}."
            )
        try:
            listing = read_listing(path)
            database = self._opened(str(path))
            _check_keys(path, listing, database)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from error
        self._roots[str(path)] = replace(listing, keys=())
        return path, listing

    def _picture(self, path: str) -> Picture:
        if self._pid != os.getpid():  # a worker, forked: it opens the databases itself
            self.close()
            self._pid = os.getpid()
        last = self._last
        if last is None or last[0] != path:
            self._last = last = path, self._found(path)
        return last[1]

    def _found(self, path: str) -> Picture:
        root = next((root for root in self._roots if path.startswith(root + os.sep)), None)
        assert root is not None, path
        listing, name = self._roots[root], stem(path[len(root) + 1 :])
        key = name.replace(os.sep, "_") if listing.legacy else name
        database = self._opened(root)
        value = database.get(key)
        if value is None:
            raise ValueError(
                f"{root}: expected the key '{key}', got none. The nearest: {', '.join(_nearest(key, database))}. "
                "Was the LMDB made of other images, or by another naming of the frames?"
            )
        return Picture(value, path, shape=listing.shape_of(key), array=database.array)

    def _opened(self, root: str) -> "Database":
        if root not in self._open:
            self._open[root] = open_database(Path(root))
        return self._open[root]


# --- one database --------------------------------------------------------------------------------


class Database:
    """An LMDB that is read only: no lock file is needed or made, and the folder may be read-only.

    Use ``open_database``. What ``get`` returns is valid as long as the object is.
    """

    def __init__(self, path: Path) -> None:
        file = path / "data.mdb"
        check_whole(file)
        try:
            # Reading ahead would fill the memory with what nobody asked for once the file does not fit into it.
            self._environment = lmdb.open(
                str(path), readonly=True, lock=False, readahead=file.stat().st_size < _memory() // 2
            )
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as error:
            raise ValueError(f"{path}: expected an LMDB, but it cannot be opened: {error}. Make it again.") from error
        self._lock = threading.Lock()  # a transaction is for one thread at a time; decoding goes on outside

    def __len__(self) -> int:
        return self._environment.stat()["entries"]

    def get(self, key: str) -> memoryview | None:
        encoded = key.encode()
        with self._lock:
            return self._transaction.get(encoded) if 0 < len(encoded) < 512 else None

    def keys(self, start: str = "") -> Iterator[str]:
        """Yield the keys in the order of their bytes, from ``start`` on."""
        with self._transaction.cursor() as cursor:
            if cursor.set_range(start.encode()) if start else cursor.first():
                for key in cursor.iternext(values=False):
                    yield bytes(key).decode(errors="replace")

    def array(self, data: memoryview) -> Array:
        """View a part of the memory map as uint8. The map stays open as long as the array or a view of it lives."""
        return np.asarray(_Mapped(data, self))


class _Mapped:
    """A part of the memory map as numpy asks for it: the array keeps this object, and with it the database."""

    def __init__(self, data: memoryview, database: Database) -> None:
        self.__array_interface__ = np.frombuffer(data, np.uint8).__array_interface__
        self.database = database


_databases: weakref.WeakValueDictionary[tuple[int, int], Database] = weakref.WeakValueDictionary()


def open_database(path: Path) -> Database:
    """Open an LMDB, or return the one that this process has open: lmdb refuses to open a file twice.

    Raises:
        ValueError: it is truncated or no LMDB.
    """
    state = (path / "data.mdb").stat()
    database = _databases.get((state.st_dev, state.st_ino))
    # One that is inherited from the parent process lives on only where an array of it does. Reading it is safe,
    # as it has no locks; closing it under the array would not be.
    if database is None:
        database = _databases[state.st_dev, state.st_ino] = Database(path)
    return database


def check_whole(file: Path) -> None:
    """Compare the size of a data.mdb with what its header says: reading beyond the end kills the process (SIGBUS).

    The two first pages are headers, of which the one with the higher transaction counts. Source: LMDB
    0.9, mdb.c, MDB_page and MDB_meta.

    Raises:
        ValueError: the file is truncated or no LMDB.
    """
    size = file.stat().st_size
    needed = 0
    with file.open("rb") as stream:
        newest, page = -1, 0
        for _ in range(2):
            stream.seek(page)
            head = stream.read(152)
            if len(head) < 152:
                break
            magic, version = struct.unpack_from("=II", head, 16)
            if (magic, version) != (0xBEEFC0DE, 1):
                raise ValueError(f"{file}: expected an LMDB's data file, got another. Copy or make it again.")
            page = struct.unpack_from("=I", head, 40)[0]
            last, transaction = struct.unpack_from("=QQ", head, 136)
            if transaction > newest:
                newest, needed = transaction, (last + 1) * page
    needed = max(needed, 2 * (page or 4096))
    if size < needed:
        raise ValueError(
            f"{file}: expected {needed} bytes as its header says, got {size}: the file is truncated. "
            "Copy or make it again."
        )


# --- lists of keys -------------------------------------------------------------------------------


def read_listing(path: Path) -> Listing:
    """Read what an LMDB says it holds: from meta_info.txt or meta_info.pkl, or else from the database.

    Raises:
        ValueError: the list is damaged or empty.
    """
    if (path / "meta_info.txt").is_file():
        return Listing(tuple(_text_keys(path / "meta_info.txt")))
    if (path / "meta_info.pkl").is_file():
        return _legacy_listing(path / "meta_info.pkl")
    keys = tuple(open_database(path).keys())
    if not keys:
        raise ValueError(f"{path}: expected images, got an empty LMDB. Make it again.")
    return Listing(keys)


def _text_keys(file: Path) -> list[str]:
    keys: dict[str, None] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{file}:{number}: expected 'key.png (h,w,c) level', got '{line.strip()[:100]}'.")
        key = match[1].removesuffix(".png")
        if key in keys:
            raise ValueError(f"{file}:{number}: expected each key once, got '{key}' again. Make the LMDB again.")
        keys[key] = None
    if not keys:
        raise ValueError(f"{file}: expected lines 'key.png (h,w,c) level', got an empty file. Make the LMDB again.")
    return list(keys)


def _legacy_listing(file: Path) -> Listing:
    """EDVR's of 2019: {'name', 'resolution': 'c_h_w' or a list of one or of one for each key, 'keys': [...]}."""
    meta = read_plain_pickle(file)
    keys = meta.get("keys") if isinstance(meta, dict) else None
    given = meta.get("resolution") if isinstance(meta, dict) else None
    texts = [given] if isinstance(given, str) else given
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{file}: expected a dict with a list of 'keys', got another thing. Make the LMDB again.")
    if not isinstance(texts, list) or len(texts) not in (1, len(keys)):
        raise ValueError(f"{file}: expected one 'resolution' or one for each of {len(keys)} keys, got {given!r:.100}.")
    shapes = []
    for text in texts:
        match = re.fullmatch(r"([13])_([1-9]\d*)_([1-9]\d*)", str(text))
        if match is None:
            raise ValueError(f"{file}: expected resolutions '3_720_1280' (channels, height, width), got {text!r:.80}.")
        shapes.append((int(match[2]), int(match[3]), int(match[1])))
    if len(set(shapes)) == 1:
        return Listing(tuple(keys), legacy=True, shape=shapes[0])
    return Listing(tuple(keys), legacy=True, shapes=dict(zip(keys, shapes, strict=True)))


def _check_keys(path: Path, listing: Listing, database: Database) -> None:
    """Compare the list with the database, as far as that takes no time."""
    listed, held = len(listing.keys), len(database)
    if listed > held:
        raise ValueError(
            f"{path}: expected the {listed} images that its meta_info lists, got {held} in data.mdb. "
            "The one or the other is from an earlier build; copy both again, or make the LMDB again."
        )
    if listed < held:
        log.info("%s: its meta_info lists %d of the %d images in data.mdb; the others are not used", path, listed, held)
    for key in listing.keys[:: -(-listed // CHECKED_AT_START)]:
        if database.get(key) is None:
            raise ValueError(
                f"{path}: expected the key '{key}' that its meta_info lists, got none in data.mdb. "
                f"The nearest: {', '.join(_nearest(key, database))}. Copy both files again, or make the LMDB again."
            )


def _nearest(key: str, database: Database) -> Sequence[str]:
    """Return the three keys most like ``key``, of a large database among those that follow its first letters."""
    start = "" if len(database) <= SEARCHED else key[: len(key) // 2]
    keys = [known for known, _ in zip(database.keys(start), range(SEARCHED), strict=False)]
    return difflib.get_close_matches(key, keys, n=3, cutoff=0.0) or ["none"]


def _memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
