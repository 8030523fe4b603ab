"""What was prepared is known again, and used, after its tree was moved as a whole: nothing is made anew."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killing import tree
from kit import write_frames

from vsr.data import reds_files
from vsr.data.gopro_sidd import prepare_gopro
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.prepare_clips import prepare_charades
from vsr.data.reds_preparation import RedsOptions, prepare_reds
from vsr.data.stereo_sets import prepare_stereo
from vsr.data.subimages import Grid, extract_subimages
from vsr.data.vimeo90k_preparation import VimeoOptions, prepare_vimeo90k
from vsr.engine.generate_flow import generate_flow
from vsr.utils.images import write_image


def reds(root: Path) -> None:
    if not root.exists():
        for subset, size in (("train_sharp", (16, 24)), ("train_sharp_bicubic/X4", (4, 6)), ("val_sharp", (16, 24)),
                             ("val_sharp_bicubic/X4", (4, 6))):  # fmt: skip
            (root / "REDS" / subset / "000").mkdir(parents=True)
            for frame in range(100):
                write_image(root / "REDS" / subset / "000" / f"{frame:08d}.png", np.zeros((*size, 3), np.uint8))
    prepare_reds(RedsOptions(root=str(root / "REDS"), output=str(root / "out"), lmdb="png"), workers=0)


def vimeo(root: Path) -> None:
    septuplets = root / "Vimeo" / "vimeo_septuplet"
    if not root.exists():
        write_frames(septuplets / "sequences" / "00001" / "0001", 7, (16, 24), seed=0, name="im{}", first=1)
        (septuplets / "sep_trainlist.txt").write_text("00001/0001\n")
    prepare_vimeo90k(VimeoOptions(root=str(root / "Vimeo"), lr=["bicubic"], lmdb="tiles"), workers=0)


def gopro(root: Path) -> None:
    if not root.exists():
        for split in ("train", "test"):
            for kind in ("blur", "sharp"):
                write_frames(root / "GOPRO_Large" / split / "GOPR1" / kind, 2, (24, 32), seed=1)
    for lmdb in (None, "png"):
        prepare_gopro([str(root / "GOPRO_Large")], root / "GoPro", grid=Grid(16, 8), lmdb=lmdb)


def stereo(root: Path) -> None:
    if not root.exists():
        for view in "01":
            write_frames(root / "pairs" / "a", 1, (140, 200), seed=2, name="im" + view)
        np.save(root / "pairs" / "a" / "disp0.npy", np.ones((140, 200)))
    for lmdb in (None, "png"):
        for train in (False, True):
            scales, output = [2] if train else None, str(root / f"out_{lmdb}")
            prepare_stereo("pairs", str(root / "pairs"), output, train=train, scales=scales, lmdb=lmdb)


def subimages(root: Path) -> None:
    if not root.exists():
        write_frames(root / "HR", 2, (24, 32), seed=3)
    for lmdb in (None, "tiles"):
        extract_subimages([str(root / "HR")], grid=Grid(16, 8), lmdb=lmdb)


def charades(root: Path) -> None:
    if not root.exists():
        for clip in ("AAA", "BBB", "CCC"):
            write_frames(root / "frames" / clip, 2, (16, 16), seed=4, suffix=".jpg")
    prepare_charades(str(root / "frames"), str(root / "Charades"), workers=0)


def one_lmdb(root: Path) -> None:
    if not root.exists():
        write_frames(root / "clips" / "a", 2, (16, 16), seed=5)
        (root / "list.txt").write_text("a\n")
    recipe = Recipe(str(root / "clips"), str(root / "clips.lmdb"), only=str(root / "list.txt"))
    make_lmdb(recipe, workers=1, resume=True)


def flow(root: Path) -> None:
    if not root.exists():
        write_frames(root / "clips" / "a", 3, (32, 40), seed=6)
    generate_flow(str(root / "clips"))


@pytest.mark.parametrize("prepare", [reds, vimeo, gopro, stereo, subimages, charades, one_lmdb, flow])
def test_a_tree_that_was_moved_is_gone_on_with(
    prepare: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        monkeypatch.setitem(reds_files.COUNTS, split, 1)
    prepare(tmp_path / "here")
    made = tree(tmp_path / "here")
    (tmp_path / "far").mkdir()
    moved = (tmp_path / "here").rename(tmp_path / "far" / "away ü")
    assert not any(path.is_symlink() and not path.exists() for path in moved.rglob("*"))  # links still lead somewhere
    costly = [path for path in moved.rglob("*") if path.suffix in (".mdb", ".npy")]
    for path in costly:
        os.utime(path, ns=(0, 0))
    prepare(moved)
    assert tree(moved) == made
    assert all(path.stat().st_mtime_ns == 0 for path in costly)
