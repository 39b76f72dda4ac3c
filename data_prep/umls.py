"""The files of a UMLS release that are read: their columns, where they lie, and the order in which they rank names.

Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/ chapter 3, section 3.3.

Names that a concept is lent by its trade names: MRREL's `has_tradename` and `tradename_of`.

In MRREL the second concept of a row has the relation to the first: `CUI1 … CUI2 … tradename_of` says that CUI2 is a trade name of CUI1, and
`has_tradename` the reverse (https://www.ncbi.nlm.nih.gov/books/NBK9685/, section 3.3.9). Each relation stands there in both forms, often;
so pairs are taken once. The original code reads both forms as "the first gets the names of the second", and keeps only the last second
one of each first; here a concept gets the names of all its trade names, and a trade name those of nobody.

The UMLS Metathesaurus → a terminology: names from MRCONSO, semantic types from MRSTY, and what MRREL, MRRANK, MRSAB and MRCUI add.

One row of MRCONSO is one name of a concept, in one language, from one source. Rows are judged a block at a time and handed over, so
nothing accumulates but what a trade name may still be lent to. Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/ chapter 3.
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

from data_prep.accounting import Rejects, check_choice, listed
from data_prep.assemble import Assembly
from data_prep.delimited import find_file, read_rrf
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
MRREL = (
    "CUI1", "AUI1", "STYPE1", "REL", "CUI2", "AUI2", "STYPE2", "RELA", "RUI", "SRUI", "SAB", "SL", "RG", "DIR", "SUPPRESS", "CVF",
)
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
}


@dataclass(frozen=True, slots=True)
class UmlsFiles:
    """Where each file lies; None for one that there is not."""

    mrconso: Path
    mrsty: Path | None = None
    mrrel: Path | None = None
    mrrank: Path | None = None
    mrsab: Path | None = None
    mrcui: Path | None = None

    @classmethod
    def find(cls, place: Path, **given: Path | None) -> "UmlsFiles":
        """In a META folder, or beside the MRCONSO file that `place` is; `given` names single ones. Raises DataError without MRCONSO."""
        folder = place if place.is_dir() else place.parent
        mrconso = find_file(place, "MRCONSO.RRF") if place.is_dir() else place
        if mrconso is None:
            raise DataError(
                f"{place}: expected MRCONSO.RRF or MRCONSO.RRF.gz in this folder, found neither. Is it the META folder of a release?"
            )
        found = cls(mrconso, *(find_file(folder, name) for name in _FILES.values()))
        return replace(found, **{name: path for name, path in given.items() if path})

    def need(self, name: str, why: str) -> Path:
        """A file that `why` can't do without. Raises DataError."""
        path: Path | None = getattr(self, name)
        if path is None:
            verb = "needs" if why.startswith("a ") else "need"
            raise DataError(
                f"{self.mrconso}: {why} {verb} {_FILES[name]}, found none beside it; give its path, or leave that out"
            )
        return path

    def present(self) -> list[Path]:
        """The files that there are."""
        return [path for field in fields(self) if (path := getattr(self, field.name))]


def ranks(mrrank: Path, rejects: Rejects | None = None) -> pa.Table:
    """MRRANK as key (SAB|TTY|SUPPRESS) and rank (int32, the highest is best)."""
    none = pa.schema([(column, pa.string()) for column in MRRANK]).empty_table()
    table = pa.concat_tables([none, *read_rrf(mrrank, MRRANK, rejects=rejects)])
    try:
        rank = table["RANK"].cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise DataError(f"{mrrank}: expected whole numbers in RANK; {error}") from None
    return pa.table(
        {"key": pc.binary_join_element_wise(table["SAB"], table["TTY"], table["SUPPRESS"], "|"), "rank": rank}
    )


_TRADE, _CONCEPT = "trade", "concept_id"


