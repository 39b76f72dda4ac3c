"""spaCy components: `xsap_mentions` finds the names of an index as entities, `xsap_linker` links entities to its concepts.

Their factories are entry points, so `nlp.add_pipe("xsap_linker", config={"index": "index/"})` needs no import. Answers have the shape of scispaCy's:
`entity._.kb_ents` is a list of (concept id, score), the first one is `ent_kb_id_` of the entity's tokens, and `linker.kb.cui_to_entity[id]` describes a
concept. The language of a document is that of the pipeline (none where it is `xx`), or `doc._.language` where that extension exists and is set.

Names are found in characters, not in spaCy's tokens. Where a name ends inside a token, as in Chinese text in a pipeline for `xx`, that token is split.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup, Token

from xsap.artifacts import write_atomically
from xsap.errors import ArtifactError, DataError
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.server.concepts import ConceptTable

ENTITY_LABEL, BATCH = "CONCEPT", 256
_STATE = "xsap.json"
_NO_LANGUAGE = ("xx", "mul")


class ConceptEntity(NamedTuple):
    """A concept, with the fields that scispaCy's entities have."""

    concept_id: str
    canonical_name: str
    aliases: list[str]
    types: list[str]
    definition: str | None


class ConceptEntities(Mapping[str, ConceptEntity]):
    """The concepts of an index by their ids, read when they are asked for."""

    def __init__(self, index: Index) -> None:
        self._index, self._table = index, ConceptTable(index.dictionary)

    def __getitem__(self, concept_id: str) -> ConceptEntity:
        entry = self._table.find(concept_id)
        if entry is None:
            raise KeyError(concept_id)
        aliases = [name.text for name in self._table.names_of(entry) if name.text != entry.name]
        details = self._index.dictionary.details
        definition = None if details is None else details.definition_of(entry.row)
        return ConceptEntity(entry.concept_id, entry.name, aliases, list(entry.semantic_types), definition)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.concepts["concept_id"].to_pylist())

    def __len__(self) -> int:
        return len(self._table)


class KnowledgeBase(NamedTuple):
    """The concepts of an index. cui_to_entity: by their ids."""

    cui_to_entity: Mapping[str, ConceptEntity]


class SavedState:
    """The settings of a component, saved with a pipeline, and the index that they belong to.

    Args:
        index: The index.
        settings: The settings, as JSON has them.
    """

    def __init__(self, index: Index, settings: Mapping[str, Any]) -> None:
        self._index, self._settings = index, dict(settings)

    def to_bytes(self) -> bytes:
        """The settings and the index's content hash as JSON."""
        return json.dumps({**self._settings, "content_hash": self._index.content_hash}, indent=1).encode()

    def check(self, saved: bytes, where: str) -> None:
        """Raise ArtifactError if a saved pipeline used another index.

        Args:
            saved: What `to_bytes` gave.
            where: The pipeline, for the message.
        """
        if json.loads(saved).get("content_hash") != self._index.content_hash:
            raise ArtifactError(
                f"{where}: expected the index that the pipeline was saved with, found another one at {self._settings['index']}; "
                "name the right one in config when the pipeline is loaded, or make the pipeline again"
            )

    def to_disk(self, path: Path | str) -> None:
        """Save the state in a folder."""
        with write_atomically(Path(path) / _STATE, binary=True) as stream:
            stream.write(self.to_bytes())

    def from_disk(self, path: Path | str) -> None:
        """Check the state in a folder. Raises ArtifactError."""
        try:
            saved = (Path(path) / _STATE).read_bytes()
            self.check(saved, str(path))
        except (OSError, ValueError, AttributeError):
            raise ArtifactError(
                f"{path}: expected the settings of a component, found none; save the pipeline again"
            ) from None


@lru_cache(maxsize=2)
def _open_once(index: str, model: str | None) -> Linker:
    """A linker, shared by the components of a process that have the same index and model."""
    return Linker.load(index, model=model)


def _language_of(doc: Doc, pipeline: str) -> str | None:
    """The language of a document; None if it is not known, or none that xsap knows."""
    own = doc._.language if Doc.has_extension("language") else None
    code = own or pipeline
    try:
        return None if code in _NO_LANGUAGE else to_iso(str(code))
    except DataError:
        return None


