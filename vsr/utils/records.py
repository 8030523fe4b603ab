"""What validation measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    """The metrics of one restored frame.

    Args:
        key: ``clip/frame``, or an image's name.
        metrics: Value by the metric's name in ``val.metrics``; empty where there is no ground truth.
        image: A picture by itself, no frame of a clip, though folders may stand in its name.
        pooled: Totals are means over all frames of the set, not over the means of its clips.
    """

    key: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    image: bool = False
    pooled: bool = False

    @property
    def clip(self) -> str:
        """Name of the clip that the frame belongs to; empty for an image."""
        return "" if self.image else self.key.rpartition("/")[0]
