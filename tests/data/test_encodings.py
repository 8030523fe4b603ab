import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from vsr.data.augment import Region
from vsr.data.encodings import ENCODINGS, Picture, encode
from vsr.utils.images import decode_image

Image = npt.NDArray[np.uint8]


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(image: Image, encoding: str, **arguments: Any) -> Picture:
    return Picture(memoryview(encode(image, encoding, **arguments)), "x.lmdb/a.png")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (96, 97), (130, 20), (65, 129)])
def test_an_image_comes_back_as_it_was_whole_and_in_parts(encoding: str, size: tuple[int, int]) -> None:
    image, (height, width) = noise(*size), size
    found = picture(image, encoding, tile=32)
    assert found.size == size
    assert found.crops == (encoding != "png")
    np.testing.assert_array_equal(found.read(), image)
    rng = np.random.default_rng(1)
    for _ in range(20):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        part = Region(top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))
        expected = image[part.top : part.top + part.height, part.left : part.left + part.width]
        np.testing.assert_array_equal(found.read(part), expected)


@pytest.mark.parametrize("level", [None, 0, 9])
def test_png_is_a_file_that_others_read(level: int | None) -> None:
    image = noise(20, 30)
    value = encode(image, "png", level=level)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED), image[..., ::-1])
    np.testing.assert_array_equal(decode_image(value, "x"), image)


def test_a_crop_decodes_only_the_tiles_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    found = picture(noise(128, 192), "tiles", tile=32)  # 4 x 6 tiles
    decoded: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: decoded.append(1) or decode(*a))
    for region, tiles in (
        (Region(0, 0, 32, 32), 1),
        (Region(32, 64, 64, 32), 2),
        (Region(31, 31, 2, 2), 4),
        (Region(0, 0, 128, 192), 24),
    ):
        decoded.clear()
        found.read(region)
        assert len(decoded) == tiles


def test_raw_is_a_view_of_the_bytes_that_it_was_made_of() -> None:
    value = bytearray(encode(noise(8, 9), "raw"))
    frame = Picture(memoryview(value), "x").read(Region(2, 3, 4, 5))
    value[16 + 8 * 9 + 2 * 9 + 3] = 77  # the green plane's row 2, column 3, after a header of 16 bytes
    assert frame[0, 0, 1] == 77


@pytest.mark.parametrize("channels", [3, 1])
def test_pixels_of_2019_are_bgr_or_grey_without_a_header(channels: int) -> None:
    image = noise(6, 7)[..., :channels]
    found = Picture(memoryview(image.tobytes()), "x", shape=(6, 7, channels))
    np.testing.assert_array_equal(found.read(), image[..., ::-1] if channels == 3 else np.repeat(image, 3, axis=2))
    np.testing.assert_array_equal(found.read(Region(1, 2, 3, 4)), found.read()[1:4, 2:6])
    with pytest.raises(ValueError, match=r"x: expected 126 bytes \(6x7x3 pixels as meta_info.pkl says\), got 125"):
        Picture(memoryview(noise(6, 7).tobytes()[:-1]), "x", shape=(6, 7, 3))


def damaged(encoding: str, change: Any) -> memoryview:
    value = bytearray(encode(noise(40, 40), encoding, tile=16))
    return memoryview(bytes(change(value) or value))


@pytest.mark.parametrize(
    ("encoding", "change", "message"),
    [
        ("raw", lambda v: v[:-1], "expected 4816 bytes .40x40 pixels., got 4815"),
        ("raw", lambda v: v[:9], "expected 16 bytes"),
        ("raw", lambda v: struct.pack_into("<B", v, 4, 9), "got version 9, kind 1. A newer vsr made it"),
        ("raw", lambda v: struct.pack_into("<I", v, 8, 1 << 31), "pixels, got 2147483648 x 40"),
        ("tiles", lambda v: v[:-1], "expected .* bytes .4 tiles., got"),
        ("tiles", lambda v: v[:20], "expected 24 bytes"),
        ("tiles", lambda v: v[:30], "expected 40 bytes .4 tiles., got 30"),
        ("tiles", lambda v: struct.pack_into("<I", v, 16, 0), "expected tiles of 1 pixel or more"),
        ("png", lambda v: v[:-20], "the file ends too early"),
    ],
)
def test_damage_is_named(encoding: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"x: .*{message}"):
        Picture(damaged(encoding, change), "x").read()


def test_a_tile_that_cannot_be_decoded_is_named() -> None:
    value = bytearray(encode(noise(40, 40), "tiles", tile=20))
    end = struct.unpack_from("<I", value, 24)[0]
    value[40 : 40 + end] = bytes(end)  # the first of the four
    found = Picture(memoryview(bytes(value)), "x.lmdb/a.png")
    found.read(Region(0, 20, 40, 20))
    with pytest.raises(ValueError, match=r"x.lmdb/a.png: expected 20x20 pixels in the tile of row 0, column 0"):
        found.read()
