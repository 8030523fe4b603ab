"""Option files of BasicSR and NAFNet load unchanged: with the keys of the official ones, and the network they name."""

import functools
import logging
import re
from pathlib import Path
from typing import Any

import official_files as official
import pytest
import torch
import yaml

import vsr
from vsr.config import OptionError, Options
from vsr.config.convert import convert


def load(folder: Path, file: Any, *overrides: str) -> Options:
    path = folder / "x.yml"
    path.write_text(file if isinstance(file, str) else official.text(file), encoding="utf-8")
    return vsr.load_options(path, overrides)


PATHS = {"spynet_path", "edvr_path"}  # of weights, which are read where a network is built


@functools.cache  # many of the files name the same
def scale_of(network: str) -> int:
    with torch.device("meta"):
        scale: int = vsr.build_network(yaml.safe_load(network)).scale
    return scale


@pytest.mark.parametrize("name", official.FILES)
def test_it_loads_builds_its_network_and_can_be_converted(name: str, tmp_path: Path) -> None:
    file = official.FILES[name]
    options = load(tmp_path, file)
    assert options.model_type in ("ImageModel", "VideoModel", "StereoModel")
    network = options.network_g.as_option()
    assert scale_of(yaml.safe_dump(network | dict.fromkeys(PATHS & network.keys()))) == file["scale"]
    new = convert(tmp_path / "x.yml").text
    assert load(tmp_path, new) == options


@pytest.mark.parametrize("name", [*official.VIDEO, *official.IMAGE])
def test_the_names_of_basicsrs_earlier_versions_mean_the_same(name: str, tmp_path: Path) -> None:
    now = official.text(official.FILES[name])
    formerly = now
    for new, old in official.FORMERLY.items():
        formerly = re.sub(rf"\b{new}\b", old, formerly)
    assert formerly != now
    assert load(tmp_path, formerly) == load(tmp_path, now)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("EDVR_L", "train.ema_decay", 0.999),  # stands among the network's arguments there
        ("EDVR_L", "train.freeze", {"parts": [], "except": ["fusion"], "until": 50000, "pretrained": False}),
        ("EDVR_L", "train.lr_mul", {"dcn": 1.0}),
        ("EDVR_L", "train.reference_batch", 32),  # 8 GPUs, 4 samples each
        ("EDVR_L", "train.losses.pixel.reduction", "sum"),
        ("EDVR_L", "train.scheduler.restart_weights", [1.0, 0.5]),
        ("EDVR_L", "datasets.val.clips", ["000", "011", "015", "020"]),
        ("EDVR_M_woTSA", "train.freeze", None),
        ("BasicVSR_REDS", "train.freeze", {"parts": ["spynet"], "except": [], "until": 5000, "pretrained": False}),
        (
            "IconVSR_Vimeo",
            "train.freeze",
            {"parts": ["spynet", "edvr"], "except": [], "until": 5000, "pretrained": False},
        ),
        ("BasicVSRPP_REDS", "train.lr_mul", {"spynet": 0.25}),
        ("BasicVSRPP_REDS", "datasets.train.meta_info_file", None),
        ("BasicVSR_GAN", "train.lr_mul", {}),  # lr_flow counts beside fix_flow alone
        ("BasicVSR_GAN", "network_d.input_size", 256),
        ("IconVSR_Vimeo_test", "val.flip_seq", True),
        ("IconVSR_Vimeo_test", "val.center_frame_only", True),
        ("ESRGAN", "train.relativistic", True),
        ("SRGAN", "train.relativistic", False),
        ("SwinIR", "train.reference_batch", None),  # num_gpu: auto
        ("MSRResNet", "val.metrics", {"psnr": {"crop_border": 4, "better": "higher"}}),  # NIQE is left out
        ("RCAN_x2", "network_g.upscale", 2),  # 4 in the file
        ("RCAN_test", "val.save_img", True),
        ("NAFNet", "train.clip_grad", {"norm": 0.01, "value": None}),
        ("NAFNet", "val.metrics.ssim.ssim3d", True),
        ("NAFNet", "datasets.train.use_hflip", True),
        ("EDSR_test", "val.metrics.ssim.ssim3d", False),
        ("NAFSSR", "model_type", "StereoModel"),
        ("NAFSSR", "train.batch_augment", []),
    ],
)
def test_a_key_means_what_it_means_there(name: str, place: str, value: Any, tmp_path: Path) -> None:
    found: Any = yaml.safe_load(vsr.config.dump_options(load(tmp_path, official.FILES[name])))
    for key in place.split("."):
        found = found[key]
    if place == "val.metrics":
        assert list(found) == list(value)
        found = {name: {key: found[name][key] for key in entry} for name, entry in value.items()}
    assert found == value


