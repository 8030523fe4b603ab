"""scripts/generate_flow.py: its command line, and a kill in the middle."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import kill_and_repeat, tree
from kit import ROOT

from vsr.engine.generate_flow import generate_flow
from vsr.utils.images import write_image

SCRIPT = ROOT / "scripts/generate_flow.py"


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the script's main in the test's folder: (status, output, errors)."""
    spec = importlib.util.spec_from_file_location("generate_flow_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.logs, "setup", lambda: None)  # leaves the handlers of the tests alone

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["generate_flow.py", *arguments])
        try:
            status = script.main()
        except SystemExit as end:
            status = int(str(end.code))
        return status, *capsys.readouterr()

    return run


def write_clips(root: Path, **counts: int) -> Path:
    noise = np.random.default_rng(1).integers(0, 256, (80, 96 + max(counts.values()), 3), dtype=np.uint8)
    for clip, count in counts.items():
        (root / clip).mkdir(parents=True)
        for i in range(count):
            write_image(root / clip / f"{i:08d}.png", np.ascontiguousarray(noise[:, i : i + 96]))
    return root


@pytest.mark.slow
@pytest.mark.fault
def test_a_run_that_was_killed_goes_on_to_the_same_files(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "train_sharp/X4", a=5, b=40)
    generate_flow(str(root), tmp_path / "whole" / "X4")
    target = tmp_path / "train_flow/X4"
    kill_and_repeat([sys.executable, str(SCRIPT), str(root), "--workers", "2"], target, after=3)
    made = tree(target)
    inner = [("a", i) for i in range(1, 4)] + [("b", i) for i in range(1, 39)]
    expected = {f"{clip}/{i:08d}_{n:08d}.npy" for clip, i in inner for n in (i - 1, i + 1)}
    assert {name for name in made if name.endswith(".npy")} == expected
    assert made == tree(tmp_path / "whole" / "X4")


def test_several_roots_and_their_folders_go_through_one_command(tmp_path: Path, main: Any) -> None:
    for split in ("train", "val"):
        write_clips(tmp_path / f"{split}_sharp_bicubic/X4", a=3)
    roots = ("train_sharp_bicubic/X4", "val_sharp_bicubic/X4")
    status, output, _ = main(*roots, "--dry-run")
    assert status == 0
    assert output.count(": 1 clips -> ") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train_sharp_bicubic", "val_sharp_bicubic"]
    status, output, _ = main(*roots, "--workers", "0")
    assert status == 0
    assert f"{roots[1]}: 1 clips -> {tmp_path}/val_flow_bicubic/X4: 2 flows, 0.1 MB" in output
    for folder in ("train_flow_bicubic", "val_flow_bicubic"):
        assert len(list((tmp_path / folder / "X4/a").glob("*.npy"))) == 2
    status, _, _ = main(*roots, "--workers", "0", "--output", "x", "y", "--preset", "fast", "--distance", "1")
    assert status == 0
    assert len(list((tmp_path / "y/a").glob("*.npy"))) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train_sharp/X5"], 1, "error: root: expected an existing file or folder, got 'train_sharp/X5'"),
        (["train_sharp/X4", "--method", "raft"], 1, "error: weights: expected the path of raft-small.pth"),
        (["train_sharp/X4", "--method", "raft", "--weights", "x.pth"], 1, "error: x.pth: expected a checkpoint"),
        (["train_sharp/X4", "--distance", "0"], 1, "error: distance: expected 1 or more"),
        (["train_sharp/X4", "--weights", "x.pth"], 2, "--weights does nothing for --method dis"),
        (["train_sharp/X4", "--method", "raft", "--preset", "fast"], 2, "--preset does nothing for --method raft"),
        (["train_sharp/X4", "--output", "a", "b"], 2, "--output: expected one for each of 1 roots, got 2"),
        (["train_sharp/X4", "--workers", "-1"], 2, "--workers: expected 0 or more"),
        ([], 2, "ROOT"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, main: Any, arguments: list[str], status: int, message: str) -> None:
    write_clips(tmp_path / "train_sharp/X4", a=3)
    found, _, errors = main(*arguments)
    assert found == status
    assert message in errors
    assert not list(tmp_path.rglob("*.npy"))
