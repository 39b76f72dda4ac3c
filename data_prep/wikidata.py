"""Wikidata's labels and aliases in all languages, under the identifiers of a medical vocabulary that its items have.

There are two kinds of input: the dump of all entities, one JSON object per line inside one array
(https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html, https://www.wikidata.org/wiki/Wikidata:Database_download), and the
rows of a SPARQL query (https://www.w3.org/TR/sparql11-results-json/), as one document or line by line. The dump is a thousand times larger
than what is wanted from it, so a line is parsed only if it contains the property's name; memory holds one line. A SPARQL document that is
not written line by line is read whole.

A name under `mul` holds in every language in which the item has none of its own. It becomes an English name where the item has no English label
(and English is chosen); otherwise it is kept under `mul`, whatever languages are chosen.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_prep.accounting import Rejects, reject, rejected_rows
from data_prep.assemble import Assembly
from data_prep.ontology_model import parse_language
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, byte_lines, check_json_type, decode, parse_json
from xsap.languages import ENGLISH, MULTIPLE
from xsap.terms.terminology import NAMES_SCHEMA, PRECEDENCE
from xsap.text import TextPolicy, normalize


class Vocabulary(StrEnum):
    """A medical vocabulary whose identifiers Wikidata has."""

    UMLS = "umls"
    HPO = "hpo"
    MESH = "mesh"


WIKIDATA_PROPERTIES = {Vocabulary.UMLS: "P2892", Vocabulary.HPO: "P3841", Vocabulary.MESH: "P486"}
SOURCE = "Wikidata"

_IDENTIFIER_FORMS = {
    Vocabulary.UMLS: re.compile("C[0-9]{7}"),
    Vocabulary.HPO: re.compile("HP:[0-9]{7}"),
    Vocabulary.MESH: re.compile("[A-Z][0-9]{5,9}"),
}
_ITEM = re.compile("Q[0-9]+")
# An item's label has precedence over its aliases as preferred name.
_ROWS = NAMES_SCHEMA.append(pa.field(PRECEDENCE, pa.int32(), nullable=False))
NAMES_PER_BATCH = 100_000  # Python objects held before they become an Arrow table

# Names of the variables of a query.
_ITEMS, _LANGUAGES = ("item", "entity", "qid"), ("lang", "language")
_LABELS, _ALIASES = ("label", "itemLabel", "name"), ("alias", "altLabel")
_IDENTIFIERS = {
    Vocabulary.UMLS: ("cui", "umls"),
    Vocabulary.HPO: ("hpo", "hpo_id", "hpoID"),
    Vocabulary.MESH: ("mesh", "mesh_id", "meshID"),
}
_ANY_IDENTIFIER = ("identifier", "concept_id", "id")
_CODES_SHOWN = 8  # of unknown languages, in the report; the manifest has all
_DEPRECATED = "deprecated statement"


class _Name(NamedTuple):
    """A label or an alias under one identifier, as the file has it.

    rejection_reason: why it can't be taken. lacks_english: its item is known to have no English label.
    """

    concept_id: str
    language: str
    name: str
    item: str | None
    is_label: bool
    rejection_reason: str | None = None
    lacks_english: bool = False


def read_wikidata(
    path: Path,
    assembly: Assembly,
    *,
    key: Vocabulary,
    languages: Collection[str] | None = None,
    rejects: Rejects | None = None,
    names_per_batch: int = NAMES_PER_BATCH,
) -> tuple[RowCounts, dict[str, Any]]:
    """Add the names of a dump or of a query's result to a terminology.

    A name is a label or an alias in one language, under one identifier.

    Args:
        path: .json or .jsonl, optionally .gz or .bz2.
        assembly: Takes the names.
        key: The vocabulary whose identifiers the concepts get.
        languages: ISO codes; None for all that xsap knows.
        rejects: Collects malformed entities and rows, which otherwise are an error.
        names_per_batch: Names held as Python objects at a time.

    Returns:
        What happened to each name, and the manifest's metadata.

    Raises:
        DataError: With file and line.
    """
    names_in, dropped, unknown, in_all_languages = 0, Counter[str](), Counter[str](), Counter[str]()
    part: list[dict[str, Any]] = []
    policy = TextPolicy()
    for one in _names(path, key, rejects):
        names_in += 1
        language, is_unknown = parse_language(one.language)
        reason = one.rejection_reason
        if not reason and is_unknown:
            unknown[one.language] += 1
            continue
        if not reason and language == MULTIPLE:
            language = ENGLISH if one.lacks_english and (languages is None or ENGLISH in languages) else MULTIPLE
            in_all_languages[language] += 1
        elif not reason and languages is not None and language not in languages:
            reason = "language not chosen"
        if reason:
            dropped[reason] += 1
            continue
        name, precedence = normalize(one.name, policy), int(one.is_label)
        row = (one.concept_id, language, name, "synonym", SOURCE, one.item, None, precedence)
        part.append(dict(zip(_ROWS.names, row, strict=True)))
        if len(part) == names_per_batch:
            assembly.add_names(pa.Table.from_pylist(part, _ROWS))
            part = []
    assembly.add_names(pa.Table.from_pylist(part, _ROWS))
    metadata: dict[str, Any] = {
        "reader": "wikidata",
        "property": WIKIDATA_PROPERTIES[key],
        "languages": sorted(languages) if languages is not None else None,
    }
    metadata |= {"unknown_languages": dict(sorted(unknown.items())), "in_all_languages": dict(in_all_languages)}
    metadata |= {"files": {path.name: sha256_of(path)}}
    if unknown:
        most = [code for code, _ in unknown.most_common(_CODES_SHOWN)]
        more = f" and {len(unknown) - len(most):,} more" if len(unknown) > len(most) else ""
        dropped[f"language unknown to xsap: {', '.join(most)}{more}"] = unknown.total()
    counts = RowCounts(names_in, names_in - dropped.total(), dropped)
    return counts + rejected_rows(rejects, [path]), metadata


def _names(path: Path, key: Vocabulary, rejects: Rejects | None) -> Iterator[_Name]:
    """Every name of the file. Raises DataError if it has rows of a query, but none with an identifier and a name."""
    fields, identified, named = set[str](), False, False
    for line, record in _records(path, WIKIDATA_PROPERTIES[key].encode(), rejects):
        where, is_entity = f"{path}:{line}: $" if isinstance(line, int) else f"{path}: {line}", _is_entity(record)
        try:
            found = list((_names_of_entity if is_entity else _names_of_row)(record, key, where))
        except DataError as error:
            reject(rejects, path, line, error)
            continue
        if not is_entity:
            fields |= record.keys()
            named, identified = named or bool(found), identified or any(one.concept_id for one in found)
        yield from found
    if fields and not (named and identified):
        expected = (*_IDENTIFIERS[key], *_ANY_IDENTIFIER) if named else (*_LABELS, *_ALIASES)
        raise DataError(
            f"{path}: expected rows with one of {', '.join(expected)}; found {', '.join(sorted(fields)[:8])}"
        )


def _is_entity(record: dict[str, Any]) -> bool:
    return "labels" in record or "claims" in record


def _names_of_entity(entity: dict[str, Any], key: Vocabulary, where: str) -> Iterator[_Name]:
    # Of several statements of one identifier the one that counts has no rejection reason, or else is not deprecated.
    identifiers = dict(
        sorted(_identifiers(entity, key, where), key=lambda found: (found[1] is None, found[1] != _DEPRECATED))
    )
    if not identifiers:
        return
    item = check_json_type(entity.get("id"), str, f"{where}.id")
    labels = [(code, entry, True) for code, entry in _map(entity, "labels", where).items()]
    several = {
        code: check_json_type(found, list, f"{where}.aliases.{code}")
        for code, found in _map(entity, "aliases", where).items()
    }
    aliases = [(code, entry, False) for code, found in several.items() for entry in found]
    lacks_english = not any(parse_language(code)[0] == ENGLISH for code, _, _ in labels)
    for code, entry, is_label in [*labels, *aliases]:
        at = f"{where}.{'labels' if is_label else 'aliases'}.{code}"
        name = check_json_type(check_json_type(entry, dict, at).get("value"), str, f"{at}.value")
        for identifier, rejection_reason in identifiers.items():
            yield _Name(identifier, code, name, item, is_label, rejection_reason, lacks_english)


def _identifiers(entity: dict[str, Any], key: Vocabulary, where: str) -> Iterator[tuple[str, str | None]]:
    """(identifier, rejection reason) for each statement of the property that has a value."""
    at = f"{where}.claims.{WIKIDATA_PROPERTIES[key]}"
    for statement in check_json_type(_map(entity, "claims", where).get(WIKIDATA_PROPERTIES[key], []), list, at):
        rank = check_json_type(statement, dict, at).get("rank")
        snak = check_json_type(statement.get("mainsnak"), dict, f"{at}.mainsnak")
        if snak.get("snaktype") == "value":
            value = check_json_type(
                check_json_type(snak.get("datavalue"), dict, f"{at}.datavalue").get("value"),
                str,
                f"{at}.datavalue.value",
            )
            yield value, _DEPRECATED if rank == "deprecated" else _malformed(value, key)


def _malformed(identifier: str, key: Vocabulary) -> str | None:
    return None if _IDENTIFIER_FORMS[key].fullmatch(identifier) else f"not an identifier of {key}"


def _names_of_row(row: dict[str, Any], key: Vocabulary, where: str) -> Iterator[_Name]:
    """The names in one row of a query's result; it may have a label, an alias, or both."""
    identifier, _ = _first(row, (*_IDENTIFIERS[key], WIKIDATA_PROPERTIES[key], *_ANY_IDENTIFIER), where)
    item = _first(row, _ITEMS, where)[0].rpartition("/")[2]
    row_language, _ = _first(row, _LANGUAGES, where)
    rejection_reason = _malformed(identifier, key) if identifier else "no identifier"
    for fields in (_LABELS, _ALIASES):
        name, language = _first(row, fields, where)
        if (
            name and name == item and _ITEM.fullmatch(name)
        ):  # the query service gives the item's number where it has no label
            yield _Name(
                identifier,
                language or row_language,
                name,
                item,
                fields is _LABELS,
                rejection_reason or "an item's number, not a name",
            )
        elif name and not (language or row_language):
            raise DataError(
                f"{where}: expected the language of '{name[:80]}' as its xml:lang, or in {' or '.join(_LANGUAGES)}; found none"
            )
        elif name:
            yield _Name(identifier, language or row_language, name, item or None, fields is _LABELS, rejection_reason)


