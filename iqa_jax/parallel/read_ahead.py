"""Files are read, or anything else is computed, by threads while the results before are in use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 4, threads: int | None = 1
) -> Iterator[Result]:
    """`read(item)` of each item, in their order.

    Args:
      ahead: how many results are computed before they are asked for, at most.
      threads: that compute; with one, the items are read in order.  None: by the number of cores.
    Raises:
      What `read` raises, at the item that it raised for.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
