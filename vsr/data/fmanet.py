"""Data sets of FMA-Net: windows of blurred, small frames with all that its two stages learn from."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vsr.data.augment import Flips, Planes, Region, draw_flips
from vsr.data.clips import ClipPair, ClipSet
from vsr.data.flow import dis_flow
from vsr.data.pairs import Pair
from vsr.data.reds import PARTITIONS, partition
from vsr.data.sample import Sample, prefixed, stacked
from vsr.data.video import TrainClips, VideoTestDataset
from vsr.registry import DATASETS

log = logging.getLogger(__name__)

Partition = Literal["REDS4", "official"]
AROUND = 32  # LQ pixels around a crop in which flow may lead out of it
ALL_REDS = 270  # clips of train and val together


@DATASETS.register
class FMANetDataset(TrainClips):
    """Windows of blurred LQ frames; GT, sharp LQ and optical flow of each frame.

    All are cut by one window and flipped alike: horizontally and vertically, each at random; a flip turns the flow.
    With val_partition the roots may be nested as REDS's archives unpack, and a clip is called by its last folder.

    Args:
        dataroot_gt: Root of the sharp clips, see VideoTrainDataset; a root of each kind is named, none is guessed.
        dataroot_lq: Of the blurred LQ clips; None: degradations make them from GT.
        dataroot_lq_sharp: Of the sharp LQ clips; None: made from GT by antialiased bicubic reduction.
        dataroot_flow: Of optical flows, see VideoTrainDataset: from each inner frame of a clip to its neighbours.
        find_flow: Find the flows by DIS while training, where there is no dataroot_flow; about 3 ms a flow.
        scale: GT size / LQ size.
        gt_size: Side of the square crop, GT pixels; a multiple of scale.
        num_frame: Frames of a window, odd, 3 or more; network_g.num_seq.
        val_partition: Clips of REDS to leave out: REDS4 (000, 011, 015, 020) or official (240 to 269); None: none.
        use_hflip: Flip horizontally at random.
        use_vflip: Flip vertically at random.

    The other arguments are those of VideoTrainDataset.

    Raises:
        FileNotFoundError: a root, a list or a flow is missing.
        ValueError: an argument or the data is not as described.
    """

    window, all_gt = True, True

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str] | None = None,
        dataroot_lq_sharp: str | list[str] | None = None,
        dataroot_flow: str | list[str] | None = None,
        find_flow: bool = False,
        scale: int,
        gt_size: int,
        num_frame: int = 3,
        val_partition: Partition | None = None,
        use_hflip: bool = True,
        use_vflip: bool = True,
        gt_downscale: int = 1,
        filename_tmpl: str = "{}",
        meta_info_file: str | None = None,
        clips: list[str] | None = None,
        exclude_clips: list[str] | None = None,
        frames: list[int] | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        allow_gaps: bool = False,
        degradations: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        if num_frame < 3:
            raise ValueError(f"num_frame: expected an odd number from 3 up, got {num_frame}.")
        if dataroot_lq is None and not degradations:
            raise ValueError(
                "dataroot_lq: expected the root of the blurred frames, got none. Name it, or make them from GT: "
                "degradations: [{type: FrameAverage, num_frame: 5}]."
            )
        if find_flow and dataroot_flow is not None:
            raise ValueError("find_flow: expected false beside dataroot_flow, got true. Leave one of the two out.")
        self._kept = partition(val_partition, take=False)
        super().__init__(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, dataroot_flow=dataroot_flow, scale=scale,
            num_frame=num_frame, gt_size=gt_size, use_hflip=use_hflip, gt_downscale=gt_downscale,
            filename_tmpl=filename_tmpl, meta_info_file=meta_info_file, clips=clips, exclude_clips=exclude_clips,
            frames=frames, cache_data=cache_data, io_backend=io_backend, allow_gaps=allow_gaps,
            degradations=degradations, seed=seed,
        )  # fmt: skip
        self.use_vflip, self.find_flow = use_vflip, find_flow
        self.sharp: ClipSet | None = None
        if dataroot_lq_sharp is not None:
            with prefixed("dataroot_lq_sharp, as LQ of its own"):
                self.sharp = self._clip_set(
                    dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq_sharp, scale=scale, gt_downscale=gt_downscale,
                    filename_tmpl=filename_tmpl, meta_info_file=meta_info_file, clips=clips,
                    exclude_clips=exclude_clips, frames=frames, io_backend=io_backend, exact=True,
                    allow_gaps=allow_gaps,
                )  # fmt: skip
            if cache_data:
                self.sharp.preload(with_gt=False)
        self._sharp = {clip.name: clip for clip in self.sharp.clips} if self.sharp else {}
        if self.flows is not None:
            self.flows.require(self.clips.clips, num_frame // 2)
        self.sample_bytes += 3 * (num_frame * self.crop**2 + (num_frame - 1) * gt_size**2)
        self.sample_bytes += 8 * num_frame * self.crop**2 * find_flow
        if val_partition is not None and not any((meta_info_file, clips, exclude_clips)):
            _tell_of_count(self.clips, val_partition, take=False)

    def _clip_set(self, **arguments: Any) -> ClipSet:
        return ClipSet(**arguments, **self._kept)

    def _flips(self, rng: np.random.Generator) -> Flips:
        drawn = draw_flips(rng, use_hflip=self.use_hflip, use_rot=self.use_vflip)
        return drawn._replace(transposed=False)

    def _complete(
        self, sample: Sample, clip: ClipPair, positions: list[int], position: int, region: Region, flips: Flips
    ) -> None:
        part = _grown(region, clip.size) if self.find_flow else region
        inner = Region(region.top - part.top, region.left - part.left, region.height, region.width)
        frames = [self._clear(clip, frame, part) for frame in positions]
        sample["lq_sharp"] = stacked([flips.apply(inner.of(frame)) for frame in frames])
        if self.find_flow:
            sample["flow"] = _found_flows(frames, positions.index(position), inner, flips)
        super()._complete(sample, clip, positions, position, region, flips)

    def _clear(self, clip: ClipPair, frame: int, region: Region) -> Planes:
        """Read a part of a sharp LQ frame."""
        if self.sharp is not None:
            return self.sharp.reader.lq(self._sharp[clip.name].pair(frame), region)
        pair = clip.pair(frame)
        return self.clips.reader.lq(Pair(pair.gt, None, pair.size), region)


@DATASETS.register
class FMANetTestDataset(VideoTestDataset):
    """A window around every frame of every clip; as they are measured, without those at the ends of the clips.

    Args:
        dataroot_gt: As in VideoTestDataset; None: there is no ground truth.
        dataroot_lq: As there: the blurred frames; None: degradations make them from GT.
        scale: GT size / LQ size.
        num_frame: Frames of a window; network_g.num_seq.
        padding: Of windows that reach beyond a clip, see VideoTestDataset; drop: these are left out.
        gt_frames: GT of the centre of a window, or of all its frames, which stage 1 is validated with.
        val_partition: Clips of REDS to take and no others: REDS4 or official; None: all. With it clips are called by
            their last folder, as in FMANetDataset.

    The other arguments are those of VideoTestDataset.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str] | None = None,
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        num_frame: int = 3,
        padding: str = "drop",
        gt_frames: Literal["centre", "all"] = "centre",
        val_partition: Partition | None = None,
        gt_downscale: int = 1,
        filename_tmpl: str = "{}",
        meta_info_file: str | None = None,
        clips: list[str] | None = None,
        exclude_clips: list[str] | None = None,
        frames: list[int] | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        allow_gaps: bool = False,
        degradations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._kept = partition(val_partition, take=True)
        drop = padding == "drop"
        super().__init__(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, scale=scale, num_frame=num_frame,
            padding="reflection_circle" if drop else padding, gt_downscale=gt_downscale, filename_tmpl=filename_tmpl,
            meta_info_file=meta_info_file, clips=clips, exclude_clips=exclude_clips, frames=frames,
            cache_data=cache_data, io_backend=io_backend, allow_gaps=allow_gaps, degradations=degradations,
        )  # fmt: skip
        if gt_frames not in ("centre", "all"):
            raise ValueError(f"gt_frames: expected 'centre' or 'all', got {gt_frames!r}.")
        if val_partition is not None and not any((meta_info_file, clips, exclude_clips)):
            _tell_of_count(self.clips, val_partition, take=True)
        self.all_gt = gt_frames == "all"
        ends = num_frame // 2 if drop else 0
        self._items = [(clip, i) for clip in self.clips.clips for i in range(ends, len(clip) - ends)]
        if self.all_gt:
            self.sample_bytes += self._frame_bytes * (num_frame - 1) * self.has_gt * scale**2

    def _clip_set(self, **arguments: Any) -> ClipSet:
        return ClipSet(**arguments, **self._kept)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def keys(self) -> list[str]:
        """The key of every item."""
        return [clip.key(i) for clip, i in self._items]

    def _locate(self, index: int) -> tuple[ClipPair, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}.")
        return self._items[index]

    def _window_gt(self, clip: ClipPair, position: int, window: Sequence[int]) -> Tensor:
        if not self.all_gt:
            return super()._window_gt(clip, position, window)
        return stacked([self._gt(clip.pair(i)) for i in window])


