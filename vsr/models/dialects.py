"""The names that other frameworks give to the parameters of networks that vsr has, and vsr's names for them.

vsr's own names are BasicSR's and NAFNet's. Every other dialect is a table of patterns, applied to each name one after
the other.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from vsr.models import fmanet_weights

# A pattern and what takes its place: a template as in re.sub, or a function of the match.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# mmediting, mmagic and the repositories that grew from them: EDVRNet, BasicVSRNet, IconVSRNet, BasicVSRPlusPlusNet
# and their SPyNet. A layer with an activation is a module there, which holds the convolution as '.conv'.
# Their MSRResNet is left alone: it has no activation after its upsampling, and so is another network.
_OPENMMLAB_MARK = r"feat_l2_conv1\.conv\.|(spynet\.)?basic_module\.0\.basic_module\.0\.conv\."
_OPENMMLAB: tuple[Rule, ...] = (
    # the activations between SpyNet's convolutions count in BasicSR: 0, 2, 4, 6, 8
    (r"basic_module\.(\d)\.conv\.(?=weight|bias)", lambda m: f"basic_module.{2 * int(m[1])}."),
    (r"\bfeat_l(\d)_conv(\d)\.conv\.", r"conv_l\1_\2."),
    (r"\bpcd_alignment\.", "pcd_align."),
    (r"\.conv\.(?=(weight|bias)$)", "."),
    (r"\bupsample(\d)\.upsample_conv\.", r"upconv\1."),
    (r"\b(backward|forward)_resblocks\.", r"\1_trunk."),
)

# The code published with EDVR in 2019 (xinntao/EDVR, branch old_version).
_EDVR_2019_MARK = r"pcd_align\.L3_offset_conv1\."
_EDVR_2019: tuple[Rule, ...] = (
    (r"^pre_deblur\.conv_first_1\.", "predeblur.conv_first."),
    (r"^pre_deblur\.conv_first_2\.", "predeblur.stride_conv_hr1."),
    (r"^pre_deblur\.conv_first_3\.", "predeblur.stride_conv_hr2."),
    (r"^pre_deblur\.deblur_L(\d)_conv\.", r"predeblur.stride_conv_l\1."),
    (r"^pre_deblur\.RB_L1_(\d)\.", lambda m: f"predeblur.resblock_l1.{int(m[1]) - 1}."),
    (r"^pre_deblur\.RB_L2_(\d)\.", r"predeblur.resblock_l2_\1."),
    (r"^pre_deblur\.RB_L3_1\.", "predeblur.resblock_l3."),
    (r"^pre_deblur\.", "predeblur."),
    (r"^fea_L(\d)_conv(\d)\.", r"conv_l\1_\2."),
    (r"^pcd_align\.L(\d)_offset_conv(\d)\.", r"pcd_align.offset_conv\2.l\1."),
    (r"^pcd_align\.L(\d)_dcnpack\.", r"pcd_align.dcn_pack.l\1."),
    (r"^pcd_align\.L(\d)_fea_conv\.", r"pcd_align.feat_conv.l\1."),
    (r"\.conv_offset_mask\.", ".conv_offset."),
    # 2019's first convolution sees all frames and its second the reference; BasicSR's are the other way round
    (r"^tsa_fusion\.tAtt_1\.", "fusion.temporal_attn2."),
    (r"^tsa_fusion\.tAtt_2\.", "fusion.temporal_attn1."),
    (r"^tsa_fusion\.fea_fusion\.", "fusion.feat_fusion."),
    (r"^tsa_fusion\.sAtt_L(\d)\.", r"fusion.spatial_attn_l\1."),
    (r"^tsa_fusion\.sAtt_add_(\d)\.", r"fusion.spatial_attn_add\1."),
    (r"^tsa_fusion\.sAtt_(\d)\.", r"fusion.spatial_attn\1."),
    (r"^tsa_fusion\.", "fusion."),
    (r"^recon_trunk\.", "reconstruction."),
    (r"^HRconv\.", "conv_hr."),
)

# ESRGAN's RRDBNet and MSRResNet of 2019 (xinntao/ESRGAN, and BasicSR before version 1.0).
_RRDB_2019_MARK = r"RRDB_trunk\."
_RRDB_2019: tuple[Rule, ...] = (
    (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
)
_SRRESNET_2019_MARK = r"recon_trunk\."
_SRRESNET_2019: tuple[Rule, ...] = ((r"^recon_trunk\.", "body."), (r"^HRconv\.", "conv_hr."))

# name, what tells it, its rules; the first that is told by a name of the checkpoint is the one
_DIALECTS = (
    ("OpenMMLab", re.compile(_OPENMMLAB_MARK), _OPENMMLAB),
    ("EDVR of 2019", re.compile(_EDVR_2019_MARK), _EDVR_2019),
    ("RRDBNet of 2019", re.compile(_RRDB_2019_MARK), _RRDB_2019),
    ("MSRResNet of 2019", re.compile(_SRRESNET_2019_MARK), _SRRESNET_2019),
)

# What DataParallel, DistributedDataParallel and torch.compile put before a name.
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.)+")
# OpenMMLab saves the whole trainer: the network is one part of it, its average another.
_PARTS = ("generator_ema.", "generator.")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # SpyNet's, of an RGB image in [0, 1]


def unwrap(name: str) -> str:
    """Return a parameter's name without what wrappers of a module put before it."""
    prefix = _WRAPPERS.match(name)
    return name[prefix.end() :] if prefix else name


def translate(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return a network's tensors under vsr's names, and what was translated ('' where nothing was).

    Args:
        weights: The tensors under the names that a checkpoint has.
    """
    found: list[str] = []
    weights = dict(weights)
    part = next((part for part in _PARTS if any(name.startswith(part) for name in weights)), None)
    if part is not None:
        network = {unwrap(name.removeprefix(part)): value for name, value in weights.items() if name.startswith(part)}
        network.pop("steps", None)  # counts the updates of the average
        others = sorted({name.partition(".")[0] for name in weights if not name.startswith(part)})
        found.append(f"its part '{part[:-1]}'" + (f", without {', '.join(others)}" if others else ""))
        weights = network
    for dialect, mark, rules in _DIALECTS:
        if any(mark.match(name) for name in weights):
            weights = _renamed(weights, rules)
            found.append(f"the names of {dialect}")
            break
    if "basic_module.0.basic_module.0.weight" in weights and "mean" not in weights:
        weights["mean"] = torch.tensor(_MEAN).view(1, 3, 1, 1)
        weights["std"] = torch.tensor(_STD).view(1, 3, 1, 1)
        found.append("SpyNet's mean and std, which the file leaves out")
    return weights, "; ".join(found)


def red_first(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make of NAFSSR's, NAFNetSR's or FMANet's tensors, trained on blue, green, red, those of one for red, green, blue.

    Of the first two only the first and the last convolution know colours; their pixel shuffle keeps each colour's
    channels together.
    """
    first = weights.get("degradation_learning_network.feature_extractor.0.weight")
    if first is not None and first.shape[1] == 3:
        return fmanet_weights.red_first(weights)
    ends = {"intro.weight": 1, "up.0.weight": 0, "up.0.bias": 0}
    if not ends.keys() <= weights.keys() or weights["intro.weight"].shape[1] != 3:
        raise ValueError(
            "bgr: expected a NAFSSR, NAFNetSR or FMANet of colour images, got another network. Leave bgr out."
        )
    turned = {
        name: weights[name].unflatten(axis, (3, -1)).flip(axis).flatten(axis, axis + 1) for name, axis in ends.items()
    }
    return {**weights, **turned}


def _renamed(weights: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
