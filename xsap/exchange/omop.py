"""SOURCE_TO_CONCEPT_MAP of the OMOP common data model 5.4 (https://ohdsi.github.io/CommonDataModel/cdm54.html#source_to_concept_map).

A row is a term's code and one of its concepts, so a term with several has several rows; a term that has no concept has the concept 0. What the
database would refuse is refused here, with the number of rows, before anything is written. The dialect is Usagi's.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError
from xsap.exchange.mapping import MappedConcept, Mapping, Status, find_repeated, number_codes, unite_repeated
from xsap.exchange.usagi_text import encode_record
from xsap.files import RowCounts

SOURCE_CONCEPT_ID = "sourceConceptId"  # the column with a site's own concepts, as FinOMOP names it in ADD_INFO
CUSTOM_CONCEPTS = 2_000_000_000  # ids above it are a site's own
MAX_CODE, MAX_DESCRIPTION, MAX_VOCABULARY = 50, 255, 20  # characters
MAX_CONCEPT_ID = 2**31 - 1
NO_VOCABULARY = "None"  # of concept 0


class StcmRow(NamedTuple):
    """A row of the table, in the order of its columns."""

    source_code: str
    source_concept_id: str
    source_vocabulary_id: str
    source_code_description: str
    target_concept_id: str
    target_vocabulary_id: str
    valid_start_date: str = "1970-01-01"
    valid_end_date: str = "2099-12-31"
    invalid_reason: str = ""


def write_source_to_concept_map(
    mappings: Sequence[Mapping],
    path: Path | str,
    *,
    source_vocabulary: str,
    unreviewed: bool = False,
    cut: bool = False,
) -> RowCounts:
    """Write the table as CSV, all or nothing.

    Args:
        mappings: The mappings; targets are concepts of OMOP with their vocabularies.
        path: The file.
        source_vocabulary: source_vocabulary_id, the name of the source's codes.
        unreviewed: Whether to write what nobody has reviewed, too.
        cut: Whether to cut descriptions that are too long.

    Returns:
        How many mappings were written, and why others were not.

    Raises:
        ConfigError: The name of the source is too long or empty.
        DataError: There is nothing to write, or the database could not take a value.
    """
    if not 0 < len(source_vocabulary) <= MAX_VOCABULARY:
        raise ConfigError(
            f"expected --source-vocabulary with 1 to {MAX_VOCABULARY} characters, found '{source_vocabulary}' ({len(source_vocabulary)})"
        )
    united = unite_repeated(number_codes(mappings))
    reasons = [_left_out(mapping, unreviewed=unreviewed) for mapping in united]
    kept = [mapping for mapping, reason in zip(united, reasons, strict=True) if not reason]
    dropped = Counter(filter(None, reasons))
    if len(united) < len(mappings):
        dropped["equal terms, united"] += len(mappings) - len(united)
    counts = RowCounts(len(mappings), len(kept), dropped)
    if not kept:
        found = ", ".join(f"{reason}: {n:,}" for reason, n in dropped.items())
        hint = "" if unreviewed else "; review them, or write those that nobody has reviewed, too, with --unreviewed"
        raise DataError(f"expected reviewed mappings for {path}, found none ({found}){hint}")
    _check_keys(kept)
    rows = [row for mapping in kept for row in stcm_rows(mapping, source_vocabulary)]
    if cut:
        rows = [row._replace(source_code_description=row.source_code_description[:MAX_DESCRIPTION]) for row in rows]
    _check(rows)
    with write_atomically(path) as stream:
        stream.write(encode_record(list(StcmRow._fields)))
        stream.writelines(encode_record(list(row)) for row in rows)
    return counts


def _left_out(mapping: Mapping, *, unreviewed: bool) -> str:
    """Why a mapping is no row of the table; empty if it is."""
    if mapping.status is Status.UNREVIEWED:
        return ("" if mapping.targets else "unreviewed, without a concept") if unreviewed else "unreviewed"
    return "" if mapping.gold is not None else str(mapping.status)


def stcm_rows(mapping: Mapping, source_vocabulary: str) -> Iterator[StcmRow]:
    """The rows of a mapping: one for each target, or for concept 0."""
    own = mapping.columns.get(SOURCE_CONCEPT_ID, "").strip() or "0"
    none = (MappedConcept("0", vocabulary=NO_VOCABULARY),)
    targets = {target.concept_id: target for target in (mapping.targets if mapping.gold != () else ()) or none}
    for target in targets.values():
        yield StcmRow(
            mapping.source_code, own, source_vocabulary, mapping.source_name, target.concept_id, target.vocabulary
        )


def _check_keys(mappings: Sequence[Mapping]) -> None:
    if repeated := find_repeated(mappings):
        code, name = repeated[0]
        raise DataError(
            f"expected one decision for each term, found two that differ for '{name:.50}' (code '{code:.50}'; {len(repeated):,} such terms); "
            "keep one of them, or give them codes of their own"
        )


def _check(rows: Sequence[StcmRow]) -> None:
    """Raise DataError for the first value that the database could not take."""
    faults = [(row, fault) for row in rows for fault in list(stcm_faults(row))[:1]]
    if faults:
        row, (column, expected, found) = faults[0]
        more = f"; {len(faults):,} rows have a value that the database would refuse" if len(faults) > 1 else ""
        way_out = {
            "source_code_description": "; cut them with --cut",
            "target_concept_id": "; map the concepts to OMOP's with --athena FOLDER",
            "target_vocabulary_id": "; look the vocabularies up with --athena FOLDER",
        }.get(column, "")
        raise DataError(
            f"expected {expected} as {column} of '{row.source_code_description:.50}' (code '{row.source_code:.60}'), "
            f"found '{found:.80}'{more}{way_out}"
        )


def stcm_faults(row: StcmRow) -> Iterator[tuple[str, str, str]]:
    """(column, what must hold, what was found) of each value that the database could not take."""
    for column, value, least, most in (
        ("source_code", row.source_code, 1, MAX_CODE),
        ("source_code_description", row.source_code_description, 0, MAX_DESCRIPTION),
        ("target_vocabulary_id", row.target_vocabulary_id, 1, MAX_VOCABULARY),
    ):
        if not least <= len(value) <= most:
            yield column, f"{least} to {most} characters", value
    target = row.target_concept_id
    if not (target.isascii() and target.isdecimal() and int(target) <= MAX_CONCEPT_ID):
        yield "target_concept_id", f"a whole number up to {MAX_CONCEPT_ID:,}, a concept of OMOP,", target
    own = row.source_concept_id
    if own != "0" and not (own.isascii() and own.isdecimal() and CUSTOM_CONCEPTS < int(own) <= MAX_CONCEPT_ID):
        yield "source_concept_id", f"0 or a number above {CUSTOM_CONCEPTS:,}", own
