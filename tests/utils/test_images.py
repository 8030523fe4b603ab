"""Image files of every kind, broken ones among them, and colour against the official values."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vsr.utils.images as images
from vsr.utils.images import image_size, natural_key, read_image, rgb_to_y, to_uint8, write_image

COLOR = np.load(Path(__file__).parents[1] / "golden" / "color.npz")
LOSSLESS = [".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"]


@pytest.fixture
def frame() -> np.ndarray:
    """RGB noise of 5 x 7, whose channels differ."""
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def exif(orientation: int) -> bytes:
    """The smallest EXIF block: one entry, the orientation (tag 0x112)."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode(frame: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, frame[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_lossless_file_returns_what_was_written(tmp_path: Path, frame: np.ndarray, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", frame)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), frame)
    assert image_size(str(tmp_path / f"a{suffix}")) == (5, 7)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]  # no temporary file is left


def test_channels_on_disk_are_what_other_programs_expect(tmp_path: Path) -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    write_image(tmp_path / "red.png", red)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]  # OpenCV reads B, G, R


def test_a_jpeg_is_near_what_was_written(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy()
    write_image(tmp_path / "a.JPG", ramp)
    assert np.abs(read_image(tmp_path / "a.JPG").astype(int) - ramp).max() <= 4
    assert image_size(tmp_path / "a.JPG") == (64, 64)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_grey_is_expanded_to_three_channels(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"grey{suffix}").write_bytes(cv2.imencode(suffix, np.full((4, 6), 77, np.uint8))[1].tobytes())
    assert np.array_equal(read_image(tmp_path / f"grey{suffix}"), np.full((4, 6, 3), 77, np.uint8))
    assert image_size(tmp_path / f"grey{suffix}") == (4, 6)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photograph_is_turned_upright_and_its_size_agrees(
    tmp_path: Path, frame: np.ndarray, suffix: str, orientation: int
) -> None:
    data = encode(frame, suffix)
    if suffix == ".png":
        data = data[:33] + png_chunk(b"eXIf", exif(orientation)) + data[33:]
    else:
        block = b"Exif\0\0" + exif(orientation)
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    (tmp_path / f"a{suffix}").write_bytes(data)
    upright = read_image(tmp_path / f"a{suffix}")
    assert upright.shape[:2] == image_size(tmp_path / f"a{suffix}") == ((5, 7) if orientation == 1 else (7, 5))
    if suffix == ".png":  # 6: the camera was turned by a quarter, clockwise brings the picture up
        assert np.array_equal(upright, frame if orientation == 1 else np.rot90(frame, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_refused_not_cut(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"deep{suffix}").write_bytes(cv2.imencode(suffix, np.full((4, 6, 3), 999, np.uint16))[1].tobytes())
    with pytest.raises(ValueError, match=rf"deep{suffix}: expected 8 bits a channel in grey or RGB, got 16 bits"):
        read_image(tmp_path / f"deep{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_alpha_channel_is_refused_not_dropped(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"glass{suffix}").write_bytes(cv2.imencode(suffix, np.full((4, 6, 4), 99, np.uint8))[1].tobytes())
    with pytest.raises(ValueError, match=rf"glass{suffix}: expected 8 bits .* got an alpha channel"):
        read_image(tmp_path / f"glass{suffix}")


def test_a_transparent_colour_of_a_png_is_refused_too(tmp_path: Path, frame: np.ndarray) -> None:
    data = encode(frame, ".png")
    (tmp_path / "key.png").write_bytes(data[:33] + png_chunk(b"tRNS", bytes(6)) + data[33:])
    with pytest.raises(ValueError, match="got an alpha channel"):
        read_image(tmp_path / "key.png")


def test_the_header_alone_already_refuses(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(cv2.imencode(".png", np.zeros((4, 6, 4), np.uint16))[1].tobytes())
    with pytest.raises(ValueError, match="got 16 bits and an alpha channel"):
        image_size(tmp_path / "deep.png")


@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_not_there_is_a_missing_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png: expected an image file, got nothing"):
        read(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="got a folder"):
        read(tmp_path)


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", bytes(100)], ids=repr)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_rubbish_names_the_file(tmp_path: Path, read: Callable[[Path], object], content: bytes, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\{suffix}: expected"):
        read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("lost", [1, 12, 40, 0.3, 0.7])
def test_a_file_without_its_end_is_refused(tmp_path: Path, suffix: str, lost: float) -> None:
    texture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(texture, suffix)
    cut = lost if isinstance(lost, int) else int(len(data) * lost)
    (tmp_path / f"cut{suffix}").write_bytes(data[:-cut])
    with pytest.raises(ValueError, match=rf"cut{suffix}: expected a whole image"):
        read_image(tmp_path / f"cut{suffix}")


def test_the_end_mark_of_a_preview_is_not_taken_for_the_end(tmp_path: Path, frame: np.ndarray) -> None:
    data = encode(np.repeat(np.repeat(frame, 8, 0), 8, 1), ".jpg")
    preview = encode(frame, ".jpg")  # in an application segment, as cameras put it
    segment = b"\xff\xe2" + struct.pack(">H", len(preview) + 2) + preview
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert read_image(tmp_path / "a.jpg").shape == (40, 56, 3)
    (tmp_path / "cut.jpg").write_bytes((data[:2] + segment + data[2:])[:-20])
    with pytest.raises(ValueError, match="expected a whole image"):
        read_image(tmp_path / "cut.jpg")


def test_bytes_after_the_end_do_no_harm(tmp_path: Path, frame: np.ndarray) -> None:
    for suffix in (".png", ".jpg"):
        (tmp_path / f"a{suffix}").write_bytes(encode(frame, suffix) + b"trailer")
        assert read_image(tmp_path / f"a{suffix}").shape == (5, 7, 3)


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path, frame: np.ndarray) -> None:
    data = bytearray(encode(frame, ".png"))
    data[60] ^= 1  # in the compressed pixels
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png: expected an image, but its \d+ bytes cannot be decoded"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_header_of_too_many_pixels_is_refused_before_decoding(
    tmp_path: Path, frame: np.ndarray, read: Callable[[Path], object]
) -> None:
    data = encode(frame, ".png")
    header = struct.pack(">II", 2**20, 2**20) + data[24:29]
    (tmp_path / "bomb.png").write_bytes(data[:8] + png_chunk(b"IHDR", header) + data[33:])
    with pytest.raises(ValueError, match="expected 1 to 268435456 pixels, got 1048576 x 1048576"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.png", np.zeros((4, 4, 3), np.float32), "expected an RGB image uint8"),
        ("a.png", np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        ("a.png", np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        ("a.gif", np.zeros((4, 4, 3), np.uint8), r"expected a suffix among .* got '.gif'"),
        ("a", np.zeros((4, 4, 3), np.uint8), "got ''"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_a_crop_that_is_a_view_is_written_as_it_looks(tmp_path: Path, frame: np.ndarray) -> None:
    write_image(tmp_path / "a.png", frame[::2, ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), frame[::2, ::-1])


def test_names_sort_by_their_numbers() -> None:
    names = ["f10.png", "f9.png", "f09.png", "a", "f9b", "10", "9", "f9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "f9", "f09.png", "f9.png", "f9b", "f10.png"]


def test_a_tensor_becomes_the_official_image() -> None:
    tensor = torch.from_numpy(COLOR["tensor2img/in"])
    official = COLOR["tensor2img/rgb2bgr_uint8_0_1"][..., ::-1]  # it is B, G, R, for OpenCV
    assert np.array_equal(to_uint8(tensor), official)
    assert np.array_equal(to_uint8(tensor[None]), official)


def test_rounding_is_half_to_even_and_rubbish_is_defined() -> None:
    values = torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255, -1.0, 2.0, float("nan"), float("inf")], dtype=torch.float64)
    # float32 keeps these halves exact only after the product; 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    row = to_uint8(values.expand(3, 1, -1).float())[0, :, 0].tolist()
    assert row == [0, 2, 2, 0, 255, 0, 255]


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 3, 4, 4), (4, 4, 3)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image: expected float \(3, h, w\)"):
        to_uint8(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["u8", "f32"])
@pytest.mark.parametrize("y_only", [False, True])
@pytest.mark.parametrize("name", ["rgb2ycbcr", "bgr2ycbcr"])
def test_ycbcr_equals_the_official_conversion(name: str, kind: str, y_only: bool) -> None:
    result, expected = getattr(images, name)(COLOR[kind], y_only=y_only), COLOR[f"{name}_{kind}_y{int(y_only)}"]
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert np.abs(result.astype(float) - expected).max() <= (0 if kind == "u8" else 1e-6)


@pytest.mark.parametrize("y_only", [False, True])
def test_ycbcr_of_a_tensor_equals_the_official_conversion(y_only: bool) -> None:
    tensor = torch.from_numpy(COLOR["f32"]).permute(2, 0, 1)[None]
    expected = torch.from_numpy(COLOR[f"rgb2ycbcr_pt_y{int(y_only)}"])
    torch.testing.assert_close(images.rgb2ycbcr(tensor, y_only=y_only), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ycbcr2rgb", "ycbcr2bgr"])
def test_the_way_back_equals_the_official_one(name: str) -> None:
    assert np.array_equal(getattr(images, name)(COLOR["u8"]), COLOR[f"{name}_u8"])
    assert np.abs(getattr(images, name)(COLOR["f32"]) - COLOR[f"{name}_f32"]).max() <= 1e-6


def test_luma_of_black_and_white_is_16_and_235() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert rgb_to_y(image).tolist() == [[16, 235]]


def test_colour_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 or float \(h, w, 3\), got int64 \(2, 2, 3\)"):
        rgb_to_y(np.zeros((2, 2, 3), np.int64))
    with pytest.raises(ValueError, match="expected float"):
        rgb_to_y(torch.zeros(3, 2, 2, dtype=torch.uint8))
