"""check_data and the fingerprint know every type of data set: a small set of each, good and spoiled."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vsr.config.schema import Component, DatasetOptions, Options
from vsr.data.check import SetCheck, check_data
from vsr.registry import DATASETS
from vsr.utils.images import write_image

VIDEO = {"num_frame": 3, "gt_size": 16}
TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "VideoTrainDataset": ("clips", VIDEO),
    "VideoRecurrentTrainDataset": ("clips", VIDEO),
    "REDSDataset": ("clips", {**VIDEO, "val_partition": None}),
    "REDSRecurrentDataset": ("clips", {**VIDEO, "val_partition": None}),
    "Vimeo90KDataset": ("vimeo", {"gt_size": 16}),
    "Vimeo90KRecurrentDataset": ("vimeo", {"gt_size": 16}),
    "VideoTestDataset": ("clips", {"num_frame": 3}),
    "VideoRecurrentTestDataset": ("clips", {}),
    "VideoTestVimeo90KDataset": ("vimeo", {}),
    "PairedImageDataset": ("images", {"gt_size": 16}),
    "PairedStereoImageDataset": ("stereo", {}),
    "SingleImageDataset": ("alone", {}),
    "CharadesDataset": ("charades", {"partition": "test", "input_size": 2, "frame_interval": 1}),
    "HumanEvaDataset": ("humaneva", {"partition": "train", "input_size": 2, "frame_interval": 1}),
    "NextFrameDataset": ("frames", {"partition": "test", "input_size": 2, "frame_interval": 1}),
    "FMANetDataset": ("sharp clips", {**VIDEO, "val_partition": None}),
    "FMANetTestDataset": ("clips", {}),
    "MixedDataset": ("mixed", {}),
}
FILES = {  # names of the files of each layout, GT and LQ; a set is as large as one of its clips
    "clips": ("gt/{clip}/{i:08d}.png", "lq/{clip}/{i:08d}.png", range(5)),
    "sharp clips": ("gt/{clip}/{i:08d}.png", "lq/{clip}/{i:08d}.png", range(5)),
    "frames": ("{clip}/{i:08d}.png", "", range(5)),
    "vimeo": ("gt/00001/{clip}/im{i}.png", "lq/00001/{clip}/im{i}.png", range(1, 8)),
    "images": ("gt/{clip}{i}.png", "lq/{clip}{i}.png", range(4)),
    "stereo": ("gt/{clip}/hr{i}.png", "lq/{clip}/lr{i}.png", range(2)),
    "alone": ("", "lq/{clip}{i}.png", range(4)),
    "charades": ("Charades_v1_480_img/{clip}/{i:07d}.png", "", range(5)),
    "humaneva": ("image/{clip}/{i:06d}.png", "", range(5)),
}


def write(root: Path, layout: str) -> tuple[dict[str, str], Path]:
    """Write two clips or their like; return the roots and one of the files."""
    rng = np.random.default_rng(0)
    gt, lq, numbers = FILES[layout]
    for clip in ("0001", "0002"):
        for i in numbers:
            coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            for pattern, size in ((gt, (48, 32)), (lq, (24, 16))):
                if pattern:
                    path = root / pattern.format(clip=clip, i=i)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image: Any = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
                    write_image(path, image)
    for partition in ("train", "val", "test"):
        (root / f"{partition}_list.csv").write_text("0001\n0002\n", encoding="utf-8")
    last = root / (lq or gt).format(clip="0002", i=numbers[-1])
    if layout in ("charades", "humaneva", "frames"):
        return {"dataroot": str(root)}, last
    if layout == "sharp clips":
        shutil.copytree(root / "lq", root / "lq_sharp")
        return {f"dataroot_{name}": str(root / name) for name in ("gt", "lq", "lq_sharp")}, last
    return {f"dataroot_{name}": str(root / name) for name, pattern in (("gt", gt), ("lq", lq)) if pattern}, last


def check(kind: str, arguments: dict[str, Any]) -> SetCheck:
    training = kind == "MixedDataset" or "gt_size" in arguments or arguments.get("partition") == "train"
    key = "train" if training else "val"
    scale = 1 if "partition" in arguments or kind == "SingleImageDataset" else 2
    section = DatasetOptions(dataset=Component(type=kind, args=arguments))
    options = Options(
        name="check", model_type="VideoModel", scale=scale, datasets={key: section}, network_g=Component(type="EDVR")
    )
    return check_data(options)[0]


def prepared(tmp_path: Path, kind: str) -> tuple[dict[str, Any], Path, int]:
    """Return the arguments of a set of this type, one of its files, and how many images it has."""
    layout, arguments = TYPES[kind]
    if layout == "mixed":
        first, _ = write(tmp_path / "a", "clips")
        second, last = write(tmp_path / "b", "clips")
        part = {"type": "VideoTrainDataset", **VIDEO}
        return {"datasets": [{**part, **first, "weight": 2}, {**part, **second, "name": "b", "weight": 1}]}, last, 20
    roots, last = write(tmp_path, layout)
    return {**roots, **arguments}, last, 2 * len(FILES[layout][2])


def test_every_type_is_tried_here() -> None:
    assert set(TYPES) >= set(DATASETS.table)


@pytest.mark.parametrize("kind", TYPES)
def test_a_good_set_of_every_type_passes_and_a_broken_file_is_named(tmp_path: Path, kind: str) -> None:
    arguments, last, count = prepared(tmp_path, kind)
    found = check(kind, arguments)
    assert (found.problems, found.images) == ([], count)
    assert found.fingerprint is not None
    assert found.fingerprint.startswith(f"v1-{count}-")
    assert found.decoded > 0
    whole = last.read_bytes()
    last.write_bytes(whole[:-20])
    spoiled = check(kind, arguments)
    assert any(f"{last}: expected a whole image" in problem for problem in spoiled.problems), spoiled.problems
    last.write_bytes(b"")
    empty = check(kind, arguments)
    assert any(f"{last}: expected an image, got an empty file" in problem for problem in empty.problems)
