"""Gold concepts of mentions: how many of them an index or another dictionary has.

A mention is one of three: it has a gold concept that can be an answer; its gold concepts are not in the dictionary, so that every answer is wrong;
or it has no concept at all (NIL), so that no answer is right. They are never mixed. Where no gold concept is in the dictionary, its ids are
most likely written in another way, and a score of zero would say nothing: that is an error, with an id of each kind.
"""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from xsap.errors import DataError
from xsap.text import TextPolicy, normalize_all

FEW = 0.5  # a smaller fraction of gold concepts that the dictionary has is warned of
_SHOWN_AT_MOST = 60  # characters of an id in a message
_IDS_COMPARED = 1000  # gold ids for which one that is written in another way is sought
_NO_ID_CHARACTER = re.compile(r"[^0-9a-z]+")
_SEGMENT = re.compile(r"[/#]")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GoldCounts:
    """Numbers of mentions by what their gold is.

    Attributes:
        in_dictionary: At least one gold concept is in the dictionary.
        not_in_dictionary: None of the gold concepts is.
        without_concept: There is no gold concept (NIL).
    """

    in_dictionary: int
    not_in_dictionary: int
    without_concept: int


def check_gold(gold: Sequence[Collection[str]], known: Collection[str], *, dictionary: str = "index") -> GoldCounts:
    """Count mentions by their gold, and warn where fewer than FEW of those with gold concepts have one in the dictionary.

    Args:
        gold: Gold ids of each mention; empty for one without a concept.
        known: Ids of the dictionary.
        dictionary: What to call the dictionary in messages.

    Raises:
        DataError: No mention has gold concepts, or none of them is in the dictionary.
    """
    given = [ids for ids in gold if ids]
    if not given:
        raise DataError(
            f"expected mentions with gold concepts (concept_ids), found none that has any among {len(gold):,}"
        )
    missing = [ids for ids in given if not any(one in known for one in ids)]
    counts = GoldCounts(len(given) - len(missing), len(missing), len(gold) - len(given))
    if len(missing) == len(given):
        raise DataError(
            f"expected mentions whose gold concepts are in the {dictionary}, found none among {len(given):,}: "
            f"{describe_ids(missing, known, dictionary)}"
        )
    if counts.in_dictionary < FEW * len(given):
        logger.warning(
            "only %s of %s mentions with gold concepts have one in the %s: %s",
            f"{counts.in_dictionary:,}",
            f"{len(given):,}",
            dictionary,
            describe_ids(missing, known, dictionary),
        )
    return counts


def describe_ids(missing: Sequence[Collection[str]], known: Collection[str], dictionary: str) -> str:
    """An id of the gold and one of the dictionary: the same one in two ways of writing, if there is such a pair.

    Args:
        missing: Gold ids of mentions that the dictionary has none of; at least one.
        known: Ids of the dictionary.
        dictionary: What to call it.
    """
    ids = [one for each in missing for one in sorted(each)][:_IDS_COMPARED]
    pair = _same_id(ids, known)
    if pair:
        return f"gold {_shown(pair[0])}, {dictionary} {_shown(pair[1])}; write the ids as the {dictionary} has them"
    other = min(known, default=None)
    found = "no concepts" if other is None else _shown(other)
    return f"gold {_shown(ids[0])}, {dictionary} {found}; are they ids of one terminology and release?"


def _same_id(ids: Iterable[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first of the ids that is among the known ones in another way of writing, and that one."""
    wanted: dict[str, str] = {}
    for one, keys in _with_keys(ids):
        for key in keys:
            wanted.setdefault(key, one)
    best: tuple[int, str, str] | None = None
    for one, keys in _with_keys(known):
        for rank, key in enumerate(keys):
            if key in wanted:
                found = (rank, wanted[key], one)
                best = min(best, found) if best else found
    return best[1:] if best else None


def _with_keys(ids: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each id with what it has in common with other ways of writing it, from strict to loose: letters and digits, of all of it, of its last
    segment as in a URL, and its digits alone if they are at least four."""
    listed = list(ids)
    for one, lowered in zip(listed, normalize_all(listed, TextPolicy(case="lower", unicode="none")), strict=True):
        keys = [_NO_ID_CHARACTER.sub("", text) for text in (lowered, _SEGMENT.split(lowered)[-1])]
        digits = re.sub(r"\D", "", keys[-1])
        yield one, [key for key in (*keys, digits if len(digits) > 3 else "") if key]


def _shown(identifier: str) -> str:
    cut = identifier[:_SHOWN_AT_MOST]
    return f"'{cut}…'" if len(identifier) > len(cut) else f"'{cut}'"
