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
from data_prep.xml_events import local_name, xml_events
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, open_bytes
from xsap.terms.terminology import Terminology

_ZIP = b"PK\x03\x04"


def read_icd(file: Path, *, source: str | None = None, language: str | None = None) -> tuple[Terminology, RowCounts]:
    """Read a classification.

    Args:
        file: ICD-10-CM's tabular list or a ClaML file, as XML, optionally compressed.
        source: The source of the names; by default what the file says, or its name up to the first dot.
        language: The language of names for which a ClaML file states none.

    Returns:
        The terminology, and what happened to each name and note of the file.

    Raises:
        DataError: With the file, and the line or the code.
    """
    found = _read(file, language)
    source = source or found.source or file.name.split(".")[0]
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
    names = names_table(kept, [source] * len(kept), codes=[record.concept_id for record in kept])
    terminology, duplicates = Terminology.build(names, metadata=metadata)
    counts = counts.then(terminology.names.num_rows, duplicates)
    unknown = Counter(str(record.rejection_reason) for record in found.definitions if record.rejection_reason)
    defined = [record for record in found.definitions if not record.rejection_reason]
    definitions = definitions_table(defined, [source] * len(defined))
    terminology, details = terminology.with_details(definitions, relations_table(found.parents))
    return replace(terminology, metadata=metadata | details.after(unknown).to_metadata()), counts


def _read(file: Path, language: str | None) -> ClassificationNames:
    with open_bytes(file) as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            raise DataError(f"{file}: expected an XML file, found a zip; unpack it, and give the XML file in it")
    expected = f"ICD-10-CM's tabular list ({TABULAR}) or {CLAML}, as XML"
    _, root, _ = next(xml_events(file, expected, WITHOUT_DTD, max_depth=MAX_DEPTH))
    if local_name(root) == TABULAR:
        return read_icd10cm(file)
    if local_name(root) == CLAML:
        return read_claml(file, language=language)
    raise DataError(f"{file}: expected {expected}, found {local_name(root)}")
