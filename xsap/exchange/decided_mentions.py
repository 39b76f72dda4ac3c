"""Mentions with known concepts from any file that has them: a table of mentions, an annotated corpus, or mappings that people decided."""

import logging
from collections import Counter
from collections.abc import Mapping as ReadOnlyDict
from pathlib import Path

import pyarrow as pa

from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.evaluation.protocols import read_queries
from xsap.exchange.mapping import Mapping, Status
from xsap.exchange.mapping_files import LINKED, read_mappings, recognize_mapping_file
from xsap.exchange.usagi import ADD_INFO
from xsap.languages import UNKNOWN, to_iso
from xsap.terms.annotated_corpora import CorpusFormat, read_corpus, recognize_corpus
from xsap.terms.mentions import build_mentions

_SOURCE_NAME = "sourceName"

logger = logging.getLogger(__name__)


def read_gold(
    path: Path | str,
    *,
    columns: ReadOnlyDict[str, str] | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int = 1,
) -> pa.Table:
    """Mentions with known concepts: of a file of mentions, of an annotated corpus, or what people decided in a file of mappings.

    An approved mapping is a mention of which any target is right; one for which there is no concept is a mention without concepts (NIL). All
    others are undecided, and no part of it. A term that several rows have counts once. A corpus gives each mention with its document and a
    window of the text around it; see `terms.annotated_corpora`.

    Args:
        path: The file; or the folder of a corpus, or a zip of it.
        columns: Field → column, as `read_mentions` has it; of mappings `mention` and `language`. ADD_INFO:x and x are the same column.
        sheet: See `open_table`.
        encoding: See `open_table`.
        header_row: See `open_table`.

    Raises:
        DataError: It can't be read, nothing in it is decided, or there is no such column.
        ConfigError: Columns are given that a file of mappings does not have.
    """
    named = dict(columns or {})
    if (corpus_format := recognize_corpus(Path(path))) is not None:
        return _read_corpus(Path(path), corpus_format, named)
    kind = recognize_mapping_file(path, encoding=encoding) if header_row == 1 and sheet is None else None
    if kind in (None, LINKED):
        return read_queries(path, columns=named, sheet=sheet, encoding=encoding, header_row=header_row)
    found = read_mappings(path, encoding=encoding)
    rows, dropped = _decided(found.mappings, named, Path(path))
    if not rows:
        statuses = Counter(str(mapping.status) for mapping in found.mappings)
        raise DataError(
            f"{path}: expected mappings that people approved, found none among {len(found.mappings):,} "
            f"({', '.join(f'{status}: {n:,}' for status, n in statuses.most_common())})"
        )
    counts = [f"{reason}: {n:,}" for reason, n in dropped.items()]
    logger.info("%s: %s", path, "; ".join([f"{kind}, {len(rows):,} decided terms", *counts, *found.remarks]))
    mentions, languages, concept_ids = (list(column) for column in zip(*rows, strict=True))
    return build_mentions(mentions, languages, [list(ids) for ids in concept_ids])


def _read_corpus(path: Path, corpus_format: CorpusFormat, columns: dict[str, str]) -> pa.Table:
    if columns:
        raise ConfigError(f"{path}: a corpus has no columns, found --column {min(columns)}=…; remove it")
    found = read_corpus(path, corpus_format)
    dropped = [f"{reason}: {n:,}" for reason, n in found.counts.dropped.items()]
    summary = f"corpus in {corpus_format}'s format, {found.counts.kept:,} of {found.counts.rows_in:,} annotations"
    logger.info("%s: %s", path, "; ".join([summary, *dropped, *found.remarks]))
    return found.mentions


def _decided(
    mappings: list[Mapping], columns: dict[str, str], path: Path
) -> tuple[list[tuple[str, str, tuple[str, ...]]], Counter[str]]:
    """(mention, language, concepts) of each decided mapping, once each; and how many others there are, by reason."""
    if unknown := sorted(set(columns) - {"mention", "language"}):
        raise ConfigError(
            f"{path}: in a file of mappings only mention and language can be named by --column, found --column {unknown[0]}=…; remove it"
        )
    chosen = {name: given.removeprefix(ADD_INFO) for name, given in columns.items() if given != _SOURCE_NAME}
    known = sorted({name for mapping in mappings for name in mapping.columns})
    for each in chosen.values():
        if each not in known:
            hint = did_you_mean(each, known, otherwise=f"it has {', '.join([_SOURCE_NAME, *known[:20]])}")
            raise DataError(f"{path}: expected a column '{each}'{hint}")
    column, language_column = chosen.get("mention"), chosen.get("language")
    dropped, rows = Counter[str](), dict[tuple[str, str, tuple[str, ...]], None]()
    for mapping in mappings:
        gold = mapping.gold
        text = mapping.source_name if column is None else mapping.columns.get(column, "")
        if gold is None:
            dropped["unreviewed" if mapping.status is Status.UNREVIEWED else f"{mapping.status}, so undecided"] += 1
        elif not text.strip():
            dropped[f"without text in '{column or _SOURCE_NAME}'"] += 1
        else:
            language = (
                mapping.language
                if language_column is None
                else _iso_or_unknown(mapping.columns.get(language_column, ""))
            )
            row = (text, language, gold)
            dropped["same term again"] += row in rows
            rows[row] = None
    return list(rows), +dropped


def _iso_or_unknown(text: str) -> str:
    try:
        return to_iso(text) if text.strip() else UNKNOWN
    except DataError:
        return UNKNOWN
