"""Adversarial training: each of the two networks learns what it should, when it should."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import run
from test_end_to_end import options_of
from test_restoration import batch, make_model

from vsr.engine.train import train
from vsr.models.restoration import RestorationModel

GAN = [
    "network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}",
    "train.optim_d={type: Adam, lr: 1e-3}",
    "train.gan_opt={type: GANLoss, gan_type: vanilla, loss_weight: 0.1}",
]


def weights_of(model: RestorationModel) -> tuple[dict[str, Any], dict[str, Any]]:
    assert model.adversary is not None
    return copy.deepcopy((dict(model.network_g.named_parameters()), dict(model.adversary.network.named_parameters())))


def changed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_a_step_gives_the_gradients_of_the_two_losses_by_the_book(tiny: Path) -> None:
    model = make_model(tiny, *GAN, "train.ema_decay=0")
    assert model.adversary is not None
    network_g, network_d = copy.deepcopy(model.network_g), copy.deepcopy(model.adversary.network)
    terms = model.train_step([batch()], 1)
    prepared = model.prepare(batch())
    torch.manual_seed(0)  # no dropout in here
    restored = network_g(prepared["lq"])
    softplus = torch.nn.functional.softplus  # -log sigmoid(x) = softplus(-x)
    pixel = (restored - prepared["gt"]).square().add(1e-12).sqrt().mean()
    network_d.requires_grad_(False)
    gan = 0.1 * softplus(-network_d(restored)).mean()
    (pixel + gan).backward()
    network_d.requires_grad_(True)
    real = softplus(-network_d(prepared["gt"])).mean()
    fake = softplus(network_d(restored.detach())).mean()
    (real + fake).backward()
    for name, value in {"pixel": pixel, "gan": gan, "total": pixel + gan, "d_real": real, "d_fake": fake}.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for mine, theirs in ((model.network_g, network_g), (model.adversary.network, network_d)):
        for (name, one), (_, other) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_relativistic_form_compares_with_the_mean_of_the_others(tiny: Path) -> None:
    model = make_model(tiny, *GAN, "train.relativistic=true", "train.ema_decay=0")
    assert model.adversary is not None
    network_g, network_d = copy.deepcopy(model.network_g), copy.deepcopy(model.adversary.network)
    terms = model.train_step([batch()], 1)
    prepared = model.prepare(batch())
    softplus = torch.nn.functional.softplus
    network_d.train()
    with torch.no_grad():  # in the order in which ESRGAN's code calls it: each call improves the spectral norms
        restored = network_g(prepared["lq"])
        fake, truth = network_d(restored), network_d(prepared["gt"])
        gan = 0.1 * (softplus(truth - fake.mean()).mean() + softplus(-(fake - truth.mean())).mean()) / 2
        fake, truth = network_d(restored), network_d(prepared["gt"])
        real = softplus(-(truth - fake.mean())).mean() / 2
        false = softplus(network_d(restored) - truth.mean()).mean() / 2
    for name, value in {"gan": gan, "d_real": real, "d_fake": false}.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_who_learns_when(tiny: Path) -> None:
    model = make_model(tiny, *GAN, "train.net_d_init_iters=1", "train.net_d_iters=2", "train.ema_decay=0")
    learnt = {}
    for step in (1, 2, 3, 4):
        before = weights_of(model)
        terms = model.train_step([batch(step)], step)
        after = weights_of(model)
        learnt[step] = (changed(before[0], after[0]), changed(before[1], after[1]))
        assert ("pixel" in terms) == learnt[step][0]
    assert learnt == {1: (False, True), 2: (True, True), 3: (False, True), 4: (True, True)}


def test_r1_is_counted_in_every_nth_step(tiny: Path) -> None:
    model = make_model(tiny, *GAN, "train.r1_reg_weight=10", "train.net_d_reg_every=2")
    assert ["r1" in model.train_step([batch(step)], step) for step in (1, 2, 3, 4)] == [False, True, False, True]


@pytest.mark.fault
def test_a_step_in_which_the_discriminator_overflows_changes_neither(tiny: Path) -> None:
    model = make_model(tiny, *GAN)
    assert model.adversary is not None
    model.train_step([batch()], 1)
    bad = next(model.adversary.network.parameters())
    kept = bad.detach().clone()
    with torch.no_grad():
        bad.fill_(float("nan"))
    before = weights_of(model)
    model.train_step([batch(1)], 2)
    after = weights_of(model)
    assert not changed(before[0], after[0])
    assert int(model.bad_steps_in_a_row) == 1
    with torch.no_grad():
        bad.copy_(kept)


def test_micro_batches_give_the_discriminators_gradient_of_their_union(tiny: Path) -> None:
    whole, parts = make_model(tiny, *GAN), make_model(tiny, *GAN)
    assert whole.adversary is not None
    assert parts.adversary is not None
    full = batch(size=4)
    halves = [{k: v[i : i + 2] for k, v in full.items()} for i in (0, 2)]
    for model in (whole, parts):  # without the power iteration, which goes on with every call
        assert model.adversary is not None
        model.adversary.network.eval().train = lambda mode=True: None
    whole.train_step([full], 1)
    parts.train_step(halves, 1)
    for one, other in zip(whole.adversary.network.parameters(), parts.adversary.network.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_two_processes_train_the_pair_of_one(tiny: Path, tmp_path: Path) -> None:
    sgd = "train.optim_d={type: SGD, lr: 0.1}"
    common = [*GAN, sgd, "train.optim_g={type: SGD, lr: 0.1}", "train.scheduler=null", "network_g.dropout=0.0"]
    common += ["train.total_iter=2", "val.val_freq=2", "train.ema_decay=0"]
    train(options_of(tiny, *common, "datasets.train.batch_size_per_gpu=4", name="one"))
    arguments = [*common, "datasets.train.batch_size_per_gpu=2", "name=two"]
    status, output = run("train.py", "-opt", str(tiny), "--set", *arguments, world=2)
    assert status == 0, output
    for file in ("net_g_2.pth", "net_d_2.pth"):
        one, two = (
            torch.load(tmp_path / "experiments" / name / "models" / file, weights_only=True)["params"]
            for name in ("one", "two")
        )
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=f"{file} {name}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (GAN[:2], "expected an adversarial loss for network_d, got none"),
        (GAN[2:], r"network_d: expected a discriminator for train\.losses\.gan, got none"),
        ([*GAN, "train.losses.other={type: GANLoss, gan_type: hinge}"], "expected one adversarial loss, got"),
        ([*GAN[1:], "network_d={type: SRVGGNetCompact}"], r"network_d\.type: expected a discriminator"),
        (GAN[:1], "expected train.optim_d beside it, got none"),
        (GAN[1:2], "expected network_d beside it, got none"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tiny: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(tiny, *overrides)
