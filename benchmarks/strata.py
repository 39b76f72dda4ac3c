"""Parts of a task's mentions within which scores are told, for a mean hides which of them a system can link.

A function each for what training has seen, for length, script and semantic group: mentions in, a label for each out, in their order.
Strings are compared and measured as EXACT_MATCH normalises them, so a part is the same for every system. "Seen" means by the names
given as the training terminology, whether or not a run drew them.
"""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xsap.errors import DataError
from xsap.terms.semantic_types import GROUPS, group_of
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, NO_SCRIPT, OTHER_SCRIPT, normalise_all, normalise_column, script_of

SEEN = ("string seen", "concept seen", "neither")
LENGTHS = ("0", "1-5", "6-10", "11-20", "21-40", "41+")
_LONGEST = (0, 5, 10, 20, 40)  # of each length but the last
SEVERAL, NO_GROUP = "several", "unknown"
GROUPS_COLUMN = "groups"  # list<string>: the semantic groups that a corpus itself gives its mentions
_FIRST = (*SEEN, *LENGTHS)
_LAST = (OTHER_SCRIPT, NO_SCRIPT, SEVERAL, NO_GROUP)


def by_seen(mentions: pa.Table, training: Terminology) -> list[str]:
    """SEEN: the string is a name of any concept in any language; else, one of its gold ids is a concept; else neither.

    mentions, here and below: terms.mentions' SCHEMA.
    """
    strings = normalise_all(mentions["mention"].to_pylist(), EXACT_MATCH)
    asked = pa.array(sorted(set(strings)), pa.string())
    names: set[str] = set()
    for chunk in training.names["name"].chunks:  # millions of names, of which few are asked for
        normalised = normalise_column(chunk, EXACT_MATCH)
        names.update(pc.unique(normalised.filter(pc.is_in(normalised, asked))).to_pylist())
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    living = training.concepts["concept_id"]
    concepts = frozenset(living.filter(pc.is_in(living, pa.array(sorted(set().union(*gold)), pa.string()))).to_pylist())
    string_seen, concept_seen, neither = SEEN
    return [
        string_seen if string in names else neither if concepts.isdisjoint(ids) else concept_seen
        for string, ids in zip(strings, gold, strict=True)
    ]


def by_length(mentions: pa.Table) -> list[str]:
    """LENGTHS, in characters; 0 where normalisation leaves nothing."""
    lengths = map(len, normalise_all(mentions["mention"].to_pylist(), EXACT_MATCH))
    return [LENGTHS[sum(length > longest for longest in _LONGEST)] for length in lengths]


def by_script(mentions: pa.Table) -> list[str]:
    """What `script_of` says of each mention."""
    return [script_of(mention) for mention in mentions["mention"].to_pylist()]


def by_group(mentions: pa.Table, types: Mapping[str, Sequence[str]]) -> list[str]:
    """The semantic group's abbreviation, SEVERAL if there is more than one, NO_GROUP if there is none.

    Groups are those of the mentions' GROUPS_COLUMN if they have it, or else those of all their gold concepts' types. types: concept →
    its semantic types (TUI); a concept or type that is unknown has no group. Raises DataError for a given group that the UMLS hasn't.
    """
    if GROUPS_COLUMN in mentions.column_names:
        groups = [set(given or ()) for given in mentions[GROUPS_COLUMN].to_pylist()]
        if strange := sorted(set().union(*groups) - GROUPS.keys()):
            raise DataError(
                f"the mentions' column '{GROUPS_COLUMN}' must hold semantic groups out of {', '.join(GROUPS)}; found '{strange[0]}'"
            )
    else:
        groups = [
            {group for concept in ids for tui in types.get(concept, ()) if (group := group_of(tui))}
            for ids in mentions["concept_ids"].to_pylist()
        ]
    return [SEVERAL if len(found) > 1 else next(iter(found), NO_GROUP) for found in groups]


def in_order(labels: Iterable[str]) -> list[str]:
    """The different labels as a report lists them: seen and lengths from least to most, names by the alphabet, what is no name last."""

    def place(label: str) -> tuple[int, int, str]:
        if label in _FIRST:
            return 0, _FIRST.index(label), label
        return (2, _LAST.index(label), label) if label in _LAST else (1, 0, label)

    return sorted(set(labels), key=place)
