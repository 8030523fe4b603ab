"""Other spellings of an option file, turned into vsr's own: this and the other ``legacy_*`` are all that knows them.

BasicSR's and NAFNet's model types, their loss slots (``pixel_opt`` ...), and the keys of theirs that have
nothing to say to vsr. Older files first become BasicSR's of today: ``legacy_moves``, ``legacy_2019``.
"""

import logging
import re
from typing import Any

import vsr.registry
from vsr.config.legacy_2019 import refuse_overrides, translate_2019, translate_batches
from vsr.config.legacy_memory import translate_mode
from vsr.config.legacy_moves import mapping, move, move_keys
from vsr.config.legacy_realesrgan import MODELS as REALESRGAN_MODELS
from vsr.config.legacy_realesrgan import translate_realesrgan
from vsr.config.legacy_sets import translate_sets
from vsr.config.reader import Node, OptionError, show

log = logging.getLogger(__name__)

MODEL_TYPES = {
    "SRModel": "ImageModel",
    "SRGANModel": "ImageModel",
    "ESRGANModel": "ImageModel",
    "SwinIRModel": "ImageModel",
    "ImageRestorationModel": "ImageModel",
    "EDVRModel": "VideoModel",
    **dict.fromkeys(REALESRGAN_MODELS, "ImageModel"),
    "VideoBaseModel": "VideoModel",
    "VideoGANModel": "VideoModel",
    "VideoRecurrentModel": "VideoModel",
    "VideoRecurrentGANModel": "VideoModel",
    "BasicVSRModel": "VideoModel",
}

# Networks of BasicSR that vsr does not have: what they are for, and those of vsr that are nearest.
ABSENT = {
    "DUF": ("video super-resolution by dynamic filters", ["EDVR", "BasicVSR"]),
    "TOFlow": ("video super-resolution along flow", ["EDVR", "BasicVSR"]),
    "ECBSR": ("fast super-resolution", ["SRVGGNetCompact", "EDSR"]),
    "RIDNet": ("denoising", ["NAFNet", "SwinIR"]),
    "DFDNet": ("restoration of faces", ["RRDBNet"]),
    "HiFaceGAN": ("restoration of faces", ["RRDBNet"]),
    "StyleGAN2Generator": ("making faces from noise", ["RRDBNet"]),
    "sr_resnet": ("super-resolution, with batch norm", ["MSRResNet"]),
}

# Keys without a meaning here, and what vsr does instead. '*' stands for every key of that level.
_IGNORED = {
    "distortion": "scale says it",
    "gpu_ids": "CUDA_VISIBLE_DEVICES chooses, and torchrun's --nproc_per_node counts",
    "set_CUDA_VISIBLE_DEVICES": "CUDA_VISIBLE_DEVICES chooses, and torchrun's --nproc_per_node counts",
    "num_gpu": "the number of processes is torchrun's --nproc_per_node; one process uses the GPU if there is one",
    "dist_params": "torchrun gives address and port; the backend is nccl on GPUs and gloo on CPUs",
    "find_unused_parameters": "not needed: every parameter of vsr's networks takes part in a step",
    "datasets.*.prefetch_mode": "the training loader always prefetches, num_prefetch_queue batches for each worker",
    "datasets.*.use_shuffle": "training sets are always shuffled, the others never",
    "datasets.*.pin_memory": "memory is pinned where there is a GPU",
    "datasets.*.io_backend.db_paths": "LMDBs are named by the dataroots",
    "datasets.*.io_backend.client_keys": "LMDBs are named by the dataroots",
    "datasets.*.io_backend.readonly": "LMDBs are always opened for reading only",
    "datasets.*.io_backend.lock": "reading needs no lock",
    "datasets.*.io_backend.readahead": "the system reads ahead only in LMDBs that fit into memory",
    "datasets.*.persistent_workers": "the workers of a training set live as long as the run",
    "val.pbar": "progress is shown on the screen of the first process",
    "val.trans_num": "no code has ever read it",
    "val.rgb2bgr": "the order of channels is known",
    "val.max_minibatch": "val.tile bounds the memory of large images",
    "val.use_image": "images are always measured as 8-bit numbers, as they are saved",
    "train.val_func": "model_type says it",
    "train.perceptual_opt.scale": "images are in [0, 1]",
    "path.ignore_resume_networks": "resume_state is one file, and says what belongs to it",
    "network_d.syncbn": "each process normalises by its own batch",
    "crop_border": "each metric has its own, val.metrics.NAME.crop_border",
    "logger.wandb": "records go to log.jsonl, and to TensorBoard with logger.use_tb_logger",
}


