"""Which two files of a downloaded data set are a pair, and what is said where one is missing."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vsr.data.stereo_files import find_kitti, find_marked
from vsr.utils.images import write_image


def write(root: Path, *names: str, size: tuple[int, int] = (8, 12)) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, np.zeros((*size, 3), np.uint8))
    return root


def found(root: Path) -> dict[str, tuple[str, str]]:
    return {
        pair.name: (pair.left.relative_to(root).as_posix(), pair.right.relative_to(root).as_posix())
        for pair in find_marked(root)
    }


def test_flickr1024_is_a_folder_of_left_and_right_images(tmp_path: Path) -> None:
    write(tmp_path, "0002_R.png", "0002_L.png", "0010_L.png", "0010_R.png")
    assert found(tmp_path) == {"0002": ("0002_L.png", "0002_R.png"), "0010": ("0010_L.png", "0010_R.png")}
    assert [pair.size for pair in find_marked(tmp_path)] == [(8, 12), (8, 12)]


@pytest.mark.parametrize(
    ("left", "right", "others"),
    [
        ("im0.png", "im1.png", ["im1E.png", "im1L.png"]),  # 2014, with other exposure and other light
        ("view1.png", "view5.png", ["disp1.png", "disp5.png", "view0.png", "view3.png"]),  # 2005, 2006
        ("im2.ppm", "im6.ppm", ["im0.ppm", "im1.ppm", "im5.ppm", "disp2.png"]),  # 2001, 2003
        ("hr0.png", "hr1.png", []),
        ("left.png", "right.png", []),
    ],
)
def test_middlebury_is_a_folder_for_each_scene(tmp_path: Path, left: str, right: str, others: list[str]) -> None:
    for scene in ("Aloe", "Backpack"):
        write(tmp_path / scene, left, right, *others)
    write(tmp_path / "Aloe" / "Illum1" / "Exp0", left)  # deeper: other photographs of the scene
    assert found(tmp_path) == {scene: (f"{scene}/{left}", f"{scene}/{right}") for scene in ("Aloe", "Backpack")}


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
def test_numbers_are_a_scenes_disparity_and_a_picture_of_them_is_not(tmp_path: Path, bits: type) -> None:
    write(tmp_path / "Aloe", "im0.png", "im1.png")
    shape = (8, 12) if bits is np.uint8 else (8, 12, 3)  # 8 bits grey, 16 bits in colours
    cv2.imwrite(str(tmp_path / "Aloe" / "disp0.png"), np.ones(shape, bits))
    assert find_marked(tmp_path)[0].disparity is None
    cv2.imwrite(str(tmp_path / "Aloe" / "disp0.png"), np.ones((8, 12), np.uint16))
    for suffix in (".png", ".npy", ".pfm"):  # each is preferred to those before
        (tmp_path / "Aloe" / f"disp0{suffix}").open("ab").close()
        assert find_marked(tmp_path)[0].disparity == tmp_path / "Aloe" / f"disp0{suffix}"


def test_scenes_may_also_be_files_of_one_folder(tmp_path: Path) -> None:
    write(tmp_path, "Aloe_im0.png", "Aloe_im1.png", "Art-view1.png", "Art-view5.png")
    assert found(tmp_path) == {
        "Aloe": ("Aloe_im0.png", "Aloe_im1.png"),
        "Art": ("Art-view1.png", "Art-view5.png"),
    }


def test_without_marks_neighbours_are_pairs(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png", "9.png", "10.png")
    assert found(tmp_path) == {"1": ("1.png", "2.png"), "9": ("9.png", "10.png")}
    write(tmp_path, "11.png")
    with pytest.raises(ValueError, match=r"expected an even number of files, .* got 5, from 1.png to 11.png"):
        find_marked(tmp_path)


def test_a_view_without_its_partner_is_named(tmp_path: Path) -> None:
    write(tmp_path / "flat", "0001_L.png", "0001_R.png", "0002_L.png", "0003_R.png")
    with pytest.raises(ValueError, match=r"flat: .* one without the other: 0002_L.png, 0003_R.png \(2 in all\)"):
        find_marked(tmp_path / "flat")
    write(tmp_path / "scenes", "Aloe/im0.png", "Aloe/im1.png", "Art/im0.png")
    with pytest.raises(ValueError, match=r"scenes/Art: .* one without the other: im0.png \(1 in all\)"):
        find_marked(tmp_path / "scenes")


def test_views_of_different_sizes_are_named(tmp_path: Path) -> None:
    write(tmp_path, "0001_L.png", "0001_R.png", "0002_L.png")
    write(tmp_path, "0002_R.png", size=(8, 13))
    with pytest.raises(ValueError, match=r"one size, got \S+0002_L.png 8x12 and 0002_R.png 8x13\. "):
        find_marked(tmp_path)


def test_what_is_no_stereo_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"root: expected images of stereo pairs in '.*empty' .* got none"):
        find_marked(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"root: expected an existing file or folder, got '.*nowhere'"):
        find_marked(tmp_path / "nowhere")
    write(tmp_path / "mixed", "0001_L.png", "0001_R.png", "cover.png", "l_2.png")
    wrong = r"mixed: expected names that end with one of _L/_R.* as 0001_L.png, got cover.png, l_2.png \(2 in all\)"
    with pytest.raises(ValueError, match=wrong):
        find_marked(tmp_path / "mixed")
    write(tmp_path / "twice", "0001_L.png", "0001_L.jpg", "0001_R.png")
    with pytest.raises(ValueError, match=r"expected one image for each view, got 0001_L\.\w+ and 0001_L\.\w+"):
        find_marked(tmp_path / "twice")
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        find_marked(tmp_path / "mixed" / "cover.png")


@pytest.mark.parametrize(
    ("which", "left", "right"), [("kitti2012", "colored_0", "colored_1"), ("kitti2015", "image_2", "image_3")]
)
def test_of_kitti_the_first_moment_of_the_listed_scenes_is_taken(
    tmp_path: Path, which: str, left: str, right: str
) -> None:
    views = [
        f"testing/{view}/{scene:06d}_{moment}.png"
        for view in (left, right)
        for scene in range(4)
        for moment in (10, 11)
    ]
    write(tmp_path, *views)
    for root in (tmp_path, tmp_path / "testing"):
        assert [pair.name for pair in find_kitti(root, which)] == ["000000", "000001", "000002", "000003"]
    (tmp_path / "list.txt").write_text("000003_10.png\n000001\n\n000000_10\n", encoding="utf-8")
    pairs = find_kitti(tmp_path, which, str(tmp_path / "list.txt"))
    assert [pair.name for pair in pairs] == ["000003", "000001", "000000"]
    assert pairs[1].left == tmp_path / "testing" / left / "000001_10.png"
    assert pairs[1].right == tmp_path / "testing" / right / "000001_10.png"
    (tmp_path / "list.txt").write_text("000007\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list .*list.txt: expected a name in the data set, got '000007'"):
        find_kitti(tmp_path, which, str(tmp_path / "list.txt"))
    (tmp_path / "testing" / right / "000002_10.png").unlink()
    with pytest.raises(ValueError, match=rf"one without the other: {left}/000002_10.png \(1 in all\)"):
        find_kitti(tmp_path, which)


def test_another_folder_than_kittis_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "training/image_2/000000_10.png")
    with pytest.raises(ValueError, match=r"expected the folders image_2 and image_3 of kitti2015 in .* got neither"):
        find_kitti(tmp_path, "kitti2015")
    write(tmp_path, "testing/colored_0/000000_11.png", "testing/colored_1/000000_11.png")
    with pytest.raises(ValueError, match=r"expected images NNNNNN_10.png in '.*colored_0', got none"):
        find_kitti(tmp_path, "kitti2012")
