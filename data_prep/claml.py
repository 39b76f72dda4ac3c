"""ClaML files, the format of classifications of ISO 13120 (EN 14463): ICD-10 of the WHO, ICD-10-GM, and other national editions.

A file is a list of `Class` elements, each with a code, a kind (chapter, block, category), the classes above it and rubrics. A rubric has a kind
and a label in each language. Categories are concepts; `preferredLong` is a title that can be understood alone, `preferred` is one below the
title of the class above ("External upper lip") unless it is the only one, and `inclusion` is a synonym.

Where many categories are divided in the same way, a file has the division once: a `Modifier` with its `ModifierClass` elements, and
`ModifiedBy` at a class. Such codes are spelled out here by the standard's rules: a modifier applies to the classes without subdivisions at or
below the class that states it, only with the classes it states to be valid, and not where `ExcludeModifier` or the meta datum
`excludeOnPrecedingModifier` says so; several apply one after another. A listed class with the code of a derived one has precedence. WHO and
BfArM name modifiers after the character that they fill (S04E10_4, S04E10_5). A fifth character of a code of three is preceded by the filler X
in place of the fourth: M45.X0 (ICD-10, volume 2, section 2.4.3).
"""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_prep.classification import INCLUSION, MAX_DEPTH, WITHOUT_DTD, ClassificationNames
from data_prep.ontology_model import LABEL, NameRecord, parse_language
from data_prep.xml_events import local_name, xml_events
from data_prep.zip_files import InputFile
from xsap.errors import DataError

CLAML = "ClaML"  # the name of the root element
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_CATEGORY, _FULL_TITLE, _TITLE = "category", "preferredlong", "preferred"  # kinds, in lower case
_NAMES = {_FULL_TITLE: LABEL, _TITLE: LABEL, "inclusion": INCLUSION}  # kind of a rubric → scope of its names
_DEFINITION = "definition"  # the kind of a rubric
_BLOCKS = {"Fragment", "Para", "ListItem", "Cell"}  # elements whose text is set apart by spaces
_EXCLUDED_AFTER = "excludeOnPrecedingModifier"

_USAGE_MARKS = "†*!+"  # dagger, asterisk, optional: how a code may be combined with others
_THREE = re.compile(r"[A-Z]\d\w")  # a code of three characters
_POSITION = re.compile(r"_([4-9])$")
_REFERENCE_AS_TEXT = re.compile(r" ?\((?:[A-Z]\d\w(?:\.[\w-]+)?[†*+] ?,? ?)+\)")  # in text with single blanks
_EMPTY_BRACKETS = re.compile(r" ?(?:\([ ,;–-]*\)|\[[ ,;–-]*\])")


@dataclass(frozen=True, slots=True)
class _Label:
    """A text of a rubric. kind: of the rubric, in lower case. language: as the file writes it."""

    kind: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class _Use:
    """A modifier at a class. valid: the codes of its classes that apply; None for all."""

    modifier: str
    valid: frozenset[str] | None
    position: int


@dataclass(slots=True)
class _ModifierClass:
    code: str
    labels: list[_Label]
    excluded_after: frozenset[str]  # "modifier code", of a class of an earlier modifier


@dataclass(slots=True)
class _Class:
    code: str
    kind: str
    above: list[str]
    below: list[str]
    uses: list[_Use]
    excluded: set[str]
    labels: list[_Label]
    is_linked: bool  # whether `uses` comes from a rubric with a link, in place of ModifiedBy


@dataclass
class _File:
    """The content of a file. modifiers: modifier → its classes."""

    classes: dict[str, _Class] = field(default_factory=dict)
    modifiers: dict[str, list[_ModifierClass]] = field(default_factory=lambda: defaultdict(list))
    modifier_labels: list[_Label] = field(default_factory=list)
    title: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class _Derived:
    """A class with none or some modifiers applied. titles: language → name. applied: "modifier code" of each."""

    code: str
    titles: dict[str, str]
    applied: tuple[str, ...] = ()


def read_claml(path: InputFile, *, language: str | None = None) -> ClassificationNames:
    """Read a ClaML file.

    Args:
        path: The file.
        language: The language of labels for which the file states none.

    Raises:
        DataError: With the line or the code.
    """
    file = _File()
    for element in _elements(path, file):
        _take(element, file, path)
    found = ClassificationNames(source=file.title)
    categories = [one for one in file.classes.values() if one.kind == _CATEGORY]
    if not categories:
        raise DataError(f"{path}: expected classes of the kind {_CATEGORY}, found none. Is it a ClaML file of codes?")
    names = _Names(found, file.language or language or "", path)
    found.counts["codes in the file"] = len(categories)
    for label in file.modifier_labels:
        names.add("", label, "", "modifier, no code")
    children = _children(file)
    for one in file.classes.values():
        if one.kind != _CATEGORY:
            found.counts[f"classes of kind {one.kind or 'none'} left out"] += 1
            for label in one.labels:
                names.add(one.code, label, "", f"{one.kind or 'class without a kind'}, no code")
            continue
        found.counts["codes with a link to a modifier, read as ModifiedBy"] += one.is_linked
        titles = _add_labels(one, names)
        found.parents += [(code, one.code) for code in children[one.code] if file.classes[code].kind == _CATEGORY]
        if not children[one.code]:
            _derive(_Derived(one.code, titles), _uses_of(one, file), file, names)
    return found


