"""`xsap index | link | evaluate | shrink`: the command line. Data on stdout, all else on stderr, never a prompt.

A mistake of the user's is one line `error: …` and exit code 2. Torch is imported inside the commands, so that `--help` is instant.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from xsap.artifacts import refuse_to_replace, sha256_of, write_atomically
from xsap.errors import ConfigError, DataError, XsapError
from xsap.languages import parse_languages

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _xsap() -> None:
    """Link clinical and biomedical terms in any language to the concepts of a terminology."""


class Format(StrEnum):
    """How `link` writes its answers."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


class Protocol(StrEnum):
    """How `evaluate` counts."""

    CONCEPT = "concept"
    REFERENCE = "reference"


Pooling = Annotated[str | None, typer.Option(help="cls, mean or mean_all, for a model folder that doesn't say.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a name is cut to, for a model folder that doesn't say.")]


@app.command()
def index(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Argument(help="A terminology's folder, as xsap-prepare makes it.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    languages: Annotated[str, typer.Option(help="Whose names to embed: 'all', or codes such as 'en,es'.")] = "en",
    pooling: Pooling = None,
    max_length: MaxLength = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there.")] = False,
) -> None:
    """Embed a terminology's names, for `link` and `evaluate` to search."""
    chosen = parse_languages(languages)
    refuse_to_replace(out, overwrite=overwrite)
    from xsap.encoding.encoder import Encoder
    from xsap.linking.index import Index
    from xsap.terms.terminology import Terminology

    names = Terminology.load(terminology)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length)
    built = Index.build(names, encoder, languages=chosen, model_path=model, progress=_watched())
    built.save(out, overwrite=overwrite)
    facts = built.facts()
    dropped = "".join(f"; dropped {count:,} ({reason})" for reason, count in built.contents.dropped.items())
    _log(f"{out}: {facts['names']:,} names of {facts['concepts']:,} concepts{dropped}")


@app.command()
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
    sheet = read_sheet(file) if file else sheet_of(terms or _stdin_lines())
    mentions = column_of(sheet, column if file else "mention", file or "stdin")
    linker = Linker.load(index, model=model)
    results = linker.link(mentions, top_k, progress=_watched())
    by_ending = {f".{known}": known for known in Format}
    form = form or by_ending.get(out.suffix.casefold() if out else "", Format.TABLE)
    with _output(out) as stream:
        if form is Format.TABLE:
            write_text(results, stream)
        else:
            write_sheet(with_answers(sheet, results), stream, form)


