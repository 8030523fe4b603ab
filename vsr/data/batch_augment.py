"""Augmentation of whole batches on the device: Mixup, CutMix, CutBlur, channel shuffling.

A batch holds float images ``lq`` (b, ..., 3, h, w) and ``gt`` (b, ..., 3, s*h, s*w). What is drawn are a few numbers
on the host; pixels stay on the device. Draws are a function of (seed, step, rank) and so the same after a resume.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.data.stage import check_prob, check_range
from vsr.registry import BATCH_AUGMENTS

Rng = np.random.Generator


class BatchAugment:
    """One augmentation of a batch.

    Attributes:
        prob: How probable it is that it acts on a batch.
        mixes: It needs other samples of the batch.
    """

    prob: float
    mixes = False

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@BATCH_AUGMENTS.register
class Mixup(BatchAugment):
    """Each sample becomes a weighted mean of itself and another one: m x + (1 - m) y, m one for the batch.

    Source: Zhang et al., mixup (ICLR 2018); Restormer and NAFNet call alpha mixup_beta.

    Args:
        alpha: m is drawn from Beta(alpha, alpha).
        prob: How probable it is that a batch is mixed.
    """

    mixes = True

    def __init__(self, *, alpha: float = 1.2, prob: float = 1.0) -> None:
        check_range("alpha", (alpha, alpha), above=0)
        self.alpha, self.prob = alpha, check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        share, other = float(rng.beta(self.alpha, self.alpha)), _partners(rng, lq)
        return torch.lerp(lq[other], lq, share), torch.lerp(gt[other], gt, share)


@BATCH_AUGMENTS.register
class CutMix(BatchAugment):
    """A rectangle of each sample, the same in all, is replaced by that of another sample.

    Source: Yun et al., CutMix (ICCV 2019); for restoration Yoo et al. (CVPR 2020).

    Args:
        alpha: 1 - (share of the rectangle's area) is drawn from Beta(alpha, alpha).
        prob: How probable it is that a batch is mixed.
    """

    mixes = True

    def __init__(self, *, alpha: float = 1.0, prob: float = 1.0) -> None:
        check_range("alpha", (alpha, alpha), above=0)
        self.alpha, self.prob = alpha, check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        side = float(np.sqrt(1 - rng.beta(self.alpha, self.alpha)))
        mask, other = _rectangle(rng, lq, side), _partners(rng, lq)
        return torch.where(mask, lq[other], lq), torch.where(_enlarged(mask, gt, lq), gt[other], gt)


@BATCH_AUGMENTS.register
class CutMixup(BatchAugment):
    """A rectangle of each sample, or all but it, becomes a weighted mean of itself and another sample.

    Source: Yoo et al. (CVPR 2020).

    Args:
        alpha: 1 - (share of the rectangle's area) is drawn from Beta(alpha, alpha).
        mixup_alpha: The weight, one for the batch, is drawn from Beta(mixup_alpha, mixup_alpha).
        prob: How probable it is that a batch is mixed.
    """

    mixes = True

    def __init__(self, *, alpha: float = 1.0, mixup_alpha: float = 1.2, prob: float = 1.0) -> None:
        check_range("alpha", (alpha, alpha), above=0)
        check_range("mixup_alpha", (mixup_alpha, mixup_alpha), above=0)
        self.alpha, self.mixup_alpha, self.prob = alpha, mixup_alpha, check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        side = float(np.sqrt(1 - rng.beta(self.alpha, self.alpha)))
        share = float(rng.beta(self.mixup_alpha, self.mixup_alpha))
        mask, other = _rectangle(rng, lq, side), _partners(rng, lq)
        if rng.random() < 0.5:
            mask = ~mask
        mixed_lq, mixed_gt = torch.lerp(lq[other], lq, share), torch.lerp(gt[other], gt, share)
        return torch.where(mask, mixed_lq, lq), torch.where(_enlarged(mask, gt, lq), mixed_gt, gt)


@BATCH_AUGMENTS.register
class CutBlur(BatchAugment):
    """A rectangle of LQ, or all but it, is replaced by GT, reduced to LQ's size: where nothing is to be mended.

    For data whose LQ is more than GT reduced (blur, noise, compression); LQ that is just that hardly changes.
    Source: Yoo et al. (CVPR 2020).

    Args:
        alpha: Side of the rectangle as a share of the image's, drawn from a normal distribution of width 0.01
            around this.
        prob: How probable it is that a batch is changed.
    """

    def __init__(self, *, alpha: float = 0.7, prob: float = 1.0) -> None:
        check_range("alpha", (alpha, alpha), above=0, most=1)
        self.alpha, self.prob = alpha, check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        if gt.dim() != lq.dim():
            raise ValueError(
                "train.batch_augment: expected a GT frame for each LQ frame for CutBlur, got windows with one. "
                "Use a VideoRecurrent... data set, or leave it out."
            )
        mask = _rectangle(rng, lq, float(np.clip(self.alpha + 0.01 * rng.standard_normal(), 0, 1)))
        if rng.random() < 0.5:
            mask = ~mask
        return torch.where(mask, _reduced(gt, lq), lq), gt


@BATCH_AUGMENTS.register
class RGBShuffle(BatchAugment):
    """Exchange the colour channels, in one order for LQ and GT, all frames and both views of a batch.

    Args:
        prob: How probable it is that a batch is changed.
    """

    def __init__(self, *, prob: float = 1.0) -> None:
        self.prob = check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        order = torch.from_numpy(rng.permutation(3)).to(lq.device)
        return _reordered(lq, order), _reordered(gt, order)


def build_batch_augments(options: Sequence[Mapping[str, Any]], *, batch_size: int | None) -> list[BatchAugment]:
    """Build the augmentations of ``train.batch_augment``.

    Args:
        options: Each a ``type`` and its arguments.
        batch_size: Samples of a batch; None: not known.

    Raises:
        ValueError: one is unknown, has a wrong argument, or has nothing to mix.
    """
    augments: list[BatchAugment] = []
    for number, option in enumerate(options):
        try:
            augments.append(BATCH_AUGMENTS.build(option))
        except ValueError as error:
            raise ValueError(f"train.batch_augment[{number}]: {error}") from error
        if augments[-1].mixes and batch_size == 1:
            raise ValueError(
                f"datasets.train.batch_size_per_gpu: expected 2 or more for {option['type']} (train.batch_augment), "
                "got 1: there is nothing to mix a sample with. Raise it, or leave the augmentation out."
            )
    return augments


def augment_batch(augments: Sequence[BatchAugment], batch: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return a batch with new ``lq`` and ``gt``, a function of ``seeds`` and of the batch alone."""
    result = dict(batch)
    for number, augment in enumerate(augments):
        rng = np.random.default_rng([*seeds, number])
        if rng.random() < augment.prob:
            result["lq"], result["gt"] = augment.apply(result["lq"], result["gt"], rng)
    return result


def _partners(rng: Rng, lq: Tensor) -> Tensor:
    return torch.from_numpy(rng.permutation(lq.shape[0])).to(lq.device, non_blocking=True)


def _rectangle(rng: Rng, lq: Tensor, side: float) -> Tensor:
    """Return a mask (h, w), True within a rectangle around a random point, cut at the borders; sides are shares."""
    mask = torch.zeros(lq.shape[-2:], dtype=torch.bool)
    spans = []
    for length in mask.shape:
        centre, half = int(rng.integers(length)), side * length / 2
        spans.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
    mask[spans[0], spans[1]] = True
    return mask.to(lq.device, non_blocking=True)


def _enlarged(mask: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
    scale = gt.shape[-1] // lq.shape[-1]
    return mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def _reduced(gt: Tensor, lq: Tensor) -> Tensor:
    if gt.shape == lq.shape:
        return gt
    flat = F.interpolate(gt.flatten(0, -4), size=lq.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    return flat.clamp(0, 1).reshape(lq.shape)


def _reordered(images: Tensor, order: Tensor) -> Tensor:
    """Reorder channels (dimension -3), by threes."""
    return images.unflatten(-3, (-1, 3)).index_select(-3, order).flatten(-4, -3)
