import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
from killing import tree

from vsr.data.gopro_sidd import ImagePair, find_gopro, find_sidd, prepare_gopro, prepare_sidd, read_blocks
from vsr.data.paired_image import PairedImageDataset
from vsr.data.subimages import Grid
from vsr.utils.images import read_image, write_image

Pixels = npt.NDArray[np.uint8]
GRID = Grid(16, 8)
CLIPS = {"train": ("GOPR0372_07_00", "GOPR0374_11_01"), "test": ("GOPR0384_11_00",)}


def write(path: Path, seed: int, size: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write_gopro_large(root: Path) -> Path:
    """The tree of GOPRO_Large.zip: two clips to train on and one to test on, two frames each."""
    for split, clips in CLIPS.items():
        for clip in clips:
            for number, kind in enumerate(("sharp", "blur", "blur_gamma")):
                for frame in (47, 48):
                    write(root / split / clip / kind / f"{frame:06d}.png", seed=frame + 100 * number + len(clip))
    return root


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_gopro_large(tmp_path / "GOPRO_Large")


def test_gopro_large_becomes_parts_to_train_on_and_links_to_test_on(large: Path, tmp_path: Path) -> None:
    root = tmp_path / "GoPro"
    lines = prepare_gopro([str(large)], root, grid=GRID)
    assert lines == [
        "note: train has 4 pairs; the official set has 2103",
        f"{root}/train/sharp_crops: 24 parts of 4 images",
        f"{root}/train/blur_crops: 24 parts of 4 images",
        "note: test has 2 pairs; the official set has 1111",
        f"{root}/test/target: 2 links",
        f"{root}/test/input: 2 links",
    ]
    train = PairedImageDataset(
        dataroot_gt=str(root / "train" / "sharp_crops"), dataroot_lq=str(root / "train" / "blur_crops"), scale=1
    )
    assert train.keys[:7] == [f"GOPR0372_07_00-000047_s00{i}" for i in range(1, 7)] + ["GOPR0372_07_00-000048_s001"]
    # 24x32 at 16/8: rows 0, 8; columns 0, 8, 16; the fifth part is the second of the second row
    sharp, blurred = (
        read_image(large / "train" / "GOPR0374_11_01" / kind / "000048.png") for kind in ("sharp", "blur")
    )
    sample = train[22]
    assert sample["key"] == "GOPR0374_11_01-000048_s005"
    np.testing.assert_array_equal(sample["gt"].permute(1, 2, 0), sharp[8:24, 8:24])
    np.testing.assert_array_equal(sample["lq"].permute(1, 2, 0), blurred[8:24, 8:24])
    test = PairedImageDataset(
        dataroot_gt=str(root / "test" / "target"), dataroot_lq=str(root / "test" / "input"), scale=1
    )
    assert test.keys == ["GOPR0384_11_00-000047", "GOPR0384_11_00-000048"]
    whole = read_image(large / "test" / "GOPR0384_11_00" / "blur" / "000047.png")
    np.testing.assert_array_equal(test[0]["lq"].permute(1, 2, 0), whole)


def test_the_same_tree_may_be_source_and_root_and_may_move(large: Path, tmp_path: Path) -> None:
    lines = prepare_gopro([str(large)], large, grid=GRID)
    before = tree(large)
    assert prepare_gopro([str(large)], large, grid=GRID) == lines
    assert tree(large) == before
    large.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert prepare_gopro([str(moved)], moved, grid=GRID) == [line.replace("GOPRO_Large", "moved") for line in lines]
    assert tree(moved) == before
    assert read_image(moved / "test" / "input" / "GOPR0384_11_00-000048.png").shape == (24, 32, 3)


def test_gamma_takes_the_other_blur_and_does_not_mix_with_the_first(large: Path, tmp_path: Path) -> None:
    prepare_gopro([str(large)], tmp_path / "g", grid=GRID, gamma=True)
    expected = read_image(large / "train" / "GOPR0372_07_00" / "blur_gamma" / "000047.png")[:16, :16]
    part = tmp_path / "g" / "train" / "blur_crops" / "GOPR0372_07_00-000047_s001.png"
    np.testing.assert_array_equal(read_image(part), expected)
    with pytest.raises(
        ValueError, match=r"sharp_crops: expected a folder that was begun with the same arguments, .*gamma: True"
    ):
        prepare_gopro([str(large)], tmp_path / "g", grid=GRID)


def write_pairs(root: Path, split: str = "train", names: tuple[str, ...] = ("a-1", "b (ü) 2")) -> Path:
    for number, folder in enumerate(("target", "input")):
        for seed, name in enumerate(names):
            write(root / split / folder / f"{name}.png", seed=seed + 10 * number)
    return root


@pytest.mark.parametrize("nested", ["", "GoPro"])
def test_the_layout_of_mprnet_is_taken_too(tmp_path: Path, nested: str) -> None:
    source = tmp_path / "data"
    for split in ("train", "test"):
        write_pairs(source / split / nested / "x")
        (source / split / nested / "x" / "train").rename(source / split / nested / "y")
        for folder in ("target", "input"):
            (source / split / nested / "y" / folder).rename(source / split / nested / folder)
    lines = prepare_gopro([str(source)], source, grid=GRID)
    parts = source / "train" / "sharp_crops"
    whole = read_image(source / "train" / nested / "target" / "b (ü) 2.png")
    name = "GoPro-b (ü) 2" if nested else "b (ü) 2"
    np.testing.assert_array_equal(read_image(parts / f"{name}_s006.png"), whole[8:, 16:])
    assert lines[-1] == f"{source}/test/input: 2 {'links' if nested else 'images, as they were downloaded'}"


@pytest.mark.parametrize("encoding", ["png", "tiles", "raw"])
def test_lmdbs_hold_the_same_samples_as_the_files(large: Path, tmp_path: Path, encoding: str) -> None:
    prepare_gopro([str(large)], tmp_path / "files", grid=GRID)
    for _ in range(2):  # the second time all is complete
        lines = prepare_gopro([str(large)], tmp_path / "lmdb", grid=GRID, lmdb=encoding)
    assert lines[-1] == f"{tmp_path}/lmdb/test/input.lmdb: 2 images"
    assert sorted(os.listdir(tmp_path / "lmdb" / "train")) == ["blur_crops.lmdb", "sharp_crops.lmdb"]
    for split, gt, lq in (("train", "sharp_crops", "blur_crops"), ("test", "target", "input")):
        files, stored = (
            PairedImageDataset(
                dataroot_gt=f"{tmp_path}/{kind}/{split}/{gt}{suffix}",
                dataroot_lq=f"{tmp_path}/{kind}/{split}/{lq}{suffix}",
                scale=1,
                gt_size=8 if split == "train" else None,
                io_backend={"type": backend},
            )
            for kind, suffix, backend in (("files", "", "disk"), ("lmdb", ".lmdb", "lmdb"))
        )
        assert files.keys == stored.keys
        for index in range(len(files)):
            item = (index, 2) if split == "train" else index
            for a, b in zip(files[item].values(), stored[item].values(), strict=True):
                assert np.array_equal(a, b)  # type: ignore[arg-type]


def test_a_zip_is_unpacked_below_the_root(large: Path, tmp_path: Path) -> None:
    archive, root = tmp_path / "GOPRO_Large.zip", tmp_path / "GoPro"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(large.rglob("*.png")):
            file.write(path, path.relative_to(large))
    assert prepare_gopro([str(archive)], root, grid=GRID, dry_run=True) == [
        "the archives are whole; what is in them is told when they are unpacked"
    ]
    assert not root.exists()
    prepare_gopro([str(archive)], root, grid=GRID)
    before = tree(root)
    assert len(list((root / "train" / "blur_crops").glob("*.png"))) == 24
    assert len(list((root / "GOPRO_Large" / "train").rglob("*.png"))) == 12
    prepare_gopro([str(archive)], root, grid=GRID)
    assert tree(root) == before
    prepare_gopro([str(root)], root, grid=GRID)  # what was unpacked is found there, too
    assert tree(root) == before


def test_a_dry_run_of_gopro_writes_nothing(large: Path, tmp_path: Path) -> None:
    before = tree(large)
    lines = prepare_gopro([str(large)], large, grid=GRID, dry_run=True)
    assert lines[1] == f"{large}/train/sharp_crops: 24 parts of 4 images, would be made"
    assert lines[-1] == f"{large}/test/input: 2 links, would be made"
    assert tree(large) == before


def test_what_is_wrong_with_gopro_is_said_before_anything_is_written(large: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    clip = large / "train" / "GOPR0372_07_00"
    (clip / "blur" / "000047.png").rename(tmp_path / "kept.png")
    with pytest.raises(ValueError, match=r"07_00/blur: expected the images of .*/sharp, but 1 are missing \(000047\)"):
        prepare_gopro([str(large)], root, grid=GRID)
    write(clip / "blur" / "000047.png", seed=1, size=(24, 31))
    with pytest.raises(ValueError, match=r"blur/000047.png: expected an integer fraction of the size of .*got 24x31"):
        prepare_gopro([str(large)], root, grid=GRID)
    (tmp_path / "kept.png").replace(clip / "blur" / "000047.png")
    with pytest.raises(ValueError, match="expected an image of crop_size 40 or more, got 24x32"):
        prepare_gopro([str(large)], root, grid=Grid(40, 20))
    write_pairs(large, names=("GOPR0372_07_00-000047",))
    with pytest.raises(ValueError, match=r"expected each image once, got .*, too\. Name the folder"):
        prepare_gopro([str(large)], root, grid=GRID)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected train/CLIP/{blur,sharp} or train/{input,target} with images below"):
        prepare_gopro([str(empty)], root, grid=GRID)
    with pytest.raises(ValueError, match="expected it below a folder train or test"):
        prepare_gopro([str(write_pairs(tmp_path / "odd", "training"))], root, grid=GRID)
    with pytest.raises(ValueError, match="gamma: expected a folder blur_gamma"):
        prepare_gopro([str(write_pairs(tmp_path / "flat"))], root, grid=GRID, gamma=True)
    with pytest.raises(FileNotFoundError, match="source: expected an existing file or folder"):
        prepare_gopro([str(tmp_path / "nowhere")], root, grid=GRID)
    assert not root.exists()


def test_without_blur_only_gamma_can_be_taken(large: Path) -> None:
    for clip in sorted(large.glob("*/GOPR*")):
        for path in sorted((clip / "blur").iterdir()):
            path.unlink()
        (clip / "blur").rmdir()
    with pytest.raises(ValueError, match=r"GOPR\w+: expected a folder blur beside sharp, got none. Or set --gamma"):
        find_gopro([large])
    assert len(find_gopro([large], gamma=True)["train"].pairs) == 4


def test_names_of_gopro_are_those_of_mprnets_copy(large: Path) -> None:
    found = find_gopro([large])
    assert sorted(found["test"].pairs) == ["GOPR0384_11_00-000047", "GOPR0384_11_00-000048"]
    clip = large / "test" / "GOPR0384_11_00"
    assert found["test"].pairs["GOPR0384_11_00-000047"] == (clip / "sharp" / "000047.png", clip / "blur" / "000047.png")


# --- SIDD ----------------------------------------------------------------------------------------

SCENES = {"0001_001_S6_00100_00060_3200_L": (32, 40), "0002_001_S6_00100_00020_3200_N": (24, 33)}


@pytest.fixture
def sidd(tmp_path: Path) -> Path:
    """The tree of SIDD_Medium_Srgb.zip with two scenes, and the validation blocks of two images, three each."""
    root = tmp_path / "SIDD"
    for scene, size in SCENES.items():
        for number in ("010", "011"):
            for seed, kind in enumerate(("GT", "NOISY")):
                path = root / "SIDD_Medium_Srgb" / "Data" / scene / f"{scene[:4]}_{kind}_SRGB_{number}.PNG"
                write(path, seed=seed + 10 * int(number) + int(scene[:4]), size=size)
    rng = np.random.default_rng(3)
    for name in ("ValidationGtBlocksSrgb", "ValidationNoisyBlocksSrgb"):
        scipy.io.savemat(root / f"{name}.mat", {name: rng.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)})
    return root


def test_sidd_becomes_parts_with_nafnets_names_and_validation_blocks(sidd: Path) -> None:
    lines = prepare_sidd([str(sidd)], sidd, grid=GRID)
    # 32x40: 3 x 4 parts; 24x33: 2 x 4, the last column one pixel further
    assert lines == [
        "note: train has 4 pairs; SIDD Medium has 320",
        f"{sidd}/train/gt_crops: 40 parts of 4 images",
        f"{sidd}/train/input_crops: 40 parts of 4 images",
        f"{sidd}/val/gt_crops: 6 blocks",
        f"{sidd}/val/input_crops: 6 blocks",
    ]
    scene = sidd / "SIDD_Medium_Srgb" / "Data" / "0002_001_S6_00100_00020_3200_N"
    noisy = read_image(scene / "0002_NOISY_SRGB_011.PNG")
    part = read_image(sidd / "train" / "input_crops" / "0002_SRGB_011_s008.png")
    np.testing.assert_array_equal(part, noisy[8:24, 17:33])
    clean = read_image(scene / "0002_GT_SRGB_011.PNG")
    np.testing.assert_array_equal(
        read_image(sidd / "train" / "gt_crops" / "0002_SRGB_011_s008.png"), clean[8:24, 17:33]
    )
    blocks = scipy.io.loadmat(sidd / "ValidationNoisyBlocksSrgb.mat")["ValidationNoisyBlocksSrgb"]
    np.testing.assert_array_equal(read_image(sidd / "val" / "input_crops" / "0002_01.png"), blocks[1, 0])
    val = PairedImageDataset(
        dataroot_gt=str(sidd / "val" / "gt_crops"), dataroot_lq=str(sidd / "val" / "input_crops"), scale=1
    )
    assert val.keys == [f"{image:04d}_{block:02d}" for image in (1, 2) for block in (1, 2, 3)]
    before = tree(sidd)
    for source in (sidd, sidd / "SIDD_Medium_Srgb"):  # the same images
        assert prepare_sidd([str(source)], sidd, grid=GRID)[:3] == lines[:3]
        assert tree(sidd) == before


def test_a_clip_that_comes_later_is_added(large: Path, tmp_path: Path) -> None:
    second = large / "train" / "GOPR0374_11_01"
    second.rename(tmp_path / "kept")
    assert f"{large}/train/sharp_crops: 12 parts of 2 images" in prepare_gopro([str(large)], large, grid=GRID)
    (tmp_path / "kept").rename(second)
    assert f"{large}/train/sharp_crops: 24 parts of 4 images" in prepare_gopro([str(large)], large, grid=GRID)
    assert len(list((large / "train" / "blur_crops").glob("*.png"))) == 24


def test_sidd_goes_into_lmdbs(sidd: Path, tmp_path: Path) -> None:
    lines = prepare_sidd([str(sidd)], tmp_path / "out", grid=GRID, lmdb="tiles")
    assert lines == prepare_sidd([str(sidd)], tmp_path / "out", grid=GRID, lmdb="tiles")
    stored = PairedImageDataset(
        dataroot_gt=str(tmp_path / "out" / "train" / "gt_crops.lmdb"),
        dataroot_lq=str(tmp_path / "out" / "train" / "input_crops.lmdb"), scale=1, io_backend={"type": "lmdb"},
    )  # fmt: skip
    assert (len(stored), stored.keys[0]) == (40, "0001_SRGB_010_s001")
    val = PairedImageDataset(
        dataroot_gt=str(tmp_path / "out" / "val" / "gt_crops.lmdb"),
        dataroot_lq=str(tmp_path / "out" / "val" / "input_crops.lmdb"), scale=1, io_backend={"type": "lmdb"},
    )  # fmt: skip
    blocks = read_blocks(sidd / "ValidationGtBlocksSrgb.mat")
    np.testing.assert_array_equal(val[5]["gt"].permute(1, 2, 0), blocks[1, 2])


def test_a_dry_run_of_sidd_writes_nothing(sidd: Path) -> None:
    before = tree(sidd)
    lines = prepare_sidd([str(sidd)], sidd, grid=GRID, dry_run=True)
    assert lines[2] == f"{sidd}/train/input_crops: 40 parts of 4 images, would be made"
    assert tree(sidd) == before


def test_what_is_wrong_with_sidd_is_said(sidd: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    scene = sidd / "SIDD_Medium_Srgb" / "Data" / "0001_001_S6_00100_00060_3200_L"
    (scene / "0001_GT_SRGB_011.PNG").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"0001_NOISY_SRGB_011.PNG: expected its _GT_ partner beside it"):
        prepare_sidd([str(sidd)], root, grid=GRID)
    (tmp_path / "kept").rename(scene / "0001_GT_SRGB_011.PNG")
    (sidd / "ValidationGtBlocksSrgb.mat").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"expected ValidationGtBlocksSrgb.mat beside the other"):
        prepare_sidd([str(sidd)], root, grid=GRID)
    (sidd / "ValidationNoisyBlocksSrgb.mat").unlink()
    assert prepare_sidd([str(sidd)], root, grid=GRID)[-1].startswith("note: no validation blocks: ")
    with pytest.raises(ValueError, match=r"expected images \*_NOISY_\*.PNG and \*_GT_\*.PNG below"):
        prepare_sidd([str(root)], root, grid=GRID)
    pair = find_sidd([sidd])["0001_SRGB_010"]
    assert pair == ImagePair(scene / "0001_GT_SRGB_010.PNG", scene / "0001_NOISY_SRGB_010.PNG")
    for kind in ("GT", "NOISY"):
        write(scene.parent / "copy" / f"0001_{kind}_SRGB_010.PNG", seed=1)
    with pytest.raises(ValueError, match="expected a name of its own, got that of"):
        find_sidd([sidd])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MATLAB 5.0 MAT-file", "expected a whole .mat file"),
        (b"", "expected a whole .mat file"),
        (None, r"expected an array ValidationGtBlocksSrgb, uint8 \(image, block, h, w, 3\), got none"),
    ],
)
def test_other_mat_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "ValidationGtBlocksSrgb.mat"
    if content is None:
        scipy.io.savemat(path, {"other": np.zeros(3)})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_blocks(path)
    scipy.io.savemat(path, {"ValidationGtBlocksSrgb": np.zeros((2, 3, 4, 4), np.uint8)})
    with pytest.raises(ValueError, match=r"got uint8 \(2, 3, 4, 4\)"):
        read_blocks(path)


