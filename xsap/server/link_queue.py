"""A queue of mentions to link: requests that arrive at the same time are linked together, by one thread.

An encoder is fastest when it gets many mentions at once, and a tokenizer serves one thread at a time. So every request puts its mentions here,
and the worker thread links all that wait with the same options in one call of `Linker.link`, up to `max_batch` mentions. What waits is bounded:
past `max_waiting` mentions a request is refused at once, so that an accepted one is always answered. A call that fails because of one request is
repeated for each of its requests alone.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from xsap.errors import ConfigError, RerankerError
from xsap.linking.ranking import Filter
from xsap.linking.results import Result
from xsap.terms.abbreviations import Abbreviations


class BatchLinker(Protocol):
    """What answers: `Linker`, or a stand-in for it."""

    def link(  # noqa: D102
        self,
        mentions: Sequence[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        filter: Filter | None = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
    ) -> Sequence[Result]: ...


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The arguments of `Linker.link` that all mentions of a call share."""

    top_k: int = 5
    filter: Filter = field(default_factory=Filter)
    min_confidence: float | None = None
    min_precision: float | None = None
    broader: bool = False
    clean: bool = False
    abbreviations: Abbreviations | None = None

    def arguments(self) -> dict[str, Any]:
        """Those arguments that not every linker knows, where they are given."""
        given = {"broader": self.broader, "clean": self.clean, "abbreviations": self.abbreviations}
        return {name: value for name, value in given.items() if value is not None and value is not False}


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """Mentions that get their answers together.

    Attributes:
        mentions: The mentions; None where one is missing.
        languages: The language of each; None where it is not known.
        options: How they are linked.
        contexts: The text that each was found in; None where it is not known, or for all.
    """

    mentions: Sequence[str | None]
    languages: Sequence[str | None]
    options: LinkOptions
    contexts: Sequence[str | None] | None = None


class QueueFullError(Exception):
    """More mentions wait than may wait, or the service shuts down. The message says which."""


_Job = tuple[LinkRequest, Future[list[Result]]]


class LinkQueue:
    """Links the mentions of many requests in one thread of its own."""

    def __init__(
        self,
        linker: BatchLinker,
        *,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """Start the worker thread.

        Args:
            linker: Links the mentions.
            max_batch: Mentions that are linked in one call, and that one request may have.
            max_waiting: Mentions that may wait for their answers.
            on_batch: Called after each call with the number of its mentions and its seconds.

        Raises:
            ConfigError: `max_batch` is below 1, or above `max_waiting`.
        """
        if not 1 <= max_batch <= max_waiting:
            raise ConfigError(
                f"expected a batch of at least 1 mention and a queue of at least one batch, found {max_batch:,} and {max_waiting:,}"
            )
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self._linker, self._on_batch = linker, on_batch
        self._jobs: deque[_Job] = deque()
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="xsap-link", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Mentions that were accepted and have no answer yet."""
        return self._waiting

    def submit(self, requests: Sequence[LinkRequest]) -> list[Future[list[Result]]]:
        """Accept all requests or none.

        Args:
            requests: What to link; one HTTP request may have several, with different options.

        Returns:
            The results of each request, when they are there.

        Raises:
            QueueFullError: More mentions would wait than may wait, or the queue is closed.
        """
        mentions = sum(len(request.mentions) for request in requests)
        jobs: list[_Job] = [(request, Future()) for request in requests]
        with self._changed:
            if self._closed:
                raise QueueFullError("the service is shutting down")
            if self._waiting + mentions > self.max_waiting:
                raise QueueFullError(
                    f"{self._waiting:,} mentions are waiting, of at most {self.max_waiting:,}; try again later"
                )
            self._waiting += mentions
            self._jobs.extend(jobs)
            self._changed.notify()
        return [future for _, future in jobs]

    def close(self) -> None:
        """Answer what was accepted, refuse what comes later, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while jobs := self._take():
            self._answer(jobs)

    def _take(self) -> list[_Job]:
        """The oldest job, and those behind it with the same options that fit into one batch; none when the queue is closed and empty."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            taken: list[_Job] = []
            left: deque[_Job] = deque()
            room, options = self.max_batch, self._jobs[0][0].options if self._jobs else None
            for job in self._jobs:
                size = len(job[0].mentions)
                if job[0].options == options and (not taken or size <= room):
                    taken.append(job)
                    room -= size
                else:
                    left.append(job)
            self._jobs = left
            return taken

    def _answer(self, jobs: list[_Job]) -> None:
        mentions = sum(len(request.mentions) for request, _ in jobs)
        try:
            running = [(request, future) for request, future in jobs if future.set_running_or_notify_cancel()]
            if running:
                self._link(running)
        finally:
            with self._changed:
                self._waiting -= mentions

    def _link(self, jobs: list[_Job]) -> None:
        start = time.perf_counter()
        texts = [mention for request, _ in jobs for mention in request.mentions]
        languages = [language for request, _ in jobs for language in request.languages]
        contexts = [each for request, _ in jobs for each in request.contexts or [None] * len(request.mentions)]
        options = jobs[0][0].options
        try:
            results = list(
                self._linker.link(
                    texts,
                    options.top_k,
                    languages=languages,
                    filter=options.filter,
                    min_confidence=options.min_confidence,
                    min_precision=options.min_precision,
                    **options.arguments(),
                    **({"context": contexts} if any(contexts) else {}),
                )
            )
        except BaseException as error:  # whatever it is, a client waits for it
            if len(jobs) == 1 or isinstance(
                error, RerankerError
            ):  # which would fail again for each, perhaps after minutes
                for _, future in jobs:
                    future.set_exception(error)
            else:
                for job in jobs:
                    self._link([job])
            return
        if self._on_batch is not None:
            self._on_batch(len(texts), time.perf_counter() - start)
        at = 0
        for request, future in jobs:
            future.set_result(results[at : at + len(request.mentions)])
            at += len(request.mentions)
