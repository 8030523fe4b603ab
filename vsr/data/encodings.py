"""How an image becomes one value of an LMDB, and how it, or a part of it, is read back.

png    an image file as it is, as BasicSR has it. Any format that ``vsr.utils.images`` reads is understood.
tiles  PNGs of small tiles: a crop decodes those that it touches.
raw    the pixels, plane by plane: a crop is a view of the memory map.

tiles and raw begin with a header that says what they are, little-endian:

    4 bytes  magic, 89 'VSR' (no image format begins so)
    1        version, 1
    1        kind: 1 raw, 2 tiles
    2        zero
    4 + 4    height, width
    raw      3 planes R, G, B of height x width bytes
    tiles    4 + 4 height, width of a tile (those of the last row and column may be smaller);
             4 for each tile, row by row: where its PNG ends, counted from the end of this list; the PNGs
"""

import struct
from collections.abc import Callable

import cv2
import numpy as np

from vsr.data.augment import Region
from vsr.utils.image_headers import HEADER_BYTES, most_pixels
from vsr.utils.images import Array, Frame, decode_image, encoded_size, whole_size

ENCODINGS = ("png", "tiles", "raw")
TILE = 64  # pixels a side, about; see benchmarks/data.py

_MAGIC = b"\x89VSR"
_HEAD = struct.Struct("<4sBBHII")
_GRID = struct.Struct("<II")
_SIDES = struct.Struct(">II")  # width, height in a PNG
_VERSION, _RAW, _TILES = 1, 1, 2
# Without searching for matches a PNG is decoded in half the time; the average filter makes up for the bytes.
_QUICK = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12
    _QUICK += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]


def encode(image: Frame, encoding: str, *, tile: int = TILE, level: int | None = None) -> bytes:
    """Return the value that stands for an image.

    Args:
        image: RGB uint8 (h, w, 3).
        encoding: png, tiles or raw.
        tile: Side of a tile, about: the image is cut into equal ones.
        level: zlib's compression level, 0 to 9; None: run lengths and Huffman codes only, about the
            bytes of level 1, and half the time to read.
    """
    height, width = image.shape[:2]
    if encoding == "png":
        return _png(image, level)
    if encoding == "raw":
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        return _HEAD.pack(_MAGIC, _VERSION, _RAW, 0, height, width) + planes.tobytes()
    assert encoding == "tiles", encoding
    tall, wide = _even(height, tile), _even(width, tile)
    pngs = [
        _png(image[top : top + tall, left : left + wide], level)
        for top in range(0, height, tall)
        for left in range(0, width, wide)
    ]
    ends = np.cumsum([len(png) for png in pngs]).astype("<u4")
    head = _HEAD.pack(_MAGIC, _VERSION, _TILES, 0, height, width) + _GRID.pack(tall, wide)
    return b"".join([head, ends.tobytes(), *pngs])


