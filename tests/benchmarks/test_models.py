"""Models and indexes as systems, compared with a linker and with the reference protocol; and the cache of vectors."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.accuracy.dictionary import SearchSpace
from benchmarks.accuracy.models import KNOWN_MODELS, CachedEncoder, IndexLinker
from tests.fixtures.encoders import save_with_prompts
from xsap.encoding.encoder import Encoder
from xsap.encoding.known_models import known_models
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.metrics import hits, macro_mean, reciprocal_ranks
from xsap.evaluation.protocols import CASED, LOWER, K, ReferenceDictionary, evaluate_reference, reference_ranks
from xsap.languages import ENGLISH
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.ranking import NO_CONCEPT
from xsap.terms.mentions import build_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

BODY_PARTS = [
    "arm",
    "leg",
    "eye",
    "ear",
    "hand",
    "foot",
    "nose",
    "heart",
    "liver",
    "skin",
    "bone",
    "lung",
    "hip",
    "toe",
]
# not one of them a name, letter for letter: a linker may put those first
MENTIONS = ["painful arm", "Rash of the LEG", "heartt", "lung, swollen", "painful arm", "o", "hip and toe " * 30]


@pytest.fixture(scope="module")
def terminology(tmp_path_factory):
    """Names that concepts share, that differ in case alone, and that are longer than a model reads."""
    rows = []
    for i, part in enumerate(BODY_PARTS):
        english = [
            f"{part} pain",
            f"Pain in the {part}",
            f"pain in the {part}",
            "PAIN" if i % 2 else "pain",
            f"{part} " * 40,
        ]
        rows += [(f"C{i % 11:02}", "en", name) for name in english] + [(f"C{i % 11:02}", "de", f"{part}schmerz")]
    rows += [("C98", "en", "\u200b"), ("C99", "de", "nur deutsch")]
    columns = {"kind": "synonym", "source": "X"}
    names = [dict(zip(("concept_id", "language", "name"), row, strict=True)) | columns for row in dict.fromkeys(rows)]
    folder = tmp_path_factory.mktemp("models") / "synthetic"
    Terminology.build(pa.Table.from_pylist(names, NAMES_SCHEMA))[0].save(folder)
    return Terminology.load(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def bare_folder(tiny_folder, tmp_path_factory):
    """The same model as a bare Hugging Face folder, which doesn't say how it pools."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(
        tiny_folder, folder, ignore=shutil.ignore_patterns("xsap.json", "modules.json", "manifest.json", "1_*", "2_*")
    )
    return folder


@pytest.fixture(scope="module")
def two_prompts(tiny_folder, tmp_path_factory):
    """The same model, with one prompt for names and another one for mentions."""
    return save_with_prompts(tiny_folder, tmp_path_factory.mktemp("prompts") / "model", "the skin of the ", "pain: ")


@pytest.fixture
def encoded(monkeypatch):
    """How many names were encoded, call by call."""
    counts, encode = [], Encoder.encode
    monkeypatch.setattr(
        Encoder, "encode", lambda self, names, **options: counts.append(len(names)) or encode(self, names, **options)
    )
    return counts


def shown(results):
    return [[(c.concept_id, c.name, c.matched_name) for c in result.candidates] for result in results]


def scores(results):
    return [[c.score for c in result.candidates] for result in results]


@pytest.mark.parametrize("languages", [(ENGLISH,), ("de", "en"), None])
def test_model_links_like_an_index_of_the_terminology(tiny_folder, terminology, cache, languages):
    model = CachedEncoder.from_name(str(tiny_folder), cache)
    linking = model.link_into(SearchSpace.from_terminology(terminology, "synthetic", languages))
    linker = Linker(model.encoder, Index.build(terminology, model.encoder, languages=languages))
    mentions = [*MENTIONS, "", " \u200b", "x" * 2001]
    for k in (1, 4, 99):
        ours, theirs = linking.link(mentions, k), linker.link(mentions, k)
        assert shown(ours) == shown(theirs)
        np.testing.assert_allclose(np.concatenate(scores(ours)), np.concatenate(scores(theirs)), rtol=0, atol=1e-6)
        assert [(r.mention, r.reason) for r in ours] == [(r.mention, r.reason) for r in theirs]
    assert len(ours[0].candidates) == (12 if languages != (ENGLISH,) else 11)
    assert set(linker.concept_ids) <= set(linking.concept_ids)


