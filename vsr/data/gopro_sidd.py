"""GoPro (deblurring) and SIDD (denoising) as they are downloaded, made into what NAFNet's option files name.

    ROOT/train/sharp_crops  ROOT/train/blur_crops    parts of the training images of GoPro, 512x512 at step 256
    ROOT/test/target        ROOT/test/input          its test images, whole: links
    ROOT/train/gt_crops     ROOT/train/input_crops   parts of the photographs of SIDD Medium, 512x512 at step 384
    ROOT/val/gt_crops       ROOT/val/input_crops     its validation blocks, 256x256

GoPro: Nah et al., Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring, CVPR 2017.
SIDD: Abdelhamed et al., A High-Quality Denoising Dataset for Smartphone Cameras, CVPR 2018.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vsr.data.augment import Region
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.prepare import RECIPE, run_jobs, safe_unpack, target_folder, write_once
from vsr.data.storage import existing, in_order, stem
from vsr.data.subimages import Cut, Grid, Output, plan_cuts, write_cuts, write_png
from vsr.utils.files import way_to
from vsr.utils.images import IMAGE_SUFFIXES, image_size

GOPRO_GRID = Grid(512, 256)
SIDD_GRID = Grid(512, 384)
GOPRO_PAIRS = {"train": 2103, "test": 1111}  # of the official set
SIDD_PAIRS = 320  # of SIDD Medium
SIDD_BLOCKS = ("ValidationGtBlocksSrgb", "ValidationNoisyBlocksSrgb")  # .mat files, and the arrays in them

_NOISY, _CLEAN = (re.compile(rf"_{kind}(?=_|$)", re.IGNORECASE) for kind in ("NOISY", "GT"))


class ImagePair(NamedTuple):
    """The files of an image in high and in low quality."""

    gt: Path
    lq: Path


# --- where the data are --------------------------------------------------------------------------


def opened(sources: Sequence[str], root: Path, *, dry_run: bool = False) -> list[Path]:
    """Return the folders to search: folders as they are, archives unpacked into folders of their names below ``root``.

    Args:
        sources: Folders, or zip or tar archives.
        root: Where archives go.
        dry_run: Unpack nothing; archives that are not unpacked yet are checked and passed over.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError, OSError: as ``safe_unpack``.
    """
    folders = []
    for source in sources:
        path = existing(source, "source")
        if path.is_file():
            archive, path = path, root / re.sub(r"(\.tar)?\.\w+$", "", path.name)
            safe_unpack(archive, path, dry_run=dry_run)
        if path.is_dir():
            folders.append(path)
    return folders


def _folders(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield a folder and those below it in natural order, without hidden ones and those that these scripts made."""
    state = folder.stat()
    if (state.st_dev, state.st_ino) in above or (folder / RECIPE).is_file():  # a link to a folder that we are in
        return
    yield folder
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for name in in_order(names):
        yield from _folders(folder / name, (*above, (state.st_dev, state.st_ino)))


def _images(folder: Path) -> dict[str, Path]:
    """Return the images of one folder by their names without suffix.

    Raises:
        ValueError: two differ in their suffix only.
    """
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and stem_suffix(e.name) in IMAGE_SUFFIXES]
    found: dict[str, Path] = {}
    for name in in_order(names):
        if stem(name) in found:
            raise ValueError(
                f"{folder}: expected one image for each name, got {found[stem(name)].name} and {name}. Remove one."
            )
        found[stem(name)] = folder / name
    return found


def stem_suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _partners(sharp: Path, blurred: Path) -> dict[str, ImagePair]:
    """Pair the images of two folders by name; raise ValueError if one has no partner."""
    gt, lq = _images(sharp), _images(blurred)
    for here, there, folder, other in ((gt, lq, blurred, sharp), (lq, gt, sharp, blurred)):
        if missing := [name for name in here if name not in there]:
            raise ValueError(
                f"{folder}: expected the images of {other}, but {len(missing)} are missing "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}). Fetch the set again, or complete it."
            )
    return {name: ImagePair(gt[name], lq[name]) for name in gt}


# --- GoPro ---------------------------------------------------------------------------------------


class GoPro(NamedTuple):
    """The pairs of a split by name, and the folders that hold its clips, or its folders input and target."""

    pairs: dict[str, ImagePair]
    folders: set[Path]


