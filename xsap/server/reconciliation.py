"""The reconciliation API, with which OpenRefine maps a column to concepts: queries, candidates and the manifest, as pure functions.

Versions 0.2 and 1.0-draft (https://reconciliation-api.github.io/specs/) differ in the names of fields and in where answers stand, so each has
its own reader and writer; what lies between them is one. A type never excludes a concept: a concept without it, or that lacks another wished
property, gets half its score. Scores are from 0 to 100: the confidence of the first candidate where the index is calibrated, and what it
leaves for the others; else 100 times the linker's score. At most one candidate is a `match`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from xsap import __version__
from xsap.errors import DataError
from xsap.languages import UNKNOWN, to_iso, to_name
from xsap.linking.name_keys import ACCENTS, CODE, SIMILAR
from xsap.linking.ranking import Filter
from xsap.linking.results import Candidate, Result
from xsap.server.concepts import ConceptEntry
from xsap.server.link_queue import LinkOptions
from xsap.server.requests import RequestError, validated
from xsap.terms.semantic_types import GROUPS, group_of

VERSIONS: tuple["ApiVersion", ...] = ("0.2", "1.0")
ApiVersion = Literal["0.2", "1.0"]
DEFAULT_LIMIT, MOST_CANDIDATES = 5, 50
CANDIDATES_COMPARED = 25  # at least, where wished properties change their order
MATCH_CONFIDENCE = 0.95  # of a first candidate that is a match, where the index is calibrated
PREVIEW_WIDTH, PREVIEW_HEIGHT = 420, 220  # pixels

TYPES_PROPERTY, LANGUAGE_PROPERTY, SOURCE_PROPERTY, CODES_PROPERTY = "types", "lang", "source", "codes"
QUERY_PROPERTIES = {
    LANGUAGE_PROPERTY: "Language of the term",
    TYPES_PROPERTY: "Semantic types",
    SOURCE_PROPERTY: "Vocabulary in which the concept has a code",
}


class ReferencedValue(BaseModel):
    """A property value that is an entity."""

    id: str


PropertyValue = str | bool | int | float | ReferencedValue
PropertyValues = PropertyValue | list[PropertyValue]


class PropertyOf02(BaseModel):
    """A property of a query in version 0.2."""

    model_config = ConfigDict(strict=True)
    pid: str
    v: PropertyValues


class QueryOf02(BaseModel):
    """A query in version 0.2."""

    model_config = ConfigDict(extra="forbid", strict=True)
    query: str | None = None
    type: str | list[str] | None = None
    type_strict: Literal["any", "should", "all"] | None = None  # a type never excludes anything
    limit: float | None = None
    properties: list[PropertyOf02] | None = None


class ConditionOf10(BaseModel):
    """A condition of a query in version 1.0-draft."""

    model_config = ConfigDict(strict=True)
    matchType: Literal["name", "id", "property"]  # noqa: N815
    propertyValue: PropertyValues  # noqa: N815
    propertyId: str | None = None  # noqa: N815
    required: bool = False
    matchQuantifier: Literal["any", "all", "none"] = "any"  # noqa: N815


class QueryOf10(BaseModel):
    """A query in version 1.0-draft."""

    model_config = ConfigDict(extra="forbid", strict=True)
    conditions: list[ConditionOf10]
    type: str | None = None
    limit: float | None = None
    lang: str | None = None
    dir: str | None = None  # the direction of writing makes no difference here


class BatchOf10(BaseModel):
    """The queries of a request in version 1.0-draft."""

    queries: list[QueryOf10]


_BATCH_OF_02, _BATCH_OF_10 = TypeAdapter(dict[str, QueryOf02]), TypeAdapter(BatchOf10)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a candidate should have.

    Attributes:
        property_id: Of the property.
        values: Wanted values.
        quantifier: Whether a candidate should have any, all or none of them.
        required: Whether other candidates are left out.
    """

    property_id: str
    values: frozenset[str]
    quantifier: Literal["any", "all", "none"] = "any"
    required: bool = False

    def is_met(self, candidate: Candidate) -> bool:
        """Whether a candidate has what it should have."""
        found = property_values(candidate, self.property_id)
        if self.quantifier == "none":
            return not self.values & found
        return self.values <= found if self.quantifier == "all" else bool(self.values & found)


