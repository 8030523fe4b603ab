"""The report of a test: one HTML file with everything in it, to be opened anywhere and mailed to anyone."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np

from vsr.engine.chart import chart
from vsr.engine.report_page import SCRIPT, STYLE
from vsr.engine.results import (
    BESIDE,
    Record,
    Row,
    decimals_of,
    how,
    how_beside,
    is_video,
    measured_in,
    metric_names,
    rows,
    set_row,
)
from vsr.utils.files import atomic_write

MOST_OPEN_ROWS = 25  # clips that the page lists at once; more are folded away
LARGEST_PNG = 1_000_000  # pixels; larger images are embedded as JPEG, a fifth of the size


@dataclass(frozen=True, kw_only=True)
class Example:
    """The pictures of one frame: uint8 (h, w, 3) RGB, all of one size.

    Args:
        label: Why it is shown: 'best', 'median', 'worst'.
        key: The record's.
        metrics: The record's.
        before: The input, enlarged to the size of the output.
        after: The restored frame.
        target: The ground truth, if there is one.
    """

    label: str
    key: str
    metrics: Mapping[str, float]
    before: np.ndarray
    after: np.ndarray
    target: np.ndarray | None = None

    def __post_init__(self) -> None:
        images = {"after": self.after, "before": self.before, "target": self.target}
        for name, image in images.items():
            if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
                raise ValueError(f"{name}: expected a uint8 image (h, w, 3), got {image.dtype} {image.shape}.")
            if image is not None and image.shape != self.after.shape:
                raise ValueError(
                    f"{name}: expected the size of the restored frame {self.after.shape}, got {image.shape}."
                )


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """What is shown of one test set.

    Args:
        name: Of the set.
        records: What was measured.
        baseline: The same of the input, without the network's work; None: no comparison.
        beside: What the baseline is, a key of ``vsr.engine.results.BESIDE``.
        definitions: Each metric's exact definition, by its name, in the order of the columns.
        higher_is_better: By metric; absent: yes.
        examples: Pictures.
    """

    name: str
    records: Sequence[Record]
    baseline: Sequence[Record] | None = None
    beside: str = "bicubic"
    definitions: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    examples: Sequence[Example] = ()


def pick_examples(records: Sequence[Record], metric: str, higher_is_better: bool = True) -> list[tuple[str, str]]:
    """Return the labels and keys of the best, the median and the worst frame, all distinct.

    Two frames are the best and the worst, one is the best. Where nothing was measured, as without
    ground truth, the first, the middle and the last frame are shown instead.
    """
    measured = [r for r in records if not math.isnan(r.metrics.get(metric, math.nan))]
    labels = ("best", "median", "worst") if measured else ("first", "middle", "last")
    ranked = sorted(measured, key=lambda r: r.metrics[metric], reverse=higher_is_better) if measured else list(records)
    if len(ranked) < 3:
        return [(label, r.key) for label, r in zip(labels[::2], ranked, strict=False)]
    return [(label, r.key) for label, r in zip(labels, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True)]


def write_report(path: str | Path, *, title: str, facts: Mapping[str, str], sets: Sequence[SetReport]) -> None:
    """Write the page: facts, the totals of all sets, and for each its table, its first metric's curve and its examples.

    The file asks for nothing outside itself, and a content security policy in it forbids that. The
    page works without JavaScript, too: the pictures then stand one below the other.

    Args:
        path: Of the HTML file; whole or absent, and in its place when this returns.
        title: Heading.
        facts: What was tested, with what and when: value by name.
        sets: The test sets, in order.
    """
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    fact_lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    with atomic_write(Path(path), "w") as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f"<style>{STYLE}</style>\n<script>{SCRIPT}</script>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
            f'<dl class="facts">{fact_lines}</dl>\n'
        )
        if len(sets) > 1:
            file.write(_all_sets(sets))
        for part in sets:
            for piece in _set(part):
                file.write(piece)
        file.write("</body>\n</html>\n")


def common_baseline(sets: Sequence[SetReport]) -> str | None:
    """Return what all sets are compared with, a key of ``vsr.engine.results.BESIDE``; None: not all with the same."""
    kinds = {part.beside if part.baseline is not None else None for part in sets}
    return kinds.pop() if len(kinds) == 1 else None


def _all_sets(sets: Sequence[SetReport]) -> str:
    """Return one table with a line a set."""
    lines = [set_row(part.name, part.records, part.baseline) for part in sets]
    names = measured_in(lines, sets[0].definitions)
    if not names:
        return ""
    head, body = _lines("set", lines, names, common_baseline(sets), sets[0].higher_is_better)
    return f"<h2>All sets</h2>\n{_table(head, ''.join(body))}{_definitions(sets[0], names)}"


def _set(part: SetReport) -> list[str]:
    names = metric_names(part.records, part.definitions)
    columns = dict.fromkeys([*names, *part.definitions])
    said = how(part.records, columns) + how_beside(part.baseline, columns, part.beside)
    pieces = [f"<h2>{escape(part.name)}</h2>\n", f'<p class="faint">{escape(said)}.</p>\n']
    if names:
        pieces += [_tables(part, names), _definitions(part, names), _curve(part, names[0])]
    if part.examples:
        pieces.append(
            '<h3>Examples</h3>\n<p class="faint hint">Drag across a picture, or focus it and use the arrow keys. '
        )
        pieces.append("A double click zooms in on a spot, another one out.</p>\n")
    beside = {record.key: record.metrics for record in part.baseline or ()}
    return pieces + [_example(example, part.beside, beside.get(example.key, {})) for example in part.examples]


def _tables(part: SetReport, names: Sequence[str]) -> str:
    shown = rows(part.records, names, part.baseline)
    kind = "clip" if is_video(part.records) else "image"
    compared = part.beside if part.baseline is not None else None
    head, body = _lines(kind, shown, names, compared, part.higher_is_better)
    total = body.pop().replace("<tr>", '<tr class="total">', 1)
    each = "".join(body)
    if len(body) <= MOST_OPEN_ROWS:
        return _table(head, each + total)
    return _table(head, total) + f"<details><summary>all {len(body)} {kind}s</summary>{_table(head, each)}</details>\n"


def _lines(
    kind: str, shown: Sequence[Row], names: Sequence[str], beside: str | None, higher_is_better: Mapping[str, bool]
) -> tuple[str, list[str]]:
    """Return the head of a table and its lines: of each metric the value and, compared, the baseline's and the gain."""
    places = {
        n: decimals_of(v for r in shown for m in (r.restored, r.baseline) if (v := m.get(n)) is not None) for n in names
    }
    span = ' colspan="3" class="group"' if beside else ' class="first"'
    head = f"<tr><th>{kind}</th>" + "".join(f"<th{span}>{escape(n)}</th>" for n in names) + "</tr>"
    if beside:
        each = f'<th class="first">restored</th><th>{beside}</th><th>gain</th>'
        head += f"<tr><th></th>{each * len(names)}</tr>"
    body = []
    for row in shown:
        cells = [f"<td>{escape(row.label)}</td>"]
        for name in names:
            cells.append(f'<td class="first">{_number(row.restored.get(name), places[name])}</td>')
            if beside:
                cells.append(f"<td>{_number(row.baseline.get(name), places[name])}</td>")
                gain = row.gain(name)
                improved = (gain or 0) * (1 if higher_is_better.get(name, True) else -1)
                mark = ' class="good"' if improved > 0 else ' class="bad"' if improved < 0 else ""
                cells.append(f"<td{mark}>{_number(gain, places[name], sign=True)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>\n")
    return head, body


