"""What corpora say of a mention beside its text: identifiers joined in one cell, "none of them", its class; and the table of such mentions.

PubTator files, BioSyn's `.concept` files and BigBIO share these habits. `|` joins the concepts of a composite mention, `+` those that one
concept is put together from (Doğan et al., NCBI disease corpus, J Biomed Inform 2014), `,` and `;` do the like in NLM-Chem, BioRED and
PubTator's own output. No reader can use the difference, so all of them are the mention's gold.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from benchmarks.strata import GROUPS_COLUMN
from xsap.terms.mentions import build_mentions
from xsap.terms.semantic_types import GROUPS, group_of
from xsap.text import EXACT_MATCH, normalise

# CUIs and MeSH identifiers can be told from all others, and half of the corpora write them bare; a bare OMIM number would be any number.
_PREFIX = re.compile(r"(?:UMLS|MESH):\s*", re.IGNORECASE)
_NONE = {"", "-", "-1", "cui-less", "cui_less", "cuiless", "concept_less", "concept-less", "no_map", "nomap", "null", "nil", "none", "nan"}

_CLASSES = {
    "DISO": "Disease DiseaseOrPhenotypicFeature SpecificDisease DiseaseClass CompositeMention Modifier ENFERMEDAD",
    "CHEM": "Chemical ChemicalEntity",
    "LIVB": "Species OrganismTaxon",
}  # of PubTator, BioRED, the NCBI disease corpus and DisTEMIST. A gene stands for its products too, which are CHEM, so its group is unknown
_GROUP_OF_CLASS = {name: group for group, names in _CLASSES.items() for name in names.split()}

# MedMentions ST21pv gives a concept's ancestor among 21 types. Below these four of them lie types of several groups (T038, Biologic
# Function, holds diseases and physiology), so they don't tell the concept's own.
_SPREAD = frozenset({"T017", "T033", "T038", "T082"})


class Row(NamedTuple):
    """A mention as a loader finds it. groups: abbreviations as in terms.semantic_types; empty where unknown."""

    mention: str
    language: str
    concept_ids: list[str]
    context: str | None = None
    start: int | None = None
    end: int | None = None
    document_id: str | None = None
    groups: Sequence[str] = ()


def to_table(rows: Sequence[Row], *, with_groups: bool) -> pa.Table:
    """terms.mentions' SCHEMA, in the rows' order, and after it the groups where the corpus gives classes."""
    columns = {name: [row[at] for row in rows] for at, name in enumerate(Row._fields)}
    groups = columns.pop("groups")
    table = build_mentions(columns.pop("mention"), columns.pop("language"), columns.pop("concept_ids"), **columns)  # type: ignore[arg-type]
    return table.append_column(GROUPS_COLUMN, pa.array(groups, pa.list_(pa.string()))) if with_groups else table


def ids_in(cell: str) -> list[str]:
    """The identifiers of a cell, each once, in its order, without `UMLS:` and `MESH:`; none for -1, CUI-less and their like.

    A `+` that joins nothing, as in ICD-10's `A39.2+`, stays.
    """
    found: list[str] = []
    for joined in re.split(r"[|,;]", cell):
        parts = [part.strip() for part in joined.split("+")]
        found += parts if all(parts) else [joined.strip()]
    bare = [_PREFIX.sub("", one, count=1) if _PREFIX.match(one) else one for one in found]
    return list(dict.fromkeys(one for one in bare if normalise(one, EXACT_MATCH) not in _NONE))


def groups_of(classes: Iterable[str], *, ancestors: bool = False) -> list[str]:
    """The semantic groups of a mention's classes, each once, in their order; a class that is not known here adds none.

    classes: TUIs, abbreviations of groups, or classes as corpora name them. ancestors: the TUIs are those of MedMentions ST21pv.
    """
    names = [name for name in map(str.strip, classes) if not (ancestors and name in _SPREAD)]
    groups = [name if name in GROUPS else group_of(name) or _GROUP_OF_CLASS.get(name) for name in names]
    return list(dict.fromkeys(group for group in groups if group))


def gives_ancestors(cell: str) -> bool:
    """Whether a cell of identifiers is one of MedMentions ST21pv's, which alone writes `UMLS:` before a CUI."""
    return cell.strip().startswith("UMLS:")
