"""What an entity memory learns from: texts with marked mentions, as windows of tokens with labels, spans and entities.

The input is the one form of mentions that all of xsap reads (`xsap.terms.mentions`): a row is a mention with its text (`context`), where it is
in it (`start`, `end`) and its concepts. Rows with the same text and document are one text. Every row is used or counted as dropped. What is not
marked is no mention, so the tokens of a mention that is dropped, being in several pieces or in two windows, have no label instead of a wrong one.
"""

import hashlib
import logging
import re
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
from xsap.text import EXACT_MATCH, normalize
from xsap.text_in.memory import NIL
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import (
    NO_LABEL,
    OUTSIDE,
    TokenizedTexts,
    TokenSpans,
    find_token_spans,
    label_tokens,
    tokenize_texts,
    tokens_of_places,
)

NOT_LINKED = -2  # in place of an entity: of a mention of which the memory has no concept, or several
_WHITE_SPACE = str.maketrans("\t\r\n", "   ")  # tables of mentions have spaces in place of these
_WORD = re.compile(r"\w+")
IN_PIECES, NOT_THERE = "in several pieces", "not at its place in the context"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryCorpus:
    """Texts in n windows, with m spans.

    Attributes:
        texts: The windows.
        labels: (T,) label of each token; NO_LABEL where a mention is that was dropped.
        spans: The spans, sorted by window.
        entities: (m,) row of each span's entity in the table; NIL for a mention without concepts; NOT_LINKED if the table has none of
            its concepts, or several.
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
    known = _entities_of(mentions["concept_ids"].take(pa.array(rows)).to_pylist(), table)
    entities = np.array([each[0] if len(each) == 1 else NOT_LINKED for each in known], np.int64)
    counts = {reason: count for reason, count in Counter(reasons.tolist()).items() if reason}
    counts |= {
        "mentions of concepts that the memory does not have": sum(not each for each in known),
        "mentions of several concepts": sum(len(each) > 1 for each in known),
        "mentions without concepts": int((entities == NIL).sum()),
    }
    labels = label_tokens(tokenized.tokens, spans)
    unknown = np.concatenate([places[lost], _places_of_pieces(mentions, places, reasons)])
    labels[tokens_of_places(tokenized, unknown) & (labels == OUTSIDE)] = NO_LABEL
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
            continue
        is_whole = 0 <= start < end <= len(context) and _same(context[start:end], mention)
        if not is_whole and not (0 <= start < end <= len(context) and _has_words(context[start:end], mention)):
            reasons[row] = NOT_THERE
            continue
        place = number_of.setdefault((document, context), len(number_of)), start, end
        places[row] = place
        reasons[row] = IN_PIECES if not is_whole else "marked again" if place in seen else ""
        if is_whole:
            seen.add(place)
    documents = [document or str(number) for number, (document, _) in enumerate(number_of)]
    return places, [text for _, text in number_of], documents, reasons


def _same(text: str, mention: str) -> bool:
    return text == mention or text.translate(_WHITE_SPACE) == mention.translate(_WHITE_SPACE)


def _words(text: str) -> set[str]:
    return {normalize(word, EXACT_MATCH) for word in _WORD.findall(text)}


def _has_words(text: str, mention: str) -> bool:
    """Whether a text has all words of a mention, which has some."""
    own = _words(mention)
    return bool(own) and own <= _words(text)


def _places_of_pieces(mentions: pa.Table, places: NDArray[np.int64], reasons: NDArray[np.object_]) -> NDArray[np.int64]:
    """(k, 3) text, start and end of the words between the first and the last piece of a mention that are its own."""
    rows = np.flatnonzero(reasons == IN_PIECES)
    columns = (mentions[name].take(pa.array(rows)).to_pylist() for name in ("mention", "context"))
    found = []
    for (text, start, end), mention, context in zip(places[rows].tolist(), *columns, strict=True):
        own = _words(mention)
        words = (word for word in _WORD.finditer(context[start:end]) if normalize(word[0], EXACT_MATCH) in own)
        found += [(text, start + word.start(), start + word.end()) for word in words]
    return np.array(found, np.int64).reshape(-1, 3)


def _entities_of(concepts: list[list[str]], table: EntityTable) -> list[list[int]]:
    """The rows of the concepts of each mention that the table has; NIL alone without concepts."""
    different = sorted({concept for each in concepts for concept in each})
    row_of = dict(zip(different, table.rows_of(different).tolist(), strict=True))
    return [sorted({row_of[concept] for concept in each} - {-1}) if each else [NIL] for each in concepts]
