"""Classifications of diagnoses as terminologies: ICD-10-CM as its tabular list, and every ICD-10 in ClaML.

Both formats leave codes to be derived from those that they list: by seventh characters in ICD-10-CM, by modifiers in ClaML. A concept is a code,
written as the classification writes it: S02.0XXA.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.claml import CLAML, read_claml
from data_prep.classification import MAX_DEPTH, WITHOUT_DTD, ClassificationNames
from data_prep.icd10cm import TABULAR, read_icd10cm
from data_prep.ontology_model import definitions_table, names_table, relations_table
from data_prep.unspecified import add_plain_terms
from data_prep.xml_events import MAX_TEXT_BYTES, local_name, xml_events
from data_prep.zip_files import InputFile, ZipMember, is_zip, zip_members
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.terms.terminology import Terminology

_KINDS = f"ICD-10-CM's tabular list ({TABULAR}) or {CLAML}"
_EXPECTED = f"{_KINDS}, as XML"
_MAX_PROLOG_BYTES = 1 << 20  # before the root element of a file in a zip
_SHOWN = 5  # files, in an error


def read_icd(file: Path, *, source: str | None = None, language: str | None = None) -> tuple[Terminology, RowCounts]:
    """Read a classification.

    Args:
        file: ICD-10-CM's tabular list or a ClaML file, as XML, optionally compressed; or a zip with exactly one in it.
        source: The source of the names; by default what the file says, or its name up to the first dot.
        language: The language of names for which a ClaML file states none.

    Returns:
        The terminology, and what happened to each name and note of the file.

    Raises:
        DataError: With the file, and the line or the code.
    """
    chosen = _file_to_read(file)
    found = _read(chosen, language)
    add_plain_terms(found)
    source = source or found.source or chosen.name.split(".")[0]
    dropped = Counter(record.rejection_reason for record in found.names if record.rejection_reason)
    kept = [record for record in found.names if not record.rejection_reason]
    counts = RowCounts(len(found.names), len(kept), {str(reason): n for reason, n in dropped.items()})
    remarks = [f"{n:,} {what}" for what, n in found.counts.items() if n]
    metadata: dict[str, Any] = {
        "reader": "icd",
        "source": source,
        "files": {file.name: sha256_of(file)},
        "remarks": remarks,
    }
    if isinstance(chosen, ZipMember):
        metadata["members"] = {file.name: chosen.member}
    names = names_table(kept, [source] * len(kept), codes=[record.concept_id for record in kept])
    terminology, duplicates = Terminology.build(names, metadata=metadata)
    counts = counts.then(terminology.names.num_rows, duplicates)
    unknown = Counter(str(record.rejection_reason) for record in found.definitions if record.rejection_reason)
    defined = [record for record in found.definitions if not record.rejection_reason]
    definitions = definitions_table(defined, [source] * len(defined))
    terminology, details = terminology.with_details(definitions, relations_table(found.parents))
    return replace(terminology, metadata=metadata | details.after(unknown).to_metadata()), counts


def _file_to_read(path: Path) -> InputFile:
    """The file itself, or the one classification in a zip; publishers put an index, drawings and licenses beside it."""
    if not is_zip(path):
        return path
    members, unreadable = zip_members(path, ".xml"), list[DataError]()
    fitting = members if len(members) == 1 else [one for one in members if _is_classification(one, unreadable)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(map(str, (fitting or members)[:_SHOWN])) + (", …" if len(fitting or members) > _SHOWN else "")
    if fitting:
        found = f"{len(fitting)}: {listed}. Unpack it, and give one of them"
    elif unreadable:
        found = f"none, and {len(unreadable)} that can't be read; the first is {unreadable[0]}"
    elif members:
        found = f"others: {listed}. Is it the right zip? If the file has another name than .xml, unpack it and give the file"
    else:
        found = "no .xml file. Is it in another zip in this one? Then unpack it, and give the file"
    raise DataError(f"{path}: expected one .xml file in the zip that is {_KINDS}, found {found}")


def _is_classification(file: InputFile, unreadable: list[DataError]) -> bool:
    """Whether the root element is that of a classification; an error of reading it is added to `unreadable`."""
    try:
        return _root(file, max_text_bytes=_MAX_PROLOG_BYTES) in (TABULAR, CLAML)
    except DataError as error:
        unreadable.append(error)
        return False


def _root(file: InputFile, *, max_text_bytes: int = MAX_TEXT_BYTES) -> str:
    events = xml_events(file, _EXPECTED, WITHOUT_DTD, max_depth=MAX_DEPTH, max_text_bytes=max_text_bytes)
    return local_name(next(events)[1])


def _read(file: InputFile, language: str | None) -> ClassificationNames:
    root = _root(file)
    if root == TABULAR:
        return read_icd10cm(file)
    if root == CLAML:
        return read_claml(file, language=language)
    raise DataError(f"{file}: expected {_EXPECTED}, found {root}")
