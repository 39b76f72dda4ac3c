"""The original SapBERT recipe: what it trains on, its step, and a run of it. Our speed is measured against the one, our accuracy against the other.

Written from its description (Liu et al., NAACL 2021, section 2, and https://github.com/cambridgeltl/sapbert, README), without its code: names
padded to 25 tokens; left and right names through the Hugging Face model one after the other, [CLS] taken; all triplets mined and the
loss computed by pytorch-metric-learning; torch's AdamW as it comes, unfused, at a constant rate; float32, or on CUDA float16 autocast with a
gradient scaler. Attention is what transformers chooses. The CUDA part has only been run on a CPU (autocast and scaler in a test).

Without the hub there is no XLM-R tokenizer: one is trained on the terminology's names. The embedding of the base size keeps XLM-R's 250,002 rows.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel

from xsap.artifacts import check_can_write
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import REFERENCE_LENGTH, EncoderConfig
from xsap.encoding.packing import Tokens, tokenize_names
from xsap.encoding.vocabulary import train_tokenizer
from xsap.errors import ConfigError
from xsap.text import TextPolicy
from xsap.training.dataset import distinct, from_terminology
from xsap.training.sampling import Concepts, FilePairs, Names, PairSampler

LR, WEIGHT_DECAY = 2e-5, 0.01
MARGIN, ALPHA, BETA, BASE = 0.2, 1.0, 60.0, 0.5
PAIRS_PER_CONCEPT = 50
DESCRIPTION = EncoderConfig("cls", REFERENCE_LENGTH, TextPolicy("cased", "none"))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SEED = 0
_ALL = 1 << 40  # pairs


@dataclass(frozen=True, slots=True)
class Size:
    """Of an XLM-R. rows: of its embedding table; None: as many as the tokenizer has pieces."""

    layers: int
    hidden: int
    heads: int
    rows: int | None


SIZES = {"base": Size(12, 768, 12, 250_002), "small": Size(2, 256, 4, None)}


class Padded(NamedTuple):
    """2n names, the left ones first. ids: (2n, 25). mask: (2n, 25), 1 where a token is none of padding, else 0."""

    ids: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """A step's n pairs: 2n names, the left ones first, as tokens and padded; concepts: (2n,)."""

    tokens: Tokens
    padded: Padded
    concepts: Tensor


@dataclass(frozen=True, slots=True)
class TrainingImplementation:
    """One way to train an encoder. forward: batch → (2n, hidden) vectors, and their loss. step: one update → its loss, on the device.

    positions: how many a batch takes in the linear layers, padding included. first_only: the last layer is computed for [CLS] alone.
    """

    encoder: Encoder
    dtype: str
    forward: Callable[[Batch], tuple[Tensor, Tensor]]
    step: Callable[[Batch], Tensor]
    positions: Callable[[Batch], int]
    first_only: bool


