"""Data sets of clips: folders of frames or video files, any number, any length, any names."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vsr.data.augment import Flips, Planes, Region, draw_flips, draw_region
from vsr.data.clip_flows import ClipFlows
from vsr.data.clips import ClipPair, ClipSet, check_crop, check_seed
from vsr.data.degradations import Degradations, build_degradations, neighbours_of
from vsr.data.pairs import Pair
from vsr.data.sample import Sample, naming, stacked
from vsr.registry import DATASETS
from vsr.utils.windows import generate_frame_indices, shortest_clip


class TrainClips(Dataset[Sample]):
    """Sequences of frames at random positions, intervals, crops and flips.

    An item is ``dataset[index, draw]``: index is the number of a frame within the set, the centre or
    the first one of the sequence, and all that is random depends on (seed, draw, index) alone.

    Args:
        dataroot_gt: Root of the clips in high quality: a folder of clip folders, of video files, of
            frames (one clip), a video file, or an LMDB; or a list of roots: a clip is then called 'root/clip', by
            the folder's name, or by its number if folders of one name are among them.
        dataroot_lq: Root of the same clips in low quality, or a list in the order of dataroot_gt's; None: made
            from GT by antialiased bicubic reduction, rounded to 8 bits.
        dataroot_flow: Root of optical flows of LQ, or such a list: clip/{centre}_{neighbour}.npy, float32 (h, w, 2),
            dx and dy in pixels, as scripts/generate_flow.py makes them. Samples then have ``flow``.
        scale: GT size / LQ size.
        num_frame: Length of a sequence; of a window odd.
        gt_size: Side of the square crop, GT pixels; a multiple of scale.
        interval_list: Distances between the frames of a sequence; one is drawn for each sample.
        random_reverse: Reverse the order of the frames of every second sequence.
        use_hflip: Flip horizontally at random.
        use_rot: Flip vertically and exchange the axes at random.
        gt_downscale: Reduce the GT files by this factor first, to be rid of compression artefacts.
        filename_tmpl: Name of an LQ frame, without suffix, for the name {} of its GT frame.
        meta_info_file: List of the clips to use, lines ``folder n (h,w,c)``; of each the first n frames.
        clips: Names of the clips to use; None: all. Of several roots 'clip' stands for those of that name in each.
        exclude_clips: Names of clips to leave out.
        frames: [first, last] of the frames to use of each clip, counted from 0, last included;
            -1 is a clip's last.
        cache_data: Keep the decoded frames in memory.
        io_backend: Where the frames are: {type: disk} in files, {type: lmdb} in LMDBs, which the roots then are.
        allow_gaps: Take clips although frames are missing in them: names 7, 8, 10.
        degradations: Stages that make LQ from GT, in place of the bicubic reduction.
        seed: Of the run.

    Raises:
        FileNotFoundError: a root or list is missing.
        ValueError: an argument or the data is not as described.
    """

    is_train = True
    window: bool  # the frame of the index is the centre, and alone has GT; else it is the first, and all have GT
    all_gt = False  # of a window every frame has its GT, not the centre alone
    even_windows = False  # windows may have an even number of frames: what is their centre is known otherwise

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str] | None = None,
        dataroot_flow: str | list[str] | None = None,
        scale: int,
        num_frame: int,
        gt_size: int,
        interval_list: list[int] = [1],  # noqa: B006 (never changed)
        random_reverse: bool = False,
        use_hflip: bool = True,
        use_rot: bool = True,
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
        if self.window and not self.even_windows:
            _check_window(num_frame)
        if num_frame < 1:
            raise ValueError(f"num_frame: expected 1 or more, got {num_frame}.")
        if not interval_list or min(interval_list) < 1:
            raise ValueError(f"interval_list: expected numbers of 1 or more, got {interval_list}.")
        if dataroot_gt is None:
            raise ValueError("dataroot_gt: expected the folder of the ground truth to train on, got none.")
        self.scale, self.num_frame, self.seed = scale, num_frame, check_seed(seed)
        self.crop = check_crop(gt_size, scale)  # side in LQ pixels
        self.interval_list, self.random_reverse = list(interval_list), random_reverse
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.sample_bytes = 3 * (num_frame * self.crop**2 + (1 if self.window else num_frame) * gt_size**2)
        self.degradations, dataroot_lq = build_degradations(
            degradations, scale=scale, dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq
        )
        self.clips = self._clip_set(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, scale=scale, gt_downscale=gt_downscale,
            filename_tmpl=filename_tmpl, meta_info_file=meta_info_file, clips=clips, exclude_clips=exclude_clips,
            frames=frames, io_backend=io_backend, exact=True, allow_gaps=allow_gaps,
        )  # fmt: skip
        longest = (num_frame - 1) * max(interval_list) + 1
        self.clips.require(longest, f"num_frame {num_frame} with interval_list {interval_list}")
        self.clips.require_size(self.crop, gt_size)
        self.flows = ClipFlows(dataroot_flow, self.clips) if dataroot_flow is not None else None
        if self.flows is not None:
            self.sample_bytes += 8 * self.crop**2 * (num_frame if self.window else 2 * (num_frame - 1))
        if cache_data:
            self.clips.preload(with_gt=True)

    def _clip_set(self, **arguments: Any) -> ClipSet:
        """Find the clips; a named data set has its own way of naming them."""
        return ClipSet(**arguments)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_names(self) -> list[str]:
        return [clip.name for clip in self.clips.clips]

    @property
    def gt_files(self) -> list[str]:
        """The file of every frame: GT's."""
        return self.clips.files()

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, draw = item
        rng = np.random.default_rng((self.seed, draw, index))
        clip, positions, position = self._sequence(index, rng)
        reverse = rng.random() < 0.5  # drawn in any case: the option changes the order of frames and nothing else
        if self.random_reverse and reverse:
            positions.reverse()
        region = draw_region(rng, clip.size, self.crop)
        flips = self._flips(rng)
        key, reader = clip.key(position), self.clips.reader
        lq: list[Planes] = []
        gt: list[Planes] = []
        centre_only = self.window and not self.all_gt
        with naming(key):
            if self.degradations:
                made_of = _made_of(self.degradations, clip, positions)
                made, read_gt = self.degradations.training(reader, made_of, region, rng)
            for i, frame in enumerate(positions):
                pair = clip.pair(frame)
                lq.append(flips.apply(made[i] if self.degradations else reader.lq(pair, region)))
                if frame == position or not centre_only:
                    gt.append(flips.apply(read_gt(pair) if self.degradations else reader.gt(pair, region)))
            target = stacked(gt)
            sample = Sample(lq=stacked(lq), gt=target[0] if centre_only else target, key=key)
            self._complete(sample, clip, positions, position, region, flips)
        return sample

    def _flips(self, rng: np.random.Generator) -> Flips:
        return draw_flips(rng, use_hflip=self.use_hflip, use_rot=self.use_rot)

    def _complete(
        self, sample: Sample, clip: ClipPair, positions: list[int], position: int, region: Region, flips: Flips
    ) -> None:
        """Add what a sample has beside its images."""
        if self.flows is not None:
            sample["flow"] = self._flow(self.flows, clip, positions, position, region, flips)

    def _sequence(self, index: int, rng: np.random.Generator) -> tuple[ClipPair, list[int], int]:
        """Return the clip of an item, the frames to read of it, and which one is the centre or the first."""
        clip, position = self.clips.locate(index)
        interval = self.interval_list[int(rng.integers(len(self.interval_list)))]
        return clip, *self._positions(rng, len(clip), position, interval)

    def _flow(
        self, flows: ClipFlows, clip: ClipPair, positions: list[int], position: int, region: Region, flips: Flips
    ) -> Tensor:
        """Return the flows from a window's centre to each of its frames, or of a sequence forward and backward."""
        if self.window:
            return flows.read(clip, [(position, frame) for frame in positions], region, flips)
        forward = list(itertools.pairwise(positions))
        backward = [(after, before) for before, after in forward]
        return flows.read(clip, forward + backward, region, flips).unflatten(0, (2, len(forward)))

    def _positions(self, rng: np.random.Generator, total: int, position: int, interval: int) -> tuple[list[int], int]:
        """Return the frames of a sequence, and the position of its centre or first frame.

        A sequence that would leave the clip is moved to a place where it fits, all being equally
        likely. Source: BasicSR's REDSDataset.
        """
        span = (self.num_frame - 1) * interval
        before = span // 2 if self.window else 0
        lowest, highest = before, total - 1 - (span - before)
        if not lowest <= position <= highest:
            position = int(rng.integers(lowest, highest + 1))
        first = position - before
        return list(range(first, first + span + 1, interval)), position


