"""Data sets on LMDBs give what they give on files, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.config import load_options
from vsr.data import TrainSampler, build_dataset, build_train_loader
from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.registry import DATASETS, MODELS
from vsr.utils.images import write_image

LMDB = {"type": "lmdb"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips 000 and 001 of five frames, GT 68 x 88 and LQ 17 x 22 of noise, as folders and in each encoding."""
    folder = tmp_path_factory.mktemp("roots")
    rng = np.random.default_rng(0)
    for name, size in (("gt", (68, 88)), ("lq", (17, 22))):
        for clip in ("000", "001"):
            (folder / name / clip).mkdir(parents=True)
            for frame in range(5):
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                write_image(folder / name / clip / f"{frame:08d}.png", image)
        for encoding in ENCODINGS:
            make_lmdb(Recipe(str(folder / name), str(folder / f"{name}_{encoding}.lmdb"), encoding, tile=16))
    return folder


TRAIN_VIDEO = {"num_frame": 3, "gt_size": 32, "interval_list": [1, 2], "random_reverse": True}
MADE = {"dataroot_lq": None}
CASES = {
    "window": ("VideoTrainDataset", TRAIN_VIDEO),
    "sequence": ("VideoRecurrentTrainDataset", TRAIN_VIDEO),
    "window, LQ made": ("VideoTrainDataset", {**TRAIN_VIDEO, **MADE}),
    "window, LQ made, GT reduced": ("VideoTrainDataset", {**TRAIN_VIDEO, **MADE, "gt_downscale": 2, "gt_size": 24}),
    "window, in memory": ("VideoTrainDataset", {**TRAIN_VIDEO, "cache_data": True}),
    "sequence, LQ made, in memory": ("VideoRecurrentTrainDataset", {**TRAIN_VIDEO, **MADE, "cache_data": True}),
    "test windows": ("VideoTestDataset", {"num_frame": 3}),
    "test windows, LQ made": ("VideoTestDataset", {"num_frame": 3, **MADE}),
    "test clips": ("VideoRecurrentTestDataset", {}),
    "test clips, in memory": ("VideoRecurrentTestDataset", {"cache_data": True}),
    "image crops": ("PairedImageDataset", {"gt_size": 32}),
    "image crops, LQ made": ("PairedImageDataset", {"gt_size": 32, **MADE}),
    "image crops, LQ made, GT reduced": ("PairedImageDataset", {"gt_size": 24, **MADE, "gt_downscale": 2}),
    "images": ("PairedImageDataset", {}),
}  # fmt: skip


def samples(roots: Path, kind: str, arguments: dict[str, Any], suffix: str, **more: Any) -> tuple[list[str], list[Any]]:
    given = {
        "dataroot_gt": str(roots / f"gt{suffix}"),
        "dataroot_lq": str(roots / f"lq{suffix}"),
        "scale": 4,
        **arguments,
    }
    dataset = DATASETS.build({"type": kind, **given, **more}, seed=3)
    items = (
        [(index, draw) for draw in range(3) for index in range(len(dataset))]
        if dataset.is_train
        else range(len(dataset))
    )
    return list(getattr(dataset, "clip_names", [])), [dataset[item] for item in items]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("case", CASES)