def _tell_of_count(clips: ClipSet, name: Partition, *, take: bool) -> None:
    """Warn if a set with all clips of a partition of REDS, or with all others, has not as many as there are."""
    of_partition = set(PARTITIONS[name])
    found = {int(number) for clip in clips.clips if (number := clip.name.rpartition("/")[2]).isdigit()}
    if take and (missing := of_partition - found):
        log.warning(
            "%d clips to measure on: val_partition %s has %d, and its figures are means over all; missing: %s",
            len(clips.clips), name, len(of_partition), ", ".join(f"{number:03d}" for number in sorted(missing)),
        )  # fmt: skip
    elif not take and len(clips.clips) != ALL_REDS - len(of_partition):
        log.warning(
            "%d clips to train on; REDS has %d beside those of val_partition %s, with the clips of val as 240 to 269, "
            "which scripts/prepare_reds.py puts beside those of train",
            len(clips.clips), ALL_REDS - len(of_partition), name,
        )  # fmt: skip


def _grown(region: Region, size: tuple[int, int]) -> Region:
    """Return a region with AROUND more pixels on each side that has them."""
    top, left = max(0, region.top - AROUND), max(0, region.left - AROUND)
    bottom, right = (min(side, start + length + AROUND) for side, start, length in zip(size, region, region[2:]))  # noqa: B905
    return Region(top, left, bottom - top, right - left)


def _found_flows(frames: Sequence[Planes], centre: int, inner: Region, flips: Flips) -> Tensor:
    """Find the flows (t, 2, h, w) from a window's centre to its frames (3, h, w) by DIS; to itself it is zero."""
    flows = np.zeros((len(frames), 2, inner.height, inner.width), np.float32)
    pictures = [np.ascontiguousarray(frame.transpose(1, 2, 0)) for frame in frames]
    for number, picture in enumerate(pictures):
        if number != centre:
            flows[number] = inner.of(dis_flow(pictures[centre], picture))  # type: ignore[arg-type]
    return torch.from_numpy(np.ascontiguousarray(flips.apply_flow(flows)))