def test_damaged_mat_files_are_refused_whatever_is_broken(sidd: Path, tmp_path: Path) -> None:
    name = "ValidationGtBlocksSrgb"
    path = tmp_path / f"{name}.mat"
    scipy.io.savemat(path, {name: read_blocks(sidd / f"{name}.mat")}, do_compression=True)  # as the official ones
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for cut in rng.integers(0, len(whole), 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=f"^{path}: expected"):
            read_blocks(path)
    refused = 0
    for at in rng.integers(128, len(whole), 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            read_blocks(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: expected")  # noqa: PT017
            refused += 1
    assert refused > 30


def test_a_link_to_a_folder_above_is_no_endless_search(large: Path, sidd: Path, tmp_path: Path) -> None:
    (large / "train" / "up").symlink_to(large)
    (sidd / "up").symlink_to(sidd)
    assert sum(len(split.pairs) for split in find_gopro([large]).values()) == 6
    assert len(find_sidd([sidd])) == 4


def test_photographs_of_sixteen_bits_are_refused(sidd: Path, tmp_path: Path) -> None:
    scene = sidd / "SIDD_Medium_Srgb" / "Data" / "0001_001_S6_00100_00060_3200_L"
    cv2.imwrite(str(scene / "0001_GT_SRGB_010.PNG"), np.zeros((32, 40, 3), np.uint16))
    with pytest.raises(
        ValueError, match=r"0001_GT_SRGB_010.PNG: expected 8 bits a channel in grey or RGB, got 16 bits"
    ):
        prepare_sidd([str(sidd)], tmp_path / "out", grid=GRID)
    assert not (tmp_path / "out").exists()
