"""scripts/prepare_humaneva.py and prepare_charades.py: killed, repeated, with damaged and odd files."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from killing import environment, kill_and_repeat, tree
from kit import ROOT

from vsr.data.prediction import CharadesDataset, HumanEvaDataset
from vsr.data.prediction_lists import split_by_hash
from vsr.data.prepare_clips import prepare_charades, prepare_humaneva
from vsr.utils.images import read_image, write_image

SMALL: dict[str, Any] = {"input_size": 2, "frame_interval": 3, "W": 16, "H": 12}
SHORT = ("--input_size", "2", "--frame_interval", "3", "--quality", "80")


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"prepare_{name}.py"), *arguments]


def run(command: list[str]) -> tuple[int, str, str]:
    # FFmpeg and OpenCV quote what they find in a damaged file, whatever bytes these are.
    result = subprocess.run(
        command, env=environment(), text=True, errors="replace", capture_output=True, timeout=120, check=False
    )
    return result.returncode, result.stdout, result.stderr


def write_video(path: Path, count: int, *, code: str = "MJPG", size: tuple[int, int] = (64, 48)) -> Path:
    """Flat frames whose red grows by 4 from frame to frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, size)
    assert writer.isOpened()
    for frame in range(count):
        writer.write(np.full((*size[::-1], 3), (30, 60, 4 * frame), np.uint8))
    writer.release()
    return path


@pytest.fixture
def humaneva(tmp_path: Path) -> Path:
    """Five videos of 3 scenes; one of them, with an accent, too short to be of use."""
    for name in ("S1/Box_1_(C1)", "S1/Box_1_(C2)", "S1/Jog 1_(C1)", "S2/Jog_1_(BW1)"):
        write_video(tmp_path / "HumanEva" / "video" / f"{name}.avi", 12)
    write_video(tmp_path / "HumanEva" / "video" / "S2" / "Jög_1_(BW2).avi", 5)
    return tmp_path / "HumanEva"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder of 12 videos, 9 of which the hash makes train."""
    for i in range(12):
        write_video(tmp_path / "Charades_v1_480" / f"{i:02}ÄB.mp4", 8, code="mp4v")
    return tmp_path / "Charades_v1_480"


def packed(folder: Path, archive: Path) -> Path:
    """Make a zip or tar of a folder, with its name in front."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in files:
                zipped.write(path, path.relative_to(folder.parent))
            zipped.writestr("__MACOSX/Charades_v1_480/._00ÄB.mp4", b"of macOS")
    else:
        with tarfile.open(archive, "w") as tar:
            for path in files:
                tar.add(path, path.relative_to(folder.parent))
    return archive


# --- HumanEva ------------------------------------------------------------------------------------


