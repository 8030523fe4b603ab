"""What breaks things on purpose: writes that fail, full disks, processes that die, files that lie.

Run as a script (``run_ranks`` does it) it starts another script with the faults of its environment built in.
"""

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import runpy
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from kit import kill as kill_all
from kit import launch, members, tensors
from torch import nn

FAULTS = "VSR_TEST_FAULTS"  # in the environment: JSON of what happens to whom, and when
HANG_SECONDS = 600.0

# ---- writing ------------------------------------------------------------------------------------


class FaultyFile:
    """A file that fails once more than ``write_limit`` bytes are written to it; what fits is written.

    Args:
        file: What is written to.
        write_limit: Bytes.
        action: 'kill' ends this process as kill -9 does; 'ENOSPC', 'EIO' raise the OSError of that name.
    """

    def __init__(self, file: IO[Any], write_limit: int, action: str) -> None:
        self._file, self._room, self._action = file, write_limit, action

    def write(self, data: Any) -> int:
        size = len(data)
        if size > self._room:
            self._file.write(data[: self._room])
            self._room = 0
            with contextlib.suppress(OSError):
                self._file.flush()
            if self._action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            number = getattr(errno, self._action)
            raise OSError(number, os.strerror(number))
        self._room -= size
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "FaultyFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def faulty_writes(names: str, write_limit: int, action: str, *, times: int = 1_000_000) -> Iterator[list[str]]:
    """Let atomic writes fail: of the files whose (temporary) names match ``names``, '*4.state*', the first ``times``.

    Yields:
        The names of the files that were met, to which each one is added.
    """
    met: list[str] = []
    original = os.fdopen

    def fdopen(descriptor: int, *arguments: Any, **keywords: Any) -> Any:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        file = original(descriptor, *arguments, **keywords)
        if not fnmatch.fnmatch(name, names):
            return file
        met.append(name)
        return FaultyFile(file, write_limit, action) if len(met) <= times else file

    os.fdopen = fdopen
    try:
        yield met
    finally:
        os.fdopen = original


@contextlib.contextmanager
def tmpfs(folder: Path, size: str = "2m") -> Iterator[Path]:
    """Mount an empty disk of ``size`` at a folder, which is made; the test is skipped where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if mount is None or subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("no right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(mounted: Path) -> None:
    """Let nothing more be written to the disk of ``tmpfs``; root, who heeds no folder's rights, is stopped, too."""
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)


def fill_up(mounted: Path, *, leave: int) -> Path:
    """Fill the disk of ``tmpfs`` but for ``leave`` bytes; return the file that does, to be removed again."""
    path = mounted / "filler"
    with path.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(mounted).free - leave)))
    return path


# ---- files --------------------------------------------------------------------------------------


def flip_byte(path: Path, at: float = 0.5) -> None:
    """Change one bit of the byte at this fraction of a file."""
    content = bytearray(path.read_bytes())
    content[min(int(len(content) * at), len(content) - 1)] ^= 1
    path.write_bytes(content)


def truncate(path: Path, fraction: float) -> None:
    """Leave this fraction of a file's beginning."""
    os.truncate(path, int(path.stat().st_size * fraction))


