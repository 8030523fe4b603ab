"""Data sets for the prediction of the frame that comes next: sequences of whole clips, made small."""

import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from vsr.data.clips import check_seed, used_range
from vsr.data.flow import dis_flow
from vsr.data.names import first_duplicate, gaps
from vsr.data.pairs import Pair, PairReader, free_memory
from vsr.data.prediction_lists import (
    PARTITIONS,
    charades_name,
    humaneva_name,
    list_name,
    named_once,
    read_list,
    split_by_hash,
)
from vsr.data.sample import Sample, naming, stacked
from vsr.data.storage import Clip, existing, open_storage, stem
from vsr.data.video_cache import frames_of_video
from vsr.registry import DATASETS, suggest
from vsr.utils import dist
from vsr.utils.images import Frame

log = logging.getLogger(__name__)

RECENT_BYTES = 64 << 20  # of small frames that a process remembers: neighbouring samples share most of theirs
MANY_VIDEOS = 100  # to decode at full size without saying that there is a better way


class _NextFrames(Dataset[Sample]):
    """Sequences of frames at equal distances, and the frame that follows each.

    With S = input_size and d = frame_interval, the item of a clip's frame t has

        lq   (S, 3, H, W)   frames t-(S-1)d, ..., t-d, t: the sentences of the memory, the last one being its query
        gt   (3, H, W)      frame t+d, the target
        key                 'clip/name of the target frame'
        interval            d, or what was drawn for it; says that gt follows lq
        flow (2, H, W)      with_flow: from t to t+d, (dx, dy) in pixels, float32, by DIS (``vsr.data.flow``)

    all of one size, so the scale is 1. Every frame t is an item for which all of them exist; a clip needs S*d + 1
    frames, and shorter ones are left out. A network that maps a window to one frame predicts gt from lq. What a
    memory that shall hold the target, too, has to be given is ``torch.cat([lq, gt[None]])``, the whole sequence in
    order; the difference to learn instead of the frame is ``gt - lq[-1]``, and the flow is that from ``lq[-1]``.

    The partition train is a training set, an item of which is ``dataset[index, draw]``; the others are test sets,
    whose items are in order and the same at every time.

    Args:
        dataroot: The data set's folder; or the folder of clips itself, of frames or of video files; or an LMDB.
        partition: train, val or test.
        input_size: S, the number of input frames.
        frame_interval: d, the distance between neighbouring frames, in frames.
        random_interval: In training, draw the distance of each sample from 1 to frame_interval, all equally likely.
            A clip still needs the frames that frame_interval asks for.
        W: Width to which frames are reduced, by the mean over areas, without regard to their shape.
        H: Height likewise.
        with_flow: Find the optical flow that PredictionModel learns as test_type opticalflow.
        frames: [first, last] frame of each clip to use, negative ones counted from its end; None: all.
        samples_per_clip: Items of each clip, spread over it evenly; None: all. A clip has hundreds, which
            differ little: for validation a few will do.
        allow_gaps: Take clips although frames are missing in them: names 7, 8, 10.
        meta_info_file: csv list of the partition's clips, one a line in the first column; None:
            <partition>_list.csv in dataroot.
        cache_data: Keep the reduced frames in memory.
        io_backend: Where the frames are: {type: disk} in files, {type: lmdb} in an LMDB.
        seed: Of the run.

    Raises:
        FileNotFoundError: the root or a list is missing.
        ValueError: an argument or the data is not as described, or no clip is long enough.
    """

    folders: ClassVar[tuple[str, ...]]  # with clips, below dataroot: the first one that there is counts
    baseline_frame = -1  # of lq: the frame to beat, a prediction that nothing moves

    def __init__(
        self,
        *,
        dataroot: str,
        partition: str,
        input_size: int = 10,
        frame_interval: int = 50,
        random_interval: bool = False,
        W: int = 64,  # noqa: N803 (the option's name)
        H: int = 64,  # noqa: N803
        with_flow: bool = False,
        frames: Sequence[int] | None = None,
        samples_per_clip: int | None = None,
        allow_gaps: bool = False,
        meta_info_file: str | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if partition not in PARTITIONS:
            raise ValueError(
                f"partition: expected {', '.join(PARTITIONS)}, got '{partition}'.{suggest(partition, PARTITIONS)}"
            )
        given = {"input_size": input_size, "frame_interval": frame_interval, "W": W, "H": H}
        if samples_per_clip is not None:
            given["samples_per_clip"] = samples_per_clip
        for name, value in given.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}.")
        self.partition, self.is_train, self.seed = partition, partition == "train", check_seed(seed)
        self.input_size, self.frame_interval = input_size, frame_interval
        self.random_interval = random_interval and self.is_train
        self.size = W, H
        self.with_flow, self.sample_bytes = with_flow, W * H * (3 * (input_size + 1) + 8 * with_flow)
        self.storage = open_storage(io_backend)
        self.reader = PairReader(storage=self.storage, scale=1)  # for checks of whole files: samples are reduced
        self._recent: OrderedDict[str, Frame] = OrderedDict()
        self._keep = min((input_size + 1) * frame_interval, RECENT_BYTES // (3 * W * H))  # those of d samples in a row
        self._cached: dict[str, Frame] = {}
        self._allow_gaps, self._frames = allow_gaps, frames
        self.clips = self._long_enough(self._chosen(dataroot, meta_info_file, io_backend))
        self._items = [self._queries(len(clip.files), samples_per_clip) for clip in self.clips]
        self._ends = np.cumsum([len(queries) for queries in self._items])
        if cache_data:
            self._preload()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def clip_names(self) -> list[str]:
        return [clip.name for clip in self.clips]

    @property
    def gt_files(self) -> list[str]:
        """Where each clip is, as sets that have one in common have frames in common; with ``frames``, these."""
        folders = [os.path.realpath(clip.folder) for clip in self.clips]
        if self._frames is None:
            return folders
        pairs = zip(folders, self.clips, strict=True)
        return [os.path.join(folder, file) for folder, clip in pairs for file in clip.files]

    @property
    def keys(self) -> list[str]:
        """The key of every item of a test set."""
        targets = ((clip, t + self.frame_interval) for clip, items in self._clip_items() for t in items)
        return [self._key(clip, target) for clip, target in targets]

    def named_pairs(self) -> list[tuple[str, Pair]]:
        """Return the key and the file of every frame of the clips, as those of a ground truth."""
        sizes = [self.storage.size(clip.path(0)) for clip in self.clips]
        return [
            (self._key(clip, i), Pair(clip.path(i), None, size))
            for clip, size in zip(self.clips, sizes, strict=True)
            for i in range(len(clip.files))
        ]

    def __getitem__(self, item: tuple[int, int] | int) -> Sample:
        index, draw = item if isinstance(item, tuple) else (item, 0)
        if self.is_train != isinstance(item, tuple):
            raise TypeError(f"item: expected {'(index, draw)' if self.is_train else 'a number'}, got {item!r}")
        clip, query = self._locate(index)
        interval = self.frame_interval
        if self.random_interval:
            rng = np.random.default_rng((self.seed, draw, index))
            interval = int(rng.integers(1, self.frame_interval + 1))
        first, target = query - (self.input_size - 1) * interval, query + interval
        key = self._key(clip, target)
        with naming(key):
            frames = [self._frame(clip.path(i)).transpose(2, 0, 1) for i in range(first, target + 1, interval)]
        sequence = stacked(frames)
        sample = Sample(lq=sequence[:-1], gt=sequence[-1], key=key, interval=interval)
        if self.with_flow:
            last, following = (np.ascontiguousarray(frame.transpose(1, 2, 0)) for frame in frames[-2:])
            sample["flow"] = torch.from_numpy(dis_flow(last, following))
        return sample

    # --- which clips and frames ------------------------------------------------------------------

    @staticmethod
    def own_name(name: str) -> str:
        """Return a clip's name in keys and lists, of the path below the root."""
        raise NotImplementedError

    def _unlisted(self, names: Sequence[str], folder: Path) -> list[str]:
        """Return the clips of the partition where there is no list at all."""
        raise NotImplementedError

    def _chosen(self, dataroot: str, meta_info_file: str | None, io_backend: Mapping[str, Any] | None) -> list[Clip]:
        """Return the partition's clips in natural order of their names, videos decoded."""
        root = existing(_as_written(dataroot), "dataroot")
        lmdbs = [f"{folder}.lmdb" for folder in self.folders if (io_backend or {}).get("type") == "lmdb"]
        below = [root / name for name in (*lmdbs, *self.folders)]
        place = next((path for path in below if path.exists()), root)
        found = self.storage.clips(str(place), "dataroot")
        by_name = named_once(found, self.own_name, root=place)
        # of the set's own folder of clips, the lists stand beside it
        home = root.parent if place is root and root.name.removesuffix(".lmdb") in self.folders else root
        names = set(self._names(list(by_name), home, meta_info_file, place))
        chosen = {name: found[other] for name, other in by_name.items() if name in names}
        if not chosen:
            raise ValueError(
                f"partition: expected clips of '{self.partition}' in '{place}', got none of its {len(found)}. "
                f"Name them in {list_name(self.partition)} or meta_info_file."
            )
        if (videos := sum(clip.is_video for clip in chosen.values())) > MANY_VIDEOS:
            log.warning(
                "dataroot: %d videos are decoded at full size into the cache. scripts/prepare_charades.py and "
                "prepare_humaneva.py make frames of them once, as JPEG, in several processes", videos,
            )  # fmt: skip
        return [self._opened(name, clip) for name, clip in chosen.items()]

    def _names(self, known: list[str], home: Path, meta_info_file: str | None, place: Path) -> list[str]:
        """Return the names that belong to the partition."""
        if meta_info_file is not None:
            file = existing(meta_info_file, "meta_info_file")
            if not file.is_file():
                raise ValueError(f"meta_info_file: expected a csv file, got the folder '{meta_info_file}'.")
            return read_list(file, dict.fromkeys(known), self.own_name, root=place)
        lists = {partition: home / list_name(partition) for partition in PARTITIONS}
        there = [path.name for path in lists.values() if path.is_file()]
        if not there:
            return self._unlisted(known, home)
        if not lists[self.partition].is_file():
            raise FileNotFoundError(
                f"partition: expected {list_name(self.partition)} beside {there[0]} in '{home}', got none. "
                "Add it, or name a list in meta_info_file."
            )
        return read_list(lists[self.partition], dict.fromkeys(known), self.own_name, root=place)

    def _opened(self, name: str, clip: Clip) -> Clip:
        folder, files = frames_of_video(clip.folder) if clip.is_video else (clip.folder, clip.files)
        if twice := first_duplicate(files):
            raise ValueError(f"{folder}: expected one image for each name, got {twice}. Remove the one or the other.")
        files = files[used_range(name, len(files), None, self._frames)]
        if not self._allow_gaps and not clip.is_video and (missing := gaps(files)):
            before, after, lost = missing[0]
            raise ValueError(
                f"{folder}: expected frames without a gap, for distances count in frames, but {after} follows "
                f"{before}: {lost} missing; {len(missing)} gaps in all. Complete the clip, take it from the lists, or "
                "set allow_gaps: true."
            )
        return Clip(name, folder, tuple(map(sys.intern, files)))  # 0000000.jpg stands in all of ten thousand clips

    def _long_enough(self, clips: list[Clip]) -> list[Clip]:
        needed = self.input_size * self.frame_interval + 1
        kept = [clip for clip in clips if len(clip.files) >= needed]
        if not kept:
            longest = max(clips, key=lambda clip: len(clip.files))
            usable = (len(longest.files) - 1) // self.input_size
            advice = f"Lower it to {usable} or less." if usable else "Lower input_size."
            raise ValueError(
                f"frame_interval: expected at most {usable} with input_size {self.input_size}: the longest of "
                f"{len(clips)} clips, '{longest.name}', has {len(longest.files)} frames, and {needed} are needed for "
                f"{self.frame_interval}. {advice}"
            )
        if len(kept) < len(clips):
            log.info(
                "%s: %d of %d clips are left out: they have fewer than %d frames (input_size x frame_interval + 1)",
                self.partition, len(clips) - len(kept), len(clips), needed,
            )  # fmt: skip
        return kept

    def _queries(self, total: int, count: int | None) -> Sequence[int]:
        """Return the frames t of a clip that are items."""
        first, possible = (self.input_size - 1) * self.frame_interval, total - self.input_size * self.frame_interval
        if count is None or count >= possible:
            return range(first, first + possible)
        return [first + (2 * i + 1) * possible // (2 * count) for i in range(count)]  # the middles of equal parts

    def _clip_items(self) -> list[tuple[Clip, Sequence[int]]]:
        return list(zip(self.clips, self._items, strict=True))

    def _locate(self, index: int) -> tuple[Clip, int]:
        """Return the clip and the frame t of an item."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        items = self._items[number]
        return self.clips[number], items[index - int(self._ends[number]) + len(items)]

    @staticmethod
    def _key(clip: Clip, target: int) -> str:
        return f"{clip.name}/{stem(clip.files[target])}"

    # --- pixels ----------------------------------------------------------------------------------

    def _frame(self, path: str) -> Frame:
        """Return a reduced frame (H, W, 3)."""
        if self._cached:
            return self._cached[path]
        if self.is_train:  # the next sample is elsewhere
            return self._reduced(path)
        frame = self._recent.pop(path, None)
        self._recent[path] = frame if frame is not None else self._reduced(path)  # the last one now
        while len(self._recent) > max(1, self._keep):
            self._recent.popitem(last=False)
        return self._recent[path]

    def _reduced(self, path: str) -> Frame:
        frame = self.storage.read(path)
        width, height = self.size
        if frame.shape[:2] == (height, width):
            return frame
        if frame.strides[1] == 1:  # a raw LMDB's planes: OpenCV would interleave them, but much more slowly
            frame = cv2.merge([frame[..., channel] for channel in range(3)])  # type: ignore[assignment]
        return cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    def _preload(self) -> None:
        """Keep all frames, reduced; processes forked afterwards share them."""
        paths = [clip.path(i) for clip in self.clips for i in range(len(clip.files))]
        free, copies = free_memory(), dist.local_world_size()  # each process of the machine keeps its own
        needed = 3 * self.size[0] * self.size[1] * len(paths) * copies
        if free is not None and needed > free:
            raise ValueError(
                f"cache_data: expected room for {len(paths)} frames in memory, {needed / 1e9:.1f} GB for {copies} "
                f"processes, but {free / 1e9:.1f} GB are free. Set cache_data: false."
            )
        make: Callable[[str], Frame] = lambda path: np.array(self._reduced(path))  # noqa: E731 (a copy: LMDBs give views)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            self._cached = dict(zip(paths, pool.map(make, paths), strict=True))
        log.info("%s: %d frames kept in memory, %.0f MB", self.partition, len(paths), needed / copies / 1e6)


@DATASETS.register
class CharadesDataset(_NextFrames):
    """Charades: <dataroot>/Charades_v1_480_img/<clip>/<frame>.jpg, or the videos in <dataroot>/Charades_v1_480.

    Without csv lists 80 % of the clips train, 10 % validate and 10 % test, by a hash of the name: a clip's partition
    is the same on every machine, whatever other clips there are.
    """

    folders = ("Charades_v1_480_img", "Charades_v1_480", "Charades_v1_rgb")

    @staticmethod
    def own_name(name: str) -> str:
        return charades_name(name)

    def _unlisted(self, names: Sequence[str], folder: Path) -> list[str]:
        return split_by_hash(names)[self.partition]


@DATASETS.register
class HumanEvaDataset(_NextFrames):
    """HumanEva: <dataroot>/image/S1_Box_1_(C1)/000000.jpg, or the videos <dataroot>/video/S1/Box_1_(C1).avi.

    train_list.csv, val_list.csv and test_list.csv in <dataroot> name the clips of each partition, as
    S1_Box_1_(C1), S1/Box_1_(C1) or with .avi.
    """

    folders = ("image", "video")

    @staticmethod
    def own_name(name: str) -> str:
        return humaneva_name(name)

    def _unlisted(self, names: Sequence[str], folder: Path) -> list[str]:
        raise FileNotFoundError(
            f"partition: expected {list_name(self.partition)} in '{folder}', got none. Let "
            "scripts/prepare_humaneva.py write the lists, or name one in meta_info_file."
        )


@DATASETS.register
class NextFrameDataset(_NextFrames):
    """Any clips: folders of images or video files at any depth below <dataroot>, or one of them.

    A clip's name is its path. The partition says whether the set trains. Without csv lists all clips belong to it:
    partitions have roots, meta_info_files or ``frames`` of their own.
    """

    folders = ()

    @staticmethod
    def own_name(name: str) -> str:
        return charades_name(name)

    def _unlisted(self, names: Sequence[str], folder: Path) -> list[str]:
        return list(names)


def _as_written(root: str) -> str:
    """Return the root, or the only folder beside it that differs from it in upper and lower case alone."""
    path = Path(os.path.expanduser(root))
    if path.exists() or not path.parent.is_dir():
        return root
    alike = [other for other in path.parent.iterdir() if other.name.lower() == path.name.lower()]
    return str(alike[0]) if len(alike) == 1 else root
