"""Files of EDVR's and mmsr's code of 2019, with the keys of the official ones, as BasicSR's 1.4 would say them."""

from typing import Any

import pytest

from vsr.config.legacy_2019 import translate_2019, translate_batches
from vsr.config.legacy_moves import move_keys
from vsr.config.reader import Node, parse, plain

EDVR = """\
name: edvr
use_tb_logger: true
model: video_base
distortion: sr
scale: 4
gpu_ids: [0, 1, 2, 3, 4, 5, 6, 7]
datasets:
  train:
    name: REDS
    mode: REDS
    interval_list: [1]
    random_reverse: false
    border_mode: false
    dataroot_GT: ../datasets/REDS/train_sharp_wval.lmdb
    dataroot_LQ: ../datasets/REDS/train_sharp_bicubic_wval.lmdb
    cache_keys: ~
    N_frames: 5
    use_shuffle: true
    n_workers: 3
    batch_size: 32
    GT_size: 256
    LQ_size: 64
    use_flip: true
    use_rot: true
    color: RGB
network_G: {which_model_G: EDVR, nf: 64, nframes: 5, groups: 8, front_RBs: 5, back_RBs: 10, predeblur: false,
  HR_in: false, w_TSA: true}
path: {pretrain_model_G: a.pth, strict_load: false, resume_state: ~}
train:
  lr_G: !!float 4e-4
  lr_scheme: CosineAnnealingLR_Restart
  beta1: 0.9
  beta2: 0.99
  niter: 600000
  ft_tsa_only: 50000
  warmup_iter: -1
  T_period: [50000, 100000, 150000, 150000, 150000]
  restarts: [50000, 150000, 300000, 450000]
  restart_weights: [1, 0.5, 0.5, 0.5]
  eta_min: !!float 1e-7
  pixel_criterion: cb
  pixel_weight: 1.0
  val_freq: !!float 5e3
  manual_seed: 0
logger: {print_freq: 100, save_checkpoint_freq: !!float 5e3}
"""
ESRGAN = """\
name: esrgan
model: srgan
distortion: sr
scale: 4
crop_border: ~
gpu_ids: [0]
datasets:
  train: {mode: LQGT, dataroot_GT: a, dataroot_LQ: b, n_workers: 6, batch_size: 16, GT_size: 128, use_flip: true}
  val: {mode: video_test, N_frames: 5, padding: new_info}
  test_1: {mode: LQ, dataroot_LQ: b}
network_G: {which_model_G: RRDBNet, in_nc: 3, out_nc: 3, nf: 64, nb: 23, upscale: 4}
network_D: {which_model_D: discriminator_vgg_128, in_nc: 3, nf: 64}
path: {pretrain_model_G: a.pth}
train:
  lr_G: 1e-4
  weight_decay_G: 0
  beta1_G: 0.9
  lr_D: 1e-4
  weight_decay_D: 0
  beta1_D: 0.9
  beta2_D: 0.99
  lr_scheme: MultiStepLR
  niter: 400000
  lr_steps: [50000, 100000]
  lr_gamma: 0.5
  pixel_criterion: l1
  pixel_weight: 1e-2
  feature_criterion: l1
  feature_weight: 1
  gan_type: ragan
  gan_weight: 5e-3
  D_update_ratio: 1
  D_init_iters: 0
"""


def translated(text: str, problems: list[str] | None = None) -> dict[str, Any]:
    root, found = parse(text, "x.yml"), list[str]()
    assert isinstance(root, Node)
    translate_batches(root, found)
    move_keys(root, found)
    translate_2019(root, found)
    if problems is None:
        assert found == []
    else:
        problems += found
    result: dict[str, Any] = plain(root)
    return result


def problem(text: str) -> str:
    problems: list[str] = []
    translated(text, problems)
    (line,) = problems
    return line


