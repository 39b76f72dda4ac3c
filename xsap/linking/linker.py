"""Mentions in, ranked concepts out: the only place that turns names into concepts.

A concept counts once, with its best-scoring name. Order: higher score first, of equal scores the lower concept_id; among equally good names
of one concept the index's lower row. Names are over-fetched, and fetched again more widely, until the answer can't change any more: so k
concepts come whenever the index has k, however many names each has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.index import Embedder, Index
from xsap.linking.search import Floats, Rows, search
from xsap.text import EXACT_MATCH, TextPolicy, normalise

LONGEST_MENTION = 2_000  # characters; a longer string is a document, not a term
_BATCH = 4096  # mentions encoded and searched at once
_OVERFETCH = 4  # names for each concept wanted
_FETCHED = 1 << 24  # names held at once when the search widens


@dataclass(frozen=True, slots=True)
class Candidate:
    """A concept, its preferred name, its name that came nearest to the mention, and the cosine of the two."""

    concept_id: str
    name: str
    matched_name: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """A mention as it was given, its candidates, best first, and if there are none the reason."""

    mention: str
    candidates: tuple[Candidate, ...]
    reason: str | None = None


class Linker:
    """Links mentions to the concepts of an index, with the encoder that the index was built with."""

    def __init__(self, encoder: Embedder, index: Index) -> None:
        """Raise ArtifactError if the index was built with another encoder, or with this one used differently."""
        given = (encoder.content, encoder.pooling, encoder.max_length, encoder.policy)
        built = (index.model.content, index.model.pooling, index.model.max_length, index.model.policy)
        if given != built:
            raise ArtifactError(f"the index was built with model {_describe(*built)}, not with {_describe(*given)}. Build it again")
        self.encoder, self.index = encoder, index
        owners = index.names["concept_ids"].combine_chunks()
        counts = pc.list_value_length(owners).to_numpy().astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._owners = pc.index_in(owners.flatten(), index.concepts["concept_id"].combine_chunks()).to_numpy(zero_copy_only=False)
        if self._owners.dtype.kind != "i":  # a null made it float
            raise ArtifactError("the index has a name of a concept that it doesn't list; it is damaged, make it again")

    @classmethod
    def load(cls, index_path: Path | str, *, model: Path | str | None = None, device: str | None = None) -> "Linker":
        """Open an index and its model: the one it was built with, by path and by hash, or `model` if that has the same hash.

        Raises ArtifactError if the index is damaged, or its model gone or another.
        """
        index = Index.load(index_path)
        built, path = index.model, str(model if model is not None else index.model.path)
        gone = index.model.path is None or (Path(path).is_absolute() and not Path(path).exists())
        if model is None and gone:
            raise ArtifactError(f"{index_path}: the model it was built with ({_short(built.content)}) is no longer at {path}; give --model")
        rebuild = f"Rebuild it: xsap index {path} TERMINOLOGY --out {index_path} --overwrite"
        try:
            encoder = Encoder.from_pretrained(path, pooling=built.pooling, max_length=built.max_length, policy=built.policy, device=device)
        except ConfigError as error:
            raise ArtifactError(f"{index_path} was built with another model than {path} ({error}). {rebuild}") from None
        if encoder.content != built.content:
            found = f"{path} ({_short(encoder.content)})"
            raise ArtifactError(f"{index_path} was built with model {_short(built.content)}, not with {found}. {rebuild}")
        return cls(encoder, index)

    @property
    def concept_ids(self) -> frozenset[str]:
        """Every concept that can be an answer."""
        return frozenset(self.index.concepts["concept_id"].to_pylist())

    def link(self, mentions: Iterable[str | None], top_k: int = 5, *, progress: bool = False) -> list[Result]:
        """A result for each mention, in their order, each with at most `top_k` concepts.

        Equal mentions are encoded once. A mention that is None, empty, blank or longer than LONGEST_MENTION has no candidates, and a
        reason. Raises ConfigError for a single string and for a top_k below 1.
        """
        if isinstance(mentions, str):
            raise ConfigError(f"link takes a list of mentions, found the single string '{mentions[:40]}'; put it into a list")
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, found {top_k}")
        given = ["" if mention is None else mention for mention in mentions]
        reasons = [_why_not(mention) for mention in given]
        unique = list(dict.fromkeys(m for m, reason in zip(given, reasons, strict=True) if reason is None))
        answers: dict[str, tuple[Candidate, ...]] = {}
        with tqdm(total=len(unique), desc="link", unit=" mentions", disable=not progress) as bar:
            for start in range(0, len(unique), _BATCH):
                batch = unique[start : start + _BATCH]
                answers.update(zip(batch, self._candidates(batch, top_k), strict=True))
                bar.update(len(batch))
        return [Result(mention, answers.get(mention, ()), reason) for mention, reason in zip(given, reasons, strict=True)]

    def _candidates(self, mentions: list[str], top_k: int) -> list[tuple[Candidate, ...]]:
        """For each mention its best concepts. Widens the search for those whose answer might still change."""
        wanted, total = min(top_k, self.index.concepts.num_rows), len(self.index.vectors)
        queries = self.encoder.encode(mentions)
        answers: list[tuple[Candidate, ...]] = [()] * len(mentions)
        pending, fetch = np.arange(len(mentions)), min(total, _OVERFETCH * wanted)
        while pending.size:
            wider = []
            at_once = max(1, _FETCHED // fetch)
            for start in range(0, len(pending), at_once):
                part = pending[start : start + at_once]
                scores, rows = search(self.index.vectors, queries[part], fetch)
                best, final = self._rank(scores, rows, wanted)
                for i, candidates in zip(part[final], self._describe(best[final], scores[final], rows[final]), strict=True):
                    answers[i] = candidates
                wider.append(part[~final])
            pending, fetch = np.concatenate(wider), min(total, 8 * fetch)
        return answers

    def _rank(self, scores: Floats, rows: Rows, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(q, wanted, 2) best (concept, column of `rows`) of each query, and (q,) whether names not fetched could change them."""
        q, fetch = rows.shape
        counts = (self._starts[rows + 1] - self._starts[rows]).ravel()
        cell = np.repeat(np.arange(rows.size), counts)  # which of the q × fetch names each (name, concept) comes from
        within = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
        concept = self._owners[self._starts[rows.ravel()[cell]] + within].astype(np.int64)
        query = cell // fetch
        first = np.unique(query * self.index.concepts.num_rows + concept, return_index=True)[1]  # best name first, so the first is best
        query, concept, cell = query[first], concept[first], cell[first]
        order = np.lexsort((concept, -scores.ravel()[cell], query))
        query, concept, cell = query[order], concept[order], cell[order]
        starts = np.searchsorted(query, np.arange(q + 1))
        enough = np.diff(starts) >= wanted
        chosen = np.minimum(starts[:-1, None] + np.arange(wanted), len(query) - 1)
        best = np.stack([concept[chosen], cell[chosen] % fetch], axis=2)
        last = np.take_along_axis(scores, best[:, -1:, 1], 1)[:, 0]
        # a name not fetched scores at most as much as the last one fetched: at that score its concept may have the lower id
        complete = fetch == len(self.index.vectors) or wanted == self.index.concepts.num_rows
        return best, enough & ((scores[:, -1] < last) | complete)

    def _describe(self, best: NDArray[np.int64], scores: Floats, rows: Rows) -> list[tuple[Candidate, ...]]:
        """best: (q, wanted, 2) as `_rank` gives it → the candidates of each query."""
        q, wanted, _ = best.shape
        concepts, columns = best[:, :, 0].ravel(), best[:, :, 1]
        ids, names = (self.index.concepts[c].take(concepts).to_pylist() for c in ("concept_id", "preferred_name"))
        matched = self.index.names["name"].take(np.take_along_axis(rows, columns, 1).ravel()).to_pylist()
        values = np.take_along_axis(scores, columns, 1).ravel().tolist()
        flat = [Candidate(*fields) for fields in zip(ids, names, matched, values, strict=True)]
        return [tuple(flat[i * wanted : (i + 1) * wanted]) for i in range(q)]


def _why_not(mention: object) -> str | None:
    """Why a mention can't be linked; None if it can."""
    if not isinstance(mention, str):
        raise ConfigError(f"a mention must be text, found {mention!r} ({type(mention).__name__})")
    if len(mention) > LONGEST_MENTION:
        return f"the mention has {len(mention):,} characters; a term has at most {LONGEST_MENTION:,}"
    if not mention:
        return "the mention is empty"
    if not normalise(mention, EXACT_MATCH):
        return "the mention is blank"
    if any("\ud800" <= character <= "\udfff" for character in mention):
        return "the mention is not valid Unicode: it has half of a surrogate pair"
    return None


def _short(content: str | None) -> str:
    return f"{content[:8]}…" if content else "an unsaved one"


def _describe(content: str | None, pooling: str, max_length: int, policy: TextPolicy) -> str:
    return f"{_short(content)} ({pooling}, {max_length} tokens, {policy.case}, {policy.unicode})"
