"""Writing Usagi's save file: every value checked before the first line, then as Usagi itself would write it."""

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path

from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.exchange.mapping import (
    CROSSWALK,
    MAPS_TO,
    Equivalence,
    Mapping,
    Status,
    find_repeated,
    number_codes,
    unite_repeated,
)
from xsap.exchange.usagi import (
    ADD_INFO,
    AUTO_IDS,
    CONFIDENCE,
    CONFIRMED_BY,
    CONFIRMED_ON,
    LANGUAGE_COLUMNS,
    MAPPING_COLUMNS,
    MAPPING_TYPES,
    MAX_INTEGER,
    MAX_LONG,
    SOURCE_COLUMNS,
    UNKNOWN_FREQUENCY,
)
from xsap.exchange.usagi_text import encode_record
from xsap.files import RowCounts
from xsap.languages import UNKNOWN

_WRITTEN = {Status.UNREVIEWED: "UNCHECKED", Status.APPROVED: "APPROVED", Status.NO_MATCH: "APPROVED"}  # others: FLAGGED
_CENT = Decimal("0.01")


def write_usagi(mappings: Sequence[Mapping], path: Path | str) -> RowCounts:
    """Write a save file that Usagi opens, all or nothing.

    Equal terms are united and their frequencies added; terms without a code are numbered.

    Args:
        mappings: The mappings; targets are concepts of OMOP.
        path: The file.

    Returns:
        How many mappings were written, and how many were united with others.

    Raises:
        DataError: Usagi could not read a value, or would take two terms for one.
    """
    rows = len(mappings)
    mappings = unite_repeated(number_codes(mappings))
    united = {"equal terms, united": rows - len(mappings)} if rows > len(mappings) else {}
    check_usagi(mappings)
    names, width = _add_info_columns(mappings)
    with write_atomically(path) as stream:
        stream.write(encode_record([*SOURCE_COLUMNS, *(ADD_INFO + name for name in names), *MAPPING_COLUMNS]))
        for mapping in mappings:
            info = _add_info(mapping, width)
            extra = [info.get(name, "") for name in names]
            stream.writelines(encode_record(cells) for cells in _records(mapping, extra))
    return RowCounts(rows, len(mappings), united)


def check_usagi(mappings: Sequence[Mapping]) -> None:
    """Raise DataError for the first value that Usagi could not read, and say in how many mappings there is such a one."""
    faults = [(mapping, fault) for mapping in mappings for fault in list(usagi_faults(mapping))[:1]]
    if faults:
        mapping, (column, expected, found) = faults[0]
        more = f"; {len(faults):,} rows have a value that Usagi can't read" if len(faults) > 1 else ""
        way_out = "; map the index's concepts to OMOP's with --athena FOLDER" if column == "conceptId" else ""
        raise DataError(
            f"expected {expected} as {column} of '{mapping.source_name:.50}' (code '{mapping.source_code:.50}'), "
            f"found '{found:.50}'{more}{way_out}"
        )
    for before, mapping in pairwise(mappings):
        if before.key == mapping.key:
            raise DataError(
                f"expected one decision for '{mapping.source_name:.50}' (code '{mapping.source_code:.50}'), found two that differ in "
                f"rows that follow one another, which Usagi takes for one term ({len(find_repeated(mappings)):,} such terms); "
                "keep one of the rows, or give them codes of their own"
            )


