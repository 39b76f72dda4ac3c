"""Vocabularies: one trained from scratch, and a shrunk model that keeps the original's pieces and vectors for all text of kept pieces.

The oracles are the original model itself, opened by transformers alone, and small vocabularies in which each argument for leaving pieces
out would fail if the pieces it needs were left out too.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from tests.fixtures.commands import Run
from tests.fixtures.encoders import ADDED, LOWER, SIZE, TRAIN_TOKENIZER, tiny_encoder
from xsap import Encoder, Terminology
from xsap.cli import app
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.vocabulary import from_scratch, shrink_to, unchanged_texts
from xsap.errors import ConfigError
from xsap.terminal import run as run_app
from xsap.text import normalize_all


@pytest.fixture(scope="module")
def english(sample_folder: Path) -> list[str]:
    return Terminology.load(sample_folder).select(languages={"en"}).names["name"].to_pylist()


@pytest.mark.slow
def test_from_scratch_vocabulary_covers_its_names_and_is_reproducible(sample_names: list[str]) -> None:
    size = {"vocabulary_size": 2000, "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0}
    encoder = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=3)
    tokenizer = encoder.tokenizer
    assert len(tokenizer) <= 2000
    ids = [i for row in tokenizer(sample_names)["input_ids"] for i in row]
    assert ids.count(tokenizer.unk_token_id) < 0.001 * len(ids)
    special = tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    assert special == [0, 1, 2, 3, len(tokenizer) - 1]
    again = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=3)
    assert np.array_equal(again.encode(sample_names[:50]), encoder.encode(sample_names[:50]))
    other = from_scratch(sample_names, EncoderConfig("mean", 32), **size, seed=4)
    assert not np.array_equal(other.encode(sample_names[:50]), encoder.encode(sample_names[:50]))


@pytest.fixture(scope="module", params=TRAIN_TOKENIZER)
def folders(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sample_names: list[str],
    english: list[str],
):
    """A model with a vocabulary of eleven languages, the same shrunk to the English names, and the type of its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_encoder(TRAIN_TOKENIZER[request.param](normalize_all(sample_names, LOWER)), request.param).save_pretrained(
        folder / "large"
    )
    shrink_to(Encoder.from_pretrained(folder / "large"), english).save_pretrained(folder / "small")
    return folder / "large", folder / "small", request.param


def pieces(folder: Path, texts: list[str]) -> list[list[str]]:
    """By transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer.convert_ids_to_tokens(row) for row in tokenizer(texts)["input_ids"]]


def states(folder: Path, texts: list[str]) -> list[np.ndarray]:
    """Each text's hidden states, by transformers alone."""
    model, tokenizer = (
        AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.inference_mode():
        rows = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in texts]
        return [model(**row).last_hidden_state[0].numpy() for row in rows]


def recombined(names: list[str], n: int) -> list[str]:
    """Texts that no terminology has, made of words of names and of parts of these."""
    words = sorted({word for name in normalize_all(names, LOWER) for word in name.split()})
    draw = random.Random(3)
    texts = []
    for _ in range(n):
        some = [
            word[: draw.randint(1, 12)] if draw.random() < 0.5 else word
            for word in draw.choices(words, k=draw.randint(1, 4))
        ]
        texts.append(draw.choice([" ", "", "-", f" {ADDED} ", ", "]).join(some))
    return texts


def test_shrunk_model_keeps_pieces_and_vector_of_every_name(
    folders: tuple[Path, Path, str], english: list[str]
) -> None:
    large, small, _ = folders
    texts = normalize_all(english, LOWER)
    assert pieces(small, texts) == pieces(large, texts)
    original, shrunk = Encoder.from_pretrained(large), Encoder.from_pretrained(small)
    assert shrunk.config == original.config
    np.testing.assert_array_equal(shrunk.encode(english), original.encode(english))
    rows = [len(AutoTokenizer.from_pretrained(folder)) for folder in (small, large)]
    assert rows[0] < 0.8 * rows[1]


