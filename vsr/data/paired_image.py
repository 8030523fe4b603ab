"""Pairs of images: super-resolution, deblurring, denoising of single pictures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from vsr.data.augment import draw_flips, draw_region
from vsr.data.clips import check_crop, check_roots, check_seed
from vsr.data.degradations import build_degradations
from vsr.data.names import check_template, first_duplicate, pick, read_image_list, same_names
from vsr.data.pairs import Pair, PairReader
from vsr.data.sample import Sample, naming, stacked
from vsr.data.storage import RootPair, existing, open_storage, pair_roots, stem
from vsr.registry import DATASETS

CHECKED_AT_START = 1000  # images, evenly spaced, whose sizes are compared before the first step


@DATASETS.register
class PairedImageDataset(Dataset[Sample]):
    """Images in high and low quality, found at any depth below two roots by their names.

    With ``gt_size`` it is a training set of random crops, and an item is ``dataset[index, draw]``:
    all that is random depends on (seed, draw, index) alone. Without, an item is a whole pair.

    Args:
        dataroot_gt: Folder of the images in high quality, or a list of folders; None (when testing): there are none.
        dataroot_lq: Folder of those in low quality, or a list in the order of dataroot_gt's; None: made from GT by
            antialiased bicubic reduction, rounded to 8 bits.
        scale: GT size / LQ size.
        gt_size: Side of the square crop, GT pixels, a multiple of scale; None: whole images.
        use_hflip: Flip horizontally at random, when training.
        use_rot: Flip vertically and exchange the axes at random, when training.
        gt_downscale: Reduce the GT files by this factor first.
        filename_tmpl: Name of an LQ image, without suffix, for the name {} of its GT image.
        meta_info_file: List of the images to use, lines ``name (h,w,c)``; of several roots those of that name in each,
            or ``root/name`` with the folder's name, or its number if folders of one name are among them.
        cache_data: Keep the decoded images in memory.
        io_backend: Where the images are: {type: disk} in files, {type: lmdb} in LMDBs, which the roots then are.
        degradations: Stages that make LQ from GT, in place of the bicubic reduction.
        seed: Of the run.

    Raises:
        FileNotFoundError: a root or list is missing.
        ValueError: an argument or the data is not as described.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str] | None = None,
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        gt_size: int | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        gt_downscale: int = 1,
        filename_tmpl: str = "{}",
        meta_info_file: str | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        degradations: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        self.degradations, dataroot_lq = build_degradations(
            degradations, scale=scale, dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq
        )
        if self.degradations and self.degradations.neighbours:
            raise ValueError("degradations: expected stages of single images, got FrameAverage. Use a set of clips.")
        check_roots(dataroot_gt, dataroot_lq, scale)
        self.is_train = gt_size is not None
        if self.is_train and dataroot_gt is None:
            raise ValueError("dataroot_gt: expected the folder of the ground truth to train on (gt_size), got none.")
        self._storage = open_storage(io_backend)
        self.reader = PairReader(storage=self._storage, scale=scale, gt_downscale=gt_downscale, exact=self.is_train)
        self.scale, self.seed = scale, check_seed(seed)
        self.crop = check_crop(gt_size, scale) if gt_size is not None else 0  # side in LQ pixels
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.has_gt = dataroot_gt is not None
        self._roots = pair_roots(dataroot_gt, dataroot_lq)
        self._folders = [_folders(roots) for roots in self._roots]
        self._names = self._find(check_template(filename_tmpl), meta_info_file)  # root's number, GT's and LQ's name
        self._pairs: list[Pair] | None = None
        largest = self._check_sizes()
        if cache_data:
            self._pairs = [self._pair(index) for index in range(len(self))]
            self.reader.preload([(pair, self.has_gt) for pair in self._pairs], where=f"{len(self)} images")
        area = self.crop**2 if self.is_train else largest
        self.sample_bytes = 3 * area * (1 + self.has_gt * scale**2)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def keys(self) -> list[str]:
        """The key of every item: the image's path below its root, without suffix."""
        return [self._key(index) for index in range(len(self))]

    @property
    def gt_files(self) -> list[str]:
        """The file of every item: GT's, or LQ's where there is no GT."""
        roots = [os.path.realpath(gt or lq or "") for gt, lq in self._folders]  # another data set may have it by a link
        return [os.path.join(roots[number], gt or lq) for number, gt, lq in self._names]

    def gt_images(self) -> list[tuple[str, str]]:
        """Return each item's key and its GT file, as the storage calls it; none if there is no GT."""
        if not self.has_gt:
            return []
        folders = [str(gt) for gt, _ in self._folders]
        return [(self._key(i), os.path.join(folders[number], gt)) for i, (number, gt, _) in enumerate(self._names)]

    def named_pairs(self) -> list[tuple[str, Pair]]:
        """Return each item's key and its files."""
        return [(key, self._pair(index)) for index, key in enumerate(self.keys)]

    def __getitem__(self, item: tuple[int, int] | int) -> Sample:
        index, draw = item if isinstance(item, tuple) else (item, 0)
        if self.is_train != isinstance(item, tuple):
            raise TypeError(f"item: expected {'(index, draw)' if self.is_train else 'a number'}, got {item!r}")
        key = self._key(index)
        with naming(key):
            pair, region, flips = self._pair(index), None, None
            if self.is_train:
                self._check_crop(pair)
                rng = np.random.default_rng((self.seed, draw, index))
                region = draw_region(rng, pair.size, self.crop)
                flips = draw_flips(rng, use_hflip=self.use_hflip, use_rot=self.use_rot)
            if self.degradations is None:
                lq = self.reader.lq(pair, region)
                gt = self.reader.gt(pair, region) if self.has_gt else None
            elif region is not None:
                made, read_gt = self.degradations.training(self.reader, [[pair]], region, rng)
                lq, gt = made[0], read_gt(pair)
            else:
                lq = self.degradations.testing(self.reader, [[pair]], "", [key])[0]
                gt = self.degradations.ground_truth(self.reader.gt(pair))
            sample = Sample(lq=stacked([flips.apply(lq) if flips else lq])[0], key=key)
            if gt is not None:
                sample["gt"] = stacked([flips.apply(gt) if flips else gt])[0]
        return sample

    def _pair(self, index: int) -> Pair:
        if self._pairs is not None:
            return self._pairs[index]
        number, *names = self._names[index]
        gt, lq = (
            os.path.join(folder, name) if folder is not None and name else None
            for folder, name in zip(self._folders[number], names, strict=True)
        )
        return self.reader.pair(gt, lq)

    def _key(self, index: int) -> str:
        number, gt, lq = self._names[index]
        return self._roots[number].name(stem(gt or lq))

    def _find(self, tmpl: str, meta_info_file: str | None) -> list[tuple[int, str, str]]:
        """Return for each item the number of its roots, and the names of its files below them, '' for none."""
        listed = read_image_list(meta_info_file) if meta_info_file is not None else None
        items: list[tuple[int, str, str]] = []
        unknown: dict[str, None] = dict.fromkeys(listed or ())
        known: dict[str, None] = {}
        for number, roots in enumerate(self._roots):
            gt = self._images(roots.gt, roots.argument("dataroot_gt"))
            lq = self._images(roots.lq, roots.argument("dataroot_lq"))
            chosen = names = gt or lq
            if listed is not None:
                root, there = roots.gt or roots.lq, set(names)
                paths = {name: self._storage.listed(roots.below(name), root) for name in listed}
                chosen = [path for path in dict.fromkeys(paths.values()) if path in there]
                unknown = {name: None for name in unknown if paths[name] not in there}
                known |= dict.fromkeys(map(roots.name, names))
            items += [(number, *pair) for pair in self._matched(chosen, gt, lq, tmpl, meta_info_file)]
        pick(list(unknown), known, f"meta_info_file {meta_info_file}")
        return items

    def _images(self, root: str | None, argument: str) -> list[str]:
        names = self._storage.images(root, argument) if root is not None else []
        if twice := first_duplicate(names):
            raise ValueError(f"{root}: expected one image for each name, got {twice}. Remove the one or the other.")
        return names

    def _matched(
        self, chosen: list[str], gt: list[str], lq: list[str], tmpl: str, meta_info_file: str | None
    ) -> list[tuple[str, str]]:
        """Return the names of the GT and LQ file of each chosen image of one pair of roots."""
        if not gt:
            return [("", name) for name in chosen]
        if not lq:
            return [(name, "") for name in chosen]
        by_key = {stem(name): name for name in lq}
        wanted = [os.path.join(folder, tmpl.format(stem(file))) for folder, file in map(os.path.split, chosen)]
        asked = set(wanted)
        found = [key for key in by_key if meta_info_file is None or key in asked]
        same_names(wanted, found, "images", _template_hint(wanted, list(by_key)))
        return [(name, by_key[key]) for name, key in zip(chosen, wanted, strict=True)]

    def _check_sizes(self) -> int:
        """Compare the sizes of up to CHECKED_AT_START pairs; return the largest LQ area in pixels."""
        step = -(-len(self) // CHECKED_AT_START)
        largest = 0
        for index in range(0, len(self), step):
            pair = self._pair(index)
            if self.is_train:
                self._check_crop(pair)
            largest = max(largest, pair.size[0] * pair.size[1])
        return largest

    def _check_crop(self, pair: Pair) -> None:
        if min(pair.size) < self.crop:
            height, width = (self.scale * side for side in pair.size)
            raise ValueError(
                f"{pair.name}: expected an image of gt_size {self.scale * self.crop} or more, got {height}x{width}. "
                "Leave it out (meta_info_file), or lower gt_size."
            )


def _folders(roots: RootPair) -> list[Path | None]:
    return [
        existing(root, roots.argument(argument)) if root is not None else None
        for root, argument in ((roots.gt, "dataroot_gt"), (roots.lq, "dataroot_lq"))
    ]


def _template_hint(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Say which filename_tmpl would fit if the LQ names are the GT names with something appended."""
    if not wanted:
        return ""
    first, other = os.path.basename(wanted[0]), os.path.basename(found[0])
    if other != first and other.startswith(first):
        return f"If '{other}' belongs to '{first}', set filename_tmpl: '{{}}{other[len(first) :]}'."
    return ""
