"""What re-ranking and the context are worth: the same mentions without re-ranking, without context, with context, and with another one's context.

A re-ranker that gains as much with the contexts of other mentions as with the right ones has learned something else than to read them. Each is
compared with the right context by a paired test, mention by mention. How many mentions have a right concept among the candidates that are
re-ranked is the most that any re-ranker can reach.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xsap.errors import DataError
from xsap.evaluation.gold import check_gold
from xsap.evaluation.metrics import (
    MISS,
    Difference,
    Ranks,
    Score,
    bootstrap_interval,
    hits,
    mean,
    paired_bootstrap,
    rank_of,
    reciprocal_ranks,
)
from xsap.evaluation.protocols import K
from xsap.linking.linker import Linker
from xsap.linking.mention_context import MentionContext, contexts_in, shuffled_contexts

NO_RERANKER, WITHOUT_CONTEXT, WITH_CONTEXT, SHUFFLED_CONTEXT = (
    "no re-ranker",
    "mention only",
    "with context",
    "shuffled context",
)
MENTION_MODEL = "mention only, trained so"


@dataclass(frozen=True)
class ContextAblation:
    """Scores of each variant.

    Attributes:
        n: Mentions.
        with_context: How many of them have a context.
        top: Candidates that are re-ranked.
        reachable: Fraction of mentions with a right concept among these.
        accuracy: Variant → Acc@1.
        mrr: Variant → MRR.
        differences: Variant → how much the right context is ahead of it, in Acc@1.
    """

    n: int
    with_context: int
    top: int
    reachable: float
    accuracy: Mapping[str, Score]
    mrr: Mapping[str, Score]
    differences: Mapping[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = {
            name: {"acc@1": list(score), "mrr": list(self.mrr[name])} | (
                {"context_ahead_by": self.differences[name]._asdict()} if name in self.differences else {}
            )
            for name, score in self.accuracy.items()
        }  # fmt: skip
        return {
            "n": self.n, "with_context": self.with_context, "top": self.top, f"acc@{self.top}": self.reachable, "variants": rows,
        }  # fmt: skip


def testable_mentions(mentions: pa.Table, concept_ids: Collection[str]) -> pa.Table:
    """The mentions that have a concept, which all others (NIL) have not.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`.
        concept_ids: Those of the index.

    Raises:
        DataError: No mention has a gold concept that the index has.
    """
    found = mentions.filter(pc.greater(pc.list_value_length(mentions["concept_ids"]), 0))
    if not found.num_rows:
        raise DataError(
            f"expected mentions with gold concepts to test on, found none among {mentions.num_rows:,}; give others"
        )
    check_gold(found["concept_ids"].to_pylist(), concept_ids)
    return found


def ablate_context(
    plain: Linker, reranked: Linker, mentions: pa.Table, *, seed: int, mention_only: Linker | None = None
) -> ContextAblation:
    """Link mentions in each variant. Mentions without a concept (NIL) play no part.

    Args:
        plain: A linker without re-ranking.
        reranked: The same index with a re-ranker that reads contexts.
        mentions: A table of `terms.mentions.SCHEMA`.
        seed: Of the intervals and of the shuffling.
        mention_only: The same index with a re-ranker that was trained without contexts; None for none.

    Raises:
        DataError: No mention has a gold concept that the index has.
    """
    mentions = testable_mentions(mentions, reranked.concept_ids)
    gold = mentions["concept_ids"].to_pylist()
    assert reranked.reranking is not None, "a linker without a re-ranker"
    top, contexts = reranked.reranking.top, contexts_in(mentions)
    shuffled = shuffled_contexts(mentions["mention"].to_pylist(), contexts, seed=seed)
    wide = _ranks(plain, mentions, contexts, max(K, top))
    ranks = {
        NO_RERANKER: wide,
        WITHOUT_CONTEXT: _ranks(reranked, mentions, [None] * len(gold), K),
        WITH_CONTEXT: _ranks(reranked, mentions, contexts, K),
        SHUFFLED_CONTEXT: _ranks(reranked, mentions, shuffled, K),
    }
    if mention_only is not None:
        ranks[MENTION_MODEL] = _ranks(mention_only, mentions, [None] * len(gold), K)
    right = hits(ranks[WITH_CONTEXT], 1)
    return ContextAblation(
        len(gold),
        sum(context is not None for context in contexts),
        top,
        mean(hits(wide, top)),
        {name: _score(hits(each, 1), seed) for name, each in ranks.items()},
        {name: _score(reciprocal_ranks(np.where(each < K, each, MISS)), seed) for name, each in ranks.items()},
        {
            name: paired_bootstrap([hits(each, 1)], [right], seed=seed)
            for name, each in ranks.items()
            if name != WITH_CONTEXT
        },
    )


def _ranks(linker: Linker, mentions: pa.Table, contexts: list[MentionContext | None], k: int) -> Ranks:
    columns = (mentions[name].to_pylist() for name in ("mention", "language", "concept_ids"))
    texts, languages, gold = columns
    results = linker.link(texts, k, languages=languages, context=contexts)
    found = [
        rank_of(([each.concept_id] for each in result.candidates), ids)
        for result, ids in zip(results, gold, strict=True)
    ]
    return np.array(found, np.int64)


def _score(values: Any, seed: int) -> Score:
    return Score(mean(values), *bootstrap_interval([values], seed=seed))


def ablation_to_text(report: ContextAblation) -> str:
    """A table for people: percent, with 95 % bootstrap intervals."""
    lines = [
        f"{report.n:,} mentions, {report.with_context:,} with a context; a right concept is among the first {report.top} candidates of "
        f"{100 * report.reachable:.1f} %",
        f"{'':26}{'Acc@1':>7}{'':16}{'MRR':>7}   context is ahead by, in Acc@1",
    ]
    for name, score in report.accuracy.items():
        interval = f" [{100 * (score.low or 0):.1f}, {100 * (score.high or 0):.1f}]"
        ahead = ""
        if name in report.differences:
            gain, low, high, p = report.differences[name]
            ahead = f"   {100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], p = {p:.3f}"
        lines.append(
            f"{name:26}{100 * (score.value or 0):7.1f}{interval:16}{100 * (report.mrr[name].value or 0):7.1f}{ahead}".rstrip()
        )
    return "\n".join(lines)
