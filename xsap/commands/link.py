"""`xsap link`: link the terms of a command line, of stdin or of a table."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from xsap.artifacts import read_manifest
from xsap.errors import ConfigError
from xsap.languages import to_iso
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    Format,
    HeaderRow,
    MovedModel,
    OnRay,
    Overwrite,
    Rerank,
    Sheet,
    TextEncoding,
    announce_wait,
    check_stdout,
    log,
    parse_list,
    path_or_stdout,
    show_progress,
    stdin_lines,
)

if TYPE_CHECKING:
    from xsap.tabular.link_file import Links, RemoteLinkers


def link(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    terms: Annotated[
        list[str] | None, typer.Argument(help="Terms to link; without terms and --file, they are read from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Table of terms: CSV, TSV, JSONL, Parquet or a workbook (.xlsx, .ods, …).")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --file with the terms; by default 'term'.")] = None,
    language_column: Annotated[str | None, typer.Option(help="Column of --file with the terms' languages.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of terms whose language is not given, such as de.")
    ] = None,
    context_column: Annotated[
        str | None, typer.Option(help="Column of --file with the texts that the terms are from.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Treat an unknown language as an error.")] = False,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    model: MovedModel = None,
    top_k: Annotated[int, typer.Option(help="Number of concepts per term.")] = 5,
    semantic_types: Annotated[
        str | None, typer.Option("--types", help="Only concepts with these semantic types, such as T047,T184.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="Only concepts of these semantic groups, such as DISO,CHEM.")
    ] = None,
    sources: Annotated[
        str | None, typer.Option(help="Only concepts with a code in one of these sources, such as SNOMEDCT_US.")
    ] = None,
    languages: Annotated[str | None, typer.Option(help="Only names in these languages, such as en,es.")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Abstain below this confidence. Needs a calibrated index.")
    ] = None,
    min_precision: Annotated[
        float | None, typer.Option(help="Abstain unless this precision is guaranteed, such as 0.95.")
    ] = None,
    broader: Annotated[
        bool,
        typer.Option(
            "--broader", help="Answer with a broader concept instead of abstaining, where one is certain enough."
        ),
    ] = False,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean",
            help="Remove clinical qualifiers, such as negation and laterality, from terms, and report them in columns.",
        ),
    ] = False,
    abbreviations: Annotated[
        Path | None, typer.Option(help="Table of abbreviations to write out, or a terminology folder.")
    ] = None,
    rerank: Rerank = None,
    ann: Ann = False,
    ray: OnRay = None,
    dtype: DtypeOption = Dtype.AUTO,
    form: Annotated[
        Format | None, typer.Option("--format", help="Output format; by default that of --out, else table.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="One row per term, with the candidates in columns.")] = False,
    excel: Annotated[bool, typer.Option("--excel", help="Write CSV or TSV that Excel opens directly.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of stdout. The same command resumes an interrupted run.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Link terms to concepts."""
    from xsap.tabular.answers import ANNOTATED
    from xsap.tabular.link_file import check_link_output, link_file
    from xsap.tabular.readers import open_table, table_of_terms
    from xsap.tabular.writers import OutputFormat

    if file and terms:
        raise ConfigError(f"expected terms as arguments or --file, found both: '{terms[0][:40]}' and {file}")
    of_file: dict[str, object] = {
        "--sheet": sheet, "--column": column, "--language-column": language_column, "--context-column": context_column,
        "--encoding": encoding, "--header-row": None if header_row == 1 else header_row, "--ray": ray,
    }  # fmt: skip
    _check_needs_file(of_file, file)
    if strict and language_column is None:
        raise ConfigError("--strict needs --language-column, found none; remove it or add --language-column")
    output_format = OutputFormat.for_file(out, form and form.value, top_k=top_k, wide=wide, excel=excel)
    known_language, prepared = language and to_iso(language), _read_preparation(clean, abbreviations, context_column)
    output_format = replace(output_format, notes=prepared.columns)
    if out is None:
        check_stdout(output_format.form, binary=output_format.is_binary)
    else:
        check_link_output(out, file, overwrite=overwrite)
    if file:
        table = open_table(file, sheet=sheet, encoding=encoding, header_row=header_row)
    else:
        table = table_of_terms(terms or stdin_lines(), "stdin")
    column = column or ("term" if file else "mention")
    for name in filter(None, (column, language_column, context_column)):
        table.column_index(name)  # a missing column is reported before torch is imported and the index opened
    given = {"semantic_types": semantic_types, "groups": groups, "sources": sources, "languages": languages}
    limits: dict[str, Any] = {"min_confidence": min_confidence, "min_precision": min_precision}
    limits |= {"broader": True} if broader else {}
    with announce_wait(f"loading the model of {index}"):
        from xsap.linking.ranking import Filter

        wanted = Filter(**{key: parse_list(value) for key, value in given.items()})
        linker, used = _open_linker(index, ray, dtype, {"model": model, "ann": ann, "rerank": rerank})
    _log_missing_contexts(linker, file, context_column)
    if read_manifest(index, "index").get("mentions", {}).get("weight"):
        output_format = replace(output_format, notes=(*output_format.notes, *ANNOTATED))
    identity = None if used is None else {**used, "ann": ann, **limits, **given}
    with path_or_stdout(out) as target:
        counts = link_file(
            linker,
            table,
            target,
            output_format,
            column=column,
            language_column=language_column,
            context_column=context_column,
            language=known_language,
            options={"filter": wanted, **limits, **prepared.options},
            identity=identity and identity | {"encoding": encoding, "header_row": header_row, **prepared.identity},
            strict=strict,
            overwrite=overwrite,
            progress=show_progress(results_on_stdout=out is None),
        )
    if file:
        log("; ".join([f"{file}: {counts.summary()}", *table.remarks()]))


