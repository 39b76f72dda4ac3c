"""`.concept` files: NCBI disease, BC5CDR disease and BC5CDR chemical as BioSyn prepared them, and SapBERT after it.

Sung et al., ACL 2020 (BioSyn); https://github.com/dmis-lab/BioSyn, whose preprocess/*.py define the format. A folder
holds `<pmid>.concept`, one mention per line: `pmid||start|end||Class||mention||id`. Raw folders (`test`) have
`<pmid>.txt` beside it: title, two newlines, abstract; the offsets count one character between the two.
`processed_test`, the one that is scored, has no texts, and its mentions are lower-cased, without punctuation, their
abbreviations expanded, composite ones with `|` between their parts; a document without mentions is an empty line. An id
is -1 or CUI-less where there is none, `D1|D2` or `D1+D2` where there are several; offsets are `-1|-1` or `0|0` where
they are unknown (TAC 2017, NLM-Chem). The original evaluation links the parts of a mention between `|` and `+`
separately, accepts any of its ids for each, and requires every part to be right. Tested on a hand-written fragment in
the published format, not on the real files.
"""

import re
from pathlib import Path

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import numbered_lines, read_lines
from xsap.languages import ENGLISH
from xsap.terms.corpus import Document, Row, groups_of, parse_ids, to_table

_FORMAT = "pmid||start|end||Class||mention||id"
_SPAN = re.compile(r"(-?[0-9]{1,9})\|(-?[0-9]{1,9})")
_TEST_FOLDERS = ("", "processed_test", "test")  # of a test split: the first that has .concept files
COMPOSITE = "|"  # between the parts of a mention


def read_concept_files(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) by file name and line, none dropped.

    Args:
        path: A folder of .concept files; the folder of a corpus, for its processed_test or test; or one file.

    Returns:
        A table in which a composite mention keeps the `|` between its parts, with the identifiers of all of them. A
        .txt beside a file is the context; `start` and `end` are given where its text there is the mention, or the
        mention is composite.

    Raises:
        DataError: With file and line.
    """
    rows = [row for file in _files(path) for row in _read(file)]
    if not rows:
        raise DataError(f"{path}: expected lines {_FORMAT}, found none")
    return to_table(rows, with_groups=True)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for folder in _TEST_FOLDERS:
        if files := sorted((path / folder).glob("*.concept")):
            return files
    below = " or ".join(filter(None, _TEST_FOLDERS))
    raise DataError(f"{path}: expected .concept files in it, or in {below} below it; found none")


def _read(file: Path) -> list[Row]:
    text_file = file.with_suffix(".txt")
    text = "\n".join(read_lines(text_file)) if text_file != file and text_file.is_file() else None
    document = None if text is None else Document.from_text(text.replace("\n\n", " ", 1))
    return [_parse(line, file, document, f"{file}:{number}") for number, line in numbered_lines(file) if line.strip()]


def _parse(line: str, file: Path, document: Document | None, where: str) -> Row:
    fields = [field.strip() for field in line.split("||")]
    span = _SPAN.fullmatch(fields[1]) if len(fields) == 5 else None
    if not span or not fields[3]:
        raise DataError(f"{where}: expected {_FORMAT}; found '{line[:60]}'")
    pmid, _, name, mention, ids = fields
    document_id = file.stem if pmid in ("", "-1") else pmid
    row = Row(mention, ENGLISH, parse_ids(ids), document_id=document_id, groups=groups_of([name]))
    if document is None:
        return row
    start, end = int(span[1]), int(span[2])
    surface = document.text[max(start, 0) : max(end, 0)] if COMPOSITE in mention else mention
    first, last = document.locate([(start, end)], [surface])
    return row._replace(context=document.context, start=first, end=last)