def _first(row: dict[str, Any], fields: Collection[str], where: str) -> tuple[str, str]:
    """(value, its language) of the first of these fields that has a value; both empty if there is none."""
    for field in fields:
        value = row.get(field)
        if isinstance(value, dict):
            language = check_json_type(value.get("xml:lang", ""), str, f"{where}.{field}.xml:lang")
            return check_json_type(value.get("value"), str, f"{where}.{field}.value").strip(), language
        if value is not None:
            return check_json_type(value, str, f"{where}.{field}").strip(), ""
    return "", ""


def _records(path: Path, marker: bytes, rejects: Rejects | None) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """(line or JSONPath, entity or row of a query); if the first is an entity, only those with `marker` in their line. Raises DataError."""
    from tqdm import tqdm

    opened = closed = False
    entities = None
    for number, raw in tqdm(
        byte_lines(path), unit=" lines", unit_scale=True, desc="reading", disable=None, leave=False
    ):
        text, where = raw.strip(), f"{path}:{number}"
        if closed and text:
            raise DataError(f"{where}: expected nothing after the end of the array, found more. Is it one file?")
        if not text:
            continue
        if text == b"]" and opened:
            closed = True
            continue
        if text == b"[" and entities is None and not opened:
            opened = True
            continue
        if entities is None and not text.startswith((b"{", b"[")):
            raise DataError(
                f"{where}: expected JSON, either Wikidata's entities or the rows of a query, found other text"
            )
        text = text.removesuffix(b",")
        if entities is None and (text == b"{" or not (opened or _is_object(text))):
            yield from _document(path)
            return
        if entities and marker not in text:
            if not (text.startswith(b"{") and text.endswith(b"}")):
                part = DataError(
                    f"{where}: expected one JSON object per line, found a part of one. Is the file cut short?"
                )
                reject(rejects, path, number, part)
            continue
        try:
            record = check_json_type(parse_json(decode(text, where), where, "one JSON object per line"), dict, where)
        except DataError as error:
            reject(rejects, path, number, error)
            continue
        if entities is None and "results" in record:
            yield from _bindings(record, where)
            return
        entities = _is_entity(record) if entities is None else entities
        yield number, record
    if opened and not closed:
        raise DataError(f"{path}: expected the array to end in a line ], found none. Is the file cut short?")
    if entities is None and not opened:
        raise DataError(f"{path}: expected Wikidata's entities or the rows of a query, found an empty file")


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _document(path: Path) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """The records of a file that is one JSON value: a query's result, or a list of rows. Raises DataError."""
    text = decode(b"".join(raw for _, raw in byte_lines(path)), str(path))
    value = parse_json(text, str(path), "the rows of a query")
    if isinstance(value, list):
        yield from ((f"$[{i}]", check_json_type(one, dict, f"{path}: $[{i}]")) for i, one in enumerate(value))
    else:
        yield from _bindings(check_json_type(value, dict, f"{path}: $"), str(path))


def _bindings(document: dict[str, Any], where: str) -> Iterator[tuple[int | str, dict[str, Any]]]:
    at = f"{where}: $.results.bindings"
    rows = check_json_type(
        check_json_type(document.get("results"), dict, f"{where}: $.results").get("bindings"), list, at
    )
    yield from ((f"$.results.bindings[{i}]", check_json_type(row, dict, f"{at}[{i}]")) for i, row in enumerate(rows))


def _map(parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = parent.get(key)
    return (
        {} if value is None or value == [] else check_json_type(value, dict, f"{where}.{key}")
    )  # PHP writes an empty map as a list
