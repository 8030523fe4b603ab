import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.data.video import (
    VideoRecurrentTestDataset,
    VideoRecurrentTrainDataset,
    VideoTestDataset,
    VideoTrainDataset,
)
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reds_sampling.json").read_text())["items"]
WINDOWS: dict[str, Any] = {"scale": 4, "num_frame": 5, "gt_size": 16}


@pytest.fixture
def roots(write_clip: Any) -> dict[str, str]:
    """Coordinate clips a (7 frames) and b (5), GT 32x48 and LQ 8x12."""
    for name, count in {"a": 7, "b": 5}.items():
        gt, lq = write_clip("gt", name, count=count), write_clip("lq", name, count=count, size=(8, 12))
    return {"dataroot_gt": str(gt), "dataroot_lq": str(lq)}


def frames_of(window: torch.Tensor) -> list[int]:
    """The frame numbers that the blue channel of (t, 3, h, w) holds."""
    return [int(value) for value in window[:, 2, 0, 0]]


def test_a_sample_is_uint8_rgb_of_the_documented_shape(roots: dict[str, str]) -> None:
    sample = VideoTrainDataset(**roots, **WINDOWS)[3, 0]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in sample.items() if name != "key"} == {
        "lq": (torch.uint8, (5, 3, 4, 4)),
        "gt": (torch.uint8, (3, 16, 16)),
    }
    assert sample["key"] == "a/00000003"
    clip = VideoRecurrentTrainDataset(**roots, **WINDOWS)[2, 0]
    assert clip["lq"].shape == (5, 3, 4, 4)
    assert clip["gt"].shape == (5, 3, 16, 16)
    assert clip["key"] == "a/00000002"


def test_a_sample_depends_on_seed_draw_and_index_alone(roots: dict[str, str]) -> None:
    one, two = (VideoTrainDataset(**roots, **WINDOWS, random_reverse=True, seed=4) for _ in range(2))
    two[0, 5], two[9, 9]  # what was read before makes no difference
    for item in [(3, 0), (3, 1), (8, 1 << 40)]:
        assert torch.equal(one[item]["lq"], two[item]["lq"])
        assert torch.equal(one[item]["gt"], two[item]["gt"])
    other = VideoTrainDataset(**roots, **WINDOWS, random_reverse=True, seed=5)
    differ = [not torch.equal(one[3, draw]["gt"], other[3, draw]["gt"]) for draw in range(8)]
    assert sum(differ) >= 6
    assert len({one[3, draw]["gt"].numpy().tobytes() for draw in range(8)}) >= 6


@pytest.mark.parametrize("made", [False, True])
def test_gt_is_the_same_place_as_lq_after_every_flip(roots: dict[str, str], made: bool) -> None:
    dataset = VideoTrainDataset(**(roots | ({"dataroot_lq": None} if made else {})), **WINDOWS)
    orientations, checked = set(), 0
    for draw in range(64):
        sample = dataset[4, draw]
        lq, gt = sample["lq"].int(), sample["gt"].int()
        assert frames_of(lq)[2] == int(gt[2, 0, 0])  # the centre
        place = gt[:2, ::4, ::4].minimum(gt[:2, 3::4, 3::4]) // 4  # LQ pixel n covers the GT pixels 4n ... 4n+3
        if made:  # of a ramp: their mean 4n + 1.5, but for the image's mirrored border
            inner = (place[0] > 1) & (place[0] < 6) & (place[1] > 1) & (place[1] < 10)
            error = (lq[2, :2] - (4 * place + 1.5))[:, inner].abs()
            assert (error <= 0.5).all()
            checked += inner.sum().item()
        else:
            assert torch.equal(lq[2, :2], place)
            checked += place[0].numel()
        step = gt[:2, 0, 1] - gt[:2, 0, 0], gt[:2, 1, 0] - gt[:2, 0, 0]
        orientations.add(tuple(torch.cat(step).tolist()))
    assert len(orientations) == 8
    assert checked > 300


