"""LMDBs as BasicSR and EDVR of 2019 made them are built here from their layout, by the package lmdb alone."""

import json
import logging
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import numpy.typing as npt
import pytest

from vsr.data.augment import Region
from vsr.data.lmdb_storage import LmdbStorage, check_whole
from vsr.data.storage import DiskStorage, open_storage
from vsr.data.video import VideoTestDataset

Image = npt.NDArray[np.uint8]


def images(*, clips: int = 2, frames: int = 3, size: tuple[int, int] = (20, 30)) -> dict[str, Image]:
    rng = np.random.default_rng(3)
    return {
        f"{clip:03d}/{frame:08d}": rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        for clip in range(clips)
        for frame in range(frames)
    }


def put(folder: Path, values: dict[str, bytes]) -> None:
    with lmdb.open(str(folder), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode("ascii"), value)


def basicsr(folder: Path, frames: dict[str, Image]) -> Path:
    put(
        folder,
        {
            k: cv2.imencode(".png", v[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
            for k, v in frames.items()
        },
    )
    lines = [f"{key}.png ({image.shape[0]},{image.shape[1]},3) 1\n" for key, image in frames.items()]
    (folder / "meta_info.txt").write_text("".join(lines))
    return folder


def edvr_2019(folder: Path, frames: dict[str, Image], resolution: Any = None) -> Path:
    keys = {key.replace("/", "_"): image for key, image in frames.items()}
    put(folder, {key: np.ascontiguousarray(image[..., ::-1]).tobytes() for key, image in keys.items()})
    height, width = next(iter(keys.values())).shape[:2]
    meta = {"name": "REDS", "resolution": resolution or f"3_{height}_{width}", "keys": list(keys)}
    (folder / "meta_info.pkl").write_bytes(pickle.dumps(meta))
    return folder


@pytest.mark.parametrize("make", [basicsr, edvr_2019])
def test_lmdbs_of_others_are_read_as_they_are(tmp_path: Path, make: Any) -> None:
    frames = images()
    root = make(tmp_path / "gt.lmdb", frames)
    storage = open_storage({"type": "lmdb"})
    found = storage.clips(str(root), "dataroot_gt")
    files = ("00000000.png", "00000001.png", "00000002.png")
    assert [(name, clip.files) for name, clip in found.items()] == [("000", files), ("001", files)]
    for name, clip in found.items():
        for i, file in enumerate(clip.files):
            expected = frames[f"{name}/{file[:-4]}"]
            assert storage.size(clip.path(i)) == (20, 30)
            np.testing.assert_array_equal(storage.read(clip.path(i)), expected)
            np.testing.assert_array_equal(storage.read(clip.path(i), Region(3, 4, 5, 6)), expected[3:8, 4:10])


def test_images_without_clips_are_named_by_their_keys(tmp_path: Path) -> None:
    frames = {f"0001_s{i:03d}": image for i, image in enumerate(images().values())}
    names = [f"0001_s{i:03d}.png" for i in range(6)]
    for make in (basicsr, edvr_2019):
        root, storage = make(tmp_path / f"{make.__name__}.lmdb", frames), LmdbStorage()
        assert storage.images(str(root), "x") == names
        np.testing.assert_array_equal(storage.read(str(root / names[4])), frames["0001_s004"])
    (clip,) = LmdbStorage().clips(str(tmp_path / "basicsr.lmdb"), "x").values()  # a clip by itself, as a folder is
    assert (clip.name, clip.files) == ("basicsr", tuple(names))


def test_sizes_of_2019_may_differ_from_key_to_key(tmp_path: Path) -> None:
    frames = {"a": images()["000/00000000"], "b": images(size=(8, 9))["000/00000000"]}
    root, storage = edvr_2019(tmp_path / "x.lmdb", frames, ["3_20_30", "3_8_9"]), LmdbStorage()
    storage.images(str(root), "x")
    for key, image in frames.items():
        np.testing.assert_array_equal(storage.read(str(root / f"{key}.png")), image)
    one = edvr_2019(tmp_path / "y.lmdb", {"a": frames["a"]}, ["3_20_30"])  # general sets have a list of one
    storage.images(str(one), "x")
    assert storage.size(str(one / "a.png")) == (20, 30)


def test_a_database_alone_lists_itself(tmp_path: Path) -> None:
    root = basicsr(tmp_path / "x.lmdb", images())
    (root / "meta_info.txt").unlink()
    assert len(LmdbStorage().images(str(root), "x")) == 6


def test_lists_may_have_blank_lines_and_names_with_spaces(tmp_path: Path) -> None:
    root = basicsr(tmp_path / "x.lmdb", {"my clip (1)/0": images()["000/00000000"]})
    (root / "meta_info.txt").write_text("\n\nmy clip (1)/0.png (20, 30, 3) 1\r\n\n")
    assert list(LmdbStorage().clips(str(root), "x")) == ["my clip (1)"]


def test_lists_made_for_folders_fit(tmp_path: Path) -> None:
    assert LmdbStorage().listed("a/im1.jpg") == "a/im1.png"
    assert DiskStorage().listed("a/im1.jpg") == "a/im1.jpg"


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.fault
def test_a_missing_key_is_named_with_its_database_and_the_three_nearest(tmp_path: Path) -> None:
    root, storage = basicsr(tmp_path / "gt.lmdb", images()), LmdbStorage()
    storage.clips(str(root), "dataroot_gt")
    with pytest.raises(ValueError, match=r"gt.lmdb: expected the key '000/00000007', got none.") as error:
        storage.read(str(root / "000" / "00000007.png"))
    assert all(f"000/0000000{i}" in str(error.value) for i in range(3))


@pytest.mark.fault
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.99, 1])
def test_a_truncated_file_is_refused_before_it_can_kill_the_process(tmp_path: Path, share: float) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images(size=(60, 80)))
    size = (root / "data.mdb").stat().st_size
    os.truncate(root / "data.mdb", int(size * share) if share < 1 else size - 1)
    with pytest.raises(
        ValueError, match=r"dataroot_gt: .*data.mdb: expected \d+ bytes as its header says, got \d+: the"
    ):
        LmdbStorage().clips(str(root), "dataroot_gt")


