"""Clinical qualifiers beside a term: negation, suspicion, history, laterality and grade, taken out of it and reported.

"V.a. HWI li." is a term, "HWI", with two qualifiers: suspected, left. What is written beside a term lowers the similarity to its concept's names, and
what it says must not be lost. `clean_term` takes out the markers of the table clinical_markers.toml, in seven languages, and says what each one was.
Nothing else is changed: the characters that are left and those that were removed are those of the term.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from xsap.languages import MULTIPLE, UNKNOWN
from xsap.text import COMBINING_ACCENTS, fold_characters

KINDS = ("negated", "suspected", "past", "family", "left", "right", "bilateral", "grade", "unspecified")
"""What markers say."""
SPECIFIC = frozenset({"past", "family", "left", "right", "bilateral", "grade"})
"""Kinds that a concept may have in its name: ICD-10-CM has "Fracture of right femur" and "Family history of epilepsy"."""

_EVERY = "any"  # the section of markers of all languages
_PLACES = ("start", "end", "anywhere", "brackets")
_SEPARATORS = r"\s,;:/+&|·•–—\-"
_GRADE = "(?:[0-9](?![0-9])|[ivxIVX]{1,4})[a-dA-D]?"
_NUMBER = rf"(?<![0-9.,]){_GRADE}(?:\s?[-–/]\s?{_GRADE})?"
_STAGES = (
    r"[cpyra]{0,3}T(?:[0-4](?:mi|[a-d])?|is|[xX])[,\s]*[cp]?N[0-3xX](?:mi|[a-c])?(?:[,\s]*[cp]?M[01xX][a-c]?)?"
    r"(?:[,\s]*(?:L|V|R|G|Pn)[0-4xX])*"
)
_LETTERS = r"[^\W\d_]*"
_BEFORE, _AFTER = r"(?<!\w)(?<!\w-)", r"(?!\w)(?!-\w)"  # a marker is no part of a word, nor of a compound with a hyphen
_EMPTY_BRACKETS = re.compile(rf"[(\[{{][{_SEPARATORS}.]*[)\]}}]")
_REPEATED_SEPARATORS = re.compile(r"[,;:](?=\s*[,;:])")
_AT_START, _AT_END = re.compile(rf"[{_SEPARATORS}.]+"), re.compile(rf"[{_SEPARATORS}]+$")


@dataclass(frozen=True, slots=True)
class CleanedTerm:
    """A term without clinical qualifiers, and what these said.

    Attributes:
        text: What is left of the term.
        negated: Whether it is negated, or without findings.
        suspected: Whether it is suspected, possible, or to be ruled out.
        history: `past` for the patient's own history, `family` for the family's; both joined by |; else empty.
        laterality: `left`, `right`, `bilateral`; several joined by |; else empty.
        grade: Grade, stage or class, as it is written; several joined by |.
        removed: What was taken out, in the order of the term.
    """

    text: str
    negated: bool
    suspected: bool
    history: str
    laterality: str
    grade: str
    removed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dictionary."""
        return asdict(self)


class _Found(NamedTuple):
    start: int
    end: int
    kind: str


@cache
def marker_table() -> Mapping[str, Any]:
    """The table clinical_markers.toml: language → kind → place → markers with bars between them."""
    return tomllib.loads(files("xsap.terms").joinpath("clinical_markers.toml").read_text(encoding="utf-8"))


def marker_languages() -> list[str]:
    """The languages that the table has markers for."""
    return sorted(set(marker_table()) - {_EVERY, "ambiguous", "keep"})


def clean_term(term: str, language: str = UNKNOWN, *, keep: Collection[str] = ()) -> CleanedTerm | None:
    """A term without its clinical qualifiers; None if it has none, or nothing else.

    Args:
        term: The term.
        language: Its language. UNKNOWN for any: then markers that mean something else in another language are not looked for.
        keep: Kinds that are reported, but not taken out.

    >>> clean_term("V.a. HWI li.", "de").text, clean_term("Tonsillitis", "de")
    ('HWI', None)
    """
    markers = _markers_of(UNKNOWN if language == MULTIPLE else language)
    left, owners, found = list(term), [-1] * len(term), list[_Found]()
    while (marker := markers.find("".join(left))) is not None:
        _take_out(left, owners, marker.start, marker.end, len(found))
        found.append(marker)
        _take_out_separators(left, owners)
    for i, owner in enumerate(owners):
        if owner >= 0 and found[owner].kind in keep:
            left[i] = term[i]
    return _cleaned(term, left, owners, found, keep) if found else None


