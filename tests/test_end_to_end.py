"""Whole runs: train, validate, stop, continue, test; in one process and in two."""

import json
import random
from pathlib import Path

import pytest
import torch
from kit import assert_same_run, history, kill, launch, run, steps_told, wait_for_steps

from vsr.config import load_options
from vsr.data.sampler import TrainSampler
from vsr.engine.checkpoint import newest_valid
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel


class StopHereError(Exception):
    pass


def options_of(tiny: Path, *overrides: str, name: str = "tiny"):
    return load_options(tiny, [f"name={name}", *overrides])


def interrupted(monkeypatch: pytest.MonkeyPatch, options, before: int) -> None:
    """Train until just before a step."""
    original = RestorationModel.train_step

    def stopping(self, batches, step):
        if step == before:
            raise StopHereError
        return original(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "train_step", stopping)
        with pytest.raises(StopHereError):
            train(options)


def test_training_leaves_what_the_readme_promises(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny))
    root = tmp_path / "experiments" / "tiny"
    names = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {
        "options.yml", "train.log", "log.jsonl", "models/net_g_8.pth", "models/net_g_best.pth",
        "training_states/8.state", "training_states/8.json", "training_states/4.state",
    } <= names  # fmt: skip
    weights = torch.load(root / "models" / "net_g_8.pth", weights_only=True)
    assert set(weights) == {"params", "params_ema"}
    assert set(weights["params"]) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    validations = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines() if '"val"' in line]
    assert [(v["step"], v["val"]) for v in validations] == [(4, "val"), (8, "val")]
    assert load_options(root / "options.yml") == options_of(tiny)


def test_a_run_stopped_and_continued_equals_one_that_was_not(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(options_of(tiny, name="whole"))
    interrupted(monkeypatch, options_of(tiny, name="parts"), before=7)  # two steps after the state of step 4
    train(options_of(tiny, name="parts"))
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 8)
    # It did go on after step 4, and did not begin again.
    assert steps_told(tmp_path / "experiments" / "parts") == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


def test_a_finished_run_is_left_as_it_is(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny))
    state = tmp_path / "experiments" / "tiny" / "training_states" / "8.state"
    before = state.stat().st_mtime_ns
    train(options_of(tiny))
    assert state.stat().st_mtime_ns == before
    assert steps_told(tmp_path / "experiments" / "tiny") == list(range(1, 9))


def test_fresh_archives_the_earlier_run(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny))
    train(options_of(tiny, "train.total_iter=2"), fresh=True)
    archived = [p for p in (tmp_path / "experiments").iterdir() if p.name.startswith("tiny_archived_")]
    assert len(archived) == 1
    assert (archived[0] / "training_states" / "8.state").is_file()
    assert sorted(history(tmp_path / "experiments" / "tiny")) == [1, 2]


@pytest.mark.parametrize(
    ("workers", "world"), [(0, 1), *(pytest.param(2, world, marks=pytest.mark.slow) for world in (1, 2))]
)
def test_killed_at_a_random_moment_the_same_command_gives_the_same_run(
    tiny: Path, tmp_path: Path, workers: int, world: int
) -> None:
    overrides = [f"datasets.train.num_worker_per_gpu={workers}", "train.total_iter=12", "train.scheduler.periods=[12]"]
    whole = ["-opt", str(tiny), "--set", "name=whole", *overrides]
    parts = ["-opt", str(tiny), "--set", "name=parts", *overrides]
    status, output = run("train.py", *whole, world=world)
    assert status == 0, output
    process = launch("train.py", *parts, world=world)
    try:
        wait_for_steps(tmp_path / "experiments" / "parts", random.randint(1, 11), process)
    finally:
        kill(process)
    states = newest_valid(tmp_path / "experiments" / "parts" / "training_states")
    status, output = run("train.py", *parts, world=world)
    assert status == 0, output
    assert steps_told(tmp_path / "experiments" / "parts").count(1) == (1 if states else 2)  # not begun again
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 12)


def test_two_processes_validate_to_the_figures_of_one(tiny: Path, tmp_path: Path) -> None:
    # 9 windows of two clips: the set does not divide by the world size.
    train(options_of(tiny, "train.total_iter=4"))
    weights = tmp_path / "experiments" / "tiny" / "models" / "net_g_4.pth"
    arguments = ["-opt", str(tiny), "--set", f"path.pretrain_network_g={weights}"]
    for world in (1, 2):
        status, output = run("test.py", *arguments, f"name=world{world}", world=world)
        assert status == 0, output
    one, two = ((tmp_path / "results" / f"world{n}" / "val.csv").read_text().splitlines() for n in (1, 2))
    assert one == two
    assert len(one) == 1 + 9


