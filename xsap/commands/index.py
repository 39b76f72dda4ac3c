"""`xsap index` and `xsap merge`: build an index, at once or in parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import check_can_write, read_manifest
from xsap.commands.evaluate import Columns
from xsap.errors import ConfigError
from xsap.languages import parse_languages
from xsap.terminal import (
    Dtype,
    DtypeOption,
    HeaderRow,
    MaxLength,
    Model,
    OnRay,
    OutputFolder,
    Overwrite,
    Pooling,
    Prompt,
    Revision,
    Sheet,
    TerminologyFolder,
    TextEncoding,
    VectorFormat,
    announce_wait,
    log,
    parse_size,
    show_progress,
)
from xsap.terms.mentions import parse_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from xsap.encoding.precision import DtypeChoice
    from xsap.linking.build import BuildSummary
    from xsap.linking.mention_build import BuiltMentions

WithHnsw = Annotated[
    bool,
    typer.Option(
        "--ann", help="Also build an HNSW index, for link --ann. Needs xsap[ann]; takes 20 minutes per million names."
    ),
]


def index(
    model: Model,
    terminology: TerminologyFolder,
    out: OutputFolder,
    languages: Annotated[
        str,
        typer.Option(
            help="Languages of the names to embed: 'all', or codes such as 'en,es'. Scores of benchmarks are for 'en'."
        ),
    ] = "all",
    vector_dtype: Annotated[
        VectorFormat, typer.Option(help="Vector dtype. float16 halves disk use; int8 quarters it.")
    ] = VectorFormat.FLOAT32,
    max_memory: Annotated[str | None, typer.Option(help="Maximum memory of the process, such as 4GB.")] = None,
    reuse: Annotated[Path | None, typer.Option(help="Older index of the same model, to reuse vectors.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/N: build only part i of N; join with merge.")] = None,
    ann: WithHnsw = False,
    mentions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Annotated mentions that become names, too: a table of mention and concept_ids, mappings that people approved, "
            "or a corpus in brat's or BigBIO's format. Repeatable."
        ),
    ] = None,
    mention_weight: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Weight of these names; by default it is learned on the mentions. 0 leaves them out."
        ),
    ] = None,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds on which the weight is learned.")] = 0,
    ray: OnRay = None,
    revision: Revision = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    dtype: DtypeOption = Dtype.AUTO,
    overwrite: Overwrite = False,
) -> None:
    """Build an index: embed the names of a terminology.

    The commands link and evaluate search it. The same command resumes an interrupted build.
    """
    chosen = parse_languages(languages)
    check_can_write(out, overwrite=overwrite, kind="index" if shard is None else "index-shards")
    allowed = parse_size(max_memory) if max_memory else None
    form = {"column": column, "sheet": sheet, "header_row": header_row, "encoding": encoding}
    annotated = _read_mentions(mentions or [], form, mention_weight)
    from xsap.encoding.encoder import Encoder
    from xsap.encoding.model_card import FUSION_WEIGHT, TUNED
    from xsap.encoding.precision import open_encoder_in
    from xsap.linking.build import build_index, process_group
    from xsap.linking.encoder_spec import EncoderSpec
    from xsap.linking.shards import parse_shard
    from xsap.search.approximate import check_usearch_installed

    if ann:
        check_usearch_installed()
    replaced = None if reuse is None or shard else read_manifest(reuse, "index").get("mentions")
    part = parse_shard(shard) if shard else None
    group = process_group()
    options: dict[str, Any] = {"pooling": pooling, "max_length": max_length, "prompt": prompt, "revision": revision}
    options["device"] = None if group is None else str(group.device)
    if ray:
        from xsap.cluster import connect, encode_groups

        cluster = connect(ray)
    chosen_dtype = _dtype_of_all(dtype, reuse, apart=bool(shard or ray or group))
    with announce_wait(f"loading {model}"):
        encoder = open_encoder_in(chosen_dtype, lambda each: Encoder.from_pretrained(model, dtype=each, **options))
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
        mentions=annotated,
        mention_weight=mention_weight,
        seed=seed,
        fusion_weight=float(encoder.provenance.get(FUSION_WEIGHT, 0.0)),
        encode_groups=encode_groups(cluster, model, EncoderSpec.from_encoder(encoder)) if ray else None,
        overwrite=overwrite,
        progress=show_progress(),
    )
    if summary is not None:
        _log_build(out if shard is None else f"{out}, part {shard}", summary, reused=reuse is not None)
        if mentions and mention_weight is None and TUNED in encoder.provenance:
            log(f"{out}: if {model} was tuned on these mentions, their weight is too low: it has learned these strings; learn the weight on "
                "mentions that were held out, RUN/tested_mentions.parquet, and give it with --mention-weight")  # fmt: skip
        if replaced:
            instead = "were replaced" if mentions else "were left out; to keep them, give the same files: --mentions"
            log(f"{reuse}: its {replaced['names']:,} mention names {instead}")


def _read_mentions(files: list[Path], form: dict[str, Any], weight: float | None) -> "pa.Table | None":
    """The mentions of all files; None without any, when an option of theirs is an error."""
    if files:
        from xsap.exchange.decided_mentions import read_all_gold

        columns = parse_columns(form["column"] or [])
        return read_all_gold(files, **{key: value for key, value in form.items() if key != "column"}, columns=columns)
    given = [key for key, value in form.items() if value != 1 and value] + (
        ["mention-weight"] if weight is not None else []
    )
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise ConfigError(f"{option} is for mentions, found no --mentions; add it, or leave {option} out")
    return None


def _dtype_of_all(dtype: Dtype, reuse: Path | None, *, apart: bool) -> "DtypeChoice":
    """`auto` stands for one dtype in all parts of an index: that of a reused index, or float32 where parts are made apart, on different processors."""
    if dtype is Dtype.AUTO and reuse is not None:
        stated = str(read_manifest(reuse, "index")["model"]["dtype"])
        return Dtype(stated).value if stated in set(Dtype) else "float32"
    return "float32" if dtype is Dtype.AUTO and apart else dtype.value


def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders written by xsap index --shard 1/N … N/N.")],
    out: OutputFolder,
    ann: WithHnsw = False,
    overwrite: Overwrite = False,
) -> None:
    """Merge the parts of an index that was built in parts.

    The result equals that of a single build.
    """
    check_can_write(out, overwrite=overwrite, kind="index")
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
    if built.fusion_weight:
        log(f"{out}: weight of string similarity {built.fusion_weight:.3f}, as the model was tuned")
    if built.mentions is not None:
        _log_mentions(built.mentions)


def _log_mentions(built: "BuiltMentions") -> None:
    from xsap.evaluation.strata import strata_table

    names, weight = built.names, built.weight
    line = f"mention names: {len(names):,} of {int(names.totals.sum()):,} annotations, {built.encoded:,} encoded"
    line += "".join(f"; dropped {count:,} ({reason})" for reason, count in names.dropped.items())
    log(f"{line}; weight {weight.weight:g}" + (f" ({weight.note})" if weight.note else ""))
    folds = {"by document": weight.by_document, "by concept": weight.by_concept}
    for by, rows in folds.items():
        if rows:
            log(f"without and with mention names, in folds {by}:")
            table = strata_table(dict(rows))
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            for cells in table:
                log("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
