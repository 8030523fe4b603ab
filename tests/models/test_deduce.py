"""Networks from the shapes of their tensors: every official one of golden/models, and forms that are not there."""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import vsr
from vsr.models.deduce import Shapes, deduce, deduce_option
from vsr.registry import NETWORKS

MODELS = sorted((Path(__file__).parents[1] / "golden" / "models").glob("*.json"))
# no recipe's: the tiny networks were given values of all kinds
OFFICIAL = [path for path in MODELS if "tiny" not in path.stem and path.stem != "nafnetsr_single_x2"]
TRAINING_ONLY = {"drop_path_rate", "drop_out_rate"}


def manifest(path: Path) -> tuple[dict[str, Any], Shapes]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content, {key: tuple(shape) for key, shape, _ in content["state_dict"]}


def shapes_of(option: dict[str, Any]) -> Shapes:
    with torch.device("meta"):
        network = vsr.build_network(option)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_official_network_is_known_by_its_tensors(path: Path) -> None:
    content, shapes = manifest(path)
    option, notes = deduce_option(shapes)
    assert shapes_of(option) == shapes
    assumed = {key for _, values in notes for key in values}
    local = content["arch"] == f"{option['type']}Local"
    assert content["arch"] == option["type"] or (local and "type" in assumed)
    defaults = {k: v.default for k, v in inspect.signature(NETWORKS.get(content["arch"])).parameters.items()}
    for key, value in content["kwargs"].items():
        if key not in assumed and not (local and key in ("train_size", "fast_imp")):
            assert plain(option.get(key, defaults[key])) == value, key


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_what_cannot_be_seen_is_assumed_as_the_official_recipes_have_it(path: Path) -> None:
    content, shapes = manifest(path)
    _, notes = deduce_option(shapes)
    assumed = {key: value for _, values in notes for key, value in values.items() if key not in TRAINING_ONLY}
    assert {key: content["kwargs"].get(key, value) for key, value in assumed.items()} == assumed


SWIN = {"type": "SwinIR", "img_size": 16, "window_size": 4, "depths": [2, 2], "embed_dim": 12, "num_heads": [2, 3]}
NAFNET = {"type": "NAFNet", "width": 8, "enc_blk_nums": [1, 2], "middle_blk_num": 2, "dec_blk_nums": [0, 1]}


@pytest.mark.parametrize(
    "option",
    [
        {"type": "EDVR", "num_feat": 8, "num_frame": 7, "deformable_groups": 2, "num_in_ch": 1, "num_out_ch": 1},
        {"type": "EDVR", "num_feat": 8, "deformable_groups": 1, "num_extract_block": 0, "num_reconstruct_block": 2},
        {"type": "IconVSR", "num_feat": 16, "num_block": 2, "temporal_padding": 3},
        {"type": "BasicVSRPlusPlus", "mid_channels": 16, "num_blocks": 2, "is_low_res_input": False},
        {"type": "MSRResNet", "num_feat": 8, "num_block": 3, "upscale": 2, "num_in_ch": 1, "num_out_ch": 1},
        {"type": "EDSR", "num_feat": 8, "num_block": 32, "upscale": 4, "res_scale": 0.1},
        {"type": "EDSR", "num_feat": 8, "num_block": 1, "upscale": 3},
        {"type": "RCAN", "num_feat": 8, "num_group": 3, "num_block": 2, "squeeze_factor": 2, "upscale": 3},
        {"type": "RRDBNet", "num_feat": 8, "num_block": 2, "num_grow_ch": 4, "scale": 2},
        {"type": "RRDBNet", "num_feat": 8, "num_block": 2, "num_grow_ch": 4, "scale": 1},
        {"type": "RRDBNet", "num_feat": 8, "num_block": 1, "num_in_ch": 1, "num_out_ch": 1, "scale": 4},
        {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 3, "upscale": 2},
        {**SWIN, "upscale": 3, "upsampler": "pixelshuffle", "resi_connection": "3conv"},
        {**SWIN, "upscale": 2, "upsampler": "pixelshuffledirect", "patch_norm": False, "mlp_ratio": 4.0},
        {**SWIN, "upscale": 4, "upsampler": "nearest+conv", "qkv_bias": False},
        {**SWIN, "upscale": 1, "upsampler": "", "ape": True, "in_chans": 1},
        {**SWIN, "upscale": 1, "upsampler": "", "window_size": 7, "img_size": 28, "img_range": 255.0},
        {**SWIN, "upscale": 2, "upsampler": "pixelshuffledirect", "img_size": 4},
        {**SWIN, "upscale": 2, "upsampler": "pixelshuffledirect", "depths": [1, 1], "img_size": 64},
        NAFNET,
        {**NAFNET, "attention": "eca", "skip": "fft", "depthwise": "doconv"},
        {**NAFNET, "attention": "none", "img_channel": 1},
        {**NAFNET, "type": "Baseline", "dw_expand": 2, "ffn_expand": 1},
        {"type": "NAFNetSR", "up_scale": 3, "width": 8, "num_blks": 2},
        {"type": "NAFSSR", "up_scale": 2, "width": 8, "num_blks": 4, "fusion_from": 1, "fusion_to": 2},
        {"type": "VGGStyleDiscriminator", "num_feat": 4, "input_size": 256},
        {"type": "FMANet", "ffn_expansion_factor": 2.66, "num_seq": 3, "us_kernel_size": 5, "scale": 4, "stage": 2},
        {
            "type": "FMANet",
            "dim": 20,
            "num_seq": 5,
            "num_flow": 4,
            "num_heads": 2,
            "scale": 2,
            "LayerNorm_type": "BiasFree",
        },
        {
            "type": "FMANet",
            "dim": 12,
            "num_flow": 1,
            "scale": 3,
            "ds_kernel_size": 9,
            "us_kernel_size": 7,
            "bias": True,
        },
        {"type": "FMANet", "stage": 1, "num_RDB": 2, "growth_rate": 4, "num_dense_layer": 3, "num_FRMA": 2},
    ],
    ids=lambda option: "-".join(str(value) for value in option.values()),
)
def test_a_network_of_any_form_is_known_by_its_tensors(option: dict[str, Any]) -> None:
    shapes = shapes_of(option)
    deduced, _ = deduce_option(shapes)
    assert {key: deduced.get(key) for key in option} == option
    assert shapes_of(deduced) == shapes