def _take_out(left: list[str], owners: list[int], start: int, end: int, owner: int) -> None:
    """Blank out a part of a term, and note which marker each of its characters belongs to."""
    for i in range(start, end):
        if not left[i].isspace():
            left[i], owners[i] = " ", owner


def _take_out_separators(left: list[str], owners: list[int]) -> None:
    """Blank out brackets without content, and separators that divide nothing any more; they belong to the nearest marker."""
    while True:
        text = "".join(left)
        parts = [match.span() for match in _EMPTY_BRACKETS.finditer(text)]
        parts += [match.span() for match in _REPEATED_SEPARATORS.finditer(text)]
        parts += [match.span() for match in (_AT_START.match(text), _AT_END.search(text)) if match]
        parts = [(start, end) for start, end in parts if text[start:end].strip()]
        if not parts:
            return
        for start, end in parts:
            _take_out(left, owners, start, end, _nearest_owner(owners, start, end))


def _nearest_owner(owners: list[int], start: int, end: int) -> int:
    """The marker that stands nearest to a part of the term."""
    places = [i for i, owner in enumerate(owners) if owner >= 0]
    return owners[min(places, key=lambda i: (max(start - i, i - end, 0), i))]


def _cleaned(term: str, left: list[str], owners: list[int], found: list[_Found], keep: Collection[str]) -> CleanedTerm:
    pieces = defaultdict[int, list[int]](list)
    for i, owner in enumerate(owners):
        if owner >= 0:
            pieces[owner].append(i)
    shown = {owner: _piece(term, owners, places) for owner, places in pieces.items()}
    kinds = {marker.kind for marker in found}
    grades = {place[0]: shown[owner] for owner, place in pieces.items() if found[owner].kind == "grade"}
    return CleanedTerm(
        " ".join("".join(left).split()),
        "negated" in kinds,
        "suspected" in kinds,
        "|".join(kind for kind in ("past", "family") if kind in kinds),
        "|".join(kind for kind in ("left", "right", "bilateral") if kind in kinds),
        "|".join(_bare(grades[place]) for place in sorted(grades)),
        tuple(
            shown[owner] for owner in sorted(shown, key=lambda owner: pieces[owner][0]) if found[owner].kind not in keep
        ),
    )


def _piece(term: str, owners: list[int], places: list[int]) -> str:
    """The characters of a marker, with one blank where the term has blanks or something else between them."""
    owner = owners[places[0]]
    text = "".join(term[i] if owners[i] == owner else " " for i in range(places[0], places[-1] + 1))
    return " ".join(text.split())


def _bare(piece: str) -> str:
    return piece.strip(" ,;:()[]")


class _Pattern(NamedTuple):
    """The markers of one kind in one place. folded: whether they are matched without case and accents."""

    kind: str
    place: str
    folded: bool
    regex: re.Pattern[str]


class _Markers:
    """The markers that count in a language.

    Args:
        patterns: Their patterns.
        keep: What is no marker, in folded text.
    """

    def __init__(self, patterns: list[_Pattern], keep: re.Pattern[str]) -> None:
        self._patterns, self._keep = patterns, keep

    def find(self, text: str) -> _Found | None:
        """The longest marker at the start of a text, or else at its end, or else the first one in it; None if it would leave nothing.

        Args:
            text: The term, with blanks where markers were taken out.
        """
        folded = fold_characters(text)
        kept = [match.span() for match in self._keep.finditer(folded)]
        best: tuple[tuple[int, int, int], _Found] | None = None
        for kind, place, of_folded, regex in self._patterns:
            for match in regex.finditer(folded if of_folded else text):
                start, end = match.span("marker")
                if any(start < stop and first < end for first, stop in kept):
                    continue
                rank = _PLACES.index(place), start if place in ("anywhere", "brackets") else 0, start - end
                if best is None or rank < best[0]:
                    best = rank, _Found(start, end, kind)
                break
        if best is None:
            return None
        found = best[1]
        return found if any(map(str.isalnum, text[: found.start] + text[found.end :])) else None


