"""The video sets of BasicSR's official option files: every key of theirs, as they stand there."""

import logging
from pathlib import Path
from typing import Any

import pytest

from vsr.config import load_options

REDS = """\
    name: REDS
    type: {kind}
    dataroot_gt: datasets/REDS/train_sharp
    dataroot_lq: datasets/REDS/train_sharp_bicubic
    dataroot_flow: ~
    meta_info_file: basicsr/data/meta_info/meta_info_REDS_GT.txt
    val_partition: REDS4  # set to 'official' when use the official validation partition
    test_mode: False
    io_backend:
      type: disk
    num_frame: 5
    gt_size: 256
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 3
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 200
    prefetch_mode: ~
"""
VIMEO = """\
    name: Vimeo90K
    type: Vimeo90KRecurrentDataset
    dataroot_gt: datasets/vimeo90k/vimeo_septuplet/sequences
    dataroot_lq: datasets/vimeo90k/BIx4
    meta_info_file: basicsr/data/meta_info/meta_info_Vimeo90K_train_GT.txt
    io_backend:
      type: disk
    num_frame: -1
    gt_size: 256
    interval_list: [1]
    random_reverse: false
    use_flip: true
    use_rot: true
    flip_sequence: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 200
    prefetch_mode: ~
"""
TESTS = """\
  val:
    name: REDS4
    type: {kind}
    dataroot_gt: datasets/REDS/train_sharp
    dataroot_lq: datasets/REDS/train_sharp_bicubic
    meta_info_file: basicsr/data/meta_info/{meta}
    io_backend:
      type: disk
    cache_data: false
    num_frame: {num_frame}
    padding: reflection_circle
"""


def load(tmp_path: Path, train: str, val: str = "") -> Any:
    path = tmp_path / "x.yml"
    path.write_text(
        f"name: x\nmodel_type: VideoBaseModel\nscale: 4\nnum_gpu: 8\ndatasets:\n  train:\n{train}{val}"
        "network_g: {type: BasicVSR}\ntrain:\n  total_iter: 5\n  optim_g: {type: Adam, lr: !!float 4e-4}\n"
        "  pixel_opt: {type: CharbonnierLoss, loss_weight: 1.0, reduction: sum}\n"
    )
    return load_options(path).datasets


@pytest.mark.parametrize("kind", ["REDSDataset", "REDSRecurrentDataset"])
def test_the_training_sets_of_reds_load_unchanged(tmp_path: Path, kind: str) -> None:
    dataset = load(tmp_path, REDS.format(kind=kind))["train"].dataset
    assert dataset.type == kind
    assert dataset.args["val_partition"] == "REDS4"
    assert dataset.args["meta_info_file"] is None  # the folder is searched: the list names all of it
    assert (dataset.args["test_mode"], dataset.args["dataroot_flow"], dataset.args["interval_list"]) == (
        False,
        None,
        [1],
    )


def test_the_training_set_of_vimeo_loads_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = load(tmp_path, VIMEO)["train"].dataset
    assert dataset.args["flip_sequence"] is dataset.args["use_hflip"] is True
    assert dataset.args["num_frame"] == -1
    assert dataset.args["meta_info_file"].endswith(
        "meta_info_Vimeo90K_train_GT.txt"
    )  # the set finds what stands for it
    assert "datasets.train.interval_list: it is not used: the frames of a septuplet are neighbours" in caplog.text


@pytest.mark.parametrize(
    ("meta", "clips"),
    [
        ("meta_info_REDS4_test_GT.txt", ["000", "011", "015", "020"]),
        ("meta_info_REDSofficial4_test_GT.txt", ["240", "241", "246", "257"]),
        ("meta_info_REDSval_official_test_GT.txt", [f"{number:03d}" for number in range(240, 270)]),
    ],
)
def test_lists_of_reds_become_names_of_clips(tmp_path: Path, meta: str, clips: list[str]) -> None:
    val = TESTS.format(kind="VideoTestDataset", meta=meta, num_frame=5)
    args = load(tmp_path, REDS.format(kind="REDSDataset"), val)["val"].dataset.args
    assert (args["clips"], args["meta_info_file"], args["padding"]) == (clips, None, "reflection_circle")


def test_test_sets_with_a_padding_that_they_do_not_need_load(tmp_path: Path) -> None:
    for kind, num_frame in (("VideoTestVimeo90KDataset", 7), ("VideoRecurrentTestDataset", -1)):
        val = TESTS.format(kind=kind, meta="meta_info_Vimeo90K_test_GT.txt", num_frame=num_frame)
        args = load(tmp_path, VIMEO, val)["val"].dataset.args
        assert args["num_frame"] == num_frame
        assert "padding" not in args


def test_the_parts_of_a_mixed_set_are_translated_too(tmp_path: Path) -> None:
    part = REDS.format(kind="REDSDataset").partition("    use_shuffle")[0].replace("\n    ", "\n        ")
    args = load(tmp_path, f"    type: MixedDataset\n    datasets:\n      - {part.strip()}\n")["train"].dataset.args
    assert [part["meta_info_file"] for part in args["datasets"]] == [None]


def test_lists_of_ones_own_stay(tmp_path: Path) -> None:
    mine = REDS.format(kind="REDSDataset").replace("basicsr/data/meta_info/", "lists/")
    assert load(tmp_path, mine)["train"].dataset.args["meta_info_file"] == "lists/meta_info_REDS_GT.txt"
