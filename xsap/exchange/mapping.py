"""A mapping: a term of a source, the concepts that it is mapped to, and who decided so.

Every exchange format and the review store are views of `Mapping`, and every word that a format has for an equivalence comes from `CROSSWALK`
(Usagi's MappingStatus and Equivalence, https://github.com/OHDSI/Usagi; FHIR R4 ConceptMapEquivalence and R5 ConceptMapRelationship,
https://hl7.org/fhir/R5/valueset-concept-map-relationship.html; SKOS mapping predicates as in SSSOM, https://mapping-commons.github.io/sssom).
A direction is always given from the concept's side: `wider` means that the concept is broader than the term.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from xsap.languages import UNKNOWN
from xsap.linking.results import Candidate

MAPS_TO = "MAPS_TO"
NO_COLUMNS: ReadOnlyDict[str, str] = MappingProxyType({})


class Status(StrEnum):
    """What people have decided about a term."""

    UNREVIEWED = "unreviewed"  # nobody has looked at it: the first candidate is a proposal
    APPROVED = "approved"  # its targets are right
    FLAGGED = "flagged"  # to be looked at again
    NO_MATCH = "no_match"  # the terminology has no concept for it
    REJECTED = "rejected"  # no candidate is right, and no concept was chosen yet


class Equivalence(StrEnum):
    """How the concept's meaning relates to the term's, in Usagi's terms."""

    EQUAL = "equal"
    EQUIVALENT = "equivalent"
    WIDER = "wider"
    NARROWER = "narrower"
    INEXACT = "inexact"
    UNMATCHED = "unmatched"
    UNREVIEWED = "unreviewed"


class EquivalenceWords(NamedTuple):
    """What the formats call an equivalence. usagi: Usagi. r4, r5: FHIR. predicate: SSSOM; for no match, that of sssom:NoTermFound."""

    usagi: str
    r4: str
    r5: str
    predicate: str


CROSSWALK: ReadOnlyDict[Equivalence, EquivalenceWords] = MappingProxyType(
    {
        Equivalence.EQUAL: EquivalenceWords("EQUAL", "equal", "equivalent", "skos:exactMatch"),
        Equivalence.EQUIVALENT: EquivalenceWords("EQUIVALENT", "equivalent", "equivalent", "skos:exactMatch"),
        Equivalence.WIDER: EquivalenceWords("WIDER", "wider", "source-is-narrower-than-target", "skos:broadMatch"),
        Equivalence.NARROWER: EquivalenceWords(
            "NARROWER", "narrower", "source-is-broader-than-target", "skos:narrowMatch"
        ),
        Equivalence.INEXACT: EquivalenceWords("INEXACT", "inexact", "related-to", "skos:relatedMatch"),
        Equivalence.UNMATCHED: EquivalenceWords("UNMATCHED", "unmatched", "noMap", "skos:exactMatch"),
        Equivalence.UNREVIEWED: EquivalenceWords("UNREVIEWED", "relatedto", "related-to", "skos:closeMatch"),
    }
)


@dataclass(frozen=True, slots=True)
class MappedConcept:
    """A concept that a term is mapped to.

    Attributes:
        concept_id: Its id in the terminology.
        name: Its preferred name.
        vocabulary: The vocabulary that its own code comes from, such as SNOMED or HP; empty if unknown.
        code: Its code there; empty if unknown.
        domain: Its OMOP domain or semantic type; empty if unknown.
        mapping_type: Usagi's type of the mapping, such as MAPS_TO or MAPS_TO_VALUE.
    """

    concept_id: str
    name: str = ""
    vocabulary: str = ""
    code: str = ""
    domain: str = ""
    mapping_type: str = MAPS_TO

    @classmethod
    def from_candidate(cls, candidate: Candidate) -> "MappedConcept":
        """The concept that a candidate is; its domain is its first semantic type."""
        domain = candidate.semantic_types[0] if candidate.semantic_types else ""
        return cls(candidate.concept_id, candidate.name, candidate.vocabulary, candidate.code, domain)


@dataclass(frozen=True, slots=True)
class Signature:
    """Who did something, and when. on: milliseconds since 1970 (UTC); 0 if unknown."""

    by: str = ""
    on: int = 0


