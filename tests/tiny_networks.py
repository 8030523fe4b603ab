"""Networks small enough to train within a test; ``imports: [tiny_networks]`` registers them."""

import torch.nn.functional as F
from torch import Tensor, nn

from vsr.registry import NETWORKS


@NETWORKS.register
class WindowNet(nn.Module):
    """Two convolutions over a window, x2, with dropout so that random numbers matter."""

    temporal, scale, size_multiple, min_size = "window", 2, 1, 1
    checkpointed = (nn.Dropout2d,)  # computed twice it must drop the same

    def __init__(self, *, num_frame: int = 3, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.first = nn.Conv2d(3 * num_frame, width, 3, padding=1)
        self.drop = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        centre = F.interpolate(x[:, self.num_frame // 2], scale_factor=2, mode="bilinear")
        return centre + F.pixel_shuffle(self.last(self.drop(F.relu(self.first(x.flatten(1, 2))))), 2)


@NETWORKS.register
class FrameNet(nn.Module):
    """The same over single images."""

    temporal, scale, size_multiple, min_size = "image", 2, 2, 1

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear") + F.pixel_shuffle(self.last(F.relu(self.first(x))), 2)


@NETWORKS.register
class ClipNet(nn.Module):
    """The same over whole clips: each frame sees the mean of all."""

    temporal, scale, size_multiple, min_size = "clip", 2, 1, 1

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.frame = FrameNet(width=width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = 0.9 * x + 0.1 * x.mean(1, keepdim=True)
        return self.frame(mixed.flatten(0, 1)).unflatten(0, x.shape[:2])


@NETWORKS.register
class NextNet(nn.Module):
    """A frame from any number of those before it, an even one, too: the last one and a correction."""

    temporal, scale, size_multiple, min_size = "window", 1, 1, 1

    def __init__(self, *, num_frame: int = 4, width: int = 8) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.first = nn.Conv2d(3 * num_frame, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1] + self.last(F.relu(self.first(x.flatten(1, 2))))