def test_shrunk_model_keeps_states_of_any_text_of_kept_pieces(
    folders: tuple[Path, Path, str], sample_names: list[str], english: list[str]
) -> None:
    large, small, _ = folders
    texts = recombined(english, 600) + recombined(sample_names, 600)
    before, after = pieces(large, texts), pieces(small, texts)
    tokenizer = AutoTokenizer.from_pretrained(small)
    known = set(tokenizer.get_vocab()) - {tokenizer.unk_token}
    made_of_kept = [known.issuperset(row) for row in before]
    assert 150 < sum(made_of_kept) < len(texts) - 150
    assert [b for b, kept in zip(after, made_of_kept, strict=True) if kept] == [
        a for a, kept in zip(before, made_of_kept, strict=True) if kept
    ]
    same = unchanged_texts(Encoder.from_pretrained(large), Encoder.from_pretrained(small), texts)
    assert same.tolist() == [a == b for a, b in zip(before, after, strict=True)]
    some = [text for text, kept in zip(texts, made_of_kept, strict=True) if kept][:100]
    for a, b in zip(states(large, some), states(small, some), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shrunk_model_has_no_new_unknown_characters(folders: tuple[Path, Path, str], sample_names: list[str]) -> None:
    """Text of the ten languages that were left out is split into characters. (WordPiece can do so only for letters that it has.)"""
    large, small, _ = folders
    texts = normalize_all(sample_names, LOWER)
    unknown = AutoTokenizer.from_pretrained(large).unk_token
    before, after = pieces(large, texts), pieces(small, texts)
    assert any(len(b) > len(a) for a, b in zip(before, after, strict=True))
    assert [b.count(unknown) for b in after] == [a.count(unknown) for a in before]


def test_shrunk_model_has_special_tokens_at_the_configured_ids(folders: tuple[Path, Path, str]) -> None:
    large, small, kind = folders
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (large, small))
    model = AutoModel.from_pretrained(small)
    table = model.get_input_embeddings()
    assert new.special_tokens_map == old.special_tokens_map
    assert type(new) is type(old)
    assert len(new) == table.num_embeddings == model.config.vocab_size
    assert new.pad_token_id == old.pad_token_id == model.config.pad_token_id == table.padding_idx
    assert (model.config.bos_token_id, model.config.eos_token_id) == (new.bos_token_id, new.eos_token_id)
    assert set(old.get_added_vocab()) == set(new.get_added_vocab())
    assert sorted(new.get_vocab().values()) == list(range(len(new)))
    by_id = sorted(new.get_vocab(), key=new.get_vocab().get)
    assert by_id == sorted(by_id, key=old.get_vocab().get)  # rows keep their order
    if kind == "Unigram":
        assert new.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, len(new) - 1]


def test_sentence_transformer_opens_shrunk_model_with_the_same_vectors(
    folders: tuple[Path, Path, str], english: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    large, small, _ = folders
    theirs = [SentenceTransformer(str(folder), device="cpu").encode(english[:100]) for folder in (large, small)]
    np.testing.assert_allclose(theirs[1], theirs[0], atol=1e-6)
    np.testing.assert_allclose(theirs[1], Encoder.from_pretrained(small).encode(english[:100]), atol=1e-5)


def test_shrunk_folder_has_no_other_vocabulary_file(folders: tuple[Path, Path, str]) -> None:
    _, small, _ = folders
    described = {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "README.md",
        "xsap.json",
    }
    assert {file.name for file in small.iterdir() if file.is_file()} == described | {
        "config_sentence_transformers.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((small / "tokenizer.json").read_text())["truncation"] is None


@pytest.mark.parametrize("kind", TRAIN_TOKENIZER)
def test_shrink_to_supports_a_generic_fast_tokenizer(kind: str, tmp_path: Path, english: list[str]) -> None:
    """transformers uses its tokenizer.json unchanged: the ids of the post-processor, and which piece is the unknown one."""
    own = TRAIN_TOKENIZER[kind](normalize_all(english, LOWER))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, **own.special_tokens_map)
    tiny_encoder(tokenizer, kind).save_pretrained(tmp_path / "large")
    shrink_to(Encoder.from_pretrained(tmp_path / "large"), english[:100]).save_pretrained(tmp_path / "small")
    texts = [*normalize_all(english[:100], LOWER), "☃ fever"]
    assert pieces(tmp_path / "small", texts) == pieces(tmp_path / "large", texts)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "small")) is PreTrainedTokenizerFast


