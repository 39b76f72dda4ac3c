"""What Usagi, the rules of FinOMOP (https://github.com/FinOMOP) and the database would refuse in a file of mappings, before anyone opens it there."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from xsap.exchange.athena import NOT_IN_CONCEPT, OmopTargets
from xsap.exchange.mapping import Mapping, Status, find_repeated, number_codes, unite_repeated
from xsap.exchange.mapping_files import MappingFile
from xsap.exchange.omop import (
    CUSTOM_CONCEPTS,
    MAX_CODE,
    MAX_CONCEPT_ID,
    MAX_DESCRIPTION,
    SOURCE_CONCEPT_ID,
    stcm_faults,
    stcm_rows,
)
from xsap.exchange.usagi_writer import usagi_faults

BY_USAGI, BY_FINOMOP, BY_DATABASE = "Usagi", "FinOMOP", "database"
REFUSERS = (
    BY_USAGI,
    BY_DATABASE,
)  # those whose refusal is an error for everybody; FinOMOP's rules are those of its sites
CONCEPT_CLASS, MAX_CONCEPT_CLASS = "sourceConceptClass", 20
_SOURCE = "SOURCE"  # any name of a source that is short enough


class Finding(NamedTuple):
    """Something that is refused. by: who refuses. what: in words. number: how often. example: the first one, or where it is."""

    by: str
    what: str
    number: int
    example: str


def check_mapping_file(file: MappingFile, targets: OmopTargets | None = None) -> list[Finding]:
    """All that would be refused, Usagi's first.

    Args:
        file: The mappings.
        targets: What a download from Athena says of their concepts, if there is one.
    """
    found = [
        Finding(BY_USAGI, remark.rpartition(": ")[0], int(remark.rpartition(": ")[2].replace(",", "")), f"line {line}")
        for remark, line in zip(file.remarks, file.refused.values(), strict=False)
    ]
    unmapped, examples = (targets.unmapped, targets.examples) if targets else ({}, {})
    for reason, number in unmapped.items():
        by, note = (BY_USAGI, ", which it sets to INVALID_TARGET") if NOT_IN_CONCEPT in reason else (BY_DATABASE, "")
        found.append(Finding(by, f"{reason} in this download{note}", number, examples[reason]))
    mappings = unite_repeated(number_codes(file.mappings))
    faults = [
        *((BY_USAGI, column, must, value, mapping) for mapping in mappings for column, must, value in usagi_faults(mapping)),
        *((BY_FINOMOP, *fault, mapping) for mapping in mappings for fault in finomop_faults(mapping)),
        *((BY_DATABASE, *fault, mapping) for mapping in mappings for fault in _database_faults(mapping)),
    ]  # fmt: skip
    counts = Counter((by, _rule(column, must)) for by, column, must, _, _ in faults)
    first = {(by, _rule(column, must)): (value, of) for by, column, must, value, of in reversed(faults)}
    for key, count in counts.items():
        value, mapping = first[key]
        found.append(Finding(*key, count, f"found {_short(value)} in {_shown(mapping)}"))
    found += _repeated(mappings)
    order = (BY_USAGI, BY_FINOMOP, BY_DATABASE)
    return sorted(found, key=lambda finding: order.index(finding.by))


def finomop_faults(mapping: Mapping) -> Iterator[tuple[str, str, str]]:
    """(column, what must hold, what was found) of each value that breaks a rule of FinOMOP."""
    if not 0 < len(mapping.source_code) <= MAX_CODE:
        yield "sourceCode", f"1 to {MAX_CODE} characters", mapping.source_code
    if not 0 < len(mapping.source_name) <= MAX_DESCRIPTION:
        yield "sourceName", f"1 to {MAX_DESCRIPTION} characters", mapping.source_name
    if mapping.status is Status.NO_MATCH:
        yield "conceptId", "a concept other than 0 for APPROVED", "0"
    if len({target.concept_id for target in mapping.targets}) < len(mapping.targets):
        yield "conceptId", "each concept of a code once", mapping.targets[0].concept_id
    own = mapping.columns.get(SOURCE_CONCEPT_ID)
    if own is not None and not (own.isascii() and own.isdecimal() and CUSTOM_CONCEPTS < int(own) <= MAX_CONCEPT_ID):
        yield f"ADD_INFO:{SOURCE_CONCEPT_ID}", f"a number above {CUSTOM_CONCEPTS:,}", own
    concept_class = mapping.columns.get(CONCEPT_CLASS, "")
    if len(concept_class) > MAX_CONCEPT_CLASS:
        yield f"ADD_INFO:{CONCEPT_CLASS}", f"at most {MAX_CONCEPT_CLASS} characters", concept_class


def _database_faults(mapping: Mapping) -> Iterator[tuple[str, str, str]]:
    """Those of SOURCE_TO_CONCEPT_MAP, once for each mapping. A vocabulary that is not known yet is none: --athena looks it up."""
    for column, must, value in dict.fromkeys(
        fault for row in stcm_rows(mapping, _SOURCE) for fault in stcm_faults(row)
    ):
        if column != "target_vocabulary_id" or value:
            yield column, must, value


def _repeated(mappings: list[Mapping]) -> Iterator[Finding]:
    if repeated := find_repeated(mappings):
        example = f"code '{repeated[0][0]}' ({repeated[0][1]:.50})"
        yield Finding(
            BY_USAGI,
            "terms with two decisions that differ, of which Usagi makes one if they stand together",
            len(repeated),
            example,
        )
        yield Finding(BY_DATABASE, "terms with two decisions that differ", len(repeated), example)
    names: dict[str, set[str]] = {}
    for mapping in mappings:
        names.setdefault(mapping.source_code, set()).add(mapping.source_name)
    several = _without_blank(code for code, own in names.items() if len(own) > 1)
    if several:
        what = "codes with several names, which Apply previous mapping takes for one"
        yield Finding(BY_USAGI, what, len(several), f"code '{several[0]}'")


def _rule(column: str, must: str) -> str:
    return f"{column}: expected {must.rstrip(',')}"


def _without_blank(codes: Iterable[str]) -> list[str]:
    return [code for code in codes if code]


def _short(value: str) -> str:
    return f"'{value[:40]}…'" if len(value) > 40 else f"'{value}'"


def _shown(mapping: Mapping) -> str:
    return f"'{mapping.source_name:.40}' (code '{mapping.source_code:.40}')"
