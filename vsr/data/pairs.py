"""The pixels of a pair of GT and LQ frames, whole or a part, LQ made from GT where there is no file."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vsr.data.augment import Planes, Region
from vsr.data.storage import Storage
from vsr.utils import dist
from vsr.utils.images import Frame
from vsr.utils.resize import imresize, output_length, taps

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """One frame in two resolutions.

    Args:
        gt: Its file in high quality; None: there is none.
        lq: Its file in low quality; None: made from gt.
        size: (height, width) of the LQ frame.
    """

    gt: str | None
    lq: str | None
    size: tuple[int, int]

    @property
    def name(self) -> str:
        return str(self.gt or self.lq)


class PairReader:
    """Reads pairs as uint8 planes (3, h, w), RGB.

    GT is cropped at its bottom and right to scale x LQ where it is larger by less than one LQ pixel.

    Args:
        storage: Where the files are.
        scale: GT size / LQ size.
        gt_downscale: GT files are reduced by this integer factor first (antialiased bicubic).
        exact: Refuse a GT file whose size is not exactly scale x that of the LQ file.
        keep: Whole frames of each kind that are remembered, for windows that overlap; at least 1.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, *, storage: Storage, scale: int, gt_downscale: int = 1, exact: bool = True, keep: int = 1
    ) -> None:
        for name, value in (("scale", scale), ("gt_downscale", gt_downscale)):
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}.")
        self.storage, self.scale, self.gt_downscale = storage, scale, gt_downscale
        self.exact = exact
        self._cached: dict[tuple[str, str], Planes] = {}
        self._recent: dict[str, OrderedDict[str, Planes]] = {kind: OrderedDict() for kind in ("raw", "gt", "lq")}
        self._part: tuple[str, Region, Planes] | None = None  # of the GT file read last
        self._keep = {"raw": 1, "gt": max(1, keep), "lq": max(1, keep)}

    def pair(self, gt: str | None, lq: str | None) -> Pair:
        """Look at the files' headers and return the pair with its size.

        Raises:
            ValueError: the sizes do not fit together.
            FileNotFoundError: a file is missing.
        """
        sizes = [self.storage.size(path) if path is not None else None for path in (gt, lq)]
        return self.fitted(gt, lq, *sizes)

    def fitted(
        self, gt: str | None, lq: str | None, gt_size: tuple[int, int] | None, lq_size: tuple[int, int] | None
    ) -> Pair:
        """As ``pair``, of files whose (height, width) are known; None: there is no such file."""
        if gt_size is None:
            assert lq_size is not None
            return Pair(gt, lq, lq_size)
        height, width = self._reduced(gt_size)
        size = (height // self.scale, width // self.scale) if lq_size is None else lq_size
        if min(size) < 1:
            raise ValueError(
                f"{gt}: expected at least {self.scale} pixels a side at scale {self.scale}, got {height}x{width}. "
                "Leave it out, or lower gt_downscale."
            )
        pair = Pair(gt, lq, size)
        self._check_gt(pair, (height, width))
        return pair

    def lq(self, pair: Pair, region: Region | None = None) -> Planes:
        """Return the LQ frame (3, h, w), or the part of it that ``region`` (in LQ pixels) names."""
        path = pair.lq or pair.gt
        assert path is not None
        whole = Region(0, 0, *pair.size)
        cached = self._cached.get(("lq", path))
        if cached is not None:
            return (region or whole).of(cached)
        if pair.lq is not None:
            if region is not None and self.storage.crops(path):
                self._check_lq(pair, self.storage.size(path))
                return _planes(self.storage.read(path, region))
            return (region or whole).of(self._remembered("lq", path, lambda: self._read_lq(pair)))
        if region is None:
            return self._remembered("lq", path, lambda: self._shrunk(self.gt(pair), whole))
        return self._shrunk(self._gt_around(pair, region), region)

    def gt(self, pair: Pair, region: Region | None = None) -> Planes:
        """Return the GT frame (3, s*h, s*w), or the part of it that ``region`` (in LQ pixels) names."""
        assert pair.gt is not None
        part = (region or Region(0, 0, *pair.size)).scaled(self.scale)
        cached = self._cached.get(("gt", pair.gt))
        if cached is not None:
            return part.of(cached)
        return self._gt_whole(pair, part) if region is None else self._gt_part(pair, part)

    def preload(self, pairs: Iterable[tuple[Pair, bool]], *, where: str) -> None:
        """Keep whole frames in memory; processes forked afterwards share them.

        Args:
            pairs: The frames; each with whether its GT is wanted.
            where: What they belong to; starts the messages.

        Raises:
            ValueError: they would not fit into the memory that is free.
        """
        wanted = list(pairs)
        area = sum(pair.size[0] * pair.size[1] * (1 + gt * self.scale**2) for pair, gt in wanted)
        free, copies = free_memory(), dist.local_world_size()  # each process of the machine keeps its own
        if free is not None and 3 * area * copies > free:
            raise ValueError(
                f"cache_data: expected room for the frames of {where} in memory, {3 * area * copies / 1e9:.1f} GB for "
                f"{copies} processes, but {free / 1e9:.1f} GB are free. Set cache_data: false."
            )

        def load(item: tuple[Pair, bool]) -> None:
            pair, with_gt = item
            whole = Region(0, 0, *pair.size)
            if pair.gt is not None and (with_gt or pair.lq is None):
                gt = _copied(whole.scaled(self.scale).of(self._reduce(self._read_raw(pair))))
                if with_gt:
                    self._cached["gt", pair.gt] = gt
                if pair.lq is None:
                    self._cached["lq", pair.gt] = _copied(self._shrunk(gt, whole))
            if pair.lq is not None:
                self._cached["lq", pair.lq] = _copied(self._read_lq(pair))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(load, wanted):
                pass
        log.info("%s: %d frames kept in memory, %.0f MB", where, len(wanted), 3 * area / 1e6)

    # --- frames and parts of them --------------------------------------------------------------

    def _read_lq(self, pair: Pair) -> Planes:
        assert pair.lq is not None
        frame = self.storage.read(pair.lq)
        self._check_lq(pair, frame.shape[:2])
        return _planes(frame)

    def _read_raw(self, pair: Pair) -> Frame:
        """Return the GT file's pixels (h, w, 3) before any reduction."""
        assert pair.gt is not None
        frame = self.storage.read(pair.gt)
        self._check_gt(pair, self._reduced(frame.shape[:2]))
        return frame

    def _remembered_raw(self, pair: Pair) -> Frame:
        assert pair.gt is not None
        return self._remembered("raw", pair.gt, lambda: self._read_raw(pair))

    def _reduce(self, raw: Frame) -> Planes:
        """Return the GT frame that a file's pixels stand for, not yet cropped to scale x LQ."""
        return _planes(raw if self.gt_downscale == 1 else imresize(raw, 1 / self.gt_downscale))

    def _gt_whole(self, pair: Pair, part: Region) -> Planes:
        """Return a part, in GT pixels, of the GT frame, which is read as a whole and remembered."""
        assert pair.gt is not None
        return part.of(self._remembered("gt", pair.gt, lambda: self._reduce(self._remembered_raw(pair))))

    def _gt_part(self, pair: Pair, part: Region) -> Planes:
        """Return a part, in GT pixels, of the GT frame, without the rest of it where that is cheaper."""
        assert pair.gt is not None
        if self.gt_downscale > 1:
            return _planes(imresize(self._raw_around(pair, part), 1 / self.gt_downscale, region=part))
        if not self.storage.crops(pair.gt):
            return self._gt_whole(pair, part)
        return self._gt_read(pair, part)

    def _gt_read(self, pair: Pair, part: Region) -> Planes:
        """Read a part of the GT file's pixels, or find it in the part that was read last: LQ is made of more."""
        assert pair.gt is not None
        if self._part is not None and self._part[0] == pair.gt:
            _, known, pixels = self._part
            top, left = part.top - known.top, part.left - known.left
            if min(top, left, known.height - top - part.height, known.width - left - part.width) >= 0:
                return Region(top, left, part.height, part.width).of(pixels)
        self._check_gt(pair, self._reduced(self.storage.size(pair.gt)))
        pixels = _planes(self.storage.read(pair.gt, part))
        self._part = (pair.gt, part, pixels)
        return pixels

    def _gt_around(self, pair: Pair, region: Region) -> Planes:
        """Return the GT frame (3, s*h, s*w), right at least where the LQ pixels of ``region`` come from."""
        assert pair.gt is not None
        if self.gt_downscale == 1 and not self.storage.crops(pair.gt):
            return self.gt(pair)
        height, width = (self.scale * side for side in pair.size)
        part = _source((height, width), self.scale, region)
        # The whole frame's shape keeps the weights of the whole frame; the rest of it is not looked at.
        frame = np.zeros((3, height, width), np.uint8)
        part.of(frame)[...] = self._gt_part(pair, part)
        return frame

    def _raw_around(self, pair: Pair, region: Region) -> Frame:
        """Return the GT file's pixels (h, w, 3), right at least where ``region`` of their reduction comes from."""
        assert pair.gt is not None
        if not self.storage.crops(pair.gt):
            return self._remembered_raw(pair)
        size = self.storage.size(pair.gt)
        part = _source(size, self.gt_downscale, region)
        frame = np.zeros((3, *size), np.uint8)
        part.of(frame)[...] = self._gt_read(pair, part)
        return frame.transpose(1, 2, 0)

    def _shrunk(self, gt: Planes, region: Region) -> Planes:
        """Return a part of the LQ frame that a GT frame (3, s*h, s*w) makes."""
        return _planes(imresize(gt.transpose(1, 2, 0), 1 / self.scale, region=region))

    def _remembered(self, kind: str, path: str, make: Callable[[], Planes]) -> Planes:
        """Return ``make()``, or what it returned for this path a short while ago."""
        recent = self._recent[kind]
        if path in recent:
            recent.move_to_end(path)
        else:
            recent[path] = make()
            while len(recent) > self._keep[kind]:
                recent.popitem(last=False)
        return recent[path]

    # --- sizes ---------------------------------------------------------------------------------

    def _reduced(self, size: tuple[int, ...]) -> tuple[int, int]:
        height, width = (output_length(side, 1 / self.gt_downscale) for side in size)
        return height, width

    def _check_lq(self, pair: Pair, size: tuple[int, ...]) -> None:
        if size != pair.size:
            raise ValueError(
                f"{pair.lq}: expected {_by(pair.size)} like the first frame of its clip, got {_by(size)}. "
                "The frames of a clip must have one size."
            )

    def _check_gt(self, pair: Pair, size: tuple[int, int]) -> None:
        """Compare the size of a GT frame, after its reduction, with what the pair's LQ size asks for."""
        over = [side - self.scale * lq for side, lq in zip(size, pair.size, strict=True)]
        slack = 0 if self.exact and pair.lq is not None else self.scale - 1
        if all(0 <= more <= slack for more in over):
            return
        reduced = f" (after gt_downscale {self.gt_downscale})" if self.gt_downscale > 1 else ""
        advice = "Check scale, and that dataroot_gt and dataroot_lq belong together."
        if pair.lq is None:  # its LQ size is that of another frame
            advice = "The frames of a clip must have one size."
        raise ValueError(
            f"{pair.gt}: expected a GT of {self.scale} x {_by(pair.size)} (scale x LQ), got {_by(size)}{reduced}. "
            f"{advice}"
        )


def _planes(frame: Frame) -> Planes:
    """View (h, w, 3) as (3, h, w)."""
    return frame.transpose(2, 0, 1)


def _copied(planes: Planes) -> Planes:
    """Copy, even what is contiguous: a view of a file is not in memory yet."""
    return np.array(planes, order="C")


def _source(size: tuple[int, int], factor: int, region: Region) -> Region:
    """Return the part of an image that the pixels in ``region`` of its reduction by ``factor`` come from."""
    bounds = []
    for side, first, length in zip(size, region[:2], region[2:], strict=True):
        positions = taps(side, 1 / factor, True)[0][first : first + length]
        bounds.append((int(positions.min()), int(positions.max()) + 1))
    (top, bottom), (left, right) = bounds
    return Region(top, left, bottom - top, right - left)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def free_memory() -> int | None:
    """Return the bytes that Linux could still give to this process; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