ROWS = [("D1", "Arm Pain"), ("D2|D3", "Leg Pain"), ("D1", "ARM PAIN"), ("D4", "eye"), ("D5+D6", "Ear"), ("D3", "ear")]
ROWS += [(f"E{i}", f"Pain of the {part}") for i, part in enumerate(BODY_PARTS)]


@pytest.mark.parametrize(
    "given", ["bare_folder@cls", "bare_folder@mean", "bare_folder@mean_all", "tiny_folder", "two_prompts"]
)
def test_reference_rows_match_evaluate_reference(given, cache, request):
    """Upper-case mentions, composites, ties of equal names, gold that the dictionary lacks. tiny_folder: a model that lower-cases by itself."""
    folder, _, pooling = given.partition("@")
    model = CachedEncoder.from_name(f"{request.getfixturevalue(folder)}{'@' if pooling else ''}{pooling}", cache)
    space = SearchSpace(ReferenceDictionary([ids for ids, _ in ROWS], [name for _, name in ROWS]), "synthetic", {}, {})
    texts = ["arm pain", "ARM PAIN", "arm pain+eye", "leg|ear", "Ear", "toe", "pain of the HIP", "o", "+"]
    gold = [["D1"], ["D1"], ["D1+D4"], ["D2", "D6"], ["D3"], ["E13"], ["E12"], ["Z9"], ["D4"]]
    mentions = build_mentions(texts, ["de", "es", "de"] * 3, gold)
    report = evaluate_reference(model.encoder, space.rows, mentions).to_dict()
    ranks, gold_not_in_dictionary = reference_ranks(model.link_into(space).dictionary_rows, space.rows, mentions, K)
    of = np.array(mentions["language"].to_pylist())
    groups = [np.array(ranks)[of == code] for code in ("de", "es")]
    for k in range(1, K + 1):
        assert report["mean"][f"acc@{k}"] == macro_mean([hits(group, k) for group in groups])
    assert report["mean"]["mrr"] == macro_mean([reciprocal_ranks(group) for group in groups])
    assert report["mean"]["gold_not_in_dictionary"] == sum(gold_not_in_dictionary) == 1
    assert 0 < report["mean"]["acc@1"] < report["mean"]["acc@10"]


def test_model_with_two_prompts_scores_as_xsap_link_does(two_prompts, terminology, cache, tmp_path):
    model = CachedEncoder.from_name(str(two_prompts), cache)
    linking = model.link_into(SearchSpace.from_terminology(terminology, "synthetic"))
    index = Index.build(terminology, model.encoder, languages={ENGLISH}, model_path=two_prompts)
    index.save(tmp_path / "index")
    linker = Linker.load(tmp_path / "index")
    for ours, theirs in zip(linking.link(MENTIONS, 99), linker.link(MENTIONS, 99), strict=True):
        of_concept, expected = ({c.concept_id: c.score for c in result.candidates} for result in (ours, theirs))
        assert of_concept == pytest.approx(expected, abs=1e-6)


