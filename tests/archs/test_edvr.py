"""EDVR: official numbers and keys in all its forms, and what it refuses."""

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of
from torch import Tensor

from vsr.archs.edvr import EDVR
from vsr.ops.deform_conv import ModulatedDeformConv2dPack

SMALL = {"num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}


@pytest.mark.parametrize("model_id", model_ids("edvr"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert sorted(state_of(network)) == sorted(tuple(entry) for entry in manifest(model_id)["state_dict"])
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("model_id", model_ids("edvr"))
def test_parameters_come_in_the_official_order(model_id: str) -> None:
    # Optimiser states of official checkpoints know parameters by their position only.
    with torch.device("meta"):
        facts = manifest(model_id)
        network = EDVR(**facts["kwargs"])
    assert list(network.state_dict()) == [entry[0] for entry in facts["state_dict"]]


@pytest.mark.parametrize("hr_in", [False, True])
def test_without_detail_the_output_is_the_centre_frame(hr_in: bool) -> None:
    network = EDVR(**SMALL, center_frame_idx=2, hr_in=hr_in, with_predeblur=hr_in)
    torch.nn.init.zeros_(network.conv_last.weight)
    torch.nn.init.zeros_(network.conv_last.bias)
    window = torch.rand(1, 3, 3, 16, 32)
    centre = window[:, 2]
    expected = centre if hr_in else F.interpolate(centre, scale_factor=4, mode="bilinear")
    assert (network.scale, network.size_multiple, network.min_size) == ((1, 16, 16) if hr_in else (4, 4, 4))
    torch.testing.assert_close(network(window), expected)


@pytest.mark.parametrize("with_predeblur", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 3), (1, 3)])
def test_channels_are_honoured(inputs: int, outputs: int, with_predeblur: bool) -> None:
    network = EDVR(**SMALL, num_in_ch=inputs, num_out_ch=outputs, with_predeblur=with_predeblur)
    assert network(torch.rand(1, 3, inputs, 8, 4)).shape == (1, outputs, 32, 16)


@pytest.mark.parametrize("num_frame", [1, 3, 7])
def test_any_odd_window_passes(num_frame: int) -> None:
    network = EDVR(**(SMALL | {"num_frame": num_frame}))
    assert network.center_frame_idx == num_frame // 2
    assert network(torch.rand(1, num_frame, 3, 4, 8)).shape == (1, 3, 16, 32)


def test_every_frame_reaches_the_output() -> None:
    torch.manual_seed(0)
    window = torch.rand(1, 3, 3, 8, 8, requires_grad=True)
    EDVR(**SMALL)(window).sum().backward()
    assert (window.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_a_new_network_starts_without_offsets_and_with_weak_residual_blocks() -> None:
    network = EDVR(**SMALL)
    packs = [m for m in network.modules() if isinstance(m, ModulatedDeformConv2dPack)]
    assert len(packs) == 4
    assert not any(p.any() for pack in packs for p in pack.conv_offset.parameters())
    block = network.reconstruction[0]
    assert block.conv1.weight.std() < 0.1 * (2 / 72) ** 0.5 * 1.3  # a tenth of He's rule; 576 samples


def test_pyramids_can_be_kept_between_windows() -> None:
    torch.manual_seed(0)
    network, frames = EDVR(**SMALL).eval(), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        pyramid = network.extract(frames)  # each frame once, for three windows
        for first in range(3):
            window = [level[None, first : first + 3] for level in pyramid]
            got = network.reconstruct(window, frames[None, first + 1])
            torch.testing.assert_close(got, network(frames[None, first : first + 3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frame": 4}, "num_frame: expected an odd number, got 4"),
        ({"num_frame": 0}, "num_frame: expected a number from 1 up, got 0"),
        ({"center_frame_idx": 5}, "center_frame_idx: expected 0 to 4 in 5 frames, got 5"),
        ({"center_frame_idx": -1}, "center_frame_idx: expected 0 to 4 in 5 frames, got -1"),
        ({"deformable_groups": 6}, r"deformable_groups: expected a divisor of num_feat \(64\), got 6"),
        ({"deformable_groups": 0}, "deformable_groups: expected a number from 1 up, got 0"),
        ({"hr_in": True}, "hr_in: expected with_predeblur: true beside it"),
        ({"num_out_ch": 6}, "num_out_ch: expected 1 to num_in_ch"),
        ({"num_extract_block": -1}, "num_extract_block: expected a number from 0 up, got -1"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDVR(**arguments)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (torch.rand(1, 5, 3, 8, 8), r"x: expected \(b, 3, 3, h, w\), got \(1, 5, 3, 8, 8\)"),
        (torch.rand(1, 3, 8, 8), r"x: expected \(b, 3, 3, h, w\), got"),
        (torch.rand(1, 3, 3, 8, 10), r"x: expected sides that are multiples of 4, got \(8, 10\)"),
    ],
)
def test_another_shape_is_refused_with_the_expected_one(window: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDVR(**SMALL)(window)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_gives_the_same_frames_and_gradients() -> None:
    torch.compiler.reset()  # other sizes that this process has compiled would make these dynamic
    torch.manual_seed(0)
    network = EDVR(**SMALL)
    for module in network.modules():
        if isinstance(module, ModulatedDeformConv2dPack):
            torch.nn.init.normal_(module.conv_offset.weight, std=0.05)
    window = torch.rand(1, 3, 3, 16, 16)
    found = []
    for run in (network, torch.compile(network, fullgraph=True)):
        network.zero_grad()
        out = run(window)
        out.square().mean().backward()
        found.append([out, *(p.grad for p in network.parameters())])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)
