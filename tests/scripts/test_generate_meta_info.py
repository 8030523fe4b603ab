from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.utils.images import write_image


def test_lists_lie_beside_their_roots_and_no_other_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("hr/a b.png", "clips/000/1.png", "clips/000/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.zeros((8, 9, 3), np.uint8))
    told = run_script("generate_meta_info.py", "hr", "clips/", "--dry_run")[1]
    assert told == "a b.png (8,9,3)\n000 2 (8,9,3)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "hr"]
    for _ in range(2):  # the same again is no mistake
        status, _, errors = run_script("generate_meta_info.py", "hr", "clips/")
        assert (status, errors) == (0, "")
    assert (tmp_path / "meta_info_hr.txt").read_text() == "a b.png (8,9,3)\n"
    assert (tmp_path / "meta_info_clips.txt").read_text() == "000 2 (8,9,3)\n"
    write_image(tmp_path / "hr" / "c.png", np.zeros((8, 9, 3), np.uint8))
    status, _, errors = run_script("generate_meta_info.py", "hr")
    assert status == 1
    assert errors.startswith("error: ")
    assert "expected no such file, or the same list, got another" in errors
    assert run_script("generate_meta_info.py", "hr", "--output", "a.txt", "b.txt")[0] == 2
