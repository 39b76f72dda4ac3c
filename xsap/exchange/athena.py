"""From concepts of any vocabulary to OMOP's standard concepts, by an unpacked download from Athena (https://athena.ohdsi.org).

A concept is found by its vocabulary and code in CONCEPT, and its standard concepts by the valid `Maps to` rows of CONCEPT_RELATIONSHIP between
valid concepts, as Usagi does it. Several are several targets of one term. A concept of the UMLS has codes in many vocabularies: its own one counts
first, then those of the first of VOCABULARY_ORDER that has any. The files are tab-separated and unquoted
(https://ohdsi.github.io/CommonDataModel/cdm54.html#Vocabulary_Tables); they are read as a stream, and only rows that are asked for are kept.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from xsap.errors import DataError
from xsap.exchange.mapping import MappedConcept, Mapping, Status
from xsap.files import open_bytes

VOCABULARY_ORDER = ("SNOMED", "LOINC", "RxNorm", "RxNorm Extension", "UCUM", "ATC", "ICD10CM", "ICD10", "MeSH")
"""OMOP vocabularies in the order in which a concept's further codes are looked up; others come after them."""
NOT_IN_CONCEPT, NO_TARGET, AMBIGUOUS = (
    "not in CONCEPT",
    "without a valid standard concept",
    "with codes that map to different concepts",
)

_OMOP_NAMES = {  # what the UMLS and others call a vocabulary → its vocabulary_id
    "SNOMEDCT_US": "SNOMED", "SNOMEDCT": "SNOMED", "SCTSPA": "SNOMED", "LNC": "LOINC", "RXNORM": "RxNorm", "MSH": "MeSH", "MDR": "MedDRA",
    "NCI": "NCIt", "CPT": "CPT4", "HP": "HPO", "VANDF": "VA Product",
}  # fmt: skip
_CONCEPT = (
    "concept_id",
    "concept_name",
    "domain_id",
    "vocabulary_id",
    "standard_concept",
    "concept_code",
    "invalid_reason",
)
_RELATIONSHIP = ("concept_id_1", "concept_id_2", "relationship_id", "invalid_reason")
_MAPS_TO, _STANDARD = "Maps to", "S"
_BYTES_PER_BLOCK = 1 << 24

Key = tuple[str, str]
"""A vocabulary_id and a code in it."""


class OmopConcept(NamedTuple):
    """A row of CONCEPT."""

    concept_id: str
    name: str
    domain: str
    vocabulary: str
    standard: str
    code: str
    invalid: str

    @property
    def is_target(self) -> bool:
        """Whether data may be mapped to it: a standard concept that is valid."""
        return self.standard == _STANDARD and not self.invalid


@dataclass(frozen=True)
class OmopTargets:
    """What `map_to_omop` did.

    Attributes:
        mappings: The mappings, with concepts of OMOP as targets.
        mapped: Number of distinct concepts that were mapped.
        unmapped: Number of distinct concepts that were not, by reason.
        examples: Reason → one of them, as VOCABULARY:code.
        release: The version of the vocabularies, which the index of Usagi has to have; empty if it is not stated.
    """

    mappings: list[Mapping]
    mapped: int
    unmapped: Counter[str]
    examples: dict[str, str]
    release: str

    def remarks(self) -> list[str]:
        """One phrase for each count, for a summary."""
        release = f" ({self.release})" if self.release else ""
        lines = [f"concepts mapped to OMOP{release}: {self.mapped:,}"]
        return lines + [f"{reason}: {n:,}, such as {self.examples[reason]}" for reason, n in self.unmapped.items()]


def map_to_omop(mappings: Sequence[Mapping], folder: Path | str) -> OmopTargets:
    """Replace the targets of mappings by OMOP's standard concepts.

    A mapping with a target that has no standard concept keeps its other targets; if it was approved, it is flagged, with a comment.

    Args:
        mappings: The mappings; a target is known by its vocabulary and code, by the codes of the candidate that it was, or by an id of OMOP.
        folder: An unpacked download from Athena.

    Raises:
        DataError: The folder lacks a file, or a file is none of Athena's.
    """
    folder = Path(folder)
    files = {name: _find(folder, name) for name in ("CONCEPT", "CONCEPT_RELATIONSHIP", "VOCABULARY")}
    wanted = {target: _keys_of(target, mapping) for mapping in mappings for target in mapping.targets}
    codes = {code for keys in wanted.values() for _, code in keys}
    found = list(_concepts(files["CONCEPT"], {target.concept_id for target in wanted}, codes))
    by_id = {concept.concept_id: concept for concept in found}
    by_key: dict[Key, OmopConcept] = {}
    for concept in found:
        key = concept.vocabulary, concept.code
        if key not in by_key or concept.is_target:
            by_key[key] = concept
    links = _maps_to(files["CONCEPT_RELATIONSHIP"], by_id)
    missing = {target for targets in links.values() for target in targets} - set(by_id)
    by_id |= {concept.concept_id: concept for concept in _concepts(files["CONCEPT"], missing, ())}
    standard = {
        one: [by_id[target] for target in sorted(targets, key=int) if target in by_id and by_id[target].is_target]
        for one, targets in links.items()
    }
    unmapped, examples, resolved = Counter[str](), dict[str, str](), dict[MappedConcept, list[OmopConcept]]()
    for target, keys in wanted.items():
        targets, reason = _resolve(target, keys, by_id, by_key, standard)
        resolved[target] = targets
        if reason:
            unmapped[f"concepts {reason}"] += 1
            examples.setdefault(f"concepts {reason}", _shown(target))
    changed = [_with_targets(mapping, resolved) for mapping in mappings]
    return OmopTargets(changed, len(wanted) - unmapped.total(), unmapped, examples, _release(files["VOCABULARY"]))


