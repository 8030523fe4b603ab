"""Window networks one frame at a time: the features of a frame are computed once, not once a window."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vsr.inference.tiles import Network


class FeatureNetwork(Protocol):
    """A window network whose forward is ``reconstruct`` of what ``extract`` finds in each of its frames."""

    num_frame: int
    num_in_ch: int
    center_frame_idx: int

    def __call__(self, x: Tensor) -> Tensor: ...

    def extract(self, frames: Tensor) -> list[Tensor]:
        """Map frames (n, c, h, w) to their features: tensors of n entries each."""

    def reconstruct(self, pyramid: Sequence[Tensor], center: Tensor) -> Tensor:
        """Map the features of windows, tensors (b, t, ...), and their centre frames (b, c, h, w) to the output."""


def with_kept_features(network: Network) -> Network:
    """Return the network as a function that keeps features from call to call, if it can tell them apart.

    The function is for one video and for weights that do not change: keep it no longer than that.
    """
    # asked of the class: a compiled module passes on what it is asked for, but calling that would not be compiled
    if all(callable(getattr(type(network), name, None)) for name in ("extract", "reconstruct")):
        return _KeptFeatures(network)  # type: ignore[arg-type]
    return network


class _KeptFeatures:
    """Calls a window network, remembering the features of the window before.

    A frame is known again by its pixels: comparing them costs nothing beside computing features, and no
    caller needs to number its frames. Features are always computed frame by frame, so that the result
    does not depend on what came before.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network
        self.size_multiple: int = getattr(network, "size_multiple", 1)
        self.min_size: int = getattr(network, "min_size", 1)
        self.kept: list[tuple[Tensor, list[Tensor]]] = []  # frames (1, c, h, w) of a window, and their features

    def __call__(self, x: Tensor) -> Tensor:
        network = self.network
        if x.shape[:3] != (1, network.num_frame, network.num_in_ch):
            return network(x)  # more than one window at once; or a shape that the network refuses
        before, self.kept = self.kept, []
        try:
            window = [self._features(frame, before) for frame in x.split(1, 1)]
            pyramid = [torch.stack(level, 1) for level in zip(*window, strict=True)]
            return network.reconstruct(pyramid, x[:, network.center_frame_idx])
        except (RuntimeError, MemoryError):  # where the memory has run out, features must not stand in the way
            self.kept = []
            raise

    def _features(self, frame: Tensor, before: list[tuple[Tensor, list[Tensor]]]) -> list[Tensor]:
        """Return the features of a frame (1, 1, c, h, w), and keep them for the next window."""
        frame = frame[:, 0]
        for entries in (self.kept, before):
            for known, features in entries:
                if known.shape == frame.shape and known.dtype == frame.dtype and torch.equal(known, frame):
                    if entries is before:
                        self.kept.append((known, features))
                    return features
        features = self.network.extract(frame)
        self.kept.append((frame.clone(), features))  # a copy: the window that it is a part of shall go
        return features
