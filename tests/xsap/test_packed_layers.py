"""Packed models against the padded Hugging Face models, in vectors and gradients; int8, trimmed tables and smaller vocabularies on them."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    FNetConfig,
    FNetModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.fixtures.encoders import LOWER, TRAIN_TOKENIZER
from tests.fixtures.examples import examples
from xsap import Encoder
from xsap.encoding.int8 import to_int8
from xsap.encoding.layers import transformer_layers
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packed_layers import Between, _dropout, can_pack, packed_first, packed_mean, packed_states
from xsap.encoding.packing import Tokens, drop_tokens, pack, padded_states, tokenize_names
from xsap.encoding.vocabulary import shrink_to
from xsap.text import normalize_all
from xsap.training.embedding_table import trim, whole_table

PIECES, POSITIONS = 50, 240
HEADS = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
COMMON = HEADS | {"hidden_size": 32, "max_position_embeddings": POSITIONS}
MODERN = COMMON | {"pad_token_id": 1, "bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": POSITIONS}
Model = torch.nn.Module


def _bert_like(config: type, model: type, **more: object) -> Callable[..., Model]:
    return lambda **changed: model(config(**{"vocab_size": PIECES} | COMMON | NO_DROPOUT | more | changed))


# each takes settings that differ
MODELS: dict[str, Callable[..., Model]] = {
    "xlm-roberta": _bert_like(XLMRobertaConfig, XLMRobertaModel, type_vocab_size=1),
    "roberta": _bert_like(RobertaConfig, RobertaModel, type_vocab_size=1),
    "camembert": _bert_like(CamembertConfig, CamembertModel, type_vocab_size=1),
    "bert": _bert_like(BertConfig, BertModel),
    "electra": _bert_like(ElectraConfig, ElectraModel, embedding_size=32),
    "electra-small": _bert_like(ElectraConfig, ElectraModel, embedding_size=16),
    "mpnet": _bert_like(MPNetConfig, MPNetModel),
    "distilbert": lambda **changed: DistilBertModel(
        DistilBertConfig(**{"vocab_size": PIECES, "dropout": 0.0, "attention_dropout": 0.0} | DISTIL | changed)
    ),
    "modernbert": lambda **changed: ModernBertModel(
        ModernBertConfig(**{"vocab_size": PIECES, "local_attention": 8} | MODERN | changed)
    ),
    "modernbert-biased": lambda **changed: ModernBertModel(
        ModernBertConfig(
            **{"vocab_size": PIECES, "attention_bias": True, "mlp_bias": True, "norm_bias": True} | MODERN | changed
        )
    ),
}
NEW = ("electra", "mpnet", "distilbert", "modernbert")  # one of each new structure
names_of_tokens = st.lists(st.lists(st.integers(5, 49), min_size=1, max_size=12), min_size=1, max_size=12)


def make_tokens(rows: list[list[int]]) -> Tokens:
    rows = [[0, *row, 2] for row in rows]
    return Tokens(np.concatenate(rows).astype(np.int32), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


def randomize(model: Model) -> Model:
    """At the initial scale attention between names would hardly show, and no bias would."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data += 1  # otherwise the last layers would add little
    return model


def make_model(kind: str, **changed: object) -> Model:
    torch.manual_seed(0)
    return randomize(MODELS[kind](**changed))


def padded_pools(model: Model, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
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


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", MODELS)
@given(rows=names_of_tokens)
@settings(max_examples=examples(12), deadline=None)
def test_packed_vectors_match_padded_ones(kind: str, training: bool, rows: list[list[int]]) -> None:
    """In training mode without dropout, too."""
    model = make_model(kind).train(training)
    batch = pack(make_tokens(rows))
    assert can_pack(model)
    for grad in (False, True):  # two attention kernels
        with torch.set_grad_enabled(grad):
            for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
                assert_close(pool(model, batch), padded)


@pytest.mark.parametrize("kind", MODELS)
def test_packed_vectors_match_padded_ones_in_a_large_batch(kind: str) -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in random.integers(1, 33, 200)]
    model, batch = make_model(kind).eval(), pack(make_tokens(rows))
    assert batch.ids.shape[1] == 2 * 34  # a row is twice the longest name here
    with torch.no_grad():
        for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
            assert_close(pool(model, batch), padded)


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("kind", NEW)
def test_long_texts_match_padded_ones(kind: str, layers: int) -> None:
    """200 tokens: beyond ModernBERT's window of 64 to each side and MPNet's last exact distance, with any kind of last layer."""
    random = np.random.default_rng(1)
    rows = [random.integers(5, 50, size).tolist() for size in (198, 1, 64, 65, 63, 130, 5)]
    changed = {"n_layers": layers} if kind == "distilbert" else {"num_hidden_layers": layers}
    model = make_model(kind, **changed | ({"local_attention": 128} if kind == "modernbert" else {})).eval()
    batch = pack(make_tokens(rows))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for pool, padded in zip(POOLS, padded_pools(model, rows), strict=True):
                assert_close(pool(model, batch), padded)


