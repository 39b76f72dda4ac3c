"""Link a column of terms: millions of rows in bounded memory, each distinct mention once, and interrupted runs resume.

Three iterators make it: the chunks of the input, the answers to each chunk's new mentions, and the chunks written with their answers. A mention's
answer is cached for the rows that follow, the least recently used dropped first, up to a number of bytes. Two mentions are the same only if
their text and their language are. What is asked, and what is asked together, follows from the input alone and never from an answer, so several
chunks can be asked for at once, of linkers on other machines, and a resumed run asks and writes exactly what an uninterrupted one does.
"""

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import pyarrow as pa
from tqdm import tqdm

from xsap import __version__
from xsap.artifacts import sha256_of, write_atomically
from xsap.errors import ConfigError, DataError
from xsap.files import RowCounts
from xsap.languages import to_iso
from xsap.linking.name_keys import BROADER
from xsap.linking.results import Result
from xsap.output_paths import check_new_file
from xsap.tabular.answers import CANDIDATE, NOTES, Answer, decode_answer, encode_answer
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable
from xsap.tabular.resume import count_parts, read_part, resume_folder, write_part
from xsap.tabular.workbook_writer import MAX_CELL, MAX_ROWS, check_row_count
from xsap.tabular.writers import OutputFormat, open_writer

ROWS_PER_CHUNK = 8192
CACHE_BYTES = 1 << 28
QUERY_BYTES = 300  # of a cached answer, besides its candidates and its mention
ENCODED_BYTES = 200  # of a candidate as JSON, on average
OBJECT_BYTES = 600  # of a candidate as Python objects, on average
_EXAMPLES = 5  # of unknown languages in a summary
_MATCH = CANDIDATE.index("match")
_LANGUAGES_KEPT = 1000  # unknown ones that are counted by name


class Query(NamedTuple):
    """A mention, its language, and the text that it was found in, where these are known and make a difference."""

    mention: str
    language: str | None = None
    context: str | None = None


A = TypeVar("A", Answer, bytes)
Ask = Callable[[int, list[Query]], list[A]]  # a chunk's number and distinct queries → their answers


class Links(Protocol):
    """What is needed of a linker."""

    def link(  # noqa: D102
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        filter: Any = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
    ) -> Sequence[Result]: ...


@runtime_checkable
class RemoteLinkers(Protocol):
    """Linkers in other processes: how many chunks to ask for at once, and `answers_to`, which several threads may call."""

    at_once: int

    def answers_to(  # noqa: D102
        self, queries: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
    ) -> list[Answer]: ...


def answers_to(
    linker: Links, queries: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
) -> list[Answer]:
    """A linker's answers to queries.

    Args:
        linker: What links.
        queries: Distinct mentions with their languages.
        top_k: The number of candidates.
        by_language: Whether the linker is given the languages.
        options: Further arguments of `link`: filter, min_confidence, min_precision, clean, abbreviations.
    """
    if not queries:
        return []
    given: dict[str, Any] = {"languages": [query.language for query in queries] if by_language else None}
    if any(query.context for query in queries):
        given["context"] = [query.context for query in queries]
    results = linker.link([query.mention for query in queries], top_k, **given, **options)
    return list(map(Answer.from_result, results))


