"""An encoder from nothing: a SentencePiece vocabulary trained on a terminology's own names, and an XLM-R of random weights.

XLM-R's 250,002 pieces serve a hundred languages of web text. A terminology needs few of them, so a small model with a vocabulary of
its own learns to link on a CPU, in minutes.

The same model with fewer rows: only those of the pieces of words that a terminology's names are made of.

Most of a multilingual encoder's parameters are rows of its embedding table (192 of XLM-R base's 278 million) for pieces that no name
has. Leaving them out is an old trick (Abdaoui et al., "Load What You Need", 2020); the choice here is to do nothing else, so that text
whose pieces are all kept, none of them unknown, becomes the same pieces in the same rows, and so the same vectors. Why it does:

- Unigram takes the best path through all pieces that match. With fewer pieces there are fewer paths, and the best one is still there.
  An unknown character costs ten more than the worst piece, so the worst piece stays too.
- WordPiece takes the longest piece that matches, again and again. With fewer pieces the longest is still the longest. But a word that
  came to a dead end, and so was unknown, may now get through: of such words in the names every piece that matches stays.
- BPE merges what its list of merges has first. Whatever was merged to make a kept piece stays; of fewer merges the first is still first.

Pieces of a single character or byte all stay as well, so that other text is spelled out in them rather than lost.
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

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # XLM-R's first rows; its last is <mask>
_NAMES_AT_MOST = 2_000_000  # a vocabulary doesn't improve with more; SentencePiece's memory grows with them


def train_tokenizer(names: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerBase:
    """An XLM-R tokenizer with at most `vocabulary_size` pieces, special ones included: a SentencePiece unigram model (Kudo, 2018).

    names: normalized. Few names hold fewer pieces, and then the vocabulary is smaller. Equal input gives an equal tokenizer.
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
            input_sentence_size=_NAMES_AT_MOST,
            shuffle_input_sentence=len(names) > _NAMES_AT_MOST,
            num_threads=1,  # the sums of several threads depend on their number
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(
            f"no vocabulary of {vocabulary_size:,} pieces can be trained on {len(names):,} names: {error}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sentencepiece.bpe.model").write_bytes(written.getvalue())
        XLMRobertaConfig().save_pretrained(folder)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if tokenizer.convert_tokens_to_ids(_SPECIAL) != [0, 1, 2, 3]:
        raise AssertionError("transformers has changed how it converts SentencePiece models")
    return tokenizer


def from_scratch(
    names: Sequence[str],
    description: EncoderConfig,
    *,
    vocabulary_size: int,
    layers: int,
    hidden: int,
    heads: int,
    dropout: float,
    seed: int,
) -> Encoder:
    """An untrained encoder for `names` (as the terminology has them): 4 × hidden in its feed-forward layers, as in XLM-R."""
    if hidden % heads:
        raise ConfigError(f"scratch.hidden must be a multiple of scratch.heads, found {hidden} and {heads}")
    tokenizer = train_tokenizer(normalize_all(names, description.policy), vocabulary_size)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=description.max_length + 2,  # XLM-R's positions start at 2
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = XLMRobertaModel(config, add_pooling_layer=False)
    check_tokenizer(tokenizer, transformer, "the new tokenizer")
    return Encoder(transformer, tokenizer, description)


_UNCUT = 1_000_000  # tokens: what lies beyond max_length in a name may lie within it in another text
_TEXTS_AT_ONCE = 100_000
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # what SentencePiece calls the bytes of characters that it doesn't know

Json = dict[str, Any]


def shrink_to(encoder: Encoder, names: Sequence[str]) -> Encoder:
    """A new encoder with the rows and pieces that `names`, as the terminology has them, need.

    Rows keep their order, and those up to the padding's their numbers, from which RoBERTa counts positions. All other weights are
    shared with `encoder`, not copied. Raises ConfigError for a tokenizer that isn't Unigram, WordPiece or BPE, or has no tokenizer.json.
    """
    document = _document(encoder.tokenizer)
    kept = _kept_ids(encoder, document, normalize_all(names, encoder.policy))
    transformer = copy.deepcopy(
        encoder.transformer, {id(weights): weights for weights in encoder.transformer.parameters()}
    )
    table = transformer.get_input_embeddings()
    rows = nn.Embedding.from_pretrained(table.weight.detach()[kept], freeze=False, padding_idx=table.padding_idx)
    transformer.set_input_embeddings(rows)
    new = {old: row for row, old in enumerate(kept)}
    for key, value in _special_ids(transformer.config).items():
        setattr(transformer.config, key, new[value])
    transformer.config.vocab_size = len(kept)
    tokenizer = _rebuilt(encoder.tokenizer, transformer.config, _cut(document, new))
    smaller = Encoder(transformer, tokenizer, encoder.description).train(encoder.training)
    smaller.dtype = encoder.dtype
    if not (same := unchanged_texts(encoder, smaller, names)).all():
        raise AssertionError(f"'{names[int(np.argmin(same))]}' has other pieces in the smaller model")
    tokenizer.backend_tokenizer.no_truncation()  # else it would be saved with what `unchanged_texts` asked for
    return smaller


