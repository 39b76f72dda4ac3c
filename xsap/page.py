"""Pages of results: a list of blocks (headings, paragraphs, tables, charts), written as one HTML file or as Markdown.

A report is put together once, as blocks, and then written in either form. The HTML page needs no network and no script and follows the
reader's light or dark mode; every page of the project has its one stylesheet. All text is escaped here: blocks hold plain text, so that names
of terminologies, mentions and paths appear as they are. Charts need matplotlib; without it a page has its tables only.
"""

import csv
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path

from xsap import plots
from xsap.artifacts import write_atomically

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2733; --soft: #57606a; --line: #dde2e7; --tint: #eef3fa; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --soft: #a3abb5; --line: #343b44; --tint: #1f2a38; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; background: var(--page); color: var(--ink); }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin-top: 2.4rem; border-bottom: 1px solid var(--line); } h3 { margin-bottom: .3rem; }
p { max-width: 75ch; } .warning { font-weight: 700; border-left: 4px solid #d9730d; padding-left: .8rem; }
.scroll { overflow-x: auto; margin: .6rem 0; } .scroll svg { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; vertical-align: top; }
th { color: var(--soft); white-space: normal; vertical-align: bottom; } .text { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
.best, .best td:first-child { background: var(--tint); font-weight: 700; }
.marked { white-space: pre-wrap; overflow-wrap: anywhere; } mark { background: var(--tint); color: inherit; border-bottom: 2px solid #d9730d; }
.words .text { white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
"""
_NUMBER = r"[+\-−]?\d[\d,]*(\.\d+)?(e-?\d+)?"
_NUMERIC = re.compile(
    rf"|–|(< )?{_NUMBER}( ?%)?( to {_NUMBER})?( ?\[[^\]\[]*\])?"
)  # a figure, perhaps with its interval
_LATEX_SYNTAX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "–": "--",
        "−": "$-$",
    }
)
_MARKDOWN_SYNTAX = re.compile(r"[\\`*|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[]|~(?=~)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the page's title."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text. warning: whether it is shown as a warning."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; the first row is the header.

    A column of figures is aligned to the right, one of text to the left. words: long text, whose lines are broken. best: the row that is marked,
    counted from 0. bold: (row, column) of the cells in bold, rows counted from 0 below the header.
    """

    rows: Sequence[Sequence[str]]
    words: bool = False
    best: int | None = None
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Chart:
    """An `<svg>` element of plots.to_svg, for the HTML page only."""

    svg: str


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text in which spans are marked, as it is, line ends included.

    Attributes:
        text: The text.
        marks: (start, end, label) of each span; a label is shown where the pointer is on the span. Spans may overlap.
    """

    text: str
    marks: Sequence[tuple[int, int, str]]

    def parts(self) -> list[tuple[str, str | None]]:
        """The text cut at all ends of spans: each part and the labels of the spans that cover it; None where there is none."""
        edges = sorted({0, len(self.text), *(edge for start, end, _ in self.marks for edge in (start, end))})
        waiting = sorted(self.marks, reverse=True)
        parts: list[tuple[str, str | None]] = []
        covering: list[tuple[int, int, str]] = []
        for start, end in pairwise(edges):
            covering = [mark for mark in covering if mark[1] > start]
            while waiting and waiting[-1][0] <= start:
                covering.append(waiting.pop())
            labels = "; ".join(label for _, _, label in covering)
            parts.append((self.text[start:end], labels if covering else None))
        return parts


Block = Heading | Paragraph | Table | Chart | MarkedText


def charts(drawn: plots.Plot | Sequence[plots.Plot], title: str, *, columns: int = 1) -> list[Block]:
    """A chart block of one or several plots; an empty list without matplotlib, so that a report never fails for want of it.

    Args:
        drawn: The plots.
        title: Description for screen readers.
        columns: Number of plots in a row.

    Returns:
        One block or none.
    """
    return [Chart(plots.to_svg(drawn, title=title, columns=columns))] if plots.is_available() else []


def escape(text: str) -> str:
    """Text for an HTML page: markup escaped, and lone surrogates, which a path may have, replaced."""
    return html.escape(text.encode("utf-8", "replace").decode(), quote=False)


def _attribute(text: str) -> str:
    """Text for an attribute in double quotes."""
    return html.escape(text.encode("utf-8", "replace").decode(), quote=True)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Blocks as one HTML page with the project's stylesheet."""
    body = "\n".join(map(_html_of, blocks))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown without the charts, each text on one line; tables of words are not padded, since one long cell would widen all."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {_literal(text)}")
            case Paragraph(text, warning):
                parts.append(f"**{_literal(text)}**" if warning else _literal(text))
            case MarkedText():
                texts = (_literal(text) if label is None else f"**{_literal(text)}**" for text, label in block.parts())
                parts.append(" ".join(filter(None, texts)))
            case Table(rows, words, _, bold):
                cells = [
                    [
                        f"**{_literal(cell)}**" if (number - 1, column) in bold and cell else _literal(cell)
                        for column, cell in enumerate(row)
                    ]
                    for number, row in enumerate(rows)
                ]
                parts.append("\n".join(_unpadded(cells) if words else markdown(cells)))
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the first being the header, as the aligned lines of a Markdown table: first column flush left, others right."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(rows[0]), line(rule), *map(line, rows[1:])]


def numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column has only figures, blanks and dashes under its header, and at least one figure."""
    columns = list(zip(*rows[1:], strict=True)) or [()] * len(rows[0])
    return [
        all(_NUMERIC.fullmatch(cell) for cell in column) and any(cell not in ("", "–") for cell in column)
        for column in columns
    ]


def best_cells(
    rows: Sequence[Sequence[str]], columns: Sequence[int], groups: Sequence[object] | None = None
) -> frozenset[tuple[int, int]]:
    """Cells with the highest figure of their column, as it is shown: of several equal ones all are the best; of a single row none is.

    Args:
        rows: The header and the rows, as a `Table` has them.
        columns: Columns with scores, of which the higher is the better; a cell's first figure counts.
        groups: A label of each row below the header, where only rows with the same one are compared; by default all are.
    """
    labels = list(groups) if groups is not None else [None] * (len(rows) - 1)
    best = set()
    for column in columns:
        for label in dict.fromkeys(labels):
            chosen = [number for number, each in enumerate(labels) if each == label]
            figures = {number: _figure(rows[number + 1][column]) for number in chosen}
            known = [figure for figure in figures.values() if figure is not None]
            if len(chosen) > 1 and known:
                best |= {(number, column) for number, figure in figures.items() if figure == max(known)}
    return frozenset(best)


def _figure(cell: str) -> float | None:
    match = re.match(_NUMBER, cell)
    return float(match[0].replace(",", "").replace("−", "-")) if match else None


def to_csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells as CSV (RFC 4180); None is an empty cell."""
    stream = StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode("utf-8", "replace").decode()


def to_latex(table: Table, caption: str) -> str:
    """A table for LaTeX with the package booktabs: columns of text to the left, figures to the right, the bold cells in bold; all text escaped.

    Args:
        table: The table.
        caption: What it shows, as plain text.
    """

    def line(number: int, row: Sequence[str]) -> str:
        cells = [
            rf"\textbf{{{latex_text(cell)}}}" if (number, column) in table.bold and cell else latex_text(cell)
            for column, cell in enumerate(row)
        ]
        return f"{' & '.join(cells)} \\\\"

    alignment = "".join("r" if numeric else "l" for numeric in numeric_columns(table.rows))
    body = [line(number, row) for number, row in enumerate(table.rows[1:])]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", line(-1, table.rows[0]), r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def latex_text(text: str) -> str:
    """Plain text for LaTeX on one line, with its syntax escaped; a bracket that would begin an argument of a line's end stands in braces."""
    shown = " ".join(text.encode("utf-8", "replace").decode().split()).translate(_LATEX_SYNTAX)
    return f"{{{shown[0]}}}{shown[1:]}" if shown[:1] in ("[", "*") else shown


def percent(value: float | None) -> str:
    """A score in [0, 1], as a report writes it; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def with_interval(row: Mapping[str, object], score: str) -> str:
    """`75.2 [73.6, 76.7]`, from the keys `score` and `score`_interval of a row of scores."""
    value, interval = row[score], row.get(f"{score}_interval")
    if not isinstance(interval, list) or None in interval or not isinstance(value, float | int):
        return percent(value if isinstance(value, float | int) else None)
    low, high = interval
    return f"{percent(value)} [{percent(low)}, {percent(high)}]"


def write_page(blocks: Sequence[Block], path: Path, title: str) -> None:
    """Write blocks as HTML, or as Markdown if the path ends in .md, whole or not at all."""
    text = to_markdown(blocks) if path.suffix == ".md" else to_html(blocks, title)
    with write_atomically(path) as stream:
        stream.write(text)


def _html_of(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, warning):
            return f"<p{' class=warning' if warning else ''}>{escape(text)}</p>"
        case Table():
            return _html_table(block)
        case MarkedText():
            texts = (
                escape(text) if label is None else f'<mark title="{_attribute(label)}">{escape(text)}</mark>'
                for text, label in block.parts()
            )
            return f'<p class=marked dir="auto">{"".join(texts)}</p>'
        case Chart(svg):
            return f'<div class="scroll">{svg}</div>'


def _html_table(table: Table) -> str:
    numeric = numeric_columns(table.rows)
    lines = []
    for number, row in enumerate(table.rows):
        tag = "td" if number else "th"
        mark = " class=best" if number and number - 1 == table.best else ""
        cells = ""
        for column, cell in enumerate(row):
            shown = f"<b>{escape(cell)}</b>" if (number - 1, column) in table.bold else escape(cell)
            cells += f"<{tag}{'' if numeric[column] else ' class=text'}>{shown}</{tag}>"
        lines.append(f"<tr{mark}>{cells}</tr>")
    kind = " class=words" if table.words else ""
    return f'<div class="scroll" tabindex="0"><table{kind}>{"".join(lines)}</table></div>'


def _unpadded(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with all columns flush left and no padding."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{' :-- |' * len(rows[0])}", *body]


def _literal(text: str) -> str:
    """Text that Markdown shows as it is, without raw HTML: its syntax behind backslashes (CommonMark 0.31, section 2.4)."""
    return _MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(text.encode("utf-8", "replace").decode().split()))
