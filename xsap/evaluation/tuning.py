"""How much likeness in spelling should count for an index: the weight of lexical fusion, chosen on mentions with known concepts.

A weight must pay for mentions that it wasn't chosen on, or it is 0. That takes some thousands of mentions: fusion changes few answers, and
of those that it makes right or wrong about a third for the worse. What pays for one kind of mention may harm another, so the mentions
should be of the kind that will be linked.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from xsap.errors import DataError
from xsap.evaluation.metrics import Difference, Values, hits, mean, paired_bootstrap, rank_of
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import POOL, fuse, string_similarity
from xsap.linking.linker import Linker, rejection_reason
from xsap.linking.ranking import rank_concepts
from xsap.search.exact import search_vectors
from xsap.search.vectors import Floats, Rows

WEIGHTS = tuple(step / 20 for step in range(11))  # those tried: 0 to 0.5
LEAST = 50  # mentions, as for a calibration


class WeightChoice(NamedTuple):
    """A weight, and what it is worth. gain: in Acc@1, of mentions whose weight was chosen on mentions of other concepts.

    accuracies: Acc@1 of all mentions at each of WEIGHTS.
    """

    weight: float
    gain: Difference
    accuracies: tuple[float, ...]


def choose_weight(
    cosines: Floats,
    rows: Rows,
    alike: Floats,
    owners: NameConcepts,
    ids: Sequence[str],
    gold: Sequence[Collection[str]],
    *,
    seed: int,
) -> WeightChoice:
    """The least weight that is within a standard error of the best, for trust in spelling carries over badly from one kind of mention to
    another (Breiman et al., Classification and Regression Trees, 1984, 3.4.3); 0 unless the gain is sure: its interval is above 0.

    cosines, rows, alike: (n, p), each mention's nearest names, best first. ids: of the owners' concepts. gold: the right ones of each
    mention, at least one. Mentions of one (first) concept fall into the same half, and a half's weight is chosen on the other.
    """
    right = np.stack([_right(*fuse(cosines, rows, alike, weight), owners, ids, gold) for weight in WEIGHTS])
    different, number = np.unique([min(wanted) for wanted in gold], return_inverse=True)
    first = (np.random.default_rng(seed).permutation(len(different)) < len(different) // 2)[number]
    chosen = np.where(first, _choose(right[:, ~first]), _choose(right[:, first]))
    gain = paired_bootstrap([right[0]], [right[chosen, np.arange(len(first))]], seed=seed)
    sure = _choose(right) if gain.low > 0 else 0
    return WeightChoice(WEIGHTS[sure], gain, tuple(map(mean, right)))


def _choose(right: Values) -> int:
    """Which weight; the first of all if nothing tells. right: (weights, n)."""
    if not right.size:
        return 0
    lost = right[right.sum(1).argmax()] - right
    return int(np.argmax(lost.mean(1) <= lost.std(1) / math.sqrt(right.shape[1])))


def _right(
    scores: Floats, rows: Rows, owners: NameConcepts, ids: Sequence[str], gold: Sequence[Collection[str]]
) -> Values:
    """(n,) 1.0 where the best concept is a right one."""
    ranked = rank_concepts(
        lambda part, k: (scores[part, :k], rows[part, :k]), owners, len(rows), 1, total=rows.shape[1]
    )
    best = ranked.concepts[:, 0].tolist()
    return hits(
        np.array([rank_of([[ids[concept]]], wanted) for concept, wanted in zip(best, gold, strict=True)], np.int64), 1
    )


def tune_fusion(linker: Linker, mentions: pa.Table, *, seed: int) -> WeightChoice:
    """`choose_weight` on mentions (terms.mentions' SCHEMA), equal ones once.

    Those that can't be linked or whose concepts the index lacks are left out. A weight that the index has already plays no part. Raises
    DataError for fewer than LEAST mentions.
    """
    dictionary, known = linker.index.dictionary, linker.concept_ids
    columns = (mentions[name].to_pylist() for name in ("mention", "concept_ids"))
    unique = dict.fromkeys((mention, tuple(sorted(known & set(ids)))) for mention, ids in zip(*columns, strict=True))
    asked = [(mention, ids) for mention, ids in unique if ids and rejection_reason(mention) is None]
    if len(asked) < LEAST:
        raise DataError(
            f"a weight is chosen on at least {LEAST} different mentions whose concepts the index has, found {len(asked):,}"
        )
    strings = [mention for mention, _ in asked]
    cosines, rows = search_vectors(linker.index.vectors, linker.encoder.encode(strings), POOL)
    alike = string_similarity(strings, rows, dictionary.names["name"])
    ids = dictionary.concepts["concept_id"].to_pylist()
    return choose_weight(cosines, rows, alike, dictionary.name_concepts, ids, [gold for _, gold in asked], seed=seed)