def test_local_window_has_an_effect_on_long_texts_only() -> None:
    """Otherwise the test above would show nothing."""
    narrow, wide = (make_model("modernbert", local_attention=width).eval() for width in (128, 512))
    with torch.no_grad():
        for size, same in ((62, True), (150, False)):
            batch = pack(make_tokens([np.random.default_rng(0).integers(5, 50, size).tolist()]))
            assert torch.allclose(packed_mean(narrow, batch), packed_mean(wide, batch), atol=1e-6) == same


def gradients(model: Model, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a model in float64, because some are sums of zero: a key's bias adds the same to all scores of a query."""
    model.zero_grad()
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    (vectors * weights.to(vectors.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(packed: dict[str, torch.Tensor], padded: dict[str, torch.Tensor]) -> None:
    assert packed.keys() == padded.keys()
    for name, gradient in padded.items():
        scale = gradient.abs().max().item() or 1.0
        assert (packed[name] - gradient).abs().max().item() <= 1e-5 * scale + 1e-6, name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pool", [0, 1])
def test_packed_gradients_match_padded_ones(kind: str, pool: int) -> None:
    model = make_model(kind).train().double()
    rows = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16], [7, 9, 8], [20, 21, 22]]
    rows += [[5, 6, number] for number in range(8, 40)]
    packed = gradients(model, POOLS[pool](model, pack(make_tokens(rows))))
    assert_same_gradients(packed, gradients(model, padded_pools(model, rows)[pool]))


@pytest.mark.parametrize("kind", NEW)
@given(rows=names_of_tokens, pool=st.sampled_from([0, 1]))
@settings(max_examples=examples(8), deadline=None)
def test_packed_gradients_match_padded_ones_for_any_names(kind: str, rows: list[list[int]], pool: int) -> None:
    model = make_model(kind).train().double()
    packed = gradients(model, POOLS[pool](model, pack(make_tokens(rows))))
    assert_same_gradients(packed, gradients(model, padded_pools(model, rows)[pool]))


def test_gradients_of_mpnet_biases_match_padded_ones_where_only_they_are_trained() -> None:
    model = make_model("mpnet").eval().double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "relative_attention_bias" in name
    rows = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16], [20, 21]]
    packed = gradients(model, packed_mean(model, pack(make_tokens(rows))))
    padded = gradients(model, padded_pools(model, rows)[1])
    assert len(padded) == 1
    assert_same_gradients(packed, padded)


@pytest.mark.parametrize("kind", MODELS)
@given(rows=names_of_tokens, data=st.data())
@settings(max_examples=examples(8), deadline=None)
def test_vector_does_not_depend_on_order_and_neighbors(kind: str, rows: list[list[int]], data: st.DataObject) -> None:
    model = make_model(kind).eval()
    order = data.draw(st.permutations(range(len(rows))))
    others = data.draw(names_of_tokens)
    with torch.no_grad():
        for pool in POOLS:
            plain = pool(model, pack(make_tokens(rows)))
            changed = pool(model, pack(make_tokens([*(rows[i] for i in order), *others])))
            assert_close(changed[: len(rows)], plain[list(order)])


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_changes_the_vectors(kind: str) -> None:
    """So that the comparisons with the padded model would show a parameter that is left out."""
    model = make_model(kind).eval().double()
    batch = pack(make_tokens([[7, 8, 9, 10, 11, 12, 13], [10]]))
    packed = gradients(model, packed_states(model, batch))
    for name, _ in model.named_parameters():
        if "pooler" not in name:  # that belongs to the padded model alone
            assert packed[name].abs().max() > 1e-6 or name.endswith(("key.bias", "k.bias", "k_lin.bias")), name


DROPOUTS = {
    "xlm-roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "mpnet": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "distilbert": ("dropout", "attention_dropout"),
    "modernbert": ("embedding_dropout", "attention_dropout", "mlp_dropout"),
}


