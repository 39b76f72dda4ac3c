"""Packed against padded: the same Hugging Face model, the same names, vectors and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from xsap.encoding.packing import can_pack, first_tokens, grouped_states, mean_tokens, pack, packed_states, padded_states
from xsap.encoding.tokens import Tokens

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
MODELS = {
    "xlm-roberta": lambda: XLMRobertaModel(
        XLMRobertaConfig(**SIZE, max_position_embeddings=40, type_vocab_size=1), add_pooling_layer=False
    ),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZE, max_position_embeddings=40, type_vocab_size=1), add_pooling_layer=False),
    "bert": lambda: BertModel(BertConfig(**SIZE, max_position_embeddings=40), add_pooling_layer=False),
}
names_of_tokens = st.lists(st.lists(st.integers(5, 49), min_size=1, max_size=12), min_size=1, max_size=12)


def make_tokens(rows: list[list[int]]) -> Tokens:
    rows = [[0, *row, 2] for row in rows]
    return Tokens(np.concatenate(rows).astype(np.int32), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


def make_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS[kind]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # as made, layers hardly mix names, and a leak between them would go unseen
    return model


def padded_pools(model: torch.nn.Module, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(cls, mean) of the plain padded model."""
    width = max(map(len, rows)) + 2
    ids = torch.full((len(rows), width), model.config.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row) + 2] = torch.tensor([0, *row, 2])
        mask[i, : len(row) + 2] = 1
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return states[:, 0], (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", MODELS)
@given(rows=names_of_tokens)
@settings(max_examples=15, deadline=None)
def test_packed_vectors_are_the_padded_ones(kind: str, rows: list[list[int]]) -> None:
    model = make_model(kind).eval()
    batch = pack(make_tokens(rows))
    assert can_pack(model)
    for grad in (False, True):  # two attention kernels
        with torch.set_grad_enabled(grad):
            states = packed_states(model, batch)
            cls, mean = padded_pools(model, rows)
            torch.testing.assert_close(first_tokens(states, batch), cls, atol=1e-5, rtol=0)
            torch.testing.assert_close(mean_tokens(states, batch), mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", [0, 1])
def test_packed_gradients_are_the_padded_ones(kind: str, pool: int) -> None:
    model = make_model(kind).eval()
    rows = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16], [7, 9, 8], [20, 21, 22]]
    target = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(1))
    batch = pack(make_tokens(rows))
    gradients = []
    for vectors in ((first_tokens, mean_tokens)[pool](packed_states(model, batch), batch), padded_pools(model, rows)[pool]):
        model.zero_grad()
        (vectors * target).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys()
    for name, gradient in padded.items():
        scale = gradient.abs().max().item() or 1.0
        assert (packed[name] - gradient).abs().max().item() <= 1e-5 * scale + 1e-6, name


def test_a_name_does_not_see_its_neighbours() -> None:
    model = make_model("xlm-roberta").eval()
    alone = pack(make_tokens([[7, 8, 9]]))
    among = pack(make_tokens([[30, 31, 32], [7, 8, 9], [33], [40, 41, 42]]))
    with torch.no_grad():
        vector = mean_tokens(packed_states(model, alone), alone)[0]
        torch.testing.assert_close(mean_tokens(packed_states(model, among), among)[1], vector, atol=1e-6, rtol=0)


def test_dropout_is_at_work_in_attention_while_training() -> None:
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        **SIZE, max_position_embeddings=40, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5
    )
    model = XLMRobertaModel(config, add_pooling_layer=False).train()
    batch = pack(make_tokens([[7, 8, 9], [10, 11]]))
    first, second = packed_states(model, batch), packed_states(model, batch)
    assert not torch.equal(first, second)
    torch.testing.assert_close(packed_states(model.eval(), batch), packed_states(model, batch))


def test_another_architecture_runs_without_pads_too() -> None:
    torch.manual_seed(0)
    model = DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40)
    ).eval()
    rows = [[7, 8, 9], [10], [11, 12, 13, 14]]
    batch = pack(make_tokens(rows))
    assert not can_pack(model)
    with torch.no_grad():
        states = grouped_states(model, batch)
        torch.testing.assert_close(mean_tokens(states, batch), padded_pools(model, rows)[1], atol=1e-5, rtol=0)


def test_padded_states_pad_to_the_given_length() -> None:
    model = make_model("xlm-roberta").eval()
    rows = [[7, 8, 9], [10]]
    batch = pack(make_tokens(rows))
    with torch.no_grad():
        states = padded_states(model, batch, length=9, pad_id=1)
        ids = torch.tensor([[0, 7, 8, 9, 2, 1, 1, 1, 1], [0, 10, 2, 1, 1, 1, 1, 1, 1]])
        torch.testing.assert_close(states, model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state)


@given(rows=names_of_tokens)
@settings(max_examples=30, deadline=None)
def test_pack_keeps_every_token_once_and_knows_where_each_name_went(rows: list[list[int]]) -> None:
    tokens = make_tokens(rows)
    batch = pack(tokens)
    starts = [0, *np.cumsum([length for count, length in batch.shapes for _ in range(count)])]
    for name, place in enumerate(batch.order.tolist()):
        assert batch.ids[starts[place] : starts[place + 1]].tolist() == [0, *rows[name], 2]
        assert batch.positions[starts[place] : starts[place + 1]].tolist() == list(range(len(rows[name]) + 2))
    assert len(batch.ids) == len(tokens.ids) == sum(count * length for count, length in batch.shapes)
