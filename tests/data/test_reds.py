"""REDS in the layouts of its archives: which clips are trained on, and that nothing else changes a sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import final_state, history

from vsr.config import load_options
from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.engine.train import train
from vsr.registry import DATASETS

NUMBERS = (0, 1, 11, 15, 20, 239, 240, 269)
GIVEN: dict[str, Any] = {"scale": 4, "num_frame": 5, "gt_size": 16}
KINDS = ("REDSDataset", "REDSRecurrentDataset")


@pytest.fixture
def reds(write_clip: Any, tmp_path: Path) -> Path:
    """REDS's folders as the archives unpack: eight clips of six frames, GT 32 x 48."""
    for number in NUMBERS:
        write_clip("train_sharp/train/train_sharp", f"{number:03d}", count=6)
        write_clip("train_sharp_bicubic/train/train_sharp_bicubic/X4", f"{number:03d}", count=6, size=(8, 12))
    return tmp_path


def roots(reds: Path) -> dict[str, str]:
    return {"dataroot_gt": str(reds / "train_sharp"), "dataroot_lq": str(reds / "train_sharp_bicubic")}


def build(kind: str, *, seed: int = 3, **arguments: Any) -> Any:
    return DATASETS.build({"type": kind, **GIVEN, **arguments}, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("partition", "left", "taken"),
    [
        ("REDS4", ["001", "239", "240", "269"], ["000", "011", "015", "020"]),
        ("official", ["000", "001", "011", "015", "020", "239"], ["240", "269"]),
    ],
)
def test_a_partition_is_left_out_or_taken(
    reds: Path, kind: str, partition: str, left: list[str], taken: list[str]
) -> None:
    assert build(kind, **roots(reds), val_partition=partition).clip_names == left
    kept = build(kind, **roots(reds), val_partition=partition, test_mode=True)
    assert kept.clip_names == taken
    assert kept[0, 0]["key"].startswith(taken[0])


def test_reds4_is_left_out_unless_nothing_is_to_be(reds: Path) -> None:
    assert build("REDSDataset", **roots(reds)).clip_names == ["001", "239", "240", "269"]
    assert len(build("REDSDataset", **roots(reds), val_partition=None).clip_names) == len(NUMBERS)


@pytest.mark.parametrize("digits", [2, 5])
def test_clips_are_known_by_their_number_whatever_its_digits(write_clip: Any, digits: int) -> None:
    for number in (0, 4, 11):
        root = write_clip("gt", f"{number:0{digits}d}", count=7, names=[f"frame{i}" for i in range(7)])
    dataset = build("REDSDataset", dataroot_gt=str(root))
    assert dataset.clip_names == [f"{4:0{digits}d}"]
    assert len(dataset) == 7


def test_flat_and_nested_folders_give_the_same_samples(reds: Path) -> None:
    inner = {
        "dataroot_gt": str(reds / "train_sharp/train/train_sharp"),
        "dataroot_lq": str(reds / "train_sharp_bicubic/train/train_sharp_bicubic/X4"),
    }
    for kind in KINDS:
        nested, flat = build(kind, **roots(reds)), build(kind, **inner)
        for item in [(0, 0), (7, 3), (23, 9)]:
            assert_equal(nested[item], flat[item])
            assert flat[item]["key"].count("/") == 1


def test_samples_are_those_of_the_general_set_on_the_clips_that_are_left(reds: Path) -> None:
    inner = {name: f"{root}/train/{Path(root).name}" for name, root in roots(reds).items()}
    inner["dataroot_lq"] += "/X4"
    for kind, general in zip(KINDS, ("VideoTrainDataset", "VideoRecurrentTrainDataset"), strict=True):
        more: dict[str, Any] = {"interval_list": [1], "random_reverse": True}
        ours = build(kind, **roots(reds), **more)
        theirs = build(general, **inner, **more, exclude_clips=["000", "011", "015", "020"])
        for index in range(len(ours)):
            assert_equal(ours[index, index], theirs[index, index])