def _keys_of(target: MappedConcept, mapping: Mapping) -> list[Key]:
    """Where to look a target up, the best first."""
    own = [(target.vocabulary, target.code)] if target.code else [(target.vocabulary, target.concept_id)]
    if not target.code and ":" in target.concept_id:
        prefix, _, rest = target.concept_id.partition(":")
        own += [(prefix, rest), (prefix, target.concept_id)]
    codes = next((each.codes for each in mapping.candidates if each.concept_id == target.concept_id), ())
    others = [(vocabulary, code) for vocabulary, _, code in (each.partition(":") for each in codes)]
    first, *more = [(_OMOP_NAMES.get(vocabulary, vocabulary), code) for vocabulary, code in [*own, *others]]
    more.sort(key=lambda key: VOCABULARY_ORDER.index(key[0]) if key[0] in VOCABULARY_ORDER else len(VOCABULARY_ORDER))
    return list(dict.fromkeys([first, *more]))


def _resolve(
    target: MappedConcept,
    keys: list[Key],
    by_id: dict[str, OmopConcept],
    by_key: dict[Key, OmopConcept],
    standard: dict[str, list[OmopConcept]],
) -> tuple[list[OmopConcept], str]:
    """The standard concepts of a target, or why there are none."""
    own = by_id.get(target.concept_id)
    if own is not None and target.code in ("", own.code):
        return (standard[own.concept_id], "") if standard[own.concept_id] else ([], NO_TARGET)
    known = [by_key[key] for key in keys if key in by_key]
    if not known:
        return [], NOT_IN_CONCEPT
    known = [concept for concept in known if standard[concept.concept_id]]
    if not known:
        return [], NO_TARGET
    first = standard[known[0].concept_id]
    if (known[0].vocabulary, known[0].code) == keys[0]:
        return first, ""
    same = [standard[each.concept_id] for each in known if each.vocabulary == known[0].vocabulary]
    return (first, "") if all(each == first for each in same) else ([], AMBIGUOUS)


def _with_targets(mapping: Mapping, resolved: dict[MappedConcept, list[OmopConcept]]) -> Mapping:
    if not mapping.targets:
        return mapping
    targets: dict[str, MappedConcept] = {}
    for target in mapping.targets:
        for each in resolved[target]:
            concept = MappedConcept(
                each.concept_id, each.name, each.vocabulary, each.code, each.domain, target.mapping_type
            )
            targets.setdefault(each.concept_id, concept)
    lost = [_shown(target) for target in mapping.targets if not resolved[target]]
    if not lost or mapping.status is not Status.APPROVED:
        return replace(mapping, targets=tuple(targets.values()))
    note = f"no standard concept of OMOP for {', '.join(lost)}"
    comment = f"{mapping.comment}; {note}" if mapping.comment else note
    return replace(mapping, targets=tuple(targets.values()), status=Status.FLAGGED, comment=comment)


def _shown(target: MappedConcept) -> str:
    return f"{target.vocabulary}:{target.code}" if target.code else target.concept_id


# Files


def _find(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.csv", folder / f"{name}.csv.gz"):
        if file.is_file():
            return file
    raise DataError(
        f"{folder}: expected {name}.csv or {name}.csv.gz in this folder, found neither. Is it an unpacked download from Athena?"
    )


def _concepts(file: Path, ids: Collection[str], codes: Collection[str]) -> Iterator[OmopConcept]:
    """The rows of CONCEPT with one of the ids or codes."""
    if not ids and not codes:
        return
    some_ids, some_codes = pa.array(sorted(ids), pa.string()), pa.array(sorted(codes), pa.string())
    for rows in _rows(file, _CONCEPT):
        found = pc.or_(pc.is_in(rows["concept_id"], some_ids), pc.is_in(rows["concept_code"], some_codes))
        yield from (OmopConcept(*row.values()) for row in rows.filter(found).to_pylist())


def _maps_to(file: Path, concepts: dict[str, OmopConcept]) -> dict[str, set[str]]:
    """Concept → what it maps to; a standard concept maps to itself, too. An invalid concept may map to a valid one, which replaced it."""
    links = {one: {one} if concept.is_target else set() for one, concept in concepts.items()}
    known = pa.array(sorted(concepts), pa.string())
    for rows in _rows(file, _RELATIONSHIP):
        valid = pc.and_(pc.equal(rows["relationship_id"], _MAPS_TO), pc.equal(rows["invalid_reason"], ""))
        for row in rows.filter(pc.and_(valid, pc.is_in(rows["concept_id_1"], known))).to_pylist():
            links[row["concept_id_1"]].add(row["concept_id_2"])
    return links


def _release(file: Path) -> str:
    """The version of the vocabulary `None`, which is that of the release."""
    for rows in _rows(file, ("vocabulary_id", "vocabulary_version")):
        for row in rows.filter(pc.equal(rows["vocabulary_id"], "None")).to_pylist():
            return str(row["vocabulary_version"])
    return ""


def _rows(file: Path, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a file of Athena, as text."""
    wanted = list(columns)
    with open_bytes(file) as stream:
        try:
            yield from csv.open_csv(
                stream,
                csv.ReadOptions(block_size=_BYTES_PER_BLOCK),
                csv.ParseOptions(delimiter="\t", quote_char=False, escape_char=False, newlines_in_values=False),
                csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
            raise DataError(
                f"{file}: expected tab-separated columns {', '.join(wanted)}, as Athena writes them: {str(error)[:150]}"
            ) from None
