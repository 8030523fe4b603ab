"""tOF, and the other measures of FMA-Net's protocol, against the official values and by hand."""

import cv2
import numpy as np
import pytest
import torch
from golden.fmanet_recipe import case, noisy, smooth_image

from vsr import metrics


@pytest.fixture(scope="module")
def frames() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two neighbouring frames, restored and true, B, G, R."""
    spec, _ = case("metrics_a")
    first = smooth_image(spec["seed"], spec["h"], spec["w"])
    targets = [first, np.roll(first, (1, 2), (0, 1))]
    return [noisy(t, spec["seed"] + 2 + i, spec["sigma"]) for i, t in enumerate(targets)], targets


def test_tof_equals_the_official_value(frames: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    expected = float(case("metrics_a")[1]["tOF"])
    restored, targets = (tuple(pair) for pair in frames)
    assert metrics.build({"type": "calculate_tof"})(restored, targets) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("rgb_psnr_b4", {"type": "calculate_psnr", "crop_border": 4}),
        ("rgb_psnr_b0", {"type": "calculate_psnr"}),
        ("y_psnr_b4_correct", {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}),
        ("ssim_b4", {"type": "calculate_ssim", "crop_border": 4}),
    ],
)
def test_what_is_measured_frame_by_frame_equals_the_official_values(
    frames: tuple[list[np.ndarray], list[np.ndarray]], name: str, option: dict[str, object]
) -> None:
    expected = float(case("metrics_a")[1][name])
    assert metrics.build(option)(frames[0][0], frames[1][0]) == pytest.approx(expected, abs=2e-5)


def test_tensors_have_the_value_of_the_same_frames_as_arrays(frames: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    metric = metrics.build({"type": "calculate_tof"})
    tensors = [[torch.from_numpy(f[..., ::-1].copy()).permute(2, 0, 1) / 255 for f in part] for part in frames]
    expected = metric(*map(tuple, frames))
    assert metric(*map(tuple, tensors)) == metric(*[[t[None] for t in part] for part in tensors]) == expected > 0
    assert metric(tuple(frames[0]), tuple(tensors[1])) == expected
    chw = [[f.transpose(2, 0, 1) for f in part] for part in frames]
    assert metrics.build({"type": "calculate_tof", "input_order": "CHW"})(*chw) == expected


def test_what_is_no_pair_of_frames_is_refused() -> None:
    metric, frame = metrics.build({"type": "calculate_tof"}), np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"restored: expected two frames, .* got ndarray"):
        metric(frame, frame)
    with pytest.raises(ValueError, match=r"target: expected two frames, .* got 3 of them"):
        metric((frame, frame), (frame,) * 3)
    for other in (frame[..., 0], "frame"):
        with pytest.raises(ValueError, match="expected frames of three axes, or tensors"):
            metric((frame, other), (frame, frame))
    with pytest.raises(ValueError, match=r"expected float \(3, h, w\)"):
        metric((frame, torch.zeros(3, 64, 64, dtype=torch.uint8)), (frame, frame))


def moving(step: int, noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB frames of 112x144 cut from one picture, the second ``step`` pixels to the right of the first."""
    picture = smooth_image(noise, 112, 200)
    return np.ascontiguousarray(picture[:, 20:164]), np.ascontiguousarray(picture[:, 20 + step : 164 + step])


def test_a_motion_that_is_missing_counts_by_its_length() -> None:
    target, still = moving(3), (moving(3)[0],) * 2
    metric = metrics.build({"type": "calculate_tof"})
    assert metric.measure(target[1], target[1], (target[0], target[0])) == 0
    assert metric.measure(still[1], target[1], (still[0], target[0])) == pytest.approx(3, abs=0.3)


def test_only_the_middle_counts_in_multiples_of_32_that_leave_out_16() -> None:
    """Of 112x144 that is 96x128 from row 8 and column 8 on: by hand, with Farneback's flows of the whole frames."""
    target, other = moving(3), moving(2, noise=5)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (*other, *target)]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in (grey[:2], grey[2:])]
    by_hand = np.linalg.norm(flows[0] - flows[1], axis=-1)[8:104, 8:136].mean()
    value = metrics.build({"type": "calculate_tof"}).measure(other[1], target[1], (other[0], target[0]))
    assert value == pytest.approx(float(by_hand), rel=1e-6)


def test_frames_that_do_not_fit_are_refused() -> None:
    metric = metrics.build({"type": "calculate_tof"})
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 48 x 48"):
        metric.measure(frame[:47], frame[:47], (frame[:47], frame[:47]))
    assert metric.measure(frame[:48], frame[:48], (frame[:48], frame[:48])) == 0
    with pytest.raises(ValueError, match="of one size"):
        metric.measure(frame, frame, (frame, frame[:50]))
    with pytest.raises(ValueError, match="of one size"):
        metric.measure(frame, frame, (frame.astype(np.float32), frame))
    with pytest.raises(ValueError, match="3 channels"):
        metric.measure(*[np.zeros((64, 64, 6), np.uint8)] * 2, (np.zeros((64, 64, 6), np.uint8),) * 2)
    with pytest.raises(ValueError, match="input_order"):
        metrics.build({"type": "calculate_tof", "input_order": "CWH"})
