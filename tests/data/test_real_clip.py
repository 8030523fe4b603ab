"""A real clip, Big Buck Bunny, as a video file, as frames and as an LMDB of each encoding: the same windows."""

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from vsr.data.encodings import ENCODINGS
from vsr.data.fingerprint import fingerprint
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.registry import DATASETS

VIDEO = Path(__file__).parents[2] / "datasets" / "demo" / "bigbuckbunny.mp4"
FRAMES = 5
CUT = {"frames": [0, FRAMES - 1], "scale": 4}
KINDS: dict[str, dict[str, Any]] = {
    "VideoTrainDataset": {"num_frame": 3, "gt_size": 64, "interval_list": [1, 2], "random_reverse": True, "seed": 3},
    "VideoRecurrentTrainDataset": {"num_frame": 4, "gt_size": 64, "seed": 3},
    "VideoTestDataset": {"num_frame": 3},
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The arguments for each form of the clip. Frames are cut out here, not by vsr."""
    folder = tmp_path_factory.mktemp("bunny")
    (folder / "frames" / "bigbuckbunny").mkdir(parents=True)
    capture = cv2.VideoCapture(str(VIDEO))
    for i in range(FRAMES):
        done, frame = capture.read()
        assert done
        cv2.imwrite(str(folder / "frames" / "bigbuckbunny" / f"{i:08d}.png"), frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    capture.release()
    found: dict[str, dict[str, Any]] = {"frames": {"dataroot_gt": str(folder / "frames")}}
    for encoding in ENCODINGS:
        target = make_lmdb(Recipe(str(folder / "frames"), str(folder / f"{encoding}.lmdb"), encoding), verify="none")
        found[encoding] = {"dataroot_gt": str(target), "io_backend": {"type": "lmdb"}}
    return found


@pytest.mark.slow  # all frames of the video are decoded
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_clip_gives_the_same_windows_in_every_form(
    forms: dict[str, dict[str, Any]],
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path_factory.getbasetemp() / "bunny-cache"))  # decoded once for all kinds
    built = {
        name: DATASETS.build({"type": kind, **CUT, **KINDS[kind], **arguments})
        for name, arguments in {"video": {"dataroot_gt": str(VIDEO)}, **forms}.items()
    }
    video = built.pop("video")
    assert video.clip_names == ["bigbuckbunny"]
    items: list[Any] = [(0, 0), (2, 1)] if video.is_train else [4]
    for item in items:
        expected = video[item]
        assert expected["lq"].float().std() > 5  # a picture, not a blank
        for name, dataset in built.items():
            sample = dataset[item]
            assert sample["key"] == expected["key"], name
            assert torch.equal(sample["lq"], expected["lq"]), (name, item)
            assert torch.equal(sample["gt"], expected["gt"]), (name, item)
    if kind == "VideoTestDataset":
        assert {fingerprint(dataset) for dataset in built.values()} == {fingerprint(video)}
