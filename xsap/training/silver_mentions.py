"""Silver mentions: names of an index in running text, as mentions whose concept is known without annotators.

A name of a single concept that stands in a text is taken to mean that concept. Which concept a name of several means is not known: it is left
out, or kept with all of them, for who learns to find mentions must not take it for no mention. Names that differ in accents alone are left out.
What was found by its name says nothing about that name, so it must be hidden on the concept's side in training. Every document is accounted for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from xsap.files import RowCounts
from xsap.languages import UNKNOWN
from xsap.linking.linker import Linker
from xsap.linking.mention_names import filter_names
from xsap.linking.name_keys import CASE, EXACT
from xsap.linking.ranking import Filter
from xsap.terms.mentions import build_mentions
from xsap.text_in.documents import TextDocument
from xsap.text_in.words import sentence_at

SEVERAL_CONCEPTS, OTHER_SPELLING, ENOUGH = (
    "name of several concepts",
    "accents or a code",
    "concept has enough mentions",
)
NO_NAME, NO_MENTION = "no name in it", "no mention kept"
MENTIONS_PER_CONCEPT = 20


@dataclass
class SilverCounts:
    """What became of documents and of the names in them.

    Attributes:
        documents: Documents in, those with mentions, and the others by reason.
        mentions: Names found, kept, and dropped by reason.
    """

    documents: RowCounts = field(default_factory=RowCounts)
    mentions: RowCounts = field(default_factory=RowCounts)

    def lines(self) -> list[str]:
        """Lines for people."""
        return [*self.documents.lines("documents"), *self.mentions.lines("names in them")]


def silver_mentions(
    linker: Linker,
    documents: Iterable[list[TextDocument]],
    *,
    per_concept: int | None = MENTIONS_PER_CONCEPT,
    ambiguous: bool = False,
) -> tuple[pa.Table, SilverCounts]:
    """The names of an index in documents.

    Args:
        linker: Of the index.
        documents: Documents in lists, which are searched together.
        per_concept: Mentions of a concept that are kept, so that frequent ones do not drown the others; the first ones; None for all.
        ambiguous: Whether names of several concepts are kept, with all of them.

    Returns:
        A table of `terms.mentions.SCHEMA`, each mention with its sentence, and what became of documents and names.
    """
    ids = linker.index.concepts["concept_id"].to_pylist()
    everything = filter_names(linker.index.dictionary, linker.retriever.mention_names, Filter())
    counts, seen = SilverCounts(), Counter[int]()
    columns: dict[str, list[object]] = {
        name: [] for name in ("mention", "language", "concept_ids", "context", "start", "end", "document_id")
    }
    for batch in documents:
        texts, languages = [each.text for each in batch], [each.language or UNKNOWN for each in batch]
        found = linker.span_finder.find(texts, languages)
        for document, language, spans in zip(batch, languages, found, strict=True):
            mentions = [(document.text[start:end], language) for start, end in spans]
            kept, dropped = 0, Counter[str]()
            for span, hits in zip(spans, linker.retriever.exact_hits(mentions, everything), strict=True):
                concepts = {hit.concept for hit in hits}
                reason = _reason_to_drop(concepts, {hit.match for hit in hits}, seen, per_concept, ambiguous=ambiguous)
                if reason:
                    dropped[reason] += 1
                    continue
                seen.update(concepts)
                kept += 1
                first, last = sentence_at(document.text, span.start, span.end)
                values = (document.text[span.start : span.end], language, sorted(ids[each] for each in concepts), document.text[first:last],
                          span.start - first, span.end - first, document.document_id)  # fmt: skip
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
            counts.mentions += RowCounts(len(spans), kept, dropped)
            reason = None if kept else NO_MENTION if spans else NO_NAME
            counts.documents += RowCounts(1, int(kept > 0), Counter({reason: 1} if reason else {}))
    given = {name: column for name, column in columns.items() if name not in ("mention", "language", "concept_ids")}
    return build_mentions(columns["mention"], columns["language"], columns["concept_ids"], **given), counts  # type: ignore[arg-type]


def without_documents(silver: pa.Table, tested: pa.Table) -> pa.Table:
    """Silver mentions of other documents than those that are tested on: of another id, and not of a sentence that stands in a tested context.

    Args:
        silver: A table of `terms.mentions.SCHEMA`, each mention with its sentence.
        tested: A table of `terms.mentions.SCHEMA`.
    """
    documents = {document for document in tested["document_id"].to_pylist() if document}
    contexts = "\n".join(dict.fromkeys(context for context in tested["context"].to_pylist() if context))
    sentences = silver["context"].to_pylist()
    in_tested = {sentence: sentence in contexts for sentence in dict.fromkeys(sentences)}
    kept = [
        document not in documents and not in_tested[sentence]
        for document, sentence in zip(silver["document_id"].to_pylist(), sentences, strict=True)
    ]
    return silver.filter(pa.array(kept, pa.bool_()))


def _reason_to_drop(
    concepts: set[int], matches: set[str], seen: Counter[int], per_concept: int | None, *, ambiguous: bool
) -> str | None:
    if len(concepts) > 1 and not ambiguous:
        return SEVERAL_CONCEPTS
    if not concepts or not matches <= {EXACT, CASE}:
        return OTHER_SPELLING
    return ENOUGH if per_concept is not None and seen[min(concepts)] >= per_concept else None
