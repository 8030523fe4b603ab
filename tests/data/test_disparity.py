"""Files of true disparity: the formats written byte by byte, where they are looked for, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from stereo_pairs import made_pair, write_pair

from vsr.data.check_names import roots_of
from vsr.data.disparity import find_disparities, read_disparity
from vsr.data.paired_stereo_image import PairedStereoImageDataset
from vsr.utils.images import write_image

KNOWN = np.array([[1.5, 2.25, 0], [30, 0.00390625, 255.5]], np.float32)  # multiples of 1/256, one unknown


def write_pfm(path: Path, rows: np.ndarray, *, scale: float = -1.0, kind: str = "Pf") -> None:
    """Write a PFM number by number, the last row first; a scale below 0 says that the lowest byte comes first."""
    height, width = rows.shape
    body = b"".join(struct.pack("<f" if scale < 0 else ">f", value) for row in rows[::-1] for value in row)
    path.write_bytes(f"{kind}\n{width} {height}\n{scale}\n".encode() + body)


@pytest.mark.parametrize("scale", [-1.0, 1.0, -0.003922, 64.0])
def test_a_pfm_is_read_from_the_bottom_in_either_order_and_not_multiplied(tmp_path: Path, scale: float) -> None:
    rows = KNOWN.copy()
    rows[0, 2] = np.inf  # Middlebury's unknown
    write_pfm(tmp_path / "a.pfm", rows, scale=scale)
    np.testing.assert_array_equal(read_disparity(tmp_path / "a.pfm", (2, 3)), KNOWN)


def test_a_png_holds_256ths(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), (KNOWN * 256).astype(np.uint16))
    np.testing.assert_array_equal(read_disparity(tmp_path / "a.png", (2, 3)), KNOWN)


@pytest.mark.parametrize("unknown", [0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_array_holds_pixels(tmp_path: Path, unknown: float, kind: type) -> None:
    rows = KNOWN.astype(kind)
    rows[0, 2] = unknown
    np.save(tmp_path / "a.npy", rows)
    got = read_disparity(tmp_path / "a.npy", (2, 3))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, KNOWN)


def test_files_lie_beside_one_another_or_in_the_folders_of_their_pairs(tmp_path: Path) -> None:
    (tmp_path / "b" / "0002").mkdir(parents=True)
    for name in ("0001.png", "b/0002/disp0.pfm", "0003.npy"):
        (tmp_path / name).touch()
    found = find_disparities(str(tmp_path), ["0003", "b/0002", "0001"])
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found.values()] == [
        "0003.npy", "b/0002/disp0.pfm", "0001.png",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"for each pair, got none for 2 of 3: 0004, 0005\. Add them"):
        find_disparities(str(tmp_path), ["0001", "0004", "0005"])
    (tmp_path / "0001.npy").touch()
    with pytest.raises(ValueError, match=r"one file for the pair 0001 in .*, got 0001.npy and 0001.png\. Remove"):
        find_disparities(str(tmp_path), ["0001"])
    with pytest.raises(FileNotFoundError, match="dataroot_disparity: expected an existing file or folder"):
        find_disparities(str(tmp_path / "nowhere"), ["0001"])


def pfm(text: bytes) -> Any:
    return lambda path: path.write_bytes(text)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda p: cv2.imwrite(str(p), KNOWN.astype(np.uint8)), r"PNG of 16 bits grey .* got uint8 \(2, 3\)"),
        ("a.png", lambda p: cv2.imwrite(str(p), np.ones((2, 3, 3), np.uint16)), r"got uint16 \(2, 3, 3\)"),
        ("a.png", lambda p: p.write_bytes(b"no picture"), "expected 1 to [0-9]+ pixels, got 0"),
        ("a.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\xff" * 8), "expected 1 to .* pixels"),
        ("a.pfm", lambda p: write_pfm(p, KNOWN, kind="PF"), "PFM of one channel"),
        ("a.pfm", pfm(b""), "PFM of one channel"),
        ("a.pfm", pfm(b"Pf\n3 2\n-1\n" + bytes(23)), "expected 24 bytes of values, got 23"),
        ("a.pfm", pfm(b"Pf\n3 2\n-1-\n" + bytes(24)), "expected a number as the PFM's scale, got -1-"),
        ("a.pfm", pfm(b"Pf\n999999999 999999999\n-1\n"), "expected 1 to [0-9]+ pixels, got 99999999800"),
        ("a.npy", lambda p: p.write_bytes(b"\x80\x04K\x01."), "expected a NumPy array of numbers"),
        ("a.npy", lambda p: np.save(p, np.array([[object()]]), allow_pickle=True), "expected a NumPy array of numbers"),
        ("a.npy", lambda p: np.save(p, KNOWN[None]), r"array \(h, w\) of numbers, got float32 \(1, 2, 3\)"),
        ("a.npy", lambda p: np.save(p, KNOWN > 1), r"array \(h, w\) of numbers, got bool \(2, 3\)"),
        ("a.npy", lambda p: np.save(p, KNOWN.T), "expected disparities of the left view's size, 2x3, got 3x2"),
        ("a.npy", lambda p: np.save(p, -KNOWN), r"expected disparities from 0 on, x_left - x_right, got -255.5"),
        ("a.npy", lambda p: np.save(p, 0 * KNOWN), "expected some disparity that is known, got none"),
        ("a.npy", lambda p: p.mkdir(), "expected disparities, got a folder"),
        ("a.npy", lambda p: None, "expected disparities, got no file"),
    ],
)  # fmt: skip
def test_what_is_no_disparity_is_refused_with_the_files_name(
    tmp_path: Path, name: str, write: Any, message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name}: .*{message}"):
        read_disparity(tmp_path / name, (2, 3))


# --- in a data set -----------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs of 24 x 66 with their disparities."""
    for number in (1, 2):
        write_pair(tmp_path / "hr", f"000{number}", *made_pair((24, 66), disparity=number), scale=2)
        np.save(tmp_path / f"000{number}.npy", np.full((24, 66), number + 0.5))
    return tmp_path


