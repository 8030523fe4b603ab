"""What users' folders hold: each fault ends in one message that names the file, from files and from LMDBs alike."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from faultkit import make_read_only, tmpfs
from PIL import Image

from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.registry import DATASETS
from vsr.utils.images import read_image, write_image

LMDB = {"type": "lmdb"}


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Clips a and b of 5 frames of noise, GT 32 x 48 and LQ 16 x 24."""
    rng = np.random.default_rng(0)
    for clip in "ab":
        for frame in range(5):
            for root, size in (("gt", (32, 48)), ("lq", (16, 24))):
                (tmp_path / root / clip).mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                write_image(tmp_path / root / clip / f"{frame:08d}.png", image)
    return tmp_path


def clips(roots: Path, kind: str = "VideoTestDataset", suffix: str = "", **arguments: Any) -> Any:
    given: dict[str, Any] = {"dataroot_gt": str(roots / f"gt{suffix}"), "dataroot_lq": str(roots / f"lq{suffix}")}
    given |= {"io_backend": LMDB} if suffix else {}
    if kind not in ("PairedImageDataset", "VideoRecurrentTestDataset"):
        given["num_frame"] = 3
    if "Train" in kind:
        given["gt_size"] = 16
    return DATASETS.build({"type": kind, **given, **arguments}, scale=2)


def read_all(dataset: Any) -> list[Any]:
    return [dataset[(index, 0) if dataset.is_train else index] for index in range(len(dataset))]


# --- one file that is not as it should be ---------------------------------------------------------


def save(image: Any, path: Path, **options: Any) -> None:
    """Write an image by Pillow, in a format that its suffix does not name."""
    image.save(path, options.pop("format"), **options)


def animation(path: Path) -> None:
    frames = [Image.fromarray(np.full((32, 48, 3), value, np.uint8)) for value in (1, 2)]
    save(frames[0], path, format="PNG", save_all=True, append_images=frames[1:])


def noise(channels: int, dtype: Any) -> Any:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (32, 48, channels), dtype=dtype)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda p: p.write_bytes(b""), "expected an image, got an empty file"),
    "text": (lambda p: p.write_text("Not found"), r"expected an image \(PNG, .*\), but its 9 bytes are of another"),
    "truncated PNG": (lambda p: p.write_bytes(p.read_bytes()[:-900]), "expected a whole image, but the file ends too"),
    "JPEG without its end": (
        lambda p: p.write_bytes(cv2.imencode(".jpg", noise(3, np.uint8))[1].tobytes()[:-2]),
        "expected a whole image, but the file ends too early",
    ),
    "16 bits": (lambda p: p.write_bytes(cv2.imencode(".png", noise(3, np.uint16))[1].tobytes()), "got 16 bits"),
    "alpha": (lambda p: p.write_bytes(cv2.imencode(".png", noise(4, np.uint8))[1].tobytes()), "got an alpha channel"),
    "CMYK": (lambda p: save(Image.new("CMYK", (48, 32)), p, format="JPEG"), "got CMYK colours"),
    "animation": (animation, "got 2 frames"),
    "GIF": (lambda p: save(Image.new("L", (48, 32)), p, format="GIF"), "of another kind or damaged"),
    "another size": (lambda p: write_image(p, np.zeros((34, 48, 3), np.uint8)), "expected a GT of 2 x 16x24 .*34x48"),
    "one pixel": (lambda p: write_image(p, np.zeros((1, 1, 3), np.uint8)), "got 1x1"),
    "a link to nothing": (lambda p: (p.unlink(), p.symlink_to("nowhere")), "expected an image file, got nothing"),
}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    "kind", ["VideoTestDataset", "VideoRecurrentTestDataset", "VideoTrainDataset", "PairedImageDataset"]
)
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_named_by_every_data_set(roots: Path, fault: str, kind: str) -> None:
    spoil, message = BAD[fault]
    path = roots / "gt" / "b" / "00000002.png"
    spoil(path)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"b/00000002\.png: .*{message}"):
        read_all(clips(roots, kind, **({"clips": ["b"]} if kind != "PairedImageDataset" else {})))


