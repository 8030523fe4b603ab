"""What tells one set of images from another: how many there are, their sizes, and the pixels of a sample.

    v1-400-720x1280-180x320-3f7a90c1d2e4b586

Version of this definition, number of images, height x width of GT and of LQ, hash. The images are all those that the
data set uses (after clips, frames, lists), in natural order of their keys; of n images the SAMPLED at the positions
round(i * (n - 1) / (SAMPLED - 1)) are decoded, of fewer all. A size is 'mixed' if it differs within the sample, 'none'
if the set has no such files: LQ that is made from GT on the fly does not count. The hash is the first 16 hexadecimal
digits of the SHA-256 of, for each image of the sample, of its GT and then of its LQ: the text 'HxW' in ASCII, a line
feed, and H * W * 3 bytes of RGB, row by row.

It is therefore the same for files, LMDBs of any encoding and other machines. Names count only as far as they order the
images. JPEG files are the exception: decoders may differ in the last bit.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vsr.data.pairs import Pair, PairReader
from vsr.data.storage import Storage
from vsr.utils.images import natural_key

log = logging.getLogger(__name__)

VERSION = "v1"
SAMPLED = 32


class Image(NamedTuple):
    """One image of a data set, in up to two versions.

    Args:
        key: Of the image in the set.
        pair: Its files.
        reader: Reads them, and the sharp one unless that has a reader of its own.
        in_clip: It is a frame of the clip that its key names, 'CLIP/FRAME'.
        sharp: Its sharp LQ file, where LQ is blurred and the set has both; no part of a fingerprint.
        sharp_reader: Of that; none: ``reader``.
    """

    key: str
    pair: Pair
    reader: PairReader
    in_clip: bool = False
    sharp: str | None = None
    sharp_reader: PairReader | None = None

    def storage_of(self, path: str) -> Storage:
        """Return where one of the files is read from."""
        reader = self.sharp_reader if self.sharp_reader is not None and path == self.sharp else self.reader
        return reader.storage

    @property
    def files(self) -> list[str]:
        """The files that there are: GT, LQ, sharp LQ."""
        return [path for path in (*self.pair[:2], self.sharp) if path is not None]


def parts_of(dataset: Any) -> dict[str, Any]:
    """Return the data sets that a data set is made of, by name; of an ordinary one itself, named ''."""
    return dict(getattr(dataset, "parts", None) or {"": dataset})


def images_of(dataset: Any) -> list[Image]:
    """Return all images that a data set uses, in its order, not decoded.

    A data set tells them by ``named_pairs()`` and ``reader``, which it has itself or its ``clips`` have; one that is
    made of others by ``parts``.

    Raises:
        TypeError: it tells nothing of the kind.
        ValueError, OSError: as its ``named_pairs``.
    """
    found = []
    for name, part in parts_of(dataset).items():
        source: Any = part if hasattr(part, "named_pairs") else getattr(part, "clips", None)
        if not hasattr(source, "named_pairs") or not hasattr(source, "reader"):
            raise TypeError(f"{type(part).__name__}: expected a data set with named_pairs() and reader, got another.")
        prefix, in_clip = f"{name}/" if name else "", hasattr(part, "clip_names")
        sharp = getattr(part, "sharp", None)
        of_sharp = {key: pair.lq for key, pair in sharp.named_pairs()} if sharp else {}
        found += [
            Image(prefix + key, pair, source.reader, in_clip, of_sharp.get(key), sharp.reader if sharp else None)
            for key, pair in source.named_pairs()
        ]
    return found


def fingerprint(dataset: Any) -> str | None:
    """Return what identifies the images of a data set, as described above; None if it does not tell its images.

    Raises:
        ValueError, OSError: an image cannot be read.
    """
    try:
        images = images_of(dataset)
    except TypeError as error:
        log.debug("no fingerprint: %s", error)
        return None
    images.sort(key=lambda image: natural_key(image.key))
    digest, sizes = hashlib.sha256(), (set[str](), set[str]())
    for image in spread(images, SAMPLED):
        for path, found in zip(image.pair[:2], sizes, strict=True):
            if path is not None:
                pixels = image.reader.storage.read(path)
                size = f"{pixels.shape[0]}x{pixels.shape[1]}"
                found.add(size)
                digest.update(f"{size}\n".encode())
                digest.update(np.ascontiguousarray(pixels).data)
    gt, lq = (("mixed" if len(found) > 1 else next(iter(found), "none")) for found in sizes)
    return f"{VERSION}-{len(images)}-{gt}-{lq}-{digest.hexdigest()[:16]}"


def compared(dataset: Any, expected: str | None, key: str) -> str | None:
    """Return a set's fingerprint; warn if its section, ``datasets.<key>``, states another.

    Raises:
        ValueError, OSError: an image cannot be read.
    """
    found = fingerprint(dataset)
    if text := differs(found, expected):
        log.warning("datasets.%s: %s", key, text)
    return found


def differs(found: str | None, expected: str | None) -> str:
    """Return in words that a set is not the one that an option file states; '' if it is, or if none is stated."""
    if expected is None or found == expected:
        return ""
    if found is None:
        return f"fingerprint: expected {expected}, but this type of data set has none. Remove the option."
    parts, wanted = found.split("-"), expected.split("-")
    if len(wanted) != 5 or wanted[0] != VERSION:
        reason = f"{VERSION}-IMAGES-GT-LQ-HASH is the form that this vsr knows"
    elif parts[1] != wanted[1]:
        reason = f"{parts[1]} images, not {wanted[1]}"
    elif parts[2:4] != wanted[2:4]:
        reason = f"sizes {parts[2]} and {parts[3]} of GT and LQ, not {wanted[2]} and {wanted[3]}"
    else:
        reason = "the same number and sizes, but other pixels"
    return f"fingerprint: expected {expected}, got {found}: {reason}. Figures are not comparable with that set's."


def spread(items: Sequence[Any], count: int) -> Iterator[Any]:
    """Yield up to ``count`` of the items, evenly spaced, the first and the last among them."""
    count = min(len(items), count)
    for i in range(count):
        yield items[round(i * (len(items) - 1) / max(1, count - 1))]
