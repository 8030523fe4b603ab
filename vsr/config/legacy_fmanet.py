"""FMA-Net's experiment.cfg, an INI file whose every key its code wants, as a file of vsr."""

import configparser
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsr.config.reader import Mark, Node, OptionError, parse, show

log = logging.getLogger(__name__)

SAMPLES = 266 * 98  # of REDS without REDS4: windows of 3 in clips of 100 frames
_HALVED = (0.65, 0.9, 0.95, 0.975)  # parts of the epochs after which the rate is halved
_SECTIONS = ("experiment", "training", "network", "validation", "test")
_UNUSED = {
    "training.gpu": "CUDA_VISIBLE_DEVICES chooses",
    "training.log_dir": "logs are in the run folder",
    "training.finetuning": "the same command goes on with a run that was interrupted",
    "training.need_patch": "no code has ever read it",
    "test.custom_path": "name a set of its own under datasets: dataroot_lq without dataroot_gt, padding: reflection",
}
_USED = {
    "experiment": ("seed",),
    "training": (
        "dataset_path", "save_dir", "nThreads", "batch_size", "lr", "num_epochs", "save_train_img", "patch_size",
        "scale", "stage", "num_seq", "lr_warping_loss_weight", "hr_warping_loss_weight", "flow_loss_weight",
        "D_TA_loss_weight", "R_TA_loss_weight", "Net_D_weight",
    ),
    "validation": ("val_period",),
}  # fmt: skip


