"""LQ made from GT by a list of stages, for crops as for whole frames.

What is drawn is a function of the sample: of (seed, draw, index) in training, of the names of clip and frame
elsewhere, so that a frame has one LQ in all windows that hold it.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from vsr.data.augment import Planes, Region
from vsr.data.blur_stages import USM, FrameAverage
from vsr.data.filters import resized
from vsr.data.pairs import Pair, PairReader
from vsr.data.stage import ClipStage, Image, Rng, Size, Stage
from vsr.registry import DEGRADATIONS

Root = TypeVar("Root", str | None, str | list[str] | None)

# GT pixels read around a crop where the stages that follow cannot be told exactly: it keeps most of what they do
# at borders out of the crop, at a cost that stays bounded.
_MARGIN = 32


class Degradations:
    """A list of stages that makes LQ frames out of GT frames.

    What the list leaves in another size than LQ's is brought to it by antialiased bicubic, at the end.

    Args:
        options: The stages, each a ``type`` and its arguments.
        scale: GT size / LQ size.
        keep: Whole LQ frames that are remembered, for windows that overlap.

    Attributes:
        exact: The LQ of a crop is the crop of the whole frame's LQ, up to rounding and to noise.
        neighbours: Frames before and after each that it is made of.

    Raises:
        ValueError: a stage is unknown, has a wrong argument, or stands where it cannot.
    """

    def __init__(self, options: Sequence[Mapping[str, Any]], *, scale: int, keep: int = 1) -> None:
        self.scale = scale
        self.stages: list[Stage] = []
        for number, option in enumerate(options):
            try:
                self.stages.append(DEGRADATIONS.build(option))
            except ValueError as error:
                raise ValueError(f"degradations[{number}]: {error}") from error
        # The two kinds of stage that work on what is read, before all others.
        self.sharpen = next((stage for stage in self.stages if isinstance(stage, USM) and stage.gt), None)
        self.average = next((stage for stage in self.stages if isinstance(stage, FrameAverage)), None)
        self._check_order()
        self.neighbours = self.average.num_frame // 2 if self.average else 0
        self._margin, self._align, self.exact = self._surroundings()
        self._recent: OrderedDict[str, Planes] = OrderedDict()
        self._keep = keep if not any(isinstance(stage, ClipStage) for stage in self.stages) else 0

    def _check_order(self) -> None:
        for number, stage in enumerate(self.stages):
            name = type(stage).__name__
            if isinstance(stage, FrameAverage) and number != (0 if self.sharpen is None else 1):
                raise ValueError(
                    f"degradations[{number}]: expected {name} as the first stage, or after USM. Move it to the top."
                )
            if isinstance(stage, USM) and stage.gt and number > 0:
                raise ValueError(
                    f"degradations[{number}]: expected {name} as the first stage. Move it up, or set gt: false."
                )

            if isinstance(stage, ClipStage) and any(before.vary and before.resizes for before in self.stages[:number]):
                raise ValueError(
                    f"degradations[{number}]: expected frames of one size for {name}, got a stage before it that "
                    "varies the size. Set its vary: false."
                )

    def _surroundings(self) -> tuple[int, int, bool]:
        """Return the LQ pixels to read around a crop, the grid that its corners must lie on, and ``exact``."""
        place, margin, align = "", 0, 1
        for stage in [*self.stages, None]:
            if place == "free" or (stage is not None and not stage.local):
                return math.ceil(_MARGIN / self.scale), 1, False
            unit = self.scale if place == "lq" else 1
            if stage is None:
                margin += 3 * self.scale if place == "" and self.scale > 1 else 0  # the bicubic at the end
                break
            if unit * stage.align() > 1:
                align = math.lcm(align, unit * stage.align())
            margin += unit * stage.reach(self.scale)
            place = stage.resizes or place
        return math.ceil(margin / self.scale), math.lcm(align, self.scale) // self.scale, True

    def around(self, region: Region, size: Size) -> Region:
        """Return what must be read for a part of an LQ frame: with its surroundings, on the grid of blocks."""
        ends = []
        for first, length, side in zip(region[:2], region[2:], size, strict=True):
            start = max(0, (first - self._margin) // self._align * self._align)
            end = -(-(first + length + self._margin) // self._align) * self._align
            ends.append((start, min(side, end)))
        (top, bottom), (left, right) = ends
        return Region(top, left, bottom - top, right - left)

    def training(
        self, reader: PairReader, frames: Sequence[Sequence[Pair]], region: Region, rng: Rng
    ) -> tuple[list[Planes], Callable[[Pair], Planes]]:
        """Make the LQ crops of one sample.

        Args:
            reader: Reads GT.
            frames: For each frame the frames that it is made of, itself in the middle; see ``neighbours``.
            region: The crop, LQ pixels.
            rng: The sample's. It gives a stream to every stage, and to every frame of it.

        Returns:
            LQ crops (3, h, w), and a function that returns the GT crop of a pair.
        """
        streams = rng.spawn(len(self.stages))
        noises = [stream.spawn(len(frames)) for stream in streams]
        part = self.around(region, frames[0][0].size)
        read = self._reading(reader, part)
        drawn = [_draw(stage, stream) for stage, stream in zip(self.stages, streams, strict=True)]
        images = [self._start(read, frame) for frame in frames]
        images = self._apply(images, drawn, noises, part[2:])
        inner = Region(region.top - part.top, region.left - part.left, region.height, region.width)

        def gt(pair: Pair) -> Planes:
            return inner.scaled(self.scale).of(read(pair))

        return [inner.of(_planes(image)) for image in images], gt

    def testing(
        self, reader: PairReader, frames: Sequence[Sequence[Pair]], clip: str, keys: Sequence[str]
    ) -> list[Planes]:
        """Make whole LQ frames (3, h, w), which depend on the names of the clip and of the frames only."""
        missing = [i for i, key in enumerate(keys) if key not in self._recent]
        streams = _named(clip).spawn(len(self.stages))
        drawn = [_draw(stage, stream) for stage, stream in zip(self.stages, streams, strict=True)]
        by_frame = [_named(keys[i]).spawn(len(self.stages)) for i in missing]
        noises = [[streams[number] for streams in by_frame] for number in range(len(self.stages))]
        read = self._reading(reader, None)
        images = [self._start(read, frames[i]) for i in missing]
        images = self._apply(images, drawn, noises, frames[0][0].size) if missing else []
        made = {keys[i]: _planes(image) for i, image in zip(missing, images, strict=True)}
        result = [made[key] if key in made else self._recent[key] for key in keys]
        self._recent.update(made)
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return result

    def ground_truth(self, gt: Planes) -> Planes:
        """Return a GT frame, or a part of one, as the list's USM sharpens it."""
        return _planes(self.sharpen.sharpened(_image(gt))) if self.sharpen else gt

    def _reading(self, reader: PairReader, region: Region | None) -> Callable[[Pair], Planes]:
        """Return a function that gives a part of GT frames, each read and sharpened once."""
        seen: dict[str | None, Planes] = {}

        def read(pair: Pair) -> Planes:
            if pair.gt not in seen:
                seen[pair.gt] = self.ground_truth(reader.gt(pair, region))
            return seen[pair.gt]

        return read

    def _start(self, read: Callable[[Pair], Planes], frame: Sequence[Pair]) -> Image:
        images = [read(pair) for pair in frame]
        return _image(self.average.average(images) if self.average else images[len(images) // 2])

    def _apply(
        self, images: list[Image], drawn: Sequence[Any], noises: Sequence[Sequence[Rng]], size: Size
    ) -> list[Image]:
        for stage, value, streams in zip(self.stages, drawn, noises, strict=True):
            if stage is self.average or stage is self.sharpen:
                continue  # what was done to the frames that were read
            if isinstance(stage, ClipStage):
                acts, choice = value
                images = stage.apply_clip(images, choice, size) if acts else images
                continue
            for i, stream in enumerate(streams):
                acts, choice = _draw(stage, stream) if stage.vary else value
                if acts:
                    images[i] = stage.apply(images[i], choice, stream, size)
        return [resized(image, size, "antialiased") for image in images]


def build_degradations(
    options: Sequence[Mapping[str, Any]], *, scale: int, dataroot_gt: Root, dataroot_lq: Root, keep: int = 1
) -> tuple[Degradations | None, Root]:
    """Return what makes LQ, none for an empty list; and the root that stands for LQ's.

    Raises:
        ValueError: as ``Degradations``, or the roots do not leave LQ to be made from GT.
    """
    if not options:
        return None, dataroot_lq
    if dataroot_gt is None or dataroot_lq is not None:
        raise ValueError(
            "degradations: expected a dataroot_gt to make LQ from, and no dataroot_lq, got "
            f"dataroot_gt {dataroot_gt} and dataroot_lq {dataroot_lq}. Leave out dataroot_lq, or degradations."
        )
    # At scale 1 the GT files give the size of LQ, too: a set without LQ files is one that reduces.
    return Degradations(options, scale=scale, keep=keep), dataroot_gt if scale == 1 else None


def neighbours_of(position: int, total: int, count: int) -> list[int]:
    """Return the positions from ``count`` before to ``count`` after, those beyond the ends at the ends."""
    return [min(max(i, 0), total - 1) for i in range(position - count, position + count + 1)]


def _draw(stage: Stage, stream: Rng) -> tuple[bool, Any]:
    """Return whether a stage acts, and what it draws; both are drawn in any case."""
    return bool(stream.random() < stage.prob), stage.draw(stream)


def _named(name: str) -> Rng:
    """Return a generator that depends on a name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def _image(planes: Planes | Image) -> Image:
    """Return (3, h, w) as a new contiguous float32 (h, w, 3)."""
    return np.ascontiguousarray(planes.transpose(1, 2, 0), np.float32)


def _planes(image: Image) -> Planes:
    """Return (h, w, 3) as uint8 (3, h, w): clipped, rounded half to even."""
    return np.rint(image).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
