"""`xsap …`: the door of the command line. What each command does stands in commands/.

A mistake of the user's is one line `error: …` and exit code 2. Torch is imported inside the commands, so that `--help` is instant.

`xsap index` and `xsap merge`: a terminology and a model → an index, at once or in parts.

`xsap link`: terms → concepts.

`xsap evaluate`: mentions with known concepts → scores.

`xsap tune-fusion` and `xsap calibrate`: mentions with known concepts → how much spelling counts, and how sure answers are, kept with the index.

`xsap shrink` and `xsap encode`: what is done with a model alone.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import check_can_write, read_lines, sha256_of, write_atomically
from xsap.errors import ConfigError, XsapError
from xsap.languages import parse_languages
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    MaxLength,
    OnRay,
    Overwrite,
    Pooling,
    log,
    output,
    stdin_lines,
    show_progress,
)

if TYPE_CHECKING:
    from xsap.linking.build import BuildSummary
    from xsap.tabular.link_file import Links, RemoteLinkers


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _xsap() -> None:
    """Link clinical and biomedical terms in any language to the concepts of a terminology."""


WithGraph = Annotated[
    bool,
    typer.Option(
        "--ann",
        help="Build a graph, too, for link --ann: needs xsap[ann], and some 20 minutes a million names.",
    ),
]


class Stored(StrEnum):
    """How vectors are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def index(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Argument(help="A terminology's folder, as xsap-prepare makes it.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    languages: Annotated[str, typer.Option(help="Whose names to embed: 'all', or codes such as 'en,es'.")] = "en",
    vector_dtype: Annotated[
        Stored, typer.Option(help="Of the vectors: float16 halves the space, int8 takes a quarter.")
    ] = Stored.FLOAT32,
    max_memory: Annotated[str | None, typer.Option(help="What it may take, such as 4GB; else as it comes.")] = None,
    update: Annotated[
        Path | None, typer.Option(help="An index of the same model, whose vectors are taken over.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/N: make only the i-th of N parts, for xsap merge.")] = None,
    ann: WithGraph = False,
    ray: OnRay = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    overwrite: Overwrite = False,
) -> None:
    """Embed a terminology's names, for `link` and `evaluate` to search. Run again after it was stopped, it goes on where it was."""
    chosen = parse_languages(languages)
    check_can_write(out, overwrite=overwrite, kind="index" if shard is None else "index-shards")
    from xsap.encoding.encoder import Encoder
    from xsap.linking.build import build_index, parse_shard, parse_size, process_group
    from xsap.linking.index import EncoderSpec
    from xsap.search.approximate import check_usearch_installed

    if ann:
        check_usearch_installed()
    allowed, part = parse_size(max_memory) if max_memory else None, parse_shard(shard) if shard else None
    group = process_group()
    device = None if group is None else str(group.device)
    share = None
    if ray:
        from xsap.cluster import connect, encode_groups

        share = connect(ray)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length, device=device, dtype=dtype.value)
    built = build_index(
        terminology,
        encoder,
        out,
        model_path=model,
        languages=chosen,
        vector_dtype=vector_dtype.value,
        max_memory=allowed,
        update=update,
        shard=part,
        ann=ann,
        encode_groups=encode_groups(share, model, EncoderSpec.of(encoder).metadata()) if share else None,
        overwrite=overwrite,
        progress=show_progress(),
    )
    if built is not None:
        _tell(out if shard is None else f"{out}, part {shard}", built, updated=update is not None)


