import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killing import tree

from vsr.utils import archives
from vsr.utils.archives import safe_unpack

FILES = {
    "train/train_sharp/000/00000000.png": b"first" * 100,
    "train/train_sharp/000/00000001.png": b"",
    "train/a b (c)/\u00e4\u2603.png": bytes(np.random.default_rng(0).integers(0, 256, 70_000, dtype=np.uint8)),
}
MODES = {"a.zip": "", "a.tar": "w:", "a.tar.gz": "w:gz", "a.tar.xz": "w:xz"}


def made(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of the kind that its suffix names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.mkdir("train")
            for name, content in files.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, MODES[path.name]) as tar:
            folder = tarfile.TarInfo("./train")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name, content in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", MODES)
def test_all_files_come_out_as_they_went_in_and_a_second_time_changes_nothing(tmp_path: Path, name: str) -> None:
    archive, folder = made(tmp_path / name, FILES), tmp_path / "out (1)"
    assert sorted(safe_unpack(archive, folder, dry_run=True)) == sorted(FILES)
    assert not folder.exists()
    assert sorted(safe_unpack(archive, folder)) == sorted(FILES)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    safe_unpack(archive, folder)
    (folder / archives.MARKS).unlink()
    safe_unpack(archive, folder)  # now all files are compared
    assert all(path.stat().st_mtime_ns == before[path] for path in before if path.suffix == ".png")
    assert sum(path.is_file() for path in folder.rglob("*")) == len(FILES) + 1


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", FILES)
    safe_unpack(archive, tmp_path / "out", wanted=lambda name: name.endswith("0.png"))
    assert list(tree(tmp_path / "out")) == [
        "train",
        "train/train_sharp",
        "train/train_sharp/000",
        "train/train_sharp/000/00000000.png",
    ]


def zip_with(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (("good.png", b"good"), *entries):
                file.writestr(name, content)

    return make


def zip_link(path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zip_with((link, b"/etc"), ("link/x.png", b""))(path)


def zip_encrypted(path: Path) -> None:
    zip_with()(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def zip_claims(size: int) -> Callable[[Path], None]:
    """A zip whose directory claims that a member has ``size`` bytes."""

    def make(path: Path) -> None:
        zip_with()(path)
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
        path.write_bytes(data)

    return make


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(10):
            file.writestr(f"{i}.png", bytes(20 << 20))


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("good.png"))
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, size
            tar.addfile(info)

    return make


HOSTILE = {
    "zip ..": (zip_with(("../up.png", b"x")), "'../up.png' leads outside"),
    "zip .. within": (zip_with(("a/b/../../../up.png", b"x")), "leads outside"),
    "zip windows ..": (zip_with(("..\\up.png", b"x")), "leads outside"),
    "zip absolute": (zip_with(("/tmp/abs.png", b"x")), "is an absolute path"),
    "zip drive": (zip_with(("C:\\abs.png", b"x")), "is an absolute path"),
    "zip link": (zip_link, "'link' is a link or a device"),
    "zip encrypted": (zip_encrypted, "'good.png' is encrypted"),
    "zip twice": (zip_with(("./good.png", b"other")), "'good.png' is there twice"),
    "zip file and folder": (zip_with(("good.png/x.png", b"")), "'good.png' is both a file and a folder"),
    "zip mark": (zip_with((".unpacked.json", b"[]")), "'.unpacked.json' is there twice, or has a name"),
    "zip long name": (zip_with(("n" * 300 + ".png", b"")), "is no name that a file can have"),
    "zip claims 4 GB": (zip_claims(0xFFFFFFF0), "it claims 4.29 GB or more"),
    "zip bomb": (zip_bomb, "expected at most 67.1 MB of content in 0.2 MB"),
    "tar ..": (tar_with("../up.png"), "leads outside"),
    "tar absolute": (tar_with("/abs.png"), "is an absolute path"),
    "tar symlink": (tar_with("l", tarfile.SYMTYPE, "/etc"), "'l' is a link, a device"),
    "tar hard link": (tar_with("l", tarfile.LNKTYPE, "good.png"), "'l' is a link, a device"),
    "tar device": (tar_with("d", tarfile.CHRTYPE), "'d' is a link, a device"),
    "tar fifo": (tar_with("p", tarfile.FIFOTYPE), "'p' is a link, a device"),
    "tar sparse": (tar_with("s", tarfile.GNUTYPE_SPARSE), "'s' is a link, a device"),
    "tar twice": (tar_with("good.png"), "'good.png' is there twice"),
    "tar claims 10 GB": (tar_with("big.png", size=10 << 30), "expected"),
}


@pytest.mark.fault
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    make, message = HOSTILE[case]
    archive = tmp_path / "evil"
    make(archive)
    with pytest.raises(ValueError, match=f"^{archive}: expected ") as caught:
        safe_unpack(archive, tmp_path / "a" / "out")
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == ["evil"]


def test_limits_of_bytes_and_of_entries_hold(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", FILES)
    with pytest.raises(ValueError, match=r"expected at most 0\.1 MB of content .* it claims 0\.1 MB or more"):
        safe_unpack(archive, tmp_path / "out", max_bytes=60_000)
    with pytest.raises(ValueError, match="expected at most 3 entries, got more"):
        safe_unpack(archive, tmp_path / "out", max_members=3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str, part: float) -> None:
    archive = made(tmp_path / name, FILES)
    length = archive.stat().st_size - (10240 if name == "a.tar" else 0)  # tar pads with zeros, which may be cut
    os.truncate(archive, int(part * length))
    with pytest.raises(ValueError, match=f"^{archive}: expected a whole zip or tar archive, got a damaged or cut"):
        safe_unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == [name]


def test_a_flipped_bit_shows_in_the_checksum_and_leaves_no_half_file(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:  # stored, so that no decompressor notices
        file.writestr("good.png", b"good")
        file.writestr("bad.png", b"bad" * 1000)
    data = bytearray(archive.read_bytes())
    data[data.index(b"badbad") + 500] ^= 4
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged or cut one.*CRC"):
        safe_unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["good.png"]


@pytest.mark.parametrize("name", MODES)
def test_another_file_of_that_name_is_left_alone(tmp_path: Path, name: str) -> None:
    archive = made(tmp_path / name, FILES)
    mine = tmp_path / "out" / "train" / "train_sharp" / "000" / "00000000.png"
    mine.parent.mkdir(parents=True)
    for content in (b"x" * 500, b"shorter"):
        mine.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{mine}: expected nothing, or the same file as in {name}"):
            safe_unpack(archive, tmp_path / "out")
        assert mine.read_bytes() == content


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = made(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(archives, "_free", lambda _: 1000)
    with pytest.raises(OSError, match=r"no space left: unpacking a\.zip needs 0\.1 MB, 0\.0 MB are free"):
        safe_unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.zip: expected a zip or tar archive, got nothing"):
        safe_unpack(tmp_path / "none.zip", tmp_path)


def test_what_a_killed_run_left_is_gone_on_with(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", FILES)
    safe_unpack(archive, tmp_path / "whole")
    first, empty, last = (tmp_path / "out" / name for name in FILES)
    first.parent.mkdir(parents=True)
    first.write_bytes(FILES["train/train_sharp/000/00000000.png"])
    last.parent.mkdir(parents=True)
    last.write_bytes(b"")  # as after a power cut
    empty.with_name(".part.00000001.png").write_bytes(b"half")
    time = first.stat().st_mtime_ns
    safe_unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert first.stat().st_mtime_ns == time