@pytest.mark.parametrize(("kind", "place"), [(kind, place) for kind, places in DROPOUTS.items() for place in places])
def test_dropout_is_active_in_training_only(kind: str, place: str) -> None:
    model = make_model(kind, **{place: 0.5}).train()
    batch = pack(make_tokens([[7, 8, 9], [10, 11]]))
    assert not torch.equal(packed_states(model, batch), packed_states(model, batch))
    torch.testing.assert_close(packed_states(model.eval(), batch), packed_states(model, batch))


@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_of_every_rate_is_where_the_padded_model_has_it(kind: str) -> None:
    """The variance of each state over many draws, which a missing or a second dropout would change."""
    places = DROPOUTS[kind]
    layers = {"n_layers": 1} if kind == "distilbert" else {"num_hidden_layers": 1}
    model = make_model(kind, **layers, **dict(zip(places, (0.2, 0.4, 0.6), strict=False))).train()
    row, n = [7, 8, 9], 3000
    torch.manual_seed(5)
    with torch.no_grad():
        packed = packed_mean(model, pack(make_tokens([row] * n))).double()
        padded = padded_pools(model, [row] * n)[1].double()
    assert packed.std(0).min() > 0.01
    ratios = packed.std(0) / padded.std(0)
    assert (ratios - 1).abs().max() < 6 / (2 * n) ** 0.5 * 2**0.5
    errors = (packed.std(0) ** 2 / n + padded.std(0) ** 2 / n) ** 0.5
    assert ((packed.mean(0) - padded.mean(0)).abs() < 5 * errors).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_has_its_rate_everywhere_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    states = torch.ones(1003, 401, dtype=dtype, requires_grad=True)
    out = _dropout(states, rate)
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
    model = FNetModel(FNetConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=64)).eval()
    assert not can_pack(model)
    other = MODELS["bert"](is_decoder=True)
    assert not can_pack(other)


def test_padded_states_pad_to_the_given_length() -> None:
    for kind in ("xlm-roberta", "modernbert"):
        model = make_model(kind).eval()
        rows = [[7, 8, 9], [10]]
        batch = pack(make_tokens(rows))
        with torch.no_grad():
            states = padded_states(model, batch, length=9, pad_id=1)
            ids = torch.tensor([[0, 7, 8, 9, 2, 1, 1, 1, 1], [0, 10, 2, 1, 1, 1, 1, 1, 1]])
            torch.testing.assert_close(states, model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state)


def train_mpnet(names: list[str]) -> MPNetTokenizer:
    pieces = [piece for piece in TRAIN_TOKENIZER["WordPiece"](names).get_vocab() if piece[0] + piece[-1] != "[]"]
    pieces = ["<s>", "<pad>", "</s>", "[UNK]", *sorted(pieces), "<mask>"]
    return MPNetTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


TOKENIZERS: dict[str, Callable[[list[str]], PreTrainedTokenizerFast]] = {
    "electra": TRAIN_TOKENIZER["WordPiece"],
    "distilbert": TRAIN_TOKENIZER["WordPiece"],
    "mpnet": train_mpnet,
    "modernbert": TRAIN_TOKENIZER["BPE"],
}


@pytest.fixture(scope="module", params=NEW)
def encoder(request: pytest.FixtureRequest, sample_names: list[str]) -> Encoder:
    """One of each new architecture with a tokenizer of the type that its published models have."""
    tokenizer = TOKENIZERS[request.param](normalize_all(sample_names, LOWER))
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls")}
    changed = special | {"vocab_size": len(tokenizer)}
    return Encoder(make_model(request.param, **changed), tokenizer, EncoderConfig("mean", 32, LOWER)).eval()


def pooled(encoder: Encoder, pooling: str, dtype: str = "float32") -> Encoder:
    other = Encoder(encoder.transformer, encoder.tokenizer, EncoderConfig(pooling, 32, LOWER)).eval()
    other.dtype = dtype
    return other


