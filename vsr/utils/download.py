"""Files from the network: whole and checked, or not there at all."""

import fcntl
import http.client
import logging
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

from vsr.utils.files import cache_root, sha256

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT = 30  # seconds without an answer or a byte


class InterruptedTransferError(OSError):
    """The other side could not be reached, or ended the transfer too early."""


def download(url: str, target: Path, *, digest: str = "", report: Callable[[int, int], None] | None = None) -> None:
    """Fetch ``url`` into ``target``; nothing is under that name before all of it has come and has been checked.

    What comes is kept beside it, with '.part' behind the name. If the transfer breaks off, the next call goes on
    from there, where the server can, and either a digest will prove that the pieces fit or the server says that its
    file is still the same one (its ETag or date, kept in '.part.tag'). Proxies are taken from the environment
    (``https_proxy``).

    Args:
        url: http or https.
        target: Its folder is made.
        digest: SHA-256 in hexadecimal, whole or its first digits; '': not known, only the length is checked.
        report: Called with the bytes that have come, and with those expected (0: not known).

    Raises:
        InterruptedTransferError: nothing, or not all of it, has come; the same call later goes on.
        ValueError: what has come is not what the digest says; it is deleted.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: expected a http or https address.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    tag = _tag_file(part)
    if not digest and not tag.is_file():
        part.unlink(missing_ok=True)  # nothing could show that two pieces belong to one file
    try:
        _transfer(url, part, report)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        come = part.stat().st_size if part.is_file() else 0
        raise InterruptedTransferError(f"{url}: could not fetch it, {come} bytes came: {error}.") from error
    check(part, digest)
    os.replace(part, target)
    tag.unlink(missing_ok=True)


def fetch_once(url: str, digest: str) -> Path:
    """Return the file of ``url`` in the cache's folder 'weights', fetched if it is not there.

    Several processes may ask at a time: one fetches, the others wait.

    Args:
        url: http or https; its last part names the file.
        digest: SHA-256 in hexadecimal, whole or its first digits.

    Raises:
        InterruptedTransferError: it could not be fetched; the text says where to put it by hand.
        ValueError: the file there, or the one that came, is not what the digest says.
    """
    name = Path(urllib.parse.urlsplit(url).path).name
    if not name or not digest:
        raise ValueError(f"{url}: expected the address of a file, and its SHA-256, got {name!r} and {digest!r}.")
    target = cache_root() / "weights" / name
    if _is_there(target, digest):  # perhaps in a cache that is shared, and nobody may write to
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{name}.lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if _is_there(target, digest):  # another process has fetched it meanwhile
            return target
        log.info("fetching %s", url)
        try:
            download(url, target, digest=digest)
        except InterruptedTransferError as error:
            raise InterruptedTransferError(
                f"{error} Behind a proxy, set https_proxy. For a machine without a connection, fetch it elsewhere "
                f"and put it here as {target}"
            ) from error
    return target


def _is_there(target: Path, digest: str) -> bool:
    if not target.is_file():
        return False
    if not (found := sha256(target)).startswith(digest):
        raise ValueError(
            f"{target}: expected a file whose SHA-256 begins with {digest}, got {found}. "
            "Correct the digest, or delete the file to have it fetched again."
        )
    return True


def check(file: Path, digest: str) -> None:
    """Delete ``file`` and raise ValueError unless its SHA-256 begins with ``digest``."""
    found = sha256(file)
    if not found.startswith(digest):
        file.unlink()
        raise ValueError(
            f"{file}: expected a file whose SHA-256 begins with {digest}, got {found}. "
            "It was deleted. Fetch it again; if it stays so, the source has changed or something on the way has."
        )


def _transfer(url: str, part: Path, report: Callable[[int, int], None] | None) -> None:
    """Append to ``part`` what is missing of ``url``, or write it anew where the server sends all of it."""
    have, tag = part.stat().st_size if part.is_file() else 0, _tag_file(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.is_file():
        headers["If-Range"] = tag.read_text(encoding="utf-8")  # another file since then: all of it is sent
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: there is nothing from here on
            raise
        if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
            return
        part.unlink()
        _transfer(url, part, report)
        return
    with answer:
        begin = 0
        if answer.status == 206:
            begin = have
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise http.client.HTTPException(f"asked for bytes {have}-, got another range")
        length = int(answer.headers.get("Content-Length") or 0)
        total, come = begin + length if length else 0, begin
        with part.open("ab" if begin else "wb") as file:
            if not begin:
                _remember(tag, answer.headers)  # only now: what lay there is gone
            while block := answer.read(BLOCK):
                file.write(block)
                come += len(block)
                if report is not None:
                    report(come, total)
            file.flush()
            os.fsync(file.fileno())
        if total and come != total:
            raise http.client.HTTPException(f"expected {total} bytes, got {come}")


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _remember(tag: Path, headers: Message) -> None:
    """Keep what tells this version of the file from others: a strong ETag, or else the date of the last change."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    if version.isprintable() and version:
        tag.write_text(version, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)
