"""Killing scripts in the middle of their work, and comparing what they leave."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kit import ROOT


def environment() -> dict[str, str]:
    """Return the environment that scripts are started with: no GPU, one thread."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def kill_and_repeat(
    command: Sequence[str], target: Path, *, after: int, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Start a command, kill -9 it and all its processes in the middle, and run it again to its end.

    Args:
        command: The script and its arguments.
        target: The folder whose finished outputs are counted (hidden files and vsr.json are none).
        after: Number of outputs that must be there when it is killed; it must write more than these.
        timeout: Seconds for each of the two runs.

    Returns:
        The second run, which must have ended with status 0; output and errors together in its stdout.
    """
    process = subprocess.Popen(
        list(command), env=environment(), text=True, stdout=-1, stderr=subprocess.STDOUT, start_new_session=True
    )
    end = time.monotonic() + timeout
    try:
        while _outputs(target) < after:
            if process.poll() is not None:
                raise AssertionError(f"it ended before it was killed:\n{process.communicate()[0]}")
            assert time.monotonic() < end, f"no {after} outputs within {timeout} s"
            time.sleep(0.001)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed:\n{output}"
    again = subprocess.run(
        list(command),
        env=environment(),
        text=True,
        stdout=-1,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    assert again.returncode == 0, again.stdout
    return again


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, hidden ones too; of a link its goal; of a folder ''."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def _outputs(folder: Path) -> int:
    count = 0
    for _, _, files in os.walk(folder):  # goes on when a folder vanishes
        count += sum(not name.startswith(".") and name != "vsr.json" for name in files)
    return count
