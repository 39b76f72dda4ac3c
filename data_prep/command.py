"""What the commands of `xsap-prepare` share: options, and the terminology folder and report that most of them leave."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from data_prep.accounting import Rejects, Summary
from data_prep.assemble import Assembly
from data_prep.ontology import DEFAULT_SCOPES
from xsap.files import RowCounts
from xsap.terminal import print_lines
from xsap.terms.concept_details import detail_lines
from xsap.terms.terminology import Terminology

TerminologyFolder: TypeAlias = Annotated[Path, typer.Argument(help="A terminology folder.")]
Mentions: TypeAlias = Annotated[Path, typer.Argument(help="Mentions: .tsv or .parquet.")]
Out: TypeAlias = Annotated[Path, typer.Option(help="The terminology folder to write.")]
Languages: TypeAlias = Annotated[str, typer.Option(help="Languages to keep, such as en,es; or all.")]
Memory: TypeAlias = Annotated[str, typer.Option(help="Memory for sorting, such as 500MB or 4GB; then disk is used.")]
Translations: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder with the tables *.babelon.tsv and *.synonyms.tsv.")
]
Statuses: TypeAlias = Annotated[str, typer.Option(help="Translation statuses to keep, such as OFFICIAL; or all.")]
Scopes: TypeAlias = Annotated[str, typer.Option(help="Synonym scopes to keep: EXACT,NARROW,RELATED,BROAD; or all.")]
SourceName: TypeAlias = Annotated[str | None, typer.Option(help="Source of the names; by default the file's name.")]
MaxRejects: TypeAlias = Annotated[int, typer.Option(min=0, help="Malformed rows to skip; OUT.rejects.tsv lists them.")]

MEMORY = "1GB"
SCOPES_TEXT = ",".join(DEFAULT_SCOPES)


def rejects_of(out: Path, max_rejects: int) -> Rejects:
    """The malformed rows of a source, listed beside the terminology folder."""
    return Rejects(out.with_name(f"{out.name}.rejects.tsv"), max_rejects)


def save_assembly(
    assembly: Assembly,
    counts: RowCounts,
    metadata: dict[str, Any],
    out: Path,
    overwrite: bool,
    details: list[str] | None = None,
) -> None:
    """Write a terminology and print its report, with further lines after the first."""
    summary, counts = assembly.save(out, counts, metadata, overwrite=overwrite)
    lines = report_lines(summary, counts, out, [*details, ""] if details else [])
    print_lines([*lines, *_after_blank(detail_lines(metadata))])


def save_terminology(terminology: Terminology, counts: RowCounts, out: Path, overwrite: bool) -> None:
    """Write a terminology that is in memory and print its report."""
    terminology.save(out, overwrite=overwrite)
    remarks = terminology.metadata.get("remarks") or []
    details = [*remarks, ""] if remarks else []
    summary = Summary.from_terminology(terminology)
    print_lines([*report_lines(summary, counts, out, details), *_after_blank(detail_lines(terminology.metadata))])


def _after_blank(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def report_lines(summary: Summary, counts: RowCounts, out: Path, details: list[str]) -> list[str]:
    """The report of a terminology folder: further lines, rows read, kept and dropped, then its summary."""
    return [f"{out}: {summary.concepts:,} concepts", *details, *counts.lines(), "", *summary.lines()]
