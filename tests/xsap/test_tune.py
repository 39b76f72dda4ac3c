"""`xsap tune`: held-out mentions, before and after by stratum, what is published, and what a folder of the tuned model states."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.fixtures.commands import Launch, Run
from xsap import Encoder, Index, Linker, Terminology
from xsap.config import Settings, load_settings
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.metrics import rank_of
from xsap.terms.mentions import build_mentions, read_mentions, write_mentions
from xsap.training.processes import start_processes
from xsap.training.run import train
from xsap.training.tune import (
    TESTED_MENTIONS,
    TRAINED_MENTIONS,
    check_settings,
    hold_out_mentions,
    to_text,
    tune_encoder,
)

assert train  # modules that train are quick, see `quick_training`


@pytest.fixture(scope="module")
def inputs(tiny_folder: Path, sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Mentions of the sample's concepts: names with a letter left out, in documents of ten; each tenth has no concept."""
    names = Terminology.load(sample_folder).names.slice(0, 360).to_pylist()
    rows = [
        (row["name"][:2] + row["name"][3:], row["language"], row["concept_id"]) for row in names if len(row["name"]) > 4
    ]
    ids = [[] if i % 10 == 9 else [concept] for i, (_, _, concept) in enumerate(rows)]
    documents = [f"note {i // 10}" for i in range(len(rows))]
    table = build_mentions([text for text, _, _ in rows], [code for _, code, _ in rows], ids, document_id=documents)
    folder = tmp_path_factory.mktemp("tune")
    write_mentions(table, folder / "mentions.tsv")
    return SimpleNamespace(model=tiny_folder, terminology=sample_folder, table=table, mentions=folder / "mentions.tsv")


def settings(inputs: SimpleNamespace, output: Path, *more: str) -> Settings:
    given = [f"base={inputs.model}", f"terminology={inputs.terminology}", f"tuning.mentions={inputs.mentions}"]
    sizes = ["tuning.candidates=4", "batch.pairs=4", "epochs=1", "checkpoint.save_steps=0"]
    return load_settings("tune", [*given, f"output={output}", *sizes, *more])


def test_one_fold_of_documents_is_held_out(inputs: SimpleNamespace) -> None:
    trained, tested = hold_out_mentions(inputs.table, 5, by="document", seed=0)
    assert trained.num_rows + tested.num_rows == inputs.table.num_rows
    assert 0.15 < tested.num_rows / inputs.table.num_rows < 0.25
    assert set(trained["document_id"].to_pylist()).isdisjoint(tested["document_id"].to_pylist())
    concepts = [
        set(pc.list_flatten(part["concept_ids"]).to_pylist())
        for part in hold_out_mentions(inputs.table, 3, by="concept", seed=0)
    ]
    assert concepts[0].isdisjoint(concepts[1])


