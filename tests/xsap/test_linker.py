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

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import linker as linker_module
from xsap.linking import ranking
from xsap.linking.dictionary import CONCEPTS_SCHEMA, NAMES_SCHEMA, Dictionary, Keys, NameConcepts
from xsap.linking.index import EncoderSpec, Index
from xsap.linking.linker import Linker
from xsap.linking.ranking import Filter, rank_concepts
from xsap.linking.results import Candidate, Result, Results
from xsap.search import approximate as nearest_module
from xsap.search.approximate import WIDEST, HnswIndex, Searcher, search_device
from xsap.search.vectors import Vectors
from xsap.text import TextPolicy


class TrimmedEmbedding:
    """Vectors by name, out of a table; counts what it was asked."""

    content_hash, pooling, max_length, policy, dtype = "a" * 64, "cls", 25, TextPolicy(), "float32"

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def encode(self, names, *, progress=False):
        self.asked += names
        return np.array([self.vectors[name] for name in names], np.float32)


def make_index(vectors, owners):
    """vectors: (n, d). owners: the concepts of each row. Row i is called `name i`, concept C `concept C`."""
    ids = sorted({concept for row in owners for concept in row})
    rows = [
        {"name": f"name {i}", "language": "en", "source": "T", "languages": ["en"], "sources": ["T"]}
        for i in range(len(owners))
    ]
    named = [
        {"concept_id": c, "preferred_name": f"concept {c}", "semantic_types": ["T047"], "codes": [f"T:{c}"]}
        for c in ids
    ]
    names, concepts = (
        pa.Table.from_pylist(rows, NAMES_SCHEMA),
        pa.Table.from_pylist(named, CONCEPTS_SCHEMA),
    )
    lists = pa.array([sorted(row) for row in owners], pa.list_(pa.string()))
    dictionary = Dictionary(
        names, concepts, NameConcepts.of(lists, concepts["concept_id"].combine_chunks()), Keys.of(names["name"]), {}
    )
    model = EncoderSpec(
        TrimmedEmbedding.content_hash,
        None,
        TrimmedEmbedding.pooling,
        TrimmedEmbedding.max_length,
        TrimmedEmbedding.policy,
    )
    return Index(Vectors.of(np.asarray(vectors, np.float32)), dictionary, model)


def plain_loop(vectors, owners, query, top_k):
    """Each concept's best name, in float64; higher score, then lower id, and within a concept the lower row."""
    best = {}
    for row, (vector, concepts) in enumerate(zip(vectors, owners, strict=True)):
        score = float(np.dot(np.asarray(vector, np.float64), query))
        for concept in concepts:
            if concept not in best or score > best[concept][0]:
                best[concept] = score, row
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:top_k]
    return tuple(
        Candidate(c, f"concept {c}", f"name {row}", score, "en", "T", ("T047",), (f"T:{c}",))
        for c, (score, row) in ranked
    )


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 80),
    concepts=st.integers(1, 25),
    top_k=st.integers(1, 8),
    largest=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_concepts_against_a_plain_loop(rows, concepts, top_k, largest, seed):
    """Whole numbers tie often; few concepts with many names make the search widen."""
    rng = np.random.default_rng(seed)
    vectors, queries = rng.integers(-largest, largest + 1, (rows, 3)), rng.integers(-largest, largest + 1, (4, 3))
    owners = [{f"C{c:02}" for c in rng.integers(concepts, size=rng.integers(1, 4))} for _ in range(rows)]
    linker = Linker(TrimmedEmbedding({f"q{i}": query for i, query in enumerate(queries)}), make_index(vectors, owners))
    for i, result in enumerate(linker.link([f"q{i}" for i in range(4)], top_k)):
        assert result.candidates == plain_loop(vectors, owners, queries[i], top_k)
        assert result.reason is None


def test_the_search_widens_in_parts_until_there_are_enough_concepts(monkeypatch):
    monkeypatch.setattr(ranking, "_FETCHED", 64)
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile([5, 0], (200, 1)), rng.integers(-2, 3, (30, 2))])
    owners = [{"C00"}] * 200 + [{f"C{i:02}"} for i in range(30)]
    queries = {f"q{i}": np.array([1, i % 3]) for i in range(9)}
    linker = Linker(TrimmedEmbedding(queries), make_index(vectors, owners))
    for result in linker.link(queries, 3):
        assert result.candidates == plain_loop(vectors, owners, queries[result.mention], 3)


