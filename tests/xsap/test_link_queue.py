"""The queue of mentions: together what waits together, in order, bounded, and never without an answer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from xsap.errors import ConfigError, DataError, RerankerError
from xsap.linking.ranking import Filter
from xsap.linking.results import Candidate, Result
from xsap.server.link_queue import LinkOptions, LinkQueue, LinkRequest, QueueFullError


class GatedLinker:
    """Answers with the mention in capitals; its first call waits until the gate is open. A mention "bad" is an error."""

    def __init__(self, *, gated=True):
        self.gate, self.begun, self.calls = threading.Event(), threading.Event(), []
        if not gated:
            self.gate.set()

    def link(self, mentions, top_k=5, *, languages=None, filter=None, min_confidence=None, min_precision=None):  # noqa: A002
        self.calls.append((list(mentions), list(languages), top_k, filter))
        self.begun.set()
        assert self.gate.wait(30)
        if "unranked" in mentions:
            raise RerankerError("no answer")
        if "bad" in mentions:
            raise DataError("bad")
        return [
            Result(text, (Candidate(f"{text}/{spoken}", "n", "n", 1.0),))
            for text, spoken in zip(mentions, languages, strict=True)
        ]


def request_of(*mentions, top_k=5, **conditions):
    return LinkRequest(mentions, [f"l{each}" for each in mentions], LinkOptions(top_k, Filter(**conditions)))


def ids(future):
    return [result.candidates[0].concept_id for result in future.result(30)]


def test_requests_that_wait_are_linked_in_one_call_and_each_gets_its_own():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=5, max_waiting=100)
    [first] = queue.submit([request_of("a")])
    assert linker.begun.wait(30)
    others = [queue.submit([request_of(*each)])[0] for each in ("bc", "de", "fg", "h")]
    linker.gate.set()
    assert [ids(each) for each in (first, *others)] == [
        [f"{text}/l{text}" for text in own] for own in ("a", "bc", "de", "fg", "h")
    ]
    assert [call[0] for call in linker.calls] == [["a"], ["b", "c", "d", "e", "h"], ["f", "g"]]
    queue.close()


def test_only_equal_options_share_a_call():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=10, max_waiting=100)
    queue.submit([request_of("a")])
    assert linker.begun.wait(30)
    asked = [
        request_of("b"),
        request_of("c", top_k=1),
        request_of("d", languages="de"),
        request_of("e"),
        request_of("f", top_k=1),
    ]
    found = queue.submit(asked)
    linker.gate.set()
    assert [ids(each) for each in found] == [[f"{text}/l{text}"] for text in "bcdef"]
    assert [call[0] for call in linker.calls] == [["a"], ["b", "e"], ["c", "f"], ["d"]]
    assert [call[2:] for call in linker.calls[1:]] == [(5, Filter()), (1, Filter()), (5, Filter(languages="de"))]
    queue.close()


def test_a_request_larger_than_a_batch_is_linked_alone():
    linker = GatedLinker(gated=False)
    queue = LinkQueue(linker, max_batch=2, max_waiting=10)
    assert len(queue.submit([request_of(*"abcd")])[0].result(30)) == 4
    queue.close()


def test_an_error_reaches_the_request_that_caused_it_alone():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=10, max_waiting=100)
    queue.submit([request_of("a")])
    assert linker.begun.wait(30)
    good, bad, other = queue.submit([request_of("b"), request_of("bad"), request_of("c")])
    linker.gate.set()
    assert ids(good) == ["b/lb"]
    assert ids(other) == ["c/lc"]
    with pytest.raises(DataError):
        bad.result(30)
    queue.close()


def test_a_reranker_that_fails_is_asked_once_for_all_that_wait_together():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=10, max_waiting=100)
    queue.submit([request_of("a")])
    assert linker.begun.wait(30)
    waiting = queue.submit([request_of("b"), request_of("unranked"), request_of("c")])
    linker.gate.set()
    for each in waiting:
        with pytest.raises(RerankerError):
            each.result(30)
    assert [call[0] for call in linker.calls] == [["a"], ["b", "unranked", "c"]]
    queue.close()


def test_past_its_bound_a_request_is_refused_whole_and_what_waits_is_kept():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=4, max_waiting=4)
    [first] = queue.submit([request_of("a", "b")])
    assert linker.begun.wait(30)
    with pytest.raises(QueueFullError, match="2 mentions are waiting, of at most 4"):
        queue.submit([request_of("c"), request_of("d", "e")])
    [second] = queue.submit([request_of("c", "d")])
    assert queue.waiting == 4
    linker.gate.set()
    assert ids(first) + ids(second) == ["a/la", "b/lb", "c/lc", "d/ld"]
    queue.close()
    assert queue.waiting == 0


def test_closing_answers_what_was_accepted_and_refuses_what_comes_later():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=1, max_waiting=100)
    accepted = [queue.submit([request_of(each)])[0] for each in "abcdef"]
    closer = threading.Thread(target=queue.close)
    closer.start()
    while True:
        try:
            accepted += queue.submit([request_of("late")])
        except QueueFullError:
            break
    with pytest.raises(QueueFullError, match="shutting down"):
        queue.submit([request_of("late")])
    linker.gate.set()
    closer.join(30)
    assert all(each.done() for each in accepted)
    assert [ids(each)[0][0] for each in accepted[:6]] == list("abcdef")


def test_cancelled_requests_are_not_linked_and_free_their_room():
    linker = GatedLinker()
    queue = LinkQueue(linker, max_batch=1, max_waiting=3)
    [first], [gone] = queue.submit([request_of("a")]), queue.submit([request_of("b", "c")])
    assert linker.begun.wait(30)
    assert gone.cancel()
    linker.gate.set()
    assert ids(first) == ["a/la"]
    queue.close()
    assert [call[0] for call in linker.calls] == [["a"]]
    assert queue.waiting == 0


def test_sixteen_threads_get_the_answers_to_their_own_mentions():
    linker = GatedLinker(gated=False)
    queue = LinkQueue(linker, max_batch=32, max_waiting=10_000)

    def ask(number):
        return ids(queue.submit([request_of(f"{number}", f"{number}b", top_k=number % 3 + 1)])[0])

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(2000)))
    assert found == [[f"{number}/l{number}", f"{number}b/l{number}b"] for number in range(2000)]
    queue.close()


@pytest.mark.parametrize(("max_batch", "max_waiting"), [(0, 5), (6, 5), (-1, 1)])
def test_limits_that_do_not_fit_together_are_refused(max_batch, max_waiting):
    with pytest.raises(ConfigError):
        LinkQueue(GatedLinker(), max_batch=max_batch, max_waiting=max_waiting)


def test_batches_are_counted_with_their_seconds():
    seen = []
    queue = LinkQueue(GatedLinker(gated=False), max_batch=9, max_waiting=9, on_batch=lambda *facts: seen.append(facts))
    queue.submit([request_of(*"abc")])[0].result(30)
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.001)
    queue.close()
    assert seen[0][0] == 3
    assert seen[0][1] >= 0
