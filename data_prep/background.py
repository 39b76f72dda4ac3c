"""A reader that works in a thread of its own, so that the next piece is made while the last one is used: most of the work is Arrow's, which
runs beside Python."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_AHEAD = 2


def in_background(items: Iterator[T]) -> Iterator[T]:
    """The items, in order, of which the next two are made beforehand. What making them raises is raised here."""
    end = object()
    with ThreadPoolExecutor(1) as worker:
        pending: deque[Future[T | object]] = deque(worker.submit(next, items, end) for _ in range(_AHEAD))
        while (item := pending.popleft().result()) is not end:
            pending.append(worker.submit(next, items, end))
            yield item  # type: ignore[misc]
