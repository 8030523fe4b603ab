"""REDS as training wants it: the clips of val beside those of train, as 240 to 269; lists, LMDBs, lines for options.

OUTPUT/unpacked/train_sharp/...                what came out of the zip archives
       train_sharp/000 ... 269                 links, or copies
       train_sharp_bicubic/X4/000 ... 269
       meta_info_REDS_GT.txt ...               BasicSR's lists
       sources.txt                             where each clip is from
       REDS4/GT/000 011 015 020                on request, as BasicSR has them
       train_sharp_with_val.lmdb ...           on request
"""

import contextlib
import functools
import logging
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsr.data.archive_sources import fetch_archives
from vsr.data.flow import default_flow_root
from vsr.data.lmdb_writer import Recipe
from vsr.data.prepare import run_jobs, target_folder, write_once
from vsr.data.prepare_outputs import lmdb_of, quoted, write_lines
from vsr.data.reds_files import (
    ARCHIVES,
    COUNTS,
    FRAMES,
    KINDS,
    PAGE,
    SERVERS,
    SUBSETS,
    SUPER_RESOLUTION,
    Clips,
    Found,
    archives_below,
    clips_below,
    faults,
    unpack_missing,
)
from vsr.data.storage import existing, in_order
from vsr.registry import suggest
from vsr.utils.files import temporary_beside, way_to
from vsr.utils.images import IMAGE_SUFFIXES, image_size

log = logging.getLogger(__name__)

REDS4 = ("000", "011", "015", "020")  # of train, kept for testing by Wang et al., EDVR (CVPRW 2019)
OFFICIAL4 = ("240", "241", "246", "257")  # of val as it is regrouped; BasicSR's smaller validation set
REGROUP = ("links", "copy", "none")
MAX_SAID = 5  # faults in one message
_BLURRED, _CLEAR = "train_blur_bicubic/X4", "train_sharp_bicubic/X4"  # what FMA-Net restores, and what its flow is of


@dataclass(frozen=True)
class RedsOptions:
    """What to prepare.

    Args:
        root: Folder with the zip archives, or with what they were unpacked to.
        output: Folder for all that is written; None: ROOT/prepared.
        subsets: Names such as train_sharp; none: those found, or for a download the four of super-resolution.
        download: Fetch the archives first that are not there.
        server: From where: huggingface or snu.
        regroup: How the clips of val come to those of train: links, copy; or none: they stay apart (by links).
        reds4: Make the folder REDS4, too.
        lmdb: Encoding of an LMDB for each folder: png, tiles or raw; None: no LMDB.
        allow_incomplete: Use the complete clips where others are missing.
        needed: Subsets that must be among what is there.

    Raises:
        ValueError: an argument is out of its range.
    """

    root: str
    output: str | None = None
    subsets: Sequence[str] = ()
    download: bool = False
    server: str = SERVERS[0]
    regroup: str = "links"
    reds4: bool = False
    lmdb: str | None = None
    allow_incomplete: bool = False
    needed: Sequence[str] = ()

    def __post_init__(self) -> None:
        for argument, values, known in (
            ("subsets", self.subsets, SUBSETS),
            ("server", [self.server], SERVERS),
            ("regroup", [self.regroup], REGROUP),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"{argument}: expected {', '.join(known)}, got '{value}'.{suggest(value, list(known))}"
                    )

    @property
    def folder(self) -> Path:
        """The output's folder."""
        return Path(os.path.abspath(os.path.expanduser(self.output or os.path.join(self.root, "prepared"))))


@dataclass(frozen=True)
class Reds:
    """REDS as it was prepared.

    Args:
        folder: The output.
        sets: The clips of each folder below it, such as train_sharp_bicubic/X4.
        lmdbs: The LMDB of each of these folders.
    """

    folder: Path
    sets: Mapping[str, Mapping[str, Found]]
    lmdbs: Mapping[str, Path]


