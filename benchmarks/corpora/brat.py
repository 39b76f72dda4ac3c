"""Annotations in brat's standoff format, with their codes: what several corpora are published in.

Stenetorp et al., EACL 2012 (demonstrations); https://brat.nlplab.org/standoff.html. Beside each text lies an `.ann` file, of whose lines three
kinds matter here: `T1<tab>TYPE start end[;start end…]<tab>text`, the spans in characters of the text, from 0, the end exclusive; notes
`#1<tab>AnnotatorNotes T1<tab>text`; and normalizations `N1<tab>Reference T1 RESOURCE:id<tab>text`. Events, relations, equivalences,
attributes, and notes and normalizations of those, are passed over. A span in pieces quotes them with a space between.
"""

import re
from collections import defaultdict
from typing import NamedTuple

from xsap.errors import DataError

_SPANS = re.compile(r"[0-9]{1,9} [0-9]{1,9}(;[0-9]{1,9} [0-9]{1,9})*")
_TEXT_BOUND = re.compile(r"(?P<id>T\S+)\t(?P<type>\S+) (?P<spans>[0-9 ;]+)\t(?P<quoted>.*\S.*)")
_NOTE = re.compile(r"#\S*\t\S+ (?P<of>\S+)\s*(\t(?P<what>.*))?")
_NORMALISATION = re.compile(r"N\S+\t\S+ (?P<of>\S+) (?P<what>[^:\t]+:[^\t]+)(\t.*)?")
_OTHER_KINDS = ("E", "R", "A", "M", "*")  # event, relation, attribute, modification, equivalence


class Annotation(NamedTuple):
    """A text-bound annotation. line: its number. mention: its white space collapsed. pieces: the text that stands at each span."""

    line: int
    type: str
    mention: str
    spans: list[tuple[int, int]]
    pieces: list[str]
    notes: list[str]
    references: list[str]


def parse_brat(text: str, where: str) -> list[Annotation]:
    """The text-bound annotations of an `.ann` file, in its order; where: the file, for errors.

    Raises DataError with file and line where a line is of none of brat's kinds, or speaks of an annotation that is not there.
    """
    found: dict[str, Annotation] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    references: dict[str, list[str]] = defaultdict(list)
    spoken_of: dict[str, int] = {}  # annotation → the line
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if (
            (match := _TEXT_BOUND.fullmatch(line))
            and (spans := parse_spans(match["spans"]))
            and match["id"] not in found
        ):
            mention = " ".join(match["quoted"].split())
            found[match["id"]] = Annotation(
                number, match["type"], mention, spans, pieces_of(match["quoted"], spans), [], []
            )
        elif match := _NOTE.fullmatch(line):
            notes[match["of"]].append((match["what"] or "").strip())
            spoken_of.setdefault(match["of"], number)
        elif match := _NORMALISATION.fullmatch(line):
            references[match["of"]].append(match["what"].strip())
            spoken_of.setdefault(match["of"], number)
        elif line.strip() and not (line.startswith(_OTHER_KINDS) and "\t" in line):
            expected = "T1<tab>TYPE start end[;start end…]<tab>text, each T once, or another of brat's kinds of line"
            raise DataError(f"{where}:{number}: expected {expected}; found '{line[:60]}'")
    for of, number in spoken_of.items():
        if of.startswith("T") and of not in found:
            raise DataError(
                f"{where}:{number}: expected a note or a normalization of an annotation of this file; found no {of} in it"
            )
    return [one._replace(notes=notes[key], references=references[key]) for key, one in found.items()]


def parse_spans(text: str) -> list[tuple[int, int]] | None:
    """`12 20;25 30` as pairs of offsets, in its order; None for what is no such thing."""
    if not _SPANS.fullmatch(text):
        return None
    return [(int(start), int(end)) for start, end in (span.split(" ") for span in text.split(";"))]


def pieces_of(quoted: str, spans: list[tuple[int, int]]) -> list[str]:
    """The quoted text cut where the spans' lengths and the spaces between them say; none where it is of another length."""
    if len(spans) == 1:
        return [quoted]
    pieces, at = [], 0
    for start, end in spans:
        pieces.append(quoted[at : at + end - start])
        at += end - start + 1
    return pieces if at == len(quoted) + 1 else []
