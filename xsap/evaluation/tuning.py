"""What is fitted on mentions with known concepts: the weight of lexical fusion, and the calibration of confidence.

A fusion weight must improve Acc@1 on mentions it was not chosen on, or it is 0. That takes some thousands of mentions: fusion changes few
answers, about a third of them for the worse. What helps one kind of mention may harm another, so the mentions should be of the kind that will
be linked. For a calibration, equal mentions of the same concepts count once, since they get the same answer; a mention without a concept (NIL),
or whose gold concepts are not in the index, is one for which every answer is wrong.
"""

import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from xsap.errors import DataError
from xsap.evaluation.gold import check_gold
from xsap.evaluation.metrics import Difference, Values, hits, mean, paired_bootstrap, rank_of
from xsap.evaluation.protocols import MentionLinker, contexts_for, link_in_context
from xsap.files import RowCounts
from xsap.linking.broader import FETCHED, BroaderFinder
from xsap.linking.calibration import BroaderCalibration, Calibration, codes_of, features_of, fit
from xsap.linking.dictionary import NameConcepts
from xsap.linking.encoder_spec import encode_as_mentions
from xsap.linking.fusion import POOL, fuse, string_similarity
from xsap.linking.linker import Linker
from xsap.linking.logistic import Mask
from xsap.linking.ranking import rank_concepts
from xsap.linking.rejection import rejection_reason
from xsap.linking.results import Candidate
from xsap.search.exact import search_vectors
from xsap.search.vectors import Floats, Rows

WEIGHTS = tuple(step / 20 for step in range(11))  # those tried: 0 to 0.5
MIN_MENTIONS = 50  # as for a calibration

logger = logging.getLogger(__name__)


class WeightChoice(NamedTuple):
    """A fusion weight.

    Attributes:
        weight: One of WEIGHTS.
        gain: In Acc@1, of mentions whose weight was chosen on mentions of other concepts.
        accuracies: Acc@1 of all mentions at each of WEIGHTS.
    """

    weight: float
    gain: Difference
    accuracies: tuple[float, ...]


