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
        Path | None, typer.Option(help="Instead: the corpus's training set, whose mentions are found.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Index of --terminology, to link spans with its model too.")
    ] = None,
    fuzzy: Annotated[bool, typer.Option("--fuzzy", help="Also measure near spellings.")] = False,
    json_to: JsonFile = None,
) -> None:
    """Find and link mentions in texts: exact spans, linking on gold spans, end to end."""
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


def speed_text(
    names: Annotated[int, typer.Option(min=1, help="Names of the index.")] = 1_000_000,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences of a round.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    json_to: JsonFile = None,
) -> None:
    """Compare finding names in texts with a loop in a Python set. Exit code 3 for a missed target."""
    from benchmarks.speed.text import compare_text, to_text

    result = compare_text(names=names, sentences=sentences, rounds=rounds)
    finish(result, to_text, json_to=json_to, targets=result.targets)
