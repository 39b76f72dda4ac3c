"""Linking against plain loops over all names, with each kind of search; and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import keys_of
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import retrieval as retrieval_module
from xsap.linking.dictionary import INDEX_CONCEPTS_SCHEMA, INDEX_NAMES_SCHEMA, Dictionary, NameConcepts
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.ranking import Filter, rank_concepts
from xsap.linking.results import Candidate, Result, Results
from xsap.search import approximate as approximate_module
from xsap.search.approximate import MAX_HNSW_K, HnswIndex, Searcher, search_device
from xsap.search.vectors import Vectors
from xsap.terms.abbreviations import Abbreviations, Expansion
from xsap.text import TextPolicy


class TableEncoder:
    """Looks vectors up in a table; remembers the names that it was asked for."""

    content_hash, pooling, max_length, policy, dtype = "a" * 64, "cls", 25, TextPolicy(), "float32"

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []
        self.dimension = len(next(iter(vectors.values()), ()))

    def encode(self, names, *, progress=False):
        self.asked += names
        return np.array([self.vectors[name] for name in names], np.float32)


def make_index(vectors, concepts_of_names):
    """vectors: (n, d). concepts_of_names: the concepts of each row. Row i is called `name i`, concept C `concept C`."""
    ids = sorted({concept for row in concepts_of_names for concept in row})
    rows = [
        {"name": f"name {i}", "language": "en", "source": "T", "languages": ["en"], "sources": ["T"]}
        for i in range(len(concepts_of_names))
    ]
    named = [
        {
            "concept_id": c,
            "preferred_name": f"concept {c}",
            "vocabulary": "T",
            "code": c,
            "semantic_types": ["T047"],
            "codes": [f"T:{c}"],
        }
        for c in ids
    ]
    names, concepts = (
        pa.Table.from_pylist(rows, INDEX_NAMES_SCHEMA),
        pa.Table.from_pylist(named, INDEX_CONCEPTS_SCHEMA),
    )
    lists = pa.array([sorted(row) for row in concepts_of_names], pa.list_(pa.string()))
    dictionary = Dictionary(
        names,
        concepts,
        NameConcepts.from_ids(lists, concepts["concept_id"].combine_chunks()),
        keys_of(names, concepts, [sorted(row) for row in concepts_of_names]),
        {},
    )
    model = EncoderSpec(
        TableEncoder.content_hash,
        None,
        TableEncoder.pooling,
        TableEncoder.max_length,
        TableEncoder.policy,
    )
    return Index(Vectors.from_array(np.asarray(vectors, np.float32)), dictionary, model)


def plain_loop(vectors, concepts_of_names, query, top_k):
    """Each concept's best name, in float64; higher score, then lower id, and within a concept the lower row."""
    best = {}
    for row, (vector, concepts) in enumerate(zip(vectors, concepts_of_names, strict=True)):
        score = float(np.dot(np.asarray(vector, np.float64), query))
        for concept in concepts:
            if concept not in best or score > best[concept][0]:
                best[concept] = score, row
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:top_k]
    return tuple(
        Candidate(c, f"concept {c}", f"name {row}", score, "en", "T", ("T047",), (f"T:{c}",), vocabulary="T", code=c)
        for c, (score, row) in ranked
    )


@settings(max_examples=examples(150), deadline=None)
@given(
    rows=st.integers(1, 80),
    concepts=st.integers(1, 25),
    top_k=st.integers(1, 8),
    largest=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_link_matches_a_plain_loop(rows, concepts, top_k, largest, seed):
    """Whole numbers tie often; few concepts with many names make the search widen."""
    rng = np.random.default_rng(seed)
    vectors, queries = rng.integers(-largest, largest + 1, (rows, 3)), rng.integers(-largest, largest + 1, (4, 3))
    concepts_of_names = [{f"C{c:02}" for c in rng.integers(concepts, size=rng.integers(1, 4))} for _ in range(rows)]
    linker = Linker(
        TableEncoder({f"q{i}": query for i, query in enumerate(queries)}), make_index(vectors, concepts_of_names)
    )
    for i, result in enumerate(linker.link([f"q{i}" for i in range(4)], top_k)):
        assert result.candidates == plain_loop(vectors, concepts_of_names, queries[i], top_k)
        assert result.reason is None


def test_link_widens_the_search_in_parts_until_there_are_enough_concepts():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile([5, 0], (200, 1)), rng.integers(-2, 3, (30, 2))])
    concepts_of_names = [{"C00"}] * 200 + [{f"C{i:02}"} for i in range(30)]
    queries = {f"q{i}": np.array([1, i % 3]) for i in range(9)}
    linker = Linker(TableEncoder(queries), make_index(vectors, concepts_of_names), names_per_search=64)
    for result in linker.link(queries, 3):
        assert result.candidates == plain_loop(vectors, concepts_of_names, queries[result.mention], 3)


