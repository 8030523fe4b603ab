"""Stereo pairs made into training patches, as iPASSR makes them, and into test sets.

Sources: Wang et al., Symmetric Parallax Attention for Stereo Image Super-Resolution (iPASSR, CVPRW 2021), whose
patches NAFSSR is trained on; the layout of both is ``vsr.data.paired_stereo_image``'s.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from vsr.data.augment import Region
from vsr.data.disparity import Disparity, read_disparity
from vsr.data.lmdb_sources import Shared, Source, Sources
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.prepare import run_jobs, target_folder, write_once
from vsr.data.stereo_files import MULTIPLE, StereoFiles
from vsr.utils.files import way_to
from vsr.utils.images import Frame, read_image
from vsr.utils.resize import imresize

PATCH = (30, 90)  # height and width in LQ pixels
STRIDE = 20  # LQ pixels from one patch to the next
MARGIN = (2, 4)  # LQ pixels that are left out before the first patch, and at least behind the last one
SCALES = (2, 4)


class PairSet(NamedTuple):
    """Pairs to cut patches out of.

    Args:
        root: Where they come from.
        pairs: The pairs.
        halved: Reduce them to half their size first, as Middlebury's for training.
    """

    root: Path
    pairs: Sequence[StereoFiles]
    halved: bool = False


def patch_windows(height: int, width: int) -> list[Region]:
    """Return the patches of an LQ image, in rows from the top."""
    rows, columns = (
        range(MARGIN[0], length - part - MARGIN[1] + 1, STRIDE)
        for length, part in zip((height, width), PATCH, strict=True)
    )
    return [Region(top, left, *PATCH) for top, left in itertools.product(rows, columns)]


def high_image(path: Path, *, multiple: int, halved: bool = False) -> Frame:
    """Read a view, halve it if asked to, and crop it at the bottom and at the right to a multiple."""
    image = read_image(path)
    image = imresize(image, 1 / 2) if halved else image
    height, width = (side // multiple * multiple for side in image.shape[:2])
    return image[:height, :width]


# --- training ------------------------------------------------------------------------------------


class _Patches(NamedTuple):
    """The patches of one pair.

    Args:
        files: The pair.
        halved, scale: As in PairSet, and of the patches.
        first: Number of the first one.
        windows: Where they are, in LQ pixels.
        folder: Of all patches; for an LMDB none.
    """

    files: StereoFiles
    halved: bool
    scale: int
    first: int
    windows: Sequence[Region]
    folder: Path = Path()

    def named(self, kind: str, view: int) -> Iterator[tuple[str, Region]]:
        """Yield each patch's name, NNNNNN/hr0, and its place in the image that it is cut from."""
        for number, window in enumerate(self.windows, start=self.first):
            yield f"{number:06d}/{kind}{view}", window.scaled(self.scale if kind == "hr" else 1)


