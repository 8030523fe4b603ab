"""Image files and colour: what crosses the border between disk and memory.

In memory an image is RGB, uint8 (h, w, 3). BGR exists inside this module only, because OpenCV
reads and writes it.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.utils.files import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
MAX_PIXELS = 2**28  # 16384 x 16384: 805 MB decoded; a header that asks for more is taken for a broken one

Array = npt.NDArray[Any]
Frame = npt.NDArray[np.uint8]  # (h, w, 3) RGB
Image = TypeVar("Image", Array, Tensor)

_PNG = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 1 << 16  # enough for what usually stands before the pixels; else the file is decoded


def natural_key(text: str) -> tuple[list[Any], str]:
    """Sort key under which 'frame2' comes before 'frame10'; equal numbers fall back to the text."""
    parts: list[Any] = re.split(r"([0-9]+)", text)
    parts[1::2] = map(int, parts[1::2])
    return parts, text


class _Header(NamedTuple):
    """What a file says about itself before its pixels. ``trouble`` is what vsr would lose by reading it."""

    height: int
    width: int
    trouble: str = ""
    turned: bool = False  # it may carry an EXIF orientation, which swaps the sides when decoded


def read_image(path: str | Path) -> Frame:
    """Read an image file as RGB uint8 (h, w, 3), turned upright if the camera noted its orientation.

    Grey images are expanded to three equal channels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as ``decode_image``.
    """
    return decode_image(_read_bytes(path), path)


def decode_image(data: bytes, name: str | Path) -> Frame:
    """Decode the content of an image file as ``read_image`` does.

    Args:
        data: The file's bytes.
        name: Of the file; starts the messages.

    Raises:
        ValueError: the file is empty, truncated, damaged or no image; it has 16 bits a channel or
            an alpha channel, which would be lost; or it is larger than MAX_PIXELS.
    """
    header = _header(data)
    if header is not None:
        _check_header(name, header)
    if _is_truncated(data):
        raise ValueError(f"{name}: expected a whole image, but the file ends too early. Copy or make it again")
    # PNG and JPEG were judged by their header. Elsewhere only an unchanged decoding shows what is in the file.
    known = data.startswith((_PNG, b"\xff\xd8"))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if known else cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # its own limits on sides and pixels
        raise ValueError(f"{name}: expected an image, but OpenCV cannot decode it: {error.err}") from error
    if image is None:
        raise ValueError(
            f"{name}: expected an image, but its {len(data)} bytes cannot be decoded. "
            "The file is damaged or of another kind; copy or make it again"
        )
    channels = 1 if image.ndim == 2 else image.shape[2]
    trouble = _trouble(bits=8 * image.dtype.itemsize, alpha=channels not in (1, 3))
    _check_header(name, _Header(image.shape[0], image.shape[1], trouble))
    rgb: Frame = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if channels == 1 else cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return rgb


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as ``read_image`` would give them, from the header alone where possible.

    Raises:
        FileNotFoundError, ValueError: as ``read_image``, as far as the header shows.
    """
    size = encoded_size(_read_bytes(path, HEADER_BYTES), path)
    return size if size is not None else read_image(path).shape[:2]


def encoded_size(start: bytes, name: str | Path) -> tuple[int, int] | None:
    """Return (height, width) from the first bytes of an image file; None: they do not show it.

    Args:
        start: The first HEADER_BYTES of the file, or all of it.
        name: Of the file; starts the messages.

    Raises:
        ValueError: as ``decode_image``, as far as the header shows.
    """
    header = _header(start)
    if header is None or header.turned:
        return None
    _check_header(name, header)
    return header.height, header.width


