import functools
import http.server
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from killing import tree

from vsr.data import reds_files, reds_preparation
from vsr.data.archive_sources import Archive
from vsr.data.lmdb_storage import LmdbStorage
from vsr.data.reds_files import ARCHIVES, SUBSETS, Found, clips_below, clips_in_archive
from vsr.data.reds_preparation import Reds, RedsOptions, option_lines, prepare_reds
from vsr.data.video import VideoTestDataset
from vsr.registry import DATASETS

FRAMES = 10  # of a clip, where REDS has 100
SIZES = {"sharp": (16, 24), "sharp_bicubic": (4, 6), "blur": (16, 24), "blur_bicubic": (4, 6)}


@pytest.fixture(autouse=True)
def fewer_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """21 clips of train, so that REDS4 is among them, and 2 of val and of test, of few frames."""
    for module in (reds_files, reds_preparation):
        monkeypatch.setattr(module, "FRAMES", FRAMES)
    for split, count in {"train": 21, "val": 2, "test": 2}.items():
        monkeypatch.setitem(reds_files.COUNTS, split, count)


def clips_of(subset: str, root: Path, nesting: str, count: int | None = None) -> Path:
    """Lay out a subset as REDS has it, all frames of a clip of the clip's colour (links to one file)."""
    split, _, kind = subset.partition("_")
    folder = root / nesting.format(split=split, subset=subset) / ("X4" if kind.endswith("bicubic") else "")
    for clip in range(reds_files.COUNTS[split] if count is None else count):
        (folder / f"{clip:03d}").mkdir(parents=True)
        first = folder / f"{clip:03d}" / "00000000.png"
        cv2.imwrite(str(first), np.full((*SIZES[kind], 3), clip + 100 * (split == "val"), np.uint8))
        for frame in range(1, FRAMES):
            os.link(first, first.with_name(f"{frame:08d}.png"))
    return folder


def zipped(subset: str, root: Path, scratch: Path, count: int | None = None) -> Path:
    """Write an official archive: train_sharp.zip with train/train_sharp/000/00000000.png ..."""
    clips_of(subset, scratch, "{split}/{subset}", count)
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / f"{subset}.zip", "w") as file:
        for path in sorted(scratch.rglob("*")):
            file.write(path, path.relative_to(scratch))
    shutil.rmtree(scratch)
    return root / f"{subset}.zip"


FOUR = ("train_sharp", "train_sharp_bicubic", "val_sharp", "val_sharp_bicubic")


@pytest.mark.parametrize("nesting", ["{split}/{subset}", "{subset}", "{subset}/{split}/{subset}", "x y/{subset}_part1"])
def test_clips_are_found_however_they_were_unpacked(tmp_path: Path, nesting: str) -> None:
    for subset in FOUR:
        clips_of(subset, tmp_path / "REDS (1)", nesting)
    (tmp_path / "REDS (1)" / "notes").mkdir()
    clips = clips_below(tmp_path / "REDS (1)")
    assert {name: len(found) for name, found in clips.items()} == dict(zip(FOUR, (21, 21, 2, 2), strict=True))
    assert {found.frames for subset in clips.values() for found in subset.values()} == {FRAMES}
    reds = prepare_reds(RedsOptions(root=str(tmp_path / "REDS (1)")), workers=0)
    regrouped = reds.folder / "train_sharp_bicubic" / "X4" / "022" / "00000009.png"
    assert cv2.imread(str(regrouped))[0, 0, 0] == 101
    assert len(os.listdir(reds.folder / "train_sharp")) == 23


def test_a_root_that_is_itself_a_subset_is_understood(tmp_path: Path) -> None:
    folder = clips_of("train_blur", tmp_path, "{subset}")
    assert {name: len(found) for name, found in clips_below(folder).items()} == {"train_blur": 21}


def test_clips_that_were_regrouped_already_are_those_of_val(tmp_path: Path) -> None:
    folder = clips_of("train_sharp", tmp_path, "{subset}", count=23)
    clips = clips_below(tmp_path)
    assert list(clips["val_sharp"]) == ["000", "001"]
    assert clips["val_sharp"]["001"].folder == folder / "022"
    reds = prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)
    assert os.path.realpath(reds.folder / "train_sharp" / "022") == str(folder / "022")


def test_the_folder_reds4_is_passed_over_for_its_val_is_of_train(tmp_path: Path) -> None:
    clips_of("val_sharp", tmp_path / "REDS4", "{subset}/{split}/{subset}")
    assert clips_below(tmp_path) == {}