def read_cfg(path: str | Path) -> Node:
    """Read an experiment.cfg; return what it says in vsr's vocabulary, each translation with a line in the log.

    Raises:
        FileNotFoundError: there is no such file.
        OptionError: it is no such file, or a key is missing or no value for it.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: expected an option file, found nothing there. Check the path.")
    ini = configparser.ConfigParser(interpolation=None)
    ini.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    try:
        text = file.read_text(encoding="utf-8-sig")
        ini.read_string(text, str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise OptionError([f"{path}: expected FMA-Net's experiment.cfg, could not read it: {reason}."]) from error
    reader = _Reader(str(path), ini, text.splitlines())
    root = reader.translated()
    if reader.problems:
        raise OptionError(dict.fromkeys(reader.problems))
    return root


class _Reader:
    def __init__(self, source: str, ini: configparser.ConfigParser, lines: list[str]) -> None:
        self.source, self.ini, self.lines = source, ini, lines
        self.problems: list[str] = []

    def mark(self, section: str, key: str = "") -> Mark:
        """Return where a key, or a section, stands."""
        inside, path = "", f"{section}.{key}" if key else section
        for number, line in enumerate(self.lines, 1):
            name = line.strip()
            if name.startswith("["):
                inside = name.strip("[]")
            if inside == section and (not key or name.partition("=")[0].strip() == key):
                return Mark(f"{self.source}:{number}", path, number)
        return Mark(self.source, path)

    def get(self, section: str, key: str, kind: type) -> Any:
        """Return a value; what is missing, or of another kind, is noted, and something stands for it."""
        if not self.ini.has_option(section, key):
            self.problems.append(f"{self.source} {section}.{key}: expected a value, got nothing. Add this key.")
            return kind(1)
        text = self.ini.get(section, key)
        value = text if kind is str else parse(text, self.source, self.mark(section, key))
        value = float(value) if kind is float and type(value) is int else value
        if type(value) is not kind or (isinstance(value, int | float) and value < 0):
            names = {int: "a whole number", float: "a number", bool: "True or False"}
            self.problems.append(f"{self.mark(section, key)}: expected {names[kind]}, got {show(value)}.")
            return kind(1)
        return value

    def translated(self) -> Node:
        for section in self.ini.sections():
            known = [*_USED.get(section, ()), *(key.partition(".")[2] for key in _UNUSED if key.startswith(section))]
            for key in self.ini.options(section) if section != "network" else ():
                if key not in known:
                    self.problems.append(f"{self.mark(section, key)}: no key of FMA-Net's experiment.cfg. Remove it.")
            if section not in _SECTIONS:
                self.problems.append(f"{self.mark(section)}: no section of FMA-Net's experiment.cfg. Remove it.")
        for name, instead in _UNUSED.items():
            section, _, key = name.partition(".")
            if self.ini.has_option(section, key):
                log.info("%s: %s is not used: %s", self.mark(section, key), show(self.ini.get(section, key)), instead)
        stage = self.get("training", "stage", int)
        name, folder = f"FMANet_stage{stage}", self.get("training", "save_dir", str)
        sections: dict[str, Any] = {
            "name": name,
            "model_type": "FMANetModel",
            "scale": self.get("training", "scale", int),
            "manual_seed": self.get("experiment", "seed", int),
            "datasets": self._datasets(stage),
            "network_g": self._network(stage),
            "path": {"experiments_root": folder, "results_root": f"{folder}/test"},
            "train": self._train(stage),
            "val": self._val(stage),
        }
        log.info("%s: the run's folder is %s/%s", self.mark("training", "save_dir"), folder, name)
        if stage == 2:
            before = f"{folder}/FMANet_stage1/models/net_g_best.pth"
            sections["path"] |= {"pretrain_network_g": before, "strict_load_g": False}
            log.info("%s: stage 2 starts from the best weights of stage 1, %s", self.mark("training", "stage"), before)
        root: Node = _nodes(sections, Mark(self.source, line=1))  # what is checked later is told by its name here
        network = root["network_g"]
        for key in self.ini.options("network") if self.ini.has_section("network") else ():
            network.marks[key] = self.mark("network", key)
        return root

    def _steps(self) -> int:
        """Return the steps of an epoch, whose last, smaller batch is left out."""
        return max(1, SAMPLES // max(1, self.get("training", "batch_size", int)))

    def _datasets(self, stage: int) -> dict[str, Any]:
        root, mark = self.get("training", "dataset_path", str), self.mark("training", "dataset_path")
        log.info("%s: its folders are named each: %s/train_sharp, %s/train_blur_bicubic ...", mark, root, root)
        frames = {"num_frame": self.get("training", "num_seq", int), "val_partition": "REDS4"}
        train = {"type": "FMANetDataset", "dataroot_gt": f"{root}/train_sharp"}
        train |= {"dataroot_lq": f"{root}/train_blur_bicubic", "dataroot_lq_sharp": f"{root}/train_sharp_bicubic"}
        if self.get("training", "flow_loss_weight", float) > 0:
            train["dataroot_flow"] = f"{root}/train_flow_bicubic"
        val = {"type": "FMANetTestDataset", "dataroot_gt": f"{root}/val_sharp", "padding": "drop"}
        val |= {"dataroot_lq": f"{root}/val_blur_bicubic", "gt_frames": "all" if stage == 1 else "centre"}
        loading = {
            "gt_size": self.get("training", "patch_size", int),
            "batch_size_per_gpu": self.get("training", "batch_size", int),
            "num_worker_per_gpu": self.get("training", "nThreads", int),
        }
        return {"train": {**train, **frames, **loading}, "val": {"name": "REDS4-inner", **val, **frames}}

    def _network(self, stage: int) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "FMANet"}
        for key in self.ini.options("network") if self.ini.has_section("network") else ():
            found[key] = parse(self.ini.get("network", key), self.source, self.mark("network", key))
        numbers = {key: self.get("training", key, int) for key in ("scale", "num_seq")}
        return {**found, **numbers, "stage": stage}

    def _train(self, stage: int) -> dict[str, Any]:
        epochs, steps = self.get("training", "num_epochs", int), self._steps()
        mark = self.mark("training", "num_epochs")
        log.info("%s: an epoch of REDS is %d windows, %d steps: total_iter: %d", mark, SAMPLES, steps, epochs * steps)
        milestones = [round(part * epochs) * steps for part in _HALVED]
        log.info("%s: the rate is halved at steps %s, of Net^D and Net^R alike", mark, milestones)
        names = {"hr_warp": "hr_warping", "flow": "flow", "D_TA": "D_TA"}
        weights = {"recon": 1.0} | {k: self.get("training", f"{name}_loss_weight", float) for k, name in names.items()}
        if stage == 2:
            part = self.get("training", "Net_D_weight", float)
            log.info("%s: the weights of stage 1 are multiplied by it", self.mark("training", "Net_D_weight"))
            own = {"lr_warp": "lr_warping", "R_TA": "R_TA"}
            own_weights = {k: self.get("training", f"{name}_loss_weight", float) for k, name in own.items()}
            scaled = {name: float(f"{part * weight:.12g}") for name, weight in weights.items()}
            weights = {"output": 1.0, **own_weights, **scaled}
        networks = {"degradation_learning_network": 1.0, "restoration_network": 1.0} if stage == 2 else {}
        return {
            "total_iter": epochs * steps,
            "reference_batch": self.get("training", "batch_size", int),
            "losses": {name: {"type": "L1Loss", "loss_weight": weight} for name, weight in weights.items()},
            "optim_g": {"type": "Adam", "lr": self.get("training", "lr", float)},
            "lr_mul": networks,
            "scheduler": {"type": "MultiStepLR", "milestones": milestones, "gamma": 0.5},
        }

    def _val(self, stage: int) -> dict[str, Any]:
        val = {"val_freq": self.get("validation", "val_period", int) * self._steps()}
        val["save_img"] = self.get("training", "save_train_img", bool)
        psnr = {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}}
        return val | (psnr if stage == 1 else {"protocol": "FMANet"})


def _nodes(value: Any, mark: Mark) -> Any:
    """Return mappings as nodes whose keys have the names of vsr."""
    if not isinstance(value, Mapping):
        return value
    node = Node(mark)
    for key, entry in value.items():
        node.put(key, _nodes(entry, mark.below(key)), mark.below(key))
    return node
