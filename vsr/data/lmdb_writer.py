"""Makes an LMDB of images and videos, in a folder beside the target that takes its name when all is written.

    TARGET.lmdb.partial/   data.mdb       committed in batches
                           journal.jsonl  [key, bytes, time of its file, height, width] of what is in it, or soon
                           vsr.json       what is being made
                           build.lock     held by the process that makes it

A build that was killed goes on where it stopped: what the journal and data.mdb both have, and whose file
has not changed since, is not made again.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vsr.data.encodings import ENCODINGS, TILE, encode
from vsr.data.lmdb_build import GrowingDatabase, Made, read_journal
from vsr.data.lmdb_sources import Source, Sources, estimated_bytes, find_sources, read_sources, sample_of
from vsr.data.lmdb_storage import LmdbStorage
from vsr.registry import suggest
from vsr.utils.files import atomic_write, way_to
from vsr.utils.progress import Progress, size_text

log = logging.getLogger(__name__)

COMPARED = 100  # images whose pixels are compared with their files in the end
VERIFY = ("sample", "all", "none")

_OURS = {"data.mdb", "lock.mdb", "journal.jsonl", "vsr.json", "build.lock", "meta_info.txt"}


@dataclass(frozen=True)
class Recipe:
    """What to make.

    Args:
        root: Folder of images, of clips or of videos, at any depth; or a video file.
        target: The LMDB's folder; its name ends with .lmdb, as BasicSR wants it.
        encoding: png (which BasicSR reads), tiles or raw; see ``vsr.data.encodings``.
        tile: Side of a tile in pixels, about.
        level: Compression level of PNGs, 0 to 9; None: the quickest to read.
        only: A text file that names the clips or images to take.
        cut: What decided into which parts the images are cut, where they are.

    Raises:
        ValueError: an argument is out of its range.
    """

    root: str
    target: str
    encoding: str = "png"
    tile: int = TILE
    level: int | None = None
    only: str | None = None
    cut: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"encoding: expected {', '.join(ENCODINGS)}, got '{self.encoding}'."
                + suggest(self.encoding, list(ENCODINGS))
            )
        if self.tile < 16:
            raise ValueError(f"tile: expected 16 pixels or more, got {self.tile}.")
        if self.level is not None and not 0 <= self.level <= 9:
            raise ValueError(f"level: expected 0 to 9, got {self.level}.")
        if not self.target.rstrip("/").endswith(".lmdb"):
            raise ValueError(f"target: expected a name that ends with .lmdb, got '{self.target}'.")

    @property
    def folder(self) -> Path:
        return Path(os.path.abspath(os.path.expanduser(self.target)))

    def settings(self) -> dict[str, Any]:
        """What an unfinished build must have been begun with to be continued."""
        settings = {"format": 2, **asdict(self), "target": self.folder.name}
        for name in ("root", "only"):  # so that all may be moved together
            settings[name] = way_to(settings[name], self.folder.parent) if settings[name] is not None else None
        return settings


@dataclass(frozen=True)
class Plan:
    """What ``make_lmdb`` would do: images and clips found, bytes that they will take, about, and bytes free."""

    sources: Sources
    images: int
    clips: int
    estimate: int
    free: int


def plan_lmdb(recipe: Recipe, sources: Sources | None = None) -> Plan:
    """Look at the images and at the target without writing anything.

    Args:
        recipe: What to make.
        sources: The images; None: all below the recipe's root.

    Raises:
        FileNotFoundError, ValueError: as ``find_sources``; a sampled image is damaged.
        FileExistsError: there is something at the target.
        OSError: its folder is missing, or cannot be written to.
    """
    target = recipe.folder
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"target: expected a new folder, got '{target}', which exists. Name another, or remove it first."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"target: expected an existing folder to write into, got '{target.parent}'. Make it.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"target: expected a folder that can be written to, got '{target.parent}'.")
    sources = sources or find_sources(recipe.root, only=recipe.only)
    estimate = estimated_bytes(sources, recipe.encoding, tile=recipe.tile, level=recipe.level)
    return Plan(sources, sources.count(), sources.clips(), estimate, shutil.disk_usage(target.parent).free)


def make_lmdb(
    recipe: Recipe,
    *,
    sources: Sources | None = None,
    workers: int | None = None,
    resume: bool = False,
    fresh: bool = False,
    verify: str = "sample",
) -> Path:
    """Make an LMDB, check it, and return its folder.

    Args:
        recipe: What to make.
        sources: The images; None: all below the recipe's root.
        workers: Threads that read and encode; None: as many as there are cores. (OpenCV works outside
            of Python's lock, so that threads are as quick as processes.)
        resume: Continue a build that was interrupted, if there is one; a finished one is left as it is.
        fresh: Throw an interrupted build away.
        verify: In the end, compare with the files: a sample of the pixels, all of them, or none. That
            every image is there and whole is always checked.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError, ValueError: as ``plan_lmdb``; or there is an
            unfinished build and neither resume nor fresh is set; or it was begun with other arguments; or
            another process works on it; or an image is damaged.
        OSError: the disk is full.
    """
    if verify not in VERIFY:
        raise ValueError(f"verify: expected {', '.join(VERIFY)}, got '{verify}'.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected 1 or more, got {workers}.")
    if resume and _settings(recipe.folder) == recipe.settings():
        log.info("%s: is complete", recipe.folder)
        return recipe.folder
    plan = plan_lmdb(recipe, sources)
    partial = recipe.folder.with_name(f"{recipe.folder.name}.partial")
    with _own(partial, recipe, resume=resume, fresh=fresh):
        there = (partial / "data.mdb").stat().st_size if (partial / "data.mdb").is_file() else 0
        if plan.estimate > plan.free + there:
            raise OSError(
                errno.ENOSPC,
                f"{recipe.folder}: expected room for about {size_text(plan.estimate)}, but {size_text(plan.free)} "
                "are free. Free some space, or choose another encoding or folder",
            )
        _build(partial, recipe, plan, workers or os.cpu_count() or 1)
        _verify(partial, plan.sources, verify)
        for name in ("journal.jsonl", "lock.mdb"):
            (partial / name).unlink(missing_ok=True)
        if recipe.folder.exists():  # it was not when we began
            raise FileExistsError(f"target: expected a new folder, got '{recipe.folder}', which another process made.")
        partial.rename(recipe.folder)
        (recipe.folder / "build.lock").unlink(missing_ok=True)
    return recipe.folder


# --- the folder ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _own(partial: Path, recipe: Recipe, *, resume: bool, fresh: bool) -> Iterator[None]:
    """Make the temporary folder, or take over that of an interrupted build, and keep other processes out."""
    if partial.is_dir():
        for leftover in partial.glob(".*.tmp"):  # of an atomic_write that was killed
            leftover.unlink()
    if partial.exists() and (not partial.is_dir() or {path.name for path in partial.iterdir()} - _OURS):
        raise FileExistsError(
            f"{partial}: expected the folder of an unfinished build, got another thing. Move it away."
        )
    try:
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{partial}: cannot be made: {error.strerror}. Name another target") from error
    lock = FileLock(partial / "build.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"{partial}: expected to be the only one, but another process makes this LMDB right now. Wait for it."
        ) from error
    try:
        begun = None if fresh else _settings(partial)
        if begun is None:  # to begin anew, or killed before it had begun
            for name in _OURS - {"build.lock"}:
                (partial / name).unlink(missing_ok=True)
            with atomic_write(partial / "vsr.json", "w") as file:
                json.dump(recipe.settings(), file, indent=1)
        elif not resume:
            raise FileExistsError(
                f"{partial}: expected no unfinished build, got one. Continue it with --resume, "
                "or begin anew with --fresh."
            )
        elif begun != recipe.settings():
            other = [key for key, value in recipe.settings().items() if begun.get(key) != value]
            raise ValueError(
                f"{partial}: expected a build with the same arguments, but it was begun with "
                f"{', '.join(f'{key}: {begun.get(key)}' for key in other)}. Use these, or begin anew with --fresh."
            )
        yield
    finally:
        lock.release()


def _settings(folder: Path) -> dict[str, Any] | None:
    """Return what a folder was made of; None: it does not say, or only half of it was written."""
    try:
        found = json.loads((folder / "vsr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# --- writing -------------------------------------------------------------------------------------


def _build(folder: Path, recipe: Recipe, plan: Plan, workers: int) -> None:
    """Encode what is missing in ``folder``, and write meta_info.txt."""
    lines = read_journal(folder / "journal.jsonl")
    with GrowingDatabase(folder) as database:
        files = plan.sources.files()
        known = database.keys()
        done = {key: line for key, line in lines.items() if key in known and _unchanged(files, line)}
        database.keep(done)
        if done:
            log.info("%s: %d images are there already", folder, len(done))
        progress = Progress(recipe.folder.name, plan.images, done=len(done))
        written: list[tuple[str, int, int]] = []

        def finish(source: Source, future: "Future[Made] | None") -> None:
            if future is not None:
                made = future.result()
                database.put(made)
                progress.step(more=f", {size_text(database.bytes)}")
            line = made.line if future is not None else done[source.key]
            written.append((source.key, line[3], line[4]))

        pool = ThreadPoolExecutor(workers)
        flying: deque[tuple[Source, Future[Made] | None]] = deque()
        try:
            for source in read_sources(plan.sources):
                future = None if source.key in done else pool.submit(_encoded, source, recipe)
                flying.append((source.unread(), future))
                if len(flying) > 2 * workers:
                    finish(*flying.popleft())
            while flying:
                finish(*flying.popleft())
        except (ValueError, OSError, KeyboardInterrupt):
            with contextlib.suppress(OSError):  # the first error counts
                database.commit()  # what is good need not be made again
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        database.commit()
        progress.end(f", {size_text(database.bytes)},")
    level = 1 if recipe.level is None else recipe.level
    with atomic_write(folder / "meta_info.txt", "w") as file:
        file.writelines(f"{key}.png ({height},{width},3) {level}\n" for key, height, width in written)


def _encoded(source: Source, recipe: Recipe) -> Made:
    state = source.path.stat()
    image = source.read()
    value = encode(image, recipe.encoding, tile=recipe.tile, level=recipe.level)
    return Made(source.key, value, [source.key, state.st_size, state.st_mtime_ns, *image.shape[:2]])


def _unchanged(files: dict[str, Path], line: list[Any]) -> bool:
    """Tell whether the image or video that a line of the journal was written for is still the same file."""
    path = files.get(line[0]) or files.get(line[0].rpartition("/")[0])
    if path is None:
        return False
    state = path.stat()
    return [state.st_size, state.st_mtime_ns] == line[1:3]


# --- afterwards ----------------------------------------------------------------------------------


def _verify(folder: Path, sources: Sources, mode: str) -> None:
    """Open the LMDB as a data set would; look at every image, and compare the pixels of some with their files.

    Raises:
        ValueError: an image is missing or is not what it should be: the disk, or vsr, lost something.
    """
    storage = LmdbStorage()
    names = storage.images(str(folder), "target")
    for name in names:
        storage.size(str(folder / name))
    count = {"none": 0, "sample": COMPARED, "all": sources.still_count()}[mode]
    for source in sample_of(sources, count):
        stored = storage.read(str(folder / f"{source.key}.png"))
        if not np.array_equal(stored, source.read()):
            raise ValueError(
                f"{folder}: expected the pixels of {source.path}, got others. Did the file change? "
                "Run the same command with --resume, or begin anew with --fresh."
            )
    if mode != "none":
        frames = [name for name in names if sources.videos][:: 1 if mode == "all" else max(1, len(names) // COMPARED)]
        for name in frames:  # a video is not decoded again: that its frames can be is all that is checked
            storage.read(str(folder / name))
    storage.close()
    log.info("%s: checked %d images, the pixels of %d", folder.name, len(names), min(count, sources.still_count()))
