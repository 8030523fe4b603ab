"""Chunks of clips through networks that go on where they ended."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.archs.basicvsr import BasicVSR
from vsr.inference import restore
from vsr.inference.carried import steps
from vsr.models.weights import build_network


class Recurrent(nn.Module):
    """Each frame gets a decaying sum of blurred frames before, and the means of ``reach`` frames behind it."""

    temporal, scale = "clip", 2

    def __init__(self, reach: int = 0) -> None:
        super().__init__()
        self.reach = reach
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.carry(x, None, x.shape[1])[0]

    def carry(self, x: Tensor, state: Tensor | None, keep: int) -> tuple[Tensor, Tensor]:
        self.seen.append((x.shape[1], keep))
        out: list[Tensor] = []
        state = torch.zeros_like(x[:, 0]) if state is None else state
        for i in range(keep):
            state = x[:, i] + F.avg_pool2d(state, 3, 1, 1) / 2
            behind = x[:, i + 1 : i + 1 + self.reach].sum(1)
            out.append(F.interpolate(state + behind, scale_factor=2))
        return torch.stack(out, 1), state


@pytest.mark.parametrize("options", [{}, {"tile": 8, "tile_overlap": 4}, {"self_ensemble": True}])
@pytest.mark.parametrize(("chunk", "ahead"), [(1, 0), (3, 0), (5, 2), (7, 6), (30, 4)])
def test_chunks_give_what_the_whole_clip_gives(chunk: int, ahead: int, options: dict[str, Any]) -> None:
    for total in (1, 2, 5, 7, 12):
        clip = torch.rand(total, 3, 11, 18, dtype=torch.float64)
        network = Recurrent(reach=ahead)
        expected = restore(network, clip, **options)
        network.seen.clear()
        got = restore(network, clip, chunk=chunk, chunk_overlap=ahead, **options)
        # In tiles what is far away comes late, and only through the states: that of each tile is its own.
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        assert max(frames for frames, _ in network.seen) <= chunk
        if not options:
            assert sum(keep for _, keep in network.seen) == total
        streamed = torch.stack(list(restore(network, iter(clip), chunk=chunk, chunk_overlap=ahead, **options)))
        assert torch.equal(streamed, got)


def test_a_second_video_begins_anew() -> None:
    network, clip = Recurrent(), torch.rand(6, 3, 8, 8)
    first, second = (restore(network, clip, chunk=2, chunk_overlap=0) for _ in range(2))
    assert torch.equal(first, second)


def test_a_state_of_another_cut_into_tiles_is_not_used() -> None:
    from vsr.inference.carried import Carried

    carried = Carried(Recurrent())
    x = torch.ones(1, 2, 3, 4, 4)
    carried.start(2)
    fresh = carried(x)
    carried.start(2)
    gone_on = carried(x)
    assert not torch.equal(gone_on, fresh)
    carried.again()  # the same chunk once more, as if memory had run out
    assert torch.equal(carried(x), gone_on)
    carried.start(2)
    half = carried(x[..., :2])
    assert torch.equal(half[..., 0, 0], fresh[..., 0, 0])


def test_parts_hold_each_frame_once_among_those_that_are_kept() -> None:
    def frames(total: int) -> Iterator[Tensor]:
        yield from (torch.full((3, 1, 1), float(i)) for i in range(total))

    for total in range(9):
        for chunk in range(1, 6):
            for ahead in range(chunk):
                parts = list(steps(frames(total), chunk, ahead))
                assert [int(f[0]) for part, keep in parts for f in part[:keep]] == list(range(total))
                assert all(keep <= len(part) <= chunk for part, keep in parts)
                # all but the last look ahead as far as they were told
                assert all(len(part) - keep == ahead for part, keep in parts[:-1])


@pytest.fixture
def basicvsr() -> BasicVSR:
    torch.manual_seed(0)
    network = build_network({"type": "BasicVSR", "num_feat": 8, "num_block": 1})
    for name, parameter in network.named_parameters():
        if "spynet" not in name and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)  # so that features matter
    assert isinstance(network, BasicVSR)
    return network.eval()


@torch.no_grad()
def test_basicvsr_goes_on_to_the_bit_where_it_sees_all_that_comes(basicvsr: BasicVSR) -> None:
    clip = torch.rand(1, 6, 3, 16, 16)
    expected = basicvsr(clip)
    first, state = basicvsr.carry(clip, None, 2)
    second, state = basicvsr.carry(clip[:, 2:], state, 3)
    third, _ = basicvsr.carry(clip[:, 5:], state, 1)
    torch.testing.assert_close(torch.cat((first, second, third), 1), expected, rtol=1e-4, atol=1e-5)


def test_basicvsr_in_chunks_is_nearer_to_the_whole_clip_than_without_a_state(basicvsr: BasicVSR) -> None:
    class Forgetful(nn.Module):
        temporal, scale = "clip", 4

        def forward(self, x: Tensor) -> Tensor:
            return basicvsr(x)

    clip = torch.rand(9, 3, 16, 16)
    whole = restore(basicvsr, clip)
    carried = restore(basicvsr, clip, chunk=4, chunk_overlap=2)
    apart = restore(Forgetful(), clip, chunk=4, chunk_overlap=2)
    assert (carried - whole).abs().mean() < 0.8 * (apart - whole).abs().mean()
    torch.testing.assert_close(carried[-3:], whole[-3:], rtol=1e-3, atol=1e-4)  # from the last chunk on all is known
