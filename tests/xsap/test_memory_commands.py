"""Commands of an entity memory: silver mentions, training, another index, and texts that a memory annotates."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.encoders import TRAIN_TOKENIZER, tiny_encoder
from tests.fixtures.memories import index_of
from xsap import Encoder
from xsap.terms.mentions import read_mentions
from xsap.text_in.memory import EntityMemoryModel
from xsap.text_in.memory_annotate import annotate_with_memory
from xsap.text_in.memory_answers import NO_ENTITY, MemoryAnnotator
from xsap.text_in.memory_heads import MemoryTagger

TERMS = {"C1": ["fever"], "C2": ["cough"], "C3": ["chest pain"], "C4": ["acute kidney failure"], "C5": ["rash"]}
OTHERS = {"D1": ["gastric ulcer"], "D2": ["broken leg"], "D3": ["burn"], "C1": ["fever"], "D5": ["stroke"]}
NOTES = [
    "The patient has fever and chest pain.",
    "No cough. A rash, and acute kidney failure.",
    "Nothing of note.",
    "Fever, cough and rash.",
]
Run = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two indexes of one model, and notes."""
    folder = tmp_path_factory.mktemp("memory")
    names = [name for terms in (TERMS, OTHERS) for names in terms.values() for name in names]
    tiny_encoder(TRAIN_TOKENIZER["WordPiece"]([*NOTES, *names] * 3), "WordPiece").save_pretrained(folder / "model")
    encoder = Encoder.from_pretrained(folder / "model")
    for name, terms in (("index", TERMS), ("other", OTHERS)):
        index = index_of(terms, encoder)
        object.__setattr__(index.model, "path", str(folder / "model"))
        index.save(folder / name)
    lines = [json.dumps({"document_id": f"n{number}", "text": text}) for number, text in enumerate(NOTES)]
    (folder / "notes.jsonl").write_text("\n".join(lines) + "\n")
    return folder


TINY = [
    *("memory.entity_size=4", "memory.candidates=3", "memory.max_tokens=24", "batch.windows=2", "max_steps=3"),
    *("checkpoint.save_steps=0", "head_learning_rate=1e-2"),
]


@pytest.fixture
def trained(folder: Path, run_here: Run) -> Path:
    """A memory folder, trained on silver mentions by the commands."""
    if not (folder / "silver.tsv").exists():
        done = run_here(
            "-m",
            "xsap",
            "silver",
            "--index",
            folder / "index",
            folder / "notes.jsonl",
            "--out",
            folder / "silver.tsv",
            "--language",
            "en",
        )
        assert done.returncode == 0, done.stderr
        assert "8 mentions" in done.stderr
        assert "no name in it" in done.stderr
        given = [f"index={folder / 'index'}", f"mentions={folder / 'silver.tsv'}", f"output={folder / 'run'}", *TINY]
        done = run_here("-m", "xsap", "train-memory", *(word for setting in given for word in ("--set", setting)))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(folder / "run" / "memory")
    return folder / "run" / "memory"


def test_silver_mentions_are_the_names_of_the_index(trained: Path, folder: Path) -> None:
    mentions = read_mentions(folder / "silver.tsv").to_pylist()
    concept_of = {name: concept for concept, names in TERMS.items() for name in names}
    assert {(row["mention"].lower(), row["concept_ids"][0]) for row in mentions} == set(concept_of.items())
    assert all(row["context"][row["start"] : row["end"]] == row["mention"] for row in mentions)


def test_memory_gets_the_concepts_of_another_index(trained: Path, folder: Path, run_here: Run) -> None:
    out = folder / "swapped"
    done = run_here("-m", "xsap", "swap-memory", trained, "--index", folder / "other", "--out", out, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "5 entities in place of 5; 1 in both" in done.stderr
    memory = EntityMemoryModel.load(out)
    assert memory.table.entities["concept_id"].to_pylist() == sorted(OTHERS)
    annotate_with_memory(memory, NOTES)
    again = run_here("-m", "xsap", "swap-memory", trained, "--index", folder / "other", "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_texts_are_annotated_by_a_memory_in_the_format_of_other_answers(
    trained: Path, folder: Path, run_here: Run
) -> None:
    memory = EntityMemoryModel.load(trained)
    expected = annotate_with_memory(memory, NOTES)
    done = run_here("-m", "xsap", "text", "--memory", trained, folder / "notes.jsonl", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[(span["start"], span["end"]) for span in line["spans"]] for line in lines] == [
        [(span.start, span.end) for span in spans] for spans in expected
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --index or --memory, found neither"),
        (["--memory", "m", "--index", "i"], "expected --index or --memory, found both"),
        (["--memory", "m", "--fuzzy"], "--fuzzy needs --index, found --memory"),
        (["--memory", "nothing"], "expected a memory folder, found nothing there"),
    ],
)
def test_wrong_choice_of_index_and_memory_is_refused(
    words: list[str], message: str, folder: Path, run_here: Run
) -> None:
    done = run_here("-m", "xsap", "text", *words, folder / "notes.jsonl", "--format", "jsonl")
    assert done.returncode == 2
    assert message in done.stderr


def test_given_spans_are_linked_by_a_memory(trained: Path) -> None:
    annotator = MemoryAnnotator(EntityMemoryModel.load(trained))
    spans = [[(16, 21), (26, 36)], [(3, 8)], [], [(5, 6)]]
    found = annotator.annotate(NOTES, 2, spans=spans)
    assert [[(span.start, span.end) for span in each.spans] for each in found] == [sorted(own) for own in spans]
    for each in found:
        for span in each.spans:
            assert len(span.result.candidates) <= 2
            assert bool(span.result.candidates) == (span.result.reason is None)
            assert span.result.reason in (None, NO_ENTITY)
            assert span.result.mention == each.text[span.start : span.end]


def test_python_blocks_of_the_documentation_run(trained: Path, run: Run) -> None:
    page = (ROOT / "docs" / "entity-memory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    of_a_run = [block for block in blocks if "RUN/" in block]
    assert len(of_a_run) == 2
    for block in of_a_run:
        done = run("-c", block.replace("RUN/", f"{trained.parent}/"))
        assert done.returncode == 0, done.stderr
    assert MemoryTagger.load(trained.parent / "tagger").tags.types == ["DISO"]


def test_settings_of_a_memory_are_listed_within_80_columns(run_here: Run) -> None:
    done = run_here("-m", "xsap", "train-memory", "--settings")
    assert done.returncode == 0
    assert "memory.entity_size" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
