"""Hostile model folders: what they name is not run, and whatever their files contain gives one line."""

import json
import shutil
from contextlib import suppress

import pytest

from xsap.encoding.encoder import Encoder
from xsap.errors import XsapError


@pytest.fixture
def bare(tiny_folder, tmp_path):
    """A model folder without a manifest, as anybody could have made it."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    return tmp_path / "model"


def test_code_that_a_model_folder_names_is_not_run(bare, tmp_path):
    (bare / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    for file in ("config.json", "tokenizer_config.json"):
        stated = json.loads((bare / file).read_text())
        (bare / file).write_text(json.dumps(stated | {"auto_map": names}))
    with suppress(XsapError):
        Encoder.from_pretrained(bare).encode(["fever"])
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "hidden_size": [10**12, -1, 0, "x", None, 2.5, [1]],
    "num_attention_heads": [0, -1, 7, "x"],
    "vocab_size": [10**9, -1, None],
    "max_position_embeddings": [-1, "x"],
    "model_type": ["none-such", 3, None, "../x"],
    "hidden_act": ["none-such", 3],
}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_model_config_is_refused_in_one_line(bare, key):
    stated = json.loads((bare / "config.json").read_text())
    for value in HOSTILE[key]:
        (bare / "config.json").write_text(json.dumps(stated | {key: value}))
        with pytest.raises(XsapError) as error:
            Encoder.from_pretrained(bare)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"3", b"[]"], ids=range(7))
@pytest.mark.parametrize("file", ["config.json", "xsap.json", "tokenizer.json", "model.safetensors"])
def test_unreadable_model_file_is_refused_in_one_line(bare, file, content):
    (bare / file).write_bytes(content)
    with pytest.raises(XsapError) as error:
        Encoder.from_pretrained(bare)
    assert "\n" not in str(error.value)
