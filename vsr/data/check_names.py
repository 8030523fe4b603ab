"""The images of a data set that cannot be built, found without its constructor, which gives up at the first fault."""

import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from vsr.config.schema import Component, DatasetOptions
from vsr.data.fingerprint import Image
from vsr.data.names import gaps, read_clip_list, read_image_list
from vsr.data.pairs import Pair, PairReader
from vsr.data.reds import partition
from vsr.data.storage import RootStorage, existing, in_order, list_roots, open_storage, stem
from vsr.registry import DATASETS

Tell = Callable[[object], None]
_OF_PARTS = ("name", "weight", "degradations")  # keys of a part that are not its data set's
_NO_IMAGES = ("dataroot_flow", "dataroot_disparity")


def search(section: DatasetOptions, scale: int, *, train: bool, tell: Tell) -> list[Image]:
    """Find the images of a set by the arguments that name its roots, ``dataroot...``.

    Args:
        section: Of ``datasets``.
        scale: GT size / LQ size.
        train: GT must be exactly scale x LQ.
        tell: Is called with each fault.
    """
    arguments, entry = section.dataset.args, DATASETS.get(section.dataset.type)
    if parts := sections_of_parts(section):
        return [
            image._replace(key=f"{name}/{image.key}")
            for name, part in parts.items()
            for image in search(part, scale, train=train, tell=tell)
        ]
    in_clip = hasattr(entry, "clip_names")
    try:
        storage = open_storage(arguments.get("io_backend"))
        downscale = arguments.get("gt_downscale", 1)
        reader = PairReader(storage=storage, scale=scale, gt_downscale=downscale, exact=train)
        # as REDS's sets name them: by the last folder, whatever the archives were unpacked into
        of_reds = "test_mode" in inspect.signature(entry).parameters or arguments.get("val_partition")
        own = _in_last_folder if of_reds else str
        chosen = _chosen(arguments, has_clips=in_clip, of_training=getattr(entry, "is_train", True))
    except (ValueError, OSError, ImportError) as error:
        tell(error)
        return []
    images: list[Image] = []
    found = {
        argument: [_files(root, argument, storage, own, chosen, tell) for root in roots]
        for argument, roots in roots_of(arguments).items()
    }
    if in_clip and not arguments.get("allow_gaps"):
        for files in (files for roots in found.values() for files in roots):
            _tell_gaps(files, tell)
    gt, lq = found.pop("dataroot_gt", []), found.pop("dataroot_lq", [])
    template = str(arguments.get("filename_tmpl", "{}"))
    sharp: dict[str, str] = {}
    for one, other in zip(gt, found.pop("dataroot_lq_sharp", []), strict=False):
        sharp |= {gt: lq for _, (gt, lq) in _paired(one, other, template, tell, kind="a sharp LQ") if gt and lq}
    if gt and lq and "filename_tmpl" in inspect.signature(entry).parameters:  # they belong together by name
        for one, other in zip(gt, lq, strict=False):
            pairs = _paired(one, other, template, tell)
            images += [Image(key, Pair(*files, (0, 0)), reader, in_clip) for key, files in pairs]
        gt, lq = [], []
    for files in (*gt, *lq, *(files for roots in found.values() for files in roots)):
        images += [Image(key, Pair(path, None, (0, 0)), reader, in_clip) for key, path in files.items()]
    return [image._replace(sharp=sharp.get(image.pair.gt or "")) for image in images]


def roots_of(arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the roots of images that a data set's arguments name, by argument."""
    named = {name: given for name, given in arguments.items() if name.startswith("dataroot") and given}
    return {name: list(list_roots(given)) for name, given in named.items() if name not in _NO_IMAGES}


def sections_of_parts(section: DatasetOptions) -> dict[str, DatasetOptions]:
    """Return the sections that a data set made of others has for its parts, by name; none for an ordinary one."""
    parts = section.dataset.args.get("datasets")
    if not isinstance(parts, list):
        return {}
    found = {}
    for number, part in enumerate(parts):
        arguments = {name: given for name, given in part.items() if name not in ("type", *_OF_PARTS)}
        component = Component(type=part["type"], args=arguments)
        found[str(part.get("name") or number)] = replace(section, dataset=component)
    return found


def _in_last_folder(name: str) -> str:
    return "/".join(name.split("/")[-2:])


def _files(
    root: str, argument: str, storage: RootStorage, own: Callable[[str], str], chosen: Callable[[str], bool], tell: Tell
) -> dict[str, str]:
    """Return the chosen images of a root by their names in the set, without suffix."""
    try:
        folder = existing(root, argument)
        found, missing = storage.held(root, argument)
        for key in missing:
            tell(f"{folder}: expected the key '{key}' that its meta_info lists, got none in data.mdb.")
        names = [name for name in found if chosen(own(stem(name)))]
    except (ValueError, OSError) as error:
        tell(error)
        return {}
    files: dict[str, str] = {}
    for name in names:
        first = files.setdefault(own(stem(name)), str(folder / name))
        if first != str(folder / name):
            tell(f"{folder / name}: expected one image for each name, got {os.path.basename(first)}, too. Remove one.")
    return files


def _paired(
    gt: Mapping[str, str], lq: Mapping[str, str], template: str, tell: Tell, *, kind: str = "an LQ"
) -> list[tuple[str, tuple[str | None, str | None]]]:
    """Return the files of each name; those of LQ without a partner come last."""
    pairs: list[tuple[str, tuple[str | None, str | None]]] = []
    used = set()
    for key, path in gt.items():
        folder, file = os.path.split(key)
        wanted = os.path.join(folder, template.replace("{}", file))
        used.add(wanted)
        if wanted not in lq:
            tell(f"{path}: expected {kind} image '{wanted}' for it, got none.")
        pairs.append((key, (path, lq.get(wanted))))
    for key in (key for key in lq if key not in used):
        tell(f"{lq[key]}: expected a GT image for it, got none.")
        pairs.append((key, (None, lq[key])))
    return pairs


def _tell_gaps(files: Mapping[str, str], tell: Tell) -> None:
    clips: dict[str, list[str]] = defaultdict(list)
    for path in files.values():
        folder, name = os.path.split(path)
        clips[folder].append(name)
    for clip, names in clips.items():
        for before, after, lost in gaps(in_order(names)):
            tell(f"{clip}: expected frames without a gap, but {after} follows {before}: {lost} missing.")


def _chosen(arguments: Mapping[str, Any], *, has_clips: bool, of_training: bool) -> Callable[[str], bool]:
    """Return a function that tells whether the options leave an image, named without its suffix, in the set."""
    include, exclude, listing = (arguments.get(name) for name in ("clips", "exclude_clips", "meta_info_file"))
    listed: Iterable[str] | None = None
    if isinstance(listing, str):
        listed = set(read_clip_list(listing) if has_clips else map(stem, read_image_list(listing)))
    take = bool(arguments.get("test_mode")) or not of_training
    of_reds = partition(arguments.get("val_partition"), take=take).get("partition", lambda clip: True)

    def chosen(name: str) -> bool:
        clip = os.path.dirname(name)
        return (
            (include is None or clip in include)
            and (exclude is None or clip not in exclude)
            and (listed is None or (clip if has_clips else name) in listed)
            and of_reds(clip)
        )

    return chosen
