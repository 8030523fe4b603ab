from typing import TYPE_CHECKING

import pytest
import yaml

from vsr.config import dump_options, hash_options

if TYPE_CHECKING:
    from conftest import Case

FULL = [
    "manual_seed=10",
    "train.scheduler={type: Restart, periods: [5, 6], restart_weights: [1, .5]}",
    "train.lr_mul={dcn: 0.1, a.b: 1e-7}",
    "train.optim_g.lr=2.5e-5",
    "datasets.train.clips=[000, '011', '12', 'on', '1e-4', '12:30', 'null', '', ' x', '東京', 'a: b', '#', '<<']",
    "datasets.val.clips=[\"\\x85\", \"a\\n\\x85 b\\n\", \"\\u2028\\t\", '''', '\"', '- a', '!x', '&y', '%z', '😀']",
    "datasets.train.io_backend={type: lmdb, nested: {list: [[1, 2], {a: ~}], off: on}}",
    "datasets.test={type: Clips, name: 'x #1', num_frame: -1}",
    "val.metrics={'on': {type: Metric, crop_border: 4, better: lower}, '5': {type: Metric, crop_border: 0}}",
    "val.suffix=yes",
    "path.pretrain_network_g='010'",
]


def test_the_dump_loads_to_equal_options(case: "Case") -> None:
    for overrides in ([], FULL):
        options = case.load(case.good, *overrides)
        again = case.load(dump_options(options))
        assert again == options
        assert dump_options(again) == dump_options(options)
        assert hash_options(again) == hash_options(options)


def test_other_yaml_readers_see_the_same_values(case: "Case") -> None:
    data = yaml.safe_load(dump_options(case.load(case.good, *FULL)))
    assert data["datasets"]["train"]["clips"][:7] == ["000", "011", "12", "on", "1e-4", "12:30", "null"]
    assert data["train"]["optim_g"]["lr"] == 2.5e-5
    assert list(data["val"]["metrics"]) == ["on", "5"]


def test_the_dump_is_complete_and_in_the_order_of_the_schema(case: "Case") -> None:
    text = dump_options(case.load())
    assert list(yaml.safe_load(text)) == [
        *("name", "model_type", "scale", "manual_seed", "imports", "datasets", "network_g", "network_d", "path"),
        *("train", "val", "logger", "prediction", "dist"),
    ]
    assert "\n    betas: [0.9, 0.999]\n" in text
    assert "\n  print_freq: 100\n" in text
    assert "\n    seed:" not in text  # the data set takes manual_seed, unless the file says otherwise


@pytest.mark.parametrize(
    "override", ["manual_seed=1", "network_g.num_feat=33", "val.metrics.psnr=", "train.lr_mul={x: 1}"]
)
def test_the_hash_tells_other_options_apart(case: "Case", override: str) -> None:
    assert hash_options(case.load()) != hash_options(case.load(case.good, override))


def test_the_hash_does_not_depend_on_how_the_file_is_written(case: "Case") -> None:
    text = (
        case.good.replace("scale: 4", "scale: 0x4  # four").replace("1e-4", "!!float 0.0001").replace("name: run\n", "")
    )
    text += "name: 'run'\n"
    assert hash_options(case.load(text)) == hash_options(case.load())
    assert len(hash_options(case.load())) == 64
