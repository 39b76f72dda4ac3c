"""Input tables: text with delimiters, JSON lines, Parquet files and workbooks, read in chunks of rows.

A file is read twice. The first pass checks it to its end, so that a bad line in row nine million is reported before hours of linking and not
after them, and learns what only the end tells: the number of rows, the keys of a JSONL file, the types of the columns. The second pass gives the
rows as Arrow tables of bounded size, so memory is that of one chunk, for a file of any size; except for .xls, .xlsb and .ods workbooks, whose
sheet is loaded as a whole, and for the shared strings of an .xlsx workbook.

A column of a Parquet file keeps its type, except that views become plain text. A column of JSON lines or of a workbook whose cells have several
types is stored as `cells.MixedType`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.files import file_ending, is_compressed, missing_file, read_jsonl
from xsap.tabular.cells import cell_kind, output_type, storage_type, to_column, to_text
from xsap.tabular.delimited_text import DELIMITER_NAMES, DelimitedText, open_delimited
from xsap.tabular.workbooks import WORKBOOK_ENDINGS, Book, choose_sheet, open_workbook_file
from xsap.tabular.xlsx import SheetInfo
from xsap.text import EXACT_MATCH, normalize

TEXT_ENDINGS = (".csv", ".tsv", ".txt")
JSONL_ENDINGS = (".jsonl", ".ndjson")
ENDINGS = (*TEXT_ENDINGS, *JSONL_ENDINGS, ".parquet", *WORKBOOK_ENDINGS)
MAX_LINE_BYTES = 1 << 26
_MAX_COLUMNS = 10_000
_ROWS_PER_CHECK = 1 << 14  # rows of a Parquet file checked at a time
_ROWS_ABOVE_HEADER = 20  # that are searched for a column that is missing

T = TypeVar("T")


def _no_hint(_: str) -> str:
    return ""


@dataclass(frozen=True)
class InputTable:
    """A checked table of terms, whose rows can be read again and again in chunks.

    Attributes:
        where: Its name in messages.
        header: The names of its columns; a name may be there twice.
        types: Each column's type when it is written as Parquet.
        rows: How many rows it has; None if only the end of the input tells.
        chunks: Given a number of rows, the rows from the first on as Arrow tables of that size; the last one may be shorter.
        path: The file, if it is one.
        sheet: The sheet that is read, of a workbook.
        delimiter: The delimiter of a table like this in the country that it comes from: a semicolon or a comma.
        repairs: What was repaired while the file was checked: reason → how many cells or rows. `remarks` has them for a summary.
        notes: What was chosen and the caller's options do not say, such as the sheet of a workbook. `remarks` has them for a summary.
        nested: Columns with lists or objects in them: position → the first row that has one.
        hint: Given a column that is missing, the end of the error message: where else it is, if anywhere.
    """

    where: str
    header: list[str]
    types: list[pa.DataType]
    rows: int | None
    chunks: Callable[[int], Iterator[pa.Table]]
    path: Path | None = None
    sheet: str | None = None
    delimiter: str = ","
    repairs: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    nested: Mapping[int, int] = field(default_factory=dict)
    hint: Callable[[str], str] = _no_hint

    def remarks(self) -> list[str]:
        """The notes and the repairs as phrases for a summary, such as `sheet 'Terms'` and `blank lines, skipped: 3`."""
        return [*self.notes, *(f"{reason}: {count:,}" for reason, count in self.repairs.items())]

    def column_index(self, column: str, *, lists: bool = False) -> int:
        """The position of a column in the header.

        A name that differs only in case, white space, invisible characters or the Unicode form is taken for the column if there is only one
        such.

        Args:
            column: The name of the column.
            lists: Whether its cells may be lists or objects.

        Raises:
            DataError: If it isn't there, or is there twice, or has a list where text must be.
        """
        at = self._position(column)
        if at in self.nested and not lists:
            raise DataError(
                f"{self.where}: expected text in each cell of the column '{column}', found a list or an object in row {self.nested[at]:,}. "
                "Write each of its elements in a row of its own (pandas: DataFrame.explode)"
            )
        return at

    def _position(self, column: str) -> int:
        if self.header.count(column) == 1:
            return self.header.index(column)
        if column in self.header:
            numbers = [str(at) for at, name in enumerate(self.header, start=1) if name == column]
            raise DataError(
                f"{self.where}: expected one column '{column}', found the columns {' and '.join(numbers[:9])} of that name. "
                "Rename all but one"
            )
        folded = normalize(column, EXACT_MATCH)
        similar = [at for at, name in enumerate(self.header) if folded and normalize(name, EXACT_MATCH) == folded]
        if len(similar) == 1:
            return similar[0]
        if similar:
            shown = " and ".join(f"{self.header[at]!a} (column {at + 1})" for at in similar[:9])
            raise DataError(
                f"{self.where}: expected one column like {column!a}, found {shown}. Write the name exactly, or rename all but one"
            )
        found = ", ".join(self.header[:50]) + (", …" if len(self.header) > 50 else "")
        hint = self.hint(column) or did_you_mean(column, self.header)
        raise DataError(f"{self.where}: expected a column '{column}', found {found}{hint}")


def open_table(
    path: Path | str, *, sheet: str | None = None, encoding: str | None = None, header_row: int = 1
) -> InputTable:
    """Check a file of terms to its end, and prepare to read it again in chunks.

    Args:
        path: A file that ends in `.csv`, `.tsv`, `.txt`, `.jsonl` or `.ndjson` (these also compressed, `.gz` or `.bz2`), `.parquet`, `.xlsx`,
            `.xlsm`, `.xlsb`, `.xls` or `.ods`.
        sheet: The sheet of a workbook; the first visible one by default.
        encoding: The encoding of a text file; by default UTF-8, or what its byte-order mark says.
        header_row: The row with the names of the columns, from 1 as a spreadsheet or an editor counts it; rows before it are
            skipped, and blank ones after them.

    Raises:
        DataError: With file and line, for a file that can't be read.
        ConfigError: For an option that does not belong to the kind of file, and an unknown encoding.
    """
    path = Path(path)
    ending = file_ending(path)
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: expected a file that ends in {', '.join((*TEXT_ENDINGS, *JSONL_ENDINGS))} (or one of these and .gz), .parquet, "
            f"{', '.join(WORKBOOK_ENDINGS[:-1])} or {WORKBOOK_ENDINGS[-1]}"
        )
    if is_compressed(path) and ending not in (*TEXT_ENDINGS, *JSONL_ENDINGS):
        raise DataError(f"{path}: expected a {ending} file without further compression; decompress it first")
    for option, value, kind, endings in (
        ("--sheet", sheet, "workbooks", WORKBOOK_ENDINGS),
        ("--encoding", encoding, "text files", (*TEXT_ENDINGS, *JSONL_ENDINGS)),
        (
            "--header-row",
            header_row if header_row != 1 else None,
            "text files with columns and workbooks",
            (*TEXT_ENDINGS, *WORKBOOK_ENDINGS),
        ),
    ):
        if value is not None and ending not in endings:
            raise ConfigError(f"{option} '{value}' is for {kind}, found {path}; remove it")
    if header_row < 1:
        raise ConfigError(f"--header-row must be at least 1, found {header_row}")
    if ending == ".parquet":
        return _open_parquet(path)
    if ending in JSONL_ENDINGS:
        return _open_jsonl(path, encoding)
    return (
        _open_workbook(path, sheet, header_row)
        if ending in WORKBOOK_ENDINGS
        else _open_text(path, encoding, header_row)
    )


def table_of_terms(terms: Iterable[str], where: str, *, rows: int | None = None) -> InputTable:
    """Bare terms as a table of one column, `mention`; an iterator is consumed only as far as needed, and only once."""

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(iter(terms), size):
            yield pa.table([to_column(batch, pa.string())], ["mention"])

    return InputTable(where, ["mention"], [pa.string()], rows, chunks)


def _batches(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(rows, size)):
        yield batch


def _check_header(header: list[str], path: Path) -> list[str]:
    if not any(header):
        raise DataError(f"{path}: expected a header with column names, found an empty file")
    if len(header) > _MAX_COLUMNS:
        raise DataError(f"{path}: expected at most {_MAX_COLUMNS:,} columns, found more. Is it a table?")
    return header


def _open_text(path: Path, encoding: str | None, header_row: int) -> InputTable:
    def read() -> DelimitedText:
        return open_delimited(path, encoding=encoding, header_row=header_row, max_line_bytes=MAX_LINE_BYTES)

    text = read()
    header = _check_header(next(text.rows, (1, []))[1], path)
    count = sum(1 for _ in text.rows)

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(islice(read().rows, 1, None), size):
            columns = zip(*(row for _, row in batch), strict=True)
            yield pa.table([pa.array(column, pa.string()) for column in columns], header)

    def hint(column: str) -> str:
        found = next((number for number, row in islice(read().rows, _ROWS_ABOVE_HEADER) if column in row), None)
        if found:
            return f". Line {found} has it: add --header-row {found}"
        shown = DELIMITER_NAMES.get(text.delimiter, text.delimiter)
        return "" if len(header) > 1 else f" (cells separated by {shown}){did_you_mean(column, header)}"

    return InputTable(
        str(path), header, [pa.string()] * len(header), count, chunks, path, delimiter=";" if text.delimiter == ";" else ",",
        repairs=text.repairs, notes=tuple(text.notes), hint=hint,
    )  # fmt: skip


def _open_jsonl(path: Path, encoding: str | None) -> InputTable:
    read = partial(read_jsonl, path, encoding=encoding, max_line_bytes=MAX_LINE_BYTES)
    kinds: dict[str, set[str]] = {}
    nested: dict[str, int] = {}
    count = 0
    for count, (_, record) in enumerate(read(), start=1):
        for key, cell in record.items():
            kinds.setdefault(key, set()).add(cell_kind(cell))
            if isinstance(cell, list | dict):
                nested.setdefault(key, count)
        if len(kinds) > _MAX_COLUMNS:
            break
    header = _check_header(list(kinds), path)
    storage = [storage_type(found) for found in kinds.values()]

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(read(), size):
            cells = ([record.get(key) for _, record in batch] for key in header)
            yield pa.table(list(map(to_column, cells, storage)), header)

    return InputTable(
        str(path), header, list(map(output_type, kinds.values())), count, chunks, path,
        nested={header.index(key): row for key, row in nested.items()},
    )  # fmt: skip


# Workbooks


def _open_workbook(path: Path, sheet: str | None, header_row: int) -> InputTable:
    repairs = Counter[str]()
    kinds: list[set[str]] = []
    with open_workbook_file(path) as book:
        chosen = choose_sheet(book, sheet, path)
        notes = _sheet_notes(book, chosen) if sheet is None else ()
        rows = _sheet_rows(book, chosen, header_row, repairs)
        names = next(rows, [])
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007
            kinds += [set() for _ in row[len(kinds) :]]
            for found, cell in zip(kinds, row, strict=False):
                found.add(cell_kind(cell))
    width = max((number for number, found in enumerate(kinds, start=1) if found - {"none"}), default=0)
    width = max(width, *(number for number, name in enumerate(names, start=1) if name is not None), 0, 0)
    header = _check_header([to_text(name) for name in _padded(names, width)], path)
    kinds = (kinds + [set() for _ in header])[:width]
    storage = list(map(storage_type, kinds))

    def chunks(size: int) -> Iterator[pa.Table]:
        with open_workbook_file(path) as book:
            rows = _sheet_rows(book, chosen, header_row, Counter())
            for batch in _batches(islice(rows, 1, None), size):
                columns = map(list, zip(*(_padded(row, width) for row in batch), strict=True))
                yield pa.table(list(map(to_column, columns, storage)), header)

    return InputTable(
        str(path), header, list(map(output_type, kinds)), count, chunks, path, chosen.name, repairs=repairs, notes=notes,
        hint=partial(_workbook_hint, path, chosen),
    )  # fmt: skip


def _sheet_rows(book: Book, sheet: SheetInfo, header_row: int, repairs: Counter[str]) -> Iterator[list[Any]]:
    """The rows of a sheet from the header on; those without a value only where more rows follow."""
    expected: int | None = None
    for number, cells in book.rows(sheet, repairs):
        if number >= header_row:
            yield from ([] for _ in range(number if expected is None else expected, number))
            yield cells
            expected = number + 1


def _sheet_notes(book: Book, chosen: SheetInfo) -> tuple[str, ...]:
    others = [each.name for each in book.sheets if each is not chosen]
    return (f"sheet '{chosen.name}' (--sheet reads another: {', '.join(others[:9])})",) if others else ()


def _workbook_hint(path: Path, chosen: SheetInfo, column: str) -> str:
    """The end of a message about a missing column: the row or the sheet where it is."""
    wanted = normalize(column, EXACT_MATCH)
    with open_workbook_file(path) as book:
        for sheet in sorted(book.sheets, key=lambda each: each != chosen):
            for number, row in islice(book.rows(sheet, Counter()), _ROWS_ABOVE_HEADER):
                if any(cell is not None and normalize(to_text(cell), EXACT_MATCH) == wanted for cell in row):
                    option = f"--header-row {number}" if sheet == chosen else f"--sheet '{sheet.name}'"
                    return f". Sheet '{sheet.name}' has it in row {number}: add {option}"
    return f" in sheet '{chosen.name}'{did_you_mean(column, [])}"


def _padded(row: list[Any], width: int) -> list[Any]:
    return row[:width] + [None] * (width - len(row))


# Parquet


def _open_parquet(path: Path) -> InputTable:
    if not path.is_file():
        raise missing_file(path)
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        schema, count = file.schema_arrow, 0
        for batch in file.iter_batches(_ROWS_PER_CHECK):
            batch.validate(full=True)
            count += batch.num_rows
    header = _check_header(list(schema.names), path)
    types = [_without_views(of) for of in schema.types]

    def read(file: pq.ParquetFile, size: int) -> Iterator[pa.Table]:
        for batch in file.iter_batches(size):
            columns = [_cast(column, of) for column, of in zip(batch.columns, types, strict=True)]
            yield pa.table(columns, header)

    def chunks(size: int) -> Iterator[pa.Table]:
        with _parquet_errors(path), pq.ParquetFile(path) as file:
            held: list[pa.Table] = []
            for table in read(file, size):
                held.append(table)
                while sum(map(len, held)) >= size:
                    table = pa.concat_tables(held)
                    held = [table[size:]]
                    yield table[:size]
            if sum(map(len, held)):
                yield pa.concat_tables(held)

    nested = {at: 1 for at, of in enumerate(types) if pa.types.is_nested(of)}
    return InputTable(str(path), header, types, count, chunks, path, nested=nested)


def _without_views(of: pa.DataType) -> pa.DataType:
    """A type in which views of text, bytes and lists, for which Arrow lacks most functions, are plain ones."""
    if pa.types.is_string_view(of):
        return pa.string()
    if pa.types.is_binary_view(of):
        return pa.binary()
    if pa.types.is_dictionary(of):
        return pa.dictionary(of.index_type, _without_views(of.value_type), of.ordered)
    if pa.types.is_struct(of):
        return pa.struct([each.with_type(_without_views(each.type)) for each in of])
    if pa.types.is_map(of):
        return pa.map_(_without_views(of.key_type), _without_views(of.item_type), of.keys_sorted)
    if pa.types.is_large_list(of) or pa.types.is_large_list_view(of):
        return pa.large_list(of.value_field.with_type(_without_views(of.value_type)))
    if pa.types.is_fixed_size_list(of):
        return pa.list_(of.value_field.with_type(_without_views(of.value_type)), of.list_size)
    if pa.types.is_list(of) or pa.types.is_list_view(of):
        return pa.list_(of.value_field.with_type(_without_views(of.value_type)))
    return of


def _cast(column: pa.Array, of: pa.DataType) -> pa.Array:
    if column.type == of:
        return column
    try:
        return column.cast(of)
    except pa.ArrowNotImplementedError:
        return pa.array(column.to_pylist(), of)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the file
            raise
        raise DataError(
            f"{path}: expected a Parquet file, found one that can't be read: "
            f"{str(error)[:200].rstrip('.')}. Is it damaged?"
        ) from None
