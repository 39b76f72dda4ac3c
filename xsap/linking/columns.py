"""Terms by the column: the CSV, TSV and JSONL files that people keep them in, read and written with all their other columns.

CSV is RFC 4180 (quoted cells may hold commas, quotes and line ends), and is read with semicolons too; its lines are written with commas and
a plain `\\n`. TSV has no quoting, so there tabs and line ends inside a cell are written as spaces. Answers are long: each input row comes
again for each candidate, with its rank; a row whose term has no candidates comes once, with the reason.
"""

import csv
import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from xsap.artifacts import csv_delimiter, read_lines
from xsap.errors import DataError
from xsap.linking.linker import Result

ANSWER = ("rank", "concept_id", "name", "matched_name", "score", "reason")
_LARGEST_CELL = 2**31 - 1  # csv's own limit is below a page of text


class Sheet(NamedTuple):
    """Columns' names, and rows of as many cells. A cell is text, or whatever JSON has; None where there is none."""

    header: list[str]
    rows: list[list[Any]]


def sheet_of(terms: Sequence[str]) -> Sheet:
    """Bare terms as a sheet of one column, `mention`."""
    return Sheet(["mention"], [[term] for term in terms])


def read_sheet(path: Path | str) -> Sheet:
    """Read a `.csv`, `.tsv` or `.jsonl` file (UTF-8, with or without a byte-order mark). Raises DataError with file and line."""
    path = Path(path)
    reader = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl}.get(path.suffix.casefold())
    if reader is None:
        raise DataError(f"{path}: expected a file that ends in .csv, .tsv or .jsonl")
    return reader(path)


def column_of(sheet: Sheet, column: str, where: Path | str) -> list[str]:
    """One column as text; a cell without a value is empty. Raises DataError if `where` has no such column, or has it twice."""
    if sheet.header.count(column) != 1:
        found = f"found {', '.join(sheet.header)}" if column not in sheet.header else "found two of that name"
        near = difflib.get_close_matches(column, sheet.header, n=1, cutoff=0.5) if column not in sheet.header else []
        raise DataError(f"{where}: expected a column '{column}', {found}" + (f"; did you mean '{near[0]}'?" if near else ""))
    at = sheet.header.index(column)
    return [_text(row[at]) for row in sheet.rows]


def with_answers(sheet: Sheet, results: Sequence[Result]) -> Sheet:
    """The sheet in long form: its columns and ANSWER's, which are called `linked_…` where the sheet has that name already."""
    answer = []
    for name in ANSWER:
        while name in sheet.header:
            name = f"linked_{name}"
        answer.append(name)
    rows = []
    for row, result in zip(sheet.rows, results, strict=True):
        for rank, c in enumerate(result.candidates, start=1):
            rows.append([*row, rank, c.concept_id, c.name, c.matched_name, round(c.score, 6), None])
        if not result.candidates:
            rows.append([*row, None, None, None, None, None, result.reason])
    return Sheet(sheet.header + answer, rows)


def write_sheet(sheet: Sheet, stream: IO[str], form: str) -> None:
    """Write as `csv`, `tsv` or `jsonl`."""
    if form == "jsonl":
        stream.writelines(_writable(json.dumps(dict(zip(sheet.header, row, strict=True)), ensure_ascii=False)) + "\n" for row in sheet.rows)
    elif form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([_writable(_text(cell)) for cell in row] for row in [sheet.header, *sheet.rows])
    else:
        clean = str.maketrans(dict.fromkeys("\t\r\n", " "))
        stream.writelines("\t".join(_writable(_text(cell)).translate(clean) for cell in row) + "\n" for row in [sheet.header, *sheet.rows])


def write_text(results: Sequence[Result], stream: IO[str]) -> None:
    """Write results for people to read: the mention, and below it a line for each candidate."""
    for result in results:
        shown = result.mention if len(result.mention) <= 80 else f"{result.mention[:79]}…"
        stream.write(_writable(" ".join(shown.split()) or "(blank)") + "\n")
        width = max((len(c.concept_id) for c in result.candidates), default=0)
        for rank, c in enumerate(result.candidates, start=1):
            matched = "" if c.matched_name == c.name else f"  ({c.matched_name})"
            stream.write(_writable(f"{rank:>4}  {c.score:6.3f}  {c.concept_id:{width}}  {c.name}{matched}") + "\n")
        if not result.candidates:
            stream.write(f"      {result.reason}\n")


def _read_csv(path: Path) -> Sheet:
    lines = read_lines(path)
    records = csv.reader((f"{line}\n" for line in lines), delimiter=csv_delimiter(lines[0] if lines else ""), strict=True)
    header: list[str] = []
    rows: list[list[Any]] = []
    try:
        with _large_cells():
            header = next(records, [])
            for row in records:
                if not row and len(header) == 1:
                    row = [""]  # in a file of one column a blank line is an empty cell
                if row:
                    _check_width(row, header, path, records.line_num)
                    rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}:{records.line_num}: not CSV as RFC 4180 has it: {error}. Is a quote left open?") from None
    return _checked(Sheet(header, rows), path)


def _read_tsv(path: Path) -> Sheet:
    lines = [line.split("\t") for line in read_lines(path)] or [[""]]
    for number, row in enumerate(lines[1:], start=2):
        _check_width(row, lines[0], path, number)
    return _checked(Sheet(lines[0], list(lines[1:])), path)


def _read_jsonl(path: Path) -> Sheet:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: expected a JSON object, found what is no JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {line[:40]}")
        records.append(record)
    header = list(dict.fromkeys(key for record in records for key in record))
    return _checked(Sheet(header, [[record.get(key) for key in header] for record in records]), path)


def _check_width(row: list[str], header: list[str], path: Path, line: int) -> None:
    if len(row) != len(header):
        raise DataError(f"{path}:{line}: expected {len(header)} field(s) as in the header, found {len(row)}")


def _checked(sheet: Sheet, path: Path) -> Sheet:
    if not any(sheet.header):
        raise DataError(f"{path}: expected columns with names, found an empty file")
    return sheet


@contextmanager
def _large_cells() -> Iterator[None]:
    """csv's limit is a global; it is put back."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _text(cell: object) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else json.dumps(cell, ensure_ascii=False)


def _writable(text: str) -> str:
    """Half surrogate pairs, which UTF-8 can't hold, as `\\udc80`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
