"""The UMLS Metathesaurus → a terminology: names from MRCONSO, semantic types from MRSTY.

One row of MRCONSO is one name of a concept, in one language, from one source. Rows are judged a block at a time, so what is not chosen
never accumulates in memory. Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/table/ch03.T.concept_names_and_sources_file_mr/
Term types: https://www.nlm.nih.gov/research/umls/knowledge_sources/metathesaurus/release/abbreviations.html
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.choice import check_choice, listed
from data_prep.rrf import find_rrf, read_rrf
from data_prep.tally import Tally
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.languages import to_iso, to_name, to_umls
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy, normalise_all

MRCONSO, MRSTY = "MRCONSO.RRF", "MRSTY.RRF"
# fmt: off
MRCONSO_COLUMNS = (
    "CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS", "CVF",
)
# fmt: on
MRSTY_COLUMNS = ("CUI", "TUI", "STN", "STY", "ATUI", "CVF")

_WANTED = ("CUI", "LAT", "TS", "STT", "ISPREF", "SAB", "TTY", "CODE", "STR", "SUPPRESS")
_ABBREVIATIONS = ("AA", "AB", "ACR", "MTH_ACR", "OA", "OAM", "QAB", "RAB", "VAB")  # the term types that are abbreviations or acronyms
_NO_CODE = ("", "NOCODE")


def read_umls(
    mrconso: Path,
    mrsty: Path | None = None,
    *,
    languages: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    semantic_types: Collection[str] | None = None,
    suppressed: bool = False,
) -> tuple[Terminology, Tally]:
    """MRCONSO (and MRSTY) as a terminology, and what became of each of MRCONSO's rows.

    languages: ISO codes; sources: SAB; semantic_types: TUI (`T047`) or name (`Disease or Syndrome`); None leaves one open. suppressed: keep
    rows that their source or the UMLS suppresses, too. Raises DataError with file and line, or if a choice does not occur.
    """
    if semantic_types is not None and mrsty is None:
        raise DataError(
            f"{mrconso}: a choice of semantic types needs {MRSTY}, found none beside it; give its path, or leave the choice out"
        )
    types = _read_types(mrsty) if mrsty else None
    fitting = _concepts_of_types(types, semantic_types, mrsty) if types is not None and semantic_types is not None else None
    rows_in, dropped, parts = 0, Counter[str](), [NAMES_SCHEMA.empty_table()]
    seen: dict[str, set[str]] = {"LAT": set(), "SAB": set()}
    for block in read_rrf(mrconso, MRCONSO_COLUMNS, _WANTED):
        rows_in += block.num_rows
        for column, values in seen.items():
            values.update(pc.unique(block[column]).to_pylist())
        block = _choose(block, dropped, languages=languages, sources=sources, concepts=fitting, suppressed=suppressed)
        parts.append(_names(block, mrconso))
    _check_languages(languages, seen["LAT"], mrconso)
    check_choice(sources or (), seen["SAB"], "source", mrconso)
    names = pa.concat_tables(parts)
    facts = {"reader": "umls", "files": {file.name: sha256_of(file) for file in (mrconso, mrsty) if file}, "suppressed": suppressed}
    facts |= {key: sorted(v) if v is not None else None for key, v in (("sources", sources), ("semantic_types", semantic_types))}
    terminology, again = Terminology.build(names, _concepts(types) if types is not None else None, facts)
    return terminology, Tally(rows_in, names.num_rows, dropped).then(terminology.names.num_rows, again)


def find_files(place: Path, mrsty: Path | None = None) -> tuple[Path, Path | None]:
    """MRCONSO and, where there is one, MRSTY: in a META folder, or beside the MRCONSO file that `place` is. Raises DataError."""
    folder = place if place.is_dir() else place.parent
    mrconso = find_rrf(place, MRCONSO) if place.is_dir() else place
    if mrconso is None:
        raise DataError(f"{place}: expected {MRCONSO} or {MRCONSO}.gz in this folder, found neither. Is it the META folder of a release?")
    return mrconso, mrsty or find_rrf(folder, MRSTY)


def _choose(
    block: pa.Table,
    dropped: Counter[str],
    *,
    languages: Collection[str] | None,
    sources: Collection[str] | None,
    concepts: pa.Array | None,
    suppressed: bool,
) -> pa.Table:
    """The rows of a block that fit every choice; the others are counted in `dropped` under the first that they miss."""
    choices = (
        ("language not chosen", "LAT", None if languages is None else pa.array([to_umls(code) for code in sorted(languages)])),
        ("source not chosen", "SAB", None if sources is None else pa.array(sorted(sources))),
        ("suppressed", "SUPPRESS", None if suppressed else pa.array(["N"])),
        ("semantic type not chosen", "CUI", concepts),
    )
    for reason, column, allowed in choices:
        if allowed is not None:
            fits = block.filter(pc.is_in(block[column], allowed))
            dropped[reason] += block.num_rows - fits.num_rows
            block = fits
    return block


def _names(block: pa.Table, path: Path) -> pa.Table:
    """MRCONSO's columns as NAMES_SCHEMA."""
    preferred = pc.and_(pc.equal(block["TS"], "P"), pc.and_(pc.equal(block["STT"], "PF"), pc.equal(block["ISPREF"], "Y")))
    abbreviation = pc.is_in(block["TTY"], pa.array(_ABBREVIATIONS))
    code = pc.if_else(pc.is_in(block["CODE"], pa.array(_NO_CODE)), pa.scalar(None, pa.string()), block["CODE"])
    columns = {
        "concept_id": block["CUI"],
        "language": _translated(block["LAT"], path),
        "name": pa.array(normalise_all(block["STR"].to_pylist(), TextPolicy()), pa.string()),
        "kind": pc.if_else(preferred, "preferred", pc.if_else(abbreviation, "abbreviation", "synonym")),
        "source": block["SAB"],
        "code": code,
        "status": pa.nulls(block.num_rows, pa.string()),
    }
    return pa.table(columns).cast(NAMES_SCHEMA)


