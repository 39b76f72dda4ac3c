"""KeBioLM as its authors published it (Yuan et al., BioNLP 2021; github.com/GanjinZero/KeBioLM): its weights, its entities and its faults.

Texts are padded, and what the original computes of a text depends on the others of its batch. Three faults are kept, for they are part of what the
published weights learned:

1. an entity is added to the token after its term, too;
2. where another text of the batch has more terms, an entity of [CLS] is written to the first two tokens, in place of a term that begins there;
3. these entities of [CLS] are learned as [PAD_ENT].

The reported loss of detection is that of detection alone, which the original adds the others to in place.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel

from xsap.artifacts import sha256_of
from xsap.encoding.convert_weights import converted, has_pickled_weights_only
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.errors import ArtifactError, DataError
from xsap.files import read_lines
from xsap.text import TextPolicy
from xsap.text_in.memory import EntityMemoryModel, MemoryConfig
from xsap.text_in.memory_table import ENTITIES_SCHEMA, EntityTable
from xsap.text_in.memory_texts import BEGIN, INSIDE, OUTSIDE

RESERVED = ("[PAD_ENT]", "[UNK_ENT]", "[NIL_ENT]")
_MASKED_SCORE = -10_000.0  # what the original adds to the attention scores of padding
_NO_LABEL = -100
_RENAMED = {
    "bert.mention_detector.": "detector.",
    "bert.entity_linker.mention_to_entity_projection.": "projection.",
    "bert.entity_linker.entity_embeddings.weight": "vectors",
    "bert.entity_context_projection.": "to_hidden.",
    "bert.layer_norm.": "norm.",
    "cls.predictions.transform.dense.": "language_head.dense.",
    "cls.predictions.transform.LayerNorm.": "language_head.norm.",
    "cls.predictions.bias": "language_head.bias",
    "bert.embeddings.": "encoder.transformer.embeddings.",
    "bert.context_encoder.": "encoder.transformer.encoder.",
}
_UPPER = "bert.recontext_encoder.layer."
_COPIES = ("bert.embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


class OriginalBatch(NamedTuple):
    """A padded batch of n texts.

    Attributes:
        ids: (n, s) token ids.
        mask: (n, s) 1 for tokens, 0 for padding.
        detection: (n, s) OUTSIDE, BEGIN or INSIDE of each token; None for what the model detects.
        entities: (n, m) row of the entity of each term, 0 after the last; None without a loss of linking.
        masked: (n, s) id of each masked token, -100 elsewhere; None without a loss of the language model.
    """

    ids: Tensor
    mask: Tensor
    detection: Tensor | None = None
    entities: Tensor | None = None
    masked: Tensor | None = None


class OriginalOutput(NamedTuple):
    """What the original computes of a batch.

    Attributes:
        loss: The sum of those that there are labels for; None without any.
        predictions: (n, s, pieces) logits of the language model.
        states: (n, s, hidden) of the last layer.
        lower: (n, s, hidden) below the memory.
        detection: (n, s, 3) logits.
        linking: (n, m, entities) logits of each term, terms of padding included; None without terms.
        spans: The terms of each text, terms of padding included: first token, and the token after the last.
        detection_loss: Of the labels of tokens.
        linking_loss: Of the entities.
        language_loss: Of the masked tokens.
    """

    loss: Tensor | None
    predictions: Tensor
    states: Tensor
    lower: Tensor
    detection: Tensor
    linking: Tensor | None
    spans: list[list[tuple[int, int]]]
    detection_loss: Tensor | None
    linking_loss: Tensor | None
    language_loss: Tensor | None


def original_output(memory: EntityMemoryModel, batch: OriginalBatch) -> OriginalOutput:
    """Compute a padded batch as the original does.

    Args:
        memory: A memory `as_original`.
        batch: The texts.
    """
    assert memory.config.as_original
    below, layers = memory.config.context_layers, memory.encoder.transformer.encoder.layer
    scores = (1.0 - batch.mask[:, None, None, :].float()) * _MASKED_SCORE
    lower: Tensor = memory.encoder.transformer.embeddings(input_ids=batch.ids)
    for layer in layers[:below]:
        lower = layer(lower, scores)
    detection = memory.detector(lower)
    labels = detection.argmax(-1) if batch.detection is None else batch.detection
    spans, linking, added = _entities_added(memory, lower, _padded_spans(memory, labels, batch.mask))
    states = memory.norm(lower + added)
    for layer in layers[below:]:
        states = layer(states, scores)
    embeddings = memory.encoder.transformer.embeddings.word_embeddings.weight
    predictions = memory.language_head(states, embeddings)
    losses = _losses(memory, batch, detection, linking, predictions)
    found = [loss for loss in losses if loss is not None]
    total = torch.stack(found).sum() if found else None
    return OriginalOutput(total, predictions, states, lower, detection, linking, spans, *losses)


def _padded_spans(memory: EntityMemoryModel, labels: Tensor, mask: Tensor) -> list[list[tuple[int, int]]]:
    """The terms of each text, as many for all: (0, 1) in place of those that a text lacks."""
    spans = []
    for row, length in zip(labels.tolist(), mask.sum(1).tolist(), strict=True):
        own: list[tuple[int, int]] = []
        before = OUTSIDE
        for position in range(1, int(length)):
            label = row[position]
            if label == BEGIN or (label == INSIDE and before == OUTSIDE):
                own.append((position, position + 1))
            elif label == INSIDE:
                own[-1] = (own[-1][0], position + 1)
            before = label
        spans.append(own)
    most = min(memory.config.max_mentions, max(map(len, spans)))
    return [own[:most] + [(0, 1)] * (most - len(own)) for own in spans]


def _entities_added(
    memory: EntityMemoryModel, lower: Tensor, spans: list[list[tuple[int, int]]]
) -> tuple[list[list[tuple[int, int]]], Tensor | None, Tensor]:
    """The terms, their logits over all entities, and (n, s, hidden) what is added to the states of tokens."""
    added = torch.zeros_like(lower)
    if not spans[0]:
        return spans, None, added
    bounds = torch.tensor(spans, device=lower.device)  # (n, m, 2)
    texts = torch.arange(len(spans), device=lower.device)[:, None]
    pairs = torch.cat([lower[texts, bounds[..., 0]], lower[texts, bounds[..., 1] - 1]], -1)
    linking = memory.projection(pairs) @ memory.vectors.T
    best, rows = linking.topk(min(memory.config.candidates, len(memory.vectors)), -1)
    entities = memory.to_hidden((best.softmax(-1)[..., None] * memory.vectors[rows]).sum(-2))
    width = lower.shape[1]
    source = np.full((len(spans), width), -1)  # which term a token gets: the last that writes there
    for text, own in enumerate(spans):
        for number, (start, end) in enumerate(own):
            source[text, start : end + 1] = number
    at = torch.from_numpy(source).to(lower.device)
    picked = entities.gather(1, at.clamp(min=0)[..., None].expand(-1, -1, entities.shape[-1]))
    return spans, linking, torch.where((at >= 0)[..., None], picked, added)


def _losses(
    memory: EntityMemoryModel, batch: OriginalBatch, detection: Tensor, linking: Tensor | None, predictions: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The losses of detection, linking and the language model, as far as there are labels."""
    detection_loss = linking_loss = language_loss = None
    if batch.detection is not None:
        active = batch.detection.masked_fill(batch.mask != 1, _NO_LABEL)
        detection_loss = F.cross_entropy(detection.flatten(0, 1), active.flatten())
    if batch.entities is not None and linking is not None:
        gold = batch.entities[:, : memory.config.max_mentions]
        linking_loss = F.cross_entropy(linking.flatten(0, 1), gold.flatten())
    if batch.masked is not None:
        language_loss = F.cross_entropy(predictions.flatten(0, 1), batch.masked.flatten())
    return detection_loss, linking_loss, language_loss