def unchanged_texts(encoder: Encoder, smaller: Encoder, texts: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) bool: which texts, not cut at any length, both encoders see as the same pieces."""
    ids = encoder.tokenizer.get_vocab()
    new = np.full(max(ids.values()) + 1, -1)
    for piece, row in smaller.tokenizer.get_vocab().items():
        new[ids[piece]] = row
    parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
    found = [_alike(_uncut(encoder, part), _uncut(smaller, part), new) for part in parts]
    return np.concatenate([np.zeros(0, bool), *found])


def shrunk_metadata(encoder: Encoder, terminology: str | None) -> Json:
    """For `Encoder.save_pretrained`: what the original's `xsap.json` says beside the description, and what was shrunk to which names.

    terminology: the hash of the one that the names are of.
    """
    file = Path(encoder.transformer.config.name_or_path) / "xsap.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept = {key: value for key, value in said.items() if key not in encoder.description.to_dict()}
    return kept | {"shrunk": {"model": encoder.content, "terminology": terminology}}


def _uncut(encoder: Encoder, texts: Sequence[str]) -> Tokens:
    return tokenize_names(normalize_all(texts, encoder.policy), encoder.tokenizer, _UNCUT)


def _alike(before: Tokens, after: Tokens, new: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) bool. new: the second tokenizer's id of each of the first's, or -1."""
    alike: NDArray[np.bool_] = before.lengths == after.lengths
    rows = np.flatnonzero(alike)
    first, second = before.take(rows), after.take(rows)
    differing = np.concatenate([[0], np.cumsum(new[first.ids] != second.ids)])
    alike[rows] = differing[first.offsets[1:]] == differing[first.offsets[:-1]]
    return alike


def _document(tokenizer: PreTrainedTokenizerBase) -> Json:
    """A tokenizer's own description of itself (the `tokenizers` library's tokenizer.json)."""
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ConfigError(
            f"expected a tokenizer that can be saved as tokenizer.json, found {name}, which is written in Python alone"
        )
    document: Json = json.loads(tokenizer.backend_tokenizer.to_str())
    model = document["model"]
    if model["type"] not in ("Unigram", "WordPiece", "BPE"):
        raise ConfigError(
            f"expected a tokenizer of the kind Unigram, WordPiece or BPE; found {name} of the kind {model['type']}"
        )
    if model["type"] == "BPE" and (model["continuing_subword_prefix"] or model["end_of_word_suffix"]):
        raise ConfigError(
            f"expected a BPE tokenizer whose pieces are plain text; found {name}, which marks where words end or go on"
        )
    return document


def _kept_ids(encoder: Encoder, document: Json, names: Sequence[str]) -> list[int]:
    """Old ids in their order, which become 0, 1, 2, …  names: normalized."""
    tokenizer, model, table = encoder.tokenizer, document["model"], encoder.transformer.get_input_embeddings()
    ids = tokenizer.get_vocab()
    tokens = tokenize_names(names, tokenizer, _UNCUT)
    special = _special_ids(encoder.transformer.config)
    kept = set(range(1 + max(special.get("pad_token_id", -1), -1 if table.padding_idx is None else table.padding_idx)))
    kept |= set(np.unique(tokens.ids).tolist()) | set(special.values()) | set(tokenizer.all_special_ids)
    kept |= {token["id"] for token in document["added_tokens"]}
    prefix = model.get("continuing_subword_prefix") or ""
    kept |= {i for piece, i in ids.items() if len(piece.removeprefix(prefix)) == 1 or _BYTE.fullmatch(piece)}
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
        kept |= {ids[made] for piece, i in ids.items() if i in kept for made in _made_on_the_way(piece, ranks)}
    return sorted(kept)


def _special_ids(config: PreTrainedConfig) -> dict[str, int]:
    """A configuration's keys that name rows of the table, with the rows: `pad_token_id`, …"""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key.endswith("_token_id") and type(value) is int and 0 <= value < config.vocab_size
    }


def _words(names: Iterable[str], backend: Any) -> set[str]:
    """What a tokenizer's model gets to see of names: normalized, cut into words."""
    words = set()
    for name in names:
        text = backend.normalizer.normalize_str(name) if backend.normalizer else name
        words |= {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)} if backend.pre_tokenizer else {text}
    return words


def _matching(words: Iterable[str], ids: Mapping[str, int], prefix: str) -> set[int]:
    """The ids of WordPiece's pieces that match anywhere in the words."""
    spans = (
        (word, start, end) for word in words for start in range(len(word)) for end in range(start + 1, len(word) + 1)
    )
    pieces = ((prefix if start else "") + word[start:end] for word, start, end in spans)
    return {ids[piece] for piece in pieces if piece in ids}


def _made_on_the_way(piece: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """All that BPE's merges (pair → rank) make when they are let loose on a piece alone.

    Inside a text they make the same: no merge has crossed the piece's ends, or it would not have come out as a piece.
    """
    parts, made = list(piece), set()
    while found := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        made.add(parts[at])
    return made


def _cut(document: Json, new: Mapping[int, int]) -> Json:
    """The tokenizer.json with the ids in `new` (old → new) alone."""
    model = dict(document["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    if model["type"] == "BPE":
        known = model["vocab"]
        model["merges"] = [(a, b) for a, b in model["merges"] if a in known and b in known and a + b in known]
    added = [token | {"id": new[token["id"]]} for token in document["added_tokens"]]
    changed = {"model": model, "added_tokens": added, "truncation": None, "padding": None}
    return document | changed | {"post_processor": _renumbered(document["post_processor"], new)}


def _renumbered(node: Any, new: Mapping[int, int]) -> Any:
    """A post-processor's JSON with new ids, which stand in it as `{"ids": [0]}` (templates) or `["</s>", 2]` (BERT's, RoBERTa's)."""
    if isinstance(node, dict):
        return {
            key: [new[i] for i in value] if key == "ids" else _renumbered(value, new) for key, value in node.items()
        }
    if isinstance(node, list):
        pair = len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int)
        return [node[0], new[node[1]]] if pair else [_renumbered(item, new) for item in node]
    return node


def _rebuilt(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, document: Json) -> PreTrainedTokenizerBase:
    """By way of a folder, as everybody will open it: transformers makes most classes anew from their pieces, not from all of the JSON."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return rebuilt