def test_a_tie_beyond_the_names_first_fetched_goes_to_the_lower_id():
    concepts_of_names = [{"C9"}] * 50 + [{"C8"}] * 50 + [{"C1"}]
    linker = Linker(TableEncoder({"q": [1.0]}), make_index(np.ones((101, 1)), concepts_of_names))
    assert [c.concept_id for c in linker.link(["q"], 2)[0].candidates] == ["C1", "C8"]
    assert linker.link(["q"], 1)[0].candidates[0].matched_name == "name 100"


@pytest.mark.parametrize("mentions_per_batch", [1, 2, 4096])
def test_results_are_in_the_order_of_mentions_and_equal_ones_are_encoded_once(mentions_per_batch):
    encoder = TableEncoder({"x": [1.0, 0.0], "y": [0.0, 1.0]})
    linker = Linker(encoder, make_index(np.eye(2), [{"CX"}, {"CY"}]), mentions_per_batch=mentions_per_batch)
    mentions = ["y", "x", "", "y", "x", "y"]
    results = linker.link(iter(mentions), 1)
    assert [r.mention for r in results] == mentions
    assert [[c.concept_id for c in r.candidates] for r in results] == [["CY"], ["CX"], [], ["CY"], ["CX"], ["CY"]]
    assert encoder.asked == ["y", "x"]


@pytest.mark.parametrize(
    ("mention", "reason"),
    [
        ("", "the mention is empty"),
        (None, "the mention is empty"),
        (" \t\n", "the mention is blank"),
        ("\u200b\ufeff", "the mention is blank"),
        ("x" * 2001, "the mention has 2,001 characters; a term has at most 2,000"),
        (" " * 100_000, "the mention has 100,000 characters; a term has at most 2,000"),
        ("\udc80", "the mention is not valid Unicode: it has half of a surrogate pair"),
    ],
)
def test_a_mention_that_is_no_term_gets_a_reason(mention, reason):
    encoder = TableEncoder({})
    (result,) = Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}])).link([mention])
    assert (result.candidates, result.reason, result.mention) == ((), reason, mention or "")
    assert not encoder.asked


def test_a_mention_of_the_greatest_length_is_linked():
    term = "x" * 2000
    assert Linker(TableEncoder({term: [1.0]}), make_index([[1.0]], [{"A"}])).link([term])[0].candidates


def test_wrong_arguments_are_refused_in_one_line():
    linker = Linker(TableEncoder({}), make_index(np.eye(2), [{"A"}, {"B"}]))
    assert linker.link([]) == []
    for arguments, message in [
        ((5,), r"^link takes a list of mentions, found 5$"),
        ((["x"], 0), "top_k must be at least 1, found 0"),
        (([3.5],), r"a mention must be text, found 3.5 \(float\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            linker.link(*arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"content_hash": "b" * 64},
        {"content_hash": "a" * 63 + "b"},
        {"pooling": "mean"},
        {"max_length": 24},
        {"policy": TextPolicy("lower")},
    ],
)
def test_an_index_of_another_model_or_other_settings_is_refused(change):
    encoder = TableEncoder({})
    for name, value in change.items():
        setattr(encoder, name, value)
    with pytest.raises(
        ArtifactError, match=r"^the index was built with model aaaaaaaa… .*, not with .*\. Build it again$"
    ):
        Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}]))


def test_a_name_of_a_concept_that_is_not_listed_is_refused():
    with pytest.raises(ArtifactError, match="damaged"):
        NameConcepts.from_ids(pa.array([["A"], ["B"]]), pa.array(["B"]))