def test_samples_are_those_of_files(roots: Path, case: str, encoding: str) -> None:
    kind, arguments = CASES[case]
    names, expected = samples(roots, kind, arguments, "")
    found_names, found = samples(roots, kind, arguments, f"_{encoding}.lmdb", io_backend=LMDB)
    assert names == found_names
    assert len(expected) == len(found) > 0
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def test_a_frame_of_another_size_than_its_clip_is_named_when_a_part_of_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "gt" / "a").mkdir(parents=True)
    (tmp_path / "lq" / "a").mkdir(parents=True)
    for frame, side in enumerate((32, 32, 40)):
        write_image(tmp_path / "gt" / "a" / f"{frame}.png", np.zeros((side, 32, 3), np.uint8))
        write_image(tmp_path / "lq" / "a" / f"{frame}.png", np.zeros((side // 4, 8, 3), np.uint8))
    for name in ("gt", "lq"):
        make_lmdb(Recipe(str(tmp_path / name), str(tmp_path / f"{name}.lmdb"), "raw"))
    given = {"type": "VideoRecurrentTrainDataset", "scale": 4, "num_frame": 3, "gt_size": 16, "io_backend": LMDB}
    both = DATASETS.build({**given, "dataroot_gt": str(tmp_path / "gt.lmdb"), "dataroot_lq": str(tmp_path / "lq.lmdb")})
    with pytest.raises(ValueError, match=r"sample a/0: .*lq.lmdb/a/2.png: expected 8x8 like the first frame.*got 10x8"):
        both[0, 0]
    alone = DATASETS.build({**given, "dataroot_gt": str(tmp_path / "gt.lmdb")})
    with pytest.raises(ValueError, match=r"sample a/0: .*gt.lmdb/a/2.png: expected a GT of 4 x 8x8 .* got 40x32"):
        alone[0, 0]


def test_frames_in_memory_are_copies_of_the_file(roots: Path, tmp_path: Path) -> None:
    for name in ("gt", "lq"):
        (tmp_path / f"{name}.lmdb").mkdir()
        for file in (roots / f"{name}_raw.lmdb").iterdir():
            (tmp_path / f"{name}.lmdb" / file.name).write_bytes(file.read_bytes())
    given = {"dataroot_gt": str(tmp_path / "gt.lmdb"), "dataroot_lq": str(tmp_path / "lq.lmdb"), "scale": 4}
    dataset = DATASETS.build(
        {"type": "VideoTrainDataset", **given, **TRAIN_VIDEO, "cache_data": True, "io_backend": LMDB}
    )
    before = dataset[3, 1]
    for name in ("gt", "lq"):  # zeros in the file itself, through its pages
        data = tmp_path / f"{name}.lmdb" / "data.mdb"
        with data.open("r+b") as file:
            file.seek(8192)
            file.write(bytes(data.stat().st_size - 8192))
    assert torch.equal(before["gt"], dataset[3, 1]["gt"])
    assert torch.equal(before["lq"], dataset[3, 1]["lq"])


OPTIONS = """
name: lmdb
model_type: VideoModel
scale: 4
manual_seed: 5
datasets:
  train:
    type: VideoTrainDataset
    dataroot_gt: {gt}
    dataroot_lq: {lq}
    io_backend: {{type: {backend}}}
    num_frame: 3
    gt_size: 32
    batch_size_per_gpu: 2
    num_worker_per_gpu: 2
network_g:
  {{type: EDVR, num_frame: 3, num_feat: 8, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}}
train:
  total_iter: 2
  optim_g: {{type: Adam, lr: 1e-3}}
  pixel_opt: {{type: CharbonnierLoss}}
"""


def trained(roots: Path, tmp_path: Path, suffix: str, backend: str) -> list[torch.Tensor]:
    """Return the weights after two steps, with samples from worker processes."""
    path = tmp_path / "lmdb.yml"
    path.write_text(OPTIONS.format(gt=roots / f"gt{suffix}", lq=roots / f"lq{suffix}", backend=backend))
    options = load_options(path)
    section = options.datasets["train"]
    dataset = build_dataset(section, scale=4, seed=5, key="train")
    sampler = TrainSampler(length=len(dataset), batch_size=2, seed=5, num_batches=2)
    loader = build_train_loader(dataset, section, sampler, pin_memory=False)
    torch.manual_seed(0)
    model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))
    for step, batch in enumerate(loader, start=1):
        model.train_step([batch], step)
    return [parameter.detach().clone() for parameter in model.network_g.parameters()]


def test_training_from_each_encoding_ends_in_the_same_weights(roots: Path, tmp_path: Path) -> None:
    expected = trained(roots, tmp_path, "", "disk")
    for encoding in ENCODINGS:
        found = trained(roots, tmp_path, f"_{encoding}.lmdb", "lmdb")
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
