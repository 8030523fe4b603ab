"""What image files say about themselves before they are decoded: kind, size, orientation, and what vsr would lose.

Sources: PNG, third edition (W3C 2025); ITU-T T.81 (JPEG), annex B; TIFF 6.0 and BigTIFF; Exif 2.32, orientation;
WebP container (Google); Netpbm; BITMAPINFOHEADER (Microsoft).
"""

import os
import re
import struct
from typing import NamedTuple

KINDS = "PNG, JPEG, BMP, TIFF, WebP or PPM"
HEADER_BYTES = 1 << 16  # enough for what usually stands before the pixels
MAX_PIXELS = 2**28  # 16384 x 16384, 805 MB decoded: a header that asks for more is taken for a broken one

PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SIZES_OF_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_ENTRIES = 4096  # of a TIFF directory, and directories of a file, that are looked at


class Header(NamedTuple):
    """What a file says.

    Args:
        height, width: As the pixels are stored.
        trouble: What vsr would lose by reading it, in words; '' for nothing.
        orientation: 1 to 8, Exif's: how the stored pixels must be turned.
        needed: Bytes that the file must have at least.
    """

    height: int
    width: int
    trouble: str = ""
    orientation: int = 1
    needed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture: orientations from 5 on exchange the sides."""
        return (self.height, self.width) if self.orientation < 5 else (self.width, self.height)


def most_pixels() -> int:
    """Return how many pixels an image may have: MAX_PIXELS, or what the environment variable VSR_MAX_PIXELS says.

    Raises:
        ValueError: the variable is no number.
    """
    given = os.environ.get("VSR_MAX_PIXELS")
    if given is None:
        return MAX_PIXELS
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"VSR_MAX_PIXELS: expected a number of pixels, got '{given}'.")
    return int(given)


def read_header(data: bytes, *, whole: bool) -> Header | None:
    """Read the header of an image file.

    Args:
        data: The beginning of the file, or all of it.
        whole: It is all of it.

    Returns:
        None if ``data`` does not reach far enough, is damaged or of another kind.
    """
    try:
        if data.startswith(PNG):
            return _png(data, whole)
        if data.startswith(_JPEG):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data, whole)
        if re.match(rb"P[1-6][\s#]", data):
            return _pnm(data)
    except struct.error:  # beyond the end of data
        pass
    return None


def is_truncated(data: bytes, header: Header) -> bool:
    """Tell whether a whole file ends too early: decoders fill such holes with grey."""
    if data.startswith(PNG):
        at = 8
        while at + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"IEND":
                return False
            at += length + 12
        return True
    if data.startswith(_JPEG):
        segments = _jpeg_segments(data)
        # before the scan a preview may hold an end mark of its own
        return not segments or segments[-1][0] != 0xDA or data.find(b"\xff\xd9", segments[-1][1]) < 0
    return len(data) < header.needed


def _trouble(*, bits: int = 8, alpha: bool = False, colours: str = "", frames: int = 1, what: str = "pages") -> str:
    found = [f"{bits} bits"] if bits > 8 else []
    found += ["an alpha channel"] if alpha else []
    found += [colours] if colours else []
    found += [f"{frames} {what}"] if frames > 1 else []
    return " and ".join(found)


# --- one function a kind; struct.error where data ends too early ----------------------------------


def _png(data: bytes, whole: bool) -> Header | None:
    """Chunks of length, type, content, checksum; IHDR is the first."""
    if data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    alpha, orientation, frames, at = colour in (4, 6), 1, 1, 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"IDAT", b"IEND"):
            whole = True
            break
        alpha |= kind == b"tRNS"
        if kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        if kind == b"acTL":
            frames = struct.unpack_from(">I", data, at + 8)[0]
        at += length + 12
    if not whole:
        return None
    return Header(height, width, _trouble(bits=depth, alpha=alpha, frames=frames, what="frames"), orientation)


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """Return (marker, position of its content) of the segments up to the first scan."""
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


def _jpeg(data: bytes) -> Header | None:
    orientation = None
    for marker, at in _jpeg_segments(data):
        if marker == 0xE1 and orientation is None and data[at : at + 6] == b"Exif\0\0":
            length = struct.unpack_from(">H", data, at - 2)[0]
            orientation = _exif_orientation(data[at + 6 : at - 2 + length])
        # SOF0 ... SOF15 hold the size; C4, C8 and CC among them are tables
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at)
            colours = "" if channels in (1, 3) else "CMYK colours" if channels == 4 else f"{channels} channels"
            return Header(height, width, _trouble(bits=bits, colours=colours), orientation or 1)
    return None


def _bmp(data: bytes) -> Header:
    first, head = struct.unpack_from("<II", data, 10)
    if head == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)  # a negative height: rows from top to bottom
    alpha = depth == 32 and compression == 3 and head >= 56 and struct.unpack_from("<I", data, 66)[0] != 0
    rows = (width * depth + 31) // 32 * 4 * height
    return Header(height, width, _trouble(alpha=alpha), needed=first + rows if compression in (0, 3) else 0)


def _webp(data: bytes, whole: bool) -> Header | None:
    needed, kind = struct.unpack_from("<I", data, 4)[0] + 8, data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(height & 0x3FFF, width & 0x3FFF, needed=needed)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        size = (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        return Header(*size, _trouble(alpha=bool(bits >> 28 & 1)), needed=needed)
    if kind != b"VP8X":
        return None
    flags, width, height = data[20], *(struct.unpack("<I", data[at : at + 3] + b"\0")[0] + 1 for at in (24, 27))
    orientation, frames, at, has_exif = 1, 0, 12, bool(flags & 8)
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF" and at + 8 + length <= len(data):
            block = data[at + 8 : at + 8 + length]
            orientation, has_exif = _exif_orientation(block.removeprefix(b"Exif\0\0")), False
        frames += name == b"ANMF"
        at += 8 + length + length % 2
    if has_exif and not whole:  # it stands behind the pixels
        return None
    trouble = _trouble(alpha=bool(flags & 16), frames=max(2, frames) if flags & 2 else 1, what="frames")
    return Header(height, width, trouble, orientation, needed)


def _pnm(data: bytes) -> Header | None:
    """P1 to P3 are text, P4 to P6 bits, grey and RGB in bytes."""
    kind, numbers, first = data[1] - ord("0"), [], 0
    for word in re.finditer(rb"#[^\n]*|[^\s#]+", data[:HEADER_BYTES][2:]):
        if word[0].startswith(b"#"):
            continue
        if not word[0].isdigit() or len(word[0]) > 9:
            return None
        numbers.append(int(word[0]))
        first = word.end() + 3
        if len(numbers) == (2 if kind in (1, 4) else 3):
            break
    else:
        return None
    width, height = numbers[:2]
    row = {4: (width + 7) // 8, 5: width, 6: 3 * width}.get(kind, 0)
    deep = len(numbers) == 3 and numbers[2] > 255
    return Header(height, width, _trouble(bits=16 if deep else 8), needed=first + row * height if row else 0)


# --- TIFF, and Exif, which is one -----------------------------------------------------------------


class _Directory:
    """A directory of a TIFF: numbers by their tag."""

    def __init__(self, data: bytes, order: str, big: bool, at: int) -> None:
        self._data, self._order, self._entries = data, order, dict[int, tuple[str, int, int]]()
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        at, step, inline = at + (8 if big else 2), 20 if big else 12, 8 if big else 4
        for entry in range(at, at + step * min(count, _MOST_ENTRIES), step):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, entry)
            code, value = _SIZES_OF_TIFF_TYPES.get(kind), entry + step - inline
            if code is None:
                continue
            if number * struct.calcsize(code) > inline:
                value = struct.unpack_from(order + ("Q" if big else "I"), data, value)[0]
            self._entries[tag] = code, number, value
        self.next = struct.unpack_from(order + ("Q" if big else "I"), data, at + step * count)[0]

    def numbers(self, tag: int) -> tuple[int, ...]:
        if tag not in self._entries:
            return ()
        code, number, at = self._entries[tag]
        if number > len(self._data):
            raise struct.error("more numbers than bytes")
        return struct.unpack_from(f"{self._order}{number}{code}", self._data, at)

    def number(self, tag: int, default: int) -> int:
        return (*self.numbers(tag)[:1], default)[0]


def _directories(data: bytes) -> list[_Directory]:
    """Return the directories of a TIFF, one a page; of a damaged chain those before the damage."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    found: list[_Directory] = []
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MOST_ENTRIES:
        seen.add(at)
        try:
            found.append(_Directory(data, order, big, at))
        except struct.error:
            if found:
                break
            raise
        at = found[-1].next
    return found


