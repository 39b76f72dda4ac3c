"""What the reconciliation API returns besides candidates: suggestions, values of properties, and a preview page, as pure functions.

A preview is one HTML page without a script or anything to load, for a frame in which scripts are forbidden. Names come from terminologies that
somebody else wrote, so each is escaped and gets its own direction of writing.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pydantic import BaseModel, TypeAdapter

from xsap.errors import DataError
from xsap.languages import UNKNOWN, to_name
from xsap.linking.results import Candidate
from xsap.server.concepts import ConceptEntry, ConceptName, ConceptTable
from xsap.server.reconciliation import (
    CODES_PROPERTY,
    QUERY_PROPERTIES,
    TYPES_PROPERTY,
    ApiVersion,
    describe_type,
    is_exact,
)
from xsap.server.requests import RequestError, validated
from xsap.text import fold_accents

PREFERRED_PROPERTY, NAMES_PROPERTY = "preferred_name", "names"
MOST_PROPERTIES = 100  # of a request that extends data
NAMES_SHOWN = 30  # on a preview page
# nothing is loaded and nothing runs, whoever shows the page
PREVIEW_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    ":root{color-scheme:light dark}body{font:14px/1.45 system-ui,sans-serif;margin:.6rem;overflow-wrap:anywhere}"
    "h1{font-size:1.05rem;margin:0}p{margin:.15rem 0}dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .6rem;margin:.4rem 0}"
    "dt{opacity:.75}dd{margin:0}"
)


class WantedProperty(BaseModel):
    """A property whose values are asked for."""

    id: str


class ExtensionQuery(BaseModel):
    """Which properties of which concepts are asked for, in both versions."""

    ids: list[str]
    properties: list[WantedProperty]


_EXTENSION = TypeAdapter(ExtensionQuery)


def read_extension(query: Any, max_ids: int) -> ExtensionQuery:
    """A query for values of properties.

    Args:
        query: The query as JSON.
        max_ids: Concepts that a request may ask for.

    Raises:
        RequestError: It is no such query (400), or too long (413).
    """
    extension = validated(_EXTENSION, query, "extend")
    if len(extension.ids) > max_ids or len(extension.properties) > MOST_PROPERTIES:
        found = f"{len(extension.ids):,} and {len(extension.properties):,}"
        raise RequestError(413, f"expected at most {max_ids:,} ids and {MOST_PROPERTIES} properties, found {found}")
    return extension


def suggest_entities(prefix: str, table: ConceptTable, linked: Sequence[Candidate], limit: int) -> list[ConceptEntry]:
    """Concepts for what a person has typed: that of this id, those of which it is a name or a code, those of which a name begins with it, then
    those that the linker finds similar.

    Args:
        prefix: What was typed.
        table: The concepts.
        linked: The candidates of the linker for it.
        limit: How many to return, at most.
    """
    own = table.find(prefix.strip())
    exact = [each.concept_id for each in linked if is_exact(each)]
    begun = table.starting_with(prefix.strip(), limit)
    similar = [each.concept_id for each in linked]
    entries = {each.concept_id: each for each in ([own] if own else [])}
    for concept_id in exact:
        entries.setdefault(concept_id, _entry_of(table, concept_id))
    for each in begun:
        entries.setdefault(each.concept_id, each)
    for concept_id in similar:
        entries.setdefault(concept_id, _entry_of(table, concept_id))
    return list(entries.values())[:limit]


def _entry_of(table: ConceptTable, concept_id: str) -> ConceptEntry:
    entry = table.find(concept_id)
    assert entry is not None, f"the linker answered {concept_id}, which the index does not have"
    return entry


def describe_entity(entry: ConceptEntry) -> dict[str, Any]:
    """A suggested concept."""
    described = {
        "id": entry.concept_id,
        "name": entry.name,
        "notable": [describe_type(each) for each in entry.semantic_types],
    }
    return described | {"description": " · ".join([entry.concept_id, *entry.codes[:3]])}


def properties_of(table: ConceptTable) -> list[dict[str, str]]:
    """The properties whose values can be asked for."""
    return [
        {"id": PREFERRED_PROPERTY, "name": "Preferred name"},
        {"id": TYPES_PROPERTY, "name": QUERY_PROPERTIES[TYPES_PROPERTY]},
        *({"id": f"{NAMES_PROPERTY}:{each}", "name": f"Names in {language_name(each)}"} for each in table.languages),
        *({"id": f"{CODES_PROPERTY}:{each}", "name": f"Codes in {each}"} for each in table.sources),
    ]


def suggest_properties(prefix: str, table: ConceptTable) -> list[dict[str, str]]:
    """Properties for what a person has typed: those to extend by, and those that queries can have."""
    in_queries = [
        {"id": each, "name": name, "description": "in queries"}
        for each, name in QUERY_PROPERTIES.items()
        if each != TYPES_PROPERTY
    ]
    return _matching(prefix, [*properties_of(table), *in_queries])


def suggest_types(prefix: str, types: Iterable[str]) -> list[dict[str, str]]:
    """Semantic types for what a person has typed."""
    return _matching(prefix, map(describe_type, types))


def _matching(prefix: str, described: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """What has the typed text in its name, or as the beginning of its id; first what begins with it."""
    typed = fold_accents(prefix)
    found = []
    for each in described:
        identifier, name = fold_accents(each["id"]), fold_accents(each["name"])
        if typed in name or identifier.startswith(typed):
            found.append((not (identifier.startswith(typed) or name.startswith(typed)), each))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def language_name(code: str) -> str:
    """The English name of a language; its code where there is none."""
    try:
        return to_name(code)
    except (DataError, KeyError):
        return "an unknown language" if code == UNKNOWN else code


def extend(version: ApiVersion, extension: ExtensionQuery, table: ConceptTable) -> dict[str, Any]:
    """The values of properties of concepts. A concept or property that the index does not have has no values.

    Args:
        version: Of the API.
        extension: What is asked for.
        table: The concepts.
    """
    known = {each["id"]: each["name"] for each in properties_of(table)}
    wanted = [each.id for each in extension.properties]
    values = {
        concept_id: {each: _values_of(table.find(concept_id), each, table) for each in wanted}
        for concept_id in extension.ids
    }
    meta = [{"id": each, "name": known.get(each, each)} for each in wanted]
    if version == "0.2":
        return {"meta": meta, "rows": values}
    rows = [
        {"id": concept_id, "properties": [{"id": each, "values": values[concept_id][each]} for each in wanted]}
        for concept_id in extension.ids
    ]
    return {"meta": meta, "rows": rows}


def _values_of(entry: ConceptEntry | None, property_id: str, table: ConceptTable) -> list[dict[str, str]]:
    kind, _, of = property_id.partition(":")
    if entry is None:
        texts: Sequence[str] = []
    elif property_id == PREFERRED_PROPERTY:
        texts = [entry.name]
    elif property_id == TYPES_PROPERTY:
        texts = entry.semantic_types
    elif kind == CODES_PROPERTY:
        texts = entry.codes_in(of)
    elif kind == NAMES_PROPERTY:
        texts = [name.text for name in table.names_of(entry) if of in name.languages]
    else:
        texts = []
    return [{"str": text} for text in texts]


def preview(
    entry: ConceptEntry,
    names: Sequence[ConceptName],
    definition: str | None = None,
    parents: Sequence[ConceptEntry] = (),
) -> str:
    """A small HTML page about a concept.

    Args:
        entry: The concept.
        names: Its names, its preferred ones first.
        definition: What it is, if that is known.
        parents: The concepts right above it.
    """
    rows = [("Id", _text(entry.concept_id))]
    if definition:
        rows.append(("Definition", _text(definition)))
    if parents:
        rows.append(("Broader", _text(", ".join(f"{each.name} ({each.concept_id})" for each in parents))))
    if entry.semantic_types:
        rows.append(("Types", _text(", ".join(describe_type(each)["name"] for each in entry.semantic_types))))
    if entry.codes:
        rows.append(("Codes", _text(", ".join(entry.codes))))
    by_language: dict[str, list[str]] = {}
    for name in names[:NAMES_SHOWN]:
        for language in name.languages:
            by_language.setdefault(language, []).append(name.text)
    for language, texts in by_language.items():
        tag = "" if language == UNKNOWN else f' lang="{escape(language)}"'
        rows.append((language_name(language), " · ".join(f"<bdi{tag}>{escape(text)}</bdi>" for text in texts)))
    lines = "".join(f"<dt>{escape(term)}</dt><dd>{content}</dd>" for term, content in rows)
    more = f"<p>and {len(names) - NAMES_SHOWN:,} more names</p>" if len(names) > NAMES_SHOWN else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(entry.name)}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{_text(entry.name)}</h1><dl>{lines}</dl>{more}</body></html>"
    )


def _text(text: str) -> str:
    """Text of any direction, escaped."""
    return f'<bdi dir="auto">{escape(text)}</bdi>'