@DATASETS.register
class VideoTrainDataset(TrainClips):
    """Windows of an odd number of frames with the GT of the centre frame, for EDVR and its kind."""

    window = True


@DATASETS.register
class VideoRecurrentTrainDataset(TrainClips):
    """Sequences of any number of frames, each with its GT, for recurrent networks."""

    window = False


class TestClips(Dataset[Sample]):
    """What testing on windows and on clips have in common."""

    is_train = False

    def __init__(self, clips: ClipSet, degradations: Degradations | None, *, cache_data: bool) -> None:
        self.clips, self.degradations = clips, degradations
        self.has_gt = clips.clips[0].gt is not None
        self._frame_bytes = max(3 * clip.size[0] * clip.size[1] for clip in clips.clips)  # of LQ
        if cache_data:
            clips.preload(with_gt=self.has_gt)

    @property
    def clip_names(self) -> list[str]:
        return [clip.name for clip in self.clips.clips]

    @property
    def gt_files(self) -> list[str]:
        """The file of every frame: GT's, or LQ's where there is no GT."""
        return self.clips.files()

    def _lq(self, clip: ClipPair, positions: Sequence[int]) -> list[Planes]:
        if self.degradations is None:
            return [self.clips.reader.lq(clip.pair(i)) for i in positions]
        made_of, keys = _made_of(self.degradations, clip, positions), [clip.key(i) for i in positions]
        return self.degradations.testing(self.clips.reader, made_of, clip.name, keys)

    def _gt(self, pair: Pair) -> Planes:
        gt = self.clips.reader.gt(pair)
        return self.degradations.ground_truth(gt) if self.degradations else gt


