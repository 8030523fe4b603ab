"""Which network a checkpoint holds: read from the names and the shapes of its tensors.

Every family has one function. It returns what the tensors show as the network's arguments, and hands to ``assume``
what they cannot show.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

_ADVICE = 'Name the network: options={"type": ..., ...}, or the path of an option file.'


class _Assumed:
    """Collects what a family has to guess: ``assume(reason, argument=value, ...)``."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, reason: str, **values: Any) -> None:
        self.notes.append((reason, values))


def deduce(weights: Mapping[str, Tensor], *, source: str) -> dict[str, Any]:
    """Return the option ``{"type": ..., **arguments}`` of the network that ``weights`` belong to.

    Each argument that the tensors cannot show is logged, with the value it was given.

    Args:
        weights: Under vsr's names.
        source: Where they come from; starts the messages.

    Raises:
        ValueError: no network of vsr's has such names, or two have and would restore differently.
    """
    try:
        option, assumed = deduce_option({name: tuple(value.shape) for name, value in weights.items()})
    except ValueError as error:
        raise ValueError(f"{source}: {error} {_ADVICE}") from error
    arguments = ", ".join(f"{key}={value!r}" for key, value in option.items() if key != "type")
    log.info("%s: deduced from its tensors: %s(%s)", source, option["type"], arguments)
    if option["type"] in ("NAFSSR", "NAFNetSR"):
        log.info("%s: assumed bgr=False unless it was given: red is the first colour, as vsr trains", source)
    for reason, values in assumed:
        log.info("%s: assumed %s: %s", source, ", ".join(f"{k}={v!r}" for k, v in values.items()), reason)
    return option


def deduce_option(shapes: Shapes) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Return the option, and what of it was assumed: (reason, {argument: value})."""
    for marks, family in _FAMILIES:
        if all(any(re.match(mark, name) for name in shapes) for mark in marks):
            assumed = _Assumed()
            try:
                option = family(shapes, assumed)
            except (KeyError, IndexError, ZeroDivisionError) as error:
                name = family.__name__.removeprefix("_")
                raise ValueError(
                    f"expected all tensors of a network of the family '{name}', as the names suggest, "
                    f"got {len(shapes)} without {error}. Is the checkpoint complete?"
                ) from error
            for _, values in assumed.notes:
                option |= values
            return option, assumed.notes
    raise ValueError(
        f"expected the tensors of a network that vsr knows, got {', '.join(list(shapes)[:5])}"
        f"{' ...' if len(shapes) > 5 else ''} ({len(shapes)} in all)."
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the greatest number that the group of ``pattern`` matches at the start of a name, or 0."""
    return max((int(match[1]) + 1 for name in shapes if (match := re.match(pattern, name))), default=0)


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.search(pattern, name) for name in shapes)


def _root(number: int, what: str) -> int:
    root = math.isqrt(number)
    if root * root != number:
        raise ValueError(f"{what}: expected a square, got {number}.")
    return root


def _in_out(shapes: Shapes, first: str = "conv_first", last: str = "conv_last") -> dict[str, int]:
    return {"num_in_ch": shapes[f"{first}.weight"][1], "num_out_ch": shapes[f"{last}.weight"][0]}


# ---- video


def _edvr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    if "conv_first_1.weight" in shapes:
        raise ValueError("EDVR of 2019 with HR_in but without predeblur: vsr's EDVR has no such form.")
    tsa, predeblur = "fusion.temporal_attn1.weight" in shapes, "predeblur.conv_first.weight" in shapes
    num_feat, width, *_ = shapes["fusion.feat_fusion.weight" if tsa else "fusion.weight"]
    option = {
        "type": "EDVR",
        **_in_out(shapes, "predeblur.conv_first" if predeblur else "conv_first"),
        "num_feat": num_feat,
        "num_frame": width // num_feat,
        "deformable_groups": shapes["pcd_align.cas_dcnpack.conv_offset.weight"][0] // 27,  # 3 values for each of 9 taps
        "num_extract_block": _count(shapes, r"feature_extraction\.(\d+)\."),
        "num_reconstruct_block": _count(shapes, r"reconstruction\.(\d+)\."),
        "hr_in": "predeblur.stride_conv_hr1.weight" in shapes,
        "with_predeblur": predeblur,
        "with_tsa": tsa,
    }
    assume("the frame in the middle is restored", center_frame_idx=None)
    return option


