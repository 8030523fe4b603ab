import logging
import os
import threading
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from vsr.data import video_cache
from vsr.data.video_cache import frames_of_video
from vsr.utils.files import temporary_beside
from vsr.utils.images import read_image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten flat 64x48 frames whose red grows by 20 from frame to frame."""
    path = tmp_path / "my clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for frame in range(10):
        writer.write(np.full((48, 64, 3), (30, 60, 20 * frame), np.uint8))  # OpenCV's order: blue first
    writer.release()
    return path


def test_the_frames_of_a_video_come_in_order_and_in_rgb(video: Path) -> None:
    folder, files = frames_of_video(video)
    assert files == tuple(f"{i:08d}.png" for i in range(10))
    means = [read_image(folder / file).mean((0, 1)) for file in files]
    expected = [(20 * frame, 60, 30) for frame in range(10)]
    np.testing.assert_allclose(means, expected, atol=4)  # JPEG's error


def test_a_video_is_decoded_once_and_again_when_it_changes(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, _ = frames_of_video(video)
    assert f"decoding {video} into {first}" in caplog.text
    caplog.clear()
    assert frames_of_video(video)[0] == first
    assert caplog.text == ""
    os.utime(video, ns=(0, 0))
    assert frames_of_video(video)[0] != first


def test_several_at_once_decode_once(video: Path) -> None:
    with mock.patch.object(video_cache, "_decode", wraps=video_cache._decode) as decode:
        results: list[tuple[str, ...]] = []
        threads = [threading.Thread(target=lambda: results.append(frames_of_video(video)[1])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert decode.call_count == 1
    assert [len(files) for files in results] == [10] * 4


def test_what_a_killed_process_left_is_made_anew(video: Path, cache: Path) -> None:
    folder, _ = frames_of_video(video)
    partial = temporary_beside(folder)
    folder.rename(partial)
    (partial / "00000099.png").write_text("half a frame")
    assert len(frames_of_video(video)[1]) == 10
    assert not partial.exists()


@pytest.mark.parametrize("keep", [0, 0.6])
def test_a_truncated_video_is_refused_and_leaves_nothing(video: Path, cache: Path, keep: float) -> None:
    data = video.read_bytes()
    video.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"my clip.avi: expected a (whole )?video, but .*truncated"):
        frames_of_video(video)
    assert [path.suffix for path in (cache / "frames").iterdir()] == [".lock"]


def test_text_named_as_a_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no video")
    with pytest.raises(ValueError, match=r"a\.mp4: expected a video, but OpenCV cannot open it"):
        frames_of_video(path)


def test_a_cache_that_cannot_be_written_names_the_variable(video: Path, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(OSError, match=r"cannot keep the frames of .*VSR_CACHE"):
        frames_of_video(video)


def test_a_frame_that_cannot_be_written_leaves_nothing(video: Path, cache: Path) -> None:
    with (
        mock.patch.object(cv2, "imwrite", return_value=False),
        pytest.raises(OSError, match=r"00000000\.png could not be"),
    ):
        frames_of_video(video)
    assert [path.suffix for path in (cache / "frames").iterdir()] == [".lock"]
