"""An entity memory: what it computes against a padded restatement, for any batch; its entities, from an index and from another one; its folder."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
)

from tests.fixtures.encoders import TRAIN_TOKENIZER, tiny_encoder
from tests.fixtures.examples import examples
from tests.fixtures.memories import CONFIG, WORDS, index_of, random_table, tiny_memory
from xsap import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import PackedBatch, Tokens, pack
from xsap.errors import ArtifactError, ConfigError
from xsap.text import TextPolicy
from xsap.text_in.memory import NIL, EntityMemoryModel, MemoryConfig, locate_spans
from xsap.text_in.memory_annotate import annotate_with_memory, link_spans
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import (
    BEGIN,
    INSIDE,
    OUTSIDE,
    TokenSpans,
    decode_spans,
    find_token_spans,
    label_tokens,
    tokenize_texts,
    whole_words,
    word_pieces,
)

TERMS = {
    "C1": ["fever", "high fever"],
    "C2": ["cough"],
    "C3": ["chest pain", "pain"],
    "C4": ["acute kidney failure"],
    "C5": ["headache"],
    "C6": ["heart attack"],
}
texts_of_words = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=5
)


def make_tokens(rows: list[list[int]]) -> Tokens:
    return Tokens(np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]))


def padded_restatement(
    memory: EntityMemoryModel, row: list[int], spans: list[tuple[int, int]] | None
) -> dict[str, object]:
    """What the memory computes of one text, by the layers of the Hugging Face model, with 5 tokens of padding, span by span."""
    transformer, below = memory.encoder.transformer, memory.config.context_layers
    pad = transformer.config.pad_token_id
    ids = torch.tensor([row + [pad] * 5])
    mask = (torch.arange(ids.shape[1]) < len(row))[None, None, None, :].double()
    scores = (1 - mask) * torch.finfo(torch.float64).min
    states = transformer.embeddings(input_ids=ids)
    for layer in transformer.encoder.layer[:below]:
        states = layer(states, scores)
    detection = memory.detector(states)
    if spans is None:
        spans, open_at = [], None
        labels = detection[0, : len(row)].argmax(-1).tolist()
        for position in range(1, len(row) - 1):  # a word has the label of its first token
            before, here = memory.encoder.tokenizer.convert_ids_to_tokens(row[position - 1 : position + 1])
            starts = (
                here.startswith(("\u2581", "\u0120"))
                or before in ("\u2581", "\u0120")
                or not here.removeprefix("##")[0].isalnum()
            )
            if memory.encoder.transformer.config.model_type == "bert":
                starts = not here.startswith("##")
            if position > 1 and not starts and before[-1].isalnum():
                labels[position] = OUTSIDE if labels[position - 1] == OUTSIDE else INSIDE
        before = list(labels)
        for position in range(1, len(row) - 1):  # a blank is inside if both of its sides are
            if memory.encoder.tokenizer.convert_ids_to_tokens(row[position]) in ("\u2581", "\u0120"):
                inside = before[position - 1] != OUTSIDE and before[position + 1] == INSIDE
                labels[position] = INSIDE if inside else OUTSIDE
        for position, label in enumerate([*labels[1:-1], OUTSIDE], start=1):
            if open_at is not None and label != INSIDE:
                spans.append((open_at, position))
                open_at = None
            if label == BEGIN or (label == INSIDE and open_at is None):
                open_at = position
    added = torch.zeros_like(states)
    nil = memory.nil / memory.nil.norm()
    tops = []
    for start, end in spans:
        query = memory.projection(torch.cat([states[0, start], states[0, end - 1]]))
        query = query / query.norm()
        cosines = memory.vectors @ query
        best = cosines.argsort(descending=True)[: memory.config.candidates]
        weights = (torch.cat([cosines[best], (nil @ query)[None]]) * memory.log_scale.exp()).softmax(-1)
        tops.append([*best.tolist(), NIL])
        mean = (
            sum(weight * memory.vectors[entity] for weight, entity in zip(weights, best, strict=False))
            + weights[-1] * nil
        )
        for position in range(start, end):
            added[0, position] += memory.to_hidden(mean)
    states = memory.norm(states + added)
    for layer in transformer.encoder.layer[below:]:
        states = layer(states, scores)
    return {"states": states[0, : len(row)], "spans": spans, "candidates": tops}


def with_padding(batch: PackedBatch, columns: int, rows: int) -> PackedBatch:
    """The batch with empty columns and rows after its own."""
    size = batch.ids.shape[1]
    ids, position_ids, segment_ids = (
        F.pad(part, (0, columns, 0, rows), value=value)
        for part, value in ((batch.ids, 0), (batch.position_ids, 0), (batch.segment_ids, -1))
    )
    starts = batch.starts + batch.starts // size * columns
    return dataclasses.replace(batch, ids=ids, position_ids=position_ids, segment_ids=segment_ids, starts=starts)


def states_by_text(
    memory: EntityMemoryModel, tokens: Tokens, spans: TokenSpans | None = None, *, padding: tuple[int, int] = (0, 0)
) -> list[torch.Tensor]:
    batch = with_padding(pack(tokens), *padding)
    output = memory(batch, None if spans is None else locate_spans(batch, spans))
    flat = output.states.flatten(0, 1)
    return [
        flat[start : start + length]
        for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
@pytest.mark.parametrize("given_spans", [False, True])
def test_memory_matches_the_padded_restatement(kind: str, given_spans: bool) -> None:
    memory = tiny_memory(kind).double()
    tokenized = tokenize_texts(
        ["Acute kidney failure and chest pain", "fever", "no signs of heart attack with cough"],
        memory.encoder.tokenizer,
        memory.encoder.policy,
        24,
    )
    spans = None
    if given_spans:
        spans = TokenSpans(np.array([0, 0, 2]), np.array([1, 2, 3]), np.array([3, 4, 5]))  # the first two overlap
    with torch.no_grad():
        found = states_by_text(memory, tokenized.tokens, spans)
        terms = 0
        for number, states in enumerate(found):
            row = tokenized.tokens.take(np.array([number])).ids.tolist()
            own = None
            if spans is not None:
                own = [(int(s), int(e)) for t, s, e in zip(*spans, strict=True) if t == number]
            expected = padded_restatement(memory, row, own)
            torch.testing.assert_close(states, expected["states"], atol=1e-9, rtol=1e-9)
            terms += len(expected["spans"])  # type: ignore[arg-type]
    assert terms


SIZE = {"vocab_size": 50, "max_position_embeddings": 64}
LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "hidden_size": 32}
OTHERS = {
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**SIZE, dim=32, n_layers=3, n_heads=4, hidden_dim=64)),
    "electra-small": lambda: ElectraModel(ElectraConfig(**SIZE, **LAYERS, embedding_size=16)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SIZE, **LAYERS), add_pooling_layer=False),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(
            **SIZE,
            **LAYERS,
            local_attention=8,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
            eos_token_id=2,
            sep_token_id=2,
        )
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_memory_works_on_other_architectures(kind: str) -> None:
    """A text alone and with others has the same states, a memory shows in them, and all weights get a gradient."""
    torch.manual_seed(0)
    encoder = Encoder(OTHERS[kind](), None, EncoderConfig("mean"))  # type: ignore[arg-type]
    memory = EntityMemoryModel(encoder, random_table(), dataclasses.replace(CONFIG, context_layers=2)).double().eval()
    torch.nn.init.normal_(memory.to_hidden.weight)
    rows = [[1, 7, 8, 9, 2], [1, 10, 2], [1, 11, 12, 13, 14, 15, 2]]
    spans = TokenSpans(np.array([0, 2]), np.array([1, 2]), np.array([3, 5]))
    together = states_by_text(memory, make_tokens(rows), spans)
    alone = states_by_text(memory, make_tokens(rows[2:]), TokenSpans(*(np.array([v]) for v in (0, 2, 5))))[0]
    torch.testing.assert_close(together[2], alone, atol=1e-8, rtol=1e-8)
    logits = memory.language_head(together[2], encoder.transformer.get_input_embeddings().weight)
    assert logits.shape == (7, 50)
    logits.sum().backward()
    assert memory.to_hidden.weight.grad is not None
    memory.feedback = False
    off = states_by_text(memory, make_tokens(rows), spans)
    assert (off[2] - together[2]).abs().max() > 1e-2
    torch.testing.assert_close(off[1], together[1])


class Case(NamedTuple):
    """Texts, the order they are given in, tokens of a batch, and empty columns and rows that are added to a batch."""

    texts: list[str]
    order: list[int]
    size: int
    columns: int
    rows: int


def assert_independent(case: Case) -> None:
    """Each text alone, in any order, in batches of any size and with any padding gives the same spans, entities, probabilities and states."""
    texts, order, size, columns, rows = case
    memory = MEMORY.value
    tokenizer, policy = memory.encoder.tokenizer, memory.encoder.policy
    with torch.no_grad():
        alone = [states_by_text(memory, tokenize_texts([text], tokenizer, policy, 24).tokens)[0] for text in texts]
        tokens = tokenize_texts([texts[i] for i in order], tokenizer, policy, 24).tokens
        for together in (states_by_text(memory, tokens), states_by_text(memory, tokens, padding=(columns, rows))):
            for number, states in zip(order, together, strict=True):
                torch.testing.assert_close(states, alone[number], atol=1e-8, rtol=1e-8)
    expected = [annotate_with_memory(memory, [text])[0] for text in texts]
    found = annotate_with_memory(memory, [texts[i] for i in order], tokens_per_batch=size)
    for number, spans in zip(order, found, strict=True):
        assert [span._replace(probability=0.0) for span in spans] == [
            span._replace(probability=0.0) for span in expected[number]
        ]
        assert [span.probability for span in spans] == pytest.approx(
            [span.probability for span in expected[number]], abs=1e-6
        )


class _Memory:
    """One memory for all examples, in float64, where no label of a token depends on rounding."""

    def __init__(self) -> None:
        self._value: EntityMemoryModel | None = None

    @property
    def value(self) -> EntityMemoryModel:
        if self._value is None:
            self._value = tiny_memory().double()
        return self._value


MEMORY = _Memory()
cases = texts_of_words.flatmap(
    lambda texts: st.builds(
        Case,
        st.just(texts),
        st.permutations(range(len(texts))),
        st.integers(1, 100),
        st.integers(0, 40),
        st.integers(0, 2),
    )
)


@given(case=cases)
@settings(max_examples=25, deadline=None)
def test_no_output_depends_on_padding_order_or_other_texts(case: Case) -> None:
    assert_independent(case)


@pytest.mark.slow
@given(case=cases)
@settings(max_examples=1000, deadline=None)
def test_no_output_depends_on_padding_order_or_other_texts_in_1000_cases(case: Case) -> None:
    assert_independent(case)


def test_memory_off_changes_states_but_neither_spans_nor_entities() -> None:
    memory = tiny_memory()
    tokenized = tokenize_texts(
        ["acute kidney failure and chest pain"], memory.encoder.tokenizer, memory.encoder.policy, 24
    )
    batch = pack(tokenized.tokens)
    with torch.no_grad():
        on = memory(batch)
        memory.feedback = False
        off = memory(batch)
    assert len(on.spans.first)
    assert (on.states - off.states).abs().max() > 1e-3
    for name in ("detection", "queries", "candidates", "weights"):
        torch.testing.assert_close(getattr(on, name), getattr(off, name))


@pytest.mark.parametrize("part", [1, 3, 11, 100])
def test_most_similar_entities_match_a_sort_of_all(part: int) -> None:
    memory = tiny_memory()
    queries = F.normalize(torch.randn(7, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    with torch.no_grad():
        rows, logits = memory.most_similar(queries, entities_per_part=part)
        everything = memory.logits_of(queries, torch.arange(11))
        expected, order = everything.sort(1, descending=True)
        torch.testing.assert_close(rows[:, :-1], order[:, :4])
        torch.testing.assert_close(logits[:, :-1], expected[:, :4])
        torch.testing.assert_close(logits[:, -1:], memory.logits_of(queries, torch.tensor([NIL])))
    assert (rows[:, -1] == NIL).all()


def test_new_norm_hardly_changes_the_states_of_a_post_norm_model() -> None:
    encoder = tiny_encoder(TRAIN_TOKENIZER["WordPiece"](WORDS * 3), "WordPiece")
    for module in encoder.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data.uniform_(0.4, 0.8, generator=torch.Generator().manual_seed(0))
    memory = EntityMemoryModel(encoder, random_table(), CONFIG)
    tokenized = tokenize_texts(["fever cough chest pain"], encoder.tokenizer, encoder.policy, 24)
    with torch.no_grad():
        lower = memory(pack(tokenized.tokens)).lower
        change, of_a_default_norm = memory.norm(lower) - lower, F.layer_norm(lower, lower.shape[-1:]) - lower
    assert change.norm() < 0.4 * of_a_default_norm.norm()


# Spans of tokens


def test_offsets_of_tokens_are_exact_in_the_text_as_given() -> None:
    encoder = tiny_encoder(TRAIN_TOKENIZER["BPE"](WORDS * 3), "BPE")
    text = "  Fe\u0301VER,\r\n\u200bcough \ufb01ne \u0130a \u2163 \U0001f468\u200d\u2695\ufe0f pain"
    tokenized = tokenize_texts([text, "", " \u200b "], encoder.tokenizer, encoder.policy, 100)
    own = range(1, int(tokenized.tokens.lengths[0]) - 1)
    covered = set()
    for i in own:
        covered |= set(range(tokenized.starts[i], tokenized.ends[i]))
    assert {text[i] for i in range(len(text)) if i not in covered} <= set(" \r\n\u200b")
    assert tokenized.tokens.lengths.tolist()[1:] == [2, 2]


def test_long_text_is_split_at_ends_of_sentences() -> None:
    encoder = tiny_encoder(TRAIN_TOKENIZER["WordPiece"](WORDS * 3), "WordPiece")
    text = "fever and cough. " * 30
    tokenized = tokenize_texts(["pain", text], encoder.tokenizer, encoder.policy, 16)
    assert tokenized.tokens.lengths.max() <= 16
    assert tokenized.sources.tolist() == [0] + [1] * (len(tokenized.tokens) - 1)
    starts = tokenized.starts[tokenized.tokens.offsets[1:-1] + 1]
    assert len(starts) > 3
    assert all(text[start:].startswith("fever") for start in starts)


@given(texts=texts_of_words, data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_spans_of_characters_come_back_from_labels_of_tokens(texts: list[str], data: st.DataObject) -> None:
    memory = MEMORY.value
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, 200)
    wanted = []
    for number, text in enumerate(texts):
        words = text.split()
        cuts = sorted(data.draw(st.sets(st.integers(0, len(words)), max_size=4)))
        for first, after in zip(cuts[::2], cuts[1::2], strict=False):
            start = len(" ".join(words[:first])) + (first > 0)
            wanted.append((number, start, len(" ".join(words[:after]))))
    spans, rows = find_token_spans(tokenized, np.array(wanted, np.int64).reshape(-1, 3))
    assert rows.tolist() == list(range(len(wanted)))
    decoded = decode_spans(label_tokens(tokenized.tokens, spans), tokenized.tokens)
    assert tokenized.characters(decoded).tolist() == [list(each) for each in wanted]


def test_first_and_longest_of_overlapping_spans_gets_the_labels() -> None:
    tokens = make_tokens([[2, 5, 6, 7, 3], [2, 5, 3]])
    spans = TokenSpans(np.array([0, 0, 0, 1]), np.array([2, 1, 1, 1]), np.array([4, 2, 3, 2]))
    assert label_tokens(tokens, spans).tolist() == [0, BEGIN, INSIDE, 0, 0, 0, BEGIN, 0]


def test_labels_are_decoded_as_a_loop_does() -> None:
    random = np.random.default_rng(0)
    rows = [[0] * size for size in random.integers(2, 12, 40)]
    tokens = make_tokens(rows)
    labels = random.integers(0, 3, len(tokens.ids))
    expected = []
    for text in range(len(rows)):
        start = None
        for position in range(1, len(rows[text]) - 1):
            label = labels[tokens.offsets[text] + position]
            if start is not None and label != INSIDE:
                expected.append((text, start, position))
                start = None
            if label == BEGIN or (label == INSIDE and start is None):
                start = position
        if start is not None:
            expected.append((text, start, len(rows[text]) - 1))
    assert list(zip(*(column.tolist() for column in decode_spans(labels, tokens)), strict=True)) == expected


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_spans_of_any_labels_have_whole_words(kind: str, data: st.DataObject) -> None:
    """Whatever the labels are: a span begins and ends at a boundary of words, and no word's first token decides otherwise."""
    vocabulary = [*WORDS, "(feverish)", "cd4+", "kidneys,", "x-ray"]
    tokenizer = TOKENIZERS.setdefault(kind, TRAIN_TOKENIZER[kind](vocabulary * 3))
    text = data.draw(st.lists(st.sampled_from(vocabulary), min_size=1).map(" ".join))
    tokenized = tokenize_texts([text], tokenizer, TextPolicy("lower"), 512)
    ids = tokenized.tokens.ids.astype(np.int64)
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(ids), max_size=len(ids))), np.int64)
    words = whole_words(labels, ids, word_pieces(tokenizer))
    spans = tokenized.characters(decode_spans(words, tokenized.tokens)).tolist()
    for _, start, end in spans:
        assert not (start and text[start - 1 : start].isalnum() and text[start].isalnum())
        assert not (text[end - 1].isalnum() and text[end : end + 1].isalnum())
    np.testing.assert_array_equal(whole_words(words, ids, word_pieces(tokenizer)), words)


