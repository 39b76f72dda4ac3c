"""The benchmark of an entity memory: losses of masked tokens against the model itself, and its tables."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy.memory import compare_memory, masked_losses, memory_to_text
from tests.fixtures.dictionaries import terminology
from tests.fixtures.encoders import TRAIN_TOKENIZER, tiny_encoder
from tests.fixtures.memories import WORDS, index_of, tiny_memory
from xsap import Encoder
from xsap.encoding.packing import pack
from xsap.terms.mentions import build_mentions
from xsap.text_in.memory import EntityMemoryModel, MemoryConfig
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import tokenize_texts
from xsap.training.memory_losses import mask_tokens

TERMS = {"C1": ["fever"], "C2": ["cough"], "C3": ["chest pain"], "C4": ["acute kidney failure"], "C5": ["rash"]}
OTHERS = {"D1": ["heart attack"], "D2": ["headache"], "D3": ["kidney"], "D4": ["pain"]}


@pytest.mark.parametrize("feedback", [False, True])
def test_losses_of_masked_tokens_are_those_of_one_text_after_another(feedback: bool) -> None:
    memory = tiny_memory()
    texts = ["fever and cough with chest pain and no rash"] * 3 + ["acute kidney failure and headache"] * 20
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, 24)
    found = masked_losses(memory, tokenized, len(texts), feedback=feedback)
    tokens = tokenized.tokens
    pieces = np.unique(tokens.ids)
    plain = np.setdiff1d(pieces, memory.encoder.tokenizer.all_special_ids)
    random = np.random.default_rng(0).random((3, len(tokens.ids)))
    masking = mask_tokens(tokens, random, 0.15, memory.encoder.tokenizer.mask_token_id, plain)
    memory.feedback = feedback
    for text in range(len(texts)):
        low, high = tokens.offsets[text : text + 2]
        own = tokens.take(np.array([text]))
        with torch.no_grad():
            states = memory(pack(type(own)(masking.ids[low:high], own.offsets))).states[0]
            embeddings = memory.encoder.transformer.get_input_embeddings().weight
            logits = memory.language_head(states, embeddings)[:, pieces].log_softmax(-1)
        at = np.flatnonzero(masking.masked[low:high])
        expected = -sum(float(logits[i, np.searchsorted(pieces, tokens.ids[low + i])]) for i in at)
        assert found[text].tolist() == pytest.approx([expected, len(at)], abs=1e-4)


def test_comparison_has_all_systems(tmp_path: Path) -> None:
    tiny_encoder(TRAIN_TOKENIZER["WordPiece"](WORDS * 3), "WordPiece").save_pretrained(tmp_path / "model")
    encoder = Encoder.from_pretrained(tmp_path / "model")
    config = MemoryConfig(4, 1, 3, 24)
    memory, plain = (
        EntityMemoryModel(encoder, EntityTable.from_index(index_of(TERMS, encoder), 4), config, seed=seed)
        for seed in (0, 1)
    )
    rows = [
        ("fever", "C1", "fever and cough"),
        ("cough", "C2", "fever and cough"),
        ("headache", "D2", "no headache with rash"),
        ("rash", "C5", "no headache with rash"),
    ]
    mentions = build_mentions(
        [mention for mention, _, _ in rows],
        ["en", "en", "de", "de"],
        [[concept] for _, concept, _ in rows],
        context=[text for _, _, text in rows],
        start=[text.index(mention) for mention, _, text in rows],
        end=[text.index(mention) + len(mention) for mention, _, text in rows],
        document_id=["a", "a", "b", "b"],
    )
    terms, others = (
        terminology(*((concept, "en", name) for concept, names in each.items() for name in names))
        for each in (TERMS, OTHERS)
    )
    result = compare_memory("notes", mentions, terms, memory, plain=plain, other=(others, index_of(OTHERS, encoder)))
    assert result.systems["names, linked by look-up"]["all"].linking.value == 1.0
    assert [each.system for each in result.language] == ["memory", "memory switched off", "trained without memory"]
    assert result.swapped is not None
    assert (result.entities, result.swapped_entities, result.swapped["all"].gold) == (5, 4, 1)
    text = memory_to_text(result)
    assert "memory with 4 other entities" in text
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in text.splitlines() if line.startswith("|")}
    for name, texts, gold in (("", 2, 3), (": English", 1, 2), (": German", 1, 1)):
        assert [int(cell) for cell in rows[f"names, linked by look-up{name}"]] == [texts, gold]
    assert "no gain" in text or "+" in text
