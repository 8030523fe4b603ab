"""Sequences of frames and the one that follows, of Charades and HumanEva."""

import csv
import logging
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vsr.config import load_options
from vsr.data import TrainSampler, build_dataset, build_train_loader
from vsr.data.encodings import ENCODINGS
from vsr.data.fingerprint import fingerprint
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.overlap import shared_frames
from vsr.data.prediction import CharadesDataset, HumanEvaDataset, NextFrameDataset
from vsr.data.prediction_lists import hash_partition, split_by_hash, split_by_scene
from vsr.utils.images import read_image, write_image

BUNNY = Path(__file__).parents[2] / "datasets" / "demo" / "bigbuckbunny.mp4"
SMALL: dict[str, Any] = {"input_size": 4, "frame_interval": 3, "W": 12, "H": 8}


def write_list(root: Path, partition: str, *lines: str) -> None:
    root.mkdir(exist_ok=True)
    (root / f"{partition}_list.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def humaneva(tmp_path: Path, write_clip: Any) -> Path:
    """Three clips: 20 frames to train on, 20 and 14 to validate on, 12 too few; blue is the frame's number."""
    for name, count in {"S1_Box_1_(C1)": 20, "S1_Jog_1_(C1)": 20, "S2_Box 1_(C2)": 14, "S2_Jog_1_(BW3)": 12}.items():
        write_clip("HumanEva/image", name, count=count, size=(16, 24), names=[f"{i:06d}" for i in range(count)])
    write_list(tmp_path / "HumanEva", "train", "S1_Box_1_(C1)", "S2_Jog_1_(BW3)")
    write_list(tmp_path / "HumanEva", "val", "S1_Jog_1_(C1)", "S2_Box 1_(C2)")
    write_list(tmp_path / "HumanEva", "test", "S1_Jog_1_(C1)")
    return tmp_path / "HumanEva"


def numbers(sample: Any) -> list[int]:
    """The frames that a sample's blue channel names: the inputs and the target."""
    return [int(value) for value in sample["lq"][:, 2, 0, 0]] + [int(sample["gt"][2, 0, 0])]


def test_the_sequences_of_a_clip_of_20_frames_by_hand(humaneva: Path) -> None:
    # 4 inputs at distance 3: t-9, t-6, t-3, t and the target t+3; t-9 >= 0 and t+3 <= 19, so t is 9 ... 16.
    expected = [
        [0, 3, 6, 9, 12], [1, 4, 7, 10, 13], [2, 5, 8, 11, 14], [3, 6, 9, 12, 15],
        [4, 7, 10, 13, 16], [5, 8, 11, 14, 17], [6, 9, 12, 15, 18], [7, 10, 13, 16, 19],
    ]  # fmt: skip
    for partition in ("train", "test"):
        dataset = HumanEvaDataset(dataroot=str(humaneva), partition=partition, **SMALL)
        items = [dataset[(i, 7) if partition == "train" else i] for i in range(len(dataset))]
        assert [numbers(item) for item in items] == expected
    assert [item["key"] for item in items] == [f"S1_Jog_1_(C1)/{i:06d}" for i in range(12, 20)] == dataset.keys


def test_the_items_of_a_test_set_go_through_its_clips_in_order(humaneva: Path) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="val", random_interval=True, **SMALL)
    assert dataset.clip_names == ["S1_Jog_1_(C1)", "S2_Box 1_(C2)"]
    assert len(dataset) == 8 + 2  # of 14 frames: t is 9 or 10
    assert [numbers(dataset[i]) for i in (8, 9)] == [[0, 3, 6, 9, 12], [1, 4, 7, 10, 13]]  # random in training only
    assert dataset.keys[8:] == ["S2_Box 1_(C2)/000012", "S2_Box 1_(C2)/000013"]
    again = HumanEvaDataset(dataroot=str(humaneva), partition="val", **SMALL, seed=9)
    for i in range(10):
        assert torch.equal(dataset[i]["lq"], again[i]["lq"])
    for index in (-1, 10):
        with pytest.raises(IndexError, match=r"index: expected 0 to 9"):
            dataset[index]
    with pytest.raises(TypeError, match="expected a number"):
        dataset[0, 0]