def prepare_reds(options: RedsOptions, *, workers: int, dry_run: bool = False) -> Reds:
    """Download, unpack, verify and arrange REDS; run again, go on where it stopped.

    Raises:
        FileNotFoundError: the root, or REDS in it, is missing.
        ValueError: clips or frames are missing, an archive is damaged or not to be trusted, sizes do not fit, or the
            output is another's.
        OSError: a download failed, or the disk is full or read-only.
    """
    root = Path(os.path.abspath(os.path.expanduser(options.root)))
    asked = options.subsets or (SUPER_RESOLUTION if options.download else ())
    recipe = {"data": "REDS", "root": way_to(root, options.folder), "regroup": options.regroup}
    with target_folder(options.folder, recipe, dry_run=True) as folder:
        if options.download and not _download(root, asked, options.server, dry_run=dry_run):
            return Reds(folder, {}, {})
        if not existing(str(root), "root").is_dir():
            raise ValueError(f"root: expected a folder, got the file '{root}'.")
        planned = _sets(root, options, asked, dry_run=True)  # all must be there before anything is written
    with target_folder(options.folder, recipe, dry_run=dry_run) as folder:
        for name, found in planned.items():
            log.info("%s: %d clips", folder / name, len(found))
        if dry_run:
            return Reds(folder, planned, {})
        sets = _sets(root, options, asked, dry_run=False)
        _check_sizes(sets)
        for name, found in sets.items():
            _place(folder / name, found, copy=options.regroup == "copy", workers=workers)
        if options.reds4:
            _place_reds4(folder, sets, copy=options.regroup == "copy", workers=workers)
        _write_lists(folder, sets)
        lmdbs = {name: _lmdb(folder, name, sets, options.lmdb, workers) for name in sets} if options.lmdb else {}
    return Reds(folder, sets, lmdbs)


# --- what there is -------------------------------------------------------------------------------


def _download(root: Path, subsets: Sequence[str], server: str, *, dry_run: bool) -> bool:
    """Fetch what is not there; a dry run says from where. Return whether all is there."""
    archives = [ARCHIVES[subset] for subset in subsets]
    if not dry_run:
        fetch_archives(archives, root, server=server, page=PAGE)
        return True
    missing = [archive for archive in archives if not (root / archive.file).is_file()]
    for archive in missing:
        log.info("%s: would come from %s", root / archive.file, archive.addresses[server])
    return not missing


def _sets(root: Path, options: RedsOptions, asked: Sequence[str], *, dry_run: bool) -> dict[str, dict[str, Found]]:
    """Return the clips as they will be arranged; a dry run tells of them, a real one unpacks them."""
    clips = _gather(root, options.folder, asked, dry_run=dry_run)
    wanted = tuple(dict.fromkeys((*(asked or clips), *options.needed)))
    clips = _verified({subset: clips[subset] for subset in wanted if subset in clips}, wanted, options, tell=dry_run)
    return _arranged(clips, regroup=options.regroup != "none", tell=dry_run)


def _gather(root: Path, folder: Path, asked: Sequence[str], *, dry_run: bool) -> Clips:
    """Find the clips below the root; where a subset is not complete, unpack its archives."""
    clips, archives = clips_below(root, skip=folder), archives_below(root)
    unpacked = folder / "unpacked"
    clips = unpack_missing(
        clips, archives, unpacked, wanted=lambda subset: not asked or subset in asked, dry_run=dry_run
    )
    if unpacked.is_dir():  # the archives may have been removed since
        for subset, found in clips_below(unpacked).items():
            clips[subset] = dict(sorted({**found, **clips.get(subset, {})}.items()))
    if not clips:
        raise FileNotFoundError(
            f"root: expected REDS in '{root}', as zip archives such as train_sharp.zip or unpacked as "
            f"train_sharp/000/00000000.png, got neither. Fetch the archives from {PAGE} into it, or say --download."
        )
    missing = [name for name in SUPER_RESOLUTION if name not in clips and not asked]
    if missing and dry_run:
        log.info("not here: %s", ", ".join(f"{name} ({name}.zip)" for name in missing))
    return clips


def _verified(clips: Clips, wanted: Iterable[str], options: RedsOptions, *, tell: bool) -> Clips:
    """Return the complete clips; raise ValueError if others are missing, unless that is allowed."""
    said = faults(clips, wanted)
    if said and not options.allow_incomplete:
        more = f"; and {len(said) - MAX_SAID} more" if len(said) > MAX_SAID else ""
        raise ValueError(
            f"root: expected all of REDS's {', '.join(wanted)} in '{options.root}', but "
            f"{'; '.join(said[:MAX_SAID])}{more}. "
            "Put the archives there, or unpack them again, or use what is complete with --allow_incomplete."
        )
    for line in said if tell else ():
        log.warning("%s", line)
    complete = {
        subset: {name: clip for name, clip in found.items() if clip.complete} for subset, found in clips.items()
    }
    for split in COUNTS:  # every kind with the same clips
        kinds = [found for subset, found in complete.items() if subset.startswith(f"{split}_")]
        common = set.intersection(*(set(found) for found in kinds)) if kinds else set()
        for subset in complete:
            if subset.startswith(f"{split}_"):
                complete[subset] = {name: clip for name, clip in complete[subset].items() if name in common}
    complete = {subset: found for subset, found in complete.items() if found}
    if not complete:
        raise ValueError(f"root: expected complete clips of {FRAMES} frames in '{options.root}', got none. {said[0]}.")
    return complete