@dataclass
class LinkCounts:
    """What a run of `link_file` did.

    Attributes:
        rows: Rows linked, and rows without an answer by reason; numbers in a reason are left out, so that it stays one reason.
        distinct: Distinct mentions asked for; one that was dropped from the cache counts again.
        resumed: Rows whose answers an interrupted run left.
        written: Rows of the output without its header.
        cut: Cells of the output that were cut to what the format holds.
        broader: Rows linked to a broader concept.
        unknown_languages: Languages of rows that xsap doesn't know, and their rows; if there are many, only the first ones by name.
    """

    rows: RowCounts = field(default_factory=RowCounts)
    distinct: int = 0
    resumed: int = 0
    written: int = 0
    cut: int = 0
    broader: int = 0
    unknown_languages: Counter[str] = field(default_factory=Counter)

    def add(self, answers: Sequence[Answer]) -> None:
        """Count the answers to some rows."""
        reasons = [answer.reason for answer in answers if answer.reason is not None]
        unlinked = Counter(re.sub(r"[0-9]+(?:[.,][0-9]+)*", "…", reason) for reason in reasons)
        self.rows += RowCounts(len(answers), len(answers) - len(reasons), unlinked)
        self.broader += sum(bool(answer.candidates) and answer.candidates[0][_MATCH] == BROADER for answer in answers)

    def add_unknown_languages(self, languages: pa.ChunkedArray) -> None:
        """Count the languages of some rows that are not known."""
        for code, count in Counter(map(to_text, to_cells(languages))).items():
            if code.strip() and _language(code) is None:
                known = code in self.unknown_languages or len(self.unknown_languages) < _LANGUAGES_KEPT
                self.unknown_languages[code if known else ""] += count

    def summary(self) -> str:
        """One line for people."""
        by_size = sorted(self.rows.dropped.items(), key=lambda item: -item[1])
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in by_size)
        parts = [
            f"{self.rows.rows_in:,} rows, {self.distinct:,} distinct mentions, {self.rows.kept:,} linked, "
            f"{self.rows.rows_in - self.rows.kept:,} unlinked" + (f", by reason ({reasons})" if reasons else "")
        ]
        if self.broader:
            parts.append(f"{self.broader:,} of those linked to a broader concept")
        if self.resumed:
            parts.append(f"{self.resumed:,} rows resumed from an interrupted run")
        if self.unknown_languages:
            count = self.unknown_languages.total()
            parts.append(f"rows of a language that is not known: {count:,} ({_examples(self.unknown_languages)})")
        if self.cut:
            parts.append(f"cells cut to the {MAX_CELL:,} characters that Excel holds: {self.cut:,}")
        if self.written >= MAX_ROWS:
            parts.append(f"a spreadsheet can open only {MAX_ROWS:,} rows")
        return "; ".join(parts)


def _examples(counts: Counter[str]) -> str:
    """The most frequent values, for a message."""
    shown = [
        f"'{value}': {count:,}" if value else f"others: {count:,}" for value, count in counts.most_common(_EXAMPLES)
    ]
    return ", ".join([*shown, *(["…"] if len(counts) > _EXAMPLES else [])])


def link_file(
    linker: Links | RemoteLinkers,
    source: InputTable,
    out: Path | IO[bytes],
    output_format: OutputFormat,
    *,
    column: str,
    language_column: str | None = None,
    context_column: str | None = None,
    language: str | None = None,
    options: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    strict: bool = False,
    overwrite: bool = False,
    chunk_rows: int = ROWS_PER_CHUNK,
    cache_bytes: int = CACHE_BYTES,
    progress: bool = False,
) -> LinkCounts:
    """Link a column of a table, and write all of its columns with the answers.

    Args:
        linker: A linker, or linkers in other processes.
        source: The table: `open_table` or `table_of_terms`.
        out: A file, which appears complete or not at all; or a binary stream.
        output_format: How answers are written, and how many candidates.
        column: The column of mentions.
        language_column: The column of their languages.
        context_column: The column of the texts that they were found in; it is used where the linker re-ranks by context,
            and where `options` has `abbreviations`.
        language: The language of mentions whose language is not given, ISO 639-1.
        options: Further arguments of `link`: filter, min_confidence, min_precision, clean, abbreviations.
        identity: All else that answers depend on (these options, the index's content hash), as JSON has it, sets and dataclasses too. None if
            that isn't known, so that the answers of an interrupted run are not reused.
        strict: Whether a language that xsap doesn't know is an error. Otherwise its rows are counted, and linked as rows without a language are.
        overwrite: Whether a file that exists may be replaced.
        chunk_rows: Rows in memory at once.
        cache_bytes: About how many bytes of answers are cached.
        progress: Whether a progress bar is shown.

    Returns:
        How many rows were linked, and why the others were not.

    Raises:
        DataError: For a column that isn't there, with `strict` a language that isn't known (both before any work), and a file that changes
            meanwhile.
        ConfigError: For an output that can't be written there, or exists.
    """
    mention_at = source.column_index(column)
    language_at = None if language_column is None else source.column_index(language_column)
    context_at = None if context_column is None else source.column_index(context_column)
    expands = (options or {}).get("abbreviations") is not None  # also those that a context defines
    if not (expands or getattr(linker, "uses_context", isinstance(linker, RemoteLinkers))):
        context_at = None  # mentions that differ in it alone have the same answer
    if isinstance(out, Path):
        check_link_output(out, source.path, overwrite=overwrite)
    if output_format.form == "xlsx":
        check_row_count(source.rows, source.where)
    if language_at is not None and strict:
        _check_languages(source, language_at, chunk_rows)
    ask = partial(
        linker.answers_to if isinstance(linker, RemoteLinkers) else partial(answers_to, linker),
        top_k=output_format.top_k,
        by_language=language_at is not None or language is not None,
        options=options or {},
    )
    at_once = linker.at_once if isinstance(linker, RemoteLinkers) else 1
    job = _Job(source, output_format, mention_at, language_at, context_at, language, chunk_rows, at_once, progress)
    if not isinstance(out, Path):
        return job.run(out, lambda _, queries: ask(queries), lambda answer: answer, cache_bytes, OBJECT_BYTES)
    if source.path is None:
        with write_atomically(out, binary=True) as stream:
            return job.run(stream, lambda _, queries: ask(queries), lambda answer: answer, cache_bytes, OBJECT_BYTES)
    before = source.path.stat()
    run = None if identity is None else {
        "xsap": __version__, "input": [before.st_size, sha256_of(source.path), source.sheet, source.header, column, language_column, language, context_column],
        "answer": [*CANDIDATE, *NOTES], "top_k": output_format.top_k, "chunk_rows": chunk_rows,
        "cache_bytes": [cache_bytes, ENCODED_BYTES], "identity": identity,
    }  # fmt: skip
    with resume_folder(out, run) as folder:
        resumed, read = count_parts(folder) * chunk_rows, partial(_resumable, folder, ask)
        with write_atomically(folder / "output", binary=True) as stream:
            counts = job.run(stream, read, decode_answer, cache_bytes, ENCODED_BYTES, resumed=resumed)
            after = source.path.stat()
            expected = (before.st_size, before.st_mtime_ns, source.rows)
            if expected != (after.st_size, after.st_mtime_ns, counts.rows.rows_in):
                raise DataError(f"{source.where} was changed while it was linked; run the command again")
        (folder / "output").replace(out)
    return counts


