"""prepare_flickr1024.py and prepare_stereo.py: what they make of the downloaded trees; test_stereo_system.py trains."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from killing import kill_and_repeat, tree
from stereo_pairs import made_pair, photographed_pair

from vsr.data.encodings import ENCODINGS
from vsr.data.paired_stereo_image import PairedStereoImageDataset
from vsr.data.stereo_sets import prepare_flickr1024
from vsr.utils.images import Frame, write_image

ROOT = Path(__file__).parents[2]
SCRIPTS = {name: str(ROOT / "scripts" / f"{name}.py") for name in ("prepare_flickr1024", "prepare_stereo")}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a script's main in the test's folder, by default in this process: (status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS[name])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module.logs, "setup", lambda: None)  # leaves the handlers of the tests alone
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--workers", "0", *arguments])
        try:
            status = module.main()
        except SystemExit as end:
            status = int(str(end.code))
        return status, *capsys.readouterr()

    return run


def write_flickr(root: Path, counts: dict[str, int], size: tuple[int, int] = (150, 416)) -> None:
    """Write the tree of Flickr1024 as it is downloaded, with fewer pairs."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            write_views(root / folder, f"{number:04d}", *made_pair(size, disparity=12, seed=number))


def write_views(folder: Path, name: str, left: Frame, right: Frame) -> None:
    for side, view in (("L", left), ("R", right)):
        write_image(folder / f"{name}_{side}.png", view)


def samples(output: Path, encoding: str | None) -> list[dict[str, Any]]:
    """Return all of the training set, and the test set at x4, whole."""
    end, io_backend = (".lmdb", {"type": "lmdb"}) if encoding else ("", {"type": "disk"})
    patches = str(output / f"patches_x4{end}")
    test = {name: str(output / "test" / "Flickr1024" / f"{name}{end}") for name in ("hr", "lr_x4")}
    given: dict[str, Any] = {"scale": 4, "io_backend": io_backend}
    train_set = PairedStereoImageDataset(
        dataroot_gt=patches, dataroot_lq=patches, gt_size_h=120, gt_size_w=360, flip_RGB=True, **given
    )
    test_set = PairedStereoImageDataset(dataroot_gt=test["hr"], dataroot_lq=test["lr_x4"], **given)
    return [
        *(dict(train_set[index, draw]) for draw in range(2) for index in range(len(train_set))),
        *(dict(test_set[index]) for index in range(len(test_set))),
    ]


def test_flickr1024_as_downloaded_gives_the_same_samples_in_files_and_in_lmdbs(tmp_path: Path, script: Any) -> None:
    write_flickr(tmp_path / "raw", {"Train": 2, "Validation": 1, "Test": 1})
    write_image(tmp_path / "raw" / "Train" / "0002_L.png", made_pair((150, 416), disparity=12, seed=8)[0])
    before = tree(tmp_path / "raw")
    outputs = {None: tmp_path / "files", **{encoding: tmp_path / f"in_{encoding}" for encoding in ENCODINGS}}
    expected: list[dict[str, Any]] = []
    for encoding, output in outputs.items():
        lmdb = ["--lmdb", encoding] if encoding else []
        status, said, errors = script("prepare_flickr1024", "raw", "--output", str(output), *lmdb)
        assert status == 0, errors
        end = ".lmdb" if encoding else ""
        assert said.splitlines() == [
            f"{output}/patches_x4{end}: 2 patches of 2 pairs",
            f"{output}/val/Flickr1024: 1 pairs",
            f"{output}/test/Flickr1024: 1 pairs",
        ]
        found = samples(output, encoding)
        expected = expected or found
        assert len(found) == len(expected) == 5
        for one, other in zip(found, expected, strict=True):
            assert one["key"] == other["key"]
            assert all(torch.equal(one[name], other[name]) for name in ("lq", "gt"))
    assert tree(tmp_path / "raw") == before


