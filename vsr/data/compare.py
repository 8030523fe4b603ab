"""How quickly this machine would feed a training run, by how the run's images are stored."""

import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vsr.config.schema import Component, DatasetOptions, Options
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.loader import build_dataset
from vsr.data.pairs import Pair
from vsr.data.storage import list_roots, stem
from vsr.utils.images import write_image

log = logging.getLogger(__name__)

ROUNDS = 4  # the storages take turns; each one's fastest counts
MOST_MEMORY = 0.6  # share of the free memory that a set may take and still be called one that fits
WORTH = 1.3  # times as fast as files, from which on another storage is advised
ENCODINGS = {"lmdb png": ("png", "png"), "lmdb tiles": ("tiles", "raw"), "lmdb raw": ("raw", "raw")}  # of GT and LQ
# Arguments that select from a whole set, and files beside it.
_CHOICE = ("clips", "exclude_clips", "frames", "meta_info_file", "val_partition", "test_mode", "dataroot_flow")


@dataclass(frozen=True)
class Speed:
    """What one storage does.

    Args:
        storage: disk, lmdb png ...
        seconds: Of a sample, in one process, with everything in the page cache.
        set_bytes: Of the whole data set, extrapolated.
    """

    storage: str
    seconds: float
    set_bytes: int


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Args:
        speeds: Of each storage; the first is files.
        images: Of the whole set, GT and LQ counted as one.
        measured: Of the part that was measured.
        section: The training set's options.
    """

    speeds: list[Speed]
    images: int
    measured: int
    section: DatasetOptions


def compare(options: Options, folder: Path, *, images: int = 60, seconds: float = 2.0) -> Comparison:
    """Copy a part of an option file's training set into each kind of storage, and draw samples from all of them.

    Args:
        options: Of a training run; its data set has the arguments dataroot_gt, dataroot_lq and io_backend.
        folder: Empty, for the copies, on the disk that the run would read from.
        images: To copy, about: whole clips, at least one.
        seconds: To measure each storage.

    Raises:
        ValueError: the file has no training set, or one of another kind; or as building the set raises.
        FileNotFoundError: as building the set raises.
    """
    section = options.datasets.get("train")
    if section is None:
        raise ValueError("datasets: expected a training set, 'train', got none.")
    arguments = section.dataset.args
    build = _builder(section, options)
    whole = build(arguments)
    source = getattr(whole, "clips", whole)
    if not hasattr(source, "named_pairs") or "dataroot_gt" not in arguments:
        raise ValueError(
            f"datasets.train.type: expected a data set of GT and LQ images in two roots, got {section.dataset.type}."
        )
    pairs = source.named_pairs()
    span = int(arguments.get("num_frame", 1)) * max(arguments.get("interval_list") or [1])
    if len(whole) == len(getattr(source, "lengths", ())):  # an item is a whole clip
        span = max(source.lengths)
    part = _part(pairs, images, span)
    storage = source.storage if hasattr(source, "storage") else source.reader.storage
    has_lq = _copy_part(part, storage, folder, getattr(source, "depth", None))
    kept = {key: value for key, value in arguments.items() if key not in (*_CHOICE, "cache_data", "io_backend")}
    kept |= {"val_partition": None} if "val_partition" in arguments else {}  # what was copied is to be kept

    sets: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    roots = {"dataroot_gt": str(folder / "gt"), "dataroot_lq": str(folder / "lq") if has_lq else None}
    sets["disk"] = build(kept | roots)
    sizes["disk"] = _bytes([root for root in roots.values() if root])
    for name, encodings in ENCODINGS.items():
        made: dict[str, str | None] = {"dataroot_lq": None}
        for root, encoding in zip(("gt", "lq") if has_lq else ("gt",), encodings, strict=False):
            target = folder / f"{root}_{encoding}.lmdb"
            if not target.exists():
                make_lmdb(Recipe(str(folder / root), str(target), encoding), verify="none")
            made[f"dataroot_{root}"] = str(target)
        sets[name] = build(kept | made | {"io_backend": {"type": "lmdb"}})
        sizes[name] = _bytes([root for root in made.values() if root])
    fastest = _timed(sets, seconds)
    speeds = [Speed(name, fastest[name], sizes[name] * len(pairs) // len(part)) for name in sets]
    return Comparison(speeds, len(pairs), len(part), section)


def advice(found: Comparison, *, free_memory: int, cores: int) -> list[str]:
    """Return what follows from a comparison, in sentences.

    Args:
        found: What ``compare`` returned.
        free_memory: Bytes that could hold the set.
        cores: Of this machine.
    """
    by_name = {speed.storage: speed for speed in found.speeds}
    disk, raw = by_name["disk"], by_name["lmdb raw"]
    fitting = {name: speed for name, speed in by_name.items() if speed.set_bytes < MOST_MEMORY * free_memory}
    best = min((fitting or {name: s for name, s in by_name.items() if name != "lmdb raw"}).values(), key=_seconds)
    lines = []
    if "lmdb raw" in fitting:
        lines.append(f"The whole set fits into memory even as raw pixels ({_gb(raw)} of {free_memory / 1e9:.1f} GB).")
    elif fitting:
        lines.append(
            f"As raw pixels the set ({_gb(raw)}) does not fit into the memory ({free_memory / 1e9:.1f} GB free): every "
            "sample would wait for the disk, so that the figure above would not last."
        )
    else:
        lines.append(
            f"No form of the set fits into the memory ({free_memory / 1e9:.1f} GB free): the disk decides, and the "
            "figures above, measured from memory, are the most that can be had. The fewest bytes win."
        )
    if disk.seconds / best.seconds < WORTH:
        best = disk
        lines.append("Files serve as well as anything else: no LMDB is needed.")
    else:
        lines.append(f"{best.storage} is {disk.seconds / best.seconds:.1f} times as fast as files. Make it with")
        lines.append(f"    {_command(found.section, *ENCODINGS[best.storage])}")
        lines.append("and set io_backend: {type: lmdb} and the dataroots to the .lmdb folders.")
    section = found.section
    batch = section.batch_size_per_gpu
    workers = max(1, min(section.num_worker_per_gpu, cores))
    lines.append(
        f"With {best.storage}, {section.num_worker_per_gpu} workers on {cores} cores prepare a batch of {batch} in "
        f"about {1000 * batch * best.seconds / workers:.0f} ms: a training step that takes longer never waits for data."
    )
    return lines


def _builder(section: DatasetOptions, options: Options) -> Callable[[Mapping[str, Any]], Any]:
    def build(arguments: Mapping[str, Any]) -> Any:
        component = Component(type=section.dataset.type, args=arguments)
        return build_dataset(
            replace(section, dataset=component), scale=options.scale, seed=options.manual_seed, key="train"
        )

    return build


def _part(pairs: list[tuple[str, Pair]], count: int, needed: int) -> list[tuple[str, Pair]]:
    """Return clips, evenly spaced, with ``count`` images together or a few more; each of ``needed`` at least."""
    clips: dict[str, list[tuple[str, Pair]]] = {}
    for key, pair in pairs:
        clips.setdefault(os.path.dirname(key), []).append((key, pair))
    longest = max(count, needed)
    if len(clips) == 1:
        return pairs[:longest]
    part: list[tuple[str, Pair]] = []
    for name in list(clips)[:: max(1, len(pairs) // count)]:
        if len(part) < count:
            part += clips[name][:longest]
    return part


def _copy_part(part: list[tuple[str, Pair]], storage: Any, folder: Path, depth: int | None) -> bool:
    """Write the images' files, or links to them, to the folders gt and lq; return whether there are LQ files.

    Clips that are known by their last ``depth`` folders alone, and of several roots, get the root's name in these.
    """
    has_lq = all(pair.lq is not None for _, pair in part)
    for key, pair in part:
        for root, path in (("gt", pair.gt), ("lq", pair.lq if has_lq else None)):
            if path is None:
                continue
            above = os.path.dirname(key).split("/")
            first = 1 if depth is None else len(above) - depth + 1
            target = folder / root / "_".join(above[:first]) / "/".join(above[first:]) / os.path.basename(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.isfile(path):
                target.symlink_to(path)
            else:  # it is in an LMDB
                write_image(f"{stem(str(target))}.png", np.ascontiguousarray(storage.read(path)))
    return has_lq


def _timed(sets: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Return the seconds of a sample of each set: drawn in turns, the same ones, the fastest round."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)  # as in a worker
    cv2.setNumThreads(1)
    try:
        rng = np.random.default_rng(0)
        length = len(next(iter(sets.values())))
        fastest = dict.fromkeys(sets, float("inf"))
        for turn in range(ROUNDS + 1):  # the first round fills the page cache
            for name, dataset in sets.items():
                began, count = time.perf_counter(), 0
                least = min(length, 50) if turn == 0 else 1
                while count < least or time.perf_counter() - began < seconds / ROUNDS:
                    dataset[count % length if turn == 0 else int(rng.integers(length)), count]
                    count += 1
                if turn > 0:
                    fastest[name] = min(fastest[name], (time.perf_counter() - began) / count)
        return fastest
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _bytes(roots: list[str]) -> int:
    return sum(file.stat().st_size for root in roots for file in Path(root).rglob("*") if file.is_file())


def _seconds(speed: Speed) -> float:
    return speed.seconds


def _gb(speed: Speed) -> str:
    return f"{speed.set_bytes / 1e9:.1f} GB"


def _command(section: DatasetOptions, gt: str, lq: str) -> str:
    """Return the command that makes LMDBs of the roots of a set, in these encodings."""
    arguments, encodings = section.dataset.args, dict[str, str]()
    for name, encoding in (("dataroot_gt", gt), ("dataroot_lq", lq)):
        for root in list_roots(arguments[name]) if arguments.get(name) else ():
            encodings.setdefault(root, encoding)  # patches of stereo pairs have one root for both
    roots = shlex.join(encodings)
    if (arguments.get("io_backend") or {}).get("type") == "lmdb":
        roots = "FOLDERS"  # that the LMDBs in use were made of
    return f"python scripts/make_lmdb.py {roots} --encoding {' '.join(encodings.values())}"