def translate(root: Node, problems: list[str], *, over: Node | None = None) -> None:
    """Rewrite an option file, or a part of one, in place into the vocabulary of ``schema.py``.

    Args:
        root: The file, or the mapping that an override stands for.
        problems: Receives what cannot be translated.
        over: Of an override: the translated file that it is put over.
    """
    if over is not None:
        refuse_overrides(root, problems)
    translate_batches(root, problems)
    move_keys(root, problems)
    if root.get("manual_seed", 0) is None:
        _, mark = root.take("manual_seed")
        log.info("%s: null is the default, 0: a run is always repeatable", mark)
    translate_2019(root, problems)
    translate_realesrgan(root)
    _drop_unmeasured(root)
    if over is None:
        _count_reference_batch(root)
    train = root.get("train")
    merges = over is not None and isinstance(train, Node) and train.on_path
    below = over.get("train") if over is not None and merges else None  # what the override's train merges into
    if root.get("model_type") == "ImageRestorationModel":
        _read_as_nafnet(root)
        _clip_as_nafnet(train, below, problems)
    elif over is not None and isinstance(train, Node) and "use_grad_clip" in train:
        _clip_as_nafnet(train, below, problems)
    if root.get("model_type") == "ESRGANModel" and isinstance(train, Node):
        log.info("%s: its losses are train.relativistic: true", root.where("model_type"))
        train.put("relativistic", True, root.where("model_type"))
    dialect = (
        str(root.get("model_type")) in MODEL_TYPES
    )  # vsr's own files use the same spellings, of which nobody is told
    _rename_model(root)
    _rename_discriminator(root)
    _drop_ignored(root)
    translate_sets(root)
    _translate_grids(root, problems)
    _mend_edvr(root, problems)
    if dialect:
        _mend_rcan(root)
    translate_mode(root, problems, over=over)
    if isinstance(train, Node):
        _gather_freezing(train, (root if over is None else over).get("network_g"), problems, tell=dialect)
        _gather_rates(train, below, problems, tell=dialect)
        _gather_losses(train, problems, tell=dialect)
        _gather_mixing(train, problems)
        _mend_schedule(train)


def refuse_absent(root: Node) -> None:
    """Stop at a network that vsr does not have, before every other key of the file is a mistake, too.

    Raises:
        OptionError: it is one of BasicSR's, and no module of ``imports`` may bring it.
    """
    network = root.get("network_g")
    name = network.get("type") if isinstance(network, Node) else None
    if not isinstance(name, str) or name not in ABSENT or root.get("imports") or name in vsr.registry.NETWORKS.names():
        return
    purpose, nearest = ABSENT[name]
    mark = network.where("type") if isinstance(network, Node) else root.mark
    raise OptionError([f"{mark}: expected a network of vsr, got '{name}' ({purpose}). Nearest: {', '.join(nearest)}."])


def _drop_unmeasured(root: Node) -> None:
    """NIQE needs no ground truth, and is in a few of BasicSR's files beside PSNR."""
    val = root.get("val")
    metrics = val.get("metrics") if isinstance(val, Node) else None
    if not isinstance(metrics, Node) or "calculate_niqe" in vsr.registry.METRICS.names():
        return
    for name, metric in list(metrics.items()):
        if isinstance(metric, Node) and metric.get("type") == "calculate_niqe":
            _, mark = metrics.take(name)
            log.warning("%s: calculate_niqe is left out: vsr does not have it", mark)


def _count_reference_batch(root: Node) -> None:
    """GPUs times samples of each is the batch that the numbers of steps are meant for."""
    train, datasets, gpus = root.get("train"), root.get("datasets"), root.get("num_gpu")
    dataset = datasets.get("train") if isinstance(datasets, Node) else None
    samples = dataset.get("batch_size_per_gpu") if isinstance(dataset, Node) else None
    if not isinstance(train, Node) or "reference_batch" in train or type(gpus) is not int or type(samples) is not int:
        return
    if gpus > 1 and samples > 0:
        mark = root.where("num_gpu")
        log.info("%s: with batch_size_per_gpu: %d it is train.reference_batch: %d", mark, samples, gpus * samples)
        train.put("reference_batch", gpus * samples, mark)


def _read_as_nafnet(root: Node) -> None:
    """The model type is NAFNet's alone, for images and pairs, and its calculate_ssim has a default of its own."""
    datasets = root.get("datasets")
    sets = datasets.values() if isinstance(datasets, Node) else ()
    if any(isinstance(dataset, Node) and dataset.get("type") == "PairedStereoImageDataset" for dataset in sets):
        log.info("%s: ImageRestorationModel of stereo pairs is vsr's StereoModel", root.where("model_type"))
        root["model_type"] = "StereoModel"
    val = root.get("val")
    metrics = val.get("metrics") if isinstance(val, Node) else None
    for metric in metrics.values() if isinstance(metrics, Node) else ():
        if isinstance(metric, Node) and metric.get("type") == "calculate_ssim" and "ssim3d" not in metric:
            mark = metric.where("type")
            log.info("%s: calculate_ssim of NAFNet files has the 3-D window, ssim3d: true", mark)
            metric.put("ssim3d", True, mark)