def _table(head: str, body: str) -> str:
    return f'<div class="wide"><table><thead>{head}</thead><tbody>\n{body}</tbody></table></div>\n'


def _definitions(part: SetReport, names: Sequence[str]) -> str:
    texts = [f"{name}: {part.definitions[name]}" for name in names if name in part.definitions]
    texts += [f"{name}: lower is better" for name in names if not part.higher_is_better.get(name, True)]
    if part.baseline is not None:
        texts.append(f"{part.beside}: {BESIDE[part.beside]}; gain: restored minus {part.beside}")
    return f'<p class="faint">{"<br>".join(escape(text) for text in texts)}</p>\n' if texts else ""


def _curve(part: SetReport, name: str) -> str:
    """Draw the first metric over the frames: restored, and the baseline where it was measured."""
    beside = {record.key: record.metrics for record in part.baseline or ()}
    curves = {"restored": [record.metrics.get(name, math.nan) for record in part.records]}
    if beside:
        curves[part.beside] = [beside.get(record.key, {}).get(name, math.nan) for record in part.records]
    video = is_video(part.records)
    clips = [record.clip for record in part.records]
    svg = chart(curves, clips, y_label=name, x_label="frame" if video else "image")
    return (
        f'<h3>{escape(name)} of each {"frame" if video else "image"}</h3>\n<div class="wide">{svg}</div>\n'
        if svg
        else ""
    )


