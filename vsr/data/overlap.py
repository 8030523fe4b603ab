"""Whether a run would be measured on what it has trained on."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from vsr.data.clips import ClipPair, ClipSet
from vsr.data.storage import stem

COMPARED = 100  # clips of one name, at most, whose pixels are compared


def shared_frames(train_set: Any, val_set: Any) -> str:
    """Say which frames two data sets share; '' if none.

    They do if they name the same files, by whatever links; or if clips of one name have frames of one name with equal
    pixels: a folder and an LMDB made of it, or a copy.
    """
    train, val = _files_by_folder(train_set), _files_by_folder(val_set)
    shared = [
        os.path.join(folder, name) for folder in train.keys() & val.keys() for name in train[folder] & val[folder]
    ]
    if shared:
        return f"{len(shared)}, {min(shared)} for one"
    for (one, first), (other, second) in islice(_of_one_name(train_set, val_set), COMPARED):
        if frame := _equal_frame(one, first, other, second):
            same = f"{first.name}/{stem(os.path.basename(frame))}"
            return f"those of clip '{second.name}': {frame} has the pixels of {same} there"
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


def _of_one_name(train_set: Any, val_set: Any) -> Iterator[tuple[tuple[ClipSet, ClipPair], tuple[ClipSet, ClipPair]]]:
    """Yield clips of both sets, with ground truth, whose names are one, apart from folders above it."""
    by_name = defaultdict(list)
    for clips, clip in _clips(train_set):
        by_name[clip.name.rpartition("/")[2]].append((clips, clip))
    for clips, clip in _clips(val_set):
        for known in by_name.get(clip.name.rpartition("/")[2], ()):
            shorter, longer = sorted((f"/{known[1].name}", f"/{clip.name}"), key=len)
            if longer.endswith(shorter):
                yield known, (clips, clip)


def _clips(dataset: Any) -> Iterator[tuple[ClipSet, ClipPair]]:
    for part in _parts(dataset):
        clips = getattr(part, "clips", None)
        if isinstance(clips, ClipSet):
            yield from ((clips, clip) for clip in clips.clips if clip.gt is not None)


def _equal_frame(one: ClipSet, first: ClipPair, other: ClipSet, second: ClipPair) -> str:
    """Return the path of a frame of the second clip if three frames of both, first, middle and last, are equal.

    Frames of one colour say nothing: many clips begin in black.
    """
    assert first.gt is not None
    assert second.gt is not None
    known = {stem(file): number for number, file in enumerate(first.gt.files)}
    common = [(known[stem(file)], number) for number, file in enumerate(second.gt.files) if stem(file) in known]
    told = ""
    for number in dict.fromkeys((len(common) // 2, 0, len(common) - 1) if common else ()):
        paths = first.gt.path(common[number][0]), second.gt.path(common[number][1])
        if one.storage.size(paths[0]) != other.storage.size(paths[1]):
            return ""
        pixels = other.storage.read(paths[1])
        if not np.array_equal(one.storage.read(paths[0]), pixels):
            return ""
        if (pixels != pixels[:1, :1]).any():
            told = paths[1]
    return told