def opened(root: Path, **arguments: Any) -> PairedStereoImageDataset:
    given = {"dataroot_gt": str(root / "hr"), "dataroot_lq": str(root / "hr"), "scale": 2}
    return PairedStereoImageDataset(**{**given, "dataroot_disparity": str(root), **arguments})


def test_a_sample_has_the_disparity_of_its_gt(pairs: Path) -> None:
    dataset = opened(pairs)
    for index in range(2):
        disparity = dataset[index]["disparity"]
        assert disparity.dtype == torch.float32
        assert torch.equal(disparity, torch.full((24, 66), index + 1.5))
    assert "disparity" not in opened(pairs, dataroot_disparity=None)[0]


def test_it_is_cropped_as_gt_that_has_a_row_to_spare(pairs: Path) -> None:
    folder = pairs / "odd" / "0001"
    folder.mkdir(parents=True)
    for side in (0, 1):
        write_image(folder / f"hr{side}.png", np.zeros((25, 67, 3), np.uint8))
    known = np.arange(1, 1 + 25 * 67).reshape(25, 67)
    np.save(pairs / "odd" / "0001.npy", known)
    sample = opened(pairs, dataroot_gt=str(pairs / "odd"), dataroot_lq=None, dataroot_disparity=str(pairs / "odd"))[0]
    assert sample["gt"].shape == (6, 24, 66)
    assert torch.equal(sample["disparity"], torch.from_numpy(known[:24, :66]).float())


def test_files_of_another_size_are_refused_when_the_set_is_opened(pairs: Path) -> None:
    np.save(pairs / "0002.npy", np.ones((12, 33)))
    with pytest.raises(ValueError, match=r"0002.npy: expected disparities of the left view's size, 24x66, got 12x33"):
        opened(pairs)


def test_the_check_of_a_set_looks_for_no_images_there() -> None:
    assert roots_of({"dataroot_gt": "a", "dataroot_disparity": "b", "dataroot_lq": None}) == {"dataroot_gt": ["a"]}


@pytest.mark.parametrize("arguments", [{"gt_size_h": 8, "gt_size_w": 16}, {"dataroot_gt": None}])
def test_sets_that_nothing_is_measured_on_have_no_use_for_it(pairs: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="dataroot_disparity: expected a set of whole pairs with GT to measure on"):
        opened(pairs, **arguments)


def test_a_map_is_cropped_as_prepared_views_are(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).uniform(1, 9, (45, 62)).astype(np.float32)
    np.save(tmp_path / "a.npy", whole)
    assert np.array_equal(read_disparity(tmp_path / "a.npy", (40, 60)), whole[:40, :60])
    with pytest.raises(ValueError, match=r"a.npy: expected disparities of the left view's size, 40x40, got 45x62"):
        read_disparity(tmp_path / "a.npy", (40, 40))
