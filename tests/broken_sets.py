"""A data set with numbers that are none; ``imports: [broken_sets]`` registers it."""

import os
from typing import Any

from vsr.data.video import VideoTrainDataset
from vsr.registry import DATASETS


@DATASETS.register
class BrokenDataset(VideoTrainDataset):
    """As VideoTrainDataset, in float32; the samples of the draws in $BAD_DRAWS have a pixel of NaN.

    With $BAD_ONCE set only the first such data set of a process is broken: a run that enters its loop anew gets
    whole samples.
    """

    built = 0

    def __init__(
        self,
        *,
        dataroot_gt: str,
        num_frame: int,
        gt_size: int,
        scale: int = 1,
        random_reverse: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataroot_gt=dataroot_gt, num_frame=num_frame, gt_size=gt_size, scale=scale, random_reverse=random_reverse,
            seed=seed,
        )  # fmt: skip
        type(self).built += 1
        once = os.environ.get("BAD_ONCE")
        self.bad = {int(draw) for draw in os.environ["BAD_DRAWS"].split(",")} if self.built == 1 or not once else set()

    def __getitem__(self, item: tuple[int, int]) -> Any:
        sample: Any = super().__getitem__(item)
        sample["lq"] = sample["lq"].float() / 255
        if item[1] in self.bad:
            sample["lq"][0, 0, 0, 0] = float("nan")
        return sample
