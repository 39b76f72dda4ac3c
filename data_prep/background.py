"""Work on pieces of a file in threads, so that the next ones are made while the last one is used: most of it is Arrow's, which runs
beside Python. Pieces keep their order, and only a few are held."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2


def mapped(function: Callable[[T], R], items: Iterator[T]) -> Iterator[tuple[T, R]]:
    """Each item, in order, and what the function makes of it, which is made for two items at a time."""
    with ThreadPoolExecutor(_AHEAD) as workers:
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, workers.submit(function, item)))
            if len(pending) > _AHEAD:
                made, future = pending.popleft()
                yield made, future.result()
        for made, future in pending:
            yield made, future.result()
