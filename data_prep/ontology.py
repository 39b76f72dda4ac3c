"""The Human Phenotype Ontology in many languages: an OBO file, and a folder of translation tables.

Two kinds of table come from https://github.com/obophenotype/hpo-translations: Babelon (`*.babelon.tsv`, one translated value a row,
https://github.com/monarch-initiative/babelon) and ROBOT templates (`*.synonyms.tsv`, whose second line says what each column means,
http://robot.obolibrary.org/template). The tables are often newer than the OBO file, so a concept may stand in either: the terminology is
the union, an identifier that the OBO file merged into another (`alt_id`) is folded into it, and a concept that either of them calls obsolete
is dropped, since nothing should be linked to it. OBO: https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from data_prep.choice import check_choice
from data_prep.lists import read_tsv
from data_prep.tally import Tally
from xsap.artifacts import read_lines, sha256_of
from xsap.errors import DataError
from xsap.languages import ENGLISH, to_iso
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalise

SOURCE, TRANSLATIONS = "HPO", "HPO-translations"
SCOPES = ("EXACT", "NARROW", "RELATED", "BROAD")
DEFAULT_SCOPES = SCOPES[:3]  # a BROAD synonym names something wider than the concept, so it must not be linked to it

_NOT_TRANSLATED = "NOT_TRANSLATED"
_STATUSES = {"OFFICIAL", "CANDIDATE", "UNDER_REVIEW", _NOT_TRANSLATED}
_NO_NAME = {"", "NA", "N/A"}
_LABEL = "rdfs:label"
_SCOPE_OF = {_LABEL: _LABEL, "skos:prefLabel": _LABEL}  # the predicates under which a value is a name, and of which scope
_SCOPE_OF |= {f"{ns}:has{scope.title()}Synonym": scope for ns in ("oboInOwl", "oio") for scope in SCOPES}
_TEMPLATE = re.compile(r">*AL? (?P<predicate>\S+?)@(?P<language>[A-Za-z-]+)(?: SPLIT=(?P<split>.+))?")
_SYNONYM = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"\s*(?P<scope>EXACT|NARROW|BROAD|RELATED)?\s*(?P<type>[^\s\[{]*)')
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", "t": "\t", "W": " "}
_OBSOLETE = re.compile(r"obsolet[eo][\s_:]", re.IGNORECASE)  # the label of a retired concept, in English and in Spanish
_QUOTE_ENTITY = re.compile(r"&?quot;")  # a table that went through HTML holds quotes as entities, some without their ampersand


class Offer(NamedTuple):
    """A name as a file offers it, before it is judged. why_not: the reason for which the file itself rules it out."""

    concept_id: str
    language: str
    name: str
    scope: str
    source: str
    status: str | None = None
    kind: str = "synonym"
    why_not: str | None = None


@dataclass
class Ontology:
    """An OBO file: its names, merged identifier → the one that stands, identifiers of obsolete and of living concepts, references."""

    offers: list[Offer] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    obsolete: set[str] = field(default_factory=set)
    living: set[str] = field(default_factory=set)
    references: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_hpo(
    obo: Path, translations: Path | None = None, *, statuses: Collection[str] | None = None, scopes: Collection[str] | None = DEFAULT_SCOPES
) -> tuple[Terminology, Tally]:
    """An OBO file and a folder of translation tables as a terminology, and what became of each name that they offer.

    statuses: translations must have one of these; None takes every one that is a name. scopes: likewise for synonyms. Raises DataError
    with file and line.
    """
    scopes = SCOPES if scopes is None else scopes
    check_choice(scopes, SCOPES, "synonym scope", "OBO")
    ontology = read_obo(obo)
    tables = _tables(translations) if translations else []
    offers = [*ontology.offers, *(offer for table in tables for offer in read_translations(table))]
    if statuses is not None:
        check_choice(statuses, {offer.status for offer in offers if offer.status}, "translation status", translations or obo)
    ontology.obsolete |= {offer.concept_id for offer in offers if offer.scope == _LABEL and _OBSOLETE.match(offer.name)}
    dropped: Counter[str] = Counter()
    kept = []
    for offer in offers:
        concept_id = ontology.merged.get(offer.concept_id, offer.concept_id)
        reason = offer.why_not or _why_not(offer, concept_id in ontology.obsolete, statuses, scopes)
        if reason:
            dropped[reason] += 1
        else:
            # A concept that the OBO file has is called as it is called there, whatever a table or a merged stanza calls it.
            rival = concept_id in ontology.living and offer.language == ENGLISH and (offer.source, offer.concept_id) != (SOURCE, concept_id)
            kept.append(offer._replace(concept_id=concept_id, kind="synonym" if rival else offer.kind))
    tally = Tally(len(offers), len(kept), dropped)
    facts = {"reader": "hpo", "statuses": sorted(statuses) if statuses is not None else None, "scopes": sorted(scopes)}
    terminology, again = _build(kept, ontology, facts | {"files": {file.name: sha256_of(file) for file in [obo, *tables]}})
    return terminology, tally.then(terminology.names.num_rows, again)


def _why_not(offer: Offer, obsolete: bool, statuses: Collection[str] | None, scopes: Collection[str]) -> str | None:
    if obsolete or _OBSOLETE.match(offer.name):
        return "obsolete concept"
    if offer.scope != _LABEL and offer.scope not in scopes:
        return f"synonym of scope {offer.scope}"
    if statuses is not None and offer.source == TRANSLATIONS and offer.language != ENGLISH and offer.status not in statuses:
        return "translation status not chosen"
    return None


def _build(offers: list[Offer], ontology: Ontology, facts: dict[str, object]) -> tuple[Terminology, Counter[str]]:
    policy = TextPolicy()
    columns = {
        "concept_id": [offer.concept_id for offer in offers],
        "language": [offer.language for offer in offers],
        "name": [normalise(offer.name, policy) for offer in offers],
        "kind": [offer.kind for offer in offers],
        "source": [offer.source for offer in offers],
        "code": pa.nulls(len(offers), pa.string()),
        "status": pa.array([offer.status for offer in offers], pa.string()),
    }
    references: dict[str, list[str]] = defaultdict(list)
    for concept_id, found in ontology.references.items():
        references[ontology.merged.get(concept_id, concept_id)] += found
    concepts = pa.table({"concept_id": pa.array(list(references), pa.string()), "cross_references": list(references.values())})
    return Terminology.build(pa.table(columns), concepts if references else None, facts)


def read_obo(path: Path) -> Ontology:
    """The `[Term]` stanzas of an OBO 1.2 or 1.4 file. Raises DataError with file and line."""
    ontology, stanza, kind = Ontology(), list[tuple[str, str, int]](), ""
    for number, line in enumerate([*read_lines(path), "[End]"], start=1):
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
    ids = [_plain(value) for tag, value, _ in stanza if tag == "id"]
    if len(ids) != 1:
        raise DataError(f"{path}:{stanza[0][2] if stanza else 1}: expected one id in this [Term], found {len(ids)}")
    obsolete = any(tag == "is_obsolete" and _plain(value) == "true" for tag, value, _ in stanza)
    (ontology.obsolete if obsolete else ontology.living).add(ids[0])
    for tag, value, number in stanza:
        if tag == "name":
            ontology.offers.append(Offer(ids[0], ENGLISH, _plain(value), _LABEL, SOURCE, kind="preferred"))
        elif tag == "synonym":
            ontology.offers.append(_synonym(ids[0], value, f"{path}:{number}"))
        elif tag == "alt_id":
            ontology.merged[_plain(value)] = ids[0]
        elif tag == "xref":
            ontology.references[ids[0]].append(value.split()[0])


def _synonym(concept_id: str, value: str, where: str) -> Offer:
    match = _SYNONYM.match(value)
    if match is None:
        raise DataError(f"{where}: expected a synonym such as \"name\" EXACT [], found '{value[:80]}'")
    kind = "abbreviation" if match["type"] == "abbreviation" else "synonym"
    return Offer(concept_id, ENGLISH, _unescape(match["text"]), match["scope"] or "RELATED", SOURCE, kind=kind)


def _plain(value: str) -> str:
    """An unquoted OBO value without its trailing modifiers and comment, escapes undone."""
    return _unescape(re.sub(r"(?<!\\)\s(\{.*\}\s*)?(!.*)?$", "", value + " "))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), text)


def _tables(folder: Path) -> list[Path]:
    found = sorted([*folder.glob("*.babelon.tsv"), *folder.glob("*.synonyms.tsv")]) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder}: expected a folder with translation tables (*.babelon.tsv, *.synonyms.tsv), found none there")
    return found


def read_translations(path: Path) -> Iterator[Offer]:
    """The names that a Babelon table or a ROBOT template offers, those that it rules out itself included. Raises DataError."""
    return _robot(path) if path.name.endswith(".synonyms.tsv") else _babelon(path)


def _babelon(path: Path) -> Iterator[Offer]:
    needed = ("subject_id", "predicate_id", "source_language", "source_value", "translation_language", "translation_value")
    for _, row in read_tsv(path, needed):
        subject, status = row["subject_id"], row.get("translation_status") or None
        scope = _SCOPE_OF.get(row["predicate_id"])
        if scope == _LABEL and row["source_value"]:
            yield _offer(subject, row["source_language"], row["source_value"], _LABEL, None)
        offer = _offer(subject, row["translation_language"], row["translation_value"], scope or "", status)
        yield offer if scope else offer._replace(why_not="a definition or comment, not a name")


def _robot(path: Path) -> Iterator[Offer]:
    rows = iter(read_tsv(path, ("subject_id",)))
    _, template = next(rows, (2, {}))
    columns = {
        column: match for column, cell in template.items() if (match := _TEMPLATE.fullmatch(cell)) and match["predicate"] in _SCOPE_OF
    }
    if template.get("subject_id") != "ID" or not columns:
        raise DataError(f"{path}:2: expected a ROBOT template row such as 'ID', 'AL oboInOwl:hasExactSynonym@de SPLIT=|'; found none")
    for _, row in rows:
        cells = {column.lower(): cell for column, cell in row.items()}
        status = next((cell for c in ("translation_status", "status", "comment") if (cell := cells.get(c, "")) in _STATUSES), None)
        for column, match in columns.items():
            # Tables write several names with a bar even where their template forgets to say SPLIT=|.
            for value in _unquote(row[column]).split(match["split"] or "|"):
                yield _offer(row["subject_id"], match["language"], value, _SCOPE_OF[match["predicate"]], status)


def _offer(subject: str, language: str, value: str, scope: str, status: str | None) -> Offer:
    name = _unquote(value.strip())
    why_not = "no translation" if name in _NO_NAME or status == _NOT_TRANSLATED else None
    try:
        code = to_iso(language)
    except DataError:
        code, why_not = language, f"language unknown to xsap: {language}"
    return Offer(subject, code, name, scope, TRANSLATIONS, status, "preferred" if scope == _LABEL else "synonym", why_not)


def _unquote(cell: str) -> str:
    """A cell as it was before a program quoted it: only if quotes enclose it whole and each one inside is doubled."""
    cell = _QUOTE_ENTITY.sub('"', cell)
    inside = cell[1:-1]
    return inside.replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "") else cell