def _arranged(clips: Clips, *, regroup: bool, tell: bool) -> dict[str, dict[str, Found]]:
    """Return the clips by the folder that they go into, under the names that they get there."""
    kinds = {
        split: {subset.removeprefix(f"{split}_") for subset in clips if subset.startswith(split)} for split in COUNTS
    }
    lacking = sorted(kinds["train"] - kinds["val"])
    if regroup and kinds["val"] and lacking and tell:
        log.warning("val stays apart: %s is not there", ", ".join(f"val_{kind}" for kind in lacking))
    sets: dict[str, dict[str, Found]] = {}
    for subset, found in clips.items():
        split, _, kind = subset.partition("_")
        below = "/X4" if kind.endswith("bicubic") else ""
        if split == "val" and regroup and not lacking and kind in kinds["train"]:
            sets[f"train_{kind}{below}"] |= {f"{COUNTS['train'] + int(name):03d}": clip for name, clip in found.items()}
        else:
            sets[f"{subset}{below}"] = dict(found)
    return sets


def _check_sizes(sets: Mapping[str, Mapping[str, Found]]) -> None:
    """Raise ValueError if the LQ frames of a clip have not a fourth of the sides of its GT, or the same."""
    for name, found in sets.items():
        split, _, kind = name.partition("/")[0].partition("_")
        sharp = sets.get(f"{split}_sharp")
        if sharp is None or kind == "sharp":
            continue
        scale = 4 if kind.endswith("bicubic") else 1
        for clip in found.keys() & sharp.keys():
            low, high = (image_size(_frames(where[clip].folder)[0]) for where in (found, sharp))
            if high != (scale * low[0], scale * low[1]):
                raise ValueError(
                    f"{found[clip].folder}: expected frames of 1/{scale} of the sides in {sharp[clip].folder}, "
                    f"{high[0]}x{high[1]}, got {low[0]}x{low[1]}. One of the two is another data set's."
                )


def _frames(folder: Path) -> list[Path]:
    names = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return [folder / name for name in in_order([name for name in names if not name.startswith(".")])]


# --- what is made --------------------------------------------------------------------------------


def _place(target: Path, clips: Mapping[str, Found], *, copy: bool, workers: int) -> None:
    """Put clips into a folder by links, or by copies."""
    target.mkdir(parents=True, exist_ok=True)
    if copy:
        jobs = [(clip.folder, target / name) for name, clip in clips.items()]
        run_jobs(_copy_clip, jobs, workers=workers, what=str(target), unit="clips")
        return
    for name, clip in clips.items():
        goal = way_to(clip.folder, target)
        link = target / name
        if link.is_symlink() and os.readlink(link) == goal:
            continue
        temporary = temporary_beside(link)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(goal, target_is_directory=True)
        except OSError as error:
            raise OSError(
                error.errno, f"{link}: no link can be made here: {error.strerror}. Say --regroup copy for copies"
            ) from error
        os.replace(temporary, link)


def _copy_clip(job: tuple[Path, Path]) -> None:
    source, target = job
    for frame in _frames(source):
        write_once(target / frame.name, functools.partial(shutil.copyfile, frame))


def _place_reds4(folder: Path, sets: Mapping[str, Mapping[str, Found]], *, copy: bool, workers: int) -> None:
    for name, clips in sets.items():
        split, _, kind = name.partition("/")[0].partition("_")
        if split == "train" and all(clip in clips for clip in REDS4):
            target = folder / "REDS4" / ("GT" if kind == "sharp" else kind)
            _place(target, {clip: clips[clip] for clip in REDS4}, copy=copy, workers=workers)


def _write_lists(folder: Path, sets: Mapping[str, Mapping[str, Found]]) -> None:
    """Write BasicSR's lists of clips, and where each clip is from."""
    sources = ((f"{name}/{clip}", found.folder) for name, clips in sets.items() for clip, found in clips.items())
    write_lines(folder / "sources.txt", [f"{name}\t{way_to(source, folder)}" for name, source in sources])
    train, val = (_main(sets, split) for split in ("train", "val"))
    lines = {clip: _line(clip, found) for clip, found in train.items()}
    for name, chosen in (("REDS", tuple(lines)), ("REDS4_test", REDS4), ("REDSofficial4_test", OFFICIAL4)):
        if chosen and all(clip in lines for clip in chosen):
            write_lines(folder / f"meta_info_{name}_GT.txt", [lines[clip] for clip in chosen])
    official = [line for clip, line in lines.items() if int(clip) >= COUNTS["train"]]
    official = official or [_line(clip, found) for clip, found in val.items()]
    if official:
        write_lines(folder / "meta_info_REDSval_official_test_GT.txt", official)


