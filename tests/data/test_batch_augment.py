"""Augmentation of batches: what is mixed with what, in LQ as in GT; seeds."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.data.batch_augment import CutBlur, CutMix, CutMixup, Mixup, RGBShuffle, augment_batch, build_batch_augments


def batch(*, scale: int = 2, frames: int = 0, gt_frames: int = 0, count: int = 4, size: int = 12) -> dict[str, Any]:
    """A batch whose GT is LQ, each pixel repeated."""
    shape = (count, *((frames,) if frames else ()), 3, size, size)
    lq = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    gt = lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return {"lq": lq, "gt": gt if frames == gt_frames else gt[:, frames // 2], "key": ["a"] * count}


def enlarged(lq: Tensor, scale: int = 2) -> Tensor:
    return lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


@pytest.mark.parametrize(
    "stages", [[Mixup()], [CutMix()], [CutMixup()], [RGBShuffle()], [RGBShuffle(), CutMix(), Mixup()]]
)
@pytest.mark.parametrize(("frames", "gt_frames"), [(0, 0), (3, 3)])
def test_lq_and_gt_are_changed_alike(stages: list[Any], frames: int, gt_frames: int) -> None:
    before = batch(frames=frames, gt_frames=gt_frames)
    changed = 0
    for step in range(8):
        after = augment_batch(stages, before, (0, step, 0))
        torch.testing.assert_close(enlarged(after["lq"]), after["gt"])
        changed += not torch.equal(after["lq"], before["lq"])
    assert changed >= 5  # an order, or partners, may be drawn that change nothing


def test_a_window_is_changed_with_its_centre_frame() -> None:
    before = batch(frames=3, gt_frames=0)
    for stage in (Mixup(), CutMix(), CutMixup(), RGBShuffle()):
        after = augment_batch([stage], before, (3, 1, 0))
        torch.testing.assert_close(enlarged(after["lq"][:, 1]), after["gt"])


def test_what_is_drawn_depends_on_seed_step_and_rank_alone() -> None:
    before = batch()
    results = [augment_batch([Mixup()], before, seeds)["lq"] for seeds in ((1, 2, 0), (1, 2, 0), (1, 3, 0), (1, 2, 1))]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


def test_mixup_is_a_weighted_mean_with_one_weight_of_the_beta_distribution() -> None:
    lq = torch.eye(6).reshape(6, 6, 1, 1)  # sample i is the i-th unit vector: a mean shows its parts
    rng = np.random.default_rng(0)
    weights = []
    for _ in range(400):
        mixed, same = Mixup(alpha=1.2).apply(lq, lq, rng)
        assert torch.equal(mixed, same)
        mixed = mixed[..., 0, 0]
        torch.testing.assert_close(mixed.sum(1), torch.ones(6))
        own = mixed.diagonal()
        unmixed = own > 1 - 1e-6  # a sample may be its own partner
        if not unmixed.all():
            assert own[~unmixed].max() - own[~unmixed].min() < 1e-6
            weights.append(float(own[~unmixed][0]))
    assert np.mean(weights) == pytest.approx(0.5, abs=0.05)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * 1.2 + 1)), rel=0.2)  # of Beta(a, a)


def test_cutmix_exchanges_one_rectangle_of_the_expected_area() -> None:
    lq = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 40, 40).clone()
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        mixed, _ = CutMix(alpha=1.0).apply(lq, lq, rng)
        moved = (mixed != lq)[:, 0]
        rows, columns = moved.any(0).any(1), moved.any(0).any(0)
        box = rows[:, None] & columns
        for sample in moved:
            assert torch.equal(sample, box) or not sample.any()
        if moved.any():
            assert rows.nonzero().numel() == rows.nonzero().max() - rows.nonzero().min() + 1  # in one piece
            shares.append(float(box.float().mean()))
    assert 0.25 < np.mean(shares) < 0.5  # a half, less what is cut at the borders


def test_cutmixup_mixes_inside_or_outside_one_rectangle_by_a_weight_of_the_beta_distribution() -> None:
    parts = torch.eye(5)  # sample i is the i-th unit vector: a mean shows its parts
    lq = parts[..., None, None].expand(5, 5, 20, 20).clone()
    rng = np.random.default_rng(0)
    inside, weights = [], []
    for _ in range(300):
        mixed, _ = CutMixup(mixup_alpha=1.2).apply(lq, lq, rng)
        changed = (mixed != lq).any(1).any(0)
        if not changed.any() or changed.all():
            continue
        # what is left, or what is changed, is a rectangle; all changed pixels are of two samples, by one weight
        boxes = [bool(torch.equal(part, part.any(1)[:, None] & part.any(0))) for part in (changed, ~changed)]
        assert any(boxes)
        inside.append(boxes[0] and not boxes[1])
        own = []
        for number, sample in enumerate(mixed):
            found = sample[:, changed]
            assert torch.equal(found, found[:, :1].expand_as(found))
            if not torch.equal(found[:, 0], parts[number]):  # it may be its own partner
                assert (found[:, 0] > 0).sum() == 2
                assert float(found[:, 0].sum()) == pytest.approx(1)
                own.append(float(found[number, 0]))
        assert max(own) - min(own) < 1e-6
        weights.append(own[0])
    assert 0.3 < np.mean(inside) < 0.7
    assert np.mean(weights) == pytest.approx(0.5, abs=0.05)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * 1.2 + 1)), rel=0.2)  # of Beta(a, a)


@pytest.mark.parametrize("scale", [1, 2])
def test_cutblur_puts_gt_into_lq_inside_or_outside_a_rectangle(scale: int) -> None:
    before = batch(scale=scale, size=20)
    before["lq"] = torch.rand(before["lq"].shape)
    reduced = before["gt"] if scale == 1 else None
    inside = 0
    for step in range(40):
        after = augment_batch([CutBlur(alpha=0.5)], before, (0, step, 0))
        assert torch.equal(after["gt"], before["gt"])
        replaced = (after["lq"] != before["lq"]).any(1)
        assert all(torch.equal(replaced[0], other) for other in replaced)
        if reduced is not None:
            mask = replaced[:, None].expand_as(reduced)
            assert torch.equal(after["lq"][mask], reduced[mask])
        inside += float(replaced[0].float().mean()) < 0.5
    assert 10 < inside < 30


def test_channels_are_exchanged_in_one_order_for_both_views_and_all_frames() -> None:
    lq = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 4, 4)
    orders = set()
    for step in range(60):
        after = augment_batch([RGBShuffle()], {"lq": lq, "gt": lq}, (0, step))
        values = after["lq"][0, :, 0, 0].tolist()
        assert [value - 3 for value in values[3:]] == values[:3]
        orders.add(tuple(values[:3]))
    assert len(orders) == 6


def test_an_augmentation_acts_by_its_probability() -> None:
    before = batch()
    acted = [not torch.equal(augment_batch([Mixup(prob=0.3)], before, (0, i))["lq"], before["lq"]) for i in range(400)]
    assert 80 < sum(acted) < 150
    assert augment_batch([], before, (0, 1)) == before


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ([{"type": "MixUp"}], 4, r"train.batch_augment\[0\]: unknown batch augmentation 'MixUp'. Did you mean 'Mixup'"),
        ([{"type": "Mixup", "alpha": 0}], 4, r"train.batch_augment\[0\]: alpha: expected more than 0, got 0"),
        ([{"type": "CutBlur", "alpha": 2}], 4, "alpha: expected 1 or less, got 2"),
        ([{"type": "CutMix", "prob": -1}], 4, "prob: expected a probability, 0 to 1, got -1"),
        ([{"type": "CutMixup", "mixup_alpha": 0}], 4, "mixup_alpha: expected"),
        ([{"type": "Mixup"}], 1, r"datasets.train.batch_size_per_gpu: expected 2 or more for Mixup"),
    ],
)
def test_wrong_settings_are_refused(options: list[dict[str, Any]], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_batch_augments(options, batch_size=size)


def test_cutblur_refuses_windows_with_one_gt_frame() -> None:
    with pytest.raises(ValueError, match="expected a GT frame for each LQ frame for CutBlur"):
        augment_batch([CutBlur()], batch(frames=3, gt_frames=0), (0,))
