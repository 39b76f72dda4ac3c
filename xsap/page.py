"""Pages of results: a list of blocks (headings, paragraphs, tables, charts), written as one HTML file or as Markdown.

A report is put together once, as blocks, and then written in either form. The HTML page needs no network and no script and follows the
reader's light or dark mode; every page of the project has its one stylesheet. All text is escaped here: blocks hold plain text, so that names
of terminologies, mentions and paths appear as they are. Charts need matplotlib; without it a page has its tables only.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xsap import plots
from xsap.artifacts import write_atomically

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2733; --soft: #57606a; --line: #dde2e7; --tint: #eef3fa; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --soft: #a3abb5; --line: #343b44; --tint: #1f2a38; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; background: var(--page); color: var(--ink); }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin-top: 2.4rem; border-bottom: 1px solid var(--line); } h3 { margin-bottom: .3rem; }
p { max-width: 75ch; } .warning { font-weight: 700; border-left: 4px solid #d9730d; padding-left: .8rem; }
.scroll { overflow-x: auto; margin: .6rem 0; } .scroll svg { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); } .best { background: var(--tint); font-weight: 700; }
.words td, .words th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""
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
    """Rows of cells; the first row is the header. words: the cells are text, not numbers. best: the row that is marked, counted from 0."""

    rows: Sequence[Sequence[str]]
    words: bool = False
    best: int | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """An `<svg>` element of plots.to_svg, for the HTML page only."""

    svg: str


Block = Heading | Paragraph | Table | Chart


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
            case Table(rows, words):
                cells = [[_literal(cell) for cell in row] for row in rows]
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
        case Table(rows, words, best):
            lines = []
            for number, row in enumerate(rows):
                tag = "td" if number else "th"
                mark = " class=best" if number and number - 1 == best else ""
                lines.append(f"<tr{mark}>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
            return f'<div class="scroll"><table{" class=words" if words else ""}>{"".join(lines)}</table></div>'
        case Chart(svg):
            return f'<div class="scroll">{svg}</div>'


def _unpadded(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with all columns flush left and no padding."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{' :-- |' * len(rows[0])}", *body]


def _literal(text: str) -> str:
    """Text that Markdown shows as it is, without raw HTML: its syntax behind backslashes (CommonMark 0.31, section 2.4)."""
    return _MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(text.encode("utf-8", "replace").decode().split()))