@dataclass(frozen=True, slots=True)
class ReconciliationQuery:
    """A query of any version.

    Attributes:
        text: The term; empty if there is none.
        concept_ids: Ids that are asked for instead of a term.
        limit: Candidates wanted.
        language: Of the term, ISO 639; UNKNOWN where it is not given or not known.
        conditions: What candidates should have.
    """

    text: str = ""
    concept_ids: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
    language: str = UNKNOWN
    conditions: tuple[Condition, ...] = ()

    def options(self) -> LinkOptions:
        """How the term is linked: with more candidates than wanted where their order will change."""
        wanted = max(self.limit, CANDIDATES_COMPARED) if self.conditions else self.limit
        required = {
            each.property_id: each.values for each in self.conditions if each.required and each.quantifier == "any"
        }
        codes = {
            f"{property_id.removeprefix(f'{CODES_PROPERTY}:')}:{value}"
            for property_id, values in required.items()
            if property_id.startswith(f"{CODES_PROPERTY}:")
            for value in values
        }
        conditions = Filter(
            semantic_types=required.get(TYPES_PROPERTY),
            sources=required.get(SOURCE_PROPERTY),
            languages=required.get(LANGUAGE_PROPERTY),
            codes=codes or None,
        )
        return LinkOptions(wanted, conditions)


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate as the API shows it. score: 0 to 100. match: whether it may be chosen without a person."""

    candidate: Candidate
    score: float
    match: bool


def property_values(candidate: Candidate, property_id: str) -> frozenset[str]:
    """The values of a property that conditions can be about; none for an unknown property."""
    if property_id == TYPES_PROPERTY:
        return frozenset(candidate.semantic_types)
    if property_id == LANGUAGE_PROPERTY:
        return frozenset([candidate.language])
    pairs = [code.partition(":")[::2] for code in candidate.codes]
    if property_id == SOURCE_PROPERTY:
        return frozenset([candidate.source, *(source for source, _ in pairs)])
    if property_id.startswith(f"{CODES_PROPERTY}:"):
        return frozenset(code for source, code in pairs if f"{CODES_PROPERTY}:{source}" == property_id)
    return frozenset()


def read_batch_of_02(batch: Any) -> dict[str, ReconciliationQuery]:
    """The queries of a batch in version 0.2, by their keys. Raises RequestError (400)."""
    return {key: _query_of_02(query) for key, query in validated(_BATCH_OF_02, batch, "queries").items()}


def read_batch_of_10(batch: Any) -> list[ReconciliationQuery]:
    """The queries of a batch in version 1.0-draft. Raises RequestError (400)."""
    return [_query_of_10(query) for query in validated(_BATCH_OF_10, batch, "queries").queries]


def _query_of_02(query: QueryOf02) -> ReconciliationQuery:
    if query.query is None and not query.properties:
        raise RequestError(400, "expected each query to have a text or properties, found neither")
    types = [query.type] if isinstance(query.type, str) else query.type or []
    conditions = [Condition(TYPES_PROPERTY, frozenset(types))] if types else []
    language: str | None = None
    for each in query.properties or []:
        values = _strings_of(each.v)
        if each.pid == LANGUAGE_PROPERTY:
            language = values[0] if values else None
        elif values:
            conditions.append(Condition(each.pid, frozenset(values)))
    return ReconciliationQuery(
        query.query or "", (), _limit_of(query.limit), _known_language(language), tuple(conditions)
    )


def _query_of_10(query: QueryOf10) -> ReconciliationQuery:
    if not query.conditions:
        raise RequestError(400, "expected each query to have at least one condition, found none")
    texts: list[str] = []
    ids: list[str] = []
    conditions = [Condition(TYPES_PROPERTY, frozenset([query.type]))] if query.type else []
    language = query.lang
    for each in query.conditions:
        values = _strings_of(each.propertyValue)
        if each.matchType == "name":
            texts += values
        elif each.matchType == "id":
            ids += values
        elif each.propertyId is None:
            raise RequestError(400, "expected a condition on a property to have a propertyId, found none")
        elif each.propertyId == LANGUAGE_PROPERTY and not each.required:
            language = values[0] if values else language
        elif values:
            wanted = map(_known_language, values) if each.propertyId == LANGUAGE_PROPERTY else values
            conditions.append(Condition(each.propertyId, frozenset(wanted), each.matchQuantifier, each.required))
    text = texts[0] if texts else ""
    return ReconciliationQuery(text, tuple(ids), _limit_of(query.limit), _known_language(language), tuple(conditions))


def _strings_of(values: PropertyValues) -> list[str]:
    """Property values as strings: of entities their ids; blank ones are left out."""
    listed = values if isinstance(values, list) else [values]
    texts = [each.id if isinstance(each, ReferencedValue) else str(each) for each in listed]
    return [text for text in texts if text.strip()]


def _limit_of(limit: float | None) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    if limit < 1:
        raise RequestError(400, f"expected a limit of at least 1, found {limit:g}")
    return int(min(limit, MOST_CANDIDATES))


def _known_language(code: str | None) -> str:
    """The ISO 639 code of a language; UNKNOWN for one that is not known, because a query about it can be answered all the same."""
    try:
        return to_iso(code) if code else UNKNOWN
    except DataError:
        return UNKNOWN


def score_candidates(query: ReconciliationQuery, result: Result) -> list[ScoredCandidate]:
    """The candidates of a linked term in the order in which the API shows them.

    Args:
        query: The query.
        result: What its term was linked to, with `query.options()`.

    Returns:
        At most as many as the query wants, highest scores first.
    """
    found = result.candidates
    if not found:
        return []
    confidence, top = found[0].confidence, max(found[0].score, 0.0)
    scored: list[tuple[Candidate, float, bool]] = []
    ceiling = 100.0
    for rank, candidate in enumerate(found):
        share = min(1.0, max(candidate.score, 0.0) / top) if top else 0.0
        if confidence is None:
            score = 100 * min(1.0, max(candidate.score, 0.0))
        else:
            score = 100 * (confidence if rank == 0 else min(confidence, 1 - confidence) * share)
        ceiling = min(ceiling, score)  # the linker's order stands, also where names that differ in accents score less
        missed = sum(not each.is_met(candidate) for each in query.conditions if not each.required)
        if all(each.is_met(candidate) for each in query.conditions if each.required):
            scored.append((candidate, ceiling / 2**missed, missed == 0))
    scored.sort(key=lambda each: -each[1])
    return [
        ScoredCandidate(
            candidate,
            round(score, 4),
            rank == 0 and fits and _is_match(candidate, [other for other, _, suits in scored[1:] if suits]),
        )
        for rank, (candidate, score, fits) in enumerate(scored[: query.limit])
    ]


def _is_match(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether the first candidate is sure: by its confidence, or without one because it alone has the term as a name or code."""
    if candidate.confidence is not None:
        return candidate.confidence >= MATCH_CONFIDENCE
    return is_exact(candidate) and not any(map(is_exact, others))


