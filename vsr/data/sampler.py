"""Which samples each training process draws at which step."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (index, draw): the share of one process of one endless stream of draws.

    The stream is a function of (seed, length, enlarge_ratio) alone. Draw d belongs to epoch d // N
    with N = length * enlarge_ratio and takes the sample ``permutation[d % N] % length``, where the
    permutation of N comes from (seed, epoch): an epoch takes every sample enlarge_ratio times. Step
    k of rank r takes the draws start_draw + (k * world_size + r) * batch_size + 0, 1, 2 ... A run
    that continues at the draw it had reached, with any number of processes and any batch size,
    therefore neither repeats nor loses a sample.

    Args:
        length: Samples of the data set.
        enlarge_ratio: How often an epoch repeats the data set.
        batch_size: Samples that this process takes for a step.
        world_size: Number of processes.
        rank: This process.
        seed: Of the run, 0 or more.
        start_draw: The first draw of the first step: the number of samples that the run has taken.
        num_batches: Batches to yield; None: without end.

    Raises:
        ValueError: a number is out of its range.
    """

    MAX_EPOCH = 1 << 31  # draws: the permutation of an epoch is held in memory, 8 bytes each

    def __init__(
        self,
        *,
        length: int,
        enlarge_ratio: int = 1,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        start_draw: int = 0,
        num_batches: int | None = None,
    ) -> None:
        lowest = {"length": 1, "enlarge_ratio": 1, "batch_size": 1, "world_size": 1, "seed": 0, "start_draw": 0}
        given = {
            "length": length, "enlarge_ratio": enlarge_ratio, "batch_size": batch_size, "world_size": world_size,
            "seed": seed, "start_draw": start_draw,
        }  # fmt: skip
        for name, value in given.items():
            if value < lowest[name]:
                raise ValueError(f"{name}: expected {lowest[name]} or more, got {value}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1} (world_size - 1), got {rank}.")
        if num_batches is not None and num_batches < 0:
            raise ValueError(f"num_batches: expected 0 or more, or None, got {num_batches}.")
        if length * enlarge_ratio > self.MAX_EPOCH:
            raise ValueError(
                f"dataset_enlarge_ratio: expected an epoch of at most {self.MAX_EPOCH} samples, "
                f"got {enlarge_ratio} x {length}. Lower it."
            )
        self.length, self.epoch_length = length, length * enlarge_ratio
        self.batch_size, self.world_size, self.rank = batch_size, world_size, rank
        self.seed, self.start_draw, self.num_batches = seed, start_draw, num_batches

    def __len__(self) -> int:
        if self.num_batches is None:
            raise TypeError("this sampler has no end (num_batches is None)")
        return self.num_batches

    def part(self, first: int, count: int) -> "TrainSampler":
        """Return a sampler of ``count`` of this one's batches, from number ``first`` (from 0) on."""
        return TrainSampler(
            length=self.length,
            enlarge_ratio=self.epoch_length // self.length,
            batch_size=self.batch_size,
            world_size=self.world_size,
            rank=self.rank,
            seed=self.seed,
            start_draw=self.start_draw + first * self.world_size * self.batch_size,
            num_batches=count,
        )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.start_draw // self.epoch_length
        order = self._permutation(epoch)
        step = 0
        while self.num_batches is None or step < self.num_batches:
            first = self.start_draw + (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for draw in range(first, first + self.batch_size):
                if draw // self.epoch_length != epoch:  # draws only grow: an epoch's order is made once
                    epoch = draw // self.epoch_length
                    order = self._permutation(epoch)
                batch.append((int(order[draw % self.epoch_length]) % self.length, draw))
            yield batch
            step += 1

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.epoch_length)
