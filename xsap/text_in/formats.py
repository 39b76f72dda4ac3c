"""Documents with linked spans in the formats of other tools.

    jsonl          A document a line: document_id, text, language, spans; each span with start, end, text, candidates and reason.
    bigbio         A document a line in BigBIO's KB schema (Fries et al., NeurIPS 2022), as its loaders and xMEN read it; the schema wants ids that are
                   unique in the whole file, so they are numbers, and `document_id` has the document's own.
    pubannotation  A document a line: text, denotations, attributes (http://www.pubannotation.org/docs/annotation-format/).
    brat           A folder with a .txt and an .ann file for each document (https://brat.nlplab.org/standoff.html).
    html           A page with the spans marked.

Offsets are in code points of the text everywhere, the end exclusive. In brat a span that contains a line end is written in parts, as brat wants it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from xsap.linking.results import EXPANDED
from xsap.page import Block, Heading, MarkedText, Table
from xsap.tabular.answers import CANDIDATE, NOTES, Answer
from xsap.tabular.cells import escape_surrogates
from xsap.terms.semantic_types import group_of
from xsap.text_in.documents import TextDocument

CONCEPT_TYPE = "Concept"  # of a span whose concept has no semantic group
JSON_FORMS = ("jsonl", "bigbio", "pubannotation")
_JSON = json.JSONEncoder(ensure_ascii=False)
_LINE_ENDS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


class SpanAnswer(NamedTuple):
    """A span of a document and its answer."""

    start: int
    end: int
    answer: Answer


def first_of(answer: Answer) -> dict[str, Any] | None:
    """The fields of the concept that a span was linked to; None if it was linked to none."""
    return None if answer.reason is not None else dict(zip(CANDIDATE, answer.candidates[0], strict=True))


def to_json_line(document: TextDocument, spans: Sequence[SpanAnswer], form: str, number: int) -> str:
    """A document as a line of one of JSON_FORMS. number: of the document in the output, from 1."""
    if form == "bigbio":
        return _JSON.encode(_to_bigbio(document, spans, number)) + "\n"
    make = {"jsonl": _to_record, "pubannotation": _to_pubannotation}[form]
    return _JSON.encode(make(document, spans)) + "\n"


def _to_record(document: TextDocument, spans: Sequence[SpanAnswer]) -> dict[str, Any]:
    return {
        "document_id": document.document_id,
        "language": document.language,
        "text": document.text,
        "spans": [
            {
                "start": start,
                "end": end,
                "text": document.text[start:end],
                "candidates": [dict(zip(CANDIDATE, fields, strict=True)) for fields in answer.candidates],
                "reason": answer.reason,
                **_expansion_of(answer),
            }
            for start, end, answer in spans
        ],
    }


def _expansion_of(answer: Answer) -> dict[str, Any]:
    """What was linked in place of an abbreviation, and where that is from; nothing for other spans."""
    notes = dict(zip(NOTES, answer.notes, strict=True)) if answer.notes else {}
    return {name: notes[name] for name in EXPANDED if notes.get(name) is not None}


def _to_bigbio(document: TextDocument, spans: Sequence[SpanAnswer], number: int) -> dict[str, Any]:
    text = document.text
    entities = []
    for place, (start, end, answer) in enumerate(spans, start=1):
        found = (
            [] if answer.reason is not None else [dict(zip(CANDIDATE, each, strict=True)) for each in answer.candidates]
        )
        normalized = [
            {"db_name": database, "db_id": code, "score": fields["score"]}
            for fields in found
            for database, code in [_database_of(fields)]
        ]
        entities.append(
            {
                "id": f"{number}_{place}",
                "type": type_of(answer),
                "text": [text[start:end]],
                "offsets": [[start, end]],
                "normalized": normalized,
            }
        )
    passages = [{"id": f"{number}_text", "type": "document", "text": [text], "offsets": [[0, len(text)]]}]
    empty: dict[str, Any] = {"events": [], "coreferences": [], "relations": []}
    return {"id": str(number), "document_id": document.document_id, "passages": passages, "entities": entities, **empty}


def _to_pubannotation(document: TextDocument, spans: Sequence[SpanAnswer]) -> dict[str, Any]:
    denotations, attributes = [], []
    for number, (start, end, answer) in enumerate(spans, start=1):
        found = first_of(answer)
        concept = "unlinked" if found is None else found["concept_id"]
        denotations.append({"id": f"T{number}", "span": {"begin": start, "end": end}, "obj": concept})
        if found is not None:
            values = {"name": found["name"], "score": found["score"], "confidence": found["confidence"]}
            attributes += [
                {"id": f"A{number}_{key}", "subj": f"T{number}", "pred": key, "obj": value}
                for key, value in values.items()
                if value is not None
            ]
    return {
        "sourcedb": "xsap",
        "sourceid": document.document_id,
        "text": document.text,
        "denotations": denotations,
        "attributes": attributes,
    }


def brat_text(document: TextDocument) -> str:
    """The text of a document as its `.txt` file has it: a question mark for each half of a surrogate pair, which UTF-8 can't encode."""
    return document.text.encode("utf-8", "replace").decode()