def test_mentions_get_the_prompt_for_mentions_under_both_protocols(two_prompts, tiny_folder, cache):
    """By plain products of the vectors of a model without prompts, whose texts begin with them."""
    model, plain = CachedEncoder.from_name(str(two_prompts), cache), Encoder.from_pretrained(tiny_folder)
    names, mentions = [f"{part} pain" for part in BODY_PARTS], ["sore arm", "liver ache", "ear"]
    ids = [f"D{i}" for i in range(len(names))]
    rows = ReferenceDictionary(ids, names)

    def cosines(prompt, unit=True):
        queries = plain.encode([prompt + mention for mention in mentions], unit=unit)
        return queries @ plain.encode([f"the skin of the {name}" for name in names], unit=unit).T

    expected = cosines("pain: ")
    assert np.abs(cosines("the skin of the ") - expected).max() > 1e-3  # else one prompt would do as well
    linking = model.link_into(SearchSpace(rows, "x", {}, {}))
    for result, row in zip(linking.link(mentions, len(ids)), expected, strict=True):
        assert {c.concept_id: c.score for c in result.candidates} == pytest.approx(
            dict(zip(ids, row, strict=True)), abs=1e-5
        )
    found = model.search_rows(names)(mentions)(np.arange(3), 5, np.arange(len(names)))
    np.testing.assert_allclose(found[0], -np.sort(-expected)[:, :5], atol=1e-5)
    np.testing.assert_array_equal(
        linking.dictionary_rows(mentions, 3), np.argsort(-cosines("pain: ", unit=False))[:, :3]
    )


def test_dictionary_rows_returns_at_most_all_rows(tiny_folder, cache):
    rows = (
        CachedEncoder.from_name(str(tiny_folder), cache)
        .link_into(SearchSpace(ReferenceDictionary(["D1", "D2"], ["a", "A"]), "x", {}, {}))
        .dictionary_rows(["a"], 9)
    )
    assert rows.tolist() == [[0, 1]]
    assert NO_CONCEPT not in rows


def test_second_run_encodes_no_dictionary(tiny_folder, terminology, tmp_path, encoded):
    space = SearchSpace.from_terminology(terminology, "synthetic")
    first = CachedEncoder.from_name(str(tiny_folder), tmp_path / "vectors").link_into(space)
    assert len(encoded) == 1  # for the reference protocol only where it is asked for
    first.dictionary_rows(MENTIONS, 5)
    encoded.remove(len(MENTIONS))
    assert len(encoded) == 2
    assert sum(encoded) > 2 * len(BODY_PARTS)
    kept = sorted((tmp_path / "vectors").iterdir())
    assert len(kept) == 2  # of unit length by its own policy, and as they come, lower-cased
    encoded.clear()
    second = CachedEncoder.from_name(str(tiny_folder), tmp_path / "vectors").link_into(space)
    assert encoded == []
    assert scores(second.link(MENTIONS, 5)) == scores(first.link(MENTIONS, 5))
    np.testing.assert_array_equal(second.dictionary_rows(MENTIONS, 5), first.dictionary_rows(MENTIONS, 5))
    assert sorted((tmp_path / "vectors").iterdir()) == kept