@pytest.mark.parametrize("fault", [fault for fault in BAD if fault not in ("another size", "one pixel")])
def test_a_bad_file_is_refused_by_name_when_an_lmdb_is_made(roots: Path, fault: str) -> None:
    spoil, message = BAD[fault]
    spoil(roots / "gt" / "b" / "00000002.png")
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"b/00000002\.png: .*{message}|No such .*b/00000002\.png"
    ):
        make_lmdb(Recipe(str(roots / "gt"), str(roots / "gt.lmdb"), "tiles"))
    assert not (roots / "gt.lmdb").exists()


@pytest.mark.parametrize("fault", [f for f in BAD if f not in ("zero bytes", "a link to nothing")])
def test_a_bad_image_in_an_lmdb_that_others_made_is_named_with_its_key(roots: Path, fault: str) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "png"))
    spoil, message = BAD[fault]
    path = roots / "gt" / "b" / "00000002.png"
    spoil(path)
    with lmdb.open(str(roots / "gt.lmdb")) as database, database.begin(write=True) as transaction:
        transaction.put(b"b/00000002", path.read_bytes())
    with pytest.raises(ValueError, match=rf"gt\.lmdb/b/00000002\.png: .*{message}"):
        read_all(clips(roots, suffix=".lmdb"))


@pytest.mark.parametrize("encoding", ["raw", "tiles"])
@pytest.mark.parametrize("keep", [0, 3, 12, 30, -5])
def test_a_value_of_an_lmdb_that_is_cut_short_is_named(roots: Path, encoding: str, keep: int) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
    with lmdb.open(str(roots / "gt.lmdb")) as database, database.begin(write=True) as transaction:
        value = bytes(transaction.get(b"b/00000002"))
        transaction.put(b"b/00000002", value[: keep or 1])
    with pytest.raises(ValueError, match=r"gt\.lmdb/b/00000002\.png: expected"):
        read_all(clips(roots, "VideoTrainDataset", ".lmdb", use_hflip=False))


def test_a_tile_that_asks_for_more_pixels_than_it_has_is_not_decoded(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_lmdb(Recipe(str(roots / "gt"), str(roots / "gt.lmdb"), "tiles", tile=16))
    with lmdb.open(str(roots / "gt.lmdb")) as database, database.begin(write=True) as transaction:
        value = bytearray(transaction.get(b"a/00000000"))
        at = value.index(b"IHDR") + 4
        value[at : at + 4] = (10**6).to_bytes(4, "big")
        transaction.put(b"a/00000000", bytes(value))
    dataset = clips(roots, suffix=".lmdb", dataroot_lq=None, num_frame=1)
    monkeypatch.setattr(cv2, "imdecode", lambda *a: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"a/00000000\.png: expected 16x16 pixels in the tile of row 0, column 0"):
        dataset[0]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_grey_images_are_three_equal_channels_from_files_and_lmdbs(roots: Path, encoding: str) -> None:
    grey = noise(1, np.uint8)
    for clip in "ab":
        for frame in range(5):
            cv2.imwrite(str(roots / "gt" / clip / f"{frame:08d}.png"), grey)
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
    for suffix in ("", ".lmdb"):
        np.testing.assert_array_equal(clips(roots, suffix=suffix)[7]["gt"], np.repeat(grey.transpose(2, 0, 1), 3, 0))


def test_a_photograph_is_upright_in_files_and_lmdbs_and_must_fit_its_partner(roots: Path) -> None:
    turned = Image.fromarray(read_image(roots / "gt/a/00000001.png").transpose(1, 0, 2).copy())
    exif = Image.Exif()
    exif[274] = 5  # stored with rows and columns exchanged
    turned.save(roots / "gt/a/00000001.png", exif=exif)
    for encoding in ENCODINGS:
        make_lmdb(Recipe(str(roots / "gt"), str(roots / "gt.lmdb"), encoding, tile=16))
        make_lmdb(Recipe(str(roots / "lq"), str(roots / "lq.lmdb"), encoding, tile=16))
        samples = [clips(roots, suffix=suffix)[1]["gt"].numpy() for suffix in ("", ".lmdb")]
        np.testing.assert_array_equal(samples[0], samples[1])
        assert samples[0].shape == (3, 32, 48)
        for root in ("gt", "lq"):
            shutil.rmtree(roots / f"{root}.lmdb")
    exif[274] = 1  # the camera did not tell
    turned.save(roots / "gt/a/00000001.png", exif=exif)
    with pytest.raises(ValueError, match=r"gt/a/00000001\.png: expected a GT of 2 x 16x24 .*, got 48x32"):
        read_all(clips(roots))


def test_images_of_one_pixel_can_be_restored(tmp_path: Path) -> None:
    for root, side in (("gt", 2), ("lq", 1)):
        (tmp_path / root).mkdir()
        write_image(tmp_path / root / "a.png", np.full((side, side, 3), 7, np.uint8))
    sample = clips(tmp_path, "PairedImageDataset")[0]
    assert (tuple(sample["lq"].shape), tuple(sample["gt"].shape)) == ((3, 1, 1), (3, 2, 2))


# --- frames that are missing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["VideoTrainDataset", "VideoRecurrentTrainDataset", "VideoTestDataset", "VideoRecurrentTestDataset"]
)
def test_a_gap_in_a_clip_is_refused_unless_it_is_allowed(roots: Path, kind: str) -> None:
    for root in ("gt", "lq"):
        (roots / root / "b" / "00000002.png").unlink()
    message = r"/b: expected frames without a gap, but 00000003\.png follows 00000001\.png: 1 missing\. Complete"
    with pytest.raises(ValueError, match=message):
        clips(roots, kind)
    assert len(clips(roots, kind, clips=["a"]).clip_names) == 1
    assert clips(roots, kind, allow_gaps=True).clips.lengths == [5, 4]


