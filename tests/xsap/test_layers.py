"""A model cut in two parts gives the states of the whole; candidates that are read with the context in the highest layers alone."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, ModernBertConfig, ModernBertModel

from tests.fixtures.encoders import tiny_encoder, to_tokens, train_unigram
from xsap.encoding.layers import cut_layers, lowest_layers, transformer_layers
from xsap.encoding.packed_layers import Between, packed_first, packed_states
from xsap.encoding.packing import pack
from xsap.errors import ConfigError
from xsap.linking import cross_encoder
from xsap.linking.cross_encoder import CrossEncoder, with_markers
from xsap.linking.cross_inputs import CrossInputs, InputWindows

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
IDS = {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
PREFIXES, TEXTS, COUNTS = [[2, 7, 8, 9, 3], [2, 11, 3]], [[2, 20, 3], [2, 21, 22, 3], [2, 20, 3]], [2, 1]


def make_model(kind):
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**COMMON)).eval()
    return ModernBertModel(ModernBertConfig(**COMMON, **IDS, local_attention=4)).eval()


@pytest.mark.parametrize("layers", [1, 3, 4])
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_two_parts_give_the_states_of_the_whole_and_share_its_weights(kind, layers):
    model = make_model(kind)
    batch = pack(to_tokens([[2, 7, 8, 9, 10, 11, 12, 3], [2, 20, 3], [2, 21, 22, 3]]))
    lower, upper = cut_layers(model, layers)
    with torch.inference_mode():
        states = packed_states(lower, batch)
        for run in (packed_states, packed_first):
            torch.testing.assert_close(
                run(upper, batch, Between(0, lambda _: states)), run(model, batch), atol=0, rtol=0
            )
    assert [len(transformer_layers(part)) for part in (lower, upper, model)] == [layers, 5 - layers, 5]
    own = {id(each) for each in model.parameters()}
    assert all(id(each) in own for part in (lower, upper) for each in part.parameters())


def test_another_number_of_layers_is_refused():
    model = make_model("bert")
    for layers in (0, 5):
        with pytest.raises(ConfigError, match=f"expected 1 to 4 layers below the others, found {layers}"):
            cut_layers(model, layers)
    with pytest.raises(ConfigError, match="expected 1 to 5 layers of the model, found 6"):
        lowest_layers(model, 6)
    with pytest.raises(ConfigError, match="the layers of a model of type gpt2 are not known"):
        transformer_layers(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2)))


# Candidates


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return with_markers(tiny_encoder(train_unigram(["fever", "chest pain", "mitral stenosis"]), "Unigram"))


def joined_states(model, prefix, text, below):
    """The state of a text's first token by the Hugging Face model: both on their own in the lowest layers, then joined, the mask written out."""
    size = len(prefix) + len(text)
    allowed = torch.ones(size, size, dtype=torch.bool)
    allowed[: len(prefix), len(prefix) :] = False
    mask = torch.zeros(1, 1, size, size).masked_fill(~allowed, torch.finfo(torch.float32).min)
    own = [
        model(input_ids=torch.tensor([each]), output_hidden_states=True).hidden_states[below] for each in (prefix, text)
    ]
    hook = transformer_layers(model)[below].register_forward_pre_hook(lambda _, given: (torch.cat(own, 1), *given[1:]))
    try:
        return model(input_ids=torch.tensor([prefix + text]), attention_mask=mask).last_hidden_state[0, len(prefix)]
    finally:
        hook.remove()


@pytest.mark.parametrize("joint", [1, 2, 4])
def test_candidates_attend_to_the_context_in_the_highest_layers_alone(encoder, joint):
    encoder.transformer = make_model("bert")
    model = CrossEncoder(encoder, InputWindows(), joint_layers=joint).eval()
    with torch.inference_mode():
        found = model._states(to_tokens(PREFIXES), to_tokens(TEXTS), np.array(COUNTS))
        expected = [
            joined_states(encoder.transformer, PREFIXES[owner], text, 5 - joint)
            for owner, text in zip([0, 0, 1], TEXTS, strict=True)
        ]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-6, rtol=0)
    whole = CrossEncoder(encoder, InputWindows(), joint_layers=None).eval()
    with torch.inference_mode():
        other = whole._states(to_tokens(PREFIXES), to_tokens(TEXTS), np.array(COUNTS))
    assert not torch.allclose(found, other, atol=1e-3)
    assert CrossEncoder(encoder, InputWindows(), joint_layers=5).joint_layers is None


def test_each_text_is_read_once_below_and_gradients_reach_all_layers(encoder, monkeypatch):
    encoder.transformer = make_model("bert")
    model = CrossEncoder(encoder, InputWindows(), joint_layers=2).train()
    torch.nn.init.normal_(model.head.weight)
    read = []

    def count(transformer, batch, *more):
        read.append(int(batch.lengths.sum()))
        return packed_states(transformer, batch, *more)

    monkeypatch.setattr(cross_encoder, "packed_states", count)
    inputs = CrossInputs(
        to_tokens(PREFIXES), to_tokens(TEXTS), np.array(COUNTS), np.ones(3, np.float32), np.zeros(3, np.float32)
    )
    model(inputs).square().sum().backward()
    assert sorted(read) == [7, 8]  # two of the three texts, and both prefixes
    weights = [each for each in encoder.transformer.encoder.layer.parameters() if each.dim() == 2]
    assert all(each.grad is not None and bool(each.grad.any()) for each in weights)