def is_exact(candidate: Candidate) -> bool:
    """Whether the term is a name or a code of the candidate; other accents make another name."""
    return candidate.match not in (SIMILAR, ACCENTS)


def candidates_by_id(query: ReconciliationQuery, find: Callable[[str], ConceptEntry | None]) -> list[ScoredCandidate]:
    """The concepts whose ids a query asks for; a single one is a match.

    Args:
        query: The query.
        find: The concept of an id.
    """
    entries = [entry for entry in map(find, dict.fromkeys(query.concept_ids)) if entry is not None][: query.limit]
    candidates = [
        Candidate(
            each.concept_id,
            each.name,
            each.name,
            1.0,
            semantic_types=each.semantic_types,
            codes=each.codes,
            match=CODE,
        )
        for each in entries
    ]
    return [ScoredCandidate(each, 100.0, len(candidates) == 1) for each in candidates]


def describe_candidate(query: ReconciliationQuery, scored: ScoredCandidate) -> dict[str, Any]:
    """A candidate as both versions write it."""
    candidate = scored.candidate
    features: list[dict[str, Any]] = [
        _feature("cosine", "Score of the matched name: its cosine, 1 for an exact name", round(candidate.score, 6)),
        _feature("exact_name", "The term is a name or a code of the concept", is_exact(candidate)),
    ]
    if candidate.confidence is not None:
        features.append(_feature("confidence", "Probability that the concept is right", round(candidate.confidence, 6)))
    if query.language != UNKNOWN:
        same = candidate.language == query.language
        features.append(_feature("matched_language", "The matched name is in the language of the term", same))
    return {
        "id": candidate.concept_id,
        "name": candidate.name,
        "description": _description(candidate),
        "score": scored.score,
        "match": scored.match,
        "type": [describe_type(each) for each in candidate.semantic_types],
        "features": features,
    }


