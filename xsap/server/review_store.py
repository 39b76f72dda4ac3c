"""The store of a review: one SQLite file with the terms, their candidates and every decision.

Decisions are only ever added. A term's state is its last decision, and undoing adds another one that restores an earlier state, so nothing
that a person decided is lost, and the file tells who decided what and when. A decision is on disk before `decide` returns (write-ahead log,
synchronous=FULL), so that a killed process loses nothing that was shown as saved. Each term has a version, the number of its last decision;
who decides on a term says which version they saw, and where it is no longer the last one nothing is written.

The table `state` has one narrow row for each term of the input, with all that lists are filtered and sorted by; `terms` has the rest. Terms
that a new input lacks keep their decisions, and get them back if they return.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as ReadOnlyDict
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.linking.name_keys import BROADER
from xsap.linking.results import Candidate
from xsap.server.review_decisions import Choice, State, apply_choice
from xsap.server.review_file import open_review_file, readable, transaction

_STATE_OF = """
SELECT s.term, s.decision, s.effective, t.proposal, s.matched, d.status, d.equivalence, d.targets, d.comment, d.decided_by, d.decided_on,
    d.confirmed_by, d.confirmed_on
FROM state s JOIN terms t USING (term) LEFT JOIN decisions d ON d.decision = s.decision
"""
_CONCEPT = tuple(field.name for field in fields(MappedConcept))
COMPACT_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ReviewedTerm:
    """A term of the review, as the page shows it. version: the number of its last decision, 0 if there is none."""

    term: int
    version: int
    mapping: Mapping


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `decide` and `undo` did.

    Attributes:
        action: Its number; 0 if nothing was written.
        terms: The terms that have a new state.
        conflicts: Terms on which somebody else decided meanwhile. `decide` writes nothing if there are any; `undo` leaves them as they are.
    """

    action: int
    terms: tuple[int, ...] = ()
    conflicts: tuple[int, ...] = ()


class NewState(NamedTuple):
    """A new state of a term. previous: its version before; effective: the decision that is restored (0 for none), None for a new decision."""

    term: int
    previous: int
    effective: int | None
    state: State


def concepts_to_json(concepts: Iterable[MappedConcept]) -> str:
    """Concepts as JSON: a list of their fields, in order."""
    return COMPACT_JSON.encode([[getattr(concept, name) for name in _CONCEPT] for concept in concepts])


def concepts_from_json(text: str) -> tuple[MappedConcept, ...]:
    """The concepts that `concepts_to_json` wrote."""
    return tuple(MappedConcept(*values) for values in json.loads(text))


