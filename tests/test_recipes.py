"""The table of recipes, and what the comments of the option files say, against their values."""

import argparse
import re
import runpy
from pathlib import Path

import pytest

from vsr import recipes
from vsr.config import Options, StageOptions
from vsr.data.reds_files import SUPER_RESOLUTION
from vsr.models.published import TABLE

ROOT = Path(__file__).parent.parent
TRAIN, TEST = recipes.files("train"), recipes.files("test")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_page_is_that_of_the_option_files() -> None:
    page = recipes.PAGE.read_text(encoding="utf-8")
    assert page == recipes.page(), "run python -m vsr.recipes --write"
    assert page.count("](../options/") == len(TRAIN) + len(TEST)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes.main([]) == 0
    assert capsys.readouterr().out == recipes.page()


def test_labels_titles_and_continued_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(
        "# A net,\n# wide.\n# Batch: 8, 2 processes\n#   x 4\n# A note: none.\n#   more\n# Loss: L1\nx: 1\n# Data: -\n"
    )
    assert recipes.header(path) == ("A net, wide.", {"Batch": "8, 2 processes x 4", "Loss": "L1"})


@pytest.mark.parametrize("path", TRAIN, ids=name)
def test_the_comments_of_a_file_to_train_with_say_what_its_values_do(path: Path) -> None:
    title, said = recipes.header(path)
    assert title
    assert tuple(said) == recipes.LABELS["train"]
    assert all(said.values())
    options = recipes.load(path)
    train, data = options.train, options.datasets["train"]
    assert train is not None
    found = re.match(r"(\d+), (\d+) process(?:es)? x (\d+)", said["Batch"])
    assert found is not None
    total, processes, each = map(int, found.groups())
    assert total == processes * each == train.reference_batch
    assert each == data.batch_size_per_gpu
    launched = re.search(r"--nproc_per_node=(\d+)", said["Batch"])
    assert (int(launched[1]) if launched else 1) == processes
    for steps in re.findall(r"after (\d+)k steps", said["Expected"]):
        assert int(steps) * 1000 == train.total_iter
    named = options.path.pretrain_network_g
    stages = re.findall(r"^options/train/\S+\.yml", said["Before"])
    assert stages == ([named.stage] if isinstance(named, StageOptions) else [])
    assert isinstance(named, StageOptions | None)  # a stage knows whether it is at its end; a path does not
    assert bool(options.network_g.args.get("spynet_path")) == ("SpyNet, trained" in said["Before"])
    assert bool(options.network_g.args.get("edvr_path")) == ("EDVR-M" in said["Before"])
    main = next(loss for name, loss in train.losses.items() if name in ("pixel", "output", "recon")).args["reduction"]
    assert ("summed over one process's batch" in said["Loss"]) == (main == "sum")
    for script in re.findall(r"scripts/\w+\.py", said["Data"]):
        assert (ROOT / script).is_file()
    assert_measured_as_said(options, said["Expected"])


def roots(path: Path, key: str | None = None) -> set[Path]:
    """Where the data sets of an option file are, or the one of this key."""
    sets = recipes.load(path).datasets
    given = [section.dataset.args for name, section in sets.items() if key in (None, name)]
    found = {Path(args[name]) for args in given for name in ("dataroot_gt", "dataroot_lq") if args.get(name)}
    assert found
    return found


def prepared_by(script: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, argparse.Namespace]]:
    """The files to train with whose data a script prepares, and their commands as the script understands them."""
    arguments = runpy.run_path(str(ROOT / script))["arguments"]
    found = []
    for path in TRAIN:
        command = recipes.header(path)[1]["Data"].split()
        if script in command:
            monkeypatch.setattr("sys.argv", command)
            found.append((path, arguments()))
    assert found
    return found


