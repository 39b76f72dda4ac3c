"""Mention names: strings that people annotated with concepts, as further names of an index, with a weight of their own.

A mention of a text is another kind of name than a terminology's: it is what people write, there are more of common concepts, and one string may
have been annotated with several concepts. So mention names are kept apart from the names of the terminology, with the number of annotations of
each concept, and ranked by a weight w between 0 and 1:

    similar   A name of similarity s scores 1 - (1 - s) / w: its distance to the mention counts 1 / w times. With w = 1 it is a name like any
              other; the lower w, the nearer it must be to come before a name of the terminology.
    equal     Where a mention equals a mention name but for letter case, each annotation counts w, and being a name of the terminology counts 1.
              The concepts are ordered by these votes, and score votes / most votes.

With w = 0 they are not searched at all, so the answers are bitwise identical to those of the terminology alone. Strings that differ in letter case, width
or white space are one name, written as most often annotated.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.evaluation.gold import check_gold
from xsap.files import RowCounts
from xsap.linking.dictionary import INDEX_NAMES_SCHEMA, Dictionary, NameConcepts
from xsap.linking.name_keys import ACCENTS, CASE, CODE, EXACT, Hit, Keys
from xsap.linking.ranking import Filter, FilteredDictionary, NameSearch, apply_filter
from xsap.search.vectors import Floats, Rows, Vectors
from xsap.text import AS_WRITTEN, EXACT_MATCH, normalize, normalize_all

MENTION = "mention"  # the source of such names
NO_CONCEPT_GIVEN, CONCEPT_NOT_IN_DICTIONARY, NO_TEXT = "without a concept (NIL)", "concept not in the index", "no text"
_MOST_PREFERRED = 255  # of a concept that all annotations of a string agree on, among equally similar names


class AnnotationCount(NamedTuple):
    """How often a string was annotated with a concept.

    Attributes:
        annotations: Those with this concept.
        total: All of the string, whatever the concept.
    """

    annotations: int
    total: int


@dataclass(frozen=True)
class MentionNames:
    """Annotated strings as names.

    Attributes:
        names: INDEX_NAMES_SCHEMA, m rows.
        name_concepts: The concepts of each name, numbered as in the dictionary; the one of most annotations is the most preferred.
        counts: Annotations of each pair of a name and one of its concepts.
        totals: (m,) annotations of each name.
        weight: 0 to 1.
        vectors: (m, d) of the names; None where they are not compared by vectors.
        learnt: How the weight was chosen, for a manifest.
        dropped: Mentions that are no names, by reason.
    """

    names: pa.Table = field(repr=False)
    name_concepts: NameConcepts = field(repr=False)
    counts: NDArray[np.int32] = field(repr=False)
    totals: NDArray[np.int32] = field(repr=False)
    weight: float = 1.0
    vectors: Vectors | None = field(default=None, repr=False)
    learnt: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.totals)

    @cached_property
    def rows_by_string(self) -> dict[str, int]:
        """The row of each string, as EXACT_MATCH normalizes it."""
        return {text: row for row, text in enumerate(normalize_all(self.names["name"].to_pylist(), EXACT_MATCH))}

    def annotation(self, row: int, concept: int) -> AnnotationCount:
        """How often a name was annotated with a concept."""
        first, last = self.name_concepts.starts[row : row + 2].tolist()
        at = first + int(np.searchsorted(self.name_concepts.concepts[first:last], concept))
        found = at < last and self.name_concepts.concepts[at] == concept
        return AnnotationCount(int(self.counts[at]) if found else 0, int(self.totals[row]))

    def row_of(self, mention: str) -> int | None:
        """The name that equals a mention but for letter case, width and white space."""
        return self.rows_by_string.get(normalize(mention, EXACT_MATCH))

    def metadata(self) -> dict[str, Any]:
        """The entries of a manifest."""
        return {
            "names": len(self),
            "annotations": int(self.totals.sum()),
            "dropped": dict(self.dropped),
            "weight": self.weight,
            "learnt": dict(self.learnt),
        }


@dataclass(frozen=True)
class Annotations:
    """The annotations of a table of mentions: n rows, of which each kept one is one annotation of a string with one or more concepts.

    Attributes:
        names: INDEX_NAMES_SCHEMA, the m different strings.
        row_names: (n,) the name of each row; -1 for a row that is dropped.
        pair_rows: (p,) of each pair of a row and one of its concepts, the row.
        pair_concepts: (p,) the concept, numbered as in the dictionary.
        concepts: Number of concepts of the dictionary.
        counts: Rows in, kept, and dropped by reason.
    """

    names: pa.Table = field(repr=False)
    row_names: NDArray[np.int64] = field(repr=False)
    pair_rows: NDArray[np.int64] = field(repr=False)
    pair_concepts: NDArray[np.int64] = field(repr=False)
    concepts: int
    counts: RowCounts

    @classmethod
    def from_mentions(cls, mentions: pa.Table, concept_ids: Sequence[str]) -> "Annotations":
        """Collect annotations.

        Args:
            mentions: A table of `terms.mentions.SCHEMA`; a mention of several concepts counts for each of them.
            concept_ids: Ids of the dictionary, in the order of its numbers.

        Raises:
            DataError: No mention has a concept of the dictionary.
        """
        numbers = {identifier: number for number, identifier in enumerate(concept_ids)}
        texts, languages, gold = (mentions[column].to_pylist() for column in ("mention", "language", "concept_ids"))
        check_gold(gold, numbers)
        known: dict[str, int] = {}
        spellings: list[Counter[str]] = []
        spoken: list[Counter[str]] = []
        dropped = Counter[str]()
        row_names, pair_rows, pair_concepts = np.full(len(texts), -1), list[int](), list[int]()
        rows = zip(texts, normalize_all(texts, EXACT_MATCH), languages, gold, strict=True)
        for row, (text, key, language, ids) in enumerate(rows):
            found = sorted({numbers[one] for one in ids if one in numbers})
            if not key or not found:
                dropped[NO_TEXT if not key else CONCEPT_NOT_IN_DICTIONARY if ids else NO_CONCEPT_GIVEN] += 1
                continue
            name = row_names[row] = known.setdefault(key, len(known))
            if name == len(spellings):
                spellings.append(Counter())
                spoken.append(Counter())
            spellings[name][normalize(text, AS_WRITTEN)] += 1
            spoken[name][language] += 1
            pair_rows += [row] * len(found)
            pair_concepts += found
        if not known:
            raise DataError(
                f"expected mentions with a text and a concept of the index, found none among {len(texts):,}"
            )
        kept = int((row_names >= 0).sum())
        counts = RowCounts(len(texts), kept, dict(dropped))
        pairs = np.array(pair_rows, np.int64), np.array(pair_concepts, np.int64)
        return cls(_names_table(spellings, spoken), row_names, *pairs, len(concept_ids), counts)

    def mention_names(self, rows: NDArray[np.bool_] | None = None) -> MentionNames:
        """The names with the annotations of some rows: (n,), None for all. A name without annotations among them has no concepts."""
        chosen = self.row_names >= 0 if rows is None else (self.row_names >= 0) & rows
        totals = np.bincount(self.row_names[chosen], minlength=self.names.num_rows)
        of_chosen = chosen[self.pair_rows]
        names, concepts = self.row_names[self.pair_rows[of_chosen]], self.pair_concepts[of_chosen]
        pairs, counts = np.unique(names * max(1, self.concepts) + concepts, return_counts=True)
        names, concepts = np.divmod(pairs, max(1, self.concepts))
        starts = np.concatenate([[0], np.cumsum(np.bincount(names, minlength=self.names.num_rows))])
        preferences = (_MOST_PREFERRED * counts // np.maximum(1, totals[names])).astype(np.uint8)
        name_concepts = NameConcepts(starts, concepts, self.concepts, preferences)
        return MentionNames(
            self.names, name_concepts, counts.astype(np.int32), totals.astype(np.int32), dropped=self.counts.dropped
        )


def _names_table(spellings: Sequence[Counter[str]], spoken: Sequence[Counter[str]]) -> pa.Table:
    """Each name as it is most often written, in the language that it most often has; of equal numbers the first in order."""

    def most(counts: Counter[str]) -> str:
        return min(counts, key=lambda value: (-counts[value], value))

    columns = [list(map(most, spellings)), list(map(most, spoken)), [MENTION] * len(spellings)]
    lists = [list(map(sorted, spoken)), [[MENTION]] * len(spellings)]
    return pa.table([*columns, *lists], INDEX_NAMES_SCHEMA)


def weighted_scores(similarities: Floats, weight: float) -> Floats:
    """Scores of mention names of given similarities: 1 - (1 - s) / w; with w = 1 bitwise the similarities themselves."""
    scores: Floats = similarities - np.float32(1 / weight - 1) * (np.float32(1) - similarities)
    return scores


def weighted_search(
    official: NameSearch, annotated: NameSearch, sizes: tuple[int, int], first_row: int, weight: float
) -> NameSearch:
    """One search of a dictionary's names and of mention names.

    Args:
        official: Searches the names of the dictionary.
        annotated: Searches mention names; its scores are similarities.
        sizes: How many names each of the two searches.
        first_row: The number of names of the dictionary; mention names follow from there.
        weight: Above 0, at most 1.
    """

    def search(part: NDArray[np.int64], k: int) -> tuple[Floats, Rows]:
        scores, rows = official(part, min(k, sizes[0]))
        similarities, own_rows = annotated(part, min(k, sizes[1]))
        scores = np.concatenate([scores, weighted_scores(similarities, weight)], 1)
        rows = np.concatenate([rows, own_rows + first_row], 1)
        order = np.lexsort((rows, -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    return search


def join_names(official: NameConcepts, annotated: NameConcepts) -> NameConcepts:
    """The concepts of a dictionary's names, and of the mention names after them."""
    columns: list[Callable[[NameConcepts], NDArray[Any]]] = [lambda each: each.concepts, lambda each: each.preferences]
    concepts, preferences = (np.concatenate([column(official), column(annotated)]) for column in columns)
    starts = np.concatenate([official.starts, official.starts[-1] + annotated.starts[1:]])
    return NameConcepts(starts, concepts.astype(np.int64), official.count, preferences)


