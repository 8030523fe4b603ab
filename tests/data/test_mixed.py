"""Mixed data sets: exact shares, every sample of every part, samples that are those of the parts."""

from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from kit import final_state, history

from vsr.config import OptionError, dump_options, load_options
from vsr.config.manual import json_schema
from vsr.config.reader import plain, read_file
from vsr.data.mixed import MixedDataset
from vsr.data.sampler import TrainSampler
from vsr.engine.train import train
from vsr.registry import DATASETS


@pytest.fixture
def parts(write_clip: Any) -> list[dict[str, Any]]:
    """REDS with three clips of six frames, of which two are left, and one clip of five frames of another root."""
    for name in ("000", "001", "002"):
        reds = write_clip("reds", name, count=6)
    own = write_clip("own", "a", count=5)
    common = {"num_frame": 3, "gt_size": 16}
    return [
        {"type": "REDSDataset", "dataroot_gt": str(reds), **common},
        {"type": "VideoTrainDataset", "dataroot_gt": str(own), **common, "name": "own"},
    ]


def mixed(parts: list[dict[str, Any]], *weights: float, seed: int = 3) -> MixedDataset:
    given = [{**part, "weight": weight} for part, weight in zip(parts, weights, strict=True)] if weights else parts
    built: MixedDataset = DATASETS.build({"type": "MixedDataset", "datasets": given}, scale=4, seed=seed)
    return built


