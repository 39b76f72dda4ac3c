"""The UMLS Metathesaurus as a terminology: names from MRCONSO, semantic types from MRSTY, and what MRDEF, MRREL, MRRANK, MRSAB and MRCUI add.

One row of MRCONSO is one name of a concept, in one language, from one source. Rows are selected block by block and added to the terminology,
so nothing accumulates in memory but the names of trade names.

In MRREL the second concept of a row has the relation to the first: `CUI1 … CUI2 … tradename_of` says that CUI2 is a trade name of CUI1, and
`has_tradename` the reverse (section 3.3.9). Most relations are listed in both directions, so each pair is taken once. The original SapBERT
code reads both directions as "the first gets the names of the second", and keeps only the last second concept of each first; here a concept
gets the names of all its trade names, and a trade name gets no names of other concepts.

Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/ chapter 3, section 3.3.
Term types: https://www.nlm.nih.gov/research/umls/knowledge_sources/metathesaurus/release/abbreviations.html
"""

from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import Rejects, check_choice, listed, rejected_rows
from data_prep.assemble import Assembly
from data_prep.delimited import find_file, read_rrf
from data_prep.umls_relations import MRREL, read_definitions, read_parents
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, prefetch_map
from xsap.languages import to_iso, to_name, to_umls
from xsap.terms.semantic_types import types_of
from xsap.terms.terminology import NAMES_SCHEMA, PRECEDENCE, RETIRED_SCHEMA
from xsap.text import TextPolicy, normalize_column

# fmt: off
MRCONSO = (
    "CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS", "CVF",
)
MRSTY = ("CUI", "TUI", "STN", "STY", "ATUI", "CVF")
MRRANK = ("RANK", "SAB", "TTY", "SUPPRESS")
MRSAB = (
    "VCUI", "RCUI", "VSAB", "RSAB", "SON", "SF", "SVER", "VSTART", "VEND", "IMETA", "RMETA", "SLC", "SCC", "SRL", "TFR", "CFR", "CXTY",
    "TTYL", "ATNL", "LAT", "CENC", "CURVER", "SABIN", "SSN", "SCIT",
)
MRCUI = ("CUI1", "VER", "REL", "RELA", "MAPREASON", "CUI2", "MAPIN")
# fmt: on
_FILES = {
    "mrsty": "MRSTY.RRF",
    "mrrel": "MRREL.RRF",
    "mrrank": "MRRANK.RRF",
    "mrsab": "MRSAB.RRF",
    "mrcui": "MRCUI.RRF",
    "mrdef": "MRDEF.RRF",
}
_CONCEPT, _TRADE_NAME = "concept_id", "trade_name_id"


@dataclass(frozen=True, slots=True)
class UmlsFiles:
    """The paths of a release's files; None for a file that does not exist."""

    mrconso: Path
    mrsty: Path | None = None
    mrrel: Path | None = None
    mrrank: Path | None = None
    mrsab: Path | None = None
    mrcui: Path | None = None
    mrdef: Path | None = None

    @classmethod
    def find(cls, path: Path, **given: Path | None) -> "UmlsFiles":
        """Find the files of a release.

        Args:
            path: The META folder, or the MRCONSO file in it.
            given: Paths of single files that are elsewhere, by field name.

        Raises:
            DataError: There is no MRCONSO.
        """
        folder = path if path.is_dir() else path.parent
        mrconso = find_file(path, "MRCONSO.RRF") if path.is_dir() else path
        if mrconso is None:
            raise DataError(
                f"{path}: expected MRCONSO.RRF or MRCONSO.RRF.gz in this folder, found neither. Is it the META folder of a release?"
            )
        found = cls(mrconso, *(find_file(folder, name) for name in _FILES.values()))
        return replace(found, **{name: path for name, path in given.items() if path})

    def need(self, name: str, purpose: str) -> Path:
        """A file that is required for a purpose. Raises DataError if it does not exist."""
        path: Path | None = getattr(self, name)
        if path is None:
            verb = "needs" if purpose.startswith(("a ", "the ")) else "need"
            raise DataError(
                f"{self.mrconso}: {purpose} {verb} {_FILES[name]}, found none in its folder; give its path, or leave that option out"
            )
        return path

    def existing(self) -> list[Path]:
        """The files that exist."""
        return [path for field in fields(self) if (path := getattr(self, field.name))]