def rename_original(name: str, context_layers: int) -> str | None:
    """The name of one of the original's weights here; None for a copy of another one.

    Args:
        name: Its name in the original's state dict.
        context_layers: Layers below the memory.

    Raises:
        DataError: The original has no such weight.
    """
    if name in _COPIES:
        return None
    if name.startswith(_UPPER):
        number, _, rest = name.removeprefix(_UPPER).partition(".")
        return f"encoder.transformer.encoder.layer.{int(number) + context_layers}.{rest}"
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise DataError(f"expected the weights of a KebioForPreTraining, found '{name}'")


def read_entities(path: Path | str) -> pa.Table:
    """Read `entity.jsonl` as ENTITIES_SCHEMA: one line for each row of the table of entities, the reserved ones among them.

    Args:
        path: The file, whose lines are {"entity_name": …, "id": row}.

    Raises:
        DataError: A line is another thing, a row or name occurs twice, rows are missing, or the reserved ones are.
    """
    rows: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            entry = json.loads(line)
            name, row = entry["entity_name"], entry["id"]
        except (ValueError, KeyError, TypeError):
            name = row = None
        if not isinstance(name, str) or type(row) is not int or row < 0:
            raise DataError(f'{path}:{number}: expected {{"entity_name": "C0000005", "id": 3}}, found {line[:80]}')
        if row in rows:
            raise DataError(f"{path}:{number}: expected each id once, found {row} of '{rows[row]}' and '{name}'")
        rows[row] = name
    names = [rows.get(row, "") for row in range(max(rows, default=-1) + 1)]
    if "" in names:
        raise DataError(f"{path}: expected the ids 0 to {len(names) - 1:,}, found none {names.index('')}")
    if names[:1] != [RESERVED[0]] or not set(RESERVED) <= set(names):
        raise DataError(f"{path}: expected {', '.join(RESERVED)} among the entities, the first with id 0; found others")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: expected each name once, found '{twice}' again")
    return pa.table({"concept_id": names, "preferred_name": names}, ENTITIES_SCHEMA)