def test_a_gap_beside_the_frames_that_are_used_does_no_harm(roots: Path) -> None:
    for root in ("gt", "lq"):
        (roots / root / "b" / "00000003.png").unlink()
    assert clips(roots, frames=[0, 2]).clips.lengths == [3, 3]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_gap_in_an_lmdb_is_refused_too(roots: Path, encoding: str) -> None:
    for root in ("gt", "lq"):
        (roots / root / "b" / "00000002.png").unlink()
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
    with pytest.raises(ValueError, match=r"gt\.lmdb/b: expected frames without a gap"):
        clips(roots, suffix=".lmdb")


def test_several_gaps_are_counted(roots: Path) -> None:
    rng = np.random.default_rng(0)
    for root, size in (("gt", (32, 48)), ("lq", (16, 24))):
        for frame in (5, 6, 8, 9, 11, 12, 13, 14):
            write_image(roots / root / "a" / f"{frame:08d}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"00000008\.png follows 00000006\.png: 1 missing; 2 gaps in all"):
        clips(roots)


@pytest.mark.parametrize("suffix", ["", ".lmdb"])
@pytest.mark.parametrize("kind", ["VideoTestDataset", "PairedImageDataset"])
def test_a_frame_without_its_partner_is_named(roots: Path, kind: str, suffix: str) -> None:
    (roots / "lq" / "b" / "00000004.png").unlink()
    if suffix:
        for root in ("gt", "lq"):
            make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "png"))
    with pytest.raises(ValueError, match=r"1 of GT are missing in LQ \((b/)?00000004\)"):
        clips(roots, kind, suffix)


# --- names and lists ------------------------------------------------------------------------------

LONGEST = "n" * 255  # bytes: the limit of Linux's file systems
NAMES = ["with blanks ", "ünï çødé 帧", "S1_Box_1_(C1)", "100% [x] {y} 'z' \"q\"", "-rf", "a.b.c", "$HOME;ls", LONGEST]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_clips_of_any_name_are_read_from_files_and_lmdbs(roots: Path, name: str) -> None:
    for root in ("gt", "lq"):
        (roots / root / "b").rename(roots / root / name)
    expected = clips(roots, clips=[name])
    assert expected.clip_names == [name]
    for encoding in ENCODINGS:
        for root in ("gt", "lq"):
            make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
        found = clips(roots, suffix=".lmdb", clips=[name])
        assert found.keys == expected.keys
        np.testing.assert_array_equal(found[2]["gt"], expected[2]["gt"])
        for root in ("gt", "lq"):
            shutil.rmtree(roots / f"{root}.lmdb")


