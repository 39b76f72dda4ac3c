"""Mentions with gold concepts → scores by language, under one of two protocols that are never mixed.

*concept* is ours: what a user of the linker gets. Cosine, one text policy on both sides, @k counts concepts. *reference* is the original
SapBERT script (eval.py): dictionary lower-cased, mention as it stands, raw vectors, dot product, and @k counts names, that is
rows of the dictionary, one for each name of each concept. A mention is split at `+` and `|` into parts that must all be hit;
a row is right if one of its ids is one of the gold's. Where the original leaves ties to topk, here the lower row comes first.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.evaluation.metrics import (
    bootstrap_interval,
    hits,
    macro_mean,
    rank_of,
    rank_of_all,
    reciprocal_ranks,
    split_ids,
)
from xsap.files import read_lines
from xsap.languages import UNKNOWN
from xsap.linking.index import Index
from xsap.linking.results import Result
from xsap.search.exact import search_array
from xsap.search.vectors import Rows
from xsap.terms.mentions import build_mentions, read_id_names, read_mentions
from xsap.text import TextPolicy, normalize_all

K = 10  # candidates looked at
CUTS = {"concept": (1, 5, 10), "reference": tuple(range(1, K + 1))}  # the k of Acc@k
_SEED = 0
_LOWER = TextPolicy(case="lower", unicode="none")
_AS_IT_STANDS = TextPolicy(case="cased", unicode="none")

Report = dict[str, Any]


class Links(Protocol):
    """Anything that links."""

    @property
    def concept_ids(self) -> Collection[str]: ...  # noqa: D102
    def link(self, mentions: Sequence[str], top_k: int) -> Sequence[Result]: ...  # noqa: D102


class RawEncoder(Protocol):
    """What the reference protocol needs of an encoder: vectors as they come, of text as it stands."""

    def encode(
        self, names: Sequence[str], *, unit: bool, policy: TextPolicy, progress: bool = False
    ) -> NDArray[np.float32]: ...


class ReferenceDictionary(NamedTuple):
    """Rows of the reference protocol's dictionary, in their order: a name, and the ids it stands for (`D1|D2` for either)."""

    concept_ids: list[str]
    names: list[str]

    @classmethod
    def of_index(cls, index: Index) -> "ReferenceDictionary":
        """The names of an index as their sources have them, a row for each concept of each."""
        owners = index.dictionary.name_concepts
        names = index.names["name"].take(np.repeat(np.arange(len(owners)), np.diff(owners.starts)))
        return cls(index.concepts["concept_id"].take(owners.concepts).to_pylist(), names.to_pylist())

    @classmethod
    def read(cls, path: Path | str) -> "ReferenceDictionary":
        """A file of `id||name` lines, in its order, duplicates kept. Raises DataError."""
        return cls(*read_id_names(path))

    def metadata(self) -> dict[str, int]:
        """What it holds, as a report states it."""
        return {"names": len(self.names), "concepts": len(set(self.concept_ids))}


def read_queries(path: Path | str) -> pa.Table:
    """Mentions as terms.mentions reads them, or, where the first line has a `||`, from `id||mention` lines. Raises DataError."""
    if Path(path).suffix == ".parquet" or "||" not in next(iter(read_lines(path)), ""):
        mentions = read_mentions(path)
    else:
        ids, names = read_id_names(path)
        mentions = build_mentions(
            names, [UNKNOWN] * len(names), [sorted(split_ids(identifiers)) for identifiers in ids]
        )
    if not pc.any(pc.greater(pc.list_value_length(mentions["concept_ids"]), 0)).as_py():
        raise DataError(
            f"{path}: expected mentions with their right concepts in the column 'concept_ids', found none that has any"
        )
    return mentions


