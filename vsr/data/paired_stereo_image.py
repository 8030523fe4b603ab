"""Stereo pairs of images: super-resolution of two views (Flickr1024, Middlebury, KITTI)."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsr.data.augment import Planes, Region, draw_stereo_flips, draw_stereo_regions
from vsr.data.clips import check_roots, check_seed
from vsr.data.disparity import find_disparities, read_disparity
from vsr.data.names import pick, read_image_list, same_names
from vsr.data.paired_image import CHECKED_AT_START
from vsr.data.pairs import Pair, PairReader
from vsr.data.sample import Sample, naming, stacked
from vsr.data.storage import existing, open_storage
from vsr.registry import DATASETS

VIEWS = {"dataroot_gt": ("hr0", "hr1"), "dataroot_lq": ("lr0", "lr1")}  # left, right
_NAMED = 3  # folders that a message lists


@DATASETS.register
class PairedStereoImageDataset(Dataset[Sample]):
    """Stereo pairs in high and low quality: a folder a pair, ``0001/{hr0,hr1}.png`` and ``0001/{lr0,lr1}.png``.

    0 is the left view, 1 the right one. Both roots may be one folder, as of patches: ``000001/{hr0,hr1,lr0,lr1}.png``.
    An item's ``lq`` is (6, h, w), the left view's red, green, blue, then the right one's; ``gt`` alike.

    With a crop size it is a training set of random crops, and an item is ``dataset[index, draw]``: all
    that is random depends on (seed, draw, index) alone. Without, an item is a whole pair.

    Args:
        dataroot_gt: Folder of the pairs in high quality; None (when testing): there are none.
        dataroot_lq: Folder of those in low quality; None: made from GT by antialiased bicubic
            reduction, rounded to 8 bits.
        dataroot_disparity: Folder of the left views' true disparities, x_left - x_right in GT pixels, for the metrics
            that compare with them, when testing: ``KEY.png`` (16 bits, times 256, 0 unknown), ``KEY.pfm`` or
            ``KEY.npy`` (NaN, infinity or 0 unknown), of GT's size, or ``KEY/disp0.pfm`` and so on; None: not known.
        scale: GT size / LQ size.
        gt_size: Side of a square crop, GT pixels, a multiple of scale; None: whole images, or as the next two say.
        gt_size_h, gt_size_w: Height and width of the crop, GT pixels, multiples of scale, in place of gt_size.
        use_hflip: Mirror both views and exchange them at random, when training: a mirrored left view is a right one.
        use_vflip: Flip both views vertically at random, when training.
        use_rot: Must be false: the views of a rotated pair would differ along columns.
        flip_RGB: Exchange the colours at random, in one order for all, when training.
        random_offset: Up to how many LQ pixels the right view's crop lies aside of the left one's, when training. To
            the left it takes from every disparity, and may turn those of far points negative.
        meta_info_file: List of the pairs to use, lines ``name`` or ``name (h,w,c)``.
        cache_data: Keep the decoded images in memory.
        io_backend: Where the images are: {type: disk} in files, {type: lmdb} in LMDBs, which the roots then are.
        seed: Of the run.

    Raises:
        FileNotFoundError: a root or list is missing.
        ValueError: an argument or the data is not as described.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | None = None,
        dataroot_lq: str | None = None,
        dataroot_disparity: str | None = None,
        scale: int,
        gt_size: int | None = None,
        gt_size_h: int | None = None,
        gt_size_w: int | None = None,
        use_hflip: bool = True,
        use_vflip: bool = True,
        use_rot: bool = False,
        flip_RGB: bool = False,  # noqa: N803 (NAFNet's option)
        random_offset: int = 0,
        meta_info_file: str | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        check_roots(dataroot_gt, dataroot_lq, scale)
        if use_rot:
            raise ValueError(
                "use_rot: expected false, got true: the views of a stereo pair differ along rows only, "
                "those of a rotated one would not. Leave it out; use_hflip and use_vflip keep the geometry."
            )
        if random_offset < 0:
            raise ValueError(f"random_offset: expected a number of LQ pixels >= 0, got {random_offset}.")
        self.crop = _crop(scale, gt_size, gt_size_h, gt_size_w)  # (height, width) in LQ pixels
        self.is_train = self.crop is not None
        if self.is_train and dataroot_gt is None:
            raise ValueError("dataroot_gt: expected the folder of the ground truth to train on (gt_size), got none.")
        self.reader = PairReader(storage=open_storage(io_backend), scale=scale, exact=self.is_train)
        self.scale, self.seed, self.random_offset = scale, check_seed(seed), random_offset
        self.flips = {"use_hflip": use_hflip, "use_vflip": use_vflip, "flip_RGB": flip_RGB}
        self.has_gt = dataroot_gt is not None
        self._find({"dataroot_gt": dataroot_gt, "dataroot_lq": dataroot_lq}, meta_info_file)
        self._pairs: list[tuple[Pair, Pair]] | None = None
        self._disparities: dict[str, str] = {}
        if dataroot_disparity is not None:
            if self.is_train or dataroot_gt is None:
                got = "a crop size, for training" if self.is_train else "no dataroot_gt"
                raise ValueError(
                    f"dataroot_disparity: expected a set of whole pairs with GT to measure on, got {got}. Leave it out."
                )
            self._disparities = find_disparities(dataroot_disparity, self.keys)
        largest = self._check_sizes()
        if cache_data:
            self._pairs = [self._pair(index) for index in range(len(self))]
            views = [(view, self.has_gt) for pair in self._pairs for view in pair]
            self.reader.preload(views, where=f"{len(self)} stereo pairs")
        area = self.crop[0] * self.crop[1] if self.crop else largest
        self.sample_bytes = 6 * area * (1 + self.has_gt * scale**2)
        if self._disparities:
            self.sample_bytes += 4 * area * scale**2

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_disparity(self) -> bool:
        """Whether items have the true ``disparity``."""
        return bool(self._disparities)

    @property
    def gt_files(self) -> list[str]:
        """The left view's file of every item: GT's, or LQ's where there is no GT."""
        root, files = next(iter(self._files.values()))
        root = os.path.realpath(root)  # another data set may have it by a link
        return [os.path.join(root, key, files[0]) for key in self.keys]

    def gt_images(self) -> list[tuple[str, str]]:
        """Return each GT view by its pair and name, and its file, as the storage calls it; none if there is no GT."""
        if not self.has_gt:
            return []
        root, files = self._files["dataroot_gt"]
        return [(f"{key}/{file}", os.path.join(root, key, file)) for key in self.keys for file in files]

    def named_pairs(self) -> list[tuple[str, Pair]]:
        """Return each view's name and its files."""
        return [
            (f"{key}/{side}", view)
            for index, key in enumerate(self.keys)
            for side, view in zip(("left", "right"), self._pair(index), strict=True)
        ]

    def __getitem__(self, item: tuple[int, int] | int) -> Sample:
        index, draw = item if isinstance(item, tuple) else (item, 0)
        if self.is_train != isinstance(item, tuple):
            raise TypeError(f"item: expected {'(index, draw)' if self.is_train else 'a number'}, got {item!r}")
        key = self.keys[index]
        with naming(key):
            pair, flips = self._pair(index), None
            regions: tuple[Region | None, Region | None] = (None, None)
            if self.crop:
                self._check_crop(pair)
                rng = np.random.default_rng((self.seed, draw, index))
                regions = draw_stereo_regions(rng, pair[0].size, self.crop, max_shift=self.random_offset)
                flips = draw_stereo_flips(rng, **self.flips)

            def both(read: Any) -> Tensor:
                views: tuple[Planes, Planes] = (read(pair[0], regions[0]), read(pair[1], regions[1]))
                return stacked(flips.apply(*views) if flips else views).flatten(0, 1)

            sample = Sample(lq=both(self.reader.lq), key=key)
            if self.has_gt:
                sample["gt"] = both(self.reader.gt)
            if self._disparities:
                sample["disparity"] = self._disparity(index, pair[0])
        return sample

    def _disparity(self, index: int, left: Pair) -> Tensor:
        """Return the true disparity (s*h, s*w) of a left view, cropped as its GT is where that has rows to spare."""
        assert left.gt is not None
        known = read_disparity(self._disparities[self.keys[index]], self.reader.storage.size(left.gt))
        height, width = (self.scale * side for side in left.size)
        return torch.from_numpy(np.ascontiguousarray(known[:height, :width]))

    def _pair(self, index: int) -> tuple[Pair, Pair]:
        """Return the left and the right view; raise ValueError if their sizes differ."""
        if self._pairs is not None:
            return self._pairs[index]
        paths = {
            argument: [os.path.join(root, self.keys[index], file) for file in files]
            for argument, (root, files) in self._files.items()
        }
        none = (None, None)
        left, right = map(self.reader.pair, paths.get("dataroot_gt", none), paths.get("dataroot_lq", none))
        if left.size != right.size:
            sizes = " and ".join(f"{height}x{width}" for height, width in (left.size, right.size))
            raise ValueError(
                f"{left.name} and {os.path.basename(right.name)}: expected two views of one size, "
                f"got {sizes} (LQ). Make the pair again."
            )
        return left, right

    def _find(self, roots: Mapping[str, str | None], meta_info_file: str | None) -> None:
        """Set ``keys`` and ``_files``, by root the folder and the names of its two views."""
        self._files: dict[str, tuple[str, tuple[str, str]]] = {}
        names: dict[str, list[str]] = {}  # of all images, by root: patches have one root for both
        keys: dict[str, list[str]] = {}
        for argument, root in roots.items():
            if root is None:
                continue
            folder = str(existing(root, argument))
            if folder not in names:
                names[folder] = self.reader.storage.images(root, argument)
            keys[argument], files = _views(names[folder], VIEWS[argument], argument, root)
            self._files[argument] = folder, files
        self.keys: list[str] = next(iter(keys.values()))
        if meta_info_file is not None:
            known = dict.fromkeys(self.keys)
            self.keys = pick(read_image_list(meta_info_file), known, f"meta_info_file {meta_info_file}")
        if len(keys) == 2:
            lq, chosen = keys["dataroot_lq"], set(self.keys)
            found = lq if meta_info_file is None else [key for key in lq if key in chosen]
            same_names(self.keys, found, "pairs", "Complete the folders, or choose by meta_info_file.")

    def _check_sizes(self) -> int:
        """Compare the sizes of up to CHECKED_AT_START pairs; return the largest LQ area in pixels."""
        largest = widest = 0
        for index in range(0, len(self), -(-len(self) // CHECKED_AT_START)):
            pair = self._pair(index)
            self._check_crop(pair)
            widest = max(widest, pair[0].size[1])
            if self._disparities:
                self._disparity(index, pair[0])
            largest = max(largest, pair[0].size[0] * pair[0].size[1])
        if self.crop and self.random_offset and widest == self.crop[1]:
            width = self.scale * widest
            raise ValueError(
                f"random_offset: expected views wider than the crop, to move it in them, got {width} pixels for a crop "
                f"of {width}. Lower gt_size_w, take whole images in place of patches, or leave random_offset out."
            )
        return largest

    def _check_crop(self, pair: tuple[Pair, Pair]) -> None:
        if self.crop and any(side < part for side, part in zip(pair[0].size, self.crop, strict=True)):
            wanted, got = (f"{self.scale * h}x{self.scale * w}" for h, w in (self.crop, pair[0].size))
            raise ValueError(
                f"{pair[0].name}: expected views of {wanted} (gt_size_h x gt_size_w) or more, got {got}. "
                "Leave the pair out (meta_info_file), or lower the crop."
            )


def _crop(scale: int, size: int | None, height: int | None, width: int | None) -> tuple[int, int] | None:
    """Return the crop's (height, width) in LQ pixels; None: whole images."""
    given = {"gt_size": size, "gt_size_h": height, "gt_size_w": width}
    for name, value in given.items():
        if value is not None and (value < scale or value % scale):
            raise ValueError(f"{name}: expected a multiple of scale ({scale}), got {value}.")
    if size is not None and (height or width):
        raise ValueError("gt_size: expected either this or gt_size_h and gt_size_w, got both. Leave one out.")
    if (height is None) != (width is None):
        missing = "gt_size_h" if height is None else "gt_size_w"
        raise ValueError(f"{missing}: expected the crop's other side, too, got none. Name both, or gt_size alone.")
    if size is not None:
        return size // scale, size // scale
    return (height // scale, width // scale) if height and width else None


def _views(names: list[str], views: tuple[str, str], argument: str, root: str) -> tuple[list[str], tuple[str, str]]:
    """Return the folders that hold a pair, in order, and the two files' names, which are the same in all of them.

    Args:
        names: Of all images below the root, in natural order.
        views: The files' names without suffix.
        argument, root: Start the messages.
    """
    counts: dict[str, int] = {}
    suffixes: dict[str, str] = {}  # each with one image that has it
    sides = {views[0]: 1, views[1]: 2}
    for name in names:  # there may be a million of them
        folder, _, file = name.rpartition("/")
        view, _, ending = file.rpartition(".")
        side = sides.get(view)
        if side is not None:
            counts[folder] = counts.get(folder, 0) | side
            suffixes.setdefault(f".{ending}", name)
    if not counts or "" in counts:
        got = f"files such as {names[0]}" if not counts else "them in the folder itself"
        raise ValueError(
            f"{argument}: expected folders with {views[0]} and {views[1]}, two views, each in '{root}', got {got}. "
            "Name the folder above them, or make them with scripts/prepare_flickr1024.py or prepare_stereo.py."
        )
    if len(suffixes) > 1:
        files = " and ".join(list(suffixes.values())[:2])
        raise ValueError(f"{argument}: expected files of one kind in '{root}', got {files}. Convert or remove some.")
    single = [folder for folder, found in counts.items() if found != 3]
    if single:
        some = ", ".join(f"{folder} (no {views[1] if counts[folder] == 1 else views[0]})" for folder in single[:_NAMED])
        raise ValueError(
            f"{argument}: expected both views in each folder of '{root}', got one alone in {len(single)} of "
            f"{len(counts)}: {some}{', ...' if len(single) > _NAMED else ''}. Complete or remove them."
        )
    suffix = next(iter(suffixes))
    return list(counts), (views[0] + suffix, views[1] + suffix)
