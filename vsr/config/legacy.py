"""Other spellings of an option file, turned into vsr's own: the only place that knows them.

BasicSR's and NAFNet's model types, their loss slots (``pixel_opt`` ...), and the keys of theirs that have
nothing to say to vsr.
"""

import logging
import re
from typing import Any

from vsr.config.legacy_sets import translate_sets
from vsr.config.reader import Mark, Node, show

log = logging.getLogger(__name__)

MODEL_TYPES = {
    "SRModel": "ImageModel",
    "SRGANModel": "ImageModel",
    "ESRGANModel": "ImageModel",
    "SwinIRModel": "ImageModel",
    "ImageRestorationModel": "ImageModel",
    "EDVRModel": "VideoModel",
    "VideoBaseModel": "VideoModel",
    "VideoRecurrentModel": "VideoModel",
    "VideoRecurrentGANModel": "VideoModel",
}

# Keys without a meaning here, and what vsr does instead. '*' stands for every key of that level.
_IGNORED = {
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
    "val.max_minibatch": "val.tile bounds the memory of large images",
    "val.use_image": "images are always measured as 8-bit numbers, as they are saved",
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
    if root.get("model_type") == "ImageRestorationModel":
        _read_as_nafnet(root)
        _clip_as_nafnet(root.get("train"), problems)
    elif over is not None and "use_grad_clip" in (root.get("train") or ()):
        _clip_as_nafnet(root["train"], problems)
    if root.get("model_type") == "ESRGANModel" and isinstance(root.get("train"), Node):
        mark = root.where("model_type")
        root["train"].put("relativistic", True, mark)
    _rename_model(root)
    _drop_ignored(root)
    translate_sets(root)
    _drop_grids(root, problems)
    _rename_flip(root, problems)
    for key in ("suffix", "save_img"):  # some files for testing have them at the top
        if key in root:
            _move_into(root, key, "val", key, problems)
    train = root.get("train")
    if isinstance(train, Node):
        _gather_freezing(train, (root if over is None else over).get("network_g"), problems)
        _gather_losses(train, problems)
        _gather_mixing(train, problems)
        for key, part in (("dcn_lr_mul", "dcn"), ("flow_lr_mul", "spynet")):
            if key in train:
                _move_into(train, key, "lr_mul", part, problems)


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


def _clip_as_nafnet(train: Any, problems: list[str]) -> None:
    """NAFNet's code bounds the gradient's norm, which its files do not show, unless they say use_grad_clip: false."""
    if not isinstance(train, Node):
        return
    clips, mark = train.take("use_grad_clip") if "use_grad_clip" in train else (True, train.where("clip_grad"))
    if not isinstance(clips, bool):
        problems.append(f"{mark}: expected true or false, got {show(clips)}. Or write clip_grad: {{norm: 0.01}}.")
    elif not clips and train.on_path:  # what the file has is taken away
        train.put("clip_grad", None, mark)
    elif clips and "clip_grad" not in train:
        log.info("%s: NAFNet's code has it without saying so, clip_grad: {norm: 0.01}", mark)
        train.put("clip_grad", _node(mark, norm=0.01), mark)


def _gather_freezing(train: Node, network: Any, problems: list[str]) -> None:
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
            phase = _node(mark, **{"except": ["fusion"]}, until=value)
        else:
            extractor = isinstance(network, Node) and network.get("type") == "IconVSR"  # it has an EDVR of its own
            phase = _node(mark, parts=["spynet", "edvr"] if extractor else ["spynet"], until=value)
        train.put("freeze", phase, mark)


def _node(mark: Mark, **entries: Any) -> Node:
    """Return a mapping all of whose keys have one mark."""
    node = Node(mark)
    for key, value in entries.items():
        node.put(key, value, mark)
    return node


def _drop_grids(root: Node, problems: list[str]) -> None:
    """NAFNet's ``val.grids`` is off in all its files; on, it needs sizes that are not those of ``val.tile``."""
    val = root.get("val")
    if isinstance(val, Node) and "grids" in val:
        value, mark = val.take("grids")
        if value is not False:
            problems.append(f"{mark}: expected false, got {show(value)}. Use val.tile, the side of the tiles, instead.")


def _rename_flip(root: Node, problems: list[str]) -> None:
    """``use_flip`` of NAFNet and of EDVR's last files is ``use_hflip``."""
    datasets = root.get("datasets")
    for dataset in datasets.values() if isinstance(datasets, Node) else ():
        if isinstance(dataset, Node) and "use_flip" in dataset:
            value, mark = dataset.take("use_flip")
            if "use_hflip" in dataset:
                problems.append(f"{mark}: expected one use_hflip, got a second. See {dataset.where('use_hflip')}.")
            else:
                dataset.put("use_hflip", value, mark)


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


def _gather_losses(train: Node, problems: list[str]) -> None:
    """``pixel_opt: {...}`` is ``losses: {pixel: {...}}``; a slot with nothing in it is no loss."""
    for key in [key for key in train if re.fullmatch(r"\w+_opt", key)]:
        if train[key] is None and not train.on_path:
            train.take(key)
        else:
            _move_into(train, key, "losses", key.removesuffix("_opt"), problems)


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
            stages.append(_node(mark, type="Mixup", alpha=settings.get("mixup_beta", 1.2), prob=prob))
        if "batch_augment" in train:
            problems.append(f"{mark}: expected either this or batch_augment, got both. Keep batch_augment.")
            continue
        if stages:
            train.put("batch_augment", stages, mark)


def _move_into(node: Node, key: str, section: str, name: str, problems: list[str]) -> None:
    """Make ``node[key]`` the entry ``name`` of the mapping ``node[section]``, under the mark that it has."""
    value, mark = node.take(key)
    target: Any = node.get(section)
    if target is None:
        target = Node(Mark(mark.source, node.mark.below(section).path, mark.line), on_path=node.on_path)
        node.put(section, target, target.mark)
    if not isinstance(target, Node):
        return  # the check of the section itself says so
    if name in target:
        problems.append(f"{mark}: expected one {section}.{name}, got a second. See {target.where(name)}.")
        return
    target.put(name, value, mark)
