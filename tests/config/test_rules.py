import dataclasses
import typing
from typing import TYPE_CHECKING, Any

import pytest

from vsr.config import Options
from vsr.config.rules import _ABOVE_ZERO, _BOUNDS, plain_name

if TYPE_CHECKING:
    from conftest import Case


@pytest.mark.parametrize("pattern", [*_BOUNDS, *_ABOVE_ZERO])
def test_every_bound_stands_for_a_key_of_the_schema(pattern: str) -> None:
    hint: Any = Options
    for part in pattern.split("."):
        hint = typing.get_args(hint)[-1] if part == "*" else typing.get_type_hints(hint)[part]
        hint = next(
            (
                arg
                for arg in typing.get_args(hint)
                if dataclasses.is_dataclass(arg) and type(None) in typing.get_args(hint)
            ),
            hint,
        )
    assert hint in (int, float, int | None, float | None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scale=0", "expected 1 or more, got 0."),
        ("manual_seed=-1", "expected 0 or more, got -1."),
        ("manual_seed=4294967296", "expected 4294967295 or less, got 4294967296."),
        ("train.total_iter=0", "expected 1 or more, got 0."),
        ("train.warmup_iter=-2", "expected -1 or more, got -2."),
        ("train.ema_decay=1", "expected 0 (no average) to below 1, got 1.0."),
        ("train.ema_decay=-0.1", "expected 0 (no average) to below 1, got -0.1."),
        ("train.lr_mul={pcd.dcn: -1}", "expected 0 or more, got -1.0."),
        ("datasets.val.num_worker_per_gpu=-1", "expected 0 or more, got -1."),
        ("datasets.train.batch_size_per_gpu=0", "expected 1 or more, got 0."),
        ("datasets.train.timeout=0", "expected more than 0, got 0.0."),
        ("dist.timeout=-3", "expected more than 0, got -3.0."),
        ("logger.keep_last=1", "expected 2 or more, got 1."),
        ("val.val_freq=0", "expected 1 or more, got 0."),
        ("val.tile=16", "expected less than val.tile 16, got 16."),
        ("val.chunk=6", "expected less than val.chunk 6, got 6."),
        ("name=a/b", "expected the name of a folder"),
        ("name=..", "expected the name of a folder"),
        ("name=''", "expected the name of a folder"),
        ("datasets.val.name=a/../b", "expected the name of a folder"),
        ("val.suffix=/x", "expected a part of a file name, got '/x'."),
        ("model_type=VideoModle", "expected the name of a model, got 'VideoModle'. Did you mean 'VideoModel'?"),
        ("datasets.train.gt_size=66", "expected a multiple of scale 4, got 66. Use 64."),
        ("datasets.train.gt_size=2", "expected a multiple of scale 4, got 2. Use 4."),
        ("datasets.train.gt_size=-4", "expected 1 or more, got -4."),
        ("datasets.val.num_frame=7", "expected 5 by default, as network_g.num_frame, got 7."),
        ("network_g.upscale=2", "expected scale 4, got 2."),
        ("val.metrics.psnr.better=highest", "expected 'higher' or 'lower', got 'highest'."),
        ("train.losses={}", "expected at least one loss, got none."),
        ("train.losses.pixel=", "expected at least one loss, got none."),
        ("datasets.train=", "expected a set 'train' for the section train, got none."),
        (
            "datasets.trian={type: Clips}",
            "expected 'train', or a plain name that begins with 'val' or 'test', got 'trian'. Did",
        ),
        ("datasets.val/x={type: Clips}", "begins with 'val' or 'test', got 'val/x'."),
        ("datasets.test={type: Clips, name: val}", "expected a name of its own, got 'val', which 'val' has too."),
        ("datasets.test={type: Clips, name: report}", "a name of its own, got 'report', which 'report.csv' has too."),
    ],
)
def test_a_value_that_breaks_a_rule_is_told(case: "Case", override: str, message: str) -> None:
    (line,) = case.problems(case.good, override)
    assert message in line


def test_a_rule_names_the_line_and_path_of_the_key(case: "Case") -> None:
    assert case.problem("gt_size: 64", "gt_size: 65").startswith("x.yml:8 datasets.train.gt_size: expected a multiple")


def test_a_default_that_does_not_fit_is_said_to_be_one(case: "Case") -> None:
    line = case.problem("scale: 4", "scale: 2")
    assert line.startswith("x.yml:11 network_g.upscale: expected scale 2, got 4 by default.")


def test_frames_of_data_and_network_are_compared_wherever_they_come_from(case: "Case") -> None:
    lines = case.problems(case.good, "network_g.num_frame=7")
    assert lines[0].startswith(
        "x.yml:5 datasets.train.num_frame: expected 7, as network_g.num_frame, got 5 by default."
    )
    assert len(lines) == 2


def test_whole_clips_fit_any_network(case: "Case") -> None:
    assert case.load(case.good, "datasets.val.num_frame=-1").datasets["val"].dataset.args["num_frame"] == -1


def test_what_is_allowed_at_the_edge_of_a_rule_passes(case: "Case") -> None:
    edges = [
        "train.ema_decay=0.9999",
        "train.warmup_iter=-1",
        "logger.keep_last=2",
        "val.tile=17",
        "val.chunk=7",
        "manual_seed=4294967295",
    ]
    options = case.load(
        case.good, *edges, "datasets.train.num_worker_per_gpu=0", "train.lr_mul={a.b: 0}", "val.suffix=_x4"
    )
    assert options.train is not None
    assert options.train.lr_mul == {"a.b": 0.0}


def test_an_invalid_part_is_told_once_and_does_not_hide_the_rest(case: "Case") -> None:
    lines = case.problems(case.good, "scale=four", "train.losses=3", "datasets.train.gt_size=no", "logger.keep_last=0")
    assert len(lines) == 4


@pytest.mark.parametrize("name", ["a", "EDVR_M-x4.1", "001_x", "größe 東京", "a" * 200])
def test_a_plain_name_is_one_folder(name: str) -> None:
    assert plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "a\\b", "a\nb", "a\0", " a", "a ", "-a", "~", "a" * 201, "東" * 67]
)
def test_other_names_are_refused(name: str) -> None:
    assert not plain_name(name)
