import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from killing import tree

from vsr.data.lmdb_storage import LmdbStorage
from vsr.data.vimeo90k_preparation import VimeoOptions, option_lines, prepare_vimeo90k, reduced
from vsr.registry import DATASETS
from vsr.utils.images import read_image
from vsr.utils.resize import imresize

TRAIN, TEST = ["00001/0001", "00001/0003", "00002/0001"], ["00001/0002", "00002/0004"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official archive, unpacked: five septuplets of 16x24 frames."""
    root = tmp_path / "vimeo (1) \u00fc"
    rng = np.random.default_rng(0)
    for name in TRAIN + TEST:
        folder = root / "vimeo_septuplet" / "sequences" / name
        folder.mkdir(parents=True)
        for i in range(1, 8):
            cv2.imwrite(str(folder / f"im{i}.png"), rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    (root / "vimeo_septuplet" / "sep_trainlist.txt").write_text("\n".join(TRAIN) + "\n\n")
    (root / "vimeo_septuplet" / "sep_testlist.txt").write_text("\r\n".join(TEST))
    (root / "fast_testset.txt").write_text("00002/0004\n")
    return root


def test_lists_and_lr_frames_are_made_and_a_second_run_changes_nothing(root: Path) -> None:
    before = tree(root)
    options = VimeoOptions(root=str(root), lr=["bicubic", "bd"])
    planned = prepare_vimeo90k(options, workers=0, dry_run=True)
    assert {name: len(each) for name, each in planned.lists.items()} == {"train": 3, "test": 2, "test_fast": 1}
    assert tree(root) == before
    made = prepare_vimeo90k(options, workers=0)
    after = tree(root)
    assert {name: value for name, value in after.items() if name.split("/")[0] != "prepared"} == before
    prepare_vimeo90k(options, workers=0)
    assert tree(root) == after
    lists = {path.name: path.read_text() for path in made.folder.glob("meta_info_*")}
    assert lists["meta_info_Vimeo90K_train_GT.txt"] == "".join(f"{name} 7 (16,24,3)\n" for name in TRAIN)
    assert lists["meta_info_Vimeo90K_test_fast_GT.txt"] == "00002/0004 7 (16,24,3)\n"
    gt = read_image(made.sequences / "00002/0001/im7.png")
    low = read_image(made.folder / "vimeo_septuplet_matlabLRx4" / "sequences" / "00002" / "0001" / "im7.png")
    np.testing.assert_array_equal(low, imresize(gt, 0.25))
    assert len(list(made.lr["bd"].glob("*/*/im*.png"))) == 35


def test_bd_is_the_fields_blur_and_subsampling() -> None:
    """Against DUF's definition: a Gaussian of 13 x 13 and sigma 1.6, mirrored borders, pixels 0, 4, 8 ..."""
    image = np.random.default_rng(1).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    taps = np.exp(-0.5 * (np.arange(-6, 7) / 1.6) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    wide = np.pad(image.astype(np.float64), ((6, 6), (6, 6), (0, 0)), "reflect")
    expected = np.array(
        [
            [(wide[y : y + 13, x : x + 13] * kernel[..., None]).sum((0, 1)) for x in range(0, 40, 4)]
            for y in range(0, 32, 4)
        ]
    )
    found = reduced(image, "bd", 4, "x.png")
    assert found.shape == (8, 10, 3)
    assert np.abs(found - expected).max() <= 0.501
    with pytest.raises(ValueError, match=r"^x\.png: expected sides that are multiples of the scale 3, got 32x40"):
        reduced(image, "bicubic", 3, "x.png")


@pytest.mark.parametrize("gt", ["im4", "all"])
def test_the_lines_for_an_option_file_make_data_sets_from_disk_and_lmdb(root: Path, gt: str) -> None:
    made = prepare_vimeo90k(VimeoOptions(root=str(root), lr=["bicubic"], lmdb="png", lmdb_gt=gt), workers=0)
    storage = LmdbStorage()
    keys = storage.images(str(made.lmdbs["gt"]), "x")
    assert keys == [f"{name}/im{i}.png" for name in TRAIN for i in ((4,) if gt == "im4" else range(1, 8))]
    assert len(storage.images(str(made.lmdbs["bicubic"]), "x")) == 21
    written = yaml.safe_load(option_lines(made))
    train, val = (dict(written["datasets"][phase]) for phase in ("train", "val"))
    assert train["io_backend"] == {"type": "lmdb"}
    more = {"scale": written["scale"], "num_frame": 3, "gt_size": 16}
    from_lmdb = DATASETS.get(train.pop("type"))(**train, **more)
    train |= {
        "io_backend": {"type": "disk"},
        "dataroot_gt": str(made.sequences),
        "dataroot_lq": str(made.lr["bicubic"]),
    }
    from_disk = DATASETS.get("Vimeo90KDataset")(**train, **more)
    assert len(from_lmdb) == len(from_disk) == 3
    for key in ("lq", "gt"):
        assert bool((from_lmdb[1, 0][key] == from_disk[1, 0][key]).all())
    test = DATASETS.get(val.pop("type"))(**val, scale=4)
    assert [sample["key"] for sample in (test[0], test[1])] == ["00001/0002/im4", "00002/0004/im4"]


def test_the_archive_is_unpacked_into_the_output(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "zip"
    other.mkdir()
    with zipfile.ZipFile(other / "vimeo_septuplet.zip", "w") as file:
        for path in sorted((root / "vimeo_septuplet").rglob("*")):
            file.write(path, path.relative_to(root))
    prepare_vimeo90k(VimeoOptions(root=str(other)), workers=0, dry_run=True)
    assert os.listdir(other) == ["vimeo_septuplet.zip"]
    made = prepare_vimeo90k(VimeoOptions(root=str(other)), workers=0)
    assert made.sequences == other / "prepared" / "unpacked" / "vimeo_septuplet" / "sequences"
    assert tree(made.sequences) == tree(root / "vimeo_septuplet" / "sequences")
    (other / "vimeo_septuplet.zip").unlink()  # the user needs the space
    assert prepare_vimeo90k(VimeoOptions(root=str(other)), workers=0).sequences == made.sequences


def test_septuplets_that_lack_frames_are_named_and_may_be_left_out(root: Path) -> None:
    (root / "vimeo_septuplet" / "sequences" / "00001" / "0003" / "im5.png").unlink()
    (root / "vimeo_septuplet" / "sequences" / "00002" / "0004" / "im1.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"expected all 5 septuplets .* 00001/0003 lacks im5\.png; 00002/0004 lacks im1"
    ):
        prepare_vimeo90k(VimeoOptions(root=str(root), output=str(root / "a")), workers=0)
    made = prepare_vimeo90k(
        VimeoOptions(root=str(root), output=str(root / "b"), allow_incomplete=True, lr=["bd"]), workers=0
    )
    assert made.lists["train"] == ["00001/0001", "00002/0001"]
    assert made.lists["test"] == ["00001/0002"]


def test_what_is_not_there_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"as vimeo_septuplet\.zip or unpacked, with sep_trainlist\.txt beside"):
        prepare_vimeo90k(VimeoOptions(root=str(tmp_path / "empty")), workers=0)
    with pytest.raises(FileNotFoundError, match="root: expected an existing file or folder"):
        prepare_vimeo90k(VimeoOptions(root=str(tmp_path / "none")), workers=0)
    (root / "vimeo_septuplet" / "sep_trainlist.txt").write_text("00001/0001\n../../etc\n")
    with pytest.raises(
        ValueError, match=r"sep_trainlist\.txt:2: expected a line such as 00001/0001, got '\.\./\.\./etc'"
    ):
        prepare_vimeo90k(VimeoOptions(root=str(root)), workers=0)


def test_a_root_may_be_the_folder_of_the_septuplets_itself(root: Path, tmp_path: Path) -> None:
    made = prepare_vimeo90k(VimeoOptions(root=str(root / "vimeo_septuplet"), output=str(tmp_path / "o")), workers=0)
    assert made.sequences == root / "vimeo_septuplet" / "sequences"


def test_another_scale_needs_another_folder(root: Path) -> None:
    prepare_vimeo90k(VimeoOptions(root=str(root), lr=["bd"]), workers=0)
    with pytest.raises(ValueError, match=r"but it has scale: 4 \(now 2\)"):
        prepare_vimeo90k(VimeoOptions(root=str(root), scale=2), workers=0)


def test_an_lmdb_of_other_septuplets_is_told(root: Path) -> None:
    prepare_vimeo90k(VimeoOptions(root=str(root), lmdb="raw"), workers=0)
    (root / "vimeo_septuplet" / "sep_trainlist.txt").write_text("00001/0001\n")
    with pytest.raises(ValueError, match=r"only4th\.lmdb: expected the 1 images .* got 3\. It was made of others"):
        prepare_vimeo90k(VimeoOptions(root=str(root), lmdb="raw"), workers=0)
    shutil.rmtree(root / "prepared" / "vimeo90k_train_GT_only4th.lmdb")
    prepare_vimeo90k(VimeoOptions(root=str(root), lmdb="raw"), workers=0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"lr": ["bicubik"]}, r"lr: expected bicubic, bd, got 'bicubik'\. Did you mean 'bicubic'\?"),
        ({"lmdb_gt": "4th"}, "lmdb_gt: expected im4, all, got '4th'"),
        ({"scale": 1}, "scale: expected 2 or more, got 1"),
    ],
)
def test_options_out_of_range_are_refused(argument: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VimeoOptions(root=".", **argument)  # type: ignore[arg-type]
