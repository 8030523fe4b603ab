"""How far a network's deformable layers reach while it trains: a run that diverges shows there first."""

import math

import torch
from torch import Tensor, nn

from vsr.config import OffsetWatchOptions
from vsr.ops.deform_conv import ModulatedDeformConv2d
from vsr.utils import dist

PREFIX = "offset/"  # of a layer's name among the scalars of a step


class OffsetWatch:
    """Keeps the mean |offset|, in pixels, of each deformable layer on the device.

    Without options, or without such layers, nothing is watched and nothing is computed.

    Args:
        network: In training; its layers live where they will be trained.
        options: The limit, and what to do beyond it.
    """

    def __init__(self, network: nn.Module, options: OffsetWatchOptions | None) -> None:
        self.options = options
        modules = network.named_modules() if options else ()
        layers = {name: module for name, module in modules if isinstance(module, ModulatedDeformConv2d)}
        self.names = list(layers)
        self._sums: list[Tensor] = []
        for layer in layers.values():
            layer.offset_sum = torch.zeros(2, device=layer.weight.device)
            self._sums.append(layer.offset_sum)
        device = self._sums[0].device if layers else None
        self._peaks = torch.zeros(len(layers), device=device)
        self._first = torch.zeros((), device=device)  # step, from 1, that exceeded the limit first

    def read(self, step: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Take what the layers counted in a step, all its micro-batches together; call once a step.

        Returns:
            The mean |offset| of each layer under 'offset/<layer>', and whether the step is to be
            dropped, on which all processes agree; None: never.
        """
        if self.options is None or not self.names:
            return {}, None
        sums = torch.stack(self._sums)
        torch._foreach_zero_(self._sums)
        means = sums[:, 0] / sums[:, 1].clamp(min=1)  # a layer that was not called has moved nothing
        self._peaks = torch.maximum(self._peaks, means)  # of NaN and a number: NaN
        exceeded = ~(means <= self.options.limit).all()  # NaN exceeds every limit
        self._first = torch.where(exceeded & (self._first == 0), step, self._first)
        drop = dist.mean(exceeded.float()) > 0 if self.options.action == "skip" else None
        return {PREFIX + name: mean for name, mean in zip(self.names, means.unbind(), strict=True)}, drop

    def forget(self) -> None:
        """Drop what the layers have counted since the last ``read``."""
        if self._sums:
            torch._foreach_zero_(self._sums)

    def exceeded(self) -> tuple[dict[str, float], int]:
        """Return the layers that went beyond the limit since the last call, and since which step some do.

        Every process calls it, and gets the same answer; it waits for the device.

        Returns:
            {layer: the largest mean |offset| of a step on any process}, largest first, and the step, which stays
            as it is while every call finds some; {} and 0 if none.
        """
        if self.options is None or not self.names:
            return {}, 0
        found = dist.gather_json([*self._peaks.tolist(), float(self._first)])
        self._peaks = torch.zeros_like(self._peaks)
        largest = {name: max((f[i] for f in found), key=_order) for i, name in enumerate(self.names)}
        beyond = {name: value for name, value in largest.items() if not value <= self.options.limit}
        if not beyond:
            self._first = torch.zeros_like(self._first)
            return {}, 0
        first = min(int(f[-1]) for f in found if f[-1])
        return dict(sorted(beyond.items(), key=lambda item: _order(item[1]), reverse=True)), first


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value