@pytest.mark.parametrize("name", ["x" * 251, "ü" * 125 + "y"])
def test_images_with_the_longest_names_are_paired_restored_and_listed(roots: Path, name: str) -> None:
    for root in ("gt", "lq"):
        (roots / root / "a" / "00000000.png").rename(roots / root / "a" / f"{name}.png")
    (roots / "list.txt").write_text(f"a/{name}.png (32,48,3)\n\n", encoding="utf-8")
    dataset = clips(roots, "PairedImageDataset", meta_info_file=str(roots / "list.txt"))
    assert [sample["key"] for sample in read_all(dataset)] == [f"a/{name}"]
    write_image(roots / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
    assert (roots / f"{name}.png").is_file()


def test_blank_lines_and_duplicate_keys_of_an_lmdbs_list(roots: Path) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "png"))
    listing = roots / "gt.lmdb" / "meta_info.txt"
    text = listing.read_text(encoding="utf-8")
    listing.write_text(text + "\n\n  \n", encoding="utf-8")
    assert len(clips(roots, suffix=".lmdb")) == 10
    listing.write_text(text + text.splitlines()[3] + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"meta_info\.txt:11: expected each key once, got 'a/00000003' again"):
        clips(roots, suffix=".lmdb")


# --- LMDBs and disks ------------------------------------------------------------------------------


@pytest.mark.fault
def test_a_missing_key_is_named_with_the_three_nearest(roots: Path) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "raw"))
    dataset = clips(roots, suffix=".lmdb")
    dataset.clips.storage._lmdb.close()
    with lmdb.open(str(roots / "lq.lmdb")) as database, database.begin(write=True) as transaction:
        transaction.delete(b"b/00000003")  # behind the back of a run
    with pytest.raises(
        ValueError, match=r"lq\.lmdb: expected the key 'b/00000003', got none\. The nearest: (\S+, ){2}\S+\."
    ):
        read_all(dataset)


@pytest.mark.fault
def test_an_lmdb_that_lost_its_end_or_its_list_is_refused_before_it_is_read(roots: Path) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "raw"))
    data = roots / "gt.lmdb" / "data.mdb"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"data\.mdb: expected \d+ bytes as its header says, got \d+: the file is trunc"
    ):
        clips(roots, suffix=".lmdb")
    data.write_bytes(whole)
    os.unlink(roots / "gt.lmdb" / "meta_info.txt")
    assert len(clips(roots, suffix=".lmdb")) == 10  # the database lists itself
    os.unlink(data)
    with pytest.raises((ValueError, FileNotFoundError), match="dataroot_gt: expected"):
        clips(roots, suffix=".lmdb")


@pytest.mark.fault
def test_data_that_nobody_may_write_to_are_read(roots: Path) -> None:
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), "tiles", tile=16))
    expected = clips(roots)[3]["gt"]
    paths = [p for name in ("gt", "lq", "gt.lmdb", "lq.lmdb") for p in (roots / name, *(roots / name).rglob("*"))]
    for path in reversed(paths):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        for suffix in ("", ".lmdb"):
            np.testing.assert_array_equal(clips(roots, suffix=suffix)[3]["gt"], expected)
    finally:
        for path in paths:
            path.chmod(stat.S_IRWXU)


@pytest.mark.fault
def test_images_on_a_disk_without_room_are_whole_or_absent(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "64k") as small:
        with pytest.raises(OSError, match=r"big\.bmp: no space left on the disk: need .* MB at .*small"):
            write_image(small / "big.bmp", noise(3, np.uint8).repeat(30, 0))
        assert list(small.iterdir()) == []
        make_read_only(small)
        with pytest.raises(OSError, match="Read-only file system"):
            write_image(small / "a.png", noise(3, np.uint8))
