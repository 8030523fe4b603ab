"""FMA-Net's model class: its losses, whole training steps, schedule and validation of both stages."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.fmanet_recipe import case, fill, make_input
from torch import Tensor

from vsr.archs.fmanet import FMANet
from vsr.config import OptionError, Options, dump_options, load_options
from vsr.config.fmanet import FMANET_LOSSES
from vsr.inference import infer
from vsr.models.fmanet import FMANetModel
from vsr.optim import build_schedule
from vsr.registry import MODELS
from vsr.utils.resize import imresize

ROOT = Path(__file__).parents[2]
TINY = {
    "dim": 12, "ds_kernel_size": 6, "us_kernel_size": 3, "num_RDB": 1, "growth_rate": 4, "num_dense_layer": 1,
    "num_flow": 2, "num_FRMA": 1, "num_transformer_block": 1, "num_heads": 2, "scale": 2,
}  # fmt: skip
# The published weights, those of Net^D's terms in stage 2 by its 0.1.
WEIGHTS = {
    1: {"recon": 1, "hr_warp": 0.1, "flow": 1e-4, "D_TA": 0.1},
    2: {
        "output": 1, "lr_warp": 0.1, "R_TA": 0.1, "recon": 0.1, "hr_warp": 0.01, "flow": 1e-5, "D_TA": 0.01,
    },
}  # fmt: skip
# Our names of the terms, by those of the golden files.
NAMES = {
    "recon_loss": "recon", "hr_warping_loss": "hr_warp", "flow_loss": "flow", "D_TA_loss": "D_TA",
    "restoration_loss": "output", "lr_warping_loss": "lr_warp", "R_TA_loss": "R_TA",
}  # fmt: skip


def write_options(folder: Path, stage: int, network: dict[str, Any], *overrides: str) -> Options:
    losses = {name: f"{{type: L1Loss, loss_weight: {weight}}}" for name, weight in WEIGHTS[stage].items()}
    arguments = ", ".join(
        f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in network.items()
    )
    text = f"""
name: tiny
model_type: FMANetModel
scale: {network.get("scale", 4)}
datasets:
  train: {{type: FMANetDataset, dataroot_gt: gt, dataroot_lq: lq, gt_size: 24}}
network_g: {{type: FMANet, {arguments}, stage: {stage}}}
train:
  total_iter: 4
  losses: {{{", ".join(f"{name}: {loss}" for name, loss in losses.items())}}}
  optim_g: {{type: Adam, lr: 1e-3}}
  lr_mul: {{degradation_learning_network: 0.5}}
val:
  metrics: {{psnr: {{type: calculate_psnr}}}}
