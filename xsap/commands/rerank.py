"""`xsap train-reranker`: learn from annotated mentions which candidate the context means."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import check_can_write
from xsap.commands.evaluate import Columns, MentionsFile
from xsap.output_paths import check_output_path
from xsap.terminal import (
    HeaderRow,
    MovedModel,
    OutputFolder,
    Overwrite,
    Pooling,
    Sheet,
    TextEncoding,
    announce_wait,
    log,
    output,
    show_progress,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from xsap.linking.linker import Linker


class RerankLoss(StrEnum):
    """Losses of re-rankers."""

    LISTWISE = "listwise"
    XMEN = "xmen"


def train_cross_encoder(
    mentions: MentionsFile,
    index: Annotated[Path, typer.Option(help="Index folder whose candidates are re-ranked.")],
    out: OutputFolder,
    test: Annotated[
        Path | None, typer.Option(help="Mentions to test on, in the same formats; by default one fold of MENTIONS.")
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Number of folds of MENTIONS, by document; one is held out to test on.")
    ] = 5,
    silver: Annotated[
        Path | None,
        typer.Option(
            help="Texts (a file, a folder of .txt files, or a table); names found in them become further training mentions."
        ),
    ] = None,
    silver_language: Annotated[str | None, typer.Option(help="Language of these texts, such as es.")] = None,
    model: MovedModel = None,
    base: Annotated[
        str | None, typer.Option(help="Model to start from, a folder or hub id; by default that of the index.")
    ] = None,
    pooling: Pooling = None,
    context: Annotated[
        bool,
        typer.Option("--context/--no-context", help="Whether the re-ranker reads the context or the mention only."),
    ] = True,
    loss: Annotated[
        RerankLoss,
        typer.Option(help="listwise: cross-entropy over candidates. xmen: the loss of xMEN, for comparison."),
    ] = RerankLoss.LISTWISE,
    top: Annotated[int, typer.Option(min=2, help="Number of candidates per mention that are re-ranked.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Mentions per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate of the encoder.")] = 5e-5,
    frozen_layers: Annotated[
        int | None, typer.Option(min=0, help="Number of lowest layers that are not trained, with the embeddings.")
    ] = None,
    joint_layers: Annotated[
        int, typer.Option(min=1, help="Number of highest layers in which candidates attend to the context.")
    ] = 4,
    context_tokens: Annotated[int, typer.Option(help="Maximum tokens of a mention with its context.")] = 40,
    candidate_tokens: Annotated[int, typer.Option(help="Maximum tokens of a candidate.")] = 12,
    minutes: Annotated[float | None, typer.Option(min=0, help="Minutes after which training stops.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run: log and checkpoints. By default OUT.run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, order and dropout.")] = 0,
    column: Columns = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a re-ranker on mentions with contexts.

    The mentions need known concepts. On held-out documents, linking is measured without re-ranking, and re-ranked with
    the context, without it, and with the context of another mention. The same command resumes an interrupted run. To
    train with several processes: accelerate launch -m xsap train-reranker.
    """
    check_can_write(out, overwrite=overwrite, kind="reranker")
    folder = check_output_path(run or out.with_name(f"{out.name}.run"), "a folder")
    with announce_wait(f"loading the model of {index}"):
        from xsap.evaluation.context_ablation import ablation_to_text
        from xsap.exchange.decided_mentions import read_gold
        from xsap.linking.linker import Linker
        from xsap.terms.mentions import parse_columns
        from xsap.training import reranker as training

        form: dict[str, Any] = {
            "columns": parse_columns(column or []),
            "sheet": sheet,
            "header_row": header_row,
            "encoding": encoding,
        }
        table = read_gold(mentions, **form)
        parts = (table, read_gold(test, **form)) if test else training.hold_out_documents(table, folds, seed=seed)
        linker = Linker.load(index, model=model, rerank="none")
    settings = training.RerankSettings(
        epochs, batch, top, learning_rate, frozen_layers=frozen_layers, context_tokens=context_tokens,
        candidate_tokens=candidate_tokens, joint_layers=joint_layers, uses_context=context, loss=loss.value, max_minutes=minutes, seed=seed,
    )  # fmt: skip
    found = training.train_reranker(
        linker, *parts, out, folder, settings, base=base or model, pooling=pooling, overwrite=overwrite,
        silver=None if silver is None else _silver(linker, silver, silver_language), progress=show_progress(),
    )  # fmt: skip
    if found is None:  # another process reports
        return
    with output(None) as stream:
        if as_json:
            stream.write(json.dumps(_as_json(found), indent=1) + "\n")
        elif found.ablation is not None:
            stream.write(ablation_to_text(found.ablation) + "\n")
    log(f"{out}: {found.steps:,} steps; to use it always: xsap calibrate MENTIONS --index {index} --rerank {out}")


def _silver(linker: "Linker", path: Path, language: str | None) -> "pa.Table":
    from xsap.text_in.documents import open_documents
    from xsap.training.silver_mentions import silver_mentions

    found, counts = silver_mentions(linker, open_documents(path, language=language).chunks(256))
    log(f"{path}: {'; '.join(' '.join(line.split()) for line in counts.lines())}")
    return found


def _as_json(found: Any) -> dict[str, Any]:
    counts = found.trained.counts
    trained = {
        "in": counts.rows_in,
        "kept": counts.kept,
        "dropped": dict(counts.dropped),
        "reachable": found.trained.reachable,
    }
    ablation = None if found.ablation is None else found.ablation.to_dict()
    return {
        "trained": trained,
        "steps": found.steps,
        "scale": found.scale,
        "nil_score": found.nil_score,
        "test": ablation,
    }
