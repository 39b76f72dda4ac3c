"""Review in Excel, LibreOffice or Google Sheets: mappings as a workbook with drop-downs, which is read back after people have edited it.

The sheet `review` is for people: a row for each term, with the candidates, and columns for the decision. The hidden sheet `xsap` has each mapping
as JSON, with a hash of all of them. Only cells of decisions that differ from what was written are applied, to the mapping of the number in the
column `row`; so a code never passes through a cell that a spreadsheet program could change, rows and columns may be sorted, moved and added, and
a workbook that nobody has edited gives back exactly the mappings that it was made of. A decision is dated to the last change of the file, as
a spreadsheet doesn't date cells.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from xsap import __version__
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.files import file_ending
from xsap.linking.results import Candidate
from xsap.tabular.cells import escape_surrogates, to_cells, to_text
from xsap.tabular.readers import open_table
from xsap.tabular.workbook_writer import MAX_COLUMNS, check_row_count, cut_to_cell, open_book, put_cell
from xsap.text import EXACT_MATCH, normalize

REVIEW_SHEET, DATA_SHEET = "review", "xsap"
_FORMAT = 1
_END = "end"  # in place of a number: the row of the hidden sheet that says what all others are
_CHARACTERS_PER_CELL = 30_000  # of JSON in ASCII; a cell holds 32,767
_CANDIDATE_CHARACTERS = 250
_ROWS_PER_CHUNK = 4096
_EXAMPLES = 5
_ID_SEPARATOR = "|"

_TERM = ("row", "source_code", "source_name")
_DECISION = ("status", "chosen", "other_concept_id", "equivalence", "comment", "reviewer", "second_reviewer")
_NUMBERS = ("confidence", "score")
_WIDTHS = {
    "row": 6,
    "source_code": 14,
    "source_name": 44,
    "chosen": 44,
    "equivalence": 24,
    "comment": 30,
    "candidate": 44,
}
_STATUS_WORDS = {each: each.value.replace("_", " ") for each in Status}
_EQUIVALENCE_WORDS = {each: each.value for each in Equivalence} | {
    Equivalence.WIDER: "wider: the concept is broader",
    Equivalence.NARROWER: "narrower: the concept is narrower",
}
_INSTEAD = "add columns for notes of your own, but leave 'row' and the hidden sheet as they are, and save as .xlsx"

logger = logging.getLogger(__name__)


class _Decision(NamedTuple):
    """The cells of a decision, as text, in the order of _DECISION."""

    status: str
    chosen: str
    other_concept_id: str
    equivalence: str
    comment: str
    reviewer: str
    second_reviewer: str


# Writing


def write_workbook(mappings: Sequence[Mapping], out: Path, *, identity: ReadOnlyDict[str, str] | None = None) -> None:
    """Write mappings as a workbook for review, all or nothing.

    Args:
        mappings: In the order of the rows.
        out: The .xlsx file; one that exists is replaced.
        identity: What the mappings come from, such as hashes of the input and of the index; kept in the workbook for `read_identity`.

    Raises:
        ConfigError: The file does not end in .xlsx, XlsxWriter is not installed, or there are more rows or columns than a sheet has.
    """
    if file_ending(out) != ".xlsx":
        raise ConfigError(f"a workbook for review must end in .xlsx, found {out}; give it that ending")
    check_row_count(len(mappings), out)
    candidates = max((len(mapping.candidates) for mapping in mappings), default=0)
    further = list(dict.fromkeys(name for mapping in mappings for name in mapping.columns))
    header = _header(candidates, further)
    if len(header) > MAX_COLUMNS:
        raise ConfigError(f"{out}: expected at most {MAX_COLUMNS:,} columns, found {len(header):,}; use fewer columns")
    with write_atomically(out, binary=True) as stream, open_book(stream) as (book, text):
        sheet, data = book.add_worksheet(REVIEW_SHEET), book.add_worksheet(DATA_SHEET)
        data.very_hidden()
        bold = book.add_format({"num_format": "@", "bold": True, "bottom": 1})
        _lay_out(sheet, header, len(mappings), candidates, text)
        for at, name in enumerate(header):
            put_cell(sheet, 0, at, name, bold)
        for at, name in enumerate(("row", "mapping")):
            put_cell(data, 0, at, name, text)
        digest, line = hashlib.sha256(), 1
        for number, mapping in enumerate(mappings, start=1):
            for at, cell in enumerate(_cells(number, mapping, candidates, further)):
                put_cell(sheet, number, at, cell, text)
            for part in _parts(mapping):
                put_cell(data, line, 0, str(number), text)
                put_cell(data, line, 1, part, text)
                digest.update(f"{number} {part}\n".encode())
                line += 1
        end = {"format": _FORMAT, "xsap": __version__, "rows": len(mappings), "sha256": digest.hexdigest()}
        put_cell(data, line, 0, _END, text)
        put_cell(data, line, 1, json.dumps(end | {"identity": dict(identity or {})}), text)


def _header(candidates: int, further: Sequence[str]) -> list[str]:
    """The names of the columns; one of the source's that has a name of ours gets `source_` before it."""
    ours = [*_TERM, *_DECISION, *_NUMBERS, *(f"candidate_{rank}" for rank in range(1, candidates + 1))]
    ours += ["language", "frequency"]
    taken = {normalize(name, EXACT_MATCH) for name in ours}
    for name in further:
        while normalize(name, EXACT_MATCH) in taken:
            name = f"source_{name}"
        taken.add(normalize(name, EXACT_MATCH))
        ours.append(name)
    return ours


