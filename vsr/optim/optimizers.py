"""Optimisers by the names of the option file, and the groups that their parameters form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vsr.registry import OPTIMIZERS, suggest

Groups = Iterable[dict[str, Any]]
Named = Iterable[tuple[str, nn.Parameter]]


def check_parts(parts: Sequence[str] | str, names: Iterable[str], option: str) -> list[str]:
    """Return the parts of parameters' names that an option gives, one or several, as a list.

    Args:
        parts: 'tsa', say, for all that have it in their name.
        names: Of the network's parameters.
        option: Where the parts stand, for the message.

    Raises:
        ValueError: no parameter has such a part.
    """
    names = list(names)
    parts = [parts] if isinstance(parts, str) else list(parts)
    for part in parts:
        if not (part and any(part in name for name in names)):
            words = {word for name in names for word in name.split(".") if not word.isdigit()}
            raise ValueError(f"{option}: expected a part of a parameter's name, got '{part}'.{suggest(part, words)}")
    return parts


def build_optimizer(
    option: Mapping[str, Any],
    named_parameters: Named,
    lr_mul: Mapping[str, float],
    *,
    slowed: Iterable[tuple[Sequence[str], float]] = (),
) -> torch.optim.Optimizer:
    """Build ``{"type": name, "lr": ..., **arguments}`` over parameters grouped by what sets their rate.

    Each part of ``lr_mul`` makes a group, and what matches none another one, 'others'; equal factors do not join them.
    A group keeps the part as ``group["name"]`` and its factor as ``group["lr_mul"]``; before a step the caller sets
    ``group["lr"] = schedule(step) * group["lr_mul"]``. Frozen parameters belong to their group too: without a gradient
    they get neither an update nor state.

    Args:
        option: An optimiser as in an option file.
        named_parameters: Of the network.
        lr_mul: Part of a parameter's name -> factor; of several parts that match, the longest counts.
        slowed: (parts of names, factor): further factors, all of which count, on what has one of the parts; it is
            then a group of its own.

    Raises:
        ValueError: a part matches no parameter, or an argument is unknown or out of range.
    """
    parameters = dict(named_parameters)
    if not parameters:
        raise ValueError("named_parameters: expected at least one, got none. The network has nothing to train")
    check_parts(list(lr_mul), parameters, "lr_mul")
    for part, factor in lr_mul.items():
        if not 0 <= factor < math.inf:
            raise ValueError(f"lr_mul.{part}: expected a finite factor >= 0, got {factor}")
    lr = option.get("lr", 0.0)
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr: expected a finite number >= 0, got {lr}")
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        part = max((p for p in lr_mul if p in name), key=len, default="")
        further = math.prod(f for parts, f in slowed if any(part in name for part in parts))
        factor = (float(lr_mul[part]) if part else 1.0) * further
        called = (part or "others") + (f" x {further:g}" if further != 1 else "")
        group = {"params": [], "lr": lr * factor, "lr_mul": factor, "name": called}
        groups.setdefault((part, further), group)["params"].append(parameter)
    return OPTIMIZERS.build(option, params=list(groups.values()))


def state_by_name(optimizer: torch.optim.Optimizer, named_parameters: Named) -> dict[str, Any]:
    """Return the optimiser's state with ``names``: of the parameters, as it numbers them."""
    return {**optimizer.state_dict(), "names": _names(optimizer, named_parameters)}


def load_by_name(optimizer: torch.optim.Optimizer, named_parameters: Named, state: Mapping[str, Any]) -> None:
    """Give parameters the moments that those of their names had; settings and groups stay the optimiser's own.

    Args:
        state: Of ``state_by_name``; or, without names, of an optimiser with a group for each factor, of the same ones.

    Raises:
        ValueError: there are neither names nor the same factors.
    """
    parameters = dict(named_parameters)
    names = _names(optimizer, parameters.items())
    then = state["names"] if "names" in state else _names_by_factor(optimizer, parameters, state)
    moments = {names.index(name): state["state"].get(i) for i, name in enumerate(then)}
    moments = {number: moment for number, moment in moments.items() if moment is not None}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _names_by_factor(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Any]
) -> list[str]:
    """Return the parameters' names in the order of a state without names, from when a group was all of one factor."""
    factors = {p: group["lr_mul"] for group in optimizer.param_groups for p in group["params"]}
    known = list(dict.fromkeys(factors[parameter] for parameter in parameters.values()))
    if [group["lr_mul"] for group in state["param_groups"]] != known:
        raise ValueError(
            f"expected the parameter groups of train.lr_mul, {known}: it was written before states knew the "
            "names of parameters. Keep lr_mul as it was."
        )
    return [name for factor in known for name, parameter in parameters.items() if factors[parameter] == factor]


def _names(optimizer: torch.optim.Optimizer, named_parameters: Named) -> list[str]:
    """Return the parameters' names in the order in which the optimiser numbers them: group by group."""
    names = {parameter: name for name, parameter in named_parameters}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


@OPTIMIZERS.register
def Adam(  # noqa: N802
    *,
    params: Groups,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, ICLR 2015); ``weight_decay`` is added to the gradient."""
    return torch.optim.Adam(
        params, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=True
    )


@OPTIMIZERS.register
def AdamW(  # noqa: N802
    *,
    params: Groups,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam whose weight decay acts on the weights (Loshchilov and Hutter, ICLR 2019)."""
    return torch.optim.AdamW(
        params, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=True
    )


@OPTIMIZERS.register
def SGD(  # noqa: N802
    *,
    params: Groups,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    optimizer = torch.optim.SGD(
        params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
    )
    if momentum:
        # The fused kernel leaves the buffer of a first step that it skips (found_inf) uninitialised.
        # Zeros give the same first update, as there is no dampening.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ValueError(f"betas: expected two numbers, got {list(betas)}")
    return betas[0], betas[1]
