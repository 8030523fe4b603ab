"""Option files with the keys and values of the official ones of BasicSR 1.4 and NAFNet, made from what they share."""

from typing import Any

import yaml

Section = dict[str, Any]

DISK, LMDB = {"io_backend": {"type": "disk"}}, {"io_backend": {"type": "lmdb"}}
META = "basicsr/data/meta_info/meta_info_"
SPYNET = {"spynet_path": "experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth"}
BASIC_LOGGER = {
    "print_freq": 100,
    "save_checkpoint_freq": 5000.0,
    "use_tb_logger": True,
    "wandb": {"project": None, "resume_id": None},
}
DIST = {"backend": "nccl", "port": 29500}
LOADER = {"num_worker_per_gpu": 3, "batch_size_per_gpu": 4, "dataset_enlarge_ratio": 200, "prefetch_mode": None}


# --- parts -----------------------------------------------------------------------------------------


def adam(lr: float, kind: str = "Adam", **more: Any) -> Section:
    return {"type": kind, "lr": lr, "weight_decay": 0, "betas": [0.9, 0.99], **more}


def metrics(*names: str, border: int = 0, y: bool = False, **more: Any) -> Section:
    return {name: {"type": f"calculate_{name}", "crop_border": border, "test_y_channel": y, **more} for name in names}


def training(lr: float, pixel: Section, scheduler: Section, total: int = 600000, **more: Any) -> Section:
    common = {"total_iter": total, "warmup_iter": -1, "pixel_opt": pixel, "scheduler": scheduler}
    return {"optim_g": adam(lr), **common, **more}


def cosine(*periods: int, weights: list[float] | None = None) -> Section:
    weights = weights or [1.0] * len(periods)
    kind = "CosineAnnealingRestartLR"
    return {"type": kind, "periods": list(periods), "restart_weights": weights, "eta_min": 1e-7}


STEPS = {"type": "MultiStepLR", "milestones": [50000, 100000, 200000, 300000], "gamma": 0.5}
CHARBONNIER = {"type": "CharbonnierLoss", "loss_weight": 1.0, "reduction": "mean"}
L1 = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}
GAN = {
    "optim_d": adam(1e-4),
    "perceptual_opt": {
        "type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "vgg_type": "vgg19", "use_input_norm": True,
        "range_norm": False, "perceptual_weight": 1.0, "style_weight": 0, "criterion": "l1",
    },
    "gan_opt": {
        "type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 5e-3,
    },
    "net_d_iters": 1,
    "net_d_init_iters": 0,
}  # fmt: skip


def training_file(model: str, scale: int, sets: Section, network: Section, train: Section, **more: Any) -> Section:
    return {
        "name": "x", "model_type": model, "scale": scale, "num_gpu": 8, "manual_seed": 10, "datasets": sets,
        "network_g": network, "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": train, "val": {"val_freq": 5000.0, "save_img": False, "metrics": metrics("psnr")},
        "logger": BASIC_LOGGER, "dist_params": DIST, **more,
    }  # fmt: skip


def testing_file(model: str, scale: int, sets: Section, network: Section, **val: Any) -> Section:
    return {
        "name": "x", "model_type": model, "scale": scale, "num_gpu": 1, "manual_seed": 0, "datasets": sets,
        "network_g": network, "path": {"pretrain_network_g": "experiments/x.pth", "strict_load_g": True},
        "val": {"save_img": True, "suffix": None, "metrics": metrics("psnr", "ssim"), **val},
    }  # fmt: skip


# --- videos ----------------------------------------------------------------------------------------


def edvr(num_feat: int = 64, num_reconstruct_block: int = 10, num_frame: int = 5, **flags: bool) -> Section:
    return {
        "type": "EDVR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": num_feat, "num_frame": num_frame,
        "deformable_groups": 8, "num_extract_block": 5, "num_reconstruct_block": num_reconstruct_block,
        "center_frame_idx": None, "hr_in": False, "with_predeblur": False, "with_tsa": True, **flags,
    }  # fmt: skip


def reds(kind: str, num_frame: int, **more: Any) -> Section:
    return {
        "name": "REDS", "type": kind, "dataroot_gt": "datasets/REDS/train_sharp",
        "dataroot_lq": "datasets/REDS/train_sharp_bicubic", "meta_info_file": f"{META}REDS_GT.txt",
        "val_partition": "REDS4", **DISK, "num_frame": num_frame, "gt_size": 256, "interval_list": [1],
        "random_reverse": False, "use_hflip": True, "use_rot": True, **LOADER, **more,
    }  # fmt: skip


