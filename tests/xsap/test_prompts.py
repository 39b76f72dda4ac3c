"""Prompts: every use of a model puts the one for names before names, and the one for mentions before mentions."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tests.fixtures.commands import Run
from tests.fixtures.encoders import copy_without_config, save_with_prompts
from xsap import Encoder
from xsap.cluster import EncodeWorker
from xsap.encoding import encoder as encoder_module
from xsap.encoding.packing import Tokens, tokenize_names
from xsap.errors import ArtifactError, ConfigError
from xsap.evaluation.protocols import ReferenceDictionary, evaluate_reference
from xsap.evaluation.tuning import tune_fusion
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.mention_build import build_mention_names
from xsap.terms.mentions import build_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

NAME_PROMPT, MENTION_PROMPT = "passage: ", "query: "
WORDS = ("arm", "leg", "lung", "eye", "rib", "hip", "ear", "toe", "foot", "hand", "nose", "skin", "heel")
PARTS = [f"{side} {word}" for side in ("left", "right", "outer", "inner") for word in WORDS]
NAMES = [f"{part} pain" for part in PARTS]
MENTIONS = [f"sore {part}" for part in PARTS]
ROWS = [(f"C{i}", "en", name, "synonym", "TEST", None, None) for i, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = save_with_prompts(tiny_folder, tmp_path_factory.mktemp("prompts") / "m", NAME_PROMPT, MENTION_PROMPT)
    return Encoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def linker(encoder: Encoder) -> Linker:
    terminology, _ = Terminology.build(pa.table(list(map(pa.array, zip(*ROWS, strict=True))), schema=NAMES_SCHEMA))
    return Linker(encoder, Index.build(terminology, encoder))


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that a tokenizer is given, with their prompts."""
    texts: list[str] = []

    def record(names: list[str], *options: object) -> Tokens:
        texts.extend(names)
        return tokenize_names(names, *options)

    monkeypatch.setattr(encoder_module, "tokenize_names", record)
    return texts


def mentions() -> pa.Table:
    return build_mentions(MENTIONS, ["en"] * len(MENTIONS), [[row[0]] for row in ROWS])


USES: dict[str, Callable[[Linker], object]] = {
    "encode": lambda linker: linker.encoder.encode(NAMES),
    "encode_mentions": lambda linker: linker.encoder.encode_mentions(MENTIONS),
    "link": lambda linker: linker.link(MENTIONS),
    "evaluate_reference": lambda linker: evaluate_reference(
        linker.encoder, ReferenceDictionary([row[0] for row in ROWS], NAMES), mentions()
    ),
    "tune_fusion": lambda linker: tune_fusion(linker, mentions(), seed=0),
    "Index.build": lambda linker: Index.build(
        Terminology.build(pa.table(list(map(pa.array, zip(*ROWS, strict=True))), schema=NAMES_SCHEMA))[0],
        linker.encoder,
    ),
}


@pytest.mark.parametrize("use", USES)
def test_names_and_mentions_get_their_own_prompt(use: str, linker: Linker, tokenized: list[str]) -> None:
    USES[use](linker)
    given = [text for text in tokenized if text != MENTION_PROMPT]  # alone, to count the pieces that are its own
    assert given
    for text in given:
        prompt = MENTION_PROMPT if "sore" in text else NAME_PROMPT
        assert text.startswith(prompt), text
        assert text.removeprefix(prompt) in [*NAMES, *MENTIONS]


def test_mentions_that_are_names_of_an_index_are_searched_with_the_prompt_for_mentions(
    linker: Linker, tokenized: list[str]
) -> None:
    """As names they have the other prompt."""
    index = linker.index
    build_mention_names(mentions(), index.dictionary, index.vectors, linker.encoder)
    assert sorted(tokenized) == sorted(
        f"{prompt}{text}" for prompt in (NAME_PROMPT, MENTION_PROMPT) for text in MENTIONS
    )


def test_vectors_of_mentions_are_those_of_their_text_behind_the_prompt(encoder: Encoder, tiny_folder: Path) -> None:
    expected = Encoder.from_pretrained(tiny_folder).encode([MENTION_PROMPT + text for text in MENTIONS])
    np.testing.assert_array_equal(encoder.encode_mentions(MENTIONS)[0], expected)