@dataclass(frozen=True, slots=True)
class Start:
    """What all sides start from: one model, and names. tokens: of all names of a terminology. concepts: the concept of each."""

    size: Size
    tokenizer: PreTrainedTokenizerBase
    tokens: Tokens
    concepts: NDArray[np.int64]

    def encoder(self) -> Encoder:
        """An XLM-R as its configuration has it, dropout 0.1 included, with random weights, the same at every call."""
        config = XLMRobertaConfig(
            vocab_size=self.size.rows or len(self.tokenizer),
            hidden_size=self.size.hidden,
            num_hidden_layers=self.size.layers,
            num_attention_heads=self.size.heads,
            intermediate_size=4 * self.size.hidden,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return Encoder(XLMRobertaModel(config, add_pooling_layer=False), self.tokenizer, DESCRIPTION).train()

    def batches(self, pairs: int, steps: int) -> list[Batch]:
        """Those of the first steps of a run, each in full. Raises ConfigError if there are too few names."""
        sampler = PairSampler(Concepts(self.concepts), pairs_per_concept=PAIRS_PER_CONCEPT, pairs=pairs, seed=_SEED)
        full = sampler.steps_per_epoch - 1  # the last step of an epoch may have fewer
        if full < 1:
            raise ConfigError(
                f"the terminology's names give fewer than two steps of {pairs:,} pairs; take fewer with --pairs"
            )
        return [self.batch(sampler.batch(*divmod(step, full))) for step in range(steps)]

    def batch(self, names: Names) -> Batch:
        """Names as a side takes them."""
        tokens = self.tokens.take(names.rows)
        return Batch(tokens, pad(tokens, int(self.tokenizer.pad_token_id)), torch.from_numpy(names.concepts))

    def save(self, folder: Path) -> None:
        """Write all to a folder, for another process to load."""
        self.tokenizer.save_pretrained(folder)
        np.savez(folder / "names.npz", ids=self.tokens.ids, offsets=self.tokens.offsets, concepts=self.concepts)
        (folder / "size.json").write_text(json.dumps(asdict(self.size)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Start":
        """What `save` has written."""
        size = Size(**json.loads((folder / "size.json").read_text(encoding="utf-8")))
        with np.load(folder / "names.npz") as names:
            return cls(
                size, AutoTokenizer.from_pretrained(folder), Tokens(names["ids"], names["offsets"]), names["concepts"]
            )


def prepare(terminology: Path, size: Size, pieces: int) -> Start:
    """The names of a terminology in all languages, as they stand, and a tokenizer of at most so many pieces, trained on them."""
    say("reading names, training a tokenizer")
    material = distinct(from_terminology(terminology, None), DESCRIPTION.policy, None)
    tokenizer = train_tokenizer(material.names, pieces)
    return Start(size, tokenizer, tokenize_names(material.names, tokenizer, DESCRIPTION.max_length), material.concepts)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def pad(tokens: Tokens, pad_id: int, length: int = REFERENCE_LENGTH) -> Padded:
    """Names padded to `length`, none of which may be longer."""
    mask = np.arange(length) < tokens.lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = tokens.ids
    return Padded(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """In which matrix products are of this precision; for float32 nothing."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, DTYPES[dtype])


def reference_vectors(encoder: Encoder, names: Padded) -> Tensor:
    """(2n, hidden) states of [CLS], by two passes over padded names."""
    sides = zip(names.ids.chunk(2), names.mask.chunk(2), strict=True)
    return torch.cat(
        [encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0] for ids, mask in sides]
    )


def reference_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """Multi-similarity of the pairs that occur in a triplet within the margin. vectors: (2n, hidden). concepts: (2n,)."""
    hard = TripletMarginMiner(margin=MARGIN, type_of_triplets="all")(vectors, concepts)
    loss: Tensor = MultiSimilarityLoss(alpha=ALPHA, beta=BETA, base=BASE)(vectors, concepts, hard)
    return loss


def reference_side(encoder: Encoder, *, dtype: str, lr: float = LR) -> TrainingImplementation:
    """The recipe's way to train an encoder, on the device where it is. Loss and miner are inside autocast, as in the original."""
    device = next(encoder.parameters()).device
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=False)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")  # else it does nothing

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(device, dtype):
            vectors = reference_vectors(encoder, Padded(*(part.to(device) for part in batch.padded)))
            return vectors, reference_loss(vectors, batch.concepts.to(device))

    def step(batch: Batch) -> Tensor:
        _, loss = forward(batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.detach()

    return TrainingImplementation(
        encoder, dtype, forward, step, positions=lambda batch: batch.padded.ids.numel(), first_only=False
    )


def reference_run(
    terminology: Path,
    out: Path,
    *,
    size: Size,
    pieces: int,
    pairs: int,
    lr: float,
    minutes: float | None,
    steps: int | None,
) -> tuple[int, float]:
    """Train the recipe as such from random weights on the CPU, until minutes or steps are up, and save the model → steps done, last loss.

    The clock starts when the names are tokenized; padding is within it. Raises XsapError before it starts.
    """
    if minutes is None and steps is None:
        raise ConfigError("a run must know when to stop; give --minutes, --steps, or both")
    check_can_write(out, overwrite=False)
    start = prepare(terminology, size, pieces)
    encoder = start.encoder()
    side = reference_side(encoder, dtype="float32", lr=lr)
    torch.manual_seed(_SEED)
    done, loss, began = 0, math.nan, time.monotonic()
    for names in _shuffled(start, pairs):
        spent = (time.monotonic() - began) / 60
        if done == steps or (minutes is not None and spent >= minutes):
            break
        loss = float(side.step(start.batch(names)))
        done += 1
        if done % 50 == 0:
            say(f"step {done:,}, {spent:.1f} minutes, loss {loss:.4f}")
    encoder.save_pretrained(out, metadata={"recipe": "benchmarks speed reference-run", "steps": done, "lr": lr})
    return done, loss


def _shuffled(start: Start, pairs: int) -> Iterator[Names]:
    """Steps without end: at most 50 pairs a concept, drawn once, as in the original's file of pairs, and shuffled anew each epoch."""
    drawn = PairSampler(Concepts(start.concepts), pairs_per_concept=PAIRS_PER_CONCEPT, pairs=_ALL, seed=_SEED).batch(
        0, 0
    )
    left, right = np.split(drawn.rows, 2)
    rows = np.stack([left, right], 1).ravel()
    file = FilePairs(start.concepts[rows], pairs=pairs, shuffle=True, seed=_SEED)
    for step in count():
        names = file.batch(*divmod(step, file.steps_per_epoch))
        yield Names(rows[names.rows], names.concepts)
