"""`xsap link`: terms → concepts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xsap.commands.terminal import output, stdin_lines, watched
from xsap.errors import ConfigError


class Format(StrEnum):
    """How `link` writes its answers."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


def link(
    index: Annotated[Path, typer.Option(help="An index's folder.")],
    terms: Annotated[list[str] | None, typer.Argument(help="Terms; without any, and without --file, they are read from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A .csv, .tsv or .jsonl file; its other columns come through.")] = None,
    column: Annotated[str, typer.Option(help="The column of --file that has the terms.")] = "term",
    model: Annotated[str | None, typer.Option(help="Where the index's model is now, if it was moved.")] = None,
    top_k: Annotated[int, typer.Option(help="Concepts for each term.")] = 5,
    form: Annotated[Format | None, typer.Option("--format", help="By default as --out ends, else table.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file to write instead of stdout.")] = None,
) -> None:
    """Link terms to concepts."""
    from xsap.linking.columns import column_of, read_sheet, sheet_of, with_answers, write_sheet, write_text
    from xsap.linking.linker import Linker

    if file and terms:
        raise ConfigError(f"expected terms as arguments or --file, found both: '{terms[0][:40]}' and {file}")
    sheet = read_sheet(file) if file else sheet_of(terms or stdin_lines())
    mentions = column_of(sheet, column if file else "mention", file or "stdin")
    linker = Linker.load(index, model=model)
    results = linker.link(mentions, top_k, progress=watched())
    by_ending = {f".{known}": known for known in Format}
    form = form or by_ending.get(out.suffix.casefold() if out else "", Format.TABLE)
    with output(out) as stream:
        if form is Format.TABLE:
            write_text(results, stream)
        else:
            write_sheet(with_answers(sheet, results), stream, form)
