"""BasicVSR++: official numbers and keys, clips of any length, and the alignment by itself."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, state_of
from torch import nn

from vsr.archs import spynet
from vsr.archs.basicvsrpp import BRANCHES, BasicVSRPlusPlus, SecondOrderDeformableAlignment


def small(**arguments: Any) -> BasicVSRPlusPlus:
    torch.manual_seed(0)
    network = BasicVSRPlusPlus(**({"mid_channels": 8, "num_blocks": 1} | arguments)).eval()
    for parameter in network.spynet.parameters():  # flows that matter
        parameter.data *= 1.5
    for align in network.deform_align.values():
        nn.init.normal_(align.conv_offset[-1].weight, std=0.1)
    return network


@pytest.mark.parametrize("model_id", ["basicvsrpp_tiny", pytest.param("basicvsrpp_reds", marks=pytest.mark.slow)])
def test_keys_in_their_order_and_outputs_are_the_official_ones(model_id: str) -> None:
    network, facts = build(model_id), manifest(model_id)
    assert state_of(network) == [tuple(entry) for entry in facts["state_dict"]]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("low_res", [True, False])
def test_without_detail_the_output_is_the_clip(low_res: bool) -> None:
    network = small(is_low_res_input=low_res)
    nn.init.zeros_(network.conv_last.weight)
    nn.init.zeros_(network.conv_last.bias)
    clip = torch.rand(1, 3, 3, 12, 8)
    expected = F.interpolate(clip[0], scale_factor=4, mode="bilinear")[None] if low_res else clip
    assert (network.scale, network.size_multiple) == ((4, 1) if low_res else (1, 4))
    with torch.no_grad():
        torch.testing.assert_close(network(clip), expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (7, 33)])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_of_any_length_and_size_pass(size: tuple[int, int], frames: int) -> None:
    with torch.no_grad():
        out = small()(torch.rand(1, frames, 3, *size))
    assert out.shape == (1, frames, 3, 4 * size[0], 4 * size[1])
    assert out.isfinite().all()


def test_every_frame_sees_all_others() -> None:
    network = small()
    for i in range(4):
        clip = torch.rand(1, 4, 3, 8, 8, requires_grad=True)
        network(clip)[:, i].sum().backward()
        assert (clip.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_a_frame_of_its_own_passes_the_branches_without_alignment() -> None:
    network, frame = small(), torch.rand(1, 3, 8, 8)
    known = [network.feat_extract(frame)]
    for branch in BRANCHES:
        known.append(network.backbone[branch](torch.cat((*known, torch.zeros(1, 8, 8, 8)), 1)))
    feature = network.reconstruction(torch.cat(known, 1))
    torch.testing.assert_close(network(frame[None])[0], network._upsample(feature, frame))


def test_a_new_alignment_reads_half_of_what_the_flows_point_at() -> None:
    align = SecondOrderDeformableAlignment(num_feat=8, max_residue_magnitude=10)
    nn.init.zeros_(align.weight)
    align.weight.data[0, 0, 1, 1] = align.weight.data[1, 8, 1, 1] = 1  # the first channel of either frame
    x = torch.rand(1, 16, 6, 6)
    near, far = torch.zeros(2, 1, 2, 6, 6)
    near[:, 0], far[:, 1] = 2, -1  # two to the right; one up
    with torch.no_grad():
        out = align(x, torch.rand(1, 24, 6, 6), near, far)
    torch.testing.assert_close(out[:, 0, :, :4], x[:, 0, :, 2:] / 2)  # the mask starts at one half
    torch.testing.assert_close(out[:, 1, 1:], x[:, 8, :-1] / 2)
    assert not out[:, 0, :, 4:].any()
    assert not out[:, 1, 0].any()


@pytest.mark.parametrize("magnitude", [0, 3])
def test_residues_are_limited(magnitude: float, monkeypatch: pytest.MonkeyPatch) -> None:
    align = SecondOrderDeformableAlignment(num_feat=8, max_residue_magnitude=magnitude)
    nn.init.constant_(align.conv_offset[-1].bias, 50.0)
    offsets = []
    monkeypatch.setattr(
        "vsr.ops.deform_conv.modulated_deform_conv2d", lambda x, offset, *rest: offsets.append(offset) or x
    )
    align(torch.rand(1, 16, 4, 4), torch.rand(1, 24, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4))
    first, second = offsets[0].chunk(2, 1)
    assert torch.equal(first, torch.full_like(first, magnitude))
    assert torch.equal(second, torch.full_like(second, magnitude + 1))


def test_a_mirrored_clip_gives_what_it_gives_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.rand(1, 2, 3, 8, 8)
    clip, network = torch.cat((half, half.flip(1)), 1), small()
    with torch.no_grad():
        noticed = network(clip)
        other = network(torch.rand(1, 4, 3, 8, 8))  # a clip that is none, after one that is
        torch.manual_seed(0)
        monkeypatch.setattr(spynet, "_is_mirrored", lambda clip: False)
        torch.testing.assert_close(noticed, network(clip))
    assert other.isfinite().all()


def test_a_clip_kept_on_the_cpu_gives_the_same_frames_and_gradients() -> None:
    plain, cached = small(), small(cpu_cache_length=2)
    clip = torch.rand(1, 3, 3, 8, 8)
    for network in (plain, cached):
        network(clip).square().sum().backward()
    with torch.no_grad():
        assert torch.equal(plain(clip), cached(clip))
    for one, other in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_long_clip_on_a_gpu_comes_back_on_the_cpu_and_takes_less_of_the_gpu() -> None:
    clip = torch.rand(1, 12, 3, 64, 64, device="cuda")
    outputs, peaks = [], []
    for length in (100, 5):
        network = small(mid_channels=64, cpu_cache_length=length).cuda()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            outputs.append(network(clip))
        peaks.append(torch.cuda.max_memory_allocated())
    assert [out.device.type for out in outputs] == ["cuda", "cpu"]
    assert peaks[1] < peaks[0]
    torch.testing.assert_close(outputs[0].cpu(), outputs[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mid_channels": 12}, "mid_channels: expected a multiple of 8"),
        ({"mid_channels": 0}, "mid_channels: expected a number from 1 up"),
        ({"num_blocks": -1}, "num_blocks: expected a number from 0 up"),
        ({"max_residue_magnitude": -1}, "max_residue_magnitude: expected pixels from 0 up, got -1"),
        ({"cpu_cache_length": -1}, "cpu_cache_length: expected a number from 0 up"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BasicVSRPlusPlus(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 8), r"x: expected clips \(b, t, 3, h, w\), got \(1, 3, 8, 8\)"),
        ((1, 2, 6, 8, 8), r"x: expected clips \(b, t, 3, h, w\)"),
        ((1, 2, 3, 8, 6), r"x: expected sides that are multiples of 4, got \(8, 6\)"),
    ],
)
def test_another_shape_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(is_low_res_input=False)(torch.rand(shape))
