"""KeBioLM as published: against the figures of its own code, and against a plain restatement, in outputs, gradients and training."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.fixtures.examples import examples
from tests.fixtures.kebiolm import (
    CONFIG,
    DETECTION,
    ENTITIES,
    ENTITY_GRADIENT_NORM,
    IDS,
    LOSSES,
    LOSSES_AFTER_19_STEPS,
    MASKED,
    draw_original_weights,
    plain_kebiolm,
)
from xsap.errors import ArtifactError, DataError
from xsap.text_in.memory import EntityMemoryModel
from xsap.text_in.memory_annotate import annotate_with_memory
from xsap.text_in.memory_original import (
    RESERVED,
    OriginalBatch,
    OriginalOutput,
    memory_from_original,
    open_original,
    original_output,
    read_entities,
    rename_original,
)
from xsap.text_in.memory_table import ENTITIES_SCHEMA

NAMES = [*RESERVED, *(f"C{number:07}" for number in range(3, CONFIG["num_entities"]))]
COMPARED = {
    "lower": "lower",
    "states": "states",
    "predictions": "predictions",
    "detection": "detection_loss",
    "linking": "linking_loss",
    "language": "language_loss",
}


def entities() -> pa.Table:
    return pa.table({"concept_id": NAMES, "preferred_name": NAMES}, ENTITIES_SCHEMA)


def original_batch() -> OriginalBatch:
    ids = torch.tensor(IDS)
    return OriginalBatch(ids, (ids != 0).long(), *(torch.tensor(each) for each in (DETECTION, ENTITIES, MASKED)))


def losses_of(output: OriginalOutput) -> list[float]:
    losses = (output.loss, output.detection_loss, output.linking_loss, output.language_loss)
    return [loss.item() for loss in losses if loss is not None]


def large_weights(seed: int) -> dict[str, Tensor]:
    """At the scale of new weights, hardly anything would show."""
    weights = draw_original_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in weights.items():
        if value.is_floating_point():
            around = 1.0 if "LayerNorm.weight" in name or name.endswith("layer_norm.weight") else 0.0
            weights[name] = around + 0.3 * torch.randn(value.shape, generator=generator)
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    return weights


def test_losses_are_those_that_the_original_code_gives() -> None:
    memory = memory_from_original(draw_original_weights(), CONFIG, entities())
    output = original_output(memory, original_batch())
    assert losses_of(output) == pytest.approx(LOSSES, abs=1e-6)
    assert output.loss is not None
    output.loss.backward()
    assert memory.vectors.grad is not None
    assert memory.vectors.grad.norm().item() == pytest.approx(ENTITY_GRADIENT_NORM, abs=1e-6)


def test_twenty_steps_of_training_give_the_losses_of_the_original_code() -> None:
    memory = memory_from_original(draw_original_weights(), CONFIG, entities())
    optimizer = torch.optim.AdamW(memory.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(20):
        output = original_output(memory, original_batch())
        optimizer.zero_grad()
        assert output.loss is not None
        output.loss.backward()
        optimizer.step()
    assert losses_of(output) == pytest.approx(LOSSES_AFTER_19_STEPS, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_and_gradients_match_the_plain_restatement(seed: int) -> None:
    weights = large_weights(seed)
    memory = memory_from_original(weights, CONFIG, entities()).double()
    output = original_output(memory, original_batch())
    plain = {name: value.double().requires_grad_() for name, value in weights.items() if value.is_floating_point()}
    expected = plain_kebiolm(plain, IDS, DETECTION, ENTITIES, MASKED)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(output, COMPARED[name]), value, atol=1e-9, rtol=1e-9)
    assert output.loss is not None
    output.loss.backward()
    sum(expected[name] for name in ("detection", "linking", "language")).backward()  # type: ignore[union-attr]
    found = {name: parameter.grad for name, parameter in memory.named_parameters()}
    compared = 0
    for name, value in plain.items():
        renamed = rename_original(name, CONFIG["num_context_layers"])
        if renamed is not None:
            assert value.grad is not None
            torch.testing.assert_close(found[renamed], value.grad, atol=1e-9, rtol=1e-7)
            compared += 1
    assert compared == len(found)


@given(
    texts=st.lists(
        st.lists(st.tuples(st.integers(4, 59), st.integers(0, 2)), min_size=1, max_size=6), min_size=1, max_size=4
    ),
    given_labels=st.booleans(),
)
@settings(max_examples=examples(40), deadline=None)
def test_any_batch_matches_the_plain_restatement(texts: list[list[tuple[int, int]]], given_labels: bool) -> None:
    weights = large_weights(3)
    memory = memory_from_original(weights, CONFIG, entities()).double()
    width = max(map(len, texts)) + 2
    ids = [[2, *(token for token, _ in text), 3] + [0] * (width - len(text) - 2) for text in texts]
    labels = [[0, *(label for _, label in text), 0] + [0] * (width - len(text) - 2) for text in texts]
    tensor = torch.tensor(ids)
    detection = torch.tensor(labels) if given_labels else None
    output = original_output(memory, OriginalBatch(tensor, (tensor != 0).long(), detection))
    plain = {name: value.double() for name, value in weights.items() if value.is_floating_point()}
    expected = plain_kebiolm(plain, ids, labels if given_labels else None, None, None)
    torch.testing.assert_close(output.states, expected["states"], atol=1e-9, rtol=1e-9)


def test_a_text_depends_on_the_others_of_its_batch_as_in_the_original() -> None:
    memory = memory_from_original(large_weights(0), CONFIG, entities())
    with torch.no_grad():
        both = original_output(memory, original_batch()).states[1, :5]
        alone = original_output(memory, OriginalBatch(*(part[1:] for part in original_batch()[:3]))).states[0, :5]
    assert (both - alone).abs().max() > 1e-3


def test_unknown_and_missing_weights_are_refused() -> None:
    state = draw_original_weights()
    lacking = {name: value for name, value in state.items() if name != "bert.mention_detector.bias"}
    with pytest.raises(DataError, match=r"found no detector\.bias"):
        memory_from_original(lacking, CONFIG, entities())
    with pytest.raises(DataError, match="found 'bert.pooler.dense.weight'"):
        memory_from_original(state | {"bert.pooler.dense.weight": torch.zeros(1)}, CONFIG, entities())
    with pytest.raises(DataError, match="size mismatch"):
        memory_from_original(state | {"bert.mention_detector.bias": torch.zeros(4)}, CONFIG, entities())
    with pytest.raises(DataError, match="30 entities"):
        memory_from_original(state, CONFIG, entities().slice(1))


def write_entities(path: Path, rows: list[tuple[str, object]]) -> Path:
    path.write_text("".join(json.dumps({"entity_name": name, "id": row}) + "\n" for name, row in rows))
    return path


def test_entities_are_read_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = [(name, row) for row, name in enumerate(NAMES)]
    table = read_entities(write_entities(tmp_path / "entity.jsonl", rows[::-1]))
    assert table["concept_id"].to_pylist() == NAMES


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("[UNK_ENT]", 0), ("[PAD_ENT]", 1), ("[NIL_ENT]", 2)], "the first with id 0"),
        ([("[PAD_ENT]", 0), ("[UNK_ENT]", 1)], "among the entities"),
        ([("[PAD_ENT]", 0), ("[UNK_ENT]", 1), ("[NIL_ENT]", 3)], "found none 2"),
        ([("[PAD_ENT]", 0), ("[UNK_ENT]", 0), ("[NIL_ENT]", 1)], "jsonl:2: expected each id once"),
        ([("[PAD_ENT]", 0), ("[UNK_ENT]", 1), ("[NIL_ENT]", 2), ("[UNK_ENT]", 3)], "found '.UNK_ENT.' again"),
        ([("[PAD_ENT]", "0")], "jsonl:1: expected"),
    ],
)
def test_damaged_entities_are_refused(tmp_path: Path, rows: list[tuple[str, object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_entities(write_entities(tmp_path / "entity.jsonl", rows))


@pytest.fixture
def original_folder(tmp_path: Path) -> Path:
    """A folder as the original's save_pretrained writes it, with a vocabulary of words."""
    folder = tmp_path / "kebiolm"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(53)), "fever", "cough"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"}))
    state = {name: value.clone().contiguous() for name, value in large_weights(0).items()}
    save_file(state, folder / "model.safetensors")
    write_entities(folder / "entity.jsonl", [(name, row) for row, name in enumerate(NAMES)])
    return folder


def test_folder_of_the_original_opens_and_annotates(original_folder: Path) -> None:
    memory = open_original(original_folder, original_folder / "entity.jsonl")
    text = "word1 word2, word3  word9 word30 word31 word8 word4"
    spans = annotate_with_memory(memory, [text, "word5"])[0]
    assert spans
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert {span.concept_id for span in spans} <= {None, *NAMES[3:]}


def test_memory_of_the_original_is_saved_and_loaded(original_folder: Path, tmp_path: Path) -> None:
    memory = open_original(original_folder, original_folder / "entity.jsonl")
    memory.save(tmp_path / "saved")
    loaded = EntityMemoryModel.load(tmp_path / "saved")
    with torch.no_grad():
        before, after = (original_output(each, original_batch()).states for each in (memory, loaded))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)


def test_folder_of_another_model_is_refused(original_folder: Path) -> None:
    (original_folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ArtifactError, match="num_context_layers"):
        open_original(original_folder, original_folder / "entity.jsonl")
