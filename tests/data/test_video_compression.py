"""Compression by a video codec, where PyAV is installed; and the message where it is not."""

import builtins
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from vsr.registry import DEGRADATIONS

try:
    import av  # noqa: F401
except ImportError:
    installed = False
else:
    installed = True
needs_av = pytest.mark.skipif(not installed, reason="PyAV is not installed")


def frames(count: int = 5, size: tuple[int, int] = (64, 80)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.uniform(0, 255, (size[0] + 8, size[1] + 8)), 1)
    texture = np.repeat(((texture - texture.min()) / np.ptp(texture) * 255)[..., None], 3, 2)
    return [np.ascontiguousarray(texture[i : i + size[0], i : i + size[1]], np.float32) for i in range(count)]


def through(stage: dict[str, Any], images: list[np.ndarray]) -> np.ndarray:
    built = DEGRADATIONS.build({"type": "VideoCompression", **stage})
    return np.stack(built.apply_clip(images, built.draw(np.random.default_rng(0)), (16, 20)))


@needs_av
def test_a_higher_rate_factor_leaves_less_and_frames_stay_in_order() -> None:
    images = frames()
    errors = [np.abs(through({"crf_range": [crf, crf]}, images) - np.stack(images)).mean() for crf in (10, 30, 45)]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 4
    got = through({"crf_range": [10, 10]}, images)
    for i in range(5):
        assert np.argmin([np.abs(got[i] - image).mean() for image in images]) == i


@needs_av
def test_the_same_frames_give_the_same_bits_and_odd_sides_are_kept() -> None:
    images = frames(3, (37, 51))
    one, two = through({}, images), through({}, images)
    assert one.shape == (3, 37, 51, 3)
    np.testing.assert_array_equal(one, two)


@needs_av
def test_a_bitrate_takes_the_place_of_the_rate_factor() -> None:
    images = frames(6)
    poor, rich = (through({"bitrate": [rate, rate]}, images) for rate in (1e4, 4e6))
    assert np.abs(poor - np.stack(images)).mean() > 5 * np.abs(rich - np.stack(images)).mean()
    assert through({"codec": ["mpeg4"], "bitrate": [1e5, 1e5]}, images).shape == poor.shape


@needs_av
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"codec": ["h999"]}, "codec: expected a video encoder that PyAV has, got 'h999'"),
        ({"codec": ["aac"]}, "codec: expected a video encoder that PyAV has, got 'aac'"),
        ({"codec": []}, "codec: expected at least one name"),
        ({"codec": ["mpeg4"]}, r"bitrate: expected \[least, most\] for the codec mpeg4"),
        ({"crf_range": [0, 60]}, "crf_range: expected 51 or less, got 60"),
    ],
)
def test_wrong_settings_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DEGRADATIONS.build({"type": "VideoCompression", **option})


@needs_av
def test_what_a_codec_refuses_is_told_with_the_size_of_the_frames() -> None:
    with pytest.raises(ValueError, match="VideoCompression: libx264 cannot encode 3 frames of 64x80 with bitrate 1"):
        through({"bitrate": [1, 1]}, frames(3))


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def failing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ValueError, match=r"VideoCompression: expected the package av .*pip install av"):
        DEGRADATIONS.build({"type": "VideoCompression"})
