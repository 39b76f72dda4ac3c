"""Tokenizer, transformer and pooling as one: names in, unit vectors out.

The only home of pooling, maximum length and unit length. All three are saved with the model (`xsap.json`), so that nobody has to
be told them again; a foreign folder that doesn't say how it pools is refused, never guessed at.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from xsap.artifacts import publish
from xsap.encoding.int8 import int8_is_faster, to_int8
from xsap.encoding.model_folder import EncoderConfig, open_folder, quiet, sentence_transformer_files
from xsap.encoding.packing import (
    Packed,
    Transformer,
    can_pack,
    pack,
    packed_first,
    packed_mean,
    padded_states,
    tokenize_names,
)
from xsap.errors import ConfigError
from xsap.text import TextPolicy, normalize_all

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENS_A_BATCH = 8192
_TOKENS_INT8 = 1024  # what comes between products then stays in the processor's cache
_PACKED: dict[str, Callable[[Transformer, Packed], Tensor]] = {"cls": packed_first, "mean": packed_mean}


class Encoder(nn.Module):
    """`encode` for use; called on a `Packed` batch, a torch module for training."""

    def __init__(
        self, transformer: Transformer, tokenizer: PreTrainedTokenizerBase, description: EncoderConfig
    ) -> None:
        super().__init__()
        self.transformer: Transformer = transformer
        self.tokenizer = tokenizer
        self.description = description
        self.dtype: Dtype = "float32"
        self.content_hash: str | None = None
        self._packs = can_pack(transformer) and self.pooling in _PACKED

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        *,
        pooling: str | None = None,
        max_length: int | None = None,
        policy: TextPolicy | None = None,
        device: str | torch.device | None = None,
        dtype: Dtype = "float32",
    ) -> "Encoder":
        """Open a model folder, or a model of the Hugging Face hub by its id.

        pooling, max_length, policy: for a folder that doesn't say them; where it does, another value is a ConfigError.
        device: CUDA where there is one, unless given. precision: of `encode`'s matrix products; int8 is for CPUs, and its encoder can't be
        saved or trained. Raises ArtifactError, ConfigError.
        """
        device = device_for(dtype, device)
        folder = open_folder(path, pooling=pooling, max_length=max_length, policy=policy)
        encoder = cls(folder.transformer, folder.tokenizer, folder.description)
        encoder.content_hash, encoder.dtype = folder.content_hash, dtype
        if dtype == "int8":
            to_int8(encoder.transformer)
        return encoder.to(device).eval()

    @property
    def pooling(self) -> str:
        """cls, mean, or mean_all: the mean over all positions up to max_length, pads included, as the original code has it."""
        return self.description.pooling

    @property
    def max_length(self) -> int:
        """Tokens a name is cut to, special ones included."""
        return self.description.max_length

    @property
    def policy(self) -> TextPolicy:
        """What is done to a name before it is tokenized."""
        return self.description.policy

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self.transformer.config.hidden_size)

    def forward(self, batch: Packed, unit: bool = True) -> Tensor:
        """(n, dimension) float32 vectors of a batch's names, in their given order; of length 1 where `unit`."""
        vectors = (_PACKED[self.pooling](self.transformer, batch) if self._packs else self._padded(batch)).float()
        return F.normalize(vectors, dim=-1) if unit else vectors

    def _padded(self, batch: Packed) -> Tensor:
        length = self.max_length if self.pooling == "mean_all" else batch.longest
        states = padded_states(self.transformer, batch, length, int(self.tokenizer.pad_token_id))
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "mean_all":
            return states.mean(1)
        real = torch.arange(length, device=states.device)[:, None] < batch.lengths[:, None, None]
        return states.masked_fill(~real, 0).sum(1) / batch.lengths[:, None]

    @torch.inference_mode()
    def encode(
        self, names: Sequence[str], *, unit: bool = True, policy: TextPolicy | None = None, progress: bool = False
    ) -> NDArray[np.float32]:
        """Names → (n, dimension) float32. policy: another than the model's own, for protocols that fix the text themselves."""
        if isinstance(names, str):
            raise ConfigError(f"expected a list of names, found the one string '{names[:40]}'; put it into a list")
        tokens = tokenize_names(normalize_all(names, policy or self.policy), self.tokenizer, self.max_length)
        # tiles fill best with names of all lengths; what is padded, with names of one
        order = np.arange(len(names)) if self._packs else np.argsort(tokens.lengths, kind="stable")[::-1]
        vectors = np.empty((len(names), self.dimension), np.float32)
        training, device = self.training, next(self.transformer.parameters()).device
        self.eval()
        with self._autocast(device), tqdm(total=len(names), desc="encode", unit=" names", disable=not progress) as bar:
            for rows in _batches(order, tokens.lengths, _TOKENS_INT8 if self.dtype == "int8" else _TOKENS_A_BATCH):
                vectors[rows] = self(pack(tokens.take(rows)).to(device), unit).cpu().numpy()
                bar.update(len(rows))
        self.train(training)
        return vectors

    def _autocast(self, device: torch.device) -> Any:
        return torch.autocast(device.type, _DTYPES[self.dtype]) if self.dtype in _DTYPES else nullcontext()

    def save_pretrained(
        self, path: Path | str, *, overwrite: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        """Write a Hugging Face folder that `from_pretrained` and SentenceTransformer open with the same vectors.

        facts: further keys of `xsap.json` (languages, the terminology's hash, …). SentenceTransformer has no pooling over pad
        positions, so for mean_all its files are left out.
        """
        if self.dtype == "int8":
            raise ConfigError(
                "an encoder in int8 can't be saved, for its weights are rounded; open the model in float32 and save that"
            )
        described = self.description.to_dict() | (metadata or {})
        with publish(path, "model", {}, overwrite=overwrite) as folder:
            with quiet():
                self.transformer.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = {"xsap.json": described} | sentence_transformer_files(self.description, self.dimension)
            for name, content in files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def device_for(dtype: Dtype, device: str | torch.device | None) -> str | torch.device:
    """The device given, or the best for a precision. Raises ConfigError if int8 can't be had there."""
    if dtype != "int8":
        return device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device is not None and torch.device(device).type != "cpu":
        raise ConfigError(f"precision int8 is for CPUs, found device '{device}'; take bfloat16 there")
    if not int8_is_faster():
        raise ConfigError(
            "precision int8 needs a processor that multiplies int8 fast (VNNI instructions), and this one doesn't; take bfloat16 or float32"
        )
    return "cpu"


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], at_once: int) -> list[NDArray[np.int64]]:
    """Rows in an order, cut into batches of about as many tokens."""
    if not len(order):
        return []
    batch = np.cumsum(lengths[order]) // at_once
    return np.split(order, np.flatnonzero(np.diff(batch)) + 1)
