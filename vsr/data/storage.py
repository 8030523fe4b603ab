"""Where images lie: finding clips and images below a root, and reading them, whole or in part."""

import difflib
import errno
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from vsr.data.activity import note_file
from vsr.data.augment import Region
from vsr.registry import suggest
from vsr.utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, image_size, natural_key, read_image

log = logging.getLogger(__name__)

Roots: TypeAlias = str | list[str]  # of a data set: one folder or LMDB, or several

_KINDS = dict.fromkeys(IMAGE_SUFFIXES, "image") | dict.fromkeys(VIDEO_SUFFIXES, "video")


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

    def listed(self, name: str, root: str | None = None) -> str:
        """Return the path that ``images`` gives to the image that a list made for folders calls ``name``.

        Args:
            name: What the list says.
            root: Where the image lies; None: in the only root that was searched.
        """

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

    def listed(self, name: str, root: str | None = None) -> str:
        return name

    def crops(self, path: str) -> bool:
        return False

    def read(self, path: str, region: Region | None = None) -> Frame:
        note_file(path)
        image = read_image(path)
        if region is None:
            return image
        return image[region.top : region.top + region.height, region.left : region.left + region.width]

    def size(self, path: str) -> tuple[int, int]:
        note_file(path)
        return image_size(path)


class RootStorage:
    """Roots that are folders of files or LMDBs, each what it is: GT may be the one and LQ the other.

    Args:
        expects_lmdb: The option file says io_backend lmdb: a root that is none is told of, as files are slower.
    """

    def __init__(self, *, expects_lmdb: bool = False) -> None:
        self._expects_lmdb = expects_lmdb
        self._disk, self._lmdb = DiskStorage(), None  # type: DiskStorage, Any
        self._lmdb_roots: tuple[str, ...] = ()  # with the separator behind them

    def is_lmdb(self, root: str) -> bool:
        """Tell whether a root is an LMDB, or by its name and the option would be one if it were whole."""
        path = Path(os.path.abspath(os.path.expanduser(root)))
        return (path / "data.mdb").is_file() or (self._expects_lmdb and path.suffix == ".lmdb")

    def clips(self, root: str, argument: str) -> dict[str, Clip]:
        return self._at(root, argument).clips(root, argument)

    def images(self, root: str, argument: str) -> list[str]:
        return self._at(root, argument).images(root, argument)

    def held(self, root: str, argument: str) -> tuple[list[str], list[str]]:
        """As ``images``, and what an LMDB lacks of its list, which ``images`` would refuse: the missing keys."""
        storage = self._at(root, argument)
        return (storage.images(root, argument), []) if storage is self._disk else self._lmdb.held(root, argument)

    def listed(self, name: str, root: str | None = None) -> str:
        in_lmdb = bool(self._lmdb_roots) if root is None else self.is_lmdb(root)
        return (self._lmdb if in_lmdb else self._disk).listed(name)

    def crops(self, path: str) -> bool:
        return self._of(path).crops(path)

    def read(self, path: str, region: Region | None = None) -> Frame:
        return self._of(path).read(path, region)

    def size(self, path: str) -> tuple[int, int]:
        return self._of(path).size(path)

    def _at(self, root: str, argument: str) -> Storage:
        path = existing(root, argument)
        if not self.is_lmdb(root):
            if self._expects_lmdb:
                log.warning("%s: io_backend is lmdb, but '%s' is not one; it is read as files", argument, root)
            return self._disk
        if self._lmdb is None:
            from vsr.data.lmdb_storage import LmdbStorage  # files on disk need no package lmdb

            self._lmdb = LmdbStorage()
        self._lmdb_roots += (f"{path}{os.sep}",)
        return self._lmdb

    def _of(self, path: str) -> Storage:
        return self._lmdb if path.startswith(self._lmdb_roots) else self._disk


def open_storage(io_backend: Mapping[str, Any] | None) -> RootStorage:
    """Return the storage for the roots of a data set; None stands for files on disk.

    Whether a root is an LMDB is seen from the root. ``io_backend`` says what is expected of it.

    Raises:
        ValueError: the option names no storage.
    """
    option = {"type": "disk"} if io_backend is None else dict(io_backend)
    kind = option.pop("type", None)
    if kind not in ("disk", "lmdb"):
        raise ValueError(f"io_backend.type: expected disk or lmdb, got {kind!r}.{suggest(str(kind), ['disk', 'lmdb'])}")
    if option:
        raise ValueError(f"io_backend: expected no key but type, got {', '.join(sorted(option))}. Remove it.")
    return RootStorage(expects_lmdb=kind == "lmdb")


