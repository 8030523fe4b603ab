"""What an LMDB is made of: images in folders and frames of videos, each with the key that it will have."""

import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vsr.data.augment import Region
from vsr.data.encodings import TILE, encode
from vsr.data.names import check_template, first_duplicate, pick, same_names
from vsr.data.storage import existing, in_order, stem, walk
from vsr.data.video_cache import check_count, open_video
from vsr.utils.images import VIDEO_SUFFIXES, Frame, image_size, read_image

MAX_KEY = 511  # bytes, of LMDB
COMPARED = 100  # pairs whose sizes are compared before anything is written

_LISTED = re.compile(r"(\S.*?)(?:\s+\d+)?(?:\s+\([\d\s,]*\))?")  # 'name (h,w,c)' or 'folder n (h,w,c)'


@dataclass(frozen=True)
class Sources:
    """The images and videos below a root, in natural order.

    Args:
        root: The folder, or the video file.
        images: Paths of the images below the root.
        videos: Paths of the videos below the root, or the root's own name.
    """

    root: Path
    images: tuple[str, ...]
    videos: tuple[str, ...]

    def count(self) -> int:
        """Return the number of images, as far as the headers of videos tell."""
        return self.still_count() + sum(self._promised(video) for video in self.videos)

    def stills(self) -> "Iterator[Source]":
        """Yield the images that are no frames of videos, unread, in order."""
        for name in self.images:
            yield Source(stem(name), self.root / name)

    def still_count(self) -> int:
        return len(self.images)

    def clips(self) -> int:
        """Return the number of folders with images, and of videos."""
        return len({Path(image).parent for image in self.images}) + len(self.videos)

    def files(self) -> dict[str, Path]:
        """Return the images and videos by their path below the root without suffix."""
        images = {stem(name): self.root / name for name in self.images}
        return images | {stem(name): self.video(name) for name in self.videos}

    def video(self, name: str) -> Path:
        return self.root if self.root.is_file() else self.root / name

    def _promised(self, video: str) -> int:
        with open_video(self.video(video)) as (_, expected):
            return expected


@dataclass(frozen=True)
class CutSources(Sources):
    """Images of which parts are wanted, each under a key of its own.

    Args:
        parts: For each of ``images`` the parts of it, by their keys.
    """

    parts: tuple[Mapping[str, Region], ...] = ()

    def stills(self) -> "Iterator[Source]":
        for name, regions in zip(self.images, self.parts, strict=True):
            whole = Shared(functools.partial(read_image, self.root / name))
            for key, region in regions.items():
                yield Source(key, self.root / name, cut=(whole, region))

    def still_count(self) -> int:
        return sum(map(len, self.parts))

    def files(self) -> dict[str, Path]:
        return {key: self.root / name for name, part in zip(self.images, self.parts, strict=True) for key in part}


