import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from killing import tree

from vsr.data.paired_image import PairedImageDataset
from vsr.data.subimages import Cut, Grid, Output, extract_subimages, plan_cuts, write_cuts
from vsr.utils.images import read_image, write_image

Pixels = npt.NDArray[np.uint8]


def noise(*size: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(path: Path, image: Pixels) -> Pixels:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
    return image


@pytest.mark.parametrize(
    ("length", "crop", "step", "thresh", "expected"),
    [  # by hand: 1356 rows of DIV2K, 720 of GoPro, 2040; what is left over is taken where it exceeds the threshold
        (1356, 480, 240, 0, [0, 240, 480, 720, 876]),
        (720, 512, 256, 0, [0, 208]),
        (960, 480, 240, 0, [0, 240, 480]),
        (480, 480, 240, 0, [0]),
        (481, 480, 240, 0, [0, 1]),
        (481, 480, 240, 1, [0]),
        (482, 480, 240, 1, [0, 2]),
    ],
)
def test_parts_begin_every_step_and_one_ends_at_the_border(
    length: int, crop: int, step: int, thresh: int, expected: list[int]
) -> None:
    assert Grid(crop, step, thresh).starts(length) == expected


def test_the_number_of_parts_is_that_of_the_published_sets() -> None:
    # NAFNet: 2103 frames of 720x1280 at 512/256 are 16824 pairs; BasicSR: ceil((side - crop) / step) + 1 each way
    assert 2103 * len(Grid(512, 256).regions(720, 1280)) == 16824
    for height, width in ((1356, 2040), (1404, 2040), (2040, 1152)):
        count = math.ceil((height - 480) / 240 + 1) * math.ceil((width - 480) / 240 + 1)
        assert len(Grid(480, 240).regions(height, width)) == count


def test_parts_are_what_slicing_gives_in_rows_from_the_top(tmp_path: Path) -> None:
    image = write(tmp_path / "hr" / "0001.png", noise(43, 50))
    (line,) = extract_subimages([str(tmp_path / "hr")], grid=Grid(20, 12))
    assert line == f"{tmp_path / 'hr_sub'}: 12 parts of 1 images"
    corners = [(top, left) for top in (0, 12, 23) for left in (0, 12, 24, 30)]
    assert sorted(p.name for p in (tmp_path / "hr_sub").glob("*.png")) == [f"0001_s{i:03d}.png" for i in range(1, 13)]
    for number, (top, left) in enumerate(corners, start=1):
        part = read_image(tmp_path / "hr_sub" / f"0001_s{number:03d}.png")
        np.testing.assert_array_equal(part, image[top : top + 20, left : left + 20])


@pytest.fixture
def div2k(tmp_path: Path) -> Path:
    """HR images whose sides are no multiples of the scales, LR made by floor; coordinates as pixels."""
    root = tmp_path / "DIV2K"
    for name, (height, width) in {"0001": (97, 122), "sub dir/0002 (ä)": (75, 83)}.items():
        hr = write(root / "HR" / f"{name}.png", noise(height, width))
        for scale in (2, 4):
            small = hr[: height // scale * scale : scale, : width // scale * scale : scale]
            write(root / "LR" / f"X{scale}" / f"{name}x{scale}.png", np.ascontiguousarray(small))
    return root


def roots(div2k: Path) -> list[str]:
    return [str(div2k / "HR"), str(div2k / "LR" / "X2"), str(div2k / "LR" / "X4")]


def test_parts_of_all_resolutions_show_the_same(div2k: Path) -> None:
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    names = {p.relative_to(div2k / "HR_sub") for p in (div2k / "HR_sub").rglob("*.png")}
    # 96x120 and 72x80, the largest multiples of 4: 5 x 7 and 4 x 4 parts
    assert len(names) == 5 * 7 + 4 * 4
    for scale in (2, 4):
        folder = div2k / "LR" / f"X{scale}_sub"
        assert {p.relative_to(folder) for p in folder.rglob("*.png")} == names
        for name in names:  # the LR pixels were every scale-th of HR
            part = read_image(div2k / "HR_sub" / name)
            np.testing.assert_array_equal(read_image(folder / name), part[::scale, ::scale])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_parts_train_from_files_and_every_kind_of_lmdb_alike(div2k: Path, workers: int) -> None:
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    arguments: dict[str, Any] = {"scale": 4, "gt_size": 16, "seed": 5}
    files = {"dataroot_gt": str(div2k / "HR_sub"), "dataroot_lq": str(div2k / "LR" / "X4_sub")}
    expected = PairedImageDataset(**files, **arguments)
    assert len(expected) == 51
    for encoding in ("png", "tiles", "raw"):
        targets = [str(div2k / encoding / name) for name in ("gt", "x2", "x4")]
        lines = extract_subimages(roots(div2k), targets, grid=Grid(32, 16), lmdb=encoding, workers=workers)
        assert lines[2] == f"{targets[2]}.lmdb: 51 parts of 2 images"
        stored = PairedImageDataset(
            dataroot_gt=f"{targets[0]}.lmdb", dataroot_lq=f"{targets[2]}.lmdb", io_backend={"type": "lmdb"}, **arguments
        )
        assert stored.keys == expected.keys
        loaders = [
            torch.utils.data.DataLoader(
                dataset, batch_size=None, sampler=[(i, 3) for i in range(0, 51, 5)], num_workers=workers
            )  # type: ignore[arg-type]
            for dataset in (expected, stored)
        ]
        for a, b in zip(*loaders, strict=True):
            assert a["key"] == b["key"]
            assert torch.equal(a["lq"], b["lq"])
            assert torch.equal(a["gt"], b["gt"])


def test_the_same_again_changes_nothing_and_other_arguments_are_refused(div2k: Path) -> None:
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    before, changed = tree(div2k), {p: p.stat().st_mtime_ns for p in div2k.rglob("*.png")}
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    assert tree(div2k) == before
    assert {p: p.stat().st_mtime_ns for p in div2k.rglob("*.png")} == changed
    with pytest.raises(ValueError, match=r"HR_sub: expected .* same arguments, but it has step: 16 \(now 24\)"):
        extract_subimages(roots(div2k), grid=Grid(32, 24))
    extract_subimages(roots(div2k), grid=Grid(32, 16), lmdb="raw")
    extract_subimages(roots(div2k), grid=Grid(32, 16), lmdb="raw")  # complete: left as it is
    for dry_run in (False, True):
        with pytest.raises(FileExistsError, match=r"HR_sub.lmdb', which exists"):
            extract_subimages(roots(div2k), grid=Grid(32, 24), lmdb="raw", dry_run=dry_run)


def test_a_part_that_is_missing_is_made_again(div2k: Path) -> None:
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    before = tree(div2k)
    (div2k / "HR_sub" / "0001_s003.png").unlink()
    extract_subimages(roots(div2k), grid=Grid(32, 16))
    assert tree(div2k) == before


@pytest.mark.parametrize("lmdb", [None, "png"])
def test_a_dry_run_writes_nothing(div2k: Path, lmdb: str | None) -> None:
    before = tree(div2k)
    lines = extract_subimages(roots(div2k), grid=Grid(32, 16), lmdb=lmdb, dry_run=True)
    assert lines[0] == f"{div2k / 'HR_sub'}{'.lmdb' if lmdb else ''}: 51 parts of 2 images, would be made"
    assert tree(div2k) == before


def test_a_folder_of_the_users_is_left_alone(div2k: Path) -> None:
    write(div2k / "HR_sub" / "mine.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"HR_sub: expected a new or empty folder, .*\(mine.png\)"):
        extract_subimages([str(div2k / "HR")], grid=Grid(32, 16))
    assert [p.name for p in (div2k / "HR_sub").iterdir()] == ["mine.png"]


def test_low_resolution_alone_loses_the_scale_in_its_names(div2k: Path) -> None:
    extract_subimages([str(div2k / "LR" / "X4")], grid=Grid(8, 4))
    names = {p.relative_to(div2k / "LR" / "X4_sub").as_posix() for p in (div2k / "LR" / "X4_sub").rglob("*.png")}
    assert {name.rpartition("_s")[0] for name in names} == {"0001", "sub dir/0002 (ä)"}


def test_names_may_follow_a_template(div2k: Path) -> None:
    (div2k / "LR" / "X4" / "0001x4.png").rename(div2k / "LR" / "X4" / "small_0001.png")
    (div2k / "LR" / "X4" / "sub dir" / "0002 (ä)x4.png").rename(div2k / "LR" / "X4" / "sub dir" / "small_0002 (ä).png")
    extract_subimages([roots(div2k)[0], roots(div2k)[2]], grid=Grid(32, 16), filename_tmpl="small_{}")
    assert (div2k / "LR" / "X4_sub" / "0001_s035.png").is_file()


def test_folders_that_do_not_belong_together_are_refused_before_anything_is_written(div2k: Path) -> None:
    before = tree(div2k)
    (div2k / "LR" / "X4" / "0001x4.png").rename(div2k / "LR" / "0001x4.png")
    with pytest.raises(ValueError, match=r"X4: expected the 2 images of .*HR.*, got 1: missing are 0001"):
        extract_subimages(roots(div2k), grid=Grid(32, 16))
    (div2k / "LR" / "0001x4.png").rename(div2k / "LR" / "X4" / "0001x4.png")
    write(div2k / "LR" / "X4" / "0001x4.png", noise(24, 31))
    with pytest.raises(
        ValueError, match=r"0001x4.png: expected an integer fraction of the size of .*97x122, got 24x31"
    ):
        extract_subimages(roots(div2k), grid=Grid(32, 16))
    write(div2k / "LR" / "X4" / "0001x4.png", noise(48, 61))
    with pytest.raises(ValueError, match=r"expected 1/2 of the size of .*0002.*got 1/4 \(18x20 for 75x83\)"):
        extract_subimages(roots(div2k), grid=Grid(32, 16))
    write(div2k / "LR" / "X4" / "0001x4.png", noise(24, 30))
    with pytest.raises(ValueError, match=r"crop_size: expected a multiple of the scale 4, got 30. Use 32"):
        extract_subimages(roots(div2k), grid=Grid(30, 16))
    with pytest.raises(ValueError, match=r"0002 \(ä\).png: expected an image of crop_size 76 or more, got 75x83"):
        extract_subimages(roots(div2k), grid=Grid(76, 16))
    with pytest.raises(FileNotFoundError, match="root: expected an existing file or folder"):
        extract_subimages([str(div2k / "hr")], grid=Grid(76, 16))
    assert tree(div2k).keys() == before.keys()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1), "crop_size: expected 1 or more"),
        ((8, 0), "step: expected 1"),
        ((8, 9), "step: expected 8"),
        ((8, 4, -1), "thresh_size: expected 0"),
    ],
)
def test_grids_that_make_no_sense_are_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(*numbers)