def test_cache_folder_depends_on_all_inputs(bare_folder, tiny_folder, tmp_path, tmp_path_factory, encoded):
    """Model, pooling, precision, text policy, prompts, length of vectors, and the names in their order: a folder each."""

    def folders():
        return len(list(tmp_path.glob("*")))

    names = ["arm pain", "leg"]
    model = CachedEncoder.from_name(f"{bare_folder}@cls", tmp_path)
    known = shutil.copytree(bare_folder, tmp_path_factory.mktemp("known") / "intfloat" / "multilingual-e5-small")
    prompted = CachedEncoder(Encoder.from_pretrained(known, pooling="cls", max_length=25), tmp_path)
    calls = [
        (model, names, True, LOWER),
        (model, names, False, LOWER),
        (model, names, True, CASED),
        (model, names[::-1], True, LOWER),
        (model, names[:1], True, LOWER),
        (model, ["arm pain\nleg"], True, LOWER),
        (CachedEncoder.from_name(f"{bare_folder}@mean", tmp_path), names, True, LOWER),
        (CachedEncoder.from_name(f"{bare_folder}@cls", tmp_path, dtype="bfloat16"), names, True, LOWER),
        (CachedEncoder.from_name(str(tiny_folder), tmp_path), names, True, LOWER),
        (prompted, names, True, LOWER),
    ]
    assert prompted.encoder.content_hash == model.encoder.content_hash
    assert (prompted.encoder.pooling, prompted.encoder.max_length) == ("cls", model.encoder.max_length)
    for n, (encoder, texts, unit, policy) in enumerate(calls, start=1):
        vectors = encoder.vectors(texts, unit=unit, policy=policy)
        np.testing.assert_allclose(vectors, encoder.encoder.encode(texts, unit=unit, policy=policy), atol=1e-6)
        assert (folders(), len(vectors)) == (n, len(texts))
    encoded.clear()
    for encoder, texts, unit, policy in calls:
        encoder.vectors(texts, unit=unit, policy=policy)
    assert (encoded, folders()) == ([], len(calls))
    assert calls[0][0].metadata() == {
        "model": calls[0][0].encoder.content_hash,
        "pooling": "cls",
        "max_length": 25,
        "text": {"case": "cased", "unicode": "NFC"},
        "dtype": "float32",
    }
    assert prompted.metadata() == model.metadata() | {"prompts": ["query: ", "query: "]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\xff"), "hash is not the manifest's"),
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "expected .* bytes, found"),
        (lambda file: file.unlink(), "listed in the manifest, but missing"),
        (lambda file: (file.parent / "manifest.json").unlink(), "found no manifest.json"),
        (lambda file: (file.parent / "manifest.json").write_text("{"), "expected a readable manifest"),
    ],
)
def test_damaged_cache_is_reported(tiny_folder, tmp_path, damage, message):
    model = CachedEncoder.from_name(str(tiny_folder), tmp_path)
    model.vectors(["a", "b"], unit=True, policy=LOWER)
    (folder,) = tmp_path.iterdir()
    damage(folder / "vectors.npy")
    with pytest.raises(ArtifactError, match=message) as error:
        model.vectors(["a", "b"], unit=True, policy=LOWER)
    assert str(error.value).endswith(f": remove {folder} to encode its names again")
    shutil.rmtree(folder)
    assert len(model.vectors(["a", "b"], unit=True, policy=LOWER)) == 2


def test_vectors_that_are_not_finite_are_not_cached(tiny_folder, tmp_path, monkeypatch):
    model = CachedEncoder.from_name(str(tiny_folder), tmp_path / "vectors")
    monkeypatch.setattr(Encoder, "encode", lambda self, names, **_: np.array([[1.0, np.nan]] * len(names), np.float32))
    with pytest.raises(DataError, match="the vectors of a dictionary must be finite numbers"):
        model.vectors(["a"], unit=True, policy=LOWER)
    assert not (tmp_path / "vectors").exists()


