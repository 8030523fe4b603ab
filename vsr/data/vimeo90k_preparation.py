"""Vimeo-90K's septuplets as training wants them: verified; lists, LR frames, LMDBs, lines for option files.

    OUTPUT/unpacked/vimeo_septuplet/sequences/00001/0001/im1.png   what came out of the zip archive
           vimeo_septuplet_matlabLRx4/sequences/00001/0001/im1.png  LR by antialiased bicubic reduction, on request
           vimeo_septuplet_BDLRx4/sequences/...                     LR by blur and subsampling, on request
           meta_info_Vimeo90K_train_GT.txt ...                      BasicSR's lists
           vimeo90k_train_GT_only4th.lmdb ...                       on request

Source: Xue et al., Video Enhancement with Task-Oriented Flow (IJCV 2019).
"""

import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from vsr.data.archive_sources import Archive, fetch_archives
from vsr.data.filters import gaussian_blur
from vsr.data.lmdb_writer import Recipe
from vsr.data.prepare import run_jobs, safe_unpack, target_folder, write_once
from vsr.data.prepare_outputs import lmdb_of, quoted, write_lines
from vsr.data.storage import existing
from vsr.data.vimeo90k import FRAMES
from vsr.registry import suggest
from vsr.utils.files import way_to
from vsr.utils.images import Frame, image_size, read_image
from vsr.utils.resize import imresize

log = logging.getLogger(__name__)

PAGE = "http://toflow.csail.mit.edu"
ARCHIVE = Archive("vimeo_septuplet.zip", {"csail": "http://data.csail.mit.edu/tofu/dataset/vimeo_septuplet.zip"})

LISTS = {  # of the archive, and those by motion that others have made of its test list
    "train": ("sep_trainlist.txt",),
    "test": ("sep_testlist.txt",),
    "test_fast": ("fast_testset.txt", "sep_fast_testset.txt"),
    "test_medium": ("medium_testset.txt", "sep_medium_testset.txt"),
    "test_slow": ("slow_testset.txt", "sep_slow_testset.txt"),
}
LR = {"bicubic": "matlabLR", "bd": "BDLR"}  # as the folders are called in the field
GT_LMDB = ("im4", "all")
MAX_SAID = 5  # faults in one message


@dataclass(frozen=True)
class VimeoOptions:
    """What to prepare.

    Args:
        root: Folder with vimeo_septuplet.zip, or with what it was unpacked to.
        output: Folder for all that is written; None: ROOT/prepared.
        download: Fetch the archive first if it is not there (82 GB).
        lr: LR frames to make: bicubic (antialiased), bd (blur and subsampling).
        scale: GT size / LR size.
        lmdb: Encoding of LMDBs of the training septuplets: png, tiles or raw; None: no LMDB.
        lmdb_gt: Frames in the LMDB of GT: im4, as BasicSR's only4th; or all, for recurrent networks.
        allow_incomplete: Leave out the septuplets that miss frames.

    Raises:
        ValueError: an argument is out of its range.
    """

    root: str
    output: str | None = None
    download: bool = False
    lr: Sequence[str] = ()
    scale: int = 4
    lmdb: str | None = None
    lmdb_gt: str = "im4"
    allow_incomplete: bool = False

    def __post_init__(self) -> None:
        for argument, values, known in (("lr", self.lr, tuple(LR)), ("lmdb_gt", [self.lmdb_gt], GT_LMDB)):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"{argument}: expected {', '.join(known)}, got '{value}'.{suggest(value, list(known))}"
                    )
        if self.scale < 2:
            raise ValueError(f"scale: expected 2 or more, got {self.scale}.")

    @property
    def folder(self) -> Path:
        """The output's folder."""
        return Path(os.path.abspath(os.path.expanduser(self.output or os.path.join(self.root, "prepared"))))


@dataclass(frozen=True)
class Vimeo:
    """Vimeo-90K as it was prepared.

    Args:
        folder: The output.
        sequences: Root of the septuplets.
        lists: The septuplets of each list: train, test, test_fast ...
        scale: GT size / LR size.
        lr: Root of the LR frames of each kind.
        lmdbs: LMDB of the training septuplets, of 'gt' and of each kind of LR.
    """

    folder: Path
    sequences: Path
    lists: Mapping[str, Sequence[str]]
    scale: int
    lr: Mapping[str, Path] = field(default_factory=dict)
    lmdbs: Mapping[str, Path] = field(default_factory=dict)


