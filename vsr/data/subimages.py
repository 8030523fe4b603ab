"""Large images cut into overlapping parts, as BasicSR's and NAFNet's scripts do it: a crop is read more quickly then.

The parts of NAME.png are NAME_s001.png, NAME_s002.png ... in rows from the top, as files or in an LMDB.
"""

import argparse
import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from vsr.data.augment import Region
from vsr.data.lmdb_sources import CutSources
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.names import check_template, first_duplicate
from vsr.data.prepare import run_jobs, target_folder, write_once
from vsr.data.storage import DiskStorage, existing, stem
from vsr.utils.files import way_to
from vsr.utils.images import image_size, read_image

COMPRESSION = 3  # of the PNG files, as BasicSR's


@dataclass(frozen=True)
class Grid:
    """Where to cut, in pixels of the image with the highest resolution.

    Args:
        crop_size: Side of a part.
        step: From one part to the next.
        thresh_size: The last part of a row or column, which ends at the border, is left out where it would show no
            more than this many new pixels.

    Raises:
        ValueError: a number is out of its range.
    """

    crop_size: int
    step: int
    thresh_size: int = 0

    def __post_init__(self) -> None:
        for name, least in (("crop_size", 1), ("step", 1), ("thresh_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}.")
        if self.step > self.crop_size:
            raise ValueError(
                f"step: expected {self.crop_size} (crop_size) or less, got {self.step}. "
                "What lies between the parts would be lost."
            )

    def starts(self, length: int) -> list[int]:
        """Return where the parts of a row or column of ``length`` pixels begin."""
        found = list(range(0, length - self.crop_size + 1, self.step))
        if length - (found[-1] + self.crop_size) > self.thresh_size:
            found.append(length - self.crop_size)
        return found

    def regions(self, height: int, width: int) -> list[Region]:
        """Return the parts of an image of at least crop_size."""
        side = self.crop_size
        return [Region(top, left, side, side) for top in self.starts(height) for left in self.starts(width)]


DIV2K_GRID = Grid(480, 240)


def grid_arguments(parser: argparse.ArgumentParser, grid: Grid) -> None:
    """Add --crop_size, --step and --thresh_size with the values of ``grid`` as defaults."""
    parser.add_argument("--crop_size", type=int, default=grid.crop_size, help="side of a part in pixels (%(default)s)")
    parser.add_argument("--step", type=int, default=grid.step, help="from one part to the next (%(default)s)")
    parser.add_argument(
        "--thresh_size", type=int, default=grid.thresh_size,
        help="leave out the part at the border that shows no more than so many new pixels (%(default)s)",
    )  # fmt: skip


class Cut(NamedTuple):
    """One image and its parts.

    Args:
        path: The image.
        parts: What to cut out, by name: the path below the output folder, without suffix.
    """

    path: Path
    parts: Mapping[str, Region]


def plan_cuts(images: Mapping[str, Sequence[Path]], grid: Grid) -> list[list[Cut]]:
    """Decide which parts to cut out of images that lie in several resolutions, so that the parts fit one another.

    Only headers are read.

    Args:
        images: By name, the files of an image; the first has the highest resolution, the others an integer fraction
            of it. Where it is no multiple, its pixels beyond the last multiple are left out, as BasicSR's data sets do.
        grid: Where to cut, in pixels of the first.

    Returns:
        For each resolution the cuts, in the order of ``images``.

    Raises:
        ValueError: the sizes do not fit together, or an image is smaller than a part.
    """
    paths = [path for files in images.values() for path in files]
    with ThreadPoolExecutor(8) as pool:  # waiting for the disk
        sizes = dict(zip(paths, pool.map(image_size, paths), strict=True))
    scales: list[int] = []
    plan: list[list[Cut]] = []
    for name, files in images.items():
        found = [_scale(files[0], sizes[files[0]], file, sizes[file]) for file in files]
        if not scales:
            scales, plan = found, [[] for _ in files]
            _check_scales(grid, scales)
        for file, scale, wanted in zip(files, found, scales, strict=True):
            if scale != wanted:
                raise ValueError(
                    f"{file}: expected 1/{wanted} of the size of {files[0]}, as the images before it, got 1/{scale} "
                    f"({_by(sizes[file])} for {_by(sizes[files[0]])}). Check that the folders belong together."
                )
        multiple = math.lcm(*scales)
        height, width = (side // multiple * multiple for side in sizes[files[0]])
        if min(height, width) < grid.crop_size:
            raise ValueError(
                f"{files[0]}: expected an image of crop_size {grid.crop_size} or more, got {_by(sizes[files[0]])}. "
                "Leave it out, or lower crop_size."
            )
        regions = grid.regions(height, width)
        for cuts, file, scale in zip(plan, files, scales, strict=True):
            parts = {
                f"{name}_s{number:03d}": Region(*(value // scale for value in region))
                for number, region in enumerate(regions, start=1)
            }
            cuts.append(Cut(file, parts))
    return plan


def _check_scales(grid: Grid, scales: Sequence[int]) -> None:
    for scale in scales:
        for name in ("crop_size", "step"):
            if getattr(grid, name) % scale:
                raise ValueError(
                    f"{name}: expected a multiple of the scale {scale}, got {getattr(grid, name)}. "
                    f"Use {-(-getattr(grid, name) // math.lcm(*scales)) * math.lcm(*scales)}."
                )


def _scale(first: Path, size: tuple[int, int], file: Path, small: tuple[int, int]) -> int:
    """Return how many times larger ``size`` is than ``small``; less than one pixel of ``small`` may be left over."""
    scale = size[0] // small[0]
    if scale < 1 or any(side // scale != part for side, part in zip(size, small, strict=True)):
        raise ValueError(
            f"{file}: expected an integer fraction of the size of {first}, {_by(size)}, got {_by(small)}. "
            "Check that the folders belong together."
        )
    return scale


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# --- folders of images in several resolutions ----------------------------------------------------


def extract_subimages(
    roots: Sequence[str],
    targets: Sequence[str] | None = None,
    *,
    grid: Grid = DIV2K_GRID,
    filename_tmpl: str | None = None,
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Cut all images of a folder, and of folders that hold them in lower resolutions, into parts that fit one another.

    Args:
        roots: The folders, the highest resolution first; images are found at any depth.
        targets: Where the parts of each go; None: the root's name with _sub.
        grid: Where to cut, in pixels of the first.
        filename_tmpl: Name of an image of another root, without suffix, for the name {} of the first's; None: {},
            or the name with x and the scale, which DIV2K has, as it fits. The parts have the first's names.
        lmdb, workers, dry_run: As ``write_cuts``.

    Returns:
        Lines that say what there is, or would be.

    Raises:
        FileNotFoundError: there is no such root.
        ValueError: there is no image, the names or sizes do not fit together; or as ``write_cuts``.
    """
    if filename_tmpl is not None:
        check_template(filename_tmpl)
    folders = [existing(root, "root") for root in roots]
    found = [_images(folder) for folder in folders]
    marks = {name.rpartition("x")[2] for name in found[0]}
    mark = f"x{min(marks)}" if len(roots) == 1 and len(marks) == 1 and min(marks) in "2348" else ""
    images = {name.removesuffix(mark): [path] for name, path in found[0].items()}  # as BasicSR: 0001x4 is 0001, too
    for folder, others in zip(folders[1:], found[1:], strict=True):
        tmpl = filename_tmpl or _template(images, others)
        wanted = {name: os.path.join(os.path.dirname(name), tmpl.format(os.path.basename(name))) for name in images}
        missing = [file for file in wanted.values() if file not in others]
        if missing or len(others) > len(wanted):
            extra = sorted(others.keys() - set(wanted.values()))
            raise ValueError(
                f"{folder}: expected the {len(wanted)} images of {folders[0]}, named '{tmpl}', got {len(others)}: "
                f"missing are {', '.join(missing[:3]) or 'none'}, without a partner {', '.join(extra[:3]) or 'none'}. "
                "Complete the folders, or set --filename_tmpl."
            )
        for name, file in wanted.items():
            images[name].append(others[file])
    if len(set(folders)) < len(folders):
        raise ValueError(f"root: expected different folders, got {', '.join(map(str, folders))}.")
    places = [Path(target) for target in targets or [f"{folder}_sub" for folder in folders]]
    outputs = [Output(*output) for output in zip(plan_cuts(images, grid), places, folders, strict=True)]
    return write_cuts(outputs, grid, lmdb=lmdb, workers=workers, dry_run=dry_run)


def _images(root: Path) -> dict[str, Path]:
    """Return the images below a folder, by their paths without suffix."""
    names = DiskStorage().images(str(root), "root")
    if twice := first_duplicate(names):
        raise ValueError(f"{root}: expected one image for each name, got {twice}. Remove the one or the other.")
    return {stem(name): root / name for name in names}


def _template(images: Mapping[str, Sequence[Path]], others: Mapping[str, Path]) -> str:
    """Return how the names of images in another resolution are made: as they are, or with x and the scale."""
    name = next(iter(images))
    if name in others:
        return "{}"
    for other in others:
        if match := re.fullmatch(re.escape(name) + r"(x\d+)", other):
            return "{}" + match[1]
    return "{}"


# --- writing -------------------------------------------------------------------------------------


class Output(NamedTuple):
    """Cuts, and where their parts go.

    Args:
        cuts: What to cut.
        target: The folder; of an LMDB without its suffix.
        source: The folder that the images come from.
    """

    cuts: Sequence[Cut]
    target: Path
    source: Path

    def line(self, suffix: str = "", *, dry_run: bool = False) -> str:
        """Say what there is, or would be."""
        count = sum(len(cut.parts) for cut in self.cuts)
        return f"{self.target}{suffix}: {count} parts of {len(self.cuts)} images{', would be made' if dry_run else ''}"


def write_cuts(
    outputs: Sequence[Output],
    grid: Grid | None,
    *,
    made_with: Mapping[str, Any] | None = None,
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Cut images, and write the parts as PNG files into folders, or straight into LMDBs.

    A run that was killed is gone on with by the same call; parts that are there already are not made again.

    Args:
        outputs: What to cut and where to.
        grid: What the cuts were planned with; None: they are whole images.
        made_with: What else decided which images these are.
        lmdb: Encoding of LMDBs, png, tiles or raw; None: files.
        workers: Processes that cut (for LMDBs: threads); 0: this one.
        dry_run: Make the same checks, write nothing.

    Returns:
        For each output a line that says what there is, or would be.

    Raises:
        ValueError: a target was begun with other arguments or is not ours; an image is damaged or has 16 bits or
            an alpha channel.
        FileExistsError: there is an LMDB that was made otherwise.
        OSError: the disk is full.
    """
    settings = {**(asdict(grid) if grid else {"whole": True}), **(made_with or {})}
    if lmdb is not None:
        for output in outputs:
            _write_lmdb(output, settings, lmdb, workers=workers, dry_run=dry_run)
        return [output.line(".lmdb", dry_run=dry_run) for output in outputs]
    jobs: list[tuple[Cut, Path]] = []
    with contextlib.ExitStack() as stack:  # all folders are ours before the first is written to
        for output in outputs:
            recipe = {"made_of": way_to(output.source, output.target), **settings}
            folder = stack.enter_context(target_folder(output.target, recipe, dry_run=dry_run))
            jobs += [(cut, folder) for cut in output.cuts]
        if not dry_run:
            run_jobs(write_parts, jobs, workers=workers, what="cutting")
    return [output.line(dry_run=dry_run) for output in outputs]


def _write_lmdb(output: Output, settings: Mapping[str, Any], encoding: str, *, workers: int, dry_run: bool) -> None:
    source, target = Path(os.path.realpath(output.source)), output.target.with_name(f"{output.target.name}.lmdb")
    recipe = Recipe(str(source), str(target), encoding, cut=settings)
    images, parts = tuple(str(cut.path) for cut in output.cuts), tuple(cut.parts for cut in output.cuts)
    if dry_run and not target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    make_lmdb(recipe, sources=CutSources(source, images, (), parts), workers=max(1, workers), resume=True)


def write_parts(job: tuple[Cut, Path]) -> int:
    """Write the parts of an image that are not there yet into a folder; return how many were written."""
    cut, folder = job
    missing = {name: region for name, region in cut.parts.items() if not (folder / f"{name}.png").exists()}
    if not missing:
        return 0
    image = cv2.cvtColor(read_image(cut.path), cv2.COLOR_RGB2BGR)
    for name, region in missing.items():
        part = image[region.top : region.top + region.height, region.left : region.left + region.width]
        write_once(folder / f"{name}.png", lambda path, part=part: write_png(path, part))  # type: ignore[misc]
    return len(missing)


def write_png(path: Path, image: Any) -> None:
    """Write BGR pixels as a PNG file; raises OSError where cv2.imwrite says nothing."""
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
    path.write_bytes(data.tobytes())
