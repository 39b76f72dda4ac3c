"""Annotate documents of a file or a folder: millions of them in bounded memory, and interrupted runs resume.

Documents are read, annotated and written in chunks. The answers of each chunk are kept, as those of `link_file` are (tabular/resume.py), until the output is
complete; a resumed run reads and writes all documents again, and links only those of chunks that were not reached.
"""

import gzip
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa

from xsap import __version__
from xsap.artifacts import write_atomically
from xsap.atomic import replace_folder, temporary_folder
from xsap.errors import ConfigError, DataError
from xsap.output_paths import check_new_file, check_output_path
from xsap.page import Block, Heading, Paragraph, to_html
from xsap.progress import track
from xsap.tabular.answers import CANDIDATE, NOTES, Answer, decode_answer, encode_answer
from xsap.tabular.cells import to_column
from xsap.tabular.link_file import LinkCounts
from xsap.tabular.readers import InputTable
from xsap.tabular.resume import count_parts, read_part, resume_folder, write_part
from xsap.tabular.writers import FORMS, OutputFormat, Written, open_writer
from xsap.text_in.annotate import AnnotatedText
from xsap.text_in.documents import Documents, TextDocument
from xsap.text_in.formats import JSON_FORMS, SpanAnswer, brat_text, to_blocks, to_brat, to_json_line, type_of
from xsap.text_in.given_spans import NO_DOCUMENT, GivenSpans, string_hash

DOCUMENTS_AT_ONCE = 256
DOCUMENTS_ON_A_PAGE = 500  # that a browser can show
BRAT, HTML = "brat", "html"
TEXT_FORMS = (*FORMS, *JSON_FORMS[1:], BRAT, HTML)
_COLUMNS = {"document_id": pa.string(), "start": pa.int64(), "end": pa.int64(), "mention": pa.string()}
_SPAN_TABLE = InputTable("spans", list(_COLUMNS), list(_COLUMNS.values()), None, lambda _: iter(()))
_UNSAFE = re.compile(r"[^\w.\-]+|^\.+")
_LONGEST_NAME = 200  # bytes; file systems take 255
_BRAT_FILES = (".txt", ".ann", ".conf")

WriteDocuments = Callable[[Sequence[TextDocument], Sequence[Sequence[SpanAnswer]]], Written]


class Annotates(Protocol):
    """What is needed of a linker or of an entity memory; their other arguments are the options of `annotate_file`."""

    @property
    def annotate(self) -> Callable[..., list[AnnotatedText]]:
        """Find and link the spans of texts."""


@dataclass(frozen=True)
class TextFormat:
    """How annotated documents are written.

    Attributes:
        form: One of TEXT_FORMS.
        output: The number of candidates, and whether the output is compressed; of a table all of its format.
    """

    form: str
    output: OutputFormat

    @classmethod
    def for_file(cls, out: Path | None, form: str | None, *, top_k: int = 1) -> "TextFormat":
        """The format of a file: `form`, or else what its name ends in; of stdout (None) a table.

        Args:
            out: The file, or with the form brat the folder.
            form: One of TEXT_FORMS.
            top_k: The number of candidates.

        Raises:
            ConfigError: The file's name ends in what no format, or another one, has.
        """
        if form is not None and form not in TEXT_FORMS:
            raise ConfigError(f"expected a format among {', '.join(TEXT_FORMS)}; found '{form}'")
        if form == BRAT:
            if out is None:
                raise ConfigError("the format brat needs --out FOLDER, found none")
            return cls(BRAT, OutputFormat("jsonl", top_k))
        if form == HTML or (form is None and out is not None and out.suffix == ".html"):
            return cls(HTML, OutputFormat("jsonl", top_k))
        of_table = "jsonl" if form in JSON_FORMS else form
        if out is not None and form is None and not out.suffix:
            raise ConfigError(
                f"{out}: expected a name that ends in .jsonl, .csv, .tsv, .xlsx, .parquet or .html, or --format"
            )
        output = OutputFormat.for_file(out, of_table, top_k=top_k)
        return cls(form or output.form, output)

    @property
    def is_binary(self) -> bool:
        """Whether it is nothing for a terminal."""
        return self.output.is_binary


