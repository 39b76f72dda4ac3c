"""Results → `report.html`, one file that needs no network, and `report.md`, the same without its charts.

What is said is put together once, as blocks (headings, paragraphs, tables, charts), and written out twice. Names of terminologies, mentions
and paths stand there as they are: what HTML or Markdown would take for its own signs is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from xsap.artifacts import write_atomically

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.6rem}h2{margin-top:2.6rem;border-bottom:1px solid #ccd3da}h3{margin-bottom:.3rem}
table{border-collapse:collapse;margin:.6rem 0;font-size:13.5px;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}th,td{padding:.2rem .6rem;border-bottom:1px solid #e3e7eb;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.words td,.words th{text-align:left;white-space:normal;overflow-wrap:anywhere}
svg{max-width:720px;width:100%;font:12px system-ui,sans-serif;fill:#1d2733}.small{font-size:11px}
.grid{stroke:#dde2e7;fill:none}.whisker{stroke:#333;fill:none}
.legend span{margin-right:1.2rem}.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.4rem}
"""
_SIGNS = re.compile(
    r"[\\`*|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[]|~(?=~)"
)  # where Markdown takes them for its own


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 is the page's."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """The first row is the header. words: cells of text, not of figures."""

    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """HTML, and so for the HTML page alone."""

    html: str


Block = Heading | Paragraph | Table | Chart


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown, each text on one line; tables of words are not padded, for one long cell would widen all."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {_literal(text)}")
            case Paragraph(text):
                parts.append(_literal(text))
            case Table(rows, words):
                cells = [[_literal(cell) for cell in row] for row in rows]
                parts.append("\n".join(_plain(cells) if words else markdown(cells)))
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


def _plain(rows: Sequence[Sequence[str]]) -> list[str]:
    """`markdown` with all columns flush left and no padding."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{' :-- |' * len(rows[0])}", *body]


def _literal(text: str) -> str:
    """Text that Markdown shows as it stands, without raw HTML: its signs behind backslashes (CommonMark 0.31, section 2.4)."""
    return _SIGNS.sub(r"\\\g<0>", " ".join(text.split()))


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Blocks as one page."""
    body = []
    for block in blocks:
        match block:
            case Heading(level, text):
                body.append(f"<h{level}>{escape(text, quote=False)}</h{level}>")
            case Paragraph(text):
                body.append(f"<p>{escape(text, quote=False)}</p>")
            case Table(rows, words):
                body.append(_table(rows, words))
            case Chart(html):
                body.append(html)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(rows: Sequence[Sequence[str]], words: bool) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell, quote=False)}</{tag}>" for cell in row) + "</tr>")
    return f'<div class="wide"><table{" class=words" if words else ""}>' + "".join(lines) + "</table></div>"


def per_cent(value: float | None) -> str:
    """A score in [0, 1], as a report writes it; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"


def with_interval(row: Mapping[str, object], score: str) -> str:
    """`75.2 [73.6, 76.7]`."""
    value, interval = row[score], row.get(f"{score}_interval")
    if not isinstance(interval, list) or None in interval or not isinstance(value, float | int):
        return per_cent(value if isinstance(value, float | int) else None)
    low, high = interval
    return f"{per_cent(value)} [{per_cent(low)}, {per_cent(high)}]"


def write_both(blocks: Sequence[Block], folder: Path, title: str) -> None:
    """Write both pages, each whole or not at all."""
    for name, text in (("report.html", to_html(blocks, title)), ("report.md", to_markdown(blocks))):
        with write_atomically(folder / name) as stream:
            stream.write(text)
