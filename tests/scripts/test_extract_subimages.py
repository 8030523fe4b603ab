import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import kill_and_repeat, tree
from kit import ROOT

from vsr.config import load_options
from vsr.data.paired_image import PairedImageDataset
from vsr.utils.images import write_image

COMMAND = [sys.executable, str(ROOT / "scripts" / "extract_subimages.py")]


def write_div2k(root: Path) -> list[str]:
    """DIV2K's folders with three small images; return the arguments that cut them."""
    rng = np.random.default_rng(6)
    for name in ("0001", "0002", "0003"):
        (root / "DIV2K_train_HR").mkdir(parents=True, exist_ok=True)
        write_image(root / "DIV2K_train_HR" / f"{name}.png", rng.integers(0, 256, (480, 600, 3), dtype=np.uint8))
        for scale in (2, 3, 4):
            folder = root / "DIV2K_train_LR_bicubic" / f"X{scale}"
            folder.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (480 // scale, 600 // scale, 3), dtype=np.uint8)
            write_image(folder / f"{name}x{scale}.png", image)
    lower = [str(root / "DIV2K_train_LR_bicubic" / f"X{scale}") for scale in (2, 3, 4)]
    return [str(root / "DIV2K_train_HR"), "--lq", *lower]


@pytest.mark.slow
def test_a_killed_run_of_several_processes_goes_on(tmp_path: Path, run_script: Any) -> None:
    whole, killed = tmp_path / "whole" / "DIV2K", tmp_path / "killed" / "DIV2K"
    arguments = [*write_div2k(whole), "--crop_size", "120", "--step", "60", "--workers", "0"]
    status, told, errors = run_script("extract_subimages.py", *arguments)
    assert status == 0, errors
    # 7 rows, 9 columns
    assert told.splitlines()[0] == f"{whole}/DIV2K_train_HR_sub: 189 parts of 3 images"
    before = len(tree(whole))
    command = [*COMMAND, *write_div2k(killed), "--crop_size", "120", "--step", "60", "--workers", "2"]
    sources = len(list(killed.rglob("*.png")))
    again = kill_and_repeat(command, killed, after=sources + 20)
    assert "DIV2K_train_HR_sub: 189 parts of 3 images" in again.stdout
    assert tree(killed) == tree(whole)
    assert len(tree(whole)) == before


def test_the_option_files_name_what_the_script_makes(tmp_path: Path, run_script: Any) -> None:
    """With BasicSR's own sizes, where 480x600 is a single row of two parts."""
    root = tmp_path / "datasets" / "DIV2K"
    assert run_script("extract_subimages.py", *write_div2k(root), "--workers", "0")[0] == 0
    checked = 0
    for file in sorted((ROOT / "options" / "train").glob("*/*_div2k.yml")):
        options = load_options(file)
        roots = options.datasets["train"].dataset.args
        dataset = PairedImageDataset(
            dataroot_gt=str(tmp_path / roots["dataroot_gt"]), dataroot_lq=str(tmp_path / roots["dataroot_lq"]),
            filename_tmpl=roots.get("filename_tmpl", "{}"), scale=options.scale, gt_size=roots["gt_size"],
        )  # fmt: skip
        assert dataset.keys == [f"{name}_s00{part}" for name in ("0001", "0002", "0003") for part in (1, 2)], file
        checked += 1
    assert checked >= 5


def test_mistakes_end_in_one_line(tmp_path: Path, run_script: Any) -> None:
    arguments = write_div2k(tmp_path)
    before = tree(tmp_path)
    for extra, wanted, message in (
        (["--crop_size", "121", "--step", "60"], 1, "error: crop_size: expected a multiple of the scale 2, got 121"),
        (["--step", "481"], 1, "error: step: expected 480 (crop_size) or less, got 481"),
        (["--output", "a", "b"], 2, "error: --output: expected one for each of 4 folders, got 2"),
        (["--workers", "-1"], 2, "error: argument --workers: expected"),
    ):
        status, told, errors = run_script("extract_subimages.py", *arguments, *extra)
        assert (status, told) == (wanted, "")
        assert message in errors.splitlines()[-1]
    assert tree(tmp_path) == before
