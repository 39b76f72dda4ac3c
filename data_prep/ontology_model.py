"""What a reader of an ontology format returns: names, definitions, parents, cross-references, and merged, obsolete and living identifiers.

A reader of a format (obo, owl, obographs, translations) fills these in without deciding what is kept. Identifiers are written alike whatever
the format: an IRI that ends in PREFIX_LOCAL becomes PREFIX:LOCAL, as in OBO (https://obofoundry.org/id-policy.html). Properties are identified
by their IRI (https://owlcollab.github.io/oboformat/doc/obo-syntax.html, section 5; https://www.w3.org/TR/skos-reference/).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from xsap.errors import DataError
from xsap.languages import ENGLISH, to_iso
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA
from xsap.terms.terminology import NAMES_SCHEMA
from xsap.text import TextPolicy, normalize

SCOPES = ("EXACT", "NARROW", "RELATED", "BROAD")
LABEL = "rdfs:label"  # the scope of a concept's label
DEFINITION = "definition"  # the scope of a text that is no name

OBO, OBO_IN_OWL = "http://purl.obolibrary.org/obo/", "http://www.geneontology.org/formats/oboInOwl#"
RDFS, SKOS = "http://www.w3.org/2000/01/rdf-schema#", "http://www.w3.org/2004/02/skos/core#"
PREFIXES = {
    "rdfs": RDFS, "skos": SKOS, "oboInOwl": OBO_IN_OWL, "oio": OBO_IN_OWL, "IAO": f"{OBO}IAO_", "OBI": f"{OBO}OBI_", "OMO": f"{OBO}OMO_", "obo": OBO,
    "efo": "http://www.ebi.ac.uk/efo/", "NCIT": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl#", "schema": "http://schema.org/",
    "dc": "http://purl.org/dc/elements/1.1/", "dcterms": "http://purl.org/dc/terms/", "terms": "http://purl.org/dc/terms/",
    "owl": "http://www.w3.org/2002/07/owl#",
}  # fmt: skip
"""Prefix of a short property name → the IRI that it stands for, for files that do not define it."""

DEPRECATED = "http://www.w3.org/2002/07/owl#deprecated"
REPLACED_BY = f"{OBO}IAO_0100001"
ALTERNATIVE_ID = f"{OBO_IN_OWL}hasAlternativeId"
REFERENCE = f"{OBO_IN_OWL}hasDbXref"
SUBCLASS_OF, SKOS_BROADER, NARROWER = f"{RDFS}subClassOf", f"{SKOS}broader", f"{SKOS}narrower"
_TRUE = {"true", "True", "TRUE", "1"}
# IAO:0000115: definition; NCIt's P97: DEFINITION.
DEFINITIONS = frozenset(
    [f"{OBO}IAO_0000115", f"{SKOS}definition", f"{PREFIXES['efo']}definition", f"{PREFIXES['NCIT']}P97"]
)
PROPERTIES = {DEPRECATED, REPLACED_BY, ALTERNATIVE_ID, REFERENCE, SUBCLASS_OF, SKOS_BROADER, NARROWER, *DEFINITIONS}
"""Properties that are read, and hold no names."""
# The properties that hold names. IAO:0000118: alternative label, 0000111: editor preferred label, 0000589: OBO Foundry unique label;
# OBI:9991118 and 0001847, 0001886: alternative terms of IEDB, ISA and FGED; NCIt's P90: FULL_SYN, P108: Preferred_Name.
_NAMES_OF_SCOPE = {
    LABEL: "rdfs:label skos:prefLabel",
    "EXACT": """skos:altLabel efo:alternative_term IAO:0000118 IAO:0000111 IAO:0000589 OBI:9991118 OBI:0001847 OBI:0001886 NCIT:P90 NCIT:P108
        schema:name schema:alternateName dc:title dcterms:title dcterms:alternative""",
    "RELATED": "skos:hiddenLabel oboInOwl:hasSynonym oboInOwl:synonym",
}
# What the last words of a property's name are, if it holds names: alternative_label, shortName, has_acronym
_HOLDS_NAMES = re.compile(
    r"(^|\s)(synonyms?|syn|alias(es)?|acronyms?|abbreviations?|labels?|titles?|names?|terms?)$", re.IGNORECASE
)

# Synonym types of abbreviations: HPO's, Mondo's, and those of https://github.com/information-artifact-ontology/ontology-metadata
_ABBREVIATIONS = {"abbreviation", "ABBREVIATION", "OMO:0003000", "OMO:0003012"}


class NameRecord(NamedTuple):
    """A name as a file has it, before it is decided whether it is kept.

    rejection_reason: why the file itself rules the name out. translated: it comes from a translation table, not from the ontology.
    """

    concept_id: str
    language: str
    name: str
    scope: str
    status: str | None = None
    kind: str = "synonym"
    rejection_reason: str | None = None
    translated: bool = False


@dataclass
class Ontology:
    """The content of an ontology file.

    definitions: texts in place of names. parents: pairs of a concept and a broader one. merged: merged identifier → the one that remains. replaced: obsolete identifier → its successors. obsolete, living: identifiers of
    concepts. references: identifier → cross-references.
    """

    names: list[NameRecord] = field(default_factory=list)
    definitions: list[NameRecord] = field(default_factory=list)
    parents: list[tuple[str, str]] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    obsolete: set[str] = field(default_factory=set)
    living: set[str] = field(default_factory=set)
    references: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, other: "Ontology") -> None:
        """Add the content of another part of the file."""
        self.names += other.names
        self.definitions += other.definitions
        self.parents += other.parents
        self.merged |= other.merged
        self.obsolete |= other.obsolete
        self.living |= other.living
        for own, found in ((self.replaced, other.replaced), (self.references, other.references)):
            for concept_id, values in found.items():
                own[concept_id] += values


def expand(short: str, prefixes: Mapping[str, str] = PREFIXES) -> str:
    """The IRI of a property: skos:altLabel → http://www.w3.org/2004/02/skos/core#altLabel; an IRI is returned unchanged."""
    prefix, colon, local = short.partition(":")
    return prefixes[prefix] + local if colon and prefix in prefixes else short


