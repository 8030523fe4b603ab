"""The fault kit does what it says: a fault that never happens would let every test of it pass."""

import errno
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from faultkit import (
    FaultyFile,
    bomb_png,
    faulty_writes,
    fill_up,
    flip_byte,
    in_child,
    make_read_only,
    run_ranks,
    state_hash,
    stub_program,
    tmpfs,
    truncate,
)
from torch import nn

from vsr.utils.files import atomic_write

pytestmark = pytest.mark.fault


@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
def test_a_faulty_file_takes_what_fits_and_then_fails(tmp_path: Path, action: str) -> None:
    with (tmp_path / "file").open("wb") as file:
        faulty = FaultyFile(file, 5, action)
        assert faulty.write(b"abc") == 3
        with pytest.raises(OSError, match=r".") as error:
            faulty.write(b"defgh")
    assert error.value.errno == getattr(errno, action)
    assert (tmp_path / "file").read_bytes() == b"abcde"


def test_a_faulty_file_kills(tmp_path: Path) -> None:
    def write() -> None:
        with (tmp_path / "file").open("wb") as file:
            FaultyFile(file, 2, "kill").write(b"abc")

    assert in_child(write) == -9
    assert (tmp_path / "file").read_bytes() == b"ab"


def test_only_the_named_writes_fail_and_only_so_often(tmp_path: Path) -> None:
    def write(name: str) -> None:
        with atomic_write(tmp_path / name) as file:
            file.write(b"abc")

    with faulty_writes("*bad*", 1, "EIO", times=1) as met:
        write("good")
        with pytest.raises(OSError, match="Input/output error"):
            write("bad")
        write("bad")
    write("bad")
    assert len(met) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "good"]


def test_a_child_says_how_it_ended() -> None:
    assert in_child(lambda: None) == 0
    assert in_child(lambda: 1 / 0) == 1
    with pytest.raises(AssertionError, match="did not end"):
        in_child(lambda: time.sleep(60), timeout=0.1)


def test_a_small_disk_is_full_and_read_only_when_it_is_told_to(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        filler = fill_up(disk, leave=100_000)
        with pytest.raises(OSError, match="No space left"):
            (disk / "file").write_bytes(bytes(200_000))
        filler.unlink()
        (disk / "file").write_bytes(bytes(200_000))
        make_read_only(disk)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "other").touch()
    assert list((tmp_path / "disk").iterdir()) == []


def test_one_flipped_bit_and_a_cut_change_a_file_and_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    flip_byte(path)
    assert path.read_bytes() == bytes([0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    truncate(path, 0.3)
    assert path.read_bytes() == bytes(3)

    network = nn.Linear(2, 2)
    before = state_hash(network, {"step": 1})
    assert state_hash(network, {"step": 1}) == before != state_hash(network, {"step": 2})
    with torch.no_grad():
        network.weight[0, 0] = torch.nextafter(network.weight[0, 0], torch.tensor(9.0))
    assert state_hash(network, {"step": 1}) != before


def test_a_bomb_is_small_and_can_be_decoded() -> None:
    assert len(bomb_png()) < 200_000
    picture = cv2.imdecode(np.frombuffer(bomb_png(20), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (20, 20)


def test_a_stub_answers_and_notes_its_arguments(tmp_path: Path) -> None:
    calls = stub_program(tmp_path, "scontrol", output="n1\nn2\n", status=3)
    done = subprocess.run(["scontrol", "show", "a b; c"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "n1\nn2\n")
    assert calls.read_text() == "show\na b; c\n\n"


RANK = """
import os, sys
from faultkit import reach
for step in (1, 2, 3):
    print(f"rank {os.environ['RANK']} attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} step {step}", flush=True)
    reach(step)
"""


@pytest.mark.slow
def test_a_rank_dies_at_its_step_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANK)
    done = run_ranks(2, script, torchrun=["--max-restarts=1"], kill={1: 2})
    assert done.status == 0, done.output
    assert "rank 1 attempt 0 step 2" in done.output
    assert "rank 1 attempt 0 step 3" not in done.output
    assert "rank 1 attempt 1 step 3" in done.output
    assert done.left == []