def find_gopro(sources: Sequence[Path], *, gamma: bool = False) -> dict[str, GoPro]:
    """Find GoPro below folders, at any depth, in one of its two layouts.

    GOPRO_Large has ``train/CLIP/{blur,blur_gamma,sharp}/FRAME.png``, which becomes CLIP-FRAME; MPRNet's and NAFNet's
    copies have ``train/input/CLIP-FRAME.png`` and ``train/target/...``.

    Args:
        sources: Where to search.
        gamma: Take blur_gamma, averaged with a camera's response curve, in place of blur, which all of
            MPRNet's successors are measured on.

    Returns:
        The splits, 'train' and 'test', as far as they are there.

    Raises:
        ValueError: nothing was found, an image has no partner, or the same split is there twice.
    """
    found: dict[str, GoPro] = {}
    blur = "blur_gamma" if gamma else "blur"
    for source in sources:
        for folder in _folders(source):
            clip = (folder / "sharp").is_dir() and ((folder / "blur").is_dir() or (folder / "blur_gamma").is_dir())
            flat = (folder / "input").is_dir() and (folder / "target").is_dir()
            if not clip and not flat:
                continue
            split, name = _split(folder, source)
            roots = (folder / "sharp", folder / blur) if clip else (folder / "target", folder / "input")
            if (roots[0] / RECIPE).is_file():  # links that an earlier run has made
                continue
            if gamma and not (clip and roots[1].is_dir()):
                raise ValueError(f"gamma: expected a folder blur_gamma in {folder}, got none. Leave --gamma out.")
            if not roots[1].is_dir():
                raise ValueError(f"{folder}: expected a folder blur beside sharp, got none. Or set --gamma.")
            pairs = {f"{name}-{key}" if name else key: pair for key, pair in _partners(*roots).items()}
            there = found.setdefault(split, GoPro({}, set()))
            if twice := next((key for key in pairs if key in there.pairs), None):
                raise ValueError(
                    f"{pairs[twice].gt}: expected each image once, got {there.pairs[twice].gt}, too. "
                    "Name the folder of the one or the other as the source."
                )
            there.pairs.update(pairs)
            there.folders.add(folder.parent if clip else folder)
    found = {split: found[split] for split in GOPRO_PAIRS if split in found and found[split].pairs}
    if not found:
        raise ValueError(
            f"source: expected train/CLIP/{{blur,sharp}} or train/{{input,target}} with images below "
            f"{', '.join(map(str, sources)) or 'an unpacked archive'}, got none. Check the path."
        )
    return found


def _split(folder: Path, source: Path) -> tuple[str, str]:
    """Return the split that a folder belongs to, and its name below the folder of the split."""
    parts = (source.name, *folder.relative_to(source).parts)
    for at in range(len(parts) - 1, -1, -1):
        if parts[at].lower() in GOPRO_PAIRS:
            return parts[at].lower(), "-".join(parts[at + 1 :])
    raise ValueError(f"{folder}: expected it below a folder train or test, got neither. Move it into one.")


