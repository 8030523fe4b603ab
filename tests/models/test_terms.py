"""What a log says of the losses beside their values."""

import json
import re
from pathlib import Path

import pytest
from kit import history
from test_adversary import GAN
from test_end_to_end import options_of
from test_restoration import batch, make_model
from torch import Tensor, nn

from vsr.config import OptionError
from vsr.engine.train import train
from vsr.models.terms import Term, readings


def test_the_readings_of_a_loss_are_those_worked_out_by_hand() -> None:
    terms = {"pixel": Term(0.5), "sum": Term(2.0, values=100), "psnr": Term(0.1, decibels=True), "off": Term(0.0)}
    read = readings({"pixel": 1.0, "sum": 600.0, "psnr": -3.0, "off": 0.0, "own": 5.0, "total": 603.0}, terms)
    assert read == {
        "pixel": {"raw": 2.0, "share": 1 / 604},
        "sum": {"raw": 300.0, "mean": 3.0, "share": 600 / 604},
        "psnr": {"raw": -30.0, "dB": 30.0, "share": 3 / 604},
        "off": {"share": 0.0},
    }
    assert readings({"total": 1.0}, terms) == {}  # in steps of the discriminator alone there is no term
    assert readings({"pixel": 0.0}, {"pixel": Term()}) == {"pixel": {}}  # of a loss of your own; 0 has no share


def test_the_readings_of_a_step_are_what_the_losses_give_without_their_factors(tiny: Path) -> None:
    model = make_model(
        tiny, *GAN, "train.losses={}", "train.losses.pixel={type: L1Loss, loss_weight: 0.3, reduction: sum}",
        "train.losses.psnr={type: PSNRLoss, loss_weight: 0.5}",
        "train.losses.tv={type: WeightedTVLoss, loss_weight: 2}",
        "train.losses.gan={type: GANLoss, gan_type: vanilla, loss_weight: 0.1}",
    )  # fmt: skip
    prepared = model.prepare(batch())
    restored, gt = model.network_g(prepared["lq"]).detach(), prepared["gt"]
    numbers = {name: float(value) for name, value in model.train_step([batch()], 1).items()}
    read = readings(numbers, model.loss_terms(gt.numel()))
    assert list(read) == ["pixel", "psnr", "tv", "gan"]
    error = restored - gt
    assert read["pixel"]["raw"] == pytest.approx(float(error.abs().sum()), rel=1e-5)
    assert read["pixel"]["mean"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    psnr = -10 * error.square().mean((1, 2, 3)).log10().mean()
    assert read["psnr"]["dB"] == pytest.approx(float(psnr), rel=1e-5)
    variation = restored.diff(dim=-1).abs().mean() + restored.diff(dim=-2).abs().mean()
    assert read["tv"]["raw"] == pytest.approx(float(variation), rel=1e-5)
    assert read["gan"]["raw"] == pytest.approx(numbers["gan"] / 0.1)
    assert sum(kinds["share"] for kinds in read.values()) == pytest.approx(1)


def test_each_part_of_a_perceptual_loss_has_its_factor() -> None:
    from vsr.losses.perceptual import PerceptualLoss
    from vsr.models.terms import describe_terms

    loss = PerceptualLoss.__new__(PerceptualLoss)
    nn.Module.__init__(loss)
    loss.perceptual_weight, loss.style_weight = 0.5, 120.0
    terms = describe_terms({"perceptual": loss, "vgg": loss}, 10)
    assert {name: term.weight for name, term in terms.items()} == {
        "perceptual": 0.5, "perceptual_style": 120.0, "vgg_perceptual": 0.5, "vgg_style": 120.0,
    }  # fmt: skip
    loss.style_weight = 0.0
    assert list(describe_terms({"vgg": loss}, 10)) == ["vgg_perceptual"]


def test_the_log_tells_them_in_its_lines_its_file_and_its_curves(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = [
        "train.losses={}",
        "train.losses.pixel={type: CharbonnierLoss, reduction: sum}",
        "train.losses.edge={type: EdgeLoss, loss_weight: 40.0}",
    ]
    with caplog.at_level("INFO"):
        train(options_of(tiny, *losses, "train.total_iter=2", "train.accumulate=2", "logger.use_tb_logger=true"))
    root = tmp_path / "experiments" / "tiny"
    for entry in history(root).values():
        assert entry["pixel"] == entry["raw/pixel"] == pytest.approx(entry["mean/pixel"] * 2 * 3 * 16 * 16)
        assert entry["edge"] == pytest.approx(40 * entry["raw/edge"])
        assert entry["share/pixel"] + entry["share/edge"] == pytest.approx(1)
        assert entry["total"] == pytest.approx(entry["pixel"] + entry["edge"])
    assert re.search(r"pixel \d[\d.e+]* \(mean 0\.\d+, \d+%\)  edge [\d.]+ \(raw [\d.e-]+, \d+%\)  total", caplog.text)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(root / "tb")).Reload().Tags()["scalars"]
    assert {"train/pixel", "train/raw/pixel", "train/mean/pixel", "train/share/edge"} <= set(curves)


def test_a_single_plain_loss_makes_no_words_on_the_screen(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        train(options_of(tiny, "train.total_iter=1", "train.scheduler=null"))
    assert re.search(r"pixel [\d.e-]+  total", caplog.text)
    line = json.loads((tmp_path / "experiments/tiny/log.jsonl").read_text().splitlines()[0])
    assert line["raw/pixel"] == line["pixel"]
    assert line["share/pixel"] == 1


def test_a_loss_that_is_not_one_number_is_refused(tiny: Path) -> None:
    with pytest.raises(OptionError, match=r"reduction=none: expected .mean. or .sum., as training"):
        make_model(tiny, "train.losses.pixel.reduction=none")
    with pytest.raises(OptionError, match=r"expected a plain name for the loss, got 'a/b'"):
        make_model(tiny, "train.losses={a/b: {type: L1Loss}}")
    model = make_model(tiny)

    class Own(nn.Module):
        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            return (pred - target).abs().mean((1, 2, 3))

    model.criteria = {"own": Own()}
    with pytest.raises(ValueError, match=r"train\.losses\.own: expected a loss of one number"):
        model.train_step([batch()], 1)
    assert model.loss_terms(1) == {"own": Term()}
