"""Sets of clips: which clips and frames the options name, and pairs of GT and LQ for each."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vsr.data.names import check_template, first_duplicate, gaps, pick, read_clip_list, same_names
from vsr.data.pairs import Pair, PairReader
from vsr.data.storage import Clip, RootPair, Roots, existing, open_storage, pair_roots, stem
from vsr.data.video_cache import frames_of_video


@dataclass(frozen=True)
class ClipPair:
    """A clip in two resolutions, frame by frame.

    Args:
        name: Of the clip.
        gt: Its files in high quality; None: there are none.
        lq: Its files in low quality, in the same order; None: they are made from gt.
        size: (height, width) of an LQ frame.
    """

    name: str
    gt: Clip | None
    lq: Clip | None
    size: tuple[int, int]

    @property
    def main(self) -> Clip:
        """The version that names the frames: GT if there is one."""
        clip = self.gt or self.lq
        assert clip is not None
        return clip

    def __len__(self) -> int:
        return len(self.main.files)

    def pair(self, index: int) -> Pair:
        return Pair(self.gt.path(index) if self.gt else None, self.lq.path(index) if self.lq else None, self.size)

    def frame(self, index: int) -> str:
        """Return the name of a frame, without suffix."""
        return stem(self.main.files[index])

    def key(self, index: int) -> str:
        return f"{self.name}/{self.frame(index)}"

    def cut(self, used: slice) -> "ClipPair":
        """Return the clip with a part of its frames."""
        gt, lq = (replace(clip, files=clip.files[used]) if clip else None for clip in (self.gt, self.lq))
        return replace(self, gt=gt, lq=lq)


class ClipSet:
    """The clips of a video data set. For the arguments see the data sets in vsr.data.video.

    Args:
        depth: A clip's name is the last so many folders of its path, whatever lies above them; None: its path
            below the root.
        single_gt: A GT clip may have one frame, the ground truth of the LQ frame at this position; None: it may not.
        partition: Whether a clip of this name belongs to the set at all; in lists, too, others are passed over.

    Raises:
        FileNotFoundError: a root or the meta_info_file is missing.
        ValueError: a root holds no clip, LQ and GT do not fit together, a name is unknown ...
    """

    def __init__(
        self,
        *,
        dataroot_gt: Roots | None,
        dataroot_lq: Roots | None,
        scale: int,
        gt_downscale: int,
        filename_tmpl: str,
        meta_info_file: str | None,
        clips: Sequence[str] | None,
        exclude_clips: Sequence[str] | None,
        frames: Sequence[int] | None,
        io_backend: Mapping[str, Any] | None,
        exact: bool,
        keep: int = 1,
        depth: int | None = None,
        single_gt: int | None = None,
        partition: Callable[[str], bool] | None = None,
        allow_gaps: bool = False,
    ) -> None:
        check_roots(dataroot_gt, dataroot_lq, scale)
        self.storage, self.depth = open_storage(io_backend), depth
        self.reader = PairReader(storage=self.storage, scale=scale, gt_downscale=gt_downscale, exact=exact, keep=keep)
        self._tmpl, self._single_gt, self._allow_gaps = check_template(filename_tmpl), single_gt, allow_gaps
        gt: dict[str, Clip] = {}
        lq: dict[str, Clip] = {}
        self.roots = pair_roots(dataroot_gt, dataroot_lq)
        for roots in self.roots:
            one, other = self._found(roots, depth)
            gt |= one
            lq |= other
        counts = read_clip_list(meta_info_file) if meta_info_file is not None else {}
        if partition is not None:
            gt, lq, counts = ({n: names[n] for n in names if partition(n)} for names in (gt, lq, counts))  # type: ignore[assignment]
            if not gt and not lq:
                raise ValueError(
                    "val_partition: expected clips of it, got roots with none. Check the names, or test_mode."
                )
        counts, clips, exclude_clips = (self._with_labels(names, gt or lq) for names in (counts, clips, exclude_clips))
        names = _selected(list(gt or lq), counts, meta_info_file, clips, exclude_clips)
        if gt and lq:
            chosen = set(names) if counts or clips or exclude_clips else set(lq)  # what is not chosen need not fit
            same_names(names, chosen & set(lq), "clips")
        self.clips = [self._paired(name, gt.get(name), lq.get(name), counts.get(name), frames) for name in names]
        self._count()

    def _found(self, roots: RootPair, depth: int | None) -> tuple[dict[str, Clip], dict[str, Clip]]:
        """Find the clips of a pair of roots, by their names in the set: GT's and LQ's."""
        found = []
        for root, argument in ((roots.gt, "dataroot_gt"), (roots.lq, "dataroot_lq")):
            argument = roots.argument(argument)
            clips = self.storage.clips(root, argument) if root is not None else {}
            found.append(clips if depth is None else _by_last_folders(clips, depth, argument))
        gt, lq = found
        if _is_clip(roots.gt, gt) and _is_clip(roots.lq, lq):  # sharp.mp4 and blurred.mp4: no common name needed
            lq = {name: next(iter(lq.values())) for name in gt}
        if roots.label and _is_clip(roots.gt or roots.lq, gt or lq):  # the clip has the root's name, which is enough
            gt, lq = (dict(zip([roots.label], clips.values(), strict=False)) for clips in (gt, lq))
            return gt, lq
        return {roots.name(name): clip for name, clip in gt.items()}, {roots.name(n): clip for n, clip in lq.items()}

    def _with_labels(self, names: Any, known: Collection[str]) -> Any:
        """Let the name of a clip below its root stand for the clips so called in each of several roots."""
        if names is None or len(self.roots) == 1:
            return names
        full: dict[str, Any] = {}
        for name in names:
            below = [roots.name(name) for roots in self.roots if roots.name(name) in known]
            given = names[name] if isinstance(names, dict) else None
            full |= dict.fromkeys([name] if name in known or not below else below, given)
        return full if isinstance(names, dict) else list(full)

    def __len__(self) -> int:
        """Return the number of frames of all clips."""
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[ClipPair, int]:
        """Return the clip that the frame number ``index`` of the set belongs to, and its position in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.clips[number], index - int(self._ends[number]) + self.lengths[number]

    def files(self) -> list[str]:
        """Return the GT file of every frame, or the LQ file where there is no GT; links to folders are followed."""
        folders = [(os.path.realpath(clip.main.folder), clip.main.files) for clip in self.clips]
        return [os.path.join(folder, file) for folder, files in folders for file in files]

    def named_pairs(self) -> list[tuple[str, Pair]]:
        """Return each frame's key and its files."""
        return [(clip.key(i), clip.pair(i)) for clip in self.clips for i in range(len(clip))]

    def after_gaps(self) -> set[str]:
        """Return the keys of the frames before which others are missing, which allow_gaps lets pass."""
        found = set()
        for clip in self.clips:
            files = (clip.lq or clip.main).files
            found |= {clip.key(files.index(after)) for _, after, _ in gaps(files)}
        return found

    def preload(self, *, with_gt: bool) -> None:
        """Keep all frames in memory; see ``PairReader.preload``."""
        pairs = [(clip.pair(i), with_gt) for clip in self.clips for i in range(len(clip))]
        self.reader.preload(pairs, where=f"{len(self.clips)} clips")

    def require(self, needed: int, what: str) -> None:
        """Raise ValueError, naming the shortest clip, if one has fewer than ``needed`` frames."""
        clip = min(self.clips, key=len)
        if len(clip) < needed:
            raise ValueError(
                f"clip '{clip.name}': expected {needed} or more frames for {what}, got {len(clip)}. "
                "Name it in exclude_clips, or lower num_frame."
            )

    def require_size(self, crop: int, gt_size: int) -> None:
        """Raise ValueError if a clip's LQ frames are smaller than a crop of ``crop`` pixels."""
        for clip in self.clips:
            if min(clip.size) < crop:
                height, width = (self.reader.scale * side for side in clip.size)
                raise ValueError(
                    f"gt_size: expected a crop within the GT frames of clip '{clip.name}', {height}x{width}, "
                    f"got {gt_size}. Lower it, or name the clip in exclude_clips."
                )

    def shorten(self, count: int) -> None:
        """Keep the first ``count`` frames of each clip."""
        self.clips = [clip.cut(slice(0, count)) for clip in self.clips]
        self._count()

    def _count(self) -> None:
        self.lengths = [len(clip) for clip in self.clips]
        self._ends = np.cumsum(self.lengths)

    def _paired(
        self, name: str, gt: Clip | None, lq: Clip | None, count: int | None, frames: Sequence[int] | None
    ) -> ClipPair:
        """Match the frames of a clip's two versions and take those that the options ask for."""
        gt, lq = (_decoded(clip) if clip is not None else None for clip in (gt, lq))
        for clip in (gt, lq):
            if clip is not None and (twice := first_duplicate(clip.files)):
                raise ValueError(
                    f"{clip.folder}: expected one image for each name, got {twice}. Remove the one or the other."
                )
        if gt is not None and lq is not None:
            if self._single_gt is not None and len(gt.files) == 1 < len(lq.files):
                gt = self._spread(name, gt, lq)
            else:
                lq = self._matched(name, gt, lq)
        whole = ClipPair(name, gt, lq, (0, 0))
        clip_pair = whole.cut(used_range(name, len(whole), count, frames))
        if not self._allow_gaps and (missing := gaps((clip_pair.lq or clip_pair.main).files)):
            before, after, lost = missing[0]
            more = f"; {len(missing)} gaps in all" if len(missing) > 1 else ""
            raise ValueError(
                f"{clip_pair.main.folder}: expected frames without a gap, but {after} follows {before}: {lost} missing"
                f"{more}. Complete the clip, leave it out (exclude_clips), or set allow_gaps: true."
            )
        return replace(clip_pair, size=self.reader.pair(*clip_pair.pair(0)[:2]).size)

    def _spread(self, name: str, gt: Clip, lq: Clip) -> Clip:
        """Return a GT clip of one frame as one that has it at all places: only its own is asked for."""
        assert self._single_gt is not None
        own = stem(lq.files[min(self._single_gt, len(lq.files) - 1)])
        if own != self._tmpl.format(stem(gt.files[0])):
            raise ValueError(
                f"clip '{name}': expected all frames of GT or the one of {own}, got {gt.files[0]} in {gt.folder}. "
                "Complete the folder."
            )
        return replace(gt, files=gt.files * len(lq.files))

    def _matched(self, name: str, gt: Clip, lq: Clip) -> Clip:
        """Return the LQ clip with its files in the order of GT's."""
        if gt.numbered or lq.numbered:  # frames of a video have no names of their own
            if len(gt.files) != len(lq.files):
                raise ValueError(
                    f"clip '{name}': expected as many frames in LQ as in GT, got {len(lq.files)} in {lq.folder} "
                    f"and {len(gt.files)} in {gt.folder}. Complete the shorter one."
                )
            return lq
        if gt.files == lq.files and self._tmpl == "{}":
            return replace(lq, files=gt.files)  # one list of names in memory, not two
        by_stem = {stem(file): file for file in lq.files}
        wanted = [self._tmpl.format(stem(file)) for file in gt.files]
        same_names(wanted, by_stem, f"frames of clip '{name}'")
        return replace(lq, files=tuple(by_stem[want] for want in wanted))