def test_edvrs_file_of_2019_says_the_same_in_todays_words() -> None:
    file = translated(EDVR)
    assert file == {
        "name": "edvr",
        "distortion": "sr",
        "scale": 4,
        "gpu_ids": list(range(8)),
        "datasets": {
            "train": {
                "name": "REDS", "interval_list": [1], "random_reverse": False, "use_shuffle": True, "use_rot": True,
                "batch_size_per_gpu": 4,  # 32 on 8 GPUs
                "dataroot_gt": "../datasets/REDS/train_sharp_wval.lmdb",
                "dataroot_lq": "../datasets/REDS/train_sharp_bicubic_wval.lmdb",
                "num_frame": 5, "gt_size": 256, "num_worker_per_gpu": 3, "use_hflip": True, "type": "REDSDataset",
            }
        },
        "path": {"resume_state": None, "pretrain_network_g": "a.pth", "strict_load_g": False},
        "train": {
            "reference_batch": 32, "warmup_iter": -1, "total_iter": 600000, "tsa_iter": 50000,
            "optim_g": {"lr": 4e-4, "betas": [0.9, 0.99], "type": "Adam"},
            "scheduler": {
                "periods": [50000, 100000, 150000, 150000, 150000], "eta_min": 1e-7,
                "restart_weights": [1, 1, 0.5, 0.5, 0.5],  # there without the first period's
                "type": "CosineAnnealingRestartLR",
            },
            "pixel_opt": {"loss_weight": 1.0, "type": "CharbonnierLoss", "reduction": "sum", "eps": 1e-6},
        },
        "logger": {"print_freq": 100, "save_checkpoint_freq": 5000.0, "use_tb_logger": True},
        "model_type": "EDVRModel",
        "network_g": {
            "type": "EDVR", "num_feat": 64, "num_frame": 5, "deformable_groups": 8, "num_extract_block": 5,
            "num_reconstruct_block": 10, "with_predeblur": False, "hr_in": False, "with_tsa": True,
        },
        "manual_seed": 0,
        "val": {
            "val_freq": 5000.0,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}},
        },
    }  # fmt: skip


