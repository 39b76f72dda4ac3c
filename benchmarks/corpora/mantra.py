"""Mantra GSC: mentions in drug labels (EMEA), Medline titles and patents in five languages, annotated with UMLS concepts.

Kors et al., JAMIA 2015 (A multilingual gold-standard corpus for biomedical concept recognition: the Mantra GSC);
https://github.com/mi-erasmusmc/Mantra-Gold-Standard-Corpus. This reads its brat form, Mantra-GSC-brat.zip, unopened: for each unit of text
`Mantra-GSC/<Language>/<Corpus>_ec22-cui-best_man/<unit>.txt` an `.ann` file with lines `T1<tab>CUI start end[;start end…]<tab>text`, the
CUI in the place of brat's type, and notes `#1<tab>AnnotatorNotes T1<tab>"CUI", "name", "semantic type" ,"GROUP"`, which add nothing
and are passed over. Offsets count characters. A span that has two concepts is annotated twice, and is two mentions here.
"""

import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from benchmarks.corpora.corpus import collapse
from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.terms.mentions import build_mentions

_LAYOUT = "Mantra-GSC/<Language>/<Corpus>/<unit>.ann with a .txt beside each"
_ANNOTATION = re.compile(r"T\d+\t(?P<cui>C\d{7}) (?P<spans>\d+ \d+(?:;\d+ \d+)*)\t(?P<text>.+)")
_EDITION = "_ec22-cui-best_man"  # every corpus folder ends in it
_JUNK = "__MACOSX"


class _Row(NamedTuple):
    mention: str
    language: str
    concept_ids: list[str]
    context: str
    start: int
    end: int
    document_id: str


def read_mantra(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) by language, corpus and unit, in the order of annotation, nothing dropped.

    A span in pieces has its pieces' text as mention, and as offsets the beginning of the first and the end of the last. document_id:
    `Medline_EN_DE/0292_d3878997.u1`. Raises DataError with file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected Mantra-GSC-brat.zip, found nothing there. Is the path right?")
    try:
        with zipfile.ZipFile(path) as archive:
            rows = _rows(archive, path)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: expected a zip file of {_LAYOUT}; found: {error}") from None
    if not rows:
        raise DataError(f"{path}: expected annotations in {_LAYOUT}, found none")
    columns = dict(zip(_Row._fields, (list(column) for column in zip(*rows, strict=True)), strict=True))
    return build_mentions(columns.pop("mention"), columns.pop("language"), columns.pop("concept_ids"), **columns)


def _rows(archive: zipfile.ZipFile, path: Path) -> list[_Row]:
    names = sorted(name for name in archive.namelist() if name.endswith(".ann") and not name.startswith(_JUNK))
    rows: list[_Row] = []
    for name in names:
        member = PurePosixPath(name)
        if len(member.parts) != 4:
            raise DataError(f"{path}/{name}: expected {_LAYOUT}")
        try:
            language = to_iso(member.parts[1])
        except DataError as error:
            raise DataError(f"{path}/{name}: {error}") from None
        document = f"{member.parts[2].removesuffix(_EDITION)}/{member.stem}"
        text = _read(archive, str(member.with_suffix(".txt")), path)
        for number, line in enumerate(_read(archive, name, path).split("\n"), start=1):
            line = line.removesuffix("\r")
            if line and not line.startswith("#"):
                rows.append(_parse(line, text, language, document, f"{path}/{name}:{number}"))
    return rows


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    try:
        return archive.read(name).decode("utf-8-sig")
    except KeyError:
        raise DataError(f"{path}/{name}: expected {_LAYOUT}, found no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}/{name}: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
        ) from None


def _parse(line: str, text: str, language: str, document: str, where: str) -> _Row:
    found = _ANNOTATION.fullmatch(line)
    if not found:
        raise DataError(
            f"{where}: expected T1<tab>CUI start end[;start end…]<tab>text, or a note that begins with #; found '{line[:60]}'"
        )
    spans = [tuple(map(int, span.split())) for span in found["spans"].split(";")]
    marked = " ".join(text[start:end] for start, end in spans)
    if marked != found["text"] or spans[-1][1] > len(text):
        raise DataError(
            f"{where}: expected the text at {found['spans']}, '{marked[:60]}'; found '{found['text'][:60]}'"
        )
    context, start, end = collapse(text, spans[0][0], spans[-1][1])
    return _Row(marked, language, [found["cui"]], context, start, end, document)
