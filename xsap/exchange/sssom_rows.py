"""A mapping as rows of SSSOM's own slots, and a mapping from such rows: what SSSOM can say by itself.

What a person vouches for has an author if that person chose the concept, or reviewers if the linker had proposed it. Nobody vouches for a mapping that
is unreviewed or flagged. A rejected one has the predicate modifier Not.
"""

import re
from collections.abc import Iterable
from typing import Any

from xsap import __version__
from xsap.exchange.code_systems import CODE_SYSTEMS, LOCAL, escape_code, read_concept, unescape_code
from xsap.exchange.mapping import CROSSWALK, Equivalence, MappedConcept, Signature, Status, equivalence_from
from xsap.exchange.mapping import Mapping as TermMapping
from xsap.exchange.record_fields import date_text, read_time
from xsap.exchange.sssom_file import SlotRow, join_values, number_text, split_values
from xsap.linking.name_keys import BROADER, SIMILAR

NO_TERM_FOUND = "sssom:NoTermFound"
MANUAL = "semapv:ManualMappingCuration"
CODES = "codes"  # the local name of a vocabulary that has no other
ROLE = "ext_object_role"  # of an object that is no target
OTHER_PREDICATES = {
    "owl:equivalentClass": Equivalence.EQUAL,
    "owl:equivalentProperty": Equivalence.EQUAL,
    "owl:sameAs": Equivalence.EQUAL,
    "rdfs:subClassOf": Equivalence.WIDER,
    "rdfs:subPropertyOf": Equivalence.WIDER,
}
_PERSON_ID = re.compile(r"orcid:\d{4}-\d{4}-\d{4}-\d{3}[\dX]")
_PROPOSED = (Status.UNREVIEWED, Status.FLAGGED)  # nobody vouches for the concept


def source_of(prefix: str) -> str:
    """A vocabulary as a CURIE."""
    known = any(system.prefix == prefix for system in CODE_SYSTEMS.values())
    return f"bioregistry:{prefix}" if known else f"{prefix}:{CODES}"


def slots_of(mapping: TermMapping, curie: str, label: str) -> SlotRow:
    """What SSSOM has slots for, of a mapping and one object.

    Args:
        mapping: The mapping.
        curie: The object; NO_TERM_FOUND if there is none.
        label: Its name.
    """
    found = curie != NO_TERM_FOUND
    justification = _justification(mapping) if found or mapping.status is not Status.NO_MATCH else MANUAL
    row = {
        "subject_label": mapping.source_name,
        "predicate_id": _predicate(mapping, found),
        "object_id": curie,
        "object_label": label,
        "mapping_justification": justification,
        "comment": mapping.comment,
        **_people("creator", [mapping.created.by]),
    }
    if mapping.source_code:
        row["subject_id"] = f"{LOCAL.prefix}:{escape_code(mapping.source_code)}"
        row["subject_source"] = f"{LOCAL.prefix}:{CODES}"
    else:
        row["subject_type"] = "rdfs literal"
    if mapping.status is Status.REJECTED and found:
        row["predicate_modifier"] = "Not"
    reviewers = [mapping.confirmed]
    if justification == MANUAL:
        row |= _people("author", [mapping.decided.by])
        row["mapping_date"] = date_text(mapping.decided.on)
    else:
        row["mapping_date"] = date_text(mapping.created.on)
        if mapping.status is Status.APPROVED:
            reviewers = [mapping.decided, mapping.confirmed]
    reviewers = [each for each in reviewers if each.by] if mapping.status not in _PROPOSED else []
    if reviewers:
        row |= _people("reviewer", [each.by for each in reviewers])
        row["review_date"] = date_text(reviewers[-1].on)
        row["reviewer_agreement"] = "1"
    if found and justification != MANUAL:  # the score is not that of what a person chose
        row |= _numbers(mapping)
    if justification != MANUAL and mapping.candidates:
        row |= {"mapping_tool": "xsap", "mapping_tool_version": __version__}
        if found and _is_first(mapping):
            row |= {"match_string": join_values([mapping.candidates[0].matched_name])}
    return {slot: text for slot, text in row.items() if text}


def _numbers(mapping: TermMapping) -> SlotRow:
    row = {}
    for slot, number in (("similarity_score", mapping.score), ("confidence", mapping.confidence)):
        if number is not None and 0 <= number <= 1:
            row[slot] = number_text(number)
    if "similarity_score" in row and mapping.candidates:
        row["similarity_measure"] = "cosine"
    return row


