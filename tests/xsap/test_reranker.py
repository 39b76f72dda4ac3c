"""Training of re-rankers: homonyms that only the context resolves, resumption, examples with hidden names, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.homonyms import homonyms
from xsap import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import DataError
from xsap.evaluation.context_ablation import (
    NO_RERANKER,
    SHUFFLED_CONTEXT,
    WITH_CONTEXT,
    WITHOUT_CONTEXT,
    ablate_context,
)
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.text import TextPolicy
from xsap.text_in.documents import TextDocument
from xsap.training.reranker import HELD_OUT, RerankGradients, RerankSettings, hold_out_documents, train_reranker
from xsap.training.reranker_examples import examples_of
from xsap.training.silver_mentions import SEVERAL_CONCEPTS, silver_mentions, without_documents

SETTINGS = RerankSettings(
    epochs=12,
    batch=16,
    top=2,
    learning_rate=1e-3,
    joint_layers=1,
    context_tokens=24,
    candidate_tokens=8,
    save_steps=0,
    mixed_precision="no",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model from scratch and an index of homonyms; and their mentions to train on and to test on."""
    folder = tmp_path_factory.mktemp("homonyms")
    terminology, trained, tested = homonyms()
    texts = [*terminology.names["name"].to_pylist(), *trained["context"].to_pylist()]
    size = {"vocabulary_size": 400, "layers": 2, "hidden": 64, "heads": 4, "dropout": 0.0}
    from_scratch(texts, EncoderConfig("mean", 32, TextPolicy("lower")), **size, seed=1).save_pretrained(
        folder / "model"
    )
    Index.build(terminology, Encoder.from_pretrained(folder / "model"), model_path=folder / "model").save(
        folder / "index"
    )
    return folder, trained, tested


@pytest.mark.slow
@pytest.mark.parametrize("joint_layers", [None, 1])
def test_homonyms_are_resolved_by_their_context_alone(made, tmp_path, joint_layers):
    folder, trained, tested = made
    linker = Linker.load(folder / "index")
    settings = replace(SETTINGS, joint_layers=joint_layers)
    report = train_reranker(linker, trained, tested, tmp_path / "reranker", tmp_path / "run", settings)
    accuracy = {name: score.value for name, score in report.ablation.accuracy.items()}
    assert accuracy[WITH_CONTEXT] >= 0.95
    assert 0.35 < accuracy[SHUFFLED_CONTEXT] < 0.65
    assert accuracy[NO_RERANKER] == pytest.approx(0.5, abs=0.01)
    assert report.ablation.reachable == 1.0
    assert report.ablation.differences[SHUFFLED_CONTEXT].low > 0
    assert report.ablation.differences[WITHOUT_CONTEXT].low > 0
    again = Linker.load(folder / "index", rerank=tmp_path / "reranker")
    assert ablate_context(linker, again, tested, seed=0).accuracy == report.ablation.accuracy


FEW = replace(SETTINGS, epochs=1, batch=8)


