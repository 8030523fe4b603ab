"""Exchanges between the views of a stereo pair, to be chosen as NAFSSR's ``fusion_block``.

An exchange is a module that is built with ``channels`` and maps the left and the right view, (b, c, h, w) each, to two
of the same shape. It is registered in ``vsr.registry.FUSIONS``, by the table there or, outside of vsr, by the decorator
and ``imports: [my_lab.fusion]`` in the option file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.blocks import check_counts
from vsr.archs.nafnet import LayerNorm2d
from vsr.registry import FUSIONS

_WEIGHTS = 2**24  # numbers of attention weights in memory at a time, when no gradient is wanted: 64 MiB


def rows_at_once(view: Tensor, *, copies: int = 1) -> int:
    """Return how many rows of a view (b, c, h, w) attend to the other view's at a time: no row needs another one.

    Each has b x w x w weights. All, if a gradient is wanted, which needs them all in the end, or if the code is traced
    for other sizes.

    Args:
        view: One of the two.
        copies: How many tensors of the weights' size (b, rows, w, w) there are at a time.
    """
    b, _, h, w = view.shape
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return h
    return min(h, max(1, _WEIGHTS // max(1, copies * b * w * w)))


@FUSIONS.register
class BiPAM(nn.Module):
    """Parallax attention that heeds occlusion: a pixel takes from the other view what is seen in both.

    After the bi-directional module of iPASSR (Wang et al., CVPRW 2021, arXiv:2011.03802). One score for two pixels of a
    row serves both directions. A pixel counts as seen in both views as far as attention to the other view and back
    comes home, give or take ``relax`` pixels; where it does not, it keeps its own features. Other than there both views
    are projected alike, so that mirrored and exchanged views give mirrored and exchanged results, and what is found is
    added by a factor that begins at zero, as in SCAM.

    Args:
        channels: c.
        relax: By how many pixels the way back may miss.
    """

    def __init__(self, channels: int, *, relax: int = 2) -> None:
        super().__init__()
        check_counts(relax=relax)
        self.relax = relax
        self.norm = LayerNorm2d(channels)
        self.match = nn.Conv2d(channels, channels, 1)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Map the views (b, c, h, w) to the same shapes."""
        rows = rows_at_once(left, copies=6)  # scores, weights both ways, and what is made of them: counted at its peak
        parts = [self._exchange(*part) for part in zip(left.split(rows, 2), right.split(rows, 2), strict=True)]
        return torch.cat([part[0] for part in parts], 2), torch.cat([part[1] for part in parts], 2)

    def _exchange(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Do it for some of the rows."""
        marks_left, marks_right = (self.match(self.norm(view)) for view in (left, right))
        marks_left, marks_right = (marks - marks.mean(3, keepdim=True) for marks in (marks_left, marks_right))
        scores = torch.einsum("bchi,bchj->bhij", marks_left, marks_right) * left.shape[1] ** -0.5
        to_left, to_right = scores.softmax(3), scores.mT.softmax(3)  # (b, h, w, w): rows of weights that sum to 1
        found = []
        for view, other, there, back in ((left, right, to_left, to_right), (right, left, to_right, to_left)):
            near = F.avg_pool2d(there, (2 * self.relax + 1, 1), stride=1, padding=(self.relax, 0)) * (
                2 * self.relax + 1
            )
            seen = torch.tanh(5 * (near * back.mT).sum(3)).unsqueeze(1)  # (b, 1, h, w), 5 as published
            taken = torch.einsum("bhij,bchj->bchi", there, other)
            found.append(view + self.fuse(torch.cat((seen * taken + (1 - seen) * view, view), 1)) * self.beta)
        return found[0], found[1]
