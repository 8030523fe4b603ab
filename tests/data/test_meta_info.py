from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.meta_info import meta_info, write_meta_info
from vsr.data.names import read_clip_list, read_image_list
from vsr.data.paired_image import PairedImageDataset
from vsr.data.video import VideoTestDataset
from vsr.utils.images import write_image


def test_a_folder_of_images_has_basicsrs_lines(write_clip: Any, tmp_path: Path) -> None:
    root = write_clip("gt", names=["img10", "img2", "ä (1) b"])
    write_image(root / "img3.jpg", np.zeros((7, 9, 3), np.uint8))
    cv2.imwrite(str(root / "img4.png"), np.zeros((5, 6), np.uint8))  # grey, of which vsr reads three channels
    lines = meta_info(str(root))
    assert lines == [
        "img2.png (32,48,3)", "img3.jpg (7,9,3)", "img4.png (5,6,3)", "img10.png (32,48,3)", "ä (1) b.png (32,48,3)",
    ]  # fmt: skip
    write_meta_info(lines, tmp_path / "meta.txt")
    assert read_image_list(str(tmp_path / "meta.txt")) == [line.rpartition(" (")[0] for line in lines]
    dataset = PairedImageDataset(dataroot_gt=str(root), scale=1 + 1, meta_info_file=str(tmp_path / "meta.txt"))
    assert dataset.keys == ["img2", "img3", "img4", "img10", "ä (1) b"]


def test_folders_of_images_are_clips_unless_it_is_said_otherwise(write_clip: Any, tmp_path: Path) -> None:
    write_clip("gt", "000", count=3)
    root = write_clip("gt", "my clip", count=2, size=(16, 20))
    lines = meta_info(str(root))
    assert lines == ["000 3 (32,48,3)", "my clip 2 (16,20,3)"]
    write_meta_info(lines, tmp_path / "meta.txt")
    assert read_clip_list(str(tmp_path / "meta.txt")) == {"000": 3, "my clip": 2}
    dataset = VideoTestDataset(dataroot_gt=str(root), scale=2, num_frame=1, meta_info_file=str(tmp_path / "meta.txt"))
    assert len(dataset) == 5
    assert meta_info(str(root), kind="images")[2:4] == ["000/00000002.png (32,48,3)", "my clip/00000000.png (16,20,3)"]


def test_a_single_clip_can_be_asked_for(write_clip: Any) -> None:
    assert meta_info(str(write_clip("one", count=4)), kind="clips") == ["one 4 (32,48,3)"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_videos_are_counted(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "videos").mkdir()
    path = tmp_path / "videos" / f"a b{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 32))  # type: ignore[attr-defined]
    for frame in range(5):
        writer.write(np.full((32, 48, 3), 40 * frame, np.uint8))
    writer.release()
    assert meta_info(str(tmp_path / "videos")) == ["a b 5 (32,48,3)"]
    assert meta_info(str(path)) == ["a b 5 (32,48,3)"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a b\.m\w+: expected a (whole )?video"):
        meta_info(str(path))


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_an_lmdb_has_the_lines_of_its_files(write_clip: Any, tmp_path: Path, encoding: str) -> None:
    write_clip("gt", "000", count=3)
    root = write_clip("gt", "001", count=2)
    make_lmdb(Recipe(str(root), str(tmp_path / "gt.lmdb"), encoding), workers=1)
    assert meta_info(str(tmp_path / "gt.lmdb")) == meta_info(str(root)) == ["000 3 (32,48,3)", "001 2 (32,48,3)"]
    assert meta_info(str(tmp_path / "gt.lmdb"), kind="images") == meta_info(str(root), kind="images")


def test_every_tenth_frame_of_each_clip_can_be_taken(write_clip: Any) -> None:
    """The 300 of REDS' 3000 validation frames that NAFNet is measured on are those whose numbers end with 9."""
    write_clip("val", "000", count=30)
    root = write_clip("val", "001", count=12)
    lines = meta_info(str(root), kind="images", first=9, every=10)
    assert [line.split(" ")[0] for line in lines] == [
        "000/00000009.png", "000/00000019.png", "000/00000029.png", "001/00000009.png",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="every: expected a list of images"):
        meta_info(str(root), first=9, every=10)
    with pytest.raises(ValueError, match="first: expected fewer than the images of a folder, got 30"):
        meta_info(str(root), kind="images", first=30)
    with pytest.raises(ValueError, match="every: expected first 0 or more and every 1 or more, got -1 and 1"):
        meta_info(str(root), kind="images", first=-1)


def test_only_headers_are_read(write_clip: Any) -> None:
    root = write_clip("gt", names=["a"])
    path = root / "a.png"
    path.write_bytes(path.read_bytes()[:100])
    assert meta_info(str(root)) == ["a.png (32,48,3)"]


def test_what_cannot_be_listed_is_refused(write_clip: Any, tmp_path: Path) -> None:
    root = write_clip("gt", "000", count=3)
    write_image(root / "000" / "00000001.png", np.zeros((32, 47, 3), np.uint8))
    with pytest.raises(ValueError, match=r"00000001.png: expected 32x48 like the first frame of its clip, got 32x47"):
        meta_info(str(root))
    with pytest.raises(ValueError, match="kind: expected auto, images, clips, got 'clip'"):
        meta_info(str(root), kind="clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="root: expected folders of images"):
        meta_info(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="root: expected an existing"):
        meta_info(str(tmp_path / "nowhere"))


def test_a_list_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "meta.txt"
    write_meta_info(["a.png (1,1,3)"], path)
    write_meta_info(["a.png (1,1,3)"], path)  # the same again
    with pytest.raises(FileExistsError, match=r"meta.txt: expected no such file, or the same list, got another"):
        write_meta_info(["b.png (1,1,3)"], path)
    assert path.read_text() == "a.png (1,1,3)\n"
