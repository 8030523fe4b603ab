"""Keys that have had other names or places: BasicSR 1.0 to 1.3, its first form of 2020, EDVR's and mmsr's of 2019."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from vsr.config.reader import Mark, Node

log = logging.getLogger(__name__)

# Old path to new one; '*' stands for every key of that level. Sections come before what is in them.
MOVES = {
    "model": "model_type",
    "network_G": "network_g",
    "network_D": "network_d",
    "use_tb_logger": "logger.use_tb_logger",
    "suffix": "val.suffix",  # of files for testing
    "save_img": "val.save_img",
    "path.pretrain_model_g": "path.pretrain_network_g",
    "path.pretrain_model_G": "path.pretrain_network_g",
    "path.pretrain_model_d": "path.pretrain_network_d",
    "path.pretrain_model_D": "path.pretrain_network_d",
    "path.strict_load": "path.strict_load_g",
    "path.param_key": "path.param_key_g",  # NAFNet
    "datasets.*.dataroot_GT": "datasets.*.dataroot_gt",
    "datasets.*.dataroot_HR": "datasets.*.dataroot_gt",
    "datasets.*.dataroot_LQ": "datasets.*.dataroot_lq",
    "datasets.*.dataroot_LR": "datasets.*.dataroot_lq",
    "datasets.*.N_frames": "datasets.*.num_frame",
    "datasets.*.GT_size": "datasets.*.gt_size",
    "datasets.*.HR_size": "datasets.*.gt_size",
    "datasets.*.n_workers": "datasets.*.num_worker_per_gpu",
    "datasets.*.num_worker": "datasets.*.num_worker_per_gpu",
    "datasets.*.meta_info": "datasets.*.meta_info_file",  # Real-ESRGAN
    "datasets.*.use_flip": "datasets.*.use_hflip",  # NAFNet, too
    "train.manual_seed": "manual_seed",
    "train.val_freq": "val.val_freq",
    "train.niter": "train.total_iter",
    "train.ft_tsa_only": "train.tsa_iter",
    "train.fix_iter": "train.fix_flow",
    "train.D_update_ratio": "train.net_d_iters",
    "train.D_init_iters": "train.net_d_init_iters",
    "train.lr_G": "train.optim_g.lr",
    "train.lr_g": "train.optim_g.lr",
    "train.weight_decay_G": "train.optim_g.weight_decay",
    "train.weight_decay_g": "train.optim_g.weight_decay",
    "train.beta_g": "train.optim_g.betas",
    "train.lr_D": "train.optim_d.lr",
    "train.lr_d": "train.optim_d.lr",
    "train.weight_decay_D": "train.optim_d.weight_decay",
    "train.weight_decay_d": "train.optim_d.weight_decay",
    "train.beta_d": "train.optim_d.betas",
    "train.lr_steps": "train.scheduler.milestones",
    "train.lr_gamma": "train.scheduler.gamma",
    "train.T_period": "train.scheduler.periods",
    "train.eta_min": "train.scheduler.eta_min",
    "train.restart_weights": "train.scheduler.restart_weights",
    "train.pixel_weight": "train.pixel_opt.loss_weight",
    "train.feature_criterion": "train.perceptual_opt.criterion",
    "train.feature_weight": "train.perceptual_opt.perceptual_weight",
    "train.gan_type": "train.gan_opt.gan_type",
    "train.gan_weight": "train.gan_opt.loss_weight",
    "train.perceptual_opt.norm_img": "train.perceptual_opt.range_norm",
}


def move_keys(root: Node, problems: list[str]) -> None:
    """Move every key of the table that the file has, each with a line in the log."""
    for old, new in MOVES.items():
        move(root, old, new, problems)


def move(root: Node, old: str, new: str, problems: list[str], *, tell: bool = True) -> None:
    """Move what stands at path ``old`` below ``root`` to ``new``, under the mark that it has."""
    for path in _paths(root, old.split(".")):
        keys = [path[i] if key == "*" else key for i, key in enumerate(new.split("."))]
        node: Any = root
        for key in path[:-1]:
            node = node[key]
        value, mark = node.take(path[-1])
        if tell:
            log.info("%s: it is %s here", mark, ".".join(keys))
        put(root, keys, value, mark, problems)


def put(root: Node, keys: Sequence[str], value: Any, mark: Mark, problems: list[str]) -> None:
    """Make ``value`` the entry ``keys`` below ``root``, with the sections that are missing on the way."""
    node: Any = root
    for key in keys[:-1]:
        if node.get(key) is None:
            section = Node(Mark(mark.source, node.mark.below(key).path, mark.line), on_path=root.on_path)
            node.put(key, section, section.mark)
        node = node[key]
        if not isinstance(node, Node):
            return  # the check of the section itself says so
    if keys[-1] in node:
        name, there = ".".join(keys), node.where(keys[-1])
        problems.append(f"{mark}: expected one {name}, got a second. See {there}.")
    else:
        node.put(keys[-1], value, mark)


def mapping(mark: Mark, **entries: Any) -> Node:
    """Return a mapping all of whose keys have one mark."""
    node = Node(mark)
    for key, value in entries.items():
        node.put(key, value, mark)
    return node


def sets(root: Node) -> Iterator[Node]:
    """The sections of data sets, and those within mixed ones."""
    datasets = root.get("datasets")
    found = [entry for entry in (datasets.values() if isinstance(datasets, Node) else ()) if isinstance(entry, Node)]
    for dataset in found:
        yield dataset
        nested = dataset.get("datasets")
        yield from (part for part in (nested if isinstance(nested, list) else ()) if isinstance(part, Node))


def _paths(root: Node, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The paths below ``root`` that a pattern stands for."""
    found: list[tuple[tuple[str, ...], Any]] = [((), root)]
    for key in keys:
        found = [
            ((*path, name), node[name])
            for path, node in found
            if isinstance(node, Node)
            for name in (node if key == "*" else [key])
            if name in node
        ]
    return [path for path, _ in found]
