"""Fixtures of the whole suite: small clips on disk and a small option file that trains on them."""

from pathlib import Path

import pytest
import torch
from kit import write_frames

torch.set_num_threads(1)  # the suite's sums must not depend on the machine's cores


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A root with the training clips train/a, train/b and the clips val/c, val/d, of 32x48 frames."""
    for seed, (name, count) in enumerate({"train/a": 6, "train/b": 5, "val/c": 5, "val/d": 4}.items()):
        write_frames(tmp_path / "clips" / name, count, (32, 48), seed=seed)
    return tmp_path / "clips"


TINY = """\
name: tiny
model_type: VideoModel
scale: 2
manual_seed: 3
datasets:
  train:
    type: VideoTrainDataset
    dataroot_gt: {clips}/train
    num_frame: 3
    gt_size: 16
    random_reverse: true
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    type: VideoTestDataset
    dataroot_gt: {clips}/val
    num_frame: 3
    padding: replicate
    num_worker_per_gpu: 0
network_g: {{type: WindowNet, num_frame: 3, width: 8}}
imports: [tiny_networks]
path: {{experiments_root: {root}/experiments, results_root: {root}/results}}
train:
  total_iter: 8
  pixel_opt: {{type: CharbonnierLoss, reduction: mean}}
  optim_g: {{type: Adam, lr: 1e-3}}
  scheduler: {{type: CosineAnnealingRestartLR, periods: [8], restart_weights: [1], eta_min: 1e-7}}
  ema_decay: 0.9
val:
  val_freq: 4
  compare_bicubic: true
  metrics:
    psnr: {{type: calculate_psnr}}
    ssim: {{type: calculate_ssim, crop_border: 2, test_y_channel: true}}
logger: {{print_freq: 1, save_checkpoint_freq: 4, use_tb_logger: false, log_keys: true, keep_last: 2}}
"""


@pytest.fixture
def tiny(tmp_path: Path, clips: Path) -> Path:
    """An option file that trains a tiny network of windows for 8 steps, with validation."""
    path = tmp_path / "tiny.yml"
    path.write_text(TINY.format(clips=clips, root=tmp_path), encoding="utf-8")
    return path
