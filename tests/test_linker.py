from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import ranking
from xsap.linking.contents import CONCEPTS_SCHEMA, NAMES_SCHEMA, Contents, Keys
from xsap.linking.filters import Filter
from xsap.linking.index import Index, Model
from xsap.linking.linker import Linker
from xsap.linking.ranking import Owners
from xsap.linking.results import Candidate
from xsap.linking.vectors import Vectors
from xsap.text import TextPolicy


class Table:
    """Vectors by name, out of a table; counts what it was asked."""

    content, pooling, max_length, policy = "a" * 64, "cls", 25, TextPolicy()

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def encode(self, names, *, progress=False):
        self.asked += names
        return np.array([self.vectors[name] for name in names], np.float32)


def make_index(vectors, owners):
    """vectors: (n, d). owners: the concepts of each row. Row i is called `name i`, concept C `concept C`."""
    ids = sorted({concept for row in owners for concept in row})
    rows = [{"name": f"name {i}", "language": "en", "source": "T", "languages": ["en"], "sources": ["T"]} for i in range(len(owners))]
    named = [{"concept_id": c, "preferred_name": f"concept {c}", "semantic_types": ["T047"], "codes": [f"T:{c}"]} for c in ids]
    names, concepts = pa.Table.from_pylist(rows, NAMES_SCHEMA), pa.Table.from_pylist(named, CONCEPTS_SCHEMA)
    lists = pa.array([sorted(row) for row in owners], pa.list_(pa.string()))
    contents = Contents(names, concepts, Owners.of(lists, concepts["concept_id"].combine_chunks()), Keys.of(names["name"]), {})
    model = Model(Table.content, None, Table.pooling, Table.max_length, Table.policy)
    return Index(Vectors.of(np.asarray(vectors, np.float32)), contents, model)


def plain_loop(vectors, owners, query, top_k):
    """Each concept's best name, in float64; higher score, then lower id, and within a concept the lower row."""
    best = {}
    for row, (vector, concepts) in enumerate(zip(vectors, owners, strict=True)):
        score = float(np.dot(np.asarray(vector, np.float64), query))
        for concept in concepts:
            if concept not in best or score > best[concept][0]:
                best[concept] = score, row
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:top_k]
    return tuple(Candidate(c, f"concept {c}", f"name {row}", score, "en", "T", ("T047",), (f"T:{c}",)) for c, (score, row) in ranked)


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
    linker = Linker(Table({f"q{i}": query for i, query in enumerate(queries)}), make_index(vectors, owners))
    for i, result in enumerate(linker.link([f"q{i}" for i in range(4)], top_k)):
        assert result.candidates == plain_loop(vectors, owners, queries[i], top_k)
        assert result.reason is None


def test_the_search_widens_in_parts_until_there_are_enough_concepts(monkeypatch):
    monkeypatch.setattr(ranking, "_FETCHED", 64)
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile([5, 0], (200, 1)), rng.integers(-2, 3, (30, 2))])
    owners = [{"C00"}] * 200 + [{f"C{i:02}"} for i in range(30)]
    queries = {f"q{i}": np.array([1, i % 3]) for i in range(9)}
    linker = Linker(Table(queries), make_index(vectors, owners))
    for result in linker.link(queries, 3):
        assert result.candidates == plain_loop(vectors, owners, queries[result.mention], 3)


def test_a_tie_beyond_the_names_first_fetched_goes_to_the_lower_id():
    owners = [{"C9"}] * 50 + [{"C8"}] * 50 + [{"C1"}]
    linker = Linker(Table({"q": [1.0]}), make_index(np.ones((101, 1)), owners))
    assert [c.concept_id for c in linker.link(["q"], 2)[0].candidates] == ["C1", "C8"]
    assert linker.link(["q"], 1)[0].candidates[0].matched_name == "name 100"


def test_order_is_the_input_s_and_equal_mentions_are_encoded_once():
    encoder = Table({"x": [1.0, 0.0], "y": [0.0, 1.0]})
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
    encoder = Table({})
    (result,) = Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}])).link([mention])
    assert (result.candidates, result.reason, result.mention) == ((), reason, mention or "")
    assert not encoder.asked


def test_the_longest_term_is_linked():
    term = "x" * 2000
    assert Linker(Table({term: [1.0]}), make_index([[1.0]], [{"A"}])).link([term])[0].candidates


