import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from faultkit import make_read_only, tmpfs
from filelock import FileLock

from vsr.data import lmdb_build, lmdb_writer
from vsr.data.encodings import ENCODINGS
from vsr.data.lmdb_sources import check_pair, find_sources
from vsr.data.lmdb_storage import LmdbStorage
from vsr.data.lmdb_writer import Recipe, make_lmdb, plan_lmdb
from vsr.data.storage import DiskStorage
from vsr.utils.images import read_image, write_image

ROOT = Path(__file__).parents[2]


def recipe(root: Path, **arguments: Any) -> Recipe:
    return Recipe(**({"root": str(root), "target": f"{root}.lmdb"} | arguments))


def content(folder: Path) -> tuple[dict[bytes, bytes], str, list[str]]:
    """What is in an LMDB: its values, its list, its files."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        values = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    return values, (folder / "meta_info.txt").read_text(), sorted(os.listdir(folder))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Clips 2 and 10 of noise, of different sizes, names and formats."""
    rng = np.random.default_rng(0)
    for name, (count, suffix, size) in {"2": (5, ".png", (40, 70)), "10": (3, ".bmp", (33, 20))}.items():
        (tmp_path / "gt" / name).mkdir(parents=True)
        for frame in range(count):
            write_image(tmp_path / "gt" / name / f"im{frame}{suffix}", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return tmp_path / "gt"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_is_found_under_its_path_with_its_pixels(clips: Path, encoding: str, workers: int) -> None:
    target = make_lmdb(recipe(clips, encoding=encoding, tile=16), workers=workers)
    assert sorted(os.listdir(target)) == ["data.mdb", "meta_info.txt", "vsr.json"]
    assert sorted(os.listdir(clips.parent)) == ["gt", "gt.lmdb"]
    ours, theirs = LmdbStorage(), DiskStorage()
    made, files = ours.clips(str(target), "x"), theirs.clips(str(clips), "x")
    assert list(made) == list(files) == ["2", "10"]
    for name, clip in files.items():
        assert [os.path.splitext(file)[0] for file in clip.files] == [file[:-4] for file in made[name].files]
        for i in range(len(clip.files)):
            np.testing.assert_array_equal(ours.read(made[name].path(i)), theirs.read(clip.path(i)))


def test_png_is_as_basicsr_reads_it(clips: Path) -> None:
    """By BasicSR's documented layout: a line for each image, a key without suffix, a file of a PNG."""
    target = make_lmdb(recipe(clips))
    lines = (target / "meta_info.txt").read_text().splitlines()
    assert lines[0] == "2/im0.png (40,70,3) 1"
    assert lines[5] == "10/im0.png (33,20,3) 1"
    assert len(lines) == 8
    with lmdb.open(str(target), readonly=True, lock=False, readahead=False, meminit=False) as environment:
        for line in lines:
            with environment.begin(write=False) as transaction:
                value = transaction.get(line.split(".")[0].encode("ascii"))
            assert value is not None
            image = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR)
            assert f"({image.shape[0]},{image.shape[1]},3)" in line
    assert (cv2.imread(str(clips / "10" / "im2.bmp")) == image).all()


@pytest.mark.fault
def test_the_map_grows_with_what_is_written(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_build, "FIRST_MAP", 20000)
    monkeypatch.setattr(lmdb_build, "BATCH_BYTES", 10000)
    assert len(content(make_lmdb(recipe(clips, encoding="raw")))[0]) == 8