def _feature(feature_id: str, name: str, value: float | bool) -> dict[str, Any]:
    return {"id": feature_id, "name": name, "value": value}


def _description(candidate: Candidate) -> str:
    """The matched name and its language where it is not the preferred name, then the codes."""
    parts = []
    if candidate.matched_name != candidate.name:
        spoken = f" ({to_name(candidate.language)})" if candidate.language != UNKNOWN else ""
        parts.append(f"{candidate.matched_name}{spoken}")
    return " · ".join([*parts, *candidate.codes[:3]])


def describe_type(semantic_type: str) -> dict[str, str]:
    """A semantic type with its id and a name that people can read."""
    group = group_of(semantic_type)
    return {"id": semantic_type, "name": f"{semantic_type} ({GROUPS[group]})" if group else semantic_type}


def manifest(version: ApiVersion, base: str, name: str, types: Sequence[str], batch_size: int) -> dict[str, Any]:
    """What the service says of itself.

    Args:
        version: Of the API.
        base: The URL of its root, without a slash at the end.
        name: Of the service.
        types: The semantic types of the index; few are offered as choices.
        batch_size: Queries that one request may have.
    """
    common: dict[str, Any] = {
        "name": name,
        "serviceVersion": __version__,
        "defaultTypes": [describe_type(each) for each in types] if len(types) <= MOST_CANDIDATES else [],
        "batchSize": batch_size,
    }
    if version == "1.0":
        return common | {
            "versions": ["1.0-draft"],
            "view": {"url": f"{base}/view/{{id}}"},
            # the draft needs no url, but its test bench shows previews by it
            "preview": {"url": f"{base}/preview?id={{{{id}}}}", "width": PREVIEW_WIDTH, "height": PREVIEW_HEIGHT},
            "suggest": {"entity": True, "property": True, "type": True},
            "extend": {"proposeProperties": True, "propertySettings": []},
            "standardizedScore": True,
        }
    suggest: Mapping[str, Any] = {
        kind: {"service_url": base, "service_path": f"/suggest/{kind}"} for kind in ("entity", "property", "type")
    }
    return common | {
        "versions": ["0.2"],
        "identifierSpace": f"{base}/view/",
        "schemaSpace": f"{base}/suggest/type/",
        "view": {"url": f"{base}/view/{{{{id}}}}"},
        "preview": {"url": f"{base}/preview/{{{{id}}}}", "width": PREVIEW_WIDTH, "height": PREVIEW_HEIGHT},
        "suggest": suggest,
        "extend": {
            "propose_properties": {"service_url": base, "service_path": "/extend/propose"},
            "property_settings": [],
        },
    }
