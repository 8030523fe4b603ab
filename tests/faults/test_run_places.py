"""Places that a run cannot use, names that are hard to use, and data that go away: told before the first step."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultkit import fill_up, in_child, make_read_only, tmpfs
from killing import tree
from kit import history

from vsr.config import load_options
from vsr.engine import run_folder
from vsr.engine.checkpoint import newest_valid
from vsr.engine.cli import train_main
from vsr.engine.run_folder import RunFolder
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel

pytestmark = pytest.mark.fault


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step would be too late."""

    def step(*_: object) -> None:
        raise AssertionError("there was a step")

    monkeypatch.setattr(RestorationModel, "train_step", step)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert train_main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1].partition("error: ")[2]


@pytest.mark.usefixtures("no_step")
def test_a_disk_that_cannot_be_written_to_is_told_before_the_first_step(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        for name in ("tiny/models", "tiny/training_states"):
            (disk / name).mkdir(parents=True)
        (disk / "tiny" / "notes.txt").write_text("mine")
        filler = fill_up(disk, leave=0)
        arguments = ["-opt", str(tiny), "--set", f"path.experiments_root={disk}"]
        full = refused(capsys, *arguments)
        assert "path.experiments_root: expected a place for the run's folder" in full
        assert "No space left on device" in full
        filler.unlink()
        make_read_only(disk)
        before = tree(disk)
        for more in ([], ["--fresh"], ["name=new"]):
            read_only = refused(capsys, *(["--fresh", *arguments] if more == ["--fresh"] else [*arguments, *more]))
            assert "path.experiments_root: expected a place for the run's folder" in read_only
            assert "Read-only file system" in read_only
        assert tree(disk) == before


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere") / "deep")


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("make", [a_file, a_link_to_itself, a_link_to_nowhere])
@pytest.mark.parametrize("where", ["experiments", "experiments/tiny", "experiments/tiny/models"])
def test_something_else_in_the_folders_place_is_named_and_kept(
    tiny: Path, tmp_path: Path, make: Callable[[Path], None], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    error = refused(capsys, "-opt", str(tiny))
    assert error.startswith("[Errno ")
    assert "path.experiments_root: expected a place for the run's folder" in error
    assert str(path) in error
    assert os.path.lexists(path)
    assert make is not a_file or path.read_text() == "mine"


@pytest.mark.parametrize("name", ["two words", "größe 测试 🎞", "it's $HOME; true #1", "n" * 200])
def test_runs_and_clips_of_hard_names_train_go_on_and_leave_pictures(
    tiny: Path, clips: Path, tmp_path: Path, name: str
) -> None:
    for part in ("train/a", "val/c"):
        (clips / part).rename(clips / Path(part).parent / name)
    roots = tmp_path / f"all of {name[:50].replace('#', '')}"
    (tmp_path / "clips").rename(roots)
    tiny.write_text(tiny.read_text(encoding="utf-8").replace(str(clips), str(roots)).replace("name: tiny\n", ""))
    with tiny.open("a", encoding="utf-8") as file:
        file.write(f'name: "{name}"\n')
    options = load_options(tiny, ["val.save_img=true", "train.total_iter=4"])
    train(options)
    train(load_options(tiny, ["train.total_iter=5"]))
    root = tmp_path / "experiments" / name
    assert sorted(history(root)) == [1, 2, 3, 4, 5]
    assert len(list(root.glob("visualization/val/4/*/*.png"))) == 9
    train(load_options(tiny, ["train.total_iter=1"]), fresh=True)
    assert len(list((tmp_path / "experiments").iterdir())) == 2


def test_a_name_that_no_folder_can_have_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected the name of a folder: 1 to 200 bytes" in refused(
        capsys, "-opt", str(tiny), "--set", f"name={'n' * 300}"
    )
    assert not (tmp_path / "experiments").exists()


def test_links_that_lead_in_circles_do_not_keep_a_run_from_its_data(tiny: Path, clips: Path, tmp_path: Path) -> None:
    (clips / "train" / "a" / "loop").symlink_to(clips / "train")
    (clips / "train" / "itself").symlink_to(clips / "train" / "itself")
    train(load_options(tiny, ["train.total_iter=1"]))
    keys = {key.partition("/")[0] for key in history(tmp_path / "experiments" / "tiny")[1]["keys"]}
    assert keys <= {"a", "b"}


@pytest.mark.usefixtures("no_step")
def test_data_that_are_not_there_are_told_before_the_first_step(
    tiny: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "train").rename(clips / "elsewhere")
    error = refused(capsys, "-opt", str(tiny))
    assert "dataroot_gt: expected an existing file or folder" in error
    assert str(clips / "train") in error


def test_data_that_vanish_end_the_run_with_the_name_of_what_is_missing(
    tiny: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RestorationModel.train_step

    def train_step(self: RestorationModel, batches: list[Any], step: int) -> Any:
        if step == 6:
            (clips / "train").rename(clips / "elsewhere")
        return original(self, batches, step)

    monkeypatch.setattr(RestorationModel, "train_step", train_step)
    error = refused(capsys, "-opt", str(tiny))
    assert f"{clips / 'train'}" in error
    states = tmp_path / "experiments" / "tiny" / "training_states"
    assert newest_valid(states) == states / "4.state"
    (clips / "elsewhere").rename(clips / "train")
    monkeypatch.undo()
    assert train_main(["-opt", str(tiny)]) == 0
    assert newest_valid(states) == states / "8.state"


def test_of_several_runs_that_begin_at_once_in_one_folder_one_trains(tiny: Path, tmp_path: Path) -> None:
    options = load_options(tiny)
    release, told = tmp_path / "release", tmp_path / "told"
    told.mkdir()

    def take(number: int) -> None:
        try:
            folder = RunFolder(options, fresh=False)
        except RuntimeError as error:
            (told / f"refused{number}").write_text(str(error))
            return
        (told / f"took{number}").touch()
        while not release.exists():
            threading.Event().wait(0.01)
        folder.close()

    children = [threading.Thread(target=in_child, args=(lambda n=n: take(n),)) for n in range(4)]
    for child in children:
        child.start()
    try:
        while len(list(told.iterdir())) < 4 and any(child.is_alive() for child in children):
            threading.Event().wait(0.01)
    finally:
        release.touch()
        for child in children:
            child.join()
    assert len(list(told.glob("took*"))) == 1
    refusals = [path.read_text() for path in told.glob("refused*")]
    assert len(refusals) == 3
    assert all("expected no other run in this folder" in text for text in refusals)


def test_a_folder_that_another_run_archives_at_this_moment_is_not_archived_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were started with --fresh: the one waits for the lock of a folder that the other has renamed meanwhile."""
    options = load_options(tiny)
    RunFolder(options, fresh=False).close()
    root = tmp_path / "experiments" / "tiny"
    lockf = run_folder.fcntl.lockf

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        run_folder.archive(root)
        (root / "models").mkdir(parents=True)
        (root / ".lock").touch()
        return lockf(*arguments)

    monkeypatch.setattr(run_folder.fcntl, "lockf", late)
    with pytest.raises(RuntimeError, match="one has begun to archive it at this moment"):
        RunFolder(options, fresh=True)
    assert (root / "models").is_dir()
    assert len(list((tmp_path / "experiments").iterdir())) == 2
