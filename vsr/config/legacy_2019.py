"""Option files of EDVR's and mmsr's code of 2019, and of BasicSR's first form of 2020: what is more than a new name.

The keys that only have another name here are in the table of ``legacy_moves``, which is applied before, and leaves the
arguments of networks alone: they are the network's own.
"""

import logging
from itertools import accumulate
from typing import Any

from vsr.config.legacy_moves import mapping, move, put
from vsr.config.reader import Node, show

log = logging.getLogger(__name__)

_MODELS = {
    "sr": "SRModel",
    "srgan": "SRGANModel",
    "srragan": "ESRGANModel",
    "video_base": "EDVRModel",
    "VideoSR_base": "EDVRModel",
    "VSR_base": "EDVRModel",
}
_SETS = {
    "LQGT": "PairedImageDataset",
    "LRHR": "PairedImageDataset",
    "LQ": "SingleImageDataset",
    "LR": "SingleImageDataset",
    "REDS": "REDSDataset",
    "Vimeo90K": "Vimeo90KDataset",
    "video_test": "VideoTestDataset",
}
_NETWORKS = {
    "RRDB_net": "RRDBNet",
    "discriminator_vgg_128": "VGGStyleDiscriminator",
    "discriminator_vgg_256": "VGGStyleDiscriminator",
}
_ARGUMENTS = {
    "which_model_G": "type",
    "which_model_D": "type",
    "in_nc": "num_in_ch",
    "out_nc": "num_out_ch",
    "nf": "num_feat",
    "nb": "num_block",
    "gc": "num_grow_ch",
    "nframes": "num_frame",
    "groups": "deformable_groups",
    "front_RBs": "num_extract_block",
    "back_RBs": "num_reconstruct_block",
    "center": "center_frame_idx",
    "predeblur": "with_predeblur",
    "HR_in": "hr_in",
    "w_TSA": "with_tsa",
}
# Arguments with which networks of today are built anyway, by the only values that mean the same.
_FIXED: dict[str, tuple[Any, ...]] = {
    "mode": ("CNA",),
    "group": (1,),
    "act_type": ("leakyrelu",),
    "norm_type": (None, "batch"),  # the discriminators have it, the networks that restore do not
}
_SCHEDULES = {
    "MultiStepLR_Restart": "MultiStepRestartLR",
    "CosineAnnealingLR_Restart": "CosineAnnealingRestartLR",
}
_CRITERIA = {"l1": "L1Loss", "l2": "MSELoss", "cb": "CharbonnierLoss"}
_BOTH = ("network_g", "network_d")

# Keys whose meaning depends on the rest of the file, and those of vsr that say what an override alone cannot.
_ALONE = {
    "pixel_criterion": "train.losses.pixel, with type, reduction and eps",
    "gan_type": "train.losses.gan.gan_type and train.relativistic",
    "restart_weights": "train.scheduler.restart_weights, which begin with that of the first period",
    **dict.fromkeys(("beta1", "beta2", "beta1_G", "beta2_G"), "train.optim_g.betas, which has both"),
    **dict.fromkeys(("beta1_D", "beta2_D"), "train.optim_d.betas, which has both"),
}


def refuse_overrides(root: Node, problems: list[str]) -> None:
    """Take the keys out of an override that mean something only beside others; to be called before keys are moved."""
    train = root.get("train")
    if not isinstance(train, Node):
        return
    for key in [key for key in train if key in _ALONE]:
        _, mark = train.take(key)
        problems.append(f"{mark}: expected vsr's own key in an override, got {key} of 2019. Use {_ALONE[key]}.")