@cache
def scope_of(property_iri: str) -> str | None:
    """The scope of the names that a property holds; None for a property that is not read as one of names."""
    return _SCOPES.get(_comparable(property_iri))


@cache
def holds_names(property_iri: str, label: str = "") -> bool:
    """Whether a property holds names, as far as its IRI or its label says so: http://x.org/shortName, or one labeled FULL_SYN."""
    if property_iri in PROPERTIES:
        return False
    if scope_of(property_iri):
        return True
    for text in (_last_part(property_iri), label):
        spaced = re.sub("(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").replace("-", " ")
        if _HOLDS_NAMES.search(spaced):
            return True
    return False


def add_property(
    ontology: Ontology,
    concept_id: str,
    property_iri: str,
    value: str,
    *,
    language: str = "",
    kind: str = "",
    unread: Collection[str] = (),
) -> None:
    """Add the value of one property of a concept.

    Args:
        ontology: Takes the value.
        concept_id: The concept.
        property_iri: The property. One that is not read is ignored, unless it is in `unread`.
        value: A text or an IRI.
        language: Any language code of a name; English if empty.
        kind: The kind of a name; by default a label is preferred and all others are synonyms.
        unread: Properties that hold names, but are not known: their names are counted as dropped.
    """
    scope = scope_of(property_iri)
    if scope or property_iri in unread:
        code, rejection_reason = parse_language(language) if language else (ENGLISH, None)
        if not scope:
            rejection_reason = f"names of a property that is not read: {property_iri}"
        kind = kind or ("preferred" if scope == LABEL else "synonym")
        ontology.names.append(
            NameRecord(concept_id, code, value.strip(), scope or "", kind=kind, rejection_reason=rejection_reason)
        )
    elif property_iri in DEFINITIONS:
        code, rejection_reason = parse_language(language) if language else (ENGLISH, None)
        ontology.definitions.append(
            NameRecord(concept_id, code, value.strip(), LABEL, rejection_reason=rejection_reason)
        )
    elif property_iri in (SUBCLASS_OF, SKOS_BROADER) and (parent := identifier(value)):
        ontology.parents.append((concept_id, parent))
    elif property_iri == NARROWER and (child := identifier(value)):
        ontology.parents.append((child, concept_id))
    elif property_iri == ALTERNATIVE_ID:
        ontology.merged[identifier(value)] = concept_id
    elif property_iri == REPLACED_BY:
        ontology.replaced[concept_id].append(identifier(value))
    elif property_iri == REFERENCE:
        add_reference(ontology, concept_id, value)
    elif property_iri == DEPRECATED and value.strip().partition("^^")[0].strip('"') in _TRUE:
        ontology.obsolete.add(concept_id)


