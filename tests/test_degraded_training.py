"""Training through train.py on LQ that is made on the fly, and on batches that are mixed."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from kit import assert_same_run, run, write_frames

from vsr.config import Component, OptionError, load_options
from vsr.config.manual import json_schema
from vsr.config.schema import DatasetOptions
from vsr.data.loader import build_dataset
from vsr.engine.train import train
from vsr.registry import DATASETS


@DATASETS.register
class ReadyMade:
    """A data set that has its LQ."""


LISTS = {
    "bd": [{"type": "BlurDown"}],
    "camera": [
        {"type": "FrameAverage", "num_frame": 3, "gamma": 2.2},
        {"type": "Resize"},
        {"type": "Noise"},
        {"type": "JPEG"},
    ],
    "second order": [
        {"type": "USM"},
        {"type": "RandomBlur"},
        {"type": "RandomResize"},
        {"type": "Noise"},
        {"type": "JPEG"},
        {"type": "RandomBlur", "prob": 0.8},
        {"type": "RandomResize", "relative_to": "lq", "resize_range": [0.3, 1.2]},
        {"type": "Noise"},
        {"type": "Shuffle", "groups": [[{"type": "Resize"}, {"type": "SincFilter"}], [{"type": "JPEG"}]]},
    ],
}  # fmt: skip
MIXES = [
    {"type": "Degrade", "stages": [{"type": "RandomBlur"}, {"type": "Noise"}, {"type": "JPEG"}], "prob": 0.5},
    {"type": "Mixup", "prob": 0.7},
    {"type": "CutMix", "prob": 0.5},
    {"type": "CutBlur"},
    {"type": "RGBShuffle"},
]


def option_file(tmp_path: Path, stages: object, mixes: object, *, name: str, total: int = 1) -> Path:
    for clip in ("a", "b"):
        write_frames(tmp_path / "data" / clip, 6, (48, 64), seed=ord(clip))
    options = {
        "name": name,
        "model_type": "VideoModel",
        "scale": 2,
        "imports": ["tiny_networks"],
        "datasets": {
            "train": {
                "type": "VideoRecurrentTrainDataset", "dataroot_gt": str(tmp_path / "data"), "clips": ["a"],
                "num_frame": 3, "gt_size": 32, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0, "degradations": stages,
            },
            "val": {
                "type": "VideoRecurrentTestDataset", "dataroot_gt": str(tmp_path / "data"), "clips": ["b"],
                "num_worker_per_gpu": 0, "degradations": stages,
            },
        },
        "network_g": {"type": "ClipNet"},
        "path": {"experiments_root": str(tmp_path / "experiments"), "results_root": str(tmp_path / "results")},
        "train": {
            "total_iter": total,
            "pixel_opt": {"type": "L1Loss"},
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "batch_augment": mixes,
        },
        "val": {"metrics": {"psnr": {"type": "calculate_psnr"}}, "val_freq": 2},
        "logger": {"use_tb_logger": False, "print_freq": 1, "save_checkpoint_freq": 2},
    }  # fmt: skip
    path = tmp_path / f"{name}.yml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(options))), encoding="utf-8")  # without aliases
    return path


@pytest.mark.parametrize("name", sorted(LISTS))
def test_a_step_and_a_validation_on_each_list_through_the_command_line(name: str, tmp_path: Path) -> None:
    path = option_file(tmp_path, LISTS[name], [], name="tiny")
    status, output = run("train.py", "-opt", str(path))
    assert status == 0, output
    root = tmp_path / "experiments" / "tiny"
    lines = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val" not in line] == [1]
    assert len([line for line in lines if "val" in line]) == 1
    assert load_options(root / "options.yml") == load_options(path)  # every default of every stage written out


def test_a_run_that_stops_and_goes_on_draws_the_same_degradations_and_mixes(tmp_path: Path) -> None:
    path = option_file(tmp_path, LISTS["second order"], MIXES, name="whole", total=4)
    train(load_options(path))
    train(load_options(path, ["name=parts", "train.total_iter=2"]))
    train(load_options(path, ["name=parts"]))
    train(
        load_options(path, ["name=workers", "datasets.train.num_worker_per_gpu=2", "datasets.val.num_worker_per_gpu=1"])
    )
    train(load_options(path, ["name=other", "train.batch_augment=[]"]))
    experiments = tmp_path / "experiments"
    for name in ("parts", "workers"):
        assert_same_run(experiments / "whole", experiments / name, 4)
    losses = [(experiments / name / "log.jsonl").read_text() for name in ("whole", "other")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("degradations: [{type: JPGE}]", "datasets.train.degradations[0].type: expected the name of a degradation"),
        ("degradations: [{type: JPEG, range: 3}]", "datasets.train.degradations[0].range: not an argument"),
        ("degradations: [{type: JPEG, jpeg_range: 3}]", "degradations[0].jpeg_range: expected a list of float"),
        ("degradations: {type: JPEG}", "datasets.train.degradations: expected a list, got a mapping"),
        ("degradations: [JPEG]", "datasets.train.degradations[0]: expected a mapping with a 'type', got 'JPEG'"),
        ("degradations: [{type: JPEG, jpeg_range: [50, 30]}]", "degradations[0]: jpeg_range: expected [least, most]"),
    ],
)
def test_a_mistake_in_a_list_is_shown_at_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = option_file(tmp_path, [], [], name="tiny")
    path.write_text(path.read_text().replace("degradations: []", text, 1), encoding="utf-8")
    with pytest.raises((OptionError, ValueError), match=re.escape(message)):
        train(load_options(path))


def test_lists_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    path = option_file(tmp_path, [], [], name="tiny")
    options = load_options(path, ["datasets.train.degradations=[{type: JPEG, jpeg_range: [40, 50]}, {type: BlurDown}]"])
    stages = options.datasets["train"].degradations
    assert [stage.type for stage in stages] == ["JPEG", "BlurDown"]
    assert stages[0].args == {"jpeg_range": [40.0, 50.0], "prob": 1.0, "vary": False}


@pytest.mark.parametrize(
    ("stage", "valid"), [("{type: JPEG}", True), ("{type: JPGE}", False), ("{type: JPEG, q: 1}", False)]
)
def test_the_schema_for_editors_knows_the_stages(stage: str, valid: bool, tmp_path: Path) -> None:
    options = yaml.safe_load(option_file(tmp_path, [], [], name="tiny").read_text())
    options["datasets"]["train"] |= {"type": "VideoRecurrentTrainDataset", "degradations": [yaml.safe_load(stage)]}
    options["network_g"] = {"type": "BasicVSR"}
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(options) is valid


def test_a_data_set_that_makes_no_lq_refuses_degradations() -> None:
    options = DatasetOptions(
        dataset=Component(type="ReadyMade"), degradations=[Component(type="BlurDown"), Component(type="JPEG")]
    )
    with pytest.raises(ValueError, match=r"datasets.val: degradations: expected none, got 2: ReadyMade makes no LQ"):
        build_dataset(options, scale=2, seed=0, key="val")
