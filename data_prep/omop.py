"""An OHDSI Athena download (the OMOP Standardized Vocabularies) as a terminology.

The concepts are OMOP's standard concepts. OMOP maps the codes of other vocabularies to them, so a standard concept also gets the names of each
non-standard concept that maps to it and to nothing else. A non-standard concept that maps to several, or to a concept with a value ("history
of" and what of), means more than each of its targets, so its names are dropped. A name keeps the vocabulary and code of the concept that it
was given to. `Is a` in CONCEPT_RELATIONSHIP leads from a standard concept to a broader one. The data that are needed of every concept are held as a few numbers per concept; the names are streamed.
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
from numpy.typing import NDArray

from data_prep.accounting import Rejects, check_choice, listed, rejected_rows
from data_prep.assemble import Assembly
from data_prep.delimited import BLOCK_BYTES, find_file, read_tsv_blocks, rows_with_numbers, whole_numbers
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.languages import named_language, to_name
from xsap.terms.concept_details import RELATIONS_SCHEMA
from xsap.terms.terminology import PRECEDENCE
from xsap.text import TextPolicy, normalize_all

CONCEPT, SYNONYM, RELATIONSHIP, VOCABULARY = (
    "CONCEPT.csv",
    "CONCEPT_SYNONYM.csv",
    "CONCEPT_RELATIONSHIP.csv",
    "VOCABULARY.csv",
)

_LANGUAGE_CONCEPT = "language_concept_id"
_LANGUAGE = "Language"  # the domain and the vocabulary of languages
_LANGUAGE_SUFFIX = " language"  # most languages are named like "Spanish language"
_ENGLISH = "4180186"  # the language of CONCEPT.csv, known even if a download has no languages
_MAPS_TO, _MAPS_TO_VALUE, _IS_A = "Maps to", "Maps to value", "Is a"
# Instead of the row of the standard concept that a name belongs to:
_NO_TARGET, _SEVERAL_TARGETS, _TARGET_WITH_VALUE, _UNKNOWN = -1, -2, -3, -4
_REJECTION_REASON = {
    _UNKNOWN: f"concept not in {CONCEPT}",
    _NO_TARGET: "non-standard concept that maps to no standard one",
    _SEVERAL_TARGETS: "non-standard concept that maps to several",
    _TARGET_WITH_VALUE: "non-standard concept that maps to one with a value",
}


@dataclass(frozen=True)
class _Parents:
    """The `Is a` relationships between standard concepts, as identifiers; those of other kinds are not counted.

    ids: (n,) sorted identifiers. standard: (n,) whether a concept is a standard one.
    """

    ids: NDArray[np.int64]
    standard: NDArray[np.bool_]
    pairs: list[tuple[pa.Array, pa.Array]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table, path: Path, rejects: Rejects | None) -> None:
        """Add those among rows of CONCEPT_RELATIONSHIP, the file `path`."""
        of_kinds = rows.filter(pc.equal(rows["relationship_id"], _IS_A))
        valid = of_kinds.filter(pc.equal(of_kinds["invalid_reason"], ""))
        self.dropped["retired relationship"] += of_kinds.num_rows - valid.num_rows
        valid = rows_with_numbers(path, valid, ["concept_id_1", "concept_id_2"], rejects)
        child, parent = (whole_numbers(valid, column) for column in ("concept_id_1", "concept_id_2"))
        kept = np.ones(len(child), bool)
        for part in (child, parent):
            at = _find(self.ids, part)
            kept &= (at >= 0) & self.standard[np.maximum(at, 0)]
        self.dropped["not between standard concepts"] += int((~kept).sum())
        self.pairs.append((pa.array(child[kept]), pa.array(parent[kept])))


@dataclass(frozen=True)
class _Concepts:
    """The n concepts of CONCEPT.csv, sorted by identifier.

    ids: (n,) identifiers. targets: (n,) the row of the standard concept that gets the names (a standard concept's own row), or a key of
    _REJECTION_REASON. vocabularies, domains, codes: (n,) strings. languages: the concepts that are languages, identifier → name.
    parents: relationships to broader concepts.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    vocabularies: pa.DictionaryArray
    domains: pa.DictionaryArray
    codes: pa.StringArray
    languages: Mapping[str, str]
    parents: _Parents


@dataclass
class _Selection:
    """Which names are wanted, and the names that are not, by reason.

    sources: (n,) whether a concept's vocabulary is selected. domains: (n,) likewise. seen: the languages that occur.
    """

    languages: Collection[str] | None
    sources: NDArray[np.bool_]
    domains: NDArray[np.bool_]
    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)