def test_concepts_of_an_exact_name_come_first_with_the_score_one():
    """`NAME 2` is farthest from its query, and first all the same."""
    concepts_of_names = [{"A"}, {"B"}, {"D", "C"}]
    linker = Linker(
        TableEncoder({"NAME 2": [1.0, 0.0], "other": [1.0, 0.0]}),
        make_index([[1, 0], [0.6, 0.8], [0, 1]], concepts_of_names),
    )
    exact, other = linker.link(["NAME 2", "other"], 4)
    assert [(c.concept_id, c.score, c.match) for c in exact.candidates] == [
        ("C", 1, "case"),
        ("D", 1, "case"),
        ("A", 1, "similar"),
        ("B", pytest.approx(0.6), "similar"),
    ]
    assert [c.concept_id for c in other.candidates] == ["A", "B", "C", "D"]
    assert [c.concept_id for c in linker.link(["NAME 2"], 1)[0].candidates] == ["C"]


def test_a_filter_is_exact_over_what_it_keeps():
    index = make_index(np.eye(3), [{"A"}, {"B", "A"}, {"C"}])
    types = pa.array([["T047"], ["T184"], ["T121"]])
    at = INDEX_CONCEPTS_SCHEMA.get_field_index("semantic_types")
    table = index.concepts.set_column(at, INDEX_CONCEPTS_SCHEMA.field(at), types)
    index = replace(index, dictionary=replace(index.dictionary, concepts=table))
    linker = Linker(TableEncoder({"q": [0.5, 0.4, 0.3], "name 0": [0.5, 0.4, 0.3]}), index)

    def ids(mention, **wanted):
        return [c.concept_id for c in linker.link([mention], 5, filter=wanted)[0].candidates]

    assert ids("q") == ["A", "B", "C"]
    assert ids("q", groups=["DISO"]) == ["A", "B"]
    assert ids("q", groups=["DISO"], semantic_types=["T121"]) == ["A", "B", "C"]
    assert ids("name 0", semantic_types=["T184"]) == ["B"]  # its concept is not kept, so neither is the exact name
    assert ids("q", sources=["T"], languages=["en"]) == ["A", "B", "C"]
    with pytest.raises(DataError, match=r"^the index has no language 'fi'; it has en$"):
        ids("q", languages=["fi"])
    with pytest.raises(DataError, match=r"^the index has no source 'ICD10'; it has T$"):
        ids("q", sources=["ICD10"])


def test_a_filter_may_be_a_dictionary_of_lists_or_strings():
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    expected = linker.link(["q"], filter=Filter(sources=["T"], languages=["en"]))
    assert len(expected[0].candidates) == 1
    assert linker.link(["q"], filter={"sources": ["T"], "languages": "en"}) == expected
    with pytest.raises(ConfigError, match=r"^unknown filter 'source'; did you mean 'sources'\?$"):
        linker.link(["q"], filter={"source": ["T"]})
    with pytest.raises(ConfigError, match=r"^a filter is a Filter or a dictionary with lists, found 'T'$"):
        linker.link(["q"], filter="T")


def test_languages_are_one_per_mention():
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    assert linker.link(["q", "q"], languages=["de", None])[1].candidates[0].concept_id == "A"
    with pytest.raises(ConfigError, match="expected a language for each mention, found 1 for 2"):
        linker.link(["q", "q"], languages=["de"])
    with pytest.raises(
        ConfigError,
        match=r"^languages takes a language for each mention, found the single string 'de'; put it into a list$",
    ):
        linker.link(["q", "q"], languages="de")


def test_columns_of_pandas_are_linked_and_missing_values_get_a_reason():
    pandas = pytest.importorskip("pandas")
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    results = linker.link(pandas.Series(["q", None, float("nan"), pandas.NA]))
    assert [r.reason for r in results] == [None, *["the mention is empty"] * 3]
    frame = results.to_pandas()
    assert frame["concept_id"].tolist()[:1] == ["A"]
    assert (len(frame), frame["reason"].notna().sum()) == (4, 3)
    assert linker.link(["q", "q"], languages=pandas.Series([float("nan"), float("nan")])) == linker.link(["q", "q"])
    with pytest.raises(
        ConfigError,
        match=r"^link takes one column of mentions, found a whole DataFrame; choose its column of mentions$",
    ):
        linker.link(pandas.DataFrame({"mention": ["q"]}))


def test_one_string_has_one_result_and_a_list_has_a_list():
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    (expected,) = linker.link(["q"], 1, languages=["de"])
    for language in ("de", ["de"], None):
        assert linker.link("q", 1, languages=language) == expected
    assert linker.link("").reason == "the mention is empty"
    assert linker.link("q", filter={"codes": "A", "concepts": ["A"]}).candidates == expected.candidates
    with pytest.raises(ConfigError, match="expected a language for each mention, found 2 for 1"):
        linker.link("q", languages=["de", "en"])


