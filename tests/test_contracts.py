"""What every registered network must do, each kind of network by its own contract, and every registered loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsr.archs.blocks import checkpoint_activations
from vsr.inference.tiles import frames_first
from vsr.registry import LOSSES, NETWORKS

SMALL_EDVR = {"num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}
# The smallest sensible form of each network: a new one needs its line here, and gets the tests of its kind below.
SMALL: dict[str, dict[str, Any]] = {
    "Baseline": {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "BaselineLocal": {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "train_size": [1, 3, 4, 4]},
    "BasicVSR": {"num_feat": 8, "num_block": 1},
    "BasicVSRPlusPlus": {"mid_channels": 8, "num_blocks": 1},
    "EDSR": {"num_feat": 8, "num_block": 2},
    "EDVR": SMALL_EDVR,
    "FMANet": {
        "dim": 12,
        "ds_kernel_size": 6,
        "us_kernel_size": 3,
        "num_RDB": 1,
        "growth_rate": 4,
        "num_dense_layer": 2,
        "num_flow": 2,
        "num_FRMA": 1,
        "num_transformer_block": 1,
        "num_heads": 2,
    },
    "EDVR_Concat128Norm": SMALL_EDVR,
    "EDVR_Concat256": SMALL_EDVR,
    "EDVR_Crop3": SMALL_EDVR,
    "EDVR_Crop5": SMALL_EDVR,
    "EDVR_NoPCD": SMALL_EDVR,
    "EDVR_PixSentence": SMALL_EDVR,
    "EDVR_PixSim": SMALL_EDVR,
    "EDVR_PixWise": SMALL_EDVR,
    "IconVSR": {"num_feat": 8, "num_block": 1, "temporal_padding": 1},
    "MemoryEDVR": SMALL_EDVR
    | {"memory": {"type": "pixsentence", "norm": True, "hops": 2, "per_sentence": True, "temporal_encoding": True}},
    "MSRResNet": {"num_feat": 8, "num_block": 2},
    "MemoryPrediction": {"channels": [3, 4, 8], "noskip": [True, False], "input_size": 3, "embed_size": 8, "pad": 1},
    "RCAN": {"num_feat": 8, "num_group": 2, "num_block": 1, "squeeze_factor": 4},
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "scale": 2},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 2},
    "SwinIR": {
        "img_size": 8,
        "embed_dim": 8,
        "depths": [2],
        "num_heads": [2],
        "window_size": 4,
        "upscale": 2,
        "upsampler": "pixelshuffle",
    },
    "UNetDiscriminatorSN": {"num_feat": 4},
    "VGGStyleDiscriminator": {"num_feat": 4},
    "NAFNet": {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "NAFNetLocal": {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "train_size": [1, 3, 4, 4]},
    "NAFNetSR": {"width": 8, "num_blks": 2},
    "NAFSSR": {"width": 8, "num_blks": 2, "train_size": [1, 6, 4, 4]},
    "SpyNet": {},
}
NAMES = sorted(NETWORKS.table)
# MemoryEDVR under names that stand for other arguments; one of them is among the quick tests.
VARIANTS = {name for name in NAMES if name.startswith("EDVR_")} - {"EDVR_NoPCD"}
# Other arguments of MemoryEDVR alone: what compiles or exports it, for minutes, does so with these.
OF_MEMORY_EDVR = VARIANTS - {"EDVR_PixSim", "EDVR_PixSentence"} | {"EDVR_NoPCD"}
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in NAMES]
# Parts of parameters' names whose effect is on outputs beside the restored frame, which other tests look at.
OF_OTHER_OUTPUTS = {"FMANet": (".a_conv.", "degradation_learning_network.f_conv.")}
SLOW_TO_COMPILE = {"BasicVSR", "BasicVSRPlusPlus", "EDVR", "FMANet", "IconVSR", "MemoryEDVR"}
# Kind -> channels of an input. restoration: images, or frames; stereo: left and right view; flow: two images;
# prediction: frames that another one follows.
CHANNELS = {"restoration": 3, "stereo": 6, "discriminator": 3, "flow": 3, "prediction": 3}


def kind_of(name: str) -> str:
    return getattr(NETWORKS.get(name), "kind", "none")


def named(*kinds: str) -> list[str]:
    """The networks of these kinds."""
    return [name for name in NAMES if kind_of(name) in kinds]


def build(name: str) -> Any:
    torch.manual_seed(0)
    return frames_first(NETWORKS.build({"type": name, **SMALL[name]}).eval())


def sides(network: Any, *, multiples: tuple[int, int]) -> tuple[int, int]:
    """The sides that are these multiples of what the network wants, and not too small for it."""
    if hasattr(network, "input_size"):  # a discriminator of one size only
        return network.input_size, network.input_size
    least = -(-network.min_size // network.size_multiple)
    first, second = (max(m, least) * network.size_multiple for m in multiples)
    return first, second


def inputs(network: Any, *, batch: int = 2, multiples: tuple[int, int] = (5, 3)) -> tuple[Tensor, ...]:
    """A batch of images, or of windows or clips of them, (b, [t,] c, h, w) of the smallest odd sizes; flow: two."""
    frames = {"image": (), "window": (getattr(network, "num_frame", 0),), "clip": (3,)}[network.temporal]
    shape = (batch, *frames, CHANNELS[network.kind], *sides(network, multiples=multiples))
    return tuple(torch.rand(shape) for _ in range(2 if network.kind == "flow" else 1))


def expected_shape(network: Any, x: Tensor) -> tuple[int, ...]:
    """The shape of the output for the input ``x``; a discriminator's is its own affair beyond (b, 1)."""
    if network.kind == "discriminator":
        return (len(x), 1)
    if network.kind == "flow":
        return (len(x), 2, *x.shape[-2:])
    leading = x.shape[:-3] if network.temporal == "clip" else x.shape[:1]
    return (*leading, x.shape[-3], network.scale * x.shape[-2], network.scale * x.shape[-1])


