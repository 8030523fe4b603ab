"""Vimeo-90K: septuplets, clips of seven frames im1 to im7 in folders 00001/0001."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vsr.data.clips import ClipPair, ClipSet
from vsr.data.degradations import build_degradations
from vsr.data.sample import Sample, naming, stacked
from vsr.data.storage import Roots, existing, list_roots
from vsr.data.video import TestClips, TrainClips
from vsr.registry import DATASETS

log = logging.getLogger(__name__)

FRAMES = 7
CENTRE = 3  # the position of im4
LISTS = {True: "sep_trainlist.txt", False: "sep_testlist.txt"}  # of the archive, by whether it is to train on
OFFICIAL = {True: "meta_info_Vimeo90K_train_GT.txt", False: "meta_info_Vimeo90K_test_GT.txt"}  # the same, of BasicSR


class _Vimeo90K(TrainClips):
    """One item a septuplet: its middle frames, cut and flipped at random."""

    even_windows = True

    def _clip_set(self, **arguments: Any) -> ClipSet:
        return _septuplets(arguments, train=True, single_gt=CENTRE if self.window else None)

    def __len__(self) -> int:
        return len(self.clips.clips)

    def _sequence(self, index: int, rng: np.random.Generator) -> tuple[ClipPair, list[int], int]:
        positions = middle_frames(self.num_frame)
        return self.clips.clips[index], positions, CENTRE if self.window else positions[0]


@DATASETS.register
class Vimeo90KDataset(_Vimeo90K):
    """The middle frames of Vimeo-90K's septuplets with the GT of im4, the fourth.

    The roots hold 00001/0001/im1.png ..., at any depth. GT may be all seven frames, or im4 alone as in BasicSR's LMDB.

    Args:
        num_frame: 1: im4; 3: im3 to im5; 5: im2 to im6; 7: all. Even numbers: one more before im4 than behind it.
        meta_info_file: List of the septuplets, lines ``00001/0001 7 (h,w,c)`` or, as sep_trainlist.txt, 00001/0001;
            None: sep_trainlist.txt in the GT root or beside it; if there is none, all.
        random_reverse: Reverse the order of the frames of every second sample.
    """

    window = True

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str] | None = None,
        dataroot_flow: str | list[str] | None = None,
        scale: int,
        num_frame: int = 7,
        gt_size: int,
        random_reverse: bool = False,
        use_hflip: bool = True,
        use_rot: bool = True,
        meta_info_file: str | None = None,
        clips: list[str] | None = None,
        exclude_clips: list[str] | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        degradations: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, dataroot_flow=dataroot_flow, scale=scale,
            num_frame=len(middle_frames(num_frame)), gt_size=gt_size, random_reverse=random_reverse,
            use_hflip=use_hflip, use_rot=use_rot, meta_info_file=meta_info_file, clips=clips,
            exclude_clips=exclude_clips, cache_data=cache_data, io_backend=io_backend,
            degradations=degradations, seed=seed,
        )  # fmt: skip


@DATASETS.register
class Vimeo90KRecurrentDataset(_Vimeo90K):
    """Vimeo-90K's septuplets, each frame with its GT.

    Args:
        num_frame: -1 or 7: all frames; fewer: those in the middle.
        flip_sequence: Let the frames follow once more in reverse: 14 of the 7, which BasicVSR trains on.

    The other arguments are those of ``Vimeo90KDataset``.
    """

    window = False

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        num_frame: int = -1,
        gt_size: int,
        flip_sequence: bool = False,
        random_reverse: bool = False,
        use_hflip: bool = True,
        use_rot: bool = True,
        meta_info_file: str | None = None,
        clips: list[str] | None = None,
        exclude_clips: list[str] | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        degradations: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, scale=scale,
            num_frame=FRAMES if num_frame == -1 else len(middle_frames(num_frame)), gt_size=gt_size,
            random_reverse=random_reverse, use_hflip=use_hflip, use_rot=use_rot, meta_info_file=meta_info_file,
            clips=clips, exclude_clips=exclude_clips, cache_data=cache_data, io_backend=io_backend,
            degradations=degradations, seed=seed,
        )  # fmt: skip
        self.flip_sequence = flip_sequence
        if flip_sequence:
            self.sample_bytes *= 2

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        sample = super().__getitem__(item)
        if self.flip_sequence:
            sample["lq"] = torch.cat([sample["lq"], sample["lq"].flip(0)])
            sample["gt"] = torch.cat([sample["gt"], sample["gt"].flip(0)])
        return sample


@DATASETS.register
class VideoTestVimeo90KDataset(TestClips):
    """Vimeo-90K's test set: of each septuplet the middle frames, with the GT of im4.

    Args:
        num_frame: As in ``Vimeo90KDataset``.
        meta_info_file: As there, but sep_testlist.txt is what is looked for.

    The other arguments are those of ``VideoTestDataset``.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str] | None = None,
        dataroot_lq: str | list[str] | None = None,
        scale: int,
        num_frame: int = 7,
        meta_info_file: str | None = None,
        clips: list[str] | None = None,
        exclude_clips: list[str] | None = None,
        cache_data: bool = False,
        io_backend: Mapping[str, Any] | None = None,
        degradations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        made, dataroot_lq = build_degradations(
            degradations, scale=scale, dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq
        )
        arguments = {
            "dataroot_gt": dataroot_gt, "dataroot_lq": dataroot_lq, "scale": scale, "gt_downscale": 1,
            "filename_tmpl": "{}", "meta_info_file": meta_info_file, "clips": clips, "exclude_clips": exclude_clips,
            "frames": None, "io_backend": io_backend, "exact": False,
        }  # fmt: skip
        self.num_frame = len(middle_frames(num_frame))
        super().__init__(_septuplets(arguments, train=False, single_gt=CENTRE), made, cache_data=cache_data)
        self.sample_bytes = self._frame_bytes * (num_frame + self.has_gt * scale**2)

    def __len__(self) -> int:
        return len(self.clips.clips)

    @property
    def keys(self) -> list[str]:
        """The key of every item."""
        return [f"{name}/im{CENTRE + 1}" for name in self.clip_names]

    @property
    def gt_files(self) -> list[str]:
        """The file of every item."""
        return [os.path.realpath(clip.main.path(CENTRE)) for clip in self.clips.clips]

    def __getitem__(self, index: int) -> Sample:
        clip = self.clips.clips[index]
        key = f"{clip.name}/im{CENTRE + 1}"
        with naming(key):
            sample = Sample(lq=stacked(self._lq(clip, middle_frames(self.num_frame))), key=key)
            if self.has_gt:
                sample["gt"] = stacked([self._gt(clip.pair(CENTRE))])[0]
        return sample


