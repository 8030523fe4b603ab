"""Where images lie: finding clips and images below a root, and reading them, whole or in part."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vsr.data.augment import Region
from vsr.registry import suggest
from vsr.utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, image_size, natural_key, read_image


@dataclass(frozen=True)
class Clip:
    """A named sequence of frames: a folder of images, or a video file that is not decoded yet.

    Args:
        name: Path of the folder below the root, or the video's without its suffix.
        folder: Where the images are; of a video the file itself.
        files: Names of the images in natural order; of a video empty.
        numbered: The names are numbers that vsr gave (a decoded video), not the user's.
    """

    name: str
    folder: Path
    files: tuple[str, ...] = ()
    numbered: bool = False

    @property
    def is_video(self) -> bool:
        return not self.files

    def path(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])


class Storage(Protocol):
    """What the data sets ask of a place where images lie. An image is named by its root and its path below it."""

    def clips(self, root: str, argument: str) -> dict[str, Clip]:
        """Find the clips of a root, in natural order of their names.

        Args:
            root: What the option file names.
            argument: The option that names the root; starts the messages.

        Raises:
            FileNotFoundError: there is no such root.
            ValueError: there is no clip in it, two have one name, or it is unclear what is a clip.
        """

    def images(self, root: str, argument: str) -> list[str]:
        """Find the images of a root at any depth: their paths below it, in natural order.

        Raises:
            FileNotFoundError: there is no such root.
            ValueError: there is no image in it.
        """

    def listed(self, name: str) -> str:
        """Return the path that ``images`` gives to the image that a list made for folders calls ``name``."""

    def crops(self, path: str) -> bool:
        """Tell whether a part of an image costs less than the whole, so that it pays to ask for no more."""

    def read(self, path: str, region: Region | None = None) -> Frame:
        """Read an image, or a part of it, as uint8 (h, w, 3) RGB. The result must not be written to."""

    def size(self, path: str) -> tuple[int, int]:
        """Return (height, width) of an image without decoding it."""


class DiskStorage:
    """Image and video files in folders. For the methods see ``Storage``."""

    def clips(self, root: str, argument: str) -> dict[str, Clip]:
        """The root may be a video file, a folder of images (one clip), or a folder at any depth below
        which there are folders of images or video files. Names that start with a dot are ignored.
        """
        path = _folder_or_file(root, argument)
        if path.is_file():
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                raise ValueError(f"{argument}: expected a folder or a video file, got the file '{root}'.")
            return {path.stem: Clip(path.stem, path)}
        found: dict[str, Clip] = {}
        for folder, images, videos in walk(path, descend_below_images=False):
            clips = [Clip(folder.relative_to(path).as_posix(), folder, in_order(images))] if images else []
            clips += [
                Clip((folder / video).relative_to(path).with_suffix("").as_posix(), folder / video) for video in videos
            ]
            for clip in clips:
                if clip.name in found:
                    raise ValueError(
                        f"{argument}: expected one clip for each name, "
                        f"got {found[clip.name].folder} and {clip.folder}. Rename or move one."
                    )
                found[clip.name] = clip
        if not found:
            raise ValueError(
                f"{argument}: expected folders of images ({' '.join(IMAGE_SUFFIXES)}) or video files "
                f"({' '.join(VIDEO_SUFFIXES)}) in '{root}', got none. Check the path."
            )
        return named_clips(found, path, argument)

    def images(self, root: str, argument: str) -> list[str]:
        path = _folder_or_file(root, argument)
        if path.is_file():
            raise ValueError(f"{argument}: expected a folder of images, got the file '{root}'.")
        found = [(folder / name).relative_to(path).as_posix() for folder, names, _ in walk(path) for name in names]
        if not found:
            raise ValueError(
                f"{argument}: expected images ({' '.join(IMAGE_SUFFIXES)}) in '{root}', got none. Check the path."
            )
        return list(in_order(found))

    def listed(self, name: str) -> str:
        return name

    def crops(self, path: str) -> bool:
        return False

    def read(self, path: str, region: Region | None = None) -> Frame:
        image = read_image(path)
        if region is None:
            return image
        return image[region.top : region.top + region.height, region.left : region.left + region.width]

    def size(self, path: str) -> tuple[int, int]:
        return image_size(path)


def open_storage(io_backend: Mapping[str, Any] | None) -> Storage:
    """Return the storage that an ``io_backend`` option names; None stands for files on disk.

    Raises:
        ValueError: the option names none.
        ImportError: type lmdb, and the package lmdb is missing.
    """
    option = {"type": "disk"} if io_backend is None else dict(io_backend)
    kind = option.pop("type", None)
    if kind not in ("disk", "lmdb"):
        raise ValueError(f"io_backend.type: expected disk or lmdb, got {kind!r}.{suggest(str(kind), ['disk', 'lmdb'])}")
    if option:
        raise ValueError(f"io_backend: expected no key but type, got {', '.join(sorted(option))}. Remove it.")
    if kind == "disk":
        return DiskStorage()
    from vsr.data.lmdb_storage import LmdbStorage  # files on disk need no package lmdb

    return LmdbStorage()


def named_clips(found: Mapping[str, Clip], path: Path, argument: str) -> dict[str, Clip]:
    """Return clips in natural order of their names; images of the root itself, '.', are one clip with its name.

    Raises:
        ValueError: there are images both in the root and in folders below it.
    """
    itself = found.get(".")
    if itself is None:
        return {name: found[name] for name in sorted(found, key=natural_key)}
    if len(found) > 1:
        other = next(name for name in found if name != ".")
        raise ValueError(
            f"{argument}: expected either images or clips in '{path}', got both: {itself.files[0]} and {other}. "
            "Move the one or the other to a folder of its own."
        )
    name = path.resolve().name.removesuffix(".lmdb")
    return {name: Clip(name, path, itself.files)}


def existing(root: str, argument: str) -> Path:
    """Return the absolute path of a root; raise FileNotFoundError that names the option if it is missing."""
    path = Path(os.path.abspath(os.path.expanduser(root)))
    if path.exists():
        return path
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, near, n=1)
    hint = f" Did you mean '{Path(root).parent / close[0]}'?" if close else ""
    raise FileNotFoundError(
        f"{argument}: expected an existing file or folder, got '{root}' (looked in {path.parent}, "
        f"which {'exists' if path.parent.is_dir() else 'does not exist either'}).{hint}"
    )


def _folder_or_file(root: str, argument: str) -> Path:
    """Return the path of a root that is to hold image files; raise ValueError if it is an LMDB."""
    path = existing(root, argument)
    if (path / "data.mdb").is_file():
        raise ValueError(
            f"{argument}: expected a folder of image files, got the LMDB '{root}'. Set io_backend: {{type: lmdb}}."
        )
    return path


def stem(file: str) -> str:
    """Return a path without its suffix."""
    return os.path.splitext(file)[0]


def in_order(names: list[str]) -> tuple[str, ...]:
    """Sort names as people count: 2 before 10."""
    if len({len(name) for name in names}) == 1 and all(name.partition(".")[0].isdigit() for name in names):
        return tuple(sorted(names))  # the common case, ten times as fast: 00000000.png, 00000001.png ...
    return tuple(sorted(names, key=natural_key))


def walk(
    folder: Path, *, descend_below_images: bool = True, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its images, of its videos) for a folder and those below it, following links but no loop.

    Without ``descend_below_images`` the folders below a folder of images are left alone, except
    those of the first folder: there they make the question what a clip is.
    """
    identity = (folder.stat().st_dev, folder.stat().st_ino)
    if identity in above:  # a link to a folder that we are in
        return
    images, videos, folders = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # .DS_Store, ._0001.png of macOS
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                folders.append(entry.name)
            elif suffix in IMAGE_SUFFIXES:
                images.append(entry.name)
            elif suffix in VIDEO_SUFFIXES:
                videos.append(entry.name)
    yield folder, images, videos
    if images and above and not descend_below_images:
        return
    for name in folders:
        yield from walk(folder / name, descend_below_images=descend_below_images, above=(*above, identity))