def _example(example: Example, beside: str, baseline: Mapping[str, float]) -> str:
    values = []
    for name, value in example.metrics.items():
        places = decimals_of([value, baseline.get(name, value)])
        compared = f" ({beside} {_number(baseline[name], places)})" if name in baseline else ""
        values.append(f"{name} {_number(value, places)}{compared}")
    height, width = example.after.shape[:2]
    shown = width * max(1, min(1280 // width, 800 // height))  # small pictures are enlarged by whole factors
    label = f"{example.label}: {example.key}"
    layers = [("restored", "restored", example.after)]
    if example.target is not None:
        layers.append(("truth", "ground truth", example.target))
    layers.append(("input", "input", example.before))
    pictures = "".join(
        f'<div class="layer {kind}"><img alt="{escape(f"{label}, {name}")}" src="{_data_url(image)}">'
        f"<span>{name}</span></div>\n"
        for kind, name, image in layers
    )
    right = ""
    if example.target is not None:
        right = (
            '<button type="button" data-right="restored" aria-pressed="true">right: restored</button>'
            '<button type="button" data-right="truth" aria-pressed="false">right: ground truth</button>'
            '<span class="gap"></span>'
        )
    zooms = "".join(
        f'<button type="button" data-zoom="{zoom}" aria-pressed="{"false" if zoom else "true"}">{text}</button>'
        for zoom, text in ((0, "fit"), (1, "1:1"), (2, "2:1"), (4, "4:1"))
    )
    return (
        f"<figure>\n<figcaption><b>{escape(example.label)}</b> {escape(example.key)} "
        f'<span class="faint">{escape(", ".join(values))}</span></figcaption>\n'
        f'<div class="stage" style="--width: {shown}px; --at: 50%">\n{pictures}<div class="handle"></div>\n'
        f'<input type="range" min="0" max="100" step="any" value="50" '
        f'aria-label="{escape(label)}: how much of the picture shows the input"></div>\n'
        f'<div class="tools">{right}{zooms}</div>\n</figure>\n'
    )


def _number(value: float | None, places: int, *, sign: bool = False) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:{'+' if sign else ''}.{places}f}".replace("inf", "∞").replace("-", "\N{MINUS SIGN}")


def _data_url(image: np.ndarray) -> str:
    """Encode RGB as PNG, or from 1 megapixel on as JPEG of quality 95 without chroma subsampling."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if image.shape[0] * image.shape[1] < LARGEST_PNG:
        kind, (done, data) = "png", cv2.imencode(".png", bgr)
    else:
        full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        kind, (done, data) = "jpeg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95, *full_colour])
    assert done, "OpenCV can encode any uint8 image"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
