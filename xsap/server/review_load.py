"""Terms into a review: a new one, or one that exists, whose decisions stay with the code and name of their terms."""

from collections.abc import Iterable
from collections.abc import Mapping as ReadOnlyDict
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from xsap import __version__
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.server.review_decisions import State
from xsap.server.review_file import new_store, open_review_file, transaction
from xsap.server.review_store import COMPACT_JSON, NewState, candidate_to_json, concepts_to_json, write_decisions
from xsap.text import EXACT_MATCH, normalize

UNKNOWN_NUMBER = (
    -1.0
)  # of a frequency, score, confidence or margin that is not known, so that every column can be compared
MAX_CANDIDATES = 9  # there is a key for each
_UPSERT = """
INSERT INTO terms (code, name, language, frequency, columns, candidates, proposal, score, confidence, created_by, created_on, assigned)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (code, name) DO UPDATE SET language = excluded.language, frequency = excluded.frequency, columns = excluded.columns,
    candidates = excluded.candidates, proposal = excluded.proposal, score = excluded.score, confidence = excluded.confidence,
    created_by = excluded.created_by, created_on = excluded.created_on, assigned = excluded.assigned
RETURNING term
"""


@dataclass(slots=True)
class LoadCounts:
    """What `load_review` did.

    Attributes:
        rows: Rows of the input.
        terms: Distinct codes and names among them.
        kept: Terms whose decisions the review had already.
        imported: Terms whose decisions came with the input.
        set_aside: Terms with decisions that the input no longer has; they return with their terms.
    """

    rows: int = 0
    terms: int = 0
    kept: int = 0
    imported: int = 0
    set_aside: int = 0

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.rows:,} rows, {self.terms:,} terms"]
        if self.rows > self.terms:
            parts.append(f"rows with the code and name of another, reviewed together: {self.rows - self.terms:,}")
        if self.imported:
            parts.append(f"terms with decisions in the input: {self.imported:,}")
        if self.kept:
            parts.append(f"terms whose decisions were kept: {self.kept:,}")
        if self.set_aside:
            parts.append(f"decided terms that the input no longer has, kept in the file: {self.set_aside:,}")
        return "; ".join(parts)


def load_review(path: Path, mappings: Iterable[Mapping], settings: ReadOnlyDict[str, str]) -> LoadCounts:
    """Put terms into a review, in place of those that it has; what was decided stays with the same code and name.

    Args:
        path: The file of the review; it is made if it isn't there.
        mappings: The terms.
        settings: What is recorded of the input.

    Returns:
        How many terms there are.

    Raises:
        DataError: The file is no review, or can't be read or written.
    """
    if path.exists():
        with closing(open_review_file(path)) as connection, transaction(connection):
            return _load(connection, mappings, settings)
    with new_store(path) as connection, transaction(connection):
        return _load(connection, mappings, settings)


@dataclass(slots=True)
class _Loading:
    """Terms as they are read. positions: term → where it is in the input; own: decisions that come with it, by term."""

    positions: dict[int, int] = field(default_factory=dict)
    own: dict[int, State] = field(default_factory=dict)


def _load(connection: Connection, mappings: Iterable[Mapping], settings: ReadOnlyDict[str, str]) -> LoadCounts:
    counts, loading = LoadCounts(), _Loading()
    last = dict(
        connection.execute("SELECT term, max(decision) FROM decisions GROUP BY term").fetchall()
    )  # a term's state
    for table in ("state", "searched"):
        connection.execute(f"DELETE FROM {table}")
    for mapping in mappings:
        counts.rows += 1
        _add(connection, mapping, loading)
    counts.terms = len(loading.positions)
    kept = [term for term in loading.positions if term in last]
    connection.executemany(
        "UPDATE state SET decision = d.decision, effective = d.effective, status = d.status, reviewer = d.decided_by, "
        "confirmer = d.confirmed_by FROM decisions d WHERE d.decision = ? AND state.term = ?",
        [(last[term], term) for term in kept],
    )
    imported = [NewState(term, 0, None, state) for term, state in loading.own.items() if term not in last]
    if imported:
        write_decisions(connection, "import", Signature(), imported)
    counts.kept, counts.imported, counts.set_aside = len(kept), len(imported), len(last) - len(kept)
    connection.executemany(
        "INSERT OR REPLACE INTO settings VALUES (?, ?)",
        [*settings.items(), ("xsap", __version__), ("rows", str(counts.rows))],
    )
    connection.execute("ANALYZE")
    return counts


def _add(connection: Connection, mapping: Mapping, loading: _Loading) -> None:
    """Add a term; of another row with its code and name only the frequency is added."""
    known = connection.execute("SELECT term FROM terms WHERE code = ? AND name = ?", mapping.key).fetchone()
    if known and known[0] in loading.positions:
        if mapping.frequency is not None:
            for table in ("terms", "state"):
                connection.execute(
                    f"UPDATE {table} SET frequency = max(coalesce(frequency, 0), 0) + ? WHERE term = ?",
                    [mapping.frequency, known[0]],
                )
        return
    undecided = mapping.status is Status.UNREVIEWED
    candidates = mapping.candidates[:MAX_CANDIDATES]
    proposal = mapping.targets if undecided else ()
    proposal = proposal or tuple(map(MappedConcept.from_candidate, candidates[:1]))
    (term,) = connection.execute(_UPSERT, [
        *mapping.key, mapping.language, mapping.frequency, COMPACT_JSON.encode(dict(mapping.columns)),
        COMPACT_JSON.encode([candidate_to_json(each) for each in candidates]), concepts_to_json(proposal),
        mapping.score, mapping.confidence, mapping.created.by, mapping.created.on, mapping.assigned_reviewer,
    ]).fetchone()  # fmt: skip
    loading.positions[term] = len(loading.positions) + 1
    numbers = [
        UNKNOWN_NUMBER if value is None else value for value in (mapping.frequency, mapping.score, mapping.confidence)
    ]
    connection.execute(f"INSERT INTO state VALUES ({', '.join('?' * 15)})", [
        term, loading.positions[term], mapping.language, _domain(mapping, proposal), candidates[0].match if candidates else "",
        len(candidates), *numbers, _margin(mapping), Status.UNREVIEWED, "", "", 0, 0,
    ])  # fmt: skip
    searched = "\n".join(normalize(value, EXACT_MATCH) for value in (*mapping.key, *mapping.columns.values()) if value)
    connection.execute("INSERT INTO searched VALUES (?, ?)", [term, searched])
    if not undecided or mapping.comment or mapping.confirmed.by:
        loading.own[term] = _state(mapping)


def _state(mapping: Mapping) -> State:
    equivalence = Equivalence.UNMATCHED if mapping.status is Status.NO_MATCH else mapping.equivalence
    return replace(
        State(mapping.status, equivalence, mapping.targets, mapping.comment),
        decided=mapping.decided,
        confirmed=mapping.confirmed,
    )


def _domain(mapping: Mapping, proposal: tuple[MappedConcept, ...]) -> str:
    """The domain of what is proposed, or else its first semantic type."""
    own = next((concept.domain for concept in (*mapping.targets, *proposal) if concept.domain), "")
    types: tuple[Any, ...] = mapping.candidates[0].semantic_types if mapping.candidates else ()
    return own or next(iter(types), "")


def _margin(mapping: Mapping) -> float:
    """How much higher the first candidate's score is than the second's; the whole score of a single one."""
    scores = [candidate.score for candidate in mapping.candidates[:2]]
    return UNKNOWN_NUMBER if not scores else scores[0] - scores[1] if len(scores) > 1 else max(scores[0], 0.0)
