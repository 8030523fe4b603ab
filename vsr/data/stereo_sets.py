"""Flickr1024, Middlebury, KITTI and other stereo pairs, as they are downloaded, made ready to train and test on."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsr.data.names import pick, read_image_list
from vsr.data.stereo_files import KITTI, find_kitti, find_marked
from vsr.data.stereo_patches import PairSet, make_patches, make_test_set
from vsr.data.storage import existing

log = logging.getLogger(__name__)

FLICKR = {"train": ("Train", 800), "val": ("Validation", 112), "test": ("Test", 112)}  # folders, pairs in them
TEST_NAMES = {"middlebury": "Middlebury", "kitti2012": "KITTI2012", "kitti2015": "KITTI2015"}
PUBLISHED = {2: 298143, 4: 49020}  # patches of Middlebury's 60 pairs and Flickr1024's 800, by scale


def prepare_flickr1024(
    root: str,
    output: str,
    *,
    middlebury: str | None = None,
    scales: Sequence[int] = (4,),
    parts: Sequence[str] = (),
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Make OUTPUT/patches_xN of Flickr1024, and OUTPUT/val/Flickr1024 and OUTPUT/test/Flickr1024.

    All images are looked at before anything is written.

    Args:
        root: The folder with Train, Validation and Test, in which there are NNNN_L.png and NNNN_R.png.
        output: A folder.
        middlebury: Middlebury's pairs for training, which are halved; their patches come first, as iPASSR's.
        scales: Of the patches.
        parts: Keys of FLICKR; none: those that are there.
        lmdb, workers, dry_run: As in ``make_patches``.

    Returns:
        Lines that say what there is, or would be.

    Raises:
        FileNotFoundError, ValueError: a folder is missing, or as ``find_marked``, ``make_patches``, ``make_test_set``.
        OSError: the disk is full.
    """
    top = existing(root, "root")
    there = {entry.name.lower(): entry for entry in top.iterdir() if entry.is_dir()} if top.is_dir() else {}
    chosen = list(parts) or [part for part, (name, _) in FLICKR.items() if name.lower() in there]
    missing = [FLICKR[part][0] for part in chosen if FLICKR[part][0].lower() not in there]
    if missing or not chosen:
        wanted = ", ".join(missing or [name for name, _ in FLICKR.values()])
        raise FileNotFoundError(f"root: expected the folders {wanted} of Flickr1024 in '{root}', got none such.")
    if middlebury is not None and "train" not in chosen:
        raise ValueError("middlebury: expected to train on Flickr1024, too, got no Train. Use prepare_stereo.py.")
    sets = {}
    for part in chosen:
        name, published = FLICKR[part]
        folder = there[name.lower()]
        sets[part] = PairSet(folder, find_marked(folder))
        if len(sets[part].pairs) != published:
            log.warning("%s: has %d pairs, as published it has %d", folder, len(sets[part].pairs), published)
    train = [sets["train"]] if "train" in sets else []
    if middlebury is not None:
        train.insert(0, PairSet(Path(middlebury), find_marked(middlebury, "middlebury"), halved=True))
    how: dict[str, Any] = {"lmdb": lmdb, "workers": workers, "dry_run": dry_run}
    lines = []
    for scale in scales if train else ():
        lines.append(make_patches(train, Path(output) / f"patches_x{scale}", scale=scale, **how))
        if middlebury is not None and scale in PUBLISHED:
            lines[-1] += f" ({PUBLISHED[scale]} as published)"
    for part in [part for part in chosen if part != "train"]:
        lines.append(make_test_set(sets[part], Path(output) / part / "Flickr1024", **how))
    return lines


def prepare_stereo(
    kind: str,
    root: str,
    output: str,
    *,
    names_file: str | None = None,
    name: str | None = None,
    train: bool = False,
    scales: Sequence[int] | None = None,
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Make OUTPUT/test/NAME of a stereo data set or, to train on, OUTPUT/patches_xN.

    Args:
        kind: A key of TEST_NAMES, or 'pairs' for any other pairs that ``find_marked`` finds.
        root: Where the data set is.
        output: A folder.
        names_file: A text file that names the pairs to take, one a line; None: all.
        name: Of the test set; None: that of TEST_NAMES, or the root's.
        train: Make patches; Middlebury's pairs are halved for them.
        scales: Of the patches; None: 4.
        lmdb, workers, dry_run: As in ``make_patches``.

    Returns:
        Lines that say what there is, or would be.

    Raises:
        FileNotFoundError, ValueError: as ``find_kitti``, ``find_marked``, ``make_patches``, ``make_test_set``.
        OSError: the disk is full.
    """
    if train and name is not None:
        raise ValueError(
            f"name: expected none with train, got '{name}': patches are named by their scale. Leave it out."
        )
    if scales is not None and not train:
        raise ValueError("scale: expected none for a test set, which has lr_x2 and lr_x4. Leave it out, or add train.")
    if name is not None and (not name.strip(".") or os.path.basename(name) != name):
        raise ValueError(f"name: expected the name of a folder, got '{name}'.")
    if kind in KITTI:
        found = find_kitti(root, kind, names_file)
    else:
        found = find_marked(root)
        if names_file is not None:
            by_name = {files.name: files for files in found}
            found = [by_name[name] for name in pick(read_image_list(names_file), by_name, f"list {names_file}")]
    pairs = PairSet(Path(root), found, halved=train and kind == "middlebury")
    how: dict[str, Any] = {"lmdb": lmdb, "workers": workers, "dry_run": dry_run}
    if train:
        return [
            make_patches([pairs], Path(output) / f"patches_x{scale}", scale=scale, **how) for scale in scales or (4,)
        ]
    name = name or TEST_NAMES.get(kind) or Path(os.path.abspath(root)).name
    return [make_test_set(pairs, Path(output) / "test" / name, **how)]
