"""Flows of whole sets of clips: which files there are, what they hold, what happens the second time."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from vsr.data.augment import Flow
from vsr.data.flow import default_flow_root, dis_flow, read_flow
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.engine import generate_flow as module
from vsr.engine.generate_flow import generate_flow
from vsr.ops.warp import flow_warp
from vsr.registry import DATASETS
from vsr.utils.images import Frame, read_image, write_image

SIZE = (40, 56)


def frame(index: int, size: tuple[int, int] = SIZE) -> Frame:
    """A texture that moves by (2, 1) a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 140, 3), dtype=np.uint8)
    large = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.ascontiguousarray(large[20 - index :, 40 - 2 * index :][: size[0], : size[1]])


def write_clips(root: Path, clips: Sequence[str], count: int = 4) -> Path:
    for clip in clips:
        (root / clip).mkdir(parents=True)
        for i in range(count):
            write_image(root / clip / f"{i:08d}.png", frame(i))
    return root


@pytest.fixture
def reds(tmp_path: Path) -> Path:
    """REDS's nested folder of the sharp frames in low resolution."""
    return write_clips(tmp_path / "train_sharp_bicubic/train/train_sharp_bicubic/X4", ("000", "001"))


def flows(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))


EXPECTED = [
    f"{clip}/{name}.npy"
    for clip in ("000", "001")
    for name in ("00000001_00000000", "00000001_00000002", "00000002_00000001", "00000002_00000003")
]


def test_the_files_are_where_fma_net_looks_for_them_and_point_to_the_neighbour(reds: Path, tmp_path: Path) -> None:
    plan = generate_flow(str(reds))
    folder = tmp_path / "train_flow_bicubic/train/train_flow_bicubic/X4"
    assert (plan.folder, plan.clips, plan.flows) == (folder, 2, 8)
    assert flows(folder) == EXPECTED
    assert plan.bytes == sum((folder / name).stat().st_size for name in EXPECTED)
    for name, (dx, dy) in (("00000001_00000000", (-2, -1)), ("00000001_00000002", (2, 1))):
        flow = read_flow(folder / f"001/{name}.npy", SIZE)
        assert np.median(flow[0]) == pytest.approx(dx, abs=0.2)
        assert np.median(flow[1]) == pytest.approx(dy, abs=0.2)
    np.testing.assert_array_equal(flow, dis_flow(frame(1), frame(2)))  # what the last file of the loop holds


def test_a_dry_run_counts_and_writes_nothing(reds: Path, tmp_path: Path) -> None:
    plan = generate_flow(str(reds), dry_run=True)
    assert (plan.clips, plan.flows) == (2, 8)
    assert os.listdir(tmp_path) == ["train_sharp_bicubic"]


def test_neighbours_further_away_are_asked_for_by_distance(reds: Path, tmp_path: Path) -> None:
    for i in (4, 5):
        write_image(reds / f"001/{i:08d}.png", frame(i))
    assert generate_flow(str(reds), tmp_path / "far", distance=2).flows == 8  # clip 000 is too short
    centre, other = "00000003", ["00000001", "00000002", "00000004", "00000005"]
    assert [name for name in flows(tmp_path / "far") if name.startswith(f"001/{centre}")] == [
        f"001/{centre}_{name}.npy" for name in other
    ]


def test_recurrent_networks_get_the_flows_of_the_first_and_the_last_frame_too(reds: Path, tmp_path: Path) -> None:
    assert generate_flow(str(reds), tmp_path / "flow", ends=True).flows == 12
    extra = {"00000000_00000001", "00000003_00000002"}
    expected = {*EXPECTED, *(f"{clip}/{name}.npy" for clip in ("000", "001") for name in extra)}
    assert set(flows(tmp_path / "flow")) == expected
    generate_flow(str(reds), tmp_path / "inner")
    for name in EXPECTED:
        assert (tmp_path / "flow" / name).read_bytes() == (tmp_path / "inner" / name).read_bytes()


