"""Training of an entity memory: its corpus, its losses against plain loops, runs that learn, resume to the last bit, and agree over processes."""

import copy
import dataclasses
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from tests.fixtures.commands import ROOT
from tests.fixtures.encoders import TRAIN_TOKENIZER, tiny_encoder
from tests.fixtures.memories import CONFIG, index_of, random_table, tiny_memory
from xsap import Encoder
from xsap.encoding.packing import Tokens, pack
from xsap.errors import ConfigError, DataError
from xsap.settings_files import recipe_names
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.text_in.memory import NIL, EntityMemoryModel
from xsap.text_in.memory_annotate import annotate_with_memory
from xsap.text_in.memory_texts import BEGIN, NO_LABEL, OUTSIDE, TokenSpans
from xsap.training.memory_corpus import NOT_LINKED, build_corpus
from xsap.training.memory_losses import LossWeights, Masking, MemoryLosses, make_memory_batch, mask_tokens
from xsap.training.memory_run import MemoryStep, TrimmedVocabulary, train_memory
from xsap.training.memory_settings import describe_memory_settings, load_memory_settings

TERMS = {
    "C1": ["fever", "high fever"],
    "C2": ["cough"],
    "C3": ["chest pain", "pain"],
    "C4": ["acute kidney failure"],
    "C5": ["headache"],
    "C6": ["heart attack"],
}
CONCEPT_OF = {name: concept for concept, names in TERMS.items() for name in names}


def mentions_in(texts: list[str]) -> pa.Table:
    """Every name of TERMS in texts, the longest first."""
    columns: dict[str, list] = {name: [] for name in ("mention", "ids", "context", "start", "end", "document")}
    for number, text in enumerate(texts):
        taken = [False] * len(text)
        for name in sorted(CONCEPT_OF, key=len, reverse=True):
            start = text.find(name)
            if start >= 0 and not any(taken[start : start + len(name)]):
                taken[start : start + len(name)] = [True] * len(name)
                row = (name, [CONCEPT_OF[name]], text, start, start + len(name), f"d{number}")
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    return build_mentions(
        columns["mention"],
        ["en"] * len(columns["mention"]),
        columns["ids"],
        context=columns["context"],
        start=columns["start"],
        end=columns["end"],
        document_id=columns["document"],
    )


