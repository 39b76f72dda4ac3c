"""Candidates of mentions: the names that a mention is compared with in training, found with the model as it is.

As in BioSyn (Sung et al., ACL 2020) a mention's candidates are names like it by n-grams, found once, then those nearest by vectors, found anew
at the start of each epoch, without repetitions. Two things differ unless `as_biosyn`. Only the first search encodes the whole dictionary: later
ones look among the names that were nearest to some mention then, or like it by n-grams, or of a right concept, as no other becomes a candidate
within some epochs. And a mention of which no candidate is right gets the nearest name of a right concept in place of its last one, since it has
the most to learn.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens
from xsap.search.exact import search_array
from xsap.search.vectors import Floats, Rows
from xsap.training.mention_set import CandidateNames, MentionSet, right_candidates
from xsap.training.mining import encode_rows
from xsap.training.ngrams import Bag, NgramNames

NAMES_PER_BLOCK = 1 << 16  # of the dictionary, whose vectors are held at once
NEAREST_PER_CANDIDATE = 4  # names kept by the first search for each candidate that vectors find

logger = logging.getLogger(__name__)


@dataclass
class CandidateSearch:
    """Finds the candidates of all mentions; the only writer of `found`.

    Attributes:
        encoder: The model in training.
        tokens: Token ids of the names, then of the mentions.
        names: The names that can be candidates.
        mentions: The mentions.
        first_mention: The row of the first mention in `tokens`.
        ngrams: The names' n-grams.
        bags: The n-grams of each mention.
        count: Candidates of each mention.
        dense: How many of them vectors find.
        refresh_steps: Steps between searches.
        as_biosyn: Whether all names are encoded each time, vectors are not scaled to length 1, and nothing is added.
        at_start: There is a search before the first step.
        names_per_block: Names of the dictionary whose vectors are held at once.
        nearest_per_candidate: Names that the first search keeps for each candidate, among which later ones look.
        found: (m, count) numbers of the candidates of each mention; empty before the first search.
        right: (m, count) whether they are right.
        similarity: (m, count) their string similarities.
    """

    encoder: Encoder
    tokens: Tokens
    names: CandidateNames
    mentions: MentionSet
    first_mention: int
    ngrams: NgramNames
    bags: Sequence[Bag]
    count: int
    dense: int
    refresh_steps: int
    as_biosyn: bool = False
    at_start: bool = True
    names_per_block: int = NAMES_PER_BLOCK
    nearest_per_candidate: int = NEAREST_PER_CANDIDATE
    found: Rows = field(default_factory=lambda: np.empty((0, 0), np.int64))
    right: NDArray[np.bool_] = field(init=False, repr=False)
    similarity: Floats = field(init=False, repr=False)
    _lexical: Rows | None = field(default=None, init=False, repr=False)
    _pool: Rows | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.count = min(self.count, len(self.names.rows))
        self.dense = min(self.dense, self.count)

    def refresh(self, accelerator: Accelerator) -> None:
        """Find the candidates on the main process, and give them to every process."""
        found = torch.zeros(len(self.mentions.texts), self.count, dtype=torch.int64, device=accelerator.device)
        if accelerator.is_main_process:
            found = torch.from_numpy(self.search(accelerator.device)).to(accelerator.device)
        if accelerator.num_processes > 1:
            found = broadcast(found)
        self._set(found.cpu().numpy())

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        pool = {} if self._pool is None else {"pool": torch.from_numpy(self._pool)}
        return {"candidates": torch.from_numpy(self.found)} | pool

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._pool = state["pool"].numpy() if "pool" in state else None
        self._set(state["candidates"].numpy())

    def _set(self, found: Rows) -> None:
        self.found = found
        self.right = right_candidates(self.mentions.gold, found, self.names.concepts, as_biosyn=self.as_biosyn)
        self.similarity = self.ngrams.scores(self.bags, found)

    def search(self, device: torch.device) -> Rows:
        """(m, count) candidates by the model as it is, those found by n-grams first.

        Args:
            device: The model's.
        """
        if self._lexical is None:
            self._lexical = self.ngrams.nearest(self.bags, self.count)
        queries = self._encode(self.first_mention + np.arange(len(self.mentions.texts)), device)
        kept = self.count if self.as_biosyn or self._pool is not None else self.nearest_per_candidate * self.count
        nearest = self._nearest(queries, kept, device)
        if self._pool is None and not self.as_biosyn:
            self._pool = np.unique(np.concatenate([nearest.ravel(), self._lexical.ravel(), self._gold_names()]))
        found = np.array([
            list(dict.fromkeys([*first, *then]))[: self.count]
            for first, then in zip(self._lexical[:, : self.count - self.dense].tolist(), nearest.tolist(), strict=True)
        ])  # fmt: skip
        right = right_candidates(self.mentions.gold, found, self.names.concepts, as_biosyn=self.as_biosyn).any(1)
        if not self.as_biosyn:
            self._add_right_names(found, np.flatnonzero(~right), queries, device)
        logger.info(
            "candidates: of %s mentions %s have a right one, %s",
            f"{len(found):,}",
            f"{int(right.sum()):,}",
            "the others are left out" if self.as_biosyn else "the others get one",
        )
        return found

    def _encode(self, rows: Rows, device: torch.device) -> Floats:
        vectors: Floats = encode_rows(self.encoder, self.tokens, rows, device, unit=not self.as_biosyn).cpu().numpy()
        return vectors

    def _nearest(self, queries: Floats, k: int, device: torch.device) -> Rows:
        """(m, k) the nearest names of each mention, best first, equal ones by number; the vectors of a block of names are held at a time."""
        numbers = np.arange(len(self.names.rows)) if self._pool is None else self._pool
        scores, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(numbers), self.names_per_block):
            block = numbers[start : start + self.names_per_block]
            block_scores, rows = search_array(self._encode(self.names.rows[block], device), queries, k)
            scores, found = np.hstack([scores, block_scores]), np.hstack([found, block[rows]])
            order = np.lexsort((found, -scores))[:, :k]
            scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
        return found

    def _gold_names(self) -> Rows:
        """Numbers of all names of right concepts."""
        wanted = {concept for ids in self.mentions.gold for concept in ids}
        return np.array([i for i, ids in enumerate(self.names.concepts) if not wanted.isdisjoint(ids)], np.int64)

    def _add_right_names(self, found: Rows, lacking: Rows, queries: Floats, device: torch.device) -> None:
        """Put the nearest name of a right concept into the last place of mentions without a right candidate."""
        if not len(lacking):
            return
        names_of: dict[str, list[int]] = {}
        for number in self._gold_names().tolist():
            for concept in self.names.concepts[number]:
                names_of.setdefault(concept, []).append(number)
        own = [sorted({n for concept in self.mentions.gold[i] for n in names_of[concept]}) for i in lacking.tolist()]
        numbers = np.unique(np.concatenate([np.array(each) for each in own]))
        vectors = self._encode(self.names.rows[numbers], device)
        for mention, each in zip(lacking.tolist(), own, strict=True):
            scores = vectors[np.searchsorted(numbers, each)] @ queries[mention]
            found[mention, -1] = each[int(scores.argmax())]
