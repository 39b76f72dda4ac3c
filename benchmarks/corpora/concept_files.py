"""`.concept` files: NCBI disease, BC5CDR disease and BC5CDR chemical as BioSyn prepared them, and SapBERT after it.

Sung et al., ACL 2020 (BioSyn); https://github.com/dmis-lab/BioSyn, whose preprocess/*.py define the form. A folder holds `<pmid>.concept`, a line
a mention: `pmid||start|end||Class||mention||id`. Raw folders (`test`) hold `<pmid>.txt` beside it: title, two newlines, abstract, where the
offsets count one character between the two. `processed_test`, the one that is scored, has no texts, and its mentions are lower-cased, without
punctuation, their abbreviations written out, composite ones with `|` between their parts; a document that is left with no mention is an
empty line. An id is -1 or CUI-less where there is none, `D1|D2` or `D1+D2` where there are several; offsets are `-1|-1` or `0|0` where they
are unknown (TAC 2017, NLM-Chem). The original evaluation links the parts of a mention between `|` and `+` alone, takes any of its ids for
each, and wants every part right. Tested on a hand-written fragment in the published format, not on the real files.
"""

import re
from pathlib import Path

import pyarrow as pa

from benchmarks.corpora.corpus import Document, Row, groups_of, ids_in, to_table
from xsap.artifacts import read_lines
from xsap.errors import DataError
from xsap.languages import ENGLISH

_FORMAT = "pmid||start|end||Class||mention||id"
_SPAN = re.compile(r"(-?[0-9]{1,9})\|(-?[0-9]{1,9})")
_TEST = ("", "processed_test", "test")  # where a test split's files lie, the first that has some
COMPOSITE = "|"  # between the parts of a mention


def read_concept_files(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) by file name and line, nothing dropped.

    path: a folder of .concept files; the folder of a corpus, for its processed_test or test; or one file. A composite mention keeps the `|`
    between its parts, with the identifiers of all of them. Where a .txt lies beside, it is the context; start and end hold where the text
    there is the mention, or the mention is composite. Raises DataError with file and line.
    """
    rows = [row for file in _files(path) for row in _read(file)]
    if not rows:
        raise DataError(f"{path}: expected lines {_FORMAT}, found none")
    return to_table(rows, with_groups=True)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for folder in _TEST:
        if files := sorted((path / folder).glob("*.concept")):
            return files
    raise DataError(
        f"{path}: expected .concept files in it, or in {' or '.join(filter(None, _TEST))} below it; found none"
    )


def _read(file: Path) -> list[Row]:
    beside = file.with_suffix(".txt")
    text = "\n".join(read_lines(beside)) if beside != file and beside.is_file() else None
    document = None if text is None else Document.of(text.replace("\n\n", " ", 1))
    lines = enumerate(read_lines(file), start=1)
    return [_parse(line, file, document, f"{file}:{number}") for number, line in lines if line.strip()]


def _parse(line: str, file: Path, document: Document | None, where: str) -> Row:
    fields = [field.strip() for field in line.split("||")]
    span = _SPAN.fullmatch(fields[1]) if len(fields) == 5 else None
    if not span or not fields[3]:
        raise DataError(f"{where}: expected {_FORMAT}; found '{line[:60]}'")
    pmid, _, name, mention, ids = fields
    document_id = file.stem if pmid in ("", "-1") else pmid
    row = Row(mention, ENGLISH, ids_in(ids), document_id=document_id, groups=groups_of([name]))
    if document is None:
        return row
    start, end = int(span[1]), int(span[2])
    surface = document.text[max(start, 0) : max(end, 0)] if COMPOSITE in mention else mention
    first, last = document.place([(start, end)], [surface])
    return row._replace(context=document.context, start=first, end=last)
