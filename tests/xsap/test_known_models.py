"""Known models: the table is sound, and a model of it opens without `--pooling`."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.encoders import copy_without_config, save_with_prompts
from xsap import Encoder
from xsap.encoding import model_folder
from xsap.encoding.known_models import find_known_model, known_models
from xsap.encoding.model_folder import POOLINGS, EncoderConfig
from xsap.errors import ArtifactError, ConfigError

NAMES = ["fiebre alta", "Brustschmerzen", "chest pain"]


@pytest.mark.parametrize("model", known_models().values(), ids=lambda model: model.model_id)
def test_entry_of_the_table_is_sound(model) -> None:
    assert model.model_id.count("/") == 1
    assert model.pooling in POOLINGS
    assert EncoderConfig(**model.stated()).pooling == model.pooling
    assert len(model.source) > 10
    assert set(model.unverified) <= {"pooling", "max_length", "case"}
    assert all(getattr(model, value) is not None for value in model.unverified)
    assert model.similarity in ("cosine", "euclidean", "inner product")
    assert "\n" not in model.describe()


@pytest.mark.parametrize(
    "place",
    [
        "cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR",
        "hub/models--cambridgeltl--SapBERT-UMLS-2020AB-all-lang-from-XLMR/snapshots/0a1b",
    ],
)
def test_bare_folder_of_a_known_model_opens_without_pooling(tiny_folder: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.parent.mkdir(parents=True)
    copy_without_config(tiny_folder, folder)
    encoder = Encoder.from_pretrained(folder)
    assert (encoder.pooling, encoder.max_length) == ("cls", 25)
    given = Encoder.from_pretrained(folder, pooling="mean", max_length=16)
    assert (given.pooling, given.max_length) == ("mean", 16)


def test_what_the_folder_states_has_precedence(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cambridgeltl" / "SapBERT-from-PubMedBERT-fulltext"
    folder.parent.mkdir()
    shutil.copytree(tiny_folder, folder)
    assert Encoder.from_pretrained(folder).pooling == "mean"


def test_prompts_of_a_known_model_are_used(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "intfloat" / "multilingual-e5-small"
    folder.parent.mkdir()
    copy_without_config(tiny_folder, folder)
    encoder = Encoder.from_pretrained(folder, max_length=32)
    assert encoder.prompts == ("query: ", "query: ")
    plain = Encoder.from_pretrained(folder, max_length=32, prompt="")
    np.testing.assert_array_equal(encoder.encode(NAMES), plain.encode([f"query: {name}" for name in NAMES]))


def test_unknown_folder_is_still_refused_without_pooling(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_without_config(tiny_folder, tmp_path / "SapBERT-of-somebody")
    with pytest.raises(ArtifactError, match="its pooling is unknown"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["sapbert", "cambridgeltl", "cambridgeltl/SapBERT", "", "a/b/c"])
def test_similar_ids_are_no_known_model(name: str, tmp_path: Path) -> None:
    assert find_known_model(name, tmp_path) is None


def test_id_is_compared_without_case() -> None:
    found = find_known_model("CambridgeLTL/sapbert-umls-2020ab-all-lang-from-xlmr-LARGE")
    assert found is not None
    assert found.revision == "refs/pr/1"


def test_description_says_that_xsap_compares_otherwise_than_the_authors() -> None:
    table = known_models()
    for model_id, similarity in (
        ("andorei/bergamot-multilingual-gat", "euclidean"),
        ("dmis-lab/biosyn-biobert-bc2gn", "inner product"),
    ):
        assert table[model_id].describe().endswith(f"; its authors compare by {similarity}, xsap by cosine")
    assert "compare by" not in table["permediq/sapbert-de"].describe()


def test_description_has_the_values_that_are_used_and_those_doubts_alone() -> None:
    model = known_models()["icb-uma/herbert-gp"]
    assert model.describe().startswith("ICB-UMA/HERBERT-GP: pooling cls, 256 tokens, case cased (")
    assert model.describe().endswith("; not verified: pooling, max_length, case)")
    assert model.describe({"policy"}).startswith("ICB-UMA/HERBERT-GP: case cased (")
    assert model.describe({"policy"}).endswith("; not verified: case)")


@pytest.mark.parametrize(
    ("stated", "given", "logged"),
    [
        (
            "nothing",
            {},
            "pooling mean, 32 tokens, case cased, prompts 'query: ' before names and 'query: ' before mentions",
        ),
        ("nothing", {"pooling": "cls", "prompt": ""}, "32 tokens, case cased"),
        ("all but prompts", {}, "prompts 'query: ' before names and 'query: ' before mentions"),
        ("all but prompts", {"prompt": ("", "q: ")}, None),
        ("all", {}, None),
    ],
)
def test_values_that_the_table_adds_to_a_folder_are_logged_in_one_line(
    tiny_folder: Path, tmp_path: Path, stated: str, given: dict[str, Any], logged: str | None,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "intfloat" / "multilingual-e5-small"
    folder.parent.mkdir()
    if stated == "nothing":
        copy_without_config(tiny_folder, folder)
    else:
        shutil.copytree(tiny_folder, folder)
    if stated == "all but prompts":  # what SentenceTransformer wrote before it knew prompts
        for name in ("xsap.json", "manifest.json", "config_sentence_transformers.json"):
            (folder / name).unlink()
    model = replace(known_models()["intfloat/multilingual-e5-small"], max_length=32)  # the model has no more positions
    monkeypatch.setattr(model_folder, "find_known_model", lambda *_: model)
    with caplog.at_level("INFO", logger="xsap"):
        encoder = Encoder.from_pretrained(folder, **given)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (")[0] for line in lines] == ([] if logged is None else [f"{model.model_id}: {logged}"])
    prompts = given.get("prompt", "" if stated == "all" else "query: ")
    assert encoder.prompts == (prompts if isinstance(prompts, tuple) else (prompts, prompts))


def test_prompt_that_contradicts_the_folder_is_refused_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_with_prompts(tiny_folder, tmp_path / "m", "d: ", "q: ")
    with pytest.raises(
        ConfigError, match=r"m: the model puts 'd: ' before names, found the prompt 'q: '; leave prompt out$"
    ):
        Encoder.from_pretrained(folder, prompt="q: ")
    assert Encoder.from_pretrained(folder, prompt=("d: ", "q: ")).prompts == ("d: ", "q: ")
    assert Encoder.from_pretrained(folder, prompt="", override=True).prompts == ("", "")
