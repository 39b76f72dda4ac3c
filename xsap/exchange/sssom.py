"""Mappings as SSSOM, the Simple Standard for Sharing Ontological Mappings 1.0 and 1.1 (https://mapping-commons.github.io/sssom/), and back.

A term with a code is a coded subject, a term without one a literal. What the linker proposed keeps its own justification, and who approved it is its
reviewer; a concept that a person chose instead is a manual mapping with an author. A term without a concept is mapped to sssom:NoTermFound. What no
slot of SSSOM can say goes into extension columns, and only there where a reader would not infer it: so that reading a written file gives the same
mappings, in the order of the file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from xsap.errors import ConfigError
from xsap.exchange.code_systems import CODE_SYSTEMS, LOCAL, Vocabularies, escape_code, unescape_code
from xsap.exchange.mapping import MappedConcept, Status, equivalence_from
from xsap.exchange.mapping import Mapping as TermMapping
from xsap.exchange.record_fields import (
    CONCEPT_FIELDS,
    RECORD_FIELDS,
    missing_concept_fields,
    missing_fields,
    read_time,
    with_concept_fields,
    with_fields,
)
from xsap.exchange.sssom_file import SlotRow, read_slot_table, split_values, write_slot_table
from xsap.exchange.sssom_rows import (
    CODES,
    NO_TERM_FOUND,
    OTHER_PREDICATES,
    ROLE,
    mapping_of_rows,
    slots_of,
    source_of,
)
from xsap.exchange.sssom_slots import BUILT_IN, MULTIVALUED, ONLY_1_1, REFERENCES, SLOTS, SSSOM_VERSIONS
from xsap.files import RowCounts

UNSPECIFIED_LICENSE = "https://w3id.org/sssom/license/unspecified"
JUSTIFICATIONS = frozenset(
    f"semapv:{name}"
    for name in (
        *(
            "LexicalMatching",
            "LogicalReasoning",
            "CompositeMatching",
            "UnspecifiedMatching",
            "MappingChaining",
            "MappingReview",
        ),
        *(
            "SemanticSimilarityThresholdMatching",
            "LexicalSimilarityThresholdMatching",
            "ManualMappingCuration",
            "MappingInversion",
        ),
        *("StructuralMatching", "InstanceBasedMatching", "BackgroundKnowledgeBasedMatching"),
    )
)
SLOT_COLUMN = "sssom:"  # before the name of a slot, in `Mapping.columns`: a slot that a mapping has no field for
NO_SUBJECT = "neither subject_id nor subject_label"
NO_OBJECT = "no object_id"
NO_PREDICATE = "no predicate_id"
NO_CODE_OR_NAME = "neither code nor name"
BAD_JUSTIFICATIONS = "values of mapping_justification that SSSOM does not have, read as semapv:UnspecifiedMatching"
BAD_NUMBERS = "numbers out of range or no numbers, read as empty"
BAD_DATES = "dates that are none, read as empty"
BAD_EXTENSIONS = "extension values that could not be read, ignored"
PREDICATES_NOT_SKOS = "predicates other than those of SKOS, read as inexact"

_PROPERTIES = "http://sssom.invalid/xsap/"  # the specification has this host for properties without an IRI
_COLUMN = "column/"
_KNOWN_PREFIXES = {
    "orcid": "https://orcid.org/",
    "ORCID": "https://orcid.org/",
    "obo": "http://purl.obolibrary.org/obo/",
    "bioregistry": "https://bioregistry.io/registry/",
    "XSAP": _PROPERTIES,
    LOCAL.prefix: LOCAL.iri,
    **{system.prefix: system.iri for system in CODE_SYSTEMS.values()},
}
_CANDIDATE = "candidate"  # the role of the object of a row that says which proposals were rejected
_FIELD_SLOTS = {f"ext_{name}": name for name in RECORD_FIELDS}
_CONCEPT_SLOTS = {f"ext_object_{name}": name for name in CONCEPT_FIELDS}
_NUMBER = "ext_object_number"
_OWN_SLOTS = {*_FIELD_SLOTS, *_CONCEPT_SLOTS, _NUMBER, ROLE}
_OF_OBJECT = {"object_id", "object_label", *_CONCEPT_SLOTS, _NUMBER}
_RANGES = {"confidence": (0, 1), "similarity_score": (0, 1), "reviewer_agreement": (-1, 1)}
_DATES = ("mapping_date", "review_date", "publication_date")
# Writing


def write_sssom(
    mappings: Iterable[TermMapping],
    path: Path | str,
    *,
    set_id: str | None = None,
    license_uri: str = UNSPECIFIED_LICENSE,
    title: str = "",
    version: str = "1.1",
    prefixes: Mapping[str, str] | None = None,
    vocabulary: str = "",
    object_source: str = "",
) -> RowCounts:
    """Write mappings as an SSSOM/TSV file in canonical form. The file is the same for the same mappings, in any order.

    Args:
        mappings: The mappings, each with its own code and name.
        path: The file, by custom one that ends in .sssom.tsv; it is replaced.
        set_id: IRI of the set; by default one made from the content.
        license_uri: IRI of the license.
        title: Title of the set.
        version: 1.0 or 1.1. What only 1.1 has slots for, such as the date of a review, goes into extensions in 1.0.
        prefixes: Vocabulary → IRI, of vocabularies that are not in the table; LOCAL is that of the source's codes.
        vocabulary: The vocabulary of concept ids whose concept states none, such as OMOP.
        object_source: What sssom:NoTermFound was sought in, as a CURIE; by default the vocabulary that most concepts have.

    Returns:
        How many mappings were written, and why others were not.

    Raises:
        ConfigError: No IRI is known for a vocabulary or prefix, or `version` is none.
    """
    if version not in SSSOM_VERSIONS:
        raise ConfigError(f"expected SSSOM version {' or '.join(SSSOM_VERSIONS)}, found '{version}'")
    mappings = list(mappings)
    vocabularies = Vocabularies(prefixes, concept_vocabulary=vocabulary)
    kept = [mapping for mapping in mappings if any(mapping.key)]
    coded = [[vocabularies.find(target) for target in _objects(mapping)] for mapping in kept]
    vocabularies.check_all_known("--prefix")
    known = {**_KNOWN_PREFIXES, **vocabularies.prefixes()}
    systems = Counter(each.system for line in coded for each in line if each)
    common = min(systems, key=lambda system: (-systems[system], system.prefix)) if systems else None
    sought = object_source or (source_of(common.prefix) if common else "")
    columns = _column_slots(kept)
    rows: list[SlotRow] = []
    for mapping, line in zip(kept, coded, strict=True):
        objects = [(target, each.curie) for target, each in zip(_objects(mapping), line, strict=True) if each]
        rows += _rows(mapping, objects, vocabularies, columns, sought, version)
    _check_prefixes(rows, known)
    metadata = {
        "sssom_version": version if version != "1.0" else "",
        "mapping_set_id": set_id or _content_id(rows),
        "mapping_set_title": title,
        "license": license_uri,
    }
    extensions = {slot: (f"XSAP:{slot.removeprefix('ext_')}", "xsd:string") for slot in _OWN_SLOTS}
    extensions |= {slot: (f"XSAP:{_COLUMN}{escape_code(name)}", "xsd:string") for name, slot in columns.items()}
    write_slot_table(path, metadata, rows, known, extensions, version=version)
    dropped = {NO_CODE_OR_NAME: len(mappings) - len(kept)} if len(kept) < len(mappings) else {}
    return RowCounts(len(mappings), len(kept), dropped)


def _objects(mapping: TermMapping) -> tuple[MappedConcept, ...]:
    """The concepts that a mapping states: where people decided that there is none, none."""
    return () if mapping.status is Status.NO_MATCH else mapping.targets


def _content_id(rows: list[SlotRow]) -> str:
    content = sorted(repr(sorted(row.items())) for row in rows)
    return f"https://w3id.org/sssom/mappings/{uuid5(NAMESPACE_URL, sha256(repr(content).encode()).hexdigest())}"


def _column_slots(mappings: Sequence[TermMapping]) -> dict[str, str]:
    """Name of a further column → its extension slot, which XML allows as a name."""
    names = dict.fromkeys(name for mapping in mappings for name, cell in mapping.columns.items() if cell)
    slots: dict[str, str] = {}
    for name in sorted(names):
        if _slot_of(name) is None:
            bare = re.sub(r"[^\w.-]", "_", name.removeprefix("ext_"))
            taken, number = {*slots.values(), *_OWN_SLOTS}, 2
            slot = f"ext_{bare}"
            while slot in taken:
                slot, number = f"ext_{bare}_{number}", number + 1
            slots[name] = slot
    return slots


def _slot_of(column: str) -> str | None:
    """The slot that a further column is, by its name."""
    slot = column.removeprefix(SLOT_COLUMN)
    return slot if slot != column and slot in SLOTS and slot not in _OF_OBJECT else None


def _rows(
    mapping: TermMapping,
    objects: list[tuple[MappedConcept, str]],
    vocabularies: Vocabularies,
    columns: Mapping[str, str],
    sought: str,
    version: str,
) -> list[SlotRow]:
    """The rows of a mapping: one for each target, or for each rejected candidate, or one that no term was found."""
    role = ""
    if mapping.status is Status.REJECTED and not objects:
        concepts = [MappedConcept.from_candidate(candidate) for candidate in mapping.candidates]
        coded = [(concept, vocabularies.find(concept, required=False)) for concept in concepts]
        objects = [(concept, each.curie) for concept, each in coded if each]
        role = _CANDIDATE if objects else ""
    given = {slot: cell for name, cell in mapping.columns.items() if cell and (slot := _slot_of(name))}
    extensions = {columns[name]: cell for name, cell in mapping.columns.items() if cell and name in columns}
    rows = []
    listed: list[tuple[MappedConcept | None, str]] = [*objects] or [(None, NO_TERM_FOUND)]
    for concept, curie in listed:
        row = slots_of(mapping, curie, concept.name if concept else "") | given
        if "object_source" not in given and (sought or concept):
            row["object_source"] = source_of(curie.partition(":")[0]) if concept else sought
        rows.append(row if version == "1.1" else {slot: text for slot, text in row.items() if slot not in ONLY_1_1})
    if role:
        extensions[ROLE] = role
    found = mapping_of_rows([row | ({ROLE: role} if role else {}) for row in rows])
    extensions |= {f"ext_{name}": text for name, text in missing_fields(mapping, found).items()}
    number = not role and [curie for _, curie in objects] != sorted({curie for _, curie in objects})
    for at, (row, concept) in enumerate(
        zip(rows, [concept for concept, _ in objects] if not role else [], strict=False)
    ):
        row |= {f"ext_object_{name}": text for name, text in missing_concept_fields(concept, found.targets[at]).items()}
        row |= {_NUMBER: str(at + 1)} if number else {}
    return [row | extensions for row in rows]


def _check_prefixes(rows: list[SlotRow], known: Mapping[str, str]) -> None:
    """Raise ConfigError for a CURIE that has no known prefix: only a further column can have one."""
    for row in rows:
        for slot in REFERENCES & set(row):
            for curie in split_values(row[slot]) if slot in MULTIVALUED else [row[slot]]:
                prefix = curie.partition(":")[0]
                if prefix not in known and prefix not in BUILT_IN:
                    raise ConfigError(
                        f"no IRI is known for the prefix '{prefix}' of '{curie}' in the slot {slot}; state it: --prefix {prefix}=IRI"
                    )


# Reading


def read_sssom(
    path: Path | str, *, metadata: Path | str | None = None
) -> tuple[list[TermMapping], RowCounts, Counter[str]]:
    """Read an SSSOM/TSV file of any version.

    Rows of one subject that differ in nothing but their objects are one mapping with several targets. Slots that a mapping has no field for
    are in its columns, as `sssom:mapping_provider`; `write_sssom` writes them back.

    Args:
        path: The file.
        metadata: The file of its metadata, if it has these outside; by default one with the same name that ends in .yml.

    Returns:
        The mappings; how many rows are in them, and why others are not; and what was repaired: reason → how often.

    Raises:
        DataError: It is no SSSOM file.
    """
    repairs = Counter[str]()
    table = read_slot_table(path, repairs, metadata=metadata)
    columns = {slot: _column_name(slot, iri) for slot, iri in table.extensions.items() if slot not in _OWN_SLOTS}
    used = sorted({columns[slot] for row in table.rows for slot in columns if slot in row})
    dropped = Counter[str]()
    groups: dict[tuple[tuple[str, str], ...], list[SlotRow]] = {}
    for row in table.rows:
        reason = _clean(row, repairs)
        if reason:
            dropped[reason] += 1
        else:
            key = tuple(sorted((slot, text) for slot, text in row.items() if not _is_of_object(slot, row)))
            groups.setdefault(key, []).append(row)
    mappings = [_mapping(rows, columns, used, repairs) for rows in groups.values()]
    counts = RowCounts(len(table.rows), len(table.rows) - sum(dropped.values()), dict(dropped))
    return mappings, counts, +repairs


def _column_name(slot: str, iri: str) -> str:
    """The name of the further column that an extension is."""
    start = f"{_PROPERTIES}{_COLUMN}"
    return unescape_code(iri.removeprefix(start)) if iri.startswith(start) else slot


def _clean(row: SlotRow, repairs: Counter[str]) -> str | None:
    """Repair a row in place; why it has to be dropped, if so."""
    if row.get("object_id") == "sssom:NoMapping":
        row["object_id"] = NO_TERM_FOUND
    if row.get("subject_id") == NO_TERM_FOUND or not (row.get("subject_id") or row.get("subject_label")):
        return NO_SUBJECT
    if "object_id" not in row:
        return NO_OBJECT
    if "predicate_id" not in row:
        return NO_PREDICATE
    for slot, (low, high) in _RANGES.items():
        if slot in row and not _is_within(row[slot], low, high):
            del row[slot]
            repairs[BAD_NUMBERS] += 1
    for slot in _DATES:
        if slot in row and not _is_date(row[slot]):
            del row[slot]
            repairs[BAD_DATES] += 1
    if row.get("mapping_justification") not in JUSTIFICATIONS:
        row["mapping_justification"] = "semapv:UnspecifiedMatching"
        repairs[BAD_JUSTIFICATIONS] += 1
    if equivalence_from(row["predicate_id"], "predicate") is None and row["predicate_id"] not in OTHER_PREDICATES:
        repairs[PREDICATES_NOT_SKOS] += 1
    return None


def _is_within(text: str, low: float, high: float) -> bool:
    try:
        return low <= float(text) <= high
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        return bool(read_time(text)) or text.startswith("1970-01-01")
    except (ValueError, OverflowError):
        return False


def _mapping(rows: list[SlotRow], columns: Mapping[str, str], used: list[str], repairs: Counter[str]) -> TermMapping:
    """A mapping of the rows that differ only in their objects."""
    if all(row.get(_NUMBER, "").isdecimal() for row in rows):
        rows = sorted(rows, key=lambda row: int(row[_NUMBER]))
    first = rows[0]
    mapping = mapping_of_rows(rows)
    targets = [
        with_concept_fields(target, {name: row[slot] for slot, name in _CONCEPT_SLOTS.items() if slot in row})
        for target, row in zip(mapping.targets, rows, strict=False)
    ]
    try:
        mapping = with_fields(mapping, {name: first[slot] for slot, name in _FIELD_SLOTS.items() if slot in first})
    except (ValueError, OverflowError):
        repairs[BAD_EXTENSIONS] += 1
    further = dict.fromkeys(used, "")
    mapping = replace(mapping, targets=tuple(targets))
    expected = slots_of(mapping, first["object_id"], first.get("object_label", ""))
    for slot, text in first.items():
        if slot in columns:
            further[columns[slot]] = text
        elif slot in SLOTS and slot not in _OF_OBJECT and text != expected.get(slot) and not _is_own(slot, first):
            further[f"{SLOT_COLUMN}{slot}"] = text
    return replace(mapping, columns=further)


def _is_own(slot: str, row: SlotRow) -> bool:
    """Whether a slot is one that `write_sssom` writes of itself, so that a mapping needs no column for it."""
    if slot == "object_source":
        prefix = row["object_id"].partition(":")[0]
        return row[slot] == source_of(prefix) or (row["object_id"] == NO_TERM_FOUND and _is_source(row[slot]))
    return slot.startswith("mapping_tool") and row.get("mapping_tool") == "xsap"


def _is_of_object(slot: str, row: SlotRow) -> bool:
    """Whether the rows of one mapping may differ in a slot."""
    return slot in _OF_OBJECT or (slot == "object_source" and _is_own(slot, row))


def _is_source(curie: str) -> bool:
    return curie.startswith("bioregistry:") or curie.endswith(f":{CODES}")
