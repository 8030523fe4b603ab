"""Patches and test sets of stereo pairs: where they lie, what they hold, and that no way of making them differs."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from killing import tree
from stereo_pairs import made_pair

from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_storage import LmdbStorage
from vsr.data.stereo_files import StereoFiles, find_marked
from vsr.data.stereo_patches import PairSet, make_patches, make_test_set, patch_windows, plan_patches
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize


def write_pairs(folder: Path, sizes: dict[str, tuple[int, int]]) -> PairSet:
    """Write pairs NAME_L.png and NAME_R.png of these sizes and find them again."""
    folder.mkdir(parents=True)
    for seed, (name, size) in enumerate(sizes.items()):
        for side, view in zip("LR", made_pair(size, disparity=6, seed=seed), strict=True):
            write_image(folder / f"{name}_{side}.png", view)
    return PairSet(folder, find_marked(folder))


@pytest.fixture
def pairs(tmp_path: Path) -> PairSet:
    """Two pairs, 131 x 280 and 125 x 243: ten patches at x2, and pixels that are left over."""
    return write_pairs(tmp_path / "Train", {"0001": (131, 280), "0002": (125, 243)})


def in_one_process(sets: list[PairSet], target: Path, scale: int = 2) -> str:
    return make_patches(sets, target, scale=scale, lmdb=None, workers=0, dry_run=False)


@pytest.mark.parametrize("height", range(30, 80))
def test_patches_lie_where_the_published_loop_puts_them(height: int) -> None:
    width = height + 67
    # the loops 3:20:H-33 and 3:20:W-93 of iPASSR, whose numbers begin at 1 and whose ends are inclusive
    rows = [x for x in range(3, height) if (x - 3) % 20 == 0 and x <= height - 33]
    columns = [y for y in range(3, width) if (y - 3) % 20 == 0 and y <= width - 93]
    expected = [(x - 1, y - 1, 30, 90) for x in rows for y in columns]
    assert [tuple(window) for window in patch_windows(height, width)] == expected


def test_the_last_patch_is_there_when_the_end_is_hit() -> None:
    # H - 33 = 23 = 3 + 20: an exclusive end would lose the second row
    assert len(patch_windows(56, 96)) == 2
    assert len(patch_windows(55, 96)) == 1
    assert patch_windows(35, 96) == []
    assert patch_windows(36, 95) == []


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("halved", [False, True])
def test_patches_are_parts_of_the_reduced_images(tmp_path: Path, scale: int, halved: bool) -> None:
    size = (151 * (1 + halved), 403 * (1 + halved))
    found = write_pairs(tmp_path / "raw", {"0001": size})._replace(halved=halved)
    before = tree(tmp_path / "raw")
    in_one_process([found], tmp_path / "patches", scale)
    number = 0
    images = []
    for side in "LR":
        image = read_image(tmp_path / "raw" / f"0001_{side}.png")
        image = imresize(image, 0.5) if halved else image
        assert image.shape[:2] == (151, 403)
        high = image[: 151 // scale * scale, : 403 // scale * scale]
        images.append((high, imresize(high, 1 / scale)))
    height, width = images[0][1].shape[:2]
    for top, left in itertools.product(range(2, height - 33, 20), range(2, width - 93, 20)):
        number += 1
        for view, (high, low) in enumerate(images):
            folder = tmp_path / "patches" / f"{number:06d}"
            np.testing.assert_array_equal(read_image(folder / f"lr{view}.png"), low[top : top + 30, left : left + 90])
            np.testing.assert_array_equal(
                read_image(folder / f"hr{view}.png"),
                high[scale * top : scale * (top + 30), scale * left : scale * (left + 90)],
            )
    assert number == {2: 2 * 6, 4: 1}[scale]  # 75 x 201, 37 x 100
    assert len([path for path in (tmp_path / "patches").iterdir() if path.is_dir()]) == number
    assert tree(tmp_path / "raw") == before  # the downloaded images stay what they were


def test_patches_are_numbered_through_all_sets_in_their_order(tmp_path: Path, pairs: PairSet) -> None:
    other = write_pairs(tmp_path / "Middlebury", {"Aloe": (160, 400)})._replace(halved=True)
    line = in_one_process([other, pairs], tmp_path / "p")
    plan = plan_patches([other, pairs], 2)
    assert [patches.first for patches in plan] == [1, 2, 2 + 2 * 3]
    assert "11 patches of 3 pairs" in line  # of 40 x 100 one, of 65 x 140 two by three, of 62 x 121 two by two
    left = imresize(read_image(tmp_path / "Middlebury" / "Aloe_L.png"), 0.5)
    np.testing.assert_array_equal(read_image(tmp_path / "p" / "000001" / "hr0.png"), left[4:64, 4:184])


def test_a_second_run_writes_only_what_is_missing(tmp_path: Path, pairs: PairSet) -> None:
    in_one_process([pairs], tmp_path / "one")
    path = tmp_path / "one" / "000002" / "lr1.png"
    expected, others = tree(tmp_path / "one"), (tmp_path / "one" / "000002" / "lr0.png").stat().st_mtime_ns
    path.unlink()
    in_one_process([pairs], tmp_path / "one")
    assert tree(tmp_path / "one") == expected
    assert (tmp_path / "one" / "000002" / "lr0.png").stat().st_mtime_ns == others


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lmdbs_hold_the_patches_of_the_folder(tmp_path: Path, pairs: PairSet, encoding: str) -> None:
    in_one_process([pairs], tmp_path / "p")
    line = make_patches([pairs], tmp_path / "q", scale=2, lmdb=encoding, workers=2, dry_run=False)
    files = sorted(path.relative_to(tmp_path / "p").as_posix() for path in (tmp_path / "p").rglob("*.png"))
    storage = LmdbStorage()
    assert storage.images(str(tmp_path / "q.lmdb"), "root") == files
    for name in files:
        stored = storage.read(str(tmp_path / "q.lmdb" / name))
        np.testing.assert_array_equal(stored, read_image(tmp_path / "p" / name))
    assert line.startswith(f"{tmp_path / 'q.lmdb'}: ")
    keys = [text.split()[0] for text in (tmp_path / "q.lmdb" / "meta_info.txt").read_text().splitlines()]
    assert keys == files  # in order: the images of a patch lie beside each other on the disk
    # a complete one is left alone
    state = (tmp_path / "q.lmdb" / "data.mdb").stat().st_mtime_ns
    make_patches([pairs], tmp_path / "q", scale=2, lmdb=encoding, workers=2, dry_run=False)
    assert (tmp_path / "q.lmdb" / "data.mdb").stat().st_mtime_ns == state


@pytest.mark.parametrize("lmdb", [None, "png", "raw"])
def test_test_sets_have_one_hr_folder_for_all_scales(tmp_path: Path, lmdb: str | None) -> None:
    found = write_pairs(tmp_path / "raw", {"0001": (131, 259), "0002": (80, 100)})
    line = make_test_set(found, tmp_path / "test", lmdb=lmdb, workers=0, dry_run=False)
    assert line == f"{tmp_path / 'test'}: 2 pairs"
    storage = LmdbStorage()
    for name, (height, width) in {"0001": (120, 240), "0002": (80, 100)}.items():
        for view, side in enumerate("LR"):
            high = read_image(tmp_path / "raw" / f"{name}_{side}.png")[:height, :width]
            expected = {"hr": high, "lr_x2": imresize(high, 1 / 2), "lr_x4": imresize(high, 1 / 4)}
            for folder, image in expected.items():
                file = f"{name}/{folder[:2]}{view}.png"
                if lmdb:
                    root = tmp_path / "test" / f"{folder}.lmdb"
                    assert len(storage.images(str(root), "root")) == 4
                    stored = storage.read(str(root / file))
                else:
                    stored = read_image(tmp_path / "test" / folder / file)
                np.testing.assert_array_equal(stored, image)


def test_a_dry_run_writes_nothing(tmp_path: Path, pairs: PairSet) -> None:
    before = tree(tmp_path)
    for lmdb in (None, "png"):
        line = make_patches([pairs], tmp_path / "p", scale=2, lmdb=lmdb, workers=0, dry_run=True)
        assert line.endswith("patches of 2 pairs, would be made")
        assert make_test_set(pairs, tmp_path / "t", lmdb=lmdb, workers=0, dry_run=True).endswith("would be made")
    assert tree(tmp_path) == before


def test_other_arguments_for_the_same_folder_are_refused(tmp_path: Path, pairs: PairSet) -> None:
    in_one_process([pairs], tmp_path / "p")
    expected = tree(tmp_path / "p")
    halved = pairs._replace(pairs=[*pairs.pairs][:1])
    with pytest.raises(ValueError, match=r"begun with the same arguments, but it has .*patches: "):
        in_one_process([halved], tmp_path / "p")
    with pytest.raises(ValueError, match=r"begun with the same arguments, but it has .*scale: 2"):
        make_patches(
            [write_pairs(tmp_path / "x", {"0001": (150, 410)})],
            tmp_path / "p",
            scale=4,
            lmdb=None,
            workers=0,
            dry_run=False,
        )
    make_test_set(pairs, tmp_path / "t", lmdb=None, workers=0, dry_run=False)
    with pytest.raises(ValueError, match=r"begun with the same arguments, but it has lmdb: None"):
        make_test_set(pairs, tmp_path / "t", lmdb="png", workers=0, dry_run=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"got one that holds other things \(thesis.tex\)"):
        in_one_process([pairs], tmp_path / "mine")
    make_patches([pairs], tmp_path / "q", scale=2, lmdb="png", workers=1, dry_run=False)
    with pytest.raises(FileExistsError, match="expected a new folder"):
        make_patches([pairs], tmp_path / "q", scale=2, lmdb="raw", workers=1, dry_run=False)
    assert tree(tmp_path / "p") == expected


def test_images_that_are_too_small_are_refused(tmp_path: Path) -> None:
    small = write_pairs(tmp_path / "small", {"0001": (71, 300)})
    with pytest.raises(ValueError, match="expected images of 72 x 192 pixels or more at scale 2, got smaller ones"):
        in_one_process([small], tmp_path / "p")
    tiny = PairSet(tmp_path, [StereoFiles("0001", tmp_path / "a.png", tmp_path / "b.png", (19, 300))])
    with pytest.raises(ValueError, match=r"a.png: expected 20 pixels a side or more, got 19x300"):
        make_test_set(tiny, tmp_path / "t", lmdb=None, workers=0, dry_run=False)
    assert not (tmp_path / "p").exists()


def test_a_damaged_image_is_named_and_what_was_made_stays(tmp_path: Path, pairs: PairSet) -> None:
    path = pairs.pairs[1].left
    path.write_bytes(path.read_bytes()[:-12])
    for lmdb in (None, "png"):
        with pytest.raises(ValueError, match=r"0002_L.png: expected a whole image"):
            make_patches([pairs], tmp_path / "p", scale=2, lmdb=lmdb, workers=0, dry_run=False)
    assert (tmp_path / "p" / "000001" / "lr1.png").is_file()