class MentionFinder:
    """Finds names of an index in documents and adds them to `doc.ents`; entities that are there keep their place.

    Args:
        index: The index's folder.
        language: The language of the pipeline.
        model: The folder of the index's model, if it was moved.
        label: The label of the entities.
        fuzzy: Whether to find near spellings, too.
        filter: What may be found, as the arguments of `Filter`.
    """

    def __init__(
        self,
        index: str,
        language: str,
        *,
        model: str | None = None,
        label: str = ENTITY_LABEL,
        fuzzy: bool = False,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> None:
        self.linker, self._language, self._label = _open_once(index, model), language, label
        self._options: dict[str, Any] = {"fuzzy": fuzzy, "filter": filter}
        self.saved = SavedState(self.linker.index, {"index": index, "label": label, **self._options})

    def __call__(self, doc: Doc) -> Doc:
        """Add the names of one document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = BATCH) -> Iterator[Doc]:
        """Add the names of documents, a batch at a time.

        Args:
            stream: The documents.
            batch_size: How many are searched together.
        """
        for docs in _batches(stream, batch_size):
            languages = [_language_of(doc, self._language) or UNKNOWN for doc in docs]
            found = self.linker.find_spans([doc.text for doc in docs], languages, **self._options)
            for doc, spans in zip(docs, found, strict=True):
                free = _outside(spans, [(entity.start_char, entity.end_char) for entity in doc.ents])
                split_tokens(doc, {edge for span in free for edge in span})
                new = [doc.char_span(start, end, self._label) for start, end in free]
                doc.ents = [*doc.ents, *(span for span in new if span is not None)]
            yield from docs

    def to_disk(self, path: Path | str, **_: Any) -> None:
        """Save the settings in a folder."""
        self.saved.to_disk(path)

    def from_disk(self, path: Path | str, **_: Any) -> "MentionFinder":
        """Check that the settings of a folder belong to this index. Raises ArtifactError."""
        self.saved.from_disk(path)
        return self

    def to_bytes(self, **_: Any) -> bytes:
        """The settings as bytes."""
        return self.saved.to_bytes()

    def from_bytes(self, saved: bytes, **_: Any) -> "MentionFinder":
        """Check that settings belong to this index. Raises ArtifactError."""
        self.saved.check(saved, "the pipeline")
        return self


class EntityLinker:
    """Links the entities of documents to the concepts of an index.

    Args:
        index: The index's folder.
        language: The language of the pipeline.
        model: The folder of the index's model, if it was moved.
        top_k: Concepts for each entity.
        options: Further arguments of `Linker.link`: filter, min_confidence, min_precision.
        spans_key: Link `doc.spans[spans_key]` instead of `doc.ents`.

    Attributes:
        linker: What links.
        kb: The concepts of the index.
    """

    def __init__(
        self,
        index: str,
        language: str,
        *,
        model: str | None = None,
        top_k: int = 5,
        options: Mapping[str, Any] | None = None,
        spans_key: str | None = None,
    ) -> None:
        self.linker, self._language, self._top_k = _open_once(index, model), language, top_k
        self._options, self._spans_key = dict(options or {}), spans_key
        self.kb = KnowledgeBase(ConceptEntities(self.linker.index))
        settings = {"index": index, "top_k": top_k, "spans_key": spans_key, **self._options}
        self.saved = SavedState(self.linker.index, settings)
        if not Span.has_extension("kb_ents"):
            Span.set_extension("kb_ents", default=[])

    def __call__(self, doc: Doc) -> Doc:
        """Link the entities of one document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = BATCH) -> Iterator[Doc]:
        """Link the entities of documents, a batch at a time.

        Args:
            stream: The documents.
            batch_size: How many are linked together.
        """
        for docs in _batches(stream, batch_size):
            entities = [self._entities(doc) for doc in docs]
            annotated = self.linker.annotate(
                [doc.text for doc in docs],
                self._top_k,
                languages=[_language_of(doc, self._language) for doc in docs],
                spans=[[(each.start_char, each.end_char) for each in own] for own in entities],
                **self._options,
            )
            for own, text in zip(entities, annotated, strict=True):
                found = {(span.start, span.end): span.result.candidates for span in text.spans}
                for entity in own:
                    candidates = found[entity.start_char, entity.end_char]
                    entity._.kb_ents = [(each.concept_id, each.score) for each in candidates]
                    for token in entity if self._spans_key is None else ():
                        token.ent_kb_id_ = candidates[0].concept_id if candidates else ""
            yield from docs

    def _entities(self, doc: Doc) -> list[Span]:
        if self._spans_key is None:
            return list(doc.ents)
        return list(doc.spans[self._spans_key]) if self._spans_key in doc.spans else []

    def to_disk(self, path: Path | str, **_: Any) -> None:
        """Save the settings in a folder."""
        self.saved.to_disk(path)

    def from_disk(self, path: Path | str, **_: Any) -> "EntityLinker":
        """Check that the settings of a folder belong to this index. Raises ArtifactError."""
        self.saved.from_disk(path)
        return self

    def to_bytes(self, **_: Any) -> bytes:
        """The settings as bytes."""
        return self.saved.to_bytes()

    def from_bytes(self, saved: bytes, **_: Any) -> "EntityLinker":
        """Check that settings belong to this index. Raises ArtifactError."""
        self.saved.check(saved, "the pipeline")
        return self


