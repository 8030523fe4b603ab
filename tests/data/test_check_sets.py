import shutil
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from vsr.config.schema import Component, DatasetOptions, Options
from vsr.data.check import SetCheck, check_data
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.registry import DATASETS
from vsr.utils.images import write_image


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Clips a, b and c of 6 frames of coarse noise, GT 48 x 64 and LQ 12 x 16."""
    rng = np.random.default_rng(0)
    for clip in "abc":
        for frame in range(6):
            coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            for root, size in (("gt", (64, 48)), ("lq", (16, 12))):
                (tmp_path / root / clip).mkdir(parents=True, exist_ok=True)
                image: Any = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
                write_image(tmp_path / root / clip / f"{frame:03d}.png", image)
    return tmp_path


def options(root: Path, *, scale: int = 4, **sets: dict[str, Any]) -> Options:
    sections = {}
    for key, arguments in sets.items():
        given = {"dataroot_gt": str(root / "gt"), "dataroot_lq": str(root / "lq")} | arguments
        kind, stated = given.pop("type", "VideoTestDataset"), given.pop("fingerprint", None)
        if kind.startswith("Video") and "Recurrent" not in kind:
            given.setdefault("num_frame", 3)
        sections[key] = DatasetOptions(dataset=Component(type=kind, args=given), fingerprint=stated)
    return Options(
        name="check", model_type="VideoModel", scale=scale, datasets=sections, network_g=Component(type="EDVR")
    )


def checked(root: Path, *, full: bool = False, scale: int = 4, **arguments: Any) -> SetCheck:
    (result,) = check_data(options(root, scale=scale, val=arguments), full=full)
    return result


def assert_told(result: SetCheck, *expected: str) -> None:
    for text in expected:
        assert any(text in problem for problem in result.problems), (text, result.problems)
    assert not result.ok


def test_a_good_set_passes_with_its_numbers_and_fingerprint(roots: Path) -> None:
    found = checked(roots)
    assert (found.ok, found.problems) == (True, [])
    assert (found.clips, found.images, found.gt, found.lq, found.storage) == (3, 18, "48x64", "12x16", "disk")
    assert found.decoded == 36
    assert found.fingerprint is not None
    assert found.fingerprint.startswith("v1-18-48x64-12x16-")
    assert found.notes == ["frames a clip: 3 of 6"]
    assert checked(roots, dataroot_lq=None).lq == "made"
    assert checked(roots, type="PairedImageDataset").clips is None


def test_all_faults_of_a_set_are_listed_not_only_the_first(roots: Path) -> None:
    (roots / "lq/a/001.png").unlink()
    (roots / "gt/a/004.png").unlink()
    (roots / "gt/b/002.png").write_bytes(b"")
    (roots / "lq/b/003.png").write_text("no image")
    cv2.imwrite(str(roots / "gt/c/000.png"), np.zeros((48, 64, 3), np.uint16))
    cv2.imwrite(str(roots / "lq/c/001.png"), np.zeros((12, 16, 4), np.uint8))
    write_image(roots / "gt/c/002.png", np.zeros((48, 60, 3), np.uint8))
    whole = (roots / "gt/c/003.png").read_bytes()
    (roots / "gt/c/003.png").write_bytes(whole[: len(whole) // 2])
    assert_told(
        checked(roots),
        "gt/a/001.png: expected an LQ image 'a/001' for it, got none",
        "lq/a/004.png: expected a GT image for it, got none",
        "gt/a: expected frames without a gap, but 005.png follows 003.png: 1 missing",
        "gt/b/002.png: expected an image, got an empty file",
        "lq/b/003.png: expected an image",
        "gt/c/000.png: expected 8 bits a channel in grey or RGB, got 16 bits",
        "lq/c/001.png: expected 8 bits a channel in grey or RGB, got an alpha channel",
        "gt/c/002.png: expected a GT of 4 x 12x16 (scale x LQ), got 48x60",
        "gt/c/003.png: expected a whole image, but the file ends too early",
    )


def test_what_only_a_whole_decoding_shows_is_found_with_full(roots: Path) -> None:
    for clip in "abc":  # more images than the sample
        for i in range(6, 60):
            for root in ("gt", "lq"):
                shutil.copy(roots / root / clip / f"{i % 6:03d}.png", roots / root / clip / f"{i:03d}.png")
    broken = roots / "gt/b/031.png"
    data = bytearray(broken.read_bytes())
    data[60] ^= 1  # in the compressed pixels
    broken.write_bytes(data)
    assert checked(roots).decoded == 64
    assert_told(checked(roots, full=True), "gt/b/031.png: expected an image, but its")


def test_frames_of_one_clip_in_two_sizes_are_counted(roots: Path) -> None:
    for i in (2, 3):
        write_image(roots / f"gt/b/{i:03d}.png", np.zeros((24, 32, 3), np.uint8))
        write_image(roots / f"lq/b/{i:03d}.png", np.zeros((6, 8, 3), np.uint8))
    assert_told(checked(roots), "clip 'b': expected frames of one size, got in LQ 12x16 (4, 000 for one), 6x8 (2, 002")
    images = checked(roots, type="PairedImageDataset")  # images may differ
    assert (images.ok, images.gt, images.lq) == (True, "2 sizes", "2 sizes")


def test_two_images_of_one_name_are_each_named(roots: Path) -> None:
    for clip in "ab":
        shutil.copy(roots / "gt" / clip / "000.png", roots / "gt" / clip / "000.bmp")
    assert_told(checked(roots), "gt/a/000.", "gt/b/000.")


def test_images_below_the_crop_are_named(roots: Path) -> None:
    result = check_data(options(roots, train={"type": "VideoTrainDataset", "gt_size": 64}))[0]
    assert_told(result, "gt_size", "18 images are smaller than gt_size 64: ")


def test_another_scale_is_told_for_each_pair(roots: Path) -> None:
    found = checked(roots, scale=2)
    assert sum("expected a GT of 2 x 12x16 (scale x LQ), got 48x64" in problem for problem in found.problems) == 18


def test_unusual_images_are_noted_and_do_no_harm(roots: Path) -> None:
    grey = np.repeat(np.random.default_rng(1).integers(0, 256, (48, 64, 1), dtype=np.uint8), 3, 2)
    write_image(roots / "gt/a/000.png", grey)  # LQ is another picture
    write_image(roots / "gt/b/001.png", np.full((48, 64, 3), 9, np.uint8))
    for root in ("gt", "lq"):
        shutil.copy(roots / root / "c/000.png", roots / root / "c/001.png")
    found = checked(roots)
    assert found.ok
    notes = "\n".join(found.notes)
    assert "2 of 18 decoded images are grey: they are read as three equal channels: a/000, b/001" in notes
    assert "1 of 18 decoded images have one colour all over: b/001" in notes
    assert "1 of 18 decoded images do not look like the same picture in LQ and GT: a/000" in notes
    assert "1 of 18 decoded images have the pixels of another image of the set: c/001 = c/000" in notes


def test_only_what_the_options_choose_is_looked_at(roots: Path, tmp_path: Path) -> None:
    (roots / "gt/b/002.png").write_bytes(b"")
    (roots / "lq/c/002.png").unlink()
    assert checked(roots, clips=["a"]).ok
    assert checked(roots, exclude_clips=["b", "c"]).images == 6
    (tmp_path / "list.txt").write_text("a 6 (48,64,3)\n")
    assert checked(roots, meta_info_file=str(tmp_path / "list.txt")).ok
    both = checked(roots, clips=["a", "c"])
    assert_told(both, "gt/c/002.png: expected an LQ image")
    assert not any("gt/b" in problem for problem in both.problems)


def test_train_and_validation_that_share_files_or_pixels_are_told(roots: Path, tmp_path: Path) -> None:
    train = {"type": "VideoTrainDataset", "gt_size": 16}
    apart = check_data(options(roots, train={**train, "clips": ["a", "b"]}, val={"clips": ["c"]}))
    assert [result.ok for result in apart] == [True, True]
    shared = check_data(options(roots, train={**train, "clips": ["a", "b"]}, val={"clips": ["b", "c"]}))
    assert shared[0].ok
    assert_told(shared[1], "6 files or clips are in datasets.train, too, ")
    shutil.copytree(roots / "gt/a", tmp_path / "copy/gt/x")  # another name, the same pixels
    shutil.copytree(roots / "lq/a", tmp_path / "copy/lq/x")
    copies = {"dataroot_gt": str(tmp_path / "copy/gt"), "dataroot_lq": str(tmp_path / "copy/lq")}
    twice = check_data(options(roots, train=train, val=copies), full=True)
    assert_told(twice[1], "6 images have the pixels of images in datasets.train: x/000 is a/000 there")


def test_another_fingerprint_than_the_stated_one_is_a_problem(roots: Path) -> None:
    right = checked(roots).fingerprint
    assert checked(roots, fingerprint=right).ok
    assert_told(checked(roots, fingerprint=right, clips=["a"]), f"fingerprint: expected {right}, got v1-6-")


def test_lmdbs_are_checked_like_files(roots: Path) -> None:
    files = checked(roots)
    for root, encoding in (("gt", "tiles"), ("lq", "raw")):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
    arguments = {
        "dataroot_gt": str(roots / "gt.lmdb"), "dataroot_lq": str(roots / "lq.lmdb"), "io_backend": {"type": "lmdb"},
    }  # fmt: skip
    found = checked(roots, **arguments)
    assert (found.ok, found.storage, found.fingerprint) == (True, "lmdb", files.fingerprint)
    with lmdb.open(str(roots / "lq.lmdb")) as database, database.begin(write=True) as transaction:
        for key in (b"a/001", b"c/005"):
            transaction.delete(key)
        value = bytes(transaction.get(b"b/002"))
        transaction.put(b"b/002", value[:-5])
    assert_told(
        checked(roots, **arguments),
        "lq.lmdb: expected the key 'a/001' that its meta_info lists, got none in data.mdb",
        "lq.lmdb: expected the key 'c/005' that its meta_info lists, got none in data.mdb",
        "lq.lmdb/b/002.png: expected",
    )


def test_a_root_that_is_missing_does_not_hide_the_faults_of_the_other(roots: Path) -> None:
    (roots / "gt/b/002.png").write_bytes(b"")
    assert_told(
        checked(roots, dataroot_lq=str(roots / "none")),
        "dataroot_lq: expected an existing file or folder",
        "gt/b/002.png: expected an image, got an empty file",
    )


def test_frames_in_memory_are_not_loaded_for_the_check(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vsr.data.pairs import PairReader

    monkeypatch.setattr(PairReader, "preload", lambda *a, **k: pytest.fail("preloaded"))
    assert checked(roots, cache_data=True).ok


def test_sharp_lq_frames_of_fma_net_are_looked_at_too(roots: Path) -> None:
    """Clips are named as REDS's, and nested as its archives unpack; sharp LQ is like LQ but for one gray level."""
    for clip, number in zip("abc", ("000", "001", "240"), strict=True):
        for root, below in (("gt", "train/gt"), ("lq", "lq/X4")):
            (roots / "nested" / root / below).mkdir(parents=True, exist_ok=True)
            shutil.move(roots / root / clip, roots / "nested" / root / below / number)
    sharp = Path(shutil.copytree(roots / "nested/lq/lq/X4", roots / "nested/sharp"))
    arguments = {
        "type": "FMANetDataset", "gt_size": 16, "val_partition": "REDS4", "dataroot_lq_sharp": str(sharp),
        "dataroot_gt": str(roots / "nested/gt"), "dataroot_lq": str(roots / "nested/lq"),
    }  # fmt: skip

    def result() -> SetCheck:
        return check_data(options(roots, train=arguments))[0]

    good = result()
    assert (good.problems, good.clips, good.images, good.lq, good.decoded) == ([], 2, 12, "12x16", 36)
    assert good.fingerprint is not None  # as it was before there were sharp frames: GT and LQ alone
    databases = {}
    for root, folder in (("gt", "nested/gt/train/gt"), ("lq", "nested/lq/lq/X4"), ("lq_sharp", "nested/sharp")):
        make_lmdb(Recipe(str(roots / folder), str(roots / f"of_{root}.lmdb"), "png"))
        databases[f"dataroot_{root}"] = str(roots / f"of_{root}.lmdb")
    stored = check_data(options(roots, train={**arguments, **databases, "io_backend": {"type": "lmdb"}}))[0]
    assert (stored.problems, stored.decoded, stored.fingerprint) == ([], 36, good.fingerprint)
    without = arguments | {"dataroot_lq_sharp": None}
    assert good.fingerprint == check_data(options(roots, train=without))[0].fingerprint
    write_image(sharp / "001/003.png", np.full((12, 16, 3), np.arange(16)[:, None] * 16, np.uint8))  # another picture
    assert any("1 of 12 decoded images do not look like the same picture" in note for note in result().notes)
    write_image(sharp / "001/004.png", np.zeros((12, 17, 3), np.uint8))
    (sharp / "001/002.png").write_bytes(b"")
    assert_told(result(), "001/004.png: expected LQ of 12x16", "001/002.png: expected an image, got an empty file")
    (sharp / "240/005.png").unlink()  # with it the set cannot be built
    found = result()
    assert_told(
        found, "240/005.png: expected a sharp LQ image '240/005' for it, got none",
        "001/004.png: expected LQ of 12x16", "001/002.png: expected an image, got an empty file",
    )  # fmt: skip
    assert (found.clips, found.images, found.gt, found.lq) == (2, 12, "48x64", "12x16")
    assert len(found.problems) == 4  # these, and what the set itself said


def test_a_set_that_does_not_tell_its_images_is_noted(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        is_train = False

        def __init__(self, *, dataroot_gt: str, dataroot_lq: str) -> None:
            pass

        def __len__(self) -> int:
            return 1

    monkeypatch.setitem(DATASETS._entries, "Silent", Silent)
    found = checked(roots, type="Silent")
    assert found.ok
    assert found.notes == [
        "Silent: expected a data set with named_pairs() and reader, got another. It could be built; its images "
        "were not looked at."
    ]
