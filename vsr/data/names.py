"""Names of clips and images: lists of them, partners in another root, frames that are missing."""

import difflib
import re
from collections.abc import Collection, Sequence

import numpy as np

from vsr.data.storage import existing, stem

_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")  # the last number of a name, leading zeros or not
_CLIP_LINE = re.compile(r"(\S+$|\S.*?(?=\s+\d+(?:\s|$)))(?:\s+(\d+)(?:\s+\(.*\))?)?")
_IMAGE_LINE = re.compile(r"(\S.*?)(?:\s+\(\s*\d+\s*(?:,\s*\d+\s*)*\))?")


def check_template(filename_tmpl: str) -> str:
    if filename_tmpl.count("{}") != 1 or set(filename_tmpl.replace("{}", "")) & set("{}"):
        raise ValueError(f"filename_tmpl: expected one {{}} for the name of the GT file, got '{filename_tmpl}'.")
    return filename_tmpl


def pick(names: Sequence[str], known: Collection[str], argument: str) -> list[str]:
    """Return ``names``; raise ValueError with a suggestion for one that is not known."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"{argument}: expected a name in the data set, got '{name}'.{hint} Known: {_some(known, 10)}."
            )
    return list(names)


def same_names(wanted: Sequence[str], found: Collection[str], what: str, hint: str = "") -> None:
    """Raise ValueError with the first differences if LQ does not have just the names that GT asks for."""
    known, asked = set(found), set(wanted)
    missing, extra = [n for n in wanted if n not in known], sorted(known - asked)
    if not missing and not extra:
        return
    parts = [f"{len(names)} {text} ({_some(names)})" for names, text in
             ((missing, "of GT are missing in LQ"), (extra, "of LQ are missing in GT")) if names]  # fmt: skip
    raise ValueError(
        f"dataroot_lq: expected the same {what} as in dataroot_gt ({len(asked)}), got {len(known)}: "
        f"{'; '.join(parts)}. {hint or 'Complete the folders, or choose by clips or meta_info_file.'}"
    )


def first_duplicate(files: Sequence[str]) -> str:
    """Name the first two files that differ in their suffix only; '' if there are none."""
    if len({file[file.rfind(".") :] for file in files}) == len(set(files)) - len(files) + 1:
        return ""  # of one suffix, and none twice: the common case, without a call for each
    seen: dict[str, str] = {}
    for file in files:
        if stem(file) in seen:
            return f"{seen[stem(file)]} and {file}"
        seen[stem(file)] = file
    return ""


def gaps(files: Sequence[str]) -> list[tuple[str, str, int]]:
    """Find where numbered frames are missing: the frame before, the frame after, and how many between them.

    Names tell only if they differ in one number whose least step is that of more than half of the frames: there is
    no gap in 00, 02, 04, and none that could be known in time stamps.
    """
    digits = files[0].find(".") if files else 0
    numbers = [file[:digits] for file in files]
    if "".join(numbers).isdecimal() and int(numbers[-1]) - int(numbers[0]) == len(files) - 1:
        return []  # the common case, many times as fast
    parts = [_NUMBER.fullmatch(stem(file)) for file in files]
    if len(parts) < 3 or any(p is None or (p[1], p[3]) != (parts[0][1], parts[0][3]) for p in parts):  # type: ignore[index]
        return []
    steps = np.diff([int(part[2]) for part in parts])  # type: ignore[index]
    step = int(steps.min())
    if step < 1 or 2 * np.count_nonzero(steps == step) <= len(steps):
        return []
    return [(files[i], files[i + 1], int(steps[i]) // step - 1) for i in np.flatnonzero(steps != step).tolist()]


def read_clip_list(path: str) -> dict[str, int | None]:
    """Read a list of clips, BasicSR's lines ``folder n (h,w,c)`` or names alone: name -> number of frames, if said.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is of another form, with its number.
    """
    return {m[1]: int(m[2]) if m[2] else None for m in _matched_lines(path, _CLIP_LINE, "folder n (h,w,c)")}


def read_image_list(path: str) -> list[str]:
    """Read BasicSR's list of images, lines ``name (h,w,c)``: the names. Raises as ``read_clip_list``."""
    return [m[1] for m in _matched_lines(path, _IMAGE_LINE, "name (h,w,c)")]


def _matched_lines(path: str, pattern: re.Pattern[str], form: str) -> list[re.Match[str]]:
    file = existing(path, "meta_info_file")
    if not file.is_file():
        raise ValueError(f"meta_info_file: expected a text file, got the folder '{path}'.")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text file in UTF-8, got other bytes at {error.start}.") from error
    matches: dict[str, re.Match[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: expected '{form}', got '{line.strip()[:100]}'.")
        if match[1] in matches:
            raise ValueError(f"{path}:{number}: expected each name once, got '{match[1]}' again. Remove the line.")
        matches[match[1]] = match
    if not matches:
        raise ValueError(f"{path}: expected lines '{form}', got an empty file.")
    return list(matches.values())


def _some(names: Collection[str], count: int = 3) -> str:
    listed = [str(name) for name in list(names)[:count]]
    return ", ".join(listed) + (", ..." if len(names) > count else "")
