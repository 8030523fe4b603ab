"""Whole runs on the prediction data sets: an even number of frames leads to the one that follows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from kit import assert_same_run, validations
from prediction_sets import write_humaneva

from vsr.config import load_options
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS
from vsr.utils.images import write_image

# A network of windows, and nothing of what belongs to PredictionModel.
WINDOWS = [
    "name=next", "model_type=VideoModel", "imports=[tiny_networks]", "network_g={type: NextNet, num_frame: 4}",
    "prediction=null", "datasets.train.with_flow=false", "datasets.val.with_flow=false",
    "datasets.train.random_interval=true", "train.ema_decay=0.9", "val.save_img=true", "val.compare_bicubic=true",
    "val.metrics={psnr: {type: calculate_psnr}}", "logger.log_keys=true",
]  # fmt: skip
DEMO = Path(__file__).parent.parent / "options" / "demo" / "prediction_bunny.yml"


@pytest.fixture
def option(tmp_path: Path) -> Path:
    return write_humaneva(tmp_path)


def test_a_run_stopped_and_continued_equals_one_that_was_not(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_options(option, [*WINDOWS, "name=whole"]))
    original = RestorationModel.train_step

    def stopping(self, batches, step):
        if step == 2:
            raise InterruptedError
        return original(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "train_step", stopping)
        with pytest.raises(InterruptedError):
            train(load_options(option, [*WINDOWS, "name=parts"]))
    train(load_options(option, [*WINDOWS, "name=parts"]))
    whole, parts = (tmp_path / "experiments" / name for name in ("whole", "parts"))
    assert_same_run(whole, parts, 2)
    assert sorted(validations(whole)) == [(1, "val"), (2, "val")]
    # 20 frames, 8 places of t = 9 ... 16; three spread over them are 10, 13 and 15: their targets
    pictures = sorted(path.name for path in (whole / "visualization" / "val" / "2" / "S2_Box_1_(C1)").iterdir())
    assert pictures == ["0013.png", "0016.png", "0018.png"]

    weights = whole / "models" / "net_g_2.pth"
    run_test(load_options(option, [*WINDOWS, "name=tested", f"path.pretrain_network_g={weights}"]))
    lines = (tmp_path / "results" / "tested" / "val.csv").read_text().splitlines()
    assert lines[0].startswith("key,clip,frame,psnr,copy psnr")  # nothing was enlarged
    rows = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in rows] == ["S2_Box_1_(C1)/0013", "S2_Box_1_(C1)/0016", "S2_Box_1_(C1)/0018"]
    psnr = validations(whole)[2, "val"]["psnr"]  # of the same weights
    assert np.mean([float(row[3]) for row in rows]) == pytest.approx(psnr, abs=1e-9)


def test_the_baseline_of_a_prediction_is_that_nothing_moves(option: Path) -> None:
    options = load_options(option, WINDOWS)
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
        train(load_options(option, [*WINDOWS, override.replace("{root}", str(tmp_path))]))


@pytest.mark.slow
def test_an_lmdb_and_workers_train_to_the_same_weights(option: Path, tmp_path: Path) -> None:
    make_lmdb(Recipe(str(tmp_path / "HumanEva" / "image"), str(tmp_path / "HumanEva" / "image.lmdb"), "raw"))
    stored = [f"datasets.{key}.io_backend={{type: lmdb}}" for key in ("train", "val")]
    stored += [f"datasets.{key}.num_worker_per_gpu=2" for key in ("train", "val")]
    train(load_options(option, [*WINDOWS, "name=disk"]))
    train(load_options(option, [*WINDOWS, "name=lmdb", *stored]))
    assert_same_run(tmp_path / "experiments" / "disk", tmp_path / "experiments" / "lmdb", 2)


@pytest.mark.slow
def test_the_demo_s_network_beats_a_copy_of_the_last_frame_where_things_move(tmp_path: Path) -> None:
    """On the second half of a made clip, which drifts by a quarter of a pixel a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (9 * 16, 7 * 16), interpolation=cv2.INTER_CUBIC)
    (tmp_path / "clip").mkdir()
    for i in range(30):
        frame = cv2.resize(texture[i : i + 64, i : i + 96], (24, 16), interpolation=cv2.INTER_AREA)
        write_image(tmp_path / "clip" / f"{i:02d}.png", frame)  # type: ignore[arg-type]
    given = [f"path.experiments_root={tmp_path}", "prediction.results=false", "val.metrics=null", "train.total_iter=40"]
    given += ["train.scheduler.periods=[40]", "train.optim_g.lr=3e-3", "logger.use_tb_logger=false"]
    for key, frames in (("train", "[0, 19]"), ("val", "[20, 29]")):
        section = f"datasets.{key}"
        given += [f"{section}.dataroot={tmp_path}/clip", f"{section}.frames={frames}", f"{section}.W=24"]
        given.append(f"{section}.H=16")
    train(load_options(DEMO, given))
    (entry,) = validations(tmp_path / "prediction_bunny").values()
    assert entry["loss"] < 0.9 * entry["loss of copy-last"]
    assert entry["loss of copy-last"] < entry["loss of mean-of-memory"]
