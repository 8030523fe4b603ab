"""Files made by Pillow, as other programs write them: what their headers tell, and that decoding agrees."""

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faultkit import bomb_png
from PIL import Image

from vsr.utils import image_headers
from vsr.utils.image_headers import MAX_PIXELS, most_pixels, read_header
from vsr.utils.images import encoded_size, image_size, read_image

ROOT = Path(__file__).parents[2]
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}
EXACT = ("PNG", "BMP", "TIFF", "WEBP", "PPM")


@pytest.fixture
def picture() -> Any:
    """An image of 21 x 34 whose rows, columns and colours all differ."""
    rows, columns = np.mgrid[:21, :34]
    return np.stack([10 * rows, 7 * columns, 200 - 3 * rows - columns], 2).astype(np.uint8)


def written(folder: Path, kind: str, image: Any, **options: Any) -> Path:
    """Write an array or an image of Pillow's to a file of this kind."""
    path = folder / f"a{SUFFIXES[kind]}"
    if kind == "WEBP":
        options = {"lossless": True, "exact": True} | options
    given = image if isinstance(image, Image.Image) else Image.fromarray(image)
    given.save(path, kind, **options)
    return path


@pytest.mark.parametrize("kind", SUFFIXES)
def test_sizes_of_all_kinds_are_read_without_decoding(
    tmp_path: Path, picture: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, kind, picture)
    if kind in EXACT:
        np.testing.assert_array_equal(read_image(path), picture)
    else:
        assert read_image(path).shape == picture.shape
    monkeypatch.setattr("cv2.imdecode", lambda *a: pytest.fail("decoded"))
    assert image_size(path) == (21, 34)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"big_tiff": True}),
        ("JPEG", {"progressive": True}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": False}),
    ],
)  # fmt: skip
def test_sizes_of_their_variants_are_read_too(tmp_path: Path, picture: Any, kind: str, options: dict[str, Any]) -> None:
    path = written(tmp_path, kind, picture, **options)
    assert image_size(path) == read_image(path).shape[:2] == (21, 34)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_orientation_is_applied_and_its_size_agrees(
    tmp_path: Path, picture: Any, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    if kind == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    path = written(tmp_path, kind, picture, **options)
    # Exif 2.32: what lies at the top left of the stored pixels
    upright = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1), 7: np.rot90(picture, 2).transpose(1, 0, 2), 8: np.rot90(picture),
    }[orientation]  # fmt: skip
    found = read_image(path)
    assert image_size(path) == found.shape[:2]
    np.testing.assert_allclose(found.astype(int), upright, atol=0 if kind in EXACT else 4)


def test_an_orientation_behind_the_pixels_of_a_png_is_left_alone_by_all(tmp_path: Path, picture: Any) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = written(tmp_path, "PNG", picture, exif=exif)
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + struct.unpack_from(">I", data, at)[0]]
    rest = data.replace(chunk, b"")
    end = rest.index(b"IEND") - 4
    path.write_bytes(rest[:end] + chunk + rest[end:])
    np.testing.assert_array_equal(read_image(path), picture)
    assert image_size(path) == (21, 34)


@pytest.mark.parametrize(
    ("kind", "mode", "trouble"),
    [
        ("JPEG", "CMYK", "CMYK colours"), ("TIFF", "CMYK", "CMYK colours"), ("TIFF", "LAB", "colours of kind 8"),
        ("PNG", "RGBA", "an alpha channel"), ("PNG", "LA", "an alpha channel"), ("TIFF", "RGBA", "an alpha channel"),
        ("TIFF", "LA", "an alpha channel"), ("WEBP", "RGBA", "an alpha channel"), ("PNG", "I;16", "16 bits"),
        ("TIFF", "I;16", "16 bits"), ("TIFF", "F", "32 bits"), ("PPM", "I;16", "16 bits"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_by_its_name(
    tmp_path: Path, picture: Any, kind: str, mode: str, trouble: str
) -> None:
    if mode in ("I;16", "F"):
        image = Image.fromarray(picture[..., 0].astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        image = Image.fromarray(picture).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(100)
    path = written(tmp_path, kind, image)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=rf"a\{SUFFIXES[kind]}: expected 8 bits a channel in grey or RGB, got "):
            read(path)
        with pytest.raises(ValueError, match=trouble):
            read(path)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "P"), ("PNG", "1"), ("PNG", "L"), ("TIFF", "P"), ("TIFF", "1"), ("TIFF", "L"), ("TIFF", "YCbCr"),
     ("BMP", "P"), ("BMP", "1"), ("BMP", "RGBA"), ("JPEG", "L"), ("WEBP", "L"), ("PPM", "L"), ("PPM", "1")],
)  # fmt: skip
def test_fewer_colours_are_read_as_they_look(tmp_path: Path, picture: Any, kind: str, mode: str) -> None:
    image = Image.fromarray(picture).convert(mode)
    found = read_image(written(tmp_path, kind, image))
    tolerance = 3 if kind == "JPEG" or mode == "YCbCr" else 0
    np.testing.assert_allclose(found.astype(int), np.asarray(image.convert("RGB")), atol=tolerance)


