"""`xsap text`: find the names of an index in texts, and link them."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.errors import ConfigError
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    HeaderRow,
    MovedModel,
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
)

if TYPE_CHECKING:
    from xsap.text_in.text_file import Annotates, TextFormat


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
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Text file, folder of .txt files, or table of texts; by default stdin."),
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Index folder, whose names are found and linked.")] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Entity memory, which finds and links mentions; instead of --index.")
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
    rerank: Rerank = None,
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
    """Find names in texts, and link them to concepts.

    Names are those of an index, or are found by an entity memory (--memory).
    """
    from xsap.text_in.documents import document_of, open_documents
    from xsap.text_in.given_spans import GivenSpans
    from xsap.text_in.text_file import TextFormat, annotate_file, check_text_output

    of_index = {"fuzzy": fuzzy, "model": model, "types": semantic_types, "groups": groups, "sources": sources, "ann": ann,
                "languages": languages, "min-confidence": min_confidence, "min-precision": min_precision, "rerank": rerank}  # fmt: skip
    _check_choice(index, memory, of_index)
    if spans and fuzzy:
        raise ConfigError("expected --spans or --fuzzy, found both; with --spans no names are searched for")
    text_format = TextFormat.for_file(out, form and form.value, top_k=top_k)
    columns = {"column": column, "id_column": id_column, "language_column": language_column, "sheet": sheet}
    if source is None:
        for option, value in columns.items():
            if value is not None:
                raise ConfigError(
                    f"--{option.replace('_', '-')} '{value}' needs a table, found none; remove it or name the table"
                )
        documents = document_of(_stdin_text(encoding), language=language)
    else:
        given_columns = columns | {"language": language, "encoding": encoding}
        documents = open_documents(source, header_row=header_row, **given_columns)
    if out is None:
        check_stdout(text_format.form, binary=text_format.is_binary)
    else:
        sources_read = (*documents.sources, *([] if spans is None else [spans]))
        check_text_output(out, sources_read, text_format, overwrite=overwrite)
    given = None if spans is None else GivenSpans(spans)
    wanted_names = {"semantic_types": semantic_types, "groups": groups, "sources": sources, "languages": languages}
    limits = {"min_confidence": min_confidence, "min_precision": min_precision}
    annotates: Annotates
    options: dict[str, Any]
    identity: dict[str, Any] | None
    if memory is not None:
        annotates, options, identity = _open_memory(memory)
    else:
        assert index is not None
        load: dict[str, Any] = {"model": model, "ann": ann, "dtype": dtype.value, "rerank": rerank}
        annotates, options, identity = _open_index(index, load, wanted_names, {"fuzzy": fuzzy, **limits})
        text_format = _with_expansions(text_format)
    with path_or_stdout(out) as target:
        counts = annotate_file(
            annotates,
            documents,
            target,
            text_format,
            options=options,
            given=given,
            identity=identity,
            overwrite=overwrite,
            progress=show_progress(results_on_stdout=out is None),
        )
    log(f"{documents.where}: {counts.summary()}")


def _check_choice(index: Path | None, memory: Path | None, of_index: dict[str, Any]) -> None:
    """Raise ConfigError unless there is an index, or a memory without options that need an index."""
    if (index is None) == (memory is None):
        raise ConfigError(f"expected --index or --memory, found {'neither' if index is None else 'both'}")
    if memory is not None and (given := [option for option, value in of_index.items() if value]):
        raise ConfigError(f"--{given[0]} needs --index, found --memory; remove it")


def _open_index(
    index: Path, load: dict[str, Any], wanted_names: dict[str, str | None], options: dict[str, Any]
) -> "tuple[Annotates, dict[str, Any], dict[str, Any] | None]":
    """What annotates texts by an index, the options of its `annotate`, and what its answers depend on; None if that is not known.

    load: arguments of `Linker.load`. wanted_names: of the filter. options: further ones of `annotate`.
    """
    with announce_wait(f"loading the model of {index}"):
        from xsap.linking.linker import Linker
        from xsap.linking.ranking import Filter
        from xsap.terms.abbreviations import Abbreviations

        wanted = Filter(**{key: parse_list(value) for key, value in wanted_names.items()})
        linker = Linker.load(index, **load)
    used = linker.identity
    identity = None if used is None else {"ann": load["ann"], **options, **wanted_names} | used
    return linker, {"filter": wanted, "abbreviations": Abbreviations(), **options}, identity


def _with_expansions(text_format: "TextFormat") -> "TextFormat":
    """A format with columns of what abbreviations of a document were linked as."""
    from xsap.linking.results import EXPANDED

    return replace(text_format, output=replace(text_format.output, notes=EXPANDED))


def _open_memory(memory: Path) -> "tuple[Annotates, dict[str, Any], dict[str, Any]]":
    """What annotates texts by a memory, the options of its `annotate`, and what its answers depend on."""
    with announce_wait(f"loading {memory}"):
        from xsap.text_in.memory import EntityMemoryModel
        from xsap.text_in.memory_answers import MemoryAnnotator

        opened = EntityMemoryModel.load(memory)
    return MemoryAnnotator(opened), {}, {"memory": opened.content_hash}


def _stdin_text(encoding: str | None) -> str:
    """What is on stdin, line ends as they are."""
    from xsap.text_in.documents import read_document

    if sys.stdin.isatty():
        raise ConfigError("expected a file of texts, or a text on stdin, found none")
    return read_document(sys.stdin.buffer, "stdin", encoding)
