"""The original SapBERT recipe, with which our speed and accuracy are compared: its data, its step, and a run of it.

Written from its description (Liu et al., NAACL 2021, section 2, and https://github.com/cambridgeltl/sapbert, README),
without its code: names padded to 25 tokens; left and right names through the Hugging Face model one after the other,
[CLS] taken; all triplets mined and the loss computed by pytorch-metric-learning; torch's AdamW with its defaults,
unfused, at a constant rate; float32, or on CUDA float16 autocast with a gradient scaler. Attention is what transformers
chooses.

A run continues from a given pretrained model with its tokenizer. Without one, weights are random; XLM-R's own tokenizer
needs the Hugging Face hub, so one is trained on the terminology's names, and the embedding table of the base size keeps
XLM-R's 250,002 rows.
"""

import json
import math
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
from xsap.terminal import log
from xsap.text import TextPolicy
from xsap.training.dataset import NameSet, distinct, from_terminology
from xsap.training.sampling import Concepts, FilePairs, Names, PairSampler

LEARNING_RATE, WEIGHT_DECAY = 2e-5, 0.01
MARGIN, ALPHA, BETA, BASE = 0.2, 1.0, 60.0, 0.5
PAIRS_PER_CONCEPT = 50
ENCODER_CONFIG = EncoderConfig("cls", REFERENCE_LENGTH, TextPolicy("cased", "none"))
SEED = 0
ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert")  # layers as in BERT
ALL_PAIRS = 1 << 40  # more pairs than any terminology has


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a model. rows: rows of its embedding table; None for as many as the tokenizer has pieces.

    model_type: the architecture of a pretrained model; None for an XLM-R of random weights.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    rows: int | None
    model_type: str | None = None

    def __str__(self) -> str:
        if self.model_type is None:
            return f"XLM-R {self.name}"
        return f"{self.name} ({self.model_type}, {self.layers} layers × {self.hidden})"


MODEL_SIZES = {"base": Size("base", 12, 768, 12, 250_002), "small": Size("small", 2, 256, 4, None)}


class Padded(NamedTuple):
    """2n names, the left names of the pairs first. ids: (2n, 25). mask: (2n, 25), 1 for tokens, 0 for padding."""

    ids: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """n pairs of a step: 2n names, the left ones first, as tokens and padded. concepts: (2n,)."""

    tokens: Tokens
    padded: Padded
    concepts: Tensor


@dataclass(frozen=True, slots=True)
class TrainingImplementation:
    """One way to train an encoder.

    Attributes:
        encoder: The encoder in training.
        dtype: Number format of its matrix products.
        forward: Batch → (2n, hidden) vectors and their loss.
        step: Batch → loss of one update, on the device.
        positions: Batch → positions that the linear layers compute, padding included.
        first_only: Whether the last layer is computed for [CLS] alone.
    """

    encoder: Encoder
    dtype: str
    forward: Callable[[Batch], tuple[Tensor, Tensor]]
    step: Callable[[Batch], Tensor]
    positions: Callable[[Batch], int]
    first_only: bool


