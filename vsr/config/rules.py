"""What the values of an option file must satisfy beyond their types, alone and together."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

import vsr.registry
from vsr.config.check import INVALID, Checker
from vsr.config.fmanet import check_fmanet
from vsr.config.legacy import MODEL_TYPES
from vsr.config.reader import Mark, Node, show
from vsr.config.schema import Component, Options, PathOptions, TrainOptions, key_of
from vsr.registry import suggest

MAX_NAME = 200  # bytes: file systems take 255, and the run folder's name grows when it is archived

# {key: (least, most)}, None: no bound. '*' stands for every name of that level.
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "scale": (1, None),
    "manual_seed": (0, 2**32 - 1),  # what numpy's generators take
    "datasets.*.batch_size_per_gpu": (1, None),
    "datasets.*.num_worker_per_gpu": (0, None),
    "datasets.*.dataset_enlarge_ratio": (1, None),
    "datasets.*.num_prefetch_queue": (1, None),
    "datasets.*.max_bad_samples": (0, None),
    "train.total_iter": (1, None),
    "train.warmup_iter": (-1, None),
    "train.lr_mul.*": (0, None),
    "train.max_bad_steps": (1, None),
    "train.accumulate": (1, None),
    "train.net_d_init_iters": (0, None),
    "train.net_d_iters": (1, None),
    "train.r1_reg_weight": (0, None),
    "train.net_d_reg_every": (1, None),
    "train.gp_weight": (0, None),
    "train.reference_batch": (1, None),
    "train.freeze.until": (1, None),
    "train.offset_watch.limit": (0, None),
    "train.on_divergence.lr_mul": (None, 1),
    "train.on_divergence.max_roll_backs": (1, None),
    "val.val_freq": (1, None),
    "val.val_at.*": (0, None),
    "val.chunk": (0, None),
    "val.chunk_overlap": (0, None),
    "val.tile": (0, None),
    "val.tile_overlap": (0, None),
    "logger.print_freq": (1, None),
    "logger.save_checkpoint_freq": (1, None),
    "logger.keep_last": (2, None),
    "logger.visdom.port": (1, 65535),
    "prediction.wsupervised": (0, None),
    "prediction.pictures": (1, None),
}
_ABOVE_ZERO = (
    "datasets.*.timeout", "dist.timeout", "train.clip_grad.norm", "train.clip_grad.value", "train.on_divergence.lr_mul",
    "logger.visdom.timeout",
)  # fmt: skip
_UPSCALE_ARGUMENTS = ("upscale", "up_scale", "scale")  # of networks, as their authors called them


class _Facts:
    """The options by key path, without the parts that are absent or did not pass; and where each stands."""

    def __init__(self, options: Options, root: Node) -> None:
        self.options, self.root = options, root

    def get(self, *path: str) -> Any:
        """The value at ``path``; None if it is absent or invalid."""
        value: Any = self.options
        for key in path:
            value = _entries(value).get(key)
        return None if value is INVALID else value

    def where(self, *path: str) -> Mark:
        """The mark of ``path``, or of the nearest thing around it that the file has."""
        node: Any = self.root
        mark = self.root.mark
        for key in path:
            below = _entries(node).get(key)
            if isinstance(node, Node):
                mark = node.where(key)
            else:  # a list
                mark = below.mark if isinstance(below, Node) else mark.below(int(key))
            if not isinstance(below, Node | list):
                break
            node = below
        return mark

    def by_default(self, *path: str) -> str:
        """The words ' by default' if the file does not say what stands at ``path``."""
        node: Any = self.root
        for key in path:
            node = _entries(node).get(key, INVALID)
        return " by default" if node is INVALID else ""

    def matching(self, pattern: str) -> list[tuple[str, ...]]:
        """The paths that a pattern with '*' stands for."""
        paths: list[tuple[str, ...]] = [()]
        for part in pattern.split("."):
            paths = [(*path, key) for path in paths for key in (_entries(self.get(*path)) if part == "*" else [part])]
        return paths


def _entries(value: Any) -> Mapping[str, Any]:
    """What lies below a section, a component or a mapping, by key; below a list, by number."""
    if isinstance(value, Component):
        return value.args
    if dataclasses.is_dataclass(value):
        entries = {key_of(f): getattr(value, f.name) for f in dataclasses.fields(value)}
        rest = next((f.name for f in dataclasses.fields(value) if f.metadata.get("rest")), None)
        if rest and isinstance(entries[rest], Component):
            entries = {**entries[rest].args, **entries}
        return entries
    if isinstance(value, list):
        return {str(number): entry for number, entry in enumerate(value)}
    return value if isinstance(value, Mapping) else {}


def check_rules(options: Options, root: Node, checker: Checker) -> None:
    """Add what breaks a rule to the checker's problems; parts that are invalid already are passed over."""
    facts = _Facts(options, root)
    rules = (_numbers, _names, _model_type, _sets, _crops, _frames, _upscale, _training, _adversary, _prediction)
    for rule in (*rules, _validation):
        rule(facts, checker)
    check_fmanet(facts, checker)


