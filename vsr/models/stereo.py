"""Restoration of stereo pairs."""

import itertools
import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsr.config import Options
from vsr.models.restoration import Batch, Pictures, RestorationModel
from vsr.registry import MODELS

log = logging.getLogger(__name__)


@MODELS.register
class StereoModel(RestorationModel):
    """Networks that map the two views of a pair, (b, 6, h, w), left one first, to ``scale`` times their size.

    Image networks work here, too: each view is restored by itself. A pair's metrics are the means over its views.
    Metrics of pairs as a whole get the true disparity where the data set has it; a pair for which one of them has no
    finite value has no entry of it in its record, so that the others keep their mean.
    """

    of_pairs = True

    def __init__(self, *, options: Options, device: torch.device, train: bool = True) -> None:
        super().__init__(options=options, device=device, train=train)
        for metric in self.metrics.values():
            if not (metric.left_only or getattr(metric, "of_pairs", False)):
                metric.definition += ", mean of both views"

    @property
    def sees_both(self) -> bool:
        """Whether the network takes both views at a time."""
        return getattr(self.network_g, "kind", "") == "stereo"

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        shape = tuple(sample["lq"].shape)
        if len(shape) != 3 or shape[0] != 6:
            raise ValueError(
                f"{where}.type: expected a data set of stereo pairs (6, h, w) for model_type StereoModel, "
                f"got samples of {shape}. Use PairedStereoImageDataset, or model_type: ImageModel."
            )
        temporal = getattr(self.network_g, "temporal", "image")
        if temporal != "image":
            raise ValueError(
                f"network_g.type: expected a network of stereo pairs or of single images for model_type StereoModel, "
                f"got {self.options.network_g.type} ({temporal}). Use NAFSSR, or model_type: VideoModel."
            )
        super().check_sample(sample, where, train=train)

    def prepare(self, batch: Batch) -> dict[str, Any]:
        """As RestorationModel.prepare, but for the true disparity: metrics read that on the host."""
        return super().prepare({name: part for name, part in batch.items() if name != "disparity"})

    def _measure(
        self, restored: np.ndarray, target: np.ndarray, before: Pictures | None, batch: Batch
    ) -> dict[str, float]:
        """Return the values of a pair; metrics of pairs that have none, or an infinite one, are left out and told."""
        values = super()._measure(restored, target, before, batch)
        for name in [name for name, metric in self.metrics.items() if getattr(metric, "of_pairs", False)]:
            if not math.isfinite(values[name]):
                log.warning("%s: %s is %s; the pair is left out of its mean", batch["key"][0], name, values.pop(name))
        return values

    def measured(self, metric: Any, restored: np.ndarray, target: np.ndarray, batch: Batch) -> float:
        if not getattr(metric, "of_pairs", False):
            return super().measured(metric, restored, target, batch)
        known = batch.get("disparity")
        return float(metric.measure(restored, target, None if known is None else known[0].numpy()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.sees_both:
            return super().forward(batch)
        return {"restored": _joined(self.parallel(_apart(batch["lq"])))}

    def restore(self, batch: Batch) -> Tensor:
        """As RestorationModel.restore; the self-ensemble is of the four flips that keep a pair's geometry."""
        val = self.options.val
        if not self.sees_both:
            return _joined(self._restored(_apart(batch["lq"]), self_ensemble=val.self_ensemble))
        if not val.self_ensemble:
            return self._restored(batch["lq"], self_ensemble=False)
        flips = list(itertools.product((False, True), repeat=2))
        views = [_flipped(self._restored(_flipped(batch["lq"], *f), self_ensemble=False), *f) for f in flips]
        return torch.stack(views).mean(0)


def _apart(pairs: Tensor) -> Tensor:
    """Turn pairs (b, 6, h, w) into images (2b, 3, h, w), all left ones first."""
    return torch.cat(pairs.chunk(2, 1))


def _joined(views: Tensor) -> Tensor:
    """Undo ``_apart``."""
    return torch.cat(views.chunk(2), 1)


def _flipped(pairs: Tensor, horizontal: bool, vertical: bool) -> Tensor:
    """Flip pairs (b, 6, h, w) as pairs: mirrored views change places. Done twice it is undone."""
    if horizontal:
        pairs = pairs.roll(3, 1).flip(-1)
    return pairs.flip(-2) if vertical else pairs
