"""An entity memory: a language model that finds the terms of a text, links them to the concepts of an index, and uses these in its upper layers.

KeBioLM (Yuan et al., BioNLP 2021): the lower layers of an encoder; a head that marks the tokens of terms; for each term its first and last state,
projected and compared with a vector for every entity; the entities' vectors, weighted by a softmax over the most similar ones, are added to the
term's tokens; the upper layers follow. Here the entities' vectors come from an index (`EntityTable`) and are not trained, so that another index
can take its place. The original's faults are corrected: exactly the tokens of a term are changed, no term of another text has any effect, and
there is no padding, for texts are computed packed (`packed_layers`). `as_original` keeps them, to run the original's weights (`memory_original`).
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xsap.artifacts import manifest_hash, open_artifact, publish
from xsap.encoding.encoder import Encoder
from xsap.encoding.packed_layers import Between, can_pack, packed_states
from xsap.encoding.packing import PackedBatch, Tokens, Transformer
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.index import Index
from xsap.linking.index_files import UNREADABLE
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import TokenSpans, WordPieces, decode_spans, whole_words, word_pieces

MEMORY_KIND = "memory"
NIL = -1  # the row of "no entity of the table"
_HEADS_FILE, _ENCODER_FOLDER = "heads.safetensors", "encoder"
_ENTITIES_PER_PART = 1 << 16
_INITIAL_SCALE = 20.0  # of cosines, before the softmax over entities


@dataclass(frozen=True)
class MemoryConfig:
    """The size of a memory.

    Attributes:
        entity_size: Components of an entity's vector.
        context_layers: Layers below the memory; by default two thirds of the encoder's, as in the original.
        candidates: Entities whose vectors are added to a term's tokens, the most similar ones.
        max_tokens: Tokens of a window of a text, special tokens included.
        as_original: Whether the original's faults are kept.
        max_mentions: Terms of a text that the original links; others are ignored.
    """

    entity_size: int = 100
    context_layers: int | None = None
    candidates: int = 100
    max_tokens: int = 256
    as_original: bool = False
    max_mentions: int = 15


class SpanPositions(NamedTuple):
    """m spans in a packed batch.

    Attributes:
        first: (m,) position of each span's first token, counted over all rows.
        last: (m,) position of its last token.
        tokens: (k,) positions of all tokens of spans.
        spans: (k,) which span each of them belongs to.
    """

    first: Tensor
    last: Tensor
    tokens: Tensor
    spans: Tensor

    def to(self, device: torch.device) -> "SpanPositions":
        """The same spans on a device."""
        return SpanPositions(*(part.to(device, non_blocking=True) for part in self))


class MemoryOutput(NamedTuple):
    """What a memory computes of a packed batch of n texts with m spans.

    Attributes:
        states: (r, s, hidden) states of the last layer.
        detection: (r, s, 3) logits of OUTSIDE, BEGIN and INSIDE.
        spans: The spans whose tokens were changed.
        queries: (m, size) projected span states, of unit length.
        candidates: (m, c) rows of the most similar entities; the last one is NIL.
        weights: (m, c) their softmax.
        lower: (r, s, hidden) states below the memory.
    """

    states: Tensor
    detection: Tensor
    spans: SpanPositions
    queries: Tensor
    candidates: Tensor
    weights: Tensor
    lower: Tensor


class EntityMemoryModel(nn.Module):
    """An encoder with an entity memory between two of its layers.

    Attributes:
        encoder: Tokenizer and transformer.
        table: The entities.
        config: Sizes.
        vectors: (entities, size) of the table; trained only as_original.
        detector: (hidden → 3) head that marks the tokens of terms.
        projection: (2 · hidden → size) of the first and last state of a span.
        to_hidden: (size → hidden) of what is added to a span's tokens.
        norm: Over the states that the upper layers get.
        language_head: Predicts masked tokens.
        feedback: Whether entities are added to the tokens of spans; off, the model is the same without its memory.
        content_hash: SHA-256 over its folder; None if it was never saved.
    """

    vectors: Tensor

    def __init__(self, encoder: Encoder, table: EntityTable, config: MemoryConfig, *, seed: int = 0) -> None:
        """Add an untrained memory to an encoder.

        Args:
            encoder: The encoder, whose transformer is used as it is, not copied.
            table: The entities.
            config: Sizes; `context_layers` None stands for two thirds of the layers.
            seed: Of the new weights.

        Raises:
            ConfigError: The encoder's architecture can't be computed packed, or it has too few layers.
        """
        super().__init__()
        transformer = encoder.transformer
        if not can_pack(transformer) or encoder.dtype == "int8":
            found = "an int8 encoder" if encoder.dtype == "int8" else f"a model of type {transformer.config.model_type}"
            raise ConfigError(
                f"an entity memory needs BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT, MPNet or ModernBERT, in float32; found {found}"
            )
        layers = int(transformer.config.num_hidden_layers)
        below = max(1, 2 * layers // 3) if config.context_layers is None else config.context_layers
        if not 1 <= below < layers:
            raise ConfigError(
                f"context_layers must be from 1 to {layers - 1}, below the model's {layers} layers; found {below}"
            )
        self.encoder, self.config = encoder, replace(config, context_layers=below)
        self.table, self.feedback = table, True
        self.content_hash: str | None = None
        self._words: WordPieces | None = None
        hidden, size = int(transformer.config.hidden_size), config.entity_size
        epsilon = float(getattr(transformer.config, "layer_norm_eps", None) or 1e-12)
        self.detector, self.projection = nn.Linear(hidden, 3), nn.Linear(2 * hidden, size)
        self.to_hidden, self.norm = nn.Linear(size, hidden), nn.LayerNorm(hidden, eps=epsilon)
        self.language_head = LanguageHead(hidden, transformer, epsilon)
        if config.as_original:
            self.vectors = nn.Parameter(torch.from_numpy(table.vectors.copy()))
        else:
            self.register_buffer("vectors", torch.from_numpy(table.vectors), persistent=False)
            self.nil = nn.Parameter(torch.zeros(size))
            self.log_scale = nn.Parameter(torch.tensor(math.log(_INITIAL_SCALE)))
        self._draw_weights(seed)

    def _draw_weights(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in self._heads().values():
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02, generator=generator)
                    nn.init.zeros_(layer.bias)
        if not self.config.as_original:
            nn.init.normal_(self.nil, generator=generator)
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """Weights of `norm` with which it hardly changes the output of a layer that ends with a norm of its own."""
        below = self.config.context_layers or 1
        norms = [
            module
            for name, module in self.encoder.transformer.named_modules()
            if isinstance(module, nn.LayerNorm) and f".{below - 1}." in name
        ]
        if norms and self.encoder.transformer.config.model_type != "modernbert":  # whose norms come first
            weight, bias = norms[-1].weight, norms[-1].bias
            self.norm.weight.fill_(float((weight.square().mean() + bias.var()).sqrt()))
            self.norm.bias.fill_(float(bias.mean()))

    def _heads(self) -> dict[str, nn.Module]:
        names = ("detector", "projection", "to_hidden", "norm", "language_head")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"EntityMemoryModel({self.encoder!r}, {len(self.vectors):,} entities, {self.config})"

    def forward(self, batch: PackedBatch, spans: SpanPositions | None = None) -> MemoryOutput:
        """Compute a batch of texts.

        Args:
            batch: The packed windows, on the model's device.
            spans: The spans whose tokens are changed; None for those that the model detects.

        Returns:
            The output. What it has of a text does not depend on the other texts, but for rounding.
        """
        seen: dict[str, Any] = {}

        def remember(lower: Tensor) -> Tensor:
            seen["lower"], seen["detection"] = lower, self.detector(lower)
            flat = lower.flatten(0, 1)
            seen["spans"] = found = self._detected(batch, seen["detection"]) if spans is None else spans
            pairs = torch.cat([flat[found.first], flat[found.last]], -1)
            seen["queries"] = F.normalize(self.projection(pairs).to(self.vectors.dtype), dim=-1)
            seen["candidates"], logits = self.most_similar(seen["queries"])
            seen["weights"] = logits.softmax(-1)
            if self.feedback and len(found.first):
                added = self.to_hidden(self._weighted(seen["candidates"], seen["weights"]))
                flat = flat.index_add(0, found.tokens, added[found.spans].to(flat.dtype))
            normed: Tensor = self.norm(flat.view_as(lower))
            return normed

        below = self.config.context_layers
        assert below is not None
        states = packed_states(self.encoder.transformer, batch, Between(below, remember))
        return MemoryOutput(states=states, **seen)

    def _detected(self, batch: PackedBatch, detection: Tensor) -> SpanPositions:
        spans = self.detected_spans(batch, detection)
        return locate_spans(batch, spans).to(detection.device)

    def detected_spans(self, batch: PackedBatch, detection: Tensor) -> TokenSpans:
        """The spans of the most probable label of each word's first token.

        Args:
            batch: n packed windows.
            detection: (r, s, 3) logits.
        """
        labels = detection.detach().argmax(-1).flatten().cpu().numpy()
        starts, lengths = batch.starts.cpu().numpy(), batch.lengths.cpu().numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        labels, ids = labels[at], batch.ids.flatten().cpu().numpy()[at]
        if self._words is None and self.encoder.tokenizer is not None:
            self._words = word_pieces(self.encoder.tokenizer)
        if self._words is not None:
            labels = whole_words(labels, ids, self._words)
        return decode_spans(labels, Tokens(ids.astype(np.int32), offsets))

    def most_similar(self, queries: Tensor, *, entities_per_part: int = _ENTITIES_PER_PART) -> tuple[Tensor, Tensor]:
        """The entities that are most similar to spans, found in parts of the table, and NIL.

        Args:
            queries: (m, size) projected span states.
            entities_per_part: Entities that are compared at a time, which bounds memory.

        Returns:
            (m, c) rows, the most similar first and NIL last; and (m, c) their logits, with a gradient.
        """
        count = min(self.config.candidates, len(self.vectors))
        with torch.no_grad():
            best = queries.new_zeros(len(queries), 0)
            rows = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
            for start in range(0, len(self.vectors), entities_per_part):
                scores = queries @ self.vectors[start : start + entities_per_part].T
                found, at = scores.topk(min(count, scores.shape[1]))
                best, order = torch.cat([best, found], 1).topk(min(count, best.shape[1] + found.shape[1]))
                rows = torch.cat([rows, at + start], 1).gather(1, order)
        logits = (queries[:, None] * self.vectors[rows]).sum(-1)
        nil = queries @ F.normalize(self.nil, dim=0)
        rows = F.pad(rows, (0, 1), value=NIL)
        return rows, torch.cat([logits, nil[:, None]], 1) * self.log_scale.exp()

    def logits_of(self, queries: Tensor, rows: Tensor) -> Tensor:
        """(m, c) logits of the entities at `rows`, (c,), for every query, (m, size); NIL has one too."""
        table = torch.where((rows == NIL)[:, None], F.normalize(self.nil, dim=0), self.vectors[rows.clamp(min=0)])
        return queries @ table.T * self.log_scale.exp()

    def _weighted(self, candidates: Tensor, weights: Tensor) -> Tensor:
        """(m, size) mean of the candidates' vectors by their weights."""
        known = (weights[:, :-1, None] * self.vectors[candidates[:, :-1]]).sum(1)
        return known + weights[:, -1:] * F.normalize(self.nil, dim=0)

    def with_index(self, index: Index) -> "EntityMemoryModel":
        """The same model, sharing its weights, with the concepts of another index; nothing is trained.

        Args:
            index: An index of the encoder that the first one was built with.

        Raises:
            ConfigError: The index was built with another encoder, or the memory is one of the original code, whose entities are trained.
        """
        other = EntityMemoryModel(self.encoder, self.table.with_index(index), self.config)
        other.load_state_dict(self.state_dict())
        for name, module in self._heads().items():
            setattr(other, name, module)
        other.nil, other.log_scale, other.feedback = self.nil, self.log_scale, self.feedback
        return other.to(self.vectors.device).train(self.training)

    def save(self, path: Path | str, *, overwrite: bool = False, metadata: dict[str, Any] | None = None) -> None:
        """Write the memory's folder, whole or not at all: encoder, heads and entities.

        Args:
            path: The folder.
            overwrite: Whether to replace a memory that is there.
            metadata: Further keys of the manifest.

        Raises:
            ArtifactError: `path` exists and may not be replaced.
        """
        stated = (
            {"config": asdict(self.config), "feedback": self.feedback}
            | self.table.metadata(Path(path))
            | (metadata or {})
        )
        with publish(path, MEMORY_KIND, stated, overwrite=overwrite) as folder:
            self.encoder.save_pretrained(folder / _ENCODER_FOLDER)
            weights = {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}
            save_file({name: value.contiguous() for name, value in weights.items()}, folder / _HEADS_FILE)
            self.table.write(folder)

    @classmethod
    def load(cls, path: Path | str, *, device: str | torch.device | None = None) -> "EntityMemoryModel":
        """Open a memory's folder, every hash checked.

        Args:
            path: The folder.
            device: Where to compute; by default CUDA if available, else the CPU.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        path = Path(path)
        manifest = open_artifact(path, MEMORY_KIND)
        encoder = Encoder.from_pretrained(path / _ENCODER_FOLDER, device=device)
        try:
            table = EntityTable.read(path, manifest)
            memory = cls(encoder, table, MemoryConfig(**manifest["config"]))
            memory.feedback = bool(manifest["feedback"])
            weights = load_file(path / _HEADS_FILE)
            own = {name for name in memory.state_dict() if not name.startswith("encoder.")}
            sound = weights.keys() == own
            memory.load_state_dict(weights, strict=False)
        except (*UNREADABLE, RuntimeError):
            sound = False
        if not sound:
            raise ArtifactError(f"{path}: its files and manifest don't fit together; it is damaged; create it again")
        memory.content_hash = manifest_hash(manifest)
        return memory.to(next(encoder.parameters()).device).eval()


class LanguageHead(nn.Module):
    """Predicts masked tokens from states, with the embeddings of the transformer, as BERT does.

    Attributes:
        dense: (hidden → width of the embeddings).
        norm: Of its output.
        bias: (pieces,) of each token.
    """

    def __init__(self, hidden: int, transformer: Transformer, epsilon: float) -> None:
        super().__init__()
        embeddings = transformer.get_input_embeddings().weight
        self.dense, self.norm = nn.Linear(hidden, embeddings.shape[1]), nn.LayerNorm(embeddings.shape[1], eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(len(embeddings)))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """(…, hidden) states and (pieces, width) embeddings → (…, pieces) logits."""
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)


def locate_spans(batch: PackedBatch, spans: TokenSpans) -> SpanPositions:
    """Where spans of n windows are in their packed batch.

    Args:
        batch: The windows.
        spans: The spans, m in all.
    """
    starts = batch.starts.cpu()[torch.from_numpy(spans.texts)]
    first, after = starts + torch.from_numpy(spans.starts), starts + torch.from_numpy(spans.ends)
    lengths = after - first
    owner = torch.repeat_interleave(torch.arange(len(first)), lengths)
    within = torch.arange(len(owner)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return SpanPositions(first, after - 1, first[owner] + within, owner)
