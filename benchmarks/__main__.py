"""`python -m benchmarks`: accuracy of linking systems, corpora as files of mentions, and speed.

Data goes to stdout, messages to stderr. A missed target, or a system that got worse, is exit code 3. Whatever needs
torch or reads corpora is imported inside the commands, so that `--help` and wrong options answer at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.accuracy.context import context
from benchmarks.accuracy.run import linking, report
from benchmarks.model_speed_commands import (
    JsonTo,
    PlotTo,
    speed_encode,
    speed_loss_curve,
    speed_reference_run,
    speed_train,
)
from benchmarks.speed.harness import DeviceName, finish, select_device
from benchmarks.speed.mentions import speed_mentions
from benchmarks.speed.rerank import speed_rerank
from benchmarks.text_commands import annotation, memory, speed_text
from xsap.errors import ConfigError
from xsap.plots import check_plot
from xsap.terminal import Dtype, DtypeOption, Overwrite, create_app, log, parse_size
from xsap.terminal import run as run_app

if TYPE_CHECKING:
    import pyarrow as pa

    from xsap.files import RowCounts

PLAIN = {"no_args_is_help": True, "rich_markup_mode": None}
app = create_app("Benchmarks: accuracy of linking systems, corpora as files of mentions, and speed.")
mentions_app = typer.Typer(help="Convert published corpora to files of mentions.", **PLAIN)  # type: ignore[arg-type]
speed_app = typer.Typer(help="Compare speed and memory of implementations.", **PLAIN)  # type: ignore[arg-type]
app.command("linking")(linking)
app.command("report")(report)
app.command("context")(context)
app.command("annotation")(annotation)
app.command("memory")(memory)
app.add_typer(mentions_app, name="mentions")
app.add_typer(speed_app, name="speed")
speed_app.command("train")(speed_train)
speed_app.command("loss-curve")(speed_loss_curve)
speed_app.command("reference-run")(speed_reference_run)
speed_app.command("encode")(speed_encode)
speed_app.command("mentions")(speed_mentions)
speed_app.command("rerank")(speed_rerank)
speed_app.command("text")(speed_text)


class Distribution(StrEnum):
    """Distribution of synthetic vectors."""

    CLUSTERED = "clustered"
    UNIFORM = "uniform"


Seed = Annotated[int, typer.Option(help="Random seed.")]
MentionsOut = Annotated[Path, typer.Option(help="The .tsv or .parquet file to write.")]
Within = Annotated[
    Path | None,
    typer.Option(
        "--terminology", help="Terminology folder: keep only mentions of its concepts, with its concept ids as gold."
    ),
]


@app.command("compare")
def compare(
    results: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FILE…", help="Names of systems and their results of xsap evaluate --json."),
    ],
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Bar chart of Acc@1 to write, .png or .svg.")] = None,
    csv_to: Annotated[Path | None, typer.Option("--csv", help="CSV file to write, a figure in each row.")] = None,
    latex_to: Annotated[
        Path | None, typer.Option("--latex", help="LaTeX table to write (package booktabs), the best scores in bold.")
    ] = None,
) -> None:
    """Compare results of several systems. Prints a Markdown table; --plot draws a chart."""
    from benchmarks.accuracy.compare import (
        comparison_figures,
        comparison_table,
        comparison_to_markdown,
        plot,
        read_systems,
    )
    from xsap.artifacts import write_atomically
    from xsap.page import to_csv, to_latex

    check_plot(plot_to)
    systems = read_systems(results)
    if plot_to:
        plot(systems, plot_to)
        log(f"{plot_to}: bar chart of Acc@1")
    caption = "Accuracy in percent by language; the mean gives each language equal weight."
    for path, text in (
        (csv_to, to_csv(comparison_figures(systems))),
        (latex_to, to_latex(comparison_table(systems), caption)),
    ):
        if path:
            with write_atomically(path) as stream:
                stream.write(text)
    print(comparison_to_markdown(systems))


@app.command("nil")
def nil(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    mentions: Annotated[Path, typer.Option(help="Mentions with their concepts, as for xsap evaluate.")],
    json_to: JsonTo = None,
    seed: Seed = 0,
) -> None:
    """Check the guaranteed precision of an index. Half of the test mentions have no concept. Exit code 3 if it is missed."""
    from benchmarks.accuracy.nil import evaluate_nil, nil_table
    from xsap.artifacts import sha256_of
    from xsap.evaluation.protocols import read_queries
    from xsap.linking.linker import Linker

    queries = read_queries(mentions)
    result = evaluate_nil(Linker.load(index), queries, content_hash=sha256_of(mentions), seed=seed)
    finish(result, nil_table, json_to=json_to, targets=[result.target])


@app.command("synthetic-umls")
def synthetic_umls(
    out: Annotated[Path, typer.Option(help="META folder to write.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows of MRCONSO.")] = 100_000,
    relations: Annotated[int, typer.Option(min=0, help="Rows of MRREL.")] = 0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a synthetic UMLS release of any size."""
    from benchmarks.speed.synthetic_umls import generate

    generate(out, rows=rows, relations=relations, seed=seed, overwrite=overwrite)
    print(f"{out}: {rows:,} rows of MRCONSO, {relations:,} of MRREL")


