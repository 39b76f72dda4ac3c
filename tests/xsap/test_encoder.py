"""Encoder: what it writes others open, what others write it opens or refuses, and names become the same vectors everywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, MPNetConfig, MPNetModel

from xsap import Encoder
from xsap.encoding import packing as tokens_module
from xsap.encoding.model_folder import EncoderConfig, check_tokenizer
from xsap.encoding.packing import pack, tokenize_names, tokenize_to_disk
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ArtifactError, ConfigError
from xsap.text import TextPolicy

NAMES = ["fiebre alta", "Brustschmerzen", "胸痛", "FEVER", "chest pain", "a" * 300, "x"]


def bare(folder: Path, to: Path) -> Path:
    """A Hugging Face folder without a word on pooling, as SapBERT's are."""
    shutil.copytree(folder, to)
    for name in ("xsap.json", "modules.json", "manifest.json", "sentence_bert_config.json"):
        (to / name).unlink()
    for name in ("1_Pooling", "2_Normalize"):
        shutil.rmtree(to / name)
    return to


@pytest.fixture(scope="module")
def bare_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare(tiny_folder, tmp_path_factory.mktemp("bare") / "model")


def by_hand(folder: Path, names: list[str], pooling: str, length: int) -> np.ndarray:
    """Vectors by transformers alone, padded."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if pooling == "mean_all" else True
    inputs = tokenizer(names, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    pooled = {"cls": states[:, 0], "mean": (states * mask).sum(1) / mask.sum(1), "mean_all": states.mean(1)}
    return pooled[pooling].numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_vectors_are_those_of_the_plain_padded_model(bare_folder: Path, pooling: str) -> None:
    encoder = Encoder.from_pretrained(bare_folder, pooling=pooling, max_length=25)
    expected = by_hand(bare_folder, NAMES, pooling, 25)
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), expected, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(NAMES), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize(("pooling", "case"), [("mean", "lower"), ("cls", "cased"), ("mean", "cased")])
def test_sentence_transformer_gives_the_same_vectors(
    bare_folder: Path, tmp_path: Path, pooling: str, case: str
) -> None:
    encoder = Encoder.from_pretrained(bare_folder, pooling=pooling, max_length=16, policy=TextPolicy(case, "NFC"))
    encoder.save_pretrained(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(NAMES)
    np.testing.assert_allclose(encoder.encode(NAMES), theirs, atol=1e-5)


def test_a_saved_model_says_everything_again(tiny_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    assert (encoder.pooling, encoder.max_length, encoder.policy) == ("mean", 32, TextPolicy("lower", "NFKC"))
    encoder.save_pretrained(tmp_path / "again")
    again = Encoder.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.encode(NAMES), encoder.encode(NAMES))
    np.testing.assert_array_equal(encoder.encode(["FEVER"]), encoder.encode([" fever\u200b "]))


def test_a_sentence_transformer_folder_is_understood(bare_folder: Path, tmp_path: Path) -> None:
    Encoder.from_pretrained(bare_folder, pooling="cls", max_length=16).save_pretrained(tmp_path / "ours")
    SentenceTransformer(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    encoder = Encoder.from_pretrained(tmp_path / "theirs")
    assert (encoder.pooling, encoder.max_length) == ("cls", 16)
    np.testing.assert_allclose(
        encoder.encode(NAMES), SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(NAMES), atol=1e-5
    )


def test_a_sentence_transformer_that_pools_otherwise_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(tiny_folder), device="cpu").save(str(tmp_path / "st"))
    config = tmp_path / "st" / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pooling_mode": "max"}))
    with pytest.raises(ConfigError, match="found 'max'"):
        Encoder.from_pretrained(tmp_path / "st")


def test_a_folder_that_does_not_say_how_it_pools_is_never_guessed_at(bare_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="give pooling: one of cls, mean, mean_all"):
        Encoder.from_pretrained(bare_folder)


def test_another_pooling_than_the_model_says_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="its pooling is mean, found cls"):
        Encoder.from_pretrained(tiny_folder, pooling="cls")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"pooling": "max"}, "pooling must be one of"), ({"pooling": "cls", "max_length": 2}, "at least 3")],
)
def test_impossible_descriptions_are_refused(bare_folder: Path, keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Encoder.from_pretrained(bare_folder, **keywords)


def test_a_length_beyond_the_models_positions_is_refused(bare_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length must be at most 32, the positions that its model has; found 33"):
        Encoder.from_pretrained(bare_folder, pooling="cls", max_length=33)
    Encoder.from_pretrained(bare_folder, pooling="cls", max_length=32).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "xsap.json").unlink()
    (tmp_path / "model" / "manifest.json").unlink()
    (tmp_path / "model" / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 34}'
    )  # XLM-R's rows, not its positions
    encoder = Encoder.from_pretrained(tmp_path / "model")
    assert encoder.max_length == 32
    assert np.isfinite(encoder.encode(["fever " * 50])).all()


def test_pickled_weights_are_never_opened(bare_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"expected its weights as \.safetensors, found none"):
        Encoder.from_pretrained(folder, pooling="cls")
    (folder / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="not a model that transformers can open"):
        Encoder.from_pretrained(folder, pooling="cls")


def test_no_architecture_keeps_a_head_that_no_gradient_reaches(bare_folder: Path, tmp_path: Path) -> None:
    """Processes that train together wait for the gradient of every parameter."""
    rows = len(AutoTokenizer.from_pretrained(bare_folder))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    (folder / "config.json").unlink()
    MPNetModel(MPNetConfig(vocab_size=rows, pad_token_id=1, **size)).save_pretrained(folder)
    encoder = Encoder.from_pretrained(folder, pooling="mean", device="cpu").train()
    encoder(pack(tokenize_names(NAMES, encoder.tokenizer, 25))).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_tokens_in_memory_and_by_way_of_a_file_are_the_tokenizers_own(
    tiny_folder: Path, sample_names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few names at once: for all of UMLS's, what a tokenizer returns would not fit into memory."""
    tokenizer, names, asked = AutoTokenizer.from_pretrained(tiny_folder), sample_names[:50], []
    expected = [tokenizer(name, truncation=True, max_length=9)["input_ids"] for name in names]

    def counted(some: list[str], **options: object) -> object:
        asked.append(len(some))
        return tokenizer(some, **options)

    monkeypatch.setattr(tokens_module, "_NAMES_AT_ONCE", 7)
    found = tokenize_names(names, counted, 9)
    assert asked == [7] * 7 + [1]
    for tokens in (found, tokenize_to_disk(names, tokenizer, 9, tmp_path / "tokens.arrow")):
        assert tokens.ids.dtype == np.int32
        assert [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] == expected


