"""What the data sets give: samples, and errors that say which sample they are about."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from vsr.data.augment import Planes


class Sample(TypedDict, total=False):
    """One item of a data set; RGB uint8, s is the scale.

    Args:
        lq: (3, h, w) of an image, (t, 3, h, w) of a window or clip.
        gt: (3, s*h, s*w) of an image or of the window's centre frame, (t, 3, s*h, s*w) of a clip;
            absent if there is no ground truth.
        key: Name of the image, 'clip/frame' or 'clip'.
        frames: Names of the frames of a whole clip.
    """

    lq: Tensor
    gt: Tensor
    key: str
    frames: list[str]


def stacked(images: Sequence[Planes]) -> Tensor:
    """Copy images (3, h, w), which may be views, into one tensor (t, 3, h, w)."""
    result = np.empty((len(images), *images[0].shape), np.uint8)
    for target, image in zip(result, images, strict=True):
        target[...] = image
    return torch.from_numpy(result)


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the key of a sample in front of the errors that come from reading it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"sample {key}: {error}") from error
    except OSError as error:
        raise OSError(f"sample {key}: {error}") from error
    except ValueError as error:
        raise ValueError(f"sample {key}: {error}") from error
