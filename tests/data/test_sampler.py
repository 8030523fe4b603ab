import itertools
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from vsr.data.sampler import TrainSampler


def draws(**arguments: Any) -> list[tuple[int, int]]:
    return list(itertools.chain.from_iterable(TrainSampler(**arguments)))


def test_the_stream_is_the_permutation_of_each_epoch() -> None:
    expected = []
    for draw in range(20):  # the definition, written out
        order = np.random.default_rng((7, draw // 6)).permutation(6)
        expected.append((int(order[draw % 6]) % 3, draw))
    assert draws(length=3, enlarge_ratio=2, batch_size=4, seed=7, num_batches=5) == expected


def test_an_epoch_takes_every_sample_enlarge_ratio_times() -> None:
    taken = Counter(index for index, _ in draws(length=5, enlarge_ratio=3, batch_size=3, num_batches=5))
    assert taken == dict.fromkeys(range(5), 3)


def test_two_epochs_have_different_orders() -> None:
    indices = [index for index, _ in draws(length=50, batch_size=50, num_batches=2)]
    assert indices[:50] != indices[50:]


@pytest.mark.parametrize(("world", "batch"), [(1, 4), (2, 2), (4, 1)])
def test_the_ranks_together_take_the_stream_step_by_step(world: int, batch: int) -> None:
    whole = draws(length=9, batch_size=4, seed=1, num_batches=6)
    ranks = [
        list(TrainSampler(length=9, batch_size=batch, world_size=world, rank=rank, seed=1, num_batches=6))
        for rank in range(world)
    ]
    assert [pair for step in zip(*ranks, strict=True) for share in step for pair in share] == whole


def test_another_world_continues_where_the_first_stopped() -> None:
    whole = draws(length=9, batch_size=12, num_batches=2)
    ranks = [TrainSampler(length=9, batch_size=3, world_size=2, rank=rank, num_batches=2) for rank in (0, 1)]
    first = [pair for batches in zip(*ranks, strict=True) for share in batches for pair in share]
    rest = draws(length=9, batch_size=4, start_draw=12, num_batches=3)
    assert first + rest == whole


def test_it_can_be_iterated_again_from_the_start() -> None:
    sampler = TrainSampler(length=4, batch_size=3, num_batches=4)
    assert list(sampler) == list(sampler)
    assert len(sampler) == 4


def test_it_has_no_end_unless_told() -> None:
    sampler = TrainSampler(length=2, batch_size=1)
    assert [draw for ((_, draw),) in itertools.islice(sampler, 100)] == list(range(100))
    with pytest.raises(TypeError, match="no end"):
        len(sampler)


def test_a_long_epoch_is_shuffled_once() -> None:
    start = time.perf_counter()
    sampler = TrainSampler(length=1_000_000, enlarge_ratio=2, batch_size=16, num_batches=2000)
    assert len({draw for batch in sampler for _, draw in batch}) == 32_000
    assert time.perf_counter() - start < 5  # 0.1 s measured; a permutation a draw would take half an hour


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("length", 0, "length: expected 1 or more, got 0"),
        ("batch_size", 0, "batch_size: expected 1 or more"),
        ("enlarge_ratio", 0, "enlarge_ratio: expected 1 or more"),
        ("seed", -1, "seed: expected 0 or more, got -1"),
        ("start_draw", -1, "start_draw: expected 0 or more"),
        ("rank", 1, r"rank: expected 0 to 0 \(world_size - 1\), got 1"),
        ("num_batches", -1, "num_batches: expected 0 or more"),
        ("enlarge_ratio", 1 << 30, "dataset_enlarge_ratio: expected an epoch of at most"),
    ],
)
def test_a_number_out_of_range_is_refused(argument: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSampler(**({"length": 4, "batch_size": 1} | {argument: value}))
