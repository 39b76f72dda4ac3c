"""A shrunk model: the original's pieces and vectors for all text of kept pieces, in every library that opens model folders.

The oracles are the original model itself, opened by transformers alone, and small vocabularies in which each argument for leaving
pieces out would go wrong if what it needs were left out too.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CanineTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from tests.fixtures.commands import Run
from xsap import Encoder, Terminology
from xsap.cli import main
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.vocabulary import shrink_to, train_tokenizer, unchanged_texts
from xsap.errors import ConfigError
from xsap.text import TextPolicy, normalize_all

LOWER = TextPolicy("lower", "NFKC")
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ADDED = "qd/bid"


def unigram(names: list[str]) -> XLMRobertaTokenizer:
    return train_tokenizer(names, 3000)


def wordpiece(names: list[str]) -> BertTokenizerFast:
    """Its special tokens but the padding stand at the end, so that all of them move."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    trained.train_from_iterator(names, trainers.WordPieceTrainer(vocab_size=3000, show_progress=False))
    pieces = ["[PAD]", *sorted(trained.get_vocab(), key=trained.get_vocab().get), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    tokenizer.add_tokens([ADDED])  # a piece that the model's own vocabulary doesn't have
    return tokenizer


def bpe(names: list[str]) -> RobertaTokenizerFast:
    """Special tokens stand where none can be taken for granted: the padding after 300 others, three at the end."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        names, trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    pieces = ["<s>", *pieces[:300], "<pad>", *pieces[300:], "</s>", "<unk>", "<mask>"]
    return RobertaTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[tuple(merge) for merge in model["merges"]]
    )


def encoder_of(tokenizer: PreTrainedTokenizerFast, kind: str, policy: TextPolicy = LOWER) -> Encoder:
    """A tiny transformer of the family that has such a tokenizer, with random weights."""
    classes = {
        "Unigram": (XLMRobertaConfig, XLMRobertaModel),
        "WordPiece": (BertConfig, BertModel),
        "BPE": (RobertaConfig, RobertaModel),
    }
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    length = 32 + (0 if kind == "WordPiece" else 1 + tokenizer.pad_token_id)
    torch.manual_seed(1)
    config = classes[kind][0](vocab_size=len(tokenizer), max_position_embeddings=length, **special, **SIZE)
    return Encoder(
        classes[kind][1](config, add_pooling_layer=False), tokenizer, EncoderConfig("mean", 32, policy)
    ).eval()


@pytest.fixture(scope="module")
def english(sample_folder: Path) -> list[str]:
    return Terminology.load(sample_folder).select(languages={"en"}).names["name"].to_pylist()


TRAIN = {"Unigram": unigram, "WordPiece": wordpiece, "BPE": bpe}


@pytest.fixture(scope="module", params=TRAIN)
def folders(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sample_names: list[str],
    english: list[str],
):
    """(a model with a vocabulary of eleven languages, the same shrunk to the English names), and the kind of its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    encoder_of(TRAIN[request.param](normalize_all(sample_names, LOWER)), request.param).save_pretrained(
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
    """Texts that no terminology has, of the words of names and of pieces of these."""
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


def test_every_name_keeps_its_pieces_and_its_vector(folders: tuple[Path, Path, str], english: list[str]) -> None:
    large, small, _ = folders
    texts = normalize_all(english, LOWER)
    assert pieces(small, texts) == pieces(large, texts)
    original, shrunk = Encoder.from_pretrained(large), Encoder.from_pretrained(small)
    assert shrunk.description == original.description
    np.testing.assert_array_equal(shrunk.encode(english), original.encode(english))
    rows = [len(AutoTokenizer.from_pretrained(folder)) for folder in (small, large)]
    assert rows[0] < 0.8 * rows[1]


def test_so_does_any_text_whose_pieces_are_all_kept(
    folders: tuple[Path, Path, str], sample_names: list[str], english: list[str]
) -> None:
    large, small, _ = folders
    texts = recombined(english, 2000) + recombined(sample_names, 2000)
    before, after = pieces(large, texts), pieces(small, texts)
    tokenizer = AutoTokenizer.from_pretrained(small)
    known = set(tokenizer.get_vocab()) - {tokenizer.unk_token}
    made_of_kept = [known.issuperset(row) for row in before]
    assert 500 < sum(made_of_kept) < len(texts) - 500
    assert [b for b, kept in zip(after, made_of_kept, strict=True) if kept] == [
        a for a, kept in zip(before, made_of_kept, strict=True) if kept
    ]
    same = unchanged_texts(Encoder.from_pretrained(large), Encoder.from_pretrained(small), texts)
    assert same.tolist() == [a == b for a, b in zip(before, after, strict=True)]
    some = [text for text, kept in zip(texts, made_of_kept, strict=True) if kept][:100]
    for a, b in zip(states(large, some), states(small, some), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_character_becomes_unknown(folders: tuple[Path, Path, str], sample_names: list[str]) -> None:
    """Text of the ten languages that were left out is spelled out. (A WordPiece model spells only what it has letters for.)"""
    large, small, _ = folders
    texts = normalize_all(sample_names, LOWER)
    unknown = AutoTokenizer.from_pretrained(large).unk_token
    before, after = pieces(large, texts), pieces(small, texts)
    assert any(len(b) > len(a) for a, b in zip(before, after, strict=True))
    assert [b.count(unknown) for b in after] == [a.count(unknown) for a in before]


def test_special_tokens_are_where_the_configuration_says(folders: tuple[Path, Path, str]) -> None:
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


def test_sentence_transformer_gives_the_originals_vectors(folders: tuple[Path, Path, str], english: list[str]) -> None:
    large, small, _ = folders
    theirs = [SentenceTransformer(str(folder), device="cpu").encode(english[:100]) for folder in (large, small)]
    np.testing.assert_allclose(theirs[1], theirs[0], atol=1e-6)
    np.testing.assert_allclose(theirs[1], Encoder.from_pretrained(small).encode(english[:100]), atol=1e-5)


def test_no_other_vocabulary_lies_beside_the_new_one(folders: tuple[Path, Path, str]) -> None:
    _, small, _ = folders
    described = {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "xsap.json",
    }
    assert {file.name for file in small.iterdir() if file.is_file()} == described | {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((small / "tokenizer.json").read_text())["truncation"] is None


@pytest.mark.parametrize("kind", TRAIN)
def test_a_tokenizer_without_a_class_of_its_own(kind: str, tmp_path: Path, english: list[str]) -> None:
    """transformers takes its tokenizer.json as it stands: the ids of the post-processor, and which piece is the unknown one."""
    own = TRAIN[kind](normalize_all(english, LOWER))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, **own.special_tokens_map)
    encoder_of(tokenizer, kind).save_pretrained(tmp_path / "large")
    shrink_to(Encoder.from_pretrained(tmp_path / "large"), english[:100]).save_pretrained(tmp_path / "small")
    texts = [*normalize_all(english[:100], LOWER), "☃ fever"]
    assert pieces(tmp_path / "small", texts) == pieces(tmp_path / "large", texts)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "small")) is PreTrainedTokenizerFast


def test_shrinking_again_changes_nothing(folders: tuple[Path, Path, str], english: list[str]) -> None:
    small = Encoder.from_pretrained(folders[1])
    again = shrink_to(small, english)
    assert again.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    np.testing.assert_array_equal(again.encode(english[:50]), small.encode(english[:50]))


def test_the_original_stays_as_it_was_and_shares_its_other_weights(
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


def test_pieces_beyond_the_maximal_length_are_kept(folders: tuple[Path, Path, str]) -> None:
    large = Encoder.from_pretrained(folders[0])
    word = next(
        word
        for word in ("schmerzen", "krankheit", "störung")
        if word not in shrink_to(large, ["x"]).tokenizer.tokenize(word)
    )
    small = shrink_to(large, ["x " * 40 + word])
    assert unchanged_texts(large, small, [word, f"x {word}"]).any()
    assert not unchanged_texts(large, shrink_to(large, ["x " * 40]), [word, f"x {word}"]).any()


def test_an_unknown_character_costs_what_it_did() -> None:
    """Unigram: ten more than the worst piece, here `zz`, which no name has. Were that one left out, `abcde` + unknown would win."""
    scores = {"▁": -1.0, "ab": -9.0, "cd": -9.0, "ef": -9.0, "abcde": -0.5, "zz": -20.0}
    special = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    encoder = encoder_of(XLMRobertaTokenizer(vocab=[*special.items(), *scores.items(), ("<mask>", 0.0)]), "Unigram")
    assert encoder.tokenizer.tokenize("abcdef") == ["▁", "ab", "cd", "ef"]
    small = shrink_to(encoder, ["abcde", "ab cd ef"])
    assert small.tokenizer.tokenize("abcdef") == ["▁", "ab", "cd", "ef"]


def test_a_name_with_an_unknown_word_keeps_it_unknown() -> None:
    """WordPiece: `ab` leads `abxy` into a dead end. No name has it as a piece; were it left out, `a` + `##bxy` would get through."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "c", "ab", "abc", "##b", "##bxy", "##y"]
    encoder = encoder_of(BertTokenizerFast(vocab={piece: i for i, piece in enumerate(vocab)}), "WordPiece")
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
        (without_vocabulary(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, "[UNK]")), "found .* of the kind WordLevel"),
        (
            without_vocabulary(models.BPE({"[UNK]": 0, "[PAD]": 1}, [], end_of_word_suffix="</w>")),
            "marks where words end",
        ),
        (CanineTokenizer(), "found CanineTokenizer, which is written in Python alone"),
    ],
)
def test_other_tokenizers_are_refused(
    folders: tuple[Path, Path, str], tokenizer: PreTrainedTokenizerFast, message: str
) -> None:
    transformer = Encoder.from_pretrained(folders[0]).transformer
    with pytest.raises(ConfigError, match=message):
        shrink_to(Encoder(transformer, tokenizer, EncoderConfig("mean")), ["fever"])


def test_the_command(run: Run, tmp_path: Path, tiny_folder: Path, sample_folder: Path) -> None:
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
    assert f"{rows[0]} → {rows[1]} rows, {parameters[0]} → {parameters[1]} parameters" in summary
    assert mentions.endswith("60.0 % of 5 mentions become the same pieces; not: 'Brustschmerzen', 'fièvre'")
    said = json.loads((tmp_path / "small" / "xsap.json").read_text())
    assert said == json.loads((tmp_path / "large" / "xsap.json").read_text()) | {
        "shrunk": {
            "model": Encoder.from_pretrained(tmp_path / "large").content_hash,
            "terminology": Terminology.load(tmp_path / "english").content_hash,
        }
    }


def test_what_the_command_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path, sample_folder: Path
) -> None:
    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["shrink", *map(str, words)])
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    transformer = BertModel(BertConfig(vocab_size=9, **SIZE), add_pooling_layer=False)
    vocab = {"[UNK]": 0, "[PAD]": 1, "fever": 2, ",": 3, "cough": 4, "and": 5, "chest": 6, "pain": 7}
    tokenizer = without_vocabulary(models.WordLevel(vocab, "[UNK]"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    Encoder(transformer, tokenizer, EncoderConfig("mean")).save_pretrained(tmp_path / "words")
    out = ("--out", tmp_path / "small")
    assert "of the kind WordLevel" in refused(tmp_path / "words", sample_folder, *out)
    assert "exists already" in refused("no-model", "no-terminology", "--out", tiny_folder)  # said before any work
    assert "expected a terminology folder, found a model folder" in refused(tiny_folder, tiny_folder, *out)
    assert "found nothing there" in refused(tmp_path / "none", sample_folder, *out)
    assert "found nothing there" in refused(tiny_folder, sample_folder, *out, "--mentions", tmp_path / "none.tsv")
    assert not (tmp_path / "small").exists()