def test_a_sample_is_uint8_rgb_reduced_by_area(humaneva: Path) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="train", **SMALL)
    sample = dataset[2, 0]
    assert sample["lq"].shape == (4, 3, 8, 12)
    assert sample["gt"].shape == (3, 8, 12)
    assert sample["lq"].dtype == sample["gt"].dtype == torch.uint8
    assert dataset.sample_bytes == sample["lq"].nbytes + sample["gt"].nbytes
    # pixel (y, x) of the files is (y, x, frame): the mean of each 2 x 2 block, rounded half up by OpenCV
    rows, columns = np.mgrid[0:8, 0:12]
    assert np.array_equal(sample["gt"][0], 2 * rows + 1)
    assert np.array_equal(sample["gt"][1], 2 * columns + 1)
    whole = HumanEvaDataset(dataroot=str(humaneva), partition="train", **SMALL | {"W": 24, "H": 16})[2, 0]
    assert np.array_equal(whole["gt"][1], np.mgrid[0:16, 0:24][1])


def test_random_intervals_are_all_drawn_and_depend_on_seed_draw_and_index_alone(humaneva: Path) -> None:
    def drawn(seed: int) -> list[list[int]]:
        dataset = HumanEvaDataset(dataroot=str(humaneva), partition="train", random_interval=True, seed=seed, **SMALL)
        items = [dataset[index, draw] for index in (0, 7) for draw in range(60)]
        found = [numbers(item) for item in items]
        assert [item["interval"] for item in items] == [target - last for *_, last, target in found]
        return found

    one = drawn(1)
    assert one == drawn(1) != drawn(2)
    intervals = [found[1] - found[0] for found in one]
    assert all(np.diff(found).tolist() == [step] * 4 for found, step in zip(one, intervals, strict=True))
    assert [found[3] for found in one] == [9] * 60 + [16] * 60  # the query is the index's
    assert min(intervals.count(step) for step in (1, 2, 3)) > 20  # 40 expected, 4 standard deviations
    assert set(intervals) == {1, 2, 3}


@pytest.mark.parametrize(
    ("count", "targets"), [(1, [16]), (2, [14, 18]), (8, [*range(12, 20)]), (99, [*range(12, 20)])]
)
def test_a_few_items_of_a_clip_are_spread_over_it(humaneva: Path, count: int, targets: list[int]) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="test", samples_per_clip=count, **SMALL)
    assert [numbers(dataset[i])[-1] for i in range(len(dataset))] == targets


def test_short_clips_are_left_out_and_counted(humaneva: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="train", **SMALL)
    assert dataset.clip_names == ["S1_Box_1_(C1)"]
    assert "train: 1 of 2 clips are left out: they have fewer than 13 frames" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_interval": 5}, r"frame_interval: expected at most 4 with input_size 4: the longest of 2 clips, "
         r"'S1_Box_1_\(C1\)', has 20 frames, and 21 are needed for 5. Lower it to 4 or less."),
        ({"input_size": 20}, r"frame_interval: expected at most 0 .* Lower input_size."),
        ({"input_size": 0}, "input_size: expected 1 or more, got 0"),
        ({"frame_interval": 0}, "frame_interval: expected 1 or more, got 0"),
        ({"W": 0}, "W: expected 1 or more, got 0"),
        ({"samples_per_clip": 0}, "samples_per_clip: expected 1 or more, got 0"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"partition": "valid"}, "partition: expected train, val, test, got 'valid'. Did you mean 'val'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(humaneva: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HumanEvaDataset(**{"dataroot": str(humaneva), "partition": "train"} | SMALL | arguments)


