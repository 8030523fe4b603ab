"""FMA-Net's filters and warps against the official code's values, a naive form, and results known beforehand."""

import itertools
from collections.abc import Callable

import naive_fmanet as naive
import numpy as np
import pytest
import torch
from golden import fmanet_recipe as recipe
from torch import Tensor

from vsr.ops import dynamic_filter
from vsr.ops.dynamic_filter import down_filter, image_warp, multi_flow_warp, up_filter


def clip(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape))


GOLDEN: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "ddf_k20_s4": lambda x, kernel, occ: down_filter(x, kernel, occ, kernel_size=20, stride=4),
    "ddf_k8_s4_b2": lambda x, kernel, occ: down_filter(x, kernel, occ, kernel_size=8, stride=4),
    "duf_k3_s3_b2": lambda x, kernel: up_filter(x, kernel, kernel_size=3, scale=3),
    "duf_k5_s4": lambda x, kernel: up_filter(x, kernel, kernel_size=5, scale=4),
    "imgwarp_s1_rect": lambda x, f: image_warp(x, f, 1),
    "imgwarp_s4_rect": lambda x, f: image_warp(x, f, 4),
    "mfwarp_12_1": multi_flow_warp,
    "mfwarp_90_9": multi_flow_warp,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_values_and_gradients_are_those_of_the_official_code(name: str) -> None:
    manifest, gold = recipe.case(name)
    inputs = {spec["name"]: torch.from_numpy(recipe.make_input(spec)).requires_grad_() for spec in manifest["inputs"]}
    outputs = GOLDEN[name](*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for j, output in enumerate(outputs):
        weights = recipe.make_input({"seed": manifest["grad_seed"] + j, "shape": output.shape, "low": -1, "high": 1})
        (output * torch.from_numpy(weights)).sum().backward(retain_graph=True)
    found = {f"out{j}": output for j, output in enumerate(outputs)}
    found |= {f"grad.{key}": value.grad for key, value in inputs.items()}
    assert found.keys() == manifest["outputs"].keys()
    for key, spec in manifest["outputs"].items():
        expected = torch.from_numpy(gold[key])
        torch.testing.assert_close(found[key].detach(), expected, atol=spec["atol"], rtol=spec["rtol"], msg=key)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
# kernel, stride, frames, channels, of which the occlusion has, batch, height, width
DOWN = [(20, 4, 3, 3, 3, 1, 2, 3), (9, 3, 5, 3, 1, 2, 5, 3), (6, 2, 3, 2, 2, 1, 1, 7), (4, 4, 3, 3, 1, 1, 3, 3)]
DOWN += [(8, 4, 5, 1, 1, 2, 6, 2), (5, 3, 3, 3, 3, 1, 4, 4)]
UP = [(5, 4, 3, 3, 1, 4, 5), (3, 2, 5, 3, 2, 5, 3), (7, 3, 3, 1, 1, 2, 9), (1, 4, 3, 3, 2, 3, 3), (3, 1, 3, 2, 1, 1, 1)]


@pytest.mark.parametrize("tile", [600, 2**21])
@pytest.mark.parametrize("case", DOWN, ids=str)
def test_down_filter_is_the_naive_form_in_value_and_gradient(
    case: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_filter, "TILE", {"cpu": tile})
    k, s, t, c, seen, b, h, w = case
    frames, occlusion = clip(b, c, t, s * h, s * w), clip(b, seen, t, s * h, s * w, seed=1, low=0.05)
    given = [x.requires_grad_() for x in (frames, clip(b, k * k, t, h, w, seed=2, low=-3, high=3), occlusion)]
    out = down_filter(*given, kernel_size=k, stride=s)
    expected = naive.down_filter(given[0], given[1], given[2].expand_as(frames), k, s)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weights = clip(*out.shape, seed=3)
    for found, wanted in zip(
        torch.autograd.grad((out * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tile", [600, 2**21])
@pytest.mark.parametrize("case", UP, ids=str)
def test_up_filter_is_the_naive_form_in_value_and_gradient(
    case: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_filter, "TILE", {"cpu": tile})
    k, s, t, c, b, h, w = case
    given = [clip(b, c, t, h, w).requires_grad_(), clip(b, s * s * k * k, t, h, w, seed=1, low=-1).requires_grad_()]
    out, expected = up_filter(*given, kernel_size=k, scale=s), naive.up_filter(*given, k, s)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weights = clip(*out.shape, seed=3)
    for found, wanted in zip(
        torch.autograd.grad((out * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_some_rows_of_the_enlarged_image_are_those_of_the_whole() -> None:
    frames, kernels = clip(2, 3, 3, 9, 4), clip(2, 36, 3, 9, 4, seed=1)
    whole = up_filter(frames, kernels, kernel_size=3, scale=2)
    for first, last in ((0, 2), (2, 7), (7, 9)):
        part = up_filter(frames, kernels[..., first:last, :], kernel_size=3, scale=2, rows=slice(first, last))
        torch.testing.assert_close(part, whole[:, :, 2 * first : 2 * last])


def test_the_gradients_are_the_slopes() -> None:
    def given(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [clip(*shape, seed=i, low=0.1).requires_grad_() for i, shape in enumerate(shapes)]

    def down(*x: Tensor) -> Tensor:
        return down_filter(*x, kernel_size=4, stride=2)

    def up(*x: Tensor) -> Tensor:
        return up_filter(*x, kernel_size=3, scale=2)

    assert torch.autograd.gradcheck(down, given((1, 2, 3, 4, 2), (1, 16, 3, 2, 1), (1, 1, 3, 4, 2)), fast_mode=True)
    assert torch.autograd.gradcheck(up, given((1, 2, 3, 2, 1), (1, 36, 3, 2, 1)), fast_mode=True)

    def warp(*x: Tensor) -> tuple[Tensor, Tensor]:
        return image_warp(*x, 2)

    assert torch.autograd.gradcheck(warp, given((1, 2, 3, 6, 4), (1, 3, 3, 3, 2)), fast_mode=True)
    assert torch.autograd.gradcheck(multi_flow_warp, given((2, 4, 3, 4), (2, 6, 3, 4)), fast_mode=True)


def test_the_filters_are_sound_operators_of_pytorch() -> None:
    frames = clip(1, 2, 3, 6, 6).float().requires_grad_()
    logits = clip(1, 16, 3, 2, 2, seed=1).float().requires_grad_()
    torch.library.opcheck(dynamic_filter.down_filter_op, (frames, logits, 4, 2), test_utils=CHECKS)
    kernels = clip(1, 36, 3, 4, 4, seed=1).float().requires_grad_()
    torch.library.opcheck(dynamic_filter.up_filter_op, (frames, kernels, 3, 2), test_utils=CHECKS)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_of_a_transposed_clip_are_laid_out_as_is_foretold(size: int) -> None:
    frames = clip(1, 3, 2, 5, 4).float().transpose(1, 2)  # a kernel of one pixel pads nothing, and copies nothing
    kernels, grad = (
        clip(1, 4 * size**2, 3, 6 - size, 5 - size, seed=1).float(),
        clip(1, 2, 4, 6 - size, 5 - size).float(),
    )
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(dynamic_filter.up_filter_backward_op, (grad, frames, kernels, size, 2), test_utils=checks)
    assert dynamic_filter.up_filter_backward_op(grad, frames, kernels, size, 2)[0].is_contiguous()


@pytest.mark.parametrize("clips", [torch.bfloat16, torch.float32])
def test_bfloat16_kernels_cost_no_more_than_their_rounding(clips: torch.dtype) -> None:
    large, small = clip(1, 3, 3, 8, 12).to(clips), clip(1, 3, 3, 4, 6).to(clips)
    logits = clip(1, 64, 3, 2, 3, seed=1, low=-3, high=3).bfloat16()
    kernels = clip(1, 36, 3, 4, 6, seed=2, low=-1).bfloat16()
    tolerance = 1e-2 if clips == torch.bfloat16 else 1e-5
    out = down_filter(large, logits, torch.ones_like(large), kernel_size=8, stride=4)
    expected = naive.down_filter(large.double(), logits.double(), torch.ones_like(large).double(), 8, 4)
    assert out.dtype == clips
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    enlarged = up_filter(small, kernels, kernel_size=3, scale=2)
    expected = naive.up_filter(small.double(), kernels.double(), 3, 2)
    assert enlarged.dtype == clips
    torch.testing.assert_close(enlarged.double(), expected, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("images", [torch.bfloat16, torch.float32])
def test_a_flow_in_bfloat16_is_enlarged_in_float32(images: torch.dtype, scale: int) -> None:
    frames = clip(1, 3, 3, 8 * scale, 40 * scale).to(images)
    flow = clip(1, 3, 3, 8, 40, seed=1, low=-9, high=9).bfloat16()
    found, expected = image_warp(frames, flow, scale), image_warp(frames, flow.float(), scale)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == images
        assert torch.equal(ours, exact)


def test_large_logits_overflow_nowhere() -> None:
    frames, logits = clip(1, 3, 3, 8, 8).float(), torch.full((1, 64, 3, 2, 2), 1e4)
    torch.testing.assert_close(
        down_filter(frames, logits, torch.ones_like(frames), kernel_size=8, stride=4),
        down_filter(frames, torch.zeros_like(logits), torch.ones_like(frames), kernel_size=8, stride=4),
    )


def test_a_constant_clip_stays_that_constant() -> None:
    logits, kernels = clip(2, 64, 3, 3, 4, low=-3, high=3), clip(2, 100, 3, 3, 4, low=-1)
    occlusion = clip(2, 3, 3, 12, 16, low=0.05)
    out = down_filter(0.7 * occlusion, logits, occlusion, kernel_size=8, stride=4)
    torch.testing.assert_close(out, torch.full_like(out, 0.7), rtol=1e-6, atol=0)
    enlarged = up_filter(torch.full((2, 3, 3, 3, 4), 0.7, dtype=torch.float64), kernels, kernel_size=5, scale=2)
    torch.testing.assert_close(enlarged, torch.full_like(enlarged, 0.7))


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_clips_and_kernels_give_the_mirrored_image(axis: int) -> None:
    frames, occlusion = clip(1, 3, 3, 12, 16), clip(1, 1, 3, 12, 16, seed=1, low=0.1)
    logits = clip(1, 64, 3, 3, 4, seed=2, low=-3, high=3)

    def mirrored(kernels: Tensor, *sides: int) -> Tensor:
        parts = kernels.unflatten(1, sides)
        same = [dim for dim in range(1, 1 + len(sides)) if (len(sides) - dim) % 2 == (0 if axis == -1 else 1)]
        return parts.flip([*same, axis]).flatten(1, len(sides))

    out = down_filter(frames, logits, occlusion, kernel_size=8, stride=4)
    turned = down_filter(frames.flip(axis), mirrored(logits, 8, 8), occlusion.flip(axis), kernel_size=8, stride=4)
    torch.testing.assert_close(turned, out.flip(axis))
    small, kernels = clip(1, 3, 3, 3, 4), clip(1, 36, 3, 3, 4, seed=3)
    enlarged = up_filter(small, kernels, kernel_size=3, scale=2)
    turned = up_filter(small.flip(axis), mirrored(kernels, 2, 2, 3, 3), kernel_size=3, scale=2)
    torch.testing.assert_close(turned, enlarged.flip(axis))


@pytest.mark.parametrize("scale", [1, 4])
def test_no_flow_and_a_sure_mask_leave_frames_as_they_are(scale: int) -> None:
    frames = clip(2, 3, 3, 4 * scale, 5 * scale)
    flow = torch.zeros(2, 3, 3, 4, 5, dtype=torch.float64)
    flow[:, 2] = 20
    occlusion, moved = image_warp(frames, flow, scale)
    torch.testing.assert_close(moved, frames, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(occlusion, torch.ones_like(occlusion), rtol=1e-7, atol=0)


def test_whole_flows_shift_frames_and_each_group_of_features_by_its_own() -> None:
    frames = clip(1, 2, 3, 8, 12)
    flow = torch.full((1, 3, 3, 2, 3), 20.0, dtype=torch.float64)
    flow[:, 0], flow[:, 1] = 0.5, -0.25  # of pixels four times as large: two to the right, one up
    occlusion, moved = image_warp(frames, flow, 4)
    torch.testing.assert_close(moved[..., 1:, :-2], frames[..., :-1, 2:], rtol=1e-7, atol=1e-8)
    assert not moved[..., 0, :].any()
    assert not occlusion[..., -2:].any()
    features = clip(1, 4, 6, 7)
    flows = torch.zeros(1, 6, 6, 7, dtype=torch.float64)
    flows[:, 0], flows[:, 4], flows[:, 2::3] = 1, 2, 20
    shifted = multi_flow_warp(features, flows)
    torch.testing.assert_close(shifted[:, :2, :, :-1], features[:, :2, :, 1:], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(shifted[:, 2:, :-2], features[:, 2:, 2:], rtol=1e-7, atol=1e-8)


def test_a_clip_of_features_is_moved_as_its_frames_are() -> None:
    features, flows = clip(2, 6, 3, 4, 5), clip(2, 9, 3, 4, 5, seed=1, low=-2, high=2)
    moved = multi_flow_warp(features, flows)
    for frame in range(3):
        torch.testing.assert_close(moved[:, :, frame], multi_flow_warp(features[:, :, frame], flows[:, :, frame]))


@pytest.mark.slow  # the profiler writes down each of some thousand steps
def test_the_filters_allocate_far_less_than_what_they_filter_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_filter, "TILE", {"cpu": 2**17})
    large, small = clip(1, 3, 3, 64, 128).float().requires_grad_(), clip(1, 3, 3, 16, 32).float().requires_grad_()
    logits, kernels = (clip(1, 400, 3, 16, 32, seed=i).float().requires_grad_() for i in (1, 2))
    unfolded = 4 * 3 * 3 * 400 * 16 * 32  # bytes: all windows of all channels, and all products of the other filter
    ones = torch.ones(1, 1, 3, 64, 128)
    # the gradient of the kernels alone is a third of that
    assert peak(lambda: down_filter(large, logits, ones, kernel_size=20, stride=4).sum().backward()) < 0.85 * unfolded
    assert peak(lambda: up_filter(small, kernels, kernel_size=5, scale=4).sum().backward()) < 0.85 * unfolded
    assert peak(lambda: naive.up_filter(small, kernels, 5, 4).sum().backward()) > 1.6 * unfolded


def peak(work: Callable[[], object]) -> int:
    """The most bytes that some work has allocated at a time."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 3, 3, 8, 8), (1, 64, 3, 2, 2), (1, 2, 3, 8, 8)), "occlusion: expected the shape of frames"),
        (((1, 3, 3, 8, 8), (1, 64, 2, 2, 2), (1, 1, 3, 8, 8)), "logits: expected"),
        (((1, 3, 3, 8, 9), (1, 64, 3, 2, 2), (1, 1, 3, 8, 9)), "logits: expected"),
        (((1, 3, 3, 8, 8), (1, 36, 3, 2, 2), (1, 1, 3, 8, 8)), "logits: expected"),
        (((1, 3, 3, 8, 8), (1, 64, 3, 2), (1, 1, 3, 8, 8)), "logits: expected"),
        (((3, 3, 8, 8), (1, 64, 3, 2, 2), (3, 1, 8, 8)), "logits: expected"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        down_filter(*(clip(*shape) for shape in shapes), kernel_size=8, stride=4)


@pytest.mark.parametrize("channels", [0, 2, 4, 9])
def test_flows_that_are_not_of_whole_groups_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=r"flows: expected .* a divisor of the 4 channels"):
        multi_flow_warp(clip(2, 4, 3, 4), clip(2, channels, 3, 4))


@pytest.mark.parametrize("flow", [(1, 3, 2, 3, 4), (1, 2, 3, 3, 4), (1, 3, 3, 4, 4), (1, 3, 3, 4), (2, 3, 3, 3, 4)])
def test_flows_of_another_size_are_refused(flow: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"flow: expected \(b, 3, t, h, w\) for images \(b, c, t, 2\*h, 2\*w\)"):
        image_warp(clip(1, 3, 3, 6, 8), clip(*flow), 2)
    with pytest.raises(ValueError, match="flows: expected"):
        multi_flow_warp(clip(1, 3, 3, 3, 5), clip(*flow))


def test_kernels_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size: expected the stride 4, or an even number more, got 7"):
        down_filter(clip(1, 3, 3, 8, 8), clip(1, 49, 3, 2, 2), clip(1, 1, 3, 8, 8), kernel_size=7, stride=4)
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 4"):
        up_filter(clip(1, 3, 3, 2, 2), clip(1, 64, 3, 2, 2), kernel_size=4, scale=2)
    with pytest.raises(ValueError, match=r"frames: expected \(b, c, t, h, w\), got \(3, 3, 2, 2\)"):
        up_filter(clip(3, 3, 2, 2), clip(1, 36, 3, 2, 2), kernel_size=3, scale=2)
    with pytest.raises(ValueError, match="kernels: expected"):
        up_filter(clip(1, 3, 3, 2, 2), clip(1, 36, 3, 2, 2), kernel_size=3, scale=4)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# of each op: how it is called, and the shapes of what it is given; flows come last
OPS: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], tuple[tuple[int, ...], ...]]] = {
    "down_filter": (
        lambda x, seen, k: down_filter(x, k, seen, kernel_size=8, stride=4),
        ((2, 3, 3, 20, 28), (2, 1, 3, 20, 28), (2, 64, 3, 5, 7)),
    ),
    "up_filter": (lambda x, k: up_filter(x, k, kernel_size=5, scale=4), ((2, 3, 3, 5, 7), (2, 400, 3, 5, 7))),
    "image_warp": (lambda x, f: image_warp(x, f, 4), ((2, 3, 3, 20, 28), (2, 3, 3, 5, 7))),
    "multi_flow_warp": (multi_flow_warp, ((2, 6, 3, 5, 7), (2, 9, 3, 5, 7))),
}


@pytest.mark.cuda
@on_a_gpu
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", OPS)
def test_a_gpu_gives_the_values_and_gradients_of_the_cpu(name: str, dtype: torch.dtype, limit: float) -> None:
    function, shapes = OPS[name]
    # so small that no place is a whole pixel, where the slope of an image has a step
    given = [clip(*shape, seed=i, low=0.05, high=0.2).to(dtype) for i, shape in enumerate(shapes)]
    found = of_device(function, [x.cuda() for x in given])
    expected = of_device(function, [x.float() for x in given])
    for ours, exact in zip(found, expected, strict=True):
        assert ours.is_cuda
        assert ours.dtype == dtype
        error = (ours.cpu().float() - exact).abs().max() / exact.abs().max()
        assert error < limit


def of_device(function: Callable[..., Tensor | tuple[Tensor, ...]], given: list[Tensor]) -> list[Tensor]:
    """What an op gives, and the gradients of what it was given."""
    inputs = [x.requires_grad_() for x in given]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [clip(*out.shape, seed=9 + i, low=-1).to(out) for i, out in enumerate(outputs)]
    total = sum((out.float() * weight).sum() for out, weight in zip(outputs, weights, strict=True))
    assert isinstance(total, Tensor)
    return [*(out.detach() for out in outputs), *torch.autograd.grad(total, inputs)]


@pytest.mark.cuda
@on_a_gpu
def test_the_filters_and_their_gradients_take_less_than_half_of_the_memory_of_a_gpu() -> None:
    large, small = clip(1, 3, 3, 512, 512).float().cuda(), clip(1, 3, 3, 128, 128).float().cuda()
    kernels = clip(1, 400, 3, 128, 128, seed=1).float().cuda().requires_grad_()
    seen = torch.ones_like(large)
    forms: list[tuple[Callable[[], Tensor], Callable[[], Tensor]]] = [
        (
            lambda: down_filter(large, kernels, seen, kernel_size=20, stride=4),
            lambda: naive.down_filter(large, kernels, seen, 20, 4),
        ),
        (lambda: up_filter(small, kernels, kernel_size=5, scale=4), lambda: naive.up_filter(small, kernels, 5, 4)),
    ]
    for ours, plain in forms:
        assert peak_of_gpu(ours, kernels) < 0.5 * peak_of_gpu(plain, kernels)


def peak_of_gpu(work: Callable[[], Tensor], leaf: Tensor) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(work().sum(), leaf)
    return torch.cuda.max_memory_allocated() - before