def translate_batches(root: Node, problems: list[str]) -> None:
    """The batch of that time is the sum over all GPUs; to be called before keys are moved, which tell that time."""
    gpus = root.get("gpu_ids") if "gpu_ids" in root else root.get("num_gpu")
    count = max(1, len(gpus)) if isinstance(gpus, list) else gpus if isinstance(gpus, int) and gpus > 0 else 1
    datasets = root.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, Node) else ():
        if not isinstance(dataset, Node) or "batch_size" not in dataset:
            continue
        if not ("gpu_ids" in root or "n_workers" in dataset or "num_worker" in dataset):
            continue
        value, mark = dataset.take("batch_size")
        if not isinstance(value, int) or isinstance(value, bool) or value % count:
            text = f"expected a multiple of the {count} GPUs of the file, got {show(value)}. Write batch_size_per_gpu."
            problems.append(f"{mark}: {text}")
            continue
        log.info("%s: of all GPUs, %d; it is batch_size_per_gpu: %d", mark, count, value // count)
        put(dataset, ["batch_size_per_gpu"], value // count, mark, problems)
        if name == "train" and isinstance(root.get("train"), Node):
            put(root, ["train", "reference_batch"], value, mark, problems)


def translate_2019(root: Node, problems: list[str]) -> None:
    """Rewrite in place what such a file, or an override for one, says in its own way, into BasicSR's 1.4."""
    old = any(isinstance(root.get(key), Node) and f"which_model_{key[-1].upper()}" in root[key] for key in _BOTH)
    if old:
        for key in _BOTH:
            if isinstance(root.get(key), Node):
                _network(root[key], root.get("scale"), problems)
        _sets(root, problems)
    _rename(root, "model_type", _MODELS)
    train = root.get("train")
    if isinstance(train, Node):
        _optimizers(train, problems)
        _schedule(train, problems)
        _pixel_loss(train, root.get("model_type"), problems)
        _other_losses(root, train, problems)
    if old and "metrics" not in (root.get("val") or ()):
        _metrics(root, problems)


def _rename(node: Node, key: str, names: dict[str, str]) -> None:
    value = node.get(key)
    if isinstance(value, str) and value in names:
        log.info("%s: %s is %s", node.where(key), value, names[value])
        node[key] = names[value]


def _network(network: Node, scale: Any, problems: list[str]) -> None:
    for old, new in _ARGUMENTS.items():
        move(network, old, new, problems, tell=False)
    log.info("%s: its arguments have the names of today: %s", network.mark, ", ".join(network))
    for key, meant in _FIXED.items():
        if key in network:
            value, mark = network.take(key)
            if value not in meant:
                text = f"expected {' or '.join(map(show, meant))}, as in all networks here, got {show(value)}."
                problems.append(f"{mark}: {text} Name another network.")
    if network.get("type") == "discriminator_vgg_256":
        network.put("input_size", 256, network.where("type"))
    if "scale" in network and network["scale"] == scale and network.get("type") != "RRDBNet":
        network.take("scale")  # the old loader wrote it there
    _rename(network, "type", _NETWORKS)
    if network.get("type") == "RRDBNet":
        move(network, "upscale", "scale", problems, tell=False)


def _sets(root: Node, problems: list[str]) -> None:
    datasets = root.get("datasets")
    for dataset in datasets.values() if isinstance(datasets, Node) else ():
        if not isinstance(dataset, Node):
            continue
        if isinstance(dataset.get("mode"), str) and dataset["mode"].endswith("_mc"):
            log.info("%s: there is no memcached here; the files are read", dataset.where("mode"))
            dataset["mode"] = dataset["mode"].removesuffix("_mc")
        move(dataset, "mode", "type", problems, tell=False)
        _rename(dataset, "type", _SETS)
        if dataset.get("padding") == "new_info":
            log.info("%s: new_info is reflection_circle", dataset.where("padding"))
            dataset["padding"] = "reflection_circle"
        for key, meant, instead in (
            ("color", "RGB", "images are RGB"),
            ("border_mode", False, "windows are filled up within the clip"),
        ):
            value, mark = dataset.take(key) if key in dataset else (meant, None)
            if value != meant:
                problems.append(f"{mark}: expected {show(meant)}, got {show(value)}. Leave it out: {instead}.")
        for key in ("cache_keys", "subset_file"):
            if dataset.get(key) is None or key == "cache_keys":
                _drop(dataset, key, "the roots are searched for what there is")
        move(dataset, "subset_file", "meta_info_file", problems)
        for key in ("data_type", "phase", "scale", "reverse", "dataroot_ref", "dataroot_HR_bg", "metric_mode"):
            _drop(dataset, key, "it follows from the other keys")
        _crops(root, dataset)


def _crops(root: Node, dataset: Node) -> None:
    """Crops of one size for LQ and GT are EDVR's deblurring, where the scale counted for nothing."""
    size = dataset.get("LQ_size")
    if "LQ_size" in dataset:
        _drop(dataset, "LQ_size", "it follows from gt_size and scale")
    if size is not None and size == dataset.get("gt_size") and root.get("scale") != 1:
        log.info("%s: LQ and GT are of one size: it is 1", root.where("scale"))
        root.put("scale", 1, root.where("scale"))


def _drop(node: Node, key: str, instead: str) -> None:
    if key in node:
        _, mark = node.take(key)
        log.info("%s: it is not used: %s", mark, instead)


def _optimizers(train: Node, problems: list[str]) -> None:
    """Adam was the only one. Its second beta was PyTorch's 0.999 where the file has none."""
    for which, keys in {"g": (("beta1_G", "beta2_G"), ("beta1", "beta2")), "d": (("beta1_D", "beta2_D"),)}.items():
        for first, second in keys:
            if first not in train:
                continue
            beta, mark = train.take(first)
            other = train.take(second)[0] if second in train else 0.999
            log.info("%s: it is optim_%s.betas: [%s, %s]", mark, which, show(beta), show(other))
            put(train, [f"optim_{which}", "betas"], [beta, other], mark, problems)
        optimizer = train.get(f"optim_{which}")
        if isinstance(optimizer, Node) and "type" not in optimizer and not train.on_path:
            optimizer.put("type", "Adam", optimizer.mark)


def _schedule(train: Node, problems: list[str]) -> None:
    """``restarts`` are the ends of all periods but the last; ``restart_weights`` begin with the second period."""
    if "clear_state" in train:
        clears, mark = train.take("clear_state")
        if clears:
            log.warning("%s: it is not used: a restart keeps the state of the optimizer", mark)
        else:
            log.info("%s: it is not used: a restart always keeps the state of the optimizer", mark)
    if "lr_scheme" not in train:
        return
    kind, mark = train.take("lr_scheme")
    kind = _SCHEDULES.get(kind, kind) if isinstance(kind, str) else kind
    log.info("%s: it is scheduler.type: %s", mark, show(kind))
    put(train, ["scheduler", "type"], kind, mark, problems)
    scheduler = train.get("scheduler")
    if not isinstance(scheduler, Node):
        return
    restarts, mark = train.take("restarts") if "restarts" in train else (None, mark)
    if kind == "CosineAnnealingRestartLR":
        periods, weights = scheduler.get("periods"), scheduler.get("restart_weights")
        if not isinstance(periods, list) or not all(type(period) is int for period in periods):
            return
        if restarts is not None and restarts != list(accumulate(periods))[:-1]:
            problems.append(f"{mark}: expected the sums of T_period {show(periods)}, got {show(restarts)}. Correct it.")
        if weights is None or (isinstance(weights, list) and len(weights) == len(periods) - 1):
            at = scheduler.where("restart_weights" if weights is not None else "periods")
            log.info("%s: restart_weights begin with that of the first period, 1", at)
            scheduler.put("restart_weights", [1, *(weights or [1] * (len(periods) - 1))], at)
    elif restarts:  # MultiStepLR
        weights = scheduler.get("restart_weights") or [1] * (len(restarts) if isinstance(restarts, list) else 0)
        if not isinstance(restarts, list) or not isinstance(weights, list):
            problems.append(f"{mark}: expected a list, and one of restart_weights, got {show(restarts)}. Correct them.")
            return
        log.info("%s: with restarts it is MultiStepRestartLR", mark)
        scheduler["type"] = "MultiStepRestartLR"
        scheduler.put("restarts", [0, *restarts], mark)
        scheduler.put("restart_weights", [1, *weights], mark)
    else:
        _drop(scheduler, "restart_weights", "there are no restarts")


def _pixel_loss(train: Node, model: Any, problems: list[str]) -> None:
    """``cb`` is a sum with a constant of its own; models of videos summed the other two as well."""
    if "pixel_criterion" not in train:
        return
    name, mark = train.take("pixel_criterion")
    kind = _CRITERIA.get(name, name) if isinstance(name, str) else name
    summed = name == "cb" or model == "EDVRModel"
    entries: dict[str, Any] = {"type": kind, "reduction": "sum" if summed else "mean"}
    if name == "cb":
        entries["eps"] = 1e-6
    log.info("%s: it is pixel_opt: {%s}", mark, ", ".join(f"{key}: {value}" for key, value in entries.items()))
    for key, value in entries.items():
        put(train, ["pixel_opt", key], value, mark, problems)


def _other_losses(root: Node, train: Node, problems: list[str]) -> None:
    """The features were always those of VGG19 before its last ReLU; a weight of 0 switched a loss off."""
    for slot, weight, entries in (
        ("pixel_opt", "loss_weight", {}),
        ("perceptual_opt", "perceptual_weight", {"type": "PerceptualLoss"}),
        ("gan_opt", "loss_weight", {"type": "GANLoss"}),
    ):
        loss = train.get(slot)
        if not isinstance(loss, Node) or train.on_path or (entries and "type" in loss):
            continue
        for key, value in entries.items():
            loss.put(key, value, loss.mark)
        if loss.get(weight) == 0:
            log.info("%s: it is 0: no such loss", loss.where(weight))
            train.take(slot)
        elif slot == "perceptual_opt":
            loss.put("layer_weights", mapping(loss.mark, conv5_4=1), loss.mark)
        elif slot == "gan_opt":
            _gan_type(root, loss, problems)


def _gan_type(root: Node, loss: Node, problems: list[str]) -> None:
    name, mark = loss.get("gan_type"), loss.where("gan_type")
    if name == "wgan-gp":
        problems.append(f"{mark}: expected gan, ragan or lsgan, got 'wgan-gp'. Use gan_type: wgan_softplus with R1.")
    elif name in ("gan", "ragan"):
        relativistic = " and relativistic" if name == "ragan" else ""
        log.info("%s: %s is vanilla%s", mark, name, relativistic)
        loss["gan_type"] = "vanilla"
        if relativistic:
            root["model_type"] = "ESRGANModel"


def _metrics(root: Node, problems: list[str]) -> None:
    """That code measured PSNR without being asked: of images less a border of ``scale`` pixels, of frames whole."""
    video = root.get("model_type") == "EDVRModel"
    border = root.get("crop_border")
    if not isinstance(border, int):
        border = 0 if video or not isinstance(root.get("scale"), int) else root["scale"]
    mark = root.where("model_type")
    log.info("%s: val.metrics are PSNR with a border of %d pixels, which that code measured", mark, border)
    psnr = mapping(mark, type="calculate_psnr", crop_border=border, test_y_channel=False)
    put(root, ["val", "metrics", "psnr"], psnr, mark, problems)
