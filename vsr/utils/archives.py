"""Unpacking archives of unknown origin: nothing leaves the folder, nothing of the user's is lost, no half files."""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vsr.utils.files import atomic_write, temporary_beside
from vsr.utils.progress import Progress, size_text

log = logging.getLogger(__name__)

MAX_BYTES = 4 << 40
MAX_MEMBERS = 4_000_000
MAX_RATIO = 100  # unpacked bytes for each byte of the archive; images hardly shrink at all
SMALL = 64 << 20  # bytes that any archive may unpack to
MARKS = ".unpacked.json"  # in the folder: the archives that were unpacked to their end

_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Member:
    """A file or a folder of an archive.

    Args:
        name: Its path below the folder.
        size: Bytes when unpacked.
        crc: CRC-32 of the content; None: the archive does not say.
        folder: It is a folder.
        handle: What the archive's library calls it by.
    """

    name: str
    size: int
    crc: int | None
    folder: bool
    handle: Any


def safe_unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    wanted: Callable[[str], bool] | None = None,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    dry_run: bool = False,
) -> list[str]:
    """Unpack a zip or tar archive (plain, gz, bz2 or xz) into a folder and return the paths of its files.

    All names and sizes are looked at before anything is written. Each file takes its name when it is whole and its
    checksum is right, so a run that was killed is gone on with by calling this again: files that are there already
    are compared, not written. An archive that was unpacked to its end is left alone the next time.

    Args:
        archive: The archive's file.
        folder: Where to; it is made.
        wanted: Tells of a path whether to unpack it; None: all of them.
        max_bytes: Of all files together.
        max_members: Number of entries.
        dry_run: Look at all, write nothing.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is damaged or encrypted; it has links, devices, absolute paths, '..', one name twice, or too much
            in it; or another file has the name of one of its files already.
        OSError: the disk is full or read-only.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: expected a zip or tar archive, got nothing. Check the path.")
    state = archive.stat()
    identity = [archive.name, state.st_size, state.st_mtime_ns]
    done = _marks(folder)
    with _opened(archive) as (members, read):
        chosen = _checked(archive, members, max_bytes, max_members)
        if wanted is not None:
            chosen = [member for member in chosen if wanted(member.name)]
        names = [member.name for member in chosen]
        missing = [member for member in chosen if _size(folder / member.name) != member.size]
        if dry_run or (identity in done and not missing):
            return names
        _check_room(archive, folder, sum(member.size for member in missing))
        progress = Progress(archive.name, len(chosen), unit="files")
        try:
            for member in chosen:
                _unpack(archive, member, read, folder)
                progress.step()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _no_room(archive, folder, sum(member.size for member in missing)) from error
            raise
        if wanted is None:
            os.sync()  # the mark says that the files are on the disk
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / MARKS, "w") as file:
                json.dump([*(mark for mark in done if mark[:1] != identity[:1]), identity], file)
        progress.end()
    return names


# --- the two kinds of archives -------------------------------------------------------------------


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tuple[Iterator[_Member], Callable[[Any], IO[bytes]]]]:
    """Open an archive: its members, and how to read one. Any damage becomes a ValueError."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield _zip_members(archive, file), file.open
        else:
            with tarfile.open(archive) as tar:
                yield _tar_members(archive, tar), lambda member: _not_none(tar.extractfile(member))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, UnicodeDecodeError) as error:
        reason = "; ".join(line.strip(" -:") for line in str(error).splitlines())
        raise ValueError(
            f"{archive}: expected a whole zip or tar archive, got a damaged or cut one ({reason}). Fetch it again."
        ) from error
    except NotImplementedError as error:
        raise ValueError(f"{archive}: cannot be read here: {error}. Unpack it with another tool.") from error


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        name = info.filename.replace("\\", "/")  # some tools of Windows write these
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, name, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(archive, name, "is encrypted")
        folder = info.is_dir() or name.endswith("/") or kind == stat.S_IFDIR
        yield _Member(_inside(archive, name), info.file_size, info.CRC, folder, info)


def _tar_members(archive: Path, file: tarfile.TarFile) -> Iterator[_Member]:
    end = 0
    for info in file:
        if not info.isdir() and info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            raise _refused(archive, info.name, "is a link, a device or another thing that is no plain file")
        yield _Member(_inside(archive, info.name), info.size, None, info.isdir(), info)
        end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    assert file.fileobj is not None
    if file.fileobj.tell() < end + tarfile.BLOCKSIZE:  # no block of zeros ends it
        raise tarfile.ReadError("it has no end mark")


