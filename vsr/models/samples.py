"""What a data set gives, as a model wants it: sizes that the network takes, and names of the frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn


def check_sizes(
    sample: Mapping[str, Any], where: str, network: nn.Module, name: str, scale: int, *, train: bool
) -> None:
    """Check the sizes of a data set's sample before step 1.

    Args:
        sample: One item of the set, not yet batched.
        where: The option that the set comes from, 'datasets.train'; starts the messages.
        network: What it goes into.
        name: The network's, as network_g.type.
        scale: GT size / LQ size.
        train: A training sample goes into the network as it is; others are padded and cropped.
    """
    height, width = sample["lq"].shape[-2:]
    multiple, smallest = getattr(network, "size_multiple", 1), getattr(network, "min_size", 1)
    if train and (height % multiple or width % multiple):
        raise ValueError(
            f"{where}.gt_size: expected LQ crops whose sides are multiples of {multiple} for {name}, "
            f"got {height}x{width}. Use a multiple of {multiple * scale}."
        )
    if train and min(height, width) < smallest:
        raise ValueError(
            f"{where}.gt_size: expected LQ crops of {smallest} pixels or more for {name}, got {height}x{width}. "
            f"Use {smallest * scale} or more."
        )
    if "gt" in sample and tuple(sample["gt"].shape[-2:]) != (height * scale, width * scale):
        raise ValueError(
            f"{where}: expected GT of {scale} times the LQ size {height}x{width} (scale), "
            f"got {'x'.join(map(str, sample['gt'].shape[-2:]))}. Check the roots and scale."
        )


def named_frames(batch: Mapping[str, Any]) -> list[tuple[str, np.ndarray | None]]:
    """Name each output frame of a validation batch of one, with its ground truth as uint8 (h, w, 3)."""
    key: str = batch["key"][0]
    # "frames" stands in whole clips; the loader made a list of one-element lists of the names.
    keys = [f"{key}/{frame[0]}" for frame in batch["frames"]] if "frames" in batch else [key]
    if "gt" not in batch:
        return [(key, None) for key in keys]
    targets = batch["gt"].reshape(-1, *batch["gt"].shape[-3:]).permute(0, 2, 3, 1).contiguous().numpy()
    return list(zip(keys, targets, strict=True))
