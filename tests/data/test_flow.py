"""Flow files and DIS: what they are called, which way they point, and what is refused."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vsr.data.augment import Flips, Flow
from vsr.data.flow import PRESETS, default_flow_root, dis_flow, flow_name, flow_pairs, read_flow, write_flow
from vsr.ops.warp import flow_warp
from vsr.utils.images import Frame

BUNNY = Path(__file__).parents[2] / "datasets/demo/bigbuckbunny.mp4"
SIZE = (180, 320)


def texture(height: int, width: int, seed: int = 0) -> Frame:
    """Smooth noise: every place looks different from its neighbourhood."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]


def moved(height: int = 96, width: int = 128, dx: int = 3, dy: int = -2) -> tuple[Frame, Frame]:
    """Two frames: what is at p in the first is at p + (dx, dy) in the second."""
    large = texture(height + 20, width + 20)
    cut = [large[10 - y : 10 - y + height, 10 - x : 10 - x + width] for x, y in ((0, 0), (dx, dy))]
    return np.ascontiguousarray(cut[0]), np.ascontiguousarray(cut[1])


def error_after(flow: Flow, centre: Frame, neighbour: Frame) -> float:
    """Mean absolute difference of grey levels, away from the border, once the neighbour is warped."""
    image = torch.from_numpy(neighbour).permute(2, 0, 1)[None].float()
    warped = flow_warp(image, torch.from_numpy(flow)[None], padding_mode="border")[0].permute(1, 2, 0).numpy()
    return float(np.abs(warped - centre)[12:-12, 12:-12].mean())


# --- names ---------------------------------------------------------------------------------------


def test_a_file_is_named_after_the_centre_and_the_neighbour() -> None:
    assert flow_name("00000001", "00000000") == "00000001_00000000.npy"


def test_inner_frames_get_a_flow_to_both_neighbours() -> None:
    assert flow_pairs(4) == [(1, 0), (1, 2), (2, 1), (2, 3)]
    assert flow_pairs(5, distance=2) == [(2, 0), (2, 1), (2, 3), (2, 4)]
    assert flow_pairs(2) == []
    assert flow_pairs(3, ends=True) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert flow_pairs(1, ends=True) == []
    assert flow_pairs(2, distance=3, ends=True) == [(0, 1), (1, 0)]
    with pytest.raises(ValueError, match="distance: expected 1 or more"):
        flow_pairs(5, distance=0)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        # where FMA-Net's data loader looks, for archives unpacked into folders of their own and for flat folders
        ("/d/train_sharp_bicubic/train/train_sharp_bicubic/X4", "/d/train_flow_bicubic/train/train_flow_bicubic/X4"),
        ("/d/val_sharp_bicubic/val/val_sharp_bicubic/X4/", "/d/val_flow_bicubic/val/val_flow_bicubic/X4"),
        ("/d/REDS/train_sharp_bicubic/X4", "/d/REDS/train_flow_bicubic/X4"),
        ("/d/REDS/train_sharp", "/d/REDS/train_flow"),
        # what only holds the word stays as it is
        ("/home/sharp/my_sharp_films", "/home/sharp/my_sharp_films_flow"),
        ("/train_sharp/val_sharp_bicubic/X4", "/train_sharp/val_flow_bicubic/X4"),
        ("/d/clips.lmdb", "/d/clips_flow"),
    ],
)
def test_flows_go_where_fma_net_looks_for_them_and_else_beside_the_root(root: str, expected: str) -> None:
    assert default_flow_root(root) == Path(expected)


def test_a_relative_root_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train_sharp").mkdir()
    monkeypatch.chdir(tmp_path / "train_sharp")
    assert default_flow_root(".") == tmp_path / "train_flow"


# --- files ---------------------------------------------------------------------------------------


