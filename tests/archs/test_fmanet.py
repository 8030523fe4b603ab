"""FMA-Net against the official code's values and a naive form of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from golden import fmanet_recipe as recipe
from naive_fmanet import Naive
from torch import Tensor, nn

import vsr
from vsr.archs import fmanet_blocks
from vsr.archs.fmanet import FMANet, to_clip, to_frames
from vsr.archs.fmanet_blocks import RRDB, FRMABlock, MultiAttentionBlock, Upsampler

SMALL: dict[str, Any] = {
    "in_channels": 3,
    "dim": 12,
    "ds_kernel_size": 8,
    "us_kernel_size": 3,
    "num_RDB": 2,
    "growth_rate": 4,
    "num_dense_layer": 2,
    "num_flow": 3,
    "num_FRMA": 2,
    "num_transformer_block": 1,
    "num_heads": 2,
    "LayerNorm_type": "WithBias",
    "ffn_expansion_factor": 2.0,
    "bias": False,
    "scale": 4,
    "num_seq": 3,
    "stage": 2,
}


def small(**changes: Any) -> FMANet:
    torch.manual_seed(0)
    return FMANet(**(SMALL | changes))


def clips(network: FMANet, height: int = 5, width: int = 6, batch: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    shape, s = (batch, network.in_channels, network.num_seq), network.scale
    return torch.rand(*shape, height, width), torch.rand(*shape, s * height, s * width)


def filled(module: nn.Module, manifest: Mapping[str, Any]) -> Any:
    assert [[name, list(value.shape)] for name, value in module.state_dict().items()] == manifest["state_dict"]
    weights = recipe.fill(manifest["state_dict"], manifest["gain"])
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module.eval()


def assert_golden(found: Mapping[str, Tensor], manifest: Mapping[str, Any], gold: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == manifest["outputs"].keys()
    for name, spec in manifest["outputs"].items():
        value = found[name].detach()[:, :: spec["cstride"]] if "cstride" in spec else found[name].detach()
        expected = torch.from_numpy(gold[name])
        torch.testing.assert_close(
            value, expected, atol=spec["atol"], rtol=spec["rtol"], msg=lambda m, name=name: f"{name}: {m}"
        )


def build(name: str, m: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """Return the module of a case, and what runs it on the case's clips."""
    if name == "pixelshuffle":
        upsampler = Upsampler(m["channels"], 4, m["bias"])
        return upsampler, upsampler
    if name == "rrdb_tiny":
        rrdb = RRDB(m["dim"], m["num_RDB"], m["growth_rate"], m["num_dense_layer"], m["bias"])
        return rrdb, lambda x: to_clip(rrdb(to_frames(x)), 3)
    attention = {"num_heads": "heads", "ffn_expansion_factor": "ffn"} if name.startswith("mab") else {}
    same = {
        "dim": m["dim"],
        "num_heads": m[attention.get("num_heads", "num_heads")],
        "LayerNorm_type": m["LayerNorm_type"],
        "ffn_expansion_factor": m["ffn"],
        "bias": m["bias"],
        "degradation_aware": m["is_DA"],
    }
    if attention:
        block = MultiAttentionBlock(**same)
        return block, lambda fused, center, kernels=None: block(fused, center, kernels)
    frma = FRMABlock(
        **same,
        growth_rate=m["growth_rate"],
        num_dense_layer=m["num_dense_layer"],
        num_flow=m["num_flow"],
        num_transformer_block=m["num_multi_attn"],
        num_seq=m["num_seq"],
        first_flow=m["is_first_f"],
        first_fused=m["is_first_Fw"],
    )

    def run(features: Tensor, center: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused, flows, kernels = others or (None, None, None)
        flows, kernels = (None if x is None else to_frames(x) for x in (flows, kernels))
        features, fused, flows = frma(to_frames(features), center.squeeze(2), fused, flows, kernels)
        return to_clip(features, m["num_seq"]), fused, to_clip(flows, m["num_seq"])

    return frma, run


@pytest.mark.parametrize("name", ["rrdb_tiny", "mab_co", "mab_co_da", "frma_D_first", "frma_R_later", "pixelshuffle"])
def test_blocks_have_the_official_values_and_gradients(name: str) -> None:
    manifest, gold = recipe.case(name)
    module, run = build(name, manifest)
    filled(module, manifest)
    inputs = {spec["name"]: torch.from_numpy(recipe.make_input(spec)).requires_grad_() for spec in manifest["inputs"]}
    outputs = run(*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for j, output in enumerate(outputs):
        weights = recipe.make_input({"seed": manifest["grad_seed"] + j, "shape": output.shape, "low": -1, "high": 1})
        (output * torch.from_numpy(weights)).sum().backward(retain_graph=True)
    parameters = dict(module.named_parameters())
    norms = [parameters[key].grad.norm() for key in manifest["param_names"]]  # type: ignore[union-attr]
    found = {f"out{j}": output for j, output in enumerate(outputs)}
    found |= {f"grad.{key}": value.grad for key, value in inputs.items() if value.grad is not None}
    assert_golden(found | {"param_grad_l2": torch.stack(norms)}, manifest, gold)


@pytest.mark.parametrize(
    "name",
    [
        "full_official_8x12",
        "full_tinyA_10x14",
        "full_tinyC_9x7_b2",
        "stage1_official_6x10",
        "stage1_tinyA_square_12x12",
    ],
)
def test_the_networks_have_the_official_values(name: str) -> None:
    manifest, gold = recipe.case(name)
    network = filled(FMANet(**manifest["config"]), manifest)
    x, y = (torch.from_numpy(recipe.make_input(spec)) for spec in manifest["inputs"])
    with torch.no_grad():
        learned = network.degradation_learning_network(x)
        found = {f"D.{key}": value for key, value in zip(("F", "KD", "f_Y", "f", "anchor"), learned, strict=True)}
        assert_golden(found | {f"out.{key}": value for key, value in network(x, y).items()}, manifest, gold)


def test_under_autocast_what_is_made_of_y_is_near_float32() -> None:
    manifest, _ = recipe.case("full_tinyA_10x14")
    network = filled(FMANet(**manifest["config"]), manifest)
    x, y = (torch.from_numpy(recipe.make_input(spec)) for spec in manifest["inputs"])
    with torch.no_grad():
        exact = network(x, y)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x, y)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        error = (found[name].float() - value).abs().mean() / value.abs().mean()
        assert error < 0.05, name


def test_the_published_network_has_its_585_tensors() -> None:
    with torch.device("meta"):
        network = FMANet()
    names = [[name, list(value.shape)] for name, value in network.state_dict().items()]
    assert names == recipe.case("full_official_8x12")[0]["state_dict"]
    assert len(names) == 585
    assert sum(p.numel() for p in network.parameters()) == 9_766_503
    assert sum(p.numel() for p in network.degradation_learning_network.parameters()) == 3_225_837


VARIANTS: list[dict[str, Any]] = [
    {},
    {"stage": 1},
    {"num_seq": 5, "dim": 20, "num_flow": 1, "num_heads": 4, "num_FRMA": 1},
    {"bias": True, "LayerNorm_type": "BiasFree", "num_flow": 1, "ds_kernel_size": 4, "us_kernel_size": 1},
    {"scale": 2, "ds_kernel_size": 6, "num_dense_layer": 1, "num_RDB": 1, "num_transformer_block": 2},
    {"scale": 3, "ds_kernel_size": 9, "us_kernel_size": 5, "num_heads": 1, "num_dense_layer": 3, "bias": True},
    {"in_channels": 1, "ffn_expansion_factor": 2.66, "num_seq": 3, "num_heads": 6, "num_flow": 12},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_form_is_the_naive_one_in_value_and_gradient(changes: dict[str, Any]) -> None:
    network = small(**changes).double()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    weights = {name: torch.from_numpy(value).double() for name, value in recipe.fill(shapes.items(), 1.0).items()}
    network.load_state_dict(weights)
    x, y = (clip.double() for clip in clips(network, batch=2))
    parameters = {name: value.requires_grad_() for name, value in weights.items()}
    outputs, expected = network(x, y), Naive(SMALL | changes, parameters)(x, y)
    assert outputs.keys() == expected.keys()
    totals = []
    for found in (outputs, expected):
        totals.append(sum((found[key] * (i + 1 + found[key].abs())).mean() for i, key in enumerate(sorted(found))))
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-8, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
    own = dict(network.named_parameters())
    gradients = zip(
        torch.autograd.grad(totals[0], list(own.values())),
        torch.autograd.grad(totals[1], [parameters[name] for name in own]),
        strict=True,
    )
    for name, (found, wanted) in zip(own, gradients, strict=True):
        assert wanted.any()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_what_is_in_the_attention_is_computed_again_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(num_RDB=1, num_transformer_block=3)
    x, y = clips(network)

    def kept() -> tuple[int, dict[str, Tensor]]:
        saved: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(id(t), t), lambda t: t):
            outputs = network(x, y)
        return sum(t.nbytes for t in saved.values()), outputs

    (less, again), _ = kept(), monkeypatch.setattr(fmanet_blocks, "recomputed", lambda block, *given: block(*given))
    all_of_it, once = kept()
    assert less < 0.6 * all_of_it
    own = list(network.parameters())
    totals = [sum(value.square().mean() for value in outputs.values()) for outputs in (again, once)]
    for found, expected in zip(*(torch.autograd.grad(total, own) for total in totals), strict=True):
        assert torch.equal(found, expected)


def test_the_restored_frame_needs_no_sharp_ones() -> None:
    network = small().eval()
    x, y = clips(network)
    with torch.no_grad():
        alone, beside = network(x), network(x, y)
    assert list(alone) == ["output", "lr_warp", "F_sharp_R"]
    assert all(torch.equal(alone[key], beside[key]) for key in alone)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("band", [1, 70])
def test_bands_of_rows_restore_what_the_whole_frame_does(scale: int, band: int, monkeypatch: Any) -> None:
    network = small(scale=scale, ds_kernel_size=scale + 2).eval()
    x, _ = clips(network, 19, 7)
    expected = network(x)["output"]  # with gradients: whole
    monkeypatch.setattr(fmanet_blocks, "BAND", band)
    with torch.no_grad():
        torch.testing.assert_close(network(x)["output"], expected, rtol=1e-5, atol=1e-6)


def test_a_video_is_restored_frame_by_frame() -> None:
    network = small().eval()
    frames = torch.rand(3, 3, 6, 4)
    restored = vsr.restore(network, frames, padding="replicate")
    window = frames[[1, 2, 2]].transpose(0, 1)[None]
    with torch.no_grad():
        torch.testing.assert_close(restored[2], network(window)["output"][0], rtol=1e-5, atol=1e-6)
    assert restored.shape == (3, 3, 24, 16)
    tiled = vsr.restore(network, frames, padding="replicate", tile=4, tile_overlap=2)
    assert tiled.shape == restored.shape


def test_stage_one_learns_to_blur_and_restores_nothing() -> None:
    network = small(stage=1)
    torch.manual_seed(2)
    y = torch.nn.functional.interpolate(torch.rand(4, 9, 5, 5), scale_factor=6.4, mode="bicubic").view(4, 3, 3, 32, 32)
    x = torch.nn.functional.avg_pool3d(y, (1, 4, 4))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    errors = []
    for _ in range(8):
        error = (network(x, y)["recon"] - x[:, :, 1]).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
    with pytest.raises(ValueError, match="y: expected the sharp frames, as stage 1 learns the degradation"):
        network(x)
    with pytest.raises(ValueError, match="stage: expected 2 to restore frames, got 1"):
        vsr.restore(network, torch.rand(3, 3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seq": 4}, "num_seq: expected an odd number from 3 up, got 4"),
        ({"num_seq": 1}, "num_seq: expected an odd number from 3 up, got 1"),
        ({"num_seq": 5}, r"num_seq: expected a divisor of dim \(12\), got 5"),
        ({"num_flow": 5}, r"num_flow: expected a divisor of dim \(12\), got 5"),
        ({"num_heads": 8}, r"num_heads: expected a divisor of dim \(12\), got 8"),
        ({"ds_kernel_size": 9}, "ds_kernel_size: expected an even number from 4 up, as the scale is 4, got 9"),
        ({"ds_kernel_size": 2}, "ds_kernel_size: expected an even number from 4 up"),
        ({"scale": 3}, "ds_kernel_size: expected an odd number from 3 up, as the scale is 3, got 8"),
        ({"us_kernel_size": 4}, "us_kernel_size: expected an odd number, got 4"),
        ({"scale": 8}, "scale: expected one of 2, 3, 4, got 8"),
        ({"stage": 3}, "stage: expected 1 .* or 2 .*, got 3"),
        ({"LayerNorm_type": "biasfree"}, "LayerNorm_type: expected one of WithBias, BiasFree, got 'biasfree'"),
        ({"ffn_expansion_factor": 0.05}, "ffn_expansion_factor: expected 0.0833 or more, got 0.05"),
        ({"ffn_expansion_factor": float("inf")}, "ffn_expansion_factor: expected 0.0833 or more, got inf"),
        ({"num_RDB": 0}, "num_RDB: expected a number from 1 up, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_clips_that_do_not_fit_are_refused() -> None:
    network = small()
    x, y = clips(network)
    with pytest.raises(ValueError, match=r"x: expected \(b, 3, 3, h, w\), got \(1, 3, 2, 5, 6\)"):
        network(x[:, :, 1:])
    with pytest.raises(ValueError, match=r"y: expected \(1, 3, 3, 20, 24\), 4 times the size of x, got"):
        network(x, y[..., 1:])


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.cuda
@on_a_gpu
def test_a_gpu_gives_the_values_and_gradients_of_the_cpu() -> None:
    network = small(bias=True)
    x, y = clips(network, batch=2)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float64), ("cuda", torch.float32)):
        network = network.to(device, dtype)
        with torch.backends.cudnn.flags(allow_tf32=False):
            outputs = network(x.to(device, dtype), y.to(device, dtype))
            total = sum(value.square().mean() for value in outputs.values())
            results.append([*outputs.values(), *torch.autograd.grad(total, list(network.parameters()))])
    for expected, *found in zip(*results, strict=True):
        for ours, limit in zip(found, (1e-8, 1e-3), strict=True):
            assert (ours.cpu() - expected).abs().max() < limit * (1e-3 + expected.abs().max())


@pytest.mark.cuda
@on_a_gpu
def test_under_autocast_a_gpu_is_near_float32() -> None:
    network = small().cuda()
    x, y = (clip.cuda() for clip in clips(network))
    exact = network(x, y)
    with torch.autocast("cuda", torch.bfloat16):
        found = network(x, y)
    sum(value.float().square().mean() for value in found.values()).backward()
    for name, value in exact.items():
        assert (found[name].float() - value).abs().mean() < 0.05 * value.abs().mean(), name
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.cuda
@on_a_gpu
def test_a_training_step_takes_less_than_half_of_the_plain_form_s_memory_of_a_gpu() -> None:
    config = SMALL | {"dim": 90, "ds_kernel_size": 20, "us_kernel_size": 5, "num_RDB": 12, "growth_rate": 18}
    config |= {"num_dense_layer": 4, "num_flow": 9, "num_FRMA": 4, "num_transformer_block": 2, "num_heads": 6}
    config |= {"ffn_expansion_factor": 2.66}  # the published network
    network = FMANet(**config).cuda()
    x, y = (clip.cuda() for clip in clips(network, 64, 64))
    plain = Naive(config, dict(network.named_parameters()))
    peaks = []
    for form in (network, plain):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        total = sum(value.square().mean() for value in form(x, y).values())
        torch.autograd.grad(total, list(network.parameters()))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < 0.5 * peaks[1]