def _tiff(data: bytes) -> Header | None:
    directories = _directories(data)
    if not directories:
        return None
    page = directories[0]
    kind = page.number(262, 1)  # PhotometricInterpretation
    channels = {0: 1, 1: 1, 2: 3, 3: 1, 6: 3}.get(kind, 0)
    colours = "" if channels else "CMYK colours" if kind == 5 else f"colours of kind {kind}"
    trouble = _trouble(
        bits=max(page.numbers(258), default=1),
        alpha=bool(channels) and page.number(277, 1) > channels,
        colours=colours,
        # bit 0 of NewSubfileType: a reduced picture of another page
        frames=sum(not directory.number(254, 0) & 1 for directory in directories),
    )
    ends = [0]
    for offsets, counts in ((273, 279), (324, 325)):  # of strips, of tiles
        ends += map(sum, zip(page.numbers(offsets), page.numbers(counts), strict=False))
    orientation = page.number(274, 1)
    return Header(
        page.number(257, 0), page.number(256, 0), trouble, orientation if 1 <= orientation <= 8 else 1, max(ends)
    )


def _exif_orientation(block: bytes) -> int:
    """Return what an Exif block says, 1 to 8; 1 where it says nothing."""
    try:
        if block[:4] not in (b"II*\0", b"MM\0*"):
            return 1
        order = "<" if block[:2] == b"II" else ">"
        orientation = _Directory(block, order, False, struct.unpack_from(order + "I", block, 4)[0]).number(274, 1)
    except struct.error:
        return 1
    return orientation if 1 <= orientation <= 8 else 1
