"""Image files and colour: what crosses the border between disk and memory.

In memory an image is RGB, uint8 (h, w, 3). BGR exists inside this module only, because OpenCV
reads and writes it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.utils.files import atomic_write
from vsr.utils.image_headers import HEADER_BYTES, KINDS, Header, is_truncated, most_pixels, read_header

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
MOST_BYTES = 8  # of a file for each pixel that it may have

Array = npt.NDArray[Any]
Frame = npt.NDArray[np.uint8]  # (h, w, 3) RGB
Image = TypeVar("Image", Array, Tensor)


def natural_key(text: str) -> tuple[list[Any], str]:
    """Sort key under which 'frame2' comes before 'frame10'; equal numbers fall back to the text."""
    parts: list[Any] = re.split(r"([0-9]+)", text)
    parts[1::2] = map(int, parts[1::2])
    return parts, text


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
        ValueError: the file is empty, truncated, damaged, no image or several; it has 16 bits a channel, an alpha
            channel or CMYK colours, which would be lost; or it has more pixels than ``most_pixels`` allows.
    """
    header = _whole_header(data, name)
    if is_truncated(data, header):
        raise ValueError(f"{name}: expected a whole image, but the file ends too early. Copy or make it again")
    flags = cv2.IMREAD_COLOR  # turns it upright
    if header.orientation == 1:  # an orientation behind the pixels of a PNG counts for nobody: image_size cannot see it
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # its own limits on sides and pixels
        raise ValueError(f"{name}: expected an image, but OpenCV cannot decode it: {error.err}") from error
    if image is None:
        raise ValueError(
            f"{name}: expected an image, but its {len(data)} bytes cannot be decoded. "
            "The file is damaged; copy or make it again"
        )
    if image.shape[:2] != header.size:
        raise ValueError(
            f"{name}: expected {header.size} (height, width) as its header says, got {image.shape[:2]} when decoded. "
            "The file is damaged; copy or make it again"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # type: ignore[return-value]


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as ``read_image`` would give them, from the header alone where possible.

    Raises:
        FileNotFoundError, ValueError: as ``read_image``, as far as the header shows.
    """
    start = _read_bytes(path, HEADER_BYTES)
    size = encoded_size(start, path) if len(start) == HEADER_BYTES else None
    return size or whole_size(start if len(start) < HEADER_BYTES else _read_bytes(path), path)


def encoded_size(start: bytes, name: str | Path) -> tuple[int, int] | None:
    """Return (height, width) from the first bytes of an image file; None: they do not show it.

    Args:
        start: The first HEADER_BYTES of the file.
        name: Of the file; starts the messages.

    Raises:
        ValueError: as ``decode_image``, as far as the header shows.
    """
    header = read_header(start, whole=False)
    if header is None:
        return None
    _check_header(name, header)
    return header.size


def whole_size(data: bytes, name: str | Path) -> tuple[int, int]:
    """Return (height, width) from all bytes of an image file. Raises as ``decode_image``, but decodes nothing."""
    return _whole_header(data, name).size


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


# --- bytes ---------------------------------------------------------------------------------------


def _read_bytes(path: str | Path, limit: int = -1) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an image file, got {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES * most_pixels():
            raise ValueError(f"{path}: expected at most {MOST_BYTES * most_pixels()} bytes, got {size}. It is no image")
        data = file.read(limit)
    if not data:
        raise ValueError(f"{path}: expected an image, got an empty file. Copy or make it again")
    return data


def _whole_header(data: bytes, name: str | Path) -> Header:
    header = read_header(data, whole=True)
    if header is None:
        raise ValueError(
            f"{name}: expected an image ({KINDS}), but its {len(data)} bytes are of another kind or damaged. "
            "Copy or make it again"
        )
    _check_header(name, header)
    return header


def _check_header(path: str | Path, header: Header) -> None:
    if not 0 < header.height * header.width <= most_pixels():
        raise ValueError(
            f"{path}: expected 1 to {most_pixels()} pixels, got {header.height} x {header.width}. The file is damaged, "
            "or must be cut into parts; VSR_MAX_PIXELS=NUMBER in the environment allows more"
        )
    if header.trouble:
        raise ValueError(
            f"{path}: expected 8 bits a channel in grey or RGB, got {header.trouble}. "
            "Convert the file first; vsr would silently cut it"
        )


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
