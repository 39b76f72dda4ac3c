"""Transformers on packed names: rows that hold several names each, computed without padding.

Embeddings, norms and linear layers see the rows as they are; an attention mask keeps names from attending to one
another, and positions start anew with each name. Where only [CLS] is wanted, the last layer is computed for it alone.
The layers are those of the Hugging Face model itself, so its weights, its `state_dict` and its `save_pretrained` are
untouched.

BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT and MPNet have the same layer under different names: attention,
residual and norm, two linear layers, residual and norm. MPNet adds a bias to the attention scores, by distance.
ModernBERT's norms come first, its positions are rotations of queries and keys, and most of its layers attend only to
near tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xsap.encoding.packing import PackedBatch, PrefixPlaces, Transformer


class _Layer(NamedTuple):
    """The parts of a layer whose norms come last, under the same names for all architectures."""

    query: Transformer
    key: Transformer
    value: Transformer
    heads: int
    weight_dropout: Transformer
    attention_out: Transformer
    attention_dropout: Transformer
    attention_norm: Transformer
    intermediate: Callable[[Tensor], Tensor]
    out: Transformer
    out_dropout: Transformer
    norm: Transformer


class _Visible(NamedTuple):
    """What queries may attend to.

    Attributes:
        own: (r, 1, s, s) bool: for each position of a row, the positions that it attends to; or (r, 1, q, s), for each
            name's first token.
        bias: (r, heads, s or 1, s), added to the attention scores; None for most models.
        first: The batch if the queries are its names' first tokens; None if they are all positions.
    """

    own: Tensor
    bias: Tensor | None = None
    first: PackedBatch | None = None


class _Part(NamedTuple):
    """Queries that attend to keys of their own, of a batch whose names have prefixes.

    Attributes:
        queries: (m, q) positions of the queries, counted over all rows.
        real: Which of the m · q there are.
        keys: (m, k) positions of the keys.
        own: (m, 1, q or 1, k) bool: which of the keys each query attends to.
        bias: (m, heads, q, k), added to the attention scores; None for most models.
    """

    queries: Tensor
    real: Tensor
    keys: Tensor
    own: Tensor
    bias: Tensor | None = None


class _Parts(NamedTuple):
    """What queries may attend to in such a batch: prefixes to themselves, names to their prefix and themselves.

    Attributes:
        parts: Prefixes and names; the names' first tokens alone, if the queries are these.
        first: As for `_Visible`.
    """

    parts: tuple[_Part, ...]
    first: PackedBatch | None = None


class Between(NamedTuple):
    """A change of the states between two layers, such as what an entity memory adds to them.

    Attributes:
        layers: How many layers lie below it; at least 0 and fewer than the model has.
        change: (r, s, hidden) → (r, s, hidden).
    """

    layers: int
    change: Callable[[Tensor], Tensor]


def can_pack(model: Transformer) -> bool:
    """Whether `packed_states` supports the model's architecture; others take `padded_states`."""
    config = model.config
    kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
    return config.model_type in _ARCHITECTURES and kind == "absolute" and not getattr(config, "is_decoder", False)


def packed_states(model: Transformer, batch: PackedBatch, between: Between | None = None) -> Tensor:
    """Run a batch through the model.

    Args:
        model: A Hugging Face model for which `can_pack` holds.
        batch: n names in r rows of s positions.
        between: Changes the states between two layers.

    Returns:
        (r, s, hidden): the last layer's state at each position.
    """
    return _ARCHITECTURES[model.config.model_type](model, batch, False, between)


def packed_first(model: Transformer, batch: PackedBatch, between: Between | None = None) -> Tensor:
    """[CLS] pooling: the last layer's state of each name's first token; that layer is computed for these tokens alone.

    Args:
        model: A Hugging Face model for which `can_pack` holds.
        batch: n names.
        between: Changes the states between two layers.

    Returns:
        (n, hidden), in the order that the names were given in.
    """
    return _ARCHITECTURES[model.config.model_type](model, batch, True, between)


def packed_mean(model: Transformer, batch: PackedBatch) -> Tensor:
    """Mean pooling: the mean state over each name's tokens, special ones included.

    Args:
        model: A Hugging Face model for which `can_pack` holds.
        batch: n names.

    Returns:
        (n, hidden), in the order that the names were given in.
    """
    states = packed_states(model, batch)
    own = torch.arange(batch.q, device=states.device)[:, None] == batch.segment_ids[:, None, :]
    sums = (own.to(states.dtype) @ states).flatten(0, 1)[batch.slots]
    return sums / batch.lengths[:, None]


