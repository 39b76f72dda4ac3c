"""Chunks asked several at a time: whatever comes first, the same is asked, and the same is written."""

import io
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xsap.test_bulk import IDENTITY, Standin, file_of, linked, run, stop
from xsap.errors import DataError
from xsap.tabular.link_file import RemoteLinkers, answered, answers_to, link_file
from xsap.tabular.readers import open_source
from xsap.tabular.writers import OutputFormat


class Away:
    """A stand-in asked by several threads, which answers each after a while. late: seconds, by the number of the call."""

    def __init__(self, at_once, late=lambda call: 0.0, fail_at=None):
        self.at_once, self.late, self.fail_at = at_once, late, fail_at
        self.linker, self.lock, self.calls, self.busy, self.most = Standin(), threading.Lock(), 0, 0, 0

    def answers_to(self, keys, top_k, *, by_language, options):
        with self.lock:
            self.calls += 1
            call = self.calls
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(self.late(call))
        if call == self.fail_at:
            raise DataError("this chunk can't be answered")
        with self.lock:
            self.busy -= 1
            return answers_to(self.linker, keys, top_k, by_language=by_language, options=options)


def test_a_linker_is_not_elsewhere():
    assert isinstance(Away(2), RemoteLinkers)
    assert not isinstance(Standin(), RemoteLinkers)


@settings(max_examples=40)
@given(
    mentions=st.lists(st.sampled_from("abcdefghij"), max_size=40),
    held=st.integers(0, 4),
    at_once=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_same_is_asked_and_written(tmp_path_factory, mentions, held, at_once, seed):
    """held: about how many answers are remembered, so that some are forgotten and asked again."""
    source = file_of(tmp_path_factory.mktemp("asked"), mentions)
    options = {"chunk": 3, "remembered": held * 750}
    whole = Standin()
    expected = linked(source, whole, **options)
    rng = random.Random(seed)
    away = Away(at_once, lambda _: rng.random() / 500)
    assert linked(source, away, **options) == expected
    assert sorted(map(repr, away.linker.calls)) == sorted(map(repr, whole.calls))


def test_as_many_are_under_way_as_may_be_and_no_more(tmp_path):
    source = file_of(tmp_path, [f"t{i}" for i in range(60)])
    away = Away(4, lambda _: 0.01)
    expected = linked(source, chunk=3)
    assert linked(source, away, chunk=3) == expected
    assert away.most == 4


def test_chunks_are_read_only_so_far_ahead():
    read = []

    def steps():
        for number in range(100):
            read.append(number)
            yield type("Step", (), {"number": number, "asked": [number]})

    under_way = answered(steps(), lambda number, asked: asked * 2, 3)
    for expected in range(20):
        step, answers = next(under_way)
        assert (step.number, answers) == (expected, [expected] * 2)
        assert len(read) <= expected + 6
    under_way.close()


MENTIONS = [f"t{i * i % 23}" for i in range(60)]


@pytest.mark.parametrize("fail_at", [1, 4, 9])
def test_a_failure_is_told_and_what_is_answered_is_kept(tmp_path, fail_at):
    """By one linker or by many: either takes over what the other left."""
    file_of(tmp_path, MENTIONS)
    expected = Standin()
    account = run(tmp_path, "whole.csv", expected)
    with pytest.raises(DataError, match="this chunk can't be answered"):
        run(tmp_path, "y.csv", Away(3, fail_at=fail_at))
    kept = len(list((tmp_path / ".y.csv.part").glob("*.gz"))) if fail_at > 1 else 0
    assert kept >= fail_at - 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(1, stop))
    last = Away(2)
    again = run(tmp_path, "y.csv", last)
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert last.calls <= len(expected.calls) - kept + sum(not asked for asked in expected.calls) + 1
    assert (again.rows, again.asked) == (account.rows, account.asked)


def test_by_language(tmp_path):
    (tmp_path / "x.tsv").write_text("term\tof\ngift\ten\ngift\tGER\ngift\t\ngift\tEnglish\ngift\t \n")
    options = {"column": "term", "language_column": "of", "chunk": 2, "identity": IDENTITY}
    results = []
    for linker in (Standin(), Away(2)):
        stream = io.BytesIO()
        link_file(linker, open_source(tmp_path / "x.tsv"), stream, OutputFormat("jsonl", 2), **options)
        results.append(stream.getvalue())
    assert results[0] == results[1]
