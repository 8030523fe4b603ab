import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from faultkit import make_read_only, tmpfs
from killing import environment, kill_and_repeat, tree
from kit import ROOT

from vsr.utils import logs

SCRIPT = str(ROOT / "scripts" / "prepare_reds.py")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[object, str]:
    """Run the script in this process, which takes no time to start; return the exit status and what it said."""
    monkeypatch.setattr(logs, "setup", lambda: None)  # it would take the log from the tests that follow
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    return end.value.code, capsys.readouterr().err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Official archives with three clips of train and one of val, in a folder with an awkward name."""
    root = tmp_path / "REDS (1) \u00fc"
    root.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for subset, scale in (("train_sharp", 1), ("train_sharp_bicubic", 4), ("val_sharp", 1), ("val_sharp_bicubic", 4)):
        split = subset.partition("_")[0]
        with zipfile.ZipFile(root / f"{subset}.zip", "w") as file:
            for clip in range(3 if split == "train" else 1):
                for frame in range(100):
                    png = cv2.imencode(".png", image[::scale, ::scale] + np.uint8(frame))[1].tobytes()
                    below = f"{split}/{subset}{'/X4' if scale == 4 else ''}/{clip:03d}/{frame:08d}.png"
                    file.writestr(below, png)
    return root


def test_the_script_ends_with_the_lines_for_an_option_file(root: Path) -> None:
    before = tree(root)
    dry = run("--root", root, "--allow_incomplete", "--dry_run")
    assert dry.returncode == 0, dry.stderr
    assert "300 files would go into" in dry.stderr
    assert "train_sharp_bicubic: 4 clips" in dry.stderr.replace("/X4", "")
    assert tree(root) == before
    done = run("--root", root, "--allow_incomplete", "--lmdb", "png", "--flow", "dis", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert f'dataroot_gt: "{root}/prepared/train_sharp_with_val.lmdb"' in done.stdout
    assert "meta_info_file: " in done.stdout
    assert f'dataroot_flow: "{root}/prepared/train_flow_bicubic/X4"' in done.stdout
    flow = np.load(root / "prepared" / "train_flow_bicubic" / "X4" / "240" / "00000001_00000000.npy")
    assert flow.shape == (12, 16, 2)
    assert sorted(os.listdir(root / "prepared" / "train_sharp_bicubic" / "X4")) == ["000", "001", "002", "240"]


@pytest.mark.fault
@pytest.mark.parametrize("after", [100, pytest.param(1000, marks=pytest.mark.slow)])  # unpacking; copying
def test_a_run_that_was_killed_leaves_after_all_what_an_uninterrupted_one_leaves(
    root: Path, tmp_path: Path, after: int
) -> None:
    whole = tmp_path / "whole" / root.name
    shutil.copytree(root, whole)
    command = [sys.executable, SCRIPT, "--allow_incomplete", "--regroup", "copy", "--workers", "0", "--root"]
    done = run(*command[2:], whole)
    assert done.returncode == 0, done.stderr
    kill_and_repeat([*command, str(root)], root / "prepared", after=after)
    first, second = ({k: v for k, v in tree(r).items() if k.split("/")[-1] not in NAMED} for r in (whole, root))
    assert first == second


NAMED = (".unpacked.json",)  # holds times


def test_flow_by_raft_needs_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run_here(monkeypatch, capsys, "--root", tmp_path, "--flow", "raft")
    assert status == 2
    assert "--flow raft needs --flow_weights" in said


def test_mistakes_end_in_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run_here(monkeypatch, capsys, "--root", root)
    assert status == 1
    assert "error: root: expected all of REDS's train_sharp, train_sharp_bicubic" in said
    assert "237 of 240 clips are missing (003, 004, 005, 006, 007, ...); they are in train_sharp.zip" in said
    assert not (root / "prepared").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    others = run("--root", root, "--allow_incomplete", "--output", tmp_path / "mine")
    assert others.returncode == 1
    assert others.stderr.count("\n") == 1
    assert "that holds other things (thesis.txt)" in others.stderr
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.fault
def test_a_disk_that_is_full_or_read_only_gives_one_line(root: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "100k") as disk:
        full = run("--root", root, "--allow_incomplete", "--output", disk / "out")
        assert full.returncode == 1
        assert "no space left: unpacking train_sharp.zip needs 2." in full.stderr
        assert full.stderr.splitlines()[-1].startswith("error: ")
        make_read_only(disk)
        read_only = run("--root", root, "--allow_incomplete", "--output", disk / "other")
        assert read_only.returncode == 1
        assert "other: cannot be written to: " in read_only.stderr
        assert read_only.stderr.splitlines()[-1].startswith("error: ")
