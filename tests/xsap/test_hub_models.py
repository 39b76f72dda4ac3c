"""Models of the Hugging Face hub, with a stand-in for it: which revision is opened, and what is recorded of it."""

import logging
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file

from tests.fixtures.commands import Run
from tests.fixtures.encoders import copy_without_config
from xsap import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.encoder_spec import EncoderSpec

OF_TABLE = "cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR-large"  # has refs/pr/1 in the table


class Hub:
    """Has revisions of one model, None for the main one; notes what it was asked for, and which files were left out."""

    def __init__(self, revisions: dict[str | None, Path]) -> None:
        self.revisions = revisions
        self.asked: list[tuple[str, str | None, bool]] = []  # id, revision, with pickled files

    def snapshot_download(self, model_id: str, *, revision: str | None = None, ignore_patterns: list[str]) -> str:
        self.asked.append((model_id, revision, "*.bin" not in ignore_patterns))
        if revision not in self.revisions:
            response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
            raise RevisionNotFoundError(f"404: no revision {revision}\nof {model_id}", response=response)
        return str(self.revisions[revision])


@pytest.fixture
def bare(tiny_folder: Path, tmp_path: Path) -> Path:
    return copy_without_config(tiny_folder, tmp_path / "main")


def put_hub(monkeypatch: pytest.MonkeyPatch, revisions: dict[str | None, Path]) -> Hub:
    hub = Hub(revisions)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def test_revision_of_the_table_is_used_and_recorded(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put_hub(monkeypatch, {"refs/pr/1": bare})
    encoder = Encoder.from_pretrained(OF_TABLE)
    assert hub.asked == [(OF_TABLE, "refs/pr/1", False)]
    assert encoder.revision == "refs/pr/1"
    assert EncoderSpec.from_encoder(encoder, OF_TABLE).manifest_entry(bare)["revision"] == "refs/pr/1"


def test_given_revision_has_precedence_over_that_of_the_table(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put_hub(monkeypatch, {"v2": bare, "refs/pr/1": bare})
    assert Encoder.from_pretrained(OF_TABLE, revision="v2").revision == "v2"
    assert {revision for _, revision, _ in hub.asked} == {"v2"}


def test_main_revision_is_used_and_said_if_that_of_the_table_is_gone(bare, monkeypatch, caplog) -> None:
    hub = put_hub(monkeypatch, {None: bare})
    with caplog.at_level(logging.WARNING):
        encoder = Encoder.from_pretrained(OF_TABLE)
    assert [revision for _, revision, _ in hub.asked] == ["refs/pr/1", None]
    assert encoder.revision is None
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("xsap")]
    assert line == f"{OF_TABLE}: the hub no longer has its revision refs/pr/1; the main one is used instead"


@pytest.mark.parametrize("model", [OF_TABLE, "someone/some-model"])
def test_given_revision_that_the_hub_lacks_is_a_one_line_error(bare, monkeypatch, model) -> None:
    put_hub(monkeypatch, {None: bare, "refs/pr/1": bare})
    with pytest.raises(ArtifactError, match="found neither at revision 'v9': 404: no revision v9") as caught:
        Encoder.from_pretrained(model, pooling="cls", revision="v9")
    assert "\n" not in str(caught.value)


def test_hub_that_can_not_be_reached_is_no_revision_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(model_id: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append(revision)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ArtifactError, match="at revision 'refs/pr/1': no connection"):
        Encoder.from_pretrained(OF_TABLE)
    assert asked == ["refs/pr/1"]


def test_revision_of_a_folder_is_an_error(bare: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigError, match="for a model of the hub alone, found 'v2' for a folder; leave revision out"):
        Encoder.from_pretrained(bare, pooling="cls", revision="v2")
    done = run("-m", "xsap", "convert", bare, "--pooling", "cls", "--revision", "v2", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "found 'v2' for a folder" in done.stderr
    assert Encoder.from_pretrained(bare, pooling="cls").revision is None


def test_pickled_files_are_downloaded_only_if_a_module_has_no_other_weights(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    made = Encoder.from_pretrained(tiny_folder)
    made.dense = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh())
    made.save_pretrained(tmp_path / "st")
    for name in ("manifest.json", "xsap.json"):
        (tmp_path / "st" / name).unlink()
    hub = put_hub(monkeypatch, {None: tmp_path / "st"})
    expected = Encoder.from_pretrained("someone/some-model").encode(["fever"])
    assert [pickled for _, _, pickled in hub.asked] == [False]
    old = shutil.copytree(tmp_path / "st", tmp_path / "old")
    dense = old / "2_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    hub = put_hub(monkeypatch, {None: old})
    assert (Encoder.from_pretrained("someone/some-model").encode(["fever"]) == expected).all()
    assert [pickled for _, _, pickled in hub.asked] == [False, True]
