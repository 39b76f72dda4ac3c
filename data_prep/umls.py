"""The UMLS Metathesaurus → a terminology: names from MRCONSO, semantic types from MRSTY, and what MRREL, MRRANK, MRSAB and MRCUI add.

One row of MRCONSO is one name of a concept, in one language, from one source. Rows are judged a block at a time and handed over, so
nothing accumulates but what a trade name may still be lent to. Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/ chapter 3.
Term types: https://www.nlm.nih.gov/research/umls/knowledge_sources/metathesaurus/release/abbreviations.html
"""

from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.assemble import Assembly
from data_prep.background import mapped
from data_prep.choice import check_choice, listed
from data_prep.rejects import Rejects
from data_prep.rrf import read_rrf
from data_prep.tally import Tally
from data_prep.tradenames import Tradenames
from data_prep.umls_files import MRCONSO, MRCUI, MRSAB, MRSTY, UmlsFiles, ranks
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.languages import to_iso, to_name, to_umls
from xsap.terms.semantic_types import types_of
from xsap.terms.terminology import NAMES_SCHEMA, PRECEDENCE, RETIRED_SCHEMA
from xsap.text import TextPolicy, normalise_column

_WANTED = ("CUI", "LAT", "TS", "STT", "ISPREF", "SAB", "TTY", "CODE", "STR", "SUPPRESS")
_ABBREVIATIONS = ("AA", "AB", "ACR", "MTH_ACR", "OA", "OAM", "QAB", "RAB", "VAB")  # the term types that are abbreviations or acronyms
_NO_CODE = ("", "NOCODE")
_RELATIONS = {"SY": "same", "RB": "broader", "RN": "narrower", "RO": "related", "DEL": "deleted", "SUBX": "deleted"}  # of MRCUI


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of MRCONSO are taken; None leaves a thing open.

    languages: ISO codes. sources: SAB. term_types: TTY. semantic_types: TUI (`T047`), name (`Disease or Syndrome`), or group (`DISO`,
    `Disorders`). suppress: values of SUPPRESS, of which N is what neither its source nor the UMLS suppresses.
    """

    languages: Collection[str] | None = None
    sources: Collection[str] | None = None
    term_types: Collection[str] | None = None
    semantic_types: Collection[str] | None = None
    suppress: Collection[str] | None = ("N",)

    def facts(self) -> dict[str, list[str] | None]:
        """As JSON keeps it."""
        return {field: None if (v := getattr(self, field)) is None else sorted(v) for field in self.__slots__}


def read_umls(
    files: UmlsFiles, into: Assembly, choice: Choice | None = None, *, tradenames: bool = False, rejects: Rejects | None = None
) -> tuple[Tally, dict[str, Any]]:
    """Hand a release's names over → what became of each row of MRCONSO (and of each name lent), and the facts to remember.

    tradenames: a concept also gets, as its own, the names of the concepts that MRREL calls its trade names. rejects: takes lines that are
    no records. Raises DataError with file and line, or if a value chosen does not occur.
    """
    choice = choice or Choice()
    with ThreadPoolExecutor(1) as worker:  # hashing takes as long as a third of the reading, and runs beside it
        used = [file for file in files.present() if tradenames or file != files.mrrel]
        hashes = worker.submit(lambda: {file.name: sha256_of(file) for file in used})
        tally, facts = _read_names(files, into, choice, tradenames, rejects)
        _read_retired(files, into, rejects)
        return tally, {"reader": "umls", "files": hashes.result(), **choice.facts(), **facts}


def _read_names(
    files: UmlsFiles, into: Assembly, choice: Choice, tradenames: bool, rejects: Rejects | None
) -> tuple[Tally, dict[str, Any]]:
    fitting = _read_types(files, into, choice, rejects)
    lent = Tradenames.read(files.need("mrrel", "trade names"), rejects) if tradenames else None
    precedence = ranks(files.mrrank, rejects) if files.mrrank else None
    rows_in, kept, dropped = 0, 0, Counter[str]()
    seen: dict[str, set[str]] = {"LAT": set(), "SAB": set(), "TTY": set()}
    kept_sources = set[str]()
    blocks = read_rrf(files.mrconso, MRCONSO, _WANTED, rejects=rejects)
    for block, (chosen, reasons, names) in mapped(lambda block: _judge(block, choice, fitting, precedence, files.mrconso), blocks):
        rows_in += block.num_rows
        dropped += reasons
        for column, values in seen.items():
            values.update(pc.unique(block[column]).to_pylist())
        kept_sources.update(pc.unique(chosen["SAB"]).to_pylist())
        into.add_names(names)
        kept += names.num_rows
        if lent is not None:
            lent.see(names)
    _check(choice, seen, files.mrconso)
    facts: dict[str, Any] = {"releases": _releases(files, kept_sources, rejects)}
    rejected = len([row for row in rejects.rows if row[0] == files.mrconso.name]) if rejects else 0
    dropped += Counter({"no record: see the file of rejects": rejected})
    tally = Tally(rows_in + rejected, kept, dropped)
    if lent is not None:
        more = lent.names()
        into.add_names(more)
        tally = Tally(tally.rows_in + more.num_rows, kept + more.num_rows, dropped)
        facts["tradenames"] = {"relations": lent.relations, "names": more.num_rows}
    return tally, facts


def _judge(
    block: pa.Table, choice: Choice, concepts: pa.Array | None, ranked: pa.Table | None, path: Path
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
    preferred = pc.and_(pc.equal(block["TS"], "P"), pc.and_(pc.equal(block["STT"], "PF"), pc.equal(block["ISPREF"], "Y")))
    abbreviation = pc.is_in(block["TTY"], pa.array(_ABBREVIATIONS))
    code = pc.if_else(pc.is_in(block["CODE"], pa.array(_NO_CODE)), pa.scalar(None, pa.string()), block["CODE"])
    columns = {
        "concept_id": block["CUI"],
        "language": _translated(block["LAT"], path),
        "name": normalise_column(block["STR"], TextPolicy()),
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


def _check(choice: Choice, seen: dict[str, set[str]], path: Path) -> None:
    missing = [code for code in sorted(choice.languages or ()) if to_umls(code) not in seen["LAT"]]
    if missing:
        raise DataError(f"{path} has no names in {to_name(missing[0])} ({to_umls(missing[0])}); it has {listed(seen['LAT'], 40)}")
    check_choice(choice.sources or (), seen["SAB"], "source", path)
    check_choice(choice.term_types or (), seen["TTY"], "term type", path)


def _read_types(files: UmlsFiles, into: Assembly, choice: Choice, rejects: Rejects | None) -> pa.Array | None:
    """Hand semantic types over → the concepts that have one of those chosen, None if all fit."""
    if choice.semantic_types is not None:
        files.need("mrsty", "a choice of semantic types")
    if files.mrsty is None:
        return None
    chosen, known, fitting = _tuis(choice.semantic_types), set[str](), [pa.array([], pa.string())]
    for block in read_rrf(files.mrsty, MRSTY, ("CUI", "TUI", "STY"), rejects=rejects):
        one = pa.ListArray.from_arrays(pa.array(range(block.num_rows + 1), pa.int32()), block["TUI"].combine_chunks())
        into.add_concepts(pa.table({"concept_id": block["CUI"], "semantic_types": one}))
        if chosen is not None:
            known |= {value for column in ("TUI", "STY") for value in pc.unique(block[column]).to_pylist()}
            wanted = pa.array(sorted(chosen), pa.string())
            fits = pc.or_(pc.is_in(block["TUI"], wanted), pc.is_in(block["STY"], wanted))
            fitting.append(block["CUI"].filter(fits).combine_chunks())
    if chosen is None:
        return None
    if not chosen & known:
        check_choice(choice.semantic_types or (), known, "semantic type", files.mrsty)
    check_choice([value for value in choice.semantic_types or () if not _is_group(value)], known, "semantic type", files.mrsty)
    return pc.unique(pa.concat_arrays(fitting))


def _tuis(chosen: Collection[str] | None) -> set[str] | None:
    """A choice with each group replaced by its types."""
    return None if chosen is None else {tui for value in chosen for tui in (types_of(value) if _is_group(value) else {value})}


def _is_group(value: str) -> bool:
    try:
        return bool(types_of(value))
    except DataError:
        return False


def _read_retired(files: UmlsFiles, into: Assembly, rejects: Rejects | None) -> None:
    """Hand over what became of identifiers that are no longer in use."""
    for block in _blocks_of(files.mrcui, MRCUI, ("CUI1", "REL", "CUI2"), rejects):
        relations = [_RELATIONS.get(rel, "related") for rel in block["REL"].to_pylist()]
        heirs = pc.if_else(pc.equal(block["CUI2"], ""), pa.scalar(None, pa.string()), block["CUI2"])
        into.add_retired(pa.table([block["CUI1"], heirs, pa.array(relations, pa.string())], names=RETIRED_SCHEMA.names))


def _releases(files: UmlsFiles, sources: set[str], rejects: Rejects | None) -> dict[str, dict[str, str]]:
    """Source → the release of it whose names were taken, and the language that MRSAB says it is in."""
    return {
        row["RSAB"]: {"release": row["VSAB"], "language": row["LAT"]}
        for block in _blocks_of(files.mrsab, MRSAB, ("RSAB", "VSAB", "LAT", "CURVER"), rejects)
        for row in block.to_pylist()
        if row["CURVER"] == "Y" and row["RSAB"] in sources
    }


def _blocks_of(file: Path | None, columns: tuple[str, ...], wanted: tuple[str, ...], rejects: Rejects | None) -> Iterator[pa.Table]:
    return read_rrf(file, columns, wanted, rejects=rejects) if file else iter(())