def test_whole_files_are_never_called_truncated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with lmdb.open(str(tmp_path), map_size=1 << 28) as environment:
        for _ in range(60):
            with environment.begin(write=True) as transaction:
                for key in rng.integers(0, 40, 8):
                    if rng.random() < 0.5:
                        transaction.put(b"%d" % key, bytes(int(rng.integers(1, 60000))))
                    else:
                        transaction.delete(b"%d" % key)
            check_whole(tmp_path / "data.mdb")
    check_whole(tmp_path / "data.mdb")


@pytest.mark.fault
def test_another_file_is_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "x.lmdb").mkdir()
    (tmp_path / "x.lmdb" / "data.mdb").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(ValueError, match=r"dataroot_lq: .*data.mdb: expected an LMDB's data file, got another"):
        LmdbStorage().images(str(tmp_path / "x.lmdb"), "dataroot_lq")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "009/00000000.png (20,30,3) 1\n", "expected the 7 images that its meta_info lists, got 6"),
        (
            lambda text: text.replace("001/", "009/"),
            "expected the key '009/00000000' that its meta_info lists, got none",
        ),
        (lambda text: text + "001/00000000.png (20,30,3) 1\n", "meta_info.txt:7: expected each key once"),
        (
            lambda text: "000 100 (720,1280,3)\nno size\n",
            r"meta_info.txt:2: expected 'key.png \(h,w,c\) level', got 'no s",
        ),
        (lambda text: "\n", "meta_info.txt: expected lines 'key.png"),
    ],
)
def test_a_stale_or_damaged_list_is_named(tmp_path: Path, change: Any, message: str) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images())
    (root / "meta_info.txt").write_text(change((root / "meta_info.txt").read_text()))
    with pytest.raises(ValueError, match=f"dataroot_gt: .*{message}"):
        LmdbStorage().clips(str(root), "dataroot_gt")


