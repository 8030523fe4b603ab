"""Measures of restored images by the names of the option file."""

from collections.abc import Mapping
from typing import Any

from vsr.metrics.base import ImageMetric
from vsr.registry import METRICS


def build(option: Mapping[str, Any]) -> ImageMetric:
    """Build ``{"type": name, **arguments}``; call the result with (restored, target)."""
    metric: ImageMetric = METRICS.build(option)
    return metric
