"""An ontology with translations as a terminology: which names of its files are kept, and under which concept.

The ontology is an OBO, OWL or obographs file; its translations are tables of their own, and often newer, so a concept may be in either: the
terminology is the union. Names of an identifier that the ontology merged into another are moved there. A concept that either of the two calls
obsolete is dropped, since nothing should be linked to it. Merged and obsolete identifiers are kept, with their successors, in the
terminology's `retired` table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.accounting import Rejects, check_choice, rejected_rows
from data_prep.obo import read_obo, read_obographs
from data_prep.ontology_model import (
    DEFINITION,
    LABEL,
    SCOPES,
    NameRecord,
    Ontology,
    definitions_table,
    names_table,
    relations_table,
)
from data_prep.owl import read_owl
from data_prep.translations import find_tables, read_translations
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, file_ending
from xsap.languages import ENGLISH
from xsap.terms.terminology import RETIRED_SCHEMA, Terminology

READERS: dict[str, Callable[[Path, Rejects | None], Ontology]] = {
    ".obo": read_obo,
    ".owl": lambda path, _: read_owl(path),  # the parser cannot go on after a fault in XML
    ".json": read_obographs,
}
DEFAULT_SCOPES = SCOPES[:3]  # a BROAD synonym names something wider than the concept, so it must not be linked to it
MAX_REPLACEMENTS = 100  # identifiers, each replaced by the next

_OBSOLETE = re.compile(r"obsolet[eo][\s_:]", re.IGNORECASE)  # label of an obsolete concept, in English and in Spanish


@dataclass(frozen=True, slots=True)
class NameSelection:
    """Which names are kept; None keeps all.

    statuses: of translations. scopes: of synonyms. prefixes: of concept identifiers, before the colon.
    """

    statuses: Collection[str] | None
    scopes: Collection[str]
    prefixes: Collection[str] | None

    def check(self, names: Iterable[NameRecord], living: Iterable[str], file: Path, translations: Path | None) -> None:
        """Raise DataError for a selected value that does not occur."""
        if self.statuses is not None:
            statuses = {record.status for record in names if record.status}
            check_choice(self.statuses, statuses, "translation status", translations or file)
        if self.prefixes is not None:
            prefixes = {_prefix(concept_id) for concept_id in living}
            check_choice(self.prefixes, prefixes, "identifiers that begin with", file)

    def has_prefix(self, concept_id: str) -> bool:
        """Whether an identifier has a selected prefix."""
        return self.prefixes is None or _prefix(concept_id) in self.prefixes

    def rejection_reason(self, record: NameRecord, concept_id: str, *, obsolete: bool) -> str | None:
        """Why a name is not kept under a concept; None if it is."""
        if record.rejection_reason:
            return record.rejection_reason
        if obsolete or _OBSOLETE.match(record.name):
            return "obsolete concept"
        if not self.has_prefix(concept_id):
            return "concept of another ontology"
        if record.scope != LABEL and record.scope not in self.scopes:
            return f"synonym of scope {record.scope}"
        is_translation = record.translated and record.language != ENGLISH
        if self.statuses is not None and is_translation and record.status not in self.statuses:
            return "translation status not chosen"
        return None


def read_hpo(
    file: Path,
    translations: Path | None = None,
    *,
    statuses: Collection[str] | None = None,
    scopes: Collection[str] | None = DEFAULT_SCOPES,
    rejects: Rejects | None = None,
) -> tuple[Terminology, RowCounts]:
    """Read the Human Phenotype Ontology: `read_ontology` without the concepts that it takes from other ontologies.

    Args:
        file: hp.obo, hp.owl or hp.json.
        translations: A folder of translation tables.
        statuses: Translation statuses that are kept; None for all.
        scopes: Synonym scopes that are kept; None for all.
        rejects: Collects malformed rows, which otherwise are an error.

    Returns:
        The terminology, and what happened to each name.
    """
    return read_ontology(
        file, translations, source="HPO", statuses=statuses, scopes=scopes, prefixes={"HP"}, rejects=rejects
    )


def read_ontology(
    file: Path,
    translations: Path | None = None,
    *,
    source: str | None = None,
    statuses: Collection[str] | None = None,
    scopes: Collection[str] | None = DEFAULT_SCOPES,
    prefixes: Collection[str] | None = None,
    rejects: Rejects | None = None,
) -> tuple[Terminology, RowCounts]:
    """Read an ontology and its translations.

    Args:
        file: .obo, .owl or .json, optionally .gz.
        translations: A folder of translation tables.
        source: The source of the names; by default the file's name up to its first dot.
        statuses: Translation statuses that are kept; None for all.
        scopes: Synonym scopes that are kept; None for all.
        prefixes: Prefixes of the identifiers that are kept; None for all.
        rejects: Collects malformed rows, which otherwise are an error.

    Returns:
        The terminology, and what happened to each name.

    Raises:
        DataError: With file and line; also if a selected value does not occur.
    """
    if file_ending(file) not in READERS:
        raise DataError(
            f"{file}: expected an ontology as {', '.join(READERS)} or one of them with .gz, found the ending '{file_ending(file)}'"
        )
    selection = NameSelection(statuses, SCOPES if scopes is None else scopes, prefixes)
    check_choice(selection.scopes, SCOPES, "synonym scope", "OBO")
    source = source or file.name.split(".")[0]
    ontology = READERS[file_ending(file)](file, rejects)
    tables = find_tables(translations) if translations else []
    translated = [record for table in tables for record in read_translations(table, rejects)]
    names = [*ontology.names, *(record for record in translated if record.scope != DEFINITION)]
    ontology.definitions += [record._replace(scope=LABEL) for record in translated if record.scope == DEFINITION]
    malformed = rejected_rows(rejects, [file, *tables])
    selection.check(names, ontology.living, file, translations)
    ontology.obsolete |= {
        record.concept_id for record in names if record.scope == LABEL and _OBSOLETE.match(record.name)
    }
    merged = _resolve_merges(ontology, file)
    kept, dropped = _select_names(names, ontology, merged, selection)
    metadata: dict[str, Any] = {
        "reader": "ontology",
        "source": source,
        "files": {one.name: sha256_of(one) for one in [file, *tables]},
        "statuses": _sorted(statuses),
        "scopes": _sorted(selection.scopes),
        "prefixes": _sorted(prefixes),
    }
    terminology, duplicates = Terminology.build(
        names_table(
            kept,
            [f"{source}-translations" if record.translated else source for record in kept],
            [None if record.translated else record.concept_id for record in kept],
        ),
        _references(ontology, merged),
        metadata,
        _retired(ontology, merged, selection, file),
    )
    counts = RowCounts(len(names), len(kept), dropped).then(terminology.names.num_rows, duplicates)
    return _with_details(terminology, ontology, merged, selection, source), counts + malformed


def _with_details(
    terminology: Terminology, ontology: Ontology, merged: dict[str, str], selection: NameSelection, source: str
) -> Terminology:
    """The terminology with the definitions and parents of its concepts, which its metadata account for."""
    own = [record for record in ontology.definitions if record.concept_id not in merged]
    definitions, dropped = _select_names(own, ontology, merged, selection)
    if len(own) < len(ontology.definitions):
        dropped["definition of a merged concept"] = len(ontology.definitions) - len(own)
    sources = [f"{source}-translations" if record.translated else source for record in definitions]
    parents = [(merged.get(child, child), merged.get(parent, parent)) for child, parent in ontology.parents]
    found, counts = terminology.with_details(definitions_table(definitions, sources), relations_table(parents))
    return replace(found, metadata=found.metadata | counts.after(dropped).to_metadata())


def _select_names(
    names: Iterable[NameRecord], ontology: Ontology, merged: dict[str, str], selection: NameSelection
) -> tuple[list[NameRecord], Counter[str]]:
    """The names that are kept, under the identifiers that remain; and the number of others, by reason."""
    kept, dropped = [], Counter[str]()
    for record in names:
        concept_id = merged.get(record.concept_id, record.concept_id)
        reason = selection.rejection_reason(record, concept_id, obsolete=concept_id in ontology.obsolete)
        if reason:
            dropped[reason] += 1
            continue
        # The English label in the ontology stays the preferred name, whatever a table or a merged concept has as label.
        other_label = record.translated or record.concept_id != concept_id
        demoted = other_label and record.language == ENGLISH and concept_id in ontology.living
        kept.append(record._replace(concept_id=concept_id, kind="synonym" if demoted else record.kind))
    return kept, dropped


def _references(ontology: Ontology, merged: dict[str, str]) -> pa.Table:
    references: dict[str, list[str]] = defaultdict(list)
    for concept_id, found in ontology.references.items():
        references[merged.get(concept_id, concept_id)] += found
    columns = [pa.array(list(references), pa.string()), pa.array(list(references.values()), pa.list_(pa.string()))]
    return pa.table(columns, ["concept_id", "cross_references"])


def _resolve_merges(ontology: Ontology, file: Path) -> dict[str, str]:
    """Merged identifier → the one that remains in the end. Identifiers merged in a circle are not merged."""
    direct = {old: new for old, new in ontology.merged.items() if old and old != new}
    merged = {}
    for old in direct:
        chain = [old]
        while (new := direct.get(chain[-1])) is not None and new not in chain:
            _check_length(chain, file)
            chain.append(new)
        if new is None:
            merged[old] = chain[-1]
    return merged


def _retired(ontology: Ontology, merged: dict[str, str], selection: NameSelection, file: Path) -> pa.Table:
    """RETIRED_SCHEMA: the successors of merged and obsolete identifiers. If there are several, each is only related."""
    rows: list[tuple[str, str | None, str]] = []
    for old in sorted(merged.keys() | ontology.obsolete):
        if not selection.has_prefix(old):
            continue
        chain, successors = [old], set[str]()
        for one in chain:  # grows during the loop
            if one in merged:
                following = [merged[one]]
            elif one in ontology.obsolete:
                following = ontology.replaced.get(one, [])
            else:
                successors.add(one)
                continue
            for new in dict.fromkeys(following):
                if new and new not in chain:
                    _check_length(chain, file)
                    chain.append(new)
        relation = "same" if len(successors) == 1 else "related"
        rows += [(old, successor, relation) for successor in successors] or [(old, None, "deleted")]
    return pa.Table.from_pylist([dict(zip(RETIRED_SCHEMA.names, row, strict=True)) for row in rows], RETIRED_SCHEMA)


def _check_length(chain: list[str], file: Path) -> None:
    if len(chain) > MAX_REPLACEMENTS:
        raise DataError(
            f"{file}: expected at most {MAX_REPLACEMENTS} identifiers to be replaced one by another, found more from {chain[0]} on"
        )


def _prefix(concept_id: str) -> str:
    return concept_id.partition(":")[0]


def _sorted(chosen: Iterable[str] | None) -> list[str] | None:
    return sorted(chosen) if chosen is not None else None