def test_humaneva_killed_at_any_moment_and_repeated_gives_the_same_files(humaneva: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    (whole / "video").parent.mkdir()
    (whole / "video").symlink_to(humaneva / "video")
    lines = prepare_humaneva(str(whole), quality=80, shortest=7, workers=0)
    assert lines[0] == f"{whole / 'image'}: 5 clips, 5 made now"
    assert lines[-1].startswith("1 of 5 clips have fewer than 7 frames, the longest 12")
    kill_and_repeat(script("humaneva", "--root", str(humaneva), "--workers", "0", *SHORT), humaneva / "image", after=12)
    made = tree(humaneva / "image")
    assert made == tree(whole / "image")
    clips = {name.partition("/")[0] for name in made if name.endswith(".jpg")}
    assert clips == {"S1_Box_1_(C1)", "S1_Box_1_(C2)", "S1_Jog 1_(C1)", "S2_Jog_1_(BW1)", "S2_Jög_1_(BW2)"}
    assert sum(name.endswith(".jpg") for name in made) == 4 * 12 + 5
    assert (humaneva / "image" / "S1_Box_1_(C1)" / "000011.jpg").is_file()
    for partition in ("train", "val", "test"):
        text = (humaneva / f"{partition}_list.csv").read_text(encoding="utf-8")
        assert text == (whole / f"{partition}_list.csv").read_text(encoding="utf-8")
        assert text.startswith("clip\n")

    # each frame is the video's, but for what JPEG loses twice
    red = read_image(humaneva / "image" / "S1_Box_1_(C2)" / "000010.jpg")[..., 0].mean()
    assert abs(red - 40) < 4
    before = tree(humaneva)
    assert "5 clips, 0 made now" in prepare_humaneva(str(humaneva), quality=80, shortest=7, workers=0)[0]
    assert tree(humaneva) == before
    # and the data set takes it all
    sizes = [len(HumanEvaDataset(dataroot=str(humaneva), partition=p, **SMALL).clips) for p in ("train", "val", "test")]
    assert sum(sizes) == 4
    assert min(sizes) == 1


def test_humaneva_dry_run_writes_nothing(humaneva: Path) -> None:
    before = tree(humaneva)
    status, output, _ = run(script("humaneva", "--root", str(humaneva), "--dry_run"))
    assert status == 0
    assert tree(humaneva) == before
    assert "5 clips, 5 to make" in output
    assert "train_list.csv: " in output


def test_humaneva_other_options_are_refused(humaneva: Path) -> None:
    arguments: dict[str, Any] = {"workers": 0, "shortest": 7}
    prepare_humaneva(str(humaneva), quality=80, **arguments)
    with pytest.raises(ValueError, match=r"image: expected a folder .* same arguments, .*quality: 80 \(now 90\)"):
        prepare_humaneva(str(humaneva), quality=90, **arguments)
    with pytest.raises(ValueError, match="quality: expected 1 to 100, got 0"):
        prepare_humaneva(str(humaneva), quality=0, **arguments)
    with pytest.raises(ValueError, match="root: expected HumanEva's folder, got the file"):
        prepare_humaneva(str(humaneva / "train_list.csv"), **arguments)
    with pytest.raises(FileNotFoundError, match="root: expected an existing file or folder"):
        prepare_humaneva(str(humaneva / "nothing"), **arguments)
    with pytest.raises(ValueError, match="root: expected videos"):
        prepare_humaneva(str(humaneva / "image" / "S1_Box_1_(C1)"), **arguments)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_video_is_named_and_the_others_are_kept(humaneva: Path, keep: float) -> None:
    video = humaneva / "video" / "S2" / "Jog_1_(BW1).avi"
    data = video.read_bytes()
    video.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"^.*Jog_1_\(BW1\).avi: expected a (whole )?video, but .*truncated"):
        prepare_humaneva(str(humaneva), quality=80, workers=0)
    assert (humaneva / "image" / "S1_Box_1_(C1)" / "000011.jpg").is_file()
    assert not (humaneva / "image" / "S2_Jog_1_(BW1)").exists()
    assert not list(humaneva.glob("*.csv"))
    video.write_bytes(data)
    assert "5 clips, 2 made now" in prepare_humaneva(str(humaneva), quality=80, workers=0)[0]


@pytest.mark.slow
def test_several_processes_make_the_same_and_end_at_a_damaged_video_in_one_line(humaneva: Path) -> None:
    command = script("humaneva", "--root", str(humaneva), "--workers", "2", *SHORT)
    video = humaneva / "video" / "S2" / "Jog_1_(BW1).avi"
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    status, output, errors = run(command)
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1].startswith(f"error: {video}: expected a video, but")
    assert "Traceback" not in errors
    video.write_bytes(data)
    status, output, errors = run(command)
    assert status == 0, errors
    assert f"{humaneva / 'image'}: 5 clips, " in output
    assert "1 of 5 clips have fewer than 7 frames, the longest 12" in output
    made = tree(humaneva / "image")
    shutil.rmtree(humaneva / "image")
    prepare_humaneva(str(humaneva), quality=80, workers=0)
    assert tree(humaneva / "image") == made


def test_lists_of_the_user_are_checked_before_the_work_and_kept(humaneva: Path) -> None:
    for partition, text in {
        "train": "S1/Box_1_(C1).avi\nS1_Box_1_(C2)\n", "val": "S2_Jog_1_(BW1)\n", "test": "S1_Jog 2_(C1)\n",
    }.items():  # fmt: skip
        (humaneva / f"{partition}_list.csv").write_text(text)
    arguments: dict[str, Any] = {"workers": 0, "shortest": 7}
    with pytest.raises(ValueError, match=r"test_list.csv:1: expected a clip of .*Did you mean 'S1_Jog 1_\(C1\)'"):
        prepare_humaneva(str(humaneva), **arguments)
    (humaneva / "test_list.csv").write_text("S1_Box_1_(C1)\n")
    with pytest.raises(
        ValueError, match=r"test_list.csv: expected clips that train_list.csv does not hold, .* share 1"
    ):
        prepare_humaneva(str(humaneva), **arguments)
    (humaneva / "test_list.csv").unlink()
    with pytest.raises(ValueError, match=r"test_list.csv: expected this list beside train_list.csv"):
        prepare_humaneva(str(humaneva), **arguments)
    assert not list((humaneva / "image").glob("S*"))
    (humaneva / "test_list.csv").write_text("S1_Jog 1_(C1)\n")
    lines = prepare_humaneva(str(humaneva), **arguments)
    assert f"{humaneva / 'train_list.csv'}: 2 clips" in lines
    assert "1 clips are in no list and not used; without the three lists they are made anew" in lines
    assert (humaneva / "test_list.csv").read_text() == "S1_Jog 1_(C1)\n"


