"""Several training sets as one, each with its share of the draws."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vsr.config.schema import DatasetPart
from vsr.data.clips import check_seed
from vsr.data.sample import Sample, prefixed
from vsr.data.sampler import TrainSampler
from vsr.registry import DATASETS

_OWN = {"name": "", "weight": None, "degradations": ()}  # keys of a part that are not its data set's


@DATASETS.register
class MixedDataset(Dataset[Sample]):
    """Training sets whose samples have one shape, mixed: an epoch has of each the share that its weight asks for.

    An item is ``dataset[index, draw]``, as in every training set. The numbers of the set are dealt out to the parts in
    proportion to their weights, so many that an epoch takes every sample of every part at least once. A part that has
    more numbers than samples repeats them: as often as the numbers go into its length evenly in turn, and for those
    that are left samples drawn at random from (seed, draw, index). Without weights the parts are put one after the
    other, and an epoch takes each sample once.

    Args:
        datasets: The parts: of each the ``type`` and its arguments, and beside them ``weight``, ``name`` and
            ``degradations``.
        scale: GT size / LQ size, of all parts.
        seed: Of the run.

    Raises:
        FileNotFoundError, ValueError: as a part raises, with its number; or the parts do not go together.
    """

    is_train = True

    def __init__(self, *, datasets: Annotated[list[Mapping[str, Any]], DatasetPart], scale: int, seed: int = 0) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one data set to mix, got none.")
        self.scale, self.seed = scale, check_seed(seed)
        weights = [part.get("weight") for part in datasets]
        names = [str(part.get("name") or number) for number, part in enumerate(datasets)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"datasets: expected a name of its own for each part, got '{twice}' twice. Rename one.")
        self.parts: dict[str, Any] = {}
        for number, (name, part) in enumerate(zip(names, datasets, strict=True)):
            with prefixed(f"datasets[{number}] ({part.get('type')})"):
                self.parts[name] = _built(part, scale=scale, seed=seed)
        self._sets = list(self.parts.values())
        self._names = names
        lengths = [len(part) for part in self._sets]
        self.counts = _counts(lengths, weights)
        self._ends = np.cumsum(self.counts)
        if len(self) > TrainSampler.MAX_EPOCH:
            raise ValueError(
                f"datasets: expected an epoch of at most {TrainSampler.MAX_EPOCH} samples, got {len(self)}, as the "
                f"weights {weights} make of the lengths {lengths}. Raise the weight of the longest part."
            )
        self._check_shapes()
        self.sample_bytes = max(int(getattr(part, "sample_bytes", 0)) for part in self._sets)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def clip_names(self) -> list[str]:
        """The clips of all parts, each with its part's name in front."""
        return [f"{name}/{clip}" for name, part in self.parts.items() for clip in getattr(part, "clip_names", ())]

    @property
    def gt_files(self) -> list[str]:
        return [file for part in self._sets for file in getattr(part, "gt_files", ())]

    def locate(self, index: int, draw: int) -> tuple[int, int]:
        """Return the number of the part that an item belongs to, and the item's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        place, length = index - int(self._ends[number]) + self.counts[number], len(self._sets[number])
        if place < self.counts[number] // length * length:
            return number, place % length
        # The tag in front keeps this stream apart from the sample's own, (seed, draw, index).
        return number, int(np.random.default_rng((1, self.seed, draw, index)).integers(length))

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, draw = item
        number, inner = self.locate(index, draw)
        with prefixed(f"datasets[{number}]"):
            sample: Sample = self._sets[number][inner, draw]
        sample["key"] = f"{self._names[number]}/{sample['key']}"
        return sample

    def _check_shapes(self) -> None:
        """Read one sample of each part: a batch takes those of one shape only."""
        first = ""
        for number, part in enumerate(self._sets):
            with prefixed(f"datasets[{number}]"):
                sample = part[0, 0]
            shape = ", ".join(
                f"{key} {tuple(value.shape)}" for key, value in sorted(sample.items()) if isinstance(value, Tensor)
            )
            first = first or shape
            if shape != first:
                raise ValueError(
                    f"datasets[{number}] ({type(part).__name__}): expected samples like those of datasets[0], {first}, "
                    f"got {shape}. Make num_frame, gt_size and the kind of sets equal."
                )


def _built(part: Mapping[str, Any], *, scale: int, seed: int) -> Any:
    option = {key: value for key, value in part.items() if key not in _OWN}
    stages = list(part.get("degradations") or ())
    dataset = DATASETS.build(option, scale=scale, seed=seed, degradations=stages)
    if stages and "degradations" not in inspect.signature(type(dataset)).parameters:
        raise ValueError(
            f"degradations: expected none, got {len(stages)}: {option['type']} makes no LQ. "
            "Leave them out; train.batch_augment has Degrade, for batches of any training set."
        )
    if not getattr(dataset, "is_train", False):
        raise ValueError("expected a training set (random samples), got a test set. Choose the type for its purpose.")
    return dataset


def _counts(lengths: list[int], weights: list[float | None]) -> list[int]:
    """Return how many of an epoch's samples each part gives: all of the longest for its weight, others repeat."""
    if all(weight is None for weight in weights):
        return lengths
    given = [weight for weight in weights if weight is not None]
    if len(given) < len(weights) or min(given) <= 0:
        raise ValueError(f"weight: expected a number above 0 for each part, or none for all, got {weights}.")
    unit = max(length / weight for length, weight in zip(lengths, given, strict=True))
    return [max(length, round(weight * unit)) for length, weight in zip(lengths, given, strict=True)]
