"""Single images without ground truth: photographs and frames to be restored, not measured."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from vsr.data.names import first_duplicate, pick, read_image_list
from vsr.data.pairs import Pair, PairReader
from vsr.data.sample import Sample, naming, stacked
from vsr.data.storage import existing, in_order, open_storage, stem, walk
from vsr.data.video_cache import frames_of_video
from vsr.registry import DATASETS
from vsr.utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES

CHECKED_AT_START = 1000  # images, evenly spaced, whose headers are read before the first is restored


@DATASETS.register
class SingleImageDataset(Dataset[Sample]):
    """Images in low quality alone, for testing in the wild: test.py restores and saves them and measures nothing.

    Args:
        dataroot_lq: Folder of images and of videos, whose frames count as images, at any depth; or one image or
            video; or with io_backend lmdb an LMDB.
        meta_info_file: List of the images to use, lines ``name (h,w,c)``; a video's frames are
            ``video/00000000.png`` and so on.
        io_backend: Where the images are: {type: disk} in files, {type: lmdb} in an LMDB.

    Raises:
        FileNotFoundError: the root or the list is missing.
        ValueError: there is no image, two have one name, or an image cannot be read.
    """

    is_train = False

    def __init__(
        self, *, dataroot_lq: str, meta_info_file: str | None = None, io_backend: Mapping[str, Any] | None = None
    ) -> None:
        storage = open_storage(io_backend)
        self.reader = PairReader(storage=storage, scale=1)
        root = existing(dataroot_lq, "dataroot_lq")
        if not storage.is_lmdb(dataroot_lq):
            self._files = _files(root)
        else:
            self._files = {name: os.path.join(root, name) for name in storage.images(dataroot_lq, "dataroot_lq")}
        if twice := first_duplicate(list(self._files)):
            raise ValueError(
                f"dataroot_lq {dataroot_lq}: expected one image for each name, got {twice}. Rename one of them."
            )
        self._names = list(self._files)
        if meta_info_file is not None:
            listed = [storage.listed(name) for name in read_image_list(meta_info_file)]
            self._names = pick(listed, self._files, f"meta_info_file {meta_info_file}")
        sizes = [storage.size(self._files[name]) for name in self._names[:: -(-len(self) // CHECKED_AT_START)]]
        self.sample_bytes = 3 * max(height * width for height, width in sizes)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def keys(self) -> list[str]:
        """The key of every item: the image's path below the root, without suffix."""
        return [stem(name) for name in self._names]

    @property
    def gt_files(self) -> list[str]:
        """The file of every item; there is no ground truth."""
        return [os.path.realpath(self._files[name]) for name in self._names]

    def named_pairs(self) -> list[tuple[str, Pair]]:
        """Return each item's key and its file."""
        return [(stem(name), self.reader.pair(None, self._files[name])) for name in self._names]

    def __getitem__(self, index: int) -> Sample:
        if not isinstance(index, int):
            raise TypeError(f"item: expected a number, got {index!r}")
        name = self._names[index]
        with naming(stem(name)):
            lq = self.reader.lq(self.reader.pair(None, self._files[name]))
            return Sample(lq=stacked([lq])[0], key=stem(name))


def _files(root: Path) -> dict[str, str]:
    """Return the images below a root, or the root itself, by their path below it; frames of videos are images, too."""
    if root.is_file():
        suffix = root.suffix.lower()
        if suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise ValueError(f"dataroot_lq: expected a folder, an image or a video, got the file '{root}'.")
        return _frames(root, root.parent) if suffix in VIDEO_SUFFIXES else {root.name: str(root)}
    found: dict[str, str] = {}
    for folder, images, videos in walk(root):
        found |= {(folder / name).relative_to(root).as_posix(): str(folder / name) for name in images}
        for video in videos:
            found |= _frames(folder / video, root)
    if not found:
        raise ValueError(
            f"dataroot_lq: expected images ({' '.join(IMAGE_SUFFIXES)}) or videos ({' '.join(VIDEO_SUFFIXES)}) in "
            f"'{root}', got none. Check the path."
        )
    return {name: found[name] for name in in_order(list(found))}


def _frames(video: Path, root: Path) -> dict[str, str]:
    folder, names = frames_of_video(video)
    clip = video.relative_to(root).with_suffix("").as_posix()
    return {f"{clip}/{name}": str(folder / name) for name in names}