@Language.factory(  # type: ignore[untyped-decorator]
    "xsap_mentions",
    assigns=["doc.ents"],
    default_config={"model": None, "label": ENTITY_LABEL, "fuzzy": False, "filter": {}},
)
def make_mentions(
    nlp: Language,
    name: str,
    index: str,
    model: str | None,
    label: str,
    fuzzy: bool,
    filter: dict[str, Any],  # noqa: A002
) -> MentionFinder:
    """The component `xsap_mentions`."""
    del name
    return MentionFinder(index, nlp.lang, model=model, label=label, fuzzy=fuzzy, filter=filter)


@Language.factory(  # type: ignore[untyped-decorator]
    "xsap_linker",
    requires=["doc.ents"],
    assigns=["token.ent_kb_id"],
    default_config={
        "model": None, "top_k": 5, "filter": {}, "min_confidence": None, "min_precision": None, "spans_key": None,
    },
)  # fmt: skip
def make_linker(
    nlp: Language,
    name: str,
    index: str,
    model: str | None,
    top_k: int,
    filter: dict[str, Any],  # noqa: A002
    min_confidence: float | None,
    min_precision: float | None,
    spans_key: str | None,
) -> EntityLinker:
    """The component `xsap_linker`."""
    del name
    options = {"filter": filter, "min_confidence": min_confidence, "min_precision": min_precision}
    return EntityLinker(index, nlp.lang, model=model, top_k=top_k, options=options, spans_key=spans_key)


def split_tokens(doc: Doc, edges: Collection[int]) -> None:
    """Split the tokens of a document at characters inside them; the parts have the token's tag, and groups of spans keep their places.

    Args:
        doc: The document.
        edges: Offsets in its text; those at the ends of tokens change nothing.
    """
    cuts: dict[int, list[int]] = {}
    ordered = sorted(edges)
    for token in doc:
        end = token.idx + len(token)
        inside = ordered[bisect_right(ordered, token.idx) : bisect_left(ordered, end)]
        if inside:
            cuts[token.i] = [edge - token.idx for edge in inside]
    if not cuts:
        return
    starts_known = doc.has_annotation("SENT_START")
    places = {doc[number].idx + at for number, inside in cuts.items() for at in inside}
    groups = {
        key: [(each.start_char, each.end_char, each.label, each.kb_id, each.id) for each in group]
        for key, group in doc.spans.items()
    }
    with doc.retokenize() as retokenizer:
        for number, inside in cuts.items():
            token = doc[number]
            parts = [token.text[first:last] for first, last in pairwise([0, *inside, len(token)])]
            heads = [(token, 0) if token.head == token else token.head, *[(token, 0)] * len(inside)]
            retokenizer.split(token, parts, heads, attrs=_attributes(token, len(parts)))
    if not doc.has_annotation("DEP"):  # otherwise sentences follow from the heads
        for token in doc:
            if token.idx in places:
                token.is_sent_start = False if starts_known else None
    for key, own in groups.items():
        spans = [doc.char_span(start, end, label, kb_id, span_id=name) for start, end, label, kb_id, name in own]
        doc.spans[key] = SpanGroup(doc, name=doc.spans[key].name, attrs=doc.spans[key].attrs, spans=spans)


def _attributes(token: Token, count: int) -> dict[str, list[Any]]:
    """What the parts of a token have from it; where nothing is said, spaCy leaves in them what the tokens after it had."""
    own: dict[str, Any] = {"TAG": token.tag, "POS": token.pos}
    if token.has_morph():
        own["MORPH"] = str(token.morph)
    relations = [token.dep_, *["dep" if token.dep else ""] * (count - 1)]  # all but the first part depend on it
    return {"DEP": relations} | {name: [value] * count for name, value in own.items()}


def _outside(spans: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that share no character with those that are taken; both are in order, and neither overlap."""
    starts = [start for start, _ in taken]
    free = []
    for start, end in spans:
        before = bisect_left(starts, end) - 1  # the last one that begins before the end
        if before < 0 or taken[before][1] <= start:
            free.append((start, end))
    return free


def _batches(stream: Iterable[Doc], size: int) -> Iterator[list[Doc]]:
    docs = iter(stream)
    while batch := list(islice(docs, size)):
        yield batch
