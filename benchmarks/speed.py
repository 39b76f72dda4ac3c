"""The race of one training step: the original SapBERT recipe against ours, in one run, on the CPU.

What would flatter us is ruled out. Both train the same weights, in turns, on the same pairs, with the same dropout; the reference's padding
is done before its clock starts, our packing is not; and before the race both must give the same loss and the same cosines. One set of
weights serves both, so that XLM-R base with two optimizers' states fits into memory.

Without the hub there is no XLM-R tokenizer: one is trained on the terminology's names. The embedding keeps XLM-R's 250,002 rows.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from benchmarks.reference import (
    ALPHA,
    BASE,
    BETA,
    LR,
    MARGIN,
    WEIGHT_DECAY,
    Padded,
    pad,
    reference_loss,
    reference_step,
    reference_vectors,
)
from benchmarks.report import markdown
from xsap.encoding.encoder import Encoder
from xsap.encoding.folder import REFERENCE_LENGTH, Description
from xsap.encoding.packing import pack
from xsap.encoding.scratch import train_tokenizer
from xsap.encoding.tokens import Tokens, tokenise
from xsap.errors import ConfigError
from xsap.text import TextPolicy
from xsap.training.losses import multi_similarity
from xsap.training.material import distinct, from_terminology
from xsap.training.mining import all_pairs, triplet_margin
from xsap.training.optim import adamw
from xsap.training.sampling import Concepts, Names, PairSampler

PIECES = 16_000
PAIRS_PER_CONCEPT = 50  # the recipe's
TOLERANCE = 1e-4
_SEED = 0


@dataclass(frozen=True, slots=True)
class Size:
    """Of an XLM-R. rows: of its embedding table; None: as many as the tokenizer has pieces."""

    layers: int
    hidden: int
    heads: int
    rows: int | None


SIZES = {"base": Size(12, 768, 12, 250_002), "small": Size(2, 256, 4, None)}


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's n pairs: 2n names, the left ones first, as tokens and padded; concepts: (2n,)."""

    tokens: Tokens
    padded: Padded
    concepts: Tensor


Step = Callable[[Batch], float]


def our_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """The same of unit vectors, by masks."""
    similarity = vectors @ vectors.T
    positives, negatives = triplet_margin(similarity, *all_pairs(concepts), margin=MARGIN)
    return multi_similarity(similarity, positives, negatives, alpha=ALPHA, beta=BETA, base=BASE)


