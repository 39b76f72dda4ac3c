"""`xsap`: build an index, link terms, evaluate and calibrate, encode names, shrink a model.

Torch and everything that needs it is imported inside the commands, so that `--help` and wrong options answer at once.
"""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import check_can_write, sha256_of, write_atomically
from xsap.errors import ConfigError
from xsap.files import read_lines
from xsap.languages import parse_languages
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    Format,
    MaxLength,
    MovedModel,
    OnRay,
    Overwrite,
    Pooling,
    VectorFormat,
    create_app,
    log,
    output,
    parse_list,
    parse_size,
    path_or_stdout,
    run,
    show_progress,
    stdin_lines,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from xsap.linking.build import BuildSummary
    from xsap.linking.linker import Linker
    from xsap.tabular.link_file import Links, RemoteLinkers

app = create_app("Link clinical and biomedical terms in any language to the concepts of a terminology.")

Model = Annotated[str, typer.Argument(help="Model folder, or its id on the Hugging Face hub.")]
TerminologyFolder = Annotated[Path, typer.Argument(help="Terminology folder, as xsap-prepare writes it.")]
OutputFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]
WithHnsw = Annotated[
    bool,
    typer.Option(
        "--ann", help="Also build an HNSW index, for link --ann. Needs xsap[ann]; takes 20 minutes per million names."
    ),
]


@app.command()
def index(
    model: Model,
    terminology: TerminologyFolder,
    out: OutputFolder,
    languages: Annotated[
        str, typer.Option(help="Languages of the names to embed: 'all', or codes such as 'en,es'.")
    ] = "en",
    vector_dtype: Annotated[
        VectorFormat, typer.Option(help="Vector dtype. float16 halves disk use; int8 quarters it.")
    ] = VectorFormat.FLOAT32,
    max_memory: Annotated[str | None, typer.Option(help="Maximum memory of the process, such as 4GB.")] = None,
    reuse: Annotated[Path | None, typer.Option(help="Older index of the same model, to reuse vectors.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/N: build only part i of N; join with merge.")] = None,
    ann: WithHnsw = False,
    ray: OnRay = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    overwrite: Overwrite = False,
) -> None:
    """Build an index: embed the names of a terminology.

    The commands link and evaluate search it. The same command resumes an interrupted build.
    """
    chosen = parse_languages(languages)
    check_can_write(out, overwrite=overwrite, kind="index" if shard is None else "index-shards")
    allowed = parse_size(max_memory) if max_memory else None
    from xsap.encoding.encoder import Encoder
    from xsap.linking.build import build_index, process_group
    from xsap.linking.index import EncoderSpec
    from xsap.linking.shards import parse_shard
    from xsap.search.approximate import check_usearch_installed

    if ann:
        check_usearch_installed()
    part = parse_shard(shard) if shard else None
    group = process_group()
    device = None if group is None else str(group.device)
    if ray:
        from xsap.cluster import connect, encode_groups

        cluster = connect(ray)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length, device=device, dtype=dtype.value)
    summary = build_index(
        terminology,
        encoder,
        out,
        model_path=model,
        languages=chosen,
        vector_dtype=vector_dtype.value,
        max_memory=allowed,
        reuse=reuse,
        shard=part,
        ann=ann,
        encode_groups=encode_groups(cluster, model, EncoderSpec.from_encoder(encoder)) if ray else None,
        overwrite=overwrite,
        progress=show_progress(),
    )
    if summary is not None:
        _log_build(out if shard is None else f"{out}, part {shard}", summary, reused=reuse is not None)


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders written by xsap index --shard 1/N … N/N.")],
    out: OutputFolder,
    ann: WithHnsw = False,
    overwrite: Overwrite = False,
) -> None:
    """Merge the parts of an index; the result equals that of a single build."""
    from xsap.linking.build import merge_shards

    _log_build(out, merge_shards(parts, out, ann=ann, overwrite=overwrite, progress=show_progress()))


def _log_build(out: Path | str, built: "BuildSummary", *, reused: bool = False) -> None:
    from xsap.search.approximate import RECALL_AT

    line = f"{out}: {built.names:,} names of {built.concepts:,} concepts"
    line += "".join(f"; dropped {count:,} ({reason})" for reason, count in built.dropped.items())
    if reused:
        encoded = built.names - built.reused
        line += f"; reused {built.reused:,}, encoded {encoded:,}, removed {built.removed:,} of the old index"
    if built.resumed and built.encoded + built.reused:
        line += f"; resumed with {built.resumed:,} encoded earlier"
    if built.recall is not None:
        line += f"; the HNSW index finds {100 * built.recall:.1f} % of the {RECALL_AT} nearest names"
    log(line)


