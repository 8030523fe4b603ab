"""What was measured: totals, a table for the screen, CSV."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vsr.utils.files import atomic_write
from vsr.utils.records import Record as Record

WIDTH = 100  # columns of the screen
BESIDE = {  # what the network is compared with: the input, brought to the output's size
    "bicubic": "the input enlarged by antialiased bicubic interpolation",
    "input": "the input as it is",
    "copy": "the last input frame, a prediction that nothing moves",
}
REFERENCES = {  # what the disparities of a set's restored pairs are compared with
    "truth": "true disparity",
    "SGBM": "what SGBM finds in the target",
}
MOST_ROWS = 40  # clips or images that the screen lists; of more it shows the total alone
LONGEST_LABEL = 32  # characters of a clip's name on the screen


@dataclass(frozen=True)
class Row:
    """The means of one clip, one image or the whole set, by metric; a metric that was not measured is absent.

    Of a whole set ``reference`` tells what disparities were compared with, a key of REFERENCES; None: there are none.
    Of the metrics in ``unlike`` the two means are of other frames: one of the two has no value in some of them.
    """

    label: str
    restored: Mapping[str, float]
    baseline: Mapping[str, float]
    reference: str | None = None
    unlike: frozenset[str] = frozenset()

    def gain(self, name: str) -> float | None:
        """Return the restored mean minus the baseline's; None if one is missing, they are unlike, or both infinite."""
        if name not in self.restored or name not in self.baseline or name in self.unlike:
            return None
        gain = self.restored[name] - self.baseline[name]
        return None if math.isnan(gain) else gain


def is_video(records: Iterable[Record]) -> bool:
    """Whether the records are of frames of clips."""
    return any(record.clip for record in records)