@DATASETS.register
class VideoTestDataset(TestClips):
    """A window around every frame of every clip, with the GT of that frame.

    Args:
        dataroot_gt: As in the training sets; None: there is no ground truth.
        dataroot_lq: As there. At least one of the two roots is needed.
        num_frame: Window length, odd.
        padding: What stands for frames beyond the ends of a clip: replicate, reflection,
            reflection_circle or circle; see ``vsr.utils.windows``.

    The other arguments are those of the training sets. GT that is larger than scale x LQ by
    less than one LQ pixel is cropped at its bottom and right.
    """

    consecutive = True  # an item is a frame, and the next item is the next frame of the clip

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str] | None = None,
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        num_frame: int,
        padding: str = "reflection_circle",
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
        _check_window(num_frame)
        needed = shortest_clip(num_frame, padding)
        made, dataroot_lq = build_degradations(
            degradations, scale=scale, dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, keep=num_frame + 1
        )
        found = self._clip_set(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, scale=scale, gt_downscale=gt_downscale,
            filename_tmpl=filename_tmpl, meta_info_file=meta_info_file, clips=clips, exclude_clips=exclude_clips,
            frames=frames, io_backend=io_backend, exact=False, keep=num_frame + 1, allow_gaps=allow_gaps,
        )  # fmt: skip
        found.require(needed, f"num_frame {num_frame} with padding {padding}")
        super().__init__(found, made, cache_data=cache_data)
        self.num_frame, self.padding = num_frame, padding
        self.sample_bytes = self._frame_bytes * (num_frame + self.has_gt * scale**2)

    def _clip_set(self, **arguments: Any) -> ClipSet:
        """Find the clips; a named data set has its own way of naming them."""
        return ClipSet(**arguments)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def keys(self) -> list[str]:
        """The key of every item."""
        return [clip.key(i) for clip in self.clips.clips for i in range(len(clip))]

    def __getitem__(self, index: int) -> Sample:
        clip, position = self._locate(index)
        window = generate_frame_indices(position, len(clip), self.num_frame, self.padding)
        key = clip.key(position)
        with naming(key):
            sample = Sample(lq=stacked(self._lq(clip, window)), key=key)
            if self.has_gt:
                sample["gt"] = self._window_gt(clip, position, window)
        return sample

    def _locate(self, index: int) -> tuple[ClipPair, int]:
        return self.clips.locate(index)

    def _window_gt(self, clip: ClipPair, position: int, window: Sequence[int]) -> Tensor:
        return stacked([self._gt(clip.pair(position))])[0]


