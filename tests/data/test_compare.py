from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.config import load_options
from vsr.config.schema import Component, DatasetOptions
from vsr.data.compare import Comparison, Speed, advice, compare
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.utils.images import write_image

OPTIONS = """
name: bench
model_type: VideoModel
scale: 4
datasets:
  train: {{{train}, batch_size_per_gpu: 4, num_worker_per_gpu: 3}}
network_g: {{type: EDVR, num_feat: 8, deformable_groups: 2, num_frame: 3}}
train: {{total_iter: 1, optim_g: {{type: Adam, lr: 1e-3}}, pixel_opt: {{type: CharbonnierLoss}}}}
"""


def options(folder: Path, train: str) -> Any:
    (folder / "bench.yml").write_text(OPTIONS.format(train=train))
    return load_options(folder / "bench.yml")


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in (("gt", (32, 48)), ("lq", (8, 12))):
        for clip in range(6):
            (tmp_path / name / f"{clip}").mkdir(parents=True)
            for frame in range(4):
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                write_image(tmp_path / name / f"{clip}" / f"{frame}{'x4' * (name == 'lq')}.png", image)
    (tmp_path / "copies").mkdir()
    return tmp_path


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_each_storage_is_measured_on_whole_clips_of_the_set(roots: Path, backend: str) -> None:
    suffix = ".lmdb" if backend == "lmdb" else ""
    if backend == "lmdb":
        for name in ("gt", "lq"):
            make_lmdb(Recipe(str(roots / name), str(roots / f"{name}.lmdb"), "tiles"))
    train = (
        f"type: VideoTrainDataset, dataroot_gt: {roots}/gt{suffix}, dataroot_lq: {roots}/lq{suffix}, num_frame: 3, "
        f"gt_size: 16, filename_tmpl: '{{}}x4', exclude_clips: ['5'], io_backend: {{type: {backend}}}, cache_data: true"
    )
    found = compare(options(roots, train), roots / "copies", images=8, seconds=0.02)
    assert [speed.storage for speed in found.speeds] == ["disk", "lmdb png", "lmdb tiles", "lmdb raw"]
    assert (found.images, found.measured) == (20, 8)
    assert all(0 < speed.seconds < 10 for speed in found.speeds)
    names = sorted(path.relative_to(roots / "copies").as_posix() for path in (roots / "copies" / "lq").rglob("*.png"))
    assert names == [f"lq/{clip}/{frame}x4.png" for clip in (0, 2) for frame in range(4)]
    raw = sum((roots / "copies" / f"{name}_raw.lmdb" / "data.mdb").stat().st_size for name in ("gt", "lq"))
    assert found.speeds[3].set_bytes >= raw * 20 // 8


def test_images_without_lq_files_are_measured_too(roots: Path) -> None:
    train = f"type: PairedImageDataset, dataroot_gt: {roots}/gt, gt_size: 16"
    found = compare(options(roots, train), roots / "copies", images=4, seconds=0.02)
    assert (found.images, found.measured) == (24, 4)
    assert not (roots / "copies" / "lq").exists()


def test_a_file_without_a_training_set_is_refused(roots: Path) -> None:
    given = options(roots, f"type: PairedImageDataset, dataroot_gt: {roots}/gt, gt_size: 16")
    with pytest.raises(ValueError, match="datasets: expected a training set, 'train', got none"):
        compare(load_options(roots / "bench.yml").__class__(**{**given.__dict__, "datasets": {}}), roots / "copies")


def comparison(milliseconds: list[float], gigabytes: list[float], **more: Any) -> Comparison:
    names = ["disk", "lmdb png", "lmdb tiles", "lmdb raw"]
    speeds = [
        Speed(name, ms / 1000, int(gb * 1e9)) for name, ms, gb in zip(names, milliseconds, gigabytes, strict=True)
    ]
    arguments = {"dataroot_gt": "GT", "dataroot_lq": "LQ"} | more
    section = DatasetOptions(dataset=Component(type="T", args=arguments), batch_size_per_gpu=8, num_worker_per_gpu=4)
    return Comparison(speeds, 100, 10, section)


