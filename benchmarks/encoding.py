"""The race of encoding: the original's procedure, SentenceTransformer's, and ours, on the same weights and names, in turns.

The original pads every name to 25 tokens and takes [CLS], in fp32 (https://github.com/cambridgeltl/sapbert, README); SentenceTransformer
sorts names by length and pads each batch to its longest; ours packs them without padding, in fp32 and in bf16. Weights are random: speed
doesn't depend on them. What bf16 costs in accuracy does, so that is measured on a trained model, where one is given.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.page import markdown
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError
from xsap.terms.terminology import Terminology

if TYPE_CHECKING:  # imported where they are used, so that other commands start at once
    from xsap.encoding.encoder import Encoder

REFERENCE, PEER, OURS, FAST = "reference", "SentenceTransformer", "xsap fp32", "xsap bf16"
BARS = {REFERENCE: 8.0, PEER: 2.0}  # how many times as fast as each ours is to be
LOST, AGREED = 0.003, 0.99  # what bf16 may cost in Acc@1, and how often its first concept must be that of fp32
_REFERENCE_BATCH = 256  # names at once: more is no faster on a CPU
_SAME = 1e-4  # how far fp32 vectors of two sides may be apart
_SEED = 0

Floats = NDArray[np.float32]
Side = Callable[[Sequence[str]], Floats]


def reference_side(encoder: "Encoder") -> Side:
    """[CLS] of names padded to 25 tokens, batch by batch."""
    import torch

    from benchmarks.reference import pad
    from xsap.encoding.tokens import tokenise

    def encode(names: Sequence[str]) -> Floats:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(names), _REFERENCE_BATCH):
                tokens = tokenise(list(names[start : start + _REFERENCE_BATCH]), encoder.tokenizer, encoder.max_length)
                ids, mask = pad(tokens, int(encoder.tokenizer.pad_token_id))
                parts.append(encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].numpy())
        return np.concatenate(parts)

    return encode


def race(terminology: Path, *, size: str, names: int, rounds: int) -> dict[str, Any]:
    """Names a second of each side, in turns. Raises XsapError; an AssertionError if the sides don't compute the same."""
    import torch
    from sentence_transformers import SentenceTransformer

    from benchmarks.reference import SIZES, prepare, say
    from xsap.encoding.encoder import Encoder
    from xsap.encoding.tokens import tokenise

    if size not in SIZES:
        raise ConfigError(f"--size must be one of {', '.join(SIZES)}, found '{size}'")
    start = prepare(terminology, SIZES[size], 16_000)
    texts = [str(name) for name in Terminology.load(terminology).names["name"].to_pylist()]
    chosen = np.random.default_rng(_SEED).permutation(len(texts))[:names]
    given = [texts[i] for i in chosen]
    with TemporaryDirectory(prefix="xsap-race-") as place:
        folder = Path(place) / "model"
        start.encoder().save_pretrained(folder)
        exact, fast = (Encoder.from_pretrained(folder, device="cpu", precision=p) for p in ("fp32", "bf16"))
        peer = SentenceTransformer(str(folder), device="cpu")
        sides: dict[str, Side] = {
            REFERENCE: reference_side(exact),
            PEER: lambda batch: np.asarray(peer.encode(list(batch), show_progress_bar=False), np.float32),
            OURS: lambda batch: exact.encode(batch),
            FAST: lambda batch: fast.encode(batch),
        }
        agreement = check(sides, given[:64])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name, side in sides.items():
                began = time.perf_counter()
                side(given)
                seconds[name].append(time.perf_counter() - began)
                say(f"round {number + 1}, {name}: {len(given) / seconds[name][-1]:.1f} names/s")
    rates = {name: len(given) / median(took) for name, took in seconds.items()}
    return {
        "size": size,
        "names": len(given),
        "rounds": rounds,
        "tokens_a_name": float(tokenise(given, exact.tokenizer, exact.max_length).lengths.mean()),
        "agreement": agreement,
        "seconds": seconds,
        "names_a_second": rates,
        "times_as_fast": {name: {other: rates[name] / rates[other] for other in BARS} for name in (OURS, FAST)},
        "device": f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": str(torch.__version__),
    }


