"""Mentions in, ranked concepts out: encode, search, and names → concepts by ranking.py's rules."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.index import Embedder, Index
from xsap.linking.ranking import Owners, rank_concepts
from xsap.linking.search import search
from xsap.text import EXACT_MATCH, TextPolicy, normalise

LONGEST_MENTION = 2_000  # characters; a longer string is a document, not a term
_BATCH = 4096  # mentions encoded and searched at once


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
        self._owners = Owners.of(index.names["concept_ids"].combine_chunks(), index.concepts["concept_id"].combine_chunks())

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
        """For each mention its best concepts."""
        queries = self.encoder.encode(mentions)
        ranked = rank_concepts(
            lambda part, fetch: search(self.index.vectors, queries[part], fetch),
            self._owners,
            len(mentions),
            min(top_k, self._owners.count),
        )
        q, wanted = ranked.concepts.shape
        ids, names = (self.index.concepts[c].take(ranked.concepts.ravel()).to_pylist() for c in ("concept_id", "preferred_name"))
        matched = self.index.names["name"].take(ranked.rows.ravel()).to_pylist()
        flat = [Candidate(*fields) for fields in zip(ids, names, matched, ranked.scores.ravel().tolist(), strict=True)]
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