TEXTS = [
    f"the patient {verb} {name} and {other}"
    for verb in ("has", "had no", "with")
    for name in CONCEPT_OF
    for other in ("cough", "headache")
    if name != other
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    tiny_encoder(TRAIN_TOKENIZER["WordPiece"](TEXTS), "WordPiece").save_pretrained(folder)
    return Encoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"), encoder)


def write_inputs(folder: Path, encoder: Encoder) -> dict[str, Path]:
    encoder.save_pretrained(folder / "model")
    index_of(TERMS, Encoder.from_pretrained(folder / "model")).save(folder / "index")
    write_mentions(mentions_in(TEXTS), folder / "mentions.parquet")
    return {"index": folder / "index", "base": folder / "model", "mentions": folder / "mentions.parquet"}


TINY = [
    "memory.entity_size=5",
    "memory.candidates=3",
    "memory.max_tokens=24",
    "batch.windows=8",
    "checkpoint.save_steps=4",
]


def run(inputs: dict[str, Path], output: Path, *more: str) -> list[dict]:
    """Train, and return the log."""
    given = [f"{key}={value}" for key, value in inputs.items()] + [f"output={output}", *TINY, *more]
    train_memory(load_memory_settings(None, given))
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


# The corpus


def test_every_row_is_used_or_counted(encoder: Encoder) -> None:
    text = "fever and pain"
    table = build_mentions(
        ["fever", "fever", "pain", "fever", "pain", "cough", "and", "fever", "no"],
        ["en"] * 9,
        [["C1"], ["C1"], ["C9", "C3"], ["C1"], [], ["C2"], ["C9"], ["C1"], ["C1", "C9", "C2"]],
        context=[text, text, text, None, "no pain", text, text, text, "no pain"],
        start=[0, 0, 10, 0, 3, 10, 6, 0, 0],
        end=[5, 5, 14, 5, 7, 14, 9, 50, 2],
        document_id=["a", "a", "a", "a", "b", "a", "a", "a", "b"],
    )
    entities = pa.table({"concept_id": [*TERMS], "preferred_name": [*TERMS]})
    corpus = build_corpus(table, encoder, dataclasses.replace(random_table(6), entities=entities), 24)
    assert corpus.rows.tolist() == [0, 6, 2, 8, 4]
    assert corpus.entities.tolist() == [0, NOT_LINKED, 2, NOT_LINKED, NIL]
    assert corpus.documents == ["a", "b"]
    assert corpus.counts == {
        "marked again": 1,
        "without context, start and end": 1,
        "not at its place in the context": 2,
        "mentions of concepts that the memory does not have": 1,
        "mentions of several concepts": 1,
        "mentions without concepts": 1,
    }
    characters = corpus.texts.characters(corpus.spans).tolist()
    assert characters == [[0, 0, 5], [0, 6, 9], [0, 10, 14], [1, 0, 2], [1, 3, 7]]


def test_tokens_of_a_mention_that_is_dropped_have_no_label(encoder: Encoder) -> None:
    """A mention in two pieces: its words, but not those between them, nor those that are a mention of their own; and one that two windows cut."""
    text = "the patient has acute cough and kidney failure and fever"
    table = build_mentions(
        ["acute failure", "failure"],
        ["en"] * 2,
        [["C4"], ["C9"]],
        context=[text] * 2,
        start=[text.index("acute"), text.index("failure")],
        end=[text.index("failure") + 7] * 2,
    )
    corpus = build_corpus(table, encoder, random_table(), 64)
    assert corpus.counts["in several pieces"] == 1
    tokens, texts = corpus.texts.tokens, corpus.texts
    assert len(tokens) == 1
    label_of = {
        text[start:end]: label
        for start, end, label in zip(texts.starts.tolist(), texts.ends.tolist(), corpus.labels.tolist(), strict=True)
        if end > start
    }
    assert label_of["acute"] == NO_LABEL
    assert label_of["failure"] == BEGIN
    assert {label_of[word] for word in ("patient", "cough", "and", "kidney", "fever")} == {OUTSIDE}
    cut = build_mentions(
        ["fever"] + [text],
        ["en"] * 2,
        [["C1"]] * 2,
        context=[text] * 2,
        start=[text.index("fever"), 0],
        end=[len(text)] * 2,
    )
    corpus = build_corpus(cut, encoder, random_table(), 8)
    assert corpus.counts["without tokens in one window"] == 1
    inner = np.ones(len(corpus.labels), bool)
    inner[corpus.texts.tokens.offsets[:-1]] = inner[corpus.texts.tokens.offsets[1:] - 1] = False
    assert sorted(set(corpus.labels[inner].tolist())) == [NO_LABEL, BEGIN]
    assert set(corpus.labels[~inner].tolist()) == {OUTSIDE}


def test_a_step_counts_the_tokens_that_have_a_label(encoder: Encoder) -> None:
    """The loss of detection is a mean over them, whatever the number of windows of a step is."""
    text = "acute cough and kidney failure and fever"
    table = build_mentions(
        ["acute failure", "fever"],
        ["en"] * 2,
        [["C4"], ["C1"]],
        context=[text] * 2,
        start=[0, text.index("fever")],
        end=[text.index("failure") + 7, len(text)],
    )
    memory = EntityMemoryModel(copy.deepcopy(encoder), random_table(), CONFIG)
    corpus = build_corpus(table, memory.encoder, memory.table, 64)
    vocabulary = TrimmedVocabulary.trim(memory, corpus)
    step = MemoryStep(Accelerator(cpu=True), vocabulary.renumber(corpus), 1, 0, 0.15, LossWeights(0, 1, 0), vocabulary)
    losses = MemoryLosses(memory.eval(), weights=LossWeights(0, 1, 0))
    _, counts = step.gradients(losses, 0)
    ids = step._mask(0, 0).ids
    with torch.no_grad():
        logits = memory(pack(Tokens(ids, corpus.texts.tokens.offsets))).detection[0]
    labeled = np.flatnonzero(corpus.labels != NO_LABEL)[1:-1]
    assert len(corpus.labels) - 2 - len(labeled) == 2
    expected = F.cross_entropy(logits[labeled], torch.from_numpy(corpus.labels[labeled]))
    assert counts["detection"] == pytest.approx(float(expected), abs=1e-5)


def test_mentions_without_text_are_refused(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="mentions marked in a text"):
        build_corpus(build_mentions(["fever"], ["en"], [["C1"]]), encoder, random_table(), 24)


# Losses


def test_masks_follow_their_rates_and_spare_special_tokens() -> None:
    random = np.random.default_rng(0)
    tokens = Tokens(random.integers(5, 50, 20_000).astype(np.int32), np.arange(0, 20_001, 20))
    others = np.arange(50, 60, dtype=np.int32)
    found = mask_tokens(tokens, random.random((3, 20_000)), 0.15, 4, others)
    assert not found.masked[tokens.offsets[:-1]].any()
    assert not found.masked[tokens.offsets[1:] - 1].any()
    np.testing.assert_array_equal(found.ids[~found.masked], tokens.ids[~found.masked])
    chosen = found.ids[found.masked]
    assert found.masked.sum() == pytest.approx(0.15 * 18_000, rel=0.1)
    assert (chosen == 4).mean() == pytest.approx(0.8, abs=0.03)
    assert np.isin(chosen, others).mean() == pytest.approx(0.1, abs=0.03)
    assert (chosen == tokens.ids[found.masked]).mean() == pytest.approx(0.1, abs=0.03)


def make_batch(memory: EntityMemoryModel, totals: list[int]) -> tuple:
    rows = [[2, 5, 6, 7, 8, 3], [2, 9, 10, 3]]
    tokens = Tokens(np.concatenate(rows).astype(np.int32), np.array([0, 6, 10]))
    ids = tokens.ids.copy()
    ids[[2, 7]] = 4
    masked = np.zeros(10, bool)
    masked[[2, 7]] = True
    labels = np.array([0, 1, 2, 0, 1, 0, 0, 1, 1, 0])
    spans = TokenSpans(np.array([0, 0, 1, 1]), np.array([1, 4, 1, 2]), np.array([3, 5, 2, 3]))
    entities = np.array([4, NIL, NOT_LINKED, 4])
    batch = make_memory_batch(
        tokens, Masking(ids, masked), labels, spans, entities, np.array([NIL, 4, 7]), np.array(totals)
    )
    return batch, spans, labels, ids


@pytest.mark.parametrize(("softmax", "part"), [("batch", 9), ("full", 9), ("full", 4), ("full", 1)])
def test_losses_match_plain_loops(softmax: str, part: int) -> None:
    memory = tiny_memory(table=random_table(9)).double()
    batch, spans, labels, _ = make_batch(memory, [2, 6, 3])
    losses = MemoryLosses(memory, softmax, entities_per_part=part)(batch)  # type: ignore[arg-type]
    output = memory(batch.packed, batch.spans)
    starts = batch.packed.starts.tolist()
    states, detection = output.states.flatten(0, 1), output.detection.flatten(0, 1)
    embeddings = memory.encoder.transformer.get_input_embeddings().weight
    language = sum(
        -memory.language_head(states[position], embeddings).log_softmax(-1)[token]
        for position, token in ((starts[0] + 2, 6), (starts[1] + 1, 9))
    )
    inner = [(starts[0] + k, labels[k]) for k in range(1, 5)] + [(starts[1] + k, labels[6 + k]) for k in (1, 2)]
    detected = sum(-detection[position].log_softmax(-1)[label] for position, label in inner)
    linking = torch.zeros(())
    nil = memory.nil / memory.nil.norm()
    for span, gold in ((0, 4), (1, NIL), (3, 4)):
        query = output.queries[span]
        allowed = {NIL, 4, 7} | set(output.candidates[span].tolist()) if softmax == "batch" else {NIL, *range(9)}
        scores = {e: query @ (nil if e == NIL else memory.vectors[e]) * memory.log_scale.exp() for e in allowed}
        linking = linking + torch.stack(list(scores.values())).logsumexp(0) - scores[gold]
    expected = torch.stack([language / 2, detected / 6, linking / 3])
    torch.testing.assert_close(losses, expected, atol=1e-9, rtol=1e-9)
    of_loops = torch.autograd.grad(expected.sum(), list(memory.parameters()), allow_unused=True, materialize_grads=True)
    losses.sum().backward()
    for parameter, gradient in zip(memory.parameters(), of_loops, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-9, rtol=1e-9)


def test_loss_with_weight_zero_is_not_computed() -> None:
    memory = tiny_memory(table=random_table(9))
    batch, *_ = make_batch(memory, [2, 6, 3])
    losses = MemoryLosses(memory, weights=LossWeights(language=0, linking=0))(batch)
    assert losses.tolist()[0] == losses.tolist()[2] == 0
    assert losses.tolist()[1] > 0


# Runs


@pytest.mark.slow
def test_memory_learns_to_find_and_link(inputs: dict[str, Path], tmp_path: Path) -> None:
    log = run(inputs, tmp_path / "run", "epochs=20", "head_learning_rate=1e-2", "optim.learning_rate=4e-3")
    assert all(
        math.isclose(line["loss"], line["language"] + 10 * line["detection"] + line["linking"], rel_tol=1e-5)
        for line in log
    )
    for part in ("language", "detection", "linking"):
        assert np.mean([line[part] for line in log[-4:]]) < 0.5 * np.mean([line[part] for line in log[:4]])
    memory = EntityMemoryModel.load(tmp_path / "run" / "memory")
    text = "the patient had no acute kidney failure and headache"
    found = [(span.text, span.concept_id) for span in annotate_with_memory(memory, [text])[0]]
    assert found == [("acute kidney failure", "C4"), ("headache", "C5")]


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return EntityMemoryModel.load(output / "memory").state_dict()


def test_resumed_run_has_the_same_weights_to_the_last_bit(inputs: dict[str, Path], tmp_path: Path) -> None:
    whole = run(inputs, tmp_path / "whole", "epochs=2", "optim.schedule=linear")
    with pytest.MonkeyPatch.context() as patch:
        compute = MemoryStep.gradients

        def killed(self: MemoryStep, model: torch.nn.Module, step: int) -> tuple:
            if step == 6:
                raise KeyboardInterrupt
            return compute(self, model, step)

        patch.setattr(MemoryStep, "gradients", killed)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "killed", "epochs=2", "optim.schedule=linear")
    resumed = run(inputs, tmp_path / "killed", "epochs=2", "optim.schedule=linear", "resume=auto")
    without_time = [{key: value for key, value in line.items() if key != "seconds"} for line in whole]
    assert [{key: value for key, value in line.items() if key != "seconds"} for line in resumed] == without_time
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_run_with_other_settings_or_data_is_not_resumed(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", "max_steps=4")
    with pytest.raises(ConfigError, match="was saved with seed = 0, this run has 1"):
        run(inputs, tmp_path / "run", "max_steps=4", "resume=auto", "seed=1")
    write_mentions(mentions_in(TEXTS[:20]), tmp_path / "fewer.parquet")
    with pytest.raises(ConfigError, match="was saved with data"):
        run(inputs | {"mentions": tmp_path / "fewer.parquet"}, tmp_path / "run", "max_steps=4", "resume=auto")


def test_each_window_comes_once_per_epoch_and_seeds_differ(inputs: dict[str, Path], tmp_path: Path) -> None:
    logs = [run(inputs, tmp_path / str(seed), "epochs=2", f"seed={seed}") for seed in (0, 1)]
    assert sum(line["windows"] for line in logs[0]) == 2 * len(TEXTS)
    assert sum(line["spans"] for line in logs[0]) == 2 * mentions_in(TEXTS).num_rows
    assert [line["loss"] for line in logs[0]] != [line["loss"] for line in logs[1]]


def test_tokens_that_are_not_in_use_keep_their_embeddings(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_mentions(mentions_in(TEXTS[:3]), tmp_path / "few.parquet")
    run(inputs | {"mentions": tmp_path / "few.parquet"}, tmp_path / "run", "max_steps=3", "optim.weight_decay=0")
    before = Encoder.from_pretrained(inputs["base"]).transformer.get_input_embeddings().weight
    after = weights_of(tmp_path / "run")["encoder.transformer.embeddings.word_embeddings.weight"]
    changed = (before != after).any(1)
    assert before.shape == after.shape
    assert 0 < changed.sum() < 0.7 * len(before)


@pytest.mark.slow
def test_two_processes_train_the_memory_of_one(encoder: Encoder, tmp_path: Path, launch: Callable[..., object]) -> None:
    """Without dropout, which every process draws for itself."""
    plain = copy.deepcopy(encoder)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(plain.transformer.config, name, 0.0)
    inputs = write_inputs(tmp_path, plain)
    given = [f"{key}={value}" for key, value in inputs.items()] + [*TINY, "max_steps=5"]
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from xsap.training.memory_run import train_memory\n"
        "from xsap.training.memory_settings import load_memory_settings\n"
        "train_memory(load_memory_settings(None, sys.argv[1:]))\n"
    )
    done = launch(2, script, *given, f"output={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    one = run(inputs, tmp_path / "one", "max_steps=5")
    two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for left, right in zip(one, two, strict=True):
        for key in ("loss", "language", "detection", "linking", "spans"):
            assert left[key] == pytest.approx(right[key], rel=1e-4)


# Settings


@pytest.mark.parametrize("recipe", recipe_names(memory=True))
def test_each_recipe_of_a_memory_loads(recipe: str) -> None:
    settings = load_memory_settings(recipe, ["index=i", "mentions=m", "output=o"])
    stated = tomllib.loads((ROOT / "configs" / "train" / f"{recipe}.toml").read_text())
    assert stated["memory"].items() <= settings.memory.model_dump().items()
    assert recipe not in recipe_names()


def test_unknown_setting_of_a_memory_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'memory.entity_sizes' .*did you mean 'memory.entity_size'"):
        load_memory_settings(None, ["index=i", "mentions=m", "output=o", "memory.entity_sizes=3"])
    with pytest.raises(ConfigError, match="the setting 'index' must be given"):
        load_memory_settings(None, ["mentions=m", "output=o"])
    assert all(len(line) <= 80 for line in describe_memory_settings().splitlines())