class Tradenames:
    """pairs: (concept_id, trade), each once: the concept, and the one that is a trade name of it."""

    def __init__(self, pairs: pa.Table) -> None:
        self._pairs = pairs.group_by([_CONCEPT, _TRADE]).aggregate([])
        self._trades = pc.unique(self._pairs[_TRADE])
        self._concepts = pc.unique(self._pairs[_CONCEPT])
        self._lendable = [NAMES_SCHEMA.empty_table()]
        self._borrowers = [pa.chunked_array([], pa.string())]

    @classmethod
    def read(cls, mrrel: Path, rejects: Rejects | None = None) -> "Tradenames":
        """The relations in MRREL that no source suppresses. Raises DataError with file and line."""
        parts = [pa.table({_CONCEPT: pa.array([], pa.string()), _TRADE: pa.array([], pa.string())})]
        rows = read_rrf(mrrel, MRREL, ("CUI1", "CUI2", "RELA", "SUPPRESS"), rejects=rejects, only=b"tradename")
        for block in rows:
            block = block.filter(pc.equal(block["SUPPRESS"], "N"))
            for relation, concept, trade in (("tradename_of", "CUI1", "CUI2"), ("has_tradename", "CUI2", "CUI1")):
                found = block.filter(pc.equal(block["RELA"], relation))
                parts.append(pa.table({_CONCEPT: found[concept], _TRADE: found[trade]}))
        pairs = pa.concat_tables(parts)
        return cls(pairs.filter(pc.not_equal(pairs[_CONCEPT], pairs[_TRADE])))

    @property
    def relations(self) -> int:
        """How many pairs there are."""
        rows: int = self._pairs.num_rows
        return rows

    def see(self, names: pa.Table) -> None:
        """Remember, of names that are kept, those that may be lent, and who is there to be lent some."""
        self._lendable.append(names.select(NAMES_SCHEMA.names).filter(pc.is_in(names[_CONCEPT], self._trades)))
        ids = pc.unique(names[_CONCEPT])
        self._borrowers.append(pa.chunked_array([ids.filter(pc.is_in(ids, self._concepts))]))

    def names(self) -> pa.Table:
        """The names lent, as NAMES_SCHEMA: those of each trade name, under each concept that has it and has a name of its own."""
        there = pc.unique(pa.chunked_array([chunk for part in self._borrowers for chunk in part.chunks], pa.string()))
        pairs = self._pairs.filter(pc.is_in(self._pairs[_CONCEPT], there))
        lendable = pa.concat_tables(self._lendable).rename_columns([_TRADE, *NAMES_SCHEMA.names[1:]])
        lent = lendable.join(pairs, keys=_TRADE, join_type="inner").select(NAMES_SCHEMA.names)
        at = NAMES_SCHEMA.get_field_index("kind")
        return lent.set_column(at, "kind", pa.repeat(pa.scalar("tradename"), lent.num_rows)).cast(NAMES_SCHEMA)


