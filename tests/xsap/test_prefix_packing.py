"""Texts that share a prefix: each is computed as if it stood alone behind its prefix, whatever the others are and however they are ordered."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
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

from tests.fixtures.encoders import to_tokens
from xsap.encoding.packed_layers import packed_first, packed_states
from xsap.encoding.packing import pack, pack_with_prefixes

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
    made = model(config(**COMMON | more)).eval()
    if kind == "mpnet":  # so that distances count
        torch.nn.init.normal_(made.encoder.relative_attention_bias.weight)
    return made


def text_states(model, prefixes, texts, counts):
    """(n, hidden) of the first tokens of the texts."""
    batch = pack_with_prefixes(to_tokens(prefixes), to_tokens(texts), np.array(counts))
    with torch.inference_mode():
        return packed_first(model, batch)


def masked_states(model, prefix, text):
    """The same of one text, by the Hugging Face model itself with the mask written out."""
    n = len(prefix) + len(text)
    allowed = torch.ones(n, n, dtype=torch.bool)
    allowed[: len(prefix), len(prefix) :] = False
    mask = torch.zeros(1, 1, n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([prefix + text]), attention_mask=mask).last_hidden_state
    return states[0, len(prefix)]


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "mpnet"])
def test_texts_behind_a_prefix_match_the_hugging_face_model_with_the_mask_written_out(kind):
    model = make_model(kind)
    prefixes, texts, counts = [[2, 7, 8, 9, 3], [2, 11, 3]], [[2, 20, 3], [2, 21, 22, 3], [2, 23, 24, 25, 3]], [2, 1]
    found = text_states(model, prefixes, texts, counts)
    expected = [masked_states(model, prefixes[owner], text) for owner, text in zip([0, 0, 1], texts, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_last_layer_of_first_tokens_alone_is_that_of_all_tokens(kind):
    model = make_model(kind)
    prefixes, texts = [[2, 7, 8, 9, 10, 11, 12, 13, 3], [2, 11, 3]], [[2, 20, 3], [2, 21, 22, 3], [2, 23, 24, 25, 3]]
    batch = pack_with_prefixes(to_tokens(prefixes), to_tokens(texts), np.array([2, 1]))
    with torch.inference_mode():
        found, states = packed_first(model, batch), packed_states(model, batch)
    torch.testing.assert_close(found, states.flatten(0, 1)[batch.starts], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_gradients_are_those_of_inference(kind):
    """Training writes attention out, inference takes torch's kernel."""
    model = make_model(kind)
    batch = pack_with_prefixes(to_tokens([[2, 7, 8, 9, 3], [2, 11, 3]]), to_tokens([[2, 20, 3], [2, 21, 22, 3]]), np.array([1, 1]))  # fmt: skip
    with torch.inference_mode():
        expected = packed_first(model, batch)
    found = packed_first(model, batch)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    found.square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_no_token_is_padding_and_no_score_of_other_texts_is_computed():
    """Multiply-adds of attention: each token of a prefix with the prefix, each of a text with prefix and text; of the last layer, first tokens."""
    model = make_model("bert").requires_grad_(True)  # attention is written out, so that its products are counted
    g, c, p, t, hidden, inner, layers = 3, 4, 10, 5, 16, 32, 2
    batch = pack_with_prefixes(to_tokens([[2] * p] * g), to_tokens([[2] * t] * (g * c)), np.array([c] * g))
    with FlopCounterMode(display=False) as counter:
        packed_first(model, batch)
    tokens, firsts = g * (p + c * t), g * c
    linear = (layers - 1) * tokens * (4 * hidden**2 + 2 * hidden * inner)
    linear += tokens * 2 * hidden**2 + firsts * (2 * hidden**2 + 2 * hidden * inner)
    attention = (layers - 1) * 2 * hidden * g * (p * p + c * t * (p + t)) + 2 * hidden * g * c * (p + t)
    assert counter.get_total_flops() == 2 * (linear + attention)


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
        found = packed_states(model, batch)[0, prefixes.offsets[:-1]]
        expected = packed_first(model, pack(prefixes))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
