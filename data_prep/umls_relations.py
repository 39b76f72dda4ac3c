"""Definitions (MRDEF) and hierarchies (MRREL) of the UMLS Metathesaurus.

A row of MRREL says what its second concept is to its first one (section 3.3.9: REL is the "relationship of second concept or atom to first
concept or atom"): PAR says that CUI2 is a parent of CUI1, and CHD that CUI2 is a child of CUI1. RELA says the same in the words of the source: an
`isa` beside CHD is that of CUI2 to CUI1, an `inverse_isa` beside PAR likewise. In ATC the row `… group C | CHD | beta blockers | isa …` puts beta
blockers below the group. PAR and CHD are the hierarchies of the sources; where they state RELA it may also be part_of, which is none of kinds, so
only isa, inverse_isa and no RELA are taken. RB and RN (broader, narrower) are mostly mappings and similar relations of meaning; they are taken only
where the source states isa. Most relations are listed in both directions, so most pairs are found twice and counted so.

MRDEF does not state a language: that of its source (MRSAB) counts, English if the source is not known.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import Rejects
from data_prep.assemble import Assembly
from data_prep.delimited import read_rrf
from data_prep.ontology_model import parse_language
from xsap.languages import ENGLISH
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA
from xsap.text import TextPolicy, normalize_column

# fmt: off
MRREL = (
    "CUI1", "AUI1", "STYPE1", "REL", "CUI2", "AUI2", "STYPE2", "RELA", "RUI", "SRUI", "SAB", "SL", "RG", "DIR", "SUPPRESS", "CVF",
)
MRDEF = ("CUI", "AUI", "ATUI", "SATUI", "SAB", "DEF", "SUPPRESS", "CVF")
# fmt: on
_OF_KINDS = ("", "isa", "inverse_isa")  # RELA of a hierarchy of kinds
_UP, _DOWN = ("PAR", "RB"), ("CHD", "RN")  # the second concept is above the first one, or below it
_BY_MEANING = ("RB", "RN")


def read_definitions(
    path: Path,
    assembly: Assembly,
    source_languages: Mapping[str, str],
    *,
    languages: Collection[str] | None,
    sources: Collection[str] | None,
    suppress: Collection[str] | None,
    rejects: Rejects | None = None,
) -> None:
    """Add the definitions of MRDEF.

    Args:
        path: MRDEF.
        assembly: Takes them, and the number of the others by reason.
        source_languages: Source → its language as MRSAB has it.
        languages: ISO codes that are taken; None for all.
        sources: Sources that are taken; None for all.
        suppress: Values of SUPPRESS that are taken; None for all.
        rejects: Collects malformed lines, which otherwise are an error.
    """
    for block in read_rrf(path, MRDEF, ("CUI", "SAB", "DEF", "SUPPRESS"), rejects=rejects):
        block, dropped = _select(block, sources, suppress)
        encoded = block["SAB"].combine_chunks().dictionary_encode()
        known = [parse_language(source_languages.get(sab, ENGLISH)) for sab in encoded.dictionary.to_pylist()]
        codes = pa.array([code for code, _ in known], pa.string()).take(encoded.indices)
        rows = pa.table(
            [block["CUI"], codes, normalize_column(block["DEF"], TextPolicy()), block["SAB"]], schema=DEFINITIONS_SCHEMA
        )
        if languages is not None:
            chosen = rows.filter(pc.is_in(rows["language"], pa.array(sorted(languages), pa.string())))
            dropped["language not chosen"] += rows.num_rows - chosen.num_rows
            rows = chosen
        assembly.add_definitions(rows, +dropped)


def read_parents(
    path: Path,
    assembly: Assembly,
    *,
    sources: Collection[str] | None,
    suppress: Collection[str] | None,
    rejects: Rejects | None = None,
) -> None:
    """Add the hierarchical relations of MRREL; those of other kinds are not counted.

    Args:
        path: MRREL.
        assembly: Takes them, and the number of the others by reason.
        sources: Sources that are taken; None for all.
        suppress: Values of SUPPRESS that are taken; None for all.
        rejects: Collects malformed lines, which otherwise are an error.
    """
    wanted = ("CUI1", "REL", "CUI2", "RELA", "SAB", "SUPPRESS")
    for block in read_rrf(path, MRREL, wanted, rejects=rejects):
        block = block.filter(pc.is_in(block["REL"], pa.array([*_UP, *_DOWN])))
        block, dropped = _select(block, sources, suppress)
        of_kinds = pc.and_(
            pc.is_in(block["RELA"], pa.array(_OF_KINDS)),
            pc.or_(pc.invert(pc.is_in(block["REL"], pa.array(_BY_MEANING))), pc.not_equal(block["RELA"], "")),
        )
        kept = block.filter(of_kinds)
        dropped["not a relation of kinds"] += block.num_rows - kept.num_rows
        up = pc.is_in(kept["REL"], pa.array(_UP))
        columns = [pc.if_else(up, kept[first], kept[second]) for first, second in (("CUI1", "CUI2"), ("CUI2", "CUI1"))]
        assembly.add_relations(pa.table(columns, schema=RELATIONS_SCHEMA), +dropped)


def _select(
    block: pa.Table, sources: Collection[str] | None, suppress: Collection[str] | None
) -> tuple[pa.Table, Counter[str]]:
    """The rows of chosen sources and suppression, and the number of others by the first reason."""
    dropped = Counter[str]()
    for reason, column, allowed in (("source not chosen", "SAB", sources), ("suppressed", "SUPPRESS", suppress)):
        if allowed is not None:
            fits = block.filter(pc.is_in(block[column], pa.array(sorted(allowed), pa.string())))
            dropped[reason] += block.num_rows - fits.num_rows
            block = fits
    return block, dropped