def test_data_frames_have_numbers_and_strings_and_no_objects():
    pandas = pytest.importorskip("pandas")
    sure = Candidate("C1", "Fever", "fever", 0.5, "en", "T", ("T184", "T047"), ("T:C1",), 0.9)
    results = Results([Result("a", (sure, Candidate("C2", "x", "y", 0.25))), Result("", (), "the mention is empty")])
    for part, rows in ((results, 3), (results[:1], 2), (results[2:], 0), (Results([]), 0)):
        frame = part.to_pandas()
        numbers = {
            "rank": "Int64",
            "score": "Float64",
            "confidence": "Float64",
            "annotations": "Int64",
            "share": "Float64",
        }
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
            name: numbers.get(name, "string") for name in ["mention", "rank", *Candidate.__slots__, "reason"]
        }
        assert len(frame) == rows
    frame = results.to_pandas()
    assert frame["rank"].tolist() == [1, 2, pandas.NA]
    assert frame["semantic_types"].tolist() == ["T184|T047", "", pandas.NA]
    assert frame["mention"].tolist() == ["a", "a", ""]
    assert frame["reason"].isna().tolist() == [True, True, False]
    assert frame["confidence"].isna().tolist() == [False, True, True]


def test_a_column_of_datasets_is_linked_and_a_dataset_refused():
    datasets = pytest.importorskip("datasets")
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    table = datasets.Dataset.from_dict({"mention": ["q", None, "q"]})
    assert [len(result.candidates) for result in linker.link(table["mention"])] == [1, 0, 1]
    with pytest.raises(ConfigError, match="a mention must be text, found"):
        linker.link(table)


def test_reprs_are_one_short_line():
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]] * 900, [{"A"}] * 900))
    results = linker.link(["q", ""])
    assert repr(linker) == f"Linker({linker.index!r}, search=exact)"
    assert repr(results) == "Results(2 mentions, 1 linked)"
    for value in (linker, results):
        assert len(repr(value)) < 160
        assert "\n" not in repr(value)


def test_results_and_candidates_become_dictionaries():
    candidate = Candidate("C1", "Fever", "fever", 0.5, "en", "T", ("T184",), ("T:C1",), 0.9)
    fields = {
        "concept_id": "C1",
        "name": "Fever",
        "matched_name": "fever",
        "score": 0.5,
        "language": "en",
        "source": "T",
        "semantic_types": ("T184",),
        "codes": ("T:C1",),
        "confidence": 0.9,
        "match": "similar",
        "vocabulary": "",
        "code": "",
        "annotations": None,
        "share": None,
    }
    assert candidate.to_dict() == fields
    found, none = Result("a", (candidate,)), Result("", (), "the mention is empty")
    assert found.to_dict() == {"mention": "a", "candidates": [fields], "reason": None}
    assert none.to_dict() == {"mention": "", "candidates": [], "reason": "the mention is empty"}
    assert Results([found, none]).to_dicts() == [
        {"mention": "a", "rank": 1, **fields, "reason": None},
        {"mention": "", "rank": None, **dict.fromkeys(fields), "reason": "the mention is empty"},
    ]


def test_results_are_a_table_in_a_notebook():
    calibrated, uncalibrated = (Candidate("C<1>", "Fever", "fièvre", 0.98765, confidence=p) for p in (0.5, None))
    results = Results([Result("a&b", (calibrated, uncalibrated)), Result("", (), "the mention is empty")] * 30)
    html = results._repr_html_()
    assert html.startswith("<table><thead><tr><th>mention</th><th>rank</th><th>concept_id</th><th>name</th><th>matched name</th><th>score</th><th>confidence</th></tr>")  # fmt: skip
    assert html.count("<tr>") == 1 + 25 * 3
    for row in (
        "<tr><td>a&amp;b</td><td>1</td><td>C&lt;1&gt;</td><td>Fever</td><td>fièvre</td><td>0.988</td><td>0.500</td></tr>",
        "<tr><td>a&amp;b</td><td>2</td><td>C&lt;1&gt;</td><td>Fever</td><td>fièvre</td><td>0.988</td><td></td></tr>",
        "<tr><td></td><td></td><td></td><td>the mention is empty</td><td></td><td></td><td></td></tr>",
    ):
        assert html.count(row) == 25
    assert html.endswith("</table><p>… and 10 more mentions</p>")
    assert "confidence" not in Results([Result("x", (uncalibrated,))])._repr_html_()