def check_link_output(out: Path, source: Path | None, *, overwrite: bool) -> None:
    """Raise ConfigError if a file can't be written, exists and may not be replaced, or is the input; to be called before any work.

    Args:
        out: The file.
        source: The input, if it is a file.
        overwrite: Whether a file that exists may be replaced.
    """
    if source is not None and out.is_file() and source.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the input file; give --out another name")
    check_new_file(out, overwrite=overwrite)


def _check_languages(source: InputTable, language_at: int, chunk_rows: int) -> None:
    cells = (cell for table in source.chunks(chunk_rows) for cell in to_cells(table.column(language_at)))
    for row, cell in enumerate(cells, start=1):
        try:
            _ = to_text(cell).strip() and to_iso(to_text(cell))
        except DataError as error:
            where = f"{source.where}: row {row:,}, column '{source.header[language_at]}'"
            raise DataError(f"{where}: {error}; correct it, leave the cell empty, or remove --strict") from None


@dataclass(frozen=True)
class _Job:
    """What is linked and how it is written, however its answers come."""

    source: InputTable
    output_format: OutputFormat
    mention_at: int
    language_at: int | None
    context_at: int | None
    language: str | None
    chunk_rows: int
    at_once: int
    progress: bool

    def run(
        self,
        stream: IO[bytes],
        ask: Ask[A],
        decode: Callable[[A], Answer],
        cache_bytes: int,
        candidate_bytes: int,
        *,
        resumed: int = 0,
    ) -> LinkCounts:
        """Write all chunks with their answers, which are cached as `ask` gives them: encoded if the run can be resumed, else as objects."""
        counts, known = LinkCounts(), dict[Query, A]()
        cache = LruByBytes(cache_bytes, self.output_format.top_k * candidate_bytes)
        places = (self.mention_at, self.language_at, self.context_at)
        chunks = plan_chunks(self.source, places, self.chunk_rows, cache, self.language)
        bar = tqdm(total=self.source.rows, initial=resumed, desc="link", unit=" rows", disable=not self.progress)
        writer, done = open_writer(stream, self.output_format, self.source), answer_chunks(chunks, ask, self.at_once)
        with bar, writer as write, closing(done):
            for chunk, fresh in done:
                known.update(zip(chunk.asked, fresh, strict=True))
                answers = {query: decode(known[query]) for query in dict.fromkeys(chunk.queries)}
                by_row = [answers[query] for query in chunk.queries]
                counts.distinct += len(chunk.asked)
                written = write(chunk.table, [query.mention for query in chunk.queries], by_row)
                counts.written, counts.cut = counts.written + written.rows, counts.cut + written.cut
                counts.add(by_row)
                if self.language_at is not None:
                    counts.add_unknown_languages(chunk.table.column(self.language_at))
                rows = counts.rows.rows_in
                bar.update(max(0, rows - max(resumed, rows - len(chunk.queries))))
                for query in chunk.dropped:
                    del known[query]
        counts.resumed = min(resumed, counts.rows.rows_in)
        return counts