@dataclass
class TextCounts:
    """What a run of `annotate_file` did.

    Attributes:
        documents: Documents read.
        with_spans: Those with a span.
        spans: Spans, and how many were linked and were not, by reason.
        resumed: Documents whose answers an interrupted run left.
        remarks: What else is to be said.
    """

    documents: int = 0
    with_spans: int = 0
    spans: LinkCounts = field(default_factory=LinkCounts)
    resumed: int = 0
    remarks: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for people."""
        rows = self.spans.rows
        reasons = "; ".join(
            f"{reason}: {count:,}" for reason, count in sorted(rows.dropped.items(), key=lambda each: -each[1])
        )
        unlinked = f"{rows.rows_in - rows.kept:,} unlinked" + (f", by reason ({reasons})" if reasons else "")
        parts = [
            f"{self.documents:,} documents, {self.with_spans:,} with spans; {rows.rows_in:,} spans, {rows.kept:,} linked, {unlinked}"
        ]
        if self.resumed:
            parts.append(f"{self.resumed:,} documents resumed from an interrupted run")
        return "; ".join([*parts, *self.remarks])


def annotate_file(
    linker: Annotates,
    documents: Documents,
    out: Path | IO[bytes],
    text_format: TextFormat,
    *,
    options: Mapping[str, Any] | None = None,
    given: GivenSpans | None = None,
    identity: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    documents_per_chunk: int = DOCUMENTS_AT_ONCE,
    progress: bool = False,
) -> TextCounts:
    """Annotate documents and write them.

    Args:
        linker: Finds spans and links them.
        documents: The documents.
        out: A file, or with the form brat a folder, which appears complete or not at all; or a binary stream.
        text_format: How they are written.
        options: Further arguments of `annotate`: filter, min_confidence, min_precision, abbreviations.
        given: Spans to be linked instead of those that are found.
        identity: All else that answers depend on, as JSON has it. None if that isn't known, so that an interrupted run is not resumed.
        overwrite: Whether what is there may be replaced.
        documents_per_chunk: Documents in memory at once.
        progress: Whether a progress bar is shown.

    Returns:
        How many documents and spans there were.

    Raises:
        DataError: The input can't be read, or changes meanwhile.
        ConfigError: The output can't be written there, or exists.
    """
    job = _Job(linker, documents, text_format, options or {}, given, documents_per_chunk, progress)
    if not isinstance(out, Path):
        with _stream_writer(out, text_format) as write:
            return job.run(write, None)
    check_text_output(out, documents.sources, text_format, overwrite=overwrite)
    run = None if identity is None or documents.identity is None else {
        "xsap": __version__, "documents": documents.identity, "answer": [*CANDIDATE, *NOTES], "top_k": text_format.output.top_k,
        "documents_per_chunk": documents_per_chunk, "spans": given and given.content_hash, "identity": identity,
    }  # fmt: skip
    with resume_folder(out, run) as folder:
        if text_format.form == BRAT:
            with temporary_folder(out) as made:
                with _brat_writer(made) as write:
                    counts = job.run(write, folder)
                replace_folder(made, out, overwrite=overwrite)
        else:
            with (
                write_atomically(folder / "output", binary=True) as stream,
                _stream_writer(stream, text_format) as write,
            ):
                counts = job.run(write, folder)
            (folder / "output").replace(out)
    return counts


def check_text_output(out: Path, sources: Sequence[Path], text_format: TextFormat, *, overwrite: bool) -> None:
    """Raise ConfigError if the output can't be written, exists and may not be replaced, or is the input; to be called before any work.

    Args:
        out: The file, or the folder of the form brat.
        sources: The input's files.
        text_format: How it is written.
        overwrite: Whether what is there may be replaced; of a folder, only one of brat's files.
    """
    if any(out.is_file() and source.exists() and out.samefile(source) for source in sources):
        raise ConfigError(f"{out} is the input file; give --out another name")
    if text_format.form != BRAT:
        check_new_file(out, overwrite=overwrite)
        return
    check_output_path(out, "a folder")
    if out.is_file():
        raise ConfigError(f"{out} is a file; give --out the name of a folder for the format brat")
    found = list(out.iterdir()) if out.is_dir() else []
    if found and not overwrite:
        raise ConfigError(f"{out} exists already; choose another path, or replace it with --overwrite")
    other = next((each.name for each in found if each.suffix not in _BRAT_FILES or not each.is_file()), None)
    if other is not None:
        raise ConfigError(
            f"{out}: --overwrite replaces only a folder of .txt and .ann files, found '{other}'; choose another path"
        )


@dataclass(frozen=True)
class _Job:
    """What is annotated and how, however it is written."""

    linker: Annotates
    documents: Documents
    text_format: TextFormat
    options: Mapping[str, Any]
    given: GivenSpans | None
    documents_per_chunk: int
    progress: bool

    def run(self, write: WriteDocuments, folder: Path | None) -> TextCounts:
        """Annotate and write all chunks. folder: where the answers of an interrupted run are, and are kept."""
        counts, ids = TextCounts(), array("Q")
        left = 0 if folder is None else count_parts(folder) * self.documents_per_chunk
        with track("annotate", "documents", self.documents.count or 0, bar=self.progress, done=left) as advance:
            for number, chunk in enumerate(self.documents.chunks(self.documents_per_chunk)):
                ids.extend(string_hash(document.document_id) for document in chunk)
                spans = None if self.given is None else [self.given.of(document) for document in chunk]
                lines = None if folder is None else read_part(folder, number, len(chunk))
                if lines is None:
                    lines = self._annotate(chunk, spans)
                    if folder is not None:
                        write_part(folder, number, lines)
                answered = list(map(_decode_spans, lines))
                written = write(chunk, answered)
                counts.spans.cut += written.cut
                counts.documents += len(chunk)
                counts.with_spans += sum(map(bool, answered))
                counts.spans.add([span.answer for own in answered for span in own])
                advance(max(0, min(len(chunk), counts.documents - left)), "")
        counts.resumed = min(left, counts.documents)
        expected = self.documents.count
        if expected is not None and counts.documents != expected:
            raise DataError(f"{self.documents.where} was changed while it was annotated; run the command again")
        counts.remarks += self._remarks(counts, len(ids) - len(np.unique(np.array(ids, np.uint64))))
        return counts

    def _annotate(self, chunk: list[TextDocument], spans: Any) -> list[bytes]:
        texts, languages = [document.text for document in chunk], [document.language for document in chunk]
        top_k = self.text_format.output.top_k
        annotated = self.linker.annotate(texts, top_k, languages=languages, spans=spans, **self.options)
        return [
            b"\t".join(
                b"%d %d " % (span.start, span.end) + encode_answer(Answer.from_result(span.result))
                for span in each.spans
            )
            for each in annotated
        ]

    def _remarks(self, counts: TextCounts, repeated: int) -> list[str]:
        remarks = [*self.documents.remarks]
        if repeated:
            remarks.append(f"documents with the id of an earlier one: {repeated:,}")
        if unknown := self.documents.unknown_languages:
            shown = ", ".join(f"'{code}'" for code in list(unknown)[:5])
            remarks.append(f"documents in a language that is not known ({shown}): {sum(unknown.values()):,}")
        if self.given is not None:
            dropped = {**self.given.dropped, NO_DOCUMENT: self.given.without_document()}
            remarks += [f"{reason}: {count:,}" for reason, count in dropped.items() if count]
        if self.text_format.form == HTML and counts.documents > DOCUMENTS_ON_A_PAGE:
            remarks.append(f"the page has the first {DOCUMENTS_ON_A_PAGE:,} documents; choose another format for all")
        if counts.spans.cut:
            remarks.append(f"cells cut to what Excel holds: {counts.spans.cut:,}")
        return remarks


def _decode_spans(line: bytes) -> list[SpanAnswer]:
    """The spans of a document, of the line that `_Job._annotate` made."""
    spans = []
    for part in line.split(b"\t") if line else ():
        start, end, answer = part.split(b" ", 2)
        spans.append(SpanAnswer(int(start), int(end), decode_answer(answer)))
    return spans


@contextmanager
def _stream_writer(stream: IO[bytes], text_format: TextFormat) -> Iterator[WriteDocuments]:
    """Yield a function that writes documents to a stream."""
    form = text_format.form
    if form == HTML:
        with _page_writer(stream) as write:
            yield write
    elif form in JSON_FORMS:
        target: Any = nullcontext(stream)
        if text_format.output.gz:
            target = gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0)
        with target as out:
            numbers = count(1)

            def put(documents: Sequence[TextDocument], spans: Sequence[Sequence[SpanAnswer]]) -> Written:
                lines = [
                    to_json_line(document, own, form, next(numbers))
                    for document, own in zip(documents, spans, strict=True)
                ]
                out.write("".join(lines).encode("utf-8", "backslashreplace"))
                return Written(len(lines))

            yield put
    else:
        with open_writer(stream, text_format.output, _SPAN_TABLE) as write_rows:

            def put_rows(documents: Sequence[TextDocument], spans: Sequence[Sequence[SpanAnswer]]) -> Written:
                rows = [
                    (document.document_id, start, end, document.text[start:end], answer)
                    for document, own in zip(documents, spans, strict=True)
                    for start, end, answer in own
                ]
                columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], [], []]
                mentions = [f"{name} {start}–{end} {mention}" for name, start, end, mention, _ in rows]
                typed = [to_column(column, of) for column, of in zip(columns[:-1], _COLUMNS.values(), strict=True)]
                return write_rows(pa.table(typed, list(_COLUMNS)), mentions, columns[-1])

            yield put_rows


@contextmanager
def _page_writer(stream: IO[bytes]) -> Iterator[WriteDocuments]:
    """Yield a function that collects the first documents for a page, which is written at the end."""
    blocks: list[Block] = []
    counts = [0]

    def put(documents: Sequence[TextDocument], spans: Sequence[Sequence[SpanAnswer]]) -> Written:
        for document, own in zip(documents, spans, strict=True):
            if counts[0] < DOCUMENTS_ON_A_PAGE:
                blocks.extend(to_blocks(document, own))
            counts[0] += 1
        return Written(len(documents))

    yield put
    intro: list[Block] = [Heading(1, "Spans and concepts")]
    if counts[0] > DOCUMENTS_ON_A_PAGE:
        intro.append(Paragraph(f"The first {DOCUMENTS_ON_A_PAGE:,} of {counts[0]:,} documents."))
    stream.write(to_html([*intro, *blocks], "Spans and concepts").encode())


@contextmanager
def _brat_writer(folder: Path) -> Iterator[WriteDocuments]:
    """Yield a function that writes each document as two files of a folder; brat's list of types is written at the end."""
    types: set[str] = set()
    free_name = _FreeNames(folder)

    def put(documents: Sequence[TextDocument], spans: Sequence[Sequence[SpanAnswer]]) -> Written:
        for document, own in zip(documents, spans, strict=True):
            name = free_name(document.document_id)
            (folder / f"{name}.txt").write_bytes(brat_text(document).encode())
            (folder / f"{name}.ann").write_bytes(to_brat(document, own).encode())
            types.update(type_of(span.answer) for span in own)
        return Written(len(documents))

    yield put
    lines = ["[entities]", *sorted(types), "", "[relations]", "", "[events]", "", "[attributes]", ""]
    (folder / "annotation.conf").write_bytes("\n".join(lines).encode())


class _FreeNames:
    """File names for the documents of a folder, without their ending, each of which no other document has.

    Args:
        folder: The folder, into which a document is written before the next one's name is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next: dict[str, int] = {}  # a name that several documents have → the number that the next one tries first

    def __call__(self, document_id: str) -> str:
        safe = _UNSAFE.sub("_", document_id.encode("utf-8", "replace").decode()).encode()[:_LONGEST_NAME]
        stem = safe.decode("utf-8", "ignore") or "document"
        name, number = stem, self._next.get(stem, 2)
        while (self._folder / f"{name}.txt").exists():
            name, number = f"{stem}_{number}", number + 1
            self._next[stem] = number
        return name
