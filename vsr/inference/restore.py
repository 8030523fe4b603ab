"""Restoring images, windows, clips and streams of frames with memory that is bounded."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from vsr.inference.carried import Carried, carries, steps
from vsr.inference.fallback import Tiling
from vsr.inference.features import with_kept_features
from vsr.inference.tiles import Network, frames_first, padded
from vsr.utils.windows import generate_frame_indices, shortest_clip

log = logging.getLogger(__name__)


def infer(network: Network, x: Tensor, *, tile: int = 0, tile_overlap: int = 16, self_ensemble: bool = False) -> Tensor:
    """Run a network on frames of any size, without gradients.

    The frames are padded to the network's ``size_multiple`` and ``min_size`` (1 where it has no such
    attribute), and the output is cropped. Whether the network is in eval mode is the caller's business.

    Args:
        network: Maps (b, 3, h, w) or (b, t, 3, h, w) to the same, or one frame of it, at s times the size.
        x: (b, 3, h, w) or (b, t, 3, h, w), floating point, RGB in [0, 1].
        tile: Side, in input pixels, of the tiles that the frame is restored in; 0: the whole frame at once.
            Rounded up to ``size_multiple``. A network of stereo pairs (``kind``) gets strips of whole rows, so high,
            for it compares the views along them.
        tile_overlap: Input pixels that neighbouring tiles share.
        self_ensemble: Average over the 8 flips and rotations, at 8 times the cost.

    Returns:
        The network's output for the frames as they were: (b, 3, s*h, s*w) or (b, t, 3, s*h, s*w).

    Raises:
        ValueError: ``x`` is no such tensor, tile and overlap do not fit, or the network's output is no
            whole multiple of its input in size.
    """
    if not isinstance(x, Tensor) or x.dim() not in (4, 5) or not x.is_floating_point() or 0 in x.shape:
        raise ValueError(f"x: expected a floating point tensor (b, 3, h, w) or (b, t, 3, h, w), got {_describe(x)}.")
    _check_tile(tile, tile_overlap)
    network = frames_first(network)
    options: dict[str, Any] = {
        "multiple": getattr(network, "size_multiple", 1),
        "smallest": getattr(network, "min_size", 1),
        "tile": tile,
        "overlap": tile_overlap,
        "whole_rows": getattr(network, "kind", "") == "stereo",
    }
    with torch.no_grad():  # not inference_mode: its tensors could never be used in training
        if not self_ensemble:
            return padded(network, x, **options)
        total: Tensor | None = None
        for turns, flip in itertools.product(range(4), (False, True)):
            view = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
            result = torch.rot90(padded(network, view.contiguous(), **options), -turns, (-2, -1))
            result = result.flip(-1) if flip else result
            finer = result.to(torch.promote_types(result.dtype, torch.float32))
            total = finer if total is None else total + finer
        assert total is not None, "there are 8 views"
        return (total / 8).to(result.dtype)


@overload
def restore(
    network: Network,
    frames: Tensor,
    *,
    padding: str = ...,
    chunk: int = ...,
    chunk_overlap: int = ...,
    tile: int = ...,
    tile_overlap: int = ...,
    self_ensemble: bool = ...,
    tiling: Tiling | None = ...,
    device: torch.device | str | None = ...,
) -> Tensor: ...
@overload
def restore(
    network: Network,
    frames: Iterable[Tensor],
    *,
    padding: str = ...,
    chunk: int = ...,
    chunk_overlap: int = ...,
    tile: int = ...,
    tile_overlap: int = ...,
    self_ensemble: bool = ...,
    tiling: Tiling | None = ...,
    device: torch.device | str | None = ...,
) -> Iterator[Tensor]: ...
def restore(
    network: Network,
    frames: Tensor | Iterable[Tensor],
    *,
    padding: str = "reflection_circle",
    chunk: int = 0,
    chunk_overlap: int = 6,
    tile: int = 0,
    tile_overlap: int = 16,
    self_ensemble: bool = False,
    tiling: Tiling | None = None,
    device: torch.device | str | None = None,
) -> Tensor | Iterator[Tensor]:
    """Restore every frame of a video: as many frames come out as went in, in their order.

    What the network is, it says itself (``temporal``): an 'image' network restores each frame
    alone, a 'window' network from the ``num_frame`` frames around it, a 'clip' network all at once.
    A network without this attribute is a window network if it has ``num_frame``, else an image network.
    It runs in eval mode; its training flags are put back afterwards.

    An iterable is read as the result is: image and window networks hold at most ``num_frame`` frames,
    however long the video; a clip network holds ``chunk`` frames, or the whole clip. Of a window network
    that can tell a frame's features from what it makes of them (``extract``, ``reconstruct``), the
    features are computed once a frame and kept as long as a window needs them; only where frames are
    restored whole, since tiles are for those who have no memory to spare.

    Args:
        network: The network, or any function of such tensors.
        frames: (t, 3, h, w), or an iterable of (3, h, w), all of one size for window and clip networks;
            RGB, floating point in [0, 1] or uint8.
        padding: What stands in a window beyond the clip's ends, see ``generate_frame_indices``. Clips that
            are too short for it are padded with 'replicate', and a warning says so.
        chunk: Frames that a clip network gets at a time; 0: all of them, as published results are computed.
        chunk_overlap: Frames that neighbouring chunks share; the ones nearer to a chunk's end are dropped,
            for the frames beyond would have told more about them. A network that can go on where it ended (it has
            ``carry``, see ``CarryingNetwork``) takes what it knows of all frames before into the next chunk; the
            shared ones are then those that it looks ahead at.
        tile, tile_overlap, self_ensemble: See ``infer``.
        tiling: In place of tile and tile_overlap: tiles that shrink where the memory does not suffice.
        device: Where to compute; a module is moved there. None: where the network's parameters are.

    Returns:
        (t, 3, s*h, s*w), or an iterator of (3, s*h, s*w); floating point, not clamped, on the frames' device.

    Raises:
        ValueError: a frame is no such tensor or changes its size (at that frame), or an option is wrong.
    """
    if isinstance(frames, Tensor) and (frames.dim() != 4 or 0 in frames.shape[1:]):
        raise ValueError(
            f"frames: expected a tensor (t, 3, h, w) or an iterable of (3, h, w), got {_describe(frames)}. "
            "One frame is frame[None]."
        )
    network = frames_first(network)
    temporal = getattr(network, "temporal", "window" if hasattr(network, "num_frame") else "image")
    if temporal not in ("image", "window", "clip"):
        raise ValueError(f"network.temporal: expected 'image', 'window' or 'clip', got {temporal!r}. Correct it.")
    num_frame = getattr(network, "num_frame", None) if temporal == "window" else 1
    if not isinstance(num_frame, int):
        raise ValueError(f"network.num_frame: expected the length of the window, got {num_frame!r}. Set it.")
    shortest_clip(num_frame, padding)  # checks both
    _check_tile(tile, tile_overlap)
    _check_chunk(chunk, chunk_overlap)
    moved = _Moved(frames, network, device, one_size=temporal != "image")
    carried = Carried(network) if temporal == "clip" and chunk and carries(network) else None  # type: ignore[arg-type]
    tiling = tiling or Tiling(tile, tile_overlap)
    whole = network if self_ensemble else with_kept_features(network)

    def run(x: Tensor, dims: int, keep: int | None = None) -> Tensor:
        def at(size: int) -> Tensor:
            if carried:
                carried.again()
            called = carried or (network if size else whole)
            return infer(called, x[None], tile=size, tile_overlap=tiling.overlap, self_ensemble=self_ensemble)[0]

        if carried and keep:
            carried.start(keep)
        with _evaluating(network):
            y = tiling.run(at, x, multiple=getattr(network, "size_multiple", 1))
        if y.dim() != dims or (temporal == "clip" and len(y) != (keep or len(x))):
            form = "all frames (1, t, 3, h, w)" if temporal == "clip" else "one frame (1, 3, h, w)"
            raise ValueError(
                f"network.temporal: expected {form} from a network that is '{temporal}', got {(1, *y.shape)}. "
                "Correct the attribute."
            )
        return y.to(moved.home)

    if temporal == "image":
        results = (run(frame, 3) for frame in moved)
    elif temporal == "window":
        results = (run(torch.stack(window), 3) for window in _windows(moved, num_frame, padding))
    elif carried:
        results = (frame for clip, keep in steps(moved, chunk, chunk_overlap) for frame in run(clip, 4, keep))
    else:
        results = (frame for clip, kept in _chunks(moved, chunk, chunk_overlap) for frame in run(clip, 4)[kept])
    if not isinstance(frames, Tensor):
        return results
    return _stacked(results, frames, getattr(network, "scale", 1))


class _Moved:
    """Checks each frame, takes it to where the network is, and makes it floating point there.

    Args:
        frames: (3, h, w) each.
        network: Its first parameter says where, and in which precision.
        device: Where to compute instead; the network is moved there.
        one_size: Whether a change of the frames' size is an error.
    """

    home: torch.device  # of the frames, known from the first one on

    def __init__(
        self, frames: Iterable[Tensor], network: Network, device: torch.device | str | None, *, one_size: bool
    ) -> None:
        if isinstance(network, nn.Module) and device is not None:
            network.to(device)
        parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        self.device = device if device is not None or parameter is None else parameter.device
        self.dtype = None if parameter is None else parameter.dtype
        self.frames, self.one_size = frames, one_size

    def __iter__(self) -> Iterator[Tensor]:
        shape = None
        for i, frame in enumerate(self.frames):
            if not isinstance(frame, Tensor) or frame.dim() != 3 or 0 in frame.shape:
                raise ValueError(f"frames: frame {i}: expected a tensor (3, h, w), got {_describe(frame)}.")
            if not (frame.is_floating_point() or frame.dtype == torch.uint8):
                raise ValueError(
                    f"frames: frame {i}: expected floating point in [0, 1] or uint8, got {_describe(frame)}. "
                    "Convert it."
                )
            shape = shape if shape is not None and self.one_size else frame.shape
            if frame.shape != shape:
                raise ValueError(
                    f"frames: frame {i}: expected {tuple(shape)} like the frames before, got {tuple(frame.shape)}. "
                    "Restore clips of different sizes one by one."
                )
            self.home = frame.device
            there = frame.to(self.device)  # bytes travel, not floats
            if there.dtype == torch.uint8:
                yield there.to(self.dtype or torch.float32) / 255
            else:
                yield there.to(self.dtype or there.dtype)


def _windows(frames: Iterable[Tensor], num_frame: int, padding: str) -> Iterator[list[Tensor]]:
    """Yield the window around each frame, holding ``num_frame`` frames at most.

    The windows at the start and at the end need the first and the last ``num_frame`` frames, the
    others fewer; so a window is due as soon as its last frame, or the end of the clip, has been read.
    """
    source, held, read, ended = iter(frames), dict[int, Tensor](), 0, False
    for index in itertools.count():
        while not ended and read <= max(index + num_frame // 2, num_frame - 1):
            frame = next(source, None)
            if frame is None:
                ended = True
                break
            held.pop(read - num_frame, None)
            held[read] = frame
            read += 1
        if index == read:
            return
        if read < shortest_clip(num_frame, padding):  # only then, as the loop above reads so far
            log.warning(
                "a clip of %d frame(s) is too short for padding '%s' of windows of %d: its end frames are repeated "
                "instead, as by 'replicate'",
                read,
                padding,
                num_frame,
            )
            padding = "replicate"
        yield [held[i] for i in generate_frame_indices(index, read, num_frame, padding)]


def _chunks(frames: Iterable[Tensor], chunk: int, overlap: int) -> Iterator[tuple[Tensor, slice]]:
    """Yield parts (n, 3, h, w) of a clip that share ``overlap`` frames, and which frames of each are to be kept."""
    source, held, first = iter(frames), list[Tensor](), 0
    while True:
        held.extend(itertools.islice(source, chunk - len(held) if chunk else None))
        after = next(source, None)
        if after is None:
            if held:
                yield torch.stack(held), slice(first, None)
            return
        yield torch.stack(held), slice(first, len(held) - overlap + overlap // 2)
        held, first = [*held[len(held) - overlap :], after], overlap // 2


def _stacked(results: Iterator[Tensor], frames: Tensor, scale: int) -> Tensor:
    """Put the results into one tensor, as they come: they are never in memory twice."""
    stacked = torch.empty(0, frames.shape[1], frames.shape[2] * scale, frames.shape[3] * scale, device=frames.device)
    for i, result in enumerate(results):
        if i == 0:
            stacked = result.new_empty(len(frames), *result.shape)
        stacked[i] = result
    return stacked


@contextlib.contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """Put a module into eval mode; afterwards give each part the training flag it had."""
    training = [m for m in network.modules() if m.training] if isinstance(network, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_tile(tile: int, overlap: int) -> None:
    if tile < 0 or overlap < 0 or (tile and overlap >= tile):
        raise ValueError(
            f"tile: expected 0 for whole frames, or a side in pixels above tile_overlap, got tile {tile} and "
            f"tile_overlap {overlap}. Use larger tiles or a smaller overlap."
        )


def _check_chunk(chunk: int, overlap: int) -> None:
    if chunk < 0 or overlap < 0 or (chunk and overlap >= chunk):
        raise ValueError(
            f"chunk: expected 0 for whole clips, or a number of frames above chunk_overlap, got chunk {chunk} and "
            f"chunk_overlap {overlap}. Use longer chunks or a smaller overlap."
        )


def _describe(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
