"""What all scripts that prepare data share: an output folder of one's own, whole files, work in several processes.

A run that was killed is gone on with by the same command, and leaves what an uninterrupted one would have left.
"""

import argparse
import contextlib
import errno
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from filelock import FileLock, Timeout

from vsr.utils.archives import safe_unpack as safe_unpack
from vsr.utils.files import atomic_write, temporary_beside
from vsr.utils.progress import Progress, size_text

log = logging.getLogger(__name__)

RECIPE = "vsr.json"  # in an output folder: what it is made of
LOCK = ".vsr.lock"  # held by the process that writes into it

_METHODS = multiprocessing.get_all_start_methods()

Job = TypeVar("Job")
Result = TypeVar("Result")


def script_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all these scripts have: --workers and --dry_run."""
    parser.add_argument(
        "--workers",
        type=_count,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        help="processes that work at a time; 0: none but this one (default: one for each core, %(default)s)",
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="look and tell, write nothing")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or more, got '{text}'")
    return int(text)


# --- the output folder ---------------------------------------------------------------------------


@contextlib.contextmanager
def target_folder(folder: str | Path, recipe: Mapping[str, Any], *, dry_run: bool = False) -> Iterator[Path]:
    """Claim an output folder for as long as the block lasts, and yield its absolute path.

    The folder is made, with those above it. Its ``vsr.json`` keeps the recipe; when the block has ended well, that it
    is complete, too. An earlier run's folder with the same recipe is gone on with.

    Args:
        folder: Where the outputs go: new, empty, or an earlier run's.
        recipe: All that decides what is written, as JSON values.
        dry_run: Make the same checks, write nothing.

    Raises:
        ValueError: the folder is another's or was begun with another recipe, or another process writes into it.
        OSError: it cannot be written to.
    """
    path = Path(os.path.abspath(os.path.expanduser(folder)))
    wanted = json.loads(json.dumps(dict(recipe)))
    _check_ours(path, wanted)
    if dry_run:
        above = next(parent for parent in (path, *path.parents) if parent.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            raise _cannot_write(path, PermissionError(errno.EACCES, f"{above} is not writable"))
        yield path
        return
    lock = FileLock(path / LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{path}: expected to be alone, but another process writes into this folder right now. Wait for it."
        ) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        found = _check_ours(path, wanted)  # another process may have come before us
        if found is None:
            _write_recipe(path, wanted, complete=False)
        yield path
        if found is None or not found.get("complete"):
            _write_recipe(path, wanted, complete=True)
    finally:
        lock.release()


def _check_ours(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an earlier run's ``vsr.json``, None for a new folder; raise ValueError if the folder is not for us."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a folder, got a file. Name another.")
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    found = _read_recipe(path / RECIPE)
    if found is None:
        others = sorted(name for name in names if name != LOCK and not name.startswith(f".{RECIPE}."))
        if others:
            raise ValueError(
                f"{path}: expected a new or empty folder, or that of an earlier run, got one that holds other things "
                f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}). Name another; nothing was touched."
            )
        return None
    begun = found["recipe"]
    if begun != recipe:
        other = sorted(key for key in {*recipe, *begun} if recipe.get(key) != begun.get(key))
        raise ValueError(
            f"{path}: expected a folder that was begun with the same arguments, but it has "
            f"{', '.join(f'{key}: {begun.get(key)} (now {recipe.get(key)})' for key in other)}. "
            "Use these, or name another folder."
        )
    return found


def _read_recipe(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("recipe"), dict) else None


def _write_recipe(path: Path, recipe: Mapping[str, Any], *, complete: bool) -> None:
    try:
        for leftover in path.glob(f".{RECIPE}.*.tmp"):  # of a run that was killed just here
            leftover.unlink()
        with atomic_write(path / RECIPE, "w") as file:
            json.dump({"recipe": recipe, "complete": complete}, file, indent=1, ensure_ascii=False)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error  # says so itself
    return OSError(error.errno, f"{path}: cannot be written to: {error.strerror}. Name another folder")


def write_once(path: Path, make: Callable[[Path], object]) -> bool:
    """Let ``make`` write a file under a temporary name with the same suffix, which then takes ``path``'s place.

    Returns:
        False: the file is there already, and nothing was done.

    Raises:
        OSError: with the free space in its text if the disk is full.
    """
    if path.exists():
        return False
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                error.errno,
                f"{path}: no space left on the disk, {size_text(free)} are free. What was written before is whole: "
                "make room and run the same command again",
            ) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True


# --- the work ------------------------------------------------------------------------------------


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, what: str, unit: str = "images"
) -> list[Result]:
    """Return ``work`` of every job, in their order; progress goes to the log.

    The first failure ends it all. Outputs of jobs that have ended stay; those of killed ones are absent as long as
    the jobs write through ``write_once``.

    Args:
        work: A function of a module (not a lambda), for it is sent to other processes.
        jobs: Its arguments.
        workers: Processes; 0: this one does all.
        what: Starts the lines of the log.
        unit: What a job makes, in the plural.

    Raises:
        ChildProcessError: a process was killed from outside.
        Exception: the first one that ``work`` raised.
    """
    if workers < 0:
        raise ValueError(f"workers: expected 0 or more, got {workers}.")
    progress = Progress(what, len(jobs), unit=unit)
    results: list[Result] = []
    if workers == 0 or len(jobs) < 2:
        for job in jobs:
            results.append(work(job))
            progress.step()
    else:
        for result in _in_processes(work, jobs, min(workers, len(jobs))):
            results.append(result)
            progress.step()
    progress.end()
    return results


def _in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    # not forked from here: a fork of a process with threads may hang
    context = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
    if "forkserver" in _METHODS:
        context.set_forkserver_preload(["cv2", "torch"])  # once for all workers; their threads begin with first use
        _start_server()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flying: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            flying.append(pool.submit(work, job))
            if len(flying) > 4 * workers:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            errno.ECHILD,
            "a worker process was killed, perhaps for want of memory. Run the same command again with fewer --workers",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_server() -> None:
    """Start the process whose forks are the workers, if it does not run yet, so that Ctrl-C never reaches these.

    One that ended by it before ``_start_worker`` would make the pool kill the others, in the middle of their work.
    """
    from multiprocessing import forkserver, resource_tracker  # not everywhere

    resource_tracker.ensure_running()  # which lets signals through again when it has started
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the new process inherits it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker() -> None:
    """One thread for each process, and none that outlives the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: a job that has begun comes to its end
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
