import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsr.config.schema import Component, DatasetOptions
from vsr.data.encodings import ENCODINGS
from vsr.data.fingerprint import differs, fingerprint, spread
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.loader import build_dataset
from vsr.registry import DATASETS
from vsr.utils.images import read_image, write_image


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Clips a and b of 3 and 40 frames of noise, GT 24 x 32 and LQ 6 x 8."""
    rng = np.random.default_rng(0)
    for clip, count in (("a", 3), ("b", 40)):
        for frame in range(count):
            for root, size in (("gt", (24, 32)), ("lq", (6, 8))):
                (tmp_path / root / clip).mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                write_image(tmp_path / root / clip / f"{frame}.png", image)
    return tmp_path


def built(roots: Path, kind: str = "VideoTestDataset", suffix: str = "", **arguments: Any) -> Any:
    given = {"dataroot_gt": str(roots / f"gt{suffix}"), "dataroot_lq": str(roots / f"lq{suffix}"), "scale": 4}
    if kind == "VideoTestDataset":
        given["num_frame"] = 3
    return DATASETS.build({"type": kind, **given, **arguments})


def test_it_is_what_the_documentation_defines(roots: Path) -> None:
    names = [f"a/{i}" for i in range(3)] + [f"b/{i}" for i in range(40)]
    digest = hashlib.sha256()
    for i in range(32):
        name = names[round(i * 42 / 31)]
        for root, size in (("gt", b"24x32\n"), ("lq", b"6x8\n")):
            digest.update(size + read_image(roots / root / f"{name}.png").tobytes())
    assert fingerprint(built(roots)) == f"v1-43-24x32-6x8-{digest.hexdigest()[:16]}"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_and_lmdbs_have_the_same(roots: Path, encoding: str) -> None:
    expected = fingerprint(built(roots))
    for root in ("gt", "lq"):
        make_lmdb(Recipe(str(roots / root), str(roots / f"{root}.lmdb"), encoding, tile=16))
    assert fingerprint(built(roots, suffix=".lmdb", io_backend={"type": "lmdb"})) == expected


def test_the_type_of_data_set_and_other_names_do_not_change_it(roots: Path) -> None:
    expected = fingerprint(built(roots))
    assert fingerprint(built(roots, "PairedImageDataset")) == expected
    assert fingerprint(built(roots, "PairedImageDataset", gt_size=16)) == expected
    for root in ("gt", "lq"):
        (roots / root / "b").rename(roots / root / "c")
    assert fingerprint(built(roots)) == expected


def test_what_is_chosen_and_every_pixel_of_the_sample_change_it(roots: Path) -> None:
    found = {
        fingerprint(built(roots)),
        fingerprint(built(roots, frames=[0, 1], num_frame=1)),
        fingerprint(built(roots, clips=["a"])),
    }
    found.add(fingerprint(built(roots, dataroot_lq=None)))
    image = read_image(roots / "lq/a/0.png")
    image[5, 7, 2] ^= 1
    write_image(roots / "lq/a/0.png", image)
    found.add(fingerprint(built(roots)))
    assert len(found) == 5
    assert {f.rpartition("-")[0] for f in found if f} == {
        "v1-43-24x32-6x8", "v1-4-24x32-6x8", "v1-3-24x32-6x8", "v1-43-24x32-none",
    }  # fmt: skip


def test_sizes_that_differ_within_the_sample_are_called_mixed(tmp_path: Path) -> None:
    for i, size in enumerate(((8, 8), (16, 8))):
        write_image(tmp_path / f"{i}.png", np.full((*size, 3), 7, np.uint8))
    found = fingerprint(DATASETS.build({"type": "PairedImageDataset", "dataroot_gt": str(tmp_path), "scale": 2}))
    assert found is not None
    assert found.startswith("v1-2-mixed-none-")


def test_a_set_of_sets_has_one_of_all_its_parts(roots: Path) -> None:
    class Mixed:
        def __init__(self, **parts: Any) -> None:
            self.parts = parts

    a, b = built(roots, clips=["a"]), built(roots, clips=["b"])
    assert fingerprint(Mixed(x=a, y=b)) == fingerprint(built(roots)) != fingerprint(Mixed(x=b, y=a))
    assert fingerprint(object()) is None


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ("v1-2-8x8-4x4-aa", "v1-2-8x8-4x4-aa", ""),
        ("v1-2-8x8-4x4-aa", None, ""),
        ("v1-2-8x8-4x4-aa", "v1-3-8x8-4x4-bb", "2 images, not 3"),
        ("v1-2-8x8-4x4-aa", "v1-2-8x9-4x4-bb", "sizes 8x8 and 4x4 of GT and LQ, not 8x9 and 4x4"),
        ("v1-2-8x8-4x4-aa", "v1-2-8x8-4x4-bb", "the same number and sizes, but other pixels"),
        ("v1-2-8x8-4x4-aa", "bb", "v1-IMAGES-GT-LQ-HASH is the form"),
        (None, "v1-2-8x8-4x4-aa", "this type of data set has none"),
    ],
)
def test_a_difference_is_put_into_words(found: str | None, expected: str | None, message: str) -> None:
    assert (message in differs(found, expected)) if message else differs(found, expected) == ""


def test_a_set_that_is_not_the_stated_one_is_told_of_when_it_is_built(
    roots: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = fingerprint(built(roots))
    shutil.rmtree(roots / "gt/a")
    shutil.rmtree(roots / "lq/a")
    arguments = {"dataroot_gt": str(roots / "gt"), "dataroot_lq": str(roots / "lq"), "num_frame": 3}
    for stated, told in ((right, True), (fingerprint(built(roots)), False), (None, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            section = DatasetOptions(dataset=Component(type="VideoTestDataset", args=arguments), fingerprint=stated)
            build_dataset(section, scale=4, seed=0, key="val")
        assert (f"datasets.val: fingerprint: expected {right}, got" in caplog.text) == told
        assert ("40 images, not 43" in caplog.text) == told


def test_a_sample_has_both_ends_and_nothing_twice() -> None:
    assert list(spread(range(100), 4)) == [0, 33, 66, 99]
    assert list(spread(range(3), 4)) == [0, 1, 2]
    assert list(spread([7], 4)) == [7]
    assert list(spread([], 4)) == []
