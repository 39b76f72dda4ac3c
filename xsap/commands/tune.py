"""`xsap tune`: make a model better on the mentions that people annotated or approved."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xsap.artifacts import check_can_write
from xsap.commands.evaluate import Columns, MentionsFile
from xsap.config import load_settings
from xsap.output_paths import check_output_path
from xsap.terminal import (
    EXIT_TARGET_MISSED,
    HeaderRow,
    Model,
    OutputFolder,
    Overwrite,
    Sheet,
    TerminologyFolder,
    TextEncoding,
    log,
    output,
    show_progress,
)


class HoldOutBy(StrEnum):
    """What is not split between the mentions to tune on and those to test on."""

    DOCUMENT = "document"
    CONCEPT = "concept"


def tune(
    model: Model,
    terminology: TerminologyFolder,
    mentions: MentionsFile,
    out: OutputFolder,
    test: Annotated[
        Path | None, typer.Option(help="Mentions to test on, in the same formats; by default one fold of MENTIONS.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds of MENTIONS; one is held out to test on.")] = 5,
    by: Annotated[
        HoldOutBy, typer.Option(help="What is kept within one fold: the mentions of a document, or of a concept.")
    ] = HoldOutBy.DOCUMENT,
    index: Annotated[
        Path | None, typer.Option(help="Also write an index of the tuned model, calibrated on the test mentions.")
    ] = None,
    auxiliary: Annotated[
        Path | None,
        typer.Option(help="Terminology whose synonyms are trained on at the same time, if TERMINOLOGY has none."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run: checkpoints, log, report. By default OUT.run.")
    ] = None,
    config: Annotated[str, typer.Option(help="TOML file of settings, or a recipe; see xsap train --help.")] = "tune",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: a setting, as for xsap train. Repeatable.")
    ] = None,
    publish_worse: Annotated[
        bool, typer.Option("--publish-worse", help="Publish a model even if it harms concepts without mentions.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the run.")] = 0,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    overwrite: Overwrite = False,
) -> int:
    """Tune a model on mentions with known concepts.

    The tuned model is compared with MODEL on held-out mentions, in three strata: those whose string was tuned on, those
    of which only a concept was, and those with neither. If it is significantly worse on the last stratum, it is not
    published, and the exit code is 3. The same command resumes an interrupted run. To tune with several processes:
    accelerate launch -m xsap tune.
    """
    check_can_write(out, overwrite=overwrite, kind="model")
    if index:
        check_can_write(index, overwrite=overwrite, kind="index")
    folder = check_output_path(run or out.with_name(f"{out.name}.run"), "a folder")
    given = [f"base={model}", f"terminology={terminology}", f"output={folder}", "resume=auto", f"seed={seed}"]
    given += [f"auxiliary={auxiliary}"] if auxiliary else []
    chosen = load_settings(config, [*given, f"tuning.mentions={mentions}", *(settings or [])])
    from xsap.exchange.decided_mentions import read_gold
    from xsap.terms.mentions import parse_columns
    from xsap.training import tune as tuning

    tuning.check_settings(chosen)
    columns = parse_columns(column or [])
    table, tested = (
        file and read_gold(file, columns=columns, sheet=sheet, header_row=header_row, encoding=encoding)
        for file in (mentions, test)
    )
    parts = tuning.hold_out_mentions(table, folds, by=by.value, seed=seed) if tested is None else (table, tested)
    report = tuning.tune_encoder(
        chosen,
        *parts,
        out,
        index=index,
        publish_worse=publish_worse,
        overwrite=overwrite,
        progress=show_progress(),
    )
    if report is None:  # another process reports
        return 0
    with output(None) as stream:
        stream.write(tuning.to_text(report) + "\n")
    log(f"{folder / tuning.REPORT}: report")
    if report.published:
        log(f"{out}: the tuned model" + (f"; {index}: its index" if index else ""))
        return 0
    log(f"{out}: not written, because the model is significantly worse where neither string nor concept was annotated; "
        f"it is in {folder / 'model'}; add --publish-worse to publish it anyway")  # fmt: skip
    return EXIT_TARGET_MISSED
