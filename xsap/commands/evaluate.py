"""`xsap evaluate`, `calibrate` and `tune-fusion`: commands that need mentions with known concepts."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import sha256_of, write_atomically
from xsap.errors import ConfigError
from xsap.output_paths import check_new_file
from xsap.plots import check_plot, risk_coverage_diagram, save
from xsap.terminal import (
    Ann,
    Dtype,
    DtypeOption,
    HeaderRow,
    MaxLength,
    MovedModel,
    Pooling,
    Prompt,
    Rerank,
    Sheet,
    TextEncoding,
    announce_wait,
    log,
    output,
    show_progress,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from xsap.evaluation.protocols import EvaluationReport
    from xsap.linking.index import Index

MOSTLY_OWN = 0.9  # of the mentions


class Protocol(StrEnum):
    """Evaluation protocols."""

    CONCEPT = "concept"
    REFERENCE = "reference"


MentionsFile = Annotated[
    Path,
    typer.Argument(
        help="Mentions with their concepts: CSV, TSV, XLSX, JSONL or Parquet; lines id||mention; what people decided: a "
        "save file of Usagi, SSSOM, or a review; or a corpus in the format of brat, BigBIO or CodiEsp."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="FIELD=HEADER for a column with another header, such as concept_ids=Code; HEADER alone: that of the "
        "mentions, such as ADD_INFO:original of a save file of Usagi. Repeatable.",
    ),
]


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
    rerank: Rerank = None,
    ann: Ann = False,
    dtype: DtypeOption = Dtype.FLOAT32,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    broader: Annotated[
        bool, typer.Option("--broader", help="Score answers with a broader concept, as link --broader gives.")
    ] = False,
    min_confidence: Annotated[
        float | None, typer.Option(help="Limit below which a broader concept is the answer; needs --broader.")
    ] = None,
    min_precision: Annotated[
        float | None, typer.Option(help="Limit below which a broader concept is the answer; needs --broader.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Risk-coverage curve to write, PNG or SVG. Needs xsap[plot].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the plot if it exists.")] = False,
) -> None:
    """Measure the accuracy of linking, by language.

    Prints Acc@k and MRR with 95 % bootstrap intervals, then risk and coverage: how many answers are wrong if only the
    most certain ones are given. Mentions without a concept (empty concept_ids) do not enter Acc@k and MRR; they are
    reported separately.
    """
    _check_evaluate(index, model, dictionary, protocol, (pooling, max_length, prompt), ann=ann)
    _check_risk_plot(plot, protocol, overwrite=overwrite)
    limits = {"min_confidence": min_confidence, "min_precision": min_precision}
    _check_broader(broader, limits, protocol)
    with announce_wait(f"loading {model or f'the model of {index}'}"):
        from xsap.encoding.encoder import Encoder
        from xsap.encoding.precision import open_encoder_in
        from xsap.evaluation import protocols
        from xsap.evaluation.protocols import ReferenceDictionary, evaluate_reference, to_text
        from xsap.linking.linker import Linker

        queries = _read(mentions, column, sheet, header_row, encoding)
        if dictionary:
            rows = ReferenceDictionary.read(dictionary)
            options: dict[str, Any] = {"pooling": pooling, "max_length": max_length, "prompt": prompt}
            encoder = open_encoder_in(
                dtype.value, lambda each: Encoder.from_pretrained(str(model), dtype=each, **options)
            )
        else:
            linker = Linker.load(str(index), model=model, ann=ann, dtype=dtype.value, rerank=rerank)
            assert isinstance(linker.encoder, Encoder), "Linker.load opens no other"
            encoder = linker.encoder
            _warn_of_own_mentions(linker.index, queries)
    if dictionary:
        report = evaluate_reference(encoder, rows, queries, progress=show_progress())
        metadata = {"dictionary": {**rows.metadata(), "sha256": sha256_of(dictionary)}, "model": encoder.content_hash}
    else:
        if protocol is Protocol.CONCEPT:
            report = protocols.evaluate(linker, queries)
        else:
            rows = ReferenceDictionary.from_index(linker.index)
            report = evaluate_reference(encoder, rows, queries, progress=show_progress())
        metadata = {"dictionary": linker.index.metadata(), "model": encoder.content_hash}
        if linker.reranking is not None:
            metadata["reranker"] = {"hash": linker.reranking.reranker.content_hash, "top": linker.reranking.top}
    of_mentions = {"n": queries.num_rows, "sha256": sha256_of(mentions)}
    result = report.to_dict() | metadata | {"dtype": encoder.dtype, "mentions": of_mentions}
    if plot:
        _save_risk_plot(plot, report)
    text = to_text(report)
    if broader:
        from xsap.evaluation.broader_answers import broader_text, evaluate_broader

        found = evaluate_broader(linker, queries, **limits)
        text, result = f"{text}\n\n{broader_text(found)}", result | {"broader": found.to_dict() | limits}
    with output(None) as stream:
        stream.write((json.dumps(result, indent=1, ensure_ascii=False) if as_json else text) + "\n")


def _check_evaluate(
    index: Path | None,
    model: str | None,
    dictionary: Path | None,
    protocol: Protocol,
    described: Sequence[object],
    *,
    ann: bool,
) -> None:
    if bool(index) == bool(dictionary):
        raise ConfigError(f"expected --index or --dictionary, found {'both' if index else 'neither'}")
    if dictionary and not model:
        raise ConfigError("--dictionary needs --model, to embed its names")
    if dictionary and protocol is Protocol.CONCEPT:
        raise ConfigError(
            "--dictionary needs --protocol reference; for the concept protocol build an index: xsap-prepare table, xsap index"
        )
    if index and any(value is not None for value in described):
        raise ConfigError("--pooling, --max-length and --prompt need --dictionary; an index records them")
    if ann and (dictionary or protocol is Protocol.REFERENCE):
        raise ConfigError("--ann needs --index and --protocol concept; the reference protocol compares all names")


def _check_broader(broader: bool, limits: dict[str, float | None], protocol: Protocol) -> None:
    given = [name for name, value in limits.items() if value is not None]
    if broader and protocol is Protocol.REFERENCE:
        raise ConfigError("--broader needs --protocol concept; the reference protocol ranks names")
    if broader and not given:
        raise ConfigError(
            "--broader needs --min-confidence or --min-precision, the limit below which a broader concept is the answer"
        )
    if given and not broader:
        raise ConfigError(f"--{given[0].replace('_', '-')} needs --broader; without it all answers are scored")


def _check_risk_plot(plot: Path | None, protocol: Protocol, *, overwrite: bool) -> None:
    check_plot(plot)
    if plot and protocol is Protocol.REFERENCE:
        raise ConfigError("--plot needs --protocol concept; answers of the reference protocol have no confidence")
    if plot:
        check_new_file(plot, overwrite=overwrite)


def _save_risk_plot(plot: Path, report: "EvaluationReport") -> None:
    if report.risk is None:
        log(f"{plot}: not written, as no mention has an answer")
        return
    diagram = risk_coverage_diagram(report.risk.curve, title=f"{report.risk.n:,} answers, by {report.risk.by}")
    save(diagram, plot, title="Risk and coverage")
    log(f"{plot}: risk-coverage curve")


def calibrate(
    mentions: MentionsFile,
    index: Annotated[Path, typer.Option(help="Index folder; the calibration is stored in it.")],
    model: MovedModel = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Re-ranker to store in the index and to calibrate with: a folder of train-reranker, 'late', or 'none'; by "
            "default the stored one.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="HTML report to write: reliability and risk-coverage curves.")
    ] = None,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into folds.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report if it exists.")] = False,
) -> None:
    """Fit confidences on mentions and store them in an index.

    link --min-confidence and --min-precision need them. The mentions should include some that have no concept in the terminology (empty concept_ids).
    """
    if report:
        check_new_file(report, overwrite=overwrite)
    with announce_wait(f"loading the model of {index}"):
        from xsap.evaluation.calibration_report import calibrate, to_page, to_text
        from xsap.linking.linker import Linker
        from xsap.linking.rerank_choice import check_storable, store_reranker

        if rerank is not None:
            check_storable(rerank)
        table = _read(mentions, column, sheet, header_row, encoding)
        linker = Linker.load(index, model=model, rerank=rerank)
        _warn_of_own_mentions(linker.index, table)
    found = calibrate(linker, table, seed=seed)
    stored = linker.index
    if rerank is not None:
        stored = store_reranker(stored, rerank, linker.encoder)
    stored.with_calibration(found.calibration)
    if report:
        with write_atomically(report) as stream:
            stream.write(to_page(found, f"Calibration of {index.name}"))
        log(f"{report}: reliability and risk-coverage curves")
    log(f"{index}: calibrated on {table.num_rows:,} mentions")
    with output(None) as stream:
        stream.write(to_text(found) + "\n")


def tune_fusion(
    mentions: MentionsFile,
    index: Annotated[Path, typer.Option(help="Index folder; the weight is stored in it. Calibrate again afterward.")],
    model: MovedModel = None,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into halves.")] = 0,
) -> None:
    """Choose the weight of string similarity in an index.

    The weight, relative to cosine similarity, is stored in the index. It is 0 unless a higher one is significantly better on held-out mentions.
    """
    with announce_wait(f"loading the model of {index}"):
        from xsap.evaluation.tuning import WEIGHTS, tune_fusion
        from xsap.linking.linker import Linker

        table = _read(mentions, column, sheet, header_row, encoding)
        linker = Linker.load(index, model=model)
    choice = tune_fusion(linker, table, seed=seed)
    linker.index.with_fusion_weight(choice.weight)
    with output(None) as stream:
        stream.write("weight  Acc@1, per cent\n")
        stream.writelines(f"{w:6.2f}  {100 * score:.2f}\n" for w, score in zip(WEIGHTS, choice.accuracies, strict=True))
    gain, low, high = (100 * value for value in (choice.gain.difference, choice.gain.low, choice.gain.high))
    log(f"{index}: weight {choice.weight:g}; gain on held-out mentions {gain:+.2f} points [{low:+.2f}, {high:+.2f}]")


def _warn_of_own_mentions(index: "Index", mentions: "pa.Table") -> None:
    """Say so if an index is measured on the mentions that are its names. Of other texts, too, many mentions are, but not nearly all."""
    names = index.mention_names
    if names is None or not names.weight:
        return
    fraction = names.fraction_annotated(mentions, index.concepts["concept_id"].to_pylist())
    if fraction >= MOSTLY_OWN:
        log(
            f"warning: {100 * fraction:.0f} % of the mentions are mention names of the index, annotated with these concepts, so the figures hold "
            "for such mentions alone; use others"
        )


def _read(
    mentions: Path, columns: list[str] | None, sheet: str | None, header_row: int, encoding: str | None
) -> "pa.Table":
    from xsap.exchange.decided_mentions import read_gold
    from xsap.terms.mentions import parse_columns

    named = parse_columns(columns or [])
    return read_gold(mentions, columns=named, sheet=sheet, header_row=header_row, encoding=encoding)
