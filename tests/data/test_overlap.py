"""Validation on what is trained on is found through links, copies and LMDBs; what only looks alike is not."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.overlap import shared_frames
from vsr.registry import DATASETS
from vsr.utils.images import write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Clips 000 and 001 of five frames of noise."""
    rng = np.random.default_rng(0)
    for clip in ("000", "001"):
        (tmp_path / "gt" / clip).mkdir(parents=True)
        for frame in range(5):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            write_image(tmp_path / "gt" / clip / f"{frame:08d}.png", image)
    return tmp_path / "gt"


def train_set(root: Any, kind: str = "VideoTrainDataset", **more: Any) -> Any:
    return DATASETS.build({"type": kind, "dataroot_gt": str(root), "num_frame": 3, "gt_size": 16, **more}, scale=4)


def val_set(root: Any, kind: str = "VideoTestDataset", **more: Any) -> Any:
    return DATASETS.build({"type": kind, "dataroot_gt": str(root), "num_frame": 3, **more}, scale=4)


def test_the_same_files_are_found_and_counted(root: Path) -> None:
    found = shared_frames(train_set(root), val_set(root, clips=["001"]))
    assert found == f"5, {root}/001/00000000.png for one"
    assert shared_frames(train_set(root, exclude_clips=["001"]), val_set(root, clips=["001"])) == ""
    assert shared_frames(train_set(root, frames=[0, 2]), val_set(root, frames=[2, 4])).startswith("2, ")
    assert (
        shared_frames(
            train_set(root, frames=[0, 2]), val_set(root, "VideoRecurrentTestDataset", frames=[3, 4], num_frame=-1)
        )
        == ""
    )


def test_links_copies_and_lmdbs_do_not_hide_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert shared_frames(train_set(tmp_path / "link"), val_set(root)).startswith("10, ")
    shutil.copytree(root / "001", tmp_path / "REDS4" / "deeper" / "001")
    make_lmdb(Recipe(str(root), str(tmp_path / "gt.lmdb")), workers=1)
    for train, val in (
        (root, tmp_path / "REDS4"),
        (tmp_path / "gt.lmdb", tmp_path / "REDS4"),
        (tmp_path / "gt.lmdb", root),
    ):
        found = shared_frames(train_set(train), val_set(val))
        assert "has the pixels of" in found
        assert (
            shared_frames(
                train_set(train, exclude_clips=["001"]),
                val_set(val, clips=["deeper/001"] if val.name == "REDS4" else ["001"]),
            )
            == ""
        )


def test_a_mix_is_looked_through(root: Path, tmp_path: Path) -> None:
    parts = [
        {"type": "VideoTrainDataset", "dataroot_gt": str(root), "num_frame": 3, "gt_size": 16, "clips": [clip]}
        for clip in ("000", "001")
    ]
    mixed = DATASETS.build({"type": "MixedDataset", "datasets": parts}, scale=4)
    assert shared_frames(mixed, val_set(root, clips=["001"])).startswith("5, ")
    shutil.copytree(root / "001", tmp_path / "copy" / "001")
    assert "clip '001'" in shared_frames(mixed, val_set(tmp_path / "copy"))


def test_clips_of_one_name_that_differ_or_are_black_are_no_overlap(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "000"
    shutil.copytree(root / "000", other)
    assert shared_frames(train_set(root), val_set(tmp_path / "other")) != ""
    write_image(other / "00000004.png", np.zeros((32, 32, 3), np.uint8))  # one frame of three differs
    assert shared_frames(train_set(root), val_set(tmp_path / "other")) == ""
    for folder in ("a", "b"):
        (tmp_path / folder / "000").mkdir(parents=True)
        for frame in range(5):
            write_image(tmp_path / folder / "000" / f"{frame}.png", np.zeros((32, 32, 3), np.uint8))
    assert shared_frames(train_set(tmp_path / "a"), val_set(tmp_path / "b")) == ""


def test_images_are_compared_by_their_files(root: Path) -> None:
    train = DATASETS.build({"type": "PairedImageDataset", "dataroot_gt": str(root), "gt_size": 16}, scale=4)
    assert shared_frames(
        train, DATASETS.build({"type": "PairedImageDataset", "dataroot_gt": str(root / "000")}, scale=4)
    ).startswith("5, ")
