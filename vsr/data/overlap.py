"""Whether a run would be measured on what it has trained on."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vsr.data.clips import ClipSet
from vsr.data.storage import Clip, Storage, stem

COMPARED = 100  # clips or folders of one name, at most, whose pixels are compared


class _Frames(NamedTuple):
    """Images that lie together, and what reads them."""

    storage: Storage
    clip: Clip


def shared_frames(train_set: Any, val_set: Any) -> str:
    """Say which frames two data sets share; '' if none.

    They do if they name the same files, by whatever links; or if clips, or folders of images, of one name have frames
    of one name with equal pixels: a folder and an LMDB made of it, or a copy.
    """
    train, val = _files_by_folder(train_set), _files_by_folder(val_set)
    shared = [
        os.path.join(folder, name) for folder in train.keys() & val.keys() for name in train[folder] & val[folder]
    ]
    if shared:
        return f"{len(shared)}, {min(shared)} for one"
    for one, other in islice(_of_one_name(train_set, val_set), COMPARED):
        if frames := _equal_frame(one, other):
            where = f"those of '{other.clip.name}': " if other.clip.name else ""
            return f"{where}{frames[1]} has the pixels of {frames[0]} there"
    return ""


def _parts(dataset: Any) -> Sequence[Any]:
    return list(dataset.parts.values()) if getattr(dataset, "parts", None) else [dataset]


def _files_by_folder(dataset: Any) -> dict[str, set[str]]:
    """Return the names of a set's ground truth files by their folder, links resolved. A set may have a million."""
    found: dict[str, set[str]] = defaultdict(set)
    for part in _parts(dataset):
        clips = getattr(part, "clips", None)
        if isinstance(clips, ClipSet) and len(part) == len(clips):  # an item for each frame
            for clip in clips.clips:
                found[os.path.realpath(clip.main.folder)].update(clip.main.files)
            continue
        for file in getattr(part, "gt_files", ()):
            folder, name = os.path.split(file)
            found[folder].add(name)
    return found


def _of_one_name(train_set: Any, val_set: Any) -> Iterator[tuple[_Frames, _Frames]]:
    """Yield frames of both sets, with ground truth, that lie in folders of one name, apart from folders above it."""
    by_name = defaultdict(list)
    for known in _folders(train_set):
        by_name[known.clip.name.rpartition("/")[2]].append(known)
    for found in _folders(val_set):
        for known in by_name.get(found.clip.name.rpartition("/")[2], ()):
            shorter, longer = sorted((f"/{known.clip.name}", f"/{found.clip.name}"), key=len)
            if longer.endswith(shorter):
                yield known, found


def _folders(dataset: Any) -> Iterator[_Frames]:
    """Yield the ground truth of a set, clip by clip, and single images folder by folder."""
    for part in _parts(dataset):
        clips = getattr(part, "clips", None)
        if isinstance(clips, ClipSet):
            yield from (_Frames(clips.storage, replace(c.gt, name=c.name)) for c in clips.clips if c.gt is not None)
        elif clips is not None and hasattr(part, "storage"):  # of predictions
            yield from (_Frames(part.storage, clip) for clip in clips if isinstance(clip, Clip))
        elif hasattr(part, "gt_images"):
            yield from _folders_of_images(part.gt_images(), part.reader.storage)


def _folders_of_images(images: Sequence[tuple[str, str]], storage: Storage) -> Iterator[_Frames]:
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, path in images:
        folder, file = os.path.split(path)
        files[os.path.dirname(key), folder].append(file)
    for (name, folder), found in files.items():
        clip = Clip(name, Path(folder), tuple(found))
        yield _Frames(storage, clip)
        if not name:  # of a root without folders: there it may be a folder of that name
            yield _Frames(storage, replace(clip, name=os.path.basename(folder).removesuffix(".lmdb")))


def _equal_frame(one: _Frames, other: _Frames) -> tuple[str, str] | None:
    """Return the paths of a frame of both if three that have one name, first, middle and last, are equal.

    Frames of one colour say nothing: many clips begin in black.
    """
    known = {stem(file): number for number, file in enumerate(one.clip.files)}
    common = [(known[stem(file)], number) for number, file in enumerate(other.clip.files) if stem(file) in known]
    told = None
    for number in dict.fromkeys((len(common) // 2, 0, len(common) - 1) if common else ()):
        paths = one.clip.path(common[number][0]), other.clip.path(common[number][1])
        try:
            if one.storage.size(paths[0]) != other.storage.size(paths[1]):
                return None
            pixels = other.storage.read(paths[1])
            if not np.array_equal(one.storage.read(paths[0]), pixels):
                return None
        except (ValueError, OSError):  # whoever draws the frame is told what is wrong with it
            return None
        if (pixels != pixels[:1, :1]).any():
            told = paths
    return told