@pytest.mark.fault
@pytest.mark.parametrize(
    "meta",
    [[], {"keys": []}, {"keys": [1], "resolution": "3_1_1"}, {"keys": ["a"], "resolution": "3_1_1_1"},
     {"keys": ["a"], "resolution": ["3_1_1"] * 2}, {"keys": ["a"]}, {"keys": ["a"], "resolution": ["3_0_1"]}],
)  # fmt: skip
def test_a_pickle_of_another_kind_is_named(tmp_path: Path, meta: Any) -> None:
    root = edvr_2019(tmp_path / "x.lmdb", images())
    (root / "meta_info.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(ValueError, match=r"x: .*meta_info.pkl: expected .*resolution|meta_info.pkl: expected a dict"):
        LmdbStorage().images(str(root), "x")


@pytest.mark.fault
def test_pixels_of_another_size_than_the_pickle_says_are_refused(tmp_path: Path) -> None:
    root, storage = edvr_2019(tmp_path / "x.lmdb", images(), "3_20_31"), LmdbStorage()
    (clip, *_) = storage.clips(str(root), "x").values()
    with pytest.raises(ValueError, match="expected 1860 bytes"):
        storage.size(clip.path(0))


def test_a_list_of_fewer_images_leaves_the_others_out_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images())
    lines = (root / "meta_info.txt").read_text().splitlines(keepends=True)
    (root / "meta_info.txt").write_text("".join(lines[:3]))
    with caplog.at_level(logging.INFO):
        assert list(LmdbStorage().clips(str(root), "x")) == ["000"]
    assert "lists 3 of the 6 images" in caplog.text


def test_folders_and_lmdbs_taken_for_each_other_are_named(tmp_path: Path, write_clip: Any) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images())
    for find in ("clips", "images"):
        with pytest.raises(
            ValueError, match=r"dataroot_gt: expected a folder of image files, got the LMDB.*type: lmdb"
        ):
            getattr(DiskStorage(), find)(str(root), "dataroot_gt")
        with pytest.raises(ValueError, match=r"dataroot_gt: expected an LMDB .*scripts/make_lmdb.py"):
            getattr(LmdbStorage(), find)(str(write_clip("folder", "a")), "dataroot_gt")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*gt.lmdb'"):
        LmdbStorage().clips(str(tmp_path / "gt.lmbd"), "dataroot_gt")


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.fault
def test_a_database_that_another_process_writes_to_is_read_without_a_lock_in_a_folder_without_rights(
    tmp_path: Path,
) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images())
    code = (
        "import lmdb,sys; e=lmdb.open(sys.argv[1]); t=e.begin(write=True); t.put(b'k',b'v'); print(flush=True); input()"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(root)], stdin=-1, stdout=-1)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        before = sorted(os.listdir(root))
        root.chmod(0o555)
        assert len(LmdbStorage().images(str(root), "x")) == 6
        assert sorted(os.listdir(root)) == before
    finally:
        root.chmod(0o755)
        writer.communicate(b"\n")


def test_two_sets_in_one_process_share_a_database(tmp_path: Path) -> None:
    root = basicsr(tmp_path / "gt.lmdb", images())
    (tmp_path / "link.lmdb").symlink_to(root)
    for _ in range(2):
        first, second = LmdbStorage(), LmdbStorage()
        for storage, path in ((first, root), (second, tmp_path / "link.lmdb")):
            storage.images(str(path), "x")
        np.testing.assert_array_equal(
            first.read(str(root / "000/00000000.png")), second.read(str(tmp_path / "link.lmdb/000/00000000.png"))
        )