def test_grey_images_become_three_channels_and_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    grey = noise(20, 20)[:, :, 0]
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "grey.png"), grey)
    extract_subimages([str(tmp_path / "in")], grid=Grid(10, 10))
    part = read_image(tmp_path / "in_sub" / "grey_s002.png")
    np.testing.assert_array_equal(part, np.repeat(grey[:10, 10:, None], 3, axis=2))
    for name, image in (("deep", noise(20, 20).astype(np.uint16) * 257), ("alpha", np.zeros((20, 20, 4), np.uint8))):
        folder = tmp_path / name
        folder.mkdir()
        cv2.imwrite(str(folder / f"{name}.png"), image)
        with pytest.raises(ValueError, match=rf"{name}.png: expected 8 bits a channel in grey or RGB, got"):
            extract_subimages([str(folder)], grid=Grid(10, 10))
        assert not (tmp_path / f"{name}_sub").exists()


def test_a_turned_photograph_is_cut_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: the camera was turned; the image is shown with its sides exchanged."""
    (tmp_path / "in").mkdir()
    _, data = cv2.imencode(".jpg", noise(16, 40))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "in" / "a.jpg").write_bytes(data.tobytes()[:2] + segment + data.tobytes()[2:])
    upright = read_image(tmp_path / "in" / "a.jpg")
    assert upright.shape == (40, 16, 3)
    extract_subimages([str(tmp_path / "in")], grid=Grid(16, 16))
    np.testing.assert_array_equal(read_image(tmp_path / "in_sub" / "a_s003.png"), upright[24:40])


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.png"
    write(path, noise(20, 20))
    path.write_bytes(path.read_bytes()[:-40])
    for lmdb in (None, "png"):
        with pytest.raises(ValueError, match=r"in/a.png: expected a whole image"):
            extract_subimages([str(tmp_path / "in")], grid=Grid(10, 10), lmdb=lmdb)


def test_cuts_of_absolute_paths_go_into_an_lmdb_under_their_names(tmp_path: Path) -> None:
    image = write(tmp_path / "a" / "x.png", noise(20, 24))
    (cuts,) = plan_cuts({"clip-x": [tmp_path / "a" / "x.png"]}, Grid(20, 4))
    assert cuts == [Cut(tmp_path / "a" / "x.png", {"clip-x_s001": (0, 0, 20, 20), "clip-x_s002": (0, 4, 20, 20)})]
    write_cuts([Output(cuts, tmp_path / "out", tmp_path)], Grid(20, 4), lmdb="tiles")
    dataset = PairedImageDataset(dataroot_gt=str(tmp_path / "out.lmdb"), scale=2, io_backend={"type": "lmdb"})
    assert dataset.keys == ["clip-x_s001", "clip-x_s002"]
    np.testing.assert_array_equal(dataset[1]["gt"].permute(1, 2, 0), image[:, 4:])
