"""FMA-Net from REDS as it is downloaded to figures: prepare, flow, stage 1, stage 2, test; a call a step."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from kit import ROOT, history, run, validations

from vsr.config import load_options
from vsr.data import reds_files, reds_preparation
from vsr.data.reds_preparation import RedsOptions, prepare_reds
from vsr.engine.generate_flow import generate_flow
from vsr.engine.results import totals
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.metrics.ssim import calculate_ssim
from vsr.metrics.tof import calculate_tof
from vsr.models.weights import build_network, read_weights
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

pytestmark = pytest.mark.slow

FRAMES, SIDE = 5, 64
COUNTS = {"train": 21, "val": 2, "test": 0}
LAYOUTS = {"nested": "{split}_{kind}/{split}/{split}_{kind}", "flat": "{split}_{kind}"}
SMALL = [
    "network_g.dim=12", "network_g.ds_kernel_size=6", "network_g.us_kernel_size=3", "network_g.num_RDB=1",
    "network_g.growth_rate=4", "network_g.num_dense_layer=1", "network_g.num_flow=2", "network_g.num_FRMA=1",
    "network_g.num_transformer_block=1", "network_g.num_heads=2",
]  # fmt: skip
SHORT = [
    *SMALL, "datasets.train.num_worker_per_gpu=0", "datasets.train.batch_size_per_gpu=2", "datasets.train.gt_size=32",
    "datasets.val.num_worker_per_gpu=0", "train.total_iter=4", "train.reference_batch=null", "val.val_freq=2",
    "train.optim_g.lr=1e-3", "logger.print_freq=1", "logger.save_checkpoint_freq=2", "logger.use_tb_logger=false",
]  # fmt: skip


def write_reds(root: Path, layout: str) -> None:
    """Lay out REDS in small: four textures that move, in turn; blurred it is the mean of places in between."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(4)]
    textures = [cv2.resize(part, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC) for part in noise]
    written: dict[tuple[str, int, int], Path] = {}
    for split, clip in ((split, clip) for split, count in COUNTS.items() for clip in range(count)):
        for frame in range(FRAMES):
            views = [textures[clip % 4][8:, 4 * frame + i :][:SIDE, :SIDE] for i in range(5)]
            sharp, blurred = views[2], np.mean(views, axis=0).round().astype(np.uint8)
            for kind, picture, scale in (
                ("sharp", sharp, 1.0), ("sharp_bicubic", sharp, 0.25), ("blur_bicubic", blurred, 0.25),
            ):  # fmt: skip
                folder = root / layout.format(split=split, kind=kind) / ("X4" if scale < 1 else "") / f"{clip:03d}"
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"{frame:08d}.png"
                twin = written.setdefault((kind, clip % 4, frame), file)
                if twin is file:
                    write_image(file, imresize(np.ascontiguousarray(picture), scale))
                else:
                    file.hardlink_to(twin)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reds_becomes_figures_of_reds4_in_five_steps(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    (tmp_path / "options").symlink_to(ROOT / "options")
    monkeypatch.setattr(reds_files, "FRAMES", FRAMES)
    monkeypatch.setattr(reds_preparation, "FRAMES", FRAMES)
    for split, count in COUNTS.items():
        monkeypatch.setitem(reds_files.COUNTS, split, count)
    monkeypatch.setattr("vsr.data.fmanet.ALL_REDS", 21 + 2)
    write_reds(tmp_path / "datasets" / "REDS", LAYOUTS[layout])

    prepared = prepare_reds(RedsOptions(root="datasets/REDS"), workers=0).folder
    numbers = range(21 + 2)  # val goes on where train ends
    assert sorted(path.name for path in (prepared / "train_sharp").iterdir()) == [f"{n:03d}" for n in numbers]
    sharp = prepared / "train_sharp_bicubic" / "X4"
    flows = generate_flow(str(sharp)).folder
    assert flows == prepared / "train_flow_bicubic" / "X4"
    assert len(list(flows.rglob("*.npy"))) == len(numbers) * 3 * 2

    first, second = (f"options/train/FMANet/stage{n}_reds_x4.yml" for n in (1, 2))
    train(load_options(first, SHORT))
    one = tmp_path / "experiments" / "FMANet_x4_REDS_stage1"
    assert {"recon", "hr_warp", "flow", "D_TA", "total"} <= history(one)[4].keys()
    assert validations(one).keys() == {(2, "REDS4-inner"), (4, "REDS4-inner")}
    train(load_options(second, [*SHORT, "manual_seed=7"]))  # what is not loaded begins elsewhere than stage 1
    two = tmp_path / "experiments" / "FMANet_x4_REDS"
    best = torch.load(one / "models" / "net_g_best.pth", weights_only=True)["params"]
    scores = {step: entry["psnr"] for (step, _), entry in validations(two).items()}
    chosen = json.loads((two / "validation.json").read_text())["best"]  # by the restored frame, not by recon
    assert (chosen["metric"], chosen["value"]) == ("psnr", max(scores.values()))
    kept, then = (read_weights(two / "models" / f"net_g_{name}.pth") for name in ("best", chosen["step"]))
    assert all(torch.equal(kept[name], then[name]) for name in then)
    last = torch.load(two / "models" / "net_g_4.pth", weights_only=True)["params"]
    moved = [float((last[name] - value).abs().max()) for name, value in best.items()]
    assert 0 < max(moved) <= 4.4e-3  # four steps of Adam from there
    assert "datasets.train: FMANetDataset, 19 clips" in caplog.text
    assert "are missing" not in caplog.text
    assert "clips to train on" not in caplog.text  # all of REDS but REDS4 is there
    assert "clips to measure on" not in caplog.text  # and REDS4

    tested = "options/test/FMANet/fmanet_x4_reds4.yml"
    records = run_test(load_options(tested, [*SMALL, "datasets.test.num_worker_per_gpu=0"]))["test"]
    assert [record.key for record in records] == [
        f"{clip}/{frame:08d}" for clip in ("000", "011", "015", "020") for frame in (1, 2, 3)
    ]
    assert_protocol(records, prepared, tmp_path / "results" / "FMANet_x4_REDS")
    whole = run_test(
        load_options(tested, [*SMALL, "datasets.test.padding=reflection", "datasets.test.num_worker_per_gpu=0",
                              "val.tile=12", "val.tile_overlap=8"])
    )["test"]  # fmt: skip
    assert len(whole) == 4 * FRAMES


def test_two_processes_learn_what_one_learns_in_both_stages(tmp_path: Path) -> None:
    """One SGD step of rate 1 changes the weights by the negative gradient, the mean over the processes' samples."""
    rng = np.random.default_rng(0)
    (tmp_path / "gt" / "a").mkdir(parents=True)
    for frame in range(3):
        write_image(tmp_path / "gt" / "a" / f"{frame}.png", rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    script = tmp_path / "both_stages.py"
    script.write_text(
        "import sys\nfrom vsr.config import load_options\nfrom vsr.engine.train import train\n"
        "for stage in (1, 2):\n"
        f"    file = '{ROOT}/options/train/FMANet/stage%d_reds_x4.yml' % stage\n"
        "    train(load_options(file, [*sys.argv[2:], f'name={sys.argv[1]}_{stage}']))\n"
    )
    overrides = [
        *SHORT, f"datasets.train.dataroot_gt={tmp_path}/gt", "datasets.train.dataroot_lq=null",
        "datasets.train.dataroot_lq_sharp=null", "datasets.train.dataroot_flow=null", "datasets.train.find_flow=true",
        "datasets.train.degradations=[{type: FrameAverage, num_frame: 3}]", "datasets.train.val_partition=null",
        "datasets.val=null", "train.total_iter=1", "train.optim_g={type: SGD, lr: 1.0}", "train.scheduler=null",
        "path.pretrain_network_g=null", f"path.experiments_root={tmp_path}",
    ]  # fmt: skip
    status, output = run(str(script), "two", *overrides, "datasets.train.batch_size_per_gpu=1", world=2)
    assert status == 0, output
    for stage in (1, 2):
        file = ROOT / f"options/train/FMANet/stage{stage}_reds_x4.yml"
        options = load_options(file, [*overrides, f"name=one_{stage}"])
        train(options)
        torch.manual_seed(options.manual_seed)
        before = build_network(options.network_g.as_option()).state_dict()
        one, two = (read_weights(tmp_path / f"{n}_{stage}" / "models" / "net_g_1.pth") for n in ("one", "two"))
        for name, value in before.items():
            change = one[name] - value
            assert change.abs().max() > 0, name  # every parameter has a gradient: nothing for DDP to wait for
            limit = 1e-5 * max(1.0, float(change.abs().max()))
            torch.testing.assert_close(two[name] - value, change, rtol=1e-4, atol=limit, msg=lambda m, n=name: n + m)


def assert_protocol(records: list, prepared: Path, results: Path) -> None:
    """The figures are those of the saved pictures: of PSNR by hand, of the others without their borders and options."""
    before: tuple[np.ndarray, np.ndarray] | None = None
    for number, record in enumerate(records):
        clip, frame = record.key.split("/")
        restored = read_image(results / "visualization" / "REDS4-inner" / f"{record.key}.png")
        target = read_image(prepared / "train_sharp" / clip / f"{frame}.png")
        inner = (restored[4:-4, 4:-4], target[4:-4, 4:-4])
        error = inner[0].astype(np.float64) - inner[1]
        assert record.metrics["psnr"] == pytest.approx(20 * np.log10(255 / np.sqrt(np.square(error).mean())))
        luma = error @ np.array([65.481, 128.553, 24.966]) / 255
        assert record.metrics["psnr_y"] == pytest.approx(20 * np.log10(255 / np.sqrt(np.square(luma).mean())))
        assert record.metrics["ssim"] == pytest.approx(calculate_ssim(crop_border=0).measure(*inner))
        first = number % 3 == 0
        assert ("tof" in record.metrics) != first
        if not first:
            assert before is not None
            assert record.metrics["tof"] == pytest.approx(calculate_tof().measure(restored, target, before))
        before = (restored, target)
    summed = totals(records, ["psnr", "tof"])
    assert summed["psnr"] == pytest.approx(np.mean([record.metrics["psnr"] for record in records]))
    assert summed["tof"] == pytest.approx(np.mean([r.metrics["tof"] for r in records if "tof" in r.metrics]))
    assert records[0].pooled
