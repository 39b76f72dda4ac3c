"""Plain terms of unspecified codes: J18.9, "Pneumonia, unspecified organism", is the code for "Pneumonia".

In the International Classification of Diseases a term without details has a code of its own, which says so: "Pain, unspecified", "Enteritis NOS".
NOS means unspecified or unqualified (ICD-10, volume 2, conventions of the tabular list; ICD-10-CM Official Guidelines for Coding and Reporting,
section I.A.6.b). People write the term alone, and a model that was not trained on such names ranks codes with more details as high.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from data_prep.classification import ClassificationNames
from data_prep.ontology_model import NameRecord
from xsap.languages import ENGLISH
from xsap.text import EXACT_MATCH, normalize

_SCOPE = "plain term"  # of names that are added
_Key = tuple[str, str]  # language, name without case

# Other languages than English (ISO 639-1). After the last comma, with or without a noun: "Harnwegsinfektion, Lokalisation nicht näher bezeichnet"
_LAST_PART = {
    "de": "nicht näher bezeichnet",
    "es": "no especificad[oa]s?",
    "fr": "sans (?:autre )?précision|non précisée?s?",
    "it": "non specificat[aeio]",
    "nl": "niet gespecificeerd",
    "pt": "não especificad[ao]s?",
}
_ABBREVIATION = {"de": r"o\. ?n\. ?A\.", "es": "NEOM|SAI", "fr": "SAI", "it": "NAS", "nl": "NNO", "pt": "SOE"}  # of NOS
_ADJECTIVE = {"de": "^Nicht näher bezeichnete[rs]? ", "nl": "^Niet gespecificeerde? "}

# English; parts are between commas
_FIRST = re.compile(r"^unspecified (?!as |whether |or )", re.IGNORECASE)
_LAST = re.compile(r"(?<! or) NOS$")  # not of "types 1 and 3, or NOS"
_ASPECTS = "cause class degree depth ear extent eye eyelid grade laterality level organism part severity side site stability stage time trimester type"
_DROPPED = re.compile(  # "unspecified", "unspecified site", "valve unspecified", "not specified as acute or chronic"
    rf"unspecified(?: as .*| whether .*| (?:{_ASPECTS.replace(' ', '|')}))?|not (?:otherwise )?specified(?: as .*)?|NOS"
    r"|(?!(?:and|by|due|in|of|or|to|with|without) )(?:[\w-]+ ){1,2}(?:unspecified|not specified)"
)
_DETAIL = re.compile("affecting |with |without ")


def plain_term(name: str, language: str) -> str | None:
    """The term of which a name says that nothing is specified; None if the name does not say so, or nothing else.

    A detail that is stated stays: "Crohn's disease, unspecified, with unspecified complications" → "Crohn's disease, with unspecified
    complications". So does the part of the body whose side alone is missing: "Gout, unspecified shoulder" → "Gout, shoulder".
    """
    if language == ENGLISH:
        plain = _plain_english(name)
    elif language in _LAST_PART:
        end = rf",(?: [\w-]+)? (?:{_LAST_PART[language]})$|,? (?:{_ABBREVIATION[language]})$"
        plain = re.sub(end, "", re.sub(_ADJECTIVE.get(language, "^ "), "", name))
    else:
        return None
    if plain == name or not plain.strip(" ,"):
        return None
    plain = plain.strip(" ,")
    return plain if name.startswith(plain[0]) else plain[0].upper() + plain[1:]


def _plain_english(name: str) -> str:
    first, *others = _LAST.sub("", name).split(", ")
    plain = _FIRST.sub("", first)
    for part in others:
        if not _DROPPED.fullmatch(part):
            rest = part.removeprefix("unspecified ")
            plain += (" " if rest != part and _DETAIL.match(rest) else ", ") + rest
    return plain


def add_plain_terms(found: ClassificationNames) -> None:
    """Add the plain terms of the names of codes without subdivisions, as synonyms.

    A code with subdivisions gets none: the unspecified code is one of them. A plain term is not added if two codes would share it, or if it
    is the title of a code that is not above.
    """
    parents: dict[str, set[str]] = {}
    for code, parent in found.parents:
        parents.setdefault(code, set()).add(parent)
    above = set[str]().union(*parents.values())
    own, titles = set[tuple[str, _Key]](), defaultdict[_Key, set[str]](set)
    plain = defaultdict[_Key, dict[str, NameRecord]](dict)
    for one in found.names:
        if one.rejection_reason or not one.name:
            continue
        key = _key(one.language, one.name)
        own.add((one.concept_id, key))
        if one.kind == "preferred":
            titles[key].add(one.concept_id)
        term = None if one.concept_id in above else plain_term(one.name, one.language)
        if term:
            record = NameRecord(one.concept_id, one.language, term, _SCOPE)
            plain[_key(one.language, term)].setdefault(one.concept_id, record)
    for key, records in plain.items():
        code, record = next(iter(records.items()))
        if len(records) > 1 or titles[key] - _with_ancestors(code, parents):
            found.counts["plain terms left out: of several codes, or the title of another code"] += 1
        elif (code, key) not in own:
            found.counts['plain terms added: "X" for "X, unspecified" and "X NOS"'] += 1
            found.names.append(record)


def _with_ancestors(code: str, parents: Mapping[str, set[str]]) -> set[str]:
    """The code and all above it."""
    found, pending = set[str](), [code]
    while pending:
        at = pending.pop()
        if at not in found:
            found.add(at)
            pending += parents.get(at, ())
    return found


def _key(language: str, name: str) -> _Key:
    return language, normalize(name, EXACT_MATCH)
