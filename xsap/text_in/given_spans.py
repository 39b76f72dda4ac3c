"""Spans that a user gives, from a table of document ids and offsets, kept as a few numbers for each."""

from collections import Counter
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import open_table
from xsap.text import EXACT_MATCH, normalize
from xsap.text_in.documents import TextDocument
from xsap.text_in.spans import Span

SPAN_OUTSIDE, BLANK, OTHER_TEXT, NO_DOCUMENT = (
    "spans outside their document",
    "spans of white space only",
    "spans whose text is not the mention given",
    "spans of documents that are not in the input",
)
_ROWS_PER_CHUNK = 1 << 14
_SPAN = np.dtype([("document", "<u8"), ("start", "<i8"), ("end", "<i8"), ("mention", "<u8")])
"""document, mention: XXH3-64 of a document's id, and of the mention as EXACT_MATCH has it, 0 where none is given."""


class GivenSpans:
    """The spans of a table with the columns `document_id`, `start` and `end`, and optionally `mention`.

    Offsets are in characters (code points) from 0, the end exclusive. A span that is not in its document, is white space only, or has another text than
    its mention there, is left out and counted. Of documents with the same id, the first one has the spans.

    Attributes:
        content_hash: The sha256 of the file.
        dropped: Spans that were left out, by reason.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the table.

        Args:
            path: A file that `open_table` reads.

        Raises:
            DataError: It can't be read, lacks one of these columns, or has an offset that is no whole number.
        """
        table = open_table(path)
        places = [table.column_index(name) for name in ("document_id", "start", "end")]
        mention_at = table.column_index("mention") if "mention" in table.header else None
        parts: list[NDArray[np.void]] = []
        row = 0
        for chunk in table.chunks(_ROWS_PER_CHUNK):
            ids, starts, ends = (list(map(to_text, to_cells(chunk.column(at)))) for at in places)
            mentions = [""] * len(ids) if mention_at is None else map(to_text, to_cells(chunk.column(mention_at)))
            rows: list[tuple[int, int, int, int]] = []
            for document_id, start, end, mention in zip(ids, starts, ends, mentions, strict=True):
                row += 1
                first, last = (_offset(text, name, table.where, row) for name, text in (("start", start), ("end", end)))
                rows.append(
                    (
                        string_hash(document_id),
                        first,
                        last,
                        string_hash(normalize(mention, EXACT_MATCH)) if mention else 0,
                    )
                )
            parts.append(np.array(rows, _SPAN))
        self.content_hash = sha256_of(Path(path))
        self.dropped: Counter[str] = Counter()
        spans = np.concatenate([np.zeros(0, _SPAN), *parts])
        self._spans = spans[np.argsort(spans["document"], kind="stable")]
        self._seen = np.zeros(len(spans), bool)

    def __len__(self) -> int:
        return len(self._spans)

    def of(self, document: TextDocument) -> list[Span]:
        """The spans of a document, in order."""
        value = np.uint64(string_hash(document.document_id))
        first, last = (int(np.searchsorted(self._spans["document"], value, side)) for side in ("left", "right"))
        spans: set[Span] = set()
        for at in range(first, last):
            if self._seen[at]:
                continue
            self._seen[at] = True
            _, start, end, wanted = self._spans[at].tolist()
            if not 0 <= start < end <= len(document.text):
                self.dropped[SPAN_OUTSIDE] += 1
                continue
            if document.text[start:end].isspace():
                self.dropped[BLANK] += 1
                continue
            if wanted and wanted != string_hash(normalize(document.text[start:end], EXACT_MATCH)):
                self.dropped[OTHER_TEXT] += 1
                continue
            spans.add(Span(start, end))
        return sorted(spans)

    def without_document(self) -> int:
        """How many spans belong to none of the documents asked for so far."""
        return int((~self._seen).sum())


def string_hash(text: str) -> int:
    """XXH3-64 of a text, never 0."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) or 1


def _offset(text: str, column: str, where: str, row: int) -> int:
    try:
        value = int(text.strip().removesuffix(".0"))
    except ValueError:
        value = -1 << 63
    if not -(1 << 62) < value < 1 << 62:
        raise DataError(f"{where}: expected a whole number in column '{column}', found '{text[:40]}' in row {row:,}")
    return value
