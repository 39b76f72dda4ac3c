"""Reports of readers: what the terminology contains, which rows were malformed, which chosen values do not occur.

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
from xsap.files import RowCounts, aligned
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


MALFORMED = "malformed: see the file of rejects"


@dataclass
class Rejects:
    """Malformed rows, at most `limit` of them. A context manager: leaving it writes them to `file`, if there are any.

    The file is tab-separated: file, line (from 1; or the JSONPath of a row in a document without lines), byte offset of the line's start
    (in the uncompressed file; empty where it is not known), reason.

    Args:
        file: Where the rows are listed.
        limit: How many malformed rows are allowed.
        excess: How many rows beyond the limit are listed before reading stops: enough to see a pattern.
        rows: The rows: file and line → byte offset and reason.
    """

    file: Path
    limit: int = 0
    excess: int = 100
    rows: dict[tuple[Path, int | str], tuple[int | None, str]] = field(default_factory=dict)
    _first: str = ""

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows:
            with write_atomically(self.file) as stream:
                stream.write("file\tline\toffset\treason\n")
                for (path, line), (offset, reason) in self.rows.items():
                    cells = (path.name, str(line), "" if offset is None else str(offset), " ".join(reason.split()))
                    stream.write("\t".join(cells) + "\n")

    def add(self, path: Path, line: int | str, error: DataError, offset: int | None = None) -> None:
        """Add a row, unless an earlier pass over its file did. Raises DataError when there are far too many."""
        message = str(error)
        self._first = self._first or message
        self.rows.setdefault((path, line), (offset, message.removeprefix(f"{path}:{line}: ").removeprefix(f"{path}: ")))
        if len(self.rows) >= self.limit + self.excess:
            self.check(" so far")

    def check(self, so_far: str = "") -> None:
        """Raise DataError, naming the first row and the option that skips them, if there are more than the limit."""
        if (found := len(self.rows)) > self.limit:
            rows = f"{found:,} malformed row{'s' if found > 1 else ''}{so_far}, all listed in {self.file}"
            allowed = f"--max-rejects allows {self.limit:,}" if self.limit else ""
            way_out = "skip up to N such rows with --max-rejects N"
            raise DataError(f"{self._first} ({'; '.join(filter(None, (rows, allowed, way_out)))})")


def reject(
    rejects: Rejects | None, path: Path, line: int | str, error: DataError, *, offset: int | None = None
) -> None:
    """Skip a malformed row and remember why; without `rejects` its error is raised.

    Args:
        rejects: Collects malformed rows.
        path: The file.
        line: The row's line, or its JSONPath.
        error: What is wrong with it.
        offset: The byte at which its line begins, if that is known.
    """
    if rejects is None:
        raise error
    rejects.add(path, line, error, offset)


def rejected_rows(rejects: Rejects | None, files: Collection[Path]) -> RowCounts:
    """The malformed rows of some files, counted as dropped; raises DataError if there are more than allowed."""
    if rejects is None:
        return RowCounts()
    rejects.check()
    found = sum(path in files for path, _ in rejects.rows)
    return RowCounts(found, 0, {MALFORMED: found} if found else {})


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