# --- arguments that sets of clips and of images share --------------------------------------------


def check_roots(dataroot_gt: Roots | None, dataroot_lq: Roots | None, scale: int) -> None:
    """Raise ValueError if the roots do not say where GT and LQ come from."""
    if dataroot_gt is None and dataroot_lq is None:
        raise ValueError("dataroot_gt: expected this or dataroot_lq, got neither. Name the folder of the data.")
    if dataroot_lq is None and scale == 1:
        raise ValueError(
            "dataroot_lq: expected a folder at scale 1, got none. LQ is made from GT by reducing its size only."
        )


def check_crop(gt_size: int, scale: int) -> int:
    """Return the side of the LQ crop; raise ValueError if there is none."""
    if gt_size < scale or gt_size % scale:
        raise ValueError(f"gt_size: expected a multiple of scale ({scale}), got {gt_size}.")
    return gt_size // scale


def check_seed(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}.")
    return seed


def _selected(
    known: Sequence[str],
    listed: Collection[str],
    meta_info_file: str | None,
    clips: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> list[str]:
    """Return the names that the meta file, ``clips`` and ``exclude_clips`` leave, in the order of ``known``."""
    chosen, names = set(known), dict.fromkeys(known)  # the latter keeps the order, for the messages
    if listed:
        chosen &= set(pick(list(listed), names, f"meta_info_file {meta_info_file}"))
    if clips is not None:
        chosen &= set(pick(clips, names, "clips"))
    if exclude is not None:
        chosen -= set(pick(exclude, names, "exclude_clips"))
    if not chosen:
        raise ValueError("clips: expected at least one clip, but meta_info_file, clips and exclude_clips leave none.")
    return [name for name in known if name in chosen]


def used_range(name: str, total: int, count: int | None, frames: Sequence[int] | None) -> slice:
    """Return the frames of a clip that the meta file's count and ``frames`` [first, last] leave."""
    if count is not None:
        if not 1 <= count <= total:
            raise ValueError(
                f"meta_info_file: clip '{name}': expected {count} frames, found {total}. Correct the line."
            )
        total = count
    if frames is None:
        return slice(0, total)
    if len(frames) != 2:
        raise ValueError(f"frames: expected [first, last], got {list(frames)}.")
    first, last = (position + total if position < 0 else position for position in frames)
    if not 0 <= first <= last < total:
        raise ValueError(
            f"frames: expected [first, last] within the {total} frames of clip '{name}' "
            f"(0 to {total - 1}; -1 is the last), got {list(frames)}."
        )
    return slice(first, last + 1)


def _by_last_folders(found: Mapping[str, Clip], depth: int, argument: str) -> dict[str, Clip]:
    """Name clips by the last ``depth`` folders of their paths, whatever an archive was unpacked into."""
    named: dict[str, Clip] = {}
    for name, clip in found.items():
        short = "/".join(name.split("/")[-depth:])
        if short in named:
            raise ValueError(
                f"{argument}: expected one clip for each name, got {named[short].folder} and {clip.folder}. "
                "Name the folder that holds the clips of one kind."
            )
        named[short] = clip
    return named


def _is_clip(root: str | None, found: Mapping[str, Clip]) -> bool:
    """Tell whether a root is itself the one clip found in it."""
    return root is not None and [clip.folder for clip in found.values()] == [existing(root, "")]


def _decoded(clip: Clip) -> Clip:
    if not clip.is_video:
        return clip
    folder, files = frames_of_video(clip.folder)
    return Clip(clip.name, folder, files, numbered=True)