def test_images_video_and_lmdb_give_the_same_flows(reds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    generate_flow(str(reds), tmp_path / "images")
    for encoding in ("png", "tiles", "raw"):
        make_lmdb(Recipe(str(reds), str(tmp_path / f"{encoding}.lmdb"), encoding))
        generate_flow(str(tmp_path / f"{encoding}.lmdb"))
        assert flows(tmp_path / f"{encoding}_flow") == EXPECTED
        for name in EXPECTED:
            made = tmp_path / f"{encoding}_flow" / name
            assert made.read_bytes() == (tmp_path / "images" / name).read_bytes()
    video = tmp_path / "videos/v.avi"
    video.parent.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"FFV1"), 25, SIZE[::-1])
    for i in range(4):
        writer.write(cv2.cvtColor(frame(i), cv2.COLOR_RGB2BGR))
    writer.release()
    generate_flow(str(video.parent))
    assert flows(tmp_path / "videos_flow") == [name.replace("001/", "v/") for name in EXPECTED[4:]]


def test_the_second_time_only_what_is_missing_or_broken_is_made(
    reds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "flow"
    generate_flow(str(reds), folder)
    whole = {name: (folder / name).read_bytes() for name in EXPECTED}
    (folder / EXPECTED[0]).write_bytes(b"")
    (folder / EXPECTED[1]).write_bytes(whole[EXPECTED[1]][:-9])
    np.save(folder / EXPECTED[2], np.full((*SIZE, 2), np.nan, np.float32))
    (folder / EXPECTED[3]).unlink()
    times = {name: (folder / name).stat().st_mtime_ns for name in EXPECTED[4:]}
    with caplog.at_level(logging.INFO):
        generate_flow(str(reds), folder)
    assert {name: (folder / name).read_bytes() for name in EXPECTED} == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in EXPECTED[4:]} == times
    assert "4 of 8 flows were there already" in caplog.text
    for name in EXPECTED[:3]:
        assert f"{folder / name}: expected" in caplog.text


