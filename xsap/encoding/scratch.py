"""An encoder from nothing: a SentencePiece vocabulary trained on a terminology's own names, and an XLM-R of random weights.

XLM-R's 250,002 pieces serve a hundred languages of web text. A terminology needs few of them, so a small model with a vocabulary of
its own learns to link on a CPU, in minutes.
"""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel

from xsap.encoding.encoder import Encoder
from xsap.encoding.folder import Description, check_tokenizer
from xsap.errors import ConfigError, DataError
from xsap.text import normalise_all

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # XLM-R's first rows; its last is <mask>
_NAMES_AT_MOST = 2_000_000  # a vocabulary doesn't improve with more; SentencePiece's memory grows with them


def train_tokenizer(names: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerBase:
    """An XLM-R tokenizer with at most `vocabulary_size` pieces, special ones included: a SentencePiece unigram model (Kudo, 2018).

    names: normalised. Few names hold fewer pieces, and then the vocabulary is smaller. Equal input gives an equal tokenizer.
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
        raise DataError(f"no vocabulary of {vocabulary_size:,} pieces can be trained on {len(names):,} names: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sentencepiece.bpe.model").write_bytes(written.getvalue())
        XLMRobertaConfig().save_pretrained(folder)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if tokenizer.convert_tokens_to_ids(_SPECIAL) != [0, 1, 2, 3]:
        raise AssertionError("transformers has changed how it converts SentencePiece models")
    return tokenizer


def from_scratch(
    names: Sequence[str], description: Description, *, vocabulary_size: int, layers: int, hidden: int, heads: int, dropout: float, seed: int
) -> Encoder:
    """An untrained encoder for `names` (as the terminology has them): 4 × hidden in its feed-forward layers, as in XLM-R."""
    if hidden % heads:
        raise ConfigError(f"scratch.hidden must be a multiple of scratch.heads, found {hidden} and {heads}")
    tokenizer = train_tokenizer(normalise_all(names, description.policy), vocabulary_size)
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