def windows(meta: str | None = "REDS4", kind: str = "VideoTestDataset", **more: Any) -> Section:
    listed = {"meta_info_file": f"{META}{meta}_test_GT.txt"} if meta else {}
    roots = {"dataroot_gt": "datasets/a", "dataroot_lq": "datasets/b"}
    return {"name": "t", "type": kind, **roots, **listed, **DISK, "cache_data": False, "num_frame": 5, **more}


WINDOWS = {"padding": "reflection_circle"}
CLIPS = windows(None, "VideoRecurrentTestDataset", num_frame=-1)
BASICVSR = {"type": "BasicVSR", "num_feat": 64, "num_block": 30, **SPYNET}
ICONVSR = {
    **BASICVSR, "type": "IconVSR", "keyframe_stride": 5, "temporal_padding": 2, "edvr_path": "experiments/edvr.pth",
}  # fmt: skip
BASICVSRPP = {"type": "BasicVSRPlusPlus", "mid_channels": 64, "num_blocks": 7, "is_low_res_input": True, **SPYNET}
VIMEO = {
    key: value for key, value in reds("Vimeo90KRecurrentDataset", -1).items() if key != "val_partition"
} | {"meta_info_file": f"{META}Vimeo90K_train_GT.txt", "flip_sequence": True}  # fmt: skip
SEPTUPLETS = windows("Vimeo90K", "VideoTestVimeo90KDataset", num_frame=7)
SUM = {**CHARBONNIER, "reduction": "sum"}
RECURRENT = {"fix_flow": 5000, "flow_lr_mul": 0.125, "ema_decay": 0.999}
UNUSED = {"find_unused_parameters": True}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64}

EDVR_SETS = {"train": reds("REDSDataset", 5, dataroot_flow=None), "val": windows(**WINDOWS)}
CLIP_SETS = {"train": reds("REDSRecurrentDataset", 15, test_mode=False), "val": CLIPS}
VIDEO = {
    "EDVR_M_woTSA": training_file(
        "EDVRModel", 4, EDVR_SETS, edvr(with_tsa=False),
        training(4e-4, SUM, cosine(150000, 150000, 150000, 150000), dcn_lr_mul=1, ema_decay=0.999),
    ),
    "EDVR_L": training_file(
        "EDVRModel", 4, EDVR_SETS, {**edvr(128, 40), "ema_decay": 0.999},
        training(4e-4, SUM, cosine(50000, 550000, weights=[1, 0.5]), tsa_iter=50000, dcn_lr_mul=1), **UNUSED,
    ),
    "EDVR_GAN": training_file(
        "VideoGANModel", 4, EDVR_SETS, edvr(with_tsa=False), training(1e-4, L1, STEPS, **GAN),
        network_d={**VGG, "input_size": 256},
    ),
    "EDVR_Vid4": testing_file("EDVRModel", 4, {"test": windows(None, num_frame=7, **WINDOWS)}, edvr(128, 40, 7)),
    "EDVR_Vimeo": testing_file("EDVRModel", 4, {"test": {**SEPTUPLETS, **WINDOWS}}, edvr(128, 40, 7)),
    "EDVR_deblur": testing_file(
        "EDVRModel", 1, {"test": windows(padding="replicate")}, edvr(128, 40, hr_in=True, with_predeblur=True)
    ),
    "BasicVSR_REDS": training_file(
        "VideoRecurrentModel", 4, CLIP_SETS, BASICVSR, training(2e-4, CHARBONNIER, cosine(300000), **RECURRENT),
        **UNUSED,
    ),
    "IconVSR_Vimeo": training_file(
        "VideoRecurrentModel", 4, {"train": VIMEO, "val": CLIPS}, ICONVSR,
        training(2e-4, CHARBONNIER, cosine(300000), **RECURRENT), **UNUSED,
    ),
    "BasicVSRPP_REDS": training_file(
        "VideoRecurrentModel", 4,
        {"train": {**CLIP_SETS["train"], "meta_info_file": "datasets/REDS/meta_info/meta_info_REDS_GT.txt"},
         "val": CLIPS},
        BASICVSRPP, training(1e-4, CHARBONNIER, cosine(600000), fix_flow=5000, flow_lr_mul=0.25), **UNUSED,
    ),
    "BasicVSR_GAN": training_file(
        "VideoRecurrentGANModel", 4, CLIP_SETS, BASICVSR,
        training(1e-4, L1, STEPS, **GAN, fix_flow=None, lr_flow=0.0), network_d={**VGG, "input_size": 256}, **UNUSED,
    ),
    "BasicVSR_test": testing_file("VideoRecurrentModel", 4, {"test_1": CLIPS}, BASICVSR),
    "IconVSR_Vimeo_test": testing_file(
        "VideoRecurrentModel", 4, {"test_1": SEPTUPLETS}, ICONVSR, flip_seq=True, center_frame_only=True
    ),
}  # fmt: skip