def by_clip(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group records by clip, in the order in which the clips come; images are one group ''."""
    clips: dict[str, list[Record]] = {}
    for record in records:
        clips.setdefault(record.clip, []).append(record)
    return clips


def metric_names(records: Iterable[Record], first: Iterable[str] = ()) -> list[str]:
    """Return the names of the metrics that some record has: in the order of ``first``, then of appearance."""
    present = dict.fromkeys(name for record in records for name in record.metrics)
    return [*(name for name in first if name in present), *(name for name in present if name not in set(first))]


def totals(records: Sequence[Record], names: Iterable[str]) -> dict[str, float]:
    """Return each metric's total: the mean over the frames of each clip, then over the clips; or over all frames.

    Images are one group: their total is the mean over images. ``how`` puts this into words. A metric
    that no record has is left out. Frames identical to their ground truth have an infinite PSNR, and
    so has then the total; ``how`` counts them.
    """
    result = {}
    for name in names:
        groups = [records] if records and records[0].pooled else by_clip(records).values()
        clips = [[r.metrics[name] for r in clip if name in r.metrics] for clip in groups]
        means = [_mean(values) for values in clips if values]
        if means:
            result[name] = _mean(means)
    return result


def how(records: Sequence[Record], names: Iterable[str]) -> str:
    """Say what the totals of these records are means of, and what is unusual in them."""
    if not records:
        return "nothing was measured"
    if is_video(records):
        clips = _count(len(by_clip(records)), "clip")
        means = "all frames" if records[0].pooled else "each clip's frames, then over clips"
        text = f"{_count(len(records), 'frame')} of {clips}; totals are means over {means}"
    else:
        text = f"{_count(len(records), 'image')}; totals are means over images"
    unmeasured = sum(not record.metrics for record in records)
    if unmeasured:
        text += f"; {unmeasured} not measured (no ground truth, no val.metrics, or none with a value)"
    for name in names:
        values = [record.metrics[name] for record in records if name in record.metrics]
        infinite, undefined = sum(map(math.isinf, values)), sum(map(math.isnan, values))
        lacking = _lacking(records, name)
        text += f"; {name} has no value, nor counts, in {_named(lacking)}" if lacking else ""
        text += f"; {name} is infinite in {infinite} of {len(values)}" if infinite else ""
        text += f"; {name} is not a number in {undefined} of {len(values)}" if undefined else ""
    return text


def how_beside(baseline: Sequence[Record] | None, names: Iterable[str], beside: str) -> str:
    """Say where the baseline has no value; '' if it has all."""
    found = {name: _lacking(baseline or (), name) for name in names}
    return "".join(f"; {beside} has no {name} in {_named(keys)}" for name, keys in found.items() if keys)


def _lacking(records: Sequence[Record], name: str) -> list[str]:
    return [record.key for record in records if record.image and record.metrics and name not in record.metrics]


def rows(records: Sequence[Record], names: Sequence[str], baseline: Sequence[Record] | None = None) -> list[Row]:
    """Return the means of each clip, or the values of each image, and last those of the total."""
    beside = {record.key: record for record in baseline or ()}

    def row(label: str, part: Sequence[Record]) -> Row:
        pairs = [(record, beside[record.key]) for record in part if record.key in beside]
        unlike = {name for name in names for one, other in pairs if (name in one.metrics) != (name in other.metrics)}
        others = [other for _, other in pairs]
        return Row(label, totals(part, names), totals(others, names), unlike=frozenset(unlike))

    groups = by_clip(records) if is_video(records) else {record.key: [record] for record in records}
    return [*(row(label or "(no clip)", part) for label, part in groups.items()), row("total", records)]


def decimals_of(values: Iterable[float]) -> int:
    """Return how many decimals a metric's values deserve: 4 up to about 1, as SSIM has; above, as PSNR in dB, 3."""
    return 4 if all(abs(v) <= 1.5 for v in values if math.isfinite(v)) else 3


def format_table(
    name: str,
    records: Sequence[Record],
    definitions: Mapping[str, str],
    baseline: Sequence[Record] | None = None,
    beside: str = "bicubic",
) -> str:
    """Return a table of the means of each clip and of the total, with each metric's definition.

    Args:
        name: Of the set.
        records: What was measured.
        definitions: Each metric's exact definition, by its name, in the order of the columns.
        baseline: The same frames without the network's work; adds their means, and the gain over them.
        beside: What the baseline is, a key of BESIDE.

    Returns:
        Lines of at most 100 columns, but for the heading and the definitions. Metrics that do not fit
        beside the others follow below them.
    """
    names = metric_names(records, definitions)
    shown = rows(records, names, baseline)
    if len(shown) - 1 > MOST_ROWS:
        shown = shown[-1:]
    columns = dict.fromkeys([*names, *definitions])
    heading = f"{name}: {how(records, columns)}{how_beside(baseline, columns, beside)}"
    return "\n".join([heading, *_explained(shown, names, definitions, beside if baseline is not None else None)])


def set_row(
    name: str, records: Sequence[Record], baseline: Sequence[Record] | None = None, reference: str | None = None
) -> Row:
    """Return the totals of a set, to stand beside those of other sets; for ``reference`` see Row."""
    return replace(rows(records, metric_names(records), baseline)[-1], label=name, reference=reference)


def format_sets(sets: Sequence[Row], definitions: Mapping[str, str], beside: str | None = None) -> str:
    """Return one table of several sets, a line a set, as ``format_table`` lays it out.

    Args:
        sets: Of ``set_row``.
        definitions: As in ``format_table``.
        beside: What their baseline is, a key of BESIDE; None: no comparison.
    """
    names = measured_in(sets, definitions)
    return "\n".join([f"totals of {len(sets)} sets", *_explained(sets, names, definitions, beside)])


def measured_in(sets: Sequence[Row], first: Iterable[str] = ()) -> list[str]:
    """Return the names of the metrics that some set has, in the order that ``metric_names`` gives them."""
    return metric_names([Record(row.label, row.restored) for row in sets], first)


@dataclass(frozen=True)
class Best:
    """A metric on a set: its value now, and its best one so far."""

    set_name: str
    metric: str
    now: float
    best: float | None  # None: there has been none that is a number
    step: int | None
    picks: bool  # it decides which weights are kept as the best


def format_bests(bests: Sequence[Best]) -> str:
    """Return a table of where a run stands: one line a set and metric."""
    columns: list[list[str]] = [["best so far"], [""], ["now"], ["best"], ["at step"]]
    for entry in bests:
        places = decimals_of([entry.now, *([] if entry.best is None else [entry.best])])
        best = "-" if entry.best is None else f"{entry.best:.{places}f}"
        step = "-" if entry.step is None else f"{entry.step}{'*' if entry.picks else ' '}"
        cells = [_shorten(entry.set_name), _shorten(entry.metric), f"{entry.now:.{places}f}", best, step]
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    lines = _lines(columns)
    return "\n".join([*lines, "*: the weights kept as the best"] if any(entry.picks for entry in bests) else lines)


def write_csv(
    path: str | Path,
    records: Sequence[Record],
    baseline: Sequence[Record] | None = None,
    *,
    beside: str = "bicubic",
    fingerprint: str | None = None,
    reference: str | None = None,
) -> None:
    """Write one line a frame: key, clip, frame, each metric, each metric of the baseline, reference, fingerprint.

    Numbers have all their digits; what was not measured is empty. The file is whole or absent.
    """
    names = metric_names(records)
    measured = {record.key: record.metrics for record in baseline or ()}
    with atomic_write(Path(path), "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        others = [f"{beside} {name}" for name in names] if baseline is not None else []
        ends = {"disparity reference": reference, "fingerprint": fingerprint}
        ends = {title: value for title, value in ends.items() if value}
        writer.writerow(["key", "clip", "frame", *names, *others, *ends])
        for record in records:
            clip, frame = record.clip, record.key.removeprefix(f"{record.clip}/")
            values = [record.metrics.get(name, "") for name in names]
            values += [measured.get(record.key, {}).get(name, "") for name in names] if others else []
            writer.writerow([record.key, clip, frame, *values, *ends.values()])


def write_sets_csv(path: str | Path, sets: Sequence[Row], beside: str | None = None) -> None:
    """Write one line a set: its name, the totals, those of the baseline, the reference; numbers as ``write_csv``."""
    names = measured_in(sets)
    others = [f"{beside} {name}" for name in names] if beside is not None else []
    with atomic_write(Path(path), "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        compared_with = ["disparity reference"] if any(row.reference for row in sets) else []
        writer.writerow(["set", *names, *others, *compared_with])
        for row in sets:
            compared = [row.baseline.get(name, "") for name in names] if others else []
            compared += [row.reference or ""] if compared_with else []
            writer.writerow([row.label, *(row.restored.get(name, "") for name in names), *compared])


def _mean(values: Sequence[float]) -> float:
    # fsum is exact, so the mean of equal values is that value; it refuses infinities of both signs
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)


def _named(keys: Sequence[str]) -> str:
    return ", ".join(_shorten(key) for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shorten(label: str) -> str:
    half = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[: half - 1]}...{label[-(half - 2) :]}"


def _explained(
    shown: Sequence[Row], names: Sequence[str], definitions: Mapping[str, str], beside: str | None
) -> list[str]:
    """Return the lines of a table, and below them what its columns are; ``beside`` None: without the baseline."""
    labels = ["", *(_shorten(row.label) for row in shown)]
    lines: list[str] = []
    table: list[list[str]] = []
    for metric in names:
        columns = _columns(metric, shown, beside)
        if table and _width([*table, *columns]) > WIDTH:
            lines += [*_lines(table), ""]
            table = []
        table = [*(table or [labels]), *columns]
    lines += _lines(table)
    lines += [f"{metric}: {definitions[metric]}" for metric in names if metric in definitions]
    if names and beside is not None:
        lines.append(f"{beside}: {BESIDE[beside]}; gain: restored minus {beside}")
    return lines


def _columns(metric: str, shown: Sequence[Row], beside: str | None) -> list[list[str]]:
    """Return the columns of one metric, headings included: its values and, compared, the baseline's and the gain."""
    restored, baseline = [r.restored.get(metric) for r in shown], [r.baseline.get(metric) for r in shown]
    places = decimals_of(v for v in [*restored, *baseline] if v is not None)
    columns = [[_shorten(metric), *("-" if v is None else f"{v:.{places}f}" for v in restored)]]
    if beside is not None:
        gains = [row.gain(metric) for row in shown]
        columns.append([beside, *("-" if v is None else f"{v:.{places}f}" for v in baseline)])
        columns.append(["gain", *("-" if v is None else f"{v:+.{places}f}" for v in gains)])
    return columns


def _width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in table) + 2 * (len(table) - 1)


def _lines(table: Sequence[Sequence[str]]) -> list[str]:
    """Lay columns out side by side: the first flush left, the numbers flush right."""
    widths = [max(map(len, column)) for column in table]
    return [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()
        for cells in zip(*table, strict=True)
    ]
