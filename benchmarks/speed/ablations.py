"""Our training step, in full or with one lever left out; and what a side's step costs in operations and in memory.

A lever is left out from outside: by another public function of xsap's, by what the reference has in its place, and once, for dropout, by
putting another function where `packing` keeps its own. Everything else stays as the trainer has it, so a step without a lever gives
the same loss, and takes as much longer as the lever is worth beside all others. (Left out together they are worth other than the product.)
Of the small size the table has hardly a row to trim, for its tokenizer is trained on the very names: there that lever tells the noise.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.harness import rss_bytes
from benchmarks.speed.reference import (
    ALPHA,
    BASE,
    BETA,
    LR,
    MARGIN,
    WEIGHT_DECAY,
    Batch,
    Start,
    TrainingImplementation,
    autocast,
    reference_loss,
    reference_side,
    say,
)
from xsap.encoding import packing
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import REFERENCE_LENGTH
from xsap.encoding.packing import Packed, Tokens, pack, packed_states
from xsap.training.embedding_table import trim
from xsap.training.large_batch import cached_backward
from xsap.training.losses import multi_similarity
from xsap.training.mining import all_pairs, triplet_margin
from xsap.training.trainer import adamw

Renumber = Callable[[Tokens], Tokens]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ablations:
    """What our step does that the reference's doesn't."""

    packed: bool = True
    trimmed: bool = True
    bfloat16: bool = True
    fused: bool = True
    masks: bool = True
    first_only: bool = True
    few_random: bool = True


FULL = Ablations()
LEFT_OUT = {
    "names padded to 25, not packed": replace(FULL, packed=False),
    "the whole embedding table, not trimmed": replace(FULL, trimmed=False),
    "float32, not bfloat16": replace(FULL, bfloat16=False),
    "AdamW unfused": replace(FULL, fused=False),
    "pytorch-metric-learning, not masks": replace(FULL, masks=False),
    "the last layer for all tokens, not [CLS]": replace(FULL, first_only=False),
    "torch's dropout, not fewer random numbers": replace(FULL, few_random=False),  # on CUDA ours is torch's
}


def our_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """`reference_loss` of unit vectors, by masks."""
    similarity = vectors @ vectors.T
    positives, negatives = triplet_margin(similarity, *all_pairs(concepts), margin=MARGIN)
    return multi_similarity(similarity, positives, negatives, alpha=ALPHA, beta=BETA, base=BASE)


def our_side(
    encoder: Encoder, renumber: Renumber, ablations: Ablations = FULL, *, chunk: int = 0, lr: float = LR
) -> TrainingImplementation:
    """Our way to train an encoder, on the device where it is. renumber: see `Table`. chunk: names encoded at once, 0 for all.

    A batch's names are renumbered and packed within the step; a run renumbers all names once.
    """
    device, dtype = next(encoder.parameters()).device, "bfloat16" if ablations.bfloat16 else "float32"
    lay = pack if ablations.packed else _one_a_tile
    loss_of = our_loss if ablations.masks else reference_loss
    optimizer = (
        adamw(encoder, learning_rate=lr, weight_decay=WEIGHT_DECAY)
        if ablations.fused
        else torch.optim.AdamW(encoder.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=False)
    )

    def encode(tokens: Tokens) -> Tensor:
        names = lay(renumber(tokens)).to(device)
        with autocast(device, dtype), nullcontext() if ablations.few_random else _torch_dropout():
            vectors: Tensor = encoder(names) if ablations.first_only else _of_all_tokens(encoder, names)
        return vectors

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        vectors = encode(batch.tokens)
        return vectors, loss_of(vectors, batch.concepts.to(device))

    def gradient(batch: Batch) -> Tensor:
        if not chunk:
            _, loss = forward(batch)
            loss.backward()
            return loss
        rows, concepts, seed = np.arange(len(batch.tokens)), batch.concepts.to(device), int(torch.randint(2**31, ()))
        chunks = np.split(rows, range(chunk, len(rows), chunk))

        def again(number: int) -> Tensor:
            torch.manual_seed(seed + number)  # the same dropout both times
            return encode(batch.tokens.take(chunks[number]))

        return cached_backward(
            again, len(chunks), lambda vectors: loss_of(vectors, concepts), torch.Tensor.backward, nullcontext
        )

    def step(batch: Batch) -> Tensor:
        loss = gradient(batch)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def positions(batch: Batch) -> int:
        return lay(batch.tokens).ids.numel()

    return TrainingImplementation(encoder, dtype, forward, step, positions, ablations.first_only)


def trimmed(start: Start, device: torch.device) -> tuple[Encoder, Renumber]:
    """An encoder whose table has the rows that start's names use. The whole table stays aside in memory, as in a run."""
    encoder = start.encoder()
    table = trim(encoder.transformer, start.tokens, start.tokenizer.all_special_ids)
    return encoder.to(device), table.renumber


def build(name: str, start: Start, device: torch.device, *, chunk: int = 0) -> TrainingImplementation:
    """A side of the race, such as "reference float32" or "xsap bfloat16", with weights of its own, all of which are start's."""
    kind, dtype = name.split()
    if kind == "reference":
        return reference_side(start.encoder().to(device), dtype=dtype)
    return our_side(*trimmed(start, device), replace(FULL, bfloat16=dtype == "bfloat16"), chunk=chunk)


