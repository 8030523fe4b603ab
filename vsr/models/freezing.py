"""Which parameters train at which step."""

import logging
from collections.abc import Iterable, Sequence

from torch import nn

from vsr.config import FreezeOptions
from vsr.optim import check_parts

log = logging.getLogger(__name__)


class Freezing:
    """Freezes parts of a network as ``train.freeze`` says, as a function of the step and of nothing else.

    A frozen parameter gets no gradient, hence neither an update nor optimiser state.

    Args:
        network: What trains.
        options: None: everything trains, always.

    Raises:
        ValueError: a name is part of no parameter's name, everything or nothing would be frozen, or ``until`` is
            no step.
    """

    def __init__(self, network: nn.Module, options: FreezeOptions | None) -> None:
        self.until: int | None = None
        self._pretrained = options is not None and options.pretrained
        self._parameters = {}
        self._frozen = False
        if options is None:
            return
        parameters = dict(network.named_parameters())
        parts = check_parts(options.parts, parameters, "train.freeze.parts")
        kept = check_parts(options.except_, parameters, "train.freeze.except")
        self.until = options.until
        self._parameters = {
            name: parameter
            for name, parameter in parameters.items()
            if (not parts or _has(name, parts)) and not _has(name, kept)
        }
        if options.until is not None and options.until < 1:
            raise ValueError(f"train.freeze.until: expected the first step that trains all, got {options.until}.")
        if len(self._parameters) in (0, len(parameters)):
            what = "nothing to be frozen" if not self._parameters else "everything to be frozen, nothing trained"
            raise ValueError(
                f"train.freeze: expected some parameters to train and others not, but parts {parts} and except {kept} "
                f"leave {what}. Name other parts, or leave it out."
            )

    def frozen(self, step: int) -> bool:
        """Whether the parts that the options name are frozen in step ``step``, from 1."""
        return bool(self._parameters) and (self.until is None or step < self.until)

    def check_loaded(self, names: Iterable[str], source: str) -> None:
        """Raise ValueError unless the checkpoint ``source`` held all that is frozen, where ``pretrained`` says so."""
        missing = self._parameters.keys() - set(names)
        if missing and self._pretrained:
            raise ValueError(
                f"{source}: expected all {len(self._parameters)} tensors that train.freeze keeps as they are, found "
                f"none that fits for {len(missing)}, such as {min(missing)}. Start from a network of the same "
                "arguments, or let all of it train (train.mode: scratch)."
            )

    def apply(self, step: int) -> bool:
        """Set what needs a gradient in step ``step``; return whether that has changed since the last call."""
        frozen = self.frozen(step)
        changed, self._frozen = frozen != self._frozen, frozen
        if changed:
            for parameter in self._parameters.values():
                parameter.requires_grad_(not frozen)
            log.info(
                "step %d: %d tensors of network_g %s%s", step, len(self._parameters),
                "are frozen" if frozen else "train now, too",
                f" until step {self.until}" if frozen and self.until else "",
            )  # fmt: skip
        return changed


def _has(name: str, parts: Sequence[str]) -> bool:
    return any(part in name for part in parts)
