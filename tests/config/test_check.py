import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vsr.config import Component, OptionError, Options

if TYPE_CHECKING:
    from conftest import Case


def test_defaults_are_filled_in_for_sections_and_components(case: "Case") -> None:
    options = case.load()
    assert options.train is not None
    assert (options.manual_seed, options.train.ema_decay, options.logger.print_freq) == (0, 0.0, 100)
    assert options.train.optim_g == Component(type="Optim", args={"lr": 0.0001, "betas": (0.9, 0.999)})
    assert options.train.losses == {"pixel": Component(type="Loss", args={"loss_weight": 1.0, "reduction": "mean"})}
    data = options.datasets["train"]
    assert (data.batch_size_per_gpu, data.num_worker_per_gpu) == (2, 2)
    assert data.dataset.args == {
        "dataroot_gt": "gt",
        "clips": None,
        "num_frame": 5,
        "gt_size": 64,
        "interval_list": [1],
        "padding": "replicate",
        "io_backend": None,
        "use_hflip": True,
        "use_rot": True,
    }  # without scale and seed, which the caller knows: a default here would win over manual_seed


def test_a_default_that_yaml_cannot_write_stays_with_the_constructor(case: "Case") -> None:
    assert case.load().network_g.args == {"num_feat": 32, "num_frame": 5, "upscale": 4}


def test_options_are_frozen(case: "Case") -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.load().name = "other"  # type: ignore[misc]


def test_an_empty_section_means_its_defaults(case: "Case") -> None:
    text = case.good.replace(
        "val:\n  metrics: {psnr: {type: Metric, crop_border: 0}}\n", "val:\npath:\nlogger: ~\ndist: {}\n"
    )
    options = case.load(text)
    assert (options.val.tile_overlap, options.path.results_root, options.dist.timeout) == (16, "results", 600.0)


def test_a_name_with_nothing_behind_it_is_left_out(case: "Case") -> None:
    options = case.load(case.good, "datasets.val=", "val.metrics.psnr=null", "val.metrics.ssim=~")
    assert list(options.datasets) == ["train"]
    assert options.val.metrics == {}


