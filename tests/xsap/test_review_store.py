"""The store of a review: a plain list of decisions as its oracle, concurrent writers, a killed process, inputs that change."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.commands import ROOT, environment
from tests.fixtures.reviews import SETTINGS, candidate, mapping, new_review, sample_mappings
from xsap.errors import ConfigError, DataError
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.server.review_decisions import Choice, State, apply_choice
from xsap.server.review_list import ReviewFilter, bulk_condition, bulk_effect, count_facets, count_terms, read_page
from xsap.server.review_load import load_review
from xsap.server.review_store import ReviewStore, read_review

ANN, BEN = Signature("Ann", 1000), Signature("Ben", 2000)
APPROVE, OTHER = Choice(Status.APPROVED), MappedConcept("A:999", "Other")


@pytest.fixture
def store(tmp_path):
    with_terms = new_review(tmp_path / "r.sqlite")
    yield with_terms
    with_terms.close()


def versions(store, *terms):
    return {term: store.term(term).version for term in terms}


def decide(store, term, choice, signature=ANN):
    return store.decide(versions(store, term), choice, "decide", signature)


def test_review_without_decisions_gives_back_its_mappings(tmp_path):
    new_review(tmp_path / "r.sqlite").close()
    assert read_review(tmp_path / "r.sqlite") == sample_mappings()


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
CONCEPTS = st.builds(MappedConcept, TEXT.filter(bool), TEXT, TEXT, TEXT, TEXT, TEXT)
SIGNATURES = st.builds(Signature, TEXT, st.integers(0, 2**50))


@given(st.lists(
    st.builds(
        Mapping, TEXT, TEXT, st.lists(CONCEPTS, max_size=3).map(tuple), st.sampled_from([Status.APPROVED, Status.FLAGGED]),
        st.sampled_from(Equivalence), frequency=st.none() | st.integers(0, 2**40), columns=st.dictionaries(TEXT, TEXT, max_size=3),
        score=st.none() | st.floats(-1, 1), confidence=st.none() | st.floats(0, 1), created=SIGNATURES, decided=SIGNATURES,
        confirmed=SIGNATURES, assigned_reviewer=TEXT, comment=TEXT,
    ),
    max_size=5, unique_by=lambda made: made.key,
))  # fmt: skip
def test_decisions_of_the_input_come_back_as_they_were(tmp_path_factory, mappings):
    path = tmp_path_factory.mktemp("r") / "r.sqlite"
    counts = load_review(path, mappings, SETTINGS)
    assert read_review(path) == mappings
    assert counts.imported == len(mappings)


CHOICES = [
    APPROVE, Choice(Status.NO_MATCH), Choice(Status.REJECTED), Choice(Status.FLAGGED), Choice(Status.UNREVIEWED), Choice(comment="a note"),
    Choice(Status.APPROVED, (OTHER,)), Choice(Status.APPROVED, (OTHER,), Equivalence.WIDER), Choice(equivalence=Equivalence.NARROWER),
    Choice(confirm=True), Choice(targets=(OTHER,)),
]  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["decide", "undo"]), st.integers(1, 4), st.sampled_from(CHOICES), st.sampled_from([ANN, BEN])
    ),
    max_size=25,
)


class PlainReview:
    """What a review does, written as plainly as it can be: a list of states for each term, and each person's actions."""

    def __init__(self, mappings):
        self.proposals = [each.targets for each in mappings]
        self.states = [[State(targets=each)] for each in self.proposals]
        self.acted = {"Ann": [], "Ben": []}
        self.owner = [[0] for _ in mappings]  # the action that made each state
        self.actions = 0

    def decide(self, term, choice, by):
        made = apply_choice(self.states[term - 1][-1], choice, by, self.proposals[term - 1])
        self.actions += 1
        self.states[term - 1].append(made)
        self.owner[term - 1].append(self.actions)
        self.acted[by.by].append((self.actions, term))

    def undo(self, by):
        if self.acted[by.by]:
            action, term = self.acted[by.by].pop()
            if self.owner[term - 1][-1] == action:
                self.states[term - 1].pop()
                self.owner[term - 1].pop()


