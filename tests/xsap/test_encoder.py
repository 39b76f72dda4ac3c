"""Encoder: model folders from and for other libraries, and the same vectors in all of them."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModel, AutoTokenizer, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from tests.fixtures.encoders import TRAIN_TOKENIZER, Malicious, copy_without_config, save_max_pooled, tiny_encoder
from xsap import Encoder
from xsap.encoding.model_folder import check_tokenizer
from xsap.encoding.packing import pack, tokenize_names, tokenize_to_disk
from xsap.errors import ArtifactError, ConfigError
from xsap.text import TextPolicy

NAMES = ["fiebre alta", "Brustschmerzen", "胸痛", "FEVER", "chest pain", "a" * 300, "x"]


@pytest.fixture(scope="module")
def bare_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_without_config(tiny_folder, tmp_path_factory.mktemp("bare") / "model")


def by_hand(folder: Path, names: list[str], pooling: str, length: int) -> np.ndarray:
    """Vectors by transformers alone, with padding."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if pooling == "mean_all" else True
    inputs = tokenizer(names, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    pooled = {"cls": states[:, 0], "mean": (states * mask).sum(1) / mask.sum(1), "mean_all": states.mean(1)}
    return pooled[pooling].numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_encode_matches_the_padded_transformers_model(bare_folder: Path, pooling: str) -> None:
    encoder = Encoder.from_pretrained(bare_folder, pooling=pooling, max_length=25)
    expected = by_hand(bare_folder, NAMES, pooling, 25)
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), expected, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(NAMES), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize(("pooling", "case"), [("mean", "lower"), ("cls", "cased"), ("mean", "cased")])
def test_sentence_transformer_opens_a_saved_model_with_the_same_vectors(
    bare_folder: Path, tmp_path: Path, pooling: str, case: str
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.from_pretrained(bare_folder, pooling=pooling, max_length=16, policy=TextPolicy(case, "NFC"))
    encoder.save_pretrained(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(NAMES)
    np.testing.assert_allclose(encoder.encode(NAMES), theirs, atol=1e-5)


def test_saved_model_keeps_pooling_length_and_policy(tiny_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    assert (encoder.pooling, encoder.max_length, encoder.policy) == ("mean", 32, TextPolicy("lower", "NFKC"))
    encoder.save_pretrained(tmp_path / "again")
    again = Encoder.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.encode(NAMES), encoder.encode(NAMES))
    np.testing.assert_array_equal(encoder.encode(["FEVER"]), encoder.encode([" fever\u200b "]))


def test_from_pretrained_opens_a_sentence_transformer_folder(bare_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    Encoder.from_pretrained(bare_folder, pooling="cls", max_length=16).save_pretrained(tmp_path / "ours")
    SentenceTransformer(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    encoder = Encoder.from_pretrained(tmp_path / "theirs")
    assert (encoder.pooling, encoder.max_length) == ("cls", 16)
    np.testing.assert_allclose(
        encoder.encode(NAMES), SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(NAMES), atol=1e-5
    )


@pytest.mark.parametrize("found", ["max", "none"])
def test_sentence_transformer_with_another_pooling_needs_one_that_is_given(
    bare_folder: Path, tiny_folder: Path, tmp_path: Path, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_max_pooled(tiny_folder, tmp_path / "st")
    if found == "none":
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([each for each in modules if "Pooling" not in each["type"]]))
    with pytest.raises(
        ConfigError, match=f"found '{found}'. Give another pooling: one of cls, mean, mean_all; `xsap probe`"
    ):
        Encoder.from_pretrained(folder)
    with caplog.at_level("INFO", logger="xsap"):
        encoder = Encoder.from_pretrained(folder, pooling="mean", max_length=25)
    assert f"found '{found}', in place of which another pooling is used" in caplog.text
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), by_hand(bare_folder, NAMES, "mean", 25), atol=1e-5)


def test_folder_without_pooling_is_rejected(bare_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="give pooling: one of cls, mean, mean_all"):
        Encoder.from_pretrained(bare_folder)


def test_pooling_that_contradicts_the_folder_is_rejected(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="states pooling mean, found cls given"):
        Encoder.from_pretrained(tiny_folder, pooling="cls")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"pooling": "max"}, "pooling must be one of"), ({"pooling": "cls", "max_length": 2}, "at least 3")],
)
def test_invalid_encoder_config_is_rejected(bare_folder: Path, keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Encoder.from_pretrained(bare_folder, **keywords)


def test_max_length_beyond_the_models_positions_is_rejected(bare_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="max_length must be at most 32, the number of positions of the model; found 33"
    ):
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


def pickled(bare_folder: Path, to: Path) -> Path:
    """A model folder whose weights are in pytorch_model.bin alone."""
    folder = shutil.copytree(bare_folder, to)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_converted_once_and_give_the_same_vectors(
    bare_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    folder = pickled(bare_folder, tmp_path / "model")
    before = sorted(file.name for file in folder.iterdir())
    encoder = Encoder.from_pretrained(folder, pooling="mean", max_length=25)
    expected = Encoder.from_pretrained(bare_folder, pooling="mean", max_length=25)
    assert np.array_equal(encoder.encode(NAMES), expected.encode(NAMES))
    assert sorted(file.name for file in folder.iterdir()) == before
    made = tmp_path / "cache" / "converted" / str(encoder.content_hash) / "model.safetensors"
    first = made.stat().st_mtime_ns
    assert Encoder.from_pretrained(folder, pooling="mean").content_hash == encoder.content_hash
    assert made.stat().st_mtime_ns == first


@pytest.mark.parametrize("content", ["code", "list", "number among tensors", "truncated", "text"])
@pytest.mark.usefixtures("forked_python")
def test_pickled_weights_that_are_not_tensors_alone_are_refused_and_run_nothing(
    bare_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    folder, sign = pickled(bare_folder, tmp_path / "model"), tmp_path / "was-run"
    file = folder / "pytorch_model.bin"
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif content == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1")
    else:
        bad = {"code": {"weight": Malicious(sign)}, "list": [1], "number among tensors": {"weight": 1.0}}
        torch.save(bad[content], file)
    with pytest.raises(ArtifactError, match="expected weights that contain only tensors") as caught:
        Encoder.from_pretrained(folder, pooling="mean")
    assert "\n" not in str(caught.value)
    assert not sign.exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    if content == "code":  # the file would have run code
        torch.load(file, weights_only=False)
        assert sign.exists()


def test_weights_that_are_not_finite_are_refused(bare_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("LayerNorm.weight"))
    weights[name][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="expected finite weights, found NaN or infinity in"):
        Encoder.from_pretrained(folder, pooling="cls")


def test_code_that_a_config_names_is_never_run(bare_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with contextlib.suppress(ArtifactError, ConfigError):
        Encoder.from_pretrained(folder, pooling="cls")
    assert not (tmp_path / "was-run").exists()


def test_prompts_match_sentence_transformer_and_are_kept(bare_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.from_pretrained(bare_folder, pooling="mean", max_length=25, prompt="query: ")
    expected = by_hand(bare_folder, [f"query: {name}" for name in NAMES], "mean", 25)
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), expected, atol=1e-5)
    encoder.save_pretrained(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(NAMES)
    np.testing.assert_allclose(encoder.encode(NAMES), theirs, atol=1e-5)
    again = Encoder.from_pretrained(tmp_path / "model")
    assert again.prompts == ("query: ", "query: ")
    assert np.array_equal(again.encode(NAMES), encoder.encode(NAMES))


def test_two_prompts_of_a_sentence_transformer_are_those_of_names_and_mentions(
    tiny_folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_folder), device="cpu", prompts={"query": "q: ", "document": "d: "})
    model.save(str(tmp_path / "st"))
    model, encoder = SentenceTransformer(str(tmp_path / "st"), device="cpu"), Encoder.from_pretrained(tmp_path / "st")
    assert encoder.prompts == ("d: ", "q: ")
    np.testing.assert_allclose(encoder.encode(NAMES), model.encode_document(NAMES), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(NAMES, prompt="q: "), model.encode_query(NAMES), atol=1e-5)


@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity()])
def test_dense_module_of_a_sentence_transformer_gives_the_same_vectors(
    bare_folder: Path, tmp_path: Path, activation: torch.nn.Module
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as st_models

    torch.manual_seed(0)
    transformer = st_models.Transformer(str(bare_folder), max_seq_length=25)
    width = transformer.get_word_embedding_dimension()
    dense = st_models.Dense(width, 24, activation_function=activation)
    model = SentenceTransformer(modules=[transformer, st_models.Pooling(width, "mean"), dense], device="cpu")
    model.save(str(tmp_path / "st"))
    encoder = Encoder.from_pretrained(tmp_path / "st")
    assert encoder.dimension == 24
    np.testing.assert_allclose(encoder.encode(NAMES, unit=False), model.encode(NAMES), atol=1e-5)
    encoder.save_pretrained(tmp_path / "ours")
    again = Encoder.from_pretrained(tmp_path / "ours")
    assert np.array_equal(again.encode(NAMES), encoder.encode(NAMES))
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(NAMES), encoder.encode(NAMES), atol=1e-5
    )


def test_every_parameter_gets_a_gradient_in_other_architectures(bare_folder: Path, tmp_path: Path) -> None:
    """Processes that train together wait for the gradient of every parameter."""
    rows = len(AutoTokenizer.from_pretrained(bare_folder))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    (folder / "config.json").unlink()
    MPNetModel(MPNetConfig(vocab_size=rows, pad_token_id=1, **size)).save_pretrained(folder)
    encoder = Encoder.from_pretrained(folder, pooling="mean", device="cpu").train()
    encoder(pack(tokenize_names(NAMES, encoder.tokenizer, 25))).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_tokenize_in_memory_and_to_disk_match_the_tokenizer(
    tiny_folder: Path, sample_names: list[str], tmp_path: Path
) -> None:
    """In batches: for all names of UMLS the tokenizer's output would not fit into memory."""
    tokenizer, names, asked = AutoTokenizer.from_pretrained(tiny_folder), sample_names[:50], []
    expected = [tokenizer(name, truncation=True, max_length=9)["input_ids"] for name in names]

    def counted(some: list[str], **options: object) -> object:
        asked.append(len(some))
        return tokenizer(some, **options)

    found = tokenize_names(names, counted, 9, names_per_batch=7)
    assert asked == [7] * 7 + [1]
    on_disk = tokenize_to_disk(names, tokenizer, 9, tmp_path / "tokens.arrow", names_per_batch=7)
    for tokens in (found, tokenize_names(names, tokenizer, 9, names_per_batch=7), on_disk):
        assert tokens.ids.dtype == np.int32
        assert [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] == expected


@pytest.mark.parametrize("split", [False, True])
def test_tokenize_reads_special_tokens_in_names_as_the_tokenizer_does(tiny_folder: Path, split: bool) -> None:
    """After a call with the other choice, which a tokenizer keeps."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, split_special_tokens=split)
    names = ["fever </s> cough", "</s>", "", "a" * 99]
    expected = [tokenizer(name, truncation=True, max_length=9)["input_ids"] for name in names]
    tokenizer("</s>", split_special_tokens=not split)
    tokens = tokenize_names(names, tokenizer, 9)
    assert [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] == expected


def test_damaged_model_is_rejected(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("lost", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias", "all"])
def test_model_without_some_of_its_weights_is_rejected_by_their_name(
    bare_folder: Path, tmp_path: Path, lost: str
) -> None:
    folder = shutil.copytree(bare_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if lost not in (name, "all")}
    assert len(kept) < len(weights)
    save_file(kept or {"another.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError) as caught:
        Encoder.from_pretrained(folder, pooling="cls")
    more = f" and {len(weights) - 1:,} more" if lost == "all" else ""
    name = r"embeddings\.LayerNorm\.bias" if lost == "all" else re.escape(lost)
    expected = rf".*/model: expected all weights of the model in its \.safetensors, found no {name}{more}\. Is .*\?"
    assert re.fullmatch(expected, str(caught.value))


def test_missing_model_is_a_one_line_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", "someone/some-model"):
        with pytest.raises(ArtifactError) as caught:
            Encoder.from_pretrained(path, pooling="cls")
        assert "\n" not in str(caught.value)


def test_folder_without_a_model_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found no config.json in it"):
        Encoder.from_pretrained(tmp_path, pooling="cls")


def test_encode_rejects_a_single_string(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="put it into a list"):
        Encoder.from_pretrained(tiny_folder).encode("fever")


def test_encode_of_no_names_is_empty(tiny_folder: Path) -> None:
    assert Encoder.from_pretrained(tiny_folder).encode([]).shape == (0, 64)


def test_vectors_do_not_depend_on_order_or_batch(tiny_folder: Path, sample_names: list[str]) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    together = encoder.encode(sample_names[:400])
    np.testing.assert_allclose(encoder.encode(sample_names[:400][::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_bfloat16_vectors_are_close_to_float32(tiny_folder: Path, sample_names: list[str]) -> None:
    exact = Encoder.from_pretrained(tiny_folder).encode(sample_names[:200])
    rough = Encoder.from_pretrained(tiny_folder, dtype="bfloat16").encode(sample_names[:200])
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert (exact * rough).sum(1).min() > 0.999


def test_encode_restores_training_mode(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    encoder.train()
    first = encoder.encode(NAMES)
    assert encoder.training
    assert np.array_equal(first, encoder.encode(NAMES))


def test_tokenizer_without_pieces_is_rejected(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    empty = type(encoder.tokenizer)(
        vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)]
    )
    with pytest.raises(ArtifactError, match="protobuf"):
        check_tokenizer(empty, encoder.transformer, "it")


def test_tokenizer_larger_than_its_model_is_rejected(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    encoder.transformer.resize_token_embeddings(100)
    with pytest.raises(ArtifactError, match="only 100 embeddings"):
        check_tokenizer(encoder.tokenizer, encoder.transformer, "it")


def test_repr_is_one_short_line(tiny_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_folder)
    assert repr(encoder) == f"Encoder({tiny_folder}, 64 dimensions, mean pooling, float32)"
    assert (encoder.dimension, encoder.dtype) == (64, "float32")


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_names_of_which_the_vocabulary_has_no_part_are_known(kind):
    names = ["fever", "high fever", "chest pain", "knee joint"]
    encoder = tiny_encoder(TRAIN_TOKENIZER[kind](names), kind)
    given = ["fever", "ज्वर", "😀 😀", "", "ज्वर fever", "§", "fever §"]
    expected = [True, False, False, False, True, False, True]
    assert encoder.knows(given).tolist() == expected
    assert [encoder.knows([name]).tolist()[0] for name in given] == expected


def test_bytes_of_a_character_that_byte_level_bpe_lacks_are_not_known():
    """Also where letters that the vocabulary has, \u0920 to \u0922, begin with the same two bytes, which are one piece."""
    encoder = tiny_encoder(
        TRAIN_TOKENIZER["BPE"](["fever", "\u0920", "\u0921", "\u0922", "caf\u00e9 \u00e9t\u00e9"] * 3), "BPE"
    )
    pieces = encoder.tokenizer.tokenize("\u091c")
    assert len(pieces) == 2  # not three bytes
    given = ["\u091c", "\u0920", "\u091c\u0920", "\u00e9", "\u00e8", "\u091c f", "\ufffd"]
    assert encoder.knows(given).tolist() == [False, True, True, True, False, True, False]


def test_bytes_of_a_character_that_sentencepiece_lacks_are_not_known():
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u2581", "f", "e", "v", "r", "\u2581fever"]
    vocabulary += [f"<0x{byte:02X}>" for byte in range(256)]
    model = models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=[], byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    special = {f"{name}_token": piece for name, piece in names.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    assert tokenizer.tokenize("\u091c") == ["<0xE0>", "<0xA4>", "<0x9C>"]
    encoder = tiny_encoder(tokenizer, "Unigram")
    given = ["fever", "\u091c", "\u091c \u0935", "\u091c fever", "#", ""]
    assert encoder.knows(given).tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize("prompt", ["", "query: ", "q", "§ "])
@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_mentions_are_tokenized_once_for_their_vectors_and_whether_they_are_known(kind, prompt, monkeypatch):
    names = ["fever", "high fever", "chest pain", "knee joint", "query: fever", "qf"]
    encoder = tiny_encoder(TRAIN_TOKENIZER[kind](names), kind)
    given = ["fever", "ज्वर", "😀 😀", "", "ज्वर fever", "§", "fever §", "f"]
    vectors, known = encoder.encode_mentions(given, prompt=prompt)
    assert vectors.tobytes() == encoder.encode(given, prompt=prompt).tobytes()
    assert known.tolist() == encoder.knows(given).tolist()
    texts = []
    monkeypatch.setattr(
        "xsap.encoding.encoder.tokenize_names",
        lambda names, *options: texts.extend(names) or tokenize_names(names, *options),
    )
    encoder.encode_mentions(given[:1], prompt=prompt)
    assert texts.count(f"{prompt}fever") == 1
    assert set(texts) <= {f"{prompt}fever", prompt}
