"""A SNOMED CT release (RF2 snapshot files), or several that belong together → a terminology.

The concepts are the active ones, their names the active descriptions. A fully specified name (FSN) ends with a semantic tag in brackets: the
tag becomes the semantic type, and the rest is one more synonym, since nobody writes the tag. Among synonyms, language reference sets say
which are preferred. An extension may say anew what the release that it extends says, so of each component the newest row counts, wherever
it stands. Files of other kinds (Full, Delta, text definitions, relationships) are not opened.
Format: https://docs.snomed.org/snomed-ct-specifications/release-file-specification
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import check_choice, listed
from data_prep.assemble import Assembly
from data_prep.delimited import LINE, read_tsv_blocks, whole_numbers
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.languages import ENGLISH, to_iso, to_name
from xsap.terms.terminology import PRECEDENCE, RETIRED_SCHEMA
from xsap.text import TextPolicy, normalize_all

SOURCE = "SNOMEDCT"
CONCEPT, DESCRIPTION, LANGUAGE, ASSOCIATION = "Concept", "Description", "Language", "Association"

_FILES = {  # an x before the name marks a release that is not final
    CONCEPT: re.compile(r"x?sct2_Concept_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    DESCRIPTION: re.compile(r"x?sct2_Description_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    LANGUAGE: re.compile(r"x?der2_cRefset_[^_]*Language[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    ASSOCIATION: re.compile(r"x?der2_cRefset_[^_]*Association[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
}
_FSN, _SYNONYM, _PREFERRED = "900000000000003001", "900000000000013009", "900000000000548007"
# What a successor is to a retired concept, by reference set: SAME AS, REPLACED BY, POSSIBLY EQUIVALENT TO. FHIR calls the first two
# equal and equivalent, the third inexact (https://hl7.org/fhir/R4/snomedct.html).
_SUCCESSION = {"900000000000527005": "same", "900000000000526001": "same", "900000000000523009": "related"}
_TAGGED = r"^(?P<name>.*\S)\s*\((?P<tag>[^()]+)\)$"
_PART = 500_000  # descriptions that are handed over at a time


def read_snomed(
    folders: Sequence[Path],
    assembly: Assembly,
    *,
    languages: Collection[str] | None = None,
    refsets: Collection[str] | None = None,
) -> tuple[RowCounts, dict[str, Any]]:
    """Hand the names of releases over → what became of each row of their description files, and the facts to remember.

    folders: where snapshot files are, at any depth. languages: ISO codes. refsets: identifiers of language reference sets; if any are
    chosen, only what they list is taken, and only they make a name preferred; None takes every description, and listens to every set.
    Raises DataError with file and line, or if a choice does not occur.
    """
    files, where = find_files(folders), ", ".join(map(str, folders))
    concepts, newest = _newest(files[CONCEPT], ())
    concepts = concepts.filter(pa.array(newest))
    acceptable = _members(files[LANGUAGE], "acceptabilityId")
    check_choice(refsets or (), pc.unique(acceptable["refsetId"]).to_pylist(), "language reference set", where)
    if refsets is not None:
        acceptable = acceptable.filter(pc.is_in(acceptable["refsetId"], _array(refsets)))
    rows, newest = _newest(files[DESCRIPTION], ("conceptId", "languageCode", "typeId", "term"))
    rows_in, dropped = rows.num_rows, Counter({"older version of a description": int((~newest).sum())})
    rows = rows.filter(pa.array(newest))
    codes = {code: _iso(code) for code in pc.unique(rows["languageCode"]).to_pylist()}
    if missing := sorted(set(languages or ()) - set(codes.values())):
        raise DataError(
            f"{where} has no names in {to_name(missing[0])}; it has {listed([to_name(iso) for iso in codes.values() if iso])}"
        )
    living = concepts["id"].filter(pc.equal(concepts["active"], "1")).combine_chunks()
    rows = _sift(
        rows,
        [
            ("retired description", "active", _array(["1"])),
            ("concept in no concept file", "conceptId", concepts["id"].combine_chunks()),
            ("retired concept", "conceptId", living),
            ("neither a fully specified name nor a synonym", "typeId", _array([_FSN, _SYNONYM])),
        ],
        dropped,
    )
    _add_types(rows, codes, assembly)
    choices = [
        (f"language unknown to xsap: {code}", "languageCode", _array(set(codes) - {code}))
        for code, iso in codes.items()
        if not iso
    ]
    if languages is not None:
        choices.append(
            ("language not chosen", "languageCode", _array(code for code, iso in codes.items() if iso in languages))
        )
    if refsets is not None:
        choices.append(
            ("in no language reference set chosen", "id", acceptable["referencedComponentId"].combine_chunks())
        )
    rows = _sift(rows, choices, dropped)
    preferred = (
        acceptable["referencedComponentId"].filter(pc.equal(acceptable["acceptabilityId"], _PREFERRED)).combine_chunks()
    )
    for start in range(0, rows.num_rows, _PART):
        assembly.add_names(_names(rows.slice(start, _PART), codes, preferred))
    assembly.add_retired(_retired(concepts, _members(files[ASSOCIATION], "targetComponentId")))
    metadata: dict[str, Any] = {
        "reader": "snomed",
        "files": {file.name: sha256_of(file) for kind in files.values() for file in kind},
    }
    metadata["release"] = max(pc.unique(concepts["effectiveTime"]).to_pylist(), default=None)
    metadata |= {
        key: None if value is None else sorted(value) for key, value in (("languages", languages), ("refsets", refsets))
    }
    return RowCounts(rows_in, rows.num_rows, +dropped), metadata


def find_files(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The snapshot files of all folders by kind: CONCEPT, DESCRIPTION (at least one of each), LANGUAGE, ASSOCIATION. Raises DataError."""
    found: dict[str, dict[str, Path]] = {kind: {} for kind in _FILES}
    for folder in folders:
        here = [
            (kind, file)
            for file in sorted(folder.rglob("*"))
            for kind, name in _FILES.items()
            if name.fullmatch(file.name)
        ]
        if not here:
            raise DataError(
                f"{folder}: expected a folder with snapshot files of SNOMED CT (sct2_Concept_Snapshot_….txt and others), found none in it."
                " Full and Delta files won't do"
            )
        for kind, file in here:
            if other := found[kind].get(file.name):
                raise DataError(
                    f"expected each release once, found {file.name} in {other.parent} and in {file.parent}; give one of them"
                )
            found[kind][file.name] = file
    for kind in (CONCEPT, DESCRIPTION):
        if not found[kind]:
            raise DataError(
                f"{', '.join(map(str, folders))}: expected a sct2_{kind}_…Snapshot… file, found none there."
                " An extension needs the release that it extends"
            )
    return {kind: list(files.values()) for kind, files in found.items()}