def test_every_network_has_a_small_form_here() -> None:
    assert sorted(SMALL) == NAMES


@pytest.mark.parametrize("name", CASES)
def test_every_network_states_what_it_is(name: str) -> None:
    network = build(name)
    assert network.kind in CHANNELS
    assert network.temporal in ("image", "window", "clip")
    assert network.size_multiple >= 1
    assert network.min_size >= 1
    assert isinstance(network.channels_last, bool)
    assert all(issubclass(module, nn.Module) for module in network.checkpointed)
    if network.kind in ("restoration", "stereo", "prediction"):
        assert network.scale >= 1
        assert network.checkpointed  # what takes the memory of a whole training
    else:
        assert network.temporal == "image"
    if network.temporal == "window":
        assert network.num_frame >= 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("multiples", [(1, 1), (5, 3), (2, 7)])
def test_the_output_has_the_size_that_the_network_states(name: str, multiples: tuple[int, int]) -> None:
    network = build(name)
    x = inputs(network, multiples=multiples)
    with torch.no_grad():
        out = network(*x)
    expected = expected_shape(network, x[0])
    assert out.shape[: len(expected)] == expected
    assert network.kind == "discriminator" or out.dim() == len(expected)
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_a_size_between_the_multiples_is_refused(name: str) -> None:
    network = build(name)
    x = [image[..., :-1] for image in inputs(network, multiples=(50, 30))]
    if hasattr(network, "input_size"):
        with pytest.raises(ValueError, match=f"expected .*{network.input_size}"):
            network(*x)
    elif network.size_multiple == 1:
        assert network(*x).isfinite().all()
    else:
        with pytest.raises(ValueError, match=f"multiples of {network.size_multiple}"):
            network(*x)


@pytest.mark.parametrize("name", CASES)
def test_another_number_of_channels_is_refused(name: str) -> None:
    network = build(name)
    with pytest.raises(ValueError, match=r"expected .* got"):
        network(*(torch.cat((image, image[..., :1, :, :]), -3) for image in inputs(network)))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_is_refused_or_gives_nothing(name: str) -> None:
    network = build(name)
    try:
        out = network(*(image[:0] for image in inputs(network)))
    except (ValueError, RuntimeError):  # never the end of the process, as a kernel that divides by the batch is
        return
    assert len(out) == 0


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name).train()
    network(*inputs(network)).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert [n for n in without if not any(part in n for part in OF_OTHER_OUTPUTS.get(name, ()))] == []


