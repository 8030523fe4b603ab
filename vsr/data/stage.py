"""What every stage of a degradation has: what it draws, what it does to a frame, and how far it looks."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.float32]  # (h, w, 3), RGB, 0 to 255
Size: TypeAlias = tuple[int, int]  # (height, width)
Rng: TypeAlias = np.random.Generator


class Stage:
    """What happens to an image between the scene and the file.

    ``draw`` chooses what the physics keeps for a whole clip (kernel, quality, strength); ``apply`` works on one
    frame, and draws what is new in each (noise).

    Attributes:
        prob: How probable it is that the stage acts, on a clip or, with ``vary``, on a frame.
        vary: Draw anew for every frame.
        local: A crop comes out as the same crop of the whole frame would, up to rounding and to noise.
        resizes: What comes out has the size of LQ ('lq'), any size ('free'), or that of what goes in ('').
    """

    prob: float
    vary: bool
    local: bool = True
    resizes: str = ""

    def reach(self, scale: int) -> int:
        """Return how far away, in pixels of its input, an output pixel looks."""
        return 0

    def align(self) -> int:
        """Return the side of the blocks, in pixels of its input, that the stage cuts an image into."""
        return 1

    def draw(self, rng: Rng) -> Any:
        return None

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        """Return the degraded image.

        Args:
            image: (h, w, 3); may be overwritten.
            drawn: What ``draw`` returned.
            rng: For what is new in each frame.
            size: Of the LQ image that the list is to end with.
        """
        raise NotImplementedError


class ClipStage(Stage):
    """A stage that needs all frames of a clip at once."""

    local = False

    def apply_clip(self, images: list[Image], drawn: Any, size: Size) -> list[Image]:
        raise NotImplementedError


def check_range(
    name: str,
    given: Sequence[float],
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> tuple[float, float]:
    """Return (low, high); raise ValueError if it is not two numbers in order and within the bounds."""
    if len(given) != 2 or not given[0] <= given[1]:
        raise ValueError(f"{name}: expected [least, most], got {list(given)}.")
    if above is not None and not given[0] > above:
        raise ValueError(f"{name}: expected more than {above}, got {given[0]}.")
    if least is not None and not given[0] >= least:
        raise ValueError(f"{name}: expected {least} or more, got {given[0]}.")
    if most is not None and not given[1] <= most:
        raise ValueError(f"{name}: expected {most} or less, got {given[1]}.")
    return given[0], given[1]


def check_prob(value: float, name: str = "prob") -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability, 0 to 1, got {value}.")
    return value


def check_shares(name: str, shares: Sequence[float], count: int, of: str) -> None:
    if len(shares) != count or min(shares, default=-1) < 0 or sum(shares) <= 0:
        raise ValueError(f"{name}: expected {count} shares of 0 or more ({of}), got {list(shares)}.")


def check_odd(name: str, value: int) -> None:
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name}: expected an odd number of 1 or more, got {value}.")
