"""The tabular list of ICD-10-CM, the classification of diagnoses in the United States, as XML (CDC, in the public domain).

A `diag` element is a code: name (the code), desc (its title), notes of several kinds, and the codes below it. A `sevenChrDef` lists seventh
characters, which complete every code without subdivisions at or below it: S02.0 is padded with the placeholder X to six characters, S02.0XX, and
A makes it S02.0XXA, "Fracture of vault of skull, initial encounter for closed fracture". The file does not list these codes, half of all, so they
are spelled out here. Chapters and sections classify codes and are no concepts. Inclusion terms are synonyms; `includes` notes give examples of
a category's content, which may be wider or narrower than it.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_prep.classification import INCLUSION, MAX_DEPTH, WITHOUT_DTD, ClassificationNames
from data_prep.ontology_model import LABEL
from data_prep.xml_events import local_name, text_of, xml_events
from data_prep.zip_files import InputFile
from xsap.errors import DataError

TABULAR = "ICD10CM.tabular"  # the name of the root element
_EXPECTED = "ICD-10-CM's tabular list as XML"
_LENGTH = 6  # characters of a code before the seventh, without the dot

# "7th characters D and S do not apply to codes in category S06 with 6th character 7 - death due to ..., or 8 - death due to ..."
_EXCEPTION = re.compile(
    r"7th characters? (?P<characters>\w(?:(?:, | and |, and | or )\w)*) do(?:es)? not apply to codes? in (?:sub)?category "
    r"(?P<category>[\w.]+) with 6th characters? (?P<sixth>.+)",
    re.IGNORECASE,
)
_SIXTH = re.compile(r"(?:^|\bor |\band |, )(\w)(?= - |,|\.|;| or | and |$)")


@dataclass(frozen=True, slots=True)
class _Exception:
    """Seventh characters that the codes of a category do not take if they have one of some sixth characters."""

    category: str
    sixth: frozenset[str]
    seventh: frozenset[str]

    def covers(self, flat: str, seventh: str) -> bool:
        return flat.startswith(self.category) and flat[_LENGTH - 1 :] in self.sixth and seventh in self.seventh


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A code without subdivisions, and its seventh characters with their meanings."""

    code: str
    title: str
    seventh: tuple[tuple[str, str], ...]


def read_icd10cm(path: InputFile) -> ClassificationNames:
    """Read the tabular list. Raises DataError."""
    found = ClassificationNames(source="ICD10CM")
    found.counts["codes in the file"] = 0  # the first line of the report
    titles: dict[str, str] = {}
    leaves: list[_Leaf] = []
    exceptions: list[_Exception] = []
    for top in _parts(path):
        if local_name(top) == "diag":
            leaves += _read_codes(top, found, titles, exceptions, path)
        else:
            _skip_part(top, found)
    if not titles:
        raise DataError(f"{path}: expected codes (diag) in {TABULAR}, found none. Is the file whole?")
    for leaf in leaves:
        _spell_out(leaf, found, titles, exceptions)
    found.counts["codes in the file"] = len(titles)
    return found


def _parts(path: InputFile) -> Iterator[ET.Element]:
    """Each code that is below no other, with those below it; and each chapter and section after them, without their codes."""
    nesting = 0
    for event, element, depth in xml_events(path, _EXPECTED, WITHOUT_DTD, max_depth=MAX_DEPTH):
        tag = local_name(element)
        if tag == "diag":
            nesting += 1 if event == "start" else -1
        if event == "end" and nesting == 0 and (tag in ("diag", "section", "chapter") or depth == 2):
            if depth > 2 or tag in ("diag", "chapter"):
                yield element
            element.clear()


def _skip_part(part: ET.Element, found: ClassificationNames) -> None:
    """Count the title and the notes of a chapter or section, which are not kept."""
    tag = local_name(part)
    found.counts[f"{tag}s left out"] += 1
    for child in part:
        for text in [child] if local_name(child) == "desc" else _notes(child):
            found.add("", text_of(text), "", f"{tag}, no code")


