"""Vocabularies: train one for a new model, or cut an existing model's down to what a terminology needs.

XLM-R's 250,002 pieces serve a hundred languages of web text, and their embeddings are 192 of its 278 million
parameters. A terminology uses few of them. `from_scratch` trains a SentencePiece vocabulary on the terminology's own
names, for a small XLM-R with random weights that learns to link on a CPU in minutes. `shrink_to` removes the pieces
that no name has from an existing model (Abdaoui et al., "Load What You Need", 2020) and changes nothing else: a text
whose pieces are all kept, none of them unknown, gets the same pieces, and so the same vector. Why that holds:

- Unigram takes the best path through all matching pieces. With fewer pieces there are fewer paths, and the best one is
  still there. An unknown character costs ten more than the worst piece, so the worst piece is kept too.
- WordPiece takes the longest matching piece, again and again. With fewer pieces the longest is still the longest. But a
  word that could not be completed, and so was unknown, might now be: for such words in the names every matching piece
  is kept.
- BPE applies the first merge of its list that matches. All intermediate merges of a kept piece are kept, and of fewer
  merges the first one is still first.

Pieces of a single character or byte are all kept, so that other text is split into them rather than lost.
"""

import copy
import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel

from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import EncoderConfig, check_tokenizer, quiet
from xsap.encoding.packing import Tokens, tokenize_names
from xsap.errors import ConfigError, DataError
from xsap.text import normalize_all

Json = dict[str, Any]
_FIRST_PIECES = ["<s>", "<pad>", "</s>", "<unk>"]  # of XLM-R; its last is <mask>
_MAX_TRAINING_NAMES = 2_000_000  # a vocabulary does not improve with more; SentencePiece's memory grows with them
_NO_TRUNCATION = 1_000_000  # tokens: what lies beyond max_length in a name may lie within it in another text
_NAMES_PER_COMPARISON = 100_000
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's pieces for the bytes of unknown characters


