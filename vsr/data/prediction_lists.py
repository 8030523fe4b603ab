"""Which clips of a prediction data set train, validate and test: csv lists, and splits by a hash of the name."""

import csv
import difflib
import hashlib
import io
import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from vsr.data.storage import stem
from vsr.utils.files import atomic_write
from vsr.utils.images import VIDEO_SUFFIXES, natural_key

PARTITIONS = ("train", "val", "test")
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
SPLIT_SEED = 0  # fixed: a clip must not move from one partition to another between two runs

_HEADINGS = {"clip", "clips", "file", "filename", "folder", "id", "name", "path", "video", "video_id"}
_CAMERA = re.compile(r"_\([A-Z]+\d+\)$")

Naming: TypeAlias = Callable[[str], str]
Split: TypeAlias = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]


def list_name(partition: str) -> str:
    return f"{partition}_list.csv"


# --- names ---------------------------------------------------------------------------------------


def charades_name(name: str) -> str:
    """Return the name that a clip has in lists and keys; accents are one character, as not all systems write them."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").strip("/"))


def humaneva_name(name: str) -> str:
    """Return 'S1_Box_1_(C1)' for this and for S1/Box_1_(C1) and S1/Image_Data/Box_1_(C1), the official layout."""
    return "_".join(part for part in charades_name(name).split("/") if part.lower() != "image_data")


# --- splits --------------------------------------------------------------------------------------


def hash_partition(name: str) -> str:
    """Return the partition of a clip: 80 % train, 10 % val, 10 % test, by its name alone."""
    at = _hash_fraction(name)
    if at < SHARES["train"]:
        return "train"
    return "val" if at < SHARES["train"] + SHARES["val"] else "test"


def split_by_hash(names: Sequence[str]) -> dict[str, list[str]]:
    """Split so that a clip's partition does not depend on which others there are."""
    parts: dict[str, list[str]] = {partition: [] for partition in PARTITIONS}
    for name in names:
        parts[hash_partition(name)].append(name)
    return parts


def split_by_scene(names: Sequence[str]) -> dict[str, list[str]]:
    """Split HumanEva: the cameras that saw a scene stay together; of three scenes or more no partition is empty."""
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(_CAMERA.sub("", name), []).append(name)
    order = sorted(scenes, key=lambda scene: (_hash_fraction(scene), scene))
    held_out = max(1, round(SHARES["val"] * len(order))) if len(order) >= 3 else 0
    chosen = {"val": order[:held_out], "test": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    members = {partition: {name for scene in chosen[partition] for name in scenes[scene]} for partition in PARTITIONS}
    return {partition: [name for name in names if name in members[partition]] for partition in PARTITIONS}


def _hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name and SPLIT_SEED alone."""
    return int.from_bytes(hashlib.sha256(f"{SPLIT_SEED}:{name}".encode()).digest()[:6], "big") / 2**48


# --- lists ---------------------------------------------------------------------------------------


def read_list(file: Path, known: Collection[str], naming: Naming, *, root: str | Path) -> list[str]:
    """Read the names of clips from the first column of a csv file, with or without a heading and suffixes of videos.

    Args:
        file: The list, in UTF-8.
        known: The clips that there are, as ``naming`` spells them.
        naming: Makes one spelling of a name of several.
        root: Where the clips are; for the messages.

    Raises:
        ValueError: it is no text, is empty, or names a clip twice or one that is not there; with the line.
    """
    names = _names_in(file, known, naming, root=root)
    if not names:
        raise ValueError(f"{file}: expected the name of a clip a line, got none.")
    return names


def settle_lists(folder: Path, known: Collection[str], naming: Naming, split: Split, *, dry_run: bool) -> list[str]:
    """Check the lists that a folder has, or write them if it has none.

    Args:
        folder: Where the lists stand.
        known: The clips that there are.
        naming: As in ``read_list``.
        split: Makes the lists.
        dry_run: Write nothing.

    Returns:
        A line that tells of each list.

    Raises:
        ValueError: as ``read_list``; a clip is in two lists, or a list is missing beside others.
    """
    made = split(sorted(known, key=natural_key))
    files = {partition: folder / list_name(partition) for partition in PARTITIONS}
    parts = {name: _names_in(file, known, naming, root=folder) for name, file in files.items() if file.is_file()}
    _check_disjoint(parts, files)
    own = all(parts[partition] == made[partition] for partition in parts)  # of them, some: a run was killed
    if not own and len(parts) < len(PARTITIONS):
        lost = next(file for partition, file in files.items() if partition not in parts)
        raise ValueError(f"{lost}: expected this list beside {list_name(next(iter(parts)))}, got none. Add it.")
    if own and not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for partition, file in files.items():
            if parts.get(partition) != made[partition]:
                with atomic_write(file, "w") as target:
                    csv.writer(target, lineterminator="\n").writerows([["clip"], *([n] for n in made[partition])])
    shown = made if own else parts
    left = len(known) - sum(map(len, shown.values()))
    return [
        *(f"{files[partition]}: {len(shown[partition])} clips" for partition in PARTITIONS),
        *([f"{left} clips are in no list and not used; without the three lists they are made anew"] if left else []),
    ]


def _names_in(file: Path, known: Collection[str], naming: Naming, *, root: str | Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
        cells = [(rows.line_num, row[0].strip()) for row in rows if row and row[0].strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: expected a csv file in UTF-8, got another thing ({error}).") from error
    names: dict[str, int] = {}
    for number, (line, cell) in enumerate(cells):
        name = naming(cell)
        if name not in known and Path(name).suffix.lower() in VIDEO_SUFFIXES:
            name = stem(name)
        if name in names:
            raise ValueError(
                f"{file}:{line}: expected each clip once, got '{cell}', as in line {names[name]}. Remove it."
            )
        if name in known:
            names[name] = line
        elif number or cell.lower() not in _HEADINGS:
            close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"{file}:{line}: expected a clip of {root}, got '{cell}'.{hint} Add the clip or remove the line."
            )
    return list(names)


def _check_disjoint(parts: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> None:
    for one, other in itertools.combinations(parts, 2):
        if shared := sorted(set(parts[one]) & set(parts[other])):
            raise ValueError(
                f"{files[other]}: expected clips that {files[one].name} does not hold, but they share {len(shared)}, "
                f"'{shared[0]}' for one. Remove them from one of the two."
            )


def named_once(names: Iterable[str], naming: Naming, *, root: str | Path) -> dict[str, str]:
    """Return the clips' names as found by the names as ``naming`` spells them; raise ValueError if two become one."""
    found: dict[str, str] = {}
    for name in names:
        own = naming(name)
        if own in found:
            raise ValueError(f"{root}: expected one clip of the name '{own}', got {found[own]} and {name}. Rename one.")
        found[own] = name
    return found


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return next((mark for mark in ",;\t" if mark in first), ",")