def _lay_out(sheet: Any, header: Sequence[str], rows: int, candidates: int, text: Any) -> None:
    """Widths, formats, the frozen header and the drop-downs of the sheet for people. text: the format of text."""
    for at, name in enumerate(header):
        sheet.set_column(
            at, at, _WIDTHS.get(name.removesuffix(f"_{name.rpartition('_')[2]}"), _WIDTHS.get(name, 16)), text
        )
    sheet.freeze_panes(1, len(_TERM))
    sheet.autofilter(0, 0, max(rows, 1), len(header) - 1)
    sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{rows + 1}"})
    status, chosen, equivalence = (header.index(name) for name in ("status", "chosen", "equivalence"))
    last = max(rows, 1)
    for at, words in ((status, _STATUS_WORDS), (equivalence, _EQUIVALENCE_WORDS)):
        sheet.data_validation(1, at, last, at, {"validate": "list", "source": list(words.values())})
    if candidates:
        from xlsxwriter.utility import xl_col_to_name

        first = header.index("candidate_1")
        source = f"=${xl_col_to_name(first)}2:${xl_col_to_name(first + candidates - 1)}2"  # of the same row in each row
        sheet.data_validation(1, chosen, last, chosen, {"validate": "list", "source": source})


def _cells(number: int, mapping: Mapping, candidates: int, further: Sequence[str]) -> Iterator[Any]:
    """The cells of a row, in the order of `_header`."""
    yield from (
        number,
        mapping.source_code,
        mapping.source_name,
        *_decision(mapping),
        mapping.confidence,
        mapping.score,
    )
    labels = _labels(mapping)
    yield from (*labels, *[None] * (candidates - len(labels)), mapping.language, mapping.frequency)
    yield from (mapping.columns.get(name) for name in further)


def _decision(mapping: Mapping) -> _Decision:
    """What the cells of a mapping's decision show."""
    ids = [candidate.concept_id for candidate in mapping.candidates]
    targets = [target.concept_id for target in mapping.targets]
    is_candidate = len(targets) == 1 and targets[0] in ids
    return _Decision(
        _STATUS_WORDS[mapping.status],
        _labels(mapping)[ids.index(targets[0])] if is_candidate else "",
        "" if is_candidate else _ID_SEPARATOR.join(targets),
        _EQUIVALENCE_WORDS[mapping.equivalence],
        mapping.comment,
        mapping.decided.by,
        mapping.confirmed.by,
    )