# The kinds of search


N = 3000


@pytest.fixture(scope="module")
def many():
    """An index of 3,000 names of 1,100 concepts with an HNSW index, and 400 mentions, some of which are names."""
    pytest.importorskip("usearch")
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((N // 4, 24)), 4, axis=0) + 0.5 * rng.standard_normal((N, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = make_index(
        vectors, [{f"C{i // 3:04}", f"C{1000 + i % 100}"} if i % 7 == 0 else {f"C{i // 3:04}"} for i in range(N)]
    )
    queries = vectors[rng.choice(N, 400)] + 0.1 * rng.standard_normal((400, 24)).astype(np.float32)
    mentions = {f"name {7 * i}" if i % 10 == 0 else f"q{i}": query for i, query in enumerate(queries)}
    return replace(index, hnsw=HnswIndex.build(index.vectors)), mentions


@pytest.fixture
def on_cpu(monkeypatch):
    """As if the encoder were on a GPU: the 16-bit copy of the vectors is in this machine's own memory. Returns what was uploaded."""
    uploaded, upload = [], approximate_module.upload
    monkeypatch.setattr(retrieval_module, "search_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(approximate_module, "upload", lambda *given: uploaded.append(given) or upload(*given))
    return uploaded


def ids_of(results):
    return [[(c.concept_id, c.matched_name, c.score) for c in result.candidates] for result in results]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_with_an_hnsw_index_the_candidates_are_the_ranked_ones_of_the_names_it_finds(many, weight):
    index, mentions = many
    asked = {mention: vector for mention, vector in mentions.items() if mention.startswith("q")}
    found = Linker(TableEncoder(mentions), replace(index, fusion_weight=weight)).link(asked, 5)
    if weight == 0:
        queries = np.array(list(asked.values()), np.float32)
        ranked = rank_concepts(
            lambda part, k: index.hnsw.search(queries[part], k), index.dictionary.name_concepts, len(queries), 5
        )
        concepts, names = index.concepts["concept_id"].to_pylist(), index.names["name"].to_pylist()
        expected = [
            [(concepts[c], names[row], score) for c, row, score in zip(*line, strict=True)]
            for line in zip(ranked.concepts.tolist(), ranked.rows.tolist(), ranked.scores.tolist(), strict=True)
        ]
        assert ids_of(found) == expected
    exactly = Linker(TableEncoder(mentions), replace(index, fusion_weight=weight, hnsw=None)).link(asked, 5)
    assert np.mean([a == b for a, b in zip(ids_of(found), ids_of(exactly), strict=True)]) > 0.9


def test_filtered_searches_and_those_for_very_many_names_are_exact(many, monkeypatch):
    index, mentions = many
    asked, search = [], HnswIndex.search
    monkeypatch.setattr(HnswIndex, "search", lambda self, queries, k: asked.append(k) or search(self, queries, k))
    linker, exact = (
        Linker(TableEncoder(mentions), index),
        Linker(TableEncoder(mentions), replace(index, hnsw=None)),
    )
    wanted = Filter(sources=["T"], languages=["en"])
    assert linker.link(mentions, 5, filter=wanted) == exact.link(mentions, 5, filter=wanted)
    assert asked == []
    linker.link(mentions, 5)
    assert asked[0] == 20
    asked.clear()
    some = list(mentions)[:20]
    assert linker.link(some, MAX_HNSW_K // 4 + 1) == exact.link(some, MAX_HNSW_K // 4 + 1)
    assert asked == []
    linker.link(some, MAX_HNSW_K // 4)
    assert max(asked) == MAX_HNSW_K


def test_a_search_that_widens_beyond_the_hnsw_index_is_exact(monkeypatch):
    pytest.importorskip("usearch")
    rng = np.random.default_rng(1)
    vectors = np.concatenate([[1, 0, 0] + 0.01 * rng.standard_normal((1500, 3)), rng.standard_normal((100, 3))]).astype(
        np.float32
    )
    index = make_index(vectors, [{"C0"}] * 1500 + [{f"C{i}"} for i in range(1, 101)])
    linker = Linker(TableEncoder({"q": [1.0, 0, 0]}), replace(index, hnsw=HnswIndex.build(index.vectors)))
    assert linker.link(["q"], 3)[0].candidates == plain_loop(
        vectors, [{"C0"}] * 1500 + [{f"C{i}"} for i in range(1, 101)], [1, 0, 0], 3
    )


def test_an_exact_name_comes_first_even_if_the_hnsw_index_misses_it(many, monkeypatch):
    index, mentions = many
    search = HnswIndex.search

    def missing_names(self, queries, k):
        scores, rows = search(self, queries, k + 40)
        missed = rows % 7 == 0  # all names that are mentions here, and others
        order = np.argsort(missed, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    exact = Linker(TableEncoder(mentions), replace(index, hnsw=None)).link([m for m in mentions if m[0] == "n"], 1)
    monkeypatch.setattr(HnswIndex, "search", missing_names)
    found = Linker(TableEncoder(mentions), index).link([m for m in mentions if m[0] == "n"], 1)
    assert [r.candidates[0].matched_name for r in found] == [r.mention for r in found]
    assert found == exact


def test_answers_with_a_device_copy_are_the_same_to_the_bit_and_vectors_are_copied_once(many, on_cpu):
    index, mentions = many
    exact = replace(index, hnsw=None)
    wanted = Filter(sources=["T"])
    linker = Linker(TableEncoder(mentions), exact)
    assert on_cpu == []  # nothing is uploaded before it is needed
    found = [linker.link(mentions, 5), linker.link(mentions, 5, filter=wanted), linker.link(list(mentions)[:3], 2)]
    assert [(vectors, str(device)) for vectors, device in on_cpu] == [(index.vectors, "cpu")]
    plain = Linker(TableEncoder(mentions), exact)
    plain.retriever.searcher.device = None
    assert found == [plain.link(mentions, 5), plain.link(mentions, 5, filter=wanted), plain.link(list(mentions)[:3], 2)]
    assert len(on_cpu) == 1
    with_hnsw = Linker(TableEncoder(mentions), index)
    with_hnsw.link(list(mentions)[:5], 5)
    assert len(on_cpu) == 1  # the HNSW index answers without them
    with_hnsw.link(list(mentions)[:5], 5, filter=wanted)
    assert len(on_cpu) == 2


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_cpu_searches_where_the_copy_does_not_fit(many, on_cpu, monkeypatch):
    index, mentions = replace(many[0], hnsw=None), many[1]
    expected = Linker(TableEncoder(mentions), index).link(mentions, 5)
    tries = []
    monkeypatch.setattr(approximate_module, "upload", lambda *given: tries.append(given) or out_of_memory())
    linker = Linker(TableEncoder(mentions), index)
    assert linker.link(mentions, 5) == expected
    assert linker.link(mentions, 5) == expected
    assert len(tries) == 1  # and is not tried again
    monkeypatch.undo()


def test_the_copy_is_released_where_a_search_or_a_mention_needs_its_memory(many, on_cpu, monkeypatch):
    index, mentions = replace(many[0], hnsw=None), many[1]
    expected = Linker(TableEncoder(mentions), index).link(mentions, 5)
    search, tried = approximate_module.search_vectors, []

    def crowded(*given, device_copy=None, **options):
        tried.append(device_copy is not None)
        return out_of_memory() if device_copy is not None else search(*given, **options)

    linker = Linker(TableEncoder(mentions), index)
    monkeypatch.setattr(approximate_module, "search_vectors", crowded)
    assert linker.link(mentions, 5) == expected
    assert tried[:2] == [True, False]
    assert tried.count(True) == 1
    monkeypatch.setattr(approximate_module, "search_vectors", search)

    class Crowded(TableEncoder):
        def encode(self, names, *, progress=False):
            return out_of_memory() if linker.retriever.searcher.device_copy is not None else super().encode(names)

    linker = Linker(TableEncoder(mentions), index)
    linker.link(list(mentions)[:2], 5)
    assert linker.retriever.searcher.device_copy is not None
    linker.retriever.encoder = Crowded(mentions)
    assert linker.link(mentions, 5) == expected
    assert linker.retriever.searcher.device_copy is None
    linker.retriever.encoder.encode = out_of_memory  # although there is no copy to release: then the error is raised
    with pytest.raises(torch.OutOfMemoryError):
        linker.link(mentions, 5)


def test_search_device_is_that_of_an_encoder_on_cuda_only():
    assert search_device(torch.nn.Linear(1, 1)) is None
    assert search_device(torch.nn.Identity()) is None
    assert search_device(TableEncoder({})) is None
    there = torch.nn.Linear(1, 1, device="meta")
    assert search_device(there) is None  # some other device: CUDA alone was measured
    there.parameters = lambda: iter([SimpleNamespace(device=torch.device("cuda", 1))])
    assert search_device(there) == torch.device("cuda", 1)


def test_many_threads_copy_the_vectors_once(many, on_cpu):
    index, mentions = many
    searcher, barrier = Searcher(index.vectors, None, torch.device("cpu")), Barrier(16)
    queries = np.array(list(mentions.values()), np.float32)[:16]

    def ask(i):
        barrier.wait()
        return searcher.search(queries[i : i + 1], 5)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert len(on_cpu) == 1
    expected = Searcher(index.vectors, None, None).search(queries, 5)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), expected[1])
    np.testing.assert_array_equal(np.concatenate([scores for scores, _ in found]), expected[0])


@pytest.mark.parametrize("search", ["exact", "hnsw", "device"])
def test_threads_get_the_answers_of_one_thread(many, search, request):
    if search == "device":
        request.getfixturevalue("on_cpu")
    index, mentions = many
    linker = Linker(TableEncoder(mentions), index if search == "hnsw" else replace(index, hnsw=None))
    kept = Filter(sources=["T"])
    alone, filtered = linker.link(mentions, 5), linker.link(mentions, 5, filter=kept)
    parts = [list(mentions)[i::16] for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        both = list(pool.map(lambda part: (linker.link(part, 5), linker.link(part, 5, filter=kept)), parts))
    for expected, which in ((alone, 0), (filtered, 1)):
        found = {result.mention: result for pair in both for result in pair[which]}
        assert [found[mention] for mention in mentions] == list(expected)


class ScoreAsConfidence:
    """A calibration whose confidence is the score of the first candidate."""

    def __init__(self, depends_on_languages=False):
        self.depends_on_languages = depends_on_languages

    def confidence(self, features, languages):
        return features[:, 0]

    def threshold_for(self, precision):
        return precision - 0.05


@pytest.mark.parametrize("option", [{"min_confidence": 0.7}, {"min_precision": 0.75}])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_uncertain_candidates_are_kept_apart_from_answers(option, top_k):
    """They are exactly the candidates without a limit; what counts as linked is what has candidates."""
    queries = {"sure": [0.9, 0.5, 0.1], "unsure": [0.6, 0.5, 0.1]}
    index = replace(make_index(np.eye(3), [{"A"}, {"B"}, {"C"}]), calibration=ScoreAsConfidence())
    linker = Linker(TableEncoder(queries), index)
    without = linker.link(["sure", "unsure", ""], top_k)
    sure, unsure, blank = linker.link(["sure", "unsure", ""], top_k, **option)
    assert sure == without[0]
    assert (unsure.candidates, unsure.uncertain) == ((), without[1].candidates)
    assert len(unsure.uncertain) == top_k
    assert unsure.reason.startswith("the confidence of the first candidate, 0.600, is below 0.700")
    assert (blank.candidates, blank.uncertain) == ((), ())
    assert unsure.to_dict()["uncertain"] == without[1].to_dict()["candidates"]


@pytest.mark.parametrize("option", [{"min_confidence": 0.7}, {"min_precision": 0.75}])
def test_mentions_without_languages_are_reported_once_where_confidences_differ_by_language(option, caplog):
    def linker(depends_on_languages):
        index = replace(make_index(np.eye(2), [{"A"}, {"B"}]), calibration=ScoreAsConfidence(depends_on_languages))
        return Linker(TableEncoder({"a": [0.9, 0.5], "b": [0.5, 0.9]}), index)

    linker(False).link(["a", "b"], **option)
    differs = linker(True)
    differs.link(["a", "b"])
    differs.link(["a", "b"], languages=["de", "es"], **option)
    differs.link("a", languages="de", **option)
    assert caplog.messages == []
    for _ in range(2):
        differs.link(["a", "b", "b"], languages=["de", None, "und"], **option)
    (message,) = caplog.messages
    assert message.startswith("mentions without a language: 2 of 3. Confidences of this index differ by language, ")


@pytest.mark.parametrize("value", [0, -1, True, 3.5, 3.0, "3", None, [3], float("nan")])
def test_top_k_is_a_whole_number_of_at_least_one(value):
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    with pytest.raises(ConfigError, match=r"^top_k must be (at least 1|a whole number, at least 1[;])"):
        linker.link(["q"], value)
    assert len(linker.link(["q"], np.int64(1))[0].candidates) == 1


@pytest.mark.parametrize("option", ["min_confidence", "min_precision"])
@pytest.mark.parametrize("value", ["0.9", [0.9], {}, object(), "x"])
def test_limits_of_another_type_are_refused_in_one_line(option, value):
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    with pytest.raises(ConfigError, match=rf"^{option} must be a number between 0 and 1, found "):
        linker.link(["q"], **{option: value})


@pytest.mark.parametrize(
    "value",
    ["en", 5, ["en"], {"languages": 5}, {"languages": [5]}, {"sources": {"A": 1}}, {"language": ["en"]}, {5: ["en"]}],
)
def test_filters_of_another_type_are_refused_in_one_line(value):
    linker = Linker(TableEncoder({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    with pytest.raises(ConfigError, match="filter"):
        linker.link(["q"], filter=value)


# Mentions that have no answer, though they are text


class SmallVocabulary(TableEncoder):
    """Knows names with an ASCII letter."""

    def encode_mentions(self, mentions, prompt=None):
        known = np.array([any(c.isascii() and c.isalpha() for c in name) for name in mentions], bool)
        return self.encode(mentions), known


def test_a_mention_of_which_the_model_knows_nothing_has_a_reason_and_exact_names_answer_all_the_same():
    index = make_index(np.eye(2), [{"A"}, {"B"}])
    encoder = SmallVocabulary({name: [1.0, 0.0] for name in ("ज्वर", "q", "ＮＡＭＥ　１")})
    linker = Linker(encoder, index)
    mentions = ["ज्वर", "q", "ＮＡＭＥ　１"]
    together, alone = linker.link(mentions, 2), [linker.link([mention], 2)[0] for mention in mentions]
    assert list(together) == alone
    assert (together[0].candidates, together[0].reason) == ((), "the model's vocabulary has no part of the mention")
    assert [c.concept_id for c in together[1].candidates] == ["A", "B"]
    assert [(c.concept_id, c.match) for c in together[2].candidates] == [("B", "case")]


@pytest.mark.parametrize("mention", ["N/A", "-", "0", "R50.9"])
def test_what_is_no_term_has_a_reason_and_is_not_encoded(mention):
    encoder = TableEncoder({"q": [1.0, 0.0]})
    linker = Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}]))
    none, some = linker.link([mention, "q"])
    assert none.candidates == ()
    assert "term" in none.reason
    assert some.candidates
    assert encoder.asked == ["q"]


def test_codes_are_exact_and_are_kept_by_a_filter_that_keeps_their_concept():
    index = make_index(np.eye(2), [{"X:00001"}, {"X:00002"}])
    linker = Linker(TableEncoder({"x:00002": [1.0, 0.0]}), index)
    for wanted in (None, {"languages": "en"}, {"sources": "T"}):
        first = linker.link(["x:00002"], 1, filter=wanted)[0].candidates[0]
        assert (first.concept_id, first.match, first.score, first.matched_name) == ("X:00002", "code", 1.0, "name 1")


def test_a_mention_is_linked_without_its_notes_and_with_its_abbreviation_written_out_and_the_result_says_so():
    index = make_index(np.eye(3), [["A"], ["B"], ["C"]])
    encoder = TableEncoder({"name 1": np.eye(3)[1], "name 1 li.": np.array([0.8, 0.6, 0]), "name 2": np.eye(3)[2]})
    linker = Linker(encoder, index)
    table = Abbreviations.from_rows([("N1", "name 1", "und")])
    found = linker.link(["V.a. N1 li.", "N1", "name 2"], 1, languages=["de"] * 3, clean=True, abbreviations=table)
    assert [(each.mention, each.candidates[0].concept_id) for each in found] == [("V.a. N1 li.", "B"), ("N1", "B"), ("name 2", "C")]  # fmt: skip
    assert [each.expansion and each.expansion.text for each in found] == ["name 1", "name 1", None]
    assert found[0].cleaned.removed == ("V.a.", "li.")
    assert [each.cleaned for each in found[1:]] == [None, None]
    assert encoder.asked == ["name 1 li.", "name 1", "name 2"]
    alone = linker.link("N2", 1, context="It is name 2 (N2).", abbreviations=Abbreviations())
    assert (alone.expansion, alone.candidates[0].concept_id) == (Expansion("name 2", "context"), "C")