# --- images ----------------------------------------------------------------------------------------


def pairs(scale: int = 4, name: str = "Set5", **more: Any) -> Section:
    roots = {"dataroot_gt": f"datasets/{name}/GTmod12", "dataroot_lq": f"datasets/{name}/LRbicx{scale}"}
    return {"name": name, "type": "PairedImageDataset", **roots, **DISK, **more}


def div2k(scale: int = 4, **more: Any) -> Section:
    return {
        **pairs(scale, "DIV2K"), "meta_info_file": f"{META}DIV2K800sub_GT.txt", "filename_tmpl": "{}",
        "gt_size": 128 if scale == 4 else 48 * scale, "use_hflip": True, "use_rot": True, **LOADER, **more,
    }  # fmt: skip


def benchmarks(scale: int = 4) -> Section:
    benchmark = pairs(scale, "DIV2K100", filename_tmpl=f"{{}}x{scale}")
    return {"test_1": pairs(scale), "test_2": pairs(scale, "Set14"), "test_3": benchmark}


MSRRESNET = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 16, "upscale": 4}
RGB = {"res_scale": 1, "img_range": 255.0, "rgb_mean": [0.4488, 0.4371, 0.4040]}
EDSR = {**MSRRESNET, **RGB, "type": "EDSR"}
RCAN = {**EDSR, "type": "RCAN", "num_group": 10, "num_block": 20, "squeeze_factor": 16}
RRDBNET = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23, "num_grow_ch": 32}
SWINIR = {
    "type": "SwinIR", "upscale": 4, "in_chans": 3, "img_size": 48, "window_size": 8, "img_range": 1.0,
    "depths": [6] * 6, "embed_dim": 180, "num_heads": [6] * 6, "mlp_ratio": 2, "upsampler": "pixelshuffle",
    "resi_connection": "1conv",
}  # fmt: skip
IMAGE_SETS = {"train": div2k(), "val": pairs(), "val_2": pairs(name="Set14")}
WITH_NIQE = {
    "val_freq": 5000.0,
    "save_img": False,
    "metrics": metrics("psnr", border=4, better="higher")
    | {"niqe": {"type": "calculate_niqe", "crop_border": 4, "better": "lower"}},
}