def test_shrinking_again_changes_nothing(folders: tuple[Path, Path, str], english: list[str]) -> None:
    small = Encoder.from_pretrained(folders[1])
    again = shrink_to(small, english)
    assert again.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    np.testing.assert_array_equal(again.encode(english[:50]), small.encode(english[:50]))


def test_shrink_to_leaves_the_original_unchanged_and_shares_its_other_weights(
    folders: tuple[Path, Path, str], english: list[str]
) -> None:
    large = Encoder.from_pretrained(folders[0])
    before, rows = large.encode(english), len(large.tokenizer)
    small = shrink_to(large, english[:20])
    assert large.transformer.config.vocab_size == large.transformer.get_input_embeddings().num_embeddings == rows
    np.testing.assert_array_equal(large.encode(english), before)
    assert (
        small.transformer.get_input_embeddings().padding_idx
        == large.transformer.get_input_embeddings().padding_idx
        is not None
    )
    theirs = {id(weights) for weights in large.transformer.parameters()}
    assert sum(id(weights) not in theirs for weights in small.transformer.parameters()) == 1


def test_shrink_to_keeps_pieces_beyond_max_length(folders: tuple[Path, Path, str]) -> None:
    large = Encoder.from_pretrained(folders[0])
    word = next(
        word
        for word in ("schmerzen", "krankheit", "störung")
        if word not in shrink_to(large, ["x"]).tokenizer.tokenize(word)
    )
    small = shrink_to(large, ["x " * 40 + word])
    assert unchanged_texts(large, small, [word, f"x {word}"]).any()
    assert not unchanged_texts(large, shrink_to(large, ["x " * 40]), [word, f"x {word}"]).any()


def test_shrunk_unigram_keeps_the_cost_of_unknown_characters() -> None:
    """Ten more than the worst piece, here `zz`, which no name has. If it were left out, `abcde` + unknown would win."""
    scores = {"▁": -1.0, "ab": -9.0, "cd": -9.0, "ef": -9.0, "abcde": -0.5, "zz": -20.0}
    special = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    encoder = tiny_encoder(XLMRobertaTokenizer(vocab=[*special.items(), *scores.items(), ("<mask>", 0.0)]), "Unigram")
    assert encoder.tokenizer.tokenize("abcdef") == ["▁", "ab", "cd", "ef"]
    small = shrink_to(encoder, ["abcde", "ab cd ef"])
    assert small.tokenizer.tokenize("abcdef") == ["▁", "ab", "cd", "ef"]