@given(STEPS)
def test_any_decisions_and_undos_leave_what_a_plain_list_leaves(tmp_path_factory, steps):
    mappings = sample_mappings(4)
    with_terms = new_review(tmp_path_factory.mktemp("r") / "r.sqlite", mappings)
    plain, written = PlainReview(mappings), 0
    for step, term, choice, by in steps:
        if step == "undo":
            written += len(with_terms.undo(by).terms)
            plain.undo(by)
            continue
        try:
            plain.decide(term, choice, by)
        except ConfigError as error:
            with pytest.raises(ConfigError, match=str(error)[:20]):
                decide(with_terms, term, choice, by)
        else:
            written += len(decide(with_terms, term, choice, by).terms)
    for term, states in enumerate(plain.states, start=1):
        found, state = with_terms.term(term).mapping, states[-1]
        assert (found.status, found.equivalence, found.targets, found.comment, found.decided, found.confirmed) == (
            state.status, state.equivalence, state.targets, state.comment, state.decided, state.confirmed,
        )  # fmt: skip
    assert with_terms.query("SELECT count(*) FROM decisions") == [(written,)]
    with_terms.close()


def test_decisions_can_be_neither_changed_nor_removed(store):
    decide(store, 1, APPROVE)
    with sqlite3.connect(store.path) as other:
        for sql in ("DELETE FROM decisions", "UPDATE decisions SET status = 'no_match'"):
            with pytest.raises(sqlite3.IntegrityError, match="decisions are never"):
                other.execute(sql)


def test_second_reviewer_confirms_and_the_first_cannot(store):
    with pytest.raises(ConfigError, match="nothing was decided"):
        decide(store, 1, Choice(confirm=True), BEN)
    decide(store, 1, APPROVE, ANN)
    with pytest.raises(ConfigError, match="a second person must confirm; Ann decided"):
        decide(store, 1, Choice(confirm=True), ANN)
    decide(store, 1, Choice(confirm=True), BEN)
    found = store.term(1).mapping
    assert (found.decided, found.confirmed) == (ANN, BEN)
    decide(store, 1, Choice(Status.NO_MATCH), ANN)
    assert store.term(1).mapping.confirmed == Signature()


def test_decision_on_an_older_version_is_a_conflict_and_writes_nothing(store):
    seen = versions(store, 1, 2)
    decide(store, 2, Choice(Status.NO_MATCH), BEN)
    outcome = store.decide(seen, APPROVE, "decide", ANN)
    assert (outcome.action, outcome.terms, outcome.conflicts) == (0, (), (2,))
    assert store.term(1).mapping.status is Status.UNREVIEWED
    assert store.term(2).mapping.decided == BEN


def test_threads_and_processes_that_decide_at_once_lose_nothing(store):
    """Four writers on two connections of one file; what each was told is in the file, in a chain of versions without a gap."""
    other, told, lock = ReviewStore(store.path), [], threading.Lock()

    def write(number):
        source = random.Random(number)
        for _ in range(25):
            term, on = source.randint(1, 3), (store, other)[number % 2]
            outcome = on.decide(
                versions(on, term), Choice(comment=f"{number} {source.random()}"), "decide", Signature(f"w{number}", 1)
            )
            with lock:
                told.append(outcome)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saved = [outcome for outcome in told if outcome.action]
    assert len(told) == 100
    assert all(outcome.conflicts for outcome in told if not outcome.action)
    assert store.query("SELECT count(*) FROM decisions") == [(len(saved),)]
    for term in (1, 2, 3):
        chain = store.query("SELECT previous, decision FROM decisions WHERE term = ? ORDER BY decision", [term])
        assert [previous for previous, _ in chain] == [0, *(decision for _, decision in chain)][:-1]
    other.close()


