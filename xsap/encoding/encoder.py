"""The encoder: tokenizer, transformer and pooling as one, from names to unit vectors.

Pooling, maximum length and text policy are saved with the model (`xsap.json`), so that no user has to pass them again.
A folder that does not state its pooling is an error unless the caller gives it; the pooling is never guessed.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from xsap.artifacts import publish, write_atomically
from xsap.encoding.int8 import int8_is_faster, to_int8
from xsap.encoding.model_card import README, CardEvaluation, model_card
from xsap.encoding.model_folder import EncoderConfig, open_folder, quiet, sentence_transformer_files
from xsap.encoding.packed_layers import can_pack, packed_first, packed_mean
from xsap.encoding.packing import PackedBatch, Tokens, Transformer, pack, padded_states, tokenize_names
from xsap.encoding.sample_names import SAMPLE_NAMES
from xsap.encoding.threads import threads_for
from xsap.errors import ConfigError
from xsap.text import TextPolicy, normalize_all

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
_TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BLANK_PIECES = " \u2581\u0120\u010a"  # what tokenizers write for a blank: SentencePiece ▁, byte-level BPE Ġ and Ċ
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")  # of SentencePiece with byte fallback
_NO_CHARACTER = "\ufffd"  # what bytes that are no whole character are decoded to
TOKENS_PER_BATCH = 8192
# intermediate results then stay in the processor's cache
TOKENS_PER_INT8_BATCH = 1024
TOKENS_PER_FLOAT32_BATCH = 2048  # on a CPU
POOLS: dict[str, Callable[[Transformer, PackedBatch], Tensor]] = {"cls": packed_first, "mean": packed_mean}


class Encoder(nn.Module):
    """A model that turns names into vectors: `encode` for use, and a torch module on a `PackedBatch` for training.

    Attributes:
        transformer: The Hugging Face model.
        dense: Layers after pooling, as SentenceTransformer's Dense modules; None for most models.
        tokenizer: Its tokenizer.
        config: Pooling, maximum length and text policy.
        dtype: Number format of `encode`'s matrix products.
        content_hash: SHA-256 over the files of the folder that the model was opened from; None for a new model.
        revision: The branch, tag or commit of the hub's repository that it was opened at, given or from the table of known models; None for
            the hub's main one, and for a folder.
        provenance: What is known of where the model comes from, such as `base_model` and `license`; saved in `xsap.json`.
    """

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        config: EncoderConfig,
        dense: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        self.transformer: Transformer = transformer
        self.dense = dense
        self.tokenizer = tokenizer
        self.config = config
        self.dtype: Dtype = "float32"
        self.content_hash: str | None = None
        self.revision: str | None = None
        self.provenance: dict[str, Any] = {}
        self._known_ids: NDArray[np.bool_] | None = None  # by token id: neither special nor a blank
        self._packs = can_pack(transformer) and self.pooling in POOLS

    def __repr__(self) -> str:
        name = self.transformer.config.name_or_path or "new model"
        return f"Encoder({name}, {self.dimension} dimensions, {self.pooling} pooling, {self.dtype})"

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        *,
        pooling: str | None = None,
        max_length: int | None = None,
        policy: TextPolicy | None = None,
        prompt: str | tuple[str, str] | None = None,
        revision: str | None = None,
        override: bool = False,
        device: str | torch.device | None = None,
        dtype: Dtype = "float32",
    ) -> "Encoder":
        """Open a model folder, or a model of the Hugging Face hub.

        Args:
            path: A folder written by `save_pretrained`, a SentenceTransformer or a Hugging Face folder, or the id of
                one on the hub.
            pooling: `cls`, `mean` or `mean_all`. Required if neither the folder states it nor the table of known models.
            max_length: Tokens after which a name is truncated, special tokens included. By default what the folder
                states, else 25.
            policy: Normalization of names. By default what the folder states, else NFC, case unchanged.
            prompt: Text before every name and mention, such as E5's `query: `, or two texts: before names, and before
                mentions. By default what the folder states, or is known of the model.
            revision: Branch, tag or commit of a model on the hub; not for a folder. By default what the table of known
                models has, else the main branch.
            override: Whether an argument may differ from what the folder states, as when another model is trained
                from it.
            device: Where to compute; by default CUDA if available, else the CPU.
            dtype: Number format of `encode`'s matrix products: `float32`, `bfloat16`, `float16`, or `int8`. int8 is for
                CPUs; such an encoder can't be saved or trained.

        Returns:
            The encoder, in evaluation mode.

        Raises:
            ArtifactError: There is no such model, it is damaged, or its pooling is unknown.
            ConfigError: An argument contradicts the folder, is out of bounds, or int8 is not available.
        """
        device = device_for(dtype, device)
        folder = open_folder(
            path,
            pooling=pooling,
            max_length=max_length,
            policy=policy,
            prompt=prompt,
            revision=revision,
            override=override,
        )
        encoder = cls(folder.transformer, folder.tokenizer, folder.config, folder.dense)
        encoder.content_hash, encoder.dtype = folder.content_hash, dtype
        encoder.provenance, encoder.revision = folder.provenance, folder.revision
        encoder = encoder.to(device).eval()
        if dtype == "int8":
            encoder.dtype = "float32"
            to_int8(encoder.transformer, lambda: encoder.encode(SAMPLE_NAMES))
            encoder.dtype = dtype
        return encoder

    @property
    def pooling(self) -> str:
        """`cls`, `mean`, or `mean_all`: the mean over all positions up to `max_length`, padding included, as in the original code."""
        return self.config.pooling

    @property
    def max_length(self) -> int:
        """Tokens after which a name is truncated, special tokens included."""
        return self.config.max_length

    @property
    def policy(self) -> TextPolicy:
        """Normalization of a name before it is tokenized."""
        return self.config.policy

    @property
    def prompts(self) -> tuple[str, str]:
        """Text before each name, and before each mention."""
        return self.config.name_prompt, self.config.mention_prompt

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""
        if self.dense is not None:
            return max(layer.out_features for layer in list(self.dense)[-2:-1] if isinstance(layer, nn.Linear))
        return int(self.transformer.config.hidden_size)

    def forward(self, batch: PackedBatch, unit: bool = True) -> Tensor:
        """Encode a batch of n names.

        Args:
            batch: The packed names, on the model's device.
            unit: Whether to scale vectors to length 1.

        Returns:
            (n, dimension) float32, in the order that the names were given in.
        """
        vectors = (POOLS[self.pooling](self.transformer, batch) if self._packs else self._padded(batch)).float()
        if self.dense is not None:
            vectors = self.dense(vectors)
        return F.normalize(vectors, dim=-1) if unit else vectors

    def _padded(self, batch: PackedBatch) -> Tensor:
        length = self.max_length if self.pooling == "mean_all" else batch.longest
        states = padded_states(self.transformer, batch, length, int(self.tokenizer.pad_token_id))
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "mean_all":
            return states.mean(1)
        real = torch.arange(length, device=states.device)[:, None] < batch.lengths[:, None, None]
        return states.masked_fill(~real, 0).sum(1) / batch.lengths[:, None]

    def encode(
        self,
        names: Sequence[str],
        *,
        unit: bool = True,
        policy: TextPolicy | None = None,
        prompt: str | None = None,
        progress: bool = False,
        tokens_per_batch: int | None = None,
    ) -> NDArray[np.float32]:
        """Encode names. Vectors do not depend on the order of names or on how they are batched, but for rounding.

        In int8, rounding may move a code: vectors of a name in two batches have a cosine of about 0.9999.

        Args:
            names: n names, as a terminology or text has them; they are normalized here.
            unit: Whether to scale vectors to length 1, so that dot products are cosines.
            policy: Normalization instead of the model's own, for evaluation protocols that prescribe one.
            prompt: Text before each name; by default the model's `name_prompt`.
            progress: Whether to show a progress bar on stderr.
            tokens_per_batch: Tokens encoded at a time; by default 8192; on a CPU 2048 in float32 and 1024 in int8.

        Returns:
            (n, dimension) float32.

        Raises:
            ConfigError: `names` is one string.
        """
        if isinstance(names, str):
            raise ConfigError(f"expected a list of names, found a single string '{names[:40]}'; put it into a list")
        prompt = self.config.name_prompt if prompt is None else prompt
        tokens = self._tokenize(normalize_all(names, policy or self.policy), prompt)
        return self._encode_tokens(tokens, unit=unit, progress=progress, tokens_per_batch=tokens_per_batch)

    def encode_mentions(
        self, mentions: Sequence[str], *, prompt: str | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`encode` with the prompt for mentions, and `knows`, at once: mentions are tokenized a single time.

        Args:
            mentions: n mentions, as text has them; they are normalized here.
            prompt: Text before each mention; by default the model's `mention_prompt`.

        Returns:
            (n, dimension) float32 unit vectors, and (n,) bool.
        """
        texts, prompt = normalize_all(mentions, self.policy), self.config.mention_prompt if prompt is None else prompt
        tokens = self._tokenize(texts, prompt)
        pieces = self._known_pieces(tokens)
        known = pieces > (self._known_pieces(self._tokenize([""], prompt))[0] if prompt else 0)
        if prompt and not known.all():  # pieces of the prompt may have merged with the mention's first
            at = np.flatnonzero(~known)
            known[at] = self._known_pieces(self._tokenize([texts[i] for i in at], "")) > 0
        return self._encode_tokens(tokens), known

    def _tokenize(self, texts: Sequence[str], prompt: str) -> Tokens:
        return tokenize_names([prompt + text for text in texts], self.tokenizer, self.max_length)

    @property
    def tokens_per_batch(self) -> int:
        """Tokens that are encoded at a time, unless a caller says otherwise."""
        if self.dtype == "int8":
            return TOKENS_PER_INT8_BATCH
        on_cpu = next(self.transformer.parameters()).device.type == "cpu"
        return TOKENS_PER_FLOAT32_BATCH if on_cpu and self.dtype == "float32" else TOKENS_PER_BATCH

    @torch.inference_mode()
    def _encode_tokens(
        self, tokens: Tokens, *, unit: bool = True, progress: bool = False, tokens_per_batch: int | None = None
    ) -> NDArray[np.float32]:
        # packed batches fill best with names of all lengths, padded ones with names of one length
        order = np.arange(len(tokens)) if self._packs else np.argsort(tokens.lengths, kind="stable")[::-1]
        vectors = np.empty((len(tokens), self.dimension), np.float32)
        training, device = self.training, next(self.transformer.parameters()).device
        size = tokens_per_batch or self.tokens_per_batch
        self.eval()
        with self.autocast(device), tqdm(total=len(tokens), desc="encode", unit=" names", disable=not progress) as bar:
            for rows in _batches(order, tokens.lengths, size):
                with threads_for(tokens.count(rows)):
                    vectors[rows] = self(pack(tokens.take(rows)).to(device), unit).cpu().numpy()
                bar.update(len(rows))
        self.train(training)
        return vectors

    def knows(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the vocabulary has any part of each name; the vectors of all names of which it has none are much the same.

        Args:
            names: n names, as a terminology or text has them.

        Returns:
            (n,) bool.
        """
        return self._known_pieces(self._tokenize(normalize_all(names, self.policy), "")) > 0

    def _known_pieces(self, tokens: Tokens) -> NDArray[np.int64]:
        """How many tokens of each name are neither special nor a blank nor bytes of a character."""
        if self._known_ids is None or len(self._known_ids) < len(self.tokenizer):
            self._known_ids = _known_ids(self.tokenizer)
        rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
        return np.bincount(rows[self._known_ids[tokens.ids]], minlength=len(tokens))

    def autocast(self, device: torch.device) -> Any:
        """A context in which matrix products are computed in `dtype`.

        Args:
            device: Where they are computed.
        """
        return torch.autocast(device.type, _TORCH_DTYPES[self.dtype]) if self.dtype in _TORCH_DTYPES else nullcontext()

    def save_pretrained(
        self,
        path: Path | str,
        *,
        overwrite: bool = False,
        metadata: dict[str, Any] | None = None,
        evaluation: CardEvaluation | None = None,
    ) -> None:
        """Write a Hugging Face folder that `from_pretrained` and SentenceTransformer open, with the same vectors.

        SentenceTransformer has no pooling over padding, so its files are left out for `mean_all`. README.md, the model card, may be edited.

        Args:
            path: The folder to write.
            overwrite: Whether to replace an existing model folder.
            metadata: Further keys of `xsap.json`, such as languages and the terminology's hash, in addition to `provenance`.
            evaluation: Scores for the model card.

        Raises:
            ArtifactError: The folder exists and `overwrite` is false, or it is not a model folder.
            ConfigError: The encoder is in int8.
        """
        if self.dtype == "int8":
            raise ConfigError(
                "an int8 encoder can't be saved because its weights are rounded; open the model as float32 and save that"
            )
        stated = self.provenance | (metadata or {}) | self.config.to_dict()
        with publish(path, "model", {}, overwrite=overwrite) as folder:
            with quiet():
                self.transformer.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            hidden = int(self.transformer.config.hidden_size)
            files = {"xsap.json": stated} | sentence_transformer_files(self.config, hidden, self.dense)
            for name, content in files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            for i, linear in enumerate(list(self.dense or ())[::2]):
                weights = {f"linear.{name}": weight.detach() for name, weight in linear.state_dict().items()}
                save_file(weights, folder / f"{i + 2}_Dense" / "model.safetensors")
        parameters = sum(weight.numel() for weight in self.transformer.parameters())
        with write_atomically(Path(path) / README) as stream:
            stream.write(model_card(stated, dimension=self.dimension, parameters=parameters, evaluation=evaluation))


def device_for(dtype: Dtype, device: str | torch.device | None) -> str | torch.device:
    """The given device, or by default CUDA if available and usable with `dtype`. Raises ConfigError if int8 is not available."""
    if dtype != "int8":
        return device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device is not None and torch.device(device).type != "cpu":
        raise ConfigError(f"dtype int8 is for CPUs, found device '{device}'; use bfloat16 there")
    if not int8_is_faster():
        raise ConfigError("dtype int8 needs a CPU with VNNI instructions, found one without; use bfloat16 or float32")
    return "cpu"


def _known_ids(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """By token id: whether the piece is of text, so neither special nor a blank nor bytes of a character that the vocabulary lacks.

    Such characters fall apart into bytes: `<0xE0>` where SentencePiece falls back to bytes; a letter for each byte, or
    for two of three, in byte-level BPE.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    known = np.array(
        [bool(piece and piece.strip(BLANK_PIECES) and not _BYTE_PIECE.fullmatch(piece)) for piece in pieces]
    )
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is not None and decoder.decode(["\u00c3"]) == _NO_CHARACTER:  # byte-level: the piece is half of a letter
        for i, piece in enumerate(pieces):
            if known[i] and not piece.isascii():
                known[i] = bool(decoder.decode([piece]).replace(_NO_CHARACTER, "").strip())
    known[list(tokenizer.all_special_ids)] = False
    return known


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Rows in the given order, split into batches of about `size` tokens."""
    if not len(order):
        return []
    batch = np.cumsum(lengths[order]) // size
    return np.split(order, np.flatnonzero(np.diff(batch)) + 1)