def test_shrunk_wordpiece_keeps_unknown_words_unknown() -> None:
    """After `ab` nothing matches the rest of `abxy`. No name has that piece; if it were left out, `a` + `##bxy` would match."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "c", "ab", "abc", "##b", "##bxy", "##y"]
    encoder = tiny_encoder(BertTokenizerFast(vocab={piece: i for i, piece in enumerate(vocab)}), "WordPiece")
    assert encoder.tokenizer.tokenize("abxy cbxy") == ["[UNK]", "c", "##bxy"]
    assert shrink_to(encoder, ["cbxy"]).tokenizer.tokenize("abxy cbxy") == ["a", "##bxy", "c", "##bxy"]
    small = shrink_to(encoder, ["cbxy", "ABxy"])
    assert small.tokenizer.tokenize("abxy cbxy") == ["[UNK]", "c", "##bxy"]
    assert set(vocab) - set(small.tokenizer.get_vocab()) == {"abc"}


def without_vocabulary(model: models.Model) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="[UNK]", pad_token="[PAD]")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (without_vocabulary(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, "[UNK]")), "found .* of type WordLevel"),
        (
            without_vocabulary(models.BPE({"[UNK]": 0, "[PAD]": 1}, [], end_of_word_suffix="</w>")),
            "whose pieces mark word boundaries",
        ),
        (ByT5Tokenizer, "found ByT5Tokenizer, which is implemented in Python only"),
    ],
)
def test_shrink_to_rejects_other_tokenizer_types(
    folders: tuple[Path, Path, str], tokenizer: PreTrainedTokenizerFast | type[ByT5Tokenizer], message: str
) -> None:
    transformer = Encoder.from_pretrained(folders[0]).transformer
    tokenizer = tokenizer() if isinstance(tokenizer, type) else tokenizer
    with pytest.raises(ConfigError, match=message):
        shrink_to(Encoder(transformer, tokenizer, EncoderConfig("mean")), ["fever"])


def test_shrink_command_writes_model_and_summary(
    run: Run, tmp_path: Path, tiny_folder: Path, sample_folder: Path
) -> None:
    Terminology.load(sample_folder).select(languages={"en"}).save(tmp_path / "english")
    Encoder.from_pretrained(tiny_folder).save_pretrained(
        tmp_path / "large", metadata={"languages": ["en", "zh"], "steps": 7}
    )
    (tmp_path / "mentions.tsv").write_text(
        "mention\tconcept_ids\nFever\tC1\nBrustschmerzen\tC1\n胸痛\tC1\nfièvre\tC1\npain\tC1\n", encoding="utf-8"
    )
    words = (
        "shrink",
        tmp_path / "large",
        tmp_path / "english",
        "--out",
        tmp_path / "small",
        "--mentions",
        tmp_path / "mentions.tsv",
    )
    done = run("-m", "xsap.cli", *words)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    models_ = [AutoModel.from_pretrained(tmp_path / name, add_pooling_layer=False) for name in ("large", "small")]
    rows = [f"{model.config.vocab_size:,}" for model in models_]
    parameters = [f"{sum(weights.numel() for weights in model.parameters()):,}" for model in models_]
    summary, mentions = done.stderr.splitlines()[-2:]
    assert f"{rows[0]} → {rows[1]} vocabulary rows, {parameters[0]} → {parameters[1]} parameters" in summary
    assert mentions.endswith("60.0 % of 5 mentions are tokenized as before; changed: 'Brustschmerzen', 'fièvre'")
    said = json.loads((tmp_path / "small" / "xsap.json").read_text())
    assert said == json.loads((tmp_path / "large" / "xsap.json").read_text()) | {
        "shrunk": {
            "model": Encoder.from_pretrained(tmp_path / "large").content_hash,
            "terminology": Terminology.load(tmp_path / "english").content_hash,
        }
    }


def test_shrink_command_rejects_bad_input_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path, sample_folder: Path
) -> None:
    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_app(app, "xsap", ["shrink", *map(str, words)])
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    transformer = BertModel(BertConfig(vocab_size=9, **SIZE), add_pooling_layer=False)
    vocab = {"[UNK]": 0, "[PAD]": 1, "fever": 2, ",": 3, "cough": 4, "and": 5, "chest": 6, "pain": 7}
    tokenizer = without_vocabulary(models.WordLevel(vocab, "[UNK]"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    Encoder(transformer, tokenizer, EncoderConfig("mean")).save_pretrained(tmp_path / "words")
    out = ("--out", tmp_path / "small")
    assert "of type WordLevel" in refused(tmp_path / "words", sample_folder, *out)
    assert "exists already" in refused("no-model", "no-terminology", "--out", tiny_folder)  # said before any work
    assert "expected a terminology folder, found a model folder" in refused(tiny_folder, tiny_folder, *out)
    assert "found nothing there" in refused(tmp_path / "none", sample_folder, *out)
    assert "found nothing there" in refused(tiny_folder, sample_folder, *out, "--mentions", tmp_path / "none.tsv")
    assert not (tmp_path / "small").exists()