def test_a_tie_beyond_the_names_first_fetched_goes_to_the_lower_id():
    owners = [{"C9"}] * 50 + [{"C8"}] * 50 + [{"C1"}]
    linker = Linker(TrimmedEmbedding({"q": [1.0]}), make_index(np.ones((101, 1)), owners))
    assert [c.concept_id for c in linker.link(["q"], 2)[0].candidates] == ["C1", "C8"]
    assert linker.link(["q"], 1)[0].candidates[0].matched_name == "name 100"


def test_order_is_the_input_s_and_equal_mentions_are_encoded_once():
    encoder = TrimmedEmbedding({"x": [1.0, 0.0], "y": [0.0, 1.0]})
    linker = Linker(encoder, make_index(np.eye(2), [{"CX"}, {"CY"}]))
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
def test_what_is_no_term_gets_a_reason(mention, reason):
    encoder = TrimmedEmbedding({})
    (result,) = Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}])).link([mention])
    assert (result.candidates, result.reason, result.mention) == ((), reason, mention or "")
    assert not encoder.asked


def test_the_longest_term_is_linked():
    term = "x" * 2000
    assert Linker(TrimmedEmbedding({term: [1.0]}), make_index([[1.0]], [{"A"}])).link([term])[0].candidates


def test_wrong_use_is_one_line():
    linker = Linker(TrimmedEmbedding({}), make_index(np.eye(2), [{"A"}, {"B"}]))
    assert linker.link([]) == []
    for arguments, message in [
        (
            ("fiebre alta",),
            r"^link takes a list of mentions, found the single string 'fiebre alta'; put it into a list$",
        ),
        ((["x"], 0), "top_k must be at least 1, found 0"),
        (([3.5],), r"a mention must be text, found 3.5 \(float\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            linker.link(*arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"content": "b" * 64},
        {"content": "a" * 63 + "b"},
        {"pooling": "mean"},
        {"max_length": 24},
        {"policy": TextPolicy("lower")},
    ],
)
def test_another_model_or_use_of_it_is_refused(change):
    encoder = TrimmedEmbedding({})
    for name, value in change.items():
        setattr(encoder, name, value)
    with pytest.raises(
        ArtifactError, match=r"^the index was built with model aaaaaaaa… .*, not with .*\. Build it again$"
    ):
        Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}]))


def test_a_name_of_a_concept_that_is_not_listed_is_refused():
    with pytest.raises(ArtifactError, match="damaged"):
        NameConcepts.of(pa.array([["A"], ["B"]]), pa.array(["B"]))


def test_a_mention_that_is_a_name_letter_for_letter_means_its_concepts():
    """`NAME 2` is farthest from its query, and first all the same; its score stays the cosine."""
    owners = [{"A"}, {"B"}, {"D", "C"}]
    linker = Linker(
        TrimmedEmbedding({"NAME 2": [1.0, 0.0], "other": [1.0, 0.0]}), make_index([[1, 0], [0.6, 0.8], [0, 1]], owners)
    )
    exact, other = linker.link(["NAME 2", "other"], 4)
    assert [(c.concept_id, c.score) for c in exact.candidates] == [
        ("C", 0),
        ("D", 0),
        ("A", 1),
        ("B", pytest.approx(0.6)),
    ]
    assert [c.concept_id for c in other.candidates] == ["A", "B", "C", "D"]
    assert [c.concept_id for c in linker.link(["NAME 2"], 1)[0].candidates] == ["C"]


