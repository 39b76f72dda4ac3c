"""Packing: token arrays against plain loops, and the packed model against the padded one in vectors and gradients."""

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
    drop_tokens,
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
        torch.nn.init.normal_(parameter, std=0.2)  # at the initial scale, attention between names would hardly show
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
def test_packed_vectors_match_padded_ones(kind: str, rows: list[list[int]]) -> None:
    model = make_model(kind).eval()
    batch = pack(make_tokens(rows))
    assert can_pack(model)
    for grad in (False, True):  # two attention kernels
        with torch.set_grad_enabled(grad):
            for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
                torch.testing.assert_close(pool(model, batch), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_packed_vectors_match_padded_ones_in_a_large_batch(kind: str) -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in random.integers(1, 33, 200)]
    model, batch = make_model(kind).eval(), pack(make_tokens(rows))
    assert batch.ids.shape[1] == 2 * 34  # a row is twice the longest name here
    for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
        torch.testing.assert_close(pool(model, batch), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", [0, 1])
def test_packed_gradients_match_padded_ones(kind: str, pool: int) -> None:
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


def test_vector_does_not_depend_on_other_names_of_the_row() -> None:
    model = make_model("xlm-roberta").eval()
    alone = pack(make_tokens([[7, 8, 9]]))
    among = pack(make_tokens([[30, 31, 32], [7, 8, 9], [33], [40, 41, 42]]))
    with torch.no_grad():
        for pool in POOLS:
            torch.testing.assert_close(pool(model, among)[1], pool(model, alone)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("inner", "outer"), [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_is_active_in_training_only(inner: float, outer: float) -> None:
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
def test_dropout_has_its_rate_everywhere_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    states = torch.ones(1003, 401, dtype=dtype, requires_grad=True)
    out = _dropout(states, torch.nn.Dropout(rate))
    dropped = (out == 0).double().flatten()
    tolerance = 5 * (rate * (1 - rate) / (len(dropped) // 4)) ** 0.5
    for lane in range(4):  # the four parts of each random number
        assert abs(dropped[lane::4].mean().item() - rate) < tolerance
    assert abs(torch.corrcoef(torch.stack([dropped[:-1], dropped[1:]]))[0, 1].item()) < 0.01
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - rate)))
    out.backward(torch.ones_like(out))
    torch.testing.assert_close(states.grad, out.detach())


def test_padded_states_support_other_architectures() -> None:
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
def test_pack_keeps_every_token_once_at_the_stated_position(rows: list[list[int]]) -> None:
    tokens = make_tokens(rows)
    batch = pack(tokens)
    ids, position_ids, segment_ids = (
        part.flatten().tolist() for part in (batch.ids, batch.position_ids, batch.segment_ids)
    )
    size, free = batch.ids.shape[1], set(range(len(ids)))
    for row, start, slot in zip(rows, batch.starts.tolist(), batch.slots.tolist(), strict=True):
        positions = range(start, start + len(row) + 2)
        assert [ids[at] for at in positions] == [0, *row, 2]
        assert [position_ids[at] for at in positions] == list(range(len(positions)))
        assert {(at // size, segment_ids[at]) for at in positions} == {divmod(slot, batch.q)}
        assert free.issuperset(positions)
        free -= set(positions)
    assert all(segment_ids[at] == -1 for at in free)
    assert len(set(batch.slots.tolist())) == len(rows)


def test_packed_rows_are_almost_full() -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in np.minimum(random.poisson(6, 512) + 1, 23)]
    batch = pack(make_tokens(rows))
    assert batch.ids.shape[1] == 64
    assert batch.segment_ids.eq(-1).float().mean() < 0.03


Name = list[tuple[int, float]]  # of each token its id and its random number
# sometimes equal to a rate, which is where an off-by-one would show
numbers = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True)
numbered_names = st.lists(st.lists(st.tuples(st.integers(0, 250_001), numbers), min_size=2, max_size=9), max_size=9)
rates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.999]) | st.floats(0, 1, exclude_max=True)


def tokens_of(names: list[Name]) -> Tokens:
    ids = [token for name in names for token, _ in name]
    return Tokens(np.array(ids, np.int32), np.cumsum([0, *map(len, names)]))


def as_lists(tokens: Tokens) -> list[list[int]]:
    return [tokens.ids[start:end].tolist() for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def drop_by_loop(name: Name, rate: float) -> list[int]:
    first, *inner, last = name
    kept = [token for token, number in inner if number >= rate]
    return [first[0], *(kept or [token for token, _ in inner]), last[0]]


@given(names=numbered_names, rate=rates)
def test_drop_tokens_matches_a_plain_loop(names: list[Name], rate: float) -> None:
    tokens, random = tokens_of(names), np.array([number for name in names for _, number in name])
    before = tokens.ids.copy(), tokens.offsets.copy()
    found = drop_tokens(tokens, rate, random)
    assert as_lists(found) == [drop_by_loop(name, rate) for name in names]
    assert (found.ids.dtype, found.offsets.dtype) == (np.int32, np.int64)  # as `pack` expects them
    assert found.offsets[-1] == len(found.ids)
    assert all(map(np.array_equal, before, (tokens.ids, tokens.offsets)))


def test_drop_tokens_leaves_out_the_given_fraction() -> None:
    """20,000 inner tokens in names of ten; at this rate only one name in 10⁵ loses all and stays whole."""
    tokens = Tokens(np.arange(24_000, dtype=np.int32) % 12, np.arange(0, 24_001, 12))
    left = drop_tokens(tokens, 0.3, np.random.default_rng(0).random(24_000))
    assert abs(1 - (len(left.ids) - 4000) / 20_000 - 0.3) < 0.016  # five standard deviations
    at = left.ids[(left.ids > 0) & (left.ids < 11)]
    counts = np.bincount(at)[1:]
    assert ((counts > 1300) & (counts < 1500)).all()  # the same for every position


@given(names=numbered_names.filter(len), data=st.data())
def test_count_and_take_match_plain_loops(names: list[Name], data: st.DataObject) -> None:
    """Rows in any order, some of them twice, or none."""
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=12))
    tokens, at = tokens_of(names), np.array(rows, np.int64)
    assert tokens.count(at) == sum(len(names[row]) for row in rows)
    assert as_lists(tokens.take(at)) == [[token for token, _ in names[row]] for row in rows]
    assert type(tokens.count(at)) is int  # it goes into JSON
