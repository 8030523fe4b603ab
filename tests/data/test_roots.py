"""Several roots in one data set: clips and images of one name stay apart; folders and LMDBs stand beside each other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.storage import pair_roots
from vsr.registry import DATASETS
from vsr.utils.images import write_image

KINDS = ("VideoTrainDataset", "VideoRecurrentTrainDataset", "PairedImageDataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Roots reds and own, both with clips 000 and 001 of five frames of noise, GT 32 x 48 and LQ 8 x 12."""
    rng = np.random.default_rng(1)
    for root in ("reds", "own"):
        for clip in ("000", "001"):
            for version, size in (("gt", (32, 48)), ("lq", (8, 12))):
                (tmp_path / version / root / clip).mkdir(parents=True)
                for frame in range(5):
                    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                    write_image(tmp_path / version / root / clip / f"{frame}.png", image)
    return tmp_path


def given(folder: Path, *roots: str) -> dict[str, Any]:
    return {f"dataroot_{version}": [str(folder / version / root) for root in roots] for version in ("gt", "lq")}


def build(kind: str, **arguments: Any) -> Any:
    video = {} if kind == "PairedImageDataset" else {"num_frame": 3}
    size = {} if "Test" in kind else {"gt_size": 16}
    return DATASETS.build({"type": kind, **video, **size, **arguments}, scale=4, seed=5)


def assert_equal(one: Any, other: Any) -> None:
    for name in ("lq", "gt"):
        assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_set_of_two_roots_is_the_one_behind_the_other(folder: Path, kind: str) -> None:
    both = build(kind, **given(folder, "reds", "own"))
    singles = [build(kind, **{name: root[0] for name, root in given(folder, root).items()}) for root in ("reds", "own")]
    assert len(both) == 20
    for index in range(20):  # the crop is another one: random numbers are those of the index in the set
        root, inner = divmod(index, 10)
        clip = f"{('reds', 'own')[root]}/{('000', '001')[inner // 5]}/"
        assert both[index, 3]["key"].startswith(clip)
    assert_equal(both[4, 3], singles[0][4, 3])
    whole, arguments = (
        ("PairedImageDataset", {}) if kind == "PairedImageDataset" else ("VideoTestDataset", {"num_frame": 3})
    )
    both, own = (
        DATASETS.build({"type": whole, **roots, **arguments}, scale=4)
        for roots in (given(folder, "reds", "own"), given(folder, "own"))
    )
    for index in range(10):
        assert_equal(both[10 + index], own[index])
    assert both.keys[10:] == [f"own/{key}" for key in own.keys]
    assert len(set(both.gt_files)) == 20


def test_roots_of_one_name_are_told_by_their_number(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "GT").symlink_to(folder / "gt" / "reds")
    (tmp_path / "b" / "GT").symlink_to(folder / "gt" / "own")
    roots = [str(tmp_path / name / "GT") for name in ("a", "b")]
    assert build("VideoTrainDataset", dataroot_gt=roots).clip_names == ["0/000", "0/001", "1/000", "1/001"]


def test_a_name_stands_for_the_clips_so_called_in_all_roots_or_in_one(folder: Path, tmp_path: Path) -> None:
    roots = given(folder, "reds", "own")

    def names(**choice: Any) -> list[str]:
        found: list[str] = build("VideoTrainDataset", **roots, **choice).clip_names
        return found

    assert names(clips=["001"]) == ["reds/001", "own/001"]
    assert names(exclude_clips=["own/001"]) == ["reds/000", "reds/001", "own/000"]
    listed = tmp_path / "list.txt"
    listed.write_text("000 4 (32,48,3)\nreds/001 3 (32,48,3)\n")
    dataset = build("VideoTrainDataset", **roots, meta_info_file=str(listed))
    assert (dataset.clip_names, dataset.clips.lengths) == (["reds/000", "reds/001", "own/000"], [4, 3, 4])
    with pytest.raises(ValueError, match=r"clips: expected a name in the data set, got '002'.*Known: reds/000"):
        names(clips=["002"])