@app.command()
def evaluate(
    mentions: Annotated[Path, typer.Argument(help="Mentions with their concepts: .tsv, .parquet, or lines id||mention.")],
    index: Annotated[Path | None, typer.Option(help="An index's folder.")] = None,
    model: Annotated[str | None, typer.Option(help="The model: needed with --dictionary; with --index only if it was moved.")] = None,
    dictionary: Annotated[Path | None, typer.Option(help="Lines id||name to search instead of an index.")] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="concept: as link answers; reference: as the original SapBERT code.")
    ] = Protocol.CONCEPT,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score linking by language: Acc@k and MRR, with 95 % bootstrap intervals."""
    _check_evaluate(index, model, dictionary, protocol, pooling or max_length)
    from xsap.encoding.encoder import Encoder
    from xsap.linking.evaluation import Dictionary, evaluate_concept, evaluate_reference, read_queries, to_text
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    facts: dict[str, Any] = {}
    if dictionary:
        rows = Dictionary.read(dictionary)
        encoder = Encoder.from_pretrained(str(model), pooling=pooling, max_length=max_length)
        report = evaluate_reference(encoder, rows, queries, progress=_watched())
        facts = {"dictionary": {**rows.facts(), "sha256": sha256_of(dictionary)}, "model": encoder.content}
    else:
        linker = Linker.load(str(index), model=model)
        if protocol is Protocol.CONCEPT:
            report = evaluate_concept(linker, queries)
        else:
            assert isinstance(linker.encoder, Encoder), "Linker.load opens no other"
            report = evaluate_reference(linker.encoder, Dictionary.of_index(linker.index), queries, progress=_watched())
        facts = {"dictionary": linker.index.facts(), "model": linker.encoder.content}
    report |= facts | {"mentions": {"n": queries.num_rows, "sha256": sha256_of(mentions)}}
    with _output(None) as stream:
        stream.write((json.dumps(report, indent=1, ensure_ascii=False) if as_json else to_text(report)) + "\n")


@app.command()
def shrink(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Argument(help="A terminology's folder: what its names need is kept.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    mentions: Annotated[Path | None, typer.Option(help="Mentions, as for evaluate: how many stay as they are?")] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there.")] = False,
) -> None:
    """Make a model smaller: without the pieces of words that no name of a terminology has, and with the same vectors for all others."""
    refuse_to_replace(out, overwrite=overwrite)
    from xsap.encoding.encoder import Encoder
    from xsap.encoding.shrink import covered, facts_of_shrunk, shrink_to
    from xsap.linking.evaluation import read_queries
    from xsap.terms.terminology import Terminology

    texts = read_queries(mentions)["mention"].to_pylist() if mentions else []
    names = Terminology.load(terminology)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length)
    smaller = shrink_to(encoder, names.names["name"].to_pylist())
    smaller.save_pretrained(out, overwrite=overwrite, facts=facts_of_shrunk(encoder, names.content))
    rows = [each.transformer.get_input_embeddings().num_embeddings for each in (encoder, smaller)]
    weights = [sum(weight.numel() for weight in each.transformer.parameters()) for each in (encoder, smaller)]
    _log(
        f"{out}: {rows[0]:,} → {rows[1]:,} rows, {weights[0]:,} → {weights[1]:,} parameters, "
        f"{weights[0] * 4 / 1e6:,.1f} → {weights[1] * 4 / 1e6:,.1f} MB of weights"
    )
    if texts:
        same = covered(encoder, smaller, texts)
        other = [text for text, alike in zip(texts, same, strict=True) if not alike]
        examples = f"; not: {', '.join(repr(text) for text in other[:5])}" if other else ""
        _log(f"{mentions}: {100 * same.mean():.1f} % of {len(texts):,} mentions become the same pieces{examples}")


def _check_evaluate(index: Path | None, model: str | None, dictionary: Path | None, protocol: Protocol, described: object) -> None:
    if bool(index) == bool(dictionary):
        raise ConfigError(f"expected --index or --dictionary, found {'both' if index else 'neither'}")
    if dictionary and not model:
        raise ConfigError("--dictionary needs a --model to embed its names with")
    if dictionary and protocol is Protocol.CONCEPT:
        raise ConfigError("--dictionary is for --protocol reference; for concepts make an index of it: xsap-prepare table, xsap index")
    if index and described:
        raise ConfigError("--pooling and --max-length go with --dictionary; an index knows its own")


def _stdin_lines() -> list[str]:
    if sys.stdin.isatty():
        raise ConfigError("expected terms as arguments, on stdin (one a line) or in --file, found none")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"stdin: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset {error.start:,}") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


@contextmanager
def _output(path: Path | None) -> Iterator[IO[str]]:
    """A file, whole or not at all, or stdout; a reader of stdout that goes away early is no error."""
    if path:
        with write_atomically(path) as stream:
            yield stream
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _watched() -> bool:
    return sys.stderr.isatty()


def _log(line: str) -> None:
    print(" ".join(line.splitlines()), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (sys.argv's by default) and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = app(args=arguments, prog_name="xsap", standalone_mode=False)
    except XsapError as error:
        _log(f"error: {error}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:  # a full disk, a folder that may not be written
        _log(f"error: {error}")
        code = 1
    except Exception as error:
        message = getattr(error, "format_message", None)  # click's usage errors, which typer may have under its own name
        if message is None:
            raise
        _log(f"error: {message()} See xsap --help")
        code = 2
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
