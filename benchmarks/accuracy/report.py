"""What a report of results says, in which order: the whole at a glance, then each task, then what all of it was made from."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.accuracy.breakdowns import KINDS
from benchmarks.accuracy.published import figures
from benchmarks.accuracy.scores import DEEPEST, SEED
from xsap.evaluation.metrics import RESAMPLES
from xsap.languages import to_name
from xsap.page import Block, Heading, Paragraph, Table, charts, percent, with_interval, write_page
from xsap.plots import Bar, Line, line_chart, score_bars

TITLE = "Linking results"
_RECALL = f"recall@{DEEPEST}"
_SEEN = (
    "String seen: the mention is a name in the training terminology, of any concept in any language. Concept seen: one of its gold concepts is "
    "there, by other names only. For systems that were trained on something else these parts mean nothing."
)
_ABOUT = (
    f"Scores in per cent with 95 % bootstrap intervals (percentiles of {RESAMPLES:,} resamples, seed {SEED}), which have no width where none or all "
    "are right, and then say nothing. A mean takes each language alike. Protocol concept: @k counts concepts, a concept by its "
    "best name; it is meant wherever none is named. Protocol reference: the original SapBERT script's, @k counts rows of the dictionary, which is "
    "lower-cased, by dot product, and a mention is split at + and | into parts that must all be right; systems without a model compare names "
    "in their own way under both. Equal scores go by concept_id, or by row. A mention of several gold concepts is right with any; all parts of "
    "a composite mention must be right."
)

_TITLES = {"seen": "what training has seen", "length": "length in characters"}

Results = Mapping[str, Any]


def write_pages(results: Results, folder: Path) -> None:
    """Write `report.html` and `report.md`."""
    blocks = blocks_of(results)
    write_page(blocks, folder / "report.html", TITLE)
    write_page(blocks, folder / "report.md", TITLE)


def blocks_of(results: Results) -> list[Block]:
    """The whole report."""
    head: list[Block] = [Heading(1, TITLE), Paragraph(_ABOUT), *_summary(results)]
    return [*head, *chain.from_iterable(_task(name, results) for name in results["tasks"]), *_provenance(results)]


def _summary(results: Results) -> list[Block]:
    rows = [["task", "system", "n", "Acc@1", "Acc@5", "MRR", _RECALL, "reference Acc@1", "reference Acc@5"]]
    for task, scored in results["scores"].items():
        for system, by in scored["scores"].items():
            mean, reference = by["concept"]["mean"], by["reference"]["mean"]
            cells = [with_interval(mean, score) for score in ("acc@1", "acc@5", "mrr", _RECALL)]
            rows.append(
                [task, system, f"{mean['n']:,}", *cells, *(percent(reference[score]) for score in ("acc@1", "acc@5"))]
            )
    return [Table(rows)]


def _task(name: str, results: Results) -> list[Block]:
    metadata, scored = results["tasks"][name], results["scores"][name]
    dictionary = metadata["dictionary"]
    missing = next(iter(scored["scores"].values()))["concept"]["mean"]["unreachable"]
    told = (
        f"{metadata['about']}. {metadata['mentions']['n']:,} mentions into {dictionary['rows']:,} names of {dictionary['concepts']:,} concepts "
        f"({dictionary['source']}); {missing:,} mentions have no gold concept there and count as misses."
    )
    return [
        Heading(2, name),
        Paragraph(told),
        *_languages(name, scored["scores"], "concept"),
        *_languages(name, scored["scores"], "reference"),
        Heading(3, "Accuracy by k, mean over languages"),
        *_curves(name, scored["curves"], results["curve"]),
        Table(
            [
                ["k", *map(str, results["curve"])],
                *([system, *map(percent, curve)] for system, curve in scored["curves"].items()),
            ]
        ),
        *_comparisons(scored),
        *_parts(scored["parts"]),
        *_effects(results.get("effects", {}).get(name, {})),
        *_mistakes(scored["mistakes"], metadata["mentions"]["n"]),
        *_published(name),
    ]


def _label(code: str) -> str:
    return code if code == "mean" else to_name(code)


def _languages(task: str, scores: Mapping[str, Any], protocol: str) -> list[Block]:
    """Acc@1 by language under a protocol, as bars and as a table."""
    systems = {system: by[protocol] for system, by in scores.items()}
    rows = [["language", "n", *systems]]
    chart = {}
    for code, first in next(iter(systems.values())).items():
        rows.append([_label(code), f"{first['n']:,}", *(with_interval(by[code], "acc@1") for by in systems.values())])
        chart[_label(code)] = [Bar(by[code]["acc@1"], *by[code]["acc@1_interval"]) for by in systems.values()]
    title = f"Acc@1 by language, protocol {protocol}"
    drawn = charts(score_bars(chart, list(systems)), f"{task}: {title}, percent")
    return [Heading(3, title), *drawn, Table(rows)]


def _curves(task: str, curves: Mapping[str, Any], ks: Sequence[int]) -> list[Block]:
    """Accuracy by k, k on a logarithmic scale: a line for each system."""
    lines = [
        Line(system, ks, [math.nan if value is None else 100 * value for value in curve])
        for system, curve in curves.items()
    ]
    ticks = [k for k in (1, 2, 5, 10, 20, ks[-1]) if k in ks]
    plot = line_chart(lines, x_label="k", y_label="percent", y_limits=(0, 100), x_ticks=ticks, log_x=True)
    return charts(plot, f"{task}: accuracy by k, mean over languages")


def _comparisons(scored: Results) -> list[Block]:
    """Each system against the one with the best mean."""
    means = {system: by["concept"]["mean"]["acc@1"] for system, by in scored["scores"].items()}
    best = max(means, key=lambda system: means[system] or 0)
    rows = [["best − other", "language", "difference of Acc@1", "McNemar p", "Holm p", "bootstrap p"]]
    for pair in scored["comparisons"]:
        if best not in (pair["first"], pair["second"]):
            continue
        sign, other = (1, pair["first"]) if pair["second"] == best else (-1, pair["second"])
        for code, row in pair["rows"].items():
            low, high = (
                sorted((sign * bound for bound in row["interval"]), key=float)
                if None not in row["interval"]
                else (None, None)
            )
            value = f"{100 * sign * row['difference']:+.1f} [{_signed(low)}, {_signed(high)}]"
            rows.append(
                [f"{best} − {other}", _label(code), value, *(_p(row.get(key)) for key in ("mcnemar", "holm", "p"))]
            )
    if len(rows) == 1:
        return []
    about = (
        "On the same mentions: paired bootstrap for differences and their p, McNemar's exact test by language, and its p adjusted by Holm's "
        f"method over the languages. The bootstrap's p can't fall below {_p(2 / (1 + RESAMPLES))}."
    )
    return [Heading(3, f"Is {best} ahead of the others?"), Paragraph(about), Table(rows)]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _parts(parts: Results) -> list[Block]:
    blocks: list[Block] = []
    for part, by_system in parts.items():
        rows = [[part, "n", *by_system]]
        for label, first in next(iter(by_system.values())).items():
            rows.append([label, f"{first['n']:,}", *(with_interval(by[label], "acc@1") for by in by_system.values())])
        title = f"Acc@1 by {_TITLES.get(part, part)}, all languages together"
        blocks += [Heading(3, title), *([Paragraph(_SEEN)] if part == "seen" else []), Table(rows)]
    return blocks


def _effects(effects: Results) -> list[Block]:
    if not effects:
        return []
    cells = [(row["mention"], row["dictionary"], row["product"]) for row in next(iter(effects.values()))]
    rows = [["mention", "dictionary", "compared by", *effects]]
    for place, cell in enumerate(cells):
        rows.append([*cell, *(percent(found[place]["acc@1"]) for found in effects.values())])
    about = "Acc@1, mean over languages. Each model is given mention and dictionary as they stand (cased) or lower-cased, past its own text policy."
    return [Heading(3, "What case and cosine do"), Paragraph(about), Table(rows, words=True)]


def _mistakes(mistakes: Results, n: int) -> list[Block]:
    kinds = [kind for kind in KINDS if any(kind in by for by in mistakes.values())]
    counts = [["kind of error", *mistakes]]
    counts += [[kind, *(f"{by[kind]['n']:,}" if kind in by else "0" for by in mistakes.values())] for kind in kinds]
    about = f"Of {n:,} mentions, those whose gold did not come first; each counts once, as the first kind that fits."
    blocks: list[Block] = [Heading(3, "Kinds of error"), Paragraph(about), Table(counts)]
    for system, by in mistakes.items():
        rows = [["kind", "language", "mention", "gold", "rank of the gold", "found instead", "by the name", "score"]]
        for kind, found in by.items():
            for e in found["examples"]:
                rank = "–" if e["rank"] is None else str(e["rank"])
                score = "" if e["score"] is None else f"{e['score']:.3f}"
                rows.append(
                    [
                        kind,
                        _label(e["language"]),
                        e["mention"],
                        "; ".join(e["gold"]),
                        rank,
                        e["found"] or "",
                        e["matched"] or "",
                        score,
                    ]
                )
        if len(rows) > 1:
            blocks += [Heading(3, f"Examples: {system}"), Table(rows, words=True)]
    return blocks


def _published(task: str) -> list[Block]:
    known = figures(task)
    if not known:
        return []
    rows = [["system", "language", "metric", "per cent", "source", "read", "note"]]
    rows += [[f.system, f.language, f.metric, f"{f.value:.1f}", f"{f.source}, {f.url}", f.read, f.note] for f in known]
    about = "By others, on other dictionaries, perhaps with other training data: beside ours, not among them."
    return [Heading(3, "Published figures"), Paragraph(about), Table(rows, words=True)]


def _provenance(results: Results) -> list[Block]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    rows = [["what", "value"], ["command", results["command"]], ["made", results["created"]], ["versions", versions]]
    rows.append(["machine", _listed(results["machine"])])
    for name, metadata in results["tasks"].items():
        rows.append([f"{name}: mentions", f"{metadata['mentions']['n']:,}, sha256 {metadata['mentions']['sha256']}"])
        rows.append([f"{name}: dictionary", _listed(metadata["dictionary"])])
        if metadata.get("training"):
            rows.append([f"{name}: training terminology", f"sha256 {metadata['training']}"])
        reasons = [(code, reason, n) for code, a in metadata["accounts"].items() for reason, n in a["dropped"].items()]
        rows_in = sum(a["rows_in"] for a in metadata["accounts"].values())
        dropped = "; ".join(f"{code}: {n:,} {reason}" for code, reason, n in reasons) or "none"
        rows.append([f"{name}: rows", f"{rows_in:,} in = {metadata['mentions']['n']:,} kept + dropped ({dropped})"])
    rows += [[f"system {label}", _listed(metadata)] for label, metadata in results["systems"].items()]
    return [Heading(2, "Where this comes from"), Table(rows, words=True)]


def _listed(metadata: Results) -> str:
    """`kind model, text (case lower, unicode NFKC)`."""

    def said(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"({_listed(value)})"
        if isinstance(value, list):
            return " and ".join(map(said, value))
        return f"{value:,}" if isinstance(value, int) else str(value)

    return ", ".join(f"{key} {said(value)}" for key, value in metadata.items())