def test_raw_is_advised_where_it_fits_into_memory() -> None:
    text = "\n".join(advice(comparison([20, 20, 4, 0.5], [30, 30, 30, 66]), free_memory=int(200e9), cores=16))
    assert "fits into memory even as raw pixels (66.0 GB of 200.0 GB)" in text
    assert "lmdb raw is 40.0 times as fast as files" in text
    assert "python scripts/make_lmdb.py GT LQ --encoding raw raw" in text
    assert "4 workers on 16 cores prepare a batch of 8 in about 1 ms" in text


@pytest.mark.parametrize("memory", [60e9, 8e9])
def test_tiles_are_advised_where_raw_does_not_fit(memory: float) -> None:
    text = "\n".join(advice(comparison([20, 20, 4, 0.5], [30, 30, 30, 66]), free_memory=int(memory), cores=2))
    assert ("does not fit into the memory" if memory > 50e9 else "No form of the set fits") in text
    assert "--encoding tiles raw" in text
    assert "4 workers on 2 cores prepare a batch of 8 in about 16 ms" in text


def test_nothing_is_advised_where_nothing_is_won() -> None:
    text = "\n".join(advice(comparison([20, 20, 18, 19], [30, 30, 30, 66]), free_memory=int(200e9), cores=16))
    assert "no LMDB is needed" in text
    assert "make_lmdb" not in text


def test_one_root_of_both_is_made_into_one_lmdb() -> None:
    found = comparison([20, 20, 4, 0.5], [30, 30, 30, 66], dataroot_gt="PATCHES", dataroot_lq="PATCHES")
    text = "\n".join(advice(found, free_memory=int(200e9), cores=16))
    assert "python scripts/make_lmdb.py PATCHES --encoding raw\n" in text


def test_lmdbs_are_not_made_of_lmdbs() -> None:
    found = comparison([20, 20, 4, 0.5], [30, 30, 30, 66], io_backend={"type": "lmdb"})
    assert "make_lmdb.py FOLDERS --encoding raw raw" in "\n".join(advice(found, free_memory=int(200e9), cores=16))


@pytest.mark.parametrize("test_mode", ["false", "true"])
def test_named_sets_are_measured_on_what_they_would_take(write_clip: Any, tmp_path: Path, test_mode: str) -> None:
    for name in ("000", "001", "011"):
        write_clip("gt/train/train_sharp", name, count=6)
    train = f"type: REDSDataset, dataroot_gt: {tmp_path}/gt, num_frame: 3, gt_size: 16, test_mode: {test_mode}"
    found = compare(options(tmp_path, train), target(tmp_path), images=6, seconds=0.02)
    assert (found.images, found.measured) == (12 if test_mode == "true" else 6, 6)


def test_septuplets_are_copied_whole(write_clip: Any, tmp_path: Path) -> None:
    for name in ("00001/0001", "00002/0001"):
        write_clip("gt", name, names=[f"im{i}" for i in range(1, 8)])
    given = options(tmp_path, f"type: Vimeo90KRecurrentDataset, dataroot_gt: {tmp_path}/gt, gt_size: 16")
    assert compare(given, target(tmp_path), images=3, seconds=0.02).measured == 7


@pytest.mark.parametrize("kind", ["REDSDataset", "Vimeo90KDataset", "VideoTrainDataset"])
def test_clips_of_one_name_in_several_roots_are_told_apart(write_clip: Any, tmp_path: Path, kind: str) -> None:
    name = "00001/0001" if kind == "Vimeo90KDataset" else "001"
    for root in ("one/train_sharp", "two/train_sharp"):  # folders of one name, too
        write_clip(root, name, names=[f"im{i}" for i in range(1, 8)])
    both = [f"{tmp_path}/{root}/train_sharp" for root in ("one", "two")]
    train = f"type: {kind}, dataroot_gt: [{', '.join(both)}], num_frame: 3, gt_size: 16"
    found = compare(options(tmp_path, train), target(tmp_path), images=14, seconds=0.02)
    assert (found.images, found.measured) == (14, 14)
    slow = replace(found, speeds=[replace(found.speeds[0], seconds=1.0), *found.speeds[1:]])
    text = "\n".join(advice(slow, free_memory=int(200e9), cores=2))
    assert f"make_lmdb.py {' '.join(both)} --encoding " in text
    assert text.partition("--encoding ")[2].splitlines()[0] in ("png png", "tiles tiles", "raw raw")


def target(folder: Path) -> Path:
    (folder / "measured").mkdir()
    return folder / "measured"