@pytest.mark.parametrize(("kind", "what"), [("PNG", "3 frames"), ("WEBP", "3 frames"), ("TIFF", "3 pages")])
def test_animations_and_several_pages_are_refused(tmp_path: Path, picture: Any, kind: str, what: str) -> None:
    others = [Image.fromarray(255 - picture), Image.fromarray(picture // 2)]
    path = written(tmp_path, kind, picture, save_all=True, append_images=others)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=rf"a\{SUFFIXES[kind]}: expected .*, got {what}\."):
            read(path)


def test_a_reduced_copy_in_a_tiff_is_not_a_page(tmp_path: Path, picture: Any) -> None:
    small = Image.fromarray(picture[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = written(tmp_path, "TIFF", picture, save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(path), picture)


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "JPEG2000", "ICO"])
def test_other_kinds_are_refused_whatever_their_suffix(tmp_path: Path, picture: Any, kind: str) -> None:
    stream = io.BytesIO()
    try:
        Image.fromarray(picture).save(stream, kind)
    except (KeyError, OSError):
        pytest.skip("Pillow was built without it")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"a\.png: expected an image \(PNG, JPEG, BMP, TIFF, WebP or PPM\), but its"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_content_counts_not_the_suffix(tmp_path: Path, picture: Any, suffix: str) -> None:
    written(tmp_path, "BMP", picture).rename(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"b{suffix}"), picture)


@pytest.mark.parametrize("lost", [1, 20, 0.3, 0.9])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_truncated_files_of_all_kinds_are_refused(tmp_path: Path, picture: Any, kind: str, lost: float) -> None:
    path = written(tmp_path, kind, picture)
    data = path.read_bytes()
    path.write_bytes(data[: -(lost if isinstance(lost, int) else int(lost * len(data)))])
    with pytest.raises(ValueError, match=rf"a\{SUFFIXES[kind]}: expected "):
        read_image(path)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_one_pixel_is_an_image(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, np.full((1, 1, 3), 128, np.uint8))
    assert image_size(path) == (1, 1)
    assert read_image(path).tolist() == [[[128, 128, 128]]]


def test_rubbish_behind_every_signature_is_no_crash(tmp_path: Path, picture: Any) -> None:
    rng = np.random.default_rng(0)
    for kind in SUFFIXES:
        data = bytearray(written(tmp_path, kind, picture).read_bytes())
        for _ in range(300):
            broken = bytearray(data)
            for at in rng.integers(2, min(len(data), 300), 4):
                broken[at] = rng.integers(256)
            cut = bytes(broken[: int(rng.integers(2, len(data)))]) if rng.random() < 0.5 else bytes(broken)
            read_header(cut, whole=False)
            read_header(cut, whole=True)


def test_a_header_that_lies_far_inside_is_found_in_the_whole_file(tmp_path: Path, picture: Any) -> None:
    path = written(tmp_path, "JPEG", picture)
    data = path.read_bytes()
    comment = b"\xff\xfe" + struct.pack(">H", 0xFFFF) + bytes(0xFFFD)  # 64 kB before the size
    path.write_bytes(data[:2] + comment + data[2:])
    assert encoded_size(path.read_bytes()[: image_headers.HEADER_BYTES], "a") is None
    assert image_size(path) == (21, 34)
    directory_at_the_end = tmp_path / "b.tif"
    large = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert cv2.imwrite(str(directory_at_the_end), large)
    assert image_size(directory_at_the_end) == (200, 300)


# --- more pixels than memory ----------------------------------------------------------------------


def bombs(side: int) -> dict[str, bytes]:
    """Small files whose headers ask for side x side pixels."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    jpeg = bytearray(stream.getvalue())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    bmp = b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, side, side, 1, 24, 1, 0, 0, 0, 0, 0) + bytes(46)
    entries = [(256, 4, side), (257, 4, side), (258, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 1)]
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    webp = b"VP8X" + struct.pack("<IBBBB", 10, 0, 0, 0, 0) + 2 * struct.pack("<I", side - 1)[:3] + bytes(20)
    webp = b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp
    return {
        "png": bomb_png(side), "jpg": bytes(jpeg), "bmp": bmp, "tif": tiff, "webp": webp,
        "ppm": b"P6 %d %d 255\n" % (side, side),
    }  # fmt: skip


READ_WITH_LITTLE_MEMORY = """
import resource, sys
from vsr.utils.images import image_size, read_image
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for path in sys.argv[1:]:
    for read in (image_size, read_image):
        try:
            read(path)
            print("read", path)
        except ValueError as error:
            print(error)
"""


@pytest.mark.fault
def test_a_bomb_is_refused_by_its_header_within_256_mb(tmp_path: Path) -> None:
    side = 30000
    files = []
    for suffix, data in bombs(side).items():
        files.append(tmp_path / f"bomb.{suffix}")
        files[-1].write_bytes(data)
    assert files[0].stat().st_size < 200_000
    command = [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(files)
    for path, line in zip((file for file in files for _ in range(2)), lines, strict=True):
        assert line.startswith(f"{path}: expected 1 to {MAX_PIXELS} pixels, got {side} x {side}."), line
        assert "VSR_MAX_PIXELS=NUMBER in the environment allows more" in line


def test_the_limit_can_be_moved_by_the_environment(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "PNG", picture)
    monkeypatch.setenv("VSR_MAX_PIXELS", str(21 * 34))
    assert read_image(path).shape == picture.shape
    monkeypatch.setenv("VSR_MAX_PIXELS", str(21 * 34 - 1))
    with pytest.raises(ValueError, match=r"a\.png: expected 1 to 713 pixels, got 21 x 34"):
        read_image(path)
    monkeypatch.setenv("VSR_MAX_PIXELS", "1e9")
    with pytest.raises(ValueError, match="VSR_MAX_PIXELS: expected a number of pixels, got '1e9'"):
        most_pixels()


def test_a_file_of_more_bytes_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # a hole: no disk is filled
    with pytest.raises(ValueError, match=r"a\.png: expected at most \d+ bytes, got 1099511627776"):
        read_image(tmp_path / "a.png")