def _clip_as_nafnet(train: Any, below: Any, problems: list[str]) -> None:
    """NAFNet's code bounds the gradient's norm, which its files do not show, unless they say use_grad_clip: false.

    ``below`` is the section that an override's merges into: a bound that is there stays.
    """
    if not isinstance(train, Node):
        return
    clips, mark = train.take("use_grad_clip") if "use_grad_clip" in train else (True, train.where("clip_grad"))
    if not isinstance(clips, bool):
        problems.append(f"{mark}: expected true or false, got {show(clips)}. Or write clip_grad: {{norm: 0.01}}.")
    elif not clips and train.on_path:  # what the file has is taken away
        train.put("clip_grad", None, mark)
    elif isinstance(below, Node) and below.get("clip_grad") is not None:
        log.info("%s: it is on: clip_grad stays as it is", mark)
    elif clips and "clip_grad" not in train:
        log.info("%s: NAFNet's code has it without saying so, clip_grad: {norm: 0.01}", mark)
        train.put("clip_grad", mapping(mark, norm=0.01), mark)


def _gather_freezing(train: Node, network: Any, problems: list[str], *, tell: bool) -> None:
    """EDVR's ``tsa_iter`` and BasicVSR's ``fix_flow`` are phases of train.freeze; null or 0 is none."""
    for key in [key for key in ("tsa_iter", "fix_flow") if key in train]:
        value, mark = train.take(key)
        if value is None or value == 0:
            if train.on_path:  # what the file has is taken away
                train.put("freeze", None, mark)
            continue
        if train.get("freeze") is not None:
            problems.append(f"{mark}: expected either this or freeze, got both. Keep freeze.")
            continue
        if key == "tsa_iter":
            phase = mapping(mark, **{"except": ["fusion"]}, until=value)
        else:
            extractor = isinstance(network, Node) and network.get("type") == "IconVSR"  # it has an EDVR of its own
            phase = mapping(mark, parts=["spynet", "edvr"] if extractor else ["spynet"], until=value)
        if tell:
            log.info("%s: it is train.freeze: {%s}", mark, ", ".join(f"{k}: {show(v)}" for k, v in phase.items()))
        train.put("freeze", phase, mark)