def _labels(mapping: Mapping) -> list[str]:
    """What is shown of each candidate. It begins with its rank, by which a choice is read, so it is never a formula."""
    labels = []
    for rank, each in enumerate(mapping.candidates, start=1):
        matched = f"'{each.matched_name}' ({each.language})"
        shown = [each.name, each.concept_id, matched, f"{each.score:.3f}", *each.semantic_types, *each.codes]
        labels.append(_cut_label(f"{rank}: {' | '.join(' '.join(escape_surrogates(part).split()) for part in shown)}"))
    return labels


def _cut_label(text: str) -> str:
    return text if len(text) <= _CANDIDATE_CHARACTERS else f"{text[: _CANDIDATE_CHARACTERS - 1]}…"


def _parts(mapping: Mapping) -> list[str]:
    """A mapping as JSON, in parts that fit into cells: ASCII alone, and nothing that a workbook takes for an escape (`_x0041_`)."""
    values = asdict(replace(mapping, columns={})) | {"columns": dict(mapping.columns)}
    text = json.dumps(values).replace("_x", "\\u005fx")
    return [text[start : start + _CHARACTERS_PER_CELL] for start in range(0, len(text), _CHARACTERS_PER_CELL)]


# Reading


def read_workbook(path: Path) -> list[Mapping]:
    """Read a workbook of `write_workbook` that people may have edited.

    What was decided, and rows that were deleted or added, is logged; a deleted row leaves its mapping as it was.

    Args:
        path: The workbook.

    Returns:
        All mappings in the order in which they were written, with the decisions.

    Raises:
        DataError: It is no such workbook, or its hidden sheet was changed; or, with the rows, a decision is not one of those offered or
            contradicts itself, a number stands beside another term, or two rows of one term differ.
    """
    mappings, _ = _read_data(path)
    repairs = Counter[str]()
    decisions, rows = dict[int, _Decision](), dict[int, int]()
    saved = int(path.stat().st_mtime * 1000)
    faults: list[str] = []
    for row, number, name, decision in _read_review(path, len(mappings), repairs):
        mapping = mappings[number - 1]
        if not _same(name, mapping.source_name):
            faults.append(
                f"row {row:,}: expected the source_name '{_short(mapping.source_name)}' beside the number {number:,}, found '{_short(name)}'; "
                "sort whole rows, and don't edit the names"
            )
        elif number in decisions and decisions[number] != decision:
            faults.append(
                f"rows {rows[number]:,} and {row:,}: expected one decision on number {number:,}, found two; delete one row"
            )
        else:
            decisions[number], rows[number] = decision, row
    read = []
    for number, mapping in enumerate(mappings, start=1):
        try:
            read.append(_decided(mapping, decisions[number], saved) if number in decisions else mapping)
        except DataError as error:
            faults.append(f"row {rows[number]:,}: {error}")
    if faults:
        more = f" (and {len(faults) - _EXAMPLES:,} more rows)" if len(faults) > _EXAMPLES else ""
        raise DataError(f"{path}: {'; '.join(faults[:_EXAMPLES])}{more}")
    changed = sum(before != after for before, after in zip(mappings, read, strict=True))
    if deleted := len(mappings) - len(decisions):
        repairs["rows deleted, their mappings left as they were"] = deleted
    remarks = [f"{reason}: {count:,}" for reason, count in repairs.items() if count]
    logger.info("%s: %s", path, "; ".join([f"{len(read):,} rows, {changed:,} of them changed by review", *remarks]))
    return read


def read_identity(path: Path) -> dict[str, str]:
    """What `write_workbook` was given as `identity`. Raises DataError as `read_workbook` does."""
    return _read_data(path)[1]


