from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.data.storage import DiskStorage, in_order, open_storage
from vsr.utils.images import natural_key


@pytest.fixture
def storage() -> DiskStorage:
    return DiskStorage()


def test_clips_are_found_in_natural_order_whatever_their_names_and_formats(
    write_clip: Any, storage: DiskStorage
) -> None:
    root = write_clip("gt", "clip10", count=2)
    write_clip("gt", "clip2", names=["im2", "im10", "im1"], suffix=".jpg")
    write_clip("gt", "clip1", names=["000001", "000000"], suffix=".BMP")
    found = storage.clips(str(root), "dataroot_gt")
    assert list(found) == ["clip1", "clip2", "clip10"]
    assert found["clip2"].files == ("im1.jpg", "im2.jpg", "im10.jpg")
    assert found["clip1"].files == ("000000.BMP", "000001.BMP")


def test_what_is_no_image_is_ignored(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("gt", "a", count=2)
    for name in ("a/.DS_Store", "a/._00000000.png", "a/notes.txt", "list.txt"):
        (root / name).write_text("x")
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "0.png").write_text("x")
    found = storage.clips(str(root), "dataroot_gt")
    assert {name: clip.files for name, clip in found.items()} == {"a": ("00000000.png", "00000001.png")}


def test_a_folder_of_frames_is_one_clip_named_after_it(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("my clip ü", count=2)
    (found,) = storage.clips(str(root), "dataroot_gt").values()
    assert (found.name, found.folder, len(found.files)) == ("my clip ü", root, 2)


def test_clips_may_lie_deeper_and_be_links(write_clip: Any, storage: DiskStorage, tmp_path: Path) -> None:
    root = write_clip("reds", "train/train_sharp/000", count=1)
    elsewhere = write_clip("elsewhere", count=3)
    (root / "linked").symlink_to(elsewhere)
    assert list(storage.clips(str(root), "dataroot_gt")) == ["linked", "train/train_sharp/000"]


def test_a_link_to_a_folder_above_is_not_followed(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("gt", "a", count=1)
    (root / "loop").symlink_to(root)
    assert list(storage.clips(str(root), "dataroot_gt")) == ["a"]


def test_videos_stand_for_clips_and_need_no_decoding_to_be_found(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("gt", "a", count=1)
    (root / "b.MP4").write_text("not looked at")
    found = storage.clips(str(root), "dataroot_gt")
    assert [(clip.name, clip.is_video) for clip in found.values()] == [("a", False), ("b", True)]
    (alone,) = storage.clips(str(root / "b.MP4"), "dataroot_gt").values()
    assert (alone.name, alone.folder) == ("b", root / "b.MP4")


def test_a_folder_and_a_video_of_one_name_are_refused(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("gt", "a", count=1)
    (root / "a.mp4").write_text("x")
    with pytest.raises(
        ValueError, match=r"dataroot_gt: expected one clip for each name, got .*/gt/a.* and .*/gt/a.*Rename"
    ):
        storage.clips(str(root), "dataroot_gt")


def test_frames_beside_clips_are_refused_as_it_is_unclear_which_are_meant(
    write_clip: Any, storage: DiskStorage
) -> None:
    root = write_clip("gt", "a", count=1)
    write_clip("gt", count=1)
    with pytest.raises(ValueError, match=r"either images or clips in .*, got both: 00000000.png and a\."):
        storage.clips(str(root), "dataroot_gt")


def test_a_missing_root_names_the_option_and_the_nearest_folder(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("train_sharp", "a", count=1)
    wrong = root.with_name("train_shrap")
    with pytest.raises(FileNotFoundError, match=r"dataroot_lq: .*train_shrap.*Did you mean '.*/train_sharp'"):
        storage.clips(str(wrong), "dataroot_lq")
    with pytest.raises(FileNotFoundError, match="which does not exist either"):
        storage.images(str(wrong / "x"), "dataroot_lq")


@pytest.mark.parametrize("find", ["clips", "images"])
def test_a_root_without_images_is_refused(find: str, storage: DiskStorage, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"dataroot_gt: expected .*images \(\.png .*got none"):
        getattr(storage, find)(str(tmp_path), "dataroot_gt")
    with pytest.raises(ValueError, match="dataroot_gt: expected a folder"):
        getattr(storage, find)(str(tmp_path / "notes.txt"), "dataroot_gt")


def test_images_are_found_at_any_depth_in_natural_order(write_clip: Any, storage: DiskStorage) -> None:
    root = write_clip("gt", names=["img10", "img9"])
    write_clip("gt", "more/deep", names=["a"])
    assert storage.images(str(root), "dataroot_gt") == ["img9.png", "img10.png", "more/deep/a.png"]


def test_a_backend_is_disk_or_lmdb() -> None:
    assert [open_storage(option).is_lmdb("x.lmdb") for option in (None, {"type": "disk"}, {"type": "lmdb"})] == [
        False,
        False,
        True,
    ]
    with pytest.raises(ValueError, match=r"io_backend.type: expected disk or lmdb, got 'lmbd'\. Did you mean 'lmdb'"):
        open_storage({"type": "lmbd"})
    with pytest.raises(ValueError, match="io_backend: expected no key but type, got db_paths"):
        open_storage({"type": "disk", "db_paths": ["x"]})


def test_the_quick_order_of_names_is_the_natural_one() -> None:
    rng = np.random.default_rng(0)
    shapes = [["{:03d}.png"], ["{:02d}/hr{}.png", "{:02d}/lr{}.png"], ["a{}b{}.png", "b{}a{}.png"], ["{}.png"]]
    for templates in shapes:
        names = [template.format(*rng.integers(0, 10, 2)) for template in templates for _ in range(40)]
        assert in_order(names) == tuple(sorted(names, key=natural_key))
    assert in_order([]) == ()
    assert in_order(["10/x", "9/x", "9/\udcff"]) == ("9/x", "9/\udcff", "10/x")
