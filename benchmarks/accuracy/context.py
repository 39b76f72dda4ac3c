"""`python -m benchmarks context`: what re-ranking is worth without a context, with the right one and with another mention's."""

import json
from pathlib import Path
from typing import Annotated

import typer

from xsap.terminal import MovedModel


def context(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    mentions: Annotated[Path, typer.Option(help="Mentions with contexts and concepts, as for xsap evaluate.")],
    reranker: Annotated[str, typer.Option(help="Re-ranker that reads contexts, as xsap link --rerank has it.")],
    mention_only: Annotated[
        str | None, typer.Option(help="Another one that was trained without contexts (train-reranker --no-context).")
    ] = None,
    model: MovedModel = None,
    seed: Annotated[int, typer.Option(help="Seed of intervals and shuffling.")] = 0,
    json_to: Annotated[Path | None, typer.Option("--json", help="JSON file to write, with all figures.")] = None,
) -> None:
    """Measure what re-ranking and contexts contribute.

    Compares linking without re-ranking, and re-ranked without contexts, with contexts, and with the contexts of other
    mentions.
    """
    from xsap.artifacts import sha256_of, write_atomically
    from xsap.evaluation.context_ablation import ablate_context, ablation_to_text
    from xsap.exchange.decided_mentions import read_gold
    from xsap.linking.linker import Linker

    table = read_gold(mentions)
    plain, reranked = (Linker.load(index, model=model, rerank=choice) for choice in ("none", reranker))
    alone = None if mention_only is None else Linker.load(index, model=model, rerank=mention_only)
    found = ablate_context(plain, reranked, table, seed=seed, mention_only=alone)
    if json_to:
        used = {"index": plain.identity, "reranker": reranked.identity, "mentions_sha256": sha256_of(mentions)}
        with write_atomically(json_to) as stream:
            json.dump(found.to_dict() | used, stream, indent=1)
    print(ablation_to_text(found))
