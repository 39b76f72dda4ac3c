"""A SNOMED CT release (RF2 snapshot files), or several that belong together, as a terminology.

The concepts are the active ones, and their names the active descriptions. A fully specified name (FSN) ends with a semantic tag in
parentheses: the tag becomes the semantic type, and the rest is one more synonym, since nobody writes the tag. Language reference sets say which
synonyms are preferred. An extension may repeat components of the release that it extends, so the newest row of each component counts,
whichever file has it. Text definitions are definitions, and the active `is a` relationships of the inferred view lead to broader concepts; a
release without these files has neither. Other files (Full, Delta, stated relationships) are not read.
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
from numpy.typing import NDArray

from data_prep.accounting import Rejects, check_choice, listed, rejected_rows
from data_prep.assemble import Assembly
from data_prep.delimited import BLOCK_BYTES, good_rows, read_tsv_blocks, rows_with_numbers, whole_numbers
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.languages import ENGLISH, to_iso, to_name
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA
from xsap.terms.terminology import PRECEDENCE, RETIRED_SCHEMA
from xsap.text import TextPolicy, normalize_all

SOURCE = "SNOMEDCT"
CONCEPT, DESCRIPTION, LANGUAGE, ASSOCIATION = "Concept", "Description", "Language", "Association"
TEXT_DEFINITIONS, RELATIONSHIPS = "TextDefinition", "Relationship"
NAMES_PER_BATCH = 500_000

_FILES = {  # an x before the name marks a release that is not final
    CONCEPT: re.compile(r"x?sct2_Concept_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    DESCRIPTION: re.compile(r"x?sct2_Description_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    LANGUAGE: re.compile(r"x?der2_cRefset_[^_]*Language[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    TEXT_DEFINITIONS: re.compile(r"x?sct2_TextDefinition_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    RELATIONSHIPS: re.compile(r"x?sct2_Relationship_[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
    ASSOCIATION: re.compile(r"x?der2_cRefset_[^_]*Association[^_]*Snapshot[^_]*_.*\.txt(\.gz)?"),
}
_FSN, _SYNONYM, _PREFERRED = "900000000000003001", "900000000000013009", "900000000000548007"
# The relation of a successor to a retired concept, by reference set: SAME AS, REPLACED BY, POSSIBLY EQUIVALENT TO. FHIR calls the first two
# equal and equivalent, the third inexact (https://hl7.org/fhir/R4/snomedct.html).
_SUCCESSOR_RELATIONS = {"900000000000527005": "same", "900000000000526001": "same", "900000000000523009": "related"}
_IS_A, _STATED = "116680003", "900000000000010007"
_RELATED = ("sourceId", "destinationId", "typeId", "characteristicTypeId")
_DESCRIBED = ("conceptId", "languageCode", "typeId", "term")
_TAGGED = r"^(?P<name>.*\S)\s*\((?P<tag>[^()]+)\)$"


def read_snomed(
    folders: Sequence[Path],
    assembly: Assembly,
    *,
    languages: Collection[str] | None = None,
    refsets: Collection[str] | None = None,
    rejects: Rejects | None = None,
    block_bytes: int = BLOCK_BYTES,
    names_per_batch: int = NAMES_PER_BATCH,
) -> tuple[RowCounts, dict[str, Any]]:
    """Add the names of releases to a terminology.

    Args:
        folders: Folders with snapshot files, at any depth.
        assembly: Takes the rows.
        languages: ISO codes; None for all.
        refsets: Identifiers of language reference sets: only the descriptions in these are taken, and only these make a name preferred. None
            takes every description, and all sets count.
        rejects: Collects malformed rows, which otherwise are an error.
        block_bytes: Bytes read at a time.
        names_per_batch: Names that are added at a time.

    Returns:
        What happened to each row of the description files, and the manifest's metadata.

    Raises:
        DataError: With file and line; also if a chosen value does not occur.
    """
    files, where = find_files(folders), ", ".join(map(str, folders))
    concepts, is_newest = _newest(files[CONCEPT], (), rejects, block_bytes)
    concepts = concepts.filter(pa.array(is_newest))
    acceptable = _members(files[LANGUAGE], "acceptabilityId", rejects, block_bytes)
    check_choice(refsets or (), pc.unique(acceptable["refsetId"]).to_pylist(), "language reference set", where)
    if refsets is not None:
        acceptable = acceptable.filter(pc.is_in(acceptable["refsetId"], _array(refsets)))
    rows, is_newest = _newest(files[DESCRIPTION], _DESCRIBED, rejects, block_bytes)
    rows_in, dropped = rows.num_rows, Counter({"older version of a description": int((~is_newest).sum())})
    rows = rows.filter(pa.array(is_newest))
    codes = {code: _iso_code(code) for code in pc.unique(rows["languageCode"]).to_pylist()}
    if missing := sorted(set(languages or ()) - set(codes.values())):
        known = listed([to_name(iso) for iso in codes.values() if iso])
        raise DataError(f"{where} has no names in {to_name(missing[0])}; it has {known}")
    rows = _select_rows(rows, _validity(concepts), dropped)
    _add_types(rows, codes, assembly, names_per_batch)
    rows = _select_rows(rows, _choices(codes, languages, acceptable if refsets is not None else None), dropped)
    is_preferred = pc.equal(acceptable["acceptabilityId"], _PREFERRED)
    preferred = acceptable["referencedComponentId"].filter(is_preferred).combine_chunks()
    for start in range(0, rows.num_rows, names_per_batch):
        assembly.add_names(_names(rows.slice(start, names_per_batch), codes, preferred))
    associations = _members(files[ASSOCIATION], "targetComponentId", rejects, block_bytes)
    assembly.add_retired(_retired(concepts, associations))
    _add_definitions(files[TEXT_DEFINITIONS], codes, languages, assembly, rejects, block_bytes)
    _add_parents(files[RELATIONSHIPS], assembly, rejects, block_bytes)
    metadata: dict[str, Any] = {
        "reader": "snomed",
        "files": {file.name: sha256_of(file) for kind in files.values() for file in kind},
        "release": max(pc.unique(concepts["effectiveTime"]).to_pylist(), default=None),
        "languages": None if languages is None else sorted(languages),
        "refsets": None if refsets is None else sorted(refsets),
    }
    return RowCounts(rows_in, rows.num_rows, +dropped) + rejected_rows(rejects, files[DESCRIPTION]), metadata


def _validity(concepts: pa.Table) -> list[tuple[str, str, pa.Array]]:
    """The conditions of `_select_rows` for descriptions that are names of active concepts."""
    living = concepts["id"].filter(pc.equal(concepts["active"], "1")).combine_chunks()
    return [
        ("retired description", "active", _array(["1"])),
        ("concept in no concept file", "conceptId", concepts["id"].combine_chunks()),
        ("retired concept", "conceptId", living),
        ("neither a fully specified name nor a synonym", "typeId", _array([_FSN, _SYNONYM])),
    ]


def _choices(
    codes: Mapping[str, str | None], languages: Collection[str] | None, acceptable: pa.Table | None
) -> list[tuple[str, str, pa.Array]]:
    """The conditions of `_select_rows` for the user's choices. codes: of `_names`. acceptable: the members of chosen reference sets."""
    conditions = [
        (f"language unknown to xsap: {code}", "languageCode", _array(set(codes) - {code}))
        for code, iso in codes.items()
        if not iso
    ]
    if languages is not None:
        chosen = _array(code for code, iso in codes.items() if iso in languages)
        conditions.append(("language not chosen", "languageCode", chosen))
    if acceptable is not None:
        members = acceptable["referencedComponentId"].combine_chunks()
        conditions.append(("in no language reference set chosen", "id", members))
    return conditions


