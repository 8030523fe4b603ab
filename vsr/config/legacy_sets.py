"""What BasicSR says of data sets in other words than vsr: its lists of clips, and keys without a meaning."""

import logging

from vsr.config.legacy_moves import sets
from vsr.config.reader import Node

log = logging.getLogger(__name__)

# BasicSR's own lists, in a folder meta_info of its source or beside the data: the clips that they name; None: all.
_LISTS: dict[str, list[str] | None] = {
    "meta_info_DIV2K800sub_GT.txt": None,
    "meta_info_REDS_GT.txt": None,
    "meta_info_REDS4_test_GT.txt": ["000", "011", "015", "020"],
    "meta_info_REDSofficial4_test_GT.txt": ["240", "241", "246", "257"],
    "meta_info_REDSval_official_test_GT.txt": [str(number) for number in range(240, 270)],
}

# Keys of a type of data set, and what vsr does instead.
_SEPTUPLETS = "the frames of a septuplet are neighbours"
_UNUSED = {
    ("Vimeo90KDataset", "interval_list"): _SEPTUPLETS,
    ("Vimeo90KRecurrentDataset", "interval_list"): _SEPTUPLETS,
    ("VideoTestVimeo90KDataset", "padding"): "seven frames are there, and none needs to be made up",
    ("VideoRecurrentTestDataset", "padding"): "whole clips need no frames beyond their ends",
}

# Keys that mean nothing with one value, and have no counterpart with any other.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "mean": (None, [0, 0, 0]),
    "std": (None, [1, 1, 1]),
    "flip_LR": (False,),
    "inverse_RGB": (False,),
    "naive_inverse_RGB": (False,),
}
# Names of the prediction sets themselves, in small letters.
_PREDICTION = {
    **dict.fromkeys(("humaneva", "humanevadataset"), "HumanEvaDataset"),
    **dict.fromkeys(("charades", "charades_v1_480", "charadesdataset"), "CharadesDataset"),
}
_PAIRS = ("PairedImageDataset", "PairedStereoImageDataset", "SingleImageDataset")


def translate_sets(root: Node) -> None:
    """Rewrite the data sets of an option file in place, each change with a line in the log."""
    for dataset in sets(root):
        meant = _PREDICTION.get(str(dataset.get("type")).lower())
        if meant and dataset["type"] != meant:
            log.info("%s: %s is %s", dataset.where("type"), dataset["type"], meant)
            dataset["type"] = meant
        for (kind, key), instead in _UNUSED.items():
            if dataset.get("type") == kind and key in dataset:
                _, mark = dataset.take(key)
                log.info("%s: it is not used: %s", mark, instead)
        _drop_neutral(dataset)
        _read_files(dataset)
        folder, _, name = str(dataset.get("meta_info_file") or "").rpartition("/")
        if not folder.endswith("meta_info") or name not in _LISTS:
            continue
        clips = _LISTS[name]
        _, mark = dataset.take("meta_info_file")
        if clips is None:
            log.info("%s: BasicSR's list of the whole set is not needed: the roots are searched", mark)
        else:
            log.info("%s: BasicSR's list is clips: [%s]", mark, ", ".join(clips))
            dataset.put("clips", clips, mark)


def _drop_neutral(dataset: Node) -> None:
    for key, values in _NEUTRAL.items():
        if dataset.get("type") in _PAIRS and key in dataset and dataset[key] in values:
            _, mark = dataset.take(key)
            log.info("%s: it is not used: with this value it changes nothing", mark)


def _read_files(dataset: Node) -> None:
    """Memcached keeps files in the memory of a cluster; without it they are files."""
    backend = dataset.get("io_backend")
    if isinstance(backend, Node) and backend.get("type") == "memcached":
        log.info("%s: there is no memcached here; the files are read", backend.where("type"))
        backend["type"] = "disk"
        for key in ("server_list_cfg", "client_cfg", "sys_path"):
            if key in backend:
                backend.take(key)
