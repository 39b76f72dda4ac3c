"""OBO files (versions 1.2 and 1.4) and OBO graphs, an ontology as JSON.

OBO has `[Term]` stanzas of tags (https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html). A value may be followed by modifiers in
braces and a comment after `!`, and has escapes; a synonym has its text in quotes, then a scope (RELATED by default) and optionally a type.

OBO graphs have a list of nodes (https://github.com/geneontology/obographs). A node of type CLASS has an `id` (an IRI or a CURIE), a label
`lbl`, and under `meta` its synonyms, definition, cross-references, `deprecated`, and all other properties as `basicPropertyValues`; an edge whose
predicate is `is_a` leads to a broader one. All names are English, because the format has no languages. A file is one JSON document without a guaranteed order, so it is read whole; positions in it are written
as JSONPath (RFC 9535).
"""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.accounting import Rejects, reject
from data_prep.ontology_model import (
    LABEL,
    OBO_IN_OWL,
    PREFIXES,
    RDFS,
    SCOPES,
    NameRecord,
    Ontology,
    add_property,
    add_reference,
    expand,
    holds_names,
    identifier,
    kind_of_synonym,
    scope_of,
)
from xsap.errors import DataError
from xsap.files import check_json_type, numbered_lines, parse_json
from xsap.languages import ENGLISH

_SYNONYM = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"\s*(?P<scope>EXACT|NARROW|BROAD|RELATED)?\s*(?P<type>[^\s\[{]*)')
_DEFINITION = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"')
_SCOPED_TAGS = {f"{scope.lower()}_synonym": scope for scope in SCOPES}  # of OBO 1.0, where the scope is part of the tag
_PROPERTY_VALUE = re.compile(r'(?P<property>\S+)\s+"(?P<text>(?:[^"\\]|\\.)*)"')
_WORD = re.compile(r"(?:[^\s\\]|\\.)*")
_TRAILER = re.compile(r"(?<!\\)\s(?=[{!])")  # where modifiers or a comment may begin
_CLOSED = re.compile(r"\}\s*(?=!|$)")  # where modifiers may end
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", "t": "\t", "W": " "}


def read_obo(path: Path, rejects: Rejects | None = None) -> Ontology:
    """Read the terms of an OBO file. rejects: collects malformed terms and synonyms. Raises DataError with file and line."""
    ontology, stanza, kind, prefixes = Ontology(), list[tuple[str, str, int]](), "", dict(PREFIXES)
    begin = 0
    for number, line in chain(numbered_lines(path), [(0, "[End]")]):
        if line.startswith("["):
            if kind == "[Term]":
                _add_term(ontology, stanza, begin, prefixes, path, rejects)
            stanza, kind, begin = [], line.strip(), number
        elif ":" in line:
            tag, value = line.split(":", 1)
            stanza.append((tag, value.strip(), number))
            if not kind and tag == "idspace" and len(words := value.split()) > 1:
                prefixes[words[0]] = _unescape(words[1])
    if not ontology.living:
        raise DataError(
            f"{path}: expected an OBO file with [Term] stanzas, found none that is not obsolete. Is it the right file?"
        )
    return ontology


def _add_term(
    ontology: Ontology,
    stanza: list[tuple[str, str, int]],
    begin: int,
    prefixes: Mapping[str, str],
    path: Path,
    rejects: Rejects | None,
) -> None:
    """Add one stanza: its (tag, value, line number) in order. begin: the line that it begins with."""
    ids = [_plain(value) for tag, value, _ in stanza if tag == "id" and _plain(value)]
    if len(ids) != 1:
        error = DataError(f"{path}:{begin}: expected one id in this [Term], found {len(ids)}")
        reject(rejects, path, begin, error)
        return
    obsolete = any(tag == "is_obsolete" and _plain(value) in {"true", "True", "TRUE", "1"} for tag, value, _ in stanza)
    (ontology.obsolete if obsolete else ontology.living).add(ids[0])
    for tag, value, number in stanza:
        if tag == "name":
            ontology.names.append(NameRecord(ids[0], ENGLISH, _plain(value), LABEL, kind="preferred"))
        elif tag == "synonym" or tag in _SCOPED_TAGS:
            try:
                record = _synonym(ids[0], value, f"{path}:{number}")
            except DataError as fault:
                reject(rejects, path, number, fault)
            else:
                ontology.names.append(record._replace(scope=_SCOPED_TAGS.get(tag, record.scope)))
        elif tag == "property_value" and (match := _PROPERTY_VALUE.match(value)):
            iri = expand(_unescape(match["property"]), prefixes)
            unread = {iri} if holds_names(iri) else ()
            add_property(ontology, ids[0], iri, _unescape(match["text"]), unread=unread)
        elif tag == "def":
            quoted = _DEFINITION.match(value)
            text, reason = (_unescape(quoted["text"]), None) if quoted else (value, "definition without quotes")
            ontology.definitions.append(NameRecord(ids[0], ENGLISH, text, LABEL, rejection_reason=reason))
        elif tag == "is_a":
            ontology.parents.append((ids[0], _plain(value)))
        elif tag == "alt_id":
            ontology.merged[_plain(value)] = ids[0]
        elif tag == "replaced_by":
            ontology.replaced[ids[0]].append(_plain(value))
        elif tag == "xref":
            word = _WORD.match(value)
            add_reference(ontology, ids[0], _unescape(word[0] if word else ""))


