"""Which frames stand in a window whose ends reach beyond the clip."""

from vsr.registry import suggest

PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


def shortest_clip(num_frame: int, padding: str) -> int:
    """Return the number of frames from which every window of a clip can be filled.

    Raises:
        ValueError: ``padding`` is unknown, or ``num_frame`` not odd and positive.
    """
    if padding not in PADDINGS:
        raise ValueError(
            f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}.{suggest(str(padding), PADDINGS)}"
        )
    if num_frame < 1 or num_frame % 2 == 0:
        raise ValueError(f"num_frame: expected an odd number, got {num_frame}. A window needs a centre frame.")
    return {"replicate": 1, "reflection": num_frame // 2 + 1}.get(padding, num_frame)


def generate_frame_indices(index: int, total: int, num_frame: int, padding: str = "reflection") -> list[int]:
    """Return the positions of the ``num_frame`` frames in the window around frame ``index``.

    At frame 0 of a long clip, for a window of 5:

    - ``replicate``: 0 0 0 1 2, the end frame again;
    - ``reflection``: 2 1 0 1 2, mirrored at the end frame;
    - ``reflection_circle``: 4 3 0 1 2, the window's missing side from beyond its other side, mirrored;
    - ``circle``: 3 4 0 1 2, the same in forward order.

    Source: BasicSR's ``generate_frame_indices``; its windows are part of every published result.

    Args:
        index: Position of the centre frame in its clip, from 0.
        total: Frames in the clip.
        num_frame: Window length, odd.
        padding: One of ``PADDINGS``.

    Raises:
        ValueError: an argument is out of range, or the clip is too short for this window and padding.
    """
    shortest_clip(num_frame, padding)
    if not 0 <= index < total:
        raise ValueError(f"index: expected 0 to {total - 1}, the frames of the clip, got {index}.")
    half, last = num_frame // 2, total - 1
    indices = []
    for i in range(index - half, index + half + 1):
        before = {"replicate": 0, "reflection": -i, "reflection_circle": index + half - i, "circle": num_frame + i}
        after = {
            "replicate": last,
            "reflection": 2 * last - i,
            "reflection_circle": index - half - (i - last),
            "circle": i - num_frame,
        }
        indices.append(before[padding] if i < 0 else after[padding] if i > last else i)
    if min(indices) < 0 or max(indices) > last:
        raise ValueError(
            f"padding: expected a clip long enough for windows of num_frame {num_frame} with {padding!r}, "
            f"got a clip of {total} frame{'s' * (total != 1)}. Use padding: replicate for short clips."
        )
    return indices
