from pathlib import Path

import pytest
import yaml
from kit import write_frames

from vsr.data.lmdb_writer import Recipe
from vsr.data.prepare_outputs import lmdb_of, quoted, write_lines


def test_a_list_is_written_again_only_if_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    write_lines(file, ["a", "\u00fc"])
    time = file.stat().st_mtime_ns
    write_lines(file, ["a", "\u00fc"])
    assert (file.read_text(encoding="utf-8"), file.stat().st_mtime_ns) == ("a\n\u00fc\n", time)
    write_lines(file, ["b"])
    assert file.read_text() == "b\n"


def test_an_lmdb_of_another_number_of_images_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "gt" / "a", 2, (8, 8), seed=0)
    recipe = Recipe(str(tmp_path / "gt"), str(tmp_path / "gt.lmdb"))
    made = lmdb_of(recipe, 2, workers=0)
    assert lmdb_of(recipe, 2, workers=0) == made
    with pytest.raises(ValueError, match=r"gt\.lmdb: expected the 3 images that are in .*gt now, got 2\."):
        lmdb_of(recipe, 3, workers=0)


@pytest.mark.parametrize("name", ["a b (1): #x", 'quo"te', "\u00fc\u2603", "back\\slash"])
def test_a_path_in_an_option_file_is_read_as_it_was(name: str) -> None:
    assert yaml.safe_load(f"root: {quoted(Path(name))}") == {"root": name}
