"""Commands of `python -m benchmarks` about texts: the speed of finding names, and the accuracy of finding and linking mentions."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed.harness import finish
from xsap.errors import ConfigError

JsonFile = Annotated[Path | None, typer.Option("--json", help="JSON file to write, with all figures.")]


def annotation(
    corpus: Annotated[str, typer.Argument(help="Corpus of texts, such as mantra or codiesp.")],
    path: Annotated[Path, typer.Argument(help="File, folder or zip of the corpus, as published.")],
    terminology: Annotated[Path | None, typer.Option(help="Terminology folder whose names are found.")] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Training set of the corpus, whose mentions are the names to find; instead of --terminology."
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Index of --terminology, to link spans with its model too.")
    ] = None,
    fuzzy: Annotated[bool, typer.Option("--fuzzy", help="Also measure near spellings.")] = False,
    json_to: JsonFile = None,
) -> None:
    """Measure finding and linking mentions in texts.

    Three measures: exact spans; linking on gold spans; and both together, end to end.
    """
    if (terminology is None) == (train is None):
        raise ConfigError("expected --terminology or --train, found " + ("none" if terminology is None else "both"))
    from benchmarks.accuracy.annotation import annotation_to_text, compare_annotation, terminology_of_mentions
    from benchmarks.accuracy.tasks import corpus_of
    from xsap.linking.linker import Linker
    from xsap.terms.terminology import Terminology

    read = corpus_of(corpus).read
    names = terminology_of_mentions(read(train)) if train is not None else Terminology.load(terminology or "")
    linker = None if index is None else Linker.load(index)
    finish(
        compare_annotation(corpus, read(path), names, linker=linker, fuzzy=fuzzy), annotation_to_text, json_to=json_to
    )


def memory(
    corpus: Annotated[Path, typer.Argument(help="Annotated texts: a corpus, or a table of mentions with their texts.")],
    terminology: Annotated[Path, typer.Option(help="Terminology folder of the memory's concepts.")],
    memory: Annotated[Path, typer.Option(help="Memory folder.")],
    published_as: Annotated[
        str | None, typer.Option(help="Corpus that it is, such as mantra, if it is in a format of its own.")
    ] = None,
    plain: Annotated[
        Path | None, typer.Option(help="Memory that was trained with memory.feedback = false, to compare.")
    ] = None,
    other_terminology: Annotated[
        Path | None, typer.Option(help="Terminology folder of concepts that the memory was not trained on.")
    ] = None,
    other_index: Annotated[Path | None, typer.Option(help="Index of --other-terminology.")] = None,
    json_to: JsonFile = None,
) -> None:
    """Measure an entity memory.

    Four measures: spans found; linking; the loss of the language model with and without the memory; and linking to
    concepts that it was not trained on.
    """
    if (other_terminology is None) != (other_index is None):
        raise ConfigError("--other-terminology needs --other-index, and the other way round; found one of them")
    from benchmarks.accuracy.memory import compare_memory, memory_to_text
    from benchmarks.accuracy.tasks import corpus_of
    from xsap.linking.index import Index
    from xsap.terms.terminology import Terminology
    from xsap.text_in.memory import EntityMemoryModel
    from xsap.training.memory_corpus import read_marked_texts

    other = None
    if other_terminology is not None and other_index is not None:
        other = (Terminology.load(other_terminology), Index.load(other_index))
    result = compare_memory(
        corpus.name,
        read_marked_texts(corpus) if published_as is None else corpus_of(published_as).read(corpus),
        Terminology.load(terminology),
        EntityMemoryModel.load(memory),
        plain=None if plain is None else EntityMemoryModel.load(plain),
        other=other,
    )
    finish(result, memory_to_text, json_to=json_to)


def speed_text(
    names: Annotated[int, typer.Option(min=1, help="Names of the index.")] = 1_000_000,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences of a round.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    json_to: JsonFile = None,
) -> None:
    """Compare finding names in texts with a plain Python loop.

    The loop looks up n-grams in a set of the same names. The exit code is 3 if a target is missed.
    """
    from benchmarks.speed.text import compare_text, to_text

    result = compare_text(names=names, sentences=sentences, rounds=rounds)
    finish(result, to_text, json_to=json_to, targets=result.targets)
