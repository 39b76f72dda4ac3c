"""`xsap silver`, `xsap train-memory` and `xsap swap-memory`: annotate texts by an index, train an entity memory on them, and give it another index."""

from pathlib import Path
from typing import Annotated

import typer

from xsap.artifacts import check_can_write
from xsap.errors import ConfigError
from xsap.output_paths import check_new_file
from xsap.terminal import MovedModel, OutputFolder, Overwrite, announce_wait, log, show_progress

DOCUMENTS_PER_CHUNK = 256
MemoryFolder = Annotated[Path, typer.Argument(help="Memory folder, as xsap train-memory writes it.")]


def silver(
    index: Annotated[Path, typer.Option(help="Index folder, whose names are found.")],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Text file, folder of .txt files, or table of texts.")],
    out: Annotated[Path, typer.Option(help="File of mentions to write, .tsv or .parquet.")],
    column: Annotated[str | None, typer.Option(help="Column with the texts; by default 'text'.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all texts, such as de.")] = None,
    model: MovedModel = None,
    overwrite: Overwrite = False,
) -> None:
    """Find names of an index in texts, as mentions to train on.

    The output is a table of mentions, each with its sentence and its concept; a
    name of several concepts has all of them. Every document is accounted for.
    """
    check_new_file(out, overwrite=overwrite)
    from xsap.terms.mentions import write_mentions
    from xsap.text_in.documents import open_documents

    documents = open_documents(source, column=column, language=language)
    with announce_wait(f"loading the model of {index}"):
        from xsap.linking.linker import Linker
        from xsap.training.silver_mentions import silver_mentions

        linker = Linker.load(index, model=model)
    # a name that is left out would be learned to be no mention
    mentions, counts = silver_mentions(linker, documents.chunks(DOCUMENTS_PER_CHUNK), per_concept=None, ambiguous=True)
    if not mentions.num_rows:
        raise ConfigError(f"{documents.where}: expected names of {index}, found none; {'; '.join(counts.lines())}")
    write_mentions(mentions, out)
    log("\n".join([f"{out}: {mentions.num_rows:,} mentions", *counts.lines()]))


def train_memory_model(
    config: Annotated[
        str | None, typer.Option(help="TOML file of settings, or a recipe: memory_small, memory_base.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: a setting, see --settings. Repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--settings", help="List all settings and exit.")] = False,
) -> None:
    """Train an entity memory on mentions in texts.

    An entity memory is a language model that finds the terms of a text and links them to concepts. The settings index,
    mentions and output are required: --set index=FOLDER and so on. --set resume=auto resumes an interrupted run. To train
    with several processes: accelerate launch -m xsap train-memory.
    """
    if show:
        from xsap.training.memory_settings import describe_memory_settings

        print(describe_memory_settings())
        return
    from xsap.training.memory_settings import load_memory_settings

    chosen = load_memory_settings(config, settings or ())
    from accelerate import PartialState

    from xsap.training.memory_run import train_memory

    memory = train_memory(chosen, progress_bar=show_progress())
    if PartialState().is_main_process:
        print(memory)


def swap_memory(
    memory: MemoryFolder,
    index: Annotated[Path, typer.Option(help="Index with the new concepts, built with the same model.")],
    out: OutputFolder,
    overwrite: Overwrite = False,
) -> None:
    """Replace the concepts of an entity memory.

    Nothing is trained: the new concepts get vectors from the index.
    """
    check_can_write(out, overwrite=overwrite, kind="memory")
    from xsap.linking.index import Index
    from xsap.text_in.memory import EntityMemoryModel

    before = EntityMemoryModel.load(memory)
    after = before.with_index(Index.load(index))
    known = set(before.table.entities["concept_id"].to_pylist())
    shared = sum(concept in known for concept in after.table.entities["concept_id"].to_pylist())
    after.save(out, overwrite=overwrite, metadata={"swapped_from": before.content_hash})
    log(f"{out}: {len(after.table):,} entities in place of {len(before.table):,}; {shared:,} in both")