@pytest.mark.parametrize("name", CASES)
def test_recomputed_activations_give_the_same_gradients_and_keep_less(name: str) -> None:
    plain, recomputing = build(name).train(), build(name).train()
    checkpoint_activations(recomputing)
    x = inputs(plain)
    kept: dict[nn.Module, int] = {}
    for network in (plain, recomputing):
        saved: list[Tensor] = []
        torch.manual_seed(1)  # of what a network drops while it trains
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            out = network(*x)
        kept[network] = sum(t.nbytes for t in {id(t): t for t in saved}.values())
        out.square().sum().backward()
    for (parameter, value), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(other.grad, value.grad, rtol=1e-5, atol=1e-6, msg=parameter)
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    assert kept[recomputing] < kept[plain] or not plain.checkpointed


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    network = build(name)
    x = inputs(network, batch=3)
    with torch.no_grad():
        singles = [network(*(image[None] for image in one)) for one in zip(*x, strict=True)]
        torch.testing.assert_close(network(*x), torch.cat(singles), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_makes_an_equal_network(name: str) -> None:
    network, other = build(name), build(name)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    other.load_state_dict(network.state_dict(), strict=True)
    x = inputs(network)
    with torch.no_grad():
        assert torch.equal(network(*x), other(*x))


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_the_network_changes_neither_its_input_nor_its_state(name: str) -> None:
    network = build(name)
    x = inputs(network)
    x_before, before = [image.clone() for image in x], {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        network(*x)
    assert all(torch.equal(image, image_before) for image, image_before in zip(x, x_before, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
def test_bfloat16_is_near_float32(name: str, autocast: bool) -> None:
    network = build(name)
    x = inputs(network, batch=1, multiples=(2, 3))  # small: many a CPU has no instructions for it
    with torch.no_grad():
        expected = network(*x)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = network(*x) if autocast else network.bfloat16()(*(image.bfloat16() for image in x))
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE | VARIANTS))
        for name in NAMES
        if name not in OF_MEMORY_EDVR
    ],
)
def test_the_network_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()  # networks that share code would use up the number of times that it may be compiled
    network = build(name)
    x = inputs(network, batch=1)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*x), network(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_network_builds_without_memory_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS.build({"type": name, **SMALL[name]})
    assert {p.device.type for p in network.parameters()} == {"meta"}


@pytest.mark.parametrize("name", named("stereo"))
def test_each_view_is_restored_with_the_help_of_the_other(name: str) -> None:
    network = build(name)
    for parameter in network.parameters():  # a fresh network may begin with views that ignore each other
        nn.init.normal_(parameter, std=0.1)
    (x,) = inputs(network, batch=1)
    for view in (slice(0, 3), slice(3, 6)):
        changed = x.clone()
        changed[:, view] = 1 - x[:, view]
        with torch.no_grad():
            difference = (network(changed) - network(x)).abs()
        assert difference[:, :3].max() > 1e-6
        assert difference[:, 3:].max() > 1e-6


@pytest.mark.parametrize("name", named("prediction"))
def test_a_prediction_looks_at_all_frames_and_tells_with_what_weights(name: str) -> None:
    network = build(name)
    (x,) = inputs(network)
    x.requires_grad_()
    out, weights = network(x, with_weights=True)
    assert torch.equal(network(x), out)
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    assert all(frame.any() for frame in slope.transpose(0, 1))
    assert weights
    for of_level in weights.values():
        for hop in of_level:
            torch.testing.assert_close(hop.sum(1), torch.ones_like(hop[:, 0]))


@pytest.mark.parametrize("name", named("discriminator"))
def test_a_discriminator_shows_its_input_the_way(name: str) -> None:
    network = build(name).train()
    (x,) = inputs(network)
    network(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(image.any() for image in x.grad)


@pytest.mark.parametrize("name", named("discriminator"))
def test_a_discriminator_judges_twice_before_one_backward_pass(name: str) -> None:
    network = build(name).train()
    (real,), (fake,) = inputs(network), inputs(network)
    (network(real) - network(fake)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", named("flow"))
def test_a_flow_network_refuses_images_of_unlike_sizes(name: str) -> None:
    network = build(name)
    first, second = inputs(network, multiples=(50, 30))
    with pytest.raises(ValueError, match=r"expected .* got"):
        network(first, second[..., :-1])


# What a loss must be told, which has no default.
LOSS_ARGUMENTS: dict[str, dict[str, Any]] = {
    "GANLoss": {"gan_type": "vanilla"},
    "MSSSIMLoss": {"levels": 2},
    "MultiScaleGANLoss": {"gan_type": "vanilla"},
    "PerceptualLoss": {"layer_weights": {"conv1_2": 1.0}},
}
ADVERSARIAL = [name for name in sorted(LOSSES.table) if getattr(LOSSES.get(name), "adversarial", False)]
OF_IMAGES = [name for name in sorted(LOSSES.table) if name not in ADVERSARIAL]
OF_PAIRS = [name for name in OF_IMAGES if name != "WeightedTVLoss"]  # which looks at the restored image alone
# Where each loss is least: 0 at equality, but for the roots of eps and for PSNR in dB.
FLOORS = {"CharbonnierLoss": 1e-6, "EdgeLoss": 1e-3, "PSNRLoss": -80.0}


@pytest.fixture
def loss(name: str, tmp_path: Path) -> Any:
    option = {"type": name, **LOSS_ARGUMENTS.get(name, {})}
    if name == "PerceptualLoss":
        torch.manual_seed(0)
        shapes = {"features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3)}
        weights = {f"{key}.weight": 0.1 * torch.randn(shape) for key, shape in shapes.items()}
        torch.save(weights | {f"{key}.bias": torch.zeros(64) for key in shapes}, tmp_path / "vgg.pth")
        option["weights"] = str(tmp_path / "vgg.pth")
    return LOSSES.build(option)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_loss_is_least_for_equal_images(name: str, loss: Any) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 24, 24)
    floor = loss(target.clone(), target).item()
    assert floor == pytest.approx(FLOORS.get(name, 0.0), rel=1e-3, abs=1e-6)
    for error in (0.01, 0.1):
        assert loss(target + error * torch.randn_like(target), target).item() > floor


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 3, 3, 24, 25)], ids=["images", "clips"])
def test_a_loss_has_a_finite_gradient_even_at_equality(name: str, loss: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = torch.rand(shape)
    slopes = []
    for error in (0.0, 0.1):
        restored = (target + error * torch.randn_like(target)).requires_grad_()
        value = loss(restored, target)
        value.backward()
        assert value.shape == ()
        assert restored.grad is not None
        assert restored.grad.isfinite().all()
        slopes.append(restored.grad.abs().max().item())
    assert slopes[1] > 0
    assert slopes[0] < 1e-3 * slopes[1] or name not in OF_PAIRS


@pytest.mark.parametrize("name", OF_PAIRS)
def test_the_loss_of_a_clip_is_that_of_its_frames(name: str, loss: Any) -> None:
    torch.manual_seed(0)
    restored, target = torch.rand(2, 3, 3, 24, 24), torch.rand(2, 3, 3, 24, 24)
    frames = loss(restored.flatten(0, 1), target.flatten(0, 1))
    torch.testing.assert_close(loss(restored, target), frames, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
def test_a_loss_works_in_float32_at_least(name: str, loss: Any, autocast: bool) -> None:
    torch.manual_seed(0)
    restored, target = torch.rand(2, 1, 3, 24, 24).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(restored, target) if autocast else loss(restored.bfloat16(), target.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == loss(restored, target).item()


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(2, 3, 24, 1), (1, 3, 24, 24), (3, 24, 24)])
def test_a_loss_refuses_unlike_shapes(name: str, loss: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"24, 24"):
        loss(torch.rand(shape), torch.rand(2, 3, 24, 24))


@pytest.mark.parametrize("name", sorted(LOSSES.table))
def test_a_loss_refuses_a_weight_that_is_no_number(name: str) -> None:
    option = {"type": name, **LOSS_ARGUMENTS.get(name, {})}
    weight = "perceptual_weight" if name == "PerceptualLoss" else "loss_weight"
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{weight}: expected a finite number, got {value}"):
            LOSSES.build({**option, weight: value})


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_an_adversarial_loss_tells_real_from_fake(name: str, loss: Any) -> None:
    outputs = torch.tensor([[-1.0], [2.0]]).requires_grad_()
    for is_disc in (True, False):
        for is_real in (True, False):
            value = loss(outputs, is_real, is_disc=is_disc)
            (slope,) = torch.autograd.grad(value, outputs)
            assert value.shape == ()
            assert slope.isfinite().all()
            assert slope.ne(0).all()
            assert (slope < 0).all() == is_real  # higher outputs mean real
