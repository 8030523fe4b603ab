import csv
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import vsr
from vsr.config import load_options
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.loader import build_dataset, build_val_loader
from vsr.data.single_image import SingleImageDataset
from vsr.engine.test import test as run_test
from vsr.utils.images import read_image, write_image

NAMES = ["b (1)", "img2", "img10", "sub/ä ö"]  # in natural order


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """Images of different sizes and kinds, at two depths."""
    rng = np.random.default_rng(1)
    root = tmp_path / "wild"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        size = (20 + number, 31 - number)
        write_image(
            root / f"{name}.{'bmp' if number == 2 else 'png'}", rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        )
    (root / "notes.txt").write_text("no image")
    return root


def write_video(path: Path, count: int = 3) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 32))  # type: ignore[attr-defined]
    for frame in range(count):
        writer.write(np.full((32, 48, 3), 60 * frame, np.uint8))
    writer.release()


def test_images_are_found_at_any_depth_and_have_no_ground_truth(wild: Path) -> None:
    dataset = SingleImageDataset(dataroot_lq=str(wild))
    assert dataset.keys == NAMES
    for index, file in enumerate(dataset.gt_files):
        sample = dataset[index]
        assert sorted(sample) == ["key", "lq"]
        assert sample["key"] == NAMES[index]
        np.testing.assert_array_equal(sample["lq"].permute(1, 2, 0), read_image(file))
    assert dataset.sample_bytes == 3 * 23 * 28  # of the largest
    assert [(key, pair.gt, pair.size) for key, pair in dataset.named_pairs()][1] == ("img2", None, (21, 30))


def test_frames_of_videos_are_images(wild: Path) -> None:
    write_video(wild / "sub" / "clip.mp4")
    dataset = SingleImageDataset(dataroot_lq=str(wild))
    assert dataset.keys == [*NAMES[:3], "sub/clip/00000000", "sub/clip/00000001", "sub/clip/00000002", NAMES[3]]
    assert [round(dataset[i]["lq"].float().mean().item(), -1) for i in (3, 4, 5)] == [0, 60, 120]
    alone = SingleImageDataset(dataroot_lq=str(wild / "sub" / "clip.mp4"))
    assert alone.keys == ["clip/00000000", "clip/00000001", "clip/00000002"]


def test_the_root_may_be_one_image(wild: Path) -> None:
    dataset = SingleImageDataset(dataroot_lq=str(wild / "img10.bmp"))
    assert dataset.keys == ["img10"]
    assert dataset[0]["lq"].shape == (3, 22, 29)


@pytest.mark.parametrize("encoding", ["png", "tiles", "raw"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_lmdb_gives_the_same_samples(wild: Path, encoding: str, workers: int) -> None:
    target = wild.with_name("wild.lmdb")
    make_lmdb(Recipe(str(wild), str(target), encoding, tile=16), workers=1)
    disk = SingleImageDataset(dataroot_lq=str(wild))
    stored = SingleImageDataset(dataroot_lq=str(target), io_backend={"type": "lmdb"})
    assert stored.keys == disk.keys
    loader = torch.utils.data.DataLoader(stored, batch_size=None, num_workers=workers)
    for sample, expected in zip(loader, (disk[i] for i in range(len(disk))), strict=True):
        assert sample["key"] == expected["key"]
        assert torch.equal(sample["lq"], expected["lq"])


def test_a_list_chooses_images_and_frames(wild: Path, tmp_path: Path) -> None:
    write_video(wild / "clip.mp4")
    (tmp_path / "meta.txt").write_text(
        "sub/ä ö.png (23,28,3)\n\nb (1).png (20,31,3)\nclip/00000001.png (32,48,3)\n", "utf-8"
    )
    dataset = SingleImageDataset(dataroot_lq=str(wild), meta_info_file=str(tmp_path / "meta.txt"))
    assert dataset.keys == ["sub/ä ö", "b (1)", "clip/00000001"]
    (tmp_path / "meta.txt").write_text("img3.png\n")
    with pytest.raises(
        ValueError, match=r"meta.txt: expected a name in the data set, got 'img3.png'. Did you mean 'img"
    ):
        SingleImageDataset(dataroot_lq=str(wild), meta_info_file=str(tmp_path / "meta.txt"))


def test_roots_without_images_are_refused(wild: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"dataroot_lq: expected images .* or videos .* in '.*empty', got none"):
        SingleImageDataset(dataroot_lq=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"dataroot_lq: .*Did you mean '.*wild'"):
        SingleImageDataset(dataroot_lq=str(tmp_path / "wilt"))
    with pytest.raises(ValueError, match="expected a folder, an image or a video, got the file"):
        SingleImageDataset(dataroot_lq=str(wild / "notes.txt"))
    write_image(wild / "img2.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected one image for each name, got img2\.\w+ and img2\.\w+"):
        SingleImageDataset(dataroot_lq=str(wild))


def test_a_broken_image_names_the_sample_and_the_file(wild: Path) -> None:
    dataset = SingleImageDataset(dataroot_lq=str(wild))
    path = wild / "img2.png"
    path.write_bytes(path.read_bytes()[:-12])  # its last chunk
    with pytest.raises(ValueError, match=r"^sample img2: .*wild/img2\.png: expected a whole image"):
        dataset[1]


OPTIONS = """\
name: wild
model_type: ImageModel
scale: 2
datasets:
  test: {name: photos, type: SingleImageDataset, dataroot_lq: ROOT/wild, num_worker_per_gpu: 0}
network_g: {type: MSRResNet, num_feat: 8, num_block: 1, upscale: 2}
path: {pretrain_network_g: ROOT/net.pth, results_root: ROOT/results}
val:
  metrics: {psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}}
"""


def test_testing_restores_and_saves_every_image_and_measures_none(wild: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(OPTIONS.replace("ROOT", str(tmp_path)))
    options = load_options(tmp_path / "x.yml")
    network = vsr.build_network(options.network_g.as_option())
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    (records,) = run_test(options).values()
    assert [(record.key, record.metrics) for record in records] == [(name, {}) for name in NAMES]
    for number, name in enumerate(NAMES):
        picture = read_image(tmp_path / "results" / "wild" / "visualization" / "photos" / f"{name}.png")
        assert picture.shape == (2 * (20 + number), 2 * (31 - number), 3)
    with (tmp_path / "results" / "wild" / "photos.csv").open(encoding="utf-8", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == NAMES
    assert os.path.getsize(tmp_path / "results" / "wild" / "report.html") > 0


def test_it_is_no_set_to_train_on(wild: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(OPTIONS.replace("ROOT", str(tmp_path)))
    section: Any = load_options(tmp_path / "x.yml").datasets["test"]
    with pytest.raises(ValueError, match=r"datasets.train: expected a training set .*, got SingleImageDataset"):
        build_dataset(section, scale=2, seed=0, key="train")
    dataset = build_dataset(section, scale=2, seed=0, key="test")
    with pytest.raises(TypeError, match=r"expected a number, got \(0, 1\)"):
        dataset[0, 1]
    shares = [build_val_loader(dataset, section, rank=r, world_size=3, pin_memory=False) for r in range(3)]
    assert [batch["key"][0] for share in shares for batch in share] == NAMES
