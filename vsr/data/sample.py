"""What the data sets give: samples, and errors that say which sample they are about."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor

from vsr.data.activity import note_key
from vsr.data.augment import Planes

QUICK_SIDE = 128  # pixels from which on OpenCV's calls cost less than they save


class Sample(TypedDict, total=False):
    """One item of a data set; RGB uint8, s is the scale.

    Args:
        lq: (3, h, w) of an image, (t, 3, h, w) of a window or clip.
        gt: (3, s*h, s*w) of an image or of the window's centre frame, (t, 3, s*h, s*w) of a clip;
            absent if there is no ground truth.
        key: Name of the image, 'clip/frame' or 'clip'.
        frames: Names of the frames of a whole clip.
        interval: Frames from the last one of lq to gt, which follows it. Present in sets for prediction.
        flow: float32, (dx, dy) in LQ pixels, cut and flipped as lq is: (t, 2, h, w) from a window's centre to each of
            its frames, zero for itself; (2, t - 1, 2, h, w) of a clip, from each frame to the next and from the
            next to it. Present if the data set has flows.
        lq_sharp: (t, 3, h, w), what lq would be without its blur. Present in FMA-Net's training sets.
        disparity: float32 (s*h, s*w) of a whole pair's left view, x_left - x_right in GT pixels, 0 where it is unknown.
            Present if the data set has disparities.
    """

    lq: Tensor
    gt: Tensor
    key: str
    frames: list[str]
    interval: int
    flow: Tensor
    lq_sharp: Tensor
    disparity: Tensor


def stacked(images: Sequence[Planes]) -> Tensor:
    """Copy images (3, h, w), which may be views, into one tensor (t, 3, h, w)."""
    result = np.empty((len(images), *images[0].shape), np.uint8)
    for target, image in zip(result, images, strict=True):
        if image.shape[-1] < QUICK_SIDE:
            target[...] = image
        else:
            _copy(image, target)
    return torch.from_numpy(result)


def _copy(image: Planes, target: Planes) -> None:
    """As ``target[...] = image``, but quick where the image is mirrored, transposed or (h, w, c) in memory.

    There numpy goes from pixel to pixel; OpenCV takes many at a time.
    """
    if transposed := abs(image.strides[1]) < abs(image.strides[2]):
        image = image.swapaxes(1, 2)
    vertical, horizontal = (stride < 0 for stride in image.strides[1:])
    image = image[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]  # as it lies in memory
    interleaved = len(image) > 1 and abs(image.strides[0]) < image.strides[2]
    planes = cv2.split(image.transpose(1, 2, 0)) if interleaved else image
    for plane, result in zip(planes, target, strict=True):
        if vertical or horizontal:
            code = -1 if vertical and horizontal else int(horizontal)
            plane = cv2.flip(plane, code, dst=None if transposed else result)
        if transposed:
            cv2.transpose(plane, dst=result)
        elif not (vertical or horizontal):
            result[...] = plane


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the key of a sample in front of the errors that come from reading it, and into the worker's notes."""
    note_key(key)
    with prefixed(f"sample {key}"):
        yield


@contextlib.contextmanager
def prefixed(text: str) -> Iterator[None]:
    """Put a text in front of what is wrong with a file, a sample or an option."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{text}: {error}") from error
    except OSError as error:
        raise OSError(f"{text}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error
