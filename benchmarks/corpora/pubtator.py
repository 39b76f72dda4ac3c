"""PubTator files: title, abstract, and a line for each annotation; the format of MedMentions, BC5CDR, the NCBI disease corpus and BioRED.

Described at https://github.com/chanzuckerberg/MedMentions#the-pubtator-format. A document is `id|t|title`, `id|a|abstract`, and lines
`id<tab>start<tab>end<tab>mention<tab>class[,class…]<tab>identifier`; a blank line ends it. Offsets count characters in the title, a space
and the abstract. What else occurs: a 7th column with the parts of a composite mention (BC5CDR's `a|b`; they become the mention where they
are as many as the identifiers, as BioSyn's preprocess/bc5cdr_preprocess.py does), annotations without an identifier, relations
(`id<tab>CID<tab>D1<tab>D2`, BioRED's with a 5th column), which say nothing of mentions and are passed over, the same document twice (NCBI),
and the same annotation twice (MedMentions, its issue 13). Tested on a hand-written fragment in the published format, not on the real files.

MedMentions: PubMed abstracts annotated with UMLS 2017AA concepts, in full and as ST21pv; the test split is 879 of 4,392 documents.

Mohan and Li, AKBC 2019 (MedMentions: A Large Biomedical Corpus Annotated with UMLS Concepts); https://github.com/chanzuckerberg/MedMentions.
Both are PubTator files, `full/data/corpus_pubtator.txt.gz` and `st21pv/data/corpus_pubtator.txt.gz`. The split of both stands in full/data
only, an id a line. Full gives a concept's semantic types (TUIs, or UnknownType) and bare CUIs; ST21pv writes `UMLS:` before them and gives
one of 21 types above the concept's own, so the groups of a part of its mentions are unknown. 175 annotations of full stand there twice
(issue 13), and some spans have two concepts, a line each: all are read. Tested on a hand-written fragment in the published format, not on
the real files.
"""

import gzip
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from benchmarks.corpora.corpus import Document, Row, gives_ancestors, groups_of, ids_in, to_table
from xsap.artifacts import read_lines
from xsap.errors import DataError
from xsap.languages import ENGLISH

_FORMAT = "PubTator (id|t|title, id|a|abstract, and id<tab>start<tab>end<tab>mention<tab>class<tab>identifier)"
_PASSAGE = re.compile(r"(?P<id>[^|\t]+)\|(?P<part>[ta])\|(?P<text>.*)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_RELATION = re.compile(r"[A-Za-z][A-Za-z_-]*")
_GZIP = b"\x1f\x8b"


class _Entry(NamedTuple):
    document_id: str
    passages: list[str]
    annotations: list[tuple[str, list[str]]]  # file:line, and the fields after the id


def read_pubtator(path: Path, documents: Collection[str] | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) in the file's order, nothing dropped. path: plain or gzipped.

    documents: the ids whose mentions are wanted, all if None. A mention whose text is not what stands at its offsets has no start and end.
    Raises DataError with file and line, and for an id that no document has.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for entry in _entries(_lines(path), path):
        seen.add(entry.document_id)
        if documents is None or entry.document_id in documents:
            document = Document.of(" ".join(entry.passages))
            rows += [_row(fields, entry.document_id, document, where) for where, fields in entry.annotations]
    missing = sorted(set(documents or ()) - seen)
    if missing:
        raise DataError(
            f"{path}: expected every document that was asked for; {len(missing):,} are not there, the first of them {missing[0]}"
        )
    if not rows:
        raise DataError(f"{path}: expected {_FORMAT}; found {len(seen):,} documents and no annotation")
    return to_table(rows, with_groups=True)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return read_lines(path)
    with path.open("rb") as stream:
        if stream.read(len(_GZIP)) != _GZIP:
            return read_lines(path)
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file; found: {error}") from None
    return text.replace("\r\n", "\n").split("\n")


def _entries(lines: list[str], path: Path) -> Iterator[_Entry]:
    entry: _Entry | None = None
    for number, line in enumerate(lines, start=1):
        passage = _PASSAGE.fullmatch(line)
        if passage and passage["part"] == "t":
            if entry:
                yield entry
            entry = _Entry(passage["id"], [passage["text"]], [])
        elif (
            passage
            and entry
            and passage["id"] == entry.document_id
            and len(entry.passages) == 1
            and not entry.annotations
        ):
            entry.passages.append(passage["text"])
        elif line.strip():
            fields = line.split("\t")
            if not entry or fields[0] != entry.document_id:
                raise DataError(
                    f"{path}:{number}: expected {_FORMAT}, every line with its document's id; found '{line[:60]}'"
                )
            if not (len(fields) in (4, 5) and _RELATION.fullmatch(fields[1])):
                entry.annotations.append((f"{path}:{number}", fields[1:]))
    if entry:
        yield entry


def _row(fields: list[str], document_id: str, document: Document, where: str) -> Row:
    """fields: those after the document's id."""
    if (
        not 4 <= len(fields) <= 6
        or not (_NUMBER.fullmatch(fields[0]) and _NUMBER.fullmatch(fields[1]))
        or not fields[2].strip()
    ):
        raise DataError(
            f"{where}: expected id<tab>start<tab>end<tab>mention<tab>class<tab>identifier; found '{'<tab>'.join(fields)[:60]}'"
        )
    start, end, mention, classes, ids, parts = fields + [""] * (6 - len(fields))
    if 0 < ids.count("|") == parts.count("|"):
        mention, surface = parts, mention
    else:
        surface = mention
    groups = groups_of(classes.split(","), ancestors=gives_ancestors(ids))
    place = document.place([(int(start), int(end))], [surface])
    return Row(mention.strip(), ENGLISH, ids_in(ids), document.context, *place, document_id, groups)


_CORPUS = ("corpus_pubtator.txt", "corpus_pubtator.txt.gz")
_TEST = "corpus_pubtator_pmids_test.txt"


def read_medmentions(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) in the file's order, nothing dropped.

    path: `full`, `st21pv` or the `data` in it, for the test split; or a file, to read all of it. Raises DataError with file and line.
    """
    if path.is_file():
        return read_pubtator(path)
    corpus = _first(path / folder / name for folder in ("", "data") for name in _CORPUS)
    if corpus is None:
        raise DataError(
            f"{path}: expected MedMentions' full or st21pv folder, with {_CORPUS[1]} in it or in its data; found none"
        )
    test = _first([corpus.parent / _TEST, corpus.parent.parent.parent / "full" / "data" / _TEST])
    if test is None:
        raise DataError(
            f"{corpus.parent}: expected {_TEST} there or in ../../full/data, found none; give the corpus file to read all of it"
        )
    return read_pubtator(corpus, _documents(test))


def _first(files: Iterable[Path]) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _documents(file: Path) -> set[str]:
    wanted = set()
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip() and not re.fullmatch("[0-9]+", line.strip()):
            raise DataError(f"{file}:{number}: expected a PMID a line; found '{line[:60]}'")
        wanted.add(line.strip())
    wanted.discard("")
    if not wanted:
        raise DataError(f"{file}: expected a PMID a line, found none")
    return wanted
