"""Every form of the adversarial loss trains; penalties are those of the books; what makes no sense is refused."""

import copy
from pathlib import Path

import pytest
import torch
from kit import assert_same_run, run
from test_adversary import GAN, changed, weights_of
from test_end_to_end import interrupted, options_of
from test_restoration import batch, make_model

from vsr.config import OptionError
from vsr.engine.train import train

FORMS = {
    "vanilla": "{type: GANLoss, gan_type: vanilla, real_label_val: 0.9, fake_label_val: 0.1, loss_weight: 0.1}",
    "lsgan": "{type: GANLoss, gan_type: lsgan, loss_weight: 0.1}",
    "wgan": "{type: GANLoss, gan_type: wgan, loss_weight: 0.1}",
    "wgan_softplus": "{type: GANLoss, gan_type: wgan_softplus, loss_weight: 0.1}",
    "hinge": "{type: GANLoss, gan_type: hinge, loss_weight: 0.1}",
    "multiscale": "{type: MultiScaleGANLoss, gan_type: lsgan, loss_weight: 0.1}",
}


@pytest.mark.parametrize("relativistic", [False, True], ids=["plain", "relativistic"])
@pytest.mark.parametrize("form", FORMS)
def test_both_networks_learn_from_every_form(tiny: Path, form: str, relativistic: bool) -> None:
    if form == "hinge" and relativistic:
        pytest.skip("refused, see below")
    loss = f"train.losses.gan={FORMS[form]}"
    alone = ["train.losses={}", loss, f"train.relativistic={str(relativistic).lower()}"]
    model = make_model(
        tiny, *GAN[:2], *alone, "train.gp_weight=10", "train.r1_reg_weight=10", "train.net_d_reg_every=1"
    )
    before = weights_of(model)
    for step in (1, 2):
        terms = model.train_step([batch(step)], step)
    after = weights_of(model)
    assert changed(before[0], after[0])
    assert changed(before[1], after[1])
    assert {"gan", "d_real", "d_fake", "r1", "gp"} <= set(terms)
    assert all(torch.isfinite(value).all() for value in terms.values())


def test_a_discriminator_that_learns_alone_tells_the_two_kinds_apart(tiny: Path) -> None:
    for form in ("vanilla", "wgan"):
        loss = f"train.losses.gan={FORMS[form]}"
        alone = [*GAN[:2], loss, "train.net_d_init_iters=10", "train.total_iter=20", "train.scheduler=null"]
        model = make_model(tiny, *alone, "train.optim_d.lr=5e-3")
        sums = []
        for step in range(1, 11):
            terms = model.train_step([batch()], step)
            sums.append(float(terms["d_real"] + terms["d_fake"]))
        assert sums[-1] < 0.95 * sums[0] or sums[-1] < sums[0] - 0.1, (form, sums)


def test_the_gradient_penalty_is_that_of_the_paper(tiny: Path) -> None:
    model = make_model(tiny, *GAN, "train.gp_weight=5", "train.ema_decay=0")
    assert model.adversary is not None
    network_g, network_d = copy.deepcopy(model.network_g), copy.deepcopy(model.adversary.network)
    for network in (model.adversary.network, network_d):  # without the power iteration, which each call improves
        network.eval().train = lambda mode=True: None
    plain = make_model(tiny, *GAN, "train.ema_decay=0")
    assert plain.adversary is not None
    plain.adversary.network.eval().train = lambda mode=True: None
    torch.manual_seed(0)
    shares: list[torch.Tensor] = []
    original = torch.rand

    def noted(*size: object, **keywords: object) -> torch.Tensor:
        shares.append(original(*size, **keywords))
        return shares[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", noted)
        terms = model.train_step([batch()], 1)
    plain.train_step([batch()], 1)
    prepared = model.prepare(batch())
    restored, real = network_g(prepared["lq"]).detach(), prepared["gt"]
    mixed = (shares[0] * real + (1 - shares[0]) * restored).requires_grad_()
    (gradient,) = torch.autograd.grad(network_d(mixed).sum(), mixed, create_graph=True)
    penalty = ((gradient.square().sum(1).sqrt() - 1) ** 2).mean()  # BasicSR's: the norm over a pixel's channels
    assert terms["gp"].item() == pytest.approx(penalty.item(), rel=1e-5)
    (5 * penalty).backward()
    mine, without = model.adversary.network.named_parameters(), plain.adversary.network.named_parameters()
    for (name, one), (_, other), (_, expected) in zip(mine, without, network_d.named_parameters(), strict=True):
        added = 0 if expected.grad is None else expected.grad  # the last bias has none
        torch.testing.assert_close(one.grad - other.grad, torch.zeros_like(one) + added, rtol=1e-3, atol=1e-6, msg=name)


def test_a_run_with_penalties_stopped_and_continued_equals_one_that_was_not(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wgan = f"train.losses.gan={FORMS['wgan']}"
    common = [*GAN[:2], wgan, "train.gp_weight=10", "train.precision=float16", "train.accumulate=2", "val.val_freq=8"]
    train(options_of(tiny, *common, name="whole"))
    interrupted(monkeypatch, options_of(tiny, *common, name="parts"), before=7)
    train(options_of(tiny, *common, name="parts"))
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 8)


@pytest.mark.slow
def test_penalties_work_in_two_processes(tiny: Path, tmp_path: Path) -> None:
    settings = [*GAN, "train.gp_weight=10", "train.r1_reg_weight=10", "train.net_d_reg_every=2", "train.accumulate=2"]
    status, output = run("train.py", "-opt", str(tiny), "--set", *settings, "train.total_iter=4", world=2)
    assert status == 0, output
    assert (tmp_path / "experiments/tiny/models/net_d_4.pth").is_file()


def test_a_discriminator_for_other_images_is_found_before_the_first_step(tiny: Path) -> None:
    start = r"network_d: expected a discriminator for the GT of datasets\.train: .*"
    with pytest.raises(ValueError, match=start + r"sides of 128, got \(16, 16\)"):
        train(options_of(tiny, *GAN, "network_d={type: VGGStyleDiscriminator, num_feat: 4}"))
    with pytest.raises(ValueError, match=start + "6"):
        train(options_of(tiny, *GAN, "network_d.num_in_ch=6"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.net_d_iters=2"], "net_d_iters=2: expected network_d beside it, got none"),
        (["train.relativistic=true"], "relativistic=true: expected network_d beside it"),
        (["train.gp_weight=10"], "gp_weight=10: expected network_d beside it"),
        (["train.r1_reg_weight=10"], "r1_reg_weight=10: expected network_d beside it"),
        (["train.net_d_init_iters=1"], "net_d_init_iters=1: expected network_d beside it"),
        (["path.pretrain_network_d=d.pth"], "pretrain_network_d=d.pth: expected network_d beside it"),
        ([*GAN, "train.net_d_init_iters=8"], r"expected a step in which network_g learns among the 8 of total_iter"),
        ([*GAN, "train.net_d_iters=9"], r"network_g learns among the 8 of total_iter, got none .*net_d_iters 9"),
        ([*GAN, "train.gp_weight=-1"], "expected 0 or more, got -1"),
        ([*GAN, "train.losses.gan.gan_type=gan"], "vanilla"),
        ([*GAN, "train.losses.gan.real_label_val=1.2"], "real_label_val: expected a probability"),
        ([*GAN, "train.relativistic=true", "train.losses.gan.gan_type=hinge"], "expected another form than hinge"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tiny: Path, overrides: list[str], message: str) -> None:
    with pytest.raises((OptionError, ValueError), match=message):
        make_model(tiny, *overrides)
