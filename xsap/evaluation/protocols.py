"""Mentions with known concepts → scores by language, under one of two protocols that are never mixed.

*concept* is what a user of the linker gets: cosine, one text policy for mentions and names, @k counts concepts. *reference* is the original
SapBERT script (eval.py): dictionary lower-cased, mention as written, raw vectors, dot product, and @k counts names, that is rows of the
dictionary, one for each name of each concept. A mention is split at `+` and `|` into parts that must all be hit; a row is right if one of its
ids is one of the gold ids. Where the original leaves ties to topk, here the lower row comes first. Mentions without a concept (NIL) are no part
of the scores under either protocol; they are counted apart.

Anything that links is a `MentionLinker`, declared here; anything that embeds names is a `linking.encoder_spec.Embedder`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xsap.errors import ConfigError, DataError
from xsap.evaluation.gold import check_gold
from xsap.evaluation.metrics import ScoreRow, rank_of, rank_of_all, split_ids
from xsap.files import byte_lines, file_ending
from xsap.languages import UNKNOWN
from xsap.linking.calibration import risk_coverage
from xsap.linking.encoder_spec import Embedder, encode_as_mentions
from xsap.linking.index import Index
from xsap.linking.mention_context import MentionContext, contexts_in
from xsap.linking.results import Result
from xsap.search.exact import search_array
from xsap.search.vectors import Floats, Rows
from xsap.terms.mentions import build_mentions, read_id_names, read_mentions
from xsap.text import TextPolicy, normalize_all

K = 10  # candidates per mention
CUTS = {"concept": (1, 5, 10), "reference": tuple(range(1, K + 1))}  # the k of Acc@k
_COVERAGES_SHOWN = (0.25, 0.5, 0.75, 0.9, 1.0)
COVERAGES = tuple(step / 20 for step in range(1, 21))  # of a risk-coverage curve
SEED = 0
LOWER = TextPolicy(case="lower", unicode="none")
CASED = TextPolicy(case="cased", unicode="none")


class MentionLinker(Protocol):
    """Anything that links mentions, whose languages may be known, to concepts."""

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""

    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str] | None = None) -> Sequence[Result]:
        """A result for each mention, with at most `top_k` candidates."""


class NilCounts(NamedTuple):
    """Mentions without a concept (NIL), for which every answer is wrong.

    Attributes:
        n: Number of mentions.
        linked: How many of them got an answer.
        unlinked: How many got none, which is right.
    """

    n: int
    linked: int
    unlinked: int


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """How many answers are wrong if only the most certain are given: of the mentions that got one, those without a concept (NIL) included.

    Attributes:
        by: What they are ordered by: confidence of a calibrated index, else score.
        n: Mentions with an answer.
        area: Mean risk over all coverages, in [0, 1].
        curve: (coverage, risk) at COVERAGES.
    """

    by: str
    n: int
    area: float
    curve: Sequence[tuple[float, float]]

    @classmethod
    def from_answers(cls, answers: Sequence[Result], gold: Sequence[Collection[str]]) -> "RiskCoverage | None":
        """None without any answer. gold: the right concepts of each mention."""
        best = [(answer.candidates[0], ids) for answer, ids in zip(answers, gold, strict=True) if answer.candidates]
        if not best:
            return None
        by = "score" if any(found.confidence is None for found, _ in best) else "confidence"
        sure = np.array([getattr(found, by) for found, _ in best], np.float64)
        _, risk = risk_coverage(sure, np.array([found.concept_id in ids for found, ids in best], bool))
        at = [max(1, round(coverage * len(risk))) - 1 for coverage in COVERAGES]
        return cls(by, len(risk), float(risk.mean()), [(x, float(risk[i])) for x, i in zip(COVERAGES, at, strict=True)])


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Scores of mentions.

    Attributes:
        protocol: concept or reference.
        k: Candidates per mention.
        languages: Language → its scores; mentions without a concept are no part of them.
        mean: Means over the languages, each with equal weight.
        without_concept: Language → its mentions without a concept, where there are any.
        risk: Of abstention; None under the reference protocol, which has no confidence.
    """

    protocol: str
    k: int
    languages: Mapping[str, ScoreRow]
    mean: ScoreRow
    without_concept: Mapping[str, NilCounts]
    risk: RiskCoverage | None = None

    @property
    def all_without_concept(self) -> NilCounts:
        """The mentions without a concept, of all languages together."""
        return NilCounts(
            *(sum(column) for column in zip(NilCounts(0, 0, 0), *self.without_concept.values(), strict=True))
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = {code: row.to_dict() for code, row in self.languages.items()}
        by_language = {code: counts._asdict() for code, counts in self.without_concept.items()}
        return {
            "protocol": self.protocol,
            "k": self.k,
            "languages": rows,
            "mean": self.mean.to_dict(),
            "without_concept": {**self.all_without_concept._asdict(), "languages": by_language},
            "risk_coverage": None if self.risk is None else asdict(self.risk),
        }


class ReferenceDictionary(NamedTuple):
    """Rows of the reference protocol's dictionary, in their order: a name, and the ids it stands for (`D1|D2` for either)."""

    concept_ids: list[str]
    names: list[str]

    @classmethod
    def from_index(cls, index: Index) -> "ReferenceDictionary":
        """The names of an index as written in their sources, a row for each concept of each."""
        owners = index.dictionary.name_concepts
        names = index.names["name"].take(np.repeat(np.arange(len(owners)), np.diff(owners.starts)))
        return cls(index.concepts["concept_id"].take(owners.concepts).to_pylist(), names.to_pylist())

    @classmethod
    def read(cls, path: Path | str) -> "ReferenceDictionary":
        """A file of `id||name` lines, in its order, with duplicates. Raises DataError."""
        return cls(*read_id_names(path))

    def metadata(self) -> dict[str, int]:
        """Counts for a report."""
        return {"names": len(self.names), "concepts": len(set(self.concept_ids))}


def read_queries(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int = 1,
) -> pa.Table:
    """Mentions as `terms.mentions.read_mentions` reads them or, if the first line of a text file has a `||`, from `id||mention` lines.

    Args:
        path: The file.
        columns: See `read_mentions`.
        sheet: See `read_mentions`.
        encoding: See `read_mentions`.
        header_row: See `read_mentions`.

    Raises:
        ConfigError: Columns are given for lines without headers.
        DataError: It cannot be read, or no mention has a gold concept.
    """
    if _has_id_lines(Path(path)):
        if columns:
            raise ConfigError(f"{path}: lines id||mention have no headers, found --column; leave it out")
        ids, names = read_id_names(path)
        mentions = build_mentions(names, [UNKNOWN] * len(names), [sorted(split_ids(each)) for each in ids])
    else:
        mentions = read_mentions(path, columns=columns, sheet=sheet, encoding=encoding, header_row=header_row)
    if not pc.any(pc.greater(pc.list_value_length(mentions["concept_ids"]), 0)).as_py():
        raise DataError(
            f"{path}: expected mentions with their gold concepts in the column 'concept_ids', found none that has any; "
            "if the column has another name: --column concept_ids=HEADER"
        )
    return mentions


def _has_id_lines(path: Path) -> bool:
    """Whether a file is one of `id||mention` lines: its first line has a `||`, and its ending is none of another format's."""
    if not path.is_file() or file_ending(path) not in ("", ".txt", ".tsv", ".csv"):
        return False
    return b"||" in next((line for _, line in byte_lines(path)), b"")


def evaluate(linker: MentionLinker, mentions: pa.Table) -> EvaluationReport:
    """Score a linker by language under the concept protocol: Acc@1, Acc@5, Acc@10 and MRR with 95 % bootstrap intervals.

    A mention none of whose gold concepts is in the dictionary counts as a miss, and in `gold_not_in_dictionary` too. A mention without a concept
    (NIL) is counted in `without_concept` alone.

    Args:
        linker: A `Linker`, or anything else that links.
        mentions: A table of `terms.mentions.SCHEMA`, as `read_queries` gives.

    Returns:
        The report; its `to_dict` is what `xsap evaluate --json` prints.

    Raises:
        DataError: No mention has a gold concept, or none of the gold concepts can be an answer.
    """
    known, gold = frozenset(linker.concept_ids), mentions["concept_ids"].to_pylist()
    check_gold(gold, known)
    ranks, answers = concept_ranks(linker, mentions, K)
    linked = [bool(answer.candidates) for answer in answers]
    report = _report("concept", mentions, ranks, [known.isdisjoint(ids) for ids in gold], linked)
    return replace(report, risk=RiskCoverage.from_answers(answers, gold))


def concept_ranks(
    linker: MentionLinker, mentions: pa.Table, k: int, *, composite: bool = False
) -> tuple[list[int], list[Result]]:
    """The rank of each mention's first right concept, and the answer that gave it.

    Args:
        linker: What links.
        mentions: A table of `terms.mentions.SCHEMA`.
        k: Candidates per mention.
        composite: Whether a mention `a|b` names several concepts: each part is linked alone, all must be hit, and the worst part is the answer.
    """
    columns = (mentions[name].to_pylist() for name in ("mention", "language"))
    wholes = [
        [(part, language, context) for part in (mention.split("|") if composite else [mention])]
        for mention, language, context in zip(*columns, contexts_for(linker, mentions), strict=True)
    ]
    parts = {part: i for i, part in enumerate(dict.fromkeys(part for whole in wholes for part in whole))}
    results = link_in_context(linker, list(parts), k)
    ranks: list[int] = []
    answers: list[Result] = []
    for whole, ids in zip(wholes, mentions["concept_ids"].to_pylist(), strict=True):
        of_parts = [results[parts[part]] for part in whole]
        part_ranks = [rank_of(([c.concept_id] for c in result.candidates), ids) for result in of_parts]
        ranks.append(rank_of_all(part_ranks))
        answers.append(of_parts[part_ranks.index(ranks[-1])])
    return ranks, answers


def contexts_for(linker: MentionLinker, mentions: pa.Table) -> list[MentionContext | None]:
    """The contexts of mentions, if a linker's answers depend on them; else none, so that equal mentions are linked once."""
    return contexts_in(mentions) if getattr(linker, "uses_context", False) else [None] * mentions.num_rows


def link_in_context(
    linker: MentionLinker, asked: Sequence[tuple[str, str, MentionContext | None]], k: int
) -> Sequence[Result]:
    """Link mentions with their languages, and with their contexts if any has one."""
    given: Mapping[str, Any] = {"context": [context for *_, context in asked]} if any(each[2] for each in asked) else {}
    return linker.link([text for text, *_ in asked], k, languages=[language for _, language, _ in asked], **given)


def evaluate_reference(
    encoder: Embedder, dictionary: ReferenceDictionary, mentions: pa.Table, *, progress: bool = False
) -> EvaluationReport:
    """Score an encoder by language under the reference protocol; `gold_not_in_dictionary` as in `evaluate`.

    Args:
        encoder: What embeds names and mentions.
        dictionary: The rows to search.
        mentions: A table of `terms.mentions.SCHEMA`.
        progress: Whether to show a progress bar.

    Raises:
        DataError: No mention has a gold concept, or none of the gold concepts is in the dictionary.
    """
    vectors = reference_vectors(
        dictionary.names, lambda names: encoder.encode(names, unit=False, policy=CASED, progress=progress)
    )

    def nearest(parts: list[str], k: int) -> Rows:
        return search_array(vectors, encode_as_mentions(encoder, parts, unit=False, policy=CASED), k)[1]

    gold = [[part for ids in given for part in split_ids(ids)] for given in mentions["concept_ids"].to_pylist()]
    check_gold(gold, {part for ids in dictionary.concept_ids for part in split_ids(ids)}, dictionary="dictionary")
    ranks, missing = reference_ranks(nearest, dictionary, mentions, K)
    return _report("reference", mentions, ranks, missing, [True] * len(ranks))


def reference_vectors(names: Sequence[str], encode: Callable[[list[str]], Floats]) -> Floats:
    """Vectors of a dictionary under the reference protocol: names lower-cased, equal ones encoded once, so that their scores tie.

    Args:
        names: (n,) as written.
        encode: Names → raw vectors (names, dimension), with the policy CASED.

    Returns:
        (n, dimension).
    """
    lowered = normalize_all(names, LOWER)
    position = {name: i for i, name in enumerate(dict.fromkeys(lowered))}
    return encode(list(position))[[position[name] for name in lowered]]


def reference_ranks(
    nearest: Callable[[list[str], int], Rows], dictionary: ReferenceDictionary, mentions: pa.Table, k: int
) -> tuple[list[int], list[bool]]:
    """The rank of each mention's first right row, and whether none of its gold is in the dictionary.

    Args:
        nearest: (strings, k) → (strings, k) rows, best first, negative where there are no more.
        dictionary: The rows.
        mentions: A table of `terms.mentions.SCHEMA`.
        k: Rows per part of a mention.
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


def _report(
    protocol: str, mentions: pa.Table, ranks: list[int], missing: list[bool], linked: list[bool]
) -> EvaluationReport:
    languages, all_ranks, all_missing, all_linked = (
        np.array(mentions["language"].to_pylist(), object),
        np.array(ranks, np.int64),
        np.array(missing, bool),
        np.array(linked, bool),
    )
    nil = np.array([not ids for ids in mentions["concept_ids"].to_pylist()], bool)
    cuts = {f"acc@{k}": k for k in CUTS[protocol]}
    groups = {code: ~nil & (languages == code) for code in sorted(set(languages[~nil]))}
    rows = {
        code: ScoreRow.from_ranks(
            [all_ranks[chosen]], cuts, seed=SEED, gold_not_in_dictionary=int(all_missing[chosen].sum())
        )
        for code, chosen in groups.items()
    }
    by_language = [all_ranks[chosen] for chosen in groups.values()]
    mean = ScoreRow.from_ranks(by_language, cuts, seed=SEED, gold_not_in_dictionary=int(all_missing[~nil].sum()))
    without_concept = {}
    for code in sorted(set(languages[nil])):
        answered = all_linked[nil & (languages == code)]
        without_concept[code] = NilCounts(len(answered), int(answered.sum()), int((~answered).sum()))
    return EvaluationReport(protocol, K, rows, mean, without_concept)


def to_text(report: EvaluationReport) -> str:
    """A report as a table for people: percent, with 95 % intervals."""
    header = f"{'':8}{'n':>7}{'gold not in dictionary':>24}{'Acc@1':>8}{'':16}{'Acc@5':>8}{'':16}{'MRR':>8}"
    lines = [f"protocol: {report.protocol}; percent, with 95 % bootstrap intervals", header]
    for name, row in [*report.languages.items(), ("mean", report.mean)]:
        cells = ""
        for metric in ("acc@1", "acc@5"):
            value, low, high = (100 * (np.nan if part is None else part) for part in row.scores[metric])
            cells += f"{value:8.1f}{f' [{low:.1f}, {high:.1f}]':16}"
        mrr = row.scores["mrr"].value
        lines.append(
            f"{name:8}{row.n:7,}{row.gold_not_in_dictionary:24,}{cells}{100 * (np.nan if mrr is None else mrr):8.1f}"
        )
    if report.risk is not None:
        lines += ["", *_risk_lines(report.risk)]
    if nil := report.all_without_concept.n:
        linked = report.all_without_concept.linked
        counts = f"{linked:,} got an answer, which is wrong, and {nil - linked:,} got none, which is right"
        by_language = ", ".join(
            f"{code} {each.linked:,} of {each.n:,}" for code, each in report.without_concept.items()
        )
        lines += ["", f"without a concept (NIL), not in the scores: {nil:,}; {counts} (answered: {by_language})"]
    return "\n".join(lines)


def _risk_lines(risk: RiskCoverage) -> list[str]:
    shown = [point for point in risk.curve if point[0] in _COVERAGES_SHOWN]
    head = f"risk and coverage of {risk.n:,} answers, the most certain first by {risk.by}; area under the curve {100 * risk.area:.1f}"
    cells = [("answered", [100 * coverage for coverage, _ in shown]), ("wrong", [100 * wrong for _, wrong in shown])]
    return [head, *(f"{name:8}" + "".join(f"{value:8.1f}" for value in values) for name, values in cells)]