def _memory_edvr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    del shapes, assume
    raise ValueError("MemoryEDVR: its tensors show neither the kind of its memory nor what it searches (crop, hops).")


def _basicvsr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    del assume  # its tensors show everything
    return {
        "type": "BasicVSR",
        "num_feat": shapes["fusion.weight"][0],
        "num_block": _count(shapes, r"backward_trunk\.main\.2\.(\d+)\."),
    }


def _iconvsr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    num_feat, width, *_ = shapes["edvr.fusion.feat_fusion.weight"]
    assume("IconVSR's recipes refill every fifth frame", keyframe_stride=5)
    return {
        "type": "IconVSR",
        "num_feat": num_feat,
        "num_block": _count(shapes, r"backward_trunk\.main\.2\.(\d+)\."),
        "temporal_padding": (width // num_feat - 1) // 2,
    }


def _basicvsrpp(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    assume("the greatest offset beyond the flow, as in all published networks", max_residue_magnitude=10)
    return {
        "type": "BasicVSRPlusPlus",
        "mid_channels": shapes["deform_align.backward_1.weight"][0],
        "num_blocks": _count(shapes, r"backbone\.backward_1\.main\.2\.(\d+)\."),
        "is_low_res_input": "feat_extract.main.0.weight" in shapes,
    }


def _spynet(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    del shapes, assume  # there is one size of it
    return {"type": "SpyNet"}


def _fmanet(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    net, restoring = "degradation_learning_network.", "restoration_network.res_conv1.weight" in shapes
    block = net + "FRMA_blocks.0.multi_attn_block.0."
    dim, in_channels, *_ = shapes[net + "feature_extractor.0.weight"]
    hidden = shapes[block + "ffn1.project_out.weight"][1]
    option: dict[str, Any] = {
        "type": "FMANet",
        "in_channels": in_channels,
        "dim": dim,
        "ds_kernel_size": _root(shapes[net + "d_conv.2.weight"][0], "d_conv.2: channels out"),
        "num_RDB": _count(shapes, re.escape(net) + r"feature_extractor\.2\.RDBs\.(\d+)\."),
        "growth_rate": shapes[net + "feature_extractor.2.RDBs.0.layer.0.conv.weight"][0],
        "num_dense_layer": _count(shapes, re.escape(net) + r"feature_extractor\.2\.RDBs\.0\.layer\.(\d+)\."),
        "num_flow": shapes[net + "f_conv.0.weight"][1] // 3,
        "num_FRMA": _count(shapes, re.escape(net) + r"FRMA_blocks\.(\d+)\."),
        "num_transformer_block": _count(shapes, re.escape(net) + r"FRMA_blocks\.0\.multi_attn_block\.(\d+)\."),
        "num_heads": shapes[block + "co_attn.temperature"][0],
        "LayerNorm_type": "WithBias" if block + "norm1.body.bias" in shapes else "BiasFree",
        "bias": net + "feature_extractor.0.bias" in shapes,
        "num_seq": dim // shapes[net + "d_conv.0.weight"][1],
        "stage": 2 if restoring else 1,
    }
    if int(dim * 2.66) == hidden:
        assume("factors near it give as many channels", ffn_expansion_factor=2.66)
    else:
        assume("factors near it give as many channels", ffn_expansion_factor=(hidden + 0.5) / dim)
    if not restoring:
        scale = 4 if option["ds_kernel_size"] % 2 == 0 else 3
        assume("Net^D alone, of stage 1, does not show by how much the network enlarges", scale=scale, us_kernel_size=5)
        return option
    steps = _root(shapes["restoration_network.upsample.conv1.weight"][0] // dim, "upsample.conv1: channels out / in")
    scale = steps**2 if "restoration_network.upsample.conv3.weight" in shapes else steps
    kernels = _root(shapes["restoration_network.r_conv.2.weight"][0], "r_conv.2: channels out")
    return {**option, "scale": scale, "us_kernel_size": kernels // scale}


# ---- images


def _msrresnet(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    del assume
    num_feat = shapes["conv_first.weight"][0]
    factor = _root(shapes["upconv1.weight"][0] // num_feat, "upconv1.weight: channels in / out")
    return {
        "type": "MSRResNet",
        **_in_out(shapes),
        "num_feat": num_feat,
        "num_block": _count(shapes, r"body\.(\d+)\."),
        "upscale": factor**2 if "upconv2.weight" in shapes else factor,
    }


def _upscale(shapes: Shapes, num_feat: int) -> int:
    """The factor of upsample.0, upsample.2 ... together: one with 4 times the channels doubles, one with 9 trebles."""
    steps = [shape[0] for name, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", name)]
    return math.prod(_root(step // num_feat, "upsample: channels in / out") for step in steps)


def _edsr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    num_feat, num_block = shapes["conv_first.weight"][0], _count(shapes, r"body\.(\d+)\.")
    if num_block >= 32:
        assume("EDSR's large networks (32 blocks) scale their residuals", res_scale=0.1)
    else:
        assume("EDSR's medium networks (16 blocks) do not scale their residuals", res_scale=1)
    _assume_colours(assume)
    upscale = _upscale(shapes, num_feat)
    return {"type": "EDSR", **_in_out(shapes), "num_feat": num_feat, "num_block": num_block, "upscale": upscale}


def _rcan(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    num_feat = shapes["conv_first.weight"][0]
    assume("RCAN's recipes do not scale residuals", res_scale=1)
    _assume_colours(assume)
    return {
        "type": "RCAN",
        **_in_out(shapes),
        "num_feat": num_feat,
        "num_group": _count(shapes, r"body\.(\d+)\."),
        "num_block": _count(shapes, r"body\.0\.residual_group\.(\d+)\."),
        "squeeze_factor": num_feat // shapes["body.0.residual_group.0.rcab.3.attention.1.weight"][0],
        "upscale": _upscale(shapes, num_feat),
    }


def _assume_colours(assume: _Assumed) -> None:
    reason = "the recipes of EDSR and RCAN work on [0, 255], around the mean colour of DIV2K"
    assume(reason, img_range=255.0, rgb_mean=[0.4488, 0.4371, 0.4040])


def _rrdbnet(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    channels = _in_out(shapes)
    seen, wanted = channels["num_in_ch"], channels["num_out_ch"]
    # x2 and x1 first fold 2x2 and 4x4 pixels into channels, and then enlarge by 4 as all do
    scale = {4 * wanted: 2, 16 * wanted: 1}.get(seen, 4)
    assume("the images have as many channels as the output where their number allows it", scale=scale)
    return {
        "type": "RRDBNet",
        "num_in_ch": seen if scale == 4 else wanted,
        "num_out_ch": wanted,
        "num_feat": shapes["conv_first.weight"][0],
        "num_block": _count(shapes, r"body\.(\d+)\."),
        "num_grow_ch": shapes["body.0.rdb1.conv1.weight"][0],
    }


def _srvgg(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    convs = sorted(int(name.split(".")[1]) for name, shape in shapes.items() if len(shape) == 4)
    if "body.1.weight" not in shapes:
        raise ValueError(
            "SRVGGNetCompact with act_type relu and with act_type leakyrelu both have these tensors, "
            "and would restore differently."
        )
    num_feat, num_in_ch, *_ = shapes["body.0.weight"]
    assume("the output has the channels of the input, whose enlargement it is added to", num_out_ch=num_in_ch)
    return {
        "type": "SRVGGNetCompact",
        "num_in_ch": num_in_ch,
        "num_feat": num_feat,
        "num_conv": len(convs) - 2,
        "upscale": _root(
            shapes[f"body.{convs[-1]}.weight"][0] // num_in_ch, "channels of the last convolution / input"
        ),
        "act_type": "prelu",
    }


def _swinir(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    embed_dim, in_chans, *_ = shapes["conv_first.weight"]
    first = "layers.0.residual_group.blocks.0."
    layers = range(_count(shapes, r"layers\.(\d+)\."))
    table = "attn.relative_position_bias_table"
    window_size = (_root(shapes[first + table][0], table) + 1) // 2
    option: dict[str, Any] = {
        "type": "SwinIR",
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [_count(shapes, rf"layers\.{i}\.residual_group\.blocks\.(\d+)\.") for i in layers],
        "num_heads": [shapes[f"layers.{i}.residual_group.blocks.0.{table}"][1] for i in layers],
        "window_size": window_size,
        "mlp_ratio": shapes[first + "mlp.fc1.weight"][0] / embed_dim,
        "qkv_bias": first + "attn.qkv.bias" in shapes,
        "ape": "absolute_pos_embed" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "resi_connection": "1conv" if "conv_after_body.weight" in shapes else "3conv",
        **_swinir_end(shapes, in_chans),
    }
    masks = [shape for name, shape in shapes.items() if name.endswith(".attn_mask")]
    if option["ape"]:
        option["img_size"] = _root(shapes["absolute_pos_embed"][1], "absolute_pos_embed")
    elif masks:
        option["img_size"] = _root(masks[0][0], "attn_mask: windows") * window_size
    elif max(option["depths"]) > 1:  # no window is shifted in an image of one window
        assume("no window is shifted", img_size=window_size)
    else:
        assume("the size of the training images has no effect on such a network", img_size=64)
    if option["upsampler"] == "" and window_size == 7:
        assume("SwinIR's networks with windows of 7 (JPEG artefacts) work on [0, 255]", img_range=255.0)
    else:
        assume("SwinIR's networks work on [0, 1], but those against JPEG artefacts", img_range=1.0)
    return option


def _swinir_end(shapes: Shapes, in_chans: int) -> dict[str, Any]:
    """SwinIR's upsampler, and its factor."""
    if "conv_up1.weight" in shapes:
        return {"upsampler": "nearest+conv", "upscale": 4 if "conv_up2.weight" in shapes else 2}
    if "conv_before_upsample.0.weight" in shapes:
        return {"upsampler": "pixelshuffle", "upscale": _upscale(shapes, shapes["conv_before_upsample.0.weight"][0])}
    if "upsample.0.weight" in shapes:
        return {"upsampler": "pixelshuffledirect", "upscale": _upscale(shapes, in_chans)}
    return {"upsampler": "", "upscale": 1}


# ---- NAFNet's family


def _nafnet(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    width, img_channel, *_ = shapes["intro.weight"]
    levels = range(_count(shapes, r"downs\.(\d+)\."))
    baseline = _any(shapes, r"\.se\.1\.")
    name = "Baseline" if baseline else "NAFNet"
    option = {
        "img_channel": img_channel,
        "width": width,
        "enc_blk_nums": [_count(shapes, rf"encoders\.{i}\.(\d+)\.") for i in levels],
        "middle_blk_num": _count(shapes, r"middle_blks\.(\d+)\."),
        "dec_blk_nums": [_count(shapes, rf"decoders\.{i}\.(\d+)\.") for i in levels],
    }
    if not baseline:
        option["attention"] = (
            "sca" if _any(shapes, r"\.sca\.1\.") else "eca" if _any(shapes, r"\.sca\.conv\.") else "none"
        )
        option["skip"] = "fft" if "skips.0.conv1.weight" in shapes else "identity"
        option["depthwise"] = "doconv" if _any(shapes, r"\.conv2\.W$") else "conv"
    else:
        block = next(name.removesuffix("beta") for name in shapes if name.endswith(".beta"))
        channels = shapes[f"{block}conv1.weight"][1]
        option["dw_expand"] = shapes[f"{block}conv1.weight"][0] // channels
        option["ffn_expand"] = shapes[f"{block}conv4.weight"][0] // channels
    assume(
        f"{name}Local has the same tensors, and averages over windows of 1.5 times its train_size instead of the whole "
        "image: the published results on GoPro and REDS are its. Pass options to have it",
        type=name,
    )
    return option


def _nafssr(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    width, channels, *_ = shapes["intro.weight"]
    num_blks = _count(shapes, r"body\.(\d+)\.")
    fused = [i for i in range(num_blks) if f"body.{i}.module.fusion.beta" in shapes]
    option: dict[str, Any] = {
        "up_scale": _root(shapes["up.0.weight"][0] // channels, "up.0.weight: channels out / of the image"),
        "width": width,
        "num_blks": num_blks,
        "img_channel": channels,
    }
    assume("these act in training only", drop_path_rate=0.0, drop_out_rate=0.0)
    if not fused:
        assume("a network without fusion of the views restores single images", dual=False)
        return {"type": "NAFNetSR", **option}
    if len(fused) < num_blks:
        option |= {"fusion_from": fused[0], "fusion_to": fused[-1]}
    assume("NAFNetSR with dual has the same tensors, but averages over the whole image", type="NAFSSR")
    assume("it averages over windows of 1.5 times the size of its training images", train_size=[1, 6, 30, 90])
    return option


# ---- discriminators


def _unet_discriminator(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    num_feat, num_in_ch, *_ = shapes["conv0.weight"]
    assume("as in Real-ESRGAN", skip_connection=True)
    return {"type": "UNetDiscriminatorSN", "num_in_ch": num_in_ch, "num_feat": num_feat}


def _vgg_discriminator(shapes: Shapes, assume: _Assumed) -> dict[str, Any]:
    del assume
    num_feat, num_in_ch, *_ = shapes["conv0_0.weight"]
    size = 256 if "conv5_0.weight" in shapes else 128
    return {"type": "VGGStyleDiscriminator", "num_in_ch": num_in_ch, "num_feat": num_feat, "input_size": size}


# The names that tell a family, as patterns; the first family all of whose patterns match a name is the one.
_FAMILIES: tuple[tuple[tuple[str, ...], Callable[[Shapes, _Assumed], dict[str, Any]]], ...] = (
    ((r"edvr\.pcd_align\.", r"backward_trunk\."), _iconvsr),
    ((r"deform_align\.", r"backbone\."), _basicvsrpp),
    ((r"backward_trunk\.", r"fusion\.weight"), _basicvsr),
    ((r"conv_hr\.", r"memory\.embed_q\."), _memory_edvr),
    ((r"pcd_align\.",), _edvr),
    ((r"degradation_learning_network\.feature_extractor\.",), _fmanet),
    ((r"basic_module\.0\.basic_module\.",), _spynet),
    ((r"intro\.", r"downs\."), _nafnet),
    ((r"intro\.", r"body\.0\.module\.blk\."), _nafssr),
    ((r"layers\.0\.residual_group\.blocks\.",), _swinir),
    ((r"body\.0\.residual_group\.0\.rcab\.",), _rcan),
    ((r"body\.0\.rdb1\.",), _rrdbnet),
    ((r"conv_first\.", r"upconv1\.", r"body\.0\.conv1\."), _msrresnet),
    ((r"conv_first\.", r"conv_after_body\.", r"body\.0\.conv1\."), _edsr),
    ((r"body\.0\.weight$", r"body\.2\.weight$"), _srvgg),
    ((r"conv1\.weight_orig$", r"conv9\."), _unet_discriminator),
    ((r"conv0_0\.", r"linear1\."), _vgg_discriminator),
)
