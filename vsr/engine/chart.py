"""A small line chart as SVG."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 44  # margins
MOST_POINTS = 1000  # of a line; of more frames, neighbours are averaged
MOST_DOTS = 60  # frames up to which each gets a dot that tells its value
MOST_CLIP_NAMES = 12


def chart(curves: Mapping[str, Sequence[float]], clips: Sequence[str], *, y_label: str, x_label: str) -> str:
    """Draw lines over the frames of a set, with a mark where a clip begins.

    Args:
        curves: Values by name, one a frame; the names are also the style's classes. A line is broken
            where a value is not finite, and between clips.
        clips: The clip of each frame.
        y_label, x_label: What the axes show; ``x_label`` in the singular.

    Returns:
        An ``<svg>`` element; empty if no value is finite.
    """
    finite = [v for values in curves.values() for v in values if math.isfinite(v)]
    if not finite:
        return ""
    ticks = nice_ticks(min(finite), max(finite), 5)
    spacing = ticks[1] - ticks[0]
    places = max(0, -math.floor(math.log10(spacing) + 1e-9))

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} of each {escape(x_label)}">'
    ]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:.{places}f}</text>')
    parts.append(f'<text class="name" x="{LEFT}" y="16">{escape(y_label)}</text>')
    parts += _frame_axis(clips, x_label)
    for i, (name, values) in enumerate(curves.items()):
        left = LEFT + 9 * len(y_label) + 30 + 110 * i
        parts.append(f'<line class="line {escape(name)}" x1="{left}" x2="{left + 28}" y1="12" y2="12"/>')
        parts.append(f'<text x="{left + 34}" y="16">{escape(name)}</text>')
        for run in _runs(values, clips):
            points = " ".join(f"{_x(frame, len(clips))},{y(value)}" for frame, value in run)
            parts.append(f'<polyline class="line {escape(name)}" points="{points}"/>')
        for frame, value in enumerate(values if len(clips) <= MOST_DOTS else ()):
            if math.isfinite(value):
                text = f"{x_label} {frame}, {name}: {value:.{places + 2}f}"
                parts.append(
                    f'<circle class="dot {escape(name)}" cx="{_x(frame, len(clips))}" cy="{y(value)}" r="2.5">'
                    f"<title>{escape(text)}</title></circle>"
                )
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers, at least two, evenly spaced, that enclose ``low`` to ``high``."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # a flat line gets room around it
        room = 0.01 * abs(low) or 1.0
        low, high = low - room, high + room
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    spacing = next(s * power for s in (1, 2, 5, 10) if s * power * count >= (high - low) * (1 - 1e-9))
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [i * spacing for i in range(first, last + 1)]


def _x(frame: float, total: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (frame + 0.5) / total, 1)


def _runs(values: Sequence[float], clips: Sequence[str]) -> Iterator[list[tuple[float, float]]]:
    """Yield the unbroken pieces of a line as (frame, value); of long sets, the means of neighbours."""
    step = math.ceil(len(clips) / MOST_POINTS)
    numbered = zip(itertools.count(), values, clips)
    for (_, drawn), run in itertools.groupby(numbered, lambda point: (point[2], math.isfinite(point[1]))):
        points = [(frame, value) for frame, value, _ in run]
        if drawn:
            parts = [points[i : i + step] for i in range(0, len(points), step)]
            yield [(sum(f for f, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _frame_axis(clips: Sequence[str], x_label: str) -> list[str]:
    """Draw the names of the clips where they fit, else the numbers of the frames."""
    total, base = len(clips), HEIGHT - BOTTOM
    starts = [i for i in range(total) if i == 0 or clips[i] != clips[i - 1]]
    parts = [
        f'<line class="clip" x1="{_x(i - 0.5, total)}" x2="{_x(i - 0.5, total)}" y1="{TOP}" y2="{base}"/>'
        for i in (starts[1:] if len(starts) <= 4 * MOST_CLIP_NAMES else ())
    ]
    if 1 < len(starts) <= MOST_CLIP_NAMES:
        for start, end in itertools.pairwise([*starts, total]):
            room = max(int((_x(end, total) - _x(start, total)) / 7.5), 2)
            name = clips[start] if len(clips[start]) <= room else clips[start][: room - 1] + "…"
            centre = (_x(start, total) + _x(end - 1, total)) / 2
            parts.append(f'<text x="{centre:.1f}" y="{base + 16}" text-anchor="middle">{escape(name)}</text>')
    else:
        for tick in nice_ticks(0, max(total - 1, 1), 10):
            if tick == int(tick) and tick < total:
                parts.append(f'<text x="{_x(tick, total)}" y="{base + 16}" text-anchor="middle">{tick:.0f}</text>')
    step = math.ceil(total / MOST_POINTS)
    text = (
        x_label
        + ("s, by clip" if 1 < len(starts) <= MOST_CLIP_NAMES else "")
        + (f" (means of {step})" if step > 1 else "")
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>']
