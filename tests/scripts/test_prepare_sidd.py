import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from killing import kill_and_repeat, tree
from kit import ROOT

from vsr.config import load_options
from vsr.data.paired_image import PairedImageDataset
from vsr.utils.images import write_image

COMMAND = [sys.executable, str(ROOT / "scripts" / "prepare_sidd.py")]


@pytest.fixture
def sidd(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    root = tmp_path / "downloads"
    scene = root / "SIDD_Medium_Srgb" / "Data" / "0001_001_S6_00100_00060_3200_L"
    scene.mkdir(parents=True)
    for kind in ("GT", "NOISY"):
        for number in ("010", "011"):
            image = rng.integers(0, 256, (100, 120, 3), dtype=np.uint8)
            write_image(scene / f"0001_{kind}_SRGB_{number}.PNG", image)
    for name in ("ValidationGtBlocksSrgb", "ValidationNoisyBlocksSrgb"):
        scipy.io.savemat(root / f"{name}.mat", {name: rng.integers(0, 256, (2, 32, 16, 16, 3), dtype=np.uint8)})
    return root


def test_a_killed_run_goes_on_to_what_the_option_files_name(
    sidd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Any
) -> None:
    arguments = [str(sidd), "--crop_size", "48", "--step", "8", "--workers", "0", "--root"]
    whole, killed = tmp_path / "whole" / "datasets" / "SIDD", tmp_path / "killed" / "datasets" / "SIDD"
    status, told, errors = run_script("prepare_sidd.py", *arguments, str(whole))
    assert status == 0, errors
    assert f"{whole}/train/input_crops: 160 parts of 2 images\n" in told  # 8 rows, 10 columns
    assert f"{whole}/val/gt_crops: 64 blocks\n" in told
    kill_and_repeat([*COMMAND, *arguments, str(killed)], killed, after=180)
    assert tree(killed) == tree(whole)
    monkeypatch.chdir(tmp_path / "killed")
    for file in sorted((ROOT / "options").glob("*/NAFNet/*_sidd.yml")):
        for section in load_options(file).datasets.values():
            roots = section.dataset.args
            assert len(PairedImageDataset(dataroot_gt=roots["dataroot_gt"], dataroot_lq=roots["dataroot_lq"], scale=1))


def test_mistakes_and_dry_runs_of_sidd_leave_nothing(sidd: Path, tmp_path: Path, run_script: Any) -> None:
    before = tree(tmp_path)
    status, told, errors = run_script(
        "prepare_sidd.py", str(sidd / "SIDD_Medium_Srgb" / "Date"), "--root", str(tmp_path)
    )
    assert (status, told, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("error: source: expected an existing file or folder")
    arguments = ("--root", str(tmp_path / "out"), "--crop_size", "48", "--step", "8", "--dry_run", "--lmdb", "raw")
    status, told, errors = run_script("prepare_sidd.py", str(sidd), *arguments)
    assert status == 0, errors
    assert f"{tmp_path}/out/train/gt_crops.lmdb: 160 parts of 2 images, would be made\n" in told
    assert tree(tmp_path) == before