"""
    path = folder / "tiny.yml"
    path.write_text(text, encoding="utf-8")
    return load_options(path, overrides)


def build(options: Options, *, train: bool = True) -> FMANetModel:
    model: FMANetModel = MODELS.build({"type": "FMANetModel"}, options=options, device=torch.device("cpu"), train=train)
    return model


def tensors(spec: dict[str, Any]) -> dict[str, Tensor]:
    return {entry["name"]: torch.from_numpy(make_input(entry)) for entry in spec["inputs"]}


def as_batch(given: dict[str, Tensor]) -> dict[str, Any]:
    """Official clips (b, channels, t, h, w) as the data set gives them."""
    names = {"lr_blur": "lq", "hr_sharp": "gt", "lr_sharp": "lq_sharp", "flow": "flow"}
    return {ours: given[name].transpose(1, 2) for name, ours in names.items()} | {"key": ["a/1"]}


@pytest.mark.parametrize("stage", [1, 2])
def test_every_term_of_the_loss_has_the_official_value(stage: int, tmp_path: Path) -> None:
    spec, expected = case(f"loss_stage{stage}")
    given = tensors(spec)
    model = build(write_options(tmp_path, stage, {**TINY, "scale": 4}))
    batch = model.prepare(as_batch(given))
    terms = model.losses(given, batch, 1)
    assert set(terms) == set(FMANET_LOSSES[stage])
    for name, ours in NAMES.items():
        if name in expected:
            assert float(terms[ours]) == pytest.approx(float(expected[name]), rel=1e-4, abs=2e-7), name
    assert float(sum(terms.values())) == pytest.approx(float(expected["total_loss"]), rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_whole_training_step_has_the_official_loss_and_gradients(stage: int, tmp_path: Path) -> None:
    spec, expected = case(f"step_tinyA_stage{stage}")
    network = {name: value for name, value in spec["config"].items() if name != "stage"}
    model = build(write_options(tmp_path, stage, network))
    weights = {name: torch.from_numpy(value) for name, value in fill(spec["state_dict"], spec["gain"]).items()}
    model.network_g.load_state_dict(weights, strict=True)
    terms = model.accumulate([as_batch(tensors(spec))], 1)
    assert float(terms["total"]) == pytest.approx(float(expected["total_loss"]), rel=1e-4)
    gradients = {name: p.grad for name, p in model.network_g.named_parameters()}
    assert list(gradients) == spec["param_names"]
    norms = np.array([-1.0 if g is None else g.norm().item() for g in gradients.values()])
    np.testing.assert_allclose(norms, expected["grad_l2"], rtol=1e-3, atol=2e-5)
    assert norms.min() >= 0  # every parameter takes part: nothing for DDP to wait for


def made_batch(*, key: str = "a/1", size: int = 12, seed: int = 0) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)

    def images(side: int) -> Tensor:
        return torch.randint(0, 256, (1, 3, 3, side, side), generator=rng, dtype=torch.uint8)

    flow = torch.randn(1, 3, 2, size, size, generator=rng)
    flow[:, 1] = 0
    return {"lq": images(size), "gt": images(2 * size), "lq_sharp": images(size), "flow": flow, "key": [key]}


@pytest.mark.parametrize("stage", [1, 2])
def test_a_few_steps_lower_the_loss(stage: int, tmp_path: Path) -> None:
    model = build(write_options(tmp_path, stage, TINY, "train.optim_g.lr=5e-3"))
    losses = [float(model.train_step([made_batch()], step)["total"]) for step in range(1, 6)]
    assert losses[-1] < 0.97 * losses[0]
    assert model.finite()


def blurred_blocks(seed: int, count: int) -> dict[str, Tensor]:
    """Windows on blocks in two greys that move by a pixel a frame, each LQ frame the mean of three, reduced."""
    parts: dict[str, list[Tensor]] = {"lq": [], "gt": [], "lq_sharp": []}
    for number in range(count):
        rng = np.random.default_rng(seed + number)
        blocks = rng.integers(0, 2, (16, 16, 1)).repeat(3, 2) * 200 + 25
        texture = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint8)
        top, left = 4 * rng.integers(0, 4, 2)
        views = torch.from_numpy(np.stack([texture[top:, left + i :][:32, :32] for i in range(7)]))
        views = views.permute(0, 3, 1, 2)
        blurred = torch.stack([views[i - 1 : i + 2].float().mean(0).round().byte() for i in (2, 3, 4)])
        sharp = views[2:5]
        for name, frames in (("lq", imresize(blurred, 0.25)), ("gt", sharp), ("lq_sharp", imresize(sharp, 0.25))):
            parts[name].append(frames)
    return {name: torch.stack(clips) for name, clips in parts.items()}


@pytest.mark.slow
def test_a_small_network_soon_restores_more_than_bicubic_enlargement(tmp_path: Path) -> None:
    """At least 1 dB more after 30 steps of stage 2 from nothing, on windows that it has not seen."""
    network = {**TINY, "scale": 4, "ds_kernel_size": 8}
    without_flow = ("train.losses.flow=null", "train.lr_mul={}")
    model = build(write_options(tmp_path, 2, network, "train.optim_g.lr=1e-2", "train.total_iter=30", *without_flow))
    batches = [{**blurred_blocks(100 * i, 2), "key": ["a/1"] * 2} for i in range(10)]
    for step in range(1, 31):
        model.train_step([batches[step % 10]], step)
    seen = {name: value.float() / 255 for name, value in blurred_blocks(9000, 8).items()}
    target = seen["gt"][:, 1]
    enlarged = torch.stack([imresize(frame, 4) for frame in seen["lq"][:, 1]])
    decibels = [
        -10 * float((x - target).square().mean().log10()) for x in (infer(model.network_g, seen["lq"]), enlarged)
    ]
    assert decibels[0] > decibels[1] + 1


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_net_d_and_net_r_are_groups_of_one_optimiser_whose_rates_both_decay(factor: float, tmp_path: Path) -> None:
    """The official second stage lowers Net^D's rate twice at each milestone, and Net^R's at none."""
    model = build(
        write_options(
            tmp_path, 2, TINY, f"train.lr_mul={{degradation_learning_network: {factor}, restoration_network: 1.0}}",
            "train.scheduler={type: MultiStepLR, milestones: [1], gamma: 0.5}",
        )
    )  # fmt: skip
    names = {parameter: name for name, parameter in model.network_g.named_parameters()}
    groups = {group["name"]: group for group in model.optimizer.param_groups}
    assert list(groups) == ["degradation_learning_network", "restoration_network"]
    for name, group in groups.items():
        assert {names[parameter].partition(".")[0] for parameter in group["params"]} == {name}
    for step, rate in ((1, 1e-3), (2, 5e-4)):
        before = [group["params"][0].detach().clone() for group in groups.values()]
        model.train_step([made_batch()], step)
        assert [group["lr"] for group in groups.values()] == pytest.approx([factor * rate, rate])
        assert all(not torch.equal(group["params"][0], was) for group, was in zip(groups.values(), before, strict=True))


def test_without_flow_the_step_is_that_with_a_weight_of_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = made_batch()
    sample = {name: value[0] for name, value in batch.items() if name != "flow"}
    results = {}
    for name, override in {
        "absent": (),
        "weight": ("train.losses.flow.loss_weight=0",),
        "off": ("train.losses.flow=null",),
    }.items():
        with caplog.at_level(logging.INFO):
            caplog.clear()
            model = build(write_options(tmp_path, 1, TINY, *override))
            model.check_sample(
                {**sample, **({} if name == "absent" else {"flow": batch["flow"][0]})}, "datasets.train", train=True
            )
        said = caplog.text
        assert ("terms of the loss that the options switch off: flow" in said) == (name != "absent")
        assert ("datasets.train has no flow; make it with scripts/generate_flow.py" in said) == (name == "absent")
        given = {key: value for key, value in batch.items() if key != "flow" or name != "absent"}
        terms = model.train_step([given], 1)
        assert ("flow" in terms) == (name == "weight")
        results[name] = torch.cat([p.detach().flatten() for p in model.network_g.parameters()])
    assert torch.equal(results["absent"], results["off"])
    torch.testing.assert_close(results["weight"], results["off"])


def test_stage_2_starts_from_stage_1_s_weights_of_net_d_alone(tmp_path: Path) -> None:
    first = build(write_options(tmp_path, 1, TINY, "manual_seed=5"))
    first.train_step([made_batch()], 1)
    torch.save(first.weights(), tmp_path / "net_g_best.pth")
    second = build(write_options(tmp_path, 2, TINY, "path.strict_load_g=false"))
    before = {name: value.clone() for name, value in second.network_g.state_dict().items()}
    second.load_pretrained(str(tmp_path / "net_g_best.pth"))
    for name, value in second.network_g.state_dict().items():
        same_as = first.network_g.state_dict() if name.startswith("degradation_learning_network.") else before
        assert torch.equal(value, same_as[name]), name
    assert second.rate(1) == 1e-3  # nothing of stage 1's schedule or optimiser
    assert not second.optimizer.state_dict()["state"]


def test_weights_of_stage_1_restore_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "net_g_best.pth")
    torch.save({"params": build(write_options(tmp_path, 1, TINY)).network_g.state_dict()}, path)
    options = write_options(tmp_path, 2, TINY, "path.strict_load_g=false")
    with pytest.raises(ValueError, match=r"net_g_best.pth: expected the weights of a stage 2 .* without Net\^R"):
        build(options, train=False).load_pretrained(path)


def test_stage_2_does_not_start_from_a_part_of_net_d(tmp_path: Path) -> None:
    weights = build(write_options(tmp_path, 1, TINY)).network_g.state_dict()
    name = "degradation_learning_network.a_conv.2.weight"
    path = str(tmp_path / "net_g_best.pth")
    second = build(write_options(tmp_path, 2, TINY, "path.strict_load_g=false"))
    for changed in ({k: v for k, v in weights.items() if k != name}, weights | {name: torch.zeros(7)}):
        torch.save({"params": changed}, path)
        with pytest.raises(ValueError, match=rf"all \d+ tensors of Net\^D .* {name} is missing or of another shape"):
            second.load_pretrained(path)
    whole = second.network_g.state_dict()
    torch.save({"params": {k: v for k, v in whole.items() if k != name}}, path)
    assert second.load_pretrained(path) == whole.keys() - {name}  # no file of stage 1: what fits, as was asked for


@pytest.mark.parametrize("stage", [1, 2])
def test_the_files_schedule_is_the_intended_one(stage: int) -> None:
    """26068 samples in batches of 8 are 3258 steps an epoch; in each of its 400 epochs the rate is one."""
    options = load_options(ROOT / f"options/train/FMANet/stage{stage}_reds_x4.yml")
    assert options.train is not None
    assert options.train.scheduler is not None
    schedule = build_schedule(
        options.train.scheduler.as_option(), base_lr=options.train.optim_g.args["lr"], warmup_iter=-1
    )
    expected = case("lr_schedule")[1]["intended"]
    assert options.train.total_iter == 3258 * len(expected)
    for epoch, rate in enumerate(expected):
        assert [schedule(3258 * epoch + 1), schedule(3258 * (epoch + 1))] == pytest.approx([float(rate)] * 2), epoch
    weights = {name: loss.args["loss_weight"] for name, loss in options.train.losses.items()}
    assert weights == pytest.approx(WEIGHTS[stage])


def test_stage_2_is_validated_without_the_ground_truth_s_down_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(write_options(tmp_path, 2, TINY), train=False)
    batch = made_batch(size=24)
    monkeypatch.setattr("vsr.archs.fmanet.down_filter", None)
    seen: dict[str, np.ndarray] = {}
    records = model.validate([batch], on_frame=seen.__setitem__)
    target = batch["gt"][0, 1].permute(1, 2, 0).numpy()
    assert seen["a/1"].shape == target.shape
    mse = np.square(seen["a/1"].astype(float) - target).mean()
    assert records[0].metrics["psnr"] == pytest.approx(10 * np.log10(255**2 / mse))
    one = model.validate([{**batch, "gt": batch["gt"][:, 1]}])  # GT of the centre alone serves as well
    assert one == records
    restored = infer(model.network_g, batch["lq"].float() / 255)
    assert np.array_equal(seen["a/1"], (restored[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def test_stage_1_is_validated_against_the_blurred_frame(tmp_path: Path) -> None:
    model = build(write_options(tmp_path, 1, TINY), train=False)
    batch = made_batch(size=24)
    seen: dict[str, np.ndarray] = {}
    records = model.validate([batch], on_frame=seen.__setitem__)
    assert isinstance(model.network_g, FMANet)
    with torch.inference_mode():
        x, y = (batch[name].transpose(1, 2).float() / 255 for name in ("lq", "gt"))
        recon = model.network_g(x, y)["recon"][0]
    assert np.array_equal(seen["a/1"], (recon.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    target = batch["lq"][0, 1].permute(1, 2, 0).numpy()
    mse = np.square(seen["a/1"].astype(float) - target).mean()
    assert records[0].metrics["psnr"] == pytest.approx(10 * np.log10(255**2 / mse))
    assert model.metrics["psnr"].definition.endswith("of the blurred LQ frame as it is made of GT (stage 1)")


@pytest.mark.parametrize("stage", [1, 2])
def test_tiles_with_overlap_are_near_the_whole_frame(stage: int, tmp_path: Path) -> None:
    """Attention looks at a tile's channels where it looked at the frame's: equal they are not, but near."""
    torch.manual_seed(0)
    batch = made_batch(size=48)
    batch["lq"] = batch["lq"] // 8 + 96
    batch["gt"] = batch["gt"] // 8 + 96
    results = []
    for tile in (0, 32):
        model = build(write_options(tmp_path, stage, TINY, f"val.tile={tile}", "val.tile_overlap=24"), train=False)
        with torch.inference_mode():
            results.append(model.restore(model.prepare(batch)))
    assert results[0].shape == results[1].shape == (1, 3, *(48 * stage,) * 2)
    assert (results[0] - results[1]).abs().mean() < 0.02
    assert not torch.equal(*results)


def test_samples_that_do_not_serve_are_refused_with_what_would(tmp_path: Path) -> None:
    sample = {name: value[0] for name, value in made_batch().items()}
    first, second = (build(write_options(tmp_path, stage, TINY)) for stage in (1, 2))
    with pytest.raises(ValueError, match=r"datasets.train.type: expected a data set of windows .* Use FMANetDataset"):
        second.check_sample({**sample, "lq": sample["lq"][0]}, "datasets.train", train=True)
    with pytest.raises(ValueError, match=r"datasets.train.num_frame: expected 3, num_seq of network_g, got 2"):
        second.check_sample({**sample, "lq": sample["lq"][:2]}, "datasets.train", train=True)
    with pytest.raises(ValueError, match=r"expected GT and sharp LQ of all frames .* got lq, gt. Use FMANetDataset"):
        second.check_sample({name: sample[name] for name in ("lq", "gt", "key")}, "datasets.train", train=True)
    with pytest.raises(ValueError, match=r"datasets.val.gt_frames: expected all"):
        first.check_sample({**sample, "gt": sample["gt"][1]}, "datasets.val", train=False)
    second.check_sample({**sample, "gt": sample["gt"][1]}, "datasets.val", train=False)
    second.check_sample({"lq": sample["lq"], "key": "a"}, "datasets.val", train=False)


@pytest.mark.parametrize(("stage", "smallest"), [(1, 48), (2, 24)])  # stage 1 measures frames of LQ's size
def test_frames_too_small_for_tof_are_refused_before_the_first_step(stage: int, smallest: int, tmp_path: Path) -> None:
    model = build(write_options(tmp_path, stage, TINY, "val.metrics.tof={type: calculate_tof}"))
    small, enough = ({k: v[0] for k, v in made_batch(size=size).items()} for size in (smallest - 1, smallest))
    with pytest.raises(
        ValueError, match=r"val.metrics.tof: expected frames of 48x48 .* in datasets.val, got 4[67]x4[67]"
    ):
        model.check_sample(small, "datasets.val", train=False)
    model.check_sample(small, "datasets.train", train=True)
    model.check_sample(enough, "datasets.val", train=False)
    if stage == 2:
        model.check_sample({"lq": small["lq"], "key": "a"}, "datasets.val", train=False)  # nothing is measured


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        (1, "train.losses.output={type: L1Loss}", "a term of FMA-Net's loss in stage 1, got 'output'"),
        (2, "train.losses.hr_wrap={type: L1Loss}", "Did you mean 'hr_warp'"),
        (2, "train.losses.R_TA=null", "all terms of FMA-Net's loss in stage 2, R_TA missing"),
        (2, "train.batch_augment=[{type: Mixup}]", "expected none for FMA-Net"),
        (2, "model_type=VideoModel", "model_type FMANetModel and network_g.type FMANet together"),
        (2, "network_g={type: EDVR}", "model_type FMANetModel and network_g.type FMANet together"),
        (1, "val.compare_bicubic=true", "expected false in stage 1"),
        (1, "val.self_ensemble=true", "expected false in stage 1"),
        (2, "datasets.train.num_frame=5", "expected 3 by default, as network_g.num_seq, got 5"),
    ],
)
def test_the_option_file_is_checked_for_what_does_not_fit(
    stage: int, override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        write_options(tmp_path, stage, TINY, override)


def test_the_protocol_stands_for_its_metrics_and_the_file_s_own_go_first(tmp_path: Path) -> None:
    options = write_options(
        tmp_path, 2, TINY, "val.protocol=FMANet", "val.metrics.ssim={type: calculate_ssim, ssim3d: true}"
    )
    kinds = {name: (m.metric.type, m.metric.args.get("crop_border")) for name, m in options.val.metrics.items()}
    assert kinds == {
        "psnr": ("calculate_psnr", 0), "psnr_y": ("calculate_psnr", 4), "ssim": ("calculate_ssim", 0),
        "tof": ("calculate_tof", None),
    }  # fmt: skip
    assert next(iter(kinds)) == "psnr"
    assert options.val.totals == "frames"
    copy = tmp_path / "copy.yml"
    copy.write_text(dump_options(options), encoding="utf-8")
    assert load_options(copy) == options
    without = write_options(tmp_path, 2, TINY, "val.protocol=FMANet", "val.metrics.tof=null")
    assert list(without.val.metrics) == ["psnr", "psnr_y", "ssim"]
    copy.write_text(dump_options(without), encoding="utf-8")
    assert load_options(copy) == without
    assert write_options(tmp_path, 2, TINY, "val.protocol=FMANet", "val.totals=clips").val.totals == "clips"
    with pytest.raises(OptionError, match=r"val.protocol\S*: expected .FMANet. or null"):
        write_options(tmp_path, 2, TINY, "val.protocol=FMANetX")