def test_of_two_copies_the_complete_one_is_used(tmp_path: Path) -> None:
    broken, whole = (clips_of("val_sharp", tmp_path / name, "{subset}") for name in ("a", "long/er/b"))
    (broken / "001" / "00000005.png").unlink()
    found = clips_below(tmp_path)["val_sharp"]
    assert [found[name].folder for name in ("000", "001")] == [broken / "000", whole / "001"]


def test_an_archives_clips_are_known_from_its_names_alone() -> None:
    names = ["train/train_sharp_bicubic/X4/003/00000000.png", "train/train_sharp_bicubic/X4/003/00000001.png"]
    names += ["__MACOSX/train/train_sharp_bicubic/X4/003/._00000000.png", "readme.txt"]
    clips = clips_in_archive(names, Path("/out/train_sharp_bicubic"))
    found = clips["train_sharp_bicubic"]["003"]
    assert (found.frames, len(clips)) == (2, 1)
    assert found.folder == Path("/out/train_sharp_bicubic/train/train_sharp_bicubic/X4/003")


def test_archives_become_sets_that_a_data_set_reads(tmp_path: Path) -> None:
    root = tmp_path / "REDS \u00e4 (1)"
    for subset in FOUR:
        zipped(subset, root, tmp_path / "scratch")
    before = tree(root)
    options = RedsOptions(root=str(root), reds4=True, lmdb="tiles")
    assert set(prepare_reds(options, workers=0, dry_run=True).sets) == {"train_sharp", "train_sharp_bicubic/X4"}
    assert tree(root) == before
    reds = prepare_reds(options, workers=0)
    after = tree(root)
    assert {name: value for name, value in after.items() if name.split("/")[0] != "prepared"} == before
    prepare_reds(options, workers=0)
    assert tree(root) == after
    lists = {path.name: path.read_text().splitlines() for path in reds.folder.glob("meta_info_*")}
    assert lists["meta_info_REDS_GT.txt"] == [f"{clip:03d} {FRAMES} (16,24,3)" for clip in range(23)]
    assert lists["meta_info_REDSval_official_test_GT.txt"] == [f"{clip} {FRAMES} (16,24,3)" for clip in ("021", "022")]
    assert [line[:3] for line in lists["meta_info_REDS4_test_GT.txt"]] == ["000", "011", "015", "020"]
    assert sorted(os.listdir(reds.folder / "REDS4" / "sharp_bicubic")) == ["000", "011", "015", "020"]
    assert len(LmdbStorage().clips(str(reds.folder / "train_sharp_bicubic_with_val.lmdb"), "x")) == 23

    written = yaml.safe_load(option_lines(reds))
    assert written["scale"] == 4
    train = written["datasets"]["train"]
    data = DATASETS.get(train.pop("type"))(**train, scale=4, num_frame=3, gt_size=16)
    assert data.clip_names == [f"{clip:03d}" for clip in range(23) if clip not in (0, 11, 15, 20)]
    val = {key: value for key, value in written["datasets"]["val"].items() if key != "type"}
    for lmdb in (True, False):
        if not lmdb:
            val |= {"io_backend": None, "dataroot_gt": str(reds.folder / "train_sharp")}
            val["dataroot_lq"] = str(reds.folder / "train_sharp_bicubic" / "X4")
        data = VideoTestDataset(**val, scale=4, num_frame=3)
        assert data.clip_names == ["000", "011", "015", "020"]
        sample = data[4 * FRAMES - 1]
        assert sample["gt"].shape[-2:] == (16, 24)
        assert int(sample["gt"].max()) == 20