def state_hash(*parts: Any) -> str:
    """Return the SHA-256 of all tensors and numbers of modules, state dicts, lists; equal: equal bit for bit."""
    digest = hashlib.sha256()
    nested = [part.state_dict() if isinstance(part, nn.Module) else part for part in parts]
    for name, tensor in sorted(tensors(nested).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def bomb_png(side: int = 30000) -> bytes:
    """Return a PNG of ``side`` x ``side`` black pixels, which 100 kB hold and gigabytes unpack."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    pixels = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)  # one bit a pixel
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def stub_program(folder: Path, name: str, *, output: str = "", status: int = 0) -> Path:
    """Put a program in ``folder``, to be put before the others on PATH, that prints ``output``.

    Returns:
        The file to which it appends the arguments of each call, one a line, and an empty line after them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program, calls, text = folder / name, folder / f"{name}.calls", folder / f"{name}.output"
    text.write_text(output, encoding="utf-8")
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" '' >> '{calls}'\nwhile IFS= read -r line; do printf '%s\\n' \"$line\"; done "
        f"< '{text}'\nexit {status}\n",
        encoding="utf-8",
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return calls


# ---- processes ----------------------------------------------------------------------------------


def in_child(function: Callable[[], object], *, timeout: float = 60) -> int:
    """Run a function in a fork of this process; return its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + timeout
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"the child did not end within {timeout} s")
        time.sleep(0.005)


class Ranks(NamedTuple):
    """How a run of several processes ended; ``left``: its processes that were still there 5 seconds later."""

    status: int
    output: str
    seconds: float
    left: list[int]


def run_ranks(
    n: int, script: str | Path, *arguments: str, timeout: float = 120, torchrun: Sequence[str] = (),
    environment: Mapping[str, str] | None = None, **faults: Any,
) -> Ranks:  # fmt: skip
    """Run a script on ``n`` processes (torchrun --standalone; 1: alone), break it, and kill what is left in the end.

    Args:
        script: A path, as from the repository's root; 'train.py'.
        torchrun: More of torchrun's own options, '--max-restarts=1'.
        environment: Added to this one.
        faults: As ``start_ranks`` takes them.
    """
    start = time.monotonic()
    process = start_ranks(n, script, *arguments, torchrun=torchrun, environment=environment, **faults)
    try:
        output, _ = process.communicate(timeout=timeout)
        seconds, end = time.monotonic() - start, time.monotonic() + 5
        while (left := members(process)) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        kill_all(process)
    return Ranks(process.returncode, output, seconds, left)


def start_ranks(
    n: int, script: str | Path, *arguments: str, torchrun: Sequence[str] = (),
    environment: Mapping[str, str] | None = None, kill: Mapping[int, int] | None = None,
    hang: Mapping[int, int] | None = None, fail: Mapping[int, int] | None = None, term: Mapping[int, int] | None = None,
    nan: Mapping[int, int] | None = None, writes: tuple[str, int, str] | None = None,
) -> subprocess.Popen[str]:  # fmt: skip
    """Start what ``run_ranks`` runs; end it with ``kit.kill``.

    Faults happen once: not again in the processes of an elastic restart. Each is {rank: step}, at the step's beginning
    in a training; a script of one's own calls ``reach(step)``.

    Args:
        kill, hang, fail, term, nan: kill -9; sleep; raise RuntimeError; SIGTERM to itself; an input of NaN.
        writes: What ``faulty_writes`` takes, on rank 0 from the beginning.
    """
    steps = {"kill": kill, "hang": hang, "fail": fail, "term": term, "nan": nan}
    faults = {name: {str(rank): step for rank, step in (given or {}).items()} for name, given in steps.items()}
    added = {**(environment or {}), FAULTS: json.dumps({**faults, "writes": writes})}
    return launch(__file__, str(script), *arguments, world=n, torchrun=torchrun, environment=added)


def reach(step: int) -> str | None:
    """Let happen what this process's environment wants at ``step``; return the name of what the caller has to do."""
    faults = json.loads(os.environ.get(FAULTS, "{}"))
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return None
    for name in ("term", "kill", "hang", "fail", "nan"):
        if faults.get(name, {}).get(os.environ.get("RANK", "0")) != step:
            continue
        if name in ("kill", "term"):
            os.kill(os.getpid(), signal.SIGKILL if name == "kill" else signal.SIGTERM)
        elif name == "hang":
            time.sleep(HANG_SECONDS)
        elif name == "fail":
            raise RuntimeError(f"this process was told to fail at step {step}")
        else:
            return name
    return None


def _break_steps() -> None:
    """Let every step of a training begin with ``reach``."""
    from vsr.models.restoration import RestorationModel

    original = RestorationModel.train_step

    def train_step(self: RestorationModel, batches: list[Any], step: int) -> Any:
        if reach(step) == "nan":
            batches = [{**batch, "lq": batch["lq"].float() * float("nan")} for batch in batches]
        return original(self, batches, step)

    RestorationModel.train_step = train_step  # type: ignore[method-assign]


def _start(script: str, arguments: list[str]) -> None:
    """Run a script as if it had been started itself, with the faults in it."""
    if Path(script).name == "train.py":
        _break_steps()
    sys.argv = [script, *arguments]
    writes = json.loads(os.environ[FAULTS])["writes"]
    breaks = writes and os.environ.get("RANK", "0") == "0" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    with faulty_writes(*writes) if breaks else contextlib.nullcontext():
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _start(sys.argv[1], sys.argv[2:])