def _bert(model: Transformer, batch: PackedBatch, only_first: bool, between: Between | None) -> Tensor:
    """BERT and ELECTRA, whose positions start at 0."""
    states = _embed(model.embeddings, batch, 0)
    if hasattr(model, "embeddings_project"):  # a small ELECTRA, whose embeddings are narrower than its layers
        states = model.embeddings_project(states)
    return _norms_last([_bert_layer(layer) for layer in model.encoder.layer], states, batch, only_first, between)


def _roberta(model: Transformer, batch: PackedBatch, only_first: bool, between: Between | None) -> Tensor:
    states = _embed(model.embeddings, batch, model.embeddings.position_embeddings.padding_idx + 1)
    return _norms_last([_bert_layer(layer) for layer in model.encoder.layer], states, batch, only_first, between)


def _mpnet(model: Transformer, batch: PackedBatch, only_first: bool, between: Between | None) -> Tensor:
    states = _embed(model.embeddings, batch, model.embeddings.position_embeddings.padding_idx + 1)
    layers = [_mpnet_layer(layer) for layer in model.encoder.layer]
    # by distance, for all distances within a name
    reach = batch.longest - 1
    buckets = model.encoder.relative_position_bucket(torch.arange(-reach, reach + 1, device=states.device))
    biases = model.encoder.relative_attention_bias(buckets)

    def bias(distances: Tensor) -> Tensor:
        return F.embedding(distances + reach, biases).movedim(-1, 1).contiguous()

    return _norms_last(layers, states, batch, only_first, between, bias)


def _distilbert(model: Transformer, batch: PackedBatch, only_first: bool, between: Between | None) -> Tensor:
    states = _embed(model.embeddings, batch, 0)
    layers = [_distilbert_layer(layer) for layer in model.transformer.layer]
    return _norms_last(layers, states, batch, only_first, between)


def _modernbert(model: Transformer, batch: PackedBatch, only_first: bool, between: Between | None) -> Tensor:
    embeddings, window = model.embeddings, model.config.local_attention // 2
    states = _dropout(embeddings.norm(embeddings.tok_embeddings(batch.ids)), _rate(embeddings.drop))
    kinds = {layer.attention_type: None for layer in model.layers}
    rotations = {kind: model.rotary_emb(states, batch.position_ids, kind) for kind in kinds}
    visible = {kind: _visible(batch, False, window=window if kind == "sliding_attention" else None) for kind in kinds}
    *layers, last = model.layers
    for number, layer in enumerate(layers):
        states = _changed(states, number, between)
        states = _modernbert_layer(layer, states, rotations[layer.attention_type], visible[layer.attention_type])
    states, kind = _changed(states, len(layers), between), last.attention_type
    view = visible[kind]
    if only_first:
        view = _visible(batch, True, window=window if kind == "sliding_attention" else None)
    normed: Tensor = model.final_norm(_modernbert_layer(last, states, rotations[kind], view))
    return normed


_ARCHITECTURES: dict[str, Callable[[Transformer, PackedBatch, bool, Between | None], Tensor]] = {
    "bert": _bert,
    "electra": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "mpnet": _mpnet,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}


def _embed(embeddings: Transformer, batch: PackedBatch, first_position: int) -> Tensor:
    states = embeddings.word_embeddings(batch.ids)
    if hasattr(embeddings, "token_type_embeddings"):
        states = states + embeddings.token_type_embeddings.weight[0]
    states = states + embeddings.position_embeddings(batch.position_ids + first_position)
    return _dropout(embeddings.LayerNorm(states), _rate(embeddings.dropout))


def _bert_layer(layer: Transformer) -> _Layer:
    attention, attended, out = layer.attention.self, layer.attention.output, layer.output
    return _Layer(
        *(attention.query, attention.key, attention.value, attention.num_attention_heads, attention.dropout),
        *(attended.dense, attended.dropout, attended.LayerNorm),
        *(layer.intermediate, out.dense, out.dropout, out.LayerNorm),
    )


def _mpnet_layer(layer: Transformer) -> _Layer:
    attention, attended, out = layer.attention.attn, layer.attention, layer.output
    return _Layer(
        *(attention.q, attention.k, attention.v, attention.num_attention_heads, attention.dropout),
        *(attention.o, attended.dropout, attended.LayerNorm),
        *(layer.intermediate, out.dense, out.dropout, out.LayerNorm),
    )


def _distilbert_layer(layer: Transformer) -> _Layer:
    attention, ffn = layer.attention, layer.ffn
    return _Layer(
        *(attention.q_lin, attention.k_lin, attention.v_lin, attention.n_heads, attention.dropout),
        *(attention.out_lin, None, layer.sa_layer_norm),
        *(lambda states: ffn.activation(ffn.lin1(states)), ffn.lin2, ffn.dropout, layer.output_layer_norm),
    )