def test_the_longest_interval_that_is_named_works(humaneva: Path) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="train", **SMALL | {"frame_interval": 4})
    assert [numbers(dataset[i, 0]) for i in range(len(dataset))] == [
        [i, i + 4, i + 8, i + 12, i + 16] for i in range(4)
    ]


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("S1_Jog_1_(C1)", "S2_Box 1_(C2)"),
        ("clip", "S2/Box 1_(C2).avi", "", "S1/Jog_1_(C1).avi"),
        ("Clip;frames", "S1\\Jog_1_(C1);20", "S2_Box 1_(C2).avi;14"),
        ("name,subject", '"S1/Image_Data/Jog_1_(C1).avi",S1', "S2_Box 1_(C2),S2"),
        ("\ufeffclip\tx", "S2_Box 1_(C2)\t1", "  S1_Jog_1_(C1) \t2"),
    ],
)
def test_lists_are_read_however_they_are_written(humaneva: Path, lines: tuple[str, ...]) -> None:
    write_list(humaneva, "val", *lines)
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="val", **SMALL)
    assert dataset.clip_names == ["S1_Jog_1_(C1)", "S2_Box 1_(C2)"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("clip", "S1_Jog_1_(C1)", "S1_Jgo_1_(C1)"), r"val_list.csv:3: expected a clip of .*image, "
         r"got 'S1_Jgo_1_\(C1\)'. Did you mean 'S1_Jog_1_\(C1\)'"),
        (("S9_Jog_1_(C7)",), "val_list.csv:1: expected a clip of"),  # in the first line, yet no heading
        (("S1_Jog_1_(C1)", "S1/Jog_1_(C1).avi"), "val_list.csv:2: expected each clip once, got .* as in line 1"),
        ((), "val_list.csv: expected the name of a clip a line, got none"),
        (("clip", ""), "expected the name of a clip a line, got none"),
        (('"S1_Jog',), "expected a csv file in UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_in_a_list_are_named_with_their_line(humaneva: Path, lines: tuple[str, ...], message: str) -> None:
    write_list(humaneva, "val", *lines)
    with pytest.raises(ValueError, match=message):
        HumanEvaDataset(dataroot=str(humaneva), partition="val", **SMALL)


def test_a_list_may_be_anywhere_and_must_be_text(humaneva: Path, tmp_path: Path) -> None:
    arguments = {"dataroot": str(humaneva), "partition": "val", "meta_info_file": str(tmp_path / "mine.csv"), **SMALL}
    (tmp_path / "mine.csv").write_text("S2_Box 1_(C2)\n", encoding="utf-8")
    assert HumanEvaDataset(**arguments).clip_names == ["S2_Box 1_(C2)"]
    (tmp_path / "mine.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine.csv: expected a csv file in UTF-8"):
        HumanEvaDataset(**arguments)
    with pytest.raises(FileNotFoundError, match="meta_info_file: expected an existing file"):
        HumanEvaDataset(**arguments | {"meta_info_file": str(tmp_path / "other.csv")})
    with pytest.raises(ValueError, match="meta_info_file: expected a csv file, got the folder"):
        HumanEvaDataset(**arguments | {"meta_info_file": str(tmp_path)})
    (humaneva / "val_list.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected val_list.csv beside train_list.csv in .*HumanEva'"):
        HumanEvaDataset(**arguments | {"meta_info_file": None})
    for partition in ("train", "test"):
        (humaneva / f"{partition}_list.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"scripts/prepare_humaneva.py write the lists"):
        HumanEvaDataset(**arguments | {"meta_info_file": None})


def test_charades_without_lists_is_split_by_names_alone(tmp_path: Path, write_clip: Any) -> None:
    names = [f"{i:02X}{chr(65 + i % 26)}" for i in range(40)]
    for name in names:
        write_clip("Charades/Charades_v1_480_img", name, count=3, size=(4, 4), names=["0000000", "0000001", "2"])

    def split() -> dict[str, list[str]]:
        return {
            partition: CharadesDataset(
                dataroot=str(tmp_path / "Charades"), partition=partition, input_size=2, frame_interval=1, W=4, H=4
            ).clip_names
            for partition in ("train", "val", "test")
        }

    first = split()
    assert sorted(name for found in first.values() for name in found) == sorted(names)
    assert {partition: len(found) for partition, found in first.items()} == {"train": 33, "val": 4, "test": 3}
    shutil.rmtree(tmp_path / "Charades" / "Charades_v1_480_img" / first["train"][0])
    assert split() == {**first, "train": first["train"][1:]}
    write_list(tmp_path / "Charades", "val", *first["train"][1:3])
    with pytest.raises(FileNotFoundError, match=r"expected train_list.csv beside val_list.csv"):
        split()


def test_a_hash_split_has_the_promised_shares() -> None:
    parts = split_by_hash([f"{i:05d}" for i in range(10000)])
    for name, share in (("train", 8000), ("val", 1000), ("test", 1000)):
        assert abs(len(parts[name]) - share) < 150  # 4 standard deviations
    # what a name's hash says must never change: clips of a trained network's test set would be trained on
    assert [hash_partition(name) for name in ("0A8CF", "0A8ZT", "001YG", "46GP8", "N11GT", "QQXYZ")] == [
        "val",
        "train",
        "test",
        "train",
        "train",
        "train",
    ]
    assert parts["val"][:4] == split_by_hash([f"{i:05d}" for i in range(50)])["val"][:4]  # whatever others there are
    scenes = [f"S{s}_{a}_1_({c})" for s in (1, 2) for a in ("Box", "Jog") for c in ("C1", "C2", "BW1")]
    parts = split_by_scene(scenes)
    assert sorted(name for found in parts.values() for name in found) == sorted(scenes)
    kept = {name: {scene.rpartition("_")[0] for scene in found} for name, found in parts.items()}
    assert [len(kept[name]) for name in ("train", "val", "test")] == [2, 1, 1]
    assert not kept["train"] & kept["val"] | kept["train"] & kept["test"] | kept["val"] & kept["test"]


def test_the_official_charades_list_serves_as_one(tmp_path: Path, write_clip: Any) -> None:
    for name in ("0A8CF", "0A8ZT"):
        root = write_clip("Charades_v1_480_img", name, count=3, size=(4, 4))
    with (tmp_path / "Charades_v1_train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "subject", "script"], ["0A8ZT", "HR43", "A person, walking\nslowly"]])
    dataset = CharadesDataset(
        dataroot=str(root), partition="train", input_size=2, frame_interval=1,
        meta_info_file=str(tmp_path / "Charades_v1_train.csv"),
    )  # fmt: skip
    assert dataset.clip_names == ["0A8ZT"]
    assert dataset[0, 0]["lq"].shape == (2, 3, 64, 64)


# --- where clips are -----------------------------------------------------------------------------


def test_names_that_only_look_different_are_one_clip(tmp_path: Path, write_clip: Any) -> None:
    decomposed = unicodedata.normalize("NFD", "S1_Bôx é_(C1)")
    write_clip("H/image", decomposed, count=13, size=(16, 24))
    write_list(tmp_path / "H", "train", unicodedata.normalize("NFC", decomposed))
    dataset = HumanEvaDataset(dataroot=str(tmp_path / "H"), partition="train", **SMALL)
    assert dataset.clip_names == ["S1_Bôx é_(C1)"]
    assert dataset[0, 0]["key"] == "S1_Bôx é_(C1)/00000012"
    write_clip("H/image/S1", "Bôx é_(C1)", count=13, size=(16, 24))
    with pytest.raises(ValueError, match=r"expected one clip of the name 'S1_Bôx é_\(C1\)', got"):
        HumanEvaDataset(dataroot=str(tmp_path / "H"), partition="train", **SMALL)


def test_patterns_in_names_are_plain_letters(tmp_path: Path, write_clip: Any) -> None:
    root = write_clip("Charades_v1_480_img", "[a-c]* {x}?", count=3, size=(4, 4), names=["f 2", "f 10", "f 1"])
    write_clip("Charades_v1_480_img", "b", count=3, size=(4, 4))
    write_list(tmp_path, "val", "[a-c]* {x}?")
    dataset = CharadesDataset(dataroot=str(root), partition="val", input_size=2, frame_interval=1, W=4, H=4)
    assert dataset.keys == ["[a-c]* {x}?/f 10"]
    assert numbers(dataset[0]) == [2, 0, 1]  # f 1, f 2, f 10 were written as 2, 0 and 1


def test_a_damaged_frame_is_named_with_its_sample(humaneva: Path) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="test", **SMALL)
    frame = humaneva / "image" / "S1_Jog_1_(C1)" / "000009.png"
    frame.write_bytes(frame.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"sample S1_Jog_1_\(C1\)/000012: .*000009.png: expected a whole image"):
        dataset[0]
    frame.unlink()
    with pytest.raises(FileNotFoundError, match=r"sample S1_Jog_1_\(C1\)/000012: .*000009.png"):
        dataset[0]


def test_a_clip_with_a_gap_is_refused_unless_that_is_allowed(humaneva: Path) -> None:
    arguments = {"dataroot": str(humaneva), "partition": "test", **SMALL}
    for frame in (7, 8, 15):
        (humaneva / "image" / "S1_Jog_1_(C1)" / f"{frame:06d}.png").unlink()
    with pytest.raises(ValueError, match=r"without a gap.*000009.png follows 000006.png: 2 missing; 2 gaps in all"):
        HumanEvaDataset(**arguments)
    dataset = HumanEvaDataset(**arguments, allow_gaps=True)
    assert numbers(dataset[0]) == [0, 3, 6, 11, 14]  # of the frames that there are, each third


def test_the_fingerprint_is_that_of_the_whole_frames_on_disk_and_in_an_lmdb(humaneva: Path) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="val", **SMALL)
    assert [key for key, _ in dataset.named_pairs()][19:21] == ["S1_Jog_1_(C1)/000019", "S2_Box 1_(C2)/000000"]
    found = fingerprint(dataset)
    assert found is not None
    assert found.startswith("v1-34-16x24-none-")
    make_lmdb(Recipe(str(humaneva / "image"), str(humaneva / "image.lmdb"), "raw"))
    stored = HumanEvaDataset(dataroot=str(humaneva), partition="val", io_backend={"type": "lmdb"}, **SMALL)
    assert fingerprint(stored) == found


def test_two_images_of_one_name_are_refused(humaneva: Path) -> None:
    shutil.copy(
        humaneva / "image" / "S1_Jog_1_(C1)" / "000009.png", humaneva / "image" / "S1_Jog_1_(C1)" / "000009.bmp"
    )
    with pytest.raises(ValueError, match=r"expected one image for each name, got 000009\.(png|bmp) and"):
        HumanEvaDataset(dataroot=str(humaneva), partition="test", **SMALL)


def test_frames_in_memory_give_the_same_samples(humaneva: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for partition in ("train", "val"):
        arguments = {"dataroot": str(humaneva), "partition": partition, **SMALL}
        plain = HumanEvaDataset(**arguments)
        items = [(i, 0) if partition == "train" else i for i in range(len(plain))]
        expected = [plain[item] for item in items]
        cached = HumanEvaDataset(**arguments, cache_data=True)
        with monkeypatch.context() as patch:
            patch.setattr(type(cached.storage), "read", None)  # nothing is read any more
            for item, sample in zip(items, expected, strict=True):
                assert torch.equal(cached[item]["lq"], sample["lq"])
                assert torch.equal(cached[item]["gt"], sample["gt"])
    monkeypatch.setattr("vsr.data.prediction.free_memory", lambda: 1000)
    with pytest.raises(ValueError, match="cache_data: expected room for 34 frames in memory"):
        HumanEvaDataset(**arguments, cache_data=True)


def test_a_test_set_reads_a_frame_once(humaneva: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = HumanEvaDataset(dataroot=str(humaneva), partition="test", **SMALL)
    reads: list[str] = []
    original = type(dataset.storage).read
    monkeypatch.setattr(
        type(dataset.storage), "read", lambda self, path: reads.append(os.path.basename(path)) or original(self, path)
    )
    for i in range(len(dataset)):
        dataset[i]
    assert len(reads) == len(set(reads)) == 20
    assert len(dataset._recent) == 15  # what 3 samples in a row have; then the first one's frames come again


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lmdbs_give_the_samples_of_files(humaneva: Path, encoding: str) -> None:
    arguments = {**SMALL, "random_interval": True}
    expected = HumanEvaDataset(dataroot=str(humaneva), partition="train", **arguments)
    target = humaneva / "image.lmdb"
    make_lmdb(Recipe(str(humaneva / "image"), str(target), encoding, tile=16))
    samples = [expected[index, draw] for draw in range(3) for index in range(len(expected))]
    for root in (humaneva, target):  # lists stand in the root, or beside the LMDB
        found = HumanEvaDataset(dataroot=str(root), partition="train", io_backend={"type": "lmdb"}, **arguments)
        assert found.clip_names == expected.clip_names
        assert found.gt_files == [str(target / "S1_Box_1_(C1)")]  # and not the folder beside it
        for number, one in enumerate(samples):
            other = found[number % len(found), number // len(found)]
            assert one["key"] == other["key"]
            assert torch.equal(one["lq"], other["lq"])
            assert torch.equal(one["gt"], other["gt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_batches_with_and_without_workers(
    humaneva: Path, workers: int, tmp_path: Path
) -> None:
    option = tmp_path / "o.yml"
    option.write_text(
        "name: x\nmodel_type: VideoModel\nnetwork_g: {type: NAFNet}\ndatasets:\n  train:\n"
        f"    type: HumanEvaDataset\n    dataroot: {humaneva}\n    partition: train\n    input_size: 4\n"
        "    frame_interval: 3\n    random_interval: true\n    W: 12\n    H: 8\n    batch_size_per_gpu: 3\n"
        f"    num_worker_per_gpu: {workers}\n",
        encoding="utf-8",
    )
    section = load_options(option).datasets["train"]
    dataset = build_dataset(section, scale=1, seed=5, key="train")
    sampler = TrainSampler(length=len(dataset), batch_size=3, seed=5, num_batches=4)
    batches = list(build_train_loader(dataset, section, sampler, pin_memory=False))
    drawn = [item for batch in TrainSampler(length=len(dataset), batch_size=3, seed=5, num_batches=4) for item in batch]
    expected = [HumanEvaDataset(dataroot=str(humaneva), partition="train", random_interval=True, seed=5, **SMALL)[item]
                for item in drawn]  # fmt: skip
    assert torch.equal(torch.cat([batch["lq"] for batch in batches]), torch.stack([one["lq"] for one in expected]))
    assert [key for batch in batches for key in batch["key"]] == [one["key"] for one in expected]
    with pytest.raises(ValueError, match=r"datasets.val: expected a test set .*got HumanEvaDataset as a training set"):
        build_dataset(section, scale=1, seed=5, key="val")


# --- real video ----------------------------------------------------------------------------------

FRAMES, WIDTH, HEIGHT = 24, 320, 180


def write_video(path: Path, code: str, pictures: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()


def decoded(path: Path) -> list[Any]:
    """The first frames of a video in OpenCV's order of colours."""
    capture = cv2.VideoCapture(str(path))
    return [capture.read()[1] for _ in range(FRAMES)]


@pytest.fixture(scope="module")
def bunny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of Big Buck Bunny as a small mp4."""
    path = tmp_path_factory.mktemp("bunny") / "bunny.mp4"
    write_video(path, "mp4v", [cv2.resize(picture, (WIDTH, HEIGHT)) for picture in decoded(BUNNY)])
    return path


def test_a_real_video_gives_the_same_samples_from_every_container(
    tmp_path: Path, bunny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    pictures = decoded(bunny)
    roots = {kind: tmp_path / kind for kind in ("mp4", "avi", "png", "jpg", "lmdb")}
    (roots["mp4"] / "video" / "S1").mkdir(parents=True)
    shutil.copy(bunny, roots["mp4"] / "video" / "S1" / "Box_1_(C1).mp4")
    write_video(roots["avi"] / "video" / "S1" / "Box_1_(C1).avi", "FFV1", pictures)  # without loss
    for kind in ("png", "jpg"):
        (roots[kind] / "image" / "S1_Box_1_(C1)").mkdir(parents=True)
        for i, picture in enumerate(pictures):
            file = roots[kind] / "image" / "S1_Box_1_(C1)" / f"{i:08d}.{kind}"
            write_image(file, np.ascontiguousarray(picture[..., ::-1]))
    roots["lmdb"].mkdir()
    make_lmdb(Recipe(str(roots["png"] / "image"), str(roots["lmdb"] / "image.lmdb"), "tiles"))

    found = {}
    for kind, root in roots.items():
        write_list(root, "test", "S1/Box_1_(C1).avi")
        dataset = HumanEvaDataset(
            dataroot=str(root), partition="test", input_size=4, frame_interval=5, W=64, H=36,
            io_backend={"type": "lmdb"} if kind == "lmdb" else None,
        )  # fmt: skip
        assert dataset.keys == [f"S1_Box_1_(C1)/{i:08d}" for i in range(20, FRAMES)]
        found[kind] = dataset[2]
    (roots["avi"] / "image").mkdir()  # and an LMDB of the videos goes before it
    make_lmdb(Recipe(str(roots["avi"] / "video"), str(roots["avi"] / "video.lmdb"), "raw"))
    for root in (roots["avi"], roots["avi"] / "video.lmdb"):
        found[f"videos in {root.name}"] = HumanEvaDataset(
            dataroot=str(root), partition="test", input_size=4, frame_interval=5, W=64, H=36,
            io_backend={"type": "lmdb"},
        )[2]  # fmt: skip
    found["folder of clips"] = HumanEvaDataset(
        dataroot=str(roots["png"] / "image"), partition="test", input_size=4, frame_interval=5, W=64, H=36
    )[2]
    expected = [cv2.resize(pictures[2 + 5 * i], (64, 36), interpolation=cv2.INTER_AREA)[..., ::-1] for i in range(5)]
    for kind, sample in found.items():
        sequence = torch.cat([sample["lq"], sample["gt"][None]]).permute(0, 2, 3, 1).numpy()
        error = np.abs(sequence.astype(float) - np.stack(expected))
        assert error.mean() < 1 if kind == "jpg" else error.max() == 0, kind  # JPEG of quality 95, averaged over 5 x 5


@pytest.mark.parametrize("content", [b"", b"RIFF\x00\x00\x00\x00AVI LIST" + bytes(200)])
def test_a_video_that_cannot_be_decoded_is_named(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "video" / "S1").mkdir(parents=True)
    (tmp_path / "video" / "S1" / "Box_1_(C1).avi").write_bytes(content)
    write_list(tmp_path, "train", "S1/Box_1_(C1)")
    with pytest.raises(ValueError, match=r"Box_1_\(C1\).avi: expected a"):
        HumanEvaDataset(dataroot=str(tmp_path), partition="train", **SMALL)


def test_only_the_videos_of_the_partition_are_decoded(
    tmp_path: Path, bunny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "Charades_v1_480").mkdir()
    shutil.copy(bunny, tmp_path / "Charades_v1_480" / "good.mp4")
    (tmp_path / "Charades_v1_480" / "bad.mp4").write_bytes(b"")
    write_list(tmp_path, "val", "good.mp4")
    dataset = CharadesDataset(dataroot=str(tmp_path), partition="val", input_size=2, frame_interval=10, W=32, H=18)
    assert len(dataset) == FRAMES - 20
    assert dataset[0]["gt"].shape == (3, 18, 32)


def test_a_frame_is_read_upright_and_in_rgb(tmp_path: Path) -> None:
    (tmp_path / "Charades_v1_480_img" / "a").mkdir(parents=True)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :, 0], image[:, :4, 2] = 200, 100  # red above, blue at the left
    for i in range(3):
        write_image(tmp_path / "Charades_v1_480_img" / "a" / f"{i}.png", image)
    write_list(tmp_path, "train", "a")
    sample = CharadesDataset(
        dataroot=str(tmp_path), partition="train", input_size=2, frame_interval=1, W=2, H=2
    )[0, 0]  # fmt: skip
    assert sample["gt"].tolist() == [[[200, 200], [0, 0]], [[0, 0], [0, 0]], [[100, 0], [100, 0]]]
    assert np.array_equal(read_image(tmp_path / "Charades_v1_480_img" / "a" / "0.png"), image)


def test_the_flow_leads_from_the_last_input_to_the_target(tmp_path: Path) -> None:
    """A texture that moves by (3, -2) pixels from each frame to the next."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (160, 160), interpolation=cv2.INTER_CUBIC)
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(6):
        write_image(folder / f"{i}.png", np.ascontiguousarray(texture[40 + 2 * i :, 40 - 3 * i :][:64, :96]))
    given: dict[str, Any] = {"input_size": 2, "frame_interval": 2, "W": 96, "H": 64, "with_flow": True}
    sample = NextFrameDataset(dataroot=str(folder), partition="test", **given)[0]
    assert sample["flow"].shape == (2, 64, 96)
    assert sample["flow"].dtype == torch.float32
    inside = sample["flow"][:, 10:-10, 10:-10].flatten(1)
    assert inside.median(1).values.tolist() == pytest.approx([6, -4], abs=0.2)  # two frames further
    assert "flow" not in NextFrameDataset(dataroot=str(folder), partition="test", **{**given, "with_flow": False})[0]


def test_any_clips_are_a_set_and_parts_of_one_clip_are_several(tmp_path: Path, write_clip: Any) -> None:
    for name in ("a", "b/c"):
        write_clip("clips", name, count=20, size=(16, 24), names=[f"{i:06d}" for i in range(20)])
    given: dict[str, Any] = {"dataroot": str(tmp_path / "clips"), **SMALL}
    train = NextFrameDataset(partition="train", frames=[0, 13], **given)
    val = NextFrameDataset(partition="val", frames=[-6, -1], **{**given, "frame_interval": 1})
    assert train.clip_names == val.clip_names == ["a", "b/c"]
    assert [numbers(train[i, 0]) for i in (0, 1)] == [[0, 3, 6, 9, 12], [1, 4, 7, 10, 13]]
    assert val.keys == ["a/000018", "a/000019", "b/c/000018", "b/c/000019"]
    assert numbers(val[0]) == [14, 15, 16, 17, 18]
    assert shared_frames(train, val) == ""
    assert "a/000010.png" in shared_frames(
        train, NextFrameDataset(partition="val", frames=[10, 19], **{**given, "frame_interval": 2})
    )
    assert shared_frames(train, NextFrameDataset(partition="val", **given)) != ""  # without frames: the whole clips
    with pytest.raises(ValueError, match=r"frames: expected \[first, last\] within the 20 frames of clip 'a'"):
        NextFrameDataset(partition="val", frames=[0, 20], **given)


def test_a_root_is_found_in_other_capitals(humaneva: Path) -> None:
    given = HumanEvaDataset(dataroot=str(humaneva.with_name("Humaneva")), partition="val", **SMALL)
    assert given.clip_names == ["S1_Jog_1_(C1)", "S2_Box 1_(C2)"]
    humaneva.with_name("humanEVA").mkdir()
    with pytest.raises(FileNotFoundError, match="dataroot: expected an existing"):  # which of the two?
        HumanEvaDataset(dataroot=str(humaneva.with_name("Humaneva")), partition="val", **SMALL)