@dataclass(frozen=True, slots=True)
class Mapping:
    """A term of a source and what it is mapped to.

    Attributes:
        source_code: The term's code in its source; together with `source_name` its key. Empty if the source has no codes (`number_codes`).
        source_name: The term.
        targets: The concepts that it is mapped to; where it is unreviewed, the first candidate or none.
        status: What people have decided.
        equivalence: How the targets relate to the term.
        language: Of the term, ISO 639.
        frequency: How often the term occurs in the source; None if unknown.
        columns: The other columns of the source's table, by name.
        score: Score of the first candidate, or as the file states it; None if unknown.
        confidence: Probability that the first candidate is right; None without calibration.
        candidates: What the linker proposed, best first.
        created: Who made the mapping.
        decided: Who set its status.
        confirmed: The second reviewer, who agreed.
        assigned_reviewer: Who is asked to review it; empty for nobody.
        comment: A note.
    """

    source_code: str
    source_name: str
    targets: tuple[MappedConcept, ...] = ()
    status: Status = Status.UNREVIEWED
    equivalence: Equivalence = Equivalence.UNREVIEWED
    language: str = UNKNOWN
    frequency: int | None = None
    columns: ReadOnlyDict[str, str] = field(default_factory=lambda: NO_COLUMNS)
    score: float | None = None
    confidence: float | None = None
    candidates: tuple[Candidate, ...] = ()
    created: Signature = Signature()
    decided: Signature = Signature()
    confirmed: Signature = Signature()
    assigned_reviewer: str = ""
    comment: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Code and name: what identifies a term through files and new links."""
        return self.source_code, self.source_name

    @property
    def gold(self) -> tuple[str, ...] | None:
        """Ids of the concepts that people approved; empty for `no_match`, and where none is what they approved; None if it is undecided.

        A term's value, unit and the like are not what it means, so they count only where it has no other target.
        """
        if self.status is Status.APPROVED:
            own = [target for target in self.targets if target.mapping_type == MAPS_TO]
            return tuple(target.concept_id for target in own or self.targets)
        return () if self.status is Status.NO_MATCH else None


def equivalence_from(word: str, column: str) -> Equivalence | None:
    """The equivalence that a format's word means; None if it has none of this word.

    Args:
        word: As the format writes it.
        column: Field of `EquivalenceWords`: usagi, r4, r5 or predicate. Of several equivalences the first in CROSSWALK is meant.
    """
    return next((key for key, words in CROSSWALK.items() if getattr(words, column) == word), None)


def find_repeated(mappings: Iterable[Mapping]) -> list[tuple[str, str]]:
    """Keys that more than one mapping has, in the order in which they are found."""
    seen: set[tuple[str, str]] = set()
    repeated: dict[tuple[str, str], None] = {}
    for mapping in mappings:
        if mapping.key in seen:
            repeated[mapping.key] = None
        seen.add(mapping.key)
    return list(repeated)


def number_codes(mappings: Sequence[Mapping]) -> list[Mapping]:
    """The mappings with numbers as codes, if none of them has a code: 1, 2, … in the order of their distinct names and languages."""
    if any(mapping.source_code for mapping in mappings):
        return list(mappings)
    numbers: dict[tuple[str, str], int] = {}
    terms = ((mapping.source_name, mapping.language) for mapping in mappings)
    codes = [str(numbers.setdefault(term, len(numbers) + 1)) for term in terms]
    return [replace(mapping, source_code=code) for mapping, code in zip(mappings, codes, strict=True)]


def unite_repeated(mappings: Sequence[Mapping]) -> list[Mapping]:
    """The mappings, those of one key united where they agree, at the place of the first: their frequencies are added.

    Two agree if their decisions are the same, or if one of them is unreviewed and the other is not, which then counts. Those that
    don't agree stay apart: `find_repeated` finds them.
    """
    united: dict[tuple[str, str], list[Mapping]] = {}
    places: list[tuple[tuple[str, str], int]] = []
    for mapping in mappings:
        same_key = united.setdefault(mapping.key, [])
        at = next((at for at, first in enumerate(same_key) if _agree(first, mapping)), None)
        if at is None:
            places.append((mapping.key, len(same_key)))
            same_key.append(mapping)
        else:
            same_key[at] = _united(same_key[at], mapping)
    return [united[key][at] for key, at in places]


def _agree(first: Mapping, second: Mapping) -> bool:
    if (first.status is Status.UNREVIEWED) != (second.status is Status.UNREVIEWED):
        return True
    return _decision(first) == _decision(second)


def _united(first: Mapping, second: Mapping) -> Mapping:
    known = [each.frequency for each in (first, second) if each.frequency is not None]
    kept = second if first.status is Status.UNREVIEWED and second.status is not Status.UNREVIEWED else first
    return replace(kept, frequency=sum(known) if known else None)


def _decision(mapping: Mapping) -> tuple[object, ...]:
    return mapping.status, mapping.equivalence, {target.concept_id for target in mapping.targets}