def _numbers(facts: _Facts, checker: Checker) -> None:
    for pattern, (least, most) in _BOUNDS.items():
        for path in facts.matching(pattern):
            value = facts.get(*path)
            if value is None:
                continue
            if least is not None and value < least:
                checker.add(facts.where(*path), f"expected {least} or more, got {show(value)}. Raise it.")
            elif most is not None and value > most:
                checker.add(facts.where(*path), f"expected {most} or less, got {show(value)}. Lower it.")
    for pattern in _ABOVE_ZERO:
        for path in facts.matching(pattern):
            value = facts.get(*path)
            if value is not None and value <= 0:
                checker.add(facts.where(*path), f"expected more than 0, got {show(value)}. Raise it.")
    decay = facts.get("train", "ema_decay")
    if decay is not None and not 0 <= decay < 1:
        text = f"expected 0 (no average) to below 1, got {show(decay)}. Try 0.999."
        checker.add(facts.where("train", "ema_decay"), text)


def _names(facts: _Facts, checker: Checker) -> None:
    """Names of runs and sets become names of folders; suffixes become part of file names."""
    for path in (("name",), *facts.matching("datasets.*.name")):
        value = facts.get(*path)
        if value is not None and (value or len(path) == 1) and not plain_name(value):
            wanted = f"the name of a folder: 1 to {MAX_NAME} bytes, no '/', '\\' or leading '.', '-', '~'"
            checker.add(facts.where(*path), f"expected {wanted}, got {show(value)}. Use letters, digits, '_' and '-'.")
    suffix = facts.get("val", "suffix")
    if suffix and not plain_name(f"x{suffix}"):
        text = f"expected a part of a file name, got {show(suffix)}. Leave out '/' and '\\'."
        checker.add(facts.where("val", "suffix"), text)


def plain_name(text: str) -> bool:
    """Whether ``text`` can be the name of a folder anywhere, and of one folder only."""
    if not text or len(text.encode()) > MAX_NAME or text != text.strip() or text[0] in ".-~":
        return False
    return re.search(r"[/\\\x00-\x1f\x7f]", text) is None


def _model_type(facts: _Facts, checker: Checker) -> None:
    name, known = facts.get("model_type"), vsr.registry.MODELS.names()
    if name is not None and name not in known:
        hint = suggest(name, [*known, *MODEL_TYPES])
        checker.add(facts.where("model_type"), f"expected the name of a model, got {show(name)}.{hint}")


