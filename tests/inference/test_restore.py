"""Restoring videos with networks that tell which frames they were given."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vsr.inference import restore
from vsr.utils.windows import PADDINGS, generate_frame_indices


class Window(nn.Module):
    """Puts the number of each frame it sees into one decimal place of its output: 0 1 2 gives 12 (012)."""

    temporal, scale = "window", 2

    def __init__(self, num_frame: int) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.add(tuple(x.shape[:2]))
        places = 100.0 ** torch.arange(self.num_frame - 1, -1, -1, dtype=x.dtype)
        y = (x * places.view(1, -1, 1, 1, 1)).sum(1)
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2)


def numbered(total: int) -> Tensor:
    """A clip (total, 3, 2, 3) whose frames are filled with their number."""
    return torch.arange(total, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 2, 3)


def seen(indices: list[int]) -> int:
    return int("".join(f"{i:02d}" for i in indices))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("num_frame", [1, 3, 5, 7])
def test_every_frame_is_restored_from_its_official_window_however_long_the_clip(num_frame: int, padding: str) -> None:
    network = Window(num_frame).double()
    for total in range(num_frame, 2 * num_frame + 3):
        expected = [seen(generate_frame_indices(i, total, num_frame, padding)) for i in range(total)]
        whole = restore(network, numbered(total), padding=padding)
        stream = list(restore(network, iter(numbered(total)), padding=padding))
        assert whole.shape == (total, 3, 4, 6)
        assert [int(frame[0, 0, 0]) for frame in whole] == expected
        assert torch.equal(torch.stack(stream), whole)
    assert network.sizes == {(1, num_frame)}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("num_frame", [3, 5, 7])
def test_as_many_frames_come_out_as_go_in_for_clips_shorter_than_the_window(
    num_frame: int, padding: str, caplog: pytest.LogCaptureFixture
) -> None:
    for total in range(num_frame):
        caplog.clear()
        whole = restore(Window(num_frame).double(), numbered(total), padding=padding)
        assert whole.shape == (total, 3, 4, 6)
        used = "replicate" if caplog.records else padding
        assert [int(frame[0, 0, 0]) for frame in whole] == [
            seen(generate_frame_indices(i, total, num_frame, used)) for i in range(total)
        ]
        assert len(caplog.records) <= 1
        if padding == "reflection_circle" and total:
            assert f"a clip of {total} frame(s) is too short for padding 'reflection_circle'" in caplog.text


def test_a_stream_is_read_no_farther_than_the_next_window_needs() -> None:
    """Read ahead by half a window and hold one window: memory does not grow with the video."""
    read = 0

    def frames() -> Iterator[Tensor]:
        nonlocal read
        for frame in numbered(1000):
            read += 1
            yield frame

    for i, _ in enumerate(restore(Window(5).double(), frames())):
        assert read == min(max(i + 3, 5), 1000)
    assert i == 999


def test_no_frame_is_held_once_no_window_needs_it() -> None:
    import weakref

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    class Identity(nn.Module):
        temporal, num_frame = "window", 5

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 2]

    def frames() -> Iterator[Tensor]:
        for i in range(40):
            frame = torch.full((3, 4, 4), float(i))
            alive.add(frame)
            yield frame
            del frame

    for i, _ in enumerate(restore(Identity(), frames())):
        assert len(alive) <= 6, i  # 5 held, and one just handed over


def test_an_endless_stream_is_restored_as_it_comes() -> None:
    import itertools

    stream = restore(Window(3), (torch.rand(3, 4, 4) for _ in itertools.count()))
    assert [tuple(next(stream).shape) for _ in range(3)] == [(3, 8, 8)] * 3


class Image(nn.Module):
    """Doubles the values, and notes whether it runs in eval mode."""

    temporal = "image"

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        return self.dropout(x * self.factor)


def test_an_image_network_restores_frame_by_frame_even_of_changing_size() -> None:
    frames = [torch.rand(3, 4, 4), torch.rand(3, 6, 5)]
    for frame, result in zip(frames, restore(Image(), frames), strict=True):
        torch.testing.assert_close(result, 2 * frame)


def test_a_clip_network_gets_the_whole_clip_at_once() -> None:
    class Reverse(nn.Module):
        temporal, scale = "clip", 1

        def forward(self, x: Tensor) -> Tensor:
            return x.flip(1)

    clip = torch.rand(5, 3, 4, 4)
    assert torch.equal(restore(Reverse(), clip), clip.flip(0))
    assert torch.equal(torch.stack(list(restore(Reverse(), iter(clip)))), clip.flip(0))
    assert list(restore(Reverse(), [])) == []
    assert restore(Reverse(), clip[:0]).shape == (0, 3, 4, 4)


class Neighbours(nn.Module):
    """Adds to each frame the frames up to ``reach`` away, and zeros beyond the clip that it is given."""

    temporal, scale = "clip", 1

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach, self.lengths = reach, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.lengths.append(x.shape[1])
        padded = nn.functional.pad(x, (0, 0, 0, 0, 0, 0, self.reach, self.reach))
        return padded.unfold(1, 2 * self.reach + 1, 1).sum(-1)


@pytest.mark.parametrize(("chunk", "overlap"), [(1, 0), (3, 2), (5, 2), (6, 4), (7, 3), (9, 8), (40, 4)])
@pytest.mark.parametrize("total", [1, 2, 5, 6, 7, 13, 20])
def test_chunks_give_the_whole_clip_where_the_network_looks_no_farther_than_half_their_overlap(
    total: int, chunk: int, overlap: int
) -> None:
    network, clip = Neighbours(overlap // 2), torch.randint(0, 100, (total, 3, 2, 2)).float()  # sums are exact
    expected = restore(network, clip)
    assert network.lengths == [total]
    network.lengths.clear()
    got = restore(network, clip, chunk=chunk, chunk_overlap=overlap)
    assert torch.equal(got, expected)
    assert max(network.lengths) <= chunk
    assert sum(network.lengths) == total + overlap * (len(network.lengths) - 1)
    assert torch.equal(torch.stack(list(restore(network, iter(clip), chunk=chunk, chunk_overlap=overlap))), expected)


def test_of_frames_that_chunks_share_each_takes_the_half_that_is_nearer_to_it() -> None:
    class Order(nn.Module):
        """Numbers the calls."""

        temporal, calls = "clip", 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.full_like(x, self.calls)

    clip = torch.rand(11, 3, 1, 1)
    for overlap, expected in ((0, "11111222223"), (2, "11112223333"), (3, "11122334444"), (4, "11123456777")):
        got = restore(Order(), clip, chunk=5, chunk_overlap=overlap)
        assert "".join(str(int(frame[0])) for frame in got) == expected, overlap


def test_memory_for_a_clip_network_does_not_grow_with_the_video() -> None:
    import weakref

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    outputs: weakref.WeakSet[Tensor] = weakref.WeakSet()

    class Copy(nn.Module):
        temporal, scale = "clip", 1

        def forward(self, x: Tensor) -> Tensor:
            out = x.clone()
            outputs.add(out)
            return out

    def frames() -> Iterator[Tensor]:
        for i in range(60):
            frame = torch.full((3, 4, 4), float(i))
            alive.add(frame)
            yield frame
            del frame

    for i, frame in enumerate(restore(Copy(), frames(), chunk=6, chunk_overlap=2)):
        assert (len(alive) <= 8, len(outputs) <= 1) == (True, True), i
        assert frame[0, 0, 0] == i
    assert i == 59


def test_bytes_are_divided_by_255() -> None:
    clip = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(restore(lambda x: x, clip), clip.float() / 255)
    torch.testing.assert_close(restore(Image(), clip), clip.float() / 255 * 2)


def test_the_network_runs_in_eval_mode_and_gets_each_training_flag_back() -> None:
    network = Image().train()
    frozen = nn.Sequential(network, nn.BatchNorm2d(3).eval())
    assert torch.equal(restore(frozen, torch.ones(1, 3, 4, 4)), restore(frozen, torch.ones(1, 3, 4, 4)))
    assert [m.training for m in frozen.modules()] == [True, True, True, False]
    stream = restore(network, iter(torch.ones(3, 3, 4, 4)))
    next(stream)
    assert network.training  # between the frames of a stream, too


def test_the_training_flags_come_back_after_an_error() -> None:
    class Broken(Image):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    network = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        restore(network, torch.rand(1, 3, 4, 4))
    assert network.training


def test_frames_are_computed_in_the_precision_of_the_network() -> None:
    assert restore(Image().double(), torch.rand(1, 3, 4, 4)).dtype == torch.float64
    assert restore(Image(), torch.rand(1, 3, 4, 4).half()).dtype == torch.float32


def test_tiles_and_self_ensemble_reach_the_network() -> None:
    calls = []

    def network(x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return x

    clip = torch.rand(1, 3, 8, 20)
    torch.testing.assert_close(restore(network, clip, tile=12, tile_overlap=4, self_ensemble=True), clip)
    assert len(calls) == 8 * 2
    assert set(calls) == {(1, 3, 8, 12), (1, 3, 12, 8)}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(3, 4, 4), "frames: expected a tensor (t, 3, h, w) or an iterable of (3, h, w), got (3, 4, 4)"),
        (torch.rand(2, 3, 0, 4), "frames: expected a tensor (t, 3, h, w)"),
        ([torch.rand(1, 3, 4, 4)], "frames: frame 0: expected a tensor (3, h, w), got (1, 3, 4, 4)"),
        (["a.png"], "frames: frame 0: expected a tensor (3, h, w), got str"),
        ([torch.zeros(3, 4, 4, dtype=torch.int64)], "frame 0: expected floating point in [0, 1] or uint8"),
        ([torch.rand(3, 4, 4)] * 2 + [torch.rand(3, 4, 5)], "frame 2: expected (3, 4, 4) like the frames before"),
    ],
)
def test_wrong_frames_are_named(frames, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        list(restore(Window(3), frames))


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({"temporal": "windows"}, {}, "network.temporal: expected 'image', 'window' or 'clip', got 'windows'"),
        ({"temporal": "window"}, {}, "network.num_frame: expected the length of the window, got None"),
        ({"num_frame": 4}, {}, "num_frame: expected an odd number, got 4"),
        ({"temporal": "image"}, {"padding": "zeros"}, "padding: expected one of"),
        ({"temporal": "image"}, {"tile": 4, "tile_overlap": 4}, "tile: expected"),
        ({"temporal": "clip"}, {"chunk": 4, "chunk_overlap": 4}, "chunk: expected 0 for whole clips, or a number"),
        ({"temporal": "clip"}, {"chunk": -1}, "chunk: expected"),
    ],
)
def test_wrong_options_are_refused_before_the_first_frame(attributes: dict, options: dict, message: str) -> None:
    network = nn.Identity()
    for name, value in attributes.items():
        setattr(network, name, value)
    with pytest.raises(ValueError, match=message):
        restore(network, iter([]), **options)


@pytest.mark.parametrize(("temporal", "form"), [("clip", "all frames"), ("window", "one frame")])
def test_a_network_that_is_not_what_it_says_is_found_out(temporal: str, form: str) -> None:
    network = nn.Identity() if temporal == "window" else nn.Flatten(0, 1)
    network.temporal, network.num_frame = temporal, 3
    with pytest.raises(ValueError, match=f"network.temporal: expected {form} .* that is '{temporal}'"):
        restore(network, torch.rand(4, 3, 4, 4))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_frames_of_the_host_go_to_the_network_and_come_back() -> None:
    network, clip = Image(), torch.rand(2, 3, 4, 4)
    result = restore(network, clip, device="cuda")
    assert result.device == clip.device
    torch.testing.assert_close(result, 2 * clip)
    assert network.factor.is_cuda