class RootPair(NamedTuple):
    """One root in high quality and the one in low quality that belongs to it.

    Args:
        gt, lq: The roots; None: there is none.
        label: What stands before the names of its clips or images, 'train_sharp'; '' where there is but one pair.
        number: Its place in the options' lists; None where there is but one pair.
    """

    gt: str | None
    lq: str | None
    label: str
    number: int | None

    def argument(self, name: str) -> str:
        """Return the option that names a root of the pair, for messages: 'dataroot_gt[1]'."""
        return name if self.number is None else f"{name}[{self.number}]"

    def name(self, below: str) -> str:
        """Return the name in the data set of what is called ``below`` below the root."""
        return f"{self.label}/{below}" if self.label else below

    def below(self, name: str) -> str:
        """Return what is called ``name`` in the data set, or in a list that knows no labels, below the root."""
        return name.removeprefix(f"{self.label}/") if self.label else name


def pair_roots(dataroot_gt: Roots | None, dataroot_lq: Roots | None) -> list[RootPair]:
    """Pair the roots of GT with those of LQ.

    Labels are the names of the GT roots' folders (of LQ's where there are no others) if they differ, else their
    numbers.

    Raises:
        ValueError: there are not as many of the one as of the other, or one is named twice.
        FileNotFoundError: one of several is missing.
    """
    gt, lq = ([] if roots is None else list_roots(roots) for roots in (dataroot_gt, dataroot_lq))
    if gt and lq and len(gt) != len(lq):
        raise ValueError(
            f"dataroot_lq: expected one root for each of dataroot_gt, got {len(lq)} for {len(gt)}. Name them in pairs."
        )
    count = max(len(gt), len(lq))
    if count == 1:
        return [RootPair(gt[0] if gt else None, lq[0] if lq else None, "", None)]
    name = "dataroot_gt" if gt else "dataroot_lq"
    folders = [existing(root, f"{name}[{number}]") for number, root in enumerate(gt or lq)]
    if len(set(folders)) < count:
        raise ValueError(f"{name}: expected each root once, got {', '.join(gt or lq)}. To draw more often from one, "
                         "mix data sets by weight: type MixedDataset.")  # fmt: skip
    labels = [folder.stem if folder.is_file() else folder.name.removesuffix(".lmdb") for folder in folders]
    if len(set(labels)) < count:
        labels = [str(number) for number in range(count)]
    return [
        RootPair(gt[number] if gt else None, lq[number] if lq else None, labels[number], number)
        for number in range(count)
    ]


def list_roots(roots: Roots) -> Sequence[str]:
    """Return roots as a list; raise ValueError if it is an empty one."""
    if not roots:
        raise ValueError("dataroot: expected at least one folder, got none.")
    return [roots] if isinstance(roots, str | os.PathLike) else roots


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


_DIGITS = bytes(48 if 48 <= byte < 58 else 97 for byte in range(256))  # every digit 0, all else a


def in_order(names: list[str]) -> tuple[str, ...]:
    """Sort names as people count: 2 before 10."""
    # the common case, many times as fast: digits at the same places in all names, 00000000.png, 000001/hr0.png ...
    if len({os.fsencode(name).translate(_DIGITS) for name in names}) == 1:
        return tuple(sorted(names))
    return tuple(sorted(names, key=natural_key))


def walk(
    folder: Path, *, descend_below_images: bool = True, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its images, of its videos) for a folder and those below it, following links but no loop.

    Without ``descend_below_images`` the folders below a folder of images are left alone, except
    those of the first folder: there they make the question what a clip is.
    """
    state = os.stat(folder)
    identity = (state.st_dev, state.st_ino)
    if identity in above:  # a link to a folder that we are in
        return
    images, videos, folders = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:  # of a large set a million: few calls for each
            name = entry.name
            if name[0] == ".":  # .DS_Store, ._0001.png of macOS
                continue
            try:
                if entry.is_dir():
                    folders.append(name)
                    continue
            except OSError as error:
                if error.errno != errno.ELOOP:  # a link to itself is no folder, and matters if it is read
                    raise
            suffix = name[name.rfind(".") :]
            kind = _KINDS.get(suffix) or _KINDS.get(suffix.lower())
            if kind == "image":
                images.append(name)
            elif kind == "video":
                videos.append(name)
    yield folder, images, videos
    if images and above and not descend_below_images:
        return
    for name in folders:
        yield from walk(folder / name, descend_below_images=descend_below_images, above=(*above, identity))
