"""Reads of a memory against loops over all pixels, and what must hold of any of them."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.archs.memory import read_everywhere, read_neighbourhood, read_similarity

Read = Callable[..., tuple[Tensor, Tensor]]
READS: dict[str, Read] = {
    "similarity": read_similarity,
    "pixel": read_neighbourhood,
    "crop3": partial(read_neighbourhood, crop=3),
    "crop5": partial(read_neighbourhood, crop=5),
    "everywhere": partial(read_everywhere, chunk=7),
    "per_sentence": partial(read_everywhere, chunk=7, per_sentence=True),
    "every_second": partial(read_everywhere, key_stride=2),
}
every_read = pytest.mark.parametrize("read", READS.values(), ids=READS)
needs_gpu = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
on_gpu = pytest.param("cuda", marks=needs_gpu)


def made(b: int = 2, m: int = 3, d: int = 4, dv: int = 5, h: int = 5, w: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (b, d, h, w), (b, m, d, h, w), (b, m, dv, h, w)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, v


def looped(q: Tensor, k: Tensor, v: Tensor, near: Callable[[int, int], bool], scale: float | None = None) -> Tensor:
    """Softmax over all positions of all slots whose distances in rows and columns ``near`` accepts, pixel by pixel."""
    out, scale = torch.zeros_like(v[:, 0]), 1 / math.sqrt(q.shape[1]) if scale is None else scale
    places = list(itertools.product(range(q.shape[2]), range(q.shape[3])))
    for n, (y, x) in itertools.product(range(len(q)), places):
        seen = [(m, i, j) for m in range(k.shape[1]) for i, j in places if near(i - y, j - x)]
        powers = [math.exp(scale * float(q[n, :, y, x] @ k[n, m, :, i, j])) for m, i, j in seen]
        for (m, i, j), power in zip(seen, powers, strict=True):
            out[n, :, y, x] += power / sum(powers) * v[n, m, :, i, j]
    return out


@pytest.mark.parametrize("crop", [0, 1, 3, 5])
def test_a_neighbourhood_is_what_loops_find_in_it(crop: int) -> None:
    q, k, v = made()
    expected = looped(q, k, v, lambda dy, dx: max(abs(dy), abs(dx)) <= crop // 2)
    torch.testing.assert_close(read_neighbourhood(q, k, v, crop=crop)[0], expected)


def test_a_search_of_the_whole_space_is_what_loops_find_whatever_its_chunks() -> None:
    q, k, v = made()
    expected = looped(q, k, v, lambda dy, dx: True)
    for chunk in (0, 1, 7, 30, 1000):
        torch.testing.assert_close(read_everywhere(q, k, v, chunk=chunk)[0], expected)


def test_pytorchs_attention_over_all_positions_finds_the_same() -> None:
    q, k, v = made()
    query, keys, values = q.flatten(2).mT, k.transpose(1, 2).flatten(2).mT, v.transpose(1, 2).flatten(2).mT
    expected = F.scaled_dot_product_attention(query, keys, values).mT.unflatten(2, (5, 6))
    torch.testing.assert_close(read_everywhere(q, k, v, chunk=7)[0], expected)


def test_unfolded_neighbourhoods_hold_the_same() -> None:
    """Whatever lies beyond the border: it is masked."""
    q, k, v = made()
    expected = []
    for beyond in (0.0, 1e6):
        keys, values = (
            F.unfold(F.pad(x.flatten(0, 1), (1, 1, 1, 1), value=beyond), 3).view(2, 3, -1, 9, 30) for x in (k, v)
        )
        inside = F.unfold(torch.ones(1, 1, 5, 6), 3, padding=1).view(9, 30) > 0
        logits = (q.flatten(2)[:, None, :, None] * keys).sum(2) / 2
        weights = logits.masked_fill(~inside, -math.inf).flatten(1, 2).softmax(1).view(2, 3, 1, 9, 30)
        expected.append((weights * values).sum((1, 3)).view(2, 5, 5, 6))
    for once in expected:
        torch.testing.assert_close(read_neighbourhood(q, k, v, crop=3)[0], once)


def test_a_search_by_sentences_weighs_what_each_of_them_gives() -> None:
    q, k, v = made()
    each = torch.stack([looped(q, k[:, m : m + 1], v[:, m : m + 1], lambda dy, dx: True) for m in range(3)], 1)
    expected = looped(q, k, each, lambda dy, dx: dy == dx == 0)
    torch.testing.assert_close(read_everywhere(q, k, v, per_sentence=True, chunk=4)[0], expected)


def test_a_search_with_a_stride_sees_every_second_row_and_column() -> None:
    q, k, v = made()
    sparse = read_everywhere(q, k[..., ::2, ::2], v[..., ::2, ::2])
    torch.testing.assert_close(read_everywhere(q, k, v, key_stride=2), sparse)
    assert not torch.allclose(sparse[0], read_everywhere(q, k, v)[0])


def test_likeness_of_slots_is_a_mean_and_does_not_grow_with_the_image() -> None:
    q, k, v = made(b=1)
    _, weights = read_similarity(q, k, v, scale=2.0)
    logits = [2 * float((q[0] * k[0, m]).sum(0).mean()) for m in range(3)]
    expected = torch.tensor([[math.exp(x) / sum(map(math.exp, logits)) for x in logits]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    twice = [torch.cat((x, x), -1) for x in (q, k, v)]
    torch.testing.assert_close(read_similarity(*twice, scale=2.0)[1], expected)


def test_weights_of_slots_may_come_from_smaller_keys_than_the_values_have() -> None:
    q, k, v = made()
    out, weights = read_similarity(q[..., ::2, ::2], k[..., ::2, ::2], v)
    torch.testing.assert_close(out, (weights[..., None, None, None] * v).sum(1))


@every_read
def test_weights_are_positive_and_sum_to_one_at_every_pixel(read: Read) -> None:
    _, weights = read(*made())
    sums = weights.sum((1, 2)) if weights.dim() == 5 else weights.sum(1)
    assert (weights >= 0).all()
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_pixel_at_the_border_gives_no_weight_to_what_lies_outside() -> None:
    _, weights = read_neighbourhood(*made(), crop=5)
    outside = F.unfold(torch.ones(1, 1, 5, 6), 5, padding=2).view(25, 5, 6) == 0
    assert outside.any()
    assert torch.equal(weights == 0, outside.expand_as(weights))


def shifted_key(scale: float = 200.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A query of unit length whose keys one slot has one row down and one column to the left, and what lies there."""
    q, k, v = (F.normalize(x, dim=x.dim() - 3) for x in made(b=1, d=16, h=8, w=8))
    k[:, 1] = torch.roll(q, (1, -1), (2, 3))
    return scale * q, k, v, torch.roll(v[:, 1], (-1, 1), (2, 3))


