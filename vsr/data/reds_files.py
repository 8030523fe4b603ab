"""REDS as it is downloaded: its zip archives, and its clips wherever a tool has unpacked them.

Source: Nah et al., NTIRE 2019 Challenge on Video Deblurring and Super-Resolution: Dataset and Study (CVPRW 2019).
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vsr.data.archive_sources import Archive
from vsr.data.prepare import safe_unpack
from vsr.data.storage import walk
from vsr.utils.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

PAGE = "https://seungjunnah.github.io/Datasets/reds.html"
FRAMES = 100  # of every clip
COUNTS = {"train": 240, "val": 30, "test": 30}  # clips
KINDS = ("sharp", "sharp_bicubic", "blur", "blur_bicubic", "blur_comp", "blur_jpeg")
SUBSETS = tuple(
    f"{split}_{kind}"
    for split in COUNTS
    for kind in KINDS
    if split != "test" or kind not in ("sharp", "blur_jpeg")  # test's ground truth is not public
)
SUPER_RESOLUTION = ("train_sharp", "train_sharp_bicubic", "val_sharp", "val_sharp_bicubic")

SERVERS = ("huggingface", "snu")  # the author's, and his laboratory's at Seoul National University
_SIZES = {  # bytes, where they are known
    "train_sharp": 34_261_573_976,
    "train_sharp_bicubic": 2_652_551_733,
    "val_sharp": 4_273_865_704,
    "val_sharp_bicubic": 330_490_885,
}
ARCHIVES = {
    subset: Archive(
        file=f"{subset}.zip",
        addresses={
            "huggingface": f"https://huggingface.co/datasets/snah/REDS/resolve/main/{subset}.zip",
            "snu": f"http://data.cv.snu.ac.kr:8008/webdav/dataset/REDS/{subset}.zip",
        },
        size=_SIZES.get(subset, 0),
    )
    for subset in SUBSETS
}

_SUBSET = re.compile(rf"({'|'.join(sorted(SUBSETS, key=len, reverse=True))})(_part\d+)?")
_CLIP = re.compile(r"\d{3}")


@dataclass(frozen=True)
class Found:
    """A clip of a subset.

    Args:
        folder: Where its frames are, or will be.
        frames: How many.
    """

    folder: Path
    frames: int

    @property
    def complete(self) -> bool:
        return self.frames == FRAMES


Clips = dict[str, dict[str, Found]]  # by subset and name; the clips of val and test are 000 ... 029


def clips_below(root: Path, *, skip: Path | None = None) -> Clips:
    """Find REDS's clips below a folder, nested in whatever way.

    A clip is a folder of images with three digits as its name, below one that is called like a subset. The clips 240
    to 269 of train, where somebody has put those of val, are taken for these. Folders called REDS4 are passed over:
    there, clips of train may go by the name of val.

    Args:
        root: May itself be a subset's folder.
        skip: A folder that is none of the user's.
    """
    found: list[tuple[str, str, Found]] = []
    for folder, images, _ in walk(root):
        if images and (skip is None or skip not in folder.parents):
            parts = (root.name, *folder.relative_to(root).parts)
            if (named := _named(parts)) is not None:
                found.append((*named, Found(folder, len(images))))
    return _best(found)


def clips_in_archive(names: Iterable[str], folder: Path) -> Clips:
    """Return the clips of an archive that is, or will be, unpacked into ``folder``, from its list of files."""
    counts: dict[PurePosixPath, int] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    found = [
        (*named, Found(folder / path, count))
        for path, count in counts.items()
        if (named := _named((folder.name, *path.parts))) is not None
    ]
    return _best(found)


def _named(parts: Sequence[str]) -> tuple[str, str] | None:
    """Return (subset, clip) of a folder, or None if it is no clip."""
    if not _CLIP.fullmatch(parts[-1]) or any(part.upper() == "REDS4" for part in parts):
        return None
    subset = next((match[1] for part in reversed(parts[:-1]) if (match := _SUBSET.fullmatch(part))), None)
    if subset is None:
        return None
    split, _, kind = subset.partition("_")
    number = int(parts[-1])
    if split == "train" and number >= COUNTS["train"]:
        return f"val_{kind}", f"{number - COUNTS['train']:03d}"
    return subset, parts[-1]


def _best(found: Iterable[tuple[str, str, Found]]) -> Clips:
    """Of several folders for one clip take a complete one, and the nearest to the root."""
    clips: Clips = {}
    for subset, name, clip in sorted(
        found, key=lambda item: (not item[2].complete, len(item[2].folder.parts), item[2].folder)
    ):
        first = clips.setdefault(subset, {}).setdefault(name, clip)
        if first is not clip:
            log.debug("%s/%s: %s is used, not %s", subset, name, first.folder, clip.folder)
    return {subset: dict(sorted(clips[subset].items())) for subset in SUBSETS if subset in clips}


def archives_below(root: Path) -> dict[str, list[Path]]:
    """Return the zip archives in a folder and in those directly below it, by the subset that their names tell."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*root.glob("*.zip"), *root.glob("*/*.zip")]):
        if match := _SUBSET.fullmatch(path.stem):
            found.setdefault(match[1], []).append(path)
    return found


def unpack_missing(
    clips: Clips,
    archives: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    dry_run: bool = False,
) -> Clips:
    """Unpack the archives of the wanted subsets that are not complete, each into a folder of its own.

    Returns:
        ``clips`` with those of the archives in place of incomplete subsets.
    """
    result = dict(clips)
    for subset, files in archives.items():
        split = subset.partition("_")[0]
        have = clips.get(subset, {})
        if not wanted(subset) or sum(clip.complete for clip in have.values()) >= COUNTS[split]:
            continue
        for file in files:
            names = safe_unpack(file, folder / file.stem, dry_run=dry_run)
            log.info("%s: %d files %s %s", file, len(names), "would go into" if dry_run else "in", folder / file.stem)
            for name, unpacked in clips_in_archive(names, folder / file.stem).items():
                both = {**unpacked, **{k: clip for k, clip in result.get(name, {}).items() if clip.complete}}
                result[name] = dict(sorted(both.items()))
    return {subset: result[subset] for subset in SUBSETS if subset in result}


def faults(clips: Clips, subsets: Iterable[str]) -> list[str]:
    """Say what is missing of the subsets: clips, or frames of clips, with the name of the archive that has them."""
    said = []
    for subset in subsets:
        have, count = clips.get(subset, {}), COUNTS[subset.partition("_")[0]]
        missing = [name for i in range(count) if (name := f"{i:03d}") not in have]
        if missing:
            what = f"{len(missing)} of {count} clips are missing ({_some(missing)})" if have else "is missing"
            said.append(f"{subset}: {what}; they are in {subset}.zip")
        said += [
            f"{clip.folder}: expected {FRAMES} frames, got {clip.frames}; they are in {subset}.zip"
            for clip in have.values()
            if not clip.complete
        ]
    return said


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
