"""The demo of stereo pairs: its data, what its option files have in common, and a reduced run."""

import csv
import importlib
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import ROOT, history, validations
from stereo_pairs import photographed_pair

from vsr.config import load_options
from vsr.data.motorcycle import TRAIN, VAL
from vsr.data.paired_stereo_image import PairedStereoImageDataset
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.utils.images import read_image

METRICS = ["psnr", "ssim", "disparity", "bad", "warped"]


def test_no_row_is_trained_and_validated_on() -> None:
    (first, last), trained = VAL["middle"], [row for band in TRAIN.values() for row in range(*band)]
    assert min(abs(row - other) for row in range(first, last) for other in trained) > 20
    assert max(trained) < 500
    for band in (*TRAIN.values(), *VAL.values()):
        assert (band[1] - band[0]) % 4 == 0
        assert band[1] - band[0] >= 120  # a crop at x4


def test_the_pairs_are_bands_of_the_picture_with_its_disparity(tmp_path: Path, run_script: Any) -> None:
    left, right = photographed_pair()
    truth = importlib.import_module("skimage.data").stereo_motorcycle()[2]
    root = tmp_path / "new folder" / "motorcycle"
    for _ in range(2):  # the same again is no mistake
        status, told, errors = run_script("prepare_motorcycle.py", "--output", str(root))
        assert (status, errors) == (0, "")
    assert told.count("\n") == 4
    assert f"{root}/val/middle: rows 180 to 319 of 500, 140x740\n" in told
    for part, bands in (("train", TRAIN), ("val", VAL)):
        for name, (first, last) in bands.items():
            for number, view in enumerate((left, right)):
                got = read_image(root / part / name / f"hr{number}.png")
                np.testing.assert_array_equal(got, view[first:last, :740])
    dataset = PairedStereoImageDataset(
        dataroot_gt=str(root / "val"), dataroot_disparity=str(root / "disparity"), scale=4
    )
    known = dataset[0]["disparity"].numpy()
    expected = truth[180:320, :740]
    np.testing.assert_allclose(known, np.where(np.isfinite(expected), expected, 0), rtol=1e-6)
    assert 0.02 < (known == 0).mean() < 0.2


def test_a_picture_that_is_not_there_is_told_of(
    tmp_path: Path, run_script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    status, told, errors = run_script("prepare_motorcycle.py", "--output", str(tmp_path / "out"))
    assert (status, told) == (1, "")
    assert errors.startswith("error: motorcycle: expected scikit-image to bring its picture along, got: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [2, 4])
def test_one_view_and_both_have_the_same_budget(scale: int) -> None:
    one, both = (load_options(ROOT / f"options/demo/{name}_motorcycle_x{scale}.yml") for name in ("nafnetsr", "nafssr"))
    first, second = asdict(one), asdict(both)
    differ = {key for key in first if first[key] != second[key]}
    assert differ == {"name", "network_g"}
    assert (one.network_g.type, both.network_g.type) == ("NAFNetSR", "NAFSSR")
    for name in ("width", "num_blks", "up_scale", "drop_path_rate", "extraction_block"):
        assert one.network_g.args[name] == both.network_g.args[name]
    assert one.network_g.args["local"]["train_size"] == both.network_g.args["train_size"][2:]
    assert one.network_g.args["dual"] is False


@pytest.mark.slow
def test_a_reduced_demo_beats_bicubic_interpolation_on_rows_that_it_was_not_trained_on(
    tmp_path: Path, run_script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographed_pair()
    monkeypatch.chdir(tmp_path)
    assert run_script("prepare_motorcycle.py")[0] == 0
    reduced = [
        "network_g.width=12", "network_g.num_blks=2", "network_g.train_size=[1,6,20,60]",
        "datasets.train.gt_size_h=40", "datasets.train.gt_size_w=120", "datasets.train.batch_size_per_gpu=2",
        "train.total_iter=120", "train.scheduler.T_max=120", "train.optim_g.lr=5e-3", "train.ema_decay=0.9",
        "val.val_freq=100", "logger.use_tb_logger=false",
    ]  # fmt: skip
    options = load_options(ROOT / "options" / "demo" / "nafssr_motorcycle_x2.yml", reduced)
    train(options)
    run = tmp_path / "experiments" / options.name
    assert sorted(history(run))[-1] == 120
    assert [step for step, _ in validations(run)] == [100, 120]
    record = run_test(options)["val"][0]
    assert record.key == "middle"
    assert list(record.metrics) == METRICS
    values = record.metrics
    assert all(math.isfinite(value) for value in values.values())
    results = tmp_path / "results" / options.name
    table = list(csv.DictReader((results / "MotorcycleVal.csv").open(encoding="utf-8")))
    assert 27 < float(table[0]["bicubic psnr"]) < 27.5
    assert values["psnr"] > float(table[0]["bicubic psnr"]) + 0.15
    assert values["bad"] < 20
    assert table[0]["disparity reference"] == "truth"
    assert "crop 0; by true disparity<br>" in (results / "report.html").read_text(encoding="utf-8")
