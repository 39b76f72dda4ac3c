"""What a re-ranker learns from: mentions in their contexts, with their candidates, of which some, one or none are right.

Candidates are those of the linker itself. Where a mention was found by its exact name, as in silver data, that name is hidden on the concept's
side: each candidate is scored and described by its other names, so that the model has to use these and the context, and the right
candidate stays among the others however low it comes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.encoding.encoder import Encoder
from xsap.files import RowCounts
from xsap.linking.cross_inputs import CrossInputs, InputWindows, cross_inputs
from xsap.linking.fusion import grams
from xsap.linking.linker import Linker
from xsap.linking.mention_context import contexts_in
from xsap.linking.mention_names import filter_names
from xsap.linking.name_keys import ACCENTS, SIMILAR
from xsap.linking.ranking import Filter
from xsap.linking.rejection import non_term_reason, rejection_reason
from xsap.linking.rerank import RerankQuery
from xsap.linking.rerank_candidates import AskedMention, CandidateTexts
from xsap.search.vectors import Floats
from xsap.text import EXACT_MATCH, normalize

NO_OTHER_NAME = "the concept has no other name"
NO_CANDIDATES = "no candidates"
MENTIONS_PER_BATCH = 2048


@dataclass(frozen=True)
class RerankExamples:
    """Mentions to learn from or to test on.

    Attributes:
        queries: g mentions with their candidates.
        right: For each, whether each candidate is right.
        counts: Mentions in, kept, and dropped by reason.
        reachable: How many of the kept mentions have a right candidate.
        rows: (g,) the row of each in the table.
    """

    queries: list[RerankQuery]
    right: list[list[bool]]
    counts: RowCounts
    reachable: int
    rows: NDArray[np.int64]

    def to_inputs(self, encoder: Encoder, windows: InputWindows, *, with_context: bool = True) -> CrossInputs:
        """Token ids of all of them.

        Args:
            encoder: Whose tokenizer and text policy are used.
            windows: How much is read.
            with_context: Whether contexts are read.
        """
        queries = self.queries if with_context else [query._replace(context=None) for query in self.queries]
        return cross_inputs(queries, encoder.tokenizer, encoder.policy, windows)

    def right_columns(self, width: int) -> NDArray[np.bool_]:
        """(g, width) whether each candidate is right."""
        columns = np.zeros((len(self.right), width), bool)
        for row, right in zip(columns, self.right, strict=True):
            row[: len(right)] = right
        return columns

    def joined(self, other: "RerankExamples") -> "RerankExamples":
        """These and others."""
        counts, reachable = self.counts + other.counts, self.reachable + other.reachable
        rows = np.concatenate([self.rows, other.rows])
        return RerankExamples([*self.queries, *other.queries], [*self.right, *other.right], counts, reachable, rows)


def examples_of(
    linker: Linker,
    mentions: pa.Table,
    *,
    top: int,
    hide_names: bool = False,
    mentions_per_batch: int = MENTIONS_PER_BATCH,
) -> RerankExamples:
    """Mentions with their candidates.

    A mention without a concept (NIL), or of which no right concept is among the candidates, is one of which "none of them" is right.

    Args:
        linker: Finds the candidates; a re-ranker of its own plays no part.
        mentions: A table of `terms.mentions.SCHEMA`.
        top: Candidates of each.
        hide_names: Whether names that equal the mention are hidden.
        mentions_per_batch: Mentions whose candidates are found at a time.
    """
    columns = (mentions[name].to_pylist() for name in ("mention", "language", "concept_ids"))
    rows = list(zip(*columns, contexts_in(mentions), strict=True))
    dropped = Counter[str]()
    queries: list[RerankQuery] = []
    right: list[list[bool]] = []
    kept: list[int] = []
    for start in range(0, len(rows), mentions_per_batch):
        part = range(start, min(start + mentions_per_batch, len(rows)))
        found = _queries([(rows[i][0], rows[i][1], rows[i][3]) for i in part], linker, top, hidden=hide_names)
        for i, query in zip(part, found, strict=True):
            if isinstance(query, str):
                dropped[query] += 1
                continue
            own = [each.concept_id in rows[i][2] for each in query.candidates]
            if hide_names and not any(own):
                dropped[NO_OTHER_NAME] += 1
                continue
            queries.append(query)
            right.append(own)
            kept.append(i)
    counts = RowCounts(len(rows), len(kept), dropped)
    return RerankExamples(queries, right, counts, sum(map(any, right)), np.array(kept, np.int64))


def _queries(asked: Sequence[AskedMention], linker: Linker, top: int, *, hidden: bool) -> list[RerankQuery | str]:
    """What a re-ranker gets of each mention, or why it has no candidates."""
    retriever = linker.retriever
    everything = filter_names(linker.index.dictionary, retriever.mention_names, Filter())
    hits = retriever.exact_hits([(text, language) for text, language, _ in asked], everything)
    reasons = [
        rejection_reason(text) or (None if any(hit.match != ACCENTS for hit in own) else non_term_reason(text))
        for (text, _, _), own in zip(asked, hits, strict=True)
    ]
    found: list[RerankQuery | str] = [reason or NO_CANDIDATES for reason in reasons]
    linked = [i for i, reason in enumerate(reasons) if reason is None]
    if not linked:
        return found
    mentions = [asked[i] for i in linked]
    retrieved = retriever.retrieve(
        [text for text, _, _ in mentions], [() if hidden else hits[i] for i in linked], top, everything
    )
    names = [[each.matched_name for each in own] for own in retriever.describe(retrieved)]
    texts = CandidateTexts(linker.index)
    described = iter(texts.describe(mentions, *retrieved, names, hidden=hidden))
    queries = [next(described) if own else None for own in names]
    if hidden:
        queries = _with_hidden_names(queries, names, retrieved.queries, linker)
    for i, query in zip(linked, queries, strict=True):
        found[i] = query or NO_CANDIDATES
    return found


def _with_hidden_names(
    queries: Sequence[RerankQuery | None], matched: Sequence[Sequence[str]], vectors: Floats, linker: Linker
) -> list[RerankQuery | None]:
    """Queries whose candidates have the score of their best name that does not equal the mention; those without such a name are left out.

    Args:
        queries: What a re-ranker gets, without names that equal the mention; None without candidates.
        matched: The matched names of the candidates.
        vectors: (q, d) of the mentions.
        linker: Scores names.
    """
    changed: list[tuple[int, int, str]] = []  # query, candidate, its best other name
    for q, (query, own) in enumerate(zip(queries, matched, strict=True)):
        form = None if query is None else normalize(query.mention, EXACT_MATCH)
        for c, name in enumerate(own):
            if query is not None and normalize(name, EXACT_MATCH) == form:
                each = query.candidates[c]
                changed.append((q, c, each.matched_name))
    scores = _scores([queries[q].mention for q, _, _ in changed], [name for _, _, name in changed], vectors[[q for q, _, _ in changed]], linker)  # type: ignore[union-attr]  # fmt: skip
    new = {(q, c): (score, name) for (q, c, name), score in zip(changed, scores, strict=True)}
    result: list[RerankQuery | None] = []
    for q, query in enumerate(queries):
        if query is None:
            result.append(None)
            continue
        kept = []
        for c, each in enumerate(query.candidates):
            score, name = new.get((q, c), (each.score, "shown"))
            if name:
                preferred = each.preferred_name or name
                kept.append(each._replace(score=score, match=SIMILAR, preferred_name=preferred))
        kept.sort(key=lambda each: -each.score)
        result.append(query._replace(candidates=tuple(kept)) if kept else None)
    return result


def _scores(mentions: Sequence[str], names: Sequence[str], vectors: Floats, linker: Linker) -> list[float]:
    """The retrieval score of each name, for its mention."""
    different = list(dict.fromkeys(names))
    if not different:
        return []
    place = {name: i for i, name in enumerate(different)}
    encoded = linker.encoder.encode(different)
    cosines: list[float] = (encoded[[place[name] for name in names]] * vectors).sum(1).tolist()
    weight = linker.index.fusion_weight
    if not weight:
        return cosines
    bags = [(grams(mention), grams(name)) for mention, name in zip(mentions, names, strict=True)]
    similarities = [len(a & b) / math.sqrt(len(a) * len(b) or 1) for a, b in bags]
    return [(1 - weight) * cosine + weight * own for cosine, own in zip(cosines, similarities, strict=True)]
