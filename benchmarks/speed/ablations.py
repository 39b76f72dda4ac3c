"""Our training step, complete or with one optimization left out, and what a step costs in operations and in memory.

An optimization is left out without changing xsap: another public function is called, the code of the reference is used,
or, for dropout, a function of `packed_layers` is replaced. Everything else is as in the trainer, so a step without an
optimization gives the same loss, and its extra time is the gain of this optimization on top of all others. The gain of
several together is not the product of their gains. With the small size the embedding table has hardly a row to trim,
because its tokenizer is trained on the same names, so that ablation shows only noise.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.harness import memory_bytes, reset_peak_memory, timed
from benchmarks.speed.reference import (
    ALPHA,
    BASE,
    BETA,
    LEARNING_RATE,
    MARGIN,
    WEIGHT_DECAY,
    Batch,
    Start,
    TrainingImplementation,
    autocast,
    reference_loss,
    train_reference,
)
from xsap.encoding import packed_layers
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import REFERENCE_LENGTH
from xsap.encoding.packed_layers import packed_states
from xsap.encoding.packing import PackedBatch, Tokens, pack
from xsap.terminal import log
from xsap.training.embedding_table import trim
from xsap.training.large_batch import cached_backward
from xsap.training.losses import multi_similarity
from xsap.training.mining import all_pairs, triplet_margin
from xsap.training.trainer import adamw

Renumber = Callable[[Tokens], Tokens]


@dataclass(frozen=True, slots=True)
class Optimizations:
    """What our step does and the reference's does not."""

    packed: bool = True
    trimmed: bool = True
    bfloat16: bool = True
    fused: bool = True
    masks: bool = True
    first_only: bool = True
    few_random: bool = True


COMPLETE = "xsap, complete"
ABLATIONS = {
    "names padded to 25, not packed": Optimizations(packed=False),
    "the whole embedding table, not trimmed": Optimizations(trimmed=False),
    "float32, not bfloat16": Optimizations(bfloat16=False),
    "AdamW unfused": Optimizations(fused=False),
    "pytorch-metric-learning, not masks": Optimizations(masks=False),
    "the last layer for all tokens, not [CLS]": Optimizations(first_only=False),
    "torch's dropout, not fewer random numbers": Optimizations(few_random=False),  # on CUDA ours is torch's
}


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Memory of a step. bytes: for the implementation. process_bytes: in total. seconds: of each step."""

    bytes: int
    process_bytes: int
    seconds: list[float]


def our_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """`reference_loss` of unit vectors, by masks.

    Args:
        vectors: (2n, hidden), of length 1.
        concepts: (2n,) int64; equal numbers are positives.

    Returns:
        A scalar.
    """
    similarity = vectors @ vectors.T
    positives, negatives = triplet_margin(similarity, *all_pairs(concepts), margin=MARGIN)
    return multi_similarity(similarity, positives, negatives, alpha=ALPHA, beta=BETA, base=BASE)


def train_ours(
    encoder: Encoder,
    renumber: Renumber,
    optimizations: Optimizations = Optimizations(),
    *,
    chunk: int = 0,
    learning_rate: float = LEARNING_RATE,
) -> TrainingImplementation:
    """Our way to train an encoder, on its device. Renumbering is part of the step here; a real run does it once.

    Args:
        encoder: The encoder.
        renumber: Token ids of the whole table → ids of the encoder's table, see `TrimmedEmbedding`.
        optimizations: What the step does.
        chunk: Names encoded at once, with cached gradients; 0 for all, without.
        learning_rate: Constant learning rate.

    Returns:
        The implementation.
    """
    device, dtype = next(encoder.parameters()).device, "bfloat16" if optimizations.bfloat16 else "float32"
    arrange = pack if optimizations.packed else pad_each
    loss_of = our_loss if optimizations.masks else reference_loss
    optimizer = (
        adamw(encoder, learning_rate=learning_rate, weight_decay=WEIGHT_DECAY)
        if optimizations.fused
        else torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=False)
    )

    def encode(tokens: Tokens) -> Tensor:
        names = arrange(renumber(tokens)).to(device)
        with autocast(device, dtype), nullcontext() if optimizations.few_random else _torch_dropout():
            vectors: Tensor = encoder(names) if optimizations.first_only else _encode_all_tokens(encoder, names)
        return vectors

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        vectors = encode(batch.tokens)
        return vectors, loss_of(vectors, batch.concepts.to(device))

    def add_gradient(batch: Batch) -> Tensor:
        if chunk:
            return _cached_gradient(encode, batch, chunk, lambda vectors: loss_of(vectors, batch.concepts.to(device)))
        _, loss = forward(batch)
        loss.backward()
        return loss

    def step(batch: Batch) -> Tensor:
        loss = add_gradient(batch)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def positions(batch: Batch) -> int:
        return arrange(batch.tokens).ids.numel()

    return TrainingImplementation(encoder, dtype, forward, step, positions, optimizations.first_only)


def _cached_gradient(
    encode: Callable[[Tokens], Tensor], batch: Batch, chunk: int, loss_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """Add the gradient of a batch, encoded in chunks of names; returns the loss."""
    rows, seed = np.arange(len(batch.tokens)), int(torch.randint(2**31, ()))
    chunks = np.split(rows, range(chunk, len(rows), chunk))

    def encode_chunk(number: int) -> Tensor:
        torch.manual_seed(seed + number)  # the same dropout both times
        return encode(batch.tokens.take(chunks[number]))

    return cached_backward(encode_chunk, len(chunks), loss_of, torch.Tensor.backward, nullcontext)


def trimmed_encoder(start: Start, device: torch.device) -> tuple[Encoder, Renumber]:
    """An encoder whose table has only the rows that the names use. The whole table is kept in memory, as in a run."""
    encoder = start.encoder()
    table = trim(encoder.transformer, start.tokens, start.tokenizer.all_special_ids)
    return encoder.to(device), table.renumber


def build(name: str, start: Start, device: torch.device, *, chunk: int = 0) -> TrainingImplementation:
    """An implementation such as "reference float32" or "xsap bfloat16", with start's weights; each has its own copy."""
    kind, dtype = name.split()
    if kind == "reference":
        return train_reference(start.encoder().to(device), dtype=dtype)
    return train_ours(*trimmed_encoder(start, device), Optimizations(bfloat16=dtype == "bfloat16"), chunk=chunk)


