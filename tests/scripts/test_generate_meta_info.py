from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import ROOT

from vsr.config import load_options
from vsr.data.paired_image import PairedImageDataset
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


def test_nafnets_300_frames_of_reds_are_listed_as_its_option_files_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Any
) -> None:
    """Every tenth frame of val_sharp as the archives have it, and its JPEG in val_blur_jpeg."""
    monkeypatch.chdir(tmp_path)
    options = load_options(ROOT / "options" / "test" / "NAFNet" / "nafnet_w64_reds.yml")
    trained = load_options(ROOT / "options" / "train" / "NAFNet" / "nafnet_w64_reds.yml")
    arguments = options.datasets["test"].dataset.args
    assert trained.datasets["val"].dataset.args == arguments
    for root, suffix in (("dataroot_gt", "png"), ("dataroot_lq", "jpg")):
        for clip in ("000", "029"):
            folder = Path(arguments[root]) / clip
            folder.mkdir(parents=True)
            for frame in range(100):
                write_image(folder / f"{frame:08d}.{suffix}", np.zeros((8, 8, 3), np.uint8))
    command = next(
        line.lstrip("# ") + " " + following.lstrip("# ")
        for line, following in pairwise((ROOT / "options/test/NAFNet/nafnet_w64_reds.yml").read_text().splitlines())
        if "generate_meta_info.py" in line
    )
    assert command.startswith("python scripts/generate_meta_info.py ")
    status, _, errors = run_script("generate_meta_info.py", *command.split()[2:])
    assert status == 0, errors
    dataset = PairedImageDataset(**arguments, scale=1)
    assert dataset.keys == [f"{clip}/{frame:08d}" for clip in ("000", "029") for frame in range(9, 100, 10)]
