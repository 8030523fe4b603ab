import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.data.lmdb_storage import LmdbStorage
from vsr.utils.images import write_image

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts" / "make_lmdb.py")]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the script's main in the test's folder: (status, output, errors)."""
    spec = importlib.util.spec_from_file_location("make_lmdb", COMMAND[1])
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.logs, "setup", lambda: None)  # leaves the handlers of the tests alone

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["make_lmdb.py", *arguments])
        try:
            status = script.main()
        except SystemExit as end:
            status = int(str(end.code))
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for root, name, side in (("gt", "{}", 16), ("lq", "{}x4", 4)):
        (tmp_path / root).mkdir()
        for i in range(3):
            write_image(tmp_path / root / f"{name.format(i)}.png", np.full((side, side, 3), 9 * i, np.uint8))
    return tmp_path


def test_pairs_are_made_in_one_command_each_in_its_encoding(pairs: Path, make: Any) -> None:
    arguments = ("--gt", "gt", "--lq", "lq/", "--filename-tmpl", "{}x4", "--encoding", "tiles", "raw", "--workers", "1")
    status, output, _ = make(*arguments, "--dry-run")
    assert status == 0
    assert "gt: 3 images in 1 folders or videos -> " in output
    assert sorted(os.listdir(pairs)) == ["gt", "lq"]
    status, output, errors = make(*arguments)
    assert status == 0, errors
    assert output.split() == [str(pairs / "gt.lmdb"), str(pairs / "lq.lmdb")]
    assert sorted(os.listdir(pairs)) == ["gt", "gt.lmdb", "lq", "lq.lmdb"]
    storage = LmdbStorage()
    assert storage.images(str(pairs / "lq.lmdb"), "x") == ["0x4.png", "1x4.png", "2x4.png"]
    assert storage.read(str(pairs / "lq.lmdb" / "2x4.png"))[0, 0, 0] == 18
    assert storage.crops(str(pairs / "lq.lmdb" / "2x4.png"))
    status, _, errors = make(*arguments)
    assert status == 1
    assert "which exists" in errors


def test_pairs_that_do_not_fit_are_refused_before_anything_is_written(pairs: Path, make: Any) -> None:
    (pairs / "lq" / "1x4.png").unlink()
    status, _, errors = make("--gt", "gt", "--lq", "lq", "--filename-tmpl", "{}x4")
    assert status == 1
    assert "1 of GT are missing in LQ (1x4)" in errors
    assert sorted(os.listdir(pairs)) == ["gt", "lq"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder or a video"),
        (["--gt", "gt"], "--gt and --lq go together"),
        (["gt", "--output", "a.lmdb", "b.lmdb"], "--output: expected one for each of 1 roots, got 2"),
        (["gt", "--encoding", "jpg"], "invalid choice: 'jpg'"),
        (["gt", "--resume", "--fresh"], "not allowed with"),
    ],
)
def test_wrong_command_lines_are_refused(make: Any, arguments: list[str], message: str) -> None:
    status, _, errors = make(*arguments)
    assert status == 2
    assert message in errors


@pytest.mark.fault
@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_command_that_was_ended_in_the_middle_is_continued(tmp_path: Path, make: Any, end: signal.Signals) -> None:
    (tmp_path / "gt").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for i in range(80):
        write_image(tmp_path / "gt" / f"{i}.bmp", image)
    process = subprocess.Popen(
        [*COMMAND, "gt", "--workers", "1"],
        cwd=tmp_path,
        stderr=-1,
        text=True,
        # a shell that runs the tests in the background lets them, and so this process, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    data = tmp_path / "gt.lmdb.partial" / "data.mdb"
    while not data.exists() or data.stat().st_size < 30 << 20:  # the first commit is of 32 MB
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if end == signal.SIGKILL else 130), errors
    assert sorted(os.listdir(tmp_path)) == ["gt", "gt.lmdb.partial"]
    status, _, errors = make("gt")
    assert status == 1
    assert "--resume" in errors
    assert make("gt", "--resume", "--verify", "all")[:2] == (0, f"{tmp_path / 'gt.lmdb'}\n")
    assert sorted(os.listdir(tmp_path)) == ["gt", "gt.lmdb"]
    assert len(LmdbStorage().images(str(tmp_path / "gt.lmdb"), "x")) == 80
