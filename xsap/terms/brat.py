"""Annotations in brat's standoff format, with the codes in their notes and normalizations.

Stenetorp et al., EACL 2012 (demonstrations); https://brat.nlplab.org/standoff.html. Beside each text is an `.ann` file.
Three kinds of its lines are read: `T1<tab>TYPE start end[;start end…]<tab>text`, with spans in characters of the text,
from 0, the end exclusive; notes `#1<tab>AnnotatorNotes T1<tab>text`; and normalizations `N1<tab>Reference T1
RESOURCE:id<tab>text`. Events, relations, equivalences, attributes, and notes and normalizations of those, are skipped.
The quoted text of a span in pieces has a space between the pieces.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from xsap.errors import DataError
from xsap.terms.corpus import CorpusFiles, document_variants, locate

_SPANS = re.compile(r"[0-9]{1,9} [0-9]{1,9}(;[0-9]{1,9} [0-9]{1,9})*")
_TEXT_BOUND = re.compile(r"(?P<id>T\S+)\t(?P<type>\S+) (?P<spans>[0-9 ;]+)\t(?P<quoted>.*\S.*)")
_NOTE = re.compile(r"#\S*\t\S+ (?P<id>\S+)\s*(\t(?P<text>.*))?")
_NORMALIZATION = re.compile(r"N\S+\t\S+ (?P<id>\S+) (?P<text>[^:\t]+:[^\t]+)(\t.*)?")
_OTHER_KINDS = ("E", "R", "A", "M", "*")  # event, relation, attribute, modification, equivalence


class Annotation(NamedTuple):
    """A text-bound annotation. line: line number. mention: text, whitespace collapsed. pieces: text of each span."""

    line: int
    type: str
    mention: str
    spans: list[tuple[int, int]]
    pieces: list[str]
    notes: list[str]
    references: list[str]


class LocatedAnnotation(NamedTuple):
    """An annotation and its location in the context; start and end are None where the text differs there."""

    annotation: Annotation
    context: str
    start: int | None
    end: int | None


def read_annotations(files: CorpusFiles, name: str) -> Iterator[LocatedAnnotation]:
    """The annotations of an `.ann` file, located in the `.txt` file beside it. Raises DataError with file and line."""
    documents = document_variants(files.text(str(PurePosixPath(name).with_suffix(".txt"))))
    for annotation in parse_brat(files.text(name), files.path_of(name)):
        location = locate(documents, annotation.spans, annotation.pieces)
        yield LocatedAnnotation(annotation, documents[0].context, *location)


def parse_brat(text: str, path: str) -> list[Annotation]:
    """The text-bound annotations of an `.ann` file, in order.

    Raises DataError with file and line for a line that is none of brat's, or refers to an annotation that is not there.
    """
    annotations: dict[str, Annotation] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    references: dict[str, list[str]] = defaultdict(list)
    first_reference: dict[str, int] = {}  # annotation → line number
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        match = _TEXT_BOUND.fullmatch(line)
        if match and (spans := parse_spans(match["spans"])) and match["id"] not in annotations:
            quoted = match["quoted"]
            mention, pieces = " ".join(quoted.split()), split_pieces(quoted, spans)
            annotations[match["id"]] = Annotation(number, match["type"], mention, spans, pieces, [], [])
        elif match := _NOTE.fullmatch(line):
            notes[match["id"]].append((match["text"] or "").strip())
            first_reference.setdefault(match["id"], number)
        elif match := _NORMALIZATION.fullmatch(line):
            references[match["id"]].append(match["text"].strip())
            first_reference.setdefault(match["id"], number)
        elif line.strip() and not (line.startswith(_OTHER_KINDS) and "\t" in line):
            expected = (
                "T1<tab>TYPE start end[;start end…]<tab>text, each T once, or another kind of line that brat writes"
            )
            raise DataError(f"{path}:{number}: expected {expected}; found '{line[:60]}'")
    for key, number in first_reference.items():
        if key.startswith("T") and key not in annotations:
            expected = "expected a note or a normalization of an annotation of this file"
            raise DataError(f"{path}:{number}: {expected}; found no {key} in it")
    return [one._replace(notes=notes[key], references=references[key]) for key, one in annotations.items()]


def parse_spans(text: str) -> list[tuple[int, int]] | None:
    """`12 20;25 30` as pairs of offsets, in order; None for any other text."""
    if not _SPANS.fullmatch(text):
        return None
    return [(int(start), int(end)) for start, end in (span.split(" ") for span in text.split(";"))]


def split_pieces(quoted: str, spans: list[tuple[int, int]]) -> list[str]:
    """The quoted text split by the lengths of the spans, a space between them; empty if its length does not fit."""
    if len(spans) == 1:
        return [quoted]
    pieces, offset = [], 0
    for start, end in spans:
        pieces.append(quoted[offset : offset + end - start])
        offset += end - start + 1
    return pieces if offset == len(quoted) + 1 else []