def build_ablations(start: Start, device: torch.device) -> dict[str, TrainingImplementation]:
    """Our complete step, and one without each optimization. All but that with the whole table have one encoder."""
    ours, whole = trimmed_encoder(start, device), start.encoder().to(device)
    built = {COMPLETE: train_ours(*ours)}
    for name, optimizations in ABLATIONS.items():
        if optimizations.few_random or device.type == "cpu":
            built[name] = (
                train_ours(*ours, optimizations)
                if optimizations.trimmed
                else train_ours(whole, lambda tokens: tokens, optimizations)
            )
    return built


def linear_flops(implementation: TrainingImplementation, batch: Batch) -> tuple[int, int]:
    """Operations of the linear layers in a step: for a batch's real tokens, and for all positions computed.

    Counted are 6 · weights · tokens: a multiplication and an addition in the forward pass, and twice that in the
    backward pass, for inputs and weights. Where the last layer is computed for [CLS] alone, only its keys and values
    count once per token, its other weights once per name. Not counted: biases, attention's own products, embeddings,
    layer norms, the loss, the optimizer.
    """
    per_token, per_name = linear_weights(implementation.encoder, first_only=implementation.first_only)
    real, computed = (
        6 * (per_token * positions + per_name * len(batch.tokens))
        for positions in (len(batch.tokens.ids), implementation.positions(batch))
    )
    return real, computed


def linear_weights(encoder: Encoder, *, first_only: bool) -> tuple[int, int]:
    """Weights of the transformer's linear layers: those used once per token, and those used once per name."""
    *layers, last = encoder.transformer.encoder.layer
    attention = last.attention.self
    per_name = _weights(last) - _weights(attention.key) - _weights(attention.value) if first_only else 0
    return sum(map(_weights, layers)) + _weights(last) - per_name, per_name


def peak_memory(start: Start, name: str, *, pairs: int, device: torch.device, chunk: int = 0) -> StepMemory:
    """`measure_memory` in a process of its own, where no other implementation's memory can be counted."""
    with tempfile.TemporaryDirectory() as folder:
        start.save(Path(folder))
        command = [
            sys.executable,
            "-m",
            "benchmarks.speed.ablations",
            folder,
            name,
            str(pairs),
            str(chunk),
            device.type,
        ]
        root = Path(__file__).resolve().parents[2]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    memory = StepMemory(**json.loads(process.stdout))
    log(f"memory of {name}, {pairs:,} pairs: {memory.bytes / 1e9:.2f} GB, {memory.seconds[-1]:.2f} s per step")
    return memory


def measure_memory(folder: Path, name: str, *, pairs: int, device: torch.device, chunk: int = 0) -> StepMemory:
    """Peak memory of two steps in this process: the highest resident memory, less that before the model was created.

    So it counts weights, the whole table where it is kept, gradients, moments, activations, and what torch loads for
    its first step. On CUDA both figures are the maximum of what torch allocated on the device. On a CPU it needs Linux.

    Args:
        folder: What `Start.save` wrote.
        name: Name of an implementation for `build`.
        pairs: Pairs per step.
        device: Device of the model.
        chunk: Names encoded at once, 0 for all.

    Returns:
        The memory, and the seconds of each step.
    """
    start = Start.load(folder)
    batches, on_cpu = start.batches(pairs, 2), device.type == "cpu"
    if on_cpu:
        reset_peak_memory()
    before = memory_bytes("VmRSS") if on_cpu else 0
    step = build(name, start, device, chunk=chunk).step
    seconds = [timed(step, batch, device)[0] for batch in batches]
    peak = memory_bytes("VmHWM") if on_cpu else torch.cuda.max_memory_allocated(device)
    return StepMemory(peak - before, peak, seconds)


def pad_each(tokens: Tokens) -> PackedBatch:
    """What `pack` returns, but with each name padded to 25 in a row of its own."""
    n, size = len(tokens), REFERENCE_LENGTH
    mask = np.arange(size) < tokens.lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = tokens.ids
    owners = torch.from_numpy(mask.astype(np.int64) - 1)
    lengths, slots = torch.from_numpy(tokens.lengths), torch.arange(n)
    return PackedBatch(
        torch.from_numpy(ids), torch.arange(size).repeat(n, 1), owners, slots * size, lengths, slots, q=1, longest=size
    )


def _weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _encode_all_tokens(encoder: Encoder, names: PackedBatch) -> Tensor:
    """The encoder's vectors, with the last layer computed for all tokens."""
    return F.normalize(packed_states(encoder.transformer, names).flatten(0, 1)[names.starts].float(), dim=-1)


def _torch_dropout() -> AbstractContextManager[object]:
    def dropout(states: Tensor, rate: float) -> Tensor:
        return F.dropout(states, rate)

    return patch.object(packed_layers, "_dropout", dropout)


if __name__ == "__main__":
    saved, wanted, pairs_per_step, names_per_chunk, device_type = sys.argv[1:]
    found = measure_memory(
        Path(saved), wanted, pairs=int(pairs_per_step), device=torch.device(device_type), chunk=int(names_per_chunk)
    )
    print(json.dumps(asdict(found)))
