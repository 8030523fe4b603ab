"""FMA-Net's data sets: windows whose blurred, sharp and moving parts stay together, from any layout of REDS."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import coordinates
from golden.fmanet_recipe import FOLDER

from vsr.data.flow import flow_name, flow_pairs
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.overlap import shared_frames
from vsr.data.reds import PARTITIONS
from vsr.engine.generate_flow import generate_flow
from vsr.registry import DATASETS
from vsr.utils.images import write_image
from vsr.utils.resize import imresize

CLIPS, FRAMES, SIZE = ("000", "001", "011", "240"), 5, (24, 36)  # (height, width) of LQ
BLUE = {"sharp": 0, "blur_bicubic": 100, "sharp_bicubic": 200}  # of frame 0; it grows by one a frame
NESTED, FLAT = "train_{kind}/train/train_{kind}/{x4}", "train_{kind}/{x4}"


def lay_out(root: Path, layout: str) -> dict[str, str]:
    """Write REDS of coordinate frames and their flows; return the roots."""
    for kind, blue in BLUE.items():
        small = kind.endswith("bicubic")
        for clip in CLIPS:
            folder = root / layout.format(kind=kind, x4="X4" if small else "") / clip
            folder.mkdir(parents=True)
            write_frames(folder, blue, FRAMES, small=small)
    for clip in CLIPS:
        folder = root / layout.format(kind="flow_bicubic", x4="X4") / clip
        folder.mkdir(parents=True)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        for centre, neighbour in flow_pairs(FRAMES):
            flow = np.stack([columns + 100 * (neighbour - centre), rows], 2).astype(np.float32)
            np.save(folder / flow_name(f"{centre:08d}", f"{neighbour:08d}"), flow)
    names = {"gt": "sharp", "lq": "blur_bicubic", "lq_sharp": "sharp_bicubic", "flow": "flow_bicubic"}
    return {f"dataroot_{name}": str(root / f"train_{kind}") for name, kind in names.items()}


def write_frames(folder: Path, blue: int, count: int, *, small: bool) -> None:
    """Write a clip; one that is the same already beside it is linked, as nothing is written into a frame."""
    for frame in range(count):
        file = folder / f"{frame:08d}.png"
        twin = next(folder.parent.glob(f"*/{file.name}"), None)
        if twin is not None:
            file.hardlink_to(twin)
            continue
        picture = coordinates(*SIZE, blue + frame)
        write_image(file, picture if small else enlarged(picture))


def enlarged(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(4, 0).repeat(4, 1)


@pytest.fixture(scope="module", params=[NESTED, FLAT], ids=["nested", "flat"])
def roots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Roots that tests read alone; the words that other code replaces in paths stand in those of the user, too."""
    return lay_out(tmp_path_factory.mktemp("eval") / "blur sharp X4", request.param)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Roots that tests read alone."""
    return lay_out(tmp_path_factory.mktemp("REDS"), FLAT)


def build(name: str = "FMANetDataset", **arguments: Any) -> Any:
    sizes = {"gt_size": 32} if name == "FMANetDataset" else {}
    return DATASETS.build({"type": name, "scale": 4, "val_partition": "REDS4", **sizes, **arguments})


def test_all_parts_of_a_sample_show_the_same_place_and_flow_turns_with_them(roots: dict[str, str]) -> None:
    dataset = build(**roots)
    assert dataset.clip_names == ["001", "240"]
    seen = set()
    for draw in range(16):
        sample = dataset[draw % len(dataset), draw]
        shapes = {name: tuple(value.shape) for name, value in sample.items() if name != "key"}
        assert shapes == {"lq": (3, 3, 8, 8), "gt": (3, 3, 32, 32), "lq_sharp": (3, 3, 8, 8), "flow": (3, 2, 8, 8)}
        lq, sharp, flow = sample["lq"], sample["lq_sharp"], sample["flow"]
        centre = int(sample["key"].rpartition("/")[2])
        assert lq[:, 2, 0, 0].tolist() == [100 + centre + i for i in (-1, 0, 1)]
        assert sharp[:, 2, 0, 0].tolist() == [200 + centre + i for i in (-1, 0, 1)]
        assert sample["gt"][:, 2, 0, 0].tolist() == [centre + i for i in (-1, 0, 1)]
        assert torch.equal(sharp[:, :2], lq[:, :2])
        assert np.array_equal(
            sample["gt"][1, :2].numpy().transpose(1, 2, 0), enlarged(lq[1, :2].numpy().transpose(1, 2, 0))
        )
        row, column = lq[0, 0].float(), lq[0, 1].float()
        mirrored, turned = bool(column[0, 0] > column[0, 1]), bool(row[0, 0] > row[1, 0])
        assert (row[0] == row[0, 0]).all()  # never rotated
        for number, step in ((0, -100), (2, 100)):
            assert torch.equal(flow[number, 0], (-1 if mirrored else 1) * (column + step))
            assert torch.equal(flow[number, 1], (-1 if turned else 1) * row)
        assert not flow[1].any()
        seen.add((mirrored, turned))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_flips_are_options_each_and_a_draw_gives_one_sample(flat: dict[str, str]) -> None:
    for horizontal, vertical in ((True, False), (False, True), (False, False)):
        dataset = build(**flat, use_hflip=horizontal, use_vflip=vertical)
        found = [dataset[0, draw]["lq"][0].int() for draw in range(6)]
        assert any(x[1, 0, 0] > x[1, 0, 1] for x in found) == horizontal
        assert any(x[0, 0, 0] > x[0, 1, 0] for x in found) == vertical
    one, other = (build(**flat)[3, 7] for _ in range(2))
    assert one["key"] == other["key"]
    assert all(torch.equal(one[name], other[name]) for name in one if name != "key")


def test_lmdbs_and_kept_frames_give_the_samples_of_files(flat: dict[str, str], tmp_path: Path) -> None:
    expected = build(**flat)[2, 1]
    in_lmdb = {}
    for name, root in flat.items():
        if name == "dataroot_flow":
            in_lmdb[name] = root
            continue
        in_lmdb[name] = str(tmp_path / f"{name}.lmdb")
        make_lmdb(Recipe(root, in_lmdb[name], "tiles"))
    for dataset in (build(**in_lmdb, io_backend={"type": "lmdb"}), build(**flat, cache_data=True)):
        sample = dataset[2, 1]
        assert sample["key"] == expected["key"]
        assert all(torch.equal(sample[name], expected[name]) for name in expected if name != "key")


def test_the_clips_of_reds4_are_left_out_and_taken_and_share_nothing(
    roots: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    train = build(**roots)
    assert "2 clips to train on; REDS has 266 beside those of val_partition REDS4" in caplog.text
    test = build("FMANetTestDataset", **{name: roots[name] for name in ("dataroot_gt", "dataroot_lq")})
    assert (train.clip_names, test.clip_names) == (["001", "240"], ["000", "011"])
    assert "2 clips to measure on: val_partition REDS4 has 4, " in caplog.text
    assert "missing: 015, 020" in caplog.text
    assert shared_frames(train, test) == ""
    official = build(**{**roots, "val_partition": "official"})  # leaves out 240 alone
    assert official.clip_names == ["000", "001", "011"]
    assert "3 clips to train on; REDS has 240 beside those of val_partition official" in caplog.text
    assert shared_frames(official, test)


def test_a_test_set_leaves_out_the_ends_or_fills_them(flat: dict[str, str]) -> None:
    given = {name: flat[name] for name in ("dataroot_gt", "dataroot_lq")}
    test = build("FMANetTestDataset", **given)
    assert test.keys == [f"{clip}/{i:08d}" for clip in ("000", "011") for i in (1, 2, 3)]
    assert len(test) == 6
    sample = test[3]
    assert sample["key"] == "011/00000001"
    assert sample["lq"][:, 2, 0, 0].tolist() == [100, 101, 102]
    assert (tuple(sample["lq"].shape), tuple(sample["gt"].shape)) == ((3, 3, *SIZE), (3, 96, 144))
    assert sample["gt"][2, 0, 0] == 1
    with pytest.raises(IndexError):
        test[6]

    filled = build("FMANetTestDataset", **given, padding="replicate", gt_frames="all")
    assert len(filled) == 10
    assert filled.keys[0] == "000/00000000"
    assert filled[0]["lq"][:, 2, 0, 0].tolist() == [100, 100, 101]
    assert filled[0]["gt"].shape == (3, 3, 96, 144)
    assert filled[0]["gt"][:, 2, 0, 0].tolist() == [0, 0, 1]
    without = build("FMANetTestDataset", dataroot_lq=given["dataroot_lq"])
    assert "gt" not in without[0]


def test_blur_is_made_of_neighbours_where_there_are_sharp_clips_alone(flat: dict[str, str]) -> None:
    degradations = [{"type": "FrameAverage", "num_frame": 3}]
    dataset = build(dataroot_gt=flat["dataroot_gt"], degradations=degradations, use_hflip=False, use_vflip=False)
    sample = next(s for draw in range(99) if (s := dataset[7, draw])["key"].endswith("00000002"))
    assert sample["lq"][:, 2, 4, 4].tolist() == sample["lq_sharp"][:, 2, 4, 4].tolist() == [1, 2, 3]
    whole = np.stack([enlarged(coordinates(*SIZE, i)) for i in range(5)])
    top, left = int(sample["lq_sharp"][0, 0, 4, 4]) - 4, int(sample["lq_sharp"][0, 1, 4, 4]) - 4
    by_hand = imresize(whole[2], 0.25)[top : top + 8, left : left + 8].transpose(2, 0, 1)
    assert np.array_equal(sample["lq_sharp"][1].numpy(), by_hand)
    test = build("FMANetTestDataset", dataroot_gt=flat["dataroot_gt"], degradations=degradations)
    assert test[0]["lq"].shape == (3, 3, *SIZE)


def moving_clip(root: Path, *, step: int) -> None:
    """Write a clip of slow noise that moves by ``step`` LQ pixels a frame to the right."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    picture = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 2), (560, 400), interpolation=cv2.INTER_CUBIC)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    (root / "a").mkdir(parents=True)
    for i in range(3):
        left = 80 - 4 * step * i
        write_image(root / "a" / f"{i}.png", np.ascontiguousarray(picture[:320, left : left + 400]))