def test_all_frames_of_a_sequence_are_cut_and_flipped_alike(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentTrainDataset(**roots, **WINDOWS)
    for draw in range(20):
        sample = dataset[0, draw]
        for part in (sample["lq"], sample["gt"]):
            assert torch.equal(part[:, :2], part[:1, :2].expand_as(part[:, :2]))
        assert frames_of(sample["lq"]) == frames_of(sample["gt"])


def test_windows_are_those_of_the_official_data_set(write_clip: Any) -> None:
    root = write_clip("gt", "000", count=100, size=(8, 8))
    dataset = VideoTrainDataset(dataroot_gt=str(root), scale=2, num_frame=5, gt_size=4, interval_list=[1, 2, 3])
    rng = np.random.default_rng(0)
    for item in GOLDEN:
        frames = [int(Path(name).stem) for name in item["lq_frames"]]
        centre = int(Path(item["gt_frame"]).stem)
        positions, position = dataset._positions(rng, 100, centre, abs(frames[1] - frames[0]))
        assert (positions, position) == (sorted(frames), centre)  # the golden's reversed ones, too


@pytest.mark.parametrize("interval", [1, 2])
def test_a_window_that_does_not_fit_is_moved_anywhere_in_its_clip(write_clip: Any, interval: int) -> None:
    root = write_clip("gt", "000", count=9, size=(8, 8))
    dataset = VideoTrainDataset(dataroot_gt=str(root), scale=2, num_frame=3, gt_size=4, interval_list=[interval])
    possible = set(range(interval, 9 - interval))
    for index in range(9):
        drawn = Counter(frames_of(dataset[index, draw]["lq"])[1] for draw in range(60))
        assert set(drawn) == ({index} if index in possible else possible)


def test_intervals_and_directions_are_drawn_equally_often(write_clip: Any) -> None:
    root = write_clip("gt", "000", count=9, size=(8, 8))
    dataset = VideoTrainDataset(
        dataroot_gt=str(root), scale=2, num_frame=3, gt_size=4, interval_list=[1, 2, 3], random_reverse=True
    )
    drawn = Counter(tuple(frames_of(dataset[4, draw]["lq"])) for draw in range(600))
    expected = {(4 - step, 4, 4 + step) for step in (1, 2, 3, -1, -2, -3)}
    assert set(drawn) == expected
    assert all(55 < count < 145 for count in drawn.values())  # 100, 5 standard deviations


def test_sequences_start_at_their_frame_or_where_they_fit(write_clip: Any) -> None:
    root = write_clip("gt", "000", count=6, size=(8, 8))
    dataset = VideoRecurrentTrainDataset(dataroot_gt=str(root), scale=2, num_frame=4, gt_size=4)
    for index in range(6):
        starts = {frames_of(dataset[index, draw]["lq"])[0] for draw in range(40)}
        assert starts == ({index} if index <= 2 else {0, 1, 2})
    sample = dataset[5, 0]
    assert sample["key"] == f"000/{frames_of(sample['lq'])[0]:08d}"
    assert frames_of(sample["lq"]) == list(range(frames_of(sample["lq"])[0], frames_of(sample["lq"])[0] + 4))


def test_without_flips_a_crop_is_upright(roots: dict[str, str]) -> None:
    dataset = VideoTrainDataset(**roots, **WINDOWS, use_hflip=False, use_rot=False)
    for draw in range(10):
        rows, columns, _ = dataset[2, draw]["gt"].int()
        assert (rows.diff(dim=0) == 1).all()
        assert (columns.diff(dim=1) == 1).all()


@pytest.mark.parametrize("gt_downscale", [1, 2])
def test_cached_frames_give_the_same_samples(textured: Path, gt_downscale: int) -> None:
    arguments = {
        "dataroot_gt": str(textured), "scale": 2, "num_frame": 3, "gt_size": 12, "gt_downscale": gt_downscale,
    }  # fmt: skip
    plain, cached = VideoTrainDataset(**arguments), VideoTrainDataset(**arguments, cache_data=True)
    for item in [(0, 0), (2, 5), (3, 9)]:
        assert torch.equal(plain[item]["lq"], cached[item]["lq"])
        assert torch.equal(plain[item]["gt"], cached[item]["gt"])


def test_lq_made_on_the_fly_equals_lq_made_beforehand(textured: Path, tmp_path: Path) -> None:
    frames = {i: read_image(textured / "a" / f"{i}.png")[:42, :57] for i in range(4)}
    for i, frame in frames.items():
        for root, image in (("gt3", frame), ("lq3", imresize(frame, 1 / 3))):
            (tmp_path / root / "a").mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / root / "a" / f"{i}.png", np.ascontiguousarray(image))
    arguments = {"scale": 3, "num_frame": 3, "gt_size": 21}
    made = VideoTrainDataset(dataroot_gt=str(textured), **arguments)
    read = VideoTrainDataset(dataroot_gt=str(tmp_path / "gt3"), dataroot_lq=str(tmp_path / "lq3"), **arguments)
    for item in [(0, 0), (1, 7), (3, 2)]:
        assert torch.equal(made[item]["lq"], read[item]["lq"])
        assert torch.equal(made[item]["gt"], read[item]["gt"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frame": 4}, "num_frame: expected an odd number, got 4"),
        ({"num_frame": -1}, "num_frame: expected an odd number, got -1"),
        ({"num_frame": 7}, r"clip 'b': expected 7 or more frames for num_frame 7 with interval_list \[1\], got 5"),
        ({"interval_list": [1, 2]}, "clip 'b': expected 9 or more frames for num_frame 5"),
        ({"interval_list": []}, "interval_list: expected numbers of 1 or more"),
        ({"interval_list": [0]}, "interval_list: expected numbers of 1 or more"),
        ({"gt_size": 18}, r"gt_size: expected a multiple of scale \(4\), got 18"),
        ({"gt_size": 0}, "gt_size: expected a multiple of scale"),
        ({"gt_size": 36}, "gt_size: expected a crop within the GT frames of clip 'a', 32x48, got 36"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"dataroot_gt": None}, "dataroot_gt: expected the folder of the ground truth"),
    ],
)
def test_a_training_set_that_cannot_be_is_refused(roots: dict[str, str], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoTrainDataset(**(roots | WINDOWS | change))


def test_a_sequence_may_have_any_length(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentTrainDataset(**(roots | WINDOWS | {"num_frame": 4}))
    assert dataset[0, 0]["lq"].shape[0] == 4
    with pytest.raises(ValueError, match="num_frame: expected 1 or more, got 0"):
        VideoRecurrentTrainDataset(**(roots | WINDOWS | {"num_frame": 0}))


def test_a_broken_frame_names_the_sample_and_the_file(roots: dict[str, str]) -> None:
    dataset = VideoTrainDataset(**roots, **WINDOWS)
    path = Path(roots["dataroot_lq"]) / "a" / "00000003.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"^sample a/00000003: .*lq/a/00000003\.png"):
        dataset[3, 0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"^sample a/00000003: .*lq/a/00000003\.png"):
        dataset[3, 0]


def test_a_test_set_has_a_window_around_every_frame(roots: dict[str, str]) -> None:
    dataset = VideoTestDataset(**roots, scale=4, num_frame=5, padding="reflection_circle")
    assert len(dataset) == 12
    assert dataset.keys == [f"a/{i:08d}" for i in range(7)] + [f"b/{i:08d}" for i in range(5)]
    assert [dataset[i]["key"] for i in range(12)] == dataset.keys
    assert frames_of(dataset[0]["lq"]) == [4, 3, 0, 1, 2]  # the golden table's row for frame 0
    assert frames_of(dataset[11]["lq"]) == [2, 3, 4, 1, 0]
    assert frames_of(dataset[3]["lq"]) == [1, 2, 3, 4, 5]
    sample = dataset[3]
    assert sample["lq"].shape == (5, 3, 8, 12)
    assert sample["gt"].shape == (3, 32, 48)
    assert int(sample["gt"][2, 0, 0]) == 3


@pytest.mark.parametrize(
    ("num_frame", "padding", "refused"),
    [(7, "replicate", False), (7, "reflection", False), (11, "reflection", True), (7, "circle", True)],
)
def test_a_clip_shorter_than_its_windows_is_refused_unless_they_can_be_filled(
    roots: dict[str, str], num_frame: int, padding: str, refused: bool
) -> None:
    arguments = {**roots, "scale": 4, "num_frame": num_frame, "padding": padding}
    if refused:
        with pytest.raises(
            ValueError, match=f"clip 'b': expected . or more frames for num_frame {num_frame} with padding"
        ):
            VideoTestDataset(**arguments)
    else:
        dataset = VideoTestDataset(**arguments)
        assert all(dataset[i]["lq"].shape[0] == num_frame for i in range(len(dataset)))


def test_whole_clips_come_with_the_names_of_their_frames(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentTestDataset(**roots, scale=4)
    assert dataset.keys == ["a", "b"]
    sample = dataset[0]
    assert sample["lq"].shape == (7, 3, 8, 12)
    assert sample["gt"].shape == (7, 3, 32, 48)
    assert frames_of(sample["lq"]) == frames_of(sample["gt"]) == list(range(7))
    assert (sample["key"], sample["frames"]) == ("a", [f"{i:08d}" for i in range(7)])
    short = VideoRecurrentTestDataset(**roots, scale=4, num_frame=2)
    assert [len(short[i]["frames"]) for i in range(2)] == [2, 2]
    with pytest.raises(ValueError, match="clip 'b': expected 6 or more frames"):
        VideoRecurrentTestDataset(**roots, scale=4, num_frame=6)
    with pytest.raises(ValueError, match="num_frame: expected 1 or more, or -1 for all, got 0"):
        VideoRecurrentTestDataset(**roots, scale=4, num_frame=0)


def test_iteration_over_a_test_set_ends(roots: dict[str, str]) -> None:
    # Python iterates by counting up until IndexError
    assert sum(1 for _ in VideoTestDataset(**roots, scale=4, num_frame=1)) == 12  # type: ignore[attr-defined]
    assert sum(1 for _ in VideoRecurrentTestDataset(**roots, scale=4)) == 2  # type: ignore[attr-defined]


def test_lq_alone_can_be_tested_on(roots: dict[str, str]) -> None:
    lq = roots["dataroot_lq"]
    for dataset in (
        VideoTestDataset(dataroot_lq=lq, scale=4, num_frame=3),
        VideoRecurrentTestDataset(dataroot_lq=lq, scale=4),
    ):
        assert "gt" not in dataset[0]
        assert dataset.gt_files[0] == str(Path(lq) / "a" / "00000000.png")


def test_a_set_tells_its_files_so_that_an_overlap_can_be_seen(roots: dict[str, str]) -> None:
    first = VideoTrainDataset(**roots, **(WINDOWS | {"num_frame": 3}), frames=[0, 2])
    rest = VideoTestDataset(**roots, scale=4, num_frame=3, frames=[2, -1], padding="replicate")
    shared = set(first.gt_files) & set(rest.gt_files)
    assert shared == {str(Path(roots["dataroot_gt"]) / name / "00000002.png") for name in "ab"}
    link = Path(roots["dataroot_gt"]).with_name("link")
    link.symlink_to(roots["dataroot_gt"])
    assert VideoTestDataset(dataroot_gt=str(link), scale=4, num_frame=3, frames=[2, -1]).gt_files == rest.gt_files
    assert (first.clip_names, first.is_train, rest.is_train) == (["a", "b"], True, False)


def test_sample_bytes_is_the_size_of_the_largest_sample(roots: dict[str, str]) -> None:
    datasets: list[tuple[Any, Any]] = [
        (VideoTrainDataset(**roots, **WINDOWS), (0, 0)),
        (VideoRecurrentTrainDataset(**roots, **WINDOWS), (0, 0)),
        (VideoTestDataset(**roots, scale=4, num_frame=3), 0),
        (VideoRecurrentTestDataset(**roots, scale=4), 0),
    ]
    for dataset, item in datasets:
        sample = dataset[item]
        assert dataset.sample_bytes == sample["lq"].numel() + sample["gt"].numel()