def write_image(path: str | Path, image: Frame, *, jpeg_quality: int = 95) -> None:
    """Write RGB uint8 (h, w, 3) to a file whose suffix names the format. The file is whole or absent.

    Raises:
        ValueError: ``image`` is of another type or shape, or nothing can write such a suffix.
        OSError: the folder is missing or the disk is full.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{path}: expected an RGB image uint8 (h, w, 3), got {image.dtype} {image.shape}")
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: expected a suffix among {', '.join(IMAGE_SUFFIXES)}, got '{path.suffix}'")
    quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not done:
        raise ValueError(f"{path}: OpenCV cannot encode {image.shape} as {suffix}")
    with atomic_write(path) as file:
        file.write(data.tobytes())


def to_uint8(image: Tensor) -> Frame:
    """Turn an RGB tensor (3, h, w) or (1, 3, h, w) in [0, 1] into uint8 (h, w, 3): clamped, rounded half to even.

    A stereo pair, (6, h, w), becomes (h, w, 6). NaN becomes 0, so that the result does not depend on the device.
    """
    shape = tuple(image.shape)
    if image.dim() == 4 and shape[0] == 1:
        image = image[0]
    if image.dim() != 3 or image.shape[0] not in (3, 6) or not image.is_floating_point():
        raise ValueError(
            f"image: expected float (3, h, w) or (1, 3, h, w), 6 for 3 of a pair, got {image.dtype} {shape}"
        )
    levels = image.detach().float().clamp(0, 1).nan_to_num(0).mul(255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


# --- headers -------------------------------------------------------------------------------------


def _read_bytes(path: str | Path, limit: int = -1) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an image file, got {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        data = file.read(limit)
    if not data:
        raise ValueError(f"{path}: expected an image, got an empty file. Copy or make it again")
    return data


def _check_header(path: str | Path, header: _Header) -> None:
    if not 0 < header.height * header.width <= MAX_PIXELS:
        raise ValueError(
            f"{path}: expected 1 to {MAX_PIXELS} pixels, got {header.height} x {header.width}. "
            "The file is damaged, or must be cut into parts"
        )
    if header.trouble:
        raise ValueError(
            f"{path}: expected 8 bits a channel in grey or RGB, got {header.trouble}. "
            "Convert the file first; vsr would silently cut it"
        )


def _trouble(*, bits: int, alpha: bool) -> str:
    found = ([f"{bits} bits"] if bits > 8 else []) + (["an alpha channel"] if alpha else [])
    return " and ".join(found)


def _header(data: bytes) -> _Header | None:
    """Read the header of a PNG, JPEG or BMP; None: another format, or the header is not within ``data``."""
    if data.startswith(_PNG):
        return _png_header(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_header(data)
    if data.startswith(b"BM") and len(data) >= 26 and struct.unpack_from("<I", data, 14)[0] >= 40:
        width, height = struct.unpack_from("<ii", data, 18)
        return _Header(abs(height), abs(width))  # a negative height: rows from top to bottom
    return None


def _png_header(data: bytes) -> _Header | None:
    """PNG, third edition (W3C 2025): chunks of length, type, content, checksum; IHDR is the first."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    alpha, turned, at = colour in (4, 6), False, 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"IDAT", b"IEND"):
            break
        alpha |= kind == b"tRNS"
        turned |= kind == b"eXIf"
        at += length + 12
    return _Header(height, width, _trouble(bits=depth, alpha=alpha), turned)


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """Return (marker, position of its content) of the segments up to the first scan (ITU-T T.81, annex B)."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        found.append((marker, at + 4))
        if marker == 0xDA:  # start of scan: entropy-coded data follow
            break
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return found


def _jpeg_header(data: bytes) -> _Header | None:
    turned = False
    for marker, at in _jpeg_segments(data):
        turned |= marker == 0xE1 and data[at : at + 4] == b"Exif"
        # SOF0 ... SOF15 hold the size; C4, C8 and CC among them are tables
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 5 <= len(data):
            bits, height, width = struct.unpack_from(">BHH", data, at)
            return _Header(height, width, _trouble(bits=bits, alpha=False), turned)
    return None


def _is_truncated(data: bytes) -> bool:
    """Tell whether a PNG lacks its last chunk or a JPEG its end mark; decoders fill such holes with grey."""
    if data.startswith(_PNG):
        at = 8
        while at + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"IEND":
                return False
            at += length + 12
        return True
    if data.startswith(b"\xff\xd8"):
        segments = _jpeg_segments(data)
        # before the scan a preview may hold an end mark of its own
        return not segments or segments[-1][0] != 0xDA or data.find(b"\xff\xd9", segments[-1][1]) < 0
    return False


# --- colour --------------------------------------------------------------------------------------

# ITU-R BT.601 for [0, 1] RGB to [16, 235] luma and [16, 240] chroma: rows R, G, B; columns Y, Cb, Cr.
_RGB_TO_YCBCR = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786], [24.966, 112.0, -18.214]])
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])
# The inverse with the digits that MATLAB's ycbcr2rgb has: rows Y, Cb, Cr; columns R, G, B; for [0, 255].
_YCBCR_TO_RGB = 255.0 * np.array(
    [[0.00456621, 0.00456621, 0.00456621], [0.0, -0.00153632, 0.00791071], [0.00625893, -0.00318811, 0.0]]
)
_RGB_OFFSET = np.array([-222.921, 135.576, -276.836])


def rgb2ycbcr(image: Image, *, y_only: bool = False) -> Image:
    """Convert RGB to YCbCr (BT.601, studio range), as MATLAB does.

    Args:
        image: uint8 (h, w, 3) in [0, 255], float (h, w, 3) in [0, 1], or float tensor (..., 3, h, w) in [0, 1].
        y_only: Return luma alone: (h, w), or (..., 1, h, w) for a tensor.

    Returns:
        Of the type and range of ``image``; uint8 is rounded.
    """
    if isinstance(image, Tensor):
        return _tensor_to_ycbcr(image, y_only)
    return _convert(image, lambda rgb: _affine(rgb, _RGB_TO_YCBCR[:, : 1 if y_only else 3], _YCBCR_OFFSET), y_only)


def bgr2ycbcr(image: Array, *, y_only: bool = False) -> Array:
    """As ``rgb2ycbcr`` for an array whose channels are B, G, R."""
    return rgb2ycbcr(image[..., ::-1], y_only=y_only)


def ycbcr2rgb(image: Array) -> Array:
    """Convert YCbCr (h, w, 3), uint8 or float in [0, 1], to RGB of the same type.

    A colour outside RGB keeps its value in float. In uint8 it wraps around, 256 being 0, as in the official
    function (BasicSR's): convert in float and clip where such colours occur.
    """
    return _convert(image, lambda ycbcr: _affine(255.0 * ycbcr, _YCBCR_TO_RGB, _RGB_OFFSET), False)


def ycbcr2bgr(image: Array) -> Array:
    """As ``ycbcr2rgb`` with the channels B, G, R."""
    return np.ascontiguousarray(ycbcr2rgb(image)[..., ::-1])


def rgb_to_y(image: Image) -> Image:
    """Return the luma of an RGB image; types and ranges as in ``rgb2ycbcr``."""
    return rgb2ycbcr(image, y_only=True)


def _affine(pixels: Array, matrix: Array, offset: Array) -> Array:
    return pixels @ matrix + offset[: matrix.shape[1]]


def _convert(image: Array, conversion: Callable[[Array], Array], drop_channels: bool) -> Array:
    if image.ndim != 3 or image.shape[2] != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise ValueError(f"image: expected uint8 or float (h, w, 3), got {image.dtype} {image.shape}")
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    result = conversion(image.astype(np.float64) / scale)  # in [0, 255]
    if drop_channels:
        result = result[..., 0]
    if image.dtype == np.uint8:
        return np.rint(result).astype(np.int64).astype(np.uint8)  # modulo 256; RGB to YCbCr never leaves the range
    return (result / 255.0).astype(image.dtype)


def _tensor_to_ycbcr(image: Tensor, y_only: bool) -> Tensor:
    if image.dim() < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(f"image: expected float (..., 3, h, w), got {image.dtype} {tuple(image.shape)}")
    columns = 1 if y_only else 3
    matrix = torch.as_tensor(_RGB_TO_YCBCR[:, :columns], dtype=image.dtype, device=image.device)
    offset = torch.as_tensor(_YCBCR_OFFSET[:columns], dtype=image.dtype, device=image.device)
    # no matrix product: on a GPU it may run in TF32, whose 10 bits are too few for a metric
    planes = (image.unsqueeze(-4) * matrix.T[..., None, None]).sum(-3)
    return (planes + offset[:, None, None]) / 255.0
