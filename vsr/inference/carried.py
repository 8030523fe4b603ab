"""Networks of clips in chunks, where what they remember of the past goes on from one chunk to the next."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from vsr.inference.tiles import Network


class CarryingNetwork(Protocol):
    """A network of clips that can go on where it ended; its forward is ``carry`` of the whole clip."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def carry(self, x: Tensor, state: Any, keep: int) -> tuple[Tensor, Any]:
        """Restore the first ``keep`` frames of ``x`` (b, n, c, h, w); the frames behind them are only looked at.

        Args:
            x: The frames that come after those before.
            state: What the call for the frames before returned; None: there are none.
            keep: 1 to n.

        Returns:
            (b, keep, c, s*h, s*w), and what the call for the frames after these needs.
        """


def carries(network: Network) -> bool:
    """Whether the network has ``carry``; asked of its class, for a compiled one passes on what it is asked for."""
    return callable(getattr(type(network), "carry", None))


class Carried:
    """Calls a network that carries a state, for one video, chunk after chunk.

    Tiles and the views of a self-ensemble come in the same order in each chunk: each has a state of its own.
    """

    def __init__(self, network: CarryingNetwork) -> None:
        self.network = network
        self.size_multiple: int = getattr(network, "size_multiple", 1)
        self.min_size: int = getattr(network, "min_size", 1)
        self.kind: str = getattr(network, "kind", "")
        self._before: list[tuple[torch.Size, Any]] = []  # of the chunk before: the size and the state of each call
        self._now: list[tuple[torch.Size, Any]] = []
        self._keep = 0

    def start(self, keep: int) -> None:
        """Begin with the next chunk, of whose frames the first ``keep`` are wanted."""
        self._before, self._now, self._keep = self._now, [], keep

    def again(self) -> None:
        """Begin anew with the same chunk, of which a part could not be computed; perhaps in other tiles."""
        self._now = []

    def __call__(self, x: Tensor) -> Tensor:
        number, size, state = len(self._now), x.shape[-2:], None
        if number < len(self._before) and self._before[number][0] == size:  # others are of another cut into tiles
            state = self._before[number][1]
        result, state = self.network.carry(x, state, self._keep)
        self._now.append((size, state))
        return result


def steps(frames: Iterable[Tensor], chunk: int, ahead: int) -> Iterator[tuple[Tensor, int]]:
    """Yield parts (n, 3, h, w) of a clip, each frame once among the first ``keep`` of a part, and ``keep``.

    Args:
        frames: (3, h, w) each.
        chunk: n, at most.
        ahead: How many of those are only looked at, except at the clip's end.
    """
    held: list[Tensor] = []
    for frame in frames:
        if len(held) == chunk:
            yield torch.stack(held), chunk - ahead
            del held[: chunk - ahead]
        held.append(frame)
    if held:
        yield torch.stack(held), len(held)
