"""Runs that run out of memory: what a training is told, and how a test goes on."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faultkit import in_child
from kit import write_frames
from tiny_networks import WindowNet

from vsr.config import load_options
from vsr.engine.cli import test_main, train_main
from vsr.engine.memory import memory_advice
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS
from vsr.utils.memory import out_of_memory

test_main.__test__ = False
pytestmark = pytest.mark.fault
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


def test_a_training_step_that_does_not_fit_ends_in_one_message_with_sizes_and_options(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the documentation")

    monkeypatch.setattr(WindowNet, "forward", exhausted)
    assert train_main(["-opt", str(tiny), "--set", "datasets.train.batch_size_per_gpu=6"]) == 1
    error = capsys.readouterr().err
    assert "step 1: the memory of cpu does not suffice for batches of lq 6x3x3x8x8 and gt 6x3x16x16" in error
    assert "(WindowNet, 1,532 parameters, in float32)" in error
    assert "Set datasets.train.batch_size_per_gpu: 3 with train.accumulate: 2 (the same steps)" in error
    assert "or train.checkpoint_activations: true (the same steps" in error
    assert "train.precision: bfloat16" in error
    assert "or a smaller datasets.train.gt_size. (CUDA out of memory. Tried to allocate 20.00 GiB.)" in error
    assert "Traceback" not in error


def test_what_is_set_already_is_no_advice(tiny: Path) -> None:
    set_already = ["train.checkpoint_activations=true", "train.precision=bfloat16"]
    options = load_options(tiny, ["datasets.train.batch_size_per_gpu=1", *set_already])
    model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))
    for error in (MemoryError(), RuntimeError(CPU)):
        with (
            pytest.raises(RuntimeError, match=r"Set a smaller datasets\.train\.gt_size\.") as caught,
            memory_advice(model, [{"lq": torch.zeros(1, 3)}], 7),
        ):
            raise error
        assert "checkpoint_activations" not in str(caught.value)
        assert "batch_size_per_gpu" not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"^other$"), memory_advice(model, [], 7):
        raise RuntimeError("other")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError(CPU), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_torch_says_it_in_these_words_when_it_does() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize("auto", ["true", "false"])
def test_validation_goes_on_in_tiles_unless_that_is_switched_off(
    tiny: Path,
    tmp_path: Path,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    auto: str,
) -> None:
    write_frames(clips / "val" / "large", 3, (160, 280), seed=7)  # LQ: 80 x 140
    sizes = ["datasets.val.clips=[large]", "train.total_iter=1", "val.compare_bicubic=false", "val.metrics.ssim=null"]
    train(load_options(tiny, [*sizes, "name=asked", "val.tile=70"]))
    forward = WindowNet.forward

    def limited(self: WindowNet, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > 100:
            raise RuntimeError(CPU)
        return forward(self, x)

    monkeypatch.setattr(WindowNet, "forward", limited)
    capsys.readouterr()
    assert train_main(["-opt", str(tiny), "--set", *sizes, f"val.auto_tile={auto}"]) == (0 if auto == "true" else 1)
    error = capsys.readouterr().err
    if auto == "false":
        assert "can't allocate memory" in error
        return
    assert error.count("Set val.tile: 70 to begin with them") == 1
    values = [
        [json.loads(line) for line in (tmp_path / "experiments" / name / "log.jsonl").read_text().splitlines()][-1]
        for name in ("asked", "tiny")
    ]
    assert values[0]["psnr"] == values[1]["psnr"]


def test_restored_frames_that_are_no_numbers_measure_as_none_and_are_never_the_best(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restore = RestorationModel.restore_at_precision

    def broken(self: RestorationModel, batch: Any) -> torch.Tensor:
        return restore(self, batch) * (float("nan") if batch["key"] == ["c/0001"] else 1.0)

    monkeypatch.setattr(RestorationModel, "restore_at_precision", broken)
    assert train_main(["-opt", str(tiny), "--set", "train.total_iter=1", "val.compare_bicubic=false"]) == 0
    assert "c/0001: what was restored is not finite" in capsys.readouterr().err
    root = tmp_path / "experiments" / "tiny"
    assert json.loads((root / "log.jsonl").read_text().splitlines()[-1])["psnr"] is None
    assert not (root / "models" / "net_g_best.pth").exists()


@pytest.mark.slow
def test_a_training_under_a_limit_of_memory_says_what_to_do(tiny: Path, clips: Path) -> None:
    write_frames(clips / "train" / "a", 6, (512, 512), seed=3)

    def limited() -> None:
        # What is there already, and room for the loader; but not for 8 crops of 256 x 256 through 4096 channels.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), used + (3 << 30)))
        sizes = ["datasets.train.gt_size=512", "datasets.train.batch_size_per_gpu=8", "network_g.width=4096"]
        sys.stderr = (clips / "told.txt").open("w", encoding="utf-8")
        status = train_main(["-opt", str(tiny), "--set", *sizes, "datasets.train.clips=[a]"])
        sys.stderr.flush()
        assert status == 1

    assert in_child(limited, timeout=200) == 0
    told = (clips / "told.txt").read_text(encoding="utf-8")
    assert "batch_size_per_gpu: 4 with train.accumulate: 2" in told
