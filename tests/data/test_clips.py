from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vsr.data.clips import ClipSet

NOTHING = {
    "dataroot_lq": None, "scale": 4, "gt_downscale": 1, "filename_tmpl": "{}", "meta_info_file": None,
    "clips": None, "exclude_clips": None, "frames": None, "io_backend": None, "exact": True,
}  # fmt: skip


def clip_set(root: Path | None, **arguments: Any) -> ClipSet:
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    return ClipSet(**({"dataroot_gt": str(root) if root else None} | NOTHING | arguments))


@pytest.fixture
def gt(write_clip: Any) -> Path:
    """Clips 2, 10 and b of 3, 5 and 4 frames."""
    for name, count in {"2": 3, "10": 5, "b": 4}.items():
        root = write_clip("gt", name, count=count)
    return root


def lengths(clips: ClipSet) -> dict[str, int]:
    return {clip.name: len(clip) for clip in clips.clips}


def test_frames_are_numbered_through_all_clips(gt: Path) -> None:
    clips = clip_set(gt)
    assert len(clips) == 12
    places = [(clip.name, position) for clip, position in map(clips.locate, range(12))]
    assert places == [("2", i) for i in range(3)] + [("10", i) for i in range(5)] + [("b", i) for i in range(4)]
    for index in (-1, 12):
        with pytest.raises(IndexError):
            clips.locate(index)


