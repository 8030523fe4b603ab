"""The metrics of an option file, built and checked for what a model restores."""

from collections.abc import Mapping
from typing import Any

from vsr.config import Options
from vsr.registry import METRICS


def build_metrics(options: Options, *, of_pairs: bool) -> dict[str, Any]:
    """Build val.metrics, by name; each one's definition says in which precision the network runs.

    Args:
        options: A checked option file.
        of_pairs: The model restores stereo pairs, which some metrics measure as a whole.

    Raises:
        ValueError: a metric of stereo pairs for a model of something else.
    """
    metrics: dict[str, Any] = {
        name: METRICS.build(metric.metric.as_option()) for name, metric in options.val.metrics.items()
    }
    for name, metric in metrics.items():
        if getattr(metric, "of_pairs", False) and not of_pairs:
            raise ValueError(
                f"val.metrics.{name}.type: expected a metric of single images for model_type {options.model_type}, "
                f"got {options.val.metrics[name].metric.type}, which measures stereo pairs. "
                "Leave it out, or use model_type: StereoModel."
            )
        if options.val.precision != "float32":
            metric.definition += f", network in {options.val.precision}"
    return metrics


def check_measurable(metrics: Mapping[str, Any], where: str, height: int, width: int) -> None:
    """Refuse frames of videos that are too small for a metric which follows them from one to the next.

    Args:
        metrics: By their names in val.metrics.
        where: The option that the frames come from, 'datasets.val'.
        height: Of a frame as restored, in pixels.
        width: Likewise.
    """
    for name, metric in metrics.items():
        smallest = getattr(metric, "min_size", 1) if getattr(metric, "follows", False) else 1
        if min(height, width) < smallest:
            raise ValueError(
                f"val.metrics.{name}: expected frames of {smallest}x{smallest} pixels or more in {where}, "
                f"got {height}x{width}. Take the metric out: val.metrics.{name}=null."
            )