@app.command()
def link(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    terms: Annotated[list[str] | None, typer.Argument(help="Terms; without terms and --file, from stdin.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Table of terms: .csv, .tsv or .jsonl (optionally .gz), .parquet or .xlsx.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --file with the terms; by default 'term'.")] = None,
    language_column: Annotated[str | None, typer.Option(help="Column of --file with the terms' languages.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of an .xlsx file; by default the first.")] = None,
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
    ann: Ann = False,
    ray: OnRay = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    form: Annotated[
        Format | None, typer.Option("--format", help="Output format; by default that of --out, else table.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="One row per term, with the candidates in columns.")] = False,
    excel: Annotated[bool, typer.Option("--excel", help="Write CSV or TSV that Excel opens directly.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of stdout. The same command resumes an interrupted run.")
    ] = None,
) -> None:
    """Link terms to concepts."""
    from xsap.tabular.link_file import link_file
    from xsap.tabular.readers import open_table, table_of_terms
    from xsap.tabular.writers import OutputFormat

    if file and terms:
        raise ConfigError(f"expected terms as arguments or --file, found both: '{terms[0][:40]}' and {file}")
    if ray and not file:
        raise ConfigError("--ray needs --file, found none; remove --ray or add --file")
    for option, value in (("--sheet", sheet), ("--column", column), ("--language-column", language_column)):
        if value is not None and not file:
            raise ConfigError(f"{option} '{value}' needs --file, found none; remove it or add --file")
    output_format = OutputFormat.for_file(out, form and form.value, top_k=top_k, wide=wide, excel=excel)
    table = open_table(file, sheet=sheet) if file else table_of_terms(terms or stdin_lines(), "stdin")
    column = column or ("term" if file else "mention")
    for name in filter(None, (column, language_column)):
        table.column_index(name)  # a missing column is reported before torch is imported and the index opened
    from xsap.linking.ranking import Filter

    given = {"semantic_types": semantic_types, "groups": groups, "sources": sources, "languages": languages}
    wanted = Filter(**{key: parse_list(value) for key, value in given.items()})
    limits = {"min_confidence": min_confidence, "min_precision": min_precision}
    linker, content_hash = _open_linker(index, ray, {"model": model, "ann": ann, "dtype": dtype.value})
    identity = {"index": content_hash, "ann": ann, "dtype": dtype.value, **limits, **given}
    with path_or_stdout(out) as target:
        counts = link_file(
            linker,
            table,
            target,
            output_format,
            column=column,
            language_column=language_column,
            options={"filter": wanted, **limits},
            identity=identity,
            progress=show_progress(),
        )
    if file:
        log(f"{file}: {counts.summary()}")


def _open_linker(index: Path, ray: str | None, options: dict[str, Any]) -> "tuple[Links | RemoteLinkers, str | None]":
    """A linker here or on a cluster, and the content hash of its index."""
    if ray:
        from xsap.cluster import RayLinkers, connect

        linkers = RayLinkers(connect(ray), index, **options)
        return linkers, linkers.content_hash
    from xsap.linking.linker import Linker

    linker = Linker.load(index, **options)
    return linker, linker.index.content_hash


class Protocol(StrEnum):
    """Evaluation protocols."""

    CONCEPT = "concept"
    REFERENCE = "reference"


MentionsFile = Annotated[
    Path, typer.Argument(help="Mentions with their concepts: .tsv, .parquet, or lines id||mention.")
]


@app.command()
def evaluate(
    mentions: MentionsFile,
    index: Annotated[Path | None, typer.Option(help="Index folder.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model: required with --dictionary; with --index only if the model was moved.")
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option(help="File of id||name lines to search instead of an index.")
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="concept: rank concepts, as link. reference: rank names, as the original SapBERT code."),
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
    from xsap.evaluation import protocols
    from xsap.evaluation.protocols import ReferenceDictionary, evaluate_reference, read_queries, to_text
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    if dictionary:
        rows = ReferenceDictionary.read(dictionary)
        encoder = Encoder.from_pretrained(str(model), pooling=pooling, max_length=max_length, dtype=dtype.value)
        report = evaluate_reference(encoder, rows, queries, progress=show_progress())
        metadata = {"dictionary": {**rows.metadata(), "sha256": sha256_of(dictionary)}, "model": encoder.content_hash}
    else:
        linker = Linker.load(str(index), model=model, ann=ann, dtype=dtype.value)
        if protocol is Protocol.CONCEPT:
            report = protocols.evaluate(linker, queries)
        else:
            assert isinstance(linker.encoder, Encoder), "Linker.load opens no other"
            rows = ReferenceDictionary.from_index(linker.index)
            report = evaluate_reference(linker.encoder, rows, queries, progress=show_progress())
        metadata = {"dictionary": linker.index.metadata(), "model": linker.encoder.content_hash}
    of_mentions = {"n": queries.num_rows, "sha256": sha256_of(mentions)}
    result = report.to_dict() | metadata | {"dtype": dtype.value, "mentions": of_mentions}
    with output(None) as stream:
        stream.write((json.dumps(result, indent=1, ensure_ascii=False) if as_json else to_text(report)) + "\n")


def _check_evaluate(
    index: Path | None, model: str | None, dictionary: Path | None, protocol: Protocol, described: object, *, ann: bool
) -> None:
    if bool(index) == bool(dictionary):
        raise ConfigError(f"expected --index or --dictionary, found {'both' if index else 'neither'}")
    if dictionary and not model:
        raise ConfigError("--dictionary needs --model, to embed its names")
    if dictionary and protocol is Protocol.CONCEPT:
        raise ConfigError(
            "--dictionary needs --protocol reference; for the concept protocol build an index: xsap-prepare table, xsap index"
        )
    if index and described:
        raise ConfigError("--pooling and --max-length need --dictionary; an index records them")
    if ann and (dictionary or protocol is Protocol.REFERENCE):
        raise ConfigError("--ann needs --index and --protocol concept; the reference protocol compares all names")


@app.command()
def calibrate(
    mentions: MentionsFile,
    index: Annotated[Path, typer.Option(help="Index folder; the calibration is stored in it.")],
    model: MovedModel = None,
    report: Annotated[
        Path | None, typer.Option(help="HTML report to write: reliability and risk-coverage curves.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into folds.")] = 0,
) -> None:
    """Fit calibrated confidence and store it in the index, for link --min-precision.

    The mentions should include some that have no concept in the terminology (empty concept_ids).
    """
    from xsap.evaluation.calibration_report import calibrate, to_page, to_text

    linker, table = _linker_and_mentions(index, model, mentions)
    found = calibrate(linker, table, seed=seed)
    linker.index.with_calibration(found.calibration)
    if report:
        with write_atomically(report) as stream:
            stream.write(to_page(found, f"Calibration of {index.name}"))
        log(f"{report}: reliability and risk-coverage curves")
    log(f"{index}: calibrated on {table.num_rows:,} mentions")
    with output(None) as stream:
        stream.write(to_text(found) + "\n")


@app.command()
def tune_fusion(
    mentions: MentionsFile,
    index: Annotated[Path, typer.Option(help="Index folder; the weight is stored in it. Calibrate again afterwards.")],
    model: MovedModel = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into halves.")] = 0,
) -> None:
    """Choose the weight of string similarity in scores and store it in the index.

    The weight is 0 unless a higher one is significantly better on held-out mentions.
    """
    from xsap.evaluation.tuning import WEIGHTS, tune_fusion

    linker, table = _linker_and_mentions(index, model, mentions)
    choice = tune_fusion(linker, table, seed=seed)
    linker.index.with_fusion_weight(choice.weight)
    with output(None) as stream:
        stream.write("weight  Acc@1, per cent\n")
        stream.writelines(f"{w:6.2f}  {100 * score:.2f}\n" for w, score in zip(WEIGHTS, choice.accuracies, strict=True))
    gain, low, high = (100 * value for value in (choice.gain.difference, choice.gain.low, choice.gain.high))
    log(f"{index}: weight {choice.weight:g}; gain on held-out mentions {gain:+.2f} points [{low:+.2f}, {high:+.2f}]")


def _linker_and_mentions(index: Path, model: str | None, mentions: Path) -> "tuple[Linker, pa.Table]":
    from xsap.evaluation.protocols import read_queries
    from xsap.linking.linker import Linker

    return Linker.load(index, model=model), read_queries(mentions)


@app.command()
def encode(
    model: Model,
    out: Annotated[Path, typer.Option(help="The .npy file to write: float32 unit vectors (names, dimension).")],
    names: Annotated[Path | None, typer.Option(help="Text file with one name per line; by default stdin.")] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dtype: DtypeOption = Dtype.FLOAT32,
) -> None:
    """Embed names, without an index."""
    if out.suffix != ".npy":
        raise ConfigError(f"expected --out to end in .npy, found {out}")
    lines = read_lines(names) if names else stdin_lines()
    import numpy as np

    from xsap.encoding.encoder import Encoder

    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length, dtype=dtype.value)
    vectors = encoder.encode(lines, progress=show_progress())
    with write_atomically(out, binary=True) as stream:
        np.save(stream, vectors, allow_pickle=False)
    log(f"{out}: {len(vectors):,} vectors of {encoder.dimension} components")


@app.command()
def shrink(
    model: Model,
    terminology: TerminologyFolder,
    out: OutputFolder,
    mentions: Annotated[
        Path | None, typer.Option(help="Mentions, as for evaluate, to report how many are tokenized as before.")
    ] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a model smaller: remove vocabulary that a terminology does not use.

    Text that is tokenized into the remaining pieces keeps its vectors.
    """
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
        f"{out}: {rows[0]:,} → {rows[1]:,} vocabulary rows, {weights[0]:,} → {weights[1]:,} parameters, "
        f"{weights[0] * 4 / 1e6:,.1f} → {weights[1] * 4 / 1e6:,.1f} MB in float32"
    )
    if texts:
        unchanged = unchanged_texts(encoder, smaller, texts)
        changed = [text for text, same in zip(texts, unchanged, strict=True) if not same]
        examples = f"; changed: {', '.join(repr(text) for text in changed[:5])}" if changed else ""
        log(f"{mentions}: {100 * unchanged.mean():.1f} % of {len(texts):,} mentions are tokenized as before{examples}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `xsap`: run a command line, by default that of the process, and exit."""
    run(app, "xsap", arguments)


if __name__ == "__main__":
    main()
