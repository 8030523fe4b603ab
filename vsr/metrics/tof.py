"""How well what moves is kept: optical flow in the restored frames against that in the ground truth."""

from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from vsr.metrics.base import Array
from vsr.registry import METRICS
from vsr.utils.images import to_uint8

Picture = Array | Tensor

_UNIT, _RIM = 32, 16  # the sides compared are multiples of the one and leave out at least the other, in pixels
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # scale, levels, window, iterations, poly_n, poly_sigma, flags


class TOF:
    """Mean length of the difference of two flows, in pixels: of the restored frames, and of the ground truth.

    Both lead from the frame before to the frame itself, by Farneback's method (SCIA 2003) on 8-bit grey, as in Chu et
    al., TecoGAN (ACM Trans. Graphics 39, 2020), which names it tOF. The first frame of a clip has no such number, and
    none has one before which frames are missing.
    """

    follows = True
    higher_is_better = False
    left_only = False
    decimals = 4
    unit = "px"
    min_size = _UNIT + _RIM  # least side of a frame

    def __init__(self, *, input_order: Literal["HWC", "CHW"] = "HWC") -> None:
        if input_order not in ("HWC", "CHW"):
            raise ValueError(f"input_order: expected 'HWC' or 'CHW', got {input_order!r}")
        self.input_order = input_order
        self.definition = "tOF, Farneback's flow from the frame before, mean length of the difference in pixels"

    def __repr__(self) -> str:
        return f"<{self.definition}>"

    def __call__(self, restored: tuple[Picture, Picture], target: tuple[Picture, Picture]) -> float:
        """Return the value of two pairs of neighbouring frames.

        Args:
            restored, target: (the frame before, the frame itself): arrays uint8 with B, G, R, or tensors (3, h, w) or
                (1, 3, h, w), float RGB in [0, 1].

        Raises:
            ValueError: they are no such pairs, or as for ``measure``.
        """
        for name, pair in (("restored", restored), ("target", target)):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                got = f"{len(pair)} of them" if isinstance(pair, tuple | list) else type(pair).__name__
                raise ValueError(f"{name}: expected two frames, (the one before, the frame itself), got {got}")
        frames = [self._rgb(image) for image in (*restored, *target)]
        return self.measure(frames[1], frames[3], (frames[0], frames[2]))

    def _rgb(self, image: Picture) -> Array:
        """Return a frame as ``measure`` takes it."""
        if isinstance(image, Tensor):
            return to_uint8(image)
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            got = image.shape if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"restored and target: expected frames of three axes, or tensors, got {got}")
        return (image.transpose(1, 2, 0) if self.input_order == "CHW" else image)[..., ::-1]

    def measure(self, restored: Array, target: Array, before: tuple[Array, Array]) -> float:
        """Return the value of RGB frames uint8 (h, w, 3).

        Args:
            restored, target: The frame as it was restored, and its ground truth.
            before: The same two of the frame before it.

        Raises:
            ValueError: the frames differ in size, are not uint8 (h, w, 3), or too small for a value.
        """
        frames = [before[0], restored, before[1], target]
        if any(frame.shape != target.shape or frame.dtype != np.uint8 for frame in frames) or target.ndim != 3:
            got = ", ".join(f"{frame.dtype} {frame.shape}" for frame in frames)
            raise ValueError(f"restored, target and before: expected uint8 (h, w, 3) of one size, got {got}")
        if target.shape[2] != 3:
            raise ValueError(f"restored: expected 3 channels, got {target.shape}. Pairs of views have no tOF")
        inner = tuple(_inner(side) for side in target.shape[:2])
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
        flows = [cv2.calcOpticalFlowFarneback(a, b, None, *_FARNEBACK) for a, b in (grey[:2], grey[2:])]  # type: ignore[call-overload]
        difference = (flows[0] - flows[1])[inner]
        return float(np.sqrt(np.square(difference).sum(axis=-1)).mean(dtype=np.float64))


@METRICS.register
def calculate_tof(*, input_order: Literal["HWC", "CHW"] = "HWC") -> TOF:
    """Temporal consistency (tOF) in pixels, of videos; lower is better, and a clip's first frame is left out.

    Args:
        input_order: Of arrays given to a call.
    """
    return TOF(input_order=input_order)


def _inner(side: int) -> slice:
    """Return the middle part of a side that is compared."""
    length = (side - _RIM) // _UNIT * _UNIT
    if length <= 0:
        raise ValueError(
            f"restored: expected at least {_UNIT + _RIM} x {_UNIT + _RIM} pixels for tOF, got a side of {side}"
        )
    start = (side - length) // 2
    return slice(start, start + length)
