"""Video files as folders of frames: decoded once, kept in a cache on disk."""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
from filelock import FileLock

from vsr.utils.files import cache_root, temporary_beside
from vsr.utils.images import Frame

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0  # of the progress in the log
COUNTED = (".mp4", ".mov", ".m4v", ".avi")  # their headers hold the exact number of frames
FRAMES_IN_FLIGHT = 16  # decoded and not yet written
LOST_FRAMES = 2  # fewer than the header says without being called truncated: edit lists cut that many


def frames_of_video(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return a folder with the frames of a video as PNG files, and their names in order.

    The first call decodes the video into the cache; processes that come meanwhile wait for it. A
    change of the file (path, size or time) leads to a new folder.

    Args:
        path: The video file.

    Raises:
        ValueError: the file cannot be decoded to its end.
        OSError: the cache cannot be written.
    """
    state = path.stat()
    identity = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:60]
    folder = cache_root() / "frames" / f"{readable}-{identity}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _decode(path, folder)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{folder}: cannot keep the frames of {path} here: {error}. Name another folder in $VSR_CACHE",
            ) from error
    return folder, tuple(sorted(name for name in os.listdir(folder) if name.endswith(".png")))


def _decode(path: Path, folder: Path) -> None:
    log.info("decoding %s into %s (once)", path, folder)
    start = time.monotonic()
    count = decode_video(path, folder)
    log.info("%s: %d frames in %.1f s", path.name, count, time.monotonic() - start)


def decode_video(
    path: Path, folder: Path, *, digits: int = 8, suffix: str = ".png", quality: int = 95, threads: int = 8
) -> int:
    """Write all frames of a video into a folder, which appears when it is complete; return how many there are.

    The caller sees to it that nobody else does the same at the same time.

    Args:
        path: The video file.
        folder: Where to; it must not exist.
        digits: Of the names: with 8, 00000000 is the first one.
        suffix: .png or .jpg.
        quality: Of JPEG, 1 to 100.
        threads: That encode; no more than there are cores.

    Raises:
        ValueError: the file cannot be decoded to its end.
        OSError: the folder cannot be written.
    """
    partial = temporary_beside(folder)
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    # level 1: twice as fast to write, 10 % larger
    parameters = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    told = time.monotonic()
    count = 0
    try:
        with open_video(path) as (frames, expected), ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
            writing: deque[Future[None]] = deque()
            for count, frame in enumerate(frames, start=1):
                file = partial / f"{count - 1:0{digits}d}{suffix}"
                writing.append(pool.submit(_write, file, frame, parameters))
                if len(writing) > FRAMES_IN_FLIGHT:
                    writing.popleft().result()
                if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    log.info("%s: %d of about %d frames", path.name, count, expected)
            for written in writing:
                written.result()
        check_count(path, count, expected)
        os.sync()  # a power cut must not leave a folder that looks complete and holds empty files
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def check_count(path: Path, count: int, expected: int) -> None:
    """Raise ValueError if fewer frames could be decoded than a video's header promises."""
    if count == 0 or (count < expected - LOST_FRAMES and path.suffix.lower() in COUNTED):
        raise ValueError(
            f"{path}: expected a whole video, but only {count} of {expected} frames can be decoded. "
            "The file is truncated or damaged; copy or make it again."
        )
    if count < expected - LOST_FRAMES:
        log.warning("%s: its header speaks of %d frames, %d could be decoded", path, expected, count)


def _write(path: Path, frame: Frame, parameters: list[int]) -> None:
    if not cv2.imwrite(str(path), frame, parameters):
        free = shutil.disk_usage(path.parent).free
        raise OSError(errno.EIO, f"{path.name} could not be written, {free / 1e6:.0f} MB are free")


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[Iterator[Frame], int]]:
    """Open a video: its frames in OpenCV's channel order (BGR), and how many its header promises."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError(
                f"{path}: expected a video, but OpenCV cannot open it. "
                "The file is truncated, damaged or of an unknown kind; copy or make it again."
            )
        yield _frames(capture), max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture) -> Iterator[Frame]:
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield frame  # type: ignore[misc]
