"""Charades and HumanEva as they are downloaded, made into folders of frames with lists of the clips.

    ROOT/Charades_v1_480_img/0A8CF/0000000.jpg          ROOT/image/S1_Box_1_(C1)/000000.jpg
    ROOT/train_list.csv  val_list.csv  test_list.csv    likewise

Charades: Sigurdsson et al., Hollywood in Homes, ECCV 2016. HumanEva: Sigal et al., IJCV 87, 2010.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vsr.data.prediction_lists import (
    Naming,
    Split,
    charades_name,
    humaneva_name,
    named_once,
    settle_lists,
    split_by_hash,
    split_by_scene,
)
from vsr.data.prepare import RECIPE, run_jobs, safe_unpack, target_folder
from vsr.data.storage import existing, stem, walk
from vsr.data.video_cache import LOST_FRAMES, decode_video, open_video
from vsr.utils.files import way_to
from vsr.utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key

UNPACKED = ".unpacked"  # in the output folder: what of an archive is not made into a clip yet
MAX_FILES = 20_000_000  # of an archive: Charades has 7 million frames


@dataclass(frozen=True)
class ClipJob:
    """One clip to be made.

    Args:
        source: A video; or a folder of frames, which is moved if it is our own and else linked to.
        target: The folder to be.
        digits: Of the names of a video's frames.
        quality: Of JPEG.
    """

    source: Path
    target: Path
    digits: int
    quality: int

    def run(self) -> None:
        if not self.source.is_dir():
            decode_video(self.source, self.target, digits=self.digits, suffix=".jpg", quality=self.quality, threads=1)
        elif UNPACKED in self.source.parts:
            self.source.rename(self.target)
        else:
            self.target.unlink(missing_ok=True)  # a link to what is no longer there
            self.target.symlink_to(way_to(self.source, self.target.parent), target_is_directory=True)


def prepare_humaneva(
    root: str, *, quality: int = 95, shortest: int = 501, workers: int, dry_run: bool = False
) -> list[str]:
    """Make ROOT/image of the videos in ROOT/video, or anywhere below ROOT, and the lists if there are none.

    Clips that are there are left as they are; so is all of ROOT/image if another tool has made it completely.

    Args:
        root: HumanEva's folder.
        quality: Of the JPEGs, 1 to 100.
        shortest: Frames that a clip must have to be of use; shorter ones are counted.
        workers: Processes; 0: none but this one.
        dry_run: Look and tell, write nothing.

    Returns:
        Lines that tell what there is now, or with dry_run would be.

    Raises:
        FileNotFoundError, ValueError, OSError: the user's mistakes, and damaged videos.
    """
    _check_quality(quality)
    folder = existing(root, "root")
    if not folder.is_dir():
        raise ValueError(f"root: expected HumanEva's folder, got the file '{root}'.")
    found = _videos(folder / "video" if (folder / "video").is_dir() else folder)
    if not found:
        raise ValueError(f"root: expected videos ({' '.join(VIDEO_SUFFIXES)}) in '{root}/video', got none.")
    paths = named_once(map(str, found), lambda path: humaneva_name(stem(str(found[path]))), root=folder)
    clips = {name: Path(path) for name, path in paths.items()}
    if _made_by_another(folder / "image", clips):
        return _finish(folder, folder / "image", clips, humaneva_name, split_by_scene, shortest, dry_run=dry_run)
    recipe = {"made_by": "prepare_humaneva", "quality": quality}
    with target_folder(folder / "image", recipe, dry_run=dry_run) as target:
        jobs = [ClipJob(path, target / name, 6, quality) for name, path in clips.items()]
        return _make(jobs, target, folder, humaneva_name, split_by_scene, shortest, workers=workers, dry_run=dry_run)


def prepare_charades(
    source: str, root: str, *, quality: int = 95, shortest: int = 501, workers: int, dry_run: bool = False
) -> list[str]:
    """Make ROOT/Charades_v1_480_img of an archive or a folder, of videos or of frames, and the lists if there are none.

    Videos are decoded. Frames are taken as they are: those of an archive unpacked, folders linked to.

    Args:
        source: Charades_v1_480.zip, Charades_v1_rgb.tar or the like; or a folder of what is in them.
        root: Charades' folder, which is made.

    The other arguments are those of ``prepare_humaneva``.
    """
    _check_quality(quality)
    path, folder = existing(source, "source"), Path(os.path.abspath(os.path.expanduser(root)))
    if path.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        raise ValueError(f"source: expected a folder, or a zip or tar archive, got the file '{source}'.")
    packed = path.is_file()
    names = safe_unpack(path, folder, max_members=MAX_FILES, dry_run=True) if packed else _files(path)
    found, kind = _clips_among(names, source)
    recipe = {"made_by": "prepare_charades", "of": kind, "quality": quality if kind == "videos" else None}
    with target_folder(folder / "Charades_v1_480_img", recipe, dry_run=dry_run) as target:
        missing = {below for name, below in found.items() if not (target / name).exists()}
        if packed:
            if not dry_run and missing:
                wanted: Callable[[str], bool] = lambda name: (  # noqa: E731
                    (name if kind == "videos" else name.rpartition("/")[0]) in missing
                )
                safe_unpack(path, target / UNPACKED, wanted=wanted, max_members=MAX_FILES)
            path = target / UNPACKED
        jobs = [ClipJob(path / below, target / name, 7, quality) for name, below in found.items()]
        return _make(jobs, target, folder, charades_name, split_by_hash, shortest, workers=workers, dry_run=dry_run)


# --- finding clips -------------------------------------------------------------------------------


def _videos(root: Path) -> dict[str, str]:
    """Return the paths of all videos and, below the root, of each."""
    found = [(folder / name) for folder, _, videos in walk(root) for name in videos]
    found.sort(key=lambda path: natural_key(str(path)))
    return {str(path): path.relative_to(root).as_posix() for path in found}


def _files(root: Path) -> list[str]:
    return [
        (folder / name).relative_to(root).as_posix()
        for folder, images, videos in walk(root, descend_below_images=False)
        for name in [*images[:1], *videos]  # one image tells of a clip
    ]


def _clips_among(names: Iterable[str], source: str) -> tuple[dict[str, str], str]:
    """Return the clips that files make, by name, and whether they are 'videos' or 'frames': folders of images.

    Raises:
        ValueError: there are none, or both, or two of one name.
    """
    videos, folders = [], {}
    for name in names:
        path = PurePosixPath(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(name)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            folders[path.parent.as_posix()] = name
    if not videos and not folders:
        raise ValueError(f"source: expected videos or folders of frames in '{source}', got none. Check the path.")
    if videos and folders:
        raise ValueError(
            f"source: expected videos or frames in '{source}', got both: {videos[0]} and "
            f"{next(iter(folders.values()))}. Name the folder of the one or the other."
        )
    if "." in folders:
        raise ValueError(f"source: expected a folder of frames for each clip, got {folders['.']} in '{source}' itself.")
    below = sorted(videos or folders, key=natural_key)
    found = named_once(
        below, lambda name: charades_name((stem(name) if videos else name).rpartition("/")[2]), root=source
    )
    return found, "videos" if videos else "frames"


def _made_by_another(target: Path, clips: Mapping[str, Path]) -> bool:
    """Tell whether another tool has made all clips; raise ValueError if it has made a part of them."""
    if not target.is_dir() or (target / RECIPE).exists() or not any(_frames(path) for path in _folders(target)):
        return False
    for name, video in clips.items():
        with open_video(video) as (_, expected):
            count = _frames(target / name)
        if count < max(1, expected - LOST_FRAMES):
            raise ValueError(
                f"{target}: expected the frames of all {len(clips)} videos, or a new folder, got {count} of {expected} "
                f"frames of '{name}', made by another tool. Move the folder away and run this again."
            )
    return True


def _folders(target: Path) -> list[Path]:
    return [path for path in target.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _frames(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if not entry.name.startswith("."))
        return sum(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names)


# --- making them ---------------------------------------------------------------------------------


def _make(
    jobs: Sequence[ClipJob],
    target: Path,
    root: Path,
    naming: Naming,
    split: Split,
    shortest: int,
    *,
    workers: int,
    dry_run: bool,
) -> list[str]:
    """Make what is missing, then the lists."""
    missing = [job for job in jobs if not job.target.exists()]
    lines = [f"{target}: {len(jobs)} clips, {len(missing)} {'to make' if dry_run else 'made now'}"]
    known = {job.target.name for job in jobs} | ({path.name for path in _folders(target)} if target.is_dir() else set())
    settle_lists(root, known, naming, split, dry_run=True)  # what is wrong with them shows before hours of work
    if not dry_run:
        for leftover in target.glob(".part.*"):  # of a run that was killed: a clip, or vsr.json
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        run_jobs(ClipJob.run, missing, workers=workers, what=target.name, unit="clips")
        shutil.rmtree(target / UNPACKED, ignore_errors=True)
    return lines + _finish(root, target, known, naming, split, shortest, dry_run=dry_run)


def _finish(
    root: Path,
    target: Path,
    known: Collection[str],
    naming: Naming,
    split: Split,
    shortest: int,
    *,
    dry_run: bool,
) -> list[str]:
    """Write or check the lists and count short clips; return lines that tell of both."""
    lines = settle_lists(root, known, naming, split, dry_run=dry_run)
    counts = [_frames(target / name) for name in known if (target / name).is_dir()]
    if short := sum(count < shortest for count in counts):
        lines.append(
            f"{short} of {len(counts)} clips have fewer than {shortest} frames, the longest {max(counts)}: "
            "the data sets leave clips out that have fewer than input_size x frame_interval + 1"
        )
    return lines


def _check_quality(quality: int) -> None:
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: expected 1 to 100, got {quality}.")