def test_without_weights_an_epoch_takes_each_sample_once(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts)
    assert (len(dataset), dataset.counts) == (17, [12, 5])
    places = [dataset.locate(index, draw) for draw, index in enumerate(range(17))]
    assert places == [(0, i) for i in range(12)] + [(1, i) for i in range(5)]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ((1, 1), [12, 12]),  # of equal shares, 12 of 5: each twice and two more
        ((3, 1), [15, 5]),  # the second part needs 5 for its one of four shares
        ((0.5, 2), [12, 48]),
        ((12, 5), [12, 5]),
    ],
)
def test_an_epoch_has_of_each_part_the_share_of_its_weight(
    parts: list[dict[str, Any]], weights: tuple[float, float], counts: list[int]
) -> None:
    dataset = mixed(parts, *weights)
    assert dataset.counts == counts
    batches = TrainSampler(length=len(dataset), batch_size=1, seed=7, num_batches=2 * len(dataset))
    drawn = Counter(dataset.locate(*item) for (item,) in batches)
    assert [sum(n for (part, _), n in drawn.items() if part == number) for number in (0, 1)] == [2 * n for n in counts]
    for number, (count, length) in enumerate(zip(counts, (12, 5), strict=True)):
        assert all(drawn[number, sample] >= 2 * (count // length) for sample in range(length))


def test_what_is_left_of_a_share_is_drawn_evenly(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts, 1, 1)  # the places 10 and 11 of the second part's twelve
    drawn = Counter(dataset.locate(index, draw) for index in (22, 23) for draw in range(1000))
    assert {place for _, place in drawn} == set(range(5))
    assert all(330 < count < 470 for count in drawn.values())  # 400, 4 standard deviations of 18


def test_samples_are_those_of_the_parts_and_functions_of_index_and_draw(parts: list[dict[str, Any]]) -> None:
    dataset, again = mixed(parts, 1, 1), mixed(parts, 1, 1)
    again[3, 3]  # what was read before makes no difference
    for item in [(0, 5), (11, 9), (12, 0), (23, 4), (22, 1 << 40)]:
        number, inner = dataset.locate(*item)
        option = {key: value for key, value in parts[number].items() if key != "name"}
        expected = DATASETS.build(option, scale=4, seed=3)[inner, item[1]]
        for sample in (dataset[item], again[item]):
            assert torch.equal(sample["lq"], expected["lq"])
            assert torch.equal(sample["gt"], expected["gt"])
            assert sample["key"] == ("0", "own")[number] + "/" + expected["key"]
    other = mixed(parts, 1, 1, seed=4)
    assert any(not torch.equal(other[0, draw]["gt"], dataset[0, draw]["gt"]) for draw in range(4))


def test_a_mix_tells_its_parts_their_clips_and_files(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts)
    assert dataset.clip_names == ["0/001", "0/002", "own/a"]
    assert list(dataset.parts) == ["0", "own"]
    assert len(set(dataset.gt_files)) == 17
    assert dataset.sample_bytes == max(part.sample_bytes for part in dataset.parts.values()) > 0


def test_a_part_may_have_degradations_of_its_own(parts: list[dict[str, Any]]) -> None:
    blurred = mixed([parts[0], {**parts[1], "degradations": [{"type": "Noise", "noise_range": [20, 20]}]}])
    clean = mixed(parts)
    assert torch.equal(blurred[2, 0]["lq"], clean[2, 0]["lq"])
    assert torch.equal(blurred[14, 0]["gt"], clean[14, 0]["gt"])
    assert not torch.equal(blurred[14, 0]["lq"], clean[14, 0]["lq"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataroot_gt": "nowhere"}, r"^datasets\[1\] \(VideoTrainDataset\): dataroot_gt: expected an existing"),
        ({"gt_size": 999 * 4}, r"^datasets\[1\] \(VideoTrainDataset\): gt_size"),
        ({"gt_size": 32}, r"^datasets\[1\] .*: expected samples like those of datasets\[0\], gt \(3, 16, 16\), lq"),
        ({"num_frame": 5}, r"^datasets\[1\] .*lq \(3, 3, 4, 4\), got .*lq \(5, 3, 4, 4\)"),
        ({"weight": 2}, r"^weight: expected a number above 0 for each part, or none for all, got \[None, 2\]"),
        ({"name": "0"}, "^datasets: expected a name of its own for each part, got '0' twice"),
        ({"degradations": [{"type": "Nosie"}]}, r"^datasets\[1\] .*degradations\[0\]: unknown degradation 'Nosie'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_part_is_said_with_its_number(
    parts: list[dict[str, Any]], change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mixed([parts[0], {**parts[1], **change}])


def test_test_sets_and_bad_weights_and_nothing_are_refused(parts: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"datasets\[0\] \(VideoTestDataset\): expected a training set"):
        mixed([{"type": "VideoTestDataset", "dataroot_gt": parts[0]["dataroot_gt"], "num_frame": 3}])
    with pytest.raises(ValueError, match=r"weight: expected a number above 0"):
        mixed(parts, 1, 0)
    with pytest.raises(ValueError, match="datasets: expected at least one"):
        mixed([])
    with pytest.raises(ValueError, match=r"datasets: expected an epoch of at most \d+ samples, got \d+"):
        mixed(parts, 1e-9, 1)
    with pytest.raises(IndexError, match="index: expected 0 to 16, got 17"):
        mixed(parts)[17, 0]


def test_a_frame_that_cannot_be_read_is_named_with_its_part(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts)
    Path(parts[1]["dataroot_gt"], "a", "00000002.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"^datasets\[1\]: sample a/00000002: .*00000002.png"):
        dataset[14, 0]


# --- in option files -----------------------------------------------------------------------------

OPTIONS = """\
name: mixed
model_type: VideoModel
scale: 4
manual_seed: 5
datasets:
  train:
    type: MixedDataset
    datasets:
      - type: REDSDataset
        weight: 3
        dataroot_gt: {root}/reds
        num_frame: 3
        gt_size: 16
      - type: VideoTrainDataset
        name: own
        weight: 1
        dataroot_gt: {root}/own
        num_frame: 3
        gt_size: 16
        degradations: [{{type: Noise}}]
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
network_g:
  {{type: EDVR, num_frame: 3, num_feat: 8, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}}
path: {{experiments_root: {root}/experiments}}
train:
  total_iter: 3
  optim_g: {{type: Adam, lr: 1e-3}}
  pixel_opt: {{type: CharbonnierLoss}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false, log_keys: true}}
"""


def test_a_run_on_a_mix_resumes_as_an_unbroken_one_and_its_complete_options_repeat_it(
    parts: list[dict[str, Any]], tmp_path: Path
) -> None:
    path, copy = tmp_path / "x.yml", tmp_path / "copy.yml"
    path.write_text(OPTIONS.format(root=tmp_path))
    options = load_options(path)
    copy.write_text(dump_options(options))
    assert load_options(copy) == options
    schema = jsonschema.Draft202012Validator(json_schema())
    for file in (path, copy):
        assert [error.message for error in schema.iter_errors(plain(read_file(file)))] == []
    train(load_options(path, ["name=one"]))
    train(load_options(path, ["name=two", "train.total_iter=2"]))
    train(load_options(copy, ["name=two", "datasets.train.num_worker_per_gpu=2"]))
    one, two = (history(tmp_path / "experiments" / name) for name in ("one", "two"))
    assert [one[step]["keys"] for step in (1, 2, 3)] == [two[step]["keys"] for step in (1, 2, 3)]
    first, second = (final_state(tmp_path / "experiments" / name, 3) for name in ("one", "two"))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_all_mistakes_of_a_nested_set_are_shown_with_their_lines(tmp_path: Path) -> None:
    text = OPTIONS.format(root="data")
    for right, wrong in (
        ("        weight: 3", "        weight: much"),
        ("        gt_size: 16\n      -", "        gtsize: 16\n      -"),
        (
            "        num_frame: 3\n        gt_size: 16\n        degr",
            "        num_frame: 5\n        gt_size: 18\n        degr",
        ),
        ("type: Noise", "type: Nosie"),
    ):
        assert right in text
        text = text.replace(right, wrong)
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        load_options(path)
    problems = [problem.removeprefix(str(path)) for problem in caught.value.problems]
    assert [problem.partition(": ")[0] for problem in problems] == [
        ":9 datasets.train.datasets[0].gt_size",
        ":10 datasets.train.datasets[0].weight",
        ":13 datasets.train.datasets[0].gtsize",
        ":18 datasets.train.datasets[1].num_frame",
        ":19 datasets.train.datasets[1].gt_size",
        ":20 datasets.train.datasets[1].degradations[0].type",
    ], problems
    assert "expected 3, as network_g.num_frame, got 5" in problems[3]
    assert "expected a multiple of scale 4, got 18. Use 16." in problems[4]
    assert "Did you mean 'gt_size'?" in problems[2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", r"datasets.train.datasets: expected a list, got 5"),
        ("[]", r"datasets.train.datasets: expected a list, got an empty one"),
        ("[{}]", r"datasets\[0\].type: expected the name of a dataset, got nothing"),
        ("[7]", r"datasets\[0\]: expected a mapping, got 7"),
    ],
)
def test_what_is_no_list_of_sets_is_refused(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "x.yml"
    head, _, _ = OPTIONS.format(root="data").partition("    datasets:\n")
    path.write_text(f"{head}    datasets: {value}\nnetwork_g: {{type: EDVR}}\n")
    with pytest.raises(OptionError, match=message):
        load_options(path)