def _sets(facts: _Facts, checker: Checker) -> None:
    sets = _entries(facts.get("datasets"))
    misnamed = [key for key in sets if key != "train" and not (key.startswith(("val", "test")) and plain_name(key))]
    for key in misnamed:
        close = difflib.get_close_matches(key, ["train", "val", "test"], n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "Rename it."
        text = f"expected 'train', or a plain name that begins with 'val' or 'test', got {show(key)}. {hint}"
        checker.add(facts.where("datasets", key), text)
    if facts.get("train") and facts.get("datasets") is not None and "train" not in sets and not misnamed:
        text = "expected a set 'train' for the section train, got none. Add datasets.train."
        checker.add(facts.where("datasets"), text)
    seen = {"report": "report.csv"}  # which has the totals of all sets
    for key in [key for key in sets if key != "train"]:
        name = facts.get("datasets", key, "name") or key
        if name in seen:
            text = (
                f"expected a name of its own, got {show(name)}, which '{seen[name]}' has too. Their results would mix."
            )
            checker.add(facts.where("datasets", key, "name"), text)
        seen.setdefault(name, key)
        if facts.get("datasets", key, "on_bad_sample") == "skip":
            text = "expected stop, got skip: a figure of fewer frames is not the set's. Repair or leave out the files."
            checker.add(facts.where("datasets", key, "on_bad_sample"), text)


def _crops(facts: _Facts, checker: Checker) -> None:
    scale = facts.get("scale")
    levels, sizes = ("datasets.*", "datasets.*.datasets.*"), ("gt_size", "gt_size_h", "gt_size_w")
    for path in [path for level in levels for name in sizes for path in facts.matching(f"{level}.{name}")]:
        size = facts.get(*path)
        if not isinstance(size, int):
            continue
        if size < 1:
            checker.add(facts.where(*path), f"expected 1 or more, got {size}. Raise it.")
        elif scale and scale > 0 and size % scale:
            near = max(1, round(size / scale)) * scale
            checker.add(facts.where(*path), f"expected a multiple of scale {scale}, got {size}. Use {near}.")


def _frames(facts: _Facts, checker: Checker) -> None:
    """A network for windows of n frames needs windows of n frames; -1 stands for whole clips."""
    own = "num_seq" if facts.get("network_g", "num_frame") is None else "num_frame"
    wanted = facts.get("network_g", own)
    if not isinstance(wanted, int):
        return
    for path in (*facts.matching("datasets.*.num_frame"), *facts.matching("datasets.*.datasets.*.num_frame")):
        value = facts.get(*path)
        if isinstance(value, int) and value > 0 and value != wanted:
            wants = f"{wanted}{facts.by_default('network_g', own)}"
            text = f"expected {wants}, as network_g.{own}, got {value}{facts.by_default(*path)}. Change one of them."
            checker.add(facts.where(*path), text)


def _upscale(facts: _Facts, checker: Checker) -> None:
    scale = facts.get("scale")
    for argument in _UPSCALE_ARGUMENTS if scale and scale > 0 else ():
        path = ("network_g", argument)
        value = facts.get(*path)
        if isinstance(value, int) and not isinstance(value, bool) and value != scale:
            text = f"expected scale {scale}, got {value}{facts.by_default(*path)}. Change one of the two."
            checker.add(facts.where(*path), text)


# What a line of log.jsonl holds beside the losses.
_LOG_COLUMNS = {"step", "lr", "total", "grad_norm", "time", "data_time", "memory", "keys", "val"}
_LOG_COLUMNS |= {"restored", "d_real", "d_fake", "out_d_real", "out_d_fake", "r1", "gp"}


def _training(facts: _Facts, checker: Checker) -> None:
    if facts.get("train", "losses") == {}:
        text = "expected at least one loss, got none. Add for example losses: {pixel: {type: CharbonnierLoss}}."
        checker.add(facts.where("train", "losses"), text)
    for name in facts.get("train", "losses") or {}:
        if name in _LOG_COLUMNS:
            text = f"expected a name of its own for the loss, got '{name}', a column of log.jsonl. Choose another one."
            checker.add(facts.where("train", "losses", name), text)
        elif not plain_name(name):
            text = f"expected a plain name for the loss, got {show(name)}. Leave out '/' and the like."
            checker.add(facts.where("train", "losses", name), text)
        if facts.get("train", "losses", name, "reduction") == "none":
            text = "expected 'mean' or 'sum', as training wants one number, got 'none'. Choose one."
            checker.add(facts.where("train", "losses", name, "reduction"), text)
    if facts.get("train", "scale_iterations") and facts.get("train", "reference_batch") is None:
        text = "expected reference_batch beside it, the samples a step that the file is meant for, got none. Add it."
        checker.add(facts.where("train", "scale_iterations"), text)
    if facts.get("train") is not None:
        pair = {"network_d": ("network_d",), "train.optim_d": ("train", "optim_d")}
        there = [key for key, path in pair.items() if facts.get(*path) is not None]
        if len(there) == 1:
            missing = next(key for key in pair if key not in there)
            text = f"expected {missing} beside it, got none. Add it, or leave {there[0]} out."
            checker.add(facts.where(*pair[there[0]]), text)
    if facts.get("train", "freeze", "pretrained") and facts.get("path", "pretrain_network_g") is None:
        text = "expected path.pretrain_network_g beside it, got none: what is frozen would stay random. Add it."
        checker.add(facts.where("train", "freeze"), text)
    clip = facts.get("train", "clip_grad")
    if clip is not None and clip.norm is None and clip.value is None:
        text = "expected norm, value or both, got neither. Set one, or leave clip_grad out."
        checker.add(facts.where("train", "clip_grad"), text)


# What means something beside a discriminator only.
_OF_ADVERSARY = [("path", "pretrain_network_d")]
_OF_ADVERSARY += [("train", key) for key in ("net_d_init_iters", "net_d_iters", "relativistic", "r1_reg_weight")]
_OF_ADVERSARY += [("train", "gp_weight")]


def _adversary(facts: _Facts, checker: Checker) -> None:
    train = facts.get("train")
    if train is None:
        return
    if facts.get("network_d") is None:
        defaults = {
            field.name: field.default for kind in (PathOptions, TrainOptions) for field in dataclasses.fields(kind)
        }
        for path in _OF_ADVERSARY:
            if facts.get(*path) not in (None, defaults[path[1]]):
                checker.add(facts.where(*path), "expected network_d beside it, got none. Add it, or leave this out.")
        return
    for name, loss in (facts.get("train", "losses") or {}).items():
        if facts.get("train", "relativistic") and "gan_type" in _entries(loss) and loss.args["gan_type"] == "hinge":
            text = (
                "expected another form than hinge beside train.relativistic, got hinge: network_g would learn nothing "
                "from it, as its two halves cancel. Use vanilla or lsgan."
            )
            checker.add(facts.where("train", "losses", name, "gan_type"), text)
    total, alone, every = (facts.get("train", key) for key in ("total_iter", "net_d_init_iters", "net_d_iters"))
    if None not in (total, alone, every) and every > 0 and total // every * every <= alone:
        text = f"expected a step in which network_g learns among the {total} of total_iter, got none"
        text += f" (net_d_init_iters {alone}, net_d_iters {every}). Lower it."
        checker.add(facts.where("train", "net_d_init_iters" if alone >= total else "net_d_iters"), text)


def _prediction(facts: _Facts, checker: Checker) -> None:
    if facts.get("model_type") != "PredictionModel":
        if facts.get("prediction") is not None:
            text = "expected model_type PredictionModel beside it, got another one. Leave it out."
            checker.add(facts.where("prediction"), text)
        return
    if facts.get("prediction", "wsupervised"):
        for key, useless in (("memory_size", 1), ("input_size", 1), ("hops", 0)):
            if facts.get("network_g", key) == useless:
                text = f"expected 0 beside network_g.{key}: {useless}, which leaves no choice. Set one of the two."
                checker.add(facts.where("prediction", "wsupervised"), text)
    for path in facts.matching("datasets.*.input_size"):
        wanted, value = facts.get("network_g", "input_size"), facts.get(*path)
        if isinstance(wanted, int) and isinstance(value, int) and wanted != value:
            wants = f"{wanted}{facts.by_default('network_g', 'input_size')}"
            text = f"expected {wants}, network_g.input_size, got {value}{facts.by_default(*path)}. Change one of them."
            checker.add(facts.where(*path), text)
    unused: dict[tuple[str, ...], Any] = {("val", "tile"): 0, ("val", "self_ensemble"): False}
    unused |= {("network_d",): None, ("train", "batch_augment"): []}
    for path, none in unused.items():
        if facts.get(*path) not in (None, none):
            checker.add(facts.where(*path), "expected none for model_type PredictionModel, which has no use for it.")


def _validation(facts: _Facts, checker: Checker) -> None:
    for path in facts.matching("val.metrics.*.better"):
        better = facts.get(*path)
        if better is not None and better not in ("higher", "lower"):
            checker.add(facts.where(*path), f"expected 'higher' or 'lower', got {show(better)}. Use one of them.")
    for clips in ("flip_seq", "center_frame_only"):
        model_type = facts.get("model_type")
        if facts.get("val", clips) and model_type in ("ImageModel", "StereoModel"):
            text = f"expected false for model_type {model_type}, which knows no clips, got true. Leave it out."
            checker.add(facts.where("val", clips), text)
    sets = [key for key in _entries(facts.get("datasets")) if key != "train"]
    for key, known in (("set", sets), ("metric", list(_entries(facts.get("val", "metrics"))))):
        name = facts.get("val", "best", key)
        if name is not None and name not in known:
            there = f"one of {', '.join(known)}" if known else "none, as there are none"
            text = f"expected {there}, got {show(name)}.{suggest(name, known)}"
            checker.add(facts.where("val", "best", key), text)
    for whole in ("tile", "chunk"):
        size, overlap = facts.get("val", whole), facts.get("val", f"{whole}_overlap")
        if size and overlap is not None and 0 < size <= overlap:
            text = f"expected less than val.{whole} {size}, got {overlap}. Lower it, or enlarge the {whole}."
            checker.add(facts.where("val", f"{whole}_overlap"), text)
