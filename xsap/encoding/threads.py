"""How many threads a batch is computed with: few tokens take one, since others cost more than they help.

A product of a few rows is bound by reading the weights, and threads that wait for one another spin: where cores are busy,
a single mention takes much longer with all threads than with one. torch's number of threads belongs to each thread of
the process, but a thread that uses torch for the first time takes the number that was set last. So it is lowered under a
lock that every batch takes, after which the thread that computes it has its own number.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xsap.encoding.forks import ForkSafeLock

TOKENS_ON_ONE_THREAD = 64  # python -m benchmarks speed mentions compares both
_lock = ForkSafeLock()


@contextmanager
def threads_for(tokens: int, limit: int = TOKENS_ON_ONE_THREAD) -> Iterator[None]:
    """A context in which torch uses one thread on the CPU for few tokens, and as many as are set for more.

    Args:
        tokens: Tokens of the batch.
        limit: The largest number of tokens that one thread computes.
    """
    with _lock:
        usual = torch.get_num_threads()
        if tokens <= limit and usual > 1:
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(usual)
            return
    yield