def middle_frames(num_frame: int) -> list[int]:
    """Return the positions of the frames that a window of ``num_frame`` takes of a septuplet. Source: BasicSR."""
    if not 1 <= num_frame <= FRAMES:
        raise ValueError(f"num_frame: expected 1 to {FRAMES}, the frames of a septuplet, got {num_frame}.")
    first = (FRAMES + 2 - num_frame) // 2 - 1
    return list(range(first, first + num_frame))


def _septuplets(arguments: dict[str, Any], *, train: bool, single_gt: int | None) -> ClipSet:
    """Find the septuplets, those of the archive's own list if it is there; refuse clips of other lengths."""
    arguments["meta_info_file"] = _list(
        arguments["meta_info_file"], arguments["dataroot_gt"] or arguments["dataroot_lq"], train=train
    )
    found = ClipSet(**arguments, depth=2, single_gt=single_gt)
    other = next((clip for clip in found.clips if len(clip) != FRAMES), None)
    if other is not None:
        raise ValueError(
            f"clip '{other.name}': expected the {FRAMES} frames of a septuplet, got {len(other)} in "
            f"{other.main.folder}. Complete it, or use VideoTrainDataset for clips of other lengths."
        )
    return found


def _list(given: str | None, roots: Roots | None, *, train: bool) -> str | None:
    """Return the list to use: the one that is given, or else the archive's, in the one root or the folder above it.

    It stands for BasicSR's lists, too, which say the same of the whole archive, where they are not at hand.
    """
    if given is not None and (Path(given).name != OFFICIAL[train] or os.path.exists(os.path.expanduser(given))):
        return given
    folders: list[Path] = []
    if roots is not None and len(list_roots(roots)) == 1:
        root = existing(list_roots(roots)[0], "dataroot_gt")
        folders = [root, root.parent]
    own = next((folder / LISTS[train] for folder in folders if (folder / LISTS[train]).is_file()), None)
    if own is not None:
        log.info("meta_info_file: the septuplets are those of %s", own)
        return str(own)
    if given is None:
        log.warning("meta_info_file: there is no %s in or beside the root; all septuplets are taken", LISTS[train])
    return given