def usagi_faults(mapping: Mapping) -> Iterator[tuple[str, str, str]]:
    """(column, what must hold, what was found) of each value that Usagi could not read."""
    whole = f"a whole number up to {MAX_INTEGER:,}"
    if mapping.frequency is not None and not 0 <= mapping.frequency <= MAX_INTEGER:
        yield "sourceFrequency", whole, str(mapping.frequency)
    for part in mapping.columns.get(AUTO_IDS, "").split(";"):
        if part and not (part.isascii() and part.isdecimal() and int(part) <= MAX_INTEGER):
            yield AUTO_IDS, f"{whole}, separated by semicolons,", part
    for target in mapping.targets:
        concept_id = target.concept_id
        if not (concept_id.isascii() and concept_id.isdecimal() and 0 < int(concept_id) <= MAX_INTEGER):
            yield "conceptId", f"{whole}, a concept of OMOP,", concept_id
        elif concept_id == target.code:
            yield "conceptId", "a concept of OMOP", f"the code {target.vocabulary}:{concept_id}"
        if target.mapping_type not in MAPPING_TYPES.values():
            yield "mappingType", f"one of {', '.join(sorted({*MAPPING_TYPES.values()}))}", target.mapping_type
    for column, signature in (("createdOn", mapping.created), ("statusSetOn", mapping.decided)):
        if not 0 <= signature.on <= MAX_LONG:
            yield column, "milliseconds since 1970", str(signature.on)
    for column, text in (
        ("sourceCode", mapping.source_code),
        ("sourceName", mapping.source_name),
        ("comment", mapping.comment),
    ):
        if any("\ud800" <= character <= "\udfff" for character in text):
            yield column, "text", ascii(text)


def _add_info_columns(mappings: Sequence[Mapping]) -> tuple[list[str], int]:
    """The names of all ADD_INFO columns, in the order in which they are found, and the largest number of candidates."""
    width = max((len(mapping.candidates) for mapping in mappings), default=0)
    columns = {name: None for mapping in mappings for name in mapping.columns if name != AUTO_IDS}
    if not columns.keys() & set(LANGUAGE_COLUMNS) and any(each.language != UNKNOWN for each in mappings):
        columns[LANGUAGE_COLUMNS[0]] = None
    for name in (CONFIDENCE, CONFIRMED_BY, CONFIRMED_ON):
        if any(name in _own_info(mapping) for mapping in mappings):
            columns[name] = None
    columns |= dict.fromkeys(f"candidate_{rank}" for rank in range(1, width + 1))
    return list(columns), width


def _own_info(mapping: Mapping) -> dict[str, str]:
    """What Usagi has no column for."""
    info = {CONFIDENCE: "" if mapping.confidence is None else f"{mapping.confidence:.3f}"}
    confirmed = mapping.confirmed
    info |= {CONFIRMED_BY: confirmed.by, CONFIRMED_ON: str(confirmed.on) if confirmed.on else ""}
    return {name: text for name, text in info.items() if text}


def _add_info(mapping: Mapping, width: int) -> dict[str, str]:
    info = {LANGUAGE_COLUMNS[0]: mapping.language} if mapping.language != UNKNOWN else {}
    info |= {**mapping.columns, **_own_info(mapping)}
    for rank, candidate in enumerate(mapping.candidates[:width], start=1):
        info[f"candidate_{rank}"] = f"{candidate.concept_id} {candidate.name} ({candidate.score:.3f})"
    return info


def _records(mapping: Mapping, extra: list[str]) -> Iterator[list[str]]:
    """The lines of a mapping, one for each target; one without a target for a mapping that has none."""
    none = mapping.status is Status.NO_MATCH
    equivalence = Equivalence.UNMATCHED if none else mapping.equivalence
    frequency = UNKNOWN_FREQUENCY if mapping.frequency is None else mapping.frequency
    source = [mapping.source_code, mapping.source_name, str(frequency), mapping.columns.get(AUTO_IDS, "")]
    status = [
        shown_score(mapping.score or 0.0),
        _WRITTEN.get(mapping.status, "FLAGGED"),
        CROSSWALK[equivalence].usagi,
        mapping.decided.by,
        str(mapping.decided.on),
    ]
    for target in () if none else mapping.targets:
        concept = [target.concept_id, target.name, target.domain, target.mapping_type, mapping.comment]
        yield [
            *source,
            *extra,
            *status,
            *concept,
            mapping.created.by,
            str(mapping.created.on),
            mapping.assigned_reviewer,
        ]
    if none or not mapping.targets:
        concept = ["0", "Unmapped", "", MAPS_TO, mapping.comment]
        yield [*source, *extra, *status, *concept, "", "0", mapping.assigned_reviewer]


def shown_score(score: float) -> str:
    """A score with two digits, rounded as Java does: of the shortest decimal number, half up."""
    return str(Decimal(repr(float(score))).quantize(_CENT, ROUND_HALF_UP))
