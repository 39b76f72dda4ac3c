"""Hostile model folders: what they name is not run, and whatever their files contain gives one line."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.json_damage import paths_in, replace_at
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
    "num_hidden_layers": [10**12, "x"],
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


UNREADABLE = [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"3", b"[]", b"[1]", b'"text"']
OF_SENTENCE_TRANSFORMER = [
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
]
WRONG = [None, True, 0, -1, 7.5, 10**30, "25", "", "a\n/../b", [], ["a"], [1], {}, {"a": 1}, float("nan"), "\ud800\0"]


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("file", ["config.json", "xsap.json", "tokenizer.json", "model.safetensors"])
def test_unreadable_model_file_is_refused_in_one_line(bare, file, content):
    (bare / file).write_bytes(content)
    assert_refused(bare)


@pytest.fixture(scope="module")
def saved_sentence_transformer(tiny_folder, tmp_path_factory):
    """A SentenceTransformer folder with a Dense module and prompts, and nothing of xsap's."""
    folder = tmp_path_factory.mktemp("st") / "model"
    encoder = Encoder.from_pretrained(tiny_folder, prompt="query: ", override=True)
    encoder.dense = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh())
    encoder.save_pretrained(folder)
    for name in ("manifest.json", "xsap.json"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def sentence_transformer(saved_sentence_transformer, tmp_path):
    return shutil.copytree(saved_sentence_transformer, tmp_path / "model")


def assert_refused(folder):
    with pytest.raises(XsapError) as error:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_opens_or_is_refused(folder, out=None):
    """True if the model opens; then it has finite vectors, and can be saved to `out` or is refused then."""
    encoder, message = None, ""
    try:
        encoder = Encoder.from_pretrained(folder)
        if out is not None:  # what it states is written again, and into the card
            encoder.save_pretrained(out, overwrite=True)
    except XsapError as error:
        message = str(error)
    assert "\n" not in message
    if encoder is None:
        return False
    assert np.isfinite(encoder.encode(["fever", ""])).all()
    return True


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("file", [*OF_SENTENCE_TRANSFORMER, "2_Dense/model.safetensors"])
def test_unreadable_file_of_a_sentence_transformer_is_refused_in_one_line(sentence_transformer, file, content):
    (sentence_transformer / file).write_bytes(content)
    assert file in assert_refused(sentence_transformer) or content == b"[]"  # no modules: the folder is named


@pytest.mark.parametrize("file", OF_SENTENCE_TRANSFORMER)
def test_sentence_transformer_with_any_value_replaced_opens_or_is_refused_in_one_line(sentence_transformer, file):
    content = json.loads((sentence_transformer / file).read_text())
    for module in content if file == "modules.json" else ():
        del module["idx"], module["name"]  # not used
    assert assert_opens_or_is_refused(sentence_transformer)
    opened = 0
    for path in paths_in(content):
        for wrong in WRONG:
            (sentence_transformer / file).write_text(json.dumps(replace_at(content, path, wrong)))
            opened += assert_opens_or_is_refused(sentence_transformer)
    assert opened  # as a value that is missing, or another folder of normalization


def test_xsap_json_with_any_value_replaced_opens_or_is_refused_in_one_line(bare, tmp_path):
    stated = json.loads((bare / "xsap.json").read_text())
    stated |= {"prompts": {"name": "a: ", "mention": "b: "}, "languages": ["en"], "fusion_weight": 0.5}
    stated |= {"trained_on": {"HPO": 3}, "training": {"steps": 1}}
    for path in paths_in(stated):
        for wrong in WRONG:
            (bare / "xsap.json").write_text(json.dumps(replace_at(stated, path, wrong)))
            assert_opens_or_is_refused(bare, tmp_path / "again")


@pytest.mark.parametrize("length", ["25", None, 7.5, [25], True])
def test_max_length_that_is_no_whole_number_is_refused_by_name(bare, length):
    stated = json.loads((bare / "xsap.json").read_text())
    (bare / "xsap.json").write_text(json.dumps(stated | {"max_length": length}))
    assert "xsap.json: expected" in (message := assert_refused(bare))
    assert "max_length" in message


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "expected prompts as a JSON object, found a list"),
        ("config_sentence_transformers.json", {"prompts": "a"}, "expected prompts as a JSON object, found 'a'"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "expected query as text, found 3"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["q"]}, "expected default_prompt_name as text"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "to be one of its prompts, found 'q'"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "25"},
            "expected max_seq_length as a whole number, found '25'",
        ),
        ("sentence_bert_config.json", {"do_lower_case": "false"}, "expected do_lower_case as true or false"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "expected pooling_mode as text, found 3"),
        ("2_Dense/config.json", {"in_features": "64"}, "expected in_features as a whole number, found '64'"),
        ("2_Dense/config.json", {"bias": "no"}, "expected bias as true or false, found 'no'"),
    ],
)
def test_value_of_a_wrong_type_is_refused_by_file_and_name(sentence_transformer, file, values, expected):
    stated = json.loads((sentence_transformer / file).read_text())
    (sentence_transformer / file).write_text(json.dumps(stated | values))
    message = assert_refused(sentence_transformer)
    assert f"{file}: " in message
    assert expected in message


def test_weights_of_another_shape_are_refused_by_name_and_shapes(bare):
    weights = load_file(bare / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.1.output.dense.weight"))
    rows, columns = weights[name].shape
    weights[name] = torch.zeros(rows, columns + 1)
    save_file(weights, bare / "model.safetensors", metadata={"format": "pt"})
    message = assert_refused(bare)
    assert f"expected {name} of shape {rows} × {columns}, which follows from config.json" in message
    assert f"found {rows} × {columns + 1} in .safetensors. Is" in message


def test_config_of_another_size_than_the_weights_is_refused_by_their_shapes(bare):
    stated = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(stated | {"hidden_size": 32}))
    message = assert_refused(bare)
    assert "embeddings.LayerNorm.bias of shape 32, which follows from config.json, found 64" in message
    assert "more of other shapes" in message


@pytest.mark.parametrize("model_type", ["of-its-own", None, 3])
def test_model_that_needs_code_of_its_own_is_refused_with_a_way_out(bare, tmp_path, model_type):
    (bare / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    stated = json.loads((bare / "config.json").read_text()) | {"model_type": model_type}
    stated["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (bare / "config.json").write_text(json.dumps(stated))
    message = assert_refused(bare)
    if model_type != 3:
        assert "which needs code of the model's own (auto_map). xsap never runs such code: use another model" in message
        assert "expected an architecture that transformers has itself" in message
    assert not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_not_run_and_its_tokenizer_json_is_used(bare, tmp_path):
    expected = Encoder.from_pretrained(bare).encode(["fever", "fiebre alta"])
    (bare / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    stated = json.loads((bare / "tokenizer_config.json").read_text()) | {"tokenizer_class": "EvilTokenizer"}
    stated["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    (bare / "tokenizer_config.json").write_text(json.dumps(stated))
    assert np.array_equal(Encoder.from_pretrained(bare).encode(["fever", "fiebre alta"]), expected)
    (bare / "tokenizer.json").unlink()
    assert_refused(bare)
    assert not (tmp_path / "ran").exists()
