"""Smaller tiles when the memory does not suffice."""

import logging
from collections.abc import Callable

from torch import Tensor

from vsr.utils.memory import give_back, out_of_memory

log = logging.getLogger(__name__)

LEAST = 64  # pixels: below it a tile is mostly overlap


class Tiling:
    """The size of the tiles that frames are restored in: as asked for, and smaller once the memory has not sufficed.

    Args:
        tile: Side in input pixels; 0: whole frames.
        overlap: Input pixels that neighbouring tiles share.
        shrink: Where the memory runs out, halve the tiles (first: the longer side of the frame) and try again, down to
            64 pixels or four times the overlap; what has proved to fit is kept for the frames that follow. Without
            it, and below that size, the error is raised.
        option: What the warning says to set.
    """

    def __init__(self, tile: int = 0, overlap: int = 16, *, shrink: bool = False, option: str = "tile") -> None:
        self.tile, self.overlap, self.shrink, self.option = tile, overlap, shrink, option

    def run(self, restore: Callable[[int], Tensor], x: Tensor, *, multiple: int = 1) -> Tensor:
        """Return ``restore(tile)`` of the largest tile that fits: equal to what that tile gives when asked for.

        Args:
            restore: Restores ``x`` in tiles of a side; 0: whole.
            x: (..., h, w)
            multiple: Sides that the network takes are multiples of it.

        Raises:
            RuntimeError: no tile fits.
        """
        while True:
            try:
                return restore(self.tile)
            except (RuntimeError, MemoryError) as error:
                if not (self.shrink and out_of_memory(error)):
                    raise
                smaller = self._smaller(x, multiple)
                if smaller is None:
                    raise RuntimeError(
                        f"{self.option}: expected memory for {self._size()} of frames of {tuple(x.shape)}, the least "
                        f"that makes sense, but it ran out. Restore fewer frames at a time (val.chunk), in "
                        f"val.precision: bfloat16, without self_ensemble, or on a device with more memory. ({error})"
                    ) from error
                text = str(error).strip().partition("\n")[0]
            # Out of the handler: the error no longer holds what the attempt had in memory.
            log.warning(
                "the memory does not suffice for %s of frames of %s; going on with tiles of %d pixels. Set %s: %d to "
                "begin with them (%s)", self._size(), tuple(x.shape), smaller, self.option, smaller, text,
            )  # fmt: skip
            self.tile = smaller
            give_back()

    def _smaller(self, x: Tensor, multiple: int) -> int | None:
        longer = max(x.shape[-2:])
        side = min(self.tile, longer) if self.tile else longer
        half = -(-side // (2 * multiple)) * multiple
        least = max(LEAST, 4 * -(-self.overlap // multiple) * multiple)
        return half if least <= half < side else None

    def _size(self) -> str:
        return f"tiles of {self.tile} pixels" if self.tile else "the whole"
