"""SentenceTransformer folders: old layouts give the same vectors, and Dense modules, prompts and modules that do not fit are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.encoders import Malicious
from xsap import Encoder
from xsap.errors import ArtifactError, ConfigError, XsapError

NAMES = ["fiebre alta", "Brustschmerzen", "胸痛", "FEVER", "chest pain", "a" * 300, "x"]
HIDDEN = 64  # of tiny_folder
OF_TRANSFORMER = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def save_with_dense(base: Path, to: Path, *, sizes: tuple[int, ...] = (24,), bias: bool = True) -> Path:
    """A SentenceTransformer folder: transformer, mean pooling, and a Dense module of each size."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as st_models

    torch.manual_seed(0)
    modules: list[torch.nn.Module] = [st_models.Transformer(str(base), max_seq_length=25)]
    modules.append(st_models.Pooling(HIDDEN, "mean"))
    for inputs, outputs in zip((HIDDEN, *sizes), sizes, strict=False):
        modules.append(st_models.Dense(inputs, outputs, bias=bias, activation_function=torch.nn.Tanh()))
    SentenceTransformer(modules=modules, device="cpu").save(str(to))
    return to


@pytest.fixture(scope="module")
def saved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_dense(tiny_folder, tmp_path_factory.mktemp("st") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def refusal(folder: Path) -> str:
    with pytest.raises(XsapError) as caught:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def vectors_of(folder: Path, **options: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(NAMES, **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(24,), (24, 40)])
def test_dense_modules_in_a_row_give_the_same_vectors(tiny_folder, tmp_path, sizes, bias) -> None:
    made = save_with_dense(tiny_folder, tmp_path / "st", sizes=sizes, bias=bias)
    encoder = Encoder.from_pretrained(made)
    assert encoder.dimension == sizes[-1]
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), vectors_of(made), atol=1e-5)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["linear.weight", "linear.bias"])
def test_dense_weights_that_are_not_finite_are_refused_by_name(folder: Path, name: str, number: float) -> None:
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    weights[name].view(-1)[5] = number
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    message = refusal(folder)
    assert "2_Dense/model.safetensors: expected finite weights" in message
    assert f"found NaN or infinity in {name}" in message


@pytest.mark.parametrize("stated", [32, 10**12, -64, 0])
def test_dense_module_that_takes_vectors_of_another_size_is_refused(folder: Path, stated: int) -> None:
    change(folder / "2_Dense" / "config.json", in_features=stated)
    assert f"expected in_features 64, the components of a vector before it; found {stated}" in refusal(folder)


def test_second_dense_module_must_take_the_vectors_of_the_first(tiny_folder: Path, tmp_path: Path) -> None:
    made = save_with_dense(tiny_folder, tmp_path / "st", sizes=(24, 40))
    change(made / "3_Dense" / "config.json", in_features=HIDDEN)
    assert "3_Dense/config.json: expected in_features 24" in refusal(made)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("linear.weight", torch.zeros(24, 63), "expected linear.weight of shape 24 × 64, found 24 × 63"),
        ("linear.weight", torch.zeros(24 * 64), "expected linear.weight of shape 24 × 64, found 1536"),
        ("linear.weight", None, "expected linear.weight of shape 24 × 64, found none"),
        ("linear.bias", torch.zeros(25), "expected linear.bias of shape 24, found 25"),
        ("linear.bias", torch.tensor(1.0), "expected linear.bias of shape 24, found a single number"),
        (
            "residual.weight",
            torch.zeros(24, 64),
            "expected only linear.weight and linear.bias, found 'residual.weight'",
        ),
    ],
)
def test_dense_weights_of_another_size_than_stated_are_refused(folder, name, tensor, expected) -> None:
    file = folder / "2_Dense" / "model.safetensors"
    weights = load_file(file) | ({} if tensor is None else {name: tensor})
    save_file({key: value for key, value in weights.items() if key != name or tensor is not None}, file)
    assert expected in refusal(folder)


@pytest.mark.parametrize("values", [{"use_residual": True}, {"module_input_name": "token_embeddings"}])
def test_dense_module_with_options_that_would_change_vectors_is_refused(folder: Path, values: dict) -> None:
    change(folder / "2_Dense" / "config.json", **values)
    assert "without use_residual" in refusal(folder)


def test_dense_module_that_states_no_activation_has_the_default_one(folder: Path) -> None:
    file = folder / "2_Dense" / "config.json"
    stated = json.loads(file.read_text())
    del stated["activation_function"]
    file.write_text(json.dumps(stated))
    np.testing.assert_allclose(Encoder.from_pretrained(folder).encode(NAMES, unit=False), vectors_of(folder), atol=1e-5)


@pytest.mark.parametrize("name", ["torch.nn.modules.activation.Softsign", "somewhere.Tanh", "Tanh"])
def test_unknown_activation_is_refused(folder: Path, name: str) -> None:
    change(folder / "2_Dense" / "config.json", activation_function=name)
    assert (
        f"expected one of torch's activation functions Identity, Tanh, ReLU, GELU, Sigmoid; found '{name}'"
        in refusal(folder)
    )


