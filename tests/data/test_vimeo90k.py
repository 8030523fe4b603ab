"""Vimeo-90K as its archive unpacks: septuplets, the official lists, BasicSR's LMDBs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import final_state, history

from vsr.config import load_options
from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.vimeo90k import middle_frames
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.registry import DATASETS

NAMES = [f"im{i}" for i in range(1, 8)]
CLIPS = ["00001/0001", "00001/0002", "00002/0001", "00002/0002"]  # the last one is of the test list
GIVEN: dict[str, Any] = {"scale": 4, "gt_size": 16}
KINDS = ("Vimeo90KDataset", "Vimeo90KRecurrentDataset", "VideoTestVimeo90KDataset")


@pytest.fixture
def vimeo(write_clip: Any, tmp_path: Path) -> Path:
    """The archive vimeo_septuplet with four septuplets of 32 x 48, and their reductions by 4 beside it."""
    for clip in CLIPS:
        write_clip("vimeo_septuplet/sequences", clip, names=NAMES)
        write_clip("BIx4", clip, names=NAMES, size=(8, 12))
    root = tmp_path / "vimeo_septuplet"
    (root / "sep_trainlist.txt").write_text("\n".join(CLIPS[:3]) + "\n")
    (root / "sep_testlist.txt").write_text(f"{CLIPS[3]}\n\n")
    (root / "readme.txt").write_text("Vimeo-90k septuplet\n")
    return tmp_path


def roots(vimeo: Path) -> dict[str, str]:
    return {"dataroot_gt": str(vimeo / "vimeo_septuplet/sequences"), "dataroot_lq": str(vimeo / "BIx4")}


def build(kind: str, *, seed: int = 3, **arguments: Any) -> Any:
    given = {"scale": 4} if "Test" in kind else GIVEN
    return DATASETS.build({"type": kind, **given, **arguments}, seed=seed)


def frames_of(images: torch.Tensor) -> list[int]:
    """Numbers of the frames, im1 is 1: the blue channel holds them from 0."""
    return [int(value) + 1 for value in images[:, 2, 0, 0]]


def assert_equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


# BasicSR's table for odd lengths, and its formula i + (9 - num_frame) // 2, i = 0, 1 ..., worked out for even ones.
WINDOWS = {1: [4], 2: [3, 4], 3: [3, 4, 5], 4: [2, 3, 4, 5], 5: [2, 3, 4, 5, 6], 6: [1, 2, 3, 4, 5, 6],
           7: [1, 2, 3, 4, 5, 6, 7]}  # fmt: skip


@pytest.mark.parametrize(("num_frame", "expected"), WINDOWS.items())
def test_a_window_is_of_the_middle_frames_and_its_gt_is_im4(vimeo: Path, num_frame: int, expected: list[int]) -> None:
    assert [position + 1 for position in middle_frames(num_frame)] == expected
    dataset = build("Vimeo90KDataset", **roots(vimeo), num_frame=num_frame)
    for index, clip in enumerate(CLIPS[:3]):
        sample = dataset[index, 5]
        assert (frames_of(sample["lq"]), frames_of(sample["gt"][None])) == (expected, [4])
        assert (sample["key"], sample["gt"].shape) == (f"{clip}/im4", (3, 16, 16))
    tested = build("VideoTestVimeo90KDataset", **roots(vimeo), num_frame=num_frame)[0]
    assert (frames_of(tested["lq"]), frames_of(tested["gt"][None])) == (expected, [4])
    assert (tested["gt"].shape, tested["key"]) == ((3, 32, 48), "00002/0002/im4")


def test_an_item_is_a_septuplet_of_the_list_for_its_purpose(vimeo: Path) -> None:
    for kind in KINDS:
        expected = CLIPS[3:] if "Test" in kind else CLIPS[:3]
        for gt in (vimeo / "vimeo_septuplet", vimeo / "vimeo_septuplet/sequences"):
            dataset = build(kind, dataroot_gt=str(gt), dataroot_lq=str(vimeo / "BIx4"))
            assert (dataset.clip_names, len(dataset)) == (expected, len(expected))
    assert build("VideoTestVimeo90KDataset", **roots(vimeo)).keys == ["00002/0002/im4"]


@pytest.mark.parametrize("line", ["{} 7 (256,448,3)", "{}", "{} 7"])
def test_lists_of_basicsr_and_of_the_archive_choose(vimeo: Path, line: str) -> None:
    listed = vimeo / "list.txt"
    listed.write_text("".join(line.format(clip) + "\n" for clip in (CLIPS[0], CLIPS[3])))
    for kind in KINDS:
        assert build(kind, **roots(vimeo), meta_info_file=str(listed)).clip_names == [CLIPS[0], CLIPS[3]]


def test_basicsrs_list_is_the_archives_where_it_is_not_at_hand(vimeo: Path) -> None:
    folder = "basicsr/data/meta_info"
    for kind, name, clips in (("Vimeo90KDataset", "train", CLIPS[:3]), ("VideoTestVimeo90KDataset", "test", CLIPS[3:])):
        given = f"{folder}/meta_info_Vimeo90K_{name}_GT.txt"
        assert build(kind, **roots(vimeo), meta_info_file=given).clip_names == clips
    with pytest.raises(FileNotFoundError, match="meta_info_file"):
        build(
            "VideoTestVimeo90KDataset", **roots(vimeo), meta_info_file=f"{folder}/meta_info_Vimeo90K_test_fast_GT.txt"
        )
    (vimeo / "vimeo_septuplet/sep_trainlist.txt").unlink()
    with pytest.raises(FileNotFoundError, match="meta_info_file"):  # all of them would be too many
        build("Vimeo90KDataset", **roots(vimeo), meta_info_file=f"{folder}/meta_info_Vimeo90K_train_GT.txt")


def test_without_any_list_all_septuplets_are_taken_with_a_warning(
    vimeo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in (vimeo / "vimeo_septuplet").glob("*list.txt"):
        file.unlink()
    assert build("Vimeo90KDataset", **roots(vimeo)).clip_names == CLIPS
    assert "no sep_trainlist.txt in or beside the root; all septuplets are taken" in caplog.text


def test_sequences_have_gt_for_each_frame_and_are_mirrored_to_fourteen(vimeo: Path) -> None:
    sample = build("Vimeo90KRecurrentDataset", **roots(vimeo))[1, 4]
    assert frames_of(sample["lq"]) == frames_of(sample["gt"]) == [1, 2, 3, 4, 5, 6, 7]
    mirrored = build("Vimeo90KRecurrentDataset", **roots(vimeo), flip_sequence=True)[1, 4]
    assert frames_of(mirrored["lq"]) == frames_of(mirrored["gt"]) == [1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1]
    assert torch.equal(mirrored["lq"][:7], sample["lq"])
    assert torch.equal(mirrored["gt"][7:], sample["gt"].flip(0))
    assert mirrored["key"] == "00001/0002/im1"
    shorter = build("Vimeo90KRecurrentDataset", **roots(vimeo), num_frame=3)[0, 0]
    assert frames_of(shorter["lq"]) == frames_of(shorter["gt"]) == [3, 4, 5]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_every_second_sample_is_reversed_if_asked_and_crops_and_flips_stay(vimeo: Path, kind: str) -> None:
    straight, reversing = (build(kind, **roots(vimeo), random_reverse=reverse) for reverse in (False, True))
    turned = 0
    for draw in range(60):
        one, other = straight[0, draw], reversing[0, draw]
        assert frames_of(one["lq"]) == NUMBERED
        if frames_of(other["lq"]) == NUMBERED:
            assert_equal(one, other)
            continue
        turned += 1
        assert torch.equal(other["lq"], one["lq"].flip(0))
        assert torch.equal(other["gt"], one["gt"] if kind == "Vimeo90KDataset" else one["gt"].flip(0))
    assert 15 < turned < 45  # 30, 4 standard deviations


NUMBERED = [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lmdbs_give_the_same_samples(vimeo: Path, encoding: str) -> None:
    made = {}
    for name, root in roots(vimeo).items():
        made[name] = str(vimeo / f"{name}_{encoding}.lmdb")
        make_lmdb(Recipe(root, made[name], encoding, tile=16), workers=1)
    listed = {"meta_info_file": str(vimeo / "vimeo_septuplet/sep_trainlist.txt")}
    for kind in KINDS:
        files = build(kind, **roots(vimeo), **listed)
        for where in (made, {**made, "dataroot_lq": roots(vimeo)["dataroot_lq"]}):
            stored = build(kind, **where, **listed, io_backend={"type": "lmdb"})
            assert stored.clip_names == files.clip_names == CLIPS[:3]
            for index in range(3):
                assert_equal(
                    stored[(index, 2) if files.is_train else index], files[(index, 2) if files.is_train else index]
                )


@pytest.mark.parametrize("stored", [False, True])
def test_gt_may_be_im4_alone_as_in_basicsrs_lmdb(vimeo: Path, stored: bool) -> None:
    expected = [build("Vimeo90KDataset", **roots(vimeo), num_frame=5)[index, 1] for index in range(3)]
    listed = str(vimeo / "vimeo_septuplet/sep_trainlist.txt")
    only = vimeo / "only4th"
    for clip in CLIPS[:3]:
        (only / clip).mkdir(parents=True)
        (only / clip / "im4.png").write_bytes((vimeo / "vimeo_septuplet/sequences" / clip / "im4.png").read_bytes())
    gt = str(only)
    if stored:
        gt = f"{only}.lmdb"
        make_lmdb(Recipe(str(only), gt), workers=1)
    where = {"dataroot_gt": gt, "dataroot_lq": str(vimeo / "BIx4"), "meta_info_file": listed}
    dataset = build("Vimeo90KDataset", **where, num_frame=5)
    for index in range(3):
        assert_equal(dataset[index, 1], expected[index])
    assert frames_of(build("VideoTestVimeo90KDataset", **where)[2]["lq"]) == NUMBERED
    with pytest.raises(
        ValueError, match=r"expected the same frames of clip '00001/0001' as in dataroot_gt \(1\), got 7"
    ):
        build("Vimeo90KRecurrentDataset", **where)
    if not stored:
        (only / CLIPS[0] / "im4.png").rename(only / CLIPS[0] / "im1.png")
        with pytest.raises(ValueError, match="clip '00001/0001': expected all frames of GT or the one of im4, got im1"):
            build("Vimeo90KDataset", **where)


def test_what_is_no_septuplet_is_refused_by_name(vimeo: Path) -> None:
    for num_frame in (0, 8, -2):
        with pytest.raises(ValueError, match=f"num_frame: expected 1 to 7, the frames of a septuplet, got {num_frame}"):
            build("Vimeo90KDataset", **roots(vimeo), num_frame=num_frame)
    for root in roots(vimeo).values():
        (Path(root) / CLIPS[2] / "im7.png").unlink()
    for kind in KINDS[:2]:
        with pytest.raises(ValueError, match="clip '00002/0001': expected the 7 frames of a septuplet, got 6"):
            build(kind, **roots(vimeo))


OPTIONS = """
name: vimeo
model_type: VideoModel
scale: 4
manual_seed: 5
datasets:
  train:
    type: {kind}
    dataroot_gt: {root}/vimeo_septuplet/sequences
    dataroot_lq: {root}/BIx4
    gt_size: 16
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    type: VideoTestVimeo90KDataset
    dataroot_gt: {root}/vimeo_septuplet/sequences
    dataroot_lq: {root}/BIx4
    num_worker_per_gpu: 0