def read_omop(
    folder: Path,
    assembly: Assembly,
    *,
    languages: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    domains: Collection[str] | None = None,
    rejects: Rejects | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[RowCounts, dict[str, Any]]:
    """Add a download's names to a terminology.

    Args:
        folder: The unpacked download, or a file in it; the files may be .gz.
        assembly: Takes the rows.
        languages: ISO codes; None for all.
        sources: Vocabularies that names may come from; None for all.
        domains: Domains of the standard concepts; None for all.
        rejects: Collects malformed rows, which otherwise are an error.
        block_bytes: Bytes read at a time.

    Returns:
        What happened to each row of CONCEPT and CONCEPT_SYNONYM, and the manifest's metadata.

    Raises:
        DataError: With file and line; also if a chosen value does not occur.
    """
    files = find_files(folder)
    concepts = _read_concepts(files[CONCEPT], files[RELATIONSHIP], rejects, block_bytes)
    check_choice(sources or (), concepts.vocabularies.dictionary.to_pylist(), "vocabulary", files[CONCEPT])
    check_choice(domains or (), concepts.domains.dictionary.to_pylist(), "domain", files[CONCEPT])
    selection = _Selection(languages, _is_chosen(concepts.vocabularies, sources), _is_chosen(concepts.domains, domains))
    rows_in = kept = 0
    for file, columns in (
        (CONCEPT, ("concept_id", "concept_name")),
        (SYNONYM, ("concept_id", "concept_synonym_name", _LANGUAGE_CONCEPT)),
    ):
        for rows in read_tsv_blocks(files[file], columns, rejects=rejects, block_bytes=block_bytes):
            rows = rows_with_numbers(files[file], rows, columns[:1], rejects)
            names = _names(rows, rows[columns[1]], concepts, selection)
            assembly.add_names(names)
            rows_in += rows.num_rows
            kept += names.num_rows
    if missing := sorted(set(languages or ()) - selection.seen):
        raise DataError(
            f"{files[SYNONYM]} has no names in {to_name(missing[0])}; it has {listed([to_name(c) for c in selection.seen])}"
        )
    _add_domains(concepts, assembly)
    for pairs in concepts.parents.pairs:
        assembly.add_relations(pa.table([pc.cast(part, pa.string()) for part in pairs], schema=RELATIONS_SCHEMA))
    assembly.add_relations(RELATIONS_SCHEMA.empty_table(), +concepts.parents.dropped)
    metadata: dict[str, Any] = {"reader": "omop", "files": {file.name: sha256_of(file) for file in files.values()}}
    metadata["vocabularies"] = _versions(files[VOCABULARY], rejects)
    metadata |= {
        key: None if v is None else sorted(v)
        for key, v in (("languages", languages), ("sources", sources), ("domains", domains))
    }
    malformed = rejected_rows(rejects, [files[CONCEPT], files[SYNONYM]])
    return RowCounts(rows_in, kept, +selection.dropped) + malformed, metadata


def find_files(path: Path) -> dict[str, Path]:
    """The files of a download by their usual names. path: its folder, or a file in it. Raises DataError."""
    folder, found = path.parent if path.is_file() else path, {}
    for name in (CONCEPT, SYNONYM, RELATIONSHIP, VOCABULARY):
        file = find_file(folder, name)
        if file is None:
            raise DataError(
                f"{path}: expected {name} or {name}.gz in this folder, found neither. Is it an unpacked download from Athena?"
            )
        found[name] = file
    return found


def _read_concepts(concept: Path, relationship: Path, rejects: Rejects | None, block_bytes: int) -> _Concepts:
    ids: list[NDArray[np.int64]] = []
    standard: list[NDArray[np.bool_]] = []
    texts: dict[str, list[pa.Array]] = {"vocabulary_id": [], "domain_id": [], "concept_code": []}
    languages = {_ENGLISH: f"English{_LANGUAGE_SUFFIX}"}
    columns = ("concept_id", "concept_name", "standard_concept", "invalid_reason", *texts)
    for rows in read_tsv_blocks(concept, columns, rejects=rejects, block_bytes=block_bytes):
        rows = rows_with_numbers(concept, rows, columns[:1], rejects)
        ids.append(whole_numbers(rows, "concept_id"))
        standard.append(
            pc.and_(pc.equal(rows["standard_concept"], "S"), pc.equal(rows["invalid_reason"], "")).to_numpy()
        )
        for name, parts in texts.items():
            column = rows[name].combine_chunks()
            parts.append(column if name == "concept_code" else column.dictionary_encode())
        languages_here = rows.filter(
            pc.or_(pc.equal(rows["vocabulary_id"], _LANGUAGE), pc.equal(rows["domain_id"], _LANGUAGE))
        )
        languages |= dict(zip(*(languages_here[name].to_pylist() for name in columns[:2]), strict=True))
    if not ids:
        raise DataError(f"{concept}: expected a row for each concept, found only a header. Was its transfer cut short?")
    unsorted_ids = np.concatenate(ids)
    order = np.argsort(unsorted_ids)
    sorted_ids = unsorted_ids[order]
    twice = np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])
    if twice.size:
        raise DataError(
            f"{concept}: expected each concept_id once, found {sorted_ids[twice[0]]} twice. Were two downloads combined?"
        )
    parents = _Parents(sorted_ids, np.concatenate(standard)[order])
    targets = _targets(relationship, parents, rejects, block_bytes)
    at = pa.array(order)
    vocabularies, domains, codes = (
        pa.chunked_array(parts).unify_dictionaries().combine_chunks().take(at) for parts in texts.values()
    )
    return _Concepts(sorted_ids, targets, vocabularies, domains, codes, languages, parents)


