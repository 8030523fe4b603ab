"""How the processes of a run meet: no word that an earlier attempt left behind is taken for one of this attempt.

torchrun keeps one store over its restarts (pytorch/pytorch#135712), and with it the addresses of processes that are
dead by then. Who is early would read those, and fail to connect.
"""

import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store

_POLL = 0.02  # seconds


def meet(store: Store, rank: int, world_size: int, timeout: float) -> Store:
    """Wait for the other processes, and return the part of ``store`` that is theirs and of this attempt alone.

    Each other process calls with a word that nobody used before. Rank 0 answers with the words that it reads, old ones
    among them, until each has found its own in the answer and has said so with the word of rank 0, which is as new.

    Args:
        store: One that all processes see.
        timeout: Seconds.

    Raises:
        TimeoutError: the others did not come in time.
    """
    word = uuid.uuid4().hex
    end = time.monotonic() + timeout
    others = range(1, world_size)
    if rank == 0:
        while missing := [other for other in others if _read(store, f"heard/{other}") != word]:
            calls = [_read(store, f"call/{other}") for other in others]
            store.set("answer", " ".join([word, *calls]))
            _pause(end, f"process {', '.join(map(str, missing))} of {world_size}", timeout)
    else:
        store.set(f"call/{rank}", word)
        while word not in (answer := _read(store, "answer").split(" ")):
            _pause(end, "process 0", timeout)
        word = answer[0]
        store.set(f"heard/{rank}", word)
    return PrefixStore(word, store)


def _read(store: Store, key: str) -> str:
    """Return what stands there, '' for nothing: ``get`` alone would wait for it."""
    return store.get(key).decode() if store.check([key]) else ""


def _pause(end: float, missing: str, timeout: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError(
            f"dist.timeout: expected {missing} within {timeout:g} s, and it did not come. Its own output tells why; "
            "where it starts slowly, raise dist.timeout."
        )
    time.sleep(_POLL)