def to_brat(document: TextDocument, spans: Sequence[SpanAnswer]) -> str:
    """The `.ann` file of a document. No span may be white space only."""
    lines = []
    text = brat_text(document)
    for number, (start, end, answer) in enumerate(spans, start=1):
        parts = _parts_of(text, start, end)
        offsets = ";".join(f"{first} {last}" for first, last in parts)
        quoted = " ".join(text[first:last] for first, last in parts)
        lines.append(f"T{number}\t{type_of(answer)} {offsets}\t{quoted}\n")
        found = first_of(answer)
        if found is not None:
            database, code = _database_of(found)
            lines.append(
                f"N{number}\tReference T{number} {_one_word(database)}:{_one_word(code)}\t{_one_line(found['name'])}\n"
            )
    return escape_surrogates("".join(lines))


def _parts_of(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """A span without the line ends in it, as one or several parts."""
    parts, first = [], start
    for ends in _LINE_ENDS.finditer(text, start, end):
        parts.append((first, ends.start()))
        first = ends.end()
    parts.append((first, end))
    return [(first, last) for first, last in parts if last > first]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _one_word(text: str) -> str:
    """Text without white space, which ends the id of a resource or an entry in brat's files."""
    return "_".join(text.split())


def type_of(answer: Answer) -> str:
    """The semantic group of the concept that a span was linked to, such as DISO; CONCEPT_TYPE if it has none."""
    found = first_of(answer)
    groups = (group_of(each) for each in (found["semantic_types"] if found else ()))
    return next((group for group in groups if group), CONCEPT_TYPE)


def _database_of(fields: dict[str, Any]) -> tuple[str, str]:
    """The name of a concept's vocabulary and its id in it: what stands before and after a colon in the id, or its vocabulary and the id, also of an IRI."""
    prefix, colon, code = str(fields["concept_id"]).partition(":")
    if colon and prefix and code and not code.startswith("//"):
        return prefix, code
    return str(fields["vocabulary"] or "xsap").replace(":", "_"), str(fields["concept_id"])


def to_blocks(document: TextDocument, spans: Sequence[SpanAnswer]) -> list[Block]:
    """A document as blocks of a page: its text with the spans marked, and a table of the spans."""
    marks, rows = [], [["span", "place", "concept", "name", "score", "confidence"]]
    for start, end, answer in spans:
        found = first_of(answer)
        label = answer.reason or "" if found is None else f"{found['concept_id']} {found['name']}"
        marks.append((start, end, label))
        cells = ["–", answer.reason or "", "–", "–"]
        if found is not None:
            numbers = ["–" if found[key] is None else f"{found[key]:.3f}" for key in ("score", "confidence")]
            cells = [found["concept_id"], found["name"], *numbers]
        rows.append([_one_line(document.text[start:end]), f"{start}–{end}", *cells])
    blocks: list[Block] = [Heading(2, document.document_id), MarkedText(document.text, marks)]
    return [*blocks, Table(rows, words=True)] if spans else blocks
