"""What in a step was no number, and where it came up first: the step is taken once more, with every layer watched.

A step that is skipped changes nothing, and what a step computes is a function of the weights, its batches, its number
and the rank. So the last of a row of bad steps can be repeated exactly, as long as no other one follows it, and
steps that go well pay nothing for that.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsr.models.restoration import Batch, RestorationModel

Finding = dict[str, Any]  # {"pass": "input" | "weights" | "forward" | "loss" | "backward", "where": ..., "what": ...}


def examine(model: RestorationModel, batches: Sequence[Batch], step: int) -> dict[str, Any]:
    """Take a step's forward and backward pass on this process once more, and watch the numbers.

    Nothing of it stays but the gradients, which the next step clears: the weights are not updated, running
    statistics are put back, and processes exchange nothing. In float16 the loss is scaled as it is now: if all is
    finite then, the step did no more than find the scale.

    Returns:
        ``finite``: whether input, weights, output (of every layer), loss and gradient were; ``bad_inputs``: the
        samples with numbers that are not, as {"key", "tensor"}; ``first_bad``: the first finding, None if all is
        finite. In the forward pass layers are in the order in which they were done, in the backward pass in that of
        their gradients.
    """
    bad_inputs = [bad for batch in batches for bad in _bad_samples(model.prepare(batch))]
    watch = _Watch(model)
    with watch, _alone(model):
        terms = model.accumulate(list(batches), step)
    gradients = [p.grad for network in watch.networks.values() for p in network.parameters() if p.grad is not None]
    gradients_finite = not gradients or _finite(torch.stack(torch._foreach_norm(gradients)).norm())
    losses = [name for name, value in terms.items() if not _finite(value)]
    bad_weights = _bad_weights(watch.networks)
    first: Finding | None = None
    if bad_inputs:
        first = {"pass": "input", "where": bad_inputs[0]["key"], "what": bad_inputs[0]["tensor"]}
    elif bad_weights:
        first = {"pass": "weights", "where": bad_weights[0], "what": "weights"}
    elif watch.forward:
        first = watch.forward
    elif losses:
        first = {"pass": "loss", "where": losses[0], "what": "value"}
    elif not gradients_finite:
        too_large = {"pass": "backward", "where": "all layers", "what": "norm, whose square is too large for a float"}
        first = watch.backward or too_large
    finite = {
        "input": not bad_inputs,
        "weights": not bad_weights,
        "output": watch.forward is None,
        "loss": not losses,
        "gradient": gradients_finite,
    }
    return {"finite": finite, "bad_inputs": bad_inputs, "first_bad": first}


def describe(finding: Finding | None) -> str:
    """Say in words where the first number that is none came up."""
    if finding is None:
        return "every number was finite when the step was repeated"
    where, what = finding["where"], finding["what"]
    return {
        "input": f"the input is not finite: {what} of sample {where}",
        "weights": f"the weights are not finite: {where}",
        "forward": f"first not finite: the {what} of {where}",
        "loss": f"the network's output is finite, the loss is not: {where}",
        "backward": f"the loss is finite, the gradient is not, first: the {what} of {where}",
    }[finding["pass"]]


class _Watch:
    """While it is entered: notes the first number that is none in the forward pass, and the first in the backward."""

    def __init__(self, model: RestorationModel) -> None:
        self.networks: dict[str, nn.Module] = {"network_g": model.network_g}
        if model.adversary:
            self.networks["network_d"] = model.adversary.network
        self.forward: Finding | None = None
        self.backward: Finding | None = None
        self._handles = contextlib.ExitStack()

    def __enter__(self) -> "_Watch":
        for prefix, network in self.networks.items():
            for name, module in network.named_modules():
                layer = ".".join(filter(None, (prefix, name)))
                hook = module.register_forward_hook(functools.partial(self._done, layer))
                self._handles.callback(hook.remove)
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    handle = parameter.register_hook(functools.partial(self._came_back, f"{prefix}.{name}", "gradient"))
                    self._handles.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def _done(self, layer: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        named = f"{layer} ({type(module).__name__})"
        for tensor in _tensors(output):
            if self.forward is None and not _finite(tensor):
                seen = all(_finite(argument) for argument in _tensors(arguments))
                what = "output" if seen else "output, and before it the input"
                self.forward = {"pass": "forward", "where": named, "what": what}
            if tensor.requires_grad and not torch._C._current_graph_task_id() >= 0:  # not when it is recomputed
                tensor.register_hook(functools.partial(self._came_back, named, "gradient with respect to the output"))

    def _came_back(self, where: str, what: str, gradient: Tensor) -> None:
        if self.backward is None and not _finite(gradient):
            self.backward = {"pass": "backward", "where": where, "what": what}


@contextlib.contextmanager
def _alone(model: RestorationModel) -> Iterator[None]:
    """Let this process compute by itself, uncompiled; afterwards all that a step changes is as it was."""
    networks: list[tuple[Any, Any]] = [(model, model.network_g)]
    if model.adversary:
        networks.append((model.adversary, model.adversary.network))
    kept = [(buffer, buffer.clone()) for _, network in networks for buffer in network.buffers()]
    wrapped = [(owner, owner.parallel) for owner, _ in networks]
    compiled = [(network, network._compiled_call_impl) for _, network in networks]
    for owner, network in networks:
        owner.parallel, network._compiled_call_impl = network, None
    try:
        yield
    finally:
        for owner, parallel in wrapped:
            owner.parallel = parallel
        for network, call in compiled:
            network._compiled_call_impl = call
        for buffer, before in kept:
            buffer.copy_(before)
        model.offsets.forget()


def _bad_samples(batch: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the samples of a batch that are not finite, with the tensor that is not."""
    return [
        {"key": str(batch["key"][i]), "tensor": name}
        for name, value in batch.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == len(batch["key"]) and not _finite(value)
        for i, sample in enumerate(value)
        if not _finite(sample)
    ]


def _bad_weights(networks: Mapping[str, nn.Module]) -> list[str]:
    states = {prefix: network.state_dict() for prefix, network in networks.items()}
    return [f"{p}.{name}" for p, state in states.items() for name, value in state.items() if not _finite(value)]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _finite(value: Tensor | None) -> bool:
    return value is None or bool(torch.isfinite(value.detach()).all())