def test_recipes_on_reds_read_what_their_command_prepares_with_the_clips_of_val(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validated = set()
    for path, given in prepared_by("scripts/prepare_reds.py", monkeypatch):
        output = Path(given.output or Path(given.root) / "prepared")
        subsets = given.subsets or SUPER_RESOLUTION
        for root in roots(path):
            subset = root.relative_to(output).parts[0]
            assert {subset, subset.replace("train_", "val_")} <= set(subsets), path
            assert root == output / subset / ("X4" if "bicubic" in subset else "")
        validated.add(frozenset(roots(path, "val")))
    tested = [path for path in TEST if path.stem.endswith("_reds4")]
    assert {frozenset(roots(path)) for path in tested} == validated


def test_recipes_on_vimeo90k_read_the_archive_and_what_their_command_prepares(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"bicubic": "vimeo_septuplet_matlabLRx4", "bd": "vimeo_septuplet_BDLRx4"}
    for path, given in prepared_by("scripts/prepare_vimeo90k.py", monkeypatch):
        made = Path(given.output or Path(given.root) / "prepared") / folders[given.lr[0]] / "sequences"
        assert roots(path, "train") == {Path(given.root) / "vimeo_septuplet" / "sequences", made}, path


def test_recipes_on_flickr1024_read_the_patches_of_the_scale_that_their_command_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path, given in prepared_by("scripts/prepare_flickr1024.py", monkeypatch):
        scale = recipes.load(path).scale
        assert given.scale == [scale], path
        assert roots(path, "train") == {Path(given.output) / f"patches_x{scale}"}
        test = Path(given.output) / "test" / "Flickr1024"
        assert roots(path, "val") == {test / "hr", test / f"lr_x{scale}"}


@pytest.mark.parametrize("path", TEST, ids=name)
def test_the_comments_of_a_file_to_test_with_say_what_its_values_do(path: Path) -> None:
    title, said = recipes.header(path)
    assert title
    assert tuple(said) == recipes.LABELS["test"]
    options = recipes.load(path)
    assert options.train is None
    weights = options.path.pretrain_network_g
    assert isinstance(weights, str | None)
    if weights is None:  # those of a training of this name
        stage = re.search(r"options/train/\S+\.yml", said["Weights"])
        assert stage is not None
        before = recipes.load(ROOT / stage[0])
        assert (before.name, before.network_g) == (options.name, options.network_g)
    elif found := re.fullmatch(r"python scripts/download_weights\.py (\w+)", said["Weights"]):
        entry = TABLE[found[1]]
        assert weights == f"experiments/pretrained_models/{entry.file}"
        assert entry.network == options.network_g.type.removesuffix("Local")
    else:
        assert Path(weights).name in said["Weights"]
    assert_measured_as_said(options, said["Published"])


def assert_measured_as_said(options: Options, text: str) -> None:
    """The first definition that the text names, '(RGB, border 4; ...)', is that of the first metric."""
    found = re.search(r"\((RGB|Y), (no border|border (\d+))", text)
    if found is None:
        assert re.match(r"no figures|no PSNR", text)
        return
    unpublished = ("ssim_2d", "ssim_3d")  # NAFSSR's files measure by all definitions in use
    metrics = {name: metric.metric for name, metric in options.val.metrics.items() if name not in unpublished}
    first = next(iter(metrics.values()))
    assert first.args.get("test_y_channel", False) == (found[1] == "Y")
    assert first.args["crop_border"] == int(found[3] or 0)
    kinds = {metric.type for metric in metrics.values()}
    assert any(metric.args.get("ssim3d") for metric in metrics.values()) == ("3-D window" in text)
    assert ("calculate_skimage_ssim" in kinds) == ("scikit-image" in text)
    assert ("RGB, no border" in text and "Y, no border" in text) == ("psnr_rgb" in metrics)


def test_networks_that_pool_locally_are_trained_and_tested_so_on_whole_frames() -> None:
    """On SIDD images are no larger than crops; there plain pooling is the published one."""
    for path in [*TRAIN, *TEST]:
        if "/NAFNet/" in path.as_posix():
            assert recipes.load(path).network_g.type.endswith("Local") == ("sidd" not in path.name), path


def test_runs_have_names_of_their_own() -> None:
    names = [recipes.load(path).name for path in TRAIN]
    assert len(set(names)) == len(names)
    names = [recipes.load(path).name for path in TEST]
    assert len(set(names)) == len(names)
