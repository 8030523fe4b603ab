"""What validation measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    """The metrics of one restored frame.

    Args:
        key: ``clip/frame``, or an image's name.
        metrics: Value by the metric's name in ``val.metrics``; empty where there is no ground truth.
    """

    key: str
    metrics: Mapping[str, float] = field(default_factory=dict)
