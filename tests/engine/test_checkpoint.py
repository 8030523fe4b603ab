"""Training states: whole or absent, and skipped when a byte is wrong."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faultkit import flip_byte, truncate
from kit import ROOT, final_state, history

from vsr.config import load_options
from vsr.engine import checkpoint
from vsr.engine.train import train
from vsr.utils.files import atomic_write


@pytest.fixture
def states(tiny: Path, tmp_path: Path) -> Path:
    """The states of steps 4 and 8 of a finished run."""
    train(load_options(tiny))
    return tmp_path / "experiments" / "tiny" / "training_states"


def damage(path: Path, how: str) -> None:
    if how == "one flipped bit":
        flip_byte(path)
    else:
        truncate(path, float(how.rstrip("%")) / 100)


@pytest.mark.fault
@pytest.mark.parametrize("how", ["0%", "10%", "50%", "99%", "one flipped bit"])
def test_a_damaged_newest_state_is_skipped_and_named(states: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    damage(states / "8.state", how)
    logging.getLogger("vsr").propagate = True
    assert checkpoint.newest_valid(states) == states / "4.state"
    assert "8.state: skipped" in caplog.text


@pytest.mark.fault
def test_a_state_without_its_json_is_no_state(states: Path) -> None:
    (states / "8.json").unlink()
    assert checkpoint.newest_valid(states) == states / "4.state"
    (states / "4.json").write_text("{")
    assert checkpoint.newest_valid(states) is None


@pytest.mark.fault
def test_a_run_whose_newest_state_is_damaged_continues_from_the_one_before(tiny: Path, states: Path) -> None:
    expected = final_state(states.parent, 8)
    damage(states / "8.state", "50%")
    train(load_options(tiny))
    again = final_state(states.parent, 8)
    assert all(torch.equal(expected[key], again[key]) for key in expected)


@pytest.mark.fault
def test_a_damaged_state_named_by_the_user_is_an_error(tiny: Path, states: Path) -> None:
    damage(states / "8.state", "one flipped bit")
    with pytest.raises(ValueError, match=r"8\.state: expected a whole training state, but its content has changed"):
        train(load_options(tiny, [f"path.resume_state={states / '8.state'}"]))


def test_a_state_that_is_not_there_is_named(tiny: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.state: expected a training state"):
        train(load_options(tiny, ["path.resume_state=nowhere.state"]))


def test_states_that_a_run_leaves_behind_are_not_taken_for_its_own(tiny: Path, states: Path) -> None:
    # Of 4 and 8, both of the earlier run, 8 is the newer name: in its place, it would outlive the new run's 5 and 6.
    train(load_options(tiny, [f"path.resume_state={states / '4.state'}", "train.total_iter=6", "name=tiny"]))
    assert checkpoint.newest_valid(states) == states / "6.state"
    assert [p.name for p in states.glob("abandoned_*/*.state")] == ["8.state"]
    # Its weights would be tested, or start a next stage, as the newest of this run.
    assert [p.name for p in states.glob("abandoned_*/*.pth")] == ["net_g_8.pth"]
    assert not (states.parent / "models" / "net_g_8.pth").exists()


@pytest.mark.fault
@pytest.mark.parametrize("file", ["8.json", "8.state"])
def test_a_state_that_the_disk_does_not_give_is_skipped(
    states: Path, file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = Path.open

    def broken(self: Path, *args: Any, **settings: Any) -> Any:
        if self.name == file:
            raise OSError(errno.EIO, "Input/output error", str(self))
        return read(self, *args, **settings)

    monkeypatch.setattr(Path, "open", broken)
    assert checkpoint.newest_valid(states) == states / "4.state"
    assert "cannot be read" in caplog.text


def test_a_refused_continuation_leaves_the_runs_options_as_they_were(tiny: Path, states: Path) -> None:
    before = (states.parent / "options.yml").read_text()
    with pytest.raises(ValueError, match="another shape"):
        train(load_options(tiny, ["network_g.width=12"]))
    assert (states.parent / "options.yml").read_text() == before


def test_a_whole_state_has_its_weights_beside_it(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        train(load_options(tiny))
    assert checkpoint.newest_valid(tmp_path / "experiments" / "tiny" / "training_states") is None


def test_only_the_last_states_are_kept(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny, ["logger.save_checkpoint_freq=1"]))
    root = tmp_path / "experiments" / "tiny"
    assert sorted(p.name for p in (root / "training_states").iterdir()) == ["7.json", "7.state", "8.json", "8.state"]
    assert sorted(p.name for p in (root / "models").iterdir()) == ["net_g_7.pth", "net_g_8.pth", "net_g_best.pth"]


@pytest.mark.fault
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 1.0])
def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from vsr.utils.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * int(sys.argv[2])); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path), str(int(1e6 * fraction))], cwd=ROOT, check=False)
    assert result.returncode == -9
    assert path.read_bytes() == b"old"


@pytest.mark.fault
def test_a_full_disk_keeps_the_old_file_and_says_what_is_free(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_to_a_full_disk() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="no space left on the disk") as error:
        write_to_a_full_disk()
    assert re.search(r"need [\d.]+ MB or more, free [\d.]+ MB at .*", str(error.value))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_the_files_of_a_run_can_be_read_by_colleagues(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_state_named_in_the_options_is_taken_once(tiny: Path, tmp_path: Path) -> None:
    """A run that starts from a named state and is stopped goes on from its own states, not from the named one again."""
    train(load_options(tiny))
    named = tmp_path / "experiments" / "tiny" / "training_states" / "4.state"
    other = ["name=other", f"path.resume_state={named}"]
    train(load_options(tiny, [*other, "train.total_iter=6"]))
    assert sorted(history(tmp_path / "experiments" / "other")) == [5, 6]
    train(load_options(tiny, other))
    entries = (tmp_path / "experiments" / "other" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in entries if '"lr"' in line] == [5, 6, 7, 8]


def test_a_run_continues_without_the_checkpoint_that_it_started_from(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny, ["name=first", "train.total_iter=1"]))
    pretrained = tmp_path / "pretrained.pth"
    (tmp_path / "experiments" / "first" / "models" / "net_g_1.pth").rename(pretrained)
    options = [f"path.pretrain_network_g={pretrained}"]
    train(load_options(tiny, [*options, "train.total_iter=4"]))
    pretrained.unlink()
    train(load_options(tiny, options))
    assert sorted(history(tmp_path / "experiments" / "tiny")) == list(range(1, 9))


def test_pretrained_weights_start_the_network_and_its_average(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny, ["name=first", "train.total_iter=3"]))
    weights = tmp_path / "experiments" / "first" / "models" / "net_g_3.pth"
    still = ["train.optim_g.lr=0.0", "train.scheduler=null", "train.total_iter=1"]
    train(load_options(tiny, [f"path.pretrain_network_g={weights}", *still]))
    expected = torch.load(weights, weights_only=True)["params_ema"]
    found = torch.load(tmp_path / "experiments" / "tiny" / "models" / "net_g_1.pth", weights_only=True)
    for entry in ("params", "params_ema"):
        assert all(torch.equal(found[entry][key], expected[key]) for key in expected)