def _synonym(concept_id: str, value: str, where: str) -> NameRecord:
    match = _SYNONYM.match(value)
    if match is None:
        raise DataError(f"{where}: expected a synonym such as \"name\" EXACT [], found '{value[:80]}'")
    return NameRecord(
        concept_id, ENGLISH, _unescape(match["text"]), match["scope"] or "RELATED", kind=kind_of_synonym(match["type"])
    )


def _plain(value: str) -> str:
    """An unquoted OBO value without its trailing modifiers and comment, escapes undone."""
    closed = max((match.start() for match in _CLOSED.finditer(value)), default=0)
    trailers = (match for match in _TRAILER.finditer(value) if value[match.end()] == "!" or match.end() < closed)
    text = value[: next((match.start() for match in trailers), len(value))]
    return _unescape(text + " ").strip()  # a backslash at the end escapes nothing


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), text)


def read_obographs(path: Path, rejects: Rejects | None = None) -> Ontology:
    """Read the classes of an obographs file. rejects: collects malformed nodes. Raises DataError with file and JSONPath."""
    text = "\n".join(line for _, line in numbered_lines(path))
    document = check_json_type(parse_json(text, str(path), "an obographs document"), dict, f"{path}: $")
    if "graphs" not in document:
        raise DataError(
            f"{path}: expected an obographs document with 'graphs', found {', '.join(list(document)[:8]) or 'nothing'} in it"
        )
    ontology = Ontology()
    nodes = [
        (f"$.graphs[{g}].nodes[{n}]", node)
        for g, graph in enumerate(_objects(document, "graphs", f"{path}: $"))
        for n, node in enumerate(_objects(graph, "nodes", f"{path}: $.graphs[{g}]"))
    ]
    labels: dict[str, str] = {}  # of properties
    for kind in ("PROPERTY", "CLASS"):
        for place, node in nodes:
            where, part = f"{path}: {place}", Ontology()
            try:
                if node.get("type") == kind == "PROPERTY":
                    labels[_get(node, "id", str, where, "")] = _get(node, "lbl", str, where, "")
                elif node.get("type") == kind:
                    _add_node(part, node, labels, where)
            except DataError as error:
                reject(rejects, path, place, error)
            else:
                ontology.add(part)
    _add_edges(ontology, document, path, rejects)
    ontology.living -= ontology.obsolete
    if not ontology.living:
        raise DataError(
            f"{path}: expected an obographs document with nodes of type CLASS, found none that is not obsolete. Is it the right file?"
        )
    return ontology


def _add_edges(ontology: Ontology, document: dict[str, Any], path: Path, rejects: Rejects | None) -> None:
    """Add the parents that the edges of all graphs state."""
    for g, graph in enumerate(_objects(document, "graphs", f"{path}: $")):
        for e, edge in enumerate(_objects(graph, "edges", f"{path}: $.graphs[{g}]")):
            place = f"$.graphs[{g}].edges[{e}]"
            try:
                sub, predicate, parent = (
                    _get(edge, key, str, f"{path}: {place}", "") for key in ("sub", "pred", "obj")
                )
            except DataError as error:
                reject(rejects, path, place, error)
                continue
            if predicate == "is_a":
                ontology.parents.append((identifier(sub), identifier(parent)))


def _add_node(ontology: Ontology, node: dict[str, Any], labels: Mapping[str, str], where: str) -> None:
    concept_id = identifier(_get(node, "id", str, where, ""))
    if not concept_id:
        raise DataError(f"{where}: expected an id, found none")
    meta = _get(node, "meta", dict, where, {})
    (ontology.obsolete if _get(meta, "deprecated", bool, where, False) else ontology.living).add(concept_id)
    if label := _get(node, "lbl", str, where, ""):
        add_property(ontology, concept_id, f"{RDFS}label", label)
    for synonym in _objects(meta, "synonyms", where):
        predicate, name = _get(synonym, "pred", str, where, ""), _get(synonym, "val", str, where, "")
        iri = predicate if ":" in predicate else OBO_IN_OWL + predicate
        if scope_of(iri) in {None, LABEL}:
            ontology.names.append(
                NameRecord(
                    concept_id, ENGLISH, name, predicate, rejection_reason=f"synonym of unknown scope {predicate}"
                )
            )
        else:
            add_property(
                ontology, concept_id, iri, name, kind=kind_of_synonym(_get(synonym, "synonymType", str, where, ""))
            )
    if text := _get(_get(meta, "definition", dict, where, {}), "val", str, f"{where}.definition", ""):
        ontology.definitions.append(NameRecord(concept_id, ENGLISH, text, LABEL))
    for reference in _objects(meta, "xrefs", where):
        add_reference(ontology, concept_id, _get(reference, "val", str, where, ""))
    for one in _objects(meta, "basicPropertyValues", where):
        iri, value = _get(one, "pred", str, where, ""), _get(one, "val", str, where, "")
        unread = {iri} if "://" not in value and holds_names(iri, labels.get(iri, "")) else ()
        language = _get(one, "lang", str, where, "")
        add_property(ontology, concept_id, iri, value, language=language, unread=unread)


def _objects(parent: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    return [
        check_json_type(one, dict, f"{where}.{key}[{i}]") for i, one in enumerate(_get(parent, key, list, where, []))
    ]


def _get(parent: dict[str, Any], key: str, kind: type, where: str, default: Any) -> Any:
    """The value of a key, which must be of type `kind`; `default` if it is missing. Raises DataError."""
    value = parent.get(key)
    return default if value is None else check_json_type(value, kind, f"{where}.{key}")