def _targets(path: Path, parents: _Parents, rejects: Rejects | None, block_bytes: int) -> NDArray[np.int64]:
    """`_Concepts.targets`, from the valid rows of CONCEPT_RELATIONSHIP.

    Args:
        path: CONCEPT_RELATIONSHIP.
        parents: The n concepts; takes the other relationships that are read.
        rejects: Collects malformed rows, which otherwise are an error.
        block_bytes: Bytes read at a time.

    Returns:
        (n,) rows, or keys of _REJECTION_REASON.
    """
    ids, standard = parents.ids, parents.standard
    # Of a concept's targets only the smallest and the largest are kept: if these are equal, there is one.
    smallest, largest = np.full(len(ids), np.iinfo(np.int64).max), np.full(len(ids), -1)
    with_value = np.zeros(len(ids), bool)
    columns = ("concept_id_1", "concept_id_2", "relationship_id", "invalid_reason")
    for rows in read_tsv_blocks(path, columns, rejects=rejects, block_bytes=block_bytes):
        parents.add(rows, path, rejects)
        is_mapping = pc.is_in(rows["relationship_id"], pa.array([_MAPS_TO, _MAPS_TO_VALUE]))
        rows = rows.filter(pc.and_(is_mapping, pc.equal(rows["invalid_reason"], "")))
        rows = rows_with_numbers(path, rows, columns[:2], rejects)
        at, targets = _find(ids, whole_numbers(rows, "concept_id_1")), whole_numbers(rows, "concept_id_2")
        maps = pc.equal(rows["relationship_id"], _MAPS_TO).to_numpy()
        with_value[at[(at >= 0) & ~maps]] = True
        maps = (at >= 0) & maps
        np.minimum.at(smallest, at[maps], targets[maps])
        np.maximum.at(largest, at[maps], targets[maps])
    rows_of_targets = _find(ids, largest)
    rows_of_targets[(rows_of_targets < 0) | ~standard[np.maximum(rows_of_targets, 0)]] = _NO_TARGET
    rows_of_targets[smallest < largest] = _SEVERAL_TARGETS
    rows_of_targets[with_value] = _TARGET_WITH_VALUE
    rows_of_targets[standard] = np.flatnonzero(standard)
    return rows_of_targets