@pytest.mark.parametrize(
    ("read", "finds"),
    [(READS["crop3"], True), (READS["crop5"], True), (READS["everywhere"], True), (READS["pixel"], False)],
    ids=["crop3", "crop5", "everywhere", "pixel"],
)
def test_what_has_moved_is_found_by_a_read_that_looks_that_far(read: Read, finds: bool) -> None:
    q, k, v, there = shifted_key()
    error = (read(q, k, v, scale=1.0)[0] - there)[..., 1:-1, 1:-1].abs().max()
    assert (error < 1e-9) if finds else (error > 0.1)


def test_a_crop_that_covers_the_frame_is_a_search_of_the_whole_space() -> None:
    q, k, v = made()
    out, weights = read_everywhere(q, k, v)
    around, taps = read_neighbourhood(q, k, v, crop=11)
    torch.testing.assert_close(around, out)
    torch.testing.assert_close(taps.sum(2), weights)


@every_read
def test_the_order_of_slots_does_not_matter(read: Read) -> None:
    q, k, v = made()
    order = [2, 0, 1]
    out, weights = read(q, k, v)
    again, permuted = read(q, k[:, order], v[:, order])
    torch.testing.assert_close(again, out)
    torch.testing.assert_close(permuted, weights[:, order])


@every_read
def test_slots_that_hold_nothing_are_as_if_they_were_not_there(read: Read) -> None:
    q, k, v = made(b=1)
    k[:, 1], v[:, 1] = 100.0, 1e6
    out, weights = read(q, k, v, mask=torch.tensor([[True, False, True]]))
    torch.testing.assert_close(out, read(q, k[:, [0, 2]], v[:, [0, 2]])[0])
    assert (weights[:, 1] == 0).all()


@every_read
def test_values_that_are_all_equal_are_what_is_read(read: Read) -> None:
    q, k, v = made()
    torch.testing.assert_close(read(q, k, torch.full_like(v, 3.5))[0], torch.full_like(v[:, 0], 3.5))


def test_one_slot_and_no_neighbours_leave_no_choice() -> None:
    q, k, v = made(m=1)
    for read in (READS["similarity"], READS["pixel"]):
        torch.testing.assert_close(read(100 * q, k, v)[0], v[:, 0])