def test_each_assumption_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vsr")
    network = vsr.build_network({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 2})
    deduce(network.state_dict(), source="net.pth")
    assert "net.pth: deduced from its tensors: EDSR(" in caplog.text
    assert "net.pth: assumed res_scale=1: " in caplog.text
    assert "img_range=255.0" in caplog.text


@pytest.mark.parametrize("act_type", ["relu", "leakyrelu"])
def test_two_networks_that_would_restore_differently_are_refused_by_name(act_type: str) -> None:
    network = vsr.build_network({"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2, "act_type": act_type})
    with pytest.raises(ValueError, match=r"^net\.pth: .*act_type relu and .* act_type leakyrelu .*Name the network"):
        deduce(network.state_dict(), source="net.pth")


def test_tensors_of_no_known_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^net\.pth: expected the tensors of a network that vsr knows, got a, b \(2"):
        deduce({"a": torch.zeros(1), "b": torch.zeros(1)}, source="net.pth")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_half_a_checkpoint_is_refused_or_gives_a_network_but_never_another_error(path: Path) -> None:
    _, shapes = manifest(path)
    for kept in (list(shapes)[::2], list(shapes)[: len(shapes) // 2], list(shapes)[len(shapes) // 2 :]):
        try:
            option, _ = deduce_option({name: shapes[name] for name in kept})
        except ValueError:
            continue
        assert option["type"] in NETWORKS.names()


def test_shapes_that_make_no_sense_are_refused() -> None:
    shapes = dict(shapes_of({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 2}))
    shapes["upsample.0.weight"] = (40, 8, 3, 3)
    with pytest.raises(ValueError, match="expected a square, got 5"):
        deduce_option(shapes)
    shapes["conv_first.weight"] = ()
    with pytest.raises(ValueError, match="Is the checkpoint complete"):
        deduce_option(shapes)


def test_the_form_of_2019_that_vsr_lacks_is_named() -> None:
    shapes = dict(shapes_of({"type": "EDVR", "num_feat": 8, "deformable_groups": 1}))
    shapes["conv_first_1.weight"] = shapes.pop("conv_first.weight")
    with pytest.raises(ValueError, match="HR_in but without predeblur"):
        deduce_option(shapes)


@pytest.mark.parametrize("name", ["EDVR_Crop5", "EDVR_NoPCD"])
def test_the_kind_of_a_memory_is_not_guessed(name: str) -> None:
    with pytest.raises(ValueError, match=r"MemoryEDVR: its tensors show neither the kind of its memory"):
        deduce_option(shapes_of({"type": name, "num_feat": 8, "deformable_groups": 2}))
