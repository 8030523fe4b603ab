"""What option files of FMA-Net must satisfy, and what its publication measures."""

from typing import Any

from vsr.config.check import Checker
from vsr.config.legacy_moves import mapping
from vsr.config.reader import Node, show
from vsr.registry import suggest

# The terms of its loss, by stage; see vsr.models.fmanet.
_OF_NET_D = ("recon", "hr_warp", "flow", "D_TA")
FMANET_LOSSES = {1: _OF_NET_D, 2: ("output", "lr_warp", "R_TA", *_OF_NET_D)}

# What is measured, and over what a total is the mean, as a publication has it.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "FMANet": {
        "totals": "frames",
        "metrics": {
            "psnr": {"type": "calculate_psnr", "crop_border": 4},
            "psnr_y": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True},
            "ssim": {"type": "calculate_ssim", "crop_border": 4},
            "tof": {"type": "calculate_tof"},
        },
    }
}


def expand_protocol(root: Node) -> None:
    """Replace ``val.protocol`` by what it stands for, before what the file itself says, which goes first.

    The key is gone then: read again, it would bring back a metric that the file takes out.
    """
    val = root.get("val")
    protocol = PROTOCOLS.get(str(val.get("protocol"))) if isinstance(val, Node) else None
    own = val.get("metrics") if isinstance(val, Node) else None
    if not isinstance(val, Node) or protocol is None or not isinstance(own, Node | None):
        return
    _, mark = val.take("protocol")
    metrics = Node(own.mark if own is not None else mark)
    for name, metric in protocol["metrics"].items():
        metrics.put(name, mapping(mark, **metric), mark)
    for name, metric in (own or {}).items():
        assert own is not None
        metrics.put(name, metric, own.where(name))
    val.put("metrics", metrics, val.where("metrics"))
    if "totals" not in val:
        val.put("totals", protocol["totals"], mark)


def check_fmanet(facts: Any, checker: Checker) -> None:
    """Add what breaks a rule of FMA-Net to the checker's problems."""
    is_model, network = facts.get("model_type") == "FMANetModel", facts.get("network_g")
    if network is not None and (network.type == "FMANet") != is_model and facts.get("model_type") is not None:
        text = "expected model_type FMANetModel and network_g.type FMANet together, got one of them. Change the other."
        checker.add(facts.where("model_type"), text)
        return
    stage = facts.get("network_g", "stage")
    if not is_model or stage not in FMANET_LOSSES:
        return
    _check_losses(facts, stage, checker)
    if facts.get("train", "batch_augment"):
        text = "expected none for FMA-Net, whose GT, sharp LQ and flow they do not know. Leave it out."
        checker.add(facts.where("train", "batch_augment"), text)
    if facts.get("network_d") is not None:
        checker.add(facts.where("network_d"), "expected none for model_type FMANetModel. Leave it out.")
    for key in ("compare_bicubic", "self_ensemble"):
        if stage == 1 and facts.get("val", key):
            text = "expected false in stage 1, which makes blurred LQ frames of sharp ones, got true. Leave it out."
            checker.add(facts.where("val", key), text)


def _check_losses(facts: Any, stage: int, checker: Checker) -> None:
    """Every term is there, if only with a weight of 0, but for flow; so every parameter has a gradient."""
    if facts.get("train") is None:
        return
    losses, known = facts.get("train", "losses") or {}, FMANET_LOSSES[stage]
    for name in losses:
        if name not in known:
            text = f"expected a term of FMA-Net's loss in stage {stage}, got {show(name)}.{suggest(name, known)}"
            checker.add(facts.where("train", "losses", name), text)
    missing = [name for name in known if name not in losses and name != "flow"]
    if losses and missing:
        text = f"expected all terms of FMA-Net's loss in stage {stage}, {', '.join(missing)} missing."
        checker.add(facts.where("train", "losses"), f"{text} Add them; loss_weight: 0 switches one off.")