def ablation_sides(start: Start, device: torch.device) -> dict[str, TrainingImplementation]:
    """Ours in full, and without each lever. All but the one with the whole table train the same weights, so that base fits into memory."""
    ours, whole = trimmed(start, device), start.encoder().to(device)
    sides = {"in full": our_side(*ours)}
    for name, ablations in LEFT_OUT.items():
        if ablations.few_random or device.type == "cpu":
            sides[name] = (
                our_side(*ours, ablations) if ablations.trimmed else our_side(whole, lambda tokens: tokens, ablations)
            )
    return sides


def linear_flops(side: TrainingImplementation, batch: Batch) -> tuple[int, int]:
    """What the transformer's linear layers cost in a step: for a batch's real tokens, and for all positions that the side computes.

    Counted is 6 · weights · tokens: a multiplication and an addition forward, and twice that backward, for the inputs and for the weights.
    Where the last layer is for [CLS] alone its keys and values count so, and its other weights count once a name instead of a token.
    Not counted: biases, attention's own products, embeddings, layer norms, the loss, the optimizer; and padding, where tokens are real.
    """
    wide, narrow = linear_weights(side.encoder, first_only=side.first_only)
    real, computed = (
        6 * (wide * places + narrow * len(batch.tokens)) for places in (len(batch.tokens.ids), side.positions(batch))
    )
    return real, computed


def linear_weights(encoder: Encoder, *, first_only: bool) -> tuple[int, int]:
    """Weights of the transformer's linear layers: those that meet each token, and those that meet each name once."""
    *layers, last = encoder.transformer.encoder.layer
    narrow = (
        _weights(last) - _weights(last.attention.self.key) - _weights(last.attention.self.value) if first_only else 0
    )
    return sum(map(_weights, layers)) + _weights(last) - narrow, narrow


def timed(step: Callable[[T], R], batch: T, device: torch.device) -> tuple[float, R]:
    """Seconds of a call, until the device has done what it was told, and what the call returned."""
    idle: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    idle()
    tick = time.perf_counter()
    result = step(batch)
    idle()
    return time.perf_counter() - tick, result


def peak_memory(start: Start, side: str, *, pairs: int, device: torch.device, chunk: int = 0) -> dict[str, Any]:
    """`memory_of` a side, in a process of its own: in this one it couldn't be told from the others'."""
    with tempfile.TemporaryDirectory() as folder:
        start.save(Path(folder))
        words = ["memory-of", side, folder, "--pairs", str(pairs), "--chunk", str(chunk), "--device", device.type]
        command, root = [sys.executable, "-m", "benchmarks", "speed", *words], Path(__file__).resolve().parents[2]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    result: dict[str, Any] = json.loads(done.stdout)
    say(f"memory of {side}, {pairs:,} pairs: {result['bytes'] / 1e9:.2f} GB, {result['seconds'][-1]:.2f} s a step")
    return result


def memory_of(side: str, folder: Path, *, pairs: int, device: torch.device, chunk: int = 0) -> dict[str, Any]:
    """Two steps of a side in this process → their seconds, and bytes: the highest resident memory, less that before the model was made.

    So it counts weights, the whole table where it is kept aside, gradients, moments, activations, and what torch loads for its first step.
    process_bytes: with what was there before. On CUDA both are the most that torch's tensors took on the device. Needs Linux.
    """
    start = Start.load(folder)
    batches, on_cpu = start.batches(pairs, 2), device.type == "cpu"
    if on_cpu:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark begins anew: proc(5)
    before = rss_bytes("VmRSS") if on_cpu else 0
    step = build(side, start, device, chunk=chunk).step
    seconds = [timed(step, batch, device)[0] for batch in batches]
    peak = rss_bytes("VmHWM") if on_cpu else torch.cuda.max_memory_allocated(device)
    return {"bytes": peak - before, "process_bytes": peak, "seconds": seconds}


def _weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _one_a_tile(tokens: Tokens) -> Packed:
    """Names padded to 25, each a tile of its own: as `pack` gives them, but not packed."""
    n, size = len(tokens), REFERENCE_LENGTH
    mask = np.arange(size) < tokens.lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = tokens.ids
    owners = torch.from_numpy(mask.astype(np.int64) - 1)
    lengths, slots = torch.from_numpy(tokens.lengths), torch.arange(n)
    return Packed(
        torch.from_numpy(ids), torch.arange(size).repeat(n, 1), owners, slots * size, lengths, slots, q=1, longest=size
    )


def _of_all_tokens(encoder: Encoder, names: Packed) -> Tensor:
    """What the encoder gives, by computing the last layer for all tokens."""
    return F.normalize(packed_states(encoder.transformer, names).flatten(0, 1)[names.starts].float(), dim=-1)


def _torch_dropout() -> AbstractContextManager[object]:
    def dropout(states: Tensor, module: nn.Dropout) -> Tensor:
        return F.dropout(states, module.p, module.training)

    return patch.object(packing, "_dropout", dropout)
