"""Losses by the names of the option file."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vsr.registry import LOSSES


def build(option: Mapping[str, Any]) -> nn.Module:
    """Build ``{"type": name, **arguments}``; call the result with (restored, target[, weight])."""
    return LOSSES.build(option)
