"""Work on all cores at once, in order, with a handful of items in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """The processors that this process may use; macOS and Windows tell only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Applies a function on all cores at once and gives the results in the items' order.

    Only a few items are taken before their results are asked for. Worth it for a function that
    spends its time outside of Python's own code, as Pillow does.

    Args:
        function: What is applied; an exception of it comes up in its result's place.
        items: What it is applied to.

    Yields:
        The results.
    """
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