def test_flow_is_found_while_training_and_turns_with_the_frames(tmp_path: Path) -> None:
    moving_clip(tmp_path / "gt", step=2)
    dataset = build(
        dataroot_gt=str(tmp_path / "gt"), degradations=[{"type": "FrameAverage", "num_frame": 3}], find_flow=True,
        val_partition=None, gt_size=128,
    )  # fmt: skip
    signs = set()
    for draw in range(4):
        flow = dataset[1, draw]["flow"]
        assert (flow.dtype, flow.shape) == (torch.float32, (3, 2, 32, 32))
        assert not flow[1].any()
        before, after = float(flow[0, 0].median()), float(flow[2, 0].median())
        assert abs(before) == pytest.approx(2, abs=0.2)
        assert after == pytest.approx(-before, abs=0.3)
        assert flow[:, 1].abs().median() < 0.2
        signs.add(after > 0)
    assert signs == {True, False}


def test_a_flow_that_is_missing_is_told_at_the_start_with_what_makes_it(roots: dict[str, str], tmp_path: Path) -> None:
    roots = {**roots, "dataroot_flow": str(shutil.copytree(roots["dataroot_flow"], tmp_path / "flow"))}
    file = next(Path(roots["dataroot_flow"]).rglob("240/00000003_00000002.npy"))
    file.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"1 are missing, \S.*240/00000003_00000002.npy for one. Make them with scripts/generate_flow.py",
    ):
        build(**roots)
    for left in file.parent.glob("*.npy"):
        left.unlink()
    with pytest.raises(FileNotFoundError, match=r"dataroot_flow: .* Make it of the sharp LQ frames with scripts/gener"):
        build(**{**roots, "dataroot_flow": str(tmp_path / "none")})
    with pytest.raises(ValueError, match=r"a folder '.*240' with flows .* scripts/generate_flow.py"):
        build(**roots)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataroot_lq": None}, "dataroot_lq: expected the root of the blurred frames, got none"),
        ({"find_flow": True}, "find_flow: expected false beside dataroot_flow"),
        ({"num_frame": 1}, "num_frame: expected an odd number from 3 up, got 1"),
        ({"num_frame": 4}, "num_frame: expected an odd number"),
        ({"val_partition": "REDS5"}, "val_partition: expected REDS4, official or none, got 'REDS5'"),
        ({"gt_size": 30}, "gt_size: expected a multiple of scale"),
        ({"dataroot_lq_sharp": "GT"}, "dataroot_lq_sharp, as LQ of its own: .*expected a GT of 4 x"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str, flat: dict[str, str]) -> None:
    if change.get("dataroot_lq_sharp"):
        change = {"dataroot_lq_sharp": flat["dataroot_gt"]}
    with pytest.raises(ValueError, match=message):
        build(**{**flat, **change})