def _newest(files: Sequence[Path], columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
    """Every row with its id, effectiveTime, active and `columns`; and (n,) bool: which is the newest of its component."""
    wanted = ("id", "effectiveTime", "active", *columns)
    parts, times = [pa.table({name: pa.array([], pa.string()) for name in wanted})], [np.zeros(0, np.int64)]
    for file in files:
        for rows in read_tsv_blocks(file, wanted):
            if (at := pc.index(pc.is_in(rows["active"], _array("01")), False).as_py()) >= 0:
                raise DataError(f"{file}:{rows[LINE][at]}: expected 0 or 1 in 'active', found '{rows['active'][at]}'")
            times.append(whole_numbers(file, rows, "effectiveTime"))
            parts.append(rows.select(wanted))
    rows = pa.concat_tables(parts)
    ids = np.concatenate(
        [np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in rows["id"].dictionary_encode().chunks)]
    )
    order = np.lexsort((np.concatenate(times), ids))
    newest, last = np.zeros(len(ids), bool), np.ones(len(ids), bool)
    last[:-1] = ids[order][1:] != ids[order][:-1]
    newest[order[last]] = True
    return rows, newest


def _members(files: Sequence[Path], column: str) -> pa.Table:
    """The active rows of reference sets: refsetId, referencedComponentId and one more column."""
    columns = ["refsetId", "referencedComponentId", column]
    rows, newest = _newest(files, columns)
    return rows.select(columns).filter(pc.and_(pa.chunked_array([pa.array(newest)]), pc.equal(rows["active"], "1")))