def _people(role: str, names: Iterable[str]) -> SlotRow:
    """People under their ids, such as orcid:0000-0002-1825-0097, or under their names."""
    ids = [name for name in names if _PERSON_ID.fullmatch(name)]
    labels = [name for name in names if not _PERSON_ID.fullmatch(name)]
    return {f"{role}_id": join_values(ids), f"{role}_label": join_values(labels)}


def _predicate(mapping: TermMapping, found: bool) -> str:
    if not found:
        return CROSSWALK[Equivalence.UNMATCHED].predicate
    if mapping.status is Status.FLAGGED:
        return CROSSWALK[Equivalence.UNREVIEWED].predicate
    if mapping.status is Status.REJECTED:
        return CROSSWALK[Equivalence.EQUAL].predicate
    wrong = mapping.equivalence is Equivalence.UNMATCHED  # with a concept
    return CROSSWALK[Equivalence.INEXACT if wrong else mapping.equivalence].predicate


def _is_first(mapping: TermMapping) -> bool:
    """Whether a target is what the linker proposed first."""
    ids = {target.concept_id for target in mapping.targets}
    return bool(mapping.candidates) and mapping.candidates[0].concept_id in ids


def _justification(mapping: TermMapping) -> str:
    proposed = _is_first(mapping)
    if mapping.status not in _PROPOSED and not proposed:
        return MANUAL
    if proposed and mapping.candidates[0].match not in (SIMILAR, BROADER):
        return "semapv:LexicalMatching"
    known = proposed or mapping.score is not None or (mapping.candidates and not mapping.targets)
    return "semapv:SemanticSimilarityThresholdMatching" if known else "semapv:UnspecifiedMatching"


def mapping_of_rows(rows: list[SlotRow]) -> TermMapping:
    """What the slots of SSSOM say, of rows that differ only in their objects."""
    row = rows[0]
    manual = row.get("mapping_justification") == MANUAL
    agreement = float(row.get("reviewer_agreement", 1))
    reviewers, authors = _read_people(row, "reviewer"), _read_people(row, "author")
    decided = bool(manual or reviewers) and agreement > 0
    rejected = row.get("predicate_modifier") == "Not" or agreement < 0
    found = row["object_id"] != NO_TERM_FOUND
    if rejected:
        status = Status.REJECTED
    elif not decided:
        status = Status.UNREVIEWED
    else:
        status = Status.APPROVED if found else Status.NO_MATCH
    mapped, reviewed = read_time(row.get("mapping_date", "")), read_time(row.get("review_date", ""))
    creators = [*_read_people(row, "creator"), ""]
    signatures = [Signature(name, reviewed) for name in reviewers] + [Signature()] * 2
    roles: dict[str, Any] = {
        "created": Signature(creators[0], 0 if manual else mapped),
        "decided": signatures[0],
        "confirmed": signatures[1],
    }
    if manual:
        roles["decided"], roles["confirmed"] = Signature([*authors, ""][0], mapped), signatures[0]
    prefix, _, local = row.get("subject_id", "").partition(":")
    is_local = local and prefix == row.get("subject_source", "").partition(":")[0]
    concepts = [_read_object(each) for each in rows if each["object_id"] != NO_TERM_FOUND and ROLE not in each]
    return TermMapping(
        unescape_code(local) if is_local else row.get("subject_id", ""),
        row.get("subject_label", ""),
        tuple(concepts),
        status,
        _read_equivalence(row["predicate_id"], status, found),
        score=float(row["similarity_score"]) if "similarity_score" in row else None,
        confidence=float(row["confidence"]) if "confidence" in row else None,
        comment=row.get("comment", ""),
        **roles,
    )


def _read_equivalence(predicate: str, status: Status, found: bool) -> Equivalence:
    if not found:
        return Equivalence.UNMATCHED if status is Status.NO_MATCH else Equivalence.UNREVIEWED
    if status is Status.REJECTED:
        return Equivalence.UNREVIEWED
    known = equivalence_from(predicate, "predicate")
    return known or OTHER_PREDICATES.get(predicate, Equivalence.INEXACT)


def _read_people(row: SlotRow, role: str) -> list[str]:
    return [name for slot in (f"{role}_id", f"{role}_label") for name in split_values(row.get(slot, ""))]


def _read_object(row: SlotRow) -> MappedConcept:
    prefix, _, local = row["object_id"].partition(":")
    code, label = unescape_code(local), row.get("object_label", "")
    system = next((each for each in CODE_SYSTEMS.values() if each.prefix == prefix), None)
    if system is not None and local:
        return read_concept(system, code, label)
    return MappedConcept(row["object_id"], label, prefix if local else "", code if local else "")
