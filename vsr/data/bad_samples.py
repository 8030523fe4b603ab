"""Training samples that cannot be read, and the others that take their places: ``on_bad_sample: skip``."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

log = logging.getLogger(__name__)

REPLACEMENTS = 10  # drawn for one sample; if none of them can be read either, it is not a few files that are bad
TOLD = 20  # faults that are written to the log one by one, and named in the last message
REPORT = "bad_samples.txt"  # in the run folder: a fault a line, of all processes


class ReplacingDataset(Dataset[dict[str, Any]]):
    """A training set that gives another of its samples for one that cannot be read.

    What takes the place of (index, draw) is drawn from (seed, draw, index), so that it is the same one in any worker
    and after a resume, as long as the same files are bad. Everything else is the data set's own.

    A sample has one more entry, ``replaced``: '', or what was wrong as JSON, a list of (message, fault) with the fault
    being the message without the sample's key. ``BadSamples`` takes it out of batches.

    Args:
        dataset: Takes (index, draw).
        seed: Of the run.
    """

    def __init__(self, dataset: Any, *, seed: int) -> None:
        self.dataset, self._seed = dataset, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # while it is copied to another process
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Return a sample.

        Raises:
            ValueError: neither it nor one of REPLACEMENTS others can be read.
        """
        index, draw = item
        # The tag in front keeps this stream apart from the sample's own, (seed, draw, index), and from MixedDataset's.
        rng = np.random.default_rng((2, self._seed, draw, index))
        wrong: list[tuple[str, str]] = []
        while True:
            try:
                sample = self.dataset[index, draw]
            except (ValueError, OSError) as error:
                wrong.append((str(error), _fault(error)))
                if len(wrong) > REPLACEMENTS:
                    raise ValueError(
                        f"on_bad_sample: expected a few bad samples, but {len(wrong)} in a row cannot be read. "
                        f"The first: {wrong[0][0]}"
                    ) from error
                index = int(rng.integers(len(self)))
            else:
                return {**sample, "replaced": json.dumps(wrong) if wrong else ""}


def _fault(error: BaseException) -> str:
    """Return what the error says about a file, without the names that were put in front of it on its way."""
    cause = error.__cause__
    while isinstance(cause, ValueError | OSError) and str(cause) and str(error).endswith(str(cause)):
        error, cause = cause, cause.__cause__
    return str(error)


class BadSamples:
    """Tells which samples of a run were replaced, counts them, and stops the run if too many files are bad.

    Args:
        report: A text file to which every fault is appended once; faults that it has are known and not told again.
        limit: Faults that may be met, in this process and since it began. A bad frame is one fault, in however many
            windows it lies and however often these are drawn.
    """

    def __init__(self, report: Path, limit: int) -> None:
        self._report, self._limit = report, limit
        self._met: Counter[str] = Counter()
        self._known = set(_lines(report))
        self._writable = True

    def watched(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches without ``replaced``.

        Raises:
            ValueError: there are more faults than the limit.
        """
        for batch in batches:
            for told in filter(None, batch.pop("replaced", ())):
                for message, fault in json.loads(told):
                    self._meet(message, fault)
            yield batch

    def close(self) -> None:
        """Sum up."""
        if self._met:
            log.warning(
                "datasets.train: %d samples were replaced, for %s (%s)",
                self._met.total(), _count(len(self._met)), self._report,
            )  # fmt: skip

    def _meet(self, message: str, fault: str) -> None:
        self._met[fault] += 1
        if self._met[fault] > 1:
            return
        if (line := _line(fault)) not in self._known:
            self._known.add(line)
            self._write(line)
            if len(self._met) <= TOLD:  # an error, as those are told by every process
                log.error("datasets.train: another sample takes the place of one that cannot be read: %s", message)
            elif len(self._met) == TOLD + 1:
                log.error("datasets.train: more samples cannot be read; %s has all", self._report)
        if len(self._met) > self._limit:
            raise ValueError(
                f"datasets.train.max_bad_samples: expected at most {self._limit} faults in the data, got more; "
                f"{self._report} has all. Repair or leave out these files, or raise it. "
                f"The first: {next(iter(self._met))}"
            )

    def _write(self, line: str) -> None:
        try:
            with self._report.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:  # what is only told must not end a run
            if self._writable:
                log.error("%s: cannot be written to, and will not have all: %s", self._report, error.strerror)
            self._writable = False


def _lines(report: Path) -> list[str]:
    try:
        return report.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _line(fault: str) -> str:
    return " ".join(fault.split())


def _count(faults: int) -> str:
    return f"{faults} fault{'s' * (faults != 1)} in the data"