def test_frames_that_another_tool_made_are_left_alone_if_they_are_complete(humaneva: Path) -> None:
    for video in (humaneva / "video").rglob("*.avi"):
        for i in range(5 if "ö" in video.name else 12):
            folder = humaneva / "image" / f"{video.parent.name}_{video.stem}"
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
    before = tree(humaneva / "image")
    lines = prepare_humaneva(str(humaneva), workers=0, shortest=7)
    assert lines[-1].startswith("1 of 5 clips have fewer than 7 frames")
    assert tree(humaneva / "image") == before
    for i in range(9):
        (humaneva / "image" / "S1_Box_1_(C2)" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"got 3 of 12 frames of 'S1_Box_1_\(C2\)', made by another tool"):
        prepare_humaneva(str(humaneva), workers=0, shortest=7)


def test_videos_of_the_official_archives_are_found_and_names_must_differ(tmp_path: Path) -> None:
    write_video(tmp_path / "S1" / "Image_Data" / "Box_1_(C1).avi", 7)
    prepare_humaneva(str(tmp_path), workers=0)
    assert (tmp_path / "image" / "S1_Box_1_(C1)" / "000006.jpg").is_file()
    write_video(tmp_path / "S1_Box_1_(C1).avi", 7)
    with pytest.raises(ValueError, match=r"expected one clip of the name 'S1_Box_1_\(C1\)', got .* and .*Rename one"):
        prepare_humaneva(str(tmp_path), workers=0)


# --- Charades ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_charades_zip_killed_at_any_moment_and_repeated_gives_the_same_files(videos: Path, tmp_path: Path) -> None:
    archive = packed(videos, tmp_path / "Charades_v1_480.zip")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    lines = prepare_charades(str(archive), str(whole), quality=80, shortest=7, workers=0)
    assert lines[0] == f"{whole / 'Charades_v1_480_img'}: 12 clips, 12 made now"
    kill_and_repeat(script("charades", str(archive), "--root", str(parts), "--workers", "0", *SHORT), parts, after=50)
    assert tree(parts) == tree(whole)
    frames = [name for name in tree(parts) if name.endswith(".jpg")]
    assert len(frames) == 12 * 8
    assert "Charades_v1_480_img/03ÄB/0000007.jpg" in frames
    assert not [name for name in tree(parts) if ".part" in name or ".unpacked" in name]
    names = [f"{i:02}ÄB" for i in range(12)]
    for partition, expected in split_by_hash(names).items():
        assert (parts / f"{partition}_list.csv").read_text(encoding="utf-8").splitlines() == ["clip", *expected]
    again = prepare_charades(str(archive), str(parts), quality=80, workers=0)
    assert "12 clips, 0 made now" in again[0]
    assert tree(parts) == tree(whole)
    prepare_charades(str(videos), str(tmp_path / "third"), quality=80, workers=0)  # a folder of the same videos
    assert tree(tmp_path / "third") == tree(whole)
    assert CharadesDataset(dataroot=str(parts), partition="train", **SMALL).clip_names == split_by_hash(names)["train"]


@pytest.mark.slow
def test_charades_frames_of_a_tar_are_moved_and_of_a_folder_linked_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "Charades_v1_rgb"
    for i in range(8):
        (source / f"C{i}").mkdir(parents=True)
        for frame in range(1, 9):
            picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            write_image(source / f"C{i}" / f"C{i}-{frame:06}.jpg", picture)
    archive = packed(source, tmp_path / "Charades_v1_rgb.tar")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare_charades(str(archive), str(whole), workers=0)
    made = whole / "Charades_v1_480_img"
    assert {name: hash_ for name, hash_ in tree(made).items() if name.endswith(".jpg")} == tree_files(source)
    kill_and_repeat(script("charades", str(archive), "--root", str(parts), "--workers", "0"), parts, after=20)
    assert tree(parts) == tree(whole)

    linked = tmp_path / "linked"
    prepare_charades(str(source), str(linked), workers=0)
    assert (linked / "Charades_v1_480_img" / "C3").is_symlink()
    one, other = (
        CharadesDataset(dataroot=str(root), partition="train", **SMALL)[0, 0] for root in (linked, whole)
    )  # fmt: skip
    assert one["key"] == other["key"]
    assert np.array_equal(one["lq"], other["lq"])
    write_video(tmp_path / "more" / "x.mp4", 3, code="mp4v")
    with pytest.raises(ValueError, match=r"same arguments, .*of: frames \(now videos\)"):
        prepare_charades(str(tmp_path / "more"), str(whole), workers=0)


