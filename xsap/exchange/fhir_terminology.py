"""What a linker can answer of FHIR's terminology service (https://hl7.org/fhir/R4/terminology-service.html), as resources in JSON, without a server.

`ValueSet/$expand` with a filter searches names in any language, `ConceptMap/$translate` links a term, `CodeSystem/$lookup` describes a concept. It is no
terminology server: it knows the concepts of one index, no hierarchy, no value sets but all concepts of a code system, and no resources from requests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol
from uuid import NAMESPACE_URL, uuid5

import pyarrow.compute as pc

from xsap.errors import DataError
from xsap.exchange.code_systems import CODE_SYSTEMS, Coded, Vocabularies, system_of_uri
from xsap.exchange.fhir import FhirJson, Release
from xsap.exchange.mapping import CROSSWALK, Equivalence, MappedConcept
from xsap.languages import to_iso
from xsap.linking.dictionary import Dictionary, values_at
from xsap.linking.results import Candidate, Result
from xsap.server.concepts import ConceptEntry, ConceptTable

STATUS_CODES = {"not-found": 404, "not-supported": 422, "invalid": 400, "required": 400}
MAX_EXPANSION = 1000
DEFAULT_EXPANSION = 20
TERMS_SYSTEM = "http://ontoserver.csiro.au/fhir/CodeSystem/codesystem-terms"  # codes that are terms, as clients of Ontoserver send them
SCORE_EXTENSION = "http://xsap.invalid/fhir/score"

_IMPLICIT = "?fhir_vs"  # after a system: the value set of all its codes
_CODES_TRIED = 50
_RELATED = CROSSWALK[Equivalence.UNREVIEWED]


class LinksTerms(Protocol):
    """Links terms to concepts, as `Linker` does."""

    def link(  # noqa: D102
        self, mentions: Sequence[str], top_k: int = 5, *, languages: Sequence[str | None] | None = None
    ) -> Sequence[Result]: ...


class OperationError(Exception):
    """A request that can't be answered. kind: a key of STATUS_CODES, FHIR's code of the issue."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def status(self) -> int:
        """The status of the HTTP response."""
        return STATUS_CODES[self.kind]

    def outcome(self) -> FhirJson:
        """The body of the HTTP response."""
        return operation_outcome(self.kind, str(self))


def operation_outcome(kind: str, message: str) -> FhirJson:
    """An OperationOutcome with one error.

    Args:
        kind: FHIR's code of the issue.
        message: What is wrong, for people.
    """
    issue = {"severity": "error", "code": kind, "details": {"text": message}, "diagnostics": message}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


@dataclass(frozen=True)
class IndexTerminology:
    """The concepts of an index as FHIR sees them.

    Attributes:
        linker: Links terms to them.
        dictionary: Of the index.
        table: Its concepts.
        url: Of the service; its code system for concepts whose own is unknown is `url`/CodeSystem/index.
        version: Of the index, such as the start of its hash.
        now: The time, as FHIR writes it.
        release: r4 or r5.
        vocabularies: Finds the code system of a concept.
    """

    linker: LinksTerms
    dictionary: Dictionary
    table: ConceptTable
    url: str
    version: str
    now: Callable[[], str]
    release: Release = "r4"
    vocabularies: Vocabularies = field(default_factory=Vocabularies)

    @property
    def own_system(self) -> str:
        """The code system of the index's concept ids."""
        return f"{self.url}/CodeSystem/index"

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """The code systems of the index's concepts, its own first."""
        names = sorted(pc.unique(self.dictionary.concepts["vocabulary"]).to_pylist())
        known = (CODE_SYSTEMS[name].uri for name in names if name in CODE_SYSTEMS)
        return tuple(dict.fromkeys((self.own_system, *known)))

    def coding(self, concept: MappedConcept) -> tuple[str, str]:
        """The system and the code of a concept."""
        coded = self.vocabularies.find(concept, required=False)
        return (coded.system.uri, coded.code) if isinstance(coded, Coded) else (self.own_system, concept.concept_id)

    def code_in(self, system: str, entry: ConceptEntry) -> str | None:
        """The code of a concept in one of the systems; None if it has none there."""
        of, code = self.coding(self.concept_at(entry.row))
        return entry.concept_id if system == self.own_system else code if of == system else None

    def concept_at(self, row: int) -> MappedConcept:
        """The concept at a row of the table of concepts."""
        columns = ("concept_id", "preferred_name", "vocabulary", "code")
        concept_id, name, vocabulary, code = (values_at(self.dictionary.concepts[name], [row])[0] for name in columns)
        return MappedConcept(concept_id, name, vocabulary or "", code or "")

    def find(self, system: str, code: str) -> MappedConcept | None:
        """The concept of a code; None if there is none."""
        entry = self.table.find(code)
        if entry is not None and (
            system == self.own_system or self.coding(self.concept_at(entry.row)) == (system, code)
        ):
            return self.concept_at(entry.row)
        [result] = self.linker.link([code], _CODES_TRIED)
        found = (MappedConcept.from_candidate(candidate) for candidate in result.candidates)
        return next((concept for concept in found if self.coding(concept) == (system, code)), None)