def find_files(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The snapshot files of all folders by kind, at least one of CONCEPT and of DESCRIPTION. Raises DataError."""
    found: dict[str, dict[str, Path]] = {kind: {} for kind in _FILES}
    for folder in folders:
        matches = [
            (kind, file)
            for file in sorted(folder.rglob("*"))
            for kind, name in _FILES.items()
            if name.fullmatch(file.name)
        ]
        if not matches:
            raise DataError(
                f"{folder}: expected a folder with snapshot files of SNOMED CT (sct2_Concept_Snapshot_….txt and others), found none in it."
                " Full and Delta files are not read"
            )
        for kind, file in matches:
            if other := found[kind].get(file.name):
                raise DataError(
                    f"expected each release once, found {file.name} in {other.parent} and in {file.parent}; give one of them"
                )
            found[kind][file.name] = file
    for kind in (CONCEPT, DESCRIPTION):
        if not found[kind]:
            raise DataError(
                f"{', '.join(map(str, folders))}: expected a sct2_{kind}_…Snapshot… file, found none."
                " An extension needs the release that it extends"
            )
    return {kind: list(files.values()) for kind, files in found.items()}


def _newest(
    files: Sequence[Path], columns: Sequence[str], rejects: Rejects | None, block_bytes: int
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """All n rows with id, effectiveTime, active and `columns`; and (n,) whether each is the newest of its component."""
    wanted = ("id", "effectiveTime", "active", *columns)
    parts, times = [pa.table({name: pa.array([], pa.string()) for name in wanted})], [np.zeros(0, np.int64)]
    for file in files:
        for rows in read_tsv_blocks(file, wanted, rejects=rejects, block_bytes=block_bytes):
            rows = good_rows(file, rows, pc.is_in(rows["active"], _array("01")), "active", "0 or 1", rejects)
            rows = rows_with_numbers(file, rows, ["effectiveTime"], rejects)
            times.append(whole_numbers(rows, "effectiveTime"))
            parts.append(rows.select(wanted))
    rows = pa.concat_tables(parts)
    ids = np.concatenate(
        [np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in rows["id"].dictionary_encode().chunks)]
    )
    order = np.lexsort((np.concatenate(times), ids))
    is_newest, is_last = np.zeros(len(ids), bool), np.ones(len(ids), bool)
    is_last[:-1] = ids[order][1:] != ids[order][:-1]
    is_newest[order[is_last]] = True
    return rows, is_newest


def _members(files: Sequence[Path], column: str, rejects: Rejects | None, block_bytes: int) -> pa.Table:
    """The active rows of reference sets: refsetId, referencedComponentId and one more column."""
    columns = ["refsetId", "referencedComponentId", column]
    rows, is_newest = _newest(files, columns, rejects, block_bytes)
    is_active = pc.equal(rows["active"], "1")
    return rows.select(columns).filter(pc.and_(pa.chunked_array([pa.array(is_newest)]), is_active))


def _select_rows(rows: pa.Table, conditions: Iterable[tuple[str, str, pa.Array]], dropped: Counter[str]) -> pa.Table:
    """The rows that have an allowed value in each column; the others are counted in `dropped` under the first reason.

    conditions: the reason for dropping a row, the column, its allowed values.
    """
    for reason, column, allowed in conditions:
        fits = rows.filter(pc.is_in(rows[column], allowed))
        dropped[reason] += rows.num_rows - fits.num_rows
        rows = fits
    return rows


def _add_types(rows: pa.Table, codes: Mapping[str, str | None], assembly: Assembly, names_per_batch: int) -> None:
    """Add the semantic tags of concepts: those of their English FSNs, or of others if a concept has no English one."""
    fsns = rows.filter(pc.equal(rows["typeId"], _FSN))
    english = pc.is_in(fsns["languageCode"], _array(code for code, iso in codes.items() if iso == ENGLISH))
    have_english = fsns["conceptId"].filter(english).combine_chunks()
    fsns = fsns.filter(pc.or_(english, pc.invert(pc.is_in(fsns["conceptId"], have_english))))
    for start in range(0, fsns.num_rows, names_per_batch):
        part = fsns.slice(start, names_per_batch)
        tags = pc.struct_field(pc.extract_regex(_normalized(part), _TAGGED), "tag")
        concepts = part["conceptId"].combine_chunks().filter(pc.is_valid(tags))
        one = pa.ListArray.from_arrays(pa.array(range(len(concepts) + 1), pa.int32()), tags.drop_null())
        assembly.add_concepts(pa.table({"concept_id": concepts, "semantic_types": one}))


def _add_definitions(
    files: Sequence[Path],
    codes: Mapping[str, str | None],
    languages: Collection[str] | None,
    assembly: Assembly,
    rejects: Rejects | None,
    block_bytes: int,
) -> None:
    """Add text definitions. codes: language code → ISO code, of descriptions; the others are found here."""
    rows, is_newest = _newest(files, _DESCRIBED, rejects, block_bytes)
    dropped = Counter({"older version of a definition": int((~is_newest).sum())})
    rows = rows.filter(pa.array(is_newest))
    codes = {code: _iso_code(code) for code in pc.unique(rows["languageCode"]).to_pylist()} | dict(codes)
    rows = _select_rows(
        rows, [("retired definition", "active", _array(["1"])), *_choices(codes, languages, None)], dropped
    )
    spoken = pa.array([codes[code] for code in rows["languageCode"].to_pylist()], pa.string())
    columns = [rows["conceptId"], spoken, _normalized(rows), pa.repeat(SOURCE, rows.num_rows)]
    assembly.add_definitions(pa.table(columns, schema=DEFINITIONS_SCHEMA), +dropped)


def _add_parents(files: Sequence[Path], assembly: Assembly, rejects: Rejects | None, block_bytes: int) -> None:
    """Add the active `is a` relationships, which are inferred or additional; those of other types are not counted."""
    rows, is_newest = _newest(files, _RELATED, rejects, block_bytes)
    of_kinds = pc.equal(rows["typeId"], _IS_A).to_numpy(zero_copy_only=False).astype(bool)
    dropped = Counter({"older version of a relationship": int((of_kinds & ~is_newest).sum())})
    rows = rows.filter(pa.array(of_kinds & is_newest))
    active = rows.filter(pc.equal(rows["active"], "1"))
    inferred = active.filter(pc.not_equal(active["characteristicTypeId"], _STATED))
    dropped["retired relationship"] += rows.num_rows - active.num_rows
    dropped["stated, not inferred"] += active.num_rows - inferred.num_rows
    columns = [inferred["sourceId"], inferred["destinationId"]]
    assembly.add_relations(pa.table(columns, schema=RELATIONS_SCHEMA), +dropped)


def _names(rows: pa.Table, codes: Mapping[str, str | None], preferred: pa.Array) -> pa.Table:
    """Descriptions as NAMES_SCHEMA with precedence. codes: language code → ISO code. preferred: ids of preferred descriptions."""
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
            PRECEDENCE: pc.cast(fsn, pa.int32()),  # without a preferred synonym, the FSN is the preferred name
        }
    )


def _retired(concepts: pa.Table, associations: pa.Table) -> pa.Table:
    """RETIRED_SCHEMA: each inactive concept with its successors, which may be retired in turn."""
    inactive = concepts["id"].filter(pc.equal(concepts["active"], "0")).combine_chunks()
    associations = associations.filter(pc.is_in(associations["refsetId"], _array(_SUCCESSOR_RELATIONS)))
    associations = associations.filter(pc.is_in(associations["referencedComponentId"], inactive)).combine_chunks()
    relations = pa.array([_SUCCESSOR_RELATIONS[refset] for refset in associations["refsetId"].to_pylist()], pa.string())
    followed = pa.table(
        [associations["referencedComponentId"], associations["targetComponentId"], relations], schema=RETIRED_SCHEMA
    )
    alone = inactive.filter(pc.invert(pc.is_in(inactive, followed["retired_id"].combine_chunks())))
    deleted = pa.table(
        [alone, pa.nulls(len(alone), pa.string()), pa.repeat("deleted", len(alone))], schema=RETIRED_SCHEMA
    )
    return pa.concat_tables([followed, deleted])


def _normalized(rows: pa.Table) -> pa.StringArray:
    return pa.array(normalize_all(rows["term"].to_pylist(), TextPolicy()), pa.string())


def _iso_code(code: str) -> str | None:
    try:
        return to_iso(code)
    except DataError:
        return None


def _array(values: Iterable[str]) -> pa.StringArray:
    return pa.array(sorted(values), pa.string())
