import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import environment, tree

from vsr.data import prepare
from vsr.data.prepare import run_jobs, script_arguments, target_folder, write_once


def square(number: int) -> int:
    if number == 7:
        raise ValueError("image 7: expected a number, got a seven")
    if number == 8:
        os._exit(3)
    return number * number


def process_of(_: int) -> int:
    time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert run_jobs(square, [5, 3, 1], workers=workers, what="squares") == [25, 9, 1]
    assert run_jobs(square, [], workers=workers, what="squares") == []


def test_the_number_of_workers_says_which_processes_work() -> None:
    assert set(run_jobs(process_of, range(4), workers=0, what="processes")) == {os.getpid()}
    others = set(run_jobs(process_of, range(8), workers=2, what="processes"))
    assert os.getpid() not in others
    assert len(others) <= 2
    with pytest.raises(ValueError, match="workers: expected 0 or more, got -1"):
        run_jobs(square, [1], workers=-1, what="squares")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_failure_ends_it_with_its_own_message(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^image 7: expected a number, got a seven$"):
        run_jobs(square, [1, 7, 2], workers=workers, what="squares")


def test_a_killed_worker_is_told_of() -> None:
    with pytest.raises(ChildProcessError, match="a worker process was killed, perhaps for want of memory"):
        run_jobs(square, [1, 8, 2], workers=2, what="squares")


def test_progress_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.utils.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO", "vsr"):
        run_jobs(square, [1, 2], workers=0, what="squares", unit="numbers")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("squares: 1 of 2 numbers, ")
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith("squares: 2 numbers in 0 s (")


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from vsr.data.prepare import run_jobs\n"
        "def work(job):\n"
        "    Path(sys.argv[1], str(os.getpid())).touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(work, [1, 2], workers=2, what='naps')\n",
        encoding="utf-8",
    )
    (tmp_path / "pids").mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "pids")], env=environment())
    end = time.monotonic() + 60
    while len(pids := os.listdir(tmp_path / "pids")) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(pids) == 2
    while any(Path("/proc", pid, "cmdline").exists() and Path("/proc", pid, "cmdline").read_bytes() for pid in pids):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.01)


def test_an_output_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.png"

    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        assert path.suffix == ".png"
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        write_once(target, fails)
    assert os.listdir(target.parent) == []
    assert write_once(target, lambda path: path.write_bytes(b"whole"))
    assert not write_once(target, lambda path: path.write_bytes(b"other"))
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["a.png"]


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'n' * 251}.png"
    assert write_once(target, lambda path: path.write_bytes(b"x"))
    assert os.listdir(tmp_path) == [target.name]


def test_a_full_disk_is_told_of_with_the_space(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"a\.png: no space left on the disk, .* are free\. What was written before is"):
        write_once(tmp_path / "a.png", full)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_claimed_and_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "new" / "out (\u00e4)", {"scale": 4, "roots": ("a", "b"), "lmdb": None}
    with pytest.raises(KeyboardInterrupt), target_folder(folder, recipe) as path:  # noqa: PT012
        (path / "a.png").write_bytes(b"a")
        raise KeyboardInterrupt
    assert json.loads((folder / "vsr.json").read_text())["complete"] is False
    with target_folder(folder, recipe) as path:
        assert path == folder
        assert (path / "a.png").exists()
    assert json.loads((folder / "vsr.json").read_text()) == {
        "recipe": {"scale": 4, "roots": ["a", "b"], "lmdb": None},
        "complete": True,
    }
    before = tree(folder), (folder / "vsr.json").stat().st_mtime_ns
    with target_folder(folder, recipe):
        pass
    assert (tree(folder), (folder / "vsr.json").stat().st_mtime_ns) == before


def test_another_recipe_is_refused_and_named(tmp_path: Path) -> None:
    with target_folder(tmp_path / "out", {"scale": 4, "root": "a"}):
        pass
    for dry_run in (False, True):
        with (
            pytest.raises(ValueError, match=r"begun with the same arguments, but it has scale: 4 \(now 2\)\. Use"),
            target_folder(tmp_path / "out", {"scale": 2, "root": "a"}, dry_run=dry_run),
        ):
            pass


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("vsr.json", "other.txt"):  # a vsr.json of something else makes it none of ours
        (tmp_path / name).write_text("{}")
        before = tree(tmp_path)
        with (
            pytest.raises(ValueError, match=r"expected a new or empty folder, .* that holds other things \(mine\.txt"),
            target_folder(tmp_path, {}),
        ):
            pass
        assert tree(tmp_path) == before
    with pytest.raises(ValueError, match="expected a folder, got a file"), target_folder(tmp_path / "mine.txt", {}):
        pass


def test_a_run_that_died_while_it_claimed_its_folder_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".vsr.lock").touch()
    (tmp_path / ".vsr.json.abc.tmp").write_text('{"rec')
    with target_folder(tmp_path, {"a": 1}):
        pass
    assert sorted(set(os.listdir(tmp_path)) - {".vsr.lock"}) == ["vsr.json"]


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with (
        target_folder(tmp_path, {}),
        pytest.raises(ValueError, match="another process writes into this folder right now"),
        target_folder(tmp_path, {}),
    ):
        pass


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    with target_folder(tmp_path / "a" / "b", {}, dry_run=True) as path:
        assert path == tmp_path / "a" / "b"
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"file/out: cannot be written to: .*Name another folder"),
        target_folder(tmp_path / "file" / "out", {}),
    ):
        pass


def test_scripts_have_the_same_arguments() -> None:
    parser = argparse.ArgumentParser()
    script_arguments(parser)
    assert vars(parser.parse_args(["--workers", "0", "--dry-run"])) == {"workers": 0, "dry_run": True}
    assert parser.parse_args([]).workers >= 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--workers", "-1"])


def test_archives_are_unpacked_by_the_same_module() -> None:
    assert prepare.safe_unpack.__module__ == "vsr.utils.archives"


@pytest.mark.fault
@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_interrupted_run_leaves_whole_outputs_only(tmp_path: Path, workers: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from vsr.data.prepare import run_jobs, write_once\n"
        "if __name__ != '__main__':\n"
        "    time.sleep(os.getpid() % 2)\n"  # one worker still starts when the other works
        "def slowly(path):\n"
        "    path.write_bytes(b'half')\n"
        "    time.sleep(0.05)\n"
        "    path.write_bytes(b'whole')\n"
        "def work(job):\n"
        "    write_once(Path(sys.argv[1], f'{job}.png'), slowly)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        run_jobs(work, range(10000), workers=int(sys.argv[2]), what='x')\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(out), workers],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that runs the tests in the background lets them, and so this process, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not list(out.glob("[0-9]*.png")) and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal sends it: to all of them
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert {path.read_bytes() for path in out.iterdir()} == {b"whole"}
    assert not list(out.glob(".*"))