def to_old_layout(folder: Path) -> Path:
    """As SentenceTransformer saved folders before release 1: the transformer has a folder of its own."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in [*OF_TRANSFORMER, "sentence_bert_config.json"]:
        (folder / name).rename(inner / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize("root_config", [None, {"__version__": "0.3.8"}])
def test_transformer_in_a_folder_of_its_own_gives_the_same_vectors(folder: Path, root_config: object) -> None:
    to_old_layout(folder)
    if root_config:  # what such folders had in the place of config_sentence_transformers.json
        (folder / "config.json").write_text(json.dumps(root_config))
    encoder = Encoder.from_pretrained(folder)
    assert (encoder.pooling, encoder.max_length, encoder.dimension) == ("mean", 25, 24)
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), vectors_of(folder), atol=1e-5)


def test_length_and_case_of_an_old_configuration_file_are_used(folder: Path) -> None:
    to_old_layout(folder)
    inner = folder / "0_Transformer"
    (inner / "sentence_bert_config.json").rename(inner / "sentence_xlm-roberta_config.json")
    change(inner / "sentence_xlm-roberta_config.json", max_seq_length=9, do_lower_case=True)
    encoder = Encoder.from_pretrained(folder)
    assert (encoder.max_length, encoder.policy.case) == (9, "lower")


@pytest.mark.parametrize("pickled", [["2_Dense"], ["0_Transformer"], ["0_Transformer", "2_Dense"]], ids="-".join)
def test_pickled_weights_of_any_module_are_converted_and_give_the_same_vectors(folder, tmp_path, monkeypatch, pickled):
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    expected = Encoder.from_pretrained(folder).encode(NAMES)
    to_old_layout(folder)
    for name in pickled:
        pickle_weights(folder / name)
    before = sorted(folder.rglob("*"))
    encoder = Encoder.from_pretrained(folder)
    assert np.array_equal(encoder.encode(NAMES), expected)
    assert sorted(folder.rglob("*")) == before
    [copy] = (tmp_path / "cache" / "converted").iterdir()
    assert copy.name == encoder.content_hash
    stamps = [file.stat().st_mtime_ns for file in sorted(copy.rglob("*.safetensors"))]
    assert len(stamps) == 2
    assert np.array_equal(Encoder.from_pretrained(folder).encode(NAMES), expected)
    assert [file.stat().st_mtime_ns for file in sorted(copy.rglob("*.safetensors"))] == stamps


def test_converted_copy_that_lacks_the_weights_of_a_module_is_made_again(folder, tmp_path, monkeypatch):
    """As releases made them that converted the main folder alone."""
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    expected = Encoder.from_pretrained(folder).encode(NAMES)
    pickle_weights(folder / "2_Dense")
    copy = tmp_path / "cache" / "converted" / str(Encoder.from_pretrained(folder).content_hash)
    (copy / "2_Dense" / "model.safetensors").unlink()
    assert np.array_equal(Encoder.from_pretrained(folder).encode(NAMES), expected)


def test_dense_weights_that_are_not_tensors_alone_are_refused_and_run_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": Malicious(tmp_path / "was-run")}, folder / "2_Dense" / "pytorch_model.bin")
    assert "2_Dense: expected weights that contain only tensors" in refusal(folder)
    assert not (tmp_path / "was-run").exists()


def test_dense_module_without_weights_is_refused(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "2_Dense: expected model.safetensors or pytorch_model.bin, found neither" in refusal(folder)


def test_prompt_that_pooling_leaves_out_is_refused(folder: Path) -> None:
    """SentenceTransformer's vectors, which leave out the prompt's tokens, are others than those of any pooling here."""
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    change(folder / "config_sentence_transformers.json", prompts={"query": "query: "}, default_prompt_name="query")
    message = refusal(folder)
    assert "1_Pooling/config.json: expected include_prompt true for a model with a prompt, found false" in message
    theirs = vectors_of(folder)
    plain = Encoder.from_pretrained(folder, prompt="", override=True)  # the ways out that the line names
    unprompted = vectors_of(folder, prompt="")
    np.testing.assert_allclose(plain.encode(NAMES, unit=False), unprompted, atol=1e-5)
    change(folder / "1_Pooling" / "config.json", include_prompt=True)
    whole = Encoder.from_pretrained(folder).encode(NAMES, unit=False)
    np.testing.assert_allclose(whole, vectors_of(folder), atol=1e-5)
    assert np.abs(whole - theirs).max() > 1e-3


def test_pooling_without_the_prompt_is_no_matter_where_there_is_no_prompt(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    np.testing.assert_allclose(Encoder.from_pretrained(folder).encode(NAMES, unit=False), vectors_of(folder), atol=1e-5)


def test_modules_in_another_order_are_refused(folder: Path) -> None:
    """A Dense module after normalization gives other vectors than before it."""
    modules = json.loads((folder / "modules.json").read_text())
    normalize = modules[1] | {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}
    (folder / "modules.json").write_text(json.dumps([*modules, normalize]))
    Encoder.from_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([*modules[:2], normalize, modules[2]]))
    assert "in this order" in refusal(folder)


def test_module_with_code_of_its_own_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "custom_st.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="xsap never runs such code"):
        Encoder.from_pretrained(folder)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_module_outside_of_the_folder_is_refused(folder: Path, path: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError, match="expected paths inside of the folder"):
        Encoder.from_pretrained(folder)