def _sift(rows: pa.Table, conditions: Iterable[tuple[str, str, pa.Array]], dropped: Counter[str]) -> pa.Table:
    """The rows that have an allowed value in each column; the others are counted in `dropped` under the first reason.

    conditions: the reason for dropping a row, the column, its allowed values.
    """
    for why, column, allowed in conditions:
        fits = rows.filter(pc.is_in(rows[column], allowed))
        dropped[why] += rows.num_rows - fits.num_rows
        rows = fits
    return rows


def _add_types(rows: pa.Table, codes: Mapping[str, str | None], assembly: Assembly) -> None:
    """Hand over the semantic tags of concepts: those of their English FSNs, and only where there is none those of others."""
    fsns = rows.filter(pc.equal(rows["typeId"], _FSN))
    english = pc.is_in(fsns["languageCode"], _array(code for code, iso in codes.items() if iso == ENGLISH))
    told = fsns["conceptId"].filter(english).combine_chunks()
    fsns = fsns.filter(pc.or_(english, pc.invert(pc.is_in(fsns["conceptId"], told))))
    for start in range(0, fsns.num_rows, _PART):
        part = fsns.slice(start, _PART)
        tags = pc.struct_field(pc.extract_regex(_normalized(part), _TAGGED), "tag")
        concepts = part["conceptId"].combine_chunks().filter(pc.is_valid(tags))
        one = pa.ListArray.from_arrays(pa.array(range(len(concepts) + 1), pa.int32()), tags.drop_null())
        assembly.add_concepts(pa.table({"concept_id": concepts, "semantic_types": one}))


def _names(rows: pa.Table, codes: Mapping[str, str | None], preferred: pa.Array) -> pa.Table:
    """NAMES_SCHEMA and precedence for descriptions. preferred: the ids of those that a language reference set prefers."""
    rows = rows.combine_chunks()
    terms, fsn = _normalized(rows), pc.equal(rows["typeId"], _FSN)
    untagged = pc.coalesce(pc.struct_field(pc.extract_regex(terms, _TAGGED), "name"), terms)
    languages = rows["languageCode"].combine_chunks().dictionary_encode()
    return pa.table(
        {
            "concept_id": rows["conceptId"],
            "language": pa.array([codes[code] for code in languages.dictionary.to_pylist()], pa.string()).take(
                languages.indices
            ),
            "name": pc.if_else(fsn, untagged, terms),
            "kind": pc.if_else(pc.and_(pc.invert(fsn), pc.is_in(rows["id"], preferred)), "preferred", "synonym"),
            "source": pa.repeat(SOURCE, rows.num_rows),
            "code": rows["conceptId"],
            "status": pa.nulls(rows.num_rows, pa.string()),
            PRECEDENCE: pc.cast(
                fsn, pa.int32()
            ),  # where nothing is preferred, a concept is called by its FSN rather than by a synonym
        }
    )


def _retired(concepts: pa.Table, associations: pa.Table) -> pa.Table:
    """RETIRED_SCHEMA: each concept that is not active with its successors, which may be retired in their turn."""
    gone = concepts["id"].filter(pc.equal(concepts["active"], "0")).combine_chunks()
    associations = associations.filter(pc.is_in(associations["refsetId"], _array(_SUCCESSION)))
    associations = associations.filter(pc.is_in(associations["referencedComponentId"], gone)).combine_chunks()
    relations = pa.array([_SUCCESSION[refset] for refset in associations["refsetId"].to_pylist()], pa.string())
    followed = pa.table(
        [associations["referencedComponentId"], associations["targetComponentId"], relations], schema=RETIRED_SCHEMA
    )
    alone = gone.filter(pc.invert(pc.is_in(gone, followed["retired_id"].combine_chunks())))
    deleted = pa.table(
        [alone, pa.nulls(len(alone), pa.string()), pa.repeat("deleted", len(alone))], schema=RETIRED_SCHEMA
    )
    return pa.concat_tables([followed, deleted])


def _normalized(rows: pa.Table) -> pa.StringArray:
    return pa.array(normalize_all(rows["term"].to_pylist(), TextPolicy()), pa.string())


def _iso(code: str) -> str | None:
    try:
        return to_iso(code)
    except DataError:
        return None


def _array(values: Iterable[str]) -> pa.StringArray:
    return pa.array(sorted(values), pa.string())