@mentions_app.command("xlbel")
def mentions_xlbel(
    files: Annotated[list[Path], typer.Argument(help="Files of XL-BEL v0.0 or v1.0, such as de_1k_test_query.txt.")],
    out: MentionsOut,
    terminology: Within = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of the mentions; by default the beginning of each file's name, such as de."),
    ] = None,
) -> None:
    """XL-BEL: files with lines CUI||mention or CUI||mention||context."""
    from benchmarks.corpora.xlbel import read_xlbel

    _write_mentions(read_xlbel(files, language=language), terminology, out)


@mentions_app.command("mantra")
def mentions_mantra(
    archive: Annotated[Path, typer.Argument(help="Mantra-GSC-brat.zip.")], out: MentionsOut, terminology: Within = None
) -> None:
    """Mantra GSC in brat format."""
    from benchmarks.corpora.mantra import read_mantra

    _write_mentions(read_mantra(archive), terminology, out)


@mentions_app.command("corpus")
def mentions_corpus(
    name: Annotated[
        str,
        typer.Argument(
            help="Corpus, such as medmentions, or bigbio:DATABASE:LANGUAGE; for an unknown name, the error lists all."
        ),
    ],
    path: Annotated[Path, typer.Argument(help="File, folder or zip of the corpus, as published.")],
    out: MentionsOut,
    terminology: Within = None,
) -> None:
    """Any corpus of the linking command."""
    from benchmarks.accuracy.tasks import corpus_of

    _write_mentions(corpus_of(name).read(path), terminology, out)


def _write_mentions(table: "pa.Table", terminology: Path | None, out: Path) -> None:
    from benchmarks.accuracy.dictionary import count, restrict
    from xsap.terms.mentions import SCHEMA, write_mentions
    from xsap.terms.terminology import Terminology

    counts = count(table)
    if terminology:
        table, counts = restrict(table, Terminology.load(terminology))
    write_mentions(table.select(SCHEMA.names), out)
    print("\n".join([f"{out}: {table.num_rows:,} mentions", "", *_count_table(counts)]))


def _count_table(counts: Mapping[str, "RowCounts"]) -> list[str]:
    """Rows in, kept and dropped by reason, for each language and for all."""
    from xsap.languages import to_name
    from xsap.page import markdown

    reasons = sorted({reason for each in counts.values() for reason in each.dropped})
    rows = {
        f"{code} {to_name(code)}": [each.rows_in, each.kept, *(each.dropped.get(reason, 0) for reason in reasons)]
        for code, each in counts.items()
    }
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    header = ["language", "rows in", "kept", *(f"dropped: {reason}" for reason in reasons)]
    return markdown([header, *([label, *(f"{n:,}" for n in row)] for label, row in rows.items())])