# Chunks and what they ask


class LruByBytes:
    """Which queries' answers are cached, up to a number of bytes; the least recently used are dropped first.

    Args:
        limit: The most bytes.
        answer_bytes: Counted for each answer, whatever its size turns out to be, so that what is asked never depends on an answer.
    """

    def __init__(self, limit: int, answer_bytes: int) -> None:
        self._limit, self._entry, self._size = limit, QUERY_BYTES + answer_bytes, 0
        self._queries: OrderedDict[Query, None] = OrderedDict()

    def take(self, queries: Iterable[Query]) -> tuple[list[Query], list[Query]]:
        """Those of some queries that are not cached, once each; and those that are dropped after these queries."""
        distinct = dict.fromkeys(queries)
        missing = [query for query in distinct if query not in self._queries]
        self._size += sum(self._entry + len(query[0]) for query in missing)
        for query in distinct:
            self._queries[query] = None
            self._queries.move_to_end(query)
        dropped = []
        while self._size > self._limit:
            query, _ = self._queries.popitem(last=False)
            self._size -= self._entry + len(query[0])
            dropped.append(query)
        return missing, dropped


class PlannedChunk(NamedTuple):
    """Rows of the input, the query of each, the queries that are asked for it, and those whose answers are dropped after it."""

    number: int
    table: pa.Table
    queries: list[Query]
    asked: list[Query]
    dropped: list[Query]


def plan_chunks(
    source: InputTable,
    places: tuple[int, int | None, int | None],
    chunk_rows: int,
    cache: LruByBytes,
    language: str | None = None,
) -> Iterator[PlannedChunk]:
    """A table's chunks and what they ask. places: of the columns of mentions, languages, contexts. language: where a row has none."""
    mention_at, language_at, context_at = places
    for number, table in enumerate(source.chunks(chunk_rows)):
        languages, contexts = (None if at is None else table.column(at) for at in (language_at, context_at))
        queries = queries_of(table.column(mention_at), languages, language, contexts)
        yield PlannedChunk(number, table, queries, *cache.take(queries))


def queries_of(
    mentions: pa.ChunkedArray,
    languages: pa.ChunkedArray | None,
    language: str | None = None,
    contexts: pa.ChunkedArray | None = None,
) -> list[Query]:
    """A column's mentions, with their languages if there is a column of these, or else `language`; None for one that isn't known."""
    texts = list(map(to_text, to_cells(mentions)))
    found: Iterable[str | None] = (
        repeat(None) if contexts is None else (to_text(each) or None for each in to_cells(contexts))
    )
    codes: Iterable[str | None] = (
        repeat(language) if languages is None else (_language(cell) or language for cell in to_cells(languages))
    )
    return list(map(Query, texts, codes, found))


def _language(cell: object) -> str | None:
    """The ISO 639 code of a row's language; None if there is none, or one that isn't known."""
    code = to_text(cell)
    try:
        return to_iso(code) if code.strip() else None
    except DataError:
        return None


def _resumable(
    folder: Path, ask: Callable[[list[Query]], list[Answer]], number: int, queries: list[Query]
) -> list[bytes]:
    """The encoded answers that the folder has for a chunk, or else new ones, which are written there."""
    lines = read_part(folder, number, len(queries))
    if lines is None:
        lines = list(map(encode_answer, ask(queries)))
        write_part(folder, number, lines)
    return lines


def answer_chunks(
    chunks: Iterator[PlannedChunk], ask: Ask[A], at_once: int
) -> Generator[tuple[PlannedChunk, list[A]], None, None]:
    """The chunks in order, each with the answers that it asks for; `at_once` are asked at a time, and as many more wait to be written."""
    if at_once == 1:
        for chunk in chunks:
            yield chunk, ask(chunk.number, chunk.asked)
        return
    pool, pending = ThreadPoolExecutor(at_once), deque[tuple[PlannedChunk, Future[list[A]]]]()
    try:
        for chunk in chunks:
            pending.append((chunk, pool.submit(ask, chunk.number, chunk.asked)))
            if len(pending) == 2 * at_once:
                first, answers = pending.popleft()
                yield first, answers.result()
        while pending:
            first, answers = pending.popleft()
            yield first, answers.result()
    finally:
        pool.shutdown(cancel_futures=True)  # running requests finish, and their answers are kept for the next run