def test_fma_net_s_sets_are_told_with_the_flow_or_what_makes_it() -> None:
    folder = Path("/data/my REDS")
    clips = dict.fromkeys([f"{clip:03d}" for clip in range(23)], Found(folder, FRAMES))
    names = ("train_sharp", "train_sharp_bicubic/X4", "train_blur_bicubic/X4")
    reds = Reds(folder, dict.fromkeys(names, clips), {})
    made = option_lines(reds, folder / "train_flow_bicubic" / "X4").split("# FMA-Net")[1]
    written = yaml.safe_load(f"# {made}")
    train, val = written["datasets"]["train"], written["datasets"]["val"]
    assert train == {
        "type": "FMANetDataset", "dataroot_gt": f"{folder}/train_sharp",
        "dataroot_lq": f"{folder}/train_blur_bicubic/X4", "dataroot_lq_sharp": f"{folder}/train_sharp_bicubic/X4",
        "dataroot_flow": f"{folder}/train_flow_bicubic/X4", "io_backend": {"type": "disk"}, "val_partition": "REDS4",
    }  # fmt: skip
    shared = ("dataroot_gt", "dataroot_lq", "io_backend", "val_partition")
    assert val == {"type": "FMANetTestDataset", "gt_frames": "all", **{name: train[name] for name in shared}}
    found = option_lines(reds)
    assert "# python scripts/generate_flow.py '/data/my REDS/train_sharp_bicubic/X4'\n" in found
    assert f'# dataroot_flow: "{folder}/train_flow_bicubic/X4"\n' in found
    later = yaml.safe_load(f"# {found.split('# FMA-Net')[1]}")["datasets"]["train"]
    assert later == {**{name: train[name] for name in train if name != "dataroot_flow"}, "find_flow": True}
    few = Reds(folder, dict.fromkeys(names[:2], clips), {})
    assert "FMANet" not in option_lines(few)
    lmdbs = {name: folder / f"{name.partition('/')[0]}.lmdb" for name in names}
    in_lmdb = yaml.safe_load(f"# {option_lines(Reds(folder, reds.sets, lmdbs)).split('# FMA-Net')[1]}")
    assert in_lmdb["datasets"]["val"]["dataroot_lq"] == f"{folder}/train_blur_bicubic.lmdb"
    assert in_lmdb["datasets"]["train"]["io_backend"] == {"type": "lmdb"}


def test_another_choice_of_regrouping_needs_another_folder(tmp_path: Path) -> None:
    clips_of("val_sharp", tmp_path, "{subset}")
    clips_of("train_sharp", tmp_path, "{subset}")
    prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)
    with pytest.raises(ValueError, match=r"begun with the same arguments, but it has regroup: links \(now none\)"):
        prepare_reds(RedsOptions(root=str(tmp_path), regroup="none"), workers=0)
    apart = prepare_reds(RedsOptions(root=str(tmp_path), regroup="none", output=str(tmp_path / "b")), workers=0)
    assert {name: len(clips) for name, clips in apart.sets.items()} == {"train_sharp": 21, "val_sharp": 2}
    line = (apart.folder / "meta_info_REDSval_official_test_GT.txt").read_text().splitlines()[0]
    assert line == f"000 {FRAMES} (16,24,3)"


def test_copies_stand_for_links_where_they_are_asked_for(tmp_path: Path) -> None:
    clips_of("val_sharp", tmp_path, "{subset}")
    clips_of("train_sharp", tmp_path, "{subset}")
    reds = prepare_reds(RedsOptions(root=str(tmp_path), regroup="copy"), workers=0)
    assert not any(path.is_symlink() for path in reds.folder.rglob("*"))
    assert len(list(reds.folder.glob("train_sharp/*/*.png"))) == 23 * FRAMES


def test_val_stays_apart_where_the_regrouped_kinds_would_not_match(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for subset in FOUR[:3]:
        clips_of(subset, tmp_path, "{subset}")
    reds = prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)
    assert {name: len(clips) for name, clips in reds.sets.items()} == {
        "train_sharp": 21,
        "train_sharp_bicubic/X4": 21,
        "val_sharp": 2,
    }
    assert "val stays apart: val_sharp_bicubic is not there" in caplog.text


def test_what_is_missing_is_said_with_the_archive_that_has_it(tmp_path: Path) -> None:
    folder = clips_of("train_sharp", tmp_path, "{split}/{subset}")
    clips_of("train_sharp_bicubic", tmp_path, "{split}/{subset}")
    (folder / "004" / "00000007.png").unlink()
    shutil.rmtree(folder / "017")
    with pytest.raises(
        ValueError, match=r"^root: expected all of REDS's train_sharp, train_sharp_bicubic in"
    ) as caught:
        prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)
    assert "train_sharp: 1 of 21 clips are missing (017); they are in train_sharp.zip" in str(caught.value)
    assert f"{folder / '004'}: expected 10 frames, got 9; they are in train_sharp.zip" in str(caught.value)
    assert "\n" not in str(caught.value)
    for choice in ({"subsets": ["val_sharp"]}, {"needed": ["val_sharp"]}):
        with pytest.raises(ValueError, match=r"val_sharp: is missing; they are in val_sharp\.zip"):
            prepare_reds(RedsOptions(root=str(tmp_path), **choice), workers=0)  # type: ignore[arg-type]
    reds = prepare_reds(RedsOptions(root=str(tmp_path), allow_incomplete=True, output=str(tmp_path / "o")), workers=0)
    names = [f"{clip:03d}" for clip in range(21) if clip not in (4, 17)]
    assert {name: list(clips) for name, clips in reds.sets.items()} == {
        "train_sharp": names,
        "train_sharp_bicubic/X4": names,
    }
    os.link(folder / "004" / "00000006.png", folder / "004" / "00000007.png")
    shutil.copytree(folder / "016", folder / "017")
    complete = prepare_reds(RedsOptions(root=str(tmp_path), output=str(tmp_path / "o")), workers=0)
    assert len(complete.sets["train_sharp"]) == 21
    assert len((complete.folder / "meta_info_REDS_GT.txt").read_text().splitlines()) == 21


