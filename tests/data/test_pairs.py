import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vsr.data import pairs
from vsr.data.augment import Region
from vsr.data.pairs import PairReader
from vsr.data.storage import DiskStorage
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

Planes = npt.NDArray[np.uint8]


def reader(**arguments: Any) -> PairReader:
    return PairReader(**({"storage": DiskStorage(), "scale": 4} | arguments))


def frame(root: Path, number: int) -> str:
    return str(root / "a" / f"{number}.png")


def definition(path: str, scale: int, gt_downscale: int) -> tuple[Planes, Planes]:
    """GT and LQ of a file by whole frames: reduce, crop to a multiple of the scale, reduce again."""
    gt = read_image(path)
    if gt_downscale > 1:
        gt = imresize(gt, 1 / gt_downscale)
    gt = gt[: gt.shape[0] // scale * scale, : gt.shape[1] // scale * scale]
    return gt.transpose(2, 0, 1), imresize(gt, 1 / scale).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["fresh", "whole frame read before", "preloaded"])
@pytest.mark.parametrize(("scale", "gt_downscale"), [(4, 1), (3, 1), (2, 2), (3, 2), (2, 3)])
def test_a_part_is_exactly_that_part_of_the_whole(textured: Path, scale: int, gt_downscale: int, kind: str) -> None:
    path = frame(textured, 0)
    gt, lq = definition(path, scale, gt_downscale)
    source = reader(scale=scale, gt_downscale=gt_downscale)
    pair = source.pair(path, None)
    assert pair.size == lq.shape[1:]
    if kind == "preloaded":
        source.preload([(pair, True)], where="test")
    elif kind == "whole frame read before":
        np.testing.assert_array_equal(source.lq(pair), lq)
        np.testing.assert_array_equal(source.gt(pair), gt)
    height, width = pair.size
    for region in (
        Region(0, 0, 3, 3),
        Region(height - 4, width - 3, 4, 3),
        Region(2, 3, 3, 2),
        Region(0, 0, height, width),
    ):
        np.testing.assert_array_equal(source.lq(pair, region), region.of(lq))
        np.testing.assert_array_equal(source.gt(pair, region), region.scaled(scale).of(gt))


def test_a_preloaded_frame_is_not_read_again(textured: Path) -> None:
    source = reader()
    pair = source.pair(frame(textured, 1), None)
    gt, lq = definition(frame(textured, 1), 4, 1)
    source.preload([(pair, True)], where="test")
    shutil.rmtree(textured)
    np.testing.assert_array_equal(source.gt(pair), gt)
    np.testing.assert_array_equal(source.lq(pair), lq)


def test_overlapping_windows_read_a_frame_once(textured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = reader(keep=4)
    read: list[str] = []
    monkeypatch.setattr(source.storage, "read", lambda path: read.append(path) or read_image(path))
    frames = [source.pair(frame(textured, i), None) for i in range(4)]
    for centre in range(1, 3):
        for i in range(centre - 1, centre + 2):
            source.lq(frames[i])
        source.gt(frames[centre])
    assert len(read) == 4


def test_more_than_fits_in_memory_is_not_preloaded(textured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = reader()
    pair = source.pair(frame(textured, 0), None)
    monkeypatch.setattr(pairs, "free_memory", lambda: 3 * (10 * 14 + 40 * 56) - 1)  # one byte short
    with pytest.raises(ValueError, match=r"cache_data: expected room for the frames of test.*Set cache_data: false"):
        source.preload([(pair, True)], where="test")
    source.preload([(pair, False)], where="test")  # LQ alone fits


def test_gt_that_is_larger_by_less_than_an_lq_pixel_is_cropped_or_refused(textured: Path, tmp_path: Path) -> None:
    path = frame(textured, 0)  # 43 x 58
    gt, lq = definition(path, 4, 1)
    write_image(str(tmp_path / "lq.png"), np.ascontiguousarray(lq.transpose(1, 2, 0)))
    lenient = reader(exact=False)
    pair = lenient.pair(path, str(tmp_path / "lq.png"))
    np.testing.assert_array_equal(lenient.gt(pair), gt)
    np.testing.assert_array_equal(lenient.lq(pair), lq)
    with pytest.raises(ValueError, match=r"0.png: expected a GT of 4 x 10x14 \(scale x LQ\), got 43x58"):
        reader(exact=True).pair(path, str(tmp_path / "lq.png"))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [(10, 13), (11, 14), (9, 14)])
def test_gt_and_lq_of_other_sizes_are_refused(
    textured: Path, tmp_path: Path, size: tuple[int, int], exact: bool
) -> None:
    write_image(str(tmp_path / "lq.png"), np.zeros((*size, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"expected a GT of 4 x {size[0]}x{size[1]}"):
        reader(exact=exact).pair(frame(textured, 0), str(tmp_path / "lq.png"))


def test_a_frame_of_another_size_than_its_clip_is_refused_when_read(textured: Path) -> None:
    other = frame(textured, 1)
    write_image(other, np.zeros((43, 62, 3), np.uint8))
    source = reader()
    pair = source.pair(frame(textured, 0), None)
    for read in (source.gt, source.lq):
        with pytest.raises(ValueError, match=r"1\.png: expected a GT of 4 x 10x14 .* got 43x62\. The frames of a clip"):
            read(pair._replace(gt=other))
    with pytest.raises(ValueError, match=r"1\.png: expected 43x58 like .*, got 43x62"):
        source.lq(source.pair(None, frame(textured, 0))._replace(lq=other))


def test_an_image_smaller_than_one_lq_pixel_is_refused(textured: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.png: expected at least 64 pixels a side at scale 64, got 43x58"):
        reader(scale=64).pair(frame(textured, 0), None)


@pytest.mark.parametrize("argument", ["scale", "gt_downscale"])
def test_factors_below_one_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected 1 or more, got 0"):
        reader(**{argument: 0})
