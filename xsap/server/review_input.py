"""What is reviewed: a linked table, a table that is linked first, a save file of Usagi, or a review that exists.

A review is made again from its input only if the input, the options or the index are others than before; what was decided stays.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xsap.artifacts import sha256_of
from xsap.errors import ConfigError
from xsap.exchange.linked_table import TermColumns, is_linked, read_linked
from xsap.exchange.mapping import Mapping, Status
from xsap.exchange.usagi import is_usagi_header, read_usagi
from xsap.server.review_list import ReviewFilter, count_terms
from xsap.server.review_load import MAX_CANDIDATES, load_review
from xsap.server.review_store import ReviewStore
from xsap.tabular.link_file import Links, link_file
from xsap.tabular.readers import InputTable, open_table
from xsap.tabular.writers import OutputFormat

ENDING = ".sqlite"
TERM_COLUMNS = ("term", "mention")  # where no other is given
_ONLY_IF_GIVEN = ("context_column", "rerank")


@dataclass(frozen=True, slots=True)
class ReviewInput:
    """A file to review, and how it is read.

    Attributes:
        file: The file.
        column: The column of terms; None for the first of TERM_COLUMNS that is there.
        code_column: The column of their codes.
        language_column: The column of their languages.
        frequency_column: The column of their frequencies.
        sheet: Sheet of a workbook.
        header_row: Row with the names of the columns.
        encoding: Of a text file.
        context_column: The column of the texts that the terms are from.
        rerank: What scores candidates again, as `Linker.load` has it, if not what the index has stored.
    """

    file: Path
    column: str | None = None
    code_column: str | None = None
    language_column: str | None = None
    frequency_column: str | None = None
    sheet: str | None = None
    header_row: int = 1
    encoding: str | None = None
    context_column: str | None = None
    rerank: str | None = None

    def options(self) -> dict[str, Any]:
        """How the file is read, without the file; context and re-ranking only if they are given, so that older reviews stay as they are."""
        given = {name: getattr(self, name) for name in self.__slots__ if name != "file"}
        return {name: value for name, value in given.items() if value is not None or name not in _ONLY_IF_GIVEN}


def review_path(file: Path) -> Path:
    """Where the review of a file is kept: beside it.

    Args:
        file: The file.
    """
    name = file.name.removesuffix(".gz").removesuffix(".bz2")
    return file.with_name(f"{name.rpartition('.')[0] or name}.review{ENDING}")


def open_review(
    source: ReviewInput, out: Path | None, index_hash: str, linker: Callable[[], Links]
) -> tuple[ReviewStore, str]:
    """The review of a file: as it is, or made, or made again with the decisions that it has.

    Args:
        source: The file.
        out: Where the review is kept; None for beside the file.
        index_hash: Of the index that links.
        linker: Gives a linker, which only a table that is not linked needs.

    Returns:
        The review, and a line for people.

    Raises:
        DataError: The file can't be read.
        ConfigError: An option doesn't belong to this kind of file.
    """
    if source.file.suffix == ENDING:
        given = [name for name, value in source.options().items() if value not in (None, 1)]
        if given or out is not None:
            option = f"--{(given or ['out'])[0].replace('_', '-')}"
            raise ConfigError(f"{option} is for tables, found the review {source.file}; remove it")
        store = ReviewStore(source.file)
        return store, _contents(store)
    path = review_path(source.file) if out is None else out
    settings = {
        "input": source.file.name,
        "input_sha256": "",
        "index": index_hash,
        "options": json.dumps(source.options()),
    }
    table = open_table(source.file, sheet=source.sheet, encoding=source.encoding, header_row=source.header_row)
    settings["input_sha256"] = sha256_of(source.file)
    if path.exists():
        store = ReviewStore(path)
        if settings.items() <= store.settings().items():
            return store, _contents(store)
        store.close()
    counts, remarks = _load(path, source, table, settings, linker)
    return ReviewStore(path), "; ".join([counts, *remarks])


def _contents(store: ReviewStore) -> str:
    everything, open_terms = (
        count_terms(store, ReviewFilter()),
        count_terms(store, ReviewFilter(statuses=(Status.UNREVIEWED,))),
    )
    return f"{everything:,} terms, {open_terms:,} to review"


def _load(
    path: Path, source: ReviewInput, table: InputTable, settings: dict[str, str], linker: Callable[[], Links]
) -> tuple[str, list[str]]:
    if is_usagi_header(table.header):
        mappings, repairs = read_usagi(source.file, encoding=source.encoding)
        return load_review(path, mappings, settings).summary(), repairs.remarks()
    columns = _columns(source, table)
    if is_linked(table.header):
        return load_review(path, read_linked(table, columns), settings).summary(), table.remarks()
    linked = path.with_name(f".{path.name}.linked.jsonl")  # an interrupted run resumes there
    ready = linker()
    # a linker whose answers nothing identifies, such as one that asks a service, resumes nothing
    used = getattr(ready, "identity", {})
    identity = None if used is None else {"options": settings["options"], "index": settings["index"], "linker": used}
    output_format = OutputFormat("jsonl", MAX_CANDIDATES)
    done = link_file(
        ready, table, linked, output_format, column=columns.name, language_column=columns.language, context_column=source.context_column, identity=identity,
        overwrite=True, progress=True,
    )  # fmt: skip
    mappings_of_linked: Iterable[Mapping] = read_linked(open_table(linked), columns)
    counts = load_review(path, mappings_of_linked, settings)
    linked.unlink()
    return f"{done.summary()}; {counts.summary()}", table.remarks()


def _columns(source: ReviewInput, table: InputTable) -> TermColumns:
    name = source.column or next((name for name in TERM_COLUMNS if name in table.header), TERM_COLUMNS[0])
    given = (name, source.code_column, source.language_column, source.frequency_column)
    for column in given:
        if column is not None:
            table.column_index(column)
    return TermColumns(*given)