def _read_codes(
    top: ET.Element,
    found: ClassificationNames,
    titles: dict[str, str],
    exceptions: list[_Exception],
    path: InputFile,
) -> Iterator[_Leaf]:
    """Read a code and all below it: their names into `found` and `titles`, the codes without subdivisions as the result."""
    pending: list[tuple[ET.Element, tuple[tuple[str, str], ...], str]] = [(top, (), "")]
    while pending:
        element, seventh, above = pending.pop()
        code = text_of(_child(element, "name"))
        if not code:
            last = next(reversed(titles), "the beginning")
            raise DataError(f"{path}: expected a code in <name> of every <diag>, found none after {last}")
        title = text_of(_child(element, "desc"))
        found.counts["codes that the file lists twice"] += code in titles
        found.add(code, title, "title" if code in titles else LABEL)
        titles.setdefault(code, title)
        found.parents += [(code, above)] if above else []
        own: list[tuple[str, str]] = []
        below: list[ET.Element] = []
        for child in element:
            tag = local_name(child)
            if tag == "diag":
                below.append(child)
            elif tag == "inclusionTerm":
                _add_terms(code, [text_of(note) for note in _notes(child)], found)
            elif tag == "sevenChrDef":
                own += [(one.get("char", "").strip(), text_of(one)) for one in child if local_name(one) == "extension"]
                _drop_notes(code, child, "note of a seventh character", found)
            elif tag not in ("name", "desc"):
                exceptions += _exceptions(child)
                _drop_notes(code, child, f"{tag} note", found)
        seventh = tuple(own) or seventh
        if not below:
            yield _Leaf(code, title, seventh)
        pending += [(child, seventh, code) for child in reversed(below)]


def _add_terms(code: str, terms: Iterable[str], found: ClassificationNames) -> None:
    """Add inclusion terms. One that ends with a colon is the beginning of those that follow it: "Angiostrongyliasis due to:"."""
    beginning = ""
    for term in terms:
        if term.endswith(":"):
            beginning = term.removesuffix(":").rstrip() + " "
            found.add(code, term, INCLUSION, "beginning of inclusion terms")
        else:
            found.add(code, beginning + term, INCLUSION)


def _spell_out(
    leaf: _Leaf, found: ClassificationNames, titles: dict[str, str], exceptions: Iterable[_Exception]
) -> None:
    """Add the codes that a code and its seventh characters make; a code of seven characters has one already."""
    flat = leaf.code.replace(".", "")
    if len(flat) > _LENGTH:
        return
    padded = flat.ljust(_LENGTH, "X")
    for character, meaning in leaf.seventh:
        code, reason = f"{padded[:3]}.{padded[3:]}{character}", None
        if code in titles:
            reason = "seventh character whose code the file lists itself"
        elif any(one.covers(padded, character) for one in exceptions):
            reason = "seventh character that a note excludes"
        else:
            found.counts["codes with a seventh character"] += 1
            found.parents.append((code, leaf.code))
        found.add(code, f"{leaf.title}, {meaning}", LABEL, reason)


def _exceptions(element: ET.Element) -> list[_Exception]:
    matches = (_EXCEPTION.search(text_of(note)) for note in _notes(element))
    return [
        _Exception(
            match["category"].rstrip(".").replace(".", ""),
            frozenset(_SIXTH.findall(match["sixth"])),
            frozenset(re.findall(r"\b\w\b", match["characters"])),
        )
        for match in matches
        if match
    ]


def _drop_notes(code: str, element: ET.Element, reason: str, found: ClassificationNames) -> None:
    for note in _notes(element):
        found.add(code, text_of(note), "", reason)


def _notes(element: ET.Element) -> list[ET.Element]:
    return [one for one in element.iter() if local_name(one) == "note"]


def _child(element: ET.Element, tag: str) -> ET.Element | None:
    return next((child for child in element if local_name(child) == tag), None)