def _not_none(opened: IO[bytes] | None) -> IO[bytes]:
    assert opened is not None  # only plain files are asked for
    return opened


# --- what is refused -----------------------------------------------------------------------------


def _refused(archive: Path, name: str, why: str) -> ValueError:
    return ValueError(
        f"{archive}: expected plain files and folders inside the target, but '{name[:200]}' {why}. "
        "Nothing was unpacked; do not trust this archive."
    )


def _inside(archive: Path, name: str) -> str:
    """Return a member's path in one spelling; raise ValueError unless it stays inside the folder."""
    if re.match(r"/|[A-Za-z]:[/\\]", name):
        raise _refused(archive, name, "is an absolute path")
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise _refused(archive, name, "leads outside")
    if "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise _refused(archive, name, "is no name that a file can have")
    return "/".join(parts)


def _checked(archive: Path, members: Iterator[_Member], max_bytes: int, max_members: int) -> list[_Member]:
    """Return the files among the members; raise ValueError if they are too many, too large or not distinct."""
    allowed = min(max_bytes, max(SMALL, MAX_RATIO * archive.stat().st_size))
    files: dict[str, _Member] = {}
    folders: set[str] = set()
    total = 0
    for count, member in enumerate(members, start=1):
        if count > max_members:
            raise ValueError(f"{archive}: expected at most {max_members} entries, got more. Do not trust this archive.")
        folder = member.name if member.folder else member.name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
        if member.folder:
            continue
        if member.name in files or not member.name or member.name == MARKS or "/.part." in f"/{member.name}":
            raise _refused(archive, member.name, "is there twice, or has a name that is taken")
        files[member.name] = member
        total += member.size
        if total > allowed:
            raise ValueError(
                f"{archive}: expected at most {size_text(allowed)} of content in {size_text(archive.stat().st_size)}, "
                f"but it claims {size_text(total)} or more. Nothing was unpacked; do not trust this archive."
            )
    for name in files.keys() & folders:
        raise _refused(archive, name, "is both a file and a folder")
    return list(files.values())


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    if needed > _free(folder):
        raise _no_room(archive, folder, needed)


def _no_room(archive: Path, folder: Path, needed: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"{folder}: no space left: unpacking {archive.name} needs {size_text(needed)}, {size_text(_free(folder))} are "
        "free. Free some space and start the same command again",
    )


def _free(folder: Path) -> int:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


# --- writing -------------------------------------------------------------------------------------


def _unpack(archive: Path, member: _Member, read: Callable[[Any], IO[bytes]], folder: Path) -> None:
    """Write one file, or compare it with the one that is there."""
    target = folder / member.name
    there = _size(target)
    if there == member.size and _equal(member, read, target):
        return
    if there:  # an empty file is what a power cut leaves
        raise ValueError(
            f"{target}: expected nothing, or the same file as in {archive.name}, got another one of {there} bytes. "
            "Nothing is overwritten: remove it if it is half a file of another tool, or unpack into another folder."
        )
    if target.is_dir():
        raise ValueError(f"{target}: expected a file as in {archive.name}, got a folder. Move it away.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        with read(member.handle) as source, temporary.open("wb") as copy:
            come = 0
            while block := source.read(_BLOCK):  # the libraries end at the size that was claimed, and check the CRC
                copy.write(block)
                come += len(block)
        if come != member.size:
            raise ValueError(f"{archive}: expected {member.size} bytes of '{member.name}', got {come}. Fetch it again.")
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _equal(member: _Member, read: Callable[[Any], IO[bytes]], target: Path) -> bool:
    if member.crc is not None:
        with target.open("rb") as file:
            crc = 0
            while block := file.read(_BLOCK):
                crc = zlib.crc32(block, crc)
        return crc == member.crc
    with read(member.handle) as source, target.open("rb") as file:
        while block := source.read(_BLOCK):
            if block != file.read(len(block)):
                return False
    return True


def _size(path: Path) -> int | None:
    """Return a file's size; None: there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def _marks(folder: Path) -> list[list[Any]]:
    try:
        found = json.loads((folder / MARKS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [mark for mark in found if isinstance(mark, list)] if isinstance(found, list) else []
