"""Whole runs on the prediction data sets: an even number of frames leads to the one that follows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from kit import assert_same_run, run, validations, write_frames

from vsr.config import load_options
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS

OPTIONS = """\
name: next
model_type: VideoModel
manual_seed: 3
imports: [tiny_networks]
datasets:
  train:
    type: HumanEvaDataset
    dataroot: {root}/HumanEva
    partition: train
    input_size: 4
    frame_interval: 3
    random_interval: true
    W: 24
    H: 16
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    type: HumanEvaDataset
    dataroot: {root}/HumanEva
    partition: val
    input_size: 4
    frame_interval: 3
    W: 24
    H: 16
    samples_per_clip: 3
    num_worker_per_gpu: 0
network_g: {{type: NextNet, num_frame: 4}}
path: {{experiments_root: {root}/experiments, results_root: {root}/results}}
train:
  total_iter: 2
  pixel_opt: {{type: L1Loss}}
  optim_g: {{type: Adam, lr: 1e-3}}
  ema_decay: 0.9
val:
  val_freq: 1
  save_img: true
  compare_bicubic: true
  metrics: {{psnr: {{type: calculate_psnr}}}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: true, log_keys: true}}
"""


@pytest.fixture
def option(tmp_path: Path) -> Path:
    """Clips of drifting texture, two to train on and one to validate on, and the option file."""
    for seed, (name, count) in enumerate({"S1_Box_1_(C1)": 15, "S1_Jog_1_(C1)": 16, "S2_Box_1_(C1)": 20}.items()):
        write_frames(tmp_path / "HumanEva" / "image" / name, count, (32, 48), seed=seed)
    for partition, names in {"train": "S1/Box_1_(C1)\nS1/Jog_1_(C1).avi", "val": "S2/Box_1_(C1)"}.items():
        (tmp_path / "HumanEva" / f"{partition}_list.csv").write_text(f"clip\n{names}\n")
    path = tmp_path / "next.yml"
    path.write_text(OPTIONS.format(root=tmp_path), encoding="utf-8")
    return path


def test_a_run_stopped_and_continued_equals_one_that_was_not(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_options(option, ["name=whole"]))
    original = RestorationModel.train_step

    def stopping(self, batches, step):
        if step == 2:
            raise InterruptedError
        return original(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "train_step", stopping)
        with pytest.raises(InterruptedError):
            train(load_options(option, ["name=parts"]))
    train(load_options(option, ["name=parts"]))
    whole, parts = (tmp_path / "experiments" / name for name in ("whole", "parts"))
    assert_same_run(whole, parts, 2)
    assert sorted(validations(whole)) == [(1, "val"), (2, "val")]
    # 20 frames, 8 places of t = 9 ... 16; three spread over them are 10, 13 and 15: their targets
    pictures = sorted(path.name for path in (whole / "visualization" / "val" / "2" / "S2_Box_1_(C1)").iterdir())
    assert pictures == ["0013.png", "0016.png", "0018.png"]

    weights = whole / "models" / "net_g_2.pth"
    run_test(load_options(option, ["name=tested", f"path.pretrain_network_g={weights}"]))
    lines = (tmp_path / "results" / "tested" / "val.csv").read_text().splitlines()
    assert lines[0].startswith("key,clip,frame,psnr,copy psnr")  # nothing was enlarged
    rows = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in rows] == ["S2_Box_1_(C1)/0013", "S2_Box_1_(C1)/0016", "S2_Box_1_(C1)/0018"]
    psnr = validations(whole)[2, "val"]["psnr"]  # of the same weights
    assert np.mean([float(row[3]) for row in rows]) == pytest.approx(psnr, abs=1e-9)


def test_the_baseline_of_a_prediction_is_that_nothing_moves(option: Path) -> None:
    options = load_options(option)
    model = MODELS.build({"type": "VideoModel"}, options=options, device=torch.device("cpu"))
    val_set = EvaluationSet("val", options)
    records = val_set.baseline(model)
    assert records is not None
    for record, sample in zip(records, (val_set.dataset[i] for i in range(3)), strict=True):
        error = (sample["lq"][-1].double() - sample["gt"].double()).square().mean().item()
        assert record.metrics["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)
        shown, _, target = val_set.pictures(model, record.key)
        assert np.array_equal(shown, sample["lq"][-1].permute(1, 2, 0))
        assert np.array_equal(target, sample["gt"].permute(1, 2, 0))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network_g.num_frame=5", r"datasets.train.* expected 5, the window of network_g \(NextNet\), got 4"),
        ("network_g={type: NAFNet, width: 8}", "datasets.train.type: expected clips with a GT frame for each LQ frame"),
        ("datasets.val.meta_info_file={root}/HumanEva/train_list.csv", "expected frames that datasets.train does not"),
        ("datasets.val.partition=train", "datasets.val: expected a test set"),
        ("datasets.train.partition=val", "datasets.train: expected a training set"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(
    option: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(load_options(option, [override.replace("{root}", str(tmp_path))]))


@pytest.mark.slow
def test_an_lmdb_and_workers_train_to_the_same_weights(option: Path, tmp_path: Path) -> None:
    make_lmdb(Recipe(str(tmp_path / "HumanEva" / "image"), str(tmp_path / "HumanEva" / "image.lmdb"), "raw"))
    status, output = run("train.py", "-opt", str(option), "--set", "name=disk")
    assert status == 0, output
    stored = [f"datasets.{key}.io_backend={{type: lmdb}}" for key in ("train", "val")]
    stored += [f"datasets.{key}.num_worker_per_gpu=2" for key in ("train", "val")]
    status, output = run("train.py", "-opt", str(option), "--set", "name=lmdb", *stored)
    assert status == 0, output
    assert_same_run(tmp_path / "experiments" / "disk", tmp_path / "experiments" / "lmdb", 2)
