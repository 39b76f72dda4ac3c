"""What an entity memory learns from: texts with marked mentions, as windows of tokens with labels, spans and entities.

The input is the one form of mentions that all of xsap reads (`xsap.terms.mentions`): a row is a mention with its text (`context`), where it is
in it (`start`, `end`) and its concepts. Rows with the same text and document are one text. Every row is used or counted as dropped.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.encoding.encoder import Encoder
from xsap.errors import DataError
from xsap.terms.annotated_corpora import read_corpus, recognize_corpus
from xsap.terms.mentions import read_mentions
from xsap.text_in.memory import NIL
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import TokenizedTexts, TokenSpans, find_token_spans, label_tokens, tokenize_texts

NOT_LINKED = -2  # in place of an entity: of a mention whose concepts the memory does not have
_WHITE_SPACE = str.maketrans("\t\r\n", "   ")  # tables of mentions have spaces in place of these


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryCorpus:
    """Texts in n windows, with m spans.

    Attributes:
        texts: The windows.
        labels: (T,) label of each token.
        spans: The spans, sorted by window.
        entities: (m,) row of each span's entity in the table; NIL for a mention without concepts, NOT_LINKED for other concepts.
        rows: (m,) row of each span in the table of mentions.
        documents: The document of each text; its own number where the table has none.
        counts: How many rows of the table were used, and why the others were not.
    """

    texts: TokenizedTexts
    labels: NDArray[np.int64]
    spans: TokenSpans
    entities: NDArray[np.int64]
    rows: NDArray[np.int64]
    documents: list[str]
    counts: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that a step can draw from."""
        digest = hashlib.sha256()
        for array in (self.texts.tokens.ids, self.texts.tokens.offsets, self.labels, *self.spans, self.entities):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """The counts, as text."""
        used = f"{len(self.rows):,} mentions in {len(self.documents):,} texts, {len(self.texts.tokens):,} windows"
        return "; ".join([used, *(f"{reason}: {count:,}" for reason, count in self.counts.items() if count)])


def read_marked_texts(path: Path | str) -> pa.Table:
    """Mentions with the whole text that they are marked in: a table of mentions, or an annotated corpus (brat, BigBIO, CodiEsp).

    Args:
        path: A file that `read_mentions` reads; or a corpus, as `read_corpus` reads it.

    Raises:
        DataError: It can't be read.
    """
    corpus_format = recognize_corpus(Path(path))
    if corpus_format is None:
        return read_mentions(path)
    found = read_corpus(Path(path), corpus_format, whole_texts=True)
    dropped = [f"{reason}: {count:,}" for reason, count in found.counts.dropped.items()]
    summary = f"corpus in {corpus_format}'s format, {found.counts.kept:,} of {found.counts.rows_in:,} annotations"
    logger.info("%s: %s", path, "; ".join([summary, *dropped, *found.remarks]))
    return found.mentions


def build_corpus(mentions: pa.Table, encoder: Encoder, table: EntityTable, max_tokens: int) -> MemoryCorpus:
    """Tokenize texts and find the tokens and the entities of their mentions.

    Args:
        mentions: Mentions with context, of `xsap.terms.mentions.SCHEMA`.
        encoder: Its tokenizer and text policy.
        table: The entities.
        max_tokens: Tokens of a window.

    Raises:
        DataError: No mention is marked in a text.
    """
    places, texts, documents, reasons = _find_texts(mentions)
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        found = ", ".join(f"{reason} ({count:,})" for reason, count in Counter(reasons.tolist()).items())
        raise DataError(
            f"an entity memory learns from mentions marked in a text: expected context, start and end, found none; {found}"
        )
    tokenized = tokenize_texts(texts, encoder.tokenizer, encoder.policy, max_tokens)
    spans, found_rows = find_token_spans(tokenized, places[kept])
    lost = np.setdiff1d(kept, kept[found_rows])
    reasons[lost] = "without tokens in one window"
    order = np.lexsort((-spans.ends, spans.starts, spans.texts))
    spans, rows = spans.take(order), kept[found_rows][order]
    entities = _entities_of(mentions["concept_ids"].take(pa.array(rows)).to_pylist(), table)
    counts = {reason: count for reason, count in Counter(reasons.tolist()).items() if reason}
    counts |= {
        "mentions of concepts that the memory does not have": int((entities == NOT_LINKED).sum()),
        "mentions without concepts": int((entities == NIL).sum()),
    }
    labels = label_tokens(tokenized.tokens, spans)
    return MemoryCorpus(tokenized, labels, spans, entities, rows, documents, counts)


def _find_texts(mentions: pa.Table) -> tuple[NDArray[np.int64], list[str], list[str], NDArray[np.object_]]:
    """(rows, 3) text, start and end of each mention; the texts; their documents; and why a row is not used, empty if it is."""
    places = np.zeros((mentions.num_rows, 3), np.int64)
    reasons = np.full(mentions.num_rows, "", object)
    number_of: dict[tuple[str | None, str], int] = {}
    seen: set[tuple[int, int, int]] = set()
    columns = (mentions[name].to_pylist() for name in ("mention", "context", "start", "end", "document_id"))
    for row, (mention, context, start, end, document) in enumerate(zip(*columns, strict=True)):
        if context is None or start is None or end is None:
            reasons[row] = "without context, start and end"
        elif not 0 <= start < end <= len(context) or not _same(context[start:end], mention):
            reasons[row] = "not at its place in the context"
        else:
            text = number_of.setdefault((document, context), len(number_of))
            places[row] = text, start, end
            if (text, start, end) in seen:
                reasons[row] = "marked again"
            seen.add((text, start, end))
    documents = [document or str(number) for number, (document, _) in enumerate(number_of)]
    return places, [text for _, text in number_of], documents, reasons


def _same(text: str, mention: str) -> bool:
    return text == mention or text.translate(_WHITE_SPACE) == mention.translate(_WHITE_SPACE)


def _entities_of(concepts: list[list[str]], table: EntityTable) -> NDArray[np.int64]:
    """The row of the first concept of each mention that the table has; NIL without concepts, else NOT_LINKED."""
    different = sorted({concept for each in concepts for concept in each})
    row_of = dict(zip(different, table.rows_of(different).tolist(), strict=True))
    out = []
    for each in concepts:
        known = [row_of[concept] for concept in each if row_of[concept] >= 0]
        out.append(known[0] if known else NOT_LINKED if each else NIL)
    return np.array(out, np.int64)
