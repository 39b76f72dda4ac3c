"""Mappings as FHIR ConceptMaps in JSON, R4 (https://hl7.org/fhir/R4/conceptmap.html) and R5 (https://hl7.org/fhir/R5/conceptmap.html), and back.

There is a group for each code system of the targets. A term without a concept is `unmatched` in R4 and `noMap` in R5, a term that nobody has decided has no
target, and what was rejected or flagged is never written as a match. What no element of FHIR can say goes into extensions, and only there where a
reader would not infer it. The file is the same for the same mappings.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError
from xsap.exchange.code_systems import LOCAL, Coded, Vocabularies, read_concept, system_of_uri
from xsap.exchange.mapping import CROSSWALK, Equivalence, MappedConcept, Status, equivalence_from, number_codes
from xsap.exchange.mapping import Mapping as TermMapping
from xsap.exchange.record_fields import (
    CONCEPT_FIELDS,
    RECORD_FIELDS,
    missing_concept_fields,
    missing_fields,
    with_concept_fields,
    with_fields,
)
from xsap.files import RowCounts, check_json_type, decode, open_bytes, parse_json

Release = Literal["r4", "r5"]
FhirJson = dict[str, Any]
RELEASES: tuple[Release, ...] = ("r4", "r5")
MAPPING_EXTENSION = (
    "http://xsap.invalid/fhir/mapping"  # of an element; the host is reserved for addresses that do not exist
)
CONCEPT_EXTENSION = "http://xsap.invalid/fhir/concept"  # of a target
COLUMN_EXTENSION = "http://xsap.invalid/fhir/column"
WITHOUT_TERM = "elements with neither code nor display"
WITHOUT_CODE = "targets without a code"
CONDITIONS = "targets that depend on other values (dependsOn, product), read without these"
UNMAPPED_RULES = "rules for codes that are not listed (unmapped), not read"
UNKNOWN_EQUIVALENCES = "equivalences that FHIR does not have, read as inexact"
BAD_EXTENSION_VALUES = "values of extensions that could not be read, ignored"

_WORD = {"r4": "equivalence", "r5": "relationship"}
_REJECTED = {"r4": "disjoint", "r5": "not-related-to"}
_COMMENTS = {  # FHIR requires one for these
    "narrower": "The concept is narrower than the term.",
    "inexact": "The concept overlaps with the term.",
    "source-is-broader-than-target": "The concept is narrower than the term.",
    "not-related-to": "The concept was rejected for the term.",
    "disjoint": "The concept was rejected for the term.",
}
_OTHER_WORDS = {  # that a foreign file may have
    "subsumes": Equivalence.WIDER,
    "specializes": Equivalence.NARROWER,
    "disjoint": Equivalence.UNREVIEWED,
    "not-related-to": Equivalence.UNREVIEWED,
}
_NUMBERS = ("confidence", "score")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_AS_JSON = "\\j"  # before a text as a JSON string
_NUMBER, _ROLE, _CANDIDATE = "number", "role", "candidate"
_DESCRIPTIONS = {
    "confidence": "The probability that the first proposed concept is right",
    "score": "The score of the first proposed concept",
}


# Writing


def write_concept_map(
    mappings: Iterable[TermMapping],
    path: Path | str,
    *,
    release: Release = "r4",
    url: str | None = None,
    version: str = "",
    title: str = "",
    source_system: str = LOCAL.uri,
    target_systems: Mapping[str, str] | None = None,
    vocabulary: str = "",
) -> RowCounts:
    """Write mappings as a ConceptMap.

    Args:
        mappings: The mappings, each with its own code and name; terms are numbered if none of them has a code.
        path: The file, by custom one that ends in .json; it is replaced.
        release: r4 or r5.
        url: Canonical URL of the ConceptMap; by default a UUID made from the content.
        version: Its business version.
        title: Its name for people.
        source_system: URI of the system of the terms' codes.
        target_systems: Vocabulary → URI of its system, of vocabularies that are not in the table.
        vocabulary: The vocabulary of concept ids whose concept states none, such as OMOP.

    Returns:
        How many mappings were written, and why others were not.

    Raises:
        ConfigError: No system is known for a vocabulary, or `release` is none.
    """
    if release not in RELEASES:
        raise ConfigError(f"expected the FHIR release r4 or r5, found '{release}'")
    given = list(mappings)
    kept = [mapping for mapping in given if any(mapping.key)]
    own = {target.vocabulary for mapping in kept for target in mapping.targets if "://" in target.vocabulary}
    vocabularies = Vocabularies({**{uri: uri for uri in own}, **(target_systems or {})}, concept_vocabulary=vocabulary)
    groups: dict[str, list[FhirJson]] = {}
    lost: list[FhirJson] = []  # of no group: terms without a concept
    for mapping, code in zip(kept, _codes(kept), strict=True):
        for system, element in _elements(mapping, code, vocabularies, release):
            (lost if system is None else groups.setdefault(system, [])).append(element)
    vocabularies.check_all_known("--target-system")
    sizes = {system: len(elements) for system, elements in groups.items()}
    common = min(sizes, key=lambda system: (-sizes[system], system)) if sizes else ""
    if lost:
        groups.setdefault(common, []).extend(lost)
    resource = _resource(groups, release, source_system, url, {"version": version, "title": title})
    with write_atomically(path) as stream:
        json.dump(resource, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    reasons = {WITHOUT_TERM: len(given) - len(kept)} if len(kept) < len(given) else {}
    return RowCounts(len(given), len(kept), reasons)


def _resource(
    groups: Mapping[str, list[FhirJson]], release: Release, source: str, url: str | None, texts: Mapping[str, str]
) -> FhirJson:
    listed = [
        {"source": source, **({"target": system} if system else {}), "element": groups[system]}
        for system in sorted(groups)
    ]
    content = sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    resource: FhirJson = {
        "resourceType": "ConceptMap",
        "url": url or f"urn:uuid:{uuid5(NAMESPACE_URL, content)}",
        **{key: text for key, text in texts.items() if text},
        "name": "TermMappings",
        "status": "draft",
    }
    resource["sourceUri" if release == "r4" else "sourceScopeUri"] = source
    if len(listed) == 1 and "target" in listed[0]:
        resource["targetUri" if release == "r4" else "targetScopeUri"] = listed[0]["target"]
    elements = [element for system in groups for element in groups[system]]
    targets = [target for element in elements for target in _inner(element, "target")]
    used = {each["code"] for target in targets for each in _inner(target, "property")}
    if used:
        resource["property"] = [
            {"code": code, "description": _DESCRIPTIONS[code], "type": "decimal"} for code in sorted(used)
        ]
    return resource | ({"group": listed} if listed else {})


def _codes(mappings: Sequence[TermMapping]) -> list[str]:
    """A code for each term, without the white space that FHIR does not allow."""
    codes = [" ".join(_allowed(mapping.source_code).split()) for mapping in number_codes(mappings)]
    taken, number = set(codes), 0
    for at, code in enumerate(codes):
        while not codes[at]:
            number += 1
            codes[at] = "" if f"term-{number}" in taken else f"term-{number}"
        taken.add(code)
    return codes


def _elements(
    mapping: TermMapping, code: str, vocabularies: Vocabularies, release: Release
) -> list[tuple[str | None, FhirJson]]:
    """The elements of a term, one for each code system of its targets: system and element."""
    concepts, role = [] if mapping.status is Status.NO_MATCH else list(mapping.targets), ""
    if mapping.status is Status.REJECTED and not concepts:
        concepts, role = [MappedConcept.from_candidate(candidate) for candidate in mapping.candidates], _CANDIDATE
    coded = [(concept, vocabularies.find(concept, required=not role)) for concept in concepts]
    by_system: dict[str, list[tuple[int, MappedConcept, FhirJson]]] = {}
    for at, (concept, each) in enumerate(coded):
        if each is not None:
            by_system.setdefault(each.system.uri, []).append(
                (at, concept, _target(mapping, concept, each, release, alone=len(concepts) == 1))
            )
    base = {"code": code} | ({"display": name} if (name := _allowed(mapping.source_name)) else {})
    elements: list[tuple[str | None, FhirJson]] = [
        (system, base | {"target": [target for _, _, target in by_system[system]]}) for system in sorted(by_system)
    ]
    if not elements:
        elements = [(None, base | _without_concept(mapping, release))]
    found = _read_records([_Found(system or "", element, target) for system, element in elements for target in element.get("target", [None])])  # fmt: skip
    order = [at for system in sorted(by_system) for at, _, _ in by_system[system]]
    listed = [entry for system in sorted(by_system) for entry in by_system[system]]
    for at, (place, concept, target) in enumerate(listed):
        texts = {_ROLE: role} if role else missing_concept_fields(concept, found.targets[at])
        texts |= {_NUMBER: str(place + 1)} if order != sorted(order) else {}
        if texts:
            target["extension"] = [_extension(CONCEPT_EXTENSION, texts)]
    if role:
        found = replace(found, targets=())
    extensions = [_extension(MAPPING_EXTENSION, texts)] if (texts := missing_fields(mapping, found)) else []
    columns = [(name, cell) for name, cell in sorted(mapping.columns.items()) if cell]
    extensions += [_extension(COLUMN_EXTENSION, {"name": name or "\\e", "value": cell}) for name, cell in columns]
    return [(system, ({"extension": extensions} if extensions else {}) | element) for system, element in elements]


def _target(mapping: TermMapping, concept: MappedConcept, coded: Coded, release: Release, *, alone: bool) -> FhirJson:
    """A target of an element. alone: whether the term has no other, which the score could be of."""
    if mapping.status is Status.REJECTED:
        word = _REJECTED[release]
    else:
        unsaid = {Status.FLAGGED: Equivalence.UNREVIEWED}.get(mapping.status, mapping.equivalence)
        words = CROSSWALK[Equivalence.INEXACT if unsaid is Equivalence.UNMATCHED else unsaid]
        word = words.r4 if release == "r4" else words.r5
    target: FhirJson = {"code": " ".join(_allowed(coded.code).split()) or "-"}
    if name := _allowed(concept.name):
        target["display"] = name
    target[_WORD[release]] = word
    if comment := _allowed(mapping.comment) or _COMMENTS.get(word, ""):
        target["comment"] = comment
    first = mapping.candidates[0].concept_id if mapping.candidates else concept.concept_id
    if release == "r5" and alone and first == concept.concept_id:
        values = [(name, getattr(mapping, name)) for name in _NUMBERS]
        properties = [{"code": name, "valueDecimal": value} for name, value in values if _is_decimal(value)]
        target |= {"property": properties} if properties else {}
    return target


def _is_decimal(value: float | None) -> bool:
    return value is not None and abs(value) < 1e6


def _without_concept(mapping: TermMapping, release: Release) -> FhirJson:
    """What an element has that has no target; one that nobody has decided has nothing."""
    if mapping.status is not Status.NO_MATCH:
        return {}
    if release == "r5":
        return {"noMap": True}
    comment = {"comment": text} if (text := _allowed(mapping.comment)) else {}
    return {"target": [{"equivalence": CROSSWALK[Equivalence.UNMATCHED].r4, **comment}]}


def _extension(url: str, texts: Mapping[str, str]) -> FhirJson:
    return {"url": url, "extension": [{"url": name, "valueString": _encoded(text)} for name, text in texts.items()]}


# Reading


class _Found(NamedTuple):
    """A target as a file has it. system: of its group. target: None for an element without one."""

    system: str
    element: FhirJson
    target: FhirJson | None


def read_concept_map(path: Path | str) -> tuple[list[TermMapping], RowCounts, Counter[str]]:
    """Read a ConceptMap of R4 or R5, or a Bundle with ConceptMaps, in JSON.

    Targets of one code that have the same equivalence and comment are one mapping.

    Args:
        path: The file.

    Returns:
        The mappings; how many targets, and elements without one, are in them, and why others are not; and what was repaired or not read.

    Raises:
        DataError: It is no ConceptMap.
    """
    path = Path(path)
    with open_bytes(path) as stream:
        text = decode(stream.read(), str(path)).removeprefix("\ufeff")
    if text.lstrip().startswith("<"):
        raise DataError(
            f"{path}: expected a ConceptMap in JSON, found XML. Convert it to JSON, with a FHIR validator for example"
        )
    resource = check_json_type(parse_json(text, str(path), "a ConceptMap in JSON"), dict, str(path))
    repairs, dropped = Counter[str](), Counter[str]()
    records: dict[str, list[_Found]] = {}
    total = 0
    for found in _targets(_concept_maps(resource, path), path, repairs):
        total += 1
        reason = _drop_reason(found)
        if reason:
            dropped[reason] += 1
        else:
            records.setdefault(_record_key(found), []).append(found)
    mappings = [_with_extensions(record, repairs) for record in records.values()]
    return mappings, RowCounts(total, total - sum(dropped.values()), dict(dropped)), +repairs


def _concept_maps(resource: FhirJson, path: Path) -> list[FhirJson]:
    kind = resource.get("resourceType")
    entries = resource.get("entry", []) if kind == "Bundle" else [{"resource": resource}]
    found = [entry.get("resource") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    maps = [each for each in found if isinstance(each, dict) and each.get("resourceType") == "ConceptMap"]
    if not maps:
        raise DataError(
            f"{path}: expected a FHIR ConceptMap, found {'none in the Bundle' if kind == 'Bundle' else kind or 'no resourceType'}"
        )
    return maps


def _targets(maps: list[FhirJson], path: Path, repairs: Counter[str]) -> Iterable[_Found]:
    for concept_map in maps:
        for group in _dicts(concept_map, "group", path):
            repairs[UNMAPPED_RULES] += "unmapped" in group
            for element in _dicts(group, "element", path):
                targets = _dicts(element, "target", path)
                for target in targets:
                    repairs[CONDITIONS] += bool(target.get("dependsOn") or target.get("product"))
                    word = target.get("equivalence") or target.get("relationship")
                    repairs[UNKNOWN_EQUIVALENCES] += word is not None and _equivalence(target) is None
                    yield _Found(_text(group, "target"), element, target)
                if not targets:
                    yield _Found(_text(group, "target"), element, None)


def _dicts(parent: FhirJson, key: str, path: Path) -> list[FhirJson]:
    listed = check_json_type(parent.get(key, []), list, f"{path}: {key}")
    return [check_json_type(each, dict, f"{path}: {key}") for each in listed]


def _inner(parent: FhirJson, key: str) -> list[FhirJson]:
    """The objects in a list; none if it is no list."""
    listed = parent.get(key)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _text(parent: FhirJson, key: str) -> str:
    value = parent.get(key)
    return value if isinstance(value, str) else ""


def _is_unmatched(target: FhirJson | None) -> bool:
    return target is not None and target.get("equivalence") == CROSSWALK[Equivalence.UNMATCHED].r4


def _drop_reason(found: _Found) -> str | None:
    if not (_text(found.element, "code") or _text(found.element, "display")):
        return WITHOUT_TERM
    needs_code = found.target is not None and not _is_unmatched(found.target)
    return WITHOUT_CODE if needs_code and not _text(found.target or {}, "code") else None


def _record_key(found: _Found) -> str:
    """What the targets of one mapping have in common."""
    target, element = found.target or {}, found.element
    own = [target.get(key) for key in ("equivalence", "relationship", "comment", "property")]
    return json.dumps(
        [element.get("code"), element.get("display"), element.get("noMap"), element.get("extension"), own]
    )


def _equivalence(target: FhirJson) -> Equivalence | None:
    word, older = target.get("relationship"), target.get("equivalence")
    found = equivalence_from(str(word), "r5") if word is not None else equivalence_from(str(older), "r4")
    return found or _OTHER_WORDS.get(str(word if word is not None else older))


def _read_records(record: Sequence[_Found]) -> TermMapping:
    """What FHIR's own elements say, of the targets of one mapping."""
    element, target = record[0].element, record[0].target
    base = TermMapping(_text(element, "code"), _text(element, "display"))
    if target is None or _is_unmatched(target):
        decided = target is not None or element.get("noMap") is True
        kind = (Status.NO_MATCH, Equivalence.UNMATCHED) if decided else (base.status, base.equivalence)
        return replace(base, status=kind[0], equivalence=kind[1], comment=_text(target or {}, "comment"))
    word = target.get("relationship") or target.get("equivalence")
    equivalence = Equivalence.INEXACT if word and _equivalence(target) is None else _equivalence(target)
    status = Status.APPROVED
    if equivalence in (None, Equivalence.UNREVIEWED):
        status = Status.REJECTED if word in _REJECTED.values() else Status.UNREVIEWED
    comment = _text(target, "comment")
    stated = {each.get("code"): each.get("valueDecimal") for each in _inner(target, "property")}
    values = {name: float(n) for name in _NUMBERS if isinstance(n := stated.get(name), int | float)}
    return replace(
        base,
        targets=tuple(_read_target(found) for found in record),
        status=status,
        equivalence=equivalence or Equivalence.UNREVIEWED,
        comment="" if comment == _COMMENTS.get(str(word)) else comment,
        **values,  # type: ignore[arg-type]
    )


