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
    assert "those of '001'" in shared_frames(mixed, val_set(tmp_path / "copy"))


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


def image_sets(train: Path, val: Path, kind: str = "PairedImageDataset", **crop: int) -> tuple[Any, Any]:
    roots = "dataroot_gt", "dataroot_lq"
    used = roots if kind == "PairedStereoImageDataset" else roots[:1]
    return tuple(
        DATASETS.build({"type": kind, **dict.fromkeys(used, str(root)), **more}, scale=4)
        for root, more in ((train, crop), (val, {}))
    )  # type: ignore[return-value]


def test_copies_and_lmdbs_of_images_are_found_by_their_pixels(root: Path, tmp_path: Path) -> None:
    make_lmdb(Recipe(str(root), str(tmp_path / "all.lmdb")), workers=1)
    shutil.copytree(root / "001", tmp_path / "copy" / "001")
    for train, val in (
        (root, tmp_path / "all.lmdb"),  # folder and LMDB
        (tmp_path / "all.lmdb", tmp_path / "copy"),
        (root, tmp_path / "copy" / "001"),  # the folder itself as the root
        (root / "001", tmp_path / "copy" / "001"),
    ):
        assert "has the pixels of" in shared_frames(*image_sets(train, val, gt_size=16))
    (tmp_path / "flat").mkdir()
    (tmp_path / "other").mkdir()
    for number, file in enumerate(sorted((root / "000").iterdir())):
        shutil.copy(file, tmp_path / "flat" / file.name)
        shutil.copy(file, tmp_path / "other" / f"{number + 1:08d}.png")  # other pictures by these names
    assert "has the pixels of" in shared_frames(*image_sets(root / "000", tmp_path / "flat", gt_size=16))
    assert shared_frames(*image_sets(root / "000", tmp_path / "other", gt_size=16)) == ""
    damaged = tmp_path / "flat" / "00000002.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])  # to be told of by whoever reads it
    assert shared_frames(*image_sets(root / "000", tmp_path / "flat", gt_size=16)) == ""


def test_stereo_pairs_are_found_by_their_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("hr0", "hr1", "lr0", "lr1"):
        for key in ("0001", "0002"):
            (tmp_path / "a" / key).mkdir(parents=True, exist_ok=True)
            size = (32, 48) if name[0] == "h" else (8, 12)
            write_image(tmp_path / "a" / key / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    kind = "PairedStereoImageDataset"
    assert "'0001': " in shared_frames(*image_sets(tmp_path / "a", tmp_path / "b", kind, gt_size=16))
    (tmp_path / "b" / "0001").rename(tmp_path / "b" / "0003")
    (tmp_path / "b" / "0002").rename(tmp_path / "b" / "0001")
    assert shared_frames(*image_sets(tmp_path / "a", tmp_path / "b", kind, gt_size=16)) == ""


def test_clips_to_predict_are_found_by_their_pixels(root: Path, tmp_path: Path) -> None:
    make_lmdb(Recipe(str(root), str(tmp_path / "copy.lmdb")), workers=1)
    for partition, names in {"train": "000", "val": "001"}.items():
        for folder in (root, tmp_path):
            (folder / f"{partition}_list.csv").write_text(f"{names}\n")
    (tmp_path / "lists.csv").write_text("000\n")
    given = {"type": "CharadesDataset", "input_size": 2, "frame_interval": 1, "W": 16, "H": 16}
    train = DATASETS.build({**given, "dataroot": str(root), "partition": "train"}, scale=1)
    for lists, expected in (({}, False), ({"meta_info_file": str(tmp_path / "lists.csv")}, True)):
        copy = {"dataroot": str(tmp_path / "copy.lmdb"), "io_backend": {"type": "lmdb"}, "partition": "val"}
        for partition in ("train", "val"):
            shutil.copy(tmp_path / f"{partition}_list.csv", tmp_path / "copy.lmdb")
        val = DATASETS.build({**given, **copy, **lists}, scale=1)
        assert ("has the pixels of" in shared_frames(train, val)) == expected
