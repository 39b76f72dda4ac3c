"""Implementations of encoding names: the original's procedure, SentenceTransformer's, onnxruntime's, and ours, with the same weights.

The original pads every name to 25 tokens and takes [CLS] (https://github.com/cambridgeltl/sapbert, README and
src/model_wrapper.py), on CUDA in batches of 2,048; here it takes the model's own pooling, so that all compute the same.
SentenceTransformer sorts names by length and pads each batch of 32, its default, to its longest; in float16 it gets
batches of 2,048, too, because small ones keep a GPU waiting. onnxruntime gets batches like SentenceTransformer's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.speed.harness import OURS
from benchmarks.speed.onnx_export import OnnxModel, quantize_onnx, to_onnx
from benchmarks.speed.reference import autocast, pad
from xsap.encoding.encoder import Dtype, Encoder
from xsap.encoding.int8 import int8_is_faster
from xsap.encoding.model_folder import quiet
from xsap.encoding.packing import tokenize_names
from xsap.search.vectors import Floats

IMPLEMENTATIONS = {
    "cpu": ("reference float32", "SentenceTransformer float32", "xsap float32", "xsap bfloat16", "xsap int8"),
    "cuda": (
        "reference float32",
        "reference float16",
        "SentenceTransformer float32",
        "SentenceTransformer float16",
        "xsap float32",
        "xsap bfloat16",
    ),
}
REFERENCE_BATCH = {"cpu": 256, "cuda": 2048}  # names; more is no faster on a CPU
SENTENCE_TRANSFORMER_BATCH = {"float32": 32, "float16": 2048}
ONNX_BATCH = 32
ONNX = ("onnxruntime float32", "onnxruntime int8")
FLOAT32_TOLERANCE, TOLERANCE = 1e-3, 0.5  # of `check_agreement`: for float32, otherwise


@dataclass(frozen=True, slots=True)
class EncodingImplementation:
    """One way to encode. encode: n names → (n, hidden) vectors of any length. model: is called on, or embeds, every position computed.

    first_only: whether the last layer is computed for [CLS] alone.
    """

    encode: Callable[[Sequence[str]], Floats]
    model: nn.Module
    dtype: str
    first_only: bool


def supported_names(device_type: str, *, with_int8: bool | None = None, with_onnx: bool = False) -> list[str]:
    """The implementations that this machine can run well; with_int8: None to find out."""
    with_int8 = int8_is_faster() if with_int8 is None else with_int8
    names = [name for name in IMPLEMENTATIONS[device_type] if with_int8 or not name.endswith("int8")]
    first = next(number for number, name in enumerate(names) if name.startswith(OURS))
    return [*names[:first], *(ONNX if with_onnx else ()), *names[first:]]


def open_implementations(
    exact: Encoder, folder: Path, device: torch.device, names: Iterable[str]
) -> dict[str, EncodingImplementation]:
    """Implementations with the weights of a model folder.

    Args:
        exact: The folder's encoder in float32.
        folder: Model folder.
        device: Device of the models.
        names: Kind and dtype of each, such as "xsap bfloat16".

    Returns:
        Name → implementation.
    """
    opened = {}
    for name in names:
        kind, dtype = name.split()
        if kind == "reference":
            opened[name] = _open_reference(exact, dtype)
        elif kind == "SentenceTransformer":
            opened[name] = _open_sentence_transformer(folder, device, dtype)
        elif kind == "onnxruntime":
            opened[name] = _open_onnx(exact, folder, dtype)
        else:
            encoder = exact
            if dtype != "float32":
                encoder = Encoder.from_pretrained(folder, device=device, dtype=cast(Dtype, dtype))
            opened[name] = EncodingImplementation(encoder.encode, encoder, dtype, first_only=exact.pooling == "cls")
    return opened


def _open_reference(encoder: Encoder, dtype: str) -> EncodingImplementation:
    device = next(encoder.parameters()).device
    batch, pad_id = REFERENCE_BATCH[device.type], int(encoder.tokenizer.pad_token_id)

    def encode(names: Sequence[str]) -> Floats:
        parts = []
        with torch.inference_mode(), autocast(device, dtype):
            for start in range(0, len(names), batch):
                tokens = tokenize_names(list(names[start : start + batch]), encoder.tokenizer, encoder.max_length)
                ids, mask = (part.to(device) for part in pad(tokens, pad_id))
                states = encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                parts.append(pool(states, mask, encoder.pooling).float().cpu().numpy())
        return np.concatenate(parts)

    return EncodingImplementation(encode, encoder, dtype, first_only=False)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """The states of padded names to vectors.

    Args:
        states: (n, length, hidden).
        mask: (n, length), 1 for tokens, 0 for padding.
        pooling: `cls` or `mean`.

    Returns:
        (n, hidden).
    """
    if pooling == "cls":
        return states[:, 0]
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _open_onnx(encoder: Encoder, folder: Path, dtype: str) -> EncodingImplementation:
    """Exported once for both dtypes, into the model's folder."""
    exported = folder.parent / "onnx" / "model.onnx"
    if not exported.exists():
        to_onnx(encoder.transformer, exported)
    model = OnnxModel(quantize_onnx(exported) if dtype == "int8" else exported)
    pad_id = int(encoder.tokenizer.pad_token_id)

    def encode(names: Sequence[str]) -> Floats:
        tokens = tokenize_names(list(names), encoder.tokenizer, encoder.max_length)
        vectors = np.empty((len(names), encoder.dimension), np.float32)
        order = np.argsort(tokens.lengths, kind="stable")[::-1]
        for rows in np.split(order, range(ONNX_BATCH, len(order), ONNX_BATCH)):
            ids, mask = pad(tokens.take(rows), pad_id, int(tokens.lengths[rows].max()))
            vectors[rows] = pool(model(ids, mask), mask, encoder.pooling).numpy()
        return vectors

    return EncodingImplementation(encode, model, dtype, first_only=False)


