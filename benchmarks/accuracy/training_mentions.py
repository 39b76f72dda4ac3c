"""Training mentions as names of a dictionary, for any system that searches names: with a weight of their own, as `xsap index --mentions` has them.

Each system is measured without them and with them. With a weight of 0 it is the same as without; with 1, annotated strings are names like all
others; by default the weight is learned on folds of the training mentions, see xsap.linking.mention_weight. n-grams of mention names are weighted by
their rarity among the names of both kinds, those of the dictionary's names as without mentions, but with the weight 1 all alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.accuracy.baselines import NameLinker, UniqueNames
from benchmarks.accuracy.dictionary import SearchSpace
from benchmarks.accuracy.tasks import hash_of, with_icd_dot
from xsap.exchange.decided_mentions import read_gold
from xsap.linking.mention_names import Annotations, join_hits, join_names, weighted_search
from xsap.linking.mention_weight import MentionWeight, RowSearch, Searches, learn_mention_weight
from xsap.linking.name_keys import EXACT, Hit
from xsap.linking.ranking import NameSearch
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, normalize, normalize_all

SearchOfRows = Callable[[Sequence[str]], Callable[[Sequence[str]], RowSearch]]
"""Names → mentions → a search for the names nearest to some of them, among given rows."""


@dataclass(frozen=True)
class TrainingMentions:
    """Annotated mentions.

    Attributes:
        mentions: terms.mentions' SCHEMA.
        weight: Of their strings as names, 0 to 1; None to learn it.
    """

    mentions: pa.Table
    weight: float | None = None

    @classmethod
    def read(cls, path: Path, weight: float | None = None) -> "TrainingMentions":
        """The mentions with concepts of a file or a corpus. Raises DataError."""
        table = read_gold(path)
        return cls(table.filter(pc.greater(pc.list_value_length(table["concept_ids"]), 0)), weight)

    def metadata(self) -> dict[str, Any]:
        """What a report states about them."""
        weight = "learnt" if self.weight is None else self.weight
        return {"n": self.mentions.num_rows, "sha256": hash_of(self.mentions), "weight": weight}

    def label(self, system: str) -> str:
        """The name of a system with these mentions."""
        return f"{system} with training mentions" + ("" if self.weight is None else f" of weight {self.weight:g}")


@dataclass(frozen=True)
class _ExactNames:
    """The concepts that a dictionary names as a mention is written, but for letter case."""

    rows: dict[str, int]
    names: UniqueNames

    @classmethod
    def of(cls, names: UniqueNames) -> "_ExactNames":
        keys = normalize_all(names.texts, EXACT_MATCH)
        return cls({key: row for row, key in reversed(list(enumerate(keys)))}, names)

    def hits(self, mention: str) -> list[Hit]:
        row = self.rows.get(normalize(mention, EXACT_MATCH))
        if row is None:
            return []
        starts, concepts = self.names.concepts.starts, self.names.concepts.concepts
        return [Hit(concept, row, EXACT) for concept in concepts[starts[row] : starts[row + 1]].tolist()]


def with_ids_of(space: SearchSpace, mentions: pa.Table) -> pa.Table:
    """Mentions with ids as a dictionary has them: a code of ICD-10 that it does not have is written as classifications write it."""
    known = frozenset(space.concepts)
    ids = [
        [code if code in known or (dotted := with_icd_dot(code)) not in known else dotted for code in row]
        for row in mentions["concept_ids"].to_pylist()
    ]
    column = mentions.schema.get_field_index("concept_ids")
    field = mentions.schema.field(column)
    return mentions.set_column(column, field, pa.array(ids, field.type))


def link_with_mentions(
    plain: NameLinker, space: SearchSpace, training: TrainingMentions, search_of: SearchOfRows, *, seed: int = 0
) -> NameLinker:
    """A linker whose dictionary has the training mentions as further names.

    Args:
        plain: The linker without them.
        space: Its dictionary.
        training: The mentions.
        search_of: Searches names as the linker does.
        seed: Of the folds on which a weight is learned.

    Raises:
        DataError: No training mention has a concept of the dictionary.
    """
    names, first_row = plain.names, len(plain.names.texts)
    mentions = with_ids_of(space, training.mentions)
    annotations = Annotations.from_mentions(mentions, space.concepts)
    strings = annotations.names["name"].to_pylist()
    searches_of, official = search_of([*names.texts, *strings]), np.arange(first_row)
    exact = _ExactNames.of(names)

    def searches(asked: Sequence[str]) -> tuple[NameSearch, RowSearch]:
        search = searches_of(asked)

        def annotated(part: Rows, k: int, rows: Rows) -> tuple[Floats, Rows]:
            scores, found = search(part, k, rows + first_row)
            return scores, found - first_row

        if training.weight == 1:
            return lambda part, k: search(part, k, official), annotated
        return plain.search(asked), annotated

    weight = MentionWeight(1.0 if training.weight is None else training.weight, note="given")
    if training.weight is None:
        found = Searches(*searches(strings), names.concepts, [exact.hits(string) for string in strings])
        weight = learn_mention_weight(mentions, annotations, found, seed=seed)
    if not weight.weight:
        return plain
    own = replace(annotations.mention_names(), weight=weight.weight)
    everything, sizes = np.arange(len(own)), (first_row, len(own))

    def both(asked: Sequence[str]) -> NameSearch:
        one, other = searches(asked)
        return weighted_search(one, lambda part, k: other(part, k, everything), sizes, first_row, weight.weight)

    return replace(
        plain,
        names=UniqueNames([*names.texts, *strings], join_names(names.concepts, own.name_concepts)),
        search=both,
        exact=lambda mention: join_hits(exact.hits(mention), mention, own, first_row),
    )