def read_ranks(mrrank: Path, rejects: Rejects | None = None) -> pa.Table:
    """MRRANK as a table of key (SAB|TTY|SUPPRESS) and rank (int32; the highest is the best)."""
    none = pa.schema([(column, pa.string()) for column in MRRANK]).empty_table()
    table = pa.concat_tables([none, *read_rrf(mrrank, MRRANK, rejects=rejects)])
    try:
        rank = table["RANK"].cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise DataError(f"{mrrank}: expected whole numbers in RANK; {error}") from None
    key = pc.binary_join_element_wise(table["SAB"], table["TTY"], table["SUPPRESS"], "|")
    return pa.table({"key": key, "rank": rank})


class TradeNames:
    """Names that concepts get from their trade names. pairs: columns concept_id and trade_name_id, both concept identifiers."""

    def __init__(self, pairs: pa.Table) -> None:
        self._pairs = pairs.group_by([_CONCEPT, _TRADE_NAME]).aggregate([])
        self._trade_ids = pc.unique(self._pairs[_TRADE_NAME])
        self._concept_ids = pc.unique(self._pairs[_CONCEPT])
        self._trade_names = [NAMES_SCHEMA.empty_table()]
        self._named_concepts = [pa.chunked_array([], pa.string())]

    @classmethod
    def read(cls, mrrel: Path, rejects: Rejects | None = None) -> "TradeNames":
        """The relations of MRREL that no source suppresses. Raises DataError with file and line."""
        parts = [pa.table({_CONCEPT: pa.array([], pa.string()), _TRADE_NAME: pa.array([], pa.string())})]
        rows = read_rrf(mrrel, MRREL, ("CUI1", "CUI2", "RELA", "SUPPRESS"), rejects=rejects, only=b"tradename")
        for block in rows:
            block = block.filter(pc.equal(block["SUPPRESS"], "N"))
            for relation, concept, trade in (("tradename_of", "CUI1", "CUI2"), ("has_tradename", "CUI2", "CUI1")):
                found = block.filter(pc.equal(block["RELA"], relation))
                parts.append(pa.table({_CONCEPT: found[concept], _TRADE_NAME: found[trade]}))
        pairs = pa.concat_tables(parts)
        return cls(pairs.filter(pc.not_equal(pairs[_CONCEPT], pairs[_TRADE_NAME])))

    @property
    def relations(self) -> int:
        """The number of pairs."""
        return int(self._pairs.num_rows)

    def collect(self, names: pa.Table) -> None:
        """Remember, of the names that are kept, those of trade names, and which concepts with trade names have a name of their own."""
        self._trade_names.append(names.select(NAMES_SCHEMA.names).filter(pc.is_in(names[_CONCEPT], self._trade_ids)))
        ids = pc.unique(names[_CONCEPT])
        self._named_concepts.append(pa.chunked_array([ids.filter(pc.is_in(ids, self._concept_ids))]))

    def names(self) -> pa.Table:
        """The names of each trade name under each concept that has it and a name of its own, as NAMES_SCHEMA."""
        named = pc.unique(
            pa.chunked_array([chunk for part in self._named_concepts for chunk in part.chunks], pa.string())
        )
        pairs = self._pairs.filter(pc.is_in(self._pairs[_CONCEPT], named))
        trade_names = pa.concat_tables(self._trade_names).rename_columns([_TRADE_NAME, *NAMES_SCHEMA.names[1:]])
        names = trade_names.join(pairs, keys=_TRADE_NAME, join_type="inner").select(NAMES_SCHEMA.names)
        at = NAMES_SCHEMA.get_field_index("kind")
        return names.set_column(at, "kind", pa.repeat(pa.scalar("tradename"), names.num_rows)).cast(NAMES_SCHEMA)


