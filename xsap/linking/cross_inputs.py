"""What a cross-encoder reads: a mention, its context with a marker in its place, and its candidates, as token ids.

The mention comes first and is left out of its context, so that a model trained on names finds it where it finds a name. Windows are measured in
tokens. The mention gets up to half of the context's tokens; what stands to its left and right shares the rest, evenly
where both have more than their part. A candidate's text is its preferred name, its semantic types, its names nearest to the mention, and its
definition, cut where its tokens end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from xsap.encoding.packing import Tokens
from xsap.linking.mention_context import split_context
from xsap.linking.name_keys import SIMILAR
from xsap.linking.rerank import RerankCandidate, RerankQuery
from xsap.text import TextPolicy, normalize_all

MARKERS = ("[XSAP_CONTEXT]", "[XSAP_MENTION]")  # before a context, and in it, where the mention is
CONTEXT_TOKENS, CANDIDATE_TOKENS = 40, 12
_CHARACTERS_PER_TOKEN = 12  # of text that is tokenized on either side, where few tokens of it are kept


@dataclass(frozen=True)
class InputWindows:
    """How much a cross-encoder reads.

    Attributes:
        context_tokens: Of the mention and its context, markers and special tokens included; at least 8.
        candidate_tokens: Of a candidate, special tokens included; at least 4.
    """

    context_tokens: int = CONTEXT_TOKENS
    candidate_tokens: int = CANDIDATE_TOKENS


@dataclass(frozen=True)
class CrossInputs:
    """Inputs of g mentions with n candidates in all.

    Attributes:
        prefixes: Each mention with its context.
        texts: Each candidate, those of a mention one after another.
        counts: (g,) candidates of each mention.
        scores: (n,) float32 retrieval scores.
        exact: (n,) float32, 1 where the mention is a name or a code of the candidate, else 0.
    """

    prefixes: Tokens
    texts: Tokens
    counts: NDArray[np.int64]
    scores: NDArray[np.float32]
    exact: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.prefixes)

    def take(self, mentions: NDArray[np.int64]) -> "CrossInputs":
        """The inputs of some mentions, in that order."""
        starts, counts = np.cumsum(self.counts) - self.counts, self.counts[mentions]
        at = np.repeat(starts[mentions] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return CrossInputs(self.prefixes.take(mentions), self.texts.take(at), counts, self.scores[at], self.exact[at])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(g,) tokens of each mention and its candidates."""
        ends: NDArray[np.int64] = np.cumsum(self.counts)
        texts: NDArray[np.int64] = self.texts.offsets[ends] - self.texts.offsets[ends - self.counts]
        sizes: NDArray[np.int64] = self.prefixes.lengths + texts
        return sizes

    def count(self, mentions: NDArray[np.int64]) -> int:
        """Tokens of some mentions and their candidates."""
        return int(self.sizes[mentions].sum())


def candidate_text(candidate: RerankCandidate) -> str:
    """What is read of a candidate, the most telling parts first."""
    types = f" ({', '.join(candidate.semantic_types)})" if candidate.semantic_types else ""
    names = [name for name in (candidate.preferred_name + types, *candidate.names) if name.strip()]
    return " | ".join(names) + (f": {candidate.definition}" if candidate.definition else "")


def cross_inputs(
    queries: Sequence[RerankQuery], tokenizer: PreTrainedTokenizerBase, policy: TextPolicy, windows: InputWindows
) -> CrossInputs:
    """Token ids of mentions and candidates.

    Args:
        queries: What is re-ranked.
        tokenizer: A tokenizer that has MARKERS.
        policy: Normalization of all texts.
        windows: How much is kept.
    """
    special: list[int] = tokenizer("")["input_ids"]
    first, last = (
        special[:1],
        special[1:][-1:],
    )  # some tokenizers have one special token alone, and a text begins with it here
    begin, place = tokenizer.convert_tokens_to_ids(list(MARKERS))
    reach = _CHARACTERS_PER_TOKEN * windows.context_tokens
    parts = [split_context(query.mention, query.context) for query in queries]
    columns = [
        _ids([part.left[-reach:] for part in parts], tokenizer, policy),
        _ids([query.mention for query in queries], tokenizer, policy),
        _ids([part.right[:reach] for part in parts], tokenizer, policy),
    ]
    prefixes = []
    for left, mention, right in zip(*columns, strict=True):
        mention = mention[: windows.context_tokens // 2]
        room = windows.context_tokens - 4 - len(mention)
        before = min(len(left), max(room // 2, room - len(right)))
        after = min(len(right), room - before)
        prefixes.append([*first, *mention, begin, *left[len(left) - before :], place, *right[:after], *last])
    candidates = [candidate for query in queries for candidate in query.candidates]
    read = [candidate_text(candidate) for candidate in candidates]
    known = dict(zip(dict.fromkeys(read), _ids([*dict.fromkeys(read)], tokenizer, policy), strict=True))
    texts = [[*first, *known[text][: windows.candidate_tokens - 2], *last] for text in read]
    return CrossInputs(
        _as_tokens(prefixes),
        _as_tokens(texts),
        np.array([len(query.candidates) for query in queries], np.int64),
        np.array([candidate.score for candidate in candidates], np.float32),
        np.array([candidate.match != SIMILAR for candidate in candidates], np.float32),
    )


def _ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, policy: TextPolicy) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        normalize_all(texts, policy), add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    rows: list[list[int]] = encoded["input_ids"]
    return rows


def _as_tokens(rows: Sequence[Sequence[int]]) -> Tokens:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(np.fromiter((i for row in rows for i in row), np.int32, int(offsets[-1])), offsets)