@dataclass(frozen=True, slots=True)
class Start:
    """What all implementations start from: a model, and the n names of a terminology.

    concepts: (n,), one per name. base: the pretrained model, a folder or hub id; None for random weights.
    """

    size: Size
    tokenizer: PreTrainedTokenizerBase
    tokens: Tokens
    concepts: NDArray[np.int64]
    base: str | None = None

    def encoder(self) -> Encoder:
        """The pretrained model, or an XLM-R with its default dropout of 0.1 and random weights, the same at every call."""
        if self.base is not None:
            return open_base(self.base).train()
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
            torch.manual_seed(SEED)
            return Encoder(XLMRobertaModel(config, add_pooling_layer=False), self.tokenizer, ENCODER_CONFIG).train()

    def batches(self, pairs: int, steps: int) -> list[Batch]:
        """Full batches of the first steps of a run. Raises ConfigError if there are too few names."""
        sampler = PairSampler(Concepts(self.concepts), pairs_per_concept=PAIRS_PER_CONCEPT, pairs=pairs, seed=SEED)
        full = sampler.steps_per_epoch - 1  # the last step of an epoch may have fewer
        if full < 1:
            raise ConfigError(
                f"the terminology's names give fewer than two steps of {pairs:,} pairs; use fewer with --pairs"
            )
        return [self.batch(sampler.batch(*divmod(step, full))) for step in range(steps)]

    def batch(self, names: Names) -> Batch:
        """Names as an implementation takes them."""
        tokens = self.tokens.take(names.rows)
        return Batch(tokens, pad(tokens, int(self.tokenizer.pad_token_id)), torch.from_numpy(names.concepts))

    def save(self, folder: Path) -> None:
        """Write all to a folder, for another process to load."""
        self.tokenizer.save_pretrained(folder)
        np.savez(folder / "names.npz", ids=self.tokens.ids, offsets=self.tokens.offsets, concepts=self.concepts)
        base = str(Path(self.base).resolve()) if self.base and Path(self.base).exists() else self.base
        (folder / "model.json").write_text(json.dumps({"size": asdict(self.size), "base": base}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Start":
        """Read what `save` wrote."""
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with np.load(folder / "names.npz") as names:
            return cls(
                size=Size(**model["size"]),
                tokenizer=AutoTokenizer.from_pretrained(folder),
                tokens=Tokens(names["ids"], names["offsets"]),
                concepts=names["concepts"],
                base=model["base"],
            )


def prepare(terminology: Path, size: Size, vocabulary_size: int) -> Start:
    """The names of a terminology in all languages, unchanged, and a tokenizer of at most so many pieces for them."""
    log("reading names, training a tokenizer")
    names = distinct(from_terminology(terminology, None), ENCODER_CONFIG.policy, None)
    return _start(size, train_tokenizer(names.names, vocabulary_size), names)


def prepare_from(terminology: Path, base: str) -> Start:
    """A pretrained model as the original recipe continues from it, and the names of a terminology in its pieces.

    Args:
        terminology: Terminology folder; its names in all languages are used, unchanged.
        base: A folder or hub id; its own pooling, maximum length, text policy and prompt do not count.

    Raises:
        XsapError: One of the two cannot be opened.
    """
    encoder = open_base(base)
    log("reading names")
    names = distinct(from_terminology(terminology, None), ENCODER_CONFIG.policy, None)
    return _start(size_of(encoder, base), encoder.tokenizer, names, base)


def open_base(base: str) -> Encoder:
    """A pretrained model with the recipe's pooling, length and text policy. Raises XsapError."""
    encoder = Encoder.from_pretrained(
        base,
        pooling=ENCODER_CONFIG.pooling,
        max_length=ENCODER_CONFIG.max_length,
        policy=ENCODER_CONFIG.policy,
        prompt="",
        override=True,
        device="cpu",
    )
    if encoder.dense is not None:
        raise ConfigError(f"{base}: the original recipe trains a transformer alone, found Dense layers after pooling")
    return encoder


def size_of(encoder: Encoder, model: str) -> Size:
    """The size of a pretrained model. model: where it was opened from."""
    config = encoder.transformer.config
    return Size(
        name=Path(model).resolve().name if Path(model).exists() else model,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        heads=int(config.num_attention_heads),
        rows=int(config.vocab_size),
        model_type=str(config.model_type),
    )


def check_architecture(size: Size) -> None:
    """Raises ConfigError for a model whose operations are not counted here."""
    if size.model_type not in (None, *ARCHITECTURES):
        raise ConfigError(
            f"{size.name}: expected a model of the type {', '.join(ARCHITECTURES)}, whose operations are counted, found {size.model_type}"
        )


def _start(size: Size, tokenizer: PreTrainedTokenizerBase, names: NameSet, base: str | None = None) -> Start:
    return Start(
        size, tokenizer, tokenize_names(names.names, tokenizer, ENCODER_CONFIG.max_length), names.concepts, base
    )


def pad(tokens: Tokens, pad_id: int, length: int = REFERENCE_LENGTH) -> Padded:
    """Names padded to `length`, which none may exceed."""
    mask = np.arange(length) < tokens.lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = tokens.ids
    return Padded(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """A context in which matrix products are of this dtype; for float32 it does nothing."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


def encode_reference(encoder: Encoder, names: Padded) -> Tensor:
    """(2n, hidden) states of [CLS], by two passes over padded names."""
    halves = zip(names.ids.chunk(2), names.mask.chunk(2), strict=True)
    return torch.cat(
        [encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0] for ids, mask in halves]
    )


def reference_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """Multi-Similarity loss of the pairs that occur in a triplet within the margin.

    Args:
        vectors: (2n, hidden), of any length.
        concepts: (2n,) int64; equal numbers are positives.

    Returns:
        A scalar.
    """
    hard = TripletMarginMiner(margin=MARGIN, type_of_triplets="all")(vectors, concepts)
    loss: Tensor = MultiSimilarityLoss(alpha=ALPHA, beta=BETA, base=BASE)(vectors, concepts, hard)
    return loss


def train_reference(encoder: Encoder, *, dtype: str, learning_rate: float = LEARNING_RATE) -> TrainingImplementation:
    """The recipe's way to train an encoder, on its device. Loss and miner are inside autocast, as in the original."""
    device = next(encoder.parameters()).device
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=False)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")  # otherwise it does nothing

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(device, dtype):
            vectors = encode_reference(encoder, Padded(*(part.to(device) for part in batch.padded)))
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
    base: str | None = None,
    size: Size,
    vocabulary_size: int,
    pairs: int,
    learning_rate: float,
    minutes: float | None,
    steps: int | None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, float]:
    """Train by the original recipe on the CPU, and save the model.

    Args:
        terminology: Terminology folder; all its names are trained on.
        out: Model folder to write.
        base: Pretrained model to continue from with its tokenizer, a folder or hub id; None for random weights.
        size: Size of a model with random weights.
        vocabulary_size: The largest number of pieces of its tokenizer.
        pairs: Pairs per step.
        learning_rate: Constant learning rate.
        minutes: Limit of the training time, which starts when the names are tokenized and includes padding.
        steps: Limit of the number of steps.
        clock: Seconds from any fixed moment.

    Returns:
        The number of steps and the last loss.

    Raises:
        ConfigError: Neither limit is given, or there are too few names.
        ArtifactError: `out` cannot be written, or `base` cannot be opened.
    """
    if minutes is None and steps is None:
        raise ConfigError("a run needs a limit; give --minutes, --steps, or both")
    check_can_write(out, overwrite=False)
    start = prepare(terminology, size, vocabulary_size) if base is None else prepare_from(terminology, base)
    encoder = start.encoder()
    implementation = train_reference(encoder, dtype="float32", learning_rate=learning_rate)
    torch.manual_seed(SEED)
    done, loss, began = 0, math.nan, clock()
    for names in shuffled_pairs(start, pairs):
        spent = (clock() - began) / 60
        if done == steps or (minutes is not None and spent >= minutes):
            break
        loss = float(implementation.step(start.batch(names)))
        done += 1
        if done % 50 == 0:
            log(f"step {done:,}, {spent:.1f} minutes, loss {loss:.4f}")
    metadata = {"recipe": "benchmarks speed reference-run", "steps": done, "learning_rate": learning_rate}
    encoder.save_pretrained(out, metadata=metadata)
    return done, loss


def shuffled_pairs(start: Start, pairs: int) -> Iterator[Names]:
    """Endless steps: at most 50 pairs per concept, drawn once, as in the original's file, and shuffled each epoch."""
    sampler = PairSampler(Concepts(start.concepts), pairs_per_concept=PAIRS_PER_CONCEPT, pairs=ALL_PAIRS, seed=SEED)
    left, right = np.split(sampler.batch(0, 0).rows, 2)
    rows = np.stack([left, right], 1).ravel()
    file = FilePairs(start.concepts[rows], pairs=pairs, shuffle=True, seed=SEED)
    for step in count():
        names = file.batch(*divmod(step, file.steps_per_epoch))
        yield Names(rows[names.rows], names.concepts)