@DATASETS.register
class VideoRecurrentTestDataset(TestClips):
    """Whole clips with the GT of every frame. A clip is held in memory as a whole.

    Args:
        num_frame: Frames of each clip, from its first; -1: all.

    The other arguments are those of ``VideoTestDataset``.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str] | None = None,
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        num_frame: int = -1,
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
        if num_frame != -1 and num_frame < 1:
            raise ValueError(f"num_frame: expected 1 or more, or -1 for all, got {num_frame}.")
        made, dataroot_lq = build_degradations(
            degradations, scale=scale, dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq
        )
        found = ClipSet(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, scale=scale, gt_downscale=gt_downscale,
            filename_tmpl=filename_tmpl, meta_info_file=meta_info_file, clips=clips, exclude_clips=exclude_clips,
            frames=frames, io_backend=io_backend, exact=False, allow_gaps=allow_gaps,
        )  # fmt: skip
        found.require(num_frame, f"num_frame {num_frame}")
        if num_frame > 0:
            found.shorten(num_frame)
        super().__init__(found, made, cache_data=cache_data)
        longest = max(found.lengths)
        self.sample_bytes = self._frame_bytes * longest * (1 + self.has_gt * scale**2)

    def __len__(self) -> int:
        return len(self.clips.clips)

    @property
    def keys(self) -> list[str]:
        """The key of every item: the clip's name."""
        return self.clip_names

    def __getitem__(self, index: int) -> Sample:
        clip: ClipPair = self.clips.clips[index]
        with naming(clip.name):
            lq: list[Planes] = self._lq(clip, range(len(clip))) if self.degradations else []
            gt: list[Planes] = []
            for i in range(len(clip)):  # frame by frame: LQ may be made from the GT frame just read
                if not self.degradations:
                    lq += self._lq(clip, [i])
                if self.has_gt:
                    gt.append(self._gt(clip.pair(i)))
            sample = Sample(lq=stacked(lq), key=clip.name, frames=[clip.frame(i) for i in range(len(clip))])
            if gt:
                sample["gt"] = stacked(gt)
        return sample


def _made_of(degradations: Degradations, clip: ClipPair, positions: Sequence[int]) -> list[list[Pair]]:
    """Return for each position the frames that its LQ is made of."""
    count = degradations.neighbours
    return [[clip.pair(i) for i in neighbours_of(position, len(clip), count)] for position in positions]


def _check_window(num_frame: int) -> None:
    if num_frame < 1 or num_frame % 2 == 0:
        raise ValueError(f"num_frame: expected an odd number, got {num_frame}. A window has a centre frame.")