def test_a_file_for_tests_needs_no_training_section() -> None:
    names = {f.name for f in dataclasses.fields(Options) if f.default is f.default_factory is dataclasses.MISSING}
    assert names == {"name", "model_type", "network_g"}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("total_iter: 100", "total_iter: many", "x.yml:13 train.total_iter: expected int, got 'many'."),
        ("total_iter: 100", "total_iter: true", "x.yml:13 train.total_iter: expected int, got true."),
        ("total_iter: 100", "total_iter: 1.5", "x.yml:13 train.total_iter: expected int, got 1.5."),
        ("total_iter: 100", "total_iter: ~", "x.yml:13 train.total_iter: expected int, got null."),
        ("name: run", "name: 5", "x.yml:1 name: expected text, got 5. Put it in quotes."),
        ("lr: 1e-4", "lr: '1e-4'", "x.yml:15 train.optim_g.lr: expected float, got '1e-4'."),
        ("gt_size: 64", "gt_size: [64]", "x.yml:8 datasets.train.gt_size: expected int or null, got [64]."),
        (
            "gt_size: 64",
            "clips: [000, 11]",
            "x.yml:8 datasets.train.clips[1]: expected text, got 11. Put it in quotes.",
        ),
        (
            "gt_size: 64",
            "padding: reflect",
            "x.yml:8 datasets.train.padding: expected one of 'replicate', 'circle', got 'reflect'.",
        ),
        (
            "lr: 1e-4",
            "lr: 1, betas: [.9]",
            "x.yml:15 train.optim_g.betas: expected a list of 2 (float, float), got [0.9].",
        ),
        (
            "network_g: {type: Net, num_feat: 32}",
            "network_g: Net",
            "x.yml:11 network_g: expected a mapping with a 'type', got 'Net'.",
        ),
        (
            "network_g: {type: Net, num_feat: 32}",
            "network_g:",
            "x.yml:11 network_g: expected a mapping with a 'type', got nothing.",
        ),
        ("val: {type: Clips, dataroot_gt: gt}", "val: 3", "x.yml:10 datasets.val: expected a mapping, got 3."),
        ("{pixel: {type: Loss}}", "[Loss]", "x.yml:14 train.losses: expected a mapping of names, got ['Loss']."),
    ],
)
def test_a_value_of_a_wrong_type_is_told_with_line_and_path(case: "Case", right: str, wrong: str, message: str) -> None:
    assert case.problem(right, wrong).startswith(message)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "gt_size: 64",
            "gt_size: 64\n    gt_szie: 64",
            "x.yml:9 datasets.train.gt_szie: not an argument of the dataset Clips. Did you mean 'gt_size'?",
        ),
        (
            "batch_size_per_gpu: 2",
            "batch_size: 2",
            "x.yml:9 datasets.train.batch_size: not an argument of the dataset Clips. Did you mean 'batch_size_per_g",
        ),
        ("num_feat: 32", "nf: 32", "x.yml:11 network_g.nf: not an argument of the network Net. Known: "),
        (
            "total_iter: 100",
            "total_iter: 1\n  warmup: 3",
            "x.yml:14 train.warmup: unknown key. Did you mean 'warmup_iter'?",
        ),
        ("scale: 4", "scale: 4\nval_freq: 10", "x.yml:4 val_freq: unknown key. Move it to 'val.val_freq'."),
        (
            "scale: 4",
            "scale: 4\nlogger: {scale: 3}",
            "x.yml:4 logger.scale: unknown key. Move 'scale' to the top level.",
        ),
        ("lr: 1e-4", "lr: 1e-4, params: 3", "x.yml:15 train.optim_g.params: not an argument of the optimizer Optim."),
        (
            "type: Net",
            "type: Nett",
            "x.yml:11 network_g.type: expected the name of a network, got 'Nett'. Did you mean 'Net'?",
        ),
        (
            "type: Net,",
            "",
            "x.yml:11 network_g.type: expected the name of a network, got nothing. Known: NeedyNet, Net.",
        ),
        (
            "type: Net",
            "type: 3",
            "x.yml:11 network_g.type: expected the name of a network, got 3. Known: NeedyNet, Net.",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(case: "Case", right: str, wrong: str, message: str) -> None:
    assert case.problem(right, wrong).startswith(message)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("name: run\n", "", "x.yml:1 name: expected text, got nothing. Add this key."),
        ("  total_iter: 100\n", "", "x.yml:12 train.total_iter: expected int, got nothing. Add this key."),
        (", lr: 1e-4", "", "x.yml:15 train.optim_g.lr: expected float for Optim, got nothing. Add this key."),
        (
            "network_g: {type: Net, num_feat: 32}\n",
            "",
            "x.yml:1 network_g: expected a mapping with the 'type' of a network, got",
        ),
        (
            "{type: Net, num_feat: 32}",
            "{type: NeedyNet, scale: 4}",
            "x.yml:11 network_g.depths: expected a list of int for",
        ),
        (
            "{type: Net, num_feat: 32}",
            "{type: NeedyNet, depths: [1]}",
            "x.yml:11 network_g.scale: expected int for NeedyNet",
        ),
    ],
)
def test_a_missing_key_is_told_under_what_should_hold_it(case: "Case", right: str, wrong: str, message: str) -> None:
    assert case.problem(right, wrong).startswith(message)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(case: "Case") -> None:
    text = (
        case.good.replace("total_iter: 100", "total_iter: x")
        .replace("type: Net", "type: Nett")
        .replace("scale: 4", "scale: 0")
    )
    lines = case.problems(text, "logger.print_freq=never", "val.tile=-1")
    assert [line.split(":")[0] + ":" + line.split(":")[1].split()[0] for line in lines[:3]] == [
        "x.yml:3",
        "x.yml:11",
        "x.yml:13",
    ]
    assert lines[3].startswith("--set logger.print_freq=never: expected int, got 'never'.")
    assert lines[4].startswith("--set val.tile=-1: expected 0 or more, got -1.")
    assert len(lines) == 5


def test_modules_of_the_user_are_imported_first(case: "Case", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "lab_networks.py"
    module.write_text(
        "import vsr.registry\n\n\n@vsr.registry.NETWORKS.register\nclass LabNet:\n"
        "    def __init__(self, *, width: int = 8):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = case.good.replace("{type: Net, num_feat: 32}", "{type: LabNet}") + "imports: [lab_networks]\n"
    try:
        assert case.load(text).network_g.args == {"width": 8}
    finally:
        sys.modules.pop("lab_networks", None)


def test_a_module_that_fails_is_named_and_its_error_is_the_cause(
    case: "Case", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab_broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError) as caught:
        case.load(case.good + "imports: [lab_broken, lab_absent.nets]\n")
    first, second = caught.value.problems
    assert "imports: module 'lab_broken' could not be imported: RuntimeError: no licence. Mend the module." in first
    assert "module 'lab_absent.nets' could not be imported: ModuleNotFoundError" in second
    assert "PYTHONPATH" in second
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_imports_that_are_no_list_of_names_are_told(case: "Case") -> None:
    assert "imports: expected a list of text, got 'lab'" in case.problems(case.good + "imports: lab\n")[0]
    assert "imports[0]: expected text, got 3" in case.problems(case.good + "imports: [3]\n")[0]