def train_tokenizer(names: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerBase:
    """Train an XLM-R tokenizer: a SentencePiece unigram model (Kudo, ACL 2018). Equal input gives an equal tokenizer.

    Args:
        names: Normalized names.
        vocabulary_size: The largest number of pieces, special ones included; few names may give fewer.

    Raises:
        DataError: The names are too few for such a vocabulary.
    """
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(names),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocabulary_size - 2,  # XLM-R adds <pad> and <mask>
            character_coverage=0.9999,
            hard_vocab_limit=False,
            input_sentence_size=_MAX_TRAINING_NAMES,
            shuffle_input_sentence=len(names) > _MAX_TRAINING_NAMES,
            num_threads=1,  # with several, sums depend on their number
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(
            f"a vocabulary of {vocabulary_size:,} pieces can't be trained on {len(names):,} names: {error}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sentencepiece.bpe.model").write_bytes(written.getvalue())
        XLMRobertaConfig().save_pretrained(folder)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if tokenizer.convert_tokens_to_ids(_FIRST_PIECES) != [0, 1, 2, 3]:
        raise AssertionError("transformers has changed how it converts SentencePiece models")
    return tokenizer


def from_scratch(
    names: Sequence[str],
    config: EncoderConfig,
    *,
    vocabulary_size: int,
    layers: int,
    hidden: int,
    heads: int,
    dropout: float,
    seed: int,
) -> Encoder:
    """Make an XLM-R with random weights and a vocabulary of its own.

    Args:
        names: Names to train the vocabulary on, as a terminology has them.
        config: Pooling, maximum length and text policy.
        vocabulary_size: The largest number of pieces.
        layers: Transformer layers.
        hidden: Components of a state; feed-forward layers have 4 times as many, as in XLM-R.
        heads: Attention heads; must divide `hidden`.
        dropout: Dropout rate of layers and attention weights.
        seed: Seed of the random weights.

    Raises:
        ConfigError: `heads` does not divide `hidden`.
    """
    if hidden % heads:
        raise ConfigError(f"scratch.hidden must be a multiple of scratch.heads, found {hidden} and {heads}")
    tokenizer = train_tokenizer(normalize_all(names, config.policy), vocabulary_size)
    transformer_config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=config.max_length + 2,  # XLM-R's positions start at 2
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = XLMRobertaModel(transformer_config, add_pooling_layer=False)
    check_tokenizer(tokenizer, transformer, "the new tokenizer")
    return Encoder(transformer, tokenizer, config)


def shrink_to(encoder: Encoder, names: Sequence[str]) -> Encoder:
    """Make an encoder with only those pieces, and their embeddings, that names need.

    Pieces keep their order, and those up to the padding keep their ids, from which RoBERTa counts positions. All other
    weights are shared with `encoder`, not copied.

    Args:
        encoder: The original; it is not changed.
        names: Names as a terminology has them.

    Raises:
        ConfigError: The tokenizer is not Unigram, WordPiece or BPE, or has no tokenizer.json.
    """
    document = _tokenizer_json(encoder.tokenizer)
    kept = _kept_ids(encoder, document, [*encoder.prompts, *normalize_all(names, encoder.policy)])
    transformer = copy.deepcopy(
        encoder.transformer, {id(weights): weights for weights in encoder.transformer.parameters()}
    )
    table = transformer.get_input_embeddings()
    embeddings = nn.Embedding.from_pretrained(table.weight.detach()[kept], freeze=False, padding_idx=table.padding_idx)
    transformer.set_input_embeddings(embeddings)
    new_ids = {old: new for new, old in enumerate(kept)}
    for key, value in _special_ids(transformer.config).items():
        setattr(transformer.config, key, new_ids[value])
    transformer.config.vocab_size = len(kept)
    tokenizer = _rebuild(encoder.tokenizer, transformer.config, _cut(document, new_ids))
    smaller = Encoder(transformer, tokenizer, encoder.config, encoder.dense).train(encoder.training)
    smaller.dtype, smaller.provenance = encoder.dtype, encoder.provenance
    if not (unchanged := unchanged_texts(encoder, smaller, names)).all():
        raise AssertionError(f"'{names[int(np.argmin(unchanged))]}' has other pieces in the smaller model")
    tokenizer.backend_tokenizer.no_truncation()  # otherwise `unchanged_texts`'s truncation would be saved with it
    return smaller


def unchanged_texts(encoder: Encoder, smaller: Encoder, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which texts get the same pieces from both encoders.

    Args:
        encoder: The original.
        smaller: What `shrink_to` made of it.
        texts: n texts of any length; they are not truncated.

    Returns:
        (n,) bool.
    """
    ids = encoder.tokenizer.get_vocab()
    new_ids = np.full(max(ids.values()) + 1, -1)
    for piece, new in smaller.tokenizer.get_vocab().items():
        new_ids[ids[piece]] = new
    unchanged = [np.zeros(0, bool)]
    for start in range(0, len(texts), _NAMES_PER_COMPARISON):
        part = texts[start : start + _NAMES_PER_COMPARISON]
        unchanged.append(_same_pieces(_tokenize_whole(encoder, part), _tokenize_whole(smaller, part), new_ids))
    return np.concatenate(unchanged)


def _tokenize_whole(encoder: Encoder, texts: Sequence[str]) -> Tokens:
    return tokenize_names(normalize_all(texts, encoder.policy), encoder.tokenizer, _NO_TRUNCATION)


def _same_pieces(before: Tokens, after: Tokens, new_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) bool. new_ids: the second tokenizer's id for each id of the first, or -1."""
    same: NDArray[np.bool_] = before.lengths == after.lengths
    rows = np.flatnonzero(same)
    first, second = before.take(rows), after.take(rows)
    differing = np.concatenate([[0], np.cumsum(new_ids[first.ids] != second.ids)])
    same[rows] = differing[first.offsets[1:]] == differing[first.offsets[:-1]]
    return same


def _tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> Json:
    """A tokenizer as the `tokenizers` library's tokenizer.json. Raises ConfigError for one that can't be shrunk."""
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ConfigError(
            f"expected a tokenizer that can be saved as tokenizer.json, found {name}, which is implemented in Python only"
        )
    document: Json = json.loads(tokenizer.backend_tokenizer.to_str())
    model = document["model"]
    if model["type"] not in ("Unigram", "WordPiece", "BPE"):
        raise ConfigError(
            f"expected a tokenizer of type Unigram, WordPiece or BPE; found {name} of type {model['type']}"
        )
    if model["type"] == "BPE" and (model["continuing_subword_prefix"] or model["end_of_word_suffix"]):
        raise ConfigError(
            f"expected a BPE tokenizer whose pieces are plain text; found {name}, whose pieces mark word boundaries"
        )
    return document


def _kept_ids(encoder: Encoder, document: Json, names: Sequence[str]) -> list[int]:
    """Ids of the pieces to keep, ascending; they become 0, 1, 2, … names: normalized."""
    tokenizer, model, table = encoder.tokenizer, document["model"], encoder.transformer.get_input_embeddings()
    ids = tokenizer.get_vocab()
    tokens = tokenize_names(names, tokenizer, _NO_TRUNCATION)
    special = _special_ids(encoder.transformer.config)
    kept = set(range(1 + max(special.get("pad_token_id", -1), -1 if table.padding_idx is None else table.padding_idx)))
    kept |= set(np.unique(tokens.ids).tolist()) | set(special.values()) | set(tokenizer.all_special_ids)
    kept |= {token["id"] for token in document["added_tokens"]}
    prefix = model.get("continuing_subword_prefix") or ""
    kept |= {i for piece, i in ids.items() if len(piece.removeprefix(prefix)) == 1 or _BYTE_PIECE.fullmatch(piece)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {int(np.argmin(scores)), *([] if model["unk_id"] is None else [model["unk_id"]])}
    elif model["type"] == "WordPiece":
        unknown = np.flatnonzero(tokens.ids == tokenizer.unk_token_id)
        rows = np.unique(np.searchsorted(tokens.offsets, unknown, side="right") - 1)
        words = _words((names[row] for row in rows), tokenizer.backend_tokenizer)
        kept |= _matching({word for word in words if len(word) <= model["max_input_chars_per_word"]}, ids, prefix)
    else:
        ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
        kept |= {ids[part] for piece, i in ids.items() if i in kept for part in _intermediate_merges(piece, ranks)}
    return sorted(kept)


def _special_ids(config: PreTrainedConfig) -> dict[str, int]:
    """The token ids in a model's configuration: `pad_token_id`, …"""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key.endswith("_token_id") and type(value) is int and 0 <= value < config.vocab_size
    }


def _words(names: Iterable[str], backend: Any) -> set[str]:
    """Names as a tokenizer's model gets them: normalized and split into words."""
    words = set()
    for name in names:
        text = backend.normalizer.normalize_str(name) if backend.normalizer else name
        words |= {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)} if backend.pre_tokenizer else {text}
    return words


def _matching(words: Iterable[str], ids: Mapping[str, int], prefix: str) -> set[int]:
    """The ids of WordPiece pieces that match anywhere in the words."""
    spans = (
        (word, start, end) for word in words for start in range(len(word)) for end in range(start + 1, len(word) + 1)
    )
    pieces = ((prefix if start else "") + word[start:end] for word, start, end in spans)
    return {ids[piece] for piece in pieces if piece in ids}


def _intermediate_merges(piece: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """All pieces that BPE's merges (pair → rank) produce when applied to one piece alone.

    Inside a text they produce the same ones: no merge has crossed the piece's ends, or it would not have come out as a
    piece.
    """
    parts, merged = list(piece), set()
    while matching := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
        at = min(matching)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        merged.add(parts[at])
    return merged


def _cut(document: Json, new_ids: Mapping[int, int]) -> Json:
    """The tokenizer.json reduced to the ids in `new_ids` (old → new)."""
    model = dict(document["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new_ids]
        model["unk_id"] = new_ids.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new_ids[i] for piece, i in model["vocab"].items() if i in new_ids}
    if model["type"] == "BPE":
        known = model["vocab"]
        model["merges"] = [(a, b) for a, b in model["merges"] if a in known and b in known and a + b in known]
    added = [token | {"id": new_ids[token["id"]]} for token in document["added_tokens"]]
    changed = {"model": model, "added_tokens": added, "truncation": None, "padding": None}
    return document | changed | {"post_processor": _renumber(document["post_processor"], new_ids)}


def _renumber(node: Any, new_ids: Mapping[int, int]) -> Any:
    """A post-processor's JSON with new ids, which it has as `{"ids": [0]}` (templates) or `["</s>", 2]` (BERT's, RoBERTa's)."""
    if isinstance(node, dict):
        return {
            key: [new_ids[i] for i in value] if key == "ids" else _renumber(value, new_ids)
            for key, value in node.items()
        }
    if isinstance(node, list):
        pair = len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int)
        return [node[0], new_ids[node[1]]] if pair else [_renumber(item, new_ids) for item in node]
    return node


def _rebuild(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, document: Json) -> PreTrainedTokenizerBase:
    """Save and reopen, as users will open it: transformers builds most classes from the pieces, not from all of the JSON."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return rebuilt
