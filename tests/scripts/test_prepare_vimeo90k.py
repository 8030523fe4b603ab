import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from killing import environment, kill_and_repeat, tree
from kit import ROOT

SCRIPT = str(ROOT / "scripts" / "prepare_vimeo90k.py")
NAMES = [f"{i // 10 + 1:05d}/{i % 10 + 1:04d}" for i in range(12)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official archive with twelve septuplets, in a folder with an awkward name."""
    root = tmp_path / "vimeo (1) \u00fc"
    root.mkdir()
    png = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (128, 224, 3), dtype=np.uint8))[1].tobytes()
    with zipfile.ZipFile(root / "vimeo_septuplet.zip", "w") as file:
        file.writestr("vimeo_septuplet/sep_trainlist.txt", "\n".join(NAMES[:-1]))
        file.writestr("vimeo_septuplet/sep_testlist.txt", NAMES[-1])
        for name in NAMES:
            for i in range(1, 8):
                file.writestr(f"vimeo_septuplet/sequences/{name}/im{i}.png", png)
    return root


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(  # 86 files are unpacked, and as many LR frames made
    ("after", "workers"),
    [(100, 0), (30, 0), (100, 2)],
)
def test_a_run_that_was_killed_leaves_after_all_what_an_uninterrupted_one_leaves(
    root: Path, after: int, workers: int
) -> None:
    command = [sys.executable, SCRIPT, "--root", str(root), "--lr", "bicubic", "--workers", str(workers), "--output"]
    again = kill_and_repeat([*command, str(root / "killed")], root / "killed", after=after)
    assert f'dataroot_lq: "{root}/killed/vimeo_septuplet_matlabLRx4/sequences"' in again.stdout
    whole = subprocess.run([*command, str(root / "whole")], env=environment(), capture_output=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert tree(root / "killed") == tree(root / "whole")
    assert len(list((root / "whole").rglob("im?.png"))) == 2 * 7 * 12


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--root", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: root: expected Vimeo-90K in ")
    assert done.stderr.count("\n") == 1
    assert tree(tmp_path) == {}