def _elements(path: InputFile, file: _File) -> Iterator[ET.Element]:
    """The elements directly below the root, each cleared after use."""
    for event, element, depth in xml_events(path, CLAML, WITHOUT_DTD, max_depth=MAX_DEPTH):
        if depth == 1 and event == "start":
            root, file.language = element, element.get(_LANGUAGE, "")
        elif depth == 2 and event == "end":
            yield element
            root.clear()


def _take(element: ET.Element, file: _File, path: InputFile) -> None:
    """Add one of the elements below the root to the content of the file."""
    tag, code = local_name(element), element.get("code", "").strip().rstrip(_USAGE_MARKS)
    if tag == "Title":
        file.title = element.get("name", "").strip()
    elif tag == "Meta" and _lower(element, "name") in ("lang", "language"):
        file.language = file.language or element.get("value", "").strip()
    elif tag == "Modifier":
        file.modifier_labels += _labels(element)
    elif tag == "ModifierClass":
        metas = _children_called(element, "Meta")
        after = frozenset(" ".join(one.get("value", "").split()) for one in metas if one.get("name") == _EXCLUDED_AFTER)
        file.modifiers[element.get("modifier", "").strip()].append(_ModifierClass(code, _labels(element), after))
    elif tag == "Class":
        if not code:
            last = next(reversed(file.classes), "the beginning")
            raise DataError(f"{path}: expected a code at every Class, found none after {last}")
        if code in file.classes:
            raise DataError(f"{path}: expected each code once, found two classes {code}; remove one of them")
        uses = [_use(one) for one in _children_called(element, "ModifiedBy")]
        linked = [] if uses else _linked_modifiers(element)
        file.classes[code] = _Class(
            code,
            _lower(element, "kind"),
            _codes(element, "SuperClass"),
            _codes(element, "SubClass"),
            uses or [_Use(modifier, None, _position_of(modifier)) for modifier in linked],
            set(_codes(element, "ExcludeModifier")),
            _labels(element),
            bool(linked),
        )


def _linked_modifiers(element: ET.Element) -> list[str]:
    """The modifiers that a class links to in a rubric. WHO's files have such a link beside ModifiedBy, at M13 in place of it."""
    links = [one for one in _children_called(element, "Rubric") if _lower(one, "kind") == "modifierlink"]
    found = [one.get("code", "").strip() for link in links for one in link.iter() if local_name(one) == "Reference"]
    return list(dict.fromkeys(filter(None, found)))


def _position_of(modifier: str) -> int:
    match = _POSITION.search(modifier)
    return int(match[1]) if match else 0


def _use(element: ET.Element) -> _Use:
    """A ModifiedBy element. `all` is true by default; classes listed without it are all that apply."""
    modifier, valid = element.get("code", "").strip(), frozenset(_codes(element, "ValidModifierClass"))
    every = _lower(element, "all") == "true" or not (valid or element.get("all"))
    position = element.get("position", "").strip()
    place = int(position) if position.isdecimal() else _position_of(modifier)
    return _Use(modifier, None if every else valid, place)


def _labels(element: ET.Element) -> list[_Label]:
    found = []
    for rubric in _children_called(element, "Rubric"):
        kind = _lower(rubric, "kind")
        for label in _children_called(rubric, "Label"):
            language = label.get(_LANGUAGE) or rubric.get(_LANGUAGE) or element.get(_LANGUAGE) or ""
            found.append(_Label(kind, language, _label_text(label)))
    return found


def _label_text(label: ET.Element) -> str:
    """A label without references to other codes: neither elements nor, as some editions have them, text such as (G01*)."""
    text = _REFERENCE_AS_TEXT.sub("", " ".join(_without_references(label).split()))
    return _EMPTY_BRACKETS.sub("", text).strip(" ,;")


def _without_references(element: ET.Element) -> str:
    """The text in an element. Fragments are the parts of one line: a beginning, which may end with a colon, and what follows."""
    parts, children = [element.text or ""], list(element)
    for number, child in enumerate(children, start=1):
        tag = local_name(child)
        text = "" if tag == "Reference" else _without_references(child)
        if tag == "Fragment" and number < len(children):
            text = text.rstrip().removesuffix(":")
        parts += [f" {text} " if tag in _BLOCKS else text, child.tail or ""]
    return "".join(parts)


class _Names:
    """Adds names to the result, with their languages.

    Args:
        found: The result.
        language: Of labels without one; empty if it is not known.
        path: The file, for errors.
    """

    def __init__(self, found: ClassificationNames, language: str, path: InputFile) -> None:
        self.found, self._language, self._path = found, language, path

    def language_of(self, code: str, label: _Label) -> tuple[str, str | None]:
        """The ISO code of a label's language, and the reason to drop the label if it is unknown. Raises DataError."""
        language = label.language or self._language
        if not language:
            where = code or "a modifier"
            raise DataError(
                f"{self._path}: expected xml:lang at the labels, found none at {where}; state it: --language de"
            )
        return parse_language(language)

    def add(self, code: str, label: _Label, scope: str, reason: str | None = None) -> None:
        """Add a label as a name."""
        language, unknown = self.language_of(code, label)
        self.found.add(code, label.text, scope, reason or unknown, language)

    def define(self, code: str, label: _Label) -> None:
        """Add a label as a definition."""
        language, unknown = self.language_of(code, label)
        self.found.definitions.append(NameRecord(code, language, label.text, LABEL, rejection_reason=unknown))