@pytest.fixture(scope="module")
def tuned(inputs: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tuned model with its index."""
    folder = tmp_path_factory.mktemp("tuned")
    trained, tested = hold_out_mentions(inputs.table, 4, by="document", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xsap.training.run.write_report", lambda output: None)
        report = tune_encoder(
            settings(inputs, folder / "run"), trained, tested, folder / "model", index=folder / "index"
        )
    return SimpleNamespace(folder=folder, report=report, trained=trained, tested=tested)


def test_report_has_the_scores_of_both_models(inputs: SimpleNamespace, tuned: SimpleNamespace) -> None:
    """By a loop over `Linker.link` with the folders that were written."""
    known = tuned.tested.filter(pc.greater(pc.list_value_length(tuned.tested["concept_ids"]), 0))
    base = Encoder.from_pretrained(inputs.model)
    before = Linker(base, Index.build(Terminology.load(inputs.terminology), base))
    after = Linker.load(tuned.folder / "index")
    for linker, score in ((before, "before"), (after, "after")):
        answers = linker.link(known["mention"].to_pylist(), 1, languages=known["language"].to_pylist())
        right = [
            rank_of([[c.concept_id] for c in answer.candidates], ids) == 0
            for answer, ids in zip(answers, known["concept_ids"].to_pylist(), strict=True)
        ]
        assert getattr(tuned.report.comparisons["all"], score).value == pytest.approx(np.mean(right))
    assert tuned.report.comparisons["all"].n == known.num_rows
    text = to_text(tuned.report)
    assert f"tuned on {tuned.trained.num_rows:,} mentions, tested on {tuned.tested.num_rows:,}" in text
    assert "string similarity" in text
    assert "area under the risk-coverage curve" in text


def test_tuned_folder_states_what_it_was_tuned_on_and_its_index_has_weight_and_calibration(
    tuned: SimpleNamespace,
) -> None:
    stated = json.loads((tuned.folder / "model" / "xsap.json").read_text())
    assert stated["tuned"]["trained"] == tuned.trained.num_rows
    assert stated["fusion_weight"] == tuned.report.fusion_weight > 0
    card = (tuned.folder / "model" / "README.md").read_text()
    assert "## Tuning" in card
    assert f"| all | {tuned.report.comparisons['all'].n:,} |" in card
    index = Index.load(tuned.folder / "index")
    assert index.fusion_weight == pytest.approx(tuned.report.fusion_weight)
    assert index.calibration is not None
    assert read_mentions(tuned.folder / "run" / TRAINED_MENTIONS).equals(tuned.trained)
    assert read_mentions(tuned.folder / "run" / TESTED_MENTIONS).num_rows == tuned.tested.num_rows
    assert "Risk and coverage" in (tuned.folder / "run" / "tuning.html").read_text()


@pytest.mark.slow
def test_index_of_a_tuned_model_has_its_weight_and_says_what_a_learned_weight_of_its_mentions_is_worth(
    inputs: SimpleNamespace, tuned: SimpleNamespace, tmp_path: Path, run_here: Run
) -> None:
    words = ["-m", "xsap", "index", tuned.folder / "model", inputs.terminology]
    mentions = ["--mentions", tuned.folder / "run" / TRAINED_MENTIONS]
    done = run_here(*words, *mentions, "--out", tmp_path / "learnt")
    assert done.returncode == 0, done.stderr
    assert "was tuned on these mentions, their weight is too low" in done.stderr
    assert "weight of string similarity" in done.stderr
    learnt = Index.load(tmp_path / "learnt")
    assert learnt.fusion_weight == pytest.approx(tuned.report.fusion_weight)
    again = Index.load(tuned.folder / "index").with_mentions(tuned.trained)
    assert learnt.mention_names.weight == again.mention_names.weight
    assert learnt.mention_names.learnt["accuracies"] == list(again.mention_names.learnt["accuracies"])
    done = run_here(*words, *mentions, "--mention-weight", "0.3", "--out", tmp_path / "given")
    assert "their weight is too low" not in done.stderr


@pytest.mark.slow
def test_base_that_was_tuned_before_is_linked_with_its_weight(
    inputs: SimpleNamespace, tuned: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that training leaves as it was is no better than itself."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("xsap.training.tune.train", lambda *_, **__: tuned.folder / "model")
    again = settings(inputs, tmp_path / "run", f"base={tuned.folder / 'model'}")
    report = tune_encoder(again, tuned.trained, tuned.tested, tmp_path / "out")
    assert report.before.rows == report.after.rows
    assert report.comparisons["all"].before == report.comparisons["all"].after
    assert report.fusion_weight > 0


def test_report_says_where_nothing_shows_whether_other_concepts_became_worse(tuned: SimpleNamespace) -> None:
    seen = {name: row for name, row in tuned.report.comparisons.items() if name != "neither"}
    assert "hold out whole concepts" in to_text(replace(tuned.report, comparisons=seen))
    some = replace(tuned.report, comparisons={**seen, "neither": tuned.report.comparisons["all"]})
    assert "hold out whole concepts" not in to_text(some)


@pytest.mark.slow
def test_model_that_harms_concepts_without_mentions_is_not_published(
    inputs: SimpleNamespace, tmp_path: Path, run: Run
) -> None:
    """As a command; its weights are ruined by a learning rate of 1."""
    words = [
        "-m",
        "xsap",
        "tune",
        inputs.model,
        inputs.terminology,
        inputs.mentions,
        "--out",
        tmp_path / "model",
        "--by",
        "concept",
    ]
    more = [
        "optim.learning_rate=1",
        "max_steps=3",
        "tuning.candidates=3",
        "tuning.sparse_learning_rate=0",
        "batch.pairs=4",
    ]
    words += [word for each in more for word in ("--set", each)]
    done = run(*words)
    assert done.returncode == 3, done.stderr
    assert "not written, because the model is significantly worse" in done.stderr
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.run" / "model" / "model.safetensors").is_file()
    rows = done.stdout.splitlines()
    assert [row.split("  ")[0] for row in rows[1:4]] == ["mentions", "all", "neither"]
    published = run(*words, "--publish-worse", "--index", tmp_path / "index")
    assert published.returncode == 0, published.stderr
    assert published.stdout == done.stdout  # the run is resumed at its end
    assert Linker.load(tmp_path / "index").link("pain").mention == "pain"


def test_what_cannot_be_tuned_is_refused(inputs: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model to start from"):
        check_settings(settings(inputs, tmp_path / "run", "base=scratch"))
    with pytest.raises(ConfigError, match="at least one step"):
        check_settings(settings(inputs, tmp_path / "run", "max_steps=0"))
    unknown = inputs.table.set_column(
        2, "concept_ids", pa.array([["X1"]] * inputs.table.num_rows, pa.list_(pa.string()))
    )
    with pytest.raises(DataError, match="none among"):
        tune_encoder(settings(inputs, tmp_path / "run"), inputs.table, unknown, tmp_path / "out")
    (tmp_path / "full" / "model").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="not a run of xsap"):
        tune_encoder(settings(inputs, tmp_path / "full"), inputs.table, inputs.table, tmp_path / "out")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["model"]  # nothing was written there


def test_documents_on_both_sides_are_warned_of(
    inputs: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="below"):
        tune_encoder(
            settings(inputs, tmp_path / "run", "optim.frozen_layers=9"), inputs.table, inputs.table, tmp_path / "out"
        )
    assert "have mentions to tune on and mentions to test on" in caplog.text


_STARTED = """
import torch
from xsap.training.processes import start_processes, start_accelerator
state, accelerator = start_processes(), start_accelerator("no", None, None)
group = torch.distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
print(state.num_processes, accelerator.num_processes, state.is_main_process, group.options._timeout)
"""


def test_processes_are_those_of_the_accelerator_and_wait_as_long(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = launch(2, "-c", _STARTED)
    assert sorted(done.stdout.splitlines()) == ["2 2 False 12:00:00", "2 2 True 12:00:00"], done.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")  # without Accelerate's word for CPUs each would train alone
    with pytest.raises(ConfigError, match="2 processes were launched, but Accelerate sees 1"):
        start_processes()


@pytest.mark.slow
def test_several_processes_tune_one_model_and_report_once(
    inputs: SimpleNamespace, tmp_path: Path, launch: Launch
) -> None:
    more = ["max_steps=2", "tuning.candidates=3", "batch.pairs=4"]
    words = ["-m", "xsap", "tune", inputs.model, inputs.terminology, inputs.mentions, "--out", tmp_path / "model"]
    done = launch(2, *words, "--publish-worse", *(word for each in more for word in ("--set", each)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tuned on ") == 1
    log = (tmp_path / "model.run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    assert (tmp_path / "model" / "model.safetensors").is_file()