def test_a_damaged_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    content_hash = bytearray(weights.read_bytes())
    content_hash[-7] ^= 1
    weights.write_bytes(content_hash)
    with pytest.raises(ArtifactError, match="damaged"):
        Encoder.from_pretrained(folder)


def test_nothing_there_and_no_hub_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", "someone/some-model"):
        with pytest.raises(ArtifactError) as caught:
            Encoder.from_pretrained(path, pooling="cls")
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found no config.json in it"):
        Encoder.from_pretrained(tmp_path, pooling="cls")


def test_a_string_instead_of_a_list_is_a_mistake(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="put it into a list"):
        Encoder.from_pretrained(tiny_folder).encode("fever")


def test_no_names_no_vectors(tiny_folder: Path) -> None:
    assert Encoder.from_pretrained(tiny_folder).encode([]).shape == (0, 64)


def test_vectors_do_not_depend_on_order_or_company(tiny_folder: Path, sample_names: list[str]) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    together = encoder.encode(sample_names[:400])
    np.testing.assert_allclose(encoder.encode(sample_names[:400][::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_bf16_stays_close_to_fp32(tiny_folder: Path, sample_names: list[str]) -> None:
    exact = Encoder.from_pretrained(tiny_folder).encode(sample_names[:200])
    rough = Encoder.from_pretrained(tiny_folder, dtype="bfloat16").encode(sample_names[:200])
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert (exact * rough).sum(1).min() > 0.999


def test_encode_leaves_training_mode_as_it_was(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    encoder.train()
    first = encoder.encode(NAMES)
    assert encoder.training
    assert np.array_equal(first, encoder.encode(NAMES))


def test_a_tokenizer_from_scratch_knows_its_names(sample_names: list[str]) -> None:
    size = {"vocabulary_size": 2000, "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0}
    encoder = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=3)
    tokenizer = encoder.tokenizer
    assert len(tokenizer) <= 2000
    ids = [i for row in tokenizer(sample_names)["input_ids"] for i in row]
    assert ids.count(tokenizer.unk_token_id) < 0.001 * len(ids)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [
        0,
        1,
        2,
        3,
        len(tokenizer) - 1,
    ]
    again = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=3)
    assert np.array_equal(again.encode(sample_names[:50]), encoder.encode(sample_names[:50]))
    other = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=4)
    assert not np.array_equal(other.encode(sample_names[:50]), encoder.encode(sample_names[:50]))


def test_a_tokenizer_that_knows_nothing_is_refused(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    empty = type(encoder.tokenizer)(
        vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)]
    )
    with pytest.raises(ArtifactError, match="protobuf"):
        check_tokenizer(empty, encoder.transformer, "it")


def test_a_tokenizer_larger_than_its_model_is_refused(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    encoder.transformer.resize_token_embeddings(100)
    with pytest.raises(ArtifactError, match="only 100 rows"):
        check_tokenizer(encoder.tokenizer, encoder.transformer, "it")
