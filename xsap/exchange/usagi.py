"""Usagi's save file: what its File → Save writes and File → Open reads (https://github.com/OHDSI/Usagi, version 1.4.3).

A file has one line for each target of a term. `SavedMapping` is a term as Usagi holds it, and `Mapping` is what xsap makes of it: unreviewed are
UNCHECKED, AUTO_MAPPED and AUTO_MAPPED_TO_1; no match is APPROVED without a concept, and IGNORED; flagged is FLAGGED, INVALID_TARGET, and what
contradicts itself, APPROVED and UNMATCHED with a concept. Candidates, the language, the confidence and the second reviewer, for which Usagi has no
columns, are ADD_INFO columns, which Usagi shows and keeps. One value that Usagi can't take ends its reading, so all are checked before any is written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

from xsap.errors import DataError, did_you_mean
from xsap.exchange.mapping import (
    CROSSWALK,
    MAPS_TO,
    Equivalence,
    MappedConcept,
    Mapping,
    Signature,
    Status,
    equivalence_from,
)
from xsap.exchange.usagi_text import Repairs, read_records
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.results import Candidate
from xsap.text import EXACT_MATCH, normalize

ADD_INFO = "ADD_INFO:"
AUTO_IDS = "sourceAutoAssignedConceptIds"
SOURCE_COLUMNS = ("sourceCode", "sourceName", "sourceFrequency", AUTO_IDS)
MAPPING_COLUMNS = (
    "matchScore", "mappingStatus", "equivalence", "statusSetBy", "statusSetOn", "conceptId", "conceptName", "domainId", "mappingType",
    "comment", "createdBy", "createdOn", "assignedReviewer",
)  # fmt: skip
REQUIRED_COLUMNS = (*SOURCE_COLUMNS, "mappingStatus", "conceptId")
UNKNOWN_FREQUENCY, MAX_INTEGER, MAX_LONG = -1, 2**31 - 1, 2**63 - 1
USAGI_STATUSES = {
    "APPROVED": Status.APPROVED,
    "UNCHECKED": Status.UNREVIEWED,
    "AUTO_MAPPED": Status.UNREVIEWED,
    "AUTO_MAPPED_TO_1": Status.UNREVIEWED,
    "INVALID_TARGET": Status.FLAGGED,
    "FLAGGED": Status.FLAGGED,
    "IGNORED": Status.NO_MATCH,
}
MAPPING_TYPES = {
    **{f"MAPS_TO{of}": f"MAPS_TO{of}" for of in ("", "_VALUE", "_UNIT", "_OPERATOR", "_TYPE", "_NUMBER")},
    "EVENT": MAPS_TO,  # of Usagi before 1.4
    "VALUE": "MAPS_TO_VALUE",
    "UNIT": "MAPS_TO_UNIT",
}
CONFIDENCE, CONFIRMED_BY, CONFIRMED_ON = "confidence", "confirmed_by", "confirmed_on"  # ADD_INFO columns of xsap
LANGUAGE_COLUMNS = ("language", "lang")

_VOCABULARY, _CODE = "targetVocabularyId", "targetConceptCode"
_EXPORTED = {
    "targetConceptId": "conceptId",
    "targetConceptName": "conceptName",
    "targetDomainId": "domainId",
}  # by Export for review
_CANDIDATE = re.compile(r"(\S+) (.*) \((-?[0-9.]+)\)", re.DOTALL)
_CANDIDATE_COLUMN = re.compile(r"candidate_([0-9]+)")


@dataclass(frozen=True, slots=True)
class SavedTarget:
    """A target of a saved mapping: a line of the file."""

    concept_id: int
    concept_name: str = ""
    domain_id: str = ""
    mapping_type: str = MAPS_TO
    created_by: str = ""
    created_on: int = 0
    vocabulary: str = ""  # of an export for review alone
    code: str = ""


@dataclass(frozen=True, slots=True)
class SavedMapping:
    """A term of a save file with Usagi's own values. Attributes are named as the file's columns are; line: where it begins."""

    source_code: str
    source_name: str
    source_frequency: int
    auto_ids: tuple[int, ...]
    add_info: dict[str, str]
    match_score: float
    mapping_status: str
    equivalence: str
    status_set_by: str
    status_set_on: int
    comment: str
    assigned_reviewer: str
    targets: tuple[SavedTarget, ...]
    line: int = field(default=0, compare=False)


def is_usagi_header(header: Sequence[str]) -> bool:
    """Whether a table with these columns is a save file, or misses few of its columns; or an export for review."""
    return "sourceName" in header and ({"mappingStatus", "conceptId"} <= set(header) or "targetConceptId" in header)


def read_usagi(path: Path | str, *, encoding: str | None = None) -> tuple[list[Mapping], Repairs]:
    """Read a save file, also one that a spreadsheet program has changed.

    Args:
        path: The file.
        encoding: Its encoding, if it is not UTF-8 and has no byte-order mark.

    Returns:
        The mappings, and what was repaired, each of which would have stopped Usagi.

    Raises:
        DataError: With file and line, for what is not such a file.
    """
    saved, repairs = read_saved_mappings(path, encoding=encoding)
    return [to_mapping(each) for each in saved], repairs


def read_saved_mappings(path: Path | str, *, encoding: str | None = None) -> tuple[list[SavedMapping], Repairs]:
    """Read a save file as Usagi holds it; see `read_usagi`. A concept that Usagi's index lacks is a target all the same."""
    path, repairs = Path(path), Repairs()
    records = read_records(path, repairs, encoding=encoding)
    _, header = next(records)
    is_export = "targetConceptId" in header
    header = [_EXPORTED.get(name, name) for name in header]
    if is_export and "mappingStatus" not in header:  # so it has approved mappings alone
        header = [*header, "mappingStatus"]
        records = ((number, [*cells, "APPROVED"]) for number, cells in records)
    if missing := [name for name in REQUIRED_COLUMNS if name not in header]:
        raise DataError(
            f"{path}: expected the columns of Usagi's save file, found no '{missing[0]}'{did_you_mean(missing[0], header)}"
        )
    groups: list[list[_Line]] = []
    for number, cells in records:
        line = _Line(path, number, dict(zip(header, cells, strict=True)), repairs)
        if not groups or groups[-1][0].key != line.key:
            groups.append([])
        groups[-1].append(line)
    if not groups:
        raise DataError(f"{path}: expected at least one mapping under the header, found none")
    return [_saved(group) for group in groups], repairs