def _read_data(path: Path) -> tuple[list[Mapping], dict[str, str]]:
    """The hidden sheet: the mappings as written, and the identity."""
    try:
        rows = _rows(path, DATA_SHEET, ("row", "mapping"))
        digest, parts, end = hashlib.sha256(), list[list[str]](), ""
        for _, (number, part) in rows:
            if number == _END:
                end = part
                break
            digest.update(f"{number} {part}\n".encode())
            if int(number) > len(parts):
                parts.append([])
            parts[-1].append(part)
        stated = json.loads(end)
        if (stated["format"], stated["rows"], stated["sha256"]) != (_FORMAT, len(parts), digest.hexdigest()):
            raise ValueError("its hash differs")
        return [_mapping(json.loads("".join(each))) for each in parts], dict(stated["identity"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected the hidden sheet '{DATA_SHEET}' as xsap wrote it, found a changed one ({error}); "
            "use a copy in which it was not changed, or export again"
        ) from None


def _read_review(path: Path, count: int, repairs: Counter[str]) -> Iterator[tuple[int, int, str, _Decision]]:
    """(row as a person sees it, number, name, decision) of each row that has a number. count: of mappings."""
    columns = ("row", "source_name", *_DECISION)
    for row, (number, name, *decision) in _rows(path, REVIEW_SHEET, columns, repairs):
        text = number.strip().removesuffix(".0")
        if not text and not any(cell.strip() for cell in (name, *decision)):
            continue
        if not text.isdecimal() or not 1 <= int(text) <= count:
            if any(decision):
                raise DataError(
                    f"{path}: row {row:,}: expected a number from 1 to {count:,} in the column 'row', found '{_short(number)}'; {_INSTEAD}"
                )
            repairs["rows added without a decision, not read"] += 1
            continue
        yield row, int(text), name, _Decision(*decision)


def _rows(
    path: Path, sheet: str, columns: Sequence[str], repairs: Counter[str] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """(row as a person sees it, cells as text) of a sheet. repairs: what was repaired is added to it."""
    table = open_table(path, sheet=sheet)
    places = [table.column_index(column) for column in columns]
    if repairs is not None:
        repairs.update(table.repairs)
    row = 1
    for chunk in table.chunks(_ROWS_PER_CHUNK):
        for cells in zip(*(to_cells(chunk.column(place)) for place in places), strict=True):
            row += 1
            yield row, list(map(to_text, cells))


def _mapping(values: dict[str, Any]) -> Mapping:
    """The inverse of `_parts`."""
    signatures = {name: Signature(**values[name]) for name in ("created", "decided", "confirmed")}
    return Mapping(
        **values
        | signatures
        | {
            "targets": tuple(MappedConcept(**target) for target in values["targets"]),
            "candidates": tuple(
                Candidate(**each | {name: tuple(each[name]) for name in ("semantic_types", "codes")})
                for each in values["candidates"]
            ),
            "status": Status(values["status"]),
            "equivalence": Equivalence(values["equivalence"]),
        }
    )


def _same(found: str, expected: str) -> bool:
    """Whether a cell still shows what was written; a spreadsheet may change line ends, and blanks at the ends."""
    if found == expected:
        return True
    shown = cut_to_cell(escape_surrogates(expected))
    return normalize(found, EXACT_MATCH) == normalize(shown, EXACT_MATCH)


def _decided(mapping: Mapping, found: _Decision, saved: int) -> Mapping:
    """A mapping with the cells that differ from what was written.

    Args:
        mapping: As written.
        found: The cells.
        saved: When the workbook was saved, in milliseconds since 1970.

    Raises:
        DataError: Without the row, for a word that is not offered, and a contradiction.
    """
    written = _decision(mapping)
    changed = {name for name in _DECISION if not _same(getattr(found, name), getattr(written, name))}
    if not changed:
        return mapping
    status = _word(found.status, _STATUS_WORDS, "status") if "status" in changed else mapping.status
    equivalence = mapping.equivalence
    if "equivalence" in changed:
        equivalence = _word(found.equivalence, _EQUIVALENCE_WORDS, "equivalence")
    targets = _targets(mapping, found, changed)
    if changed & {"status", "chosen", "other_concept_id", "equivalence"}:
        targets, equivalence = _consistent(status, targets, equivalence, changed)
    result = replace(mapping, status=status, equivalence=equivalence, targets=targets)
    if "comment" in changed:
        result = replace(result, comment=found.comment)
    is_decision = result.key != mapping.key or (status, equivalence, targets) != (
        mapping.status,
        mapping.equivalence,
        mapping.targets,
    )
    if is_decision:  # who confirmed another decision did not confirm this one
        result = replace(result, confirmed=Signature())
    if is_decision or "reviewer" in changed:
        result = replace(result, decided=Signature(found.reviewer.strip(), saved))
    if "second_reviewer" in changed:
        by = found.second_reviewer.strip()
        result = replace(result, confirmed=Signature(by, saved if by else 0))
    return result


def _word(text: str, words: ReadOnlyDict[Any, str], column: str) -> Any:
    """The status or equivalence of a cell; an empty one is unreviewed. Raises DataError."""
    wanted = normalize(text, EXACT_MATCH) or "unreviewed"
    for each, word in words.items():
        if wanted in (normalize(word, EXACT_MATCH), each.value, word.partition(":")[0]):
            return each
    hint = did_you_mean(text, words.values(), otherwise=f"choose one of: {', '.join(words.values())}")
    raise DataError(f"expected a word of the drop-down in '{column}', found '{_short(text)}'{hint}")


def _targets(mapping: Mapping, found: _Decision, changed: set[str]) -> tuple[MappedConcept, ...]:
    """The concepts of `chosen` or `other_concept_id`, whichever was changed."""
    if not changed & {"chosen", "other_concept_id"}:
        return mapping.targets
    choice, other = found.chosen.strip(), found.other_concept_id.strip()
    if choice and other and {"chosen", "other_concept_id"} <= changed:
        raise DataError(
            f"expected a candidate in 'chosen' or a concept in 'other_concept_id', found both ('{_short(other)}'); empty one"
        )
    if other and (not choice or "other_concept_id" in changed):
        known = {
            each.concept_id: each for each in (*map(MappedConcept.from_candidate, mapping.candidates), *mapping.targets)
        }
        ids = [part.strip() for part in other.split(_ID_SEPARATOR) if part.strip()]
        return tuple(known.get(each, MappedConcept(each)) for each in ids)
    if not choice:
        return ()
    rank = choice.partition(":")[0].strip().removesuffix(".0")
    if not rank.isdecimal() or not 1 <= int(rank) <= len(mapping.candidates):
        expected = f"a candidate from 1 to {len(mapping.candidates)}" if mapping.candidates else "no candidate"
        raise DataError(
            f"expected {expected} in 'chosen', found '{_short(choice)}'; write the id of any other concept into 'other_concept_id'"
        )
    return (MappedConcept.from_candidate(mapping.candidates[int(rank) - 1]),)


def _consistent(
    status: Status, targets: tuple[MappedConcept, ...], equivalence: Equivalence, changed: set[str]
) -> tuple[tuple[MappedConcept, ...], Equivalence]:
    """Targets and equivalence that go with a status. Raises DataError where a person has chosen what doesn't."""
    if status in (Status.NO_MATCH, Status.REJECTED):
        if targets and changed & {"chosen", "other_concept_id"}:
            raise DataError(
                f"expected no concept in a row with the status '{_STATUS_WORDS[status]}', found '{_short(targets[0].concept_id)}'; "
                "set the status to 'approved', or empty 'chosen' and 'other_concept_id'"
            )
        is_no_match = status is Status.NO_MATCH and "equivalence" not in changed
        return (), Equivalence.UNMATCHED if is_no_match else equivalence
    if status is Status.APPROVED and not targets:
        raise DataError(
            "expected a concept in a row with the status 'approved', found none; choose one, or set the status to 'no match'"
        )
    if equivalence is Equivalence.UNMATCHED and "equivalence" in changed:
        raise DataError(
            "expected another equivalence in a row with a concept, found 'unmatched'; or set the status to 'no match'"
        )
    return targets, Equivalence.UNREVIEWED if equivalence is Equivalence.UNMATCHED and targets else equivalence


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