def our_step(encoder: Encoder, *, precision: str) -> Step:
    """One update as xsap trains → its loss."""
    optimizer = adamw(encoder, lr=LR, weight_decay=WEIGHT_DECAY)

    def step(batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            vectors = encoder(pack(batch.tokens))
        loss = our_loss(vectors, batch.concepts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


@torch.no_grad()
def check_agreement(encoder: Encoder, batch: Batch) -> dict[str, float]:
    """Both sides' losses of one batch, without dropout, and how far apart losses and cosines are. An AssertionError if they differ."""
    encoder.eval()
    theirs, ours = reference_vectors(encoder.transformer, batch.padded), encoder(pack(batch.tokens))
    losses = float(reference_loss(theirs, batch.concepts)), float(our_loss(ours, batch.concepts))
    unit = F.normalize(theirs, dim=-1)
    apart = {
        "loss_relative": abs(losses[0] - losses[1]) / abs(losses[0]),
        "cosine": float((unit @ unit.T - ours @ ours.T).abs().max()),
    }
    assert all(value <= TOLERANCE for value in apart.values()), f"the two sides don't compute the same: losses {losses}, apart by {apart}"
    return {"reference_loss": losses[0], "our_loss": losses[1], **apart}


def race(sides: Mapping[str, Step], batches: Iterable[Batch]) -> dict[str, list[float]]:
    """Seconds of each step of each side, the sides in turns on each batch; those of the first batch, a warm-up, are left out."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number, batch in enumerate(batches):
        for name, step in sides.items():
            tick = time.perf_counter()
            loss = step(batch)
            took = time.perf_counter() - tick
            print(f"{f'step {number}' if number else 'warm-up'}, {name}: {took:.2f} s, loss {loss:.4f}", file=sys.stderr, flush=True)
            if number:
                seconds[name].append(took)
    return seconds


def race_train(terminology: Path, *, size: str, pairs: int, steps: int, precision: str) -> dict[str, Any]:
    """The whole race → its figures. precision: fp32 or bf16, of our side. Raises XsapError if the terminology can't fill the batches."""
    print("reading names, training a tokenizer", file=sys.stderr, flush=True)
    encoder, batches = prepare(terminology, SIZES[size], pairs=pairs, steps=steps + 1)
    agreement = check_agreement(encoder, batches[0])
    print(f"both sides' losses agree within {agreement['loss_relative']:.1e}", file=sys.stderr, flush=True)
    encoder.train()
    theirs = reference_step(encoder.transformer)
    sides = {"reference": lambda batch: theirs(batch.padded, batch.concepts), "xsap": our_step(encoder, precision=precision)}
    seconds = race(sides, batches)
    tokens = statistics.mean(len(batch.tokens.ids) for batch in batches[1:])
    result: dict[str, Any] = {
        "size": size,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "pairs": pairs,
        "steps": steps,
        "tokens_a_name": tokens / (2 * pairs),
        "padded_share": 1 - tokens / (2 * pairs * REFERENCE_LENGTH),
        "precision": {"reference": "fp32", "xsap": precision},
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "tokenizer": f"SentencePiece of {len(encoder.tokenizer):,} pieces, trained on the terminology's names",
        "agreement": agreement,
    }
    for name, took in seconds.items():
        median = statistics.median(took)
        result[name] = {"seconds": median, "all_seconds": took, "pairs_a_second": pairs / median, "tokens_a_second": tokens / median}
    return result | {"ratio": result["reference"]["seconds"] / result["xsap"]["seconds"]}


def prepare(terminology: Path, size: Size, *, pairs: int, steps: int) -> tuple[Encoder, list[Batch]]:
    """A model of random weights for a terminology's names, and the batches of the first steps of a run on all its languages."""
    description = Description("cls", REFERENCE_LENGTH, TextPolicy())
    material = distinct(from_terminology(terminology, None), description.policy, None)
    sampler = PairSampler(Concepts(material.concepts), pairs_per_concept=PAIRS_PER_CONCEPT, pairs=pairs, seed=_SEED)
    full = sampler.steps_per_epoch - 1  # the last step of an epoch may have fewer
    if full < 1:
        raise ConfigError(f"{terminology}: its names give fewer than two steps of {pairs:,} pairs; take fewer with --pairs")
    tokenizer = train_tokenizer(material.names, PIECES)
    encoder = Encoder(_transformer(size, len(tokenizer)), tokenizer, description)
    drawn = [sampler.batch(*divmod(step, full)) for step in range(steps)]
    return encoder, list(_batches(encoder, material.names, drawn))


def _batches(encoder: Encoder, names: Sequence[str], drawn: Iterable[Names]) -> Iterator[Batch]:
    for rows, concepts in drawn:
        tokens = tokenise([names[row] for row in rows], encoder.tokenizer, encoder.max_length)
        yield Batch(tokens, pad(tokens, int(encoder.tokenizer.pad_token_id)), torch.from_numpy(concepts))


def _transformer(size: Size, pieces: int) -> Any:
    """An XLM-R as its configuration has it, dropout 0.1 included, with random weights."""
    config = XLMRobertaConfig(
        vocab_size=size.rows or pieces,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return XLMRobertaModel(config, add_pooling_layer=False)


def to_text(result: dict[str, Any]) -> str:
    """The race as a table for people, under it what makes it comparable."""
    rows = [["one step", "precision", "seconds", "pairs/s", "real tokens/s"]]
    for name in ("reference", "xsap"):
        side = result[name]
        figures = [f"{side['seconds']:.3f}", f"{side['pairs_a_second']:.1f}", f"{side['tokens_a_second']:,.0f}"]
        rows.append([name, result["precision"][name], *figures])
    agreement = result["agreement"]
    facts = [
        f"{result['parameters'] / 1e6:.0f} M parameters, {result['pairs']} pairs a step, medians of {result['steps']} steps in turns, "
        f"{result['threads']} threads, torch {result['torch']}",
        f"{result['tokens_a_name']:.1f} tokens a name; padded to {REFERENCE_LENGTH}, {100 * result['padded_share']:.0f} % is padding",
        f"tokenizer: {result['tokenizer']}",
        f"same loss without dropout: {agreement['reference_loss']:.6f} and {agreement['our_loss']:.6f}",
    ]
    ratio = f"xsap is {result['ratio']:.2f} times as fast as the reference"
    return "\n".join([*markdown(rows), "", ratio, "", *(f"- {fact}" for fact in facts)])