@cache
def _markers_of(language: str) -> _Markers:
    """The markers of a language and of all; for UNKNOWN those of every language that are not ambiguous."""
    sections = {each: marker_table()[each] for each in (_EVERY, *marker_languages())}
    if language != UNKNOWN:
        sections = {each: section for each, section in sections.items() if each in (_EVERY, language)}
    skipped = _ambiguous() if language == UNKNOWN else set[str]()
    forms = defaultdict[tuple[str, str, bool], set[str]](set)
    for kind, place, form in _forms_of(sections):
        if form not in skipped:
            forms[kind, place, not _has_capital(form)].add(form)
            if place != "brackets":
                forms[kind, "brackets", not _has_capital(form)].add(form)
    patterns = [
        _Pattern(kind, place, folded, re.compile(_IN_PLACE[place].format(_alternatives(found))))
        for (kind, place, folded), found in sorted(forms.items())
    ]
    keep = [form for each in sections for form in _split(marker_table()["keep"].get(each, ""))]
    return _Markers(patterns, re.compile(_alternatives(keep)))


def _forms_of(sections: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Kind, place and marker of sections of the table."""
    for section in sections.values():
        for kind, places in section.items():
            for place, forms in places.items():
                yield from ((kind, place, form) for form in _split(forms))


@cache
def _ambiguous() -> set[str]:
    """Markers that are something else in another language: those that the table lists, and those of two kinds."""
    kinds = defaultdict[str, set[str]](set)
    for kind, _, form in _forms_of({each: marker_table()[each] for each in marker_languages()}):
        kinds[form].add(kind)
    return {*_split(marker_table()["ambiguous"]), *(form for form, found in kinds.items() if len(found) > 1)}


def _split(forms: str) -> list[str]:
    return [" ".join(form.split()) for form in forms.split("|") if form.strip()]


def _has_capital(form: str) -> bool:
    return any(map(str.isupper, form))


_IN_PLACE = {
    "start": rf"\A[{_SEPARATORS}.]*(?P<marker>{{}})",
    "end": rf"(?P<marker>{{}})[{_SEPARATORS}.]*\Z",
    "anywhere": "(?P<marker>{})",
    "brackets": rf"(?P<marker>[(\[][{_SEPARATORS}.]*{{}}[{_SEPARATORS}.]*[)\]])",
}


def _alternatives(forms: Iterable[str]) -> str:
    """A regular expression of any of some markers, the longest first."""
    return f"(?:{'|'.join(map(_to_regex, sorted(forms, key=lambda form: (-len(form), form))))})"


def _to_regex(form: str) -> str:
    """The regular expression of a marker, by the signs that clinical_markers.toml explains."""
    if form == "TNM":
        return rf"(?<!\w){_STAGES}(?!\w)"
    may_end_bare = form.endswith(".") and form.count(".") > 1
    core = form.removesuffix(".") if may_end_bare else form
    parts = [_BEFORE if core[0].isalnum() or core[0] == "#" else ""]
    for i, character in enumerate(core):
        before, after = core[i - 1 : i], core[i + 1 : i + 2]
        if character == " ":
            parts.append(r"\s*" if before in tuple(".:") or after == "#" else r"\s+")
        elif character == ".":
            parts.append(r"\." if i == len(core) - 1 else r"\.\s*")
        elif character == "#":
            parts.append(_NUMBER)
        elif character == "*":
            parts.append(_LETTERS)
        elif character == "/":
            parts.append(r"\s?/\s?")
        else:
            plain = character if _has_capital(form) else fold_characters(character)
            parts.append(re.escape(plain) + ("" if character.isascii() else f"[{COMBINING_ACCENTS}]*"))
    if may_end_bare:
        parts.append(rf"(?:\.|{_AFTER})")
    elif core[-1].isalnum() or core[-1] in "#*":
        parts.append(_AFTER)
    return "".join(parts)
