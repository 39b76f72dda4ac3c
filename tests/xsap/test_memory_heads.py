"""Heads on an entity memory: F1 against seqeval, tags of tokens, relations of spans, and their folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from tests.fixtures.examples import examples
from tests.fixtures.memories import new_memory, tiny_memory
from xsap.encoding.packing import pack
from xsap.errors import ArtifactError, DataError
from xsap.text_in.memory import locate_spans
from xsap.text_in.memory_heads import MemoryTagger, RelationClassifier, TagSet, TypedSpan, entity_scores
from xsap.text_in.memory_texts import TokenSpans, find_token_spans, tokenize_texts
from xsap.training.memory_heads import HeadSettings, fine_tune, predict_relations, related_spans, tagged_texts

TAGS = TagSet(["DISO", "PROC"])
sequences = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)
TYPES = {
    "fever": "SYMPTOM",
    "cough": "SYMPTOM",
    "rash": "SYMPTOM",
    "kidney": "ORGAN",
    "heart": "ORGAN",
    "chest": "ORGAN",
}


@given(rows=st.lists(sequences, min_size=1, max_size=6))
@settings(max_examples=examples(200), deadline=None)
def test_scores_of_entities_are_those_of_seqeval(rows: list[list[tuple[int, int]]]) -> None:
    names = TAGS.names()
    gold, found = ([[names[pair[side]] for pair in row] for row in rows] for side in (0, 1))
    spans = [[TAGS.decode([pair[side] for pair in row]) for row in rows] for side in (0, 1)]
    scores = entity_scores(*spans)
    for ours, theirs in zip(scores, (precision_score, recall_score, f1_score), strict=False):
        assert ours == pytest.approx(theirs(gold, found, zero_division=0))


def test_no_entities_at_all_score_zero() -> None:
    assert entity_scores([[]], [[]])[:3] == (0.0, 0.0, 0.0)


def test_tags_come_back_as_spans() -> None:
    memory = tiny_memory()
    texts = ["fever and acute kidney failure", "heart attack"]
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, 24)
    places = np.array([[0, 0, 5], [0, 10, 30], [1, 0, 5]])
    spans, _ = find_token_spans(tokenized, places)
    tags = TAGS.encode(tokenized.tokens, spans, ["DISO", "PROC", "DISO"])
    own = [
        tags[start + 1 : end - 1].tolist()
        for start, end in zip(tokenized.tokens.offsets, tokenized.tokens.offsets[1:], strict=False)
    ]
    decoded = [[span.type for span in TAGS.decode(each)] for each in own]
    assert decoded == [["DISO", "PROC"], ["DISO"]]
    assert TAGS.decode([1, 2, 2, 1, 4, 3, 0, 2]) == [
        TypedSpan(0, 3, "DISO"), TypedSpan(3, 4, "DISO"), TypedSpan(4, 5, "PROC"), TypedSpan(5, 6, "PROC"), TypedSpan(7, 8, "DISO"),
    ]  # fmt: skip


def tagged() -> tuple[list[str], list[list[TypedSpan]]]:
    words = ["fever", "and", "cough", "kidney", "failure", "rash", "heart", "with", "no", "chest"]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 5)) for _ in range(40)]
    gold = []
    for text in texts:
        own, start = [], 0
        for word in text.split():
            if word in TYPES:
                own.append(TypedSpan(start, start + len(word), TYPES[word]))
            start += len(word) + 1
        gold.append(own)
    return texts, gold


@pytest.mark.slow
def test_tagger_learns_types_and_is_saved(tmp_path: Path) -> None:
    memory = new_memory()
    texts, gold = tagged()
    tagger = MemoryTagger(memory, list(TYPES.values()))
    before = entity_scores(gold, tagger.predict(texts)).f1
    how = HeadSettings(epochs=12, windows=8, learning_rate=5e-3, head_learning_rate=1e-2)
    fine_tune(tagger, tagged_texts(tagger, texts, gold), tmp_path / "run", how)
    after = entity_scores(gold, tagger.predict(texts, tokens_per_batch=30)).f1
    assert before < 0.6 < 0.95 < after
    tagger.save(tmp_path / "tagger")
    assert MemoryTagger.load(tmp_path / "tagger").predict(texts) == tagger.predict(texts)
    with pytest.raises(ArtifactError, match="expected a head with relations"):
        RelationClassifier.load(tmp_path / "tagger")


@pytest.mark.slow
def test_relations_are_learned_and_saved(tmp_path: Path) -> None:
    """Which of the two spans comes first."""
    memory = new_memory()
    texts = [
        f"{a} and {b}" for a in ("fever", "cough", "rash") for b in ("kidney failure", "chest pain", "heart attack")
    ] * 2
    sides: list[list[tuple[int, int]]] = []
    for turned in (False, True):
        places = []
        for number, text in enumerate(texts):
            first, second = (0, text.index(" ")), (text.index(" and ") + 5, len(text))
            places.append(second if (number >= 9) != turned else first)
        sides.append(places)
    head = RelationClassifier(memory, ["after", "before"])
    expected = [head.relations[int(number >= 9)] for number in range(18)]
    related = related_spans(head, texts, *sides, expected)
    fine_tune(
        head, related, tmp_path / "run", HeadSettings(epochs=40, windows=6, learning_rate=3e-3, head_learning_rate=1e-2)
    )
    assert list(predict_relations(head, related, pairs_per_batch=5)) == expected
    head.save(tmp_path / "head")
    loaded = RelationClassifier.load(tmp_path / "head")
    assert list(predict_relations(loaded, related_spans(loaded, texts, *sides))) == expected


@pytest.mark.parametrize(
    ("text", "tail", "message"),
    [
        ("fever and cough " * 10, (10, 15), "must have at most 24 tokens, found a longer one: text 1 of 2"),
        ("fever and cough", (5, 6), r"each text must have both spans, found none at \(5, 6\) in text 1"),
    ],
)
def test_pair_that_is_not_in_one_window_is_refused(text: str, tail: tuple[int, int], message: str) -> None:
    head = RelationClassifier(new_memory(), ["after", "before"])
    with pytest.raises(DataError, match=message):
        related_spans(head, ["fever and cough", text], [(0, 5)] * 2, [(10, 15), tail])


def test_relation_logits_are_those_of_the_states_of_both_spans() -> None:
    memory = tiny_memory()
    tokenized = tokenize_texts(["fever and chest pain"], memory.encoder.tokenizer, memory.encoder.policy, 24)
    head = RelationClassifier(memory, ["a", "b", "c"])
    batch = pack(tokenized.tokens)
    spans = [locate_spans(batch, TokenSpans(*(np.array([v]) for v in place))) for place in ((0, 1, 2), (0, 3, 5))]
    with torch.no_grad():
        states = memory(batch).states.flatten(0, 1)
        expected = head.classifier(torch.cat([states[1], states[1], states[3], states[4]]))
        torch.testing.assert_close(head(batch, *spans)[0], expected)