def test_what_was_read_outlives_the_storage_and_the_files(tmp_path: Path) -> None:
    frames = images(clips=1, frames=1)
    root, storage = edvr_2019(tmp_path / "x.lmdb", frames), LmdbStorage()
    storage.images(str(root), "x")
    (clip,) = storage.clips(str(root), "x").values()
    frame = storage.read(clip.path(0))
    assert not frame.flags.writeable  # it lies in the file
    storage.close()
    del storage
    (root / "data.mdb").unlink()
    np.testing.assert_array_equal(frame, frames["000/00000000"])


def read_in_child(storage: LmdbStorage, paths: list[str], connection: Any) -> None:
    connection.send([int(storage.read(path).sum()) for path in paths])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("make", "method"),
    [(basicsr, "fork"), (edvr_2019, "fork"), pytest.param(edvr_2019, "spawn", marks=pytest.mark.slow)],
)
def test_workers_read_what_the_main_process_has_open(tmp_path: Path, make: Any, method: str) -> None:
    frames = images()
    root, storage = make(tmp_path / "gt.lmdb", frames), LmdbStorage()
    clips = storage.clips(str(root), "x").values()
    paths = [clip.path(i) for clip in clips for i in range(3)]
    held = [storage.read(path) for path in paths[:2]]  # the children inherit these views
    context = multiprocessing.get_context(method)
    for _ in range(2 if method == "fork" else 1):
        ends = [context.Pipe() for _ in range(2)]
        children = [context.Process(target=read_in_child, args=(storage, paths, end[1])) for end in ends]
        for child in children:
            child.start()
        expected = [int(image.sum()) for image in frames.values()]
        for child, end in zip(children, ends, strict=True):
            assert end[0].recv() == expected
            child.join()
            assert child.exitcode == 0
    np.testing.assert_array_equal(held[1], frames["000/00000001"])


def test_a_closed_database_frees_its_file(tmp_path: Path) -> None:
    root, storage = basicsr(tmp_path / "gt.lmdb", images()), LmdbStorage()
    for _ in range(3):
        storage.images(str(root), "x")
        storage.read(str(root / "000/00000000.png"))
        storage.close()
        held = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]
        assert not [name for name in held if "gt.lmdb" in name]


def test_headers_are_those_of_lmdb(tmp_path: Path) -> None:
    """What check_whole reads from the file is what the library says of it."""
    root = basicsr(tmp_path / "gt.lmdb", images())
    with lmdb.open(str(root), readonly=True, lock=False) as environment:
        info, page = environment.info(), environment.stat()["psize"]
    head = (root / "data.mdb").read_bytes()[: 2 * page]
    metas = [struct.unpack_from("=QQ", head, at + 136) for at in (0, page)]
    assert max(metas, key=lambda meta: meta[1]) == (info["last_pgno"], info["last_txnid"])


def test_a_set_of_lmdbs_made_by_basicsr_tests_as_one_of_files(tmp_path: Path) -> None:
    frames = images(size=(8, 12))
    big = {key: np.ascontiguousarray(image.repeat(4, 0).repeat(4, 1)) for key, image in frames.items()}
    for name, made in (("gt", big), ("lq", frames)):
        basicsr(tmp_path / f"{name}.lmdb", made)
        for key, image in made.items():
            (tmp_path / name / key).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{key}.png"), image[..., ::-1])
    sets = [
        VideoTestDataset(
            dataroot_gt=str(tmp_path / f"gt{suffix}"), dataroot_lq=str(tmp_path / f"lq{suffix}"), scale=4, num_frame=3,
            io_backend={"type": kind},
        )
        for suffix, kind in (("", "disk"), (".lmdb", "lmdb"))
    ]  # fmt: skip
    assert sets[0].keys == sets[1].keys
    for first, second in zip(map(sets[0].__getitem__, range(6)), map(sets[1].__getitem__, range(6)), strict=True):
        assert first["key"] == second["key"]
        assert bool((first["lq"] == second["lq"]).all() and (first["gt"] == second["gt"]).all())
    assert json.dumps(sets[1].gt_files)  # plain text