def real_esrgan(model: str, scale: int, **more: Any) -> Section:
    """Two rounds of degradation, of keys at the top and in the training set; the second round's end with 2."""
    first = {
        "resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5,
        "noise_range": [1, 30], "poisson_scale_range": [0.05, 3], "gray_noise_prob": 0.4, "jpeg_range": [30, 95],
    }  # fmt: skip
    second = {
        "resize_prob2": [0.3, 0.4, 0.3], "resize_range2": [0.3, 1.2], "gaussian_noise_prob2": 0.5,
        "noise_range2": [1, 25], "poisson_scale_range2": [0.05, 2.5], "gray_noise_prob2": 0.4,
        "jpeg_range2": [30, 95], "second_blur_prob": 0.8,
    }  # fmt: skip
    kinds = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
    kernels: Section = {"final_sinc_prob": 0.8}
    for number, widest in (("", 3), ("2", 1.5)):
        kernels |= {
            f"blur_kernel_size{number}": 21, f"kernel_list{number}": kinds,
            f"kernel_prob{number}": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], f"sinc_prob{number}": 0.1,
            f"blur_sigma{number}": [0.2, widest], f"betag_range{number}": [0.5, 4], f"betap_range{number}": [1, 2],
        }  # fmt: skip
    train = {
        "name": "DF2K+OST", "type": "RealESRGANDataset", "dataroot_gt": "datasets/DF2K",
        "meta_info": "datasets/DF2K/meta_info/all.txt", **DISK, **kernels, "gt_size": 256, "use_hflip": True,
        "use_rot": False, **LOADER,
    }  # fmt: skip
    network = {**RRDBNET, "scale": 2} if scale == 2 else RRDBNET
    file = training_file(model, scale, {"train": train}, network, training(1e-4, L1, STEPS, ema_decay=0.999))
    del file["val"]
    file |= first | second | {"gt_size": 256, "queue_size": 180}
    if model == "RealESRNetModel":
        return file | {"gt_usm": True}
    file["train"] = {**file["train"], **GAN, **more}
    file["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64, "skip_connection": True}
    return file | {"l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False}


SINGLE = {"name": "Set5", "type": "SingleImageDataset", "dataroot_lq": "datasets/Set5/LRbicx4", **DISK}
IMAGE = {
    "MSRResNet": training_file(
        "SRModel", 4, IMAGE_SETS, MSRRESNET, training(2e-4, L1, cosine(250000, 250000), ema_decay=0.999)
    ) | {"val": WITH_NIQE},
    "EDSR": training_file("SRModel", 4, IMAGE_SETS, EDSR, training(1e-4, L1, STEPS)),
    "RCAN": training_file("SRModel", 4, IMAGE_SETS, RCAN, training(1e-4, L1, STEPS)),
    "RCAN_x2": training_file("SRModel", 2, IMAGE_SETS, RCAN, training(1e-4, L1, STEPS)),  # with upscale: 4, as it is
    "SwinIR": training_file("SwinIRModel", 4, IMAGE_SETS, SWINIR, training(2e-4, L1, STEPS)) | {"num_gpu": "auto"},
    "SRGAN": training_file("SRGANModel", 4, IMAGE_SETS, MSRRESNET, training(1e-4, L1, STEPS, **GAN), network_d=VGG),
    "ESRGAN": training_file("ESRGANModel", 4, IMAGE_SETS, RRDBNET, training(1e-4, L1, STEPS, **GAN), network_d=VGG),
    "EDSR_test": testing_file("SRModel", 4, benchmarks(), EDSR),
    "RRDBNet_test": testing_file("SRModel", 4, benchmarks(), RRDBNET),
    "MSRResNet_woGT": testing_file("SRModel", 4, {"test_1": SINGLE}, MSRRESNET, metrics=None),
    "RCAN_test": {
        key: value for key, value in testing_file("SRModel", 4, benchmarks(), RCAN).items() if key != "val"
    } | {"suffix": None, "crop_border": None, "save_img": True},
    "RealESRGAN_x2": real_esrgan("RealESRGANModel", 2),
    "RealESRGAN_x4": real_esrgan("RealESRGANModel", 4),
    "RealESRNet_x4": real_esrgan("RealESRNetModel", 4),
    "LDL": real_esrgan("RealESRGANModel", 4, ldl_opt=L1),
}  # fmt: skip


# --- NAFNet ----------------------------------------------------------------------------------------


def nafnet(kind: str, width: int = 32, **more: Any) -> Section:
    blocks = {"enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}
    return {"type": kind, "width": width, **blocks, **more}


BASELINE = nafnet("Baseline", dw_expand=1, ffn_expand=2)
NAFNET_VAL = {"val_freq": 20000.0, "save_img": False, "use_image": False, "metrics": metrics("psnr", "ssim")}
NAFNET_TEST = {"save_img": False, "grids": False, "metrics": metrics("psnr", "ssim")}
PSNR = {"type": "PSNRLoss", "loss_weight": 1, "reduction": "mean"}


def nafnet_train(network: Section, **more: Any) -> Section:
    cropped = {**pairs(1, "GoPro"), **LMDB, "filename_tmpl": "{}", "gt_size": 256, "use_flip": True, "use_rot": True}
    sets = {"train": {**cropped, "use_shuffle": True, **LOADER}, "val": {**pairs(1, "GoPro"), **LMDB}}
    schedule = {"type": "TrueCosineAnnealingLR", "T_max": 400000, "eta_min": 1e-7}
    train = {**training(1e-3, PSNR, schedule, 400000), "optim_g": adam(1e-3, "AdamW", betas=[0.9, 0.9])}
    return training_file("ImageRestorationModel", 1, sets, network, train) | {"val": NAFNET_VAL} | more


SKIMAGE = {"psnr": metrics("psnr")["psnr"], "ssim": {"type": "calculate_skimage_ssim"}}
NAFSSR_SIZES = {"T": (48, 16, 0.0, 400000), "S": (64, 32, 0.1, 100000), "B": (96, 64, 0.2, 100000),
                "L": (128, 128, 0.3, 100000)}  # fmt: skip
STEREO_SETS = ("KITTI2012", "KITTI2015", "Middlebury", "Flickr1024")


def stereo(name: str, gt: str, lq: str, **more: Any) -> Section:
    roots = {"dataroot_gt": f"datasets/StereoSR/{gt}", "dataroot_lq": f"datasets/StereoSR/{lq}"}
    return {"name": name, "type": "PairedStereoImageDataset", **roots, **DISK, **more}


def nafssr_train(size: str, scale: int) -> Section:
    """The file NAFSSR-SIZE_xSCALE.yml."""
    width, blocks, drop, total = NAFSSR_SIZES[size]
    patches, flickr = f"patches_x{scale}/", "test/Flickr1024"
    loader = {**LOADER, "num_worker_per_gpu": 4, "dataset_enlarge_ratio": 1, "use_shuffle": True}
    augmented = {"use_hflip": True, "use_vflip": True, "use_rot": False, "flip_RGB": True}
    crop = {"gt_size_h": 30 * scale, "gt_size_w": 90 * scale}
    schedule = {"type": "TrueCosineAnnealingLR", "T_max": total, "eta_min": 1e-7}
    mse = {"type": "MSELoss", "loss_weight": 1.0, "reduction": "mean"}
    train = training(3e-3, mse, schedule, total, mixup=False)
    return training_file(
        "ImageRestorationModel", scale,
        {"train": stereo("Flickr1024-sr-train", patches, patches, **crop, **augmented, **loader),
         "val": stereo("Flickr1024-sr-test", f"{flickr}/hr", f"{flickr}/lr_x{scale}")},
        {"type": "NAFSSR", "up_scale": scale, "width": width, "num_blks": blocks, "drop_path_rate": drop,
         "train_size": [1, 6, 30, 90], "drop_out_rate": 0.0},
        {**train, "optim_g": adam(3e-3, "AdamW", betas=[0.9, 0.9])},
        name=f"NAFNetSR-{size}_x{scale}",
        val={"val_freq": 20000.0, "save_img": False, "trans_num": 1, "max_minibatch": 1, "metrics": SKIMAGE},
        logger={**BASIC_LOGGER, "print_freq": 200, "save_checkpoint_freq": 10000.0},
    )  # fmt: skip


def nafssr_test(size: str, scale: int) -> Section:
    """The file NAFSSR-SIZE_SCALEx.yml."""
    width, blocks, _, _ = NAFSSR_SIZES[size]
    sets = {
        f"test{i}": stereo(name, f"test/{name}/hr", f"test/{name}/lr_x{scale}") for i, name in enumerate(STEREO_SETS)
    }
    network = {"type": "NAFSSR", "up_scale": scale, "width": width, "num_blks": blocks}
    file = testing_file("ImageRestorationModel", scale, sets, network, grids=False, metrics=dict(SKIMAGE))
    del file["val"]["suffix"]
    weights = {"pretrain_network_g": f"experiments/pretrained_models/NAFSSR-{size}_{scale}x.pth"}
    return file | {"name": f"NAFSSR-{size}_{scale}x", "manual_seed": 10, "dist_params": DIST,
                   "path": {**weights, "strict_load_g": True, "resume_state": None}}  # fmt: skip


NAFNET = {
    "NAFNet": nafnet_train(nafnet("NAFNetLocal")),
    "Baseline": nafnet_train(BASELINE),
    "NAFNet_test": testing_file("ImageRestorationModel", 1, {"test": pairs(1)}, nafnet("NAFNetLocal", 64))
    | {"val": NAFNET_TEST, "dist_params": DIST},
    "Baseline_SIDD_test": testing_file("ImageRestorationModel", 1, {"val": {**pairs(1), **LMDB}}, BASELINE)
    | {"val": {**NAFNET_TEST, "use_image": False}},
    "NAFSSR": nafssr_train("T", 4),
    "NAFSSR_test": nafssr_test("T", 4),
}  # fmt: skip
NAFNET["NAFSSR_test"]["val"]["metrics"] |= {
    "left": {**SKIMAGE["psnr"], "type": "calculate_psnr_left"}
}  # a comment there

FILES = VIDEO | IMAGE | NAFNET


def text(file: Section) -> str:
    return str(yaml.safe_dump(file, sort_keys=False, default_flow_style=None))


# In BasicSR 1.0 to 1.2 these had other names.
FORMERLY = {
    "use_hflip": "use_flip",
    "pretrain_network_g": "pretrain_model_g",
    "strict_load_g": "strict_load",
    "fix_flow": "fix_iter",
    "VideoRecurrentModel": "BasicVSRModel",
    "range_norm": "norm_img",
}
