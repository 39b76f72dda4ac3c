"""A mapping's fields as text, for formats that have no slot of their own for them.

A writer states in its format's own slots what these can say. Whatever a reader would not get back from them goes into extensions, as the texts of
this module: so nothing is lost, and a file has an extension only where it needs one.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from xsap.exchange.code_systems import CODE_SYSTEMS
from xsap.exchange.mapping import Equivalence, MappedConcept, Signature, Status
from xsap.exchange.mapping import Mapping as TermMapping
from xsap.linking.results import Candidate

EMPTY = "\\e"  # an empty value, where the format's own slots would give another
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
CONCEPT_FIELDS = ("concept_id", "name", "vocabulary", "code", "domain", "mapping_type")

_WRITERS: dict[str, Callable[[TermMapping], str]] = {
    "source_code": lambda m: m.source_code,
    "source_name": lambda m: m.source_name,
    "status": lambda m: m.status.value,
    "equivalence": lambda m: m.equivalence.value,
    "language": lambda m: m.language,
    "frequency": lambda m: "" if m.frequency is None else str(m.frequency),
    "score": lambda m: "" if m.score is None else repr(m.score),
    "confidence": lambda m: "" if m.confidence is None else repr(m.confidence),
    "created_by": lambda m: m.created.by,
    "created_on": lambda m: time_text(m.created.on),
    "decided_by": lambda m: m.decided.by,
    "decided_on": lambda m: time_text(m.decided.on),
    "confirmed_by": lambda m: m.confirmed.by,
    "confirmed_on": lambda m: time_text(m.confirmed.on),
    "assigned_reviewer": lambda m: m.assigned_reviewer,
    "comment": lambda m: m.comment,
    "candidates": lambda m: _candidates_text(m.candidates),
}
_READERS: dict[str, Callable[[str], Any]] = {
    "status": Status,
    "equivalence": Equivalence,
    "frequency": lambda text: int(text) if text else None,
    "score": lambda text: float(text) if text else None,
    "confidence": lambda text: float(text) if text else None,
    "created_on": lambda text: read_time(text),
    "decided_on": lambda text: read_time(text),
    "confirmed_on": lambda text: read_time(text),
    "candidates": lambda text: _read_candidates(text),
}
RECORD_FIELDS = tuple(_WRITERS)


def missing_fields(wanted: TermMapping, found: TermMapping) -> dict[str, str]:
    """The fields, as text, in which a mapping differs from what a reader would find; without targets and columns."""
    texts = {name: write(wanted) for name, write in _WRITERS.items()}
    return {name: _escape(text) for name, text in texts.items() if text != _WRITERS[name](found)}


def with_fields(mapping: TermMapping, texts: Mapping[str, str]) -> TermMapping:
    """A mapping with the fields that extensions state.

    Args:
        mapping: What the format's own slots say.
        texts: Field → text, as `missing_fields` gave it.

    Raises:
        ValueError: A text is none of its field.
    """
    values: dict[str, Any] = {name: _READERS.get(name, str)(_unescape(text)) for name, text in texts.items()}
    for role in ("created", "decided", "confirmed"):
        old: Signature = getattr(mapping, role)
        values[role] = Signature(values.pop(f"{role}_by", old.by), values.pop(f"{role}_on", old.on))
    return replace(mapping, **values)


def missing_concept_fields(wanted: MappedConcept, found: MappedConcept) -> dict[str, str]:
    """The fields in which a concept differs from what a reader would find; a vocabulary and a code that it lacks are not."""
    gained = {name for name in ("vocabulary", "code") if not getattr(wanted, name)}
    known = CODE_SYSTEMS.get(wanted.vocabulary)
    if len(gained) < 2 and not (known and known.prefix == found.vocabulary):
        gained = set()
    names = [name for name in CONCEPT_FIELDS if name not in gained]
    return {name: _escape(getattr(wanted, name)) for name in names if getattr(wanted, name) != getattr(found, name)}


def with_concept_fields(concept: MappedConcept, texts: Mapping[str, str]) -> MappedConcept:
    """A concept with the fields that extensions state."""
    return replace(concept, **{name: _unescape(text) for name, text in texts.items()})


def time_text(milliseconds: int) -> str:
    """A time as ISO 8601 in UTC, to the millisecond; empty for 0, and a number for a time that no calendar has."""
    if not milliseconds:
        return ""
    try:
        time = _EPOCH + milliseconds * _MILLISECOND
    except OverflowError:
        return str(milliseconds)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z" if time.year >= 1000 else str(milliseconds)


def date_text(milliseconds: int) -> str:
    """The day of a time, in UTC; empty if there is none."""
    text = time_text(milliseconds)
    return text[:10] if "T" in text else ""


def read_time(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 date or time, UTC where it states no zone. Raises ValueError for another text."""
    if not text:
        return 0
    if text.removeprefix("-").isdecimal() and text.isascii() and len(text) != 8:  # 8 digits are a date
        return int(text)
    time = datetime.fromisoformat(text)
    return round(((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) / _MILLISECOND)


def _candidates_text(candidates: Iterable[Candidate]) -> str:
    listed = [candidate.to_dict() for candidate in candidates]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""


def _read_candidates(text: str) -> tuple[Candidate, ...]:
    try:
        listed = json.loads(text) if text else []
        lists = ("semantic_types", "codes")
        return tuple(Candidate(**(each | {name: tuple(each[name]) for name in lists})) for each in listed)
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"expected candidates: {error}") from None


def _escape(text: str) -> str:
    """Text that is never empty."""
    return f"\\{text}" if text.startswith("\\") else text or EMPTY


def _unescape(text: str) -> str:
    return "" if text == EMPTY else text.removeprefix("\\")
