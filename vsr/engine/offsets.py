"""What a run says, or does, when its deformable layers reach too far."""

import logging
from pathlib import Path

from vsr.engine import checkpoint
from vsr.models.restoration import RestorationModel

log = logging.getLogger(__name__)


def judge_offsets(model: RestorationModel, states: Path, step: int) -> int:
    """Warn of offsets beyond train.offset_watch.limit since the last call, or stop the run; waits for the device.

    Args:
        model: In training; called by every process.
        states: The run's training states: the message names the newest from before it began, where it stops.
        step: Steps done.

    Returns:
        The first step with such offsets if train.offset_watch.action is 'roll_back', and there was one; else 0.

    Raises:
        RuntimeError: offsets are beyond the limit, and train.offset_watch.action is 'stop'.
    """
    beyond, first = model.offsets.exceeded()
    options = model.offsets.options
    if not beyond or options is None:
        return 0
    layer, value = next(iter(beyond.items()))
    others = f" (and {len(beyond) - 1} more layers)" if len(beyond) > 1 else ""
    dropped = "; these steps change nothing" if options.action == "skip" else ""
    source = "from an earlier state (path.resume_state) by --force"
    if options.action == "stop":  # only then: every state is read to be sure that it is whole
        good = checkpoint.newest_valid(states, before=first)
        source = "anew (--fresh): there is no state from before that"
        if good:
            source = f"from {good} (path.resume_state) by --force"
    part = "dcn" if "dcn" in layer else layer
    text = (
        f"step {step}: the offsets of {layer}{others} reach {value:.4g} pixels in the mean, more than "
        f"train.offset_watch.limit: {options.limit:g}, since step {first}{dropped}. Such a run mostly diverges: "
        f"lower the rate of these layers (train.lr_mul: {{{part}: 0.1}}) or of all (train.optim_g.lr), warm up "
        f"(train.warmup_iter), and continue {source}."
    )
    if options.action == "stop":
        raise RuntimeError(text)
    log.warning("%s", text)
    return first if options.action == "roll_back" else 0