def _log_missing_contexts(linker: object, file: Path | None, context_column: str | None) -> None:
    """Say that a re-ranker that reads contexts gets none."""
    if file and context_column is None and getattr(linker, "uses_context", False):
        log(
            f"{file}: terms are re-ranked without contexts; if a column has the texts that they are from, "
            "add --context-column"
        )


def _check_needs_file(options: dict[str, object], file: Path | None) -> None:
    for option, value in options.items():
        if value is not None and not file:
            raise ConfigError(f"{option} '{value}' needs --file, found none; remove it or add --file")


class _Preparation(NamedTuple):
    """What --clean and --abbreviations mean: arguments of `Linker.link`, columns of the output, and what the answers depend on."""

    options: dict[str, Any]
    columns: tuple[str, ...]
    identity: dict[str, Any]


def _read_preparation(clean: bool, abbreviations: Path | None, context_column: str | None) -> _Preparation:
    """Abbreviations that a context defines are written out wherever there are contexts."""
    from xsap.linking.results import CLEANED, EXPANDED
    from xsap.terms.abbreviations import Abbreviations, read_abbreviations

    options: dict[str, Any] = {"clean": True} if clean else {}
    columns: tuple[str, ...] = CLEANED if clean else ()
    identity = dict(options)
    if abbreviations is not None or context_column is not None:
        read = Abbreviations() if abbreviations is None else read_abbreviations(abbreviations)
        options["abbreviations"] = read
        columns, identity["abbreviations"] = columns + EXPANDED, read.content_hash
    if abbreviations is not None:
        log(f"{abbreviations}: {read.describe()}")
    return _Preparation(options, columns, identity)


def _open_linker(
    index: Path, ray: str | None, dtype: Dtype, options: dict[str, Any]
) -> "tuple[Links | RemoteLinkers, dict[str, Any] | None]":
    """A linker here or on a cluster, and what its answers depend on: its index, its dtype and its re-ranker; None if that is not known."""
    if ray:
        from xsap.cluster import RayLinkers, connect
        from xsap.linking.rerank_choice import choice_identity

        same = Dtype.FLOAT32 if dtype is Dtype.AUTO else dtype  # on all nodes, which may have different processors
        linkers = RayLinkers(connect(ray), index, **options, dtype=same.value)
        reranked = choice_identity(options["rerank"])
        used = {"index": linkers.content_hash, "dtype": same.value}
        return linkers, None if reranked is None else used | reranked
    from xsap.linking.linker import Linker

    linker = Linker.load(index, **options, dtype=dtype.value)
    return linker, linker.identity