def prepare_vimeo90k(options: VimeoOptions, *, workers: int, dry_run: bool = False) -> Vimeo:
    """Download, unpack and verify the septuplets, and make what is asked for; run again, go on where it stopped.

    Raises:
        FileNotFoundError: the root, or Vimeo-90K in it, is missing.
        ValueError: frames are missing, the archive is damaged or not to be trusted, or the output is another's.
        OSError: the download failed, or the disk is full or read-only.
    """
    root = Path(os.path.abspath(os.path.expanduser(options.root)))
    recipe = {"data": "Vimeo-90K", "root": way_to(root, options.folder), "scale": options.scale}
    with target_folder(options.folder, recipe, dry_run=True) as folder:
        if options.download and dry_run and not (root / ARCHIVE.file).is_file():
            log.info("%s: would come from %s", root / ARCHIVE.file, ARCHIVE.addresses["csail"])
            return Vimeo(folder, folder / "unpacked", {}, options.scale)
        if options.download:
            fetch_archives([ARCHIVE], root, server="csail", page=PAGE)
        if not existing(str(root), "root").is_dir():
            raise ValueError(f"root: expected a folder, got the file '{root}'.")
        _sequences(root, folder, dry_run=True)  # it must be there before anything is written
    with target_folder(options.folder, recipe, dry_run=dry_run) as folder:
        sequences = _sequences(root, folder, dry_run=dry_run)
        if sequences is None:  # a dry run, and all is in the archive still
            return Vimeo(folder, folder / "unpacked", {}, options.scale)
        lists = _lists(sequences, root)
        sizes = _verified(sequences, lists, options, workers)
        lists = {name: [septuplet for septuplet in lists[name] if septuplet in sizes] for name in lists}
        for name, septuplets in lists.items():
            log.info("%s: %d septuplets", name, len(septuplets))
        lr = {
            kind: folder / f"vimeo_septuplet_{LR[kind]}x{options.scale}" / "sequences"
            for kind in dict.fromkeys(options.lr)
        }
        if dry_run:
            return Vimeo(folder, sequences, lists, options.scale, lr)
        for name, septuplets in lists.items():
            lines = [f"{each} {FRAMES} ({sizes[each][0]},{sizes[each][1]},3)" for each in septuplets]
            write_lines(folder / f"meta_info_Vimeo90K_{name}_GT.txt", lines)
        for kind, target in lr.items():
            jobs = [(sequences / name, target / name, kind, options.scale) for name in sizes]
            run_jobs(_reduce, jobs, workers=workers, what=str(target), unit="septuplets")
        made = Vimeo(folder, sequences, lists, options.scale, lr)
        return Vimeo(folder, sequences, lists, options.scale, lr, _lmdbs(made, options, workers))


# --- what there is -------------------------------------------------------------------------------


def _sequences(root: Path, folder: Path, *, dry_run: bool) -> Path | None:
    """Return the folder sequences, unpacking the archive if there is none; None: a dry run would unpack it."""
    found = _find(root)
    if found is not None:
        return found
    archive = root / ARCHIVE.file
    if archive.is_file():
        names = safe_unpack(archive, folder / "unpacked", dry_run=dry_run)
        log.info("%s: %d files %s %s", archive, len(names), "would go into" if dry_run else "in", folder / "unpacked")
        if dry_run:
            return None
    found = _find(folder / "unpacked")
    if found is None:
        raise FileNotFoundError(
            f"root: expected Vimeo-90K in '{root}', as {ARCHIVE.file} or unpacked, with sep_trainlist.txt beside the "
            f"folder sequences, got neither. Fetch the archive from {PAGE} into it, or say --download."
        )
    return found


def _find(root: Path) -> Path | None:
    """Return a folder ``sequences`` that has one of the archive's lists beside it, at most two folders down."""
    for pattern in ("", "*/", "*/*/"):
        for sequences in sorted(root.glob(f"{pattern}sequences")):
            lists = (file for name in ("train", "test") for file in LISTS[name])
            if sequences.is_dir() and any((sequences.parent / file).is_file() for file in lists):
                return sequences
    return None


def _lists(sequences: Path, root: Path) -> dict[str, list[str]]:
    """Read the lists that there are: lines 00001/0001."""
    lists = {}
    for name, files in LISTS.items():
        file = next((f for folder in (sequences.parent, root) for n in files if (f := folder / n).is_file()), None)
        if file is None:
            continue
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        for number, line in enumerate(lines, start=1):
            parts = line.split("/")
            if line and (len(parts) != 2 or not all(part.isdecimal() for part in parts)):
                raise ValueError(f"{file}:{number}: expected a line such as 00001/0001, got '{line[:100]}'.")
        lists[name] = sorted({line for line in lines if line})
        if not lists[name]:
            raise ValueError(f"{file}: expected lines such as 00001/0001, got an empty file.")
    return lists


def _verified(
    sequences: Path, lists: Mapping[str, Sequence[str]], options: VimeoOptions, workers: int
) -> dict[str, tuple[int, int]]:
    """Return (height, width) of every septuplet; raise ValueError if some lack frames, unless that is allowed."""
    names = sorted({name for septuplets in lists.values() for name in septuplets})
    jobs = [(sequences, list(group)) for _, group in groupby(names, lambda name: name.partition("/")[0])]
    sizes: dict[str, tuple[int, int]] = {}
    said: list[str] = []
    for found, faults in run_jobs(_look, jobs, workers=workers, what="verified", unit="folders"):
        sizes |= found
        said += faults
    if said and not options.allow_incomplete:
        more = f"; and {len(said) - MAX_SAID} more" if len(said) > MAX_SAID else ""
        raise ValueError(
            f"root: expected all {len(names)} septuplets of the lists in '{sequences}', but "
            f"{'; '.join(said[:MAX_SAID])}{more}. Unpack {ARCHIVE.file} again, or leave these out with "
            "--allow_incomplete."
        )
    for line in said:
        log.warning("left out: %s", line)
    if not sizes:
        raise ValueError(f"root: expected septuplets in '{sequences}', got none that is complete.")
    return sizes