def padded_vectors(encoder: Encoder, names: list[str]) -> np.ndarray:
    """Unit vectors by transformers alone."""
    rows = encoder.tokenizer(
        normalize_all(names, LOWER),
        padding="max_length" if encoder.pooling == "mean_all" else True,
        truncation=True,
        max_length=32,
        return_tensors="pt",
    )
    mask = rows["attention_mask"]
    with torch.no_grad():
        states = encoder.transformer(input_ids=rows["input_ids"], attention_mask=mask).last_hidden_state
    if encoder.pooling == "mean":
        vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    else:
        vectors = states[:, 0] if encoder.pooling == "cls" else states.mean(1)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_encoded_names_match_the_padded_model(encoder: Encoder, pooling: str, sample_names: list[str]) -> None:
    some, names = pooled(encoder, pooling), sample_names[:150]
    np.testing.assert_allclose(some.encode(names), padded_vectors(some, names), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_int8_encoder_is_near_the_same_in_float32(encoder: Encoder, pooling: str, sample_names: list[str]) -> None:
    """And packed names are near padded ones in int8: the codes of a token depend on this token alone."""
    names = sample_names[:150]
    rounded = pooled(copy.deepcopy(encoder), pooling, "int8")
    to_int8(rounded.transformer, lambda: rounded.encode(sample_names[150:250]))
    layers = transformer_layers(rounded.transformer)
    assert not any(isinstance(module, torch.nn.Linear) for layer in layers for module in layer.modules())
    vectors = rounded.encode(names)
    assert np.einsum("ij,ij->i", vectors, pooled(encoder, pooling).encode(names)).min() > 0.99
    assert np.einsum("ij,ij->i", vectors, padded_vectors(rounded, names)).min() > 0.999


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_trimmed_embedding_table_gives_the_same_vectors_and_gradients(
    encoder: Encoder, pooling: str, sample_names: list[str]
) -> None:
    whole, part = (pooled(copy.deepcopy(encoder), pooling) for _ in range(2))
    tokens = tokenize_names(normalize_all(sample_names[:40], LOWER), encoder.tokenizer, 32)
    before = whole.transformer.get_input_embeddings().weight.detach().clone()
    table = trim(part.transformer, tokens, encoder.tokenizer.all_special_ids)
    assert len(table.rows) < 0.5 * len(before)
    for some, names in ((whole, tokens), (part, table.renumber(tokens))):
        vectors = some(pack(names))
        (vectors @ vectors.T).exp().sum().backward()
    weights, trimmed = (some.transformer.get_input_embeddings().weight for some in (whole, part))
    scale = weights.grad.abs().max()
    assert (weights.grad[table.rows] - trimmed.grad).abs().max() <= 1e-5 * scale
    others = dict(part.transformer.named_parameters())
    for name, parameter in whole.transformer.named_parameters():
        if parameter is not weights and parameter.grad is not None:
            assert (parameter.grad - others[name].grad).abs().max() <= 1e-5 * scale, name
    with whole_table(part.transformer, table, 1.0):
        torch.testing.assert_close(part.transformer.get_input_embeddings().weight.detach(), before)
        some = sample_names[::10]
        np.testing.assert_allclose(part.encode(some), whole.encode(some), atol=1e-5)


def test_shrunk_and_saved_model_gives_the_same_vectors(
    encoder: Encoder, sample_names: list[str], tmp_path: Path
) -> None:
    names = sample_names[:60]
    smaller = shrink_to(encoder, names)
    assert len(smaller.tokenizer) < 0.8 * len(encoder.tokenizer)
    smaller.save_pretrained(tmp_path / "small")
    reopened = Encoder.from_pretrained(tmp_path / "small")
    assert can_pack(reopened.transformer)
    np.testing.assert_allclose(reopened.encode(names), encoder.encode(names), atol=1e-5)
    # by transformers alone
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "small"), AutoTokenizer.from_pretrained(tmp_path / "small")
    plain = Encoder(model, tokenizer, smaller.config).eval()
    np.testing.assert_allclose(padded_vectors(plain, names), encoder.encode(names), atol=1e-5)


# Packing: token arrays against plain loops.


@given(rows=names_of_tokens)
@settings(max_examples=examples(60), deadline=None)
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


LAYER_LISTS = {"distilbert": "transformer.layer", "modernbert": "layers", "modernbert-biased": "layers"}


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_change_between_layers_matches_a_hook_on_the_padded_model(kind: str, layers: int) -> None:
    model, rows = make_model(kind).eval(), [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16], [20, 21]]
    batch = pack(make_tokens(rows))
    with torch.no_grad():
        states = packed_states(model, batch, Between(layers, lambda states: states * 1.5 + 0.25))
        layer = model.get_submodule(f"{LAYER_LISTS.get(kind, 'encoder.layer')}.{layers}")
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.5 + 0.25, *inputs[1:]))
        first = padded_pools(model, rows)[0]
    assert_close(states.flatten(0, 1)[batch.starts], first)
