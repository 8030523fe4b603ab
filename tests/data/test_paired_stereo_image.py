"""Stereo pairs: how they are found, what a sample holds, what the augmentations leave as it is, and LMDBs of them."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from stereo_pairs import made_pair, median_disparity, photographed_pair, write_pair

from vsr.data.batch_augment import augment_batch, build_batch_augments
from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.paired_stereo_image import PairedStereoImageDataset
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

SCALE = 2
DISPARITY = 12


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A folder of three patches, GT 40 x 120, in the official layout."""
    for number in (1, 2, 10):
        left, right = made_pair((40, 120), disparity=DISPARITY, seed=number)
        write_pair(tmp_path / "patches_x2", f"{number:06d}", left, right, scale=SCALE)
    return tmp_path / "patches_x2"


def opened(root: Path, **arguments: Any) -> PairedStereoImageDataset:
    return PairedStereoImageDataset(**{"dataroot_gt": str(root), "dataroot_lq": str(root), "scale": SCALE, **arguments})


def trained(root: Path, **arguments: Any) -> PairedStereoImageDataset:
    return opened(root, **{"gt_size_h": 24, "gt_size_w": 60, **arguments})


def views(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the two views (h, w, 3) of (6, h, w)."""
    stacked = image.permute(1, 2, 0).numpy()
    return stacked[..., :3], stacked[..., 3:]


def test_a_pair_is_the_left_views_colours_and_then_the_right_ones(patches: Path) -> None:
    dataset = opened(patches)
    assert dataset.keys == ["000001", "000002", "000010"]
    assert len(dataset) == 3
    assert not dataset.is_train
    for index, key in enumerate(dataset.keys):
        sample = dataset[index]
        assert sample["key"] == key
        for name, kind in (("gt", "hr"), ("lq", "lr")):
            for number, view in enumerate(views(sample[name])):
                np.testing.assert_array_equal(view, read_image(patches / key / f"{kind}{number}.png"))
    assert dataset.sample_bytes == sum(dataset[0][name].numel() for name in ("gt", "lq"))
    assert dataset.gt_files == [str(patches / key / "hr0.png") for key in dataset.keys]
    assert [name for name, _ in dataset.named_pairs()][:3] == ["000001/left", "000001/right", "000002/left"]


def test_test_sets_have_a_folder_for_each_size(patches: Path, tmp_path: Path) -> None:
    for key in ("0001", "0002"):
        for folder, kind in (("hr", "hr"), ("lr_x2", "lr")):
            (tmp_path / folder / key).mkdir(parents=True)
            for number in range(2):
                image = read_image(patches / "000001" / f"{kind}{number}.png")
                write_image(tmp_path / folder / key / f"{kind}{number}.png", image)
    dataset = opened(tmp_path, dataroot_gt=str(tmp_path / "hr"), dataroot_lq=str(tmp_path / "lr_x2"))
    assert dataset.keys == ["0001", "0002"]
    assert torch.equal(dataset[1]["gt"], opened(patches)[0]["gt"])
    alone = opened(tmp_path, dataroot_gt=None, dataroot_lq=str(tmp_path / "lr_x2"))
    assert sorted(alone[0]) == ["key", "lq"]
    assert alone.gt_files[0].endswith("lr_x2/0001/lr0.png")


def test_lq_is_made_from_gt_where_there_is_none(patches: Path) -> None:
    sample = opened(patches, dataroot_lq=None)[1]
    assert torch.equal(sample["lq"], opened(patches)[1]["lq"])  # the patches were reduced in the same way
    crops = trained(patches, seed=4)
    made = trained(patches, seed=4, dataroot_lq=None)
    assert all(torch.equal(crops[0, draw]["lq"], made[0, draw]["lq"]) for draw in range(5))


def test_crops_are_rectangles_of_the_same_place_in_all_images(patches: Path) -> None:
    dataset = trained(patches, use_hflip=False, use_vflip=False, seed=5)
    assert dataset.is_train
    assert dataset.sample_bytes == 6 * 12 * 30 * 5
    whole, places = opened(patches)[2], set()
    for draw in range(60):
        sample = dataset[2, draw]
        assert (sample["lq"].shape, sample["gt"].shape) == ((6, 12, 30), (6, 24, 60))
        found = [
            (top, left)
            for top in range(9)
            for left in range(31)
            if torch.equal(whole["lq"][:, top : top + 12, left : left + 30], sample["lq"])
        ]
        assert len(found) == 1
        top, left = found[0]
        assert torch.equal(whole["gt"][:, 2 * top : 2 * top + 24, 2 * left : 2 * left + 60], sample["gt"])
        places.add(found[0])
    assert len(places) > 40
    assert torch.equal(dataset[2, 7]["gt"], trained(patches, use_hflip=False, use_vflip=False, seed=5)[2, 7]["gt"])
    assert not torch.equal(dataset[2, 7]["gt"], trained(patches, use_hflip=False, use_vflip=False, seed=6)[2, 7]["gt"])
    square = opened(patches, gt_size=20)
    assert square[0, 0]["lq"].shape == (6, 10, 10)


@pytest.mark.parametrize("photo", [False, True], ids=["made", "photographed"])
def test_augmented_pairs_have_the_disparities_of_a_pair(tmp_path: Path, photo: bool) -> None:
    left, right = (
        (view[180:320] for view in photographed_pair()) if photo else made_pair((96, 240), disparity=DISPARITY)
    )
    left, right = (view[: view.shape[0] // 2 * 2, : view.shape[1] // 2 * 2] for view in (left, right))
    height, width = (size // 4 * 4 - 16 for size in left.shape[:2])
    write_pair(tmp_path, "0001", left, right, scale=SCALE)
    expected = median_disparity(left, right)
    assert expected > 8
    dataset = trained(tmp_path, gt_size_h=height, gt_size_w=width, flip_RGB=True)
    kinds = set()
    for draw in range(12):
        sample = dataset[0, draw]["gt"]
        first, second = views(sample)
        assert median_disparity(first, second) == pytest.approx(expected, abs=2)
        kinds.add(sample.numpy().tobytes())
    assert len(kinds) > 8
    # the test can fail: views that are mirrored but not exchanged, and views that are only exchanged
    first, second = views(opened(tmp_path)[0]["gt"])
    for wrong in ((first[:, ::-1], second[:, ::-1]), (second, first)):
        found = median_disparity(*wrong)
        assert math.isnan(found) or abs(found - expected) > 4


def right_disparity(disparity: np.ndarray) -> np.ndarray:
    """Return the right view's disparity of the left one's, (h, w): where several points meet, the nearest shows."""
    found = np.full_like(disparity, -np.inf)
    rows, columns = np.nonzero(np.isfinite(disparity))
    values = disparity[rows, columns]
    targets = np.rint(columns - values).astype(int)
    inside = targets >= 0
    np.maximum.at(found, (rows[inside], targets[inside]), values[inside])
    return np.where(np.isfinite(found), found, np.nan)


def difference_at(left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> float:
    """Return by how many levels left pixels x and right pixels x - disparity differ in the median."""
    rows, columns = np.nonzero(np.isfinite(disparity))
    targets = np.rint(columns - disparity[rows, columns]).astype(int)
    inside = (targets >= 0) & (targets < left.shape[1])
    rows, columns, targets = rows[inside], columns[inside], targets[inside]
    return float(np.median(np.abs(left[rows, columns].astype(int) - right[rows, targets])))


@pytest.mark.parametrize("photo", [False, True], ids=["made", "photographed"])
def test_true_disparities_have_one_sign_after_every_flip(tmp_path: Path, photo: bool) -> None:
    left, right = (
        (view[180:320] for view in photographed_pair()) if photo else made_pair((40, 120), disparity=DISPARITY)
    )
    known = np.full(left.shape[:2], float(DISPARITY))
    if photo:
        known = pytest.importorskip("skimage.data").stereo_motorcycle()[2][180:320].astype(float)
        known[~np.isfinite(known)] = np.nan
    height, width = (side // SCALE * SCALE for side in left.shape[:2])
    left, right, known = left[:height, :width], right[:height, :width], known[:height, :width]
    write_pair(tmp_path, "0001", left, right, scale=SCALE)
    dataset = trained(tmp_path, gt_size_h=height, gt_size_w=width, cache_data=True)
    mirrored = right_disparity(known)[:, ::-1]  # the mirrored right view's, were it a left one
    maps = {(False, False): known, (True, False): mirrored}
    maps |= {(flip, True): values[::-1] for (flip, _), values in maps.items()}
    seen = set()
    for draw in range(16):
        first, second = views(dataset[0, draw]["gt"])
        for (horizontal, vertical), disparity in maps.items():
            begun = right[:, ::-1] if horizontal else left
            if (horizontal, vertical) in seen or not np.array_equal(first, begun[::-1] if vertical else begun):
                continue
            seen.add((horizontal, vertical))
            assert np.nanmin(disparity) > 0
            # points lie where the disparity says, to the left in the second view, and not as far to the right
            assert difference_at(first, second, disparity) <= 4 < difference_at(first, second, -disparity)
    assert seen == set(maps)
    # views that are mirrored without being exchanged have the other sign
    backwards = known[:, ::-1]
    assert difference_at(left[:, ::-1], right[:, ::-1], -backwards) <= 4
    assert difference_at(left[:, ::-1], right[:, ::-1], backwards) > 4


def test_the_truth_moves_with_crops_offsets_and_flips(tmp_path: Path) -> None:
    """Warped by it, the second view of any sample is the first: disparities turned round where the views are.

    Colours of a pair say where they come from: column, row and view; so a crop's place and flip can be read from it.
    """
    height, width, offset, least = 40, 120, 4, 0
    known = 6 + np.arange(height) // 10  # of a row, in GT pixels
    row, column = np.mgrid[:height, :width]
    left = np.stack([column, row, np.zeros_like(row)], 2).astype(np.uint8)
    right = np.stack([column + known[:, None], row, np.ones_like(row)], 2).astype(np.uint8)  # x there is x + d here
    write_pair(tmp_path, "0001", left, right, scale=SCALE)
    kinds = set()
    for shift in (0, offset):
        dataset = trained(tmp_path, random_offset=shift)
        for draw in range(60):
            first, second = (view.astype(int) for view in views(dataset[0, draw]["gt"]))
            mirrored = bool(first[0, 0, 2])  # the first view is the right one, mirrored
            begun = (second, first) if mirrored else (first, second)
            from_left = begun[0][0, :, 0].min()
            from_right = begun[1][0, :, 0].min() - known[begun[1][0, 0, 1]]
            aside = from_right - from_left
            assert abs(aside) <= SCALE * shift
            truth = known[first[:, 0, 1]] + aside  # a crop farther to the right adds what it is aside
            least = min(least, truth.min())
            x = np.arange(first.shape[1])
            for y, d in enumerate(truth):
                seen = (x - d >= 0) & (x - d < len(x))
                np.testing.assert_array_equal(second[y, (x - d)[seen], :2], first[y, x[seen], :2])
            kinds.add((mirrored, bool(first[0, 0, 1] > first[-1, 0, 1]), int(np.sign(aside))))
    assert len(kinds) == 12  # both flips, each with the right view's crop at either side and at none
    assert least < 0  # what an offset can do


def test_the_horizontal_flip_exchanges_the_views_and_is_its_own_inverse(patches: Path) -> None:
    size = {"gt_size_h": 40, "gt_size_w": 120}
    plain = opened(patches)[0]["gt"]
    flipped = [trained(patches, **size, use_vflip=False)[0, draw]["gt"] for draw in range(20)]
    mirrored = plain.roll(3, 0).flip(-1)
    assert {torch.equal(image, plain) for image in flipped} == {True, False}
    assert all(torch.equal(image, plain) or torch.equal(image, mirrored) for image in flipped)
    assert torch.equal(mirrored.roll(3, 0).flip(-1), plain)


def test_colours_are_exchanged_alike_in_both_views_and_both_sizes(patches: Path) -> None:
    size = {"gt_size_h": 40, "gt_size_w": 120}
    dataset = trained(patches, **size, use_hflip=False, use_vflip=False, flip_RGB=True)
    plain, orders = opened(patches)[0], set()
    for draw in range(60):
        sample = dataset[0, draw]
        order = [next(old for old in range(3) if torch.equal(sample["gt"][new], plain["gt"][old])) for new in range(3)]
        orders.add(tuple(order))
        both = [*order, *(3 + channel for channel in order)]
        assert torch.equal(sample["gt"], plain["gt"][both])
        assert torch.equal(sample["lq"], plain["lq"][both])
    assert len(orders) == 6


def test_a_random_offset_shifts_the_right_view_by_whole_lq_pixels(patches: Path) -> None:
    dataset = trained(patches, use_hflip=False, use_vflip=False, random_offset=3)
    whole, shifts = opened(patches)[0], set()
    for draw in range(80):
        sample, lefts = dataset[0, draw], []
        for view in (slice(0, 3), slice(3, 6)):
            gt, lq = sample["gt"][view], sample["lq"][view]
            lefts += [
                left
                for top in range(9)
                for left in range(31)
                if torch.equal(whole["lq"][view, top : top + 12, left : left + 30], lq)
                and torch.equal(whole["gt"][view, 2 * top : 2 * top + 24, 2 * left : 2 * left + 60], gt)
            ]
        assert len(lefts) == 2
        shifts.add(lefts[1] - lefts[0])
    assert shifts == {-3, -2, -1, 0, 1, 2, 3}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("train", [False, True], ids=["test", "train"])
def test_lmdbs_give_the_samples_of_files(patches: Path, tmp_path: Path, encoding: str, train: bool) -> None:
    root = make_lmdb(Recipe(str(patches), str(tmp_path / "p.lmdb"), encoding, tile=16))
    arguments: dict[str, Any] = (
        {"gt_size_h": 24, "gt_size_w": 60, "flip_RGB": True, "random_offset": 2} if train else {}
    )
    for more in ({}, {"dataroot_lq": None}, {"cache_data": True}):
        disk = opened(patches, **arguments, **more)
        lmdb = opened(root, **arguments, **more, io_backend={"type": "lmdb"})
        assert disk.keys == lmdb.keys
        for index in range(3):
            item: Any = (index, 9) if train else index
            one, other = disk[item], lmdb[item]
            assert torch.equal(one["lq"], other["lq"])
            assert torch.equal(one["gt"], other["gt"])


def test_a_list_chooses_pairs(patches: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("000010\n000001 (40,120,3)\n", encoding="utf-8")
    assert opened(patches, meta_info_file=str(tmp_path / "list.txt")).keys == ["000010", "000001"]
    (tmp_path / "list.txt").write_text("000003\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list.txt: expected a name in the data set, got '000003'\. Did you"):
        opened(patches, meta_info_file=str(tmp_path / "list.txt"))


def test_a_missing_view_is_named_with_its_folder(patches: Path) -> None:
    (patches / "000002" / "lr1.png").unlink()
    with pytest.raises(ValueError, match=r"dataroot_lq: expected both views .* 1 of 3: 000002 \(no lr1\)"):
        opened(patches)
    (patches / "000010" / "hr0.png").unlink()
    with pytest.raises(ValueError, match=r"dataroot_gt: expected both views .* 1 of 3: 000010 \(no hr0\)"):
        opened(patches)
    (patches / "000010" / "hr1.png").unlink()
    (patches / "000002" / "lr0.png").unlink()
    with pytest.raises(ValueError, match=r"1 of GT are missing in LQ \(000002\); 1 of LQ are missing in GT \(000010\)"):
        opened(patches)


def test_views_of_different_sizes_are_named(patches: Path) -> None:
    image = read_image(patches / "000002" / "hr1.png")[:, :100]
    write_image(patches / "000002" / "hr1.png", image)
    write_image(patches / "000002" / "lr1.png", imresize(image, 1 / SCALE))
    with pytest.raises(
        ValueError, match=r"000002/hr0.png and hr1.png: expected two views of one size, got 20x60 and 20x50"
    ):
        opened(patches)


def test_gt_that_is_no_multiple_of_lq_is_named(patches: Path) -> None:
    write_image(patches / "000010" / "hr1.png", read_image(patches / "000010" / "hr1.png")[:, :-4])
    with pytest.raises(ValueError, match=r"000010/hr1.png: expected a GT of 2 x 20x60 \(scale x LQ\), got 40x116"):
        opened(patches)
    with pytest.raises(ValueError, match=r"000001/hr0.png: expected a GT of 4 x 20x60 \(scale x LQ\), got 40x120"):
        opened(patches, scale=4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.astype(np.uint16) * 257, "expected 8 bits a channel in grey or RGB, got 16 bits"),
        (lambda image: np.dstack([image, image[..., :1]]), "expected 8 bits a channel in grey or RGB, got an alpha"),
        (lambda image: image[:, :1], r"expected a GT of 2 x 20x60 \(scale x LQ\), got 40x1\."),
    ],
    ids=["16 bits", "alpha", "one column"],
)
def test_pictures_that_would_be_cut_are_named(patches: Path, spoil: Any, message: str) -> None:
    path = patches / "000002" / "hr1.png"
    cv2.imwrite(str(path), spoil(cv2.imread(str(path))))
    with pytest.raises(ValueError, match=f"000002/hr1.png: {message}"):
        opened(patches)


def test_grey_pictures_have_three_equal_colours_and_one_column_is_a_picture(patches: Path, tmp_path: Path) -> None:
    path = patches / "000001" / "hr1.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    red, green, blue = opened(patches)[0]["gt"][3:]
    assert torch.equal(red, green)
    assert torch.equal(green, blue)
    write_pair(tmp_path / "thin", "0001", *made_pair((40, SCALE), disparity=1), scale=SCALE)
    assert opened(tmp_path / "thin")[0]["lq"].shape == (6, 20, 1)


def test_folders_without_pairs_and_mixed_files_are_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected folders with hr0 and hr1.* got them in the folder itself"):
        opened(patches / "000001")
    (tmp_path / "flat").mkdir()
    write_image(tmp_path / "flat" / "0001_L.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected folders with hr0 and hr1.* got files such as 0001_L.png"):
        opened(tmp_path / "flat")
    write_image(patches / "000002" / "hr1.jpg", np.zeros((40, 120, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected files of one kind in .*, got \S+hr\d\.\w+ and \S+hr\d\.\w+"):
        opened(patches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_rot": True}, "use_rot: expected false, got true"),
        ({"random_offset": -1}, "random_offset: expected a number of LQ pixels >= 0, got -1"),
        (
            {"random_offset": 2, "gt_size_h": 24, "gt_size_w": 120},
            "random_offset: expected views wider than the crop, to move it in them, got 120 pixels for a crop of 120",
        ),
        ({"gt_size_h": 24}, "gt_size_w: expected the crop's other side, too, got none"),
        ({"gt_size_w": 24}, "gt_size_h: expected the crop's other side, too, got none"),
        ({"gt_size_h": 24, "gt_size_w": 25}, "gt_size_w: expected a multiple of scale .2., got 25"),
        ({"gt_size": 24, "gt_size_h": 24, "gt_size_w": 24}, "gt_size: expected either this or gt_size_h and gt_size_w"),
        ({"gt_size": 0}, "gt_size: expected a multiple of scale"),
        ({"gt_size_h": 44, "gt_size_w": 24}, r"000001/hr0.png: expected views of 44x24 .* or more, got 40x120"),
        ({"dataroot_gt": None, "dataroot_lq": None}, "dataroot_gt: expected this or dataroot_lq, got neither"),
        ({"dataroot_gt": None, "gt_size": 24}, "dataroot_gt: expected the folder of the ground truth to train on"),
        ({"seed": -1}, "seed: expected 0 or more"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(patches: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(patches, **arguments)


def test_an_item_of_the_wrong_kind_is_refused(patches: Path) -> None:
    with pytest.raises(TypeError, match=r"expected a number, got \(0, 1\)"):
        opened(patches)[0, 1]
    with pytest.raises(TypeError, match=r"expected \(index, draw\), got 0"):
        trained(patches)[0]


@pytest.mark.parametrize("kind", ["Mixup", "CutMix", "CutMixup", "CutBlur", "RGBShuffle"])
def test_batches_of_pairs_can_be_augmented(patches: Path, kind: str) -> None:
    dataset = trained(patches)
    samples = [dataset[index, 0] for index in range(3)]
    batch = {name: torch.stack([sample[name] for sample in samples]).float() / 255 for name in ("lq", "gt")}
    augments = build_batch_augments([{"type": kind}], batch_size=3)
    changed = 0
    for step in range(8):
        result = augment_batch(augments, batch, (1, step))
        assert result["lq"].shape == batch["lq"].shape
        changed += not torch.equal(result["lq"], batch["lq"])
        # what happens to one view happens to the other: exchanged before or after, the result is the same
        swapped = augment_batch(augments, {name: image.roll(3, 1) for name, image in batch.items()}, (1, step))
        for name in ("lq", "gt"):
            torch.testing.assert_close(swapped[name], result[name].roll(3, 1), rtol=0, atol=1e-6)
    assert changed >= 3
