"""The moving average of weights, which restores better than the weights of any one step."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, weight: Tensor) -> None:
    """Move the parameters of ``average`` towards those of ``network`` by ``weight``, and copy the buffers.

    Args:
        average: Changed in place.
        network: Of the same class.
        weight: Scalar on the device, 1 - decay; 0 changes no parameter, and nothing is read back to know it.
    """
    kept: list[Tensor] = list(average.parameters())
    change = torch._foreach_sub(list(network.parameters()), kept)
    torch._foreach_mul_(change, weight)
    torch._foreach_add_(kept, change)
    for mine, theirs in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)
