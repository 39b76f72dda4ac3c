"""MedMentions: PubMed abstracts annotated with UMLS 2017AA concepts, in full and as ST21pv; the test split is 879 of 4,392 documents.

Mohan and Li, AKBC 2019 (MedMentions: A Large Biomedical Corpus Annotated with UMLS Concepts); https://github.com/chanzuckerberg/MedMentions.
Both are PubTator files, `full/data/corpus_pubtator.txt.gz` and `st21pv/data/corpus_pubtator.txt.gz`. The split of both stands in full/data
only, an id a line. Full gives a concept's semantic types (TUIs, or UnknownType) and bare CUIs; ST21pv writes `UMLS:` before them and gives
one of 21 types above the concept's own, so the groups of a part of its mentions are unknown. 175 annotations of full stand there twice
(issue 13), and some spans have two concepts, a line each: all are read. Tested on a hand-written fragment in the published format, not on
the real files.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from benchmarks.pubtator import read_pubtator
from xsap.artifacts import read_lines
from xsap.errors import DataError

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
        raise DataError(f"{path}: expected MedMentions' full or st21pv folder, with {_CORPUS[1]} in it or in its data; found none")
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
