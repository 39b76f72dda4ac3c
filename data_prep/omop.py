"""An OHDSI Athena download (the OMOP Standardized Vocabularies) → a terminology.

The concepts are OMOP's standard concepts. OMOP maps the codes of other vocabularies to them, so a concept is also called what a non-standard
concept is called that maps to it, and to nothing else; one that maps to several, or to a concept with a value ("history of" and what
of), means more than each of its targets, and its names are dropped. A name keeps the vocabulary and code of the concept that it was given
to. What a name must know of its concept is held as a few numbers a concept, and the names themselves stream past them.
Tables: https://ohdsi.github.io/CommonDataModel/cdm54.html#Vocabulary_Tables
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import check_choice, listed
from data_prep.assemble import Assembly
from data_prep.delimited import read_tsv_blocks, whole_numbers
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.languages import to_iso, to_name
from xsap.terms.terminology import PRECEDENCE
from xsap.text import TextPolicy, normalize_all

CONCEPT, SYNONYM, RELATIONSHIP, VOCABULARY = (
    "CONCEPT.csv",
    "CONCEPT_SYNONYM.csv",
    "CONCEPT_RELATIONSHIP.csv",
    "VOCABULARY.csv",
)

_LANGUAGE_CONCEPT = "language_concept_id"
_LANGUAGE, _SUFFIX = (
    "Language",
    " language",
)  # the domain and the vocabulary of languages; most are named like "Spanish language"
_ENGLISH = "4180186"  # the language of CONCEPT.csv, and known even where a download has no languages
_MAPS, _VALUE = "Maps to", "Maps to value"
_NOWHERE, _SEVERAL, _WITH_VALUE, _UNKNOWN = (
    -1,
    -2,
    -3,
    -4,
)  # stand in for the row of the concept that a name is a name of
_REJECTION_REASON = {
    _UNKNOWN: f"concept not in {CONCEPT}",
    _NOWHERE: "non-standard concept that maps to no standard one",
    _SEVERAL: "non-standard concept that maps to several",
    _WITH_VALUE: "non-standard concept that maps to one with a value",
}


@dataclass(frozen=True)
class _Concepts:
    """Every concept of CONCEPT.csv, sorted by its identifier. ids, heirs: (n,) int64; the others: (n,) strings.

    heirs: the row of the standard concept that its names are names of (its own row, if it is standard), or a key of _WHY_NOT.
    """

    ids: np.ndarray
    successors: np.ndarray
    vocabularies: pa.DictionaryArray
    domains: pa.DictionaryArray
    codes: pa.StringArray
    languages: Mapping[str, str]  # those concepts that are languages: identifier → name


@dataclass
class _Selection:
    """What is wanted of the names, and what came of them: those dropped, by reason, and the languages that occurred."""

    languages: Collection[str] | None
    sources: np.ndarray  # (n,) bool: concepts whose vocabulary is chosen
    domains: np.ndarray  # (n,) bool
    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)


def read_omop(
    folder: Path,
    assembly: Assembly,
    *,
    languages: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    domains: Collection[str] | None = None,
) -> tuple[RowCounts, dict[str, Any]]:
    """Hand a download's names over → what became of each row of CONCEPT and CONCEPT_SYNONYM, and the facts to remember.

    folder: the unpacked download, or a file in it; the files may be .gz. languages: ISO codes; sources: vocabularies that a name may
    come from; domains: of the standard concepts; None leaves one open. Raises DataError with file and line, or if a choice does not occur.
    """
    files = find_files(folder)
    concepts = _read_concepts(files[CONCEPT], files[RELATIONSHIP])
    check_choice(sources or (), concepts.vocabularies.dictionary.to_pylist(), "vocabulary", files[CONCEPT])
    check_choice(domains or (), concepts.domains.dictionary.to_pylist(), "domain", files[CONCEPT])
    selection = _Selection(languages, _among(concepts.vocabularies, sources), _among(concepts.domains, domains))
    rows_in = kept = 0
    for file, columns in (
        (CONCEPT, ("concept_id", "concept_name")),
        (SYNONYM, ("concept_id", "concept_synonym_name", _LANGUAGE_CONCEPT)),
    ):
        for rows in read_tsv_blocks(files[file], columns):
            names = _names(files[file], rows, rows[columns[1]], concepts, selection)
            assembly.add_names(names)
            rows_in += rows.num_rows
            kept += names.num_rows
    if missing := sorted(set(languages or ()) - selection.seen):
        raise DataError(
            f"{files[SYNONYM]} has no names in {to_name(missing[0])}; it has {listed([to_name(c) for c in selection.seen])}"
        )
    _add_domains(concepts, assembly)
    metadata: dict[str, Any] = {"reader": "omop", "files": {file.name: sha256_of(file) for file in files.values()}}
    metadata["vocabularies"] = _versions(files[VOCABULARY])
    metadata |= {
        key: None if v is None else sorted(v)
        for key, v in (("languages", languages), ("sources", sources), ("domains", domains))
    }
    return RowCounts(rows_in, kept, +selection.dropped), metadata


def find_files(place: Path) -> dict[str, Path]:
    """The files of a download by their usual names, in the folder `place` or beside the file that it is. Raises DataError."""
    folder, found = place.parent if place.is_file() else place, {}
    for name in (CONCEPT, SYNONYM, RELATIONSHIP, VOCABULARY):
        file = next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
        if file is None:
            raise DataError(
                f"{place}: expected {name} or {name}.gz in this folder, found neither. Is it an unpacked download from Athena?"
            )
        found[name] = file
    return found


def _read_concepts(concept: Path, relationship: Path) -> _Concepts:
    ids: list[np.ndarray] = []
    standard: list[np.ndarray] = []
    texts: dict[str, list[pa.Array]] = {"vocabulary_id": [], "domain_id": [], "concept_code": []}
    languages = {_ENGLISH: f"English{_SUFFIX}"}
    for rows in read_tsv_blocks(concept, ("concept_id", "concept_name", "standard_concept", "invalid_reason", *texts)):
        ids.append(whole_numbers(concept, rows, "concept_id"))
        standard.append(
            pc.and_(pc.equal(rows["standard_concept"], "S"), pc.equal(rows["invalid_reason"], "")).to_numpy()
        )
        for name, parts in texts.items():
            column = rows[name].combine_chunks()
            parts.append(column if name == "concept_code" else column.dictionary_encode())
        spoken = rows.filter(pc.or_(pc.equal(rows["vocabulary_id"], _LANGUAGE), pc.equal(rows["domain_id"], _LANGUAGE)))
        languages |= dict(zip(spoken["concept_id"].to_pylist(), spoken["concept_name"].to_pylist(), strict=True))
    if not ids:
        raise DataError(f"{concept}: expected a row for each concept, found only a header. Was its transfer cut short?")
    order = np.argsort(unsorted := np.concatenate(ids))
    sorted_ids = unsorted[order]
    twice = np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])
    if twice.size:
        raise DataError(
            f"{concept}: expected each concept_id once, found {sorted_ids[twice[0]]} twice. Were two downloads put together?"
        )
    successors = _successors(relationship, sorted_ids, np.concatenate(standard)[order])
    at = pa.array(order)
    vocabularies, domains, codes = (
        pa.chunked_array(parts).unify_dictionaries().combine_chunks().take(at) for parts in texts.values()
    )
    return _Concepts(sorted_ids, successors, vocabularies, domains, codes, languages)


def _successors(path: Path, ids: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """(n,) `_Concepts.successors`, by the valid rows of CONCEPT_RELATIONSHIP. ids: (n,) int64, sorted. standard: (n,) bool."""
    # Of a concept's targets only the least and the greatest are kept: if these are one, there is one.
    least, greatest, with_value = (
        np.full(len(ids), np.iinfo(np.int64).max),
        np.full(len(ids), -1),
        np.zeros(len(ids), bool),
    )
    for rows in read_tsv_blocks(path, ("concept_id_1", "concept_id_2", "relationship_id", "invalid_reason")):
        told = pc.is_in(rows["relationship_id"], pa.array([_MAPS, _VALUE]))
        rows = rows.filter(pc.and_(told, pc.equal(rows["invalid_reason"], "")))
        at, targets = _find(ids, whole_numbers(path, rows, "concept_id_1")), whole_numbers(path, rows, "concept_id_2")
        maps = pc.equal(rows["relationship_id"], _MAPS).to_numpy()
        with_value[at[(at >= 0) & ~maps]] = True
        maps = (at >= 0) & maps
        np.minimum.at(least, at[maps], targets[maps])
        np.maximum.at(greatest, at[maps], targets[maps])
    successors = _find(ids, greatest)
    successors[(successors < 0) | ~standard[np.maximum(successors, 0)]] = _NOWHERE
    successors[least < greatest] = _SEVERAL
    successors[with_value] = _WITH_VALUE
    successors[standard] = np.flatnonzero(standard)
    return successors


def _find(ids: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """(m,) int64: where each of `sought` stands in the sorted `ids`, or _UNKNOWN."""
    at = np.minimum(np.searchsorted(ids, sought), len(ids) - 1)
    return np.where(ids[at] == sought, at, _UNKNOWN)


def _names(path: Path, rows: pa.Table, texts: pa.ChunkedArray, concepts: _Concepts, selection: _Selection) -> pa.Table:
    """NAMES_SCHEMA and precedence for those rows of CONCEPT or CONCEPT_SYNONYM that are wanted. texts: their names."""
    synonyms = _LANGUAGE_CONCEPT in rows.column_names
    own = _find(concepts.ids, whole_numbers(path, rows, "concept_id"))
    successors = np.where(own < 0, _UNKNOWN, concepts.successors[np.maximum(own, 0)])
    languages = rows[_LANGUAGE_CONCEPT].combine_chunks() if synonyms else pa.repeat(_ENGLISH, rows.num_rows)
    languages, wanted = _judge(own, successors, languages.dictionary_encode(), concepts, selection)
    own, successors, at = own[wanted], successors[wanted], pa.array(np.flatnonzero(wanted))
    itself, codes = own == successors, concepts.codes.take(pa.array(own))
    return pa.table(
        {
            "concept_id": pc.cast(pa.array(concepts.ids[successors]), pa.string()),
            "language": languages.take(at),
            "name": pa.array(normalize_all(texts.take(at).to_pylist(), TextPolicy()), pa.string()),
            "kind": pc.if_else(pa.array(itself & (not synonyms)), "preferred", "synonym"),
            "source": concepts.vocabularies.take(pa.array(own)).dictionary_decode(),
            "code": pc.if_else(pc.equal(codes, ""), pa.scalar(None, pa.string()), codes),
            "status": pa.nulls(len(own), pa.string()),
            PRECEDENCE: pa.array(itself.astype(np.int32)),  # of two equal names, the concept's own is kept
        }
    )


def _judge(
    own: np.ndarray, successors: np.ndarray, languages: pa.DictionaryArray, concepts: _Concepts, selection: _Selection
) -> tuple[pa.Array, np.ndarray]:
    """(m,) ISO codes of rows, and (m,) bool: those that are wanted; the others are counted under the first reason that holds.

    own, heirs: (m,) the row of the concept that a name was given to, and of the one that it is a name of. tongues: (m,) language ids.
    """
    known = [_iso(concepts.languages.get(tongue)) for tongue in languages.dictionary.to_pylist()]
    spoken = languages.indices.to_numpy()
    selection.seen.update(code for code, _ in known if code)
    reasons = [(_REJECTION_REASON[_UNKNOWN], successors == _UNKNOWN)]
    reasons += [(why, spoken == i) for i, (_, why) in enumerate(known) if why]
    if selection.languages is not None:
        reasons.append(
            ("language not chosen", ~np.array([code in selection.languages for code, _ in known], bool)[spoken])
        )
    reasons.append(("vocabulary not chosen", ~selection.sources[np.maximum(own, 0)]))
    reasons += [(why, successors == stand_in) for stand_in, why in _REJECTION_REASON.items()]
    reasons.append(("domain not chosen", ~selection.domains[np.maximum(successors, 0)]))
    wanted = np.ones(len(own), bool)
    for why, holds in reasons:
        selection.dropped[why] += int((wanted & holds).sum())
        wanted &= ~holds
    return pa.array([code for code, _ in known], pa.string()).take(languages.indices), wanted


def _iso(name: str | None) -> tuple[str, str]:
    """The ISO code of a language by its name, or why it has none. name: None, if it is not in CONCEPT.csv."""
    if name is None:
        return "", f"language not in {CONCEPT}"
    plain = name.removesuffix(_SUFFIX)
    try:
        code = to_iso(plain)
    except DataError:
        code = ""
    # to_iso also takes codes, and some languages that it doesn't know are called like the code of another: Ron (ron is Romanian).
    return (code, "") if code and to_name(code) == plain else ("", f"language unknown to xsap: {plain}")


def _among(values: pa.DictionaryArray, chosen: Collection[str] | None) -> np.ndarray:
    """(n,) bool: which values are chosen; all, if nothing is."""
    fits = np.array([chosen is None or value in chosen for value in values.dictionary.to_pylist()], bool)
    rows: np.ndarray = fits[values.indices.to_numpy()]
    return rows


def _add_domains(concepts: _Concepts, assembly: Assembly) -> None:
    """Hand over the domain of each standard concept, as its semantic type."""
    standard = np.flatnonzero(concepts.successors == np.arange(len(concepts.ids)))
    domains = concepts.domains.take(pa.array(standard)).dictionary_decode()
    one = pa.ListArray.from_arrays(pa.array(np.arange(len(standard) + 1, dtype=np.int32)), domains)
    assembly.add_concepts(
        pa.table({"concept_id": pc.cast(pa.array(concepts.ids[standard]), pa.string()), "semantic_types": one})
    )


def _versions(path: Path) -> dict[str, str]:
    """Vocabulary → its version, of those that have one. The one of `None` is that of the whole release."""
    rows = [
        row for block in read_tsv_blocks(path, ("vocabulary_id", "vocabulary_version")) for row in block.to_pylist()
    ]
    return {row["vocabulary_id"]: row["vocabulary_version"] for row in rows if row["vocabulary_version"]}
