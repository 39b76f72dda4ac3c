"""OWL files in RDF/XML: the classes (and SKOS concepts) with their labels, synonyms, definitions, parents and status, read in one pass.

RDF/XML nests properties in their node (https://www.w3.org/TR/rdf-syntax-grammar/), and OWL tools write each node directly under rdf:RDF. So a
file is a list of nodes with a list of properties each, and memory holds one node, not the tree. Axioms on axioms are skipped, except the type
of a synonym, which marks abbreviations.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.ontology_model import (
    OBO_IN_OWL,
    PROPERTIES,
    RDFS,
    SKOS,
    Ontology,
    add_property,
    holds_names,
    identifier,
    kind_of_synonym,
    scope_of,
)
from data_prep.xml_events import xml_events
from xsap.errors import DataError

_RDF, _OWL, _XML = (
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "http://www.w3.org/2002/07/owl#",
    "http://www.w3.org/XML/1998/namespace",
)
_ABOUT, _ID, _RESOURCE, _TYPE = f"{{{_RDF}}}about", f"{{{_RDF}}}ID", f"{{{_RDF}}}resource", f"{_RDF}type"
_LANGUAGE, _BASE = f"{{{_XML}}}lang", f"{{{_XML}}}base"
_DEPRECATED_CLASS, _AXIOM = f"{_OWL}DeprecatedClass", f"{_OWL}Axiom"
_CLASS = {f"{_OWL}Class", f"{RDFS}Class", f"{SKOS}Concept", _DEPRECATED_CLASS}
_ANNOTATION_PROPERTY = {f"{_OWL}AnnotationProperty", f"{_OWL}DatatypeProperty"}
_ANNOTATED = tuple(f"{_OWL}annotated{part}" for part in ("Source", "Property", "Target"))
_SYNONYM_TYPE = f"{OBO_IN_OWL}hasSynonymType"
_WANTED = {*PROPERTIES, *_ANNOTATED, _SYNONYM_TYPE, _TYPE}
_MAX_DEPTH = 1000  # class expressions nest some ten deep


class _Property(NamedTuple):
    iri: str
    value: str  # a text, or the IRI of what it points to
    language: str
    is_text: bool = True


class _Node(NamedTuple):
    """A node of the file. iri: empty for a blank node. types: that of the element, and those of rdf:type."""

    iri: str
    types: set[str]
    properties: list[_Property]


def read_owl(path: Path) -> Ontology:
    """Read the classes of an OWL file. Raises DataError with file and line."""
    ontology, classes, abbreviations = Ontology(), set[str](), set[tuple[str, str, str]]()
    labels = dict[str, str]()  # of properties, which OWL tools write before the classes

    def is_wanted(iri: str) -> bool:
        return iri in _WANTED or holds_names(iri, labels.get(iri, ""))

    for node in _nodes(path, is_wanted):
        if _AXIOM in node.types:
            values = {one.iri: one.value for one in node.properties}
            source, about, target = (values.get(iri, "") for iri in _ANNOTATED)
            if (scope := scope_of(about)) and kind_of_synonym(values.get(_SYNONYM_TYPE, "")) == "abbreviation":
                abbreviations.add((identifier(source), scope, target.strip()))
            continue
        if not node.iri:
            continue
        concept_id = identifier(node.iri)
        if node.types & _CLASS:
            classes.add(concept_id)
        if _DEPRECATED_CLASS in node.types:
            ontology.obsolete.add(concept_id)
        if node.types & _ANNOTATION_PROPERTY:
            labels[node.iri] = next((one.value for one in node.properties if one.iri == f"{RDFS}label"), "")
        for one in node.properties:
            unread = {one.iri} if one.is_text and holds_names(one.iri, labels.get(one.iri, "")) else ()
            add_property(ontology, concept_id, one.iri, one.value, language=one.language, unread=unread)
    return _keep_classes(ontology, classes, abbreviations, path)


def _keep_classes(
    ontology: Ontology, classes: set[str], abbreviations: set[tuple[str, str, str]], path: Path
) -> Ontology:
    """The data of classes only: properties and individuals have labels too, and which is which is known at the end of the file."""
    obsolete = ontology.obsolete & classes
    if not classes - obsolete:
        raise DataError(
            f"{path}: expected an OWL file with classes, found none that is not obsolete. Is it the right file?"
        )
    names = [
        record._replace(kind="abbreviation")
        if (record.concept_id, record.scope, record.name) in abbreviations
        else record
        for record in ontology.names
        if record.concept_id in classes
    ]
    merged = {old: new for old, new in ontology.merged.items() if new in classes}
    references = {concept_id: found for concept_id, found in ontology.references.items() if concept_id in classes}
    definitions = [record for record in ontology.definitions if record.concept_id in classes]
    parents = [pair for pair in ontology.parents if pair[0] in classes]
    living = classes - obsolete
    return Ontology(names, definitions, parents, merged, ontology.replaced, obsolete, living, references)


def _nodes(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[_Node]:
    """The nodes directly under rdf:RDF, with the properties that are wanted. Raises DataError."""
    base, iri = "", ""
    languages = ["", ""]  # of the root and of the node; elements inside inherit it
    for event, element, depth in xml_events(path, "OWL as RDF/XML", "robot convert", max_depth=_MAX_DEPTH):
        if (event, depth) == ("start", 1):
            _check_root(element, path)
            root, base, languages[0] = element, element.get(_BASE, ""), element.get(_LANGUAGE, "")
        elif (event, depth) == ("start", 2):
            node, iri = element, _iri_of(element, base)
            languages[1] = element.get(_LANGUAGE, languages[0])
            # RDF/XML may write a property with a plain value as an attribute of its node.
            found = [
                _Property(_iri(key), value, languages[1])
                for key, value in element.attrib.items()
                if is_wanted(_iri(key))
            ]
        elif (event, depth) == ("end", 3):
            if is_wanted(_iri(element.tag)):
                found.append(_property(element, languages[1]))
            node.clear()
        elif (event, depth) == ("end", 2):
            yield _Node(iri, {_iri(element.tag), *(one.value for one in found if one.iri == _TYPE)}, found)
            root.clear()


def _check_root(element: ET.Element, path: Path) -> None:
    if _iri(element.tag) != f"{_RDF}RDF":
        found = element.tag.rpartition("}")[2]
        raise DataError(
            f"{path}: expected OWL as RDF/XML, within rdf:RDF, found {found}; convert it: robot convert --output x.owl"
        )


def _property(element: ET.Element, inherited: str) -> _Property:
    resource = element.get(_RESOURCE)
    if len(element) == 1 and _iri(element[0].tag) in _CLASS:  # a node in place of a reference to it
        resource = element[0].get(_ABOUT)
    text = resource or "".join(element.itertext())
    is_text = not resource and not len(element)
    return _Property(_iri(element.tag), text, element.get(_LANGUAGE, inherited), is_text)


def _iri_of(element: ET.Element, base: str) -> str:
    if _ID in element.attrib:
        return f"{base}#{element.attrib[_ID]}"
    about = element.get(_ABOUT, "")
    return base + about if about.startswith("#") else about


def _iri(tag: str) -> str:
    """The IRI for a tag as the parser writes it: `{http://…#}label`."""
    return tag[1:].replace("}", "", 1) if tag.startswith("{") else tag