def test_a_video_becomes_a_clip_of_its_frames(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "videos" / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for value in (10, 90, 170):
        writer.write(np.full((32, 48, 3), (value, 0, 0), np.uint8))
    writer.release()
    target = make_lmdb(recipe(tmp_path / "videos", encoding="tiles"), verify="all")
    storage = LmdbStorage()
    (clip,) = storage.clips(str(target), "x").values()
    assert (clip.name, clip.files) == ("a", ("00000000.png", "00000001.png", "00000002.png"))
    means = [storage.read(clip.path(i)).mean((0, 1)) for i in range(3)]
    np.testing.assert_allclose(means, [[0, 0, 10], [0, 0, 90], [0, 0, 170]], atol=3)  # blue is last in RGB
    storage.close()
    alone = make_lmdb(recipe(tmp_path / "videos" / "a.avi", target=str(tmp_path / "b.lmdb"), encoding="tiles"))
    assert content(alone)[0] == content(target)[0]
    data = (tmp_path / "videos" / "a.avi").read_bytes()
    (tmp_path / "videos" / "a.avi").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"a.avi: expected a (whole )?video"):
        make_lmdb(recipe(tmp_path / "videos" / "a.avi", target=str(tmp_path / "c.lmdb")))


def test_a_list_chooses_clips_and_images(clips: Path) -> None:
    (clips.parent / "list.txt").write_text("10 3 (33,20,3)\n\n2/im3.png (40,70,3)\n")
    target = make_lmdb(recipe(clips, only=str(clips.parent / "list.txt")))
    assert [line.split(".")[0] for line in content(target)[1].splitlines()] == ["2/im3", "10/im0", "10/im1", "10/im2"]
    (clips.parent / "list.txt").write_text("11 3 (33,20,3)\n")
    with pytest.raises(ValueError, match=r"only .*list.txt: expected a name in the data set, got '11'\. Did you mean"):
        find_sources(str(clips), only=str(clips.parent / "list.txt"))


def test_a_plan_writes_nothing_and_tells_count_and_bytes(clips: Path) -> None:
    before = sorted(clips.parent.rglob("*"))
    plan = plan_lmdb(recipe(clips, encoding="raw"))
    assert (plan.images, plan.clips) == (8, 2)
    assert plan.estimate == 5 * 12288 + 3 * 4096  # 16 + 3*40*70 and 16 + 3*33*20 bytes in pages of 4096
    assert sorted(clips.parent.rglob("*")) == before


