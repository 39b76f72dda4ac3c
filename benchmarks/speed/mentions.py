"""Speed of encoding a few mentions with one thread and with all, which is what `xsap.encoding.threads` decides on.

Both are timed in turn on the same mentions, since a busy core matters more than the number of threads.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.speed.harness import (
    Machine,
    describe_machine,
    finish,
    format_figure,
    time_interleaved,
    to_markdown,
)
from xsap.errors import ConfigError

COUNTS = (1, 2, 4, 8, 16, 32, 64)
WARM_UP_BATCHES, SEED = 2, 0


@dataclass(frozen=True, slots=True)
class FewMentions:
    """Encoding `mentions` mentions of `tokens` tokens in all: medians of seconds, and what xsap uses."""

    mentions: int
    tokens: int
    one_thread: float
    all_threads: float
    xsap_threads: int

    @property
    def speedup(self) -> float:
        """Time with all threads, divided by that with one."""
        return self.all_threads / self.one_thread


@dataclass(frozen=True, slots=True)
class ThreadComparison:
    """Result of `compare_threads`."""

    machine: Machine
    rounds: int
    limit: int
    batches: list[FewMentions]


def compare_threads(model: str, terminology: Path, *, rounds: int, pooling: str | None = None) -> ThreadComparison:
    """Time the model's forward pass on a few names with one thread and with all.

    Args:
        model: A model folder or hub id.
        terminology: Terminology folder; names are drawn from it.
        rounds: Times that each is measured.
        pooling: Pooling, if the model does not state it.

    Raises:
        ConfigError: There is a single thread.
    """
    import numpy as np
    import torch

    from xsap.encoding.encoder import Encoder
    from xsap.encoding.packing import PackedBatch, pack, tokenize_names
    from xsap.encoding.threads import TOKENS_ON_ONE_THREAD, threads_for
    from xsap.terms.terminology import Terminology
    from xsap.text import normalize_all

    threads, device = torch.get_num_threads(), torch.device("cpu")
    if threads == 1:
        raise ConfigError("expected several threads to compare with one, found one; raise OMP_NUM_THREADS")
    encoder = Encoder.from_pretrained(model, pooling=pooling, device="cpu")
    names = Terminology.load(terminology).names["name"].to_pylist()
    drawn = np.random.default_rng(SEED).choice(len(names), max(COUNTS), replace=len(names) < max(COUNTS))
    texts = [encoder.prompts[1] + name for name in normalize_all([names[i] for i in drawn], encoder.policy)]
    tokens = tokenize_names(texts, encoder.tokenizer, encoder.max_length)

    def with_threads(count: int, batch: PackedBatch) -> None:
        torch.set_num_threads(count)
        try:
            with torch.inference_mode():
                encoder(batch)
        finally:
            torch.set_num_threads(threads)

    batches = []
    for count in COUNTS:
        batch = pack(tokens.take(np.arange(count)))
        seconds = time_interleaved(
            {"one": lambda each: with_threads(1, each), "all": lambda each: with_threads(threads, each)},
            [batch] * (WARM_UP_BATCHES + rounds),
            device,
            warm_up=WARM_UP_BATCHES,
            report=lambda took, _, n=count: f"{n} mentions in {1000 * took:,.1f} ms",  # type: ignore[misc]
        )
        total = tokens.count(np.arange(count))
        with threads_for(total):
            used = torch.get_num_threads()
        batches.append(FewMentions(count, total, median(seconds["one"]), median(seconds["all"]), used))
    return ThreadComparison(describe_machine(device), rounds, TOKENS_ON_ONE_THREAD, batches)


def to_text(result: ThreadComparison) -> str:
    """A table and its notes."""
    rows = [["mentions", "tokens", "one thread, ms", "all threads, ms", "one thread is faster by", "threads of xsap"]]
    for each in result.batches:
        times = [f"{1000 * seconds:,.1f}" for seconds in (each.one_thread, each.all_threads)]
        rows.append([f"{each.mentions}", f"{each.tokens}", *times, format_figure(each.speedup), f"{each.xsap_threads}"])
    notes = [
        f"medians of {result.rounds} interleaved rounds, float32; {result.machine}",
        f"xsap uses one thread for at most {result.limit} tokens",
    ]
    return to_markdown(rows, notes)


def speed_mentions(
    model: Annotated[str, typer.Argument(help="Model folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Option(help="Terminology folder whose names are used.")],
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 20,
    pooling: Annotated[str | None, typer.Option(help="Pooling, if the model folder does not state it.")] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="JSON file to write, with all figures.")] = None,
) -> None:
    """Compare encoding of few mentions by one thread and by all. On the CPU."""
    result = compare_threads(model, terminology, rounds=rounds, pooling=pooling)
    finish(result, to_text, json_to=json_to)