class Picture:
    """An encoded image, not yet decoded.

    Args:
        data: The value; of the 2019 kind without a header if ``shape`` is given.
        name: Of the image; starts the messages.
        shape: (height, width, channels) of raw BGR pixels; None: the value says itself what it is.
        array: Makes a numpy array of ``data``; a view of the memory map, for one.

    Raises:
        ValueError: the value is damaged, or of an unknown kind.
    """

    def __init__(
        self,
        data: memoryview,
        name: str,
        *,
        shape: tuple[int, int, int] | None = None,
        array: Callable[[memoryview], Array] = lambda data: np.frombuffer(data, np.uint8),
    ) -> None:
        self._data, self._name, self._array = data, name, array
        if shape is not None:
            self.kind, (height, width, channels) = "bgr", shape
            self._expect(height * width * channels, f"{height}x{width}x{channels} pixels as meta_info.pkl says")
            self.size, self._channels = (height, width), channels
        elif bytes(data[:4]) == _MAGIC:
            self._read_head()
        else:
            self.kind = "png"
            size = encoded_size(bytes(data[:HEADER_BYTES]), name)
            self.size = whole_size(bytes(data), name) if size is None else size

    @property
    def crops(self) -> bool:
        """Whether a part costs less than the whole."""
        return self.kind != "png"

    def read(self, region: Region | None = None) -> Frame:
        """Return the image (h, w, 3) RGB, or a part of it. It may be a read-only view of the memory map."""
        height, width = self.size
        region = region or Region(0, 0, height, width)
        assert 0 <= region.top <= region.top + region.height <= height, (region, self.size)
        assert 0 <= region.left <= region.left + region.width <= width, (region, self.size)
        rows, columns = (slice(first, first + length) for first, length in zip(region[:2], region[2:], strict=True))
        if self.kind == "raw":
            planes = self._array(self._data[_HEAD.size :]).reshape(3, height, width)
            return planes[:, rows, columns].transpose(1, 2, 0)
        if self.kind == "bgr":
            pixels = self._array(self._data).reshape(height, width, self._channels)[rows, columns]
            return pixels[..., ::-1] if self._channels == 3 else np.repeat(pixels, 3, axis=2)
        if self.kind == "tiles":
            return self._tiles(region)
        return decode_image(bytes(self._data), self._name)[rows, columns]

    def _read_head(self) -> None:
        self._expect(_HEAD.size, "a header", at_least=True)
        _, version, kind, _, height, width = _HEAD.unpack_from(self._data)
        if version != _VERSION or kind not in (_RAW, _TILES):
            raise ValueError(
                f"{self._name}: expected an image of format version {_VERSION}, got version {version}, kind {kind}. "
                "A newer vsr made it; update, or make the LMDB again."
            )
        if not 0 < height * width <= most_pixels():
            raise ValueError(
                f"{self._name}: expected 1 to {most_pixels()} pixels, got {height} x {width}. It is damaged, or "
                "VSR_MAX_PIXELS=NUMBER in the environment must allow more."
            )
        self.size = (height, width)
        self.kind = "raw" if kind == _RAW else "tiles"
        if kind == _RAW:
            self._expect(_HEAD.size + 3 * height * width, f"{height}x{width} pixels")
            return
        self._expect(_HEAD.size + _GRID.size, "a header", at_least=True)
        self._tile = _GRID.unpack_from(self._data, _HEAD.size)
        if min(self._tile) < 1:
            raise ValueError(f"{self._name}: expected tiles of 1 pixel or more, got {self._tile}. It is damaged.")
        self._grid = tuple(-(-side // step) for side, step in zip(self.size, self._tile, strict=True))
        count = self._grid[0] * self._grid[1]
        self._first = _HEAD.size + _GRID.size + 4 * count
        self._expect(self._first, f"{count} tiles", at_least=True)
        self._ends = np.frombuffer(self._data[self._first - 4 * count : self._first], "<u4").astype(np.int64)
        self._expect(self._first + int(self._ends[-1]), f"{count} tiles")

    def _tiles(self, region: Region) -> Frame:
        tall, wide = self._tile
        result = np.empty((region.height, region.width, 3), np.uint8)
        for row in range(region.top // tall, -(-(region.top + region.height) // tall)):
            for column in range(region.left // wide, -(-(region.left + region.width) // wide)):
                # where the tile lies, seen from the region's corner
                top, left = row * tall - region.top, column * wide - region.left
                tile = self._decoded(row, column)
                inside = tile[max(0, -top) : region.height - top, max(0, -left) : region.width - left]
                result[max(0, top) : top + tall, max(0, left) : left + wide] = inside
        return cv2.cvtColor(result, cv2.COLOR_BGR2RGB, dst=result)  # type: ignore[return-value]

    def _decoded(self, row: int, column: int) -> Array:
        """Return a tile in OpenCV's channel order."""
        number = row * self._grid[1] + column
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        shape = tuple(
            min(step, side - i * step) for i, side, step in zip((row, column), self.size, self._tile, strict=True)
        )
        tile = None
        if 0 <= start < end <= int(self._ends[-1]):
            png = np.frombuffer(self._data[self._first + start : self._first + end], np.uint8)
            if png[16:24].tobytes() == _SIDES.pack(shape[1], shape[0]):  # what its header asks for, before decoding
                tile = cv2.imdecode(png, cv2.IMREAD_COLOR)
        if tile is None or tile.shape[:2] != shape:
            raise ValueError(
                f"{self._name}: expected {shape[0]}x{shape[1]} pixels in the tile of row {row}, column {column}, "
                "but it cannot be decoded. The LMDB is damaged; copy or make it again."
            )
        return tile

    def _expect(self, size: int, what: str, *, at_least: bool = False) -> None:
        got = len(self._data)
        if got < size or (got > size and not at_least):
            raise ValueError(
                f"{self._name}: expected {size} bytes ({what}), got {got}. "
                "The LMDB is damaged, or its meta file is another's; copy or make it again."
            )


def _even(side: int, tile: int) -> int:
    """Return the side of equal tiles, about ``tile`` each."""
    return -(-side // max(1, round(side / tile)))


def _png(image: Frame, level: int | None) -> bytes:
    options = _QUICK if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, image.shape
    return data.tobytes()