def plan_patches(sets: Sequence[PairSet], scale: int) -> list[_Patches]:
    """Number the patches of all pairs through, from 1; raise ValueError if there is none."""
    plan, first = [], 1
    for pairs in sets:
        for files in pairs.pairs:
            height, width = ((side + pairs.halved) // (1 + pairs.halved) // scale for side in files.size)
            windows = patch_windows(height, width)
            plan.append(_Patches(files, pairs.halved, scale, first, windows))
            first += len(windows)
    if first == 1:
        size = " x ".join(str(scale * (part + sum(MARGIN))) for part in PATCH)
        raise ValueError(
            f"{sets[0].root}: expected images of {size} pixels or more at scale {scale}, got smaller ones."
        )
    return plan


def make_patches(
    sets: Sequence[PairSet], target: str | Path, *, scale: int, lmdb: str | None, workers: int, dry_run: bool
) -> str:
    """Write the training patches of pairs: TARGET/NNNNNN/{hr0,hr1,lr0,lr1}.png, or the LMDB TARGET.lmdb with such keys.

    What an interrupted run has left is gone on with, in the same way as in ``make_test_set``.

    Args:
        sets: The pairs; patches are numbered through in this order.
        target: A folder.
        scale: HR size / LR size.
        lmdb: Encoding of the LMDB, png, tiles or raw; None: files.
        workers: Processes (for an LMDB: threads); 0: this one.
        dry_run: Make the same checks, write nothing.

    Returns:
        A line that says what there is, or would be.

    Raises:
        ValueError: there is no patch; the target is not ours or was begun with other arguments; an image is damaged.
        OSError: the disk is full.
    """
    plan, target = plan_patches(sets, scale), Path(target)
    count = sum(len(patches.windows) for patches in plan)
    recipe = _recipe(sets, target) | {"scale": scale, "patches": count}
    if lmdb is not None:
        images = tuple(functools.partial(_patch_images, patches) for patches in plan)
        sources = _MadeSources(sets[0].root, (), (), images)
        target = _make_lmdb(sources, target, lmdb, recipe, workers=workers, dry_run=dry_run)
    else:
        with target_folder(target, recipe, dry_run=dry_run) as folder:
            if not dry_run:
                jobs = [patches._replace(folder=folder) for patches in plan]
                run_jobs(write_patches, jobs, workers=workers, what=str(target), unit="pairs")
    return f"{target}: {count} patches of {len(plan)} pairs{', would be made' if dry_run else ''}"


def write_patches(patches: _Patches) -> int:
    """Write the patches of a pair that are not there yet as files; return how many files were written."""
    written = 0
    for view, path in enumerate((patches.files.left, patches.files.right)):
        missing = {
            kind: [(name, region) for name, region in patches.named(kind, view) if not _file(patches, name).exists()]
            for kind in ("hr", "lr")
        }
        if not any(missing.values()):
            continue
        high = high_image(path, multiple=patches.scale, halved=patches.halved)
        for kind, parts in missing.items():
            image = high if kind == "hr" else imresize(high, 1 / patches.scale)
            for name, part in parts:
                pixels = image[part.top : part.top + part.height, part.left : part.left + part.width]
                _write_png(_file(patches, name), pixels)
            written += len(parts)
    return written


def _file(patches: _Patches, name: str) -> Path:
    return patches.folder / f"{name}.png"


def _patch_images(patches: _Patches) -> Iterator[Source]:
    """Yield the patches of a pair for an LMDB."""
    paths = (patches.files.left, patches.files.right)
    made: dict[str, list[Shared]] = {"hr": [], "lr": []}
    for path in paths:
        high = Shared(functools.partial(high_image, path, multiple=patches.scale, halved=patches.halved))
        made["hr"].append(high)
        made["lr"].append(Shared(functools.partial(_low_image, high, patches.scale)))
    named = [
        [(name, path, image, part) for name, part in patches.named(kind, view)]
        for kind, images in made.items()
        for view, (path, image) in enumerate(zip(paths, images, strict=True))
    ]
    for four in zip(*named, strict=True):  # all images of a patch, then those of the next
        for name, path, image, part in four:
            yield Source(name, path, cut=(image, part))


def _low_image(high: Shared, scale: int) -> Frame:
    return imresize(high.image(), 1 / scale)


# --- test sets -----------------------------------------------------------------------------------


def make_test_set(pairs: PairSet, target: str | Path, *, lmdb: str | None, workers: int, dry_run: bool) -> str:
    """Write a test set: TARGET/hr/NAME/{hr0,hr1}.png, and lr_x2 and lr_x4 with NAME/{lr0,lr1}.png; or three LMDBs.

    HR images are cropped to multiples of MULTIPLE, at the bottom and at the right. Where true disparities are known,
    TARGET/disparity/NAME.npy has them, cropped alike.

    Args:
        pairs: The pairs; they are never halved.
        target, lmdb, workers, dry_run: As in ``make_patches``.

    Returns:
        A line that says what there is, or would be.

    Raises:
        ValueError: an image is too small; a disparity as in ``read_disparity``; or as ``make_patches``.
        OSError: the disk is full.
    """
    target = Path(target)
    for files in pairs.pairs:
        if min(files.size) < MULTIPLE:
            size = "x".join(map(str, files.size))
            raise ValueError(f"{files.left}: expected {MULTIPLE} pixels a side or more, got {size}. Move it away.")
    recipe, known = _recipe([pairs], target), [files for files in pairs.pairs if files.disparity]
    for files in known:  # before the folder is claimed: what takes a bad one's place may have another name
        _disparity(files)
    with target_folder(target, recipe | {"lmdb": lmdb} | _maps(pairs), dry_run=dry_run) as folder:
        if lmdb is not None:
            for name, scale in _subsets():
                images = tuple(functools.partial(_whole_images, files, scale) for files in pairs.pairs)
                sources = _MadeSources(pairs.root, (), (), images)
                _make_lmdb(sources, folder / name, lmdb, recipe, workers=workers, dry_run=dry_run)
        elif not dry_run:
            jobs = [(files, folder) for files in pairs.pairs]
            run_jobs(write_pair, jobs, workers=workers, what=str(target), unit="pairs")
        if known and not dry_run:
            maps = [(files, folder) for files in known]
            run_jobs(write_disparity, maps, workers=workers, what=f"{target}/disparity", unit="maps")
    told = f", {len(known)} with disparity" if known else ""
    return f"{target}: {len(pairs.pairs)} pairs{told}{', would be made' if dry_run else ''}"


def write_pair(job: tuple[StereoFiles, Path]) -> int:
    """Write what is missing of a pair into the folder of a test set; return how many files were written."""
    (files, folder), written = job, 0
    for view, path in enumerate((files.left, files.right)):
        targets = {
            scale: folder / name / files.name / f"{'lr' if scale > 1 else 'hr'}{view}.png" for name, scale in _subsets()
        }
        missing = {scale: target for scale, target in targets.items() if not target.exists()}
        high = high_image(path, multiple=MULTIPLE) if missing else None
        for scale, target in missing.items():
            assert high is not None
            _write_png(target, imresize(high, 1 / scale) if scale > 1 else high)
        written += len(missing)
    return written


def write_disparity(job: tuple[StereoFiles, Path]) -> int:
    """Write a pair's disparity into the folder of a test set if it is not there; return how many files were written."""
    files, folder = job
    target = folder / "disparity" / f"{files.name}.npy"
    return int(write_once(target, lambda temporary: np.save(temporary, _disparity(files))))


def _disparity(files: StereoFiles) -> Disparity:
    """Return a pair's disparity, cropped as its images in a test set."""
    assert files.disparity is not None
    height, width = (side // MULTIPLE * MULTIPLE for side in files.size)
    return read_disparity(files.disparity, files.size)[:height, :width]


def _whole_images(files: StereoFiles, scale: int) -> Iterator[Source]:
    """Yield the two images of a pair for one LMDB of a test set."""
    part = Region(0, 0, *(side // MULTIPLE * MULTIPLE // scale for side in files.size))
    for view, path in enumerate((files.left, files.right)):
        made = Shared(functools.partial(_test_image, path, scale))
        yield Source(f"{files.name}/{'lr' if scale > 1 else 'hr'}{view}", path, cut=(made, part))


def _subsets() -> list[tuple[str, int]]:
    """Return the folders of a test set, and by what factor the images in them are reduced."""
    return [("hr", 1), *((f"lr_x{scale}", scale) for scale in SCALES)]


def _test_image(path: Path, scale: int) -> Frame:
    high = high_image(path, multiple=MULTIPLE)
    return high if scale == 1 else imresize(high, 1 / scale)


# --- writing -------------------------------------------------------------------------------------


def _recipe(sets: Sequence[PairSet], target: Path) -> dict[str, Any]:
    """Return what decides what a target holds."""
    return {
        "made_of": [way_to(pairs.root, target) for pairs in sets],
        "pairs": [len(pairs.pairs) for pairs in sets],
        "names": [files.name for pairs in sets for files in pairs.pairs],
    }


def _maps(pairs: PairSet) -> dict[str, list[str]]:
    """Return which files the disparities of a test set are read from, from the root on; nothing if there are none."""
    root = os.path.expanduser(pairs.root)
    known = [os.path.relpath(files.disparity, root) for files in pairs.pairs if files.disparity]
    return {"disparity": known} if known else {}


@dataclass(frozen=True)
class _MadeSources(Sources):
    """Images for an LMDB that are made of other images.

    Args:
        made: Functions that yield them, unmade, a pair each.
    """

    made: tuple[Callable[[], Iterator[Source]], ...] = ()

    def stills(self) -> Iterator[Source]:
        for images in self.made:
            yield from images()

    def still_count(self) -> int:
        return sum(1 for _ in self.stills())

    def files(self) -> dict[str, Path]:
        return {source.key: source.path for source in self.stills()}


def _make_lmdb(
    sources: Sources, target: Path, encoding: str, recipe: Mapping[str, Any], *, workers: int, dry_run: bool
) -> Path:
    """Make TARGET.lmdb, or go on with it; return its folder."""
    target = target.with_name(f"{target.name}.lmdb")
    if not dry_run:
        target.parent.mkdir(parents=True, exist_ok=True)
        make_lmdb(
            Recipe(str(sources.root), str(target), encoding, cut=recipe),
            sources=sources,
            workers=max(1, workers),
            resume=True,
        )
    return target


def _write_png(path: Path, image: Frame) -> None:
    def write(temporary: Path) -> None:
        _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        temporary.write_bytes(data.tobytes())

    write_once(path, write)