@speed_app.command("serve")
def speed_serve(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    model: Annotated[str | None, typer.Option(help="Folder of the index's model, if it was moved.")] = None,
    mentions: Annotated[int, typer.Option(min=1, help="Mentions of a round.")] = 2000,
    clients: Annotated[int, typer.Option(min=1, help="Clients that send at the same time.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Mentions in a request.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    dtype: DtypeOption = Dtype.FLOAT32,
    json_to: JsonTo = None,
) -> None:
    """Compare xsap serve under load with Linker.link. On the CPU. The exit code is 3 if a target is missed."""
    from benchmarks.speed.serve import compare_serving, to_text

    result = compare_serving(
        index, model=model, mentions=mentions, clients=clients, batch=batch, rounds=rounds, dtype=dtype
    )
    finish(result, to_text, json_to=json_to, targets=result.targets)


@speed_app.command("search")
def speed_search(
    names: Annotated[int | None, typer.Option(min=1, help="Number of vectors to search; by default 1,000,000.")] = None,
    dimension: Annotated[int | None, typer.Option(min=2, help="Dimension of the vectors; by default 768.")] = None,
    mentions: Annotated[int | None, typer.Option(min=51, help="Mentions per batch; by default 1,000.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Names to find per mention; by default 10.")] = None,
    distribution: Annotated[
        Distribution | None, typer.Option(help="clustered: similar to vectors of names. uniform: random directions.")
    ] = None,
    evaluation: Annotated[
        bool,
        typer.Option(
            "--evaluation", help="Use the sizes of an evaluation: 10,000 mentions, 400,000 names, top 64, uniform."
        ),
    ] = False,
    nine_million: Annotated[
        bool, typer.Option("--nine-million", help="Search nine million int8 vectors; needs 7 GB of disk.")
    ] = False,
    ann: Annotated[
        bool, typer.Option("--ann", help="Also measure the HNSW index, which takes minutes to build.")
    ] = False,
    sorted_queries: Annotated[
        int, typer.Option(min=1, max=50, help="Mentions for the full sort; its time is scaled to all mentions.")
    ] = 10,
    device: Annotated[
        DeviceName, typer.Option(help="cuda: search with a copy of the vectors on a GPU. Targets apply to a CPU.")
    ] = DeviceName.CPU,
    work: Annotated[Path | None, typer.Option(help="Folder for temporary files; by default the system's.")] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """Compare search by a full sort, by faiss and by xsap. The exit code is 3 if a target is missed at full size."""
    check_plot(plot_to)
    chosen = select_device(device)
    if ann and device == DeviceName.CUDA:
        raise ConfigError("--ann needs --device cpu, found cuda")
    if ann and find_spec("usearch") is None:
        raise ConfigError("--ann needs usearch, found none. Install it: pip install 'xsap[ann]'")
    from benchmarks.speed import search

    sizes = {"names": names, "dimension": dimension, "mentions": mentions, "top_k": top_k, "distribution": distribution}
    preset = search.NINE_MILLION if nine_million else search.EVALUATION if evaluation else search.MILLION
    if device == DeviceName.CUDA:
        preset = replace(preset, mentions=search.BATCH_QUERIES)
    size = replace(preset, **{key: each for key, each in sizes.items() if each is not None})  # type: ignore[arg-type]
    if device == DeviceName.CUDA:
        on_device = search.compare_device_search(
            size, vector_dtype="int8" if nine_million else "float16", device=chosen, work=work
        )
        finish(on_device, search.device_to_text, json_to=json_to, plot_to=plot_to, plot=search.plot_device)
        return
    if nine_million:
        result = search.search_nine_million(size, work=work)
    else:
        result = search.compare_search(size, ann=ann, work=work, sorted_queries=sorted_queries)
    finish(result, search.to_text, json_to=json_to, plot_to=plot_to, plot=search.plot, targets=result.targets)


@speed_app.command("prepare")
def speed_prepare(
    meta: Annotated[Path, typer.Option(help="META folder, such as synthetic-umls writes.")],
    tradenames: Annotated[bool, typer.Option("--tradenames", help="Also read trade names from MRREL.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 1,
    notebook: Annotated[
        bool, typer.Option(help="Also run the original notebook, which reads the whole release into memory.")
    ] = True,
    max_memory: Annotated[str | None, typer.Option(help="Memory for sorting in xsap-prepare, such as 2GB.")] = None,
    json_to: JsonTo = None,
) -> None:
    """Compare xsap-prepare umls with the original notebook. Time and memory are compared."""
    if max_memory:
        parse_size(max_memory)  # a wrong amount is reported before anything runs
    from benchmarks.speed.prepare import compare_prepare, to_text

    result = compare_prepare(meta, tradenames=tradenames, rounds=rounds, notebook=notebook, max_memory=max_memory)
    finish(result, to_text, json_to=json_to)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (by default that of the process) and exit with its code."""
    run_app(app, "python -m benchmarks", arguments)


if __name__ == "__main__":
    main()