def test_all_of_reds_is_taken_without_a_word(
    flat: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vsr.data.fmanet.ALL_REDS", 4)
    monkeypatch.setitem(PARTITIONS, "REDS4", (0, 11))
    with caplog.at_level(logging.WARNING):
        build(**flat)
        build(**flat, clips=["001"])  # who chooses knows
        build("FMANetTestDataset", dataroot_gt=flat["dataroot_gt"], dataroot_lq=flat["dataroot_lq"])
        build("FMANetTestDataset", dataroot_lq=flat["dataroot_lq"], clips=["011"])
    assert not caplog.records


def test_a_tree_that_the_official_preparation_left_is_read_as_it_is(tmp_path: Path) -> None:
    """Its folders and flow files are the golden ones: train with val as 240 and 241, val of REDS4's clips."""
    layout = json.loads((FOLDER / "reds4_layout.json").read_text())
    for folder in layout["clip_dirs"]:
        small = "bicubic" in folder
        (tmp_path / folder).mkdir(parents=True)
        write_frames(tmp_path / folder, 0, 3, small=small)
    for split in ("train", "val"):
        kind = f"{split}_sharp_bicubic"
        generate_flow(str(tmp_path / kind / split / kind / "X4"), workers=0)
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npy")]
    assert sorted(found) == sorted(layout["flow_files"])

    train = build(
        dataroot_gt=f"{tmp_path}/train_sharp", dataroot_lq=f"{tmp_path}/train_blur_bicubic",
        dataroot_lq_sharp=f"{tmp_path}/train_sharp_bicubic", dataroot_flow=f"{tmp_path}/train_flow_bicubic",
    )  # fmt: skip
    val = build("FMANetTestDataset", dataroot_gt=f"{tmp_path}/val_sharp", dataroot_lq=f"{tmp_path}/val_blur_bicubic")
    assert train.clip_names == ["001", "240", "241"]
    assert val.clip_names == ["000", "011", "015", "020"]
    assert "flow" in train[0, 0]
    assert not val[0]["lq"].is_floating_point()
