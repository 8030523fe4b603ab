"""The folder Results of a run of predictions, its baselines, and how it goes on."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import assert_same_run, run, validations
from prediction_sets import write_humaneva
from torch import Tensor, nn

from vsr.archs.memory_prediction import MemoryPrediction
from vsr.config import load_options
from vsr.engine.prediction_results import against_baselines, flow_picture, results_folder, weight_pictures
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS, NETWORKS
from vsr.utils.images import read_image
from vsr.utils.records import Record


@pytest.fixture
def option(tmp_path: Path) -> Path:
    return write_humaneva(tmp_path)


def folder_of(option: Path, *overrides: str) -> str:
    options = load_options(option, list(overrides))
    model = MODELS.build({"type": "PredictionModel"}, options=options, device=torch.device("cpu"))
    return str(results_folder(options, model))


DEFAULTS = ["network_g={type: MemoryPrediction}"]
DEFAULTS += [f"datasets.{key}.{name}={value}" for key in ("train", "val") for name, value in
             (("frame_interval", 50), ("W", 64), ("H", 64), ("input_size", 10))]  # fmt: skip
EXACT = (
    "Results/nextframe_fi50_Humaneva/Static_Conv_multi_sep1by1_m10_e128_hop1/unet_conv[3,32,64,128][True, True, True]/"
    "L1Loss_e1e-03_d1e-03_W64H64"
)


ENDS = ("prediction", "target")


def test_with_legacy_names_the_folder_is_the_one_that_the_experiments_had(option: Path) -> None:
    assert folder_of(option, *DEFAULTS, "prediction.legacy_names=true") == EXACT
    assert folder_of(option, *DEFAULTS) == EXACT.replace("sep1by1", "sep1by1_pixsim")


def test_what_makes_another_experiment_makes_another_folder(option: Path) -> None:
    changes = [
        (["prediction.test_type=subtract"], "nextframe_", "subtract_"),
        (["network_g.read=pixwise"], "pixsim", "pixwise_pad3"),
        (["network_g.embedding=FC", "network_g.H=64", "network_g.W=64"], "Conv_multi_sep1by1", "FC_multi"),
        (["network_g.embedding=Conv"], "multi_sep1by1", "multi"),
        (["network_g.multi=false"], "_multi", ""),
        (["network_g.flat2d=2", "network_g.encoder=resnet"], "pixsim", "pixsim_flat2d_stride2"),
        (["network_g.memory_size=5", "network_g.hops=2"], "m10_e128_hop1", "m5_e128_hop2"),
        (["network_g.noskip=[false, true, true]"], "[True, True, True]", "[False, True, True]"),
        (["network_g.QSsep=true"], "pixsim", "pixsim_QSsep"),
        (["train.optim_g.lr=2e-4", "train.lr_mul={decoder: 0.5}"], "e1e-03_d1e-03", "e2e-04_d1e-04"),
        (["train.pixel_opt={type: MSELoss}"], "L1Loss", "MSELoss"),
        (["datasets.train.frame_interval=7"], "fi50", "fi7"),
        (["datasets.train={type: CharadesDataset, partition: train, dataroot: x}"], "Humaneva", "Charades_v1_480"),
    ]
    found = set()
    for overrides, before, after in changes:
        expected = EXACT.replace("sep1by1", "sep1by1_pixsim").replace(before, after)
        if "resnet" in "".join(overrides):
            expected = expected.replace("unet_conv", "resnet_conv")
        assert folder_of(option, *DEFAULTS, *overrides) == expected
        found.add(expected)
    assert len(found) == len(changes)


class Blurred(nn.Module):
    """A network of somebody's own, of neither encoder nor decoder."""

    kind, temporal, scale, size_multiple, min_size, num_in_ch, num_out_ch = "prediction", "window", 1, 1, 1, 3, 3
    checkpointed: tuple[type[nn.Module], ...] = ()
    channels_last = False

    def __init__(self, *, input_size: int) -> None:
        super().__init__()
        self.num_frame = input_size
        self.only = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, *, with_weights: bool = False) -> Any:
        out = self.only(x[:, -1])
        return (out, {}) if with_weights else out