def test_esrgans_file_of_2019_says_the_same_in_todays_words() -> None:
    file = translated(ESRGAN)
    assert file["model_type"] == "ESRGANModel"  # ragan is relativistic
    assert file["network_g"] == {
        "type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23, "scale": 4,
    }  # fmt: skip
    assert file["network_d"] == {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64}
    train = file["train"]
    assert train["optim_g"] == {"lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.999], "type": "Adam"}  # PyTorch's 0.999
    assert train["optim_d"]["betas"] == [0.9, 0.99]
    assert train["scheduler"] == {"milestones": [50000, 100000], "gamma": 0.5, "type": "MultiStepLR"}
    assert train["pixel_opt"] == {"loss_weight": 1e-2, "type": "L1Loss", "reduction": "mean"}
    assert train["perceptual_opt"] == {
        "criterion": "l1", "perceptual_weight": 1, "type": "PerceptualLoss", "layer_weights": {"conv5_4": 1},
    }  # fmt: skip
    assert train["gan_opt"] == {"gan_type": "vanilla", "loss_weight": 5e-3, "type": "GANLoss"}
    assert (train["net_d_iters"], train["net_d_init_iters"]) == (1, 0)
    assert file["datasets"]["val"] == {"num_frame": 5, "padding": "reflection_circle", "type": "VideoTestDataset"}
    assert file["datasets"]["test_1"] == {"dataroot_lq": "b", "type": "SingleImageDataset"}
    assert file["val"]["metrics"]["psnr"]["crop_border"] == 4  # that code left out a border of `scale`


@pytest.mark.parametrize(("name", "loss"), [("l1", "L1Loss"), ("l2", "MSELoss"), ("cb", "CharbonnierLoss")])
def test_models_of_videos_summed_every_pixel_loss_and_others_only_cb(name: str, loss: str) -> None:
    criterion = f"pixel_criterion: {name}"
    video = translated(EDVR.replace("pixel_criterion: cb", criterion))["train"]["pixel_opt"]
    image = translated(ESRGAN.replace("pixel_criterion: l1", criterion))["train"]["pixel_opt"]
    assert (video["type"], video["reduction"], video.get("eps")) == (loss, "sum", 1e-6 if name == "cb" else None)
    assert (image["type"], image["reduction"]) == (loss, "sum" if name == "cb" else "mean")


def test_a_weight_of_0_switches_a_loss_off() -> None:
    text = ESRGAN.replace("pixel_weight: 1e-2", "pixel_weight: 0").replace("feature_weight: 1", "feature_weight: 0")
    train = translated(text)["train"]
    assert [key for key in train if key.endswith("_opt")] == ["gan_opt"]


def test_gan_of_then_is_vanilla_and_not_relativistic() -> None:
    file = translated(ESRGAN.replace("ragan", "gan"))
    assert (file["model_type"], file["train"]["gan_opt"]["gan_type"]) == ("SRGANModel", "vanilla")


def test_steps_with_restarts_have_a_schedule_of_their_own() -> None:
    text = ESRGAN.replace("lr_gamma: 0.5", "lr_gamma: 0.5\n  restarts: [60000]\n  restart_weights: [0.5]")
    assert translated(text)["train"]["scheduler"] == {
        "milestones": [50000, 100000], "gamma": 0.5, "restart_weights": [1, 0.5], "type": "MultiStepRestartLR",
        "restarts": [0, 60000],
    }  # fmt: skip
    text = ESRGAN.replace("lr_gamma: 0.5", "lr_gamma: 0.5\n  restarts: ~\n  restart_weights: ~\n  clear_state: ~")
    assert translated(text)["train"]["scheduler"]["type"] == "MultiStepLR"


def test_crops_of_one_size_are_deblurring_at_scale_1() -> None:
    assert translated(EDVR.replace("LQ_size: 64", "LQ_size: 256"))["scale"] == 1


def test_mmsrs_first_names_of_networks_and_sets_are_known() -> None:
    arguments = "norm_type: ~, mode: CNA, nf: 64, nb: 23, in_nc: 3, out_nc: 3, gc: 32, group: 1"
    network = f"network_G: {{which_model_G: RRDB_net, {arguments}}}"
    text = (
        ESRGAN.replace("model: srgan", "model: srragan").replace("LQGT", "LRHR").replace("dataroot_LQ", "dataroot_LR")
    )
    text = text.replace("network_G: {which_model_G: RRDBNet, in_nc: 3, out_nc: 3, nf: 64, nb: 23, upscale: 4}", network)
    file = translated(
        text.replace("in_nc: 3, nf: 64}", "in_nc: 3, nf: 64, norm_type: batch, act_type: leakyrelu, mode: CNA}")
    )
    assert file["model_type"] == "ESRGANModel"
    assert file["network_g"]["type"] == "RRDBNet"
    assert file["network_g"]["num_grow_ch"] == 32
    assert file["network_d"] == {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64}
    assert file["datasets"]["train"]["type"] == "PairedImageDataset"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("batch_size: 32", "batch_size: 33", "train.batch_size: expected a multiple of the 8 GPUs of the file, got 33"),
        ("border_mode: false", "border_mode: true", "border_mode: expected false, got true. Leave it out"),
        ("color: RGB", "color: y", "color: expected 'RGB', got 'y'"),
        ("restarts: [50000,", "restarts: [60000,", "restarts: expected the sums of T_period"),
        ("w_TSA: true", "w_TSA: true, norm_type: instance", "norm_type: expected null or 'batch'"),
    ],
)
def test_what_cannot_be_translated_is_told(right: str, wrong: str, message: str) -> None:
    assert message in problem(EDVR.replace(right, wrong))


def test_a_gradient_penalty_of_then_is_refused() -> None:
    assert "gan_type: expected gan, ragan or lsgan, got 'wgan-gp'" in problem(ESRGAN.replace("ragan", "wgan-gp"))


@pytest.mark.parametrize(("word", "level"), [("true", "WARNING"), ("false", "INFO"), ("~", "INFO")])
@pytest.mark.parametrize("text", [EDVR, ESRGAN.replace("lr_gamma: 0.5", "lr_gamma: 0.5\n  restarts: [60000]"), ESRGAN])
def test_clear_state_has_a_line_in_the_log_whatever_the_schedule(
    text: str, word: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="vsr"):
        file = translated(text.replace("train:\n  lr_G", f"train:\n  clear_state: {word}\n  lr_G"))
    assert "clear_state" not in file["train"] | file["train"]["scheduler"]
    (record,) = [record for record in caplog.records if "train.clear_state: it is not used" in record.getMessage()]
    assert record.levelname == level


def test_memcached_is_read_from_files() -> None:
    assert translated(EDVR.replace("mode: REDS", "mode: REDS_mc"))["datasets"]["train"]["type"] == "REDSDataset"


def test_a_batch_size_of_a_file_of_today_is_left_for_the_check() -> None:
    text = "datasets: {train: {type: X, batch_size: 32}}"
    assert translated(text) == plain(parse(text, "x.yml"))