def test_unsaved_model_cannot_be_cached(tmp_path):
    size = {"vocabulary_size": 100, "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0}
    unsaved = from_scratch(["arm pain", "leg pain"] * 20, EncoderConfig("mean"), **size, seed=1)
    with pytest.raises(AssertionError, match="never saved"):
        CachedEncoder(unsaved, tmp_path).vectors(["a"], unit=True, policy=LOWER)


# How a model is named


def test_pooling_is_given_or_read_from_folder(bare_folder, tiny_folder, tmp_path):
    assert CachedEncoder.from_name(f"{bare_folder}@mean_all", tmp_path).encoder.pooling == "mean_all"
    assert CachedEncoder.from_name(str(tiny_folder), tmp_path).encoder.pooling == "mean"
    assert CachedEncoder.from_name(f"{tiny_folder}@mean", tmp_path, dtype="bfloat16").metadata()["dtype"] == "bfloat16"
    for given, kind, message in [
        (str(bare_folder), ArtifactError, "its pooling is unknown; give pooling: one of cls, mean, mean_all"),
        (f"{bare_folder}@", ArtifactError, "its pooling is unknown"),
        (f"{bare_folder}@max", ConfigError, "pooling must be one of cls, mean, mean_all; found 'max'"),
        (f"{tiny_folder}@cls", ConfigError, "states pooling mean, found cls given"),
        (f"{tiny_folder}x@cls", ArtifactError, "expected a model folder, found nothing there"),
    ]:
        with pytest.raises(kind, match=message):
            CachedEncoder.from_name(given, tmp_path)


def test_path_may_contain_at_sign(bare_folder, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "me@home" / "model")
    shutil.copytree(bare_folder, tmp_path / "me@home" / "bare")
    assert CachedEncoder.from_name(str(tmp_path / "me@home" / "model"), tmp_path).encoder.pooling == "mean"
    assert CachedEncoder.from_name(f"{tmp_path / 'me@home' / 'bare'}@cls", tmp_path).encoder.pooling == "cls"


def test_known_models_are_loaded_by_name(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        Encoder,
        "from_pretrained",
        lambda path, **options: loaded.append((path, options["pooling"], options["dtype"])),
    )
    for given in (
        "sapbert-xlmr",
        "sapbert-mean",
        "biolord",
        "sapbert@mean",
        "biolord@cls",
        "someone/model@cls",
        "@cls",
    ):
        CachedEncoder.from_name(given, tmp_path, dtype="bfloat16")
    assert loaded == [
        ("cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR", None, "bfloat16"),
        ("cambridgeltl/SapBERT-from-PubMedBERT-fulltext-mean-token", None, "bfloat16"),
        ("FremyCompany/BioLORD-2023", None, "bfloat16"),
        ("cambridgeltl/SapBERT-from-PubMedBERT-fulltext", "mean", "bfloat16"),
        ("FremyCompany/BioLORD-2023", "cls", "bfloat16"),
        ("someone/model", "cls", "bfloat16"),
        ("@cls", None, "bfloat16"),
    ]
    assert {hub_id.casefold() for hub_id in KNOWN_MODELS.values()} <= set(known_models())  # which has their pooling
    assert len(set(KNOWN_MODELS.values())) == len(KNOWN_MODELS)
    assert not any(set("/@=+:") & set(name) for name in KNOWN_MODELS)  # which mean something on the command line


def test_unavailable_model_is_one_line(tmp_path):
    with pytest.raises(
        ArtifactError,
        match="^dmis-lab/biobert-base-cased-v1.2: expected a model folder or an id of the Hugging Face hub",
    ):
        CachedEncoder.from_name("biobert", tmp_path)


# An index


@pytest.fixture(scope="module")
def index_folder(tiny_folder, terminology, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    encoder = Encoder.from_pretrained(tiny_folder)
    Index.build(terminology, encoder, languages={"en"}, model_path=tiny_folder).save(folder)
    return folder


def test_index_links_like_linker_and_ranks_rows_like_model(tiny_folder, terminology, index_folder, cache):
    space = SearchSpace.from_terminology(terminology, "synthetic")
    opened, linker = IndexLinker.load(str(index_folder), space, cache), Linker.load(index_folder)
    assert shown(opened.link(MENTIONS, 3)) == shown(linker.link(MENTIONS, 3))
    assert scores(opened.link(MENTIONS, 3)) == scores(linker.link(MENTIONS, 3))
    assert set(opened.concept_ids) == set(linker.concept_ids)
    rows = CachedEncoder.from_name(str(tiny_folder), cache).link_into(space).dictionary_rows(MENTIONS, 7)
    np.testing.assert_array_equal(opened.dictionary_rows(MENTIONS, 7), rows)


def test_index_of_other_dictionary_is_rejected(terminology, index_folder, tmp_path, cache):
    (tmp_path / "mine.txt").write_text("D1||a\n")
    changed = Terminology.build(terminology.names.slice(1))[0]
    changed.save(tmp_path / "other")
    own = f"found terminology {terminology.content_hash[:8]}… in en; build it from that terminology"
    for space, message in [
        (
            SearchSpace.from_terminology(Terminology.load(tmp_path / "other"), "other"),
            f"of the task's dictionary, other: terminology ........… in en; {own}",
        ),
        (
            SearchSpace.from_terminology(terminology, "same", ("de",)),
            f"same: terminology {terminology.content_hash[:8]}… in de; {own}",
        ),
        (
            SearchSpace.from_terminology(terminology, "same", None),
            f"same: terminology {terminology.content_hash[:8]}… in all; {own}",
        ),
        (
            SearchSpace.from_file(tmp_path / "mine.txt"),
            "expected a dictionary that is a terminology, as an index's is; found mine.txt",
        ),
    ]:
        with pytest.raises(DataError, match=message):
            IndexLinker.load(str(index_folder), space, cache)