@pytest.mark.parametrize("masked", [False, True])
@every_read
def test_gradients_of_output_and_weights_are_those_of_finite_differences(read: Read, masked: bool) -> None:
    tensors = [x.requires_grad_() for x in (*made(b=2, m=2, d=2, dv=2, h=4, w=4), torch.tensor(0.7).double())]
    mask = torch.tensor([[True, False], [True, True]]) if masked else None
    torch.autograd.gradcheck(lambda q, k, v, scale: read(q, k, v, scale=scale, mask=mask), tensors, fast_mode=True)


@every_read
def test_what_needs_no_gradient_takes_the_same_values(read: Read) -> None:
    q, k, v = made()
    out, weights = read(q, k.requires_grad_(), v)
    assert out.requires_grad
    with torch.no_grad():
        assert all(map(torch.equal, read(q, k, v), (out, weights)))


@pytest.mark.parametrize("device", ["cpu", on_gpu])
@pytest.mark.parametrize("autocast", [True, False])
@every_read
def test_bfloat16_is_weighed_in_float32(read: Read, autocast: bool, device: str) -> None:
    q, k, v = (x.bfloat16().to(device) for x in made(d=64))
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        out, weights = read(8 * q, k, v)
    expected, exact = read(8 * q.double(), k.double(), v.double())
    assert (out.dtype, weights.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(weights.double(), exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("read", [READS["crop5"], READS["everywhere"]], ids=["crop5", "everywhere"])
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_candidates(read: Read) -> None:
    """Unfolded keys alone would be 25 times the keys, and the weights of the whole space 64 times."""
    q, k, v = made(b=1, m=2, d=32, dv=32, h=32, w=32)
    saved: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        read(q.requires_grad_(), k.requires_grad_(), v.requires_grad_())
    assert sum(saved.values()) < 3 * (k.nbytes + v.nbytes)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_read
def test_a_gpu_reads_and_learns_what_a_cpu_does(read: Read) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        tensors = [x.float().to(device).requires_grad_() for x in made()]
        out, weights = read(*tensors)
        found[device] = out, weights, *torch.autograd.grad(out.square().sum() + weights.square().sum(), tensors)
    for on_cpu, there in zip(*found.values(), strict=True):
        torch.testing.assert_close(there.cpu(), on_cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("read", [READS["crop5"], read_everywhere], ids=["crop5", "everywhere"])
def test_a_gpu_never_holds_all_that_is_compared(read: Read) -> None:
    """Unfolded keys and values are 50 times the keys, the weights of the whole space 64 times both."""
    q, k, v = (x.float().cuda().requires_grad_() for x in made(b=1, m=2, d=32, dv=32, h=64, w=64))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    read(q, k, v)[0].square().sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 25 * k.nbytes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: read_neighbourhood(q, k, v, crop=4), r"crop: expected 0 or an odd .* got 4\. Use 3 or 5"),
        (lambda q, k, v: read_neighbourhood(q, k, v, crop=-1), r"crop: expected 0 or an odd .* got -1"),
        (lambda q, k, v: read_neighbourhood(q, k[..., :-1], v), "expected images of one size"),
        (lambda q, k, v: read_similarity(q, k[..., :1], v), r"q, k: expected images of one size, got \(5, 6\) and"),
        (lambda q, k, v: read_everywhere(q, k[..., :-1], v), "expected keys and values of one size, got"),
        (lambda q, k, v: read_everywhere(q[..., :-1], k, v, per_sentence=True), "and the query, too, got"),
        (lambda q, k, v: read_everywhere(q, k, v, chunk=-1), "chunk, key_stride: expected numbers from 0"),
        (lambda q, k, v: read_everywhere(q, k, v, key_stride=0), "chunk, key_stride: expected numbers from 0"),
        (lambda q, k, v: read_similarity(q[0], k, v), r"expected \(b, d, h, w\)"),
        (lambda q, k, v: read_similarity(q, k[:, :0], v[:, :0]), "one or more slots"),
        (lambda q, k, v: read_similarity(q, k[:, :1], v), "expected one batch"),
        (lambda q, k, v: read_similarity(q, k[:, :, :-1], v), "query and keys of one width"),
        (lambda q, k, v: read_similarity(q, k, v, mask=torch.ones(2, 3)), r"mask: expected bool \(b, m\) = \(2, 3\)"),
    ],
)
def test_what_cannot_be_read_is_refused(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*made())
