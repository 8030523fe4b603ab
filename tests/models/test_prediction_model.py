"""PredictionModel: targets, losses, predicted frames and baselines of its three test types, by plain formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prediction_sets import write_humaneva
from torch import Tensor

from vsr.archs.memory_prediction import MemoryPrediction
from vsr.config import OptionError, load_options
from vsr.data import build_dataset, build_val_loader
from vsr.models.prediction import PredictionModel, nearest_slot
from vsr.registry import MODELS, NETWORKS

FLOW = ["prediction.test_type=opticalflow", "network_g.num_out_ch=2"]


@pytest.fixture
def option(tmp_path: Path) -> Path:
    return write_humaneva(tmp_path)


def built(option: Path, *overrides: str) -> PredictionModel:
    model = MODELS.build(
        {"type": "PredictionModel"}, options=load_options(option, list(overrides)), device=torch.device("cpu")
    )
    assert isinstance(model, PredictionModel)
    return model


def batch(seed: int = 0) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "lq": torch.rand(2, 4, 3, 16, 24, generator=rng),
        "gt": torch.rand(2, 3, 16, 24, generator=rng),
        "flow": 3 * torch.randn(2, 2, 16, 24, generator=rng),
        "key": ["a/0", "a/1"],
    }


def terms_of(model: PredictionModel, item: dict[str, Any]) -> dict[str, Tensor]:
    return model.losses(model.forward(item), item, 1)


def test_the_losses_of_the_three_types_by_hand(option: Path) -> None:
    item, losses = batch(), {}
    for overrides in ([], ["prediction.test_type=subtract"], FLOW):
        model = built(option, *overrides)
        out = model.network_g(item["lq"]).detach().numpy().astype(np.float64)
        x, y, flow = (item[key].numpy().astype(np.float64) for key in ("lq", "gt", "flow"))
        expected = {
            "nextframe": np.abs(out - y).mean() if out.shape[1] == 3 else 0,
            "subtract": np.abs(out - (y - x[:, -1])).mean() if out.shape[1] == 3 else 0,
            "opticalflow": np.abs((out[:, :2] - flow) / np.array([24, 16]).reshape(2, 1, 1)).mean(),
        }[model.test_type]
        losses[model.test_type] = terms_of(model, item)
        assert list(losses[model.test_type]) == ["pixel"]
        assert losses[model.test_type]["pixel"].item() == pytest.approx(expected, rel=1e-5)
    assert len({round(terms["pixel"].item(), 6) for terms in losses.values()}) == 3


def test_the_predicted_frames_of_the_three_types(option: Path) -> None:
    item = batch()
    last = item["lq"][:, -1]
    frames, subtract, flow = built(option), built(option, "prediction.test_type=subtract"), built(option, *FLOW)
    out = torch.rand(2, 3, 16, 24)
    assert torch.equal(frames.as_frame(out, item), out)
    assert torch.equal(subtract.as_frame(out, item), last + out)
    moved = torch.zeros(2, 2, 16, 24)
    moved[:, 0], moved[:, 1] = 3, -2  # what is at (x, y) goes to (x + 3, y - 2)
    predicted = flow.as_frame(moved, item)
    torch.testing.assert_close(predicted[..., :-2, 3:], last[..., 2:, :-3])


def test_the_memory_is_told_which_slot_is_the_target_s(option: Path) -> None:
    item = batch()
    item["gt"][0], item["gt"][1] = item["lq"][0, 2], item["lq"][1, 1] + 0.01
    assert nearest_slot(item["lq"], item["gt"], 4).tolist() == [2, 1]
    assert nearest_slot(item["lq"], item["gt"], 3).tolist() == [1, 0]  # of the last three
    assert nearest_slot(item["lq"], item["gt"], 9).tolist() == [2, 1]  # slots beyond the sentences hold nothing
    for read in ("pixsim", "pixwise"):
        model = built(option, "prediction.wsupervised=0.5", f"network_g.read={read}", "network_g.hops=2")
        _, weights = model.network_g(item["lq"], with_weights=True)
        last_hop = weights["bottleneck"][1]
        of_slots = last_hop if read == "pixsim" else last_hop.flatten(2).mean(2)
        expected = -0.5 * (of_slots[0, 2].log() + of_slots[1, 1].log()) / 2
        terms = terms_of(model, item)
        assert list(terms) == ["pixel", "wsupervised"]
        torch.testing.assert_close(terms["wsupervised"], expected)
        terms["wsupervised"].backward()
        assert model.network_g.mem_net["bottleneck"].embed_k.weight.grad.any()
        assert model.loss_terms(1)["wsupervised"].weight == 0.5


@pytest.mark.parametrize("overrides", [[], ["prediction.test_type=subtract"], FLOW], ids=["next", "subtract", "flow"])
def test_a_validation_measures_the_loss_and_the_baselines(option: Path, overrides: list[str]) -> None:
    model = built(option, *overrides, "network_g.memory_size=2")
    section = model.options.datasets["val"]
    dataset = build_dataset(section, scale=1, seed=0, key="val")

    def measured(restore: Any = None) -> list[Any]:
        loader = build_val_loader(dataset, section, rank=0, world_size=1, pin_memory=False)
        return model.validate(loader, restore=restore)

    records = measured(), measured(lambda item: item["lq"][:, -1]), measured(model.mean_of_memory)
    for i, (predicted, copied, mean) in enumerate(zip(*records, strict=True)):
        sample = dataset[i]
        x, y = sample["lq"].double() / 255, sample["gt"].double() / 255
        with torch.no_grad():
            out = model.network_g(sample["lq"][None].float() / 255)[0].double()
        if model.test_type == "opticalflow":
            unit = torch.tensor([24.0, 16.0])[:, None, None]
            losses = [((guess - sample["flow"]) / unit).abs().mean() for guess in (out, 0 * out, 0 * out)]
        else:
            frame = out if model.test_type == "nextframe" else x[-1] + out
            losses = [(guess - y).abs().mean() for guess in (frame, x[-1], (x[-1] + x[-2]) / 2)]
        got = [record.metrics["loss"] for record in (predicted, copied, mean)]
        assert got == pytest.approx([float(loss) for loss in losses], abs=1e-6)
        assert copied.metrics["l1"] == pytest.approx(float((x[-1] - y).abs().mean()), abs=1e-6)
        assert mean.metrics["l1"] == pytest.approx(float(((x[-1] + x[-2]) / 2 - y).abs().mean()), abs=2e-3)  # rounded
    assert list(model.metrics) == ["loss", "l1", "psnr"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network_g.num_out_ch=2"], "network_g.num_out_ch: expected 3 for prediction.test_type nextframe, got 2"),
        (["prediction.test_type=opticalflow"], "network_g.num_out_ch: expected 2 for prediction.test_type opticalflow"),
        (["network_g={type: EDSR, upscale: 1}"], "network_g.type: expected a network of predictions"),
        (["val.metrics.loss={type: calculate_l1}"], "val.metrics: expected no 'loss'"),
    ],
)
def test_what_does_not_go_together_is_refused(option: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(option, *overrides)


class Silent(MemoryPrediction):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x)


class Weightless(MemoryPrediction):
    def forward(self, x: Tensor, *, with_weights: bool = False) -> Any:
        out = super().forward(x)
        return (out, {}) if with_weights else out


def test_a_network_of_one_s_own_is_told_what_is_asked_of_it(option: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (Silent, Weightless):
        monkeypatch.setitem(NETWORKS._entries, network.__name__, network)
    with pytest.raises(ValueError, match=r"forward takes with_weights, got Silent\. Write forward\(x, \*, with"):
        built(option, "network_g.type=Silent")
    model = built(option, "network_g.type=Weightless")
    assert list(terms_of(model, batch())) == ["pixel"]
    with pytest.raises(ValueError, match=r"wsupervised: expected .* got Weightless, which returns none\. Set it to 0"):
        built(option, "network_g.type=Weightless", "prediction.wsupervised=0.1").forward(batch())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model_type=VideoModel"], "prediction: expected model_type PredictionModel beside it"),
        (["prediction.wsupervised=1", "network_g.memory_size=1"], "expected 0 beside network_g.memory_size: 1"),
        (["prediction.wsupervised=1", "network_g.input_size=1"], "expected 0 beside network_g.input_size: 1"),
        (["prediction.wsupervised=1", "network_g.hops=0"], "expected 0 beside network_g.hops: 0"),
        (["prediction.wsupervised=-1"], "expected 0 or more"),
        (["prediction.test_type=nextframes"], "nextframe"),
        (["datasets.train.input_size=5"], "expected 4, network_g.input_size, got 5"),
        (["val.tile=8"], "expected none for model_type PredictionModel"),
        (["train.batch_augment=[{type: RGBShuffle}]"], "expected none for model_type PredictionModel"),
        (["logger.visdom={port: 0}"], "expected 1 or more"),
        (["logger.visdom={timeout: 0}"], "expected more than 0"),
    ],
)
def test_option_files_that_cannot_be_meant_are_refused(option: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_options(option, overrides)


@pytest.mark.parametrize(
    ("overrides", "sample", "message"),
    [
        ([], {"lq": (3, 16, 24)}, r"datasets.val.type: expected a data set of sequences"),
        ([], {"lq": (4, 3, 16, 24), "gt": (4, 3, 16, 24)}, r"datasets.val.type: expected a data set of sequences"),
        ([], {"lq": (4, 3, 16, 24), "interval": None}, "datasets.val.type: .* and no interval. Use HumanEvaDataset"),
        ([], {"lq": (4, 3, 16, 24), "gt": None}, r"datasets.val.type: .* got lq \(4, 3, 16, 24\) without gt. Use"),
        ([], {"lq": (5, 3, 16, 24)}, "datasets.val.input_size: expected 4, the sequence of network_g"),
        ([], {"lq": (4, 3, 16, 22)}, "datasets.val.W and H: expected multiples of 4"),
        (FLOW, {"lq": (4, 3, 16, 24)}, "datasets.val.with_flow: expected true"),
        (
            ["network_g.embedding=FC", "network_g.H=16", "network_g.W=16", "network_g.noskip=[true, true]"],
            {"lq": (4, 3, 16, 24)},
            "datasets.val.W and H: expected 16 and 16, which MemoryPrediction was told, got 24 and 16",
        ),
    ],
)
def test_samples_that_the_network_does_not_take_are_named(
    option: Path, overrides: list[str], sample: dict[str, Any], message: str
) -> None:
    model = built(option, *overrides)
    given: dict[str, Any] = {"gt": (3, *sample["lq"][-2:]), "interval": (), **sample}  # None: it is not there
    tensors = {key: torch.zeros(shape) for key, shape in given.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        model.check_sample(tensors, "datasets.val", train=False)
