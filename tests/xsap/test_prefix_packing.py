"""Texts that share a prefix: each is computed as if it stood alone behind its prefix, whatever the others are and however they are ordered."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from xsap.encoding.packed_layers import packed_first
from xsap.encoding.packing import Tokens, pack, pack_with_prefixes

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
MODELS = {
    "bert": (BertConfig, BertModel, {}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {"type_vocab_size": 1}),
    "mpnet": (MPNetConfig, MPNetModel, {}),
    "modernbert": (
        ModernBertConfig,
        ModernBertModel,
        {"local_attention": 8, "bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2},
    ),
}


def make_model(kind):
    config, model, more = MODELS[kind]
    torch.manual_seed(0)
    return model(config(**COMMON | more)).eval()


def to_tokens(rows):
    return Tokens(np.array([i for row in rows for i in row], np.int32), np.cumsum([0, *map(len, rows)]))


def text_states(model, prefixes, texts, counts):
    """(n, hidden) of the first tokens of the texts."""
    batch = pack_with_prefixes(to_tokens(prefixes), to_tokens(texts), np.array(counts))
    with torch.inference_mode():
        return packed_first(model, batch)[len(prefixes) :]


def masked_states(model, prefix, text):
    """The same of one text, by the Hugging Face model itself with the mask written out."""
    n = len(prefix) + len(text)
    allowed = torch.ones(n, n, dtype=torch.bool)
    allowed[: len(prefix), len(prefix) :] = False
    mask = torch.zeros(1, 1, n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([prefix + text]), attention_mask=mask).last_hidden_state
    return states[0, len(prefix)]


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_texts_behind_a_prefix_match_the_hugging_face_model_with_the_mask_written_out(kind):
    model = make_model(kind)
    prefixes, texts, counts = [[2, 7, 8, 9, 3], [2, 11, 3]], [[2, 20, 3], [2, 21, 22, 3], [2, 23, 24, 25, 3]], [2, 1]
    found = text_states(model, prefixes, texts, counts)
    expected = [masked_states(model, prefixes[owner], text) for owner, text in zip([0, 0, 1], texts, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-6, rtol=0)


rows = st.lists(st.lists(st.integers(3, 39), min_size=2, max_size=12), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", sorted(MODELS))
@given(prefixes=st.lists(st.lists(st.integers(3, 39), min_size=2, max_size=20), min_size=1, max_size=4), data=st.data())
def test_a_text_depends_on_its_prefix_alone(kind, prefixes, data):
    model = make_model(kind)
    groups = [data.draw(rows) for _ in prefixes]
    texts = [text for group in groups for text in group]
    found = text_states(model, prefixes, texts, [len(group) for group in groups])
    alone = [
        text_states(model, [prefix], [text], [1])
        for prefix, group in zip(prefixes, groups, strict=True)
        for text in group
    ]
    torch.testing.assert_close(found, torch.cat(alone), atol=5e-6, rtol=0)


def test_a_prefix_is_computed_as_without_texts():
    model = make_model("bert")
    prefixes = to_tokens([[2, 7, 8, 9, 3], [2, 11, 3]])
    batch = pack_with_prefixes(prefixes, to_tokens([[2, 20, 3]] * 3), np.array([2, 1]))
    with torch.inference_mode():
        found, expected = packed_first(model, batch)[:2], packed_first(model, pack(prefixes))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