TOKENIZERS: dict[str, object] = {}


def test_characters_of_scripts_without_spaces_are_words() -> None:
    tokenizer = TRAIN_TOKENIZER["Unigram"](["発熱", "発熱する", "fever", "feverish", "頭痛"] * 3)
    tokenized = tokenize_texts(["発熱する feverish"], tokenizer, TextPolicy(), 64)
    ids = tokenized.tokens.ids.astype(np.int64)
    labels = np.full(len(ids), OUTSIDE)
    labels[1] = BEGIN
    at = int(np.flatnonzero(tokenized.starts == 5)[0])  # the first token of feverish
    labels[at] = BEGIN
    words = whole_words(labels, ids, word_pieces(tokenizer))
    spans = tokenized.characters(decode_spans(words, tokenized.tokens)).tolist()
    assert spans[-1][1:] == [5, 13]
    assert spans[0][2] <= 4


# Entities


@pytest.fixture(scope="module")
def saved_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    names = [name for names in TERMS.values() for name in names] + ["gastric ulcer", "broken leg", "burn", "stroke"]
    folder = tmp_path_factory.mktemp("encoder") / "model"
    tiny_encoder(TRAIN_TOKENIZER["WordPiece"](names * 3), "WordPiece").save_pretrained(folder)
    return Encoder.from_pretrained(folder)


