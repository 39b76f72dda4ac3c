"""BRONCO150: mentions in German oncological discharge letters, with codes of ICD-10-GM, OPS and ATC (2017).

Kittner et al., JAMIA Open 2021; https://www2.informatik.hu-berlin.de/~leser/bronco, available under an agreement. Five
files of shuffled sentences, one per line, `textFiles/randomSentSet1.txt` to 5, with brat annotations in
`bratFiles/randomSentSet1.ann`; a mention's code is in a normalization, `N1<tab>… T1 ICD10GM:C22.0<tab>text`. bioCFiles
holds the same as BioC; the CoNLL files (conllIOBTags) have no codes.

The layout, and `RESOURCE:code` in brat's normalizations, are inferred from programs that read them: BigBIO's and xMEN's
loaders, and two for the brat form. They leave open how the resources are written (any name that begins with ICD, OPS or
ATC is accepted, with or without the year), and whether a mention can have several codes. BigBIO's loader corrects `,`
for `.` and a stray `+`; so does this one, but a comma before what begins another code separates the two. Tested on a
hand-written fragment in the format so inferred, not on the real files.
"""

import re
from pathlib import Path, PurePosixPath

import pyarrow as pa

from xsap.errors import DataError
from xsap.terms.brat import Annotation, parse_brat
from xsap.terms.corpus import Document, Row, check_rows, open_corpus, to_table

GERMAN = "de"
_LAYOUT = "bratFiles/randomSentSet<number>.ann, and the .txt of each beside it or in textFiles"
_REFERENCE = re.compile(r"(?P<resource>ICD|OPS|ATC)[^:]*:\s*(?P<codes>.*)")
_RESOURCES = {"ICD": "ICD10GM", "OPS": "OPS", "ATC": "ATC"}
_SEPARATOR = re.compile(
    r"\s*[,;]\s*(?=[A-Z]|[0-9]-[0-9])|\s+"
)  # codes begin with a letter, or, OPS, a digit and a hyphen
_GROUPS = {"DIAGNOSIS": "DISO", "TREATMENT": "PROC", "MEDICATION": "CHEM"}


def read_bronco(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of all five files (no split is published), none dropped.

    Args:
        path: The folder of bratFiles and textFiles, or a zip of it.

    Returns:
        A table whose `concept_ids` are such as `ICD10GM:C22.0`, `OPS:5-501.0` and `ATC:L01XE05`. The context is the
        sentence, and `document_id` names it: `randomSentSet1/17` is line 17. Context and offsets are null where the
        text differs from the mention at its offsets.

    Raises:
        DataError: With file and line.
    """
    rows: list[Row] = []
    with open_corpus(path, _LAYOUT) as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parent.name != "bratFiles":
                continue
            text = files.optional_text(str(member.with_suffix(".txt")))
            text = files.text(str(member.parent.parent / "textFiles" / f"{member.stem}.txt")) if text is None else text
            for found in parse_brat(files.text(name), files.path_of(name)):
                where = f"{files.path_of(name)}:{found.line}"
                ids = dict.fromkeys(one for reference in found.references for one in _parse_codes(reference, where))
                groups = [_GROUPS[found.type]] if found.type in _GROUPS else []
                rows.append(_in_sentence(found, text, member.stem)._replace(concept_ids=list(ids), groups=groups))
        check_rows(rows, files, "codes in normalizations of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)


def _in_sentence(found: Annotation, text: str, file: str) -> Row:
    """The mention with its sentence as context, line ends counted as one character or two."""
    first, last = min(start for start, _ in found.spans), max(end for _, end in found.spans)
    for variant in dict.fromkeys((text, text.replace("\r\n", "\n"))):
        begin = variant.rfind("\n", 0, first) + 1
        end = variant.find("\n", last)
        sentence = Document.from_text(variant[begin : end if end >= 0 else len(variant)])
        spans = [(left - begin, right - begin) for left, right in found.spans]
        start, stop = sentence.locate(spans, found.pieces)
        if start is not None:
            line = variant.count("\n", 0, begin) + 1
            return Row(found.mention, GERMAN, [], sentence.context, start, stop, f"{file}/{line}")
    return Row(found.mention, GERMAN, [], document_id=file)


def _parse_codes(reference: str, where: str) -> list[str]:
    match = _REFERENCE.fullmatch(reference)
    if not match:
        expected = "expected normalizations such as ICD10GM:C22.0, OPS:5-501.0 or ATC:L01XE05"
        raise DataError(f"{where}: {expected}; found '{reference[:60]}'")
    codes = [code.replace(",", ".").replace("+", "") for code in _SEPARATOR.split(match["codes"].strip())]
    return [f"{_RESOURCES[match['resource']]}:{code}" for code in codes if any(letter.isdigit() for letter in code)]