def add_reference(ontology: Ontology, concept_id: str, value: str) -> None:
    """Add a cross-reference: the first word of `value`; what follows describes it."""
    ontology.references[concept_id] += [identifier(word) for word in value.split()[:1]]


def identifier(text: str) -> str:
    """http://purl.obolibrary.org/obo/HP_0000118 → HP:0000118; anything but an IRI of this form is returned unchanged."""
    text = text.strip()
    if "://" not in text and not text.startswith("#"):
        return text
    prefix, _, local = _last_part(text).rpartition("_")
    return f"{prefix}:{local}" if prefix[:1].isalpha() and local.isalnum() and any(c.isdigit() for c in local) else text


def kind_of_synonym(synonym_type: str) -> str:
    """The kind of a name (xsap.terms.terminology) for an ontology's synonym type, given as a word, an identifier or an IRI."""
    found = identifier(synonym_type)
    return "abbreviation" if found in _ABBREVIATIONS or _last_part(found) in _ABBREVIATIONS else "synonym"


@cache
def parse_language(code: str) -> tuple[str, str | None]:
    """(ISO code, None); for an unknown language (the code as it is, a rejection reason)."""
    try:
        return to_iso(code), None
    except DataError:
        return code, f"language unknown to xsap: {code}"


def _last_part(iri: str) -> str:
    return iri[max(iri.rfind("/"), iri.rfind("#")) + 1 :]


def _comparable(iri: str) -> str:
    """An IRI in lower case and without its scheme: files write oboInOWL, relatedsynonym, https."""
    return iri.lower().partition("://")[2]


_SCOPES = {_comparable(expand(name)): scope for scope, names in _NAMES_OF_SCOPE.items() for name in names.split()}
_SCOPES |= {
    _comparable(f"{OBO_IN_OWL}{form}"): scope
    for scope in SCOPES
    for form in (
        f"has{scope}Synonym",
        f"{scope}Synonym",
        f"has_{scope}_synonym",
        f"{scope}_synonym",
        f"has{scope}Synonyms",
    )
}


def names_table(
    names: Sequence[NameRecord], sources: Sequence[str], codes: Sequence[str | None] | None = None
) -> pa.Table:
    """Names as NAMES_SCHEMA has them.

    Args:
        names: n names.
        sources: (n,) the source of each.
        codes: (n,) the code of each in its source; None for names without one.
    """
    policy = TextPolicy()
    columns = {
        "concept_id": [record.concept_id for record in names],
        "language": [record.language for record in names],
        "name": [normalize(record.name, policy) for record in names],
        "kind": [record.kind for record in names],
        "source": list(sources),
        "code": [None] * len(names) if codes is None else list(codes),
        "status": [record.status for record in names],
    }
    return pa.table(columns, NAMES_SCHEMA)


def definitions_table(definitions: Sequence[NameRecord], sources: Sequence[str]) -> pa.Table:
    """Definitions as DEFINITIONS_SCHEMA has them. sources: (n,) the source of each."""
    policy = TextPolicy()
    columns = [
        [record.concept_id for record in definitions],
        [record.language for record in definitions],
        [normalize(record.name, policy) for record in definitions],
        list(sources),
    ]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=DEFINITIONS_SCHEMA)


def relations_table(parents: Sequence[tuple[str, str]]) -> pa.Table:
    """Pairs of a concept and a broader one as RELATIONS_SCHEMA has them."""
    columns = [pa.array([pair[side] for pair in parents], pa.string()) for side in (0, 1)]
    return pa.table(columns, schema=RELATIONS_SCHEMA)
