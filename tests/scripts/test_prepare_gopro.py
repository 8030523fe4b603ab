import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import kill_and_repeat, tree
from kit import ROOT, history, validations

from vsr.config import load_options
from vsr.data.paired_image import PairedImageDataset
from vsr.engine.train import train
from vsr.utils.images import write_image

COMMAND = [sys.executable, str(ROOT / "scripts" / "prepare_gopro.py")]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """GOPRO_Large, small: two clips to train on, one to test on."""
    rng = np.random.default_rng(2)
    root = tmp_path / "GOPRO_Large (1)"
    for clip in ("train/GOPR0372_07_00", "train/GOPR0374_11_01", "test/GOPR0384_11_00"):
        for kind in ("blur", "blur_gamma", "sharp"):
            (root / clip / kind).mkdir(parents=True)
            for frame in range(1, 7):
                image = rng.integers(0, 256, (72, 128, 3), dtype=np.uint8)
                write_image(root / clip / kind / f"{frame:06d}.png", image)
    return root


@pytest.mark.slow
def test_a_killed_run_goes_on_and_the_recipe_trains_on_what_it_made(
    large: Path, tmp_path: Path, run_script: Any
) -> None:
    arguments = [str(large), "--crop_size", "48", "--step", "16", "--workers", "0", "--root"]
    whole, killed = tmp_path / "whole" / "GoPro", tmp_path / "killed" / "GoPro"
    status, told, errors = run_script("prepare_gopro.py", *arguments, str(whole))
    assert status == 0, errors
    # rows 0, 16, 24 and columns 0, 16 ... 80
    assert f"{whole}/train/blur_crops: 216 parts of 12 images\n" in told
    kill_and_repeat([*COMMAND, *arguments, str(killed)], killed, after=100)
    assert tree(killed) == tree(whole)
    assert run_script("prepare_gopro.py", *arguments, str(killed))[1] == told.replace("/whole/", "/killed/")
    assert tree(killed) == tree(whole)

    data = killed
    options = load_options(
        ROOT / "options" / "train" / "NAFNet" / "nafnet_w32_gopro.yml",
        [
            f"path.experiments_root={tmp_path}/experiments", "train.total_iter=2", "val.val_freq=2",
            "logger.print_freq=1", "network_g.width=4", "network_g.enc_blk_nums=[1, 1]",
            "network_g.dec_blk_nums=[1, 1]", "datasets.train.gt_size=32", "datasets.train.batch_size_per_gpu=2",
            "datasets.train.num_worker_per_gpu=0", "datasets.val.num_worker_per_gpu=0",
        ]
        + [f"datasets.{key}={data}/{name}" for key, name in {
            "train.dataroot_gt": "train/sharp_crops", "train.dataroot_lq": "train/blur_crops",
            "val.dataroot_gt": "test/target", "val.dataroot_lq": "test/input",
        }.items()],
    )  # fmt: skip
    train(options)
    run_folder = tmp_path / "experiments" / options.name
    assert sorted(history(run_folder)) == [1, 2]
    assert [step for step, _ in validations(run_folder)] == [2]


def test_the_option_files_name_what_the_script_makes(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # into datasets/GoPro
    status, _, errors = run_script(
        "prepare_gopro.py", str(large), "--crop_size", "48", "--step", "24", "--workers", "0"
    )
    assert status == 0, errors
    for file in sorted((ROOT / "options").glob("*/NAFNet/*_gopro.yml")):
        for section in load_options(file).datasets.values():
            roots = section.dataset.args
            assert len(PairedImageDataset(dataroot_gt=roots["dataroot_gt"], dataroot_lq=roots["dataroot_lq"], scale=1))


NAFNET = """\
name: NAFNet-GoPro-width32
model_type: ImageRestorationModel
scale: 1
num_gpu: 8
manual_seed: 10
datasets:
  train:
    name: gopro-train
    type: PairedImageDataset
    dataroot_gt: ./datasets/GoPro/train/sharp_crops.lmdb
    dataroot_lq: ./datasets/GoPro/train/blur_crops.lmdb
    filename_tmpl: '{}'
    io_backend: {type: lmdb}
    gt_size: 32
    use_flip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: gopro-test
    type: PairedImageDataset
    dataroot_gt: ./datasets/GoPro/test/target.lmdb
    dataroot_lq: ./datasets/GoPro/test/input.lmdb
    io_backend: {type: lmdb}
network_g: {type: NAFNetLocal, width: 4, enc_blk_nums: [1, 1], middle_blk_num: 1, dec_blk_nums: [1, 1]}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: AdamW, lr: !!float 1e-3, weight_decay: 0., betas: [0.9, 0.9]}
  scheduler: {type: TrueCosineAnnealingLR, T_max: 200000, eta_min: !!float 1e-7}
  total_iter: 2
  warmup_iter: -1 # no warm up
  pixel_opt: {type: PSNRLoss, loss_weight: 1, reduction: mean}
val:
  val_freq: !!float 2
  save_img: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}
    ssim: {type: calculate_ssim, crop_border: 0, test_y_channel: false}
logger: {print_freq: 1, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""


def test_a_file_of_nafnets_own_keys_trains_on_the_lmdbs(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--crop_size", "48", "--step", "24", "--workers", "1", "--lmdb", "png")
    status, _, errors = run_script("prepare_gopro.py", str(large), *arguments)
    assert status == 0, errors
    (tmp_path / "nafnet.yml").write_text(NAFNET)
    train(load_options(tmp_path / "nafnet.yml"))
    run_folder = tmp_path / "experiments" / "NAFNet-GoPro-width32"
    assert sorted(history(run_folder)) == [1, 2]
    assert [step for step, _ in validations(run_folder)] == [2]


@pytest.mark.slow
def test_an_lmdb_goes_on_after_a_kill(large: Path, tmp_path: Path) -> None:
    arguments = [str(large), "--crop_size", "48", "--step", "4", "--workers", "1", "--lmdb", "raw"]
    root = tmp_path / "GoPro"
    kill_and_repeat([*COMMAND, *arguments, "--root", str(root)], root, after=2)
    stored = PairedImageDataset(
        dataroot_gt=str(root / "train" / "sharp_crops.lmdb"), dataroot_lq=str(root / "train" / "blur_crops.lmdb"),
        scale=1, io_backend={"type": "lmdb"},
    )  # fmt: skip
    assert len(stored) == 12 * 7 * 21
    assert not list(root.rglob("*.partial"))


def test_mistakes_end_in_one_line_and_a_dry_run_writes_nothing(large: Path, tmp_path: Path, run_script: Any) -> None:
    before = tree(tmp_path)
    arguments = ["prepare_gopro.py", str(large), "--root", str(tmp_path / "out")]
    status, told, errors = run_script(*arguments)
    assert (status, told) == (1, "")
    assert errors.startswith("error: ")
    assert "expected an image of crop_size 512 or more, got 72x128" in errors
    assert errors.count("\n") == 1
    (tmp_path / "x.zip").write_text("no archive")
    status, told, errors = run_script("prepare_gopro.py", str(tmp_path / "x.zip"), "--root", str(tmp_path / "out"))
    (tmp_path / "x.zip").unlink()
    assert (status, told, errors.count("\n")) == (1, "", 1)
    assert "x.zip: expected a whole zip or tar archive" in errors
    status, told, errors = run_script(*arguments, "--crop_size", "48", "--step", "16", "--dry_run")
    assert status == 0, errors
    assert f"{tmp_path}/out/train/sharp_crops: 216 parts of 12 images, would be made\n" in told
    assert tree(tmp_path) == before