network_g: {network}
path: {{experiments_root: {root}/experiments, results_root: {root}/results}}
train:
  total_iter: 2
  optim_g: {{type: Adam, lr: 1e-3}}
  pixel_opt: {{type: CharbonnierLoss}}
val: {{val_freq: 2, metrics: {{psnr: {{type: calculate_psnr}}}}}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false}}
"""
EDVR = "{type: EDVR, num_frame: 7, num_feat: 8, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}"


def test_a_run_trains_validates_resumes_and_tests(vimeo: Path) -> None:
    path = vimeo / "x.yml"
    path.write_text(OPTIONS.format(root=vimeo, kind="Vimeo90KDataset", network=EDVR))
    train(load_options(path, ["name=one"]))
    train(load_options(path, ["name=two", "train.total_iter=1", "val.val_freq=5"]))
    train(load_options(path, ["name=two", "datasets.train.num_worker_per_gpu=2"]))
    assert sorted(history(vimeo / "experiments/two")) == [1, 2]
    one, two = (final_state(vimeo / "experiments" / name, 2) for name in ("one", "two"))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    weights = vimeo / "experiments/one/models/net_g_2.pth"
    (records,) = run_test(load_options(path, [f"path.pretrain_network_g={weights}"])).values()
    assert [record.key for record in records] == ["00002/0002/im4"]
