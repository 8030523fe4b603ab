"""SpyNet: optical flow by a pyramid of small networks (Ranjan and Black, CVPR 2017, arXiv:1611.00850).

Shapes: b batch, t frames of a clip, n pairs of images, h w size of an image. A flow (n, 2, h, w) is x
then y, in pixels, for backward warping: the second image, read at p + flow(p), looks like the first at p.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.parts import load_part
from vsr.ops.warp import flow_warp
from vsr.registry import NETWORKS

LEVELS = 6
COARSEST = 2 ** (LEVELS - 1)  # one pixel of the coarsest level is so many of the finest
# Of a clip, no more pairs are computed at once than have so many pixels together: on a CPU their features shall stay
# in the cache (all at once takes three times as long), on a GPU every batch costs launches.
PAIR_PIXELS = {"cpu": 2**16, "cuda": 2**20}


class BasicModule(nn.Module):
    """One level: finds in two images and the flow so far, (n, 3 + 3 + 2, h, w), what to add to it: (n, 2, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((8, 32), (32, 64), (64, 32), (32, 16), (16, 2)):
            layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(x)


@NETWORKS.register
class SpyNet(nn.Module):
    """Finds the optical flow between two images of any size.

    Args:
        load_path: A checkpoint of this network, or of one that has it as its part ``spynet``; none: random weights.
    """

    kind = "flow"
    temporal = "image"
    checkpointed = (BasicModule,)
    channels_last = False
    scale = 1
    size_multiple = 1
    min_size = 1

    mean: Tensor
    std: Tensor

    def __init__(self, *, load_path: str | None = None) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(BasicModule() for _ in range(LEVELS))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        if load_path is not None:
            load_part(self, load_path, prefix="spynet.")

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Return the flow (b, 2, h, w) that warps ``supp`` onto ``ref``; both (b, 3, h, w), RGB in [0, 1].

        It is float32 at least: at half precision flows of many pixels have no fractions.

        Raises:
            ValueError: the images are no such tensors of one shape.
        """
        if ref.dim() != 4 or ref.shape[1] != 3 or ref.shape != supp.shape:
            raise ValueError(
                f"ref, supp: expected two tensors (b, 3, h, w) of one shape, got {tuple(ref.shape)} and "
                f"{tuple(supp.shape)}."
            )
        return self._between(self._pyramid(ref), self._pyramid(supp), (ref.shape[2], ref.shape[3]))

    def along(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flows between the neighbouring frames of clips (b, t, 3, h, w).

        Returns:
            Two tensors (b, t - 1, 2, h, w). Entry i of the first warps frame i onto frame i + 1 (for what
            travels forward in time), entry i of the second warps frame i + 1 onto frame i.
        """
        b, t, _, h, w = clip.shape
        if _is_mirrored(clip):  # the second half sees the first half's flows again, the other way round
            there, back = self.along(clip[:, : t // 2 + 1])
            return torch.cat((there, back[:, :-1].flip(1)), 1), torch.cat((back, there[:, :-1].flip(1)), 1)
        step = max(1, PAIR_PIXELS.get(clip.device.type, 2**20) // (2 * b * h * w))
        flows = [clip.new_zeros(2, b, 0, 2, h, w, dtype=torch.promote_types(clip.dtype, torch.float32))]
        for first in range(0, t - 1, step):
            frames = clip[:, first : first + step + 1]
            pyramid = [level.unflatten(0, frames.shape[:2]) for level in self._pyramid(frames.flatten(0, 1))]
            earlier, later = ([level[:, part] for level in pyramid] for part in (slice(None, -1), slice(1, None)))
            levels = list(zip(earlier, later, strict=True))  # both directions in one batch
            ref = [torch.cat((late, early)).flatten(0, 1) for early, late in levels]
            supp = [torch.cat((early, late)).flatten(0, 1) for early, late in levels]
            flows.append(self._between(ref, supp, (h, w)).unflatten(0, (2, b, -1)))
        forward, backward = torch.cat(flows, 2)
        return forward, backward

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """Normalise (n, 3, h, w), enlarge it to multiples of 32, and return its levels, the coarsest first."""
        size = [-(-side // COARSEST) * COARSEST for side in images.shape[2:]]
        if tuple(size) != tuple(images.shape[2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        levels = [(images - self.mean) / self.std]
        for _ in range(LEVELS - 1):
            levels.insert(0, F.avg_pool2d(levels[0], 2))
        return levels

    def _between(self, ref: list[Tensor], supp: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Refine the flow from level to level, and return it for images of ``size``."""
        n, _, h, w = ref[0].shape
        flow = ref[0].new_zeros(n, 2, h, w, dtype=torch.promote_types(ref[0].dtype, torch.float32))
        for level, module in enumerate(self.basic_module):
            if level:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            warped = flow_warp(supp[level], flow, padding_mode="border")
            flow = flow + module(torch.cat((ref[level], warped, flow.to(warped.dtype)), 1))
        h, w = flow.shape[2:]
        if (h, w) == size:
            return flow
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        return torch.stack((flow[:, 0] * (size[1] / w), flow[:, 1] * (size[0] / h)), 1)


def _is_mirrored(clip: Tensor) -> bool:
    """Whether the clip's second half is its first in reverse, as training on short clips extends them.

    Not asked where the answer would have to be fetched from a GPU that the host runs ahead of, nor in a
    graph that is to serve any clip: then more is computed, with the same result.
    """
    half = clip.shape[1] // 2
    if clip.shape[1] % 2 or half < 2 or torch.compiler.is_compiling() or clip.is_meta:
        return False
    if clip.is_cuda and torch.is_grad_enabled():
        return False
    return torch.equal(clip[:, 0], clip[:, -1]) and torch.equal(clip[:, :half], clip[:, half:].flip(1))
