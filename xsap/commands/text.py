"""`xsap text`: find the names of an index in texts, and link them."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xsap.errors import ConfigError
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    HeaderRow,
    MovedModel,
    Overwrite,
    Sheet,
    TextEncoding,
    announce_wait,
    check_stdout,
    log,
    parse_list,
    path_or_stdout,
    show_progress,
)


class TextForm(StrEnum):
    """Output formats of `text`."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"
    BIGBIO = "bigbio"
    PUBANNOTATION = "pubannotation"
    BRAT = "brat"
    HTML = "html"


def annotate_documents(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Text file, folder of .txt files, or table of texts; by default stdin."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column with the texts; by default 'text'.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with document ids; by default 'document_id'.")] = None,
    language_column: Annotated[str | None, typer.Option(help="Column with the texts' languages.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all texts, such as de.")] = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    spans: Annotated[
        Path | None,
        typer.Option(
            help="Table of spans to link: document_id, start, end, in characters; by default names are found."
        ),
    ] = None,
    fuzzy: Annotated[
        bool, typer.Option("--fuzzy", help="Also find words that differ from a name by one letter.")
    ] = False,
    model: MovedModel = None,
    top_k: Annotated[int, typer.Option(help="Number of concepts per span.")] = 1,
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
    ann: Ann = False,
    dtype: DtypeOption = Dtype.AUTO,
    form: Annotated[
        TextForm | None, typer.Option("--format", help="Output format; by default that of --out, else table.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or brat folder to write. The same command resumes an interrupted run.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find names in texts, and link them to concepts."""
    from xsap.text_in.documents import document_of, open_documents
    from xsap.text_in.given_spans import GivenSpans
    from xsap.text_in.text_file import TextFormat, annotate_file, check_text_output

    if spans and fuzzy:
        raise ConfigError("expected --spans or --fuzzy, found both; with --spans nothing is searched for")
    text_format = TextFormat.for_file(out, form and form.value, top_k=top_k)
    columns = {"column": column, "id_column": id_column, "language_column": language_column, "sheet": sheet}
    if source is None:
        for option, value in columns.items():
            if value is not None:
                raise ConfigError(
                    f"--{option.replace('_', '-')} '{value}' needs a table, found none; remove it or name the table"
                )
        documents = document_of(_stdin_text(), language=language)
    else:
        given_columns = columns | {"language": language, "encoding": encoding}
        documents = open_documents(source, header_row=header_row, **given_columns)
    if out is None:
        check_stdout(text_format.form, binary=text_format.is_binary)
    else:
        check_text_output(out, documents.sources, text_format, overwrite=overwrite)
    given = None if spans is None else GivenSpans(spans)
    wanted_names = {"semantic_types": semantic_types, "groups": groups, "sources": sources, "languages": languages}
    limits = {"min_confidence": min_confidence, "min_precision": min_precision}
    with announce_wait(f"loading the model of {index}"):
        from xsap.linking.linker import Linker
        from xsap.linking.ranking import Filter

        wanted = Filter(**{key: parse_list(value) for key, value in wanted_names.items()})
        linker = Linker.load(index, model=model, ann=ann, dtype=dtype.value)
    identity = {"index": linker.index.content_hash, "dtype": linker.encoder.dtype, "ann": ann, "fuzzy": fuzzy}
    with path_or_stdout(out) as target:
        counts = annotate_file(
            linker,
            documents,
            target,
            text_format,
            options={"filter": wanted, "fuzzy": fuzzy, **limits},
            given=given,
            identity={**identity, **limits, **wanted_names},
            overwrite=overwrite,
            progress=show_progress(results_on_stdout=out is None),
        )
    log(f"{documents.where}: {counts.summary()}")


def _stdin_text() -> str:
    """What is on stdin, line ends as they are."""
    from xsap.files import decode

    if sys.stdin.isatty():
        raise ConfigError("expected a file of texts, or a text on stdin, found none")
    return decode(sys.stdin.buffer.read(), "stdin")
