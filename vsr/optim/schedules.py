"""Learning rates as pure functions: schedule(step) -> learning rate, for steps counted from 1.

There is no state, so a resumed run has the rate of an uninterrupted one. The rate of step n is what
the official schedulers give after n - 1 updates.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from vsr.registry import SCHEDULERS

Schedule = Callable[[int], float]


def build_schedule(option: Mapping[str, Any] | None, base_lr: float, warmup_iter: int = -1) -> Schedule:
    """Build ``{"type": name, **arguments}``; None or {} keeps the rate constant.

    Args:
        option: A scheduler as in an option file.
        base_lr: The optimiser's learning rate.
        warmup_iter: Before this step the rate is base_lr * step / warmup_iter; -1: no warm-up.

    Raises:
        ValueError: an argument is unknown or out of range.
    """
    if not (math.isfinite(base_lr) and base_lr >= 0):
        raise ValueError(f"lr: expected a finite number >= 0, got {base_lr}")
    if warmup_iter < -1:
        raise ValueError(f"warmup_iter: expected a number of steps, or -1 for none, got {warmup_iter}")
    if option and "base_lr" in option:
        raise ValueError(f"{option.get('type')}: 'base_lr' is the optimiser's lr. Set optim_g.lr instead")
    schedule: Schedule = SCHEDULERS.build(option or {"type": "ConstantLR"}, base_lr=base_lr)
    return _Warmup(schedule=schedule, base_lr=base_lr, steps=warmup_iter) if warmup_iter > 1 else schedule


@dataclass(frozen=True, kw_only=True)
class _Warmup:
    """A rise from 0 up to, not including, step ``steps``; from there on ``schedule``, which was running meanwhile."""

    schedule: Schedule
    base_lr: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.base_lr / self.steps * step if step < self.steps else self.schedule(step)


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class ConstantLR:
    """The rate stays at ``base_lr``."""

    base_lr: float

    def __call__(self, step: int) -> float:
        return self.base_lr


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class MultiStepRestartLR:
    """At each milestone the rate is multiplied by ``gamma``, at each restart set anew.

    Args:
        base_lr: Learning rate of the first step.
        milestones: Steps after which the rate drops; one named twice drops it twice.
        gamma: Factor of a drop.
        restarts: Steps after which the rate becomes base_lr times its restart weight. A milestone
            at the same place is passed over.
        restart_weights: One for each restart.
    """

    base_lr: float
    milestones: Sequence[int]
    gamma: float = 0.1
    restarts: Sequence[int] = (0,)
    restart_weights: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        _check("milestones", "steps >= 0", self.milestones, all(m >= 0 for m in self.milestones))
        _check("gamma", "a number > 0", self.gamma, 0 < self.gamma < math.inf)
        ascending = all(a < b for a, b in zip(self.restarts, self.restarts[1:], strict=False))
        _check("restarts", "ascending steps >= 0", self.restarts, ascending and all(r >= 0 for r in self.restarts))
        _check_weights(self.restart_weights, len(self.restarts), "restarts")

    def __call__(self, step: int) -> float:
        done = step - 1
        position = bisect_right(self.restarts, done) - 1
        restart, weight = (self.restarts[position], self.restart_weights[position]) if position >= 0 else (-1, 1.0)
        return self.base_lr * weight * self.gamma ** sum(restart < m <= done for m in self.milestones)


@SCHEDULERS.register
def MultiStepLR(*, base_lr: float, milestones: Sequence[int], gamma: float = 0.1) -> MultiStepRestartLR:  # noqa: N802
    """At each milestone the rate is multiplied by ``gamma``; arguments as in MultiStepRestartLR."""
    return MultiStepRestartLR(base_lr=base_lr, milestones=milestones, gamma=gamma)


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class CosineAnnealingRestartLR:
    """Half a cosine from weight * base_lr down to ``eta_min`` in each period; afterwards it stays there.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017 (arXiv:1608.03983), with a weight for each restart.

    Args:
        base_lr: Learning rate at the top.
        periods: Lengths in steps.
        restart_weights: Height of each period, one a period.
        eta_min: The lowest rate.
    """

    base_lr: float
    periods: Sequence[int]
    restart_weights: Sequence[float] = (1.0,)
    eta_min: float = 0.0
    ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check("periods", "at least one, each > 0", self.periods, bool(self.periods) and min(self.periods) > 0)
        _check_weights(self.restart_weights, len(self.periods), "periods")
        _check_eta_min(self.eta_min)
        object.__setattr__(self, "ends", tuple(accumulate(self.periods)))

    def __call__(self, step: int) -> float:
        index, height = _height(step, self.periods, self.ends)
        return self.eta_min + self.restart_weights[index] * 0.5 * (self.base_lr - self.eta_min) * height


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class CosineAnnealingRestartCyclicLR:
    """CosineAnnealingRestartLR with a lowest rate for each period.

    Source: Restormer's code (Zamir et al., CVPR 2022), whose first period only lowers the rate a little.

    Args:
        base_lr: Learning rate at the top.
        periods: Lengths in steps.
        restart_weights: Height of each period, one a period.
        eta_mins: The lowest rate of each period, one a period.
    """

    base_lr: float
    periods: Sequence[int]
    restart_weights: Sequence[float] = (1.0,)
    eta_mins: Sequence[float] = (0.0,)
    ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check("periods", "at least one, each > 0", self.periods, bool(self.periods) and min(self.periods) > 0)
        _check_weights(self.restart_weights, len(self.periods), "periods")
        wanted = f"{len(self.periods)} numbers, one for each of periods"
        _check("eta_mins", wanted, self.eta_mins, len(self.eta_mins) == len(self.periods))
        for eta_min in self.eta_mins:
            _check_eta_min(eta_min)
        object.__setattr__(self, "ends", tuple(accumulate(self.periods)))

    def __call__(self, step: int) -> float:
        index, height = _height(step, self.periods, self.ends)
        eta_min = self.eta_mins[index]
        return eta_min + self.restart_weights[index] * 0.5 * (self.base_lr - eta_min) * height


def _height(step: int, periods: Sequence[int], ends: Sequence[int]) -> tuple[int, float]:
    """Return the period that a step lies in, and 1 + the cosine there, from 2 to 0."""
    done = min(max(step - 1, 0), ends[-1])
    index = next(i for i, end in enumerate(ends) if done <= end)
    phase = (done - (ends[index] - periods[index])) / periods[index]
    return index, 1 + math.cos(math.pi * phase)


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class TrueCosineAnnealingLR:
    """A cosine from base_lr at the first step to ``eta_min`` after ``T_max`` steps; then it rises again.

    Args:
        base_lr: Learning rate at the top.
        T_max: Half a period in steps: the length of the training.
        eta_min: The lowest rate.
    """

    base_lr: float
    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        _check("T_max", "a number of steps > 0", self.T_max, self.T_max > 0)
        _check_eta_min(self.eta_min)

    def __call__(self, step: int) -> float:
        phase = (step - 1) / self.T_max
        return self.eta_min + 0.5 * (self.base_lr - self.eta_min) * (1 + math.cos(math.pi * phase))


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class LinearLR:
    """From base_lr at the first step straight to 0 after ``total_iter`` steps; then it stays 0."""

    base_lr: float
    total_iter: int

    def __post_init__(self) -> None:
        _check("total_iter", "a number of steps > 0", self.total_iter, self.total_iter > 0)

    def __call__(self, step: int) -> float:
        return self.base_lr * max(0.0, 1 - (step - 1) / self.total_iter)


@SCHEDULERS.register
@dataclass(frozen=True, kw_only=True)
class VibrateLR:
    """Triangles of total_iter // 80 steps under a falling envelope.

    The envelope falls from 1 to 0 over the first 3/8 of the training, is 0.2 up to 5/8, then 0.1. The first
    rise starts at 0.1 instead of 0. Source: NAFNet's code (VibrateLR).

    Args:
        base_lr: Learning rate under an envelope of 1.
        total_iter: Length of the training in steps, at least 160.
    """

    base_lr: float
    total_iter: int

    def __post_init__(self) -> None:
        _check("total_iter", "at least 160 steps, for triangles of two", self.total_iter, self.total_iter >= 160)

    def __call__(self, step: int) -> float:
        done = step - 1
        progress = done / self.total_iter
        envelope = 1 - progress * 8 / 3 if progress < 3 / 8 else 0.2 if progress < 5 / 8 else 0.1
        length = self.total_iter // 80
        rise = length // 2
        phase = (done % length) / rise
        height = envelope * (phase if phase < 1 else 2 - phase)
        return self.base_lr * (max(0.1, height) if done < rise else height)


def _check(name: str, expected: str, value: Any, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value}")


def _check_eta_min(eta_min: float) -> None:
    _check("eta_min", "a number >= 0", eta_min, 0 <= eta_min < math.inf)


def _check_weights(weights: Sequence[float], count: int, owners: str) -> None:
    _check("restart_weights", f"{count} numbers >= 0, one for each of {owners}", weights, len(weights) == count)
    _check("restart_weights", "numbers >= 0", weights, all(0 <= w < math.inf for w in weights))