def test_another_method_or_root_does_not_mix_with_what_is_there(reds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    generate_flow(str(reds), folder)
    with pytest.raises(ValueError, match=r"preset: medium \(now fast\)"):
        generate_flow(str(reds), folder, preset="fast")
    other = write_clips(tmp_path / "other", ("000",))
    with pytest.raises(ValueError, match="root: "):
        generate_flow(str(other), folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds other things \(notes\.txt\)"):
        generate_flow(str(reds), tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_several_processes_give_the_same(reds: Path, tmp_path: Path) -> None:
    generate_flow(str(reds), tmp_path / "one")
    generate_flow(str(reds), tmp_path / "two", workers=2)
    for name in EXPECTED:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "farneback"}, "method: expected dis or raft, got 'farneback'"),
        ({"method": "rafd"}, "Did you mean 'raft'"),
        ({"preset": "slow"}, "preset: expected ultrafast"),
        ({"method": "raft"}, "weights: expected the path of raft-small"),
        ({"method": "raft", "weights": "x", "iterations": 0}, "iterations: expected 1 or more"),
        ({"distance": 0}, "distance: expected 1 or more"),
        ({"distance": 2}, "expected clips of 5 or more frames"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    reds: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate_flow(str(reds), tmp_path / "flow", **arguments)
    assert flows(tmp_path) == []


def test_missing_files_are_named(reds: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root: .* Did you mean '.*X4'"):
        generate_flow(str(reds)[:-2] + "X44")
    with pytest.raises(FileNotFoundError, match=r"none\.pth: expected a checkpoint"):
        generate_flow(str(reds), method="raft", weights=tmp_path / "none.pth")


def test_a_frame_that_does_not_fit_is_named(reds: Path, tmp_path: Path) -> None:
    write_image(reds / "001/00000003.png", frame(3, (40, 57)))
    with pytest.raises(ValueError, match=r"sample 001/00000002: .*001/00000003\.png: expected the size"):
        generate_flow(str(reds), tmp_path / "flow")
    (reds / "001/00000003.png").write_bytes((reds / "001/00000002.png").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"sample 001/00000002: .*001/00000003\.png: expected a whole image"):
        generate_flow(str(reds), tmp_path / "flow")
    write_image(reds / "001/00000003.jpg", frame(3))
    with pytest.raises(ValueError, match=r"one image for each name, got 00000003\.(jpg|png) and"):
        generate_flow(str(reds), tmp_path / "flow2")


def test_a_flow_that_is_not_finite_is_refused_and_its_file_named(
    reds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "dis_flow", lambda *_: np.full((2, *SIZE), np.inf, np.float32))
    with pytest.raises(ValueError, match=r"000/00000001_00000000\.npy: expected a finite flow"):
        generate_flow(str(reds), tmp_path / "flow")
    assert flows(tmp_path) == []


def test_a_full_disk_is_foreseen(reds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"expected room for about 0\.1 MB"):
        generate_flow(str(reds), tmp_path / "flow")
    assert flows(tmp_path) == []


# --- RAFT, with the network replaced -------------------------------------------------------------------


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let DIS answer for RAFT; return the sizes of the batches that it is shown."""
    sizes: list[int] = []

    def answer(_: nn.Module, centres: list[Frame], neighbours: list[Frame], *, iterations: int, bgr: bool) -> Flow:
        assert (iterations, bgr) == (7, True)
        sizes.append(len(centres))
        return np.stack([dis_flow(centre, neighbour) for centre, neighbour in zip(centres, neighbours, strict=True)])

    monkeypatch.setattr(module, "raft_flows", answer)
    monkeypatch.setattr(module, "load_raft_small", lambda *_: nn.Identity())
    monkeypatch.setattr(module, "pairs_at_a_time", lambda _: 4)
    (tmp_path / "raft.pth").write_bytes(b"weights")
    return sizes


def test_raft_sees_the_pairs_in_batches_and_its_flows_go_to_the_right_files(
    reds: Path, tmp_path: Path, batches: list[int]
) -> None:
    (reds / "001/00000003.png").unlink()
    for i in range(3):  # another size
        write_image(reds / f"001/{i:08d}.png", frame(i, (48, 48)))
    arguments: dict[str, Any] = {"method": "raft", "weights": tmp_path / "raft.pth", "iterations": 7, "bgr": True}
    assert generate_flow(str(reds), tmp_path / "raft", **arguments).flows == 6
    assert batches == [4, 2]
    generate_flow(str(reds), tmp_path / "dis")
    assert flows(tmp_path / "raft") == flows(tmp_path / "dis")
    for name in flows(tmp_path / "dis"):
        assert (tmp_path / "raft" / name).read_bytes() == (tmp_path / "dis" / name).read_bytes()
    (tmp_path / "raft" / EXPECTED[1]).unlink()
    generate_flow(str(reds), tmp_path / "raft", **arguments)
    assert batches == [4, 2, 1]
    assert flows(tmp_path / "raft") == flows(tmp_path / "dis")


def test_flows_of_other_weights_are_not_mixed(reds: Path, tmp_path: Path, batches: list[int]) -> None:
    arguments: dict[str, Any] = {"method": "raft", "weights": tmp_path / "raft.pth", "iterations": 7, "bgr": True}
    generate_flow(str(reds), tmp_path / "flow", **arguments)
    (tmp_path / "raft.pth").write_bytes(b"others")
    with pytest.raises(ValueError, match="weights: "):
        generate_flow(str(reds), tmp_path / "flow", **arguments)
    assert sum(batches) == 8


def test_the_frames_are_read_as_they_are(reds: Path) -> None:
    """What the other tests build on: PNG keeps the pixels."""
    np.testing.assert_array_equal(read_image(reds / "000/00000002.png"), frame(2))


@pytest.mark.parametrize("kind", ["VideoTrainDataset", "VideoRecurrentTrainDataset"])
def test_a_data_set_warps_with_them_however_its_samples_are_cut_and_flipped(
    reds: Path, tmp_path: Path, kind: str
) -> None:
    generate_flow(str(reds), ends=True)
    window = kind == "VideoTrainDataset"
    dataset = DATASETS.get(kind)(
        dataroot_gt=str(reds), dataroot_lq=str(reds), dataroot_flow=str(default_flow_root(reds)), scale=1,
        num_frame=3, gt_size=32, random_reverse=True, use_hflip=True, use_rot=True, seed=0,
    )  # fmt: skip
    for draw in range(12):
        sample = dataset[(draw % len(dataset), draw)]
        frames, flow = sample["lq"].float(), sample["flow"]
        assert flow.dtype == torch.float32
        if window:
            pairs = [(1, 0), (1, 2)]
            assert not flow[1].any()
            vectors = [flow[0], flow[2]]
        else:
            pairs = [(0, 1), (1, 2), (1, 0), (2, 1)]
            vectors = list(flow.flatten(0, 1))
        for (centre, neighbour), field in zip(pairs, vectors, strict=True):
            plain, warped, wrong = (
                (flow_warp(frames[neighbour][None], v[None])[0] - frames[centre])[:, 6:-6, 6:-6].abs().mean()
                for v in (0 * field, field, -field)
            )
            assert warped < 0.25 * plain
            assert wrong > plain