def test_a_photographed_pair_has_as_many_patches_as_fit(tmp_path: Path, script: Any) -> None:
    left, right = (view[:320, :600] for view in photographed_pair())
    for folder in ("Train", "Test"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        write_views(tmp_path / "raw" / folder, "0001", left, right)
    status, said, errors = script("prepare_flickr1024", "raw", "--output", "made", "--scale", "2", "4")
    assert status == 0, errors
    # at x2 160 x 300, rows 3, 23 ... 123 and columns 3, 23 ... 203; at x4 80 x 150, 3 to 43 and 3 to 43
    assert said.splitlines() == [
        "made/patches_x2: 77 patches of 1 pairs",
        "made/patches_x4: 9 patches of 1 pairs",
        "made/test/Flickr1024: 1 pairs",
    ]


def test_middleburys_patches_come_first(tmp_path: Path, script: Any) -> None:
    write_flickr(tmp_path / "raw", {"Train": 1})
    write_flickr(tmp_path / "Middlebury", {"Aloe": 0}, (300, 832))
    write_views(tmp_path / "Middlebury" / "Aloe", "Aloe", *made_pair((300, 832), disparity=20))
    status, said, errors = script("prepare_flickr1024", "raw", "--middlebury", "Middlebury", "--output", "o")
    assert status == 0, errors
    assert said == "o/patches_x4: 2 patches of 2 pairs (49020 as published)\n"
    status, _, errors = script("prepare_stereo", "middlebury", "Middlebury", "--train", "--output", "alone")
    assert status == 0, errors
    for name in ("hr0", "hr1", "lr0", "lr1"):
        files = [tmp_path / folder / "patches_x4" / "000001" / f"{name}.png" for folder in ("o", "alone")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_kittis_listed_pairs_become_a_test_set(tmp_path: Path, script: Any) -> None:
    for view, images in zip(
        ("colored_0", "colored_1"),
        zip(*[made_pair((60, 120), disparity=6, seed=s) for s in range(3)], strict=True),
        strict=True,
    ):
        (tmp_path / "KITTI" / "testing" / view).mkdir(parents=True)
        for number, image in enumerate(images):
            for moment in (10, 11):
                write_image(tmp_path / "KITTI" / "testing" / view / f"{number:06d}_{moment}.png", image)
    (tmp_path / "list.txt").write_text("000002\n000000\n", encoding="utf-8")
    status, said, errors = script("prepare_stereo", "kitti2012", "KITTI", "--list", "list.txt", "--output", "o")
    assert (status, said) == (0, "o/test/KITTI2012: 2 pairs\n"), errors
    assert not (tmp_path / "o/test/KITTI2012/disparity").exists()
    dataset = PairedStereoImageDataset(
        dataroot_gt=str(tmp_path / "o/test/KITTI2012/hr"), dataroot_lq=str(tmp_path / "o/test/KITTI2012/lr_x2"), scale=2
    )
    assert dataset.keys == ["000000", "000002"]
    assert dataset[0]["gt"].shape == (6, 60, 120)


@pytest.mark.parametrize("more", [[], ["--lmdb", "png"]], ids=["files", "lmdb"])
def test_true_disparities_come_along_cropped_as_the_images(tmp_path: Path, script: Any, more: list[str]) -> None:
    """KITTI's training images have them in 16 bits, 0 unknown, and Middlebury's scenes as PFM, the last row first."""
    truth = np.random.default_rng(0).integers(1, 4000, (43, 61)).astype(np.float32) / 256
    truth[5, 7] = 0
    pair = made_pair((43, 61), disparity=6)
    kitti, scene = tmp_path / "KITTI" / "training", tmp_path / "Middlebury" / "Aloe"
    for folder in ("image_2", "image_3", "disp_noc_0", "disp_occ_0"):
        (kitti / folder).mkdir(parents=True)
    scene.mkdir(parents=True)
    for number, view in enumerate(pair):
        write_image(kitti / f"image_{2 + number}" / "000003_10.png", view)
        write_image(scene / f"im{number}.png", view)
    for factor, folder in ((256, "disp_noc_0"), (128, "disp_occ_0")):
        cv2.imwrite(str(kitti / folder / "000003_10.png"), (truth * factor).astype(np.uint16))
    infinite = np.where(truth > 0, truth, np.inf)[::-1].astype("<f4")
    (scene / "disp0.pfm").write_bytes(b"Pf\n61 43\n-1.0\n" + infinite.tobytes())
    for kind, root, name in (
        ("kitti2015", kitti, "KITTI2015/disparity/000003"),
        ("middlebury", scene.parent, "Middlebury/disparity/Aloe"),
    ):
        for _ in range(2):  # the same again goes on
            status, said, errors = script("prepare_stereo", kind, str(root), "--output", "o", *more)
            assert status == 0, errors
            assert said.endswith(": 1 pairs, 1 with disparity\n")
        np.testing.assert_array_equal(np.load(tmp_path / "o" / "test" / f"{name}.npy"), truth[:40, :60])
    (kitti / "disp_noc_0" / "000003_10.png").rename(tmp_path / "away.png")
    status, _, errors = script("prepare_stereo", "kitti2015", str(kitti), "--output", "o", *more)
    other = "it has disparity: ['disp_noc_0/000003_10.png'] (now ['disp_occ_0/000003_10.png']). Use these, or"
    assert (status, other in errors) == (1, True), errors
    (scene / "disp0.pfm").write_bytes(b"Pf\n60 43\n-1.0\n" + infinite.tobytes())
    before = tree(tmp_path)
    for dry in ([], ["--dry_run"]):  # a bad one is found before anything is written
        status, _, errors = script("prepare_stereo", "middlebury", str(scene.parent), "--output", "new", *dry, *more)
        assert (status, "disp0.pfm: expected disparities of the left view's size, 43x61" in errors) == (1, True), errors
    assert tree(tmp_path) == before
    if not more:
        made = tmp_path / "o" / "test" / "Middlebury"
        roots = {f"dataroot_{key}": str(made / folder) for key, folder in (("gt", "hr"), ("disparity", "disparity"))}
        np.testing.assert_array_equal(PairedStereoImageDataset(scale=2, **roots)[0]["disparity"], truth[:40, :60])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prepare_flickr1024", ["nowhere"], "root: expected an existing file or folder, got 'nowhere'"),
        ("prepare_flickr1024", ["empty"], "root: expected the folders Train, Validation, Test of Flickr1024 in"),
        ("prepare_flickr1024", ["raw", "--parts", "val"], "root: expected the folders Validation of Flickr1024"),
        ("prepare_flickr1024", ["odd"], "one without the other: 0002_L.png (1 in all)"),
        ("prepare_flickr1024", ["raw", "--parts", "test", "--middlebury", "raw"], "middlebury: expected to train"),
        ("prepare_stereo", ["kitti2012", "raw"], "root: expected the folders colored_0 and colored_1 of kitti2012"),
        ("prepare_stereo", ["middlebury", "raw/Test", "--scale", "4"], "scale: expected none for a test set"),
        ("prepare_stereo", ["pairs", "raw/Test", "--train", "--name", "x"], "name: expected none with train"),
        ("prepare_stereo", ["pairs", "raw/Test", "--name", "../x"], "name: expected the name of a folder, got '../x'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_nothing_is_written(
    tmp_path: Path, script: Any, name: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_flickr(tmp_path / "raw", {"Train": 1, "Test": 1}, (40, 60))
    write_flickr(tmp_path / "odd", {"Train": 2, "Test": 1}, (40, 60))
    (tmp_path / "odd" / "Train" / "0002_R.png").unlink()
    before = tree(tmp_path)
    status, said, errors = script(name, *arguments)
    assert (status, said) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert tree(tmp_path) == before


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, script: Any) -> None:
    write_flickr(tmp_path / "raw", {"Train": 1, "Test": 1})
    before = tree(tmp_path)
    for more in ([], ["--lmdb", "png"]):
        status, said, _ = script("prepare_flickr1024", "raw", "--dry_run", *more)
        assert status == 0
        assert said.count("would be made") == 2
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("lmdb", [[], ["--lmdb", "png"]], ids=["files", "lmdb"])
def test_killed_in_the_middle_the_same_command_gives_the_same_tree(tmp_path: Path, lmdb: list[str]) -> None:
    write_flickr(tmp_path / "raw", {"Train": 6}, (280, 520))  # 54 patches each, 216 files
    raw, encoding = str(tmp_path / "raw"), lmdb[-1] if lmdb else None
    prepare_flickr1024(raw, str(tmp_path / "whole"), scales=(2,), lmdb=encoding)
    command = [sys.executable, SCRIPTS["prepare_flickr1024"], raw, "--workers", "2", "--scale", "2", *lmdb]
    kill_and_repeat([*command, "--output", str(tmp_path / "parts")], tmp_path / "parts", after=1 if lmdb else 150)
    expected, found = tree(tmp_path / "whole"), tree(tmp_path / "parts")
    if lmdb:  # the pages of a database may lie in another order
        for name in ("patches_x2.lmdb/data.mdb",):
            del expected[name], found[name]
        both = [
            PairedStereoImageDataset(
                dataroot_gt=str(tmp_path / part / "patches_x2.lmdb"), scale=2, io_backend={"type": "lmdb"}
            )
            for part in ("whole", "parts")
        ]
        assert both[0].keys == both[1].keys
        assert all(torch.equal(both[0][i]["gt"], both[1][i]["gt"]) for i in range(len(both[0])))
    assert found == expected
