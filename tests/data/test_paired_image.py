from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.data.paired_image import PairedImageDataset
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize


@pytest.fixture
def roots(write_clip: Any) -> dict[str, str]:
    """Coordinate images img2 and img10 and more/a, GT 32x48 and LQ 8x12 named with x4."""
    gt, lq = write_clip("gt", names=["img2", "img10"]), write_clip("lq", names=["img2x4", "img10x4"], size=(8, 12))
    write_clip("gt", "more", names=["a"])
    write_clip("lq", "more", names=["ax4"], size=(8, 12), suffix=".bmp")
    return {"dataroot_gt": str(gt), "dataroot_lq": str(lq)}


def test_images_are_paired_by_name(roots: dict[str, str]) -> None:
    dataset = PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4")
    assert dataset.keys == ["img2", "img10", "more/a"]
    assert not dataset.is_train
    for index, frame in enumerate([0, 1, 0]):
        sample = dataset[index]
        assert sample["key"] == dataset.keys[index]
        assert sample["lq"].shape == (3, 8, 12)
        assert sample["gt"].shape == (3, 32, 48)
        assert int(sample["lq"][2, 0, 0]) == int(sample["gt"][2, 0, 0]) == frame
    assert dataset.gt_files[2] == str(Path(roots["dataroot_gt"]) / "more" / "a.png")


def test_names_that_do_not_match_lead_to_the_template_that_would(roots: dict[str, str]) -> None:
    missing = r"3 of GT are missing in LQ \(img2, img10, more/a\); 3 of LQ are missing in GT"
    with pytest.raises(ValueError, match=rf"{missing} .*set filename_tmpl: '{{}}x4'"):
        PairedImageDataset(**roots, scale=4)


def test_with_gt_size_it_is_a_training_set(roots: dict[str, str]) -> None:
    dataset = PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4", gt_size=16, seed=3)
    assert dataset.is_train
    crops = set()
    for draw in range(40):
        sample = dataset[1, draw]
        lq, gt = sample["lq"].int(), sample["gt"].int()
        assert (lq.shape, gt.shape) == ((3, 4, 4), (3, 16, 16))
        assert torch.equal(gt[:2, ::4, ::4].minimum(gt[:2, 3::4, 3::4]) // 4, lq[:2])
        assert torch.equal(dataset[1, draw]["lq"], sample["lq"])
        crops.add(sample["lq"].numpy().tobytes())
    assert len(crops) > 30


def test_an_item_of_the_wrong_kind_is_refused(roots: dict[str, str]) -> None:
    test_set = PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4")
    with pytest.raises(TypeError, match=r"expected a number, got \(0, 1\)"):
        test_set[0, 1]
    train_set = PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4", gt_size=16)
    with pytest.raises(TypeError, match=r"expected \(index, draw\), got 0"):
        train_set[0]


def test_lq_is_made_from_gt_cropped_to_a_multiple_of_the_scale(textured: Path) -> None:
    dataset = PairedImageDataset(dataroot_gt=str(textured), scale=4)
    gt = read_image(textured / "a" / "2.png")[:40, :56]
    sample = dataset[2]
    np.testing.assert_array_equal(sample["gt"].permute(1, 2, 0), gt)
    np.testing.assert_array_equal(sample["lq"].permute(1, 2, 0), imresize(gt, 1 / 4))


def test_images_may_have_different_sizes_in_a_training_batch(tmp_path: Path) -> None:
    for name, size in {"a": (20, 30), "b": (40, 22)}.items():
        write_image(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    dataset = PairedImageDataset(dataroot_gt=str(tmp_path), scale=2, gt_size=20)
    assert torch.stack([dataset[index, 0]["gt"] for index in range(2)]).shape == (2, 3, 20, 20)
    whole = PairedImageDataset(dataroot_gt=str(tmp_path), scale=2)
    assert [tuple(whole[index]["lq"].shape) for index in range(2)] == [(3, 10, 15), (3, 20, 11)]
    assert whole.sample_bytes == whole[1]["lq"].numel() + whole[1]["gt"].numel()


@pytest.mark.parametrize("train", [False, True])
def test_cached_images_give_the_same_samples(textured: Path, train: bool) -> None:
    arguments = {"dataroot_gt": str(textured), "scale": 3, "gt_size": 12 if train else None}
    plain, cached = PairedImageDataset(**arguments), PairedImageDataset(**arguments, cache_data=True)
    for index in range(4):
        item: Any = (index, 5) if train else index
        assert torch.equal(plain[item]["lq"], cached[item]["lq"])
        assert torch.equal(plain[item]["gt"], cached[item]["gt"])


def test_a_list_chooses_images(roots: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "meta.txt").write_text("more/a.png (32,48,3)\nimg2.png (32,48,3)\n")
    arguments = {**roots, "scale": 4, "filename_tmpl": "{}x4", "meta_info_file": str(tmp_path / "meta.txt")}
    assert PairedImageDataset(**arguments).keys == ["more/a", "img2"]
    (tmp_path / "meta.txt").write_text("img3.png (32,48,3)\n")
    with pytest.raises(
        ValueError, match=r"meta.txt: expected a name in the data set, got 'img3.png'. Did you mean 'img"
    ):
        PairedImageDataset(**arguments)


def test_lq_alone_can_be_tested_on_but_not_trained_on(roots: dict[str, str]) -> None:
    dataset = PairedImageDataset(dataroot_lq=roots["dataroot_lq"], scale=4)
    assert dataset.keys == ["img2x4", "img10x4", "more/ax4"]
    assert sorted(dataset[0]) == ["key", "lq"]
    with pytest.raises(ValueError, match="dataroot_gt: expected the folder of the ground truth to train on"):
        PairedImageDataset(dataroot_lq=roots["dataroot_lq"], scale=4, gt_size=16)


def test_an_image_smaller_than_the_crop_is_refused_at_the_start(roots: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"gt/img2.png: expected an image of gt_size 36 or more, got 32x48"):
        PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4", gt_size=36)


def test_a_pair_of_other_sizes_is_refused_at_the_start(roots: dict[str, str]) -> None:
    write_image(Path(roots["dataroot_lq"]) / "more" / "ax4.bmp", np.zeros((8, 13, 3), np.uint8))
    with pytest.raises(ValueError, match=r"gt/more/a.png: expected a GT of 4 x 8x13 \(scale x LQ\), got 32x48"):
        PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4")


def test_two_images_of_one_name_are_refused(roots: dict[str, str], write_clip: Any) -> None:
    write_clip("gt", names=["img2"], suffix=".jpg")
    with pytest.raises(ValueError, match=r"expected one image for each name, got img2\.\w+ and img2\.\w+"):
        PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4")


def test_a_broken_image_names_the_sample_and_the_file(roots: dict[str, str]) -> None:
    dataset = PairedImageDataset(**roots, scale=4, filename_tmpl="{}x4")
    path = Path(roots["dataroot_gt"]) / "more" / "a.png"
    path.write_bytes(path.read_bytes()[:-12])  # its last chunk
    with pytest.raises(ValueError, match=r"^sample more/a: .*gt/more/a\.png"):
        dataset[2]