def _add_labels(one: _Class, names: _Names) -> dict[str, str]:
    """Add the names of a category. Returns its title in each language: the full one, where there is one."""
    titles: dict[str, str] = {}
    languages = {label: names.language_of(one.code, label)[0] for label in one.labels}
    for kind in (_FULL_TITLE, _TITLE):
        for label in one.labels:
            if label.kind == kind and label.text:
                titles.setdefault(languages[label], label.text)
    full = {languages[label] for label in one.labels if label.kind == _FULL_TITLE and label.text}
    for label in one.labels:
        reason = None
        if label.kind == _DEFINITION:
            names.define(one.code, label)
            continue
        if label.kind not in _NAMES:
            reason = f"rubric of kind {label.kind or 'none'}"
        elif label.kind == _TITLE and languages[label] in full and label.text != titles[languages[label]]:
            reason = "title below that of the class above, beside a full title"
        names.add(one.code, label, _NAMES.get(label.kind, ""), reason)
    return titles


def _children(file: _File) -> dict[str, list[str]]:
    """Class → the classes right below it, by what either of the two states."""
    children: dict[str, list[str]] = defaultdict(list)
    for one in file.classes.values():
        for above in one.above:
            children[above].append(one.code)
        children[one.code] += [code for code in one.below if code in file.classes]
    return children


def _uses_of(one: _Class, file: _File) -> list[_Use]:
    """The modifiers of a class and of those above it, in the order of the characters that they fill."""
    uses: list[_Use] = []
    seen, excluded, path = set[str](), set[str](), set[str]()
    at: _Class | None = one
    while at is not None and at.code not in path:
        path.add(at.code)
        excluded |= at.excluded
        here = [use for use in at.uses if use.modifier not in seen | excluded]
        seen |= {use.modifier for use in here}
        uses = here + uses
        at = next((file.classes[code] for code in at.above if code in file.classes), None)
    return sorted(uses, key=lambda use: use.position)


def _derive(base: _Derived, uses: Sequence[_Use], file: _File, names: _Names) -> None:
    """Add the codes that modifiers make of a class, each applied to what the ones before it made."""
    made = [base]
    for use in uses:
        following: list[_Derived] = []
        for one in made:
            below = [each for each in _apply(one, use, file, names) if each is not None]
            following += below or [one]
        made = following


def _apply(one: _Derived, use: _Use, file: _File, names: _Names) -> Iterator[_Derived | None]:
    """The codes that one modifier makes of a code."""
    for each in file.modifiers.get(use.modifier, ()):
        code = _join(one.code, each.code, use.position)
        reason = None
        if code is None:
            reason = "modifier of a fourth character that the code has already"
        elif use.valid is not None and each.code not in use.valid:
            reason = "modifier class that is not valid for the code"
        elif each.excluded_after & set(one.applied):
            reason = "modifier class excluded after an earlier modifier"
        elif code in file.classes:
            reason = "modifier class whose code the file lists itself"
        titles: dict[str, str] = {}
        for label in each.labels:
            language, unknown = names.language_of(one.code, label)
            base = one.titles.get(language)
            scope = _NAMES.get(label.kind, "")
            why = reason or unknown or (None if scope else f"rubric of kind {label.kind or 'none'}")
            if why is None and base is None:
                why = "modifier class in a language without a title of the code"
            names.found.add(code or one.code, f"{base}: {label.text}", scope, why, language)
            if scope == LABEL and why is None and label.text:
                titles.setdefault(language, f"{base}: {label.text}")
        if reason is None and code is not None:
            names.found.counts["codes with a modifier"] += 1
            names.found.parents.append((code, one.code))
            yield _Derived(code, titles, (*one.applied, f"{use.modifier} {each.code}"))


def _join(code: str, added: str, position: int) -> str | None:
    """A code and the character that a modifier adds; None if the character is a fourth one and the code has one."""
    if added.startswith("."):
        return None if "." in code else code + added
    if not _THREE.fullmatch(code):
        return code + added
    return f"{code}.X{added}" if position == 5 else f"{code}.{added}"


def _lower(element: ET.Element, attribute: str) -> str:
    """A value of a fixed vocabulary, in lower case: files differ in it, and in preferredLong."""
    value = element.get(attribute, "")
    return value.strip().lower()


def _children_called(element: ET.Element, tag: str) -> list[ET.Element]:
    return [child for child in element if local_name(child) == tag]


def _codes(element: ET.Element, tag: str) -> list[str]:
    return [child.get("code", "").strip().rstrip(_USAGE_MARKS) for child in _children_called(element, tag)]