def _saved(lines: list["_Line"]) -> SavedMapping:
    """Consecutive lines of one code and name: the first one's values, and the targets of all."""
    first = lines[0]
    targets = [line.target() for line in lines]
    return SavedMapping(
        *first.key,
        first.frequency(),
        first.auto_ids(),
        {name.removeprefix(ADD_INFO): text for name, text in first.cells.items() if name.startswith(ADD_INFO)},
        first.score(),
        first.choice("mappingStatus", USAGI_STATUSES, "UNCHECKED"),
        first.choice("equivalence", [words.usagi for words in CROSSWALK.values()], "UNREVIEWED"),
        first.cells.get("statusSetBy", ""),
        first.time("statusSetOn"),
        first.cells.get("comment", ""),
        first.cells.get("assignedReviewer", ""),
        tuple(target for target in targets if target.concept_id),
        first.number,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a save file: its cells by column, and where to count what is repaired in them."""

    path: Path
    number: int
    cells: dict[str, str]
    repairs: Repairs

    @property
    def key(self) -> tuple[str, str]:
        return self.cells["sourceCode"], self.cells["sourceName"]

    def frequency(self) -> int:
        return self._whole("sourceFrequency", UNKNOWN_FREQUENCY, "unknown")

    def auto_ids(self) -> tuple[int, ...]:
        text = self.cells[AUTO_IDS]
        parts = re.split("[;|, ]+", text.strip()) if text.strip() else []
        if any(separator in text for separator in "|, "):
            self.repairs.add(f"{AUTO_IDS} that are not separated by semicolons", self.number)
        return tuple(self._number(part, AUTO_IDS) for part in parts if part)

    def score(self) -> float:
        text = self.cells.get("matchScore", "").strip()
        if "," in text:
            self.repairs.add("matchScore with a decimal comma", self.number)
        try:
            return float(text.replace(",", ".")) if text else 0.0
        except ValueError:
            raise self._error("matchScore", "a number", text) from None

    def time(self, column: str) -> int:
        text = self.cells.get(column, "").strip()
        return self._number(text, column) if text else 0

    def choice(self, column: str, known: Sequence[str] | dict[str, Status] | dict[str, str], default: str) -> str:
        """A word of a list, `default` for a blank one; also in another letter case."""
        text = self.cells.get(column, default)
        if text in known:
            return text
        if not text.strip():
            if column == "mappingStatus":
                self.repairs.add(f"{column} that is blank, read as {default}", self.number)
            return default
        folded = normalize(text, EXACT_MATCH)
        for word in known:
            if normalize(word, EXACT_MATCH) == folded:
                self.repairs.add(f"{column} in another letter case", self.number)
                return word
        raise self._error(column, f"one of {', '.join(known)}", text)

    def target(self) -> SavedTarget:
        mapping_type = self.choice("mappingType", MAPPING_TYPES, MAPS_TO)
        return SavedTarget(
            self._whole("conceptId", 0, "0"),
            self.cells.get("conceptName", ""),
            self.cells.get("domainId", ""),
            MAPPING_TYPES[mapping_type],
            self.cells.get("createdBy", ""),
            self.time("createdOn"),
            self.cells.get(_VOCABULARY, ""),
            self.cells.get(_CODE, ""),
        )

    def _whole(self, column: str, blank: int, meaning: str) -> int:
        if text := self.cells[column].strip():
            return self._number(text, column)
        self.repairs.add(f"{column} that is blank, read as {meaning}", self.number)
        return blank

    def _number(self, text: str, column: str) -> int:
        """A whole number; also one that a spreadsheet program wrote as 12.0 or 1,76E+12."""
        if text.removeprefix("-").isdecimal():
            return int(text)
        try:
            number = Decimal(text.replace(",", "."))
        except InvalidOperation:
            raise self._error(column, "a whole number", text) from None
        if not number.is_finite() or number != number.to_integral_value() or number.adjusted() > 18:
            raise self._error(column, "a whole number", text)
        self.repairs.add(f"{column} with a decimal point or an exponent", self.number)
        return int(number)

    def _error(self, column: str, expected: str, found: str) -> DataError:
        return DataError(f"{self.path}:{self.number}: expected {expected} as {column}, found '{found:.50}'")


def to_mapping(saved: SavedMapping) -> Mapping:
    """What a saved mapping means. Candidates and what else `write_usagi` puts into ADD_INFO columns are read from them."""
    equivalence = equivalence_from(saved.equivalence, "usagi")
    assert equivalence is not None, f"{saved.equivalence} was checked when it was read"
    status = USAGI_STATUSES[saved.mapping_status]
    if status is Status.APPROVED and not saved.targets:
        status = Status.NO_MATCH
    elif status is Status.APPROVED and equivalence is Equivalence.UNMATCHED:
        status = Status.FLAGGED
    first = saved.targets[0] if saved.targets else SavedTarget(0)
    columns = {
        name: text for name, text in saved.add_info.items() if name not in (CONFIDENCE, CONFIRMED_BY, CONFIRMED_ON)
    }
    candidates = _candidates_in(columns)
    for name in list(columns) if candidates else []:
        if _CANDIDATE_COLUMN.fullmatch(name):
            del columns[name]
    if saved.auto_ids:
        columns[AUTO_IDS] = ";".join(map(str, saved.auto_ids))
    targets = [
        MappedConcept(
            str(each.concept_id), each.concept_name, each.vocabulary, each.code, each.domain_id, each.mapping_type
        )
        for each in saved.targets
    ]
    confirmed_on = saved.add_info.get(CONFIRMED_ON, "")
    return Mapping(
        saved.source_code,
        saved.source_name,
        () if status is Status.NO_MATCH else tuple(targets),
        status,
        Equivalence.UNMATCHED if status is Status.NO_MATCH else equivalence,
        _language_in(saved.add_info),
        None if saved.source_frequency == UNKNOWN_FREQUENCY else saved.source_frequency,
        columns,
        saved.match_score,
        _float_or_none(saved.add_info.get(CONFIDENCE, "")),
        candidates,
        Signature(first.created_by, first.created_on),
        Signature(saved.status_set_by, saved.status_set_on),
        Signature(saved.add_info.get(CONFIRMED_BY, ""), int(confirmed_on) if confirmed_on.isdecimal() else 0),
        saved.assigned_reviewer,
        saved.comment,
    )


def _language_in(columns: dict[str, str]) -> str:
    for name in LANGUAGE_COLUMNS:
        if columns.get(name, "").strip():
            try:
                return to_iso(columns[name])
            except DataError:
                return UNKNOWN
    return UNKNOWN


def _candidates_in(columns: dict[str, str]) -> tuple[Candidate, ...]:
    """The candidates that `write_usagi` wrote; none if a cell of their columns has another form."""
    cells = [columns[f"candidate_{rank}"] for rank in range(1, len(columns) + 1) if columns.get(f"candidate_{rank}")]
    found = [_CANDIDATE.fullmatch(cell) for cell in cells]
    if not all(found):
        return ()
    return tuple(Candidate(each[1], each[2], "", float(each[3])) for each in found if each is not None)


def _float_or_none(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
