"""`python -m benchmarks mentions …`: a published corpus → one file of mentions, for `xsap evaluate` and `xsap calibrate` to read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import pyarrow as pa
import typer

from benchmarks.mantra import read_mantra
from benchmarks.page import markdown
from benchmarks.restrict import Account, count, restrict
from benchmarks.tasks import CORPORA, corpus_of
from benchmarks.xlbel import read_xlbel
from xsap.languages import to_name
from xsap.terms.mentions import SCHEMA, write_mentions
from xsap.terms.terminology import Terminology

app = typer.Typer(
    help="Published benchmarks → mentions, for `xsap evaluate` to read.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out: TypeAlias = Annotated[Path, typer.Option(help="The .tsv or .parquet file to write.")]
Within: TypeAlias = Annotated[
    Path | None, typer.Option("--terminology", help="Keep the mentions whose CUI this terminology folder cross-references, under its ids.")
]


@app.command("xlbel")
def mentions_xlbel(
    files: Annotated[list[Path], typer.Argument(help="Files of XL-BEL v0.0 or v1.0, such as de_1k_test_query.txt.")],
    out: Out,
    terminology: Within = None,
    language: Annotated[str | None, typer.Option(help="Their language, if their names don't begin with it.")] = None,
) -> None:
    """XL-BEL: `CUI||mention` and `CUI||mention||context` files."""
    _finish(read_xlbel(files, language=language), terminology, out)


@app.command("mantra")
def mentions_mantra(archive: Annotated[Path, typer.Argument(help="Mantra-GSC-brat.zip.")], out: Out, terminology: Within = None) -> None:
    """Mantra GSC in its brat form."""
    _finish(read_mantra(archive), terminology, out)


@app.command("corpus")
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


def _account_lines(accounts: Mapping[str, Account]) -> list[str]:
    """Rows in, kept and dropped by reason, of each language and of all."""
    reasons = sorted({reason for account in accounts.values() for reason in account.dropped})
    counts = {
        f"{code} {to_name(code)}": [a.rows_in, a.kept, *(a.dropped.get(reason, 0) for reason in reasons)] for code, a in accounts.items()
    }
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    header = ["language", "rows in", "kept", *(f"dropped: {reason}" for reason in reasons)]
    return markdown([header, *([label, *(f"{n:,}" for n in row)] for label, row in counts.items())])
