"""Linkers and encoders in the child process of a fork, where only the thread that called fork goes on.

The threads of torch's OpenMP are gone there, and a product that waits for them never ends: so in a child torch computes on one thread.
A lock that another thread held would never be released: so a fork waits until the locks of this module are free, and they are free in the child.
Processes that are started anew, by multiprocessing's `spawn` or `forkserver`, need neither, and compute on all threads.
"""

import os
from itertools import count
from threading import RLock
from types import TracebackType
from weakref import WeakSet

import torch


class ForkSafeLock:
    """A lock, as threading.RLock, that is free in the child process of a fork. To take an older one while holding a newer one is safe."""

    def __init__(self) -> None:
        self._lock = RLock()
        with _creation:
            self.number = next(_numbers)
            _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()


_locks: WeakSet[ForkSafeLock] = WeakSet()
_numbers = count()
_creation = RLock()  # no lock is made during a fork
_held: list[ForkSafeLock] = []  # during a fork


def _before_fork() -> None:
    _creation.acquire()
    _held.extend(sorted(_locks, key=lambda lock: -lock.number))
    for lock in _held:
        lock.__enter__()


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)
    _creation.release()


def _in_child() -> None:
    _after_fork()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as tokenizers does after a fork, with a warning


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
