"""Compression of clips by a video codec, through PyAV, which is optional."""

import fractions
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from vsr.data.stage import ClipStage, Image, Rng, Size, check_prob, check_range
from vsr.registry import DEGRADATIONS

_FPS = 25


@DEGRADATIONS.register
class VideoCompression(ClipStage):
    """Encode the frames of a sample as a video and decode them again (package ``av``).

    The codec sees the frames of a sample alone: a crop, or a window, is compressed as a video of its own.

    Args:
        codec: Names of encoders; one is drawn. What there is depends on how PyAV was built.
        crf_range: [least, most] constant rate factor of libx264 and libx265, higher is worse.
        bitrate: [least, most] bits a second at 25 frames a second; given, it takes the place of crf_range.
        prob: How probable the stage is.
    """

    vary = False

    def __init__(
        self,
        *,
        codec: Sequence[str] = ("libx264",),
        crf_range: Sequence[float] = (18, 35),
        bitrate: Sequence[float] | None = None,
        prob: float = 1.0,
    ) -> None:
        for name in codec:
            if not _encodes_video(name):
                raise ValueError(f"codec: expected a video encoder that PyAV has, got '{name}'. Try libx264 or mpeg4.")
            if bitrate is None and not name.startswith("libx26"):
                raise ValueError(f"bitrate: expected [least, most] for the codec {name}, which has no crf, got none.")
        if not codec:
            raise ValueError("codec: expected at least one name, got none.")
        self.codecs = tuple(codec)
        self.crf = check_range("crf_range", crf_range, least=0, most=51)
        self.bitrate = check_range("bitrate", bitrate, above=0) if bitrate is not None else None
        self.prob = check_prob(prob)

    def draw(self, rng: Rng) -> tuple[str, int]:
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        return codec, round(rng.uniform(*(self.bitrate or self.crf)))

    def apply_clip(self, images: list[Image], drawn: Any, size: Size) -> list[Image]:
        codec, strength = drawn
        try:
            return _through(codec, images, **({"bitrate": strength} if self.bitrate else {"crf": strength}))
        except _av().error.FFmpegError as error:
            height, width = images[0].shape[:2]
            raise ValueError(
                f"VideoCompression: {codec} cannot encode {len(images)} frames of {height}x{width} with "
                f"{'bitrate' if self.bitrate else 'crf'} {strength}: {error}. Change codec, range or crop."
            ) from error


def _av() -> Any:
    try:
        import av  # optional, and needed only here
    except ImportError as error:
        raise ValueError(
            "VideoCompression: expected the package av (PyAV), which cannot be imported. "
            f"Install it (pip install av), or leave the stage out: {error}"
        ) from error
    return av


def _encodes_video(name: str) -> bool:
    av = _av()
    try:
        return bool(av.codec.Codec(name, "w").type == "video")
    except ValueError:  # what PyAV raises for a codec that it does not know, or can only decode
        return False


def _through(codec: str, images: list[Image], *, crf: int | None = None, bitrate: int | None = None) -> list[Image]:
    """Return the images as the codec gives them back; one thread, so that the same frames give the same bits."""
    av = _av()
    height, width = images[0].shape[:2]
    # 4:2:0 wants even sides; what is added is cut off again.
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=_FPS)
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, _FPS)
        stream.codec_context.thread_count = 1
        if bitrate is not None:
            stream.bit_rate = bitrate
        else:
            stream.options = {"crf": str(crf)}
        if codec == "libx265":
            stream.options = {**stream.options, "x265-params": "log-level=error"}  # it writes a page for each clip
        for image in images:
            pixels = np.pad(np.rint(image.clip(0, 255)).astype(np.uint8), padding, "edge")
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as back:
        back.streams.video[0].codec_context.thread_count = 1
        decoded = [frame.to_ndarray(format="rgb24") for frame in back.decode(video=0)]
    if len(decoded) != len(images):
        raise ValueError(f"VideoCompression: expected {len(images)} frames back from {codec}, got {len(decoded)}.")
    return [np.ascontiguousarray(frame[:height, :width], np.float32) for frame in decoded]