def few(mentions, count=48):
    return mentions.take(list(range(0, mentions.num_rows, mentions.num_rows // count))[:count])


def test_a_resumed_run_is_an_uninterrupted_one_bit_by_bit(made, tmp_path, monkeypatch):
    folder, trained, _ = made
    linker, mentions = Linker.load(folder / "index"), few(trained)
    settings = replace(FEW, save_steps=2)
    train_reranker(linker, mentions, None, tmp_path / "whole", tmp_path / "run", settings)
    compute = RerankGradients.__call__

    def interrupted(self, model, step):
        if step == 3:
            raise KeyboardInterrupt
        return compute(self, model, step)

    with monkeypatch.context() as patch:
        patch.setattr(RerankGradients, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_reranker(linker, mentions, None, tmp_path / "resumed", tmp_path / "run2", settings)
    reset_accelerate()
    steps = []

    def watched(self, model, step):
        steps.append(step)
        return compute(self, model, step)

    monkeypatch.setattr(RerankGradients, "__call__", watched)
    train_reranker(linker, mentions, None, tmp_path / "resumed", tmp_path / "run2", settings)
    assert steps == [2, 3, 4, 5]
    for name in ("head.safetensors", "encoder/model.safetensors"):
        whole, resumed = (load_file(tmp_path / each / name) for each in ("whole", "resumed"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name
    assert not torch.equal(load_file(tmp_path / "whole" / "head.safetensors")["head"], torch.zeros(1, 64))


def reset_accelerate():
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def test_training_without_steps_is_the_retriever_to_the_bit(made, tmp_path):
    folder, trained, tested = made
    linker = Linker.load(folder / "index")
    train_reranker(linker, few(trained), None, tmp_path / "reranker", tmp_path / "run", replace(FEW, max_minutes=0))
    asked = few(tested)
    plain, reranked = (
        each.link(asked["mention"].to_pylist(), 10, context=asked["context"].to_pylist())
        for each in (linker, Linker.load(folder / "index", rerank=tmp_path / "reranker"))
    )
    assert reranked == plain


def test_each_mention_is_read_once_an_epoch_in_another_order(made):
    folder, trained, _ = made
    linker = Linker.load(folder / "index")
    examples = examples_of(linker, few(trained, 20), top=2)
    assert examples.counts.kept == 20 == examples.reachable
    gradients = RerankGradients(None, examples.queries, examples.right_columns(2), replace(FEW, batch=8))
    epochs = [np.concatenate([gradients.mentions_of(3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(20))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_examples_keep_mentions_without_a_right_candidate_and_count_the_others(made):
    folder, trained, _ = made
    known = trained["concept_ids"][0].as_py()
    mention = trained["mention"][0].as_py()
    table = build_mentions(
        [mention, mention, mention, " ", "17"],
        ["en"] * 5,
        [known, [], ["HP:none"], known, known],
        context=[None, "a b", None, None, None],
    )
    found = examples_of(Linker.load(folder / "index"), table, top=4)
    assert (found.counts.rows_in, found.counts.kept, found.reachable) == (5, 3, 1)
    assert sum(found.counts.dropped.values()) == 2
    assert found.rows.tolist() == [0, 1, 2]
    columns = found.right_columns(6)
    assert columns.sum() == 1
    assert columns[0].any()
    assert [query.context is None for query in found.queries] == [True, False, True]


def test_hidden_names_are_shown_nowhere_and_do_not_score(made):
    folder, trained, _ = made
    linker = Linker.load(folder / "index")
    concept = linker.index.concepts["concept_id"][0].as_py()
    preferred = linker.index.concepts["preferred_name"][0].as_py()
    table = build_mentions([preferred.upper()], ["en"], [[concept]])
    shown = examples_of(linker, table, top=4)
    hidden = examples_of(linker, table, top=4, hide_names=True)
    assert shown.queries[0].candidates[0].score == 1.0
    [query] = hidden.queries
    for each in query.candidates:
        assert preferred not in (each.preferred_name, *each.names)
    right = query.candidates[hidden.right[0].index(True)]
    vectors = linker.encoder.encode([preferred.upper(), right.preferred_name])
    assert right.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert [each.score for each in query.candidates] == sorted((each.score for each in query.candidates), reverse=True)


def test_silver_mentions_are_names_of_one_concept_and_documents_are_accounted_for(made):
    folder, trained, _ = made
    linker = Linker.load(folder / "index")
    names = linker.index.concepts["preferred_name"].to_pylist()[:2]
    short = trained["mention"][0].as_py()
    texts = [
        f"First. There is {names[0]} here. And {short}.",
        f"{names[1]}, {names[1]} and {names[1]}",
        "nothing",
        f"only {short}",
    ]
    documents = [TextDocument(f"d{i}", text, "en") for i, text in enumerate(texts)]
    found, counts = silver_mentions(linker, [documents[:2], documents[2:]], per_concept=2)
    assert found["mention"].to_pylist() == [names[0], names[1], names[1]]
    assert found["document_id"].to_pylist() == ["d0", "d1", "d1"]
    for row in found.to_pylist():
        assert row["context"][row["start"] : row["end"]] == row["mention"]
    assert found["context"][0].as_py().strip() == f"There is {names[0]} here."
    assert (counts.documents.rows_in, counts.documents.kept) == (4, 2)
    assert counts.documents.dropped == {"no name in it": 1, "no mention kept": 1}
    assert counts.mentions.dropped == {SEVERAL_CONCEPTS: 2, "concept has enough mentions": 1}
    everything, counts = silver_mentions(linker, [documents], per_concept=None, ambiguous=True)
    assert everything["mention"].to_pylist() == [names[0], short, names[1], names[1], names[1], short]
    assert [len(each) > 1 for each in everything["concept_ids"].to_pylist()] == [False, True, False, False, False, True]
    assert counts.mentions.dropped == {}


def test_silver_mentions_of_tested_documents_are_left_out(made, tmp_path):
    folder, trained, tested = made
    sentences, documents = ["it was x.", "no x here.", "x again.", "x"], ["d1", "d2", "d3", None]
    silver = build_mentions(["x"] * 4, ["en"] * 4, [["C1"]] * 4, context=sentences, document_id=documents)
    held_out = build_mentions(["x", "y"], ["en"] * 2, [["C1"]] * 2, context=["First. no x here. Last.", None], document_id=["d9", "d3"])  # fmt: skip
    assert without_documents(silver, held_out)["document_id"].to_pylist() == ["d1"]
    linker = Linker.load(folder / "index")
    given = few(tested, 10)
    report = train_reranker(linker, few(trained), given, tmp_path / "out", tmp_path / "run", replace(FEW, max_minutes=0), silver=given)  # fmt: skip
    assert report.trained.counts.dropped == {HELD_OUT: 10}
    assert report.trained.counts.rows_in == 58


def test_what_cannot_be_tested_on_is_an_error_before_training(made, tmp_path):
    folder, trained, _ = made
    for ids, message in (([], "expected mentions with gold concepts to test on"), (["HP:none"], "gold concepts are in the index")):  # fmt: skip
        table = build_mentions(["x"], ["en"], [ids])
        with pytest.raises(DataError, match=message):
            train_reranker(Linker.load(folder / "index"), few(trained), table, tmp_path / "out", tmp_path / "run", FEW)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_documents_are_not_split_between_training_and_test(made):
    _, trained, _ = made
    first, second = hold_out_documents(trained, 5, seed=0)
    assert first.num_rows + second.num_rows == trained.num_rows
    assert not set(first["document_id"].to_pylist()) & set(second["document_id"].to_pylist())


def test_the_command_trains_tests_and_says_how_the_reranker_is_stored(made, tmp_path, run_here):
    folder, trained, tested = made
    for name, mentions in (("train.tsv", few(trained)), ("test.tsv", few(tested, 20))):
        write_mentions(mentions, tmp_path / name)
    (tmp_path / "texts").mkdir()
    name = Linker.load(folder / "index").index.concepts["preferred_name"][0].as_py()
    (tmp_path / "texts" / "a.txt").write_text(f"There is {name} here.")
    options = [
        "--index",
        folder / "index",
        "--out",
        tmp_path / "reranker",
        "--epochs",
        1,
        "--top",
        4,
        "--context-tokens",
        20,
    ]
    options += ["--candidate-tokens", 8, "--silver", tmp_path / "texts", "--silver-language", "en"]
    done = run_here("-m", "xsap", "train-reranker", tmp_path / "train.tsv", "--test", tmp_path / "test.tsv", *options)
    assert done.returncode == 0, done.stderr
    assert "20 mentions, 20 with a context; a right concept is among the first 4 candidates of 100.0 %" in done.stdout
    assert [line[:20].strip() for line in done.stdout.splitlines()[2:]] == [
        "no re-ranker",
        "mention only",
        "with context",
        "shuffled context",
    ]
    assert f"--rerank {tmp_path / 'reranker'}" in done.stderr
    assert "documents in 1; kept 1; dropped 0" in done.stderr
    stated = json.loads((tmp_path / "reranker" / "reranker.json").read_text())
    assert stated["training"]["mentions"]["in"] == 49
    again = run_here("-m", "xsap", "train-reranker", tmp_path / "train.tsv", *options)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_link_re_ranks_with_the_context_column(made, tmp_path, run_here):
    folder, trained, tested = made
    asked = few(tested, 6)
    write_mentions(asked, tmp_path / "terms.tsv")
    linker = Linker.load(folder / "index")
    train_reranker(
        linker, few(trained), None, tmp_path / "reranker", tmp_path / "run", replace(FEW, learning_rate=1e-2)
    )
    reranked = Linker.load(folder / "index", rerank=tmp_path / "reranker")
    call = ["-m", "xsap", "link", "--index", folder / "index", "--file", tmp_path / "terms.tsv", "--column", "mention", "--format", "jsonl", "--top-k", 2]  # fmt: skip
    done = run_here(*call, "--rerank", tmp_path / "reranker", "--context-column", "context")
    assert done.returncode == 0, done.stderr
    expected = reranked.link(asked["mention"].to_pylist(), 2, context=asked["context"].to_pylist())
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["concept_id"] for row in found] == [
        each.concept_id for result in expected for each in result.candidates
    ]
    assert "--context-column" not in done.stderr
    without = run_here(*call, "--rerank", tmp_path / "reranker")
    assert "terms are re-ranked without contexts" in without.stderr


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(made, tmp_path, launch):
    folder, trained, _ = made
    write_mentions(few(trained), tmp_path / "train.parquet")
    for processes in (1, 2):
        options = [
            "--index",
            folder / "index",
            "--test",
            tmp_path / "train.parquet",
            "--out",
            tmp_path / f"{processes}",
            "--epochs",
            1,
        ]
        options += ["--top", 2, "--batch", 8, "--context-tokens", 24, "--candidate-tokens", 8]
        done = launch(processes, "-m", "xsap", "train-reranker", tmp_path / "train.parquet", *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("with context  ") == 1  # one process reports
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / f"{n}.run" / "metrics.jsonl").read_text().splitlines()]
        for n in (1, 2)
    ]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    one, two = (load_file(tmp_path / f"{n}" / "head.safetensors")["head"] for n in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