def test_a_network_of_other_parts_and_mixed_sets_have_folders_too(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS._entries, "Blurred", Blurred)
    part = f"{{type: HumanEvaDataset, dataroot: {tmp_path}/HumanEva, partition: train, input_size: 4, W: 24, H: 16"
    mixed = (
        f"{{type: MixedDataset, batch_size_per_gpu: 2, num_worker_per_gpu: 0, datasets: [{part}, frame_interval: 3}}]}}"
    )
    given = ["network_g={type: Blurred, input_size: 4}", f"datasets.train={mixed}", "train.total_iter=1"]
    train(load_options(option, given))
    root = tmp_path / "experiments" / "predicted"
    (last,) = root.rglob("weight/last.pth")
    assert last.parent.parent.relative_to(root).as_posix() == "Results/nextframe_Mixed/Blurred/L1Loss_1e-03"
    assert set(torch.load(last, weights_only=True)) == {"only", "optimizer", "iter", "best_loss", "rng"}


def test_pictures_are_of_the_network_as_written_not_as_compiled(option: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stances, inside = [], [False]

    @contextlib.contextmanager
    def as_written(self: Any) -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    original = MemoryPrediction.forward

    def forward(self: Any, x: Tensor, *, with_weights: bool = False) -> Any:
        stances.extend([inside[-1]] * with_weights)
        return original(self, x, with_weights=with_weights)

    monkeypatch.setattr(RestorationModel, "uncompiled", as_written)
    monkeypatch.setattr(MemoryPrediction, "forward", forward)
    train(load_options(option, ["train.total_iter=1"]))
    assert stances
    assert all(stances)


def test_a_run_leaves_the_tree_with_its_best_and_its_newest_state(option: Path, tmp_path: Path) -> None:
    train(
        load_options(
            option, ["prediction.legacy_names=true", "network_g.hops=2", "network_g.read=pixwise", "val.val_at=[0]"]
        )
    )
    run_root = tmp_path / "experiments" / "predicted"
    folder = run_root / (
        "Results/nextframe_fi3_Humaneva/Static_Conv_multi_sep1by1_m4_e8_hop2/unet_conv[3,4,6][True, False]/"
        "L1Loss_e1e-03_d1e-03_W24H16"
    )
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    images = [*(f"input_{i:02d}" for i in range(4)), *ENDS]
    weights = [
        f"{level}_hop{hop}_slot{slot:02d}" for level in ("bottleneck", "level2") for hop in (1, 2) for slot in range(4)
    ]
    expected = [
        f"{name}/{kind}/{number}/{picture}.jpg"
        for name in ("best_loss", "last")
        for kind, pictures in (("out_image", images), ("weight_image", weights))
        for number in (0, 1)
        for picture in pictures
    ]
    assert files == sorted([*expected, "weight/best_loss.pth", "weight/last.pth"])
    losses = {step: entry["loss"] for (step, _), entry in validations(run_root).items()}
    best, last = (torch.load(folder / "weight" / f"{name}.pth", weights_only=True) for name in ("best_loss", "last"))
    assert set(last) == {"encoder", "decoder", "mem_net", "optimizer", "iter", "best_loss", "rng"}
    assert last["iter"] == 2
    assert best["iter"] == min(losses, key=lambda step: losses[step])
    assert best["best_loss"] == last["best_loss"] == min(losses.values())
    trained = torch.load(run_root / "models" / "net_g_2.pth", weights_only=True)["params"]
    parts = {f"{part}.{key}": value for part in ("encoder", "decoder", "mem_net") for key, value in last[part].items()}
    assert parts.keys() == trained.keys()
    assert all(torch.equal(parts[key], trained[key]) for key in parts)
    for kind, shape in (("out_image", (16, 24, 3)), ("weight_image", (7 * 16 + 16, 7 * 24, 3))):
        assert {read_image(picture).shape for picture in (folder / "last" / kind).rglob("*.jpg")} == {shape}
    # 20 frames, items at t = 10, 13 and 15; two of three, spread: the first and the last, whose targets are 13 and 18
    target = read_image(folder / "last" / "out_image" / "1" / "target.jpg").astype(float)
    frames = [read_image(tmp_path / "HumanEva" / "image" / "S2_Box_1_(C1)" / f"{i:04d}.png") for i in range(20)]
    errors = [np.abs(target - frame.reshape(16, 2, 24, 2, 3).mean((1, 3))).mean() for frame in frames]
    assert int(np.argmin(errors)) == 18


@pytest.mark.parametrize(
    ("test_type", "channels", "more"),
    [("subtract", 3, {"difference", "difference_target"}), ("opticalflow", 2, {"flow", "flow_target"})],
)
def test_differences_and_flows_are_shown_too(
    option: Path, tmp_path: Path, test_type: str, channels: int, more: set[str]
) -> None:
    train(
        load_options(
            option, [f"prediction.test_type={test_type}", f"network_g.num_out_ch={channels}", "train.total_iter=1"]
        )
    )
    (folder,) = (tmp_path / "experiments" / "predicted" / "Results").rglob("last/out_image/0")
    assert {path.stem for path in folder.iterdir()} - {f"input_{i:02d}" for i in range(4)} == {
        "prediction",
        "target",
        *more,
    }


def test_without_results_there_is_no_such_folder(option: Path, tmp_path: Path) -> None:
    train(load_options(option, ["prediction.results=false", "train.total_iter=1"]))
    assert not (tmp_path / "experiments" / "predicted" / "Results").exists()


def test_a_disk_that_takes_no_pictures_stops_neither_run_nor_test(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vsr.engine.prediction_results.write_image", full)
    train(load_options(option))
    assert (tmp_path / "experiments" / "predicted" / "training_states" / "2.json").is_file()
    assert len([r for r in caplog.records if "Results could not be written" in r.getMessage()]) == 1
    run_test(load_options(option, ["val.save_img=false"]))
    assert {path.name for path in (tmp_path / "results" / "predicted").iterdir()} >= {"report.html", "val.csv"}
    warned = [r.getMessage() for r in caplog.records if "pictures of predictions" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].endswith("could not be written: [Errno 28] No space left on device; the test goes on")


@pytest.mark.slow
def test_a_run_stopped_and_continued_equals_one_that_was_not(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ["prediction.wsupervised=0.1", "datasets.train.random_interval=true", "train.total_iter=3"]
    train(load_options(option, ["name=whole", *extra]))
    original = RestorationModel.train_step

    def stopping(self: Any, batches: Any, step: int) -> Any:
        if step == 3:
            raise InterruptedError
        return original(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "train_step", stopping)
        with pytest.raises(InterruptedError):
            train(load_options(option, ["name=parts", *extra]))
    train(load_options(option, ["name=parts", *extra, "prediction.load=true"]))
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 3)
    whole, parts = (next((tmp_path / "experiments" / name).rglob("weight/last.pth")) for name in ("whole", "parts"))
    first, second = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert first["best_loss"] == second["best_loss"]
    assert all(torch.equal(value, second["mem_net"][key]) for key, value in first["mem_net"].items())


def test_load_wants_something_to_go_on_from(option: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prediction\.load: expected a state to go on from"):
        train(load_options(option, ["prediction.load=true"]))


def test_baselines_stand_beside_every_loss_and_are_to_be_beaten(
    option: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(load_options(option, ["name=bad"]))
    told = [r for r in caplog.records if "baselines: copy-last" in r.getMessage()]
    assert [r.levelname for r in told] == ["WARNING"] * 2
    assert all("does not beat a copy of the last frame" in r.getMessage() for r in told)
    entry = validations(tmp_path / "experiments" / "bad")[2, "val"]
    assert entry["loss of copy-last"] == pytest.approx(entry["l1 of copy-last"], abs=1e-6)
    assert {"loss of mean-of-memory", "l1 of mean-of-memory", "psnr of copy-last"} < set(entry)
    caplog.clear()
    # the truth, with a little error
    monkeypatch.setattr("vsr.models.prediction.PredictionModel.restore", lambda self, batch: batch["gt"] + 1e-3)
    train(load_options(option, ["name=good"]))
    told = [r for r in caplog.records if "baselines: copy-last" in r.getMessage()]
    assert [r.levelname for r in told] == ["INFO"] * 2
    caplog.clear()
    run_test(load_options(option, ["name=good"]))
    shown = tmp_path / "results" / "good" / "Results" / "val"
    assert {path.stem for path in (shown / "out_image" / "1").iterdir()} == {
        *(f"input_{i:02d}" for i in range(4)),
        *ENDS,
    }
    assert len(list((shown / "weight_image" / "1").iterdir())) == 2 * 4  # level 2 and the bottleneck, slots
    assert [r.levelname for r in caplog.records if "baselines: copy-last" in r.getMessage()] == ["INFO"]
    assert "loss 0.00100, baselines: copy-last 0." in told[0].getMessage()


@pytest.mark.parametrize(
    ("network", "advised"),
    [
        ({}, True),
        ({"noskip": [False, True, False]}, True),
        ({"noskip": [False, False, False]}, False),
        ({"encoder": "resnet"}, False),  # refuses them
    ],
)
def test_skips_are_advised_where_there_may_be_more(
    option: Path, caplog: pytest.LogCaptureFixture, network: dict[str, Any], advised: bool
) -> None:
    given = [*DEFAULTS, *(f"network_g.{key}={str(value).lower()}" for key, value in network.items())]
    records = [Record("a/0", {"loss": 1.0})]
    against_baselines("val", {"loss": 2.0}, records, records, load_options(option, given).network_g)
    (told,) = (r.getMessage() for r in caplog.records if "does not beat a copy" in r.getMessage())
    assert told.endswith("train it longer, or give it skips (network_g.noskip)" if advised else "train it longer")


def test_weights_are_shown_as_bars_and_maps_with_their_scale_below() -> None:
    shown = weight_pictures({"bottleneck": [torch.tensor([[0.75, 0.25, 0.0]])]}, (64, 64))  # slot 2 holds nothing
    assert list(shown) == [f"bottleneck_hop1_slot0{number}" for number in range(3)]
    assert {picture.shape for picture in shown.values()} == {(192 + 16, 192, 3)}  # wide enough for the words
    assert all(picture[192:].any() for picture in shown.values())
    bars = [picture[:192] for picture in shown.values()]
    assert [int((bar[:, 96] == (240, 200, 60)).all(1).sum()) for bar in bars] == [144 - 1, 48, 0]  # less the line
    assert [np.flatnonzero((bar[:, 0] == 255).all(1)).tolist() for bar in bars] == [[96]] * 3  # a half each
    lost = weight_pictures({"level1": [torch.full((1, 2, 2, 2), torch.nan), torch.full((1, 2), torch.nan)]}, (8, 8))
    assert len(lost) == 4
    weights = torch.zeros(1, 2, 2, 2)
    weights[0, 0, 0, 1], weights[0, 1] = 1.0, torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    first, second = (picture[:-16] for picture in weight_pictures({"level1": [weights]}, (168, 168)).values())
    bright, dark = second[0, 0].astype(int), second[0, 167].astype(int)
    assert bright.sum() > second[167, 167].astype(int).sum() > dark.sum()
    assert np.array_equal(first[0, 167], bright)
    assert np.array_equal(first[167, 0], dark)


def test_flows_to_the_right_are_red_and_their_length_is_brightness() -> None:
    flow = np.zeros((2, 1, 3), np.float32)
    flow[0, 0] = [4, 2, 0]
    assert flow_picture(flow, 4)[0].tolist() == [[255, 0, 0], [127, 0, 0], [0, 0, 0]]
    assert flow_picture(-flow, 4)[0, 0].tolist() == [0, 255, 255]


@pytest.mark.slow
def test_two_processes_train_with_the_memory_s_own_loss_and_measure_what_one_does(option: Path, tmp_path: Path) -> None:
    """Each process has its share of the items, and their losses."""
    given = ["prediction.wsupervised=0.1", "datasets.train.batch_size_per_gpu=1"]
    status, output = run("train.py", "-opt", str(option), "--set", *given, world=2)
    assert status == 0, output
    of_two = tmp_path / "experiments" / "predicted"
    assert sorted(validations(of_two)) == [(1, "val"), (2, "val")]
    assert list((of_two / "Results").rglob("weight/last.pth"))
    weights = of_two / "models" / "net_g_2.pth"
    run_test(load_options(option, ["name=alone", f"path.pretrain_network_g={weights}"]))
    table = (tmp_path / "results" / "alone" / "val.csv").read_text().splitlines()
    assert table[0].startswith("key,clip,frame,loss,l1,psnr,copy loss,copy l1,copy psnr")
    values = np.array([[float(value) for value in line.split(",")[3:9]] for line in table[1:]])
    assert values.shape == (3, 6)
    entry = validations(of_two)[2, "val"]
    metrics = ("loss", "l1", "psnr")
    told = [entry[metric] for metric in metrics] + [entry[f"{metric} of copy-last"] for metric in metrics]
    assert told == pytest.approx(values.mean(0).tolist(), rel=1e-12)