def check(sides: Mapping[str, Side], names: Sequence[str]) -> dict[str, float]:
    """The greatest distance of a unit vector from the reference's, by side."""
    vectors = {name: side(names) for name, side in sides.items()}
    units = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in vectors.items()}
    apart = {name: float(np.linalg.norm(each - units[REFERENCE], axis=1).max()) for name, each in units.items()}
    assert all(distance <= _SAME for name, distance in apart.items() if name != FAST), f"the sides don't compute the same: {apart}"
    return apart


def accuracy_of_bf16(model: str, terminology: Path, mentions: Path) -> dict[str, Any]:
    """Acc@1 of a trained model in fp32 and in bf16, both sides of the search, and how often both put the same concept first."""
    from xsap.encoding.encoder import Encoder
    from xsap.linking.evaluation import concept_ranks, read_queries
    from xsap.linking.index import Index
    from xsap.linking.linker import Linker

    queries, names = read_queries(mentions), Terminology.load(terminology)
    ranks, first = [], []
    for precision in ("fp32", "bf16"):
        encoder = Encoder.from_pretrained(model, device="cpu", precision=precision)
        found, results = concept_ranks(Linker(encoder, Index.build(names, encoder)), queries, 2)
        ranks.append(np.array(found))
        first.append([result.candidates[0].concept_id if result.candidates else None for result in results])
    scores = [float((each == 0).mean()) for each in ranks]
    agreed = float(np.mean([one == other for one, other in zip(*first, strict=True)]))
    return {
        "n": queries.num_rows,
        "acc@1_fp32": scores[0],
        "acc@1_bf16": scores[1],
        "agreed": agreed,
        "within_bar": abs(scores[1] - scores[0]) <= LOST and agreed >= AGREED,
    }


def to_text(result: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [["", "names/s", *(f"times {other}" for other in BARS)]]
    for name, rate in result["names_a_second"].items():
        rows.append([name, f"{rate:.1f}", *(f"{rate / result['names_a_second'][other]:.1f}" for other in BARS)])
    told = f"XLM-R {result['size']}, {result['names']:,} names of {result['tokens_a_name']:.1f} tokens; {result['device']}; bars 8 and 2."
    lines = [told, "", *markdown(rows)]
    if quality := result.get("accuracy"):
        lines += [
            "",
            f"bf16 against fp32 on {quality['n']:,} mentions: Acc@1 {100 * quality['acc@1_bf16']:.2f} and {100 * quality['acc@1_fp32']:.2f}, "
            f"the same first concept for {100 * quality['agreed']:.2f} %.",
        ]
    return "\n".join(lines)


def command(
    terminology: Annotated[Path, typer.Option(help="A terminology folder, whose names are encoded.")],
    size: Annotated[str, typer.Option(help="base or small.")] = "base",
    names: Annotated[int, typer.Option(min=64, help="How many names.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Of all sides, in turns.")] = 3,
    model: Annotated[str | None, typer.Option(help="A trained model, to see what bf16 costs it.")] = None,
    mentions: Annotated[Path | None, typer.Option(help="Mentions for that, with concepts of the terminology.")] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="A file for all figures as JSON.")] = None,
) -> None:
    """Encoding names: the original's procedure and SentenceTransformer's against ours."""
    if (model is None) != (mentions is None):
        raise ConfigError("--model and --mentions go together: what bf16 costs is measured by linking mentions with a trained model")
    result = race(terminology, size=size, names=names, rounds=rounds)
    if model and mentions:
        result["accuracy"] = accuracy_of_bf16(model, terminology, mentions)
    if json_to:
        with write_atomically(json_to) as stream:
            json.dump(result, stream, indent=1)
    print(to_text(result))
