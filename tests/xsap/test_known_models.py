"""Known models: the table is sound, and a model of it opens without `--pooling`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.encoders import copy_without_config
from xsap import Encoder
from xsap.encoding.known_models import find_known_model, known_models
from xsap.encoding.model_folder import POOLINGS, EncoderConfig
from xsap.errors import ArtifactError

NAMES = ["fiebre alta", "Brustschmerzen", "chest pain"]


@pytest.mark.parametrize("model", known_models().values(), ids=lambda model: model.model_id)
def test_entry_of_the_table_is_sound(model) -> None:
    assert model.model_id.count("/") == 1
    assert model.pooling in POOLINGS
    assert EncoderConfig(**model.stated()).pooling == model.pooling
    assert len(model.source) > 10
    assert set(model.unverified) <= {"pooling", "max_length", "case"}
    assert all(getattr(model, value) is not None for value in model.unverified)
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
