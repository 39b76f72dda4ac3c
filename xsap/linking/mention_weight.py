"""The weight of mention names, learned on folds of the annotations themselves.

Annotated strings help where the string or its concept was annotated, and draw mentions of other concepts to themselves. So the weight is the one
of the best Acc@1 in folds by document, where concepts recur as they do in new documents, among those weights with which mentions of concepts that
nobody annotated do not significantly lose more than TOLERATED_LOSS against the answers without mention names. Those mentions are the ones of folds by
concept whose string was not annotated either, each string with its concepts once, since equal mentions get equal answers; significantly means that the
whole interval of the paired difference is below it. A weight is out if it or a lower one significantly loses more. Of equally good ones the lowest is taken.
Without a tolerance thousands of
annotations would rule out losses of a tenth of a point, and a model that was tuned on the annotations, all weights but 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.evaluation.folds import FoldsBy, assign_folds
from xsap.evaluation.metrics import MISS, Difference, Ranks, hits, mean, paired_bootstrap
from xsap.evaluation.strata import Stratum, StratumComparison, compare_by_stratum, strata_of
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import POOL
from xsap.linking.mention_names import Annotations, MentionNames, join_hits, join_names, weighted_search
from xsap.linking.name_keys import ACCENTS, Hit
from xsap.linking.ranking import NameSearch, rank_concepts
from xsap.search.vectors import Floats, Rows

MENTION_WEIGHTS = tuple(step / 20 for step in range(21))  # those tried: 0 to 1
LEAST_WEIGHT = MENTION_WEIGHTS[1]  # with it hardly any but equal mentions count
WEIGHT_FOLDS = 5
TOLERATED_LOSS = 0.005  # of Acc@1, for mentions of concepts that nobody annotated
MIN_ANNOTATIONS = 50  # with fewer the intervals are wider than any difference

RowSearch = Callable[[Rows, int, Rows], tuple[Floats, Rows]]
"""(queries, k, rows of mention names to search) → similarities and rows of the k best, as of a NameSearch."""


@dataclass(frozen=True)
class MentionWeight:
    """A weight of mention names.

    Attributes:
        weight: One of MENTION_WEIGHTS, or as it was given.
        seed: Of folds and intervals.
        accuracies: Acc@1 in folds by document, with each of MENTION_WEIGHTS; empty where none was learned.
        unseen: The gain of mentions of concepts that nobody annotated with each of MENTION_WEIGHTS but 0.
        by_document: The terminology alone and the weight compared by stratum, in folds by document.
        by_concept: The same in folds by concept.
        note: Why no weight was learned.
    """

    weight: float
    seed: int = 0
    accuracies: tuple[float, ...] = ()
    unseen: tuple[Difference, ...] = ()
    by_document: Mapping[str, StratumComparison] | None = None
    by_concept: Mapping[str, StratumComparison] | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        if self.note:
            return {"note": self.note}
        compared = {"by_document": self.by_document, "by_concept": self.by_concept}
        return {
            "folds": WEIGHT_FOLDS,
            "seed": self.seed,
            "weights": list(MENTION_WEIGHTS),
            "accuracies": list(self.accuracies),
            "unseen_gains": [each._asdict() for each in self.unseen],
            **{key: {name: row.to_dict() for name, row in (rows or {}).items()} for key, rows in compared.items()},
        }


class Searches(NamedTuple):
    """What finds names for the annotated strings; the queries are their numbers.

    Attributes:
        official: Searches the names of the dictionary.
        annotated: Searches the strings themselves.
        name_concepts: The concepts of the dictionary's names.
        hits: For each string the concepts that the dictionary names so.
    """

    official: NameSearch
    annotated: RowSearch
    name_concepts: NameConcepts
    hits: Sequence[Sequence[Hit]]


def learn_mention_weight(
    mentions: pa.Table, annotations: Annotations, searches: Searches, *, seed: int, pool: int = POOL
) -> MentionWeight:
    """Choose the weight of mention names.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`, n rows.
        annotations: Its annotations.
        searches: What finds names for them.
        seed: Of folds and intervals.
        pool: Nearest names of either kind among which a mention's concept is sought.

    Returns:
        The weight; LEAST_WEIGHT with a note where there are too few annotations to learn one.
    """
    kept = np.flatnonzero(annotations.row_names >= 0)
    if len(kept) < MIN_ANNOTATIONS:
        return MentionWeight(LEAST_WEIGHT, note=f"fewer than {MIN_ANNOTATIONS} annotations")
    table = mentions.take(pa.array(kept))
    try:
        by_concept = _Folds.make(table, annotations, kept, searches, "concept", seed, pool)
    except DataError as error:
        return MentionWeight(LEAST_WEIGHT, note=str(error))
    by_document = _Folds.make(table, annotations, kept, searches, "document", seed, pool)
    plain, right = hits(by_concept.ranks[0], 1), [hits(ranks, 1) for ranks in by_concept.ranks]
    unseen = by_concept.first_unseen(table)
    gains = tuple(paired_bootstrap([plain[unseen]], [each[unseen]], seed=seed) for each in right[1:])
    worse = [gain.high < -TOLERATED_LOSS for gain in gains]
    allowed = 1 + (worse.index(True) if True in worse else len(worse))
    accuracies = tuple(mean(hits(ranks, 1)) for ranks in by_document.ranks)
    best = int(np.argmax(accuracies[:allowed]))
    documents, concepts = (each.compare(best, seed) for each in (by_document, by_concept))
    return MentionWeight(MENTION_WEIGHTS[best], seed, accuracies, gains, documents, concepts)


@dataclass(frozen=True)
class _Folds:
    """Mentions tested with the annotations of the other folds. ranks: for each of MENTION_WEIGHTS (n,) 0 where the first answer is right, or MISS."""

    ranks: list[Ranks]
    strata: list[Stratum]

    @classmethod
    def make(
        cls,
        table: pa.Table,
        annotations: Annotations,
        kept: Rows,
        searches: Searches,
        by: FoldsBy,
        seed: int,
        pool: int,
    ) -> "_Folds":
        folds = _assign(table, by, seed)
        ranks = [np.full(len(kept), MISS) for _ in MENTION_WEIGHTS]
        strata: list[Stratum] = [Stratum.NEITHER] * len(kept)
        gold: list[set[int]] = [set() for _ in annotations.row_names]
        for row, concept in zip(annotations.pair_rows.tolist(), annotations.pair_concepts.tolist(), strict=True):
            gold[row].add(concept)
        for fold in range(WEIGHT_FOLDS):
            tested = np.flatnonzero(folds == fold)
            others = np.zeros(len(annotations.row_names), bool)
            others[kept[folds != fold]] = True
            queries, places = np.unique(annotations.row_names[kept[tested]], return_inverse=True)
            answers = _answers(queries, annotations.mention_names(others), searches, pool)
            own = [gold[row] for row in kept[tested].tolist()]
            for line, best in zip(ranks, answers, strict=True):
                first = best[places].tolist()
                line[tested] = [0 if concept in ids else MISS for concept, ids in zip(first, own, strict=True)]
            found = strata_of(table.take(pa.array(tested)), table.filter(pa.array(folds != fold)))
            for row, stratum in zip(tested.tolist(), found, strict=True):
                strata[row] = stratum
        return cls(ranks, strata)

    def first_unseen(self, table: pa.Table) -> Rows:
        """The rows of which neither string nor concept was annotated, each string with its concepts once."""
        first: dict[tuple[str, tuple[str, ...]], int] = {}
        for row, (mention, ids) in enumerate(
            zip(table["mention"].to_pylist(), table["concept_ids"].to_pylist(), strict=True)
        ):
            if self.strata[row] is Stratum.NEITHER:
                first.setdefault((mention, tuple(sorted(ids))), row)
        return np.array(list(first.values()), np.int64)

    def compare(self, chosen: int, seed: int) -> dict[str, StratumComparison]:
        return compare_by_stratum(self.ranks[0], self.ranks[chosen], self.strata, seed=seed)


def _assign(table: pa.Table, by: FoldsBy, seed: int) -> NDArray[np.int64]:
    try:
        return assign_folds(table, WEIGHT_FOLDS, by=by, seed=seed)
    except DataError:
        if by == "concept":
            raise
    nothing = pa.nulls(table.num_rows, pa.string())  # too few documents, so by mention
    for column in ("document_id", "context"):
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), nothing)
    return assign_folds(table, WEIGHT_FOLDS, by=by, seed=seed)


def _answers(queries: Rows, names: MentionNames, searches: Searches, pool: int) -> list[NDArray[np.int64]]:
    """For each of MENTION_WEIGHTS the first concept of each query."""
    official = searches.official(queries, min(pool, len(searches.name_concepts)))
    allowed = np.flatnonzero(names.totals > 0)
    annotated = searches.annotated(queries, min(pool, len(allowed)), allowed)
    first_row = len(searches.name_concepts)
    owners = join_names(searches.name_concepts, names.name_concepts)
    sizes = official[0].shape[1], annotated[0].shape[1]
    texts = names.names["name"].take(pa.array(queries)).to_pylist()
    own = [[hit for hit in searches.hits[query] if hit.match != ACCENTS] for query in queries.tolist()]
    answers = []
    for weight in MENTION_WEIGHTS:
        search = cached = lambda part, k: (official[0][part, :k], official[1][part, :k])
        if weight:
            similar = lambda part, k: (annotated[0][part, :k], annotated[1][part, :k])  # noqa: E731
            search = weighted_search(cached, similar, sizes, first_row, weight)
        total = sizes[0] + (sizes[1] if weight else 0)
        best = rank_concepts(search, owners, len(queries), 1, total=total).concepts[:, 0].copy()
        weighted = replace(names, weight=weight)
        for i, (text, found) in enumerate(zip(texts, own, strict=True)):
            exact = join_hits(found, text, weighted, first_row) if weight else found
            if exact:
                best[i] = exact[0].concept
        answers.append(best)
    return answers
