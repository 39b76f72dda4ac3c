"""OBO graphs: an ontology as JSON, with a list of nodes (https://github.com/geneontology/obographs).

A node of type CLASS has an `id` (an IRI or a CURIE), a label `lbl`, and under `meta` its synonyms, cross-references, `deprecated`, and all
other properties as `basicPropertyValues`. The format has no languages: all its names are English. It is one JSON document with neither lines
nor an order to rely on, so it is read whole. A place in it is written as in JSONPath (RFC 9535).
"""

from pathlib import Path
from typing import Any

from data_prep.files import lines, of_kind, parse_json
from data_prep.offers import LABEL, OBO_IN_OWL, RDFS, SCOPE_OF, Offer, Ontology, add, identifier, kind_of_synonym, refer
from xsap.errors import DataError
from xsap.languages import ENGLISH


def read_obographs(path: Path) -> Ontology:
    """The living and obsolete classes of an obographs file and what it says of them. Raises DataError with file and place."""
    text = "\n".join(line for _, line in lines(path))
    document = of_kind(parse_json(text, str(path), "an obographs document"), dict, f"{path}: $")
    if "graphs" not in document:
        raise DataError(f"{path}: expected an obographs document with 'graphs', found {', '.join(list(document)[:8]) or 'nothing'} in it")
    ontology = Ontology()
    for g, graph in enumerate(_objects(document, "graphs", f"{path}: $")):
        for n, node in enumerate(_objects(graph, "nodes", f"{path}: $.graphs[{g}]")):
            if node.get("type") == "CLASS":
                _add_node(ontology, node, f"{path}: $.graphs[{g}].nodes[{n}]")
    ontology.living -= ontology.obsolete
    if not ontology.living:
        raise DataError(f"{path}: expected an obographs document with nodes of type CLASS, found no living one. Is it the right file?")
    return ontology


def _add_node(ontology: Ontology, node: dict[str, Any], where: str) -> None:
    concept_id = identifier(_get(node, "id", str, where, ""))
    if not concept_id:
        raise DataError(f"{where}: expected an id, found none")
    meta = _get(node, "meta", dict, where, {})
    (ontology.obsolete if _get(meta, "deprecated", bool, where, False) else ontology.living).add(concept_id)
    if label := _get(node, "lbl", str, where, ""):
        add(ontology, concept_id, f"{RDFS}label", label)
    for synonym in _objects(meta, "synonyms", where):
        predicate, name = _get(synonym, "pred", str, where, ""), _get(synonym, "val", str, where, "")
        iri = predicate if ":" in predicate else OBO_IN_OWL + predicate
        if SCOPE_OF.get(iri, LABEL) == LABEL:
            ontology.offers.append(Offer(concept_id, ENGLISH, name, predicate, why_not=f"synonym of unknown scope {predicate}"))
        else:
            add(ontology, concept_id, iri, name, kind=kind_of_synonym(_get(synonym, "synonymType", str, where, "")))
    for reference in _objects(meta, "xrefs", where):
        refer(ontology, concept_id, _get(reference, "val", str, where, ""))
    for one in _objects(meta, "basicPropertyValues", where):
        add(ontology, concept_id, _get(one, "pred", str, where, ""), _get(one, "val", str, where, ""))


def _objects(parent: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    return [of_kind(one, dict, f"{where}.{key}[{i}]") for i, one in enumerate(_get(parent, key, list, where, []))]


def _get(parent: dict[str, Any], key: str, kind: type, where: str, default: Any) -> Any:
    """The value of a key, which must be of a kind; `default` where there is none. Raises DataError."""
    value = parent.get(key)
    return default if value is None else of_kind(value, kind, f"{where}.{key}")