def test_folders_of_frames_keep_their_names_and_are_linked_to_where_they_are_now(tmp_path: Path) -> None:
    for name in ("a.1", "a.2", "b c"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        write_image(tmp_path / "frames" / name / "0.jpg", np.zeros((4, 4, 3), np.uint8))
    made = tmp_path / "Charades" / "Charades_v1_480_img"
    for place in ("frames", "moved"):
        prepare_charades(str(tmp_path / place), str(tmp_path / "Charades"), workers=0)
        assert {path.name: path.resolve() for path in made.iterdir() if path.is_dir()} == {
            name: tmp_path / place / name for name in ("a.1", "a.2", "b c")
        }
        if place == "frames":
            (tmp_path / "frames").rename(tmp_path / "moved")


def tree_files(folder: Path) -> dict[str, str]:
    return {name: hash_ for name, hash_ in tree(folder).items() if hash_}


def test_lists_are_never_written_over(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    for i in range(5):
        (tmp_path / "first" / f"{i:02}ÄB.mp4").write_bytes((videos / f"{i:02}ÄB.mp4").read_bytes())
    root = tmp_path / "Charades"
    prepare_charades(str(tmp_path / "first"), str(root), workers=0)
    lists = {path.name: path.read_bytes() for path in root.glob("*.csv")}
    lines = prepare_charades(str(videos), str(root), workers=0)  # more clips come to those that are there
    assert "12 clips, 7 made now" in lines[0]
    assert lines[-1].startswith("12 of 12 clips have fewer than 501 frames")
    assert lines[-2] == "7 clips are in no list and not used; without the three lists they are made anew"
    assert {path.name: path.read_bytes() for path in root.glob("*.csv")} == lists
    (root / "test_list.csv").unlink()
    with pytest.raises(ValueError, match=r"test_list.csv: expected this list beside train_list.csv"):
        prepare_charades(str(videos), str(root), workers=0)
    for path in root.glob("*.csv"):
        path.unlink()
    prepare_charades(str(videos), str(root), workers=0)
    whole = {path.name: path.read_bytes() for path in root.glob("*.csv")}
    assert whole["train_list.csv"].decode().split() == [
        "clip",
        *split_by_hash([f"{i:02}ÄB" for i in range(12)])["train"],
    ]
    (root / "val_list.csv").unlink()  # as a run leaves them that is killed between two lists
    prepare_charades(str(videos), str(root), workers=0)
    assert {path.name: path.read_bytes() for path in root.glob("*.csv")} == whole


@pytest.mark.slow
def test_charades_mistakes_end_in_one_line(videos: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "Charades")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "empty").mkdir()
    mixed = tmp_path / "mixed"
    write_video(mixed / "a.mp4", 3, code="mp4v")
    (mixed / "b").mkdir()
    write_image(mixed / "b" / "0.jpg", np.zeros((4, 4, 3), np.uint8))
    twice = tmp_path / "twice"
    for folder in ("x", "y"):
        write_video(twice / folder / "a.mp4", 3, code="mp4v")
    bad = zipfile.ZipFile(tmp_path / "bad.zip", "w")
    bad.writestr("../a.mp4", b"")
    bad.close()
    for source, message in {
        "nothing.zip": "source: expected an existing file or folder",
        "broken.zip": "expected a whole zip or tar archive",
        "bad.zip": "leads outside",
        "empty": "source: expected videos or folders of frames",
        "mixed": "source: expected videos or frames .* got both: a.mp4 and b/0.jpg",
        "mixed/b": "expected a folder of frames for each clip, got 0.jpg",
        "mixed/a.mp4": "source: expected a folder, or a zip or tar archive, got the file",
        "twice": "expected one clip of the name 'a', got x/a.mp4 and y/a.mp4",
    }.items():
        with pytest.raises((ValueError, OSError), match=message):
            prepare_charades(str(tmp_path / source), root, workers=0)
    assert not Path(root).exists()
    status, output, errors = run(script("charades", str(tmp_path / "empty"), "--root", root))
    assert (status, output) == (1, "")
    assert errors.startswith("error: source: expected videos")
    assert len(errors.splitlines()) == 1
    before = tree(tmp_path)
    status, output, _ = run(script("charades", str(videos), "--root", root, "--dry_run"))
    assert status == 0
    assert "12 clips, 12 to make" in output
    assert tree(tmp_path) == before