def test_frames_of_another_data_set_are_found_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips_of("train_sharp", tmp_path, "{subset}")
    monkeypatch.setitem(SIZES, "sharp_bicubic", (8, 12))
    clips_of("train_sharp_bicubic", tmp_path, "{subset}")
    with pytest.raises(
        ValueError, match=r"expected frames of 1/4 of the sides in .*, 16x24, got 8x12\. One of the two"
    ):
        prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)


def test_nothing_at_all_is_told_with_the_address(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"expected REDS in .* Fetch the archives from https://.* or say --downl"
    ):
        prepare_reds(RedsOptions(root=str(tmp_path)), workers=0)
    with pytest.raises(FileNotFoundError, match="root: expected an existing file or folder"):
        prepare_reds(RedsOptions(root=str(tmp_path / "none")), workers=0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"subsets": ["train_sharpp"]}, r"subsets: expected .* got 'train_sharpp'\. Did you mean 'train_sharp'\?"),
        ({"server": "sun"}, "server: expected huggingface, snu, got 'sun'"),
        ({"regroup": "move"}, "regroup: expected links, copy, none, got 'move'"),
    ],
)
def test_wrong_options_are_refused(argument: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RedsOptions(root=".", **argument)  # type: ignore[arg-type]


def test_every_archive_has_a_name_and_an_address_at_every_server() -> None:
    assert len(SUBSETS) == 16
    assert "test_sharp" not in ARCHIVES
    for subset, archive in ARCHIVES.items():
        assert archive.file == f"{subset}.zip"
        assert all(address.endswith(f"/REDS/{archive.file}") or "/REDS/resolve/main/" in address for address in
                   archive.addresses.values())  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a server of this machine that stands for the official one."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keep the screen free."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        for subset in SUBSETS:
            address = {"huggingface": f"http://127.0.0.1:{server.server_port}/{subset}.zip"}
            monkeypatch.setitem(ARCHIVES, subset, Archive(f"{subset}.zip", address))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_what_is_not_there_is_downloaded_and_a_failure_does_not_lose_the_others(
    tmp_path: Path, server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zipped("val_sharp", server, tmp_path / "scratch")
    root = tmp_path / "new"
    options = RedsOptions(root=str(root), download=True, subsets=["val_blur", "val_sharp"])
    with caplog.at_level("INFO", "vsr"):
        assert prepare_reds(options, workers=0, dry_run=True).sets == {}
    assert f"{root / 'val_sharp.zip'}: would come from http://127.0.0.1:" in caplog.text
    assert not root.exists()
    with pytest.raises(OSError, match=r"could not be fetched: val_blur\.zip \(http://127.*put them into"):
        prepare_reds(options, workers=0)
    assert os.listdir(root) == ["val_sharp.zip"]
    zipped("val_blur", server, tmp_path / "scratch")
    reds = prepare_reds(options, workers=0)
    assert {name: len(clips) for name, clips in reds.sets.items()} == {"val_sharp": 2, "val_blur": 2}


def test_a_hostile_or_cut_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = zipped("val_sharp", tmp_path / "REDS", tmp_path / "scratch")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"^.*val_sharp\.zip: expected a whole zip or tar archive, got a damaged"):
        prepare_reds(RedsOptions(root=str(tmp_path / "REDS")), workers=0)
    archive.write_bytes(whole)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../train_sharp/000/evil.png", b"x")
    with pytest.raises(ValueError, match=r"'\.\./\.\./train_sharp/000/evil\.png' leads outside"):
        prepare_reds(RedsOptions(root=str(tmp_path / "REDS")), workers=0)
    assert tree(tmp_path / "REDS").keys() == {"val_sharp.zip"}
