"""What the scripts that prepare video data sets write beside images: lists, LMDBs, lines for option files."""

import json
from collections.abc import Iterable
from pathlib import Path

from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.utils.files import atomic_write


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file of our own, unless it has these lines already."""
    text = "".join(f"{line}\n" for line in lines)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with atomic_write(file, "w") as out:
            out.write(text)


def lmdb_of(recipe: Recipe, count: int, *, workers: int) -> Path:
    """Make an LMDB, or go on with it, and return its folder.

    Raises:
        ValueError: there is one of another number of images than ``count``.
    """
    made = make_lmdb(recipe, workers=workers or 1, resume=True)
    with (made / "meta_info.txt").open(encoding="utf-8") as file:
        found = sum(1 for _ in file)
    if found != count:
        raise ValueError(
            f"{made}: expected the {count} images that are in {recipe.root} now, got {found}. It was made of others: "
            "remove it and run the same command again."
        )
    return made


def quoted(path: Path) -> str:
    """Return a path as YAML takes it, whatever is in it."""
    return json.dumps(str(path), ensure_ascii=False)
