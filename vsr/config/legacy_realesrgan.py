"""Real-ESRGAN's recipes in BasicSR: a second-order degradation in some 30 keys, which is a list of stages here."""

import logging
from typing import Any

from vsr.config.legacy_moves import mapping
from vsr.config.reader import Mark, Node

log = logging.getLogger(__name__)

MODELS = ("RealESRGANModel", "RealESRNetModel")
_BLUR = ("blur_kernel_size", "kernel_list", "kernel_prob", "sinc_prob", "blur_sigma", "betag_range", "betap_range")
_NOISE = ("gaussian_noise_prob", "noise_range", "poisson_scale_range", "gray_noise_prob")
_USM = {"l1_gt_usm": "pixels", "percep_gt_usm": "features", "gan_gt_usm": "the discriminator", "gt_usm": "pixels"}


def translate_realesrgan(root: Node) -> None:
    """Rewrite such a file in place; each stage has a line in the log that names its keys."""
    datasets = root.get("datasets")
    dataset = datasets.get("train") if isinstance(datasets, Node) else None
    if root.get("model_type") not in MODELS or not isinstance(dataset, Node):
        return
    if dataset.get("type") == "RealESRGANDataset":
        log.info("%s: RealESRGANDataset is PairedImageDataset, which makes LQ from GT", dataset.where("type"))
        dataset["type"] = "PairedImageDataset"
    stages = [
        *_sharpening(root),
        _stage("RandomBlur", dataset, {key: key for key in _BLUR}),
        _stage("RandomResize", root, {key: key for key in ("resize_prob", "resize_range")}),
        _stage("Noise", root, {key: key for key in _NOISE}),
        _stage("JPEG", root, {"jpeg_range": "jpeg_range"}),
        _stage("RandomBlur", dataset, {key: f"{key}2" for key in _BLUR}, more={"prob": (root, "second_blur_prob")}),
        _stage("RandomResize", root, {key: f"{key}2" for key in ("resize_prob", "resize_range")}, relative_to="lq"),
        _stage("Noise", root, {key: f"{key}2" for key in _NOISE}),
        _last_stage(root, dataset),
    ]
    if "degradations" not in dataset:
        dataset.put("degradations", stages, dataset.mark)
    if "gt_size" in root:  # of the crop after the degradations; the set's own counts for nothing there
        size, mark = root.take("gt_size")
        dataset.put("gt_size", size, mark)
    if "queue_size" in root:
        _, mark = root.take("queue_size")
        log.info("%s: it is not used: each sample has its own degradations, so none need to be mixed", mark)


def _stage(
    kind: str, node: Node, keys: dict[str, str], *, more: dict[str, tuple[Node, str]] | None = None, **fixed: str
) -> Node:
    """Return the stage of those arguments that the file has: {argument: key of ``node``}."""
    taken: dict[str, tuple[Any, Mark]] = {}
    wanted = {name: (node, key) for name, key in keys.items()} | (more or {})
    for name, (where, key) in wanted.items():
        if key in where:
            taken[name] = where.take(key)
    mark = next((mark for _, mark in taken.values()), node.mark)
    if taken:
        names = ", ".join(wanted[name][1] for name in taken)
        log.info("%s: %s of datasets.train.degradations has %s", mark, kind, names)
    stage = mapping(mark, type=kind, **fixed)
    for name, (value, mark) in taken.items():
        stage.put(name, value, mark)
    return stage


def _last_stage(root: Node, dataset: Node) -> Node:
    """JPEG before or after the last resizing and the sinc filter."""
    sinc = _stage("SincFilter", dataset, {"prob": "final_sinc_prob"})
    jpeg = _stage("JPEG", root, {"jpeg_range": "jpeg_range2"})
    resize = mapping(sinc.mark, type="Resize", mode="random")
    return mapping(sinc.mark, type="Shuffle", groups=[[resize, sinc], [jpeg]])


def _sharpening(root: Node) -> list[Node]:
    """LQ of RealESRGANModel is made from sharpened GT in any case; GT is sharpened for all losses here, or for none."""
    net = root.get("model_type") == "RealESRNetModel"
    wanted = {key: root.take(key) for key in _USM if key in root}
    sharp = [_USM[key] for key, (value, _) in wanted.items() if value is not False]
    mark = next((mark for _, mark in wanted.values()), root.where("model_type"))
    if net and not sharp:
        return []
    if sharp and len(sharp) < len(wanted):
        other = ", ".join(_USM[key] for key, (value, _) in wanted.items() if value is False)
        log.warning("%s: GT is sharpened for all losses, also for %s: it is one image here", mark, other)
    log.info("%s: it is the stage USM of datasets.train.degradations", mark)
    stage = mapping(mark, type="USM")
    if not sharp and wanted:
        stage.put("gt", False, mark)
    return [stage]
