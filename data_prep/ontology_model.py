"""What a reader of an ontology format returns: names, cross-references, and merged, obsolete and living identifiers.

A reader of a format (obo, owl, obographs, translations) fills these in without deciding what is kept. Identifiers are written alike whatever
the format: an IRI that ends in PREFIX_LOCAL becomes PREFIX:LOCAL, as in OBO (https://obofoundry.org/id-policy.html). Properties are identified
by their IRI (https://owlcollab.github.io/oboformat/doc/obo-syntax.html, section 5; https://www.w3.org/TR/skos-reference/).
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from xsap.errors import DataError
from xsap.languages import ENGLISH, to_iso

SCOPES = ("EXACT", "NARROW", "RELATED", "BROAD")
LABEL = "rdfs:label"  # the scope of a concept's label

OBO, OBO_IN_OWL = "http://purl.obolibrary.org/obo/", "http://www.geneontology.org/formats/oboInOwl#"
RDFS, SKOS = "http://www.w3.org/2000/01/rdf-schema#", "http://www.w3.org/2004/02/skos/core#"
DEPRECATED = "http://www.w3.org/2002/07/owl#deprecated"
REPLACED_BY = f"{OBO}IAO_0100001"
ALTERNATIVE_ID = f"{OBO_IN_OWL}hasAlternativeId"
REFERENCE = f"{OBO_IN_OWL}hasDbXref"
SCOPE_OF = {f"{RDFS}label": LABEL, f"{SKOS}prefLabel": LABEL, f"{SKOS}altLabel": "EXACT"}
SCOPE_OF |= {f"{OBO_IN_OWL}has{scope.title()}Synonym": scope for scope in SCOPES}
PROPERTIES = {*SCOPE_OF, DEPRECATED, REPLACED_BY, ALTERNATIVE_ID, REFERENCE}  # those that `add_property` understands

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

    merged: merged identifier → the one that remains. replaced: obsolete identifier → its successors. obsolete, living: identifiers of
    concepts. references: identifier → cross-references.
    """

    names: list[NameRecord] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    obsolete: set[str] = field(default_factory=set)
    living: set[str] = field(default_factory=set)
    references: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def add_property(
    ontology: Ontology, concept_id: str, property_iri: str, value: str, *, language: str = "", kind: str = ""
) -> None:
    """Add the value of one property of a concept.

    Args:
        ontology: Takes the value.
        concept_id: The concept.
        property_iri: The property; one that is not in PROPERTIES is ignored.
        value: A text or an IRI.
        language: Any language code of a name; English if empty.
        kind: The kind of a name; by default a label is preferred and all others are synonyms.
    """
    scope = SCOPE_OF.get(property_iri)
    if scope:
        code, rejection_reason = parse_language(language) if language else (ENGLISH, None)
        kind = kind or ("preferred" if scope == LABEL else "synonym")
        ontology.names.append(
            NameRecord(concept_id, code, value.strip(), scope, kind=kind, rejection_reason=rejection_reason)
        )
    elif property_iri == ALTERNATIVE_ID:
        ontology.merged[identifier(value)] = concept_id
    elif property_iri == REPLACED_BY:
        ontology.replaced[concept_id].append(identifier(value))
    elif property_iri == REFERENCE:
        add_reference(ontology, concept_id, value)
    elif property_iri == DEPRECATED and value.strip() in {"true", "1"}:
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
