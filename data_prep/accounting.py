"""Reports of readers: what the terminology contains, which records were malformed, which chosen values do not occur.

The row counts themselves are `xsap.files.RowCounts`.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from xsap.artifacts import write_atomically
from xsap.errors import DataError, did_you_mean
from xsap.files import aligned
from xsap.languages import to_name
from xsap.terms.terminology import Terminology


@dataclass(frozen=True, slots=True)
class Summary:
    """What a terminology holds: names per language, concepts with names in a language, and the totals.

    The summaries of two parts of a terminology that share no concept can be added.
    """

    names_by_language: Counter[str] = field(default_factory=Counter)
    concepts_by_language: Counter[str] = field(default_factory=Counter)
    names: int = 0
    concepts: int = 0

    @classmethod
    def from_terminology(cls, terminology: Terminology) -> "Summary":
        """Count a terminology's tables."""
        names = terminology.names
        pairs = names.select(["language", "concept_id"]).group_by(["language", "concept_id"]).aggregate([])
        return cls(
            Counter(terminology.languages),
            Counter(count_by(pairs["language"])),
            names.num_rows,
            terminology.concepts.num_rows,
        )

    def __add__(self, other: "Summary") -> "Summary":
        return Summary(
            self.names_by_language + other.names_by_language,
            self.concepts_by_language + other.concepts_by_language,
            self.names + other.names,
            self.concepts + other.concepts,
        )

    def lines(self) -> list[str]:
        """A table for people: names and concepts of each language, most names first."""
        by_size = sorted(self.names_by_language.items(), key=lambda item: (-item[1], item[0]))
        rows = [(f"{code}  {to_name(code)}", f"{n:,}", f"{self.concepts_by_language[code]:,}") for code, n in by_size]
        return aligned([("language", "names", "concepts"), *rows, ("all", f"{self.names:,}", f"{self.concepts:,}")])


def count_by(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs in a column of strings, most frequent first."""
    counted = pc.value_counts(column).to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: (-row["counts"], row["values"]))}


@dataclass
class Rejects:
    """Malformed records, at most `limit` of them. A context manager: leaving it writes them to `file`, if there are any.

    The file is tab-separated: file, line (from 1), byte offset of the line's start (in the uncompressed file), reason.

    Args:
        file: Where the records are listed.
        limit: How many malformed records are allowed.
        excess: How many records beyond the limit are listed before reading stops: enough to see a pattern.
    """

    file: Path
    limit: int = 0
    excess: int = 100
    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    _first: str = ""

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows:
            with write_atomically(self.file) as stream:
                stream.write("file\tline\toffset\treason\n")
                stream.writelines(f"{name}\t{line}\t{offset}\t{reason}\n" for name, line, offset, reason in self.rows)

    def add(self, path: Path, line: int, offset: int, reason: str) -> None:
        """Add a record. Raises DataError when there are far too many."""
        self.rows.append((path.name, line, offset, reason))
        self._first = self._first or f"{path}:{line}: {reason}"
        if len(self.rows) >= self.limit + self.excess:
            self.check(" so far")

    def check(self, so_far: str = "") -> None:
        """Raise DataError, naming the first record, if there are more than the limit."""
        if (found := len(self.rows)) > self.limit:
            records = f"{found:,} record{'s' if found > 1 else ''}{so_far} rejected"
            raise DataError(
                f"{self._first} ({records}, --max-rejects allows {self.limit:,}; all are listed in {self.file})"
            )


def parse_values(text: str | None) -> frozenset[str] | None:
    """A comma-separated list as a set; None (no restriction) for None or `all`."""
    if text is None or text.strip().lower() == "all":
        return None
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def check_choice(chosen: Iterable[str], known: Collection[str], what: str, where: Path | str) -> None:
    """Raise DataError for the first chosen value that is not in `known`. what: "source", "semantic type", …"""
    for value in sorted(set(chosen) - set(known)):
        raise DataError(
            f"{where} has no {what} '{value}'{did_you_mean(value, known, otherwise=f'it has {listed(known)}')}"
        )


def listed(values: Collection[str], limit: int = 8) -> str:
    """Some values for a message: the first `limit` in order, and how many more there are."""
    shown = sorted(values)[:limit]
    rest = len(values) - len(shown)
    return (", ".join(shown) or "none") + (f" and {rest:,} more" if rest else "")
