"""BRONCO150: diagnoses, treatments and medications in German oncological discharge letters, with codes of ICD-10-GM, OPS and ATC (2017).

Kittner et al., JAMIA Open 2021; https://www2.informatik.hu-berlin.de/~leser/bronco, given out under an agreement. Five files of shuffled
sentences, one a line, `textFiles/randomSentSet1.txt` to 5, with brat annotations in `bratFiles/randomSentSet1.ann`; a mention's code is in a
normalization, `N1<tab>… T1 ICD10GM:C22.0<tab>text`. The same stands as BioC in bioCFiles; the CoNLL files (conllIOBTags) have no codes.

The layout, and `RESOURCE:code` in brat's normalizations, are told from programs that read them: BigBIO's and xMEN's loaders, and two of the brat
form. What they leave open: how the resources are written (any spelling that begins with ICD, OPS or ATC is taken, with or without the year);
whether a mention can have several codes. BigBIO's loader repairs `,` for `.` and a stray `+`; so does this one, but a comma before what begins
another code parts the two. Tested on a hand-written fragment in the format so inferred, not on the real files.
"""

import re
from pathlib import Path, PurePosixPath

import pyarrow as pa

from benchmarks.corpora.brat import Annotation, parse_brat
from benchmarks.corpora.corpus import Document, Row, check_rows, open_corpus, to_table
from xsap.errors import DataError

GERMAN = "de"
_REFERENCE = re.compile(r"(?P<resource>ICD|OPS|ATC)[^:]*:\s*(?P<codes>.*)")
_RESOURCES = {"ICD": "ICD10GM", "OPS": "OPS", "ATC": "ATC"}
_BETWEEN = re.compile(
    r"\s*[,;]\s*(?=[A-Z]|[0-9]-[0-9])|\s+"
)  # ICD and ATC begin with a letter, OPS with a digit and a hyphen
_GROUPS = {"DIAGNOSIS": "DISO", "TREATMENT": "PROC", "MEDICATION": "CHEM"}


def read_bronco(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of all five files, for no split is published, in the order of annotation, nothing dropped.

    path: the folder of bratFiles and textFiles, or a zip of it. concept_ids: `ICD10GM:C22.0`, `OPS:5-501.0`, `ATC:L01XE05`. The context is the
    sentence, and document_id tells it: `randomSentSet1/17` is line 17. A mention whose text is not what stands at its offsets has neither
    context nor place. Raises DataError with file and line.
    """
    rows: list[Row] = []
    with open_corpus(
        path, "bratFiles/randomSentSet<number>.ann, and the .txt of each beside it or in textFiles"
    ) as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parent.name != "bratFiles":
                continue
            text = files.text_if_there(str(member.with_suffix(".txt")))
            text = files.text(str(member.parent.parent / "textFiles" / f"{member.stem}.txt")) if text is None else text
            for found in parse_brat(files.text(name), files.where(name)):
                ids = list(
                    dict.fromkeys(
                        one
                        for reference in found.references
                        for one in _ids(reference, f"{files.where(name)}:{found.line}")
                    )
                )
                groups = [_GROUPS[found.type]] if found.type in _GROUPS else []
                rows.append(_in_its_sentence(found, text, member.stem)._replace(concept_ids=ids, groups=groups))
        check_rows(rows, files, "codes in normalizations of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)


def _in_its_sentence(found: Annotation, text: str, file: str) -> Row:
    first, last = min(start for start, _ in found.spans), max(end for _, end in found.spans)
    for one in dict.fromkeys((text, text.replace("\r\n", "\n"))):
        begin = one.rfind("\n", 0, first) + 1
        end = one.find("\n", last)
        sentence = Document.of(one[begin : end if end >= 0 else len(one)])
        start, stop = sentence.place([(left - begin, right - begin) for left, right in found.spans], found.pieces)
        if start is not None:
            line = one.count("\n", 0, begin) + 1
            return Row(found.mention, GERMAN, [], sentence.context, start, stop, f"{file}/{line}")
    return Row(found.mention, GERMAN, [], document_id=file)


def _ids(reference: str, where: str) -> list[str]:
    match = _REFERENCE.fullmatch(reference)
    if not match:
        raise DataError(
            f"{where}: expected normalizations such as ICD10GM:C22.0, OPS:5-501.0 or ATC:L01XE05; found '{reference[:60]}'"
        )
    codes = [code.replace(",", ".").replace("+", "") for code in _BETWEEN.split(match["codes"].strip())]
    return [f"{_RESOURCES[match['resource']]}:{code}" for code in codes if any(letter.isdigit() for letter in code)]
