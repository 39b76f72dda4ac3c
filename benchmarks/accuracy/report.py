"""The report of a results folder: a summary, then each task, then the provenance of everything."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.accuracy.breakdowns import ERROR_KINDS, AblationCell, ErrorGroup
from benchmarks.accuracy.published import published_for
from benchmarks.accuracy.results import RunResults, TaskResults
from benchmarks.accuracy.scores import MAX_RANK, MEAN_ROW, SEED, SystemComparison
from xsap.artifacts import write_atomically
from xsap.evaluation.metrics import RESAMPLES, Score, ScoreRow
from xsap.languages import to_name
from xsap.page import Block, Heading, Paragraph, Table, best_cells, charts, percent, to_csv, to_latex, write_page
from xsap.plots import Bar, Line, line_chart, score_bars

TITLE = "Linking results"
_RECALL = f"recall@{MAX_RANK}"
_SEEN = (
    "String seen: the mention is a name in the training terminology, of any concept in any language. Concept seen: one of its gold concepts is "
    "there, by other names only. For systems that were trained on something else these labels mean nothing."
)
_ABOUT = (
    f"Scores in percent with 95 % bootstrap intervals (percentiles of {RESAMPLES:,} resamples, seed {SEED}), which have no width where none or all "
    "are right, and are uninformative there. A mean gives each language equal weight. Protocol concept: @k counts concepts, a concept by its "
    "best name; it is meant wherever no protocol is named. Protocol reference: the original SapBERT script's, @k counts rows of the dictionary, which is "
    "lower-cased, by dot product, and a mention is split at + and | into parts that must all be right; systems without a model compare names "
    "in their own way under both. Equal scores are ordered by concept_id, or by row. A mention with several gold concepts is right with any of them; "
    "all parts of a composite mention must be right."
)
_BREAKDOWN_TITLES = {"seen": "what training has seen", "length": "length in characters"}


def write_pages(results: RunResults, folder: Path) -> None:
    """Write `report.html`, `report.md`, `report.csv` with all figures, and `report.tex` with a table for each task."""
    blocks = report_blocks(results)
    for name in ("report.html", "report.md"):
        write_page(blocks, folder / name, TITLE)
    for name, text in (("report.csv", to_csv(figures(results))), ("report.tex", latex_tables(results))):
        with write_atomically(folder / name) as stream:
            stream.write(text)


def figures(results: RunResults) -> list[list[object]]:
    """Every score with a row of its own, as a fraction: task, system, protocol, language, n, metric, value and interval."""
    rows: list[list[object]] = [["task", "system", "protocol", "language", "n", "metric", "value", "low", "high"]]
    for task, scored in results.scores.items():
        for system, protocols in scored.scores.items():
            for protocol, by_language in protocols.items():
                for code, row in by_language.items():
                    rows += [
                        [task, system, protocol, code, row.n, metric, *row.scores[metric]] for metric in row.scores
                    ]
    return rows


def latex_tables(results: RunResults) -> str:
    """A table for each task, under the concept protocol: a row for each system, the best score of each column in bold."""
    tables = []
    for task, scored in results.scores.items():
        by_system = {system: protocols["concept"] for system, protocols in scored.scores.items()}
        first = next(iter(by_system.values()))
        codes = [code for code in first if code != MEAN_ROW]
        rows = [["system", *map(_label, codes), "mean", "mean Acc@5", "mean MRR"]]
        for system, by in by_system.items():
            mean = by[MEAN_ROW].scores
            cells = [percent(by[code].scores["acc@1"].value) for code in codes]
            rows.append([system, *cells, *(percent(mean[metric].value) for metric in ("acc@1", "acc@5", "mrr"))])
        caption = f"{task}: Acc@1 by language in percent, {first[MEAN_ROW].n:,} mentions; the mean gives each language equal weight."
        tables.append(to_latex(Table(rows, bold=best_cells(rows, range(1, len(rows[0])))), caption))
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


def report_blocks(results: RunResults) -> list[Block]:
    """The whole report."""
    head: list[Block] = [Heading(1, TITLE), Paragraph(_ABOUT), _summary(results)]
    return [*head, *chain.from_iterable(_task_blocks(name, results) for name in results.tasks), *_provenance(results)]


def _summary(results: RunResults) -> Table:
    scores = [protocols for scored in results.scores.values() for protocols in scored.scores.values()]
    has_reference = any("reference" in protocols for protocols in scores)
    rows = [["task", "system", "n", "Acc@1", "Acc@5", "MRR", _RECALL]]
    rows[0] += ["reference Acc@1", "reference Acc@5"] if has_reference else []
    for task, scored in results.scores.items():
        for system, protocols in scored.scores.items():
            concept = protocols["concept"][MEAN_ROW]
            cells = [_with_interval(concept.scores[metric]) for metric in ("acc@1", "acc@5", "mrr", _RECALL)]
            if has_reference:
                reference = protocols["reference"][MEAN_ROW].scores if "reference" in protocols else None
                cells += [percent(reference[metric].value) if reference else "" for metric in ("acc@1", "acc@5")]
            rows.append([task, system, f"{concept.n:,}", *cells])
    return Table(rows, bold=best_cells(rows, range(3, len(rows[0])), [row[0] for row in rows[1:]]))


def _task_blocks(name: str, results: RunResults) -> list[Block]:
    metadata, scored = results.tasks[name], results.scores[name]
    dictionary, mentions = metadata["dictionary"], metadata["mentions"]
    missing = next(iter(scored.scores.values()))["concept"][MEAN_ROW].gold_not_in_dictionary
    about = (
        f"{metadata['about']}. {mentions['n']:,} mentions into {dictionary['rows']:,} names of {dictionary['concepts']:,} concepts "
        f"({dictionary['source']}); {missing:,} mentions have no gold concept there and count as misses."
    )
    return [
        Heading(2, name),
        Paragraph(about),
        *_language_blocks(name, scored, "concept"),
        *(_language_blocks(name, scored, "reference") if _has_reference(scored) else []),
        *_curve_blocks(name, scored, results.curve),
        *_comparison_blocks(scored),
        *_breakdown_blocks(scored.breakdowns),
        *_ablation_blocks(results.ablations.get(name, {})),
        *_error_blocks(scored.errors, mentions["n"]),
        *_published_blocks(name),
    ]


def _has_reference(scored: TaskResults) -> bool:
    """Whether all systems were ranked under the reference protocol."""
    return all("reference" in protocols for protocols in scored.scores.values())


def _with_interval(score: Score) -> str:
    """`75.2 [73.6, 76.7]`."""
    if None in score:
        return percent(score.value)
    return f"{percent(score.value)} [{percent(score.low)}, {percent(score.high)}]"


def _label(code: str) -> str:
    return code if code == MEAN_ROW else to_name(code)


def _language_blocks(task: str, scored: TaskResults, protocol: str) -> list[Block]:
    """Acc@1 by language under a protocol, as bars and as a table."""
    by_system = {system: protocols[protocol] for system, protocols in scored.scores.items()}
    table = _accuracy_table(
        "language", {system: {_label(c): r for c, r in by.items()} for system, by in by_system.items()}
    )
    groups = {
        _label(code): [Bar(*by[code].scores["acc@1"]) for by in by_system.values()]
        for code in next(iter(by_system.values()))
    }
    title = f"Acc@1 by language, protocol {protocol}"
    return [Heading(3, title), *charts(score_bars(groups, list(by_system)), f"{task}: {title}, percent"), table]


def _accuracy_table(name: str, by_system: Mapping[str, Mapping[str, ScoreRow]]) -> Table:
    """Acc@1: a row for each label, a column for each system."""
    rows = [[name, "n", *by_system]]
    for label, first in next(iter(by_system.values())).items():
        cells = [_with_interval(by[label].scores["acc@1"]) for by in by_system.values()]
        rows.append([label, f"{first.n:,}", *cells])
    return Table(rows)


def _curve_blocks(task: str, scored: TaskResults, curve: list[int]) -> list[Block]:
    title = "Accuracy by k, mean over languages"
    lines = [
        Line(system, curve, [float("nan") if value is None else 100 * value for value in values])
        for system, values in scored.curves.items()
    ]
    ticks = [k for k in (1, 2, 5, 10, 20, curve[-1]) if k in curve]
    plot = line_chart(lines, x_label="k", y_label="percent", y_limits=(0.0, 100.0), x_ticks=ticks, log_x=True)
    rows = [["k", *map(str, curve)], *([system, *map(percent, values)] for system, values in scored.curves.items())]
    return [Heading(3, title), *charts(plot, f"{task}: {title}"), Table(rows)]


def _comparison_blocks(scored: TaskResults) -> list[Block]:
    """Each system compared with the one with the best mean."""
    means = {system: by["concept"][MEAN_ROW].scores["acc@1"].value or 0 for system, by in scored.scores.items()}
    best = max(means, key=lambda system: means[system])
    rows = [["best − other", "language", "difference of Acc@1", "McNemar p", "Holm p", "bootstrap p"]]
    for pair in scored.comparisons:
        if best in (pair.first, pair.second):
            rows += _comparison_rows(pair, best)
    if len(rows) == 1:
        return []
    about = (
        "On the same mentions: paired bootstrap for differences and their p, McNemar's exact test by language, and its p adjusted by Holm's "
        f"method over the languages. The bootstrap's p cannot be less than {_p_value(2 / (1 + RESAMPLES))}."
    )
    return [Heading(3, f"Is {best} better than the others?"), Paragraph(about), Table(rows)]


def _comparison_rows(pair: SystemComparison, best: str) -> list[list[str]]:
    sign, other = (1, pair.first) if pair.second == best else (-1, pair.second)
    rows = []
    for code, row in pair.rows.items():
        limits = (row.low, row.high) if sign == 1 else (row.high, row.low)
        low, high = (None if limit is None else sign * limit for limit in limits)
        value = f"{_signed(sign * row.difference)} [{_signed(low)}, {_signed(high)}]"
        rows.append([f"{best} − {other}", _label(code), value, *map(_p_value, (row.mcnemar, row.holm, row.p))])
    return rows


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _p_value(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _breakdown_blocks(breakdowns: Mapping[str, Mapping[str, Mapping[str, ScoreRow]]]) -> list[Block]:
    blocks: list[Block] = []
    for name, by_system in breakdowns.items():
        blocks.append(Heading(3, f"Acc@1 by {_BREAKDOWN_TITLES.get(name, name)}, all languages together"))
        blocks += [Paragraph(_SEEN)] if name == "seen" else []
        blocks.append(_accuracy_table(name, by_system))
    return blocks


def _ablation_blocks(ablations: Mapping[str, list[AblationCell]]) -> list[Block]:
    if not ablations:
        return []
    rows = [["mention", "dictionary", "similarity", *ablations]]
    for cells in zip(*ablations.values(), strict=True):
        first = cells[0]
        rows.append([first.mention, first.dictionary, first.similarity, *(percent(cell.accuracy) for cell in cells)])
    about = "Acc@1, mean over languages. Each model is given mention and dictionary as written (cased) or lower-cased, without its own text policy."
    return [Heading(3, "Ablation of case and similarity"), Paragraph(about), Table(rows, words=True)]


def _error_blocks(errors: Mapping[str, Mapping[str, ErrorGroup]], n: int) -> list[Block]:
    kinds = [kind for kind in ERROR_KINDS if any(kind in groups for groups in errors.values())]
    counts = [["kind of error", *errors]]
    counts += [[kind, *(f"{by[kind].n:,}" if kind in by else "0" for by in errors.values())] for kind in kinds]
    about = f"Of {n:,} mentions, those whose gold is not the first candidate; each counts once, as the first kind that applies."
    blocks: list[Block] = [Heading(3, "Kinds of error"), Paragraph(about), Table(counts)]
    for system, groups in errors.items():
        rows = [["kind", "language", "mention", "gold", "rank of the gold", "found instead", "by the name", "score"]]
        for kind, group in groups.items():
            for e in group.examples:
                rank, score = "–" if e.rank is None else str(e.rank), "" if e.score is None else f"{e.score:.3f}"
                found = [e.found or "", e.matched or ""]
                rows.append([kind, _label(e.language), e.mention, "; ".join(e.gold), rank, *found, score])
        if len(rows) > 1:
            blocks += [Heading(3, f"Examples: {system}"), Table(rows, words=True)]
    return blocks


def _published_blocks(task: str) -> list[Block]:
    figures = published_for(task)
    if not figures:
        return []
    rows = [["system", "language", "metric", "percent", "source", "read", "note"]]
    rows += [
        [f.system, f.language, f.metric, f"{f.value:.1f}", f"{f.source}, {f.url}", f.read, f.note] for f in figures
    ]
    about = "By others, on other dictionaries, perhaps with other training data: for orientation, not for comparison."
    return [Heading(3, "Published figures"), Paragraph(about), Table(rows, words=True)]


def _provenance(results: RunResults) -> list[Block]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    rows = [["what", "value"], ["command", results.command], ["created", results.created], ["versions", versions]]
    rows.append(["machine", _listed(results.machine)])
    for name, metadata in results.tasks.items():
        mentions, counts = metadata["mentions"], metadata["row_counts"]
        rows.append([f"{name}: mentions", f"{mentions['n']:,}, sha256 {mentions['sha256']}"])
        rows.append([f"{name}: dictionary", _listed(metadata["dictionary"])])
        if metadata.get("training"):
            rows.append([f"{name}: training terminology", f"sha256 {metadata['training']}"])
        reasons = [(code, reason, n) for code, each in counts.items() for reason, n in each["dropped"].items()]
        rows_in = sum(each["rows_in"] for each in counts.values())
        dropped = "; ".join(f"{code}: {n:,} {reason}" for code, reason, n in reasons) or "none"
        rows.append([f"{name}: rows", f"{rows_in:,} in = {mentions['n']:,} kept + dropped ({dropped})"])
    rows += [[f"system {label}", _listed(metadata)] for label, metadata in results.systems.items()]
    return [Heading(2, "Provenance"), Table(rows, words=True)]


def _listed(metadata: Mapping[str, Any]) -> str:
    """`kind model, text (case lower, unicode NFKC)`."""

    def to_text(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"({_listed(value)})"
        if isinstance(value, list):
            return " and ".join(map(to_text, value))
        return f"{value:,}" if isinstance(value, int) else str(value)

    return ", ".join(f"{key} {to_text(value)}" for key, value in metadata.items())