# Requests


def request_parameters(body: object) -> dict[str, str]:
    """The parameters of a POST: those of a Parameters resource by name; of a Coding or a CodeableConcept its system, code and text.

    Args:
        body: The JSON of the request.

    Raises:
        OperationError: It is no Parameters resource.
    """
    if (
        not isinstance(body, dict)
        or body.get("resourceType") != "Parameters"
        or not isinstance(body.get("parameter", []), list)
    ):
        raise OperationError("invalid", "expected a Parameters resource")
    found: dict[str, str] = {}
    for each in body.get("parameter", []):
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise OperationError("invalid", "expected a name for each parameter")
        value = next((value for key, value in each.items() if key.startswith("value")), None)
        if isinstance(value, dict):
            codings = value.get("coding")
            coding = codings[0] if isinstance(codings, list) and codings and isinstance(codings[0], dict) else value
            texts = {"system": coding.get("system"), "code": coding.get("code"), "text": value.get("text")}
            found |= {key: text for key, text in texts.items() if isinstance(text, str)}
        elif value is not None:
            found[each["name"]] = str(value) if not isinstance(value, bool) else ("true" if value else "false")
    return found


def _whole(parameters: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise OperationError("invalid", f"{name} must be a whole number, found '{text[:40]}'")
    return min(int(text), most)


def _language(parameters: Mapping[str, str]) -> str | None:
    stated = parameters.get("displayLanguage", "").split(",")[0].split(";")[0].partition("-")[0].strip()
    try:
        return to_iso(stated) if stated else None
    except DataError as error:
        raise OperationError("invalid", str(error)) from None


def _system_of_value_set(terminology: IndexTerminology, url: str) -> str | None:
    """The code system whose concepts a value set has; None for all of them."""
    if not url or url == f"{terminology.url}/ValueSet/index":
        return None
    system, implicit, rest = url.partition(_IMPLICIT)
    bare = next((each for each in terminology.systems if system == each or system.startswith(f"{each}/")), None)
    if implicit and bare and not rest:
        return bare
    if implicit and bare:
        raise OperationError(
            "not-supported", f"value sets by expression are not supported, found '{rest[:80]}'; use {bare}{_IMPLICIT}"
        )
    raise OperationError(
        "not-found",
        f"no value set '{url[:200]}'; the value sets are {terminology.url}/ValueSet/index and SYSTEM{_IMPLICIT}",
    )


# Operations


def expand_value_set(terminology: IndexTerminology, parameters: Mapping[str, str]) -> FhirJson:
    """`ValueSet/$expand`: the concepts that a filter means, best first; without one all concepts.

    Args:
        terminology: The index.
        parameters: url, filter, count, offset, includeDesignations, displayLanguage; others are ignored.

    Returns:
        A ValueSet.

    Raises:
        OperationError: For a value set that is not there, or a parameter that is none.
    """
    system, text = _system_of_value_set(terminology, parameters.get("url", "")), parameters.get("filter", "").strip()
    count = _whole(parameters, "count", DEFAULT_EXPANSION, MAX_EXPANSION)
    offset = _whole(parameters, "offset", 0, len(terminology.table))
    language, designations = _language(parameters), parameters.get("includeDesignations") == "true"
    expansion: FhirJson = {"timestamp": terminology.now(), "offset": offset}
    if text:
        [result] = terminology.linker.link([text], min(offset + count, MAX_EXPANSION) or 1)
        found: list[tuple[MappedConcept, Candidate | None]] = [
            (MappedConcept.from_candidate(each), each) for each in (*result.candidates, *result.uncertain)
        ]
        chosen = [each for each in found if system is None or terminology.coding(each[0])[0] == system][
            offset : offset + count
        ]
    else:
        rows = range(offset, min(offset + count, len(terminology.table)))
        listed = [terminology.concept_at(row) for row in rows]
        chosen = [(each, None) for each in listed if system is None or terminology.coding(each)[0] == system]
        expansion |= {"total": len(terminology.table)} if system is None else {}
    used = {name: parameters[name] for name in ("filter", "displayLanguage") if name in parameters}
    expansion["identifier"] = (
        f"urn:uuid:{uuid5(NAMESPACE_URL, repr((terminology.version, sorted(parameters.items()))))}"
    )
    expansion["parameter"] = [{"name": "count", "valueInteger": count}] + [
        {"name": name, "valueString": text} for name, text in used.items()
    ]
    expansion["contains"] = [
        _contained(terminology, concept, candidate, language, designations) for concept, candidate in chosen
    ]
    if not expansion["contains"]:
        del expansion["contains"]
    url = parameters.get("url") or f"{terminology.url}/ValueSet/index"
    return {"resourceType": "ValueSet", "url": url, "status": "active", "expansion": expansion}


def _contained(
    terminology: IndexTerminology,
    concept: MappedConcept,
    candidate: Candidate | None,
    language: str | None,
    designations: bool,
) -> FhirJson:
    system, code = terminology.coding(concept)
    names = _names(terminology, concept.concept_id) if designations or language else []
    entry: FhirJson = {"system": system, "code": code, "display": _display(concept, names, language)}
    if candidate is not None:
        entry = {"extension": [{"url": SCORE_EXTENSION, "valueDecimal": round(candidate.score, 6)}], **entry}
    return entry | (
        {"designation": [{"language": of, "value": name} for of, name in names]} if designations and names else {}
    )


def _names(terminology: IndexTerminology, concept_id: str) -> list[tuple[str, str]]:
    """(language, name) of a concept, its preferred ones first."""
    entry = terminology.table.find(concept_id)
    names = terminology.table.names_of(entry) if entry is not None else []
    return [(language, name.text) for name in names for language in name.languages]


def _display(concept: MappedConcept, names: Sequence[tuple[str, str]], language: str | None) -> str:
    return next((name for of, name in names if of == language), concept.name)


def lookup_code(terminology: IndexTerminology, parameters: Mapping[str, str]) -> FhirJson:
    """`CodeSystem/$lookup`: the names of a concept by language, its definition, the concepts above it, its semantic types and its codes.

    Args:
        terminology: The index.
        parameters: system, code, displayLanguage; others are ignored.

    Returns:
        Parameters.

    Raises:
        OperationError: For a concept that is not there.
    """
    system, code = parameters.get("system", ""), parameters.get("code", "")
    if not (system and code):
        raise OperationError("required", "$lookup needs a system and a code")
    concept = terminology.find(system, code) if system in terminology.systems else None
    entry = terminology.table.find(concept.concept_id) if concept is not None else None
    if concept is None or entry is None:
        known = "" if system in terminology.systems else f"; the systems are {', '.join(terminology.systems)}"
        raise OperationError("not-found", f"no code '{code[:80]}' in the system '{system[:200]}'{known}")
    names, language = _names(terminology, concept.concept_id), _language(parameters)
    definition = terminology.table.definition_of(entry, language)
    above = [terminology.code_in(system, each) for each in terminology.table.parents_of(entry)]
    listed: list[FhirJson] = [
        {"name": "name", "valueString": system_name(terminology, system)},
        {"name": "version", "valueString": terminology.version},
        {"name": "display", "valueString": _display(concept, names, language)},
    ]
    if definition and terminology.release == "r5":  # R4 has no such parameter
        listed.append({"name": "definition", "valueString": definition})
    for of, name in names:
        parts = [{"name": "language", "valueCode": of}, {"name": "value", "valueString": name}]
        listed.append({"name": "designation", "part": parts})
    values = [("semanticType", text) for text in entry.semantic_types] + [
        ("crossReference", text) for text in entry.codes
    ]
    values += [("definition", definition)] if definition and terminology.release == "r4" else []
    for code_above in filter(None, above):
        parts = [{"name": "code", "valueCode": "parent"}, {"name": "value", "valueCode": code_above}]
        listed.append({"name": "property", "part": parts})
    for name, text in values:
        parts = [{"name": "code", "valueCode": name}, {"name": "value", "valueString": text}]
        listed.append({"name": "property", "part": parts})
    return {"resourceType": "Parameters", "parameter": listed}


def system_name(terminology: IndexTerminology, system: str) -> str:
    """The short name of one of the code systems."""
    known = system_of_uri(system)
    return known.prefix if known and system != terminology.own_system else "index"


def translate_term(terminology: IndexTerminology, parameters: Mapping[str, str]) -> FhirJson:
    """`ConceptMap/$translate`: the concepts that a term, sent as a code or a text, is linked to; of a code of the index its cross-references.

    Args:
        terminology: The index.
        parameters: code or sourceCode or text, system, target or targetsystem or targetSystem; others are ignored.

    Returns:
        Parameters, with the names of R4 or R5.

    Raises:
        OperationError: Without a term, or with `reverse`.
    """
    if parameters.get("reverse") == "true" or "targetCode" in parameters:
        raise OperationError("not-supported", "translation from concepts to terms is not supported")
    term = parameters.get("sourceCode") or parameters.get("code") or parameters.get("text") or ""
    if not term.strip():
        raise OperationError("required", "$translate needs a code, or a CodeableConcept with a text")
    stated = parameters.get("targetSystem") or parameters.get("targetsystem") or parameters.get("target") or ""
    target = stated.partition(_IMPLICIT)[0]
    system = parameters.get("system", "")
    concept = terminology.find(system, term) if system in terminology.systems else None
    if concept is not None:
        matches = _cross_references(terminology, concept)
        message = ""
    else:
        [result] = terminology.linker.link([term], DEFAULT_EXPANSION)
        found = [MappedConcept.from_candidate(candidate) for candidate in result.candidates]
        matches = [(*terminology.coding(each), each.name) for each in found]
        message = result.reason or ""
    kept = [match for match in matches if not target or match[0] == target]
    listed: list[FhirJson] = [{"name": "result", "valueBoolean": bool(kept)}]
    if message or not kept:
        listed.append({"name": "message", "valueString": message or f"no concept found for '{term[:80]}'"})
    older = terminology.release == "r4"
    relation = (
        {"name": "equivalence", "valueCode": _RELATED.r4}
        if older
        else {"name": "relationship", "valueCode": _RELATED.r5}
    )
    origin = "source" if older else "originMap"
    for of, code, name in kept:
        coding = {"system": of, "code": code, **({"display": name} if name else {})}
        parts = [
            relation,
            {"name": "concept", "valueCoding": coding},
            {"name": origin, "valueUri": f"{terminology.url}/ConceptMap/index"},
        ]
        listed.append({"name": "match", "part": parts})
    return {"resourceType": "Parameters", "parameter": listed}


def _cross_references(terminology: IndexTerminology, concept: MappedConcept) -> list[tuple[str, str, str]]:
    """(system, code, name) of the codes of a concept in other systems; nothing is known of their names."""
    entry = terminology.table.find(concept.concept_id)
    codes = entry.codes if entry is not None else ()
    parts = [code.partition(":") for code in codes]
    found = [
        terminology.coding(MappedConcept("", "", source, code)) for source, _, code in parts if source in CODE_SYSTEMS
    ]
    own = terminology.coding(concept)
    return [(system, code, "") for system, code in dict.fromkeys(found) if (system, code) != own]
