"""Holding out the non-English names of some concepts, as mentions to test on.

Whether a concept is held out depends on its identifier and the seed alone (sha256), so neither the order of rows nor a concept added
later moves another one between training and test. English names all stay: they are the dictionary that mentions are linked into. A
concept without an English name could not be found there, so it is never held out.
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
    """training: the terminology without the held-out names. mentions: the held-out names as xsap.mentions. concepts_held_out,
    names_held_out: how many concepts lost their non-English names, and how many names those are."""

    training: Terminology
    mentions: pa.Table
    concepts_held_out: int
    names_held_out: int

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write `terminology/` and `mentions.tsv` into one folder, both or neither. Raises ArtifactError if `path` is taken."""
        with publish(path, "split", {"facts": self.training.metadata}, overwrite=overwrite) as folder:
            self.training.save(folder / TERMINOLOGY)
            write_mentions(self.mentions, folder / MENTIONS)


def split_terminology(
    terminology: Terminology, *, fraction: float, seed: int = 0, statuses: Collection[str] | None = None
) -> Split:
    """Hold out the non-English names of a `fraction` of the concepts that have an English name.

    statuses: only held-out names of these translation statuses become mentions, but none of the others stays in training. Each mention is
    unique by (language, mention), and right for it are all concepts that bear the name in that language anywhere in the terminology.
    Raises ConfigError for a fraction outside (0, 1), DataError if nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the test fraction must lie between 0 and 1, found {fraction}")
    names = terminology.names
    english = pc.equal(names["language"], ENGLISH)
    linkable = pc.unique(names["concept_id"].filter(english))
    if not len(linkable):
        raise DataError(
            "the terminology has no English name, so there is nothing that mentions could be linked to; add English names first"
        )
    chosen = pa.array(
        [concept_id for concept_id in linkable.to_pylist() if is_held_out(concept_id, fraction, seed)], pa.string()
    )
    away = pc.and_(pc.is_in(names["concept_id"], chosen), pc.invert(english))
    away_concepts = len(pc.unique(names["concept_id"].filter(away)))
    test = names.filter(away)
    if statuses is not None:
        check_choice(
            statuses, set(pc.unique(names["status"]).drop_null().to_pylist()), "translation status", "the terminology"
        )
        test = test.filter(pc.is_in(test["status"], pa.array(sorted(statuses), pa.string())))
    if not test.num_rows:
        raise DataError(
            f"no name is held out: none of the {len(chosen):,} concepts chosen has a fitting non-English name; hold out a larger share"
        )
    metadata = {
        "of": terminology.content_hash,
        "fraction": fraction,
        "seed": seed,
        "test_status": sorted(statuses) if statuses is not None else None,
    }
    training = Terminology(
        names.filter(pc.invert(away)), terminology.concepts, terminology.metadata | {"split": metadata}
    )
    return Split(training, _build_mentions(test, names), away_concepts, names.num_rows - training.names.num_rows)


def is_held_out(concept_id: str, fraction: float, seed: int) -> bool:
    """Whether a concept belongs to the test part: its hash with the seed, read as a number in [0, 1), is below `fraction`."""
    digest = sha256(f"{seed}\0{concept_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < fraction


def _build_mentions(test: pa.Table, names: pa.Table) -> pa.Table:
    """The names in `test` as mentions, each once a language, in order, with every concept that bears it in `names`."""
    key = ["language", "name"]
    bearers = names.select([*key, "concept_id"]).join(
        test.select(key).group_by(key).aggregate([]), keys=key, join_type="inner"
    )
    grouped = (
        bearers.group_by(key).aggregate([("concept_id", "distinct")]).sort_by([(column, "ascending") for column in key])
    )
    ids = [sorted(group) for group in grouped["concept_id_distinct"].to_pylist()]
    return build_mentions(grouped["name"].to_pylist(), grouped["language"].to_pylist(), ids)


def overlap_lines(split: Split) -> list[str]:
    """For each language: its mentions, and how many of them equal an English name, or a training name of any language.

    Two strings are equal if they are under EXACT_MATCH. Such mentions are kept: they are real, but they say less about a model.
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
    return aligned([("mentions", "all", "equal an English name", "else equal a training name"), *rows])