def test_wrong_use_is_one_line():
    linker = Linker(Table({}), make_index(np.eye(2), [{"A"}, {"B"}]))
    assert linker.link([]) == []
    for arguments, message in [
        (("fiebre alta",), r"^link takes a list of mentions, found the single string 'fiebre alta'; put it into a list$"),
        ((["x"], 0), "top_k must be at least 1, found 0"),
        (([3.5],), r"a mention must be text, found 3.5 \(float\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            linker.link(*arguments)


@pytest.mark.parametrize("change", [{"content": "b" * 64}, {"pooling": "mean"}, {"max_length": 24}, {"policy": TextPolicy("lower")}])
def test_another_model_or_use_of_it_is_refused(change):
    encoder = Table({})
    for name, value in change.items():
        setattr(encoder, name, value)
    with pytest.raises(ArtifactError, match=r"^the index was built with model aaaaaaaa… .*, not with .*\. Build it again$"):
        Linker(encoder, make_index(np.eye(2), [{"A"}, {"B"}]))


def test_a_name_of_a_concept_that_is_not_listed_is_refused():
    with pytest.raises(ArtifactError, match="damaged"):
        Owners.of(pa.array([["A"], ["B"]]), pa.array(["B"]))


def test_a_mention_that_is_a_name_letter_for_letter_means_its_concepts():
    """`NAME 2` is farthest from its query, and first all the same; its score stays the cosine."""
    owners = [{"A"}, {"B"}, {"D", "C"}]
    linker = Linker(Table({"NAME 2": [1.0, 0.0], "other": [1.0, 0.0]}), make_index([[1, 0], [0.6, 0.8], [0, 1]], owners))
    exact, other = linker.link(["NAME 2", "other"], 4)
    assert [(c.concept_id, c.score) for c in exact.candidates] == [("C", 0), ("D", 0), ("A", 1), ("B", pytest.approx(0.6))]
    assert [c.concept_id for c in other.candidates] == ["A", "B", "C", "D"]
    assert [c.concept_id for c in linker.link(["NAME 2"], 1)[0].candidates] == ["C"]


def test_a_filter_is_exact_over_what_it_keeps():
    index = make_index(np.eye(3), [{"A"}, {"B", "A"}, {"C"}])
    linker = Linker(Table({"q": [0.5, 0.4, 0.3], "name 0": [0.5, 0.4, 0.3]}), index)
    types = pa.array([["T047"], ["T184"], ["T121"]])
    table = index.concepts.set_column(2, CONCEPTS_SCHEMA.field(2), types)
    linker.index = replace(index, contents=replace(index.contents, concepts=table))

    def ids(mention, **wanted):
        return [c.concept_id for c in linker.link([mention], 5, keep=Filter.of(**wanted))[0].candidates]

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
    linker = Linker(Table({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    assert linker.link(["q", "q"], languages=["de", None])[1].candidates[0].concept_id == "A"
    with pytest.raises(ConfigError, match="expected a language for each mention, found 1 for 2"):
        linker.link(["q", "q"], languages=["de"])


def test_columns_of_pandas_and_what_they_have_for_nothing():
    pandas = pytest.importorskip("pandas")
    linker = Linker(Table({"q": [1.0]}), make_index([[1.0]], [{"A"}]))
    results = linker.link(pandas.Series(["q", None, float("nan"), pandas.NA]))
    assert [r.reason for r in results] == [None, *["the mention is empty"] * 3]
    frame = results.to_pandas()
    assert frame["concept_id"].tolist()[:1] == ["A"]
    assert (len(frame), frame["reason"].notna().sum()) == (4, 3)
    assert "<td>A</td>" in results._repr_html_()


def test_threads_get_the_answers_of_one_thread():
    rng = np.random.default_rng(0)
    queries = {f"q{i}": rng.normal(size=8) for i in range(400)}
    linker = Linker(Table(queries), make_index(rng.normal(size=(300, 8)), [{f"C{i % 90}"} for i in range(300)]))
    alone = linker.link(queries, 5)
    parts = [list(queries)[i::16] for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = {result.mention: result for results in pool.map(lambda part: linker.link(part, 5), parts) for result in results}
    assert [found[mention] for mention in queries] == list(alone)