def prepare_gopro(
    sources: Sequence[str],
    root: str | Path,
    *,
    grid: Grid = GOPRO_GRID,
    gamma: bool = False,
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Make what ``options/train/NAFNet/*_gopro.yml`` name, below ``root``; return lines that say what there is.

    Args:
        sources: Folders or archives with GOPRO_Large, or with the folders input and target.
        root: Where to write to.
        grid: How to cut the training images.
        gamma: As ``find_gopro``.
        lmdb: Encoding of LMDBs, png, tiles or raw; None: files.
        workers: As ``write_cuts``.
        dry_run: Make the same checks, write nothing.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: as ``opened``, ``find_gopro`` and ``write_cuts``.
    """
    root = Path(os.path.abspath(os.path.expanduser(root)))
    folders = opened(sources, root, dry_run=dry_run)
    if dry_run and not folders:
        return ["the archives are whole; what is in them is told when they are unpacked"]
    lines = []
    how: dict[str, Any] = {"lmdb": lmdb, "workers": workers, "dry_run": dry_run}
    if gamma:
        how["made_with"] = {"gamma": True}
    for split, found in find_gopro(folders, gamma=gamma).items():
        if len(found.pairs) != GOPRO_PAIRS[split]:
            lines.append(f"note: {split} has {len(found.pairs)} pairs; the official set has {GOPRO_PAIRS[split]}")
        common = Path(os.path.commonpath(found.folders))
        if split == "train":
            plan = plan_cuts(found.pairs, grid)
            places = (root / "train" / "sharp_crops", root / "train" / "blur_crops")
            lines += write_cuts([Output(c, p, common) for c, p in zip(plan, places, strict=True)], grid, **how)
            continue
        for number, name in enumerate(("target", "input")):
            files = {key: pair[number] for key, pair in found.pairs.items()}
            lines.append(_whole_images(files, root / "test" / name, source=common, **how))
    return lines


def _whole_images(
    files: Mapping[str, Path],
    target: Path,
    *,
    source: Path,
    lmdb: str | None,
    workers: int,
    dry_run: bool,
    made_with: Mapping[str, Any] | None = None,
) -> str:
    """Make a folder of links to images, unless they lie there themselves, or an LMDB of them."""
    if lmdb is not None:
        cuts = [Cut(path, {name: Region(0, 0, *image_size(path))}) for name, path in files.items()]
        output = Output(cuts, target, source)
        write_cuts([output], None, made_with=made_with, lmdb=lmdb, workers=workers, dry_run=dry_run)
        return f"{target}.lmdb: {len(files)} images{', would be made' if dry_run else ''}"
    if {path.parent for path in files.values()} == {target}:
        return f"{target}: {len(files)} images, as they were downloaded"
    with target_folder(target, {"links_to": way_to(source, target), **(made_with or {})}, dry_run=dry_run) as folder:
        for name, path in () if dry_run else files.items():
            place = way_to(path, folder)
            write_once(folder / f"{name}{path.suffix}", lambda link, place=place: _link(link, place))  # type: ignore[misc]
    return f"{target}: {len(files)} links{', would be made' if dry_run else ''}"


def _link(link: Path, place: str) -> None:
    link.unlink(missing_ok=True)  # of a run that was killed
    link.symlink_to(place)


# --- SIDD ----------------------------------------------------------------------------------------


def find_sidd(sources: Sequence[Path]) -> dict[str, ImagePair]:
    """Find the pairs ``*_NOISY_*.PNG`` and ``*_GT_*.PNG`` of SIDD below folders, by NAFNet's names: without ``_NOISY``.

    Raises:
        ValueError: there is none, one has no partner, or two have one name.
    """
    pairs: dict[str, ImagePair] = {}
    for source in sources:
        for folder in _folders(source):
            images = _images(folder)
            noisy = {_NOISY.sub("", name): path for name, path in images.items() if _NOISY.search(name)}
            clean = {
                re.sub(r"_GT(?=_|$)", "", name): path for name, path in images.items() if re.search(r"_GT(?=_|$)", name)
            }
            for here, there, kind in ((noisy, clean, "_GT_"), (clean, noisy, "_NOISY_")):
                if alone := [path for name, path in here.items() if name not in there]:
                    raise ValueError(f"{alone[0]}: expected its {kind} partner beside it, got none. Fetch it again.")
            for name, path in noisy.items():
                if name in pairs:
                    raise ValueError(f"{path}: expected a name of its own, got that of {pairs[name].lq}. Rename one.")
                pairs[name] = ImagePair(clean[name], path)
    if not pairs:
        raise ValueError(
            f"source: expected images *_NOISY_*.PNG and *_GT_*.PNG below "
            f"{', '.join(map(str, sources)) or 'an unpacked archive'}, got none. Check the path."
        )
    return pairs


def find_blocks(sources: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return SIDD's two .mat files of validation blocks, clean and noisy; None: neither is there.

    Raises:
        ValueError: only one of them is there.
    """
    found: dict[str, Path] = {}
    for source in sources:
        for folder in _folders(source):
            found |= {name: folder / f"{name}.mat" for name in SIDD_BLOCKS if (folder / f"{name}.mat").is_file()}
    if not found:
        return None
    if missing := [name for name in SIDD_BLOCKS if name not in found]:
        raise ValueError(f"source: expected {missing[0]}.mat beside the other .mat file, got none. Fetch it, too.")
    return found[SIDD_BLOCKS[0]], found[SIDD_BLOCKS[1]]


def read_blocks(path: Path) -> npt.NDArray[np.uint8]:
    """Return the blocks (image, block, h, w, 3) RGB of one of SIDD's .mat files.

    Raises:
        ValueError: the file is damaged, or there is something else in it.
    """
    import scipy.io  # heavy, and only needed here; scikit-image needs it, too

    try:
        blocks = scipy.io.loadmat(str(path), variable_names=[path.stem]).get(path.stem)
    except Exception as error:  # scipy has no type of its own for files that are damaged
        raise ValueError(
            f"{path}: expected a whole .mat file (version 5), but scipy cannot read it: "
            f"{type(error).__name__}: {error}. Fetch it again."
        ) from error
    if not isinstance(blocks, np.ndarray) or blocks.dtype != np.uint8 or blocks.ndim != 5 or blocks.shape[4] != 3:
        got = "none" if blocks is None else f"{getattr(blocks, 'dtype', '?')} {getattr(blocks, 'shape', '?')}"
        raise ValueError(f"{path}: expected an array {path.stem}, uint8 (image, block, h, w, 3), got {got}.")
    return blocks


def write_blocks(job: tuple[Path, Path]) -> int:
    """Write the blocks of a .mat file as PNG files IMAGE_BLOCK.png, counted from 1; return how many there are."""
    path, folder = job
    blocks = read_blocks(path)
    for image, row in enumerate(blocks, start=1):
        for number, block in enumerate(row, start=1):
            pixels = cv2.cvtColor(block, cv2.COLOR_RGB2BGR)
            place = folder / f"{image:04d}_{number:02d}.png"
            write_once(place, lambda path, pixels=pixels: write_png(path, pixels))  # type: ignore[misc]
    return blocks.shape[0] * blocks.shape[1]


def prepare_sidd(
    sources: Sequence[str],
    root: str | Path,
    *,
    grid: Grid = SIDD_GRID,
    lmdb: str | None = None,
    workers: int = 0,
    dry_run: bool = False,
) -> list[str]:
    """Make what ``options/train/NAFNet/*_sidd.yml`` name, below ``root``; return lines that say what there is.

    The validation blocks are made if both of their .mat files lie below the sources. For the arguments and what is
    raised see ``prepare_gopro``.
    """
    root = Path(os.path.abspath(os.path.expanduser(root)))
    folders = opened(sources, root, dry_run=dry_run)
    if dry_run and not folders:
        return ["the archives are whole; what is in them is told when they are unpacked"]
    pairs, blocks = find_sidd(folders), find_blocks(folders)
    lines = []
    if len(pairs) != SIDD_PAIRS:
        lines.append(f"note: train has {len(pairs)} pairs; SIDD Medium has {SIDD_PAIRS}")
    common = Path(os.path.commonpath([pair.lq.parent.parent for pair in pairs.values()]))  # Data
    places = (root / "train" / "gt_crops", root / "train" / "input_crops")
    outputs = [Output(cuts, place, common) for cuts, place in zip(plan_cuts(pairs, grid), places, strict=True)]
    lines += write_cuts(outputs, grid, lmdb=lmdb, workers=workers, dry_run=dry_run)
    if blocks is None:
        lines.append(f"note: no validation blocks: {' and '.join(f'{name}.mat' for name in SIDD_BLOCKS)} are not there")
        return lines
    for name, path in zip(("gt_crops", "input_crops"), blocks, strict=True):
        lines.append(_blocks(path, root / "val" / name, lmdb=lmdb, workers=workers, dry_run=dry_run))
    return lines


def _blocks(path: Path, target: Path, *, lmdb: str | None, workers: int, dry_run: bool) -> str:
    """Write the blocks of a .mat file as PNG files, and with ``lmdb`` an LMDB of these."""
    with target_folder(target, {"made_of": way_to(path, target)}, dry_run=dry_run) as folder:
        if dry_run:
            return f"{target}: the blocks of {path.name}, would be made"
        (count,) = run_jobs(write_blocks, [(path, folder)], workers=0, what=path.name, unit="files")
    if lmdb is None:
        return f"{target}: {count} blocks"
    made = make_lmdb(Recipe(str(target), f"{target}.lmdb", lmdb), workers=max(1, workers), resume=True)
    return f"{made}: {count} blocks"
