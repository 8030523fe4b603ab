"""From the ``datasets`` section of an option file to batches."""

import inspect
import logging
import os
from typing import Any

from torch.utils.data import Dataset, Subset

from vsr.config.schema import DatasetOptions
from vsr.data.bad_samples import ReplacingDataset
from vsr.data.fingerprint import compared
from vsr.data.sampler import TrainSampler
from vsr.data.workers import SHARE, WatchedLoader
from vsr.registry import DATASETS
from vsr.utils import dist

log = logging.getLogger(__name__)


def build_dataset(options: DatasetOptions, *, scale: int, seed: int, key: str) -> Any:
    """Build a data set; with on_bad_sample: skip it is a ``ReplacingDataset``.

    Args:
        options: A section of ``datasets``.
        scale: GT size / LQ size, of the option file.
        seed: manual_seed of the option file.
        key: Of the section, 'train'; starts the messages.

    Raises:
        ValueError, FileNotFoundError: as the data set's constructor, with the section's name.
    """
    try:
        stages = [stage.as_option() for stage in options.degradations]
        if stages and "degradations" not in inspect.signature(DATASETS.get(options.dataset.type)).parameters:
            raise ValueError(
                f"degradations: expected none, got {len(stages)}: {options.dataset.type} makes no LQ. "
                "Leave them out; train.batch_augment has Degrade, for batches of any training set."
            )
        dataset = DATASETS.build(options.dataset.as_option(), scale=scale, seed=seed, degradations=stages)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"datasets.{key}: {error}") from error
    except ValueError as error:
        raise ValueError(f"datasets.{key}: {error}") from error
    for_training = key == "train"
    if getattr(dataset, "is_train", for_training) != for_training:
        kinds = ("a training set (random samples)", "a test set (whole frames, in order)")
        expected, got = kinds if for_training else kinds[::-1]
        raise ValueError(
            f"datasets.{key}: expected {expected}, got {options.dataset.type} as {got}. "
            "Choose the type, gt_size or partition for its purpose."
        )
    if options.fingerprint is not None and dist.is_main():
        compared(dataset, options.fingerprint, key)
    names = getattr(dataset, "clip_names", ())  # which are trained and which validated on is the first thing to check
    clips = f", {len(names)} clips ({', '.join(names[:4])}{' ...' if len(names) > 4 else ''})" if names else ""
    log.info("datasets.%s: %s%s, %d samples", key, options.dataset.type, clips, len(dataset))
    return ReplacingDataset(dataset, seed=seed) if options.on_bad_sample == "skip" else dataset


def build_train_loader(
    dataset: Dataset[Any], options: DatasetOptions, sampler: TrainSampler, *, pin_memory: bool
) -> WatchedLoader:
    """Return a loader of the batches that ``sampler`` names. Its workers live as long as it does.

    Args:
        dataset: Takes (index, draw).
        options: Its section of ``datasets``.
        sampler: Yields the (index, draw) of each sample of a batch.
        pin_memory: Copy batches to pinned memory, for a GPU.

    Raises:
        ValueError: the batches that the workers prepare would not fit into shared memory.
    """
    return _loader(
        dataset, dataset, options, key="train", workers=options.num_worker_per_gpu, batch_size=sampler.batch_size,
        prefetch=options.num_prefetch_queue, batch_sampler=sampler, pin_memory=pin_memory,
        persistent_workers=options.num_worker_per_gpu > 0,
    )  # fmt: skip


def share_of(total: int, rank: int, world_size: int) -> range:
    """Return the items that a process validates: a contiguous range, and all ranges together the whole."""
    return range(rank * total // world_size, (rank + 1) * total // world_size)


def build_val_loader(
    dataset: Dataset[Any], options: DatasetOptions, *, key: str = "val", rank: int, world_size: int, pin_memory: bool,
    lead: int = 0,
) -> WatchedLoader:  # fmt: skip
    """Return a loader of one process's contiguous range of a data set, one item a batch, in order.

    The ranges of all processes together are the data set, once. The workers end with the iteration.

    Args:
        dataset: Takes a number.
        options: Its section of ``datasets``.
        key: Of the section, 'val_2'; starts the messages.
        rank: This process.
        world_size: Number of processes.
        pin_memory: Copy batches to pinned memory, for a GPU.
        lead: Items before the range that come first; there must be so many.

    Raises:
        ValueError: the batches that the workers prepare would not fit into shared memory.
    """
    share = share_of(len(dataset), rank, world_size)  # type: ignore[arg-type]
    share = range(share.start - lead, share.stop)
    return _loader(
        dataset, Subset(dataset, share), options, key=key, workers=min(options.num_worker_per_gpu, len(share)),
        batch_size=1, prefetch=1, pin_memory=pin_memory,
    )  # one item ahead a worker: a whole clip is large  # fmt: skip


def check_shared_memory(
    bytes_per_batch: int, workers: int, prefetch: int, path: str = "/dev/shm", *, processes: int = 1
) -> None:
    """Raise ValueError if the batches that the workers prepare cannot fit into shared memory.

    A process that runs out of it is killed by the system (SIGBUS), without a word about the cause.

    Args:
        bytes_per_batch: Size of a batch.
        workers: Worker processes of each training process.
        prefetch: Batches that each prepares ahead.
        path: Where the system keeps shared memory; nothing is checked where it does not exist.
        processes: Training processes of this machine, which share that memory.
    """
    if workers < 1 or not os.path.isdir(path):
        return
    state = os.statvfs(path)
    free, needed = state.f_bavail * state.f_frsize, bytes_per_batch * (workers * prefetch + 1) * processes
    if needed > free:
        each = f" of each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"num_worker_per_gpu: expected room in {path} for the {needed / 1e6:.0f} MB of batches that {workers} "
            f"workers{each} prepare, but {free / 1e6:.0f} MB are free. Set num_worker_per_gpu: 0, use fewer workers "
            f"or a lower num_prefetch_queue, or give the container more (docker run --shm-size={needed // 2**30 + 1}g)."
        )


def _loader(
    dataset: Any, part: Dataset[Any], options: DatasetOptions, *, key: str, workers: int, batch_size: int,
    prefetch: int, **arguments: Any,
) -> WatchedLoader:  # fmt: skip
    """Return a loader of a part of the data set, after a look at the memory that its workers will need."""
    check_shared_memory(
        batch_size * int(getattr(dataset, "sample_bytes", 0)), workers, prefetch, processes=dist.local_world_size()
    )
    if "batch_sampler" not in arguments:
        arguments["batch_size"] = batch_size
    # Before the other processes give up: this one can name the sample that all wait for.
    timeout = min(options.timeout, SHARE * dist.patience())
    return WatchedLoader(
        part, key=key, num_workers=workers, prefetch_factor=max(1, prefetch), timeout=timeout, **arguments
    )
