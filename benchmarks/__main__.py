"""`python -m benchmarks …`: benchmark files → mentions, results → tables and plots, and races for speed.

Data on stdout, all else on stderr. A mistake of the user's is one line `error: …` and exit code 2.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias

import pyarrow as pa
import typer

from benchmarks.mantra import read_mantra
from benchmarks.report import markdown, plot, read_systems, to_markdown
from benchmarks.restrict import Account, count, restrict
from benchmarks.xlbel import read_xlbel
from xsap.errors import XsapError
from xsap.languages import to_name
from xsap.terms.mentions import write_mentions
from xsap.terms.terminology import Terminology

_PLAIN = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
app = typer.Typer(**_PLAIN)  # type: ignore[arg-type]
mentions = typer.Typer(help="Published benchmarks → mentions, for `xsap evaluate` to read.", **_PLAIN)  # type: ignore[arg-type]
speed = typer.Typer(help="Races, as ratios within one run.", **_PLAIN)  # type: ignore[arg-type]
app.add_typer(mentions, name="mentions")
app.add_typer(speed, name="speed")

Out: TypeAlias = Annotated[Path, typer.Option(help="The .tsv or .parquet file to write.")]
Within: TypeAlias = Annotated[
    Path | None, typer.Option("--terminology", help="Keep the mentions whose CUI this terminology folder cross-references, under its ids.")
]


class SizeName(StrEnum):
    """How large a model races."""

    BASE = "base"
    SMALL = "small"


class Precision(StrEnum):
    """Of our matrix products."""

    FP32 = "fp32"
    BF16 = "bf16"


@app.callback()
def _benchmarks() -> None:
    """Measure linking and speed."""


@mentions.command("xlbel")
def mentions_xlbel(
    files: Annotated[list[Path], typer.Argument(help="Files of XL-BEL v0.0 or v1.0, such as de_1k_test_query.txt.")],
    out: Out,
    terminology: Within = None,
    language: Annotated[str | None, typer.Option(help="Their language, if their names don't begin with it.")] = None,
) -> None:
    """XL-BEL: `CUI||mention` and `CUI||mention||context` files."""
    _finish(read_xlbel(files, language=language), terminology, out)


@mentions.command("mantra")
def mentions_mantra(archive: Annotated[Path, typer.Argument(help="Mantra-GSC-brat.zip.")], out: Out, terminology: Within = None) -> None:
    """Mantra GSC in its brat form."""
    _finish(read_mantra(archive), terminology, out)


@app.command("report")
def report(
    results: Annotated[list[str], typer.Argument(metavar="NAME=FILE…", help="Results of `xsap evaluate --json`, each with a name.")],
    plot_to: Annotated[Path | None, typer.Option("--plot", help="A .png file for a bar chart of Acc@1.")] = None,
) -> None:
    """Results side by side: a Markdown table on stdout, and a chart."""
    systems = read_systems(results)
    if plot_to:
        plot(systems, plot_to)
        print(f"{plot_to}: bar chart of Acc@1", file=sys.stderr)
    print(to_markdown(systems))


@speed.command("train")
def speed_train(
    terminology: Annotated[Path, typer.Option(help="A terminology folder, whose names are trained on.")],
    size: Annotated[SizeName, typer.Option(help="XLM-R base (12 × 768, 250,002 rows), or 2 × 256 to try it.")] = SizeName.BASE,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs a step.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Steps measured, after one that isn't.")] = 3,
    precision: Annotated[Precision, typer.Option(help="Of our side; the reference's is fp32.")] = Precision.FP32,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """One training step of the original recipe against ours, on the CPU."""
    from benchmarks.speed import race_train, to_text

    result = race_train(terminology, size=size.value, pairs=pairs, steps=steps, precision=precision.value)
    print(json.dumps(result, indent=1) if as_json else to_text(result))


def _finish(table: pa.Table, terminology: Path | None, out: Path) -> None:
    accounts = count(table)
    if terminology:
        table, accounts = restrict(table, Terminology.load(terminology))
    write_mentions(table, out)
    print("\n".join([f"{out}: {table.num_rows:,} mentions", "", *_account_lines(accounts)]))


def _account_lines(accounts: Mapping[str, Account]) -> list[str]:
    """Rows in, kept and dropped by reason, of each language and of all."""
    reasons = sorted({reason for account in accounts.values() for reason in account.dropped})
    counts = {
        f"{code} {to_name(code)}": [a.rows_in, a.kept, *(a.dropped.get(reason, 0) for reason in reasons)] for code, a in accounts.items()
    }
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    header = ["language", "rows in", "kept", *(f"dropped: {reason}" for reason in reasons)]
    return markdown([header, *([label, *(f"{n:,}" for n in row)] for label, row in counts.items())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (sys.argv's by default) and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        sys.exit(app(args=arguments, prog_name="python -m benchmarks", standalone_mode=False) or 0)
    except XsapError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(str(error), 1)
    except Exception as error:
        message = getattr(error, "format_message", None)  # a wrong use of the command line, in typer's words
        if message is None:
            raise
        _fail(f"{message()} See python -m benchmarks --help", 2)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