def _translated(codes: pa.ChunkedArray, path: Path) -> pa.Array:
    """UMLS language codes as ISO codes."""
    encoded = codes.combine_chunks().dictionary_encode()
    try:
        return pa.array([to_iso(code) for code in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)
    except DataError as error:
        raise DataError(f"{path}: {error}; choose --languages without it") from None


def _check_languages(chosen: Collection[str] | None, seen: set[str], path: Path) -> None:
    missing = [code for code in sorted(chosen or ()) if to_umls(code) not in seen]
    if missing:
        raise DataError(f"{path} has no names in {to_name(missing[0])} ({to_umls(missing[0])}); it has {listed(seen, 40)}")


def _read_types(path: Path) -> pa.Table:
    return pa.concat_tables(read_rrf(path, MRSTY_COLUMNS, ("CUI", "TUI", "STY")))


def _concepts_of_types(types: pa.Table, chosen: Collection[str], path: Path | None) -> pa.Array:
    """The concepts that have one of the chosen semantic types, each given by its TUI or its name."""
    known = [value for column in ("TUI", "STY") for value in pc.unique(types[column]).to_pylist()]
    check_choice(chosen, known, "semantic type", path or MRSTY)
    wanted = pa.array(sorted(chosen))
    return pc.unique(types["CUI"].filter(pc.or_(pc.is_in(types["TUI"], wanted), pc.is_in(types["STY"], wanted))))


def _concepts(types: pa.Table) -> pa.Table:
    """concept_id and its semantic types (TUI), a row a concept."""
    grouped = types.group_by("CUI").aggregate([("TUI", "list")])
    return pa.table({"concept_id": grouped["CUI"], "semantic_types": grouped["TUI_list"]})