def _open_sentence_transformer(folder: Path, device: torch.device, dtype: str) -> EncodingImplementation:
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device=str(device))
    if dtype == "float16":
        model.half()

    def encode(names: Sequence[str]) -> Floats:
        batch = SENTENCE_TRANSFORMER_BATCH[dtype]
        return np.asarray(model.encode(list(names), batch_size=batch, show_progress_bar=False), np.float32)

    return EncodingImplementation(encode, model, dtype, first_only=False)


def check_agreement(implementations: Mapping[str, EncodingImplementation], names: Sequence[str]) -> dict[str, float]:
    """Largest distance of unit vectors from the first one's, in units of these vectors' mean distance from their mean.

    An AssertionError if it is too large; that of onnxruntime in int8 is what its rounding costs. The unit matters: vectors of an untrained model are nearly equal for all
    names.
    """
    vectors = {name: each.encode(names) for name, each in implementations.items()}
    units = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in vectors.items()}
    first = next(iter(units.values()))
    spread = float(np.linalg.norm(first - first.mean(0), axis=1).mean())
    distances = {name: float(np.linalg.norm(each - first, axis=1).max()) / spread for name, each in units.items()}
    for name, distance in distances.items():
        tolerance = FLOAT32_TOLERANCE if implementations[name].dtype == "float32" else TOLERANCE
        assert distance <= tolerance or name == ONNX[1], f"{name} does not compute the same: {distances}"
    return distances


@contextmanager
def count_positions(implementation: EncodingImplementation) -> Iterator[list[int]]:
    """Within it, a list grows by the positions of each batch that the implementation computes, padding included."""
    modules = implementation.model.named_modules()
    table = next((part for name, part in modules if name.endswith("word_embeddings")), implementation.model)
    counts: list[int] = []
    hook = table.register_forward_pre_hook(lambda _, arguments: counts.append(arguments[0].numel()))
    try:
        yield counts
    finally:
        hook.remove()