_WANTED = ("CUI", "LAT", "TS", "STT", "ISPREF", "SAB", "TTY", "CODE", "STR", "SUPPRESS")
_ABBREVIATIONS = (
    "AA",
    "AB",
    "ACR",
    "MTH_ACR",
    "OA",
    "OAM",
    "QAB",
    "RAB",
    "VAB",
)  # the term types that are abbreviations or acronyms
_NO_CODE = ("", "NOCODE")
_RELATIONS = {
    "SY": "same",
    "RB": "broader",
    "RN": "narrower",
    "RO": "related",
    "DEL": "deleted",
    "SUBX": "deleted",
}  # of MRCUI


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Which rows of MRCONSO are taken; None leaves a thing open.

    languages: ISO codes. sources: SAB. term_types: TTY. semantic_types: TUI (`T047`), name (`Disease or Syndrome`), or group (`DISO`,
    `Disorders`). suppress: values of SUPPRESS, of which N is what neither its source nor the UMLS suppresses.
    """

    languages: Collection[str] | None = None
    sources: Collection[str] | None = None
    term_types: Collection[str] | None = None
    semantic_types: Collection[str] | None = None
    suppress: Collection[str] | None = ("N",)

    def metadata(self) -> dict[str, list[str] | None]:
        """As JSON keeps it."""
        return {field: None if (v := getattr(self, field)) is None else sorted(v) for field in self.__slots__}


def read_umls(
    files: UmlsFiles,
    assembly: Assembly,
    choice: RowSelection | None = None,
    *,
    tradenames: bool = False,
    rejects: Rejects | None = None,
) -> tuple[RowCounts, dict[str, Any]]:
    """Hand a release's names over → what became of each row of MRCONSO (and of each name lent), and the facts to remember.

    tradenames: a concept also gets, as its own, the names of the concepts that MRREL calls its trade names. rejects: takes lines that are
    no records. Raises DataError with file and line, or if a value chosen does not occur.
    """
    choice = choice or RowSelection()
    with ThreadPoolExecutor(1) as worker:  # hashing takes as long as a third of the reading, and runs beside it
        used = [file for file in files.present() if tradenames or file != files.mrrel]
        hashes = worker.submit(lambda: {file.name: sha256_of(file) for file in used})
        counts, metadata = _read_names(files, assembly, choice, tradenames, rejects)
        _read_retired(files, assembly, rejects)
        return counts, {"reader": "umls", "files": hashes.result(), **choice.metadata(), **metadata}


def _read_names(
    files: UmlsFiles, assembly: Assembly, choice: RowSelection, tradenames: bool, rejects: Rejects | None
) -> tuple[RowCounts, dict[str, Any]]:
    fitting = _read_types(files, assembly, choice, rejects)
    lent = Tradenames.read(files.need("mrrel", "trade names"), rejects) if tradenames else None
    precedence = ranks(files.mrrank, rejects) if files.mrrank else None
    rows_in, kept, dropped = 0, 0, Counter[str]()
    seen: dict[str, set[str]] = {"LAT": set(), "SAB": set(), "TTY": set()}
    kept_sources = set[str]()
    blocks = read_rrf(files.mrconso, MRCONSO, _WANTED, rejects=rejects)
    for block, (chosen, reasons, names) in prefetch_map(
        lambda block: _judge(block, choice, fitting, precedence, files.mrconso), blocks
    ):
        rows_in += block.num_rows
        dropped += reasons
        for column, values in seen.items():
            values.update(pc.unique(block[column]).to_pylist())
        kept_sources.update(pc.unique(chosen["SAB"]).to_pylist())
        assembly.add_names(names)
        kept += names.num_rows
        if lent is not None:
            lent.see(names)
    _check(choice, seen, files.mrconso)
    metadata: dict[str, Any] = {"releases": _releases(files, kept_sources, rejects)}
    rejected = len([row for row in rejects.rows if row[0] == files.mrconso.name]) if rejects else 0
    dropped += Counter({"no record: see the file of rejects": rejected})
    counts = RowCounts(rows_in + rejected, kept, dropped)
    if lent is not None:
        more = lent.names()
        assembly.add_names(more)
        counts = RowCounts(counts.rows_in + more.num_rows, kept + more.num_rows, dropped)
        metadata["tradenames"] = {"relations": lent.relations, "names": more.num_rows}
    return counts, metadata


def _judge(
    block: pa.Table, choice: RowSelection, concepts: pa.Array | None, ranked: pa.Table | None, path: Path
) -> tuple[pa.Table, Counter[str], pa.Table]:
    """The rows of a block that fit every choice; the others counted under the first that they miss; and the former as names."""
    dropped = Counter[str]()
    languages = None if choice.languages is None else [to_umls(code) for code in choice.languages]
    choices = (
        ("language not chosen", "LAT", languages),
        ("source not chosen", "SAB", choice.sources),
        ("term type not chosen", "TTY", choice.term_types),
        ("suppressed", "SUPPRESS", choice.suppress),
        ("semantic type not chosen", "CUI", concepts),
    )
    for reason, column, allowed in choices:
        if allowed is not None:
            values = allowed if isinstance(allowed, pa.Array) else pa.array(sorted(allowed), pa.string())
            fits = block.filter(pc.is_in(block[column], values))
            dropped[reason] += block.num_rows - fits.num_rows
            block = fits
    names = _names(block, path)
    return block, dropped, names if ranked is None else _ranked(names, block, ranked)


def _names(block: pa.Table, path: Path) -> pa.Table:
    """MRCONSO's columns as NAMES_SCHEMA."""
    preferred = pc.and_(
        pc.equal(block["TS"], "P"), pc.and_(pc.equal(block["STT"], "PF"), pc.equal(block["ISPREF"], "Y"))
    )
    abbreviation = pc.is_in(block["TTY"], pa.array(_ABBREVIATIONS))
    code = pc.if_else(pc.is_in(block["CODE"], pa.array(_NO_CODE)), pa.scalar(None, pa.string()), block["CODE"])
    columns = {
        "concept_id": block["CUI"],
        "language": _translated(block["LAT"], path),
        "name": normalize_column(block["STR"], TextPolicy()),
        "kind": pc.if_else(preferred, "preferred", pc.if_else(abbreviation, "abbreviation", "synonym")),
        "source": block["SAB"],
        "code": code,
        "status": pa.nulls(block.num_rows, pa.string()),
    }
    return pa.table(columns).cast(NAMES_SCHEMA)


