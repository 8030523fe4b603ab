"""REDS: 240 clips for training and 30 for validation, which BasicSR's names count on from 240 to 269."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vsr.data.clips import ClipSet
from vsr.data.video import TrainClips
from vsr.registry import DATASETS

PARTITIONS = {"REDS4": (0, 11, 15, 20), "official": tuple(range(240, 270))}  # numbers of the clips to validate on


def partition(name: str | None, *, take: bool) -> dict[str, Any]:
    """Return the arguments with which a ClipSet takes the clips of a partition alone, or leaves them out; none: all.

    Raises:
        ValueError: there is no such partition.
    """
    if name is None:
        return {}
    if name not in PARTITIONS:
        raise ValueError(f"val_partition: expected {', '.join(PARTITIONS)} or none, got {name!r}.")

    def kept(clip: str) -> bool:
        digits = clip.rpartition("/")[2]
        return (digits.isdigit() and int(digits) in PARTITIONS[name]) == take

    return {"depth": 1, "partition": kept}


class _REDS(TrainClips):
    """Clips of REDS, less those of a validation partition.

    The roots may be nested as the archives unpack (train_sharp/train/train_sharp/000): a clip is called by its last
    folder, so that ``exclude_clips`` and lists need no more than 000. Any number of clips and of frames will do.

    Args:
        val_partition: The clips to leave out: REDS4 (000, 011, 015, 020), official (240 to 269, which are the
            official validation clips 000 to 029); None: none.
        test_mode: Take the clips of val_partition instead of leaving them out.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str] | None = None,
        dataroot_flow: str | list[str] | None = None,
        scale: int,
        num_frame: int,
        gt_size: int,
        val_partition: Literal["REDS4", "official"] | None = "REDS4",
        test_mode: bool = False,
        interval_list: list[int] = [1],  # noqa: B006 (never changed)
        random_reverse: bool = False,
        use_hflip: bool = True,
        use_rot: bool = True,
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
        partition(val_partition, take=test_mode)
        if test_mode and val_partition is None:
            raise ValueError("test_mode: expected a val_partition whose clips to take, got none. Name one.")
        self.val_partition, self.test_mode = val_partition, test_mode
        super().__init__(
            dataroot_gt=dataroot_gt, dataroot_lq=dataroot_lq, dataroot_flow=dataroot_flow, scale=scale,
            num_frame=num_frame, gt_size=gt_size, interval_list=interval_list, random_reverse=random_reverse,
            use_hflip=use_hflip, use_rot=use_rot, meta_info_file=meta_info_file, clips=clips,
            exclude_clips=exclude_clips, frames=frames, cache_data=cache_data, io_backend=io_backend,
            allow_gaps=allow_gaps, degradations=degradations, seed=seed,
        )  # fmt: skip

    def _clip_set(self, **arguments: Any) -> ClipSet:
        kept = partition(self.val_partition, take=self.test_mode)
        return ClipSet(**arguments, **{"depth": 1, **kept})


@DATASETS.register
class REDSDataset(_REDS):
    """Windows of REDS with the GT of the centre frame: BasicSR's data set of EDVR's recipes."""

    window = True


@DATASETS.register
class REDSRecurrentDataset(_REDS):
    """Sequences of REDS, each frame with its GT: BasicSR's data set of BasicVSR's recipes."""

    window = False