def memory_from_original(
    state: dict[str, Tensor], config: dict[str, object], entities: pa.Table, encoder: Encoder | None = None
) -> EntityMemoryModel:
    """A memory with the original's weights.

    Args:
        state: The state dict of a KebioForPreTraining.
        config: Its configuration.
        entities: ENTITIES_SCHEMA, a row for each entity.
        encoder: Its tokenizer and an encoder of its shape; None for one without tokenizer.

    Raises:
        DataError: Weights are missing, are of another shape, or there are others.
    """
    if encoder is None:
        encoder = _empty_encoder(config)
    vectors = state["bert.entity_linker.entity_embeddings.weight"].float().numpy()
    size = vectors.shape[1]
    if entities.num_rows != len(vectors):
        raise DataError(f"expected {len(vectors):,} entities, one for each vector; found {entities.num_rows:,}")
    none = np.zeros(0, np.float32)
    table = EntityTable(entities, vectors, none, none, None, None)
    below = int(str(config["num_context_layers"]))
    sizes = MemoryConfig(
        entity_size=size,
        context_layers=below,
        candidates=int(str(config["max_candidate_entities"])),
        max_tokens=int(str(config["max_position_embeddings"])),
        as_original=True,
        max_mentions=int(str(config["max_mentions"])),
    )
    memory = EntityMemoryModel(encoder, table, sizes)
    renamed = {new: value for old, value in state.items() if (new := rename_original(old, below)) is not None}
    try:
        missing = memory.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise DataError(
            f"expected the shapes of the configuration; found others: {str(error).splitlines()[-1].strip()}"
        ) from None
    lacking = [name for name in missing.missing_keys if not name.endswith("position_ids")]
    if lacking or missing.unexpected_keys:
        raise DataError(
            f"expected the weights of a KebioForPreTraining, found no {(lacking or missing.unexpected_keys)[0]}"
        )
    return memory.eval()


def _empty_encoder(config: dict[str, object], tokenizer: object = None) -> Encoder:
    known = {
        name: value
        for name, value in config.items()
        if name not in ("architectures", "torch_dtype", "transformers_version")
    }
    bert = BertConfig(**known)
    bert._attn_implementation = "eager"  # the original's
    model = BertModel(bert, add_pooling_layer=False)
    return Encoder(model, tokenizer, EncoderConfig("cls", policy=TextPolicy("cased", "none")))


def open_original(folder: Path | str, entity_file: Path | str) -> EntityMemoryModel:
    """Open a model that the original code saved, for pretraining.

    Args:
        folder: config.json, the tokenizer, and pytorch_model.bin or model.safetensors.
        entity_file: Its `entity.jsonl`.

    Raises:
        ArtifactError: A file is missing.
        DataError: The weights or the entities are other than those of the configuration.
    """
    folder = Path(folder)
    for name in ("config.json", "vocab.txt"):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: expected a folder of KeBioLM, found no {name} in it. Is the path right?")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "num_context_layers" not in config:
        raise ArtifactError(f"{folder / 'config.json'}: expected num_context_layers of a KebioConfig, found none")
    entities, weights = read_entities(entity_file), folder
    if has_pickled_weights_only(folder):
        weights = converted(folder, sha256_of(folder / "pytorch_model.bin"))
    files = sorted(weights.glob("*.safetensors"))
    if not files:
        raise ArtifactError(
            f"{folder}: expected weights as pytorch_model.bin or .safetensors, found none. Is the download complete?"
        )
    state = {name: value for file in files for name, value in load_file(file).items()}
    encoder = _empty_encoder(config, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    return memory_from_original(state, config, entities, encoder)