_WANTED = ("CUI", "LAT", "TS", "STT", "ISPREF", "SAB", "TTY", "CODE", "STR", "SUPPRESS")
_ABBREVIATIONS = ("AA", "AB", "ACR", "MTH_ACR", "OA", "OAM", "QAB", "RAB", "VAB")  # term types
_NO_CODE = ("", "NOCODE")
_MRCUI_RELATIONS = {
    "SY": "same",
    "RB": "broader",
    "RN": "narrower",
    "RO": "related",
    "DEL": "deleted",
    "SUBX": "deleted",
}


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Which rows of MRCONSO are taken; None takes all.

    Args:
        languages: ISO codes.
        sources: Source abbreviations (SAB), such as SNOMEDCT_US.
        term_types: Term types (TTY), such as PT.
        semantic_types: Identifiers (`T047`), names (`Disease or Syndrome`) or groups (`DISO`, `Disorders`) of semantic types.
        suppress: Values of SUPPRESS; N is what neither the source nor the UMLS suppresses.
    """

    languages: Collection[str] | None = None
    sources: Collection[str] | None = None
    term_types: Collection[str] | None = None
    semantic_types: Collection[str] | None = None
    suppress: Collection[str] | None = ("N",)

    def metadata(self) -> dict[str, list[str] | None]:
        """The selection for a manifest."""
        return {field: None if (v := getattr(self, field)) is None else sorted(v) for field in self.__slots__}


def read_umls(
    files: UmlsFiles,
    assembly: Assembly,
    selection: RowSelection | None = None,
    *,
    tradenames: bool = False,
    hierarchy: bool = False,
    rejects: Rejects | None = None,
) -> tuple[RowCounts, dict[str, Any]]:
    """Add a release's names, definitions, semantic types and retired identifiers to a terminology.

    Args:
        files: The release.
        assembly: Takes the rows.
        selection: Which rows of MRCONSO are taken; by default those that nobody suppresses.
        tradenames: Give each concept the names of the concepts that MRREL calls its trade names.
        hierarchy: Add the broader concepts of each concept that MRREL has.
        rejects: Collects malformed lines, which otherwise are an error.

    Returns:
        What happened to each row of MRCONSO (and to each name added for a trade name), and the manifest's metadata.

    Raises:
        DataError: With file and line; also if a selected value does not occur.
    """
    selection = selection or RowSelection()
    with ThreadPoolExecutor(1) as worker:  # hashing takes a third of the time that reading takes, and runs in parallel
        used = [file for file in files.existing() if tradenames or hierarchy or file != files.mrrel]
        hashes = worker.submit(lambda: {file.name: sha256_of(file) for file in used})
        counts, metadata = _read_names(files, assembly, selection, tradenames, rejects)
        _read_retired(files, assembly, rejects)
        spoken = {source: release["language"] for source, release in metadata["releases"].items()}
        chosen: dict[str, Any] = {"sources": selection.sources, "suppress": selection.suppress, "rejects": rejects}
        if files.mrdef:
            read_definitions(files.mrdef, assembly, spoken, languages=selection.languages, **chosen)
        if hierarchy:
            read_parents(files.need("mrrel", "the hierarchy"), assembly, **chosen)
        return counts, {"reader": "umls", "files": hashes.result(), **selection.metadata(), **metadata}


def _read_names(
    files: UmlsFiles, assembly: Assembly, selection: RowSelection, tradenames: bool, rejects: Rejects | None
) -> tuple[RowCounts, dict[str, Any]]:
    concepts = _read_types(files, assembly, selection, rejects)
    trade_names = TradeNames.read(files.need("mrrel", "trade names"), rejects) if tradenames else None
    ranks = read_ranks(files.mrrank, rejects) if files.mrrank else None
    rows_in, kept, dropped = 0, 0, Counter[str]()
    occurring: dict[str, set[str]] = {"LAT": set(), "SAB": set(), "TTY": set()}
    kept_sources = set[str]()
    blocks = read_rrf(files.mrconso, MRCONSO, _WANTED, rejects=rejects)
    for block, (selected, reasons, names) in prefetch_map(
        lambda block: _select_rows(block, selection, concepts, ranks, files.mrconso), blocks
    ):
        rows_in += block.num_rows
        dropped += reasons
        for column, values in occurring.items():
            values.update(pc.unique(block[column]).to_pylist())
        kept_sources.update(pc.unique(selected["SAB"]).to_pylist())
        assembly.add_names(names)
        kept += names.num_rows
        if trade_names is not None:
            trade_names.collect(names)
    _check_selection(selection, occurring, files.mrconso)
    metadata: dict[str, Any] = {"releases": _releases(files, kept_sources, rejects)}
    counts = RowCounts(rows_in, kept, dropped) + rejected_rows(rejects, [files.mrconso])
    if trade_names is not None:
        added = trade_names.names()
        assembly.add_names(added)
        counts += RowCounts(added.num_rows, added.num_rows)
        metadata["tradenames"] = {"relations": trade_names.relations, "names": added.num_rows}
    return counts, metadata


def _select_rows(
    block: pa.Table, selection: RowSelection, concepts: pa.Array | None, ranks: pa.Table | None, path: Path
) -> tuple[pa.Table, Counter[str], pa.Table]:
    """The rows of a block that are selected, the number of others by the first reason, and the selected rows as names.

    concepts: the identifiers with a selected semantic type; None for all. ranks: of `read_ranks`.
    """
    dropped = Counter[str]()
    languages = None if selection.languages is None else [to_umls(code) for code in selection.languages]
    conditions = (
        ("language not chosen", "LAT", languages),
        ("source not chosen", "SAB", selection.sources),
        ("term type not chosen", "TTY", selection.term_types),
        ("suppressed", "SUPPRESS", selection.suppress),
        ("semantic type not chosen", "CUI", concepts),
    )
    for reason, column, allowed in conditions:
        if allowed is not None:
            values = allowed if isinstance(allowed, pa.Array) else pa.array(sorted(allowed), pa.string())
            fits = block.filter(pc.is_in(block[column], values))
            dropped[reason] += block.num_rows - fits.num_rows
            block = fits
    names = _names(block, path)
    return block, dropped, names if ranks is None else _with_precedence(names, block, ranks)


def _names(block: pa.Table, path: Path) -> pa.Table:
    """Rows of MRCONSO as NAMES_SCHEMA."""
    preferred = pc.and_(
        pc.equal(block["TS"], "P"), pc.and_(pc.equal(block["STT"], "PF"), pc.equal(block["ISPREF"], "Y"))
    )
    abbreviation = pc.is_in(block["TTY"], pa.array(_ABBREVIATIONS))
    code = pc.if_else(pc.is_in(block["CODE"], pa.array(_NO_CODE)), pa.scalar(None, pa.string()), block["CODE"])
    columns = {
        "concept_id": block["CUI"],
        "language": _iso_languages(block["LAT"], path),
        "name": normalize_column(block["STR"], TextPolicy()),
        "kind": pc.if_else(preferred, "preferred", pc.if_else(abbreviation, "abbreviation", "synonym")),
        "source": block["SAB"],
        "code": code,
        "status": pa.nulls(block.num_rows, pa.string()),
    }
    return pa.table(columns).cast(NAMES_SCHEMA)


def _with_precedence(names: pa.Table, block: pa.Table, ranks: pa.Table) -> pa.Table:
    """Names with their precedence: the rank of their source, term type and suppression; 0 for what MRRANK does not list."""
    key = pc.binary_join_element_wise(block["SAB"], block["TTY"], block["SUPPRESS"], "|")
    found = pc.index_in(key, ranks["key"].combine_chunks())
    return names.append_column(PRECEDENCE, pc.fill_null(ranks["rank"].combine_chunks().take(found), 0))


def _iso_languages(codes: pa.ChunkedArray, path: Path) -> pa.Array:
    """UMLS language codes as ISO codes."""
    encoded = codes.combine_chunks().dictionary_encode()
    try:
        return pa.array([to_iso(code) for code in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)
    except DataError as error:
        raise DataError(f"{path}: {error}; choose --languages without it") from None


def _check_selection(selection: RowSelection, occurring: dict[str, set[str]], path: Path) -> None:
    """Raise DataError for a selected value that does not occur in MRCONSO."""
    missing = [code for code in sorted(selection.languages or ()) if to_umls(code) not in occurring["LAT"]]
    if missing:
        raise DataError(
            f"{path} has no names in {to_name(missing[0])} ({to_umls(missing[0])}); it has {listed(occurring['LAT'], 40)}"
        )
    check_choice(selection.sources or (), occurring["SAB"], "source", path)
    check_choice(selection.term_types or (), occurring["TTY"], "term type", path)


def _read_types(
    files: UmlsFiles, assembly: Assembly, selection: RowSelection, rejects: Rejects | None
) -> pa.Array | None:
    """Add the semantic types to the terminology, and return the concepts that have a selected one; None if all are selected."""
    if selection.semantic_types is not None:
        files.need("mrsty", "a choice of semantic types")
    if files.mrsty is None:
        return None
    chosen, known, fitting = _expand_groups(selection.semantic_types), set[str](), [pa.array([], pa.string())]
    for block in read_rrf(files.mrsty, MRSTY, ("CUI", "TUI", "STY"), rejects=rejects):
        one = pa.ListArray.from_arrays(pa.array(range(block.num_rows + 1), pa.int32()), block["TUI"].combine_chunks())
        assembly.add_concepts(pa.table({"concept_id": block["CUI"], "semantic_types": one}))
        if chosen is not None:
            known |= {value for column in ("TUI", "STY") for value in pc.unique(block[column]).to_pylist()}
            wanted = pa.array(sorted(chosen), pa.string())
            fits = pc.or_(pc.is_in(block["TUI"], wanted), pc.is_in(block["STY"], wanted))
            fitting.append(block["CUI"].filter(fits).combine_chunks())
    if chosen is None:
        return None
    if not chosen & known:
        check_choice(selection.semantic_types or (), known, "semantic type", files.mrsty)
    check_choice(
        [value for value in selection.semantic_types or () if not _is_group(value)], known, "semantic type", files.mrsty
    )
    return pc.unique(pa.concat_arrays(fitting))


def _expand_groups(chosen: Collection[str] | None) -> set[str] | None:
    """Selected values with each group replaced by its types."""
    return (
        None
        if chosen is None
        else {tui for value in chosen for tui in (types_of(value) if _is_group(value) else {value})}
    )


def _is_group(value: str) -> bool:
    try:
        return bool(types_of(value))
    except DataError:
        return False


def _read_retired(files: UmlsFiles, assembly: Assembly, rejects: Rejects | None) -> None:
    """Add the identifiers that are no longer in use, with their successors."""
    for block in _read_if_given(files.mrcui, MRCUI, ("CUI1", "REL", "CUI2"), rejects):
        relations = [_MRCUI_RELATIONS.get(rel, "related") for rel in block["REL"].to_pylist()]
        successors = pc.if_else(pc.equal(block["CUI2"], ""), pa.scalar(None, pa.string()), block["CUI2"])
        assembly.add_retired(
            pa.table([block["CUI1"], successors, pa.array(relations, pa.string())], names=RETIRED_SCHEMA.names)
        )


def _releases(files: UmlsFiles, sources: set[str], rejects: Rejects | None) -> dict[str, dict[str, str]]:
    """For each source with names in the terminology, its release and its language according to MRSAB."""
    return {
        row["RSAB"]: {"release": row["VSAB"], "language": row["LAT"]}
        for block in _read_if_given(files.mrsab, MRSAB, ("RSAB", "VSAB", "LAT", "CURVER"), rejects)
        for row in block.to_pylist()
        if row["CURVER"] == "Y" and row["RSAB"] in sources
    }


def _read_if_given(
    file: Path | None, columns: tuple[str, ...], wanted: tuple[str, ...], rejects: Rejects | None
) -> Iterator[pa.Table]:
    return read_rrf(file, columns, wanted, rejects=rejects) if file else iter(())