def _ranked(names: pa.Table, block: pa.Table, ranked: pa.Table) -> pa.Table:
    """Names with their precedence: the rank of their source, term type and suppression; 0 for what MRRANK does not know."""
    key = pc.binary_join_element_wise(block["SAB"], block["TTY"], block["SUPPRESS"], "|")
    found = pc.index_in(key, ranked["key"].combine_chunks())
    return names.append_column(PRECEDENCE, pc.fill_null(ranked["rank"].combine_chunks().take(found), 0))


def _translated(codes: pa.ChunkedArray, path: Path) -> pa.Array:
    """UMLS language codes as ISO codes."""
    encoded = codes.combine_chunks().dictionary_encode()
    try:
        return pa.array([to_iso(code) for code in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)
    except DataError as error:
        raise DataError(f"{path}: {error}; choose --languages without it") from None


def _check(choice: RowSelection, seen: dict[str, set[str]], path: Path) -> None:
    missing = [code for code in sorted(choice.languages or ()) if to_umls(code) not in seen["LAT"]]
    if missing:
        raise DataError(
            f"{path} has no names in {to_name(missing[0])} ({to_umls(missing[0])}); it has {listed(seen['LAT'], 40)}"
        )
    check_choice(choice.sources or (), seen["SAB"], "source", path)
    check_choice(choice.term_types or (), seen["TTY"], "term type", path)


def _read_types(files: UmlsFiles, assembly: Assembly, choice: RowSelection, rejects: Rejects | None) -> pa.Array | None:
    """Hand semantic types over → the concepts that have one of those chosen, None if all fit."""
    if choice.semantic_types is not None:
        files.need("mrsty", "a choice of semantic types")
    if files.mrsty is None:
        return None
    chosen, known, fitting = _tuis(choice.semantic_types), set[str](), [pa.array([], pa.string())]
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
        check_choice(choice.semantic_types or (), known, "semantic type", files.mrsty)
    check_choice(
        [value for value in choice.semantic_types or () if not _is_group(value)], known, "semantic type", files.mrsty
    )
    return pc.unique(pa.concat_arrays(fitting))


def _tuis(chosen: Collection[str] | None) -> set[str] | None:
    """A choice with each group replaced by its types."""
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
    """Hand over what became of identifiers that are no longer in use."""
    for block in _blocks_of(files.mrcui, MRCUI, ("CUI1", "REL", "CUI2"), rejects):
        relations = [_RELATIONS.get(rel, "related") for rel in block["REL"].to_pylist()]
        successors = pc.if_else(pc.equal(block["CUI2"], ""), pa.scalar(None, pa.string()), block["CUI2"])
        assembly.add_retired(
            pa.table([block["CUI1"], successors, pa.array(relations, pa.string())], names=RETIRED_SCHEMA.names)
        )


def _releases(files: UmlsFiles, sources: set[str], rejects: Rejects | None) -> dict[str, dict[str, str]]:
    """Source → the release of it whose names were taken, and the language that MRSAB says it is in."""
    return {
        row["RSAB"]: {"release": row["VSAB"], "language": row["LAT"]}
        for block in _blocks_of(files.mrsab, MRSAB, ("RSAB", "VSAB", "LAT", "CURVER"), rejects)
        for row in block.to_pylist()
        if row["CURVER"] == "Y" and row["RSAB"] in sources
    }


def _blocks_of(
    file: Path | None, columns: tuple[str, ...], wanted: tuple[str, ...], rejects: Rejects | None
) -> Iterator[pa.Table]:
    return read_rrf(file, columns, wanted, rejects=rejects) if file else iter(())
