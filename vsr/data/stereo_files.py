"""Stereo pairs as they are downloaded: which two files belong together."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vsr.data.names import pick, read_image_list
from vsr.data.storage import existing, in_order, stem
from vsr.utils.image_headers import PNG
from vsr.utils.images import IMAGE_SUFFIXES, image_size

# Ends of the names of the two views, left and right. A scene of Middlebury 2001 has im0 to im8, of which 2 and 6 are
# the pair; of 2005 and 2006 view0 to view6; of 2014 im0 and im1.
MARKS = (
    ("_L", "_R"), ("_left", "_right"), ("view1", "view5"), ("im2", "im6"), ("im0", "im1"), ("hr0", "hr1"),
    ("left", "right"),
)  # fmt: skip
KITTI = {"kitti2012": ("colored_0", "colored_1"), "kitti2015": ("image_2", "image_3")}
# Beside the views, in the order of preference: disparities of what both views show, and of all that the left one shows.
KITTI_DISPARITY = ("disp_noc", "disp_noc_0", "disp_occ", "disp_occ_0")
DISPARITY_SUFFIXES = (".pfm", ".npy", ".png")  # in the order of preference
MULTIPLE = 20  # of which the sides of test images are, so that one HR folder serves every scale
FIRST_MOMENT = "_10"  # of the two moments of each KITTI scene; the second is _11
_NAMED = 3  # files that a message lists


@dataclass(frozen=True)
class StereoFiles:
    """The two views of a pair.

    Args:
        name: Of the pair.
        left, right: Its files.
        size: (height, width) of each view.
        disparity: File of the left view's true disparity; None: there is none.
    """

    name: str
    left: Path
    right: Path
    size: tuple[int, int]
    disparity: Path | None = None


def find_marked(root: str | Path, argument: str = "root") -> list[StereoFiles]:
    """Find the pairs of a folder by the ends of their files' names, see MARKS: in the folder itself or one below it.

    Of a folder for each scene, other images are passed over, and the first of disp0.pfm, .npy and .png is its
    disparity; not a PNG of 8 bits or in colours, which is a picture of it. In the folder itself, if no name says which
    view it is, neighbours in the order of their names are pairs, as iPASSR takes them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a view lacks its partner, the number of files is odd, or a pair's sizes differ; the files are named.
    """
    folder = existing(str(root), argument)
    if not folder.is_dir():
        raise ValueError(f"{argument}: expected a folder, got the file '{root}'.")
    flat = _images(folder)
    if flat:
        named = [name for name in flat if any(stem(name).endswith(mark) for marks in MARKS for mark in marks)]
        if not named:
            return _with_sizes(_neighbours(folder, flat))
        if len(named) < len(flat):
            others = [name for name in flat if name not in set(named)]
            raise ValueError(
                f"{folder}: expected names that end with one of {_marks_text()}, as {named[0]}, got {_some(others)}. "
                "Move the files away, or rename them."
            )
        return _with_sizes(_complete(folder, flat, strict=True))
    pairs: dict[str, tuple[Path, Path]] = {}
    truths: dict[str, list[Path]] = {}  # where they may be
    scenes = in_order([entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")])
    for scene in scenes:
        images = _images(folder / scene)
        found = _complete(folder / scene, images, strict=False) if images else {}
        for name, files in found.items():
            pairs[f"{scene}_{name}" if name else scene] = files
        if list(found) == [""]:
            maps = [folder / scene / f"disp0{suffix}" for suffix in DISPARITY_SUFFIXES]
            truths[scene] = [path for path in maps if path.is_file() and not _is_picture(path)]
    if not pairs:
        raise ValueError(
            f"{argument}: expected images of stereo pairs in '{root}' or in folders in it, named with one of "
            f"{_marks_text()}, got none. Check the path."
        )
    return _with_sizes(pairs, truths)


def find_kitti(root: str | Path, which: str, names_file: str | None = None) -> list[StereoFiles]:
    """Find the pairs of KITTI 2012 or 2015: of each scene the first moment, NNNNNN_10.png.

    KITTI gives disparities of its training images alone, in the first of KITTI_DISPARITY that is there.

    Args:
        root: The folder with colored_0 and colored_1 (2012) or image_2 and image_3 (2015), or one that has it as
            ``testing``.
        which: A key of KITTI.
        names_file: A text file that names the scenes to take, one a line: 000003, 000003_10 or 000003_10.png.

    Raises:
        FileNotFoundError, ValueError: as ``find_marked``; or a name of the list is not there.
    """
    top = existing(str(root), "root")
    views = KITTI[which]
    folder = next((base for base in (top, top / "testing") if any((base / view).is_dir() for view in views)), None)
    if folder is None:
        raise ValueError(
            f"root: expected the folders {views[0]} and {views[1]} of {which} in '{root}' or in its testing, "
            "got neither. Check the path."
        )
    found: dict[str, dict[str, Path]] = {}
    for view in views:
        names = _images(folder / view) if (folder / view).is_dir() else []
        for name in names:
            if stem(name).endswith(FIRST_MOMENT):
                found.setdefault(stem(name).removesuffix(FIRST_MOMENT), {})[view] = folder / view / name
    if not found:
        raise ValueError(f"root: expected images NNNNNN{FIRST_MOMENT}.png in '{folder / views[0]}', got none.")
    wanted = list(found)
    if names_file is not None:
        listed = [stem(name).removesuffix(FIRST_MOMENT) for name in read_image_list(names_file)]
        wanted = pick(listed, dict.fromkeys(found), f"list {names_file}")
    _check_partners(folder, [next(iter(found[name].values())) for name in wanted if len(found[name]) < 2])
    truths = {name: [folder / kind / f"{name}{FIRST_MOMENT}.png" for kind in KITTI_DISPARITY] for name in wanted}
    return _with_sizes({name: (found[name][views[0]], found[name][views[1]]) for name in wanted}, truths)


def _images(folder: Path) -> list[str]:
    names = [entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return list(in_order([name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]))


def _is_picture(path: Path) -> bool:
    """Return whether a file is a whole PNG head of anything but 16 bits grey."""
    with path.open("rb") as file:
        head = file.read(26)
    return len(head) == 26 and head.startswith(PNG) and (head[24], head[25]) != (16, 0)


def _complete(folder: Path, names: Sequence[str], *, strict: bool) -> dict[str, tuple[Path, Path]]:
    """Return the pairs among the images of one folder, by what is left of their names without the marks.

    With ``strict`` every image must belong to one. Without, those of the first of MARKS that gives a whole pair
    are taken.
    """
    alone: list[Path] = []
    pairs: dict[str, tuple[Path, Path]] = {}
    for marks in MARKS:
        views: dict[str, list[list[str]]] = {}
        for name in names:
            for side, mark in enumerate(marks):
                if stem(name).endswith(mark):
                    base = stem(name).removesuffix(mark).rstrip("_-")
                    views.setdefault(base, [[], []])[side].append(name)
        for base, (left, right) in views.items():
            if max(len(left), len(right)) > 1:
                twice = (left if len(left) > 1 else right)[:2]
                raise ValueError(f"{folder}: expected one image for each view, got {' and '.join(twice)}. Remove one.")
            if left and right:
                pairs.setdefault(base, (folder / left[0], folder / right[0]))
            elif strict or not pairs:
                alone.append(folder / (left or right)[0])
        if pairs and not strict:
            return pairs
    _check_partners(folder, [path for path in alone if path not in {p for pair in pairs.values() for p in pair}])
    return {name: pairs[name] for name in in_order(list(pairs))}


def _check_partners(folder: Path, alone: Sequence[Path]) -> None:
    if alone:
        raise ValueError(
            f"{folder}: expected a left and a right view of every pair, got one without the other: "
            f"{_some([str(path.relative_to(folder)) for path in alone])}. Complete or remove them."
        )


def _neighbours(folder: Path, names: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    if len(names) % 2:
        raise ValueError(
            f"{folder}: expected an even number of files, left and right views in turn, got {len(names)}, "
            f"from {names[0]} to {names[-1]}. Name them NAME_L and NAME_R, then the lonely one shows."
        )
    pairs = zip(names[::2], names[1::2], strict=True)
    return {stem(left): (folder / left, folder / right) for left, right in pairs}


def _with_sizes(
    pairs: Mapping[str, tuple[Path, Path]], truths: Mapping[str, Sequence[Path]] | None = None
) -> list[StereoFiles]:
    """Look at all headers; raise ValueError if two views of a pair differ in size.

    Of ``truths``, the files that may be a pair's disparity, the first that exists is taken.
    """
    with ThreadPoolExecutor(8) as pool:  # waiting for the disk
        sizes = list(pool.map(image_size, (path for pair in pairs.values() for path in pair)))
    found = [
        (StereoFiles(name, left, right, size, next(filter(Path.is_file, (truths or {}).get(name, ())), None)), other)
        for (name, (left, right)), size, other in zip(pairs.items(), sizes[::2], sizes[1::2], strict=True)
    ]
    wrong = [
        f"{files.left} {files.size[0]}x{files.size[1]} and {files.right.name} {other[0]}x{other[1]}"
        for files, other in found
        if files.size != other
    ]
    if wrong:
        raise ValueError(
            f"expected the two views of a pair to have one size, got {'; '.join(wrong[:_NAMED])}"
            f"{'; ...' if len(wrong) > _NAMED else ''}. Download them again, or move them away."
        )
    return [files for files, _ in found]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''} ({len(names)} in all)"


def _marks_text() -> str:
    return ", ".join("/".join(marks) for marks in MARKS)