def test_a_filter_is_exact_over_what_it_keeps():
    index = make_index(np.eye(3), [{"A"}, {"B", "A"}, {"C"}])
    linker = Linker(TrimmedEmbedding({"q": [0.5, 0.4, 0.3], "name 0": [0.5, 0.4, 0.3]}), index)
    types = pa.array([["T047"], ["T184"], ["T121"]])
    table = index.concepts.set_column(2, CONCEPTS_SCHEMA.field(2), types)
    linker.index = replace(index, dictionary=replace(index.dictionary, concepts=table))

    def ids(mention, **wanted):
        return [c.concept_id for c in linker.link([mention], 5, filter=Filter.of(**wanted))[0].candidates]

    assert ids("q") == ["A", "B", "C"]
    assert ids("q", groups=["DISO"]) == ["A", "B"]
    assert ids("q", groups=["DISO"], semantic_types=["T121"]) == ["A", "B", "C"]
    assert ids("name 0", semantic_types=["T184"]) == ["B"]  # its concept is not kept, so neither is the exact name
    assert ids("q", sources=["T"], languages=["en"]) == ["A", "B", "C"]
    with pytest.raises(DataError, match=r"^the index has no language 'fi'; it has en$"):
        ids("q", languages=["fi"])
    with pytest.raises(DataError, match=r"^the index has no source 'ICD10'; it has T$"):
        ids("q", sources=["ICD10"])


