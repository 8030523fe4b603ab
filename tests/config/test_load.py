import pickle
from typing import TYPE_CHECKING

import pytest

import vsr
from vsr.config import OptionError, load_options

if TYPE_CHECKING:
    from conftest import Case


def test_load_options_is_public() -> None:
    assert vsr.load_options is load_options


def test_overrides_are_put_over_the_file_in_turn(case: "Case") -> None:
    options = case.load(
        case.good, "train.total_iter=5", "network_g.num_feat=16", "train:total_iter=1e1", "logger.keep_last=3"
    )
    assert options.train is not None
    assert (options.train.total_iter, options.network_g.args["num_feat"], options.logger.keep_last) == (10, 16, 3)


def test_an_override_makes_the_mappings_on_its_way(case: "Case") -> None:
    options = case.load(
        case.good,
        "path.results_root=out",
        "datasets.train.io_backend.type=disk",
        "val.metrics.ssim.type=Metric",
        "val.metrics.ssim.crop_border=4",
    )
    assert options.path.results_root == "out"
    assert options.datasets["train"].dataset.args["io_backend"] == {"type": "disk"}
    assert options.val.metrics["ssim"].metric.args["crop_border"] == 4


def test_an_override_of_a_mapping_replaces_it(case: "Case") -> None:
    options = case.load(case.good, "network_g={type: Net}", "train.optim_g={type: Optim, lr: 1}")
    assert options.network_g.args["num_feat"] == 64
    assert options.train is not None
    assert options.train.optim_g.args["lr"] == 1.0


def test_an_override_cannot_go_through_a_value(case: "Case") -> None:
    (line,) = case.problems(case.good, "scale.x=1")
    assert line == "--set scale.x=1: expected a mapping at scale, got 4. Set it as a whole."
    (line,) = case.problems(case.good + "imports: []\n", "imports.0=x")
    assert line.startswith("--set imports.0=x: expected a mapping at imports, got [].")


def test_mistakes_in_overrides_are_told_under_them(case: "Case") -> None:
    lines = case.problems(
        case.good, "network_g.num_feta=1", "train.optim_g.lr=fast", "scale", "val:tile=[1", "foo.bar=2"
    )
    assert len(lines) == 5
    assert any(line.startswith("--set network_g.num_feta=1: not an argument of the network Net. Did") for line in lines)
    assert any(line.startswith("--set train.optim_g.lr=fast: expected float, got 'fast'.") for line in lines)
    assert any(line.startswith("--set scale: expected key.path=value") for line in lines)
    assert any(line.startswith("--set val:tile=[1: expected valid YAML") for line in lines)
    assert any(line.startswith("--set foo.bar=2 foo: unknown key.") for line in lines)


def test_a_mistake_inside_the_value_of_an_override_has_its_path(case: "Case") -> None:
    (line,) = case.problems(case.good, "network_g={type: Net, num_feat: x}")
    assert line == "--set network_g={type: Net, num_feat: x} network_g.num_feat: expected int, got 'x'."


def test_a_mistake_is_one_line_whatever_the_user_wrote(case: "Case") -> None:
    (line,) = case.problems(case.good, "scale=\nx")
    assert line == "--set scale=\\nx: expected int, got 'x'."
    (line,) = case.problems(case.good + '"a\\nb": 1\n')
    assert line.startswith("x.yml:18 a\\nb: unknown key.")


def test_one_override_may_be_a_plain_string(case: "Case") -> None:
    case.load()
    assert load_options(case.path, "manual_seed=7").manual_seed == 7


def test_option_errors_are_value_errors_and_travel_between_processes(case: "Case") -> None:
    with pytest.raises(ValueError, match=r"scale: expected int") as caught:
        case.load(case.good.replace("scale: 4", "scale: x"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, OptionError)
    assert str(copy) == str(caught.value)
