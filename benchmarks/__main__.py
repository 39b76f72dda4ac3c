"""`python -m benchmarks mentions …`: a published corpus → one file of mentions, for `xsap evaluate` and `xsap calibrate` to read.

`python -m benchmarks …`: benchmark files → mentions, results → tables and plots, and races for speed.

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

from benchmarks.accuracy import nil as abstaining
from benchmarks.accuracy.compare import comparison_to_markdown, plot, read_systems
from benchmarks.accuracy.dictionary import RowCounts, count, restrict
from benchmarks.accuracy.run import linking, report
from benchmarks.accuracy.tasks import CORPORA, corpus_of
from benchmarks.corpora.mantra import read_mantra
from benchmarks.corpora.xlbel import read_xlbel
from benchmarks.speed import encode as encoding
from benchmarks.speed import prepare as preparing
from benchmarks.speed import scoring
from benchmarks.speed import search as searching
from benchmarks.speed.harness import DeviceName, JsonTo, PlotTo, check_plot, device_of, write_json
from xsap.errors import XsapError
from xsap.languages import to_name
from xsap.page import markdown
from xsap.terms.mentions import SCHEMA, write_mentions
from xsap.terms.terminology import Terminology

mentions_app = typer.Typer(
    help="Published benchmarks → mentions, for `xsap evaluate` to read.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out: TypeAlias = Annotated[Path, typer.Option(help="The .tsv or .parquet file to write.")]
Within: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--terminology", help="Keep the mentions whose CUI this terminology folder cross-references, under its ids."
    ),
]


@mentions_app.command("xlbel")
def mentions_xlbel(
    files: Annotated[list[Path], typer.Argument(help="Files of XL-BEL v0.0 or v1.0, such as de_1k_test_query.txt.")],
    out: Out,
    terminology: Within = None,
    language: Annotated[str | None, typer.Option(help="Their language, if their names don't begin with it.")] = None,
) -> None:
    """XL-BEL: `CUI||mention` and `CUI||mention||context` files."""
    _finish(read_xlbel(files, language=language), terminology, out)


@mentions_app.command("mantra")
def mentions_mantra(
    archive: Annotated[Path, typer.Argument(help="Mantra-GSC-brat.zip.")], out: Out, terminology: Within = None
) -> None:
    """Mantra GSC in its brat form."""
    _finish(read_mantra(archive), terminology, out)


@mentions_app.command("corpus")
def mentions_corpus(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(CORPORA)}, bigbio:DATABASE:LANGUAGE.")],
    path: Annotated[Path, typer.Argument(help="Its file, folder or zip, as it is published.")],
    out: Out,
    terminology: Within = None,
) -> None:
    """Any corpus that `linking` knows."""
    _finish(corpus_of(name).read(path), terminology, out)


def _finish(table: pa.Table, terminology: Path | None, out: Path) -> None:
    accounts = count(table)
    if terminology:
        table, accounts = restrict(table, Terminology.load(terminology))
    write_mentions(table.select(SCHEMA.names), out)
    print("\n".join([f"{out}: {table.num_rows:,} mentions", "", *_account_lines(accounts)]))


def _account_lines(accounts: Mapping[str, RowCounts]) -> list[str]:
    """Rows in, kept and dropped by reason, of each language and of all."""
    reasons = sorted({reason for account in accounts.values() for reason in account.dropped})
    counts = {
        f"{code} {to_name(code)}": [a.rows_in, a.kept, *(a.dropped.get(reason, 0) for reason in reasons)]
        for code, a in accounts.items()
    }
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    header = ["language", "rows in", "kept", *(f"dropped: {reason}" for reason in reasons)]
    return markdown([header, *([label, *(f"{n:,}" for n in row)] for label, row in counts.items())])


_PLAIN = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
app = typer.Typer(**_PLAIN)  # type: ignore[arg-type]
speed = typer.Typer(help="Races, as ratios within one run.", **_PLAIN)  # type: ignore[arg-type]
app.add_typer(mentions_app, name="mentions")
app.add_typer(speed, name="speed")
app.add_typer(preparing.app)
speed.command("scoring")(scoring.command)
speed.command("search")(searching.command)
speed.command("encode")(encoding.command)
app.command("linking")(linking)
app.command("report")(report)
app.command("nil")(abstaining.command)


class SizeName(StrEnum):
    """How large a model races."""

    BASE = "base"
    SMALL = "small"


Names: TypeAlias = Annotated[
    Path, typer.Option("--terminology", help="A terminology folder, whose names are trained on.")
]
Size: TypeAlias = Annotated[
    SizeName, typer.Option("--size", help="XLM-R base (12 × 768, 250,002 rows), or 2 × 256 to try it.")
]
Pairs: TypeAlias = Annotated[int, typer.Option("--pairs", min=2, help="Pairs a step.")]
Device: TypeAlias = Annotated[
    DeviceName | None, typer.Option("--device", help="CUDA where there is one, unless given.")
]


@app.callback()
def _benchmarks() -> None:
    """Measure linking and speed."""


@app.command("compare")
def compare(
    results: Annotated[
        list[str], typer.Argument(metavar="NAME=FILE…", help="Results of `xsap evaluate --json`, each with a name.")
    ],
    plot_to: Annotated[Path | None, typer.Option("--plot", help="A .png file for a bar chart of Acc@1.")] = None,
) -> None:
    """Results side by side: a Markdown table on stdout, and a chart."""
    systems = read_systems(results)
    if plot_to:
        plot(systems, plot_to)
        print(f"{plot_to}: bar chart of Acc@1", file=sys.stderr)
    print(comparison_to_markdown(systems))


@speed.command("train")
def speed_train(
    terminology: Names,
    size: Size = SizeName.BASE,
    pairs: Pairs = 256,
    steps: Annotated[int, typer.Option(min=1, help="Steps measured, after a warm-up.")] = 3,
    device: Device = None,
    ablations: Annotated[bool, typer.Option("--levers", help="Race our step without each lever, too.")] = False,
    cached_pairs: Annotated[
        int | None, typer.Option(min=2, help="Try a step of as many pairs, such as 4096, by cached gradients.")
    ] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """One training step of the original recipe against ours."""
    from benchmarks.speed.train import compare_training, plot, to_text

    check_plot(plot_to)
    result = compare_training(
        terminology,
        size=size.value,
        pairs=pairs,
        steps=steps,
        device=device_of(device),
        ablations=ablations,
        cached_pairs=cached_pairs,
    )
    write_json(result, json_to)
    if plot_to:
        plot(result, plot_to)
    print(to_text(result))


@speed.command("curve")
def speed_curve(
    terminology: Names,
    size: Size = SizeName.SMALL,
    pairs: Pairs = 256,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each.")] = 200,
    device: Device = None,
    json_to: JsonTo = None,
) -> None:
    """The losses of the original recipe and ours, update by update; exit code 3 if they part."""
    from benchmarks.speed.train import compare_loss_curves, curve_to_text

    result = compare_loss_curves(terminology, size=size.value, pairs=pairs, steps=steps, device=device_of(device))
    write_json(result, json_to)
    print(curve_to_text(result))
    if not result["within_bar"]:
        raise typer.Exit(3)


@speed.command("reference-run")
def speed_reference_run(
    terminology: Names,
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    size: Size = SizeName.SMALL,
    pieces: Annotated[int, typer.Option(min=100, max=250_000, help="Of the tokenizer, at most.")] = 8000,
    pairs: Pairs = 256,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate, constant.")] = 2e-5,
    minutes: Annotated[float | None, typer.Option(min=0, help="Of training, at most.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
) -> None:
    """Train a model by the original recipe, from random weights, on the CPU."""
    from benchmarks.speed.reference import SIZES, reference_run

    done, loss = reference_run(
        terminology, out, size=SIZES[size.value], pieces=pieces, pairs=pairs, lr=lr, minutes=minutes, steps=steps
    )
    print(f"{out}: {done:,} steps, last loss {loss:.4f}")


@speed.command("prepare")
def speed_prepare(
    meta: Annotated[Path, typer.Option(help="A META folder, such as `synthetic-umls` makes.")],
    tradenames: Annotated[bool, typer.Option("--tradenames", help="Read MRREL, too.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of each side, in turns.")] = 1,
    alone: Annotated[
        bool, typer.Option("--alone", help="Without the notebook, which takes all of a release into memory.")
    ] = False,
    max_memory: Annotated[str | None, typer.Option(help="What our sort may take, such as 2GB.")] = None,
    json_to: JsonTo = None,
) -> None:
    """A UMLS release → training data: the original notebook against ours."""
    result = preparing.compare_speed(meta, tradenames=tradenames, rounds=rounds, rival=not alone, max_memory=max_memory)
    write_json(result, json_to)
    print(preparing.to_text(result))


@speed.command("memory-of", hidden=True)
def speed_memory_of(
    side: Annotated[str, typer.Argument()],
    folder: Annotated[Path, typer.Argument()],
    pairs: Pairs,
    chunk: Annotated[int, typer.Option(min=0)],
    device: Device,
) -> None:
    """What `speed train` runs in a process of its own: a side's peak memory, as JSON."""
    from benchmarks.speed.ablations import memory_of

    print(json.dumps(memory_of(side, folder, pairs=pairs, chunk=chunk, device=device_of(device))))


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