def same_sections(found: Any, expected: Any) -> list[tuple[Any, Any]]:
    """Return in pairs what an official file of NAFSSR and the shipped one must agree on."""
    pairs = [(found.network_g, expected.network_g), (found.train, expected.train), (found.scale, expected.scale)]
    assert len(found.datasets) == len(expected.datasets)
    for one, other in zip(found.datasets.values(), expected.datasets.values(), strict=True):
        for section in (one, other):
            assert section.dataset.type == "PairedStereoImageDataset"
        args = [dict(section.dataset.args) for section in (one, other)]
        assert args[0].pop("io_backend") == {"type": "disk"}  # as it is by default
        assert args[1].pop("io_backend") is None
        roots = ("dataroot_gt", "dataroot_lq")
        pairs.append(tuple({**arg, **{root: arg[root].rstrip("/") for root in roots}} for arg in args))
        pairs.append((one.batch_size_per_gpu, other.batch_size_per_gpu))
    pairs += [(found.val.metrics[name], expected.val.metrics[name]) for name in ("psnr", "ssim")]
    return pairs


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", official.NAFSSR_SIZES)
def test_nafnets_files_of_nafssr_mean_what_those_in_options_mean(
    size: str, scale: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Path(__file__).parents[1] / "options"
    shipped = [ours / kind / "NAFSSR" / f"nafssr_{size.lower()}_x{scale}.yml" for kind in ("train", "test")]
    files = [official.nafssr_train(size, scale), official.nafssr_test(size, scale)]
    unused = [
        ["num_gpu", "dist_params", "prefetch_mode", "use_shuffle", "trans_num", "max_minibatch", "wandb"],
        ["num_gpu", "dist_params"],
    ]
    for path, file, keys in zip(shipped, files, unused, strict=True):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="vsr"):
            found = load(tmp_path, file)
        told = re.findall(r"(\w+): [^:\n]* is not used: ", caplog.text)
        assert sorted(told) == sorted(keys)  # all others are honoured
        expected = vsr.load_options(path)
        for one, other in same_sections(found, expected):
            assert one == other
        assert found.model_type == expected.model_type == "StereoModel"
        assert found.path.pretrain_network_g == expected.path.pretrain_network_g
    assert [found.datasets[key].name for key in found.datasets] == list(official.STEREO_SETS)


def test_real_esrgans_keys_are_stages_in_the_order_of_its_code(tmp_path: Path) -> None:
    options = load(tmp_path, official.FILES["RealESRGAN_x4"])
    train = options.datasets["train"]
    stages = [stage.as_option() for stage in train.degradations]
    assert [stage["type"] for stage in stages] == [
        "USM", "RandomBlur", "RandomResize", "Noise", "JPEG", "RandomBlur", "RandomResize", "Noise", "Shuffle",
    ]  # fmt: skip
    assert (stages[1]["prob"], stages[5]["prob"], stages[5]["blur_sigma"]) == (1.0, 0.8, [0.2, 1.5])
    assert (stages[2]["relative_to"], stages[6]["relative_to"], stages[6]["resize_range"]) == (
        "input",
        "lq",
        [0.3, 1.2],
    )
    assert (stages[3]["noise_range"], stages[7]["noise_range"]) == ([1.0, 30.0], [1.0, 25.0])
    assert stages[8]["groups"] == [
        [{"type": "Resize", "mode": "random"}, {"type": "SincFilter", "prob": 0.8}],
        [{"type": "JPEG", "jpeg_range": [30, 95]}],
    ]
    assert (train.dataset.type, train.dataset.args["dataroot_lq"], train.dataset.args["gt_size"]) == (
        "PairedImageDataset",
        None,
        256,
    )
    assert train.dataset.args["meta_info_file"] == "datasets/DF2K/meta_info/all.txt"


def test_what_cannot_be_kept_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vsr"):
        assert set(load(tmp_path, official.FILES["LDL"]).train.losses) == {"pixel", "perceptual", "gan"}  # type: ignore[union-attr]
        load(tmp_path, official.FILES["MSRResNet"])
    assert "train.ldl_opt: it is left out" in caplog.text
    assert "val.metrics.niqe: calculate_niqe is left out" in caplog.text


@pytest.mark.parametrize(
    ("network", "nearest"),
    [
        ({"type": "DUF", "scale": 4, "num_layer": 52, "adapt_official_weights": True}, "EDVR, BasicVSR"),
        ({"type": "TOFlow", "adapt_official_weights": True}, "EDVR, BasicVSR"),
        ({"type": "ECBSR", "num_block": 4, "with_idt": False, "act_type": "prelu"}, "SRVGGNetCompact, EDSR"),
        ({"type": "HiFaceGAN", "num_feat": 48, "use_vae": False}, "RRDBNet"),
        ({"type": "StyleGAN2Generator", "out_size": 256, "lr_mlp": 0.01}, "RRDBNet"),
        ({"type": "RIDNet"}, "NAFNet, SwinIR"),
        ({"type": "DFDNet"}, "RRDBNet"),
    ],
)
def test_a_network_that_is_not_here_ends_in_one_line(network: dict[str, Any], nearest: str, tmp_path: Path) -> None:
    file = official.FILES["EDSR_test"] | {"model_type": "SomeModel", "network_g": network, "mixing_prob": 0.9}
    with pytest.raises(OptionError) as caught:
        load(tmp_path, file)
    (line,) = caught.value.problems
    assert f"network_g.type: expected a network of vsr, got '{network['type']}'" in line
    assert line.endswith(f"Nearest: {nearest}.")
    replaced = load(tmp_path, official.FILES["EDSR_test"] | {"network_g": network}, f"network_g={official.EDSR}")
    assert replaced.network_g.type == "EDSR"
