"""Option files of BasicSR load unchanged: with the keys of the official ones, and the network that they name."""

from pathlib import Path

import pytest
import torch

import vsr

# Each network with the keys of its official option file.
NETWORKS = {
    "EDSR": """{num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 16, upscale: 4, res_scale: 1, img_range: 255.,
      rgb_mean: [0.4488, 0.4371, 0.4040], type: EDSR}""",
    "RCAN": """{num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_group: 10, num_block: 20, squeeze_factor: 16, upscale: 4,
      res_scale: 1, img_range: 255., rgb_mean: [0.4488, 0.4371, 0.4040], type: RCAN}""",
    "RRDBNet": "{num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 23, num_grow_ch: 32, type: RRDBNet}",
    "SwinIR": """{upscale: 4, in_chans: 3, img_size: 48, window_size: 8, img_range: 1., depths: [6, 6, 6, 6, 6, 6],
      embed_dim: 180, num_heads: [6, 6, 6, 6, 6, 6], mlp_ratio: 2, upsampler: 'pixelshuffle', resi_connection: '1conv',
      type: SwinIR}""",
}
IMAGES = """\
name: images
model_type: SRModel
scale: 4
num_gpu: auto
manual_seed: 0
datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/DF2K/DIV2K_train_HR_sub
    dataroot_lq: datasets/DF2K/DIV2K_train_LR_bicubic_X4_sub
    meta_info_file: basicsr/data/meta_info/meta_info_DIV2K800sub_GT.txt
    filename_tmpl: '{}'
    io_backend: {type: disk}
    gt_size: 192
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: DIV2K100
    type: PairedImageDataset
    dataroot_gt: datasets/DIV2K/DIV2K_valid_HR
    dataroot_lq: datasets/DIV2K/DIV2K_valid_LR_bicubic/X4
    filename_tmpl: '{}x4'
    io_backend: {type: disk}
network_g: NETWORK
path: {pretrain_network_g: ~, param_key_g: params, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 2e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [250000, 400000], gamma: 0.5}
  total_iter: 500000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: !!float 5e3
  save_img: false
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false, better: higher}}
logger: {print_freq: 100, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_basicsrs_image_networks_load_unchanged(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    text = IMAGES.replace("SRModel", "SwinIRModel") if name == "SwinIR" else IMAGES
    path.write_text(text.replace("NETWORK", NETWORKS[name]), encoding="utf-8")
    options = vsr.load_options(path)
    assert (options.model_type, options.network_g.type) == ("ImageModel", name)
    with torch.device("meta"):
        assert vsr.build_network(options.network_g.as_option()).scale == 4