class ReviewStore:
    """An open review. Threads may share it, and processes may open the same file.

    Args:
        path: The file, which exists.

    Raises:
        DataError: It is missing, is no review, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._reader_lock, self._counter_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._writer, self._reader, self._counter = (
            open_review_file(path),
            open_review_file(path),
            open_review_file(path),
        )

    def close(self) -> None:
        """Close the file."""
        for connection in (self._writer, self._reader, self._counter):
            connection.close()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT, on a connection of its own that no decision waits for."""
        with self._reader_lock, readable(self.path):
            return self._reader.execute(sql, parameters).fetchall()

    def count(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `query`, for what reads all terms: it takes a while, for which no list and no term waits."""
        with self._counter_lock, readable(self.path):
            return self._counter.execute(sql, parameters).fetchall()

    def settings(self) -> dict[str, str]:
        """What was recorded of the input: its name and hash, the hash of the index, the names of the columns."""
        return dict(self.query("SELECT key, value FROM settings"))

    def term(self, term: int) -> ReviewedTerm | None:
        """One term with its candidates and its state; None if the input has no such term."""
        with self._reader_lock, readable(self.path):
            return next(read_terms(self._reader, "WHERE s.term = ?", [term]), None)

    def decide(self, versions: ReadOnlyDict[int, int], choice: Choice, kind: str, signature: Signature) -> Outcome:
        """Decide on terms, all of them or none; on disk when this returns.

        Args:
            versions: Term → the version that was seen.
            choice: What was chosen.
            kind: What the action is called, such as `decide` or `bulk`.
            signature: Who decides, and when.

        Raises:
            ConfigError: The choice is not possible for one of the terms.
        """
        with self._transaction() as writer:
            found = list(_states(writer, list(versions)))
            seen = {term for term, *_ in found}
            gone = [term for term in versions if term not in seen]
            conflicts = [term for term, version, *_ in found if version != versions[term]]
            if gone or conflicts:
                return Outcome(0, (), (*gone, *conflicts))
            changed = [
                NewState(term, version, None, apply_choice(state, choice, signature, proposed.targets))
                for term, version, _, state, proposed in found
            ]
            return Outcome(write_decisions(writer, kind, signature, changed), tuple(seen))

    def decide_where(self, where: str, parameters: Sequence[Any], choice: Choice, signature: Signature) -> Outcome:
        """Decide on all terms of a condition on `state s` at once.

        Args:
            where: The condition in SQL.
            parameters: Its parameters.
            choice: What was chosen.
            signature: Who decides, and when.
        """
        with self._transaction() as writer:
            terms = [term for (term,) in writer.execute(f"SELECT s.term FROM state s WHERE {where}", parameters)]
            changed = [
                NewState(term, version, None, apply_choice(state, choice, signature, proposed.targets))
                for term, version, _, state, proposed in _states(writer, terms)
            ]
            return Outcome(write_decisions(writer, "bulk", signature, changed) if changed else 0, tuple(terms))

    def undo(self, signature: Signature) -> Outcome:
        """Undo the last action of a person that was not undone yet; terms on which somebody decided after it stay as they are."""
        with self._transaction() as writer:
            last = writer.execute(
                "SELECT max(action) FROM actions a WHERE done_by = ? AND kind NOT IN ('undo', 'import') AND NOT EXISTS "
                "(SELECT 1 FROM actions u WHERE u.undoes = a.action)",
                [signature.by],
            ).fetchone()[0]
            if last is None:
                return Outcome(0)
            undone = {
                term: (decision, previous)
                for decision, term, previous in writer.execute(
                    "SELECT decision, term, previous FROM decisions WHERE action = ?", [last]
                )
            }
            changed = []
            for term, version, effective, _, proposed in _states(writer, list(undone)):
                decision, previous = undone[term]
                if effective == decision:
                    changed.append(NewState(term, version, *_restored(writer, previous, proposed)))
            restored = tuple(change.term for change in changed)
            conflicts = tuple(term for term in undone if term not in set(restored))
            return Outcome(write_decisions(writer, "undo", signature, changed, undoes=last), restored, conflicts)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, in a transaction that is on disk at the end of the block; undone if it raises."""
        with self._lock, readable(self.path), transaction(self._writer):
            yield self._writer


# Terms and states


def read_terms(
    connection: sqlite3.Connection, condition: str = "ORDER BY s.position", parameters: Sequence[Any] = ()
) -> Iterator[ReviewedTerm]:
    """Terms of the input with their states.

    Args:
        connection: Of the store.
        condition: The end of the SELECT, on `state s` and `terms t`.
        parameters: Its parameters.
    """
    sql = f"{_STATE_OF.replace('SELECT', 'SELECT t.*,', 1)} {condition}"
    for row in connection.execute(sql, parameters):
        _, code, name, language, frequency, columns, candidates, _, score, confidence, by, on, assigned = row[:13]
        term, version, _, state, _ = _state_of(row[13:])
        yield ReviewedTerm(
            term, version,
            Mapping(
                code, name, state.targets, state.status, state.equivalence, language, frequency, json.loads(columns), score, confidence,
                tuple(_candidate(fields) for fields in json.loads(candidates)), Signature(by, on), state.decided, state.confirmed,
                assigned, state.comment,
            ),
        )  # fmt: skip


def read_review(path: Path | str) -> list[Mapping]:
    """The terms of a review in the order of its input, with what was decided about them.

    Args:
        path: The file of the review, which may be open elsewhere.

    Raises:
        DataError: It is missing, is no review, or is damaged.
    """
    path = Path(path)
    with closing(open_review_file(path)) as connection, readable(path):
        return [each.mapping for each in read_terms(connection)]


def candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    """A candidate's fields, without those that are empty."""
    fields_of_candidate = ((name, getattr(candidate, name)) for name in Candidate.__slots__)
    return {name: value for name, value in fields_of_candidate if value not in (None, "", ())}


def _candidate(stored: dict[str, Any]) -> Candidate:
    lists = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return Candidate(**{"name": "", "matched_name": "", **stored, **lists})


StateRow = tuple[int, int, int, State, State]
"""Term, version, effective decision, state, the state in which nobody has decided anything."""


def _states(connection: sqlite3.Connection, terms: Sequence[int]) -> Iterator[StateRow]:
    for term in terms:
        for row in connection.execute(f"{_STATE_OF} WHERE s.term = ?", [term]).fetchall():
            yield _state_of(row)


def _state_of(row: Sequence[Any]) -> StateRow:
    term, version, effective, proposal_text, matched, status, equivalence, targets, comment, *signed = row
    proposal = concepts_from_json(proposal_text)
    proposed = State(equivalence=Equivalence.WIDER if matched == BROADER else Equivalence.UNREVIEWED, targets=proposal)
    if status is None:
        return term, version, effective, proposed, proposed
    decided, confirmed = Signature(*signed[:2]), Signature(*signed[2:])
    chosen = proposal if status == Status.UNREVIEWED else concepts_from_json(targets)
    state = State(Status(status), Equivalence(equivalence), chosen, comment, decided, confirmed)
    return term, version, effective, state, proposed


def _restored(connection: sqlite3.Connection, decision: int, proposed: State) -> tuple[int, State]:
    """The effective decision and the state that a decision made; of decision 0 those of a term that nobody decided on."""
    row = connection.execute(
        "SELECT effective, status, equivalence, targets, comment, decided_by, decided_on, confirmed_by, confirmed_on "
        "FROM decisions WHERE decision = ?",
        [decision],
    ).fetchone()
    if row is None:
        return 0, proposed
    _, _, effective, state, _ = _state_of([0, decision, row[0], concepts_to_json(proposed.targets), "", *row[1:]])
    return effective, state


def write_decisions(
    connection: sqlite3.Connection,
    kind: str,
    signature: Signature,
    changes: Sequence[NewState],
    *,
    undoes: int | None = None,
) -> int:
    """Add decisions, and make them the states of their terms; in a transaction of the caller.

    Args:
        connection: Of the store.
        kind: What the action is called.
        signature: Who acts, and when.
        changes: The new states.
        undoes: The action that this one undoes.

    Returns:
        The action's number.
    """
    action = connection.execute(
        "INSERT INTO actions (kind, done_by, done_on, undoes) VALUES (?, ?, ?, ?)",
        [kind, signature.by, signature.on, undoes],
    ).lastrowid
    (first,) = connection.execute("SELECT coalesce(max(decision), 0) + 1 FROM decisions").fetchone()
    decisions, states = [], []
    for number, (term, previous, effective, state) in enumerate(changes, start=first):
        effective = number if effective is None else effective
        decisions.append([
            number, action, term, previous, effective, state.status, state.equivalence, concepts_to_json(state.targets), state.comment,
            state.decided.by, state.decided.on, state.confirmed.by, state.confirmed.on,
        ])  # fmt: skip
        states.append([state.status, state.decided.by, state.confirmed.by, number, effective, term])
    connection.executemany(f"INSERT INTO decisions VALUES ({', '.join('?' * 13)})", decisions)
    connection.executemany(
        "UPDATE state SET status = ?, reviewer = ?, confirmer = ?, decision = ?, effective = ? WHERE term = ?", states
    )
    assert action is not None
    return action
