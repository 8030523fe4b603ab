"""Looking through the data sets of an option file before a run: for all that is wrong, not the first thing only."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from vsr.config.schema import Component, DatasetOptions, Options
from vsr.data.check_names import roots_of, search, sections_of_parts
from vsr.data.fingerprint import Image, differs, fingerprint, images_of, spread
from vsr.data.loader import build_dataset
from vsr.utils.images import Array, Frame
from vsr.utils.progress import Progress

DECODED = 64  # images of a set that are decoded, GT and LQ counted as one, unless all are
THUMBNAIL = 16  # pixels a side, of the comparison of LQ with GT
UNLIKE = 0.5  # correlation of an LQ thumbnail with its GT's below which they look like different pictures


@dataclass
class SetCheck:
    """What was found in one data set.

    Args:
        key: Of its section, 'train'.
        type: Of the data set.
        storage: disk, lmdb or both.
        clips: How many; None: the set has none.
        images: How many, GT and LQ counted as one; of a set of clips frames.
        gt: Height x width of GT, 'N sizes' or 'none'.
        lq: Of LQ; 'made' if it is made from GT.
        decoded: Images that were decoded.
        fingerprint: See ``vsr.data.fingerprint``; None: the set cannot be read.
        problems: What would stop a run or spoil its result.
        notes: What is unusual.
    """

    key: str
    type: str
    storage: str
    clips: int | None = None
    images: int = 0
    gt: str = "none"
    lq: str = "none"
    decoded: int = 0
    fingerprint: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, text: object) -> None:
        """Add a problem, unless one that is known says the same and more."""
        if not any(str(text) in known for known in self.problems[:1]):
            self.problems.append(str(text))


def check_data(options: Options, *, full: bool = False) -> list[SetCheck]:
    """Check every data set of an option file.

    Args:
        options: A checked option file.
        full: Decode all images, not a sample of them.

    Returns:
        One result a set, in the order of the file. Nothing is raised for what is wrong with the data.
    """
    results, files, pixels = [], {}, {}
    for key, section in options.datasets.items():
        result, dataset, digests = _check_set(key, section, options, full=full)
        results.append(result)
        files[key], pixels[key] = set(getattr(dataset, "gt_files", ())), digests
    for result in results:
        if result.key == "train" or "train" not in files:
            continue
        if shared := sorted(files["train"] & files[result.key]):
            result.problem(
                f"{len(shared)} files or clips are in datasets.train, too, {shared[0]} for one. "
                "Separate the sets by clips, exclude_clips or frames."
            )
        elif same := [name for digest, name in pixels[result.key].items() if digest in pixels["train"]]:
            twin = pixels["train"][next(d for d, name in pixels[result.key].items() if name == same[0])]
            result.problem(
                f"{len(same)} images have the pixels of images in datasets.train: {same[0]} is {twin} there."
            )
    return results


def _check_set(
    key: str, section: DatasetOptions, options: Options, *, full: bool
) -> tuple[SetCheck, Any, dict[bytes, str]]:
    """Return what was found, the data set (None: it cannot be built), and image names by a hash of their pixels."""
    arguments = section.dataset.args
    result = SetCheck(key, section.dataset.type, _storage(section))
    expected, section = section.fingerprint, replace(section, fingerprint=None)
    if "cache_data" in arguments:  # decoding is for later, and may fail
        component = Component(type=section.dataset.type, args={**arguments, "cache_data": False})
        section = replace(section, dataset=component)
    dataset, images = None, None
    try:
        dataset = build_dataset(section, scale=options.scale, seed=options.manual_seed, key=key)
        images = images_of(dataset)
    except TypeError as error:
        result.notes.append(f"{error} It could be built; its images were not looked at.")
    except (ValueError, OSError, ImportError) as error:
        result.problem(str(error).removeprefix(f"datasets.{key}: "))
        images = search(section, options.scale, train=key == "train", tell=result.problem)
    digests = _check_images(images, section, result, scale=options.scale, full=full) if images else {}
    if dataset is not None and images and result.ok:
        result.fingerprint = fingerprint(dataset)
        if text := differs(result.fingerprint, expected):
            result.problem(text)
    return result, dataset, digests


def _storage(section: DatasetOptions) -> str:
    """Return what the roots are: disk, lmdb or both."""
    sections = sections_of_parts(section).values() or [section]
    roots = [root for part in sections for roots in roots_of(part.dataset.args).values() for root in roots]
    kinds = {os.path.isfile(os.path.join(os.path.expanduser(root), "data.mdb")) for root in roots}
    return "both" if len(kinds) > 1 else "lmdb" if True in kinds else "disk"


# --- the images of a set -------------------------------------------------------------------------


def _check_images(
    images: Sequence[Image], section: DatasetOptions, result: SetCheck, *, scale: int, full: bool
) -> dict[bytes, str]:
    """Look at all headers and decode a sample; return image names by a hash of their pixels."""
    sizes = _check_sizes(images, section, result, scale)
    chosen = images if full else list(spread(images, max(1, DECODED // 2)))
    chosen = [image for image in chosen if all(path in sizes for path in image.files)]
    looks = _in_threads(_look, chosen, f"datasets.{result.key}: decoding")
    digests: dict[bytes, str] = {}
    twins: list[str] = []
    grey: list[str] = []
    flat: list[str] = []
    unlike: list[str] = []
    for image, look in zip(chosen, looks, strict=True):
        result.decoded += len(image.files) - len(look.faults)
        for fault in look.faults:
            result.problem(fault)
        if look.faults:
            continue
        first = digests.setdefault(look.digest, image.key)
        for names, found in ((twins, first != image.key), (grey, look.grey), (flat, look.flat), (unlike, look.unlike)):
            if found:
                names.append(f"{image.key} = {first}" if names is twins else image.key)
    for names, text in (
        (grey, "are grey: they are read as three equal channels"),
        (flat, "have one colour all over"),
        (unlike, "do not look like the same picture in LQ and GT"),
        (twins, "have the pixels of another image of the set"),
    ):
        if names:
            result.notes.append(f"{len(names)} of {len(chosen)} decoded images {text}: {_some(names)}")
    return digests


def _check_sizes(
    images: Sequence[Image], section: DatasetOptions, result: SetCheck, scale: int
) -> dict[str, tuple[int, int]]:
    """Compare the sizes that the headers tell; return them by file, without those of files that cannot be read."""
    result.images = len(images)
    sizes: dict[str, tuple[int, int]] = {}
    crop = section.dataset.args.get("gt_size") or 0
    found: tuple[Counter[str], ...] = Counter(), Counter(), Counter()  # of GT, LQ, sharp LQ
    by_clip: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    small = []
    for image, answers in zip(images, _in_threads(_headers, images, f"datasets.{result.key}: headers"), strict=True):
        for answer in answers:
            if isinstance(answer, str):
                result.problem(answer)
        gt, lq, sharp = answers
        for path, answer, counter in zip((*image.pair[:2], image.sharp), answers, found, strict=True):
            if path is not None and isinstance(answer, tuple):
                sizes[path] = answer
                counter[_by(answer)] += 1
        if isinstance(gt, str) or isinstance(lq, str) or (gt is None and lq is None):
            continue
        try:
            size = image.reader.fitted(*image.pair[:2], gt, lq).size
            if isinstance(sharp, tuple) and sharp != size:
                result.problem(f"{image.sharp}: expected LQ of {_by(size)}, as the blurred frame, got {_by(sharp)}.")
            if image.in_clip:
                by_clip[os.path.dirname(image.key)][_by(size)].append(os.path.basename(image.key))
        except ValueError as error:
            result.problem(error)
        if crop and gt and min(gt) // image.reader.gt_downscale < crop:
            small.append(f"{image.pair.gt} ({_by(gt)})")
    if small:
        result.problem(f"{len(small)} images are smaller than gt_size {crop}: {_some(small)}")
    result.gt, result.lq = map(_size_text, found[:2])
    if found[0] and not found[1] and (scale > 1 or section.degradations):
        result.lq = "made"
    if by_clip:
        _check_clips(by_clip, result)
    return sizes


def _check_clips(by_clip: Mapping[str, Mapping[str, Sequence[str]]], result: SetCheck) -> None:
    """Tell of clips whose frames differ in size, and how long the clips are."""
    for clip, frames in by_clip.items():
        if len(frames) > 1:
            text = ", ".join(f"{size} ({len(names)}, {names[0]} for one)" for size, names in frames.items())
            result.problem(f"clip '{clip}': expected frames of one size, got in LQ {text}.")
    lengths = Counter(sum(map(len, frames.values())) for frames in by_clip.values())
    result.clips = len(by_clip)
    usual = ", ".join(f"{clips} of {length}" for length, clips in sorted(lengths.items())[:5])
    result.notes.append(f"frames a clip: {usual}{', ...' if len(lengths) > 5 else ''}")


@dataclass
class _Look:
    """What a decoded image shows."""

    digest: bytes = b""
    grey: bool = False
    flat: bool = False
    unlike: bool = False
    faults: list[str] = field(default_factory=list)


def _headers(image: Image) -> tuple[tuple[int, int] | str | None, ...]:
    """Return the sizes of GT, LQ and sharp LQ, None where there is no file, a message where it cannot be read."""

    def size(path: str | None) -> tuple[int, int] | str | None:
        if path is None:
            return None
        try:
            return image.storage_of(path).size(path)
        except (ValueError, OSError) as error:
            return str(error)

    return tuple(map(size, (*image.pair[:2], image.sharp)))


def _look(image: Image) -> _Look:
    frames: list[Frame] = []
    look = _Look()
    for path in image.files:
        try:
            frames.append(image.storage_of(path).read(path))
        except (ValueError, OSError) as error:
            look.faults.append(str(error))
    if look.faults:
        return look
    first = np.ascontiguousarray(frames[0])
    look.digest = hashlib.blake2b(str(first.shape).encode() + first.tobytes(), digest_size=16).digest()
    look.grey = any(bool((f[..., 0] == f[..., 1]).all() and (f[..., 1] == f[..., 2]).all()) for f in frames)
    look.flat = any(int(f.min()) == int(f.max()) for f in frames)
    if len(frames) > 1 and not look.flat:
        thumbnails = list(map(_thumbnail, frames))
        look.unlike = any(float((thumbnails[0] * other).mean()) < UNLIKE for other in thumbnails[1:])
    return look


def _thumbnail(frame: Frame) -> Array:
    """Return a few grey pixels of zero mean and unit variance."""
    small = cv2.resize(np.ascontiguousarray(frame), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).mean(2)
    return (small - small.mean()) / max(float(small.std()), 1e-3)


def _in_threads(function: Callable[[Image], Any], images: Sequence[Image], what: str) -> Iterable[Any]:
    """Yield ``function`` of all images, in order, and tell how far it has come."""
    progress = Progress(what, len(images))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for answer in pool.map(function, images):
            progress.step()
            yield answer


def _size_text(found: Counter[str]) -> str:
    return f"{len(found)} sizes" if len(found) > 1 else next(iter(found), "none")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
