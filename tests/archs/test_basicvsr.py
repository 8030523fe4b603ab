"""BasicVSR and IconVSR: official numbers and keys, clips of any length and size, and published weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, state_of
from torch import Tensor, nn

from vsr.archs import spynet
from vsr.archs.basicvsr import BasicVSR, IconVSR, window_frames
from vsr.archs.blocks import checkpoint_activations
from vsr.registry import NETWORKS

ROOT = Path(__file__).parents[2]
NAMES = ["BasicVSR", "IconVSR"]
SMALL = {
    "BasicVSR": {"num_feat": 8, "num_block": 1},
    "IconVSR": {"num_feat": 8, "num_block": 1, "temporal_padding": 1, "keyframe_stride": 2},
}


def small(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    network = NETWORKS.build({"type": name, **SMALL[name], **arguments}).eval()
    for parameter in network.spynet.parameters():  # flows that matter
        parameter.data *= 1.5
    return network


@pytest.mark.parametrize(
    "model_id",
    [
        "basicvsr_tiny",
        "iconvsr_tiny",
        pytest.param("basicvsr_reds", marks=pytest.mark.slow),
        pytest.param("iconvsr_reds", marks=pytest.mark.slow),
    ],
)
def test_keys_in_their_order_and_outputs_are_the_official_ones(model_id: str) -> None:
    network, facts = build(model_id), manifest(model_id)
    assert state_of(network) == [tuple(entry) for entry in facts["state_dict"]]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    check_outputs(network, model_id)


@pytest.mark.parametrize("name", NAMES)
def test_without_detail_the_output_is_the_enlarged_clip(name: str) -> None:
    network = small(name)
    nn.init.zeros_(network.conv_last.weight)
    nn.init.zeros_(network.conv_last.bias)
    clip = torch.rand(2, 3, 3, 8, 12)
    expected = F.interpolate(clip.flatten(0, 1), scale_factor=4, mode="bilinear").unflatten(0, (2, 3))
    torch.testing.assert_close(network(clip), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 33)])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_clips_of_any_length_and_size_pass(name: str, size: tuple[int, int], frames: int) -> None:
    with torch.no_grad():
        out = small(name)(torch.rand(1, frames, 3, *size))
    assert out.shape == (1, frames, 3, 4 * size[0], 4 * size[1])
    assert out.isfinite().all()


def test_one_frame_meets_features_of_zero_in_both_directions() -> None:
    network, frame = small("BasicVSR"), torch.rand(1, 3, 8, 8)
    alone = torch.cat((frame, torch.zeros(1, 8, 8, 8)), 1)
    both = torch.cat((network.backward_trunk(alone), network.forward_trunk(alone)), 1)
    fused = F.leaky_relu(network.fusion(both), 0.1)
    torch.testing.assert_close(network(frame[None])[0], network._upsample(fused, frame))


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_sees_all_others(name: str) -> None:
    network = small(name)
    for i in range(4):
        clip = torch.rand(1, 4, 3, 8, 8, requires_grad=True)
        network(clip)[:, i].sum().backward()
        assert (clip.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_with_equal_directions_a_reversed_clip_gives_the_frames_in_reverse() -> None:
    network = small("BasicVSR")
    network.forward_trunk.load_state_dict(network.backward_trunk.state_dict())
    of_one_direction = network.fusion.weight.data[:, :8]
    network.fusion.weight.data = torch.cat((of_one_direction, of_one_direction), 1)
    clip = torch.rand(1, 5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(clip.flip(1)), network(clip).flip(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_clip_gives_what_it_gives_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.rand(1, 2, 3, 8, 8)
    clip, network = torch.cat((half, half.flip(1)), 1), small(name)
    with torch.no_grad():
        noticed = network(clip)
        monkeypatch.setattr(spynet, "_is_mirrored", lambda clip: False)
        torch.testing.assert_close(noticed, network(clip))


@pytest.mark.parametrize("name", NAMES)
def test_clips_kept_on_the_cpu_give_the_same_frames_and_gradients(name: str) -> None:
    plain, cached = small(name), small(name, cpu_cache_length=2)
    clip = torch.rand(1, 3, 3, 8, 8)
    for network in (plain, cached):
        network(clip).square().sum().backward()
    with torch.no_grad():
        assert torch.equal(plain(clip), cached(clip))
    for one, other in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_long_clip_on_a_gpu_comes_back_on_the_cpu(name: str) -> None:
    clip = torch.rand(1, 6, 3, 32, 32, device="cuda")
    plain, cached = small(name).cuda(), small(name, cpu_cache_length=5).cuda()
    with torch.no_grad():
        on_gpu, on_cpu = plain(clip), cached(clip)
    assert (on_gpu.device.type, on_cpu.device.type) == ("cuda", "cpu")
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-4)


def test_recomputed_trunks_keep_a_small_part_of_the_features() -> None:
    sizes = {}
    for recompute in (False, True):
        network = small("BasicVSR", num_block=10).train()
        if recompute:
            checkpoint_activations(network)
        saved: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.setdefault(id(t), t), lambda t: t):
            network(torch.rand(1, 3, 3, 8, 8))
        sizes[recompute] = sum(t.nbytes for t in saved.values() if t.dim() == 4 and t.shape[1:] == (8, 8, 8))
    assert sizes[True] < sizes[False] / 4


def test_windows_at_the_ends_of_a_clip_are_the_official_ones() -> None:
    # IconVSR's published weights: the clip is extended by frames 4 3 (6 5 4) before it, t-4 t-5 (t-5 t-6 t-7) behind.
    assert window_frames(7, 2) == [4, 3, 0, 1, 2, 3, 4, 5, 6, 3, 2]
    assert window_frames(7, 3) == [6, 5, 4, 0, 1, 2, 3, 4, 5, 6, 2, 1, 0]
    assert window_frames(3, 1) == [2, 0, 1, 2, 0]
    assert window_frames(2, 0) == [0, 1]
    assert window_frames(4, 2) == [0, 0, 0, 1, 2, 3, 3, 3]  # too short: the ends again
    assert window_frames(1, 2) == [0] * 5


@pytest.mark.parametrize(("frames", "stride", "expected"), [(1, 5, [0]), (5, 3, [0, 3, 4]), (5, 2, [0, 2, 4])])
def test_keyframes_are_every_so_many_and_the_last_one(frames: int, stride: int, expected: list[int]) -> None:
    network, clip = small("IconVSR", keyframe_stride=stride), torch.rand(1, frames, 3, 8, 8)
    found = dict(network._keyframes(clip))
    assert list(found) == expected
    shown = window_frames(frames, 1)
    for i, feature in found.items():
        torch.testing.assert_close(feature, network.edvr(clip[:, shown[i : i + 3]]))


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (BasicVSR, {"num_feat": 0}, "num_feat: expected a number from 1 up, got 0"),
        (BasicVSR, {"num_block": -1}, "num_block: expected a number from 0 up, got -1"),
        (BasicVSR, {"cpu_cache_length": -1}, "cpu_cache_length: expected a number from 0 up"),
        (IconVSR, {"num_feat": 12}, "num_feat: expected a multiple of 8"),
        (IconVSR, {"keyframe_stride": 0}, "keyframe_stride: expected a number from 1 up"),
        (IconVSR, {"temporal_padding": -1}, "temporal_padding: expected a number from 0 up"),
    ],
)
def test_arguments_that_make_no_network_are_named(network: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 2, 1, 8, 8), (1, 0, 3, 8, 8), (1, 2, 3, 0, 8)])
def test_what_is_no_clip_of_colour_frames_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected clips \(b, t, 3, h, w\), got"):
        small(name)(torch.rand(shape))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_gives_the_same_frames() -> None:
    network, clip = small("BasicVSR", num_block=0), torch.rand(1, 2, 3, 9, 10)
    compiled = torch.compile(network, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip), network(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_published_weights_reach_their_figure_on_a_real_video() -> None:
    cv2 = pytest.importorskip("cv2")
    from vsr.models.pretrained import FOLDER, TABLE
    from vsr.models.weights import load_network
    from vsr.utils.resize import imresize

    weights = ROOT / FOLDER / TABLE["basicvsr_reds4"].file
    if not weights.is_file():
        pytest.skip(f"{weights} is not there: python scripts/download_weights.py basicvsr_reds4")
    network = load_network(weights, {"type": "BasicVSR", "num_feat": 64, "num_block": 30})
    capture = cv2.VideoCapture(str(ROOT / "datasets/demo/bigbuckbunny.mp4"))
    decoded = [capture.read()[1] for _ in range(37)][30:]
    hr = [frame[200:456, 400:720, ::-1] / 255 for frame in decoded]
    lr = [torch.from_numpy(imresize(frame, 0.25)).clamp(0, 1).mul(255).round() / 255 for frame in hr]
    clip = torch.stack(lr).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        restored = network(clip[None])[0, 3]
    bicubic = F.interpolate(clip[3:4], scale_factor=4, mode="bicubic")[0]
    truth = torch.from_numpy(hr[3]).permute(2, 0, 1)
    psnr = [-10 * (image.clamp(0, 1) - truth).square().mean().log10().item() for image in (restored, bicubic)]
    # found with the official implementation and these weights
    assert psnr == pytest.approx([34.76, 31.28], abs=0.05)
