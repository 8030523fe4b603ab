"""Loaders whose workers' ends, hangs and errors come with the name of the sample; and that leave no worker behind."""

import contextlib
import functools
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vsr.data import activity
from vsr.data.sample import prefixed
from vsr.utils import dist

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks at workers that give no batch
GRACE = 1.0  # seconds that workers get to end by themselves when the loader is closed
LAST_SECONDS = 20  # of a worker that was asked to end by a signal
SHARE = 0.7  # of dist.timeout: a loader gives up first, as it can name the sample that the others wait for


class WorkerError(RuntimeError):
    """A worker died, or gave no batch in time."""


class WatchedLoader(DataLoader[Any]):
    """A DataLoader that knows what its workers are doing. Iterate over it once at a time.

    Args:
        dataset: What to load from.
        key: Of its section, 'train' in datasets.train; starts the messages.
        num_workers: Worker processes; 0: none.
        timeout: Seconds to wait for a batch of theirs.
        prefetch_factor: Batches that each prepares ahead.
        arguments: Others of a DataLoader.
    """

    def __init__(
        self, dataset: Dataset[Any], *, key: str, num_workers: int, timeout: float, prefetch_factor: int,
        **arguments: Any,
    ) -> None:  # fmt: skip
        self._key, self._patience = f"datasets.{key}", timeout
        self._running: Any = None
        if num_workers:
            # fork shares the frames that cache_data holds; spawn would send a copy of them to each worker
            method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
            context = multiprocessing.get_context(method)
            self._activity = activity.Activity(num_workers, context)
            in_main = threading.current_thread() is threading.main_thread()
            arguments |= {
                "num_workers": num_workers,
                "prefetch_factor": prefetch_factor,
                "timeout": min(POLL, timeout),
                "worker_init_fn": functools.partial(_start, self._activity, die_with_parent=in_main),
                "multiprocessing_context": context,
            }
        super().__init__(_Named(dataset, self._key), **arguments)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.num_workers:
            yield from super().__iter__()
            return
        batches = self._running = super().__iter__()
        _stop_raising_in_the_middle_of_anything(batches)
        done = False
        try:
            while True:
                try:
                    batch = self._next(batches)
                except StopIteration:
                    done = True
                    return
                yield batch
        finally:
            if not (done and self.persistent_workers):
                self.close()

    def close(self) -> None:
        """End the workers; those that do not end by themselves are killed."""
        running, self._running, self._iterator = self._running, None, None
        if running is None:
            return
        killer = threading.Timer(GRACE, _kill, [running._workers])
        killer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread starts any more when the interpreter ends
            killer.start()
        try:
            running._shutdown_workers()  # it would wait for each of them for up to 10 seconds
        finally:
            killer.cancel()
            _kill(running._workers)
            for worker in running._workers:
                worker.join(timeout=GRACE)

    def _next(self, batches: Any) -> Any:
        began = time.monotonic()
        while True:
            try:
                return next(batches)
            except (RuntimeError, EOFError, OSError) as error:
                if "in DataLoader worker process" in str(error).partition("\n")[0]:  # the data set's own
                    raise
                waited, late = time.monotonic() - began, "DataLoader timed out" in str(error)
                # What a worker leaves behind may be found a moment before its death is.
                if (dead := self._dead(batches, wait=0.0 if late else 0.2)) is not None:
                    raise WorkerError(dead) from error
                if not late:
                    raise
                if waited >= self._patience:
                    raise WorkerError(self._hanging(batches, waited)) from None

    def _dead(self, batches: Any, *, wait: float) -> str | None:
        """Say which worker has died, and at what; None: none has."""
        end = time.monotonic() + wait
        while not (dead := [i for i, worker in enumerate(batches._workers) if worker.exitcode is not None]):
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        number, worker = dead[0], batches._workers[dead[0]]
        how, advice = _death(worker.exitcode)
        doing = self._activity.of(number)
        at = f"at {doing}" if doing else "between two samples"
        return f"{self._key}: worker {number} (process {worker.pid}) {how} {at}. {advice}"

    def _hanging(self, batches: Any, waited: float) -> str:
        """Say what the workers are doing that give no batch."""
        doing = [(i, self._activity.of(i)) for i in range(self.num_workers)]
        busy = sorted(((i, what) for i, what in doing if what), key=lambda pair: -pair[1].seconds)
        told = "; ".join(
            f"worker {i} (process {batches._workers[i].pid}) has been at {what} for {what.seconds:.0f} s"
            for i, what in busy
        )
        return (
            f"{self._key}: expected a batch from the workers within {self._patience:g} s (datasets.*.timeout, and less "
            f"than dist.timeout), got none in {waited:.0f} s: {told or 'none of them has a sample in work'}. "
            "Look at that file and at the disk or network it lies on, or raise the timeout."
        )


class _Named(Dataset[Any]):
    """A data set whose errors begin with its name and the worker's; workers note what they begin with."""

    def __init__(self, dataset: Any, key: str) -> None:
        self.dataset, self._key = dataset, key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: Any) -> Any:
        text = "index {}, draw {}".format(*item) if isinstance(item, tuple) else f"item {item}"
        worker = get_worker_info()
        where = self._key if worker is None else f"{self._key} (worker {worker.id})"
        activity.begin(text)
        try:
            with prefixed(where):
                return self.dataset[item]
        except (ValueError, OSError):
            raise
        except Exception as error:  # a mistake in the data set's code, or too little memory
            raise RuntimeError(f"{where}: {text}: {type(error).__name__}: {error}") from error
        finally:
            activity.end()


def _start(notes: activity.Activity, worker: int, *, die_with_parent: bool) -> None:
    """Keep a worker to one core, and let the main process decide what a signal means."""
    import cv2  # heavy, and only needed where images are read

    notes.note_as(worker)
    if die_with_parent:
        dist.die_with_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGUSR1"):  # Ctrl-C reaches all processes of a terminal; the main one still wants batches
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A scheduler may end all processes of a job at once; the main one needs batches to come to the end of its step.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))


def _stop_raising_in_the_middle_of_anything(batches: Any) -> None:
    """Let no dead worker of this iteration interrupt a step or the writing of a state: ``_next`` finds it soon."""
    if batches._worker_pids_set:
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False


def _kill(workers: list[Any]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _death(code: int) -> tuple[str, str]:
    """Say how a worker ended, by its exit code, and what to do about it."""
    less = "lower num_worker_per_gpu, num_prefetch_queue or batch_size_per_gpu"
    if code >= 0:
        return f"ended by itself (exit status {code})", "Look at what it has printed."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL":
        return "was killed (SIGKILL)", f"The system does that when memory runs out: {less}."
    if name == "SIGBUS":
        advice = f"Shared memory ran out ({less}, or give the container more), or a file was cut while it was open."
        return "was killed (SIGBUS)", advice
    if name == "SIGALRM":  # see _start
        advice = "The run's step took longer than that: ask for its end earlier, before the system's own limit."
        return f"had been told to end {LAST_SECONDS} s before", advice
    return f"was killed ({name})", "A broken file may do that: look at it, or leave it out."