def merge(
    parts: Annotated[list[Path], typer.Argument(help="The folders that xsap index --shard 1/N … N/N made.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    ann: WithGraph = False,
    overwrite: Overwrite = False,
) -> None:
    """Put the parts of an index together: the same index as one made at once (but for a graph, which is never twice the same)."""
    from xsap.linking.build import merge_shards

    _tell(out, merge_shards(parts, out, ann=ann, overwrite=overwrite, progress=show_progress()))


def _tell(out: Path | str, built: "BuildSummary", *, updated: bool = False) -> None:
    from xsap.search.approximate import RECALL_AT

    dropped = "".join(f"; dropped {count:,} ({reason})" for reason, count in built.dropped.items())
    earlier = f"; {built.found:,} were encoded earlier" if built.found and built.encoded + built.kept else ""
    changed = (
        f"; kept {built.kept:,}, encoded {built.names - built.kept:,}, dropped {built.lost:,} of the old index"
        if updated
        else ""
    )
    graph = (
        ""
        if built.recall is None
        else f"; approximate search finds {100 * built.recall:.1f} % of the {RECALL_AT} nearest names"
    )
    log(f"{out}: {built.names:,} names of {built.concepts:,} concepts{dropped}{changed}{earlier}{graph}")


class Format(StrEnum):
    """How `link` writes its answers."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def link(
    index: Annotated[Path, typer.Option(help="An index's folder.")],
    terms: Annotated[
        list[str] | None, typer.Argument(help="Terms; without any, and without --file, they are read from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A .csv, .tsv, .jsonl (or one of these and .gz), .parquet or .xlsx file.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="The column of --file that has the terms (by default: term); the others come through."),
    ] = None,
    language_column: Annotated[
        str | None, typer.Option(help="The column of --file that has the terms' languages.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="The sheet of an .xlsx file; by default the first.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the index's model is now, if it was moved.")] = None,
    top_k: Annotated[int, typer.Option(help="Concepts for each term.")] = 5,
    semantic_types: Annotated[
        str | None, typer.Option("--types", help="Only concepts of these semantic types: T047,T184 …")
    ] = None,
    groups: Annotated[str | None, typer.Option(help="Only concepts of these semantic groups: DISO,CHEM …")] = None,
    sources: Annotated[
        str | None, typer.Option(help="Only concepts with a code (or cross-reference) in these sources: SNOMEDCT …")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Only names of these languages, where the index has several.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="No answer below this confidence (of a calibrated index).")
    ] = None,
    min_precision: Annotated[
        float | None, typer.Option(help="No answer but where answers keep this precision: 0.95 …")
    ] = None,
    ann: Ann = False,
    ray: OnRay = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    form: Annotated[Format | None, typer.Option("--format", help="By default as --out ends, else table.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="One row for each term, its candidates beside it.")] = False,
    excel: Annotated[bool, typer.Option("--excel", help="CSV or TSV as Excel opens it.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="A file to write instead of stdout; the same command after a kill goes on.")
    ] = None,
) -> None:
    """Link terms to concepts."""
    from xsap.tabular.link_file import link_file
    from xsap.tabular.readers import open_source, terms_source
    from xsap.tabular.writers import OutputFormat

    if file and terms:
        raise ConfigError(f"expected terms as arguments or --file, found both: '{terms[0][:40]}' and {file}")
    if ray and not file:
        raise ConfigError("--ray is for the rows of a --file; leave it out")
    for option, value in (("--sheet", sheet), ("--column", column), ("--language-column", language_column)):
        if value is not None and not file:
            raise ConfigError(f"{option} '{value}' is of a --file, found none; leave it out")
    layout = OutputFormat.to(out, form and form.value, top_k=top_k, wide=wide, excel=excel)
    source = open_source(file, sheet=sheet) if file else terms_source(terms or stdin_lines(), "stdin")
    column = column or ("term" if file else "mention")
    for name in filter(None, (column, language_column)):
        source.place(name)  # before torch is imported and the index opened, which take longer
    from xsap.linking.ranking import Filter

    wanted = Filter.of(
        semantic_types=_parts(semantic_types),
        groups=_parts(groups),
        sources=_parts(sources),
        languages=_parts(languages),
    )
    options = {"keep": wanted, "threshold": min_confidence, "min_precision": min_precision}
    opened: dict[str, Any] = {"model": model, "approximate": ann, "encoder_precision": dtype.value}
    linker, content_hash = _opened(index, ray, opened)
    said = {"types": semantic_types, "groups": groups, "sources": sources, "languages": languages}
    identity = {
        "index": content_hash,
        "threshold": min_confidence,
        "min_precision": min_precision,
        "approximate": ann,
        **said,
    }
    identity |= {"encoder_precision": dtype.value}
    with _bytes(out) as target:
        account = link_file(
            linker, source, target, layout,
            column=column, language_column=language_column, options=options, identity=identity, progress=show_progress(),
        )  # fmt: skip
    if file:
        log(f"{file}: {account.summary()}")


def _opened(index: Path, ray: str | None, options: dict[str, Any]) -> "tuple[Links | RemoteLinkers, str | None]":
    """What links, here or on a cluster, and its index's content. options: of `Linker.load`."""
    if ray:
        from xsap.cluster import RayLinkers, connect

        linkers = RayLinkers(connect(ray), index, **options)
        return linkers, linkers.content_hash
    from xsap.linking.linker import Linker

    linker = Linker.load(index, **options)
    return linker, linker.index.content_hash


def _parts(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


@contextmanager
def _bytes(path: Path | None) -> Iterator[Path | IO[bytes]]:
    """A file's path, or stdout; a reader of stdout that goes away early is no error."""
    if path:
        yield path
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Protocol(StrEnum):
    """How `evaluate` counts."""

    CONCEPT = "concept"
    REFERENCE = "reference"


def evaluate(
    mentions: Annotated[
        Path, typer.Argument(help="Mentions with their concepts: .tsv, .parquet, or lines id||mention.")
    ],
    index: Annotated[Path | None, typer.Option(help="An index's folder.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model: needed with --dictionary; with --index only if it was moved.")
    ] = None,
    dictionary: Annotated[Path | None, typer.Option(help="Lines id||name to search instead of an index.")] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="concept: as link answers; reference: as the original SapBERT code.")
    ] = Protocol.CONCEPT,
    ann: Ann = False,
    dtype: DtypeOption = Dtype.FLOAT32,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score linking by language: Acc@k and MRR, with 95 % bootstrap intervals."""
    _check_evaluate(index, model, dictionary, protocol, pooling or max_length, ann=ann)
    from xsap.encoding.encoder import Encoder
    from xsap.evaluation.protocols import (
        ReferenceDictionary,
        evaluate_concept,
        evaluate_reference,
        read_queries,
        to_text,
    )
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    metadata: dict[str, Any] = {}
    if dictionary:
        rows = ReferenceDictionary.read(dictionary)
        encoder = Encoder.from_pretrained(str(model), pooling=pooling, max_length=max_length, dtype=dtype.value)
        report = evaluate_reference(encoder, rows, queries, progress=show_progress())
        metadata = {"dictionary": {**rows.metadata(), "sha256": sha256_of(dictionary)}, "model": encoder.content_hash}
    else:
        linker = Linker.load(str(index), model=model, ann=ann, dtype=dtype.value)
        if protocol is Protocol.CONCEPT:
            report = evaluate_concept(linker, queries)
        else:
            assert isinstance(linker.encoder, Encoder), "Linker.load opens no other"
            report = evaluate_reference(
                linker.encoder, ReferenceDictionary.of_index(linker.index), queries, progress=show_progress()
            )
        metadata = {"dictionary": linker.index.metadata(), "model": linker.encoder.content_hash}
    metadata["encoder_precision"] = dtype.value
    report |= metadata | {"mentions": {"n": queries.num_rows, "sha256": sha256_of(mentions)}}
    with output(None) as stream:
        stream.write((json.dumps(report, indent=1, ensure_ascii=False) if as_json else to_text(report)) + "\n")


def _check_evaluate(
    index: Path | None,
    model: str | None,
    dictionary: Path | None,
    protocol: Protocol,
    described: object,
    *,
    ann: bool,
) -> None:
    if bool(index) == bool(dictionary):
        raise ConfigError(f"expected --index or --dictionary, found {'both' if index else 'neither'}")
    if dictionary and not model:
        raise ConfigError("--dictionary needs a --model to embed its names with")
    if dictionary and protocol is Protocol.CONCEPT:
        raise ConfigError(
            "--dictionary is for --protocol reference; for concepts make an index of it: xsap-prepare table, xsap index"
        )
    if index and described:
        raise ConfigError("--pooling and --max-length go with --dictionary; an index knows its own")
    if ann and (dictionary or protocol is Protocol.REFERENCE):
        raise ConfigError("--ann goes with --index and --protocol concept; the reference protocol compares all names")


def calibrate(
    mentions: Annotated[
        Path,
        typer.Argument(
            help="Mentions as evaluate reads them; those with no concept, an empty concept_ids, should be among them."
        ),
    ],
    index: Annotated[Path, typer.Option(help="The index's folder, which keeps the calibration.")],
    model: Annotated[str | None, typer.Option(help="Where the index's model is now, if it was moved.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="An .html file to write: reliability and risk-coverage curves.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into folds.")] = 0,
) -> None:
    """Fit the confidence of an index's answers; then `link --min-precision 0.95` answers only where that is kept.

    It is fitted to exact answers, and used for those of link --ann, too."""
    from xsap.evaluation.calibration_report import calibrate, page_of, to_text
    from xsap.evaluation.protocols import read_queries
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    linker = Linker.load(index, model=model)
    calibration, found = calibrate(linker, queries, seed=seed)
    linker.index.with_calibration(calibration)
    if report:
        with write_atomically(report) as stream:
            stream.write(page_of(found, f"How sure are the answers of {index.name}?"))
        log(f"{report}: reliability and risk-coverage curves")
    log(f"{index}: calibrated on {queries.num_rows:,} mentions")
    with output(None) as stream:
        stream.write(to_text(found) + "\n")


def tune_fusion(
    mentions: Annotated[Path, typer.Argument(help="Mentions as evaluate reads them, of the kind that will be linked.")],
    index: Annotated[
        Path, typer.Option(help="The index's folder, which keeps the weight; calibrate it again after that.")
    ],
    model: Annotated[str | None, typer.Option(help="Where the index's model is now, if it was moved.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split into halves.")] = 0,
) -> None:
    """Choose how much likeness in spelling counts beside meaning: 0, unless it surely pays for these mentions."""
    from xsap.evaluation.protocols import read_queries
    from xsap.evaluation.tuning import WEIGHTS, tune_fusion
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    linker = Linker.load(index, model=model)
    choice = tune_fusion(linker, queries, seed=seed)
    linker.index.with_fusion_weight(choice.weight)
    with output(None) as stream:
        stream.write("weight  Acc@1, per cent\n")
        stream.writelines(f"{w:6.2f}  {100 * score:.2f}\n" for w, score in zip(WEIGHTS, choice.accuracies, strict=True))
    gain = choice.gain
    log(
        f"{index}: weight {choice.weight:g}; gain on mentions that it was not chosen on {100 * gain.difference:+.2f} points "
        f"[{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
    )


def shrink(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Argument(help="A terminology's folder: what its names need is kept.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    mentions: Annotated[Path | None, typer.Option(help="Mentions, as for evaluate: how many stay as they are?")] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a model smaller: without the pieces of words that no name of a terminology has, and with the same vectors for all others."""
    check_can_write(out, overwrite=overwrite, kind="model")
    from xsap.encoding.encoder import Encoder
    from xsap.encoding.vocabulary import shrink_to, shrunk_metadata, unchanged_texts
    from xsap.evaluation.protocols import read_queries
    from xsap.terms.terminology import Terminology

    texts = read_queries(mentions)["mention"].to_pylist() if mentions else []
    names = Terminology.load(terminology)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length)
    smaller = shrink_to(encoder, names.names["name"].to_pylist())
    smaller.save_pretrained(out, overwrite=overwrite, metadata=shrunk_metadata(encoder, names.content_hash))
    rows = [each.transformer.get_input_embeddings().num_embeddings for each in (encoder, smaller)]
    weights = [sum(weight.numel() for weight in each.transformer.parameters()) for each in (encoder, smaller)]
    log(
        f"{out}: {rows[0]:,} → {rows[1]:,} rows, {weights[0]:,} → {weights[1]:,} parameters, "
        f"{weights[0] * 4 / 1e6:,.1f} → {weights[1] * 4 / 1e6:,.1f} MB of weights"
    )
    if texts:
        same = unchanged_texts(encoder, smaller, texts)
        other = [text for text, alike in zip(texts, same, strict=True) if not alike]
        examples = f"; not: {', '.join(repr(text) for text in other[:5])}" if other else ""
        log(f"{mentions}: {100 * same.mean():.1f} % of {len(texts):,} mentions become the same pieces{examples}")


def encode(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The .npy file to write: (names, dimension) float32 unit vectors, in the order of the names."
        ),
    ],
    names: Annotated[Path | None, typer.Option(help="A text file, a name a line; by default stdin.")] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dtype: DtypeOption = Dtype.FLOAT32,
) -> None:
    """Embed names alone, without an index."""
    if out.suffix != ".npy":
        raise ConfigError(f"vectors are written as .npy; expected --out to end in it, found {out}")
    lines = read_lines(names) if names else stdin_lines()
    import numpy as np

    from xsap.encoding.encoder import Encoder

    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length, dtype=dtype.value)
    vectors = encoder.encode(lines, progress=show_progress())
    with write_atomically(out, binary=True) as stream:
        np.save(stream, vectors, allow_pickle=False)
    log(f"{out}: {len(vectors):,} vectors of {encoder.dimension} components")


for command in (
    index,
    merge,
    link,
    evaluate,
    tune_fusion,
    calibrate,
    encode,
    shrink,
):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (sys.argv's by default) and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = app(args=arguments, prog_name="xsap", standalone_mode=False)
    except XsapError as error:
        log(f"error: {error}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:  # a full disk, a folder that may not be written
        log(f"error: {error}")
        code = 1
    except Exception as error:
        message = getattr(
            error, "format_message", None
        )  # click's usage errors, which typer may have under its own name
        if message is None:
            raise
        log(f"error: {message().rstrip('.')}. See xsap --help")
        code = 2
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
