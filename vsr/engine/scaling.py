"""Numbers of steps that follow the batch: half the samples a step, twice the steps."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsr.config import Component, Options, TrainOptions, ValOptions

log = logging.getLogger(__name__)

# Arguments of schedulers that are numbers of steps, alone or in lists.
_STEPS = ("periods", "milestones", "restarts", "T_max", "total_iter")


def scale_iterations(options: Options, samples: int) -> Options:
    """Return the options with their numbers of training steps as ``samples`` a step need them.

    Without ``train.reference_batch`` they stay as they are. With it the factor is told; ``train.scale_iterations``
    applies it to total_iter, warmup_iter, net_d_init_iters, freeze.until and the scheduler's periods, milestones and
    restarts, and to val.val_at, which names places in the run. How often a run validates and saves stays: that is a
    matter of time, not of samples.

    Args:
        options: As the file has them.
        samples: That all processes together take for one step.
    """
    train = options.train
    if train is None or train.reference_batch is None or train.reference_batch == samples:
        return options
    factor = train.reference_batch / samples
    if not train.scale_iterations:
        log.warning(
            "a step takes %d samples, and the numbers of steps are meant for %d (train.reference_batch): for equal "
            "training multiply them by %.4g (total_iter: %d); train.scale_iterations: true does",
            samples, train.reference_batch, factor, round(train.total_iter * factor),
        )  # fmt: skip
        return options
    scaled, val = _scaled(train, options.val, factor)
    log.info(
        "train.scale_iterations: %d samples a step in place of %d: numbers of steps are multiplied by %.4g "
        "(total_iter: %d in place of %d)",
        samples, train.reference_batch, factor, scaled.total_iter, train.total_iter,
    )  # fmt: skip
    return replace(options, train=scaled, val=val)


def _scaled(train: TrainOptions, val: ValOptions, factor: float) -> tuple[TrainOptions, ValOptions]:
    def steps(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [steps(entry) for entry in value]
        return max(1, round(value * factor)) if value > 0 else value  # 0 and -1 mean 'at once' and 'never'

    def arguments(args: Mapping[str, Any]) -> dict[str, Any]:
        return {key: steps(value) if key in _STEPS else value for key, value in args.items()}

    scheduler, freeze = train.scheduler, train.freeze
    if scheduler is not None:
        scheduler = Component(type=scheduler.type, args=arguments(scheduler.args))
    if freeze is not None and freeze.until is not None:
        freeze = replace(freeze, until=steps(freeze.until))
    train = replace(
        train,
        total_iter=steps(train.total_iter),
        warmup_iter=steps(train.warmup_iter),
        net_d_init_iters=steps(train.net_d_init_iters),
        scheduler=scheduler,
        freeze=freeze,
    )
    return train, replace(val, val_at=steps(val.val_at))