def test_error_of_an_index_for_other_prompts_states_both(linker: Linker, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_with_prompts(tiny_folder, tmp_path / "other", NAME_PROMPT, "q: ")
    other = Encoder.from_pretrained(folder)
    other.content_hash = linker.encoder.content_hash
    with pytest.raises(ArtifactError, match=r"prompts 'passage: ' and 'query: '\), not with .*'passage: ' and 'q: '\)"):
        Linker(other, linker.index)


def test_prompt_option_is_kept_in_an_index_and_in_a_converted_model(
    tiny_folder: Path, sample_folder: Path, tmp_path: Path, run_here: Run
) -> None:
    bare = copy_without_config(tiny_folder, tmp_path / "bare")
    options = ("--pooling", "mean", "--max-length", 25, "--prompt", "query: ")
    expected = Encoder.from_pretrained(bare, pooling="mean", max_length=25).encode(["query: fever"])

    def succeed(*words: object) -> str:
        done = run_here("-m", "xsap", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "prompt 'query: '" in succeed("convert", bare, *options, "--out", tmp_path / "made")
    np.testing.assert_array_equal(Encoder.from_pretrained(tmp_path / "made").encode(["fever"]), expected)
    (tmp_path / "names.txt").write_text("fever\n")
    succeed("encode", bare, *options, "--names", tmp_path / "names.txt", "--out", tmp_path / "vectors.npy")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)
    succeed("index", bare, sample_folder, *options, "--out", tmp_path / "index")
    linker = Linker.load(tmp_path / "index")
    assert linker.encoder.prompts == linker.index.model.prompts == ("query: ", "query: ")
    np.testing.assert_allclose(linker.encoder.encode_mentions(["fever"])[0], expected, atol=1e-6)
    assert "fever" in succeed("link", "fever", "--index", tmp_path / "index")
    with pytest.raises(ConfigError, match="has no HNSW index.* --prompt 'query: '"):
        Linker.load(tmp_path / "index", ann=True)
    assert succeed("probe", bare, "--prompt", "query: ") != succeed("probe", bare)
    assert (
        "the model puts 'query: ' before names, found the prompt"
        in run_here(
            "-m", "xsap", "index", tmp_path / "made", sample_folder, "--prompt", "", "--out", tmp_path / "no"
        ).stderr
    )


def test_index_of_a_known_model_without_its_prompt_is_searched_without_it(
    tiny_folder: Path, sample_folder: Path, tmp_path: Path, run_here: Run
) -> None:
    """What the table has of the model's name is neither used nor said."""
    folder = tmp_path / "intfloat" / "multilingual-e5-small"
    folder.parent.mkdir()
    copy_without_config(tiny_folder, folder)
    words = ("--prompt", "", "--max-length", 25, "--out", tmp_path / "index")
    assert run_here("-m", "xsap", "index", folder, sample_folder, *words).returncode == 0
    done = run_here("-m", "xsap", "link", "fever", "--index", tmp_path / "index")
    assert (done.returncode, "multilingual-e5-small" in done.stderr) == (0, False)
    assert Linker.load(tmp_path / "index").encoder.prompts == ("", "")


def test_worker_of_a_cluster_uses_the_prompts_of_the_index(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "intfloat" / "multilingual-e5-small"
    folder.parent.mkdir()
    copy_without_config(tiny_folder, folder)
    encoder = Encoder.from_pretrained(folder, max_length=25, prompt=(NAME_PROMPT, MENTION_PROMPT))
    with pa.ipc.new_file(tmp_path / "names.arrow", pa.schema({"name": pa.string()})) as file:
        file.write_table(pa.table({"name": NAMES}))
    workers = SimpleNamespace(start_worker=lambda: "cpu")
    worker = EncodeWorker(workers, str(folder), EncoderSpec.from_encoder(encoder), tmp_path / "names.arrow")
    rows = list(range(len(NAMES)))
    found = worker(pa.table({"rows": pa.array([rows], pa.list_(pa.int32()))}))
    np.testing.assert_allclose(np.stack(found["vector"].to_numpy()), encoder.encode(NAMES), atol=1e-6)