def test_entities_of_an_index_are_its_preferred_names_in_principal_components(saved_encoder: Encoder) -> None:
    index = index_of(TERMS, saved_encoder)
    table = EntityTable.from_index(index, 4)
    assert table.entities["concept_id"].to_pylist() == list(TERMS)
    assert table.entities["preferred_name"].to_pylist() == [names[0] for names in TERMS.values()]
    vectors = saved_encoder.encode([names[0] for names in TERMS.values()]).astype(np.float64)
    centered = vectors - vectors.mean(0)
    left, values, right = np.linalg.svd(centered, full_matrices=False)
    reduced = centered @ right[:4].T
    expected = reduced / np.linalg.norm(reduced, axis=1, keepdims=True)
    signs = np.sign((expected * table.vectors).sum(0))
    np.testing.assert_allclose(table.vectors, expected * signs, atol=1e-4)
    again = EntityTable.from_index(index, 4)
    np.testing.assert_array_equal(table.vectors, again.vectors)


def test_another_index_takes_the_place_of_the_entities_without_training(saved_encoder: Encoder) -> None:
    memory = EntityMemoryModel(
        saved_encoder,
        EntityTable.from_index(index_of(TERMS, saved_encoder), 4),
        dataclasses.replace(CONFIG, entity_size=4),
    )
    others = {"D1": ["gastric ulcer"], "D2": ["broken leg"], "D3": ["burn"], "D4": ["fever"], "D5": ["stroke"]}
    swapped = memory.with_index(index_of(others, saved_encoder))
    assert swapped.table.entities["concept_id"].to_pylist() == list(others)
    fever = {"C": memory.table.vectors[0], "D": swapped.table.vectors[3]}
    np.testing.assert_allclose(fever["C"], fever["D"], atol=1e-5)  # the same name, in the same space
    assert swapped.projection is memory.projection
    back = swapped.with_index(index_of(TERMS, saved_encoder))
    text = "acute kidney failure and fever"
    assert annotate_with_memory(back, [text]) == annotate_with_memory(memory, [text])


