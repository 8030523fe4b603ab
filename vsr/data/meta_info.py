"""Lists of images and clips in BasicSR's two formats, made from headers alone.

NAME.png (height,width,3)              of images: PairedImageDataset, SingleImageDataset
CLIP number_of_frames (height,width,3)  of clips: the video data sets
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vsr.data.storage import Clip, Storage, existing, open_storage
from vsr.data.video_cache import COUNTED, check_count, open_video
from vsr.utils.files import atomic_write

KINDS = ("auto", "images", "clips")


def meta_info(root: str, *, kind: str = "auto", first: int = 0, every: int = 1) -> list[str]:
    """Return the lines of the list of a folder, a video, or an LMDB.

    The channels are those that vsr reads, 3, of grey images, too.

    Args:
        root: Folder of images, of clips as folders, or of videos, at any depth; a video; or an LMDB.
        kind: images, clips, or auto: clips if there are videos, or images below the root but none in it.
        first: Of images: begin with this one of each folder, counted from 0.
        every: Of images: take every so many of each folder.

    Raises:
        FileNotFoundError: there is no such root.
        ValueError: there is nothing in it, a header cannot be read, or the frames of a clip have several sizes.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {', '.join(KINDS)}, got '{kind}'.")
    if first < 0 or every < 1:
        raise ValueError(f"every: expected first 0 or more and every 1 or more, got {first} and {every}.")
    path, storage = existing(root, "root"), open_storage(None)
    if kind == "auto":
        kind = _kind(storage, root, path)
    if kind == "clips":
        if (first, every) != (0, 1):
            raise ValueError("every: expected a list of images (kind: images), got one of clips. Leave it out.")
        return [_clip_line(clip, storage) for clip in storage.clips(root, "root").values()]
    names = storage.images(root, "root")
    if (first, every) != (0, 1):
        names = _every(names, first, every)
        if not names:
            raise ValueError(f"first: expected fewer than the images of a folder, got {first}. Lower it.")
    with ThreadPoolExecutor(8) as pool:  # waiting for the disk
        sizes = list(pool.map(storage.size, [os.path.join(path, name) for name in names]))
    return [f"{name} ({height},{width},3)" for name, (height, width) in zip(names, sizes, strict=True)]


def _kind(storage: Storage, root: str, path: Path) -> str:
    """Tell images from clips by where the images lie."""
    if path.is_file():
        return "clips"
    try:
        names = storage.images(root, "root")
    except ValueError:  # no image at all: videos, or nothing, of which clips() complains
        return "clips"
    return "clips" if all("/" in name for name in names) else "images"


def _every(names: Sequence[str], first: int, every: int) -> list[str]:
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(os.path.dirname(name), []).append(name)
    return [name for files in folders.values() for name in files[first::every]]


def _clip_line(clip: Clip, storage: Storage) -> str:
    if clip.is_video:
        count, (height, width) = _video(clip.folder)
        return f"{clip.name} {count} ({height},{width},3)"
    paths = [clip.path(index) for index in range(len(clip.files))]
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(storage.size, paths))
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path}: expected {sizes[0][0]}x{sizes[0][1]} like the first frame of its clip, got "
                f"{size[0]}x{size[1]}. The frames of a clip must have one size."
            )
    return f"{clip.name} {len(paths)} ({sizes[0][0]},{sizes[0][1]},3)"


def _video(path: Path) -> tuple[int, tuple[int, int]]:
    """Return a video's number of frames, of its header where that is exact, and their (height, width)."""
    with open_video(path) as (frames, expected):
        frame = next(frames, None)
        if frame is None:
            check_count(path, 0, expected)
        assert frame is not None
        height, width = frame.shape[:2]
        count = expected if path.suffix.lower() in COUNTED else 1 + sum(1 for _ in frames)
    return count, (height, width)


def write_meta_info(lines: Sequence[str], path: Path) -> None:
    """Write a list; the same list again is left alone.

    Raises:
        FileExistsError: there is another file of that name.
    """
    text = "".join(f"{line}\n" for line in lines)
    if path.exists():
        if path.is_file() and path.read_bytes() == text.encode():
            return
        raise FileExistsError(
            f"{path}: expected no such file, or the same list, got another. Remove it, or name another."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write(text)