def evaluate_concept(linker: Links, mentions: pa.Table) -> Report:
    """Scores of mentions (terms.mentions' SCHEMA) under the concept protocol.

    A mention that has none of the dictionary's concepts as its gold can't be linked: it counts as a miss, and as `gold_not_in_dictionary` too.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    ranks, _ = concept_ranks(linker, mentions, K)
    known = frozenset(linker.concept_ids)
    return _report("concept", mentions, ranks, [known.isdisjoint(ids) for ids in gold])


def concept_ranks(
    linker: Links, mentions: pa.Table, k: int, *, composite: bool = False
) -> tuple[list[int], list[Result]]:
    """The rank of each mention among k concepts, and the answer that gave it.

    composite: a mention `a|b` names several concepts: each part is linked alone, all must be hit, and the worst part is the answer.
    """
    wholes = [mention.split("|") if composite else [mention] for mention in mentions["mention"].to_pylist()]
    parts = {part: i for i, part in enumerate(dict.fromkeys(part for whole in wholes for part in whole))}
    results = linker.link(list(parts), k)
    ranks: list[int] = []
    answers: list[Result] = []
    for whole, ids in zip(wholes, mentions["concept_ids"].to_pylist(), strict=True):
        of_parts = [results[parts[part]] for part in whole]
        places = [rank_of(([c.concept_id] for c in result.candidates), ids) for result in of_parts]
        ranks.append(rank_of_all(places))
        answers.append(of_parts[places.index(ranks[-1])])
    return ranks, answers


def evaluate_reference(
    encoder: RawEncoder, dictionary: ReferenceDictionary, mentions: pa.Table, *, progress: bool = False
) -> Report:
    """Scores of mentions under the reference protocol; `gold_not_in_dictionary` as in `evaluate_concept`."""
    lowered = normalize_all(dictionary.names, _LOWER)
    unique = {
        name: i for i, name in enumerate(dict.fromkeys(lowered))
    }  # equal names get equal vectors, so that they tie
    vectors = encoder.encode(list(unique), unit=False, policy=_AS_IT_STANDS, progress=progress)[
        [unique[name] for name in lowered]
    ]

    def nearest(parts: list[str], k: int) -> Rows:
        return search_array(vectors, encoder.encode(parts, unit=False, policy=_AS_IT_STANDS), k)[1]

    ranks, gold_not_in_dictionary = reference_ranks(nearest, dictionary, mentions, K)
    return _report("reference", mentions, ranks, gold_not_in_dictionary)


def reference_ranks(
    nearest: Callable[[list[str], int], Rows], dictionary: ReferenceDictionary, mentions: pa.Table, k: int
) -> tuple[list[int], list[bool]]:
    """The rank of each mention among k rows of the dictionary, and whether none of its gold is in the dictionary.

    nearest: (strings, k) → (strings, k) rows, best first, negative where there are no more.
    """
    wholes = [mention.replace("+", "|").split("|") for mention in mentions["mention"].to_pylist()]
    parts = {part: i for i, part in enumerate(dict.fromkeys(part for whole in wholes for part in whole))}
    rows = nearest(list(parts), k).tolist()
    owners = [split_ids(identifiers) for identifiers in dictionary.concept_ids]
    gold = [
        frozenset(part for ids in given for part in split_ids(ids)) for given in mentions["concept_ids"].to_pylist()
    ]
    ranks = [
        rank_of_all([rank_of((owners[row] if row >= 0 else () for row in rows[parts[part]]), wanted) for part in whole])
        for whole, wanted in zip(wholes, gold, strict=True)
    ]
    known = frozenset(part for ids in owners for part in ids)
    return ranks, [known.isdisjoint(wanted) for wanted in gold]


def _report(protocol: str, mentions: pa.Table, ranks: list[int], gold_not_in_dictionary: list[bool]) -> Report:
    """Scores in [0, 1] by language, and their mean over languages, each language alike."""
    languages = np.array(mentions["language"].to_pylist(), object)
    groups = {code: languages == code for code in sorted(set(languages))}
    by_language = [np.array(ranks, np.int64)[chosen] for chosen in groups.values()]
    missing = [int(np.sum(np.array(gold_not_in_dictionary)[chosen])) for chosen in groups.values()]
    rows = [_scores(protocol, [group], [count]) for group, count in zip(by_language, missing, strict=True)]
    return {
        "protocol": protocol,
        "k": K,
        "languages": dict(zip(groups, rows, strict=True)),
        "mean": _scores(protocol, by_language, missing),
    }


def _scores(protocol: str, groups: list[NDArray[np.int64]], gold_not_in_dictionary: list[int]) -> Report:
    scores: Report = {"n": sum(map(len, groups)), "unreachable": sum(gold_not_in_dictionary)}
    for k in CUTS[protocol]:
        values = [hits(ranks, k) for ranks in groups]
        scores[f"acc@{k}"] = macro_mean(values)
        scores[f"acc@{k}_interval"] = list(bootstrap_interval(values, seed=_SEED))
    scores["mrr"] = macro_mean([reciprocal_ranks(ranks) for ranks in groups])
    return scores


def to_text(report: Report) -> str:
    """A report as a table for people: per cent, with 95 % intervals."""
    header = f"{'':8}{'n':>7}{'unreachable':>13}{'Acc@1':>8}{'':16}{'Acc@5':>8}{'':16}{'MRR':>8}"
    lines = [f"protocol: {report['protocol']}; per cent, with 95 % bootstrap intervals", header]
    for name, row in [*report["languages"].items(), ("mean", report["mean"])]:
        cells = []
        for cut in ("acc@1", "acc@5"):
            low, high = row[f"{cut}_interval"]
            cells.append(f"{100 * row[cut]:8.1f}{f' [{100 * low:.1f}, {100 * high:.1f}]':16}")
        lines.append(f"{name:8}{row['n']:7,}{row['unreachable']:13,}{''.join(cells)}{100 * row['mrr']:8.1f}")
    return "\n".join(lines)
