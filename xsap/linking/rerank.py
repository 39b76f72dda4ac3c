"""Re-ranking: the first candidates of a mention are scored again, by a comparison that costs more than that of vectors.

A re-ranker gets a mention, the text around it and its candidates with their retrieval scores, and gives each candidate the score that it then
has. Three kinds are behind one method: a trained cross-encoder, which reads the mention in its context together with each candidate
(cross_encoder.py); late interaction, which compares the token vectors of mention and names and needs no training (late_interaction.py); and
whatever a user runs (rerank_hook.py). The retriever's order decides between equal scores, so a re-ranker that returns the retrieval scores
changes nothing at all.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from numbers import Real
from typing import Any, NamedTuple, Protocol

from xsap.errors import RerankerError
from xsap.linking.mention_context import MentionContext

RERANKED = 16  # candidates of a mention that are scored again


class RerankCandidate(NamedTuple):
    """What a re-ranker gets of a candidate.

    Attributes:
        concept_id: Its id.
        preferred_name: Its preferred name.
        matched_name: Its name that the retriever matched.
        names: Its names other than the preferred one, the matched one first, then the nearest to the mention.
        semantic_types: Its semantic types.
        definition: What it is; empty if the terminology does not say it.
        score: Of the retriever, see `ranking_scores`.
        match: How it was found, see `Candidate.match`.
    """

    concept_id: str
    preferred_name: str
    matched_name: str
    names: tuple[str, ...]
    semantic_types: tuple[str, ...]
    definition: str
    score: float
    match: str


class RerankQuery(NamedTuple):
    """A mention with its candidates.

    Attributes:
        mention: As it was given.
        language: ISO 639, or UNKNOWN.
        context: The text around it; None if that is not known.
        candidates: At least one, best first.
    """

    mention: str
    language: str
    context: MentionContext | None
    candidates: tuple[RerankCandidate, ...]


class Reranker(Protocol):
    """Scores candidates again."""

    @property
    def uses_context(self) -> bool:
        """Whether scores depend on the context of a mention."""

    @property
    def content_hash(self) -> str | None:
        """What identifies it, for the index that it is stored in and for resumed runs; None if nothing does."""

    def score(self, queries: Sequence[RerankQuery]) -> Sequence[Sequence[float]]:
        """The score of each candidate of each query, in their order; higher is better."""


def ranking_scores(retrieval: Sequence[float]) -> list[float]:
    """Scores whose order is the retriever's: its own, or that of the best candidate behind, if that is higher.

    The retriever puts what differs in accents alone first, whatever its score. A re-ranker that got the lower score would undo that.

    Args:
        retrieval: Scores of the retriever, in its order.
    """
    return list(accumulate(reversed(retrieval), max))[::-1]


def rerank_order(scores: Sequence[float]) -> list[int]:
    """The order of candidates after re-ranking: by falling score, equal ones as the retriever has them.

    Args:
        scores: Of candidates in the retriever's order, by the re-ranker.
    """
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def checked_scores(queries: Sequence[RerankQuery], given: Any, what: str) -> list[list[float]]:
    """The scores that something outside of xsap gave.

    Args:
        queries: What it was asked.
        given: What it gave.
        what: What it is, for errors.

    Raises:
        RerankerError: These are not finite numbers, one for each candidate of each query.
    """
    lists = _as_list(given)
    if lists is None or len(lists) != len(queries):
        found = f"{given!r:.60}" if lists is None else f"{len(lists):,} lists"
        raise RerankerError(f"{what}: expected a list of scores for each of {len(queries):,} mentions, found {found}")
    checked = []
    for query, part in zip(queries, lists, strict=True):
        expected = f"{what}: expected {len(query.candidates)} scores for '{query.mention[:40]}'"
        scores = _as_list(part)
        if scores is None or len(scores) != len(query.candidates):
            raise RerankerError(f"{expected}, found {part!r:.60}")
        numbers = [_as_finite(score) for score in scores]
        if None in numbers:
            raise RerankerError(f"{expected}, each a finite number; found {scores[numbers.index(None)]!r:.40}")
        checked.append([number for number in numbers if number is not None])
    return checked


def _as_finite(score: Any) -> float | None:
    """A number as a float; None for anything else, and for what no finite float is."""
    if isinstance(score, bool) or not isinstance(score, Real):
        return None
    try:
        number = float(score)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_list(given: Any) -> list[Any] | None:
    """A list, a tuple, an array or a tensor as a list; None for anything else."""
    listed = given.tolist() if hasattr(given, "tolist") else list(given) if isinstance(given, tuple) else given
    return listed if isinstance(listed, list) else None