def test_lists_of_images_choose_in_all_roots_or_in_one(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("000/1.png (32,48,3)\nown/001/2.png (32,48,3)\n")
    dataset = build("PairedImageDataset", **given(folder, "reds", "own"), meta_info_file=str(listed))
    assert dataset.keys == ["reds/000/1", "own/000/1", "own/001/2"]
    listed.write_text("000/1.png\n000/7.png\n")
    with pytest.raises(ValueError, match=r"meta_info_file .*: expected a name in the data set, got '000/7.png'"):
        build("PairedImageDataset", **given(folder, "reds", "own"), meta_info_file=str(listed))


def test_a_root_that_is_one_clip_gives_it_its_name(folder: Path) -> None:
    roots = [str(folder / "gt/reds/000"), str(folder / "gt/own/001")]
    assert build("VideoTrainDataset", dataroot_gt=roots).clip_names == ["000", "001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataroot_lq": ["x"]}, "dataroot_lq: expected one root for each of dataroot_gt, got 1 for 2"),
        ({"dataroot_gt": []}, "dataroot: expected at least one folder, got none"),
        ({"dataroot_gt": ["reds", "reds"]}, "dataroot_gt: expected each root once, got .*MixedDataset"),
        ({"dataroot_gt": ["reds", "nowhere"]}, r"dataroot_gt\[1\]: expected an existing"),
    ],
)
def test_roots_that_do_not_pair_are_refused(folder: Path, change: dict[str, list[str]], message: str) -> None:
    roots = given(folder, "reds", "own")
    roots |= {name: [str(folder / "gt" / root) for root in value] for name, value in change.items()}
    for kind in KINDS:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build(kind, **roots)


def test_an_empty_root_among_several_is_named_by_its_number(folder: Path) -> None:
    (folder / "lq" / "empty").mkdir()
    roots = given(folder, "reds", "own") | {"dataroot_lq": [str(folder / "lq/reds"), str(folder / "lq/empty")]}
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"dataroot_lq\[1\]: expected "):
            build(kind, **roots)


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
@pytest.mark.parametrize("kind", [*KINDS, "VideoTestDataset"])
def test_any_root_may_be_an_lmdb_and_samples_stay_the_same(folder: Path, kind: str, backend: str) -> None:
    roots = given(folder, "reds", "own")
    expected = build(kind, **roots)
    for version in ("gt", "lq"):
        for root in ("reds", "own"):
            make_lmdb(Recipe(str(folder / version / root), str(folder / version / f"{root}.lmdb"), "raw"), workers=1)
    stored = {name: [f"{root}.lmdb" for root in paths] for name, paths in roots.items()}
    for choice in (
        stored,
        {"dataroot_gt": roots["dataroot_gt"], "dataroot_lq": stored["dataroot_lq"]},
        {"dataroot_gt": stored["dataroot_gt"], "dataroot_lq": roots["dataroot_lq"]},
        {name: [paths[0], stored[name][1]] for name, paths in roots.items()},
    ):
        dataset = build(kind, **choice, io_backend={"type": backend})
        for index in range(0, 20, 3):
            item = (index, 2) if expected.is_train else index
            assert dataset[item]["key"] == expected[item]["key"]
            assert_equal(dataset[item], expected[item])


def test_files_where_an_lmdb_was_expected_are_told_of_and_a_broken_one_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roots = {name: paths[0] for name, paths in given(folder, "reds").items()}
    build("VideoTrainDataset", **roots, io_backend={"type": "lmdb"})
    assert (
        f"dataroot_gt: io_backend is lmdb, but '{roots['dataroot_gt']}' is not one; it is read as files" in caplog.text
    )
    (folder / "gt/reds.lmdb").mkdir()
    with pytest.raises(ValueError, match=r"dataroot_gt: expected an LMDB \(a folder with data.mdb\)"):
        build("VideoTrainDataset", **roots | {"dataroot_gt": str(folder / "gt/reds.lmdb")}, io_backend={"type": "lmdb"})


def test_pairs_of_roots_are_labelled_by_gt_or_else_by_lq(tmp_path: Path) -> None:
    for name in ("a", "b", "c.lmdb", "d"):
        (tmp_path / name).mkdir()
    a, b, c, d = (str(tmp_path / name) for name in ("a", "b", "c.lmdb", "d"))
    assert [(pair.label, pair.number) for pair in pair_roots([a, c], [b, d])] == [("a", 0), ("c", 1)]
    assert [pair.label for pair in pair_roots(None, [b, d])] == ["b", "d"]
    assert [tuple(pair) for pair in pair_roots([a], b)] == [(a, b, "", None)]