def test_languages_are_one_a_mention():
    linker = Linker(TrimmedEmbedding({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    assert linker.link(["q", "q"], languages=["de", None])[1].candidates[0].concept_id == "A"
    with pytest.raises(ConfigError, match="expected a language for each mention, found 1 for 2"):
        linker.link(["q", "q"], languages=["de"])
    with pytest.raises(
        ConfigError,
        match=r"^languages takes a language for each mention, found the single string 'de'; put it into a list$",
    ):
        linker.link(["q", "q"], languages="de")


def test_columns_of_pandas_and_what_they_have_for_nothing():
    pandas = pytest.importorskip("pandas")
    linker = Linker(TrimmedEmbedding({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
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


def test_a_column_of_datasets():
    datasets = pytest.importorskip("datasets")
    linker = Linker(TrimmedEmbedding({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    table = datasets.Dataset.from_dict({"mention": ["q", None, "q"]})
    assert [len(result.candidates) for result in linker.link(table["mention"])] == [1, 0, 1]
    with pytest.raises(ConfigError, match="a mention must be text, found"):
        linker.link(table)


def test_a_table_in_a_notebook():
    sure, unsure = (Candidate("C<1>", "Fever", "fièvre", 0.98765, confidence=p) for p in (0.5, None))
    results = Results([Result("a&b", (sure, unsure)), Result("", (), "the mention is empty")] * 30)
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
    assert "confidence" not in Results([Result("x", (unsure,))])._repr_html_()


# Which way names are searched


N = 3000


@pytest.fixture(scope="module")
def many():
    """An index of 3,000 names of 1,100 concepts with a graph, and 400 mentions, some of which are names."""
    pytest.importorskip("usearch")
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((N // 4, 24)), 4, axis=0) + 0.5 * rng.standard_normal((N, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = make_index(
        vectors, [{f"C{i // 3:04}", f"C{1000 + i % 100}"} if i % 7 == 0 else {f"C{i // 3:04}"} for i in range(N)]
    )
    queries = vectors[rng.choice(N, 400)] + 0.1 * rng.standard_normal((400, 24)).astype(np.float32)
    mentions = {f"name {7 * i}" if i % 10 == 0 else f"q{i}": query for i, query in enumerate(queries)}
    return replace(index, graph=HnswIndex.build(index.vectors)), mentions


@pytest.fixture
def on_cpu(monkeypatch):
    """As if the encoder were on an accelerator: the vectors' copy in 16 bits lies in this machine's own memory. Yields what was uploaded."""
    uploaded, upload = [], nearest_module.upload
    monkeypatch.setattr(linker_module, "search_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(nearest_module, "upload", lambda *given: uploaded.append(given) or upload(*given))
    return uploaded


def ids_of(results):
    return [[(c.concept_id, c.matched_name, c.score) for c in result.candidates] for result in results]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_with_a_graph_the_candidates_are_the_ranked_ones_of_what_it_finds(many, weight):
    index, mentions = many
    asked = {mention: vector for mention, vector in mentions.items() if mention.startswith("q")}
    found = Linker(TrimmedEmbedding(mentions), replace(index, fusion_weight=weight)).link(asked, 5)
    if weight == 0:
        queries = np.array(list(asked.values()), np.float32)
        ranked = rank_concepts(
            lambda part, k: index.graph.search(queries[part], k), index.dictionary.owners, len(queries), 5
        )
        concepts, names = index.concepts["concept_id"].to_pylist(), index.names["name"].to_pylist()
        expected = [
            [(concepts[c], names[row], score) for c, row, score in zip(*line, strict=True)]
            for line in zip(ranked.concepts.tolist(), ranked.rows.tolist(), ranked.scores.tolist(), strict=True)
        ]
        assert ids_of(found) == expected
    exactly = Linker(TrimmedEmbedding(mentions), replace(index, fusion_weight=weight, graph=None)).link(asked, 5)
    assert np.mean([a == b for a, b in zip(ids_of(found), ids_of(exactly), strict=True)]) > 0.9


def test_a_graph_is_asked_neither_where_there_is_a_filter_nor_for_very_many(many, monkeypatch):
    index, mentions = many
    widths, search = [], HnswIndex.search
    monkeypatch.setattr(HnswIndex, "search", lambda self, queries, k: widths.append(k) or search(self, queries, k))
    linker, exact = (
        Linker(TrimmedEmbedding(mentions), index),
        Linker(TrimmedEmbedding(mentions), replace(index, graph=None)),
    )
    wanted = Filter.of(sources=["T"], languages=["en"])
    assert linker.link(mentions, 5, filter=wanted) == exact.link(mentions, 5, filter=wanted)
    assert widths == []
    linker.link(mentions, 5)
    assert widths[0] == 20
    widths.clear()
    some = list(mentions)[:20]
    assert linker.link(some, WIDEST // 4 + 1) == exact.link(some, WIDEST // 4 + 1)
    assert widths == []
    linker.link(some, WIDEST // 4)
    assert max(widths) == WIDEST


def test_when_the_search_must_widen_beyond_the_graph_the_answer_is_exact(monkeypatch):
    pytest.importorskip("usearch")
    rng = np.random.default_rng(1)
    vectors = np.concatenate([[1, 0, 0] + 0.01 * rng.standard_normal((1500, 3)), rng.standard_normal((100, 3))]).astype(
        np.float32
    )
    index = make_index(vectors, [{"C0"}] * 1500 + [{f"C{i}"} for i in range(1, 101)])
    linker = Linker(TrimmedEmbedding({"q": [1.0, 0, 0]}), replace(index, graph=HnswIndex.build(index.vectors)))
    assert linker.link(["q"], 3)[0].candidates == plain_loop(
        vectors, [{"C0"}] * 1500 + [{f"C{i}"} for i in range(1, 101)], [1, 0, 0], 3
    )


def test_an_exact_name_comes_first_even_if_the_graph_misses_it(many, monkeypatch):
    index, mentions = many
    search = HnswIndex.search

    def blind(self, queries, k):
        scores, rows = search(self, queries, k + 40)
        missed = rows % 7 == 0  # all names that are mentions here, and others
        order = np.argsort(missed, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    exact = Linker(TrimmedEmbedding(mentions), replace(index, graph=None)).link([m for m in mentions if m[0] == "n"], 1)
    monkeypatch.setattr(HnswIndex, "search", blind)
    found = Linker(TrimmedEmbedding(mentions), index).link([m for m in mentions if m[0] == "n"], 1)
    assert [r.candidates[0].matched_name for r in found] == [r.mention for r in found]
    assert found == exact


def test_from_an_accelerator_answers_are_the_same_to_the_bit_and_vectors_go_there_once(many, on_cpu):
    index, mentions = many
    exact = replace(index, graph=None)
    wanted = Filter.of(sources=["T"])
    linker = Linker(TrimmedEmbedding(mentions), exact)
    assert on_cpu == []  # nothing is uploaded before it is needed
    found = [linker.link(mentions, 5), linker.link(mentions, 5, filter=wanted), linker.link(list(mentions)[:3], 2)]
    assert [(vectors, str(device)) for vectors, device in on_cpu] == [(index.vectors, "cpu")]
    plain = Linker(TrimmedEmbedding(mentions), exact)
    plain._searcher.device = None
    assert found == [plain.link(mentions, 5), plain.link(mentions, 5, filter=wanted), plain.link(list(mentions)[:3], 2)]
    assert len(on_cpu) == 1
    with_graph = Linker(TrimmedEmbedding(mentions), index)
    with_graph.link(list(mentions)[:5], 5)
    assert len(on_cpu) == 1  # a graph answers without them
    with_graph.link(list(mentions)[:5], 5, filter=wanted)
    assert len(on_cpu) == 2


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_where_the_vectors_do_not_fit_the_processor_searches(many, on_cpu, monkeypatch):
    index, mentions = replace(many[0], graph=None), many[1]
    expected = Linker(TrimmedEmbedding(mentions), index).link(mentions, 5)
    tries = []
    monkeypatch.setattr(nearest_module, "upload", lambda *given: tries.append(given) or out_of_memory())
    linker = Linker(TrimmedEmbedding(mentions), index)
    assert linker.link(mentions, 5) == expected
    assert linker.link(mentions, 5) == expected
    assert len(tries) == 1  # and isn't tried again
    monkeypatch.undo()


def test_where_a_search_or_a_mention_finds_no_room_beside_them_they_go(many, on_cpu, monkeypatch):
    index, mentions = replace(many[0], graph=None), many[1]
    expected = Linker(TrimmedEmbedding(mentions), index).link(mentions, 5)
    search, tried = nearest_module.search_vectors, []

    def crowded(*given, device_copy=None, **options):
        tried.append(device_copy is not None)
        return out_of_memory() if device_copy is not None else search(*given, **options)

    linker = Linker(TrimmedEmbedding(mentions), index)
    monkeypatch.setattr(nearest_module, "search_vectors", crowded)
    assert linker.link(mentions, 5) == expected
    assert tried[:2] == [True, False]
    assert tried.count(True) == 1
    monkeypatch.setattr(nearest_module, "search_vectors", search)

    class Crowded(TrimmedEmbedding):
        def encode(self, names, *, progress=False):
            return out_of_memory() if linker._searcher._device_copy is not None else super().encode(names)

    linker = Linker(TrimmedEmbedding(mentions), index)
    linker.link(list(mentions)[:2], 5)
    assert linker._searcher._device_copy is not None
    linker.encoder = Crowded(mentions)
    assert linker.link(mentions, 5) == expected
    assert linker._searcher._device_copy is None
    linker.encoder.encode = out_of_memory  # not for the vectors' sake: then it is said
    with pytest.raises(torch.OutOfMemoryError):
        linker.link(mentions, 5)


def test_only_an_encoder_on_cuda_takes_the_vectors_there():
    assert search_device(torch.nn.Linear(1, 1)) is None
    assert search_device(torch.nn.Identity()) is None
    assert search_device(TrimmedEmbedding({})) is None
    there = torch.nn.Linear(1, 1, device="meta")
    assert search_device(there) is None  # some other device: CUDA alone was measured
    there.parameters = lambda: iter([SimpleNamespace(device=torch.device("cuda", 1))])
    assert search_device(there) == torch.device("cuda", 1)


def test_many_threads_upload_once(many, on_cpu):
    index, mentions = many
    nearest, barrier = Searcher(index.vectors, None, torch.device("cpu")), Barrier(16)
    queries = np.array(list(mentions.values()), np.float32)[:16]

    def ask(i):
        barrier.wait()
        return nearest.search(queries[i : i + 1], 5)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert len(on_cpu) == 1
    expected = Searcher(index.vectors, None, None).search(queries, 5)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), expected[1])
    np.testing.assert_array_equal(np.concatenate([scores for scores, _ in found]), expected[0])


@pytest.mark.parametrize("way", ["exact", "approximate", "resident"])
def test_threads_get_the_answers_of_one_thread(many, way, request):
    if way == "resident":
        request.getfixturevalue("on_cpu")
    index, mentions = many
    linker = Linker(TrimmedEmbedding(mentions), index if way == "approximate" else replace(index, graph=None))
    kept = Filter.of(sources=["T"])
    alone, filtered = linker.link(mentions, 5), linker.link(mentions, 5, filter=kept)
    parts = [list(mentions)[i::16] for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        both = list(pool.map(lambda part: (linker.link(part, 5), linker.link(part, 5, filter=kept)), parts))
    for expected, which in ((alone, 0), (filtered, 1)):
        found = {result.mention: result for pair in both for result in pair[which]}
        assert [found[mention] for mention in mentions] == list(expected)
