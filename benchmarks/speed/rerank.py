"""Cost of re-ranking: what a cross-encoder and late interaction add to the time of retrieval, for the same mentions in one run.

An untrained cross-encoder costs as much as a trained one. Mentions are those of a file, with their contexts; without one they are names of the
index, each in a context of other names that fills the window, so the figures are those of the longest inputs.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.speed.harness import (
    Machine,
    Target,
    describe_machine,
    finish,
    format_figure,
    target,
    time_interleaved,
    to_markdown,
)
from xsap.errors import ConfigError
from xsap.terminal import MovedModel

if TYPE_CHECKING:
    from xsap.linking.linker import Linker

MOST = {"cross-encoder": 20.0, "late interaction": 3.0}
"""The time of re-ranking, divided by that of retrieval, at most."""
NAMES_IN_CONTEXT, SEED, ANSWERS = 12, 0, 5


@dataclass(frozen=True, slots=True)
class RerankCost:
    """Result of `compare_reranking`.

    Attributes:
        machine: Where it was measured.
        mentions: Mentions of a round.
        rounds: Interleaved rounds.
        top: Candidates that are re-ranked.
        context_tokens: Window of the cross-encoder.
        candidate_tokens: Its tokens of a candidate, at most.
        retrieval: Median seconds of linking without re-ranking.
        added: Re-ranker → median seconds that it adds.
    """

    machine: Machine
    mentions: int
    rounds: int
    top: int
    context_tokens: int
    candidate_tokens: int
    retrieval: float
    added: dict[str, float]

    @property
    def targets(self) -> list[Target]:
        """What re-ranking may cost."""
        return [
            target(f"{name}, times the time of retrieval", seconds / self.retrieval, MOST[name], at_most=True)
            for name, seconds in self.added.items()
        ]


def compare_reranking(
    index: Path,
    *,
    mentions: int,
    rounds: int,
    top: int,
    model: str | None = None,
    reranker: Path | None = None,
    file: Path | None = None,
) -> RerankCost:
    """Time linking without re-ranking, with late interaction and with a cross-encoder, interleaved.

    Args:
        index: Index folder.
        mentions: Mentions of a round.
        rounds: Rounds, after one to warm up.
        top: Candidates that are re-ranked.
        model: The index's model, if it was moved.
        reranker: A trained cross-encoder; None for an untrained one on the index's model.
        file: Mentions with contexts; None for names of the index.

    Raises:
        ConfigError: The file or the index has too few mentions.
    """
    import torch

    from xsap.encoding.encoder import Encoder
    from xsap.linking.cross_encoder import JOINT_LAYERS, CrossEncoder, with_markers
    from xsap.linking.cross_inputs import InputWindows
    from xsap.linking.late_interaction import LateInteraction
    from xsap.linking.linker import Linker
    from xsap.linking.rerank import Reranker

    plain = Linker.load(index, model=model, device="cpu", rerank="none")
    assert isinstance(plain.encoder, Encoder), "Linker.load opens no other"
    if reranker is None:
        location = str(model or plain.index.model.path)
        encoder = Encoder.from_pretrained(location, pooling=plain.encoder.pooling, device="cpu")
        cross = CrossEncoder(with_markers(encoder), InputWindows(), joint_layers=JOINT_LAYERS).eval()
    else:
        cross = CrossEncoder.load(reranker, device="cpu")
    rerankers: dict[str, Reranker] = {"cross-encoder": cross, "late interaction": LateInteraction(plain.encoder)}
    linkers = {"retrieval": plain} | {
        name: Linker(plain.encoder, plain.index, reranker=each, rerank_top=top) for name, each in rerankers.items()
    }
    batches = _draw(plain, file, mentions, rounds + 1)
    seconds = time_interleaved(
        {
            name: lambda batch, each=linker: each.link(batch[0], ANSWERS, context=batch[1])  # type: ignore[misc]
            for name, linker in linkers.items()
        },
        batches,
        torch.device("cpu"),
        warm_up=1,
        report=lambda took, _: f"{took:.2f} s",
    )
    retrieval = median(seconds["retrieval"])
    added = {
        name: median(own - base for own, base in zip(seconds[name], seconds["retrieval"], strict=True))
        for name in rerankers
    }
    windows = cross.windows
    return RerankCost(
        describe_machine(torch.device("cpu")), mentions, rounds, top, windows.context_tokens, windows.candidate_tokens,
        retrieval, added,
    )  # fmt: skip


def _draw(linker: "Linker", file: Path | None, mentions: int, batches: int) -> list[tuple[list[str], list[Any]]]:
    """Batches of different mentions, each with its context."""
    import numpy as np

    from xsap.exchange.decided_mentions import read_gold
    from xsap.linking.mention_context import contexts_in

    table = None if file is None else read_gold(file)
    names = (linker.index.names["name"] if table is None else table["mention"]).to_pylist()
    if len(names) < mentions:
        raise ConfigError(
            f"expected at least {mentions:,} {'names in the index' if table is None else 'mentions'}, found {len(names):,}"
        )
    random, half, drawn = np.random.default_rng(SEED), NAMES_IN_CONTEXT // 2, []
    contexts: list[Any] = [] if table is None else contexts_in(table)
    for _ in range(batches):
        chosen = random.choice(len(names), mentions, replace=False).tolist()
        if table is None:
            around = random.choice(len(names), (mentions, NAMES_IN_CONTEXT)).tolist()
            own: list[Any] = [
                " ".join([*(names[i] for i in row[:half]), names[at], *(names[i] for i in row[half:])])
                for at, row in zip(chosen, around, strict=True)
            ]
        else:
            own = [contexts[i] for i in chosen]
        drawn.append(([names[i] for i in chosen], own))
    return drawn


def to_text(result: RerankCost) -> str:
    """A table and its notes."""
    rows = [["", "seconds", "times the time of retrieval"], ["retrieval", f"{result.retrieval:.2f}", "1"]]
    rows += [
        [f"{name}, in addition", f"{seconds:.2f}", format_figure(seconds / result.retrieval)]
        for name, seconds in result.added.items()
    ]
    notes = [
        f"{result.mentions:,} mentions, the first {result.top} candidates of each; medians of {result.rounds} interleaved rounds",
        f"{result.context_tokens} tokens of context, at most {result.candidate_tokens} of a candidate; {result.machine}",
        *map(str, result.targets),
    ]
    return to_markdown(rows, notes)


def speed_rerank(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    model: MovedModel = None,
    reranker: Annotated[
        Path | None, typer.Option(help="Folder of a re-ranker; by default an untrained one on the index's model.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Mentions with contexts; by default names of the index in long contexts.")
    ] = None,
    mentions: Annotated[int, typer.Option(min=1, help="Mentions of a round.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    top: Annotated[int, typer.Option(min=2, help="Candidates that are re-ranked.")] = 16,
    json_to: Annotated[Path | None, typer.Option("--json", help="JSON file to write, with all figures.")] = None,
) -> None:
    """Compare the time of re-ranking with that of retrieval. On the CPU. The exit code is 3 if a target is missed."""
    result = compare_reranking(
        index, mentions=mentions, rounds=rounds, top=top, model=model, reranker=reranker, file=file
    )
    finish(result, to_text, json_to=json_to, targets=result.targets)
