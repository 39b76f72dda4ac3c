"""OBO files, versions 1.2 and 1.4: the `[Term]` stanzas, tag by tag.

https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html. A value may bear modifiers in braces and a comment behind `!`, and has
escapes; a synonym has its text in quotes, then a scope (RELATED where none is told) and perhaps a type.
"""

import re
from itertools import chain
from pathlib import Path

from data_prep.files import lines
from data_prep.offers import LABEL, Offer, Ontology, kind_of_synonym, refer
from xsap.errors import DataError
from xsap.languages import ENGLISH

_SYNONYM = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"\s*(?P<scope>EXACT|NARROW|BROAD|RELATED)?\s*(?P<type>[^\s\[{]*)')
_TRAILER = re.compile(r"(?<!\\)\s(?=[{!])")  # where modifiers or a comment may begin
_CLOSED = re.compile(r"\}\s*(?=!|$)")  # where modifiers may end
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", "t": "\t", "W": " "}


def read_obo(path: Path) -> Ontology:
    """The living and obsolete terms of an OBO file and what it says of them. Raises DataError with file and line."""
    ontology, stanza, kind = Ontology(), list[tuple[str, str, int]](), ""
    for number, line in chain(lines(path), [(0, "[End]")]):
        if line.startswith("["):
            if kind == "[Term]":
                _add_term(ontology, stanza, path)
            stanza, kind = [], line.strip()
        elif ":" in line:
            tag, value = line.split(":", 1)
            stanza.append((tag, value.strip(), number))
    if not ontology.living:
        raise DataError(f"{path}: expected an OBO file with [Term] stanzas, found no living term in it. Is it the right file?")
    return ontology


def _add_term(ontology: Ontology, stanza: list[tuple[str, str, int]], path: Path) -> None:
    """Put one stanza, its (tag, value, line number) in order, into `ontology`."""
    ids = [_plain(value) for tag, value, _ in stanza if tag == "id" and _plain(value)]
    if len(ids) != 1:
        raise DataError(f"{path}:{stanza[0][2] if stanza else 1}: expected one id in this [Term], found {len(ids)}")
    obsolete = any(tag == "is_obsolete" and _plain(value) == "true" for tag, value, _ in stanza)
    (ontology.obsolete if obsolete else ontology.living).add(ids[0])
    for tag, value, number in stanza:
        if tag == "name":
            ontology.offers.append(Offer(ids[0], ENGLISH, _plain(value), LABEL, kind="preferred"))
        elif tag == "synonym":
            ontology.offers.append(_synonym(ids[0], value, f"{path}:{number}"))
        elif tag == "alt_id":
            ontology.merged[_plain(value)] = ids[0]
        elif tag == "replaced_by":
            ontology.replaced[ids[0]].append(_plain(value))
        elif tag == "xref":
            refer(ontology, ids[0], value)


def _synonym(concept_id: str, value: str, where: str) -> Offer:
    match = _SYNONYM.match(value)
    if match is None:
        raise DataError(f"{where}: expected a synonym such as \"name\" EXACT [], found '{value[:80]}'")
    return Offer(concept_id, ENGLISH, _unescape(match["text"]), match["scope"] or "RELATED", kind=kind_of_synonym(match["type"]))


def _plain(value: str) -> str:
    """An unquoted OBO value without its trailing modifiers and comment, escapes undone."""
    closed = max((match.start() for match in _CLOSED.finditer(value)), default=0)
    trailers = (match for match in _TRAILER.finditer(value) if value[match.end()] == "!" or match.end() < closed)
    text = value[: next((match.start() for match in trailers), len(value))]
    return _unescape(text + " ").strip()  # a backslash at the end escapes nothing


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), text)