def test_a_pair_of_a_clip_names_its_files_and_size(gt: Path, write_clip: Any) -> None:
    for name, count in {"2": 3, "10": 5, "b": 4}.items():
        lq = write_clip("lq", name, count=count, size=(8, 12), suffix=".jpg")
    clip, position = clip_set(gt, dataroot_lq=lq).locate(4)
    assert clip.pair(position) == (
        str(gt / "10" / "00000001.png"),
        str(lq / "10" / "00000001.jpg"),
        (8, 12),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"clips": ["b", "2"]}, {"2": 3, "b": 4}),
        ({"exclude_clips": ["10"]}, {"2": 3, "b": 4}),
        ({"clips": ["10", "b"], "exclude_clips": ["b"]}, {"10": 5}),
        ({"frames": [0, 1]}, {"2": 2, "10": 2, "b": 2}),
        ({"frames": [1, -1]}, {"2": 2, "10": 4, "b": 3}),
        ({"frames": [0, -3]}, {"2": 1, "10": 3, "b": 2}),
    ],
)
def test_clips_and_frames_can_be_chosen(gt: Path, choice: dict[str, Any], expected: dict[str, int]) -> None:
    assert lengths(clip_set(gt, **choice)) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"clips": ["1"]}, r"clips: expected a name in the data set, got '1'. Did you mean '10'\? Known: 2, 10, b"),
        ({"exclude_clips": ["x"]}, "exclude_clips: expected a name in the data set, got 'x'"),
        ({"exclude_clips": ["2", "10", "b"]}, "leave none"),
        ({"clips": []}, "leave none"),
        ({"frames": [0, 3]}, r"frames: expected .* the 3 frames of clip '2' \(0 to 2; -1 is the last\), got \[0, 3\]"),
        ({"frames": [2, 1]}, "frames: expected"),
        ({"frames": [0]}, r"frames: expected \[first, last\], got \[0\]"),
        ({"frames": [-9, 1]}, "frames: expected"),
        ({"filename_tmpl": "x4"}, "filename_tmpl: expected one {} for the name of the GT file, got 'x4'"),
        ({"filename_tmpl": "{}{0}"}, "filename_tmpl"),
        ({"scale": 1}, "dataroot_lq: expected a folder at scale 1, got none"),
        ({"io_backend": {"type": "lmbd"}}, "io_backend.type: expected disk or lmdb"),
        ({"dataroot_gt": None}, "dataroot_gt: expected this or dataroot_lq, got neither"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(gt: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_set(gt, **choice)


def test_a_list_of_clips_chooses_clips_and_first_frames(gt: Path, tmp_path: Path) -> None:
    listed = tmp_path / "meta.txt"
    listed.write_text("\ufeffb 4 (32,48,3)\n\n  10 2\n\n", encoding="utf-8")
    assert lengths(clip_set(gt, meta_info_file=listed)) == {"10": 2, "b": 4}
    assert lengths(clip_set(gt, meta_info_file=listed, frames=[1, -1])) == {"10": 1, "b": 3}
    listed.write_text("b 5 (32,48,3)\n")
    with pytest.raises(ValueError, match="meta_info_file: clip 'b': expected 5 frames, found 4"):
        clip_set(gt, meta_info_file=listed)
    listed.write_text("c 5\n")
    with pytest.raises(ValueError, match=r"meta_info_file .*meta.txt: expected a name in the data set, got 'c'"):
        clip_set(gt, meta_info_file=listed)


def test_missing_and_superfluous_lq_clips_are_named_both_ways(gt: Path, write_clip: Any) -> None:
    write_clip("lq", "2", count=3, size=(8, 12))
    lq = write_clip("lq", "11", count=3, size=(8, 12))
    with pytest.raises(ValueError, match=r"the same clips .*\(3\), got 2: 2 of GT are missing in LQ \(10, b\); "
                                         r"1 of LQ are missing in GT \(11\)"):  # fmt: skip
        clip_set(gt, dataroot_lq=lq)
    assert lengths(clip_set(gt, dataroot_lq=lq, clips=["2"])) == {"2": 3}  # what is not chosen need not fit


def test_missing_and_superfluous_lq_frames_are_named_with_their_clip(write_clip: Any) -> None:
    gt = write_clip("gt", "a", names=["0", "1", "2"])
    lq = write_clip("lq", "a", names=["1", "2", "3"], size=(8, 12))
    with pytest.raises(ValueError, match=r"frames of clip 'a' .* 1 of GT are missing in LQ \(0\); 1 of .* \(3\)"):
        clip_set(gt, dataroot_lq=lq)


def test_lq_frames_are_matched_by_name_not_by_order(write_clip: Any) -> None:
    gt = write_clip("gt", "a", names=["1", "2", "10"])
    lq = write_clip("lq", "a", names=["LR_1x4", "LR_10x4", "LR_2x4"], size=(8, 12))
    (clip,) = clip_set(gt, dataroot_lq=lq, filename_tmpl="LR_{}x4").clips
    assert clip.lq is not None
    assert clip.lq.files == ("LR_1x4.png", "LR_2x4.png", "LR_10x4.png")


def test_two_frames_of_one_name_are_refused(write_clip: Any) -> None:
    root = write_clip("gt", "a", names=["0", "1"])
    write_clip("gt", "a", names=["1"], suffix=".jpg")
    with pytest.raises(
        ValueError, match=r"gt/a: expected one image for each name, got 1\.(jpg and 1\.png|png and 1\.jpg)"
    ):
        clip_set(root)


def test_two_roots_that_are_clips_themselves_need_no_common_name(write_clip: Any) -> None:
    gt, lq = write_clip("sharp", count=2), write_clip("small", count=2, size=(8, 12))
    (clip,) = clip_set(gt, dataroot_lq=lq).clips
    assert (clip.name, clip.pair(0).lq) == ("sharp", str(lq / "00000000.png"))
    gt, lq = write_clip("sharps", "a", count=2), write_clip("smalls", "b", count=2, size=(8, 12))
    with pytest.raises(ValueError, match="the same clips"):  # but a clip in a root does
        clip_set(gt, dataroot_lq=lq)


def test_sizes_that_do_not_fit_stop_the_construction(gt: Path, write_clip: Any) -> None:
    lq = write_clip("lq", "b", count=4, size=(16, 24))
    with pytest.raises(ValueError, match=r"gt/b/00000000.png: expected a GT of 4 x 16x24"):
        clip_set(gt, dataroot_lq=lq, clips=["b"])


def test_clips_that_are_too_short_or_small_are_named(gt: Path) -> None:
    clips = clip_set(gt)
    clips.require(3, "x")
    with pytest.raises(ValueError, match="clip '2': expected 4 or more frames for num_frame 4, got 3"):
        clips.require(4, "num_frame 4")
    clips.require_size(8, 32)
    with pytest.raises(ValueError, match="gt_size: expected a crop within the GT frames of clip '2', 32x48, got 36"):
        clips.require_size(9, 36)


def test_a_video_is_a_clip_and_matches_frames_by_position(
    write_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "gt").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "gt" / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for _ in range(3):
        writer.write(np.zeros((32, 48, 3), np.uint8))
    writer.release()
    lq = write_clip("lq", "a", names=["im1", "im2", "im3"], size=(8, 12))
    (clip,) = clip_set(tmp_path / "gt", dataroot_lq=lq).clips
    assert (clip.name, [clip.frame(i) for i in range(3)]) == ("a", ["00000000", "00000001", "00000002"])
    assert clip.pair(2).lq == str(lq / "a" / "im3.png")
    write_clip("lq", "a", names=["im4"], size=(8, 12))
    with pytest.raises(ValueError, match=r"clip 'a': expected as many frames in LQ as in GT, got 4 in .* and 3 in"):
        clip_set(tmp_path / "gt", dataroot_lq=lq)
