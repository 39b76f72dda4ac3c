"""PubTator files, the format of MedMentions, BC5CDR, the NCBI disease corpus and BioRED.

Described at https://github.com/chanzuckerberg/MedMentions#the-pubtator-format. A document is `id|t|title`,
`id|a|abstract`, and lines `id<tab>start<tab>end<tab>mention<tab>class[,class…]<tab>identifier`; a blank line ends it.
Offsets count characters in the title, a space and the abstract. Variants that are read: a 7th column with the parts of
a composite mention (BC5CDR's `a|b`; they become the mention where they are as many as the identifiers, as BioSyn's
preprocess/bc5cdr_preprocess.py does), annotations without an identifier, relations (`id<tab>CID<tab>D1<tab>D2`,
BioRED's with a 5th column), which are skipped, the same document twice (NCBI), and the same annotation twice
(MedMentions, its issue 13).

MedMentions (Mohan and Li, AKBC 2019; https://github.com/chanzuckerberg/MedMentions): PubMed abstracts annotated with
UMLS 2017AA concepts, in full and as ST21pv, in `full/data/corpus_pubtator.txt.gz` and
`st21pv/data/corpus_pubtator.txt.gz`; the test split is 879 of 4,392 documents. The split of both is only in full/data,
one id per line. Full gives a concept's semantic types (TUIs, or UnknownType) and bare CUIs; ST21pv writes `UMLS:` before
them and gives one of 21 types above the concept's own, so the groups of some of its mentions are unknown. Some spans
have two concepts, one per line: all are read. Tested on hand-written fragments in the published formats, not on the real
files.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import numbered_lines
from xsap.languages import ENGLISH
from xsap.terms.corpus import Document, Row, groups_of, is_st21pv, parse_ids, to_table

_ANNOTATION = "id<tab>start<tab>end<tab>mention<tab>class<tab>identifier"
_FORMAT = f"PubTator (id|t|title, id|a|abstract, and {_ANNOTATION})"
_PASSAGE = re.compile(r"(?P<id>[^|\t]+)\|(?P<part>[ta])\|(?P<text>.*)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_RELATION = re.compile(r"[A-Za-z][A-Za-z_-]*")
_MEDMENTIONS = ("corpus_pubtator.txt", "corpus_pubtator.txt.gz")
_MEDMENTIONS_TEST = "corpus_pubtator_pmids_test.txt"


class _Entry(NamedTuple):
    document_id: str
    passages: list[str]
    annotations: list[tuple[str, list[str]]]  # file:line, and the fields after the id


def read_pubtator(path: Path, documents: Collection[str] | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) in the file's order, none dropped.

    Args:
        path: The file, or a gzip of it that ends in `.gz`.
        documents: The ids of the documents whose mentions are wanted; all by default.

    Returns:
        A table whose `start` and `end` are null where the text differs from the mention at its offsets.

    Raises:
        DataError: With file and line; also for an id that no document has.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for entry in _entries(path):
        seen.add(entry.document_id)
        if documents is None or entry.document_id in documents:
            document = Document.from_text(" ".join(entry.passages))
            rows += [_row(fields, entry.document_id, document, where) for where, fields in entry.annotations]
    missing = sorted(set(documents or ()) - seen)
    if missing:
        found = f"{len(missing):,} are missing, the first of them {missing[0]}"
        raise DataError(f"{path}: expected all documents of the test split; {found}")
    if not rows:
        raise DataError(f"{path}: expected {_FORMAT}; found {len(seen):,} documents and no annotation")
    return to_table(rows, with_groups=True)


def _entries(path: Path) -> Iterator[_Entry]:
    entry: _Entry | None = None
    for number, line in numbered_lines(path):
        passage = _PASSAGE.fullmatch(line)
        expects_abstract = entry and len(entry.passages) == 1 and not entry.annotations
        if passage and passage["part"] == "t":
            if entry:
                yield entry
            entry = _Entry(passage["id"], [passage["text"]], [])
        elif passage and entry and passage["id"] == entry.document_id and expects_abstract:
            entry.passages.append(passage["text"])
        elif line.strip():
            fields = line.split("\t")
            if not entry or fields[0] != entry.document_id:
                expected = f"expected {_FORMAT}, every line with its document's id"
                raise DataError(f"{path}:{number}: {expected}; found '{line[:60]}'")
            if not (len(fields) in (4, 5) and _RELATION.fullmatch(fields[1])):
                entry.annotations.append((f"{path}:{number}", fields[1:]))
    if entry:
        yield entry


def _row(fields: list[str], document_id: str, document: Document, where: str) -> Row:
    """fields: those after the document's id."""
    offsets = fields[:2]
    if not 4 <= len(fields) <= 6 or not all(map(_NUMBER.fullmatch, offsets)) or not fields[2].strip():
        raise DataError(f"{where}: expected {_ANNOTATION}; found '{'<tab>'.join(fields)[:60]}'")
    start, end, surface, classes, ids, parts = fields + [""] * (6 - len(fields))
    mention = parts if 0 < ids.count("|") == parts.count("|") else surface
    groups = groups_of(classes.split(","), ancestors=is_st21pv(ids))
    location = document.locate([(int(start), int(end))], [surface])
    return Row(mention.strip(), ENGLISH, parse_ids(ids), document.context, *location, document_id, groups)


def read_medmentions(path: Path) -> pa.Table:
    """Mentions of MedMentions, as `read_pubtator` gives them.

    Args:
        path: The folder `full` or `st21pv`, or the `data` in it, for the test split; or a file, for all of it.

    Raises:
        DataError: With file and line.
    """
    if path.is_file():
        return read_pubtator(path)
    corpus = _first_file(path / folder / name for folder in ("", "data") for name in _MEDMENTIONS)
    if corpus is None:
        expected = f"expected MedMentions' full or st21pv folder, with {_MEDMENTIONS[1]} in it or in its data"
        raise DataError(f"{path}: {expected}; found none")
    folders = (corpus.parent, corpus.parent.parent.parent / "full" / "data")
    test = _first_file(folder / _MEDMENTIONS_TEST for folder in folders)
    if test is None:
        expected = f"expected {_MEDMENTIONS_TEST} there or in ../../full/data"
        raise DataError(f"{corpus.parent}: {expected}, found none; give the corpus file to read all of it")
    return read_pubtator(corpus, _read_pmids(test))


def _first_file(files: Iterable[Path]) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _read_pmids(file: Path) -> set[str]:
    pmids = set()
    for number, line in numbered_lines(file):
        if line.strip() and not re.fullmatch("[0-9]+", line.strip()):
            raise DataError(f"{file}:{number}: expected one PMID per line; found '{line[:60]}'")
        pmids.add(line.strip())
    pmids.discard("")
    if not pmids:
        raise DataError(f"{file}: expected one PMID per line, found none")
    return pmids
