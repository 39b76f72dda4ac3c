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

from xsap.encoding.packing import (
    Tokens,
    _dropout,
    can_pack,
    pack,
    packed_first,
    packed_mean,
    packed_states,
    padded_states,
)

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
MODELS = {
    "xlm-roberta": lambda: XLMRobertaModel(
        XLMRobertaConfig(**SIZE, max_position_embeddings=40, type_vocab_size=1), add_pooling_layer=False
    ),
    "roberta": lambda: RobertaModel(
        RobertaConfig(**SIZE, max_position_embeddings=40, type_vocab_size=1), add_pooling_layer=False
    ),
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
        torch.nn.init.normal_(
            parameter, std=0.2
        )  # as made, layers hardly mix names, and a leak between them would go unseen
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


POOLS = (packed_first, packed_mean)


@pytest.mark.parametrize("kind", MODELS)
@given(rows=names_of_tokens)
@settings(max_examples=15, deadline=None)
def test_packed_vectors_are_the_padded_ones(kind: str, rows: list[list[int]]) -> None:
    model = make_model(kind).eval()
    batch = pack(make_tokens(rows))
    assert can_pack(model)
    for grad in (False, True):  # two attention kernels
        with torch.set_grad_enabled(grad):
            for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
                torch.testing.assert_close(pool(model, batch), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_whole_batch_of_names_is_as_padded(kind: str) -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in random.integers(1, 33, 200)]
    model, batch = make_model(kind).eval(), pack(make_tokens(rows))
    assert batch.ids.shape[1] == 2 * 34  # a tile is twice the longest name here
    for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
        torch.testing.assert_close(pool(model, batch), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", [0, 1])
def test_packed_gradients_are_the_padded_ones(kind: str, pool: int) -> None:
    model = make_model(kind).eval()
    rows = [
        [7, 8, 9],
        [10],
        [11, 12, 13, 14, 15, 16],
        [7, 9, 8],
        [20, 21, 22],
        *([5, 6, number] for number in range(8, 40)),
    ]
    target = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(1))
    batch = pack(make_tokens(rows))
    gradients = []
    for vectors in (POOLS[pool](model, batch), padded_pools(model, rows)[pool]):
        model.zero_grad()
        (vectors * target).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys()
    for name, gradient in padded.items():
        scale = gradient.abs().max().item() or 1.0
        assert (packed[name] - gradient).abs().max().item() <= 1e-5 * scale + 1e-6, name


def test_a_name_does_not_see_its_neighbors() -> None:
    model = make_model("xlm-roberta").eval()
    alone = pack(make_tokens([[7, 8, 9]]))
    among = pack(make_tokens([[30, 31, 32], [7, 8, 9], [33], [40, 41, 42]]))
    with torch.no_grad():
        for pool in POOLS:
            torch.testing.assert_close(pool(model, among)[1], pool(model, alone)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("inner", "outer"), [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_is_at_work_while_training(inner: float, outer: float) -> None:
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        **SIZE,
        max_position_embeddings=40,
        type_vocab_size=1,
        hidden_dropout_prob=outer,
        attention_probs_dropout_prob=inner,
    )
    model = XLMRobertaModel(config, add_pooling_layer=False).train()
    batch = pack(make_tokens([[7, 8, 9], [10, 11]]))
    assert not torch.equal(packed_states(model, batch), packed_states(model, batch))
    torch.testing.assert_close(packed_states(model.eval(), batch), packed_states(model, batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_in_every_place_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    states = torch.ones(1003, 401, dtype=dtype, requires_grad=True)
    out = _dropout(states, torch.nn.Dropout(rate))
    dropped = (out == 0).double().flatten()
    spread = 5 * (rate * (1 - rate) / (len(dropped) // 4)) ** 0.5
    for lane in range(4):  # of each random number's four parts
        assert abs(dropped[lane::4].mean().item() - rate) < spread
    assert abs(torch.corrcoef(torch.stack([dropped[:-1], dropped[1:]]))[0, 1].item()) < 0.01
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - rate)))
    out.backward(torch.ones_like(out))
    torch.testing.assert_close(states.grad, out.detach())


def test_another_architecture_runs_the_plain_way() -> None:
    torch.manual_seed(0)
    model = DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40)
    ).eval()
    rows = [[7, 8, 9], [10], [11, 12, 13, 14]]
    batch = pack(make_tokens(rows))
    assert not can_pack(model)
    with torch.no_grad():
        states = padded_states(model, batch, length=6, pad_id=1)
        torch.testing.assert_close(states[:, 0], padded_pools(model, rows)[0], atol=1e-5, rtol=0)


def test_padded_states_pad_to_the_given_length() -> None:
    model = make_model("xlm-roberta").eval()
    rows = [[7, 8, 9], [10]]
    batch = pack(make_tokens(rows))
    with torch.no_grad():
        states = padded_states(model, batch, length=9, pad_id=1)
        ids = torch.tensor([[0, 7, 8, 9, 2, 1, 1, 1, 1], [0, 10, 2, 1, 1, 1, 1, 1, 1]])
        torch.testing.assert_close(states, model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state)


@given(rows=names_of_tokens)
@settings(max_examples=60, deadline=None)
def test_pack_keeps_every_token_once_and_knows_where_each_name_went(rows: list[list[int]]) -> None:
    tokens = make_tokens(rows)
    batch = pack(tokens)
    ids, positions, owners = (part.flatten().tolist() for part in (batch.ids, batch.positions, batch.owners))
    size, free = batch.ids.shape[1], set(range(len(ids)))
    for row, start, slot in zip(rows, batch.starts.tolist(), batch.slots.tolist(), strict=True):
        places = range(start, start + len(row) + 2)
        assert [ids[at] for at in places] == [0, *row, 2]
        assert [positions[at] for at in places] == list(range(len(places)))
        assert {(at // size, owners[at]) for at in places} == {divmod(slot, batch.q)}
        assert free.issuperset(places)
        free -= set(places)
    assert all(owners[at] == -1 for at in free)
    assert len(set(batch.slots.tolist())) == len(rows)


def test_tiles_have_next_to_no_free_places() -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in np.minimum(random.poisson(6, 512) + 1, 23)]
    batch = pack(make_tokens(rows))
    assert batch.ids.shape[1] == 64
    assert batch.owners.eq(-1).float().mean() < 0.03