def test_a_window_holds_the_frames_that_its_key_and_options_ask_for(reds: Path) -> None:
    dataset = build("REDSDataset", **roots(reds), random_reverse=False)
    sample = dataset[2, 0]  # frame 2 of six, the first clip: its window of five is 0 to 4
    assert sample["key"] == "001/00000002"
    assert sample["lq"][:, 2, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert sample["gt"][2].unique().tolist() == [2]
    every_second = build("REDSRecurrentDataset", **roots(reds), interval_list=[2], num_frame=3)[1, 0]
    assert every_second["lq"][:, 2, 0, 0].tolist() == every_second["gt"][:, 2, 0, 0].tolist() == [1, 3, 5]


def test_the_official_list_may_name_clips_that_are_left_out_and_absent(reds: Path, tmp_path: Path) -> None:
    listed = tmp_path / "meta_info_REDS_GT.txt"
    names = [f"{number:03d} 6 (720,1280,3)\n" for number in (1, 11, 239, 241)]
    listed.write_text("".join(names))  # 241 is not there, and of the official partition
    dataset = build("REDSDataset", **roots(reds), val_partition="official", meta_info_file=str(listed))
    assert dataset.clip_names == ["001", "011", "239"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_partition": "reds4"}, "val_partition: expected REDS4, official or none, got 'reds4'"),
        ({"val_partition": None, "test_mode": True}, "test_mode: expected a val_partition"),
        ({"num_frame": 4}, "num_frame: expected an odd number, got 4"),
        ({"exclude_clips": ["000"]}, "exclude_clips: expected a name in the data set, got '000'"),
        ({"num_frame": 7}, "clip '001': expected 7 or more frames"),
    ],
)
def test_what_cannot_be_is_refused(reds: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("REDSDataset", **roots(reds), **given)


def test_a_partition_that_is_not_there_and_two_kinds_in_one_root_are_named(reds: Path, write_clip: Any) -> None:
    (alone,) = {write_clip("alone", "001", count=6)}
    with pytest.raises(ValueError, match="val_partition: expected clips of it, got roots with none"):
        build("REDSDataset", dataroot_gt=str(alone), test_mode=True)
    write_clip("train_sharp", "val/val_sharp/000", count=6)
    with pytest.raises(
        ValueError, match=r"dataroot_gt: expected one clip for each name, got .*train_sharp/000 and .*val"
    ):
        build("REDSDataset", **roots(reds))


# --- LMDB ----------------------------------------------------------------------------------------


def assert_equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lmdbs_and_folders_beside_lmdbs_give_the_same_samples(reds: Path, encoding: str) -> None:
    made = {}
    for name, root in roots(reds).items():
        made[name] = f"{root}_{encoding}.lmdb"
        make_lmdb(Recipe(root, made[name], encoding, tile=16), workers=1)
    for kind in KINDS:
        files = build(kind, **roots(reds))
        for mixed in (
            made,
            {**made, "dataroot_lq": roots(reds)["dataroot_lq"]},
            {**roots(reds), "dataroot_lq": made["dataroot_lq"]},
        ):
            stored = build(kind, **mixed, io_backend={"type": "lmdb"})
            assert stored.clip_names == files.clip_names
            for index in (0, 5, 17):
                assert_equal(stored[index, 2], files[index, 2])


# --- flows ---------------------------------------------------------------------------------------


def write_flows(folder: Path, count: int = 6, size: tuple[int, int] = (8, 12)) -> None:
    """Flows whose dx is the column and dy the row, plus a hundred for each frame that they lead on."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for centre in range(count):
        for neighbour in range(count):
            flow = np.stack([columns, rows], 2) + 100 * (neighbour - centre)
            np.save(folder / f"{centre:08d}_{neighbour:08d}.npy", flow.astype(np.float32))


@pytest.fixture
def flows(reds: Path) -> str:
    for number in NUMBERS:
        write_flows(reds / "train_flow_bicubic/train/train_flow_bicubic/X4" / f"{number:03d}")
    return str(reds / "train_flow_bicubic")


def test_flows_lead_from_the_centre_and_follow_crop_flips_and_reversal(reds: Path, flows: str) -> None:
    dataset = build("REDSDataset", **roots(reds), dataroot_flow=flows, random_reverse=True)
    orientations, directions = set(), set()
    for draw in range(60):
        sample = dataset[2, draw]
        flow, lq = sample["flow"], sample["lq"].float()
        assert (flow.dtype, flow.shape) == (torch.float32, (5, 2, 4, 4))
        frames = lq[:, 2, 0, 0]
        row, column = lq[0, 0], lq[0, 1]  # where the pixels of the crop were
        steps = 100 * (frames - 2).view(5, 1, 1)
        assert not flow[2].any()
        upright = bool(row[0, 0] == row[0, 1])
        # A mirrored axis turns its component round, exchanged axes exchange the components.
        dx, dy = (column, row) if upright else (row, column)
        across, down = dx[0, 0] < dx[0, 1], dy[0, 0] < dy[1, 0]
        expected = torch.stack([(dx + steps) * (1 if across else -1), (dy + steps) * (1 if down else -1)], 1)
        expected[2] = 0
        assert torch.equal(flow, expected)
        orientations.add((upright, bool(across), bool(down)))
        directions.add(frames.tolist()[0])
    assert len(orientations) == 8
    assert directions == {0, 4}


def test_a_sequence_has_the_flows_of_its_frames_forward_and_backward(reds: Path, flows: str) -> None:
    dataset = build("REDSRecurrentDataset", **roots(reds), dataroot_flow=flows, num_frame=3, use_hflip=False,
                    use_rot=False, random_reverse=True, interval_list=[2])  # fmt: skip
    seen = set()
    for draw in range(20):
        sample = dataset[1, draw]
        flow, row, column = sample["flow"], sample["lq"][0, 0], sample["lq"][0, 1]
        assert flow.shape == (2, 2, 2, 4, 4)
        step = 2 if sample["lq"][0, 2, 0, 0] < sample["lq"][1, 2, 0, 0] else -2
        for direction, sign in ((0, 1), (1, -1)):
            for part in flow[direction]:
                assert torch.equal(part, torch.stack([column, row]).float() + 100 * sign * step)
        seen.add(step)
    assert seen == {2, -2}


def test_missing_flows_are_named(reds: Path, flows: str, tmp_path: Path) -> None:
    folder = Path(flows) / "train/train_flow_bicubic/X4"
    gone = folder / "001" / "00000002_00000003.npy"
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=rf"sample 001/00000002: .*{gone.name}"):
        build("REDSDataset", **roots(reds), dataroot_flow=flows)[2, 0]
    (folder / "001" / "00000002_00000000.npy").unlink()  # as by FMA-Net's script, which goes one frame far
    with pytest.raises(
        FileNotFoundError, match=r"_00000000\.npy: expected .*generate_flow\.py with --distance 2, into a new"
    ):
        build("REDSDataset", **roots(reds), dataroot_flow=flows)[2, 0]
    (folder / "000" / "00000000_00000001.npy").unlink()  # and leaves out the ends
    with pytest.raises(
        FileNotFoundError, match=r"_00000001\.npy: expected .*generate_flow\.py with --ends, into a new"
    ):
        build("REDSRecurrentDataset", **roots(reds), dataroot_flow=flows, num_frame=5, val_partition=None)[0, 0]
    np.save(folder / "001" / "00000002_00000000.npy", np.zeros((4, 4, 2), np.float32))
    with pytest.raises(ValueError, match=r"sample 001/00000002: .*expected float32 \(8, 12, 2\)"):
        build("REDSDataset", **roots(reds), dataroot_flow=flows)[2, 0]
    for file in (folder / "239").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"dataroot_flow: expected a folder '239' .* of clip '239'"):
        build("REDSDataset", **roots(reds), dataroot_flow=flows)
    with pytest.raises(FileNotFoundError, match="dataroot_flow"):
        build("REDSDataset", **roots(reds), dataroot_flow=str(tmp_path / "none"))


# --- training ------------------------------------------------------------------------------------

OPTIONS = """
name: reds
model_type: VideoModel
scale: 4
manual_seed: 5
datasets:
  train:
    type: REDSDataset
    dataroot_gt: {root}/train_sharp
    dataroot_lq: {root}/train_sharp_bicubic
    val_partition: REDS4
    num_frame: 5
    gt_size: 16
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    type: VideoTestDataset
    dataroot_gt: {root}/train_sharp/train/train_sharp
    dataroot_lq: {root}/train_sharp_bicubic/train/train_sharp_bicubic/X4
    clips: [{val}]
    num_frame: 5
network_g:
  {{type: EDVR, num_frame: 5, num_feat: 8, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}}
path: {{experiments_root: {root}/experiments}}
train:
  total_iter: 2
  optim_g: {{type: Adam, lr: 1e-3}}
  pixel_opt: {{type: CharbonnierLoss}}
val: {{val_freq: 2, metrics: {{psnr: {{type: calculate_psnr}}}}}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false}}
"""


def options_of(reds: Path, val: str, *more: str) -> Any:
    path = reds / "x.yml"
    path.write_text(OPTIONS.format(root=reds, val=val))
    return load_options(path, more)


def test_a_run_trains_resumes_and_gives_what_an_unbroken_one_gives(reds: Path, flows: str) -> None:
    train(options_of(reds, "'000'", "name=one", f"datasets.train.dataroot_flow={flows}"))
    train(options_of(reds, "'000'", "name=two", "train.total_iter=1"))
    train(options_of(reds, "'000'", "name=two", "datasets.train.num_worker_per_gpu=2"))
    assert sorted(history(reds / "experiments/two")) == [1, 2]
    one, two = (final_state(reds / "experiments" / name, 2) for name in ("one", "two"))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def test_validating_on_a_clip_of_the_training_set_is_an_error(reds: Path) -> None:
    with pytest.raises(ValueError, match=r"datasets.val: expected frames that datasets.train does not hold"):
        train(options_of(reds, "'000', '001'"))