def test_progress_tells_rate_and_what_is_left(
    clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vsr.utils.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        make_lmdb(recipe(clips))
    assert "gt.lmdb: 3 of 8 images, " in caplog.text
    assert " a second, " in caplog.text
    assert " s left" in caplog.text


# --- pairs ---------------------------------------------------------------------------------------


def pair(tmp_path: Path, gt: dict[str, tuple[int, int]], lq: dict[str, tuple[int, int]], tmpl: str = "{}") -> None:
    for root, sizes in (("high", gt), ("low", lq)):
        (tmp_path / root).mkdir()
        for name, size in sizes.items():
            write_image(tmp_path / root / name, np.zeros((*size, 3), np.uint8))
    check_pair(find_sources(str(tmp_path / "high")), find_sources(str(tmp_path / "low")), filename_tmpl=tmpl)


def test_pairs_that_fit_pass(tmp_path: Path) -> None:
    pair(tmp_path, {"a.png": (8, 12), "b.png": (4, 4)}, {"ax4.bmp": (2, 3), "bx4.bmp": (1, 1)}, "{}x4")


@pytest.mark.parametrize(
    ("lq", "message"),
    [
        (
            {"a.png": (2, 3)},
            r"expected the same images as in dataroot_gt \(2\), got 1: 1 of GT are missing in LQ \(b\)",
        ),
        ({"a.png": (2, 3), "b.png": (3, 1)}, "b.png: expected a multiple of the LQ size 3x1, got 4x4"),
        ({"a.png": (2, 3), "b.png": (2, 2)}, r"expected one scale, got 4 \(a.png\) and 2 \(b.png\)"),
    ],
)
def test_pairs_that_do_not_fit_are_named(tmp_path: Path, lq: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(tmp_path, {"a.png": (8, 12), "b.png": (4, 4)}, lq)


# --- interrupted ---------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from vsr.data import lmdb_build
from vsr.data.lmdb_writer import Recipe, make_lmdb
lmdb_build.BATCH_BYTES = 20000
point, after = sys.argv[3], int(sys.argv[4])
original, calls = getattr(lmdb_build.GrowingDatabase, point), [0]
def dying(self, *arguments):
    calls[0] += 1
    if calls[0] == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)
setattr(lmdb_build.GrowingDatabase, point, dying)
make_lmdb(Recipe(sys.argv[1], sys.argv[2], "raw"), workers=2, resume=len(sys.argv) > 5)
"""


def killed(clips: Path, point: str, after: int, *more: str) -> int:
    run = [sys.executable, "-c", KILLED, str(clips), f"{clips}.lmdb", point, str(after), *more]
    return subprocess.run(run, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.fault
@pytest.mark.parametrize(("point", "after"), [("put", 1), ("put", 5), ("_write", 3), ("__exit__", 1)])
def test_a_killed_build_resumes_to_the_same_result(clips: Path, point: str, after: int) -> None:
    whole = content(make_lmdb(recipe(clips, target=str(clips.parent / "whole.lmdb"), encoding="raw")))
    assert killed(clips, point, after) == -9
    assert not Path(f"{clips}.lmdb").exists()
    with pytest.raises(FileExistsError, match=r"gt.lmdb.partial: expected no unfinished build.*--resume.*--fresh"):
        make_lmdb(recipe(clips, encoding="raw"))
    assert killed(clips, point, after, "resume") in (-9, 0)  # a second time, perhaps
    assert content(make_lmdb(recipe(clips, encoding="raw"), resume=True)) == whole
    assert sorted(os.listdir(clips.parent)) == ["gt", "gt.lmdb", "whole.lmdb"]


@pytest.mark.fault
def test_a_build_killed_at_any_moment_resumes(clips: Path) -> None:
    whole = content(make_lmdb(recipe(clips, target=str(clips.parent / "whole.lmdb"), encoding="raw")))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(clips), f"{clips}.lmdb", "put", "0"], cwd=ROOT)
    while not Path(f"{clips}.lmdb.partial").exists() and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert content(make_lmdb(recipe(clips, encoding="raw"), resume=True)) == whole


@pytest.mark.fault
def test_half_a_file_of_a_killed_build_is_no_hindrance(clips: Path) -> None:
    partial = Path(f"{clips}.lmdb.partial")
    partial.mkdir()
    (partial / ".vsr.json.x1y2z3.tmp").write_text("{")  # as atomic_write names it
    assert make_lmdb(recipe(clips), resume=True).is_dir()
    assert not partial.exists()


@pytest.mark.fault
def test_only_what_is_missing_or_has_changed_is_made_again(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_build, "BATCH_BYTES", 1)
    broken = clips / "10" / "im1.bmp"
    good = broken.read_bytes()
    broken.write_bytes(good[:100])
    with pytest.raises(ValueError, match=r"10/im1.bmp: expected"):  # the sample of the estimate finds it: 8 images
        make_lmdb(recipe(clips))
    monkeypatch.setattr(lmdb_writer, "estimated_bytes", lambda *a, **k: 0)
    with pytest.raises(ValueError, match=r"10/im1.bmp: expected"):
        make_lmdb(recipe(clips), workers=1)
    broken.write_bytes(good)
    write_image(clips / "2" / "im0.png", np.zeros((8, 9, 3), np.uint8))  # changed
    (clips / "2" / "im1.png").unlink()  # gone
    write_image(clips / "2" / "im9.png", np.ones((8, 9, 3), np.uint8))  # new
    made: list[str] = []
    encoded = lmdb_writer._encoded
    monkeypatch.setattr(lmdb_writer, "_encoded", lambda source, r: made.append(source.key) or encoded(source, r))
    target = make_lmdb(recipe(clips), resume=True)
    assert sorted(made) == ["10/im1", "10/im2", "2/im0", "2/im9"]
    assert content(target)[:2] == content(make_lmdb(recipe(clips, target=f"{clips}2.lmdb")))[:2]


@pytest.mark.fault
def test_a_journal_that_is_cut_short_costs_one_image(clips: Path) -> None:
    assert killed(clips, "put", 5) == -9
    journal = Path(f"{clips}.lmdb.partial") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    whole = content(make_lmdb(recipe(clips, target=str(clips.parent / "whole.lmdb"), encoding="raw")))
    assert content(make_lmdb(recipe(clips, encoding="raw"), resume=True)) == whole


@pytest.mark.fault
def test_a_build_is_resumed_with_its_own_arguments_or_thrown_away(clips: Path) -> None:
    assert killed(clips, "put", 5) == -9
    with pytest.raises(ValueError, match=r"but it was begun with encoding: raw. Use these, or begin anew with --fresh"):
        make_lmdb(recipe(clips, encoding="png"), resume=True)
    target = make_lmdb(recipe(clips, encoding="png"), fresh=True)
    assert json.loads((target / "vsr.json").read_text())["encoding"] == "png"
    assert make_lmdb(recipe(clips, encoding="png"), resume=True) == target  # complete: left as it is
    with pytest.raises(FileExistsError, match="which exists"):
        make_lmdb(recipe(clips, encoding="raw"), resume=True)


@pytest.mark.fault
def test_two_processes_do_not_make_one_lmdb(clips: Path) -> None:
    partial = Path(f"{clips}.lmdb.partial")
    partial.mkdir()
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(partial / "build.lock"):
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    try:
        for choice in ({}, {"resume": True}, {"fresh": True}):
            with pytest.raises(FileExistsError, match="another process makes this LMDB right now"):
                make_lmdb(recipe(clips), **choice)
    finally:
        release.set()
        holder.join()
    assert make_lmdb(recipe(clips)).is_dir()  # what a process left that was killed before it began is no hindrance


# --- refused -------------------------------------------------------------------------------------


def test_nothing_that_is_there_is_touched(clips: Path) -> None:
    target = Path(f"{clips}.lmdb")
    target.mkdir()
    with pytest.raises(FileExistsError, match=r"target: expected a new folder, got '.*gt.lmdb', which exists"):
        make_lmdb(recipe(clips), fresh=True)
    target.rmdir()
    partial = Path(f"{target}.partial")
    partial.mkdir()
    (partial / "thesis.txt").write_text("x")
    for choice in ({"fresh": True}, {"resume": True}, {}):
        with pytest.raises(FileExistsError, match="expected the folder of an unfinished build, got another thing"):
            make_lmdb(recipe(clips), **choice)
    assert os.listdir(partial) == ["thesis.txt"]
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="which exists"):
        make_lmdb(recipe(clips))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoding": "tile"}, "encoding: expected png, tiles, raw, got 'tile'. Did you mean 'tiles'"),
        ({"tile": 8}, "tile: expected 16 pixels or more, got 8"),
        ({"level": 10}, "level: expected 0 to 9, got 10"),
        ({"target": "out"}, "target: expected a name that ends with .lmdb, got 'out'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(Path("x"), **arguments)


def test_calls_out_of_range_are_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match="workers: expected 1 or more, got 0"):
        make_lmdb(recipe(clips), workers=0)
    with pytest.raises(ValueError, match="verify: expected sample, all, none, got 'some'"):
        make_lmdb(recipe(clips), verify="some")
    with pytest.raises(FileNotFoundError, match="target: expected an existing folder to write into"):
        make_lmdb(recipe(clips, target=str(clips / "no" / "x.lmdb")))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("2/im0.jpg", r"gt: expected one image for each name, got 2/im0\.(jpg and 2/im0.png|png and 2/im0.jpg)"),
        ("2.avi", "gt: expected one clip for each name, got 2 and 2.avi"),
        (f"{'d' * 200}/{'e' * 200}/{'f' * 120}.png", "expected a path of at most 511 bytes"),
    ],
)
def test_names_that_make_no_keys_are_refused(clips: Path, extra: str, message: str) -> None:
    (clips / extra).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips / "2" / "im0.png", clips / extra)
    with pytest.raises(ValueError, match=message):
        find_sources(str(clips))


def test_roots_without_images_are_refused(clips: Path, tmp_path: Path) -> None:
    target = make_lmdb(recipe(clips))
    (tmp_path / "empty").mkdir()
    for root, message in (
        (target, "got the LMDB"),
        (tmp_path / "empty", "got none"),
        (target / "data.mdb", "got the file"),
    ):
        with pytest.raises(ValueError, match=f"root: expected a .*{message}|root: expected images.*{message}"):
            find_sources(str(root))


@pytest.mark.fault
def test_a_full_disk_is_foreseen(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"gt.lmdb: expected room for about 0.1 MB, but 0.0 MB are free") as error:
        make_lmdb(recipe(clips))
    assert error.value.errno == errno.ENOSPC


LIMITED = """
import resource, signal, sys
from vsr.data import lmdb_build
from vsr.data.lmdb_writer import Recipe, make_lmdb
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the kernel kills the process
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))  # refuses bytes past the limit, as a full disk does
lmdb_build.BATCH_BYTES = 10000
try:
    make_lmdb(Recipe(sys.argv[1], sys.argv[2], "raw"), workers=1)