def _main(sets: Mapping[str, Mapping[str, Found]], split: str) -> Mapping[str, Found]:
    """Return the clips of a split: of the sharp frames, or of the first kind there is."""
    return next((sets[name] for kind in KINDS for name in sets if name.split("/")[0] == f"{split}_{kind}"), {})


def _line(name: str, clip: Found) -> str:
    height, width = image_size(_frames(clip.folder)[0])
    return f"{name} {clip.frames} ({height},{width},3)"


def _lmdb(folder: Path, name: str, sets: Mapping[str, Mapping[str, Found]], encoding: str, workers: int) -> Path:
    """Make the LMDB of a folder of clips, named as BasicSR names it."""
    regrouped = any(int(clip) >= COUNTS["train"] for clip in sets[name])
    target = folder / f"{name.partition('/')[0]}{'_with_val' if regrouped else ''}.lmdb"
    recipe = Recipe(str(folder / name), str(target), encoding)
    return lmdb_of(recipe, FRAMES * len(sets[name]), workers=workers)


# --- lines for option files ----------------------------------------------------------------------


def option_lines(reds: Reds, flow: Path | None = None) -> str:
    """Return the data sets for an option file, one pair for each kind of LQ frames, and FMA-Net's, which need two.

    Args:
        reds: What was prepared.
        flow: Root of the flow of train's clips; None: there is none.
    """
    if "train_sharp" not in reds.sets:
        return ""
    kinds: list[str | None] = [name for name in reds.sets if name.startswith("train_") and name != "train_sharp"]
    parts = [_pair(reds, name, flow) for name in kinds or [None]]
    if _BLURRED in reds.sets and _CLEAR in reds.sets:
        parts.append(_of_fmanet(reds, flow))
    return "\n".join(parts)


def _of_fmanet(reds: Reds, flow: Path | None) -> str:
    """Return the lines for FMA-Net: blurred and sharp frames in low resolution, and the flow of these."""
    roots = [*_roots(reds, dataroot_gt="train_sharp", dataroot_lq=_BLURRED), _backend(reds), "    val_partition: REDS4"]
    lines = ["# FMA-Net, see options/train/FMANet", "scale: 4", "datasets:", "  train:", "    type: FMANetDataset"]
    lines += [*roots, *_roots(reds, dataroot_lq_sharp=_CLEAR)]
    if flow is not None:
        lines.append(f"    dataroot_flow: {quoted(flow)}")
    else:
        clear = reds.folder / _CLEAR
        lines.append(
            "    find_flow: true # while training; or made once, by the command, and then in place of this line:"
        )
        lines.append(f"    # python scripts/generate_flow.py {shlex.quote(str(clear))}")
        lines.append(f"    # dataroot_flow: {quoted(default_flow_root(clear))}")
    if all(clip in reds.sets["train_sharp"] for clip in REDS4):
        lines += ["  val:", "    type: FMANetTestDataset", *roots]
        lines.append("    gt_frames: all # of stage 1; in stage 2 leave it out")
    return "\n".join(lines) + "\n"


def _pair(reds: Reds, lq: str | None, flow: Path | None) -> str:
    """Return the lines of training and validation on REDS4 for one kind of LQ frames."""
    low = lq is None or "bicubic" in lq
    roots = {"dataroot_gt": "train_sharp", **({"dataroot_lq": lq} if lq is not None else {})}
    lines = [*_roots(reds, **roots), _backend(reds)]
    parts = [f"# {lq or 'LQ is made from GT'}", f"scale: {4 if low else 1}", "datasets:", "  train:"]
    parts += ["    type: REDSDataset", *lines, f"    meta_info_file: {quoted(reds.folder / 'meta_info_REDS_GT.txt')}"]
    parts += ["    val_partition: REDS4"]
    if flow is not None and low:
        parts += [f"    dataroot_flow: {quoted(flow)}"]
    if all(clip in reds.sets["train_sharp"] for clip in REDS4):
        parts += ["  val:", "    type: VideoTestDataset", *lines]
        parts += [f"    meta_info_file: {quoted(reds.folder / 'meta_info_REDS4_test_GT.txt')}"]
    return "\n".join(parts) + "\n"


def _roots(reds: Reds, **names: str) -> list[str]:
    return [f"    {key}: {quoted(reds.lmdbs.get(name, reds.folder / name))}" for key, name in names.items()]


def _backend(reds: Reds) -> str:
    return f"    io_backend: {{type: {'lmdb' if reds.lmdbs else 'disk'}}}"