WRITER = """
import sys
from pathlib import Path
from xsap.exchange.mapping import Signature
from xsap.server.review_decisions import Choice
from xsap.server.review_store import ReviewStore
store, number = ReviewStore(Path(sys.argv[1])), 0
while True:
    number += 1
    outcome = store.decide({1: store.term(1).version}, Choice(comment=str(number)), "decide", Signature("Ann", number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_killed_process_loses_nothing_that_it_reported(store, lines):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.path], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    )
    reported = [int(writer.stdout.readline()) for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    reported += [int(line) for line in writer.stdout.read().splitlines()]
    writer.wait(20)
    writer.stdout.close()
    comments = [int(comment) for (comment,) in store.query("SELECT comment FROM decisions ORDER BY decision")]
    assert comments in ([*reported], [*reported, reported[-1] + 1])
    assert store.query("PRAGMA integrity_check") == [("ok",)]


def test_killed_load_leaves_no_file(tmp_path, monkeypatch):
    def broken():
        yield from sample_mappings()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_review(tmp_path / "r.sqlite", broken(), SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_failed_relink_leaves_the_review_as_it_was(store):
    def broken():
        yield sample_mappings()[0]
        raise KeyboardInterrupt

    decide(store, 1, APPROVE)
    before = read_review(store.path)
    with pytest.raises(KeyboardInterrupt):
        load_review(store.path, broken(), SETTINGS)
    assert read_review(store.path) == before


def test_relinking_keeps_decisions_by_code_and_name(store):
    decide(store, 1, Choice(Status.APPROVED, (OTHER,), Equivalence.WIDER, "kept"))
    decide(store, 2, Choice(Status.NO_MATCH))
    decide(store, 3, Choice(comment="a note only"))
    old = sample_mappings()
    new = [
        replace(old[2], candidates=(candidate("A:5", "New"),), targets=(MappedConcept("A:5", "New"),)),
        replace(old[0], columns={"new": "column"}),
        mapping("one more", "L77"),
    ]
    counts = load_review(store.path, [*new, replace(old[1], source_code="changed")], SETTINGS)
    assert (counts.terms, counts.kept, counts.set_aside) == (4, 2, 1)
    found = read_review(store.path)
    assert [each.status for each in found] == [Status.UNREVIEWED, Status.APPROVED, Status.UNREVIEWED, Status.UNREVIEWED]
    assert (found[1].targets, found[1].equivalence, found[1].comment, found[1].columns) == (
        (OTHER,),
        Equivalence.WIDER,
        "kept",
        {"new": "column"},
    )
    assert (found[0].comment, found[0].targets) == ("a note only", (MappedConcept("A:5", "New"),))
    counts = load_review(store.path, old, SETTINGS)
    assert counts.kept == 3
    assert [each.status for each in read_review(store.path)][:3] == [
        Status.APPROVED,
        Status.NO_MATCH,
        Status.UNREVIEWED,
    ]


def test_rows_with_one_code_and_name_are_reviewed_together(tmp_path):
    rows = [
        mapping("a", "1", frequency=2),
        mapping("b", "1", frequency=1),
        mapping("a", "1", frequency=5),
        mapping("a", "1"),
    ]
    counts = load_review(tmp_path / "r.sqlite", rows, SETTINGS)
    assert counts.summary() == "4 rows, 2 terms; rows with the code and name of another, reviewed together: 2"
    assert [(each.source_name, each.frequency) for each in read_review(tmp_path / "r.sqlite")] == [("a", 7), ("b", 1)]


@pytest.mark.parametrize("content", [b"", b"term\nFieber\n", b"SQLite format 3\0 and no more"])
def test_file_that_is_no_review_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.sqlite: expected the file of a review"):
        read_review(path)
    assert path.read_bytes() == content


def test_missing_review_and_later_formats_are_refused(store, tmp_path):
    with pytest.raises(DataError, match="found nothing there"):
        read_review(tmp_path / "none.sqlite")
    with sqlite3.connect(store.path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="expected a review of format 1, found format 99"):
        read_review(store.path)


# Lists and facets


def matches(each, wanted):
    """Whether a filter keeps a mapping, in plain Python."""
    lead = (
        each.candidates[0].score - each.candidates[1].score
        if len(each.candidates) > 1
        else each.candidates[0].score
        if each.candidates
        else -1
    )
    confidence = -1 if each.confidence is None else each.confidence
    searched = [each.source_code, each.source_name, *each.columns.values()]
    first = each.candidates[0] if each.candidates else None
    return all([
        not wanted.text.strip() or any(wanted.text.strip().casefold() in value.casefold() for value in searched),
        not wanted.statuses or each.status in wanted.statuses,
        not wanted.languages or each.language in wanted.languages,
        not wanted.domains or (first.semantic_types[0] if first else "") in wanted.domains,
        not wanted.matches or (first.match if first else "") in wanted.matches,
        not wanted.reviewers or each.decided.by in wanted.reviewers,
        not wanted.candidates or len(each.candidates) in wanted.candidates,
        wanted.confirmed is None or bool(each.confirmed.by) == wanted.confirmed,
        wanted.min_confidence is None or confidence >= wanted.min_confidence,
        wanted.max_confidence is None or 0 <= confidence <= wanted.max_confidence,
        wanted.min_margin is None or lead >= wanted.min_margin,
        wanted.max_margin is None or 0 <= lead <= wanted.max_margin,
    ])  # fmt: skip


FILTERS = st.builds(
    ReviewFilter, text=st.sampled_from(["", "ER", "toux", "L000", "Боль", "site 2", "%", "_"]), statuses=st.sets(st.sampled_from(Status), max_size=2),
    languages=st.sets(st.sampled_from(["de", "fr", "ru", "xx"]), max_size=2), domains=st.sets(st.sampled_from(["Finding", "Disorder", ""]), max_size=1),
    matches=st.sets(st.sampled_from(["exact", "similar", ""]), max_size=2), reviewers=st.sets(st.sampled_from(["Ann", "Ben", ""]), max_size=1),
    candidates=st.sets(st.integers(0, 4), max_size=2), confirmed=st.sampled_from([None, None, True, False]),
    min_confidence=st.none() | st.floats(0, 1), max_confidence=st.none() | st.floats(0, 1), min_margin=st.none() | st.floats(0, 1), max_margin=st.none() | st.floats(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    store = new_review(tmp_path_factory.mktemp("r") / "r.sqlite", sample_mappings(120))
    for term in range(1, 60):
        choice = [APPROVE, Choice(Status.NO_MATCH), Choice(Status.FLAGGED)][term % 3]
        if store.term(term).mapping.candidates:
            decide(store, term, choice, (ANN, BEN)[term % 2])
    for term in (3, 6, 9):
        decide(store, term, Choice(confirm=True), Signature("Cay", 5))
    yield store
    store.close()


KEYS = {
    "position": lambda each: 0, "frequency": lambda each: -each.frequency, "confidence": lambda each: -1 if each.confidence is None else each.confidence,
    "-confidence": lambda each: 1 if each.confidence is None else -each.confidence, "status": lambda each: each.status,
}  # fmt: skip


@given(FILTERS, st.sampled_from(list(KEYS)), st.integers(1, 60))
def test_pages_of_any_filter_and_order_are_what_plain_python_finds(reviewed, wanted, sort, rows):
    everything = read_review(reviewed.path)
    expected = [
        each.source_code for each in sorted((each for each in everything if matches(each, wanted)), key=KEYS[sort])
    ]
    found, after = [], None
    for _ in range(200):
        page = read_page(reviewed, wanted, sort, after, rows=rows)
        found += [row.code for row in page.rows]
        after = page.following
        if after is None:
            break
    assert found == expected
    assert count_terms(reviewed, wanted) == len(expected)


@given(FILTERS)
def test_facets_count_what_each_value_would_keep(reviewed, wanted):
    everything = read_review(reviewed.path)
    facets = count_facets(reviewed, wanted)
    for name in ("statuses", "languages", "domains", "matches", "reviewers", "candidates"):
        without = wanted.model_copy(update={name: ()})
        expected = {}
        for each in everything:
            for value, _ in facets[name]:
                expected[value] = expected.get(value, 0) + matches(each, without.model_copy(update={name: (value,)}))
        assert dict(facets[name]) == expected
        assert sum(expected.values()) == sum(matches(each, without) for each in everything)


def test_pages_skip_and_repeat_nothing_while_decisions_change_the_filter(tmp_path):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(40))
    wanted, seen, after = ReviewFilter(statuses=(Status.UNREVIEWED,)), [], None
    while True:
        page = read_page(store, wanted, "frequency", after, rows=7)
        for row in page.rows:
            seen.append(row.term)
            decide(store, row.term, Choice(Status.NO_MATCH))
        if (after := page.following) is None:
            break
    assert sorted(seen) == list(range(1, 41))
    store.close()


def test_bulk_approval_skips_what_a_person_touched_and_can_be_undone_whole(tmp_path):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(45))
    decide(store, 3, Choice(Status.FLAGGED), BEN)
    decide(store, 4, Choice(comment="look again"), BEN)
    before, wanted = read_review(store.path), ReviewFilter(languages=("ru", "fr", "ar", "en"))
    effect = bulk_effect(store, wanted, Status.APPROVED, 0.9)
    expected = [
        each
        for each in before
        if matches(each, wanted) and (each.confidence or 0) >= 0.9 and each.source_code not in ("L0003", "L0004")
    ]
    assert effect.rows == len(expected) > 5
    assert effect.skipped == sum(matches(each, wanted) for each in before) - len(expected)
    assert effect.expected_wrong == pytest.approx(sum(1 - each.confidence for each in expected), abs=0.01)
    condition, parameters = bulk_condition(wanted, Status.APPROVED, 0.9)
    outcome = store.decide_where(condition, parameters, APPROVE, ANN)
    assert len(outcome.terms) == effect.rows
    approved = {each.source_code for each in read_review(store.path) if each.status is Status.APPROVED}
    assert approved == {each.source_code for each in expected}
    store.decide({outcome.terms[0]: store.term(outcome.terms[0]).version}, Choice(Status.FLAGGED), "decide", BEN)
    undone = store.undo(ANN)
    assert (len(undone.terms), undone.conflicts) == (effect.rows - 1, outcome.terms[:1])
    after = read_review(store.path)
    assert [each for each in after if each.source_code not in (before[outcome.terms[0] - 1].source_code,)] == [
        each for number, each in enumerate(before) if number != outcome.terms[0] - 1
    ]
    store.close()


def test_bulk_effect_without_calibration_expects_nothing(tmp_path):
    store = new_review(tmp_path / "r.sqlite", [mapping("a", "1", [candidate("A:1", "x")]), mapping("b", "2")])
    assert bulk_effect(store, ReviewFilter(), Status.APPROVED, None) == (1, 1, None)
    assert bulk_effect(store, ReviewFilter(), Status.APPROVED, 0.5) == (0, 2, None)
    store.close()


def test_a_broader_proposal_is_wider_unless_another_concept_is_chosen(tmp_path):
    found = replace(candidate("A:1", "Rash"), match="broader"), candidate("A:2", "Red rash")
    with_terms = new_review(
        tmp_path / "r.sqlite", [mapping(name, candidates=found) for name in ("one", "two", "three")]
    )
    assert [each.equivalence for each in read_review(tmp_path / "r.sqlite")] == [Equivalence.WIDER] * 3
    decide(with_terms, 1, APPROVE)
    decide(with_terms, 2, Choice(Status.APPROVED, (MappedConcept.from_candidate(found[1]),)))
    with_terms.decide_where("s.term = 3", [], APPROVE, ANN)
    wanted = [Equivalence.WIDER, Equivalence.EQUIVALENT, Equivalence.WIDER]
    assert [each.equivalence for each in read_review(tmp_path / "r.sqlite")] == wanted
    with_terms.undo(ANN)
    with_terms.undo(ANN)
    assert [each.equivalence for each in read_review(tmp_path / "r.sqlite")] == [Equivalence.WIDER] * 3
    with_terms.close()