def test_index_of_another_encoder_is_refused(saved_encoder: Encoder) -> None:
    memory = EntityMemoryModel(
        saved_encoder,
        EntityTable.from_index(index_of(TERMS, saved_encoder), 4),
        dataclasses.replace(CONFIG, entity_size=4),
    )
    other = tiny_encoder(TRAIN_TOKENIZER["WordPiece"](WORDS * 3), "WordPiece")
    with pytest.raises(
        ConfigError, match="an entity memory needs an index built with the encoder that its entities come from"
    ):
        memory.with_index(index_of(TERMS, other))


def test_given_spans_are_linked_in_any_batch(saved_encoder: Encoder) -> None:
    memory = EntityMemoryModel(
        saved_encoder,
        EntityTable.from_index(index_of(TERMS, saved_encoder), 4),
        dataclasses.replace(CONFIG, entity_size=4),
    ).double()
    tokenized = tokenize_texts(
        ["high fever", "chest pain and cough", "pain"], saved_encoder.tokenizer, saved_encoder.policy, 24
    )
    spans, _ = find_token_spans(tokenized, np.array([[0, 5, 10], [1, 0, 10], [1, 15, 20], [2, 0, 4]]))
    whole = link_spans(memory, tokenized.tokens, spans)
    parts = link_spans(memory, tokenized.tokens, spans, tokens_per_batch=1)
    np.testing.assert_array_equal(whole.entities, parts.entities)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, atol=1e-6)
    assert [column.tolist() for column in whole.spans] == [column.tolist() for column in spans]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MemoryConfig(context_layers=2, entity_size=8), "context_layers must be from 1 to 1"),
        (MemoryConfig(context_layers=0, entity_size=8), "context_layers must be from 1 to 1"),
    ],
)
def test_memory_without_layers_on_both_sides_is_refused(config: MemoryConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_memory(config=config)


def test_entity_size_above_the_dimension_is_refused(saved_encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="entity_size must be from 1 to 32"):
        EntityTable.from_index(index_of(TERMS, saved_encoder), 33)


# The folder


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
def test_saved_memory_gives_the_same_answers(kind: str, tmp_path: Path) -> None:
    memory = tiny_memory(kind)
    memory.save(tmp_path / "memory", metadata={"steps": 3})
    loaded = EntityMemoryModel.load(tmp_path / "memory")
    texts = ["acute kidney failure and chest pain", "no fever"]
    assert annotate_with_memory(loaded, texts) == annotate_with_memory(memory, texts)
    assert any(annotate_with_memory(memory, texts))
    assert loaded.content_hash


def test_memory_trained_without_feedback_stays_without(tmp_path: Path) -> None:
    memory = tiny_memory()
    memory.feedback = False
    memory.save(tmp_path / "memory")
    assert not EntityMemoryModel.load(tmp_path / "memory").feedback


def test_damaged_memory_is_refused(tmp_path: Path) -> None:
    tiny_memory().save(tmp_path / "memory")
    with pytest.raises(ArtifactError, match="exists already"):
        tiny_memory().save(tmp_path / "memory")
    tiny_memory().save(tmp_path / "memory", overwrite=True)
    file = tmp_path / "memory" / "entities.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="its hash is not the manifest's"):
        EntityMemoryModel.load(tmp_path / "memory")
    with pytest.raises(ArtifactError, match="expected a memory folder, found nothing there"):
        EntityMemoryModel.load(tmp_path / "nothing")