def _translate_grids(root: Node, problems: list[str]) -> None:
    """NAFNet's ``val.grids`` cuts GT into crops of one size that overlap and are averaged: val.tile, in LQ pixels."""
    val = root.get("val")
    if not isinstance(val, Node):
        return
    sizes = {}
    for key in ("crop_size_h", "crop_size_w", "crop_size_h_ratio", "crop_size_w_ratio"):
        if key in val:
            sizes[key], mark = val.take(key)
            log.info("%s: it belongs to val.grids, which is val.tile here", mark)
    if "grids" not in val:
        return
    value, mark = val.take("grids")
    height, width, scale = sizes.get("crop_size_h"), sizes.get("crop_size_w"), root.get("scale", 1)
    if value is False:
        return
    if value is not True or not all(type(size) is int and size > 0 for size in (height, width, scale)):
        problems.append(f"{mark}: expected false, got {show(value)}. Use val.tile, the side of the tiles, instead.")
        return
    tile = max(1, min(height, width) // scale)  # type: ignore[type-var]  # checked above
    log.info("%s: crops of %d x %d of GT are val.tile: %d", mark, height, width, tile)
    val.put("tile", tile, mark)
    if tile <= 32 and "tile_overlap" not in val:
        val.put("tile_overlap", tile // 2, mark)


def _mend_edvr(root: Node, problems: list[str]) -> None:
    """A few of BasicSR's files have arguments that its EDVR does not take: of the average, and by an older name."""
    network = root.get("network_g")
    if isinstance(network, Node) and network.get("type") == "EDVR":
        move(root, "network_g.ema_decay", "train.ema_decay", problems)
        move(root, "network_g.predeblur", "network_g.with_predeblur", problems)


def _mend_rcan(root: Node) -> None:
    """BasicSR's file of RCAN for scale 2 names the network for scale 4."""
    network = root.get("network_g")
    if isinstance(network, Node) and (network.get("type"), network.get("upscale"), root.get("scale")) == ("RCAN", 4, 2):
        log.info("%s: it is 2, as the scale says", network.where("upscale"))
        network["upscale"] = 2


def _mend_schedule(train: Node) -> None:
    """BasicSR has one class under two names; here MultiStepLR is without restarts."""
    scheduler = train.get("scheduler")
    if isinstance(scheduler, Node) and scheduler.get("type") == "MultiStepLR" and "restarts" in scheduler:
        log.info("%s: with restarts it is MultiStepRestartLR", scheduler.where("type"))
        scheduler["type"] = "MultiStepRestartLR"


def _rename_discriminator(root: Node) -> None:
    network = root.get("network_d")
    name = network.get("type") if isinstance(network, Node) else None
    if isinstance(network, Node) and name in ("VGGStyleDiscriminator128", "VGGStyleDiscriminator256"):
        mark, size = network.where("type"), int(name[-3:])
        log.info("%s: it is VGGStyleDiscriminator with input_size: %d", mark, size)
        network["type"] = "VGGStyleDiscriminator"
        network.put("input_size", size, mark)


def _rename_model(root: Node) -> None:
    name = root.get("model_type")
    if isinstance(name, str) and name in MODEL_TYPES:
        log.info("%s: %s is vsr's %s", root.where("model_type"), name, MODEL_TYPES[name])
        root["model_type"] = MODEL_TYPES[name]


def _drop_ignored(root: Node) -> None:
    for pattern, instead in _IGNORED.items():
        *parents, key = pattern.split(".")
        nodes = [root]
        for parent in parents:
            children = [node.values() if parent == "*" else [node.get(parent)] for node in nodes]
            nodes = [child for group in children for child in group if isinstance(child, Node)]
        taken = [node.take(key) for node in nodes if key in node]
        if taken:  # one line for a key, however many sections have it
            value, mark = taken[0]
            log.info("%s: %s is not used: %s", mark, show(value), instead)


def _gather_rates(train: Node, below: Any, problems: list[str], *, tell: bool) -> None:
    """``dcn_lr_mul`` and ``flow_lr_mul`` are factors, ``lr_flow`` a rate of its own, which counts with fix_flow.

    ``below`` is the section that an override's merges into: its phase and its rate count.
    """
    if "lr_flow" in train:
        rate, mark = train.take("lr_flow")
        whole = below if isinstance(below, Node) else train
        optimizer = whole.get("optim_g")
        base = optimizer.get("lr") if isinstance(optimizer, Node) else None
        if whole.get("freeze") is None:
            log.info("%s: it is not used: it counts beside fix_flow only", mark)
        elif isinstance(base, int | float) and base > 0 and isinstance(rate, int | float):
            log.info("%s: of optim_g.lr, %g, it is flow_lr_mul: %g", mark, base, rate / base)
            train.put("flow_lr_mul", rate / base, mark)
        else:
            problems.append(f"{mark}: expected a rate beside optim_g.lr, got {show(rate)}. Use flow_lr_mul, a factor.")
    for key, part in (("dcn_lr_mul", "dcn"), ("flow_lr_mul", "spynet")):
        move(train, key, f"lr_mul.{part}", problems, tell=tell)


def _gather_losses(train: Node, problems: list[str], *, tell: bool) -> None:
    """``pixel_opt: {...}`` is ``losses: {pixel: {...}}``; a slot with nothing in it is no loss."""
    slots = [key for key in train if re.fullmatch(r"\w+_opt", key)]
    if "ldl_opt" in slots and train["ldl_opt"] is not None:
        _, mark = train.take("ldl_opt")
        log.warning("%s: it is left out: vsr has no loss that is weighted by LDL's map of artifacts", mark)
        slots.remove("ldl_opt")
    for key in slots:
        if train[key] is None and not train.on_path:
            train.take(key)
        else:
            move(train, key, f"losses.{key.removesuffix('_opt')}", problems, tell=tell)


def _gather_mixing(train: Node, problems: list[str]) -> None:
    """Restormer's ``mixing_augs: {mixup, mixup_beta, use_identity}`` and NAFNet's ``mixup: true`` are batch_augment.

    With use_identity every second batch stays as it is.
    """
    for key in [key for key in ("mixing_augs", "mixup") if key in train]:
        value, mark = train.take(key)
        settings = {"mixup": value} if key == "mixup" else value
        settings = {"mixup": False} if settings is None else settings
        kinds: dict[str, Any] = {"mixup": bool, "mixup_beta": (int, float), "use_identity": bool}
        if not isinstance(settings, dict) or any(not isinstance(v, kinds.get(k, ())) for k, v in settings.items()):
            wanted = "mixup: true or false" if key == "mixup" else "{mixup: true, mixup_beta: 1.2, use_identity: true}"
            problems.append(f"{mark}: expected {wanted}, got {show(value)}. Or write batch_augment.")
            continue
        stages = []
        if settings.get("mixup", False):
            prob = 0.5 if settings.get("use_identity", False) else 1.0
            stages.append(mapping(mark, type="Mixup", alpha=settings.get("mixup_beta", 1.2), prob=prob))
        if "batch_augment" in train:
            problems.append(f"{mark}: expected either this or batch_augment, got both. Keep batch_augment.")
            continue
        if stages:
            train.put("batch_augment", stages, mark)
