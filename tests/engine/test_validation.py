"""What a validation measures, remembers and tells, and which weights it keeps as the best."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import validations, write_frames
from test_end_to_end import interrupted, options_of

from vsr.config import OptionError
from vsr.engine import evaluate
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.results import Best, format_bests
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.engine.validation import _beats
from vsr.models.restoration import RestorationModel
from vsr.models.weights import build_network
from vsr.registry import MODELS
from vsr.utils.records import Record

SHORT = ["train.total_iter=4", "val.val_freq=2", "val.compare_bicubic=false"]
TWO_SETS = "datasets.val_2={type: VideoTestDataset, dataroot_gt: %s/val, num_frame: 3, num_worker_per_gpu: 0}"


def scripted(monkeypatch: pytest.MonkeyPatch, values: dict[str, list[float]]) -> None:
    """Let validation find these values of each metric, one after the other, whatever the network does."""
    count = itertools.count()

    def validate(self: RestorationModel, loader: Any, **_: Any) -> list[Record]:
        list(loader)
        i = next(count)
        return [Record("clip/0", {name: series[i] for name, series in values.items()})]

    monkeypatch.setattr(RestorationModel, "validate", validate)
    monkeypatch.setattr("vsr.models.video.VideoModel.validate", validate)


def remembered(tmp_path: Path) -> dict[str, Any]:
    memory: dict[str, Any] = json.loads((tmp_path / "experiments" / "tiny" / "validation.json").read_text())
    return memory


def test_the_best_of_each_metric_is_remembered_and_that_of_the_first_keeps_its_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nan = float("nan")
    scripted(monkeypatch, {"psnr": [30.0, nan, 31.0, 30.5], "ssim": [0.9, 0.8, nan, 0.7]})
    kept = []
    monkeypatch.setattr("vsr.engine.checkpoint.save_weights", lambda folder, model, name: kept.append(name))
    with caplog.at_level("INFO"):
        train(options_of(tiny, *SHORT, "val.val_freq=1"))
    assert [name for name in kept if name == "net_g_best.pth"] == ["net_g_best.pth"] * 2
    memory = remembered(tmp_path)
    assert memory["best"] == {"step": 3, "set": "val", "metric": "psnr", "value": 31.0}
    assert memory["bests"] == {"val": {"psnr": {"step": 3, "value": 31.0}, "ssim": {"step": 1, "value": 0.9}}}
    last = [line for line in caplog.text.splitlines() if line.startswith("val ")]
    assert [line.split() for line in last[-2:]] == [
        ["val", "psnr", "30.500", "31.000", "3*"], ["val", "ssim", "0.7000", "0.9000", "1"],
    ]  # fmt: skip


def test_a_named_metric_on_a_named_set_picks_the_best_and_lower_may_be_better(
    tiny: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two sets are measured in turn: val finds the 1st, 3rd, ... value, val_2 the others.
    scripted(monkeypatch, {"psnr": [1, 1, 2, 2, 3, 3, 4, 4], "ssim": [0, 0.5, 0, 0.3, 0, 0.4, 0, 0.6]})
    best = "val.best={set: val_2, metric: ssim}"
    train(options_of(tiny, *SHORT, "val.val_freq=1", TWO_SETS % clips, best, "val.metrics.ssim.better=lower"))
    assert remembered(tmp_path)["best"] == {"step": 2, "set": "val_2", "metric": "ssim", "value": 0.3}


def test_what_was_best_survives_a_resume_and_another_choice_starts_anew(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {"psnr": [31.0, 30.0, 29.0], "ssim": [0.5, 0.6, 0.4]})
    options = [*SHORT, "train.total_iter=6", "logger.save_checkpoint_freq=1"]
    interrupted(monkeypatch, options_of(tiny, *options), before=4)
    assert remembered(tmp_path)["best"] == {"step": 2, "set": "val", "metric": "psnr", "value": 31.0}
    train(options_of(tiny, *options, "val.best={metric: ssim}"))
    memory = remembered(tmp_path)
    assert memory["bests"]["val"] == {"psnr": {"step": 2, "value": 31.0}, "ssim": {"step": 4, "value": 0.6}}
    assert memory["best"] == {"step": 4, "set": "val", "metric": "ssim", "value": 0.6}


@pytest.mark.parametrize("content", ["null", "[]", '{"best": 1}', '{"bests": []}', '{"step": "2"}', "{"])
def test_a_damaged_memory_is_told_of_and_made_anew(
    tiny: Path, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "experiments" / "tiny" / "validation.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    train(options_of(tiny, *SHORT, "train.total_iter=2"))
    assert "validation.json: not readable, starting with no best checkpoint" in caplog.text
    assert remembered(tmp_path)["best"]["step"] == 2


def test_after_the_run_came_back_to_an_earlier_state_later_validations_are_made_up_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [*SHORT, "train.total_iter=6", "logger.save_checkpoint_freq=2", "logger.keep_last=3"]
    train(options_of(tiny, *every))
    earlier = f"path.resume_state={tmp_path}/experiments/tiny/training_states/2.state"
    interrupted(monkeypatch, options_of(tiny, *every, earlier), before=4)
    assert remembered(tmp_path)["step"] == 2, "what it remembered of steps 4 and 6 is of another course"


def test_a_set_without_ground_truth_picks_nothing_and_says_so(
    tiny: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lq_only = f"datasets.val={{type: VideoTestDataset, dataroot_lq: {clips}/val, num_frame: 3, num_worker_per_gpu: 0}}"
    train(options_of(tiny, *SHORT, "datasets.val=", lq_only))
    assert "no best checkpoint: psnr has no value on val" in caplog.text
    assert not (tmp_path / "experiments" / "tiny" / "models" / "net_g_best.pth").exists()
    assert remembered(tmp_path) == {"step": 4, "bests": {}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("val.best={set: val_3}", r"val\.best\.set=?.*expected one of val, got 'val_3'\. Did you mean 'val'"),
        ("val.best={metric: pnsr}", r"expected one of psnr, ssim, got 'pnsr'\. Did you mean 'psnr'"),
        ("val.val_at=[-1]", "expected 0 or more, got -1"),
        ("val.weights=both", "expected .*ema.*raw"),
        ("val.precision=int8", "expected .*float32"),
    ],
)
def test_what_cannot_be_is_refused(tiny: Path, overrides: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options_of(tiny, overrides)


def test_it_validates_when_asked_to(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(options_of(tiny, *SHORT, "val.val_at=[0, 1, 9]"))
    root = tmp_path / "experiments" / "tiny"
    found = validations(root)
    assert [step for step, _ in found] == [0, 1, 2, 4]
    # Before the first step the averaged network is the untrained one, after it they differ.
    assert found[0, "val"]["psnr"] != found[1, "val"]["psnr"]
    done = (root / "log.jsonl").read_text()
    train(options_of(tiny, *SHORT, "val.val_at=[0, 1, 9]"))
    assert (root / "log.jsonl").read_text() == done


def test_a_validation_before_the_first_step_leaves_the_run_as_it_is(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny, *SHORT, name="plain"))
    train(options_of(tiny, *SHORT, "val.val_at=[0]", name="asked"))
    files = [tmp_path / "experiments" / name / "models" / "net_g_4.pth" for name in ("plain", "asked")]
    plain, asked = (torch.load(file, weights_only=True) for file in files)
    assert all(torch.equal(plain["params"][name], value) for name, value in asked["params"].items())


def test_the_averaged_or_the_trained_weights_are_measured_and_tested(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*SHORT, "train.optim_g.lr=1e-2"]
    figures = {}
    for name, overrides in {"ema": [], "raw": ["val.weights=raw"], "none": ["train.ema_decay=0"]}.items():
        train(options_of(tiny, *common, *overrides, name=name))
        figures[name] = [entry["psnr"] for entry in validations(tmp_path / "experiments" / name).values()]
    assert figures["raw"] == figures["none"] != figures["ema"]
    for name, weights in (("ema", "ema"), ("raw", "raw")):  # test.py measures what validation measured
        file = f"path.pretrain_network_g={tmp_path}/experiments/{name}/models/net_g_4.pth"
        records = run_test(options_of(tiny, file, f"val.weights={weights}", name=name))["val"]
        clips = {record.clip: [r.metrics["psnr"] for r in records if r.clip == record.clip] for record in records}
        means = [sum(values) / len(values) for values in clips.values()]
        assert sum(means) / len(means) == pytest.approx(figures[name][-1], abs=1e-9)


def test_half_precision_is_near_and_its_figures_say_so(tiny: Path, tmp_path: Path) -> None:
    train(options_of(tiny, *SHORT))
    file = f"path.pretrain_network_g={tmp_path}/experiments/tiny/models/net_g_4.pth"
    single = run_test(options_of(tiny, file))["val"]
    for precision in ("bfloat16", "float16"):
        half = run_test(options_of(tiny, file, f"val.precision={precision}", "val.tile=8", "val.tile_overlap=4"))["val"]
        apart = [a.metrics["psnr"] - b.metrics["psnr"] for a, b in zip(half, single, strict=True)]
        assert any(apart)
        assert max(map(abs, apart)) < 1
        assert f"network in {precision}" in (tmp_path / "results" / "tiny" / "report.html").read_text()


@pytest.mark.parametrize(("network", "kind"), [("FrameNet", "images"), ("WindowNet", "windows"), ("ClipNet", "clips")])
def test_tiles_asked_for_in_the_options_give_what_whole_frames_give(
    tiny: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, kind: str
) -> None:
    sets = {
        "images": f"{{type: PairedImageDataset, dataroot_gt: {clips}/val/c, num_worker_per_gpu: 0}}",
        "windows": f"{{type: VideoTestDataset, dataroot_gt: {clips}/val, num_frame: 3, num_worker_per_gpu: 0}}",
        "clips": f"{{type: VideoRecurrentTestDataset, dataroot_gt: {clips}/val, num_worker_per_gpu: 0}}",
    }
    overrides = ["train=", "val.val_freq=null", f"datasets={{val: {sets[kind]}}}", f"network_g={{type: {network}}}"]
    overrides.append(f"model_type={'ImageModel' if kind == 'images' else 'VideoModel'}")
    options = options_of(tiny, *overrides, f"path.pretrain_network_g={tmp_path}/net.pth")
    torch.manual_seed(0)
    torch.save({"params": build_network(options.network_g.as_option()).state_dict()}, tmp_path / "net.pth")
    called: set[tuple[int, ...]] = set()
    forward = torch.nn.Conv2d.forward
    monkeypatch.setattr(
        torch.nn.Conv2d, "forward", lambda self, x: (called.add(tuple(x.shape[-2:])), forward(self, x))[1]
    )
    whole = run_test(options)["val"]
    assert called == {(16, 24)}
    called.clear()
    tile = ["val.tile=12", "val.tile_overlap=8"]  # the networks look 2 pixels far, 3/8 of 8 are 3
    tiles = run_test(options_of(tiny, *overrides, f"path.pretrain_network_g={tmp_path}/net.pth", *tile))["val"]
    assert called == {(12, 12)}
    for one, other in zip(whole, tiles, strict=True):
        assert one.metrics["psnr"] == pytest.approx(other.metrics["psnr"], abs=1e-3)


def test_a_long_validation_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(0, 25.0)
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(evaluate.told(range(6), "REDS4", 6)) == list(range(6))
    assert [record.getMessage() for record in caplog.records] == [
        "REDS4: 3 of 6, about 75 s left", "REDS4: 6 of 6, about 0 s left",
    ]  # fmt: skip


def test_the_table_lists_infinite_and_missing_values() -> None:
    table = format_bests(
        [
            Best("Vid4", "psnr", float("inf"), float("inf"), 5000, picks=True),
            Best("Vid4", "ssim", float("nan"), None, None, picks=False),
        ]
    )
    assert table.splitlines() == [
        "best so far        now  best  at step",
        "Vid4         psnr  inf   inf    5000*",
        "Vid4         ssim  nan     -        -",
        "*: the weights kept as the best",
    ]


def test_what_is_no_number_is_never_better() -> None:
    assert not _beats(float("nan"), None, higher=True)
    assert _beats(float("inf"), {"value": 50.0}, higher=True)
    assert not _beats(50.0, {"value": 50.0}, higher=True)  # the earlier one stays
    assert _beats(49.0, {"value": 50.0}, higher=False)


@pytest.mark.parametrize("kind", ["VideoTestDataset", "FMANetTestDataset"])
def test_frames_that_are_no_neighbours_are_not_compared_as_if_they_were(tiny: Path, tmp_path: Path, kind: str) -> None:
    for clip, numbers in (("a", (7, 8, 9, 11, 12)), ("b", (0, 1, 2))):
        write_frames(tmp_path / "gaps" / clip, len(numbers), (48, 48), seed=1)
        files = sorted((tmp_path / "gaps" / clip).iterdir())
        for file, number in reversed(list(zip(files, numbers, strict=True))):
            file.rename(file.with_name(f"{number:03d}.png"))
    of_set = f"{{type: {kind}, dataroot_gt: {tmp_path}/gaps, num_frame: 3, allow_gaps: true, padding: replicate}}"
    options = options_of(tiny, f"datasets.val={of_set}", "val.metrics={tof: {type: calculate_tof}}")
    model = MODELS.build({"type": "VideoModel"}, options=options, device=torch.device("cpu"), train=False)
    records = EvaluationSet("val", options).measure(model)
    assert len(records) == 8
    measured = [record.key for record in records if "tof" in record.metrics]
    assert measured == ["a/008", "a/009", "a/012", "b/001", "b/002"]