except OSError as error:
    sys.exit(f"{error.errno} {error}")
"""


@pytest.mark.fault
def test_a_disk_that_fills_up_keeps_what_was_written(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = [sys.executable, "-c", LIMITED, str(clips), f"{clips}.lmdb"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # LMDB calls a write that was cut short an input/output error.
    assert re.match(rf"{errno.EIO} .*gt.lmdb.partial: the disk did not take it all", done.stderr.splitlines()[-1])
    assert "--resume" in done.stderr
    assert not Path(f"{clips}.lmdb").exists()
    with caplog.at_level(logging.INFO):
        target = make_lmdb(recipe(clips, encoding="raw"), resume=True)
    assert "images are there already" in caplog.text
    whole = content(make_lmdb(recipe(clips, target=str(clips.parent / "whole.lmdb"), encoding="raw")))
    assert content(target) == whole


@pytest.mark.fault
def test_a_file_system_without_room_is_named(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "estimated_bytes", lambda *a, **k: 0)
    with tmpfs(tmp_path / "small", "64k") as small:
        with pytest.raises(OSError, match=r"no space left on the disk|the disk did not take it all"):
            make_lmdb(recipe(clips, target=str(small / "x.lmdb"), encoding="raw"))
        assert os.listdir(small) == ["x.lmdb.partial"]
        make_read_only(small)
        with pytest.raises(OSError, match=r"expected a folder that can be written to, got .*small"):
            make_lmdb(recipe(clips, target=str(small / "x.lmdb")), fresh=True)


@pytest.mark.fault
def test_pixels_that_differ_from_their_file_are_found(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = lmdb_writer.encode
    monkeypatch.setattr(
        lmdb_writer, "encode", lambda image, *a, **k: encode(image ^ np.uint8(image.shape[1] == 20), *a, **k)
    )
    with pytest.raises(ValueError, match=r"expected the pixels of .*/gt/10/im0.bmp, got others"):
        make_lmdb(recipe(clips), verify="all")
    assert not Path(f"{clips}.lmdb").exists()
    make_lmdb(recipe(clips), resume=True, verify="none")


def test_images_that_disk_would_refuse_are_refused_by_name(clips: Path) -> None:
    cv2.imwrite(str(clips / "2" / "im2.png"), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"2/im2.png: expected 8 bits a channel in grey or RGB, got an alpha channel"):
        make_lmdb(recipe(clips))


def test_grey_images_get_three_channels_as_on_disk(tmp_path: Path) -> None:
    (tmp_path / "gt").mkdir()
    cv2.imwrite(str(tmp_path / "gt" / "a.png"), np.arange(20, dtype=np.uint8).reshape(4, 5))
    target, storage = make_lmdb(recipe(tmp_path / "gt")), LmdbStorage()
    storage.images(str(target), "x")
    np.testing.assert_array_equal(storage.read(str(target / "a.png")), read_image(tmp_path / "gt" / "a.png"))
