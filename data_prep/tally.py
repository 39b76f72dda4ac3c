"""What became of the rows that a reader took in: each one is kept, or dropped for a stated reason, and the sum must be right.

A reader hands back one `Tally` beside its terminology. A count that does not add up is a defect of the reader, so it is an assertion,
not a message.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xsap.languages import to_name
from xsap.terms.terminology import Terminology


@dataclass(frozen=True, slots=True)
class Tally:
    """rows_in = kept + the sum of dropped, whose keys are reasons in plain words."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.rows_in == self.kept + sum(self.dropped.values()), f"rows that nobody accounts for: {self}"

    def then(self, kept: int, dropped: Mapping[str, int]) -> "Tally":
        """This tally after a further step that took in what is kept here, kept `kept` of it and dropped the rest."""
        return Tally(self.rows_in, kept, +(Counter(self.dropped) + Counter(dropped)))

    def lines(self) -> list[str]:
        """The tally for people: rows in, rows kept, rows dropped, and under that each reason, most first."""
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        rows = [("names in", self.rows_in), ("kept", self.kept), ("dropped", self.rows_in - self.kept)]
        return aligned([(label, f"{n:,}") for label, n in [*rows, *((f"  {reason}", n) for reason, n in reasons)]])


def language_lines(terminology: Terminology) -> list[str]:
    """Names and concepts of each language as an aligned table, most names first."""
    names = terminology.names
    pairs = names.select(["language", "concept_id"]).group_by(["language", "concept_id"]).aggregate([])
    counted = pc.value_counts(pairs["language"])
    concepts = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    rows = [(f"{code}  {to_name(code)}", f"{n:,}", f"{concepts[code]:,}") for code, n in terminology.languages.items()]
    total = ("all", f"{names.num_rows:,}", f"{terminology.concepts.num_rows:,}")
    return aligned([("language", "names", "concepts"), *rows, total])


def count_by(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs in a column of strings, most first."""
    counted = pc.value_counts(column).to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: (-row["counts"], row["values"]))}


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first cell flush left, the others flush right. Every row has as many cells as the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
