"""Archives of data sets from their official addresses, one by one: one that fails does not lose the others."""

import logging
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsr.utils.download import InterruptedTransferError, download
from vsr.utils.progress import SECONDS_BETWEEN_LINES, size_text

log = logging.getLogger(__name__)

PATIENCE = 5  # attempts in a row that bring nothing
PAUSE = 5.0  # seconds before the next attempt


@dataclass(frozen=True)
class Archive:
    """An official zip archive.

    Args:
        file: Its name.
        addresses: Where it can be had directly, by the server's name.
        size: Bytes; 0: not known.
        digest: SHA-256; '': not known.
    """

    file: str
    addresses: Mapping[str, str]
    size: int = 0
    digest: str = ""


def fetch_archives(archives: Sequence[Archive], folder: Path, *, server: str, page: str) -> list[Path]:
    """Download archives that are not in ``folder`` yet, each as far as it gets, and return their files.

    Args:
        archives: In the order in which they are fetched.
        folder: It is made.
        server: A key of their addresses.
        page: The official page, for those who fetch by hand.

    Raises:
        InterruptedTransferError: some could not be fetched, and are named with their addresses; all others have been.
    """
    files, failures = [], []
    for archive in archives:
        target = folder / archive.file
        files.append(target)
        if target.is_file():
            log.info("%s: is there already", target)
            continue
        try:
            _fetch(archive, target, server)
        except (OSError, ValueError) as error:
            log.error("%s", error)
            failures.append(f"{archive.file} ({archive.addresses.get(server, page)})")
    if failures:
        raise InterruptedTransferError(
            f"{folder}: {len(failures)} of {len(archives)} archives could not be fetched: {', '.join(failures)}. "
            "The same command goes on where it stopped. For a machine without a connection fetch them elsewhere "
            f"(see {page}) and put them into {folder}"
        )
    return files


def _fetch(archive: Archive, target: Path, server: str) -> None:
    if server not in archive.addresses:
        raise ValueError(
            f"{archive.file}: expected a server among {', '.join(archive.addresses)}, got '{server}'. Name one of them."
        )
    address, part = archive.addresses[server], target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    come = part.stat().st_size if part.is_file() else 0
    free = shutil.disk_usage(target.parent).free
    if archive.size - come > free:
        raise OSError(
            f"{target}: no space left: {size_text(archive.size - come)} are still to come, {size_text(free)} are free. "
            "Free some space"
        )
    report = _Report(archive.file)
    idle = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            download(address, target, digest=archive.digest, report=report)
            break
        except InterruptedTransferError as error:
            gone_on = part.is_file() and part.stat().st_size > before
            idle = 0 if gone_on else idle + 1
            if not part.is_file() or idle >= PATIENCE:
                raise
            log.warning("%s Trying again.", error)
            time.sleep(PAUSE)
    if not zipfile.is_zipfile(target):
        with target.open("rb") as file:
            start = file.read(40)
        target.unlink()
        raise ValueError(
            f"{address}: expected a zip archive, got something that begins with {start!r}. It was deleted."
        )
    log.info("%s: is whole, %s", target, size_text(target.stat().st_size))


class _Report:
    """Tells in the log, every few seconds, how much of a file has come."""

    def __init__(self, name: str) -> None:
        self._name, self._told = name, time.monotonic()

    def __call__(self, come: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            log.info("%s: %s of %s", self._name, size_text(come), size_text(total) if total else "an unknown size")
