"""Processes that meet in a store in which an earlier attempt has left its words."""

import threading
import time

import pytest
from torch.distributed import HashStore, PrefixStore, Store

from vsr.utils.meeting import meet


def attempt(store: Store, delays: list[float], timeout: float = 20) -> list[Store]:
    """Let one process for each delay, seconds, meet the others; return what each was given."""
    met: dict[int, Store] = {}

    def process(rank: int, delay: float) -> None:
        time.sleep(delay)
        met[rank] = meet(store, rank, len(delays), timeout)

    threads = [threading.Thread(target=process, args=item) for item in enumerate(delays)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [met[rank] for rank in range(len(delays))]


@pytest.mark.parametrize("delays", [[0, 0.2, 0.1], [0.2, 0.1, 0], [0.1, 0, 0.2]])
def test_each_attempt_has_a_part_of_its_own_whoever_is_early(delays: list[float]) -> None:
    store = HashStore()
    for number in range(3):
        stores = attempt(store, delays)
        assert not any(part.check(["address"]) for part in stores)
        stores[number].set("address", str(number))
        assert [part.get("address") for part in stores] == [str(number).encode()] * 3


def test_a_process_that_came_alone_before_does_not_mislead() -> None:
    store = HashStore()
    with pytest.raises(TimeoutError, match=r"dist.timeout: expected process 0 within 0.1 s"):
        meet(store, 1, 2, 0.1)
    with pytest.raises(TimeoutError, match=r"expected process 1, 2 of 3 within 0.1 s"):
        meet(store, 0, 3, 0.1)  # of the old words one has an answer, and nobody hears it
    first, second = attempt(PrefixStore("", store), [0, 0.1])
    first.set("key", "value")
    assert second.get("key") == b"value"
