"""Holding out the non-English names of some concepts, as test mentions.

Whether a concept is held out depends on its identifier and the seed alone (sha256), so neither the order of rows nor a concept added later
moves another one between training and test. All English names stay: they are the dictionary that mentions are linked to. A concept without
an English name cannot be found there, so it is never held out. Its definitions in other languages are left out with its names.
"""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import check_choice, count_by
from xsap.artifacts import publish
from xsap.errors import ConfigError, DataError
from xsap.files import aligned
from xsap.languages import ENGLISH, to_name
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, normalize

TERMINOLOGY, MENTIONS = "terminology", "mentions.tsv"


@dataclass(frozen=True)
class Split:
    """A terminology for training, and mentions for testing.

    training: the terminology without the held-out names. mentions: the held-out names, as xsap.terms.mentions.SCHEMA. concepts_held_out:
    concepts whose non-English names are held out. names_held_out: the number of these names.
    """

    training: Terminology
    mentions: pa.Table
    concepts_held_out: int
    names_held_out: int

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write `terminology/` and `mentions.tsv` into one folder, both or neither. Raises ArtifactError if `path` is taken."""
        with publish(path, "split", {"metadata": self.training.metadata}, overwrite=overwrite) as folder:
            self.training.save(folder / TERMINOLOGY)
            write_mentions(self.mentions, folder / MENTIONS)


def split_terminology(
    terminology: Terminology, *, fraction: float, seed: int = 0, statuses: Collection[str] | None = None
) -> Split:
    """Hold out the non-English names of some of the concepts that have an English name.

    Mentions are unique by language and name; all concepts with that name in that language, anywhere in the terminology, are gold.

    Args:
        terminology: The terminology to split.
        fraction: The fraction of concepts to hold out, between 0 and 1.
        seed: Another seed holds out other concepts.
        statuses: Translation statuses of held-out names that become mentions; None for all. The others are not in the training part either.

    Returns:
        The two parts.

    Raises:
        ConfigError: The fraction is not between 0 and 1.
        DataError: Nothing can be held out, or a status does not occur.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the test fraction must be between 0 and 1, found {fraction}")
    names = terminology.names
    english = pc.equal(names["language"], ENGLISH)
    linkable = pc.unique(names["concept_id"].filter(english))
    if not len(linkable):
        raise DataError(
            "the terminology has no English name, so mentions could not be linked to anything; add English names first"
        )
    chosen = pa.array(
        [concept_id for concept_id in linkable.to_pylist() if is_held_out(concept_id, fraction, seed)], pa.string()
    )
    held_out = pc.and_(pc.is_in(names["concept_id"], chosen), pc.invert(english))
    held_out_concepts = len(pc.unique(names["concept_id"].filter(held_out)))
    test = names.filter(held_out)
    if statuses is not None:
        check_choice(
            statuses, set(pc.unique(names["status"]).drop_null().to_pylist()), "translation status", "the terminology"
        )
        test = test.filter(pc.is_in(test["status"], pa.array(sorted(statuses), pa.string())))
    if not test.num_rows:
        raise DataError(
            f"no name is held out: none of the {len(chosen):,} concepts chosen has a suitable non-English name; hold out a larger fraction"
        )
    metadata = {
        "of": terminology.content_hash,
        "fraction": fraction,
        "seed": seed,
        "test_status": sorted(statuses) if statuses is not None else None,
    }
    definitions = terminology.definitions
    foreign_definitions = pc.and_(
        pc.is_in(definitions["concept_id"], chosen), pc.not_equal(definitions["language"], ENGLISH)
    )
    training = Terminology(
        names.filter(pc.invert(held_out)),
        terminology.concepts,
        terminology.metadata | {"split": metadata},
        definitions=definitions.filter(pc.invert(foreign_definitions)),
        relations=terminology.relations,
    )
    return Split(training, _build_mentions(test, names), held_out_concepts, names.num_rows - training.names.num_rows)


def is_held_out(concept_id: str, fraction: float, seed: int) -> bool:
    """Whether a concept is in the test part: its hash with the seed, as a number in [0, 1), is below `fraction`."""
    digest = sha256(f"{seed}\0{concept_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < fraction


def _build_mentions(test: pa.Table, names: pa.Table) -> pa.Table:
    """The names in `test` as sorted mentions, each once per language, with every concept that has the name in `names`."""
    key = ["language", "name"]
    concepts = names.select([*key, "concept_id"]).join(
        test.select(key).group_by(key).aggregate([]), keys=key, join_type="inner"
    )
    grouped = (
        concepts.group_by(key)
        .aggregate([("concept_id", "distinct")])
        .sort_by([(column, "ascending") for column in key])
    )
    ids = [sorted(group) for group in grouped["concept_id_distinct"].to_pylist()]
    return build_mentions(grouped["name"].to_pylist(), grouped["language"].to_pylist(), ids)


def overlap_lines(split: Split) -> list[str]:
    """A table for people: mentions by language, and how many equal an English name or another training name under EXACT_MATCH.

    Such mentions are kept: they are real, but they say less about a model.
    """
    english, trained = set[str](), set[str]()
    for language, name in zip(
        split.training.names["language"].to_pylist(), split.training.names["name"].to_pylist(), strict=True
    ):
        (english if language == ENGLISH else trained).add(normalize(name, EXACT_MATCH))
    rows = []
    for language, n in count_by(split.mentions["language"]).items():
        mentions = split.mentions.filter(pc.equal(split.mentions["language"], language))["mention"].to_pylist()
        strings = [normalize(mention, EXACT_MATCH) for mention in mentions]
        seen = (sum(s in english for s in strings), sum(s in trained and s not in english for s in strings))
        rows.append((f"{language}  {to_name(language)}", f"{n:,}", *(f"{count:,}" for count in seen)))
    return aligned([("mentions", "all", "equal an English name", "equal another training name"), *rows])