def choose_weight(
    cosines: Floats,
    rows: Rows,
    similarities: Floats,
    owners: NameConcepts,
    ids: Sequence[str],
    gold: Sequence[Collection[str]],
    *,
    seed: int,
) -> WeightChoice:
    """The lowest weight within a standard error of the best; 0 unless the interval of its gain is above 0.

    The lowest, since trust in string similarity transfers badly from one kind of mention to another (Breiman et al., Classification and
    Regression Trees, 1984, 3.4.3). Mentions of one (first) concept are in the same half, and a half's weight is chosen on the other.

    Args:
        cosines: (n, p) of each mention's nearest names, best first.
        rows: (n, p) those names.
        similarities: (n, p) their string similarities.
        owners: The names' concepts.
        ids: Ids of those concepts.
        gold: The right ones of each mention, at least one.
        seed: Of the split into halves.
    """
    right = np.stack([_right(*fuse(cosines, rows, similarities, weight), owners, ids, gold) for weight in WEIGHTS])
    different, number = np.unique([min(wanted) for wanted in gold], return_inverse=True)
    first = (np.random.default_rng(seed).permutation(len(different)) < len(different) // 2)[number]
    chosen = np.where(first, _choose(right[:, ~first]), _choose(right[:, first]))
    gain = paired_bootstrap([right[0]], [right[chosen, np.arange(len(first))]], seed=seed)
    sure = _choose(right) if gain.low > 0 else 0
    return WeightChoice(WEIGHTS[sure], gain, tuple(map(mean, right)))


def _choose(right: Values) -> int:
    """The position of the weight; the first without mentions. right: (weights, n)."""
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
    """Choose the fusion weight of an index, see `choose_weight`; a weight that the index already has plays no part.

    Args:
        linker: The linker of the index.
        mentions: A table of `terms.mentions.SCHEMA`; equal ones count once. Those that cannot be linked, that have no concept, or whose gold
            concepts are not in the index, are dropped; the log has their numbers.
        seed: Of the split into halves.

    Raises:
        DataError: Fewer than MIN_MENTIONS remain, or no gold concept is in the index.
    """
    dictionary, known = linker.index.dictionary, linker.concept_ids
    columns = [mentions[name].to_pylist() for name in ("mention", "concept_ids")]
    check_gold(columns[1], known)
    asked: dict[tuple[str, tuple[str, ...]], None] = {}
    dropped = Counter[str]()
    for mention, ids in zip(*columns, strict=True):
        key = mention, tuple(sorted(known & set(ids)))
        if reason := _reason_to_drop(key, ids, asked):
            dropped[reason] += 1
        else:
            asked[key] = None
    counts = RowCounts(mentions.num_rows, len(asked), dropped)
    reasons = "; ".join(f"{reason}: {n:,}" for reason, n in sorted(counts.dropped.items())) or "none"
    logger.info("mentions in: %s, kept: %s, dropped (%s)", f"{counts.rows_in:,}", f"{counts.kept:,}", reasons)
    if len(asked) < MIN_MENTIONS:
        raise DataError(
            f"choosing a weight needs at least {MIN_MENTIONS} different mentions whose concepts are in the index, found {len(asked):,}"
        )
    strings = [mention for mention, _ in asked]
    cosines, rows = search_vectors(linker.index.vectors, encode_as_mentions(linker.encoder, strings), POOL)
    similarities = string_similarity(strings, rows, dictionary.names["name"])
    ids = dictionary.concepts["concept_id"].to_pylist()
    return choose_weight(
        cosines, rows, similarities, dictionary.name_concepts, ids, [gold for _, gold in asked], seed=seed
    )


def _reason_to_drop(
    key: tuple[str, tuple[str, ...]], gold: Collection[str], asked: Collection[tuple[str, tuple[str, ...]]]
) -> str | None:
    """Why a mention is no use for choosing a weight; None if it is. key: the mention and its gold concepts that the index has."""
    if not gold:
        return "without a concept (NIL)"
    if not key[1]:
        return "gold not in dictionary"
    if rejection_reason(key[0]) is not None:
        return "cannot be linked"
    return "equal to another one" if key in asked else None


class CalibrationSample(NamedTuple):
    """Linked mentions with known concepts.

    Attributes:
        features: (n, 2), see `linking.calibration.features_of`.
        right: (n,) whether the first candidate is correct.
        languages: (n,) of the mentions.
        groups: (n,) their concept, the first of several; themselves if they have none.
        without_concept: (n,) whether they have no gold concept (NIL).
        gold_not_in_dictionary: (n,) whether they have gold concepts, none of which is in the index.
        repeated: How many more there were that equal others.
        unlinked: How many more there were without candidates.
        candidates: (n,) the candidates of each.
        gold: (n,) the ids of its concepts.
    """

    features: Values
    right: Mask
    languages: list[str]
    groups: list[str]
    without_concept: Mask
    gold_not_in_dictionary: Mask
    repeated: int
    unlinked: int
    candidates: Sequence[tuple[Candidate, ...]] = ()
    gold: Sequence[tuple[str, ...]] = ()


def link_sample(linker: MentionLinker, mentions: pa.Table, top_k: int = 2) -> CalibrationSample:
    """Link the mentions of a table of `terms.mentions.SCHEMA`, with two candidates each or more."""
    known = frozenset(linker.concept_ids)
    columns = (mentions[name].to_pylist() for name in ("mention", "language", "concept_ids"))
    asked = zip(*columns, contexts_for(linker, mentions), strict=True)
    keys = [(mention, code, tuple(sorted(ids)), context) for mention, code, ids, context in asked]
    distinct = list(dict.fromkeys(keys))
    results = link_in_context(linker, [(mention, code, context) for mention, code, _, context in distinct], top_k)
    unique = [key[:3] for key in distinct]
    linked = [(result.candidates, key) for result, key in zip(results, unique, strict=True) if result.candidates]
    first = np.array([found[0].score for found, _ in linked], np.float64)
    second = np.array([found[1].score if len(found) > 1 else np.nan for found, _ in linked], np.float64)
    return CalibrationSample(
        features_of(first, second),
        np.array([found[0].concept_id in ids for found, (_, _, ids) in linked], bool),
        [code for _, (_, code, _) in linked],
        [ids[0] if ids else f"mention {mention}" for _, (mention, _, ids) in linked],
        np.array([not ids for _, (_, _, ids) in linked], bool),
        np.array([bool(ids) and known.isdisjoint(ids) for _, (_, _, ids) in linked], bool),
        repeated=mentions.num_rows - len(unique),
        unlinked=len(unique) - len(linked),
        candidates=[found for found, _ in linked],
        gold=[ids for _, (_, _, ids) in linked],
    )


def fit_calibration(
    linker: MentionLinker, mentions: pa.Table, *, seed: int
) -> tuple[Calibration, Values, CalibrationSample]:
    """Link mentions and fit a calibration on them, where the index has relations between concepts one of broader answers, too.

    Args:
        linker: What links.
        mentions: A table of `terms.mentions.SCHEMA`.
        seed: Of the split into folds.

    Returns:
        The calibration, (n,) out-of-fold confidences, and the n linked mentions.

    Raises:
        DataError: There are too few mentions, or no gold concept is in the index.
    """
    check_gold(mentions["concept_ids"].to_pylist(), frozenset(linker.concept_ids))
    finder = BroaderFinder.of_index(linker.index) if isinstance(linker, Linker) else None
    sample = link_sample(linker, mentions, 2 if finder is None else FETCHED)
    calibration, confidence = fit(sample.features, sample.right, sample.languages, sample.groups, seed=seed)
    broader = None if finder is None else fit_broader(finder, sample, confidence, seed=seed)
    return replace(calibration, broader=broader), confidence, sample


def fit_broader(
    finder: BroaderFinder, sample: CalibrationSample, first: Values, *, seed: int
) -> BroaderCalibration | None:
    """Fit the confidence of broader answers, on those mentions for which there is one.

    Args:
        finder: Finds them.
        sample: n linked mentions, with FETCHED candidates.
        first: (n,) out-of-fold confidences of their first candidates.
        seed: Of the split into folds.

    Returns:
        The calibration; None where there are too few mentions, right ones or wrong ones.
    """
    answers = [finder.find(candidates) for candidates in sample.candidates]
    rows = [row for row, answer in enumerate(answers) if answer is not None]
    found = [answer for answer in answers if answer is not None]
    gold = [sample.gold[row] for row in rows]
    right = np.array([finder.steps_above(*pair) is not None for pair in zip(found, gold, strict=True)], bool)
    languages, groups = [sample.languages[row] for row in rows], [sample.groups[row] for row in rows]
    scores = np.array([(each.nearest.score, each.other) for each in found], np.float64).reshape(-1, 2)
    try:
        fitted, confidence = fit(features_of(scores[:, 0], scores[:, 1]), right, languages, groups, seed=seed)
    except DataError as error:
        logger.warning("no calibration of broader answers: %s", error)
        return None
    columns = first[rows].tolist(), confidence.tolist(), right.tolist(), codes_of(groups).tolist()
    return BroaderCalibration(fitted.model, *(tuple(column) for column in columns))