@pytest.mark.parametrize(
    ("overrides", "samples"),
    [
        (["model_type=ImageModel", "network_g={type: FrameNet}"], "images"),
        (["network_g={type: FrameNet}"], "clips"),
        (["network_g={type: ClipNet}"], "clips"),
    ],
)
def test_networks_of_images_and_of_clips_train_and_test(
    tiny: Path, clips: Path, overrides: list[str], samples: str
) -> None:
    if samples == "images":
        types = {
            "train": f"{{type: PairedImageDataset, dataroot_gt: {clips}/train/a, gt_size: 16, num_worker_per_gpu: 0}}",
            "val": f"{{type: PairedImageDataset, dataroot_gt: {clips}/val/c, num_worker_per_gpu: 0}}",
        }
        overrides = [*overrides, *(f"datasets.{key}={value}" for key, value in types.items())]
    else:
        overrides = [
            *overrides,
            "datasets.train.type=VideoRecurrentTrainDataset",
            f"datasets.val={{type: VideoRecurrentTestDataset, dataroot_gt: {clips}/val, num_worker_per_gpu: 0}}",
        ]
    options = options_of(tiny, "train.total_iter=2", *overrides)
    train(options)
    records = run_test(options)["val"]
    assert len(records) == (5 if samples == "images" else 9)
    assert all(15 < record.metrics["psnr"] < 60 for record in records)


def test_a_window_network_restores_whole_clips_as_it_does_windows(tiny: Path, clips: Path) -> None:
    train(options_of(tiny, "train.total_iter=2"))
    windows = run_test(options_of(tiny, "datasets.val.padding=reflection_circle"))["val"]
    clip = f"datasets.val={{type: VideoRecurrentTestDataset, dataroot_gt: {clips}/val, num_worker_per_gpu: 0}}"
    whole = run_test(options_of(tiny, clip))["val"]
    assert [r.key for r in whole] == [r.key for r in windows]
    for a, b in zip(whole, windows, strict=True):
        assert a.metrics["psnr"] == pytest.approx(b.metrics["psnr"], abs=1e-3)


def test_test_writes_pictures_csv_and_report(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny, "train.total_iter=2"))
    run_test(options_of(tiny))
    root = tmp_path / "results" / "tiny"
    assert len(list((root / "visualization" / "val").rglob("*.png"))) == 9
    assert (root / "val.csv").read_text().count("\n") == 10
    report = (root / "report.html").read_text(encoding="utf-8")
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "https://" not in report
    assert report.count("data:image/png;base64,") >= 6


def test_a_test_says_which_data_its_figures_are_of_and_warns_if_others_are_meant(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(options_of(tiny, "train.total_iter=2"))
    meant = "v1-9-32x48-none-0123456789abcdef"
    with caplog.at_level("INFO"):
        run_test(options_of(tiny, f"datasets.val.fingerprint={meant}"))
    root = tmp_path / "results" / "tiny"
    header, first, *_ = (root / "val.csv").read_text().splitlines()
    found = first.rpartition(",")[2]
    assert header.endswith(",fingerprint")
    assert found.startswith("v1-9-32x48-none-")
    assert f"data of val: {found}" in caplog.text
    assert f"val: {found}" in (root / "report.html").read_text(encoding="utf-8")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(
        f"datasets.val: fingerprint: expected {meant}, got {found}: the same number and sizes, but other" in text
        for text in warnings
    )


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"],
        ["-m", "torch.distributed.launch", "--nproc_per_node=1", "--master_port=29611"],
    ],
)
def test_the_launch_lines_that_users_have_work(tiny: Path, launcher: list[str]) -> None:
    import os
    import subprocess
    import sys

    from kit import ROOT

    extra = ["--launcher", "pytorch"] if "launch" in launcher[1] else []
    result = subprocess.run(
        [sys.executable, *launcher, "train.py", "-opt", str(tiny), *extra, "--set", "train.total_iter=2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert ("ignored: --launcher" in result.stderr) == bool(extra)


@pytest.mark.fault
@pytest.mark.slow
def test_one_process_continues_the_samples_of_two(tiny: Path, tmp_path: Path) -> None:
    status, output = run("train.py", "-opt", str(tiny), "--set", "train.total_iter=4", world=2)
    assert status == 0, output
    train(options_of(tiny))
    # 11 samples an epoch; 4 steps of 2 processes x 2 took 16 draws, so these are draws 16 to 23.
    options = options_of(tiny)
    sampler = TrainSampler(length=11, batch_size=2, seed=options.manual_seed, start_draw=16, num_batches=4)
    stream = [index for batch in sampler for index, _ in batch]
    names = [f"{clip}/{i:04d}" for clip, count in (("a", 6), ("b", 5)) for i in range(count)]
    # A window of 3 that leaves its clip is moved: compare those whose centre can stand where it is.
    inner = {name for name in names if name not in ("a/0000", "a/0005", "b/0000", "b/0004")}
    logged = [key for step in (5, 6, 7, 8) for key in history(tmp_path / "experiments" / "tiny")[step]["keys"]]
    expected = [names[index] for index in stream]
    assert [k for k, e in zip(logged, expected, strict=True) if e in inner] == [e for e in expected if e in inner]
