"""An ontology in many languages → a terminology: which of the names that its files offer are kept, and under which concept.

The ontology is an OBO, OWL or obographs file; its translations are tables of their own, and often newer, so a concept may stand in either:
the terminology is the union. An identifier that the ontology merged into another is folded into it, and a concept that either of them
calls obsolete is dropped, since nothing should be linked to it; what became of both is kept in the terminology's `retired` table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.accounting import check_choice
from data_prep.obo import read_obo, read_obographs
from data_prep.ontology_model import LABEL, SCOPES, NameRecord, Ontology
from data_prep.owl import read_owl
from data_prep.translations import find_tables, read_translations
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, file_ending
from xsap.languages import ENGLISH
from xsap.terms.terminology import NAMES_SCHEMA, RETIRED_SCHEMA, Terminology
from xsap.text import TextPolicy, normalize

READERS: dict[str, Callable[[Path], Ontology]] = {".obo": read_obo, ".owl": read_owl, ".json": read_obographs}
DEFAULT_SCOPES = SCOPES[:3]  # a BROAD synonym names something wider than the concept, so it must not be linked to it

_OBSOLETE = re.compile(r"obsolet[eo][\s_:]", re.IGNORECASE)  # the label of a retired concept, in English and in Spanish
_LONGEST_CHAIN = 100  # of identifiers, each replaced by the next


def read_hpo(
    file: Path,
    translations: Path | None = None,
    *,
    statuses: Collection[str] | None = None,
    scopes: Collection[str] | None = DEFAULT_SCOPES,
) -> tuple[Terminology, RowCounts]:
    """The Human Phenotype Ontology: `read_ontology`, and of what it borrows from other ontologies nothing."""
    return read_ontology(file, translations, source="HPO", statuses=statuses, scopes=scopes, prefixes={"HP"})


def read_ontology(
    file: Path,
    translations: Path | None = None,
    *,
    source: str | None = None,
    statuses: Collection[str] | None = None,
    scopes: Collection[str] | None = DEFAULT_SCOPES,
    prefixes: Collection[str] | None = None,
) -> tuple[Terminology, RowCounts]:
    """An ontology (.obo, .owl or .json, perhaps .gz) and a folder of translation tables as a terminology, and what became of each name.

    source: what its names are said to come from; by default the file's name up to its first dot. statuses: translations must have one of
    these; None takes every one that is a name. scopes: likewise for synonyms. prefixes: likewise for identifiers, up to their colon. Raises
    DataError with file and line.
    """
    if file_ending(file) not in READERS:
        raise DataError(
            f"{file}: expected an ontology as {', '.join(READERS)} (.gz is welcome), found the ending '{file_ending(file)}'"
        )
    scopes = SCOPES if scopes is None else scopes
    check_choice(scopes, SCOPES, "synonym scope", "OBO")
    source = source or file.name.split(".")[0]
    ontology = READERS[file_ending(file)](file)
    tables = find_tables(translations) if translations else []
    names = [*ontology.names, *(record for table in tables for record in read_translations(table))]
    if statuses is not None:
        check_choice(
            statuses, {record.status for record in names if record.status}, "translation status", translations or file
        )
    if prefixes is not None:
        check_choice(
            prefixes, {_prefix(concept_id) for concept_id in ontology.living}, "identifiers that begin with", file
        )
    ontology.obsolete |= {record.concept_id for record in names if record.scope == LABEL and _OBSOLETE.match(record.name)}
    merged = _merged(ontology, file)
    dropped: Counter[str] = Counter()
    kept = []
    for record in names:
        concept_id = merged.get(record.concept_id, record.concept_id)
        reason = record.rejection_reason or _rejection_reason(
            record, concept_id, concept_id in ontology.obsolete, statuses, scopes, prefixes
        )
        if reason:
            dropped[reason] += 1
        else:
            # A concept that the ontology has is called as it is called there, whatever a table or a merged term calls it.
            rival = (
                concept_id in ontology.living
                and record.language == ENGLISH
                and (record.translated or record.concept_id != concept_id)
            )
            kept.append(record._replace(concept_id=concept_id, kind="synonym" if rival else record.kind))
    metadata: dict[str, Any] = {
        "reader": "ontology",
        "source": source,
        "files": {one.name: sha256_of(one) for one in [file, *tables]},
    }
    metadata |= {"statuses": _listed(statuses), "scopes": _listed(scopes), "prefixes": _listed(prefixes)}
    retired = _retired(ontology, merged, prefixes, file)
    terminology, again = Terminology.build(_names(kept, source), _references(ontology, merged), metadata, retired)
    return terminology, RowCounts(len(names), len(kept), dropped).then(terminology.names.num_rows, again)


def _rejection_reason(
    record: NameRecord,
    concept_id: str,
    obsolete: bool,
    statuses: Collection[str] | None,
    scopes: Collection[str],
    prefixes: Collection[str] | None,
) -> str | None:
    if obsolete or _OBSOLETE.match(record.name):
        return "obsolete concept"
    if prefixes is not None and _prefix(concept_id) not in prefixes:
        return "concept of another ontology"
    if record.scope != LABEL and record.scope not in scopes:
        return f"synonym of scope {record.scope}"
    if statuses is not None and record.translated and record.language != ENGLISH and record.status not in statuses:
        return "translation status not chosen"
    return None


def _names(names: list[NameRecord], source: str) -> pa.Table:
    policy = TextPolicy()
    columns = {
        "concept_id": [record.concept_id for record in names],
        "language": [record.language for record in names],
        "name": [normalize(record.name, policy) for record in names],
        "kind": [record.kind for record in names],
        "source": [f"{source}-translations" if record.translated else source for record in names],
        "code": [None] * len(names),
        "status": [record.status for record in names],
    }
    return pa.table(columns, NAMES_SCHEMA)


def _references(ontology: Ontology, merged: dict[str, str]) -> pa.Table:
    references: dict[str, list[str]] = defaultdict(list)
    for concept_id, found in ontology.references.items():
        references[merged.get(concept_id, concept_id)] += found
    columns = [pa.array(list(references), pa.string()), pa.array(list(references.values()), pa.list_(pa.string()))]
    return pa.table(columns, ["concept_id", "cross_references"])


def _merged(ontology: Ontology, file: Path) -> dict[str, str]:
    """Merged identifier → the one that stands in the end; those that go round in a circle stand themselves."""
    told = {old: new for old, new in ontology.merged.items() if old and old != new}
    merged = {}
    for old in told:
        seen = [old]
        while (new := told.get(seen[-1])) is not None and new not in seen:
            seen.append(_short_of_endless(new, seen, file))
        if new is None:
            merged[old] = seen[-1]
    return merged


def _retired(ontology: Ontology, merged: dict[str, str], prefixes: Collection[str] | None, file: Path) -> pa.Table:
    """RETIRED_SCHEMA: what became of merged and of obsolete identifiers. Several successors are each merely related."""
    rows: list[tuple[str, str | None, str]] = []
    for old in sorted(merged.keys() | ontology.obsolete):
        if prefixes is not None and _prefix(old) not in prefixes:
            continue
        seen, successors = [old], set[str]()
        for one in seen:  # grows as it is walked
            following = (
                [merged[one]] if one in merged else ontology.replaced.get(one, []) if one in ontology.obsolete else None
            )
            if following is None:
                successors.add(one)
            seen += [
                _short_of_endless(new, seen, file) for new in dict.fromkeys(following or ()) if new and new not in seen
            ]
        rows += [(old, heir, "same" if len(successors) == 1 else "related") for heir in successors] or [
            (old, None, "deleted")
        ]
    return pa.Table.from_pylist([dict(zip(RETIRED_SCHEMA.names, row, strict=True)) for row in rows], RETIRED_SCHEMA)


def _short_of_endless(new: str, seen: list[str], file: Path) -> str:
    if len(seen) > _LONGEST_CHAIN:
        raise DataError(
            f"{file}: expected at most {_LONGEST_CHAIN} identifiers to be replaced one by another, found more from {seen[0]} on"
        )
    return new


def _prefix(concept_id: str) -> str:
    return concept_id.partition(":")[0]


def _listed(chosen: Iterable[str] | None) -> list[str] | None:
    return sorted(chosen) if chosen is not None else None