def _read_target(found: _Found) -> MappedConcept:
    code, name = _text(found.target or {}, "code"), _text(found.target or {}, "display")
    system = system_of_uri(found.system)
    if system is not None:
        return read_concept(system, code, name)
    return MappedConcept(code, name, found.system, code if found.system else "")


def _with_extensions(record: list[_Found], repairs: Counter[str]) -> TermMapping:
    """A mapping with what its extensions say."""
    mapping = _read_records(record)
    texts = [_texts(found.target or {}, CONCEPT_EXTENSION) for found in record]
    targets = [
        (int(own.get(_NUMBER, "0")) if own.get(_NUMBER, "0").isdecimal() else 0, with_concept_fields(target, {name: own[name] for name in CONCEPT_FIELDS if name in own}))
        for target, own in zip(mapping.targets, texts, strict=False)
        if own.get(_ROLE) != _CANDIDATE
    ]  # fmt: skip
    mapping = replace(mapping, targets=tuple(target for _, target in sorted(targets, key=lambda each: each[0])))
    element = record[0].element
    stated = _texts(element, MAPPING_EXTENSION)
    try:
        mapping = with_fields(mapping, {name: stated[name] for name in RECORD_FIELDS if name in stated})
    except (ValueError, OverflowError):
        repairs[BAD_EXTENSION_VALUES] += 1
    columns = [_parts(each) for each in _inner(element, "extension") if each.get("url") == COLUMN_EXTENSION]
    named = {each["name"]: each["value"] for each in columns if {"name", "value"} <= set(each)}
    return replace(mapping, columns={"" if name == "\\e" else name: value for name, value in named.items()})


def _texts(parent: FhirJson, url: str) -> dict[str, str]:
    """The texts of a complex extension."""
    own = [each for each in _inner(parent, "extension") if each.get("url") == url]
    return _parts(own[0]) if own else {}


def _parts(extension: FhirJson) -> dict[str, str]:
    values = {_text(each, "url"): each.get("valueString") for each in _inner(extension, "extension")}
    return {name: _decoded(text) for name, text in values.items() if isinstance(text, str)}


def _encoded(text: str) -> str:
    """Text with the characters that FHIR allows: others as JSON escapes."""
    plain = text.strip() and not _FORBIDDEN.search(text) and not text.startswith(_AS_JSON)
    return text if plain else _AS_JSON + json.dumps(text)


def _decoded(text: str) -> str:
    try:
        value = json.loads(text.removeprefix(_AS_JSON)) if text.startswith(_AS_JSON) else text
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _allowed(text: str) -> str:
    """Text for an element of FHIR; empty if it has no character that can be seen."""
    return _FORBIDDEN.sub("\ufffd", text) if text.strip() else ""
