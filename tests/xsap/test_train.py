"""Training as a user runs it: against the original recipe, killed and resumed, on several processes, and with invalid input."""

import json
import logging
import shutil
import signal
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tests.fixtures.commands import ROOT, Launch, Run, Template
from tests.fixtures.encoders import copy_without_config
from tests.fixtures.training import SMALL, assert_same_weights, read_losses, read_steps, read_weights, set_options
from xsap import Encoder, Terminology
from xsap.artifacts import open_artifact
from xsap.config import describe_settings, load_settings
from xsap.encoding.packing import PackedBatch, Tokens
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.terms.mentions import read_mentions, write_mentions
from xsap.text import TextPolicy
from xsap.training import trainer as trainer_module
from xsap.training.dataset import NameSet, distinct, fingerprint
from xsap.training.losses import info_nce
from xsap.training.mining import PairLoss
from xsap.training.run import train
from xsap.training.run_folder import Checkpoint, load_checkpoint, save_checkpoint
from xsap.training.sampling import Names, PairSampler
from xsap.training.trainer import Trainer


def settings(terminology: Path, output: Path, *more: str) -> list[str]:
    return [f"terminology={terminology}", f"output={output}", *SMALL, *more]


@pytest.fixture(scope="module")
def pairs_file(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pairs of the sample's names as the original code reads them."""
    names = Terminology.load(sample_folder).names.to_pylist()
    rng = np.random.default_rng(0)
    lines = []
    while len(lines) < 160:
        left = names[rng.integers(len(names))]
        right = rng.choice([n for n in names if n["concept_id"] == left["concept_id"] and n["name"] != left["name"]])
        lines.append(f"{left['concept_id']}||{left['name']}||{right['name']}")
    file = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def reference_losses(model_folder: Path, pairs_file: Path, pooling: str) -> list[float]:
    """The original recipe by its own libraries: padded to 25, two forward passes, the miner over triplets, AdamW."""
    model, tokenizer = (
        AutoModel.from_pretrained(model_folder, add_pooling_layer=False).train(),
        AutoTokenizer.from_pretrained(model_folder),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    loss_of, miner = (
        MultiSimilarityLoss(alpha=1, beta=60, base=0.5),
        TripletMarginMiner(margin=0.2, type_of_triplets="all"),
    )
    rows = [line.split("||") for line in pairs_file.read_text(encoding="utf-8").splitlines()]
    losses = []
    for start in range(0, len(rows), 16):
        ids, left, right = zip(*rows[start : start + 16], strict=True)
        halves = []
        for names in (left, right):
            inputs = tokenizer(list(names), padding="max_length", truncation=True, max_length=25, return_tensors="pt")
            states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            halves.append(
                {"cls": states[:, 0], "mean": (states * mask).sum(1) / mask.sum(1), "mean_all": states.mean(1)}[pooling]
            )
        vectors = torch.cat(halves)
        labels = torch.tensor([sorted(set(ids)).index(i) for i in ids * 2])
        loss = loss_of(vectors, labels, miner(vectors, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_losses_match_the_original_recipe(tiny_folder: Path, pairs_file: Path, tmp_path: Path, pooling: str) -> None:
    base = copy_without_config(tiny_folder, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps(config))
    overrides = [
        f"base={base}",
        f"pairs={pairs_file}",
        f"output={tmp_path / 'run'}",
        f"pooling={pooling}",
        "batch.pairs=16",
        "optim.learning_rate=1e-3",
    ]
    train(
        load_settings(
            ROOT / "configs/train/sapbert_reference.toml", [*overrides, "sampling.shuffle=false", "mixed_precision=no"]
        )
    )
    ours = read_losses(tmp_path / "run")
    theirs = reference_losses(base, pairs_file, pooling)
    assert len(ours) == 10
    assert np.ptp(ours) > 1e-3  # both batches and updates matter
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_run_from_another_directory_learns_and_evaluates(sample_folder: Path, tmp_path: Path, run: Run) -> None:
    mentions = ROOT / "data_prep" / "sample" / "mentions.tsv"
    more = [
        f"terminology={sample_folder}",
        f"output={tmp_path / 'run'}",
        f"evaluation.mentions={mentions}",
        "scratch.vocabulary_size=3000",
        "scratch.hidden=64",
        "batch.names=256",
        "max_steps=80",
        "optim.warmup_steps=10",
        "optim.learning_rate=4e-3",
        "scratch.dropout=0.0",
    ]
    words = set_options(more)
    done = run(ROOT / "xsap/train.py", "--config", ROOT / "configs/train/small.toml", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "model")
    assert "<svg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before, after = (line["evaluation"] for line in lines if "evaluation" in line)
    assert after["mean"]["acc@1"] > before["mean"]["acc@1"] + 0.1
    assert set(after["languages"]) == {"es", "de", "fr", "fi", "ru", "tr", "ko", "zh", "ja", "th"}
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, 81))
    assert losses[0]["lr"] == pytest.approx(4e-3 / 11)
    assert losses[-1]["lr"] == pytest.approx(4e-3 / 70)
    described = json.loads((tmp_path / "run" / "model" / "xsap.json").read_text())
    assert described["terminology"] == Terminology.load(sample_folder).content_hash
    assert described["languages"] == sorted(Terminology.load(sample_folder).languages)
    assert Encoder.from_pretrained(tmp_path / "run" / "model").encode(["fiebre"]).shape == (1, 64)
    assert not list(tmp_path.glob("run/.*"))


def test_killed_and_resumed_run_matches_an_uninterrupted_one(
    sample_folder: Path, tmp_path: Path, run: Run, template: Template
) -> None:
    common = [
        "max_steps=30",
        "checkpoint.save_steps=7",
        "sampling.mode=groups",
        "batch.names=64",
        "optim.schedule=linear",
        "optim.max_grad_norm=1.0",
    ]
    train(load_settings(None, settings(sample_folder, tmp_path / "whole", *common)))
    words = set_options(settings(sample_folder, tmp_path / "killed", *common, "resume=auto"))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (tmp_path / "stderr").open("w") as errors:
        started = template.start([ROOT / "xsap" / "train.py", *words], tmp_path, [threads], stderr=errors.fileno())
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoints" / "step-14").exists():
        assert started.is_running(), (tmp_path / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.kill(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    done = run(ROOT / "xsap" / "train.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    whole, killed = read_steps(tmp_path / "whole"), read_steps(tmp_path / "killed")
    assert [(x["step"], x["loss"], x["lr"]) for x in whole] == [(x["step"], x["loss"], x["lr"]) for x in killed]


@pytest.mark.parametrize(
    ("mode", "processes", "pairs"),
    [
        ("groups", 3, 15),
        pytest.param("pairs", 2, 15, marks=pytest.mark.slow),
        pytest.param("pairs", 3, 1, marks=pytest.mark.slow),
    ],
)
def test_several_processes_match_one(
    sample_folder: Path,
    tmp_path: Path,
    launch: Launch,
    mode: str,
    processes: int,
    pairs: int,
) -> None:
    """Also with two names for three processes, as at the end of an epoch."""
    common = [
        f"sampling.mode={mode}",
        "max_steps=4",
        f"batch.pairs={pairs}",
        f"loss.miner={'triplet_margin' if pairs > 1 else 'none'}",
        "batch.names=36",
        "scratch.dropout=0.0",
        "checkpoint.save_steps=4",
        "optim.max_grad_norm=0.5",
    ]
    train(load_settings(None, settings(sample_folder, tmp_path / "one", *common)))
    words = set_options(settings(sample_folder, tmp_path / "several", *common))
    done = launch(processes, ROOT / "xsap" / "train.py", *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "several" / "checkpoints" / "step-4" / "manifest.json").read_text())
    assert manifest["identity"]["processes"] == processes  # a launcher may silently start fewer
    assert done.stdout.split() == [str(tmp_path / "several" / "model")]
    alone, together = read_steps(tmp_path / "one"), read_steps(tmp_path / "several")
    assert [x["loss"] for x in together] == pytest.approx([x["loss"] for x in alone], rel=1e-5)
    several = read_weights(tmp_path / "several")
    for name, value in read_weights(tmp_path / "one").items():
        torch.testing.assert_close(several[name], value, atol=2e-5, rtol=1e-3, msg=name)


def test_epochs_are_consecutive_and_each_step_has_its_own_dropout(
    sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, seeds, batch, seed = [], [], PairSampler.batch, torch.manual_seed

    def recorded(sampler: PairSampler, epoch: int, step: int) -> Names:
        asked.append((epoch, step))
        return batch(sampler, epoch, step)

    def seeded(number: int) -> torch.Generator:
        seeds.append(number)
        return seed(number)

    monkeypatch.setattr(PairSampler, "batch", recorded)
    monkeypatch.setattr(torch, "manual_seed", seeded)
    few = ["epochs=2", "sampling.pairs_per_concept=1", "batch.pairs=150"]
    train(load_settings(None, settings(sample_folder, tmp_path / "run", *few)))
    steps = 1 + max(step for _, step in asked)
    assert steps > 1
    assert asked == [(epoch, step) for epoch in (0, 1) for step in range(steps)]
    assert len(set(seeds[-2 * steps :])) == 2 * steps


class RecordingModel(torch.nn.Module):
    """Instead of an encoder: records the tokens it gets and the random numbers that its dropout would draw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.drawn = torch.nn.Parameter(torch.ones(3)), []

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        numbers = torch.rand(4)
        self.drawn.append((tuple(numbers.tolist()), tuple(batch.ids.flatten().tolist())))
        return self.weight * (1 + torch.arange(len(batch.starts))[:, None])


class SameNameSampler:
    """Sixteen times the same name in every step."""

    steps_per_epoch = 2

    def batch(self, epoch: int, step: int) -> Names:
        return Names(np.zeros(16, np.int64), np.arange(16) // 2)


def drawn_by(rank: int, output: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> list[tuple]:
    """What one of two processes draws in three steps of four chunks of two names, each of which is encoded twice."""
    monkeypatch.setattr(trainer_module, "gather", lambda vectors, sizes, _: torch.cat([vectors] * len(sizes)))
    model = RecordingModel()
    alone = SimpleNamespace(
        device=torch.device("cpu"),
        process_index=rank,
        num_processes=2,
        is_main_process=rank == 0,
        prepare=lambda *things: things,
        no_sync=lambda model: nullcontext(),
        backward=lambda loss: loss.backward(),
        log=lambda *_, **__: None,
        wait_for_everyone=lambda: None,
    )
    disabled = dict.fromkeys(("save_steps", "eval_steps", "max_grad_norm"), 0)
    disabled |= dict.fromkeys(("mining", "evaluate", "max_minutes"))
    options = {"chunk": 2, "token_dropout": 0.5, "seed": 0} | more
    output.mkdir()
    Trainer(
        accelerator=alone,
        encoder=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        tokens=Tokens(np.arange(30, dtype=np.int32), np.array([0, 30])),
        sampler=SameNameSampler(),
        loss=PairLoss(partial(info_nce, temperature=1.0)),
        rate=lambda step: 1.0,
        report=lambda: None,
        output=output,
        identity={},
        learning_rate=1e-3,
        total_steps=3,
        save_total_limit=1,
        **disabled,
        **options,
    ).run(resume=False)
    return model.drawn


def test_dropout_is_a_pure_function_of_process_step_chunk_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout of the network and of tokens. All names are the same."""
    chunks = []
    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        drawn = drawn_by(rank, tmp_path / f"{rank}-{seed}", monkeypatch, seed=seed)
        assert len(drawn) == 3 * 4 * 2
        for step in range(3):
            first, second = drawn[8 * step : 8 * step + 4], drawn[8 * step + 4 : 8 * step + 8]
            assert first == second  # for the loss, and for the gradient
            chunks += first
    assert len(chunks) == 36
    numbers, tokens = zip(*chunks, strict=True)
    assert len(set(numbers)) == len(set(tokens)) == 36
    assert drawn_by(1, tmp_path / "again", monkeypatch) == [
        pair for i in (12, 16, 20) for pair in chunks[i : i + 4] * 2
    ]


EXPLODING = [
    "batch.pairs=8",
    "max_steps=6",
    "optim.learning_rate=1e30",
    "checkpoint.save_steps=1",
    "checkpoint.save_total_limit=9",
]  # the loss of the second step is not finite


def assert_stopped_after_one_step(output: Path) -> None:
    """The checkpoint before the step without a finite loss is intact, and nothing was saved after it."""
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-1"]
    assert open_artifact(output / "checkpoints" / "step-1", "checkpoint")["step"] == 1
    assert all(
        torch.isfinite(value).all()
        for value in load_file(output / "checkpoints" / "step-1" / "model.safetensors").values()
    )
    assert [line["step"] for line in read_steps(output)] == [1]
    assert not (output / "model").exists()


@pytest.mark.parametrize("miner", ["none", "triplet_margin"])
@pytest.mark.parametrize(
    "loss",
    [
        "multi_similarity",
        *(
            pytest.param(loss, marks=pytest.mark.slow)
            for loss in ("info_nce", "circle", "triplet", "lifted_structure", "nca")
        ),
    ],
)
def test_run_with_weights_that_are_not_finite_stops_for_every_loss(
    sample_folder: Path, tiny_folder: Path, tmp_path: Path, loss: str, miner: str
) -> None:
    words = settings(
        sample_folder, tmp_path / "run", *EXPLODING, f"base={tiny_folder}", f"loss.name={loss}", f"loss.miner={miner}"
    )
    with pytest.raises(
        ConfigError, match=r"the loss must be a finite number, found nan at step 2; lower optim\.learning_rate"
    ):
        train(load_settings(None, words))
    assert_stopped_after_one_step(tmp_path / "run")


def test_loss_that_is_not_finite_is_a_one_line_error(
    sample_folder: Path, tiny_folder: Path, tmp_path: Path, run: Run
) -> None:
    words = settings(sample_folder, tmp_path / "run", *EXPLODING, f"base={tiny_folder}", "loss.miner=none")
    done = run(ROOT / "xsap" / "train.py", *set_options(words))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [  # and no progress bar, as stderr is no terminal
        "error: the loss must be a finite number, found nan at step 2; lower optim.learning_rate, or set optim.max_grad_norm = 1"
    ]
    assert_stopped_after_one_step(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("optim.warmup_steps=1", 5e-4),
        pytest.param("optim.warmup_steps=0", 1e-3, marks=pytest.mark.slow),
        pytest.param("optim.max_grad_norm=1e-12", 0.0, marks=pytest.mark.slow),
    ],
)
def test_first_step_of_adam_moves_weights_by_the_learning_rate(
    sample_folder: Path, tmp_path: Path, change: str, moved: float
) -> None:
    for name, steps in (("before", 0), ("after", 1)):
        more = [f"max_steps={steps}", "batch.pairs=16", "optim.weight_decay=0", "optim.schedule=linear", change]
        train(load_settings(None, settings(sample_folder, tmp_path / name, *more)))
    before, after = read_weights(tmp_path / "before"), read_weights(tmp_path / "after")
    assert max((after[name] - before[name]).abs().max().item() for name in before) == pytest.approx(
        moved, rel=0.01, abs=1e-6
    )


def test_distinct_keeps_the_name_in_the_anchor_language() -> None:
    names, concepts = ["Fieber", "Fever", "fever", "FEVER", " "], np.array([3, 3, 3, 5, 5])
    kept = distinct(NameSet(names, concepts, ["de", "de", "en", "de", "en"], is_pairs=False), TextPolicy("lower"), "en")
    assert (kept.names, kept.concepts.tolist(), kept.languages) == (
        ["fieber", "fever", "fever"],
        [3, 3, 5],
        ["de", "en", "de"],
    )


def test_fingerprint_depends_on_every_part_of_the_data() -> None:
    ids, offsets, concepts, languages = (
        np.array([0, 7, 2, 0, 2], np.int32),
        np.array([0, 3, 5]),
        np.array([4, 4]),
        ["en", "de"],
    )
    parts = [
        (ids, offsets, concepts, languages),
        (ids + 1, offsets, concepts, languages),
        (ids, offsets - [0, 1, 0], concepts, languages),
    ]
    parts += [(ids, offsets, np.array([4, 5]), languages), (ids, offsets, concepts, ["de", "en"])]
    prints = [fingerprint(Tokens(i, o), NameSet(["a", "b"], c, codes, is_pairs=False)) for i, o, c, codes in parts]
    assert len(set(prints)) == len(parts)


def test_damaged_checkpoint_is_skipped_with_a_warning(
    sample_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("xsap"), "propagate", True)  # unless a command-line program ran before
    common = ["checkpoint.save_steps=4", "max_steps=8", "batch.pairs=8"]
    output = tmp_path / "run"
    train(load_settings(None, settings(sample_folder, output, *common)))
    expected = read_weights(output)
    (output / "checkpoints" / "step-8" / "model.safetensors").write_bytes(b"half")
    train(load_settings(None, settings(sample_folder, output, *common, "resume=auto")))
    assert "skipped damaged checkpoint" in caplog.text
    assert all(torch.equal(value, expected[name]) for name, value in read_weights(output).items())


def test_only_the_newest_checkpoints_are_kept(sample_folder: Path, tmp_path: Path) -> None:
    train(
        load_settings(
            None,
            settings(
                sample_folder,
                tmp_path / "run",
                "checkpoint.save_steps=2",
                "checkpoint.save_total_limit=2",
                "max_steps=9",
                "batch.pairs=8",
            ),
        )
    )
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-8", "step-9"]


def test_save_checkpoint_removes_damaged_and_temporary_ones_only(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (4, 8):
        save_checkpoint(tmp_path, Checkpoint(step, {}, {}), model, optimizer, {}, keep=2)
    (tmp_path / "step-8" / "manifest.json").unlink()
    (tmp_path / ".step-8.123.new").mkdir()  # as an interrupted save leaves it
    found = load_checkpoint(tmp_path, model, optimizer, {})
    assert found is not None
    assert found.step == 4
    save_checkpoint(tmp_path, Checkpoint(6, {}, {}), model, optimizer, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-6"]


@pytest.mark.parametrize(
    "left",
    [
        ".model.123.new",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (".model.123.old", ".config.json.123.new", ".metrics.jsonl.123.new", ".report.html.123.new")
        ),
    ],
)
def test_temporary_files_of_an_interrupted_run_are_removed(
    sample_folder: Path, tiny_folder: Path, tmp_path: Path, left: str
) -> None:
    words = settings(sample_folder, tmp_path / "run", "max_steps=1", "batch.pairs=8", f"base={tiny_folder}")
    train(load_settings(None, words))
    if left.startswith(".model"):
        shutil.copytree(tmp_path / "run" / "model", tmp_path / "run" / left)
    else:
        (tmp_path / "run" / left).write_text("half")
    (tmp_path / "run" / ".mine").write_text("none of xsap's")
    train(load_settings(None, [*words, "resume=auto"]))
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".mine"]


def test_run_resumes_with_a_moved_terminology(sample_folder: Path, tmp_path: Path) -> None:
    common = ["checkpoint.save_steps=2", "max_steps=2", "batch.pairs=8"]
    train(load_settings(None, settings(sample_folder, tmp_path / "run", *common)))
    expected = read_weights(tmp_path / "run")
    moved = shutil.copytree(sample_folder, tmp_path / "moved")
    train(load_settings(None, settings(moved, tmp_path / "run", *common, "resume=auto")))
    assert all(torch.equal(value, expected[name]) for name, value in read_weights(tmp_path / "run").items())


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "optim.learning_rate=5e-4",
        *(pytest.param(change, marks=pytest.mark.slow) for change in ("batch.pairs=9", "sampling.languages=en_syn")),
    ],
)
def test_run_with_other_settings_is_not_resumed(sample_folder: Path, tmp_path: Path, change: str) -> None:
    common = ["checkpoint.save_steps=2", "max_steps=2", "batch.pairs=8"]
    train(load_settings(None, settings(sample_folder, tmp_path / "run", *common)))
    with pytest.raises(ConfigError, match=r"step-2 was saved with \w+ = .*, this run has .*; use the saved value"):
        train(load_settings(None, settings(sample_folder, tmp_path / "run", *common, change, "resume=auto")))


def test_run_is_overwritten_only_on_request(sample_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    words = settings(sample_folder, tmp_path / "run", "max_steps=1", "batch.pairs=8", "checkpoint.save_steps=0")
    train(load_settings(None, words))
    with pytest.raises(ArtifactError, match="already has a run"):
        train(load_settings(None, words))
    train(load_settings(None, [*words, "overwrite=true"]))
    assert len(read_steps(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("change", ["overwrite=true", "resume=auto"])
def test_folder_that_is_not_a_run_is_never_replaced(
    sample_folder: Path, tiny_folder: Path, tmp_path: Path, change: str
) -> None:
    """A Hugging Face folder has a config.json too."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"has a config\.json but is not a run of xsap"):
        train(load_settings(None, settings(sample_folder, folder, "max_steps=0", change)))
    assert Encoder.from_pretrained(folder).dimension == 64


def test_run_stops_after_max_minutes_even_if_resumed(sample_folder: Path, tmp_path: Path) -> None:
    words = settings(
        sample_folder, tmp_path / "run", "max_minutes=0.005", "epochs=50", "batch.pairs=8", "checkpoint.save_steps=1000"
    )
    for more in ([], ["resume=auto"]):
        train(load_settings(None, [*words, *more]))
        steps = len(read_steps(tmp_path / "run"))
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{steps}"], more
    done = len(read_steps(tmp_path / "run"))
    assert done >= 1
    assert (tmp_path / "run" / "checkpoints" / f"step-{done}").is_dir()
    assert (tmp_path / "run" / "model").is_dir()


def test_max_steps_zero_saves_the_untrained_model(sample_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(load_settings(None, settings(sample_folder, tmp_path / name, "max_steps=0")))
    assert_same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the setting 'output' must be given; exactly one of"),
        (["--bogus"], "unrecognized arguments: --bogus. See xsap train --help"),
        (["--set", "output=x"], "exactly one of 'terminology' and 'pairs' must be set"),
        (["--set", "output=x", "--set", "terminology=nowhere"], "expected a terminology folder, found nothing there"),
        (
            ["--set", "output=x", "--set", "terminology=a", "--set", "sampling.langauges=en_syn"],
            "did you mean 'sampling.languages'?",
        ),
        (["--config", "none.toml"], "expected a TOML file of settings, found nothing there"),
        (["--config", "smal"], "found neither such a file nor a recipe of that name; did you mean 'small'?"),
        (["--config", "xyz"], "recipes are all_syn, "),
    ],
)
def test_invalid_use_is_a_one_line_error_without_output(
    tmp_path: Path, run: Run, words: list[str], message: str
) -> None:
    done = run(ROOT / "xsap" / "train.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sampling.mode=groups", "a file of pairs allows neither"),
        ("sampling.languages=en_syn", "a file of pairs allows neither"),
        ("sampling.hard_negatives=1", "sampling.hard_negatives"),
        ("sampling.language_temperature=0.5", "sampling.language_temperature"),
        ("evaluation.mentions={mentions}", "needs a dictionary when training on a file of pairs"),
    ],
)
def test_file_of_pairs_rejects_incompatible_settings(
    pairs_file: Path, tmp_path: Path, change: str, message: str
) -> None:
    change = change.format(mentions=ROOT / "data_prep" / "sample" / "mentions.tsv")
    with pytest.raises(ConfigError, match=message):
        train(load_settings(None, [f"pairs={pairs_file}", f"output={tmp_path / 'run'}", *SMALL, change]))


def test_language_without_names_is_rejected(sample_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no concept has two names"):
        train(load_settings(None, settings(sample_folder, tmp_path / "run", "sampling.anchor_language=sv")))
    with pytest.raises(ConfigError, match="has no name in sv; it has en, "):
        train(load_settings(None, settings(sample_folder, tmp_path / "run", "sampling.languages=en+es+sv_syn")))


@pytest.mark.parametrize("without", ["gold", "English"])
def test_evaluation_without_gold_or_english_names_is_rejected_at_once(
    sample_folder: Path, tmp_path: Path, without: str
) -> None:
    mentions, dictionary = ROOT / "data_prep" / "sample" / "mentions.tsv", sample_folder
    if without == "gold":
        table = read_mentions(mentions).slice(0, 3)
        column = table.schema.get_field_index("concept_ids")
        without_gold = pa.array([[]] * 3, table.schema.field(column).type)
        write_mentions(table.set_column(column, table.schema.field(column), without_gold), tmp_path / "m.parquet")
        mentions = tmp_path / "m.parquet"
    else:
        Terminology.load(sample_folder).select(languages={"de"}).save(tmp_path / "german")
        dictionary = tmp_path / "german"
    words = settings(
        sample_folder, tmp_path / "run", f"evaluation.mentions={mentions}", f"evaluation.dictionary={dictionary}"
    )
    with pytest.raises(
        DataError, match="found none that has any" if without == "gold" else "with English names, found de"
    ):
        train(load_settings(None, words))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mixed_precision=fp16", "fp16 needs a GPU, found a CPU"),
        ("tracker=clearml", "the package of tracker = clearml is not installed"),
        ("scratch.heads=3", "scratch.hidden must be a multiple of scratch.heads, found 32 and 3"),
    ],
)
def test_unsupported_setting_is_a_one_line_error(
    sample_folder: Path, tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(load_settings(None, settings(sample_folder, tmp_path / "run", change)))
    assert not (tmp_path / "run").exists()


def test_gradient_accumulation_is_rejected(
    sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate would divide each loss by the number of steps without adding up gradients."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ConfigError, match="found NO with 4 accumulated steps"):
        train(load_settings(None, settings(sample_folder, tmp_path / "run")))


def test_help_describes_every_setting_without_loading_torch(run: Run) -> None:
    done = run("-X", "importtime", ROOT / "xsap" / "train.py", "--help")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert describe_settings() in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("slow", [True, False])
def test_bfloat16_run_warns_on_a_cpu_that_emulates_it(
    sample_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    monkeypatch.setattr("xsap.training.processes.bfloat16_is_slow", lambda: slow)
    monkeypatch.setattr(logging.getLogger("xsap"), "propagate", True)
    train(load_settings(None, settings(sample_folder, tmp_path / "run", "max_steps=0", "mixed_precision=bf16")))
    assert ("set mixed_precision=no" in caplog.text) == slow


@pytest.mark.parametrize("slow", [True, False])
def test_mixed_precision_auto_is_bf16_where_it_is_fast(
    sample_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    monkeypatch.setattr("xsap.training.processes.bfloat16_is_slow", lambda: slow)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    train(load_settings(None, settings(sample_folder, tmp_path / "run", "max_steps=0", "mixed_precision=auto")))
    stated = json.loads((tmp_path / "run" / "model" / "xsap.json").read_text(encoding="utf-8"))
    assert stated["training"]["mixed_precision"] == ("no" if slow else "bf16")