def _look(job: tuple[Path, list[str]]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Return the sizes of septuplets, and what is wrong with others."""
    sequences, names = job
    sizes, faults = {}, []
    for name in names:
        missing = [file for file in _files() if not _has_content(sequences / name / file)]
        if missing:
            faults.append(f"{name} lacks {', '.join(missing)}")
        else:
            sizes[name] = image_size(sequences / name / "im1.png")
    return sizes, faults


def _files() -> Iterable[str]:
    return (f"im{i}.png" for i in range(1, FRAMES + 1))


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


# --- what is made --------------------------------------------------------------------------------


def _reduce(job: tuple[Path, Path, str, int]) -> None:
    """Make the LR frames of a septuplet."""
    source, target, kind, scale = job
    for file in _files():
        if not (target / file).exists():
            low = reduced(read_image(source / file), kind, scale, str(source / file))
            write_once(target / file, functools.partial(_write_png, low))


def reduced(image: Frame, kind: str, scale: int, name: str) -> Frame:
    """Return an image in low resolution, rounded to 8 bits.

    Args:
        image: uint8 (h, w, 3).
        kind: bicubic: antialiased, as MATLAB's imresize; bd: a Gaussian of 13 x 13 and sigma 0.4 * scale, borders
            mirrored, of which every scale-th pixel is kept from the first on.
        scale: The sides must be multiples of it.
        name: Of the file; starts the message.

    Raises:
        ValueError: the sides are no multiples.
    """
    if image.shape[0] % scale or image.shape[1] % scale:
        raise ValueError(
            f"{name}: expected sides that are multiples of the scale {scale}, got {image.shape[0]}x{image.shape[1]}."
        )
    if kind == "bicubic":
        return imresize(image, 1 / scale)
    blurred = gaussian_blur(image.astype(np.float32), 0.4 * scale, 13)[::scale, ::scale]
    return np.rint(blurred).clip(0, 255).astype(np.uint8)


def _write_png(image: Frame, path: Path) -> None:
    _, data = cv2.imencode(".png", image[..., ::-1])
    path.write_bytes(data.tobytes())


def _lmdbs(made: Vimeo, options: VimeoOptions, workers: int) -> dict[str, Path]:
    """Make the LMDBs of the training septuplets, named as in BasicSR: GT's and one for each kind of LR."""
    if options.lmdb is None or "train" not in made.lists:
        return {}
    septuplets = made.lists["train"]
    every, fourth = made.folder / "meta_info_Vimeo90K_train_GT.txt", made.folder / "only4th.txt"
    write_lines(fourth, [f"{septuplet}/im4" for septuplet in septuplets])
    alone = options.lmdb_gt == "im4"
    wanted = {"gt": (made.sequences, f"GT_{'only4th' if alone else 'all'}", fourth if alone else every)}
    for kind, root in made.lr.items():
        wanted[kind] = (root, f"{LR[kind].removesuffix('LR').removeprefix('matlab')}LR7frames_x{made.scale}", every)
    lmdbs = {}
    for kind, (root, name, only) in wanted.items():
        recipe = Recipe(str(root), str(made.folder / f"vimeo90k_train_{name}.lmdb"), options.lmdb, only=str(only))
        lmdbs[kind] = lmdb_of(recipe, len(septuplets) * (1 if only == fourth else FRAMES), workers=workers)
    return lmdbs


# --- lines for option files ----------------------------------------------------------------------


def option_lines(made: Vimeo) -> str:
    """Return the data sets for an option file, one pair for each kind of LR frames."""
    kinds: list[str | None] = list(made.lr)
    return "\n".join(_pair(made, kind) for kind in kinds or [None])


def _pair(made: Vimeo, kind: str | None) -> str:
    lines = [f"# {f'LR: {kind}' if kind else 'LQ is made from GT'}", f"scale: {made.scale}", "datasets:"]
    for phase, name, dataset in (
        ("train", "train", "Vimeo90KDataset"),
        ("val", "test", "VideoTestVimeo90KDataset"),
    ):
        if name not in made.lists:
            continue
        lmdbs = made.lmdbs if phase == "train" and (kind is None or kind in made.lmdbs) else {}
        lines += [f"  {phase}:", f"    type: {dataset}"]
        lines += [f"    dataroot_gt: {quoted(lmdbs.get('gt', made.sequences))}"]
        if kind is not None:
            lines += [f"    dataroot_lq: {quoted(lmdbs.get(kind, made.lr[kind]))}"]
        lines += [f"    meta_info_file: {quoted(made.folder / f'meta_info_Vimeo90K_{name}_GT.txt')}"]
        lines += [f"    io_backend: {{type: {'lmdb' if lmdbs else 'disk'}}}"]
    return "\n".join(lines) + "\n"