def join_hits(
    official: Sequence[Hit], mention: str, names: MentionNames, first_row: int, kept: FilteredDictionary | None = None
) -> list[Hit]:
    """The concepts that a mention names exactly, by the dictionary or by annotations, best first, with the votes of each as score, the best one's 1.

    Concepts of an equal name come first, those of a code next, and those of a name with other accents last.

    Args:
        official: Those that the dictionary names, best first.
        mention: The mention.
        names: The mention names, of a weight above 0.
        first_row: The number of names of the dictionary.
        kept: What a filter keeps of the names of both.
    """
    row = names.row_of(mention)
    if row is None or (kept is not None and not keeps_row(kept, row)):
        return list(official)
    pairs = slice(*names.name_concepts.starts[row : row + 2].tolist())
    counts = dict(zip(names.name_concepts.concepts[pairs].tolist(), names.counts[pairs].tolist(), strict=True))
    if kept is not None and kept.rows is not None:
        starts, concepts = kept.name_concepts.starts, kept.name_concepts.concepts
        own = set(concepts[starts[first_row + row] : starts[first_row + row + 1]].tolist())
        counts = {concept: count for concept, count in counts.items() if concept in own}
    if not counts:
        return list(official)
    match = EXACT if normalize(mention, AS_WRITTEN) == names.names["name"][row].as_py() else CASE
    annotated = [Hit(concept, first_row + row, match) for concept in counts]
    level = {CODE: 1, ACCENTS: 2}
    by_name = {hit.concept: hit for hit in official if hit.match not in level}
    hits = {hit.concept: hit for hit in [*annotated, *official]}  # an official name is shown rather than a mention
    hits |= {hit.concept: hit for hit in annotated if hit.concept not in by_name}
    order = {hit.concept: place for place, hit in enumerate(official)}
    votes = {c: names.weight * counts.get(c, 0) + (c in by_name) for c in hits}
    ranked = sorted(
        hits.values(),
        key=lambda h: (level.get(h.match, 0), -votes[h.concept], order.get(h.concept, len(order)), h.concept),
    )
    most = max(votes.values())
    return [hit if hit.match in level else hit._replace(score=votes[hit.concept] / most) for hit in ranked]


def keeps_row(kept: FilteredDictionary, row: int) -> bool:
    """Whether a filter keeps a mention name."""
    return kept.mention_rows is None or bool(np.isin(row, kept.mention_rows))


def filter_names(dictionary: Dictionary, names: MentionNames | None, wanted: Filter) -> FilteredDictionary:
    """What a filter leaves of a dictionary and of mention names, if there are any. Raises DataError as `apply_filter`."""
    official = apply_filter(dictionary, wanted)
    if names is None:
        return official
    if wanted == Filter():
        return official._replace(name_concepts=join_names(official.name_concepts, names.name_concepts))
    keys = Keys(np.empty(0, np.uint64), np.empty(0))
    try:
        own = apply_filter(Dictionary(names.names, dictionary.concepts, names.name_concepts, keys, {}), wanted)
    except DataError:  # no mention name is left, which is no error as long as names of the dictionary are
        nothing = np.empty(0, np.int64)
        none = NameConcepts(
            np.zeros(len(names) + 1, np.int64), nothing, official.name_concepts.count, nothing.astype(np.uint8)
        )
        own = FilteredDictionary(nothing, none)
    return FilteredDictionary(official.rows, join_names(official.name_concepts, own.name_concepts), own.rows)