class Shared:
    """An image that is read or made by the first who asks, for all others who wait."""

    def __init__(self, make: Callable[[], Frame]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._image: Frame | None = None

    def image(self) -> Frame:
        with self._lock:
            if self._image is None:
                self._image = self._make()
            return self._image


class Source(NamedTuple):
    """One image to be.

    Args:
        key: Its key in the LMDB: its path below the root without suffix; of a frame 'VIDEO/00000012'.
        path: The image, or the video, or the file that an image is made of.
        frame: Of a video, BGR as OpenCV decodes it; None: it is still to be read.
        cut: The image and the part of it that is wanted; None: all of ``path``.
    """

    key: str
    path: Path
    frame: Frame | None = None
    cut: tuple[Shared, Region] | None = None

    def unread(self) -> "Source":
        """Return it without its pixels."""
        return Source(self.key, self.path)

    def read(self) -> Frame:
        """Return the pixels, RGB (h, w, 3)."""
        if self.cut is not None:
            whole, part = self.cut
            image = whole.image()[part.top : part.top + part.height, part.left : part.left + part.width]
            return np.ascontiguousarray(image)
        if self.frame is None:
            return read_image(self.path)
        return cv2.cvtColor(self.frame, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def find_sources(root: str, *, only: str | None = None) -> Sources:
    """Find images and videos below a root at any depth, or a single video.

    Args:
        root: The folder or the video file.
        only: A text file that names the clips or images to take, one a line; what BasicSR's lists add to
            the name, ``n (h,w,c)``, is passed over.

    Raises:
        FileNotFoundError: there is no such root or list.
        ValueError: there is nothing in it, two images would have one key, or a key would be too long.
    """
    path = existing(root, "root")
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"root: expected a folder or a video file, got the file '{root}'.")
        return Sources(path, (), (path.name,))
    if (path / "data.mdb").is_file():
        raise ValueError(f"root: expected a folder of images or videos, got the LMDB '{root}'.")
    images, videos = [], []
    for folder, image_names, video_names in walk(path):
        images += [(folder / name).relative_to(path).as_posix() for name in image_names]
        videos += [(folder / name).relative_to(path).as_posix() for name in video_names]
    found = Sources(path, in_order(images), in_order(videos))
    if only is not None:
        found = _chosen(found, only)
    if not found.images and not found.videos:
        raise ValueError(f"root: expected images or videos in '{root}', got none. Check the path.")
    _check_keys(found)
    return found


def read_sources(sources: Sources) -> Iterator[Source]:
    """Yield all images in order: those in files unread, frames of videos decoded one by one.

    Raises:
        ValueError: a video cannot be decoded to its end.
    """
    yield from sources.stills()
    for name in sources.videos:
        path, count = sources.video(name), 0
        with open_video(path) as (frames, expected):
            for count, frame in enumerate(frames, start=1):
                yield Source(f"{stem(name)}/{count - 1:08d}", path, frame)
        check_count(path, count, expected)


def check_pair(gt: Sources, lq: Sources, *, filename_tmpl: str = "{}") -> None:
    """Compare GT with LQ before hours are spent on them: the same images, GT an integer multiple of LQ.

    Frames of videos have no names and are compared by the data sets.

    Args:
        gt: Images in high quality.
        lq: Those in low quality.
        filename_tmpl: Name of an LQ image, without suffix, for the name {} of its GT image.

    Raises:
        ValueError: they do not fit together.
    """
    if gt.videos or lq.videos:
        return
    check_template(filename_tmpl)
    by_key = {stem(name): name for name in lq.images}
    wanted = []
    for name in gt.images:
        folder, _, file = stem(name).rpartition("/")
        wanted.append(f"{folder}/{filename_tmpl.format(file)}" if folder else filename_tmpl.format(file))
    same_names(wanted, by_key, "images", "Complete the folders, or set the filename template.")
    scales: dict[int, str] = {}
    for at in _spread(len(wanted), COMPARED):
        high = image_size(gt.root / gt.images[at])
        low = image_size(lq.root / by_key[wanted[at]])
        scale = high[0] // low[0]
        if scale < 1 or high != (scale * low[0], scale * low[1]):
            raise ValueError(
                f"{gt.root / gt.images[at]}: expected a multiple of the LQ size {low[0]}x{low[1]}, "
                f"got {high[0]}x{high[1]}. Check that the two roots belong together."
            )
        scales.setdefault(scale, gt.images[at])
    if len(scales) > 1:
        first, second = list(scales.items())[:2]
        raise ValueError(
            f"{gt.root}: expected one scale, got {first[0]} ({first[1]}) and {second[0]} ({second[1]}). "
            "Check that the two roots belong together."
        )


def estimated_bytes(sources: Sources, encoding: str, *, tile: int = TILE, level: int | None = None) -> int:
    """Return about how many bytes the LMDB will have, from a few images and the first frames of videos."""
    page = 4096  # LMDB's: every value begins on a new one
    samples = [source.read() for source in sample_of(sources, 8)]
    for name in [sources.videos[at] for at in _spread(len(sources.videos), 4)]:
        with open_video(sources.video(name)) as (frames, _):
            samples += [Source(name, sources.root, frame).read() for _, frame in zip(range(1), frames, strict=False)]
    sizes = [-(-len(encode(image, encoding, tile=tile, level=level)) // page) * page for image in samples]
    return sum(sizes) * sources.count() // max(1, len(sizes))


def sample_of(sources: Sources, count: int) -> Iterator[Source]:
    """Yield up to ``count`` of the images that are no frames of videos, evenly spaced."""
    chosen = set(_spread(sources.still_count(), count))
    return (source for at, source in enumerate(sources.stills()) if at in chosen)


def _chosen(found: Sources, only: str) -> Sources:
    file = existing(only, "only")
    names = []
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        match = _LISTED.fullmatch(line.strip())
        if match is not None:
            names.append(match[1])
    keys = {stem(image): image for image in found.images}
    clips: dict[str, list[str]] = {}
    for image in found.images:
        for parent in Path(image).parents:
            clips.setdefault(parent.as_posix(), []).append(image)
    videos = {stem(video): video for video in found.videos}
    known = dict.fromkeys([*clips, *videos, *keys, *found.images, *found.videos])
    images, chosen_videos = [], []
    for name in pick(names, known, f"only {only}"):
        if name in clips:
            images += clips[name]
        elif name in videos or name in found.videos:
            chosen_videos.append(videos.get(name, name))
        else:
            images.append(keys.get(name, name))
    return replace(found, images=in_order(list(dict.fromkeys(images))), videos=in_order(chosen_videos))


def _check_keys(found: Sources) -> None:
    if twice := first_duplicate(found.images) or first_duplicate(found.videos):
        raise ValueError(f"{found.root}: expected one image for each name, got {twice}. Remove the one or the other.")
    folders = {Path(image).parent.as_posix() for image in found.images}
    for video in found.videos:
        if stem(video) in folders:
            raise ValueError(
                f"{found.root}: expected one clip for each name, got {stem(video)} and {video}. Rename one."
            )
    for name in (*found.images, *found.videos):
        if len(name.encode()) > MAX_KEY:
            raise ValueError(
                f"{found.root / name}: expected a path of at most {MAX_KEY} bytes below the root. Rename it."
            )


def _spread(total: int, count: int) -> Sequence[int]:
    """Return up to ``count`` positions, evenly spaced, the first and the last among them."""
    count = min(total, count)
    return sorted({round(i * (total - 1) / max(1, count - 1)) for i in range(count)})