def test_a_flow_survives_its_file_which_is_as_fma_net_has_it(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    path = tmp_path / "1_0.npy"
    write_flow(path, flow)
    stored = np.load(path)
    assert (stored.shape, stored.dtype.str) == ((5, 7, 2), "<f4")
    np.testing.assert_array_equal(stored[3, 4], flow[:, 3, 4])  # dx, dy of a pixel lie together
    read = read_flow(path, (5, 7))
    np.testing.assert_array_equal(read, flow)
    assert read.dtype == np.float32
    read[:] = 0  # it is the reader's own
    np.testing.assert_array_equal(read_flow(path, (5, 7)), flow)
    assert os.listdir(tmp_path) == ["1_0.npy"]


def saved(array: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, flow=np.zeros((4, 6, 2), np.float32))
    return file.getvalue()


def with_bad(value: float) -> bytes:
    flow = np.zeros((4, 6, 2), np.float32)
    flow[2, 1, 0] = value
    return saved(flow)


GOOD = saved(np.zeros((4, 6, 2), np.float32))
HUGE = GOOD.replace(b"(4, 6, 2), }  ", b"(10**9, 6, 2),}")
ENORMOUS = GOOD.replace(b"(4, 6, 2), }      ", b"(900000000, 6, 2),}")

BAD: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "could not read it"),
    "text": (b"<html>404</html>" * 20, "could not read it"),
    "truncated": (GOOD[:-1], "could not read it"),
    "header only": (GOOD[:128], "could not read it"),
    "half a header": (GOOD[:40], "could not read it"),
    "a header of code": (HUGE, "could not read it"),
    "a header of 43 GB": (ENORMOUS, "could not read it"),
    "pickled object": (saved(np.array([{"a": 1}], object), allow_pickle=True), "could not read it"),
    "archive": (archive(), "got an archive"),
    "cut archive": (archive()[:90], "could not read it"),
    "float64": (saved(np.zeros((4, 6, 2))), "got float64"),
    "big endian": (saved(np.zeros((4, 6, 2), ">f4")), "got >f4"),
    "wrong size": (saved(np.zeros((6, 4, 2), np.float32)), r"expected float32 \(4, 6, 2\).*\(6, 4, 2\)"),
    "channels first": (saved(np.zeros((2, 4, 6), np.float32)), r"got float32 \(2, 4, 6\)"),
    "one number": (saved(np.float32(1)), r"got float32 \(\)"),
    "NaN": (with_bad(float("nan")), "got 1 others"),
    "infinity": (with_bad(float("-inf")), "got 1 others"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_name_with_advice(kind: str, tmp_path: Path) -> None:
    data, message = BAD[kind]
    assert data != GOOD
    path = tmp_path / "1_0.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_flow(path, (4, 6))
    assert str(caught.value).startswith(f"{path}: ")
    assert "scripts/generate_flow.py" in str(caught.value)


def test_a_missing_file_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"1_0\.npy: expected a flow file, got none\. Make"):
        read_flow(tmp_path / "1_0.npy", (4, 6))


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (np.zeros((2, 4, 6)), "got float64"),
        (np.zeros((4, 6, 2), np.float32), r"got float32 \(4, 6, 2\)"),
        (np.zeros((2, 0, 6), np.float32), r"got float32 \(2, 0, 6\)"),
        (np.full((2, 4, 6), np.nan, np.float32), "got 48 other numbers; it was not written"),
    ],
)
def test_what_could_not_be_read_is_not_written(flow: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_flow(tmp_path / "1_0.npy", flow)
    assert os.listdir(tmp_path) == []


# --- DIS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (-4, 1), (0, 0)])
def test_dis_finds_a_shift(dx: int, dy: int) -> None:
    centre, neighbour = moved(dx=dx, dy=dy)
    flow = dis_flow(centre, neighbour)
    assert flow.shape == (2, 96, 128)
    assert flow.dtype == np.float32
    assert np.median(flow[0]) == pytest.approx(dx, abs=0.2)
    assert np.median(flow[1]) == pytest.approx(dy, abs=0.2)


def test_reading_the_neighbour_where_the_flow_points_gives_the_centre() -> None:
    centre, neighbour = moved()
    flow = dis_flow(centre, neighbour)
    plain = error_after(np.zeros_like(flow), centre, neighbour)
    assert error_after(flow, centre, neighbour) < 0.1 * plain
    assert error_after(-flow, centre, neighbour) > plain


@pytest.fixture(scope="module")
def bunny() -> list[Frame]:
    """Three real frames, reduced as the low resolution of a data set is; something moves in them."""
    capture = cv2.VideoCapture(str(BUNNY))
    decoded = [capture.read()[1] for _ in range(36)][30:36:2]
    return [cv2.cvtColor(cv2.resize(f, SIZE[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB) for f in decoded]  # type: ignore[misc]


@pytest.mark.parametrize("neighbour", [0, 2])
def test_on_real_frames_too(bunny: list[Frame], neighbour: int) -> None:
    flow = dis_flow(bunny[1], bunny[neighbour])
    plain = error_after(np.zeros_like(flow), bunny[1], bunny[neighbour])
    assert error_after(flow, bunny[1], bunny[neighbour]) < 0.75 * plain
    assert error_after(-flow, bunny[1], bunny[neighbour]) > plain


@pytest.mark.parametrize("flips", [Flips(True), Flips(False, True), Flips(True, True), Flips(False, False, True)])
def test_the_flow_of_flipped_frames_is_the_flipped_flow(bunny: list[Frame], flips: Flips) -> None:
    def flipped(frame: Frame) -> Frame:
        return np.ascontiguousarray(flips.apply(frame.transpose(2, 0, 1)).transpose(1, 2, 0))

    expected = flips.apply_flow(dis_flow(bunny[1], bunny[2]))
    found = dis_flow(flipped(bunny[1]), flipped(bunny[2]))
    inside = (slice(None), slice(16, -16), slice(16, -16))
    assert np.median(np.abs(found - expected)[inside]) < 0.05
    wrongly = flips.apply(dis_flow(bunny[1], bunny[2]))  # type: ignore[arg-type]  # the vectors not turned
    assert np.abs(found - wrongly)[inside].mean() > 2 * np.abs(found - expected)[inside].mean()


def test_a_better_preset_warps_better(bunny: list[Frame]) -> None:
    errors = [error_after(dis_flow(bunny[1], bunny[2], preset), bunny[1], bunny[2]) for preset in PRESETS]
    assert errors[2] < min(errors[:2])


# 10 x 200 ends the process, 8 x 200 gives NaN and 8 x 8 an error where OpenCV sees them as they are
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (8, 200), (10, 200), (24, 100), (200, 8), (12, 700), (33, 32)])
def test_small_and_narrow_frames_have_a_flow(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    for preset in PRESETS:
        flow = dis_flow(frames[0], frames[1], preset)
        assert flow.shape == (2, *size)
        assert np.isfinite(flow).all()


def test_frames_without_texture_do_not_move() -> None:
    plain = np.full((40, 50, 3), 7, np.uint8)
    assert not dis_flow(plain, plain).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"neighbour": a[:-1]}, "two frames .* of one size"),
        (lambda a: {"centre": a[..., 0], "neighbour": a[..., 0]}, "two frames"),
        (lambda a: {"centre": a[:0], "neighbour": a[:0]}, "two frames"),
        (lambda a: {"centre": a.astype(np.float32)}, "expected uint8, got float32"),
        (lambda a: {"preset": "mediun"}, "Did you mean 'medium'"),
    ],
)
def test_other_frames_and_presets_are_refused(change: Callable[[Frame], dict[str, Any]], message: str) -> None:
    frame = texture(20, 20)
    with pytest.raises(ValueError, match=message):
        dis_flow(**({"centre": frame, "neighbour": frame} | change(frame)))