def _norms_last(
    layers: list[_Layer],
    states: Tensor,
    batch: PackedBatch,
    only_first: bool,
    between: Between | None,
    bias: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """All layers of a model whose norms come last.

    Args:
        layers: The layers.
        states: (r, s, hidden) embeddings.
        batch: n names in r rows of s positions.
        only_first: Whether only the names' first tokens are wanted.
        between: Changes the states between two layers.
        bias: What is added to the attention scores, by the distances of keys from queries.

    Returns:
        (r, s, hidden), or (n, hidden) of the first tokens.
    """
    *others, last = layers
    if others or not only_first:
        visible = _visible(batch, False, bias)
        for number, layer in enumerate(others):
            states = _changed(states, number, between)
            states = _norms_last_layer(layer, states, visible)
    if only_first:
        visible = _visible(batch, True, bias)
    return _norms_last_layer(last, _changed(states, len(others), between), visible)


def _changed(states: Tensor, layers: int, between: Between | None) -> Tensor:
    """The states after this many layers, changed if it is there that they are to change."""
    return between.change(states) if between is not None and between.layers == layers else states


def _norms_last_layer(layer: _Layer, states: Tensor, visible: _Visible | _Parts) -> Tensor:
    """(r, s, hidden) → the same, or (n, hidden) of the names' first tokens."""
    queries = states if visible.first is None else states.flatten(0, 1)[visible.first.starts]
    query, key, value = (
        linear(inputs).unflatten(-1, (layer.heads, -1))
        for linear, inputs in ((layer.query, queries), (layer.key, states), (layer.value, states))
    )
    attended = layer.attention_out(_attend(query, key, value, visible, _rate(layer.weight_dropout)))
    attended = layer.attention_norm(_dropout(attended, _rate(layer.attention_dropout)) + queries)
    out = layer.out(layer.intermediate(attended))
    added: Tensor = layer.norm(_dropout(out, _rate(layer.out_dropout)) + attended)
    return added


def _modernbert_layer(
    layer: Transformer, states: Tensor, rotation: tuple[Tensor, Tensor], visible: _Visible | _Parts
) -> Tensor:
    """(r, s, hidden) → the same, or (n, hidden) of the names' first tokens. rotation: (r, s, head size) cosines and sines."""
    attention, mlp = layer.attn, layer.mlp
    parts = attention.Wqkv(layer.attn_norm(states)).unflatten(-1, (3, -1, attention.head_dim))
    query, key, value = parts.unbind(2)
    query, key = _rotate(query, *rotation), _rotate(key, *rotation)
    if visible.first is not None:
        query, states = (part.flatten(0, 1)[visible.first.starts] for part in (query, states))
    attended = _attend(query, key, value, visible, attention.attention_dropout if attention.training else 0.0)
    states = states + _dropout(attention.Wo(attended), _rate(attention.out_drop))
    inner, gate = mlp.Wi(layer.mlp_norm(states)).chunk(2, -1)
    out: Tensor = states + mlp.Wo(_dropout(mlp.act(inner) * gate, _rate(mlp.drop)))
    return out


def _rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of (r, s, heads, size) by (r, s, size); component i is paired with i + size / 2."""
    left, right = states.float().chunk(2, -1)
    turned = torch.cat([-right, left], -1) * sines[:, :, None]
    return (states.float() * cosines[:, :, None] + turned).to(states.dtype)


def _distances(batch: PackedBatch, first: bool) -> Tensor:
    """(r, s, s): key's position minus query's, each within its name; (r, 1, s) where the queries are first tokens."""
    keys = batch.position_ids[:, None, :]
    return keys if first else keys - batch.position_ids[:, :, None]


def _visible(
    batch: PackedBatch, first: bool, bias: Callable[[Tensor], Tensor] | None = None, window: int | None = None
) -> _Visible | _Parts:
    """Queries attend to their own name and its prefix, and there to tokens at most `window` positions away.

    Args:
        batch: n names in r rows of s positions.
        first: Whether the queries are the names' first tokens instead of all positions.
        bias: What is added to the attention scores, by the distances of keys from queries.
        window: The largest distance; None for any.
    """
    if batch.places is not None:
        return _visible_parts(batch, batch.places, first, bias, window)
    queries = torch.arange(batch.q, device=batch.ids.device)[:, None] if first else batch.segment_ids[:, None, :, None]
    own = queries == batch.segment_ids[:, None, None, :]
    if window is not None and batch.longest > window + 1:
        own = own & (_distances(batch, first).abs() <= window)[:, None]
    return _Visible(own, bias and bias(_distances(batch, first)), batch if first else None)


def _visible_parts(
    batch: PackedBatch,
    places: PrefixPlaces,
    first: bool,
    bias: Callable[[Tensor], Tensor] | None,
    window: int | None,
) -> _Parts:
    """`_visible` of a batch whose names have prefixes: each query is compared with the keys that it attends to and with no others."""
    positions = batch.position_ids.flatten()

    def part(queries: Tensor, is_query: Tensor, keys: Tensor, is_key: Tensor) -> _Part:
        distances, own = positions[keys][:, None, :] - positions[queries][:, :, None], is_key[:, None, None, :]
        if window is not None and batch.longest > window + 1:
            own = own & (distances.abs() <= window)[:, None]
            own = own | ~is_query[:, None, :, None]  # where there is no query, something must be attended to
        return _Part(queries, is_query.flatten().nonzero()[:, 0], keys, own, bias and bias(distances))

    if first:
        starts = batch.starts[:, None]
        return _Parts((part(starts, torch.ones_like(starts, dtype=torch.bool), places.keys, places.is_key),), batch)
    prefixes = part(places.prefixes, places.is_prefix, places.prefixes, places.is_prefix)
    return _Parts((prefixes, part(places.texts, places.is_text, places.keys, places.is_key)))


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: _Visible | _Parts, rate: float) -> Tensor:
    """Multi-head attention within each name.

    Args:
        query: (r, s, heads, size); or (n, heads, size), the names' first tokens.
        key: (r, s, heads, size).
        value: (r, s, heads, size).
        visible: What the queries attend to.
        rate: Dropout of the attention weights, 0 outside training.

    Returns:
        (r, s, hidden), or (n, hidden).
    """
    if isinstance(visible, _Parts):
        return _attend_in_parts(query, key.flatten(0, 1), value.flatten(0, 1), visible, rate)
    own, bias, first = visible
    if first is not None:
        slots = query.new_zeros(own.shape[0] * first.q, *query.shape[1:]).index_copy(0, first.slots, query)
        query = slots.unflatten(0, (-1, first.q))
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    attended = _attention(query, key, value, own, bias, rate).transpose(1, 2).flatten(2)
    return attended if first is None else attended.flatten(0, 1)[first.slots]


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, visible: _Parts, rate: float) -> Tensor:
    """`_attend` of a batch whose names have prefixes. key, value: (r · s, heads, size)."""
    flat = query if visible.first is not None else query.flatten(0, 1)
    found = []
    for part in visible.parts:
        queries = flat[:, None] if visible.first is not None else _rows(flat, part.queries)
        queries, keys, values = (
            each.transpose(1, 2) for each in (queries, _rows(key, part.keys), _rows(value, part.keys))
        )
        attended = _attention(queries, keys, values, part.own, part.bias, rate).transpose(1, 2).flatten(2)
        found.append(_rows(attended.flatten(0, 1), part.real))
    joined: Tensor = torch.cat(found)  # prefixes and then names, as they are in their row
    return joined if visible.first is not None else joined.unflatten(0, query.shape[:2])


def _rows(table: Tensor, at: Tensor) -> Tensor:
    """`table[at]`, by a function whose backward pass is fast where rows are taken several times."""
    rows: Tensor = F.embedding(at, table.flatten(1)).unflatten(-1, table.shape[1:])
    return rows


def _attention(query: Tensor, key: Tensor, value: Tensor, own: Tensor, bias: Tensor | None, rate: float) -> Tensor:
    """Scaled dot-product attention within each name, (r, heads, s or q, size).

    Written out for training on a CPU, where the backward pass of torch's kernel is several times slower than these
    three products.
    """
    if query.is_cuda or not query.requires_grad:
        if bias is None:
            return F.scaled_dot_product_attention(query, key, value, own, rate)
        mask = bias.to(query.dtype).masked_fill(~own, torch.finfo(query.dtype).min)
        return F.scaled_dot_product_attention(query, key, value, mask, rate)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    weights = scores.masked_fill(~own, torch.finfo(scores.dtype).min).softmax(-1)
    attended: Tensor = _dropout(weights.to(value.dtype), rate) @ value
    return attended


def _rate(dropout: nn.Module | None) -> float:
    """A dropout layer's rate, 0 outside training; some models have no layer or an Identity in its place."""
    return dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


def _dropout(states: Tensor, rate: float) -> Tensor:
    """Dropout. On a CPU its rate is rounded to a multiple of 2⁻¹⁶ and one 64-bit random number serves four elements.

    torch draws one number per element there, which takes a tenth of a training step.
    """
    if states.is_cuda or not rate:
        return F.dropout(states, rate)
    bits = torch.empty(states.numel() + 3 >> 2, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: states.numel()].view(states.shape) >= round(rate * 2**16) - 2**15
    return states * kept.to(states.dtype).mul_(1 / (1 - rate))
