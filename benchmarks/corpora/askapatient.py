"""AskAPatient: phrases from drug reviews, each with a SNOMED CT or AMT concept, in ten folds.

Limsopatham and Collier, ACL 2016 (Normalizing Medical Concepts in Social Media Texts by Learning Semantic
Representation); https://zenodo.org/record/55013, datasets.zip, where `datasets/AskAPatient/AskAPatient.fold-0.test.txt`
to fold-9 have lines `identifier<tab>label of the concept<tab>phrase`. SapBERT's copy has
`AskAPatient.fold-0.test.preprocessed_query.txt` instead, with lines `identifier||phrase`. The published files are not
UTF-8: every reader that we found decodes them as Latin-1 (BigBIO's ask_a_patient.py among them). Here a line that is
not UTF-8 is decoded as Windows-1252, which has Latin-1's letters and, instead of its control characters, the quotes and
dashes that reviews are full of. Tested on a hand-written fragment in the published format, not on the real files.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from xsap.errors import DataError
from xsap.languages import ENGLISH
from xsap.terms.corpus import CorpusFiles, Row, open_corpus, parse_ids, to_table

_NAME = re.compile(r"(?:.*/)?AskAPatient\.fold-(?P<fold>[0-9]+)\.test(?P<short>\.preprocessed_query)?\.txt")
_LAYOUT = "files AskAPatient.fold-0.test.txt, …"
_FORMAT = "identifier<tab>label<tab>phrase, or identifier||phrase"


def read_askapatient(path: Path, *, fold: int | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) by fold and line, none dropped. Published scores are means over folds.

    Args:
        path: datasets.zip; a folder with the files in it or below it; or one file. A fold in both formats is read in
            the one with labels.
        fold: Read this fold only.

    Returns:
        A table whose `document_id` is the fold, as `fold-0`.

    Raises:
        DataError: With file and line.
    """
    with open_corpus(path, _LAYOUT) as files:
        folds = _folds(files.names)
        chosen = sorted(folds) if fold is None else [number for number in folds if number == fold]
        if not chosen:
            wanted = "" if fold is None else f" with fold {fold}"
            found = ", ".join(map(str, sorted(folds))) or "none"
            raise DataError(f"{path}: expected {_LAYOUT}{wanted}; found folds: {found}")
        rows = [row for number in chosen for row in _read(files, folds[number], f"fold-{number}")]
    if not rows:
        raise DataError(f"{path}: expected lines {_FORMAT}, found none")
    return to_table(rows, with_groups=False)


def _folds(names: Sequence[str]) -> dict[int, str]:
    """fold → its file; other files, such as training files, are skipped."""
    matches = [(match, name) for name in names if (match := _NAME.fullmatch(name))]
    matches.sort(key=lambda pair: pair[0]["short"] is None)  # the format with labels last, so that it is kept
    return {int(match["fold"]): name for match, name in matches}


def _read(files: CorpusFiles, name: str, fold: str) -> list[Row]:
    content = files.bytes_of(name) or b""
    lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    decoded = [(number, _decode(line).strip()) for number, line in lines]
    return [_parse(line, fold, f"{files.path_of(name)}:{number}") for number, line in decoded if line]


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        # Windows-1252 leaves five bytes undefined: as in Latin-1, they become control characters
        return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in line)


def _parse(line: str, fold: str, where: str) -> Row:
    fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split("||"))]
    if len(fields) != (3 if "\t" in line else 2) or not all((fields[0], fields[-1])):
        raise DataError(f"{where}: expected {_FORMAT}; found '{line[:60]}'")
    return Row(fields[-1], ENGLISH, parse_ids(fields[0]), document_id=fold)