def _find(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m,) the position of each of m wanted identifiers in the sorted `ids`, or _UNKNOWN."""
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, _UNKNOWN)


def _names(rows: pa.Table, texts: pa.ChunkedArray, concepts: _Concepts, selection: _Selection) -> pa.Table:
    """The selected rows of CONCEPT or CONCEPT_SYNONYM as NAMES_SCHEMA with precedence. texts: the column of names."""
    are_synonyms = _LANGUAGE_CONCEPT in rows.column_names
    own = _find(concepts.ids, whole_numbers(rows, "concept_id"))
    targets = np.where(own < 0, _UNKNOWN, concepts.targets[np.maximum(own, 0)])
    languages = rows[_LANGUAGE_CONCEPT].combine_chunks() if are_synonyms else pa.repeat(_ENGLISH, rows.num_rows)
    languages, wanted = _select_rows(own, targets, languages.dictionary_encode(), concepts, selection)
    own, targets, at = own[wanted], targets[wanted], pa.array(np.flatnonzero(wanted))
    is_own_name, codes = own == targets, concepts.codes.take(pa.array(own))
    return pa.table(
        {
            "concept_id": pc.cast(pa.array(concepts.ids[targets]), pa.string()),
            "language": languages.take(at),
            "name": pa.array(normalize_all(texts.take(at).to_pylist(), TextPolicy()), pa.string()),
            "kind": pc.if_else(pa.array(is_own_name & (not are_synonyms)), "preferred", "synonym"),
            "source": concepts.vocabularies.take(pa.array(own)).dictionary_decode(),
            "code": pc.if_else(pc.equal(codes, ""), pa.scalar(None, pa.string()), codes),
            "status": pa.nulls(len(own), pa.string()),
            PRECEDENCE: pa.array(is_own_name.astype(np.int32)),  # of two equal names, the concept's own is kept
        }
    )


def _select_rows(
    own: NDArray[np.int64],
    targets: NDArray[np.int64],
    languages: pa.DictionaryArray,
    concepts: _Concepts,
    selection: _Selection,
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Decide which rows are wanted, and count the others under the first reason that applies.

    Args:
        own: (m,) row of the concept that a name was given to.
        targets: (m,) row of the standard concept that gets the name, or a key of _REJECTION_REASON.
        languages: (m,) identifiers of language concepts.
        concepts: All concepts.
        selection: What is wanted; its counts are updated.

    Returns:
        (m,) ISO codes, and (m,) whether a row is wanted.
    """
    codes = [_iso_code(concepts.languages.get(language)) for language in languages.dictionary.to_pylist()]
    indices = languages.indices.to_numpy()
    selection.seen.update(code for code, _ in codes if code)
    reasons = [(_REJECTION_REASON[_UNKNOWN], targets == _UNKNOWN)]
    reasons += [(reason, indices == i) for i, (_, reason) in enumerate(codes) if reason]
    if selection.languages is not None:
        is_wanted = np.array([code in selection.languages for code, _ in codes], bool)
        reasons.append(("language not chosen", ~is_wanted[indices]))
    reasons.append(("vocabulary not chosen", ~selection.sources[np.maximum(own, 0)]))
    reasons += [(reason, targets == key) for key, reason in _REJECTION_REASON.items()]
    reasons.append(("domain not chosen", ~selection.domains[np.maximum(targets, 0)]))
    wanted = np.ones(len(own), bool)
    for reason, applies in reasons:
        selection.dropped[reason] += int((wanted & applies).sum())
        wanted &= ~applies
    return pa.array([code for code, _ in codes], pa.string()).take(languages.indices), wanted


def _iso_code(name: str | None) -> tuple[str, str]:
    """(ISO code, "") of a language, or ("", why it has none). name: None if the language is not in CONCEPT.csv."""
    if name is None:
        return "", f"language not in {CONCEPT}"
    plain = name.removesuffix(_LANGUAGE_SUFFIX)
    code = named_language(plain)  # some unknown languages are named like the code of another: Ron (ron is Romanian)
    return (code, "") if code else ("", f"language unknown to xsap: {plain}")


def _is_chosen(values: pa.DictionaryArray, chosen: Collection[str] | None) -> NDArray[np.bool_]:
    """(n,) whether each value is chosen; all are if `chosen` is None."""
    fits = np.array([chosen is None or value in chosen for value in values.dictionary.to_pylist()], bool)
    rows: NDArray[np.bool_] = fits[values.indices.to_numpy()]
    return rows


def _add_domains(concepts: _Concepts, assembly: Assembly) -> None:
    """Add the domain of each standard concept as its semantic type."""
    standard = np.flatnonzero(concepts.targets == np.arange(len(concepts.ids)))
    domains = concepts.domains.take(pa.array(standard)).dictionary_decode()
    one = pa.ListArray.from_arrays(pa.array(np.arange(len(standard) + 1, dtype=np.int32)), domains)
    assembly.add_concepts(
        pa.table({"concept_id": pc.cast(pa.array(concepts.ids[standard]), pa.string()), "semantic_types": one})
    )


def _versions(path: Path, rejects: Rejects | None) -> dict[str, str]:
    """Vocabulary → version, of those that have one. The vocabulary `None` has the version of the whole release."""
    blocks = read_tsv_blocks(path, ("vocabulary_id", "vocabulary_version"), rejects=rejects)
    rows = [row for block in blocks for row in block.to_pylist()]
    return {row["vocabulary_id"]: row["vocabulary_version"] for row in rows if row["vocabulary_version"]}
