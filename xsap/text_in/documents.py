"""Documents: plain text files, folders of them, and tables with a column of texts, read as a stream.

A text file is one document, as it is: line ends and invisible characters stay, so that offsets into it are those of the file's characters (a
byte-order mark is no character of the text). A folder is its `.txt` files, in order of their paths. A table has a document in each row.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xsap.artifacts import sha256_of
from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.files import decode, file_ending, missing_file, open_bytes, text_encoding
from xsap.languages import to_iso
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable, open_table

MAX_DOCUMENT_BYTES = 1 << 26
_TEXT_COLUMNS = ("text", "note", "document", "sentence")
_ID_COLUMNS = ("document_id", "id", "note_id", "sourceid")
_BOM = "\ufeff"


class TextDocument(NamedTuple):
    """A text.

    Attributes:
        document_id: What it is called.
        text: Its characters.
        language: Its ISO 639 code; None if it is not known.
    """

    document_id: str
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Documents:
    """Documents that can be read again and again.

    Attributes:
        where: What they are called in messages.
        count: How many there are; None if only the end of the input tells.
        chunks: Given a number, the documents from the first on in lists of that many; the last one may be shorter.
        identity: What decides their content, as JSON has it; None if that is not known.
        sources: The files, which no output may replace.
        remarks: What was chosen or repaired, as phrases for a summary.
        unknown_languages: Languages that are not known → their documents, counted while the chunks are read.
    """

    where: str
    count: int | None
    chunks: Callable[[int], Iterator[list[TextDocument]]]
    identity: Mapping[str, Any] | None = None
    sources: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    unknown_languages: dict[str, int] = field(default_factory=dict)


def document_of(text: str, *, language: str | None = None, where: str = "stdin") -> Documents:
    """A single text as documents."""
    documents = [TextDocument(where, text.removeprefix(_BOM), language)]
    return Documents(where, 1, lambda _: iter([documents]))


def open_documents(
    path: Path | str,
    *,
    column: str | None = None,
    id_column: str | None = None,
    language_column: str | None = None,
    language: str | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int = 1,
) -> Documents:
    """Check what a path has, and prepare to read its documents.

    Args:
        path: A `.txt` file (also compressed), a folder of such files, or a table that `open_table` reads.
        column: The column of a table with the texts; by default `text`, or `note`, `document` or `sentence`.
        id_column: The column with the documents' ids; by default `document_id`, `id`, `note_id` or `sourceid`, or else rows are numbered from 1.
        language_column: The column with their languages.
        language: The language of all documents.
        sheet: See `open_table`.
        encoding: Of text files; by default UTF-8, or what a byte-order mark says.
        header_row: See `open_table`.

    Raises:
        DataError: It can't be read, has no documents, or not these columns.
        ConfigError: An option does not belong to what the path has.
    """
    path = Path(path)
    code = None if language is None else to_iso(language)
    if language is not None and language_column is not None:
        raise ConfigError(f"expected --language or --language-column, found both: {language} and {language_column}")
    if not path.is_dir() and file_ending(path) != ".txt":
        table = open_table(path, sheet=sheet, encoding=encoding, header_row=header_row)
        return _of_table(table, column, id_column, language_column, code)
    given = {"--column": column, "--id-column": id_column, "--language-column": language_column, "--sheet": sheet}
    for option, value in given.items():
        if value is not None:
            raise ConfigError(f"{option} '{value}' is for tables, found {path}, which is plain text; remove it")
    files = sorted(each for each in path.rglob("*.txt") if each.is_file()) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: expected .txt files in the folder, found none; give the folder that has them")
    if not path.exists():
        raise missing_file(path, "a text file, a folder of .txt files or a table")
    return _of_files(files, path, code, encoding)


def _of_files(files: list[Path], path: Path, language: str | None, encoding: str | None) -> Documents:
    def chunks(size: int) -> Iterator[list[TextDocument]]:
        for start in range(0, len(files), size):
            yield [
                TextDocument(_name_of(file, path), _read(file, encoding), language)
                for file in files[start : start + size]
            ]

    sizes = hashlib.sha256()
    for file in files:
        state = file.stat()
        if state.st_size > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{file}: expected a document of at most {MAX_DOCUMENT_BYTES >> 20} MB, found {state.st_size >> 20:,} MB; "
                "split it, or put each document into a line of a .jsonl file"
            )
        own = sha256_of(file) if len(files) == 1 else f"{state.st_size} {state.st_mtime_ns}"
        sizes.update(f"{_name_of(file, path)}\0{own}\0".encode("utf-8", "surrogateescape"))
    identity = {"files": sizes.hexdigest(), "language": language, "encoding": encoding}
    return Documents(str(path), len(files), chunks, identity, tuple(files) if path.is_file() else ())


def _name_of(file: Path, path: Path) -> str:
    """The path of a text file below its folder, without its ending."""
    name = file.name if file == path else file.relative_to(path).as_posix()
    return name.removesuffix(".gz").removesuffix(".bz2").removesuffix(file_ending(file))


def _read(file: Path, encoding: str | None) -> str:
    name = text_encoding(file, encoding)
    with open_bytes(file) as stream:
        raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise DataError(f"{file}: expected a document of at most {MAX_DOCUMENT_BYTES >> 20} MB, found more; split it")
    if name == "utf-8":
        return decode(raw, str(file)).removeprefix(_BOM)
    try:
        return raw.decode(name).removeprefix(_BOM)
    except UnicodeError:
        raise DataError(f"{file}: expected text in {name}, found other bytes. Is it in another encoding?") from None


def _of_table(
    table: InputTable, column: str | None, id_column: str | None, language_column: str | None, language: str | None
) -> Documents:
    text_at = _column_of(table, column, _TEXT_COLUMNS)
    if text_at is None:
        hint = did_you_mean("text", table.header, otherwise="name it with --column")
        raise DataError(f"{table.where}: expected a column 'text', found {', '.join(table.header[:50])}{hint}")
    id_at = _column_of(table, id_column, _ID_COLUMNS)
    language_at = None if language_column is None else table.column_index(language_column)
    unknown: dict[str, int] = {}

    def chunks(size: int) -> Iterator[list[TextDocument]]:
        unknown.clear()
        row = 0
        for chunk in table.chunks(size):
            texts = map(to_text, to_cells(chunk.column(text_at)))
            numbers = range(row + 1, row + len(chunk) + 1)
            ids = map(str, numbers) if id_at is None else map(to_text, to_cells(chunk.column(id_at)))
            languages = [language] * len(chunk)
            if language_at is not None:
                languages = [_iso(to_text(cell), unknown) for cell in to_cells(chunk.column(language_at))]
            named = (given or str(number) for given, number in zip(ids, numbers, strict=True))
            yield [TextDocument(*each) for each in zip(named, texts, languages, strict=True)]
            row += len(chunk)

    identity: dict[str, Any] | None = None
    sources: tuple[Path, ...] = ()
    if table.path is not None:
        content = [table.path.stat().st_size, sha256_of(table.path)]
        columns = [text_at, id_at, language_at, language]
        identity, sources = (
            {"table": content, "sheet": table.sheet, "header": table.header, "columns": columns},
            (table.path,),
        )
    remarks = [*table.remarks(), *([] if column else [f"texts from the column '{table.header[text_at]}'"])]
    return Documents(table.where, table.rows, chunks, identity, sources, tuple(remarks), unknown)


def _column_of(table: InputTable, name: str | None, usual: tuple[str, ...]) -> int | None:
    """The position of a column, by its name or by one of its usual names; None if it has none of these."""
    if name is not None:
        return table.column_index(name)
    return next((table.column_index(each) for each in usual if each in table.header), None)


def _iso(text: str, unknown: dict[str, int]) -> str | None:
    try:
        return to_iso(text) if text.strip() else None
    except DataError:
        unknown[text] = unknown.get(text, 0) + 1
        return None
